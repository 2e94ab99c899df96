//! Child processes of tests.

use std::process::Command;

/// A command that runs `program`, through `NYXC_TEST_RUNNER` where that is set: a program that starts another with the
/// libraries of a Vulkan driver which the system's own cannot load, as `scripts/new_lavapipe.sh` makes one.
pub fn command(program: &str) -> Command {
    match std::env::var_os("NYXC_TEST_RUNNER") {
        None => Command::new(program),
        Some(runner) => {
            let mut command = Command::new(runner);
            command.arg(program);
            command
        }
    }
}

/// The program of this test, as it was started: under such a runner `current_exe` is the loader.
#[allow(dead_code, reason = "not every test starts itself")]
pub fn itself() -> Command {
    command(&std::env::args().next().unwrap())
}
