//! Programs: compiled, read and written.

use crate::error::{c_string, call, elements, handle, nyxc_status, put, text};
use nyxc_core::failure::Failure;
use nyxc_core::import::{DimBinding, ImportOptions, import};
use nyxc_core::passes::Settings;
use nyxc_core::program::{Program, file};
use nyxc_core::session::size::{self, Budget};
use nyxc_core::session::target::choose;
use nyxc_core::session::{Compile, compile};
use std::ffi::{CString, c_char};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// A program.
#[allow(non_camel_case_types, reason = "a name of C")]
pub struct nyxc_program {
    pub(crate) program: Program,
    report: CString,
}

/// How a model is compiled. Set all of it to 0 and `size` to `sizeof(nyxc_compile_options)`: what is 0 has its default,
/// and a library that knows fewer fields than its caller reads those that it knows.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types, reason = "a name of C")]
pub struct nyxc_compile_options {
    /// Bytes of this structure.
    pub size: usize,
    /// Peak device bytes: "7G", "min", "max", "50%"; null for 90 % of the target's heap.
    pub budget: *const c_char,
    /// "auto", "cpu", a shipped profile, or a profile as JSON; null for "auto".
    pub target: *const c_char,
    /// "budget", "tiered" or "uniform:FORMAT"; null for "budget".
    pub policy: *const c_char,
    /// Sizes of dimensions, "NAME=SIZE" each.
    pub dims: *const *const c_char,
    /// How many.
    pub n_dims: usize,
    /// Formats of nodes, "PATTERN=FORMAT" each; the last that matches wins.
    pub precision: *const *const c_char,
    /// How many.
    pub n_precision: usize,
    /// Threads; 0 for one a core.
    pub n_threads: usize,
}

impl nyxc_compile_options {
    /// What the caller asks for.
    ///
    /// # Safety
    /// Pointers are null, or to what their fields say.
    unsafe fn read(&self) -> Result<(ImportOptions, Compile, Option<Budget>), Failure> {
        let optional = |pointer: *const c_char, what: &str, default: &'static str| {
            // SAFETY: the caller of `read` keeps that it is text where it is not null.
            if pointer.is_null() { Ok(default) } else { unsafe { text(pointer, what) } }
        };
        let list = |pointer, n, what: &str| {
            // SAFETY: the caller of `read` keeps that there are so many pointers to texts.
            let all: &[*const c_char] = unsafe { elements(pointer, n, what) }?;
            all.iter()
                // SAFETY: as above.
                .map(|entry: &*const c_char| unsafe { text(*entry, what) })
                .collect::<Result<Vec<&str>, Failure>>()
        };
        let dims = list(self.dims, self.n_dims, "dims")?;
        let dims = dims.into_iter().map(DimBinding::parse).collect::<Result<_, _>>()?;
        let pins = list(self.precision, self.n_precision, "precision")?;
        let budget = optional(self.budget, "budget", "")?;
        let settings = Settings {
            policy: optional(self.policy, "policy", "budget")?.parse().map_err(Failure::usage)?,
            pins: pins.into_iter().map(str::parse).collect::<Result<_, _>>().map_err(Failure::usage)?,
            ..Settings::default()
        };
        let target = choose(optional(self.target, "target", "auto")?)?.target;
        let budget = (!budget.is_empty()).then(|| Budget::parse(budget)).transpose().map_err(Failure::usage)?;
        let import = ImportOptions { dims, ..ImportOptions::default() };
        Ok((import, Compile { settings, target, n_threads: self.n_threads }, budget))
    }
}

