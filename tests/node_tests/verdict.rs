//! What becomes of one test.

use crate::case::{Case, Data, Kind, Set};
use crate::compare::difference;
use nyxc::export::{self, Style};
use nyxc::import::{DimBinding, Held, ImportOptions, Initializers, import_bytes};
use nyxc::ir::{Graph, Tensor};
use nyxc::ops::registry;
use nyxc::passes::Settings;
use nyxc::program::{Program, Step};
use nyxc::runtime::{Options, VkContext, devices};
use nyxc::session::{Compile, DeviceChoice, Reference, Session, SessionError, compile};
use nyxc::targets::Target;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What became of one test.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// Right on the device and on the CPU reference. The inputs that had to be constants.
    Device(Vec<String>),
    /// Right, with these operators on the host.
    Host(Vec<String>),
    /// Right, and nothing is left to run: all inputs had to be constants.
    Folded,
    /// Refused, and why.
    Refused(String),
    /// Another result than the standard's.
    Wrong(String),
    /// A panic.
    Crash(String),
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Device(constants) if constants.is_empty() => f.write_str("pass on device"),
            Verdict::Device(constants) => write!(f, "pass on device, constant: {}", constants.join(", ")),
            Verdict::Host(operators) => write!(f, "pass with host nodes: {}", operators.join(", ")),
            Verdict::Folded => f.write_str("pass, folded away"),
            Verdict::Refused(reason) => write!(f, "refused: {reason}"),
            Verdict::Wrong(what) => write!(f, "WRONG: {what}"),
            Verdict::Crash(what) => write!(f, "CRASH: {what}"),
        }
    }
}

/// Runs tests on one thread, with a device of its own where there is one.
pub struct Runner {
    target: Target,
    device: Option<VkContext>,
}

impl Runner {
    pub fn new() -> Runner {
        let info = devices().unwrap_or_default().into_iter().next();
        let target = info.as_ref().map_or_else(|| Target::shipped("lavapipe").unwrap(), |info| info.target.clone());
        let device = info.and_then(|info| VkContext::open(info.index, &target.features, &Options::from_env()).ok());
        if device.is_none() {
            crate::say("SKIPPED: no Vulkan device, the CPU reference alone\n");
        }
        Runner { target, device }
    }

    pub fn judge(&self, case: &Case) -> Verdict {
        catch_unwind(AssertUnwindSafe(|| self.run(case).unwrap_or_else(|verdict| verdict))).unwrap_or_else(|panic| {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()));
            Verdict::Crash(text.unwrap_or_default())
        })
    }

    fn run(&self, case: &Case) -> Result<Verdict, Verdict> {
        let mut verdict = None;
        for set in &case.sets {
            verdict = Some(self.run_set(case, set)?);
        }
        verdict.ok_or_else(|| Verdict::Crash("no data".to_owned()))
    }

    fn run_set(&self, case: &Case, set: &Set) -> Result<Verdict, Verdict> {
        let (graph, constants) = import(case, set)?;
        let settings = Settings { budget_bytes: Some(1 << 30), ..Settings::default() };
        let options = Compile { settings, target: self.target.clone(), n_threads: 1 };
        let compiled = compile(&graph, &options, &|_, _, _| {}, None).map_err(|e| Verdict::Refused(text(&e)))?;
        let program = compiled.program;
        let given = tensors(case, set).map_err(Verdict::Refused)?;
        let value = |name: &str| Ok(given.iter().find(|(input, _)| input == name).unwrap().1.clone());
        let inputs =
            program.plans[0].entries[0].inputs.iter().map(|port| value(&port.name)).collect::<Result<Vec<_>, _>>()?;
        let mut expected = Vec::new();
        for (bytes, kind) in set.outputs.iter().zip(&case.outputs) {
            expected.extend(Data::read(bytes, kind).map_err(Verdict::Refused)?.tensors());
        }
        let (hosts, n_dispatches) = places(&program);
        let on_cpu = Session::of(program.clone(), DeviceChoice::Cpu).map_err(|e| Verdict::Crash(text(&e)))?;
        let all = Values { given: &given, inputs: &inputs, expected: &expected };
        check(case, on_cpu, &all, "CPU")?;
        check_exported(case, &graph, &all)?;
        if let Some(context) = &self.device {
            let on_device = Session::on(program, context).map_err(|e| Verdict::Crash(text(&e)))?;
            check(case, on_device, &all, "device")?;
        }
        Ok(match (hosts.is_empty(), inputs.is_empty() && n_dispatches == 0) {
            (false, _) => Verdict::Host(hosts),
            (true, true) if !constants.is_empty() => Verdict::Folded,
            _ => Verdict::Device(constants),
        })
    }
}

