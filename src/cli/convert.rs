//! `nyxc convert`.

use super::source::Source;
use super::{Failure, constants, load, onnx, say, write};
use crate::export::{self, Style};
use crate::import::describe;
use crate::ir::Level;
use std::path::PathBuf;
use std::process::ExitCode;

/// Write a model as nyxc reads it, as ONNX of opset 21 or later: sizes bound, shape arithmetic computed, functions and
/// loops written out, formats untouched. `nyxc compile --emit-onnx` writes the quantized one.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nyxc convert model.onnx -o plain.onnx --dim batch=1
  nyxc convert graph.nyxir -o graph.onnx")]
pub(super) struct Args {
    /// The model, or the text of one of level onnx (.nyxir)
    model: PathBuf,
    /// Where the converted model goes
    #[arg(short, long, value_name = "FILE.onnx")]
    output: PathBuf,
    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    onnx::is_named_model("--output", &args.output)?;
    let read = [args.model.as_path()].into_iter().chain(constants::files(&args.source.values.constants));
    write::spares(&args.output, read)?;
    let about = load::is_model(&args.model).then(|| describe(&args.model)).transpose();
    let about = about.map_err(|e| load::refused(&args.model, e))?;
    let graph = load::graph(&args.model, &args.source)?.only_graph(&args.model)?;
    if graph.level != Level::Onnx {
        let (file, level) = (args.model.display(), graph.level);
        return Err(Failure::usage(format!("{file} is of level {level}, level onnx is converted")));
    }
    let model = export::model(&graph, Style::Qdq, about.as_ref())?;
    onnx::save(&model, &args.output)?;
    if !say::is_quiet() {
        let (n, opset) = (model.n_nodes(), model.opset());
        write::stdout(&format!("wrote {}: {n} nodes, opset {opset}\n", args.output.display()))?;
    }
    Ok(ExitCode::SUCCESS)
}
