//! A case as a program of its own, run on a device.

use super::case::{Case, graph_of, magnitude, plan};
use super::module::Module;
use nyxc::ir::{DType, Dim, Graph, NodeId, Shape, Tensor, TensorType, ValueId};
use nyxc::kernels::key::Flag;
use nyxc::kernels::{self, KernelCall, KernelError};
use nyxc::ops::core::quantize_packed;
use nyxc::program::*;
use nyxc::runtime::{Executor, VkContext};
use nyxc::targets::Target;
use std::collections::BTreeMap;

/// Runs a case; gives the result and the names of the kernels.
///
/// # Errors
/// No kernel computes the case on the target.
pub fn run(context: &VkContext, target: &Target, case: &Case) -> Result<(Tensor, Vec<String>), KernelError> {
    Ok(run_calls(context, target, case, &plan(case, target)?))
}

/// Runs a case by these calls; gives the result and the names of the kernels.
pub fn run_calls(context: &VkContext, target: &Target, case: &Case, calls: &[KernelCall]) -> (Tensor, Vec<String>) {
    let mut made = Made::of(context, target, case);
    let result = made.graph.ty(made.node.out(0)).clone();
    // As a plan does before all others.
    let word = |value| kernels::Operand { value, offset_bytes: 0, bytes: 4, write: true };
    let is_magnitude = std::ptr::eq(case.def, &quantize_packed::MAGNITUDE);
    let clear = made
        .noted()
        .or(is_magnitude.then(|| made.node.out(0)))
        .map(|most| KernelCall { operands: vec![word(most)], ..kernels::clear(1) });
    let dispatches: Vec<(Dispatch, String)> = clear.iter().chain(calls).map(|call| made.dispatch(call)).collect();
    let (mut dispatches, names): (Vec<Dispatch>, Vec<String>) = dispatches.into_iter().unzip();
    dispatches.iter_mut().skip(1).for_each(|dispatch| dispatch.barrier = true);
    let names = names[usize::from(clear.is_some())..].to_vec();
    let (program, inputs) = made.finish(dispatches);
    let mut executor = Executor::load(&program, 0, context).unwrap_or_else(|e| panic!("{}: {e}", case.describe()));
    let mut outputs = executor.run(&inputs).unwrap_or_else(|e| panic!("{}: {e}", case.describe())).outputs;
    let output = outputs.remove(0);
    if let Some(most) = outputs.pop() {
        let is_noted = calls.iter().all(|call| call.key.flag(Flag::Notes) == 1);
        assert!(is_noted, "{}: {names:?} note no magnitude", case.describe());
        let wanted = magnitude(&output);
        assert_eq!(most.bytes().unwrap(), wanted.bytes().unwrap(), "{}: what {names:?} note", case.describe());
    }
    drop(executor);
    if calls.iter().any(|call| call.result_slice.is_some()) {
        writes_what_it_says(context, &program, &inputs, &result);
    }
    let output = if result.packing.is_some() {
        Tensor::from_bytes(result, output.bytes().unwrap().to_vec()).unwrap()
    } else {
        output
    };
    (output, names)
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

/// A program of one node under construction.
struct Made<'c> {
    target: &'c Target,
    graph: Graph,
    node: NodeId,
    program: Program,
    weights: Arena,
    arena: Arena,
    params: Arena,
    places: BTreeMap<ValueId, Region>,
    entry: Entry,
    uploads: Vec<Upload>,
    inputs: Vec<Tensor>,
}

