//! `scatter`: rows written into a copy of a tensor; ONNX's scattering operators become one. On the host: no kernel yet.

use crate::ir::expr::build::{arg, select};
use crate::ir::{
    Attrs, CORE, Class, DType, Differentiate, Dim, Expand, Expr, Gains, IndexFault, Infer, KERNEL, ONNX, OpDef,
    OpError, Shape, Tensor, TensorType, Val, attr,
};
use crate::ops::compose::{dims, gather_within, position_type, positions, sizes, zeros};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::{pointwise, reshape};
use crate::ops::onnx::gather_nd::flat_rows;
use crate::ops::reference::real::Real;
use crate::ops::util::{axis_attr, elements, from_elements, n_elems, operand, strides};

/// `scatter(data, rows, updates) {reduction}`: data `[R,D]` with rows `[N]` replaced by, or combined with, updates
/// `[N,D]`, in order.
pub static DEF: OpDef = OpDef {
    name: "scatter",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::text("reduction")],
    arity: (3, 3),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: Some(&gradient),
};

/// `scatter_elements(data, indices, updates) {axis, reduction}`: ONNX ScatterElements, opset 18.
pub static ELEMENTS: OpDef = OpDef {
    name: "scatter_elements",
    onnx: "ScatterElements",
    levels: ONNX,
    attrs: &[attr::int("axis"), attr::text("reduction")],
    arity: (3, 3),
    infer: &infer_elements,
    eval: None,
    expand: Some(&expand_elements),
    weights: None,
    gradient: None,
};

/// `scatter_nd(data, indices, updates) {reduction}`: ONNX ScatterND, opset 18.
pub static ND: OpDef = OpDef {
    name: "scatter_nd",
    onnx: "ScatterND",
    levels: ONNX,
    attrs: &[attr::text("reduction")],
    arity: (3, 3),
    infer: &infer_nd,
    eval: None,
    expand: Some(&expand_nd),
    weights: None,
    gradient: None,
};

/// `max_unpool(x, indices, output_shape?) {kernel_shape, pads, strides}`: ONNX MaxUnpool, opset 22: elements back at
/// the places that MaxPool took them from, zero elsewhere.
pub static MAX_UNPOOL: OpDef = OpDef {
    name: "max_unpool",
    onnx: "MaxUnpool",
    levels: ONNX,
    attrs: &[attr::ints("kernel_shape"), attr::ints("pads"), attr::ints("strides")],
    arity: (2, 3),
    infer: &infer_unpool,
    eval: None,
    expand: Some(&expand_unpool),
    weights: None,
    gradient: None,
};

