//! `conv`: convolutions over one, two or three spatial axes; the core has two.

mod expand;
mod gradient;
mod reference;

pub use expand::deep;

use crate::ir::{
    Attrs, CORE, Class, Dim, Infer, KERNEL, MatrixLayout, ONNX, OpDef, OpError, Shape, Tensor, TensorType,
    WeightOperand, attr, product,
};
use crate::ops::core::layout;
use crate::ops::core::window::{Plain, Window};
use crate::ops::util::{agree, class_of, n_elems, result, split_own, stored};

/// `conv(x, w) {kernel, strides, pads, dilations, group, layout, dtype, epilogue}`: ONNX Conv, opset 22, over one to
/// three spatial axes; there with a bias, `auto_pad` and `kernel_shape`. With `kernel` and one group, `w` may be a
/// matrix `[OC, C*kh*kw]`, and operands of rank 2 after it are further rows of it, stored in other ways. With the
/// layout `nhwc`, which only the lower levels have, channels are the last axis of x, of the result and of each filter:
/// `[OC, kh, kw, C/group]`.
pub static DEF: OpDef = OpDef {
    name: "conv",
    onnx: "Conv",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::ints("kernel"),
        attr::ints("kernel_shape"),
        attr::ints("strides"),
        attr::ints("pads"),
        attr::ints("dilations"),
        attr::int("group"),
        attr::text("auto_pad"),
        attr::text("layout"),
        attr::dtype("dtype"),
        attr::expr("epilogue"),
    ],
    arity: (2, 2 + crate::ops::core::matmul::MAX_FURTHER_PARTS),
    infer: &infer,
    eval: Some(&reference::eval),
    expand: Some(&expand::expand),
    weights: Some(&weights),
    gradient: Some(&gradient::gradient),
};

/// The filters, each a row.
fn weights(attrs: &Attrs) -> Option<WeightOperand> {
    let is_last = attrs.str("layout") == Some("nhwc");
    Some(WeightOperand {
        slot: 1,
        layout: Some(if is_last { MatrixLayout::FiltersLast } else { MatrixLayout::Filters }),
        is_product: true,
        has_own_rows: attrs.int("group").unwrap_or(1) == 1,
        rows_attr: None,
        x_columns_attr: None,
        further_rows: Some(2),
    })
}

/// The window, from attributes or from the shape of w.
///
/// # Errors
/// No size of the kernel is known, or strides, pads or dilations do not go with it.
pub fn window(attrs: &Attrs, w: &Shape, spatial: &[Dim]) -> Result<Window, OpError> {
    let given = match attrs.ints("kernel").or(attrs.ints("kernel_shape")) {
        Some(kernel) => kernel.to_vec(),
        None => {
            w.0.iter()
                .skip(2)
                .map(|d| d.known().ok_or_else(|| OpError::operand(1, w, "a kernel of known size")))
                .collect::<Result<_, _>>()?
        }
    };
    Window::of(attrs, given, spatial)
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (operands, _) = split_own(infer.attrs, infer.inputs);
    let (x, w) = (infer.ty(0)?, infer.ty(1)?);
    for (slot, ty) in [(0, x), (1, w)] {
        if class_of(ty) != Class::Float {
            return Err(OpError::operand(slot, ty, "floats"));
        }
    }
    if x.packing.is_some_and(|p| {
        p.coding != crate::ir::packed::Coding::I8 || p.granularity != crate::ir::packed::Granularity::Tensor
    }) || (x.packing.is_some() && w.packing.is_none())
    {
        return Err(OpError::operand(0, x, "INT8 with one scale beside a packed w"));
    }
    let last = layout::is_nhwc(infer.attrs)?;
    let image = if last { layout::nchw(&x.shape) } else { Some(x.shape.clone()) };
    let image = image.filter(|_| !last || infer.attrs.get("kernel").is_some());
    let Some([n, c, spatial @ ..]) = image.as_ref().map(|shape| shape.0.as_slice()) else {
        return Err(OpError::operand(0, x, if last { "[N,H,W,C] and a kernel" } else { "[N,C,...]" }));
    };
    if !(1..=3).contains(&spatial.len()) || spatial.len() == 3 && infer.attrs.get("kernel").is_some() {
        return Err(OpError::unsupported(format!("a convolution over {} spatial axes", spatial.len())));
    }
    let window = window(infer.attrs, &w.shape, spatial)?;
    let group = infer.attrs.int("group").unwrap_or(1);
    let own = c.floor_div(&Dim::Known(group)).ok_or_else(|| OpError::attribute("group", format!("is {group}")))?;
    let mut expected: Vec<Dim> = window.kernel.iter().map(|&k| Dim::Known(k)).collect();
    expected.insert(if last { expected.len() } else { 0 }, own);
    let is_matrix = w.shape.rank() == 2 && infer.attrs.get("kernel").is_some();
    if w.packing.is_some() || is_matrix {
        expected = vec![product(&expected)];
    }
    let [oc, rest @ ..] = w.shape.0.as_slice() else { return Err(OpError::operand(1, w, "[OC,...]")) };
    if rest.len() != expected.len()
        || !rest.iter().zip(&expected).all(|(a, b)| agree(a, b))
        || [c, oc].iter().any(|d| d.known().is_some_and(|n| n % group != 0))
    {
        return Err(OpError::operand(
            1,
            w,
            format!("[OC,{}] for {x} in {group} groups", Shape(expected).to_string().trim_matches(['[', ']'])),
        ));
    }
    let oc = with_further_rows(operands, oc, is_matrix && group == 1)?;
    if let Some(Some(bias)) = operands.get(2)
        && bias.shape.rank() != 2
        && (bias.shape.rank() != 1 || !agree(&bias.shape.0[0], &oc))
    {
        return Err(OpError::operand(2, bias, format!("[{oc}]")));
    }
    let mut shape = vec![n.clone(), oc];
    shape.extend(window.out(spatial)?);
    let shape = Shape(shape);
    let shape = if last { layout::nhwc(&shape).unwrap_or(shape) } else { shape };
    result(infer, Class::Float, stored(x), shape)
}

