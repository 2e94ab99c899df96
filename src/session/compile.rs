//! From a graph of the ONNX level to a program.

use super::explain::Names;
use crate::codegen::{self, CodegenError};
use crate::ir::{Graph, Module, ValueId, text};
use crate::kernels::key::KernelKey;
use crate::ops::weights;
use crate::passes::{Explanation, OverBudget, PassError, Pipeline, PipelineError, Settings, Timing};
use crate::plan::build::{self, Blueprint};
use crate::plan::{Forecast, PlanError};
use crate::program::{Certificate, Dispatch, Entry, NodeReport, Plan, Program, Shader, Step, hex};
use crate::targets::Target;
use indexmap::IndexMap;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What is asked of a compilation.
#[derive(Clone, Debug)]
pub struct Compile {
    /// Policy, budget, pins.
    pub settings: Settings,
    /// The device.
    pub target: Target,
    /// Threads; 0 for one a core. The program does not depend on it.
    pub n_threads: usize,
}

/// A compiled model with what was learnt on the way.
#[derive(Debug)]
pub struct Compiled {
    /// The program.
    pub program: Program,
    /// The kernel-level graph, of the first entry where there are several.
    pub kernels: Graph,
    /// Times of the passes of the last round.
    pub timings: Vec<Timing>,
    /// What there is to tell of the node or value asked about ([`Settings::explain`]).
    pub explanation: Option<Explanation>,
    /// How long the solver of the budget took, in the last round.
    pub solve_time: std::time::Duration,
    /// GLSL by kernel name.
    pub shaders: BTreeMap<String, String>,
    /// The arena, in bytes.
    pub arena_bytes: u64,
    /// Max-live of the arena with sizes rounded to the target's alignment: no arena can be smaller.
    pub max_live_bytes: u64,
    /// Max-live of the imported graph in the order of its file, unfused; `None` while a size is symbolic.
    pub imported_max_live_bytes: Option<u64>,
}

/// Told of what is going on: a stage's name, how much of it is done, and of how much.
pub type Progress<'a> = &'a (dyn Fn(&str, usize, usize) + Sync);