impl<'c> Made<'c> {
    /// A place for everything that the node of a case reads and gives.
    fn of(context: &VkContext, target: &'c Target, case: &Case) -> Made<'c> {
        let (graph, node, values) = graph_of(case);
        let program = Program {
            model: "case".to_owned(),
            target: context.info().target.clone(),
            plans: vec![],
            constants: Default::default(),
            shaders: Default::default(),
        };
        let mut made = Made {
            target,
            graph,
            node,
            program,
            weights: Arena { bytes: 256 },
            arena: Arena::default(),
            params: Arena { bytes: 256 },
            places: BTreeMap::new(),
            entry: Entry { name: "main".to_owned(), ..Entry::default() },
            uploads: Vec::new(),
            inputs: Vec::new(),
        };
        for (value, tensor) in values.iter().zip(&case.given()) {
            if let (Some(value), Some(tensor)) = (value, tensor) {
                made.operand(*value, tensor);
            }
        }
        made.results();
        made
    }

    fn operand(&mut self, value: ValueId, tensor: &Tensor) {
        let bytes = kernels::device_bytes(tensor.ty()).unwrap();
        let region = if tensor.ty().packing.is_some() {
            let region = self.weights.place(0, bytes, self.target.alignment());
            self.uploads.push(Upload { constant: hex(tensor.hash()), region });
            self.program.constants.insert(tensor.hash(), tensor.clone());
            region
        } else {
            let region = self.arena.place(1, bytes, self.target.alignment());
            self.entry.inputs.push(port(&self.graph.value(value).name, tensor.ty(), region));
            self.inputs.push(tensor.clone());
            region
        };
        self.places.insert(value, region);
    }

    /// The result, packed ones as words, and its magnitude where the case notes it.
    fn results(&mut self) {
        let value = self.node.out(0);
        let result = self.graph.ty(value).clone();
        let region = self.arena.place(1, kernels::device_bytes(&result).unwrap(), self.target.alignment());
        self.places.insert(value, region);
        self.entry.outputs.push(port("y", &if result.packing.is_some() { words(region) } else { result }, region));
        if let Some(most) = self.noted() {
            let region = self.arena.place(1, 4, self.target.alignment());
            self.places.insert(most, region);
            self.entry.outputs.push(port("most", self.graph.ty(most), region));
        }
    }

    /// The magnitude of the result, where something reads that.
    fn noted(&self) -> Option<ValueId> {
        self.graph.users(self.node.out(0)).first().map(|(user, _)| user.out(0))
    }

    /// The dispatch of a call, whose SPIR-V is held to what the call says, and the kernel's name.
    fn dispatch(&mut self, call: &KernelCall) -> (Dispatch, String) {
        let target = self.target;
        let shader = nyxc::codegen::compile(&call.key, target).unwrap_or_else(|e| panic!("{e}"));
        let (name, module) = (shader.name.clone(), Module::read(&shader.spirv));
        assert_eq!(module.faults(target), Vec::<String>::new(), "{name} on {}", target.name);
        // What was not unrolled was counted; an epilogue's loops may be there once for each element that is put.
        let own = call.loops.iter().filter(|l| !l.in_epilogue).count();
        assert!(
            module.loops <= own || call.loops.len() > own,
            "{name}: {} loops, of which {:?} are counted",
            module.loops,
            call.loops
        );
        let place = |operand: &kernels::Operand| {
            let place = self.places[&operand.value];
            let is_within = operand.offset_bytes + operand.bytes <= place.bytes;
            assert!(is_within && operand.offset_bytes.is_multiple_of(target.alignment()), "{operand:?} of {place:?}");
            Region { offset: place.offset + operand.offset_bytes, bytes: operand.bytes, ..place }
        };
        let mut bindings: Vec<Region> = call.operands.iter().map(place).collect();
        let written = call.operands.iter().enumerate().filter(|(_, operand)| operand.write);
        let mut writes: Vec<u32> = written.map(|(i, _)| i as u32).collect();
        let check = call.check.as_ref().map(|rule| {
            let binding = bindings.len() as u32;
            bindings.push(self.arena.place(1, FAULT_BYTES, target.alignment()));
            writes.push(binding);
            IndexCheck { binding, node: "node".to_owned(), sizes: rule.sizes.clone(), negative: rule.negative }
        });
        assert!(module.written.iter().eq(&writes), "{name} writes {:?}, the plan says {writes:?}", module.written);
        let params_offset = self.params.place(2, call.params.len() as u64 * 4, 256).offset;
        let hash = shader.hash();
        self.program.shaders.insert(hash.clone(), shader);
        let dispatch = Dispatch {
            node: "node".to_owned(),
            shader: hash,
            bindings,
            writes,
            params: call.params.clone(),
            params_offset,
            groups: call.groups.clone(),
            loop_iterations: call.loop_iterations(),
            barrier: false,
            check,
            result_slice: call.result_slice.clone(),
        };
        (dispatch, name)
    }

    /// The program of these dispatches, and its inputs.
    fn finish(self, dispatches: Vec<Dispatch>) -> (Program, Vec<Tensor>) {
        let Made { mut program, weights, arena, params, mut entry, uploads, inputs, .. } = self;
        entry.steps.push(Step::Device(dispatches));
        let mut allocations: Vec<Allocation> =
            [(AllocationKind::Weights, weights), (AllocationKind::Arena, arena), (AllocationKind::Params, params)]
                .map(|(kind, arena)| Allocation { kind, bytes: arena.bytes.next_multiple_of(4096) })
                .to_vec();
        let peak = allocations.iter().map(|a| a.bytes).sum();
        if !program.target.memory.unified {
            allocations.push(Allocation { kind: AllocationKind::Staging, bytes: 1 << 20 });
        }
        program.plans.push(Plan {
            policy: "budget".to_owned(),
            budget_bytes: peak,
            planned_peak_bytes: peak,
            ledger: Ledger { activations: peak, ..Ledger::default() },
            allocations,
            uploads,
            entries: vec![entry],
            ..Plan::default()
        });
        (program, inputs)
    }
}

fn port(name: &str, ty: &TensorType, region: Region) -> Port {
    let device_dtype = ty.dtype.on_device().unwrap();
    Port { name: name.to_owned(), dtype: ty.dtype, device_dtype, shape: ty.shape.0.clone(), region }
}

/// A region as words.
fn words(region: Region) -> TensorType {
    TensorType::new(DType::I32, Shape(vec![Dim::Known((region.bytes / 4) as i64)]))
}

/// Runs each dispatch by itself over a result of a pattern: what changes are the elements of its slice, all of them
/// and no others, and no two slices have one in common.
fn writes_what_it_says(context: &VkContext, program: &Program, inputs: &[Tensor], result: &TensorType) {
    const PATTERN: u8 = 0x5b;
    let entry = &program.plans[0].entries[0];
    let Step::Device(dispatches) = &entry.steps[0] else { panic!("all run on the device") };
    let region = entry.outputs[0].region;
    let words = port("y", &words(region), region);
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
        let result_slice =
            dispatch.result_slice.as_ref().unwrap_or_else(|| panic!("dispatch {i} says nothing of what it writes"));
        let number = |dim: &Dim| dim.known().unwrap() as usize;
        let (pitch, first, width) =
            (number(&result_slice.pitch), number(&result_slice.first), number(&result_slice.width));
        for (element, bytes) in output.bytes().unwrap().chunks(size).take(n).enumerate() {
            let is_written = bytes.iter().any(|b| *b != PATTERN);
            let is_own = (first..first + width).contains(&(element % pitch));
            assert_eq!(is_written, is_own, "dispatch {i}, element {element} of {result}, {result_slice:?}");
            if is_written {
                assert_eq!(writer[element].replace(i), None, "element {element} is written twice");
            }
        }
    }
    assert!(writer.iter().all(Option::is_some), "an element that nobody writes");
}
