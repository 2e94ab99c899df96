//! The figures of both sides.

use super::Side;
use crate::ir::{Graph, NodeKind, memory};
use crate::program::{Entry, Program};
use std::collections::BTreeMap;
use std::fmt;

/// A figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Number {
    /// Bytes.
    Bytes(u64),
    /// How many.
    Count(u64),
    /// A relative error: 0.01 is one percent.
    Relative(f64),
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Number::Bytes(n) => write!(f, "{n} B"),
            Number::Count(n) => write!(f, "{n}"),
            Number::Relative(v) => write!(f, "{v:.3e}"),
        }
    }
}

/// One figure of both.
#[derive(Clone, Debug, PartialEq)]
pub struct Figure {
    /// Which: `peak`, `ledger.weights`, `predicted_error`, `formats.w4a16` and so on.
    pub name: String,
    /// In the first; `None` where it has none.
    pub before: Option<Number>,
    /// In the second; `None` where it has none.
    pub after: Option<Number>,
}

/// The figures of both sides, whether they differ or not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Summary {
    /// Peak, budget, ledger, error; nodes, dispatches and kernels; nodes by format.
    pub figures: Vec<Figure>,
}

impl Summary {
    pub(super) fn of(before: &Side<'_>, after: &Side<'_>) -> Summary {
        let (a, b) = (figures(before), figures(after));
        let mut names: Vec<&str> = a.iter().map(|(name, _)| name.as_str()).collect();
        names.extend(b.iter().map(|(name, _)| name.as_str()).filter(|name| a.iter().all(|(other, _)| other != name)));
        // Formats stand last, however many only one side has.
        names.sort_by_key(|name| name.starts_with("formats."));
        let find = |side: &[(String, Number)], name: &str| side.iter().find(|(n, _)| n == name).map(|(_, v)| *v);
        let one = |name: &str| Figure { name: name.to_owned(), before: find(&a, name), after: find(&b, name) };
        Summary { figures: names.into_iter().map(one).collect() }
    }
}

fn figures(side: &Side<'_>) -> Vec<(String, Number)> {
    match side.program {
        Some(program) => of_program(program),
        None => of_graph(side.graph),
    }
}

fn of_program(program: &Program) -> Vec<(String, Number)> {
    let Some(plan) = program.plans.first() else { return Vec::new() };
    let ledger = &plan.ledger;
    let counts = plan.entries.iter().map(Entry::n_dispatches);
    let (dispatches, barriers) = counts.fold((0, 0), |sum, n| (sum.0 + n.0, sum.1 + n.1));
    let formats = count_each(plan.nodes.iter().map(|n| n.format.clone()));
    let mut figures: Vec<(String, Number)> = [
        ("peak", Number::Bytes(plan.planned_peak_bytes)),
        ("budget", Number::Bytes(plan.budget_bytes)),
        ("min_feasible", Number::Bytes(plan.min_feasible_bytes)),
        ("ledger.weights", Number::Bytes(ledger.weights)),
        ("ledger.constants", Number::Bytes(ledger.constants)),
        ("ledger.activations", Number::Bytes(ledger.activations)),
        ("ledger.workspace", Number::Bytes(ledger.workspace)),
        ("ledger.io", Number::Bytes(ledger.io)),
        ("ledger.state", Number::Bytes(ledger.state)),
        ("ledger.staging", Number::Bytes(ledger.staging)),
        ("ledger.reserve", Number::Bytes(ledger.reserve)),
        ("predicted_error", Number::Relative(plan.certificate.relative_error())),
        ("nodes", Number::Count(plan.nodes.len() as u64)),
        ("host_nodes", Number::Count(plan.nodes.iter().filter(|n| n.place == "host").count() as u64)),
        ("dispatches", Number::Count(dispatches as u64)),
        ("barriers", Number::Count(barriers as u64)),
        ("kernels", Number::Count(program.shaders.len() as u64)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into();
    figures.extend(formats);
    figures
}

fn of_graph(graph: &Graph) -> Vec<(String, Number)> {
    let nodes: Vec<_> = graph.order().into_iter().map(|id| graph.node(id)).collect();
    let n_ops = nodes.iter().filter(|n| n.op().is_some()).count();
    let constants = nodes.iter().filter_map(|n| if let NodeKind::Const(t) = &n.kind { t.ty().bytes() } else { None });
    let mut figures = vec![
        ("nodes".to_owned(), Number::Count(n_ops as u64)),
        ("constants".to_owned(), Number::Bytes(constants.fold(0, u64::saturating_add))),
    ];
    if let Some(memory) = memory::summary(graph) {
        figures.push(("max_live".to_owned(), Number::Bytes(memory.max_live_bytes)));
    }
    figures.extend(count_each(nodes.iter().map(|n| n.format.map(|f| f.to_string()).unwrap_or_default())));
    figures
}

/// How many nodes have each format.
fn count_each(formats: impl Iterator<Item = String>) -> Vec<(String, Number)> {
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    formats.filter(|format| !format.is_empty()).for_each(|format| *counts.entry(format).or_insert(0) += 1);
    counts.into_iter().map(|(format, n)| (format!("formats.{format}"), Number::Count(n))).collect()
}
