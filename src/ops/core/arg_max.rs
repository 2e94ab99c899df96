//! ONNX ArgMax and ArgMin: the place of an extremum along an axis.

use crate::ir::expr::build::{arg, select};
use crate::ir::{
    Attrs, CORE, Class, DType, Expand, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, Val, attr,
};
use crate::ops::compose::{extremum, positions, reduce, sizes};
use crate::ops::core::pointwise;
use crate::ops::reference::order::order_keys;
use crate::ops::util::{axis_attr, n_elems, operand, split_own};

/// `arg_max(x) {axis, keepdims, select_last_index}`: ONNX ArgMax, opset 13.
pub static MAX: OpDef = OpDef {
    name: "arg_max",
    onnx: "ArgMax",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("keepdims"), attr::int("select_last_index")],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&|attrs, inputs| eval(attrs, inputs, true)),
    expand: Some(&|e| expand(e, "max")),
    weights: None,
    gradient: None,
};

/// `arg_min(x) {axis, keepdims, select_last_index}`: ONNX ArgMin, opset 13.
pub static MIN: OpDef = OpDef {
    name: "arg_min",
    onnx: "ArgMin",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("keepdims"), attr::int("select_last_index")],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&|attrs, inputs| eval(attrs, inputs, false)),
    expand: Some(&|e| expand(e, "min")),
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let axis = axis_attr(infer.attrs, 0, x.shape.rank())?;
    if x.packing.is_some()
        || !matches!(x.dtype.class(), Class::Float | Class::Int)
        || x.shape.0[axis].known() == Some(0)
    {
        return Err(OpError::operand(0, x, "numbers along an axis that is not empty"));
    }
    let keepdims = infer.attrs.int("keepdims").unwrap_or(1) != 0;
    Ok(vec![TensorType::new(DType::I64, crate::ops::core::reduce::reduced(&x.shape, &[axis], keepdims))])
}

/// The first or last place that has the extremum: where places are compared, kernels do it.
fn expand(e: &mut Expand<'_, '_>, kind: &str) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let own = sizes(0, &ty)?;
    let axis = axis_attr(e.attrs, 0, own.len())?;
    let best = extremum(e, kind, x, axis)?;
    let place = positions(e, own.len(), axis, own[axis], 1)?;
    // NaN is the extremum of whatever it is in.
    let hit = if ty.dtype.is_float() { arg(0).equals(arg(1)).or(arg(0).is_nan()) } else { arg(0).equals(arg(1)) };
    let (other, first_or_last) =
        if e.attrs.int("select_last_index").unwrap_or(0) != 0 { (-1, "max") } else { (own[axis] as i64, "min") };
    // Places along an axis need no more than 32 bits.
    let candidates = pointwise::add(e, select(hit, arg(2), other), DType::I32, &[x, best, place])?;
    let keepdims = e.attrs.int("keepdims").unwrap_or(1) != 0;
    let found = reduce(e, first_or_last, candidates, &[axis], keepdims)?;
    Ok(vec![crate::ops::compose::cast(e, found, DType::I64)?])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>], max: bool) -> Result<Vec<Tensor>, OpError> {
    let x = operand(split_own(attrs, inputs).0, 0)?;
    let dims = x.dims();
    let axis = axis_attr(attrs, 0, dims.len())?;
    let last = attrs.int("select_last_index").unwrap_or(0) != 0;
    let (n, inner) = (dims[axis], n_elems(&dims[axis + 1..])?);
    // NaN is the extremum of whatever it is in.
    let is_nan = |key: i64| x.dtype().is_float() && key == i64::MAX;
    let keys: Vec<i64> = order_keys(x)?.into_iter().map(|key| if max || is_nan(key) { key } else { !key }).collect();
    let mut places = Vec::new();
    for block in keys.chunks_exact((n * inner).max(1)) {
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
    let shape = crate::ops::core::reduce::reduced(&x.ty().shape, &[axis], keepdims).known().unwrap_or_default();
    Ok(vec![Tensor::from_i64s(DType::I64, &shape, &places)?])
}
