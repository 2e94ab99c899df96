//! `quantize_packed`: INT8 codes and their scales; `magnitude`: what the scale of a tensor is made of.

use super::call::{Node, matrix, pitch};
use super::settings::{Call, of};
use super::{KernelCall, KernelError, notes_magnitude};
use crate::ir::packed::Granularity;
use crate::ir::{Dim, Graph, ValueId};
use crate::kernels::key::constants;
use crate::ops::core::quantize_packed::DEF;

/// Invocations of a workgroup.
const INVOCATIONS: u64 = constants::INVOCATIONS as u64;
/// Elements that one workgroup still looks through by itself for one maximum.
const ELEMS_PER_PART: u64 = 1 << 14;
/// Most workgroups that look for one maximum.
const MAX_PARTS: i64 = 256;

/// What INT8 codes that are made as kernels load them are made of, and the magnitude of that.
pub(super) fn on_load(graph: &Graph, codes: ValueId) -> Option<(ValueId, ValueId)> {
    let op = graph.node(codes.node).op().filter(|op| op.is(&DEF))?;
    match graph.operands(codes.node)[..] {
        [Some(x), Some(magnitude)] if op.attrs.int("on_load") == Some(1) => Some((x, magnitude)),
        _ => None,
    }
}

/// The magnitude of a value that none of its own kernels note.
pub(super) fn magnitude(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    if !ty.dtype.is_float() || ty.packing.is_some() {
        return Err(node.unsupported(format!("a magnitude of {ty}")));
    }
    if notes_magnitude(node.graph, x, node.target) {
        return Ok(Vec::new());
    }
    let n = crate::ir::product(&ty.shape.0);
    let (parts, per_part) = parts(&n, 1 << 10, 4 * MAX_PARTS);
    let call = node.call(of::Magnitude).operand(x).n(n).parts(parts.clone());
    Ok(vec![call.each(1u64, per_part).workgroups(parts)?])
}

/// How many workgroups, at most `most`, look for the maximum of `n` elements, each through `elements` while there
/// may be more of them, and how many of them an invocation looks at.
fn parts(n: &Dim, elements: u64, most: i64) -> (Dim, Dim) {
    let parts = Dim::least(&Dim::larger(&n.div_ceil(elements), &Dim::Known(1)), &Dim::Known(most));
    (parts, Dim::larger(&n.div_ceil(most.unsigned_abs() * INVOCATIONS), &Dim::from(elements / INVOCATIONS)))
}

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
    let magnitude = node.own.get(1).copied().flatten();
    // Every part needs a word to leave its maximum in.
    let (parts, per_part) = parts(&(&rows * &cols), ELEMS_PER_PART, MAX_PARTS);
    let parts = Dim::least(&parts, &Dim::larger(&n_words, &Dim::Known(1)));
    let stage = |stage: u32| -> Call<'_, of::QuantizePacked> {
        let call = node.call(of::QuantizePacked).operand(x).optional(magnitude).stage(stage);
        let call = call.rows(rows.clone()).cols(cols.clone()).pitch(pitch.clone());
        call.scales(n_words.clone()).parts(parts.clone())
    };
    match packing.granularity {
        Granularity::Row => {
            let call = stage(0).each(1u64, cols.div_ceil(INVOCATIONS)).each(1u64, pitch.div_ceil(INVOCATIONS));
            Ok(vec![call.workgroups(rows.clone())?])
        }
        Granularity::Tensor if magnitude.is_some() => Ok(vec![stage(3).invocations(&n_words)?]),
        Granularity::Tensor => {
            let maxima = stage(1).each(1u64, per_part).workgroups(parts.clone())?;
            let scale = stage(2).each(1u64, MAX_PARTS.unsigned_abs() / INVOCATIONS).workgroups(1u64)?;
            Ok(vec![maxima, scale, stage(3).invocations(&n_words)?])
        }
        Granularity::Block(_) => Err(node.unsupported("activations quantized by block")),
    }
}
