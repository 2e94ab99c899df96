//! Attention and rotary embedding as exporters write them out: patterns of `recognize_composites`.
//!
//! Looks for `softmax(q x k^T * scale + mask) x v` over operands of four axes, the scale before or after the product, k
//! a transposed value, heads that are repeated for k and v or not (Attention, opset 25, which sums the same products),
//! and for `x * cos + rotated(x) * sin` where `rotated(x)` is `concat(-x[n/2..], x[..n/2])` and both halves of cos and
//! sin are equal (RotaryEmbedding, opset 23: the definition). Refuses where the scores or what comes of them is read by
//! others too: they would be computed twice.

use super::Context;
use super::pattern::{Match, producer, scalar};
use super::recognize_composites::Found;
use crate::ir::{Attrs, Dim, Edit, Graph, NodeId, Op, OpError, Tensor, Val, ValueId};
use crate::ops::onnx::{attention as ops, elementwise, movement};
use std::collections::BTreeMap;

const PASS: &str = "recognize_composites";

fn note(graph: &Graph, cx: &mut Context<'_>, m: &Match<'_>, pattern: &'static str, because: &str) {
    cx.explain.note(&[&graph.node(m.node).name], PASS, pattern, || because.to_owned());
}

/// Whether nothing but one operand reads `value`.
fn is_read_once(graph: &Graph, value: ValueId) -> bool {
    graph.users(value).len() == 1 && graph.outputs().iter().all(|o| o.value != value)
}

/// x and c of `x * c` or `x / c` with a scalar c, the latter as its reciprocal.
fn scaled(graph: &Graph, value: ValueId) -> Option<(ValueId, f32)> {
    if let Some(product) = producer(graph, value, "Mul") {
        return product.orders().into_iter().find_map(|(x, c)| Some((x, scalar(graph, c)?)));
    }
    let quotient = producer(graph, value, "Div")?;
    let divisor = scalar(graph, quotient.operand(1)?)?;
    Some((quotient.operand(0)?, (1.0 / f64::from(divisor)) as f32))
}

/// `x` and a scale, which is 1 where `value` is no scaled value.
fn unscaled(graph: &Graph, value: ValueId) -> (ValueId, f32) {
    scaled(graph, value).filter(|_| is_read_once(graph, value)).unwrap_or((value, 1.0))
}

/// The permutation of a Transpose.
fn permutation(graph: &Graph, m: &Match<'_>) -> Option<Vec<usize>> {
    let perm = graph.node(m.node).op()?.attrs.ints("perm")?;
    perm.iter().map(|&p| usize::try_from(p).ok()).collect()
}

/// The attention whose result is `value`.
pub(super) fn attention(edit: &mut Edit<'_>, value: ValueId, cx: &mut Context<'_>) -> Result<Option<Found>, OpError> {
    let graph = edit.graph();
    let Some(found) = Pattern::of(graph, value, cx) else { return Ok(None) };
    let Pattern { q, mut k, transpose, perm, mut v, mask, scale } = found;
    // k^T is k with its axes permuted: the same with the last two swapped is what an attention wants, often k itself.
    let perm = [perm[0], perm[1], perm[3], perm[2]];
    let mut key = Val::Old(k);
    if perm == [0, 1, 2, 3] {
        // Heads that several of q share need no repeating.
        if let (Some((few_k, n_k)), Some((few_v, n_v))) = (repeated(graph, k), repeated(graph, v))
            && n_k == n_v
        {
            (k, v) = (few_k, few_v);
            key = Val::Old(k);
        }
    } else {
        edit.on_behalf_of(transpose);
        let attrs = Attrs::new().with_ints("perm", perm.iter().map(|&p| p as i64));
        key = edit.add(Op::new(&movement::TRANSPOSE, attrs), &[key]).map_err(|e| OpError::Edit(Box::new(e)))?;
    }
    let from = [q, k, v].into_iter().chain(mask).collect();
    let operands =
        [Some(Val::Old(q)), Some(key), Some(Val::Old(v))].into_iter().chain(mask.map(|m| Some(Val::Old(m)))).collect();
    let attrs = Attrs::new().with_float("scale", scale);
    // A row that is masked out entirely is NaN where a softmax is written out.
    let attrs = if mask.is_some() { attrs.with_int("zero_masked", 0) } else { attrs };
    Ok(Some(Found { onnx: ops::DEF.onnx, attrs, operands, from }))
}

