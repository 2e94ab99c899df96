//! What moves elements: gather, strided, concat, stores of states.

use super::call::{Node, dims, slices};
use super::settings::{halves, of};
use super::shape::merge;
use super::tiles::Tiles;
use super::{KernelCall, KernelError, storage, vectors};
use crate::ir::{Dim, product};
use crate::ops::core::check_indices::Rule;
use crate::ops::core::strided::Fill;
use crate::program::ResultSlice;

/// Most axes of a strided read after merging.
const MAX_RANK: usize = 8;
/// Most numbers of an index that is checked.
const MAX_NUMBERS: usize = 8;

pub(super) fn gather(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let ((data, data_ty), (indices, indices_ty)) = (node.operand(0)?, node.operand(1)?);
    let own = dims(data_ty);
    let axis = node.attrs.int("axis").and_then(|axis| usize::try_from(axis).ok()).unwrap_or(0);
    if axis >= own.len() || (data_ty.packing.is_some() && (axis != 0 || own.len() != 2)) || indices_ty.packing.is_some()
    {
        return Err(node.unsupported(format!("a gather from {data_ty} along axis {axis}")));
    }
    let inner = product(&own[axis + 1..]);
    let n = node.n();
    let tables: Vec<_> = [data].into_iter().chain(node.own.iter().skip(2).copied().flatten()).collect();
    let size_of = |table| dims(node.graph.ty(table)).get(axis).cloned().unwrap_or(Dim::Known(0));
    let total = tables.iter().fold(Dim::Known(0), |n, &table| &n + &size_of(table));
    let mut calls = Vec::new();
    let mut base = Dim::Known(0);
    for table in tables {
        let size = size_of(table);
        // Only along the first axis is a slice of rows one piece of memory.
        let parts = if axis == 0 { slices(node, table, &size, &inner)? } else { vec![None] };
        let width = vectors::width(node, node.outer_storages().chain(storage(node.graph.ty(table))), &n, &[&inner]);
        for rows in parts {
            let (first, size) =
                rows.map_or((base.clone(), size.clone()), |rows| (&base + &rows.first.into(), rows.n.into()));
            let call = node.call(of::Gather).operand_rows(table, rows).operand(indices);
            let call = call.n(n.clone()).inner(inner.clone()).n_indices(indices_ty.shape.volume());
            let call = call.total(total.clone()).first(first).size(size);
            calls.push(call.vectors(&n, width)?);
        }
        base = &base + &size;
    }
    Ok(calls)
}

pub(super) fn check_indices(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (indices, _) = node.operand(0)?;
    let rule = Rule::of(node.attrs).map_err(|e| node.unsupported(e.to_string()))?;
    if rule.sizes.len() > MAX_NUMBERS {
        return Err(node.unsupported(format!("indices of {} numbers, at most {MAX_NUMBERS}", rule.sizes.len())));
    }
    let n = node.n();
    let call = node.call(of::CheckIndices).operand(indices).n(n.clone());
    let call = call.size(rule.sizes.iter().cloned()).ignored(rule.ignore.unwrap_or(0));
    let call = call.negative(rule.negative).ignore(rule.ignore.is_some());
    // What a fault is noted with: a word for each bit.
    let call = call.each(1u64, 32u64);
    Ok(vec![KernelCall { check: Some(rule), ..call.invocations(&n)? }])
}

