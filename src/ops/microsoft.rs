//! Operators of the domain `com.microsoft`, version 1, as ONNX Runtime's optimizer and quantizer write them.

use super::compose::{cast, concat, dims, reduce};
use super::util::axis_attr;
use super::{elementwise, integer, matmul, normalize, pointwise, quantize_linear, reshape};
use crate::ir::{Attrs, Class, DType, Dim, Expand, Infer, OpDef, OpError, Shape, Tensor, TensorType, Val, attr};

written_out! {
    /// `simplified_layer_normalization(x, scale) {axis, epsilon}`: RMSNormalization under the name that it had before opset 23.
    SIMPLIFIED "simplified_layer_normalization" "SimplifiedLayerNormalization" (2, 2) [attr::int("axis"), attr::float("epsilon"), attr::int("stash_type")]
        |i| (normalize::RMS.infer)(i), |e| Ok(vec![as_is(e, &normalize::RMS)?]);
    /// `skip_layer_normalization(x, skip, gamma, beta?, bias?) {epsilon}`: LayerNormalization of a sum, and the sum.
    SKIP_LAYER "skip_layer_normalization" "com.microsoft::SkipLayerNormalization" (3, 5) [attr::float("epsilon")] infer_skip, |e| expand_skip(e, 4, true);
    /// `skip_simplified_layer_normalization(x, skip, gamma, bias?) {epsilon}`: RMSNormalization of a sum, and the sum.
    SKIP_SIMPLIFIED "skip_simplified_layer_normalization" "com.microsoft::SkipSimplifiedLayerNormalization" (3, 4) [attr::float("epsilon")]
        infer_skip, |e| expand_skip(e, 3, false);
    /// `fused_mat_mul(a, b) {alpha, transA, transB}`: `alpha * a x b`, last axes turned where asked.
    FUSED_MAT_MUL "fused_mat_mul" "com.microsoft::FusedMatMul" (2, 2) [attr::float("alpha"), attr::int("transA"), attr::int("transB"), attr::int("transBatchA"), attr::int("transBatchB")]
        infer_fused, expand_fused;
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
    Q_ADD "q_linear_add" "com.microsoft::QLinearAdd" (7, 8) [] infer_q_binary, |e| expand_q_binary(e, "add");
    /// `q_linear_mul(a, a_scale, a_zero?, b, b_scale, b_zero?, y_scale, y_zero?)`: a product of codes.
    Q_MUL "q_linear_mul" "com.microsoft::QLinearMul" (7, 8) [] infer_q_binary, |e| expand_q_binary(e, "mul");
    /// `q_linear_sigmoid(x, x_scale, x_zero?, y_scale, y_zero?)`: Sigmoid of codes.
    Q_SIGMOID "q_linear_sigmoid" "com.microsoft::QLinearSigmoid" (4, 5) [] infer_first, |e| expand_q_unary(e, "sigmoid(@)".to_owned());
    /// `q_linear_leaky_relu(x, x_scale, x_zero?, y_scale, y_zero?) {alpha}`: LeakyRelu of codes.
    Q_LEAKY_RELU "q_linear_leaky_relu" "com.microsoft::QLinearLeakyRelu" (4, 5) [attr::float("alpha")] infer_first, |e| {
        let alpha = e.attrs.float("alpha").unwrap_or(0.01);
        expand_q_unary(e, format!("select(lt(@,0.0),mul(@,{alpha:?}),@)"))
    };
    /// `q_linear_global_average_pool(x, x_scale, x_zero, y_scale, y_zero) {channels_last}`: GlobalAveragePool of codes.
    Q_GLOBAL_POOL "q_linear_global_average_pool" "com.microsoft::QLinearGlobalAveragePool" (5, 5) [attr::int("channels_last")] infer_q_pool, expand_q_pool;
    /// `q_linear_concat(y_scale, y_zero, x0, x0_scale, x0_zero, ...) {axis}`: Concat of codes.
    Q_CONCAT "q_linear_concat" "com.microsoft::QLinearConcat" (5, 3071) [attr::int("axis")] infer_q_concat, expand_q_concat;
    /// `mat_mul_integer_to_float(a, b, a_scale, b_scale, a_zero?, b_zero?, bias?)`: MatMulInteger with its scales.
    MAT_MUL_TO_FLOAT "mat_mul_integer_to_float" "com.microsoft::MatMulIntegerToFloat" (4, 7) [] infer_to_float, expand_to_float;
    /// `dynamic_quantize_mat_mul(a, b, b_scale, b_zero?, bias?)`: MatMul with codes, its left operand quantized on the way.
    DYNAMIC_MAT_MUL "dynamic_quantize_mat_mul" "com.microsoft::DynamicQuantizeMatMul" (3, 5) [] infer_dynamic, expand_dynamic;
    /// `mat_mul_n_bits(a, b, scales, zeros?, groups?, bias?) {K, N, bits, block_size}`: MatMul with constant codes of 2, 4 or 8 bits, by blocks.
    MAT_MUL_N_BITS "mat_mul_n_bits" "com.microsoft::MatMulNBits" (3, 6) [attr::int("K"), attr::int("N"), attr::int("bits"), attr::int("block_size"), attr::int("accuracy_level")] infer_n_bits, expand_n_bits;
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
        || super::util::broadcast(&[&x.shape, &skip.shape])? != x.shape
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
        Some(bias) => pointwise::add(e, "add(add(x0,x1),x2)", ty.dtype, &[x, skip, bias])?,
        None => pointwise::add(e, "add(x0,x1)", ty.dtype, &[x, skip])?,
    };
    let attrs = super::norm::attrs(if layer { "layer" } else { "rms" }, axis, epsilon).with_dtype("dtype", ty.dtype);
    let operands: Vec<Val> = [sum, gamma].into_iter().chain(beta).collect();
    let y = e.add(&super::norm::DEF, attrs, &operands)?;
    let mean = e.add(
        &super::reduce::DEF,
        super::reduce::attrs("mean", &[axis], true).with_dtype("dtype", DType::F32),
        &[sum],
    )?;
    let text = if layer { "mul(sub(x0,x1),sub(x0,x1))" } else { "mul(x0,x0)" };
    let operands = if layer { vec![sum, mean] } else { vec![sum] };
    let square = pointwise::add(e, text, DType::F32, &operands)?;
    let variance = reduce(e, "mean", square, &[axis], true)?;
    let factor = pointwise::add(e, &format!("rsqrt(add(x0,{epsilon:?}))"), DType::F32, &[variance])?;
    Ok(vec![y, mean, factor, sum])
}

