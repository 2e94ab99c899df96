//! Convolutions with channels first on the CPU.

use super::{Sizes, sizes};
use crate::ir::{Attrs, DType, OpError, Tensor};
use crate::ops::core::{conv_nhwc, layout};
use crate::ops::reference::multiply::{self, Matrix};
use crate::ops::reference::packed_view::{PackedView, dot_blocks};
use crate::ops::reference::real::Real;
use crate::ops::util::{between, finish_floats, is_double, n_elems, operand, split_own, stored};
use rayon::prelude::*;

/// Pixels of one parallel task.
const PIXELS: usize = 1024;

pub(super) fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    if layout::is_nhwc(attrs)? {
        return conv_nhwc::eval(attrs, own, extra);
    }
    let (x, w) = (operand(own, 0)?, operand(own, 1)?);
    if own.len() > 2 {
        return eval_parts(attrs, own, extra);
    }
    let s = sizes(attrs, x, w)?;
    let dims = [s.batch, s.out_channels, s.out_height, s.out_width];
    if is_double(attrs, own) {
        let mut out = vec![0.0f64; n_elems(&dims)?];
        direct(&s, &x.to_f64s()?, &w.to_f64s()?, &mut out);
        return finish_floats(attrs, &dims, out, stored(x.ty()), extra);
    }
    let mut out = vec![0.0f32; n_elems(&dims)?];
    if let (Some(x), Some(w)) = (PackedView::of(x)?, PackedView::of(w)?) {
        packed(&s, &x, &w, &mut out);
        return finish_floats(attrs, &dims, out, DType::F32, extra);
    }
    let (x_data, w_data) = (x.to_f32s()?, w.to_f32s()?);
    if s.out_channels / s.group < 4 {
        direct(&s, &x_data, &w_data, &mut out);
    } else {
        columns(&s, &x_data, &w_data, &mut out)?;
    }
    finish_floats(attrs, &dims, out, stored(x.ty()), extra)
}

/// The convolution with each part, channels one after the other.
fn eval_parts(attrs: &Attrs, own: &[Option<&Tensor>], extra: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(own, 0)?;
    let mut alone = attrs.clone().with_dtype("dtype", between(x.dtype()));
    alone.0.remove("epilogue");
    let mut results = Vec::new();
    for slot in 1..own.len() {
        results.extend(eval(&alone, &[Some(x), Some(operand(own, slot)?)])?);
    }
    let mut dims = results.first().map(Tensor::dims).unwrap_or_default();
    let [images, channels, ..] = &mut dims[..] else { return Err(OpError::MissingOperand { slot: 1 }) };
    *channels = results.iter().map(|part| part.dims()[1]).sum();
    let images = *images;
    if is_double(attrs, own) {
        joined::<f64>(&results, images, &dims, attrs, (x, extra))
    } else {
        joined::<f32>(&results, images, &dims, attrs, (x, extra))
    }
}

/// The channels of all parts, image by image.
fn joined<F: Real>(
    results: &[Tensor],
    images: usize,
    dims: &[usize],
    attrs: &Attrs,
    (x, extra): (&Tensor, &[Option<&Tensor>]),
) -> Result<Vec<Tensor>, OpError> {
    let mut out = Vec::with_capacity(n_elems(dims)?);
    let data: Vec<_> = results.iter().map(F::elements).collect::<Result<_, _>>()?;
    for image in 0..images {
        for part in &data {
            let size = part.len() / images;
            out.extend_from_slice(&part[image * size..][..size]);
        }
    }
    finish_floats(attrs, dims, out, stored(x.ty()), extra)
}

