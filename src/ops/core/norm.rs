//! `norm`: layer and root-mean-square normalisation over the last axes.

use crate::ir::expr::build::arg;
use crate::ir::{
    Attrs, CORE, Class, Differentiate, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr,
};
use crate::ops::compose;
use crate::ops::core::pointwise;
use crate::ops::reference::real::Real;
use crate::ops::util::{axis_attr, between, class_of, finish_floats, is_double, operand, result, split_own};
use rayon::prelude::*;

/// `norm(x, scale?, bias?) {kind, axis, epsilon, dtype, epilogue}`.
pub static DEF: OpDef = OpDef {
    name: "norm",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::text("kind"),
        attr::int("axis"),
        attr::float("epsilon"),
        attr::dtype("dtype"),
        attr::expr("epilogue"),
    ],
    arity: (1, 3),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: Some(&gradient),
};

/// Attributes of a normalisation of axis `axis` and all after it.
pub fn attrs(kind: &str, axis: usize, epsilon: f32) -> Attrs {
    Attrs::new().with_str("kind", kind).with_int("axis", axis as i64).with_float("epsilon", epsilon)
}

fn is_rms(attrs: &Attrs) -> Result<bool, OpError> {
    match attrs.str("kind") {
        Some("rms") => Ok(true),
        Some("layer") => Ok(false),
        other => Err(OpError::attribute("kind", format!("is {other:?}"))),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (own, _) = split_own(infer.attrs, infer.inputs);
    let x = infer.ty(0)?;
    is_rms(infer.attrs)?;
    if !x.dtype.is_float() {
        return Err(OpError::operand(0, x, "floats"));
    }
    let axis = axis_attr(infer.attrs, -1, x.shape.rank())?;
    let expected = Shape(x.shape.0[axis..].to_vec());
    for (slot, ty) in own.iter().enumerate().skip(1) {
        if let Some(ty) = ty
            && (ty.shape != expected || class_of(ty) != Class::Float)
        {
            return Err(OpError::operand(slot, ty, format!("floats {expected}")));
        }
    }
    result(infer, Class::Float, x.dtype, x.shape.clone())
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    if is_double(attrs, own) { eval_in::<f64>(attrs, own, extra) } else { eval_in::<f32>(attrs, own, extra) }
}

fn eval_in<F: Real>(attrs: &Attrs, own: &[Option<&Tensor>], extra: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(own, 0)?;
    let dims = x.dims();
    let axis = axis_attr(attrs, -1, dims.len())?;
    let rms = is_rms(attrs)?;
    let epsilon = f64::from(attrs.float("epsilon").unwrap_or(1e-5));
    let n: usize = dims[axis..].iter().product();
    let vector = |slot: usize| -> Result<Option<Vec<F>>, OpError> {
        let Some(tensor) = own.get(slot).copied().flatten() else { return Ok(None) };
        let values = F::elements(tensor)?.into_owned();
        if values.len() == n {
            Ok(Some(values))
        } else {
            Err(OpError::operand(slot, tensor.ty(), format!("{n} floats")))
        }
    };
    let (scale, bias) = (vector(1)?, vector(2)?);
    let mut out = F::elements(x)?.into_owned();
    out.par_chunks_exact_mut(n.max(1)).for_each(|row| {
        let mean = if rms { 0.0 } else { row.iter().map(|&v| v.wide()).sum::<f64>() / n as f64 };
        let variance = row.iter().map(|&v| (v.wide() - mean).powi(2)).sum::<f64>() / n as f64;
        let factor = 1.0 / (variance + epsilon).sqrt();
        for (i, v) in row.iter_mut().enumerate() {
            let scaled = (v.wide() - mean) * factor * scale.as_ref().map_or(1.0, |s| s[i].wide());
            *v = F::of_f64(scaled + bias.as_ref().map_or(0.0, |b| b[i].wide()));
        }
    });
    finish_floats(attrs, &dims, out, x.dtype(), extra)
}

/// With `g = dy * scale` and the normalised rows `n = (x - mean) * f`: x gains `f * (g - mean(g) - n * mean(g * n))`,
/// without the mean of g for `rms`, scale the sum of `dy * n` over rows, and bias that of dy.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (x, gain) = (d.input(0)?, d.gain()?);
    let (x_ty, dtype) = (d.ty(x), d.ty(gain).dtype);
    let (axis, rms) = (axis_attr(d.attrs, -1, x_ty.shape.rank())?, is_rms(d.attrs)?);
    let axes: Vec<usize> = (axis..x_ty.shape.rank()).collect();
    let epsilon = d.attrs.float("epsilon").unwrap_or(1e-5);
    let wide = between(dtype);
    let centred = if rms {
        x
    } else {
        let mean = compose::reduce(d, "mean", x, &axes, true)?;
        pointwise::add(d, arg(0) - arg(1), wide, &[x, mean])?
    };
    let squares = pointwise::add(d, arg(0) * arg(0), wide, &[centred])?;
    let variance = compose::reduce(d, "mean", squares, &axes, true)?;
    let factor = pointwise::add(d, (arg(0) + epsilon).rsqrt(), wide, &[variance])?;
    let normal = pointwise::add(d, arg(0) * arg(1), wide, &[centred, factor])?;
    let mut parts = vec![None; d.inputs.len()];
    if d.wants(0) {
        let scaled = match d.optional(1) {
            Some(scale) => pointwise::add(d, arg(0) * arg(1), wide, &[gain, scale])?,
            None => gain,
        };
        let product = pointwise::add(d, arg(0) * arg(1), wide, &[scaled, normal])?;
        let along = compose::reduce(d, "mean", product, &axes, true)?;
        parts[0] = Some(if rms {
            pointwise::add(d, arg(0) * (arg(1) - (arg(2) * arg(3))), dtype, &[factor, scaled, normal, along])?
        } else {
            let mean = compose::reduce(d, "mean", scaled, &axes, true)?;
            let part = arg(0) * ((arg(1) - arg(2)) - (arg(3) * arg(4)));
            pointwise::add(d, part, dtype, &[factor, scaled, mean, normal, along])?
        });
    }
    if d.wants(1) {
        parts[1] = Some(pointwise::add(d, arg(0) * arg(1), wide, &[gain, normal])?);
    }
    if d.wants(2) {
        parts[2] = Some(gain);
    }
    Ok(Gains::Are(parts))
}
