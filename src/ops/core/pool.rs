//! `pool`: the maximum or average of a sliding window.

use crate::ir::{Attrs, CORE, Class, DType, Infer, KERNEL, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::core::layout;
use crate::ops::core::pointwise::Real;
use crate::ops::core::window::Window;
use crate::ops::util::{finish_floats, is_double, n_elems, operand, result, split_own};
use rayon::prelude::*;

/// `pool(x) {kind, kernel, strides, pads, dilations, ceil, count_pad, layout, dtype, epilogue}` over the last two axes
/// of `[N,C,H,W]`, with the layout `nhwc` over the middle ones of `[N,H,W,C]`.
pub static DEF: OpDef = OpDef {
    name: "pool",
    onnx: "",
    levels: CORE | KERNEL,
    attrs: &[
        attr::text("kind"),
        attr::ints("kernel"),
        attr::ints("strides"),
        attr::ints("pads"),
        attr::ints("dilations"),
        attr::int("ceil"),
        attr::int("count_pad"),
        attr::text("layout"),
        attr::dtype("dtype"),
        attr::expr("epilogue"),
    ],
    arity: (1, 1),
    infer,
    eval: Some(eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// Attributes of a pool; the window is over two axes.
pub fn attrs(kind: &str, window: &Window, count_pad: bool) -> Attrs {
    window
        .write(Attrs::new())
        .with_str("kind", kind)
        .with_int("ceil", i64::from(window.ceil))
        .with_int("count_pad", i64::from(count_pad))
}

fn is_max(attrs: &Attrs) -> Result<bool, OpError> {
    match attrs.str("kind") {
        Some("max") => Ok(true),
        Some("average") => Ok(false),
        other => Err(OpError::attribute("kind", format!("is {other:?}"))),
    }
}

fn window(attrs: &Attrs, x: &Shape) -> Result<Window, OpError> {
    let kernel = attrs.ints("kernel").ok_or_else(|| OpError::attribute("kernel", "is missing"))?;
    Window::of(attrs, kernel.to_vec(), &x.0[2..])
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    is_max(infer.attrs)?;
    if !x.dtype.is_float() || x.shape.rank() != 4 {
        return Err(OpError::operand(0, x, "floats [N,C,H,W]"));
    }
    let infer_nchw = |image: &Shape| -> Result<Shape, OpError> {
        let mut shape = image.0[..2].to_vec();
        shape.extend(window(infer.attrs, image)?.out(&image.0[2..])?);
        Ok(Shape(shape))
    };
    result(infer, Class::Float, x.dtype, layout::of_images(infer.attrs, &x.shape, infer_nchw)?)
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    let x = operand(own, 0)?;
    if layout::is_nhwc(attrs)? {
        return layout::eval_as_nchw(attrs, x, extra, eval);
    }
    if is_double(attrs, own) { eval_in::<f64>(attrs, x, extra) } else { eval_in::<f32>(attrs, x, extra) }
}

fn eval_in<F: Real>(attrs: &Attrs, x: &Tensor, extra: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let [n, c, height, width] = x.dims()[..] else { return Err(OpError::operand(0, x.ty(), "[N,C,H,W]")) };
    let max = is_max(attrs)?;
    let count_pad = attrs.int("count_pad").unwrap_or(0) != 0;
    let window = window(attrs, &x.ty().shape)?;
    let [oh, ow] = Shape(window.out(&x.ty().shape.0[2..])?).known().unwrap_or_default()[..] else {
        return Err(OpError::operand(0, x.ty(), "a tensor of known size"));
    };
    let plain = window.plain();
    let dims = [n, c, oh, ow];
    let mut out = vec![if max { F::neg_infinity() } else { F::zero() }; n_elems(&dims)?];
    let data = F::elements(x)?;
    let [kh, kw] = plain.kernel;
    let full = F::of_f64((kh * kw) as f64);
    out.par_chunks_mut((oh * ow).max(1)).enumerate().for_each(|(at, out)| {
        let x = &data[at * height * width..(at + 1) * height * width];
        let mut counts = vec![0u32; if max || count_pad { 0 } else { out.len() }];
        for tap in 0..kh * kw {
            let (ky, kx) = (tap / kw, tap % kw);
            let (y0, y1) = plain.span(0, ky, height, oh);
            let (x0, x1) = plain.span(1, kx, width, ow);
            if x0 == x1 {
                continue;
            }
            for y in y0..y1 {
                let row = &x[plain.element(0, ky, y) * width + plain.element(1, kx, x0)..];
                let row = row.iter().step_by(plain.strides[1]);
                let range = y * ow + x0..y * ow + x1;
                if max {
                    out[range]
                        .iter_mut()
                        .zip(row)
                        .for_each(|(out, x)| *out = if *x > *out || x.is_nan() { *x } else { *out });
                } else {
                    out[range.clone()].iter_mut().zip(row).for_each(|(out, x)| *out += *x);
                    if !count_pad {
                        counts[range].iter_mut().for_each(|n| *n += 1);
                    }
                }
            }
        }
        if !max && count_pad {
            out.iter_mut().for_each(|v| *v = *v / full);
        }
        out.iter_mut().zip(&counts).for_each(|(v, n)| *v = *v / F::of_f64(f64::from((*n).max(1))));
    });
    finish_floats(attrs, &dims, out, if x.dtype().is_float() { x.dtype() } else { DType::F32 }, extra)
}
