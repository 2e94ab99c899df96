//! ONNX DeformConv: convolutions whose windows are moved tap by tap, on the host.

use crate::ir::{Attrs, CORE, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::core::interpolate::{Mode, Outside, gathered, taps};
use crate::ops::core::window::Window;
use crate::ops::reference::real::Real;
use crate::ops::util::{finish_floats, float_operand, is_double, n_elems, operand};
use rayon::prelude::*;

/// `deform_conv(x, w, offset, bias?, mask?) {...}`: ONNX DeformConv, opset 22, over two spatial axes.
pub static DEF: OpDef = OpDef {
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
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// The window of a deformable convolution, its groups and groups of offsets.
fn deform_plan(attrs: &Attrs, x: &Shape, w: &Shape) -> Result<(Window, usize, usize), OpError> {
    let window = crate::ops::core::conv::window(attrs, w, x.0.get(2..).unwrap_or_default())?;
    let count = |name: &'static str| {
        let n = attrs.int(name).unwrap_or(1);
        usize::try_from(n).ok().filter(|&n| n > 0).ok_or_else(|| OpError::attribute(name, format!("is {n}")))
    };
    Ok((window, count("group")?, count("offset_group")?))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, w) = (float_operand(infer, 0)?, float_operand(infer, 1)?);
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
    Ok(vec![TensorType::of(x.dtype, &[n, oc, out[0], out[1]])])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    if is_double(attrs, inputs) { convolved::<f64>(attrs, inputs) } else { convolved::<f32>(attrs, inputs) }
}

fn convolved<F: Real>(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (x, w, offset) = (operand(inputs, 0)?, operand(inputs, 1)?, operand(inputs, 2)?);
    let (window, group, offset_group) = deform_plan(attrs, &x.ty().shape, &w.ty().shape)?;
    let (&[n, c, height, width], &[oc, depth, kh, kw]) = (&x.dims()[..], &w.dims()[..]) else {
        return Err(OpError::operand(0, x.ty(), "[N,C,H,W]"));
    };
    let out = Shape(window.out(&x.ty().shape.0[2..])?).known().unwrap_or_default();
    let (dims, pixels) = ([n, oc, out[0], out[1]], out[0] * out[1]);
    let bias = inputs.get(3).copied().flatten().map(F::elements).transpose()?;
    let mask = inputs.get(4).copied().flatten().map(F::elements).transpose()?;
    let (data, filters, offset) = (F::elements(x)?, F::elements(w)?, F::elements(offset)?);
    let modes = (Mode::Linear, Outside::Zeros, true);
    let mut y = vec![F::zero(); n_elems(&dims)?];
    if pixels == 0 || height == 0 || width == 0 {
        return finish_floats(attrs, &dims, y, x.dtype(), &[]);
    }
    let taps_n = kh * kw;
    y.par_chunks_mut(oc * pixels).enumerate().for_each(|(image, y)| {
        let mut columns = vec![F::zero(); c * taps_n];
        let mut axes = [Vec::new(), Vec::new()];
        for pixel in 0..pixels {
            let (oy, ox) = ((pixel / out[1]) as i64, (pixel % out[1]) as i64);
            for g in 0..offset_group {
                for tap in 0..taps_n {
                    let (ky, kx) = ((tap / kw) as i64, (tap % kw) as i64);
                    let at =
                        |part: usize| offset[(((image * offset_group + g) * taps_n + tap) * 2 + part) * pixels + pixel];
                    let vy = F::of_i64(oy * window.strides[0] - window.pads[0] + ky * window.dilations[0]) + at(0);
                    let vx = F::of_i64(ox * window.strides[1] - window.pads[1] + kx * window.dilations[1]) + at(1);
                    taps(vy, height, modes, &mut axes[0]);
                    taps(vx, width, modes, &mut axes[1]);
                    let factor = mask
                        .as_ref()
                        .map_or(F::one(), |m| m[((image * offset_group + g) * taps_n + tap) * pixels + pixel]);
                    for channel in g * (c / offset_group)..(g + 1) * (c / offset_group) {
                        let plane = &data[(image * c + channel) * height * width..][..height * width];
                        columns[channel * taps_n + tap] = factor * gathered(plane, &[width, 1], &axes, 0);
                    }
                }
            }
            for filter in 0..oc {
                let first = filter / (oc / group) * depth * taps_n;
                let weights = &filters[filter * depth * taps_n..][..depth * taps_n];
                let sum: F = weights.iter().zip(&columns[first..]).map(|(w, v)| *w * *v).sum();
                y[filter * pixels + pixel] = sum + bias.as_ref().map_or(F::zero(), |b| b[filter]);
            }
        }
    });
    finish_floats(attrs, &dims, y, x.dtype(), &[])
}
