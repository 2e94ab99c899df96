//! `softmax`: exponentials along one axis, divided by their sum.

use super::util::{axis_attr, finish_f32s, operand, result, split_own};
use crate::ir::{Attrs, CORE, Class, Expand, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, Val, attr};
use rayon::prelude::*;

/// `softmax(x) {axis, log, dtype, epilogue}`: ONNX Softmax, opset 13. With `log` the logarithm of it.
pub static DEF: OpDef = OpDef {
    name: "softmax",
    onnx: "Softmax",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("log"), attr::dtype("dtype"), attr::expr("epilogue")],
    arity: (1, 1),
    infer,
    eval: Some(eval),
    expand: Some(|e| expand(e, 0)),
};

/// `log_softmax(x) {axis}`: ONNX LogSoftmax, opset 13.
pub static LOG: OpDef = OpDef {
    name: "log_softmax",
    onnx: "LogSoftmax",
    levels: ONNX,
    attrs: &[attr::int("axis")],
    arity: (1, 1),
    infer,
    eval: None,
    expand: Some(|e| expand(e, 1)),
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
    let dims = x.dims();
    let axis = axis_attr(attrs, -1, dims.len())?;
    let log = attrs.int("log").unwrap_or(0) != 0;
    let n = dims[axis];
    let inner: usize = dims[axis + 1..].iter().product();
    // What is masked by the least f64 counts nothing; its logarithm would be another number.
    let mut out = if log { x.to_f32s()? } else { x.to_bounded_f32s()? }.into_owned();
    out.par_chunks_mut((n * inner).max(1)).for_each(|block| {
        let mut row = vec![0.0f32; n];
        for i in 0..inner {
            row.iter_mut().zip(block[i..].iter().step_by(inner)).for_each(|(r, v)| *r = *v);
            let max = row.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m || v.is_nan() { v } else { m });
            // A row of nothing but minus infinity (all masked) would be 0/0; ONNX Runtime gives NaN there as well.
            let sum: f64 = row.iter().map(|&v| f64::from((v - max).exp())).sum();
            let ln = sum.ln() as f32;
            for (out, v) in block[i..].iter_mut().step_by(inner).zip(&row) {
                *out = if log { v - max - ln } else { (f64::from((v - max).exp()) / sum) as f32 };
            }
        }
    });
    finish_f32s(attrs, &dims, out, x.dtype(), extra)
}