/// Compiles the ONNX model at `path`. `options` may be null.
///
/// # Safety
/// `path` is text; `options` is null or filled as it says; `*program` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_compile(
    path: *const c_char,
    options: *const nyxc_compile_options,
    program: *mut *mut nyxc_program,
) -> nyxc_status {
    call(|| {
        let start = Instant::now();
        // SAFETY: the caller keeps that `path` is text.
        let path = unsafe { text(path, "path") }?;
        // SAFETY: all fields may be 0: pointers are null, counts 0.
        let mut own: nyxc_compile_options = unsafe { std::mem::zeroed() };
        if !options.is_null() {
            // SAFETY: `options` points to a structure that begins with its size.
            let size = unsafe { options.cast::<usize>().read_unaligned() };
            if size < size_of::<usize>() || size > 4096 {
                return Err(Failure::usage(format!("options.size is {size}: set it to sizeof(nyxc_compile_options)")));
            }
            // SAFETY: so many bytes are there, and no more than `own` has are written.
            unsafe {
                std::ptr::copy_nonoverlapping(
                    options.cast::<u8>(),
                    (&raw mut own).cast::<u8>(),
                    size.min(size_of::<nyxc_compile_options>()),
                );
            }
        }
        // SAFETY: the caller keeps that the pointers are what their fields say.
        let (import_options, mut compile_options, budget) = unsafe { own.read() }?;
        let (graph, found) = import(Path::new(path), &import_options, &nyxc_core::ops::registry())?;
        compile_options.settings.fixed_inputs = found.fixed;
        if let Some(budget) = budget {
            compile_options.settings.budget_bytes = Some(budget.resolve(&graph, &compile_options, &|_, _, _| {})?);
        }
        let compiled = compile(&graph, &compile_options, &|_, _, _| {}, None)?;
        let report = compiled.report(&compile_options, start.elapsed().as_secs_f64()).to_string();
        let made = Box::new(nyxc_program { program: compiled.program, report: c_string(report) });
        // SAFETY: the caller keeps that `*program` may be written.
        unsafe { put(program, Box::into_raw(made), "program") }
    })
}

/// Reads a program from the bytes of a `.nyx` file, which are copied.
///
/// # Safety
/// There are `len` bytes at `bytes`; `*program` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_program_read(
    bytes: *const u8,
    len: usize,
    program: *mut *mut nyxc_program,
) -> nyxc_status {
    call(|| {
        // SAFETY: the caller keeps that there are so many bytes.
        let bytes = unsafe { elements(bytes, len, "bytes") }?.to_vec();
        let read = file::read(Arc::new(bytes))?;
        let made = Box::new(nyxc_program { program: read, report: CString::default() });
        // SAFETY: the caller keeps that `*program` may be written.
        unsafe { put(program, Box::into_raw(made), "program") }
    })
}

/// Writes a program to a `.nyx` file: beside its place first, then renamed.
///
/// # Safety
/// `program` is a live handle, `path` text.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_program_write(program: *const nyxc_program, path: *const c_char) -> nyxc_status {
    call(|| {
        // SAFETY: the caller keeps that it is a live handle.
        let program = unsafe { handle(program, "program") }?;
        // SAFETY: the caller keeps that `path` is text.
        let path = Path::new(unsafe { text(path, "path") }?);
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}.part", std::process::id()));
        let bytes = file::to_bytes(&program.program)?;
        let write = || std::fs::write(&beside, bytes).and_then(|()| std::fs::rename(&beside, path));
        write().map_err(|error| {
            // The error that counts is that of the write.
            let _ = std::fs::remove_file(&beside);
            Failure::io(path, error)
        })
    })
}

/// The report of the compilation as JSON, as `nyxc compile --json` prints it; empty for a program that was read. Valid
/// until the program is freed; null for null.
///
/// # Safety
/// `program` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_program_report(program: *const nyxc_program) -> *const c_char {
    // SAFETY: the caller keeps that it is null or a live handle.
    unsafe { program.as_ref() }.map_or(std::ptr::null(), |program| program.report.as_ptr())
}

/// Planned device memory of load and run at their largest, in bytes; 0 for null.
///
/// # Safety
/// `program` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_program_planned_peak_bytes(program: *const nyxc_program) -> u64 {
    // SAFETY: the caller keeps that it is null or a live handle.
    let program = unsafe { program.as_ref() };
    program.and_then(|program| program.program.plans.first()).map_or(0, |plan| plan.planned_peak_bytes)
}

/// Frees a program. Sessions of it live on.
///
/// # Safety
/// `program` is null or a live handle, which is none afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_program_free(program: *mut nyxc_program) {
    if !program.is_null() {
        // SAFETY: made by `Box::into_raw`, and the caller keeps that it is freed once.
        drop(unsafe { Box::from_raw(program) });
    }
}

/// Reads a size as people write it: "7G", "512M", "7516192768".
///
/// # Safety
/// `size` is text; `*bytes` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_parse_size(size: *const c_char, bytes: *mut u64) -> nyxc_status {
    call(|| {
        // SAFETY: the caller keeps that it is text.
        let parsed = size::parse(unsafe { text(size, "size") }?).map_err(Failure::usage)?;
        // SAFETY: the caller keeps that it may be written.
        unsafe { put(bytes, parsed, "bytes") }
    })
}
