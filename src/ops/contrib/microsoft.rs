//! Operators of the domain `com.microsoft`, version 1, as ONNX Runtime's optimizer and quantizer write them.

use crate::ir::expr::build::{arg, select};
use crate::ir::{Attrs, Class, DType, Dim, Expand, Expr, Infer, OpDef, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::{concat, floats, reduce};
use crate::ops::core::{pointwise, quantize_linear, reshape};
use crate::ops::onnx::{elementwise, integer, normalization, pooling};
use crate::ops::util::axis_attr;

written_out! {
    /// `simplified_layer_normalization(x, scale) {axis, epsilon}`: RMSNormalization under the name that it had before
    /// opset 23.
    SIMPLIFIED "simplified_layer_normalization" "SimplifiedLayerNormalization" (2, 2) [attr::int("axis"), attr::float("epsilon"), attr::int("stash_type")]
        |i| (normalization::RMS.infer)(i), |e| Ok(vec![as_is(e, &normalization::RMS)?]);
    /// `skip_layer_normalization(x, skip, gamma, beta?, bias?) {epsilon}`: LayerNormalization of a sum, and the sum.
    SKIP_LAYER "skip_layer_normalization" "com.microsoft::SkipLayerNormalization" (3, 5) [attr::float("epsilon")] infer_skip, |e| expand_skip(e, 4, true);
    /// `skip_simplified_layer_normalization(x, skip, gamma, bias?) {epsilon}`: RMSNormalization of a sum, and the sum.
    SKIP_SIMPLIFIED "skip_simplified_layer_normalization" "com.microsoft::SkipSimplifiedLayerNormalization" (3, 4) [attr::float("epsilon")]
        infer_skip, |e| expand_skip(e, 3, false);
    /// `bias_gelu(x, bias)`: Gelu of a sum.
    BIAS_GELU "bias_gelu" "com.microsoft::BiasGelu" (2, 2) [] infer_first, |e| expand_gelu(e, "none");
    /// `fast_gelu(x, bias?)`: Gelu of a sum, by the hyperbolic tangent.
    FAST_GELU "fast_gelu" "com.microsoft::FastGelu" (1, 2) [] infer_first, |e| expand_gelu(e, "tanh");
    /// `ms_gelu(x)`: Gelu.
    GELU "ms_gelu" "com.microsoft::Gelu" (1, 1) [] infer_first, |e| expand_gelu(e, "none");
    /// `quick_gelu(x) {alpha}`: `x * sigmoid(alpha * x)`.
    QUICK_GELU "quick_gelu" "com.microsoft::QuickGelu" (1, 1) [attr::float("alpha")] infer_first, expand_quick;
    /// `ms_quantize_linear(x, scale, zero_point?) {axis, block_size}`: QuantizeLinear.
    QUANTIZE "ms_quantize_linear" "com.microsoft::QuantizeLinear" (2, 3) [attr::int("axis"), attr::int("block_size")]
        |i| (quantize_linear::DEF.infer)(i), |e| Ok(vec![as_is(e, &quantize_linear::DEF)?]);
    /// `ms_dequantize_linear(x, scale, zero_point?) {axis, block_size}`: DequantizeLinear.
    DEQUANTIZE "ms_dequantize_linear" "com.microsoft::DequantizeLinear" (2, 3) [attr::int("axis"), attr::int("block_size")]
        |i| (quantize_linear::DEQUANTIZE.infer)(i), |e| Ok(vec![as_is(e, &quantize_linear::DEQUANTIZE)?]);
    /// `q_linear_add(a, a_scale, a_zero?, b, b_scale, b_zero?, y_scale, y_zero?)`: a sum of codes.
    Q_ADD "q_linear_add" "com.microsoft::QLinearAdd" (7, 8) [] infer_q_binary, expand_q_add;
    /// `q_linear_mul(a, a_scale, a_zero?, b, b_scale, b_zero?, y_scale, y_zero?)`: a product of codes.
    Q_MUL "q_linear_mul" "com.microsoft::QLinearMul" (7, 8) [] infer_q_binary, expand_q_mul;
    /// `q_linear_sigmoid(x, x_scale, x_zero?, y_scale, y_zero?)`: Sigmoid of codes.
    Q_SIGMOID "q_linear_sigmoid" "com.microsoft::QLinearSigmoid" (4, 5) [] infer_first, |e| expand_q_unary(e, arg(0).sigmoid());
    /// `q_linear_leaky_relu(x, x_scale, x_zero?, y_scale, y_zero?) {alpha}`: LeakyRelu of codes.
    Q_LEAKY_RELU "q_linear_leaky_relu" "com.microsoft::QLinearLeakyRelu" (4, 5) [attr::float("alpha")] infer_first, |e| {
        let alpha = e.attrs.float("alpha").unwrap_or(0.01);
        expand_q_unary(e, select(arg(0).below(0.0), arg(0) * alpha, arg(0)))
    };
    /// `q_linear_global_average_pool(x, x_scale, x_zero, y_scale, y_zero) {channels_last}`: GlobalAveragePool of codes.
    Q_GLOBAL_POOL "q_linear_global_average_pool" "com.microsoft::QLinearGlobalAveragePool" (5, 5) [attr::int("channels_last")] infer_q_pool, expand_q_pool;
    /// `q_linear_average_pool(x, x_scale, x_zero?, y_scale, y_zero?) {channels_last, ...}`: AveragePool of codes.
    Q_AVERAGE_POOL "q_linear_average_pool" "com.microsoft::QLinearAveragePool" (4, 5)
        [attr::ints("kernel_shape"), attr::ints("strides"), attr::ints("pads"), attr::text("auto_pad"), attr::int("ceil_mode"), attr::int("count_include_pad"), attr::int("channels_last")]
        infer_q_average, expand_q_average;
    /// `q_linear_reduce_mean(x, x_scale, x_zero?, y_scale, y_zero?) {axes, keepdims}`: ReduceMean of codes.
    Q_REDUCE_MEAN "q_linear_reduce_mean" "com.microsoft::QLinearReduceMean" (4, 5) [attr::ints("axes"), attr::int("keepdims")] infer_q_mean, expand_q_mean;
    /// `q_linear_softmax(x, x_scale, x_zero?, y_scale, y_zero?) {axis, opset}`: Softmax of codes, of all axes from
    /// `axis` on where `opset` is below 13.
    Q_SOFTMAX "q_linear_softmax" "com.microsoft::QLinearSoftmax" (4, 5) [attr::int("axis"), attr::int("opset")] infer_q_softmax, expand_q_softmax;
    /// `q_linear_where(condition, x, x_scale, x_zero, y, y_scale, y_zero, z_scale, z_zero)`: Where of codes.
    Q_WHERE "q_linear_where" "com.microsoft::QLinearWhere" (9, 9) [] infer_q_where, expand_q_where;
    /// `q_linear_concat(y_scale, y_zero, x0, x0_scale, x0_zero, ...) {axis}`: Concat of codes.
    Q_CONCAT "q_linear_concat" "com.microsoft::QLinearConcat" (5, 3071) [attr::int("axis")] infer_q_concat, expand_q_concat;
    /// `mat_mul_integer_to_float(a, b, a_scale, b_scale, a_zero?, b_zero?, bias?)`: MatMulInteger with its scales.
    MAT_MUL_TO_FLOAT "mat_mul_integer_to_float" "com.microsoft::MatMulIntegerToFloat" (4, 7) [] infer_to_float, expand_to_float;
    /// `dynamic_quantize_mat_mul(a, b, b_scale, b_zero?, bias?)`: MatMul with codes, its left operand quantized on the
    /// way.
    DYNAMIC_MAT_MUL "dynamic_quantize_mat_mul" "com.microsoft::DynamicQuantizeMatMul" (3, 5) [] infer_dynamic, expand_dynamic;
}

/// The same operands and attributes under another operator.
fn as_is(e: &mut Expand<'_, '_>, def: &'static OpDef) -> Result<Val, OpError> {
    let operands = (0..e.inputs.len()).map(|slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
    e.add(def, e.attrs.clone(), &operands)
}

fn infer_first(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.packing.is_some() || !matches!(x.dtype.class(), Class::Float | Class::Int) {
        return Err(OpError::operand(0, x, "numbers"));
    }
    Ok(vec![x.clone()])
}

fn infer_skip(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, skip) = (infer.ty(0)?, infer.ty(1)?);
    if !x.dtype.is_float()
        || x.packing.is_some()
        || x.shape.rank() == 0
        || crate::ops::util::broadcast(&[&x.shape, &skip.shape])? != x.shape
    {
        return Err(OpError::operand(1, skip, format!("floats that broadcast to {x}")));
    }
    let last = &x.shape.0[x.shape.rank() - 1..];
    for slot in 2..infer.inputs.len() {
        if let Some(ty) = infer.inputs[slot].filter(|ty| ty.shape.0 != last) {
            return Err(OpError::operand(slot, ty, Shape(last.to_vec())));
        }
    }
    let kept = Shape([&x.shape.0[..x.shape.rank() - 1], &[Dim::Known(1)]].concat());
    let statistic = TensorType::new(DType::F32, kept);
    Ok(vec![x.clone(), statistic.clone(), statistic, x.clone()])
}

/// `bias` is the slot of the bias of the sum; only `layer` has a mean and a beta.
fn expand_skip(e: &mut Expand<'_, '_>, bias: usize, layer: bool) -> Result<Vec<Val>, OpError> {
    let (x, skip, gamma, beta) = (e.input(0)?, e.input(1)?, e.input(2)?, e.optional(3).filter(|_| layer));
    let (ty, epsilon) = (e.ty(x), e.attrs.float("epsilon").unwrap_or(1e-12));
    let axis = ty.shape.rank() - 1;
    let sum = match e.optional(bias) {
        Some(bias) => pointwise::add(e, arg(0) + arg(1) + arg(2), ty.dtype, &[x, skip, bias])?,
        None => pointwise::add(e, arg(0) + arg(1), ty.dtype, &[x, skip])?,
    };
    let attrs =
        crate::ops::core::norm::attrs(if layer { "layer" } else { "rms" }, axis, epsilon).with_dtype("dtype", ty.dtype);
    let operands: Vec<Val> = [sum, gamma].into_iter().chain(beta).collect();
    let y = e.add(&crate::ops::core::norm::DEF, attrs, &operands)?;
    let mean = e.add(
        &crate::ops::core::reduce::DEF,
        crate::ops::core::reduce::attrs("mean", &[axis], true).with_dtype("dtype", DType::F32),
        &[sum],
    )?;
    let expr = if layer { (arg(0) - arg(1)) * (arg(0) - arg(1)) } else { arg(0) * arg(0) };
    let operands = if layer { vec![sum, mean] } else { vec![sum] };
    let square = pointwise::add(e, expr, DType::F32, &operands)?;
    let variance = reduce(e, "mean", square, &[axis], true)?;
    let factor = pointwise::add(e, (arg(0) + epsilon).rsqrt(), DType::F32, &[variance])?;
    Ok(vec![y, mean, factor, sum])
}

fn expand_gelu(e: &mut Expand<'_, '_>, approximate: &str) -> Result<Vec<Val>, OpError> {
    let (mut x, dtype) = (e.input(0)?, e.outputs[0].dtype);
    if let Some(bias) = e.optional(1) {
        x = pointwise::add(e, arg(0) + arg(1), dtype, &[x, bias])?;
    }
    Ok(vec![e.add(&elementwise::GELU, Attrs::new().with_str("approximate", approximate), &[x])?])
}

fn expand_quick(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, dtype) = (e.input(0)?, e.outputs[0].dtype);
    let alpha = e.attrs.float("alpha").unwrap_or(1.702);
    Ok(vec![pointwise::add(e, arg(0) * (arg(0) * alpha).sigmoid(), dtype, &[x])?])
}

