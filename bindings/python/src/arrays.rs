//! NumPy arrays as tensors, and back.
//!
//! NumPy has no bf16, no f8 and no integers of fewer than 8 bits. Where `ml_dtypes` is installed its types stand for
//! them, as `nyxc.arrays` says; everywhere they may be given widened (f32, int8, uint8), as in `.npz` files.

use nyxc::failure::{Failure, FailureKind};
use nyxc::ir::{DType, Tensor, TensorType};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyDict, PyList};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bytes of an array, which is kept alive by this.
struct Borrowed {
    _array: Py<PyAny>,
    first: *const u8,
    len: usize,
}

// SAFETY: the memory belongs to an array that this holds a reference to, and is only read. As everywhere with NumPy,
// whoever writes to an array that is being read in another thread races with that thread.
unsafe impl Send for Borrowed {}
// SAFETY: as above.
unsafe impl Sync for Borrowed {}

impl AsRef<[u8]> for Borrowed {
    fn as_ref(&self) -> &[u8] {
        if self.len == 0 {
            return &[];
        }
        // SAFETY: NumPy says that `len` bytes from `first` belong to the array: it is contiguous, and its pointer and
        // size were read from it (`tensor`). The array lives as long as this.
        unsafe { std::slice::from_raw_parts(self.first, self.len) }
    }
}

/// NumPy's name of a type, that of `ml_dtypes` where NumPy has none; `None` where neither stores it as nyxc does.
fn numpy_name(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::F32 => "float32",
        DType::F16 => "float16",
        DType::F64 => "float64",
        DType::BF16 => "bfloat16",
        DType::F8E4M3 => "float8_e4m3fn",
        DType::F8E4M3Fnuz => "float8_e4m3fnuz",
        DType::F8E5M2 => "float8_e5m2",
        DType::F8E5M2Fnuz => "float8_e5m2fnuz",
        DType::F8E8M0 => "float8_e8m0fnu",
        DType::I8 => "int8",
        DType::U8 => "uint8",
        DType::I16 => "int16",
        DType::U16 => "uint16",
        DType::I32 => "int32",
        DType::U32 => "uint32",
        DType::I64 => "int64",
        DType::U64 => "uint64",
        DType::Bool => "bool",
        // Several elements to a byte here, one there.
        DType::F4E2M1 | DType::I2 | DType::U2 | DType::I4 | DType::U4 | DType::Str => return None,
    })
}

/// The type of an array by NumPy's name.
fn dtype_of(name: &str) -> Option<DType> {
    use DType::*;
    const ALL: [DType; 18] = [
        F32, F16, F64, BF16, F8E4M3, F8E4M3Fnuz, F8E5M2, F8E5M2Fnuz, F8E8M0, I8, U8, I16, U16, I32, U32, I64, U64, Bool,
    ];
    ALL.into_iter().find(|dtype| numpy_name(*dtype) == Some(name))
}

/// An array as a tensor. A contiguous one is borrowed; others (strided, of another byte order, lists) are copied by
/// NumPy first.
///
/// # Errors
/// It is no array, or of a type that no tensor has.
pub(crate) fn tensor(py: Python<'_>, name: &str, array: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let array = py.import("nyxc.arrays")?.call_method1("prepared", (array, name))?;
    let numpy_dtype: String = array.getattr("dtype")?.getattr("name")?.extract()?;
    let Some(dtype) = dtype_of(&numpy_dtype) else {
        return Err(PyTypeError::new_err(format!("array {name:?} is of type {numpy_dtype}, which no input has")));
    };
    let dims: Vec<usize> = array.getattr("shape")?.extract()?;
    let len: usize = array.getattr("nbytes")?.extract()?;
    let (first, _): (usize, bool) = array.getattr("__array_interface__")?.get_item("data")?.extract()?;
    let ty = TensorType::of(dtype, &dims);
    // Elements are read as they are typed; NumPy can be given memory that does not keep to their alignment.
    if first % usize::try_from(dtype.bits().div_ceil(8)).unwrap_or(1).max(1) != 0 {
        let bytes: Vec<u8> = array.call_method0("tobytes")?.extract()?;
        return Tensor::from_bytes(ty, bytes).map_err(|e| PyValueError::new_err(e.to_string()));
    }
    let source = Borrowed { _array: array.unbind(), first: first as *const u8, len };
    Tensor::from_source(ty, Arc::new(source), 0, len).map_err(|e| PyValueError::new_err(e.to_string()))
}

/// Arrays by name.
///
/// # Errors
/// As [`tensor`].
pub(crate) fn tensors(py: Python<'_>, arrays: &Bound<'_, PyDict>) -> PyResult<BTreeMap<String, Tensor>> {
    let one = |(name, array): (Bound<'_, PyAny>, Bound<'_, PyAny>)| {
        let name: String = name.extract()?;
        let tensor = tensor(py, &name, &array)?;
        Ok((name, tensor))
    };
    arrays.iter().map(one).collect()
}

/// A tensor as an array that owns its memory: of the type of `ml_dtypes` where NumPy has none and that is installed,
/// else widened.
///
/// # Errors
/// It is text, or NumPy refuses it.
pub(crate) fn array<'py>(py: Python<'py>, tensor: &Tensor) -> PyResult<Bound<'py, PyAny>> {
    let arrays = py.import("nyxc.arrays")?;
    let has = |name: &str| arrays.call_method1("has_type", (name,))?.extract::<bool>();
    let own = match numpy_name(tensor.dtype()) {
        Some(name) if has(name)? => Some((name, tensor.clone())),
        _ => None,
    };
    let (name, stored) = match own {
        Some(own) => own,
        None => {
            let wide = tensor.widened().map_err(|e| PyValueError::new_err(e.to_string()))?;
            let name = numpy_name(wide.dtype()).ok_or_else(|| {
                PyTypeError::new_err(format!("a result of type {} has no NumPy array", tensor.dtype()))
            })?;
            (name, wide)
        }
    };
    let bytes = stored.bytes().map_err(|e| PyValueError::new_err(e.to_string()))?;
    let shape = PyList::new(py, stored.dims())?;
    // A narrow type of few bits is stored as its own where there is one: int4 of ml_dtypes has one element a byte.
    arrays.call_method1("owned", (PyByteArray::new(py, bytes), name, shape, tensor.dtype().to_string()))
}

/// A failure of an argument.
pub(crate) fn usage(message: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Usage, message)
}
