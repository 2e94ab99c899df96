//! `nyxc pass`.

use super::{Failure, load, write};
use crate::import::DimBinding;
use crate::passes::{Pipeline, Policy, Settings};
use crate::target::Target;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run passes alone: text in, text out.
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  nyxc print model.onnx > a.nyxir
  nyxc pass decompose,fuse model.onnx | diff a.nyxir -")]
pub(super) struct Args {
    /// Names of passes, in order
    #[arg(value_name = "NAME[,NAME...]", value_delimiter = ',', required = true)]
    names: Vec<String>,
    /// A .nyxir or .onnx file
    file: PathBuf,
    /// The device, a shipped profile
    #[arg(long, default_value = "lavapipe")]
    target: String,
    /// The policy of assign_precision
    #[arg(long, default_value = "budget")]
    policy: Policy,
    /// The budget of assign_precision
    #[arg(long, value_name = "SIZE", value_parser = super::size::parse)]
    budget: Option<u64>,
    /// The size of a dimension of a model, or its range
    #[arg(long, value_name = "NAME=SIZE", value_parser = DimBinding::parse)]
    dim: Vec<DimBinding>,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let names: Vec<String> = args.names.iter().map(|n| n.replace('-', "_")).collect();
    let settings = Settings { policy: args.policy, budget_bytes: args.budget, ..Settings::default() };
    let pipeline = Pipeline::of(&names.iter().map(String::as_str).collect::<Vec<_>>(), settings)?;
    let target = Target::shipped(&args.target).map_err(Failure::usage)?;
    let mut graph = load::graph(&args.file, &args.dim)?.graph().clone();
    pipeline.run(&mut graph, &target)?;
    write::stdout(&graph.to_string())?;
    Ok(ExitCode::SUCCESS)
}
