//! ONNX Pad: a tensor with more around it.

use crate::ir::expr::build::{arg, select};
use crate::ir::{
    Attrs, DType, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Val, attr, resolve_axis,
};
use crate::ops::core::reshape;
use crate::ops::core::strided::{Fill, View, row_major, view};

/// `pad(x, pads, value?, axes?) {mode}`: ONNX Pad, opset 21.
pub static DEF: OpDef = OpDef {
    name: "pad",
    onnx: "Pad",
    levels: ONNX,
    attrs: &[attr::text("mode")],
    arity: (2, 4),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

/// Elements added before and after each axis.
fn pads(shape: &Shape, given: Option<Vec<i64>>, axes: Option<Vec<i64>>) -> Result<Vec<(i64, i64)>, OpError> {
    let given = given.ok_or(OpError::MissingOperand { slot: 1 })?;
    let axes = axes.unwrap_or_else(|| (0..shape.rank() as i64).collect());
    if given.len() != axes.len() * 2 || given.iter().any(|p| !(-(1 << 31)..=1 << 31).contains(p)) {
        return Err(OpError::operand(1, format!("{given:?}"), format!("two counts for each of {} axes", axes.len())));
    }
    let mut pads = vec![(0, 0); shape.rank()];
    for (i, axis) in axes.iter().enumerate() {
        let axis =
            resolve_axis(*axis, shape.rank()).ok_or_else(|| OpError::operand(3, axis, format!("axes of {shape}")))?;
        pads[axis] = (given[i], given[axes.len() + i]);
    }
    Ok(pads)
}

fn mode(attrs: &Attrs) -> Result<&str, OpError> {
    match attrs.str("mode").unwrap_or("constant") {
        mode @ ("constant" | "reflect" | "edge" | "wrap") => Ok(mode),
        other => Err(OpError::attribute("mode", format!("is {other:?}"))),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    mode(infer.attrs)?;
    let pads = pads(&x.shape, infer.ints(1)?, infer.ints(3)?)?;
    let dims: Vec<Dim> = x.shape.0.iter().zip(&pads).map(|(d, (a, b))| d + &Dim::Known(a + b)).collect();
    if x.packing.is_some() || dims.iter().any(|d| d.known().is_some_and(|n| n < 0)) {
        return Err(OpError::operand(0, x, format!("a tensor that can lose {pads:?}")));
    }
    Ok(vec![TensorType::new(x.dtype, Shape(dims))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let dims = e.ty(x).shape.0;
    let pads = pads(&Shape(dims.clone()), e.ints(1)?, e.ints(3)?)?;
    if pads.iter().all(|p| *p == (0, 0)) {
        return Ok(vec![x]);
    }
    if mode(e.attrs)? != "constant" {
        return expand_mirrored(e, x, &pads);
    }
    let fill = match e.optional(2) {
        None => Fill::default(),
        Some(value) => match e.edit.constant(value) {
            Some(tensor) if is_f32(tensor)? => Fill::first(tensor)?,
            _ => return expand_filled(e, x, &pads, value),
        },
    };
    Ok(vec![padded(e, x, &pads, fill)?])
}

/// Whether a fill is one that the attribute holds.
fn is_f32(tensor: &Tensor) -> Result<bool, OpError> {
    let is_kept = |v: &f64| v.is_nan() || f64::from(*v as f32) == *v;
    Ok(tensor.dtype() != DType::F64 || tensor.to_f64s()?.first().is_none_or(is_kept))
}

/// A fill that is computed, or that no f32 is: chosen wherever a padded tensor of ones has none.
fn expand_filled(e: &mut Expand<'_, '_>, x: Val, pads: &[(i64, i64)], value: Val) -> Result<Vec<Val>, OpError> {
    let ty = e.ty(x);
    let one = e.constant(Tensor::from_f32s(DType::F32, &[1], &[1.0])?);
    let ones = crate::ops::onnx::movement::broadcast_to(e, one, ty.shape.0)?;
    let (inside, y) = (padded(e, ones, pads, Fill::default())?, padded(e, x, pads, Fill::default())?);
    let value = reshape::to(e, value, Vec::new())?;
    Ok(vec![crate::ops::core::pointwise::add(
        e,
        select(arg(1).above(0.5), arg(0), arg(2)),
        ty.dtype,
        &[y, inside, value],
    )?])
}

/// `x` with elements `fill` before and after each axis, or with fewer where a count is negative.
///
/// # Errors
/// Nothing is left along an axis.
pub fn padded(e: &mut Expand<'_, '_>, x: Val, pads: &[(i64, i64)], fill: Fill) -> Result<Val, OpError> {
    let dims = e.ty(x).shape.0;
    let shape: Vec<Dim> = dims.iter().zip(pads).map(|(d, (before, after))| d + &Dim::Known(before + after)).collect();
    if shape.iter().zip(pads).any(|(d, (a, b))| *d == Dim::Known(0) && (*a, *b) != (0, 0)) {
        return Err(OpError::unsupported("a pad that leaves nothing"));
    }
    let strides = row_major(&dims);
    let offset =
        pads.iter().zip(&strides).fold(Dim::Known(0), |sum, ((before, _), s)| &sum - &(&Dim::Known(*before) * s));
    let lo = pads.iter().map(|(before, _)| Dim::Known((*before).max(0))).collect();
    let hi = pads.iter().zip(&dims).map(|((before, _), d)| d + &Dim::Known(*before)).collect();
    view(e, x, &View { shape, strides, offset: Some(offset), inside: Some((lo, hi)), fill })
}

/// Pads that repeat elements: one `gather` an axis.
fn expand_mirrored(e: &mut Expand<'_, '_>, x: Val, pads: &[(i64, i64)]) -> Result<Vec<Val>, OpError> {
    let mode = mode(e.attrs)?.to_owned();
    let mut y = x;
    for (axis, &(before, after)) in pads.iter().enumerate() {
        if (before, after) == (0, 0) {
            continue;
        }
        let dim = e.ty(y).shape.0[axis].clone();
        let n = dim
            .known()
            .filter(|n| (1..=1 << 31).contains(n))
            .ok_or_else(|| OpError::operand(0, e.ty(x), "a known size that is not 0"))?;
        let place = |i: i64| match mode.as_str() {
            "edge" => i.clamp(0, n - 1),
            "wrap" => i.rem_euclid(n),
            _ if n == 1 => 0,
            _ => {
                let i = i.rem_euclid(2 * (n - 1));
                i.min(2 * (n - 1) - i)
            }
        };
        // The indices become a constant: 64 MiB of it at most.
        let count = n.checked_add(before).and_then(|sum| sum.checked_add(after));
        let (Some(0..=0x80_0000), Some(start), Some(end)) = (count, before.checked_neg(), n.checked_add(after)) else {
            return Err(OpError::operand(1, format!("{pads:?}"), "fewer elements"));
        };
        let indices: Vec<i64> = (start..end).map(place).collect();
        let indices = e.constant(Tensor::from_i64s(DType::I64, &[indices.len()], &indices)?);
        y = e.add(&crate::ops::core::gather::DEF, Attrs::new().with_int("axis", axis as i64), &[y, indices])?;
    }
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![reshape::to(e, y, shape)?])
}
