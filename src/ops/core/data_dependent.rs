//! Operators whose results have as many elements as their data say: NonZero, Compress, NonMaxSuppression, Unique.
//!
//! Their attribute [`COUNT`] holds the size that the data tell, a symbol from 0 to [`bound`]: memory is planned for the
//! bound, and the value is known once the node has been computed, on the host. Of constants alone they have no such
//! attribute, and fold.

use crate::ir::{
    Attr, Attrs, CORE, COUNT, Class, DType, Dim, EvalFn, Expand, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor,
    TensorType, Val, attr,
};
use crate::ops::compose::{gather, gather_within};
use crate::ops::core::host::order_keys;
use crate::ops::core::reshape;
use crate::ops::util::{axis_attr, elements, from_elements, n_elems, operand, strides};

/// `non_zero(x) {count}`: ONNX NonZero, opset 13: the indices of the elements that are not zero, `[rank, count]`.
pub static NON_ZERO: OpDef = OpDef {
    name: "non_zero",
    onnx: "NonZero",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::sizes(COUNT)],
    arity: (1, 1),
    infer: &infer_non_zero,
    eval: Some(&eval_non_zero),
    expand: None,
    weights: None,
    gradient: None,
};

/// `compress(x, condition) {axis, count}`: ONNX Compress, opset 11: the slices along an axis whose condition holds, or
/// elements where there is no axis.
pub static COMPRESS: OpDef = OpDef {
    name: "compress",
    onnx: "Compress",
    levels: ONNX,
    attrs: &[attr::int("axis"), attr::sizes(COUNT)],
    arity: (2, 2),
    infer: &infer_compress,
    eval: None,
    expand: Some(&expand_compress),
    weights: None,
    gradient: None,
};

/// `non_max_suppression(boxes, scores, max_output_boxes_per_class?, iou_threshold?, score_threshold?)
/// {center_point_box, count}`: ONNX NonMaxSuppression, opset 11: `[count, 3]` of batch, class and box.
pub static NON_MAX_SUPPRESSION: OpDef = OpDef {
    name: "non_max_suppression",
    onnx: "NonMaxSuppression",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("center_point_box"), attr::sizes(COUNT)],
    arity: (2, 5),
    infer: &infer_suppression,
    eval: Some(&eval_suppression),
    expand: None,
    weights: None,
    gradient: None,
};

/// `unique(x) {axis, sorted, count}`: ONNX Unique, opset 11: the elements or slices that differ, where each first
/// stands, which of them each is, and how often it stands there.
pub static UNIQUE: OpDef = OpDef {
    name: "unique",
    onnx: "Unique",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::int("sorted"), attr::sizes(COUNT)],
    arity: (1, 1),
    infer: &infer_unique,
    eval: Some(&eval_unique),
    expand: None,
    weights: None,
    gradient: None,
};

/// The most that the size may be which the data of a use of `def` tell; `None` where there is no such size, because
/// `def` is none of these operators or what decides it is constant.
///
/// # Errors
/// An operand is missing or refused.
pub fn bound(def: &OpDef, infer: &Infer<'_>) -> Result<Option<Dim>, OpError> {
    let is = |other: &OpDef| std::ptr::eq(def, other);
    let is_constant = |slot: usize| infer.constant(slot).is_some();
    if !def.has_attr(COUNT)
        || infer.attrs.get(COUNT).is_some()
        || (0..infer.inputs.len()).all(|slot| infer.inputs[slot].is_none() || is_constant(slot))
    {
        return Ok(None);
    }
    if is(&COMPRESS) {
        return Ok((!is_constant(1)).then_some(Dim::least(&infer.ty(1)?.shape.volume(), &kept_of(infer)?.1)));
    }
    if is(&NON_MAX_SUPPRESSION) {
        let (batches, classes, n) = boxes(infer)?;
        let most = infer.constant(2).map(|t| limit(Some(t))).transpose()?;
        let each = most.map_or(n.clone(), |most| Dim::least(&n, &Dim::from(most)));
        // Without that operand there is no result.
        return Ok((infer.inputs.len() > 2 && infer.inputs[2].is_some())
            .then(|| &(&batches * &classes) * &each)
            .or(Some(Dim::Known(0))));
    }
    if is(&UNIQUE) {
        return unique_axis(infer).map(|(_, n)| Some(n));
    }
    Ok(is(&NON_ZERO).then_some(infer.ty(0)?.shape.volume()))
}

/// The size that the data tell; `None` where no attribute holds it.
fn count(infer: &Infer<'_>) -> Result<Option<Dim>, OpError> {
    match infer.attrs.get(COUNT) {
        None => Ok(None),
        Some(Attr::Dims(dims)) => match dims.as_slice() {
            [dim]
                if dim.told().is_some_and(|symbol| Dim::from(symbol.clone()) == *dim)
                    || dim.known().is_some_and(|n| n >= 0) =>
            {
                Ok(Some(dim.clone()))
            }
            _ => Err(OpError::attribute(COUNT, format!("is {dims:?}, not one symbol"))),
        },
        Some(_) => Err(OpError::attribute(COUNT, "is no size")),
    }
}

