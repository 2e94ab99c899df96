//! Random graphs with states: some of their values are kept, whole or row by row, and what a later run and another
//! entry find is what the run before gave, bit for bit, on the CPU reference and on devices.

use crate::check::{built, faults};
use crate::hazards::{Access, hazards};
use crate::random::Random;
use crate::spec::Spec;
use nyxc::ir::{Attrs, Class, DType, Edit, Graph, Level, Module, Op, Tensor, TensorType, ValueId, text};
use nyxc::ops;
use nyxc::passes::Settings;
use nyxc::program::{Dispatch, Program, Region, Step, file};
use nyxc::runtime::VkContext;
use nyxc::session::{Compile, DeviceChoice, Session, compile_module};
use nyxc::targets::{Target, shipped_names};

/// How many runs a state that is stored row by row has room for.
const RUNS: usize = 3;

/// A value that is kept.
struct Kept {
    /// The states' and outputs' names end so.
    number: usize,
    ty: TensorType,
    /// The axis along which it is stored, where it is not stored whole.
    axis: Option<usize>,
}

impl Kept {
    /// The type of its state.
    fn state(&self) -> TensorType {
        let mut dims = self.ty.shape.known().unwrap();
        if let Some(axis) = self.axis {
            dims[axis] *= RUNS;
        }
        TensorType::of(self.ty.dtype, &dims)
    }
}

fn operator(name: &str) -> Op {
    Op::new(ops::registry().by_name(name).unwrap(), Attrs::new())
}

fn scalar(dtype: DType) -> Tensor {
    let float = || Tensor::from_f32s(dtype, &[], &[1.0]);
    (if dtype.is_float() { float() } else { Tensor::from_i64s(dtype, &[], &[1]) }).unwrap()
}

/// The graph with states, and an entry that reads them.
fn keeps(graph: &Graph, random: &mut Random) -> (Module, Vec<Kept>) {
    let mut main = graph.clone();
    let mut peek = Graph::new(&graph.name, Level::Onnx);
    let mut kept = Vec::new();
    let fits = |value: &ValueId| {
        let ty = graph.ty(*value);
        let n = ty.shape.n_elems().unwrap_or(0);
        ty.dtype.class() != Class::Text && ty.packing.is_none() && (1..=3000).contains(&n)
    };
    let values: Vec<ValueId> = graph
        .order()
        .into_iter()
        .filter(|id| graph.node(*id).op().is_some())
        .flat_map(|id| (0..graph.node(id).outputs.len()).map(move |out| id.out(out)))
        .filter(fits)
        .collect();
    let mut edit = Edit::new(&main);
    for number in 0..random.int(1, 3) as usize {
        if values.is_empty() {
            break;
        }
        let value = random.pick(&values);
        let ty = graph.ty(value).clone();
        let rank = ty.shape.rank();
        let axis = (rank > 0 && random.chance(60)).then(|| random.below(rank));
        let this = Kept { number, ty, axis };
        let (name, ty, initial) = (format!("state{number}"), this.state(), scalar(this.ty.dtype));
        let state = edit.add_state(&name, ty.clone(), initial.clone());
        let mut operands = vec![state, value.into()];
        let mut store = operator("state_store");
        if let Some(axis) = axis {
            let (counts, one) =
                (TensorType::of(DType::I64, &[1]), |n| Tensor::from_i64s(DType::I64, &[1], &[n]).unwrap());
            let position = edit.add_state(&format!("position{number}"), counts, one(0));
            let rows = edit.add_const(one(this.ty.shape.known().unwrap()[axis] as i64));
            let behind = edit.add(operator("add"), &[position, rows]).unwrap();
            let behind = edit.add(operator("state_store"), &[position, behind]).unwrap();
            edit.set_state(&format!("position{number}"), behind);
            operands.push(position);
            store.attrs = store.attrs.with_int("axis", axis as i64);
        }
        let stored = edit.add(store, &operands).unwrap();
        edit.set_state(&name, stored);
        edit.add_output(&format!("value{number}"), value.into());
        edit.add_output(&format!("before{number}"), state);
        if random.chance(50) {
            edit.add_output(&format!("after{number}"), stored);
        }
        let seen = peek.add_state(&name, ty, initial);
        peek.add_output(&name, seen);
        kept.push(this);
    }
    let patch = edit.finish();
    main.apply(patch);
    let mut module = Module { name: graph.name.clone(), ..Module::default() };
    module.entries.insert("step".to_owned(), main);
    module.entries.insert("peek".to_owned(), peek);
    (module, kept)
}

