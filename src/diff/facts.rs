//! What is no node: ports and sizes of graphs, and whatever else a program's file holds.

use super::Fact;
use super::node::value_text;
use super::pair::Pairs;
use crate::ir::Graph;
use crate::program::{Plan, Program, hex};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Facts that differ, collected.
#[derive(Default)]
struct Facts(Vec<Fact>);

impl Facts {
    fn note(&mut self, what: &str, before: String, after: String) {
        if before != after {
            self.differ(what, before, after);
        }
    }

    fn differ(&mut self, what: &str, before: String, after: String) {
        let text = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        self.0.push(Fact { what: what.to_owned(), before: text(before), after: text(after), count: 1 });
    }
}

/// Name, level, ranges of sizes, inputs and outputs in order.
pub(super) fn of_graphs(before: &Graph, after: &Graph, pairs: &Pairs) -> Vec<Fact> {
    let mut facts = Facts::default();
    facts.note("name", before.name.clone(), after.name.clone());
    facts.note("level", before.level.to_string(), after.level.to_string());
    let ranges = |graph: &Graph| -> BTreeMap<String, String> {
        graph.ranges().into_iter().map(|(name, r)| (name, format!("{}..{}", r.start(), r.end()))).collect()
    };
    let (a, b) = (ranges(before), ranges(after));
    for name in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
        let text = |side: &BTreeMap<String, String>| side.get(name).cloned().unwrap_or_default();
        facts.note(&format!("size {name}"), text(&a), text(&b));
    }
    let list = |names: Vec<String>| names.join(", ");
    let inputs = |graph: &Graph| graph.inputs().iter().map(|id| graph.value(id.out(0)).name.clone()).collect();
    let moved: Vec<_> = before.inputs().iter().map(|id| pairs.after_of(*id)).collect();
    if moved != after.inputs().iter().map(|id| Some(*id)).collect::<Vec<_>>() {
        facts.differ("inputs", list(inputs(before)), list(inputs(after)));
    }
    let (from, to) = (before.outputs(), after.outputs());
    let names = |outputs: &[crate::ir::Output]| outputs.iter().map(|o| o.name.clone()).collect();
    facts.note("outputs", list(names(from)), list(names(to)));
    if from.iter().map(|o| &o.name).ne(to.iter().map(|o| &o.name)) && list(names(from)) == list(names(to)) {
        facts.differ("outputs", format!("{} of these", from.len()), format!("{} of these", to.len()));
    }
    for (i, (a, b)) in from.iter().zip(to).enumerate() {
        if pairs.after_of(a.value.node) != Some(b.value.node) || a.value.out != b.value.out {
            let (x, y) = (value_text(before, Some(a.value)), value_text(after, Some(b.value)));
            facts.differ(&format!("value of output {i}, {}", b.name), x, y);
        }
    }
    facts.0
}

/// Every field of the files of two programs that is no node, no text of the first plan's graph and no data of a constant.
pub(super) fn of_programs(before: &Program, after: &Program) -> Vec<Fact> {
    let (mut a, mut b) = (BTreeMap::new(), BTreeMap::new());
    for (program, leaves) in [(before, &mut a), (after, &mut b)] {
        let text = |value: Value| flatten_text(&value);
        leaves.insert(vec!["model".to_owned()], text(Value::from(program.model.clone())));
        flatten(json(&program.target), &mut vec!["target".to_owned()], leaves);
        for (i, plan) in program.plans.iter().enumerate() {
            // Nearly all programs have one plan, whose figures need no number.
            let mut path = if i == 0 { Vec::new() } else { vec!["plans".to_owned(), i.to_string()] };
            flatten(fields(plan, i), &mut path, leaves);
        }
        for (hash, tensor) in &program.constants {
            leaves.insert(vec!["constants".to_owned(), format!("#{}", hex(*hash))], tensor.ty().to_string());
        }
        for (hash, shader) in &program.shaders {
            leaves.insert(vec!["shaders".to_owned(), format!("#{hash}")], shader.name.clone());
        }
    }
    folded(&a, &b)
}

/// A plan as its file has it. Nodes and graph of the first plan are compared one by one elsewhere.
fn fields(plan: &Plan, index: usize) -> Value {
    let mut value = json(plan);
    if let (0, Value::Object(fields)) = (index, &mut value) {
        fields.remove("nodes");
        fields.remove("graph");
    }
    value
}

fn json(value: &impl serde::Serialize) -> Value {
    // What a program holds was read from JSON, or is written as JSON.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

type Leaves = BTreeMap<Vec<String>, String>;

fn flatten(value: Value, path: &mut Vec<String>, leaves: &mut Leaves) {
    let mut inner = |key: String, value: Value| {
        path.push(key);
        flatten(value, path, leaves);
        path.pop();
    };
    match value {
        Value::Array(items) if !items.is_empty() => {
            items.into_iter().enumerate().for_each(|(i, item)| inner(i.to_string(), item));
        }
        Value::Object(fields) if !fields.is_empty() => fields.into_iter().for_each(|(key, value)| inner(key, value)),
        leaf => {
            leaves.insert(path.clone(), flatten_text(&leaf));
        }
    }
}

fn flatten_text(leaf: &Value) -> String {
    if let Value::String(text) = leaf { text.clone() } else { leaf.to_string() }
}

/// The leaves that differ, those in the same place of several items of a list as one.
fn folded(a: &Leaves, b: &Leaves) -> Vec<Fact> {
    let mut order: Vec<String> = Vec::new();
    let mut found: BTreeMap<String, Fact> = BTreeMap::new();
    for path in a.keys().chain(b.keys().filter(|path| !a.contains_key(*path))) {
        let (before, after) = (a.get(path), b.get(path));
        if before == after {
            continue;
        }
        let is_index = |part: &String| part.starts_with('#') || part.bytes().all(|c| c.is_ascii_digit());
        let place: Vec<&str> = path.iter().map(|part| if is_index(part) { "*" } else { part.as_str() }).collect();
        let place = place.join(".");
        if let Some(fact) = found.get_mut(&place) {
            fact.what.clone_from(&place);
            fact.count += 1;
            continue;
        }
        let text = |leaf: Option<&String>| leaf.map_or("-".to_owned(), Clone::clone);
        let fact = Fact { what: path.join("."), before: text(before), after: text(after), count: 1 };
        order.push(place.clone());
        found.insert(place, fact);
    }
    order.iter().filter_map(|place| found.remove(place)).collect()
}
