//! ONNX EyeLike: identity matrices.

use crate::ir::expr::build::arg;
use crate::ir::{Class, Expand, Infer, OpError, TensorType, Val, attr};
use crate::ops::compose::{positions, sizes};
use crate::ops::core::pointwise;
use crate::ops::util::dtype_attr;

written_out! {
    /// `eye_like(x) {k, dtype}`: ONNX EyeLike, opset 22.
    DEF "eye_like" "EyeLike" (1, 1) [attr::int("k"), attr::dtype("dtype")] infer, expand;
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.shape.rank() != 2 {
        return Err(OpError::operand(0, x, "a matrix"));
    }
    Ok(vec![TensorType::new(dtype_attr(infer.attrs, "dtype").unwrap_or(x.dtype), x.shape.clone())])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let ty = e.outputs[0].clone();
    let own = sizes(0, &ty)?;
    let (rows, columns) = (positions(e, 2, 0, own[0], 1)?, positions(e, 2, 1, own[1], 1)?);
    let hit = (arg(1) - arg(0)).equals(e.attrs.int("k").unwrap_or(0).clamp(-(1 << 31), 1 << 31));
    let expr = match ty.dtype.class() {
        Class::Float => hit.to_float(),
        Class::Int => hit.to_int(),
        _ => hit,
    };
    Ok(vec![pointwise::add(e, expr, ty.dtype, &[rows, columns])?])
}
