//! The same graphs with a size that changes between runs: one program must compute at every size of its range what the
//! graph of that size does.

use crate::check::{Tally, faults};
use crate::random::Random;
use crate::simulate::Expected;
use crate::spec::{Built, Source, Spec};
use nyxc::ir::{Class, Dim, Graph, Symbol, Tensor, TensorType};
use nyxc::passes::Policy;
use nyxc::program::Sizes;
use nyxc::runtime::VkContext;
use nyxc::session::{Compile, Compiled, Reference, Session};
use std::collections::BTreeMap;

/// The name of the size.
const NAME: &str = "n";

/// The graph with one of its sizes as a range, and the size that it has; `None` where it has none, or nothing can be
/// computed from it.
pub fn open(spec: &Spec, random: &mut Random) -> Option<(Built, Sizes)> {
    let of_inputs = spec.values.iter().filter(|v| v.source == Source::Input).flat_map(|v| v.tensor.dims());
    let all: Vec<usize> = of_inputs.filter(|n| *n > 0).collect();
    let size = if all.is_empty() { return None } else { random.pick(&all) as i64 };
    let (min, max) = (random.pick(&[0, 1, 1, size]), size + random.pick(&[0, 1, 3, 30]));
    let symbol = Dim::ranged(NAME, min.min(size), max);
    let (everywhere, constants) = (random.chance(80), random.chance(60));
    let mut types: BTreeMap<usize, TensorType> = BTreeMap::new();
    for (i, value) in spec.values.iter().enumerate() {
        let is_open = match value.source {
            Source::Input => true,
            // A bias has as many elements as what it is added to.
            Source::Const => constants && value.tensor.dtype().is_float() && random.chance(50),
            _ => false,
        };
        let mut ty = value.tensor.ty().clone();
        for dim in ty.shape.0.iter_mut().filter(|dim| is_open && **dim == Dim::Known(size)) {
            if everywhere || random.chance(50) {
                *dim = symbol.clone();
            }
        }
        if ty != *value.tensor.ty() {
            types.insert(i, ty);
        }
    }
    let sizes = Sizes::from([(NAME.to_owned(), size)]);
    let mut built = spec.built(&|i| types.get(&i).cloned(), &sizes);
    let order = built.graph.order();
    let mut dims = order.iter().flat_map(|id| &built.graph.node(*id).outputs).flat_map(|value| &value.ty.shape.0);
    if dims.any(|dim| dim.exact_bounds().is_some_and(|(low, _)| low < 0)) {
        // Windows larger than what they slide over: sizes from that of the graph on.
        let from = |symbol: &Symbol| (symbol.name() == NAME).then(|| Dim::ranged(NAME, size, max));
        types.values_mut().flat_map(|ty| &mut ty.shape.0).for_each(|dim| *dim = dim.substitute(&from));
        built = spec.built(&|i| types.get(&i).cloned(), &sizes);
    }
    let has_node = built.graph.order().iter().any(|id| built.graph.node(*id).op().is_some());
    (!types.is_empty() && has_node).then(|| (built, Sizes::from([(NAME.to_owned(), size)])))
}

/// A graph at one size.
pub fn at(graph: &Graph, sizes: &Sizes) -> Graph {
    graph.substitute(&|symbol: &Symbol| sizes.get(symbol.name()).map(|n| Dim::Known(*n)))
}

/// The same elements again and again, or fewer of them.
fn resized(tensor: &Tensor, ty: &TensorType) -> Option<Tensor> {
    let dims = ty.shape.known()?;
    let n: usize = dims.iter().product();
    match tensor.dtype().class() {
        Class::Float => {
            let values = tensor.to_f32s().ok()?;
            Tensor::from_f32s(ty.dtype, &dims, &values.iter().copied().cycle().take(n).collect::<Vec<_>>()).ok()
        }
        _ => {
            let values = tensor.to_i64s().ok()?;
            Tensor::from_i64s(ty.dtype, &dims, &values.iter().copied().cycle().take(n).collect::<Vec<_>>()).ok()
        }
    }
}

