//! Gives every node with floats a format, so that the program fits the budget with the least predicted error.
//!
//! Lowers a copy of the graph in f32 to see kernels, schedule and buffers (`plan::model`); scores every permitted format of every group
//! (`plan::score`); and lets the solver choose one a group under the budget at every step (`plan::solve`). Where the arena of the answer is larger than
//! its max-live bound, the excess is taken off and it is solved again, at most four times. Where the solver's relaxation would divide a large matrix,
//! its rows may be stored in two ways, which closes most of the gap to that bound. Policies `uniform` and `tiered` skip the search. Formats
//! are only noted on nodes: `insert_qdq` makes them real. Refuses with the smallest feasible budget and the cheapest ways there.

use super::{Context, OverBudget, Pass, PassError, Policy, Settings, at, pipeline, wide_range};
use crate::ir::{Activations, Edit, Format, Graph, Node, NodeId, Patch, Tail, Weights};
use crate::plan::model::Model;
use crate::plan::solve::{Choice, Group, Limits, Problem, Solution, min_peak, relax, solve};
use crate::plan::{Forecast, PlanError, build, score};
use crate::program::Certificate;
use rayon::prelude::*;
use std::collections::BTreeSet;

/// The pass.
pub struct AssignPrecision;

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
/// The largest magnitude that f16 holds.
const MAX_F16: f32 = 65504.0;
/// How often the budget is solved for again because the arena was larger than its bound.
const MAX_ROUNDS: u32 = 4;

impl Pass for AssignPrecision {
    fn name(&self) -> &str {
        "assign_precision"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        cx.settings.check_pins(graph)?;
        let mut kernels = graph.clone();
        pipeline::lower(&mut kernels, cx)?;
        let model = Model::of(graph, &kernels, build::params_bytes(&kernels, cx.target)?, cx.target)?;
        drop(kernels);
        let wide = wide_range::nodes(graph);
        let ranges: Vec<Range> = model.groups.iter().map(|group| Range::of(graph, group, &wide)).collect();
        let menus = ranges.iter().enumerate().map(|(g, range)| menu(graph, &model, g, *range, cx)).collect::<Vec<_>>();
        let mut problem = Scored::of(graph, &model, &menus)?;
        let start = std::time::Instant::now();
        let chosen = Assignment::of(graph, &model, &menus, &mut problem, cx)?;
        cx.solve_time += start.elapsed();
        cx.forecast = Some(chosen.forecast);
        cx.certificate = Some(chosen.certificate);
        let mut edit = Edit::new(graph);
        for (at, group) in model.groups.iter().enumerate() {
            let format = chosen.formats[at];
            for &id in &group.nodes {
                let node = graph.node(id);
                let has_weights = crate::ops::weights::of(graph, id).is_some();
                let own = if has_weights { format } else { format.without_weights() };
                let excluded = ranges[at].excludes(cx.settings, node, has_weights);
                let reason =
                    excluded.map_or_else(|| chosen.reasons[at].clone(), |why| format!("{}; {why}", chosen.reasons[at]));
                cx.reasons.insert(node.name.clone(), reason);
                if node.format != Some(own) {
                    edit.set_format(id, Some(own));
                }
            }
        }
        Ok(edit.finish())
    }
}

/// What weights and results of a group cannot be stored as without becoming other numbers.
#[derive(Clone, Copy)]
struct Range {
    is_finite: bool,
    is_in_f16: bool,
    /// Whether f16 is likely not to hold its results ([`wide_range`]).
    is_wide: bool,
}

impl Range {
    fn of(graph: &Graph, group: &crate::plan::model::Group, wide: &BTreeSet<NodeId>) -> Range {
        let (is_finite, is_in_f16) = group
            .weights
            .iter()
            .filter_map(|w| graph.constant(w.value)?.to_f32s().ok())
            .flat_map(|values| {
                let one = |part: &[f32]| {
                    (part.iter().all(|v| v.is_finite()), part.iter().all(|v| !v.is_finite() || v.abs() <= MAX_F16))
                };
                values.par_chunks(1 << 16).map(one).collect::<Vec<_>>()
            })
            .fold((true, true), |all, part| (all.0 && part.0, all.1 && part.1));
        Range { is_finite, is_in_f16, is_wide: group.nodes.iter().any(|id| wide.contains(id)) }
    }

    /// The nearest format that keeps what is not finite among weights, what of them is too large for f16, and results that f16 is likely not to hold.
    fn keep(self, format: Format) -> Format {
        let format = self.keep_weights(format);
        match format.activations {
            Activations::F16 if self.is_wide => Format { activations: Activations::F32, ..format },
            _ => format,
        }
    }

