//! The pass manager: runs passes in order; names, applies, verifies, times and dumps each.

use super::lowering::Lowered;
use super::{Context, DEFAULT, Pass, PassError, Settings, Stage, assign_precision, by_name};
use crate::ir::{Faults, Format, Graph, Level};
use crate::plan::build::Blueprint;
use crate::targets::Target;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An ordered list of passes.
pub struct Pipeline {
    slots: Vec<Slot>,
    settings: Settings,
    /// The first change that was asked for at a pass that is not here.
    absent: Option<(String, &'static str)>,
}

/// A pass and its place.
#[derive(Clone)]
pub(super) struct Slot {
    pass: Arc<dyn Pass>,
    /// The pass of ours in whose place it stands.
    stands_for: Option<String>,
    /// Whether the caller brought it.
    is_own: bool,
}

impl Slot {
    fn ours(pass: Box<dyn Pass>) -> Slot {
        Slot { pass: pass.into(), stands_for: None, is_own: false }
    }

    fn own(pass: impl Pass + 'static) -> Slot {
        Slot { pass: Arc::new(pass), stands_for: None, is_own: true }
    }

    fn is(&self, name: &str) -> bool {
        self.pass.name() == name || self.stands_for.as_deref() == Some(name)
    }

    pub(super) fn name(&self) -> &str {
        self.pass.name()
    }

    pub(super) fn stage(&self) -> Stage {
        let replaced = self.stands_for.as_deref().and_then(by_name).map(|pass| pass.stage());
        replaced.unwrap_or_else(|| self.pass.stage())
    }
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
    /// The graph before formats became real, where a program comes of the pipeline.
    pub assigned: Option<Graph>,
    /// The graph with formats made real, as plain ONNX: the one that is written in operators of the core.
    pub quantized: Option<Graph>,
    /// The layout of the kernels, where it was made to count them.
    pub blueprint: Option<Blueprint>,
}

impl Report<'_> {
    /// Takes what the rest of the pipeline made of the graph when it was counted for what it makes of it.
    fn adopt(&mut self, lowered: Lowered, graph: &mut Graph, counting: &mut Duration) {
        let Lowered { kernels, assigned, quantized, blueprint, set, timings, explain, .. } = lowered;
        *graph = kernels;
        *counting = counting.saturating_sub(timings.iter().map(|t| t.time).sum());
        self.assigned = Some(assigned);
        self.quantized = quantized;
        self.blueprint = Some(blueprint);
        self.timings.extend(timings);
        self.context.explain.extend(explain);
        self.context.facts.reasons.extend(set.into_iter().map(|(name, (_, pass))| (name, set_by(&pass))));
    }
}

