//! Ends without an error value: the host has no memory left, or a file that is mapped was cut short. The program
//! says so, leaves no partial file, and exits with 6, as for any other failure of what surrounds it.

use super::write;
use crate::failure::FailureKind;
use std::alloc::{GlobalAlloc, Layout, System};
use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whether the command prints one JSON document, whatever happens.
static JSON: AtomicBool = AtomicBool::new(false);

/// The system's allocator; where that has nothing, the process ends with exit code 6 instead of being aborted. For
/// `#[global_allocator]` of a program, not for libraries: callers that could do with less memory are not asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allocator;

// SAFETY: every call goes to the system's allocator as it came, and what that gives is given on, but for null.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise, here and below.
        some(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        some(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: as above.
        some(unsafe { System.realloc(ptr, layout, new_size) }, new_size)
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(ptr, layout) }
    }
}

fn some(ptr: *mut u8, n_bytes: usize) -> *mut u8 {
    if ptr.is_null() {
        end(FailureKind::Memory, format_args!("out of memory: {n_bytes} bytes more were asked of the host"));
    }
    ptr
}

#[cfg(unix)]
unsafe extern "C" {
    /// `std::set_new_handler` of C++ (C++17, section 21.6.3.3), as the Itanium ABI names it: what `new` calls where
    /// there is no memory.
    #[link_name = "_ZSt15set_new_handlerPFvvE"]
    fn set_new_handler(handler: Option<extern "C" fn()>) -> Option<extern "C" fn()>;
}

/// Makes the shader compiler's and the drivers' `new` end the program as [`Allocator`] does. An exception would leave
/// glslang's lock taken, and every other thread waiting for it.
pub(super) fn report_no_memory_for_new() {
    extern "C" fn report() {
        end(
            FailureKind::Memory,
            format_args!("out of memory: the shader compiler or the driver asked for more of the host's"),
        );
    }
    #[cfg(unix)]
    // SAFETY: the handler has the type that the standard asks for, and may end the program.
    unsafe {
        set_new_handler(Some(report));
    }
    #[cfg(not(unix))]
    let _ = report;
}

/// Makes reading beyond the end of a mapped file, which another process cut short, end the program with a message and
/// exit code 6.
pub(super) fn report_files_cut_short() {
    let report =
        || end(FailureKind::Io, format_args!("a file that was being read was cut short by another process (SIGBUS)"));
    #[cfg(unix)]
    // SAFETY: the fault is in the thread that reads the file, which holds no lock of standard error then; the handler
    // does not return, allocates only where the reader of standard output is notified, and takes other locks only where
    // they are free. Without it the signal would end the process at once.
    let _ = unsafe { signal_hook::low_level::register(signal_hook::consts::SIGBUS, report) };
    #[cfg(not(unix))]
    let _ = report;
}

/// Notes that standard output is to have one JSON document.
pub(super) fn tell_json() {
    // Its buffer is allocated where it is first used.
    let _ = std::io::stdout().flush();
    JSON.store(true, Ordering::Relaxed);
}

/// Ends the process, once, with what can be done without memory: message, partial files, exit code.
fn end(kind: FailureKind, message: std::fmt::Arguments<'_>) -> ! {
    static ENDING: AtomicBool = AtomicBool::new(false);
    let (kind, code) = (kind.name(), i32::from(kind.exit_code()));
    if ENDING.swap(true, Ordering::SeqCst) {
        // Another thread is at it; or this one, and could not.
        std::thread::sleep(Duration::from_millis(200));
        signal_hook::low_level::exit(code);
    }
    write::remove_partial_files();
    // Standard error has no buffer.
    let _ = writeln!(std::io::stderr(), "nyxc: {message}");
    if JSON.load(Ordering::Relaxed) {
        let fields = r#""node": null, "needed_bytes": null, "budget_bytes": null, "min_feasible_bytes": null, "free_bytes": null"#;
        let _ = writeln!(std::io::stdout(), r#"{{"error": {{"kind": "{kind}", "message": "{message}", {fields}}}}}"#);
    }
    signal_hook::low_level::exit(code);
}
