//! ONNX operators that compare positions: triangles, one-hot codes, identity matrices, the place of a maximum.

use crate::ir::{Attrs, Class, DType, Dim, Expand, Infer, OpError, Shape, Tensor, TensorType, Val, attr};
use crate::ops::compose::{extremum, positions, reduce, sizes};
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::{axis_attr, dtype_attr};

written_out! {
    /// `trilu(x, k?) {upper}`: ONNX Trilu, opset 14: the upper or lower triangle of matrices, zero elsewhere.
    TRILU "trilu" "Trilu" (1, 2) [attr::int("upper")] infer_trilu, expand_trilu;
    /// `eye_like(x) {k, dtype}`: ONNX EyeLike, opset 22.
    EYE_LIKE "eye_like" "EyeLike" (1, 1) [attr::int("k"), attr::dtype("dtype")] infer_eye, expand_eye;
    /// `one_hot(indices, depth, values) {axis}`: ONNX OneHot, opset 11; the depth is a constant.
    ONE_HOT "one_hot" "OneHot" (3, 3) [attr::int("axis")] infer_one_hot, expand_one_hot;
    /// `hardmax(x) {axis}`: ONNX Hardmax, opset 13: one at the first maximum along an axis, zero elsewhere.
    HARDMAX "hardmax" "Hardmax" (1, 1) [attr::int("axis")] infer_hardmax, expand_hardmax;
}

/// Zero in an expression.
fn zero(dtype: DType) -> &'static str {
    match dtype.class() {
        Class::Float => "0.0",
        Class::Bool => "b(0)",
        _ => "0",
    }
}

fn infer_trilu(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.packing.is_some() || x.shape.rank() < 2 || x.dtype.class() == Class::Text {
        return Err(OpError::operand(0, x, "matrices"));
    }
    if let Some(Some(k)) = infer.inputs.get(1)
        && (k.dtype.class() != Class::Int || k.shape.n_elems() != Some(1))
    {
        return Err(OpError::operand(1, k, "an integer"));
    }
    Ok(vec![x.clone()])
}

fn expand_trilu(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let own = &ty.shape.0;
    let rank = own.len();
    let rows = positions(e, rank, rank - 2, own[rank - 2].clone(), 1)?;
    let columns = positions(e, rank, rank - 1, own[rank - 1].clone(), 1)?;
    let mut operands = vec![x, rows, columns];
    let k = match e.optional(1) {
        None => "0".to_owned(),
        Some(k) => match e.edit.constant(k) {
            Some(k) => k.to_i64s()?.first().copied().unwrap_or(0).clamp(-(1 << 31), 1 << 31).to_string(),
            None => {
                operands.push(reshape::to(e, k, Vec::new())?);
                "x3".to_owned()
            }
        },
    };
    let compare = if e.attrs.int("upper").unwrap_or(1) != 0 { "ge" } else { "le" };
    let text = format!("select({compare}(sub(x2,x1),{k}),x0,{})", zero(ty.dtype));
    Ok(vec![pointwise::add(e, &text, ty.dtype, &operands)?])
}

fn infer_eye(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.shape.rank() != 2 {
        return Err(OpError::operand(0, x, "a matrix"));
    }
    Ok(vec![TensorType::new(dtype_attr(infer.attrs, "dtype").unwrap_or(x.dtype), x.shape.clone())])
}

fn expand_eye(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let ty = e.outputs[0].clone();
    let own = sizes(0, &ty)?;
    let (rows, columns) = (positions(e, 2, 0, own[0], 1)?, positions(e, 2, 1, own[1], 1)?);
    let hit = format!("eq(sub(x1,x0),{})", e.attrs.int("k").unwrap_or(0).clamp(-(1 << 31), 1 << 31));
    let text = match ty.dtype.class() {
        Class::Float => format!("f({hit})"),
        Class::Int => format!("i({hit})"),
        _ => hit,
    };
    Ok(vec![pointwise::add(e, &text, ty.dtype, &[rows, columns])?])
}

/// The axis of the codes in the result, and how many there are.
fn depth(attrs: &Attrs, indices: &TensorType, depth: Option<&Tensor>) -> Result<(usize, i64), OpError> {
    let n = depth.ok_or(OpError::NotConstant { slot: 1 })?.to_i64s()?.first().copied().unwrap_or(0);
    if !(1..=1 << 24).contains(&n) {
        return Err(OpError::operand(1, n, "a depth from 1 to 2^24"));
    }
    Ok((axis_attr(attrs, -1, indices.shape.rank() + 1)?, n))
}

fn infer_one_hot(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
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

fn expand_one_hot(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
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
    let index = if ty.dtype.is_float() { "i(x0)" } else { "x0" };
    let text = format!("select(eq(select(lt({index},0),add({index},{n}),{index}),x1),x3,x2)");
    let dtype = e.outputs[0].dtype;
    Ok(vec![pointwise::add(e, &text, dtype, &[indices, place, off, on])?])
}

fn infer_hardmax(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    axis_attr(infer.attrs, -1, x.shape.rank())?;
    if !x.dtype.is_float() || x.packing.is_some() {
        return Err(OpError::operand(0, x, "floats"));
    }
    Ok(vec![x.clone()])
}

fn expand_hardmax(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let own = sizes(0, &ty)?;
    let axis = axis_attr(e.attrs, -1, own.len())?;
    let max = extremum(e, "max", x, axis)?;
    let place = positions(e, own.len(), axis, own[axis], 1)?;
    let candidates = pointwise::add(e, &format!("select(eq(x0,x1),x2,{})", own[axis]), DType::I64, &[x, max, place])?;
    let first = reduce(e, "min", candidates, &[axis], true)?;
    Ok(vec![pointwise::add(e, "f(eq(x0,x1))", ty.dtype, &[place, first])?])
}