/// Why a pipeline stopped.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum PipelineError {
    #[error("unknown pass {name:?}; passes are {}", super::NAMES.join(", "))]
    Unknown { name: String },
    #[error("the pipeline has no pass {name:?} to {change}; its passes are {}", .passes.join(", "))]
    Absent { name: String, change: &'static str, passes: Vec<String> },
    #[error("{pass}: {source}")]
    Pass { pass: String, source: PassError },
    #[error("{pass} takes a graph of level {wanted}, and this one is of level {given}: run decompose before it")]
    Level { pass: String, given: Level, wanted: Level },
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
        let slots = DEFAULT.iter().filter_map(|name| by_name(name)).map(Slot::ours).collect();
        Pipeline { slots, settings, absent: None }
    }

    /// Passes of these names, in this order.
    ///
    /// # Errors
    /// A name is unknown.
    pub fn of(names: &[&str], settings: Settings) -> Result<Pipeline, PipelineError> {
        let find = |name: &&str| by_name(name).ok_or_else(|| PipelineError::Unknown { name: (*name).to_owned() });
        let slots = names.iter().map(|name| find(name).map(Slot::ours)).collect::<Result<_, _>>()?;
        Ok(Pipeline { slots, settings, absent: None })
    }

    /// The same with another pass after the last one named `name`; where there is none, running the pipeline says so.
    pub fn insert_after(mut self, name: &str, pass: impl Pass + 'static) -> Pipeline {
        match self.slots.iter().rposition(|slot| slot.is(name)) {
            Some(at) => self.slots.insert(at + 1, Slot::own(pass)),
            None => self.lacks_anchor(name, "put another after"),
        }
        self
    }

    /// The same with another pass before the first one named `name`; where there is none, running the pipeline says so.
    pub fn insert_before(mut self, name: &str, pass: impl Pass + 'static) -> Pipeline {
        match self.slots.iter().position(|slot| slot.is(name)) {
            Some(at) => self.slots.insert(at, Slot::own(pass)),
            None => self.lacks_anchor(name, "put another before"),
        }
        self
    }

    /// The same with another pass in the place of each one named `name`; where there is none, running the pipeline says
    /// so. It counts as the pass that it replaces: other passes are put before and after it by either name, and one
    /// that is required is no longer missed.
    pub fn replace(mut self, name: &str, pass: impl Pass + 'static) -> Pipeline {
        let pass: Arc<dyn Pass> = Arc::new(pass);
        let mut is_here = false;
        for slot in self.slots.iter_mut().filter(|slot| slot.is(name)) {
            let stands_for = slot.stands_for.take().unwrap_or_else(|| slot.pass.name().to_owned());
            *slot = Slot { pass: pass.clone(), stands_for: Some(stands_for), is_own: true };
            is_here = true;
        }
        if !is_here {
            self.lacks_anchor(name, "replace");
        }
        self
    }

    /// The same without the passes named `name`; where there is none, running the pipeline says so.
    pub fn remove(mut self, name: &str) -> Pipeline {
        let n = self.slots.len();
        self.slots.retain(|slot| !slot.is(name));
        if self.slots.len() == n {
            self.lacks_anchor(name, "remove");
        }
        self
    }

    fn lacks_anchor(&mut self, name: &str, change: &'static str) {
        self.absent.get_or_insert_with(|| (name.to_owned(), change));
    }

    /// The first pass that a program cannot do without and that is not here.
    pub fn lacks(&self) -> Option<&'static str> {
        lacks(&self.slots)
    }

    /// How many passes run before formats are made real: the graph that they leave has the formats of the program.
    fn n_before_formats_are_real(&self) -> usize {
        self.slots.iter().position(|slot| slot.stage() == Stage::Realize).unwrap_or(self.slots.len())
    }

    /// The names, in order.
    pub fn names(&self) -> Vec<&str> {
        self.slots.iter().map(|slot| slot.pass.name()).collect()
    }

    /// What was asked for.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Runs all passes. What was counted on the way to decide about formats is not done again.
    ///
    /// # Errors
    /// A pass cannot go on, or left a graph that is not well formed.
    pub fn run<'a>(&'a self, graph: &mut Graph, target: &'a Target) -> Result<Report<'a>, PipelineError> {
        self.run_with(graph, target, None)
    }

    /// Runs all passes, and calls `dump` after each.
    ///
    /// # Errors
    /// As [`Pipeline::run`].
    pub fn run_with<'a>(
        &'a self,
        graph: &mut Graph,
        target: &'a Target,
        mut dump: Option<Dump<'_>>,
    ) -> Result<Report<'a>, PipelineError> {
        if let Some((name, change)) = self.absent.clone() {
            let passes = self.names().into_iter().map(str::to_owned).collect();
            return Err(PipelineError::Absent { name, change, passes });
        }
        let context = Context::new(target, &self.settings);
        let timings = Vec::with_capacity(self.slots.len());
        let mut report = Report { context, timings, assigned: None, quantized: None, blueprint: None };
        let n_before = self.n_before_formats_are_real();
        let is_whole = lacks(&self.slots).is_none();
        for (i, slot) in self.slots.iter().enumerate() {
            if i == n_before && is_whole {
                let start = Instant::now();
                self.account(i, graph, &mut report.context)?;
                if let Some(lowered) = lowered(&mut report.context, dump.is_none()) {
                    report.adopt(*lowered, graph, &mut start.elapsed());
                    break;
                }
                report.assigned = Some(graph.clone());
            }
            report.context.to_come = &self.slots[i + 1..];
            if slot.stage() == Stage::Lower {
                report.quantized = Some(graph.clone());
            }
            let before = (slot.is_own && i < n_before).then(|| formats(graph));
            let mut timing = step(slot, graph, &mut report.context)?;
            if let Some(before) = before.filter(|_| timing.changed) {
                for (name, _) in formats(graph).into_iter().filter(|(name, format)| before.get(name) != Some(format)) {
                    report.context.facts.reasons.insert(name, set_by(slot.name()));
                }
            }
            if let Some(dump) = dump.as_mut() {
                dump(i, slot.name(), graph);
            }
            let lowered = lowered(&mut report.context, dump.is_none());
            let at = report.timings.len();
            if let Some(lowered) = lowered.filter(|_| is_whole) {
                report.adopt(*lowered, graph, &mut timing.time);
                report.timings.insert(at, timing);
                break;
            }
            report.timings.push(timing);
        }
        Ok(report)
    }

    /// Sees to it that there is a forecast of the formats that nodes have when they become real, which pass number `at`
    /// does.
    fn account<'a>(&'a self, at: usize, graph: &Graph, cx: &mut Context<'a>) -> Result<(), PipelineError> {
        if cx.facts.forecast.is_some() {
            return Ok(());
        }
        cx.to_come = &self.slots[at..];
        let assigns = self.slots.iter().any(|slot| slot.stage() == Stage::Assign);
        match assign_precision::account(graph, cx) {
            // Where nothing assigns formats, what cannot be planned may still be rewritten.
            Err(error) if assigns || matches!(error, PassError::OverBudget(_)) => {
                Err(failed(self.slots[at].name(), error))
            }
            _ => Ok(()),
        }
    }
}

/// What the passes to come made of the graph, where it is `wanted`; otherwise it is dropped.
fn lowered(cx: &mut Context<'_>, wanted: bool) -> Option<Box<Lowered>> {
    cx.facts.lowered.take().filter(|_| wanted)
}