/// Why a model cannot be compiled.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum CompileError {
    #[error(transparent)]
    OverBudget(Box<OverBudget>),
    #[error(transparent)]
    Pipeline(PipelineError),
    #[error("the module has {0}")]
    Module(crate::ir::Faults),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error("node {node:?} runs on the host: {reason}")]
    Host { node: String, reason: String },
    #[error("the pipeline lacks {pass}, without which no program comes out")]
    Lacks { pass: &'static str },
    #[error("there is no node or value {name:?} to explain{}", .nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    Unknown { name: String, nearest: Option<String> },
    #[error(transparent)]
    Pass(#[from] PassError),
    #[error("kernel {kernel}: {source}")]
    Codegen { kernel: String, source: CodegenError },
    #[error("nothing says how large {} may be: give {}", .names.join(", "), .names.iter().map(|n| format!("--dim {n}=N or --dim {n}=1..N")).collect::<Vec<_>>().join(", "))]
    Open { names: Vec<String> },
    #[error("threads: {0}")]
    Threads(#[from] rayon::ThreadPoolBuildError),
}

impl From<PipelineError> for CompileError {
    fn from(error: PipelineError) -> CompileError {
        match error {
            PipelineError::Pass { source: PassError::OverBudget(over), .. } => CompileError::OverBudget(over),
            other => CompileError::Pipeline(other),
        }
    }
}

/// How often assignment may run because the plan of its answer exceeded the budget.
pub(super) const MAX_ROUNDS: u32 = 4;

/// Compiles `graph`, of the ONNX level, with the default pipeline.
///
/// # Errors
/// It does not fit the budget, an operator is not supported, or a bug of ours.
pub fn compile(
    graph: &Graph,
    options: &Compile,
    progress: Progress<'_>,
    dump: crate::passes::Dump<'_>,
) -> Result<Compiled, CompileError> {
    compile_with(graph, options, &Pipeline::new, progress, dump)
}

/// Compiles `graph`, of the ONNX level, with a pipeline of the caller's, which is made anew for each round of
/// assignment.
///
/// # Errors
/// As [`compile`].
pub fn compile_with(
    graph: &Graph,
    options: &Compile,
    pipeline: &dyn Fn(Settings) -> Pipeline,
    progress: Progress<'_>,
    dump: crate::passes::Dump<'_>,
) -> Result<Compiled, CompileError> {
    let names: Vec<String> = graph.open_symbols().into_iter().collect();
    if !names.is_empty() {
        return Err(CompileError::Open { names });
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.n_threads).build()?;
    let lowered = Lowered::fitting(graph, options, pipeline, &pool, progress, dump)?;
    lowered.compile(graph, options, &pool, progress)
}

impl Lowered {
    /// Compiles the shaders, and makes the program of it all; `graph` is the first entry as imported.
    pub(super) fn compile(
        self,
        graph: &Graph,
        options: &Compile,
        pool: &rayon::ThreadPool,
        progress: Progress<'_>,
    ) -> Result<Compiled, CompileError> {
        let lowered = self;
        let keys: BTreeSet<&KernelKey> = lowered.dispatches().map(|d| &d.key).collect();
        let n_keys = keys.len();
        let n_done = std::sync::atomic::AtomicUsize::new(0);
        let compiled: Result<BTreeMap<KernelKey, Shader>, CompileError> = pool.install(|| {
            keys.into_par_iter()
                .map(|key| {
                    let shader = codegen::compile(key, &options.target)
                        .map_err(|source| CompileError::Codegen { kernel: key.to_string(), source })?;
                    progress("shaders", n_done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, n_keys);
                    Ok((key.clone(), shader))
                })
                .collect()
        });
        let compiled = compiled?;
        let source = |key: &KernelKey| {
            let glsl = codegen::glsl(key, &options.target)
                .map_err(|source| CompileError::Codegen { kernel: key.to_string(), source })?;
            Ok((key.to_string(), glsl))
        };
        let sources = compiled.keys().map(source).collect::<Result<_, CompileError>>()?;
        lowered.program(graph, options, compiled, sources)
    }
}

/// The smallest budget that `graph`, of the ONNX level, compiles within under these options, and what it needs in
/// `uniform:f32` without pins, in bytes with the reserve: the second is at least the first. The budget of the options
/// does not count.
///
/// # Errors
/// As [`compile`], but for the budget.
pub fn budget_bounds(graph: &Graph, options: &Compile, progress: Progress<'_>) -> Result<(u64, u64), CompileError> {
    let names: Vec<String> = graph.open_symbols().into_iter().collect();
    if !names.is_empty() {
        return Err(CompileError::Open { names });
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.n_threads).build()?;
    let with = |settings: Settings| Compile { settings, ..options.clone() };
    let nothing = with(Settings { budget_bytes: Some(0), ..options.settings.clone() });
    let least = match Lowered::fitting(graph, &nothing, &Pipeline::new, &pool, progress, &mut |_, _, _| {}) {
        Ok(lowered) => lowered.blueprint.peak_bytes,
        Err(CompileError::OverBudget(over)) => over.min_feasible_bytes,
        Err(error) => return Err(error),
    };
    let plain = with(Settings {
        policy: crate::passes::Policy::Uniform(crate::ir::Format::F32),
        budget_bytes: Some(u64::MAX),
        pins: Vec::new(),
        ..options.settings.clone()
    });
    let most = Lowered::of(graph, &plain, &Pipeline::new, &pool, progress, &mut |_, _, _| {})?.blueprint.peak_bytes;
    let with_reserve = |bytes: u64| bytes.saturating_add(options.settings.reserve_bytes);
    Ok((with_reserve(least), with_reserve(most.max(least))))
}

/// The graphs of kernels that [`compile`] plans, with the default pipeline.
///
/// # Errors
/// As for [`compile`].
pub fn kernels_of(graph: &Graph, options: &Compile) -> Result<Module, CompileError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.n_threads).build()?;
    let lowered = Lowered::fitting(graph, options, &Pipeline::new, &pool, &|_, _, _| {}, &mut |_, _, _| {})?;
    Ok(lowered.kernels)
}

