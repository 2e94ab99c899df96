//! ONNX's operators on quantized tensors whose scales are operands: integer products, exact, and what is made of them.

use crate::ir::expr::build::{arg, select};
use crate::ir::{Attrs, Class, DType, Dim, Expand, Infer, OpError, Shape, Tensor, TensorType, Val, attr};
use crate::ops::compose::{along, dims, matmul, part, reduce, sizes};
use crate::ops::core::{conv, pointwise, reshape};

/// Products of 8-bit codes that f32 sums exactly: 256 of at most 255 * 255 stay below 2^24.
const EXACT_TERMS: usize = 256;
/// Most products that one with constant codes becomes so that its sums stay exact and its codes packed.
const MAX_PRODUCTS: usize = 64;
/// Most convolutions that one becomes so that its sums stay exact.
const MAX_PARTS: usize = 256;

written_out! {
    /// `dynamic_quantize_linear(x)`: ONNX DynamicQuantizeLinear, opset 11: u8 codes, their scale and zero point.
    DYNAMIC_QUANTIZE "dynamic_quantize_linear" "DynamicQuantizeLinear" (1, 1) [] infer_dynamic, expand_dynamic;
    /// `mat_mul_integer(a, b, a_zero?, b_zero?)`: ONNX MatMulInteger, opset 10.
    MAT_MUL "mat_mul_integer" "MatMulInteger" (2, 4) [] infer_mat_mul, expand_mat_mul;
    /// `conv_integer(x, w, x_zero?, w_zero?) {kernel_shape, strides, pads, dilations, group, auto_pad}`: ONNX
    /// ConvInteger, opset 10.
    CONV "conv_integer" "ConvInteger" (2, 4) [attr::ints("kernel_shape"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::int("group"), attr::text("auto_pad")] infer_conv, expand_conv;
    /// `q_linear_mat_mul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)`: ONNX QLinearMatMul, opset 21.
    Q_MAT_MUL "q_linear_mat_mul" "QLinearMatMul" (8, 8) [] infer_q_mat_mul, expand_q_mat_mul;
    /// `q_linear_conv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias?) {...}`: ONNX QLinearConv, opset
    /// 10.
    Q_CONV "q_linear_conv" "QLinearConv" (8, 9) [attr::ints("kernel_shape"), attr::ints("strides"), attr::ints("pads"), attr::ints("dilations"), attr::int("group"), attr::text("auto_pad")] infer_q_conv, expand_q_conv;
}

pub(crate) fn codes<'a>(infer: &Infer<'a>, slot: usize) -> Result<&'a TensorType, OpError> {
    let ty = infer.ty(slot)?;
    let narrow = ty.dtype.class() == Class::Int && ty.dtype.bits() <= 8 && ty.packing.is_none();
    if narrow { Ok(ty) } else { Err(OpError::operand(slot, ty, "integers of 8 bits at most")) }
}

fn infer_dynamic(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if !x.dtype.is_float() || x.packing.is_some() {
        return Err(OpError::operand(0, x, "floats"));
    }
    Ok(vec![x.with_dtype(DType::U8), TensorType::of(DType::F32, &[]), TensorType::of(DType::U8, &[])])
}

fn expand_dynamic(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let axes: Vec<usize> = (0..e.ty(x).shape.rank()).collect();
    let (low, high) = (reduce(e, "min", x, &axes, false)?, reduce(e, "max", x, &axes, false)?);
    // As ONNX Runtime where the standard leaves it open: nothing but zeros has the scale 1, an infinite range the scale
    // infinity, and a zero point that is no number is 255.
    let (least, most) = (arg(0).min(0.0), arg(1).max(0.0));
    let scale = pointwise::add(
        e,
        select(most.clone().equals(least.clone()), 1.0, (most - least) / 255.0),
        DType::F32,
        &[low, high],
    )?;
    let place = (-arg(0).min(0.0) / arg(1)).round();
    let expr = select(place.clone().is_nan(), 255.0, place.max(0.0).min(255.0)).to_int();
    let zero = pointwise::add(e, expr, DType::U8, &[low, scale])?;
    let expr = ((arg(0) / arg(1)).round() + arg(2).to_float()).max(0.0).min(255.0).to_int();
    let y = pointwise::add(e, expr, DType::U8, &[x, scale, zero])?;
    Ok(vec![y, scale, zero])
}

