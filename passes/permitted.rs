//! Which formats the nodes of a group may have, and why not others: what the user permits and pins, what passes to come
//! set, and what the numbers themselves refuse.

use super::{Settings, candidates, pipeline};
use crate::assign::budget::{Assigned, Set};
use crate::assign::model::{Group, LinearModel};
use crate::ir::{Activations, Format, Graph, Node, NodeId, Weights};
use rayon::prelude::*;
use std::collections::BTreeSet;

/// The largest magnitude that f16 holds.
const MAX_F16: f32 = 65504.0;

/// What weights and results of a group cannot be stored as without becoming other numbers.
#[derive(Clone, Copy)]
pub(super) struct Range {
    is_finite: bool,
    is_in_f16: bool,
    /// Whether f16 is likely not to hold its results ([`wide_range`]).
    is_wide: bool,
}

impl Range {
    pub(super) fn of(graph: &Graph, group: &Group, wide: &BTreeSet<NodeId>) -> Range {
        let (is_finite, is_in_f16) = group
            .weights
            .iter()
            .filter_map(|w| graph.constant(w.value)?.to_f32s().ok())
            .flat_map(|values| {
                let one = |part: &[f32]| {
                    (part.iter().all(|v| v.is_finite()), part.iter().all(|v| !v.is_finite() || v.abs() <= MAX_F16))
                };
                values.par_chunks(1 << 16).map(one).collect::<Vec<_>>()
            })
            .fold((true, true), |all, part| (all.0 && part.0, all.1 && part.1));
        Range { is_finite, is_in_f16, is_wide: group.nodes.iter().any(|id| wide.contains(id)) }
    }

    /// The nearest format that keeps what is not finite among weights, what of them is too large for f16, and results
    /// that f16 is likely not to hold.
    fn keep(self, format: Format) -> Format {
        let format = self.keep_weights(format);
        match format.activations {
            Activations::F16 if self.is_wide => Format { activations: Activations::F32, ..format },
            _ => format,
        }
    }

    /// The same for weights alone: what is said of results is no proof, and a pin outweighs it.
    fn keep_weights(self, format: Format) -> Format {
        let has = |is: &dyn Fn(Weights) -> bool| is(format.weights) || format.tail.is_some_and(|tail| is(tail.weights));
        let narrow = !self.is_finite && has(&|w| matches!(w, Weights::Int { .. }));
        if !self.is_in_f16 && (narrow || has(&|w| w == Weights::F16)) {
            return Format::F32;
        }
        match format.activations {
            // Where the target multiplies f16, weights are f16 there, whatever they are stored as.
            Activations::F16 if !narrow && !self.is_in_f16 => Format { activations: Activations::F32, ..format },
            _ if !narrow => format,
            Activations::F16 => Format::F16,
            Activations::F32 | Activations::I8 => Format { weights: Weights::F16, ..Format::F32 },
        }
    }

    /// Why a format that was asked for is not given.
    fn excludes(self, settings: &Settings, node: &Node, has_weights: bool) -> Option<&'static str> {
        let pin = settings.pinned(node);
        let asked = pin.map_or_else(|| settings.permitted().to_vec(), |pin| vec![pin]);
        let of_weights = asked.iter().find(|format| has_weights && self.keep_weights(**format) != **format);
        let of_results =
            asked.iter().find(|format| pin.is_none() && self.keep(**format) != self.keep_weights(**format));
        of_weights.or(of_results).map(|format| self.why(*format))
    }

    /// Why weights or results are kept wider than in a format.
    fn why(self, format: Format) -> &'static str {
        if self.keep_weights(format) == format {
            "a power that is summed, or a mask before a softmax, may be beyond f16"
        } else if self.is_finite {
            "its weights are beyond the range of f16"
        } else {
            "its weights hold NaN or infinity, which integers do not"
        }
    }
}

/// What decides which formats a group may have.
pub(super) struct Wishes<'a> {
    pub graph: &'a Graph,
    pub model: &'a LinearModel,
    pub ranges: &'a [Range],
    /// Formats that passes to come set.
    pub set: &'a Set,
    pub settings: &'a Settings,
}

