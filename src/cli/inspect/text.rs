//! The document of `nyxc inspect` as text.

use crate::session::size;
use serde_json::Value;

/// Lines of a word and what it says.
struct Lines(String);

impl Lines {
    fn add(&mut self, word: &str, rest: &str) {
        self.0 += &format!("  {word:10} {rest}\n");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn bytes(value: &Value) -> String {
    value.as_u64().map(size::show).unwrap_or_default()
}

/// `NAME NUMBER, ...` of an object.
fn pairs(value: &Value) -> String {
    let pairs = value.as_object().into_iter().flatten().map(|(name, n)| format!("{name} {n}"));
    pairs.collect::<Vec<_>>().join(", ")
}

/// The whole document; with `nodes` also a line for each node of a plan.
pub(super) fn of(document: &Value, nodes: bool) -> String {
    let mut lines = Lines(format!("{}: {}\n", text(&document["name"]), kind(document)));
    for (key, word) in [("inputs", "input"), ("outputs", "output")] {
        list(&document[key]).iter().for_each(|port| lines.add(word, &describe_port(port)));
    }
    for state in list(&document["states"]) {
        lines.add("state", &format!("{} : {}", text(&state["name"]), text(&state["type"])));
    }
    let entries: Vec<_> = list(&document["entries"]).iter().map(text).collect();
    if !entries.is_empty() {
        lines.add("entries", &format!("{}; ports and operators are those of the first", entries.join(", ")));
    }
    add_choices(&mut lines, document);
    lines.add("operators", &pairs(&document["operators"]));
    let functions: Vec<_> = list(&document["functions"]).iter().map(text).collect();
    if !functions.is_empty() {
        lines.add("functions", &functions.join(", "));
    }
    let n_weights = document["n_weights"].as_u64().map_or(String::new(), |n| format!(" in {n} tensors"));
    lines.add("weights", &format!("{}{n_weights}", bytes(&document["weights_bytes"])));
    if document["max_live_bytes"].is_u64() {
        lines.add("max live", &bytes(&document["max_live_bytes"]));
    }
    if let Some(why) = document["import_error"]["message"].as_str() {
        lines.add("no import", why);
    }
    for plan in list(&document["plans"]) {
        add_plan(&mut lines, plan);
        list(&plan["nodes"]).iter().filter(|_| nodes).for_each(|node| lines.add("node", &describe_node(node)));
    }
    lines.0
}

/// What the file is.
fn kind(document: &Value) -> String {
    match document["kind"].as_str() {
        Some("model") => {
            let by = text(&document["producer"]);
            let by = if by.is_empty() { by } else { format!(", made by {by}") };
            format!("ONNX model, opset {}{by}", pairs(&document["opsets"]))
        }
        Some("program") => format!("program for {}", text(&document["target"])),
        _ => format!("text, {} level", text(&document["level"])),
    }
}

fn describe_port(port: &Value) -> String {
    let ty = text(&port["type"]);
    let compiled = match port["elements"].as_array() {
        Some(list) if list.is_empty() => "nothing".to_owned(),
        Some(list) => {
            let elements = list.iter().map(|e| format!("{} : {}", text(&e["name"]), text(&e["type"])));
            elements.collect::<Vec<_>>().join(", ")
        }
        None => text(&port["compiled"]),
    };
    let more = if compiled.is_empty() || compiled == ty { String::new() } else { format!(", compiled as {compiled}") };
    let why = if port["default"] == true { ", has a default" } else { "" };
    let how = port["holds"].as_str().filter(|_| port["elements"].is_null() && port["compiled"].is_null());
    let how = how.map_or(String::new(), |how| format!(", which must be given: {how}"));
    format!("{} : {ty}{more}{why}{how}", text(&port["name"]))
}

/// What became constant, and sizes: their ranges, those that were taken, and those that are open.
fn add_choices(lines: &mut Lines, document: &Value) {
    for (name, reason) in document["constant_inputs"].as_object().into_iter().flatten() {
        lines.add("constant", &format!("{name}: {}", text(reason)));
    }
    for size in list(&document["sizes"]) {
        lines.add("size", &format!("{} in {}..{}", text(&size["name"]), size["min"], size["max"]));
    }
    for taken in list(&document["defaulted"]) {
        let (name, n) = (text(&taken["dim"]), &taken["size"]);
        lines.add("taken", &format!("{name} = {n}, because nobody said; --dim {name}=N sets it"));
    }
    for place in list(&document["empty"]).iter().map(text) {
        lines.add("taken", &format!("{place} = 0, as the model has it; --dim {place}=N gives another size"));
    }
    for name in list(&document["unbound"]).iter().map(text) {
        lines.add("open", &format!("{name}; --dim {name}=N or --dim {name}=1..N sets it"));
    }
}

/// Bytes, formats and totals of a plan.
fn add_plan(lines: &mut Lines, plan: &Value) {
    let of = |key: &str| bytes(&plan[key]);
    let (policy, peak, budget) = (text(&plan["policy"]), of("planned_peak_bytes"), of("budget_bytes"));
    let (f32_bytes, smallest) = (of("f32_bytes"), of("min_feasible_bytes"));
    lines.add("plan", &format!("{policy}: peak {peak} of {budget} (f32 {f32_bytes}, smallest {smallest})"));
    let ledger = plan["ledger"].as_object().into_iter().flatten().filter(|(_, n)| n.as_u64() != Some(0));
    let ledger: Vec<_> = ledger.map(|(kind, n)| format!("{kind} {}", bytes(n))).collect();
    lines.add("ledger", &ledger.join(", "));
    for f in list(&plan["formats"]) {
        let stored = match f["f32_weight_bytes"].as_u64() {
            Some(0) | None => String::new(),
            Some(wide) => format!(", weights {} (f32 {})", bytes(&f["weight_bytes"]), size::show(wide)),
        };
        lines.add("format", &format!("{}: {} nodes{stored}", text(&f["format"]), f["nodes"]));
    }
    let t = &plan["totals"];
    lines.add(
        "totals",
        &format!(
            "{} nodes, {} of them on the host, {} dispatches, {} barriers, {} kernels, weights {} (f32 {})",
            t["nodes"],
            t["host_nodes"],
            t["dispatches"],
            t["barriers"],
            t["kernels"],
            bytes(&t["weight_bytes"]),
            bytes(&t["f32_weight_bytes"])
        ),
    );
}

fn describe_node(node: &Value) -> String {
    format!(
        "{:8} {:6} {:>12} B  {}  {}",
        text(&node["format"]),
        text(&node["where"]),
        node["weight_bytes"].as_u64().unwrap_or(0),
        text(&node["name"]),
        text(&node["kernel"])
    )
}