/// Codes in `slot`, with scale and zero point behind, as f32.
fn dequantized(e: &mut Expand<'_, '_>, slot: usize) -> Result<Val, OpError> {
    let (x, scale) = (e.input(slot)?, e.input(slot + 1)?);
    let scale = reshape::to(e, scale, Vec::new())?;
    match e.optional(slot + 2) {
        Some(zero) => {
            let zero = reshape::to(e, zero, Vec::new())?;
            pointwise::add(e, (arg(0) - arg(2)).to_float() * arg(1), DType::F32, &[x, scale, zero])
        }
        None => pointwise::add(e, arg(0).to_float() * arg(1), DType::F32, &[x, scale]),
    }
}

/// The scalar in `slot`.
fn scalar(e: &mut Expand<'_, '_>, slot: usize) -> Result<Val, OpError> {
    let value = e.input(slot)?;
    reshape::to(e, value, Vec::new())
}

/// The zero point in `slot` as f32: 0 where it is absent.
fn zero_point(e: &mut Expand<'_, '_>, slot: usize) -> Result<Val, OpError> {
    match e.optional(slot) {
        Some(_) => {
            let zero = scalar(e, slot)?;
            pointwise::add(e, arg(0).to_float(), DType::F32, &[zero])
        }
        None => floats(e, &[], &[0.0]),
    }
}

