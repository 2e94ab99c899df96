//! Gives every node with floats a format, so that the program fits the budget with the smallest predicted error.
//!
//! Runs the passes to come on copies of the graph (`lowering`): once in f32 to see kernels, schedule and buffers
//! (`crate::assign::model`), and once for each assignment that matters, to count it. The menu of each group
//! (`permitted`) is scored, and the loop of the budget (`crate::assign::budget`) chooses one format a group. Where the
//! solver's relaxation would divide a large matrix, its rows may be stored in two ways, which closes most of the gap to
//! that bound. Policies `uniform` and `tiered` skip the search. Formats are only noted on nodes: `insert_qdq` makes
//! them real. Refuses with the smallest feasible budget and the cheapest ways there.

use super::candidates::Known;
use super::lowering::{Lowered, Rest};
use super::permitted::{Range, Wishes};
use super::{Assignment, Context, Facts, Pass, PassError, Settings, Stage, wide_range};
use crate::assign::budget::{self, Assigned, Counted, Lower, Request, Set};
use crate::assign::model::{Group, LinearModel, has_floats};
use crate::assign::score;
use crate::ir::{Edit, Format, Graph, Patch};
use crate::plan::build;

/// The pass.
pub struct AssignPrecision;

impl Pass for AssignPrecision {
    fn name(&self) -> &str {
        "assign_precision"
    }

    fn stage(&self) -> Stage {
        Stage::Assign
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        cx.settings.check_pins(graph)?;
        let rest = Rest::of(cx);
        let (model, plain) = modelled(graph, &rest)?;
        let wide = wide_range::nodes(graph);
        let ranges: Vec<Range> = model.groups.iter().map(|group| Range::of(graph, group, &wide)).collect();
        let all_f32 = vec![Format::F32; model.groups.len()];
        let mut trials = Trials { graph, model: &model, ranges: &ranges, rest: &rest, kept: Some((all_f32, plain)) };
        let assigned = budget::assign(&request(graph, &model, &rest), &mut trials)?;
        let assigned = assigned.map_err(|over| PassError::OverBudget(Box::new(over)))?;
        let lowered = trials.lowered(&assigned.noted)?;
        let wishes = Wishes { graph, model: &model, ranges: &ranges, set: &assigned.set, settings: cx.settings };
        let reasons = (0..model.groups.len()).flat_map(|g| wishes.reasons(g, &assigned));
        cx.facts.reasons.extend(reasons);
        let is_asked = cx.settings.explain.is_some();
        let excluded = (0..model.groups.len()).filter(|_| is_asked).map(|g| wishes.excluded(g)).collect();
        let patch = noted(graph, &model, &assigned.noted);
        leave(&mut cx.facts, graph, rest, model, assigned, excluded);
        cx.facts.lowered = Some(Box::new(lowered));
        Ok(patch)
    }
}

/// Sees to it that there are a forecast and a certificate of the formats that nodes have, now that they become real and
/// no pass of ours assigned them.
pub(super) fn account(graph: &Graph, cx: &mut Context<'_>) -> Result<(), PassError> {
    let rest = Rest::of(cx);
    let (model, plain) = modelled(graph, &rest)?;
    let f32_bytes = plain.blueprint.peak_bytes;
    drop(plain);
    let lowered = rest.lower(graph.clone())?;
    let format = |group: &Group| {
        let with_weights = group.nodes.iter().find(|id| crate::ops::weights::of(graph, **id).is_some());
        let decides = with_weights.or(group.nodes.first()).and_then(|id| graph.node(*id).format);
        // A node without format keeps the types of the model.
        decides.unwrap_or(Format::F32)
    };
    let formats: Vec<Format> = model.groups.iter().map(format).collect();
    let request = request(graph, &model, &rest);
    let assigned = budget::given(&request, formats, lowered.blueprint.peak_bytes, f32_bytes)?;
    let assigned = assigned.map_err(|over| PassError::OverBudget(Box::new(over)))?;
    leave(&mut cx.facts, graph, rest, model, assigned, Vec::new());
    cx.facts.lowered = Some(Box::new(lowered));
    Ok(())
}

/// Leaves what was found out.
fn leave<'a>(
    facts: &mut Facts<'a>,
    graph: &Graph,
    rest: Rest<'a>,
    model: LinearModel,
    assigned: Assigned,
    excluded: Vec<Vec<(String, String)>>,
) {
    let name = |id: &crate::ir::NodeId| graph.node(*id).name.clone();
    let names = model.groups.iter().map(|group| group.nodes.iter().map(name).collect()).collect();
    facts.forecast = Some(assigned.forecast);
    let (certificate, solve_time) = (assigned.certificate.clone(), assigned.solve_time);
    // Further assignments are only counted for whoever asks.
    let graph = rest.settings.explain.as_ref().map(|_| graph.clone());
    let known = Known { model, assigned, names, excluded, rest, graph };
    facts.assignment = Some(Assignment { certificate, solve_time, known });
}

