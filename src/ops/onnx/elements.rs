//! ONNX operators that pick single elements or slices by indices, all by way of `gather`.

use crate::ir::{Class, DType, Dim, Expand, Infer, OpError, Shape, Tensor, TensorType, Val, attr};
use crate::ops::compose::{dims, gather_within, position_type, positions, reduce, sizes, take};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::{agree, axis_attr, strides};

written_out! {
    /// `gather_elements(data, indices) {axis}`: ONNX GatherElements, opset 13.
    GATHER_ELEMENTS "gather_elements" "GatherElements" (2, 2) [attr::int("axis")] infer_elements, expand_elements;
    /// `gather_nd(data, indices) {batch_dims}`: ONNX GatherND, opset 13.
    GATHER_ND "gather_nd" "GatherND" (2, 2) [attr::int("batch_dims")] infer_nd, expand_nd;
    /// `reverse_sequence(x, lengths) {batch_axis, time_axis}`: ONNX ReverseSequence, opset 10.
    REVERSE_SEQUENCE "reverse_sequence" "ReverseSequence" (2, 2) [attr::int("batch_axis"), attr::int("time_axis")] infer_reverse, expand_reverse;
    /// `tensor_scatter(past, update, write_indices?) {axis, mode}`: ONNX TensorScatter, opset 24.
    TENSOR_SCATTER "tensor_scatter" "TensorScatter" (2, 3) [attr::int("axis"), attr::text("mode")] infer_tensor_scatter, expand_tensor_scatter;
}

fn plain<'a>(infer: &Infer<'a>, slot: usize) -> Result<&'a TensorType, OpError> {
    let x = infer.ty(slot)?;
    if x.packing.is_some() || x.dtype.class() == Class::Text {
        Err(OpError::operand(slot, x, "numbers"))
    } else {
        Ok(x)
    }
}

fn indices<'a>(infer: &Infer<'a>, slot: usize) -> Result<&'a TensorType, OpError> {
    let x = infer.ty(slot)?;
    if x.dtype.class() == Class::Int { Ok(x) } else { Err(OpError::operand(slot, x, "integers")) }
}

fn infer_elements(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (data, indices) = (plain(infer, 0)?, indices(infer, 1)?);
    let axis = axis_attr(infer.attrs, 0, data.shape.rank())?;
    let fits = |i: usize| {
        let (n, own) = (&indices.shape.0[i], &data.shape.0[i]);
        i == axis || agree(n, own) || n.bounds().1 <= own.bounds().0
    };
    if indices.shape.rank() != data.shape.rank() || !(0..data.shape.rank()).all(fits) {
        return Err(OpError::operand(1, indices, format!("as many axes as {data}, none longer but axis {axis}")));
    }
    Ok(vec![TensorType::new(data.dtype, indices.shape.clone())])
}

