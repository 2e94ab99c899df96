//! Which values of a graph f16 is likely not to hold though it holds what is computed from them, determined by the
//! graph alone.
//!
//! Two kinds. Powers that are summed: what exporters write for norms, variances and means of squares has squares,
//! products and exponentials under a sum, and the sum before its root; the model's result fits, these need not. And
//! masks: what is added before a softmax to take elements out, the lowest float or -1e9, whose sum with the scores
//! must swallow them in a row that is masked throughout.

use super::pattern::scalar;
use crate::ir::{Graph, NodeId, ValueId};
use std::collections::BTreeSet;

/// Sums of elements.
const SUMS: &[&str] = &["ReduceSum", "ReduceSumSquare", "ReduceProd"];
/// Sums and means, whose operand may be powers.
const MEANS: &[&str] = &[
    "ReduceSum",
    "ReduceMean",
    "ReduceL1",
    "ReduceLogSum",
    "ReduceProd",
    "GlobalAveragePool",
    "AveragePool",
    "CumSum",
];
/// What gives elements of its first operand, or differs from them by little.
const VIEWS: &[&str] = &[
    "Abs",
    "Cast",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "Neg",
    "Pad",
    "Reshape",
    "Slice",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
];
/// Functions of results between -1 and 1, a product with which is no larger than the other operand.
const BOUNDED: &[&str] = &["Cos", "Erf", "HardSigmoid", "Sigmoid", "Sin", "Softmax", "Softsign", "Tanh"];
/// Operators that take their operands' softmax.
const SOFTMAXES: &[&str] =
    &["Attention", "LogSoftmax", "Softmax", "com.microsoft::Attention", "com.microsoft::MultiHeadAttention"];
/// Views that are looked through between a largest element and what it is taken from.
const MAX_STEPS: usize = 4;
/// A number from here on masks, where it is added before a softmax.
const LEAST_MASK: f32 = 1000.0;

fn name(graph: &Graph, node: NodeId) -> &'static str {
    graph.node(node).op().map_or("", |op| op.def.onnx)
}

fn operand(graph: &Graph, node: NodeId, slot: usize) -> Option<ValueId> {
    graph.operands(node).get(slot).copied().flatten()
}

/// Nodes whose float results should not be stored as f16.
pub(super) fn nodes(graph: &Graph) -> BTreeSet<NodeId> {
    let mut found = BTreeSet::new();
    powers(graph, &mut found);
    under_roots(graph, &mut found);
    masks(graph, &mut found);
    found
}

/// Powers that are summed, and sums up to their root.
fn powers(graph: &Graph, found: &mut BTreeSet<NodeId>) {
    let is_constant = |value: ValueId| graph.constant(value).is_some();
    let through = |id: NodeId| through(graph, id);
    let mut raised: BTreeSet<ValueId> = BTreeSet::new();
    for id in graph.order() {
        let result = id.out(0);
        if !graph.node(id).op().is_some_and(|_| graph.ty(result).dtype.is_float()) {
            continue;
        }
        if is_power(graph, id) || through(id).is_some_and(|before| raised.contains(&before)) {
            raised.insert(result);
        }
        let summed = operand(graph, id, 0).filter(|_| MEANS.contains(&name(graph, id)));
        if let Some(powers) = summed.filter(|value| raised.contains(value)) {
            found.insert(id);
            let mut at = Some(powers);
            while let Some(value) = at.filter(|value| found.insert(value.node)) {
                at = through(value.node).filter(|_| !is_power(graph, value.node));
            }
        }
        if SUMS.contains(&name(graph, id)) {
            found.insert(id);
        }
        // On to the root: a sum, scaled or moved by a constant, or beside others of its size.
        let operands: Vec<ValueId> = graph.operands(id).into_iter().flatten().collect();
        let is_sum = |value: ValueId| found.contains(&value.node) && !raised.contains(&value);
        let goes_on = match name(graph, id) {
            "Add" | "Sub" if !operands.iter().any(|v| is_constant(*v)) => {
                operands.iter().any(|v| is_sum(*v)) && operands.iter().all(|v| is_sum(*v) || raised.contains(v))
            }
            "Reciprocal" => operands.first().is_some_and(|v| is_sum(*v)),
            _ => through(id).is_some_and(is_sum),
        };
        if goes_on {
            found.insert(id);
            found.extend(operands.iter().map(|v| v.node).filter(|node| is_power(graph, *node)));
        }
    }
}

