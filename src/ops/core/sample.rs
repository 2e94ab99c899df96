//! Operators that read images at computed places, or write overlapping windows. They have a CPU reference but no kernel
//! yet.

use crate::ir::{
    Attrs, CORE, Class, DType, Dim, IndexFault, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr,
};
use crate::ops::core::pointwise::Real;
use crate::ops::core::window::Window;
use crate::ops::util::{finish_floats, is_double, n_elems, operand, strides};
use rayon::prelude::*;

/// `grid_sample(x, grid) {mode, padding_mode, align_corners}`: ONNX GridSample, opset 22: x `[N,C,...]`, the grid
/// `[N,...,n]` with n coordinates from -1 to 1, innermost axis first.
pub static GRID_SAMPLE: OpDef = OpDef {
    name: "grid_sample",
    onnx: "GridSample",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::text("mode"), attr::text("padding_mode"), attr::int("align_corners")],
    arity: (2, 2),
    infer: &infer_grid,
    eval: Some(&eval_grid),
    expand: None,
    weights: None,
    gradient: None,
};

/// `roi_align(x, rois, batch_indices) {...}`: ONNX RoiAlign, opset 22.
pub static ROI_ALIGN: OpDef = OpDef {
    name: "roi_align",
    onnx: "RoiAlign",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::text("coordinate_transformation_mode"),
        attr::text("mode"),
        attr::int("output_height"),
        attr::int("output_width"),
        attr::int("sampling_ratio"),
        attr::float("spatial_scale"),
    ],
    arity: (3, 3),
    infer: &infer_roi,
    eval: Some(&eval_roi),
    expand: None,
    weights: None,
    gradient: None,
};

/// `deform_conv(x, w, offset, bias?, mask?) {...}`: ONNX DeformConv, opset 22, over two spatial axes.
pub static DEFORM_CONV: OpDef = OpDef {
    name: "deform_conv",
    onnx: "DeformConv",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::ints("kernel_shape"),
        attr::ints("strides"),
        attr::ints("pads"),
        attr::ints("dilations"),
        attr::int("group"),
        attr::int("offset_group"),
    ],
    arity: (3, 5),
    infer: &infer_deform,
    eval: Some(&eval_deform),
    expand: None,
    weights: None,
    gradient: None,
};

/// `col2im(x, image, block) {strides, pads, dilations}`: ONNX Col2Im, opset 18: x `[N,C*prod(block),L]`, columns added
/// up where they overlap.
pub static COL2IM: OpDef = OpDef {
    name: "col2im",
    onnx: "Col2Im",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::ints("strides"), attr::ints("pads"), attr::ints("dilations")],
    arity: (3, 3),
    infer: &infer_col2im,
    eval: Some(&eval_col2im),
    expand: None,
    weights: None,
    gradient: None,
};

/// `pool_indices(x) {kernel, strides, pads, dilations, ceil, column_major}`: where the maxima of sliding windows stand,
/// in x as one row.
pub static POOL_INDICES: OpDef = OpDef {
    name: "pool_indices",
    onnx: "",
    levels: CORE | KERNEL,
    attrs: &[
        attr::ints("kernel"),
        attr::ints("strides"),
        attr::ints("pads"),
        attr::ints("dilations"),
        attr::int("ceil"),
        attr::int("column_major"),
    ],
    arity: (1, 1),
    infer: &infer_indices,
    eval: Some(&eval_indices),
    expand: None,
    weights: None,
    gradient: None,
};

fn floats<'a>(infer: &Infer<'a>, slot: usize) -> Result<&'a TensorType, OpError> {
    let ty = infer.ty(slot)?;
    if ty.dtype.is_float() && ty.packing.is_none() { Ok(ty) } else { Err(OpError::operand(slot, ty, "floats")) }
}

fn one_of<'a>(attrs: &'a Attrs, name: &'static str, allowed: &[&'a str]) -> Result<&'a str, OpError> {
    let given = attrs.str(name).unwrap_or(allowed[0]);
    if allowed.contains(&given) { Ok(given) } else { Err(OpError::attribute(name, format!("is {given:?}"))) }
}

