//! `iota`: numbers in even steps, counted from sizes that change between runs.

use crate::ir::{
    Attrs, CORE, Class, DType, Dim, Expand, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Val, attr,
};
use crate::ops::onnx::shape::LARGEST;
use crate::ops::util::{dims_attr, ints_attr};

/// `iota() {start, step, n, dtype}`: `y[i] = start + i*step` for `n` integers. Sizes all of them; what is constant
/// folds.
pub static DEF: OpDef = OpDef {
    name: "iota",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::sizes("start"), attr::sizes("step"), attr::sizes("n"), attr::dtype("dtype")],
    arity: (0, 0),
    infer: &infer,
    eval: Some(&|attrs, _| eval(attrs)),
    expand: None,
    weights: None,
    gradient: None,
};

/// `n` integers from `start` on.
///
/// # Errors
/// `dtype` is no type of integers or truth values.
pub fn add(e: &mut Expand<'_, '_>, start: Dim, step: Dim, n: Dim, dtype: DType) -> Result<Val, OpError> {
    let attrs = Attrs::new().with_dims("start", vec![start]).with_dims("step", vec![step]).with_dims("n", vec![n]);
    e.add(&DEF, attrs.with_dtype("dtype", dtype), &[])
}

/// The one size in attribute `name`.
///
/// # Errors
/// It is absent, or a list of another length.
pub fn size(attrs: &Attrs, name: &'static str) -> Result<Dim, OpError> {
    match dims_attr(attrs, name).as_deref() {
        Some([one]) => Ok(one.clone()),
        other => Err(OpError::attribute(name, format!("is {other:?}, not one size"))),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let dtype = infer.attrs.dtype("dtype").unwrap_or(DType::I64);
    if !matches!(dtype.class(), Class::Int | Class::Bool) {
        return Err(OpError::attribute("dtype", format!("is {dtype}")));
    }
    size(infer.attrs, "start")?;
    size(infer.attrs, "step")?;
    let n = size(infer.attrs, "n")?;
    if n.known().is_some_and(|n| n < 0) {
        return Err(OpError::attribute("n", format!("is {n}")));
    }
    Ok(vec![TensorType::new(dtype, Shape(vec![n]))])
}

fn eval(attrs: &Attrs) -> Result<Vec<Tensor>, OpError> {
    let number = |name| Ok::<_, OpError>(ints_attr(attrs, name)?.and_then(|list| list.first().copied()).unwrap_or(0));
    let (start, step, n) = (number("start")?, number("step")?, number("n")?);
    let n = usize::try_from(n).map_err(|_| OpError::attribute("n", format!("is {n}")))?;
    if n > LARGEST {
        return Err(OpError::over_limit("numbers in a row, computed on the CPU", n, LARGEST));
    }
    let values: Vec<i64> = (0..n as i64).map(|i| start.wrapping_add(step.wrapping_mul(i))).collect();
    Ok(vec![Tensor::from_i64s(attrs.dtype("dtype").unwrap_or(DType::I64), &[n], &values)?])
}
