//! The command line.

fn main() -> std::process::ExitCode {
    nyxc::cli::main()
}
