//! Chooses a format for each group under the policy, and keeps what it was chosen from.

use super::{Context, OverBudget, PassError, Policy, at};
use crate::assign::model::Model;
use crate::assign::score;
use crate::assign::solve::{Choice, Group, Limits, Problem, Solution, min_peak, relax, solve};
use crate::ir::{Activations, Format, Graph, Tail, Weights};
use crate::plan::{Forecast, PlanError, build};
use crate::program::Certificate;
use rayon::prelude::*;

/// Search nodes for the arena of a trial assignment.
const ARENA_NODES: u64 = build::ARENA_NODES;
/// The share of the objective that must be to gain before matrices are split.
const SPLIT_GAIN: f64 = 0.005;
/// Relaxations solved to see what splitting could gain.
const QUICK_NODES: usize = 32;
/// How often splits are offered: with some offered, the relaxation may divide other matrices.
const MAX_SPLIT_ROUNDS: usize = 8;
/// The places where a matrix may be split are so many.
const SPLIT_PLACES: usize = 64;
/// How often the budget is solved for again because the arena was larger than its bound.
const MAX_ROUNDS: u32 = 4;

/// An assignment, what proves it, and what it was chosen from.
#[cfg_attr(not(feature = "codegen"), allow(dead_code, reason = "what a session explains"))]
pub(crate) struct Assigned {
    /// Menus with their scores.
    pub(super) scored: Scored,
    /// The format of each group.
    pub(super) formats: Vec<Format>,
    pub(super) certificate: Certificate,
    pub(super) forecast: Forecast,
    /// What it had to fit in, in bytes.
    pub(super) available: u64,
}

/// What stays known of an assignment once the pass is done.
#[cfg_attr(not(feature = "codegen"), allow(dead_code, reason = "what a session explains"))]
pub(crate) struct Known {
    pub(super) model: Model,
    pub(super) assigned: Assigned,
    /// The nodes of each group.
    pub(super) names: Vec<Vec<String>>,
    /// The formats that each group could not have, and why, where somebody asked.
    pub(super) excluded: Vec<Vec<(String, String)>>,
}

/// Formats that fit, or that come nearest and why they do not.
pub(super) struct Outcome {
    /// The format of each group.
    pub formats: Vec<Format>,
    result: Result<Assigned, Box<OverBudget>>,
}

impl Outcome {
    /// # Errors
    /// They do not fit.
    pub fn assigned(self) -> Result<Assigned, PassError> {
        self.result.map_err(PassError::OverBudget)
    }