/// Whole numbers, as `value` computes them, as codes of `dtype`, those beyond its range as its ends.
fn saturated(e: &mut Expand<'_, '_>, value: Expr, dtype: DType, operands: &[Val]) -> Result<Val, OpError> {
    let (low, high) =
        quantize_linear::range(dtype).ok_or_else(|| OpError::unsupported(format!("codes of type {dtype}")))?;
    pointwise::add(e, value.max(low as f32).min(high as f32).to_int(), dtype, operands)
}

/// f32 as codes of `dtype`, scale and zero point in `slot` and behind, by the rule of QuantizeLinear: rounded, then
/// moved by the zero point.
fn quantized(e: &mut Expand<'_, '_>, x: Val, slot: usize, dtype: DType) -> Result<Val, OpError> {
    let (scale, zero) = (scalar(e, slot)?, zero_point(e, slot + 1)?);
    saturated(e, (arg(0) / arg(1)).round() + arg(2), dtype, &[x, scale, zero])
}

/// As [`quantized`], but moved by the zero point before it is rounded, as ONNX Runtime has it in sums, products and
/// averages of codes: half a step goes to the even code, whether the zero point is even or odd.
fn moved_and_quantized(e: &mut Expand<'_, '_>, x: Val, slot: usize, dtype: DType) -> Result<Val, OpError> {
    let (scale, zero) = (scalar(e, slot)?, zero_point(e, slot + 1)?);
    saturated(e, (arg(0) / arg(1) + arg(2)).round(), dtype, &[x, scale, zero])
}

