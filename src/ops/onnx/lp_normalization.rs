//! ONNX LpNormalization.

use crate::ir::expr::build::{arg, select};
use crate::ir::{Attrs, Expand, Infer, OpError, TensorType, Val, attr};
use crate::ops::compose::reduce;
use crate::ops::core::pointwise;
use crate::ops::util::{axis_attr, like_floats};

written_out! {
    /// `lp_normalization(x) {axis, p}`: ONNX LpNormalization, opset 22: `x / norm`, zero where the norm is.
    DEF "lp_normalization" "LpNormalization" (1, 1) [attr::int("axis"), attr::int("p")] infer, expand;
}

/// Which norm: 1 or 2.
fn order(attrs: &Attrs) -> Result<i64, OpError> {
    match attrs.int("p").unwrap_or(2) {
        p @ (1 | 2) => Ok(p),
        p => Err(OpError::attribute("p", format!("is {p}, 1 or 2 is expected"))),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    order(infer.attrs)?;
    axis_attr(infer.attrs, -1, infer.ty(0)?.shape.rank())?;
    like_floats(infer, 1)
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let axis = axis_attr(e.attrs, -1, ty.shape.rank())?;
    let (before, norm) = if order(e.attrs)? == 1 { (arg(0).abs(), arg(1)) } else { (arg(0) * arg(0), arg(1).sqrt()) };
    let powers = pointwise::add(e, before, ty.dtype, &[x])?;
    let sum = reduce(e, "sum", powers, &[axis], true)?;
    Ok(vec![pointwise::add(e, select(arg(1).equals(0.0), 0.0, arg(0) / norm), ty.dtype, &[x, sum])?])
}
