//! An order in which nodes that do not depend on each other stand together, so that one barrier serves them all, in no
//! more memory than the order it is made from.
//!
//! Nodes run in groups. In the beginning each is a group by itself, in the given order. From the first group on, nodes
//! of the next ones move into it that depend on nothing in it nor in the groups between, as long as nowhere more is
//! live than was anywhere before. Whatever lives in a group is taken to live through all of it. So a group reuses no
//! buffer, and nothing within it needs a barrier but what the dispatches of one node do to each other.

use super::arena::Buffer;
use super::memory::{Buffers, is_view};
use super::round_up;
use crate::ir::{Graph, NodeId, NodeKind, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// How many groups ahead nodes are looked for.
const WINDOW: usize = 64;

/// Every node of a graph, in the order in which they run, and for each its group, from 0 on: the inputs'.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// The nodes.
    pub order: Vec<NodeId>,
    /// Their groups, ascending.
    pub groups: Vec<usize>,
}

impl Schedule {
    /// Groups the nodes of `buffers`, of which at most `limit` bytes are live at once; `is_host` says of a node whether
    /// it runs on the host, which no dispatch shares a group with.
    pub fn new(
        graph: &Graph,
        buffers: &Buffers,
        alignment: u64,
        limit: u64,
        is_host: &dyn Fn(NodeId) -> bool,
    ) -> Schedule {
        let mut units = Units::of(graph, buffers, alignment, is_host);
        units.gather(limit);
        units.schedule(graph, buffers)
    }

    /// Lifetimes in which every buffer lives from the beginning of a group to the end of one.
    pub fn lifetimes(&self, buffers: &Buffers) -> Vec<Buffer> {
        let mut spans: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
        for (step, group) in self.groups.iter().enumerate() {
            spans.entry(*group).or_insert((step, step)).1 = step;
        }
        let span =
            |step: usize| self.groups.get(step).and_then(|group| spans.get(group)).copied().unwrap_or((step, step));
        let widened = |b: &Buffer| Buffer { bytes: b.bytes, first: span(b.first).0, last: span(b.last).1 };
        buffers.live.iter().map(|live| widened(&live.buffer)).collect()
    }
}

/// Nodes that run, by number, with what they need; groups are numbered from 1 on, group 0 is before them all.
struct Units {
    nodes: Vec<NodeId>,
    is_host: Vec<bool>,
    /// The units that must be done before.
    after: Vec<BTreeSet<usize>>,
    /// Buffers that a unit makes, and that it reads.
    makes: Vec<Vec<usize>>,
    reads: Vec<Vec<usize>>,
    buffers: Vec<Lived>,
    group: Vec<usize>,
    members: Vec<Vec<usize>>,
    /// Bytes that live in each group.
    live: Vec<u64>,
}

/// A buffer.
struct Lived {
    bytes: u64,
    maker: Option<usize>,
    /// How many nodes of a group read it.
    readers: BTreeMap<usize, usize>,
    to_the_end: bool,
}

impl Units {
    fn of(graph: &Graph, buffers: &Buffers, alignment: u64, is_host: &dyn Fn(NodeId) -> bool) -> Units {
        let runs = |id: &NodeId| graph.node(*id).op().is_some() && !is_view(graph, *id);
        let nodes: Vec<NodeId> = buffers.order.iter().copied().filter(runs).collect();
        let number: BTreeMap<NodeId, usize> = nodes.iter().enumerate().map(|(i, id)| (*id, i)).collect();
        let root = |value: ValueId| buffers.root.get(&value).copied().unwrap_or(value);
        let mut lived = Vec::new();
        let mut index: BTreeMap<ValueId, usize> = BTreeMap::new();
        let kept: BTreeSet<ValueId> = graph.outputs().iter().map(|output| root(output.value)).collect();
        for (i, live) in buffers.live.iter().enumerate() {
            index.insert(live.value, i);
            let to_the_end = kept.contains(&live.value);
            let maker = number.get(&live.value.node).copied();
            let bytes = round_up(live.buffer.bytes, alignment);
            lived.push(Lived { bytes, maker, readers: BTreeMap::new(), to_the_end });
        }
        let ordering = graph.ordering();
        let (mut after, mut makes, mut reads) = (Vec::new(), Vec::new(), Vec::new());
        for (unit, &id) in nodes.iter().enumerate() {
            let mut before: BTreeSet<NodeId> = graph.waits_for(id, &ordering);
            let mut read = BTreeSet::new();
            for value in graph.operands(id).into_iter().flatten() {
                // A view may have data-dependent sizes.
                let mut at = value;
                while is_view(graph, at.node) {
                    before.extend(graph.waits_for(at.node, &ordering));
                    let Some(Some(source)) = graph.operands(at.node).first().copied() else { break };
                    at = source;
                }
                before.insert(at.node);
                read.extend(index.get(&root(value)).copied());
            }
            after.push(before.iter().filter_map(|id| number.get(id).copied()).filter(|other| *other != unit).collect());
            read.iter().for_each(|b| *lived[*b].readers.entry(unit + 1).or_default() += 1);
            reads.push(read.into_iter().collect());
            makes.push((0..graph.node(id).outputs.len()).filter_map(|out| index.get(&id.out(out)).copied()).collect());
        }
        let n = nodes.len();
        let is_host = nodes.iter().map(|id| is_host(*id)).collect();
        let (group, members) =
            ((1..=n).collect(), std::iter::once(Vec::new()).chain((0..n).map(|u| vec![u])).collect());
        let mut units =
            Units { nodes, is_host, after, makes, reads, buffers: lived, group, members, live: vec![0; n + 2] };
        let mut steps = vec![0i128; n + 3];
        for b in 0..units.buffers.len() {
            let (first, last) = units.span(b);
            steps[first] += i128::from(units.buffers[b].bytes);
            steps[last + 1] -= i128::from(units.buffers[b].bytes);
        }
        let mut sum = 0;
        for (live, step) in units.live.iter_mut().zip(steps) {
            sum += step;
            *live = u64::try_from(sum).unwrap_or(u64::MAX);
        }
        units
    }