fn infer_q_binary(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b) = (infer.ty(0)?, infer.ty(3)?);
    if a.dtype != b.dtype || quantize_linear::range(a.dtype).is_none() || a.packing.is_some() {
        return Err(OpError::operand(3, b, format!("codes of type {}", a.dtype)));
    }
    Ok(vec![TensorType::new(a.dtype, crate::ops::util::broadcast(&[&a.shape, &b.shape])?)])
}

/// The sum in steps of the result, by the ratios of the scales, as ONNX Runtime has it for codes of 8 bits: sums of
/// whole and half steps are exact where the scales are multiples of each other.
fn expand_q_add(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (a, b, dtype) = (e.input(0)?, e.input(3)?, e.outputs[0].dtype);
    if dtype.bits() > 8 {
        let (a, b) = (dequantized(e, 0)?, dequantized(e, 3)?);
        let y = pointwise::add(e, arg(0) + arg(1), DType::F32, &[a, b])?;
        return Ok(vec![moved_and_quantized(e, y, 6, dtype)?]);
    }
    let (scale, zero) = (scalar(e, 6)?, zero_point(e, 7)?);
    let (a_scale, a_zero, b_scale, b_zero) = (scalar(e, 1)?, zero_point(e, 2)?, scalar(e, 4)?, zero_point(e, 5)?);
    let a_ratio = pointwise::add(e, arg(0) / arg(1), DType::F32, &[a_scale, scale])?;
    let b_ratio = pointwise::add(e, arg(0) / arg(1), DType::F32, &[b_scale, scale])?;
    let operands = [zero, a_ratio, a_zero, b_ratio, b_zero];
    let fixed = pointwise::add(e, arg(0) - (arg(1) * arg(2) + arg(3) * arg(4)), DType::F32, &operands)?;
    // The one that is the same for a row of elements is added to what is the same for all of them.
    let is_column = |e: &Expand<'_, '_>, val: Val| e.ty(val).shape.0.last().is_none_or(|size| *size == Dim::Known(1));
    let operands = if is_column(e, b) && !is_column(e, a) {
        [fixed, b, b_ratio, a, a_ratio]
    } else {
        [fixed, a, a_ratio, b, b_ratio]
    };
    Ok(vec![saturated(
        e,
        (arg(0) + arg(1).to_float() * arg(2) + arg(3).to_float() * arg(4)).round(),
        dtype,
        &operands,
    )?])
}

