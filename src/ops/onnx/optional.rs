//! ONNX OptionalHasElement and OptionalGetElement.

use crate::ir::{DType, ONNX, OpDef, Tensor, TensorType};

/// `optional_has_element(x?)`: ONNX OptionalHasElement, opset 18, of tensors: whether there is one.
pub static HAS_ELEMENT: OpDef = OpDef {
    name: "optional_has_element",
    onnx: "OptionalHasElement",
    levels: ONNX,
    attrs: &[],
    arity: (0, 1),
    infer: &|_| Ok(vec![TensorType::of(DType::Bool, &[])]),
    eval: None,
    expand: Some(&|e| {
        let has = Tensor::from_i64s(DType::Bool, &[], &[i64::from(e.optional(0).is_some())])?;
        Ok(vec![e.constant(has)])
    }),
    weights: None,
    gradient: None,
};

/// `optional_get_element(x)`: ONNX OptionalGetElement, opset 18, of tensors: x.
pub static GET_ELEMENT: OpDef = OpDef {
    name: "optional_get_element",
    onnx: "OptionalGetElement",
    levels: ONNX,
    attrs: &[],
    arity: (1, 1),
    infer: &|i| Ok(vec![i.ty(0)?.clone()]),
    eval: None,
    expand: Some(&|e| Ok(vec![e.input(0)?])),
    weights: None,
    gradient: None,
};
