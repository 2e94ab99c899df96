//! The nodes that two programs report of the imported model.

use super::follow::origins;
use super::node::{Fields, alone};
use super::{NodeChange, Row, Side};
use crate::ir::{Format, Graph};
use crate::program::NodeReport;
use std::collections::{BTreeMap, BTreeSet};

/// The reported nodes that differ, in the order of the second, what was removed behind what it stood behind.
pub(super) fn changes(before: &Side<'_>, after: &Side<'_>) -> Vec<NodeChange> {
    let (from, to) = (nodes(before), nodes(after));
    let pairs = pairs(from, to);
    let (types_before, types_after) = (types(before.graph), types(after.graph));
    let mut found: Vec<((usize, usize), NodeChange)> = Vec::new();
    let mut behind = 0;
    for (i, node) in from.iter().enumerate() {
        match pairs.get(&i) {
            Some(j) => behind = j + 1,
            None => found.push(((behind, i + 1), alone(&node.name, Some(row(node, &types_before)), None))),
        }
    }
    let back: BTreeMap<usize, usize> = pairs.iter().map(|(i, j)| (*j, *i)).collect();
    for (j, node) in to.iter().enumerate() {
        let change = match back.get(&j) {
            Some(&i) => compare(&from[i], &types_before, node, &types_after),
            None => Some(alone(&node.name, None, Some(row(node, &types_after)))),
        };
        found.extend(change.map(|change| ((j + 1, 0), change)));
    }
    found.sort_by_key(|(place, _)| *place);
    let mut changes: Vec<NodeChange> = found.into_iter().map(|(_, change)| change).collect();
    // The place in the schedule is part of what is reported.
    let order: Vec<usize> = (0..from.len()).filter_map(|i| pairs.get(&i).copied()).collect();
    if !order.is_sorted()
        && let Some(at) = order.windows(2).position(|w| w[0] > w[1])
    {
        let node = &to[order[at]];
        let place = |n: usize| format!("node {n} of the model");
        let i = back.get(&order[at]).copied().unwrap_or_default();
        let mut change = alone(&node.name, Some(row(&from[i], &types_before)), Some(row(node, &types_after)));
        let mut fields = Fields(Vec::new());
        fields.differ("place", &place(i), &place(order[at]));
        change.fields = fields.0;
        changes.push(change);
    }
    follow(&mut changes, after.graph);
    changes
}

fn nodes<'a>(side: &Side<'a>) -> &'a [NodeReport] {
    side.program.and_then(|p| p.plans.first()).map_or(&[], |plan| &plan.nodes)
}

/// By name, and what has no namesake by operator and weights: the first with the first.
fn pairs(from: &[NodeReport], to: &[NodeReport]) -> BTreeMap<usize, usize> {
    let by_name: BTreeMap<&str, usize> = to.iter().enumerate().map(|(j, n)| (n.name.as_str(), j)).collect();
    let mut taken = BTreeSet::new();
    let mut pairs = BTreeMap::new();
    for (i, node) in from.iter().enumerate() {
        if let Some(&j) = by_name.get(node.name.as_str()).filter(|j| taken.insert(**j)) {
            pairs.insert(i, j);
        }
    }
    for (i, node) in from.iter().enumerate().filter(|(i, _)| !pairs.contains_key(i)).collect::<Vec<_>>() {
        let alike =
            |n: &NodeReport| (&n.op, n.f32_weight_bytes, &n.kernel) == (&node.op, node.f32_weight_bytes, &node.kernel);
        if let Some((j, _)) = to.iter().enumerate().find(|(j, n)| !taken.contains(j) && alike(n)) {
            taken.insert(j);
            pairs.insert(i, j);
        }
    }
    pairs
}

/// The types of the results of the nodes of a program's graph, which fusion leaves for the last of those it joins.
fn types(graph: &Graph) -> BTreeMap<String, String> {
    let one = |id| {
        let node = graph.node(id);
        let types: Vec<_> = node.outputs.iter().map(|v| v.ty.to_string()).collect();
        (node.name.clone(), types.join(", "))
    };
    graph.order().into_iter().map(one).collect()
}