fn turned(attrs: &Attrs, name: &str, ty: &TensorType) -> Shape {
    let mut shape = ty.shape.clone();
    let rank = shape.rank();
    if attrs.int(name).unwrap_or(0) != 0 && rank >= 2 {
        shape.0.swap(rank - 1, rank - 2);
    }
    shape
}

fn infer_fused(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    if ["transBatchA", "transBatchB"].iter().any(|name| infer.attrs.int(name).unwrap_or(0) != 0) {
        return Err(OpError::unsupported("a FusedMatMul that turns batches"));
    }
    let (a, b) = (infer.ty(0)?, infer.ty(1)?);
    let a = TensorType::new(a.dtype, turned(infer.attrs, "transA", a));
    let b = TensorType::new(b.dtype, turned(infer.attrs, "transB", b));
    (matmul::DEF.infer)(&Infer {
        attrs: &Attrs::new(),
        inputs: &[Some(&a), Some(&b)],
        consts: &[None, None],
        sizes: &[],
        n_outputs: 1,
    })
}

fn expand_fused(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let mut operands = [e.input(0)?, e.input(1)?];
    for (val, name) in operands.iter_mut().zip(["transA", "transB"]) {
        let rank = e.ty(*val).shape.rank();
        if e.attrs.int(name).unwrap_or(0) != 0 && rank >= 2 {
            let order: Vec<usize> = (0..rank - 2).chain([rank - 1, rank - 2]).collect();
            *val = super::movement::transpose(e, *val, &order)?;
        }
    }
    let dtype = e.outputs[0].dtype;
    let y = product(e, operands[0], operands[1], dtype)?;
    let alpha = e.attrs.float("alpha").unwrap_or(1.0);
    Ok(vec![if alpha == 1.0 { y } else { pointwise::add(e, &format!("mul(x0,{alpha:?})"), dtype, &[y])? }])
}

