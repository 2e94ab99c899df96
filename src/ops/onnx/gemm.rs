//! `gemm`: a product of two matrices with factors and a bias.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, WeightOperand, attr};
use crate::ops::util::agree;

/// `gemm(a, b, c?) {alpha, beta, transA, transB}`: ONNX Gemm, opset 13: `alpha * a x b + beta * c`.
pub static DEF: OpDef = OpDef {
    name: "gemm",
    onnx: "Gemm",
    levels: ONNX,
    attrs: &[attr::float("alpha"), attr::float("beta"), attr::int("transA"), attr::int("transB")],
    arity: (2, 3),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: Some(&|attrs| {
        Some(WeightOperand { x_columns_attr: Some("transA"), ..WeightOperand::right_of_product(attrs, "transB") })
    }),
    gradient: None,
};

fn flag(attrs: &Attrs, name: &str) -> bool {
    attrs.int(name).unwrap_or(0) != 0
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b) = (infer.ty(0)?, infer.ty(1)?);
    for (slot, ty) in [(0, a), (1, b)] {
        if ty.shape.rank() != 2 || !ty.dtype.is_float() {
            return Err(OpError::operand(slot, ty, "a matrix of floats"));
        }
    }
    let pick = |shape: &Shape, transposed: bool| {
        (shape.0[usize::from(transposed)].clone(), shape.0[usize::from(!transposed)].clone())
    };
    let ((m, k), (b_k, n)) = (pick(&a.shape, flag(infer.attrs, "transA")), pick(&b.shape, flag(infer.attrs, "transB")));
    if !agree(&k, &b_k) {
        return Err(OpError::operand(1, b, format!("{k} rows to multiply with {a}")));
    }
    let shape = Shape(vec![m, n]);
    if let Some(Some(c)) = infer.inputs.get(2)
        && crate::ops::util::broadcast(&[&shape, &c.shape])? != shape
    {
        return Err(OpError::operand(2, c, format!("what broadcasts to {shape}")));
    }
    Ok(vec![TensorType::new(a.dtype, shape)])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (mut a, b) = (e.input(0)?, e.input(1)?);
    if flag(e.attrs, "transA") {
        a = crate::ops::onnx::movement::transpose(e, a, &[1, 0])?;
    }
    let (alpha, beta) = (e.attrs.float("alpha").unwrap_or(1.0), e.attrs.float("beta").unwrap_or(1.0));
    let dtype = e.outputs[0].dtype;
    let attrs = crate::ops::core::matmul::attrs(flag(e.attrs, "transB")).with_dtype("dtype", dtype);
    let y = e.add(&crate::ops::core::matmul::DEF, attrs, &[a, b])?;
    let mut operands = vec![y];
    let mut expr = if alpha == 1.0 { arg(0) } else { arg(0) * alpha };
    if let Some(c) = e.optional(2)
        && beta != 0.0
    {
        operands.push(c);
        expr = if beta == 1.0 { expr + arg(1) } else { expr + arg(1) * beta };
    }
    Ok(vec![if expr == arg(0) { y } else { crate::ops::core::pointwise::add(e, expr, dtype, &operands)? }])
}

/// The channel axis of per-channel operands `[C]`, as a shape that broadcasts against `rank` axes.
///
/// # Errors
/// The operand has other sizes.
pub fn channels(e: &mut Expand<'_, '_>, val: Val, rank: usize) -> Result<Val, OpError> {
    let mut shape = vec![Dim::Known(1); rank];
    if let (Some(slot), Some(c)) = (shape.get_mut(1), e.ty(val).shape.0.first()) {
        slot.clone_from(c);
    }
    crate::ops::core::reshape::to(e, val, shape)
}
