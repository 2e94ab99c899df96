//! The gradient of a convolution: a transposed convolution, and a convolution with batch and channels exchanged.

use super::{DEF, window};
use crate::ir::{Attrs, Differentiate, Gains, OpError};
use crate::ops::compose::{self, dims};
use crate::ops::core::window::Window;
use crate::ops::core::{layout, reshape};
use crate::ops::onnx::conv_transpose;
use crate::ops::onnx::movement::transpose;

/// The image gains the transposed convolution of the gain with the filters, and the filters what a convolution of the
/// image with the gain gives, batch and channels exchanged, steps and dilations too.
pub(super) fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (x, w, gain) = (d.input(0)?, d.input(1)?, d.gain()?);
    // Other numbers of axes, and biases, are written in this one.
    if d.ty(x).shape.rank() != 4 || d.inputs.len() != 2 {
        return Ok(Gains::Expanded);
    }
    let (x_dims, w_dims, y_dims) = (d.sizes(0)?, d.sizes(1)?, compose::sizes(0, &d.ty(gain))?);
    let &[_, own, kh, kw] = &w_dims[..] else { return Err(OpError::operand(1, d.ty(w), "[OC,C/group,kh,kw]")) };
    if layout::is_nhwc(d.attrs)? {
        return Err(OpError::unsupported("the derivative of a convolution with channels last"));
    }
    let window = window(d.attrs, &d.ty(w).shape, &d.ty(x).shape.0[2..])?;
    let group = d.attrs.int("group").unwrap_or(1);
    let groups = usize::try_from(group).unwrap_or(1).max(1);
    let mut parts = vec![None, None];
    if d.wants(0) {
        // What the last steps leave of the image gains nothing.
        let left = |i: usize| {
            (x_dims[2 + i] as i64 + window.pads[i] + window.pads[2 + i] - window.extent(i)) % window.strides[i]
        };
        let attrs = Attrs::new().with_int("group", group).with_ints("output_padding", [left(0), left(1)]);
        let attrs = attrs.with_ints("strides", window.strides.clone()).with_ints("pads", window.pads.clone());
        let attrs = attrs.with_ints("dilations", window.dilations.clone());
        parts[0] = Some(d.add(&conv_transpose::DEF, attrs, &[gain, w])?);
    }
    if d.wants(1) {
        let (n, h, wide) = (x_dims[0], x_dims[2], x_dims[3]);
        let by_group = reshape::to(d, x, dims(&[n, groups, own, h, wide]))?;
        let transposed = transpose(d, by_group, &[2, 1, 0, 3, 4])?;
        let images = reshape::to(d, transposed, dims(&[own, groups * n, h, wide]))?;
        let filters = transpose(d, gain, &[1, 0, 2, 3])?;
        let flipped = Window {
            kernel: vec![y_dims[2] as i64, y_dims[3] as i64],
            strides: window.dilations.clone(),
            pads: window.pads.clone(),
            dilations: window.strides.clone(),
            ceil: false,
        };
        let y = d.add(&DEF, flipped.write(Attrs::new()).with_int("group", group), &[images, filters])?;
        // Places that the last steps leave are more than the kernel has.
        let y = compose::part(d, y, 2, 0, kh as i64)?;
        let y = compose::part(d, y, 3, 0, kw as i64)?;
        parts[1] = Some(transpose(d, y, &[1, 0, 2, 3])?);
    }
    Ok(Gains::Are(parts))
}
