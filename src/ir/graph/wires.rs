//! All edges changed in one step, and what nothing needs removed.

use super::{Graph, Node, NodeId, NodeKind, Operand, ValueId};
use petgraph::stable_graph::NodeIndex;
use petgraph::visit::{EdgeRef, IntoEdgeReferences};

/// The operands of all nodes, while they are no edges.
pub(in crate::ir) struct Wires(Vec<Vec<Option<ValueId>>>);

impl Wires {
    /// Makes `value` operand `slot` of `node`.
    pub(in crate::ir) fn set(&mut self, node: NodeId, slot: usize, value: ValueId) {
        let operands = &mut self.0[node.0.index()];
        if operands.len() <= slot {
            operands.resize(slot + 1, None);
        }
        operands[slot] = Some(value);
    }

    /// Operand `slot` of `node`.
    pub(in crate::ir) fn get(&self, node: NodeId, slot: usize) -> Option<ValueId> {
        self.0[node.0.index()].get(slot).copied().flatten()
    }
}

impl Graph {
    /// Takes all edges out. A list of edges cannot be changed at less than the cost of walking it, and a constant may
    /// have as many consumers as there are nodes: whoever changes many edges takes all out and puts all back, in one
    /// step for each.
    pub(in crate::ir) fn unwire(&mut self) -> Wires {
        let mut wires = Wires(vec![Vec::new(); self.graph.node_indices().map(|i| i.index() + 1).max().unwrap_or(0)]);
        for edge in self.graph.edge_references() {
            let Operand { slot, out } = *edge.weight();
            wires.set(NodeId(edge.target()), slot, NodeId(edge.source()).out(out));
        }
        self.graph.clear_edges();
        wires
    }

    /// Puts edges back, without those of `candidates` that nothing needs and whatever then is needed no more. Gives how
    /// many went.
    pub(in crate::ir) fn rewire(&mut self, wires: Wires, mut candidates: Vec<NodeId>) -> usize {
        let mut n_uses = vec![0usize; wires.0.len()];
        let kept = self.outputs.iter().map(|o| &o.value).chain(self.states.iter().map(|state| &state.last));
        for value in wires.0.iter().flatten().flatten().chain(kept) {
            n_uses[value.node.0.index()] += 1;
        }
        // Where an edit replaces a node that defines a size, the new one defines it: nothing takes the results of the
        // old one any more.
        let definers = self.size_definers_by(|id| n_uses[id.0.index()]);
        if !definers.is_empty() {
            for id in self.graph.node_indices().map(NodeId) {
                self.size_definers_of(id, &definers).into_iter().for_each(|definer| n_uses[definer.0.index()] += 1);
            }
        }
        let mut n = 0;
        while let Some(id) = candidates.pop() {
            let is_needed = n_uses[id.0.index()] > 0
                || matches!(
                    self.graph.node_weight(id.0),
                    None | Some(Node { kind: NodeKind::Input | NodeKind::State, .. })
                );
            if !is_needed {
                let operands = wires.0[id.0.index()].iter().flatten().map(|value| value.node);
                for needed in operands.chain(self.size_definers_of(id, &definers)) {
                    n_uses[needed.0.index()] -= 1;
                    candidates.push(needed);
                }
                self.forget_names(id);
                self.graph.remove_node(id.0);
                n += 1;
            }
        }
        for (index, operands) in wires.0.into_iter().enumerate() {
            let node = NodeIndex::new(index);
            if self.graph.contains_node(node) {
                for (slot, value) in operands.into_iter().enumerate().filter_map(|(slot, value)| Some((slot, value?))) {
                    self.graph.add_edge(value.node.0, node, Operand { slot, out: value.out });
                }
            }
        }
        n
    }

    /// Removes every node that no output and no state needs. Gives how many went.
    pub fn remove_dead(&mut self) -> usize {
        let wires = self.unwire();
        self.rewire(wires, self.graph.node_indices().map(NodeId).collect())
    }
}