fn reduction(attrs: &Attrs) -> Result<&str, OpError> {
    match attrs.str("reduction").unwrap_or("none") {
        known @ ("none" | "add" | "mul" | "max" | "min") => Ok(known),
        other => Err(OpError::attribute("reduction", format!("is {other:?}"))),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (data, rows, updates) = (infer.ty(0)?, infer.ty(1)?, infer.ty(2)?);
    reduction(infer.attrs)?;
    let [_, width] = &data.shape.0[..] else { return Err(OpError::operand(0, data, "[R,D]")) };
    if rows.dtype.class() != Class::Int
        || rows.shape.rank() != 1
        || data.packing.is_some()
        || data.dtype.class() == Class::Text
    {
        return Err(OpError::operand(1, rows, "row numbers"));
    }
    if updates.dtype != data.dtype || updates.shape.0 != [rows.shape.0[0].clone(), width.clone()] {
        return Err(OpError::operand(2, updates, format!("a row of {data} for each of {rows}")));
    }
    Ok(vec![data.clone()])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (data, rows, updates) = (operand(inputs, 0)?, operand(inputs, 1)?, operand(inputs, 2)?);
    let own = data.dims();
    let [n_rows, width] = own[..] else { return Err(OpError::operand(0, data.ty(), "[R,D]")) };
    let reduction = reduction(attrs)?;
    let places = rows.to_i64s()?.into_iter().map(|row| {
        let place = usize::try_from(row).ok().filter(|&row| row < n_rows);
        place.ok_or((row, n_rows))
    });
    let out_of_range = |(element, place): (usize, Result<usize, (i64, usize)>)| {
        place.map_err(|(index, n)| IndexFault { element: element as u64, index, least: 0, most: n as i64 - 1 })
    };
    let places = places.enumerate().map(out_of_range).collect::<Result<Vec<_>, _>>()?;
    if n_elems(&updates.dims())? != places.len() * width {
        return Err(OpError::operand(2, updates.ty(), format!("{} rows of {width}", places.len())));
    }
    if reduction == "none" {
        let ((bytes, size), (new, _)) = (elements(data)?, elements(updates)?);
        let (mut bytes, width) = (bytes.into_owned(), width * size);
        for (i, place) in places.into_iter().enumerate() {
            bytes[place * width..][..width].copy_from_slice(&new[i * width..][..width]);
        }
        return Ok(vec![from_elements(data.dtype(), &own, bytes)?]);
    }
    if data.dtype().is_float() {
        return if data.dtype() == DType::F64 {
            combined::<f64>(reduction, data, updates, (&places, width))
        } else {
            combined::<f32>(reduction, data, updates, (&places, width))
        };
    }
    let (mut values, new) = (data.to_i64s()?, updates.to_i64s()?);
    let is_u64 = data.dtype() == crate::ir::DType::U64;
    combine(&mut values, &new, &places, width, |a, b| match reduction {
        "add" => a.wrapping_add(b),
        "mul" => a.wrapping_mul(b),
        // The bits of u64 compare as such.
        "max" if is_u64 => a.cast_unsigned().max(b.cast_unsigned()).cast_signed(),
        "min" if is_u64 => a.cast_unsigned().min(b.cast_unsigned()).cast_signed(),
        "max" => a.max(b),
        _ => a.min(b),
    });
    Ok(vec![Tensor::from_i64s(data.dtype(), &own, &values)?])
}

fn combined<F: Real>(
    reduction: &str,
    data: &Tensor,
    updates: &Tensor,
    (places, width): (&[usize], usize),
) -> Result<Vec<Tensor>, OpError> {
    let (mut values, new) = (F::elements(data)?.into_owned(), F::elements(updates)?);
    combine(&mut values, &new, places, width, |a, b| match reduction {
        "add" => a + b,
        "mul" => a * b,
        "max" if b > a || b.is_nan() => b,
        "min" if b < a || b.is_nan() => b,
        _ => a,
    });
    Ok(vec![F::stored(data.dtype(), &data.dims(), values)?])
}

fn combine<T: Copy>(values: &mut [T], new: &[T], places: &[usize], width: usize, f: impl Fn(T, T) -> T) {
    for (i, &place) in places.iter().enumerate() {
        let row = values[place * width..][..width].iter_mut();
        row.zip(&new[i * width..][..width]).for_each(|(value, new)| *value = f(*value, *new));
    }
}

/// Rows that were written gain nothing as data, and their updates what is at their places: of two updates of one row,
/// which ONNX leaves undefined, both.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (rows, gain) = (d.input(1)?, d.gain()?);
    let of_data = match reduction(d.attrs)? {
        "add" => gain,
        "none" => {
            let sizes = d.sizes(2)?;
            let dtype = d.ty(gain).dtype;
            let zeros = zeros(d, dtype, &sizes)?;
            d.add(&DEF, Attrs::new().with_str("reduction", "none"), &[gain, rows, zeros])?
        }
        other => return Err(OpError::unsupported(format!("the derivative of a scatter that combines by {other}"))),
    };
    let of_updates = if d.wants(2) { Some(gather_within(d, gain, rows, 0)?) } else { None };
    Ok(Gains::Are(vec![Some(of_data), None, of_updates]))
}

/// The types of data and indices, checked with those of the updates.
fn checked<'a>(
    infer: &Infer<'a>,
    expected: impl Fn(&TensorType, &TensorType) -> Option<Shape>,
) -> Result<&'a TensorType, OpError> {
    let (data, indices, updates) = (infer.ty(0)?, infer.ty(1)?, infer.ty(2)?);
    reduction(infer.attrs)?;
    if indices.dtype.class() != Class::Int || data.packing.is_some() || data.dtype.class() == Class::Text {
        return Err(OpError::operand(1, indices, "integers"));
    }
    let expected =
        expected(data, indices).ok_or_else(|| OpError::operand(1, indices, format!("indices into {data}")))?;
    if updates.dtype != data.dtype || updates.shape != expected {
        return Err(OpError::operand(2, updates, format!("{}{expected}", data.dtype)));
    }
    Ok(data)
}

fn infer_elements(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    axis_attr(infer.attrs, 0, infer.ty(0)?.shape.rank())?;
    let data =
        checked(infer, |data, indices| (data.shape.rank() == indices.shape.rank()).then(|| indices.shape.clone()))?;
    Ok(vec![data.clone()])
}

