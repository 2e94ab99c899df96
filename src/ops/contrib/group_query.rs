//! Attention of com.microsoft: GroupQueryAttention with its cache, and RotaryEmbedding, both written in ONNX's own.
//!
//! The cache of step `b` of a batch holds `seqlens_k[b] + 1` keys once the new ones are in. How many of them were there
//! before is known only then, so new keys are put behind old ones by a look-up; that every query sees no key behind
//! itself is a mask that is computed.

use crate::ir::expr::build::{arg, float, select};
use crate::ir::{
    Attr, Attrs, Class, DType, Dim, Expand, Expr, Infer, Op, OpError, Shape, Tensor, TensorType, Val, attr,
};
use crate::ops::compose::{concat, dims, gather_within, part, positions, sizes};
use crate::ops::core::{pointwise, reshape};
use crate::ops::onnx::attention::{DEF as ATTENTION, ROTARY as ONNX_ROTARY};

written_out! {
    /// `group_query_attention(q, k?, v?, past_key?, past_value?, seqlens_k, total_length, cos?, sin?, position_ids?,
    /// bias?, sink?, _, _, q_norm?, k_norm?, query_lengths?) {...}`: GroupQueryAttention of com.microsoft, version 1,
    /// with up to four outputs: y, present key, present value, scores. The total length is a constant.
    DEF "group_query_attention" "com.microsoft::GroupQueryAttention" (7, 17)
        [attr::int("num_heads"), attr::int("kv_num_heads"), attr::int("causal"), attr::int("do_rotary"), attr::int("rotary_interleaved"),
         attr::int("local_window_size"), attr::float("scale"), attr::float("softcap"), attr::int("smooth_softmax"), attr::int("qk_output"),
         attr::int("sliding_window_cache"), attr::int("kv_cache_bit_width"), attr::text("k_quant_type"), attr::text("v_quant_type"),
         attr::float("qk_norm_epsilon"), attr::float("q_norm_epsilon"), attr::float("k_norm_epsilon")]
        infer, expand;
    /// `ms_rotary_embedding(x, position_ids, cos, sin) {interleaved, num_heads, rotary_embedding_dim, scale}`:
    /// RotaryEmbedding of com.microsoft, version 1. One position is that of the first of a sequence.
    ROTARY "ms_rotary_embedding" "com.microsoft::RotaryEmbedding" (4, 4)
        [attr::int("interleaved"), attr::int("num_heads"), attr::int("rotary_embedding_dim"), attr::int("is_packed_batching"), attr::float("scale")]
        infer_rotary, expand_rotary;
}

/// Slots of what one query head adds to the sum of its softmax, of the scales of its normalisations, and of the numbers
/// of queries that count.
const SINK: usize = 11;
const Q_NORM: usize = 14;
const K_NORM: usize = 15;
const QUERY_LENGTHS: usize = 16;
/// Most sequences of a batch, whose caches are put together one by one.
const MAX_BATCH: usize = 256;

/// All sizes.
struct Sizes {
    batch: usize,
    /// New keys and queries.
    len: usize,
    /// Keys that the cache had room for, and has now.
    past: usize,
    present: usize,
    /// Keys of the longest sequence, the new ones included.
    total: usize,
    heads: usize,
    kv_heads: usize,
    head: usize,
    /// Whether the new keys are the first.
    first: bool,
    /// Whether q holds q, k and v.
    joined: bool,
    /// Whether each softmax has a further term, which belongs to no key: that of a key and a value of zeros behind all
    /// others.
    sink: bool,
}

