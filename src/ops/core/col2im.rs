//! ONNX Col2Im: overlapping windows added up, on the host.

use crate::ir::{Attrs, CORE, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::core::window::Window;
use crate::ops::reference::real::Real;
use crate::ops::util::{finish_floats, float_operand, is_double, n_elems, operand};

/// `col2im(x, image, block) {strides, pads, dilations}`: ONNX Col2Im, opset 18: x `[N,C*prod(block),L]`, columns added
/// up where they overlap.
pub static DEF: OpDef = OpDef {
    name: "col2im",
    onnx: "Col2Im",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::ints("strides"), attr::ints("pads"), attr::ints("dilations")],
    arity: (3, 3),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

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

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = float_operand(infer, 0)?;
    let ints = |slot: usize| infer.ints(slot)?.ok_or(OpError::MissingOperand { slot });
    let (image, block) = (ints(1)?, ints(2)?);
    let (image, _, _) = col2im_plan(infer.attrs, x, &image, &block)?;
    let own = crate::ops::compose::sizes(0, x)?;
    let taps: usize = block.iter().map(|&b| b as usize).product();
    Ok(vec![TensorType::of(x.dtype, &[&[own[0], own[1] / taps], &image[..]].concat())])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    if is_double(attrs, inputs) { added::<f64>(attrs, inputs) } else { added::<f32>(attrs, inputs) }
}

fn added<F: Real>(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
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