/// Graphs of kernels with their layout.
pub(super) struct Lowered {
    pub(super) kernels: Module,
    pub(super) blueprint: Blueprint,
    pub(super) nodes: Vec<NodeReport>,
    pub(super) forecast: Forecast,
    pub(super) certificate: Certificate,
    pub(super) budget_bytes: u64,
    pub(super) timings: Vec<Timing>,
    pub(super) solve_time: std::time::Duration,
    pub(super) explanation: Option<Explanation>,
}

impl Lowered {
    /// As [`Lowered::of`]; but what is refused by a forecast is tried at the budget that is said to be enough. So that
    /// figure is one that was planned, and nothing is refused that would have fitted.
    fn fitting(
        graph: &Graph,
        options: &Compile,
        pipeline: &dyn Fn(Settings) -> Pipeline,
        pool: &rayon::ThreadPool,
        progress: Progress<'_>,
        dump: crate::passes::Dump<'_>,
    ) -> Result<Lowered, CompileError> {
        let reserve = options.settings.reserve_bytes;
        let mut over = match Lowered::of(graph, options, pipeline, pool, progress, dump) {
            Err(CompileError::OverBudget(over)) => over,
            Ok(lowered) if pipeline(options.settings.clone()).is_changed() => {
                return lowered.at_least(graph, options, pipeline, pool);
            }
            other => return other,
        };
        for _ in 0..MAX_ROUNDS {
            let least = over.min_feasible_bytes;
            // What the target's memory cannot hold is not worth a plan.
            if least > options.target.memory.heap_bytes {
                break;
            }
            let settings = Settings { budget_bytes: Some(least.saturating_add(reserve)), ..options.settings.clone() };
            match Lowered::of(graph, &Compile { settings, ..options.clone() }, pipeline, pool, progress, dump) {
                Ok(lowered) if lowered.blueprint.peak_bytes <= over.available_bytes => {
                    return Ok(Lowered { budget_bytes: over.budget_bytes, ..lowered });
                }
                Ok(lowered) => {
                    over.set_least(lowered.blueprint.peak_bytes.min(least), reserve);
                    break;
                }
                Err(CompileError::OverBudget(next)) if next.min_feasible_bytes > least => {
                    over.set_least(next.min_feasible_bytes, reserve)
                }
                Err(CompileError::OverBudget(_)) => break,
                Err(error) => return Err(error),
            }
        }
        Err(CompileError::OverBudget(over))
    }

    /// Makes sure of the smallest budget. What passes of a caller's own do to bytes may depend on formats, which a
    /// forecast leaves open: the figure is that of a plan, or of this one.
    fn at_least(
        mut self,
        graph: &Graph,
        options: &Compile,
        pipeline: &dyn Fn(Settings) -> Pipeline,
        pool: &rayon::ThreadPool,
    ) -> Result<Lowered, CompileError> {
        let peak = self.blueprint.peak_bytes;
        let mut least = self.forecast.min_feasible_bytes;
        for _ in 0..MAX_ROUNDS {
            if least >= peak {
                break;
            }
            let budget_bytes = Some(least.saturating_add(options.settings.reserve_bytes));
            let settings = Settings { budget_bytes, explain: None, ..options.settings.clone() };
            let options = Compile { settings, ..options.clone() };
            match Lowered::of(graph, &options, pipeline, pool, &|_, _, _| {}, &mut |_, _, _| {}) {
                Ok(lowered) => {
                    self.forecast.min_feasible_bytes = lowered.blueprint.peak_bytes.min(least);
                    return Ok(self);
                }
                Err(CompileError::OverBudget(over)) if over.min_feasible_bytes > least => {
                    least = over.min_feasible_bytes;
                }
                Err(CompileError::OverBudget(_)) => break,
                Err(error) => return Err(error),
            }
        }
        self.forecast.min_feasible_bytes = peak;
        Ok(self)
    }