impl Sizes {
    fn of(attrs: &Attrs, types: &[Option<&TensorType>], total: i64) -> Result<Sizes, OpError> {
        let ty = |slot: usize| types.get(slot).copied().flatten();
        let count = |name: &'static str| {
            let given = attrs.int(name).and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 16).contains(n));
            given.ok_or_else(|| OpError::attribute(name, "is missing or out of range"))
        };
        let (heads, kv_heads) = (count("num_heads")?, count("kv_num_heads")?);
        let q = ty(0).ok_or(OpError::MissingOperand { slot: 0 })?;
        let own = sizes(0, q)?;
        let &[batch, len, width] = &own[..] else {
            return Err(OpError::operand(0, q, "[batch, sequence, heads * head size]"));
        };
        let joined = ty(1).is_none();
        let all = if joined { heads + 2 * kv_heads } else { heads };
        let head = width / all;
        if !q.dtype.is_float()
            || q.packing.is_some()
            || !width.is_multiple_of(all)
            || !heads.is_multiple_of(kv_heads)
            || batch > MAX_BATCH
        {
            return Err(OpError::operand(
                0,
                q,
                format!("floats of {all} heads, at most {MAX_BATCH} sequences, and heads that divide by {kv_heads}"),
            ));
        }
        for slot in if joined { 1..1 } else { 1..3 } {
            let expected = TensorType::of(q.dtype, &[batch, len, kv_heads * head]);
            if ty(slot) != Some(&expected) {
                return Err(OpError::operand(
                    slot,
                    ty(slot).map_or_else(|| "absent".to_owned(), ToString::to_string),
                    expected,
                ));
            }
        }
        let mut past = 0;
        if let Some(key) = ty(3) {
            let given = sizes(3, key)?;
            past = given.get(2).copied().unwrap_or(0);
            let expected = TensorType::of(q.dtype, &[batch, kv_heads, past, head]);
            for slot in [3, 4] {
                if ty(slot) != Some(&expected) {
                    return Err(OpError::operand(
                        slot,
                        ty(slot).map_or_else(|| "absent".to_owned(), ToString::to_string),
                        &expected,
                    ));
                }
            }
        }
        let total = usize::try_from(total).ok().filter(|t| (len..=past.saturating_add(len)).contains(t));
        let total = total.ok_or_else(|| OpError::operand(6, "a length", format!("{len} to {} keys", past + len)))?;
        let sink = ty(SINK).is_some() || attrs.int("smooth_softmax").unwrap_or(0) > 0;
        Ok(Sizes {
            batch,
            len,
            past,
            present: total.max(past),
            total,
            heads,
            kv_heads,
            head,
            // With lengths of the queries the total says nothing of how many keys there were.
            first: total == len && ty(QUERY_LENGTHS).is_none(),
            joined,
            sink,
        })
    }

    /// Keys of the attention: the cache, and that of the sink.
    fn keys(&self) -> usize {
        self.present + usize::from(self.sink)
    }
}

fn refuse_what_is_left_out(infer: &Infer<'_>) -> Result<(), OpError> {
    let refuse = |what: String| Err(OpError::unsupported(format!("GroupQueryAttention with {what} is not supported")));
    if infer.attrs.int("sliding_window_cache").unwrap_or(0) != 0 {
        return refuse("attribute sliding_window_cache 1: export with a cache that holds all keys".to_owned());
    }
    for name in ["k_quant_type", "v_quant_type"] {
        if let Some(value) = infer.attrs.str(name).filter(|v| *v != "NONE") {
            return refuse(format!("attribute {name} {value:?}: export with a cache of floats"));
        }
    }
    for (slot, name) in [(12, "k_scale"), (13, "v_scale")] {
        if infer.inputs.get(slot).copied().flatten().is_some() {
            return refuse(format!("operand {slot} ({name}): export with a cache of floats"));
        }
    }
    Ok(())
}

