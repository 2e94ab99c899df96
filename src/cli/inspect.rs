//! `nyxc inspect`.

mod text;

use super::load::{self, Loaded};
use super::source::Source;
use super::{Failure, write};
use crate::failure::FailureKind;
use crate::import::{Axis, Described, ImportReport, ValueType, describe};
use crate::ir::{Graph, NodeKind, Shape, TensorType, ValueId};
use crate::program::{Plan, Port, Program};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Say what a model or program takes, gives and holds.
#[derive(clap::Args)]
#[command(after_help = "\
A model is described as its file states it, also where it cannot be compiled; then the reason is reported.

Examples:
  nyxc inspect model.onnx --dim batch=8
  nyxc inspect model.nyx --nodes")]
pub(super) struct Args {
    /// A .onnx, .nyx or .nyxir file
    file: PathBuf,
    #[command(flatten)]
    source: Source,
    /// List the nodes of a program too, with format, place, bytes of weights and kernel
    #[arg(long)]
    nodes: bool,
    /// Print it as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let document = if load::is_model(&args.file) {
        model(&args.file, args)?
    } else {
        let loaded = load::graph(&args.file, &args.source)?;
        let mut document = match &loaded {
            Loaded::Program(program, _) => of_program(program, loaded.graph()),
            other => of_graph(other.graph()),
        };
        let module = loaded.module();
        if module.alone().is_none() {
            document["entries"] = module.entries.keys().map(String::as_str).collect();
        }
        let states = module.states();
        if !states.is_empty() {
            let state =
                |(name, ty): (&&str, &&TensorType)| json!({"name": name, "type": ty.to_string(), "bytes": ty.bytes()});
            document["states"] = states.iter().map(state).collect();
        }
        document
    };
    if args.nodes && document["plans"].is_null() {
        return Err(Failure::usage("--nodes lists those of a program; `nyxc print` shows the nodes of a model"));
    }
    let text = if args.json { format!("{document:#}\n") } else { text::of(&document, args.nodes) };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// What the file says, and what import makes of it where it can.
fn model(path: &Path, args: &Args) -> Result<Value, Failure> {
    let description = describe(path).map_err(|e| load::refused(path, e))?;
    let imported = match load::model(path, &args.source) {
        // A slip in the command, or a file beside the model that cannot be read, is none of the model's.
        Err(failure) if failure.kind != FailureKind::Model => return Err(failure),
        imported => imported,
    };
    let graph = imported.as_ref().ok().map(|(graph, _)| graph);
    let none = ImportReport::default();
    let report = imported.as_ref().map_or(&none, |(_, report)| report);
    let compiled: BTreeMap<&str, ValueId> = graph.map(ports).unwrap_or_default();
    let value = |v: &Described| {
        let ty = |name: &str| graph.zip(compiled.get(name)).map(|(graph, value)| graph.ty(*value));
        let element = |i: usize| {
            let name = format!("{}.{i}", v.name);
            let ty = ty(&name)?;
            Some(json!({"name": name, "type": ty.to_string(), "bytes": ty.bytes()}))
        };
        let ty = ty(&v.name);
        // A sequence has no value of its own name, and neither has an optional without a value.
        let is_spread = graph.is_some() && ty.is_none() && !v.ty.is_tensor();
        let elements = is_spread.then(|| (0..).map_while(element).collect::<Vec<_>>());
        let axis = |axis: &Axis| match axis {
            Axis::Size(n) => json!(n),
            Axis::Name(name) => json!(name),
            Axis::Unknown => Value::Null,
        };
        let (dtype, shape) =
            if let ValueType::Tensor { dtype, shape } = &v.ty { (Some(dtype), shape.as_ref()) } else { (None, None) };
        let shape: Option<Vec<Value>> = shape.map(|axes| axes.iter().map(axis).collect());
        let mut value = json!({
            "name": v.name,
            "type": v.ty.to_string(),
            "dtype": dtype,
            "shape": shape,
            "compiled": ty.map(ToString::to_string),
            "bytes": ty.and_then(TensorType::bytes),
        });
        if let Some(elements) = elements {
            value["elements"] = json!(elements);
        }
        value
    };
    let values = |list: &[Described]| list.iter().map(value).collect::<Vec<_>>();
    let inputs = description.inputs.iter().filter(|v| !report.fixed.contains_key(&v.name)).map(|v| {
        let mut input = value(v);
        if v.has_default {
            input["default"] = json!(true);
        }
        if let Some(argument) = v.ty.holds(&v.name) {
            input["holds"] = json!(argument);
        }
        input
    });
    let memory = graph.and_then(|graph| crate::ir::memory::account(graph, &graph.file_order()));
    Ok(json!({
        "name": description.name,
        "kind": "model",
        "level": "onnx",
        "producer": description.producer,
        "ir_version": description.ir_version,
        "opsets": description.opsets,
        "inputs": inputs.collect::<Vec<_>>(),
        "constant_inputs": report.fixed,
        "outputs": values(&description.outputs),
        "operators": description.operators,
        "functions": description.functions,
        "n_weights": description.n_weights,
        "weights_bytes": description.weights_bytes,
        "max_live_bytes": memory.map(|m| m.max_live_bytes),
        "defaulted": report.defaulted.iter().map(|(name, n)| json!({"dim": name, "size": n})).collect::<Vec<_>>(),
        "empty": report.empty,
        "unbound": report.unbound,
        "import_error": imported.as_ref().err().map(|failure| failure.json()["error"].take()),
    }))
}

