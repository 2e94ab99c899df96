//! The command line: one file a command.

mod arrays;
mod bench;
mod compare;
mod compile;
mod completions;
mod constants;
mod convert;
mod devices;
mod diff;
mod explain;
mod fatal;
mod harness;
mod inspect;
mod load;
mod onnx;
mod pass;
mod print;
mod profile;
mod run;
mod say;
mod source;
mod targets;
mod tune;
mod tuning;
mod verify;
mod write;

use crate::failure::Failure;
use clap::{Parser, Subcommand};
pub use fatal::Allocator;
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
  nyxc inspect model.onnx                    what it takes and gives

`nyxc COMMAND --help` says what each takes, with an example.

Exit codes: 0 good; 1 `diff` found differences, `compare` missed its bound or found an overflow; 2 usage; 3 the model \
or file is bad or unsupported; 4 over budget; 5 the device failed; 6 input or output, or no memory left on the host; \
130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Say more on standard error: the device, what goes on, the time of each pass
    #[arg(short, long, global = true)]
    verbose: bool,
    /// Say nothing but what was asked for, and errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    quiet: bool,
}

/// Whether a command was asked for a JSON document, where it has one.
macro_rules! json_of {
    ($args:ident) => {{
        let _ = $args;
        false
    }};
    ($args:ident $json:ident) => {
        $args.$json
    };
}

/// Declares the commands, in the order of `--help`: name, module, and `json` where one prints a JSON document if asked
/// to. Each module has `Args`, whose doc comment is the help, and `run`.
macro_rules! commands {
    ($($name:ident $module:ident $($json:ident)?;)*) => {
        #[derive(Subcommand)]
        enum Command {
            $($name(Box<$module::Args>),)*
        }

        impl Command {
            /// Whether one JSON document is asked for.
            fn json(&self) -> bool {
                match self {
                    $(Command::$name(args) => json_of!(args $($json)?),)*
                }
            }

            fn run(&self) -> Result<ExitCode, Failure> {
                match self {
                    $(Command::$name(args) => $module::run(args),)*
                }
            }
        }
    };
}

commands! {
    Compile compile json;
    Run run json;
    Bench bench json;
    Tune tune json;
    Compare compare json;
    Convert convert;
    Inspect inspect json;
    Print print;
    Diff diff json;
    Pass pass;
    Verify verify json;
    Devices devices json;
    Targets targets json;
    Completions completions;
}

/// Parses the arguments, runs the command and gives the exit code.
pub fn main() -> ExitCode {
    write::remove_partial_files_on_interrupt();
    fatal::report_no_memory_for_new();
    fatal::report_files_cut_short();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    say::set(cli.quiet, cli.verbose);
    let json = cli.command.json();
    if json {
        fatal::tell_json();
    }
    // Whoever is first to need these threads would panic without them.
    let threads = rayon::ThreadPoolBuilder::new().build_global().map_err(|e| Failure::host(format!("threads: {e}")));
    let result = threads.and_then(|()| cli.command.run());
    match result {
        Ok(code) => code,
        Err(failure) => {
            if json {
                // One document on standard output, whatever happens; the message goes to standard error all the same.
                let _ = write::stdout(&format!("{}\n", failure.json()));
            }
            eprintln!("nyxc: {}", failure.message);
            ExitCode::from(failure.kind.exit_code())
        }
    }
}

/// Arguments that are none, or that ask for help.
fn refused(error: &clap::Error) -> ExitCode {
    let wants_json = std::env::args_os().skip(1).take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if error.use_stderr() && wants_json {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let end = ["\n\nUsage:", "\n\nFor more information"].iter().filter_map(|mark| text.find(mark)).min();
        let failure = Failure::usage(text[..end.unwrap_or(text.len())].trim_end());
        let _ = write::stdout(&format!("{}\n", failure.json()));
    }
    let _ = error.print();
    // 2 for arguments that are none, 0 for help.
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// The words of an example as a shell takes them, without what it does with the output and without the comment
    /// behind it.
    fn words(example: &str) -> Vec<String> {
        let end = [" | ", " > ", "   "].iter().filter_map(|mark| example.find(mark)).min().unwrap_or(example.len());
        let mut words = vec![String::new()];
        let mut is_quoted = false;
        for c in example[..end].chars() {
            match (c, words.last_mut()) {
                ('\'', _) => is_quoted = !is_quoted,
                (' ', _) if !is_quoted => words.push(String::new()),
                (c, Some(word)) => word.push(c),
                (_, None) => {}
            }
        }
        // Variables of the environment before the command.
        words.into_iter().skip_while(|word| word != "nyxc").collect()
    }

    #[test]
    fn every_example_of_the_help_is_a_command() {
        let cli = Cli::command();
        let mut n_examples = 0;
        for command in std::iter::once(&cli).chain(cli.get_subcommands()) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            for example in help.lines().filter_map(|line| line.strip_prefix("  ")) {
                let words = words(example);
                if let Err(error) = Cli::try_parse_from(&words) {
                    panic!("{}: {example}: {words:?}: {error}", command.get_name());
                }
                n_examples += 1;
            }
        }
        assert!(n_examples > 2 * cli.get_subcommands().count(), "{n_examples} examples");
    }
}