/// The types of the results of constants.
fn folded(infer: &Infer<'_>, eval: EvalFn) -> Result<Vec<TensorType>, OpError> {
    if let Some(slot) =
        (0..infer.inputs.len()).find(|&slot| infer.inputs[slot].is_some() && infer.constant(slot).is_none())
    {
        return Err(OpError::NotConstant { slot });
    }
    Ok(eval(infer.attrs, infer.consts)?.iter().map(|t| t.ty().clone()).collect())
}

fn numbers<'a>(infer: &Infer<'a>, slot: usize) -> Result<&'a TensorType, OpError> {
    let x = infer.ty(slot)?;
    if x.packing.is_some() || x.dtype.class() == Class::Text {
        Err(OpError::operand(slot, x, "numbers"))
    } else {
        Ok(x)
    }
}

fn infer_non_zero(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = numbers(infer, 0)?;
    let Some(count) = count(infer)? else { return folded(infer, &eval_non_zero) };
    Ok(vec![TensorType::new(DType::I64, Shape(vec![Dim::from(x.shape.rank()), count]))])
}

/// Which elements are not zero, in order.
fn places(x: &Tensor) -> Result<Vec<usize>, OpError> {
    let is_set: Vec<bool> = if x.dtype().is_float() {
        x.to_f64s()?.iter().map(|v| *v != 0.0).collect()
    } else {
        x.to_i64s()?.iter().map(|v| *v != 0).collect()
    };
    Ok(is_set.iter().enumerate().filter(|(_, is_set)| **is_set).map(|(i, _)| i).collect())
}

fn eval_non_zero(_: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let (dims, places) = (x.dims(), places(x)?);
    let strides = strides(&dims);
    let axis = |(stride, size): (&usize, &usize)| places.iter().map(|p| (p / stride % size) as i64).collect::<Vec<_>>();
    let values: Vec<i64> = strides.iter().zip(&dims).flat_map(axis).collect();
    Ok(vec![Tensor::from_i64s(DType::I64, &[dims.len(), places.len()], &values)?])
}

/// The axis of a Compress, `None` for all elements in one row, and how many there are along it.
fn kept_of(infer: &Infer<'_>) -> Result<(Option<usize>, Dim), OpError> {
    let (x, condition) = (numbers(infer, 0)?, numbers(infer, 1)?);
    let axis = infer.attrs.int("axis").map(|_| axis_attr(infer.attrs, 0, x.shape.rank())).transpose()?;
    let n = axis.map_or_else(|| x.shape.volume(), |axis| x.shape.0[axis].clone());
    // A shorter condition leaves the rest out; one that is longer at some sizes is found by the check of what it
    // chooses.
    if condition.shape.rank() != 1 || condition.shape.0[0].bounds().0 > n.bounds().1 {
        return Err(OpError::operand(1, condition, format!("at most {n} truth values")));
    }
    Ok((axis, n))
}

fn infer_compress(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, (axis, _)) = (numbers(infer, 0)?, kept_of(infer)?);
    let n = match (count(infer)?, infer.constant(1)) {
        (Some(count), _) => count,
        (None, Some(condition)) => Dim::from(places(condition)?.len()),
        (None, None) => return Err(OpError::NotConstant { slot: 1 }),
    };
    let shape = match axis {
        None => vec![n],
        Some(axis) => [&x.shape.0[..axis], &[n], &x.shape.0[axis + 1..]].concat(),
    };
    Ok(vec![TensorType::new(x.dtype, Shape(shape))])
}

fn expand_compress(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, condition) = (e.input(0)?, e.input(1)?);
    let ty = e.ty(x);
    let axis = e.attrs.int("axis").map(|_| axis_attr(e.attrs, 0, ty.shape.rank())).transpose()?;
    let x = if axis.is_none() { reshape::to(e, x, vec![ty.shape.volume()])? } else { x };
    let indices = match e.attrs.dims(COUNT) {
        Some(count) => {
            let count = count.to_vec();
            let found = e.add(&NON_ZERO, Attrs::new().with_dims(COUNT, count.clone()), &[condition])?;
            reshape::to(e, found, count)?
        }
        None => {
            let known = e.edit.constant(condition).ok_or(OpError::NotConstant { slot: 1 })?;
            let kept: Vec<i64> = places(known)?.into_iter().map(|i| i as i64).collect();
            e.constant(Tensor::from_i64s(DType::I64, &[kept.len()], &kept)?)
        }
    };
    let axis = axis.unwrap_or(0);
    // Only a condition that is longer than the axis may choose what is not there.
    let is_short = e.ty(condition).shape.volume().bounds().1 <= e.ty(x).shape.0[axis].bounds().0;
    Ok(vec![if is_short { gather_within(e, x, indices, axis) } else { gather(e, x, indices, axis) }?])
}

