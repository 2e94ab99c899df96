//! `dot_product_attention` and its parts: the softmax of scaled scores times the values, as one operator of the core.
//!
//! ONNX's Attention is written as this (`attention.rs`). Where no kernel covers it, it is written as products around a
//! softmax (`attention_products.rs`). The reference has all scores of a query, subtracts their maximum and adds up in
//! f64.

use crate::ir::{
    Attrs, CORE, Class, DType, Differentiate, Dim, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor,
    TensorType, attr, product,
};
use crate::ops::util::{
    agree, broadcast, class_of, dims_attr, finish_floats, ints_attr, n_elems, operand, result, split_own,
};
use rayon::prelude::*;
use std::borrow::Cow;

/// `dot_product_attention(q, k, v, mask?, lengths?, parts?) {scale, softcap, left, right, offset, zero_masked,
/// heads_last, dtype, epilogue}`: `softmax(cap(q x k^T * scale) + mask) x v` for each head.
///
/// q is `[batch, heads, queries, head size]`, k and v are `[batch, heads of k, keys, head size]` (v's own); each head
/// of k and v serves as many neighbouring ones of q as q has more of them. `heads_last` says of q, k, v and the result,
/// 1 or 0 each, whether heads and sequence are the other way round. The mask, floats that are added or truth values of
/// what is seen, broadcasts to `[batch, heads, queries, keys]`. Query `i` stands at the place `offset + i` among the
/// keys, or at `lengths[batch] - queries + i`, and sees the keys from `left` before it to `right` behind it, all where
/// absent, of the first `lengths[batch]`; others take no part. A query all of whose scores are minus infinity gives
/// NaN, zeros with `zero_masked`. `parts` are those of the same attention, for a kernel that only joins them.
pub static DEF: OpDef = OpDef {
    name: "dot_product_attention",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::float("scale"),
        attr::float("softcap"),
        attr::int("left"),
        attr::int("right"),
        attr::sizes("offset"),
        attr::int("zero_masked"),
        attr::ints("heads_last"),
        attr::dtype("dtype"),
        attr::expr("epilogue"),
    ],
    arity: (3, 6),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: Some(&gradient),
};

/// `attention_parts(q, k, v, mask?, lengths?) {..., chunk}`: the same by chunks of `chunk` keys, for at most [`FEW`]
/// queries: f32 `[batch, heads, queries, chunks, head size of v + 2]`, the sum of values weighted by `exp(score -
/// largest)`, the largest score, the sum of the weights. For more queries there are none.
pub static PARTS: OpDef = OpDef {
    name: "attention_parts",
    onnx: "",
    levels: CORE | KERNEL,
    attrs: &[
        attr::float("scale"),
        attr::float("softcap"),
        attr::int("left"),
        attr::int("right"),
        attr::sizes("offset"),
        attr::int("zero_masked"),
        attr::ints("heads_last"),
        attr::int("chunk"),
    ],
    arity: (3, 5),
    infer: &infer_parts,
    eval: Some(&eval_parts),
    expand: None,
    weights: None,
    gradient: None,
};

/// Most queries whose keys are divided among workgroups.
pub const FEW: i64 = 8;
/// The slots of the optional operands.
pub const MASK: usize = 3;
/// How many keys of each sequence count.
pub const LENGTHS: usize = 4;
/// What a kernel only joins.
pub const PARTS_SLOT: usize = 5;

/// Sizes of an attention.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "each name is its own documentation")]
pub struct Sizes {
    pub batch: Dim,
    pub heads: Dim,
    pub kv_heads: Dim,
    /// Heads of q that share one of k and v.
    pub repeats: Dim,
    pub queries: Dim,
    pub keys: Dim,
    /// Of q and k.
    pub head: Dim,
    /// Of v and the result.
    pub v_head: Dim,
    /// Whether the heads of q, k, v and the result come after the sequence.
    pub heads_last: [bool; 4],
}

/// Sizes `[batch, heads, sequence, head size]` of an operand in either order.
fn by_head(dims: &[Dim], heads_last: bool) -> Option<[Dim; 4]> {
    let [batch, a, b, size] = dims else { return None };
    let (heads, len) = if heads_last { (b, a) } else { (a, b) };
    Some([batch.clone(), heads.clone(), len.clone(), size.clone()])
}