/// The operand of what is added to, or scaled by, a constant, or of a view.
fn through(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let is_constant = |value: ValueId| graph.constant(value).is_some();
    let (a, b) = (operand(graph, id, 0)?, operand(graph, id, 1));
    match name(graph, id) {
        view if VIEWS.contains(&view) => Some(a),
        "Add" | "Mul" | "Sub" | "Div" | "Max" | "Min" => match b? {
            b if is_constant(b) => Some(a),
            b if is_constant(a) && name(graph, id) != "Div" => Some(b),
            _ => None,
        },
        "Clip" => Some(a),
        _ => None,
    }
}

/// Whether a value is a constant, or a function of bounded results, moved and scaled by constants perhaps.
fn is_bounded(graph: &Graph, value: ValueId) -> bool {
    let mut at = Some(value);
    for _ in 0..MAX_STEPS {
        let Some(value) = at else { return false };
        if graph.constant(value).is_some() || BOUNDED.contains(&name(graph, value.node)) {
            return true;
        }
        at = through(graph, value.node);
    }
    false
}

/// Whether a node's results may be far larger than its operands: a product of two values, a power, an exponential.
fn is_power(graph: &Graph, id: NodeId) -> bool {
    let (Some(a), b) = (operand(graph, id, 0), operand(graph, id, 1)) else { return false };
    let is_bounded = |value: ValueId| is_bounded(graph, value);
    match name(graph, id) {
        "Mul" => b.is_some_and(|b| !is_bounded(a) && !is_bounded(b)),
        "Pow" => b.and_then(|b| scalar(graph, b)).is_none_or(|power| power > 1.0),
        // Of what the largest was taken from it is 1 at most.
        "Exp" => {
            let mut largest = operand(graph, a.node, 1).filter(|_| name(graph, a.node) == "Sub");
            for _ in 0..MAX_STEPS {
                largest = match largest.map(|value| (value.node, name(graph, value.node))) {
                    Some((_, "ReduceMax")) => return false,
                    // Bounded from below, perhaps, where all is minus infinity.
                    Some((node, step)) if step == "Max" || VIEWS.contains(&step) => operand(graph, node, 0),
                    _ => break,
                };
            }
            true
        }
        _ => false,
    }
}

/// What sums of powers are added to on the way to a root or a logarithm: `|x|^2 + |y|^2 - 2 x y`, say, is small where
/// its parts are large.
fn under_roots(graph: &Graph, found: &mut BTreeSet<NodeId>) {
    let order = graph.order();
    let is_root = |id: NodeId| match name(graph, id) {
        "Sqrt" | "Log" => true,
        "Pow" => operand(graph, id, 1).and_then(|power| scalar(graph, power)).is_some_and(|power| power.abs() < 1.0),
        _ => false,
    };
    let mut rooted: BTreeSet<NodeId> = BTreeSet::new();
    for &id in order.iter().rev() {
        if is_root(id) {
            rooted.extend(operand(graph, id, 0).map(|v| v.node));
        } else if rooted.contains(&id) {
            rooted.extend(adds(graph, id).into_iter().flatten().map(|v| v.node));
        }
    }
    for id in order.into_iter().filter(|id| rooted.contains(id)) {
        let parts = adds(graph, id).unwrap_or_default();
        if parts.iter().any(|v| found.contains(&v.node)) {
            found.insert(id);
            // Products that the sum takes away, scaled perhaps.
            for part in parts {
                let by_constant = graph.operands(part.node).into_iter().flatten().any(|v| graph.constant(v).is_some());
                let scaled = operand(graph, part.node, 0).filter(|_| by_constant && adds(graph, part.node).is_some());
                let sources = [Some(part), scaled].into_iter().flatten();
                let has_product =
                    |v: &ValueId| matches!(name(graph, v.node), "MatMul" | "Gemm") || is_power(graph, v.node);
                if sources.clone().any(|v| has_product(&v)) {
                    found.extend(sources.map(|v| v.node).filter(|node| graph.node(*node).op().is_some()));
                }
            }
        }
    }
}

