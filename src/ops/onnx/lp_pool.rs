//! ONNX LpPool and GlobalLpPool: pools by norms.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Dim, Expand, Infer, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::reduce;
use crate::ops::core::window::Window;
use crate::ops::core::{pointwise, pool, reshape};
use crate::ops::util::like_floats;

written_out! {
    /// `lp_pool(x) {kernel_shape, p, strides, pads, dilations, auto_pad, ceil_mode}`: ONNX LpPool, opset 22, over one
    /// or two spatial axes.
    DEF "lp_pool" "LpPool" (1, 1) [attr::ints("kernel_shape"), attr::int("p"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::text("auto_pad"), attr::int("ceil_mode")] infer, expand;
}

written_out! {
    /// `global_lp_pool(x) {p}`: ONNX GlobalLpPool, opset 22.
    GLOBAL "global_lp_pool" "GlobalLpPool" (1, 1) [attr::int("p")] infer_global, expand_global;
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

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = &like_floats(infer, 3)?[0];
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
    let expr = match p {
        1.0 => arg(0).abs(),
        2.0 => arg(0) * arg(0),
        _ => arg(0).abs().pow(p),
    };
    {
        let between = crate::ops::util::between(e.ty(x).dtype);
        pointwise::add(e, expr, between, &[x])
    }
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
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
    let y = pointwise::add(e, (arg(0) * (n as f32)).pow(1.0 / p), ty.dtype, &[mean])?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![reshape::to(e, y, shape)?])
}

fn infer_global(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = &like_floats(infer, 3)?[0];
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
    Ok(vec![pointwise::add(e, arg(0).pow(1.0 / p), ty.dtype, &[sum])?])
}
