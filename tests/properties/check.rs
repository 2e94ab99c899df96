//! One random graph through everything, at one random choice of formats, budget and target.

use crate::random::Random;
use crate::simulate::Expected;
use crate::spec::{Built, Reach, Source, Spec};
use crate::{oracle, plan, ranges};
use nyxc::ir::{CORE, Class, Format, Graph, Tensor, text};
use nyxc::ops::registry;
use nyxc::passes::{DEFAULT, OverBudget, Pipeline, Policy, Settings};
use nyxc::program::{Sizes, file};
use nyxc::runtime::VkContext;
use nyxc::session::{Compile, CompileError, Compiled, DeviceChoice, Reference, Session, compile_with};
use nyxc::targets::{Target, shipped_names};
use std::collections::{BTreeMap, BTreeSet};

/// What was checked, so that a suite can say that its checks meant something.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub graphs: usize,
    pub nodes: usize,
    /// Those of them that the oracle knows, which are compared three ways.
    pub three_ways: usize,
    /// Nodes with an integer beyond 32 bits, with a float beyond what f16 holds or next to nothing, and conversions.
    pub wide: usize,
    pub far: usize,
    pub conversions: usize,
    /// Outputs compared, and those whose bound was tight, by whether weights or activations were integers.
    pub outputs: [usize; 2],
    pub sharp: [usize; 2],
    /// Budgets refused, each at a figure that then compiled.
    pub over_budget: usize,
    pub passes: usize,
    pub device_runs: usize,
    /// Programs for targets with features that the device lacks, which refused them.
    pub beyond: usize,
    /// Graphs with a size that changes, other sizes at which their programs ran, and programs for one of these sizes
    /// alone.
    pub ranged: usize,
    pub sizes: usize,
    pub alone: usize,
    /// Operators of the core that stood in a graph after a pass.
    pub operators: BTreeSet<&'static str>,
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.graphs += other.graphs;
        self.nodes += other.nodes;
        self.three_ways += other.three_ways;
        self.wide += other.wide;
        self.far += other.far;
        self.conversions += other.conversions;
        self.over_budget += other.over_budget;
        self.passes += other.passes;
        self.device_runs += other.device_runs;
        self.beyond += other.beyond;
        self.ranged += other.ranged;
        self.sizes += other.sizes;
        self.alone += other.alone;
        self.operators.extend(&other.operators);
        for i in 0..2 {
            self.outputs[i] += other.outputs[i];
            self.sharp[i] += other.sharp[i];
        }
    }
}

const FORMATS: &[&str] = &[
    "f32",
    "f32",
    "f32",
    "f16",
    "f16",
    "w16a32",
    "w8a32",
    "w8a16",
    "w8a8",
    "w4a32",
    "w4a16",
    "w4a8",
    "w8a32:c",
    "w4a16:g16",
    "w8a8:c",
    "w4a8:g16",
    "w8a16:g256",
    "f32/f16:r3",
    "f16/w4:r3",
    "w8a8/w4:r5",
    "w8a32/w4:r1",
];

/// Those whose activations are f32, and weights f32 or of a scale of their own.
const WIDE_FORMATS: &[&str] = &["f32", "f32", "f32", "w8a32", "w4a32", "w8a32:c"];

