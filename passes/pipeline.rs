//! The pass manager: runs passes in order; names, applies, verifies, times and dumps each.

use super::{Context, DEFAULT, Pass, PassError, Settings, by_name};
use crate::ir::{Faults, Graph};
use crate::target::Target;
use std::time::{Duration, Instant};

/// An ordered list of passes.
pub struct Pipeline {
    passes: Vec<Box<dyn Pass>>,
    settings: Settings,
    /// A pass after which another was to be put, and which is not here.
    absent: Option<String>,
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
    #[error("the pipeline has no pass {name:?} to put another after; its passes are {}", .passes.join(", "))]
    Absent { name: String, passes: Vec<String> },
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
        Pipeline { passes: DEFAULT.iter().filter_map(|name| by_name(name)).collect(), settings, absent: None }
    }

    /// Passes of these names, in this order.
    ///
    /// # Errors
    /// A name is unknown.
    pub fn of(names: &[&str], settings: Settings) -> Result<Pipeline, PipelineError> {
        let find = |name: &&str| by_name(name).ok_or_else(|| PipelineError::Unknown { name: (*name).to_owned() });
        Ok(Pipeline { passes: names.iter().map(find).collect::<Result<_, _>>()?, settings, absent: None })
    }

    /// The same with another pass after the last one named `name`; where there is none, running the pipeline says so.
    pub fn insert_after(mut self, name: &str, pass: impl Pass + 'static) -> Pipeline {
        match self.passes.iter().rposition(|p| p.name() == name) {
            Some(at) => self.passes.insert(at + 1, Box::new(pass)),
            None => self.absent = Some(name.to_owned()),
        }
        self
    }

    /// The first pass that a program cannot do without and that is not here.
    pub fn lacks(&self) -> Option<&'static str> {
        super::NAMES.iter().copied().find(|name| {
            by_name(name).is_some_and(|pass| pass.is_required()) && self.passes.iter().all(|p| p.name() != *name)
        })
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
    pub fn run_with<'a>(
        &'a self,
        graph: &mut Graph,
        target: &'a Target,
        dump: Dump<'_>,
    ) -> Result<Report<'a>, PipelineError> {
        if let Some(name) = self.absent.clone() {
            return Err(PipelineError::Absent { name, passes: self.names().into_iter().map(str::to_owned).collect() });
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Edit, Level, Patch};

    struct Nothing;

    impl Pass for Nothing {
        fn name(&self) -> &str {
            "nothing"
        }

        fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
            Ok(Edit::new(graph).finish())
        }
    }

    #[test]
    fn a_pass_is_put_after_the_last_of_its_name_or_not_at_all() {
        let names = |pipeline: &Pipeline| pipeline.names().into_iter().map(str::to_owned).collect::<Vec<_>>();
        let pipeline = Pipeline::default().insert_after("fold_constants", Nothing);
        let at = DEFAULT.iter().rposition(|name| *name == "fold_constants").unwrap();
        assert_eq!(names(&pipeline)[at + 1], "nothing");
        let target = Target::shipped("lavapipe").unwrap();
        let pipeline = Pipeline::default().insert_after("fold_constant", Nothing);
        let Err(error) = pipeline.run(&mut Graph::new("g", Level::Onnx), &target) else { panic!("it ran") };
        assert!(matches!(&error, PipelineError::Absent { name, .. } if name == "fold_constant"), "{error}");
    }

    #[test]
    fn what_a_pipeline_lacks_is_named() {
        assert_eq!(Pipeline::default().lacks(), None);
        let without = |gone: &str| DEFAULT.iter().copied().filter(|name| *name != gone).collect::<Vec<_>>();
        for pass in ["insert_qdq", "decompose", "fuse"] {
            assert_eq!(Pipeline::of(&without(pass), Settings::default()).unwrap().lacks(), Some(pass));
        }
        assert_eq!(Pipeline::of(&without("merge_duplicates"), Settings::default()).unwrap().lacks(), None);
    }
}