/// Batches, classes and boxes.
fn boxes(infer: &Infer<'_>) -> Result<(Dim, Dim, Dim), OpError> {
    let (boxes, scores) = (numbers(infer, 0)?, numbers(infer, 1)?);
    let [batches, n, Dim::Known(4)] = &boxes.shape.0[..] else {
        return Err(OpError::operand(0, boxes, "boxes [batch, n, 4]"));
    };
    match &scores.shape.0[..] {
        [own, classes, each] if own == batches && each == n => Ok((batches.clone(), classes.clone(), n.clone())),
        _ => Err(OpError::operand(1, scores, format!("scores [{batches}, classes, {n}]"))),
    }
}

/// The most boxes of a class: operand 2, 0 where it is absent.
fn limit(operand: Option<&Tensor>) -> Result<usize, OpError> {
    let n = operand.map(Tensor::to_i64s).transpose()?.and_then(|list| list.first().copied()).unwrap_or(0);
    Ok(usize::try_from(n.max(0)).unwrap_or(usize::MAX))
}

fn infer_suppression(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    boxes(infer)?;
    let Some(count) = count(infer)? else { return folded(infer, &eval_suppression) };
    Ok(vec![TensorType::new(DType::I64, Shape(vec![count, Dim::Known(3)]))])
}

/// The corners of a box: least y and x, most y and x.
fn corners(given: &[f32], center: bool) -> [f32; 4] {
    match (given, center) {
        (&[x, y, width, height], true) => [y - height / 2.0, x - width / 2.0, y + height / 2.0, x + width / 2.0],
        (&[y1, x1, y2, x2], false) => [y1.min(y2), x1.min(x2), y1.max(y2), x1.max(x2)],
        _ => [0.0; 4],
    }
}

/// Whether the intersection of two boxes is more than `threshold` of their union.
fn overlap(a: &[f32; 4], b: &[f32; 4], threshold: f32) -> bool {
    let (height, width) = (a[2].min(b[2]) - a[0].max(b[0]), a[3].min(b[3]) - a[1].max(b[1]));
    if height <= 0.0 || width <= 0.0 {
        return false;
    }
    let area = |of: &[f32; 4]| (of[2] - of[0]) * (of[3] - of[1]);
    let (own, other, both) = (area(a), area(b), height * width);
    let union = own + other - both;
    own > 0.0 && other > 0.0 && union > 0.0 && both / union > threshold
}

fn eval_suppression(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (given, scores) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let optional = |slot: usize| inputs.get(slot).copied().flatten();
    let number = |slot: usize| {
        Ok::<_, OpError>(optional(slot).map(Tensor::to_f32s).transpose()?.and_then(|list| list.first().copied()))
    };
    let most = limit(optional(2))?;
    let (iou, least_score) = (number(3)?.unwrap_or(0.0), number(4)?);
    let center = attrs.int("center_point_box").unwrap_or(0) != 0;
    let (&[batches, n, 4], &[own, classes, each]) = (&given.dims()[..], &scores.dims()[..]) else {
        return Err(OpError::operand(0, given.ty(), "boxes [batch, n, 4] and scores [batch, classes, n]"));
    };
    if own != batches || each != n {
        return Err(OpError::operand(1, scores.ty(), format!("scores [{batches}, classes, {n}]")));
    }
    let boxes: Vec<[f32; 4]> = given.to_f32s()?.chunks_exact(4).map(|one| corners(one, center)).collect();
    let scores = scores.to_f32s()?;
    let mut found = Vec::new();
    for batch in 0..batches {
        for class in 0..classes {
            let scores = &scores[(batch * classes + class) * n..][..n];
            let boxes = &boxes[batch * n..][..n];
            let mut order: Vec<usize> = (0..n).filter(|&i| least_score.is_none_or(|least| scores[i] > least)).collect();
            // Of equal scores the first comes first.
            order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
            let mut kept: Vec<usize> = Vec::new();
            for i in order {
                if kept.len() >= most {
                    break;
                }
                if !kept.iter().any(|&other| overlap(&boxes[i], &boxes[other], iou)) {
                    kept.push(i);
                }
            }
            found.extend(kept.into_iter().flat_map(|i| [batch as i64, class as i64, i as i64]));
        }
    }
    Ok(vec![Tensor::from_i64s(DType::I64, &[found.len() / 3, 3], &found)?])
}

/// The axis of a Unique, `None` for all elements in one row, and how many there are along it.
fn unique_axis(infer: &Infer<'_>) -> Result<(Option<usize>, Dim), OpError> {
    let x = numbers(infer, 0)?;
    let axis = infer.attrs.int("axis").map(|_| axis_attr(infer.attrs, 0, x.shape.rank())).transpose()?;
    Ok((axis, axis.map_or_else(|| x.shape.volume(), |axis| x.shape.0[axis].clone())))
}

fn infer_unique(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, (axis, n)) = (numbers(infer, 0)?, unique_axis(infer)?);
    let Some(count) = count(infer)? else { return folded(infer, &eval_unique) };
    let mut shape = if axis.is_some() { x.shape.clone() } else { Shape(vec![n.clone()]) };
    shape.0[axis.unwrap_or(0)] = count.clone();
    let list = |n: Dim| TensorType::new(DType::I64, Shape(vec![n]));
    Ok(vec![TensorType::new(x.dtype, shape), list(count.clone()), list(n), list(count)])
}

fn eval_unique(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
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
