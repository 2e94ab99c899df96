//! `.npy` arrays (NumPy's format 1.0, 2.0 and 3.0) and `.npz` files, a zip of them.
//!
//! f16 is `<f2`. Types that NumPy lacks are written widened ([`Tensor::widened`]): bf16 and floats of 8 and 4 bits as
//! f32, 2- and 4-bit integers as bytes of the same sign.

use crate::ir::{DType, Tensor, TensorType};
use std::collections::BTreeMap;
use std::io::{Read, Seek, Write};

/// Largest array accepted, in bytes: what a file claims is not believed further than that before it is read.
const MAX_BYTES: u64 = 1 << 36;

/// Reads those arrays that `wants` takes by name and type; the data of others is not unpacked, however much of it a
/// small file holds.
///
/// # Errors
/// The file is none, or an array is damaged, of a kind that is not read, or there twice; the message names it.
pub fn read(
    file: impl Read + Seek,
    wants: &mut dyn FnMut(&str, &TensorType) -> bool,
) -> Result<BTreeMap<String, Tensor>, String> {
    let mut archive = zip::ZipArchive::new(file).map_err(|e| format!("no .npz file: {e}"))?;
    let mut tensors = BTreeMap::new();
    for i in 0..archive.len() {
        let entry = archive.by_index(i).map_err(|e| format!("entry {i}: {e}"))?;
        let name = entry.name().strip_suffix(".npy").unwrap_or(entry.name()).to_owned();
        let tensor = read_npy(entry, &mut |ty| wants(&name, ty)).map_err(|e| format!("array {name:?}: {e}"))?;
        if let Some(tensor) = tensor
            && tensors.insert(name.clone(), tensor).is_some()
        {
            return Err(format!("array {name:?} is there twice"));
        }
    }
    Ok(tensors)
}

/// Reads one `.npy` array, if `wants` takes its type.
///
/// # Errors
/// It is none, is damaged, or of a kind that is not read.
pub fn read_npy(mut entry: impl Read, wants: &mut dyn FnMut(&TensorType) -> bool) -> Result<Option<Tensor>, String> {
    let mut exactly = |n: usize| -> Result<Vec<u8>, String> {
        let mut bytes = vec![0; n];
        entry.read_exact(&mut bytes).map_err(|e| e.to_string())?;
        Ok(bytes)
    };
    let magic = exactly(8)?;
    if magic[..6] != *b"\x93NUMPY" {
        return Err("no .npy array".to_owned());
    }
    let header_len = match magic[6] {
        1 => exactly(2).map(|b| u32::from(u16::from_le_bytes([b[0], b[1]])))?,
        2 | 3 => exactly(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))?,
        version => return Err(format!("version {version} of the format is unknown")),
    };
    if header_len > 1 << 16 {
        return Err(format!("a header of {header_len} bytes"));
    }
    let header = String::from_utf8(exactly(header_len as usize)?).map_err(|e| e.to_string())?;
    let descr = field(&header, "descr")?.trim_matches(['\'', '"']).to_owned();
    if field(&header, "fortran_order")? == "True" {
        return Err("arrays in Fortran order are not read; save a C-contiguous copy".to_owned());
    }
    let shape = field(&header, "shape")?;
    let dims: Result<Vec<usize>, _> =
        shape.trim_matches(['(', ')']).split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::parse).collect();
    let dims = dims.map_err(|_| format!("shape {shape:?}"))?;
    let dtype = match descr.trim_start_matches(['<', '|', '=']) {
        "f4" => DType::F32,
        "f2" => DType::F16,
        "f8" => DType::F64,
        "i1" => DType::I8,
        "u1" => DType::U8,
        "i2" => DType::I16,
        "u2" => DType::U16,
        "i4" => DType::I32,
        "u4" => DType::U32,
        "i8" => DType::I64,
        "u8" => DType::U64,
        "b1" => DType::Bool,
        _ => return Err(format!("element type {descr:?} is not supported")),
    };
    let ty = TensorType::of(dtype, &dims);
    let n = ty.bytes().filter(|n| *n <= MAX_BYTES).ok_or_else(|| format!("{ty} is too large"))?;
    if !wants(&ty) {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    // One byte more than there should be: only at the end of the data is its checksum compared.
    entry.take(n + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() as u64 > n {
        return Err(format!("{ty} needs {n} bytes, more are given"));
    }
    Tensor::from_bytes(ty, bytes).map(Some).map_err(|e| e.to_string())
}

/// The text of one field of the header, a Python dictionary that NumPy always writes alike.
fn field<'h>(header: &'h str, name: &str) -> Result<&'h str, String> {
    let missing = || format!("its header has no {name}");
    let start = header.find(&format!("'{name}':")).ok_or_else(missing)? + name.len() + 3;
    let rest = header[start..].trim_start();
    let end = if rest.starts_with('(') { rest.find(')').map(|i| i + 1) } else { rest.find([',', '}']) };
    Ok(rest[..end.ok_or_else(missing)?].trim())
}