/// The graph, and the inputs that had to be constants for it.
fn import(case: &Case, set: &Set) -> Result<(Graph, Vec<String>), Verdict> {
    let mut options = ImportOptions::default();
    // Sizes that the model leaves open, those of 0 among them.
    let graph = prost::Message::decode(case.model.as_slice())
        .ok()
        .and_then(|model: nyxc::import::proto::pb::ModelProto| model.graph)
        .unwrap_or_default();
    for ((name, kind), input) in case.inputs.iter().zip(&set.inputs) {
        let Some(info) = graph.input.iter().find(|info| info.name == *name) else { continue };
        let read = input.read(kind);
        if *kind != Kind::Tensor {
            options.held.insert(name.clone(), held(&read.map_err(Verdict::Refused)?));
            continue;
        }
        let Some(dims) = open_dims(info) else { continue };
        let Ok(Data::Tensor(value)) = read else { continue };
        let sizes = value.dims();
        let bindings = dims
            .into_iter()
            .filter_map(|axis| Some(DimBinding::known(&format!("{}.{axis}", info.name), *sizes.get(axis)? as i64)));
        options.dims.extend(bindings);
    }
    loop {
        let error = match import_bytes(&case.model, None, &options, &registry()) {
            Ok((graph, _)) => return Ok((graph, options.constants.into_keys().collect())),
            Err(error) => error,
        };
        let refused = Verdict::Refused(error.to_string());
        let name = error
            .free_input()
            .filter(|name| !options.constants.contains_key(*name))
            .map(str::to_owned)
            .ok_or(refused.clone())?;
        let given = tensors(case, set).map_err(Verdict::Refused)?;
        let value = given.into_iter().find(|(input, _)| *input == name).ok_or(refused)?.1;
        options.dims.retain(|dim| !dim.name.starts_with(&format!("{name}.")));
        options.constants.insert(name, value);
    }
}

/// What an input holds that is no tensor.
pub fn held(data: &Data) -> Held {
    match data {
        Data::Sequence(list) => Held::Sequence(list.iter().map(|t| t.ty().clone()).collect()),
        Data::Tensor(tensor) => Held::Tensor(tensor.ty().clone()),
        Data::Nothing => Held::Nothing,
    }
}

/// The tensors among the inputs, by the names that the graph has for them.
pub fn tensors(case: &Case, set: &Set) -> Result<Vec<(String, Tensor)>, String> {
    let mut all = Vec::new();
    for (input, (name, kind)) in set.inputs.iter().zip(&case.inputs) {
        match input.read(kind)? {
            Data::Tensor(tensor) => all.push((name.clone(), tensor)),
            Data::Sequence(list) => {
                all.extend(list.into_iter().enumerate().map(|(i, tensor)| (format!("{name}.{i}"), tensor)))
            }
            Data::Nothing => {}
        }
    }
    Ok(all)
}

/// The axes whose sizes the file does not say.
pub fn open_dims(info: &nyxc::import::proto::pb::ValueInfoProto) -> Option<Vec<usize>> {
    use nyxc::import::proto::pb::{tensor_shape_proto::dimension::Value, type_proto};
    let type_proto::Value::TensorType(tensor) = info.r#type.as_ref()?.value.as_ref()?;
    let dims = &tensor.shape.as_ref()?.dim;
    Some((0..dims.len()).filter(|&axis| !matches!(dims[axis].value, Some(Value::DimValue(n)) if n > 0)).collect())
}

/// What a test gives and expects.
struct Values<'a> {
    /// All inputs of the model by name, those that had to be constants among them.
    given: &'a [(String, Tensor)],
    /// Those that the program takes.
    inputs: &'a [Tensor],
    expected: &'a [Tensor],
}

fn check(case: &Case, mut session: Session, values: &Values<'_>, place: &str) -> Result<(), Verdict> {
    let mut run = || {
        // What nyxc cannot do it refuses while compiling.
        let failed = |e: SessionError| Verdict::Wrong(format!("run on {place}: {}", text(&e)));
        session.run(values.inputs).map(|done| done.outputs).map_err(failed)
    };
    compare(case, &mut run, values.given, values.expected, place)
}

/// Writes the graph as ONNX, reads that, and runs it.
fn check_exported(case: &Case, graph: &Graph, values: &Values<'_>) -> Result<(), Verdict> {
    let fault = |what: &str, e: &dyn std::error::Error| Verdict::Wrong(format!("{what}: {}", text(e)));
    let model = export::model(graph, Style::Qdq, None).map_err(|e| fault("export", &e))?;
    let mut bytes = Vec::new();
    model.write(None, &mut bytes).map_err(|e| fault("export", &e))?;
    let options = ImportOptions { initializers: Initializers::Inputs, ..ImportOptions::default() };
    let (again, _) = import_bytes(&bytes, None, &options, &registry()).map_err(|e| fault("exported", &e))?;
    let reference = Reference::new(again);
    let mut run = || reference.run(values.inputs).map_err(|e| fault("exported", &e));
    compare(case, &mut run, values.given, values.expected, "the exported model")
}

