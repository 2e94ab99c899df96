//! Every kernel against the CPU reference of its operator, on whatever Vulkan devices are here: as they are, and as if
//! they had no optional feature at all.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]
#![allow(missing_docs, reason = "no interface of others")]

mod attention;
#[path = "../common/child.rs"]
mod child;
mod elementwise;
mod integers;
mod loops;
mod maths;
mod matmul;
mod matrices;
#[path = "../common/module.rs"]
mod module;
mod movement;
mod rows;
mod windows;

use nyxc::ir::packed::{Coding, Granularity, Packing, pack_with_zeros};
use nyxc::ir::{Attrs, DType, Dim, Expr, Graph, Level, Op, OpDef, Shape, Tensor, TensorType, ValueId};
use nyxc::kernels::variant::Variant;
use nyxc::kernels::{self, KernelError, Way};
use nyxc::ops::core::quantize_packed;
use nyxc::program::*;
use nyxc::runtime::{Executor, Options, VkContext, devices, validation_errors};
use nyxc::targets::{Features, Target};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::Write as _;
use std::rc::Rc;

const NO_FEATURES: Features = Features {
    f16_arithmetic: false,
    int8_arithmetic: false,
    storage_16bit: false,
    storage_8bit: false,
    integer_dot_product: false,
    integer_dot_product_accelerated: false,
    cooperative_matrix: false,
    matrix_shapes: Vec::new(),
    subgroup_arithmetic: false,
};

/// A device, and the targets that kernels are compiled for on it.
pub struct Bench {
    context: VkContext,
    targets: Vec<Target>,
    /// What was wrong so far.
    faults: Rc<RefCell<Vec<String>>>,
}

impl Bench {
    /// The same for one other target.
    pub fn with(&self, target: Target) -> Bench {
        Bench { context: self.context.clone(), targets: vec![target], faults: self.faults.clone() }
    }
}

impl Bench {
    /// The same, and the device's own target as if its subgroups were wide: rows are then held by several of them.
    pub fn with_wide(&self) -> Bench {
        let mut target = Target { name: "wide".to_owned(), ..self.targets[0].clone() };
        target.limits.subgroup_size = target.limits.subgroup_size.max(32);
        Bench { targets: [&self.targets[..], &[target]].concat(), ..self.with(self.targets[0].clone()) }
    }
}

/// Runs `test` on every device; fails with all that was wrong there.
pub fn on_devices(test: impl Fn(&Bench)) {
    let found = devices().unwrap_or_default();
    if found.is_empty() {
        // Straight to the terminal: the test harness swallows `eprintln!`.
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
    }
    for info in found {
        // Layers older than a driver's extensions see errors where there are none: `NYXC_VALIDATION=0` leaves them out.
        let validation = std::env::var("NYXC_VALIDATION").as_deref() != Ok("0");
        let options = Options { validation, cache_dir: None, fault: None, ..Options::from_env() };
        let context = VkContext::open(info.index, &info.target.features, &options).unwrap();
        let plain = Target { name: "plain".to_owned(), features: NO_FEATURES, ..info.target.clone() };
        let bench = Bench { context, targets: vec![info.target.clone(), plain], faults: Rc::default() };
        test(&bench);
        let faults = bench.faults.take();
        assert!(faults.is_empty(), "on {}, {} faults:\n{}", info.name, faults.len(), faults.join("\n"));
        // Layers may say what they found as late as at the end of the device.
        drop(bench);
        assert_eq!(validation_errors(), 0, "on {}", info.name);
    }
}

