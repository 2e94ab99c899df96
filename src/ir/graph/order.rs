//! Orders of nodes, which depend on names and slots alone.

use super::{Graph, NodeId, ValueId};
use petgraph::Direction;
use petgraph::visit::EdgeRef;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

impl Graph {
    /// Every node, each after its operands and after whatever else must come before it ([`Graph::ordering`]):
    /// post-order from the outputs and from what states become, operands by slot, so that each value stands just before
    /// its first use and a local rewrite is a local diff. Inputs come first, in the model's order, then states; what
    /// nothing needs comes last.
    pub fn order(&self) -> Vec<NodeId> {
        let mut done = vec![false; self.graph.node_indices().map(|i| i.index() + 1).max().unwrap_or(0)];
        let mut order = Vec::with_capacity(self.n_nodes());
        for input in self.inputs.iter().copied().chain(self.states.iter().map(|state| state.node)) {
            done[input.0.index()] = true;
            order.push(input);
        }
        let mut rest: Vec<NodeId> = self.graph.node_indices().map(NodeId).collect();
        rest.sort_by_key(|&id| (self.node(id).order, id));
        let roots = self.outputs.iter().map(|o| o.value.node).chain(self.states.iter().map(|s| s.last.node));
        let roots = roots.chain(rest);
        let ordering = self.ordering();
        let before = |id: NodeId| {
            let mut operands = self.operands(id);
            operands.extend(self.waits_for(id, &ordering).into_iter().map(|other| Some(other.out(0))));
            operands
        };
        // An explicit stack: a chain of 50,000 nodes must not overflow the thread's.
        let mut stack: Vec<(NodeId, Vec<Option<ValueId>>, usize)> = Vec::new();
        for root in roots {
            if done[root.0.index()] {
                continue;
            }
            done[root.0.index()] = true;
            stack.push((root, before(root), 0));
            while let Some((node, operands, next)) = stack.last_mut() {
                if let Some(operand) = operands.get(*next) {
                    *next += 1;
                    if let Some(value) = *operand
                        && !std::mem::replace(&mut done[value.node.0.index()], true)
                    {
                        stack.push((value.node, before(value.node), 0));
                    }
                } else {
                    order.push(*node);
                    stack.pop();
                }
            }
        }
        order
    }

    /// Every node, each after its operands and after whatever else must come before it ([`Graph::ordering`]), as near
    /// the order of the imported file as that allows.
    pub fn file_order(&self) -> Vec<NodeId> {
        let ordering = self.ordering();
        let mut missing: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut waiting: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        let mut ready = BinaryHeap::new();
        for index in self.graph.node_indices() {
            let others = self.waits_for(NodeId(index), &ordering);
            let n = self.graph.edges_directed(index, Direction::Incoming).count() + others.len();
            others.into_iter().for_each(|other| waiting.entry(other).or_default().push(NodeId(index)));
            missing.insert(NodeId(index), n);
            if n == 0 {
                ready.push(Reverse((self.graph[index].order, index)));
            }
        }
        let mut order = Vec::with_capacity(self.n_nodes());
        while let Some(Reverse((_, index))) = ready.pop() {
            order.push(NodeId(index));
            let next = self.graph.edges_directed(index, Direction::Outgoing).map(|edge| NodeId(edge.target()));
            for id in next.chain(waiting.remove(&NodeId(index)).unwrap_or_default()) {
                if let Some(n) = missing.get_mut(&id) {
                    *n -= 1;
                    if *n == 0 {
                        ready.push(Reverse((self.node(id).order, id.0)));
                    }
                }
            }
        }
        order
    }

    /// Whether the edges close a circle.
    pub(in crate::ir) fn is_cyclic(&self) -> bool {
        self.file_order().len() != self.n_nodes()
    }
}
