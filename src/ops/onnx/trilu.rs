//! ONNX Trilu: triangles of matrices.

use crate::ir::expr::build::{arg, int, select};
use crate::ir::{Class, Expand, Infer, OpError, TensorType, Val, attr};
use crate::ops::compose::positions;
use crate::ops::core::{pointwise, reshape};

written_out! {
    /// `trilu(x, k?) {upper}`: ONNX Trilu, opset 14: the upper or lower triangle of matrices, zero elsewhere.
    DEF "trilu" "Trilu" (1, 2) [attr::int("upper")] infer, expand;
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
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

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let own = &ty.shape.0;
    let rank = own.len();
    let rows = positions(e, rank, rank - 2, own[rank - 2].clone(), 1)?;
    let columns = positions(e, rank, rank - 1, own[rank - 1].clone(), 1)?;
    let mut operands = vec![x, rows, columns];
    let k = match e.optional(1) {
        None => int(0),
        Some(k) => match e.edit.constant(k) {
            Some(k) => int(k.to_i64s()?.first().copied().unwrap_or(0).clamp(-(1 << 31), 1 << 31)),
            None => {
                operands.push(reshape::to(e, k, Vec::new())?);
                arg(3)
            }
        },
    };
    let above = arg(2) - arg(1);
    let is_kept = if e.attrs.int("upper").unwrap_or(1) != 0 { above.at_least(k) } else { above.at_most(k) };
    let expr = select(is_kept, arg(0), pointwise::zero(ty.dtype));
    Ok(vec![pointwise::add(e, expr, ty.dtype, &operands)?])
}
