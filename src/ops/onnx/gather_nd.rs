//! ONNX GatherND: elements or slices by indices of several axes.

use crate::ir::expr::build::arg;
use crate::ir::{DType, Dim, Expand, Infer, OpError, Shape, Tensor, TensorType, Val, attr};
use crate::ops::compose::{dims, gather_within, position_type, positions, reduce, sizes};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::{index_operand, number_operand, strides};

written_out! {
    /// `gather_nd(data, indices) {batch_dims}`: ONNX GatherND, opset 13.
    DEF "gather_nd" "GatherND" (2, 2) [attr::int("batch_dims")] infer, expand;
}

/// How many axes lead both operands, and how many an index has.
fn nd(batch_dims: i64, data: &Shape, indices: &Shape) -> Result<(usize, usize), OpError> {
    let refuse = || OpError::operand(1, indices, format!("indices into {data} after {batch_dims} axes that both have"));
    let batch = usize::try_from(batch_dims).map_err(|_| refuse())?;
    let depth = indices.0.last().and_then(Dim::known).and_then(|n| usize::try_from(n).ok()).ok_or_else(refuse)?;
    let fits =
        depth >= 1 && batch < indices.rank() && batch + depth <= data.rank() && data.0[..batch] == indices.0[..batch];
    if fits { Ok((batch, depth)) } else { Err(refuse()) }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (data, indices) = (number_operand(infer, 0)?, index_operand(infer, 1)?);
    let (batch, depth) = nd(infer.attrs.int("batch_dims").unwrap_or(0), &data.shape, &indices.shape)?;
    let shape = [&indices.shape.0[..indices.shape.rank() - 1], &data.shape.0[batch + depth..]].concat();
    Ok(vec![TensorType::new(data.dtype, Shape(shape))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (data, indices) = (e.input(0)?, e.input(1)?);
    let (data_ty, indices_ty) = (e.ty(data), e.ty(indices));
    let (batch, depth) = nd(e.attrs.int("batch_dims").unwrap_or(0), &data_ty.shape, &indices_ty.shape)?;
    let own = sizes(0, &data_ty)?;
    let rows = flat_rows(e, indices, &own, batch, depth)?;
    let n_rows: usize = own[..batch + depth].iter().product();
    let table = reshape::to(e, data, dims(&[&[n_rows], &own[batch + depth..]].concat()))?;
    Ok(vec![gather_within(e, table, rows, 0)?])
}

/// Indices of `depth` numbers each, checked, as row numbers of a tensor of sizes `own`, whose rows are what is behind
/// the first `batch + depth` axes.
///
/// # Errors
/// An operand is refused.
pub fn flat_rows(
    e: &mut Expand<'_, '_>,
    indices: Val,
    own: &[usize],
    batch: usize,
    depth: usize,
) -> Result<Val, OpError> {
    let given = e.ty(indices).shape.0;
    let rank = given.len() - 1;
    let steps = strides(&own[..batch + depth]);
    let numbers = |values: &[usize]| {
        Tensor::from_i64s(DType::I64, &[depth], &values.iter().map(|&n| n as i64).collect::<Vec<_>>())
    };
    let limits = own[batch..batch + depth].iter().map(|&n| Dim::from(n)).collect();
    let rule = Rule { sizes: limits, negative: true, ignore: None };
    let (indices, factors) = (check_indices::add(e, indices, &rule)?, e.constant(numbers(&steps[batch..])?));
    let dtype = position_type(own.iter().product());
    let scaled = pointwise::add(e, arg(0) * arg(1), dtype, &[indices, factors])?;
    let mut rows = reduce(e, "sum", scaled, &[rank], false)?;
    for axis in 0..batch {
        let place = positions(e, rank, axis, given[axis].clone(), steps[axis] as i64)?;
        rows = pointwise::add(e, arg(0) + arg(1), dtype, &[rows, place])?;
    }
    Ok(rows)
}
