//! The packed layout of quantized tensors, shared with the GPU kernels.
//!
//! A packed tensor is a logical matrix `[n_rows, n_cols]`: leading axes are
//! flattened into rows, and the columns are the reduction axis. Codes are
//! signed two's complement with zero point 0, so `value = code * scale`, or
//! have a zero point beside each scale: `value = (code - zero) * scale`.
//!
//! ```text
//! offset 0                 codes: n_rows * pitch_words * 4 bytes
//! offset plane_offset      planes: n_planes * n_rows * plane_words * 4 bytes
//! offset scale_offset      scales: n_scales of F16 or F32, padded to 4 bytes;
//!                          behind each its zero point as an integer as wide,
//!                          where there are zero points
//! ```
//!
//! Everything is made of 32-bit little-endian words. A row starts at a word
//! and takes `pitch_words = ceil(n_cols * bits / 32)` of them, `bits` being the 4
//! or 8 that lie there ([`Coding::row_bits`]); column `j` is
//! in word `j * bits / 32` at bit `(j * bits) % 32`, which for 4 bits is the
//! low nibble first, as in ONNX's INT4. Padding bits are written as zero and
//! ignored when read. Two F16 scales share a word, the first in its low half,
//! and so do an F16 scale (low half) and its zero point.
//!
//! Codes of 5 and 6 bits have their high four in the rows, and the others in a
//! plane of bits each, that of the higher bit first: the rows alone are the same
//! weights in 4 bits, at 2 or 4 times the scale. A row of a plane starts at a
//! word and takes `plane_words = ceil(n_cols / 32)` of them; column `j` lies in
//! word `j / 32`, in byte `j % 8 / 2` of it, at bit `j % 32 / 8 * 2 + j % 2`.
//!
//! | granularity | scale of column `j` in row `i` | `n_scales` |
//! |---|---|---|
//! | `Block(b)` | `i * ceil(n_cols / b) + j / b` | `n_rows * ceil(n_cols / b)` |
//! | `Row` | `i` | `n_rows`, 0 without columns |
//! | `Tensor` | `0` | `1` |

use half::f16;
use rayon::prelude::*;

mod coding;
mod dynamic;
mod round;
mod rows;
#[cfg(test)]
mod tests;
mod text;

pub use coding::{Coding, NON_LINEAR};
pub use dynamic::{magnitude_bits, quantize_dynamic, quantize_within};
pub(crate) use round::{code_of, nearest_within};

/// Elements below which a second thread costs more than it saves.
const PARALLEL_ELEMS: usize = 1 << 16;

/// Which elements share one scale.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Granularity {
    /// This many consecutive columns of a row: a power of two, 16 to 256. The
    /// last block of a row is shorter where the block does not divide it.
    Block(u32),
    /// All columns of a row (one output channel of a weight).
    Row,
    /// The whole tensor.
    Tensor,
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ScaleType {
    /// IEEE binary16, 2 bytes.
    F16,
    /// IEEE binary32, 4 bytes.
    F32,
    /// IEEE binary16 and a zero point of 16 bits, 4 bytes.
    F16Zero,
    /// IEEE binary32 and a zero point of 32 bits, 8 bytes.
    F32Zero,
}

impl ScaleType {
    /// Bytes of one scale, its zero point included.
    pub const fn n_bytes(self) -> u64 {
        match self {
            Self::F16 => 2,
            Self::F32 | Self::F16Zero => 4,
            Self::F32Zero => 8,
        }
    }

    /// Whether the scale itself is an F16.
    pub const fn is_f16(self) -> bool {
        matches!(self, Self::F16 | Self::F16Zero)
    }

    /// Whether each scale has a zero point.
    pub const fn has_zeros(self) -> bool {
        matches!(self, Self::F16Zero | Self::F32Zero)
    }

    /// The same scale with a zero point beside it.
    pub const fn with_zeros(self) -> Self {
        if self.is_f16() { Self::F16Zero } else { Self::F32Zero }
    }