    /// The same for weights alone: what is said of results is no proof, and a pin outweighs it.
    fn keep_weights(self, format: Format) -> Format {
        let has = |is: &dyn Fn(Weights) -> bool| is(format.weights) || format.tail.is_some_and(|tail| is(tail.weights));
        let narrow = !self.is_finite && has(&|w| matches!(w, Weights::Int { .. }));
        if !self.is_in_f16 && (narrow || has(&|w| w == Weights::F16)) {
            return Format::F32;
        }
        match format.activations {
            // Where the target multiplies f16, weights are f16 there, whatever they are stored as.
            Activations::F16 if !narrow && !self.is_in_f16 => Format { activations: Activations::F32, ..format },
            _ if !narrow => format,
            Activations::F16 => Format::F16,
            Activations::F32 | Activations::I8 => Format { weights: Weights::F16, ..Format::F32 },
        }
    }

    /// Why a format that was asked for is not given.
    fn excludes(self, settings: &Settings, node: &Node, has_weights: bool) -> Option<&'static str> {
        let pin = settings.pinned(node);
        let asked = pin.map_or_else(|| settings.permitted().to_vec(), |pin| vec![pin]);
        let is_kept = asked.iter().all(|format| self.keep_weights(*format) == *format);
        let is_narrow = asked.iter().any(|format| format.activations == Activations::F16);
        match self {
            Range { is_finite: false, .. } if has_weights && !is_kept => {
                Some("its weights hold NaN or infinity, which integers do not")
            }
            _ if has_weights && !is_kept => Some("its weights are beyond the range of f16"),
            Range { is_wide: true, .. } if pin.is_none() && is_narrow => {
                Some("it is stored as f32: a power that is summed, or a mask before a softmax, may be beyond f16")
            }
            _ => None,
        }
    }
}

/// The formats that a group may have: what is permitted, or what its pins say.
fn menu(graph: &Graph, model: &Model, group: usize, range: Range, cx: &Context<'_>) -> Vec<Format> {
    let group = &model.groups[group];
    let has_weights = !group.weights.is_empty();
    let has_products = group.weights.iter().any(|w| w.has_products);
    let is_splittable = group.weights.iter().all(|w| w.has_own_rows);
    let fit = |format: Format| match format.activations {
        _ if !has_weights => format.without_weights(),
        _ if format.tail.is_some() && !is_splittable => Format { tail: None, ..format },
        Activations::I8 if !has_products => Format { activations: Activations::F32, ..format },
        _ => format,
    };
    let mut menu: Vec<Format> = Vec::new();
    for format in cx.settings.permitted().iter().map(|format| fit(range.keep(*format))) {
        if !menu.contains(&format) {
            menu.push(format);
        }
    }
    for &id in &group.nodes {
        let Some(pin) = cx.settings.pinned(graph.node(id)).map(|pin| fit(range.keep_weights(pin))) else { continue };
        let own = crate::ops::weights::of(graph, id).is_some();
        let agrees =
            |format: &Format| if own { *format == pin } else { format.without_weights() == pin.without_weights() };
        menu.retain(agrees);
        if menu.is_empty() {
            menu.push(pin);
        }
    }
    menu
}

/// Formats, and what proves them.
struct Assignment {
    formats: Vec<Format>,
    reasons: Vec<String>,
    certificate: Certificate,
    forecast: Forecast,
}

