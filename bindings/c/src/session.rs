//! Sessions: a program on a device, and its runs.

use crate::error::{c_string, call, elements, handle, nyxc_status, put, text};
use crate::program::nyxc_program;
use nyxc_core::failure::Failure;
use nyxc_core::ir::{DType, Shape, Tensor, TensorType};
use nyxc_core::session::{DeviceChoice, Session};
use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Mutex, PoisonError};

/// A program loaded on a device. Threads may share it: runs take turns.
#[allow(non_camel_case_types, reason = "a name of C")]
pub struct nyxc_session {
    session: Mutex<Session>,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
}

/// An input or output as C sees it.
struct Port {
    name: CString,
    dtype: i32,
    /// -1 where each run chooses the size.
    dims: Vec<i64>,
}

/// What a run gave.
#[allow(non_camel_case_types, reason = "a name of C")]
pub struct nyxc_outputs {
    names: Vec<CString>,
    tensors: Vec<(Tensor, Vec<i64>)>,
}

/// A tensor: data in row-major order, little-endian.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
#[allow(non_camel_case_types, reason = "a name of C")]
pub struct nyxc_tensor {
    /// Its name.
    pub name: *const c_char,
    /// The element type by its number in ONNX's `TensorProto.DataType`: 1 float, 6 int32, 7 int64, 10 float16, ...
    pub dtype: i32,
    /// Sizes of the axes; -1 in a port where each run chooses it.
    pub dims: *const i64,
    /// How many axes.
    pub rank: usize,
    /// The elements; null in a port.
    pub data: *const c_void,
    /// Bytes of them.
    pub bytes: usize,
}

/// Loads a program on a device: "auto" (the best GPU, else the CPU reference), "vulkan", "cpu" or an index; null for
/// "auto".
///
/// # Safety
/// `program` is a live handle, `device` null or text; `*session` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_session_new(
    program: *const nyxc_program,
    device: *const c_char,
    session: *mut *mut nyxc_session,
) -> nyxc_status {
    call(|| {
        // SAFETY: the caller keeps that it is a live handle.
        let program = unsafe { handle(program, "program") }?;
        // SAFETY: the caller keeps that it is text where it is not null.
        let device = if device.is_null() { "auto" } else { unsafe { text(device, "device") }? };
        let choice = match device {
            "auto" => DeviceChoice::Auto,
            "vulkan" => DeviceChoice::Vulkan,
            "cpu" => DeviceChoice::Cpu,
            _ => DeviceChoice::Index(device.parse().map_err(|_| {
                Failure::usage(format!("device {device:?} is not one of auto, vulkan, cpu and an index"))
            })?),
        };
        let entry = program.program.entry();
        let port = |port: &nyxc_core::program::Port| Port {
            name: c_string(port.name.clone()),
            dtype: port.dtype.onnx(),
            dims: port.shape.iter().map(|dim| dim.known().unwrap_or(-1)).collect(),
        };
        let inputs = entry.into_iter().flat_map(|entry| &entry.inputs).map(port).collect();
        let outputs = entry.into_iter().flat_map(|entry| &entry.outputs).map(port).collect();
        let loaded = Mutex::new(Session::of(program.program.clone(), choice)?);
        let made = Box::new(nyxc_session { session: loaded, inputs, outputs });
        // SAFETY: the caller keeps that `*session` may be written.
        unsafe { put(session, Box::into_raw(made), "session") }
    })
}

/// How many inputs a session has; 0 for null.
///
/// # Safety
/// `session` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_session_n_inputs(session: *const nyxc_session) -> usize {
    // SAFETY: the caller keeps that it is null or a live handle.
    unsafe { session.as_ref() }.map_or(0, |session| session.inputs.len())
}

/// How many outputs a session has; 0 for null.
///
/// # Safety
/// `session` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_session_n_outputs(session: *const nyxc_session) -> usize {
    // SAFETY: the caller keeps that it is null or a live handle.
    unsafe { session.as_ref() }.map_or(0, |session| session.outputs.len())
}

/// Name, type and sizes of an input, valid while the session lives.
///
/// # Safety
/// `session` is a live handle; `*port` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_session_input(
    session: *const nyxc_session,
    index: usize,
    port: *mut nyxc_tensor,
) -> nyxc_status {
    call(|| {
        // SAFETY: the caller keeps that it is a live handle.
        let found = unsafe { handle(session, "session") }?.inputs.get(index);
        // SAFETY: the caller keeps that `*port` may be written.
        unsafe { put(port, described(found, index)?, "port") }
    })
}

/// Name, type and sizes of an output, valid while the session lives.
///
/// # Safety
/// `session` is a live handle; `*port` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_session_output(
    session: *const nyxc_session,
    index: usize,
    port: *mut nyxc_tensor,
) -> nyxc_status {
    call(|| {
        // SAFETY: the caller keeps that it is a live handle.
        let found = unsafe { handle(session, "session") }?.outputs.get(index);
        // SAFETY: the caller keeps that `*port` may be written.
        unsafe { put(port, described(found, index)?, "port") }
    })
}

