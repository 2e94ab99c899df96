//! ONNX LinearAttention: attention by a state that is carried from step to step.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, DType, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::{concat, dims, matmul, part, reduce, sizes, zeros};
use crate::ops::core::{pointwise, reshape};

/// Most steps that are written out one after the other.
pub const MAX_STEPS: usize = 1024;

/// `linear_attention(query, key, value, past?, decay?, beta?) {q_num_heads, kv_num_heads, scale, update_rule}`: ONNX
/// LinearAttention, opset 27.
pub static DEF: OpDef = OpDef {
    name: "linear_attention",
    onnx: "LinearAttention",
    levels: ONNX,
    attrs: &[
        attr::int("q_num_heads"),
        attr::int("kv_num_heads"),
        attr::float("scale"),
        attr::text("update_rule"),
        attr::int("chunk_size"),
    ],
    arity: (3, 6),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

/// The sizes of linear attention.
struct Heads {
    batch: usize,
    steps: usize,
    queries: usize,
    keys: usize,
    key_size: usize,
    value_size: usize,
}

fn heads(attrs: &Attrs, types: [&TensorType; 3]) -> Result<Heads, OpError> {
    let count = |name: &'static str| {
        let n = attrs.int(name).and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 16).contains(n));
        n.ok_or_else(|| OpError::attribute(name, "is missing or out of range"))
    };
    let (queries, keys) = (count("q_num_heads")?, count("kv_num_heads")?);
    let mut own = Vec::new();
    for (slot, ty) in types.iter().enumerate() {
        own.push(sizes(slot, ty)?);
        if own[slot].len() != 3 || !ty.dtype.is_float() || ty.packing.is_some() || own[slot][..2] != own[0][..2] {
            return Err(OpError::operand(slot, ty, "floats [batch,steps,heads*size]"));
        }
    }
    let fits = queries.is_multiple_of(keys)
        && own[0][2].is_multiple_of(queries)
        && own[1][2].is_multiple_of(keys)
        && own[2][2].is_multiple_of(keys);
    let (key_size, value_size) = (own[1][2] / keys, own[2][2] / keys);
    if !fits || own[0][2] / queries != key_size || own[0][1] > MAX_STEPS {
        return Err(OpError::operand(
            0,
            types[0],
            format!(
                "{queries} heads of {key_size} over at most {MAX_STEPS} steps, as many as the {keys} of keys divide"
            ),
        ));
    }
    Ok(Heads { batch: own[0][0], steps: own[0][1], queries, keys, key_size, value_size })
}

fn rule(attrs: &Attrs) -> Result<(bool, bool), OpError> {
    match attrs.str("update_rule").unwrap_or("gated_delta") {
        "linear" => Ok((false, false)),
        "gated" => Ok((true, false)),
        "delta" => Ok((false, true)),
        "gated_delta" => Ok((true, true)),
        other => Err(OpError::attribute("update_rule", format!("is {other:?}"))),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let h = heads(infer.attrs, [infer.ty(0)?, infer.ty(1)?, infer.ty(2)?])?;
    let (gated, delta) = rule(infer.attrs)?;
    let state = Shape::of(&[h.batch, h.keys, h.key_size, h.value_size]);
    let dtype = match infer.inputs.get(3).copied().flatten() {
        Some(past) if past.shape != state => return Err(OpError::operand(3, past, state)),
        Some(past) => past.dtype,
        None => infer.ty(0)?.dtype,
    };
    for (slot, needed, widths) in [(4, gated, [h.keys, h.keys * h.key_size]), (5, delta, [1, h.keys])] {
        let fits = |ty: &TensorType| widths.iter().any(|&w| ty.shape == Shape::of(&[h.batch, h.steps, w]));
        if needed && !fits(infer.ty(slot)?) {
            return Err(OpError::operand(
                slot,
                infer.ty(slot)?,
                format!("[{},{},{}] or [..,{}]", h.batch, h.steps, widths[0], widths[1]),
            ));
        }
    }
    let y = TensorType::of(infer.ty(0)?.dtype, &[h.batch, h.steps, h.queries * h.value_size]);
    Ok(vec![y, TensorType::new(dtype, state)])
}

/// One step after the other; the state is f32 `[batch, heads of keys, key size, value size]`.
fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (query, key, value) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let types = [e.ty(query), e.ty(key), e.ty(value)];
    let h = heads(e.attrs, [&types[0], &types[1], &types[2]])?;
    let (gated, delta) = rule(e.attrs)?;
    let group = h.queries / h.keys;
    let scale = match e.attrs.float("scale").unwrap_or(0.0) {
        0.0 => 1.0 / (h.key_size as f32).sqrt(),
        scale => scale,
    };
    let mut state = match e.optional(3) {
        Some(past) => pointwise::add(e, arg(0), DType::F32, &[past])?,
        None => zeros(e, DType::F32, &[h.batch, h.keys, h.key_size, h.value_size])?,
    };
    let mut rows = Vec::new();
    for step in 0..h.steps as i64 {
        let at = |e: &mut Expand<'_, '_>, x: Val, shape: [usize; 4]| -> Result<Val, OpError> {
            let row = part(e, x, 1, step, 1)?;
            reshape::to(e, row, dims(&shape))
        };
        let q = at(e, query, [h.batch, h.keys, group, h.key_size])?;
        let k = at(e, key, [h.batch, h.keys, h.key_size, 1])?;
        let mut v = at(e, value, [h.batch, h.keys, 1, h.value_size])?;
        if gated {
            let decay = e.input(4)?;
            let wide = e.ty(decay).shape.0[2] != Dim::Known(h.keys as i64);
            let decay = at(e, decay, [h.batch, h.keys, if wide { h.key_size } else { 1 }, 1])?;
            state = pointwise::add(e, arg(0) * arg(1).exp(), DType::F32, &[state, decay])?;
        }
        if delta {
            let beta = e.input(5)?;
            let wide = e.ty(beta).shape.0[2] == Dim::Known(h.keys as i64);
            let beta = at(e, beta, [h.batch, if wide { h.keys } else { 1 }, 1, 1])?;
            let product = pointwise::add(e, arg(0) * arg(1), DType::F32, &[state, k])?;
            let known = reduce(e, "sum", product, &[2], true)?;
            v = pointwise::add(e, arg(2) * (arg(0) - arg(1)), DType::F32, &[v, known, beta])?;
        }
        state = pointwise::add(e, arg(0) + arg(1) * arg(2), DType::F32, &[state, k, v])?;
        let q = pointwise::add(e, arg(0), DType::F32, &[q])?;
        let y = matmul(e, q, state, false)?;
        let y = pointwise::add(e, arg(0) * scale, types[0].dtype, &[y])?;
        rows.push(reshape::to(e, y, dims(&[h.batch, 1, h.queries * h.value_size]))?);
    }
    let y = concat(e, &rows, 1)?;
    let dtype = e.outputs.get(1).map_or(types[0].dtype, |ty| ty.dtype);
    let state = pointwise::add(e, arg(0), dtype, &[state])?;
    Ok(vec![y, state])
}