    /// The first and the last group in which a buffer lives.
    fn span(&self, buffer: usize) -> (usize, usize) {
        let b = &self.buffers[buffer];
        let first = b.maker.map_or(0, |unit| self.group[unit]);
        let last = b.readers.last_key_value().map_or(first, |(group, _)| first.max(*group));
        (first, if b.to_the_end { self.live.len() - 1 } else { last })
    }

    /// Moves nodes to earlier groups.
    fn gather(&mut self, limit: u64) {
        for to in 1..self.members.len() {
            let Some(&first) = self.members[to].first() else { continue };
            let (mut seen, mut from) = (0, to + 1);
            while seen < WINDOW && from < self.members.len() {
                // Groups ahead have not been added to yet.
                if let Some(&unit) = self.members[from].first() {
                    seen += 1;
                    let may_join = self.is_host[unit] == self.is_host[first];
                    if may_join && self.after[unit].iter().all(|u| self.group[*u] < to) {
                        self.join(unit, to, limit);
                    }
                }
                from += 1;
            }
        }
    }

    /// Moves a node to an earlier group, unless more than `limit` bytes would live somewhere.
    fn join(&mut self, unit: usize, to: usize, limit: u64) {
        let from = self.group[unit];
        let touched: Vec<usize> = self.makes[unit].iter().chain(&self.reads[unit]).copied().collect();
        let before: Vec<(usize, usize)> = touched.iter().map(|b| self.span(*b)).collect();
        self.place(unit, to);
        let changes = touched.iter().zip(before).map(|(b, before)| (self.buffers[*b].bytes, before, self.span(*b)));
        let changes: Vec<_> = changes.filter(|(_, before, after)| before != after).collect();
        self.exchange(to, changes.iter().map(|(bytes, before, after)| (*bytes, *before, *after)));
        if self.live[to..=from].iter().all(|bytes| *bytes <= limit) {
            self.members[from].clear();
            self.members[to].push(unit);
            return;
        }
        self.place(unit, from);
        self.exchange(to, changes.iter().map(|(bytes, before, after)| (*bytes, *after, *before)));
    }

    /// So many bytes each live from now on in the second span, and not in the first. What lives in groups before `to`
    /// is settled.
    fn exchange(&mut self, to: usize, changes: impl Iterator<Item = (u64, (usize, usize), (usize, usize))>) {
        for (bytes, old, new) in changes {
            for (first, last) in apart(old, new) {
                self.live[..=last].iter_mut().skip(first.max(to)).for_each(|sum| *sum = sum.saturating_sub(bytes));
            }
            for (first, last) in apart(new, old) {
                self.live[..=last].iter_mut().skip(first.max(to)).for_each(|sum| *sum = sum.saturating_add(bytes));
            }
        }
    }

    /// Notes that a node is in another group.
    fn place(&mut self, unit: usize, group: usize) {
        let from = std::mem::replace(&mut self.group[unit], group);
        for b in &self.reads[unit] {
            let readers = &mut self.buffers[*b].readers;
            *readers.entry(group).or_default() += 1;
            if let Some(n) = readers.get_mut(&from) {
                *n -= 1;
                if *n == 0 {
                    readers.remove(&from);
                }
            }
        }
    }

    /// All nodes in this order: constants and views come right before the first that needs them.
    fn schedule(&self, graph: &Graph, buffers: &Buffers) -> Schedule {
        let mut schedule = Schedule { order: Vec::new(), groups: Vec::new() };
        let mut done: BTreeSet<NodeId> = BTreeSet::new();
        let mut group = 0;
        let mut emit = |id: NodeId, group: usize| {
            if !done.insert(id) {
                return;
            }
            let mut stack = vec![(id, graph.operands(id), 0)];
            while let Some((id, operands, next)) = stack.last_mut() {
                if let Some(operand) = operands.get(*next) {
                    *next += 1;
                    if let Some(value) = *operand
                        && done.insert(value.node)
                    {
                        stack.push((value.node, graph.operands(value.node), 0));
                    }
                } else {
                    schedule.order.push(*id);
                    schedule.groups.push(group);
                    stack.pop();
                }
            }
        };
        let inputs =
            buffers.order.iter().filter(|id| matches!(graph.node(**id).kind, NodeKind::Input | NodeKind::State));
        inputs.for_each(|id| emit(*id, group));
        for members in self.members.iter().filter(|members| !members.is_empty()) {
            group += 1;
            members.iter().for_each(|unit| emit(self.nodes[*unit], group));
        }
        buffers.order.iter().for_each(|id| emit(*id, group));
        schedule
    }
}

