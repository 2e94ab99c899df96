//! `deferred`: an operator of ONNX as it is, computed on the host once a run knows its sizes.
//!
//! Some operators are written in others only when every size is known: the steps of a recurrent layer, the taps of a
//! resize. Where their sizes change between runs, `decompose` keeps the node whole, as the body of this operator. No
//! kernel covers it, so the planner makes it a host step.

use crate::ir::{
    Attr, Attrs, CORE, Edit, Graph, Infer, KERNEL, Level, NodeId, NodeKind, OpDef, OpError, Tensor, TensorType, Val,
    ValueId, attr,
};
use crate::ops::reference::evaluate;
use crate::ops::util::agree;
use std::collections::BTreeMap;

/// `deferred(x0, ...) {body}`: the outputs of `body`, a graph of the level `onnx` whose inputs are the operands, all
/// present.
pub static DEF: OpDef = OpDef {
    name: "deferred",
    onnx: "",
    levels: CORE | KERNEL,
    attrs: &[attr::graph("body")],
    arity: (0, usize::MAX),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// Constants of so many elements at most, and sizes, go into the body, where type rules see them. Longer ones stay
/// outside, once for all their readers.
const MAX_INSIDE: u64 = 8;

fn body(attrs: &Attrs) -> Result<&Graph, OpError> {
    match attrs.get("body") {
        Some(Attr::Graph(body)) if body.level == Level::Onnx => Ok(body),
        _ => Err(OpError::attribute("body", "is no graph of the level onnx")),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let body = body(infer.attrs)?;
    if body.inputs().len() != infer.inputs.len() {
        return Err(OpError::attribute(
            "body",
            format!("takes {} operands of {}", body.inputs().len(), infer.inputs.len()),
        ));
    }
    for (slot, id) in body.inputs().iter().enumerate() {
        let (wanted, given) = (body.ty(id.out(0)), infer.ty(slot)?);
        let same = wanted.shape.rank() == given.shape.rank()
            && wanted.shape.0.iter().zip(&given.shape.0).all(|(a, b)| agree(a, b));
        if wanted.dtype != given.dtype || wanted.packing != given.packing || !same {
            return Err(OpError::operand(slot, given, wanted));
        }
    }
    Ok(types(body).cloned().collect())
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let body = body(attrs)?;
    let mut values: BTreeMap<ValueId, Tensor> = BTreeMap::new();
    for (slot, id) in body.inputs().iter().enumerate() {
        values.insert(id.out(0), inputs.get(slot).copied().flatten().ok_or(OpError::MissingOperand { slot })?.clone());
    }
    for id in body.order() {
        let results = match &body.node(id).kind {
            NodeKind::Input => continue,
            NodeKind::State => return Err(OpError::attribute("body", "has a state")),
            NodeKind::Const(tensor) => vec![tensor.clone()],
            NodeKind::Op(op) => {
                let operands: Vec<_> = body.operands(id).into_iter().map(|v| v.and_then(|v| values.get(&v))).collect();
                evaluate(op, &operands, body.node(id).outputs.len())?
            }
        };
        values.extend(results.into_iter().enumerate().map(|(out, tensor)| (id.out(out), tensor)));
    }
    let result = |value: ValueId| {
        values.get(&value).cloned().ok_or_else(|| OpError::attribute("body", "computes less than its outputs"))
    };
    body.outputs().iter().map(|output| result(output.value)).collect()
}

/// Whether an error of an expansion may be due to sizes that change: the node has some.
pub fn has_sizes(graph: &Graph, node: NodeId) -> bool {
    let operands = graph.operands(node).into_iter().flatten();
    let is_open = |ty: &TensorType| ty.shape.known().is_none();
    operands.into_iter().any(|v| is_open(graph.ty(v)) || graph.sizes(v).is_some())
        || graph.node(node).outputs.iter().any(|v| is_open(&v.ty))
}

/// Puts the node, as it is, into the body of a new `deferred`, and gives the values that stand for its outputs.
///
/// # Errors
/// The node is none of an operator, or its type rule refuses it.
pub fn defer(edit: &mut Edit<'_>, node: NodeId) -> Result<Vec<Val>, OpError> {
    let graph = edit.graph();
    // Where the type rule reads a longer constant, the pads of five axes say, the constants go in whatever their
    // length.
    let (body, outer) = match enclose(graph, node, MAX_INSIDE) {
        Ok(enclosed) if types(&enclosed.0).eq(graph.node(node).outputs.iter().map(|v| &v.ty)) => enclosed,
        _ => enclose(graph, node, u64::MAX)?,
    };
    edit.on_behalf_of(node);
    let attrs = Attrs::new().with("body", Attr::Graph(Box::new(body)));
    edit.add_all(crate::ir::Op::new(&DEF, attrs), &outer, graph.node(node).outputs.len())
        .map_err(|e| OpError::Edit(Box::new(e)))
}

/// The types of a body's outputs.
fn types(body: &Graph) -> impl Iterator<Item = &TensorType> {
    body.outputs().iter().map(|output| body.ty(output.value))
}

/// A graph of the node alone, with its constants of `most` elements at most, and the values that are its inputs.
fn enclose(graph: &Graph, node: NodeId, most: u64) -> Result<(Graph, Vec<Option<Val>>), OpError> {
    let own = graph.node(node);
    let op = own.op().ok_or(OpError::Bug("only operators are deferred"))?.clone();
    let mut inside = Graph::new(&own.name, Level::Onnx);
    let mut outer = Vec::new();
    let mut operands = Vec::new();
    for operand in graph.operands(node) {
        let Some(value) = operand else {
            operands.push(None);
            continue;
        };
        let name = &graph.value(value).name;
        let constant =
            graph.constant(value).filter(|t| t.is_present() && t.ty().shape.n_elems().is_some_and(|n| n <= most));
        operands.push(Some(match (constant, graph.sizes(value), graph.node(value.node).op()) {
            _ if inside.value_named(name).is_some() => inside.value_named(name).unwrap_or(value),
            (Some(tensor), ..) => inside.add_const(name, tensor.clone()),
            (None, Some(_), Some(sizes)) => inside.add_op(name, sizes.clone(), &[], std::slice::from_ref(name))?.out(0),
            _ => {
                outer.push(Some(Val::Old(value)));
                inside.add_input(name, graph.ty(value).clone())
            }
        }));
    }
    let names: Vec<String> = own.outputs.iter().map(|v| v.name.clone()).collect();
    let id = inside.add_op(&own.name, op, &operands, &names)?;
    names.iter().enumerate().for_each(|(out, name)| inside.add_output(name, id.out(out)));
    Ok((inside, outer))
}
