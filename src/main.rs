//! The command line.

#[global_allocator]
static ALLOCATOR: nyxc::cli::Allocator = nyxc::cli::Allocator;

fn main() -> std::process::ExitCode {
    nyxc::cli::main()
}