/// Refuses operands behind the bias that do not fit.
fn check_further(infer: &Infer<'_>, s: &Sizes) -> Result<(), OpError> {
    let dtype = infer.ty(0)?.dtype;
    for (slot, n) in [(SINK, s.heads), (Q_NORM, s.head), (K_NORM, s.head)] {
        if let Some(ty) = infer.inputs.get(slot).copied().flatten().filter(|ty| **ty != TensorType::of(dtype, &[n])) {
            return Err(OpError::operand(slot, ty, TensorType::of(dtype, &[n])));
        }
    }
    if let Some(ty) = infer.inputs.get(QUERY_LENGTHS).copied().flatten()
        && (ty.dtype.class() != Class::Int || ty.shape.n_elems() != Some(s.batch as u64) || s.past == 0)
    {
        return Err(OpError::operand(QUERY_LENGTHS, ty, format!("{} integers beside a cache", s.batch)));
    }
    Ok(())
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    refuse_what_is_left_out(infer)?;
    let total = infer.ints(6)?.and_then(|t| t.first().copied()).ok_or(OpError::MissingOperand { slot: 6 })?;
    let s = Sizes::of(infer.attrs, infer.inputs, total)?;
    check_further(infer, &s)?;
    let lengths = infer.ty(5)?;
    if lengths.dtype.class() != Class::Int || lengths.shape.n_elems() != Some(s.batch as u64) {
        return Err(OpError::operand(5, lengths, format!("{} integers", s.batch)));
    }
    let present = |slot: usize| infer.inputs.get(slot).copied().flatten();
    if infer.attrs.int("do_rotary").unwrap_or(0) != 0 {
        for slot in [7, 8] {
            if infer.ty(slot)?.shape.rank() != 2 {
                return Err(OpError::operand(slot, infer.ty(slot)?, "[positions, pairs]"));
            }
        }
    }
    if let Some(ids) = present(9).filter(|ids| ids.shape.n_elems() != Some((s.batch * s.len) as u64) && !s.first) {
        return Err(OpError::operand(9, ids, format!("[{},{}]", s.batch, s.len)));
    }
    // One bias a key, or one for each place that the cache has.
    let scores = [s.total, s.present].map(|keys| Shape::of(&[s.batch, s.heads, s.len, keys]));
    if let Some(bias) = present(10)
        && !scores
            .iter()
            .any(|scores| crate::ops::util::broadcast(&[&bias.shape, scores]).is_ok_and(|shape| shape == *scores))
    {
        return Err(OpError::operand(10, bias, format!("floats that broadcast to {}", scores[0])));
    }
    let kind = infer.attrs.int("qk_output").unwrap_or(0);
    if !(0..=2).contains(&kind) || kind == 0 && infer.n_outputs > 3 {
        return Err(OpError::attribute("qk_output", format!("is {kind} for {} outputs", infer.n_outputs)));
    }
    let dtype = infer.ty(0)?.dtype;
    let cache = TensorType::of(dtype, &[s.batch, s.kv_heads, s.present, s.head]);
    let scores = TensorType::of(dtype, &[s.batch, s.heads, s.len, s.total]);
    Ok([TensorType::of(dtype, &[s.batch, s.len, s.heads * s.head]), cache.clone(), cache, scores]
        .into_iter()
        .take(infer.n_outputs)
        .collect())
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let total = e.ints(6)?.and_then(|t| t.first().copied()).ok_or(OpError::MissingOperand { slot: 6 })?;
    let types: Vec<Option<TensorType>> = e.inputs.iter().map(|v| v.map(|v| e.edit.ty(v).clone())).collect();
    let s = Sizes::of(e.attrs, &types.iter().map(Option::as_ref).collect::<Vec<_>>(), total)?;
    let dtype = e.outputs[0].dtype;
    let q = e.input(0)?;
    let widths = [s.heads, s.kv_heads, s.kv_heads].map(|heads| heads * s.head);
    let [mut q, mut k, v] = if s.joined {
        let at = |which: usize| widths[..which].iter().sum::<usize>() as i64;
        [
            part(e, q, 2, 0, widths[0] as i64)?,
            part(e, q, 2, at(1), widths[1] as i64)?,
            part(e, q, 2, at(2), widths[2] as i64)?,
        ]
    } else {
        [q, e.input(1)?, e.input(2)?]
    };
    // Keys of each sequence before the new ones, [batch, 1].
    let lengths = e.input(5)?;
    let lengths = reshape::to(e, lengths, dims(&[s.batch, 1]))?;
    let before = if s.first {
        let none = Tensor::from_i64s(DType::I64, &[1, 1], &[0])?;
        e.constant(none)
    } else if let Some(queries) = e.optional(QUERY_LENGTHS) {
        let queries = reshape::to(e, queries, dims(&[s.batch, 1]))?;
        pointwise::add(e, arg(0) + 1 - arg(1), DType::I64, &[lengths, queries])?
    } else {
        pointwise::add(e, arg(0) + 1 - s.len as i64, DType::I64, &[lengths])?
    };
    q = normalised(e, &s, q, Q_NORM, s.heads)?;
    k = normalised(e, &s, k, K_NORM, s.kv_heads)?;
    if e.attrs.int("do_rotary").unwrap_or(0) != 0 {
        let ids = places(e, &s, before)?;
        let (cos, sin) = (e.input(7)?, e.input(8)?);
        let interleaved = e.attrs.int("rotary_interleaved").unwrap_or(0);
        q = rotated(e, q, [cos, sin, ids], s.heads, s.head, interleaved)?;
        k = rotated(e, k, [cos, sin, ids], s.kv_heads, s.head, interleaved)?;
    }
    let by_head = |e: &mut Expand<'_, '_>, x: Val, heads: usize| {
        let apart = reshape::to(e, x, dims(&[s.batch, s.len, heads, s.head]))?;
        crate::ops::onnx::movement::transpose(e, apart, &[0, 2, 1, 3])
    };
    let (q, k, v) = (by_head(e, q, s.heads)?, by_head(e, k, s.kv_heads)?, by_head(e, v, s.kv_heads)?);
    let past = [e.optional(3), e.optional(4)];
    let (key, value) = (cached(e, &s, past[0], k, before)?, cached(e, &s, past[1], v, before)?);

    let seen = Seen::of(e, &s, lengths, before)?;
    let mask = mask(e, &s, &seen)?;
    let mut attrs = Attrs::new();
    for name in ["scale", "softcap"] {
        if let Some(Attr::Float(value)) = e.attrs.get(name).filter(|v| **v != Attr::Float(0.0)) {
            attrs = attrs.with_float(name, *value);
        }
    }
    let kind = e.attrs.int("qk_output").unwrap_or(0);
    let n = if e.outputs.len() > 3 { 4 } else { 1 };
    if n == 4 {
        // Scores with the mask, or behind the softmax.
        attrs = attrs.with_int("qk_matmul_output_mode", if kind == 1 { 2 } else { 3 });
    }
    let [keys, values] = if s.sink {
        let behind = [(0, 0), (0, 0), (0, 1), (0, 0)];
        [
            crate::ops::onnx::pad::padded(e, key, &behind, crate::ops::core::strided::Fill::default())?,
            crate::ops::onnx::pad::padded(e, value, &behind, crate::ops::core::strided::Fill::default())?,
        ]
    } else {
        [key, value]
    };
    let operands = [q, keys, values, mask].map(Some);
    let attended = e.edit.add_all(Op::new(&ATTENTION, attrs), &operands, n).map_err(|e| OpError::Edit(Box::new(e)))?;
    let y = crate::ops::onnx::movement::transpose(e, attended[0], &[0, 2, 1, 3])?;
    let y = reshape::to(e, y, dims(&[s.batch, s.len, s.heads * s.head]))?;
    debug_assert_eq!(e.ty(y).dtype, dtype);
    let mut results = vec![y, key, value];
    if let Some(&scores) = attended.get(3) {
        // Keys that nobody sees have the score 0.
        let mut operands = seen.operands.clone();
        operands.push(scores);
        let expr = select(seen.expr, arg(operands.len() - 1), 0.0);
        let scores = if kind == 1 { pointwise::add(e, expr, dtype, &operands)? } else { scores };
        results.push(part(e, scores, 3, 0, s.total as i64)?);
    }
    results.truncate(e.outputs.len());
    Ok(results)
}

