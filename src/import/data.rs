//! Constant data: from the protobuf, moved and not copied where the file has it as raw bytes, or mapped from files
//! beside the model.

use super::error::{ImportError, Kind};
use crate::ir::{DType, Shape, Source, Tensor, TensorType};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use tract_onnx::pb::TensorProto;
use tract_onnx::pb::tensor_proto::DataLocation;

/// The files of external data in the model's folder, each mapped once.
pub(super) struct Files {
    /// The model's folder, canonical; `None` where the model came without one.
    dir: Option<PathBuf>,
    mapped: BTreeMap<PathBuf, Source>,
}

/// Maps a file for reading.
pub(super) fn map(path: &Path) -> std::io::Result<memmap2::Mmap> {
    let file = File::open(path)?;
    if file.metadata()?.is_dir() {
        return Err(std::io::Error::from(std::io::ErrorKind::IsADirectory));
    }
    // SAFETY: the mapping is private and read only, every byte pattern is a valid `u8`, and all readers check their
    // ranges against its length. That nobody changes the file meanwhile cannot be enforced: as for every tool that maps
    // its input, a writer could make the bytes change or, by truncating the file, raise SIGBUS (which the command line
    // turns into exit code 6); it cannot make us read or write memory that is not the mapping's.
    unsafe { memmap2::Mmap::map(&file) }
}

impl Files {
    /// Files below `dir`.
    pub(super) fn new(dir: Option<&Path>) -> Result<Files, ImportError> {
        let dir = dir.map(|dir| if dir.as_os_str().is_empty() { Path::new(".") } else { dir });
        let dir = dir
            .map(|dir| dir.canonicalize().map_err(|source| Kind::Io { path: dir.to_owned(), source }))
            .transpose()?;
        Ok(Files { dir, mapped: BTreeMap::new() })
    }

    fn open(&mut self, location: &str) -> Result<Source, String> {
        let dir = self.dir.as_ref().ok_or("the model came without a folder")?;
        let relative = Path::new(location);
        if location.is_empty() || !relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
        {
            return Err("only paths inside the model's folder are read".to_owned());
        }
        let path = dir.join(relative).canonicalize().map_err(|e| e.to_string())?;
        // A link may lead out of the folder, whatever its name looks like.
        if !path.starts_with(dir) {
            return Err("the link leads out of the model's folder".to_owned());
        }
        if let Some(source) = self.mapped.get(&path) {
            return Ok(source.clone());
        }
        if !path.is_file() {
            return Err("not a file".to_owned());
        }
        let source: Source = Arc::new(map(&path).map_err(|e| e.to_string())?);
        self.mapped.insert(path, source.clone());
        Ok(source)
    }

    /// Takes the data out of a tensor of the model.
    ///
    /// # Errors
    /// Its type or shape is none, its size is not what these ask for, or its file cannot be read.
    pub(super) fn tensor(&mut self, proto: TensorProto) -> Result<Tensor, ImportError> {
        let ty = tensor_type(&proto)?;
        if proto.data_location == Some(DataLocation::External as i32) {
            return self.external(proto, ty);
        }
        let name = proto.name.clone();
        let fail = |problem: String| ImportError::from(Kind::Tensor { name: name.clone(), problem });
        if proto.segment.is_some() {
            return Err(fail("is stored in segments, which are not supported".to_owned()));
        }
        let needed = ty.bytes().ok_or_else(|| fail(format!("{ty} does not fit the address space")))?;
        if !proto.raw_data.is_empty() {
            return Tensor::from_bytes(ty, proto.raw_data).map_err(|e| fail(e.to_string()));
        }
        let given = match ty.dtype {
            DType::F32 => proto.float_data.len() * 4,
            DType::F64 => proto.double_data.len() * 8,
            DType::I64 => proto.int64_data.len() * 8,
            DType::U64 => proto.uint64_data.len() * 8,
            DType::U32 => proto.uint64_data.len() * 4,
            dtype => proto.int32_data.len() * usize::try_from(dtype.bits().div_ceil(8)).unwrap_or(1),
        };
        if given as u64 != needed {
            return Err(fail(format!("{ty} needs {needed} bytes, {given} given")));
        }
        let source: Source = match ty.dtype {
            DType::F32 => Arc::new(Plain(proto.float_data)),
            DType::F64 => Arc::new(Plain(proto.double_data)),
            DType::I64 => Arc::new(Plain(proto.int64_data)),
            DType::U64 => Arc::new(Plain(proto.uint64_data)),
            DType::I32 => Arc::new(Plain(proto.int32_data)),
            DType::U32 => Arc::new(Plain::<u32>(narrow(&proto.uint64_data, ty.dtype).map_err(fail)?)),
            // 2- and 4-bit elements are packed first, so that each number carries a byte of them.
            dtype if dtype.bits() == 16 => Arc::new(Plain::<u16>(proto.int32_data.iter().map(|&v| v as u16).collect())),
            _ => Arc::new(Plain::<u8>(proto.int32_data.iter().map(|&v| v as u8).collect())),
        };
        Tensor::from_source(ty, source, 0, given).map_err(|e| fail(e.to_string()))
    }

