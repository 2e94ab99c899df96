//! Any Resize of ONNX, axis by axis: nearest elements by `gather`, all other interpolations as products with constant
//! matrices.

use crate::ir::expr::build::{arg, select};
use crate::ir::{Attrs, DType, Expand, OpError, Shape, Tensor, Val, product, resolve_axis};
use crate::ops::compose::{LARGEST_CONSTANT, dims, floats, gather_within, sizes};
use crate::ops::core::interpolate::cubic;
use crate::ops::core::{matmul, pointwise, reshape};

/// What happens along one axis.
#[derive(Clone, Debug)]
pub struct Axis {
    /// Which one.
    pub axis: usize,
    /// Elements before and after.
    pub own: usize,
    /// Elements after.
    pub out: usize,
    /// How many after for each one before.
    pub scale: f64,
    /// Where the part that is read begins and ends, as a share of the axis.
    roi: [f64; 2],
}

/// The axes of a resize of `x`.
///
/// # Errors
/// Sizes and scales contradict each other or the operand.
pub fn axes(
    attrs: &Attrs,
    x: &Shape,
    roi: Option<&Tensor>,
    scales: Option<&Tensor>,
    wanted: Option<&Tensor>,
) -> Result<Vec<Axis>, OpError> {
    let own = x.known().ok_or_else(|| OpError::operand(0, x, "known sizes"))?;
    let given: Vec<i64> = attrs.ints("axes").map_or_else(|| (0..own.len() as i64).collect(), <[i64]>::to_vec);
    let on = given.iter().map(|&a| resolve_axis(a, own.len())).collect::<Option<Vec<_>>>();
    let on = on.filter(|on| on.iter().enumerate().all(|(i, a)| !on[..i].contains(a)));
    let on = on.ok_or_else(|| OpError::attribute("axes", format!("is {given:?} for {x}")))?;
    let count = |n: usize| {
        if n == on.len() {
            Ok(())
        } else {
            Err(OpError::attribute("sizes", format!("has {n} entries for {} axes", on.len())))
        }
    };
    let full = |tensor: Option<&Tensor>| tensor.filter(|t| !t.dims().contains(&0)).cloned();
    let mut plan: Vec<Axis> =
        on.iter().map(|&axis| Axis { axis, own: own[axis], out: own[axis], scale: 1.0, roi: [0.0, 1.0] }).collect();
    if let Some(wanted) = full(wanted) {
        let wanted = wanted.to_i64s()?;
        count(wanted.len())?;
        let ratio = |(plan, wanted): (&Axis, &i64)| *wanted as f64 / plan.own.max(1) as f64;
        let ratios: Vec<f64> = plan.iter().zip(&wanted).map(ratio).collect();
        let common = match attrs.str("keep_aspect_ratio_policy").unwrap_or("stretch") {
            "stretch" => None,
            "not_larger" => ratios.iter().copied().reduce(f64::min),
            "not_smaller" => ratios.iter().copied().reduce(f64::max),
            other => return Err(OpError::attribute("keep_aspect_ratio_policy", format!("is {other:?}"))),
        };
        for ((plan, wanted), ratio) in plan.iter_mut().zip(&wanted).zip(&ratios) {
            plan.scale = common.unwrap_or(*ratio);
            plan.out = match common {
                Some(common) => (common * plan.own as f64 + 0.5).floor() as usize,
                None => usize::try_from(*wanted).unwrap_or(0),
            };
        }
    } else if let Some(scales) = full(scales) {
        let scales = scales.to_f32s()?;
        count(scales.len())?;
        for (plan, &scale) in plan.iter_mut().zip(scales.iter()) {
            plan.scale = f64::from(scale);
            plan.out = (plan.own as f32 * scale).floor() as usize;
        }
    } else {
        return Err(OpError::MissingOperand { slot: 2 });
    }
    if let Some(roi) = full(roi) {
        let roi = roi.to_f32s()?;
        count(roi.len() / 2)?;
        let n = plan.len();
        plan.iter_mut().enumerate().for_each(|(i, plan)| plan.roi = [f64::from(roi[i]), f64::from(roi[n + i])]);
    }
    let fits =
        |plan: &Axis| plan.scale.is_finite() && plan.scale > 0.0 && (1..1 << 31).contains(&plan.out) && plan.own > 0;
    if plan.iter().all(fits) { Ok(plan) } else { Err(OpError::attribute("scales", format!("make {plan:?} of {x}"))) }
}