/// The choice that a seed makes for a graph.
pub fn settings(spec: &Spec, graph: &Graph, target: &Target, random: &mut Random) -> Settings {
    // What f16 does not hold is not asked to be f16.
    let formats = if spec.reach == Reach::Far { WIDE_FORMATS } else { FORMATS };
    let format = |random: &mut Random| random.pick(formats).parse::<Format>().unwrap();
    let mut settings = Settings { budget_bytes: Some(1 << 30), ..Settings::default() };
    if random.chance(20) {
        settings.reserve_bytes = 4096;
    }
    match random.below(10) {
        0..5 => settings.policy = Policy::Uniform(format(random)),
        5 | 6 => {
            // Each node another format, where the name is still there when formats are assigned.
            settings.policy = Policy::Uniform(format(random));
            let mut clean = graph.clone();
            let first: Vec<&str> = DEFAULT.iter().copied().take_while(|name| *name != "assign_precision").collect();
            Pipeline::of(&first, Settings::default()).unwrap().run(&mut clean, target).map(|_| ()).unwrap();
            let names = [
                "MatMul",
                "Gemm",
                "Conv",
                "Gather",
                "Add",
                "Mul",
                "Relu",
                "Softmax",
                "Concat",
                "Transpose",
                "Reshape",
                "LayerNormalization",
            ];
            for name in names {
                let present = clean.order().iter().any(|id| clean.node(*id).op().is_some_and(|op| op.def.onnx == name));
                if present && random.chance(60) {
                    settings.pins.push(format!("op:{name}={}", format(random)).parse().unwrap());
                }
            }
        }
        7 => settings.policy = Policy::Tiered,
        _ => settings.policy = Policy::Budget,
    }
    if matches!(settings.policy, Policy::Budget | Policy::Tiered) && random.chance(80) {
        let reserve = settings.reserve_bytes;
        let asked = Settings { budget_bytes: Some(0), policy: Policy::Budget, ..settings.clone() };
        let error = Pipeline::new(asked).run(&mut graph.clone(), target).err().map(CompileError::from);
        if let Some(CompileError::OverBudget(over)) = error {
            let least = over.min_feasible_bytes + reserve;
            let more = match random.below(4) {
                0 => least,
                1 => least.saturating_sub(1),
                2 => least + random.below(4096) as u64,
                _ => least + random.below(least as usize + 1) as u64,
            };
            settings.budget_bytes = Some(more);
        }
    }
    settings
}

/// The graphs that passes left, in order, those of the last round alone.
type Dumps = Vec<(String, Graph)>;

fn compiled(graph: &Graph, options: &Compile) -> (Result<Compiled, CompileError>, Dumps) {
    let mut dumps: Dumps = Vec::new();
    let mut dump = |i: usize, name: &str, graph: &Graph| {
        if i == 0 {
            dumps.clear();
        }
        dumps.push((name.to_owned(), graph.clone()));
    };
    let result = compile_with(graph, options, &Pipeline::new, &|_, _, _| {}, Some(&mut dump));
    (result, dumps)
}

/// Prints, reads back, compares.
fn reads_back(graph: &Graph) -> Result<(), String> {
    let printed = graph.to_string();
    let mut constants: BTreeMap<String, Tensor> = BTreeMap::new();
    graph.for_each_constant(&mut |tensor| {
        constants.insert(tensor.hash().to_string(), tensor.clone());
    });
    let read = text::parse(&printed, &registry(), &|hash, _| constants.get(hash).cloned())
        .map_err(|e| format!("its text does not read: {e}\n{printed}"))?;
    let again = read.to_string();
    if again != printed {
        return Err(format!("its text reads back as another:\n{printed}\n{again}"));
    }
    if read == *graph {
        Ok(())
    } else {
        Err(format!("its text reads back as another graph of the same text\n{printed}"))
    }
}

pub fn faults<E: std::fmt::Display>(what: &str) -> impl Fn(E) -> String + '_ {
    move |e| format!("{what}: {e}")
}

/// Compiles with the settings of a seed; where they do not fit, at the smallest budget that is said to.
fn fitting(
    graph: &Graph,
    mut options: Compile,
    tally: &mut Tally,
) -> Result<Option<(Compiled, Dumps, Compile)>, String> {
    for round in 0..2 {
        let (result, dumps) = compiled(graph, &options);
        match result {
            Ok(compiled) => return Ok(Some((compiled, dumps, options))),
            Err(CompileError::OverBudget(over)) => {
                let OverBudget { min_feasible_bytes, available_bytes, budget_bytes, .. } = *over;
                let reserve = options.settings.reserve_bytes;
                if budget_bytes != options.settings.budget_bytes.unwrap_or(0)
                    || available_bytes != budget_bytes.saturating_sub(reserve)
                {
                    return Err(format!(
                        "refused a budget of {budget_bytes}, {available_bytes} of it available: that was not asked"
                    ));
                }
                if available_bytes >= min_feasible_bytes {
                    return Err(format!(
                        "refused {available_bytes} bytes, though {min_feasible_bytes} are said to be enough"
                    ));
                }
                if round > 0 {
                    return Err(format!(
                        "{available_bytes} bytes were said to be enough, and are refused: now it is {min_feasible_bytes}"
                    ));
                }
                tally.over_budget += 1;
                options.settings.budget_bytes = Some(min_feasible_bytes + reserve);
            }
            Err(error) => return Err(format!("does not compile: {error}")),
        }
    }
    Ok(None)
}

