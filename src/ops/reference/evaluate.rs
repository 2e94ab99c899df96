//! Computing any operator on the CPU: directly where it is a core operator, through its expansion otherwise.

use crate::ir::{CORE, COUNT, Edit, Expand, Graph, Level, NodeId, NodeKind, ONNX, Op, OpError, Tensor, Val};
use std::collections::BTreeMap;

/// Deepest chain of expansions accepted; ours need two or three.
const MAX_DEPTH: usize = 16;

/// Computes the outputs of `op` for these operands.
///
/// # Errors
/// The operator refuses the operands, or has no reference.
pub fn evaluate(op: &Op, inputs: &[Option<&Tensor>], n_outputs: usize) -> Result<Vec<Tensor>, OpError> {
    evaluate_at(op, inputs, n_outputs, 0)
}

fn evaluate_at(op: &Op, inputs: &[Option<&Tensor>], n_outputs: usize, depth: usize) -> Result<Vec<Tensor>, OpError> {
    // An operator of ONNX alone that computes itself.
    if let Some(eval) = op.def.eval.filter(|_| op.def.levels == ONNX) {
        let mut results = eval(&op.attrs, inputs)?;
        results.truncate(n_outputs);
        return Ok(results);
    }
    expand_at(op, inputs, n_outputs, depth)
}

/// The same by the operator's expansion, where it has one.
///
/// # Errors
/// As [`evaluate`].
pub(crate) fn written_out(op: &Op, inputs: &[Option<&Tensor>], n_outputs: usize) -> Result<Vec<Tensor>, OpError> {
    expand_at(op, inputs, n_outputs, 0)
}

fn expand_at(op: &Op, inputs: &[Option<&Tensor>], n_outputs: usize, depth: usize) -> Result<Vec<Tensor>, OpError> {
    if op.def.expand.is_none() {
        let eval = op.def.eval.ok_or_else(|| OpError::unsupported(format!("{} has no CPU reference", op.def.name)))?;
        return eval(&op.attrs, inputs);
    }
    // The operands are constants here: data-dependent sizes are known.
    if op.attrs.get(COUNT).is_some() {
        let mut without_count = op.clone();
        without_count.attrs.0.remove(COUNT);
        return evaluate_at(&without_count, inputs, n_outputs, depth);
    }
    if depth > MAX_DEPTH {
        return Err(OpError::unsupported(format!("{} expands without end", op.def.name)));
    }
    let mut graph = Graph::new("evaluate", Level::Onnx);
    let operands: Vec<_> = inputs.iter().map(|t| t.map(|t| graph.add_const("operand", t.clone()))).collect();
    let names: Vec<_> = (0..n_outputs).map(|i| format!("out{i}")).collect();
    let node = graph.add_op("node", op.clone(), &operands, &names)?;
    let mut edit = Edit::new(&graph);
    let outputs = expand_node(&mut edit, node)?;
    for (i, val) in outputs.into_iter().take(n_outputs).enumerate() {
        edit.replace(node.out(i), val);
    }
    let patch = edit.finish();
    for (i, name) in names.iter().enumerate() {
        graph.add_output(name, node.out(i));
    }
    graph.apply(patch);
    let mut values: BTreeMap<(NodeId, usize), Tensor> = BTreeMap::new();
    for id in graph.order() {
        match &graph.node(id).kind {
            NodeKind::Input | NodeKind::State => {
                return Err(OpError::Bug("an expansion added an input or a state"));
            }
            NodeKind::Const(tensor) => {
                values.insert((id, 0), tensor.clone());
            }
            NodeKind::Op(inner) => {
                let operands: Vec<_> = graph
                    .operands(id)
                    .into_iter()
                    .map(|v| v.and_then(|v| values.get(&(v.node, v.out)).cloned()))
                    .collect();
                let borrowed: Vec<_> = operands.iter().map(Option::as_ref).collect();
                let n = graph.node(id).outputs.len();
                // An operator of both levels stands here in the core's normal form: its own reference computes it.
                let results = if inner.def.levels & CORE != 0 && inner.def.eval.is_some() {
                    inner.def.eval.map_or_else(|| Ok(Vec::new()), |eval| eval(&inner.attrs, &borrowed))?
                } else {
                    evaluate_at(inner, &borrowed, n, depth + 1)?
                };
                for (out, tensor) in results.into_iter().enumerate() {
                    values.insert((id, out), tensor);
                }
            }
        }
    }
    graph
        .outputs()
        .iter()
        .map(|o| {
            values
                .get(&(o.value.node, o.value.out))
                .cloned()
                .ok_or_else(|| OpError::unsupported(format!("{} computed no {}", op.def.name, o.name)))
        })
        .collect()
}

/// Writes one node of the edited graph anew by its operator's expansion, and gives the values that stand for its
/// outputs.
///
/// # Errors
/// The operator has no expansion, or refuses.
pub fn expand_node(edit: &mut Edit<'_>, node: NodeId) -> Result<Vec<Val>, OpError> {
    let graph = edit.graph();
    let Some(op) = graph.node(node).op() else { return Err(OpError::Bug("only operators expand")) };
    let expand = op.def.expand.ok_or_else(|| OpError::unsupported(format!("{} has no expansion", op.def.name)))?;
    let inputs = graph.operands(node).into_iter().map(|v| v.map(Val::Old)).collect();
    let outputs = graph.node(node).outputs.iter().map(|v| v.ty.clone()).collect();
    edit.on_behalf_of(node);
    let (first, wanted) = (edit.n_new(), graph.node(node).outputs.iter().map(|v| v.ty.dtype).collect::<Vec<_>>());
    let results = expand(&mut Expand { edit, attrs: &op.attrs, inputs, outputs })?;
    crate::ops::widen::between(edit, first, results, &wanted)
}