fn request<'a>(graph: &'a Graph, model: &'a LinearModel, rest: &Rest<'a>) -> Request<'a> {
    let Settings { policy, budget_bytes, reserve_bytes, .. } = *rest.settings;
    let budget_bytes = budget_bytes.unwrap_or_else(|| rest.target.default_budget_bytes());
    let Settings { errors, calibration, .. } = rest.settings;
    let known = score::Known { errors, calibration: calibration.as_deref() };
    Request { graph, model, known, policy, budget_bytes, reserve_bytes, target: rest.target }
}

/// The program to come with all formats open, and what `uniform:f32` makes of the graph.
fn modelled(graph: &Graph, rest: &Rest<'_>) -> Result<(LinearModel, Lowered), PassError> {
    let mut plain = graph.clone();
    let mut edit = Edit::new(&plain);
    let nodes = plain.order().into_iter().filter(|id| plain.node(*id).op().is_some() && has_floats(&plain, *id));
    nodes.for_each(|id| edit.set_format(id, Some(Format::F32)));
    let patch = edit.finish();
    plain.apply(patch);
    let plain = rest.lower(plain)?;
    // Where f32 is the type of the model, those are its kernels.
    let own = if plain.is_plain && plain.set.is_empty() { None } else { Some(rest.open(graph.clone())?) };
    let kernels = own.as_ref().unwrap_or(&plain.kernels);
    let model = LinearModel::of(graph, kernels, build::params_bytes(kernels, rest.target)?, rest.target)?;
    Ok((model, plain))
}

