//! ONNX's operators that only move elements: each becomes `strided`, or `reshape` where the order stays.

use crate::ir::{Dim, Expand, Infer, OpError, Shape, TensorType, Val, attr, resolve_axis};
use crate::ops::core::reshape;
use crate::ops::core::strided::{View, row_major, view};
use crate::ops::util::{agree, axis_attr, broadcast};

written_out! {
    /// `transpose(x) {perm}`: ONNX Transpose, opset 21.
    TRANSPOSE "transpose" "Transpose" (1, 1) [attr::ints("perm")] infer_transpose, expand_transpose;
    /// `expand(x, shape)`: ONNX Expand, opset 13.
    EXPAND "expand" "Expand" (2, 2) [] infer_expand, expand_expand;
    /// `tile(x, repeats)`: ONNX Tile, opset 13.
    TILE "tile" "Tile" (2, 2) [] infer_tile, expand_tile;
    /// `split(x, sizes?) {axis, num_outputs}`: ONNX Split, opset 18.
    SPLIT "split" "Split" (1, 2) [attr::int("axis"), attr::int("num_outputs")] infer_split, expand_split;
    /// `squeeze(x, axes?)`: ONNX Squeeze, opset 21.
    SQUEEZE "squeeze" "Squeeze" (1, 2) [] infer_squeeze, expand_reshape;
    /// `unsqueeze(x, axes)`: ONNX Unsqueeze, opset 21.
    UNSQUEEZE "unsqueeze" "Unsqueeze" (2, 2) [] infer_unsqueeze, expand_reshape;
    /// `flatten(x) {axis}`: ONNX Flatten, opset 21.
    FLATTEN "flatten" "Flatten" (1, 1) [attr::int("axis")] infer_flatten, expand_reshape;
    /// `depth_to_space(x) {blocksize, mode}`: ONNX DepthToSpace, opset 13.
    DEPTH_TO_SPACE "depth_to_space" "DepthToSpace" (1, 1) [attr::int("blocksize"), attr::text("mode")] infer_depth_to_space, expand_depth_to_space;
    /// `space_to_depth(x) {blocksize, mode}`: ONNX SpaceToDepth, opset 28.
    SPACE_TO_DEPTH "space_to_depth" "SpaceToDepth" (1, 1) [attr::int("blocksize"), attr::text("mode")] infer_space_to_depth, expand_space_to_depth;
}

/// The axes of a transpose, checked; all reversed where absent.
fn permutation(given: Option<&[i64]>, rank: usize) -> Result<Vec<usize>, OpError> {
    let perm: Vec<usize> = match given {
        Some(perm) => perm.iter().map(|&p| usize::try_from(p).unwrap_or(usize::MAX)).collect(),
        None => (0..rank).rev().collect(),
    };
    let mut sorted = perm.clone();
    sorted.sort_unstable();
    if sorted.iter().copied().ne(0..rank) {
        return Err(OpError::attribute("perm", format!("is {given:?} for {rank} axes")));
    }
    Ok(perm)
}

fn typed(infer: &Infer<'_>, shape: Vec<Dim>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    if x.packing.is_some() {
        return Err(OpError::operand(0, x, "a tensor that is not packed"));
    }
    Ok(vec![TensorType::new(x.dtype, Shape(shape))])
}

fn infer_transpose(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let shape = &infer.ty(0)?.shape;
    let perm = permutation(infer.attrs.ints("perm"), shape.rank())?;
    typed(infer, perm.iter().map(|&p| shape.0[p].clone()).collect())
}

/// `x` with its axes in the order `perm`: a reshape where only axes of size 1 move.
///
/// # Errors
/// `perm` is no permutation of x's axes.
pub fn transpose(e: &mut Expand<'_, '_>, x: Val, perm: &[usize]) -> Result<Val, OpError> {
    let dims = e.ty(x).shape.0;
    let checked: Vec<i64> = perm.iter().map(|&p| p as i64).collect();
    permutation(Some(&checked), dims.len())?;
    let shape: Vec<Dim> = perm.iter().map(|&p| dims[p].clone()).collect();
    let moved: Vec<usize> = perm.iter().copied().filter(|&p| dims[p] != Dim::Known(1)).collect();
    if moved.is_sorted() {
        return reshape::to(e, x, shape);
    }
    let strides = row_major(&dims);
    let strides = perm.iter().map(|&p| strides[p].clone()).collect();
    view(e, x, &View { shape, strides, ..View::default() })
}

fn expand_transpose(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let perm = permutation(e.attrs.ints("perm"), e.ty(x).shape.rank())?;
    Ok(vec![transpose(e, x, &perm)?])
}

fn infer_expand(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let sizes = infer.dims(1)?.ok_or(OpError::MissingOperand { slot: 1 })?;
    if sizes.iter().any(|n| n.bounds().0 < 0) {
        return Err(OpError::operand(1, format!("{sizes:?}"), "sizes"));
    }
    let wanted = Shape(sizes);
    typed(infer, broadcast(&[&infer.ty(0)?.shape, &wanted])?.0)
}

