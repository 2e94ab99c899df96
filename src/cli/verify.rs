//! `nyxc verify`.

use super::load::{self, Loaded};
use super::source::Source;
use super::{Failure, write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Check that a model, program or text is well formed.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc verify model.nyx")]
pub(super) struct Args {
    /// A .onnx, .nyx or .nyxir file
    file: PathBuf,
    #[command(flatten)]
    source: Source,
    /// Say so as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let loaded = load::graph(&args.file, &args.source)?;
    loaded.module().verify().map_err(|e| Failure::file(format!("{}: {e}", args.file.display())))?;
    let what = match &loaded {
        Loaded::Model(..) => "model".to_owned(),
        Loaded::Program(program, _) => {
            program.check().map_err(|e| Failure::file(format!("{}: {e}", args.file.display())))?;
            format!(
                "program: {} plan(s), {} shaders, {} constants",
                program.plans.len(),
                program.shaders.len(),
                program.constants.len()
            )
        }
        Loaded::Text(_) => "text".to_owned(),
    };
    let n_nodes: usize = loaded.module().entries.values().map(crate::ir::Graph::n_nodes).sum();
    write::stdout(&if args.json {
        format!(
            "{:#}\n",
            serde_json::json!({"file": args.file.display().to_string(), "is": what, "nodes": n_nodes, "faults": []})
        )
    } else {
        format!("{}: {what}, {n_nodes} nodes, no faults\n", args.file.display())
    })?;
    Ok(ExitCode::SUCCESS)
}
