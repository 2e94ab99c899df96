//! ONNX Binarizer, of the domain `ai.onnx.ml`.

use crate::ir::expr::build::arg;
use crate::ir::{Class, ONNX, OpDef, OpError, attr};
use crate::ops::core::pointwise;

/// `binarizer(x) {threshold}`: ONNX Binarizer, version 1: 1 above the threshold, else 0.
pub static DEF: OpDef = OpDef {
    name: "binarizer",
    onnx: "ai.onnx.ml::Binarizer",
    levels: ONNX,
    attrs: &[attr::float("threshold")],
    arity: (1, 1),
    infer: &|i| {
        let x = i.ty(0)?;
        if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) {
            return Err(OpError::operand(0, x, "numbers"));
        }
        Ok(vec![x.clone()])
    },
    eval: None,
    expand: Some(&|e| {
        let x = e.input(0)?;
        let (dtype, threshold) = (e.ty(x).dtype, e.attrs.float("threshold").unwrap_or(0.0));
        let expr = if dtype.is_float() {
            arg(0).above(threshold).to_float()
        } else {
            arg(0).to_float().above(threshold).to_int()
        };
        Ok(vec![pointwise::add(e, expr, dtype, &[x])?])
    }),
    weights: None,
    gradient: None,
};