/// Most elements that all windows over one plane look at: padding makes windows larger than any tensor.
const MAX_LOOKS: usize = 1 << 36;

/// What lies outside an image.
#[derive(Clone, Copy, PartialEq)]
enum Outside {
    Zeros,
    Border,
    Reflection,
}

/// How places between elements are read.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Nearest,
    Linear,
    Cubic,
}

fn infer_grid(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, grid) = (floats(infer, 0)?, floats(infer, 1)?);
    grid_modes(infer.attrs)?;
    let n = x.shape.rank().saturating_sub(2);
    if n == 0
        || grid.shape.rank() != n + 2
        || grid.shape.0[0] != x.shape.0[0]
        || grid.shape.0[n + 1] != Dim::Known(n as i64)
    {
        return Err(OpError::operand(
            1,
            grid,
            format!("[{},...,{n}] for {x}", x.shape.0.first().cloned().unwrap_or(Dim::Known(0))),
        ));
    }
    Ok(vec![TensorType::new(x.dtype, Shape([&x.shape.0[..2], &grid.shape.0[1..=n]].concat()))])
}

fn grid_modes(attrs: &Attrs) -> Result<(Mode, Outside, bool), OpError> {
    let mode = match one_of(attrs, "mode", &["linear", "nearest", "cubic"])? {
        "nearest" => Mode::Nearest,
        "cubic" => Mode::Cubic,
        _ => Mode::Linear,
    };
    let outside = match one_of(attrs, "padding_mode", &["zeros", "border", "reflection"])? {
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        _ => Outside::Zeros,
    };
    Ok((mode, outside, attrs.int("align_corners").unwrap_or(0) != 0))
}

/// A coordinate thrown back at the ends until it lies between them, exactly; one that is infinite or NaN, which has no
/// place, is the low end.
fn reflect(v: f32, low: f32, high: f32) -> f32 {
    if (low..=high).contains(&v) {
        return v;
    }
    let (v, low, range) = (f64::from(v), f64::from(low), f64::from(high - low));
    if range <= 0.0 || !v.is_finite() {
        return low as f32;
    }
    // Two ranges further on everything repeats; the remainder is exact.
    let at = (v % (2.0 * range) - low).rem_euclid(2.0 * range);
    (low + if at > range { 2.0 * range - at } else { at }) as f32
}

/// The place on an axis of `size` elements that a coordinate from -1 to 1 names.
fn unnormalized(v: f32, size: f32, align: bool) -> f32 {
    if !align {
        return ((v + 1.0) * size - 1.0) / 2.0;
    }
    // A single element is where every number leads, infinity too.
    if size == 1.0 && !v.is_nan() { 0.0 } else { (v + 1.0) / 2.0 * (size - 1.0) }
}

/// The elements of an axis of `size` that a coordinate reads, with their weights. Those outside that count as zero are
/// left out. Of what the standard leaves open, NaN reads zero with `zeros` and the first element otherwise (as PyTorch
/// on CUDA), infinity with `reflection` the first element.
fn taps(mut v: f32, size: usize, (mode, outside, align): (Mode, Outside, bool), found: &mut Vec<(usize, f32)>) {
    found.clear();
    let (low, high) = if align { (0.0, size as f32 - 1.0) } else { (-0.5, size as f32 - 0.5) };
    if mode == Mode::Nearest {
        v = v.round_ties_even();
    }
    if !(low..=high).contains(&v) {
        match outside {
            Outside::Border if v.is_nan() => v = 0.0,
            Outside::Border => v = v.clamp(0.0, size as f32 - 1.0),
            Outside::Reflection => v = reflect(v, low, high),
            Outside::Zeros => {}
        }
    }
    if v.is_nan() || v.abs() > 1e9 {
        return;
    }
    let first = v.floor();
    let t = v - first;
    let place = |i: f32| -> Option<usize> {
        let last = size as f32 - 1.0;
        match outside {
            Outside::Zeros => (0.0..=last).contains(&i).then_some(i as usize),
            Outside::Border => Some(i.clamp(0.0, last) as usize),
            Outside::Reflection => Some(reflect(i, low, high).clamp(0.0, last) as usize),
        }
    };
    let mut add = |i: f32, weight: f32| {
        if let Some(at) = place(i) {
            found.push((at, weight));
        }
    };
    match mode {
        Mode::Nearest => add(v.trunc(), 1.0),
        Mode::Linear => {
            add(first, 1.0 - t);
            add(first + 1.0, t);
        }
        Mode::Cubic => {
            for (i, weight) in cubic(t, -0.75).into_iter().enumerate() {
                add(first + i as f32 - 1.0, weight);
            }
        }
    }
}

