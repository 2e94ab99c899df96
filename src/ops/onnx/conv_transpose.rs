//! `conv_transpose`: the gradient of a convolution, as a convolution.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr, product};
use crate::ops::core::window::Window;
use crate::ops::util::ints_attr;

/// `conv_transpose(x, w, bias?) {strides, pads, dilations, group, output_padding, output_shape, auto_pad}`: ONNX
/// ConvTranspose, opset 22, over one to three spatial axes. w is `[C, OC/group, ...]`.
pub static DEF: OpDef = OpDef {
    name: "conv_transpose",
    onnx: "ConvTranspose",
    levels: ONNX,
    attrs: &[
        attr::ints("kernel_shape"),
        attr::ints("strides"),
        attr::ints("pads"),
        attr::ints("dilations"),
        attr::int("group"),
        attr::ints("output_padding"),
        attr::ints("output_shape"),
        attr::text("auto_pad"),
    ],
    arity: (2, 3),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

/// The window without pads, and how many elements of the full result are dropped before and after each axis (less than
/// none: added).
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
    if extra.len() != n
        || extra.iter().any(|v| !(0..1 << 24).contains(v))
        || wanted.as_ref().is_some_and(|w| w.len() != n)
    {
        return Err(OpError::attribute("output_padding", format!("is {extra:?} for {n} spatial axes")));
    }
    let mut cuts = Vec::new();
    for i in 0..n {
        let full = &(&(&spatial[i] - &Dim::Known(1)) * &Dim::Known(window.strides[i]))
            + &Dim::Known(window.extent(i) + extra[i]);
        let wanted = match (&wanted, auto) {
            (Some(wanted), _) => Some(Dim::Known(wanted[i])),
            (None, "SAME_UPPER" | "SAME_LOWER") => Some(&spatial[i] * &Dim::Known(window.strides[i])),
            _ => None,
        };
        cuts.push(match wanted {
            None => (window.pads[i], window.pads[n + i] - extra[i]),
            Some(wanted) => {
                let total = (&full - &wanted).known().ok_or_else(|| OpError::operand(0, x, "known sizes"))?;
                let half = total.div_euclid(2);
                let before = if auto == "SAME_UPPER" { half } else { total - half };
                (before, total - before - extra[i])
            }
        });
    }
    Ok((window, cuts))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, w) = (infer.ty(0)?, infer.ty(1)?);
    if !(3..=5).contains(&x.shape.rank())
        || w.shape.rank() != x.shape.rank()
        || !x.dtype.is_float()
        || !w.dtype.is_float()
    {
        return Err(OpError::operand(0, x, "floats with one to three spatial axes"));
    }
    let group = infer.attrs.int("group").unwrap_or(1);
    if !(1..=1 << 24).contains(&group) || x.shape.0[1].known().is_some_and(|c| c % group != 0) {
        return Err(OpError::attribute("group", format!("is {group} for {x}")));
    }
    if !crate::ops::util::agree(&x.shape.0[1], &w.shape.0[0]) {
        return Err(OpError::operand(1, w, format!("[{},OC,...]", x.shape.0[1])));
    }
    let (window, cuts) = plan(infer.attrs, &x.shape, &w.shape)?;
    let mut shape = vec![x.shape.0[0].clone(), &w.shape.0[1] * &Dim::Known(group)];
    for (i, (before, after)) in cuts.iter().enumerate() {
        let full =
            &(&(&x.shape.0[2 + i] - &Dim::Known(1)) * &Dim::Known(window.strides[i])) + &Dim::Known(window.extent(i));
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
    let (group, dtype) = (e.attrs.int("group").unwrap_or(1), e.outputs[0].dtype);
    if window.kernel.len() == 3 {
        let mut y = stretched_deep(e, x, w, &window, &cuts, group)?;
        if let Some(bias) = e.optional(2) {
            let bias = crate::ops::compose::along(e, bias, 5, 1)?;
            y = crate::ops::core::pointwise::add(e, arg(0) + arg(1), dtype, &[y, bias])?;
        }
        return Ok(vec![y]);
    }
    let window = window.flat();
    if cuts.len() == 1 {
        cuts.insert(0, (0, 0));
    }
    let plane = |shape: &Shape| [&shape.0[..2], &vec![Dim::Known(1); 4 - shape.rank()], &shape.0[2..]].concat();
    let (x_dims, w_dims) = (plane(&x_ty.shape), plane(&w_ty.shape));
    x = crate::ops::core::reshape::to(e, x, x_dims.clone())?;
    w = crate::ops::core::reshape::to(e, w, w_dims.clone())?;
    let mut y = if group == 1
        && window.kernel == window.strides
        && cuts.iter().all(|c| *c == (0, 0))
        && window.dilations.iter().all(|&d| d == 1)
    {
        patches(e, x, w, &x_dims, &w_dims)?
    } else {
        stretched(e, x, w, &window, &cuts, group)?
    };
    let oc = &w_dims[1] * &Dim::Known(group);
    if let Some(bias) = e.optional(2) {
        let bias = crate::ops::core::reshape::to(e, bias, vec![Dim::Known(1), oc, Dim::Known(1), Dim::Known(1)])?;
        y = crate::ops::core::pointwise::add(e, arg(0) + arg(1), dtype, &[y, bias])?;
    }
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![crate::ops::core::reshape::to(e, y, shape)?])
}

