//! `resize`: images enlarged and reduced.

use crate::ir::{
    Attr, Attrs, CORE, Class, Differentiate, Dim, Expand, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor,
    TensorType, Val, attr,
};
use crate::ops::core::layout;
use crate::ops::core::resize_axes;
use crate::ops::reference::real::Real;
use crate::ops::util::{
    axes, between, class_of, dims_attr, finish_floats, is_double, n_elems, operand, result, split_own,
};
use rayon::prelude::*;

/// `resize(x) {mode, scales, sizes, coordinates, nearest, layout, dtype, epilogue}`: ONNX Resize, opset 19, along the
/// last two axes; there with roi, scales and sizes as operands, along any axes, and with cubic interpolation,
/// antialiasing and cropping (`resize_axes`). With the layout `nhwc`, which only the lower levels have, channels are
/// the last of four axes; `scales` and `sizes` keep the order `[N,C,H,W]`.
pub static DEF: OpDef = OpDef {
    name: "resize",
    onnx: "Resize",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::text("mode"),
        attr::floats("scales"),
        attr::sizes("sizes"),
        attr::text("coordinates"),
        attr::text("nearest"),
        attr::text("layout"),
        attr::dtype("dtype"),
        attr::expr("epilogue"),
        attr::text("coordinate_transformation_mode"),
        attr::text("nearest_mode"),
        attr::ints("axes"),
        attr::int("antialias"),
        attr::text("keep_aspect_ratio_policy"),
        attr::float("cubic_coeff_a"),
        attr::int("exclude_outside"),
        attr::float("extrapolation_value"),
    ],
    arity: (1, 4),
    infer: &infer,
    eval: Some(&eval),
    expand: Some(&expand),
    weights: None,
    gradient: Some(&gradient),
};

const COORDINATES: [&str; 5] =
    ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"];
const NEAREST: [&str; 4] = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"];

/// A use of Resize in the core's normal form.
struct Normal {
    mode: &'static str,
    coordinates: &'static str,
    nearest: &'static str,
    scales: Vec<f32>,
    sizes: Vec<Dim>,
}

fn one_of(attrs: &Attrs, names: [&'static str; 2], allowed: &[&'static str]) -> Result<&'static str, OpError> {
    let Some(given) = attrs.str(names[0]).or(attrs.str(names[1])) else { return Ok(allowed[0]) };
    allowed
        .iter()
        .copied()
        .find(|a| *a == given)
        .ok_or_else(|| OpError::unsupported(format!("{} {given:?} of a resize", names[0])))
}

/// How many elements there are for each one before, where that is one number whatever the sizes are.
fn ratio(size: &Dim, own: &Dim) -> Option<f32> {
    if let (Some(size), Some(own)) = (size.known(), own.known()) {
        return Some(size as f32 / own as f32);
    }
    let times = |a: &Dim, b: &Dim| a.floor_div(b).filter(|n| &(n * b) == a)?.known().map(|n| n as f32);
    times(size, own).or_else(|| Some(1.0 / times(own, size)?))
}

