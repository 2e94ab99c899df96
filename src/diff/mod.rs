//! Differences between two graphs or programs, for reviewers: what changed, what follows from it, and what it costs.
//!
//! Two graphs are equal if and only if a [`Diff`] of them is empty: names, level, ranges of sizes, inputs and outputs
//! in order, and of every node operator, attributes, operands in order, types, format, origins and the content of
//! constants. Only where a node stands in its file is left out, as the text form leaves it out. Of programs every field
//! that their file holds is compared as well.
//!
//! - `pair` matches nodes: by name, then by structure, so that a renamed node is one that was renamed.
//! - `node` compares the two nodes of a pair, `data` their constants.
//! - `follow` finds the changes that merely follow from another one.
//! - `facts` compares what is no node: ports and sizes of graphs, every other field of programs.
//! - `report` compares the nodes that programs report of the imported model.
//! - `summary`, `text` and `json` are what people and tools get.

mod data;
mod facts;
mod follow;
mod json;
mod node;
mod pair;
mod report;
mod summary;
#[cfg(test)]
mod tests;
mod text;

pub use data::DataChange;
pub use summary::{Figure, Number, Summary};

use crate::ir::{Graph, Node, NodeId, NodeKind};
use crate::program::Program;
use pair::Pairs;
use std::collections::BTreeMap;

/// One of the two things that are compared.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// The graph; that of the program's first plan where there is a program.
    pub graph: &'a Graph,
    /// The program.
    pub program: Option<&'a Program>,
    /// What the graph's file says, by entry (`node NAME`, `initializer NAME`, ...): what it is, and which values it
    /// reads and writes. A graph has no more of it what was computed, dropped or bound as it was read.
    pub file: Option<&'a BTreeMap<String, [String; 2]>>,
}

/// What a node is, in short.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Operator, `input` or `const`.
    pub op: String,
    /// Format; empty where it has none.
    pub format: String,
    /// Types of its outputs; empty where a node is part of a larger kernel.
    pub ty: String,
    /// Kernel; empty in graphs, which have none yet.
    pub kernel: String,
    /// Bytes of its weights, or of its data where it is a constant.
    pub bytes: u64,
}

/// One property that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which: `operator`, `attribute axis`, `operand 1`, `operands`, `output 0`, `type`, `format`, `from`, `data`,
    /// `kernel` and so on.
    pub what: String,
    /// Before; `-` where there was none.
    pub before: String,
    /// After; `-` where there is none.
    pub after: String,
}

/// A node that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeChange {
    /// Its name, that in the second where both have it.
    pub name: String,
    /// Its name in the first, where that is another.
    pub renamed_from: Option<String>,
    /// What it was; `None` where it was added.
    pub before: Option<Row>,
    /// What it is; `None` where it was removed.
    pub after: Option<Row>,
    /// What differs, where both have it; the name is not among these.
    pub fields: Vec<Field>,
    /// How the data of a constant differ.
    pub data: Option<DataChange>,
    /// The node whose change this one merely follows from.
    pub follows: Option<String>,
}

/// Something that is no node and differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// What it is: a path of names, `*` for the numbers in it where several places differ in the same way.
    pub what: String,
    /// In the first, at the first of the places; `-` where there was none.
    pub before: String,
    /// In the second; `-` where there is none.
    pub after: String,
    /// How many places differ.
    pub count: usize,
}

/// All that differs.
#[derive(Clone, Debug, PartialEq)]
pub struct Diff {
    /// Figures of both, whether they differ or not.
    pub summary: Summary,
    /// Ports, sizes, and fields of programs.
    pub facts: Vec<Fact>,
    /// Nodes in the graph's order: those that programs report where both are programs, else those of the graphs.
    pub nodes: Vec<NodeChange>,
    /// Nodes of the graphs of two programs; empty where two graphs are compared.
    pub kernels: Vec<NodeChange>,
}