/// x `[batch, length, heads * head]` with each head divided by its root mean square and times the scale in `slot`,
/// where that is given.
fn normalised(e: &mut Expand<'_, '_>, s: &Sizes, x: Val, slot: usize, heads: usize) -> Result<Val, OpError> {
    let Some(scale) = e.optional(slot) else { return Ok(x) };
    let name = if slot == Q_NORM { "q_norm_epsilon" } else { "k_norm_epsilon" };
    let epsilon = e.attrs.float(name).or(e.attrs.float("qk_norm_epsilon")).unwrap_or(1e-6);
    let apart = reshape::to(e, x, dims(&[s.batch, s.len, heads, s.head]))?;
    let attrs = Attrs::new().with_int("axis", -1).with_float("epsilon", epsilon);
    let y = e.add(&crate::ops::onnx::normalization::RMS, attrs, &[apart, scale])?;
    reshape::to(e, y, dims(&[s.batch, s.len, heads * s.head]))
}

/// The position of each new key, [batch, length].
fn places(e: &mut Expand<'_, '_>, s: &Sizes, before: Val) -> Result<Val, OpError> {
    let (row, shape) = (positions(e, 2, 1, s.len, 1)?, dims(&[s.batch, s.len]));
    let ids = match e.optional(9) {
        // Of a first prompt only the first position is read.
        Some(ids) if s.first => {
            let n = e.ty(ids).shape.n_elems().unwrap_or(0);
            let flat = reshape::to(e, ids, vec![Dim::Known(n as i64)])?;
            let first = part(e, flat, 0, 0, 1)?;
            pointwise::add(e, arg(0) + arg(1), DType::I64, &[row, first])?
        }
        Some(ids) => reshape::to(e, ids, shape.clone())?,
        None => pointwise::add(e, arg(0) + arg(1), DType::I64, &[row, before])?,
    };
    crate::ops::onnx::movement::broadcast_to(e, ids, shape)
}