/// ONNX's MatMul, vectors among its operands too.
fn product(e: &mut Expand<'_, '_>, a: Val, b: Val, dtype: DType) -> Result<Val, OpError> {
    let (a_dims, b_dims) = (e.ty(a).shape.0, e.ty(b).shape.0);
    let shape = e.outputs[0].shape.0.clone();
    let a = if a_dims.len() == 1 { reshape::to(e, a, [vec![Dim::Known(1)], a_dims].concat())? } else { a };
    let b = if b_dims.len() == 1 { reshape::to(e, b, [b_dims, vec![Dim::Known(1)]].concat())? } else { b };
    let y = e.add(&matmul::DEF, matmul::attrs(false).with_dtype("dtype", dtype), &[a, b])?;
    reshape::to(e, y, shape)
}

fn expand_gelu(e: &mut Expand<'_, '_>, approximate: &str) -> Result<Vec<Val>, OpError> {
    let (mut x, dtype) = (e.input(0)?, e.outputs[0].dtype);
    if let Some(bias) = e.optional(1) {
        x = pointwise::add(e, "add(x0,x1)", dtype, &[x, bias])?;
    }
    Ok(vec![e.add(&elementwise::GELU, Attrs::new().with_str("approximate", approximate), &[x])?])
}

fn expand_quick(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, dtype) = (e.input(0)?, e.outputs[0].dtype);
    let alpha = e.attrs.float("alpha").unwrap_or(1.702);
    Ok(vec![pointwise::add(e, &format!("mul(x0,sigmoid(mul(x0,{alpha:?})))"), dtype, &[x])?])
}

/// Codes in `slot`, with scale and zero point behind, as f32.
fn dequantized(e: &mut Expand<'_, '_>, slot: usize) -> Result<Val, OpError> {
    let (x, scale) = (e.input(slot)?, e.input(slot + 1)?);
    let scale = reshape::to(e, scale, Vec::new())?;
    match e.optional(slot + 2) {
        Some(zero) => {
            let zero = reshape::to(e, zero, Vec::new())?;
            pointwise::add(e, "mul(f(sub(x0,x2)),x1)", DType::F32, &[x, scale, zero])
        }
        None => pointwise::add(e, "mul(f(x0),x1)", DType::F32, &[x, scale]),
    }
}

/// f32 as codes of `dtype`, scale and zero point in `slot` and behind.
fn quantized(e: &mut Expand<'_, '_>, x: Val, slot: usize, dtype: DType) -> Result<Val, OpError> {
    let (low, high) =
        quantize_linear::range(dtype).ok_or_else(|| OpError::unsupported(format!("codes of type {dtype}")))?;
    let scale = e.input(slot)?;
    let scale = reshape::to(e, scale, Vec::new())?;
    let (code, mut operands) = ("round(div(x0,x1))", vec![x, scale]);
    let code = match e.optional(slot + 1) {
        Some(zero) => {
            operands.push(reshape::to(e, zero, Vec::new())?);
            format!("add({code},f(x2))")
        }
        None => code.to_owned(),
    };
    pointwise::add(e, &format!("i(min(max({code},{:?}),{:?}))", low as f32, high as f32), dtype, &operands)
}

fn infer_q_binary(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b) = (infer.ty(0)?, infer.ty(3)?);
    if a.dtype != b.dtype || quantize_linear::range(a.dtype).is_none() || a.packing.is_some() {
        return Err(OpError::operand(3, b, format!("codes of type {}", a.dtype)));
    }
    Ok(vec![TensorType::new(a.dtype, super::util::broadcast(&[&a.shape, &b.shape])?)])
}

