//! `quantize_packed`: INT8 codes and their scales.

use super::call::{Call, Node};
use super::{KernelCall, KernelError};
use crate::ir::packed::Granularity;
use crate::ops::kernel_key::Template;

/// Elements that one workgroup still looks through by itself for one maximum.
const ELEMS_PER_PART: u64 = 1 << 14;
/// Most workgroups that look for one maximum.
const MAX_PARTS: u64 = 256;

pub(super) fn quantize_packed(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let (Some(packing), Some((rows, cols))) = (node.result.packing, node.result.matrix()) else {
        return Err(node.unsupported(format!("a quantize_packed to {}", node.result)));
    };
    if !ty.dtype.is_float() || ty.packing.is_some() {
        return Err(node.unsupported(format!("a quantize_packed of {ty}")));
    }
    let pitch = packing.pitch_words(cols).unwrap_or(0);
    let n_words = rows * pitch;
    // Every part needs a word to leave its maximum in.
    let parts = (rows * cols).div_ceil(ELEMS_PER_PART).clamp(1, MAX_PARTS).min(n_words.max(1));
    let stage = |stage: u32| -> Call<'_> {
        let call = node.call(Template::QuantizePacked).operand(x).flag("stage", stage).uint("rows", rows).uint("cols", cols);
        call.uint("pitch", pitch).uint("scales", packing.scale_offset(rows, cols).unwrap_or(0) / 4).uint("parts", parts)
    };
    match packing.granularity {
        Granularity::Row => Ok(vec![stage(0).groups(rows)?]),
        Granularity::Tensor => Ok(vec![stage(1).groups(parts)?, stage(2).groups(1)?, stage(3).invocations(n_words)?]),
        Granularity::Block(_) => Err(node.unsupported("activations quantized by block")),
    }
}