/// The depth of a product whose left operand is `a`. Others of its sizes may change between runs; this one says into
/// how many parts the sums go.
fn depth(a: &TensorType) -> Result<usize, OpError> {
    let known = a.shape.0.last().and_then(Dim::known).and_then(|n| usize::try_from(n).ok());
    known.ok_or_else(|| OpError::operand(0, a, "a depth that is known before the run"))
}

pub(crate) fn product(a: &TensorType, b: &TensorType) -> Result<Vec<Dim>, OpError> {
    let (inputs, attrs) =
        ([a.with_dtype(DType::F32), b.with_dtype(DType::F32)], crate::ops::core::matmul::attrs(false));
    let types = (crate::ops::core::matmul::DEF.infer)(&Infer {
        attrs: &attrs,
        inputs: &[Some(&inputs[0]), Some(&inputs[1])],
        consts: &[None, None],
        sizes: &[],
        n_outputs: 1,
    })?;
    depth(a)?;
    Ok(types.into_iter().next().map(|ty| ty.shape.0).unwrap_or_default())
}

fn infer_mat_mul(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b) = (codes(infer, 0)?, codes(infer, 1)?);
    Ok(vec![TensorType::new(DType::I32, Shape(product(a, b)?))])
}

/// A per-row or per-column operand of a matrix as what broadcasts to it: scalars, vectors along `back` axes from the
/// last, or of full rank.
fn spread(e: &mut Expand<'_, '_>, val: Val, rank: usize, back: usize) -> Result<Val, OpError> {
    let ty = e.ty(val);
    match ty.shape.rank() {
        0 => Ok(val),
        1 if ty.shape.n_elems() == Some(1) => reshape::to(e, val, Vec::new()),
        1 if rank >= back => along(e, val, rank, rank - back),
        _ => Ok(val),
    }
}

/// Codes less their zero point as f32.
fn centred(e: &mut Expand<'_, '_>, x: Val, zero: Option<Val>) -> Result<Val, OpError> {
    match zero {
        Some(zero) => pointwise::add(e, (arg(0) - arg(1)).to_float(), DType::F32, &[x, zero]),
        None => pointwise::add(e, arg(0).to_float(), DType::F32, &[x]),
    }
}

/// Constant codes less their zero point as floats, as a DequantizeLinear with the scale 1: kernels read such codes
/// packed. `None` where codes or zero point are no constants, or there are zero points along another axis than `axis`.
fn kept(e: &mut Expand<'_, '_>, codes: Val, zero: Option<Val>, axis: usize) -> Result<Option<Val>, OpError> {
    let (own, zeros) = (e.ty(codes), zero.map(|zero| e.ty(zero)));
    if e.edit.constant(codes).is_none() || zero.is_some_and(|zero| e.edit.constant(zero).is_none()) {
        return Ok(None);
    }
    let (n, shape) = match zeros.as_ref().map(|ty| (ty.shape.n_elems(), &ty.shape)) {
        None | Some((Some(1), _)) => (1, Vec::new()),
        Some((Some(n), shape)) if shape.rank() == 1 && own.shape.0.get(axis) == shape.0.first() => {
            (n as usize, vec![n as usize])
        }
        _ => return Ok(None),
    };
    if zeros.is_some_and(|ty| ty.dtype != own.dtype) {
        return Ok(None);
    }
    let scale = e.constant(Tensor::from_f32s(DType::F32, &shape, &vec![1.0; n])?);
    let zero = zero.map(|zero| reshape::to(e, zero, dims(&shape))).transpose()?;
    let operands: Vec<Val> = [codes, scale].into_iter().chain(zero).collect();
    let attrs = if shape.is_empty() { Attrs::new() } else { Attrs::new().with_int("axis", axis as i64) };
    e.add(&crate::ops::core::quantize_linear::DEQUANTIZE, attrs, &operands).map(Some)
}

