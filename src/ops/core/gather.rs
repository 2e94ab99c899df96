//! `gather`: slices of a tensor, chosen by indices.

use crate::ir::expr::build::{arg, select};
use crate::ir::{
    Attrs, CORE, Class, Differentiate, Expand, Gains, Infer, KERNEL, MatrixLayout, ONNX, OpDef, OpError, Shape, Tensor,
    TensorType, Val, WeightOperand, attr,
};
use crate::ops::compose::{self, dims};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::pointwise;
use crate::ops::core::reshape;
use crate::ops::reference::real::Real;
use crate::ops::util::{
    axis_attr, between, elements, finish, finish_floats, from_elements, is_double, n_elems, operand, result, split_own,
    stored,
};

/// `gather(data, indices, ...) {axis, dtype, epilogue}`: ONNX Gather, opset 13. The core operator clamps indices to the
/// axis; what a model gives is checked before it (`check_indices`). Operands after the indices are further rows of a
/// table `[rows, D]`, stored in other ways.
pub static DEF: OpDef = OpDef {
    name: "gather",
    onnx: "Gather",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::dtype("dtype"), attr::expr("epilogue")],
    arity: (2, 2 + crate::ops::core::matmul::MAX_FURTHER_PARTS),
    infer: &infer,
    eval: Some(&eval),
    expand: Some(&expand),
    weights: Some(&weights),
    gradient: Some(&gradient),
};

/// The table, whose rows are a matrix where the first axis is chosen from.
fn weights(attrs: &Attrs) -> Option<WeightOperand> {
    Some(WeightOperand {
        slot: 0,
        layout: (attrs.int("axis").unwrap_or(0) == 0).then_some(MatrixLayout::Rows),
        is_product: false,
        has_own_rows: true,
        rows_attr: None,
        x_columns_attr: None,
        further_rows: Some(2),
    })
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (data, indices) = (infer.ty(0)?, infer.ty(1)?);
    let axis = axis_attr(infer.attrs, 0, data.shape.rank())?;
    if indices.dtype.class() != Class::Int || indices.packing.is_some() {
        return Err(OpError::operand(1, indices, "integers"));
    }
    if data.packing.is_some() && (axis != 0 || data.shape.rank() != 2) {
        return Err(OpError::operand(0, data, "a packed [V,D] along axis 0"));
    }
    for (i, part) in split_own(infer.attrs, infer.inputs).0.iter().enumerate().skip(2) {
        let part = part.ok_or(OpError::MissingOperand { slot: i })?;
        let like = axis == 0 && data.shape.rank() == 2 && part.shape.rank() == 2 && part.shape.0[1] == data.shape.0[1];
        if !like || crate::ops::util::class_of(part) != Class::Float || crate::ops::util::class_of(data) != Class::Float
        {
            return Err(OpError::operand(i, part, format!("rows to follow {data}")));
        }
    }
    let shape = [&data.shape.0[..axis], &indices.shape.0, &data.shape.0[axis + 1..]].concat();
    let class = crate::ops::util::class_of(data);
    if class == Class::Text && infer.attrs.expr("epilogue").is_none() {
        return Ok(vec![TensorType::new(data.dtype, Shape(shape))]);
    }
    result(infer, class, stored(data), Shape(shape))
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (data, indices) = (e.input(0)?, e.input(1)?);
    let ty = e.ty(data);
    let axis = axis_attr(e.attrs, 0, ty.shape.rank())?;
    let indices = check_indices::add(e, indices, &Rule::of_axis(ty.shape.0[axis].clone()))?;
    let attrs = e.attrs.clone().with_int("axis", axis as i64);
    Ok(vec![e.add(&DEF, attrs, &[data, indices])?])
}

