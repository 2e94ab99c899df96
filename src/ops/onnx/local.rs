//! ONNX's normalisations and pools by norms: LRN, LpNormalization, MeanVarianceNormalization, LpPool.

use crate::ir::{Attrs, Class, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::{dims, reduce, sizes};
use crate::ops::core::window::Window;
use crate::ops::core::{pointwise, pool, reshape};
use crate::ops::util::{axes, axis_attr};

macro_rules! norms {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal [$($attr:expr),*] $infer:expr, $expand:expr;)*) => {
        $($(#[$doc])* pub static $def: OpDef = OpDef {
            name: $name,
            onnx: $onnx,
            levels: ONNX,
            attrs: &[$($attr),*],
            arity: (1, 1),
            infer: &$infer,
            eval: None,
            expand: Some(&$expand),
            weights: None,
            gradient: None,
        };)*
    };
}

norms! {
    /// `lrn(x) {alpha, beta, bias, size}`: ONNX LRN, opset 13: `x / (bias + alpha / size * sum of squares of
    /// neighbouring channels) ^ beta`.
    LRN "lrn" "LRN" [attr::float("alpha"), attr::float("beta"), attr::float("bias"), attr::int("size")] |i| floats(i, 2), expand_lrn;
    /// `lp_normalization(x) {axis, p}`: ONNX LpNormalization, opset 22: `x / norm`, zero where the norm is.
    LP_NORMALIZATION "lp_normalization" "LpNormalization" [attr::int("axis"), attr::int("p")] infer_lp, expand_lp;
    /// `mean_variance_normalization(x) {axes}`: ONNX MeanVarianceNormalization, opset 13.
    MEAN_VARIANCE "mean_variance_normalization" "MeanVarianceNormalization" [attr::ints("axes")] infer_mean_variance, expand_mean_variance;
    /// `lp_pool(x) {kernel_shape, p, strides, pads, dilations, auto_pad, ceil_mode}`: ONNX LpPool, opset 22, over one
    /// or two spatial axes.
    LP_POOL "lp_pool" "LpPool" [attr::ints("kernel_shape"), attr::int("p"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::text("auto_pad"), attr::int("ceil_mode")] infer_pool, expand_pool;
    /// `global_lp_pool(x) {p}`: ONNX GlobalLpPool, opset 22.
    GLOBAL_LP_POOL "global_lp_pool" "GlobalLpPool" [attr::int("p")] infer_global, expand_global;
}

fn floats(infer: &Infer<'_>, least_rank: usize) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.dtype.class() != Class::Float || x.packing.is_some() || x.shape.rank() < least_rank {
        return Err(OpError::operand(0, x, format!("floats of {least_rank} axes at least")));
    }
    Ok(vec![x.clone()])
}

fn expand_lrn(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let own = sizes(0, &ty)?;
    let size = e
        .attrs
        .int("size")
        .filter(|n| (1..1 << 16).contains(n))
        .ok_or_else(|| OpError::attribute("size", "is missing or out of range"))?;
    let float = |name: &str, default: f32| e.attrs.float(name).unwrap_or(default);
    let (alpha, beta, bias) = (float("alpha", 1e-4), float("beta", 0.75), float("bias", 1.0));
    let square = pointwise::add(e, "mul(x0,x0)", ty.dtype, &[x])?;
    let planes = reshape::to(e, square, dims(&[own[0], 1, own[1], own[2..].iter().product()]))?;
    let before = (size - 1) / 2;
    let window = Window {
        kernel: vec![size, 1],
        strides: vec![1; 2],
        pads: vec![before, 0, size - 1 - before, 0],
        dilations: vec![1; 2],
        ceil: false,
    };
    let mean = e.add(&pool::DEF, pool::attrs("average", &window, true), &[planes])?;
    let mean = reshape::to(e, mean, ty.shape.0)?;
    Ok(vec![pointwise::add(
        e,
        &format!("div(x0,pow(add({bias:?},mul({alpha:?},x1)),{beta:?}))"),
        ty.dtype,
        &[x, mean],
    )?])
}

/// Which norm: 1 or 2.
fn order(attrs: &Attrs) -> Result<i64, OpError> {
    match attrs.int("p").unwrap_or(2) {
        p @ (1 | 2) => Ok(p),
        p => Err(OpError::attribute("p", format!("is {p}, 1 or 2 is expected"))),
    }
}

fn infer_lp(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    order(infer.attrs)?;
    axis_attr(infer.attrs, -1, infer.ty(0)?.shape.rank())?;
    floats(infer, 1)
}

