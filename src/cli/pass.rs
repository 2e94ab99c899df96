//! `nyxc pass`.

use super::compile::target;
use super::source::Source;
use super::{Failure, load, write};
use crate::ir::Format;
use crate::passes::{Pin, Pipeline, Policy, Settings};
use crate::session::Compile;
use crate::session::size::Budget;
use std::path::PathBuf;
use std::process::ExitCode;

/// Run passes alone: text in, text out.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nyxc print model.onnx > a.nyxir
  nyxc pass decompose,fuse model.onnx | diff a.nyxir -
  nyxc pass assign_precision model.onnx --budget 400K --precision 'head*=f16' --formats f16,w8a16")]
pub(super) struct Args {
    /// Names of passes, in order
    #[arg(value_name = "NAME[,NAME...]", value_delimiter = ',', required = true)]
    names: Vec<String>,
    /// A .nyxir or .onnx file
    file: PathBuf,
    /// The device: auto (the best one here), cpu, a shipped profile (`nyxc targets`) or a JSON file
    #[arg(long, default_value = "lavapipe", value_name = "auto|cpu|NAME|FILE.json")]
    target: String,
    /// The policy of assign_precision
    #[arg(long, default_value = "budget")]
    policy: Policy,
    /// The budget of assign_precision, as for `nyxc compile`
    #[arg(long, value_name = "SIZE|min|max|N%", value_parser = Budget::parse)]
    budget: Option<Budget>,
    /// Pin nodes to a format; a glob on names or op:NAME, the last match wins
    #[arg(long, value_name = "PATTERN=FORMAT")]
    precision: Vec<Pin>,
    /// Formats that assign_precision may assign
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    formats: Vec<Format>,
    #[command(flatten)]
    source: Source,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let names: Vec<String> = args.names.iter().map(|n| n.replace('-', "_")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut settings = Settings { policy: args.policy, pins: args.precision.clone(), ..Settings::default() };
    if !args.formats.is_empty() {
        settings.formats.clone_from(&args.formats);
    }
    // An unknown name is reported before anything is read.
    Pipeline::of(&names, settings.clone())?;
    let mut options = Compile { settings, target: target(&args.target)?, n_threads: 0 };
    let mut graph = load::graph(&args.file, &args.source)?.only_graph(&args.file)?;
    if let Some(budget) = args.budget {
        options.settings.budget_bytes = Some(budget.resolve(&graph, &options, &|_, _, _| {})?);
    }
    Pipeline::of(&names, options.settings)?.run(&mut graph, &options.target)?;
    write::stdout(&graph.to_string())?;
    Ok(ExitCode::SUCCESS)
}