/// The product of whole numbers in steps of the result.
fn expand_q_mul(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (a, b, dtype) = (e.input(0)?, e.input(3)?, e.outputs[0].dtype);
    let (a_scale, b_scale, scale, zero) = (scalar(e, 1)?, scalar(e, 4)?, scalar(e, 6)?, zero_point(e, 7)?);
    let ratio = pointwise::add(e, arg(0) * arg(1) / arg(2), DType::F32, &[a_scale, b_scale, scale])?;
    let (a_zero, b_zero) = (zero_point(e, 2)?, zero_point(e, 5)?);
    let expr = ((arg(0).to_float() - arg(1)) * (arg(2).to_float() - arg(3)) * arg(4) + arg(5)).round();
    Ok(vec![saturated(e, expr, dtype, &[a, a_zero, b, b_zero, ratio, zero])?])
}

fn expand_q_unary(e: &mut Expand<'_, '_>, function: Expr) -> Result<Vec<Val>, OpError> {
    let (x, dtype) = (dequantized(e, 0)?, e.outputs[0].dtype);
    let y = pointwise::add(e, function, DType::F32, &[x])?;
    Ok(vec![quantized(e, y, 3, dtype)?])
}

fn pool_axes(attrs: &Attrs, x: &TensorType) -> Result<Vec<usize>, OpError> {
    let rank = x.shape.rank();
    if rank < 3 || quantize_linear::range(x.dtype).is_none() {
        return Err(OpError::operand(0, x, "codes with spatial axes"));
    }
    Ok(if attrs.int("channels_last").unwrap_or(0) != 0 { (1..rank - 1).collect() } else { (2..rank).collect() })
}

fn infer_q_pool(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    Ok(vec![TensorType::new(x.dtype, crate::ops::core::reduce::reduced(&x.shape, &pool_axes(infer.attrs, x)?, true))])
}

fn expand_q_pool(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let axes = pool_axes(e.attrs, &e.ty(e.input(0)?))?;
    let (x, dtype) = (dequantized(e, 0)?, e.outputs[0].dtype);
    let y = reduce(e, "mean", x, &axes, true)?;
    Ok(vec![quantized(e, y, 3, dtype)?])
}

/// Codes, and what they are as floats.
fn as_floats(infer: &Infer<'_>, slot: usize) -> Result<(DType, TensorType), OpError> {
    let x = infer.ty(slot)?;
    if quantize_linear::range(x.dtype).is_none() || x.packing.is_some() {
        return Err(OpError::operand(slot, x, "codes"));
    }
    Ok((x.dtype, x.with_dtype(DType::F32)))
}

/// What `def` says of codes as floats, as codes of the same type.
fn infer_as(
    infer: &Infer<'_>,
    def: &OpDef,
    attrs: &Attrs,
    x: &TensorType,
    dtype: DType,
) -> Result<Vec<TensorType>, OpError> {
    let types =
        (def.infer)(&Infer { attrs, inputs: &[Some(x)], consts: &[None], sizes: &[], n_outputs: infer.n_outputs })?;
    Ok(types.into_iter().take(1).map(|ty| ty.with_dtype(dtype)).collect())
}

/// Axes so that channels come first, and so that they come last again.
fn channel_orders(rank: usize) -> [Vec<usize>; 2] {
    let last = rank.saturating_sub(1);
    [[0, last].into_iter().chain(1..last).collect(), [0].into_iter().chain(2..rank).chain([1]).collect()]
}

fn infer_q_average(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (dtype, mut x) = as_floats(infer, 0)?;
    let is_last = infer.attrs.int("channels_last").unwrap_or(0) != 0;
    let rank = x.shape.rank();
    if rank < 3 {
        return Err(OpError::operand(0, x, "codes with spatial axes"));
    }
    let permuted = |ty: &TensorType, order: &[usize]| {
        TensorType::new(ty.dtype, Shape(order.iter().map(|&axis| ty.shape.0[axis].clone()).collect()))
    };
    let [first, behind] = channel_orders(rank);
    if is_last {
        x = permuted(&x, &first);
    }
    let types = infer_as(infer, &pooling::AVERAGE, infer.attrs, &x, dtype)?;
    Ok(if is_last { types.iter().map(|ty| permuted(ty, &behind)).collect() } else { types })
}