/// Numbers from -1 to 1, the same in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn unit(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn floats(&mut self, dtype: DType, dims: &[usize]) -> Tensor {
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| self.unit()).collect();
        Tensor::from_f32s(dtype, dims, &values).unwrap()
    }

    /// Integers from `low` to `high`, both included.
    pub fn ints(&mut self, dtype: DType, dims: &[usize], low: i64, high: i64) -> Tensor {
        let mut one = || low + ((self.unit() * 0.5 + 0.5) * (high - low + 1) as f32) as i64;
        let values: Vec<i64> = (0..dims.iter().product()).map(|_| one().min(high)).collect();
        Tensor::from_i64s(dtype, dims, &values).unwrap()
    }

    /// Random codes and scales; the last of `dims` is the reduction axis.
    pub fn packed(&mut self, packing: Packing, dims: &[usize]) -> Tensor {
        let cols = *dims.last().unwrap();
        let rows = dims.iter().product::<usize>() / cols;
        let most = packing.coding.largest().min(127.0);
        let all: Vec<i8> = (-127..=127).filter(|code| packing.coding.has(*code)).collect();
        let mut code = || all[(((self.unit() * 0.5 + 0.5) * all.len() as f32) as usize).min(all.len() - 1)];
        let codes: Vec<i8> = (0..rows * cols).map(|_| code()).collect();
        let n_scales = packing.n_scales(rows as u64, cols as u64).unwrap();
        let scales: Vec<f32> =
            (0..n_scales).map(|_| packing.scale.storable(self.unit() / most, packing.coding)).collect();
        let ty = TensorType { dtype: packing.codes(), shape: Shape::of(dims), packing: Some(packing) };
        let n_zeros = if packing.scale.has_zeros() { n_scales } else { 0 };
        let zeros: Vec<i16> = (0..n_zeros).map(|_| (self.unit() * most) as i16).collect();
        Tensor::from_bytes(ty, pack_with_zeros(packing, rows, cols, &codes, &scales, &zeros).unwrap()).unwrap()
    }
}

/// A node, its operands, and where the test is special what else matters.
pub struct Case {
    pub def: &'static OpDef,
    pub attrs: Attrs,
    pub operands: Vec<Option<Tensor>>,
    /// The variant of the kernel, where it is not the planner's choice.
    pub variant: Option<Variant>,
    /// Whether the first operand becomes INT8 codes with one scale as it is loaded.
    pub on_load: bool,
    /// Whether the magnitude of the result is noted.
    pub notes: bool,
}

impl Case {
    pub fn new(def: &'static OpDef, attrs: Attrs, operands: &[&Tensor]) -> Case {
        Case {
            def,
            attrs,
            operands: operands.iter().map(|t| Some((*t).clone())).collect(),
            variant: None,
            on_load: false,
            notes: false,
        }
    }

    /// The same with an epilogue and its operands.
    pub fn then(mut self, epilogue: &str, extra: &[&Tensor]) -> Case {
        self.attrs = self.attrs.with_expr("epilogue", Expr::parse(epilogue).unwrap());
        self.operands.extend(extra.iter().map(|t| Some((*t).clone())));
        self
    }

    /// The same by this variant of the kernel.
    pub fn by(mut self, variant: &str) -> Case {
        self.variant = Some(variant.parse().unwrap());
        self
    }

    /// The same of codes that are made of the first operand as it is loaded.
    pub fn on_load(self) -> Case {
        Case { on_load: true, ..self }
    }

    /// The same, and the largest magnitude of the result.
    pub fn noting(self) -> Case {
        Case { notes: true, ..self }
    }

    /// The operands of the graph that [`graph_of`] makes: those of the node, and the magnitude that codes are made by.
    fn given(&self) -> Vec<Option<Tensor>> {
        let magnitude = self.on_load.then(|| magnitude(self.operands[0].as_ref().unwrap()));
        self.operands.iter().cloned().chain(magnitude.map(Some)).collect()
    }

    /// The same with the result stored as `dtype`.
    pub fn stored(mut self, dtype: DType) -> Case {
        self.attrs = self.attrs.with_dtype("dtype", dtype);
        self
    }

