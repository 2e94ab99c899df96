//! What reads whole rows: reductions, softmax, normalisation.

use super::call::{Call, Node, dims};
use super::shape::{Axes, merge, strides};
use super::{KernelCall, KernelError};
use crate::ops::kernel_key::{Template, Value};

/// Elements of a row from which a workgroup reads it rather than an invocation.
const WIDE_ROW: u64 = 64;
/// Rows beyond which there is enough to do without sharing rows out.
const MANY_ROWS: u64 = 1 << 14;
/// Most axes kept or reduced after merging.
const MAX_RANK: usize = 4;

/// One workgroup a row with `wide`, one invocation otherwise.
fn launch(call: Call<'_>, wide: bool, rows: u64) -> Result<KernelCall, KernelError> {
    let call = call.flag("wide", wide);
    if wide { call.groups(rows) } else { call.invocations(rows) }
}

pub(super) fn reduce(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let own = dims(ty);
    let kind: u32 = match node.attrs.str("kind") {
        Some("sum") => 0,
        Some("mean") => 1,
        Some("max") => 2,
        Some("min") => 3,
        Some("prod") => 4,
        other => return Err(node.unsupported(format!("a reduction of kind {other:?}"))),
    };
    if ty.packing.is_some() || super::call::class_of(ty) == Value::Bool {
        return Err(node.unsupported(format!("a reduction of {ty}")));
    }
    let axes = node.ints("axes").unwrap_or_default();
    let stride = strides(&own);
    let part = |reduced: bool| -> Axes<1> {
        let is_reduced = |i: usize| i64::try_from(i).is_ok_and(|i| axes.contains(&i));
        merge((0..own.len()).filter(|&i| is_reduced(i) == reduced).map(|i| (own[i], [stride[i]])))
    };
    let (kept, reduced) = (part(false), part(true));
    if kept.len() > MAX_RANK || reduced.len() > MAX_RANK {
        return Err(node.unsupported(format!("a reduction of {ty} along {axes:?}: more than {MAX_RANK} axes after merging")));
    }
    let count = |axes: &Axes<1>| axes.iter().map(|(size, _)| size).product::<u64>();
    let (n, n_reduced) = (count(&kept), count(&reduced));
    let contiguous = matches!(reduced[..], [(_, [1])]);
    let wide = n_reduced >= WIDE_ROW && (contiguous || n < MANY_ROWS);
    let rank = |axes: &Axes<1>| u32::try_from(axes.len()).unwrap_or(u32::MAX);
    let call = node.call(Template::Reduce).operand(x).uint("n", n).uint("n_reduced", n_reduced).flag("kind", kind);
    let call = call.flag("kept", rank(&kept)).flag("reduced", rank(&reduced));
    let call = call.uints("kd", kept.iter().map(|a| a.0)).uints("ks", kept.iter().map(|a| a.1[0].cast_unsigned()));
    let call = call.uints("rd", reduced.iter().map(|a| a.0)).uints("rs", reduced.iter().map(|a| a.1[0].cast_unsigned()));
    Ok(vec![launch(call, wide, n)?])
}

/// The axis of a row operator, and sizes before, of and after it.
fn split(node: &Node<'_>, own: &[u64]) -> Result<(u64, u64, u64), KernelError> {
    let axis = node.attrs.int("axis").and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < own.len());
    let axis = axis.ok_or_else(|| node.unsupported(format!("the axis {:?}", node.attrs.int("axis"))))?;
    Ok((own[..axis].iter().product(), own[axis], own[axis + 1..].iter().product()))
}

pub(super) fn softmax(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    if ty.packing.is_some() || !ty.dtype.is_float() {
        return Err(node.unsupported(format!("a softmax of {ty}")));
    }
    let (outer, n, inner) = split(node, &dims(ty))?;
    let rows = outer * inner;
    let call = node.call(Template::Softmax).operand(x).uint("rows", rows).uint("n", n).uint("inner", inner);
    let wide = n >= WIDE_ROW && (inner == 1 || rows < MANY_ROWS);
    Ok(vec![launch(call.flag("log", node.attrs.int("log").unwrap_or(0) != 0), wide, rows)?])
}

pub(super) fn norm(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let rms = match node.attrs.str("kind") {
        Some("layer") => false,
        Some("rms") => true,
        other => return Err(node.unsupported(format!("a norm of kind {other:?}"))),
    };
    let (rows, size, inner) = split(node, &dims(ty))?;
    let n = size * inner;
    let vector = |slot: usize| node.own.get(slot).copied().flatten();
    for value in [vector(1), vector(2)].into_iter().flatten() {
        let ty = node.graph.ty(value);
        if ty.packing.is_some() || !ty.dtype.is_float() || ty.shape.n_elems() != Some(n) {
            return Err(node.unsupported(format!("a norm of rows of {n} with {ty}")));
        }
    }
    let call = node.call(Template::Norm).operand(x).optional(vector(1)).optional(vector(2)).uint("rows", rows).uint("n", n);
    let call = call.float("epsilon", node.attrs.float("epsilon").unwrap_or(1e-5)).flag("rms", rms);
    Ok(vec![launch(call, n >= WIDE_ROW, rows)?])
}
