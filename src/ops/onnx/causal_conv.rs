//! ONNX CausalConvWithState: a convolution over what was and what is, and what it leaves for the next call.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::{concat, dims, part, sizes, zeros};
use crate::ops::core::window::Window;
use crate::ops::core::{conv, pointwise, reshape};

/// `causal_conv_with_state(x, w, bias?, past?) {activation}`: ONNX CausalConvWithState, opset 27: x `[N,C,L]`, w
/// `[C,1,k]`, past `[N,C,k-1]`; the result and the last k - 1 elements that were read.
pub static DEF: OpDef = OpDef {
    name: "causal_conv_with_state",
    onnx: "CausalConvWithState",
    levels: ONNX,
    attrs: &[attr::text("activation")],
    arity: (2, 4),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, w) = (infer.ty(0)?, infer.ty(1)?);
    let (own, kernel) = (sizes(0, x)?, sizes(1, w)?);
    let (&[n, c, _], &[filters, 1, k]) = (&own[..], &kernel[..]) else {
        return Err(OpError::operand(1, w, format!("[C,1,k] for {x}")));
    };
    if !x.dtype.is_float() || x.packing.is_some() || filters != c || k == 0 {
        return Err(OpError::operand(1, w, format!("[{c},1,k]")));
    }
    for (slot, expected) in [(2, vec![c]), (3, vec![n, c, k - 1])] {
        if let Some(Some(ty)) = infer.inputs.get(slot)
            && ty.shape != Shape::of(&expected)
        {
            return Err(OpError::operand(slot, ty, Shape::of(&expected)));
        }
    }
    if !matches!(infer.attrs.str("activation"), None | Some("none" | "silu" | "swish")) {
        return Err(OpError::attribute("activation", format!("is {:?}", infer.attrs.str("activation"))));
    }
    Ok(vec![x.clone(), TensorType::of(x.dtype, &[n, c, k - 1])])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, w, bias) = (e.input(0)?, e.input(1)?, e.optional(2));
    let ty = e.ty(x);
    let (own, k) = (sizes(0, &ty)?, sizes(1, &e.ty(w))?[2]);
    let (n, c, len) = (own[0], own[1], own[2]);
    let mut read = x;
    if k > 1 {
        let past = match e.optional(3) {
            Some(past) => past,
            None => zeros(e, ty.dtype, &[n, c, k - 1])?,
        };
        read = concat(e, &[past, x], 2)?;
    }
    let planes = reshape::to(e, read, dims(&[n, c, 1, len + k - 1]))?;
    let filters = reshape::to(e, w, dims(&[c, 1, 1, k]))?;
    let window =
        Window { kernel: vec![1, k as i64], strides: vec![1; 2], pads: vec![0; 4], dilations: vec![1; 2], ceil: false };
    let mut y = e.add(&conv::DEF, window.write(Attrs::new()).with_int("group", c as i64), &[planes, filters])?;
    y = reshape::to(e, y, ty.shape.0)?;
    let sum = if bias.is_some() { arg(0) + arg(1) } else { arg(0) };
    let is_swish = matches!(e.attrs.str("activation"), Some("silu" | "swish"));
    let expr = if is_swish { sum.clone() * sum.sigmoid() } else { sum };
    if expr != arg(0) {
        let bias = bias.map(|bias| reshape::to(e, bias, dims(&[c, 1]))).transpose()?;
        let operands: Vec<Val> = [y].into_iter().chain(bias).collect();
        y = pointwise::add(e, expr, ty.dtype, &operands)?;
    }
    let state = part(e, read, 2, len as i64, k as i64 - 1)?;
    Ok(vec![y, state])
}