/// The formats of groups as notes on their nodes.
pub(super) fn noted(graph: &Graph, model: &LinearModel, formats: &[Format]) -> Patch {
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

/// Assignments of a graph, lowered to be counted.
struct Trials<'g, 'a> {
    graph: &'g Graph,
    model: &'g LinearModel,
    ranges: &'g [Range],
    rest: &'g Rest<'a>,
    /// The one that is likely the answer.
    kept: Option<(Vec<Format>, Lowered)>,
}

impl Trials<'_, '_> {
    fn lower(&self, formats: &[Format]) -> Result<Lowered, PassError> {
        let mut graph = self.graph.clone();
        graph.apply(noted(self.graph, self.model, formats));
        self.rest.lower(graph)
    }

    /// What comes of an assignment.
    fn lowered(self, formats: &[Format]) -> Result<Lowered, PassError> {
        match self.kept {
            Some((own, lowered)) if own == formats => Ok(lowered),
            _ => Trials { kept: None, ..self }.lower(formats),
        }
    }
}

impl Lower for Trials<'_, '_> {
    type Error = PassError;

    fn permitted(&self, set: &Set) -> Vec<Vec<Format>> {
        let Trials { graph, model, ranges, rest, .. } = *self;
        let wishes = Wishes { graph, model, ranges, set, settings: rest.settings };
        (0..model.groups.len()).map(|g| wishes.menu(g)).collect()
    }

    fn count(&mut self, formats: &[Format], likely: bool) -> Result<Counted, PassError> {
        if let Some((_, lowered)) = self.kept.as_ref().filter(|(own, _)| own == formats) {
            return Ok(lowered.counted());
        }
        if likely {
            self.kept = None;
        }
        let lowered = self.lower(formats)?;
        let counted = lowered.counted();
        if likely {
            self.kept = Some((formats.to_vec(), lowered));
        }
        Ok(counted)
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

    /// What the policy chose from, what it chose, and what proves it, of two layers under a budget.
    fn chosen(budget_bytes: u64) -> (String, crate::program::Certificate) {
        let registry = crate::ops::registry();
        let mut graph = product_of(64, 32);
        let hidden = graph.outputs()[0].value;
        let mut v = 0u32;
        let mut next = || {
            v = v.wrapping_mul(1_664_525).wrapping_add(12_345);
            (v >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        let values: Vec<f32> = (0..32 * 96).map(|_| next() * next()).collect();
        let w = graph.add_const("w2", Tensor::from_f32s(DType::F32, &[32, 96], &values).unwrap());
        let op = Op::new(registry.by_onnx("MatMul").unwrap(), Attrs::new());
        let z = graph.add_op("z", op, &[Some(hidden), Some(w)], &["z".into()]).unwrap();
        graph.add_output("z", z.out(0));
        let settings = Settings { budget_bytes: Some(budget_bytes), ..Settings::default() };
        let target = Target::shipped("lavapipe").unwrap();
        let mut cx = Context::new(&target, &settings);
        AssignPrecision.run(&graph, &mut cx).unwrap();
        let Assignment { certificate, known, .. } = cx.facts.assignment.unwrap();
        let forecast = cx.facts.forecast.unwrap();
        assert!(forecast.chosen_bytes <= budget_bytes && forecast.min_feasible_bytes <= forecast.chosen_bytes);
        let mut text = format!(
            "budget {budget_bytes}B least {}B f32 {}B chosen {}B\n",
            forecast.min_feasible_bytes, forecast.f32_bytes, forecast.chosen_bytes
        );
        let assigned = &known.assigned;
        for (g, names) in known.names.iter().enumerate() {
            text += &format!("group {}\n", names.join(" "));
            for format in &assigned.menus.formats[g] {
                let choice = assigned.menus.choice(g, *format).unwrap();
                let rows = choice.rows.iter().map(|run| run.bytes).max().unwrap_or(0);
                let mark = if *format == assigned.formats[g] { " <" } else { "" };
                text += &format!("  {format} {}B + {rows}B error {:.2e}{mark}\n", choice.fixed_bytes, choice.cost);
            }
        }
        let crate::program::Certificate { objective, bound, solver, rounds, .. } = &certificate;
        text += &format!("objective {objective:.2e} bound {bound:.2e} by {solver}, rounds {rounds}\n");
        (text, certificate)
    }

    #[test]
    fn the_policy_of_a_budget_is_a_menu_a_choice_and_a_proof() {
        let mut settings = insta::Settings::clone_current();
        settings.set_snapshot_path(format!("{}/snapshots/assign_precision", env!("CARGO_MANIFEST_DIR")));
        settings.set_prepend_module_to_snapshot(false);
        settings.set_omit_expression(true);
        let mut errors = Vec::new();
        for (name, budget_bytes) in [("policy_tight", 9216), ("policy_wide", 65536)] {
            let (text, certificate) = chosen(budget_bytes);
            assert!(certificate.bound <= certificate.objective, "{certificate:?}");
            errors.push(certificate.objective);
            settings.bind(|| insta::assert_snapshot!(name, text));
        }
        // More bytes, less error; where all fits, none.
        assert!(errors[0] > errors[1] && errors[1] == 0.0, "{errors:?}");
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
    fn weights_that_a_format_cannot_hold_are_stored_wider_and_the_reason_is_reported() {
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
            assert_eq!(cx.facts.reasons["m"].contains(why), asked != given, "{}", cx.facts.reasons["m"]);
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
        let certificate = cx.facts.assignment.unwrap().certificate;
        assert!(certificate.gap < 0.01, "{certificate:?}");
        // A matrix below the size that is worth two dispatches stays whole.
        let settings = Settings { budget_bytes: Some(64 * 32 * 3 / 2 + 2048), ..Settings::default() };
        let mut small = product();
        let patch = AssignPrecision.run(&small, &mut Context::new(&target, &settings)).unwrap();
        small.apply(patch);
        assert!(!format_of(&small, "m").contains('/'), "{}", format_of(&small, "m"));
    }

    #[test]
    fn the_block_that_fits_is_chosen_and_another_budget_measures_nothing() {
        let target = Target::shipped("lavapipe").unwrap();
        let graph = product_of(512, 64);
        let assigned = |settings: &Settings| {
            let mut cx = Context::new(&target, settings);
            let mut after = graph.clone();
            after.apply(AssignPrecision.run(&graph, &mut cx).unwrap());
            (format_of(&after, "m"), cx.facts.forecast.unwrap().chosen_bytes)
        };
        let mut free = Settings::default();
        free.permit_each_block();
        let mut n_measured = 0;
        for block in ["g64", "g128", "g256"] {
            let pins = vec![format!("m=w4a32:{block}").parse().unwrap()];
            let (_, bytes) = assigned(&Settings { pins, ..Settings::default() });
            let (format, chosen) = assigned(&Settings { budget_bytes: Some(bytes), ..free.clone() });
            assert!(format.starts_with("w4") && format.ends_with(&format!(":{block}")), "{block}: {format}");
            assert!(chosen <= bytes, "{chosen} {bytes}");
            // Twelve ways to store integers, the ten of other blocks beside the default on fewer weights, and f16 and
            // f32.
            assert!(n_measured == 0 || n_measured == free.errors.n_measured(), "{n_measured}");
            n_measured = free.errors.n_measured();
        }
        assert_eq!(n_measured, 2 + 2 + 2 + 10);
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
