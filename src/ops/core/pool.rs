//! `pool`: the maximum or average of a sliding window.

use crate::ir::expr::build::arg;
use crate::ir::{
    Attrs, CORE, Class, DType, Differentiate, Dim, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor,
    TensorType, Val, attr,
};
use crate::ops::core::layout;
use crate::ops::core::pointwise;
use crate::ops::core::strided::{Axis, Fill, View, adjoint, view};
use crate::ops::core::window::Window;
use crate::ops::reference::real::Real;
use crate::ops::util::{between, finish_floats, is_double, n_elems, operand, result, split_own};
use rayon::prelude::*;

/// `pool(x) {kind, kernel, strides, pads, dilations, ceil, count_pad, layout, dtype, epilogue}` over the last two axes
/// of `[N,C,H,W]`, with the layout `nhwc` over the middle ones of `[N,H,W,C]`.
pub static DEF: OpDef = OpDef {
    name: "pool",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
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
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: Some(&gradient),
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
        return layout::eval_as_nchw(attrs, x, extra, &eval);
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

/// Most elements of a window whose derivative is written out, place by place.
const MAX_TAPS: i64 = 1024;

/// Every element of a window gains its share of what the window's average does; the first that is the maximum gains
/// what that does.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (x, y, gain, sizes) = (d.input(0)?, d.result()?, d.gain()?, d.sizes(0)?);
    if layout::is_nhwc(d.attrs)? {
        return Err(OpError::unsupported("the derivative of a pool with channels last"));
    }
    let (is_max, window) = (is_max(d.attrs)?, window(d.attrs, &d.ty(x).shape)?);
    let n_taps = window.kernel[0].saturating_mul(window.kernel[1]);
    if n_taps > MAX_TAPS {
        return Err(OpError::over_limit("elements of a window with a derivative", n_taps, MAX_TAPS));
    }
    let (dtype, out) = (d.ty(gain).dtype, crate::ops::compose::sizes(0, &d.ty(gain))?);
    let size = |i: usize| (sizes[2 + i] as i64, out[2 + i] as i64);
    // The positions along an axis at which a place of the window is between `first` and `end`.
    let within = |i: usize, tap: i64, first: i64, end: i64| {
        let (step, at) = (window.strides[i], tap * window.dilations[i] - window.pads[i]);
        let up_to = |bound: i64| (bound - at + step - 1).div_euclid(step).clamp(0, size(i).1);
        (up_to(first), up_to(end))
    };
    let each = if is_max {
        gain
    } else {
        let counts_pads = d.attrs.int("count_pad").unwrap_or(0) != 0;
        let count = |i: usize| -> Vec<f32> {
            let mut counts = vec![0.0; size(i).1 as usize];
            for tap in 0..window.kernel[i] {
                let (first, end) =
                    if counts_pads { (-window.pads[i], size(i).0 + window.pads[2 + i]) } else { (0, size(i).0) };
                let (lo, hi) = within(i, tap, first, end);
                counts[lo as usize..hi.max(lo) as usize].iter_mut().for_each(|n| *n += 1.0);
            }
            counts
        };
        let rows = crate::ops::compose::floats(d, &[1, 1, out[2], 1], &count(0))?;
        let columns = crate::ops::compose::floats(d, &[1, 1, 1, out[3]], &count(1))?;
        pointwise::add(d, arg(0) / (arg(1) * arg(2)), dtype, &[gain, rows, columns])?
    };
    let (h, w) = (sizes[2] as i64, sizes[3] as i64);
    let strides = [sizes[1] as i64 * h * w, h * w, window.strides[0] * w, window.strides[1]];
    let (mut sum, mut taken): (Option<Val>, Option<Val>) = (None, None);
    for (ky, kx) in (0..window.kernel[0]).flat_map(|ky| (0..window.kernel[1]).map(move |kx| (ky, kx))) {
        let (rows, columns) = (within(0, ky, 0, h), within(1, kx, 0, w));
        if rows.0 >= rows.1 || columns.0 >= columns.1 {
            continue;
        }
        let at = |i: usize, tap: i64| tap * window.dilations[i] - window.pads[i];
        let offset = at(0, ky) * w + at(1, kx);
        let bounds = [(0, out[0] as i64), (0, out[1] as i64), rows, columns];
        let mut part = each;
        if is_max {
            let known = |list: &[i64]| list.iter().map(|n| Dim::Known(*n)).collect::<Vec<_>>();
            let inside = (known(&bounds.map(|b| b.0)), known(&bounds.map(|b| b.1)));
            let read = View {
                shape: crate::ops::compose::dims(&out),
                strides: known(&strides),
                offset: Some(Dim::Known(offset)),
                inside: Some(inside),
                fill: Fill::Float(f32::NEG_INFINITY),
            };
            let read = view(d, x, &read)?;
            let (is_it, operands) = match taken {
                Some(taken) => (arg(0).equals(arg(1)).and(arg(2).equals(0.0)).to_float(), vec![read, y, taken]),
                None => (arg(0).equals(arg(1)).to_float(), vec![read, y]),
            };
            let is_it = pointwise::add(d, is_it, between(dtype), &operands)?;
            taken = Some(match taken {
                Some(taken) => pointwise::add(d, arg(0) + arg(1), between(dtype), &[taken, is_it])?,
                None => is_it,
            });
            part = pointwise::add(d, arg(0) * arg(1), dtype, &[gain, is_it])?;
        }
        let axis = |i: usize| Axis { lo: bounds[i].0, hi: bounds[i].1, stride: strides[i] };
        let part = adjoint(d, part, &[0, 1, 2, 3].map(axis), offset, &sizes)?;
        sum = Some(match sum {
            Some(sum) => pointwise::add(d, arg(0) + arg(1), dtype, &[sum, part])?,
            None => part,
        });
    }
    Ok(Gains::Are(vec![sum]))
}
