//! The rest of a pipeline, run on a copy of the graph: what a program of these formats takes, before they are decided.
//!
//! An assignment is counted by doing what is done to the one that is chosen: the passes to come, a caller's own among
//! them, and the layout. So the figure is that of the program, and the run of the chosen one need not be repeated.

use super::pipeline::{self, PipelineError, Slot, Timing, step};
use super::stored_rows::ScaleTypes;
use super::{Context, Explain, PassError, Settings, Stage};
use crate::assign::budget::{Counted, Set};
use crate::ir::{Edit, Graph};
use crate::plan::build::{self, Blueprint};
use crate::targets::Target;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The passes to come.
pub(crate) struct Rest<'a> {
    slots: Vec<Slot>,
    pub(super) target: &'a Target,
    pub(super) settings: &'a Settings,
    scale_types: Arc<ScaleTypes>,
}

/// What comes of a graph with formats.
pub(crate) struct Lowered {
    /// The graph of kernels.
    pub kernels: Graph,
    /// The graph as it was before formats became real.
    pub assigned: Graph,
    /// The graph with formats made real, as plain ONNX.
    pub quantized: Option<Graph>,
    /// The layout of the kernels.
    pub blueprint: Blueprint,
    /// What the passes before formats became real set.
    pub set: Set,
    /// Whether making formats real changed nothing: the kernels are those of the graph without formats.
    pub is_plain: bool,
    /// Times of the passes.
    pub timings: Vec<Timing>,
    /// Why patterns did not match.
    pub explain: Explain,
}

impl Lowered {
    pub(super) fn counted(&self) -> Counted {
        Counted { peak_bytes: self.blueprint.peak_bytes, set: self.set.clone() }
    }
}

impl<'a> Rest<'a> {
    /// The passes that are to come in a context. Where those make no program, as when passes are run alone, the default
    /// ones behind the assignment.
    pub(super) fn of(cx: &Context<'a>) -> Rest<'a> {
        let slots = if pipeline::lacks(cx.to_come).is_none() { cx.to_come.to_vec() } else { pipeline::default_rest() };
        Rest { slots, target: cx.target, settings: cx.settings, scale_types: cx.facts.scale_types.clone() }
    }

    fn context(&self) -> Context<'_> {
        let mut cx = Context::new(self.target, self.settings);
        cx.facts.scale_types = self.scale_types.clone();
        cx
    }

    /// Runs the passes on a graph with formats, and lays out what comes of it.
    ///
    /// # Errors
    /// A pass cannot go on, or the kernels cannot be laid out.
    pub(super) fn lower(&self, mut graph: Graph) -> Result<Lowered, PassError> {
        let mut cx = self.context();
        let mut timings = Vec::with_capacity(self.slots.len());
        let (mut assigned, mut quantized, mut set, mut is_plain) = (None, None, Set::new(), true);
        for (i, slot) in self.slots.iter().enumerate() {
            cx.to_come = &self.slots[i + 1..];
            let is_real = slot.stage() == Stage::Realize;
            if is_real && assigned.is_none() {
                assigned = Some(graph.clone());
            }
            if slot.stage() == Stage::Lower {
                quantized = Some(graph.clone());
            }
            let before = assigned.is_none().then(|| pipeline::formats(&graph));
            let timing = step(slot, &mut graph, &mut cx).map_err(inner)?;
            if let Some(before) = before.filter(|_| timing.changed) {
                note_changes(&before, &graph, slot, &mut set);
            }
            is_plain &= !(is_real && timing.changed);
            timings.push(timing);
        }
        let blueprint = build::build(&graph, self.target)?;
        let assigned = assigned.unwrap_or_else(|| graph.clone());
        Ok(Lowered { kernels: graph, assigned, quantized, blueprint, set, is_plain, timings, explain: cx.explain })
    }

    /// Brings a graph to kernels with the formats left open.
    ///
    /// # Errors
    /// A pass cannot go on.
    pub(super) fn open(&self, mut graph: Graph) -> Result<Graph, PassError> {
        // What does not match while formats are open may match once they are chosen: nothing is noted.
        let mut cx = Context { explain: Explain::new(false), ..self.context() };
        for (i, slot) in self.slots.iter().enumerate() {
            cx.to_come = &self.slots[i + 1..];
            if slot.stage() == Stage::Realize {
                // Whatever was set, each format is still to be chosen.
                let mut edit = Edit::new(&graph);
                graph.order().into_iter().for_each(|id| edit.set_format(id, None));
                graph.apply(edit.finish());
            } else {
                step(slot, &mut graph, &mut cx).map_err(inner)?;
            }
        }
        Ok(graph)
    }
}

/// The error of a pass within that of another.
fn inner(error: PipelineError) -> PassError {
    PassError::Lowering(Box::new(error))
}

/// Notes the formats that a pass changed.
fn note_changes(before: &pipeline::Formats, graph: &Graph, slot: &Slot, set: &mut Set) {
    let after = pipeline::formats(graph);
    let left: BTreeSet<&str> = graph.order().into_iter().map(|id| graph.node(id).name.as_str()).collect();
    for (name, format) in before.iter().filter(|(name, _)| left.contains(name.as_str())) {
        // A node without format keeps the types of the model.
        let now = after.get(name).copied().unwrap_or(crate::ir::Format::F32);
        if now != *format {
            set.insert(name.clone(), (now, slot.name().to_owned()));
        }
    }
}
