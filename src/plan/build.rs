//! Lays a kernel-level graph out on a device: constants, arena, dispatches, barriers, ledger. What is left to do is to
//! compile the shaders.

mod steps;

use super::arena::{self, ArenaLimits, ArenaPlan, Buffer};
use super::memory::{Buffers, Kind, is_view, noted};
use super::schedule::Schedule;
use super::{PlanError, allocation_bytes, round_up};
use crate::ir::{DType, Dim, Graph, Hash, NodeId, NodeKind, Tensor, ValueId};
use crate::kernels::key::KernelKey;
use crate::kernels::{self, KernelCall, KernelError};
use crate::ops::weights;
use crate::program::{
    Allocation, AllocationKind, FAULT_BYTES, HostStep, IndexCheck, Ledger, Port, Region, SLOT_ALIGNMENT, SLOT_BYTES,
    SizeRange, Stripe, Upload, params_bytes as params_bytes_of,
};
use crate::targets::Target;
use indexmap::IndexMap;
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
    pub stripe: Option<Stripe>,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Dispatches in one command buffer.
    Device(Vec<Dispatch>),
    /// A node on the CPU reference, and why.
    Host(HostStep, String),
}

/// A graph laid out on a device.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Device memory.
    pub allocations: Vec<Allocation>,
    /// Where constants go.
    pub uploads: Vec<Upload>,
    /// The constants as the device has them, by content.
    pub constants: IndexMap<Hash, Tensor>,
    /// The sizes that each run chooses.
    pub sizes: Vec<SizeRange>,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Steps.
    pub steps: Vec<Step>,
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
}

