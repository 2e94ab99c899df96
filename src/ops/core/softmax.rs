//! `softmax`: exponentials along one axis, divided by their sum.

use crate::ir::expr::build::arg;
use crate::ir::{
    Attrs, CORE, Class, Differentiate, Expand, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, Val,
    attr,
};
use crate::ops::compose;
use crate::ops::core::pointwise;
use crate::ops::reference::real::Real;
use crate::ops::util::{axis_attr, between, finish_floats, is_double, operand, result, split_own};
use rayon::prelude::*;

/// `softmax(x) {axis, log, dtype, epilogue}`: ONNX Softmax, opset 13. With `log` the logarithm of it.
pub static DEF: OpDef = OpDef {
    name: "softmax",
    onnx: "Softmax",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("log"), attr::dtype("dtype"), attr::expr("epilogue")],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: Some(&|e| expand(e, 0)),
    weights: None,
    gradient: Some(&gradient),
};

/// `log_softmax(x) {axis}`: ONNX LogSoftmax, opset 13.
pub static LOG: OpDef = OpDef {
    name: "log_softmax",
    onnx: "LogSoftmax",
    levels: ONNX,
    attrs: &[attr::int("axis")],
    arity: (1, 1),
    infer: &infer,
    eval: None,
    expand: Some(&|e| expand(e, 1)),
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    axis_attr(infer.attrs, -1, x.shape.rank())?;
    if !x.dtype.is_float() {
        return Err(OpError::operand(0, x, "floats"));
    }
    result(infer, Class::Float, x.dtype, x.shape.clone())
}

fn expand(e: &mut Expand<'_, '_>, log: i64) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let axis = axis_attr(e.attrs, -1, e.ty(x).shape.rank())?;
    let log = e.attrs.int("log").unwrap_or(log);
    let mut attrs = Attrs::new().with_int("axis", axis as i64).with_int("log", log);
    if let Some(dtype) = e.attrs.dtype("dtype") {
        attrs = attrs.with_dtype("dtype", dtype);
    }
    Ok(vec![e.add(&DEF, attrs, &[x])?])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    let x = operand(own, 0)?;
    if is_double(attrs, own) { eval_in::<f64>(attrs, x, extra) } else { eval_in::<f32>(attrs, x, extra) }
}

fn eval_in<F: Real>(attrs: &Attrs, x: &Tensor, extra: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let dims = x.dims();
    let axis = axis_attr(attrs, -1, dims.len())?;
    let log = attrs.int("log").unwrap_or(0) != 0;
    let n = dims[axis];
    let inner: usize = dims[axis + 1..].iter().product();
    let mut out = F::elements(x)?.into_owned();
    out.par_chunks_mut((n * inner).max(1)).for_each(|block| {
        let mut row = vec![F::zero(); n];
        for i in 0..inner {
            row.iter_mut().zip(block[i..].iter().step_by(inner)).for_each(|(r, v)| *r = *v);
            let max = row.iter().fold(F::neg_infinity(), |m, &v| if v > m || v.is_nan() { v } else { m });
            // A row of nothing but minus infinity (all masked) would be 0/0; ONNX Runtime gives NaN there as well.
            let sum: f64 = row.iter().map(|&v| (v - max).exp().wide()).sum();
            let ln = F::of_f64(sum.ln());
            for (out, v) in block[i..].iter_mut().step_by(inner).zip(&row) {
                *out = if log { *v - max - ln } else { F::of_f64((*v - max).exp().wide() / sum) };
            }
        }
    });
    finish_floats(attrs, &dims, out, x.dtype(), extra)
}

/// `y * (dy - sum(dy * y))`; of the logarithm `dy - exp(y) * sum(dy)`.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (y, gain) = (d.result()?, d.gain()?);
    let axis = axis_attr(d.attrs, -1, d.ty(y).shape.rank())?;
    let dtype = d.ty(gain).dtype;
    let part = if d.attrs.int("log").unwrap_or(0) != 0 {
        let sum = compose::reduce(d, "sum", gain, &[axis], true)?;
        pointwise::add(d, arg(0) - (arg(1).exp() * arg(2)), dtype, &[gain, y, sum])?
    } else {
        let product = pointwise::add(d, arg(0) * arg(1), between(dtype), &[gain, y])?;
        let sum = compose::reduce(d, "sum", product, &[axis], true)?;
        pointwise::add(d, arg(1) * (arg(0) - arg(2)), dtype, &[gain, y, sum])?
    };
    Ok(Gains::Are(vec![Some(part)]))
}