    /// Runs it for every target and compares with the reference; relative L2 of at most 1e-5, 2e-3 where the result is
    /// f16 or packed weights are multiplied as f16.
    pub fn check(&self, bench: &Bench) {
        let mut inputs: Vec<Option<&Tensor>> = self.operands.iter().map(Option::as_ref).collect();
        let codes = inputs.first().copied().flatten().filter(|_| self.on_load).map(|x| {
            let attrs = quantize_packed::attrs(Granularity::Tensor);
            quantize_packed::DEF.eval.unwrap()(&attrs, &[Some(x)]).unwrap().remove(0)
        });
        if codes.is_some() {
            inputs[0] = codes.as_ref();
        }
        let wanted = self.def.eval.unwrap()(&self.attrs, &inputs).unwrap().remove(0);
        for target in &bench.targets {
            let (given, names) = match run(&bench.context, target, self) {
                Ok(done) => done,
                // Passes ask before they fuse so many operands; here, the case is not for this device.
                Err(KernelError::Unsupported { what, .. }) if what.contains("storage buffers where the target has") => {
                    let line = format!("SKIPPED on {}: {} needs {what}\n", target.name, self.describe());
                    let _ = std::io::stderr().write_all(line.as_bytes());
                    continue;
                }
                Err(e) => panic!("{}: {e}", self.describe()),
            };
            let is_packed = inputs.iter().flatten().any(|t| t.ty().packing.is_some());
            let named = |part: &str| names.iter().any(|name| name.contains(part));
            // On cooperative matrices an attention's weights are f16.
            let is_half = wanted.dtype() == DType::F16
                || (is_packed && names.iter().any(|name| multiplies_f16(name)))
                || named("attention_mma");
            if let Err(fault) = compare(&given, &wanted, if is_half { 2e-3 } else { 1e-5 }) {
                bench.faults.borrow_mut().push(format!(
                    "{} on {}: {}: {fault}",
                    self.describe(),
                    target.name,
                    names.join(", ")
                ));
            }
        }
    }

    pub fn describe(&self) -> String {
        let operands: Vec<String> =
            self.operands.iter().map(|t| t.as_ref().map_or("none".to_owned(), |t| t.ty().to_string())).collect();
        let attrs: Vec<String> = self.attrs.0.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{}({}) {{{}}}", self.def.name, operands.join(", "), attrs.join(", "))
    }
}

/// The magnitude of a tensor.
fn magnitude(x: &Tensor) -> Tensor {
    quantize_packed::MAGNITUDE.eval.unwrap()(&Attrs::new(), &[Some(x)]).unwrap().remove(0)
}

/// Whether a kernel rounds packed weights to f16.
fn multiplies_f16(name: &str) -> bool {
    name.contains("_half") || name.starts_with("matmul_mma_f16_q") || name.starts_with("conv_mma_f16_q")
}

/// Relative L2 over what is finite, at most `bound`; infinities and NaN must agree.
fn compare(given: &Tensor, wanted: &Tensor, bound: f64) -> Result<(), String> {
    if given.ty() != wanted.ty() {
        return Err(format!("{} instead of {}", given.ty(), wanted.ty()));
    }
    if wanted.ty().packing.is_some() || !wanted.dtype().is_float() {
        let (given, wanted) = (given.bytes().unwrap(), wanted.bytes().unwrap());
        let wrong: Vec<usize> = (0..wanted.len()).filter(|&i| given[i] != wanted[i]).collect();
        let Some(&first) = wrong.first() else { return Ok(()) };
        return Err(format!(
            "{} of {} bytes differ, byte {first} is {}, not {}",
            wrong.len(),
            wanted.len(),
            given[first],
            wanted[first]
        ));
    }
    let (given, values) = (given.to_f32s().unwrap(), wanted.to_f32s().unwrap());
    let (mut error, mut norm) = (0.0f64, 0.0f64);
    for (i, (&g, &w)) in given.iter().zip(values.iter()).enumerate() {
        if !w.is_finite() || !g.is_finite() {
            if g == w || (g.is_nan() && w.is_nan()) {
                continue;
            }
            return Err(format!("element {i} is {g}, not {w}"));
        }
        error += f64::from(g - w).powi(2);
        norm += f64::from(w).powi(2);
    }
    let relative = (error / norm.max(1e-30)).sqrt();
    if relative > bound {
        let most = (0..values.len())
            .max_by(|&a, &b| (given[a] - values[a]).abs().total_cmp(&(given[b] - values[b]).abs()))
            .unwrap_or(0);
        return Err(format!(
            "relative error {relative:e}, most in element {most}: {} for {}",
            given[most], values[most]
        ));
    }
    Ok(())
}

