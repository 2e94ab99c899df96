//! Changes that merely follow from another: what a reviewer need not look at once the cause is understood.

use super::pair::Pairs;
use super::{NodeChange, Row};
use crate::ir::{Graph, NodeId, NodeKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// The nodes of a change, before and after.
pub(super) type Ids = [Option<NodeId>; 2];

/// Marks what follows from a change of an operand: a type or a format that passes on, an operand that is another
/// because a node was added or removed before it, and the constants of nodes that changed. A change of anything else is
/// a cause.
pub(super) fn upstream(changes: &mut [NodeChange], ids: &[Ids], before: &Graph, after: &Graph, pairs: &Pairs) {
    let mut at: [BTreeMap<NodeId, usize>; 2] = Default::default();
    for (i, pair) in ids.iter().enumerate() {
        (0..2).for_each(|side| {
            pair[side].map(|id| at[side].insert(id, i));
        });
    }
    for i in 0..changes.len() {
        let [Some(a), Some(b)] = ids[i] else { continue };
        if changes[i].renamed_from.is_some() || changes[i].fields.is_empty() {
            continue;
        }
        let cause = |what: &str| match what {
            "format" => format_cause(&changes[i], changes, after, b, &at[1]),
            "operands" => operand_cause(before, a, after, b, pairs, &at),
            _ if what.starts_with("type") => {
                let types_differ =
                    |j: usize| changes[j].before.as_ref().map(|r| &r.ty) != changes[j].after.as_ref().map(|r| &r.ty);
                producers(after, b).find_map(|id| at[1].get(&id).copied().filter(|&j| types_differ(j)))
            }
            _ if what.starts_with("operand ") => operand_cause(before, a, after, b, pairs, &at),
            _ => None,
        };
        let causes: Option<Vec<usize>> = changes[i].fields.iter().map(|field| cause(&field.what)).collect();
        if let Some(first) = causes.and_then(|causes| causes.into_iter().find(|&j| j != i)) {
            changes[i].follows = Some(root(&changes[first]));
        }
    }
    constants(changes, ids, [before, after], &at);
}

fn root(change: &NodeChange) -> String {
    change.follows.clone().unwrap_or_else(|| change.name.clone())
}

fn producers(graph: &Graph, id: NodeId) -> impl Iterator<Item = NodeId> {
    graph.operands(id).into_iter().flatten().map(|value: ValueId| value.node)
}

/// A node without a matrix of its own has its format from what it reads.
fn format_cause(
    change: &NodeChange,
    changes: &[NodeChange],
    after: &Graph,
    id: NodeId,
    at: &BTreeMap<NodeId, usize>,
) -> Option<usize> {
    let activations = |row: &Option<Row>| {
        let format: Option<crate::ir::Format> = row.as_ref().and_then(|row| row.format.parse().ok());
        format.map(|f| f.activations)
    };
    let is_matrix = |id: NodeId| after.node(id).constant().is_some_and(|t| t.ty().shape.rank() > 1);
    if producers(after, id).any(is_matrix) {
        return None;
    }
    let own = (activations(&change.before), activations(&change.after));
    let same = |j: &usize| {
        let other = &changes[*j];
        other.fields.iter().any(|f| f.what == "format")
            && (activations(&other.before), activations(&other.after)) == own
    };
    producers(after, id).find_map(|id| at.get(&id).copied().filter(same))
}

/// The added or removed node because of which an operand is another; `None` where one operand is another for another
/// reason.
fn operand_cause(
    before: &Graph,
    a: NodeId,
    after: &Graph,
    b: NodeId,
    pairs: &Pairs,
    at: &[BTreeMap<NodeId, usize>; 2],
) -> Option<usize> {
    let (from, to) = (before.operands(a), after.operands(b));
    if from.len() != to.len() {
        return None;
    }
    let mut cause = None;
    for (x, y) in from.into_iter().zip(to) {
        match (x, y) {
            (None, None) => {}
            (Some(x), Some(y)) if pairs.after_of(x.node) == Some(y.node) && x.out == y.out => {}
            (Some(x), Some(y)) => {
                // Another constant is a change of who reads it.
                let is_node = |graph: &Graph, id: NodeId| !matches!(graph.node(id).kind, NodeKind::Const(_));
                let is_added = pairs.before_of(y.node).is_none() && is_node(after, y.node);
                let is_removed = pairs.after_of(x.node).is_none() && is_node(before, x.node);
                let added = at[1].get(&y.node).filter(|_| is_added);
                let removed = at[0].get(&x.node).filter(|_| is_removed);
                cause = Some(*added.or(removed)?);
            }
            _ => return None,
        }
    }
    cause
}

/// Constants that were added or removed with the only nodes that read them.
fn constants(changes: &mut [NodeChange], ids: &[Ids], graphs: [&Graph; 2], at: &[BTreeMap<NodeId, usize>; 2]) {
    for i in 0..changes.len() {
        let (side, id) = match ids[i] {
            [Some(id), None] => (0, id),
            [None, Some(id)] => (1, id),
            _ => continue,
        };
        if !matches!(graphs[side].node(id).kind, NodeKind::Const(_)) {
            continue;
        }
        let users = graphs[side].users(id.out(0));
        let changed: Option<Vec<usize>> = users.iter().map(|(user, _)| at[side].get(user).copied()).collect();
        if let Some(&user) = changed.as_deref().and_then(<[usize]>::first) {
            changes[i].follows = Some(root(&changes[user]));
        }
    }
}

/// Marks the kernels and constants of two programs that follow from a change of an imported node which they compute or
/// belong to.
pub(super) fn imported(kernels: &mut [NodeChange], before: &Graph, after: &Graph, nodes: &[NodeChange]) {
    let mut causes: BTreeMap<&str, String> = BTreeMap::new();
    for node in nodes {
        causes.insert(&node.name, root(node));
        node.renamed_from.as_deref().map(|old| causes.insert(old, root(node)));
    }
    let origins = [origins(before), origins(after)];
    for kernel in kernels {
        let names = [kernel.renamed_from.as_ref().unwrap_or(&kernel.name), &kernel.name];
        let found = (0..2).rev().find_map(|side| {
            let own = origins[side].get(names[side])?;
            own.iter().find_map(|origin| causes.get(origin.as_str()))
        });
        if let Some(cause) = found {
            kernel.follows = Some(cause.clone());
        }
    }
}

/// The imported nodes that each node computes, or that what reads it computes.
pub(super) fn origins(graph: &Graph) -> BTreeMap<String, BTreeSet<String>> {
    let one = |id: NodeId| {
        let node = graph.node(id);
        let own: BTreeSet<String> = match node.kind {
            NodeKind::Op(_) => node.origins().iter().cloned().collect(),
            _ => {
                let users = graph.users(id.out(0)).into_iter();
                users.flat_map(|(user, _)| graph.node(user).origins().to_vec()).collect()
            }
        };
        (node.name.clone(), own)
    };
    graph.order().into_iter().map(one).collect()
}