/// Brings attributes and the data of operands scales and sizes into the normal form.
fn normal(attrs: &Attrs, x: &Shape, scales: Option<&Tensor>, sizes: Option<Vec<Dim>>) -> Result<Normal, OpError> {
    let mut normal = Normal {
        mode: one_of(attrs, ["mode", "mode"], &["nearest", "linear"])?,
        coordinates: one_of(attrs, ["coordinates", "coordinate_transformation_mode"], &COORDINATES)?,
        nearest: one_of(attrs, ["nearest", "nearest_mode"], &NEAREST)?,
        scales: vec![1.0; x.rank()],
        sizes: x.0.clone(),
    };
    if attrs.int("antialias").unwrap_or(0) != 0 {
        return Err(OpError::unsupported("an antialiasing resize"));
    }
    let on = match attrs.ints("axes") {
        Some(given) if axes(given, x.rank())?.iter().map(|&a| a as i64).collect::<Vec<_>>() == given => {
            axes(given, x.rank())?
        }
        Some(given) => {
            return Err(OpError::attribute(
                "axes",
                format!("is {given:?}, sorted ones that are not negative are expected"),
            ));
        }
        None => (0..x.rank()).collect(),
    };
    let count = |n: usize| {
        if n == on.len() {
            Ok(())
        } else {
            Err(OpError::attribute("sizes", format!("has {n} entries for {} axes", on.len())))
        }
    };
    if let (Some(scales), Some(sizes)) = (attrs.floats("scales"), dims_attr(attrs, "sizes")) {
        count(scales.len())?;
        count(sizes.len())?;
        normal.scales = scales.to_vec();
        normal.sizes = sizes;
    } else if let Some(sizes) = sizes.filter(|sizes| !sizes.is_empty()) {
        count(sizes.len())?;
        if attrs.str("keep_aspect_ratio_policy").is_some_and(|p| p != "stretch") {
            return Err(OpError::unsupported("a resize that keeps the aspect ratio"));
        }
        for (&axis, size) in on.iter().zip(sizes) {
            let own = &x.0[axis];
            normal.scales[axis] = ratio(&size, own).ok_or_else(|| {
                OpError::unsupported(format!(
                    "a resize from {own} to {size} elements: their ratio changes with the sizes"
                ))
            })?;
            normal.sizes[axis] = size;
        }
    } else if let Some(scales) = scales.filter(|t| !t.dims().contains(&0)) {
        let scales = scales.to_f32s()?;
        count(scales.len())?;
        for (&axis, &scale) in on.iter().zip(scales.iter()) {
            normal.scales[axis] = scale;
            normal.sizes[axis] = match x.0[axis].known() {
                Some(own) => Dim::Known((own as f32 * scale).floor() as i64),
                None if scale >= 1.0 && scale.fract() == 0.0 => &x.0[axis] * &Dim::Known(scale as i64),
                None => return Err(OpError::operand(0, x, "known sizes")),
            };
        }
    } else {
        return Err(OpError::MissingOperand { slot: 2 });
    }
    if normal.scales.iter().any(|s| !(s.is_finite() && *s > 0.0))
        || normal.sizes.iter().any(|d| d.known().is_some_and(|n| n < 1))
    {
        return Err(OpError::attribute("scales", format!("are {:?} to {}", normal.scales, Shape(normal.sizes))));
    }
    let changes = |i: usize| normal.sizes[i] != x.0[i] || normal.scales[i] != 1.0;
    if x.rank() > 4 || (0..x.rank().saturating_sub(2)).any(changes) {
        return Err(OpError::unsupported(format!(
            "a resize of {x} to {}: only the last two of four axes change",
            Shape(normal.sizes)
        )));
    }
    Ok(normal)
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if class_of(x) != Class::Float || x.packing.is_some() {
        return Err(OpError::operand(0, x, "floats"));
    }
    let core = infer.attrs.get("sizes").is_some();
    let (own, _) = split_own(infer.attrs, infer.inputs);
    for slot in [1, 2, 3] {
        let is_listed = infer.sizes.get(slot).copied().flatten().is_some();
        if !core
            && own.get(slot).copied().flatten().is_some()
            && infer.constant(slot).is_none()
            && !(slot == 3 && is_listed)
        {
            return Err(OpError::NotConstant { slot });
        }
    }
    let (scales, sizes) = if core { (None, None) } else { (infer.constant(2), infer.dims(3)?) };
    if !core && let Some(own) = x.shape.known() {
        let plan = resize_axes::axes(infer.attrs, &x.shape, infer.constant(1), scales, infer.constant(3))?;
        let mut dims = own;
        plan.iter().for_each(|plan| dims[plan.axis] = plan.out);
        return result(infer, Class::Float, x.dtype, Shape::of(&dims));
    }
    let infer_nchw = |image: &Shape| Ok(Shape(normal(infer.attrs, image, scales, sizes)?.sizes));
    result(infer, Class::Float, x.dtype, layout::of_images(infer.attrs, &x.shape, infer_nchw)?)
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let constant = |slot: usize| e.optional(slot).and_then(|v| e.edit.constant(v));
    if let (Some(_), None) = (e.ty(x).shape.known(), e.attrs.get("sizes")) {
        let shape = e.ty(x).shape;
        let plan = resize_axes::axes(e.attrs, &shape, constant(1), constant(2), constant(3))?;
        if !resize_axes::is_plain(e.attrs, &shape, &plan) {
            return Ok(vec![resize_axes::expand(e, x, &plan)?]);
        }
    }
    let shape = e.ty(x).shape;
    let normal = normal(e.attrs, &shape, constant(2), e.dims(3)?)?;
    // The standard measures corners by the size before it is rounded (resize_axes); the kernel by that after.
    let rounded = |i: usize| match (shape.0[i].known(), normal.sizes[i].known()) {
        (Some(own), Some(size)) => (normal.scales[i] * own as f32 - size as f32).abs() >= 1e-3,
        _ => false,
    };
    if normal.coordinates == "align_corners" && (0..shape.rank()).any(rounded) {
        return Err(OpError::unsupported(
            "a resize between corners to a size that is rounded, beside sizes that change",
        ));
    }
    let attrs = Attrs::new()
        .with_str("mode", normal.mode)
        .with_str("coordinates", normal.coordinates)
        .with_str("nearest", normal.nearest)
        .with("scales", Attr::Floats(normal.scales))
        .with("sizes", crate::ops::util::dims_value(&normal.sizes));
    Ok(vec![e.add(&DEF, attrs, &[x])?])
}

/// One axis of the result: which elements each position draws on, and the weight of the second.
struct Taps(Vec<(usize, usize, f32)>);