impl Sizes {
    /// The sizes of operands of these types.
    ///
    /// # Errors
    /// They do not fit together.
    pub fn of(attrs: &Attrs, types: &[Option<&TensorType>]) -> Result<Sizes, OpError> {
        let mut heads_last = [false; 4];
        if let Some(given) = attrs.ints("heads_last") {
            if given.len() != 4 || given.iter().any(|v| !matches!(v, 0 | 1)) {
                return Err(OpError::attribute("heads_last", format!("is {given:?}, expected 0 or 1 four times")));
            }
            heads_last.iter_mut().zip(given).for_each(|(slot, v)| *slot = *v == 1);
        }
        let of = |slot: usize| {
            let ty = types.get(slot).copied().flatten().ok_or(OpError::MissingOperand { slot })?;
            let is_float = class_of(ty) == Class::Float && ty.packing.is_none();
            let dims = by_head(&ty.shape.0, heads_last[slot]).filter(|_| is_float);
            dims.map(|dims| (ty, dims)).ok_or_else(|| OpError::operand(slot, ty, "floats of 4 axes"))
        };
        let ((_, [batch, heads, queries, head]), (k_ty, k), (v_ty, v)) = (of(0)?, of(1)?, of(2)?);
        let [k_batch, kv_heads, keys, k_head] = k;
        let [v_batch, v_heads, v_keys, v_head] = v;
        for (slot, ty, pairs) in [
            (1, k_ty, vec![(&k_batch, &batch), (&k_head, &head)]),
            (2, v_ty, vec![(&v_batch, &batch), (&v_heads, &kv_heads), (&v_keys, &keys)]),
        ] {
            if let Some((given, wanted)) = pairs.into_iter().find(|(given, wanted)| !agree(given, wanted)) {
                return Err(OpError::operand(slot, ty, format!("{wanted} where it has {given}")));
            }
        }
        let repeats = heads.floor_div(&kv_heads).filter(|n| (n * &kv_heads) == heads);
        let repeats = repeats.ok_or_else(|| OpError::operand(1, k_ty, format!("heads that divide {heads}")))?;
        Ok(Sizes { batch, heads, kv_heads, repeats, queries, keys, head, v_head, heads_last })
    }

    /// The shape of the scores.
    pub fn scores(&self) -> Shape {
        Shape(vec![self.batch.clone(), self.heads.clone(), self.queries.clone(), self.keys.clone()])
    }

    /// The shape of the result.
    pub fn result(&self) -> Shape {
        let (batch, size) = (self.batch.clone(), self.v_head.clone());
        Shape(if self.heads_last[3] {
            vec![batch, self.queries.clone(), self.heads.clone(), size]
        } else {
            vec![batch, self.heads.clone(), self.queries.clone(), size]
        })
    }

    /// Strides in elements from one batch, head and place of the sequence to the next, of q, k, v or the result (3).
    pub fn strides(&self, operand: usize) -> [Dim; 3] {
        let kv = [1, 2].contains(&operand);
        let (heads, len) = if kv { (&self.kv_heads, &self.keys) } else { (&self.heads, &self.queries) };
        let size = if operand < 2 { &self.head } else { &self.v_head };
        let whole = product(&[heads.clone(), len.clone(), size.clone()]);
        if self.heads_last[operand] { [whole, size.clone(), heads * size] } else { [whole, len * size, size.clone()] }
    }

    /// As many queries as have parts, and how many.
    fn parts(&self, chunk: i64) -> Vec<Dim> {
        let few = if self.queries.known().is_some_and(|n| n > FEW) {
            Dim::Known(0)
        } else {
            let is_few = Dim::Known(FEW).floor_div(&Dim::larger(&self.queries, &Dim::Known(1)));
            &Dim::least(&self.queries, &Dim::Known(FEW)) * &Dim::least(&is_few.unwrap_or(Dim::Known(0)), &Dim::Known(1))
        };
        let chunks = self.keys.div_ceil(chunk.unsigned_abs());
        vec![self.batch.clone(), self.heads.clone(), few, chunks, &self.v_head + &Dim::Known(2)]
    }
}

