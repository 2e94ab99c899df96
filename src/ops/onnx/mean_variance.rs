//! ONNX MeanVarianceNormalization.

use crate::ir::expr::build::arg;
use crate::ir::{Expand, Infer, OpError, TensorType, Val, attr};
use crate::ops::compose::reduce;
use crate::ops::core::pointwise;
use crate::ops::util::{axes, like_floats};

written_out! {
    /// `mean_variance_normalization(x) {axes}`: ONNX MeanVarianceNormalization, opset 13.
    DEF "mean_variance_normalization" "MeanVarianceNormalization" (1, 1) [attr::ints("axes")] infer, expand;
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    axes(infer.attrs.ints("axes").unwrap_or(&[0, 2, 3]), infer.ty(0)?.shape.rank())?;
    like_floats(infer, 1)
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ty = e.ty(x);
    let axes = axes(e.attrs.ints("axes").unwrap_or(&[0, 2, 3]), ty.shape.rank())?;
    let mean = reduce(e, "mean", x, &axes, true)?;
    let square = pointwise::add(e, (arg(0) - arg(1)) * (arg(0) - arg(1)), ty.dtype, &[x, mean])?;
    let variance = reduce(e, "mean", square, &axes, true)?;
    Ok(vec![pointwise::add(e, (arg(0) - arg(1)) / (arg(2).sqrt() + (1.0e-9)), ty.dtype, &[x, mean, variance])?])
}
