//! Between the model's element types and those on the device ([`DType::on_device`]).

use super::RuntimeError;
use super::pool::Pool;
use crate::ir::{Class, DType, Shape, Tensor, TensorError, TensorType, saturating_f16};
use crate::program::Port;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use std::borrow::Cow;

/// Elements that are converted at a time where that takes a place of its own.
const BLOCK: usize = 256;

/// What is to be written to a region of the device.
pub(super) enum Source<'a> {
    /// These bytes.
    Bytes(Cow<'a, [u8]>),
    /// So many zeros.
    Zeros(u64),
    /// These bytes, an element, again and again up to so many.
    Fill(&'a [u8], u64),
    /// Elements that are converted on the way.
    Cast(Cast, &'a [u8]),
}

impl<'a> Source<'a> {
    /// What `tensor` is on the device.
    ///
    /// # Errors
    /// Its type or shape is not the port's, or a value does not fit in the device's type.
    pub(super) fn of(port: &Port, tensor: &'a Tensor) -> Result<Source<'a>, RuntimeError> {
        let refuse = |fault: String| RuntimeError::Input { name: port.name.clone(), fault };
        let ty = tensor.ty();
        if ty.packing.is_some() || ty.dtype != port.dtype || ty.shape.0 != port.shape {
            let wanted = TensorType::new(port.dtype, Shape(port.shape.clone()));
            return Err(refuse(format!("{ty} given, {wanted} wanted")));
        }
        let bytes = tensor.bytes().map_err(|e| refuse(e.to_string()))?;
        if port.dtype == port.device_dtype {
            return Ok(Source::Bytes(Cow::Borrowed(bytes)));
        }
        if let Some(cast) = Cast::of(port.dtype, port.device_dtype) {
            return Ok(Source::Cast(cast, bytes));
        }
        let device = if port.dtype.class() == Class::Float {
            let values = tensor.to_f32s().map_err(|e| refuse(e.to_string()))?;
            Tensor::from_f32s(port.device_dtype, &tensor.dims(), &values)
        } else {
            let values = tensor.to_i64s().map_err(|e| refuse(e.to_string()))?;
            Tensor::from_i64s(port.device_dtype, &tensor.dims(), &values)
        };
        let bytes = device.and_then(|device| device.bytes().map(<[u8]>::to_vec));
        bytes.map(|bytes| Source::Bytes(Cow::Owned(bytes))).map_err(|e| refuse(e.to_string()))
    }

    /// Bytes on the device.
    pub(super) fn len(&self) -> u64 {
        match self {
            Source::Bytes(bytes) => bytes.len() as u64,
            Source::Zeros(n) | Source::Fill(_, n) => *n,
            Source::Cast(cast, bytes) => (bytes.len() / cast.bytes().0 * cast.bytes().1) as u64,
        }
    }

    /// Writes the device's bytes from `at` on to all of `out`; zeros beyond the end. Where elements are converted, both
    /// are multiples of their size.
    pub(super) fn write(&self, at: u64, out: &mut [u8]) {
        let start = at.min(self.len()) as usize;
        let n = (self.len() as usize - start).min(out.len());
        let (now, rest) = out.split_at_mut(n);
        rest.fill(0);
        match self {
            Source::Bytes(bytes) => now.copy_from_slice(&bytes[start..start + n]),
            Source::Zeros(_) => now.fill(0),
            Source::Fill(element, _) => {
                let pattern = element.iter().copied().cycle().skip(start % element.len().max(1));
                now.iter_mut().zip(pattern).for_each(|(byte, value)| *byte = value);
            }
            Source::Cast(cast, bytes) => {
                let (from, to) = cast.bytes();
                cast.run(&bytes[start / to * from..(start + n) / to * from], now);
            }
        }
    }

    /// All of the device's bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        match self {
            Source::Bytes(bytes) => bytes.into_owned(),
            other => {
                let mut bytes = vec![0; other.len() as usize];
                other.write(0, &mut bytes);
                bytes
            }
        }
    }
}

/// A tensor that is read from the device piece by piece.
pub(super) struct Sink<'a> {
    port: &'a Port,
    cast: Option<Cast>,
    /// In the model's type where it is converted on the way, else in the device's.
    bytes: Vec<u8>,
    pool: &'a Pool,
}

