//! Lays kernel-level graphs out on a device: constants, states, arena, dispatches, barriers, ledger. What is left to do
//! is to compile the shaders.

mod blueprint;
mod layout;
mod part;
mod steps;

pub use blueprint::{Blueprint, Dispatch, EntryBlueprint, Placed, Step, TooLarge};

use super::arena::{self, ArenaLimits};
use super::memory::{Buffers, is_view, noted};
use super::schedule::Schedule;
use super::{PlanError, allocation_bytes, round_up};
use crate::ir::{Graph, NodeId, TensorType};
use crate::kernels::{self, KernelCall, KernelError};
use crate::program::{FAULT_BYTES, params_bytes as params_bytes_of};
use crate::targets::Target;
use layout::Layout;
use part::{Part, Planned, Row, Source};

/// Search nodes that the arena's exact phase may take.
pub const ARENA_NODES: u64 = 20_000;
/// Parameters of a dispatch take a multiple of this, so that their bytes do not depend on which variant of a kernel is
/// chosen.
pub const PARAMS_SLOT_BYTES: u64 = 256;

/// Bytes of parameters of a graph's dispatches, and of what they note of indices out of range and of magnitudes:
/// what a plan needs besides constants and values.
///
/// # Errors
/// A kernel cannot be chosen.
pub fn params_bytes(graph: &Graph, target: &Target) -> Result<u64, PlanError> {
    let mut bytes = 0u64;
    for id in graph.order() {
        for call in calls(graph, id, target)?.unwrap_or_default() {
            bytes = bytes.saturating_add(slot_bytes(&call)).saturating_add(call.check.map_or(0, |_| FAULT_BYTES));
        }
    }
    let n_noted = noted(graph).count() as u64;
    if n_noted > 0 {
        let words = n_noted.saturating_mul(kernels::note_bytes(target));
        bytes = bytes.saturating_add(words).saturating_add(slot_bytes(&kernels::clear(words / 4)));
    }
    Ok(bytes)
}

fn slot_bytes(call: &KernelCall) -> u64 {
    round_up(params_bytes_of(&call.params, &call.groups), PARAMS_SLOT_BYTES).max(PARAMS_SLOT_BYTES)
}

/// The dispatches of a node: none for inputs, constants and views, `None` where no kernel covers it.
fn calls(graph: &Graph, id: NodeId, target: &Target) -> Result<Option<Vec<KernelCall>>, PlanError> {
    if graph.node(id).op().is_none() || is_view(graph, id) {
        return Ok(Some(Vec::new()));
    }
    // Even where its result has no elements, it defines a size.
    if graph.node(id).defined_symbol().is_some() {
        return Ok(None);
    }
    match kernels::dispatches(graph, id, target) {
        Ok(calls) => Ok(Some(calls)),
        Err(KernelError::Unsupported { .. } | KernelError::OverLimit { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lays out `graph` as the one entry `main`.
///
/// # Errors
/// As [`build_entries`].
pub fn build(graph: &Graph, target: &Target) -> Result<Blueprint, PlanError> {
    build_entries(&[("main", graph)], target)
}

/// Lays out the entries of a module over one arena, one set of constants and one of states: each in the order of the
/// smallest arena, or in one that needs fewer barriers and no more memory.
///
/// # Errors
/// A size is not known, a tensor fits no buffer of the target, sizes overflow, or entries disagree on a state. What is
/// larger than an allocation of the target may be is no error here ([`Blueprint::too_large`]).
pub fn build_entries(entries: &[(&str, &Graph)], target: &Target) -> Result<Blueprint, PlanError> {
    let sources = entries.iter().map(|(name, graph)| Source::of(name, graph, target));
    let sources = sources.collect::<Result<Vec<_>, _>>()?;
    let mut layouts = sources.iter().map(|source| best(source, target)).collect::<Result<Vec<_>, _>>()?;
    match layouts.pop() {
        Some(alone) if layouts.is_empty() => alone.finish(),
        last => {
            let parts = layouts.into_iter().chain(last).flat_map(|layout| layout.parts);
            Layout::of(target, parts.map(|part| (part.source, part.planned)).collect())?.finish()
        }
    }
}

/// The layout of an entry by itself.
fn best<'a>(source: &'a Source<'a>, target: &'a Target) -> Result<Layout<'a>, PlanError> {
    let Source { graph, calls, .. } = source;
    let buffers = source.buffers.clone();
    let limits = ArenaLimits { alignment: target.alignment(), max_nodes: ARENA_NODES };
    let lives = buffers.arena();
    let plan = arena::plan(&lives, &limits)?;
    let groups = (0..buffers.order.len()).collect();
    let first = Layout::of(target, vec![(source, Planned { buffers, lives, plan, groups })])?;
    let Some(Part { planned: Planned { buffers, plan, .. }, .. }) = first.parts.first() else { return Ok(first) };
    let (most, max_live) = (plan.bytes, plan.max_live);
    let is_host = |id: NodeId| calls.get(&id).is_some_and(Option::is_none);
    let schedule = Schedule::new(graph, buffers, limits.alignment, max_live, &is_host);
    let buffers = Buffers::of(graph, schedule.order.clone())?;
    // Where the arena is larger if groups reuse no buffer, the order may still do.
    for lives in [schedule.lifetimes(&buffers), buffers.arena()] {
        let plan = arena::plan(&lives, &limits)?;
        if plan.bytes <= most {
            let planned = Planned { buffers, lives, plan, groups: schedule.groups };
            let is_better = |other: &Layout<'_>| {
                other.too_large.is_none()
                    && other.device_bytes() <= first.device_bytes()
                    && other.pauses() < first.pauses()
            };
            return match Layout::of(target, vec![(source, planned)]) {
                Ok(other) if is_better(&other) => Ok(other),
                _ => Ok(first),
            };
        }
    }
    Ok(first)
}

/// Bytes that the states of a graph take on a device, each allocation rounded as the driver does.
///
/// # Errors
/// One has no size on a device, or is larger than an allocation may be.
pub fn state_bytes(graph: &Graph, target: &Target) -> Result<u64, PlanError> {
    let mut row = Row::new(target, 0)?;
    for state in graph.states() {
        row.place(state_size(&state.name, graph.ty(state.node.out(0)))?)?;
    }
    Ok(row.sizes.iter().map(|bytes| allocation_bytes(*bytes, target)).fold(0, u64::saturating_add))
}

fn state_size(name: &str, ty: &TensorType) -> Result<u64, PlanError> {
    let unknown = || PlanError::Type { value: name.to_owned(), ty: ty.to_string() };
    kernels::device_bytes(ty).ok_or_else(unknown)
}
