//! Steps that many expansions are made of.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, DType, Dim, Expand, OpError, Shape, Tensor, TensorType, Val};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::strided::{View, row_major, view};
use crate::ops::core::{
    concat as concat_op, gather as gather_op, matmul as matmul_op, pointwise, reduce as reduce_op, reshape,
};
use crate::ops::util::between;

/// Most elements of a constant that an expansion computes: 64 MiB of f32.
pub const LARGEST_CONSTANT: usize = 1 << 24;

/// The sizes of a type.
///
/// # Errors
/// One is not known.
pub fn sizes(slot: usize, ty: &TensorType) -> Result<Vec<usize>, OpError> {
    ty.shape.known().ok_or_else(|| OpError::operand(slot, ty, "known sizes"))
}

/// Known sizes as dims.
pub fn dims(sizes: &[usize]) -> Vec<Dim> {
    Shape::of(sizes).0
}

/// A constant of f32.
///
/// # Errors
/// The count is not the shape's.
pub fn floats(e: &mut Expand<'_, '_>, dims: &[usize], values: &[f32]) -> Result<Val, OpError> {
    let tensor = Tensor::from_f32s(DType::F32, dims, values)?;
    Ok(e.constant(tensor))
}

/// Zeros of these sizes.
///
/// # Errors
/// The type has no zero.
pub fn zeros(e: &mut Expand<'_, '_>, dtype: DType, sizes: &[usize]) -> Result<Val, OpError> {
    let zero = Tensor::from_f32s(dtype, &[1], &[0.0])?;
    let zero = e.constant(zero);
    crate::ops::onnx::movement::broadcast_to(e, zero, dims(sizes))
}

/// The positions 0 to n - 1 as i64, times `step`, along `axis` of `rank` axes that are 1 otherwise.
///
/// # Errors
/// There are more than a constant may have.
pub fn positions(
    e: &mut Expand<'_, '_>,
    rank: usize,
    axis: usize,
    n: impl Into<Dim>,
    step: i64,
) -> Result<Val, OpError> {
    let n: Dim = n.into();
    let Some(n) = n.known().and_then(|n| usize::try_from(n).ok()) else {
        // How many there are changes between runs: the device counts them.
        let list = crate::ops::core::iota::add(e, Dim::Known(0), Dim::Known(step), n.clone(), DType::I64)?;
        let mut dims = vec![Dim::Known(1); rank];
        if let Some(size) = dims.get_mut(axis) {
            *size = n;
        }
        return reshape::to(e, list, dims);
    };
    if n > LARGEST_CONSTANT {
        return Err(OpError::unsupported(format!("the positions of {n} elements as a constant")));
    }
    let mut dims = vec![1; rank];
    if let Some(size) = dims.get_mut(axis) {
        *size = n;
    }
    let values: Vec<i64> = (0..n as i64).map(|i| i.wrapping_mul(step)).collect();
    let tensor = Tensor::from_i64s(DType::I64, &dims, &values)?;
    Ok(e.constant(tensor))
}

/// The type of positions in a tensor of so many elements: 32 bits where they are enough.
pub fn position_type(n_elems: usize) -> DType {
    if i32::try_from(n_elems).is_ok() { DType::I32 } else { DType::I64 }
}

/// `len` elements along `axis` from `start`.
///
/// # Errors
/// The type rule refuses.
pub fn part(e: &mut Expand<'_, '_>, x: Val, axis: usize, start: i64, len: i64) -> Result<Val, OpError> {
    let mut shape = e.ty(x).shape.0;
    let strides = row_major(&shape);
    let (Some(size), Some(stride)) = (shape.get_mut(axis), strides.get(axis)) else {
        return Err(OpError::unsupported(format!("axis {axis} of {} axes", strides.len())));
    };
    if start == 0 && *size == Dim::Known(len) {
        return Ok(x);
    }
    *size = Dim::Known(len);
    let offset = Some(&Dim::Known(start) * stride);
    view(e, x, &View { shape, strides, offset, ..View::default() })
}

/// A reduction along sorted axes.
///
/// # Errors
/// The type rule refuses.
pub fn reduce(e: &mut Expand<'_, '_>, kind: &str, x: Val, axes: &[usize], keepdims: bool) -> Result<Val, OpError> {
    e.add(&reduce_op::DEF, reduce_op::attrs(kind, axes, keepdims), &[x])
}

