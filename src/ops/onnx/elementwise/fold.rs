//! Max, Mean, Min and Sum, of any number of operands.

use super::{Case, Recipe, expand_by, infer_by};
use crate::ir::expr::build::arg;
use crate::ir::{Binary, Expand, Expr, Infer, OpError, TensorType, Val};
use crate::ops::core::pointwise;
use crate::ops::util::{between, broadcast, class_of};

/// Operands that one kernel folds. A Sum of thousands is a chain of kernels, from left to right as one would be.
const FOLD: usize = 8;

/// The result of operators of any number of operands, of which all have one type.
pub(super) fn infer_fold(infer: &Infer<'_>, rule: fn(&Case<'_>) -> Recipe) -> Result<Vec<TensorType>, OpError> {
    if infer.inputs.len() <= FOLD {
        return infer_by(infer, rule);
    }
    let first = infer.ty(0)?;
    let mut shapes = Vec::with_capacity(infer.inputs.len());
    for slot in 0..infer.inputs.len() {
        let ty = infer.ty(slot)?;
        if class_of(ty) != class_of(first) {
            return Err(OpError::operand(slot, ty, "the type of operand 0"));
        }
        shapes.push(&ty.shape);
    }
    let few = infer_by(&Infer { inputs: &infer.inputs[..FOLD], consts: &infer.consts[..FOLD], ..*infer }, rule)?;
    Ok(vec![TensorType::new(few.first().map_or(first.dtype, |ty| ty.dtype), broadcast(&shapes)?)])
}

/// `function` of all operands from left to right, divided by their number for a mean.
pub(super) fn expand_fold(
    e: &mut Expand<'_, '_>,
    rule: fn(&Case<'_>) -> Recipe,
    function: Binary,
    is_mean: bool,
) -> Result<Vec<Val>, OpError> {
    let n = e.inputs.len();
    if n <= FOLD {
        return expand_by(e, rule);
    }
    let dtype = e.outputs[0].dtype;
    // One kernel would round once, at its end.
    let between = if dtype.is_float() { between(dtype) } else { dtype };
    let mut result = e.input(0)?;
    for first in (1..n).step_by(FOLD - 1) {
        let slots = first..n.min(first + FOLD - 1);
        let mut expr = (1..=slots.len()).fold(arg(0), |expr, slot| Expr::binary(function, expr, arg(slot)));
        let is_last = slots.end == n;
        if is_last && is_mean {
            expr = expr / n as f32;
        }
        let operands = slots.map(|slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
        result =
            pointwise::add(e, expr, if is_last { dtype } else { between }, &[&[result], operands.as_slice()].concat())?;
    }
    Ok(vec![result])
}

/// `function` of operands from left to right, divided by their number for a mean.
pub(super) fn fold(c: &Case<'_>, function: Binary, is_mean: bool) -> Recipe {
    let all = (1..c.types.len()).fold(arg(0), |expr, slot| Expr::binary(function, expr, arg(slot)));
    c.same(if is_mean && c.types.len() > 1 { all / c.types.len() as f32 } else { all })
}
