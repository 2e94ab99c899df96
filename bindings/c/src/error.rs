//! Failures across the edge: a status, and the last error of a thread as JSON.

use nyxc_core::failure::{Failure, FailureKind};
use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a call came to: the exit codes of the command line.
#[repr(C)]
#[allow(non_camel_case_types, reason = "a name of C")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum nyxc_status {
    /// All went well.
    Ok = 0,
    /// An argument is wrong: a null pointer, text that is no UTF-8, an option that is not known.
    Usage = 2,
    /// The model, program, file or index is bad or not supported, or a bug of nyxc.
    Bad = 3,
    /// Nothing that is permitted fits the budget.
    OverBudget = 4,
    /// A device failed, is absent or lacks what the program needs.
    Device = 5,
    /// A file cannot be read or written, or the host has no memory left.
    Io = 6,
}

impl nyxc_status {
    fn of(kind: FailureKind) -> nyxc_status {
        match kind.exit_code() {
            2 => nyxc_status::Usage,
            4 => nyxc_status::OverBudget,
            5 => nyxc_status::Device,
            6 => nyxc_status::Io,
            _ => nyxc_status::Bad,
        }
    }
}

thread_local! {
    static LAST: RefCell<CString> = RefCell::default();
}

/// Text without the byte that ends it in C.
pub(crate) fn c_string(text: String) -> CString {
    CString::new(text.replace('\0', "\u{fffd}")).unwrap_or_default()
}

/// Runs one call. Its failure is kept for [`nyxc_last_error`]; a panic does not cross the edge and is a bug, which the
/// error says.
pub(crate) fn call(body: impl FnOnce() -> Result<(), Failure>) -> nyxc_status {
    let failure = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => {
            LAST.with(|last| last.take());
            return nyxc_status::Ok;
        }
        Ok(Err(failure)) => failure,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Failure::new(FailureKind::Bug, format!("a bug of nyxc: {}", text.unwrap_or_default()))
        }
    };
    let status = nyxc_status::of(failure.kind);
    LAST.with(|last| *last.borrow_mut() = c_string(failure.json().to_string()));
    status
}

/// The failure of the last call of this thread as JSON: `{"error": {"kind", "node", "message", "needed_bytes",
/// "budget_bytes", "min_feasible_bytes", "free_bytes"}}`; empty where it went well. Valid until this thread's next
/// call.
#[unsafe(no_mangle)]
pub extern "C" fn nyxc_last_error() -> *const c_char {
    LAST.with(|last| last.borrow().as_ptr())
}

/// The text that a pointer of the caller's stands for.
///
/// # Safety
/// It is null, or points to text that ends in 0 and lives for `'a`.
pub(crate) unsafe fn text<'a>(pointer: *const c_char, what: &str) -> Result<&'a str, Failure> {
    if pointer.is_null() {
        return Err(Failure::usage(format!("{what} is null")));
    }
    // SAFETY: not null; the caller keeps the rest.
    let text = unsafe { CStr::from_ptr(pointer) };
    text.to_str().map_err(|e| Failure::usage(format!("{what}: {e}")))
}

/// What a handle stands for.
///
/// # Safety
/// It is null, or was made by this library, not freed, and lives for `'a`.
pub(crate) unsafe fn handle<'a, T>(pointer: *const T, what: &str) -> Result<&'a T, Failure> {
    // SAFETY: null is told apart; the caller keeps the rest.
    unsafe { pointer.as_ref() }.ok_or_else(|| Failure::usage(format!("{what} is null")))
}

/// Puts a value where the caller wants it.
///
/// # Safety
/// `place` is null, or may be written.
pub(crate) unsafe fn put<T>(place: *mut T, value: T, what: &str) -> Result<(), Failure> {
    if place.is_null() {
        return Err(Failure::usage(format!("{what} is null")));
    }
    // SAFETY: not null; the caller keeps the rest. What was there is not read.
    unsafe { place.write(value) };
    Ok(())
}

/// The elements that a pointer and a count stand for.
///
/// # Safety
/// `n` is 0, or `pointer` points to `n` elements that live for `'a`.
pub(crate) unsafe fn elements<'a, T>(pointer: *const T, n: usize, what: &str) -> Result<&'a [T], Failure> {
    if n == 0 {
        return Ok(&[]);
    }
    if pointer.is_null() || !pointer.is_aligned() || n > isize::MAX as usize / size_of::<T>().max(1) {
        return Err(Failure::usage(format!("{what} is null, misaligned or too long ({n} elements)")));
    }
    // SAFETY: not null, aligned and of a size that a slice may have; the caller keeps the rest.
    Ok(unsafe { std::slice::from_raw_parts(pointer, n) })
}