fn expand_q_average(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (mut x, dtype) = (dequantized(e, 0)?, e.outputs[0].dtype);
    let is_last = e.attrs.int("channels_last").unwrap_or(0) != 0;
    let [first, behind] = channel_orders(e.ty(x).shape.rank());
    if is_last {
        x = crate::ops::onnx::movement::transpose(e, x, &first)?;
    }
    let mut attrs = e.attrs.clone();
    attrs.0.remove("channels_last");
    let mut y = e.add(&pooling::AVERAGE, attrs, &[x])?;
    if is_last {
        y = crate::ops::onnx::movement::transpose(e, y, &behind)?;
    }
    Ok(vec![moved_and_quantized(e, y, 3, dtype)?])
}

fn mean_axes(attrs: &Attrs, rank: usize) -> Result<Vec<usize>, OpError> {
    match attrs.ints("axes") {
        Some(given) if !given.is_empty() => crate::ops::util::axes(given, rank),
        _ => Ok((0..rank).collect()),
    }
}

fn infer_q_mean(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (dtype, x) = as_floats(infer, 0)?;
    let axes = mean_axes(infer.attrs, x.shape.rank())?;
    let keepdims = infer.attrs.int("keepdims").unwrap_or(1) != 0;
    Ok(vec![TensorType::new(dtype, crate::ops::core::reduce::reduced(&x.shape, &axes, keepdims))])
}

fn expand_q_mean(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, dtype) = (dequantized(e, 0)?, e.outputs[0].dtype);
    let axes = mean_axes(e.attrs, e.ty(x).shape.rank())?;
    let y = reduce(e, "mean", x, &axes, e.attrs.int("keepdims").unwrap_or(1) != 0)?;
    Ok(vec![quantized(e, y, 3, dtype)?])
}

/// The first axis of those that one sum runs over, and whether it is the only one.
fn softmax_axis(attrs: &Attrs, rank: usize) -> Result<(usize, bool), OpError> {
    let opset = attrs.int("opset").ok_or_else(|| OpError::attribute("opset", "is missing"))?;
    Ok((axis_attr(attrs, -1, rank)?, opset >= 13))
}

fn infer_q_softmax(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (dtype, x) = as_floats(infer, 0)?;
    softmax_axis(infer.attrs, x.shape.rank())?;
    Ok(vec![x.with_dtype(dtype)])
}

fn expand_q_softmax(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, dtype) = (dequantized(e, 0)?, e.outputs[0].dtype);
    let own = e.ty(x).shape.0;
    let (axis, is_one) = softmax_axis(e.attrs, own.len())?;
    let shape =
        if is_one { own.clone() } else { vec![crate::ir::product(&own[..axis]), crate::ir::product(&own[axis..])] };
    let axis = if is_one { axis } else { 1 };
    let mut y = reshape::to(e, x, shape)?;
    let attrs = Attrs::new().with_int("axis", axis as i64).with_int("log", 0).with_dtype("dtype", DType::F32);
    y = e.add(&crate::ops::core::softmax::DEF, attrs, &[y])?;
    y = reshape::to(e, y, own)?;
    // ONNX Runtime has a whole number of steps in 1, whatever the scale.
    let (scale, zero) = (scalar(e, 3)?, zero_point(e, 4)?);
    let n_steps = pointwise::add(e, (1.0 / arg(0)).floor(), DType::F32, &[scale])?;
    Ok(vec![saturated(e, (arg(0) * arg(1)).round() + arg(2), dtype, &[y, n_steps, zero])?])
}

fn infer_q_where(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (condition, (dtype, x), (other, y)) = (infer.ty(0)?, as_floats(infer, 1)?, as_floats(infer, 4)?);
    if condition.dtype != DType::Bool || dtype != other {
        return Err(OpError::operand(4, infer.ty(4)?, format!("codes of type {dtype} beside truth values")));
    }
    Ok(vec![TensorType::new(dtype, crate::ops::util::broadcast(&[&condition.shape, &x.shape, &y.shape])?)])
}

fn expand_q_where(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (condition, x, y, dtype) = (e.input(0)?, dequantized(e, 1)?, dequantized(e, 4)?, e.outputs[0].dtype);
    let z = pointwise::add(e, select(arg(0), arg(1), arg(2)), DType::F32, &[condition, x, y])?;
    Ok(vec![quantized(e, z, 7, dtype)?])
}

