//! Names what exporters wrote out: GELU, SiLU, LayerNormalization, RMSNormalization, attention and rotary embedding
//! become one node each, which precision, reports and kernels then treat as one.
//!
//! Looks, from the last node of each, for
//! `x * (erf(x / sqrt 2) + 1) * 0.5` in any order of the factors (Gelu), `x * sigmoid(x)` (Swish),
//! `(x - mean x) / sqrt(mean (x - mean x)^2 + eps) * scale + bias` (LayerNormalization) and
//! `x / sqrt(mean x^2 + eps) * scale` (RMSNormalization), both over the last axis. Equal by the definitions of ONNX
//! opsets 17, 20, 23 and 24. Refuses where the reduction is over another axis, or where scale and bias are no constants
//! over that axis. Attention and rotary embedding: `recognize_attention.rs`.

use super::pattern::{producer, scalar};
use super::recognize_attention::{Halves, attention, rotary};
use super::{Context, Pass, PassError, at};
use crate::ir::{Attrs, DType, Edit, Graph, NodeId, Op, Patch, Val, ValueId};
use crate::ops;

/// The pass.
pub struct RecognizeComposites;

/// A composite that stands for what some nodes compute.
pub(super) struct Found {
    pub(super) onnx: &'static str,
    pub(super) attrs: Attrs,
    /// Its operands, and the values of the graph where the nodes that it stands for begin.
    pub(super) operands: Vec<Option<Val>>,
    pub(super) from: Vec<ValueId>,
}

impl Found {
    /// One whose operands are all values of the graph.
    fn of(onnx: &'static str, attrs: Attrs, operands: Vec<ValueId>) -> Found {
        Found { onnx, attrs, operands: operands.iter().map(|v| Some(Val::Old(*v))).collect(), from: operands }
    }
}

impl Pass for RecognizeComposites {
    fn name(&self) -> &str {
        "recognize_composites"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let registry = ops::registry();
        let mut edit = Edit::new(graph);
        let mut halves = Halves::default();
        for id in graph.order() {
            let value = id.out(0);
            // Attributes are f32: what is written out in f64 has constants of more digits.
            if graph.ty(value).dtype == DType::F64 {
                continue;
            }
            let mut found = gelu(graph, value).map(|x| Found::of("Gelu", Attrs::new(), vec![x]));
            found = found.or_else(|| swish(graph, value).map(|x| Found::of("Swish", Attrs::new(), vec![x])));
            found = found.or_else(|| {
                normalization(graph, value, cx).map(|(onnx, attrs, operands)| Found::of(onnx, attrs, operands))
            });
            let error = at(&graph.node(id).name);
            if found.is_none() {
                edit.on_behalf_of(id);
                found = attention(&mut edit, value, cx).map_err(&error)?;
            }
            if found.is_none() {
                found = rotary(&mut edit, value, &mut halves, cx).map_err(&error)?;
            }
            let Some(found) = found else { continue };
            let Some(def) = registry.by_onnx(found.onnx) else { continue };
            edit.on_behalf_of_all(id, members(graph, id, &found.from));
            match edit.add_all(Op::new(def, found.attrs), &found.operands, 1) {
                Ok(new) => edit.replace(value, new[0]),
                // Shapes that broadcast in the written-out form, and in the operator do not.
                Err(error) => {
                    cx.explain.note(&[&graph.node(id).name], "recognize_composites", def.name, || error.to_string())
                }
            }
        }
        Ok(edit.finish())
    }
}

/// The nodes between the operands of a composite and its last node, in order of the file.
fn members(graph: &Graph, last: NodeId, operands: &[ValueId]) -> Vec<NodeId> {
    let mut found = std::collections::BTreeSet::new();
    let mut open = vec![last];
    while let Some(node) = open.pop() {
        for value in graph.operands(node).into_iter().flatten().filter(|v| !operands.contains(v)) {
            if graph.node(value.node).op().is_some() && found.insert(value.node) {
                open.push(value.node);
            }
        }
    }
    found.into_iter().collect()
}