/// Weights of the four elements around a place `t` behind the second (Keys, 1981).
pub fn cubic(t: f32, a: f32) -> [f32; 4] {
    let outer = |x: f32| ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a;
    let inner = |x: f32| ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0;
    [outer(t + 1.0), inner(t), inner(1.0 - t), outer(2.0 - t)]
}

/// The weighted sum over all combinations of taps.
fn gathered(plane: &[f32], steps: &[usize], axes: &[Vec<(usize, f32)>], offset: usize) -> f32 {
    match (axes, steps) {
        ([axis, rest @ ..], [step, steps @ ..]) => {
            axis.iter().map(|(at, weight)| weight * gathered(plane, steps, rest, offset + at * step)).sum()
        }
        _ => plane[offset],
    }
}

fn eval_grid(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (x, grid) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let modes = grid_modes(attrs)?;
    let (own, points) = (x.dims(), grid.dims());
    let (spatial, n) = (&own[2..], own.len() - 2);
    let dims = [&own[..2], &points[1..=n]].concat();
    let (plane, n_points) = (n_elems(spatial)?, n_elems(&points[1..=n])?);
    let steps = strides(spatial);
    let (data, grid) = (x.to_f32s()?, grid.to_f32s()?);
    let mut out = vec![0.0f32; n_elems(&dims)?];
    if n_points == 0 || plane == 0 {
        return finish_floats(attrs, &dims, out, x.dtype(), &[]);
    }
    let channels = own[1];
    out.par_chunks_mut((channels * n_points).max(1)).enumerate().for_each(|(image, out)| {
        let mut axes = vec![Vec::new(); n];
        for point in 0..n_points {
            let at = &grid[(image * n_points + point) * n..][..n];
            for (axis, found) in axes.iter_mut().enumerate() {
                let (v, size) = (at[n - 1 - axis], spatial[axis] as f32);
                taps(unnormalized(v, size, modes.2), spatial[axis], modes, found);
            }
            for channel in 0..channels {
                let first = (image * channels + channel) * plane;
                out[channel * n_points + point] = gathered(&data[first..first + plane], &steps, &axes, 0);
            }
        }
    });
    finish_floats(attrs, &dims, out, x.dtype(), &[])
}

/// Rows and columns of the result of RoiAlign.
fn roi_size(attrs: &Attrs) -> Result<[usize; 2], OpError> {
    let size = |name: &'static str| {
        let n = attrs.int(name).unwrap_or(1);
        usize::try_from(n)
            .ok()
            .filter(|n| (1..=1 << 16).contains(n))
            .ok_or_else(|| OpError::attribute(name, format!("is {n}")))
    };
    Ok([size("output_height")?, size("output_width")?])
}

fn infer_roi(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, rois, batch) = (floats(infer, 0)?, floats(infer, 1)?, infer.ty(2)?);
    let [h, w] = roi_size(infer.attrs)?;
    one_of(infer.attrs, "mode", &["avg", "max"])?;
    one_of(infer.attrs, "coordinate_transformation_mode", &["half_pixel", "output_half_pixel"])?;
    if x.shape.rank() != 4
        || rois.shape.rank() != 2
        || rois.shape.0[1] != Dim::Known(4)
        || batch.shape.0 != rois.shape.0[..1]
        || batch.dtype.class() != Class::Int
    {
        return Err(OpError::operand(1, rois, "[R,4] for [N,C,H,W], and an image for each"));
    }
    let shape = vec![rois.shape.0[0].clone(), x.shape.0[1].clone(), Dim::Known(h as i64), Dim::Known(w as i64)];
    Ok(vec![TensorType::new(x.dtype, Shape(shape))])
}

