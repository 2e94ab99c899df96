//! Convolutions over one and three axes, and biases, written in convolutions over two.

use super::{DEF, window};
use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Dim, Expand, OpError, Shape, Val};
use crate::ops::compose::{along, dims, sizes};
use crate::ops::core::strided::{Fill, View, row_major, view};
use crate::ops::core::window::Window;
use crate::ops::core::{pointwise, reshape};
use crate::ops::onnx::movement::transpose;
use crate::ops::onnx::pad::padded;

pub(super) fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, w) = (e.input(0)?, e.input(1)?);
    let (x_ty, w_ty) = (e.ty(x), e.ty(w));
    let window = window(e.attrs, &w_ty.shape, &x_ty.shape.0[2..])?;
    if window.kernel.len() == 3 {
        let y = deep(e, x, w, &window, e.attrs.int("group").unwrap_or(1))?;
        let Some(bias) = e.optional(2) else { return Ok(vec![y]) };
        let bias = along(e, bias, 5, 1)?;
        let dtype = e.outputs[0].dtype;
        return Ok(vec![pointwise::add(e, arg(0) + arg(1), dtype, &[y, bias])?]);
    }
    let mut attrs = window.flat().write(Attrs::new()).with_int("group", e.attrs.int("group").unwrap_or(1));
    if let Some(dtype) = e.attrs.dtype("dtype") {
        attrs = attrs.with_dtype("dtype", dtype);
    }
    let plane = |shape: &Shape| [&shape.0[..2], &[Dim::Known(1)], &shape.0[2..]].concat();
    let flat = window.kernel.len() == 1;
    let (x, w) = if flat {
        (
            reshape::to(e, x, plane(&x_ty.shape))?,
            if w_ty.packing.is_some() { w } else { reshape::to(e, w, plane(&w_ty.shape))? },
        )
    } else {
        (x, w)
    };
    let mut y = e.add(&DEF, attrs, &[x, w])?;
    if let Some(bias) = e.optional(2) {
        let oc = e.ty(bias).shape.0[0].clone();
        let bias = reshape::to(e, bias, vec![Dim::Known(1), oc, Dim::Known(1), Dim::Known(1)])?;
        let dtype = e.outputs[0].dtype;
        y = pointwise::add(e, arg(0) + arg(1), dtype, &[y, bias])?;
    }
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![reshape::to(e, y, shape)?])
}

/// Most elements of a kernel along its first of three axes.
const MAX_DEPTH: i64 = 64;

/// A convolution over three axes, as a sum of convolutions over two: one for each place along the first axis of the
/// kernel.
///
/// # Errors
/// A size is not known, or the kernel is too deep.
pub fn deep(e: &mut Expand<'_, '_>, x: Val, w: Val, window: &Window, group: i64) -> Result<Val, OpError> {
    let (dtype, w_dims) = (e.outputs[0].dtype, sizes(1, &e.ty(w))?);
    let spatial = e.ty(x).shape.0[2..].to_vec();
    let out = Shape(window.out(&spatial)?).known().ok_or_else(|| OpError::operand(0, e.ty(x), "known sizes"))?;
    if window.kernel[0] > MAX_DEPTH {
        return Err(OpError::over_limit("planes of a kernel", window.kernel[0], MAX_DEPTH));
    }
    let pads = [(0, 0), (0, 0), (window.pads[0], window.pads[3]), (0, 0), (0, 0)];
    let x = if window.pads[0] + window.pads[3] == 0 { x } else { padded(e, x, &pads, Fill::default())? };
    let own = sizes(0, &e.ty(x))?;
    let (rows, w_rows) = (row_major(&dims(&own)), row_major(&dims(&w_dims)));
    let flat = Window {
        kernel: window.kernel[1..].to_vec(),
        strides: window.strides[1..].to_vec(),
        pads: [&window.pads[1..3], &window.pads[4..]].concat(),
        dilations: window.dilations[1..].to_vec(),
        ceil: false,
    };
    let attrs = flat.write(Attrs::new()).with_int("group", group);
    let mut sum: Option<Val> = None;
    for tap in 0..window.kernel[0] {
        // The planes that this part of the kernel meets, each an image of its own.
        let shape = dims(&[own[0], out[0], own[1], own[3], own[4]]);
        let step = &rows[2] * &Dim::Known(window.strides[0]);
        let strides = vec![rows[0].clone(), step, rows[1].clone(), rows[3].clone(), rows[4].clone()];
        let offset = Some(&rows[2] * &Dim::Known(tap * window.dilations[0]));
        let planes = view(e, x, &View { shape, strides, offset, ..View::default() })?;
        let planes = reshape::to(e, planes, dims(&[own[0] * out[0], own[1], own[3], own[4]]))?;
        let shape = dims(&[w_dims[0], w_dims[1], w_dims[3], w_dims[4]]);
        let strides = vec![w_rows[0].clone(), w_rows[1].clone(), w_rows[3].clone(), w_rows[4].clone()];
        let filters =
            view(e, w, &View { shape, strides, offset: Some(&w_rows[2] * &Dim::Known(tap)), ..View::default() })?;
        let y = e.add(&DEF, attrs.clone(), &[planes, filters])?;
        sum = Some(match sum {
            Some(sum) => pointwise::add(e, arg(0) + arg(1), dtype, &[sum, y])?,
            None => y,
        });
    }
    let sum = sum.ok_or_else(|| OpError::operand(1, e.ty(w), "a kernel"))?;
    let y = reshape::to(e, sum, dims(&[own[0], out[0], w_dims[0], out[1], out[2]]))?;
    transpose(e, y, &[0, 2, 1, 3, 4])
}
