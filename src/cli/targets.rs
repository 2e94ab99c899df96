//! `nyxc targets`.

use super::{Failure, write};
use crate::session::size;
use crate::targets::{Target, shipped_names};
use serde_json::json;
use std::process::ExitCode;

/// List the shipped device profiles.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nyxc compile model.onnx --target rx580 --budget 6G
  nyxc targets --json | jq '.targets[0]' > mine.json    a profile to change and give to --target")]
pub(super) struct Args {
    /// Print the profiles as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let targets = shipped_names().into_iter().map(|name| Target::shipped(name).map_err(Failure::file));
    let targets = targets.collect::<Result<Vec<_>, _>>()?;
    let text = if args.json {
        format!("{:#}\n", json!({"targets": targets}))
    } else {
        let line = |t: &Target| format!("{:11} {:>11}  {}\n", t.name, size::show(t.memory.heap_bytes), t.description);
        targets.iter().map(line).collect()
    };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}