/// x `[batch, length, heads * head]` rotated; of `tables` the cosines, the sines and the positions.
fn rotated(
    e: &mut Expand<'_, '_>,
    x: Val,
    tables: [Val; 3],
    heads: usize,
    head: usize,
    interleaved: i64,
) -> Result<Val, OpError> {
    let rotary_dim = 2 * sizes(7, &e.ty(tables[0]))?.last().copied().unwrap_or(0);
    let attrs = Attrs::new().with_int("interleaved", interleaved).with_int("num_heads", heads as i64);
    let attrs = if rotary_dim < head { attrs.with_int("rotary_embedding_dim", rotary_dim as i64) } else { attrs };
    e.add(&ONNX_ROTARY, attrs, &[x, tables[0], tables[1], tables[2]])
}

/// The cache `[batch, heads, past, head]` with the new keys or values `[batch, heads, length, head]` behind the
/// `before` that it held.
fn cached(e: &mut Expand<'_, '_>, s: &Sizes, past: Option<Val>, new: Val, before: Val) -> Result<Val, OpError> {
    let Some(past) = past.filter(|_| s.past > 0) else { return Ok(new) };
    let behind = |n: usize| [(0, 0), (0, 0), (0, n as i64), (0, 0)];
    if s.first {
        // What the cache held is over; its room stays.
        let room = s.present - s.len;
        return if room == 0 {
            Ok(new)
        } else {
            crate::ops::onnx::pad::padded(e, new, &behind(room), crate::ops::core::strided::Fill::default())
        };
    }
    // Behind the new ones stand zeros.
    let new = crate::ops::onnx::pad::padded(e, new, &behind(1), crate::ops::core::strided::Fill::default())?;
    let both = concat(e, &[past, new], 2)?;
    let place = positions(e, 2, 1, s.present, 1)?;
    let (len, old) = (s.len as i64, s.past as i64);
    let expr = select(arg(0).below(arg(1)), arg(0), (arg(0) - arg(1)).min(len) + old);
    let from = pointwise::add(e, expr, DType::I64, &[place, before])?;
    let from = crate::ops::onnx::movement::broadcast_to(e, from, dims(&[s.batch, s.present]))?;
    let mut parts = Vec::with_capacity(s.batch);
    for b in 0..s.batch as i64 {
        let (own, from) = (part(e, both, 0, b, 1)?, part(e, from, 0, b, 1)?);
        let from = reshape::to(e, from, dims(&[s.present]))?;
        parts.push(gather_within(e, own, from, 2)?);
    }
    concat(e, &parts, 0)
}

/// Which keys a query sees: an expression of truth, and its operands, of which the first are the numbers of keys.
struct Seen {
    expr: Expr,
    operands: Vec<Val>,
}

impl Seen {
    fn of(e: &mut Expand<'_, '_>, s: &Sizes, lengths: Val, before: Val) -> Result<Seen, OpError> {
        let one = |e: &mut Expand<'_, '_>, x: Val| {
            let n = e.ty(x).shape.n_elems().unwrap_or(1) as usize;
            reshape::to(e, x, dims(&[n, 1, 1, 1]))
        };
        let (lengths, before) = (one(e, lengths)?, one(e, before)?);
        let (row, key) = (positions(e, 4, 2, s.len, 1)?, positions(e, 4, 3, s.keys(), 1)?);
        let mut operands = vec![key, row, before];
        let mut expr = if e.attrs.int("causal").unwrap_or(1) != 0 {
            arg(0).at_most(arg(1) + arg(2))
        } else {
            operands.push(lengths);
            arg(0).at_most(arg(3))
        };
        if let Some(window) = e.attrs.int("local_window_size").filter(|w| *w >= 0) {
            expr = expr.and((arg(1) + arg(2) - arg(0)).below(window));
        }
        Ok(Seen { expr, operands })
    }
}