fn expand_elements(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (data, indices, updates) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let (own, given) = (sizes(0, &e.ty(data))?, sizes(1, &e.ty(indices))?);
    let axis = axis_attr(e.attrs, 0, own.len())?;
    let steps = strides(&own);
    let mut operands = vec![check_indices::add(e, indices, &Rule::of_axis(Dim::from(own[axis])))?];
    let mut expr = arg(0) * steps[axis] as i64;
    for i in (0..own.len()).filter(|&i| i != axis) {
        expr = expr + arg(operands.len());
        operands.push(positions(e, own.len(), i, given[i], steps[i] as i64)?);
    }
    let rows = pointwise::add(e, expr, position_type(own.iter().product()), &operands)?;
    let n = n_elems(&given)?;
    write(e, data, rows, updates, &[own.iter().product(), 1], n)
}

/// How many numbers an index has.
fn depth(data: &TensorType, indices: &TensorType) -> Option<usize> {
    let depth = usize::try_from(indices.shape.0.last()?.known()?).ok()?;
    (1..=data.shape.rank()).contains(&depth).then_some(depth)
}

fn infer_nd(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let data = checked(infer, |data, indices| {
        let depth = depth(data, indices)?;
        Some(Shape([&indices.shape.0[..indices.shape.rank() - 1], &data.shape.0[depth..]].concat()))
    })?;
    Ok(vec![data.clone()])
}

fn expand_nd(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (data, indices, updates) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let (data_ty, indices_ty) = (e.ty(data), e.ty(indices));
    let own = sizes(0, &data_ty)?;
    let depth = depth(&data_ty, &indices_ty)
        .ok_or_else(|| OpError::operand(1, &indices_ty, format!("indices into {data_ty}")))?;
    let rows = flat_rows(e, indices, &own, 0, depth)?;
    let n = n_elems(&sizes(1, &e.ty(rows))?)?;
    write(e, data, rows, updates, &[own[..depth].iter().product(), own[depth..].iter().product()], n)
}

/// `data` as a matrix of sizes `table`, `n` rows of it written.
fn write(
    e: &mut Expand<'_, '_>,
    data: Val,
    rows: Val,
    updates: Val,
    table: &[usize],
    n: usize,
) -> Result<Vec<Val>, OpError> {
    let shape = e.outputs[0].shape.0.clone();
    let attrs = Attrs::new().with_str("reduction", reduction(e.attrs)?);
    let data = reshape::to(e, data, dims(table))?;
    let rows = reshape::to(e, rows, dims(&[n]))?;
    let updates = reshape::to(e, updates, dims(&[n, table[1]]))?;
    let y = e.add(&DEF, attrs, &[data, rows, updates])?;
    Ok(vec![reshape::to(e, y, shape)?])
}

/// Sizes of an unpooling.
struct Unpool {
    kernel: Vec<i64>,
    strides: Vec<i64>,
    /// Before the first element along each axis.
    pads: Vec<i64>,
    /// The smallest shape that the pool can have read.
    inferred: Vec<i64>,
    /// The shape of the result.
    result: Vec<i64>,
}