fn expand_elements(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (data, indices) = (e.input(0)?, e.input(1)?);
    let out = sizes(1, &e.ty(indices))?;
    let axis = axis_attr(e.attrs, 0, out.len())?;
    let size = e.ty(data).shape.0[axis].clone();
    let indices = check_indices::add(e, indices, &Rule::of_axis(size))?;
    Ok(vec![take(e, data, indices, axis, &out)?])
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

fn infer_nd(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (data, indices) = (plain(infer, 0)?, indices(infer, 1)?);
    let (batch, depth) = nd(infer.attrs.int("batch_dims").unwrap_or(0), &data.shape, &indices.shape)?;
    let shape = [&indices.shape.0[..indices.shape.rank() - 1], &data.shape.0[batch + depth..]].concat();
    Ok(vec![TensorType::new(data.dtype, Shape(shape))])
}

fn expand_nd(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
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
    let scaled = pointwise::add(e, "mul(x0,x1)", dtype, &[indices, factors])?;
    let mut rows = reduce(e, "sum", scaled, &[rank], false)?;
    for axis in 0..batch {
        let place = positions(e, rank, axis, given[axis].clone(), steps[axis] as i64)?;
        rows = pointwise::add(e, "add(x0,x1)", dtype, &[rows, place])?;
    }
    Ok(rows)
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

fn infer_reverse(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, lengths) = (plain(infer, 0)?, indices(infer, 1)?);
    let (batch, _) = reverse_axes(infer.attrs)?;
    if x.shape.rank() < 2 || lengths.shape.0 != x.shape.0[batch..=batch] {
        return Err(OpError::operand(1, lengths, format!("a length for each row of {x}")));
    }
    Ok(vec![x.clone()])
}

fn expand_reverse(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, lengths) = (e.input(0)?, e.input(1)?);
    let out = sizes(0, &e.ty(x))?;
    let (batch, time) = reverse_axes(e.attrs)?;
    // A length may be that of the whole axis.
    let rule = Rule { sizes: vec![Dim::from(out[time] + 1)], negative: false, ignore: None };
    let lengths = check_indices::add(e, lengths, &rule)?;
    let lengths = crate::ops::compose::along(e, lengths, out.len(), batch)?;
    let place = positions(e, out.len(), time, out[time], 1)?;
    let from = pointwise::add(e, "select(lt(x1,x0),sub(sub(x0,x1),1),x1)", DType::I64, &[lengths, place])?;
    Ok(vec![take(e, x, from, time, &out)?])
}

fn infer_tensor_scatter(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (past, update) = (plain(infer, 0)?, plain(infer, 1)?);
    let axis = axis_attr(infer.attrs, -2, past.shape.rank())?;
    let fits = |i: usize| update.shape.0.get(i).is_some_and(|n| *n == past.shape.0[i] || i == axis);
    if axis == 0
        || past.dtype != update.dtype
        || update.shape.rank() != past.shape.rank()
        || !(0..past.shape.rank()).all(fits)
    {
        return Err(OpError::operand(1, update, format!("{past} but for axis {axis}")));
    }
    if let Some(Some(at)) = infer.inputs.get(2)
        && at.shape.0 != past.shape.0[..1]
    {
        return Err(OpError::operand(2, at, format!("[{}]", past.shape.0[0])));
    }
    if !matches!(infer.attrs.str("mode"), None | Some("linear" | "circular")) {
        return Err(OpError::attribute("mode", format!("is {:?}", infer.attrs.str("mode"))));
    }
    Ok(vec![past.clone()])
}

/// Each place of the result asks which place of the update, if any, was written there.
fn expand_tensor_scatter(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (past, update) = (e.input(0)?, e.input(1)?);
    let ty = e.ty(past);
    let (out, given) = (sizes(0, &ty)?, sizes(1, &e.ty(update))?);
    let axis = axis_attr(e.attrs, -2, out.len())?;
    let place = positions(e, out.len(), axis, out[axis], 1)?;
    let mut from = place;
    if let Some(mut at) = e.optional(2) {
        if e.attrs.str("mode") != Some("circular") {
            // All of the update has room behind where it begins.
            let room = out[axis].checked_sub(given[axis]).ok_or_else(|| {
                OpError::operand(1, e.ty(update), format!("at most {} elements along axis {axis}", out[axis]))
            })?;
            let rule = Rule { sizes: vec![Dim::from(room + 1)], negative: false, ignore: None };
            at = check_indices::add(e, at, &rule)?;
        }
        let at = crate::ops::compose::along(e, at, out.len(), 0)?;
        let text = if e.attrs.str("mode") == Some("circular") {
            format!("mod(sub(x0,x1),{})", out[axis])
        } else {
            "sub(x0,x1)".to_owned()
        };
        from = pointwise::add(e, &text, DType::I64, &[place, at])?;
    }
    let last = given[axis] as i64 - 1;
    let clamped = pointwise::add(e, &format!("min(max(x0,0),{last})"), DType::I64, &[from])?;
    let new = take(e, update, clamped, axis, &out)?;
    Ok(vec![pointwise::add(e, &format!("select(and(ge(x2,0),le(x2,{last})),x0,x1)"), ty.dtype, &[new, past, from])?])
}