    fn of(
        graph: &Graph,
        options: &Compile,
        pipeline: &dyn Fn(Settings) -> Pipeline,
        pool: &rayon::ThreadPool,
        progress: Progress<'_>,
        dump: crate::passes::Dump<'_>,
    ) -> Result<Lowered, CompileError> {
        let budget_bytes = options.settings.budget_bytes.unwrap_or_else(|| options.target.default_budget_bytes());
        let available = budget_bytes.saturating_sub(options.settings.reserve_bytes);
        let mut settings = options.settings.clone();
        for round in 1..=MAX_ROUNDS {
            let mut kernels = graph.clone();
            let mut assigned: Option<Graph> = None;
            let pipeline = pipeline(settings.clone());
            let n_passes = pipeline.names().len();
            let n_before = pipeline.n_before_formats_are_real();
            if let Some(pass) = pipeline.lacks() {
                return Err(CompileError::Lacks { pass });
            }
            let report = {
                let mut hook = |i: usize, name: &str, graph: &Graph| {
                    progress("passes", i + 1, n_passes);
                    // The formats of the program, whichever passes set them.
                    if i + 1 == n_before {
                        assigned = Some(graph.clone());
                    }
                    dump(i, name, graph);
                };
                pool.install(|| pipeline.run_with(&mut kernels, &options.target, &mut hook))?
            };
            let blueprint = build::build(&kernels, &options.target)?;
            if let Some((step, reason)) = blueprint.host_step().filter(|_| !settings.allow_host) {
                return Err(CompileError::Host { node: step.node.clone(), reason: reason.to_owned() });
            }
            let mut forecast = report.context.forecast.unwrap_or_default();
            let may_retry = !matches!(settings.policy, crate::passes::Policy::Uniform(_)) && round < MAX_ROUNDS;
            if blueprint.peak_bytes > available && may_retry {
                settings.excess_bytes = settings.excess_bytes.saturating_add(blueprint.peak_bytes - available);
                continue;
            }
            if blueprint.peak_bytes > available {
                // The forecast fell short of the plan by as much for the smallest assignment as for this one, or this
                // is the smallest.
                let surprise = blueprint.peak_bytes.saturating_sub(forecast.chosen_bytes);
                let forecast_bytes = forecast.min_feasible_bytes.saturating_add(surprise);
                // What is refused here is not enough, whatever the forecast says; what was planned is.
                let min_feasible_bytes = if forecast_bytes > available {
                    forecast_bytes.min(blueprint.peak_bytes)
                } else {
                    blueprint.peak_bytes
                };
                let advice = vec![OverBudget::give(min_feasible_bytes, options.settings.reserve_bytes)];
                return Err(CompileError::OverBudget(Box::new(OverBudget {
                    min_feasible_bytes,
                    available_bytes: available,
                    budget_bytes,
                    advice,
                })));
            }
            // The model counts quantized activations beside all they are made from; a plan that did better is the proof
            // that less is enough.
            forecast.min_feasible_bytes = forecast.min_feasible_bytes.min(blueprint.peak_bytes);
            let mut certificate = report.context.certificate.clone().unwrap_or_default();
            certificate.rounds += round - 1;
            if forecast.chosen_bytes == forecast.f32_bytes && certificate.objective == 0.0 {
                forecast.f32_bytes = blueprint.peak_bytes;
            }
            let assigned = assigned.as_ref().unwrap_or(graph);
            let nodes = reports(assigned, &kernels, blueprint.steps(), &report.context.reasons);
            let names = Names { imported: graph, assigned, kernels: &kernels };
            let asked = settings.explain.as_ref().map(|asked| names.explain(asked, &report.context));
            let explanation = asked.transpose()?;
            let solve_time = report.context.solve_time;
            let timings = report.timings;
            return Ok(Lowered {
                kernels: Module::of(kernels),
                blueprint,
                nodes,
                forecast,
                certificate,
                budget_bytes,
                timings,
                solve_time,
                explanation,
            });
        }
        Err(CompileError::Plan(PlanError::Overflow))
    }

