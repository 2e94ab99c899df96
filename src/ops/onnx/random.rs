//! Random numbers: on the host, the same in every run where a seed is given.

use crate::ir::expr::build::arg;
use crate::ir::{
    Attr, Attrs, CORE, DType, Dim, Expand, Infer, KERNEL, Op, OpDef, OpError, Shape, Tensor, TensorType, Val, attr,
};
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::{dtype_attr, n_elems, operand};
use std::hash::{BuildHasher, Hasher};

/// `random(like?) {kind, shape, low, high, seed, dtype}`: numbers uniform from `low` to `high`, or normal with the mean
/// `low` and the standard deviation `high`, of a shape given or that of an operand.
pub static DEF: OpDef = OpDef {
    name: "random",
    onnx: "",
    levels: CORE | KERNEL,
    attrs: &[
        attr::text("kind"),
        attr::sizes("shape"),
        attr::float("low"),
        attr::float("high"),
        attr::float("seed"),
        attr::dtype("dtype"),
    ],
    arity: (0, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

written_out! {
    /// `random_uniform() {shape, low, high, seed, dtype}`: ONNX RandomUniform, opset 22.
    UNIFORM "random_uniform" "RandomUniform" (0, 0) [attr::sizes("shape"), attr::float("low"), attr::float("high"), attr::float("seed"), attr::dtype("dtype")] infer_like, |e| expand_as(e, "uniform", ["low", "high"]);
    /// `random_uniform_like(x) {low, high, seed, dtype}`: ONNX RandomUniformLike, opset 22.
    UNIFORM_LIKE "random_uniform_like" "RandomUniformLike" (1, 1) [attr::float("low"), attr::float("high"), attr::float("seed"), attr::dtype("dtype")] infer_like, |e| expand_as(e, "uniform", ["low", "high"]);
    /// `random_normal() {shape, mean, scale, seed, dtype}`: ONNX RandomNormal, opset 22.
    NORMAL "random_normal" "RandomNormal" (0, 0) [attr::sizes("shape"), attr::float("mean"), attr::float("scale"), attr::float("seed"), attr::dtype("dtype")] infer_like, |e| expand_as(e, "normal", ["mean", "scale"]);
    /// `random_normal_like(x) {mean, scale, seed, dtype}`: ONNX RandomNormalLike, opset 22.
    NORMAL_LIKE "random_normal_like" "RandomNormalLike" (1, 1) [attr::float("mean"), attr::float("scale"), attr::float("seed"), attr::dtype("dtype")] infer_like, |e| expand_as(e, "normal", ["mean", "scale"]);
    /// `bernoulli(x) {seed, dtype}`: ONNX Bernoulli, opset 22: 1 with the probability x, else 0.
    BERNOULLI "bernoulli" "Bernoulli" (1, 1) [attr::float("seed"), attr::dtype("dtype")] infer_like, expand_bernoulli;
}

/// Whether an operator gives other numbers in another node or run: random ones, by itself or in a graph that it keeps.
/// Such nodes are neither computed while compiling nor made one.
pub fn is_random(op: &Op) -> bool {
    let own =
        [&DEF, &UNIFORM, &UNIFORM_LIKE, &NORMAL, &NORMAL_LIKE, &BERNOULLI, &crate::ops::onnx::elementwise::DROPOUT];
    let is_kept = |attr: &Attr| match attr {
        Attr::Graph(body) => body.order().into_iter().any(|id| body.node(id).op().is_some_and(is_random)),
        _ => false,
    };
    own.into_iter().any(|def| op.is(def)) || op.attrs.0.values().any(is_kept)
}

fn shape(attrs: &Attrs, like: Option<&TensorType>) -> Result<Shape, OpError> {
    match (like, crate::ops::util::ints_attr(attrs, "shape")?) {
        (Some(like), _) => Ok(like.shape.clone()),
        (None, Some(sizes)) if sizes.iter().all(|n| (0..1 << 31).contains(n)) => {
            Ok(Shape(sizes.into_iter().map(Dim::Known).collect()))
        }
        (None, given) => Err(OpError::attribute("shape", format!("is {given:?}"))),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let dtype = infer.attrs.dtype("dtype").unwrap_or(DType::F32);
    if !dtype.is_float() || !matches!(infer.attrs.str("kind"), Some("uniform" | "normal")) {
        return Err(OpError::attribute("kind", format!("is {:?} of {dtype}", infer.attrs.str("kind"))));
    }
    Ok(vec![TensorType::new(dtype, shape(infer.attrs, infer.inputs.first().copied().flatten())?)])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let like = if inputs.is_empty() { None } else { Some(operand(inputs, 0)?) };
    let dims = shape(attrs, like.map(Tensor::ty))?.known().unwrap_or_default();
    let n = n_elems(&dims)?;
    let mut state = match attrs.float("seed") {
        Some(seed) => u64::from(seed.to_bits()),
        // Every hasher of the standard library has random keys of its own.
        None => std::hash::RandomState::new().build_hasher().finish(),
    };
    // SplitMix64 (Steele, Lea and Flood, 2014), its upper 24 bits as a fraction.
    let mut uniform = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u32 << 24) as f32
    };
    let (low, high) = (attrs.float("low").unwrap_or(0.0), attrs.float("high").unwrap_or(1.0));
    let is_normal = attrs.str("kind") == Some("normal");
    let values: Vec<f32> = (0..n)
        .map(|_| match is_normal {
            false => low + (high - low) * uniform(),
            // Box and Muller's transform; the logarithm's operand is not 0.
            true => low + high * (-2.0 * (1.0 - uniform()).ln()).sqrt() * (std::f32::consts::TAU * uniform()).cos(),
        })
        .collect();
    Ok(vec![Tensor::from_f32s(attrs.dtype("dtype").unwrap_or(DType::F32), &dims, &values)?])
}

fn infer_like(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let like = infer.inputs.first().copied().flatten();
    let default = like.map_or(DType::F32, |ty| ty.dtype);
    Ok(vec![TensorType::new(dtype_attr(infer.attrs, "dtype").unwrap_or(default), shape(infer.attrs, like)?)])
}

/// Random numbers like the first output, or as `dtype`.
///
/// # Errors
/// The core operator refuses the type or the shape.
pub fn numbers(
    e: &mut Expand<'_, '_>,
    kind: &str,
    bounds: [f32; 2],
    dtype: DType,
    shape: &[Dim],
    seed: Option<f32>,
) -> Result<Val, OpError> {
    let mut attrs = Attrs::new()
        .with_str("kind", kind)
        .with_float("low", bounds[0])
        .with_float("high", bounds[1])
        .with_dtype("dtype", dtype);
    attrs = attrs.with("shape", crate::ops::util::dims_value(shape));
    if let Some(seed) = seed {
        attrs = attrs.with_float("seed", seed);
    }
    e.add(&DEF, attrs, &[])
}

fn expand_as(e: &mut Expand<'_, '_>, kind: &str, names: [&str; 2]) -> Result<Vec<Val>, OpError> {
    let ty = e.outputs[0].clone();
    let bounds = [e.attrs.float(names[0]).unwrap_or(0.0), e.attrs.float(names[1]).unwrap_or(1.0)];
    let y = numbers(e, kind, bounds, ty.dtype, &ty.shape.0, e.attrs.float("seed"))?;
    Ok(vec![reshape::to(e, y, ty.shape.0)?])
}

fn expand_bernoulli(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, ty) = (e.input(0)?, e.outputs[0].clone());
    let random = numbers(e, "uniform", [0.0, 1.0], DType::F32, &ty.shape.0, e.attrs.float("seed"))?;
    let hit = pointwise::add(e, arg(0).below(arg(1)), DType::Bool, &[random, x])?;
    Ok(vec![crate::ops::compose::cast(e, hit, ty.dtype)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::evaluate;

    fn numbers(def: &'static OpDef, attrs: Attrs, inputs: &[Option<&Tensor>]) -> Vec<f32> {
        evaluate(&Op::new(def, attrs), inputs, 1).unwrap()[0].to_f32s().unwrap().into_owned()
    }

    /// The mean and the standard deviation.
    fn moments(values: &[f32]) -> (f64, f64) {
        let n = values.len() as f64;
        let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / n;
        (mean, (values.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n).sqrt())
    }

    #[test]
    fn numbers_have_their_range_their_moments_and_repeat_by_seed() {
        let like = Tensor::from_f32s(DType::F32, &[100, 100], &[0.25; 10_000]).unwrap();
        let drawn = |def, attrs: Attrs| -> Vec<f32> {
            let draw = |seed: Option<f32>| {
                numbers(
                    def,
                    seed.iter().fold(attrs.clone(), |attrs, &seed| attrs.with_float("seed", seed)),
                    &[Some(&like)],
                )
            };
            let seeded = draw(Some(7.0));
            assert_eq!(seeded, draw(Some(7.0)));
            assert_ne!(seeded, draw(Some(8.0)));
            assert_ne!(draw(None), draw(None));
            seeded
        };
        // Five standard errors of 10,000 draws.
        let near = |given: (f64, f64), mean: f64, deviation: f64| {
            assert!(
                (given.0 - mean).abs() <= 0.05 * deviation && (given.1 - deviation).abs() <= 0.05 * deviation,
                "{given:?} for {mean} and {deviation}"
            );
        };
        let uniform = drawn(&UNIFORM_LIKE, Attrs::new().with_float("low", -2.0).with_float("high", 4.0));
        assert!(uniform.iter().all(|v| (-2.0..4.0).contains(v)));
        near(moments(&uniform), 1.0, 6.0 / 12f64.sqrt());
        let normal = drawn(&NORMAL_LIKE, Attrs::new().with_float("mean", 3.0).with_float("scale", 0.5));
        near(moments(&normal), 3.0, 0.5);
        let within = normal.iter().filter(|v| (**v - 3.0).abs() <= 0.5).count() as f64 / 1e4;
        assert!((within - 0.6827).abs() <= 0.025, "{within}");
        let hits = drawn(&BERNOULLI, Attrs::new());
        assert!(hits.iter().all(|v| [0.0, 1.0].contains(v)));
        near(moments(&hits), 0.25, (0.25f64 * 0.75).sqrt());
    }
}
