//! `nyxc diff`.

use super::load::{self, Loaded};
use super::{Failure, write};
use crate::diff::{Change, Diff, Row, rows_of_graph, rows_of_plan};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Say how two graphs or programs differ, node by node. Exits with 1 where they do.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc diff before.nyx after.nyx")]
pub(super) struct Args {
    /// A .onnx, .nyx or .nyxir file
    before: PathBuf,
    /// Another
    after: PathBuf,
    /// Print the differences as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

fn rows(path: &Path) -> Result<BTreeMap<String, Row>, Failure> {
    let loaded = load::graph(path, &[])?;
    Ok(match &loaded {
        Loaded::Program(program, graph) => match program.plans.first() {
            Some(plan) => rows_of_plan(plan, graph),
            None => rows_of_graph(graph),
        },
        _ => rows_of_graph(loaded.graph()),
    })
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let diff = Diff::of(&rows(&args.before)?, &rows(&args.after)?);
    let text = if args.json {
        let row = |r: &Row| json!({"op": r.op, "format": r.format, "type": r.ty, "kernel": r.kernel, "bytes": r.bytes});
        let changes: Vec<_> = diff
            .changes
            .iter()
            .map(|(name, change)| match change {
                Change::Added(after) => json!({"name": name, "change": "added", "after": row(after), "bytes_delta": change.bytes_delta()}),
                Change::Removed(before) => json!({"name": name, "change": "removed", "before": row(before), "bytes_delta": change.bytes_delta()}),
                Change::Changed(before, after) => {
                    json!({"name": name, "change": "changed", "before": row(before), "after": row(after), "bytes_delta": change.bytes_delta()})
                }
            })
            .collect();
        format!("{:#}\n", json!({"nodes": changes, "bytes_delta": diff.bytes_delta()}))
    } else {
        diff.to_string()
    };
    write::stdout(&text)?;
    Ok(if diff.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}
