//! What an assignment was chosen from, in numbers and words: the reasons in reports, and what `--explain` reports.

use super::assign_precision::noted;
use super::explain::{Candidate, Choice};
use super::lowering::Rest;
use super::{PassError, Policy};
use crate::assign::budget::Assigned;
use crate::assign::model::LinearModel;
use crate::assign::solve;
use crate::ir::{Format, Graph};
use std::collections::{BTreeMap, BTreeSet};

/// What stays known of an assignment once the pass is done.
pub(super) struct Known<'a> {
    pub(super) model: LinearModel,
    pub(super) assigned: Assigned,
    /// The nodes of each group.
    pub(super) names: Vec<Vec<String>>,
    /// The formats that each group could not have, and why, where somebody asked.
    pub(super) excluded: Vec<Vec<(String, String)>>,
    /// The passes that were to come.
    pub(super) rest: Rest<'a>,
    /// The graph whose formats were assigned, where somebody asked.
    pub(super) graph: Option<Graph>,
}

/// The error that a cost stands for: costs are variances relative to the output's, which add up.
fn relative(cost: f64) -> f64 {
    cost.max(0.0).sqrt()
}

/// Bytes of a choice in the step where it is largest.
fn step_bytes(choice: &solve::Choice) -> u64 {
    choice.rows.iter().map(|run| run.bytes).max().unwrap_or(0)
}

fn all_bytes(choice: &solve::Choice) -> u64 {
    choice.fixed_bytes.saturating_add(step_bytes(choice))
}