/// Everything of one allocation, region by region.
#[derive(Default)]
struct Arena {
    bytes: u64,
}

impl Arena {
    fn place(&mut self, allocation: u32, bytes: u64, alignment: u64) -> Region {
        let offset = self.bytes.next_multiple_of(alignment);
        self.bytes = offset + bytes;
        Region { allocation, offset, bytes }
    }
}

fn graph_of(case: &Case) -> (Graph, nyxc::ir::NodeId, Vec<Option<ValueId>>) {
    let mut graph = Graph::new("case", Level::Kernel);
    let mut values: Vec<Option<ValueId>> = case
        .given()
        .iter()
        .enumerate()
        .map(|(i, t)| {
            t.as_ref().map(|t| {
                if t.ty().packing.is_some() {
                    graph.add_const(&format!("c{i}"), t.clone())
                } else {
                    graph.add_input(&format!("x{i}"), t.ty().clone())
                }
            })
        })
        .collect();
    let given = values.clone();
    if case.on_load {
        let attrs = quantize_packed::attrs(Granularity::Tensor).with_int("on_load", 1);
        let op = Op::new(&quantize_packed::DEF, attrs);
        let magnitude = values.pop().unwrap();
        let codes = graph.add_op("codes", op, &[values[0], magnitude], &["q".to_owned()]).unwrap();
        values[0] = Some(codes.out(0));
    }
    let node = graph.add_op("node", Op::new(case.def, case.attrs.clone()), &values, &["y".to_owned()]).unwrap();
    if case.notes {
        let op = Op::new(&quantize_packed::MAGNITUDE, Attrs::new());
        graph.add_op("magnitude", op, &[Some(node.out(0))], &["most".to_owned()]).unwrap();
    }
    let values = given;
    (graph, node, values)
}

/// What a target's kernels for a case are.
pub fn plan(case: &Case, target: &Target) -> Result<Vec<kernels::KernelCall>, KernelError> {
    let (graph, node, _) = graph_of(case);
    kernels::dispatches_by(&graph, node, target, case.variant.map(Way::Variant))
}

/// Every variant that a target has for a case.
pub fn variants(case: &Case, target: &Target) -> Vec<Variant> {
    let (graph, node, _) = graph_of(case);
    let all = kernels::candidates(&graph, node, target).unwrap().into_iter();
    let mut found = Vec::new();
    for way in all.map(|candidate| candidate.way) {
        if let Way::Variant(variant) = way
            && !found.contains(&variant)
        {
            found.push(variant);
        }
    }
    found
}

/// Checks a case by every variant that the device has for it; on a CPU, which takes long to compile some, by one in
/// `step`.
pub fn by_candidates(case: impl Fn() -> Case, bench: &Bench, first: usize, step: usize) {
    let target = bench.targets[0].clone();
    let step = if target.limits.subgroup_size <= 8 { step } else { 1 };
    for variant in variants(&case(), &target).into_iter().skip(first % step).step_by(step) {
        Case { variant: Some(variant), ..case() }.check(&bench.with(target.clone()));
    }
}

/// Runs a case; gives the result and the names of the kernels.
pub fn run(context: &VkContext, target: &Target, case: &Case) -> Result<(Tensor, Vec<String>), KernelError> {
    Ok(run_calls(context, target, case, &plan(case, target)?))
}