    /// The stored scale nearest to `scale` whose products with all codes are
    /// finite.
    ///
    /// The magnitude is kept at or above the type's smallest normal number
    /// (2^-14 for F16, 2^-126 for F32), because a device may flush subnormals
    /// to zero. NaN becomes 1.0, and so does zero: a block of zeros needs some
    /// scale, and no kernel should meet a zero one.
    pub fn storable(self, scale: f32, coding: Coding) -> f32 {
        if scale.is_nan() || scale == 0.0 {
            return 1.0;
        }
        let (low, high) = match self {
            Self::F16 | Self::F16Zero => (f16::MIN_POSITIVE.to_f32(), f16::MAX.to_f32()),
            Self::F32 | Self::F32Zero => (f32::MIN_POSITIVE, f32::MAX / coding.largest()),
        };
        let kept = scale.abs().clamp(low, high).copysign(scale);
        match self {
            Self::F16 | Self::F16Zero => f16::from_f32(kept).to_f32(),
            Self::F32 | Self::F32Zero => kept,
        }
    }
}

/// How a tensor is packed. Any field may be set; every function that takes a
/// `Packing` checks it first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Packing {
    /// How a code is stored.
    pub coding: Coding,
    /// Which elements share a scale.
    pub granularity: Granularity,
    /// How a scale is stored.
    pub scale: ScaleType,
}

/// Why a tensor cannot be packed or unpacked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PackedError {
    /// A block that is not a power of two from 16 to 256.
    #[error("a block of {block} columns is not a power of two from 16 to 256")]
    Block {
        /// What was asked.
        block: u32,
    },
    /// Activations share a scale along a row or over the tensor, never in blocks.
    #[error("activations cannot be quantized in blocks, only by row or by tensor")]
    BlockedActivation,
    /// The packed size does not fit in the address space.
    #[error("a packed matrix of {n_rows} x {n_cols} is too large")]
    TooLarge {
        /// Rows asked.
        n_rows: usize,
        /// Columns asked.
        n_cols: usize,
    },
    /// A slice whose length does not follow from the shape.
    #[error("{given} {what} given where the shape needs {expected}")]
    Length {
        /// `"elements"`, `"scales"`, `"zero points"` or `"bytes"`.
        what: &'static str,
        /// Length of the slice.
        given: usize,
        /// Length that the shape asks for.
        expected: usize,
    },
    /// An integer that the coding has no code for.
    #[error("{code} at element {idx} is no code of the coding {coding}")]
    Code {
        /// Row-major, 0-based.
        idx: usize,
        /// The integer.
        code: i8,
        /// That of the packing.
        coding: Coding,
    },
    /// A scale that F16 cannot hold exactly; see [`ScaleType::storable`].
    #[error("scale {scale} at {idx} is not representable in 16 bits")]
    Scale {
        /// 0-based.
        idx: usize,
        /// The scale.
        scale: f32,
    },
}

impl Packing {
    /// Checks the block.
    ///
    /// # Errors
    /// [`PackedError::Block`].
    pub fn validate(self) -> Result<(), PackedError> {
        match self.granularity {
            Granularity::Block(block) if !block.is_power_of_two() || !(16..=256).contains(&block) => {
                Err(PackedError::Block { block })
            }
            _ => Ok(()),
        }
    }

    /// 32-bit words of one row of codes; `None` when invalid or above 2^64 bits.
    pub fn pitch_words(self, n_cols: u64) -> Option<u64> {
        self.validate().ok()?;
        Some(n_cols.checked_mul(u64::from(self.coding.row_bits()))?.div_ceil(32))
    }

    /// 32-bit words of one row of a plane, 0 where there are no planes; `None` when invalid.
    pub fn plane_words(self, n_cols: u64) -> Option<u64> {
        self.validate().ok()?;
        Some(if self.coding.n_planes() > 0 { n_cols.div_ceil(32) } else { 0 })
    }

    /// Scales that one row draws on: 1 for `Row` and `Tensor`, but a row of no
    /// columns has none of its own; `None` when invalid.
    pub fn n_blocks(self, n_cols: u64) -> Option<u64> {
        self.validate().ok()?;
        Some(match self.granularity {
            Granularity::Block(block) => n_cols.div_ceil(u64::from(block)),
            Granularity::Row => n_cols.min(1),
            Granularity::Tensor => 1,
        })
    }

    /// Scales of the tensor; `None` when invalid or above 2^64.
    pub fn n_scales(self, n_rows: u64, n_cols: u64) -> Option<u64> {
        let n_blocks = self.n_blocks(n_cols)?;
        match self.granularity {
            Granularity::Tensor => Some(1),
            Granularity::Block(_) | Granularity::Row => n_rows.checked_mul(n_blocks),
        }
    }