/// The elements of a tensor as bits that are equal where they are.
fn bits(tensor: &Tensor) -> Vec<u64> {
    if tensor.dtype().is_float() {
        let bits = |v: f64| if v.is_nan() { u64::MAX } else { v.to_bits() };
        tensor.to_f64s().unwrap().iter().map(|v| bits(*v)).collect()
    } else {
        tensor.to_i64s().unwrap().iter().map(|v| v.cast_unsigned()).collect()
    }
}

/// Puts `rows` into `all` from position `at` along an axis.
fn put(all: &mut [u64], dims: &[usize], rows: &[u64], axis: usize, at: usize) {
    let inner: usize = dims[axis + 1..].iter().product();
    let n_rows = rows.len() / inner / dims[..axis].iter().product::<usize>();
    for (i, value) in rows.iter().enumerate() {
        let (outer, row, inside) = (i / inner / n_rows, i / inner % n_rows, i % inner);
        all[(outer * dims[axis] + at + row) * inner + inside] = *value;
    }
}

/// Runs both entries and holds what they find to what was given before.
fn play(session: &mut Session, kept: &[Kept], inputs: &[Vec<Tensor>]) -> Result<(), String> {
    for pass in 0..2 {
        let mut states: Vec<Vec<u64>> = kept
            .iter()
            .map(|k| vec![bits(&scalar(k.ty.dtype))[0]; k.state().shape.n_elems().unwrap() as usize])
            .collect();
        for (run, inputs) in inputs.iter().enumerate() {
            let names: Vec<String> =
                session.program().plans[0].entries[0].outputs.iter().map(|port| port.name.clone()).collect();
            let outputs = session.entry("step").and_then(|call| call.run(inputs)).map_err(faults("a step"))?.outputs;
            let seen = session.entry("peek").and_then(|call| call.run(&[])).map_err(faults("a look"))?.outputs;
            let named = |name: String| names.iter().position(|n| *n == name).map(|at| bits(&outputs[at]));
            for ((this, state), seen) in kept.iter().zip(&mut states).zip(seen) {
                let number = this.number;
                let said = |what: &str| format!("pass {pass}, run {run}, state {number} of {}: {what}", this.state());
                if named(format!("before{number}")).is_none_or(|before| before != *state) {
                    return Err(said("the run does not find what the one before left"));
                }
                let value = named(format!("value{number}")).ok_or_else(|| said("its value is no output"))?;
                match this.axis {
                    Some(axis) => {
                        let at = run * this.ty.shape.known().unwrap()[axis];
                        put(state, &this.state().shape.known().unwrap(), &value, axis, at);
                    }
                    None => *state = value,
                }
                if named(format!("after{number}")).is_some_and(|after| after != *state) {
                    return Err(said("what is stored is not what was computed"));
                }
                if bits(&seen) != *state {
                    return Err(said("another entry finds something else"));
                }
            }
        }
        if kept.iter().any(|k| k.axis.is_some()) {
            let full = session.entry("step").and_then(|call| call.run(&inputs[0]));
            if !full.as_ref().is_err_and(|e| e.to_string().contains("out of range")) {
                return Err(format!("a row beyond the end: {:?}", full.map(|_| ())));
            }
        }
        session.reset().map_err(faults("a reset"))?;
    }
    Ok(())
}

