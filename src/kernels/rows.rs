//! What reads whole rows: reductions, softmax, normalisation.

use super::call::{MAX_ELEMS, Node, WIDE_BITS, dims};
use super::held::Held;
use super::settings::{Call, Number, Switch, halves, has, of, unrolled};
use super::shape::{Axes, at_most, from, merge, strides};
use super::{KernelCall, KernelError, storage};
use crate::ir::{Class, Dim, product};
use crate::kernels::key::{Value, constants};
use crate::ops::core::strided::Fill;
use crate::ops::util::agree;

/// Invocations of a workgroup.
const INVOCATIONS: u64 = constants::INVOCATIONS as u64;
/// Elements of a row from which a workgroup reads it rather than an invocation.
const WIDE_ROW: i64 = 64;
/// Rows beyond which there is enough to do without sharing rows out.
const MANY_ROWS: i64 = 1 << 14;
/// The kind of a product in the reduction's key.
const PRODUCT: u32 = 4;
/// Most axes kept or reduced after merging.
const MAX_RANK: usize = 4;

/// Who reads a row.
struct Readers {
    /// Whether a workgroup does: 1 or 0, or an expression where that changes between runs.
    group: Dim,
    /// Whether an invocation does.
    invocation: Dim,
    /// The longest row that an invocation reads.
    longest: Dim,
}

impl Readers {
    /// Those of rows of `n` elements, of which there are `rows`: long ones are a workgroup's, with `strided` only as
    /// long as there are few of them.
    fn of(n: &Dim, rows: &Dim, strided: bool) -> Readers {
        let (long, short) = (from(n, WIDE_ROW), at_most(n, WIDE_ROW - 1));
        if strided {
            let (few, many) = (at_most(rows, MANY_ROWS - 1), from(rows, MANY_ROWS));
            let longest = Dim::Known(MAX_ELEMS.cast_signed() / MANY_ROWS);
            Readers { group: &long * &few, invocation: Dim::larger(&short, &many), longest: Dim::least(n, &longest) }
        } else {
            Readers { group: long, invocation: short, longest: Dim::least(n, &Dim::Known(WIDE_ROW - 1)) }
        }
    }
}

/// One workgroup a row, or one invocation; both where it depends on sizes, and one of them without workgroups.
fn launch<'n, T>(
    call: impl Fn() -> Call<'n, T>,
    readers: &Readers,
    rows: &Dim,
    row: &Row,
) -> Result<Vec<KernelCall>, KernelError>
where
    T: has::Wide<Given = Switch> + has::Unroll<Given = Number>,
{
    let mut calls = Vec::new();
    let looped = |per_lane: &Dim| {
        let (call, times) = unrolled(call(), per_lane);
        let call = if row.puts_all { call.puts(per_lane.clone()) } else { call };
        (0..row.passes).fold(call, |call, _| call.each(1u64, times.clone()))
    };
    if readers.group != Dim::Known(0) {
        calls.push(looped(&row.n.div_ceil(INVOCATIONS)).wide(true).workgroups(rows * &readers.group)?);
    }
    if readers.invocation != Dim::Known(0) {
        let groups = &rows.div_ceil(INVOCATIONS) * &readers.invocation;
        calls.push(looped(&readers.longest).wide(false).workgroups(groups)?);
    }
    let alternative = (calls.len() > 1).then_some(0);
    Ok(calls.into_iter().map(|call| KernelCall { alternative, ..call }).collect())
}

/// What is looped over.
struct Row {
    /// Elements of a row.
    n: Dim,
    /// How often it is read.
    passes: u32,
    /// Whether every element is put, not one of a row.
    puts_all: bool,
}