/// Bytes of parameters of a graph's dispatches, and of what they note of indices out of range and of magnitudes: what a
/// plan needs
/// besides constants and values.
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
    // Even where its result has no elements, it tells a size.
    if graph.node(id).tells().is_some() {
        return Ok(None);
    }
    match kernels::dispatches(graph, id, target) {
        Ok(calls) => Ok(Some(calls)),
        Err(KernelError::Unsupported { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lays out `graph`: in the order of the smallest arena, or in one that needs fewer barriers and no more memory.
///
/// # Errors
/// A size is not known, a tensor fits no buffer of the target, or sizes overflow.
pub fn build(graph: &Graph, target: &Target) -> Result<Blueprint, PlanError> {
    let buffers = Buffers::best(graph, target)?;
    let calls =
        buffers.order.iter().map(|&id| Ok((id, calls(graph, id, target)?))).collect::<Result<Calls, PlanError>>()?;
    let limits = ArenaLimits { alignment: target.alignment(), max_nodes: ARENA_NODES };
    let lives = buffers.arena();
    let plan = arena::plan(&lives, &limits)?;
    let groups = (0..buffers.order.len()).collect();
    let first = Layout::of(graph, target, &calls, Planned { buffers, lives, plan, groups })?;
    let (most, max_live) = (first.planned.plan.bytes, first.planned.plan.max_live);
    let is_host = |id: NodeId| calls.get(&id).is_some_and(Option::is_none);
    let schedule = Schedule::new(graph, &first.planned.buffers, limits.alignment, max_live, &is_host);
    let buffers = Buffers::of(graph, schedule.order.clone())?;
    // Where the arena is larger if groups reuse no buffer, the order may still do.
    for lives in [schedule.lifetimes(&buffers), buffers.arena()] {
        let plan = arena::plan(&lives, &limits)?;
        if plan.bytes <= most {
            let planned = Planned { buffers, lives, plan, groups: schedule.groups };
            let is_better =
                |other: &Layout<'_>| other.device_bytes() <= first.device_bytes() && other.pauses() < first.pauses();
            return match Layout::of(graph, target, &calls, planned) {
                Ok(other) if is_better(&other) => other.finish(),
                _ => first.finish(),
            };
        }
    }
    first.finish()
}

/// An order with its buffers and their offsets.
struct Planned {
    buffers: Buffers,
    /// Size and lifetime of each buffer.
    lives: Vec<Buffer>,
    plan: ArenaPlan,
    /// For each node its group, ascending: nodes of one are ordered by nothing but what they touch.
    groups: Vec<usize>,
}

/// The dispatches of each node; `None` where it runs on the host.
type Calls = BTreeMap<NodeId, Option<Vec<KernelCall>>>;

struct Layout<'a> {
    graph: &'a Graph,
    target: &'a Target,
    calls: &'a Calls,
    planned: Planned,
    /// Where each value that is its own root lies.
    regions: BTreeMap<ValueId, Region>,
    allocations: Vec<Allocation>,
    constants: IndexMap<Hash, Tensor>,
    uploads: Vec<Upload>,
    /// Where dispatches note indices out of range, one after the other.
    faults: Region,
    /// Where they note magnitudes, behind that.
    notes: Region,
    /// Bytes of weights and of other constants, aligned.
    constant_bytes: (u64, u64),
    steps: Vec<Step>,
    params_bytes: u64,
}

impl<'a> Layout<'a> {
    fn of(graph: &'a Graph, target: &'a Target, calls: &'a Calls, planned: Planned) -> Result<Layout<'a>, PlanError> {
        let mut layout = Layout {
            graph,
            target,
            calls,
            planned,
            regions: BTreeMap::new(),
            allocations: Vec::new(),
            constants: IndexMap::new(),
            uploads: Vec::new(),
            faults: Region { allocation: 0, offset: 0, bytes: 0 },
            notes: Region { allocation: 0, offset: 0, bytes: 0 },
            constant_bytes: (0, 0),
            steps: Vec::new(),
            params_bytes: 0,
        };
        layout.constant_bytes = layout.constants()?;
        // They lie behind the values, for the whole of a run, so that nothing has to be written there before a run that
        // finds no index out of range.
        let n_checks = calls.values().flatten().flatten().filter(|call| call.check.is_some()).count();
        let (arena_bytes, fault_bytes) = (layout.arena_bytes(), n_checks as u64 * FAULT_BYTES);
        let note_bytes = noted(graph).count() as u64 * kernels::note_bytes(target);
        if arena_bytes > 0 {
            let start = round_up(arena_bytes, FAULT_BYTES.max(target.alignment()));
            let behind = fault_bytes.saturating_add(note_bytes);
            let all = if behind > 0 { start.saturating_add(behind) } else { arena_bytes };
            let arena = layout.allocate(AllocationKind::Arena, all)?;
            layout.faults = Region { allocation: arena, offset: start, bytes: fault_bytes };
            layout.notes = Region { allocation: arena, offset: start + fault_bytes, bytes: note_bytes };
            for (value, at) in noted(graph).zip((layout.notes.offset..).step_by(kernels::note_bytes(target) as usize)) {
                layout.regions.insert(value, Region { allocation: arena, offset: at, bytes: 4 });
            }
            for (live, &offset) in layout.planned.buffers.live.iter().zip(&layout.planned.plan.offsets) {
                layout.regions.insert(live.value, Region { allocation: arena, offset, bytes: live.buffer.bytes });
            }
        }
        (layout.steps, layout.params_bytes) = layout.steps()?;
        if layout.params_bytes > 0 {
            layout.allocate(AllocationKind::Params, layout.params_bytes)?;
        }
        Ok(layout)
    }

    /// Values without elements need a place too, where nothing else makes an arena.
    fn arena_bytes(&self) -> u64 {
        if self.planned.buffers.live.is_empty() { 0 } else { self.planned.plan.bytes.max(self.target.alignment()) }
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
        let n_segments = self.steps.iter().filter(|step| matches!(step, Step::Device(_))).count();
        (n_segments, self.steps.iter().map(barriers).sum())
    }

    fn finish(mut self) -> Result<Blueprint, PlanError> {
        let (graph, target) = (self.graph, self.target);
        let (weights, constants) = self.constant_bytes;
        let params = if self.params_bytes > 0 { allocation_bytes(self.params_bytes, target) } else { 0 };
        let (arena_bytes, behind_bytes) = (self.arena_bytes(), self.faults.bytes + self.notes.bytes);
        let (inputs, outputs) = self.ports()?;
        let counted = self.device_bytes();
        if !target.memory.unified {
            // The ring lies in the host's memory: it is part of the plan, but not of the device's bytes.
            self.allocate(AllocationKind::Staging, staging_bytes(&inputs, &outputs))?;
        }
        let weights_total: u64 =
            self.allocations.iter().filter(|a| a.kind == AllocationKind::Weights).map(|a| a.bytes).sum();
        let arena_total: u64 =
            self.allocations.iter().filter(|a| a.kind == AllocationKind::Arena).map(|a| a.bytes).sum();
        debug_assert!(weights + constants <= weights_total);
        let mut ledger =
            Ledger { weights: weights_total - constants, constants: constants + params, ..Ledger::default() };
        let Planned { buffers, lives, plan, .. } = &self.planned;
        let at_peak = |l: &Buffer| (l.first..=l.last).contains(&plan.max_live_step);
        for (live, _) in buffers.live.iter().zip(lives).filter(|(_, l)| at_peak(l)) {
            let bytes = round_up(live.buffer.bytes, target.alignment());
            match live.kind {
                Kind::Io => ledger.io += bytes,
                Kind::Activation => ledger.activations += bytes,
                Kind::Workspace => ledger.workspace += bytes,
            }
        }
        ledger.workspace += behind_bytes;
        // What the arena has above its bound, and what rounding adds, counts as activations.
        ledger.activations += arena_total.saturating_sub(ledger.io + ledger.activations + ledger.workspace);
        let least_arena = allocation_bytes(plan.max_live.max(1).saturating_add(behind_bytes), target);
        let lower_bound_bytes = counted - arena_total + if arena_bytes > 0 { least_arena.min(arena_total) } else { 0 };
        Ok(Blueprint {
            allocations: self.allocations,
            uploads: self.uploads,
            constants: self.constants,
            sizes: graph
                .ranges()
                .into_iter()
                .map(|(name, range)| SizeRange { name, min: *range.start(), max: *range.end() })
                .collect(),
            inputs,
            outputs,
            steps: self.steps,
            ledger,
            peak_bytes: counted,
            arena_bytes,
            max_live_bytes: plan.max_live,
            lower_bound_bytes,
        })
    }

    fn allocate(&mut self, kind: AllocationKind, bytes: u64) -> Result<u32, PlanError> {
        let bytes = allocation_bytes(bytes, self.target);
        if bytes > self.target.limits.max_memory_allocation_size {
            return Err(PlanError::Allocation { bytes, limit: self.target.limits.max_memory_allocation_size });
        }
        self.allocations.push(Allocation { kind, bytes });
        u32::try_from(self.allocations.len() - 1).map_err(|_| PlanError::Overflow)
    }

    fn root(&self, value: ValueId) -> ValueId {
        self.planned.buffers.root.get(&value).copied().unwrap_or(value)
    }

    /// Gives every constant that a kernel reads its place; the aligned bytes of weights and of other constants.
    fn constants(&mut self) -> Result<(u64, u64), PlanError> {
        let (mut weights, mut others) = (0u64, 0u64);
        let mut placed: BTreeMap<Hash, Region> = BTreeMap::new();
        let mut at = (u32::MAX, 0u64);
        let limit = self.target.limits.max_memory_allocation_size / 4096 * 4096;
        let mut pending: Vec<(ValueId, bool)> = Vec::new();
        for &id in &self.planned.buffers.order {
            let Some(op) = self.graph.node(id).op() else { continue };
            let operands = self.graph.operands(id);
            for (slot, value) in operands.iter().enumerate() {
                let Some(value) = value.map(|v| self.root(v)) else { continue };
                let is_weights = weights::is_slot(op, slot, operands.len());
                if self.graph.constant(value).is_some() && !is_view(self.graph, id) {
                    pending.push((value, is_weights));
                }
            }
        }
        pending.extend(
            self.graph
                .outputs()
                .iter()
                .map(|o| (self.root(o.value), false))
                .filter(|(v, _)| self.graph.constant(*v).is_some()),
        );
        let mut sizes: Vec<u64> = Vec::new();
        for (value, is_weights) in pending {
            if self.regions.contains_key(&value) {
                continue;
            }
            let NodeKind::Const(tensor) = &self.graph.node(value.node).kind else { continue };
            let name = || self.graph.value(value).name.clone();
            let tensor = on_device(tensor).map_err(|source| PlanError::Constant { value: name(), source })?;
            let hash = tensor.hash();
            if let Some(region) = placed.get(&hash) {
                self.regions.insert(value, *region);
                continue;
            }
            let bytes = tensor.ty().bytes().ok_or(PlanError::Overflow)?;
            let padded = round_up(bytes.max(4), self.target.alignment());
            if padded > limit {
                return Err(PlanError::Allocation { bytes: padded, limit });
            }
            if at.0 == u32::MAX || at.1 + padded > limit {
                at = (at.0.wrapping_add(1), 0);
                sizes.push(0);
            }
            let region = Region { allocation: at.0, offset: at.1, bytes: bytes.max(4) };
            at.1 += padded;
            if let Some(last) = sizes.last_mut() {
                *last = at.1;
            }
            *(if is_weights { &mut weights } else { &mut others }) += padded;
            placed.insert(hash, region);
            self.regions.insert(value, region);
            if bytes > 0 {
                self.uploads.push(Upload {
                    constant: blake3::Hash::from_bytes(hash.0).to_hex().to_string(),
                    region: Region { bytes, ..region },
                });
                self.constants.insert(hash, tensor);
            }
        }
        for bytes in sizes {
            self.allocate(AllocationKind::Weights, bytes)?;
        }
        Ok((weights, others))
    }

    fn region(&self, value: ValueId) -> Result<Region, PlanError> {
        let missing = || PlanError::Unplaced { value: self.graph.value(value).name.clone() };
        self.regions.get(&self.root(value)).copied().ok_or_else(missing)
    }

    fn port(&self, name: &str, value: ValueId) -> Result<Port, PlanError> {
        let ty = self.graph.ty(value);
        let device_dtype =
            ty.dtype.on_device().ok_or_else(|| PlanError::Type { value: name.to_owned(), ty: ty.to_string() })?;
        let mut region = self.region(value)?;
        // A constant without elements has a place, but no bytes.
        region.bytes = region.bytes.min(kernels::most_device_bytes(ty).unwrap_or(region.bytes));
        Ok(Port { name: name.to_owned(), dtype: ty.dtype, device_dtype, shape: ty.shape.0.clone(), region })
    }

    fn ports(&self) -> Result<(Vec<Port>, Vec<Port>), PlanError> {
        let inputs = self
            .graph
            .inputs()
            .iter()
            .map(|id| self.port(&self.graph.value(id.out(0)).name, id.out(0)))
            .collect::<Result<_, _>>()?;
        let outputs = self.graph.outputs().iter().map(|o| self.port(&o.name, o.value)).collect::<Result<_, _>>()?;
        Ok((inputs, outputs))
    }
}

/// A constant in the element type it has on a device.
fn on_device(tensor: &Tensor) -> Result<Tensor, crate::ir::TensorError> {
    if tensor.ty().packing.is_some() {
        return Ok(tensor.clone());
    }
    match tensor.dtype().on_device() {
        Some(dtype) if dtype == tensor.dtype() => Ok(tensor.clone()),
        Some(DType::I32) => Tensor::from_i64s(DType::I32, &tensor.dims(), &tensor.to_i64s()?),
        Some(dtype) => Tensor::from_f32s(dtype, &tensor.dims(), &tensor.to_f32s()?),
        None => Err(crate::ir::TensorError::Class { dtype: tensor.dtype(), wanted: "a device type" }),
    }
}