/// Masks, and what they are added to, up to the softmax.
fn masks(graph: &Graph, found: &mut BTreeSet<NodeId>) {
    let order = graph.order();
    // From the softmaxes back, all that is summed, and from the constants on, what of it has masks.
    let mut summed: BTreeSet<NodeId> = BTreeSet::new();
    for &id in order.iter().rev() {
        if SOFTMAXES.contains(&name(graph, id)) {
            summed.extend(graph.operands(id).into_iter().flatten().map(|v| v.node));
        } else if summed.contains(&id) {
            summed.extend(adds(graph, id).into_iter().flatten().map(|v| v.node));
        }
    }
    let is_mask = |value: ValueId| {
        let values = graph.constant(value).filter(|t| t.dtype().is_float()).map(|t| t.to_f32s());
        values.is_some_and(|all| all.is_ok_and(|all| all.iter().any(|v| v.is_finite() && v.abs() >= LEAST_MASK)))
    };
    for id in order.into_iter().filter(|id| summed.contains(id) && graph.ty(id.out(0)).dtype.is_float()) {
        let parts = adds(graph, id).unwrap_or_default();
        let divides = name(graph, id) == "Div";
        let scales = |value: &ValueId| divides && graph.constant(*value).is_some();
        if parts.into_iter().filter(|v| !scales(v)).any(|v| found.contains(&v.node) || is_mask(v)) {
            found.insert(id);
        }
    }
}

/// The operands of a node of which its result is the sum, a multiple, a choice or a view.
fn adds(graph: &Graph, id: NodeId) -> Option<Vec<ValueId>> {
    let operands: Vec<ValueId> = graph.operands(id).into_iter().flatten().collect();
    match name(graph, id) {
        "Add" | "Sub" | "Mul" | "Div" | "Max" | "Min" | "Clip" => Some(operands),
        "Where" => Some(operands.get(1..)?.to_vec()),
        view if VIEWS.contains(&view) => Some(operands.get(..1)?.to_vec()),
        _ => None,
    }
}