/// What an attention was written out over.
struct Pattern {
    q: ValueId,
    /// What is permuted to the transposed keys.
    k: ValueId,
    /// What permutes it, and how.
    transpose: NodeId,
    perm: [usize; 4],
    v: ValueId,
    mask: Option<ValueId>,
    scale: f32,
}

impl Pattern {
    fn of(graph: &Graph, value: ValueId, cx: &mut Context<'_>) -> Option<Pattern> {
        let product = producer(graph, value, "MatMul")?;
        let (weights, v) = (product.operand(0)?, product.operand(1)?);
        let softmax = producer(graph, weights, "Softmax")?;
        let mut refuse = |because: &str| note(graph, cx, &product, "attention", because);
        let rank = graph.ty(weights).shape.rank();
        if rank != 4 || graph.ty(v).shape.rank() != 4 {
            refuse(&format!("the scores have {rank} axes, not 4"));
            return None;
        }
        let axis = graph.node(softmax.node).op()?.attrs.int("axis").unwrap_or(-1);
        if axis != -1 && axis != 3 {
            refuse(&format!("the softmax is along axis {axis}, not the last"));
            return None;
        }
        let biased = softmax.operand(0)?;
        let unmasked = |value: ValueId| unscaled(graph, value).0;
        let is_product = |value: ValueId| producer(graph, unmasked(value), "MatMul").is_some();
        let sum =
            producer(graph, biased, "Add").and_then(|m| m.orders().into_iter().find(|&(scores, _)| is_product(scores)));
        let (scores, mask) = sum.map_or((biased, None), |(scores, mask)| (scores, Some(mask)));
        let (products, after) = unscaled(graph, scores);
        let Some(inner) = producer(graph, products, "MatMul") else {
            refuse("what the softmax reads is no product of q and k, with a scale and a mask or without");
            return None;
        };
        if ![weights, biased, scores, products].iter().all(|v| is_read_once(graph, *v)) {
            refuse("the scores are read elsewhere too");
            return None;
        }
        let ((q, before_q), (k, before_k)) = (unscaled(graph, inner.operand(0)?), unscaled(graph, inner.operand(1)?));
        let Some((k, transpose, perm)) =
            producer(graph, k, "Transpose").and_then(|t| Some((t.operand(0)?, t.node, permutation(graph, &t)?)))
        else {
            refuse("the keys are not transposed right before the product");
            return None;
        };
        let dims = |v: ValueId| &graph.ty(v).shape.0;
        let heads = [dims(q).get(1), perm.get(1).and_then(|&p| dims(k).get(p)), dims(v).get(1)];
        let batch = [dims(q).first(), perm.first().and_then(|&p| dims(k).get(p)), dims(v).first()];
        if heads.windows(2).any(|w| w[0] != w[1]) || batch.windows(2).any(|w| w[0] != w[1]) {
            refuse("q, k and v have different batches or heads");
            return None;
        }
        if mask.is_some_and(|m| {
            graph.ty(m).shape.rank() == 0 || graph.ty(m).shape.0.last() != graph.ty(weights).shape.0.last()
        }) {
            refuse("the mask is not as long as the keys");
            return None;
        }
        let [a, b, c, d] = perm[..] else { return None };
        Some(Pattern { q, k, transpose, perm: [a, b, c, d], v, mask, scale: before_q * before_k * after })
    }
}

