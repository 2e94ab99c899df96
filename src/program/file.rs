//! The `.nyx` file: a valid safetensors file.
//!
//! ```text
//! 8 bytes          length of the header, little-endian
//! header           JSON: `__metadata__` and, for each tensor, its dtype, shape and place
//!   nyxc_format    "2"
//!   model          the model's name
//!   target         JSON of the target
//!   plans          JSON of the plans
//!   constants      JSON: [name of the tensor, type as the text IR has it], in the program's order
//!   shaders        JSON: [name of the tensor, name of the kernel], in the program's order
//!   nyxc_hash      BLAKE3 of all of the above and of each tensor's name, dtype, shape and place
//! data             shader/HASH (U32) first, then constant/HASH (their own dtype; packed and 4-bit ones U8)
//! ```
//! Tensors are named by their content, so the header's hash and theirs cover every byte of the file. The same program
//! gives the same bytes.

mod header;
#[cfg(test)]
mod tests;

use super::{Program, ProgramError, Shader, hex, parse_hex};
use crate::ir::{Source, Tensor, text};
use header::{Entry, Header, native};
use indexmap::IndexMap;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// The version of the format that this code writes, and the only one that it reads.
pub const FORMAT: &str = "2";

/// Why a program cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum FileError {
    #[error("the file cannot be read or written")]
    Io(#[from] std::io::Error),
    #[error("no .nyx file: {fault}")]
    Foreign { fault: String },
    #[error("the file has {given} bytes, its header says {needed}: it is cut short or was added to")]
    Length { given: u64, needed: u64 },
    #[error("the file has format version {given:?}, this nyxc reads {FORMAT:?}")]
    Version { given: String },
    #[error("{place} is damaged: its hash is {found}, the file says {expected}")]
    Hash { place: String, found: String, expected: String },
    #[error("{place}: {fault}")]
    Content { place: String, fault: String },
    #[error("the program does not keep its own rules")]
    Program(#[from] ProgramError),
}

/// Writes a program. The caller writes beside the final name and renames, as for every output.
///
/// # Errors
/// The program does not pass [`Program::check`], or the writer fails.
pub fn write(program: &Program, mut to: impl Write) -> Result<(), FileError> {
    program.check()?;
    let mut header = Header::default();
    let mut shaders = Vec::new();
    for (hash, shader) in &program.shaders {
        let name = format!("shader/{hash}");
        header.push(&name, Entry::new("U32", vec![shader.spirv.len()], shader.spirv.len() as u64 * 4));
        shaders.push((name, shader.name.clone()));
    }
    let mut constants = Vec::new();
    for (hash, tensor) in &program.constants {
        constants.push((format!("constant/{}", hex(*hash)), tensor.ty().to_string()));
    }
    // Wide elements first: then every tensor is aligned to its elements, because each size before it is a multiple of
    // them.
    let mut order: Vec<(u64, usize)> = Vec::new();
    for (i, tensor) in program.constants.values().enumerate() {
        order.push((native(tensor.ty()).map_or(1, |(_, bytes)| bytes), i));
    }
    order.sort_by_key(|&(width, i)| (std::cmp::Reverse(width), i));
    let tensors: Vec<&Tensor> = program.constants.values().collect();
    for &(_, i) in &order {
        let (name, tensor) = (&constants[i].0, tensors[i]);
        let n_bytes = absent(name, tensor)?.len();
        let entry = match native(tensor.ty()) {
            Some((dtype, _)) => Entry::new(dtype, tensor.dims(), n_bytes as u64),
            None => Entry::new("U8", vec![n_bytes], n_bytes as u64),
        };
        header.push(name, entry);
    }
    header.set("nyxc_format", FORMAT.to_owned());
    header.set("model", program.model.clone());
    header.set("target", json("target", &program.target)?);
    header.set("plans", json("plans", &program.plans)?);
    header.set("constants", json("constants", &constants)?);
    header.set("shaders", json("shaders", &shaders)?);
    to.write_all(&header.to_bytes()?)?;
    for shader in program.shaders.values() {
        let bytes: Vec<u8> = shader.spirv.iter().flat_map(|word| word.to_le_bytes()).collect();
        to.write_all(&bytes)?;
    }
    for (_, i) in order {
        to.write_all(absent(&constants[i].0, tensors[i])?)?;
    }
    Ok(to.flush()?)
}

/// The bytes that [`write`] writes.
///
/// # Errors
/// As for [`write`].
pub fn to_bytes(program: &Program) -> Result<Vec<u8>, FileError> {
    let mut bytes = Vec::new();
    write(program, &mut bytes)?;
    Ok(bytes)
}

/// Reads a program; its constants are views of `bytes`.
///
/// # Errors
/// The bytes are cut short, altered, of another version, or no `.nyx` file; the message names the place and the
/// numbers.
pub fn read(bytes: Source) -> Result<Program, FileError> {
    let header = Header::read((*bytes).as_ref())?;
    let target = header.json("target")?;
    let plans = header.json("plans")?;
    let (mut constants, mut shaders) = (IndexMap::new(), IndexMap::new());
    for (name, kernel) in header.json::<Vec<(String, String)>>("shaders")? {
        let Some(hash) = name.strip_prefix("shader/") else {
            return Err(content(&name, "a shader's name begins with shader/"));
        };
        let (start, len) = header.place(&name)?;
        let words = (*bytes)
            .as_ref()
            .get(start..start + len)
            .filter(|b| b.len() % 4 == 0)
            .ok_or_else(|| content(&name, "not made of words"))?;
        let spirv = words.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let shader = Shader { name: kernel, spirv };
        damaged(&name, shader.hash(), hash)?;
        shaders.insert(hash.to_owned(), shader);
    }
    for (name, ty) in header.json::<Vec<(String, String)>>("constants")? {
        let Some(hash) = name.strip_prefix("constant/").and_then(parse_hex) else {
            return Err(content(&name, "a constant's name is constant/ and 64 hexadecimal digits"));
        };
        let ty = text::parse_type(&ty).map_err(|e| content(&name, &e.to_string()))?;
        let (start, len) = header.place(&name)?;
        let tensor = Tensor::from_source(ty, bytes.clone(), start, len).map_err(|e| content(&name, &e.to_string()))?;
        constants.insert(hash, tensor);
    }
    if constants.len() + shaders.len() != header.n_tensors() {
        let (listed, held) = (constants.len() + shaders.len(), header.n_tensors());
        return Err(content(
            "header",
            &format!("it lists {listed} constants and shaders, the file holds {held} tensors"),
        ));
    }
    let program = Program { model: header.text("model")?.to_owned(), target, plans, constants, shaders };
    program.check()?;
    Ok(program)
}

/// Maps a file and reads the program in it. Constants stay in the map: whoever cuts the file short before they are on
/// the device makes reading them raise SIGBUS, which ends a process that has no handler (the command line has one, and
/// exits with 6). [`read`] of bytes in memory has no such end.
///
/// # Errors
/// As for [`read`], and where the file cannot be opened.
pub fn open(path: &Path) -> Result<Program, FileError> {
    let file = std::fs::File::open(path)?;
    // SAFETY: the mapping is read-only and private to this process's view. Its bytes may change only if another process
    // writes the file in place, which no tool of ours does (outputs are written beside and renamed, so an old mapping
    // keeps the old file); nothing derives a pointer, length or index from mapped bytes after they were checked, since
    // header, plans and shaders are copied out while reading.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    read(Arc::new(map))
}

fn json(place: &str, value: &impl serde::Serialize) -> Result<String, FileError> {
    serde_json::to_string(value).map_err(|e| content(place, &e.to_string()))
}

fn absent<'a>(name: &str, tensor: &'a Tensor) -> Result<&'a [u8], FileError> {
    tensor.bytes().map_err(|e| content(name, &e.to_string()))
}

fn content(place: &str, fault: &str) -> FileError {
    FileError::Content { place: place.to_owned(), fault: fault.to_owned() }
}

fn damaged(place: &str, found: String, expected: &str) -> Result<(), FileError> {
    // A fuzzer cannot find hashes, and is to reach the code after them.
    if found == expected || cfg!(fuzzing) {
        Ok(())
    } else {
        Err(FileError::Hash { place: place.to_owned(), found, expected: expected.to_owned() })
    }
}
