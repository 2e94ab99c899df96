//! ONNX TopK: the largest or smallest elements in order, on the host.

use crate::ir::{Attrs, CORE, Class, DType, Dim, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, attr};
use crate::ops::reference::order::order_keys;
use crate::ops::util::{axis_attr, n_elems, operand};

/// `top_k(x, k) {axis, largest, sorted}`: ONNX TopK, opset 24: the largest or smallest elements along an axis, in
/// order, and where they stood. k is a constant. NaN counts as larger than any number.
pub static DEF: OpDef = OpDef {
    name: "top_k",
    onnx: "TopK",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("largest"), attr::int("sorted")],
    arity: (2, 2),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// The axis and how many elements along it stay.
fn chosen(attrs: &Attrs, x: &TensorType, k: Option<&Tensor>) -> Result<(usize, i64), OpError> {
    let k = k.ok_or(OpError::NotConstant { slot: 1 })?.to_i64s()?.first().copied().unwrap_or(-1);
    let axis = axis_attr(attrs, -1, x.shape.rank())?;
    if k < 0 || x.shape.0[axis].known().is_some_and(|n| k > n) {
        return Err(OpError::operand(1, k, format!("a count of {x} along axis {axis}")));
    }
    Ok((axis, k))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) {
        return Err(OpError::operand(0, x, "numbers"));
    }
    let (axis, k) = chosen(infer.attrs, x, infer.constant(1))?;
    let mut shape = x.shape.clone();
    shape.0[axis] = Dim::Known(k);
    Ok(vec![TensorType::new(x.dtype, shape.clone()), TensorType::new(DType::I64, shape)])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let (axis, k) = chosen(attrs, x.ty(), inputs.get(1).copied().flatten())?;
    let (mut dims, largest) = (x.dims(), attrs.int("largest").unwrap_or(1) != 0);
    let (n, inner) = (dims[axis], n_elems(&dims[axis + 1..])?);
    let outer = n_elems(&dims[..axis])?;
    let order = top(&order_keys(x)?, (outer, n, inner), k as usize, largest);
    let (bytes, size) = crate::ops::util::elements(x)?;
    let mut values = Vec::with_capacity(order.len() * size);
    let mut places = Vec::with_capacity(order.len());
    for at in order {
        values.extend_from_slice(&bytes[at * size..][..size]);
        places.push((at / inner.max(1) % n.max(1)) as i64);
    }
    dims[axis] = k as usize;
    Ok(vec![crate::ops::util::from_elements(x.dtype(), &dims, values)?, Tensor::from_i64s(DType::I64, &dims, &places)?])
}

/// The elements that stay, in the order of the result.
fn top(keys: &[i64], (outer, n, inner): (usize, usize, usize), k: usize, largest: bool) -> Vec<usize> {
    let mut order = vec![0; outer * k * inner];
    for block in 0..outer {
        for i in 0..inner {
            let mut column: Vec<usize> = (0..n).map(|at| (block * n + at) * inner + i).collect();
            // Of equals the first comes first.
            column.sort_by(|a, b| if largest { keys[*b].cmp(&keys[*a]) } else { keys[*a].cmp(&keys[*b]) });
            column.iter().take(k).enumerate().for_each(|(at, from)| order[(block * k + at) * inner + i] = *from);
        }
    }
    order
}