impl<'a> Sink<'a> {
    /// Takes what is at `port`, whose sizes are known, into memory of `pool`.
    pub(super) fn new(port: &'a Port, pool: &'a Pool) -> Sink<'a> {
        let cast = Cast::of(port.device_dtype, port.dtype).filter(|_| port.device_dtype != port.dtype);
        let n_bytes = device_bytes(port);
        let n_bytes = cast.map_or(n_bytes, |cast| n_bytes / cast.bytes().0 * cast.bytes().1);
        Sink { port, cast, bytes: pool.take(n_bytes), pool }
    }

    /// Takes the next bytes, whole elements.
    pub(super) fn take(&mut self, piece: &[u8]) {
        let Some(cast) = self.cast else { return self.bytes.extend_from_slice(piece) };
        let (start, (from, to)) = (self.bytes.len(), cast.bytes());
        self.bytes.resize(start + piece.len() / from * to, 0);
        cast.run(piece, &mut self.bytes[start..]);
    }

    /// The tensor in the model's type.
    ///
    /// # Errors
    /// The model's type cannot be made from the device's.
    pub(super) fn finish(self) -> Result<Tensor, RuntimeError> {
        let Sink { port, cast, bytes, pool } = self;
        let refuse =
            |e: TensorError| RuntimeError::Unsupported { what: format!("{:?} of type {}: {e}", port.name, port.dtype) };
        let shape = Shape(port.shape.clone());
        if cast.is_some() || port.dtype == port.device_dtype {
            let n_bytes = bytes.len();
            return Tensor::from_source(TensorType::new(port.dtype, shape), pool.lend(bytes), 0, n_bytes)
                .map_err(refuse);
        }
        let device = Tensor::from_bytes(TensorType::new(port.device_dtype, shape), bytes).map_err(refuse)?;
        let dims = device.dims();
        if port.dtype.class() == Class::Float {
            Tensor::from_f32s(port.dtype, &dims, &device.to_f32s().map_err(refuse)?).map_err(refuse)
        } else {
            Tensor::from_i64s(port.dtype, &dims, &device.to_i64s().map_err(refuse)?).map_err(refuse)
        }
    }
}

/// The tensor whose bytes on the device begin with these.
///
/// # Errors
/// As for [`Sink::finish`].
pub(super) fn from_device(port: &Port, bytes: &[u8]) -> Result<Tensor, RuntimeError> {
    let pool = Pool::default();
    let mut sink = Sink::new(port, &pool);
    sink.take(bytes.get(..device_bytes(port)).unwrap_or(bytes));
    sink.finish()
}

/// Bytes that a port's tensor takes on the device, without padding.
pub(super) fn device_bytes(port: &Port) -> usize {
    let n = port.shape.iter().try_fold(1u64, |n, dim| n.checked_mul(u64::try_from(dim.known()?).ok()?));
    n.and_then(|n| port.device_dtype.bytes(n)).and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

/// A conversion element by element that cannot fail. The values are those of [`Tensor::to_f32s`] and
/// [`Tensor::from_f32s`], or of their likes for integers.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cast {
    F32ToF16,
    F16ToF32,
    BF16ToF32,
    F32ToBF16,
    I8ToI32,
    U8ToI32,
    I16ToI32,
    U16ToI32,
    BoolToI32,
    I32ToI8,
    I32ToI16,
    I32ToBool,
}

impl Cast {
    fn of(from: DType, to: DType) -> Option<Cast> {
        Some(match (from, to) {
            (DType::F32, DType::F16) => Cast::F32ToF16,
            (DType::F16, DType::F32) => Cast::F16ToF32,
            (DType::BF16, DType::F32) => Cast::BF16ToF32,
            (DType::F32, DType::BF16) => Cast::F32ToBF16,
            (DType::I8, DType::I32) => Cast::I8ToI32,
            (DType::U8, DType::I32) => Cast::U8ToI32,
            (DType::I16, DType::I32) => Cast::I16ToI32,
            (DType::U16, DType::I32) => Cast::U16ToI32,
            (DType::Bool, DType::I32) => Cast::BoolToI32,
            (DType::I32, DType::I8 | DType::U8) => Cast::I32ToI8,
            (DType::I32, DType::I16 | DType::U16) => Cast::I32ToI16,
            (DType::I32, DType::Bool) => Cast::I32ToBool,
            _ => return None,
        })
    }