pub(super) fn reduce(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let own = dims(ty);
    let kind: u32 = match node.attrs.str("kind") {
        Some("sum") => 0,
        Some("mean") => 1,
        Some("max") => 2,
        Some("min") => 3,
        Some("prod") => PRODUCT,
        other => return Err(node.unsupported(format!("a reduction of kind {other:?}"))),
    };
    if ty.packing.is_some() || super::call::class_of(ty) == Value::Bool {
        return Err(node.unsupported(format!("a reduction of {ty}")));
    }
    // What no elements give.
    let start = match (kind, ty.dtype.class()) {
        (2, Class::Float) => Fill::Float(f32::NEG_INFINITY),
        (3, Class::Float) => Fill::Float(f32::INFINITY),
        (2 | 3, _) => Fill::Int(crate::ops::core::reduce::of_nothing(ty.dtype, kind == 2)),
        (PRODUCT, _) => Fill::Int(1),
        _ => Fill::Int(0),
    };
    let axes = node.ints("axes").unwrap_or_default();
    let stride = strides(&own);
    let part = |reduced: bool| -> Axes<1> {
        let is_reduced = |i: usize| i64::try_from(i).is_ok_and(|i| axes.contains(&i));
        merge((0..own.len()).filter(|&i| is_reduced(i) == reduced).map(|i| (own[i].clone(), [stride[i].clone()])))
    };
    let (kept, reduced) = (part(false), part(true));
    if kept.len() > MAX_RANK || reduced.len() > MAX_RANK {
        return Err(
            node.unsupported(format!("a reduction of {ty} along {axes:?}: more than {MAX_RANK} axes after merging"))
        );
    }
    let count = |axes: &Axes<1>| axes.iter().fold(Dim::Known(1), |n, (size, _)| &n * size);
    let (n, n_reduced) = (count(&kept), count(&reduced));
    let contiguous = matches!(reduced[..], [(_, [Dim::Known(1)])]);
    // Rows that follow one upon the other: those that are kept are one axis of that stride, or there is one row.
    let is_rows = contiguous && (kept.is_empty() || matches!(&kept[..], [(_, [stride])] if *stride == n_reduced));
    if let Some(held) = Held::of(node, &n_reduced, &[storage(ty)]).filter(|_| is_rows && kind != PRODUCT) {
        let call = node.call(of::RowReduce).operand(x).rows(n.clone()).n(n_reduced);
        return Ok(vec![held.call(call.kind(kind).reads_vectors(held.width), 1, &n)?]);
    }
    // Products in parts may overflow in one and vanish in another, and infinity times 0 is no number: one invocation
    // takes them in order.
    let readers = if kind == PRODUCT {
        Readers { group: Dim::Known(0), invocation: Dim::Known(1), longest: n_reduced.clone() }
    } else {
        Readers::of(&n_reduced, &n, !contiguous)
    };
    let part =
        |axes: Axes<1>| -> (Vec<Dim>, Vec<Dim>) { axes.into_iter().map(|(size, [stride])| (size, stride)).unzip() };
    let ((kd, ks), (rd, rs)) = (part(kept), part(reduced));
    let [start_low, start_high] = halves(start.bits(ty.dtype));
    let call = || {
        let call = node
            .call(of::Reduce)
            .operand(x)
            .n(n.clone())
            .n_reduced(n_reduced.clone())
            .start(start_low)
            .start_high(start_high)
            .kind(kind);
        let call = call.kd(kd.clone()).ks(ks.clone());
        let call = call.rd(rd.clone()).rs(rs.clone());
        // A mean of 64-bit integers divides bit by bit.
        let divides = kind == 1 && super::call::class_of(ty) == Value::Wide;
        if divides { call.each(1u64, WIDE_BITS) } else { call }
    };
    launch(call, &readers, &n, &Row { n: n_reduced.clone(), passes: 1, puts_all: false })
}

/// The axis of a row operator, and sizes before, of and after it.
fn split(node: &Node<'_>, own: &[Dim]) -> Result<(Dim, Dim, Dim), KernelError> {
    let axis = node.attrs.int("axis").and_then(|axis| usize::try_from(axis).ok()).filter(|&axis| axis < own.len());
    let axis = axis.ok_or_else(|| node.unsupported(format!("the axis {:?}", node.attrs.int("axis"))))?;
    Ok((product(&own[..axis]), own[axis].clone(), product(&own[axis + 1..])))
}

pub(super) fn softmax(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    if ty.packing.is_some() || !ty.dtype.is_float() {
        return Err(node.unsupported(format!("a softmax of {ty}")));
    }
    let (outer, n, inner) = split(node, &dims(ty))?;
    let rows = &outer * &inner;
    let log = node.attrs.int("log").unwrap_or(0) != 0;
    let storages = [storage(ty), storage(node.result)];
    if let Some(held) = Held::of(node, &n, &storages).filter(|_| inner == Dim::Known(1)) {
        let call = node.call(of::RowSoftmax).operand(x).rows(rows.clone()).n(n);
        return Ok(vec![held.call(held.puts(call.log(log)), 2, &rows)?]);
    }
    let readers = Readers::of(&n, &rows, inner != Dim::Known(1));
    let call = || {
        let call = node.call(of::Softmax).operand(x).rows(rows.clone()).n(n.clone()).inner(inner.clone());
        call.log(log)
    };
    launch(call, &readers, &rows, &Row { n: n.clone(), passes: 3, puts_all: true })
}

pub(super) fn norm(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let (x, ty) = node.operand(0)?;
    let rms = match node.attrs.str("kind") {
        Some("layer") => false,
        Some("rms") => true,
        other => return Err(node.unsupported(format!("a norm of kind {other:?}"))),
    };
    let (rows, size, inner) = split(node, &dims(ty))?;
    let n = &size * &inner;
    let vector = |slot: usize| node.own.get(slot).copied().flatten();
    for value in [vector(1), vector(2)].into_iter().flatten() {
        let ty = node.graph.ty(value);
        if ty.packing.is_some() || !ty.dtype.is_float() || !agree(&ty.shape.volume(), &n) {
            return Err(node.unsupported(format!("a norm of rows of {n} with {ty}")));
        }
    }
    let epsilon = node.attrs.float("epsilon").unwrap_or(1e-5);
    if let Some(held) = Held::of(node, &n, &[storage(ty), storage(node.result)]) {
        let call = node.call(of::RowNorm).operand(x).optional(vector(1)).optional(vector(2));
        let call = call.rows(rows.clone()).n(n).epsilon(epsilon).rms(rms);
        return Ok(vec![held.call(held.puts(call), if rms { 1 } else { 2 }, &rows)?]);
    }
    let call = || {
        let call = node.call(of::Norm).operand(x).optional(vector(1)).optional(vector(2));
        call.rows(rows.clone()).n(n.clone()).epsilon(epsilon).rms(rms)
    };
    let row = Row { n: n.clone(), passes: if rms { 3 } else { 4 }, puts_all: true };
    launch(call, &Readers::of(&n, &rows, false), &rows, &row)
}
