//! Operators of both levels that have a CPU reference but no kernel yet: positions of extrema, running sums and
//! products, sorting, determinants, bits.

use crate::ir::{
    Attrs, CORE, Class, DType, Dim, Expand, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Val, attr,
    resolve_axis,
};
use crate::ops::compose::{extremum, positions, reduce, sizes};
use crate::ops::core::pointwise::{self, Real};
use crate::ops::util::{axis_attr, n_elems, operand, split_own};

/// `arg_max(x) {axis, keepdims, select_last_index}`: ONNX ArgMax, opset 13.
pub static ARG_MAX: OpDef = OpDef {
    name: "arg_max",
    onnx: "ArgMax",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("keepdims"), attr::int("select_last_index")],
    arity: (1, 1),
    infer: &infer_arg,
    eval: Some(&|attrs, inputs| eval_arg(attrs, inputs, true)),
    expand: Some(&|e| expand_arg(e, "max")),
    weights: None,
    gradient: None,
};

/// `arg_min(x) {axis, keepdims, select_last_index}`: ONNX ArgMin, opset 13.
pub static ARG_MIN: OpDef = OpDef {
    name: "arg_min",
    onnx: "ArgMin",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("keepdims"), attr::int("select_last_index")],
    arity: (1, 1),
    infer: &infer_arg,
    eval: Some(&|attrs, inputs| eval_arg(attrs, inputs, false)),
    expand: Some(&|e| expand_arg(e, "min")),
    weights: None,
    gradient: None,
};

/// `cum_sum(x, axis) {exclusive, reverse}`: ONNX CumSum, opset 14.
pub static CUM_SUM: OpDef = OpDef {
    name: "cum_sum",
    onnx: "CumSum",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("exclusive"), attr::int("reverse")],
    arity: (2, 2),
    infer: &infer_cum_sum,
    eval: Some(&|attrs, inputs| eval_cumulated(attrs, inputs, false)),
    expand: None,
    weights: None,
    gradient: None,
};

/// `cum_prod(x, axis) {exclusive, reverse}`: ONNX CumProd, opset 26.
pub static CUM_PROD: OpDef = OpDef {
    name: "cum_prod",
    onnx: "CumProd",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("exclusive"), attr::int("reverse")],
    arity: (2, 2),
    infer: &infer_cum_sum,
    eval: Some(&|attrs, inputs| eval_cumulated(attrs, inputs, true)),
    expand: None,
    weights: None,
    gradient: None,
};

/// `top_k(x, k) {axis, largest, sorted}`: ONNX TopK, opset 24: the largest or smallest elements along an axis, in
/// order, and where they stood. k is a constant. NaN counts as larger than any number.
pub static TOP_K: OpDef = OpDef {
    name: "top_k",
    onnx: "TopK",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("largest"), attr::int("sorted")],
    arity: (2, 2),
    infer: &infer_top_k,
    eval: Some(&eval_top_k),
    expand: None,
    weights: None,
    gradient: None,
};

/// `bit_cast(x) {to}`: ONNX BitCast, opset 26: the same bits as another type.
pub static BIT_CAST: OpDef = OpDef {
    name: "bit_cast",
    onnx: "BitCast",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::dtype("to")],
    arity: (1, 1),
    infer: &infer_bit_cast,
    eval: Some(&eval_bit_cast),
    expand: None,
    weights: None,
    gradient: None,
};

/// `det(x)`: ONNX Det, opset 22: determinants of the matrices in the last two axes.
pub static DET: OpDef = OpDef {
    name: "det",
    onnx: "Det",
    levels: ONNX | CORE | KERNEL,
    attrs: &[],
    arity: (1, 1),
    infer: &infer_det,
    eval: Some(&eval_det),
    expand: None,
    weights: None,
    gradient: None,
};

fn infer_arg(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
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
fn expand_arg(e: &mut Expand<'_, '_>, kind: &str) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let own = sizes(0, &ty)?;
    let axis = axis_attr(e.attrs, 0, own.len())?;
    let best = extremum(e, kind, x, axis)?;
    let place = positions(e, own.len(), axis, own[axis], 1)?;
    // NaN is the extremum of whatever it is in.
    let hit = if ty.dtype.is_float() { "or(eq(x0,x1),isnan(x0))" } else { "eq(x0,x1)" };
    let (other, first_or_last) =
        if e.attrs.int("select_last_index").unwrap_or(0) != 0 { (-1, "max") } else { (own[axis] as i64, "min") };
    // Places along an axis need no more than 32 bits.
    let candidates = pointwise::add(e, &format!("select({hit},x2,{other})"), DType::I32, &[x, best, place])?;
    let keepdims = e.attrs.int("keepdims").unwrap_or(1) != 0;
    let found = reduce(e, first_or_last, candidates, &[axis], keepdims)?;
    Ok(vec![crate::ops::compose::cast(e, found, DType::I64)?])
}

