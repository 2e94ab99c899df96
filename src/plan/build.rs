//! Lays kernel-level graphs out on a device: constants, states, arena, dispatches, barriers, ledger. What is left to do
//! is to compile the shaders.

mod part;
mod steps;

use super::arena::{self, ArenaLimits, Buffer};
use super::memory::{Buffers, Kind, is_view, noted};
use super::schedule::Schedule;
use super::{PlanError, allocation_bytes, round_up};
use crate::ir::{Dim, Graph, Hash, NodeId, NodeKind, State, Tensor, TensorError, TensorType};
use crate::kernels::key::KernelKey;
use crate::kernels::{self, KernelCall, KernelError};
use crate::program::{
    Allocation, AllocationKind, FAULT_BYTES, HostStep, IndexCheck, Ledger, Port, Region, ResultSlice, SLOT_ALIGNMENT,
    SLOT_BYTES, SizeRange, StateTensor, hex, params_bytes as params_bytes_of,
};
use crate::targets::Target;
use indexmap::IndexMap;
use part::{Part, Planned, Row, Source, port};
use std::collections::BTreeMap;

/// Search nodes that the arena's exact phase may take.
pub const ARENA_NODES: u64 = 20_000;
/// Parameters of a dispatch take a multiple of this, so that their bytes do not depend on which variant of a kernel is
/// chosen.
pub const PARAMS_SLOT_BYTES: u64 = 256;
/// The least and the most bytes of the staging ring where the host cannot reach device memory.
const STAGING_BYTES: (u64, u64) = (4 << 20, 64 << 20);

/// A dispatch whose shader is not compiled yet.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The node it computes, or a part of.
    pub node: String,
    /// Which kernel.
    pub key: KernelKey,
    /// Storage buffers by binding.
    pub bindings: Vec<Region>,
    /// Which of them are written.
    pub writes: Vec<u32>,
    /// Parameters.
    pub params: Vec<Dim>,
    /// Where they go.
    pub params_offset: u64,
    /// Workgroups.
    pub groups: [Dim; 3],
    /// The most loop iterations of an invocation: [`super::kernels::KernelCall::loop_iterations`].
    pub loop_iterations: u64,
    /// Whether earlier dispatches must be done.
    pub barrier: bool,
    /// What it notes of indices out of range.
    pub check: Option<IndexCheck>,
    /// Which elements of its result it writes, where others write the rest.
    pub result_slice: Option<ResultSlice>,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Dispatches in one command buffer.
    Device(Vec<Dispatch>),
    /// A node on the CPU reference, and why.
    Host(HostStep, String),
}

/// An entry laid out on a device.
#[derive(Clone, Debug)]
pub struct EntryBlueprint {
    /// Its name.
    pub name: String,
    /// The sizes that each run chooses.
    pub sizes: Vec<SizeRange>,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Steps.
    pub steps: Vec<Step>,
}

/// A constant with its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// As the device has it.
    pub tensor: Tensor,
    /// Where it goes.
    pub region: Region,
}

/// An allocation beyond a target's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Its bytes.
    pub bytes: u64,
    /// What the target allows, in bytes.
    pub limit: u64,
}

/// The entries of a module laid out on a device.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Device memory.
    pub allocations: Vec<Allocation>,
    /// The constants as the device has them, and where they go. Their data need not be made yet.
    pub constants: Vec<Placed>,
    /// The states of all entries.
    pub states: Vec<StateTensor>,
    /// What states are before the first run, as the device has it, by content.
    pub initial: IndexMap<Hash, Tensor>,
    /// The entries.
    pub entries: Vec<EntryBlueprint>,
    /// Bytes by kind.
    pub ledger: Ledger,
    /// Planned peak in bytes.
    pub peak_bytes: u64,
    /// The arena, in bytes.
    pub arena_bytes: u64,
    /// Max-live of the arena, in bytes: no arena can be smaller.
    pub max_live_bytes: u64,
    /// Peak if the arena were its bound, in bytes.
    pub lower_bound_bytes: u64,
    /// The first allocation that is larger than the target allows: such a blueprint has its bytes, and no program can
    /// be made of it.
    pub too_large: Option<TooLarge>,
}

impl Blueprint {
    /// The steps of all entries.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.entries.iter().flat_map(|entry| &entry.steps)
    }

    /// The first step that runs on the host, and why.
    pub fn host_step(&self) -> Option<(&HostStep, &str)> {
        self.steps().find_map(|step| match step {
            Step::Host(step, reason) => Some((step, reason.as_str())),
            Step::Device(_) => None,
        })
    }
}

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