/// Runs a case by these calls.
pub fn run_calls(
    context: &VkContext,
    target: &Target,
    case: &Case,
    calls: &[kernels::KernelCall],
) -> (Tensor, Vec<String>) {
    let (graph, node, values) = graph_of(case);
    let (mut weights, mut arena, mut params) = (Arena { bytes: 256 }, Arena::default(), Arena { bytes: 256 });
    let mut places: BTreeMap<ValueId, Region> = BTreeMap::new();
    let (mut entry, mut uploads) = (Entry { name: "main".to_owned(), ..Entry::default() }, Vec::new());
    let mut program = Program {
        model: "case".to_owned(),
        target: context.info().target.clone(),
        plans: vec![],
        constants: Default::default(),
        shaders: Default::default(),
    };
    let mut inputs = Vec::new();
    let port = |name: &str, ty: &TensorType, region: Region| {
        let device_dtype = ty.dtype.on_device().unwrap();
        Port { name: name.to_owned(), dtype: ty.dtype, device_dtype, shape: ty.shape.0.clone(), region }
    };
    for (value, tensor) in values.iter().zip(&case.given()) {
        let (Some(value), Some(tensor)) = (value, tensor) else { continue };
        let bytes = kernels::device_bytes(tensor.ty()).unwrap();
        if tensor.ty().packing.is_some() {
            let region = weights.place(0, bytes, target.alignment());
            uploads.push(Upload { constant: hex(tensor.hash()), region });
            program.constants.insert(tensor.hash(), tensor.clone());
            places.insert(*value, region);
        } else {
            let region = arena.place(1, bytes, target.alignment());
            entry.inputs.push(port(&graph.value(*value).name, tensor.ty(), region));
            inputs.push(tensor.clone());
            places.insert(*value, region);
        }
    }
    let result = graph.ty(node.out(0)).clone();
    let bytes = kernels::device_bytes(&result).unwrap();
    let region = arena.place(1, bytes, target.alignment());
    places.insert(node.out(0), region);
    let words = TensorType::new(DType::I32, Shape(vec![Dim::Known((bytes / 4) as i64)]));
    entry.outputs.push(port("y", if result.packing.is_some() { &words } else { &result }, region));
    let noted = graph.users(node.out(0)).first().map(|(user, _)| user.out(0));
    if let Some(most) = noted {
        let region = arena.place(1, 4, target.alignment());
        places.insert(most, region);
        entry.outputs.push(port("most", graph.ty(most), region));
    }
    let word = |value| kernels::Operand { value, offset_bytes: 0, bytes: 4, write: true };
    // As a plan does before all others.
    let is_magnitude = std::ptr::eq(case.def, &quantize_packed::MAGNITUDE);
    let clear = noted
        .or(is_magnitude.then(|| node.out(0)))
        .map(|most| kernels::KernelCall { operands: vec![word(most)], ..kernels::clear(1) });
    let mut dispatches = Vec::new();
    let mut names = Vec::new();
    for call in clear.iter().chain(calls) {
        let shader = nyxc::codegen::compile(&call.key, target).unwrap_or_else(|e| panic!("{e}"));
        names.push(shader.name.clone());
        let module = module::Module::read(&shader.spirv);
        assert_eq!(module.faults(target), Vec::<String>::new(), "{} on {}", shader.name, target.name);
        // What was not unrolled was counted; an epilogue's loops may be there once for each element that is put.
        let own = call.loops.iter().filter(|l| !l.in_epilogue).count();
        assert!(
            module.loops <= own || call.loops.len() > own,
            "{}: {} loops, of which {:?} are counted",
            shader.name,
            module.loops,
            call.loops
        );
        let mut bindings: Vec<Region> = call
            .operands
            .iter()
            .map(|o| {
                let place = places[&o.value];
                assert!(
                    o.offset_bytes + o.bytes <= place.bytes && o.offset_bytes % target.alignment() == 0,
                    "{o:?} of {place:?}"
                );
                Region { offset: place.offset + o.offset_bytes, bytes: o.bytes, ..place }
            })
            .collect();
        let mut writes: Vec<u32> =
            call.operands.iter().enumerate().filter(|(_, o)| o.write).map(|(i, _)| i as u32).collect();
        let check = call.check.as_ref().map(|rule| {
            let binding = bindings.len() as u32;
            bindings.push(arena.place(1, FAULT_BYTES, target.alignment()));
            writes.push(binding);
            IndexCheck { binding, node: "node".to_owned(), sizes: rule.sizes.clone(), negative: rule.negative }
        });
        assert!(
            module.written.iter().eq(&writes),
            "{} writes {:?}, the plan says {writes:?}",
            shader.name,
            module.written
        );
        let params_offset = params.place(2, call.params.len() as u64 * 4, 256).offset;
        let shader_hash = shader.hash();
        program.shaders.insert(shader_hash.clone(), shader);
        let (node, barrier) = ("node".to_owned(), !dispatches.is_empty());
        dispatches.push(Dispatch {
            node,
            shader: shader_hash,
            bindings,
            writes,
            params: call.params.clone(),
            params_offset,
            groups: call.groups.clone(),
            loop_iterations: call.loop_iterations(),
            barrier,
            check,
            stripe: call.stripe.clone(),
        });
    }
    entry.steps.push(Step::Device(dispatches));
    let mut allocations: Vec<Allocation> =
        [(AllocationKind::Weights, weights), (AllocationKind::Arena, arena), (AllocationKind::Params, params)]
            .map(|(kind, arena)| Allocation { kind, bytes: arena.bytes.next_multiple_of(4096) })
            .to_vec();
    let unified = program.target.memory.unified;
    let peak = allocations.iter().map(|a| a.bytes).sum();
    if !unified {
        allocations.push(Allocation { kind: AllocationKind::Staging, bytes: 1 << 20 });
    }
    program.plans.push(Plan {
        policy: "budget".to_owned(),
        budget_bytes: peak,
        reserve_bytes: 0,
        planned_peak_bytes: peak,
        ledger: Ledger { activations: peak, ..Ledger::default() },
        lower_bound_bytes: 0,
        min_feasible_bytes: 0,
        f32_bytes: 0,
        certificate: Certificate::default(),
        nodes: vec![],
        graph: String::new(),
        allocations,
        uploads,
        states: vec![],
        entries: vec![entry],
    });
    let mut executor = Executor::load(&program, 0, context).unwrap_or_else(|e| panic!("{}: {e}", case.describe()));
    let mut outputs = executor.run(&inputs).unwrap_or_else(|e| panic!("{}: {e}", case.describe())).outputs;
    let output = outputs.remove(0);
    if clear.is_some() {
        names.remove(0);
    }
    if let Some(most) = outputs.pop() {
        let is_noted = calls.iter().all(|call| call.key.flag(kernels::key::Flag::Notes) == 1);
        assert!(is_noted, "{}: {names:?} note no magnitude", case.describe());
        let wanted = magnitude(&output);
        assert_eq!(most.bytes().unwrap(), wanted.bytes().unwrap(), "{}: what {names:?} note", case.describe());
    }
    drop(executor);
    if calls.iter().any(|call| call.stripe.is_some()) {
        writes_what_it_says(context, &program, &inputs, port("y", &words, region), &result);
    }
    let output = if result.packing.is_some() {
        Tensor::from_bytes(result, output.bytes().unwrap().to_vec()).unwrap()
    } else {
        output
    };
    (output, names)
}