/// Inputs and outputs by the names that the file has for them.
fn ports(graph: &Graph) -> BTreeMap<&str, ValueId> {
    let inputs = graph.inputs().iter().map(|id| (graph.value(id.out(0)).name.as_str(), id.out(0)));
    graph.outputs().iter().map(|o| (o.name.as_str(), o.value)).chain(inputs).collect()
}

fn of_graph(graph: &Graph) -> Value {
    let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
    let order = graph.order();
    let mut weights_bytes = 0u64;
    for id in &order {
        match &graph.node(*id).kind {
            NodeKind::Op(op) => *ops.entry(op.def.name).or_insert(0) += 1,
            NodeKind::Const(tensor) => weights_bytes = weights_bytes.saturating_add(tensor.ty().bytes().unwrap_or(0)),
            NodeKind::Input | NodeKind::State => {}
        }
    }
    let value =
        |name: &str, v: ValueId| json!({"name": name, "type": graph.ty(v).to_string(), "bytes": graph.ty(v).bytes()});
    let input = |id: &crate::ir::NodeId| {
        let mut input = value(&graph.value(id.out(0)).name, id.out(0));
        if graph.default_of(*id).is_some() {
            input["default"] = json!(true);
        }
        input
    };
    let memory = crate::ir::memory::account(graph, &graph.file_order());
    json!({
        "name": graph.name,
        "kind": "text",
        "level": graph.level.to_string(),
        "inputs": graph.inputs().iter().map(input).collect::<Vec<_>>(),
        "outputs": graph.outputs().iter().map(|o| value(&o.name, o.value)).collect::<Vec<_>>(),
        "operators": ops,
        "weights_bytes": weights_bytes,
        "max_live_bytes": memory.map(|m| m.max_live_bytes),
    })
}

fn of_program(program: &Program, graph: &Graph) -> Value {
    let mut document = of_graph(graph);
    document["kind"] = json!("program");
    document["target"] = json!(program.target.name);
    document["shaders"] = program.shaders.values().map(|s| s.name.as_str()).collect();
    if let Some(entry) = program.plans.first().and_then(|plan| plan.entries.first()) {
        let largest = entry.largest();
        let port = |port: &Port| {
            let ty = TensorType::new(port.dtype, Shape(port.shape.clone()));
            let shape: Vec<Value> =
                port.shape.iter().map(|d| d.known().map_or_else(|| json!(d.to_string()), |n| json!(n))).collect();
            let largest = port.at(&largest).and_then(|port| TensorType::new(port.dtype, Shape(port.shape)).bytes());
            let (ty, dtype) = (ty.to_string(), port.dtype.to_string());
            json!({"name": port.name, "type": ty, "dtype": dtype, "shape": shape, "bytes": largest})
        };
        let input = |input: &Port| {
            let mut value = port(input);
            if entry.defaults.contains_key(&input.name) {
                value["default"] = json!(true);
            }
            value
        };
        document["inputs"] = entry.inputs.iter().map(input).collect();
        document["constant_inputs"] = json!(entry.fixed);
        document["outputs"] = entry.outputs.iter().map(port).collect();
        document["sizes"] = json!(entry.sizes);
    }
    document["plans"] = program.plans.iter().map(|plan| of_plan(plan, program)).collect();
    document
}

fn of_plan(p: &Plan, program: &Program) -> Value {
    let mut formats: BTreeMap<&str, (usize, u64, u64)> = BTreeMap::new();
    for node in p.nodes.iter().filter(|n| !n.format.is_empty()) {
        let (n, bytes, f32_bytes) = formats.entry(&node.format).or_default();
        *n += 1;
        *bytes += node.weight_bytes;
        *f32_bytes += node.f32_weight_bytes;
    }
    let formats: Vec<Value> = formats
        .iter()
        .map(|(format, (n, bytes, f32_bytes))| {
            json!({"format": format, "nodes": n, "weight_bytes": bytes, "f32_weight_bytes": f32_bytes})
        })
        .collect();
    let counts = p.entries.iter().map(crate::program::Entry::n_dispatches);
    let (n_dispatches, n_barriers) = counts.fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    let sum =
        |bytes: &dyn Fn(&crate::program::NodeReport) -> u64| p.nodes.iter().map(bytes).fold(0, u64::saturating_add);
    json!({
        "policy": p.policy,
        "budget_bytes": p.budget_bytes,
        "planned_peak_bytes": p.planned_peak_bytes,
        "ledger": p.ledger,
        "lower_bound_bytes": p.lower_bound_bytes,
        "min_feasible_bytes": p.min_feasible_bytes,
        "f32_bytes": p.f32_bytes,
        "certificate": p.certificate,
        "formats": formats,
        "totals": {
            "nodes": p.nodes.len(),
            "host_nodes": p.nodes.iter().filter(|n| n.place == "host").count(),
            "dispatches": n_dispatches,
            "barriers": n_barriers,
            "kernels": program.shaders.len(),
            "weight_bytes": sum(&|n| n.weight_bytes),
            "f32_weight_bytes": sum(&|n| n.f32_weight_bytes),
        },
        "nodes": p.nodes,
    })
}
