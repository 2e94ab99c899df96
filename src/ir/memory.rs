//! Byte accounting of a graph: an analysis that passes, printer and planner all ask.

use super::graph::NodeKind;
use super::{Graph, NodeId, ValueId};
use std::collections::BTreeMap;
use std::fmt;

/// Exact bytes of a graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Constants, each counted once.
    pub weights_bytes: u64,
    /// The most bytes of values that live at one step of the order given: inputs from the start to their last use,
    /// results from the step that makes them to their last use, outputs to the end. Nothing shares memory here: views
    /// and in-place results count in full.
    pub max_live_bytes: u64,
}

impl fmt::Display for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "memory weights={}B activations={}B", self.weights_bytes, self.max_live_bytes)
    }
}

/// The bytes of a graph in its printing order, sizes with a range at their most; `None` while a size has no bound.
pub fn summary(graph: &Graph) -> Option<Memory> {
    account(graph, &graph.order())
}

/// The bytes of a graph whose nodes run in this order, sizes with a range at their most; `None` while a size has no
/// bound.
pub fn account(graph: &Graph, order: &[NodeId]) -> Option<Memory> {
    let mut weights_bytes = 0u64;
    let mut delta: Vec<i128> = vec![0; order.len() + 1];
    for (value, (first, last)) in lifetimes(graph, order) {
        let bytes = i128::from(graph.ty(value).largest()?.bytes()?);
        delta[first] += bytes;
        delta[last + 1] -= bytes;
    }
    for &id in order {
        if let NodeKind::Const(tensor) = &graph.node(id).kind {
            weights_bytes = weights_bytes.checked_add(tensor.ty().bytes()?)?;
        }
    }
    let (mut live, mut max_live) = (0i128, 0i128);
    for d in delta {
        live += d;
        max_live = max_live.max(live);
    }
    Some(Memory { weights_bytes, max_live_bytes: u64::try_from(max_live).ok()? })
}

/// The first and last step at which each value that is neither a constant nor a state lives, both inclusive, as indices
/// into `order`.
pub fn lifetimes(graph: &Graph, order: &[NodeId]) -> BTreeMap<ValueId, (usize, usize)> {
    let step: BTreeMap<NodeId, usize> = order.iter().enumerate().map(|(i, &id)| (id, i)).collect();
    let end = order.len().saturating_sub(1);
    let mut lives = BTreeMap::new();
    for (at, &id) in order.iter().enumerate() {
        let node = graph.node(id);
        if matches!(node.kind, NodeKind::Const(_) | NodeKind::State) {
            continue;
        }
        let first = if matches!(node.kind, NodeKind::Input) { 0 } else { at };
        for out in 0..node.outputs.len() {
            let value = id.out(out);
            let used = graph.users(value).iter().filter_map(|(user, _)| step.get(user).copied()).max().unwrap_or(at);
            lives.insert(value, (first, if graph.is_output(value) { end } else { used.max(at) }));
        }
    }
    lives
}