/// Runs each dispatch by itself over a result of a pattern: what changes are the elements of its stripe, all of them
/// and no others, and no two stripes have one in common.
fn writes_what_it_says(context: &VkContext, program: &Program, inputs: &[Tensor], words: Port, result: &TensorType) {
    const PATTERN: u8 = 0x5b;
    let Step::Device(dispatches) = &program.plans[0].entries[0].steps[0] else { panic!("all run on the device") };
    let n = result.shape.n_elems().unwrap() as usize;
    let size = result.dtype.on_device().unwrap().bits() as usize / 8;
    let poison = vec![PATTERN; words.region.bytes as usize];
    let poison = Tensor::from_bytes(TensorType::new(DType::I32, Shape(words.shape.clone())), poison).unwrap();
    let mut writer: Vec<Option<usize>> = vec![None; n];
    for (i, dispatch) in dispatches.iter().enumerate() {
        let mut program = program.clone();
        let entry = &mut program.plans[0].entries[0];
        entry.inputs.push(words.clone());
        entry.outputs = vec![words.clone()];
        entry.steps = vec![Step::Device(vec![dispatch.clone()])];
        let given: Vec<Tensor> = inputs.iter().cloned().chain([poison.clone()]).collect();
        let output = Executor::load(&program, 0, context).unwrap().run(&given).unwrap().outputs.remove(0);
        let stripe = dispatch.stripe.as_ref().unwrap_or_else(|| panic!("dispatch {i} says nothing of what it writes"));
        let number = |dim: &Dim| dim.known().unwrap() as usize;
        let (pitch, first, width) = (number(&stripe.pitch), number(&stripe.first), number(&stripe.width));
        for (element, bytes) in output.bytes().unwrap().chunks(size).take(n).enumerate() {
            let is_written = bytes.iter().any(|b| *b != PATTERN);
            let is_own = (first..first + width).contains(&(element % pitch));
            assert_eq!(is_written, is_own, "dispatch {i}, element {element} of {result}, {stripe:?}");
            if is_written {
                assert_eq!(writer[element].replace(i), None, "element {element} is written twice");
            }
        }
    }
    assert!(writer.iter().all(Option::is_some), "an element that nobody writes");
}