    /// Chooses a format for each group.
    ///
    /// # Errors
    /// A plan or the solver fails.
    pub fn of(graph: &Graph, model: &Model, mut problem: Scored, cx: &Context<'_>) -> Result<Outcome, PassError> {
        let menus = problem.menus.clone();
        let menus = &menus[..];
        let settings = cx.settings;
        let budget = settings.budget_bytes.unwrap_or_else(|| cx.target.default_budget_bytes());
        let available = budget.saturating_sub(settings.reserve_bytes);
        let planned = |formats: &[Format]| model.planned(formats, cx.target, ARENA_NODES);
        let f32_bytes = planned(&vec![Format::F32; menus.len()])?.peak_bytes;
        let least = min_peak(&problem.solver, &Limits::default())?;
        let least = problem.formats(&least.choice);
        let mut min_feasible_bytes = planned(&least)?.peak_bytes;
        let tiers = if settings.policy == Policy::Tiered { tiers(menus, &planned)? } else { Vec::new() };
        // The smallest budget that this policy compiles with is that of a tier which is considered at that budget.
        if let Some(bytes) =
            tiers.iter().filter(|tier| tier.peak_bytes >= tier.memory_bytes).map(|tier| tier.peak_bytes).min()
        {
            min_feasible_bytes = bytes;
        }
        let advice = problem.advice(graph, model, menus, min_feasible_bytes, available, settings.reserve_bytes);
        let over_budget = |formats: Vec<Format>| {
            let advice = advice.clone();
            let over = OverBudget { min_feasible_bytes, available_bytes: available, budget_bytes: budget, advice };
            Outcome { formats, result: Err(Box::new(over)) }
        };
        let (formats, certificate) = match settings.policy {
            Policy::Uniform(_) => (menus.iter().map(|m| m[0]).collect::<Vec<_>>(), None),
            Policy::Tiered => {
                let memory = budget.min(cx.target.memory.heap_bytes);
                let fits = |tier: &Tier| memory >= tier.memory_bytes && tier.peak_bytes <= available;
                let Some(tier) = tiers.into_iter().find(fits) else { return Ok(over_budget(least)) };
                (tier.formats, None)
            }
            Policy::Budget => {
                if min_feasible_bytes > available {
                    return Ok(over_budget(least));
                }
                let (formats, certificate) = problem
                    .search(model, available.saturating_sub(settings.excess_bytes), cx, &planned)?
                    .unwrap_or((least, None));
                (formats, certificate)
            }
        };
        let chosen_bytes = planned(&formats)?.peak_bytes;
        // One format for all leaves nothing to decide: whether it fits, the plan itself says.
        if chosen_bytes > available && !matches!(settings.policy, Policy::Uniform(_)) {
            return Ok(over_budget(formats));
        }
        let objective = problem.cost(&formats);
        let certificate = certificate.unwrap_or(Certificate {
            objective,
            bound: objective,
            solver: settings.policy.to_string(),
            rounds: 1,
            ..Certificate::default()
        });
        let forecast = Forecast { f32_bytes, min_feasible_bytes, chosen_bytes };
        let assigned = Assigned { scored: problem, formats: formats.clone(), certificate, forecast, available };
        Ok(Outcome { formats, result: Ok(assigned) })
    }
}

/// A tier of the simple rule by memory.
struct Tier {
    /// The least memory for which it is considered, in bytes.
    memory_bytes: u64,
    formats: Vec<Format>,
    peak_bytes: u64,
}

/// The tiers of the simple rule by memory, the widest first.
fn tiers(
    menus: &[Vec<Format>],
    planned: &dyn Fn(&[Format]) -> Result<crate::assign::model::Planned, PlanError>,
) -> Result<Vec<Tier>, PassError> {
    const GB: u64 = 1_000_000_000;
    let tiers = [
        (24 * GB, Format::F32),
        (12 * GB, Format::F16),
        (4 * GB, Format::int(8, Activations::F16)),
        (0, Format::int(4, Activations::F16)),
    ];
    let one = |(memory_bytes, tier): (u64, Format)| {
        // A group whose menu lacks the tier's format has the nearest it may have: pins and permitted formats stand.
        let pick = |menu: &Vec<Format>| {
            let has = |format: Format| menu.iter().copied().find(|f| *f == format);
            has(tier).or_else(|| has(tier.without_weights())).or(menu.last().copied()).unwrap_or(tier)
        };
        let formats: Vec<_> = menus.iter().map(pick).collect();
        let peak_bytes = planned(&formats)?.peak_bytes;
        Ok(Tier { memory_bytes, formats, peak_bytes })
    };
    tiers.into_iter().map(one).collect()
}

/// Formats by group, with what proves them where they were searched for.
type Found = (Vec<Format>, Option<Certificate>);

/// Menus with their scores, as the solver sees them.
pub(super) struct Scored {
    pub menus: Vec<Vec<Format>>,
    scores: Vec<score::Scores>,
    solver: Problem,
}