/// Places and weights around a point of a plane; none where it lies more than one element outside.
fn bilinear(y: f32, x: f32, height: usize, width: usize) -> [(usize, f32); 4] {
    if !(y >= -1.0 && y <= height as f32 && x >= -1.0 && x <= width as f32) {
        return [(0, 0.0); 4];
    }
    let along = |v: f32, size: usize| {
        let v = v.max(0.0);
        let low = v as usize;
        if low + 1 >= size { (size - 1, size - 1, 0.0) } else { (low, low + 1, v - low as f32) }
    };
    let ((y0, y1, ly), (x0, x1, lx)) = (along(y, height), along(x, width));
    [
        (y0 * width + x0, (1.0 - ly) * (1.0 - lx)),
        (y0 * width + x1, (1.0 - ly) * lx),
        (y1 * width + x0, ly * (1.0 - lx)),
        (y1 * width + x1, ly * lx),
    ]
}

fn eval_roi(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    /// Most points looked at along one axis of one cell.
    const MAX_POINTS: f32 = 512.0;
    let (x, rois, batch) = (operand(inputs, 0)?, operand(inputs, 1)?, operand(inputs, 2)?);
    let [images, channels, height, width] = x.dims()[..] else { return Err(OpError::operand(0, x.ty(), "[N,C,H,W]")) };
    let [oh, ow] = roi_size(attrs)?;
    let half = attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel") == "half_pixel";
    let (is_max, scale) = (attrs.str("mode") == Some("max"), attrs.float("spatial_scale").unwrap_or(1.0));
    let ratio = attrs.int("sampling_ratio").unwrap_or(0);
    let (data, rois, batch) = (x.to_f32s()?, rois.to_f32s()?, batch.to_i64s()?);
    let dims = [batch.len(), channels, oh, ow];
    let mut out = vec![0.0f32; n_elems(&dims)?];
    if height == 0 || width == 0 {
        return Err(OpError::operand(0, x.ty(), "an image that is not empty"));
    }
    for (r, roi) in rois.chunks_exact(4).enumerate().take(batch.len()) {
        let image = usize::try_from(batch[r]).ok().filter(|&i| i < images).ok_or(IndexFault {
            element: r as u64,
            index: batch[r],
            least: 0,
            most: images as i64 - 1,
        })?;
        let corner: Vec<f32> = roi.iter().map(|v| v * scale - if half { 0.5 } else { 0.0 }).collect();
        let least = if half { f32::NEG_INFINITY } else { 1.0 };
        let (w, h) = ((corner[2] - corner[0]).max(least), (corner[3] - corner[1]).max(least));
        let (bin_h, bin_w) = (h / oh as f32, w / ow as f32);
        let points = |bin: f32| if ratio > 0 { ratio as f32 } else { bin.ceil() }.clamp(0.0, MAX_POINTS) as usize;
        let (ny, nx) = (points(bin_h), points(bin_w));
        for cell in 0..oh * ow {
            let (ph, pw) = ((cell / ow) as f32, (cell % ow) as f32);
            let at = |i: usize| {
                let (iy, ix) = ((i / nx) as f32, (i % nx) as f32);
                let y = corner[1] + ph * bin_h + (iy + 0.5) * bin_h / ny as f32;
                bilinear(y, corner[0] + pw * bin_w + (ix + 0.5) * bin_w / nx as f32, height, width)
            };
            for c in 0..channels {
                let plane = &data[(image * channels + c) * height * width..][..height * width];
                let value = if is_max {
                    let best = |i: usize| at(i).iter().map(|(p, w)| plane[*p] * w).fold(f32::NEG_INFINITY, f32::max);
                    (0..ny * nx).map(best).reduce(f32::max).unwrap_or(0.0)
                } else {
                    (0..ny * nx).map(|i| at(i).iter().map(|(p, w)| plane[*p] * w).sum::<f32>()).sum::<f32>()
                        / (ny * nx).max(1) as f32
                };
                out[(r * channels + c) * oh * ow + cell] = value;
            }
        }
    }
    finish_floats(attrs, &dims, out, x.dtype(), &[])
}

