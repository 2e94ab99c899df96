//! What moves elements: gather, strided, concat.

use super::call::{Node, dims, slices};
use super::shape::merge;
use super::{KernelCall, KernelError};
use crate::ops::kernel_key::Template;

/// Most axes of a strided read after merging.
const MAX_RANK: usize = 8;

pub(super) fn gather(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let ((data, data_ty), (indices, indices_ty)) = (node.operand(0)?, node.operand(1)?);
    let own = dims(data_ty);
    let axis = node.attrs.int("axis").and_then(|axis| usize::try_from(axis).ok()).unwrap_or(0);
    if axis >= own.len() || (data_ty.packing.is_some() && (axis != 0 || own.len() != 2)) || indices_ty.packing.is_some() {
        return Err(node.unsupported(format!("a gather from {data_ty} along axis {axis}")));
    }
    let inner: u64 = own[axis + 1..].iter().product();
    let n = node.dims.iter().product();
    let tables: Vec<_> = [data].into_iter().chain(node.own.iter().skip(2).copied().flatten()).collect();
    let size_of = |table| dims(node.graph.ty(table)).get(axis).copied().unwrap_or(0);
    let total = tables.iter().map(|&table| size_of(table)).sum();
    let mut calls = Vec::new();
    let mut base = 0;
    for table in tables {
        let size = size_of(table);
        // Only along the first axis is a slice of rows one piece of memory.
        let parts = if axis == 0 { slices(node, table, size, inner)? } else { vec![None] };
        for rows in parts {
            let (first, size) = rows.map_or((base, size), |rows| (base + rows.first, rows.n));
            let call = node.call(Template::Gather).operand_rows(table, rows).operand(indices);
            let call = call.uint("n", n).uint("inner", inner).uint("n_indices", dims(indices_ty).iter().product());
            calls.push(call.uint("total", total).uint("first", first).uint("size", size).invocations(n)?);
        }
        base += size;
    }
    Ok(calls)
}

pub(super) fn strided(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let rank = node.dims.len();
    let list = |name: &str| node.ints(name).unwrap_or_default();
    let (strides, lo, hi) = (list("strides"), list("lo"), list("hi"));
    let fits = |list: &[i64]| list.is_empty() || list.len() == rank;
    if ty.packing.is_some() || strides.len() != rank || !fits(&lo) || !fits(&hi) {
        return Err(node.unsupported(format!("a strided read of {ty} with strides {strides:?}")));
    }
    let bounds = |i: usize| -> (u64, u64) {
        let size = node.dims[i];
        let clamp = |v: Option<&i64>, default: u64| v.map_or(default, |&v| v.max(0).cast_unsigned().min(size));
        (clamp(lo.get(i), 0), clamp(hi.get(i), size))
    };
    let boxed = (0..rank).any(|i| bounds(i) != (0, node.dims[i]));
    let axes = (0..rank).map(|i| (node.dims[i], [strides[i]]));
    let (axes, bounds): (Vec<_>, Vec<_>) = if boxed {
        // Axes of a box do not merge; those of one element that is inside need no look.
        axes.enumerate().map(|(i, axis)| (axis, bounds(i))).filter(|(axis, bounds)| axis.0 != 1 || *bounds != (0, 1)).unzip()
    } else {
        merge(axes).into_iter().map(|axis| (axis, (0, axis.0))).unzip()
    };
    let too_many = || node.unsupported(format!("a strided read of {ty} over {} axes, at most {MAX_RANK}", axes.len()));
    let n_axes = u32::try_from(axes.len()).ok().filter(|&n| n as usize <= MAX_RANK).ok_or_else(too_many)?;
    let n = node.dims.iter().product();
    let call = node.call(Template::Strided).operand(x).uint("n", n).int("offset", list("offset").first().copied().unwrap_or(0));
    let call = call.float("fill", node.attrs.float("fill").unwrap_or(0.0)).flag("rank", n_axes).flag("boxed", boxed);
    let call = call.uints("d", axes.iter().map(|a| a.0)).ints("s", axes.iter().map(|a| a.1[0]));
    let call = call.uints("lo", bounds.iter().map(|b| b.0)).uints("hi", bounds.iter().map(|b| b.1));
    Ok(vec![call.invocations(n)?])
}

pub(super) fn concat(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let axis = node.attrs.int("axis").and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < node.dims.len());
    let axis = axis.ok_or_else(|| node.unsupported(format!("a concat along axis {:?}", node.attrs.int("axis"))))?;
    let pitch: u64 = node.dims[axis..].iter().product();
    let mut first = 0;
    let mut calls = Vec::new();
    for slot in 0..node.own.len() {
        let (x, ty) = node.operand(slot)?;
        let own = dims(ty);
        if ty.packing.is_some() || own.len() != node.dims.len() {
            return Err(node.unsupported(format!("a concat of {ty}")));
        }
        let (n, run) = (own.iter().product(), own[axis..].iter().product());
        if n > 0 {
            let call = node.call(Template::Concat).operand(x).uint("n", n).uint("run", run).uint("pitch", pitch).uint("first", first);
            calls.push(call.invocations(n)?);
        }
        first += run;
    }
    Ok(calls)
}