/// The filters of w, `oc`, and of the operands that are further rows of it, which only a matrix may have.
fn with_further_rows(operands: &[Option<&TensorType>], oc: &Dim, is_matrix: bool) -> Result<Dim, OpError> {
    let [Some(x), Some(w), further @ ..] = operands else { return Ok(oc.clone()) };
    let mut oc = oc.clone();
    for (slot, part) in further.iter().enumerate() {
        let Some(part) = part.filter(|part| part.shape.rank() == 2) else { continue };
        let rows = part.shape.0[0].known().zip(oc.known()).and_then(|(rows, so_far)| rows.checked_add(so_far));
        let fits = class_of(part) == Class::Float
            && (x.packing.is_none() || part.packing.is_some())
            && w.shape.0.get(1) == Some(&part.shape.0[1]);
        let Some(total) = rows.filter(|_| fits && is_matrix) else {
            return Err(OpError::operand(2 + slot, part, format!("rows to follow {w} in one group")));
        };
        oc = Dim::Known(total);
    }
    Ok(oc)
}

/// All sizes of one convolution.
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) channels: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) out_channels: usize,
    pub(crate) out_height: usize,
    pub(crate) out_width: usize,
    pub(crate) group: usize,
    pub(crate) plain: Plain,
}

impl Sizes {
    /// Elements of one filter.
    pub(crate) fn depth(&self) -> usize {
        self.channels / self.group * self.plain.kernel[0] * self.plain.kernel[1]
    }

    pub(crate) fn pixels(&self) -> usize {
        self.out_height * self.out_width
    }
}

pub(crate) fn sizes(attrs: &Attrs, x: &Tensor, w: &Tensor) -> Result<Sizes, OpError> {
    let shape = if layout::is_nhwc(attrs)? { layout::nchw(&x.ty().shape) } else { Some(x.ty().shape.clone()) };
    let dims = shape.as_ref().and_then(Shape::known).unwrap_or_default();
    let (&[batch, channels, height, width], Some(shape)) = (&dims[..], shape) else {
        return Err(OpError::operand(0, x.ty(), "[N,C,H,W]"));
    };
    let spatial = &shape.0[2..];
    let window = window(attrs, &w.ty().shape, spatial)?;
    let out = Shape(window.out(spatial)?).known().unwrap_or_default();
    let (&[out_height, out_width], Some(&out_channels)) = (&out[..], w.dims().first()) else {
        return Err(OpError::operand(1, w.ty(), "[OC,C/group,kh,kw]"));
    };
    let group = usize::try_from(attrs.int("group").unwrap_or(1)).unwrap_or(0);
    let sizes = Sizes {
        batch,
        channels,
        height,
        width,
        out_channels,
        out_height,
        out_width,
        group: group.max(1),
        plain: window.plain(),
    };
    let filters = n_elems(&w.dims())?;
    if group == 0
        || !channels.is_multiple_of(group)
        || !out_channels.is_multiple_of(group)
        || filters != out_channels * sizes.depth()
    {
        return Err(OpError::operand(1, w.ty(), format!("the filters of {} in {group} groups", x.ty())));
    }
    Ok(sizes)
}
