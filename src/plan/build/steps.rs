//! Nodes as steps: dispatches in the order of groups, each with a barrier before it where it touches what others
//! touched since the last one.

use super::part::{Part, Planned};
use super::{Dispatch, PlanError, Step, slot_bytes};
use crate::ir::{NodeId, ValueId};
use crate::kernels::{self, KernelCall, Operand};
use crate::program::{FAULT_BYTES, HostStep, IndexCheck, Region, ResultSlice};

impl Part<'_> {
    /// All steps, whose parameters begin at `params`, and where those end.
    pub(super) fn steps(&self, params: u64) -> Result<(Vec<Step>, u64), PlanError> {
        let mut made = Steps { list: Vec::new(), params, faults: self.faults.offset, hazards: Hazards::default() };
        self.clear(&mut made)?;
        let Planned { buffers, groups, .. } = &self.planned;
        let mut at = 0;
        while let Some(group) = groups.get(at) {
            let end = at + groups[at..].iter().take_while(|other| *other == group).count();
            // First what waits for nothing within its node, then what waits for that, and so on.
            let mut ready: Vec<(usize, NodeId, &KernelCall)> = Vec::new();
            for &id in &buffers.order[at..end] {
                match self.source.calls.get(&id) {
                    Some(Some(calls)) => {
                        let mut within = Hazards::default();
                        let mut wave = 0;
                        for call in calls {
                            wave += usize::from(within.conflict(self.accesses(id, call)?));
                            ready.push((wave, id, call));
                        }
                    }
                    Some(None) => self.host_step(id, &mut made)?,
                    None => {}
                }
            }
            ready.sort_by_key(|(wave, ..)| *wave);
            ready.into_iter().try_for_each(|(_, id, call)| self.dispatch(id, call, &mut made))?;
            at = end;
        }
        Ok((made.list, made.params))
    }

    /// What dispatches note magnitudes in begins at 0.
    fn clear(&self, made: &mut Steps) -> Result<(), PlanError> {
        if self.notes.bytes == 0 {
            return Ok(());
        }
        let call = kernels::clear(self.notes.bytes / 4);
        let access = Access { region: self.notes, is_write: true, result_slice: None, alternative: None };
        push("magnitudes", &call, vec![access], None, made)
    }

    /// What a call touches.
    fn accesses(&self, id: NodeId, call: &KernelCall) -> Result<Vec<Access>, PlanError> {
        let access = |operand: &Operand| {
            let region = self.region(operand.value)?;
            let region = Region { offset: region.offset + operand.offset_bytes, bytes: operand.bytes, ..region };
            let alternative = call.alternative.map(|number| (id, number));
            let result_slice = call.result_slice.clone().filter(|_| operand.write);
            Ok(Access { region, is_write: operand.write, result_slice, alternative })
        };
        call.operands.iter().map(access).collect()
    }

    fn host_step(&self, id: NodeId, made: &mut Steps) -> Result<(), PlanError> {
        let graph = self.source.graph;
        let node = graph.node(id);
        let port = |v: ValueId| self.port(&graph.value(v).name, v);
        let operand = |v: Option<ValueId>| v.filter(|v| graph.constant(*v).is_none()).map(port).transpose();
        let inputs = graph.operands(id).into_iter().map(operand).collect::<Result<_, _>>()?;
        let outputs = (0..node.outputs.len()).map(|out| port(id.out(out))).collect::<Result<_, _>>()?;
        let op = node.op().map_or("", |op| op.def.name);
        made.list.push(Step::Host(
            HostStep { node: node.name.clone(), inputs, outputs },
            if kernels::has_doubles(graph, id) {
                "f64 is computed on the CPU reference".to_owned()
            } else {
                format!("no kernel covers {op} of these operands")
            },
        ));
        made.hazards = Hazards::default();
        Ok(())
    }

    fn dispatch(&self, id: NodeId, call: &KernelCall, made: &mut Steps) -> Result<(), PlanError> {
        let node = self.source.graph.node(id);
        let mut accesses = self.accesses(id, call)?;
        let number = |n: usize| u32::try_from(n).map_err(|_| PlanError::Overflow);
        let mut check = None;
        if let Some(rule) = &call.check {
            let region = Region { offset: made.faults, bytes: FAULT_BYTES, ..self.faults };
            made.faults += FAULT_BYTES;
            let node = node.origins().first().unwrap_or(&node.name).clone();
            let (binding, sizes, negative) = (number(accesses.len())?, rule.sizes.clone(), rule.negative);
            accesses.push(Access { region, is_write: true, result_slice: None, alternative: None });
            check = Some(IndexCheck { binding, node, sizes, negative });
        }
        push(&node.name, call, accesses, check, made)
    }
}

fn push(
    node: &str,
    call: &KernelCall,
    accesses: Vec<Access>,
    check: Option<IndexCheck>,
    made: &mut Steps,
) -> Result<(), PlanError> {
    let number = |n: usize| u32::try_from(n).map_err(|_| PlanError::Overflow);
    let bindings = accesses.iter().map(|access| access.region).collect();
    let written = accesses.iter().enumerate().filter(|(_, access)| access.is_write);
    let writes = written.map(|(i, _)| number(i)).collect::<Result<_, _>>()?;
    let dispatch = Dispatch {
        node: node.to_owned(),
        loop_iterations: call.loop_iterations(),
        key: call.key.clone(),
        bindings,
        writes,
        params: call.params.clone(),
        params_offset: made.params,
        groups: call.groups.clone(),
        barrier: made.hazards.conflict(accesses),
        check,
        result_slice: call.result_slice.clone(),
    };
    made.params += slot_bytes(call);
    match made.list.last_mut() {
        Some(Step::Device(list)) => list.push(dispatch),
        _ => made.list.push(Step::Device(vec![dispatch])),
    }
    Ok(())
}

/// Steps under construction.
struct Steps {
    list: Vec<Step>,
    /// Where the next parameters go, and the next note of indices out of range.
    params: u64,
    faults: u64,
    hazards: Hazards,
}

/// Bytes that a dispatch touches.
struct Access {
    region: Region,
    is_write: bool,
    result_slice: Option<ResultSlice>,
    /// Of all with the same in here, one at most runs.
    alternative: Option<(NodeId, usize)>,
}

/// What was read and written since the last barrier.
#[derive(Default)]
struct Hazards(Vec<Access>);

impl Hazards {
    /// Whether a dispatch must wait for earlier ones: it reads what they wrote, or writes what they read or wrote.
    /// Notes the dispatch.
    fn conflict(&mut self, accesses: Vec<Access>) -> bool {
        let overlap = |a: &Region, b: &Region| {
            a.allocation == b.allocation && a.offset < b.offset + b.bytes && b.offset < a.offset + a.bytes
        };
        let apart = |a: &Access, b: &Access| match (&a.result_slice, &b.result_slice) {
            (Some(one), Some(other)) => a.region == b.region && one.is_disjoint(other),
            _ => false,
        };
        let waits = |a: &Access, b: &Access| {
            let both_run = a.alternative.is_none() || a.alternative != b.alternative;
            (a.is_write || b.is_write) && overlap(&a.region, &b.region) && both_run && !apart(a, b)
        };
        let conflict = accesses.iter().any(|access| self.0.iter().any(|other| waits(access, other)));
        if conflict {
            self.0.clear();
        }
        self.0.extend(accesses);
        conflict
    }
}
