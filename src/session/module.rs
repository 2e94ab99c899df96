//! From a module of several entries to a program: one plan, in which entries share weights, arena and states.

use super::compile::{Compile, CompileError, Compiled, Lowered, MAX_ROUNDS, Progress, compile, reports};
use crate::ir::{Edit, Format, Graph, Module, Patch};
use crate::passes::{Context, Dump, OverBudget, Pass, PassError, Pipeline, Settings};
use crate::plan::{Forecast, build};
use indexmap::IndexMap;
use std::collections::{BTreeMap, BTreeSet};

/// Gives nodes the formats that nodes of their names have in an entry before: they read the same weights, which are
/// stored once.
struct SameFormats(BTreeMap<String, Format>);

impl Pass for SameFormats {
    fn name(&self) -> &str {
        "same_formats"
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            let node = graph.node(id);
            if let Some(format) = self.0.get(&node.name).filter(|format| node.format.is_some_and(|f| f != **format)) {
                edit.set_format(id, Some(*format));
            }
        }
        Ok(edit.finish())
    }
}

/// Compiles a module, whose graphs are of the ONNX level. A node that has the name of one in an entry before gets its
/// format; the others are assigned entry by entry under the same budget.
///
/// # Errors
/// As [`compile`], and where entries disagree on a state.
pub fn compile_module(
    module: &Module,
    options: &Compile,
    progress: Progress<'_>,
    dump: Dump<'_>,
) -> Result<Compiled, CompileError> {
    module.verify().map_err(CompileError::Module)?;
    if let Some(graph) = module.alone() {
        return compile(graph, options, progress, dump);
    }
    let open: BTreeSet<String> = module.entries.values().flat_map(Graph::open_symbols).collect();
    if !open.is_empty() {
        return Err(CompileError::Open { names: open.into_iter().collect() });
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.n_threads).build()?;
    let lowered = fitting(module, options, &pool, progress, dump)?;
    let mut first = module.entries.values().next().cloned().unwrap_or_else(|| Graph::new("", crate::ir::Level::Onnx));
    first.name.clone_from(&module.name);
    lowered.compile(&first, options, &pool, progress)
}

/// As [`lower`]; but the budget that a refusal names is tried, so that it is one that was planned.
fn fitting(
    module: &Module,
    options: &Compile,
    pool: &rayon::ThreadPool,
    progress: Progress<'_>,
    dump: Dump<'_>,
) -> Result<Lowered, CompileError> {
    let reserve = options.settings.reserve_bytes;
    let mut over = match lower(module, options, pool, progress, dump) {
        Err(CompileError::OverBudget(over)) => over,
        other => return other,
    };
    for _ in 0..MAX_ROUNDS {
        let least = over.min_feasible_bytes;
        // What the target's memory cannot hold is not worth a plan.
        if least > options.target.memory.heap_bytes {
            break;
        }
        let settings = Settings { budget_bytes: Some(least.saturating_add(reserve)), ..options.settings.clone() };
        match lower(module, &Compile { settings, ..options.clone() }, pool, progress, dump) {
            Ok(lowered) if lowered.blueprint.peak_bytes <= over.available_bytes => {
                return Ok(Lowered { budget_bytes: over.budget_bytes, ..lowered });
            }
            Ok(lowered) => {
                over.set_least(lowered.blueprint.peak_bytes.min(least), reserve);
                break;
            }
            Err(CompileError::OverBudget(next)) => {
                over.set_least(next.min_feasible_bytes.max(least.saturating_add(least / 16)), reserve);
            }
            Err(error) => return Err(error),
        }
    }
    Err(CompileError::OverBudget(over))
}