/// Whether all that is computed from a value goes into a softmax, by way of sums, choices and views: its smallest
/// values take elements out.
pub fn only_masks(graph: &Graph, value: ValueId) -> bool {
    let (mut open, mut seen, mut reaches) = (vec![value], BTreeSet::new(), false);
    while let Some(value) = open.pop() {
        if !seen.insert(value) {
            continue;
        }
        if graph.is_output(value) {
            return false;
        }
        for (user, _) in graph.users(value) {
            if SOFTMAXES.contains(&name(graph, user)) {
                reaches = true;
            } else if adds(graph, user).is_some() {
                open.push(user.out(0));
            } else {
                return false;
            }
        }
    }
    reaches
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::testing::read;

    /// The names of the nodes that should not be stored as f16.
    fn wide(body: &str) -> Vec<String> {
        let graph = read(&format!("graph g onnx\n{body}"));
        nodes(&graph).into_iter().map(|id| graph.node(id).name.clone()).collect()
    }

    #[test]
    fn squares_under_a_mean_up_to_the_root() {
        let body = "  %x = input : f32[2,4]
  %ax = const [1] : i64[1]
  %two = const [2.0] : f32[]
  %eps = const [1e-6] : f32[]
  %m = reduce_mean(%x, %ax) : f32[2,1]
  %c = sub(%x, %m) : f32[2,4]
  %q = pow(%c, %two) : f32[2,4]
  %v = reduce_mean(%q, %ax) : f32[2,1]
  %e = add(%v, %eps) : f32[2,1]
  %r = sqrt(%e) : f32[2,1]
  %y = div(%c, %r) : f32[2,4]
  output %y
";
        assert_eq!(wide(body), ["q", "v", "e"]);
    }

    #[test]
    fn a_mean_of_squares_less_the_square_of_the_mean() {
        let body = "  %x = input : f32[2,4]
  %ax = const [1] : i64[1]
  %m = reduce_mean(%x, %ax) : f32[2,1]
  %q = mul(%x, %x) : f32[2,4]
  %s = reduce_mean(%q, %ax) : f32[2,1]
  %k = mul(%m, %m) : f32[2,1]
  %v = sub(%s, %k) : f32[2,1]
  %y = sqrt(%v) : f32[2,1]
  output %y
";
        assert_eq!(wide(body), ["q", "s", "k", "v"]);
    }

    #[test]
    fn distances_from_sums_of_squares_and_a_product() {
        let body = "  %x = input : f32[3,4]
  %z = input : f32[5,4]
  %ax = const [1] : i64[1]
  %two = const [-2.0] : f32[]
  %xx = reduce_sum_square(%x, %ax) : f32[3,1]
  %zz = reduce_sum_square(%z, %ax) : f32[5,1]
  %zt = transpose(%zz) {perm=[1,0]} : f32[1,5]
  %t = transpose(%z) {perm=[1,0]} : f32[4,5]
  %p = matmul(%x, %t) : f32[3,5]
  %m = mul(%p, %two) : f32[3,5]
  %a = add(%xx, %m) : f32[3,5]
  %d = add(%a, %zt) : f32[3,5]
  %r = relu(%d) : f32[3,5]
  %y = sqrt(%d) : f32[3,5]
  output %r
  output %y
";
        assert_eq!(wide(body), ["xx", "zz", "zt", "p", "m", "a", "d"]);
    }

    #[test]
    fn gates_scales_means_and_shifted_exponentials_are_as_large_as_their_operands() {
        let body = "  %x = input : f32[2,4]
  %ax = const [1] : i64[1]
  %c = const [3.0] : f32[]
  %g = sigmoid(%x) : f32[2,4]
  %o = add(%g, %c) : f32[2,4]
  %a = mul(%x, %o) : f32[2,4]
  %b = mul(%a, %c) : f32[2,4]
  %m = reduce_mean(%b, %ax) : f32[2,1]
  %most = reduce_max(%b, %ax) : f32[2,1]
  %least = const [-1e30] : f32[]
  %bound = max(%most, %least) : f32[2,1]
  %d = sub(%b, %bound) : f32[2,4]
  %e = exp(%d) : f32[2,4]
  %f = reduce_mean(%e, %ax) : f32[2,1]
  %y = add(%m, %f) : f32[2,1]
  output %y
";
        assert_eq!(wide(body), Vec::<String>::new());
    }

    #[test]
    fn a_mask_and_what_it_is_added_to() {
        let body = "  %q = input : f32[2,4]
  %am = input : f32[2,4]
  %big = const [-1e9] : f32[]
  %root = const [8.0] : f32[]
  %s = div(%q, %root) : f32[2,4]
  %mm = mul(%am, %big) : f32[2,4]
  %s3 = add(%s, %mm) : f32[2,4]
  %p = softmax(%s3) {axis=-1} : f32[2,4]
  %y = neg(%p) : f32[2,4]
  output %y
";
        assert_eq!(wide(body), ["mm", "s3"]);
        let graph = read(&format!("graph g onnx\n{body}"));
        let masks = |name: &str| only_masks(&graph, graph.value_named(name).unwrap());
        assert!(masks("mm") && masks("s3") && !masks("p") && !masks("y"));
        assert!(wide(&body.replace("-1e9", "-10.0")).is_empty());
    }
}
