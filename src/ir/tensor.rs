//! Constant data: bytes with a type, shared, hashed once, held in memory or mapped from a file.

use super::{Class, DType, Shape, TensorType};
use half::{bf16, f16};
use std::borrow::Cow;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock};

/// Where the bytes of a constant come from. Anything that lends bytes and can be shared between threads will do: a
/// vector or a file mapping.
pub type Source = Arc<dyn AsRef<[u8]> + Send + Sync>;

/// A tensor with its data, cheap to clone.
#[derive(Clone)]
pub struct Tensor {
    ty: TensorType,
    data: Arc<Data>,
}

struct Data {
    bytes: Bytes,
    hash: OnceLock<Hash>,
}

enum Bytes {
    Present { source: Source, start: usize, len: usize },
    Deferred(Deferred),
    Absent,
}

/// Makes the data of a deferred tensor.
type Make = Box<dyn FnOnce() -> Result<Tensor, TensorError> + Send>;

/// Data that is made when it is first read, and what it is known by until then.
struct Deferred {
    identity: Hash,
    made: OnceLock<Result<Tensor, TensorError>>,
    /// Taken when the data is made, so that what it is made from is let go.
    make: Mutex<Option<Make>>,
}

impl Deferred {
    fn made(&self, ty: &TensorType) -> Result<&Tensor, TensorError> {
        let make = || {
            let make = self.make.lock().ok().and_then(|mut make| make.take());
            let made = make.ok_or_else(|| TensorError::Unmade { reason: "its maker failed".to_owned() })?()?;
            if made.ty != *ty {
                return Err(TensorError::Unmade { reason: format!("{} came of what is to be {ty}", made.ty) });
            }
            Ok(made)
        };
        self.made.get_or_init(make).as_ref().map_err(TensorError::clone)
    }
}

/// The BLAKE3 hash of a constant's type and bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    /// The first 8 bytes in hexadecimal: enough to distinguish the constants of a model.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..8].iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{self}")
    }
}

/// What is wrong with a tensor's data.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum TensorError {
    #[error("{ty} needs {needed} bytes, {given} given")]
    Size { ty: TensorType, needed: u64, given: u64 },
    #[error("{ty} has no fixed size")]
    Unsized { ty: TensorType },
    #[error("the data of constant {hash} is not here: it is in the .consts.safetensors file beside the text")]
    Absent { hash: Hash },
    #[error("its data cannot be made: {reason}")]
    Unmade { reason: String },
    #[error("{dtype} elements cannot be read as {wanted}")]
    Class { dtype: DType, wanted: &'static str },
    #[error("element {index} is {value:e}, which does not fit in 32-bit floats")]
    BeyondF32 { index: usize, value: f64 },
}

impl Tensor {
    /// A tensor over `len` bytes of `source` from `start`, which must be what the type needs.
    ///
    /// # Errors
    /// The range is outside the source or is not the type's size.
    pub fn from_source(ty: TensorType, source: Source, start: usize, len: usize) -> Result<Tensor, TensorError> {
        let needed = ty.bytes().ok_or_else(|| TensorError::Unsized { ty: ty.clone() })?;
        let available = (*source).as_ref().len().saturating_sub(start).min(len);
        if needed != len as u64 || available != len {
            return Err(TensorError::Size { ty, needed, given: available as u64 });
        }
        Ok(Tensor { ty, data: Arc::new(Data { bytes: Bytes::Present { source, start, len }, hash: OnceLock::new() }) })
    }

    /// A tensor that owns its bytes.
    ///
    /// # Errors
    /// The bytes are not the type's size.
    pub fn from_bytes(ty: TensorType, bytes: Vec<u8>) -> Result<Tensor, TensorError> {
        let len = bytes.len();
        Tensor::from_source(ty, Arc::new(bytes), 0, len)
    }

    /// A constant of which only type and hash are known.
    pub fn absent(ty: TensorType, hash: Hash) -> Tensor {
        let cell = OnceLock::new();
        let _ = cell.set(hash);
        Tensor { ty, data: Arc::new(Data { bytes: Bytes::Absent, hash: cell }) }
    }

