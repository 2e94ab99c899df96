//! The command line: one file a command.

mod bench;
mod compare;
mod compile;
mod completions;
mod devices;
mod diff;
mod failure;
mod inspect;
mod load;
mod pass;
mod print;
mod run;
mod size;
mod targets;
mod verify;
mod write;

use clap::{Parser, Subcommand};
pub use failure::Failure;
use std::process::ExitCode;

/// Compiles an ONNX model into a mixed-precision Vulkan program that fits a memory budget.
#[derive(Parser)]
#[command(
    name = "nyxc",
    version,
    max_term_width = 100,
    after_help = "\
Examples:
  nyxc compile model.onnx --budget 7G        compile for the GPU here, within 7 GiB
  nyxc run model.nyx --inputs in.npz --outputs out.npz
  nyxc compile model.onnx --budget 64M --target rx580 --json | jq .ledger

Exit codes: 0 good; 1 `diff` found differences, `compare` missed its bound or found an overflow; 2 usage; 3 the model
or file is bad or unsupported; 4 over budget; 5 the device failed; 6 input or output; 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Compile(Box<compile::Args>),
    Run(run::Args),
    Bench(bench::Args),
    Compare(compare::Args),
    Inspect(inspect::Args),
    Print(print::Args),
    Diff(diff::Args),
    Pass(pass::Args),
    Verify(verify::Args),
    Devices(devices::Args),
    Targets(targets::Args),
    Completions(completions::Args),
}

/// Parses the arguments, runs the command and gives the exit code.
pub fn main() -> ExitCode {
    write::remove_partial_files_on_interrupt();
    let cli = Cli::parse();
    let (json, result) = match &cli.command {
        Command::Compile(args) => (args.json, compile::run(args)),
        Command::Run(args) => (args.json, run::run(args)),
        Command::Bench(args) => (args.json, bench::run(args)),
        Command::Compare(args) => (args.json, compare::run(args)),
        Command::Inspect(args) => (args.json, inspect::run(args)),
        Command::Print(args) => (false, print::run(args)),
        Command::Diff(args) => (args.json, diff::run(args)),
        Command::Pass(args) => (false, pass::run(args)),
        Command::Verify(args) => (false, verify::run(args)),
        Command::Devices(args) => (args.json, devices::run(args)),
        Command::Targets(args) => (false, targets::run(args)),
        Command::Completions(args) => (false, completions::run(args)),
    };
    match result {
        Ok(code) => code,
        Err(failure) => {
            if json {
                // One document on standard output, whatever happens; the message goes to standard error all the same.
                let _ = write::stdout(&format!("{}\n", failure.json()));
            }
            eprintln!("nyxc: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}