/// `x` repeated along axes of size 1 to `shape`.
///
/// # Errors
/// x does not broadcast to it.
pub fn broadcast_to(e: &mut Expand<'_, '_>, x: Val, shape: Vec<Dim>) -> Result<Val, OpError> {
    let dims = e.ty(x).shape.0;
    let missing = shape.len().saturating_sub(dims.len());
    let grows = |i: usize| i >= missing && dims[i - missing] != shape[i];
    if !(0..shape.len()).any(grows) && shape[..missing].iter().all(|d| *d == Dim::Known(1)) {
        return reshape::to(e, x, shape);
    }
    let own = row_major(&dims);
    let strides = (0..shape.len())
        .map(|i| if i < missing || grows(i) { Dim::Known(0) } else { own[i - missing].clone() })
        .collect();
    view(e, x, &View { shape, strides, ..View::default() })
}

fn expand_expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, shape) = (e.input(0)?, e.outputs[0].shape.0.clone());
    Ok(vec![broadcast_to(e, x, shape)?])
}

fn repeats(given: Option<Vec<Dim>>, rank: usize) -> Result<Vec<Dim>, OpError> {
    let repeats = given.ok_or(OpError::MissingOperand { slot: 1 })?;
    if repeats.len() != rank || repeats.iter().any(|r| r.bounds().0 < 0) {
        return Err(OpError::operand(1, format!("{repeats:?}"), format!("{rank} counts")));
    }
    Ok(repeats)
}

fn infer_tile(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let dims = &infer.ty(0)?.shape.0;
    let repeats = repeats(infer.dims(1)?, dims.len())?;
    typed(infer, dims.iter().zip(&repeats).map(|(d, r)| d * r).collect())
}

fn expand_tile(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let dims = e.ty(x).shape.0;
    let repeats = repeats(e.dims(1)?, dims.len())?;
    if repeats.iter().all(|r| *r == Dim::Known(1)) {
        return Ok(vec![x]);
    }
    let own = row_major(&dims);
    let (mut shape, mut strides) = (Vec::new(), Vec::new());
    for ((dim, stride), repeat) in dims.iter().zip(&own).zip(repeats) {
        if repeat != Dim::Known(1) {
            shape.push(repeat);
            strides.push(Dim::Known(0));
        }
        shape.push(dim.clone());
        strides.push(stride.clone());
    }
    let y = view(e, x, &View { shape, strides, ..View::default() })?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![reshape::to(e, y, shape)?])
}

fn infer_split(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let axis = axis_attr(infer.attrs, 0, x.shape.rank())?;
    let size = &x.shape.0[axis];
    let n = infer.attrs.int("num_outputs").and_then(|n| usize::try_from(n).ok()).unwrap_or(infer.n_outputs).max(1);
    let sizes: Vec<Dim> = match infer.dims(1)? {
        Some(sizes) => {
            let total = sizes.iter().fold(Dim::Known(0), |n, s| &n + s);
            if sizes.iter().any(|s| s.bounds().0 < 0) || !agree(size, &total) {
                return Err(OpError::operand(1, format!("{sizes:?}"), format!("parts of {size}")));
            }
            sizes
        }
        None => {
            let n = i64::try_from(n).unwrap_or(i64::MAX);
            if n > 1 << 16 {
                return Err(OpError::attribute("num_outputs", format!("is {n}")));
            }
            let each = match size.known() {
                Some(size) => Dim::Known(size.saturating_add(n - 1) / n),
                None => size
                    .floor_div(&Dim::Known(n))
                    .filter(|each| &(each * &Dim::Known(n)) == size)
                    .ok_or_else(|| OpError::operand(0, x, format!("a size that {n} divides")))?,
            };
            let before = &each * &Dim::Known(n - 1);
            let last = size - &before;
            if last.known().is_some_and(|n| n < 0) {
                return Err(OpError::attribute("num_outputs", format!("is {n} for {size} elements")));
            }
            (1..n).map(|_| each.clone()).chain([last]).collect()
        }
    };
    let part = |size: Dim| {
        let mut shape = x.shape.clone();
        shape.0[axis] = size;
        TensorType::new(x.dtype, shape)
    };
    typed(infer, Vec::new())?;
    Ok(sizes.into_iter().map(part).collect())
}

fn expand_split(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let dims = e.ty(x).shape.0;
    let axis = axis_attr(e.attrs, 0, dims.len())?;
    let strides = row_major(&dims);
    let mut start = Dim::Known(0);
    let mut parts = Vec::new();
    for ty in e.outputs.clone() {
        let offset = &start * &strides[axis];
        start = &start + &ty.shape.0[axis];
        parts.push(if ty.shape.0 == dims {
            x
        } else {
            view(e, x, &View { shape: ty.shape.0, strides: strides.clone(), offset: Some(offset), ..View::default() })?
        });
    }
    Ok(parts)
}