    /// A constant whose data `make` gives when it is first read, once. `recipe` and `sources` say what it is made of,
    /// and so must decide it: tensors with the same ones have the same data.
    pub fn deferred(
        ty: TensorType,
        recipe: &str,
        sources: &[&Tensor],
        make: impl FnOnce() -> Result<Tensor, TensorError> + Send + 'static,
    ) -> Tensor {
        let mut hasher = blake3::Hasher::new();
        for part in ["deferred", recipe, &ty.to_string()] {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        sources.iter().for_each(|source| _ = hasher.update(&source.identity().0));
        let deferred = Deferred {
            identity: Hash(*hasher.finalize().as_bytes()),
            made: OnceLock::new(),
            make: Mutex::new(Some(Box::new(make))),
        };
        Tensor { ty, data: Arc::new(Data { bytes: Bytes::Deferred(deferred), hash: OnceLock::new() }) }
    }

    /// Floats stored as `dtype`: as they are where it is f64, by way of f32 otherwise.
    ///
    /// # Errors
    /// As [`Tensor::from_f32s`], or a finite value would be infinite.
    pub fn from_f64s(dtype: DType, dims: &[usize], values: &[f64]) -> Result<Tensor, TensorError> {
        let all = Tensor::from_bytes(
            TensorType::of(DType::F64, dims),
            values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        )?;
        if dtype == DType::F64 { Ok(all) } else { Tensor::from_f32s(dtype, dims, &all.to_f32s()?) }
    }

    /// Floats stored as `dtype`, rounded to nearest even; finite values beyond f16's range become its largest, as the
    /// kernels store them.
    ///
    /// # Errors
    /// The count is not the shape's, or `dtype` is no float type that can be written.
    pub fn from_f32s(dtype: DType, dims: &[usize], values: &[f32]) -> Result<Tensor, TensorError> {
        let bytes = match dtype {
            DType::F32 => bytemuck::cast_slice(values).to_vec(),
            DType::F16 => values.iter().flat_map(|&v| saturating_f16(v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|&v| bf16::from_f32(v).to_le_bytes()).collect(),
            DType::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
            _ => {
                let codes = values.iter().map(|&v| super::minifloat::encode(dtype, v)).collect::<Option<Vec<u8>>>();
                let codes = codes.ok_or(TensorError::Class { dtype, wanted: "writable floats" })?;
                packed_bytes(&codes, dtype.bits())
            }
        };
        Tensor::from_bytes(TensorType::of(dtype, dims), bytes)
    }

    /// Integers or truth values stored as `dtype`; values outside its range wrap, as ONNX's Cast has it.
    ///
    /// # Errors
    /// The count is not the shape's, or `dtype` is no integer type that can be written.
    pub fn from_i64s(dtype: DType, dims: &[usize], values: &[i64]) -> Result<Tensor, TensorError> {
        let bytes: Vec<u8> = match dtype {
            DType::I64 | DType::U64 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::I32 | DType::U32 => values.iter().flat_map(|&v| (v as i32).to_le_bytes()).collect(),
            DType::I16 | DType::U16 => values.iter().flat_map(|&v| (v as i16).to_le_bytes()).collect(),
            DType::I8 | DType::U8 => values.iter().map(|&v| v as u8).collect(),
            DType::Bool => values.iter().map(|&v| u8::from(v != 0)).collect(),
            DType::I2 | DType::U2 | DType::I4 | DType::U4 => {
                packed_bytes(&values.iter().map(|&v| v as u8).collect::<Vec<u8>>(), dtype.bits())
            }
            _ => return Err(TensorError::Class { dtype, wanted: "writable integers" }),
        };
        Tensor::from_bytes(TensorType::of(dtype, dims), bytes)
    }

    /// The type.
    pub fn ty(&self) -> &TensorType {
        &self.ty
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.ty.dtype
    }

    /// Sizes of the axes, all known: a constant's are checked when it is made.
    pub fn dims(&self) -> Vec<usize> {
        self.ty.shape.known().unwrap_or_default()
    }

    /// The same data under another shape of as many elements.
    ///
    /// # Errors
    /// The sizes differ.
    pub fn reshaped(&self, dims: &[usize]) -> Result<Tensor, TensorError> {
        let ty = TensorType { shape: Shape::of(dims), ..self.ty.clone() };
        let (needed, given) = (ty.bytes().unwrap_or(u64::MAX), self.ty.bytes().unwrap_or(0));
        if needed != given {
            return Err(TensorError::Size { ty, needed, given });
        }
        Ok(match &self.data.bytes {
            Bytes::Present { source, start, len } => Tensor::from_source(ty, source.clone(), *start, *len)?,
            Bytes::Deferred(_) => {
                let (own, dims) = (self.clone(), dims.to_vec());
                Tensor::deferred(ty, "reshaped", &[self], move || own.made()?.reshaped(&dims))
            }
            Bytes::Absent => Tensor::absent(ty, self.hash()),
        })
    }

    /// The raw little-endian bytes.
    ///
    /// # Errors
    /// The data is absent, or cannot be made.
    pub fn bytes(&self) -> Result<&[u8], TensorError> {
        match &self.data.bytes {
            Bytes::Present { source, start, len } => Ok(&(**source).as_ref()[*start..*start + *len]),
            Bytes::Deferred(deferred) => deferred.made(&self.ty)?.bytes(),
            Bytes::Absent => Err(TensorError::Absent { hash: self.hash() }),
        }
    }

    /// The tensor with its data, made where it was deferred.
    fn made(&self) -> Result<&Tensor, TensorError> {
        match &self.data.bytes {
            Bytes::Deferred(deferred) => deferred.made(&self.ty)?.made(),
            _ => Ok(self),
        }
    }

    /// Whether the data is here or can be made, and not only its hash.
    pub fn is_present(&self) -> bool {
        !matches!(self.data.bytes, Bytes::Absent)
    }

    /// Whether the data is made when it is first read; that it was read already makes no difference.
    pub fn is_deferred(&self) -> bool {
        matches!(self.data.bytes, Bytes::Deferred(_))
    }

    /// What identifies equal constants without making their data: the hash, or what a deferred one is made of.
    pub fn identity(&self) -> Hash {
        match &self.data.bytes {
            Bytes::Deferred(deferred) => deferred.identity,
            _ => self.hash(),
        }
    }

    /// The hash of type and data, computed at its first use.
    pub fn hash(&self) -> Hash {
        *self.data.hash.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            hasher.update(self.ty.to_string().as_bytes());
            if let Ok(bytes) = self.bytes() {
                hasher.update(bytes);
            }
            Hash(*hasher.finalize().as_bytes())
        })
    }

