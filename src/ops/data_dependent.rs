//! Data-dependent sizes: of NonZero, Compress, NonMaxSuppression and Unique.
//!
//! Their attribute [`COUNT`] holds the size, a symbol from 0 to [`bound`]: memory is planned for the bound, and the
//! value is known once the node has been computed, on the host. Of constants alone they have no such attribute, and
//! fold.

use crate::ir::{Attr, COUNT, Dim, EvalFn, Infer, OpDef, OpError, TensorType};
use crate::ops::core::{non_max_suppression, non_zero, unique};
use crate::ops::onnx::compress;

/// An operator, and the maximum of the data-dependent size of a use of it; `None` where there is no such
/// size.
type Bound = (&'static OpDef, fn(&Infer<'_>) -> Result<Option<Dim>, OpError>);

const OPERATORS: &[Bound] = &[
    (&compress::DEF, compress::bound),
    (&non_max_suppression::DEF, non_max_suppression::bound),
    (&non_zero::DEF, non_zero::bound),
    (&unique::DEF, unique::bound),
];

/// The maximum of the data-dependent size of a use of `def`; `None` where there is no such size, because
/// `def` is none of these operators or what decides it is constant.
///
/// # Errors
/// An operand is missing or refused.
pub fn bound(def: &OpDef, infer: &Infer<'_>) -> Result<Option<Dim>, OpError> {
    let is_constant = |slot: usize| infer.inputs[slot].is_none() || infer.constant(slot).is_some();
    if infer.attrs.get(COUNT).is_some() || (0..infer.inputs.len()).all(is_constant) {
        return Ok(None);
    }
    let known = OPERATORS.iter().find(|(known, _)| std::ptr::eq(*known, def));
    known.map_or(Ok(None), |(_, bound)| bound(infer))
}

/// The data-dependent size; `None` where no attribute holds it.
pub(crate) fn count(infer: &Infer<'_>) -> Result<Option<Dim>, OpError> {
    match infer.attrs.get(COUNT) {
        None => Ok(None),
        Some(Attr::Dims(dims)) => match dims.as_slice() {
            [dim]
                if dim.solved_symbol().is_some_and(|symbol| Dim::from(symbol.clone()) == *dim)
                    || dim.known().is_some_and(|n| n >= 0) =>
            {
                Ok(Some(dim.clone()))
            }
            _ => Err(OpError::attribute(COUNT, format!("is {dims:?}, not one symbol"))),
        },
        Some(_) => Err(OpError::attribute(COUNT, "is no size")),
    }
}

/// The types of the results of constants.
pub(crate) fn folded(infer: &Infer<'_>, eval: EvalFn) -> Result<Vec<TensorType>, OpError> {
    if let Some(slot) =
        (0..infer.inputs.len()).find(|&slot| infer.inputs[slot].is_some() && infer.constant(slot).is_none())
    {
        return Err(OpError::NotConstant { slot });
    }
    Ok(eval(infer.attrs, infer.consts)?.iter().map(|t| t.ty().clone()).collect())
}
