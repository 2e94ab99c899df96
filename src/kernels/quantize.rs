//! `quantize_packed`: INT8 codes and their scales.

use super::call::{Node, matrix, pitch};
use super::settings::{Call, of};
use super::{KernelCall, KernelError};
use crate::ir::Dim;
use crate::ir::packed::Granularity;
use crate::kernels::key::constants;

/// Invocations of a workgroup.
const INVOCATIONS: u64 = constants::INVOCATIONS as u64;
/// Elements that one workgroup still looks through by itself for one maximum.
const ELEMS_PER_PART: u64 = 1 << 14;
/// Most workgroups that look for one maximum.
const MAX_PARTS: i64 = 256;

pub(super) fn quantize_packed(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let Some(packing) = node.result.packing else {
        return Err(node.unsupported(format!("a quantize_packed to {}", node.result)));
    };
    let (rows, cols) = matrix(node.result);
    if !ty.dtype.is_float() || ty.packing.is_some() {
        return Err(node.unsupported(format!("a quantize_packed of {ty}")));
    }
    let pitch = pitch(packing, &cols);
    let n_words = &rows * &pitch;
    // Every part needs a word to leave its maximum in.
    let one = Dim::Known(1);
    let parts = Dim::least(&Dim::larger(&(&rows * &cols).div_ceil(ELEMS_PER_PART), &one), &Dim::Known(MAX_PARTS));
    let parts = Dim::least(&parts, &Dim::larger(&n_words, &one));
    let stage = |stage: u32| -> Call<'_, of::QuantizePacked> {
        let call = node.call(of::QuantizePacked).operand(x).stage(stage).rows(rows.clone()).cols(cols.clone());
        call.pitch(pitch.clone()).scales(n_words.clone()).parts(parts.clone())
    };
    match packing.granularity {
        Granularity::Row => {
            let call = stage(0).each(1u64, cols.div_ceil(INVOCATIONS)).each(1u64, pitch.div_ceil(INVOCATIONS));
            Ok(vec![call.workgroups(rows.clone())?])
        }
        Granularity::Tensor => {
            // As long as there may be more parts, none has more elements than one should.
            let most = MAX_PARTS.unsigned_abs() * INVOCATIONS;
            let per_part = Dim::larger(&(&rows * &cols).div_ceil(most), &(ELEMS_PER_PART / INVOCATIONS).into());
            let maxima = stage(1).each(1u64, per_part).workgroups(parts.clone())?;
            let scale = stage(2).each(1u64, MAX_PARTS.unsigned_abs() / INVOCATIONS).workgroups(1u64)?;
            Ok(vec![maxima, scale, stage(3).invocations(&n_words)?])
        }
        Granularity::Block(_) => Err(node.unsupported("activations quantized by block")),
    }
}