/// [`mat_mul`] where b is a matrix of constant codes: these stay packed, each part of the depth a matrix of its own.
fn mat_mul_packed(
    e: &mut Expand<'_, '_>,
    a: Val,
    b: Val,
    zeros: [Option<Val>; 2],
    shape: &[Dim],
) -> Result<Option<Val>, OpError> {
    let (a_ty, b_rank) = (e.ty(a), e.ty(b).shape.rank());
    let (depth, a_rank) = (depth(&a_ty)?, a_ty.shape.rank());
    let n_parts = depth.div_ceil(EXACT_TERMS);
    if !(1..=MAX_PRODUCTS).contains(&n_parts) || a_rank < 2 || b_rank != 2 {
        return Ok(None);
    }
    let each = depth.div_ceil(n_parts);
    let mut parts = Vec::with_capacity(n_parts);
    for first in (0..depth).step_by(each) {
        let n = each.min(depth - first);
        let codes = if n_parts == 1 { b } else { part_of_constant(e, b, 0, first, n)? };
        let Some(kept) = kept(e, codes, zeros[1], 1)? else { return Ok(None) };
        parts.push((first as i64, n as i64, kept));
    }
    let zero_a = zeros[0].map(|z| spread(e, z, a_rank, 2)).transpose()?;
    let a = centred(e, a, zero_a)?;
    let mut sum = None;
    for (first, n, b) in parts {
        let a = part(e, a, a_rank - 1, first, n)?;
        let product = matmul(e, a, b, false)?;
        sum = Some(add_exact(e, sum, product)?);
    }
    sum.map(|sum| reshape::to(e, sum, shape.to_vec())).transpose()
}

/// A slice of a constant, which is a constant.
fn part_of_constant(e: &mut Expand<'_, '_>, x: Val, axis: usize, first: usize, n: usize) -> Result<Val, OpError> {
    let Some(tensor) = e.edit.constant(x).cloned() else { return part(e, x, axis, first as i64, n as i64) };
    let own = tensor.dims();
    let inner: usize = own[axis + 1..].iter().product();
    let values = tensor.to_i64s()?;
    let rows = values.chunks((own[axis] * inner).max(1)).flat_map(|row| &row[first * inner..(first + n) * inner]);
    let mut shape = own.clone();
    shape[axis] = n;
    let values: Vec<i64> = rows.copied().collect();
    Ok(e.constant(Tensor::from_i64s(tensor.dtype(), &shape, &values)?))
}

/// `sum + x`, x being whole numbers that f32 holds exactly.
fn add_exact(e: &mut Expand<'_, '_>, sum: Option<Val>, x: Val) -> Result<Val, OpError> {
    match sum {
        None => pointwise::add(e, arg(0).to_int(), DType::I32, &[x]),
        Some(sum) => pointwise::add(e, arg(0) + arg(1).to_int(), DType::I32, &[sum, x]),
    }
}

/// The exact product of codes as i32: the depth in parts whose sums f32 holds, added as integers.
pub(crate) fn mat_mul(
    e: &mut Expand<'_, '_>,
    a: Val,
    b: Val,
    zeros: [Option<Val>; 2],
    shape: Vec<Dim>,
) -> Result<Val, OpError> {
    if let Some(sum) = mat_mul_packed(e, a, b, zeros, &shape)? {
        return Ok(sum);
    }
    let depth = depth(&e.ty(a))?;
    let (mut a_dims, mut b_dims) = (e.ty(a).shape.0, e.ty(b).shape.0);
    let zero_a = zeros[0].map(|z| spread(e, z, a_dims.len(), 2)).transpose()?;
    let zero_b = zeros[1].map(|z| spread(e, z, b_dims.len(), 1)).transpose()?;
    let (mut a, mut b) = (centred(e, a, zero_a)?, centred(e, b, zero_b)?);
    if a_dims.len() == 1 {
        a_dims.insert(0, Dim::Known(1));
        a = reshape::to(e, a, a_dims.clone())?;
    }
    if b_dims.len() == 1 {
        b_dims.push(Dim::Known(1));
        b = reshape::to(e, b, b_dims.clone())?;
    }
    let (r, s) = (a_dims.len(), b_dims.len());
    let n_parts = depth.div_ceil(EXACT_TERMS).max(1);
    let each = depth.div_ceil(n_parts).max(1);
    let missing = (n_parts * each - depth) as i64;
    let pad = |e: &mut Expand<'_, '_>, x: Val, rank: usize, axis: usize| -> Result<Val, OpError> {
        let mut pads = vec![(0, 0); rank];
        pads[axis] = (0, missing);
        if missing == 0 {
            Ok(x)
        } else {
            crate::ops::onnx::pad::padded(e, x, &pads, crate::ops::core::strided::Fill::default())
        }
    };
    let (a, b) = (pad(e, a, r, r - 1)?, pad(e, b, s, s - 2)?);
    // [..., M, parts, each] to [..., parts, M, each], and [..., parts, each, N].
    let split = reshape::to(e, a, [&a_dims[..r - 1], &dims(&[n_parts, each])].concat())?;
    let order: Vec<usize> = (0..r - 2).chain([r - 1, r - 2, r]).collect();
    let a = crate::ops::onnx::movement::transpose(e, split, &order)?;
    let b = reshape::to(e, b, [&b_dims[..s - 2], &dims(&[n_parts, each]), &b_dims[s - 1..]].concat())?;
    let parts = matmul(e, a, b, false)?;
    let whole = pointwise::add(e, arg(0).to_int(), DType::I32, &[parts])?;
    let rank = e.ty(whole).shape.rank();
    let sum = reduce(e, "sum", whole, &[rank - 3], false)?;
    reshape::to(e, sum, shape)
}

