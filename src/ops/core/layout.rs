//! Where the channels of images stand: the attribute `layout` of what works on windows and images. `nchw`, as ONNX has
//! it and where it is absent, or `nhwc`, channels last, in which neighbouring channels of a pixel are contiguous.

use crate::ir::{Attrs, DType, EvalFn, OpError, Shape, Tensor};
use crate::ops::core::strided;
use crate::ops::util::finish;

/// The axes of `[N,C,H,W]` in the order of `[N,H,W,C]`.
pub const TO_NHWC: [usize; 4] = [0, 2, 3, 1];
/// The axes of `[N,H,W,C]` in the order of `[N,C,H,W]`.
pub const TO_NCHW: [usize; 4] = [0, 3, 1, 2];

/// Whether channels are last.
///
/// # Errors
/// The attribute is neither of both.
pub fn is_nhwc(attrs: &Attrs) -> Result<bool, OpError> {
    match attrs.str("layout") {
        None | Some("nchw") => Ok(false),
        Some("nhwc") => Ok(true),
        Some(other) => Err(OpError::attribute("layout", format!("is {other:?}, nchw or nhwc is expected"))),
    }
}

fn permuted(shape: &Shape, perm: [usize; 4]) -> Option<Shape> {
    (shape.rank() == 4).then(|| Shape(perm.iter().map(|&axis| shape.0[axis].clone()).collect()))
}

/// `[N,C,H,W]` as `[N,H,W,C]`; `None` where it has not four axes.
pub fn nhwc(shape: &Shape) -> Option<Shape> {
    permuted(shape, TO_NHWC)
}

/// `[N,H,W,C]` as `[N,C,H,W]`; `None` where it has not four axes.
pub fn nchw(shape: &Shape) -> Option<Shape> {
    permuted(shape, TO_NCHW)
}

/// The shape of a result whose operand has the shape `x`, by a rule for `[N,C,H,W]`.
///
/// # Errors
/// Those of the rule; x has not four axes where channels are last.
pub fn of_images(
    attrs: &Attrs,
    x: &Shape,
    rule: impl FnOnce(&Shape) -> Result<Shape, OpError>,
) -> Result<Shape, OpError> {
    if !is_nhwc(attrs)? {
        return rule(x);
    }
    let refuse = || OpError::operand(0, x, "[N,H,W,C]");
    nhwc(&rule(&nchw(x).ok_or_else(refuse)?)?).ok_or_else(refuse)
}

/// `tensor` with its axes in another order.
///
/// # Errors
/// It is packed, has no data, or has not four axes.
pub fn transposed(tensor: &Tensor, perm: [usize; 4]) -> Result<Tensor, OpError> {
    let view =
        strided::permuted(&tensor.ty().shape, &perm).ok_or_else(|| OpError::operand(0, tensor.ty(), "four axes"))?;
    let eval = strided::DEF.eval.ok_or(OpError::Bug("strided without a reference"))?;
    eval(&view.attrs(), &[Some(tensor)])?.pop().ok_or(OpError::MissingOperand { slot: 0 })
}

/// What `eval` gives for `[N,C,H,W]`, with channels last.
///
/// # Errors
/// Those of `eval`.
pub fn eval_as_nchw(
    attrs: &Attrs,
    x: &Tensor,
    extra: &[Option<&Tensor>],
    eval: EvalFn,
) -> Result<Vec<Tensor>, OpError> {
    let mut alone = attrs.clone().with_dtype("dtype", DType::F32);
    alone.0.remove("epilogue");
    alone.0.remove("layout");
    let y = eval(&alone, &[Some(&transposed(x, TO_NCHW)?)])?.pop().ok_or(OpError::MissingOperand { slot: 0 })?;
    finish(attrs, transposed(&y, TO_NHWC)?, x.dtype(), extra)
}
