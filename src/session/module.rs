//! From a module of several entries to a program: one plan, in which entries share weights, arena and states.

use super::compile::{Compile, CompileError, Compiled, Lowered, Progress, check, compile, prepared, reports};
use crate::ir::{Edit, Format, Graph, Module, Patch};
use crate::passes::{Context, Dump, OverBudget, Pass, PassError, Pipeline, Policy, Settings, Timing};
use crate::plan::{Forecast, build};
use crate::program::Certificate;
use indexmap::IndexMap;
use std::collections::{BTreeMap, BTreeSet};

/// How often entries are assigned again because they do not fit together.
const MAX_ROUNDS: u32 = 6;

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
    dump: Option<Dump<'_>>,
) -> Result<Compiled, CompileError> {
    module.verify().map_err(CompileError::Module)?;
    if let Some(graph) = module.alone() {
        return compile(graph, options, progress, dump);
    }
    let pool = prepared(module.entries.values(), options)?;
    let lowered = pool.install(|| fitting(module, options, progress, dump))?;
    check(&lowered.blueprint, &options.settings)?;
    let mut first = module.entries.values().next().cloned().unwrap_or_else(|| Graph::new("", crate::ir::Level::Onnx));
    first.name.clone_from(&module.name);
    lowered.compile(&first, options, &pool, progress)
}

/// The entries with formats that fit together. Each is assigned under the same budget; where what they share and do not
/// share takes more, the excess is taken off and they are assigned again. All entries at their smallest are the least.
fn fitting(
    module: &Module,
    options: &Compile,
    progress: Progress<'_>,
    dump: Option<Dump<'_>>,
) -> Result<Lowered, CompileError> {
    let Settings { budget_bytes, reserve_bytes, .. } = options.settings;
    let budget_bytes = budget_bytes.unwrap_or_else(|| options.target.default_budget_bytes());
    let available_bytes = budget_bytes.saturating_sub(reserve_bytes);
    let f32 = Settings { policy: Policy::Uniform(Format::F32), pins: Vec::new(), ..options.settings.clone() };
    let f32_bytes = at(module, u64::MAX, &Compile { settings: f32, ..options.clone() }, None)?.blueprint.peak_bytes;
    let smallest = at(module, 0, options, None)?;
    let min_feasible_bytes = smallest.blueprint.peak_bytes;
    if min_feasible_bytes > available_bytes {
        let advice = vec![format!("give --budget {} or more", min_feasible_bytes.saturating_add(reserve_bytes))];
        let over = OverBudget { min_feasible_bytes, f32_bytes, available_bytes, budget_bytes, advice };
        return Err(CompileError::OverBudget(Box::new(over)));
    }
    let mut share = available_bytes;
    let (mut found, mut found_at) = (smallest, 0);
    for round in 1..=MAX_ROUNDS {
        progress("rounds", round as usize, MAX_ROUNDS as usize);
        let mut lowered = at(module, share, options, None)?;
        let peak = lowered.blueprint.peak_bytes;
        if peak <= available_bytes {
            lowered.certificate.rounds += round - 1;
            (found, found_at) = (lowered, share);
            break;
        }
        let granularity = options.target.memory.allocation_granularity;
        share = share.saturating_sub(peak - available_bytes).saturating_sub(granularity);
    }
    if let Some(dump) = dump {
        at(module, found_at, options, Some(dump))?;
    }
    let chosen_bytes = found.blueprint.peak_bytes;
    found.forecast = Forecast { f32_bytes, min_feasible_bytes, chosen_bytes };
    Ok(found)
}

/// The graphs of kernels of all entries, each assigned within `bytes` or at its smallest, and their layout.
fn at(module: &Module, bytes: u64, options: &Compile, mut dump: Option<Dump<'_>>) -> Result<Lowered, CompileError> {
    let mut formats: BTreeMap<String, Format> = BTreeMap::new();
    let mut kernels = Module { name: module.name.clone(), entries: IndexMap::new() };
    let mut quantized = kernels.clone();
    let (mut timings, mut assigned, mut certificate) = (Vec::new(), Vec::new(), None);
    let mut solve_time = std::time::Duration::ZERO;
    for (name, graph) in &module.entries {
        let entry = match entry(graph, bytes, &formats, options, &mut dump) {
            Err(CompileError::OverBudget(over)) => entry(graph, over.min_feasible_bytes, &formats, options, &mut dump)?,
            other => other?,
        };
        for node in entry.assigned.order().into_iter().map(|id| entry.assigned.node(id)) {
            if let Some(format) = node.format {
                formats.entry(node.name.clone()).or_insert(format);
            }
        }
        solve_time += entry.solve_time;
        // That of the first entry, whose formats the others follow.
        certificate = certificate.or(entry.certificate);
        timings.extend(entry.timings);
        assigned.push((entry.assigned, entry.reasons));
        kernels.entries.insert(name.clone(), entry.kernels);
        quantized.entries.insert(name.clone(), entry.quantized);
    }
    let entries: Vec<(&str, &Graph)> = kernels.entries.iter().map(|(name, graph)| (name.as_str(), graph)).collect();
    let blueprint = build::build_entries(&entries, &options.target)?;
    let mut nodes = Vec::new();
    let mut known = BTreeSet::new();
    for (((assigned, reasons), kernels), entry) in assigned.iter().zip(kernels.entries.values()).zip(&blueprint.entries)
    {
        let all = reports(assigned, kernels, entry.steps.iter(), reasons);
        nodes.extend(all.into_iter().filter(|node| known.insert(node.name.clone())));
    }
    let (certificate, forecast) = (certificate.unwrap_or_default(), Forecast::default());
    Ok(Lowered { kernels, quantized, blueprint, nodes, forecast, certificate, timings, solve_time, explanation: None })
}

/// An entry with its formats.
struct EntryOf {
    kernels: Graph,
    quantized: Graph,
    assigned: Graph,
    reasons: BTreeMap<String, String>,
    certificate: Option<Certificate>,
    timings: Vec<Timing>,
    solve_time: std::time::Duration,
}

/// One entry within `bytes`, with the formats of those before.
fn entry(
    graph: &Graph,
    bytes: u64,
    formats: &BTreeMap<String, Format>,
    options: &Compile,
    dump: &mut Option<Dump<'_>>,
) -> Result<EntryOf, CompileError> {
    let budget_bytes = Some(bytes.saturating_add(options.settings.reserve_bytes));
    let settings = Settings { budget_bytes, explain: None, ..options.settings.clone() };
    let pipeline = Pipeline::new(settings).insert_after("assign_precision", SameFormats(formats.clone()));
    let mut kernels = graph.clone();
    let report = match dump.as_mut() {
        Some(dump) => pipeline.run_with(&mut kernels, &options.target, Some(&mut **dump))?,
        None => pipeline.run(&mut kernels, &options.target)?,
    };
    let facts = report.context.facts;
    let assignment = facts.assignment.map(|assignment| (assignment.certificate, assignment.solve_time));
    let (certificate, solve_time) = assignment.map_or((None, Default::default()), |(c, t)| (Some(c), t));
    let assigned = report.assigned.unwrap_or_else(|| graph.clone());
    let quantized = report.quantized.unwrap_or_else(|| graph.clone());
    Ok(EntryOf {
        kernels,
        quantized,
        assigned,
        reasons: facts.reasons,
        certificate,
        timings: report.timings,
        solve_time,
    })
}
