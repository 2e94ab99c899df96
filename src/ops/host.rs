//! Operators of both levels that have a CPU reference but no kernel yet: positions of extrema and running sums.

use super::util::{axis_attr, n_elems, operand, split_own};
use crate::ir::{Attrs, CORE, Class, DType, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, resolve_axis, attr};

/// `arg_max(x) {axis, keepdims, select_last_index}`: ONNX ArgMax, opset 13.
pub static ARG_MAX: OpDef = OpDef {
    name: "arg_max",
    onnx: "ArgMax",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("keepdims"), attr::int("select_last_index")],
    arity: (1, 1),
    infer: infer_arg,
    eval: Some(|attrs, inputs| eval_arg(attrs, inputs, 1.0)),
    expand: None,
};

/// `arg_min(x) {axis, keepdims, select_last_index}`: ONNX ArgMin, opset 13.
pub static ARG_MIN: OpDef = OpDef {
    name: "arg_min",
    onnx: "ArgMin",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("keepdims"), attr::int("select_last_index")],
    arity: (1, 1),
    infer: infer_arg,
    eval: Some(|attrs, inputs| eval_arg(attrs, inputs, -1.0)),
    expand: None,
};

/// `cum_sum(x, axis) {exclusive, reverse}`: ONNX CumSum, opset 14.
pub static CUM_SUM: OpDef = OpDef {
    name: "cum_sum",
    onnx: "CumSum",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("exclusive"), attr::int("reverse")],
    arity: (2, 2),
    infer: infer_cum_sum,
    eval: Some(eval_cum_sum),
    expand: None,
};

fn infer_arg(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let axis = axis_attr(infer.attrs, 0, x.shape.rank())?;
    if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) || x.shape.0[axis].known() == Some(0) {
        return Err(OpError::operand(0, x, "numbers along an axis that is not empty"));
    }
    let keepdims = infer.attrs.int("keepdims").unwrap_or(1) != 0;
    Ok(vec![TensorType::new(DType::I64, super::reduce::reduced(&x.shape, &[axis], keepdims))])
}

fn eval_arg(attrs: &Attrs, inputs: &[Option<&Tensor>], sign: f64) -> Result<Vec<Tensor>, OpError> {
    let x = operand(split_own(attrs, inputs).0, 0)?;
    let dims = x.dims();
    let axis = axis_attr(attrs, 0, dims.len())?;
    let last = attrs.int("select_last_index").unwrap_or(0) != 0;
    let (n, inner) = (dims[axis], n_elems(&dims[axis + 1..])?);
    let values: Vec<f64> = match x.dtype().class() {
        Class::Float => x.to_f32s()?.iter().map(|&v| sign * f64::from(v)).collect(),
        _ => x.to_i64s()?.iter().map(|&v| sign * v as f64).collect(),
    };
    let mut places = Vec::new();
    for block in values.chunks_exact((n * inner).max(1)) {
        for i in 0..inner {
            let mut best = 0;
            for at in 1..n {
                let (value, so_far) = (block[at * inner + i], block[best * inner + i]);
                if value > so_far || (last && value == so_far) {
                    best = at;
                }
            }
            places.push(best as i64);
        }
    }
    let keepdims = attrs.int("keepdims").unwrap_or(1) != 0;
    let shape = super::reduce::reduced(&x.ty().shape, &[axis], keepdims).known().unwrap_or_default();
    Ok(vec![Tensor::from_i64s(DType::I64, &shape, &places)?])
}

fn infer_cum_sum(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, axis) = (infer.ty(0)?, infer.ty(1)?);
    if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) || axis.dtype.class() != Class::Int {
        return Err(OpError::operand(0, x, "numbers, and an integer axis"));
    }
    Ok(vec![x.clone()])
}

fn eval_cum_sum(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (x, axis) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let dims = x.dims();
    let axis = axis.to_i64s()?.first().and_then(|&a| resolve_axis(a, dims.len()));
    let axis = axis.ok_or_else(|| OpError::operand(1, inputs.len(), format!("an axis of {}", x.ty())))?;
    let flag = |name| attrs.int(name).unwrap_or(0) != 0;
    let (exclusive, reverse) = (flag("exclusive"), flag("reverse"));
    let (n, inner) = (dims[axis], n_elems(&dims[axis + 1..])?);
    let places = |i: usize| (0..n_elems(&dims).unwrap_or(0) / (n * inner).max(1)).map(move |block| block * n * inner + i);
    let order: Vec<usize> = if reverse { (0..n).rev().collect() } else { (0..n).collect() };
    if x.dtype().class() == Class::Int {
        let mut values = x.to_i64s()?;
        for start in (0..inner).flat_map(places) {
            let mut sum = 0i64;
            for &at in &order {
                let slot = &mut values[start + at * inner];
                let next = sum.wrapping_add(*slot);
                *slot = if exclusive { sum } else { next };
                sum = next;
            }
        }
        return Ok(vec![Tensor::from_i64s(x.dtype(), &dims, &values)?]);
    }
    let mut values = x.to_f32s()?.into_owned();
    for start in (0..inner).flat_map(places) {
        let mut sum = 0.0f64;
        for &at in &order {
            let slot = &mut values[start + at * inner];
            let next = sum + f64::from(*slot);
            *slot = if exclusive { sum } else { next } as f32;
            sum = next;
        }
    }
    Ok(vec![super::util::f32s(x.dtype(), &dims, values)?])
}
