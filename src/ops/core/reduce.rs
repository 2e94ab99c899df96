//! `reduce`: sums, means, extrema and products along axes.

use crate::ir::expr::build::{arg, select};
use crate::ir::{
    Attrs, Bounds, CORE, Class, DType, Differentiate, Dim, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor,
    TensorType, attr,
};
use crate::ops::compose;
use crate::ops::core::pointwise;
use crate::ops::core::reshape;
use crate::ops::onnx::movement::broadcast_to;
use crate::ops::reference::real::Real;
use crate::ops::util::{
    axes, between, class_of, finish, finish_floats, is_double, n_elems, operand, result, split_own, strides,
};
use rayon::prelude::*;

/// `reduce(x) {kind, axes, keepdims, dtype, epilogue}`.
pub static DEF: OpDef = OpDef {
    name: "reduce",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::text("kind"),
        attr::ints("axes"),
        attr::int("keepdims"),
        attr::dtype("dtype"),
        attr::expr("epilogue"),
    ],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: Some(&gradient),
};

/// Attributes of a reduction along sorted axes.
pub fn attrs(kind: &str, axes: &[usize], keepdims: bool) -> Attrs {
    let axes = axes.iter().map(|&a| a as i64);
    Attrs::new().with_str("kind", kind).with_ints("axes", axes).with_int("keepdims", i64::from(keepdims))
}

/// What is computed along the axes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sum,
    Mean,
    Max,
    Min,
    Prod,
}

fn kind(attrs: &Attrs) -> Result<Kind, OpError> {
    Ok(match attrs.str("kind") {
        Some("sum") => Kind::Sum,
        Some("mean") => Kind::Mean,
        Some("max") => Kind::Max,
        Some("min") => Kind::Min,
        Some("prod") => Kind::Prod,
        other => return Err(OpError::attribute("kind", format!("is {other:?}"))),
    })
}

/// The shape that remains when `axes` are reduced.
pub fn reduced(shape: &Shape, axes: &[usize], keepdims: bool) -> Shape {
    let keep = |(i, dim): (usize, &Dim)| match (axes.contains(&i), keepdims) {
        (false, _) => Some(dim.clone()),
        (true, true) => Some(Dim::Known(1)),
        (true, false) => None,
    };
    Shape(shape.0.iter().enumerate().filter_map(keep).collect())
}

fn own_axes(attrs: &Attrs, rank: usize) -> Result<(Vec<usize>, bool), OpError> {
    let given = attrs.ints("axes").ok_or_else(|| OpError::attribute("axes", "is missing"))?;
    Ok((axes(given, rank)?, attrs.int("keepdims").unwrap_or(1) != 0))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    kind(infer.attrs)?;
    let class = class_of(x);
    if x.packing.is_some() || !matches!(class, Class::Float | Class::Int) {
        return Err(OpError::operand(0, x, "floats or integers"));
    }
    let (axes, keepdims) = own_axes(infer.attrs, x.shape.rank())?;
    result(infer, class, x.dtype, reduced(&x.shape, &axes, keepdims))
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    let x = operand(own, 0)?;
    let kind = kind(attrs)?;
    let dims = x.dims();
    let (axes, keepdims) = own_axes(attrs, dims.len())?;
    let out_dims = reduced(&x.ty().shape, &axes, keepdims).known().unwrap_or_default();
    let stride = strides(&dims);
    let part = |reduced: bool| -> (Vec<usize>, Vec<usize>) {
        (0..dims.len()).filter(|i| axes.contains(i) == reduced).map(|i| (dims[i], stride[i])).unzip()
    };
    let (starts, offsets) = (offsets(part(false))?, offsets(part(true))?);
    if class_of(x.ty()) == Class::Int {
        let data = x.to_i64s()?;
        let values: Vec<i64> = starts
            .par_iter()
            .map(|&start| ints(kind, x.dtype(), offsets.iter().map(|o| data[start + o]), offsets.len()))
            .collect();
        return finish(attrs, Tensor::from_i64s(x.dtype(), &out_dims, &values)?, x.dtype(), extra);
    }
    if is_double(attrs, own) {
        return joined::<f64>(attrs, x, (kind, &axes), (&starts, &offsets), &out_dims, extra);
    }
    joined::<f32>(attrs, x, (kind, &axes), (&starts, &offsets), &out_dims, extra)
}

/// The elements from each start at the same offsets joined to one.
fn joined<F: Real>(
    attrs: &Attrs,
    x: &Tensor,
    (kind, axes): (Kind, &[usize]),
    (starts, offsets): (&[usize], &[usize]),
    out_dims: &[usize],
    extra: &[Option<&Tensor>],
) -> Result<Vec<Tensor>, OpError> {
    let data = F::elements(x)?;
    let dims = x.ty().shape.rank();
    let row = !axes.is_empty() && axes.iter().enumerate().all(|(i, &a)| a == dims - axes.len() + i);
    let values: Vec<F> = starts
        .par_iter()
        .map(|&start| match row {
            true => floats(kind, data[start..start + offsets.len()].iter().copied(), offsets.len()),
            false => floats(kind, offsets.iter().map(|o| data[start + o]), offsets.len()),
        })
        .collect();
    finish_floats(attrs, out_dims, values, x.dtype(), extra)
}