    /// Bytes of an element before and after.
    fn bytes(self) -> (usize, usize) {
        match self {
            Cast::F32ToF16 | Cast::F32ToBF16 | Cast::I32ToI16 => (4, 2),
            Cast::F16ToF32 | Cast::BF16ToF32 | Cast::I16ToI32 | Cast::U16ToI32 => (2, 4),
            Cast::I8ToI32 | Cast::U8ToI32 | Cast::BoolToI32 => (1, 4),
            Cast::I32ToI8 | Cast::I32ToBool => (4, 1),
        }
    }

    fn run(self, from: &[u8], to: &mut [u8]) {
        match self {
            Cast::F32ToF16 => halves(from, to),
            Cast::F16ToF32 => floats(from, to),
            Cast::BF16ToF32 => each(from, to, |b| bf16::from_le_bytes(b).to_f32().to_le_bytes()),
            Cast::F32ToBF16 => each(from, to, |b| bf16::from_f32(f32::from_le_bytes(b)).to_le_bytes()),
            Cast::I8ToI32 => each(from, to, |b| i32::from(i8::from_le_bytes(b)).to_le_bytes()),
            Cast::U8ToI32 => each(from, to, |[b]| i32::from(b).to_le_bytes()),
            Cast::I16ToI32 => each(from, to, |b| i32::from(i16::from_le_bytes(b)).to_le_bytes()),
            Cast::U16ToI32 => each(from, to, |b| i32::from(u16::from_le_bytes(b)).to_le_bytes()),
            Cast::BoolToI32 => each(from, to, |[b]| i32::from(b != 0).to_le_bytes()),
            Cast::I32ToI8 => each(from, to, |[low, _, _, _]| [low]),
            Cast::I32ToI16 => each(from, to, |[low, high, _, _]| [low, high]),
            Cast::I32ToBool => each(from, to, |b: [u8; 4]| [u8::from(b != [0; 4])]),
        }
    }
}

/// Element by element: the compiler makes vectors of it.
fn each<const A: usize, const B: usize>(from: &[u8], to: &mut [u8], f: impl Fn([u8; A]) -> [u8; B]) {
    for (from, to) in from.as_chunks::<A>().0.iter().zip(to.as_chunks_mut::<B>().0) {
        *to = f(*from);
    }
}

/// f32 to f16, as [`saturating_f16`] has it.
fn halves(from: &[u8], to: &mut [u8]) {
    let (mut wide, mut narrow) = ([0f32; BLOCK], [f16::ZERO; BLOCK]);
    for (from, to) in from.chunks(4 * BLOCK).zip(to.chunks_mut(2 * BLOCK)) {
        let n = to.len() / 2;
        for (value, bytes) in wide.iter_mut().zip(from.as_chunks::<4>().0) {
            *value = f32::from_le_bytes(*bytes);
        }
        narrow[..n].convert_from_f32_slice(&wide[..n]);
        for ((half, value), bytes) in narrow.iter().zip(&wide).zip(to.as_chunks_mut::<2>().0) {
            *bytes = if half.is_infinite() { saturating_f16(*value).to_le_bytes() } else { half.to_le_bytes() };
        }
    }
}

