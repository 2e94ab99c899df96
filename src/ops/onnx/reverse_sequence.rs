//! ONNX ReverseSequence: the first elements of each row in reverse.

use crate::ir::expr::build::{arg, select};
use crate::ir::{DType, Dim, Expand, Infer, OpError, TensorType, Val, attr};
use crate::ops::compose::{positions, sizes, take};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::pointwise;
use crate::ops::util::{index_operand, number_operand};

written_out! {
    /// `reverse_sequence(x, lengths) {batch_axis, time_axis}`: ONNX ReverseSequence, opset 10.
    DEF "reverse_sequence" "ReverseSequence" (2, 2) [attr::int("batch_axis"), attr::int("time_axis")] infer, expand;
}

/// The axes of batch and time.
fn reverse_axes(attrs: &crate::ir::Attrs) -> Result<(usize, usize), OpError> {
    match (attrs.int("batch_axis").unwrap_or(1), attrs.int("time_axis").unwrap_or(0)) {
        (1, 0) => Ok((1, 0)),
        (0, 1) => Ok((0, 1)),
        other => {
            Err(OpError::attribute("time_axis", format!("and batch_axis are {other:?}, one 0 and one 1 are expected")))
        }
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, lengths) = (number_operand(infer, 0)?, index_operand(infer, 1)?);
    let (batch, _) = reverse_axes(infer.attrs)?;
    if x.shape.rank() < 2 || lengths.shape.0 != x.shape.0[batch..=batch] {
        return Err(OpError::operand(1, lengths, format!("a length for each row of {x}")));
    }
    Ok(vec![x.clone()])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, lengths) = (e.input(0)?, e.input(1)?);
    let out = sizes(0, &e.ty(x))?;
    let (batch, time) = reverse_axes(e.attrs)?;
    // A length may be that of the whole axis.
    let rule = Rule { sizes: vec![Dim::from(out[time] + 1)], negative: false, ignore: None };
    let lengths = check_indices::add(e, lengths, &rule)?;
    let lengths = crate::ops::compose::along(e, lengths, out.len(), batch)?;
    let place = positions(e, out.len(), time, out[time], 1)?;
    let from =
        pointwise::add(e, select(arg(1).below(arg(0)), arg(0) - arg(1) - 1, arg(1)), DType::I64, &[lengths, place])?;
    Ok(vec![take(e, x, from, time, &out)?])
}