/// The offsets of all elements along axes of these sizes and strides, in row-major order.
fn offsets((dims, strides): (Vec<usize>, Vec<usize>)) -> Result<Vec<usize>, OpError> {
    let mut all = Vec::with_capacity(n_elems(&dims)?);
    crate::ops::util::for_each_index(&dims, &[strides], |_, offset| all.push(offset[0]));
    Ok(all)
}

fn floats<F: Real>(kind: Kind, values: impl Iterator<Item = F>, n: usize) -> F {
    let sum = |values: &mut dyn Iterator<Item = F>| values.fold(0.0f64, |sum, v| sum + v.wide());
    let mut values = values;
    match kind {
        Kind::Sum => F::of_f64(sum(&mut values)),
        Kind::Mean => F::of_f64(sum(&mut values) / n as f64),
        Kind::Max => values.fold(F::neg_infinity(), |m, v| if v > m || v.is_nan() { v } else { m }),
        Kind::Min => values.fold(F::infinity(), |m, v| if v < m || v.is_nan() { v } else { m }),
        Kind::Prod => F::of_f64(values.fold(1.0f64, |p, v| p * v.wide())),
    }
}

/// The maximum, or minimum, of no integers: the least or largest of the type (ReduceMax and ReduceMin, opset 20).
pub fn of_nothing(dtype: DType, max: bool) -> i64 {
    let bounds = Bounds::of(dtype);
    match (dtype, max) {
        (DType::U64, true) => 0,
        (DType::U64, false) => -1,
        (_, true) => bounds.low,
        (_, false) => bounds.high,
    }
}

/// Joins integers of a type; the bits of u64 are compared and divided as such.
fn ints(kind: Kind, dtype: DType, values: impl Iterator<Item = i64>, n: usize) -> i64 {
    let is_u64 = dtype == DType::U64;
    let (nothing, n) = (of_nothing(dtype, kind == Kind::Max), n.max(1));
    match kind {
        Kind::Sum => values.fold(0, i64::wrapping_add),
        Kind::Mean if is_u64 => (values.fold(0, i64::wrapping_add).cast_unsigned() / n as u64).cast_signed(),
        // The sum wraps as its type does before it is divided, one narrower than 32 bits as i32.
        Kind::Mean => {
            let sum = values.fold(0, i64::wrapping_add);
            let sum = match dtype {
                DType::I64 => sum,
                DType::U32 => sum & i64::from(u32::MAX),
                _ => i64::from(sum as i32),
            };
            sum / i64::try_from(n).unwrap_or(i64::MAX)
        }
        Kind::Max if is_u64 => values.max_by_key(|v| v.cast_unsigned()).unwrap_or(nothing),
        Kind::Min if is_u64 => values.min_by_key(|v| v.cast_unsigned()).unwrap_or(nothing),
        Kind::Max => values.max().unwrap_or(nothing),
        Kind::Min => values.min().unwrap_or(nothing),
        Kind::Prod => values.fold(1, i64::wrapping_mul),
    }
}

/// Elements gain what their sum does, the number of elements divides what their mean gains, extrema share theirs
/// evenly, and a factor gains the product of the others.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (x, y, gain) = (d.input(0)?, d.result()?, d.gain()?);
    let (x_ty, dtype) = (d.ty(x), d.ty(gain).dtype);
    let (axes, _) = own_axes(d.attrs, x_ty.shape.rank())?;
    let kind = kind(d.attrs)?;
    let kept = reduced(&x_ty.shape, &axes, true).0;
    let gain = reshape::to(d, gain, kept.clone())?;
    let y = reshape::to(d, y, kept)?;
    let part = match kind {
        Kind::Sum => broadcast_to(d, gain, x_ty.shape.0),
        Kind::Mean => {
            let sizes = d.sizes(0)?;
            let n = axes.iter().map(|axis| sizes[*axis]).product::<usize>().max(1);
            let each = pointwise::add(d, arg(0) / n as f32, dtype, &[gain])?;
            broadcast_to(d, each, x_ty.shape.0)
        }
        Kind::Max | Kind::Min => {
            let is_one = pointwise::add(d, arg(0).equals(arg(1)).to_float(), between(dtype), &[x, y])?;
            let n = compose::reduce(d, "sum", is_one, &axes, true)?;
            pointwise::add(d, (arg(0) * arg(1)) / arg(2), dtype, &[gain, is_one, n])
        }
        Kind::Prod => {
            // The product of the others: the quotient, and where one factor is 0, that of those that are not.
            let is_zero = pointwise::add(d, arg(0).equals(0.0).to_float(), between(dtype), &[x])?;
            let n = compose::reduce(d, "sum", is_zero, &axes, true)?;
            let others = pointwise::add(d, select(arg(0).equals(0.0), 1.0, arg(0)), between(dtype), &[x])?;
            let others = compose::reduce(d, "prod", others, &axes, true)?;
            let part = arg(0)
                * select(
                    arg(1).equals(0.0),
                    select(arg(2).equals(1.0), arg(3), 0.0),
                    select(arg(2).equals(0.0), arg(3) / arg(1), 0.0),
                );
            pointwise::add(d, part, dtype, &[gain, x, n, others])
        }
    }?;
    Ok(Gains::Are(vec![Some(part)]))
}
