//! Dropout, which is a copy unless it trains.

use super::{Case, Recipe, expand_by};
use crate::ir::expr::build::{arg, float, select};
use crate::ir::{DType, Expand, Infer, ONNX, OpDef, OpError, TensorType, Val, attr};
use crate::ops::core::{pointwise, reshape};
use crate::ops::onnx::random;

/// `dropout(x, ratio?, training?) {seed}`: ONNX Dropout, opset 22: the result, and which elements stayed.
pub static DROPOUT: OpDef = OpDef {
    name: "dropout",
    onnx: "Dropout",
    levels: ONNX,
    attrs: &[attr::int("seed")],
    arity: (1, 3),
    infer: &infer_dropout,
    eval: None,
    expand: Some(&expand_dropout),
    weights: None,
    gradient: None,
};

fn infer_dropout(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    if infer.inputs.get(2).copied().flatten().is_some() && infer.constant(2).is_none() {
        return Err(OpError::NotConstant { slot: 2 });
    }
    let x = infer.ty(0)?;
    if !x.dtype.is_float() || x.packing.is_some() {
        return Err(OpError::operand(0, x, "floats"));
    }
    Ok(vec![x.clone(), x.with_dtype(DType::Bool)])
}

/// Dropout while training: each element goes with the probability `ratio`, the others grow by as much.
fn expand_dropout(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let training = e.ints(2)?.is_some_and(|t| t.first().is_some_and(|&t| t != 0));
    if !training {
        return expand_by(e, dropout);
    }
    let x = e.input(0)?;
    let ty = e.ty(x);
    let (ratio, share) = match e.optional(1) {
        Some(ratio) => (reshape::to(e, ratio, Vec::new())?, arg(1)),
        None => (x, float(0.5)),
    };
    let random =
        random::numbers(e, "uniform", [0.0, 1.0], DType::F32, &ty.shape.0, e.attrs.int("seed").map(|s| s as f32))?;
    let random = reshape::to(e, random, ty.shape.0)?;
    let keeps = pointwise::add(e, arg(0).at_least(share.clone()), DType::Bool, &[random, ratio])?;
    let grown = select(arg(0), arg(2) / (1.0 - share), 0.0);
    Ok(vec![pointwise::add(e, grown, ty.dtype, &[keeps, ratio, x])?, keeps])
}

fn dropout(c: &Case<'_>) -> Recipe {
    c.same(arg(0))
}