/// Windows that do not overlap: each pixel makes its own patch, a convolution of kernel 1 whose channels are then laid
/// out as planes.
fn patches(e: &mut Expand<'_, '_>, x: Val, w: Val, x_dims: &[Dim], w_dims: &[Dim]) -> Result<Val, OpError> {
    let (kh, kw) = (w_dims[2].clone(), w_dims[3].clone());
    let depth = product(&w_dims[1..]);
    let w = crate::ops::core::reshape::to(e, w, vec![w_dims[0].clone(), depth.clone()])?;
    let w = crate::ops::onnx::movement::transpose(e, w, &[1, 0])?;
    let w = crate::ops::core::reshape::to(e, w, vec![depth, w_dims[0].clone(), Dim::Known(1), Dim::Known(1)])?;
    let one = Window { kernel: vec![1, 1], strides: vec![1, 1], pads: vec![0; 4], dilations: vec![1, 1], ceil: false };
    let y = e.add(&crate::ops::core::conv::DEF, one.write(Attrs::new()).with_int("group", 1), &[x, w])?;
    let [n, _, h, width] = x_dims else { return Err(OpError::MissingOperand { slot: 0 }) };
    let y = crate::ops::core::reshape::to(
        e,
        y,
        vec![n.clone(), w_dims[1].clone(), kh.clone(), kw.clone(), h.clone(), width.clone()],
    )?;
    let y = crate::ops::onnx::movement::transpose(e, y, &[0, 1, 4, 2, 5, 3])?;
    crate::ops::core::reshape::to(e, y, vec![n.clone(), w_dims[1].clone(), h * &kh, width * &kw])
}

/// In general: zeros between the pixels, and a convolution with the kernel flipped.
fn stretched(
    e: &mut Expand<'_, '_>,
    mut x: Val,
    w: Val,
    window: &Window,
    cuts: &[(i64, i64)],
    group: i64,
) -> Result<Val, OpError> {
    use crate::ops::core::strided::{View, row_major, view};
    let dims = e.ty(x).shape.0;
    let (sh, sw) = (Dim::Known(window.strides[0]), Dim::Known(window.strides[1]));
    let one = || Dim::Known(1);
    if window.strides != [1, 1] {
        let own = row_major(&dims);
        let shape = vec![dims[0].clone(), dims[1].clone(), dims[2].clone(), sh.clone(), dims[3].clone(), sw.clone()];
        let strides =
            vec![own[0].clone(), own[1].clone(), own[2].clone(), Dim::Known(0), own[3].clone(), Dim::Known(0)];
        let hi = vec![dims[0].clone(), dims[1].clone(), dims[2].clone(), one(), dims[3].clone(), one()];
        let inside = Some((vec![Dim::Known(0); 6], hi));
        x = view(e, x, &View { shape, strides, inside, ..View::default() })?;
        x = crate::ops::core::reshape::to(
            e,
            x,
            vec![dims[0].clone(), dims[1].clone(), &dims[2] * &sh, &dims[3] * &sw],
        )?;
    }
    // What surrounds the stretched plane: a window less one, less what is cut; behind it already stand stride - 1
    // zeros.
    let before = |i: usize| window.extent(i) - 1 - cuts[i].0;
    let after = |i: usize| window.extent(i) - 1 - cuts[i].1 - (window.strides[i] - 1);
    let (mut pads, around) = (vec![before(0), before(1), after(0), after(1)], e.ty(x).shape.0);
    if pads.iter().any(|&p| p < 0) {
        let shape: Vec<Dim> = (0..4)
            .map(|i| if i < 2 { around[i].clone() } else { &around[i] + &Dim::Known(pads[i - 2] + pads[i]) })
            .collect();
        let lo = (0..4).map(|i| Dim::Known(if i < 2 { 0 } else { pads[i - 2].max(0) })).collect();
        let hi =
            (0..4).map(|i| if i < 2 { around[i].clone() } else { &around[i] + &Dim::Known(pads[i - 2]) }).collect();
        let strides = row_major(&around);
        let offset = (2..4).fold(Dim::Known(0), |sum, i| &sum - &(&Dim::Known(pads[i - 2]) * &strides[i]));
        x = view(e, x, &View { shape, strides, offset: Some(offset), inside: Some((lo, hi)), ..View::default() })?;
        pads = vec![0; 4];
    }
    let w = flipped(e, w, group)?;
    let whole = Window { strides: vec![1, 1], pads, ceil: false, ..window.clone() };
    e.add(&crate::ops::core::conv::DEF, whole.write(Attrs::new()).with_int("group", group), &[x, w])
}

