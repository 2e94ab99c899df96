//! `conv_transpose`: the gradient of a convolution, as a convolution.

use super::util::ints_attr;
use super::window::Window;
use crate::ir::{Attrs, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, product, attr};

/// `conv_transpose(x, w, bias?) {strides, pads, dilations, group, output_padding, output_shape, auto_pad}`: ONNX ConvTranspose, opset 22, over
/// one or two spatial axes and in one group. w is `[C, OC, kh, kw]`.
pub static DEF: OpDef = OpDef {
    name: "conv_transpose",
    onnx: "ConvTranspose",
    levels: ONNX,
    attrs: &[attr::ints("kernel_shape"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::int("group"), attr::ints("output_padding"), attr::ints("output_shape"), attr::text("auto_pad")],
    arity: (2, 3),
    infer,
    eval: None,
    expand: Some(expand),
};

/// The window without pads, and how many elements of the full result are dropped before and after each axis (less than none: added).
fn plan(attrs: &Attrs, x: &Shape, w: &Shape) -> Result<(Window, Vec<(i64, i64)>), OpError> {
    let (spatial, n) = (&x.0[2..], x.rank() - 2);
    let kernel: Option<Vec<i64>> = w.0[2..].iter().map(Dim::known).collect();
    let kernel = kernel.ok_or_else(|| OpError::operand(1, w, "a kernel of known size"))?;
    let auto = attrs.str("auto_pad").unwrap_or("NOTSET");
    let mut bare = attrs.clone();
    bare.0.remove("auto_pad");
    if auto != "NOTSET" {
        bare.0.remove("pads");
    }
    let window = Window::of(&bare, kernel, spatial)?;
    let extra = ints_attr(attrs, "output_padding")?.unwrap_or_else(|| vec![0; n]);
    let wanted = ints_attr(attrs, "output_shape")?;
    if extra.len() != n || extra.iter().any(|v| !(0..1 << 24).contains(v)) || wanted.as_ref().is_some_and(|w| w.len() != n) {
        return Err(OpError::attribute("output_padding", format!("is {extra:?} for {n} spatial axes")));
    }
    let mut cuts = Vec::new();
    for i in 0..n {
        let full = &(&(&spatial[i] - &Dim::Known(1)) * &Dim::Known(window.strides[i])) + &Dim::Known(window.extent(i) + extra[i]);
        let wanted = match (&wanted, auto) {
            (Some(wanted), _) => Some(Dim::Known(wanted[i])),
            (None, "SAME_UPPER" | "SAME_LOWER") => Some(&spatial[i] * &Dim::Known(window.strides[i])),
            _ => None,
        };
        cuts.push(match wanted {
            None => (window.pads[i], window.pads[n + i] - extra[i]),
            Some(wanted) => {
                let total = (&full - &wanted).known().ok_or_else(|| OpError::operand(0, x, "known sizes"))?;
                let half = total / 2;
                let before = if auto == "SAME_UPPER" { half } else { total - half };
                (before, total - before - extra[i])
            }
        });
    }
    Ok((window, cuts))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, w) = (infer.ty(0)?, infer.ty(1)?);
    if !(3..=4).contains(&x.shape.rank()) || w.shape.rank() != x.shape.rank() || !x.dtype.is_float() || !w.dtype.is_float() {
        return Err(OpError::operand(0, x, "floats with one or two spatial axes"));
    }
    if infer.attrs.int("group").unwrap_or(1) != 1 {
        return Err(OpError::unsupported("a transposed convolution in groups"));
    }
    if x.shape.0[1] != w.shape.0[0] && x.shape.0[1].known().is_some() {
        return Err(OpError::operand(1, w, format!("[{},OC,...]", x.shape.0[1])));
    }
    let (window, cuts) = plan(infer.attrs, &x.shape, &w.shape)?;
    let mut shape = vec![x.shape.0[0].clone(), w.shape.0[1].clone()];
    for (i, (before, after)) in cuts.iter().enumerate() {
        let full = &(&(&x.shape.0[2 + i] - &Dim::Known(1)) * &Dim::Known(window.strides[i])) + &Dim::Known(window.extent(i));
        shape.push(&full - &Dim::Known(before.saturating_add(*after)));
    }
    if shape.iter().any(|d| d.known().is_some_and(|n| n < 0)) {
        return Err(OpError::attribute("pads", "leave nothing"));
    }
    Ok(vec![TensorType::new(x.dtype, Shape(shape))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (mut x, mut w) = (e.input(0)?, e.input(1)?);
    let (x_ty, w_ty) = (e.ty(x), e.ty(w));
    let (window, mut cuts) = plan(e.attrs, &x_ty.shape, &w_ty.shape)?;
    let (window, dtype) = (window.flat(), e.outputs[0].dtype);
    if cuts.len() == 1 {
        cuts.insert(0, (0, 0));
    }
    let plane = |shape: &Shape| [&shape.0[..2], &vec![Dim::Known(1); 4 - shape.rank()], &shape.0[2..]].concat();
    let (x_dims, w_dims) = (plane(&x_ty.shape), plane(&w_ty.shape));
    x = super::reshape::to(e, x, x_dims.clone())?;
    w = super::reshape::to(e, w, w_dims.clone())?;
    let mut y = if window.kernel == window.strides && cuts.iter().all(|c| *c == (0, 0)) && window.dilations.iter().all(|&d| d == 1) {
        patches(e, x, w, &x_dims, &w_dims)?
    } else {
        stretched(e, x, w, &window, &cuts)?
    };
    let oc = w_dims[1].clone();
    if let Some(bias) = e.optional(2) {
        let bias = super::reshape::to(e, bias, vec![Dim::Known(1), oc, Dim::Known(1), Dim::Known(1)])?;
        y = super::pointwise::add(e, "add(x0,x1)", dtype, &[y, bias])?;
    }
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![super::reshape::to(e, y, shape)?])
}

/// Windows that do not overlap: each pixel makes its own patch, a convolution of kernel 1 whose channels are then laid out as planes.
fn patches(e: &mut Expand<'_, '_>, x: Val, w: Val, x_dims: &[Dim], w_dims: &[Dim]) -> Result<Val, OpError> {
    let (kh, kw) = (w_dims[2].clone(), w_dims[3].clone());
    let depth = product(&w_dims[1..]);
    let w = super::reshape::to(e, w, vec![w_dims[0].clone(), depth.clone()])?;
    let w = super::movement::transpose(e, w, &[1, 0])?;
    let w = super::reshape::to(e, w, vec![depth, w_dims[0].clone(), Dim::Known(1), Dim::Known(1)])?;
    let one = Window { kernel: vec![1, 1], strides: vec![1, 1], pads: vec![0; 4], dilations: vec![1, 1], ceil: false };
    let y = e.add(&super::conv::DEF, one.write(Attrs::new()).with_int("group", 1), &[x, w])?;
    let [n, _, h, width] = x_dims else { return Err(OpError::MissingOperand { slot: 0 }) };
    let y = super::reshape::to(e, y, vec![n.clone(), w_dims[1].clone(), kh.clone(), kw.clone(), h.clone(), width.clone()])?;
    let y = super::movement::transpose(e, y, &[0, 1, 4, 2, 5, 3])?;
    super::reshape::to(e, y, vec![n.clone(), w_dims[1].clone(), h * &kh, width * &kw])
}

/// In general: zeros between the pixels, and a convolution with the kernel turned round.
fn stretched(e: &mut Expand<'_, '_>, mut x: Val, w: Val, window: &Window, cuts: &[(i64, i64)]) -> Result<Val, OpError> {
    use super::strided::{View, row_major, view};
    let dims = e.ty(x).shape.0;
    let (sh, sw) = (Dim::Known(window.strides[0]), Dim::Known(window.strides[1]));
    let one = || Dim::Known(1);
    if window.strides != [1, 1] {
        let own = row_major(&dims);
        let shape = vec![dims[0].clone(), dims[1].clone(), dims[2].clone(), sh.clone(), dims[3].clone(), sw.clone()];
        let strides = vec![own[0].clone(), own[1].clone(), own[2].clone(), Dim::Known(0), own[3].clone(), Dim::Known(0)];
        let hi = vec![dims[0].clone(), dims[1].clone(), dims[2].clone(), one(), dims[3].clone(), one()];
        let inside = Some((vec![Dim::Known(0); 6], hi));
        x = view(e, x, &View { shape, strides, inside, ..View::default() })?;
        x = super::reshape::to(e, x, vec![dims[0].clone(), dims[1].clone(), &dims[2] * &sh, &dims[3] * &sw])?;
    }
    // What surrounds the stretched plane: a window less one, less what is cut; behind it already stand stride - 1 zeros.
    let before = |i: usize| window.extent(i) - 1 - cuts[i].0;
    let after = |i: usize| window.extent(i) - 1 - cuts[i].1 - (window.strides[i] - 1);
    let (mut pads, around) = (vec![before(0), before(1), after(0), after(1)], e.ty(x).shape.0);
    if pads.iter().any(|&p| p < 0) {
        let shape: Vec<Dim> = (0..4).map(|i| if i < 2 { around[i].clone() } else { &around[i] + &Dim::Known(pads[i - 2] + pads[i]) }).collect();
        let lo = (0..4).map(|i| Dim::Known(if i < 2 { 0 } else { pads[i - 2].max(0) })).collect();
        let hi = (0..4).map(|i| if i < 2 { around[i].clone() } else { &around[i] + &Dim::Known(pads[i - 2]) }).collect();
        let strides = row_major(&around);
        let offset = (2..4).fold(Dim::Known(0), |sum, i| &sum - &(&Dim::Known(pads[i - 2]) * &strides[i]));
        x = view(e, x, &View { shape, strides, offset: Some(offset), inside: Some((lo, hi)), fill: 0.0 })?;
        pads = vec![0; 4];
    }
    let w_dims = e.ty(w).shape.0;
    let own = row_major(&w_dims);
    let turned = View {
        shape: vec![w_dims[1].clone(), w_dims[0].clone(), w_dims[2].clone(), w_dims[3].clone()],
        strides: vec![own[1].clone(), own[0].clone(), &own[2] * &Dim::Known(-1), Dim::Known(-1)],
        offset: Some(&product(&w_dims[2..]) - &one()),
        ..View::default()
    };
    let w = view(e, w, &turned)?;
    let whole = Window { strides: vec![1, 1], pads, ceil: false, ..window.clone() };
    e.add(&super::conv::DEF, whole.write(Attrs::new()).with_int("group", 1), &[x, w])
}