/// Writes arrays by name.
///
/// # Errors
/// The writer fails, or an array is of a type that has no place in such a file.
pub fn write(out: impl Write + Seek, tensors: &[(String, Tensor)]) -> Result<(), String> {
    let mut archive = zip::ZipWriter::new(out);
    // No time of day: the same outputs give the same bytes.
    let options =
        zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored).large_file(true);
    for (name, tensor) in tensors {
        archive.start_file(format!("{name}.npy"), options).map_err(|e| e.to_string())?;
        write_npy(&mut archive, tensor)?;
    }
    archive.finish().map(drop).map_err(|e| e.to_string())
}

/// Writes one `.npy` array, widened where NumPy has no such type.
///
/// # Errors
/// The writer fails, or the array is of a type that has no place in such a file.
pub fn write_npy(mut out: impl Write, tensor: &Tensor) -> Result<(), String> {
    let tensor = tensor.widened().map_err(|e| e.to_string())?;
    let descr = descr(tensor.dtype())?;
    let dims: Vec<_> = tensor.dims().iter().map(|d| format!("{d},")).collect();
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({}), }}", dims.join(" "));
    while (10 + header.len() + 1) % 64 != 0 {
        header.push(' ');
    }
    header.push('\n');
    let len = u16::try_from(header.len()).map_err(|e| e.to_string())?;
    let mut write = || -> std::io::Result<()> {
        out.write_all(b"\x93NUMPY\x01\x00")?;
        out.write_all(&len.to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        out.write_all(tensor.bytes().map_err(std::io::Error::other)?)
    };
    write().map_err(|e| e.to_string())
}

/// NumPy's name of a type that it has.
fn descr(dtype: DType) -> Result<&'static str, String> {
    Ok(match dtype {
        DType::F32 => "<f4",
        DType::F16 => "<f2",
        DType::F64 => "<f8",
        DType::I8 => "|i1",
        DType::U8 => "|u1",
        DType::I16 => "<i2",
        DType::U16 => "<u2",
        DType::I32 => "<i4",
        DType::U32 => "<u4",
        DType::I64 => "<i8",
        DType::U64 => "<u8",
        DType::Bool => "|b1",
        other => return Err(format!("{other} has no place in a .npz file")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let tensors = vec![
            ("x".to_owned(), Tensor::from_f32s(DType::F16, &[2, 3], &[1.0, -2.5, 3.0, 0.1, 7.0, -9.0]).unwrap()),
            ("scalar".to_owned(), Tensor::from_i64s(DType::I64, &[], &[-7]).unwrap()),
            ("empty".to_owned(), Tensor::from_f32s(DType::F32, &[0, 4], &[]).unwrap()),
        ];
        let mut bytes = std::io::Cursor::new(Vec::new());
        write(&mut bytes, &tensors).unwrap();
        let read = read(bytes, &mut |_, _| true).unwrap();
        assert_eq!(read.len(), 3);
        for (name, tensor) in &tensors {
            assert_eq!(&read[name], tensor);
        }
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let mut bytes = std::io::Cursor::new(Vec::new());
        write(&mut bytes, &[("x".to_owned(), Tensor::from_f32s(DType::F32, &[4], &[1.0, 2.0, 3.0, 4.0]).unwrap())])
            .unwrap();
        let whole = bytes.into_inner();
        for len in 0..whole.len() {
            assert!(read(std::io::Cursor::new(&whole[..len]), &mut |_, _| true).is_err(), "{len} bytes");
        }
    }
    #[test]
    fn a_flipped_bit_in_the_data_is_noticed() {
        let mut bytes = std::io::Cursor::new(Vec::new());
        write(&mut bytes, &[("x".to_owned(), Tensor::from_f32s(DType::F32, &[2], &[1.5, -3.25]).unwrap())]).unwrap();
        let mut file = bytes.into_inner();
        let at = file.windows(4).position(|w| w == 1.5f32.to_le_bytes()).unwrap();
        file[at] ^= 1;
        let refused = read(std::io::Cursor::new(file), &mut |_, _| true).unwrap_err();
        assert!(refused.contains("\"x\"") && refused.to_lowercase().contains("checksum"), "{refused}");
    }

    #[test]
    fn what_is_not_wanted_is_not_unpacked() {
        let mut bytes = std::io::Cursor::new(Vec::new());
        let mut archive = zip::ZipWriter::new(&mut bytes);
        archive.start_file("bomb.npy", zip::write::SimpleFileOptions::default()).unwrap();
        let header = format!("{:<117}\n", "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000,), }");
        archive.write_all(b"\x93NUMPY\x01\x00").unwrap();
        archive.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        archive.write_all(header.as_bytes()).unwrap();
        archive.finish().unwrap();
        let mut seen = Vec::new();
        let tensors = read(bytes, &mut |name, ty| {
            seen.push(format!("{name} {ty}"));
            false
        });
        assert!(tensors.unwrap().is_empty());
        assert_eq!(seen, ["bomb f32[1000000000]"]);
    }
}