impl Scored {
    pub fn of(graph: &Graph, model: &Model, menus: &[Vec<Format>]) -> Result<Scored, PassError> {
        let scores: Result<Vec<score::Scores>, PassError> = menus
            .par_iter()
            .enumerate()
            .map(|(g, menu)| {
                let name = model.groups[g].nodes.first().map_or("", |id| graph.node(*id).name.as_str());
                score::Scores::of(graph, &model.groups[g], menu).map_err(at(name))
            })
            .collect();
        let groups = vec![Group { choices: Vec::new() }; menus.len()];
        let solver = Problem { groups, row_base: model.base_rows(), capacity: u64::MAX };
        let mut scored = Scored { menus: vec![Vec::new(); menus.len()], scores: scores?, solver };
        for (g, menu) in menus.iter().enumerate() {
            menu.iter().for_each(|format| scored.offer(model, g, *format));
        }
        Ok(scored)
    }

    /// Adds a choice.
    fn offer(&mut self, model: &Model, group: usize, format: Format) {
        if self.menus[group].contains(&format) {
            return;
        }
        self.menus[group].push(format);
        self.solver.groups[group].choices.push(Choice {
            cost: self.scores[group].score(&model.groups[group], format),
            fixed_bytes: model.weight_bytes(group, format) + model.params_bytes(group, format),
            rows: model.row_bytes(group, format),
        });
    }

    /// Offers to split the matrices that the relaxation divides, between the ways to store weights that it mixes;
    /// whether there were any.
    fn offer_splits(&mut self, model: &Model, divided: &[(usize, Vec<(usize, f64)>)]) -> bool {
        let before: usize = self.menus.iter().map(Vec::len).sum();
        for (group, choices) in divided {
            let Some(n_rows) = model.splittable_rows(*group) else { continue };
            let whole: Vec<Format> = self.menus[*group].iter().copied().filter(|f| f.tail.is_none()).collect();
            // The rows that the relaxation stores as `weights`.
            let rows_as = |weights: Weights| -> f64 {
                let part = |(choice, part): &(usize, f64)| -> f64 {
                    let rows = self.menus[*group][*choice]
                        .parts(n_rows)
                        .filter(|(_, w)| *w == weights)
                        .map(|(n, _)| n)
                        .sum::<usize>();
                    rows as f64 * part
                };
                choices.iter().map(part).sum()
            };
            let mixed = |weights: Weights| rows_as(weights) > 0.0;
            let mut splits = Vec::new();
            for head in whole.iter().filter(|f| mixed(f.weights)) {
                // Both ways to store weights are permitted beside the activations.
                let permitted = |weights: Weights| whole.contains(&Format { weights, ..*head });
                for weights in whole
                    .iter()
                    .map(|f| f.weights)
                    .filter(|&w| mixed(w) && permitted(w) && w.bits() < head.weights.bits())
                {
                    let (wide, narrow) = (rows_as(head.weights), rows_as(weights));
                    let best = (n_rows as f64 * wide / (wide + narrow)) as usize;
                    let places = (1..SPLIT_PLACES).map(|i| n_rows * i / SPLIT_PLACES).chain([best]);
                    let rows = places.filter_map(|row| u32::try_from(row).ok()).filter(|&row| row > 0);
                    splits.extend(rows.map(|from_row| Format { tail: Some(Tail { from_row, weights }), ..*head }));
                }
            }
            splits.into_iter().for_each(|format| self.offer(model, *group, format));
        }
        self.menus.iter().map(Vec::len).sum::<usize>() > before
    }

    fn formats(&self, choice: &[usize]) -> Vec<Format> {
        choice.iter().zip(&self.menus).map(|(&c, menu)| menu[c]).collect()
    }

    pub fn choice(&self, group: usize, format: Format) -> Option<&Choice> {
        let at = self.menus[group].iter().position(|f| *f == format)?;
        self.solver.groups[group].choices.get(at)
    }

    pub fn cost(&self, formats: &[Format]) -> f64 {
        // The sum of no floats is -0.
        formats.iter().enumerate().filter_map(|(g, f)| self.choice(g, *f)).map(|c| c.cost).sum::<f64>() + 0.0
    }

