//! Gives every node with floats a format, so that the program fits the budget with the least predicted error.
//!
//! Lowers a copy of the graph in f32 to see kernels, schedule and buffers (`crate::assign::model`); scores every
//! permitted format of every group (`crate::assign::score`); and lets the solver choose one a group under the budget at
//! every step (`crate::assign::solve`). Where the arena of the answer is larger than its max-live bound, the excess is
//! taken off and it is solved again, at most four times. Where the solver's relaxation would divide a large matrix, its
//! rows may be stored in two ways, which closes most of the gap to that bound. Policies `uniform` and `tiered` skip the
//! search. Formats are only noted on nodes: `insert_qdq` makes them real. Refuses with the smallest feasible budget and
//! the cheapest ways there.

use super::assignment::{Assigned, Known, Outcome, Scored, gap};
use super::{Context, Pass, PassError, Settings, Stage, pipeline, wide_range};
use crate::assign::model::{Group, Model};
use crate::ir::{Activations, Edit, Format, Graph, Node, NodeId, Patch, Weights};
use crate::plan::{Forecast, build};
use crate::program::Certificate;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// The pass.
pub struct AssignPrecision;

/// The largest magnitude that f16 holds.
const MAX_F16: f32 = 65504.0;
/// How often formats are assigned again because passes to come set others.
const MAX_ROUNDS: u32 = 4;

impl Pass for AssignPrecision {
    fn name(&self) -> &str {
        "assign_precision"
    }

    fn stage(&self) -> Stage {
        Stage::Assign
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        cx.settings.check_pins(graph)?;
        let model = modelled(graph, cx)?;
        let wide = wide_range::nodes(graph);
        let ranges: Vec<Range> = model.groups.iter().map(|group| Range::of(graph, group, &wide)).collect();
        let mut set: BTreeMap<String, (Format, String)> = BTreeMap::new();
        let mut rounds = 1..=MAX_ROUNDS;
        let (assigned, reasons, excluded) = loop {
            let wishes = Wishes { graph, model: &model, ranges: &ranges, set: &set, settings: cx.settings };
            let menus: Vec<Vec<Format>> = (0..model.groups.len()).map(|g| wishes.menu(g)).collect();
            let scored = Scored::of(graph, &model, &menus)?;
            let start = std::time::Instant::now();
            let outcome = Outcome::of(graph, &model, scored, cx);
            cx.solve_time += start.elapsed();
            let outcome = outcome?;
            // What the passes between this one and real formats set is as fixed as a pin: with that known it is
            // assigned again, so that the others fill the budget, and nothing is refused that they make fit.
            let found = pipeline::settle(graph, || noted(graph, &model, &outcome.formats), cx)?;
            let is_settled = found.iter().all(|(name, format)| set.get(name) == Some(format));
            rounds.next();
            if !is_settled && !rounds.is_empty() {
                set.extend(found);
                continue;
            }
            let assigned = outcome.assigned()?;
            let reasons: Vec<_> = (0..model.groups.len()).map(|g| wishes.reasons(g, &assigned)).collect();
            let is_asked = cx.settings.explain.is_some();
            let excluded = (0..model.groups.len()).filter(|_| is_asked).map(|g| wishes.excluded(g)).collect();
            break (assigned, reasons, excluded);
        };
        cx.reasons.extend(reasons.into_iter().flatten());
        cx.forecast = Some(assigned.forecast);
        cx.certificate = Some(assigned.certificate.clone());
        let patch = noted(graph, &model, &assigned.formats);
        cx.assigned = Some(Box::new(Known { names: names(graph, &model), model, assigned, excluded }));
        Ok(patch)
    }
}

/// The program to come, with all formats open.
fn modelled(graph: &Graph, cx: &Context<'_>) -> Result<Model, PassError> {
    let mut kernels = graph.clone();
    pipeline::lower(&mut kernels, cx)?;
    Ok(Model::of(graph, &kernels, build::params_bytes(&kernels, cx.target)?, cx.target)?)
}

/// The names of the nodes of each group.
fn names(graph: &Graph, model: &Model) -> Vec<Vec<String>> {
    model.groups.iter().map(|g| g.nodes.iter().map(|id| graph.node(*id).name.clone()).collect()).collect()
}

