//! ONNX's reductions, all by way of `reduce`.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Class, DType, Expand, Expr, Infer, ONNX, OpDef, OpError, TensorType, Val, attr};
use crate::ops::core::pointwise;
use crate::ops::core::reduce::{self, reduced};
use crate::ops::util::axes;

/// What a reduction computes of each element before, and of each result after.
struct Steps {
    before: Option<Expr>,
    kind: &'static str,
    after: Option<Expr>,
}

macro_rules! reductions {
    ($($def:ident $name:literal $onnx:literal $opset:literal [$($before:expr)?] $kind:literal [$($after:expr)?];)*) => {
        $(
            #[doc = concat!("`", $name, "(x, axes?) {keepdims, noop_with_empty_axes}`: ONNX ", $onnx, ", opset ", $opset, ".")]
            pub static $def: OpDef = OpDef {
                name: $name,
                onnx: $onnx,
                levels: ONNX,
                attrs: &[attr::int("keepdims"), attr::int("noop_with_empty_axes")],
                arity: (1, 2),
                infer: &infer,
                eval: None,
                expand: Some(&|e| {
                    let (before, after) = (None$(.or(Some($before)))?, None$(.or(Some($after)))?);
                    expand(e, Steps { before, kind: $kind, after })
                }),
                weights: None,
                gradient: None,
            };
        )*
    };
}

reductions! {
    SUM "reduce_sum" "ReduceSum" 13 [] "sum" [];
    MEAN "reduce_mean" "ReduceMean" 18 [] "mean" [];
    MAX "reduce_max" "ReduceMax" 20 [] "max" [];
    MIN "reduce_min" "ReduceMin" 20 [] "min" [];
    PROD "reduce_prod" "ReduceProd" 18 [] "prod" [];
    L1 "reduce_l1" "ReduceL1" 18 [arg(0).abs()] "sum" [];
    L2 "reduce_l2" "ReduceL2" 18 [arg(0) * arg(0)] "sum" [arg(0).sqrt()];
    SUM_SQUARE "reduce_sum_square" "ReduceSumSquare" 18 [arg(0) * arg(0)] "sum" [];
    LOG_SUM "reduce_log_sum" "ReduceLogSum" 18 [] "sum" [arg(0).log()];
    LOG_SUM_EXP "reduce_log_sum_exp" "ReduceLogSumExp" 18 [arg(0).exp()] "sum" [arg(0).log()];
}

/// The axes, and whether they stay with size 1; no axes where nothing is reduced.
fn which(attrs: &Attrs, given: Option<Vec<i64>>, rank: usize) -> Result<(Vec<usize>, bool), OpError> {
    let noop = attrs.int("noop_with_empty_axes").unwrap_or(0) != 0;
    let keepdims = attrs.int("keepdims").unwrap_or(1) != 0;
    let axes = match given.unwrap_or_default() {
        none if none.is_empty() => (0..if noop { 0 } else { rank }).collect(),
        some => axes(&some, rank)?,
    };
    Ok((axes, keepdims))
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.packing.is_some() || x.dtype.class() == Class::Text {
        return Err(OpError::operand(0, x, "numbers"));
    }
    let (axes, keepdims) = which(infer.attrs, infer.ints(1)?, x.shape.rank())?;
    Ok(vec![TensorType::new(x.dtype, reduced(&x.shape, &axes, keepdims))])
}

fn expand(e: &mut Expand<'_, '_>, steps: Steps) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let (axes, keepdims) = which(e.attrs, e.ints(1)?, ty.shape.rank())?;
    let is_log_sum_exp = steps.before == Some(arg(0).exp());
    if axes.is_empty() {
        // Every element is a sum of its own: the other steps are computed nonetheless, and the logarithm of an
        // exponential is the element.
        let mut others = [steps.before, steps.after].into_iter().flatten().filter(|_| !is_log_sum_exp);
        return others.try_fold(x, |x, step| pointwise::add(e, step, ty.dtype, &[x])).map(|y| vec![y]);
    }
    if ty.dtype.class() == Class::Bool {
        if !matches!(steps.kind, "max" | "min") {
            return Err(OpError::operand(0, &ty, "floats or integers"));
        }
        let x = pointwise::add(e, arg(0).to_int(), DType::I32, &[x])?;
        let y = e.add(&reduce::DEF, reduce::attrs(steps.kind, &axes, keepdims), &[x])?;
        return Ok(vec![pointwise::add(e, arg(0).above(0), DType::Bool, &[y])?]);
    }
    if is_log_sum_exp && ty.dtype.is_float() {
        // Shifted by the maximum, so that no exponential overflows.
        let max = e.add(&reduce::DEF, reduce::attrs("max", &axes, true), &[x])?;
        let shifted = pointwise::add(e, (arg(0) - arg(1)).exp(), ty.dtype, &[x, max])?;
        let sum = e.add(&reduce::DEF, reduce::attrs("sum", &axes, true), &[shifted])?;
        let y = pointwise::add(e, arg(0).log() + arg(1), ty.dtype, &[sum, max])?;
        let shape = e.outputs[0].shape.0.clone();
        return Ok(vec![crate::ops::core::reshape::to(e, y, shape)?]);
    }
    let apply = |e: &mut Expand<'_, '_>, step: Option<Expr>, x: Val| match step {
        Some(step) => pointwise::add(e, step, ty.dtype, &[x]),
        None => Ok(x),
    };
    let x = apply(e, steps.before, x)?;
    let y = e.add(&reduce::DEF, reduce::attrs(steps.kind, &axes, keepdims), &[x])?;
    Ok(vec![apply(e, steps.after, y)?])
}
