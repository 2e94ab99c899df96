//! `nyxc completions`.

use super::{Cli, Failure, write};
use clap::CommandFactory;
use std::process::ExitCode;

/// Print a shell's completion script.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc completions bash > ~/.local/share/bash-completion/completions/nyxc")]
pub(super) struct Args {
    /// The shell
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "nyxc", &mut script);
    write::stdout(&String::from_utf8_lossy(&script))?;
    Ok(ExitCode::SUCCESS)
}