/// The formats of groups as notes on their nodes.
fn noted(graph: &Graph, model: &Model, formats: &[Format]) -> Patch {
    let mut edit = Edit::new(graph);
    for (group, format) in model.groups.iter().zip(formats) {
        for &id in &group.nodes {
            let has_weights = crate::ops::weights::of(graph, id).is_some();
            let own = if has_weights { *format } else { format.without_weights() };
            if graph.node(id).format != Some(own) {
                edit.set_format(id, Some(own));
            }
        }
    }
    edit.finish()
}

/// Sees to it that forecast and certificate are those of the formats that nodes have, now that they become real: where
/// another pass than `assign_precision` set some that this one did not foresee, or there was no such pass.
pub(super) fn account(graph: &Graph, cx: &mut Context<'_>) -> Result<(), PassError> {
    let now = pipeline::formats(graph);
    if let Some(known) = &cx.assigned {
        let foreseen = known.by_name(graph);
        if now.iter().all(|(name, format)| foreseen.get(name) == Some(format)) && foreseen.len() == now.len() {
            return Ok(());
        }
    }
    let model = modelled(graph, cx)?;
    let format = |group: &Group| {
        let with_weights = group.nodes.iter().find(|id| crate::ops::weights::of(graph, **id).is_some());
        let decides = with_weights.or(group.nodes.first()).and_then(|id| graph.node(*id).format);
        // A node without format keeps the types of the model.
        decides.unwrap_or(Format::F32)
    };
    let formats: Vec<Format> = model.groups.iter().map(format).collect();
    let menus: Vec<Vec<Format>> = formats.iter().map(|f| vec![*f]).collect();
    let scored = Scored::of(graph, &model, &menus)?;
    let planned = |formats: &[Format]| model.planned(formats, cx.target, build::ARENA_NODES);
    let chosen_bytes = planned(&formats)?.peak_bytes;
    let f32_bytes = planned(&vec![Format::F32; formats.len()])?.peak_bytes;
    let objective = scored.cost(&formats);
    let certificate = match cx.certificate.take() {
        Some(was) => {
            let bound = was.bound.min(objective);
            Certificate { objective, bound, gap: gap(objective, bound, formats.len()), ..was }
        }
        None => Certificate {
            objective,
            bound: objective,
            solver: "none: formats are those that passes set".to_owned(),
            rounds: 1,
            ..Certificate::default()
        },
    };
    let min_feasible_bytes = cx.forecast.map_or(chosen_bytes, |f| f.min_feasible_bytes.min(chosen_bytes));
    let forecast = Forecast { f32_bytes, min_feasible_bytes, chosen_bytes };
    let budget = cx.settings.budget_bytes.unwrap_or_else(|| cx.target.default_budget_bytes());
    let available = budget.saturating_sub(cx.settings.reserve_bytes);
    let assigned = Assigned { scored, formats, certificate: certificate.clone(), forecast, available };
    cx.forecast = Some(forecast);
    cx.certificate = Some(certificate);
    cx.assigned = Some(Box::new(Known { names: names(graph, &model), model, assigned, excluded: Vec::new() }));
    Ok(())
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
    fn of(graph: &Graph, group: &Group, wide: &BTreeSet<NodeId>) -> Range {
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

    /// The nearest format that keeps what is not finite among weights, what of them is too large for f16, and results
    /// that f16 is likely not to hold.
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
        let of_weights = asked.iter().find(|format| has_weights && self.keep_weights(**format) != **format);
        let of_results =
            asked.iter().find(|format| pin.is_none() && self.keep(**format) != self.keep_weights(**format));
        of_weights.or(of_results).map(|format| self.why(*format))
    }

    /// Why weights or results are kept wider than in a format.
    fn why(self, format: Format) -> &'static str {
        if self.keep_weights(format) == format {
            "a power that is summed, or a mask before a softmax, may be beyond f16"
        } else if self.is_finite {
            "its weights are beyond the range of f16"
        } else {
            "its weights hold NaN or infinity, which integers do not"
        }
    }
}

/// What decides which formats a group may have.
struct Wishes<'a> {
    graph: &'a Graph,
    model: &'a Model,
    ranges: &'a [Range],
    /// Formats that passes to come set, by node, with the pass.
    set: &'a BTreeMap<String, (Format, String)>,
    settings: &'a Settings,
}

