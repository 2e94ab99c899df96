//! From a graph of the ONNX level to a program.

use super::explain::Names;
use crate::codegen::{self, CodegenError};
use crate::ir::{Graph, Hash, Module, Tensor, ValueId, text};
use crate::kernels::key::KernelKey;
use crate::ops::weights;
use crate::passes::{Explanation, OverBudget, PassError, Pipeline, PipelineError, Report, Settings, Timing};
use crate::plan::build::{self, Blueprint};
use crate::plan::{Forecast, PlanError};
use crate::program::{Certificate, Dispatch, Entry, NodeReport, Plan, Program, Shader, Step, Upload, hex};
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
    /// The graphs with formats made real, as plain ONNX ([`crate::export`]), by entry.
    pub quantized: Module,
    /// Times of the passes of the last round.
    pub timings: Vec<Timing>,
    /// The explanation of the node or value asked about ([`Settings::explain`]).
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

/// Called with what is going on: a stage's name, how much of it is done, and of how much.
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

/// Compiles `graph`, of the ONNX level, with the default pipeline.
///
/// # Errors
/// It does not fit the budget, an operator is not supported, or a bug of ours.
pub fn compile(
    graph: &Graph,
    options: &Compile,
    progress: Progress<'_>,
    dump: Option<crate::passes::Dump<'_>>,
) -> Result<Compiled, CompileError> {
    compile_with(graph, options, &Pipeline::new, progress, dump)
}

/// Compiles `graph`, of the ONNX level, with a pipeline of the caller's.
///
/// `dump` is called after each pass. With one the passes behind the assignment run once more than they otherwise would.
///
/// # Errors
/// As [`compile`].
pub fn compile_with(
    graph: &Graph,
    options: &Compile,
    pipeline: &dyn Fn(Settings) -> Pipeline,
    progress: Progress<'_>,
    dump: Option<crate::passes::Dump<'_>>,
) -> Result<Compiled, CompileError> {
    let pool = prepared([graph], options)?;
    let pipeline = pipeline(options.settings.clone());
    let lowered = pool.install(|| Lowered::of(graph, options, &pipeline, progress, dump))?;
    lowered.compile(graph, options, &pool, progress)
}

/// The threads to compile on, once every size of the graphs has a bound.
pub(super) fn prepared<'g>(
    graphs: impl IntoIterator<Item = &'g Graph>,
    options: &Compile,
) -> Result<rayon::ThreadPool, CompileError> {
    let names: BTreeSet<String> = graphs.into_iter().flat_map(Graph::open_symbols).collect();
    if !names.is_empty() {
        return Err(CompileError::Open { names: names.into_iter().collect() });
    }
    Ok(rayon::ThreadPoolBuilder::new().num_threads(options.n_threads).build()?)
}

/// Shaders by key, and GLSL by kernel name.
type Shaders = (BTreeMap<KernelKey, Shader>, BTreeMap<String, String>);

/// Compiles the kernels, each once.
fn shaders(
    lowered: &Lowered,
    options: &Compile,
    pool: &rayon::ThreadPool,
    progress: Progress<'_>,
) -> Result<Shaders, CompileError> {
    let keys: BTreeSet<&KernelKey> = lowered.dispatches().map(|d| &d.key).collect();
    let n_keys = keys.len();
    let n_done = std::sync::atomic::AtomicUsize::new(0);
    let wrong = |key: &KernelKey, source| CompileError::Codegen { kernel: key.to_string(), source };
    let compiled: BTreeMap<KernelKey, Shader> = pool.install(|| {
        let one = |key: &KernelKey| {
            let shader = codegen::compile(key, &options.target).map_err(|source| wrong(key, source))?;
            progress("shaders", n_done.fetch_add(1, std::sync::atomic::Ordering::Relaxed) + 1, n_keys);
            Ok((key.clone(), shader))
        };
        keys.into_par_iter().map(one).collect::<Result<_, CompileError>>()
    })?;
    let source = |key: &KernelKey| {
        let glsl = codegen::glsl(key, &options.target).map_err(|source| wrong(key, source))?;
        Ok((key.to_string(), glsl))
    };
    let sources = compiled.keys().map(source).collect::<Result<_, CompileError>>()?;
    Ok((compiled, sources))
}