impl Wishes<'_> {
    /// The format as the group can have it: without weights where it has none, whole where its rows are shared, without
    /// quantized activations where there is no product of them.
    fn fit(&self, group: &Group, format: Format) -> Format {
        match format.activations {
            _ if group.weights.is_empty() => format.without_weights(),
            _ if format.tail.is_some() && !group.weights.iter().all(|w| w.has_own_rows) => {
                Format { tail: None, ..format }
            }
            Activations::I8 if !group.weights.iter().any(|w| w.has_products) => {
                Format { activations: Activations::F32, ..format }
            }
            _ => format,
        }
    }

    /// The formats that a group may have: what is permitted, or what its pins and passes to come say.
    pub(super) fn menu(&self, at: usize) -> Vec<Format> {
        let group = &self.model.groups[at];
        let mut menu: Vec<Format> = Vec::new();
        for format in self.settings.permitted().iter().map(|f| self.fit(group, self.ranges[at].keep(*f))) {
            if !menu.contains(&format) {
                menu.push(format);
            }
        }
        for &id in &group.nodes {
            let Some(pin) = self.fixed(at, id) else { continue };
            let own = crate::ops::weights::of(self.graph, id).is_some();
            let agrees =
                |format: &Format| if own { *format == pin } else { format.without_weights() == pin.without_weights() };
            menu.retain(agrees);
            if menu.is_empty() {
                menu.push(pin);
            }
        }
        menu
    }

    /// The format that a pass to come or a pin gives a node.
    fn fixed(&self, at: usize, id: NodeId) -> Option<Format> {
        let (node, group) = (self.graph.node(id), &self.model.groups[at]);
        let set = self.set.get(&node.name).map(|(format, _)| *format);
        set.or_else(|| Some(self.ranges[at].keep_weights(self.settings.pinned(node)?))).map(|f| self.fit(group, f))
    }

    /// Why a node's format is not for the solver to choose.
    fn because(&self, at: usize, id: NodeId) -> Option<String> {
        let node = self.graph.node(id);
        match self.set.get(&node.name) {
            Some((_, pass)) => Some(pipeline::set_by(pass)),
            None => self.fixed(at, id).map(|_| "pinned by --precision".to_owned()),
        }
    }

    /// Why each node of a group has its format, by name.
    pub(super) fn reasons(&self, at: usize, assigned: &Assigned) -> Vec<(String, String)> {
        let group = &self.model.groups[at];
        let solved = candidates::reason(assigned, at, self.settings.policy);
        let decided = group.nodes.iter().find_map(|&id| Some((id, self.because(at, id)?)));
        let reason = |&id: &NodeId| {
            let node = self.graph.node(id);
            let mut reason = match (&decided, self.because(at, id)) {
                (_, Some(own)) => own,
                (Some((other, because)), None) => {
                    format!("shares its format with {:?}, {because}", self.graph.node(*other).name)
                }
                (None, None) => solved.clone(),
            };
            let has_weights = crate::ops::weights::of(self.graph, id).is_some();
            if let Some(why) = self.ranges[at].excludes(self.settings, node, has_weights) {
                reason = format!("{reason}; {why}");
            }
            (node.name.clone(), reason)
        };
        group.nodes.iter().map(reason).collect()
    }

    /// The formats that a group could not have, and why.
    pub(super) fn excluded(&self, at: usize) -> Vec<(String, String)> {
        let (group, range, menu) = (&self.model.groups[at], self.ranges[at], self.menu(at));
        let decided = group.nodes.iter().find_map(|&id| Some((id, self.because(at, id)?)));
        let mut excluded = Vec::new();
        // What is said of the default block holds for the others.
        let permitted = self.settings.permitted();
        let is_said = |f: &&Format| f.with_default_block() != **f && permitted.contains(&f.with_default_block());
        for format in Format::MENU.iter().chain(permitted.iter().filter(|f| !is_said(f))).copied() {
            let text = format.to_string();
            if menu.contains(&format) || excluded.iter().any(|(known, _)| *known == text) {
                continue;
            }
            let (kept, fitted) = (range.keep(format), self.fit(group, range.keep(format)));
            let why = match &decided {
                _ if !self.settings.permitted().contains(&format) => "not permitted (--formats, --policy)".to_owned(),
                Some((id, because)) => format!("{:?} is {because}", self.graph.node(*id).name),
                None if kept != format => format!("{}: as {kept}", range.why(format)),
                None if group.weights.is_empty() => format!("there are no weights: as {fitted}"),
                None => format!("there is no product whose activations could be quantized: as {fitted}"),
            };
            excluded.push((text, why));
        }
        excluded
    }
}