/// f16 to f32.
fn floats(from: &[u8], to: &mut [u8]) {
    let (mut narrow, mut wide) = ([f16::ZERO; BLOCK], [0f32; BLOCK]);
    for (from, to) in from.chunks(2 * BLOCK).zip(to.chunks_mut(4 * BLOCK)) {
        let n = to.len() / 4;
        for (half, bytes) in narrow.iter_mut().zip(from.as_chunks::<2>().0) {
            *half = f16::from_le_bytes(*bytes);
        }
        narrow[..n].convert_to_f32_slice(&mut wide[..n]);
        for (value, bytes) in wide.iter().zip(to.as_chunks_mut::<4>().0) {
            *bytes = value.to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Dim;
    use crate::program::Region;

    fn port(dtype: DType, device_dtype: DType) -> Port {
        Port {
            name: "x".to_owned(),
            dtype,
            device_dtype,
            shape: vec![Dim::Known(2)],
            region: Region { allocation: 0, offset: 0, bytes: 8 },
        }
    }

    #[test]
    fn values_survive_the_way_to_the_device_and_back() {
        for (dtype, device) in
            [(DType::F64, DType::F64), (DType::BF16, DType::F32), (DType::F32, DType::F16), (DType::F16, DType::F16)]
        {
            let tensor = Tensor::from_f32s(dtype, &[2], &[-1.5, 384.0]).unwrap();
            let bytes = Source::of(&port(dtype, device), &tensor).unwrap().into_bytes();
            assert_eq!(from_device(&port(dtype, device), &bytes).unwrap(), tensor);
        }
        for dtype in [
            DType::I64,
            DType::U64,
            DType::I32,
            DType::U32,
            DType::I16,
            DType::U16,
            DType::I8,
            DType::U8,
            DType::Bool,
            DType::I4,
        ] {
            for value in [1, -1, i64::MIN, i64::MAX, 0x1234_5678_9abc_def0] {
                let tensor = Tensor::from_i64s(dtype, &[2], &[value, 0]).unwrap();
                let port = port(dtype, dtype.on_device().unwrap());
                let bytes = Source::of(&port, &tensor).unwrap().into_bytes();
                assert_eq!(bytes.len() as u32, port.device_dtype.bits() / 4);
                assert_eq!(from_device(&port, &bytes).unwrap(), tensor);
            }
        }
    }

    #[test]
    fn another_shape_or_type_is_refused_with_both() {
        let tensor = Tensor::from_f32s(DType::F32, &[3], &[0.0; 3]).unwrap();
        let refuse = |port: &Port| Source::of(port, &tensor).err().unwrap();
        let refused = refuse(&port(DType::F32, DType::F32));
        assert_eq!(refused.to_string(), "input \"x\": f32[3] given, f32[2] wanted");
        let refused = refuse(&port(DType::I64, DType::I64));
        assert_eq!(refused.to_string(), "input \"x\": f32[3] given, i64[2] wanted");
    }

    /// Every 16-bit float, and floats around each boundary of f16, in lengths that fill blocks and that do not: as
    /// [`Tensor`] converts them.
    #[test]
    fn conversions_on_the_way_are_those_of_tensors() {
        let all: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
        let near = |v: f32| (-3i32..=3).map(move |d| f32::from_bits(v.to_bits().wrapping_add_signed(d)));
        let mut values: Vec<f32> = (0..=u16::MAX).map(|bits| f16::from_bits(bits).to_f32()).flat_map(near).collect();
        values.extend([
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            65519.0,
            65520.0,
            -65536.0,
            1e-45,
        ]);
        let of = |dtype: DType, bytes: Vec<u8>| {
            let n = bytes.len() as u32 * 8 / dtype.bits();
            Tensor::from_bytes(TensorType::of(dtype, &[n as usize]), bytes).unwrap()
        };
        let wide = Tensor::from_f32s(DType::F32, &[values.len()], &values).unwrap();
        let words = of(DType::I32, wide.bytes().unwrap().to_vec());
        let tensors = [of(DType::F16, all.clone()), of(DType::BF16, all.clone()), of(DType::I16, all.clone()), wide];
        let more = [
            words,
            of(DType::U16, all.clone()),
            of(DType::I8, all.clone()),
            of(DType::U8, all.clone()),
            of(DType::Bool, all),
        ];
        let mut n_checked = 0;
        for tensor in tensors.iter().chain(&more) {
            for to in [DType::F16, DType::F32, DType::BF16, DType::I32, DType::I8, DType::I16, DType::Bool] {
                let Some(cast) = Cast::of(tensor.dtype(), to) else { continue };
                let expected = if to.class() == Class::Float {
                    Tensor::from_f32s(to, &tensor.dims(), &tensor.to_f32s().unwrap())
                } else {
                    Tensor::from_i64s(to, &tensor.dims(), &tensor.to_i64s().unwrap())
                };
                let source = Source::Cast(cast, tensor.bytes().unwrap());
                let expected = expected.unwrap();
                assert!(source.into_bytes() == expected.bytes().unwrap(), "{} to {to}", tensor.dtype());
                n_checked += 1;
            }
        }
        assert_eq!(n_checked, 12);
        // Pieces of any whole number of elements, and zeros behind the end.
        let source = Source::Cast(Cast::F32ToF16, tensors[3].bytes().unwrap());
        let mut pieces = Vec::new();
        for at in (0..source.len()).step_by(1000) {
            let mut piece = [7; 1000];
            source.write(at, &mut piece);
            pieces.extend(piece);
        }
        let n = source.len() as usize;
        assert!(pieces[n..].iter().all(|b| *b == 0) && pieces[..n] == source.into_bytes());
    }
}
