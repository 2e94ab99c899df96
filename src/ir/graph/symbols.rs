//! Sizes that are symbols: which there are, what they may be, and putting numbers in their places.

use super::{Graph, Node, NodeKind, ValueId};
use crate::ir::{Attr, Dim, SIZES, Symbol};
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
        let mut note = |dim: &Dim| {
            dim.for_each_symbol(&mut |symbol| {
                if let Some(range) = symbol.range() {
                    ranges.entry(symbol.name().to_owned()).or_insert(range);
                }
            });
        };
        for node in self.graph.node_weights() {
            node.outputs.iter().flat_map(|v| &v.ty.shape.0).for_each(&mut note);
            let attrs = node.op().into_iter().flat_map(|op| op.attrs.0.values());
            attrs.filter_map(|attr| if let Attr::Dims(dims) = attr { Some(dims) } else { None }).flatten().for_each(&mut note);
        }
        ranges
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

    /// This graph with the symbols replaced for which `replace` gives something: of sizes bound to numbers, one that can be computed.
    pub fn substitute(&self, replace: &dyn Fn(&Symbol) -> Option<Dim>) -> Graph {
        let mut graph = self.clone();
        for node in graph.graph.node_weights_mut() {
            for dim in node.outputs.iter_mut().flat_map(|v| &mut v.ty.shape.0) {
                *dim = dim.substitute(replace);
            }
            let NodeKind::Op(op) = &mut node.kind else { continue };
            for attr in op.attrs.0.values_mut() {
                match attr {
                    Attr::Dims(dims) => dims.iter_mut().for_each(|dim| *dim = dim.substitute(replace)),
                    Attr::Graph(body) => **body = body.substitute(replace),
                    _ => {}
                }
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
}
