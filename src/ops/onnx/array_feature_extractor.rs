//! ONNX ArrayFeatureExtractor, of the domain `ai.onnx.ml`.

use crate::ir::{Class, Dim, ONNX, OpDef, OpError, Shape, TensorType};
use crate::ops::compose::gather_within;
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::reshape;

/// `array_feature_extractor(x, indices)`: ONNX ArrayFeatureExtractor, version 1: elements of the last axis.
pub static DEF: OpDef = OpDef {
    name: "array_feature_extractor",
    onnx: "ai.onnx.ml::ArrayFeatureExtractor",
    levels: ONNX,
    attrs: &[],
    arity: (2, 2),
    infer: &|i| {
        let (x, indices) = (i.ty(0)?, i.ty(1)?);
        let n = indices.shape.volume();
        if x.packing.is_some()
            || x.shape.rank() == 0
            || indices.dtype.class() != Class::Int
            || x.dtype.class() == Class::Text
        {
            return Err(OpError::operand(1, indices, format!("indices into the last axis of {x}")));
        }
        let lead = if x.shape.rank() == 1 { vec![Dim::Known(1)] } else { x.shape.0[..x.shape.rank() - 1].to_vec() };
        Ok(vec![TensorType::new(x.dtype, Shape([lead, vec![n]].concat()))])
    },
    eval: None,
    expand: Some(&|e| {
        let (x, indices) = (e.input(0)?, e.input(1)?);
        let (axis, n) = (e.ty(x).shape.rank() - 1, e.ty(indices).shape.volume());
        let rule = Rule { sizes: vec![e.ty(x).shape.0[axis].clone()], negative: false, ignore: None };
        let row = check_indices::add(e, indices, &rule)?;
        let row = reshape::to(e, row, vec![n])?;
        let y = gather_within(e, x, row, axis)?;
        let shape = e.outputs[0].shape.0.clone();
        Ok(vec![reshape::to(e, y, shape)?])
    }),
    weights: None,
    gradient: None,
};
