//! ONNX NonZero: where elements are not zero, on the host.

use crate::ir::{Attrs, CORE, COUNT, DType, Dim, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::data_dependent::{count, folded};
use crate::ops::util::{number_operand, operand, strides};

/// `non_zero(x) {count}`: ONNX NonZero, opset 13: the indices of the elements that are not zero, `[rank, count]`.
pub static DEF: OpDef = OpDef {
    name: "non_zero",
    onnx: "NonZero",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::sizes(COUNT)],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// The most elements that are not zero: all.
pub(crate) fn bound(infer: &Infer<'_>) -> Result<Option<Dim>, OpError> {
    Ok(Some(infer.ty(0)?.shape.volume()))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = number_operand(infer, 0)?;
    let Some(count) = count(infer)? else { return folded(infer, &eval) };
    Ok(vec![TensorType::new(DType::I64, Shape(vec![Dim::from(x.shape.rank()), count]))])
}

/// Which elements are not zero, in order.
pub(crate) fn places(x: &Tensor) -> Result<Vec<usize>, OpError> {
    let is_set: Vec<bool> = if x.dtype().is_float() {
        x.to_f64s()?.iter().map(|v| *v != 0.0).collect()
    } else {
        x.to_i64s()?.iter().map(|v| *v != 0).collect()
    };
    Ok(is_set.iter().enumerate().filter(|(_, is_set)| **is_set).map(|(i, _)| i).collect())
}

fn eval(_: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let (dims, places) = (x.dims(), places(x)?);
    let strides = strides(&dims);
    let axis = |(stride, size): (&usize, &usize)| places.iter().map(|p| (p / stride % size) as i64).collect::<Vec<_>>();
    let values: Vec<i64> = strides.iter().zip(&dims).flat_map(axis).collect();
    Ok(vec![Tensor::from_i64s(DType::I64, &[dims.len(), places.len()], &values)?])
}