fn infer_squeeze(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let squeezed: Vec<usize> = match infer.ints(1)? {
        Some(given) => crate::ops::util::axes(&given, x.shape.rank())?,
        None => {
            // A result whose axes are fewer at some sizes than at others is none that others can take.
            if let Some(dim) = x.shape.0.iter().find(|dim| {
                dim.known().is_none() && dim.most().is_some() && (dim.bounds().0..=dim.bounds().1).contains(&1)
            }) {
                return Err(OpError::operand(0, x, format!("axes to be given: {dim} may be 1, or not")));
            }
            (0..x.shape.rank()).filter(|&i| x.shape.0[i] == Dim::Known(1)).collect()
        }
    };
    // A size with a range must be 1 at all of it.
    if let Some(&axis) = squeezed.iter().find(|&&i| !crate::ops::util::agree(&x.shape.0[i], &Dim::Known(1))) {
        return Err(OpError::operand(1, format!("axis {axis}"), format!("axes of size 1 in {x}")));
    }
    typed(infer, x.shape.0.iter().enumerate().filter(|(i, _)| !squeezed.contains(i)).map(|(_, d)| d.clone()).collect())
}

fn infer_unsqueeze(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let given = infer.ints(1)?.ok_or(OpError::MissingOperand { slot: 1 })?;
    let rank = x.shape.rank() + given.len();
    let new = crate::ops::util::axes(&given, rank)?;
    if new.len() != given.len() {
        return Err(OpError::operand(1, format!("{given:?}"), "each axis once"));
    }
    let mut own = x.shape.0.iter().cloned();
    typed(infer, (0..rank).filter_map(|i| if new.contains(&i) { Some(Dim::Known(1)) } else { own.next() }).collect())
}

fn infer_flatten(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let rank = x.shape.rank();
    let given = infer.attrs.int("axis").unwrap_or(1);
    let axis = if given == rank as i64 { Some(rank) } else { resolve_axis(given, rank) };
    let axis = axis.ok_or_else(|| OpError::attribute("axis", format!("is {given}, the operand has {rank} axes")))?;
    typed(infer, vec![crate::ir::product(&x.shape.0[..axis]), crate::ir::product(&x.shape.0[axis..])])
}

fn expand_reshape(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, shape) = (e.input(0)?, e.outputs[0].shape.0.clone());
    Ok(vec![reshape::to(e, x, shape)?])
}

/// The shape `[N,C,H,W]` and the block size.
fn blocks(attrs: &crate::ir::Attrs, x: &TensorType) -> Result<([Dim; 4], Dim), OpError> {
    let block = attrs
        .int("blocksize")
        .filter(|b| (1..=1 << 16).contains(b))
        .ok_or_else(|| OpError::attribute("blocksize", "is missing or out of range"))?;
    let dims: [Dim; 4] = x.shape.0.clone().try_into().map_err(|_| OpError::operand(0, x, "[N,C,H,W]"))?;
    Ok((dims, Dim::Known(block)))
}

fn divide(dim: &Dim, by: &Dim) -> Result<Dim, OpError> {
    let quotient = dim.floor_div(by).filter(|q| dim.known().is_none() || &(q * by) == dim);
    quotient.ok_or_else(|| OpError::attribute("blocksize", format!("does not divide {dim}")))
}

fn infer_depth_to_space(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let ([n, c, h, w], b) = blocks(infer.attrs, infer.ty(0)?)?;
    if let Some(mode) = infer.attrs.str("mode").filter(|m| !["DCR", "CRD"].contains(m)) {
        return Err(OpError::attribute("mode", format!("is {mode:?}")));
    }
    typed(infer, vec![n, divide(&c, &(&b * &b))?, &h * &b, &w * &b])
}

fn infer_space_to_depth(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let ([n, c, h, w], b) = blocks(infer.attrs, infer.ty(0)?)?;
    if let Some(mode) = infer.attrs.str("mode").filter(|m| !["DCR", "CRD"].contains(m)) {
        return Err(OpError::attribute("mode", format!("is {mode:?}")));
    }
    typed(infer, vec![n, &c * &(&b * &b), divide(&h, &b)?, divide(&w, &b)?])
}

fn expand_depth_to_space(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ([n, c, h, w], b) = blocks(e.attrs, &e.ty(x))?;
    let c = divide(&c, &(&b * &b))?;
    let (split, perm) = match e.attrs.str("mode") {
        Some("CRD") => (vec![n, c, b.clone(), b, h, w], [0, 1, 4, 2, 5, 3]),
        _ => (vec![n, b.clone(), b, c, h, w], [0, 3, 4, 1, 5, 2]),
    };
    let y = reshape::to(e, x, split)?;
    let y = transpose(e, y, &perm)?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![reshape::to(e, y, shape)?])
}

fn expand_space_to_depth(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let ([n, c, h, w], b) = blocks(e.attrs, &e.ty(x))?;
    let y = reshape::to(e, x, vec![n, c, divide(&h, &b)?, b.clone(), divide(&w, &b)?, b])?;
    let y =
        transpose(e, y, if e.attrs.str("mode") == Some("CRD") { &[0, 1, 3, 5, 2, 4] } else { &[0, 3, 5, 1, 2, 4] })?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![reshape::to(e, y, shape)?])
}
