//! The document for tools; docs/diff.md has its shape.

use super::{Diff, NodeChange, Number, Row};
use serde_json::{Map, Value, json};

impl Diff {
    /// The document that `nyxc diff --json` prints.
    pub fn to_json(&self) -> Value {
        let mut document = self.overview_json();
        document["facts"] = self
            .facts
            .iter()
            .map(|f| json!({"what": f.what, "before": f.before, "after": f.after, "count": f.count}))
            .collect();
        document["nodes"] = self.nodes.iter().map(node).collect();
        document["kernels"] = self.kernels.iter().map(node).collect();
        document
    }

    /// The same without what differs one by one.
    pub fn overview_json(&self) -> Value {
        let number = |value: Option<Number>| match value {
            Some(Number::Bytes(n) | Number::Count(n)) => json!(n),
            Some(Number::Relative(v)) => json!(v),
            None => Value::Null,
        };
        let figures: Map<String, Value> = self
            .summary
            .figures
            .iter()
            .map(|f| (f.name.clone(), json!({"before": number(f.before), "after": number(f.after)})))
            .collect();
        json!({
            "equal": self.is_empty(),
            "summary": figures,
            "n_nodes": self.nodes.len(),
            "n_facts": self.facts.len(),
            "bytes_delta": self.bytes_delta(),
        })
    }
}

fn node(change: &NodeChange) -> Value {
    let row = |row: &Row| {
        json!({
            "op": row.op,
            "format": row.format,
            "type": row.ty,
            "kernel": row.kernel,
            "bytes": row.bytes,
        })
    };
    let fields: Vec<_> =
        change.fields.iter().map(|f| json!({"what": f.what, "before": f.before, "after": f.after})).collect();
    let mut value = json!({
        "name": change.name,
        "change": change.kind(),
        "fields": fields,
        "bytes_delta": change.bytes_delta(),
    });
    // What a change has not is left out.
    let parts = [
        ("renamed_from", change.renamed_from.as_ref().map(|name| json!(name))),
        ("before", change.before.as_ref().map(row)),
        ("after", change.after.as_ref().map(row)),
        ("follows", change.follows.as_ref().map(|name| json!(name))),
        (
            "data",
            change.data.map(|d| {
                json!({
                    "n_elems": d.n_elems,
                    "n_differ": d.n_differ,
                    "max_abs": d.max_abs,
                    "relative_l2": d.relative_l2,
                })
            }),
        ),
    ];
    for (key, part) in parts {
        part.into_iter().for_each(|part| value[key] = part);
    }
    value
}
