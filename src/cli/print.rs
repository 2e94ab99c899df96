//! `nyxc print`.

use super::{Failure, load, write};
use crate::import::DimBinding;
use std::path::PathBuf;
use std::process::ExitCode;

/// Print the text IR of a model or program.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc print model.onnx --dim batch=1 > model.nyxir")]
pub(super) struct Args {
    /// A .onnx, .nyx or .nyxir file
    file: PathBuf,
    /// The size of a dimension of a model: batch=1 by its name, input.0=1 by input and axis, or a range 1..512
    #[arg(long, value_name = "NAME=SIZE", value_parser = DimBinding::parse)]
    dim: Vec<DimBinding>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let loaded = load::graph(&args.file, &args.dim)?;
    write::stdout(&loaded.graph().to_string())?;
    Ok(ExitCode::SUCCESS)
}