/// The graph that a seed makes of a spec, and the sizes that it has. Every fourth has one that changes.
pub fn built(spec: &Spec, seed: u64) -> (Built, Sizes) {
    let open = (seed % 4 == 3).then(|| ranges::open(spec, &mut Random::new(seed ^ 0x5A17_0000))).flatten();
    open.unwrap_or_else(|| (spec.built(&|_| None, &Sizes::new()), Sizes::new()))
}

pub fn check(spec: &Spec, seed: u64, contexts: &[VkContext]) -> Result<Tally, String> {
    let mut tally = Tally { graphs: 1, nodes: spec.n_nodes(), ..Tally::default() };
    let mut random = Random::new(seed ^ 0xC0FF_EE00);
    let (Built { graph, inputs, outputs }, sizes) = built(spec, seed);
    let inputs = spec.tensors(&inputs);
    graph.verify().map_err(faults("the random graph"))?;
    reads_back(&graph)?;
    let plain = Reference::new(graph.clone()).run(&inputs).map_err(faults("the CPU reference"))?;
    for (output, tensor) in outputs.iter().zip(&plain) {
        if spec.values[*output].tensor != *tensor && !has_nan(tensor) {
            return Err(format!(
                "the reference gives {tensor:?} where the generator had {:?}",
                spec.values[*output].tensor
            ));
        }
    }
    tally.three_ways = oracle::known(spec, seed)?;
    for value in spec.values.iter() {
        let (Source::Node(node, _), class) = (value.source, value.tensor.dtype().class()) else { continue };
        let any = |is: &dyn Fn(f64) -> bool| value.tensor.to_f64s().is_ok_and(|v| v.into_iter().any(is));
        tally.wide += usize::from(class == Class::Int && any(&|v| v.abs() > 2f64.powi(32)));
        tally.far += usize::from(class == Class::Float && any(&|v| v.abs() > 65504.0 || v != 0.0 && v.abs() < 1e-8));
        tally.conversions += usize::from(matches!(spec.nodes[node].op.def.onnx, "Cast" | "CastLike"));
    }
    let target = Target::shipped(random.pick(&shipped_names())).unwrap();
    let settings = settings(spec, &graph, &target, &mut random);
    let options = Compile { settings, target, n_threads: 1 };
    let what = format!(
        "{} at {:?} bytes less {} for {}",
        options.settings.policy, options.settings.budget_bytes, options.settings.reserve_bytes, options.target.name
    );
    let said = |e: String| format!("{what}: {e}");
    let Some((compiled, dumps, options)) = fitting(&graph, options, &mut tally).map_err(said)? else {
        return Ok(tally);
    };
    let (assigned, mut expected) = after_passes(&graph, (&inputs, &sizes), &dumps, seed, &mut tally).map_err(said)?;
    let with_formats = ranges::at(&assigned, &sizes);
    let plan = &compiled.program.plans[0];
    plan::check(plan, &compiled.kernels, options.target.memory.unified).map_err(said)?;
    compiled.program.check().map_err(faults("the program")).map_err(said)?;
    let bytes = file::to_bytes(&compiled.program).map_err(faults("writing")).map_err(said)?;
    let mut session = Session::load(bytes, DeviceChoice::Cpu).map_err(faults("loading")).map_err(said)?;
    let on_cpu = session.run(&inputs).map_err(faults("the CPU reference of the program")).map_err(said)?.outputs;
    let kernels = Reference::new(compiled.kernels.clone()).run(&inputs).map_err(faults("the kernels")).map_err(said)?;
    if on_cpu != kernels && !kernels.iter().any(has_nan) {
        return Err(said("the program's graph computes something else than the compiler's".to_owned()));
    }
    for context in contexts {
        let program = compiled.program.clone();
        let mut session = match Session::on(program, context) {
            Err(nyxc::session::SessionError::Runtime(nyxc::runtime::RuntimeError::Unsupported { what })) => {
                let wanted = &options.target.features;
                if wanted.meet(context.enabled()) == *wanted {
                    return Err(said(format!("the device has what the target has, and refuses: {what}")));
                }
                tally.beyond += 1;
                continue;
            }
            other => other.map_err(faults("loading on the device")).map_err(said)?,
        };
        let outputs = session.run(&inputs).map_err(faults("running on the device")).map_err(said)?.outputs;
        let measured = session.measured_peak_bytes();
        if measured > plan.planned_peak_bytes {
            return Err(said(format!("{measured} bytes were allocated, {} planned", plan.planned_peak_bytes)));
        }
        // First against what was expected of any device, then against the CPU reference, which is nearer.
        expected
            .check(&with_formats, &inputs, &outputs, seed)
            .map_err(|e| said(format!("on {}: {e}", session.device())))?;
        expected.outputs.clone_from(&on_cpu);
        expected
            .check(&with_formats, &inputs, &outputs, seed)
            .map_err(|e| said(format!("on {} against the CPU: {e}", session.device())))?;
        tally.device_runs += 1;
    }
    if !sizes.is_empty() {
        ranges::check((spec, &graph, &assigned), &inputs, (&compiled, &options), contexts, seed, &mut tally)
            .map_err(said)?;
    }
    Ok(tally)
}