/// The x of a GELU by the error function.
fn gelu(graph: &Graph, value: ValueId) -> Option<ValueId> {
    const SQRT_2: f32 = std::f32::consts::SQRT_2;
    let erf_plus_one = |value: ValueId| -> Option<ValueId> {
        let erf = producer(graph, producer(graph, value, "Add")?.beside(1.0)?, "Erf")?.operand(0)?;
        if let Some(div) = producer(graph, erf, "Div") {
            return div
                .operand(0)
                .filter(|_| div.operand(1).and_then(|v| scalar(graph, v)).is_some_and(|c| (c - SQRT_2).abs() < 1e-3));
        }
        producer(graph, erf, "Mul")?.beside(1.0 / SQRT_2)
    };
    let product = producer(graph, value, "Mul")?;
    // ((x * (erf + 1)) * 0.5)
    if let Some(inner) = product.beside(0.5).and_then(|v| producer(graph, v, "Mul")) {
        return inner.orders().into_iter().find_map(|(x, factor)| (erf_plus_one(factor)? == x).then_some(x));
    }
    // ((x * 0.5) * (erf + 1)) and (x * ((erf + 1) * 0.5))
    product.orders().into_iter().find_map(|(a, b)| {
        if let (Some(x), Some(y)) = (erf_plus_one(b), producer(graph, a, "Mul").and_then(|m| m.beside(0.5))) {
            return (x == y).then_some(x);
        }
        let x = erf_plus_one(producer(graph, b, "Mul")?.beside(0.5)?)?;
        (x == a).then_some(x)
    })
}

/// The x of `x * sigmoid(x)`.
fn swish(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let product = producer(graph, value, "Mul")?;
    product.orders().into_iter().find_map(|(x, s)| (producer(graph, s, "Sigmoid")?.operand(0)? == x).then_some(x))
}

/// LayerNormalization or RMSNormalization that ends in `value`.
fn normalization(graph: &Graph, value: ValueId, cx: &mut Context<'_>) -> Option<(&'static str, Attrs, Vec<ValueId>)> {
    let affine = |v: ValueId| graph.constant(v).is_some_and(|t| t.dims().len() == 1);
    // The bias is last, so it decides first; without one the product is the end, unless an Add of a bias follows it.
    let add = producer(graph, value, "Add")
        .and_then(|m| m.orders().into_iter().find(|&(y, b)| affine(b) && producer(graph, y, "Mul").is_some()));
    let (scaled, bias) = add.map_or((value, None), |(y, b)| (y, Some(b)));
    let product = producer(graph, scaled, "Mul")?;
    let (normal, scale) = product.orders().into_iter().find(|&(_, s)| affine(s))?;
    if bias.is_none() && followed_by_bias(graph, scaled.node) {
        return None;
    }
    let (centred, epsilon, variance) = standardized(graph, normal)?;
    let squared = mean_of_last_axis(graph, variance, cx)?;
    if square(graph, squared)? != centred {
        return None;
    }
    let last = graph.ty(centred).shape.0.last()?;
    // A longer vector would broadcast a single element.
    if [Some(scale), bias].into_iter().flatten().any(|v| graph.ty(v).shape.0.last() != Some(last)) {
        return None;
    }
    let attrs = Attrs::new().with_int("axis", -1).with_float("epsilon", epsilon);
    if let Some(sub) = producer(graph, centred, "Sub")
        && let (Some(x), Some(mean)) = (sub.operand(0), sub.operand(1))
        && mean_of_last_axis(graph, mean, cx) == Some(x)
    {
        let operands = [Some(x), Some(scale), bias].into_iter().flatten().collect();
        return Some(("LayerNormalization", attrs, operands));
    }
    bias.is_none().then(|| ("RMSNormalization", attrs, vec![centred, scale]))
}

fn followed_by_bias(graph: &Graph, node: NodeId) -> bool {
    let users = graph.users(node.out(0));
    let [(user, slot)] = users[..] else { return false };
    let is_add = graph.node(user).op().is_some_and(|op| op.def.onnx == "Add");
    let other = graph.operands(user).get(1 - slot.min(1)).copied().flatten();
    is_add && other.and_then(|v| graph.constant(v)).is_some_and(|t| t.dims().len() == 1)
}

/// (d, epsilon, v) of `d / sqrt(v + epsilon)`, or of its product with a reciprocal.
fn standardized(graph: &Graph, value: ValueId) -> Option<(ValueId, f32, ValueId)> {
    let root = |value: ValueId| -> Option<(f32, ValueId)> {
        let sum = producer(graph, producer(graph, value, "Sqrt")?.operand(0)?, "Add")?;
        sum.orders().into_iter().find_map(|(v, e)| Some((scalar(graph, e)?, v)))
    };
    if let Some(div) = producer(graph, value, "Div") {
        let (epsilon, v) = root(div.operand(1)?)?;
        return Some((div.operand(0)?, epsilon, v));
    }
    producer(graph, value, "Mul")?.orders().into_iter().find_map(|(d, r)| {
        let (epsilon, v) = root(producer(graph, r, "Reciprocal")?.operand(0)?)?;
        Some((d, epsilon, v))
    })
}