/// The f32 arithmetic of one axis, as the kernels do it.
fn taps(normal: &Normal, scale: f32, own: usize, out: usize) -> Taps {
    let last = own.saturating_sub(1);
    let place = |at: usize| -> f32 {
        let p = at as f32;
        match normal.coordinates {
            _ if scale == 1.0 && own == out => p,
            "asymmetric" => p / scale,
            "align_corners" if out == 1 => 0.0,
            "align_corners" => p * (last as f32) / ((out - 1) as f32),
            "pytorch_half_pixel" if out == 1 => 0.0,
            "half_pixel_symmetric" => {
                let adjustment = out as f32 / (scale * own as f32);
                own as f32 / 2.0 * (1.0 - adjustment) + (p + 0.5) / scale - 0.5
            }
            _ => (p + 0.5) / scale - 0.5,
        }
    };
    let tap = |at: usize| {
        let p = place(at);
        if normal.mode == "nearest" {
            let rounded = match normal.nearest {
                "round_prefer_ceil" => (p + 0.5).floor(),
                "floor" => p.floor(),
                "ceil" => p.ceil(),
                _ => (p - 0.5).ceil(),
            };
            let i = (rounded.max(0.0) as usize).min(last);
            return (i, i, 0.0);
        }
        let p = p.clamp(0.0, last as f32);
        let i = (p.floor() as usize).min(last);
        (i, (i + 1).min(last), p - i as f32)
    };
    Taps((0..out).map(tap).collect())
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    let x = operand(own, 0)?;
    if layout::is_nhwc(attrs)? {
        return layout::eval_as_nchw(attrs, x, extra, &eval);
    }
    if is_double(attrs, own) { eval_in::<f64>(attrs, x, extra) } else { eval_in::<f32>(attrs, x, extra) }
}

fn eval_in<F: Real>(attrs: &Attrs, x: &Tensor, extra: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let normal = normal(attrs, &x.ty().shape, None, None)?;
    let dims = x.dims();
    let out_dims = Shape(normal.sizes.clone()).known().unwrap_or_default();
    let rank = dims.len();
    // A vector is one row, so that there are always two axes.
    let axis = |back: usize| {
        let i = rank.checked_sub(back);
        i.map_or((1.0, 1, 1), |i| (normal.scales[i], dims[i], out_dims[i]))
    };
    let ((sy, height, oh), (sx, width, ow)) = (axis(2), axis(1));
    let mut out = vec![F::zero(); n_elems(&out_dims)?];
    let (rows, columns) = (taps(&normal, sy, height, oh), taps(&normal, sx, width, ow));
    let (data, nearest) = (F::elements(x)?, normal.mode == "nearest");
    out.par_chunks_mut((oh * ow).max(1)).enumerate().for_each(|(plane, out)| {
        let x = &data[plane * height * width..(plane + 1) * height * width];
        for (out, &(y0, y1, wy)) in out.chunks_exact_mut(ow).zip(&rows.0) {
            let (top, bottom) = (&x[y0 * width..][..width], &x[y1 * width..][..width]);
            for (out, &(x0, x1, wx)) in out.iter_mut().zip(&columns.0) {
                // Not multiplied by a weight of 1: an infinity times the other one's 0 would be NaN.
                if nearest {
                    *out = top[x0];
                    continue;
                }
                let between = |a: F, b: F, w: f32| a * F::of_f32(1.0 - w) + b * F::of_f32(w);
                let (upper, lower) = (between(top[x0], top[x1], wx), between(bottom[x0], bottom[x1], wx));
                *out = between(upper, lower, wy);
            }
        }
    });
    finish_floats(attrs, &out_dims, out, x.dtype(), extra)
}

/// Along each axis a resize is a product with a matrix of weights; the gain is multiplied with it transposed.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    if d.attrs.get("sizes").is_none() {
        return Ok(Gains::Expanded);
    }
    if layout::is_nhwc(d.attrs)? {
        return Err(OpError::unsupported("the derivative of a resize with channels last"));
    }
    let (mut part, own) = (d.gain()?, d.sizes(0)?);
    let mut now = crate::ops::compose::sizes(0, &d.ty(part))?;
    let dtype = between(d.ty(part).dtype);
    let normal = normal(d.attrs, &Shape::of(&own), None, None)?;
    for axis in own.len().saturating_sub(2)..own.len() {
        let (n, out, scale) = (own[axis], now[axis], normal.scales[axis]);
        if n == out && scale == 1.0 {
            continue;
        }
        if n.saturating_mul(out) > crate::ops::compose::LARGEST_CONSTANT {
            return Err(OpError::unsupported(format!("the derivative of a resize from {n} to {out} elements")));
        }
        let mut weights = vec![0.0f32; n * out];
        for (to, (first, second, share)) in taps(&normal, scale, n, out).0.into_iter().enumerate() {
            weights[first * out + to] += 1.0 - share;
            weights[second * out + to] += share;
        }
        let weights = crate::ops::compose::floats(d, &[n, out], &weights)?;
        let weights = crate::ops::compose::cast(d, weights, dtype)?;
        let (outer, inner) = (now[..axis].iter().product::<usize>(), now[axis + 1..].iter().product::<usize>());
        let rows = crate::ops::core::reshape::to(d, part, crate::ops::compose::dims(&[outer, out, inner]))?;
        let rows = crate::ops::compose::matmul(d, weights, rows, false)?;
        now[axis] = n;
        part = crate::ops::core::reshape::to(d, rows, crate::ops::compose::dims(&now))?;
    }
    Ok(Gains::Are(vec![Some(part)]))
}