fn expand_mat_mul(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (a, b, zeros) = (e.input(0)?, e.input(1)?, [e.optional(2), e.optional(3)]);
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![mat_mul(e, a, b, zeros, shape)?])
}

/// The shape of a convolution of codes.
fn convolved(infer: &Infer<'_>, x: &TensorType, w: &TensorType) -> Result<Vec<Dim>, OpError> {
    let (x_f32, w_f32) = (x.with_dtype(DType::F32), w.with_dtype(DType::F32));
    let kernel = sizes(1, w)?;
    if kernel.len() > 4 {
        return Err(OpError::operand(1, w, "codes with one or two spatial axes"));
    }
    let types = (conv::DEF.infer)(&Infer {
        attrs: infer.attrs,
        inputs: &[Some(&x_f32), Some(&w_f32)],
        consts: &[None, None],
        sizes: &[],
        n_outputs: 1,
    })?;
    let taps: usize = kernel[2..].iter().product();
    let channels = kernel[1];
    let per_part = EXACT_TERMS / taps.max(1);
    if per_part == 0 || channels.div_ceil(per_part) > MAX_PARTS {
        return Err(OpError::unsupported(format!(
            "an integer convolution with {channels} channels of {taps} taps: its sums would not be exact"
        )));
    }
    Ok(types.into_iter().next().map(|ty| ty.shape.0).unwrap_or_default())
}

fn infer_conv(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, w) = (codes(infer, 0)?, codes(infer, 1)?);
    Ok(vec![TensorType::new(DType::I32, Shape(convolved(infer, x, w)?))])
}

/// The exact convolution of codes as i32: channels in parts whose sums f32 holds, added as integers.
fn convolve(e: &mut Expand<'_, '_>, x: Val, w: Val, zeros: [Option<Val>; 2]) -> Result<Val, OpError> {
    let (x_dims, w_dims) = (e.ty(x).shape.0, sizes(1, &e.ty(w))?);
    let zero_x = zeros[0].map(|z| reshape::to(e, z, Vec::new())).transpose()?;
    let zero_w = zeros[1].map(|z| spread(e, z, w_dims.len(), w_dims.len())).transpose()?;
    let x = centred(e, x, zero_x)?;
    let spatial = &x_dims[2..];
    let window = conv::window(e.attrs, &Shape::of(&w_dims), spatial)?;
    let group = e.attrs.int("group").unwrap_or(1);
    let groups = usize::try_from(group).unwrap_or(1).max(1);
    let attrs = window.flat().write(Attrs::new()).with_int("group", group);
    // One spatial axis is a row of two.
    let plane = |lead: &[Dim], spatial: &[Dim]| {
        [lead, if spatial.len() == 1 { &[Dim::Known(1)] } else { &[] }, spatial].concat()
    };
    let taps: usize = w_dims[2..].iter().product();
    let each = (EXACT_TERMS / taps.max(1)).max(1);
    let channels = w_dims[1];
    let mut sum: Option<Val> = None;
    for first in (0..channels).step_by(each) {
        let n = each.min(channels - first);
        let codes = if n == channels { w } else { part_of_constant(e, w, 1, first, n)? };
        let w = match kept(e, codes, zeros[1], 0)? {
            Some(w) => w,
            None => centred(e, codes, zero_w)?,
        };
        // The same channels of every group.
        let grouped = reshape::to(e, x, [&x_dims[..1], &dims(&[groups, channels]), spatial].concat())?;
        let chosen = part(e, grouped, 2, first as i64, n as i64)?;
        let chosen = reshape::to(e, chosen, plane(&[x_dims[0].clone(), Dim::from(groups * n)], spatial))?;
        let w = reshape::to(e, w, plane(&dims(&[w_dims[0], n]), &dims(&w_dims[2..])))?;
        let y = e.add(&conv::DEF, attrs.clone(), &[chosen, w])?;
        sum = Some(add_exact(e, sum, y)?);
    }
    let sum = sum.ok_or_else(|| OpError::operand(1, Shape::of(&w_dims), "channels"))?;
    let out = window.out(spatial)?;
    reshape::to(e, sum, [&x_dims[..1], &dims(&w_dims[..1]), &out].concat())
}

