//! From a module of several entries to a program: one plan, in which entries share weights, arena and states.

use super::compile::{Compile, CompileError, Compiled, Lowered, MAX_ROUNDS, Progress, compile, reports};
use crate::ir::{Edit, Format, Graph, Module, Patch};
use crate::passes::{Context, Dump, OverBudget, Pass, PassError, Pipeline};
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
    let lowered = lower(module, options, &pool, progress, dump)?;
    let mut first = module.entries.values().next().cloned().unwrap_or_else(|| Graph::new("", crate::ir::Level::Onnx));
    first.name.clone_from(&module.name);
    lowered.compile(&first, options, &pool, progress)
}

fn lower(
    module: &Module,
    options: &Compile,
    pool: &rayon::ThreadPool,
    progress: Progress<'_>,
    dump: Dump<'_>,
) -> Result<Lowered, CompileError> {
    let budget_bytes = options.settings.budget_bytes.unwrap_or_else(|| options.target.default_budget_bytes());
    let available_bytes = budget_bytes.saturating_sub(options.settings.reserve_bytes);
    let mut settings = options.settings.clone();
    for round in 1.. {
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
                pool.install(|| pipeline.run_with(&mut graph, &options.target, &mut hook))?
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
            let min_feasible_bytes = blueprint.peak_bytes;
            let advice = vec![OverBudget::give(min_feasible_bytes, options.settings.reserve_bytes)];
            let over = OverBudget { min_feasible_bytes, available_bytes, budget_bytes, advice };
            return Err(CompileError::OverBudget(Box::new(over)));
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