fn infer_q_concat(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let n = infer.inputs.len().saturating_sub(2);
    if n == 0 || !n.is_multiple_of(3) {
        return Err(OpError::unsupported(format!("{} operands: two, and three for each tensor", infer.inputs.len())));
    }
    let parts: Vec<_> = infer.inputs.iter().skip(2).step_by(3).copied().collect();
    let axis = Attrs::new().with_int("axis", infer.attrs.int("axis").unwrap_or(0));
    (crate::ops::core::concat::DEF.infer)(&Infer {
        attrs: &axis,
        inputs: &parts,
        consts: &vec![None; parts.len()],
        sizes: &[],
        n_outputs: 1,
    })
}

fn expand_q_concat(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let dtype = e.outputs[0].dtype;
    let axis = axis_attr(e.attrs, 0, e.outputs[0].shape.rank())?;
    let parts = (2..e.inputs.len()).step_by(3).map(|slot| dequantized(e, slot)).collect::<Result<Vec<_>, _>>()?;
    let y = concat(e, &parts, axis)?;
    Ok(vec![quantized(e, y, 0, dtype)?])
}

fn infer_to_float(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let inputs = [
        infer.inputs[0],
        infer.inputs[1],
        infer.inputs.get(4).copied().flatten(),
        infer.inputs.get(5).copied().flatten(),
    ];
    let types = (integer::MAT_MUL.infer)(&Infer {
        attrs: &Attrs::new(),
        inputs: &inputs,
        consts: &[None; 4],
        sizes: &[],
        n_outputs: 1,
    })?;
    Ok(types.iter().map(|ty| ty.with_dtype(infer.inputs[2].map_or(DType::F32, |scale| scale.dtype))).collect())
}

/// An integer product with its scales and a bias.
fn scaled(
    e: &mut Expand<'_, '_>,
    operands: [Option<Val>; 4],
    scales: [Val; 2],
    bias: Option<Val>,
) -> Result<Val, OpError> {
    let sums = e
        .edit
        .add_all(crate::ir::Op::new(&integer::MAT_MUL, Attrs::new()), &operands, 1)
        .map_err(|e| OpError::Edit(Box::new(e)))?;
    let mut operands = vec![sums[0]];
    for scale in scales {
        let scale = if e.ty(scale).shape.n_elems() == Some(1) { reshape::to(e, scale, Vec::new())? } else { scale };
        operands.push(scale);
    }
    let expr = if bias.is_some() {
        arg(0).to_float() * (arg(1) * arg(2)) + arg(3)
    } else {
        arg(0).to_float() * (arg(1) * arg(2))
    };
    operands.extend(bias);
    let dtype = e.outputs[0].dtype;
    pointwise::add(e, expr, dtype, &operands)
}

fn expand_to_float(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let operands = [Some(e.input(0)?), Some(e.input(1)?), e.optional(4), e.optional(5)];
    let (scales, bias) = ([e.input(2)?, e.input(3)?], e.optional(6));
    Ok(vec![scaled(e, operands, scales, bias)?])
}

fn infer_dynamic(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let a = infer.ty(0)?;
    if !a.dtype.is_float() || a.packing.is_some() {
        return Err(OpError::operand(0, a, "floats"));
    }
    let codes = a.with_dtype(DType::U8);
    let inputs = [Some(&codes), infer.inputs[1], None, infer.inputs.get(3).copied().flatten()];
    let types = (integer::MAT_MUL.infer)(&Infer {
        attrs: &Attrs::new(),
        inputs: &inputs,
        consts: &[None; 4],
        sizes: &[],
        n_outputs: 1,
    })?;
    Ok(types.iter().map(|ty| ty.with_dtype(a.dtype)).collect())
}

fn expand_dynamic(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (a, b, scale) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let quantized = e.edit.add_all(crate::ir::Op::new(&integer::DYNAMIC_QUANTIZE, Attrs::new()), &[Some(a)], 3);
    let quantized = quantized.map_err(|e| OpError::Edit(Box::new(e)))?;
    let (zero, bias) = (e.optional(3), e.optional(4));
    Ok(vec![scaled(e, [Some(quantized[0]), Some(b), Some(quantized[2]), zero], [quantized[1], scale], bias)?])
}
