//! ONNX CumSum and CumProd: running sums and products, on the host.

use crate::ir::{
    Attrs, CORE, Class, DType, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, attr, resolve_axis,
};
use crate::ops::reference::real::Real;
use crate::ops::util::{n_elems, operand};

/// `cum_sum(x, axis) {exclusive, reverse}`: ONNX CumSum, opset 14.
pub static SUM: OpDef = OpDef {
    name: "cum_sum",
    onnx: "CumSum",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("exclusive"), attr::int("reverse")],
    arity: (2, 2),
    infer: &infer,
    eval: Some(&|attrs, inputs| eval(attrs, inputs, false)),
    expand: None,
    weights: None,
    gradient: None,
};

/// `cum_prod(x, axis) {exclusive, reverse}`: ONNX CumProd, opset 26.
pub static PROD: OpDef = OpDef {
    name: "cum_prod",
    onnx: "CumProd",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("exclusive"), attr::int("reverse")],
    arity: (2, 2),
    infer: &infer,
    eval: Some(&|attrs, inputs| eval(attrs, inputs, true)),
    expand: None,
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, axis) = (infer.ty(0)?, infer.ty(1)?);
    if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) || axis.dtype.class() != Class::Int
    {
        return Err(OpError::operand(0, x, "numbers, and an integer axis"));
    }
    Ok(vec![x.clone()])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>], product: bool) -> Result<Vec<Tensor>, OpError> {
    let (x, axis) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let dims = x.dims();
    let axis = axis.to_i64s()?.first().and_then(|&a| resolve_axis(a, dims.len()));
    let axis = axis.ok_or_else(|| OpError::operand(1, inputs.len(), format!("an axis of {}", x.ty())))?;
    let flag = |name| attrs.int(name).unwrap_or(0) != 0;
    let (exclusive, reverse) = (flag("exclusive"), flag("reverse"));
    let (n, inner) = (dims[axis], n_elems(&dims[axis + 1..])?);
    let places =
        |i: usize| (0..n_elems(&dims).unwrap_or(0) / (n * inner).max(1)).map(move |block| block * n * inner + i);
    let order: Vec<usize> = if reverse { (0..n).rev().collect() } else { (0..n).collect() };
    if x.dtype().class() == Class::Int {
        let mut values = x.to_i64s()?;
        for start in (0..inner).flat_map(places) {
            let mut sum = i64::from(product);
            for &at in &order {
                let slot = &mut values[start + at * inner];
                let next = if product { sum.wrapping_mul(*slot) } else { sum.wrapping_add(*slot) };
                *slot = if exclusive { sum } else { next };
                sum = next;
            }
        }
        return Ok(vec![Tensor::from_i64s(x.dtype(), &dims, &values)?]);
    }
    let whole = (product, exclusive);
    if x.dtype() == DType::F64 {
        return cumulated::<f64>(x, &order, (0..inner).flat_map(places), inner, whole);
    }
    cumulated::<f32>(x, &order, (0..inner).flat_map(places), inner, whole)
}

/// Running sums or products of floats from each start, elements `inner` apart.
fn cumulated<F: Real>(
    x: &Tensor,
    order: &[usize],
    starts: impl Iterator<Item = usize>,
    inner: usize,
    (product, exclusive): (bool, bool),
) -> Result<Vec<Tensor>, OpError> {
    let mut values = F::elements(x)?.into_owned();
    for start in starts {
        let mut sum = f64::from(u8::from(product));
        for &at in order {
            let slot = &mut values[start + at * inner];
            let next = if product { sum * slot.wide() } else { sum + slot.wide() };
            *slot = F::of_f64(if exclusive { sum } else { next });
            sum = next;
        }
    }
    Ok(vec![F::stored(x.dtype(), &x.dims(), values)?])
}
