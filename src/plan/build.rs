//! Lays a kernel-level graph out on a device: constants, arena, dispatches, barriers, ledger. What is left to do is to compile the shaders.

use super::arena::{self, ArenaLimits};
use super::kernels::{self, KernelCall, KernelError};
use super::memory::{Buffers, Kind, is_view};
use super::{PlanError, allocation_bytes, round_up};
use crate::ir::{DType, Dim, Graph, Hash, NodeId, NodeKind, Tensor, ValueId};
use crate::ops::kernel_key::KernelKey;
use crate::ops::{check_indices, weights};
use crate::program::{
    Allocation, AllocationKind, FAULT_BYTES, HostStep, IndexCheck, Ledger, Port, Region, SizeRange, Upload,
    params_bytes as params_bytes_of,
};
use crate::target::Target;
use indexmap::IndexMap;
use std::collections::BTreeMap;

/// Search nodes that the arena's exact phase may take.
pub const ARENA_NODES: u64 = 20_000;
/// Parameters of a dispatch take a multiple of this, so that their bytes do not depend on which variant of a kernel is chosen.
pub(super) const PARAMS_SLOT_BYTES: u64 = 256;
/// The staging ring where the host cannot reach device memory.
const STAGING_BYTES: u64 = 4 << 20;

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

/// Bytes of parameters of a graph's dispatches, and of what they note of indices out of range: what a plan needs besides constants and values.
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
    Ok(bytes)
}