    /// Bytes before the first plane, a multiple of 4; `None` when invalid or above 2^64.
    pub fn plane_offset(self, n_rows: u64, n_cols: u64) -> Option<u64> {
        self.pitch_words(n_cols)?.checked_mul(n_rows)?.checked_mul(4)
    }

    /// Bytes before the first scale, a multiple of 4; `None` when invalid or above 2^64.
    pub fn scale_offset(self, n_rows: u64, n_cols: u64) -> Option<u64> {
        let words = self.plane_words(n_cols)?.checked_mul(self.coding.n_planes().into())?;
        self.plane_offset(n_rows, n_cols)?.checked_add(words.checked_mul(n_rows)?.checked_mul(4)?)
    }

    /// Bytes of the packed tensor, a multiple of 4; `None` when invalid or above 2^64.
    pub fn packed_bytes(self, n_rows: u64, n_cols: u64) -> Option<u64> {
        let scales = self.n_scales(n_rows, n_cols)?.checked_mul(self.scale.n_bytes())?;
        self.scale_offset(n_rows, n_cols)?.checked_add(scales.checked_next_multiple_of(4)?)
    }

    /// All sizes of a tensor at once, known to fit in the address space.
    ///
    /// # Errors
    /// [`PackedError::Block`], [`PackedError::TooLarge`].
    pub fn layout(self, n_rows: usize, n_cols: usize) -> Result<Layout, PackedError> {
        self.validate()?;
        let sizes = || {
            // The products below bound every index that packing computes, so
            // that nothing after this point can overflow.
            let (rows, cols) = (u64::try_from(n_rows).ok()?, u64::try_from(n_cols).ok()?);
            let narrow = |size: Option<u64>| usize::try_from(size?).ok();
            Some(Layout {
                packing: self,
                n_rows,
                n_cols,
                n_elems: n_rows.checked_mul(n_cols)?,
                pitch_bytes: narrow(self.pitch_words(cols)?.checked_mul(4))?,
                unit_cols: match self.granularity {
                    Granularity::Block(block) => usize::try_from(block).ok()?.min(n_cols),
                    Granularity::Row | Granularity::Tensor => n_cols,
                },
                n_blocks: narrow(self.n_blocks(cols))?,
                n_scales: narrow(self.n_scales(rows, cols))?,
                plane_offset: narrow(self.plane_offset(rows, cols))?,
                plane_pitch_bytes: narrow(self.plane_words(cols)?.checked_mul(4))?,
                scale_offset: narrow(self.scale_offset(rows, cols))?,
                n_bytes: narrow(self.packed_bytes(rows, cols))?,
            })
        };
        sizes().ok_or(PackedError::TooLarge { n_rows, n_cols })
    }
}

/// The sizes of one packed tensor, made by [`Packing::layout`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Layout {
    /// What the sizes follow from.
    pub packing: Packing,
    /// Rows.
    pub n_rows: usize,
    /// Columns.
    pub n_cols: usize,
    /// `n_rows * n_cols`.
    pub n_elems: usize,
    /// Bytes from one row of codes to the next.
    pub pitch_bytes: usize,
    /// Columns of a row that share a scale, the last block aside.
    pub unit_cols: usize,
    /// Scales that one row draws on.
    pub n_blocks: usize,
    /// Scales of the tensor.
    pub n_scales: usize,
    /// Bytes before the first plane.
    pub plane_offset: usize,
    /// Bytes from one row of a plane to the next; 0 where there are no planes.
    pub plane_pitch_bytes: usize,
    /// Bytes before the first scale.
    pub scale_offset: usize,
    /// Bytes in all.
    pub n_bytes: usize,
}

impl Layout {
    /// The part of `scales`, or of what else there is one of a scale, that `row` (0-based) draws on, block by block.
    pub(crate) fn row_scales<'a, T>(&self, scales: &'a [T], row: usize) -> &'a [T] {
        let first = match self.packing.granularity {
            Granularity::Tensor => 0,
            Granularity::Block(_) | Granularity::Row => row * self.n_blocks,
        };
        scales.get(first..first + self.n_blocks).unwrap_or_default()
    }

    /// Refuses a slice of the wrong length.
    pub(crate) fn check_elems(&self, given: usize) -> Result<(), PackedError> {
        check_length("elements", given, self.n_elems)
    }

    /// Rows that one parallel task should take at least.
    pub(crate) fn rows_per_task(&self) -> usize {
        (PARALLEL_ELEMS / self.n_cols.max(1)).max(1)
    }
}