fn eval_arg(attrs: &Attrs, inputs: &[Option<&Tensor>], max: bool) -> Result<Vec<Tensor>, OpError> {
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

fn infer_cum_sum(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, axis) = (infer.ty(0)?, infer.ty(1)?);
    if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) || axis.dtype.class() != Class::Int
    {
        return Err(OpError::operand(0, x, "numbers, and an integer axis"));
    }
    Ok(vec![x.clone()])
}

fn eval_cumulated(attrs: &Attrs, inputs: &[Option<&Tensor>], product: bool) -> Result<Vec<Tensor>, OpError> {
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

/// The axis and how many elements along it stay.
fn chosen(attrs: &Attrs, x: &TensorType, k: Option<&Tensor>) -> Result<(usize, i64), OpError> {
    let k = k.ok_or(OpError::NotConstant { slot: 1 })?.to_i64s()?.first().copied().unwrap_or(-1);
    let axis = axis_attr(attrs, -1, x.shape.rank())?;
    if k < 0 || x.shape.0[axis].known().is_some_and(|n| k > n) {
        return Err(OpError::operand(1, k, format!("a count of {x} along axis {axis}")));
    }
    Ok((axis, k))
}

fn infer_top_k(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) {
        return Err(OpError::operand(0, x, "numbers"));
    }
    let (axis, k) = chosen(infer.attrs, x, infer.constant(1))?;
    let mut shape = x.shape.clone();
    shape.0[axis] = Dim::Known(k);
    Ok(vec![TensorType::new(x.dtype, shape.clone()), TensorType::new(DType::I64, shape)])
}

fn eval_top_k(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
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

/// Integers that order as the elements do, NaN above all.
///
/// # Errors
/// The data is absent or no numbers.
pub fn order_keys(x: &Tensor) -> Result<Vec<i64>, OpError> {
    let of_float = |v: f64| match (v + 0.0).to_bits().cast_signed() {
        _ if v.is_nan() => i64::MAX,
        bits => bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed(),
    };
    Ok(match x.dtype().class() {
        // A float orders as its bits do, but for the sign; f32s widened order as they did.
        Class::Float => x.to_f64s()?.iter().map(|&v| of_float(v)).collect(),
        // The sign of a u64 is its highest bit.
        _ if x.dtype() == DType::U64 => x.to_i64s()?.iter().map(|v| v ^ i64::MIN).collect(),
        _ => x.to_i64s()?,
    })
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

fn infer_bit_cast(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let to = crate::ops::util::dtype_attr(infer.attrs, "to").ok_or_else(|| OpError::attribute("to", "is missing"))?;
    if x.packing.is_some() || to.bits() != x.dtype.bits() || to.bits() == 0 {
        return Err(OpError::attribute("to", format!("is {to} for {x}: types of as many bits are expected")));
    }
    Ok(vec![x.with_dtype(to)])
}

fn eval_bit_cast(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let to = crate::ops::util::dtype_attr(attrs, "to").ok_or_else(|| OpError::attribute("to", "is missing"))?;
    Ok(vec![Tensor::from_bytes(TensorType::of(to, &x.dims()), x.bytes()?.to_vec())?])
}

fn infer_det(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let [lead @ .., rows, columns] = &x.shape.0[..] else { return Err(OpError::operand(0, x, "square matrices")) };
    if !x.dtype.is_float() || x.packing.is_some() || rows != columns {
        return Err(OpError::operand(0, x, "square matrices of floats"));
    }
    Ok(vec![TensorType::new(x.dtype, Shape(lead.to_vec()))])
}

fn eval_det(_: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let dims = x.dims();
    let [lead @ .., n, _] = &dims[..] else { return Err(OpError::operand(0, x.ty(), "square matrices")) };
    let values = x.to_f64s()?;
    let results: Vec<f64> = if *n == 0 {
        vec![1.0; n_elems(lead)?]
    } else {
        values.chunks_exact(n * n).map(|m| determinant(m, *n)).collect()
    };
    Ok(vec![if x.dtype() == DType::F64 {
        Tensor::from_f64s(x.dtype(), lead, &results)?
    } else {
        crate::ops::util::f32s(x.dtype(), lead, results.into_iter().map(|v| v as f32).collect())?
    }])
}

/// By Gaussian elimination, the largest element of a column first.
fn determinant(matrix: &[f64], n: usize) -> f64 {
    let mut m = matrix.to_vec();
    let mut product = 1.0;
    for column in 0..n {
        let pivot =
            (column..n).max_by(|a, b| m[a * n + column].abs().total_cmp(&m[b * n + column].abs())).unwrap_or(column);
        if pivot != column {
            (0..n).for_each(|i| m.swap(pivot * n + i, column * n + i));
            product = -product;
        }
        let head = m[column * n + column];
        product *= head;
        if head == 0.0 {
            return product;
        }
        for row in column + 1..n {
            let factor = m[row * n + column] / head;
            for i in column..n {
                m[row * n + i] -= factor * m[column * n + i];
            }
        }
    }
    product
}
