//! ONNX Binarizer, of the domain `ai.onnx.ml`.

use crate::ir::{Class, ONNX, OpDef, OpError, attr};
use crate::ops::core::pointwise;

/// `binarizer(x) {threshold}`: ONNX Binarizer, version 1: 1 above the threshold, else 0.
pub static DEF: OpDef = OpDef {
    name: "binarizer",
    onnx: "ai.onnx.ml::Binarizer",
    levels: ONNX,
    attrs: &[attr::float("threshold")],
    arity: (1, 1),
    infer: |i| {
        let x = i.ty(0)?;
        if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) {
            return Err(OpError::operand(0, x, "numbers"));
        }
        Ok(vec![x.clone()])
    },
    eval: None,
    expand: Some(|e| {
        let x = e.input(0)?;
        let (dtype, threshold) = (e.ty(x).dtype, e.attrs.float("threshold").unwrap_or(0.0));
        let text =
            if dtype.is_float() { format!("f(gt(x0,{threshold:?}))") } else { format!("i(gt(f(x0),{threshold:?}))") };
        Ok(vec![pointwise::add(e, &text, dtype, &[x])?])
    }),
};
