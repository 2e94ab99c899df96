//! ONNX LRN: local response normalization.

use crate::ir::expr::build::arg;
use crate::ir::{Expand, OpError, Val, attr};
use crate::ops::compose::{dims, sizes};
use crate::ops::core::window::Window;
use crate::ops::core::{pointwise, pool, reshape};
use crate::ops::util::like_floats;

written_out! {
    /// `lrn(x) {alpha, beta, bias, size}`: ONNX LRN, opset 13: `x / (bias + alpha / size * sum of squares of
    /// neighbouring channels) ^ beta`.
    DEF "lrn" "LRN" (1, 1) [attr::float("alpha"), attr::float("beta"), attr::float("bias"), attr::int("size")] |i| like_floats(i, 2), expand;
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
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
    let square = pointwise::add(e, arg(0) * arg(0), ty.dtype, &[x])?;
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
    Ok(vec![pointwise::add(e, arg(0) / (bias + alpha * arg(1)).pow(beta), ty.dtype, &[x, mean])?])
}
