//! ONNX GatherElements: single elements by indices along one axis.

use crate::ir::{Expand, Infer, OpError, TensorType, Val, attr};
use crate::ops::compose::{sizes, take};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::util::{agree, axis_attr, index_operand, number_operand};

written_out! {
    /// `gather_elements(data, indices) {axis}`: ONNX GatherElements, opset 13.
    DEF "gather_elements" "GatherElements" (2, 2) [attr::int("axis")] infer, expand;
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (data, indices) = (number_operand(infer, 0)?, index_operand(infer, 1)?);
    let axis = axis_attr(infer.attrs, 0, data.shape.rank())?;
    let fits = |i: usize| {
        let (n, own) = (&indices.shape.0[i], &data.shape.0[i]);
        i == axis || agree(n, own) || n.bounds().1 <= own.bounds().0
    };
    if indices.shape.rank() != data.shape.rank() || !(0..data.shape.rank()).all(fits) {
        return Err(OpError::operand(1, indices, format!("as many axes as {data}, none longer but axis {axis}")));
    }
    Ok(vec![TensorType::new(data.dtype, indices.shape.clone())])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (data, indices) = (e.input(0)?, e.input(1)?);
    let out = sizes(1, &e.ty(indices))?;
    let axis = axis_attr(e.attrs, 0, out.len())?;
    let size = e.ty(data).shape.0[axis].clone();
    let indices = check_indices::add(e, indices, &Rule::of_axis(size))?;
    Ok(vec![take(e, data, indices, axis, &out)?])
}