    fn dispatches(&self) -> impl Iterator<Item = &build::Dispatch> {
        self.blueprint.steps().flat_map(|step| match step {
            build::Step::Device(list) => list.as_slice(),
            build::Step::Host(..) => &[],
        })
    }

    fn program(
        self,
        graph: &Graph,
        options: &Compile,
        compiled: BTreeMap<KernelKey, Shader>,
        sources: BTreeMap<String, String>,
    ) -> Result<Compiled, CompileError> {
        let mut shaders: IndexMap<String, Shader> = IndexMap::new();
        let mut entries = Vec::new();
        for (entry, kernels) in self.blueprint.entries.into_iter().zip(self.kernels.entries.values()) {
            let mut steps = Vec::new();
            for step in entry.steps {
                match step {
                    build::Step::Host(step, _) => steps.push(Step::Host(step)),
                    build::Step::Device(list) => {
                        let mut dispatches = Vec::with_capacity(list.len());
                        for d in list {
                            let shader = &compiled[&d.key];
                            let hash = shader.hash();
                            shaders.entry(hash.clone()).or_insert_with(|| shader.clone());
                            let (bindings, writes, params, params_offset) =
                                (d.bindings, d.writes, d.params, d.params_offset);
                            dispatches.push(Dispatch {
                                node: d.node,
                                shader: hash,
                                bindings,
                                writes,
                                params,
                                params_offset,
                                groups: d.groups,
                                loop_iterations: d.loop_iterations,
                                barrier: d.barrier,
                                check: d.check,
                                stripe: d.stripe,
                            });
                        }
                        steps.push(Step::Device(dispatches));
                    }
                }
            }
            entries.push(Entry {
                name: entry.name,
                sizes: entry.sizes,
                inputs: entry.inputs,
                defaults: kernels.defaults().iter().map(|(name, t)| (name.clone(), hex(t.hash()))).collect(),
                fixed: options.settings.fixed_inputs.clone(),
                outputs: entry.outputs,
                steps,
            });
        }
        let mut constants = self.blueprint.constants;
        // The CPU reference reads constants as the graph has them: those that differ on the device are kept in both
        // forms.
        for kernels in self.kernels.entries.values() {
            kernels.for_each_constant(&mut |tensor| {
                if !text::is_inline(tensor) {
                    constants.entry(tensor.hash()).or_insert_with(|| tensor.clone());
                }
            });
            // A default is written to its input, so it is kept whole.
            for tensor in kernels.defaults().values() {
                constants.entry(tensor.hash()).or_insert_with(|| tensor.clone());
            }
        }
        let tuning = options.target.tuning.as_ref().filter(|tuning| !tuning.cases.is_empty());
        let tuning = tuning.map(|tuning| tuning.hash());
        let plan = Plan {
            policy: options.settings.policy.to_string(),
            budget_bytes: self.budget_bytes,
            reserve_bytes: options.settings.reserve_bytes,
            planned_peak_bytes: self.blueprint.peak_bytes,
            ledger: crate::program::Ledger { reserve: options.settings.reserve_bytes, ..self.blueprint.ledger },
            lower_bound_bytes: self.blueprint.lower_bound_bytes,
            min_feasible_bytes: self.forecast.min_feasible_bytes,
            f32_bytes: self.forecast.f32_bytes,
            certificate: Certificate { tuning, ..self.certificate },
            nodes: self.nodes,
            graph: self.kernels.to_string(),
            allocations: self.blueprint.allocations,
            uploads: self.blueprint.uploads,
            states: self.blueprint.states,
            entries,
        };
        let program = Program {
            model: graph.name.clone(),
            target: options.target.clone(),
            plans: vec![plan],
            constants,
            shaders,
        };
        Ok(Compiled {
            program,
            kernels: self.kernels.entries.into_values().next().unwrap_or_else(|| graph.clone()),
            timings: self.timings,
            solve_time: self.solve_time,
            explanation: self.explanation,
            shaders: sources,
            arena_bytes: self.blueprint.arena_bytes,
            max_live_bytes: self.blueprint.max_live_bytes,
            imported_max_live_bytes: crate::ir::memory::account(graph, &graph.file_order()).map(|m| m.max_live_bytes),
        })
    }
}

