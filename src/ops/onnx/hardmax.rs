//! ONNX Hardmax: one at the first maximum.

use crate::ir::expr::build::{arg, select};
use crate::ir::{DType, Expand, Infer, OpError, TensorType, Val, attr};
use crate::ops::compose::{extremum, positions, reduce, sizes};
use crate::ops::core::pointwise;
use crate::ops::util::axis_attr;

written_out! {
    /// `hardmax(x) {axis}`: ONNX Hardmax, opset 13: one at the first maximum along an axis, zero elsewhere.
    DEF "hardmax" "Hardmax" (1, 1) [attr::int("axis")] infer, expand;
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    axis_attr(infer.attrs, -1, x.shape.rank())?;
    if !x.dtype.is_float() || x.packing.is_some() {
        return Err(OpError::operand(0, x, "floats"));
    }
    Ok(vec![x.clone()])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let own = sizes(0, &ty)?;
    let axis = axis_attr(e.attrs, -1, own.len())?;
    let max = extremum(e, "max", x, axis)?;
    let place = positions(e, own.len(), axis, own[axis], 1)?;
    let candidates =
        pointwise::add(e, select(arg(0).equals(arg(1)), arg(2), own[axis] as i64), DType::I64, &[x, max, place])?;
    let first = reduce(e, "min", candidates, &[axis], true)?;
    Ok(vec![pointwise::add(e, arg(0).equals(arg(1)).to_float(), ty.dtype, &[place, first])?])
}
