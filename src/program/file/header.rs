//! The header of a safetensors file, written in a fixed order and read with every size checked first.

use super::{FORMAT, FileError, content, damaged};
use crate::ir::{DType, TensorType};
use safetensors::tensor::Metadata;
use serde::{Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;

/// The largest header that readers of safetensors accept, in bytes.
const MAX_BYTES: u64 = 100_000_000;

/// A header: texts by key, and tensors in the order of their data.
#[derive(Default)]
pub(super) struct Header {
    texts: BTreeMap<String, String>,
    tensors: Vec<(String, Entry)>,
    /// Where the data begins, in bytes from the start of the file.
    data: usize,
    /// Index in `tensors` by name.
    index: BTreeMap<String, usize>,
}

/// One tensor, with safetensors' own words.
#[derive(Clone, Serialize)]
pub(super) struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl Entry {
    pub(super) fn new(dtype: &str, shape: Vec<usize>, n_bytes: u64) -> Entry {
        Entry { dtype: dtype.to_owned(), shape, data_offsets: [0, n_bytes] }
    }
}

/// The dtype by which safetensors knows this type, and bytes of one element; `None` where it travels as plain bytes.
pub(super) fn native(ty: &TensorType) -> Option<(&'static str, u64)> {
    if ty.packing.is_some() {
        return None;
    }
    let name = match ty.dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        DType::F64 => "F64",
        DType::I8 => "I8",
        DType::U8 => "U8",
        DType::I16 => "I16",
        DType::U16 => "U16",
        DType::I32 => "I32",
        DType::U32 => "U32",
        DType::I64 => "I64",
        DType::U64 => "U64",
        DType::Bool => "BOOL",
        _ => return None,
    };
    Some((name, u64::from(ty.dtype.bits() / 8)))
}

impl Header {
    /// Adds a tensor behind the last.
    pub(super) fn push(&mut self, name: &str, mut entry: Entry) {
        let start = self.tensors.last().map_or(0, |(_, e)| e.data_offsets[1]);
        entry.data_offsets = [start, start + entry.data_offsets[1]];
        self.tensors.push((name.to_owned(), entry));
    }

    pub(super) fn set(&mut self, key: &str, text: String) {
        self.texts.insert(key.to_owned(), text);
    }

    /// Length, JSON and padding to 8 bytes.
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, FileError> {
        let mut texts = self.texts.clone();
        texts.insert("nyxc_hash".to_owned(), self.hash());
        let mut json = format!("{{\"__metadata__\":{}", super::json("header", &texts)?);
        for (name, entry) in &self.tensors {
            json.push_str(&format!(",{}:{}", super::json("header", name)?, super::json("header", entry)?));
        }
        json.push('}');
        let n_bytes = json.len().next_multiple_of(8);
        if n_bytes as u64 > MAX_BYTES {
            return Err(content(
                "header",
                &format!("plans and names take {n_bytes} bytes, at most {MAX_BYTES} are allowed"),
            ));
        }
        let mut bytes = (n_bytes as u64).to_le_bytes().to_vec();
        bytes.extend(json.into_bytes());
        bytes.resize(8 + n_bytes, b' ');
        Ok(bytes)
    }

    /// Reads and checks a header: nothing is allocated that the file's own length does not bound.
    pub(super) fn read(file: &[u8]) -> Result<Header, FileError> {
        let given = file.len() as u64;
        let foreign = |fault: String| FileError::Foreign { fault };
        let Some(length) = file.first_chunk::<8>().map(|b| u64::from_le_bytes(*b)) else {
            return Err(FileError::Length { given, needed: 8 });
        };
        if length > MAX_BYTES {
            return Err(foreign(format!("its header would have {length} bytes, at most {MAX_BYTES} are allowed")));
        }
        let data = 8 + length as usize;
        let json = file.get(8..data).ok_or(FileError::Length { given, needed: data as u64 })?;
        let metadata: Metadata = serde_json::from_slice(json).map_err(|e| foreign(e.to_string()))?;
        let needed = (data as u64).saturating_add(metadata.data_len() as u64);
        if needed != given {
            return Err(FileError::Length { given, needed });
        }
        let mut header = Header { data, ..Header::default() };
        header.texts.extend(metadata.metadata().iter().flatten().map(|(key, text)| (key.clone(), text.clone())));
        let version = header
            .texts
            .get("nyxc_format")
            .ok_or_else(|| foreign("a safetensors file without nyxc_format".to_owned()))?;
        if version != FORMAT {
            return Err(FileError::Version { given: version.clone() });
        }
        for name in metadata.offset_keys() {
            let info = metadata.info(&name).ok_or_else(|| content(&name, "it has no place"))?;
            let data_offsets = [info.data_offsets.0 as u64, info.data_offsets.1 as u64];
            header.index.insert(name.clone(), header.tensors.len());
            header
                .tensors
                .push((name, Entry { dtype: format!("{:?}", info.dtype), shape: info.shape.clone(), data_offsets }));
        }
        let expected =
            header.texts.remove("nyxc_hash").ok_or_else(|| foreign("a header without nyxc_hash".to_owned()))?;
        damaged("header", header.hash(), &expected)?;
        Ok(header)
    }

    /// First byte in the file, and length. Both are in the file: [`Header::read`] checked it.
    pub(super) fn place(&self, name: &str) -> Result<(usize, usize), FileError> {
        let entry = self.index.get(name).and_then(|&i| self.tensors.get(i));
        let [start, end] = entry.ok_or_else(|| content(name, "the file holds no such tensor"))?.1.data_offsets;
        Ok((self.data + start as usize, (end - start) as usize))
    }

    pub(super) fn n_tensors(&self) -> usize {
        self.tensors.len()
    }

    pub(super) fn text(&self, key: &str) -> Result<&str, FileError> {
        self.texts.get(key).map(String::as_str).ok_or_else(|| content("header", &format!("it has no {key}")))
    }

    pub(super) fn json<T: DeserializeOwned>(&self, key: &str) -> Result<T, FileError> {
        serde_json::from_str(self.text(key)?).map_err(|e| content(key, &e.to_string()))
    }

    /// Every text and every tensor's description, each with its length before it.
    fn hash(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        let mut feed = |bytes: &[u8]| {
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        for (key, text) in &self.texts {
            feed(key.as_bytes());
            feed(text.as_bytes());
        }
        // Tensors without elements may begin at one place: there the order of the file is not that in which it is read.
        let mut tensors: Vec<_> = self.tensors.iter().collect();
        tensors.sort_by(|a, b| (a.1.data_offsets, &a.0).cmp(&(b.1.data_offsets, &b.0)));
        for (name, entry) in tensors {
            feed(name.as_bytes());
            feed(entry.dtype.as_bytes());
            let sizes = entry.shape.iter().map(|&n| n as u64).chain(entry.data_offsets);
            feed(&sizes.flat_map(u64::to_le_bytes).collect::<Vec<u8>>());
        }
        hasher.finalize().to_string()
    }
}