/// What one choice takes more than another, in words.
fn more(from: &solve::Choice, to: &solve::Choice) -> String {
    let part = |what: &str, from: u64, to: u64| match i128::from(to) - i128::from(from) {
        0 => None,
        n if n > 0 => Some(format!("{n} bytes of {what} more")),
        n => Some(format!("{} bytes of {what} less", -n)),
    };
    let parts = [
        part("weights and constants", from.fixed_bytes, to.fixed_bytes),
        part("activations", step_bytes(from), step_bytes(to)),
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    if parts.is_empty() { "as many bytes".to_owned() } else { parts.join(" and ") }
}

/// Why a group has its format.
pub(super) fn reason(assigned: &Assigned, group: usize, policy: Policy) -> String {
    let (format, menus) = (assigned.formats[group], &assigned.menus);
    let own = match (policy, menus.choice(group, format)) {
        (Policy::Uniform(_) | Policy::Tiered, _) | (_, None) => return format!("policy {policy}"),
        _ if menus.formats[group].len() == 1 => return "the only permitted format".to_owned(),
        (_, Some(own)) => own,
    };
    let wider = menus.formats[group]
        .iter()
        .filter(|f| f.tail.is_none())
        .filter_map(|f| Some((f, menus.choice(group, *f)?)))
        .filter(|(_, choice)| choice.cost < own.cost)
        .min_by_key(|(_, choice)| all_bytes(choice));
    match wider {
        None => "the smallest error of all permitted".to_owned(),
        Some((next, choice)) => format!(
            "relative error {:.3e}; {next} would have {:.3e} for {}",
            relative(own.cost),
            relative(choice.cost),
            more(own, choice)
        ),
    }
}

impl Known<'_> {
    /// See [`Assignment::explain`](super::Assignment::explain).
    pub(super) fn explain(
        &self,
        asked: &BTreeSet<String>,
        reasons: &BTreeMap<String, String>,
        policy: Policy,
    ) -> Result<Vec<Choice>, PassError> {
        let mut choices = Vec::new();
        for (group, names) in self.names.iter().enumerate() {
            let (nodes, others): (Vec<String>, Vec<String>) = names.iter().cloned().partition(|n| asked.contains(n));
            let Some(first) = nodes.first() else { continue };
            let reason = reasons.get(first).cloned().unwrap_or_default();
            let format = self.assigned.formats[group];
            let menu = &self.assigned.menus.formats[group];
            let listed: Vec<Format> = menu.iter().copied().filter(|f| f.tail.is_none() || *f == format).collect();
            let candidates = listed.iter().filter_map(|f| self.candidate(group, *f, policy).transpose());
            choices.push(Choice {
                nodes,
                others,
                format: format.to_string(),
                reason,
                candidates: candidates.collect::<Result<_, _>>()?,
                n_splits: menu.len() - listed.len(),
                excluded: self.excluded.get(group).cloned().unwrap_or_default(),
            });
        }
        Ok(choices)
    }

    /// The planned peak with another format for a group, in bytes.
    fn peak_bytes(&self, group: usize, format: Format) -> Result<u64, PassError> {
        let assigned = &self.assigned;
        let Some(graph) = self.graph.as_ref().filter(|_| format != assigned.formats[group]) else {
            return Ok(assigned.forecast.chosen_bytes);
        };
        let mut formats = assigned.noted.clone();
        formats[group] = format;
        let mut other = graph.clone();
        other.apply(noted(graph, &self.model, &formats));
        Ok(self.rest.lower(other)?.blueprint.peak_bytes)
    }

    fn candidate(&self, group: usize, format: Format, policy: Policy) -> Result<Option<Candidate>, PassError> {
        let assigned = &self.assigned;
        let (Some(own), Some(choice)) =
            (assigned.menus.choice(group, assigned.formats[group]), assigned.menus.choice(group, format))
        else {
            return Ok(None);
        };
        let mut formats = assigned.formats.clone();
        formats[group] = format;
        let peak_bytes = self.peak_bytes(group, format)?;
        let objective = assigned.menus.cost(&assigned.formats);
        let now = relative(objective);
        // The same sum with one term another, which must not come out as a difference of rounding errors.
        let program_error = if choice.cost == own.cost { now } else { relative(assigned.menus.cost(&formats)) };
        let spent = all_bytes(choice) as f64 - all_bytes(own) as f64;
        let price = Some((now - program_error) / spent).filter(|p| p.is_finite() && *p > 0.0);
        let is_chosen = format == assigned.formats[group];
        let why_not = if is_chosen { String::new() } else { self.why_not(group, format, peak_bytes, policy) };
        Ok(Some(Candidate {
            format: format.to_string(),
            is_chosen,
            weight_bytes: choice.fixed_bytes,
            activation_bytes: step_bytes(choice),
            error: relative(choice.cost),
            program_error,
            peak_bytes,
            price,
            why_not,
        }))
    }

    fn why_not(&self, group: usize, format: Format, peak_bytes: u64, policy: Policy) -> String {
        let (menus, available) = (&self.assigned.menus, self.assigned.available_bytes);
        let chosen = self.assigned.formats[group];
        if policy != Policy::Budget {
            return format!("policy {policy} takes another");
        }
        let (Some(own), Some(choice)) = (menus.choice(group, chosen), menus.choice(group, format)) else {
            return String::new();
        };
        // The chosen one first: that is the plainest reason.
        let whole = menus.formats[group].iter().copied().filter(|f| f.tail.is_none() && *f != format);
        let better = std::iter::once(chosen).chain(whole).find(|f| {
            menus.choice(group, *f).is_some_and(|other| {
                let costs = (other.cost, other.fixed_bytes, step_bytes(other));
                let here = (choice.cost, choice.fixed_bytes, step_bytes(choice));
                costs != here && costs.0 <= here.0 && costs.1 <= here.1 && costs.2 <= here.2
            })
        });
        if let Some(better) = better {
            return format!("{better} has no more error in no more bytes");
        }
        if choice.cost > own.cost {
            return "more error, and the budget does not need the bytes that it saves here".to_owned();
        }
        if peak_bytes > available {
            return format!(
                "the plan would need {peak_bytes} bytes, {} more than there are; others lose less error with theirs",
                peak_bytes - available
            );
        }
        let gap = self.assigned.certificate.gap * 100.0;
        format!("it would fit, and the search ended {gap:.2} % from its bound without it")
    }

    /// See [`Assignment::shadow_price`](super::Assignment::shadow_price).
    pub(super) fn shadow_price(&self) -> f64 {
        let certificate = &self.assigned.certificate;
        let error = certificate.relative_error();
        // Of the square root: d sqrt(x) = dx / (2 sqrt(x)).
        if error > 0.0 { certificate.shadow_price / (2.0 * error) } else { 0.0 }
    }
}
