//! Which nodes of two graphs are the same: by name, then by structure, then by place.

use super::node::attr_key;
use crate::ir::{Graph, NodeId, NodeKind};
use std::collections::{BTreeMap, VecDeque};

/// Nodes that stand for each other.
pub(super) struct Pairs {
    pub before_order: Vec<NodeId>,
    pub after_order: Vec<NodeId>,
    to_after: BTreeMap<NodeId, NodeId>,
    to_before: BTreeMap<NodeId, NodeId>,
}

impl Pairs {
    pub fn of(before: &Graph, after: &Graph) -> Pairs {
        let mut pairs = Pairs {
            before_order: before.order(),
            after_order: after.order(),
            to_after: BTreeMap::new(),
            to_before: BTreeMap::new(),
        };
        let by_name: BTreeMap<&str, NodeId> =
            pairs.after_order.iter().map(|&id| (after.node(id).name.as_str(), id)).collect();
        for a in pairs.before_order.clone() {
            if let Some(&b) = by_name.get(before.node(a).name.as_str()) {
                pairs.join(a, b);
            }
        }
        pairs.by_structure(before, after);
        pairs.by_place(before, after);
        pairs
    }

    fn join(&mut self, a: NodeId, b: NodeId) {
        self.to_after.insert(a, b);
        self.to_before.insert(b, a);
    }

    /// The node of the second that `a` became.
    pub fn after_of(&self, a: NodeId) -> Option<NodeId> {
        self.to_after.get(&a).copied()
    }

    /// The node of the first that `b` was.
    pub fn before_of(&self, b: NodeId) -> Option<NodeId> {
        self.to_before.get(&b).copied()
    }

    /// Pairs what computes the same from the same, whatever it is called: the first with the first.
    fn by_structure(&mut self, before: &Graph, after: &Graph) {
        let a = structures(before, &self.before_order, &|id| self.after_of(id).map(|_| id), before);
        let b = structures(after, &self.after_order, &|id| self.before_of(id), before);
        let mut waiting: BTreeMap<Structure, VecDeque<NodeId>> = BTreeMap::new();
        for &id in self.after_order.iter().filter(|id| self.before_of(**id).is_none()) {
            waiting.entry(b[&id]).or_default().push_back(id);
        }
        for id in self.before_order.clone() {
            if self.after_of(id).is_none()
                && let Some(other) = waiting.get_mut(&a[&id]).and_then(VecDeque::pop_front)
            {
                self.join(id, other);
            }
        }
    }

    /// Pairs what was renamed and changed too: nodes of one operator that the same operand of the same node, or the
    /// same output, reads.
    fn by_place(&mut self, before: &Graph, after: &Graph) {
        let alike = |a: NodeId, b: NodeId| kind(before, a) == kind(after, b);
        for (a, b) in before.outputs().iter().zip(after.outputs()) {
            let (a, b) = (a.value.node, b.value.node);
            if self.after_of(a).is_none() && self.before_of(b).is_none() && alike(a, b) {
                self.join(a, b);
            }
        }
        for a in self.before_order.clone().into_iter().rev() {
            let Some(b) = self.after_of(a) else { continue };
            for (a, b) in before.operands(a).into_iter().zip(after.operands(b)) {
                let (Some(a), Some(b)) = (a, b) else { continue };
                if self.after_of(a.node).is_none() && self.before_of(b.node).is_none() && alike(a.node, b.node) {
                    self.join(a.node, b.node);
                }
            }
        }
    }
}

/// A hash of what a node computes.
type Structure = [u8; 32];

/// The operator of a node, or what it is instead of one.
pub(super) fn kind(graph: &Graph, id: NodeId) -> &'static str {
    match &graph.node(id).kind {
        NodeKind::Input => "input",
        NodeKind::State => "state",
        NodeKind::Const(_) => "const",
        NodeKind::Op(op) => op.def.name,
    }
}

/// A hash of what each node computes: from nodes that are paired already, which `known` gives as nodes of `first`, and
/// up from there.
fn structures(
    graph: &Graph,
    order: &[NodeId],
    known: &dyn Fn(NodeId) -> Option<NodeId>,
    first: &Graph,
) -> BTreeMap<NodeId, Structure> {
    let mut hashes: BTreeMap<NodeId, Structure> = BTreeMap::new();
    for &id in order {
        let mut hasher = blake3::Hasher::new();
        // Each part ends in a byte that no text has.
        let mut add = |part: &dyn AsRef<[u8]>| {
            hasher.update(part.as_ref());
            hasher.update(&[0xff]);
        };
        if let Some(same) = known(id) {
            add(&"paired");
            add(&first.node(same).name);
        } else {
            let node = graph.node(id);
            add(&kind(graph, id));
            match &node.kind {
                NodeKind::Input => {}
                NodeKind::State => {
                    let state = graph.state_of(id);
                    state.iter().for_each(|state| add(&state.name));
                    state.iter().for_each(|state| add(&state.initial.hash().to_string()));
                }
                NodeKind::Const(tensor) => add(&tensor.hash().to_string()),
                NodeKind::Op(op) => op.attrs.0.iter().for_each(|(name, attr)| {
                    add(name);
                    add(&attr_key(attr));
                }),
            }
            add(&node.format.map(|f| f.to_string()).unwrap_or_default());
            node.outputs.iter().for_each(|v| add(&v.ty.to_string()));
            for operand in graph.operands(id) {
                match operand.and_then(|v| Some((hashes.get(&v.node)?, v.out))) {
                    Some((hash, out)) => {
                        add(&out.to_string());
                        add(hash);
                    }
                    None => {
                        add(&"_");
                    }
                }
            }
        }
        hashes.insert(id, *hasher.finalize().as_bytes());
    }
    hashes
}