/// The first pass that a program cannot do without and that is not among these.
pub(super) fn lacks(slots: &[Slot]) -> Option<&'static str> {
    super::NAMES
        .iter()
        .copied()
        .find(|name| by_name(name).is_some_and(|pass| pass.is_required()) && slots.iter().all(|slot| !slot.is(name)))
}

/// The reason of a format that a pass other than `assign_precision` set.
pub(super) fn set_by(pass: &str) -> String {
    format!("set by pass {pass}")
}

/// The passes of the default order behind the assignment.
pub(super) fn default_rest() -> Vec<Slot> {
    let rest = DEFAULT.iter().skip_while(|name| by_name(name).is_none_or(|pass| pass.stage() != Stage::Assign));
    rest.skip(1).filter_map(|name| by_name(name)).map(Slot::ours).collect()
}

/// Formats by node.
pub(super) type Formats = BTreeMap<String, Format>;

/// The formats of all nodes that have one, by name.
pub(super) fn formats(graph: &Graph) -> Formats {
    let nodes = graph.order().into_iter().map(|id| graph.node(id));
    nodes.filter_map(|node| Some((node.name.clone(), node.format?))).collect()
}

/// How often a pass that repeats may run.
const MAX_SWEEPS: usize = 32;

/// Runs the pass of a slot, applies its edits, and verifies what it left.
pub(super) fn step(slot: &Slot, graph: &mut Graph, cx: &mut Context<'_>) -> Result<Timing, PipelineError> {
    let start = Instant::now();
    let level = graph.level;
    let changed = run_one(slot.pass.as_ref(), graph, cx)?;
    let timing = Timing { pass: slot.name().to_owned(), time: start.elapsed(), changed };
    if changed {
        let pass = || slot.name().to_owned();
        graph.verify().map_err(|faults| match (level, graph.level) {
            // Nothing was brought to the level between.
            (given @ Level::Onnx, Level::Kernel) => PipelineError::Level { pass: pass(), given, wanted: Level::Core },
            _ => PipelineError::Broken { pass: pass(), faults },
        })?;
    }
    Ok(timing)
}

/// Runs one pass and applies its edits; whether it changed anything.
pub(super) fn run_one(pass: &dyn Pass, graph: &mut Graph, cx: &mut Context<'_>) -> Result<bool, PipelineError> {
    sweep(pass, graph, cx).map_err(|source| failed(pass.name(), source))
}

/// The error of a pass, or of one of those to come that it ran.
fn failed(pass: &str, source: PassError) -> PipelineError {
    match source {
        PassError::Lowering(inner) => *inner,
        source => PipelineError::Pass { pass: pass.to_owned(), source },
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Edit, Patch};

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
    fn passes_are_put_before_replaced_and_removed_by_name() {
        let named = |pipeline: &Pipeline, name: &str| pipeline.names().iter().filter(|n| **n == name).count();
        let pipeline = Pipeline::default().insert_before("fold_constants", Nothing);
        let at = DEFAULT.iter().position(|name| *name == "fold_constants").unwrap();
        assert_eq!(pipeline.names()[at], "nothing");
        // Each of several of a name, and it counts as what it replaces.
        let pipeline = Pipeline::default().replace("merge_duplicates", Nothing).replace("fuse", Nothing);
        assert_eq!((named(&pipeline, "merge_duplicates"), named(&pipeline, "nothing")), (0, 4));
        assert_eq!(pipeline.lacks(), None);
        assert_eq!(named(&pipeline.insert_after("fuse", Nothing), "nothing"), 5);
        assert_eq!(named(&Pipeline::default().remove("fold_constants"), "fold_constants"), 0);
        assert_eq!(Pipeline::default().remove("fuse").lacks(), Some("fuse"));
        let target = Target::shipped("lavapipe").unwrap();
        for (pipeline, change) in [
            (Pipeline::default().insert_before("fold", Nothing), "put another before"),
            (Pipeline::default().replace("fold", Nothing), "replace"),
            (Pipeline::default().remove("fold").remove("other"), "remove"),
        ] {
            let Err(error) = pipeline.run(&mut Graph::new("g", Level::Onnx), &target) else { panic!("it ran") };
            assert!(
                error.to_string().starts_with(&format!("the pipeline has no pass \"fold\" to {change};")),
                "{error}"
            );
        }
    }

    #[test]
    fn what_a_pipeline_lacks_is_named() {
        assert_eq!(Pipeline::default().lacks(), None);
        let without = |removed: &str| DEFAULT.iter().copied().filter(|name| *name != removed).collect::<Vec<_>>();
        for pass in ["insert_qdq", "decompose", "fuse"] {
            assert_eq!(Pipeline::of(&without(pass), Settings::default()).unwrap().lacks(), Some(pass));
        }
        assert_eq!(Pipeline::of(&without("merge_duplicates"), Settings::default()).unwrap().lacks(), None);
    }
}