/// Bytes in which the dispatches of a graph note indices out of range. They lie behind the values, for the whole of a run, so that nothing has to be
/// written there before a run that finds none.
fn fault_bytes(graph: &Graph, target: &Target) -> Result<u64, PlanError> {
    let mut bytes = 0u64;
    for id in graph.order().into_iter().filter(|id| graph.node(*id).op().is_some_and(|op| op.is(&check_indices::DEF))) {
        let n = calls(graph, id, target)?.map_or(0, |calls| calls.iter().filter(|call| call.check.is_some()).count());
        bytes = bytes.saturating_add(n as u64 * FAULT_BYTES);
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

/// Lays out `graph`.
///
/// # Errors
/// A size is not known, a tensor fits no buffer of the target, or sizes overflow.
pub fn build(graph: &Graph, target: &Target) -> Result<Blueprint, PlanError> {
    let buffers = Buffers::best(graph, target)?;
    let plan = arena::plan(&buffers.arena(), &ArenaLimits { alignment: target.alignment(), max_nodes: ARENA_NODES })?;
    let mut layout = Layout {
        graph,
        target,
        buffers: &buffers,
        regions: BTreeMap::new(),
        allocations: Vec::new(),
        constants: IndexMap::new(),
        uploads: Vec::new(),
        faults: Region { allocation: 0, offset: 0, bytes: 0 },
    };
    let (weights, constants) = layout.constants()?;
    // Values without elements need a place too, where nothing else makes an arena.
    let arena_bytes = if buffers.live.is_empty() { 0 } else { plan.bytes.max(target.alignment()) };
    let fault_bytes = fault_bytes(graph, target)?;
    if arena_bytes > 0 {
        let start = round_up(arena_bytes, FAULT_BYTES.max(target.alignment()));
        let all = if fault_bytes > 0 { start.saturating_add(fault_bytes) } else { arena_bytes };
        let arena = layout.allocate(AllocationKind::Arena, all)?;
        layout.faults = Region { allocation: arena, offset: start, bytes: fault_bytes };
        for (live, &offset) in buffers.live.iter().zip(&plan.offsets) {
            layout.regions.insert(live.value, Region { allocation: arena, offset, bytes: live.buffer.bytes });
        }
    }
    let (steps, n_params_bytes) = layout.steps()?;
    let mut params = 0;
    if n_params_bytes > 0 {
        layout.allocate(AllocationKind::Params, n_params_bytes)?;
        params = allocation_bytes(n_params_bytes, target);
    }
    let (inputs, outputs) = layout.ports()?;
    let counted: u64 = layout.allocations.iter().map(|a| a.bytes).fold(0, u64::saturating_add);
    if !target.memory.unified {
        // The ring lies in the host's memory: it is part of the plan, but not of the device's bytes.
        layout.allocate(AllocationKind::Staging, STAGING_BYTES)?;
    }
    let weights_total: u64 =
        layout.allocations.iter().filter(|a| a.kind == AllocationKind::Weights).map(|a| a.bytes).sum();
    let arena_total: u64 = layout.allocations.iter().filter(|a| a.kind == AllocationKind::Arena).map(|a| a.bytes).sum();
    debug_assert!(weights + constants <= weights_total);
    let mut ledger = Ledger { weights: weights_total - constants, constants: constants + params, ..Ledger::default() };
    for live in buffers.live.iter().filter(|l| (l.buffer.first..=l.buffer.last).contains(&plan.max_live_step)) {
        let bytes = round_up(live.buffer.bytes, target.alignment());
        match live.kind {
            Kind::Io => ledger.io += bytes,
            Kind::Activation => ledger.activations += bytes,
            Kind::Workspace => ledger.workspace += bytes,
        }
    }
    ledger.workspace += fault_bytes;
    // What the arena has above its bound, and what rounding adds, counts as activations.
    ledger.activations += arena_total.saturating_sub(ledger.io + ledger.activations + ledger.workspace);
    let least_arena = allocation_bytes(plan.max_live.max(1).saturating_add(fault_bytes), target);
    let lower_bound_bytes = counted - arena_total + if arena_bytes > 0 { least_arena.min(arena_total) } else { 0 };
    Ok(Blueprint {
        allocations: layout.allocations,
        uploads: layout.uploads,
        constants: layout.constants,
        sizes: graph
            .ranges()
            .into_iter()
            .map(|(name, range)| SizeRange { name, min: *range.start(), max: *range.end() })
            .collect(),
        inputs,
        outputs,
        steps,
        ledger,
        peak_bytes: counted,
        arena_bytes,
        max_live_bytes: plan.max_live,
        lower_bound_bytes,
    })
}

struct Layout<'a> {
    graph: &'a Graph,
    target: &'a Target,
    buffers: &'a Buffers,
    /// Where each value that is its own root lies.
    regions: BTreeMap<ValueId, Region>,
    allocations: Vec<Allocation>,
    constants: IndexMap<Hash, Tensor>,
    uploads: Vec<Upload>,
    /// Where dispatches note indices out of range, one after the other.
    faults: Region,
}

impl Layout<'_> {
    fn allocate(&mut self, kind: AllocationKind, bytes: u64) -> Result<u32, PlanError> {
        let bytes = allocation_bytes(bytes, self.target);
        if bytes > self.target.limits.max_memory_allocation_size {
            return Err(PlanError::Allocation { bytes, limit: self.target.limits.max_memory_allocation_size });
        }
        self.allocations.push(Allocation { kind, bytes });
        u32::try_from(self.allocations.len() - 1).map_err(|_| PlanError::Overflow)
    }

    fn root(&self, value: ValueId) -> ValueId {
        self.buffers.root.get(&value).copied().unwrap_or(value)
    }

    /// Gives every constant that a kernel reads its place; the aligned bytes of weights and of other constants.
    fn constants(&mut self) -> Result<(u64, u64), PlanError> {
        let (mut weights, mut others) = (0u64, 0u64);
        let mut placed: BTreeMap<Hash, Region> = BTreeMap::new();
        let mut at = (u32::MAX, 0u64);
        let limit = self.target.limits.max_memory_allocation_size / 4096 * 4096;
        let mut pending: Vec<(ValueId, bool)> = Vec::new();
        for &id in &self.buffers.order {
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

    /// All steps, and the bytes of their parameters.
    fn steps(&self) -> Result<(Vec<Step>, u64), PlanError> {
        let mut steps: Vec<Step> = Vec::new();
        let mut params_offset = 0u64;
        let mut fault_offset = self.faults.offset;
        let mut hazards = Hazards::default();
        // Parameters come after weights and arena.
        for &id in &self.buffers.order {
            let node = self.graph.node(id);
            let Some(calls) = calls(self.graph, id, self.target)? else {
                let operands = self.graph.operands(id);
                let port = |v: ValueId| self.port(&self.graph.value(v).name, v);
                let operand =
                    |v: Option<ValueId>| v.filter(|v| self.graph.constant(*v).is_none()).map(port).transpose();
                let inputs = operands.into_iter().map(operand).collect::<Result<_, _>>()?;
                let outputs = (0..node.outputs.len()).map(|out| port(id.out(out))).collect::<Result<_, _>>()?;
                let op = node.op().map_or("", |op| op.def.name);
                steps.push(Step::Host(
                    HostStep { node: node.name.clone(), inputs, outputs },
                    if kernels::has_doubles(self.graph, id) {
                        "f64 is computed on the CPU reference".to_owned()
                    } else {
                        format!("no kernel covers {op} of these operands")
                    },
                ));
                hazards = Hazards::default();
                continue;
            };
            for call in calls {
                let mut bindings = Vec::with_capacity(call.operands.len());
                let mut writes = Vec::new();
                for (i, operand) in call.operands.iter().enumerate() {
                    let region = self.region(operand.value)?;
                    bindings.push(Region {
                        offset: region.offset + operand.offset_bytes,
                        bytes: operand.bytes,
                        ..region
                    });
                    if operand.write {
                        writes.push(u32::try_from(i).map_err(|_| PlanError::Overflow)?);
                    }
                }
                let mut check = None;
                if let Some(rule) = &call.check {
                    let binding = u32::try_from(bindings.len()).map_err(|_| PlanError::Overflow)?;
                    bindings.push(Region { offset: fault_offset, bytes: FAULT_BYTES, ..self.faults });
                    writes.push(binding);
                    fault_offset += FAULT_BYTES;
                    let node = node.origins().first().unwrap_or(&node.name).clone();
                    let (sizes, negative) = (rule.sizes.clone(), rule.negative);
                    check = Some(IndexCheck { binding, node, sizes, negative });
                }
                let barrier = hazards.conflict(&bindings, &writes);
                let n_bytes = slot_bytes(&call);
                let dispatch = Dispatch {
                    node: node.name.clone(),
                    loop_iterations: call.loop_iterations(),
                    key: call.key,
                    bindings,
                    writes,
                    params: call.params,
                    params_offset,
                    groups: call.groups,
                    barrier,
                    check,
                };
                params_offset += n_bytes;
                match steps.last_mut() {
                    Some(Step::Device(list)) => list.push(dispatch),
                    _ => steps.push(Step::Device(vec![dispatch])),
                }
            }
        }
        Ok((steps, params_offset))
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

/// What was read and written since the last barrier.
#[derive(Default)]
struct Hazards {
    reads: Vec<Region>,
    writes: Vec<Region>,
}

impl Hazards {
    /// Whether a dispatch must wait for earlier ones: it reads what they wrote, or writes what they read or wrote. Notes the dispatch.
    fn conflict(&mut self, bindings: &[Region], writes: &[u32]) -> bool {
        let overlap = |a: &Region, b: &Region| {
            a.allocation == b.allocation && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
        };
        let is_write = |i: usize| writes.iter().any(|&w| w as usize == i);
        let conflict = bindings.iter().enumerate().any(|(i, region)| {
            self.writes.iter().any(|w| overlap(w, region))
                || (is_write(i) && self.reads.iter().any(|r| overlap(r, region)))
        });
        if conflict {
            *self = Hazards::default();
        }
        for (i, region) in bindings.iter().enumerate() {
            if is_write(i) {
                self.writes.push(*region);
            } else {
                self.reads.push(*region);
            }
        }
        conflict
    }
}