/// The kernel flipped: from `[C, OC/group, ...]` to `[OC, C/group, ...]`, its elements from the last to the first.
fn flipped(e: &mut Expand<'_, '_>, w: Val, group: i64) -> Result<Val, OpError> {
    use crate::ops::core::strided::{View, row_major, view};
    let w_dims = e.ty(w).shape.0;
    let own = row_major(&w_dims);
    let groups = Dim::Known(group);
    let each = w_dims[0].floor_div(&groups).ok_or_else(|| OpError::attribute("group", format!("is {group}")))?;
    let flipped = View {
        shape: [&[groups.clone(), w_dims[1].clone(), each.clone()], &w_dims[2..]].concat(),
        strides: [
            vec![&own[0] * &each, own[1].clone(), own[0].clone()],
            own[2..].iter().map(|s| s * &Dim::Known(-1)).collect(),
        ]
        .concat(),
        offset: Some(&product(&w_dims[2..]) - &Dim::Known(1)),
        ..View::default()
    };
    let w = view(e, w, &flipped)?;
    crate::ops::core::reshape::to(e, w, [&[&w_dims[1] * &groups, each], &w_dims[2..]].concat())
}

/// The same over three axes.
fn stretched_deep(
    e: &mut Expand<'_, '_>,
    mut x: Val,
    w: Val,
    window: &Window,
    cuts: &[(i64, i64)],
    group: i64,
) -> Result<Val, OpError> {
    use crate::ops::core::strided::{Fill, View, row_major, view};
    let dims = e.ty(x).shape.0;
    if window.strides.iter().any(|&s| s != 1) {
        let own = row_major(&dims);
        let (mut shape, mut strides, mut hi, mut wide) =
            (dims[..2].to_vec(), own[..2].to_vec(), dims[..2].to_vec(), dims[..2].to_vec());
        for (axis, &step) in window.strides.iter().enumerate() {
            shape.extend([dims[2 + axis].clone(), Dim::Known(step)]);
            strides.extend([own[2 + axis].clone(), Dim::Known(0)]);
            hi.extend([dims[2 + axis].clone(), Dim::Known(1)]);
            wide.push(&dims[2 + axis] * &Dim::Known(step));
        }
        let inside = Some((vec![Dim::Known(0); shape.len()], hi));
        x = view(e, x, &View { shape, strides, inside, ..View::default() })?;
        x = crate::ops::core::reshape::to(e, x, wide)?;
    }
    let around =
        |i: usize| (window.extent(i) - 1 - cuts[i].0, window.extent(i) - 1 - cuts[i].1 - (window.strides[i] - 1));
    let pads: Vec<(i64, i64)> = [(0, 0), (0, 0)].into_iter().chain((0..3).map(around)).collect();
    x = crate::ops::onnx::pad::padded(e, x, &pads, Fill::default())?;
    let w = flipped(e, w, group)?;
    let whole = Window { strides: vec![1; 3], pads: vec![0; 6], ceil: false, ..window.clone() };
    crate::ops::core::conv::deep(e, x, w, &whole, group)
}