fn has_nan(tensor: &Tensor) -> bool {
    tensor.dtype().is_float() && tensor.to_f32s().unwrap().iter().any(|v| v.is_nan())
}

/// Every graph that a pass left: well formed, reads back, and computes what it must. Gives the graph with formats and
/// what it must compute.
fn after_passes(
    graph: &Graph,
    (inputs, sizes): (&[Tensor], &Sizes),
    dumps: &Dumps,
    seed: u64,
    tally: &mut Tally,
) -> Result<(Graph, Expected), String> {
    let mut source = graph.clone();
    let mut sized = ranges::at(graph, sizes);
    let mut expected = Expected::of(&sized, inputs, seed)?;
    let plain = Reference::new(graph.clone()).run(inputs).map_err(faults("the CPU reference"))?;
    expected.check(&sized, inputs, &plain, seed).map_err(faults("the CPU reference"))?;
    let mut before = graph.to_string();
    for (i, (name, after)) in dumps.iter().enumerate() {
        let said = |e: String| format!("after pass {i}, {name}: {e}");
        if name == "assign_precision" {
            // From here on formats say what is computed.
            source = after.clone();
            sized = ranges::at(after, sizes);
            expected = Expected::of(&sized, inputs, seed).map_err(said)?;
            let integers = after.order().iter().any(|id| {
                after.node(*id).format.is_some_and(|f| f.has_int_weights())
                    && nyxc::ops::weights::of(after, *id).is_some()
            });
            for at in 0..expected.outputs.len() {
                tally.outputs[usize::from(integers)] += 1;
                tally.sharp[usize::from(integers)] += usize::from(expected.sharp(at));
            }
        }
        let printed = after.to_string();
        if printed == before {
            continue;
        }
        before = printed;
        tally.passes += 1;
        let nodes = after.order().into_iter().filter_map(|id| after.node(id).op());
        tally.operators.extend(nodes.filter(|op| op.def.levels & CORE != 0).map(|op| op.def.name));
        after.verify().map_err(|e| said(e.to_string()))?;
        reads_back(after).map_err(said)?;
        if name == "assign_precision" {
            continue;
        }
        let outputs = Reference::new(after.clone()).run(inputs).map_err(|e| said(e.to_string()))?;
        expected.check(&sized, inputs, &outputs, seed).map_err(|e| said(format!("{e}\n{after}")))?;
    }
    Ok((source, expected))
}
