//! `nyxc inspect`.

use super::load::{self, Loaded};
use super::{Failure, size, write};
use crate::ir::Graph;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;

/// Say what a model or program holds.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc inspect model.nyx")]
pub(super) struct Args {
    /// A .onnx, .nyx or .nyxir file
    file: PathBuf,
    /// Print it as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let loaded = load::graph(&args.file, &[])?;
    let mut document = describe(loaded.graph());
    if let Loaded::Program(program, _) = &loaded {
        document["target"] = json!(program.target.name);
        document["shaders"] = json!(program.shaders.values().map(|s| &s.name).collect::<Vec<_>>());
        document["plans"] = program
            .plans
            .iter()
            .map(|p| {
                json!({"policy": p.policy, "budget_bytes": p.budget_bytes, "planned_peak_bytes": p.planned_peak_bytes, "ledger": p.ledger, "lower_bound_bytes": p.lower_bound_bytes,
                       "min_feasible_bytes": p.min_feasible_bytes, "f32_bytes": p.f32_bytes, "certificate": p.certificate, "nodes": p.nodes})
            })
            .collect();
    }
    let text = if args.json { format!("{document:#}\n") } else { people(&document) };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn describe(graph: &Graph) -> Value {
    let mut ops: BTreeMap<&str, usize> = BTreeMap::new();
    let order = graph.order();
    for id in &order {
        if let Some(op) = graph.node(*id).op() {
            *ops.entry(op.def.name).or_insert(0) += 1;
        }
    }
    let value = |v: crate::ir::ValueId| json!({"name": graph.value(v).name, "type": graph.ty(v).to_string()});
    let input = |id: &crate::ir::NodeId| {
        let mut input = value(id.out(0));
        if graph.default_of(*id).is_some() {
            input["default"] = json!(true);
        }
        input
    };
    let memory = crate::ir::memory::account(graph, &graph.file_order());
    json!({
        "name": graph.name,
        "level": graph.level.to_string(),
        "inputs": graph.inputs().iter().map(input).collect::<Vec<_>>(),
        "outputs": graph.outputs().iter().map(|o| value(o.value)).collect::<Vec<_>>(),
        "operators": ops,
        "weights_bytes": memory.map(|m| m.weights_bytes),
        "max_live_bytes": memory.map(|m| m.max_live_bytes),
    })
}

fn people(document: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let bytes = |v: &Value| v.as_u64().map_or("unknown: a size is symbolic".to_owned(), size::show);
    let empty = Vec::new();
    let list = |key: &str| document[key].as_array().unwrap_or(&empty).clone();
    let mut out = format!("{} ({} level)\n", text(&document["name"]), text(&document["level"]));
    for key in ["inputs", "outputs"] {
        for v in list(key) {
            let more = if v["default"] == true { " (has a default)" } else { "" };
            out += &format!("  {:8} {} : {}{more}\n", key.trim_end_matches('s'), text(&v["name"]), text(&v["type"]));
        }
    }
    let ops: Vec<_> =
        document["operators"].as_object().into_iter().flatten().map(|(k, n)| format!("{k} {n}")).collect();
    out += &format!(
        "  operators  {}\n  weights    {}\n  max live   {}\n",
        ops.join(", "),
        bytes(&document["weights_bytes"]),
        bytes(&document["max_live_bytes"])
    );
    for plan in list("plans") {
        out += &format!(
            "  plan       {} for {}: peak {} of {}\n",
            text(&plan["policy"]),
            text(&document["target"]),
            bytes(&plan["planned_peak_bytes"]),
            bytes(&plan["budget_bytes"])
        );
        for node in plan["nodes"].as_array().unwrap_or(&empty) {
            out += &format!(
                "    {:8} {:7} {:>12} B  {}  {}\n",
                text(&node["format"]),
                text(&node["where"]),
                node["weight_bytes"],
                text(&node["name"]),
                text(&node["kernel"])
            );
        }
    }
    out
}