/// Packs row-major `codes` `[n_rows, n_cols]` and their `scales` (ordered as
/// the module's table says), with zero points of 0 where there are any.
///
/// # Errors
/// A bad `packing` or shape, a slice of the wrong length, a code that does not
/// fit, or a scale that the scale type cannot hold exactly (a NaN counts as held).
pub fn pack(
    packing: Packing,
    n_rows: usize,
    n_cols: usize,
    codes: &[i8],
    scales: &[f32],
) -> Result<Vec<u8>, PackedError> {
    pack_with_zeros(packing, n_rows, n_cols, codes, scales, &[])
}

/// [`pack`] with a zero point for each scale; `zeros` may be empty, which is a
/// 0 for each, and has to be where the packing has none.
///
/// # Errors
/// As [`pack`].
pub fn pack_with_zeros(
    packing: Packing,
    n_rows: usize,
    n_cols: usize,
    codes: &[i8],
    scales: &[f32],
    zeros: &[i16],
) -> Result<Vec<u8>, PackedError> {
    let layout = packing.layout(n_rows, n_cols)?;
    layout.check_elems(codes.len())?;
    check_length("scales", scales.len(), layout.n_scales)?;
    if !zeros.is_empty() {
        check_length("zero points", zeros.len(), if packing.scale.has_zeros() { layout.n_scales } else { 0 })?;
    }
    let coding = packing.coding;
    if let Some(idx) = codes.iter().position(|code| !coding.has(*code)) {
        return Err(PackedError::Code { idx, code: codes[idx], coding });
    }
    let exact = |scale: f32| scale.is_nan() || f16::from_f32(scale).to_f32() == scale;
    if packing.scale.is_f16()
        && let Some(idx) = scales.iter().position(|scale| !exact(*scale))
    {
        return Err(PackedError::Scale { idx, scale: scales[idx] });
    }
    let mut bytes = vec![0; layout.n_bytes];
    if layout.n_elems > 0 {
        let rows = layout.rows_mut(&mut bytes).into_iter();
        rows.zip(codes.chunks_exact(n_cols)).for_each(|(mut row, codes)| row.write(codes));
    }
    write_scales(&layout, scales, zeros, &mut bytes);
    Ok(bytes)
}

/// The codes, row-major `[n_rows, n_cols]`, and the scales of a packed tensor.
///
/// # Errors
/// A bad `packing` or shape, or `bytes` of the wrong length.
pub fn unpack(
    packing: Packing,
    n_rows: usize,
    n_cols: usize,
    bytes: &[u8],
) -> Result<(Vec<i8>, Vec<f32>), PackedError> {
    let layout = packing.layout(n_rows, n_cols)?;
    check_length("bytes", bytes.len(), layout.n_bytes)?;
    let mut codes = vec![0; layout.n_elems];
    if layout.n_elems > 0 {
        codes.chunks_exact_mut(n_cols).enumerate().for_each(|(row, codes)| layout.read_row(bytes, row, codes));
    }
    Ok((codes, read_scales(&layout, bytes)))
}

/// The zero points of a packed tensor, one a scale; none where it has none.
///
/// # Errors
/// A bad `packing` or shape, or `bytes` of the wrong length.
pub fn zeros(packing: Packing, n_rows: usize, n_cols: usize, bytes: &[u8]) -> Result<Vec<i16>, PackedError> {
    let layout = packing.layout(n_rows, n_cols)?;
    check_length("bytes", bytes.len(), layout.n_bytes)?;
    Ok(read_zeros(&layout, bytes))
}

