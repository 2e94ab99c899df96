//! Differences between two graphs or plans, keyed by the names of nodes.

use crate::ir::{Graph, NodeKind};
use crate::program::Plan;
use std::collections::BTreeMap;
use std::fmt;

/// What is compared of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Operator.
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

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only in the second.
    Added(Row),
    /// Only in the first.
    Removed(Row),
    /// In both, but not the same.
    Changed(Row, Row),
}

/// All differences, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// The differences.
    pub changes: BTreeMap<String, Change>,
}

/// The nodes of a graph.
pub fn rows_of_graph(graph: &Graph) -> BTreeMap<String, Row> {
    let row = |id| {
        let node = graph.node(id);
        let types: Vec<_> = node.outputs.iter().map(|v| v.ty.to_string()).collect();
        let (op, bytes) = match &node.kind {
            NodeKind::Input => ("input", 0),
            NodeKind::Const(tensor) => ("const", tensor.ty().bytes().unwrap_or(0)),
            NodeKind::Op(op) => (op.def.name, 0),
        };
        let format = node.format.map(|f| f.to_string()).unwrap_or_default();
        (node.name.clone(), Row { op: op.to_owned(), format, ty: types.join(", "), kernel: String::new(), bytes })
    };
    graph.order().into_iter().map(row).collect()
}

/// The imported nodes of a plan, whose kernels lie in `graph`.
pub fn rows_of_plan(plan: &Plan, graph: &Graph) -> BTreeMap<String, Row> {
    let types = rows_of_graph(graph);
    plan.nodes
        .iter()
        .map(|n| {
            let ty = types.get(&n.name).map(|r| r.ty.clone()).unwrap_or_default();
            (
                n.name.clone(),
                Row { op: n.op.clone(), format: n.format.clone(), ty, kernel: n.kernel.clone(), bytes: n.weight_bytes },
            )
        })
        .collect()
}

impl Diff {
    /// What changes from `before` to `after`.
    pub fn of(before: &BTreeMap<String, Row>, after: &BTreeMap<String, Row>) -> Diff {
        let mut changes = BTreeMap::new();
        for (name, row) in before {
            match after.get(name) {
                None => changes.insert(name.clone(), Change::Removed(row.clone())),
                Some(other) if other != row => {
                    changes.insert(name.clone(), Change::Changed(row.clone(), other.clone()))
                }
                Some(_) => None,
            };
        }
        for (name, row) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
            changes.insert(name.clone(), Change::Added(row.clone()));
        }
        Diff { changes }
    }

    /// Bytes more in the second than in the first.
    pub fn bytes_delta(&self) -> i128 {
        self.changes.values().map(Change::bytes_delta).sum()
    }
}

impl Change {
    /// Bytes more after than before.
    pub fn bytes_delta(&self) -> i128 {
        match self {
            Change::Added(row) => i128::from(row.bytes),
            Change::Removed(row) => -i128::from(row.bytes),
            Change::Changed(before, after) => i128::from(after.bytes) - i128::from(before.bytes),
        }
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, change) in &self.changes {
            let (sign, what) = match change {
                Change::Added(row) => ('+', describe(row)),
                Change::Removed(row) => ('-', describe(row)),
                Change::Changed(before, after) => {
                    let fields = [
                        (&before.op, &after.op),
                        (&before.format, &after.format),
                        (&before.ty, &after.ty),
                        (&before.kernel, &after.kernel),
                    ];
                    let changed: Vec<_> = fields
                        .into_iter()
                        .filter(|(a, b)| a != b)
                        .map(|(a, b)| format!("{} -> {}", or_dash(a), or_dash(b)))
                        .collect();
                    ('~', changed.join(", "))
                }
            };
            writeln!(f, "{sign} {name}  {what}  {:+} B", change.bytes_delta())?;
        }
        writeln!(f, "{} nodes differ, {:+} B in total", self.changes.len(), self.bytes_delta())
    }
}

fn describe(row: &Row) -> String {
    [&row.op, &row.format, &row.ty, &row.kernel]
        .into_iter()
        .filter(|s| !s.is_empty())
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(" ")
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(format: &str, bytes: u64) -> Row {
        Row { op: "MatMul".into(), format: format.into(), ty: "f32[2]".into(), kernel: String::new(), bytes }
    }

    #[test]
    fn nodes_are_matched_by_name() {
        let before = BTreeMap::from([
            ("a".to_owned(), row("f32", 400)),
            ("b".to_owned(), row("f32", 8)),
            ("same".to_owned(), row("f16", 1)),
        ]);
        let after = BTreeMap::from([
            ("a".to_owned(), row("w4a16", 60)),
            ("c".to_owned(), row("f32", 8)),
            ("same".to_owned(), row("f16", 1)),
        ]);
        let diff = Diff::of(&before, &after);
        assert_eq!(diff.bytes_delta(), -340);
        assert_eq!(
            diff.to_string(),
            "~ a  f32 -> w4a16  -340 B\n- b  MatMul f32 f32[2]  -8 B\n+ c  MatMul f32 f32[2]  +8 B\n3 nodes differ, -340 B in total\n"
        );
        assert!(Diff::of(&before, &before).changes.is_empty());
    }
}