fn expand_q_binary(e: &mut Expand<'_, '_>, function: &str) -> Result<Vec<Val>, OpError> {
    let (a, b, dtype) = (dequantized(e, 0)?, dequantized(e, 3)?, e.outputs[0].dtype);
    let y = pointwise::add(e, &format!("{function}(x0,x1)"), DType::F32, &[a, b])?;
    Ok(vec![quantized(e, y, 6, dtype)?])
}

fn expand_q_unary(e: &mut Expand<'_, '_>, text: String) -> Result<Vec<Val>, OpError> {
    let (x, dtype) = (dequantized(e, 0)?, e.outputs[0].dtype);
    let y = pointwise::add(e, &text.replace('@', "x0"), DType::F32, &[x])?;
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
    Ok(vec![TensorType::new(x.dtype, super::reduce::reduced(&x.shape, &pool_axes(infer.attrs, x)?, true))])
}

fn expand_q_pool(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let axes = pool_axes(e.attrs, &e.ty(e.input(0)?))?;
    let (x, dtype) = (dequantized(e, 0)?, e.outputs[0].dtype);
    let y = reduce(e, "mean", x, &axes, true)?;
    Ok(vec![quantized(e, y, 3, dtype)?])
}

fn infer_q_concat(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let n = infer.inputs.len().saturating_sub(2);
    if n == 0 || !n.is_multiple_of(3) {
        return Err(OpError::unsupported(format!("{} operands: two, and three for each tensor", infer.inputs.len())));
    }
    let parts: Vec<_> = infer.inputs.iter().skip(2).step_by(3).copied().collect();
    let axis = Attrs::new().with_int("axis", infer.attrs.int("axis").unwrap_or(0));
    (super::concat::DEF.infer)(&Infer {
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
    let text = if bias.is_some() { "add(mul(f(x0),mul(x1,x2)),x3)" } else { "mul(f(x0),mul(x1,x2))" };
    operands.extend(bias);
    let dtype = e.outputs[0].dtype;
    pointwise::add(e, text, dtype, &operands)
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

/// The sizes of a product with packed codes: depth, columns, bits, and how many of the depth share a scale.
fn n_bits(attrs: &Attrs) -> Result<(usize, usize, u32, usize), OpError> {
    let number = |name: &'static str, default: Option<i64>| {
        let given =
            attrs.int(name).or(default).and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 24).contains(n));
        given.ok_or_else(|| OpError::attribute(name, "is missing or out of range"))
    };
    let bits = match attrs.int("bits").unwrap_or(4) {
        bits @ (2 | 4 | 8) => bits as u32,
        other => return Err(OpError::attribute("bits", format!("is {other}, expected 2, 4 or 8"))),
    };
    Ok((number("K", None)?, number("N", None)?, bits, number("block_size", None)?))
}

fn infer_n_bits(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b, scales) = (infer.ty(0)?, infer.ty(1)?, infer.ty(2)?);
    let (k, n, bits, block) = n_bits(infer.attrs)?;
    let n_blocks = k.div_ceil(block);
    let blob = (block * bits as usize).div_ceil(8);
    if !a.dtype.is_float() || a.packing.is_some() || a.shape.0.last() != Some(&Dim::Known(k as i64)) {
        return Err(OpError::operand(0, a, format!("floats [...,{k}]")));
    }
    if infer.constant(1).is_none() {
        return Err(OpError::NotConstant { slot: 1 });
    }
    let fits = |ty: &TensorType, count: usize| ty.shape.n_elems() == Some(count as u64);
    if b.dtype != DType::U8 || !fits(b, n * n_blocks * blob) || !fits(scales, n * n_blocks) {
        return Err(OpError::operand(1, b, format!("u8[{n},{n_blocks},{blob}] and {} scales", n * n_blocks)));
    }
    if infer.inputs.get(4).copied().flatten().is_some() {
        return Err(OpError::unsupported("a MatMulNBits whose columns are grouped by an operand"));
    }
    match infer.inputs.get(3).copied().flatten() {
        Some(_) if infer.constant(3).is_none() => return Err(OpError::NotConstant { slot: 3 }),
        Some(zeros) if zeros.dtype != DType::U8 || !fits(zeros, n * (n_blocks * bits as usize).div_ceil(8)) => {
            return Err(OpError::operand(
                3,
                zeros,
                format!("zero points of {n} rows of {n_blocks} blocks, packed as the codes are"),
            ));
        }
        _ => {}
    }
    let mut shape = a.shape.clone();
    if let Some(last) = shape.0.last_mut() {
        *last = Dim::Known(n as i64);
    }
    Ok(vec![TensorType::new(a.dtype, shape)])
}