pub(super) fn strided(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let rank = node.dims.len();
    let list = |name: &str| node.sizes(name).unwrap_or_default();
    let (strides, lo, hi) = (list("strides"), list("lo"), list("hi"));
    let fits = |list: &[Dim]| list.is_empty() || list.len() == rank;
    if ty.packing.is_some() || strides.len() != rank || !fits(&lo) || !fits(&hi) {
        return Err(node.unsupported(format!("a strided read of {ty} with strides {strides:?}")));
    }
    let zero = Dim::Known(0);
    let bounds = |i: usize| -> (Dim, Dim) {
        let size = &node.dims[i];
        let clamp =
            |v: Option<&Dim>, default: &Dim| v.map_or(default.clone(), |v| Dim::least(&Dim::larger(v, &zero), size));
        (clamp(lo.get(i), &zero), clamp(hi.get(i), size))
    };
    let boxed = (0..rank).any(|i| bounds(i) != (zero.clone(), node.dims[i].clone()));
    let axes = (0..rank).map(|i| (node.dims[i].clone(), [strides[i].clone()]));
    let (axes, bounds): (Vec<_>, Vec<_>) = if boxed {
        // Axes of a box do not merge; those of one element that is inside need no look.
        let one = (zero.clone(), Dim::Known(1));
        axes.enumerate()
            .map(|(i, axis)| (axis, bounds(i)))
            .filter(|(axis, bounds)| axis.0 != one.1 || *bounds != one)
            .unzip()
    } else {
        merge(axes).into_iter().map(|axis| (axis.clone(), (zero.clone(), axis.0))).unzip()
    };
    if axes.len() > MAX_RANK {
        return Err(node.unsupported(format!("a strided read of {ty} over {} axes, at most {MAX_RANK}", axes.len())));
    }
    let n = node.n();
    let offset = list("offset").first().cloned().unwrap_or(zero);
    // A CPU, as lavapipe has it, is slow to fill shared memory and has caches.
    if let Some(tiles) = Tiles::of(&axes, &offset, storage(ty)).filter(|_| !boxed && !node.target.is_cpu()) {
        return Ok(vec![tiles.call(node.call(of::Transposed).operand(x))?]);
    }
    let width = match axes.split_last() {
        Some(((inner, [Dim::Known(1)]), outer)) if !boxed => {
            let multiples: Vec<&Dim> = outer.iter().map(|(_, [stride])| stride).chain([inner, &offset]).collect();
            vectors::width(node, node.outer_storages().chain(storage(ty)), &n, &multiples)
        }
        _ => 0,
    };
    let [fill, fill_high] = halves(Fill::of(node.attrs, "fill").bits(ty.dtype));
    let call = node.call(of::Strided).operand(x).n(n.clone()).offset(offset);
    let call = call.fill(fill).fill_high(fill_high).boxed(boxed);
    let (sizes, strides): (Vec<Dim>, Vec<Dim>) = axes.into_iter().map(|(size, [stride])| (size, stride)).unzip();
    let (lo, hi): (Vec<Dim>, Vec<Dim>) = bounds.into_iter().unzip();
    Ok(vec![call.d(sizes).s(strides).lo(lo).hi(hi).vectors(&n, width)?])
}

/// The result is the state, of which a call writes what is stored.
pub(super) fn state_store(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(1)?;
    let storages = || node.outer_storages().chain(storage(ty));
    let n = product(&dims(ty));
    if n == Dim::Known(0) {
        return Ok(Vec::new());
    }
    if node.own.get(2).copied().flatten().is_none() {
        let width = vectors::width(node, storages(), &n, &[&n]);
        let call = node.call(of::Concat).operand(x).n(n.clone()).run(n.clone());
        return Ok(vec![call.pitch(n.clone()).first(0u64).vectors(&n, width)?]);
    }
    let (at, at_ty) = node.operand(2)?;
    let axis = node.attrs.int("axis").and_then(|axis| usize::try_from(axis).ok()).unwrap_or(0);
    if axis >= node.dims.len() || at_ty.packing.is_some() {
        return Err(node.unsupported(format!("a store of {ty} along axis {axis}")));
    }
    let inner = product(&node.dims[axis + 1..]);
    let width = vectors::width(node, storages(), &n, &[&inner]);
    let call = node.call(of::StoreRows).operand(x).operand(at).n(n.clone()).inner(inner);
    let call = call.n_rows(ty.shape.0[axis].clone()).size(node.dims[axis].clone());
    Ok(vec![call.vectors(&n, width)?])
}

pub(super) fn concat(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let axis =
        node.attrs.int("axis").and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < node.dims.len());
    let axis = axis.ok_or_else(|| node.unsupported(format!("a concat along axis {:?}", node.attrs.int("axis"))))?;
    let pitch = product(&node.dims[axis..]);
    let mut first = Dim::Known(0);
    let mut calls = Vec::new();
    for slot in 0..node.own.len() {
        let (x, ty) = node.operand(slot)?;
        let own = dims(ty);
        if ty.packing.is_some() || own.len() != node.dims.len() {
            return Err(node.unsupported(format!("a concat of {ty}")));
        }
        let (n, run) = (product(&own), product(&own[axis..]));
        if n != Dim::Known(0) {
            let call = node.call(of::Concat).operand(x).n(n.clone()).run(run.clone());
            let storages = node.outer_storages().chain(storage(ty));
            let width = vectors::width(node, storages, &n, &[&run, &pitch, &first]);
            let call = call.pitch(pitch.clone()).first(first.clone()).vectors(&n, width)?;
            let result_slice = ResultSlice { pitch: pitch.clone(), first: first.clone(), width: run.clone() };
            calls.push(KernelCall { result_slice: Some(result_slice), ..call });
        }
        first = &first + &run;
    }
    Ok(calls)
}