/// What is wrong with the results of a run, and with those of another where a seed says that they are the same.
pub fn compare(
    case: &Case,
    run: &mut dyn FnMut() -> Result<Vec<Tensor>, Verdict>,
    inputs: &[(String, Tensor)],
    expected: &[Tensor],
    place: &str,
) -> Result<(), Verdict> {
    let given = run()?;
    if given.len() != expected.len() {
        return Err(Verdict::Wrong(format!("{} outputs for {}", given.len(), expected.len())));
    }
    let wrong = |i: usize, fault: String| Err(Verdict::Wrong(format!("output {i} on {place}: {fault}")));
    if let Some(random) = Random::of(&case.name) {
        if let Some(i) = (0..given.len()).find(|&i| given[i].ty() != expected[i].ty()) {
            return wrong(i, given[i].ty().to_string());
        }
        if let Some(fault) = random.fault(inputs, &given) {
            return wrong(0, fault);
        }
        let repeats = run()? == given;
        return if has_seed(case) && !repeats {
            wrong(0, "its seed gives other numbers again".to_owned())
        } else {
            Ok(())
        };
    }
    for (i, (given, expected)) in given.iter().zip(expected).enumerate() {
        if let Some(fault) = difference(&case.name, given, expected, case.relative) {
            return wrong(i, fault);
        }
    }
    Ok(())
}

/// Operators whose values are random: their types, shapes and ranges are compared, and what a seed gives with what it
/// gives again.
#[derive(Clone, Copy)]
enum Random {
    Bernoulli,
    Dropout,
}

impl Random {
    fn of(name: &str) -> Option<Random> {
        match () {
            () if name.contains("bernoulli") => Some(Random::Bernoulli),
            // Nothing goes with the probability 0.
            () if name.contains("training_dropout") && !name.contains("zero_ratio") => Some(Random::Dropout),
            () => None,
        }
    }

    /// What no draw could have given, if anything.
    fn fault(self, given: &[(String, Tensor)], outputs: &[Tensor]) -> Option<String> {
        let floats = |tensor: &Tensor| tensor.to_f32s().unwrap().into_owned();
        let results = floats(&outputs[0]);
        let x = floats(&given[0].1);
        match self {
            Random::Bernoulli => {
                results.iter().find(|v| ![0.0, 1.0].contains(*v)).map(|v| format!("{v}, which is neither 0 nor 1"))
            }
            Random::Dropout => {
                let ratio = given.get(1).map_or(0.5, |(_, ratio)| floats(ratio)[0]);
                let grown = |x: f32| x / (1.0 - ratio);
                let kept = |i: usize| (results[i] - grown(x[i])).abs() <= 1e-6 * grown(x[i]).abs();
                if let Some(i) = (0..x.len()).find(|&i| results[i] != 0.0 && !kept(i)) {
                    return Some(format!("[{i}] is {}, neither 0 nor {}", results[i], grown(x[i])));
                }
                let mask = outputs.get(1)?.to_i64s().unwrap();
                (0..x.len())
                    .find(|&i| (mask[i] != 0) != (results[i] != 0.0))
                    .map(|i| format!("[{i}] is {}, its mask says {}", results[i], mask[i]))
            }
        }
    }
}

/// Whether a node of the model has a seed.
fn has_seed(case: &Case) -> bool {
    let graph = prost::Message::decode(case.model.as_slice())
        .ok()
        .and_then(|model: nyxc::import::proto::pb::ModelProto| model.graph);
    graph.is_some_and(|graph| {
        graph.node.iter().any(|node| node.attribute.iter().any(|attribute| attribute.name == "seed"))
    })
}

/// The operators that run on the host, and the number of dispatches.
fn places(program: &Program) -> (Vec<String>, usize) {
    let plan = &program.plans[0];
    let mut n_dispatches = 0;
    let mut hosts: BTreeMap<String, ()> = BTreeMap::new();
    for step in plan.entries.iter().flat_map(|e| &e.steps) {
        match step {
            Step::Device(dispatches) => n_dispatches += dispatches.len(),
            Step::Host(step) => {
                let forms =
                    [format!("%{} =", step.node), format!("%{},", step.node), format!("from \"{}\"", step.node)];
                let line = plan
                    .graph
                    .lines()
                    .filter(|line| line.contains(" = "))
                    .find(|line| forms.iter().any(|form| line.contains(form)));
                let op = line.and_then(|line| line.split(" = ").nth(1)?.split('(').next()).unwrap_or("?");
                hosts.insert(op.to_owned(), ());
            }
        }
    }
    (hosts.into_keys().collect(), n_dispatches)
}

/// An error with its causes.
fn text(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text += &format!(": {error}");
        source = error.source();
    }
    text
}
