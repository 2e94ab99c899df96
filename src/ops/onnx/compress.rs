//! ONNX Compress: the slices whose condition holds.

use crate::ir::{Attrs, COUNT, DType, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Val, attr};
use crate::ops::compose::{gather, gather_within};
use crate::ops::core::{non_zero, reshape};
use crate::ops::data_dependent::count;
use crate::ops::util::{axis_attr, number_operand};

/// `compress(x, condition) {axis, count}`: ONNX Compress, opset 11: the slices along an axis whose condition holds, or
/// elements where there is no axis.
pub static DEF: OpDef = OpDef {
    name: "compress",
    onnx: "Compress",
    levels: ONNX,
    attrs: &[attr::int("axis"), attr::sizes(COUNT)],
    arity: (2, 2),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

/// The axis of a Compress, `None` for all elements in one row, and how many there are along it.
fn kept_of(infer: &Infer<'_>) -> Result<(Option<usize>, Dim), OpError> {
    let (x, condition) = (number_operand(infer, 0)?, number_operand(infer, 1)?);
    let axis = infer.attrs.int("axis").map(|_| axis_attr(infer.attrs, 0, x.shape.rank())).transpose()?;
    let n = axis.map_or_else(|| x.shape.volume(), |axis| x.shape.0[axis].clone());
    // A shorter condition leaves the rest out; one that is longer at some sizes is found by the check of what it
    // chooses.
    if condition.shape.rank() != 1 || condition.shape.0[0].bounds().0 > n.bounds().1 {
        return Err(OpError::operand(1, condition, format!("at most {n} truth values")));
    }
    Ok((axis, n))
}

/// The most slices that the condition may choose; `None` where it is constant.
pub(crate) fn bound(infer: &Infer<'_>) -> Result<Option<Dim>, OpError> {
    if infer.constant(1).is_some() {
        return Ok(None);
    }
    Ok(Some(Dim::least(&infer.ty(1)?.shape.volume(), &kept_of(infer)?.1)))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, (axis, _)) = (number_operand(infer, 0)?, kept_of(infer)?);
    let n = match (count(infer)?, infer.constant(1)) {
        (Some(count), _) => count,
        (None, Some(condition)) => Dim::from(non_zero::places(condition)?.len()),
        (None, None) => return Err(OpError::NotConstant { slot: 1 }),
    };
    let shape = match axis {
        None => vec![n],
        Some(axis) => [&x.shape.0[..axis], &[n], &x.shape.0[axis + 1..]].concat(),
    };
    Ok(vec![TensorType::new(x.dtype, Shape(shape))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, condition) = (e.input(0)?, e.input(1)?);
    let ty = e.ty(x);
    let axis = e.attrs.int("axis").map(|_| axis_attr(e.attrs, 0, ty.shape.rank())).transpose()?;
    let x = if axis.is_none() { reshape::to(e, x, vec![ty.shape.volume()])? } else { x };
    let indices = match e.attrs.dims(COUNT) {
        Some(count) => {
            let count = count.to_vec();
            let found = e.add(&non_zero::DEF, Attrs::new().with_dims(COUNT, count.clone()), &[condition])?;
            reshape::to(e, found, count)?
        }
        None => {
            let known = e.edit.constant(condition).ok_or(OpError::NotConstant { slot: 1 })?;
            let kept: Vec<i64> = non_zero::places(known)?.into_iter().map(|i| i as i64).collect();
            e.constant(Tensor::from_i64s(DType::I64, &[kept.len()], &kept)?)
        }
    };
    let axis = axis.unwrap_or(0);
    // Only a condition that is longer than the axis may choose what is not there.
    let is_short = e.ty(condition).shape.volume().bounds().1 <= e.ty(x).shape.0[axis].bounds().0;
    Ok(vec![if is_short { gather_within(e, x, indices, axis) } else { gather(e, x, indices, axis) }?])
}