    /// The best assignment whose plan fits `available` bytes; `None` where even the solver's smallest does not.
    fn search(
        &mut self,
        model: &Model,
        available: u64,
        cx: &Context<'_>,
        planned: &dyn Fn(&[Format]) -> Result<crate::assign::model::Planned, PlanError>,
    ) -> Result<Option<Found>, PassError> {
        // Both allocations are rounded up to the driver's granularity.
        let mut capacity = available;
        let small = small(model.groups.len());
        for rounds in 1..=MAX_ROUNDS {
            let mut problem = Problem { capacity, ..self.solver.clone() };
            for _ in 0..MAX_SPLIT_ROUNDS {
                let quick = solve(&problem, &Limits { max_nodes: QUICK_NODES, ..Limits::default() });
                let (Ok(quick), Ok(relaxed)) = (quick, relax(&problem, &Limits::default())) else { break };
                let gain = quick.objective - relaxed.bound;
                if gain <= SPLIT_GAIN * quick.objective.max(small) || !self.offer_splits(model, &relaxed.divided) {
                    break;
                }
                problem = Problem { capacity, ..self.solver.clone() };
            }
            let Ok(Solution { choice, objective, bound, n_nodes, shadow_price, .. }) =
                solve(&problem, &Limits::default())
            else {
                return Ok(None);
            };
            let formats = self.formats(&choice);
            let peak = planned(&formats)?.peak_bytes;
            if peak <= available {
                let gap = gap(objective, bound, model.groups.len());
                let solver = "branch and bound over an LP relaxation".to_owned();
                let certificate = Certificate {
                    objective,
                    bound,
                    gap,
                    solver,
                    n_nodes: n_nodes as u64,
                    rounds,
                    shadow_price,
                    tuning: None,
                };
                return Ok(Some((formats, Some(certificate))));
            }
            capacity =
                capacity.saturating_sub(peak - available).saturating_sub(cx.target.memory.allocation_granularity);
        }
        Ok(None)
    }

    /// The cheapest ways to a budget that is too small.
    fn advice(
        &self,
        graph: &Graph,
        model: &Model,
        menus: &[Vec<Format>],
        least: u64,
        available: u64,
        reserve: u64,
    ) -> Vec<String> {
        let mut advice = vec![OverBudget::give(least, reserve)];
        let lacks_int4 = menus.iter().zip(&model.groups).any(|(menu, group)| {
            !group.weights.is_empty() && !menu.iter().any(|f| matches!(f.weights, Weights::Int { bits: 4, .. }))
        });
        if lacks_int4 && least > available {
            advice.push("permit w4a16 (--formats, --precision): it is the smallest format".to_owned());
        }
        let largest = model
            .groups
            .iter()
            .enumerate()
            .max_by_key(|(g, _)| menus[*g].iter().map(|f| model.weight_bytes(*g, *f)).min().unwrap_or(0));
        if let Some((g, group)) = largest
            && let Some(id) = group.nodes.first()
        {
            let bytes = menus[g].iter().map(|f| model.weight_bytes(g, *f)).min().unwrap_or(0);
            advice.push(format!(
                "the largest node is {:?}: {bytes} bytes of weights at its smallest format",
                graph.node(*id).name
            ));
            return advice;
        }
        let outputs = graph.order().into_iter().flat_map(|id| &graph.node(id).outputs);
        let largest = outputs
            .filter_map(|value| Some((value.ty.largest()?.bytes()?, &value.name)))
            .max_by_key(|(bytes, _)| *bytes);
        advice.extend(largest.map(|(bytes, name)| format!("the largest tensor is {name:?}: {bytes} bytes")));
        advice
    }
}

/// An objective that counts as none: not 0 even where there is nothing to assign, since the gap is relative to it.
fn small(n_groups: usize) -> f64 {
    n_groups.max(1) as f64 * 6.5e-3 * 1e-6
}

/// The part of the objective that a better assignment might save.
pub(super) fn gap(objective: f64, bound: f64, n_groups: usize) -> f64 {
    (objective - bound).max(0.0) / objective.max(small(n_groups))
}
