//! Reading packed operands row by row.

use crate::ir::packed::{Granularity, Layout, Packing, scale_at, unpack};
use crate::ir::{OpError, Tensor};

/// A packed operand with its codes unpacked: rows of codes, and the scales they draw on.
pub struct PackedView {
    /// All sizes.
    pub layout: Layout,
    codes: Vec<i8>,
    scales: Vec<f32>,
}

impl PackedView {
    /// Unpacks a tensor for integer products; `None` where it is not packed, or has zero points, with which there are
    /// none.
    ///
    /// # Errors
    /// Its data is absent or does not fit its type.
    pub fn of(tensor: &Tensor) -> Result<Option<PackedView>, OpError> {
        let Some(packing) = tensor.ty().packing.filter(|packing| !packing.scale.has_zeros()) else { return Ok(None) };
        let layout = layout(packing, tensor)?;
        let (codes, scales) =
            unpack(packing, layout.n_rows, layout.n_cols, tensor.bytes()?).map_err(OpError::unsupported)?;
        Ok(Some(PackedView { layout, codes, scales }))
    }

    /// The codes of a row.
    pub fn row(&self, row: usize) -> &[i8] {
        &self.codes[row * self.layout.n_cols..(row + 1) * self.layout.n_cols]
    }

    /// The scales of a row, block by block.
    pub fn scales(&self, row: usize) -> &[f32] {
        self.layout.row_scales(&self.scales, row)
    }
}

/// The sizes of a packed tensor.
///
/// # Errors
/// They are not known or too large.
pub fn layout(packing: Packing, tensor: &Tensor) -> Result<Layout, OpError> {
    let narrow = |(rows, cols): (u64, u64)| Some((usize::try_from(rows).ok()?, usize::try_from(cols).ok()?));
    let (rows, cols) = tensor
        .ty()
        .matrix()
        .and_then(narrow)
        .ok_or_else(|| OpError::operand(0, tensor.ty(), "a packed tensor of known size"))?;
    packing.layout(rows, cols).map_err(OpError::unsupported)
}

/// The sum of products of codes, which wraps only beyond 2^31 (more than 133000 columns of extreme codes).
pub fn dot_codes(a: &[i8], b: &[i8]) -> i32 {
    let mut lanes = [0i32; 16];
    let (a_body, a_tail) = a.as_chunks::<16>();
    let (b_body, b_tail) = b.as_chunks::<16>();
    for (a, b) in a_body.iter().zip(b_body) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane = lane.wrapping_add(i32::from(*a) * i32::from(*b));
        }
    }
    let tail = a_tail.iter().zip(b_tail).map(|(a, b)| i32::from(*a) * i32::from(*b));
    lanes.into_iter().chain(tail).fold(0, i32::wrapping_add)
}

/// One row of codes against another whose columns have a scale a block of `unit`: i32 within a block, then f32 `acc +=
/// sum * scale`.
pub fn dot_blocks(a: &[i8], b: &[i8], unit: usize, scales: &[f32]) -> f32 {
    let unit = unit.max(1);
    a.chunks(unit)
        .zip(b.chunks(unit))
        .zip(scales)
        .fold(0.0, |acc, ((a, b), scale)| acc + dot_codes(a, b) as f32 * scale)
}

/// The values of one row of a packed tensor, without touching any other.
pub fn dequantize_row(layout: &Layout, bytes: &[u8], row: usize) -> Vec<f32> {
    let first = if layout.packing.granularity == Granularity::Tensor { 0 } else { row * layout.n_blocks };
    let mut codes = vec![0; layout.n_cols];
    layout.read_row(bytes, row, &mut codes);
    let scales: Vec<(f32, i16)> = (0..layout.n_blocks).map(|block| scale_at(layout, bytes, first + block)).collect();
    let value = |code: i8, (scale, zero): (f32, i16)| f32::from(i16::from(code) - zero) * scale;
    codes.iter().enumerate().map(|(col, code)| value(*code, scales[col / layout.unit_cols.max(1)])).collect()
}