    fn external(&mut self, proto: TensorProto, ty: TensorType) -> Result<Tensor, ImportError> {
        let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let file = entry("location").unwrap_or_default().to_owned();
        let needed = ty.bytes().unwrap_or(u64::MAX);
        let number = |key: &'static str| match entry(key).map(str::trim) {
            None | Some("") => Ok(None),
            Some(text) => text.parse::<u64>().map(Some).map_err(|_| (key, text.to_owned())),
        };
        let fail = |offset: u64, problem: String| Kind::External {
            name: proto.name.clone(),
            file: file.clone(),
            offset,
            needed,
            problem,
        };
        let unreadable =
            |(key, text): (&str, String)| fail(0, format!("its {key} is {text:?}, expected a number of bytes"));
        let offset = number("offset").map_err(unreadable)?.unwrap_or(0);
        // Left out, or written as 0: what the tensor needs.
        let length = number("length").map_err(unreadable)?.filter(|n| *n != 0).unwrap_or(needed);
        if length != needed {
            return Err(fail(offset, format!("its length is {length} bytes, {ty} needs {needed}")).into());
        }
        let source = self.open(&file).map_err(|problem| fail(offset, problem))?;
        let available = (*source).as_ref().len() as u64;
        if offset.checked_add(needed).is_none_or(|end| end > available) {
            return Err(fail(offset, format!("the file has {available} bytes")).into());
        }
        let (Ok(start), Ok(len)) = (usize::try_from(offset), usize::try_from(needed)) else {
            return Err(fail(offset, "beyond the address space".to_owned()).into());
        };
        Tensor::from_source(ty, source, start, len).map_err(|e| fail(offset, e.to_string()).into())
    }
}

/// The type that a tensor of the model says it has, its size in bytes known not to overflow.
fn tensor_type(proto: &TensorProto) -> Result<TensorType, ImportError> {
    let fail = |problem: String| ImportError::from(Kind::Tensor { name: proto.name.clone(), problem });
    let dtype = dtype(proto.data_type).map_err(&fail)?;
    let dims =
        proto.dims.iter().map(|&d| usize::try_from(d).map_err(|_| fail(format!("its dimension {d} is no size"))));
    let ty = TensorType::new(dtype, Shape::of(&dims.collect::<Result<Vec<_>, _>>()?));
    match ty.bytes().and_then(|bytes| isize::try_from(bytes).ok()) {
        Some(_) => Ok(ty),
        None => Err(fail(format!("{ty} does not fit the address space"))),
    }
}

/// The element type of this number, where nyxc computes with it.
pub(super) fn dtype(number: i32) -> Result<DType, String> {
    match DType::from_onnx(number) {
        Some(DType::Str) => Err("tensors of text are not supported".to_owned()),
        Some(dtype) => Ok(dtype),
        None => Err(format!("element type {number} is not supported")),
    }
}

fn narrow(values: &[u64], dtype: DType) -> Result<Vec<u32>, String> {
    values.iter().map(|&v| u32::try_from(v).map_err(|_| format!("{v} is no {dtype}"))).collect()
}

/// Numbers lent as bytes: the host is little-endian, as tensors are.
struct Plain<T>(Vec<T>);

impl<T: bytemuck::NoUninit> AsRef<[u8]> for Plain<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}