/// The largest or smallest (`kind`) along one axis, which stays. It is stored as wide as any float is: rounded, it
/// would equal no element of x.
///
/// # Errors
/// The type rule refuses.
pub fn extremum(e: &mut Expand<'_, '_>, kind: &str, x: Val, axis: usize) -> Result<Val, OpError> {
    let attrs = reduce_op::attrs(kind, &[axis], true);
    let dtype = e.ty(x).dtype;
    e.add(&reduce_op::DEF, if dtype.is_float() { attrs.with_dtype("dtype", between(dtype)) } else { attrs }, &[x])
}

/// A product of matrices, both of rank 2 at least.
///
/// # Errors
/// The type rule refuses.
pub fn matmul(e: &mut Expand<'_, '_>, a: Val, b: Val, trans_b: bool) -> Result<Val, OpError> {
    e.add(&matmul_op::DEF, matmul_op::attrs(trans_b), &[a, b])
}

/// Tensors one after the other; the tensor itself where there is one.
///
/// # Errors
/// The type rule refuses.
pub fn concat(e: &mut Expand<'_, '_>, parts: &[Val], axis: usize) -> Result<Val, OpError> {
    match parts {
        [one] => Ok(*one),
        _ => e.add(&concat_op::DEF, Attrs::new().with_int("axis", axis as i64), parts),
    }
}

/// Slices chosen by indices that a model gives: negative ones count from the end, and one that is out of range ends the
/// run.
///
/// # Errors
/// The type rule refuses.
pub fn gather(e: &mut Expand<'_, '_>, data: Val, indices: Val, axis: usize) -> Result<Val, OpError> {
    let size = e.ty(data).shape.0.get(axis).cloned();
    let size = size.ok_or_else(|| OpError::attribute("axis", format!("is {axis}")))?;
    let indices = check_indices::add(e, indices, &Rule::of_axis(size))?;
    gather_within(e, data, indices, axis)
}

/// Slices chosen by indices that are in range by what they are, or are to be clamped to it.
///
/// # Errors
/// The type rule refuses.
pub fn gather_within(e: &mut Expand<'_, '_>, data: Val, indices: Val, axis: usize) -> Result<Val, OpError> {
    e.add(&gather_op::DEF, Attrs::new().with_int("axis", axis as i64), &[data, indices])
}

/// The values as another type: floats stored as it, others by ONNX's Cast.
///
/// # Errors
/// There is no such cast.
pub fn cast(e: &mut Expand<'_, '_>, x: Val, to: DType) -> Result<Val, OpError> {
    let from = e.ty(x).dtype;
    if from == to {
        return Ok(x);
    }
    if from.is_float() && to.is_float() && !from.is_minifloat() && !to.is_minifloat() {
        return crate::ops::core::store::add(e.edit, x, to);
    }
    e.add(&crate::ops::onnx::elementwise::CAST, Attrs::new().with_dtype("to", to), &[x])
}

/// A one-dimensional operand along `axis` of `rank` axes.
///
/// # Errors
/// It has more elements than one axis.
pub fn along(e: &mut Expand<'_, '_>, x: Val, rank: usize, axis: usize) -> Result<Val, OpError> {
    let n = e.ty(x).shape.volume();
    let mut shape = vec![Dim::Known(1); rank];
    if let Some(size) = shape.get_mut(axis) {
        *size = n;
    }
    reshape::to(e, x, shape)
}

/// Elements of `data`, one index along `axis` for each, none of them negative or beyond the axis: `indices` has data's
/// rank or broadcasts to the result, whose other sizes are `out`'s.
///
/// # Errors
/// A size is not known.
pub fn take(e: &mut Expand<'_, '_>, data: Val, indices: Val, axis: usize, out: &[usize]) -> Result<Val, OpError> {
    let own = sizes(0, &e.ty(data))?;
    let strides = crate::ops::util::strides(&own);
    let mut operands = vec![indices];
    let mut expr = arg(0) * strides[axis] as i64;
    for (i, &n) in out.iter().enumerate().filter(|(i, n)| *i != axis && **n != 1) {
        expr = expr + arg(operands.len());
        operands.push(positions(e, out.len(), i, n, strides[i] as i64)?);
    }
    let at = pointwise::add(e, expr, position_type(own.iter().product()), &operands)?;
    let flat = reshape::to(e, data, vec![Dim::Known(own.iter().product::<usize>() as i64)])?;
    let y = gather_within(e, flat, at, 0)?;
    crate::ops::onnx::movement::broadcast_to(e, y, dims(out))
}