/// What is repeated by a new axis after that of the heads, and how often: `[b, h, s, d]` as `[b, h * n, s, d]`.
fn repeated(graph: &Graph, value: ValueId) -> Option<(ValueId, Dim)> {
    let reshape = producer(graph, value, "Reshape")?;
    let expand = producer(graph, reshape.operand(0)?, "Expand")?;
    let source = producer(graph, expand.operand(0)?, "Unsqueeze")?.operand(0)?;
    let ([b, h, s, d], wide) = (&graph.ty(source).shape.0[..], &graph.ty(expand.node.out(0)).shape.0) else {
        return None;
    };
    let n = wide.get(2)?.clone();
    let narrow = [b, h, &Dim::Known(1), s, d];
    let is_new_axis = graph.ty(expand.operand(0)?).shape.0.iter().eq(narrow);
    let is_wide = wide.iter().eq([b, h, &n, s, d]);
    let joined = [b.clone(), h * &n, s.clone(), d.clone()];
    (is_new_axis && is_wide && graph.ty(value).shape.0 == joined).then_some((source, n))
}

/// Halves of the tables of sines and cosines that were made already, by the table.
#[derive(Default)]
pub(super) struct Halves(BTreeMap<ValueId, Option<Val>>);

/// The rotary embedding whose result is `value`.
pub(super) fn rotary(
    edit: &mut Edit<'_>,
    value: ValueId,
    halves: &mut Halves,
    cx: &mut Context<'_>,
) -> Result<Option<Found>, OpError> {
    let graph = edit.graph();
    let Some(add) = producer(graph, value, "Add") else { return Ok(None) };
    let orders = add.orders();
    let Some((x, cos, sin, rotated)) =
        orders.into_iter().find_map(|(plain, with_rotated)| rotary_terms(graph, plain, with_rotated))
    else {
        return Ok(None);
    };
    if graph.ty(x).shape.rank() != 4 {
        note(graph, cx, &add, "rotary_embedding", &format!("x has {} axes, not 4", graph.ty(x).shape.rank()));
        return Ok(None);
    }
    if !is_read_once(graph, rotated) {
        note(graph, cx, &add, "rotary_embedding", "the rotated x is read elsewhere too");
        return Ok(None);
    }
    let (cos, sin) = (halves.of(edit, cos)?, halves.of(edit, sin)?);
    let (Some(cos), Some(sin)) = (cos, sin) else {
        note(graph, cx, &add, "rotary_embedding", "the halves of cos and sin are not known to be equal");
        return Ok(None);
    };
    let operands = vec![Some(Val::Old(x)), Some(cos), Some(sin)];
    // The tables are shared by many: they are no part of one use.
    let from = vec![x].into_iter().chain(tables(graph, &add)).collect();
    Ok(Some(Found { onnx: ops::ROTARY.onnx, attrs: Attrs::new(), operands, from }))
}

/// Every factor of the two products of a sum.
fn tables(graph: &Graph, add: &Match<'_>) -> Vec<ValueId> {
    let products = [0, 1].into_iter().filter_map(|slot| producer(graph, add.operand(slot)?, "Mul"));
    let factors: Vec<ValueId> = products.flat_map(|m| [m.operand(0), m.operand(1)]).flatten().collect();
    factors.into_iter().filter(|v| producer(graph, *v, "Concat").is_none()).collect()
}

/// (x, cos, sin, rotated x) of `x * cos` and `rotated(x) * sin`.
fn rotary_terms(graph: &Graph, plain: ValueId, with_rotated: ValueId) -> Option<(ValueId, ValueId, ValueId, ValueId)> {
    let (plain, with_rotated) = (producer(graph, plain, "Mul")?, producer(graph, with_rotated, "Mul")?);
    let (rotated, sin, x) = with_rotated
        .orders()
        .into_iter()
        .find_map(|(rotated, sin)| Some((rotated, sin, rotation_of(graph, rotated)?)))?;
    let cos = plain.orders().into_iter().find_map(|(a, cos)| (a == x).then_some(cos))?;
    Some((x, cos, sin, rotated))
}