impl Wishes<'_> {
    /// The format as the group can have it: without weights where it has none, whole where its rows are shared, without
    /// quantized activations where there is no product of them.
    fn fit(&self, group: &Group, format: Format) -> Format {
        match format.activations {
            _ if group.weights.is_empty() => format.without_weights(),
            _ if format.tail.is_some() && !group.weights.iter().all(|w| w.has_own_rows) => {
                Format { tail: None, ..format }
            }
            Activations::I8 if !group.weights.iter().any(|w| w.has_products) => {
                Format { activations: Activations::F32, ..format }
            }
            _ => format,
        }
    }

    /// The formats that a group may have: what is permitted, or what its pins and passes to come say.
    fn menu(&self, at: usize) -> Vec<Format> {
        let group = &self.model.groups[at];
        let mut menu: Vec<Format> = Vec::new();
        for format in self.settings.permitted().iter().map(|f| self.fit(group, self.ranges[at].keep(*f))) {
            if !menu.contains(&format) {
                menu.push(format);
            }
        }
        for &id in &group.nodes {
            let Some(pin) = self.fixed(at, id) else { continue };
            let own = crate::ops::weights::of(self.graph, id).is_some();
            let agrees =
                |format: &Format| if own { *format == pin } else { format.without_weights() == pin.without_weights() };
            menu.retain(agrees);
            if menu.is_empty() {
                menu.push(pin);
            }
        }
        menu
    }

    /// The format that a pass to come or a pin gives a node.
    fn fixed(&self, at: usize, id: NodeId) -> Option<Format> {
        let (node, group) = (self.graph.node(id), &self.model.groups[at]);
        let set = self.set.get(&node.name).map(|(format, _)| *format);
        set.or_else(|| Some(self.ranges[at].keep_weights(self.settings.pinned(node)?))).map(|f| self.fit(group, f))
    }

    /// Why a node's format is not for the solver to choose.
    fn because(&self, at: usize, id: NodeId) -> Option<String> {
        let node = self.graph.node(id);
        match self.set.get(&node.name) {
            Some((_, pass)) => Some(pipeline::set_by(pass)),
            None => self.fixed(at, id).map(|_| "pinned by --precision".to_owned()),
        }
    }

    /// Why each node of a group has its format, by name.
    fn reasons(&self, at: usize, assigned: &Assigned) -> Vec<(String, String)> {
        let group = &self.model.groups[at];
        let solved = assigned.reason(at, self.settings.policy);
        let decided = group.nodes.iter().find_map(|&id| Some((id, self.because(at, id)?)));
        let reason = |&id: &NodeId| {
            let node = self.graph.node(id);
            let mut reason = match (&decided, self.because(at, id)) {
                (_, Some(own)) => own,
                (Some((other, because)), None) => {
                    format!("shares its format with {:?}, {because}", self.graph.node(*other).name)
                }
                (None, None) => solved.clone(),
            };
            let has_weights = crate::ops::weights::of(self.graph, id).is_some();
            if let Some(why) = self.ranges[at].excludes(self.settings, node, has_weights) {
                reason = format!("{reason}; {why}");
            }
            (node.name.clone(), reason)
        };
        group.nodes.iter().map(reason).collect()
    }

    /// The formats that a group could not have, and why.
    fn excluded(&self, at: usize) -> Vec<(String, String)> {
        let (group, range, menu) = (&self.model.groups[at], self.ranges[at], self.menu(at));
        let decided = group.nodes.iter().find_map(|&id| Some((id, self.because(at, id)?)));
        let mut excluded = Vec::new();
        for format in Format::MENU.iter().chain(self.settings.permitted()).copied() {
            let text = format.to_string();
            if menu.contains(&format) || excluded.iter().any(|(known, _)| *known == text) {
                continue;
            }
            let (kept, fitted) = (range.keep(format), self.fit(group, range.keep(format)));
            let why = match &decided {
                _ if !self.settings.permitted().contains(&format) => "not permitted (--formats, --policy)".to_owned(),
                Some((id, because)) => format!("{:?} is {because}", self.graph.node(*id).name),
                None if kept != format => format!("{}: as {kept}", range.why(format)),
                None if group.weights.is_empty() => format!("there are no weights: as {fitted}"),
                None => format!("there is no product whose activations could be quantized: as {fitted}"),
            };
            excluded.push((text, why));
        }
        excluded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attrs, DType, Level, Op, Tensor, TensorType};
    use crate::passes::testing::check_with;
    use crate::targets::Target;

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
