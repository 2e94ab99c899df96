//! Entries of a module while they are laid out, and places side by side.

use super::super::arena::{ArenaPlan, Buffer};
use super::super::memory::{Buffers, is_view};
use super::super::{PlanError, round_up};
use super::{Step, calls};
use crate::ir::{Graph, Late, NodeId, TensorType, ValueId};
use crate::kernels::{self, KernelCall};
use crate::ops::weights;
use crate::program::{Port, Region};
use crate::targets::Target;
use std::collections::BTreeMap;

/// An order with its buffers and their offsets.
pub(super) struct Planned {
    pub(super) buffers: Buffers,
    /// Size and lifetime of each buffer.
    pub(super) lives: Vec<Buffer>,
    pub(super) plan: ArenaPlan,
    /// For each node its group, ascending: nodes of one are ordered by nothing but what they touch.
    pub(super) groups: Vec<usize>,
}

impl Planned {
    /// Values without elements need a place too, where nothing else makes an arena.
    pub(super) fn arena_bytes(&self, target: &Target) -> u64 {
        if self.buffers.live.is_empty() { 0 } else { self.plan.bytes.max(target.alignment()) }
    }
}

/// The dispatches of each node; `None` where it runs on the host.
pub(super) type Calls = BTreeMap<NodeId, Option<Vec<KernelCall>>>;

/// An entry before it has a layout.
pub(super) struct Source<'a> {
    pub(super) name: &'a str,
    pub(super) graph: &'a Graph,
    pub(super) calls: Calls,
    pub(super) buffers: Buffers,
}

impl<'a> Source<'a> {
    pub(super) fn of(name: &'a str, graph: &'a Graph, target: &Target) -> Result<Source<'a>, PlanError> {
        if let Some(late) = graph.ordering().late().first() {
            let name = match *late {
                Late::Operand(reader, _) => &graph.node(reader).name,
                Late::Output(output) => &graph.outputs()[output].name,
            };
            return Err(PlanError::Late { name: name.clone() });
        }
        let buffers = Buffers::best(graph, target)?;
        let calls = buffers
            .order
            .iter()
            .map(|&id| Ok((id, calls(graph, id, target)?)))
            .collect::<Result<Calls, PlanError>>()?;
        Ok(Source { name, graph, calls, buffers })
    }
}

/// An entry with its places.
pub(super) struct Part<'a> {
    pub(super) source: &'a Source<'a>,
    pub(super) planned: Planned,
    /// Where each value that is its own root is.
    pub(super) regions: BTreeMap<ValueId, Region>,
    /// Where its dispatches note indices out of range, one after the other.
    pub(super) faults: Region,
    /// Where they note magnitudes.
    pub(super) notes: Region,
    pub(super) steps: Vec<Step>,
}

impl Part<'_> {
    pub(super) fn root(&self, value: ValueId) -> ValueId {
        self.planned.buffers.root.get(&value).copied().unwrap_or(value)
    }

    pub(super) fn region(&self, value: ValueId) -> Result<Region, PlanError> {
        let missing = || PlanError::Unplaced { value: self.source.graph.value(value).name.clone() };
        self.regions.get(&self.root(value)).copied().ok_or_else(missing)
    }

    pub(super) fn port(&self, name: &str, value: ValueId) -> Result<Port, PlanError> {
        port(name, self.source.graph.ty(value), self.region(value)?)
    }

    pub(super) fn ports(&self) -> Result<(Vec<Port>, Vec<Port>), PlanError> {
        let graph = self.source.graph;
        let inputs = graph
            .inputs()
            .iter()
            .map(|id| self.port(&graph.value(id.out(0)).name, id.out(0)))
            .collect::<Result<_, _>>()?;
        let outputs = graph.outputs().iter().map(|o| self.port(&o.name, o.value)).collect::<Result<_, _>>()?;
        Ok((inputs, outputs))
    }

    /// The constants that kernels read or that are outputs, and whether each is weights.
    pub(super) fn constants(&self) -> Vec<(ValueId, bool)> {
        let graph = self.source.graph;
        let mut found = Vec::new();
        for &id in &self.planned.buffers.order {
            let Some(op) = graph.node(id).op() else { continue };
            let operands = graph.operands(id);
            for (slot, value) in operands.iter().enumerate() {
                let Some(value) = value.map(|v| self.root(v)) else { continue };
                let is_weights = weights::is_slot(op, slot, operands.len());
                if graph.constant(value).is_some() && !is_view(graph, id) {
                    found.push((value, is_weights));
                }
            }
        }
        let outputs = graph.outputs().iter().map(|o| (self.root(o.value), false));
        found.extend(outputs.filter(|(v, _)| graph.constant(*v).is_some()));
        found
    }
}

/// A value at this place.
pub(super) fn port(name: &str, ty: &TensorType, mut region: Region) -> Result<Port, PlanError> {
    let device_dtype =
        ty.dtype.on_device().ok_or_else(|| PlanError::Type { value: name.to_owned(), ty: ty.to_string() })?;
    // A constant without elements has a place, but no bytes.
    region.bytes = region.bytes.min(kernels::most_device_bytes(ty).unwrap_or(region.bytes));
    Ok(Port { name: name.to_owned(), dtype: ty.dtype, device_dtype, shape: ty.shape.0.clone(), region })
}

/// Places side by side, in as many allocations as the target's limit asks for.
pub(super) struct Row {
    pub(super) alignment: u64,
    pub(super) limit: u64,
    /// The first allocation.
    pub(super) first: u32,
    /// Bytes of each.
    pub(super) sizes: Vec<u64>,
}

impl Row {
    pub(super) fn new(target: &Target, first: usize) -> Result<Row, PlanError> {
        let limit = target.limits.max_memory_allocation_size / 4096 * 4096;
        let first = u32::try_from(first).map_err(|_| PlanError::Overflow)?;
        Ok(Row { alignment: target.alignment(), limit, first, sizes: Vec::new() })
    }

    /// The next place, and its bytes with what follows up to the one behind it.
    pub(super) fn place(&mut self, bytes: u64) -> Result<(Region, u64), PlanError> {
        let padded = round_up(bytes.max(4), self.alignment);
        // What is larger than the limit is alone, and the layout says that it is too large.
        if self.sizes.last().is_none_or(|filled| filled.saturating_add(padded) > self.limit) {
            self.sizes.push(0);
        }
        let number = u32::try_from(self.sizes.len() - 1).map_err(|_| PlanError::Overflow)?;
        let filled = self.sizes.last_mut().ok_or(PlanError::Overflow)?;
        let region = Region { allocation: self.first + number, offset: *filled, bytes: bytes.max(4) };
        *filled = filled.checked_add(padded).ok_or(PlanError::Overflow)?;
        Ok((region, padded))
    }
}