/// The x of `concat(-x[n/2..], x[..n/2])` along the last axis, of size n.
fn rotation_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let concat = producer(graph, value, "Concat")?;
    let rank = graph.ty(value).shape.rank() as i64;
    let axis = graph.node(concat.node).op()?.attrs.int("axis")?;
    if (axis != -1 && axis != rank - 1) || concat.operand(2).is_some() {
        return None;
    }
    let high = slice_of_last(graph, producer(graph, concat.operand(0)?, "Neg")?.operand(0)?)?;
    let low = slice_of_last(graph, concat.operand(1)?)?;
    let n = graph.ty(high.0).shape.0.last()?.known()?;
    (high.0 == low.0 && n % 2 == 0 && low.1 == (0, n / 2) && high.1 == (n / 2, n)).then_some(high.0)
}

/// (x, (first, end)) of a Slice of the last axis of x by steps of one.
fn slice_of_last(graph: &Graph, value: ValueId) -> Option<(ValueId, (i64, i64))> {
    let slice = producer(graph, value, "Slice")?;
    let x = slice.operand(0)?;
    let one = |slot: usize| -> Option<i64> {
        let values = graph.constant(slice.operand(slot)?)?.to_i64s().ok()?;
        (values.len() == 1).then(|| values[0])
    };
    let shape = &graph.ty(x).shape;
    let n = shape.0.last()?.known()?;
    let is_last = slice
        .operand(3)
        .map_or(shape.rank() == 1, |_| one(3).is_some_and(|axis| axis == -1 || axis == shape.rank() as i64 - 1));
    let steps_by_one = slice.operand(4).is_none() || one(4) == Some(1);
    let place = |v: i64| if v < 0 { (v + n).max(0) } else { v.min(n) };
    (is_last && steps_by_one).then_some((x, (place(one(1)?), place(one(2)?))))
}

impl Halves {
    /// Half of a table `[b, 1, s, n]` whose halves along the last axis are equal, as `[b, s, n / 2]`; `None` where they
    /// are not known to be.
    fn of(&mut self, edit: &mut Edit<'_>, table: ValueId) -> Result<Option<Val>, OpError> {
        if let Some(known) = self.0.get(&table) {
            return Ok(*known);
        }
        let half = half(edit, table)?;
        self.0.insert(table, half);
        Ok(half)
    }
}

fn half(edit: &mut Edit<'_>, table: ValueId) -> Result<Option<Val>, OpError> {
    let graph = edit.graph();
    edit.on_behalf_of(table.node);
    if let Some(tensor) = graph.constant(table) {
        return Ok(half_of_constant(tensor)?.map(|half| edit.add_const(half)));
    }
    let Some(unsqueeze) = producer(graph, table, "Unsqueeze") else { return Ok(None) };
    let axes = unsqueeze.operand(1).and_then(|v| graph.constant(v)?.to_i64s().ok());
    let Some(inner) = unsqueeze.operand(0).filter(|_| matches!(axes.as_deref(), Some([1 | -3]))) else {
        return Ok(None);
    };
    // Exporters compute angles in f32 and round their functions to the type of the model.
    let cast = producer(graph, inner, "Cast").and_then(|m| Some((graph.node(m.node).op()?.clone(), m.operand(0)?)));
    let (cast, inner) = cast.map_or((None, inner), |(op, x)| (Some(op), x));
    let (inner, factor) = scaled(graph, inner).map_or((inner, None), |(x, c)| (x, Some(c)));
    let curve = [("Cos", &elementwise::COS), ("Sin", &elementwise::SIN)]
        .into_iter()
        .find_map(|(onnx, def)| Some((def, producer(graph, inner, onnx)?)));
    let Some((def, angles)) = curve.and_then(|(def, m)| Some((def, m.operand(0)?))) else { return Ok(None) };
    let Some(concat) =
        producer(graph, angles, "Concat").filter(|m| m.operand(0) == m.operand(1) && m.operand(2).is_none())
    else {
        return Ok(None);
    };
    let axis = graph.node(concat.node).op().and_then(|op| op.attrs.int("axis"));
    let (Some(angle), Some(-1 | 2)) = (concat.operand(0), axis) else { return Ok(None) };
    let refused = |e| OpError::Edit(Box::new(e));
    edit.on_behalf_of(inner.node);
    let mut half = edit.add(Op::new(def, Attrs::new()), &[Val::Old(angle)]).map_err(refused)?;
    if let Some(factor) = factor {
        let dtype = edit.ty(half).dtype;
        let factor = edit.add_const(Tensor::from_f32s(dtype, &[], &[factor])?);
        half = edit.add(Op::new(&elementwise::MUL, Attrs::new()), &[half, factor]).map_err(refused)?;
    }
    if let Some(op) = cast {
        half = edit.add(op, &[half]).map_err(refused)?;
    }
    Ok(Some(half))
}