/// The chunk of [`PARTS`].
///
/// # Errors
/// It is missing or not positive.
pub fn chunk(attrs: &Attrs) -> Result<i64, OpError> {
    attrs.int("chunk").filter(|n| *n > 0).ok_or_else(|| OpError::attribute("chunk", "is no positive integer"))
}

/// The place of the first query among the keys.
pub fn offset(attrs: &Attrs) -> Dim {
    dims_attr(attrs, "offset").and_then(|dims| dims.first().cloned()).unwrap_or(Dim::Known(0))
}

/// The attributes that say what is attended to, without those of the result.
pub fn of_scores(attrs: &Attrs) -> Attrs {
    let mut own = attrs.clone();
    own.0.retain(|name, _| !matches!(name.as_str(), "dtype" | "epilogue" | "chunk"));
    own
}

fn checked(attrs: &Attrs, own: &[Option<&TensorType>]) -> Result<Sizes, OpError> {
    let sizes = Sizes::of(attrs, own)?;
    for name in ["left", "right"] {
        if let Some(value) = attrs.int(name).filter(|v| *v < 0) {
            return Err(OpError::attribute(name, format!("is {value}")));
        }
    }
    let scores = sizes.scores();
    if let Some(mask) = own.get(MASK).copied().flatten()
        && (!matches!(class_of(mask), Class::Float | Class::Bool)
            || mask.packing.is_some()
            || broadcast(&[&mask.shape, &scores])? != scores)
    {
        return Err(OpError::operand(MASK, mask, format!("floats or truth values that broadcast to {scores}")));
    }
    if let Some(lengths) = own.get(LENGTHS).copied().flatten()
        && (lengths.dtype != DType::I32 || lengths.shape.0 != [sizes.batch.clone()])
    {
        return Err(OpError::operand(LENGTHS, lengths, format!("i32[{}]", sizes.batch)));
    }
    Ok(sizes)
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (own, _) = split_own(infer.attrs, infer.inputs);
    let sizes = checked(infer.attrs, own)?;
    if let Some(parts) = own.get(PARTS_SLOT).copied().flatten() {
        let [batch, heads, _, _, size] = &parts.shape.0[..] else {
            return Err(OpError::operand(PARTS_SLOT, parts, "parts of 5 axes"));
        };
        let fits = parts.dtype == DType::F32
            && parts.packing.is_none()
            && [(batch, &sizes.batch), (heads, &sizes.heads), (size, &(&sizes.v_head + &Dim::Known(2)))]
                .iter()
                .all(|(given, wanted)| agree(given, wanted));
        if !fits {
            return Err(OpError::operand(PARTS_SLOT, parts, "the parts of this attention"));
        }
    }
    result(infer, Class::Float, infer.ty(0)?.dtype, sizes.result())
}

fn infer_parts(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let sizes = checked(infer.attrs, infer.inputs)?;
    Ok(vec![TensorType::new(DType::F32, Shape(sizes.parts(chunk(infer.attrs)?)))])
}

/// A mask, read at scores.
enum Mask<'a> {
    /// What is added.
    Added(Cow<'a, [f32]>),
    /// What is seen.
    Seen(Vec<i64>),
}

/// All that is known of the scores, with known sizes.
struct Scores<'a> {
    batch: usize,
    heads: usize,
    repeats: usize,
    queries: usize,
    keys: usize,
    head: usize,
    v_head: usize,
    /// Of q, k and v: batch, head and place of the sequence.
    strides: [[usize; 3]; 3],
    q: Cow<'a, [f32]>,
    k: Cow<'a, [f32]>,
    v: Cow<'a, [f32]>,
    mask: Option<(Mask<'a>, Vec<usize>)>,
    lengths: Option<Vec<i64>>,
    scale: f32,
    softcap: f32,
    left: Option<i64>,
    right: Option<i64>,
    offset: i64,
}

