//! `attention`: ONNX's scaled dot-product attention, written as the core's `dot_product_attention`; and the rotary
//! embedding before it.

use crate::ir::expr::build::arg;
use crate::ir::{
    Attrs, Class, DType, Dim, Expand, Expr, Infer, ONNX, Op, OpDef, OpError, Shape, Tensor, TensorType, Unary, Val,
    attr,
};
use crate::ops::compose::gather;
use crate::ops::core::strided::{Fill, View, row_major, view};
use crate::ops::core::{attention_products, concat, dot_product_attention, pointwise, reshape};
use crate::ops::onnx::movement;
use crate::ops::util::{agree, broadcast, class_of, dims_value};

/// `attention(q, k, v, attn_mask?, past_key?, past_value?, nonpad_kv_seqlen?)`: ONNX Attention, opset 25, with up to
/// four outputs: y, the present key and value, and what `qk_matmul_output_mode` says of the scores.
///
/// Operands are `[batch, heads, sequence, head size]`, or `[batch, sequence, heads * head size]` with the numbers of
/// heads as attributes. Fewer heads of k and v than of q serve several of q each. `zero_masked` (1 by default, as in
/// opset 25) says that a row whose keys are all masked out gives zeros; with 0 it gives NaN, as a softmax over nothing
/// but minus infinity does: what exporters wrote out is that.
pub static DEF: OpDef = OpDef {
    name: "attention",
    onnx: "Attention",
    levels: ONNX,
    attrs: &[
        attr::int("is_causal"),
        attr::int("kv_num_heads"),
        attr::int("left_window_size"),
        attr::int("q_num_heads"),
        attr::int("qk_matmul_output_mode"),
        attr::int("right_window_size"),
        attr::float("scale"),
        attr::float("softcap"),
        attr::dtype("softmax_precision"),
        attr::int("zero_masked"),
    ],
    arity: (3, 7),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

/// `rotary_embedding(x, cos_cache, sin_cache, position_ids?) {interleaved, num_heads, rotary_embedding_dim}`: ONNX
/// RotaryEmbedding, opset 23.
///
/// x is `[batch, heads, sequence, head size]` or `[batch, sequence, heads * head size]`; the caches are `[batch or 1,
/// sequence, pairs]`, or `[positions, pairs]` with `position_ids` `[batch, sequence]`.
pub static ROTARY: OpDef = OpDef {
    name: "rotary_embedding",
    onnx: "RotaryEmbedding",
    levels: ONNX,
    attrs: &[attr::int("interleaved"), attr::int("num_heads"), attr::int("rotary_embedding_dim")],
    arity: (3, 4),
    infer: &infer_rotary,
    eval: None,
    expand: Some(&expand_rotary),
    weights: None,
    gradient: None,
};

/// Sizes of an attention.
struct Sizes {
    batch: Dim,
    q_heads: Dim,
    kv_heads: Dim,
    /// Queries.
    q_len: Dim,
    /// Keys that are given, and those before them.
    kv_len: Dim,
    past_len: Dim,
    /// Of q and k, and of v.
    head: Dim,
    v_head: Dim,
    /// Whether the heads are contiguous in the last axis.
    flat: bool,
}

/// The size of each of `heads` contiguous heads in `all` elements.
fn head_size(slot: usize, all: &Dim, attrs: &Attrs, name: &'static str) -> Result<(Dim, Dim), OpError> {
    let heads = attrs
        .int(name)
        .filter(|n| *n > 0)
        .ok_or_else(|| OpError::attribute(name, "must be given for operands of 3 axes"))?;
    let each = all.floor_div(&Dim::Known(heads)).filter(|each| (each * &Dim::Known(heads)) == *all);
    each.map(|each| (Dim::Known(heads), each))
        .ok_or_else(|| OpError::operand(slot, all, format!("{heads} heads of equal size")))
}

impl Sizes {
    fn of(attrs: &Attrs, types: &[Option<&TensorType>]) -> Result<Sizes, OpError> {
        let ty = |slot: usize| types.get(slot).copied().flatten().ok_or(OpError::MissingOperand { slot });
        let [q, k, v] = [ty(0)?, ty(1)?, ty(2)?];
        for (slot, ty) in [(0, q), (1, k), (2, v)] {
            if class_of(ty) != Class::Float
                || ty.packing.is_some()
                || ty.shape.rank() != q.shape.rank()
                || !matches!(ty.shape.rank(), 3 | 4)
            {
                return Err(OpError::operand(slot, ty, "floats of 3 or 4 axes, all alike"));
            }
        }
        let sizes = if let ([batch, q_len, q_all], [_, kv_len, k_all], [_, _, v_all]) =
            (&q.shape.0[..], &k.shape.0[..], &v.shape.0[..])
        {
            let (q_heads, head) = head_size(0, q_all, attrs, "q_num_heads")?;
            let (kv_heads, k_head) = head_size(1, k_all, attrs, "kv_num_heads")?;
            let (_, v_head) = head_size(2, v_all, attrs, "kv_num_heads")?;
            same(1, k, &k_head, &head)?;
            let (batch, q_len, kv_len) = (batch.clone(), q_len.clone(), kv_len.clone());
            Sizes { batch, q_heads, kv_heads, q_len, kv_len, past_len: Dim::Known(0), head, v_head, flat: true }
        } else {
            let [q_dims, k_dims, v_dims] = [&q.shape.0, &k.shape.0, &v.shape.0];
            same(1, k, &k_dims[3], &q_dims[3])?;
            same(2, v, &v_dims[1], &k_dims[1])?;
            Sizes {
                batch: q_dims[0].clone(),
                q_heads: q_dims[1].clone(),
                kv_heads: k_dims[1].clone(),
                q_len: q_dims[2].clone(),
                kv_len: k_dims[2].clone(),
                past_len: Dim::Known(0),
                head: q_dims[3].clone(),
                v_head: v_dims[3].clone(),
                flat: false,
            }
        };
        let of_v = if sizes.flat { &v.shape.0[1] } else { &v.shape.0[2] };
        same(2, v, of_v, &sizes.kv_len)?;
        for (slot, ty) in [(1, k), (2, v)] {
            same(slot, ty, &ty.shape.0[0], &sizes.batch)?;
        }
        if sizes.repeats().is_none() {
            return Err(OpError::operand(1, k, format!("heads that divide the {} of q", sizes.q_heads)));
        }
        sizes.with_past(types)
    }

    /// The same after the keys of the cache.
    fn with_past(mut self, types: &[Option<&TensorType>]) -> Result<Sizes, OpError> {
        let present = |slot: usize| types.get(slot).copied().flatten();
        match (present(4), present(5)) {
            (None, None) => Ok(self),
            (Some(key), Some(value)) => {
                let past_len = key.shape.0.get(2).cloned().unwrap_or(Dim::Known(0));
                for (slot, ty, head) in [(4, key, &self.head), (5, value, &self.v_head)] {
                    let wanted = Shape(vec![self.batch.clone(), self.kv_heads.clone(), past_len.clone(), head.clone()]);
                    if ty.shape != wanted || class_of(ty) != Class::Float {
                        return Err(OpError::operand(slot, ty, format!("floats {wanted}")));
                    }
                }
                if let Some(ty) = present(6) {
                    return Err(OpError::operand(6, ty, "nothing beside past_key"));
                }
                self.past_len = past_len;
                Ok(self)
            }
            _ => Err(OpError::unsupported("past_key without past_value, or the other way round")),
        }
    }

    /// Heads of q that share one of k and v.
    fn repeats(&self) -> Option<Dim> {
        self.q_heads.floor_div(&self.kv_heads).filter(|r| (r * &self.kv_heads) == self.q_heads)
    }

    fn total_len(&self) -> Dim {
        &self.past_len + &self.kv_len
    }

    fn scores(&self) -> Shape {
        Shape(vec![self.batch.clone(), self.q_heads.clone(), self.q_len.clone(), self.total_len()])
    }
}

/// Whether a mask of `last` keys may end before all `total` of them: those beyond are masked out, also where it has but
/// one, which would broadcast in any other operator. `None` where at some size it has more than there are.
fn is_short(last: &Dim, total: &Dim) -> Option<bool> {
    let free = |dim: &Dim| dim.most().is_none();
    if last == total || free(last) || free(total) {
        return Some(false);
    }
    // One key broadcasts to none.
    ((total - last).bounds().0 >= 0 || *last == Dim::Known(1)).then_some(true)
}

fn same(slot: usize, ty: &TensorType, given: &Dim, wanted: &Dim) -> Result<(), OpError> {
    if !agree(given, wanted) {
        return Err(OpError::operand(slot, ty, format!("{wanted} where it has {given}")));
    }
    Ok(())
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let sizes = Sizes::of(infer.attrs, infer.inputs)?;
    let (dtype, v_dtype) = (infer.ty(0)?.dtype, infer.ty(2)?.dtype);
    let typed = |dtype: DType, dims: Vec<Dim>| TensorType::new(dtype, Shape(dims));
    for (name, most) in [("qk_matmul_output_mode", 3), ("left_window_size", i64::MAX), ("right_window_size", i64::MAX)]
    {
        if let Some(value) = infer.attrs.int(name).filter(|v| *v < -1 || *v > most) {
            return Err(OpError::attribute(name, format!("is {value}")));
        }
    }
    let scores = sizes.scores();
    if let Some(mask) = infer.inputs.get(3).copied().flatten() {
        let Some(last) = mask.shape.0.last().filter(|_| matches!(class_of(mask), Class::Float | Class::Bool)) else {
            return Err(OpError::operand(3, mask, format!("floats or truth values that broadcast to {scores}")));
        };
        let is_short = is_short(last, &sizes.total_len()).ok_or_else(|| {
            OpError::operand(3, mask, format!("at most as many keys as there are, {}, at all sizes", sizes.total_len()))
        })?;
        let lead = Shape([&mask.shape.0[..mask.shape.rank() - 1], &scores.0[3..]].concat());
        let whole = if is_short { &lead } else { &mask.shape };
        if broadcast(&[whole, &scores])? != scores {
            return Err(OpError::operand(3, mask, format!("floats or truth values that broadcast to {scores}")));
        }
    }
    if let Some(lengths) = infer.inputs.get(6).copied().flatten()
        && (lengths.shape.0 != [sizes.batch.clone()] || class_of(lengths) != Class::Int)
    {
        return Err(OpError::operand(6, lengths, format!("integers [{}]", sizes.batch)));
    }
    let y = if sizes.flat {
        vec![sizes.batch.clone(), sizes.q_len.clone(), &sizes.q_heads * &sizes.v_head]
    } else {
        vec![sizes.batch.clone(), sizes.q_heads.clone(), sizes.q_len.clone(), sizes.v_head.clone()]
    };
    let present = |head: &Dim| vec![sizes.batch.clone(), sizes.kv_heads.clone(), sizes.total_len(), head.clone()];
    let all = [
        typed(dtype, y),
        typed(dtype, present(&sizes.head)),
        typed(v_dtype, present(&sizes.v_head)),
        typed(dtype, scores.0),
    ];
    if infer.n_outputs > all.len() {
        return Err(OpError::unsupported(format!("{} outputs of an attention", infer.n_outputs)));
    }
    Ok(all.into_iter().take(infer.n_outputs).collect())
}

/// `[batch, sequence, heads * size]` as `[batch, heads, sequence, size]`.
fn by_head(e: &mut Expand<'_, '_>, x: Val, heads: &Dim, size: &Dim) -> Result<Val, OpError> {
    let dims = e.ty(x).shape.0;
    let [batch, len, _] = &dims[..] else { return Ok(x) };
    let apart = reshape::to(e, x, vec![batch.clone(), len.clone(), heads.clone(), size.clone()])?;
    movement::transpose(e, apart, &[0, 2, 1, 3])
}

/// A mask whose last axis has all keys; those that it lacks are masked out.
fn padded(e: &mut Expand<'_, '_>, mask: Val, total: &Dim) -> Result<Val, OpError> {
    let ty = e.ty(mask);
    let Some(last) = ty.shape.0.last().cloned() else { return Ok(mask) };
    if is_short(&last, total) != Some(true) {
        return Ok(mask);
    }
    let mut shape = ty.shape.0.clone();
    let inside = (vec![Dim::Known(0); shape.len()], shape.clone());
    if let Some(last) = shape.last_mut() {
        last.clone_from(total);
    }
    let fill = if class_of(&ty) == Class::Bool { Fill::Int(0) } else { Fill::Float(f32::NEG_INFINITY) };
    view(e, mask, &View { shape, strides: row_major(&ty.shape.0), inside: Some(inside), fill, ..View::default() })
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let types: Vec<Option<TensorType>> = e.inputs.iter().map(|v| v.map(|v| e.edit.ty(v).clone())).collect();
    let sizes = Sizes::of(e.attrs, &types.iter().map(Option::as_ref).collect::<Vec<_>>())?;
    let dtype = e.outputs[0].dtype;
    let (q, k, v) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let (q, mut k, mut v) = (
        by_head(e, q, &sizes.q_heads, &sizes.head)?,
        by_head(e, k, &sizes.kv_heads, &sizes.head)?,
        by_head(e, v, &sizes.kv_heads, &sizes.v_head)?,
    );
    if let (Some(past_key), Some(past_value)) = (e.optional(4), e.optional(5)) {
        k = e.add(&concat::DEF, Attrs::new().with_int("axis", 2), &[past_key, k])?;
        v = e.add(&concat::DEF, Attrs::new().with_int("axis", 2), &[past_value, v])?;
    }
    let mask = match e.optional(3) {
        Some(mask) => Some(padded(e, mask, &sizes.total_len())?),
        None => None,
    };
    let lengths = match e.optional(6) {
        Some(lengths) => Some(pointwise::add(e, Expr::unary(Unary::I32, arg(0)), DType::I32, &[lengths])?),
        None => None,
    };
    let attrs = core_attrs(e.attrs, &sizes)?;
    let mut inputs = vec![Some(q), Some(k), Some(v), mask, lengths];
    while inputs.last().is_some_and(Option::is_none) {
        inputs.pop();
    }
    let outputs = e.outputs.clone();
    let mut stages = Vec::new();
    // Products are computed in f64 where a model asks for it; the operator of the core is f32.
    let is_double = dtype == DType::F64 || inputs.iter().flatten().any(|v| e.ty(*v).dtype == DType::F64);
    let mut y = if outputs.len() > 3 || is_double {
        let inner = &mut Expand { edit: &mut *e.edit, attrs: &attrs, inputs, outputs: outputs.clone() };
        let written = attention_products::written_out(inner, dtype)?;
        stages.extend(written.stages);
        written.y
    } else {
        let op = Op::new(&dot_product_attention::DEF, attrs.with_dtype("dtype", dtype));
        let results = e.edit.add_all(op, &inputs, 1).map_err(|e| OpError::Edit(Box::new(e)))?;
        results.first().copied().ok_or(OpError::Bug("an attention without result"))?
    };
    if sizes.flat {
        y = movement::transpose(e, y, &[0, 2, 1, 3])?;
        y = reshape::to(e, y, outputs[0].shape.0.clone())?;
    }
    let mode = usize::try_from(e.attrs.int("qk_matmul_output_mode").unwrap_or(0)).unwrap_or(0);
    Ok([y, k, v].into_iter().chain(stages.get(mode).copied()).take(outputs.len()).collect())
}

/// The attributes of the core's operator.
fn core_attrs(own: &Attrs, sizes: &Sizes) -> Result<Attrs, OpError> {
    let size = sizes.head.known().ok_or_else(|| OpError::unsupported("heads whose size is not known"))?;
    let scale = own.float("scale").unwrap_or_else(|| (1.0 / (size as f64).sqrt()) as f32);
    let mut attrs = Attrs::new().with_float("scale", scale);
    if let Some(cap) = own.float("softcap").filter(|cap| *cap > 0.0) {
        attrs = attrs.with_float("softcap", cap);
    }
    let window = |name: &str| own.int(name).filter(|size| *size >= 0);
    let is_causal = own.int("is_causal").unwrap_or(0) != 0;
    if let Some(left) = window("left_window_size") {
        attrs = attrs.with_int("left", left);
    }
    if let Some(right) = if is_causal { Some(0) } else { window("right_window_size") } {
        attrs = attrs.with_int("right", right);
    }
    if sizes.past_len != Dim::Known(0) {
        attrs = attrs.with("offset", dims_value(std::slice::from_ref(&sizes.past_len)));
    }
    Ok(attrs.with_int("zero_masked", i64::from(own.int("zero_masked").unwrap_or(1) != 0)))
}

/// Sizes of a rotation: x `[batch, a, b, head]`, of which the first `2 * pairs` of the last axis are rotated.
struct Rotation {
    heads: Dim,
    head: Dim,
    pairs: Dim,
}

fn rotation(attrs: &Attrs, types: &[Option<&TensorType>]) -> Result<Rotation, OpError> {
    let ty = |slot: usize| types.get(slot).copied().flatten().ok_or(OpError::MissingOperand { slot });
    let [x, cos, sin] = [ty(0)?, ty(1)?, ty(2)?];
    for (slot, ty) in [(0, x), (1, cos), (2, sin)] {
        if class_of(ty) != Class::Float || ty.packing.is_some() {
            return Err(OpError::operand(slot, ty, "floats"));
        }
    }
    let (batch, len, (heads, head)) = match &x.shape.0[..] {
        [batch, heads, len, head] => (batch, len, (heads.clone(), head.clone())),
        [batch, len, all] => (batch, len, head_size(0, all, attrs, "num_heads")?),
        _ => return Err(OpError::operand(0, x, "3 or 4 axes")),
    };
    let rotary_dim = attrs.int("rotary_embedding_dim").filter(|n| *n > 0).map_or_else(|| head.clone(), Dim::Known);
    let pairs = rotary_dim.floor_div(&Dim::Known(2)).filter(|pairs| (pairs * &Dim::Known(2)) == rotary_dim);
    let pairs = pairs
        .ok_or_else(|| OpError::attribute("rotary_embedding_dim", format!("leaves {rotary_dim} elements to pair")))?;
    if let (Some(rotary_dim), Some(head)) = (rotary_dim.known(), head.known())
        && rotary_dim > head
    {
        return Err(OpError::attribute("rotary_embedding_dim", format!("is {rotary_dim} of {head}")));
    }
    let positions = types.get(3).copied().flatten();
    for (slot, ty) in [(1, cos), (2, sin)] {
        let fits = match (&ty.shape.0[..], positions) {
            ([_, n], Some(ids)) => {
                *n == pairs && class_of(ids) == Class::Int && ids.shape.0 == [batch.clone(), len.clone()]
            }
            ([b, s, n], None) => *n == pairs && s == len && (b == batch || *b == Dim::Known(1)),
            _ => false,
        };
        if !fits {
            return Err(OpError::operand(
                slot,
                ty,
                format!("[{batch}, {len}, {pairs}], or [positions, {pairs}] beside position_ids"),
            ));
        }
    }
    Ok(Rotation { heads, head, pairs })
}

fn infer_rotary(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    rotation(infer.attrs, infer.inputs)?;
    let x = infer.ty(0)?;
    Ok(vec![TensorType::new(x.dtype, x.shape.clone())])
}

/// Pairs as an axis of two: `x * cos + flipped * (-sin, sin)`, where each pair is flipped.
fn expand_rotary(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let types: Vec<Option<TensorType>> = e.inputs.iter().map(|v| v.map(|v| e.edit.ty(v).clone())).collect();
    let Rotation { heads, head, pairs } = rotation(e.attrs, &types.iter().map(Option::as_ref).collect::<Vec<_>>())?;
    let (x, dtype) = (e.input(0)?, e.outputs[0].dtype);
    let whole = e.ty(x).shape.0;
    let is_flat = whole.len() == 3;
    let interleaved = e.attrs.int("interleaved").unwrap_or(0) != 0;
    let lead = if is_flat { vec![whole[0].clone(), whole[1].clone(), heads] } else { whole[..3].to_vec() };
    let by_head = reshape::to(e, x, [lead.clone(), vec![head.clone()]].concat())?;
    let rotary_dim = &pairs * &Dim::Known(2);
    let part = |e: &mut Expand<'_, '_>, first: &Dim, n: &Dim| -> Result<Val, OpError> {
        let dims = [lead.clone(), vec![head.clone()]].concat();
        view(
            e,
            by_head,
            &View {
                shape: [lead.clone(), vec![n.clone()]].concat(),
                strides: row_major(&dims),
                offset: Some(first.clone()),
                ..View::default()
            },
        )
    };
    let is_whole = rotary_dim == head;
    let first = if is_whole { by_head } else { part(e, &Dim::Known(0), &rotary_dim)? };
    let two = Dim::Known(2);
    let inner = if interleaved { [pairs.clone(), two] } else { [two, pairs.clone()] };
    let paired = [lead.clone(), inner.to_vec()].concat();
    let first = reshape::to(e, first, paired.clone())?;
    let axis = if interleaved { 4 } else { 3 };
    let mut strides = row_major(&paired);
    let step = strides[axis].clone();
    strides[axis] = &Dim::Known(-1) * &step;
    let flipped = view(e, first, &View { shape: paired.clone(), strides, offset: Some(step), ..View::default() })?;
    let mut tables = Vec::new();
    for slot in [1, 2] {
        let mut table = e.input(slot)?;
        if let Some(ids) = e.optional(3) {
            table = gather(e, table, ids, 0)?;
        }
        let [batch, len, _] = &e.ty(table).shape.0[..] else { return Err(OpError::MissingOperand { slot }) };
        let one = Dim::Known(1);
        let by_place =
            if is_flat { [batch.clone(), len.clone(), one.clone()] } else { [batch.clone(), one.clone(), len.clone()] };
        let by_pair = if interleaved { [pairs.clone(), one] } else { [one, pairs.clone()] };
        tables.push(reshape::to(e, table, [by_place.to_vec(), by_pair.to_vec()].concat())?);
    }
    let sign = e.constant(Tensor::from_f32s(DType::F32, if interleaved { &[1, 2] } else { &[2, 1] }, &[-1.0, 1.0])?);
    let y = pointwise::add(
        e,
        arg(0) * arg(1) + arg(2) * arg(4) * arg(3),
        dtype,
        &[first, tables[0], flipped, tables[1], sign],
    )?;
    let mut y = reshape::to(e, y, [lead.clone(), vec![rotary_dim.clone()]].concat())?;
    if !is_whole {
        let rest = part(e, &rotary_dim, &(&head - &rotary_dim))?;
        y = e.add(&concat::DEF, Attrs::new().with_int("axis", 3), &[y, rest])?;
    }
    Ok(vec![reshape::to(e, y, whole)?])
}