/// The values of a packed tensor, row-major `[n_rows, n_cols]`: each is
/// `code * scale`, or `(code - zero) * scale`, in one f32 product.
///
/// # Errors
/// A bad `packing` or shape, or `bytes` of the wrong length.
pub fn dequantize(packing: Packing, n_rows: usize, n_cols: usize, bytes: &[u8]) -> Result<Vec<f32>, PackedError> {
    let layout = packing.layout(n_rows, n_cols)?;
    check_length("bytes", bytes.len(), layout.n_bytes)?;
    let (scales, zeros) = (read_scales(&layout, bytes), read_zeros(&layout, bytes));
    let mut values = vec![0.0; layout.n_elems];
    if layout.n_elems == 0 {
        return Ok(values);
    }
    values.par_chunks_exact_mut(n_cols).enumerate().with_min_len(layout.rows_per_task()).for_each_init(
        || vec![0; n_cols],
        |codes, (row_idx, values)| {
            layout.read_row(bytes, row_idx, codes);
            let units = codes.chunks(layout.unit_cols).zip(values.chunks_mut(layout.unit_cols));
            let row_zeros = layout.row_scales(&zeros, row_idx);
            for (unit, ((codes, values), scale)) in units.zip(layout.row_scales(&scales, row_idx)).enumerate() {
                let zero = row_zeros.get(unit).copied().unwrap_or(0);
                for (value, code) in values.iter_mut().zip(codes) {
                    *value = f32::from(i16::from(*code) - zero) * scale;
                }
            }
        },
    );
    Ok(values)
}

/// Writes all scales behind the codes, and their zero points (0 where `zeros` has none); `bytes` holds the whole
/// tensor.
pub(crate) fn write_scales(layout: &Layout, scales: &[f32], zeros: &[i16], bytes: &mut [u8]) {
    let stored = &mut bytes[layout.scale_offset..];
    let zeros = zeros.iter().copied().chain(std::iter::repeat(0));
    match layout.packing.scale {
        ScaleType::F16 => stored
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(scales)
            .for_each(|(bytes, scale): (&mut [u8; 2], _)| *bytes = f16::from_f32(*scale).to_le_bytes()),
        ScaleType::F32 => stored
            .as_chunks_mut()
            .0
            .iter_mut()
            .zip(scales)
            .for_each(|(bytes, scale): (&mut [u8; 4], _)| *bytes = scale.to_le_bytes()),
        ScaleType::F16Zero => stored.as_chunks_mut().0.iter_mut().zip(scales).zip(zeros).for_each(
            |((bytes, scale), zero): ((&mut [u8; 4], _), i16)| {
                let (scale, zero) = (f16::from_f32(*scale).to_le_bytes(), zero.to_le_bytes());
                *bytes = [scale[0], scale[1], zero[0], zero[1]];
            },
        ),
        ScaleType::F32Zero => stored.as_chunks_mut().0.iter_mut().zip(scales).zip(zeros).for_each(
            |((bytes, scale), zero): ((&mut [u8; 8], _), i16)| {
                bytes[..4].copy_from_slice(&scale.to_le_bytes());
                bytes[4..].copy_from_slice(&i32::from(zero).to_le_bytes());
            },
        ),
    }
}

/// Scale number `at` of the tensor in `bytes`, and its zero point.
pub(crate) fn scale_at(layout: &Layout, bytes: &[u8], at: usize) -> (f32, i16) {
    let unit = layout.packing.scale.n_bytes() as usize;
    let b = &bytes[layout.scale_offset + at * unit..][..unit];
    match layout.packing.scale {
        ScaleType::F16 => (f16::from_le_bytes([b[0], b[1]]).to_f32(), 0),
        ScaleType::F32 => (f32::from_le_bytes([b[0], b[1], b[2], b[3]]), 0),
        ScaleType::F16Zero => (f16::from_le_bytes([b[0], b[1]]).to_f32(), i16::from_le_bytes([b[2], b[3]])),
        ScaleType::F32Zero => (f32::from_le_bytes([b[0], b[1], b[2], b[3]]), i16::from_le_bytes([b[4], b[5]])),
    }
}

/// Reads all scales; `bytes` holds the whole tensor.
fn read_scales(layout: &Layout, bytes: &[u8]) -> Vec<f32> {
    (0..layout.n_scales).map(|at| scale_at(layout, bytes, at).0).collect()
}

/// Reads all zero points; none where the packing has none.
fn read_zeros(layout: &Layout, bytes: &[u8]) -> Vec<i16> {
    let n = if layout.packing.scale.has_zeros() { layout.n_scales } else { 0 };
    (0..n).map(|at| scale_at(layout, bytes, at).1).collect()
}

/// Refuses a slice of the wrong length.
fn check_length(what: &'static str, given: usize, expected: usize) -> Result<(), PackedError> {
    if given == expected { Ok(()) } else { Err(PackedError::Length { what, given, expected }) }
}
