//! ONNX TensorScatter: rows written into a cache.

use crate::ir::expr::build::{arg, select};
use crate::ir::{DType, Dim, Expand, Infer, OpError, TensorType, Val, attr};
use crate::ops::compose::{positions, sizes, take};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::pointwise;
use crate::ops::util::{axis_attr, number_operand};

written_out! {
    /// `tensor_scatter(past, update, write_indices?) {axis, mode}`: ONNX TensorScatter, opset 24.
    DEF "tensor_scatter" "TensorScatter" (2, 3) [attr::int("axis"), attr::text("mode")] infer, expand;
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (past, update) = (number_operand(infer, 0)?, number_operand(infer, 1)?);
    let axis = axis_attr(infer.attrs, -2, past.shape.rank())?;
    let fits = |i: usize| update.shape.0.get(i).is_some_and(|n| *n == past.shape.0[i] || i == axis);
    if axis == 0
        || past.dtype != update.dtype
        || update.shape.rank() != past.shape.rank()
        || !(0..past.shape.rank()).all(fits)
    {
        return Err(OpError::operand(1, update, format!("{past} but for axis {axis}")));
    }
    if let Some(Some(at)) = infer.inputs.get(2)
        && at.shape.0 != past.shape.0[..1]
    {
        return Err(OpError::operand(2, at, format!("[{}]", past.shape.0[0])));
    }
    if !matches!(infer.attrs.str("mode"), None | Some("linear" | "circular")) {
        return Err(OpError::attribute("mode", format!("is {:?}", infer.attrs.str("mode"))));
    }
    Ok(vec![past.clone()])
}

/// Each place of the result asks which place of the update, if any, was written there.
fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (past, update) = (e.input(0)?, e.input(1)?);
    let ty = e.ty(past);
    let (out, given) = (sizes(0, &ty)?, sizes(1, &e.ty(update))?);
    let axis = axis_attr(e.attrs, -2, out.len())?;
    let place = positions(e, out.len(), axis, out[axis], 1)?;
    let mut from = place;
    if let Some(mut at) = e.optional(2) {
        if e.attrs.str("mode") != Some("circular") {
            // All of the update has room behind where it begins.
            let room = out[axis].checked_sub(given[axis]).ok_or_else(|| {
                OpError::operand(1, e.ty(update), format!("at most {} elements along axis {axis}", out[axis]))
            })?;
            let rule = Rule { sizes: vec![Dim::from(room + 1)], negative: false, ignore: None };
            at = check_indices::add(e, at, &rule)?;
        }
        let at = crate::ops::compose::along(e, at, out.len(), 0)?;
        let expr = if e.attrs.str("mode") == Some("circular") {
            (arg(0) - arg(1)).modulo(out[axis] as i64)
        } else {
            arg(0) - arg(1)
        };
        from = pointwise::add(e, expr, DType::I64, &[place, at])?;
    }
    let last = given[axis] as i64 - 1;
    let clamped = pointwise::add(e, arg(0).max(0).min(last), DType::I64, &[from])?;
    let new = take(e, update, clamped, axis, &out)?;
    Ok(vec![pointwise::add(
        e,
        select(arg(2).at_least(0).and(arg(2).at_most(last)), arg(0), arg(1)),
        ty.dtype,
        &[new, past, from],
    )?])
}
