//! `conv`: convolutions over one, two or three spatial axes; the core has two.

use crate::ir::expr::build::arg;
use crate::ir::{
    Attrs, CORE, Class, DType, Differentiate, Dim, Expand, Gains, Infer, KERNEL, MatrixLayout, ONNX, OpDef, OpError,
    Shape, Tensor, TensorType, Val, WeightOperand, attr, product,
};
use crate::ops::compose::{self, dims};
use crate::ops::core::layout;
use crate::ops::core::pointwise::Real;
use crate::ops::core::reshape;
use crate::ops::core::window::{Plain, Window};
use crate::ops::onnx::movement::transpose;
use crate::ops::reference::multiply::{self, Matrix};
use crate::ops::reference::packed_view::{PackedView, dot_blocks};
use crate::ops::util::{
    agree, between, class_of, finish_floats, is_double, n_elems, operand, result, split_own, stored,
};
use rayon::prelude::*;

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
    eval: Some(&eval),
    expand: Some(&expand),
    weights: Some(&weights),
    gradient: Some(&gradient),
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

/// Pixels of one parallel task.
const PIXELS: usize = 1024;

/// The window, from attributes or from the shape of w.
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
    if x.packing.is_some_and(|p| p.coding != crate::ir::packed::Coding::I8 || p.granularity != crate::ir::packed::Granularity::Tensor)
        || (x.packing.is_some() && w.packing.is_none())
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
    let differ = |(a, b): (&Dim, &Dim)| !agree(a, b);
    if rest.len() != expected.len()
        || rest.iter().zip(&expected).any(differ)
        || [c, oc].iter().any(|d| d.known().is_some_and(|n| n % group != 0))
    {
        return Err(OpError::operand(
            1,
            w,
            format!("[OC,{}] for {x} in {group} groups", Shape(expected).to_string().trim_matches(['[', ']'])),
        ));
    }
    let mut oc = oc.clone();
    for (slot, part) in
        operands.iter().enumerate().skip(2).filter(|(_, part)| part.is_some_and(|part| part.shape.rank() == 2))
    {
        let Some(part) = part else { continue };
        let rows = part.shape.0[0].known().zip(oc.known()).and_then(|(rows, so_far)| rows.checked_add(so_far));
        let fits = class_of(part) == Class::Float
            && (x.packing.is_none() || part.packing.is_some())
            && part.shape.0[1] == rest[0];
        let Some(total) = rows.filter(|_| fits && is_matrix && group == 1) else {
            return Err(OpError::operand(slot, part, format!("rows to follow {w} in one group")));
        };
        oc = Dim::Known(total);
    }
    let oc = &oc;
    if let Some(Some(bias)) = operands.get(2)
        && bias.shape.rank() != 2
        && (bias.shape.rank() != 1 || differ((&bias.shape.0[0], oc)))
    {
        return Err(OpError::operand(2, bias, format!("[{oc}]")));
    }
    let mut shape = vec![n.clone(), oc.clone()];
    shape.extend(window.out(spatial)?);
    let shape = Shape(shape);
    let shape = if last { layout::nhwc(&shape).unwrap_or(shape) } else { shape };
    result(infer, Class::Float, stored(x), shape)
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, w) = (e.input(0)?, e.input(1)?);
    let (x_ty, w_ty) = (e.ty(x), e.ty(w));
    let window = window(e.attrs, &w_ty.shape, &x_ty.shape.0[2..])?;
    if window.kernel.len() == 3 {
        let y = deep(e, x, w, &window, e.attrs.int("group").unwrap_or(1))?;
        let Some(bias) = e.optional(2) else { return Ok(vec![y]) };
        let bias = crate::ops::compose::along(e, bias, 5, 1)?;
        let dtype = e.outputs[0].dtype;
        return Ok(vec![crate::ops::core::pointwise::add(e, arg(0) + arg(1), dtype, &[y, bias])?]);
    }
    let mut attrs = window.flat().write(Attrs::new()).with_int("group", e.attrs.int("group").unwrap_or(1));
    if let Some(dtype) = e.attrs.dtype("dtype") {
        attrs = attrs.with_dtype("dtype", dtype);
    }
    let plane = |shape: &Shape| [&shape.0[..2], &[Dim::Known(1)], &shape.0[2..]].concat();
    let flat = window.kernel.len() == 1;
    let (x, w) = if flat {
        (
            crate::ops::core::reshape::to(e, x, plane(&x_ty.shape))?,
            if w_ty.packing.is_some() { w } else { crate::ops::core::reshape::to(e, w, plane(&w_ty.shape))? },
        )
    } else {
        (x, w)
    };
    let mut y = e.add(&DEF, attrs, &[x, w])?;
    if let Some(bias) = e.optional(2) {
        let oc = e.ty(bias).shape.0[0].clone();
        let bias = crate::ops::core::reshape::to(e, bias, vec![Dim::Known(1), oc, Dim::Known(1), Dim::Known(1)])?;
        let dtype = e.outputs[0].dtype;
        y = crate::ops::core::pointwise::add(e, arg(0) + arg(1), dtype, &[y, bias])?;
    }
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![crate::ops::core::reshape::to(e, y, shape)?])
}