/// The window of a deformable convolution, its groups and groups of offsets.
fn deform_plan(attrs: &Attrs, x: &Shape, w: &Shape) -> Result<(Window, usize, usize), OpError> {
    let window = crate::ops::core::conv::window(attrs, w, x.0.get(2..).unwrap_or_default())?;
    let count = |name: &'static str| {
        let n = attrs.int(name).unwrap_or(1);
        usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| OpError::attribute(name, format!("is {n}")))
    };
    Ok((window, count("group")?, count("offset_group")?))
}

fn infer_deform(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, w, offset) = (floats(infer, 0)?, floats(infer, 1)?, floats(infer, 2)?);
    let own = crate::ops::compose::sizes(0, x)?;
    let (&[n, c, _, _], &[oc, depth, kh, kw]) = (&own[..], &crate::ops::compose::sizes(1, w)?[..]) else {
        return Err(OpError::operand(0, x, "[N,C,H,W] and [OC,C/group,kh,kw]"));
    };
    let (window, group, offset_group) = deform_plan(infer.attrs, &x.shape, &w.shape)?;
    let out = Shape(window.out(&x.shape.0[2..])?).known().unwrap_or_default();
    if depth * group != c || oc % group != 0 || c % offset_group != 0 || window.kernel != [kh as i64, kw as i64] {
        return Err(OpError::operand(
            1,
            w,
            format!("filters of {x} in {group} groups and {offset_group} groups of offsets"),
        ));
    }
    for (slot, expected) in [
        (2, vec![n, 2 * offset_group * kh * kw, out[0], out[1]]),
        (3, vec![oc]),
        (4, vec![n, offset_group * kh * kw, out[0], out[1]]),
    ] {
        if let Some(Some(ty)) = infer.inputs.get(slot)
            && (ty.shape != Shape::of(&expected) || !ty.dtype.is_float())
        {
            return Err(OpError::operand(slot, ty, format!("floats {}", Shape::of(&expected))));
        }
    }
    let _ = offset;
    Ok(vec![TensorType::of(x.dtype, &[n, oc, out[0], out[1]])])
}

fn eval_deform(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (x, w, offset) = (operand(inputs, 0)?, operand(inputs, 1)?, operand(inputs, 2)?);
    let (window, group, offset_group) = deform_plan(attrs, &x.ty().shape, &w.ty().shape)?;
    let (&[n, c, height, width], &[oc, depth, kh, kw]) = (&x.dims()[..], &w.dims()[..]) else {
        return Err(OpError::operand(0, x.ty(), "[N,C,H,W]"));
    };
    let out = Shape(window.out(&x.ty().shape.0[2..])?).known().unwrap_or_default();
    let (dims, pixels) = ([n, oc, out[0], out[1]], out[0] * out[1]);
    let bias = inputs.get(3).copied().flatten().map(Tensor::to_f32s).transpose()?;
    let mask = inputs.get(4).copied().flatten().map(Tensor::to_f32s).transpose()?;
    let (data, filters, offset) = (x.to_f32s()?, w.to_f32s()?, offset.to_f32s()?);
    let modes = (Mode::Linear, Outside::Zeros, true);
    let mut y = vec![0.0f32; n_elems(&dims)?];
    if pixels == 0 || height == 0 || width == 0 {
        return finish_floats(attrs, &dims, y, x.dtype(), &[]);
    }
    let taps_n = kh * kw;
    y.par_chunks_mut(oc * pixels).enumerate().for_each(|(image, y)| {
        let mut columns = vec![0.0f32; c * taps_n];
        let mut axes = [Vec::new(), Vec::new()];
        for pixel in 0..pixels {
            let (oy, ox) = ((pixel / out[1]) as i64, (pixel % out[1]) as i64);
            for g in 0..offset_group {
                for tap in 0..taps_n {
                    let (ky, kx) = ((tap / kw) as i64, (tap % kw) as i64);
                    let at =
                        |part: usize| offset[(((image * offset_group + g) * taps_n + tap) * 2 + part) * pixels + pixel];
                    let vy = (oy * window.strides[0] - window.pads[0] + ky * window.dilations[0]) as f32 + at(0);
                    let vx = (ox * window.strides[1] - window.pads[1] + kx * window.dilations[1]) as f32 + at(1);
                    taps(vy, height, modes, &mut axes[0]);
                    taps(vx, width, modes, &mut axes[1]);
                    let factor =
                        mask.as_ref().map_or(1.0, |m| m[((image * offset_group + g) * taps_n + tap) * pixels + pixel]);
                    for channel in g * (c / offset_group)..(g + 1) * (c / offset_group) {
                        let plane = &data[(image * c + channel) * height * width..][..height * width];
                        columns[channel * taps_n + tap] = factor * gathered(plane, &[width, 1], &axes, 0);
                    }
                }
            }
            for filter in 0..oc {
                let first = filter / (oc / group) * depth * taps_n;
                let weights = &filters[filter * depth * taps_n..][..depth * taps_n];
                let sum: f32 = weights.iter().zip(&columns[first..]).map(|(w, v)| w * v).sum();
                y[filter * pixels + pixel] = sum + bias.as_ref().map_or(0.0, |b| b[filter]);
            }
        }
    });
    finish_floats(attrs, &dims, y, x.dtype(), &[])
}

