//! ONNX OneHot: codes with one element set.

use crate::ir::expr::build::{arg, select};
use crate::ir::{Attrs, Class, Dim, Expand, Infer, OpError, Shape, Tensor, TensorType, Val, attr};
use crate::ops::compose::positions;
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::axis_attr;

written_out! {
    /// `one_hot(indices, depth, values) {axis}`: ONNX OneHot, opset 11; the depth is a constant.
    DEF "one_hot" "OneHot" (3, 3) [attr::int("axis")] infer, expand;
}

/// The axis of the codes in the result, and how many there are.
fn depth(attrs: &Attrs, indices: &TensorType, depth: Option<&Tensor>) -> Result<(usize, i64), OpError> {
    let n = depth.ok_or(OpError::NotConstant { slot: 1 })?.to_i64s()?.first().copied().unwrap_or(0);
    if !(1..=1 << 24).contains(&n) {
        return Err(OpError::operand(1, n, "a depth from 1 to 2^24"));
    }
    Ok((axis_attr(attrs, -1, indices.shape.rank() + 1)?, n))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (indices, values) = (infer.ty(0)?, infer.ty(2)?);
    if !matches!(indices.dtype.class(), Class::Int | Class::Float)
        || values.shape != Shape::of(&[2])
        || values.dtype.class() == Class::Text
    {
        return Err(OpError::operand(2, values, "two values"));
    }
    let (axis, n) = depth(infer.attrs, indices, infer.constant(1))?;
    let mut shape = indices.shape.0.clone();
    shape.insert(axis, Dim::Known(n));
    Ok(vec![TensorType::new(values.dtype, Shape(shape))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (indices, values) = (e.input(0)?, e.input(2)?);
    let n_tensor = e.edit.constant(e.input(1)?).cloned();
    let ty = e.ty(indices);
    let (axis, n) = depth(e.attrs, &ty, n_tensor.as_ref())?;
    let mut shape = ty.shape.0.clone();
    shape.insert(axis, Dim::Known(1));
    let rank = shape.len();
    let indices = reshape::to(e, indices, shape)?;
    let place = positions(e, rank, axis, n as usize, 1)?;
    let part = |e: &mut Expand<'_, '_>, at: i64| -> Result<Val, OpError> {
        let one = crate::ops::compose::part(e, values, 0, at, 1)?;
        reshape::to(e, one, Vec::new())
    };
    let (off, on) = (part(e, 0)?, part(e, 1)?);
    let index = if ty.dtype.is_float() { arg(0).to_int() } else { arg(0) };
    let expr = select(select(index.clone().below(0), index.clone() + n, index).equals(arg(1)), arg(3), arg(2));
    let dtype = e.outputs[0].dtype;
    Ok(vec![pointwise::add(e, expr, dtype, &[indices, place, off, on])?])
}