impl<'a> Scores<'a> {
    fn of(attrs: &Attrs, own: &[Option<&'a Tensor>]) -> Result<Scores<'a>, OpError> {
        let types: Vec<Option<&TensorType>> = own.iter().map(|t| t.map(Tensor::ty)).collect();
        let sizes = checked(attrs, &types)?;
        let known = |dim: &Dim| {
            let n = dim.known().and_then(|n| usize::try_from(n).ok());
            n.ok_or_else(|| OpError::unsupported(format!("an attention with the size {dim}")))
        };
        let mut strides = [[0; 3]; 3];
        for (slot, own) in strides.iter_mut().enumerate() {
            for (stride, dim) in own.iter_mut().zip(sizes.strides(slot)) {
                *stride = known(&dim)?;
            }
        }
        let [batch, heads, queries, keys] = [&sizes.batch, &sizes.heads, &sizes.queries, &sizes.keys].map(known);
        let (batch, heads, queries, keys) = (batch?, heads?, queries?, keys?);
        let mask = match own.get(MASK).copied().flatten() {
            Some(mask) => {
                let places = crate::ops::util::broadcast_strides(&mask.dims(), &[batch, heads, queries, keys]);
                let is_bool = class_of(mask.ty()) == Class::Bool;
                let mask = if is_bool { Mask::Seen(mask.to_i64s()?) } else { Mask::Added(mask.to_f32s()?) };
                Some((mask, places))
            }
            None => None,
        };
        let lengths = own.get(LENGTHS).copied().flatten();
        Ok(Scores {
            batch,
            heads,
            repeats: known(&sizes.repeats)?,
            queries,
            keys,
            head: known(&sizes.head)?,
            v_head: known(&sizes.v_head)?,
            strides,
            q: operand(own, 0)?.to_f32s()?,
            k: operand(own, 1)?.to_f32s()?,
            v: operand(own, 2)?.to_f32s()?,
            mask,
            lengths: lengths.map(Tensor::to_i64s).transpose()?,
            scale: attrs.float("scale").unwrap_or(1.0),
            softcap: attrs.float("softcap").unwrap_or(0.0),
            left: attrs.int("left"),
            right: attrs.int("right"),
            offset: ints_attr(attrs, "offset")?.and_then(|v| v.first().copied()).unwrap_or(0),
        })
    }

    /// The keys that query `row` of batch `b` sees.
    fn seen(&self, b: usize, row: usize) -> std::ops::Range<usize> {
        let length = self.lengths.as_ref().and_then(|lengths| lengths.get(b).copied());
        let place = row as i64 + length.map_or(self.offset, |n| n.saturating_sub(self.queries as i64));
        let end = length.unwrap_or(i64::MAX).min(self.keys as i64);
        let end = self.right.map_or(end, |right| end.min(place.saturating_add(right).saturating_add(1)));
        let start = self.left.map_or(0, |left| place.saturating_sub(left).max(0));
        let [start, end] = [start, end.max(0)].map(|n| usize::try_from(n).unwrap_or(0));
        start.min(end)..end
    }

    /// The scores of a query over the keys of `range`.
    fn row(&self, [b, h, row]: [usize; 3], range: std::ops::Range<usize>) -> Vec<f32> {
        let at = |operand: usize, head: usize, place: usize| {
            let [batch, heads, places] = self.strides[operand];
            b * batch + head * heads + place * places
        };
        let q = &self.q[at(0, h, row)..][..self.head];
        let score = |key: usize| {
            let k = &self.k[at(1, h / self.repeats, key)..][..self.head];
            let sum: f64 = q.iter().zip(k).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let mut score = sum as f32 * self.scale;
            if self.softcap > 0.0 {
                score = (f64::from(score) / f64::from(self.softcap)).tanh() as f32 * self.softcap;
            }
            let Some((mask, strides)) = &self.mask else { return score };
            let place = b * strides[0] + h * strides[1] + row * strides[2] + key * strides[3];
            score
                + match mask {
                    Mask::Added(values) => values[place],
                    Mask::Seen(values) if values[place] != 0 => 0.0,
                    Mask::Seen(_) => f32::NEG_INFINITY,
                }
        };
        range.map(score).collect()
    }

    /// Adds to `sums` the values of the keys from `first` on, weighted.
    fn weighted(&self, [b, h]: [usize; 2], first: usize, weights: &[f64], sums: &mut [f64]) {
        let [batch, heads, places] = self.strides[2];
        for (i, weight) in weights.iter().enumerate() {
            let v = &self.v[b * batch + h / self.repeats * heads + (first + i) * places..][..self.v_head];
            sums.iter_mut().zip(v).for_each(|(sum, v)| *sum += weight * f64::from(*v));
        }
    }

    /// Batch, head and query number `i` of all.
    fn place(&self, i: usize) -> [usize; 3] {
        [i / self.queries / self.heads, i / self.queries % self.heads, i % self.queries]
    }
}

/// A maximum that keeps NaN; minus infinity of nothing.
fn largest(scores: &[f32]) -> f32 {
    scores.iter().fold(f32::NEG_INFINITY, |m, &v| if v > m || v.is_nan() { v } else { m })
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (own, extra) = split_own(attrs, inputs);
    let scores = Scores::of(attrs, own)?;
    let types: Vec<Option<&TensorType>> = own.iter().map(|t| t.map(Tensor::ty)).collect();
    let sizes = Sizes::of(attrs, &types)?;
    let zero_masked = attrs.int("zero_masked").unwrap_or(0) != 0;
    let dims = sizes.result().known().unwrap_or_default();
    let mut out = vec![0.0f32; n_elems(&dims)?];
    let rows = out.par_chunks_mut(scores.v_head.max(1)).enumerate();
    rows.for_each(|(i, out)| {
        // Rows of the result are in its order.
        let [b, h, row] = if sizes.heads_last[3] {
            let [b, row, h] = [i / scores.heads / scores.queries, i / scores.heads % scores.queries, i % scores.heads];
            [b, h, row]
        } else {
            scores.place(i)
        };
        let seen = scores.seen(b, row);
        let first = seen.start;
        let values = scores.row([b, h, row], seen);
        let max = largest(&values);
        if max == f32::NEG_INFINITY {
            out.fill(if zero_masked { 0.0 } else { f32::NAN });
            return;
        }
        let powers: Vec<f32> = values.iter().map(|v| (v - max).exp()).collect();
        let sum: f64 = powers.iter().map(|&v| f64::from(v)).sum();
        let weights: Vec<f64> = powers.iter().map(|&v| f64::from(v) / sum).collect();
        let mut sums = vec![0.0f64; scores.v_head];
        scores.weighted([b, h], first, &weights, &mut sums);
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
    });
    finish_floats(attrs, &dims, out, operand(own, 0)?.dtype(), extra)
}

fn eval_parts(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let scores = Scores::of(attrs, inputs)?;
    let types: Vec<Option<&TensorType>> = inputs.iter().map(|t| t.map(Tensor::ty)).collect();
    let chunk_dim = chunk(attrs)?;
    let dims = Shape(checked(attrs, &types)?.parts(chunk_dim)).known().unwrap_or_default();
    let [_, _, _, chunks, width] = dims[..] else { return Err(OpError::Bug("parts without sizes")) };
    let chunk = usize::try_from(chunk_dim).unwrap_or(1);
    let mut out = vec![0.0f32; n_elems(&dims)?];
    debug_assert!(out.len() <= scores.batch * scores.heads * scores.queries * chunks * width);
    out.par_chunks_mut(width.max(1)).enumerate().for_each(|(i, out)| {
        let [b, h, row] = scores.place(i / chunks);
        let (seen, first) = (scores.seen(b, row), i % chunks * chunk);
        let (start, end) = (seen.start.max(first), seen.end.min(first + chunk));
        let values = scores.row([b, h, row], start..end.max(start));
        let max = largest(&values);
        let shift = if max == f32::NEG_INFINITY { 0.0 } else { max };
        let weights: Vec<f64> = values.iter().map(|v| f64::from((v - shift).exp())).collect();
        let mut sums = vec![0.0f64; scores.v_head];
        scores.weighted([b, h], start, &weights, &mut sums);
        out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = *sum as f32);
        out[scores.v_head] = max;
        out[scores.v_head + 1] = weights.iter().sum::<f64>() as f32;
    });
    Ok(vec![crate::ops::util::f32s(DType::F32, &dims, out)?])
}

/// That of products around a softmax.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let dtype = d.ty(d.result()?).dtype;
    let written = crate::ops::core::attention_products::written_out(d, dtype)?;
    Ok(Gains::Written(vec![written.y]))
}