/// Most elements of a kernel along its first of three axes.
const MAX_DEPTH: i64 = 64;

/// A convolution over three axes, as a sum of convolutions over two: one for each place along the first axis of the
/// kernel.
///
/// # Errors
/// A size is not known, or the kernel is too deep.
pub fn deep(e: &mut Expand<'_, '_>, x: Val, w: Val, window: &Window, group: i64) -> Result<Val, OpError> {
    use crate::ops::compose::{dims, sizes};
    use crate::ops::core::strided::{View, row_major, view};
    let (dtype, w_dims) = (e.outputs[0].dtype, sizes(1, &e.ty(w))?);
    let spatial = e.ty(x).shape.0[2..].to_vec();
    let out = Shape(window.out(&spatial)?).known().ok_or_else(|| OpError::operand(0, e.ty(x), "known sizes"))?;
    if window.kernel[0] > MAX_DEPTH {
        return Err(OpError::unsupported(format!("a kernel of {} planes, at most {MAX_DEPTH}", window.kernel[0])));
    }
    let pads = [(0, 0), (0, 0), (window.pads[0], window.pads[3]), (0, 0), (0, 0)];
    let x = if window.pads[0] + window.pads[3] == 0 {
        x
    } else {
        crate::ops::onnx::pad::padded(e, x, &pads, crate::ops::core::strided::Fill::default())?
    };
    let own = sizes(0, &e.ty(x))?;
    let (rows, w_rows) = (row_major(&dims(&own)), row_major(&dims(&w_dims)));
    let flat = Window {
        kernel: window.kernel[1..].to_vec(),
        strides: window.strides[1..].to_vec(),
        pads: [&window.pads[1..3], &window.pads[4..]].concat(),
        dilations: window.dilations[1..].to_vec(),
        ceil: false,
    };
    let attrs = flat.write(Attrs::new()).with_int("group", group);
    let mut sum: Option<Val> = None;
    for tap in 0..window.kernel[0] {
        // The planes that this part of the kernel meets, each an image of its own.
        let shape = dims(&[own[0], out[0], own[1], own[3], own[4]]);
        let step = &rows[2] * &Dim::Known(window.strides[0]);
        let strides = vec![rows[0].clone(), step, rows[1].clone(), rows[3].clone(), rows[4].clone()];
        let offset = Some(&rows[2] * &Dim::Known(tap * window.dilations[0]));
        let planes = view(e, x, &View { shape, strides, offset, ..View::default() })?;
        let planes = crate::ops::core::reshape::to(e, planes, dims(&[own[0] * out[0], own[1], own[3], own[4]]))?;
        let shape = dims(&[w_dims[0], w_dims[1], w_dims[3], w_dims[4]]);
        let strides = vec![w_rows[0].clone(), w_rows[1].clone(), w_rows[3].clone(), w_rows[4].clone()];
        let filters =
            view(e, w, &View { shape, strides, offset: Some(&w_rows[2] * &Dim::Known(tap)), ..View::default() })?;
        let y = e.add(&DEF, attrs.clone(), &[planes, filters])?;
        sum = Some(match sum {
            Some(sum) => crate::ops::core::pointwise::add(e, arg(0) + arg(1), dtype, &[sum, y])?,
            None => y,
        });
    }
    let sum = sum.ok_or_else(|| OpError::operand(1, e.ty(w), "a kernel"))?;
    let y = crate::ops::core::reshape::to(e, sum, dims(&[own[0], out[0], w_dims[0], out[1], out[2]]))?;
    crate::ops::onnx::movement::transpose(e, y, &[0, 2, 1, 3, 4])
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

/// The convolution with each part, channels one after the other.
fn eval_parts(attrs: &Attrs, own: &[Option<&Tensor>], extra: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(own, 0)?;
    let mut alone = attrs.clone().with_dtype("dtype", between(x.dtype()));
    alone.0.remove("epilogue");
    let mut results = Vec::new();
    for slot in 1..own.len() {
        results.extend(eval(&alone, &[Some(x), Some(operand(own, slot)?)])?);
    }
    let mut dims = results.first().map(Tensor::dims).unwrap_or_default();
    let [images, channels, ..] = &mut dims[..] else { return Err(OpError::MissingOperand { slot: 1 }) };
    *channels = results.iter().map(|part| part.dims()[1]).sum();
    let images = *images;
    if is_double(attrs, own) {
        joined::<f64>(&results, images, &dims, attrs, (x, extra))
    } else {
        joined::<f32>(&results, images, &dims, attrs, (x, extra))
    }
}

/// The channels of all parts, image by image.
fn joined<F: Real>(
    results: &[Tensor],
    images: usize,
    dims: &[usize],
    attrs: &Attrs,
    (x, extra): (&Tensor, &[Option<&Tensor>]),
) -> Result<Vec<Tensor>, OpError> {
    let mut out = Vec::with_capacity(n_elems(dims)?);
    let data: Vec<_> = results.iter().map(F::elements).collect::<Result<_, _>>()?;
    for image in 0..images {
        for part in &data {
            let size = part.len() / images;
            out.extend_from_slice(&part[image * size..][..size]);
        }
    }
    finish_floats(attrs, dims, out, stored(x.ty()), extra)
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    if layout::is_nhwc(attrs)? {
        return crate::ops::core::conv_nhwc::eval(attrs, own, extra);
    }
    let (x, w) = (operand(own, 0)?, operand(own, 1)?);
    if own.len() > 2 {
        return eval_parts(attrs, own, extra);
    }
    let s = sizes(attrs, x, w)?;
    let dims = [s.batch, s.out_channels, s.out_height, s.out_width];
    if is_double(attrs, own) {
        let mut out = vec![0.0f64; n_elems(&dims)?];
        direct(&s, &x.to_f64s()?, &w.to_f64s()?, &mut out);
        return finish_floats(attrs, &dims, out, stored(x.ty()), extra);
    }
    let mut out = vec![0.0f32; n_elems(&dims)?];
    if let (Some(x), Some(w)) = (PackedView::of(x)?, PackedView::of(w)?) {
        packed(&s, &x, &w, &mut out);
        return finish_floats(attrs, &dims, out, DType::F32, extra);
    }
    let (x_data, w_data) = (x.to_f32s()?, w.to_f32s()?);
    if s.out_channels / s.group < 4 {
        direct(&s, &x_data, &w_data, &mut out);
    } else {
        columns(&s, &x_data, &w_data, &mut out)?;
    }
    finish_floats(attrs, &dims, out, stored(x.ty()), extra)
}

/// Few filters a group, above all depthwise, and f64: each output plane is a sum of shifted input planes.
fn direct<F: Real>(s: &Sizes, x: &[F], w: &[F], out: &mut [F]) {
    let (channels, filters, plane) = (s.channels / s.group, s.out_channels / s.group, s.height * s.width);
    let [kh, kw] = s.plain.kernel;
    out.par_chunks_mut(s.pixels().max(1)).enumerate().for_each(|(at, out)| {
        let (n, oc) = (at / s.out_channels, at % s.out_channels);
        let first = n * s.channels + oc / filters * channels;
        for (tap, &weight) in w[oc * s.depth()..(oc + 1) * s.depth()].iter().enumerate() {
            let (c, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
            let x = &x[(first + c) * plane..(first + c + 1) * plane];
            let (y0, y1) = s.plain.span(0, ky, s.height, s.out_height);
            let (x0, x1) = s.plain.span(1, kx, s.width, s.out_width);
            if x0 == x1 {
                continue;
            }
            for y in y0..y1 {
                let row = &x[s.plain.element(0, ky, y) * s.width..][..s.width];
                let row = &row[s.plain.element(1, kx, x0)..];
                let out = &mut out[y * s.out_width + x0..y * s.out_width + x1];
                if s.plain.strides[1] == 1 {
                    out.iter_mut().zip(row).for_each(|(out, x)| *out += weight * *x);
                } else {
                    out.iter_mut().zip(row.iter().step_by(s.plain.strides[1])).for_each(|(out, x)| *out += weight * *x);
                }
            }
        }
    });
}

/// Blocks of pixels: their windows side by side as columns of a matrix, which all filters of a group multiply.
fn columns(s: &Sizes, x: &[f32], w: &[f32], out: &mut [f32]) -> Result<(), OpError> {
    let (depth, filters, pixels) = (s.depth(), s.out_channels / s.group, s.pixels());
    if pixels == 0 || depth == 0 {
        return Ok(());
    }
    // Few pixels and many filters, as in the last layers: tasks share filters out instead.
    let blocks = pixels.div_ceil(PIXELS);
    let share = if blocks < 4 && filters >= 256 { filters.div_ceil(4) } else { filters };
    let plane = s.height * s.width;
    let pointwise = s.plain.kernel == [1, 1] && s.plain.strides == [1, 1] && plane == pixels;
    for (image, out) in out.chunks_exact_mut(filters * pixels).enumerate() {
        let (n, g) = (image / s.group, image % s.group);
        let x = &x[(n * s.channels + g * (s.channels / s.group)) * plane..][..s.channels / s.group * plane];
        let tasks: Vec<(usize, usize)> =
            (0..filters.div_ceil(share)).flat_map(|f| (0..blocks).map(move |b| (f * share, b * PIXELS))).collect();
        let parts: Vec<Vec<f32>> = tasks
            .par_iter()
            .map(|&(filter, pixel)| {
                let (rows, width) = (share.min(filters - filter), PIXELS.min(pixels - pixel));
                let mut part = vec![0.0; rows * width];
                let w = Matrix { data: &w[(g * filters + filter) * depth..], row: depth, col: 1 };
                if pointwise {
                    multiply::multiply(
                        rows,
                        depth,
                        width,
                        w,
                        Matrix { data: &x[pixel..], row: plane, col: 1 },
                        &mut part,
                    )?;
                } else {
                    let unfolded = unfold(s, x, pixel, width, 0.0);
                    multiply::multiply(
                        rows,
                        depth,
                        width,
                        w,
                        Matrix { data: &unfolded, row: width, col: 1 },
                        &mut part,
                    )?;
                }
                Ok(part)
            })
            .collect::<Result<_, OpError>>()?;
        for (i, strip) in parts.chunks(blocks).enumerate() {
            let rows = strip.first().map_or(0, |p| p.len() / PIXELS.min(pixels));
            multiply::scatter(&mut out[i * share * pixels..][..rows * pixels], pixels, 0, strip);
        }
    }
    Ok(())
}

/// The windows of `width` pixels from `first` of one group's planes `x`: element `[tap, pixel]`, `fill` where it lies
/// in the padding.
fn unfold<T: Copy>(s: &Sizes, x: &[T], first: usize, width: usize, fill: T) -> Vec<T> {
    let [kh, kw] = s.plain.kernel;
    let mut columns = vec![fill; s.depth() * width];
    for (tap, row) in columns.chunks_exact_mut(width).enumerate() {
        let (c, ky, kx) = (tap / (kh * kw), tap / kw % kh, tap % kw);
        let (y0, y1) = s.plain.span(0, ky, s.height, s.out_height);
        let (x0, x1) = s.plain.span(1, kx, s.width, s.out_width);
        for y in y0.max(first / s.out_width)..y1.min((first + width).div_ceil(s.out_width)) {
            // The part of this output row that lies inside the block.
            let from = (y * s.out_width + x0).max(first);
            let to = (y * s.out_width + x1).min(first + width);
            if from >= to {
                continue;
            }
            let start =
                (c * s.height + s.plain.element(0, ky, y)) * s.width + s.plain.element(1, kx, from - y * s.out_width);
            let source = &x[start..];
            let target = &mut row[from - first..to - first];
            if s.plain.strides[1] == 1 {
                target.copy_from_slice(&source[..to - from]);
            } else {
                target.iter_mut().zip(source.iter().step_by(s.plain.strides[1])).for_each(|(t, x)| *t = *x);
            }
        }
    }
    columns
}

/// Codes times codes: i32 within each block of w's scales, then f32, then x's one scale.
fn packed(s: &Sizes, x: &PackedView, w: &PackedView, out: &mut [f32]) {
    let (depth, filters, pixels) = (s.depth(), s.out_channels / s.group, s.pixels());
    if pixels == 0 || depth == 0 {
        return;
    }
    let codes: Vec<i8> = (0..x.layout.n_rows).flat_map(|row| x.row(row)).copied().collect();
    let scale = x.scales(0).first().copied().unwrap_or(1.0);
    let plane = s.height * s.width;
    for (image, out) in out.chunks_exact_mut(filters * pixels).enumerate() {
        let (n, g) = (image / s.group, image % s.group);
        let x = &codes[(n * s.channels + g * (s.channels / s.group)) * plane..][..s.channels / s.group * plane];
        let blocks: Vec<(usize, Vec<i8>)> = (0..pixels.div_ceil(PIXELS))
            .into_par_iter()
            .map(|b| {
                let width = PIXELS.min(pixels - b * PIXELS);
                let unfolded = unfold(s, x, b * PIXELS, width, 0);
                let mut turned = vec![0i8; unfolded.len()];
                for (tap, row) in unfolded.chunks_exact(width).enumerate() {
                    row.iter().enumerate().for_each(|(pixel, code)| turned[pixel * depth + tap] = *code);
                }
                (b * PIXELS, turned)
            })
            .collect();
        out.par_chunks_exact_mut(pixels).enumerate().for_each(|(f, out)| {
            let filter = g * filters + f;
            for (first, windows) in &blocks {
                for (out, window) in out[*first..].iter_mut().zip(windows.chunks_exact(depth)) {
                    *out = dot_blocks(window, w.row(filter), w.layout.unit_cols, w.scales(filter)) * scale;
                }
            }
        });
    }
}

/// The image gains the transposed convolution of the gain with the filters, and the filters what a convolution of the
/// image with the gain gives, batch and channels exchanged, steps and dilations too.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (x, w, gain) = (d.input(0)?, d.input(1)?, d.gain()?);
    // Other numbers of axes, and biases, are written in this one.
    if d.ty(x).shape.rank() != 4 || d.inputs.len() != 2 {
        return Ok(Gains::Expanded);
    }
    let (x_dims, w_dims, y_dims) = (d.sizes(0)?, d.sizes(1)?, compose::sizes(0, &d.ty(gain))?);
    let &[_, own, kh, kw] = &w_dims[..] else { return Err(OpError::operand(1, d.ty(w), "[OC,C/group,kh,kw]")) };
    if layout::is_nhwc(d.attrs)? {
        return Err(OpError::unsupported("the derivative of a convolution with channels last"));
    }
    let window = window(d.attrs, &d.ty(w).shape, &d.ty(x).shape.0[2..])?;
    let group = d.attrs.int("group").unwrap_or(1);
    let groups = usize::try_from(group).unwrap_or(1).max(1);
    let mut parts = vec![None, None];
    if d.wants(0) {
        // What the last steps leave of the image gains nothing.
        let left = |i: usize| {
            (x_dims[2 + i] as i64 + window.pads[i] + window.pads[2 + i] - window.extent(i)) % window.strides[i]
        };
        let attrs = Attrs::new().with_int("group", group).with_ints("output_padding", [left(0), left(1)]);
        let attrs = attrs.with_ints("strides", window.strides.clone()).with_ints("pads", window.pads.clone());
        let attrs = attrs.with_ints("dilations", window.dilations.clone());
        parts[0] = Some(d.add(&crate::ops::onnx::conv_transpose::DEF, attrs, &[gain, w])?);
    }
    if d.wants(1) {
        let (n, h, wide) = (x_dims[0], x_dims[2], x_dims[3]);
        let by_group = reshape::to(d, x, dims(&[n, groups, own, h, wide]))?;
        let turned = transpose(d, by_group, &[2, 1, 0, 3, 4])?;
        let images = reshape::to(d, turned, dims(&[own, groups * n, h, wide]))?;
        let filters = transpose(d, gain, &[1, 0, 2, 3])?;
        let flipped = Window {
            kernel: vec![y_dims[2] as i64, y_dims[3] as i64],
            strides: window.dilations.clone(),
            pads: window.pads.clone(),
            dilations: window.strides.clone(),
            ceil: false,
        };
        let y = d.add(&DEF, flipped.write(Attrs::new()).with_int("group", group), &[images, filters])?;
        // Places that the last steps leave are more than the kernel has.
        let y = compose::part(d, y, 2, 0, kh as i64)?;
        let y = compose::part(d, y, 3, 0, kw as i64)?;
        parts[1] = Some(transpose(d, y, &[1, 0, 2, 3])?);
    }
    Ok(Gains::Are(parts))
}