impl Diff {
    /// What changes from `before` to `after`.
    pub fn of(before: &Side<'_>, after: &Side<'_>) -> Diff {
        let pairs = Pairs::of(before.graph, after.graph);
        let mut facts =
            facts::of_graphs(before.graph, after.graph, &pairs, before.file.is_none() || after.file.is_none());
        let mut kernels = graph_changes(before.graph, after.graph, &pairs);
        let summary = Summary::of(before, after);
        let mut nodes = Vec::new();
        if let (Some(a), Some(b)) = (before.program, after.program) {
            facts.extend(facts::of_programs(a, b));
            nodes = report::changes(before, after);
            follow::imported(&mut kernels, before.graph, after.graph, &nodes);
        } else {
            std::mem::swap(&mut nodes, &mut kernels);
        }
        if let (Some(a), Some(b)) = (before.file, after.file) {
            let further = facts::of_files([a, b], [before.graph, after.graph], &nodes, &facts);
            facts.extend(further);
        }
        Diff { summary, facts, nodes, kernels }
    }

    /// What changes from one graph to another.
    pub fn of_graphs(before: &Graph, after: &Graph) -> Diff {
        let side = |graph| Side { graph, program: None, file: None };
        Diff::of(&side(before), &side(after))
    }

    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.facts.is_empty() && self.nodes.is_empty() && self.kernels.is_empty()
    }

    /// Bytes of weights more in the second than in the first: of constants in graphs, of packed weights in programs.
    pub fn bytes_delta(&self) -> i128 {
        self.nodes.iter().map(NodeChange::bytes_delta).sum()
    }
}

impl NodeChange {
    /// Bytes more after than before.
    pub fn bytes_delta(&self) -> i128 {
        let bytes = |row: &Option<Row>| row.as_ref().map_or(0, |row| i128::from(row.bytes));
        bytes(&self.after) - bytes(&self.before)
    }

    /// `added`, `removed`, `renamed` or `changed`.
    pub fn kind(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "added",
            (_, None) => "removed",
            _ if self.fields.is_empty() && self.renamed_from.is_some() => "renamed",
            _ => "changed",
        }
    }
}

/// A node of a graph in short.
fn row(node: &Node) -> Row {
    let types: Vec<_> = node.outputs.iter().map(|v| v.ty.to_string()).collect();
    let (op, bytes) = match &node.kind {
        NodeKind::Input => ("input", 0),
        NodeKind::State => ("state", 0),
        NodeKind::Const(tensor) => ("const", tensor.ty().bytes().unwrap_or(0)),
        NodeKind::Op(op) => (op.def.name, 0),
    };
    let format = node.format.map(|f| f.to_string()).unwrap_or_default();
    Row { op: op.to_owned(), format, ty: types.join(", "), kernel: String::new(), bytes }
}

/// The node of the second graph that a change stands at or behind, and the place of what was removed among those
/// removed there.
type Place = (usize, usize);

/// The nodes of two graphs that differ, in the order of the second, what was removed behind what it stood behind.
fn graph_changes(before: &Graph, after: &Graph, pairs: &Pairs) -> Vec<NodeChange> {
    let mut found: Vec<(Place, NodeChange, follow::Ids)> = Vec::new();
    for (at, &b) in pairs.after_order.iter().enumerate() {
        let change = match pairs.before_of(b) {
            Some(a) => node::compare(before, a, after, b, pairs).map(|change| (change, [Some(a), Some(b)])),
            None => {
                let node = after.node(b);
                Some((node::alone(&node.name, None, Some(row(node))), [None, Some(b)]))
            }
        };
        if let Some((change, ids)) = change {
            found.push(((at + 1, 0), change, ids));
        }
    }
    let places: BTreeMap<NodeId, usize> = pairs.after_order.iter().enumerate().map(|(at, &id)| (id, at + 1)).collect();
    let mut behind = 0;
    for (at, &a) in pairs.before_order.iter().enumerate() {
        match pairs.after_of(a) {
            Some(b) => behind = places.get(&b).copied().unwrap_or(behind),
            None => {
                let node = before.node(a);
                let change = node::alone(&node.name, Some(row(node)), None);
                found.push(((behind, at + 1), change, [Some(a), None]));
            }
        }
    }
    found.sort_by_key(|(place, ..)| *place);
    let (mut changes, ids): (Vec<NodeChange>, Vec<_>) = found.into_iter().map(|(_, change, ids)| (change, ids)).unzip();
    follow::upstream(&mut changes, &ids, before, after, pairs);
    changes
}