/// The image, the window over it, and how many windows there are along each axis.
fn col2im_plan(
    attrs: &Attrs,
    x: &TensorType,
    image: &[i64],
    block: &[i64],
) -> Result<(Vec<usize>, Window, Vec<usize>), OpError> {
    let refuse = || OpError::operand(1, format!("{image:?}"), format!("an image whose windows {block:?} are {x}"));
    let known = image
        .iter()
        .map(|&n| usize::try_from(n).ok().filter(|n| (1..=1 << 31).contains(n)))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(refuse)?;
    let spatial = Shape::of(&known);
    let window = Window::of(attrs, block.to_vec(), &spatial.0)?;
    let counts = Shape(window.out(&spatial.0)?).known().ok_or_else(refuse)?;
    let own = crate::ops::compose::sizes(0, x)?;
    let taps = block.iter().try_fold(1usize, |n, &b| n.checked_mul(usize::try_from(b).ok()?)).ok_or_else(refuse)?;
    if own.len() != 3 || own[1] % taps.max(1) != 0 || n_elems(&counts)? != own[2] {
        return Err(refuse());
    }
    Ok((known, window, counts))
}

fn infer_col2im(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = floats(infer, 0)?;
    let ints = |slot: usize| infer.ints(slot)?.ok_or(OpError::MissingOperand { slot });
    let (image, block) = (ints(1)?, ints(2)?);
    let (image, _, _) = col2im_plan(infer.attrs, x, &image, &block)?;
    let own = crate::ops::compose::sizes(0, x)?;
    let taps: usize = block.iter().map(|&b| b as usize).product();
    Ok(vec![TensorType::of(x.dtype, &[&[own[0], own[1] / taps], &image[..]].concat())])
}

fn eval_col2im(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    if is_double(attrs, inputs) { col2im::<f64>(attrs, inputs) } else { col2im::<f32>(attrs, inputs) }
}