fn expand_lp(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let axis = axis_attr(e.attrs, -1, ty.shape.rank())?;
    let (before, norm) = if order(e.attrs)? == 1 { ("abs(x0)", "x1") } else { ("mul(x0,x0)", "sqrt(x1)") };
    let powers = pointwise::add(e, before, ty.dtype, &[x])?;
    let sum = reduce(e, "sum", powers, &[axis], true)?;
    Ok(vec![pointwise::add(e, &format!("select(eq(x1,0.0),0.0,div(x0,{norm}))"), ty.dtype, &[x, sum])?])
}

fn infer_mean_variance(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    axes(infer.attrs.ints("axes").unwrap_or(&[0, 2, 3]), infer.ty(0)?.shape.rank())?;
    floats(infer, 1)
}

fn expand_mean_variance(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let axes = axes(e.attrs.ints("axes").unwrap_or(&[0, 2, 3]), ty.shape.rank())?;
    let mean = reduce(e, "mean", x, &axes, true)?;
    let square = pointwise::add(e, "mul(sub(x0,x1),sub(x0,x1))", ty.dtype, &[x, mean])?;
    let variance = reduce(e, "mean", square, &axes, true)?;
    Ok(vec![pointwise::add(e, "div(sub(x0,x1),add(sqrt(x2),1e-9))", ty.dtype, &[x, mean, variance])?])
}

fn window(attrs: &Attrs, x: &Shape) -> Result<Window, OpError> {
    let kernel = attrs.ints("kernel_shape").ok_or_else(|| OpError::attribute("kernel_shape", "is missing"))?;
    Window::of(attrs, kernel.to_vec(), &x.0[2..])
}

/// Any positive order of a pool.
fn pool_order(attrs: &Attrs) -> Result<f32, OpError> {
    match attrs.int("p").unwrap_or(2) {
        p @ 1..=64 => Ok(p as f32),
        p => Err(OpError::attribute("p", format!("is {p}, 1 to 64 is expected"))),
    }
}

fn infer_pool(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = &floats(infer, 3)?[0];
    pool_order(infer.attrs)?;
    if x.shape.rank() > 4 && infer.attrs.int("ceil_mode").unwrap_or(0) != 0 {
        return Err(OpError::attribute("ceil_mode", "is 1, which is not supported over more than two spatial axes"));
    }
    let mut shape = x.shape.0[..2].to_vec();
    shape.extend(window(infer.attrs, &x.shape)?.out(&x.shape.0[2..])?);
    Ok(vec![TensorType::new(x.dtype, Shape(shape))])
}

/// `|x|^p`.
fn power(e: &mut Expand<'_, '_>, x: Val, p: f32) -> Result<Val, OpError> {
    let text = match p {
        1.0 => "abs(x0)".to_owned(),
        2.0 => "mul(x0,x0)".to_owned(),
        _ => format!("pow(abs(x0),{p:?})"),
    };
    {
        let between = crate::ops::util::between(e.ty(x).dtype);
        pointwise::add(e, &text, between, &[x])
    }
}

fn expand_pool(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let (window, p) = (window(e.attrs, &ty.shape)?, pool_order(e.attrs)?);
    let powers = power(e, x, p)?;
    let n: i64 = window.kernel.iter().product();
    let mean = if ty.shape.rank() > 4 {
        let lists = [
            ("kernel_shape", &window.kernel),
            ("strides", &window.strides),
            ("pads", &window.pads),
            ("dilations", &window.dilations),
        ];
        let attrs = lists.into_iter().fold(Attrs::new(), |attrs, (name, list)| attrs.with_ints(name, list.clone()));
        e.add(&crate::ops::onnx::pooling::AVERAGE, attrs.with_int("count_include_pad", 1), &[powers])?
    } else {
        let plane = [&ty.shape.0[..2], &vec![Dim::Known(1); 4 - ty.shape.rank()], &ty.shape.0[2..]].concat();
        let powers = reshape::to(e, powers, plane)?;
        e.add(&pool::DEF, pool::attrs("average", &window.flat(), true), &[powers])?
    };
    let y = pointwise::add(e, &format!("pow(mul(x0,{:?}),{:?})", n as f32, 1.0 / p), ty.dtype, &[mean])?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![reshape::to(e, y, shape)?])
}

fn infer_global(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = &floats(infer, 3)?[0];
    pool_order(infer.attrs)?;
    let axes: Vec<usize> = (2..x.shape.rank()).collect();
    Ok(vec![TensorType::new(x.dtype, crate::ops::core::reduce::reduced(&x.shape, &axes, true))])
}

fn expand_global(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let (p, axes): (f32, Vec<usize>) = (pool_order(e.attrs)?, (2..ty.shape.rank()).collect());
    let powers = power(e, x, p)?;
    let sum = reduce(e, "sum", powers, &axes, true)?;
    Ok(vec![pointwise::add(e, &format!("pow(x0,{:?})", 1.0 / p), ty.dtype, &[sum])?])
}
