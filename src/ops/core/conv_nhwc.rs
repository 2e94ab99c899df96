//! `conv` with channels last, on the CPU: the windows of pixels as rows of a matrix, which the filters multiply.

use crate::ir::{Attrs, OpError, Tensor};
use crate::ops::core::conv::{Sizes, sizes};
use crate::ops::reference::multiply::{self, Matrix};
use crate::ops::reference::packed_view::{PackedView, dot_blocks};
use crate::ops::util::{finish_floats, n_elems, operand, stored};
use rayon::prelude::*;

/// Pixels of one parallel task.
const PIXELS: usize = 256;

pub(crate) fn eval(attrs: &Attrs, own: &[Option<&Tensor>], extra: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(own, 0)?;
    let mut parts = Vec::new();
    for slot in 1..own.len() {
        let w = operand(own, slot)?;
        let sizes = sizes(attrs, x, w)?;
        parts.push((part(&sizes, x, w)?, sizes));
    }
    let channels = parts.iter().map(|(_, sizes)| sizes.out_channels).sum();
    let Some((_, first)) = parts.first() else { return Err(OpError::MissingOperand { slot: 1 }) };
    let dims = [first.batch, first.out_height, first.out_width, channels];
    let mut out = Vec::with_capacity(n_elems(&dims)?);
    for pixel in 0..first.batch * first.pixels() {
        for (values, sizes) in &parts {
            out.extend_from_slice(&values[pixel * sizes.out_channels..][..sizes.out_channels]);
        }
    }
    finish_floats(attrs, &dims, out, stored(x.ty()), extra)
}

/// All pixels of all images, the channels of one part of the filters each.
fn part(s: &Sizes, x: &Tensor, w: &Tensor) -> Result<Vec<f32>, OpError> {
    let mut out = vec![0.0f32; n_elems(&[s.batch * s.pixels(), s.out_channels])?];
    if out.is_empty() || s.depth() == 0 {
        return Ok(out);
    }
    let (own, filters) = (s.channels / s.group, s.out_channels / s.group);
    let packed = match (PackedView::of(x)?, PackedView::of(w)?) {
        (Some(x), Some(w)) => Some((x, w)),
        _ => None,
    };
    if let Some((x, w)) = packed {
        let codes: Vec<i8> = (0..x.layout.n_rows).flat_map(|row| x.row(row)).copied().collect();
        let scale = x.scales(0).first().copied().unwrap_or(1.0);
        out.par_chunks_mut(s.out_channels).enumerate().for_each(|(pixel, out)| {
            for group in 0..s.group {
                let window = windows(s, &codes, group, pixel, 1, 0);
                for (at, out) in out[group * filters..][..filters].iter_mut().enumerate() {
                    let filter = group * filters + at;
                    *out = dot_blocks(&window, w.row(filter), w.layout.unit_cols, w.scales(filter)) * scale;
                }
            }
        });
        return Ok(out);
    }
    let (x, w) = (x.to_f32s()?, w.to_f32s()?);
    out.par_chunks_mut(PIXELS * s.out_channels).enumerate().try_for_each(|(block, out)| {
        let (first, n) = (block * PIXELS, out.len() / s.out_channels);
        if own == 1 && filters == 1 {
            depthwise(s, &x, &w, first, out);
            return Ok::<(), OpError>(());
        }
        let mut product = vec![0.0f32; n * filters];
        for group in 0..s.group {
            let windows = windows(s, &x, group, first, n, 0.0);
            let w = Matrix { data: &w[group * filters * s.depth()..], row: 1, col: s.depth() };
            let rows = Matrix { data: &windows, row: s.depth(), col: 1 };
            multiply::multiply(n, s.depth(), filters, rows, w, &mut product)?;
            for (out, product) in out.chunks_exact_mut(s.out_channels).zip(product.chunks_exact(filters)) {
                out[group * filters..][..filters].copy_from_slice(product);
            }
        }
        Ok(())
    })?;
    Ok(out)
}

/// Calls `f(tap, first element of the pixel)` for each place of the window of a pixel that is inside of the image.
fn each_tap(s: &Sizes, pixel: usize, mut f: impl FnMut(usize, usize)) {
    let (image, y, x) = (pixel / s.pixels(), pixel % s.pixels() / s.out_width, pixel % s.out_width);
    let [kh, kw] = s.plain.kernel;
    let at = |axis: usize, position: usize, tap: usize, size: usize| {
        let padded = position * s.plain.strides[axis] + tap * s.plain.dilations[axis];
        padded.checked_sub(s.plain.pads[axis]).filter(|&at| at < size)
    };
    for ky in 0..kh {
        let Some(iy) = at(0, y, ky, s.height) else { continue };
        for kx in 0..kw {
            let Some(ix) = at(1, x, kx, s.width) else { continue };
            f(ky * kw + kx, ((image * s.height + iy) * s.width + ix) * s.channels);
        }
    }
}

/// The windows of `n` pixels from `first`, of one group's channels: `[pixel, tap, channel]`, `fill` where they are in
/// the padding.
fn windows<T: Copy>(s: &Sizes, x: &[T], group: usize, first: usize, n: usize, fill: T) -> Vec<T> {
    let own = s.channels / s.group;
    let mut all = vec![fill; n * s.depth()];
    for (pixel, window) in all.chunks_exact_mut(s.depth()).enumerate() {
        each_tap(s, first + pixel, |tap, at| {
            window[tap * own..][..own].copy_from_slice(&x[at + group * own..][..own]);
        });
    }
    all
}

/// One channel a group, one filter each: every channel by itself, all of a pixel side by side.
fn depthwise(s: &Sizes, x: &[f32], w: &[f32], first: usize, out: &mut [f32]) {
    let taps = s.depth();
    for (pixel, out) in out.chunks_exact_mut(s.channels).enumerate() {
        each_tap(s, first + pixel, |tap, at| {
            let x = &x[at..][..s.channels];
            out.iter_mut().zip(x).zip(w[tap..].iter().step_by(taps)).for_each(|((out, x), w)| *out += x * w);
        });
    }
}
