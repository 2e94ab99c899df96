//! What an expansion computes between its operands and its results is f32.
//!
//! The format of a node says how its results are stored, and its operands are stored as their own nodes' formats say.
//! An operator that is written as several has values between them, squares and sums of squares, say, which f16 need not
//! hold though it holds the result, and which bf16 would round. So whatever an expansion chose by the type of its
//! operands, here the two are left to results, to what only moves elements that are of these types already, and f16 to
//! the probabilities of a softmax, which are 1 at most, so that their product with values of f16 is one of f16.

use crate::ir::{Attr, DType, Edit, Op, OpError, Val};
use crate::ops::core::{concat, gather, reshape, softmax, store, strided};
use std::collections::{BTreeMap, BTreeSet};

/// Operators of the ONNX level, which expand in turn, that only move elements.
const MOVES: &[&str] = &[
    "Concat",
    "DepthToSpace",
    "Expand",
    "Flatten",
    "Gather",
    "GatherElements",
    "GatherND",
    "Identity",
    "Pad",
    "Reshape",
    "ReverseSequence",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Trilu",
    "Unsqueeze",
];

/// Whether an operator gives nothing but elements of its operands.
fn only_moves(op: &Op) -> bool {
    [&strided::DEF, &gather::DEF, &concat::DEF, &reshape::DEF].into_iter().any(|def| op.is(def))
        || MOVES.contains(&op.def.onnx)
}

/// Whether results are from 0 to 1.
fn is_probability(op: &Op) -> bool {
    op.is(&softmax::DEF) && op.attrs.int("log").unwrap_or(0) == 0
}

/// Types the nodes that `edit` added from number `first` on, which compute `results` of the element types `wanted`.
/// Gives the results, each of its type.
///
/// # Errors
/// An operator refuses f32.
pub(crate) fn between(
    edit: &mut Edit<'_>,
    first: usize,
    mut results: Vec<Val>,
    wanted: &[DType],
) -> Result<Vec<Val>, OpError> {
    let end = edit.n_new();
    let is_narrow = |edit: &Edit<'_>, val: Val| {
        matches!(edit.ty(val).dtype, DType::F16 | DType::BF16) && edit.ty(val).packing.is_none()
    };
    let any_narrow = (first..end).any(|node| edit.new_op(node).is_some() && is_narrow(edit, Val::New { node, out: 0 }));
    if !any_narrow {
        return typed(edit, results, wanted);
    }
    // The nodes whose stored values are results, perhaps by way of views; what others compute with is none.
    let is_view = |edit: &Edit<'_>, node: usize| edit.new_op(node).is_some_and(|(op, _)| op.is(&reshape::DEF));
    let mut stored: BTreeMap<usize, DType> = BTreeMap::new();
    for (result, dtype) in results.iter().zip(wanted) {
        let mut at = *result;
        while let Val::New { node, out: 0 } = at
            && node >= first
        {
            stored.insert(node, *dtype);
            let operand = edit.new_op(node).and_then(|(_, operands)| operands.first().copied().flatten());
            match operand.filter(|_| is_view(edit, node)) {
                Some(operand) => at = operand,
                None => break,
            }
        }
    }
    let read: BTreeSet<Val> = (first..end)
        .filter(|node| !(is_view(edit, *node) && stored.contains_key(node)))
        .filter_map(|node| edit.new_op(node))
        .flat_map(|(_, operands)| operands.iter().copied().flatten())
        .collect();
    stored.retain(|node, _| !read.contains(&Val::New { node: *node, out: 0 }));
    let mut wide: BTreeMap<Val, Val> = BTreeMap::new();
    for node in first..end {
        let Some((op, operands)) = edit.new_op(node) else { continue };
        let (mut op, mut operands) = (op.clone(), operands.to_vec());
        let (result, moves) = (Val::New { node, out: 0 }, only_moves(&op));
        let is_float = edit.ty(result).dtype.is_float() && edit.ty(result).packing.is_none();
        let mixed = operands.iter().flatten().any(|v| edit.ty(*v).dtype == DType::F32);
        let wanted = match stored.get(&node) {
            Some(dtype) => *dtype,
            None if moves && !mixed && is_narrow(edit, result) => edit.ty(result).dtype,
            None if is_probability(&op) && edit.ty(result).dtype != DType::BF16 => DType::F16,
            None if is_narrow(edit, result) || moves => DType::F32,
            None => edit.ty(result).dtype,
        };
        if is_float && op.def.has_attr("dtype") {
            op.attrs.0.insert("dtype".to_owned(), Attr::DType(wanted));
        } else if is_float && wanted == DType::F32 && !op.is(&reshape::DEF) {
            // It stores what it reads.
            for operand in operands.iter_mut().flatten() {
                if is_narrow(edit, *operand) {
                    let widened = match wide.get(operand) {
                        Some(&widened) => widened,
                        None => store::add(edit, *operand, DType::F32)?,
                    };
                    wide.insert(*operand, widened);
                    *operand = widened;
                }
            }
        }
        edit.rewrite_new(node, op, &operands).map_err(|e| OpError::Edit(Box::new(e)))?;
    }
    results = typed(edit, results, wanted)?;
    Ok(results)
}

/// Results of another type than they should have, stored in theirs.
fn typed(edit: &mut Edit<'_>, results: Vec<Val>, wanted: &[DType]) -> Result<Vec<Val>, OpError> {
    let mut typed = Vec::with_capacity(results.len());
    for (at, result) in results.into_iter().enumerate() {
        let is_float = |dtype: DType| dtype.is_float() && !dtype.is_minifloat();
        let now = edit.ty(result).dtype;
        let other = wanted.get(at).copied().filter(|dtype| *dtype != now && is_float(*dtype) && is_float(now));
        typed.push(match other {
            Some(dtype) => store::add(edit, result, dtype)?,
            None => result,
        });
    }
    Ok(typed)
}
