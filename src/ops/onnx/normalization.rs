//! ONNX's normalisations: of batches, layers, instances and groups.

use crate::ir::expr::build::arg;
use crate::ir::{DType, Dim, Expand, Infer, OpError, Shape, Tensor, TensorType, Val, attr, product};
use crate::ops::onnx::gemm::channels;
use crate::ops::util::{axis_attr, between};

written_out! {
    /// `batch_normalization(x, scale, bias, mean, var) {epsilon}`: ONNX BatchNormalization, opset 15; while
    /// training also the running mean and variance.
    BATCH "batch_normalization" "BatchNormalization" (5, 5) [attr::float("epsilon"), attr::float("momentum"), attr::int("training_mode")] infer_batch, expand_batch;
    /// `layer_normalization(x, scale, bias?) {axis, epsilon}`: ONNX LayerNormalization, opset 17: the result, and on
    /// demand mean and 1 / standard deviation.
    LAYER "layer_normalization" "LayerNormalization" (2, 3) [attr::int("axis"), attr::float("epsilon"), attr::int("stash_type")] infer_first, |e| expand_layer(e, "layer");
    /// `rms_normalization(x, scale) {axis, epsilon}`: ONNX RMSNormalization, opset 23.
    RMS "rms_normalization" "RMSNormalization" (2, 2) [attr::int("axis"), attr::float("epsilon"), attr::int("stash_type")] infer_first, |e| expand_layer(e, "rms");
    /// `instance_normalization(x, scale, bias) {epsilon}`: ONNX InstanceNormalization, opset 22.
    INSTANCE "instance_normalization" "InstanceNormalization" (3, 3) [attr::float("epsilon")] infer_channels, expand_groups;
    /// `group_normalization(x, scale, bias) {epsilon, num_groups}`: ONNX GroupNormalization, opset 21.
    GROUP "group_normalization" "GroupNormalization" (3, 3) [attr::float("epsilon"), attr::int("num_groups"), attr::int("stash_type")] infer_channels, expand_groups;
}

fn infer_first(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    axis_attr(infer.attrs, -1, x.shape.rank())?;
    let axis = axis_attr(infer.attrs, -1, x.shape.rank())?;
    let inner = Shape(x.shape.0[axis..].to_vec());
    for slot in 1..infer.inputs.len() {
        if let Some(ty) = infer.inputs[slot]
            && (!ty.dtype.is_float() || crate::ops::util::broadcast(&[&inner, &ty.shape])? != inner)
        {
            return Err(OpError::operand(slot, ty, format!("floats that broadcast to {inner}")));
        }
    }
    let mut types = floats(&Infer { n_outputs: 1, ..*infer }, 1)?;
    if infer.n_outputs > 1 {
        // Mean and 1 / standard deviation, in the type that `stash_type` names; f32 and bf16 are the only ones.
        let kept = [&x.shape.0[..axis], &vec![Dim::Known(1); x.shape.rank() - axis]].concat();
        let stash = if infer.attrs.int("stash_type") == Some(16) { DType::BF16 } else { DType::F32 };
        types.extend([TensorType::new(stash, Shape(kept.clone())), TensorType::new(stash, Shape(kept))]);
    }
    Ok(types)
}

fn floats(infer: &Infer<'_>, least_rank: usize) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if !x.dtype.is_float() || x.packing.is_some() || x.shape.rank() < least_rank {
        return Err(OpError::operand(0, x, format!("floats of {least_rank} axes at least")));
    }
    if infer.n_outputs > 1 {
        return Err(OpError::unsupported("statistics as further outputs of a normalisation"));
    }
    Ok(vec![x.clone()])
}

fn infer_channels(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let types = floats(infer, 2)?;
    let c = &types[0].shape.0[1];
    for slot in 1..infer.inputs.len() {
        let ty = infer.ty(slot)?;
        if !ty.dtype.is_float() || ty.shape.rank() != 1 || !crate::ops::util::agree(&ty.shape.0[0], c) {
            return Err(OpError::operand(slot, ty, format!("[{c}]")));
        }
    }
    Ok(types)
}