/// Bytes of a staging ring that takes inputs and outputs of a run side by side, unless those are very many.
fn staging_bytes(inputs: &[Port], outputs: &[Port]) -> u64 {
    let [a, b] = [inputs, outputs].map(|ports| {
        ports.iter().fold(0u64, |sum, port| sum.saturating_add(round_up(port.region.bytes, SLOT_ALIGNMENT)))
    });
    let (least, most) = STAGING_BYTES;
    let bytes = match a.max(b) {
        // Two slots, as large as need be.
        one if one <= SLOT_BYTES => 2 * round_up(one, SLOT_ALIGNMENT),
        _ => a.div_ceil(SLOT_BYTES).saturating_add(b.div_ceil(SLOT_BYTES)).saturating_mul(SLOT_BYTES),
    };
    bytes.clamp(least, most)
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
        Err(KernelError::Unsupported { .. }) => Ok(None),
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

struct Layout<'a> {
    target: &'a Target,
    parts: Vec<Part<'a>>,
    allocations: Vec<Allocation>,
    constants: Vec<Placed>,
    states: Vec<StateTensor>,
    initial: IndexMap<Hash, Tensor>,
    too_large: Option<TooLarge>,
    /// Bytes in which dispatches of all entries note indices out of range, and magnitudes.
    note_bytes: u64,
    /// Bytes of weights and of other constants, aligned.
    constant_bytes: (u64, u64),
    params_bytes: u64,
}