/// The graphs of kernels of all entries, and their layout. Where it is larger than the budget allows, or an entry does
/// not fit with the formats of those before, formats are assigned again with the excess taken off.
fn lower(
    module: &Module,
    options: &Compile,
    pool: &rayon::ThreadPool,
    progress: Progress<'_>,
    dump: Dump<'_>,
) -> Result<Lowered, CompileError> {
    let budget_bytes = options.settings.budget_bytes.unwrap_or_else(|| options.target.default_budget_bytes());
    let available_bytes = budget_bytes.saturating_sub(options.settings.reserve_bytes);
    let reserve = options.settings.reserve_bytes;
    let refused = |min_feasible_bytes, available_bytes, budget_bytes| {
        let advice = vec![OverBudget::give(min_feasible_bytes, reserve)];
        CompileError::OverBudget(Box::new(OverBudget { min_feasible_bytes, available_bytes, budget_bytes, advice }))
    };
    let mut settings = options.settings.clone();
    'rounds: for round in 1.. {
        let mut kernels = Module { name: module.name.clone(), entries: IndexMap::new() };
        let mut formats: BTreeMap<String, Format> = BTreeMap::new();
        let (mut timings, mut assigned) = (Vec::new(), Vec::new());
        let (mut certificate, mut forecast) = (None, Forecast::default());
        let mut solve_time = std::time::Duration::ZERO;
        for (entry, graph) in &module.entries {
            let mut graph = graph.clone();
            let pipeline =
                Pipeline::new(settings.clone()).insert_after("assign_precision", SameFormats(formats.clone()));
            let (n_passes, n_before) = (pipeline.names().len(), pipeline.n_before_formats_are_real());
            let mut with_formats = graph.clone();
            let report = {
                let mut hook = |i: usize, name: &str, graph: &Graph| {
                    progress("passes", i + 1, n_passes);
                    if i + 1 == n_before {
                        with_formats = graph.clone();
                    }
                    dump(i, name, graph);
                };
                pool.install(|| pipeline.run_with(&mut graph, &options.target, &mut hook)).map_err(CompileError::from)
            };
            let report = match report {
                Err(CompileError::OverBudget(over)) if kernels.entries.is_empty() || round >= MAX_ROUNDS => {
                    let min_feasible_bytes = over.min_feasible_bytes.saturating_add(settings.excess_bytes);
                    return Err(refused(min_feasible_bytes, available_bytes, budget_bytes));
                }
                Err(CompileError::OverBudget(over)) => {
                    let needed = over.min_feasible_bytes.saturating_add(settings.excess_bytes);
                    let excess = needed.saturating_sub(over.available_bytes);
                    settings.excess_bytes = settings.excess_bytes.saturating_add(excess.max(1));
                    continue 'rounds;
                }
                other => other?,
            };
            for node in with_formats.order().into_iter().map(|id| with_formats.node(id)) {
                if let Some(format) = node.format {
                    formats.entry(node.name.clone()).or_insert(format);
                }
            }
            let this = report.context.forecast.unwrap_or_default();
            forecast.f32_bytes = forecast.f32_bytes.max(this.f32_bytes);
            forecast.min_feasible_bytes = forecast.min_feasible_bytes.max(this.min_feasible_bytes);
            solve_time += report.context.solve_time;
            // That of the first entry, whose formats the others follow.
            certificate = certificate.or(report.context.certificate.clone());
            assigned.push((with_formats, report.context.reasons.clone()));
            timings.extend(report.timings);
            kernels.entries.insert(entry.clone(), graph);
        }
        let entries: Vec<(&str, &Graph)> = kernels.entries.iter().map(|(name, graph)| (name.as_str(), graph)).collect();
        let blueprint = build::build_entries(&entries, &options.target)?;
        if let Some((step, reason)) = blueprint.host_step().filter(|_| !settings.allow_host) {
            return Err(CompileError::Host { node: step.node.clone(), reason: reason.to_owned() });
        }
        if blueprint.peak_bytes > available_bytes {
            let may_retry = !matches!(settings.policy, crate::passes::Policy::Uniform(_)) && round < MAX_ROUNDS;
            if may_retry {
                settings.excess_bytes = settings.excess_bytes.saturating_add(blueprint.peak_bytes - available_bytes);
                continue;
            }
            return Err(refused(blueprint.peak_bytes, available_bytes, budget_bytes));
        }
        // What was planned is enough.
        forecast.min_feasible_bytes = forecast.min_feasible_bytes.min(blueprint.peak_bytes);
        forecast.chosen_bytes = blueprint.peak_bytes;
        forecast.f32_bytes = forecast.f32_bytes.max(blueprint.peak_bytes);
        let mut nodes = Vec::new();
        let mut known = BTreeSet::new();
        let parts = assigned.iter().zip(kernels.entries.values()).zip(&blueprint.entries);
        for (((assigned, reasons), kernels), entry) in parts {
            let all = reports(assigned, kernels, entry.steps.iter(), reasons);
            nodes.extend(all.into_iter().filter(|node| known.insert(node.name.clone())));
        }
        let mut certificate = certificate.unwrap_or_default();
        certificate.rounds += round - 1;
        return Ok(Lowered {
            kernels,
            blueprint,
            nodes,
            forecast,
            certificate,
            budget_bytes,
            timings,
            solve_time,
            explanation: None,
        });
    }
    Err(CompileError::Plan(crate::plan::PlanError::Overflow))
}