fn infer_batch(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    if infer.attrs.int("training_mode").unwrap_or(0) == 0 {
        return infer_channels(infer);
    }
    let mut types = infer_channels(&Infer { n_outputs: 1, ..*infer })?;
    types.extend([infer.ty(3)?.clone(), infer.ty(4)?.clone()]);
    Ok(types)
}

/// While training: by the batch's own mean and variance; then the running ones.
fn expand_training(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let (ty, epsilon, momentum) =
        (e.ty(x), e.attrs.float("epsilon").unwrap_or(1e-5), e.attrs.float("momentum").unwrap_or(0.9));
    let rank = ty.shape.rank();
    let axes: Vec<usize> = (0..rank).filter(|&i| i != 1).collect();
    let mean = crate::ops::compose::reduce(e, "mean", x, &axes, true)?;
    let square =
        crate::ops::core::pointwise::add(e, (arg(0) - arg(1)) * (arg(0) - arg(1)), between(e.ty(x).dtype), &[x, mean])?;
    let variance = crate::ops::compose::reduce(e, "mean", square, &axes, true)?;
    let (scale, bias) = (e.input(1)?, e.input(2)?);
    let (scale, bias) = (channels(e, scale, rank)?, channels(e, bias, rank)?);
    let expr = (arg(0) - arg(3)) * (arg(1) * (arg(4) + epsilon).rsqrt()) + arg(2);
    let mut results = vec![crate::ops::core::pointwise::add(e, expr, ty.dtype, &[x, scale, bias, mean, variance])?];
    for (slot, now) in [(3, mean), (4, variance)] {
        let before = e.input(slot)?;
        let before_ty = e.ty(before);
        let now = crate::ops::core::reshape::to(e, now, before_ty.shape.0)?;
        let expr = arg(0) * momentum + arg(1) * (1.0 - momentum);
        results.push(crate::ops::core::pointwise::add(e, expr, before_ty.dtype, &[before, now])?);
    }
    Ok(results)
}

