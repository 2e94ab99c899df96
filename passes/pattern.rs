//! Small questions that patterns ask.

use crate::ir::{DType, Expr, Graph, NodeId, ValueId};

/// A value seen through the operator that makes it.
pub(super) struct Match<'g> {
    graph: &'g Graph,
    /// The producer.
    pub(super) node: NodeId,
    operands: Vec<Option<ValueId>>,
}

/// The producer of `value`, where it is the ONNX operator `onnx`.
pub(super) fn producer<'g>(graph: &'g Graph, value: ValueId, onnx: &str) -> Option<Match<'g>> {
    let op = graph.node(value.node).op()?;
    (op.def.onnx == onnx && value.out == 0).then(|| Match {
        graph,
        node: value.node,
        operands: graph.operands(value.node),
    })
}

impl Match<'_> {
    /// Operand `slot`.
    pub(super) fn operand(&self, slot: usize) -> Option<ValueId> {
        self.operands.get(slot).copied().flatten()
    }

    /// The operand of a commutative operator beside the scalar `constant`, which is compared to a relative 1e-3:
    /// exporters round it.
    pub(super) fn beside(&self, constant: f32) -> Option<ValueId> {
        let near = |v: ValueId| scalar(self.graph, v).is_some_and(|c| (c - constant).abs() <= 1e-3 * constant.abs());
        match (self.operand(0)?, self.operand(1)?) {
            (a, b) if near(b) => Some(a),
            (a, b) if near(a) => Some(b),
            _ => None,
        }
    }

    /// Both orders of the operands of a commutative operator.
    pub(super) fn orders(&self) -> Vec<(ValueId, ValueId)> {
        match (self.operand(0), self.operand(1)) {
            (Some(a), Some(b)) => vec![(a, b), (b, a)],
            _ => Vec::new(),
        }
    }
}

/// The value of a float constant of one element.
pub(super) fn scalar(graph: &Graph, value: ValueId) -> Option<f32> {
    let tensor = graph.constant(value)?;
    let is_one = tensor.dtype().is_float() && tensor.ty().shape.n_elems() == Some(1);
    is_one.then(|| tensor.to_f32s().ok()?.first().copied()).flatten()
}

/// The operand of a node that only says in which float type its value is stored: a `store`, a Cast to a type that holds
/// all of the operand's, or what they decompose to. Another Cast rounds, which is part of its expression; so does one
/// from or to f64, in which others compute what reads it.
pub(super) fn float_cast(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let node = graph.node(id);
    let op = node.op()?;
    let [Some(operand)] = graph.operands(id)[..] else { return None };
    let to = node.outputs.first()?.ty.dtype;
    let copies = match op.def.name {
        "store" => true,
        "cast" => to.holds(graph.ty(operand).dtype),
        _ => op.attrs.expr("expr") == Some(&Expr::Arg(0)),
    };
    let is_plain = |dtype: DType| dtype.is_float() && !dtype.is_minifloat() && dtype != DType::F64;
    (copies && is_plain(graph.ty(operand).dtype) && is_plain(to)).then_some(operand)
}
