//! Sizes that are symbols: which there are, what they may be, and putting numbers in their places.

use super::{Graph, Node, NodeId, NodeKind, ValueId};
use crate::ir::{Attr, COUNT, Dim, Op, SIZES, Symbol};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

impl Graph {
    /// The elements of a value that is a list of sizes ([`SIZES`]), some of them symbolic.
    pub fn sizes(&self, id: ValueId) -> Option<&[Dim]> {
        self.node(id.node).sizes()
    }

    /// The symbols that have a range, in order of their names, and their ranges.
    pub fn ranges(&self) -> BTreeMap<String, RangeInclusive<i64>> {
        let mut ranges = BTreeMap::new();
        for node in self.graph.node_weights() {
            node.for_each_symbol(&mut |symbol| {
                if let Some(range) = symbol.range() {
                    ranges.entry(symbol.name().to_owned()).or_insert(range);
                }
            });
        }
        ranges
    }

    /// The names of the symbols that a node mentions.
    pub fn symbols_of(&self, id: NodeId) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        self.node(id).for_each_symbol(&mut |symbol| {
            names.insert(symbol.name().to_owned());
        });
        names
    }

    /// The data-dependent symbols, and the node that defines each ([`COUNT`]).
    pub fn size_definers(&self) -> BTreeMap<String, NodeId> {
        self.size_definers_by(|_| 0)
    }

    /// The same, of several for one symbol that with the most uses.
    pub(super) fn size_definers_by(&self, n_uses: impl Fn(NodeId) -> usize) -> BTreeMap<String, NodeId> {
        let mut definers: BTreeMap<String, NodeId> = BTreeMap::new();
        for (id, symbol) in
            self.graph.node_indices().filter_map(|index| Some((NodeId(index), self.graph[index].defined_symbol()?)))
        {
            let definer = definers.entry(symbol.name().to_owned()).or_insert(id);
            if n_uses(id) > n_uses(*definer) {
                *definer = id;
            }
        }
        definers
    }

    /// The definers of the symbols that a node mentions, itself excepted: they must be computed before it, with
    /// or without an edge between them.
    pub fn size_definers_of(&self, id: NodeId, definers: &BTreeMap<String, NodeId>) -> BTreeSet<NodeId> {
        let mut found = BTreeSet::new();
        if !definers.is_empty() && self.node(id).kind != NodeKind::Input {
            self.node(id).for_each_symbol(&mut |symbol| {
                found.extend(definers.get(symbol.name()).filter(|definer| **definer != id))
            });
        }
        found
    }

    /// The symbols in the shapes of its inputs that have no range: nothing says how much memory they need.
    pub fn open_symbols(&self) -> BTreeSet<String> {
        let mut open = BTreeSet::new();
        for dim in self.inputs().iter().flat_map(|id| &self.ty(id.out(0)).shape.0) {
            dim.for_each_symbol(&mut |symbol| {
                if symbol.range().is_none() {
                    open.insert(symbol.name().to_owned());
                }
            });
        }
        open
    }

    /// This graph with the symbols replaced for which `replace` gives something: of sizes bound to numbers, one that
    /// can be computed.
    pub fn substitute(&self, replace: &dyn Fn(&Symbol) -> Option<Dim>) -> Graph {
        let mut graph = self.clone();
        for node in graph.graph.node_weights_mut() {
            for dim in node.outputs.iter_mut().flat_map(|v| &mut v.ty.shape.0) {
                *dim = dim.substitute(replace);
            }
            if let NodeKind::Op(op) = &mut node.kind {
                op.substitute(replace);
            }
        }
        graph
    }
}

impl Node {
    /// The elements of its result, where that is a list of sizes ([`SIZES`]).
    pub fn sizes(&self) -> Option<&[Dim]> {
        self.op().filter(|op| op.def.name == SIZES)?.attrs.dims("value")
    }

    /// The data-dependent symbol that this node defines: its value is known once the node has been computed
    /// ([`COUNT`]).
    pub fn defined_symbol(&self) -> Option<&Symbol> {
        match self.op()?.attrs.dims(COUNT)? {
            [count] => count.solved_symbol(),
            _ => None,
        }
    }

    /// Calls `f` with every symbol in the types of its outputs and in its attributes.
    pub fn for_each_symbol(&self, f: &mut dyn FnMut(&Symbol)) {
        self.outputs.iter().flat_map(|v| &v.ty.shape.0).for_each(|dim| dim.for_each_symbol(f));
        if let Some(op) = self.op() {
            op.for_each_symbol(f);
        }
    }
}

impl Op {
    /// Calls `f` with every symbol in its attributes, those of graphs among them included.
    pub fn for_each_symbol(&self, f: &mut dyn FnMut(&Symbol)) {
        for attr in self.attrs.0.values() {
            match attr {
                Attr::Dims(dims) => dims.iter().for_each(|dim| dim.for_each_symbol(f)),
                Attr::Graph(body) => body.graph.node_weights().for_each(|node| node.for_each_symbol(f)),
                _ => {}
            }
        }
    }

    /// Replaces in its attributes the symbols for which `replace` gives something.
    pub fn substitute(&mut self, replace: &dyn Fn(&Symbol) -> Option<Dim>) {
        for attr in self.attrs.0.values_mut() {
            match attr {
                Attr::Dims(dims) => dims.iter_mut().for_each(|dim| *dim = dim.substitute(replace)),
                Attr::Graph(body) => **body = body.substitute(replace),
                _ => {}
            }
        }
    }
}