/// The first half of the last axis of `[b, 1, s, n]`, where the second is equal, as `[b, s, n / 2]`.
fn half_of_constant(tensor: &Tensor) -> Result<Option<Tensor>, OpError> {
    let dims = tensor.dims();
    let [b, 1, s, n] = dims[..] else { return Ok(None) };
    if n % 2 != 0 || n == 0 || !tensor.dtype().is_float() {
        return Ok(None);
    }
    let values = tensor.to_f32s()?;
    let rows = || values.chunks_exact(n).map(|row| row.split_at(n / 2));
    if rows().any(|(first, second)| first != second) {
        return Ok(None);
    }
    let first: Vec<f32> = rows().flat_map(|(first, _)| first.iter().copied()).collect();
    Ok(Some(Tensor::from_f32s(tensor.dtype(), &[b, s, n / 2], &first)?))
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    /// Attention written out over q `f32[1,4,3,8]`, k and v of 2 heads that are repeated; what the softmax reads is
    /// `%{scores}`.
    fn attention(scores: &str, outputs: &str) -> String {
        format!(
            "graph g onnx
  %q = input : f32[1,4,3,8]
  %k = input : f32[1,2,5,8]
  %v = input : f32[1,2,5,6]
  %mask = input : f32[1,1,3,5]
  %axis = const [2] : i64[1]
  %twice = const [1,1,2,1,1] : i64[5]
  %joined = const [1,4,-1,8] : i64[4]
  %joined_v = const [1,4,-1,6] : i64[4]
  %eighth = const [8.0] : f32[]
  %k1 = unsqueeze(%k, %axis) : f32[1,2,1,5,8]
  %k2 = expand(%k1, %twice) : f32[1,2,2,5,8]
  %k3 = reshape(%k2, %joined) : f32[1,4,5,8]
  %kt = transpose(%k3) {{perm=[0,1,3,2]}} : f32[1,4,8,5]
  %v1 = unsqueeze(%v, %axis) : f32[1,2,1,5,6]
  %v2 = expand(%v1, %twice) : f32[1,2,2,5,6]
  %v3 = reshape(%v2, %joined_v) : f32[1,4,5,6]
  %qk = matmul(%q, %kt) : f32[1,4,3,5]
  %scaled = div(%qk, %eighth) : f32[1,4,3,5]
  %masked = add(%scaled, %mask) : f32[1,4,3,5]
  %p = softmax(%{scores}) {{axis=-1}} : f32[1,4,3,5]
  %y = matmul(%p, %v3) : f32[1,4,3,6]
{outputs}"
        )
    }

    #[test]
    fn products_around_a_softmax_become_one_node() {
        let after = check("recognize_composites", &attention("masked", "  output %y\n"), "attention");
        assert!(
            after.to_string().contains("%y = attention(%q, %k, %v, %mask) {scale=0.125f, zero_masked=0}"),
            "{after}"
        );
        assert_eq!(after.order().iter().filter(|id| after.node(**id).op().is_some()).count(), 1);
    }

    #[test]
    fn scores_that_are_read_elsewhere_stay() {
        let text = attention("masked", "  output %y\n  output %masked\n");
        stays("recognize_composites", &text);
    }

    #[test]
    fn keys_permuted_at_once_are_permuted_for_the_attention() {
        let text = "graph g onnx
  %q = input : f32[2,4,3,8]
  %x = input : f32[2,5,4,8]
  %v = input : f32[2,4,5,6]
  %kt = transpose(%x) {perm=[0,2,3,1]} : f32[2,4,8,5]
  %qk = matmul(%q, %kt) : f32[2,4,3,5]
  %p = softmax(%qk) {axis=3} : f32[2,4,3,5]
  %y = matmul(%p, %v) : f32[2,4,3,6]
  output %y
";
        let after = check("recognize_composites", text, "attention_permuted_keys");
        assert!(after.to_string().contains("transpose(%x) {perm=[0,2,1,3]} from \"kt\" : f32[2,4,5,8]"), "{after}");
        assert!(after.to_string().contains("{scale=1.0f}"), "{after}");
    }

    /// Rotary embedding written out, of `dtype[1,4,3,8]`; the rotated x is cut at `half`. Angles are f32.
    fn rotary(half: i64, dtype: &str) -> String {
        let (low, high) = (half, 8 - half);
        let cast = |name: &str| match dtype {
            "f32" => (String::new(), name.to_owned()),
            _ => {
                let op = format!("  %{name}.cast = cast(%{name}) {{to={dtype}}} : {dtype}[1,3,8]\n");
                (op, format!("{name}.cast"))
            }
        };
        let ((cast_cos, cos3), (cast_sin, sin3)) = (cast("cos3"), cast("sin3"));
        let text = format!(
            "graph g onnx
  %x = input : f32[1,4,3,8]
  %angle = input : f32[1,3,4]
  %one = const [1] : i64[1]
  %zero = const [0] : i64[1]
  %half = const [{half}] : i64[1]
  %end = const [9223372036854775807] : i64[1]
  %last = const [3] : i64[1]
  %angles = concat(%angle, %angle) {{axis=-1}} : f32[1,3,8]
  %cos3 = cos(%angles) : f32[1,3,8]
  %sin3 = sin(%angles) : f32[1,3,8]
{cast_cos}{cast_sin}  %cos = unsqueeze(%{cos3}, %one) : f32[1,1,3,8]
  %sin = unsqueeze(%{sin3}, %one) : f32[1,1,3,8]
  %hi = slice(%x, %half, %end, %last) : f32[1,4,3,{high}]
  %minus = neg(%hi) : f32[1,4,3,{high}]
  %lo = slice(%x, %zero, %half, %last) : f32[1,4,3,{low}]
  %rotated = concat(%minus, %lo) {{axis=-1}} : f32[1,4,3,8]
  %xc = mul(%x, %cos) : f32[1,4,3,8]
  %ts = mul(%rotated, %sin) : f32[1,4,3,8]
  %y = add(%xc, %ts) : f32[1,4,3,8]
  output %y
"
        );
        let is_angle =
            |line: &str| ["%angle", "%angles", "%cos3", "%sin3"].iter().any(|a| line.starts_with(&format!("  {a} =")));
        let lines = text
            .lines()
            .map(|line| if is_angle(line) { line.to_owned() } else { line.replace(": f32[", &format!(": {dtype}[")) });
        lines.map(|line| line + "\n").collect()
    }

    #[test]
    fn rotated_pairs_become_one_node() {
        let after = check("recognize_composites", &rotary(4, "f32"), "rotary_embedding");
        assert!(after.to_string().contains("cos(%angle) from \"cos3\" : f32[1,3,4]"), "{after}");
        assert!(after.to_string().contains("%y = rotary_embedding(%x, "), "{after}");
        let after = check("recognize_composites", &rotary(4, "f16"), "rotary_embedding_f16");
        assert!(after.to_string().contains("%y = rotary_embedding(%x, "), "{after}");
    }

    #[test]
    fn unequal_parts_are_no_rotation() {
        stays("recognize_composites", &rotary(2, "f32"));
    }
}