impl<'a> Layout<'a> {
    fn of(target: &'a Target, parts: Vec<(&'a Source<'a>, Planned)>) -> Result<Layout<'a>, PlanError> {
        let nowhere = Region { allocation: 0, offset: 0, bytes: 0 };
        let part = |(source, planned)| Part {
            source,
            planned,
            regions: BTreeMap::new(),
            faults: nowhere,
            notes: nowhere,
            steps: Vec::new(),
        };
        let mut layout = Layout {
            target,
            parts: parts.into_iter().map(part).collect(),
            allocations: Vec::new(),
            constants: Vec::new(),
            states: Vec::new(),
            initial: IndexMap::new(),
            too_large: None,
            note_bytes: 0,
            constant_bytes: (0, 0),
            params_bytes: 0,
        };
        layout.constant_bytes = layout.constants()?;
        layout.states()?;
        // Notes of indices are behind the values, for the whole of a run, so that nothing has to be written there
        // before a run that finds no index out of range.
        let n_checks =
            |part: &Part<'_>| part.source.calls.values().flatten().flatten().filter(|c| c.check.is_some()).count();
        let noted_bytes = |part: &Part<'_>| noted(part.source.graph).count() as u64 * kernels::note_bytes(target);
        let notes: Vec<[u64; 2]> =
            layout.parts.iter().map(|part| [n_checks(part) as u64 * FAULT_BYTES, noted_bytes(part)]).collect();
        // Each begins where a binding may.
        let after = |bytes: u64| round_up(bytes, FAULT_BYTES.max(target.alignment()));
        layout.note_bytes = notes.iter().flatten().map(|bytes| after(*bytes)).sum();
        let arena_bytes = layout.arena_bytes();
        if arena_bytes > 0 {
            let start = round_up(arena_bytes, FAULT_BYTES.max(target.alignment()));
            let all = if layout.note_bytes > 0 { start.saturating_add(layout.note_bytes) } else { arena_bytes };
            let arena = layout.allocate(AllocationKind::Arena, all)?;
            let mut offset = start;
            for (part, [fault_bytes, noted_bytes]) in layout.parts.iter_mut().zip(notes) {
                part.faults = Region { allocation: arena, offset, bytes: fault_bytes };
                offset += after(fault_bytes);
                part.notes = Region { allocation: arena, offset, bytes: noted_bytes };
                let words = (offset..).step_by(usize::try_from(kernels::note_bytes(target)).unwrap_or(usize::MAX));
                for (value, offset) in noted(part.source.graph).zip(words) {
                    part.regions.insert(value, Region { allocation: arena, offset, bytes: 4 });
                }
                offset += after(noted_bytes);
                for (live, &offset) in part.planned.buffers.live.iter().zip(&part.planned.plan.offsets) {
                    part.regions.insert(live.value, Region { allocation: arena, offset, bytes: live.buffer.bytes });
                }
            }
        }
        for part in &mut layout.parts {
            (part.steps, layout.params_bytes) = part.steps(layout.params_bytes)?;
        }
        if layout.params_bytes > 0 {
            layout.allocate(AllocationKind::Params, layout.params_bytes)?;
        }
        Ok(layout)
    }

    /// Entries run one after the other in the same arena.
    fn arena_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.planned.arena_bytes(self.target)).max().unwrap_or(0)
    }

    /// Bytes of all allocations but for the staging ring.
    fn device_bytes(&self) -> u64 {
        self.allocations.iter().map(|a| a.bytes).fold(0, u64::saturating_add)
    }

    /// How often the host waits for the device, and a dispatch for others.
    fn pauses(&self) -> (usize, usize) {
        let barriers = |step: &Step| {
            if let Step::Device(list) = step { list.iter().filter(|d| d.barrier).count() } else { 0 }
        };
        let steps = || self.parts.iter().flat_map(|part| &part.steps);
        let n_segments = steps().filter(|step| matches!(step, Step::Device(_))).count();
        (n_segments, steps().map(barriers).sum())
    }

    fn finish(mut self) -> Result<Blueprint, PlanError> {
        let target = self.target;
        let (weights, constants) = self.constant_bytes;
        let params = if self.params_bytes > 0 { allocation_bytes(self.params_bytes, target) } else { 0 };
        let (arena_bytes, note_bytes) = (self.arena_bytes(), self.note_bytes);
        let ports = self.parts.iter().map(Part::ports).collect::<Result<Vec<_>, _>>()?;
        let device_bytes = self.device_bytes();
        if !target.memory.unified {
            // The ring is in the host's memory: it is part of the plan, but not of the device's bytes.
            let bytes = ports.iter().map(|(inputs, outputs)| staging_bytes(inputs, outputs)).max().unwrap_or(0);
            self.allocate(AllocationKind::Staging, bytes)?;
        }
        let total = |kind| self.allocations.iter().filter(|a| a.kind == kind).map(|a| a.bytes).sum::<u64>();
        let (weights_total, arena_total) = (total(AllocationKind::Weights), total(AllocationKind::Arena));
        debug_assert!(weights + constants <= weights_total);
        let mut ledger = Ledger {
            weights: weights_total - constants,
            constants: constants + params,
            state: total(AllocationKind::State),
            ..Ledger::default()
        };
        // The peak is that of the entry with the largest arena.
        let largest = self.parts.iter().rev().max_by_key(|part| part.planned.arena_bytes(target));
        if let Some(Part { planned: Planned { buffers, lives, plan, .. }, .. }) = largest {
            let at_peak = |l: &Buffer| (l.first..=l.last).contains(&plan.max_live_step);
            for (live, _) in buffers.live.iter().zip(lives).filter(|(_, l)| at_peak(l)) {
                let bytes = round_up(live.buffer.bytes, target.alignment());
                match live.kind {
                    Kind::Io => ledger.io += bytes,
                    Kind::Activation => ledger.activations += bytes,
                    Kind::Workspace => ledger.workspace += bytes,
                }
            }
        }
        ledger.workspace += note_bytes;
        // What the arena has above its bound, and what rounding adds, counts as activations.
        ledger.activations += arena_total.saturating_sub(ledger.io + ledger.activations + ledger.workspace);
        let max_live_bytes = self.parts.iter().map(|part| part.planned.plan.max_live).max().unwrap_or(0);
        let least_arena = allocation_bytes(max_live_bytes.max(1).saturating_add(note_bytes), target);
        let lower_bound_bytes =
            device_bytes - arena_total + if arena_bytes > 0 { least_arena.min(arena_total) } else { 0 };
        let entry = |(part, (inputs, outputs)): (Part<'_>, (Vec<Port>, Vec<Port>))| EntryBlueprint {
            name: part.source.name.to_owned(),
            sizes: part
                .source
                .graph
                .ranges()
                .into_iter()
                .map(|(name, range)| SizeRange { name, min: *range.start(), max: *range.end() })
                .collect(),
            inputs,
            outputs,
            steps: part.steps,
        };
        Ok(Blueprint {
            allocations: self.allocations,
            constants: self.constants,
            states: self.states,
            initial: self.initial,
            too_large: self.too_large,
            entries: self.parts.into_iter().zip(ports).map(entry).collect(),
            ledger,
            peak_bytes: device_bytes,
            arena_bytes,
            max_live_bytes,
            lower_bound_bytes,
        })
    }

    fn allocate(&mut self, kind: AllocationKind, bytes: u64) -> Result<u32, PlanError> {
        let bytes = allocation_bytes(bytes, self.target);
        let limit = self.target.limits.max_memory_allocation_size;
        if bytes > limit {
            self.too_large.get_or_insert(TooLarge { bytes, limit });
        }
        self.allocations.push(Allocation { kind, bytes });
        u32::try_from(self.allocations.len() - 1).map_err(|_| PlanError::Overflow)
    }

    /// Gives every constant that a kernel reads its place; the aligned bytes of weights and of other constants.
    fn constants(&mut self) -> Result<(u64, u64), PlanError> {
        let (mut weights, mut others) = (0u64, 0u64);
        let mut placed: BTreeMap<Hash, Region> = BTreeMap::new();
        let mut row = Row::new(self.target, self.allocations.len())?;
        for part in &mut self.parts {
            for (value, is_weights) in part.constants() {
                if part.regions.contains_key(&value) {
                    continue;
                }
                let graph = part.source.graph;
                let NodeKind::Const(tensor) = &graph.node(value.node).kind else { continue };
                let name = || graph.value(value).name.clone();
                let tensor = on_device(tensor).map_err(|source| PlanError::Constant { value: name(), source })?;
                // Not by their data, which may not be made yet.
                let identity = tensor.identity();
                if let Some(region) = placed.get(&identity) {
                    part.regions.insert(value, *region);
                    continue;
                }
                let bytes = tensor.ty().bytes().ok_or(PlanError::Overflow)?;
                let (region, padded) = row.place(bytes)?;
                let sum = if is_weights { &mut weights } else { &mut others };
                *sum = sum.checked_add(padded).ok_or(PlanError::Overflow)?;
                placed.insert(identity, region);
                part.regions.insert(value, region);
                if bytes > 0 {
                    self.constants.push(Placed { tensor, region: Region { bytes, ..region } });
                }
            }
        }
        for bytes in row.sizes {
            self.allocate(AllocationKind::Weights, bytes)?;
        }
        Ok((weights, others))
    }

    /// Gives every state its place, the same in all entries.
    fn states(&mut self) -> Result<(), PlanError> {
        let mut placed: BTreeMap<&str, (&State, &TensorType, Region)> = BTreeMap::new();
        let mut row = Row::new(self.target, self.allocations.len())?;
        for part in &mut self.parts {
            let graph = part.source.graph;
            for state in graph.states() {
                let ty = graph.ty(state.node.out(0));
                if let Some((other, other_ty, region)) = placed.get(state.name.as_str()) {
                    if *other_ty != ty || other.initial != state.initial {
                        return Err(PlanError::State { name: state.name.clone(), entry: part.source.name.to_owned() });
                    }
                    part.regions.insert(state.node.out(0), *region);
                    continue;
                }
                let (region, _) = row.place(state_size(&state.name, ty)?)?;
                let constant = |source| PlanError::Constant { value: state.name.clone(), source };
                let initial = on_device(&state.initial).map_err(constant)?;
                let hash = initial.hash();
                self.initial.insert(hash, initial);
                self.states.push(StateTensor { port: port(&state.name, ty, region)?, initial: hex(hash) });
                placed.insert(&state.name, (state, ty, region));
                part.regions.insert(state.node.out(0), region);
            }
        }
        for bytes in row.sizes {
            self.allocate(AllocationKind::State, bytes)?;
        }
        Ok(())
    }
}

/// A constant in the element type it has on a device; where that is another one, it is converted when it is read.
fn on_device(tensor: &Tensor) -> Result<Tensor, TensorError> {
    if tensor.ty().packing.is_some() {
        return Ok(tensor.clone());
    }
    let wrong = TensorError::Class { dtype: tensor.dtype(), wanted: "a device type" };
    let dtype = tensor.dtype().on_device().ok_or(wrong)?;
    if dtype == tensor.dtype() {
        return Ok(tensor.clone());
    }
    let own = tensor.clone();
    Ok(Tensor::deferred(tensor.ty().with_dtype(dtype), "on the device", &[tensor], move || match dtype.is_float() {
        true => Tensor::from_f32s(dtype, &own.dims(), &own.to_f32s()?),
        false => Tensor::from_i64s(dtype, &own.dims(), &own.to_i64s()?),
    }))
}