/// Each index reads the part that its row is in.
fn eval_parts<F: Real>(
    attrs: &Attrs,
    own: &[Option<&Tensor>],
    extra: &[Option<&Tensor>],
) -> Result<Vec<Tensor>, OpError> {
    let (first, indices) = (operand(own, 0)?, operand(own, 1)?);
    let parts: Vec<&Tensor> =
        [Ok(first)].into_iter().chain((2..own.len()).map(|slot| operand(own, slot))).collect::<Result<_, _>>()?;
    let [_, width] = first.dims()[..] else { return Err(OpError::operand(0, first.ty(), "a table")) };
    let rows = |part: &Tensor| part.dims().first().copied().unwrap_or(0);
    let total = i64::try_from(parts.iter().map(|part| rows(part)).sum::<usize>()).unwrap_or(i64::MAX);
    let dims = [&indices.dims()[..], &[width]].concat();
    let mut out = Vec::with_capacity(n_elems(&dims)?);
    let alone = Attrs::new().with_int("axis", 0).with_dtype("dtype", between(first.dtype()));
    for index in indices.to_i64s()? {
        let mut row = if index < 0 { index.saturating_add(total) } else { index }.clamp(0, (total - 1).max(0)) as usize;
        let part = parts.iter().find(|part| {
            let here = row < rows(part);
            row -= if here { 0 } else { rows(part) };
            here
        });
        let part = part.ok_or_else(|| OpError::operand(0, first.ty(), "an axis that is not empty"))?;
        let index = Tensor::from_i64s(crate::ir::DType::I64, &[1], &[row as i64])?;
        for values in eval(&alone, &[Some(part), Some(&index)])? {
            out.extend_from_slice(&F::elements(&values)?);
        }
    }
    finish_floats(attrs, &dims, out, stored(first.ty()), extra)
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    if own.len() > 2 {
        return if is_double(attrs, own) {
            eval_parts::<f64>(attrs, own, extra)
        } else {
            eval_parts::<f32>(attrs, own, extra)
        };
    }
    let (data, indices) = (operand(own, 0)?, operand(own, 1)?);
    let dims = data.dims();
    let axis = axis_attr(attrs, 0, dims.len())?;
    let size = i64::try_from(dims[axis]).unwrap_or(i64::MAX);
    let out_dims = [&dims[..axis], &indices.dims(), &dims[axis + 1..]].concat();
    let total = n_elems(&out_dims)?;
    if size == 0 && total > 0 {
        return Err(OpError::operand(0, data.ty(), "an axis that is not empty"));
    }
    let place = |i: i64| if i < 0 { i.saturating_add(size) } else { i }.clamp(0, (size - 1).max(0)) as usize;
    let indices: Vec<usize> = indices.to_i64s()?.into_iter().map(place).collect();
    if let Some(packing) = data.ty().packing {
        let layout = crate::ops::reference::packed_view::layout(packing, data)?;
        let mut out = Vec::with_capacity(total);
        for row in indices {
            out.extend(crate::ops::reference::packed_view::dequantize_row(&layout, data.bytes()?, row));
        }
        return finish_floats(attrs, &out_dims, out, stored(data.ty()), extra);
    }
    let (bytes, size) = elements(data)?;
    let inner = n_elems(&dims[axis + 1..])? * size;
    let block = dims[axis] * inner;
    let mut out = Vec::with_capacity(total * size);
    for outer in 0..n_elems(&dims[..axis])? {
        for &i in &indices {
            out.extend_from_slice(&bytes[outer * block + i * inner..][..inner]);
        }
    }
    finish(attrs, from_elements(data.dtype(), &out_dims, out)?, data.dtype(), extra)
}

/// Each slice of the table gains what all places that name it do: a product with the matrix that says which do.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (data, indices, gain) = (d.input(0)?, d.input(1)?, d.gain()?);
    let (sizes, n) = (d.sizes(0)?, d.sizes(1)?.iter().product::<usize>());
    if d.inputs.len() != 2 {
        return Err(OpError::unsupported("the derivative of a table in parts"));
    }
    let axis = axis_attr(d.attrs, 0, sizes.len())?;
    let dtype = d.ty(data).dtype;
    let (outer, size) = (sizes[..axis].iter().product::<usize>(), sizes[axis]);
    let inner = sizes[axis + 1..].iter().product::<usize>();
    let flat = reshape::to(d, indices, dims(&[1, n]))?;
    let places = compose::positions(d, 2, 0, size as i64, 1)?;
    let last = size.saturating_sub(1);
    let from_start = select(arg(1).below(0i64), arg(1) + size as i64, arg(1));
    let is_named = arg(0).equals(from_start.min(last as i64).max(0i64)).to_float();
    let named = pointwise::add(d, is_named, between(dtype), &[places, flat])?;
    let gain = reshape::to(d, gain, dims(&[outer, n, inner]))?;
    let sum = compose::matmul(d, named, gain, false)?;
    let part = reshape::to(d, sum, dims(&sizes))?;
    Ok(Gains::Are(vec![Some(part), None]))
}
