//! Which nodes share a format: those of one kernel, those that view each other's results, and those that share weights.

use super::Group;
use crate::ir::{DType, Graph, NodeId, TensorType, ValueId};
use crate::ops::weights;
use crate::plan::memory::{Buffers, is_view};
use std::collections::{BTreeMap, BTreeSet};

/// Nodes of a graph in sets, and the set of each of its kernels.
pub(super) struct Grouping {
    sets: Sets,
    /// For each kernel a node of its set.
    kernels: BTreeMap<NodeId, NodeId>,
    /// The group of each set, by the node that stands for it.
    groups: BTreeMap<NodeId, usize>,
}

impl Grouping {
    pub(super) fn of(graph: &Graph, kernels: &Graph, planned: &Buffers) -> Grouping {
        let mut grouping = Grouping { sets: Sets::default(), kernels: BTreeMap::new(), groups: BTreeMap::new() };
        grouping.join_kernels(graph, kernels, planned);
        grouping.join_readers(kernels, planned);
        grouping.join_weights(graph);
        grouping
    }

    /// Joins the nodes of each kernel, and those of a view with those whose result it views.
    fn join_kernels(&mut self, graph: &Graph, kernels: &Graph, planned: &Buffers) {
        let nodes = graph.order().into_iter().filter(|id| graph.node(*id).op().is_some());
        let by_name: BTreeMap<&str, NodeId> = nodes.map(|id| (graph.node(id).name.as_str(), id)).collect();
        for &id in &planned.order {
            let node = kernels.node(id);
            if node.op().is_none() {
                continue;
            }
            let mut members: Vec<NodeId> =
                node.origins().iter().filter_map(|name| by_name.get(name.as_str()).copied()).collect();
            // Codes that are made as they are loaded say nothing about how their source is stored.
            if is_view(kernels, id)
                && kernels.ty(id.out(0)).packing.is_none()
                && let Some(base) = planned.root.get(&id.out(0))
            {
                members.extend(self.kernels.get(&base.node));
            }
            // What has no float result has no format: it reads constants as the model has them.
            members.retain(|m| has_floats(graph, *m));
            let Some(&first) = members.first() else { continue };
            members.iter().for_each(|m| self.sets.join(first, *m));
            self.kernels.insert(id, first);
        }
    }

    /// Joins kernels that read one constant whose type follows their format: in one type, for a copy in another would
    /// be bytes that nobody planned.
    fn join_readers(&mut self, kernels: &Graph, planned: &Buffers) {
        let mut readers: BTreeMap<ValueId, NodeId> = BTreeMap::new();
        for (&id, &first) in &self.kernels {
            for value in kernels.operands(id).into_iter().flatten() {
                let value = planned.root.get(&value).copied().unwrap_or(value);
                if kernels.constant(value).is_some_and(weights::narrows) {
                    let reader = *readers.entry(value).or_insert(first);
                    self.sets.join(reader, first);
                }
            }
        }
    }

    /// Joins nodes that share weights, with the views between.
    fn join_weights(&mut self, graph: &Graph) {
        let mut by_constant: BTreeMap<ValueId, NodeId> = BTreeMap::new();
        for id in graph.order() {
            if let Some(found) = weights::of(graph, id) {
                let first = *by_constant.entry(found.value).or_insert(id);
                self.sets.join(first, id);
                // What transposes them for one reader alone: cast apart from the others', they would be stored again.
                weights::views(graph, id).into_iter().for_each(|view| self.sets.join(first, view));
            }
        }
    }

    /// The groups, in order of their first node.
    pub(super) fn groups(&mut self, graph: &Graph) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for id in graph.order() {
            if graph.node(id).op().is_none() || !has_floats(graph, id) {
                continue;
            }
            let at = *self.groups.entry(self.sets.find(id)).or_insert_with(|| {
                groups.push(Group::default());
                groups.len() - 1
            });
            let group = &mut groups[at];
            group.nodes.push(id);
            let Some(found) = weights::of(graph, id) else { continue };
            match group.weights.iter_mut().find(|w| (w.value, w.layout) == (found.value, found.layout)) {
                Some(same) => {
                    same.has_products |= found.has_products;
                    same.has_own_rows &= found.has_own_rows;
                }
                None => group.weights.push(found),
            }
        }
        groups
    }

    /// The group of a kernel.
    pub(super) fn owner(&mut self, kernel: NodeId) -> Option<usize> {
        let first = *self.kernels.get(&kernel)?;
        self.groups.get(&self.sets.find(first)).copied()
    }
}

/// The values, each the root of its views, that are stored as formats say: what others read of a node. What lies
/// between the kernels of one node is f32 (`ops::widen`), be they of its expansion, or of a pass that put something
/// behind it.
pub(super) fn results(graph: &Graph, kernels: &Graph, planned: &Buffers) -> BTreeSet<ValueId> {
    let nodes = graph.order().into_iter().map(|id| graph.node(id)).filter(|node| node.op().is_some());
    let named: BTreeMap<&str, &str> =
        nodes.flat_map(|node| node.outputs.iter().map(|v| (v.name.as_str(), node.name.as_str()))).collect();
    // The nodes whose value one is: that of its name, else those that its kernel is of.
    let mut of: BTreeMap<ValueId, Vec<&str>> = BTreeMap::new();
    let mut results = BTreeSet::new();
    for &id in &planned.order {
        let node = kernels.node(id);
        let own: Vec<&str> = node.origins().iter().map(String::as_str).collect();
        let operands = kernels.operands(id);
        let viewed = operands.first().copied().flatten().filter(|_| is_view(kernels, id));
        if node.op().is_some() && viewed.is_none() {
            let is_inner = |value: &ValueId| of.get(value).is_none_or(|of| of.iter().any(|name| own.contains(name)));
            let read = operands.iter().flatten().filter(|value| !is_inner(value));
            results.extend(read.map(|value| planned.root.get(value).copied().unwrap_or(*value)));
        }
        for (out, value) in node.outputs.iter().enumerate() {
            let origins = match (named.get(value.name.as_str()), viewed) {
                (Some(name), _) => vec![*name],
                (None, Some(viewed)) => of.get(&viewed).cloned().unwrap_or_default(),
                (None, None) => own.clone(),
            };
            of.insert(id.out(out), origins);
        }
    }
    results
}

/// Whether a node has a format: it has a result that formats say how to store. States are stored in their own types.
pub fn has_floats(graph: &Graph, id: NodeId) -> bool {
    graph.stored_over(id).is_none()
        && graph.node(id).outputs.iter().any(|v| is_float(&v.ty) && !v.ty.dtype.is_minifloat())
}

/// Whether formats say how such a tensor is stored. f64 is f64 under each.
pub(super) fn is_float(ty: &TensorType) -> bool {
    ty.dtype.is_float() && ty.dtype != DType::F64 && ty.packing.is_none()
}

/// Union-find over nodes; the smaller id stands for its set.
#[derive(Default)]
struct Sets(BTreeMap<NodeId, NodeId>);

impl Sets {
    fn find(&mut self, node: NodeId) -> NodeId {
        let mut root = node;
        while let Some(&parent) = self.0.get(&root)
            && parent != root
        {
            root = parent;
        }
        self.0.insert(node, root);
        root
    }

    fn join(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.find(a), self.find(b));
        self.0.insert(a.max(b), a.min(b));
    }
}
