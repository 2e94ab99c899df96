//! ONNX Unique: the elements or slices that differ, on the host.

use crate::ir::{Attrs, CORE, COUNT, DType, Dim, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::data_dependent::{count, folded};
use crate::ops::reference::order::order_keys;
use crate::ops::util::{axis_attr, elements, from_elements, n_elems, number_operand, operand};

/// `unique(x) {axis, sorted, count}`: ONNX Unique, opset 11: the elements or slices that differ, where each first
/// stands, which of them each is, and how often it stands there.
pub static DEF: OpDef = OpDef {
    name: "unique",
    onnx: "Unique",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("sorted"), attr::sizes(COUNT)],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// The axis of a Unique, `None` for all elements in one row, and how many there are along it.
fn axis_of(infer: &Infer<'_>) -> Result<(Option<usize>, Dim), OpError> {
    let x = number_operand(infer, 0)?;
    let axis = infer.attrs.int("axis").map(|_| axis_attr(infer.attrs, 0, x.shape.rank())).transpose()?;
    Ok((axis, axis.map_or_else(|| x.shape.volume(), |axis| x.shape.0[axis].clone())))
}

/// The most elements or slices that may differ: all.
pub(crate) fn bound(infer: &Infer<'_>) -> Result<Option<Dim>, OpError> {
    axis_of(infer).map(|(_, n)| Some(n))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, (axis, n)) = (number_operand(infer, 0)?, axis_of(infer)?);
    let Some(count) = count(infer)? else { return folded(infer, &eval) };
    let mut shape = if axis.is_some() { x.shape.clone() } else { Shape(vec![n.clone()]) };
    shape.0[axis.unwrap_or(0)] = count.clone();
    let list = |n: Dim| TensorType::new(DType::I64, Shape(vec![n]));
    Ok(vec![TensorType::new(x.dtype, shape), list(count.clone()), list(n), list(count)])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let axis = attrs.int("axis").map(|_| axis_attr(attrs, 0, x.dims().len())).transpose()?;
    let mut dims = if axis.is_some() { x.dims() } else { vec![n_elems(&x.dims())?] };
    let axis = axis.unwrap_or(0);
    let (outer, n, inner) = (n_elems(&dims[..axis])?, dims[axis], n_elems(&dims[axis + 1..])?);
    let keys = order_keys(x)?;
    let slice = |at: usize| (0..outer).flat_map(move |block| (0..inner).map(move |i| (block * n + at) * inner + i));
    let compare = |a: usize, b: usize| slice(a).map(|i| keys[i]).cmp(slice(b).map(|i| keys[i]));
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| compare(a, b));
    // Those that are equal, the first of each first.
    let mut groups: Vec<Vec<usize>> = Vec::new();
    for at in order {
        match groups.last_mut() {
            Some(group) if compare(group[0], at).is_eq() => group.push(at),
            _ => groups.push(vec![at]),
        }
    }
    if attrs.int("sorted").unwrap_or(1) == 0 {
        groups.sort_by_key(|group| group[0]);
    }
    let (bytes, size) = elements(x)?;
    let mut values = Vec::with_capacity(outer * groups.len() * inner * size);
    for block in 0..outer {
        for group in &groups {
            values.extend_from_slice(&bytes[(block * n + group[0]) * inner * size..][..inner * size]);
        }
    }
    let mut inverse = vec![0; n];
    for (number, group) in groups.iter().enumerate() {
        group.iter().for_each(|&at| inverse[at] = number as i64);
    }
    let list = |values: Vec<i64>| Tensor::from_i64s(DType::I64, &[values.len()], &values);
    dims[axis] = groups.len();
    let firsts = groups.iter().map(|group| group[0] as i64).collect();
    let counts = groups.iter().map(|group| group.len() as i64).collect();
    Ok(vec![from_elements(x.dtype(), &dims, values)?, list(firsts)?, list(inverse)?, list(counts)?])
}