/// The x of a mean over its last axis that keeps the axis.
fn mean_of_last_axis(graph: &Graph, value: ValueId, cx: &mut Context<'_>) -> Option<ValueId> {
    let mean = producer(graph, value, "ReduceMean")?;
    let x = mean.operand(0)?;
    let axes = graph.constant(mean.operand(1)?)?.to_i64s().ok()?;
    let keeps = graph.node(mean.node).op()?.attrs.int("keepdims").unwrap_or(1) == 1;
    let [axis] = axes[..] else { return None };
    let is_last = graph.ty(x).shape.axis(axis).map(|a| a + 1) == Some(graph.ty(x).shape.rank());
    if !is_last || !keeps {
        cx.explain.note(&[&graph.node(mean.node).name], "recognize_composites", "normalization", || {
            format!("the mean is over axis {axis}, which is not the last")
        });
    }
    (is_last && keeps).then_some(x)
}

/// The d of `d * d` or `d ^ 2`.
fn square(graph: &Graph, value: ValueId) -> Option<ValueId> {
    if let Some(product) = producer(graph, value, "Mul") {
        return product.operand(0).filter(|_| product.operand(0) == product.operand(1));
    }
    let power = producer(graph, value, "Pow")?;
    power.operand(0).filter(|_| power.operand(1).and_then(|v| scalar(graph, v)) == Some(2.0))
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    #[test]
    fn what_exporters_write_for_gelu_becomes_one_node() {
        let text = "graph g onnx
  %x = input : f32[2,4]
  %root = const [1.4142135] : f32[]
  %one = const [1.0] : f32[]
  %half = const [0.5] : f32[]
  %d = div(%x, %root) : f32[2,4]
  %e = erf(%d) : f32[2,4]
  %p = add(%e, %one) : f32[2,4]
  %m = mul(%x, %p) : f32[2,4]
  %y = mul(%m, %half) : f32[2,4]
  output %y
";
        let after = check("recognize_composites", text, "gelu");
        assert!(after.to_string().contains("%y = gelu(%x)"));
    }

    #[test]
    fn another_divisor_is_no_gelu() {
        let text = "graph g onnx
  %x = input : f32[2,4]
  %root = const [2.0] : f32[]
  %one = const [1.0] : f32[]
  %half = const [0.5] : f32[]
  %d = div(%x, %root) : f32[2,4]
  %e = erf(%d) : f32[2,4]
  %p = add(%e, %one) : f32[2,4]
  %m = mul(%x, %p) : f32[2,4]
  %y = mul(%m, %half) : f32[2,4]
  output %y
";
        stays("recognize_composites", text);
    }

    /// LayerNormalization written out, of `f32[4,4]` with means over `axis`.
    fn layer(axis: i64) -> String {
        let mean = if axis == 0 { "f32[1,4]" } else { "f32[4,1]" };
        format!(
            "graph g onnx
  %x = input : f32[4,4]
  %axes = const [{axis}] : i64[1]
  %two = const [2.0] : f32[]
  %eps = const [0.00001] : f32[]
  %scale = const [1.0,2.0,3.0,4.0] : f32[4]
  %bias = const [0.5,0.25,0.0,1.0] : f32[4]
  %mean = reduce_mean(%x, %axes) {{keepdims=1}} : {mean}
  %c = sub(%x, %mean) : f32[4,4]
  %sq = pow(%c, %two) : f32[4,4]
  %var = reduce_mean(%sq, %axes) {{keepdims=1}} : {mean}
  %sum = add(%var, %eps) : {mean}
  %dev = sqrt(%sum) : {mean}
  %n = div(%c, %dev) : f32[4,4]
  %s = mul(%n, %scale) : f32[4,4]
  %y = add(%s, %bias) : f32[4,4]
  output %y
"
        )
    }

    #[test]
    fn a_normalization_over_the_last_axis_becomes_one_node() {
        let after = check("recognize_composites", &layer(-1), "layer_normalization");
        assert!(after.to_string().contains("%y = layer_normalization(%x, %scale, %bias) {axis=-1, epsilon="));
    }

    #[test]
    fn a_normalization_over_another_axis_stays() {
        stays("recognize_composites", &layer(0));
    }

    #[test]
    fn a_bias_that_broadcasts_the_result_is_none_of_a_normalization() {
        let text = "graph g onnx
  %x = input : f32[1]
  %bias = const [0.5,0.25,1.0] : f32[3]
  %axes = const [-1] : i64[1]
  %two = const [2.0] : f32[]
  %eps = const [0.01] : f32[]
  %scale = const [1.5] : f32[1]
  %mean = reduce_mean(%x, %axes) {keepdims=1} : f32[1]
  %c = sub(%x, %mean) : f32[1]
  %sq = pow(%c, %two) : f32[1]
  %var = reduce_mean(%sq, %axes) {keepdims=1} : f32[1]
  %sum = add(%var, %eps) : f32[1]
  %dev = sqrt(%sum) : f32[1]
  %n = div(%c, %dev) : f32[1]
  %s = mul(%n, %scale) : f32[1]
  %y = add(%bias, %s) : f32[3]
  output %y
";
        stays("recognize_composites", text);
    }
}
