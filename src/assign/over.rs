//! What a refusal says.

use super::menu::Menus;
use super::model::LinearModel;
use crate::ir::{Format, Graph};

/// No permitted assignment fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverBudget {
    /// The planned peak of the smallest assignment, in bytes: this much compiles.
    pub min_feasible_bytes: u64,
    /// The planned peak of `uniform:f32`, in bytes.
    pub f32_bytes: u64,
    /// What it had to fit in, in bytes: the budget less the reserve.
    pub available_bytes: u64,
    /// The budget as given, in bytes.
    pub budget_bytes: u64,
    /// The cheapest ways to get there, for people.
    pub advice: Vec<String>,
}

impl std::error::Error for OverBudget {}

impl std::fmt::Display for OverBudget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the model needs {} bytes, the budget leaves {}", self.min_feasible_bytes, self.available_bytes)?;
        if self.available_bytes != self.budget_bytes {
            write!(f, " of {} after the reserve", self.budget_bytes)?;
        }
        self.advice.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// The first of the ways to get there: a larger budget.
pub(super) fn give(min_feasible_bytes: u64, reserve_bytes: u64) -> String {
    format!("give --budget {} or more", min_feasible_bytes.saturating_add(reserve_bytes))
}

/// Further ways: a smaller format, and which node or tensor to look at.
pub(super) fn advice(graph: &Graph, model: &LinearModel, menus: &Menus) -> Vec<String> {
    let mut advice = Vec::new();
    let is_int4 = |format: &Format| format.weights.bits() == 4;
    let lacks_int4 =
        |(g, menu): (usize, &Vec<Format>)| !model.groups[g].weights.is_empty() && !menu.iter().any(is_int4);
    if menus.formats.iter().enumerate().any(lacks_int4) {
        advice.push("permit w4a16 (--formats, --precision): it is the smallest format".to_owned());
    }
    let least = |g: usize| menus.formats[g].iter().map(|f| model.weight_bytes(g, *f)).min().unwrap_or(0);
    let largest = (0..model.groups.len()).max_by_key(|g| least(*g));
    if let Some(id) = largest.and_then(|g| model.groups[g].nodes.first()) {
        let (name, bytes) = (&graph.node(*id).name, largest.map_or(0, least));
        advice.push(format!("the largest node is {name:?}: {bytes} bytes of weights at its smallest format"));
        return advice;
    }
    let outputs = graph.order().into_iter().flat_map(|id| &graph.node(id).outputs);
    let largest =
        outputs.filter_map(|value| Some((value.ty.largest()?.bytes()?, &value.name))).max_by_key(|(bytes, _)| *bytes);
    advice.extend(largest.map(|(bytes, name)| format!("the largest tensor is {name:?}: {bytes} bytes")));
    advice
}
