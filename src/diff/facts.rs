//! What is no node: ports and sizes of graphs, and whatever else a program's file holds.

use super::node::value_text;
use super::pair::Pairs;
use super::{Fact, NodeChange};
use crate::ir::{Graph, State};
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

/// Name, level, ranges of sizes, inputs and outputs in order. `has_names` is false where both come of model files,
/// which have their names: the graph of one without is named after the file.
pub(super) fn of_graphs(before: &Graph, after: &Graph, pairs: &Pairs, has_names: bool) -> Vec<Fact> {
    let mut facts = Facts::default();
    if has_names {
        facts.note("name", before.name.clone(), after.name.clone());
    }
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
    let names: BTreeSet<&str> = before.states().iter().chain(after.states()).map(|state| state.name.as_str()).collect();
    for name in names {
        let [a, b] = [before, after].map(|graph| graph.state_named(name).map(|state| (graph, state)));
        let text = |side: Option<(&Graph, &State)>| {
            side.map(|(graph, s)| format!("{:?}, becomes {}", s.initial, value_text(graph, Some(s.last))))
        };
        let is_same = a.zip(b).is_some_and(|((_, a), (_, b))| {
            pairs.after_of(a.last.node) == Some(b.last.node) && a.last.out == b.last.out && a.initial == b.initial
        });
        if !is_same {
            facts.differ(&format!("state {name}"), text(a).unwrap_or_default(), text(b).unwrap_or_default());
        }
    }
    facts.0
}

/// What two files say differently and no graph shows: entries that were computed, dropped or bound as they were read.
pub(super) fn of_files(
    files: [&BTreeMap<String, [String; 2]>; 2],
    graphs: [&Graph; 2],
    changes: &[NodeChange],
    known: &[Fact],
) -> Vec<Fact> {
    let names = |graph: &Graph| -> BTreeSet<String> {
        let nodes = graph.order().into_iter().map(|id| graph.node(id));
        nodes.filter(|node| node.op().is_some()).map(|node| node.name.clone()).collect()
    };
    let [a, b] = graphs.map(names);
    let is_changed: BTreeSet<&str> =
        changes.iter().flat_map(|c| [Some(c.name.as_str()), c.renamed_from.as_deref()]).flatten().collect();
    let ports = |kind: &str| known.iter().any(|fact| fact.what.strip_suffix('s') == Some(kind));
    let mut facts = Facts::default();
    for key in files[0].keys().chain(files[1].keys()).collect::<BTreeSet<_>>() {
        let (from, to) = (files[0].get(key), files[1].get(key));
        let Some((kind, name)) = key.split_once(' ').filter(|_| from != to) else { continue };
        // The graphs already show these: a node that is there and reads other values, ports, and all that changed by
        // name.
        let is_there = a.contains(name) && b.contains(name);
        let is_same = from.is_some_and(|from| to.is_some_and(|to| from[0] == to[0]));
        if is_changed.contains(name) || (is_same && is_there) || ((from.is_none() || to.is_none()) && ports(kind)) {
            continue;
        }
        let text = |entry: Option<&[String; 2]>| entry.map_or(String::new(), |e| e.join(" ").trim().to_owned());
        facts.differ(&format!("file: {key}"), text(from), text(to));
    }
    facts.0
}

/// Every field of the files of two programs that is no node, no text of the first plan's graph and no data of a
/// constant.
pub(super) fn of_programs(before: &Program, after: &Program) -> Vec<Fact> {
    let mut fields = Fields::default();
    fields.leaf(&["model".to_owned()], Some(before.model.clone()), Some(after.model.clone()));
    fields.walk(Some(&json(&before.target)), Some(&json(&after.target)), &mut vec!["target".to_owned()]);
    for i in 0..before.plans.len().max(after.plans.len()) {
        // Nearly all programs have one plan, whose figures need no number.
        let mut path = if i == 0 { Vec::new() } else { vec!["plans".to_owned(), i.to_string()] };
        let [a, b] = [before, after].map(|program| program.plans.get(i).map(|plan| of_plan(plan, i)));
        fields.walk(a.as_ref(), b.as_ref(), &mut path);
    }
    for hash in before.constants.keys().chain(after.constants.keys()).collect::<BTreeSet<_>>() {
        let [a, b] = [before, after].map(|program| program.constants.get(hash).map(|t| t.ty().to_string()));
        fields.leaf(&["constants".to_owned(), format!("#{}", hex(*hash))], a, b);
    }
    for hash in before.shaders.keys().chain(after.shaders.keys()).collect::<BTreeSet<_>>() {
        let [a, b] = [before, after].map(|program| program.shaders.get(hash).map(|shader| shader.name.clone()));
        fields.leaf(&["shaders".to_owned(), format!("#{hash}")], a, b);
    }
    fields.order.iter().filter_map(|place| fields.found.remove(place)).collect()
}

/// A plan as its file has it. Nodes and graph of the first plan are compared one by one elsewhere.
fn of_plan(plan: &Plan, index: usize) -> Value {
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

/// The fields that differ, those in the same place of several items of a list as one.
#[derive(Default)]
struct Fields {
    order: Vec<String>,
    found: BTreeMap<String, Fact>,
}

impl Fields {
    fn walk(&mut self, a: Option<&Value>, b: Option<&Value>, path: &mut Vec<String>) {
        match (a, b) {
            (Some(Value::Array(x)), Some(Value::Array(y))) => {
                for i in 0..x.len().max(y.len()) {
                    path.push(i.to_string());
                    self.walk(x.get(i), y.get(i), path);
                    path.pop();
                }
            }
            (Some(Value::Object(x)), Some(Value::Object(y))) => {
                for key in x.keys().chain(y.keys().filter(|key| !x.contains_key(*key))) {
                    path.push(key.clone());
                    self.walk(x.get(key), y.get(key), path);
                    path.pop();
                }
            }
            _ => self.leaf(path, a.map(text), b.map(text)),
        }
    }

    fn leaf(&mut self, path: &[String], before: Option<String>, after: Option<String>) {
        if before == after {
            return;
        }
        let is_index = |part: &String| part.starts_with('#') || part.bytes().all(|c| c.is_ascii_digit());
        let place: Vec<&str> = path.iter().map(|part| if is_index(part) { "*" } else { part.as_str() }).collect();
        let place = place.join(".");
        if let Some(fact) = self.found.get_mut(&place) {
            fact.what.clone_from(&place);
            fact.count += 1;
            return;
        }
        let text = |leaf: Option<String>| leaf.unwrap_or_else(|| "-".to_owned());
        let fact = Fact { what: path.join("."), before: text(before), after: text(after), count: 1 };
        self.order.push(place.clone());
        self.found.insert(place, fact);
    }
}

/// A leaf, or what a side has where the other has nothing.
fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(fields) => format!("{{{}}}", fields.keys().cloned().collect::<Vec<_>>().join(", ")),
        leaf => leaf.to_string(),
    }
}