/// Whether dispatches of each entry that touch the same bytes are ordered, those of states among them.
fn ordered(program: &Program) -> Result<(), String> {
    for entry in &program.plans[0].entries {
        for step in &entry.steps {
            let Step::Device(dispatches) = step else { continue };
            let access = |d: &Dispatch| {
                let all = d.bindings.iter().zip(0u32..);
                let (writes, reads) = all.partition::<Vec<_>, _>(|(_, binding)| d.writes.contains(binding));
                let regions = |list: Vec<(&Region, u32)>| list.into_iter().map(|(region, _)| *region).collect();
                let (what, result_slice) = (d.node.clone(), d.result_slice.clone());
                Access { what, reads: regions(reads), writes: regions(writes), result_slice, barrier: d.barrier }
            };
            if let Some(first) = hazards(&dispatches.iter().map(access).collect::<Vec<_>>()).first() {
                return Err(format!("entry {}: {first}", entry.name));
            }
        }
    }
    Ok(())
}

/// Whether the graph of a seed keeps its states; the number of sessions that it was seen in, none where the device
/// lacks something.
pub fn check(spec: &Spec, seed: u64, contexts: &[VkContext]) -> Result<usize, String> {
    let mut random = Random::new(seed ^ 0x57A7_E000);
    let (built, sizes) = built(spec, seed);
    if !sizes.is_empty() {
        return Ok(0);
    }
    let (module, kept) = keeps(&built.graph, &mut random);
    module.verify().map_err(faults("the graph with states"))?;
    let printed = module.to_string();
    let constants = |hash: &str, _: &TensorType| {
        let mut found = None;
        let look =
            &mut |tensor: &Tensor| found = (tensor.hash().to_string() == hash).then(|| tensor.clone()).or(found.take());
        module.entries.values().for_each(|graph| graph.for_each_constant(look));
        found
    };
    let again = text::parse_module(&printed, &ops::registry(), &constants).map_err(faults("reading back"))?;
    if again != module || again.to_string() != printed {
        return Err(format!("it reads back as another:\n{printed}\nand\n{again}"));
    }
    let target = Target::shipped(random.pick(&shipped_names())).unwrap();
    let policy = random.pick(&["uniform:f32", "uniform:f16", "uniform:w8a16", "uniform:w4a8", "tiered"]);
    let what = format!("{policy} for {}", target.name);
    let settings = Settings { policy: policy.parse().unwrap(), ..Settings::default() };
    let options = Compile { settings, target, n_threads: 1 };
    let said = |e: String| format!("{what}: {e}\n{module}");
    let compiled = compile_module(&module, &options, &|_, _, _| {}, None);
    let program = compiled.map_err(faults("compiling")).map_err(said)?.program;
    ordered(&program).map_err(said)?;
    let first = spec.tensors(&built.inputs);
    let smaller = |tensor: &Tensor| match tensor.dtype().is_float() {
        true => {
            let half: Vec<f32> = tensor.to_f32s().unwrap().iter().map(|v| v * 0.5).collect();
            Tensor::from_f32s(tensor.dtype(), &tensor.dims(), &half).unwrap()
        }
        false => tensor.clone(),
    };
    let mut inputs = vec![first];
    while inputs.len() < RUNS {
        let next = inputs[inputs.len() - 1].iter().map(smaller).collect();
        inputs.push(next);
    }
    let bytes = file::to_bytes(&program).map_err(faults("writing")).map_err(said)?;
    let mut session = Session::load(bytes, DeviceChoice::Cpu).map_err(faults("loading")).map_err(said)?;
    play(&mut session, &kept, &inputs).map_err(|e| said(format!("on the CPU: {e}")))?;
    let mut n = 1;
    for context in contexts {
        let mut session = match Session::on(program.clone(), context) {
            Err(nyxc::session::SessionError::Runtime(nyxc::runtime::RuntimeError::Unsupported { .. })) => continue,
            other => other.map_err(faults("loading on the device")).map_err(said)?,
        };
        play(&mut session, &kept, &inputs).map_err(|e| said(format!("on {}: {e}", session.device())))?;
        let (measured, planned) = (session.measured_peak_bytes(), program.plans[0].planned_peak_bytes);
        if measured > planned {
            return Err(said(format!("{measured} bytes were allocated, {planned} planned")));
        }
        n += 1;
    }
    Ok(n)
}
