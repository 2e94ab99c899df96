//! Computes what depends on constants alone.
//!
//! Looks for operators all of whose operands are constants, computes them on the CPU reference and puts a constant in
//! their place. Equal because the reference defines the operator. Refuses dequantization, since its constant is what
//! quantization saved, and likewise the widening of weights; a transposed weight that is also used as it is, since that
//! would store it twice, where it is large or products read it; results over the larger of 64 MiB and twice the
//! operands; and whatever would let all results together exceed theirs by more than the graph's constants have, or 1
//! GiB.

use super::packed_rows::{is_plain_strided, is_transposition};
use super::pattern::float_cast;
use super::{Context, Pass, PassError, at};
use crate::ir::{Edit, Graph, NodeId, OpError, Patch, Tensor, TensorError, ValueId};
use crate::ops;
use std::collections::{BTreeMap, BTreeSet};

/// The pass.
pub struct FoldConstants;

/// Results up to this size are always folded, in bytes.
const SMALL_BYTES: u64 = 64 << 20;
/// How much all results together may exceed their operands, in bytes, where the graph's constants have less: a small
/// file can hold any number of nodes that each make a little, or twice what they are given.
const GROWTH_BYTES: u64 = 1 << 30;
/// A copy of a shared weight above this size is not worth its bytes, whoever reads it; products read the rows as they
/// are at no cost.
const SHARED_BYTES: u64 = 64 << 10;
/// Elements that are only moved are moved when they are read, where they have as many bytes as this.
const DEFERRED_BYTES: u64 = 64 << 10;

impl Pass for FoldConstants {
    fn name(&self) -> &str {
        "fold_constants"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut known: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        let mut folded = Vec::new();
        let constants = graph.order().into_iter().filter_map(|id| graph.node(id).constant()?.ty().bytes());
        let most_growth_bytes = constants.fold(0, u64::saturating_add).max(GROWTH_BYTES);
        let mut growth_bytes = 0u64;
        for id in graph.order() {
            let node = graph.node(id);
            if let Some(tensor) = node.constant() {
                known.insert(id.out(0), tensor.clone());
            }
            let Some(op) = node.op() else { continue };
            let operands = graph.operands(id);
            let inputs: Vec<Option<&Tensor>> = operands.iter().map(|v| v.and_then(|v| known.get(&v))).collect();
            if operands.is_empty() || operands.iter().zip(&inputs).any(|(v, t)| v.is_some() != t.is_some()) {
                continue;
            }
            if let Some(because) = refusal(graph, id, &inputs) {
                cx.explain.note(&[&node.name], "fold_constants", "fold", || because);
                continue;
            }
            let (given, made) = bytes(graph, id);
            let grown = growth_bytes.saturating_add(made.saturating_sub(given));
            if grown > most_growth_bytes {
                cx.explain.note(&[&node.name], "fold_constants", "fold", || {
                    format!("folded constants have grown by {growth_bytes} bytes already")
                });
                continue;
            }
            let results = match moved(graph, id, &inputs) {
                Some(tensor) => Ok(vec![tensor]),
                None => ops::reference::evaluate(op, &inputs, node.outputs.len()),
            };
            match results {
                Ok(results) => {
                    growth_bytes = grown;
                    for (out, tensor) in results.into_iter().enumerate() {
                        known.insert(id.out(out), tensor);
                    }
                    folded.push(id);
                }
                // Every run would end so.
                Err(error @ OpError::Index(_)) => return Err(at(&node.name)(error)),
                Err(error) => cx.explain.note(&[&node.name], "fold_constants", "fold", || error.to_string()),
            }
        }
        let mut edit = Edit::new(graph);
        for id in folded {
            for out in 0..graph.node(id).outputs.len() {
                let value = id.out(out);
                let needed = graph.is_output(value)
                    || graph.users(value).iter().any(|(user, _)| !known.contains_key(&user.out(0)));
                if let (true, Some(tensor)) = (needed, known.get(&value)) {
                    let constant = edit.add_named_const(&graph.value(value).name, tensor.clone());
                    edit.replace(value, constant);
                }
            }
        }
        Ok(edit.finish())
    }
}

/// The result of a node that only moves the elements of a large constant: made when it is first read.
fn moved(graph: &Graph, id: NodeId, inputs: &[Option<&Tensor>]) -> Option<Tensor> {
    let (op, ty) = (graph.node(id).op()?, graph.ty(id.out(0)));
    let moves = op.def.onnx == "Transpose" || op.is(&ops::core::reshape::DEF) || is_plain_strided(op);
    let &[Some(source)] = inputs else { return None };
    let is_large = ty.bytes().is_some_and(|bytes| bytes >= DEFERRED_BYTES);
    if !moves || !is_large || ty.dtype != source.dtype() || ty.packing.is_some() || source.ty().packing.is_some() {
        return None;
    }
    let (own, op) = (source.clone(), op.clone());
    Some(Tensor::deferred(ty.clone(), &format!("{op:?}"), &[source], move || {
        let unmade = |reason: String| TensorError::Unmade { reason };
        let made = ops::reference::evaluate(&op, &[Some(&own)], 1).map_err(|error| unmade(error.to_string()))?.pop();
        made.ok_or_else(|| unmade(format!("{} gives nothing", op.def.name)))
    }))
}