/// Some kernels again in a child process, on the same devices as if they had no more than every Vulkan device has.
/// `scripts/device_matrix.sh` runs all, under more masks, and sets `NYXC_MASK` for that.
#[test]
fn kernels_run_on_a_device_masked_to_the_least_that_vulkan_allows() {
    if std::env::var_os("NYXC_MASK").is_some() {
        return;
    }
    let output = child::itself()
        .args(["matmul::packed_weights", "matmul::epilogues", "rows::", "--test-threads=2"])
        .env("NYXC_MASK", "vulkan-min")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.matches("... ok").count() > 5, "{text}");
}

/// The packings that integer products read.
pub fn packings_without_zeros() -> Vec<Packing> {
    packings().into_iter().filter(|packing| !packing.scale.has_zeros()).collect()
}

/// The formats that weights are packed in.
pub fn packings() -> Vec<Packing> {
    use nyxc::ir::packed::{Coding, Granularity::*, ScaleType::*};
    let all = [
        (Coding::I4, Block(32), F16),
        (Coding::I4, Block(16), F32),
        (Coding::I4, Row, F16),
        (Coding::I8, Block(64), F16),
        (Coding::I8, Row, F32),
        (Coding::I8, Tensor, F16),
        (Coding::I4, Block(256), F16),
        (Coding::N4, Block(32), F16),
        (Coding::I5, Block(64), F16),
        (Coding::I6, Block(32), F16),
        (Coding::N4, Row, F32),
        (Coding::I5, Tensor, F16),
        (Coding::I6, Block(16), F32),
    ];
    let with_zeros = [
        (Coding::I4, Block(32), F16Zero),
        (Coding::I4, Block(16), F32Zero),
        (Coding::I8, Row, F32Zero),
        (Coding::I8, Block(64), F16Zero),
        (Coding::I8, Tensor, F16Zero),
        (Coding::I6, Block(32), F16Zero),
        (Coding::N4, Block(128), F32Zero),
    ];
    let all = [&all[..], &with_zeros].concat();
    all.into_iter().map(|(coding, granularity, scale)| Packing { coding, granularity, scale }).collect()
}
