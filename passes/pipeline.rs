//! The pass manager: runs passes in order; names, applies, verifies, times and dumps each.

use super::{Context, DEFAULT, Pass, PassError, Settings, by_name};
use crate::ir::{Faults, Graph};
use crate::target::Target;
use std::time::{Duration, Instant};

/// An ordered list of passes.
pub struct Pipeline {
    passes: Vec<Box<dyn Pass>>,
    settings: Settings,
}

/// How long a pass took.
#[derive(Clone, Debug)]
pub struct Timing {
    /// The pass.
    pub pass: String,
    /// Its own time and that of applying its edit.
    pub time: Duration,
    /// Whether it changed anything.
    pub changed: bool,
}

/// Called after each pass with its 0-based number in the pipeline, its name and the graph.
pub type Dump<'a> = &'a mut (dyn FnMut(usize, &str, &Graph) + Send);

/// What a run leaves besides the graph.
pub struct Report<'a> {
    /// What the passes left.
    pub context: Context<'a>,
    /// Times, in order.
    pub timings: Vec<Timing>,
}

/// Why a pipeline stopped.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum PipelineError {
    #[error("unknown pass {name:?}; passes are {}", super::NAMES.join(", "))]
    Unknown { name: String },
    #[error("{pass}: {source}")]
    Pass { pass: String, source: PassError },
    #[error("a bug in pass {pass}, please report it: the graph it left has {faults}")]
    Broken { pass: String, faults: Faults },
}

impl Default for Pipeline {
    fn default() -> Pipeline {
        Pipeline::new(Settings::default())
    }
}

impl Pipeline {
    /// The default order under these settings.
    pub fn new(settings: Settings) -> Pipeline {
        Pipeline { passes: DEFAULT.iter().filter_map(|name| by_name(name)).collect(), settings }
    }

    /// Passes of these names, in this order.
    ///
    /// # Errors
    /// A name is unknown.
    pub fn of(names: &[&str], settings: Settings) -> Result<Pipeline, PipelineError> {
        let find = |name: &&str| by_name(name).ok_or_else(|| PipelineError::Unknown { name: (*name).to_owned() });
        Ok(Pipeline { passes: names.iter().map(find).collect::<Result<_, _>>()?, settings })
    }

    /// The same with another pass after the last one named `name`; at the end where there is none.
    pub fn insert_after(mut self, name: &str, pass: impl Pass + 'static) -> Pipeline {
        let at = self.passes.iter().rposition(|p| p.name() == name).map_or(self.passes.len(), |i| i + 1);
        self.passes.insert(at, Box::new(pass));
        self
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.passes.iter().map(|p| p.name()).collect()
    }

    /// What was asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs all passes.
    ///
    /// # Errors
    /// A pass cannot go on, or left a graph that is not well formed.
    pub fn run<'a>(&'a self, graph: &mut Graph, target: &'a Target) -> Result<Report<'a>, PipelineError> {
        self.run_with(graph, target, &mut |_, _, _| {})
    }

    /// Runs all passes and calls `dump` after each.
    ///
    /// # Errors
    /// As [`Pipeline::run`].
    pub fn run_with<'a>(&'a self, graph: &mut Graph, target: &'a Target, dump: Dump<'_>) -> Result<Report<'a>, PipelineError> {
        let mut context = Context::new(target, &self.settings);
        let mut timings = Vec::with_capacity(self.passes.len());
        for (i, pass) in self.passes.iter().enumerate() {
            let start = Instant::now();
            let changed = run_one(pass.as_ref(), graph, &mut context)?;
            timings.push(Timing { pass: pass.name().to_owned(), time: start.elapsed(), changed });
            if changed {
                graph.verify().map_err(|faults| PipelineError::Broken { pass: pass.name().to_owned(), faults })?;
            }
            dump(i, pass.name(), graph);
        }
        Ok(Report { context, timings })
    }
}

/// How often a pass that repeats may run.
const MAX_SWEEPS: usize = 32;

/// Runs one pass and applies its edits; whether it changed anything.
pub(super) fn run_one(pass: &dyn Pass, graph: &mut Graph, cx: &mut Context<'_>) -> Result<bool, PipelineError> {
    sweep(pass, graph, cx).map_err(|source| PipelineError::Pass { pass: pass.name().to_owned(), source })
}

fn sweep(pass: &dyn Pass, graph: &mut Graph, cx: &mut Context<'_>) -> Result<bool, PassError> {
    let mut changed = false;
    for _ in 0..if pass.repeats() { MAX_SWEEPS } else { 1 } {
        let patch = pass.run(graph, cx)?;
        if patch.is_empty() {
            break;
        }
        changed |= graph.apply(patch);
    }
    Ok(changed)
}

/// Brings a graph of the ONNX level to kernels: [`super::LOWERING`], run within another pass.
pub(super) fn lower(graph: &mut Graph, cx: &mut Context<'_>) -> Result<(), PassError> {
    for name in super::LOWERING {
        if let Some(pass) = by_name(name) {
            sweep(pass.as_ref(), graph, cx)?;
        }
    }
    Ok(())
}
