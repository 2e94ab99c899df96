//! `nyxc targets`.

use super::{Failure, size, write};
use crate::target::{Target, shipped_names};
use std::process::ExitCode;

/// List the shipped device profiles.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc compile model.onnx --target rx580 --budget 6G")]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Result<ExitCode, Failure> {
    let mut text = String::new();
    for name in shipped_names() {
        let target = Target::shipped(name).map_err(Failure::file)?;
        text += &format!("{name:11} {:>11}  {}\n", size::show(target.memory.heap_bytes), target.description);
    }
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}