/// The parts of a span that are outside of another.
fn apart((first, last): (usize, usize), other: (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
    let left = (first < other.0).then(|| (first, last.min(other.0 - 1)));
    let right = (last > other.1).then(|| (first.max(other.1 + 1), last));
    left.into_iter().chain(right)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, Expr, Level, Op, TensorType};
    use crate::ops::core::{concat, pointwise};
    use crate::plan::arena::max_live;
    use crate::targets::Target;

    /// `n` nodes, each of one or two values made before, some of them wider than their operands.
    fn random(n: usize, seed: u64) -> Graph {
        let mut state = seed;
        let mut next = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        let mut graph = Graph::new("g", Level::Kernel);
        let mut values: Vec<ValueId> =
            (0..3).map(|i| graph.add_input(&format!("x{i}"), TensorType::of(DType::F32, &[64]))).collect();
        for i in 0..n {
            let mut pick = || values[values.len() - 1 - next(values.len().min(8))];
            let (a, b) = (pick(), pick());
            let op = if graph.ty(a) == graph.ty(b) && next(4) > 0 {
                Op::new(&pointwise::DEF, pointwise::attrs(Expr::parse("add(x0,x1)").unwrap(), DType::F32))
            } else {
                Op::new(&concat::DEF, crate::ir::Attrs::new().with_int("axis", 0))
            };
            let wide = graph.ty(a).shape.n_elems().unwrap() + graph.ty(b).shape.n_elems().unwrap() > 1 << 12;
            let (op, operands) = if op.is(&concat::DEF) && wide {
                (Op::new(&pointwise::DEF, pointwise::attrs(Expr::parse("neg(x0)").unwrap(), DType::F32)), vec![Some(a)])
            } else {
                (op, vec![Some(a), Some(b)])
            };
            let node = graph.add_op(&format!("n{i}"), op, &operands, &[format!("y{i}")]).unwrap();
            values.push(node.out(0));
        }
        graph.add_output("y", values[values.len() - 1]);
        graph.add_output("z", values[values.len() - 3]);
        graph
    }

    fn check(graph: &Graph, limit: Option<u64>) -> (usize, usize) {
        let target = Target::shipped("lavapipe").unwrap();
        let buffers = Buffers::best(graph, &target).unwrap();
        let (least, _) = max_live(&buffers.arena(), target.alignment()).unwrap();
        let schedule = Schedule::new(graph, &buffers, target.alignment(), limit.unwrap_or(least), &|_| false);
        assert_eq!(schedule.order.iter().collect::<BTreeSet<_>>(), buffers.order.iter().collect());
        let group: BTreeMap<NodeId, usize> =
            schedule.order.iter().copied().zip(schedule.groups.iter().copied()).collect();
        let runs = |id: NodeId| graph.node(id).op().is_some();
        for (step, &id) in schedule.order.iter().enumerate() {
            for operand in graph.operands(id).into_iter().flatten() {
                assert!(schedule.order[..step].contains(&operand.node), "an operand comes before");
                assert!(!runs(operand.node) || group[&operand.node] < group[&id], "and in an earlier group");
            }
        }
        let again = Buffers::of(graph, schedule.order.clone()).unwrap();
        let (most, _) = max_live(&schedule.lifetimes(&again), target.alignment()).unwrap();
        assert!(limit.is_some() || most <= least, "{most} bytes live where {least} did");
        let depth = schedule.order.iter().filter(|id| runs(**id)).count();
        (schedule.groups.iter().copied().max().unwrap(), depth)
    }

    /// The nodes of the longest chain.
    fn longest(graph: &Graph) -> usize {
        let mut depth: BTreeMap<NodeId, usize> = BTreeMap::new();
        for id in graph.order() {
            let before = graph.operands(id).into_iter().flatten().map(|v| depth[&v.node]).max().unwrap_or(0);
            depth.insert(id, before + usize::from(graph.node(id).op().is_some()));
        }
        depth.into_values().max().unwrap()
    }

    #[test]
    fn groups_never_take_more_memory_and_without_a_limit_there_are_as_few_as_can_be() {
        let (mut n_groups, mut n_nodes) = (0, 0);
        for seed in 0..200 {
            let graph = random(40, seed);
            let (groups, nodes) = check(&graph, None);
            (n_groups, n_nodes) = (n_groups + groups, n_nodes + nodes);
            assert_eq!(check(&graph, Some(u64::MAX)).0, longest(&graph), "graph {seed}");
        }
        assert!(n_groups * 10 < n_nodes * 9, "{n_groups} groups of {n_nodes} nodes");
    }
}