/// The smallest budget that `graph`, of the ONNX level, compiles within under these options, and what it needs in
/// `uniform:f32` without pins, in bytes with the reserve: the second is at least the first. The budget of the options
/// does not count.
///
/// # Errors
/// As [`compile`], but for the budget.
pub fn budget_bounds(graph: &Graph, options: &Compile, progress: Progress<'_>) -> Result<(u64, u64), CompileError> {
    let pool = prepared([graph], options)?;
    let reserve = options.settings.reserve_bytes;
    let settings = Settings { budget_bytes: Some(reserve), explain: None, ..options.settings.clone() };
    let options = Compile { settings, ..options.clone() };
    let pipeline = Pipeline::new(options.settings.clone());
    let (least, most) = match pool.install(|| Lowered::of(graph, &options, &pipeline, progress, None)) {
        // It needs no bytes at all.
        Ok(lowered) => (lowered.forecast.min_feasible_bytes, lowered.forecast.f32_bytes),
        Err(CompileError::OverBudget(over)) => (over.min_feasible_bytes, over.f32_bytes),
        Err(error) => return Err(error),
    };
    Ok((least.saturating_add(reserve), most.max(least).saturating_add(reserve)))
}

/// The graphs of kernels that [`compile`] plans, with the default pipeline.
///
/// # Errors
/// As for [`compile`].
pub fn kernels_of(graph: &Graph, options: &Compile) -> Result<Module, CompileError> {
    let pool = prepared([graph], options)?;
    let pipeline = Pipeline::new(options.settings.clone());
    let lowered = pool.install(|| Lowered::of(graph, options, &pipeline, &|_, _, _| {}, None))?;
    Ok(lowered.kernels)
}

/// Graphs of kernels with their layout.
pub(super) struct Lowered {
    pub(super) kernels: Module,
    pub(super) quantized: Module,
    pub(super) blueprint: Blueprint,
    pub(super) nodes: Vec<NodeReport>,
    pub(super) forecast: Forecast,
    pub(super) certificate: Certificate,
    pub(super) timings: Vec<Timing>,
    pub(super) solve_time: std::time::Duration,
    pub(super) explanation: Option<Explanation>,
}

impl Lowered {
    fn of(
        graph: &Graph,
        options: &Compile,
        pipeline: &Pipeline,
        progress: Progress<'_>,
        mut dump: Option<crate::passes::Dump<'_>>,
    ) -> Result<Lowered, CompileError> {
        let n_passes = pipeline.names().len();
        if let Some(pass) = pipeline.lacks() {
            return Err(CompileError::Lacks { pass });
        }
        let mut kernels = graph.clone();
        progress("passes", 0, n_passes);
        let report = match dump.as_mut() {
            None => pipeline.run(&mut kernels, &options.target)?,
            Some(dump) => {
                let mut hook = |i: usize, name: &str, graph: &Graph| {
                    progress("passes", i + 1, n_passes);
                    dump(i, name, graph);
                };
                pipeline.run_with(&mut kernels, &options.target, Some(&mut hook))?
            }
        };
        progress("passes", n_passes, n_passes);
        let Report { mut context, timings, assigned, quantized, blueprint } = report;
        let blueprint = blueprint.map_or_else(|| build::build(&kernels, &options.target), Ok)?;
        check(&blueprint, &options.settings)?;
        let assigned = assigned.as_ref().unwrap_or(graph);
        let nodes = reports(assigned, &kernels, blueprint.steps(), &context.facts.reasons);
        let names = Names { imported: graph, assigned, kernels: &kernels };
        let asked = options.settings.explain.as_ref();
        let explanation = asked.map(|asked| names.explain(asked, &context)).transpose()?;
        let forecast = context.facts.forecast.unwrap_or_default();
        let assignment = context.facts.assignment.take();
        let (certificate, solve_time) = assignment.map(|a| (a.certificate, a.solve_time)).unwrap_or_default();
        // A graph of the core has no form in ONNX, and stands for itself.
        let quantized = Module::of(quantized.unwrap_or_else(|| graph.clone()));
        let kernels = Module::of(kernels);
        Ok(Lowered { kernels, quantized, blueprint, nodes, forecast, certificate, timings, solve_time, explanation })
    }

