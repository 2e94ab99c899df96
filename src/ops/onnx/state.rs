//! ONNX operators that carry a state from one call to the next: causal convolution, linear attention.

use crate::ir::{Attrs, DType, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Val, attr};
use crate::ops::compose::{concat, dims, matmul, part, reduce, sizes};
use crate::ops::core::window::Window;
use crate::ops::core::{conv, pointwise, reshape};

/// Most steps that are written out one after the other.
pub const MAX_STEPS: usize = 1024;

/// `causal_conv_with_state(x, w, bias?, past?) {activation}`: ONNX CausalConvWithState, opset 27: x `[N,C,L]`, w
/// `[C,1,k]`, past `[N,C,k-1]`; the result and the last k - 1 elements that were read.
pub static CAUSAL_CONV: OpDef = OpDef {
    name: "causal_conv_with_state",
    onnx: "CausalConvWithState",
    levels: ONNX,
    attrs: &[attr::text("activation")],
    arity: (2, 4),
    infer: &infer_conv,
    eval: None,
    expand: Some(&expand_conv),
    weights: None,
    gradient: None,
};

/// `linear_attention(query, key, value, past?, decay?, beta?) {q_num_heads, kv_num_heads, scale, update_rule}`: ONNX
/// LinearAttention, opset 27.
pub static LINEAR_ATTENTION: OpDef = OpDef {
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
    infer: &infer_attention,
    eval: None,
    expand: Some(&expand_attention),
    weights: None,
    gradient: None,
};

fn infer_conv(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, w) = (infer.ty(0)?, infer.ty(1)?);
    let (own, kernel) = (sizes(0, x)?, sizes(1, w)?);
    let (&[n, c, _], &[filters, 1, k]) = (&own[..], &kernel[..]) else {
        return Err(OpError::operand(1, w, format!("[C,1,k] for {x}")));
    };
    if !x.dtype.is_float() || x.packing.is_some() || filters != c || k == 0 {
        return Err(OpError::operand(1, w, format!("[{c},1,k]")));
    }
    for (slot, expected) in [(2, vec![c]), (3, vec![n, c, k - 1])] {
        if let Some(Some(ty)) = infer.inputs.get(slot)
            && ty.shape != Shape::of(&expected)
        {
            return Err(OpError::operand(slot, ty, Shape::of(&expected)));
        }
    }
    if !matches!(infer.attrs.str("activation"), None | Some("none" | "silu" | "swish")) {
        return Err(OpError::attribute("activation", format!("is {:?}", infer.attrs.str("activation"))));
    }
    Ok(vec![x.clone(), TensorType::of(x.dtype, &[n, c, k - 1])])
}

fn zeros(e: &mut Expand<'_, '_>, dtype: DType, dims_of: &[usize]) -> Result<Val, OpError> {
    let zero = Tensor::from_f32s(dtype, &[1], &[0.0])?;
    let zero = e.constant(zero);
    crate::ops::onnx::movement::broadcast_to(e, zero, dims(dims_of))
}

fn expand_conv(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (x, w, bias) = (e.input(0)?, e.input(1)?, e.optional(2));
    let ty = e.ty(x);
    let (own, k) = (sizes(0, &ty)?, sizes(1, &e.ty(w))?[2]);
    let (n, c, len) = (own[0], own[1], own[2]);
    let mut read = x;
    if k > 1 {
        let past = match e.optional(3) {
            Some(past) => past,
            None => zeros(e, ty.dtype, &[n, c, k - 1])?,
        };
        read = concat(e, &[past, x], 2)?;
    }
    let planes = reshape::to(e, read, dims(&[n, c, 1, len + k - 1]))?;
    let filters = reshape::to(e, w, dims(&[c, 1, 1, k]))?;
    let window =
        Window { kernel: vec![1, k as i64], strides: vec![1; 2], pads: vec![0; 4], dilations: vec![1; 2], ceil: false };
    let mut y = e.add(&conv::DEF, window.write(Attrs::new()).with_int("group", c as i64), &[planes, filters])?;
    y = reshape::to(e, y, ty.shape.0)?;
    let sum = if bias.is_some() { "add(x0,x1)" } else { "x0" };
    let text = if matches!(e.attrs.str("activation"), Some("silu" | "swish")) {
        format!("mul({sum},sigmoid({sum}))")
    } else {
        sum.to_owned()
    };
    if text != "x0" {
        let bias = bias.map(|bias| reshape::to(e, bias, dims(&[c, 1]))).transpose()?;
        let operands: Vec<Val> = [y].into_iter().chain(bias).collect();
        y = pointwise::add(e, &text, ty.dtype, &operands)?;
    }
    let state = part(e, read, 2, len as i64, k as i64 - 1)?;
    Ok(vec![y, state])
}

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

fn infer_attention(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
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
fn expand_attention(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
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
        Some(past) => pointwise::add(e, "x0", DType::F32, &[past])?,
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
            state = pointwise::add(e, "mul(x0,exp(x1))", DType::F32, &[state, decay])?;
        }
        if delta {
            let beta = e.input(5)?;
            let wide = e.ty(beta).shape.0[2] == Dim::Known(h.keys as i64);
            let beta = at(e, beta, [h.batch, if wide { h.keys } else { 1 }, 1, 1])?;
            let product = pointwise::add(e, "mul(x0,x1)", DType::F32, &[state, k])?;
            let known = reduce(e, "sum", product, &[2], true)?;
            v = pointwise::add(e, "mul(x2,sub(x0,x1))", DType::F32, &[v, known, beta])?;
        }
        state = pointwise::add(e, "add(x0,mul(x1,x2))", DType::F32, &[state, k, v])?;
        let q = pointwise::add(e, "x0", DType::F32, &[q])?;
        let y = matmul(e, q, state, false)?;
        let y = pointwise::add(e, &format!("mul(x0,{scale:?})"), types[0].dtype, &[y])?;
        rows.push(reshape::to(e, y, dims(&[h.batch, 1, h.queries * h.value_size]))?);
    }
    let y = concat(e, &rows, 1)?;
    let dtype = e.outputs.get(1).map_or(types[0].dtype, |ty| ty.dtype);
    let state = pointwise::add(e, "x0", dtype, &[state])?;
    Ok(vec![y, state])
}
