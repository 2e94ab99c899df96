//! What a command says beside its result, on standard error: notes, details, and what it is doing where that takes
//! long.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicI8, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

/// -1 where only errors are printed, 1 where details are.
static LEVEL: AtomicI8 = AtomicI8::new(0);

/// How much is said.
pub(super) fn set(quiet: bool, verbose: bool) {
    LEVEL.store(i8::from(verbose) - i8::from(quiet), Ordering::Relaxed);
}

/// Whether only results that were asked for, and errors, are printed.
pub(super) fn is_quiet() -> bool {
    LEVEL.load(Ordering::Relaxed) < 0
}

/// What the user should know: said unless `--quiet`.
pub(super) fn note(text: impl std::fmt::Display) {
    if !is_quiet() {
        eprintln!("nyxc: {text}");
    }
}

/// What helps to understand: said with `--verbose`.
pub(super) fn detail(text: impl std::fmt::Display) {
    if LEVEL.load(Ordering::Relaxed) > 0 {
        eprintln!("nyxc: {text}");
    }
}

/// How long a command may take before it shows what it is doing.
const PATIENCE: Duration = Duration::from_secs(1);

/// One line that shows what goes on, once it has gone on for a second: on a terminal, and nothing in a pipe. Gone when
/// dropped.
pub(super) struct Status {
    bar: indicatif::ProgressBar,
    /// Dropped to end the thread that shows the line.
    _done: Option<Sender<()>>,
}

impl Status {
    pub(super) fn new() -> Status {
        let bar = indicatif::ProgressBar::with_draw_target(None, indicatif::ProgressDrawTarget::hidden());
        if !std::io::stderr().is_terminal() || is_quiet() {
            return Status { bar, _done: None };
        }
        if let Ok(style) = indicatif::ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
            bar.set_style(style);
        }
        let (done, wait) = channel::<()>();
        let shown = bar.clone();
        // Without the thread the command runs all the same.
        let thread = std::thread::Builder::new().spawn(move || {
            use std::sync::mpsc::RecvTimeoutError::Timeout;
            if wait.recv_timeout(PATIENCE) == Err(Timeout) {
                shown.set_draw_target(indicatif::ProgressDrawTarget::stderr());
                while wait.recv_timeout(Duration::from_millis(100)) == Err(Timeout) {
                    shown.tick();
                }
            }
            shown.finish_and_clear();
        });
        Status { bar, _done: thread.is_ok().then_some(done) }
    }

    /// This goes on now.
    pub(super) fn doing(&self, what: impl std::fmt::Display) {
        detail(&what);
        self.bar.set_message(what.to_string());
    }

    /// `n` of `all` are done of it.
    pub(super) fn step(&self, what: &str, n: usize, all: usize) {
        if self._done.is_some() {
            self.bar.set_message(format!("{what}: {n} of {all}"));
        }
    }
}

impl Drop for Status {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