fn described(port: Option<&Port>, index: usize) -> Result<nyxc_tensor, Failure> {
    let port = port.ok_or_else(|| Failure::usage(format!("there is no port {index}")))?;
    let (name, dims, rank) = (port.name.as_ptr(), port.dims.as_ptr(), port.dims.len());
    Ok(nyxc_tensor { name, dtype: port.dtype, dims, rank, data: std::ptr::null(), bytes: 0 })
}

/// Runs once. Inputs go by name; those with a default may be left out. Data is copied before the call returns.
///
/// # Safety
/// `session` is a live handle; there are `n` tensors at `inputs`, each with what its fields say; `*outputs` may be
/// written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_session_run(
    session: *const nyxc_session,
    inputs: *const nyxc_tensor,
    n: usize,
    outputs: *mut *mut nyxc_outputs,
) -> nyxc_status {
    call(|| {
        // SAFETY: the caller keeps that it is a live handle.
        let session = unsafe { handle(session, "session") }?;
        let mut arrays = BTreeMap::new();
        // SAFETY: the caller keeps that there are so many tensors.
        for input in unsafe { elements(inputs, n, "inputs") }? {
            // SAFETY: the caller keeps that the name is text.
            let name = unsafe { text(input.name, "an input's name") }?;
            // SAFETY: the caller keeps that there are so many sizes.
            let dims = unsafe { elements(input.dims, input.rank, "an input's dims") }?;
            // SAFETY: the caller keeps that there are so many bytes.
            let data = unsafe { elements(input.data.cast::<u8>(), input.bytes, "an input's data") }?;
            let dims: Option<Vec<usize>> = dims.iter().map(|n| usize::try_from(*n).ok()).collect();
            let wrong = |what: &dyn std::fmt::Display| Failure::file(format!("input {name:?}: {what}"));
            let dtype = DType::from_onnx(input.dtype).ok_or_else(|| wrong(&format!("no type {}", input.dtype)))?;
            let dims = dims.ok_or_else(|| wrong(&"a size is negative"))?;
            let ty = TensorType::new(dtype, Shape::of(&dims));
            let tensor = Tensor::from_bytes(ty, data.to_vec()).map_err(|e| wrong(&e))?;
            if arrays.insert(name.to_owned(), tensor).is_some() {
                return Err(wrong(&"given twice"));
            }
        }
        let outcome = session.session.lock().unwrap_or_else(PoisonError::into_inner).run_named(arrays)?;
        let with_dims = |tensor: Tensor| {
            let dims = tensor.dims().into_iter().map(|n| n as i64).collect();
            (tensor, dims)
        };
        let names = session.outputs.iter().map(|port| port.name.clone()).collect();
        let tensors = outcome.outputs.into_iter().map(with_dims).collect();
        let made = Box::new(nyxc_outputs { names, tensors });
        // SAFETY: the caller keeps that `*outputs` may be written.
        unsafe { put(outputs, Box::into_raw(made), "outputs") }
    })
}

/// An output of a run, valid until the outputs are freed.
///
/// # Safety
/// `outputs` is a live handle; `*tensor` may be written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_outputs_get(
    outputs: *const nyxc_outputs,
    index: usize,
    tensor: *mut nyxc_tensor,
) -> nyxc_status {
    call(|| {
        // SAFETY: the caller keeps that it is a live handle.
        let outputs = unsafe { handle(outputs, "outputs") }?;
        let missing = || Failure::usage(format!("there is no output {index}"));
        let (own, dims) = outputs.tensors.get(index).ok_or_else(missing)?;
        let name = outputs.names.get(index).ok_or_else(missing)?.as_ptr();
        let bytes = own.bytes().map_err(Failure::file)?;
        let given = nyxc_tensor {
            name,
            dtype: own.dtype().onnx(),
            dims: dims.as_ptr(),
            rank: dims.len(),
            data: bytes.as_ptr().cast(),
            bytes: bytes.len(),
        };
        // SAFETY: the caller keeps that `*tensor` may be written.
        unsafe { put(tensor, given, "tensor") }
    })
}

/// Frees what a run gave.
///
/// # Safety
/// `outputs` is null or a live handle, which is none afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_outputs_free(outputs: *mut nyxc_outputs) {
    if !outputs.is_null() {
        // SAFETY: made by `Box::into_raw`, and the caller keeps that it is freed once.
        drop(unsafe { Box::from_raw(outputs) });
    }
}

/// The most device memory held so far, in bytes; 0 on the CPU reference and for null.
///
/// # Safety
/// `session` is null or a live handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_session_measured_peak_bytes(session: *const nyxc_session) -> u64 {
    // SAFETY: the caller keeps that it is null or a live handle.
    let session = unsafe { session.as_ref() };
    session.map_or(0, |s| s.session.lock().unwrap_or_else(PoisonError::into_inner).measured_peak_bytes())
}

/// Unloads a program.
///
/// # Safety
/// `session` is null or a live handle, which is none afterwards.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nyxc_session_free(session: *mut nyxc_session) {
    if !session.is_null() {
        // SAFETY: made by `Box::into_raw`, and the caller keeps that it is freed once.
        drop(unsafe { Box::from_raw(session) });
    }
}