    /// The elements as f32: floats widened or rounded, integers and truth values converted, packed tensors dequantized.
    ///
    /// # Errors
    /// The data is absent or is text, or a finite f64 would be infinite.
    pub fn to_f32s(&self) -> Result<Cow<'_, [f32]>, TensorError> {
        let bytes = self.bytes()?;
        if let Some(packing) = self.ty.packing {
            let (rows, cols) = self.ty.matrix().ok_or_else(|| TensorError::Unsized { ty: self.ty.clone() })?;
            let values = super::packed::dequantize(packing, rows as usize, cols as usize, bytes);
            return values.map(Cow::Owned).map_err(|_| TensorError::Unsized { ty: self.ty.clone() });
        }
        Ok(match self.ty.dtype {
            DType::F32 => match bytemuck::try_cast_slice(bytes) {
                Ok(values) => Cow::Borrowed(values),
                Err(_) => {
                    Cow::Owned(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
                }
            },
            DType::F16 => {
                Cow::Owned(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
            }
            DType::BF16 => {
                Cow::Owned(bytes.chunks_exact(2).map(|b| bf16::from_le_bytes([b[0], b[1]]).to_f32()).collect())
            }
            DType::F64 => {
                let narrow = |(index, value): (usize, f64)| match value as f32 {
                    narrow if narrow.is_infinite() && value.is_finite() => Err(TensorError::BeyondF32 { index, value }),
                    narrow => Ok(narrow),
                };
                Cow::Owned(self.to_f64s()?.into_iter().enumerate().map(narrow).collect::<Result<_, _>>()?)
            }
            DType::Str => return Err(TensorError::Class { dtype: DType::Str, wanted: "f32" }),
            dtype if dtype.is_float() => {
                let n = usize::try_from(self.ty.shape.n_elems().unwrap_or(0)).unwrap_or(0);
                let values = (0..n).map(|i| super::minifloat::decode(dtype, code_at(bytes, dtype.bits(), i)));
                Cow::Owned(values.collect::<Option<_>>().ok_or(TensorError::Class { dtype, wanted: "f32" })?)
            }
            DType::U64 => Cow::Owned(self.to_i64s()?.iter().map(|&v| v.cast_unsigned() as f32).collect()),
            _ => Cow::Owned(self.to_i64s()?.iter().map(|&v| v as f32).collect()),
        })
    }

    /// The elements as f64: those of an f64 tensor as they are, integers rounded, others as [`Tensor::to_f32s`] has
    /// them.
    ///
    /// # Errors
    /// The data is absent or is text.
    pub fn to_f64s(&self) -> Result<Vec<f64>, TensorError> {
        if self.ty.dtype.class() == Class::Int && self.ty.packing.is_none() {
            let float = |v: i64| if self.ty.dtype == DType::U64 { v.cast_unsigned() as f64 } else { v as f64 };
            return Ok(self.to_i64s()?.into_iter().map(float).collect());
        }
        if self.ty.dtype != DType::F64 {
            return Ok(self.to_f32s()?.iter().map(|&v| f64::from(v)).collect());
        }
        Ok(self
            .bytes()?
            .chunks_exact(8)
            .map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
            .collect())
    }

    /// The elements as i64: integers widened (u64 keeps its bits), truth values as 0 and 1, floats truncated.
    ///
    /// # Errors
    /// The data is absent or of a type that has no integer value.
    pub fn to_i64s(&self) -> Result<Vec<i64>, TensorError> {
        let bytes = self.bytes()?;
        let n = usize::try_from(self.ty.shape.n_elems().unwrap_or(0)).unwrap_or(0);
        let code = |i: usize| code_at(bytes, self.ty.dtype.bits(), i);
        Ok(match self.ty.dtype {
            DType::I64 | DType::U64 => bytes
                .chunks_exact(8)
                .map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]))
                .collect(),
            DType::I32 => {
                bytes.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            DType::U32 => {
                bytes.chunks_exact(4).map(|b| i64::from(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect()
            }
            DType::I16 => bytes.chunks_exact(2).map(|b| i64::from(i16::from_le_bytes([b[0], b[1]]))).collect(),
            DType::U16 => bytes.chunks_exact(2).map(|b| i64::from(u16::from_le_bytes([b[0], b[1]]))).collect(),
            DType::I8 => bytes.iter().map(|&b| i64::from(b as i8)).collect(),
            DType::U8 => bytes.iter().map(|&b| i64::from(b)).collect(),
            DType::Bool => bytes.iter().map(|&b| i64::from(b != 0)).collect(),
            DType::I4 => (0..n).map(|i| i64::from((code(i) << 4).cast_signed() >> 4)).collect(),
            DType::I2 => (0..n).map(|i| i64::from((code(i) << 6).cast_signed() >> 6)).collect(),
            DType::U4 | DType::U2 => (0..n).map(|i| i64::from(code(i))).collect(),
            DType::F64 => self.to_f64s()?.iter().map(|&v| v as i64).collect(),
            dtype if dtype.is_float() => self.to_f32s()?.iter().map(|&v| v as i64).collect(),
            dtype => return Err(TensorError::Class { dtype, wanted: "i64" }),
        })
    }
}

/// Codes of 8, 4 or 2 bits, the first in the lowest bits of a byte.
fn packed_bytes(codes: &[u8], bits: u32) -> Vec<u8> {
    let each = (8 / bits.max(1)).max(1) as usize;
    let mask = u8::MAX >> (8 - bits.min(8));
    codes
        .chunks(each)
        .map(|chunk| chunk.iter().enumerate().fold(0, |byte, (i, code)| byte | (code & mask) << (i as u32 * bits)))
        .collect()
}

/// Code number `i` of those.
fn code_at(bytes: &[u8], bits: u32, i: usize) -> u8 {
    let each = (8 / bits.clamp(1, 8)) as usize;
    let mask = u8::MAX >> (8 - bits.min(8));
    bytes[i / each] >> ((i % each) as u32 * bits) & mask
}

/// An f32 as f16, rounded to nearest even; finite values beyond its range become its largest, infinities and NaN stay.
pub fn saturating_f16(value: f32) -> f16 {
    let half = f16::from_f32(value);
    if half.is_infinite() && value.is_finite() { f16::MAX.copysign(f16::from_f32(value.signum())) } else { half }
}

impl PartialEq for Tensor {
    fn eq(&self, other: &Tensor) -> bool {
        self.ty == other.ty && (self.identity() == other.identity() || self.hash() == other.hash())
    }
}

impl fmt::Debug for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{} : {}", self.hash(), self.ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deferred_data_is_made_once_and_its_sources_are_let_go() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let n_made = Arc::new(AtomicUsize::new(0));
        let count = n_made.clone();
        let source = Tensor::from_f32s(DType::F32, &[2], &[1.0, -2.0]).unwrap();
        let ty = TensorType::of(DType::F16, &[2]);
        let own = source.clone();
        let narrow = Tensor::deferred(ty.clone(), "narrow", &[&source], move || {
            count.fetch_add(1, Ordering::Relaxed);
            Tensor::from_f32s(DType::F16, &[2], &own.to_f32s()?)
        });
        let plain = Tensor::from_f32s(DType::F16, &[2], &[1.0, -2.0]).unwrap();
        let same = Tensor::deferred(ty.clone(), "narrow", &[&source], || unreachable!("nobody reads it"));
        assert_eq!(narrow.identity(), same.identity());
        assert_ne!(narrow.identity(), plain.identity());
        assert_eq!((n_made.load(Ordering::Relaxed), Arc::strong_count(&source.data)), (0, 2));
        let column = narrow.reshaped(&[2, 1]).unwrap();
        assert_eq!((column.to_f32s().unwrap().to_vec(), narrow.hash()), (vec![1.0, -2.0], plain.hash()));
        assert_eq!((n_made.load(Ordering::Relaxed), Arc::strong_count(&source.data)), (1, 1));
        let wrong = Tensor::deferred(ty, "wrong", &[&source], {
            let source = source.clone();
            move || Ok(source)
        });
        assert!(wrong.is_present() && matches!(wrong.bytes(), Err(TensorError::Unmade { .. })));
    }

    #[test]
    fn four_bit_integers_read_low_nibble_first() {
        let tensor = Tensor::from_i64s(DType::I4, &[3], &[-8, 7, -1]).unwrap();
        assert_eq!(tensor.bytes().unwrap(), &[0x78, 0x0f]);
        assert_eq!(tensor.to_i64s().unwrap(), [-8, 7, -1]);
    }

    #[test]
    fn finite_values_stay_finite_in_f16() {
        let tensor = Tensor::from_f32s(DType::F16, &[3], &[-1e9, f32::MIN, f32::INFINITY]).unwrap();
        assert_eq!(tensor.to_f32s().unwrap().as_ref(), &[-65504.0, -65504.0, f32::INFINITY]);
    }

    #[test]
    fn a_wrong_byte_count_is_refused() {
        let refused = Tensor::from_bytes(TensorType::of(DType::F32, &[2]), vec![0; 7]).unwrap_err();
        assert_eq!(refused.to_string(), "f32[2] needs 8 bytes, 7 given");
    }
}