/// Whether the one kernel for the last two axes does what is asked for.
pub fn is_plain(attrs: &Attrs, x: &Shape, plan: &[Axis]) -> bool {
    let changed = |plan: &&Axis| plan.own != plan.out || plan.scale != 1.0;
    let last = plan.iter().filter(changed).all(|plan| plan.axis + 2 >= x.rank());
    let set = |name| attrs.int(name).unwrap_or(0) != 0;
    let coordinates = attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel");
    // The standard measures corners by the size before it is rounded.
    let whole = coordinates != "align_corners"
        || plan.iter().all(|plan| (plan.scale * plan.own as f64 - plan.out as f64).abs() < 1e-3);
    let stretch = attrs.str("keep_aspect_ratio_policy").is_none_or(|p| p == "stretch");
    let sorted =
        plan.is_sorted_by_key(|plan| plan.axis) && attrs.ints("axes").is_none_or(|axes| axes.iter().all(|a| *a >= 0));
    last && x.rank() <= 4
        && whole
        && stretch
        && sorted
        && !set("antialias")
        && attrs.str("mode") != Some("cubic")
        && coordinates != "tf_crop_and_resize"
}

/// Where position `at` of the result is in the operand; `None` outside of it, where that has a value of its own.
fn place(plan: &Axis, at: usize, coordinates: &str) -> Result<Option<f64>, OpError> {
    let (p, own, exact) = (at as f64, plan.own as f64, plan.scale * plan.own as f64);
    let exact = if (exact - exact.round()).abs() < 1e-5 { exact.round() } else { exact };
    if plan.own == plan.out && plan.scale == 1.0 && coordinates != "tf_crop_and_resize" {
        return Ok(Some(p));
    }
    Ok(Some(match coordinates {
        "half_pixel" => (p + 0.5) / plan.scale - 0.5,
        "half_pixel_symmetric" => own / 2.0 * (1.0 - plan.out as f64 / exact) + (p + 0.5) / plan.scale - 0.5,
        "pytorch_half_pixel" => {
            if plan.out > 1 {
                (p + 0.5) / plan.scale - 0.5
            } else {
                0.0
            }
        }
        "align_corners" => {
            if exact == 1.0 {
                0.0
            } else {
                p * (own - 1.0) / (exact - 1.0)
            }
        }
        "asymmetric" => p / plan.scale,
        "tf_crop_and_resize" => {
            let [start, end] = plan.roi;
            let step = if exact == 1.0 {
                (end - start) * (own - 1.0) / 2.0
            } else {
                p * (end - start) * (own - 1.0) / (exact - 1.0)
            };
            let v = step + start * (own - 1.0);
            return Ok((0.0..=own - 1.0).contains(&v).then_some(v));
        }
        other => return Err(OpError::unsupported(format!("coordinate_transformation_mode {other:?} of a resize"))),
    }))
}

/// The element nearest to a place.
fn nearest(v: f64, mode: &str, own: usize) -> Result<i64, OpError> {
    // What is a half but for rounding is one.
    let v = if ((v * 2.0) - (v * 2.0).round()).abs() < 1e-6 { (v * 2.0).round() / 2.0 } else { v };
    let rounded = match mode {
        "round_prefer_floor" => (v - 0.5).ceil(),
        "round_prefer_ceil" => (v + 0.5).floor(),
        "floor" => v.floor(),
        "ceil" => v.ceil(),
        other => return Err(OpError::attribute("nearest_mode", format!("is {other:?}"))),
    };
    Ok(rounded.clamp(0.0, own as f64 - 1.0) as i64)
}

/// The weights of the elements around a place: the first of them, relative to the one before the place, and theirs.
fn weights(mode: &str, t: f64, scale: f64, a: f32, antialias: bool) -> Result<(i64, Vec<f64>), OpError> {
    if !antialias {
        return match mode {
            "linear" => Ok((0, vec![1.0 - t, t])),
            "cubic" => Ok((-1, cubic(t, f64::from(a)).to_vec())),
            other => Err(OpError::attribute("mode", format!("is {other:?}"))),
        };
    }
    let (scale, reach, a) = (scale.min(1.0), if mode == "cubic" { 2.0 } else { 1.0 }, f64::from(a));
    let first = (-reach / scale).floor() as i64 + 1;
    let kernel = |x: f64| match mode {
        "cubic" if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        "cubic" if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        "cubic" => 0.0,
        _ => (1.0 - x).max(0.0),
    };
    let weights: Vec<f64> = (first..2 - first).map(|i| kernel((scale * (i as f64 - t)).abs())).collect();
    let sum: f64 = weights.iter().sum();
    Ok((first, weights.into_iter().map(|w| w / sum).collect()))
}