/// The inputs of the graph at a size; `None` where the graph has nothing to say there: indices that lead outside,
/// values that are not finite.
fn inputs(spec: &Spec, graph: &Graph, given: &[Tensor], sizes: &Sizes) -> Option<Vec<Tensor>> {
    let graph = at(graph, sizes);
    let types = graph.inputs().iter().map(|id| graph.ty(id.out(0)));
    let inputs = types.zip(given).map(|(ty, tensor)| resized(tensor, ty)).collect::<Option<Vec<_>>>()?;
    let mut is_useful = true;
    Reference::new(graph)
        .run_with(&inputs, &mut |_, results| is_useful &= results.iter().all(|result| spec.is_useful(result)))
        .ok()?;
    is_useful.then_some(inputs)
}

/// Other sizes than that of the first run, under the same program; and on the device the bits of the program for that
/// size alone.
pub fn check(
    (spec, graph, assigned): (&Spec, &Graph, &Graph),
    given: &[Tensor],
    (compiled, options): (&Compiled, &Compile),
    contexts: &[VkContext],
    seed: u64,
    tally: &mut Tally,
) -> Result<(), String> {
    let mut random = Random::new(seed ^ 0x51_2E5);
    let Some(range) = graph.ranges().get(NAME).cloned() else { return Ok(()) };
    let kernels = Reference::new(compiled.kernels.clone());
    let mut sessions = Vec::new();
    for context in contexts {
        match Session::on(compiled.program.clone(), context) {
            Err(nyxc::session::SessionError::Runtime(nyxc::runtime::RuntimeError::Unsupported { .. })) => {}
            other => sessions.push((other.map_err(faults("loading on the device"))?, context)),
        }
    }
    tally.ranged += 1;
    for size in [*range.start(), *range.end(), random.int(*range.start(), *range.end())] {
        let sizes = Sizes::from([(NAME.to_owned(), size)]);
        let said = |e: String| format!("at {size}: {e}");
        let Some(inputs) = inputs(spec, graph, given, &sizes) else { continue };
        let source = at(assigned, &sizes);
        let mut expected = Expected::of(&source, &inputs, seed).map_err(said)?;
        let on_cpu = kernels.run(&inputs).map_err(faults("the kernels")).map_err(said)?;
        expected.check(&source, &inputs, &on_cpu, seed).map_err(said)?;
        tally.sizes += 1;
        for (session, context) in &mut sessions {
            let outputs = session.run(&inputs).map_err(faults("running on the device")).map_err(said)?.outputs;
            expected
                .check(&source, &inputs, &outputs, seed)
                .map_err(|e| said(format!("on {}: {e}", session.device())))?;
            let planned = compiled.program.plans[0].planned_peak_bytes;
            if session.measured_peak_bytes() > planned {
                return Err(said(format!("{} bytes were allocated, {planned} planned", session.measured_peak_bytes())));
            }
            // Other policies may choose other formats for a smaller range.
            if matches!(options.settings.policy, Policy::Uniform(_)) && random.chance(30) {
                let alone = graph.substitute(&|symbol| (symbol.name() == NAME).then(|| Dim::ranged(NAME, size, size)));
                let alone = nyxc::session::compile(&alone, options, &|_, _, _| {}, None)
                    .map_err(faults("alone"))
                    .map_err(said)?;
                let mut alone = Session::on(alone.program, context).map_err(faults("loading alone")).map_err(said)?;
                let own = alone.run(&inputs).map_err(faults("running alone")).map_err(said)?.outputs;
                for (i, (own, given)) in own.iter().zip(&outputs).enumerate() {
                    if own.bytes().unwrap() != given.bytes().unwrap() {
                        let (a, b) = (own.to_f32s().unwrap(), given.to_f32s().unwrap());
                        let at = (0..a.len()).find(|&i| a[i].to_bits() != b[i].to_bits()).unwrap_or(0);
                        let what = format!("output {i}, element {at} is {:e}, of this size alone {:e}", b[at], a[at]);
                        let kernels =
                            format!("{}\nalone\n{}", compiled.program.plans[0].graph, alone.program().plans[0].graph);
                        return Err(said(format!("the program of this size alone has other bits: {what}\n{kernels}")));
                    }
                }
                tally.alone += 1;
            }
        }
    }
    Ok(())
}
