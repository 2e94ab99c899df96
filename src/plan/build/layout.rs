//! Places in memory: of constants, states, values, notes and parameters, and what they add up to.

use super::super::arena::Buffer;
use super::super::memory::{Kind, noted};
use super::super::{PlanError, allocation_bytes, round_up};
use super::part::{Part, Planned, Row, Source, port};
use super::{Blueprint, EntryBlueprint, Placed, Step, TooLarge, state_size};
use crate::ir::{Hash, NodeKind, State, Tensor, TensorError, TensorType};
use crate::kernels;
use crate::program::{
    Allocation, AllocationKind, FAULT_BYTES, Ledger, Port, Region, SLOT_ALIGNMENT, SLOT_BYTES, SizeRange, StateTensor,
    hex,
};
use crate::targets::Target;
use indexmap::IndexMap;
use std::collections::BTreeMap;

/// The least and the most bytes of the staging ring where the host cannot reach device memory.
const STAGING_BYTES: (u64, u64) = (4 << 20, 64 << 20);

/// Entries that have their places.
pub(super) struct Layout<'a> {
    target: &'a Target,
    pub(super) parts: Vec<Part<'a>>,
    allocations: Vec<Allocation>,
    constants: Vec<Placed>,
    states: Vec<StateTensor>,
    initial: IndexMap<Hash, Tensor>,
    pub(super) too_large: Option<TooLarge>,
    /// Bytes in which dispatches of all entries note indices out of range, and magnitudes.
    note_bytes: u64,
    /// Bytes of weights and of other constants, aligned.
    constant_bytes: (u64, u64),
    params_bytes: u64,
}

impl<'a> Layout<'a> {
    pub(super) fn of(target: &'a Target, parts: Vec<(&'a Source<'a>, Planned)>) -> Result<Layout<'a>, PlanError> {
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
        layout.arena()?;
        for part in &mut layout.parts {
            (part.steps, layout.params_bytes) = part.steps(layout.params_bytes)?;
        }
        if layout.params_bytes > 0 {
            layout.allocate(AllocationKind::Params, layout.params_bytes)?;
        }
        Ok(layout)
    }

    /// Allocates the arena, and gives values and notes their places in it. Notes are behind the values, for the whole
    /// of a run, so that nothing has to be written there before a run that finds no index out of range.
    fn arena(&mut self) -> Result<(), PlanError> {
        let target = self.target;
        let n_checks =
            |part: &Part<'_>| part.source.calls.values().flatten().flatten().filter(|c| c.check.is_some()).count();
        let noted_bytes = |part: &Part<'_>| noted(part.source.graph).count() as u64 * kernels::note_bytes(target);
        let notes: Vec<[u64; 2]> =
            self.parts.iter().map(|part| [n_checks(part) as u64 * FAULT_BYTES, noted_bytes(part)]).collect();
        // Each begins where a binding may.
        let after = |bytes: u64| round_up(bytes, FAULT_BYTES.max(target.alignment()));
        self.note_bytes = notes.iter().flatten().map(|bytes| after(*bytes)).sum();
        let arena_bytes = self.arena_bytes();
        if arena_bytes > 0 {
            let start = round_up(arena_bytes, FAULT_BYTES.max(target.alignment()));
            let all = if self.note_bytes > 0 { start.saturating_add(self.note_bytes) } else { arena_bytes };
            let arena = self.allocate(AllocationKind::Arena, all)?;
            let mut offset = start;
            for (part, [fault_bytes, noted_bytes]) in self.parts.iter_mut().zip(notes) {
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
        Ok(())
    }

    /// Entries run one after the other in the same arena.
    fn arena_bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.planned.arena_bytes(self.target)).max().unwrap_or(0)
    }

    /// Bytes of all allocations but for the staging ring.
    pub(super) fn device_bytes(&self) -> u64 {
        self.allocations.iter().map(|a| a.bytes).fold(0, u64::saturating_add)
    }

    /// How often the host waits for the device, and a dispatch for others.
    pub(super) fn pauses(&self) -> (usize, usize) {
        let barriers = |step: &Step| {
            if let Step::Device(list) = step { list.iter().filter(|d| d.barrier).count() } else { 0 }
        };
        let steps = || self.parts.iter().flat_map(|part| &part.steps);
        let n_segments = steps().filter(|step| matches!(step, Step::Device(_))).count();
        (n_segments, steps().map(barriers).sum())
    }

    /// Bytes of the allocations of a kind.
    fn allocated(&self, kind: AllocationKind) -> u64 {
        self.allocations.iter().filter(|a| a.kind == kind).map(|a| a.bytes).sum()
    }

    /// Device bytes by kind, once everything but the staging ring is allocated.
    fn ledger(&self) -> Ledger {
        let (weights, constants) = self.constant_bytes;
        let params = if self.params_bytes > 0 { allocation_bytes(self.params_bytes, self.target) } else { 0 };
        let weights_total = self.allocated(AllocationKind::Weights);
        let arena_total = self.allocated(AllocationKind::Arena);
        debug_assert!(weights + constants <= weights_total);
        let mut ledger = Ledger {
            weights: weights_total - constants,
            constants: constants + params,
            state: self.allocated(AllocationKind::State),
            ..Ledger::default()
        };
        // The peak is that of the entry with the largest arena.
        let largest = self.parts.iter().rev().max_by_key(|part| part.planned.arena_bytes(self.target));
        if let Some(Part { planned: Planned { buffers, lives, plan, .. }, .. }) = largest {
            let at_peak = |l: &Buffer| (l.first..=l.last).contains(&plan.max_live_step);
            for (live, _) in buffers.live.iter().zip(lives).filter(|(_, l)| at_peak(l)) {
                let bytes = round_up(live.buffer.bytes, self.target.alignment());
                match live.kind {
                    Kind::Io => ledger.io += bytes,
                    Kind::Activation => ledger.activations += bytes,
                    Kind::Workspace => ledger.workspace += bytes,
                }
            }
        }
        ledger.workspace += self.note_bytes;
        // What the arena has above its bound, and what rounding adds, counts as activations.
        ledger.activations += arena_total.saturating_sub(ledger.io + ledger.activations + ledger.workspace);
        ledger
    }

    /// The blueprint of it.
    pub(super) fn finish(mut self) -> Result<Blueprint, PlanError> {
        let target = self.target;
        let (arena_bytes, note_bytes) = (self.arena_bytes(), self.note_bytes);
        let ports = self.parts.iter().map(Part::ports).collect::<Result<Vec<_>, _>>()?;
        let device_bytes = self.device_bytes();
        if !target.memory.unified {
            // The ring is in the host's memory: it is part of the plan, but not of the device's bytes.
            let bytes = ports.iter().map(|(inputs, outputs)| staging_bytes(inputs, outputs)).max().unwrap_or(0);
            self.allocate(AllocationKind::Staging, bytes)?;
        }
        let ledger = self.ledger();
        let arena_total = self.allocated(AllocationKind::Arena);
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