fn row(node: &NodeReport, types: &BTreeMap<String, String>) -> Row {
    Row {
        op: node.op.clone(),
        format: node.format.clone(),
        ty: types.get(&node.name).cloned().unwrap_or_default(),
        kernel: node.kernel.clone(),
        bytes: node.weight_bytes,
    }
}

fn compare(
    a: &NodeReport,
    types_before: &BTreeMap<String, String>,
    b: &NodeReport,
    types_after: &BTreeMap<String, String>,
) -> Option<NodeChange> {
    let (before, after) = (row(a, types_before), row(b, types_after));
    let mut fields = Fields(Vec::new());
    fields.note("operator", &a.op, &b.op);
    fields.note("format", &a.format, &b.format);
    fields.note("type", &before.ty, &after.ty);
    fields.note("where", &a.place, &b.place);
    fields.note("kernel", &a.kernel, &b.kernel);
    let bytes = |n: u64| format!("{n} B");
    fields.note("weights", &bytes(a.weight_bytes), &bytes(b.weight_bytes));
    fields.note("weights in f32", &bytes(a.f32_weight_bytes), &bytes(b.f32_weight_bytes));
    fields.note("reason", &a.reason, &b.reason);
    let renamed_from = (a.name != b.name).then(|| a.name.clone());
    if fields.0.is_empty() && renamed_from.is_none() {
        return None;
    }
    let (before, after) = (Some(before), Some(after));
    Some(NodeChange { name: b.name.clone(), renamed_from, before, after, fields: fields.0, data: None, follows: None })
}

/// Marks nodes without weights whose format, types or kernel are others as those of a node of the same kernel are, or
/// of what it reads.
fn follow(changes: &mut [NodeChange], graph: &Graph) {
    let own = origins(graph);
    let mut near: BTreeMap<&str, Vec<&String>> = BTreeMap::new();
    for id in graph.order() {
        let Some(mine) = own.get(&graph.node(id).name).filter(|_| graph.node(id).op().is_some()) else { continue };
        let producers = graph.operands(id).into_iter().flatten().map(|v| graph.node(v.node));
        let read = producers.filter(|n| n.op().is_some()).filter_map(|n| own.get(&n.name)).flatten();
        let around: Vec<&String> = mine.iter().chain(read).collect();
        mine.iter().for_each(|name| near.entry(name).or_default().extend(&around));
    }
    let activations = |row: &Option<Row>| {
        let format: Option<Format> = row.as_ref().and_then(|row| row.format.parse().ok());
        format.map(|f| f.activations)
    };
    let is_derived = |change: &NodeChange| {
        let bytes = |row: &Option<Row>| row.as_ref().map_or(0, |row| row.bytes);
        let passes_on = |what: &str| matches!(what, "format" | "type" | "kernel" | "reason");
        change.renamed_from.is_none()
            && !change.fields.is_empty()
            && change.fields.iter().all(|f| passes_on(&f.what))
            && bytes(&change.before) + bytes(&change.after) == 0
    };
    // A cause stands before what follows from it, or is the node with the weights of the same kernel.
    let causes: BTreeMap<String, usize> = changes.iter().enumerate().map(|(i, c)| (c.name.clone(), i)).collect();
    for i in 0..changes.len() {
        if !is_derived(&changes[i]) {
            continue;
        }
        let passed = (activations(&changes[i].before), activations(&changes[i].after));
        let around = near.get(changes[i].name.as_str()).into_iter().flatten();
        let cause = around.filter_map(|name| causes.get(name.as_str()).copied()).find(|&j| {
            let (other, is_root) = (&changes[j], !is_derived(&changes[j]));
            j != i
                && (is_root || (j < i && other.follows.is_some()))
                && (activations(&other.before), activations(&other.after)) == passed
        });
        if let Some(j) = cause {
            changes[i].follows = Some(changes[j].follows.clone().unwrap_or_else(|| changes[j].name.clone()));
        }
    }
}