/// Rows of `count` codes of 2, 4 or 8 bits each, `pitch` bytes apart, the first codes of a byte in its low bits.
pub(super) fn unpacked(bytes: &[u8], rows: usize, pitch: usize, count: usize, bits: u32) -> Vec<u8> {
    let (each, mask) = (bits as usize, (u16::MAX >> (16 - bits)) as u8);
    let code = |row: usize, i: usize| bytes[row * pitch + i * each / 8] >> (i * each % 8) & mask;
    (0..rows).flat_map(|row| (0..count).map(move |i| code(row, i))).collect()
}

/// Codes become signed ones around zero, so that kernels read them packed; with zero points of their own they keep these.
fn expand_n_bits(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (a, scales) = (e.input(0)?, e.input(2)?);
    let (k, n, bits, block) = n_bits(e.attrs)?;
    let n_blocks = k.div_ceil(block);
    let pitch = n_blocks * (block * bits as usize).div_ceil(8);
    let constant = |e: &Expand<'_, '_>, slot: usize| {
        e.optional(slot).map(|v| e.edit.constant(v).cloned().ok_or(OpError::NotConstant { slot })).transpose()
    };
    let codes = constant(e, 1)?.ok_or(OpError::MissingOperand { slot: 1 })?;
    let middle = 1i64 << (bits - 1);
    let dtype = match bits {
        2 => DType::I2,
        4 => DType::I4,
        _ => DType::I8,
    };
    let signed = |codes: Vec<u8>| -> Vec<i64> { codes.into_iter().map(|c| i64::from(c) - middle).collect() };
    let codes = Tensor::from_i64s(dtype, &[n, k], &signed(unpacked(codes.bytes()?, n, pitch, k, bits)))?;
    let codes = e.constant(codes);
    let scales = reshape::to(e, scales, dims(&[n, n_blocks]))?;
    let mut operands = vec![codes, scales];
    if let Some(zeros) = constant(e, 3)? {
        let zeros = signed(unpacked(zeros.bytes()?, n, (n_blocks * bits as usize).div_ceil(8), n_blocks, bits));
        if zeros.iter().any(|z| *z != 0) {
            let zeros = Tensor::from_i64s(dtype, &[n, n_blocks], &zeros)?;
            operands.push(e.constant(zeros));
        }
    }
    let attrs = Attrs::new().with_int("axis", 1).with_int("block_size", block as i64);
    let weights = e.add(&quantize_linear::DEQUANTIZE, attrs, &operands)?;
    let result = e.outputs[0].clone();
    let own = e.ty(a).shape.0;
    let n_rows = Shape(own[..own.len() - 1].to_vec()).volume();
    let rows = reshape::to(e, a, vec![n_rows, Dim::from(k)])?;
    let y = e.add(&matmul::DEF, matmul::attrs(true).with_dtype("dtype", result.dtype), &[rows, weights])?;
    let y = reshape::to(e, y, result.shape.0)?;
    let Some(bias) = e.optional(5) else { return Ok(vec![y]) };
    let bias = cast(e, bias, result.dtype)?;
    Ok(vec![pointwise::add(e, "add(x0,x1)", result.dtype, &[y, bias])?])
}
