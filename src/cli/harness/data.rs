//! Random operands, of which a few rows are made and repeated.

use super::bug;
use crate::cli::Failure;
use crate::ir::packed::{Coding, Packing, dequantize};
use crate::ir::{Shape, Tensor, TensorType};

/// Rows that are random; those after them repeat these, so that large tensors are made in no time. A prime: tiles of
/// kernels do not meet the same rows at the same place.
const DISTINCT_ROWS: usize = 61;

/// Random numbers (SplitMix64, Steele et al. 2014).
pub(in crate::cli) struct Random(pub(in crate::cli) u64);

impl Random {
    pub(in crate::cli) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A tensor: what is uploaded, and the values of its distinct rows. A row is all of the first axis but of an operand of
/// several leading axes the last axis.
pub(in crate::cli) struct Data {
    pub(in crate::cli) tensor: Tensor,
    rows: Vec<f32>,
    n_distinct: usize,
    n_cols: usize,
}

impl Data {
    /// Random values of this type, in rows of `n_cols`.
    pub(super) fn random(ty: &TensorType, n_cols: usize, random: &mut Random) -> Result<Data, Failure> {
        let n = ty.shape.n_elems().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| bug("it is too large"))?;
        let n_rows = n / n_cols.max(1);
        let n_distinct = n_rows.clamp(1, DISTINCT_ROWS);
        let n_bytes = ty.bytes().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| bug("it is too large"))?;
        let mut bytes = Vec::with_capacity(n_bytes);
        let repeat = |bytes: &mut Vec<u8>, rows: &[u8]| {
            let whole = rows.len() / n_distinct;
            for _ in 0..n_rows / n_distinct {
                bytes.extend_from_slice(rows);
            }
            bytes.extend_from_slice(&rows[..n_rows % n_distinct * whole]);
        };
        let rows = match ty.packing {
            None => {
                let values: Vec<f32> = (0..n_distinct * n_cols).map(|_| random.unit()).collect();
                let few = Tensor::from_f32s(ty.dtype, &[n_distinct, n_cols], &values).map_err(bug)?;
                repeat(&mut bytes, few.bytes().map_err(bug)?);
                few.to_f32s().map_err(bug)?.into_owned()
            }
            Some(packing) => {
                let (codes, scales) = packed(packing, n_distinct, n_cols, random)?;
                let planes =
                    packing.plane_offset(n_distinct as u64, n_cols as u64).and_then(|n| usize::try_from(n).ok());
                let (words, planes) = codes.split_at(planes.unwrap_or(codes.len()));
                repeat(&mut bytes, words);
                let n_planes = usize::from(packing.coding.n_planes()).max(1);
                planes.chunks(planes.len().div_ceil(n_planes).max(1)).for_each(|plane| repeat(&mut bytes, plane));
                if packing.n_scales(n_rows as u64, n_cols as u64) == Some(1) {
                    bytes.extend_from_slice(&scales[..packing.scale.n_bytes() as usize]);
                } else {
                    repeat(&mut bytes, &scales);
                }
                bytes.resize(n_bytes, 0);
                let mut few = codes;
                few.extend_from_slice(&scales);
                few.resize(few.len().next_multiple_of(4), 0);
                let ty = TensorType { shape: Shape::of(&[n_distinct, n_cols]), ..ty.clone() };
                let few = Tensor::from_bytes(ty, few).map_err(bug)?;
                dequantize(packing, n_distinct, n_cols, few.bytes().map_err(bug)?).map_err(bug)?
            }
        };
        Ok(Data { tensor: Tensor::from_bytes(ty.clone(), bytes).map_err(bug)?, rows, n_distinct, n_cols })
    }

    /// Element `at` of the tensor in its row-major order.
    pub(super) fn at(&self, at: usize) -> f64 {
        f64::from(self.rows[at / self.n_cols % self.n_distinct * self.n_cols + at % self.n_cols])
    }

    /// Row `row` whole.
    pub(super) fn row(&self, row: usize) -> &[f32] {
        let row = row % self.n_distinct;
        &self.rows[row * self.n_cols..(row + 1) * self.n_cols]
    }
}

/// Codes and scales of so many rows.
fn packed(packing: Packing, n_rows: usize, n_cols: usize, random: &mut Random) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let row_codes = 32 / usize::from(packing.coding.row_bits());
    if !n_cols.is_multiple_of(row_codes) || packing.coding.n_planes() > 0 && !n_cols.is_multiple_of(32) {
        return Err(Failure::usage(format!("{n_cols} codes of {} bits are no whole words", packing.coding.bits())));
    }
    let n_bytes = packing.layout(n_rows, n_cols).map_err(bug)?.scale_offset;
    let mut codes: Vec<u8> = (0..n_bytes / 4).flat_map(|_| (random.next() as u32).to_le_bytes()).collect();
    if packing.coding == Coding::I8 {
        // -128 is no code of activations.
        codes.iter_mut().filter(|code| **code == 0x80).for_each(|code| *code = 0x81);
    }
    let most = packing.coding.largest();
    let n_scales = packing.n_scales(n_rows as u64, n_cols as u64).unwrap_or(1);
    let mut scales: Vec<u8> = Vec::new();
    for _ in 0..n_scales {
        let scale = packing.scale.storable((random.unit() * 0.25 + 0.75) / most, packing.coding);
        match packing.scale.n_bytes() {
            2 => scales.extend_from_slice(&half::f16::from_f32(scale).to_le_bytes()),
            _ => scales.extend_from_slice(&scale.to_le_bytes()),
        }
    }
    Ok((codes, scales))
}