/// What became of every node of the assigned graph.
pub(super) fn reports<'a>(
    assigned: &Graph,
    kernels: &Graph,
    steps: impl Iterator<Item = &'a build::Step>,
    reasons: &BTreeMap<String, String>,
) -> Vec<NodeReport> {
    let mut kernel_of: BTreeMap<&str, &str> = BTreeMap::new();
    let mut host: BTreeMap<&'a str, &'a str> = BTreeMap::new();
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    for step in steps {
        match step {
            build::Step::Device(list) => list.iter().for_each(|d| {
                // Parts of a matrix have kernels of their own.
                let key = d.key.to_string();
                let known = names.entry(d.node.clone()).or_insert_with(|| key.clone());
                if !known.split(" + ").any(|name| name == key) {
                    known.push_str(" + ");
                    known.push_str(&key);
                }
            }),
            build::Step::Host(step, reason) => {
                host.insert(&step.node, reason);
            }
        }
    }
    let with_weights = assigned
        .order()
        .into_iter()
        .filter_map(|id| Some((assigned.node(id).name.as_str(), weights::n_elems(assigned, id)?)));
    let n_weights: BTreeMap<&str, u64> = with_weights.collect();
    // Each constant once, however many kernels of a node read it.
    let mut read: BTreeMap<&str, BTreeMap<ValueId, u64>> = BTreeMap::new();
    let mut host_of: BTreeMap<&str, &str> = BTreeMap::new();
    for id in kernels.order() {
        let node = kernels.node(id);
        let Some(op) = node.op() else { continue };
        let operands = kernels.operands(id);
        let own = operands.iter().enumerate().filter(|(slot, _)| weights::is_slot(op, *slot, operands.len()));
        let own: Vec<(ValueId, u64)> =
            own.filter_map(|(_, v)| Some(((*v)?, kernels.constant((*v)?)?.ty().bytes()?))).collect();
        for origin in node.origins() {
            if let Some(kernel) = names.get(&node.name) {
                kernel_of.insert(origin, kernel);
            }
            if let Some(reason) = host.get(node.name.as_str()) {
                host_of.insert(origin, reason);
            }
        }
        // The operator comes before what was fused behind it, which may have weights of its own elsewhere.
        if let Some(origin) = node.origins().iter().find(|name| n_weights.contains_key(name.as_str())) {
            read.entry(origin).or_default().extend(own);
        }
    }
    let mut nodes = Vec::new();
    for id in assigned.order() {
        let node = assigned.node(id);
        let Some(op) = node.op() else { continue };
        let name = node.name.as_str();
        let n_weights = n_weights.get(name).copied();
        nodes.push(NodeReport {
            name: node.name.clone(),
            op: if op.def.onnx.is_empty() { op.def.name.to_owned() } else { op.def.onnx.to_owned() },
            format: node.format.map(|f| f.to_string()).unwrap_or_default(),
            place: if host_of.contains_key(name) { "host" } else { "device" }.to_owned(),
            kernel: kernel_of.get(name).copied().unwrap_or_default().to_owned(),
            weight_bytes: n_weights.and_then(|_| Some(read.get(name)?.values().sum())).unwrap_or(0),
            f32_weight_bytes: n_weights.unwrap_or(0).saturating_mul(4),
            reason: host_of
                .get(name)
                .map(|r| (*r).to_owned())
                .or_else(|| reasons.get(name).cloned())
                .unwrap_or_default(),
        });
    }
    nodes
}