/// Few filters a group, above all depthwise, and f64: each output plane is a sum of shifted input planes.
fn direct<F: Real>(s: &Sizes, x: &[F], w: &[F], out: &mut [F]) {
    let (channels, filters, plane) = (s.channels / s.group, s.out_channels / s.group, s.height * s.width);
    let [kh, kw] = s.plain.kernel;
    out.par_chunks_mut(s.pixels().max(1)).enumerate().for_each(|(at, out)| {
        let (n, oc) = (at / s.out_channels, at % s.out_channels);
        let first = n * s.channels + oc / filters * channels;
        for (tap, &weight) in w[oc * s.depth()..(oc + 1) * s.depth()].iter().enumerate() {
            let (c, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            let x = &x[(first + c) * plane..(first + c + 1) * plane];
            let (y0, y1) = s.plain.span(0, ky, s.height, s.out_height);
            let (x0, x1) = s.plain.span(1, kx, s.width, s.out_width);
            if x0 == x1 {
                continue;
            }
            for y in y0..y1 {
                let row = &x[s.plain.element(0, ky, y) * s.width..][..s.width];
                let row = &row[s.plain.element(1, kx, x0)..];
                let out = &mut out[y * s.out_width + x0..y * s.out_width + x1];
                if s.plain.strides[1] == 1 {
                    out.iter_mut().zip(row).for_each(|(out, x)| *out += weight * *x);
                } else {
                    out.iter_mut().zip(row.iter().step_by(s.plain.strides[1])).for_each(|(out, x)| *out += weight * *x);
                }
            }
        }
    });
}

/// Blocks of pixels: their windows side by side as columns of a matrix, which all filters of a group multiply.
fn columns(s: &Sizes, x: &[f32], w: &[f32], out: &mut [f32]) -> Result<(), OpError> {
    let (depth, filters, pixels) = (s.depth(), s.out_channels / s.group, s.pixels());
    if pixels == 0 || depth == 0 {
        return Ok(());
    }
    // Few pixels and many filters, as in the last layers: tasks share filters out instead.
    let blocks = pixels.div_ceil(PIXELS);
    let share = if blocks < 4 && filters >= 256 { filters.div_ceil(4) } else { filters };
    let plane = s.height * s.width;
    let pointwise = s.plain.kernel == [1, 1] && s.plain.strides == [1, 1] && plane == pixels;
    for (image, out) in out.chunks_exact_mut(filters * pixels).enumerate() {
        let (n, g) = (image / s.group, image % s.group);
        let x = &x[(n * s.channels + g * (s.channels / s.group)) * plane..][..s.channels / s.group * plane];
        let tasks: Vec<(usize, usize)> =
            (0..filters.div_ceil(share)).flat_map(|f| (0..blocks).map(move |b| (f * share, b * PIXELS))).collect();
        let parts: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|&(filter, pixel)| {
                let (rows, width) = (share.min(filters - filter), PIXELS.min(pixels - pixel));
                let mut part = vec![0.0; rows * width];
                let w = Matrix { data: &w[(g * filters + filter) * depth..], row: depth, col: 1 };
                if pointwise {
                    multiply::multiply(
                        rows,
                        depth,
                        width,
                        w,
                        Matrix { data: &x[pixel..], row: plane, col: 1 },
                        &mut part,
                    )?;
                } else {
                    let unfolded = unfold(s, x, pixel, width, 0.0);
                    multiply::multiply(
                        rows,
                        depth,
                        width,
                        w,
                        Matrix { data: &unfolded, row: width, col: 1 },
                        &mut part,
                    )?;
                }
                Ok(part)
            })
            .collect::<Result<_, OpError>>()?;
        for (i, strip) in parts.chunks(blocks).enumerate() {
            let rows = strip.first().map_or(0, |p| p.len() / PIXELS.min(pixels));
            multiply::scatter(&mut out[i * share * pixels..][..rows * pixels], pixels, 0, strip);
        }
    }
    Ok(())
}

/// The windows of `width` pixels from `first` of one group's planes `x`: element `[tap, pixel]`, `fill` where it is
/// in the padding.
fn unfold<T: Copy>(s: &Sizes, x: &[T], first: usize, width: usize, fill: T) -> Vec<T> {
    let [kh, kw] = s.plain.kernel;
    let mut columns = vec![fill; s.depth() * width];
    for (tap, row) in columns.chunks_exact_mut(width).enumerate() {
        let (c, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
        let (y0, y1) = s.plain.span(0, ky, s.height, s.out_height);
        let (x0, x1) = s.plain.span(1, kx, s.width, s.out_width);
        for y in y0.max(first / s.out_width)..y1.min((first + width).div_ceil(s.out_width)) {
            // The part of this output row that is inside the block.
            let from = (y * s.out_width + x0).max(first);
            let to = (y * s.out_width + x1).min(first + width);
            if from >= to {
                continue;
            }
            let start =
                (c * s.height + s.plain.element(0, ky, y)) * s.width + s.plain.element(1, kx, from - y * s.out_width);
            let source = &x[start..];
            let target = &mut row[from - first..to - first];
            if s.plain.strides[1] == 1 {
                target.copy_from_slice(&source[..to - from]);
            } else {
                target.iter_mut().zip(source.iter().step_by(s.plain.strides[1])).for_each(|(t, x)| *t = *x);
            }
        }
    }
    columns
}

/// Codes times codes: i32 within each block of w's scales, then f32, then x's one scale.
fn packed(s: &Sizes, x: &PackedView, w: &PackedView, out: &mut [f32]) {
    let (depth, filters, pixels) = (s.depth(), s.out_channels / s.group, s.pixels());
    if pixels == 0 || depth == 0 {
        return;
    }
    let codes: Vec<i8> = (0..x.layout.n_rows).flat_map(|row| x.row(row)).copied().collect();
    let scale = x.scales(0).first().copied().unwrap_or(1.0);
    let plane = s.height * s.width;
    for (image, out) in out.chunks_exact_mut(filters * pixels).enumerate() {
        let (n, g) = (image / s.group, image % s.group);
        let x = &codes[(n * s.channels + g * (s.channels / s.group)) * plane..][..s.channels / s.group * plane];
        let blocks: Vec<(usize, Vec<i8>)> = (0..pixels.div_ceil(PIXELS))
            .into_par_iter()
            .map(|b| {
                let width = PIXELS.min(pixels - b * PIXELS);
                let unfolded = unfold(s, x, b * PIXELS, width, 0);
                let mut transposed = vec![0i8; unfolded.len()];
                for (tap, row) in unfolded.chunks_exact(width).enumerate() {
                    row.iter().enumerate().for_each(|(pixel, code)| transposed[pixel * depth + tap] = *code);
                }
                (b * PIXELS, transposed)
            })
            .collect();
        out.par_chunks_exact_mut(pixels).enumerate().for_each(|(f, out)| {
            let filter = g * filters + f;
            for (first, windows) in &blocks {
                for (out, window) in out[*first..].iter_mut().zip(windows.chunks_exact(depth)) {
                    *out = dot_blocks(window, w.row(filter), w.layout.unit_cols, w.scales(filter)) * scale;
                }
            }
        });
    }
}