fn expand_batch(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    if e.attrs.int("training_mode").unwrap_or(0) != 0 {
        return expand_training(e);
    }
    let x = e.input(0)?;
    let (rank, dtype) = (e.ty(x).shape.rank(), e.outputs[0].dtype);
    let epsilon = e.attrs.float("epsilon").unwrap_or(1e-5);
    let parameters = (1..5).map(|slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
    let constant = |val: Val| e.edit.constant(val).and_then(|t| t.to_f64s().ok());
    if let Some([scale, bias, mean, variance]) =
        parameters.iter().map(|v| constant(*v)).collect::<Option<Vec<_>>>().as_deref()
    {
        let factor: Vec<f64> = scale.iter().zip(variance).map(|(s, v)| s / (v + f64::from(epsilon)).sqrt()).collect();
        let shift: Vec<f64> = bias.iter().zip(mean).zip(&factor).map(|((b, m), f)| b - m * f).collect();
        let mut dims = vec![1; rank];
        dims[1] = factor.len();
        // In f32 whatever the operands are stored as: f16 need not hold a quotient of what it holds.
        let mut constant = |values: &[f64]| -> Result<Val, OpError> {
            let tensor = match between(e.ty(x).dtype) {
                DType::F64 => Tensor::from_f64s(DType::F64, &dims, values)?,
                dtype => Tensor::from_f32s(dtype, &dims, &values.iter().map(|v| *v as f32).collect::<Vec<_>>())?,
            };
            Ok(e.constant(tensor))
        };
        let (factor, shift) = (constant(&factor)?, constant(&shift)?);
        return Ok(vec![crate::ops::core::pointwise::add(e, arg(0) * arg(1) + arg(2), dtype, &[x, factor, shift])?]);
    }
    let mut operands = vec![x];
    for parameter in parameters {
        operands.push(channels(e, parameter, rank)?);
    }
    let expr = (arg(0) - arg(3)) * (arg(1) * (arg(4) + epsilon).rsqrt()) + arg(2);
    Ok(vec![crate::ops::core::pointwise::add(e, expr, dtype, &operands)?])
}

fn expand_layer(e: &mut Expand<'_, '_>, kind: &str) -> Result<Vec<Val>, OpError> {
    let mut results = vec![layer(e, kind)?];
    if let Some(statistics) = e.outputs.get(1).map(|ty| ty.dtype) {
        let x = e.input(0)?;
        let rank = e.ty(x).shape.rank();
        let axes: Vec<usize> = (axis_attr(e.attrs, -1, rank)?..rank).collect();
        let epsilon = e.attrs.float("epsilon").unwrap_or(1e-5);
        let mean = e.add(
            &crate::ops::core::reduce::DEF,
            crate::ops::core::reduce::attrs("mean", &axes, true).with_dtype("dtype", statistics),
            &[x],
        )?;
        let square = crate::ops::core::pointwise::add(
            e,
            (arg(0) - arg(1)) * (arg(0) - arg(1)),
            between(e.ty(x).dtype),
            &[x, mean],
        )?;
        let variance =
            e.add(&crate::ops::core::reduce::DEF, crate::ops::core::reduce::attrs("mean", &axes, true), &[square])?;
        let factor = crate::ops::core::pointwise::add(e, (arg(0) + epsilon).rsqrt(), statistics, &[variance])?;
        results.extend([mean, factor]);
    }
    Ok(results)
}

fn layer(e: &mut Expand<'_, '_>, kind: &str) -> Result<Val, OpError> {
    let (x, scale, bias) = (e.input(0)?, e.input(1)?, e.optional(2));
    let ty = e.ty(x);
    let axis = axis_attr(e.attrs, -1, ty.shape.rank())?;
    let inner = &ty.shape.0[axis..];
    let attrs = crate::ops::core::norm::attrs(kind, axis, e.attrs.float("epsilon").unwrap_or(1e-5))
        .with_dtype("dtype", e.outputs[0].dtype);
    let fits = |val: &Val| e.edit.ty(*val).shape.0 == inner;
    if fits(&scale) && bias.as_ref().is_none_or(fits) {
        let operands: Vec<Val> = [x, scale].into_iter().chain(bias).collect();
        return e.add(&crate::ops::core::norm::DEF, attrs, &operands);
    }
    let y = e.add(&crate::ops::core::norm::DEF, attrs, &[x])?;
    let operands: Vec<Val> = [y, scale].into_iter().chain(bias).collect();
    let expr = if bias.is_some() { arg(0) * arg(1) + arg(2) } else { arg(0) * arg(1) };
    let dtype = e.outputs[0].dtype;
    crate::ops::core::pointwise::add(e, expr, dtype, &operands)
}

/// Groups of channels are rows of one long axis; an instance norm has as many groups as channels.
fn expand_groups(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let (shape, dtype) = (e.ty(x).shape.0, e.outputs[0].dtype);
    let groups = e.attrs.int("num_groups").map_or_else(|| shape[1].clone(), Dim::Known);
    let each = shape[1].floor_div(&groups).filter(|each| (each * &groups) == shape[1]);
    let each =
        each.ok_or_else(|| OpError::attribute("num_groups", format!("is {groups} for {} channels", shape[1])))?;
    let rows = vec![shape[0].clone(), groups, &each * &product(&shape[2..])];
    let flat = crate::ops::core::reshape::to(e, x, rows)?;
    let attrs =
        crate::ops::core::norm::attrs("layer", 2, e.attrs.float("epsilon").unwrap_or(1e-5)).with_dtype("dtype", dtype);
    let y = e.add(&crate::ops::core::norm::DEF, attrs, &[flat])?;
    let rank = shape.len();
    let y = crate::ops::core::reshape::to(e, y, shape)?;
    let (scale, bias) = (e.input(1)?, e.input(2)?);
    let (scale, bias) = (channels(e, scale, rank)?, channels(e, bias, rank)?);
    Ok(vec![crate::ops::core::pointwise::add(e, arg(0) * arg(1) + arg(2), dtype, &[y, scale, bias])?])
}
