//! `q_gemm`: Gemm on codes, as ONNX Runtime's quantizer writes it.

use crate::ir::expr::build::arg;
use crate::ir::{DType, Dim, Expand, Infer, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::sizes;
use crate::ops::core::{pointwise, reshape};
use crate::ops::onnx::integer;

written_out! {
    /// `q_gemm(a, a_scale, a_zero, b, b_scale, b_zero, c?, y_scale?, y_zero?) {alpha, transA, transB}`: QGemm of
    /// com.microsoft, version 1. c is i32 with the scale `alpha * a_scale * b_scale`; without y_scale the result is
    /// f32.
    DEF "q_gemm" "com.microsoft::QGemm" (6, 9) [attr::float("alpha"), attr::int("transA"), attr::int("transB")] infer, expand;
}

/// Codes of a matrix, their type transposed where attribute `name` says so.
fn matrix(infer: &Infer<'_>, slot: usize, name: &str) -> Result<TensorType, OpError> {
    let ty = integer::codes(infer, slot)?;
    let [rows, cols] = &ty.shape.0[..] else { return Err(OpError::operand(slot, ty, "a matrix of codes")) };
    let transposed = infer.attrs.int(name).unwrap_or(0) != 0;
    Ok(if transposed { TensorType::new(ty.dtype, Shape(vec![cols.clone(), rows.clone()])) } else { ty.clone() })
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b) = (matrix(infer, 0, "transA")?, matrix(infer, 3, "transB")?);
    let shape = Shape(integer::product(&a, &b)?);
    for slot in [1, 4] {
        if !infer.ty(slot)?.dtype.is_float() {
            return Err(OpError::operand(slot, infer.ty(slot)?, "floats"));
        }
    }
    if let Some(c) = infer.inputs.get(6).copied().flatten()
        && (c.dtype != DType::I32 || crate::ops::util::broadcast(&[&shape, &c.shape])? != shape)
    {
        return Err(OpError::operand(6, c, format!("i32 that broadcasts to {shape}")));
    }
    let dtype = match (infer.inputs.get(7).copied().flatten(), infer.inputs.get(8).copied().flatten()) {
        (None, _) => DType::F32,
        (Some(_), Some(_)) => integer::codes(infer, 8)?.dtype,
        (Some(_), None) => a.dtype,
    };
    Ok(vec![TensorType::new(dtype, shape)])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let mut codes = [e.input(0)?, e.input(3)?];
    for (val, name) in codes.iter_mut().zip(["transA", "transB"]) {
        if e.attrs.int(name).unwrap_or(0) != 0 {
            *val = transposed(e, *val)?;
        }
    }
    let shape: Vec<Dim> = e.outputs[0].shape.0.clone();
    let zeros = [e.optional(2), e.optional(5)];
    let mut sum = integer::mat_mul(e, codes[0], codes[1], zeros, shape)?;
    if let Some(c) = e.optional(6) {
        sum = pointwise::add(e, arg(0) + arg(1), DType::I32, &[sum, c])?;
    }
    let (a_scale, b_scale) = (e.input(1)?, e.input(4)?);
    let a_scale = reshape::to(e, a_scale, Vec::new())?;
    let b_scale = if e.ty(b_scale).shape.n_elems() == Some(1) { reshape::to(e, b_scale, Vec::new())? } else { b_scale };
    let alpha = e.attrs.float("alpha").unwrap_or(1.0);
    let a_scale = if alpha == 1.0 { a_scale } else { pointwise::add(e, arg(0) * alpha, DType::F32, &[a_scale])? };
    let Some(y_scale) = e.optional(7) else {
        return Ok(vec![pointwise::add(
            e,
            arg(0).to_float() * (arg(1) * arg(2)),
            DType::F32,
            &[sum, a_scale, b_scale],
        )?]);
    };
    let dtype = e.outputs[0].dtype;
    let zero = match e.optional(8) {
        Some(zero) => zero,
        None => e.constant(crate::ir::Tensor::from_i64s(dtype, &[], &[0])?),
    };
    Ok(vec![integer::requantize(e, sum, [a_scale, b_scale, y_scale], zero)?])
}

/// The transposition of a matrix of codes; of a constant, computed, so that it stays one.
fn transposed(e: &mut Expand<'_, '_>, x: Val) -> Result<Val, OpError> {
    let Some(tensor) = e.edit.constant(x).cloned() else { return crate::ops::onnx::movement::transpose(e, x, &[1, 0]) };
    let own = sizes(0, tensor.ty())?;
    let values = tensor.to_i64s()?;
    let rows: Vec<i64> = (0..own[1]).flat_map(|col| values.iter().skip(col).step_by(own[1]).copied()).collect();
    Ok(e.constant(crate::ir::Tensor::from_i64s(tensor.dtype(), &[own[1], own[0]], &rows)?))
}