/// What is added to the scores, `[batch, 1 or heads, length, keys]`.
fn mask(e: &mut Expand<'_, '_>, s: &Sizes, seen: &Seen) -> Result<Val, OpError> {
    let mut operands = seen.operands.clone();
    let otherwise = match e.optional(10) {
        Some(mut bias) => {
            // Nobody sees the places behind the last key.
            let own = e.ty(bias).shape;
            let last = own.0.last().and_then(Dim::known).and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
            if last > 1 && last < s.keys() {
                let behind = (0, (s.keys() - last) as i64);
                let pads: Vec<(i64, i64)> =
                    (1..=own.rank()).map(|axis| if axis == own.rank() { behind } else { (0, 0) }).collect();
                bias = crate::ops::onnx::pad::padded(e, bias, &pads, crate::ops::core::strided::Fill::default())?;
            }
            operands.push(bias);
            arg(operands.len() - 1)
        }
        None => float(0.0),
    };
    let mut expr = select(seen.expr.clone(), otherwise, f32::NEG_INFINITY);
    if s.sink {
        let sink = match e.optional(SINK) {
            Some(sink) => {
                operands.push(reshape::to(e, sink, dims(&[1, s.heads, 1, 1]))?);
                arg(operands.len() - 1)
            }
            // Of smooth softmax: the exponential of 0.
            None => float(0.0),
        };
        expr = select(arg(0).equals(s.present as i64), sink, expr);
    }
    pointwise::add(e, expr, e.outputs[0].dtype, &operands)
}

/// The attributes under which ONNX's operator does the same, and the shape of the positions.
fn rotary(attrs: &Attrs, types: &[Option<&TensorType>]) -> Result<(Attrs, Vec<usize>), OpError> {
    let ty = |slot: usize| types.get(slot).copied().flatten().ok_or(OpError::MissingOperand { slot });
    let (x, ids, cos) = (ty(0)?, ty(1)?, ty(2)?);
    for (name, otherwise) in [
        ("is_packed_batching", attrs.int("is_packed_batching").is_some_and(|v| v != 0)),
        ("scale", attrs.float("scale").is_some_and(|s| s != 1.0)),
    ] {
        if otherwise {
            return Err(OpError::attribute(name, "is given, which is not supported: export without it"));
        }
    }
    let own = sizes(0, x)?;
    let rotary_dim = attrs.int("rotary_embedding_dim").unwrap_or(0);
    let pairs = sizes(2, cos)?.last().copied().unwrap_or(0);
    let (batch, len, heads) = match own[..] {
        [batch, heads, len, _] => (batch, len, heads),
        [batch, len, width] => {
            // Without their number heads are as wide as the table.
            let given = attrs.int("num_heads").and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
            (batch, len, given.unwrap_or_else(|| width / (2 * pairs).max(1)))
        }
        _ => return Err(OpError::operand(0, x, "3 or 4 axes")),
    };
    let n = ids.shape.n_elems();
    if ids.dtype.class() != Class::Int || n != Some(1) && n != Some((batch * len) as u64) {
        return Err(OpError::operand(1, ids, format!("one integer, or [{batch},{len}]")));
    }
    let onnx =
        Attrs::new().with_int("interleaved", attrs.int("interleaved").unwrap_or(0)).with_int("num_heads", heads as i64);
    Ok((if rotary_dim > 0 { onnx.with_int("rotary_embedding_dim", rotary_dim) } else { onnx }, vec![batch, len]))
}

fn infer_rotary(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (attrs, places) = rotary(infer.attrs, infer.inputs)?;
    let ids = TensorType::of(DType::I64, &places);
    let inputs = [infer.inputs[0], infer.inputs[2], infer.inputs[3], Some(&ids)];
    (ONNX_ROTARY.infer)(&Infer { attrs: &attrs, inputs: &inputs, consts: &[None; 4], sizes: &[], n_outputs: 1 })
}

fn expand_rotary(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let types: Vec<Option<TensorType>> = e.inputs.iter().map(|v| v.map(|v| e.edit.ty(v).clone())).collect();
    let (attrs, places) = rotary(e.attrs, &types.iter().map(Option::as_ref).collect::<Vec<_>>())?;
    let (x, mut ids, cos, sin) = (e.input(0)?, e.input(1)?, e.input(2)?, e.input(3)?);
    if e.ty(ids).shape.n_elems() == Some(1) {
        let first = reshape::to(e, ids, Vec::new())?;
        let row = positions(e, 2, 1, places[1], 1)?;
        ids = pointwise::add(e, arg(0) + arg(1), DType::I64, &[row, first])?;
        ids = crate::ops::onnx::movement::broadcast_to(e, ids, dims(&places))?;
    } else {
        ids = reshape::to(e, ids, dims(&places))?;
    }
    Ok(vec![e.add(&ONNX_ROTARY, attrs, &[x, cos, sin, ids])?])
}