impl Assignment {
    fn of(
        graph: &Graph,
        model: &Model,
        menus: &[Vec<Format>],
        problem: &mut Scored,
        cx: &Context<'_>,
    ) -> Result<Assignment, PassError> {
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
        let over_budget = || {
            let advice = advice.clone();
            PassError::OverBudget(Box::new(OverBudget {
                min_feasible_bytes,
                available_bytes: available,
                budget_bytes: budget,
                advice,
            }))
        };
        let (formats, certificate) = match settings.policy {
            Policy::Uniform(_) => (menus.iter().map(|m| m[0]).collect::<Vec<_>>(), None),
            Policy::Tiered => {
                let memory = budget.min(cx.target.memory.heap_bytes);
                let fits = |tier: &Tier| memory >= tier.memory_bytes && tier.peak_bytes <= available;
                (tiers.into_iter().find(fits).ok_or_else(over_budget)?.formats, None)
            }
            Policy::Budget => {
                if min_feasible_bytes > available {
                    return Err(over_budget());
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
            return Err(over_budget());
        }
        let objective = problem.cost(&formats);
        let reasons = formats.iter().enumerate().map(|(g, f)| problem.reason(model, g, *f, settings.policy)).collect();
        let certificate = certificate.unwrap_or(Certificate {
            objective,
            bound: objective,
            solver: settings.policy.to_string(),
            rounds: 1,
            ..Certificate::default()
        });
        let forecast = Forecast { f32_bytes, min_feasible_bytes, chosen_bytes };
        Ok(Assignment { formats, reasons, certificate, forecast })
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
    planned: &dyn Fn(&[Format]) -> Result<crate::plan::model::Planned, PlanError>,
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
struct Scored {
    menus: Vec<Vec<Format>>,
    scores: Vec<score::Scores>,
    solver: Problem,
}

impl Scored {
    fn of(graph: &Graph, model: &Model, menus: &[Vec<Format>]) -> Result<Scored, PassError> {
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

    /// Offers to split the matrices that the relaxation divides, between the ways to store weights that it mixes; whether there were any.
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

    fn choice(&self, group: usize, format: Format) -> Option<&Choice> {
        let at = self.menus[group].iter().position(|f| *f == format)?;
        self.solver.groups[group].choices.get(at)
    }

    fn cost(&self, formats: &[Format]) -> f64 {
        formats.iter().enumerate().filter_map(|(g, f)| self.choice(g, *f)).map(|c| c.cost).sum()
    }

    /// The best assignment whose plan fits `available` bytes; `None` where even the solver's smallest does not.
    fn search(
        &mut self,
        model: &Model,
        available: u64,
        cx: &Context<'_>,
        planned: &dyn Fn(&[Format]) -> Result<crate::plan::model::Planned, PlanError>,
    ) -> Result<Option<Found>, PassError> {
        // Both allocations are rounded up to the driver's granularity.
        let mut capacity = available;
        // Not 0 even where there is nothing to assign: the gap is relative to it.
        let small = model.groups.len().max(1) as f64 * 6.5e-3 * 1e-6;
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
                let gap = (objective - bound).max(0.0) / objective.max(small);
                let solver = "branch and bound over an LP relaxation".to_owned();
                let certificate =
                    Certificate { objective, bound, gap, solver, n_nodes: n_nodes as u64, rounds, shadow_price };
                return Ok(Some((formats, Some(certificate))));
            }
            capacity =
                capacity.saturating_sub(peak - available).saturating_sub(cx.target.memory.allocation_granularity);
        }
        Ok(None)
    }

    fn reason(&self, model: &Model, group: usize, format: Format, policy: Policy) -> String {
        let error = self.choice(group, format).map_or(0.0, |c| c.cost);
        match policy {
            Policy::Uniform(_) | Policy::Tiered => format!("policy {policy}"),
            Policy::Budget if self.menus[group].len() == 1 => "pinned, or the only permitted format".to_owned(),
            Policy::Budget => {
                let wider = self.menus[group]
                    .iter()
                    .filter_map(|f| Some((f, self.choice(group, *f)?)))
                    .filter(|(f, c)| c.cost < error && f.tail.is_none())
                    .min_by_key(|(f, _)| model.weight_bytes(group, **f));
                match wider {
                    None => "the least error of all permitted".to_owned(),
                    Some((next, choice)) => format!(
                        "predicted error {error:.3e}; {next} would have {:.3e} for {} bytes of weights more",
                        choice.cost,
                        model.weight_bytes(group, *next) as i128 - model.weight_bytes(group, format) as i128
                    ),
                }
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attrs, DType, Level, Op, Tensor, TensorType};
    use crate::passes::testing::check_with;
    use crate::target::Target;

    /// `relu(x * w)` with weights of 64 x 32.
    fn product() -> Graph {
        product_of(64, 32)
    }

    fn product_of(k: usize, n: usize) -> Graph {
        let mut seed = 1u32;
        let mut random = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..k * n).map(|_| random()).collect();
        product_with(k, n, &values)
    }

    fn product_with(k: usize, n: usize, values: &[f32]) -> Graph {
        let registry = crate::ops::registry();
        let op = |onnx: &str| Op::new(registry.by_onnx(onnx).unwrap(), Attrs::new());
        let mut graph = Graph::new("g", Level::Onnx);
        let x = graph.add_input("x", TensorType::of(DType::F32, &[2, k]));
        let w = graph.add_const("w", Tensor::from_f32s(DType::F32, &[k, n], values).unwrap());
        let m = graph.add_op("m", op("MatMul"), &[Some(x), Some(w)], &["m".into()]).unwrap();
        let y = graph.add_op("y", op("Relu"), &[Some(m.out(0))], &["y".into()]).unwrap();
        graph.add_output("y", y.out(0));
        graph
    }

    fn format_of(graph: &Graph, name: &str) -> String {
        graph.node(graph.value_named(name).unwrap().node).format.map_or_else(String::new, |f| f.to_string())
    }

    #[test]
    fn one_format_for_all_is_noted_where_there_are_weights() {
        let settings = Settings { policy: "uniform:w4a16".parse().unwrap(), ..Settings::default() };
        let after = check_with("assign_precision", product(), "uniform", &settings);
        assert_eq!((format_of(&after, "m").as_str(), format_of(&after, "y").as_str()), ("w4a16", "f16"));
    }

    #[test]
    fn a_pin_outweighs_the_policy() {
        let settings = Settings {
            policy: "uniform:w4a16".parse().unwrap(),
            pins: vec!["op:MatMul=f32".parse().unwrap()],
            ..Settings::default()
        };
        let after = check_with("assign_precision", product(), "refuses_against_pin", &settings);
        assert_eq!(format_of(&after, "m"), "f32");
    }

    #[test]
    fn weights_that_a_format_cannot_hold_are_stored_wider_and_the_reason_is_told() {
        let target = Target::shipped("lavapipe").unwrap();
        for (wrong, asked, given, why) in [
            (f32::NAN, "w4a16", "f16", "NaN or infinity"),
            (f32::INFINITY, "w8a8", "w16a32", "NaN or infinity"),
            (1e5, "f16", "f32", "beyond the range of f16"),
            (1e5, "w8a16", "w8a32", "beyond the range of f16"),
            (1e5, "w8a8", "w8a8", "beyond"),
        ] {
            let mut values = vec![0.5; 64 * 32];
            values[77] = wrong;
            let mut graph = product_with(64, 32, &values);
            let settings = Settings { policy: format!("uniform:{asked}").parse().unwrap(), ..Settings::default() };
            let mut cx = Context::new(&target, &settings);
            let patch = AssignPrecision.run(&graph, &mut cx).unwrap();
            graph.apply(patch);
            assert_eq!(format_of(&graph, "m"), given, "{wrong} as {asked}");
            assert_eq!(cx.reasons["m"].contains(why), asked != given, "{}", cx.reasons["m"]);
        }
    }

    #[test]
    fn a_large_matrix_is_split_where_a_whole_one_leaves_bytes_unused() {
        let target = Target::shipped("lavapipe").unwrap();
        let (whole, smaller) = (640 * 512 * 2, 640 * 512 * 17 / 16);
        let settings = Settings { budget_bytes: Some((whole + smaller) / 2 + 16384), ..Settings::default() };
        let graph = product_of(640, 512);
        let mut cx = Context::new(&target, &settings);
        let mut after = graph.clone();
        after.apply(AssignPrecision.run(&graph, &mut cx).unwrap());
        let format: Format = format_of(&after, "m").parse().unwrap();
        let parts: Vec<_> = format.parts(512).map(|(n, weights)| (n, weights.bits())).collect();
        let [(head, 16), (tail, 8)] = parts[..] else { panic!("{format}") };
        assert!(head + tail == 512 && (200..320).contains(&head), "{format}");
        let certificate = cx.certificate.unwrap();
        assert!(certificate.gap < 0.01, "{certificate:?}");
        // A matrix below the size that is worth two dispatches stays whole.
        let settings = Settings { budget_bytes: Some(64 * 32 * 3 / 2 + 2048), ..Settings::default() };
        let mut small = product();
        let patch = AssignPrecision.run(&small, &mut Context::new(&target, &settings)).unwrap();
        small.apply(patch);
        assert!(!format_of(&small, "m").contains('/'), "{}", format_of(&small, "m"));
    }

    #[test]
    fn a_budget_too_small_is_refused_with_the_smallest_that_is_not() {
        let target = Target::shipped("lavapipe").unwrap();
        let run = |budget: u64| {
            let settings = Settings { budget_bytes: Some(budget), ..Settings::default() };
            AssignPrecision.run(&product(), &mut Context::new(&target, &settings)).map(|_| ())
        };
        let Err(PassError::OverBudget(over)) = run(1) else { panic!("one byte is enough") };
        assert!(over.advice[0].contains(&over.min_feasible_bytes.to_string()), "{over}");
        run(over.min_feasible_bytes).unwrap();
        assert!(matches!(run(over.min_feasible_bytes - 1), Err(PassError::OverBudget(_))));
    }
}
