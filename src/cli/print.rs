//! `nyxc print`.

use super::source::Source;
use super::{Failure, load, write};
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the text IR of a model or program.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc print model.onnx --dim batch=1 > model.nyxir")]
pub(super) struct Args {
    /// A .onnx, .nyx or .nyxir file
    file: PathBuf,
    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let loaded = load::graph(&args.file, &args.source)?;
    write::stdout(&loaded.module().to_string())?;
    Ok(ExitCode::SUCCESS)
}