/// The matrix `[out, own]` of one axis.
fn matrix(attrs: &Attrs, plan: &Axis, coordinates: &str) -> Result<Vec<f32>, OpError> {
    if plan.own.saturating_mul(plan.out) > LARGEST_CONSTANT {
        return Err(OpError::unsupported(format!("a resize of {} elements to {} by a matrix", plan.own, plan.out)));
    }
    let (mode, a) = (attrs.str("mode").unwrap_or("nearest"), attrs.float("cubic_coeff_a").unwrap_or(-0.75));
    let flag = |name| attrs.int(name).unwrap_or(0) != 0;
    let mut values = vec![0.0f32; plan.own * plan.out];
    for (at, row) in values.chunks_exact_mut(plan.own).enumerate() {
        let Some(v) = place(plan, at, coordinates)? else { continue };
        let (first, mut weights) = weights(mode, v - v.floor(), plan.scale, a, flag("antialias"))?;
        let first = v.floor() as i64 + first;
        let inside = |i: usize| (0..plan.own as i64).contains(&(first + i as i64));
        if flag("exclude_outside") {
            (0..weights.len()).for_each(|i| {
                if !inside(i) {
                    weights[i] = 0.0
                }
            });
            let sum: f64 = weights.iter().sum();
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        for (i, w) in weights.iter().enumerate() {
            let element = (first + i as i64).clamp(0, plan.own as i64 - 1) as usize;
            row[element] += *w as f32;
        }
    }
    Ok(values)
}

/// The resize, axis by axis.
///
/// # Errors
/// An attribute has a value that ONNX does not know, or an axis is too long.
pub fn expand(e: &mut Expand<'_, '_>, x: Val, plan: &[Axis]) -> Result<Val, OpError> {
    let dtype = e.outputs[0].dtype;
    let coordinates = e.attrs.str("coordinate_transformation_mode").unwrap_or("half_pixel").to_owned();
    let is_nearest = e.attrs.str("mode").unwrap_or("nearest") == "nearest";
    let mut y = x;
    let mut outside: Option<Val> = None;
    for plan in plan {
        if plan.out > LARGEST_CONSTANT {
            return Err(OpError::unsupported(format!(
                "a resize to {} elements in this mode, at most {LARGEST_CONSTANT}",
                plan.out
            )));
        }
        let places = (0..plan.out).map(|at| place(plan, at, &coordinates)).collect::<Result<Vec<_>, _>>()?;
        let own = sizes(0, &e.ty(y))?;
        if places.iter().enumerate().all(|(i, v)| *v == Some(i as f64)) && plan.own == plan.out {
            continue;
        }
        if is_nearest {
            let mode = e.attrs.str("nearest_mode").unwrap_or("round_prefer_floor");
            let indices =
                places.iter().map(|v| nearest(v.unwrap_or(0.0), mode, plan.own)).collect::<Result<Vec<_>, _>>()?;
            let indices = Tensor::from_i64s(DType::I64, &[indices.len()], &indices)?;
            let indices = e.constant(indices);
            y = gather_within(e, y, indices, plan.axis)?;
        } else {
            let values = matrix(e.attrs, plan, &coordinates)?;
            let matrix = floats(e, &[1, plan.out, plan.own], &values)?;
            let rows = [own[..plan.axis].iter().product(), plan.own, own[plan.axis + 1..].iter().product()];
            let block = reshape::to(e, y, dims(&rows))?;
            let made = e.add(&matmul::DEF, matmul::attrs(false).with_dtype("dtype", dtype), &[matrix, block])?;
            let mut shape = own.clone();
            shape[plan.axis] = plan.out;
            y = reshape::to(e, made, dims(&shape))?;
        }
        if places.contains(&None) {
            let mut shape = vec![1; own.len()];
            shape[plan.axis] = plan.out;
            let flags: Vec<f32> = places.iter().map(|v| if v.is_none() { 1.0 } else { 0.0 }).collect();
            let flags = floats(e, &shape, &flags)?;
            outside = Some(match outside {
                None => flags,
                Some(before) => pointwise::add(e, arg(0).max(arg(1)), DType::F32, &[before, flags])?,
            });
        }
    }
    if let Some(outside) = outside {
        let fill = e.attrs.float("extrapolation_value").unwrap_or(0.0);
        y = pointwise::add(e, select(arg(1).above(0.5), fill, arg(0)), dtype, &[y, outside])?;
    }
    debug_assert_eq!(product(&e.ty(y).shape.0), e.outputs[0].shape.volume());
    Ok(y)
}