    /// Compiles the shaders, and makes the program of it all; `graph` is the first entry as imported.
    ///
    /// # Errors
    /// A shader does not compile, or the data of a constant cannot be made.
    pub(super) fn compile(
        self,
        graph: &Graph,
        options: &Compile,
        pool: &rayon::ThreadPool,
        progress: Progress<'_>,
    ) -> Result<Compiled, CompileError> {
        let (compiled, sources) = shaders(&self, options, pool, progress)?;
        pool.install(|| self.program(graph, options, compiled, sources))
    }

    fn dispatches(&self) -> impl Iterator<Item = &build::Dispatch> {
        self.blueprint.steps().flat_map(|step| match step {
            build::Step::Device(list) => list.as_slice(),
            build::Step::Host(..) => &[],
        })
    }

    /// # Errors
    /// The data of a constant cannot be made.
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
            entries.push(Entry {
                name: entry.name,
                sizes: entry.sizes,
                inputs: entry.inputs,
                defaults: kernels.defaults().iter().map(|(name, t)| (name.clone(), hex(t.hash()))).collect(),
                fixed: options.settings.fixed_inputs.clone(),
                outputs: entry.outputs,
                steps: steps(entry.steps, &compiled, &mut shaders),
            });
        }
        let (uploads, mut constants) = uploads(self.blueprint.constants, &self.kernels)?;
        constants.extend(self.blueprint.initial);
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
            budget_bytes: options.settings.budget_bytes.unwrap_or_else(|| options.target.default_budget_bytes()),
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
            uploads,
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
            quantized: self.quantized,
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

/// Checks that a program can be made of a blueprint.
pub(super) fn check(blueprint: &Blueprint, settings: &Settings) -> Result<(), CompileError> {
    if let Some(build::TooLarge { bytes, limit }) = blueprint.too_large {
        return Err(CompileError::Plan(PlanError::Allocation { bytes, limit }));
    }
    match blueprint.host_step().filter(|_| !settings.allow_host) {
        Some((step, reason)) => Err(CompileError::Host { node: step.node.clone(), reason: reason.to_owned() }),
        None => Ok(()),
    }
}

/// The steps of an entry. Adds the shaders that they name by content.
fn steps(
    planned: Vec<build::Step>,
    compiled: &BTreeMap<KernelKey, Shader>,
    shaders: &mut IndexMap<String, Shader>,
) -> Vec<Step> {
    let mut dispatch = |d: build::Dispatch| {
        let shader = &compiled[&d.key];
        let hash = shader.hash();
        shaders.entry(hash.clone()).or_insert_with(|| shader.clone());
        Dispatch {
            node: d.node,
            shader: hash,
            bindings: d.bindings,
            writes: d.writes,
            params: d.params,
            params_offset: d.params_offset,
            groups: d.groups,
            loop_iterations: d.loop_iterations,
            barrier: d.barrier,
            check: d.check,
            result_slice: d.result_slice,
        }
    };
    let step = |step| match step {
        build::Step::Host(step, _) => Step::Host(step),
        build::Step::Device(list) => Step::Device(list.into_iter().map(&mut dispatch).collect()),
    };
    planned.into_iter().map(step).collect()
}

/// Where constants go, and their data by content. What was deferred is made here.
fn uploads(
    placed: Vec<build::Placed>,
    kernels: &Module,
) -> Result<(Vec<Upload>, IndexMap<Hash, Tensor>), CompileError> {
    let mut wrong = None;
    let made = |tensor: &Tensor| tensor.bytes().map(|_| ());
    for kernels in kernels.entries.values() {
        kernels.for_each_constant(&mut |tensor| wrong = wrong.take().or(made(tensor).err()));
    }
    let mut constants = IndexMap::new();
    let mut uploads = Vec::with_capacity(placed.len());
    for build::Placed { tensor, region } in placed {
        wrong = wrong.or(made(&tensor).err());
        let hash = tensor.hash();
        uploads.push(Upload { constant: hex(hash), region });
        constants.insert(hash, tensor);
    }
    let error = |source| CompileError::Plan(PlanError::Constant { value: kernels.name.clone(), source });
    wrong.map_or(Ok((uploads, constants)), |source| Err(error(source)))
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