fn refusal(graph: &Graph, id: NodeId, inputs: &[Option<&Tensor>]) -> Option<String> {
    let node = graph.node(id);
    let op = node.op()?;
    if ops::onnx::random::is_random(op) {
        return Some("random numbers are made while the program runs".to_owned());
    }
    if matches!(op.def.name, "dequantize_linear" | "dynamic_quantize" | "quantize_packed") {
        return Some(format!("{} of a constant is kept", op.def.name));
    }
    if node.defined_symbol().is_some() {
        return Some("its size has a name, which others mention".to_owned());
    }
    if widens_weights(graph, id) {
        return Some("its readers take the narrower weights as they are".to_owned());
    }
    if inputs.iter().flatten().any(|t| !t.is_present()) {
        return Some("the data of an operand is not here".to_owned());
    }
    let (given, made) = bytes(graph, id);
    if made > SMALL_BYTES.max(given.saturating_mul(2)) {
        return Some(format!("the result has {made} bytes, the operands {given}"));
    }
    if is_shared_transposition(graph, id)
        && (made > SHARED_BYTES || graph.users(id.out(0)).iter().all(|&(user, slot)| is_product(graph, user, slot)))
    {
        return Some(format!("the operand is used as it is too; a copy costs {made} bytes"));
    }
    None
}

/// The bytes of a node's operands, each counted once however often it stands there, and of its results.
fn bytes(graph: &Graph, id: NodeId) -> (u64, u64) {
    let operands: BTreeSet<ValueId> = graph.operands(id).into_iter().flatten().collect();
    let given = operands.into_iter().filter_map(|v| graph.ty(v).bytes()).fold(0, u64::saturating_add);
    let made = graph.node(id).outputs.iter().map(|v| v.ty.bytes().unwrap_or(u64::MAX)).fold(0, u64::saturating_add);
    (given, made)
}

/// Whether a node widens a matrix for readers that take it as it is stored: products, perhaps of its transposition,
/// look-ups, and the joining of rows.
fn widens_weights(graph: &Graph, id: NodeId) -> bool {
    let Some(source) = float_cast(graph, id) else { return false };
    let (from, to) = (graph.ty(source), graph.ty(id.out(0)));
    let reads_as_is = |user: NodeId, slot: usize| {
        graph.node(user).op().is_some_and(|op| match op.def.name {
            "concat" => true,
            "transpose" | "strided" if is_shared_transposition(graph, user) => {
                graph.users(user.out(0)).iter().all(|&(user, slot)| is_product(graph, user, slot))
            }
            _ => op.weights_at(slot).is_some(),
        })
    };
    let users = graph.users(id.out(0));
    from.shape.rank() > 1
        && from.bytes() < to.bytes()
        && !users.is_empty()
        && users.iter().all(|&(user, slot)| reads_as_is(user, slot))
}

/// Whether a node reads this operand as the right-hand side of a product, of which every kernel reads rows or columns.
fn is_product(graph: &Graph, user: NodeId, slot: usize) -> bool {
    graph.node(user).op().and_then(|op| op.weights_at(slot)).is_some_and(|weights| weights.is_matrix_product())
}

/// Whether a node only exchanges the axes of what others read as it is.
fn is_shared_transposition(graph: &Graph, id: NodeId) -> bool {
    let exchanges =
        graph.node(id).op().is_some_and(|op| op.def.onnx == "Transpose") || is_transposition(graph, id.out(0));
    exchanges && graph.operands(id).into_iter().flatten().any(|v| graph.users(v).len() > 1)
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    const CHAIN: &str = "graph g core
  %x = input : f32[2]
  %a = const [1.0,2.0] : f32[2]
  %b = pointwise(%a) {dtype=f32, expr=`add(x0,1.0)`} : f32[2]
  %c = pointwise(%a, %b) {dtype=f32, expr=`mul(x0,x1)`} : f32[2]
  %y = pointwise(%x, %c) {dtype=f32, expr=`add(x0,x1)`} : f32[2]
  output %y
";

    #[test]
    fn a_chain_of_constants_becomes_one() {
        let after = check("fold_constants", CHAIN, "chain");
        assert!(after.to_string().contains("%c = const [2.0,6.0]"));
    }

    #[test]
    fn the_widening_of_weights_stays() {
        let text = "graph g core
  %x = input : f32[1,2]
  %w = const [1.0,2.0,3.0,4.0] : f16[2,2]
  %w.f32 = pointwise(%w) {dtype=f32, expr=`x0`} : f32[2,2]
  %y = matmul(%x, %w.f32) {dtype=f32} : f32[1,2]
  output %y
";
        stays("fold_constants", text);
    }

    #[test]
    fn an_operator_on_an_input_stays() {
        let text = "graph g core\n  %x = input : f32[2]\n  %y = pointwise(%x) {dtype=f32, expr=`neg(x0)`} : f32[2]\n  output %y\n";
        stays("fold_constants", text);
    }
}