fn col2im<F: Real>(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let (image, window, counts) =
        col2im_plan(attrs, x.ty(), &operand(inputs, 1)?.to_i64s()?, &operand(inputs, 2)?.to_i64s()?)?;
    let own = x.dims();
    let taps: usize = window.kernel.iter().map(|&k| k as usize).product();
    let (n_axes, n_windows, plane) = (image.len(), own[2], n_elems(&image)?);
    let dims = [&[own[0], own[1] / taps], &image[..]].concat();
    let data = F::elements(x)?;
    let mut out = vec![F::zero(); n_elems(&dims)?];
    for (at, out) in out.chunks_exact_mut(plane.max(1)).enumerate() {
        for tap in 0..taps {
            let row = &data[(at * taps + tap) * n_windows..][..n_windows];
            for (place, value) in row.iter().enumerate() {
                let (mut tap, mut place, mut offset, mut step) = (tap, place, Some(0usize), 1usize);
                for axis in (0..n_axes).rev() {
                    let (k, w) = (tap % window.kernel[axis] as usize, place % counts[axis]);
                    (tap, place) = (tap / window.kernel[axis] as usize, place / counts[axis]);
                    let v = w as i64 * window.strides[axis] + k as i64 * window.dilations[axis] - window.pads[axis];
                    let v = usize::try_from(v).ok().filter(|&v| v < image[axis]);
                    offset = offset.zip(v).map(|(offset, v)| offset + v * step);
                    step *= image[axis];
                }
                if let Some(offset) = offset {
                    out[offset] += *value;
                }
            }
        }
    }
    finish_floats(attrs, &dims, out, x.dtype(), &[])
}

fn infer_indices(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let (_, counts) = indices_plan(infer.attrs, &x.shape)?;
    Ok(vec![TensorType::new(DType::I64, Shape([&x.shape.0[..2], &counts].concat()))])
}

fn indices_plan(attrs: &Attrs, x: &Shape) -> Result<(Window, Vec<Dim>), OpError> {
    let kernel = attrs.ints("kernel").ok_or_else(|| OpError::attribute("kernel", "is missing"))?;
    let spatial = x.0.get(2..).unwrap_or_default();
    let window = Window::of(attrs, kernel.to_vec(), spatial)?;
    let counts = window.out(spatial)?;
    Ok((window, counts))
}

fn eval_indices(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let (window, counts) = indices_plan(attrs, &x.ty().shape)?;
    let counts = Shape(counts).known().ok_or_else(|| OpError::operand(0, x.ty(), "known sizes"))?;
    let own = x.dims();
    let (image, n_axes) = (&own[2..], own.len() - 2);
    let column_major = attrs.int("column_major").unwrap_or(0) != 0;
    let taps = n_elems(&window.kernel.iter().map(|&k| k as usize).collect::<Vec<_>>())?;
    let (plane, n_windows) = (n_elems(image)?, n_elems(&counts)?);
    if taps.saturating_mul(n_windows) > MAX_LOOKS {
        return Err(OpError::unsupported(format!("{n_windows} windows of {taps} elements")));
    }
    let rows = strides(image);
    let data = x.to_f64s()?;
    let mut places = Vec::with_capacity(own[0] * own[1] * n_windows);
    for (block, values) in data.chunks_exact(plane.max(1)).enumerate() {
        for at in 0..n_windows {
            let mut best: Option<(f64, usize, usize)> = None;
            for tap in 0..taps {
                let (mut tap, mut at, mut row, mut column, mut inside) = (tap, at, 0usize, 0usize, true);
                let mut position = vec![0usize; n_axes];
                for axis in (0..n_axes).rev() {
                    let (k, w) = (tap % window.kernel[axis] as usize, at % counts[axis]);
                    (tap, at) = (tap / window.kernel[axis] as usize, at / counts[axis]);
                    let v = w as i64 * window.strides[axis] + k as i64 * window.dilations[axis] - window.pads[axis];
                    match usize::try_from(v).ok().filter(|&v| v < image[axis]) {
                        Some(v) => position[axis] = v,
                        None => inside = false,
                    }
                }
                if !inside {
                    continue;
                }
                let mut step = 1;
                for axis in 0..n_axes {
                    row += position[axis] * rows[axis];
                    column += position[axis] * step;
                    step *= image[axis];
                }
                if best.is_none_or(|(value, _, _)| values[row] > value) {
                    best = Some((values[row], row, column));
                }
            }
            let (_, row, column) = best.unwrap_or((0.0, 0, 0));
            places.push((block * plane + if column_major { column } else { row }) as i64);
        }
    }
    Ok(vec![Tensor::from_i64s(DType::I64, &[&own[..2], &counts[..]].concat(), &places)?])
}

#[cfg(test)]
mod tests;
