//! Two nodes that stand for each other, field by field.

use super::data::DataChange;
use super::pair::{Pairs, kind};
use super::{Field, NodeChange, Row, row};
use crate::ir::{Attr, Graph, NodeId, NodeKind, Shape, Tensor, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// A node that only one side has.
pub(super) fn alone(name: &str, before: Option<Row>, after: Option<Row>) -> NodeChange {
    let name = name.to_owned();
    NodeChange { name, renamed_from: None, before, after, fields: Vec::new(), data: None, follows: None }
}

/// The fields that differ, collected.
pub(super) struct Fields(pub Vec<Field>);

impl Fields {
    /// Notes a field whose texts differ.
    pub fn note(&mut self, what: &str, before: &str, after: &str) {
        if before != after {
            self.differ(what, before, after);
        }
    }

    /// Notes a field that differs, whatever its texts look like.
    pub fn differ(&mut self, what: &str, before: &str, after: &str) {
        let text = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        self.0.push(Field { what: what.to_owned(), before: text(before), after: text(after) });
    }
}

/// How node `a` of one graph differs from node `b` of another; `None` where it does not.
pub(super) fn compare(before: &Graph, a: NodeId, after: &Graph, b: NodeId, pairs: &Pairs) -> Option<NodeChange> {
    let (from, to) = (before.node(a), after.node(b));
    let mut fields = Fields(Vec::new());
    fields.note("operator", kind(before, a), kind(after, b));
    attributes(&from.kind, &to.kind, &mut fields);
    operands(before, a, after, b, pairs, &mut fields);
    let n = from.outputs.len().max(to.outputs.len());
    for out in 0..n {
        let (x, y) = (from.outputs.get(out), to.outputs.get(out));
        let name = |v: Option<&crate::ir::Value>| v.map(|v| v.name.clone()).unwrap_or_default();
        // A value that is called as its node is renamed with it.
        let with_node = |v: Option<&crate::ir::Value>, node: &str| v.is_some_and(|v| out == 0 && v.name == node);
        if !(with_node(x, &from.name) && with_node(y, &to.name)) {
            fields.note(&format!("output {out}"), &name(x), &name(y));
        }
        let ty = |v: Option<&crate::ir::Value>| v.map(|v| v.ty.to_string()).unwrap_or_default();
        let what = if n == 1 { "type".to_owned() } else { format!("type of output {out}") };
        fields.note(&what, &ty(x), &ty(y));
    }
    let format = |node: &crate::ir::Node| node.format.map(|f| f.to_string()).unwrap_or_default();
    fields.note("format", &format(from), &format(to));
    fields.note("from", &from.origin.join(", "), &to.origin.join(", "));
    let default = |graph: &Graph, id| graph.default_of(id).map(|t| format!("#{}", t.hash())).unwrap_or_default();
    fields.note("default", &default(before, a), &default(after, b));
    let mut data = None;
    if let (NodeKind::Const(x), NodeKind::Const(y)) = (&from.kind, &to.kind)
        && !same_data(x, y)
    {
        fields.differ("data", &format!("#{}", x.hash()), &format!("#{}", y.hash()));
        data = DataChange::of(x, y);
    }
    let renamed_from = (from.name != to.name).then(|| from.name.clone());
    if fields.0.is_empty() && renamed_from.is_none() {
        return None;
    }
    Some(NodeChange {
        name: to.name.clone(),
        renamed_from,
        before: Some(row(from)),
        after: Some(row(to)),
        fields: fields.0,
        data,
        follows: None,
    })
}

/// Whether two constants hold the same. Of one whose data is absent only the hash that its text has is known.
fn same_data(a: &Tensor, b: &Tensor) -> bool {
    if a.is_present() && b.is_present() { a == b } else { a.hash().to_string() == b.hash().to_string() }
}

fn attributes(before: &NodeKind, after: &NodeKind, fields: &mut Fields) {
    let none = BTreeMap::new();
    let [a, b] = [before, after].map(|kind| if let NodeKind::Op(op) = kind { &op.attrs.0 } else { &none });
    let names: BTreeSet<&String> = a.keys().chain(b.keys()).collect();
    for name in names {
        let (x, y) = (a.get(name), b.get(name));
        if x.map(attr_key) == y.map(attr_key) {
            continue;
        }
        let (mut from, mut to) = (x.map(attr_text).unwrap_or_default(), y.map(attr_text).unwrap_or_default());
        if let (Some(Attr::Graph(x)), Some(Attr::Graph(y))) = (x, y) {
            (from, to) = lines(&x.to_string(), &y.to_string());
        }
        fields.differ(&format!("attribute {name}"), &from, &to);
    }
}

/// The lines that only one of two texts has.
fn lines(before: &str, after: &str) -> (String, String) {
    let diff = similar::TextDiff::from_lines(before, after);
    let only = |tag| {
        let lines: Vec<_> = diff.iter_all_changes().filter(|c| c.tag() == tag).map(|c| c.to_string()).collect();
        lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join("; ")
    };
    (only(similar::ChangeTag::Delete), only(similar::ChangeTag::Insert))
}

fn operands(before: &Graph, a: NodeId, after: &Graph, b: NodeId, pairs: &Pairs, fields: &mut Fields) {
    let (from, to) = (before.operands(a), after.operands(b));
    let same = |x: &Option<ValueId>, y: &Option<ValueId>| match (x, y) {
        (None, None) => true,
        (Some(x), Some(y)) => pairs.after_of(x.node) == Some(y.node) && x.out == y.out,
        _ => false,
    };
    let n = from.len().max(to.len());
    let at = |list: &[Option<ValueId>], slot: usize| list.get(slot).copied().flatten();
    let differing: Vec<usize> = (0..n).filter(|&slot| !same(&at(&from, slot), &at(&to, slot))).collect();
    if let [slot] = differing[..] {
        let (x, y) = (at(&from, slot), at(&to, slot));
        fields.differ(&format!("operand {slot}"), &value_text(before, x), &value_text(after, y));
    } else if !differing.is_empty() {
        let all = |graph, list: &[Option<ValueId>]| {
            let texts: Vec<_> = list.iter().map(|v| value_text(graph, *v)).collect();
            format!("({})", texts.join(", "))
        };
        fields.differ("operands", &all(before, &from), &all(after, &to));
    }
}

/// A value by its name, and by that of its node where it is another.
pub(super) fn value_text(graph: &Graph, value: Option<ValueId>) -> String {
    let Some(id) = value else { return "_".to_owned() };
    let (value, node) = (graph.value(id), graph.node(id.node));
    if value.name == node.name { value.name.clone() } else { format!("{} of {}", value.name, node.name) }
}

/// What an attribute is, for people.
fn attr_text(attr: &Attr) -> String {
    match attr {
        Attr::Int(v) => v.to_string(),
        Attr::Float(v) => format!("{v:?}"),
        Attr::Str(v) => format!("{v:?}"),
        Attr::Ints(v) => format!("{v:?}"),
        Attr::Floats(v) => format!("{v:?}"),
        Attr::Strs(v) => format!("{v:?}"),
        Attr::Dims(v) => Shape(v.clone()).to_string(),
        Attr::DType(v) => v.to_string(),
        Attr::Expr(v) => format!("`{v}`"),
        Attr::Tensor(v) => format!("{v:?}"),
        Attr::Graph(v) => format!("a graph of {} nodes", v.n_nodes()),
    }
}

/// The same for attributes that are the same, and no others: floats count by their bits.
pub(super) fn attr_key(attr: &Attr) -> String {
    match attr {
        Attr::Int(v) => format!("int {v}"),
        Attr::Float(v) => format!("float {:08x}", v.to_bits()),
        Attr::Str(v) => format!("str {v}"),
        Attr::Ints(v) => format!("ints {v:?}"),
        Attr::Floats(v) => format!("floats {:?}", v.iter().map(|v| v.to_bits()).collect::<Vec<_>>()),
        Attr::Strs(v) => format!("strs {v:?}"),
        Attr::Dims(v) => format!("dims {}", Shape(v.clone())),
        Attr::DType(v) => format!("dtype {v}"),
        Attr::Expr(v) => format!("expr {v}"),
        Attr::Tensor(v) => format!("tensor {v:?}"),
        Attr::Graph(v) => format!("graph {v}"),
    }
}