impl Unpool {
    fn of(attrs: &Attrs, x: &TensorType, output_shape: Option<Vec<i64>>) -> Result<Unpool, OpError> {
        let own = sizes(0, x)?;
        let n = own.len().saturating_sub(2);
        let list = |name: &'static str, len: usize, default: i64| -> Result<Vec<i64>, OpError> {
            let values = attrs.ints(name).map_or_else(|| vec![default; len], <[i64]>::to_vec);
            let fits = values.len() == len && values.iter().all(|v| (0..1 << 24).contains(v));
            if fits { Ok(values) } else { Err(OpError::attribute(name, format!("is {values:?} for {n} spatial axes"))) }
        };
        let (kernel, strides, pads) = (list("kernel_shape", n, 0)?, list("strides", n, 1)?, list("pads", 2 * n, 0)?);
        let mut inferred: Vec<i64> = own.iter().map(|&n| n as i64).collect();
        for i in 0..n {
            inferred[2 + i] = (inferred[2 + i] - 1) * strides[i] - pads[i] - pads[n + i] + kernel[i];
        }
        let result = output_shape.unwrap_or_else(|| inferred.clone());
        let fits = own.len() >= 3
            && result.len() == own.len()
            && result[..2] == inferred[..2]
            && result.iter().zip(&inferred).all(|(w, r)| *r >= 1 && (*r..1 << 31).contains(w));
        if fits {
            Ok(Unpool { kernel, strides, pads: pads[..n].to_vec(), inferred, result })
        } else {
            Err(OpError::operand(
                2,
                format!("{result:?}"),
                format!("at least {inferred:?}, the first two axes equal to those"),
            ))
        }
    }

    /// The place of an index within a plane of a tensor of this shape, as expressions: whether it is in its window,
    /// and its coordinates. `x0` is the index, `x1+x2` the number of its plane, `x3` and on are the places of its
    /// window.
    fn coordinates(&self, shape: &[i64]) -> (Expr, Vec<Expr>) {
        let plane: i64 = shape[2..].iter().product();
        let local = arg(0) - (arg(1) + arg(2)) * plane;
        let mut inside = local.clone().at_least(0).and(local.clone().below(plane));
        let mut all = Vec::new();
        for (axis, size) in shape[2..].iter().enumerate() {
            let step: i64 = shape[3 + axis..].iter().product();
            let at = (local.clone() / step).modulo(*size);
            let within = at.clone() - (arg(3 + axis) - self.pads[axis]);
            inside = inside.and(within.clone().at_least(0).and(within.below(self.kernel[axis])));
            all.push(at);
        }
        (inside, all)
    }

    /// The indices as places in the result. MaxPool counts in the tensor that it reads, which has the shape of the
    /// result; so does ONNX Runtime. One node test of the standard counts in the smallest shape that the pool can have
    /// read (github.com/onnx/onnx/issues/5398): that is meant where all indices are in their windows there, and one
    /// does not in the result.
    fn places(&self, e: &mut Expand<'_, '_>, indices: Val) -> Result<Val, OpError> {
        if self.inferred == self.result {
            return Ok(indices);
        }
        let dtype = e.ty(indices).dtype;
        let own = sizes(1, &e.ty(indices))?;
        let rank = own.len();
        let mut operands =
            vec![indices, positions(e, rank, 0, own[0], own[1] as i64)?, positions(e, rank, 1, own[1], 1)?];
        for (axis, stride) in self.strides.iter().enumerate() {
            operands.push(positions(e, rank, 2 + axis, own[2 + axis], *stride)?);
        }
        let (in_result, _) = self.coordinates(&self.result);
        let (in_inferred, coordinates) = self.coordinates(&self.inferred);
        let all = crate::ops::core::reduce::attrs("min", &(0..rank).collect::<Vec<_>>(), true);
        let mut tests = Vec::new();
        for inside in [in_result, in_inferred] {
            let test = pointwise::add(e, select(inside, 1.0, 0.0), DType::F32, &operands)?;
            tests.push(e.add(&crate::ops::core::reduce::DEF, all.clone(), &[test])?);
        }
        let plane: i64 = self.result[2..].iter().product();
        let mut place = (arg(1) + arg(2)) * plane;
        for (axis, at) in coordinates.into_iter().enumerate() {
            place = place + at * self.result[3 + axis..].iter().product::<i64>();
        }
        let (result, inferred) = (operands.len(), operands.len() + 1);
        operands.extend(tests);
        let expr = select(arg(result).below(0.5).and(arg(inferred).above(0.5)), place, arg(0));
        pointwise::add(e, expr, dtype, &operands)
    }
}

fn infer_unpool(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, indices) = (infer.ty(0)?, infer.ty(1)?);
    if !x.dtype.is_float() || x.packing.is_some() || indices.dtype.class() != Class::Int || indices.shape != x.shape {
        return Err(OpError::operand(1, indices, format!("an index for each element of {x}")));
    }
    let unpool = Unpool::of(infer.attrs, x, infer.ints(2)?)?;
    Ok(vec![TensorType::new(x.dtype, Shape(unpool.result.into_iter().map(Dim::Known).collect()))])
}

fn expand_unpool(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, indices) = (e.input(0)?, e.input(1)?);
    let ty = e.ty(x);
    let unpool = Unpool::of(e.attrs, &ty, e.ints(2)?)?;
    let n = n_elems(&sizes(0, &ty)?)?;
    let total = unpool.result.iter().try_fold(1i64, |n, d| n.checked_mul(*d));
    let total = total.ok_or_else(|| OpError::unsupported("a result larger than the address space"))?;
    let zero = e.constant(Tensor::from_f32s(ty.dtype, &[1], &[0.0])?);
    let zeros = crate::ops::onnx::movement::broadcast_to(e, zero, vec![Dim::Known(total), Dim::Known(1)])?;
    let rule = Rule { sizes: vec![Dim::Known(total)], negative: false, ignore: None };
    let indices = check_indices::add(e, indices, &rule)?;
    let places = unpool.places(e, indices)?;
    let rows = reshape::to(e, places, dims(&[n]))?;
    let x = reshape::to(e, x, dims(&[n, 1]))?;
    let y = e.add(&DEF, Attrs::new().with_str("reduction", "none"), &[zeros, rows, x])?;
    Ok(vec![reshape::to(e, y, unpool.result.iter().map(|&n| Dim::Known(n)).collect())?])
}