fn expand_conv(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, w, zeros) = (e.input(0)?, e.input(1)?, [e.optional(2), e.optional(3)]);
    Ok(vec![convolve(e, x, w, zeros)?])
}

/// The operands of a product of quantized tensors, checked: a and b, or x and w.
fn quantized<'a>(infer: &Infer<'a>) -> Result<(&'a TensorType, &'a TensorType, DType), OpError> {
    let (a, b) = (codes(infer, 0)?, codes(infer, 3)?);
    for slot in [1, 4, 6] {
        if !infer.ty(slot)?.dtype.is_float() {
            return Err(OpError::operand(slot, infer.ty(slot)?, "floats"));
        }
    }
    for slot in [2, 5] {
        codes(infer, slot)?;
    }
    Ok((a, b, codes(infer, 7)?.dtype))
}

fn infer_q_mat_mul(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b, dtype) = quantized(infer)?;
    Ok(vec![TensorType::new(dtype, Shape(product(a, b)?))])
}

fn infer_q_conv(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, w, dtype) = quantized(infer)?;
    Ok(vec![TensorType::new(dtype, Shape(convolved(infer, x, w)?))])
}

/// `round(sum * (a_scale * b_scale / y_scale)) + y_zero`, saturated, in this order, which is that of the standard and
/// of ONNX Runtime. The scales are a's, b's and y's.
pub(crate) fn requantize(e: &mut Expand<'_, '_>, sum: Val, scales: [Val; 3], zero: Val) -> Result<Val, OpError> {
    let dtype = e.outputs[0].dtype;
    let (low, high) = crate::ops::core::quantize_linear::range(dtype)
        .ok_or_else(|| OpError::unsupported(format!("codes of type {dtype}")))?;
    let zero = reshape::to(e, zero, Vec::new())?;
    let y_scale = reshape::to(e, scales[2], Vec::new())?;
    let expr = ((arg(0).to_float() * (arg(1) * arg(2) / arg(3))).round() + arg(4).to_float())
        .max(low as f32)
        .min(high as f32)
        .to_int();
    pointwise::add(e, expr, dtype, &[sum, scales[0], scales[1], y_scale, zero])
}

fn expand_q_mat_mul(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let operands = (0..8).map(|slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
    let (a, b) = (operands[0], operands[3]);
    let (a_rank, b_rank) = (e.ty(a).shape.rank(), e.ty(b).shape.rank());
    let shape = e.outputs[0].shape.0.clone();
    let sum = mat_mul(e, a, b, [Some(operands[2]), Some(operands[5])], shape)?;
    let rank = e.ty(sum).shape.rank();
    let (a_scale, b_scale) =
        (spread(e, operands[1], a_rank.min(rank), 2)?, spread(e, operands[4], b_rank.min(rank), 1)?);
    Ok(vec![requantize(e, sum, [a_scale, b_scale, operands[6]], operands[7])?])
}

fn expand_q_conv(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let operands = (0..8).map(|slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
    let mut sum = convolve(e, operands[0], operands[3], [Some(operands[2]), Some(operands[5])])?;
    let rank = e.ty(sum).shape.rank();
    if let Some(bias) = e.optional(8) {
        let bias = along(e, bias, rank, 1)?;
        sum = pointwise::add(e, arg(0) + arg(1), DType::I32, &[sum, bias])?;
    }
    let x_scale = reshape::to(e, operands[1], Vec::new())?;
    let w_scale = if e.ty(operands[4]).shape.n_elems() == Some(1) {
        reshape::to(e, operands[4], Vec::new())?
    } else {
        along(e, operands[4], rank, 1)?
    };
    Ok(vec![requantize(e, sum, [x_scale, w_scale, operands[6]], operands[7])?])
}
