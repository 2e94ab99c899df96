//! The memory of a loaded plan, and the ways into it and out of it: through a map where the host reaches it, through a
//! bounded ring where not.

use super::RuntimeError;
use super::convert::Source;
use super::ring::{Pieces, Ring, nowhere};
use super::vk::{Buffer, Commands, Fence, Meter, Place, Tally, VkContext, heap};
use crate::program::{AllocationKind, Plan, Program, Region, Step};
use std::sync::Arc;

/// All allocations of a plan.
pub(super) struct Memory {
    // First, so that what it submitted has ended before the buffers go.
    ring: Option<Ring>,
    /// The end of what was submitted last.
    fence: Arc<Fence>,
    /// By index in the plan; the staging allocation is the ring's.
    buffers: Vec<Option<Buffer>>,
    meter: Arc<Meter>,
}

impl Memory {
    /// Makes every allocation of a checked plan, and fills those of kind `State` with zeros: what is between states
    /// is read by nobody, but known.
    pub(super) fn new(
        context: &VkContext,
        tally: &Arc<Tally>,
        program: &Program,
        plan: &Plan,
    ) -> Result<Memory, RuntimeError> {
        let staging = plan.allocations.iter().position(|a| a.kind == AllocationKind::Staging);
        // A plan for separate memory does not count its ring; on a device with unified memory the ring would count, and
        // is not needed.
        let staging = staging.filter(|_| program.target.memory.unified || !context.info().target.memory.unified);
        let place = if staging.is_some() { Place::Device } else { Place::Shared };
        afford(context, plan, place)?;
        let meter = Arc::new(Meter::default());
        let used = used_bytes(plan);
        // Only programs whose sizes change have the number of workgroups in memory.
        let is_indirect = plan.entries.iter().any(|entry| !entry.sizes.is_empty());
        let fence = Fence::new(context, tally)?;
        let mut memory = Memory { ring: None, fence, buffers: Vec::new(), meter: meter.clone() };
        for (i, allocation) in plan.allocations.iter().enumerate() {
            let name = format!("allocation {i} ({:?})", allocation.kind);
            let sizes = (allocation.bytes, used.get(i).copied().unwrap_or(0));
            let made = match allocation.kind {
                AllocationKind::Staging => None,
                kind => Some(Buffer::new(
                    context,
                    &meter,
                    sizes,
                    place,
                    kind == AllocationKind::Params && is_indirect,
                    &name,
                )?),
            };
            memory.buffers.push(made);
        }
        if let Some(bytes) = staging.and_then(|i| plan.allocations.get(i)).map(|a| a.bytes) {
            let staging = Buffer::new(context, &meter, (bytes, bytes), Place::Staging, false, "staging ring")?;
            memory.ring = Some(Ring::new(context, tally, staging)?);
        }
        for (i, allocation) in plan.allocations.iter().enumerate().filter(|(_, a)| a.kind == AllocationKind::State) {
            let bytes = used.get(i).copied().unwrap_or(0).min(allocation.bytes);
            memory.write(&[(Region { allocation: i as u32, offset: 0, bytes }, Source::Zeros(bytes))])?;
        }
        Ok(memory)
    }

    pub(super) fn buffers(&self) -> &[Option<Buffer>] {
        &self.buffers
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.meter.peak_bytes()
    }

    /// Memory outside of the plan, as far as that fits in `budget` bytes with all that is held.
    pub(super) fn outside(&self, context: &VkContext, bytes: u64, budget: u64) -> Result<Buffer, RuntimeError> {
        let granularity = context.info().target.memory.allocation_granularity.max(256);
        let planned = bytes.max(4).checked_next_multiple_of(granularity).unwrap_or(u64::MAX);
        let left_bytes = budget.saturating_sub(self.meter.held_bytes());
        if planned > left_bytes {
            return Err(RuntimeError::Budget { asked_bytes: planned, left_bytes });
        }
        let place = if self.is_mapped() { Place::Shared } else { Place::Device };
        Buffer::new(context, &self.meter, (planned, bytes.max(4)), place, false, "tensor of the caller")
    }

    /// Copies regions from buffers outside of the plan, or to them, and waits for it. What was written is submitted
    /// before.
    pub(super) fn copy(
        &mut self,
        context: &VkContext,
        commands: &mut Commands,
        copies: &[(Region, &Buffer)],
        inward: bool,
    ) -> Result<(), RuntimeError> {
        let copies: Vec<_> = copies.iter().filter(|(region, _)| region.bytes > 0).collect();
        if copies.is_empty() {
            return Ok(());
        }
        self.submit(None, &[])?;
        self.wait()?;
        commands.record(|recorder| {
            recorder.acquire();
            for (region, outside) in &copies {
                let Some(Some(buffer)) = self.buffers.get(region.allocation as usize) else {
                    return Err(nowhere(region));
                };
                let ends = [(*outside, 0), (buffer, region.offset)];
                let [from, to] = if inward { ends } else { [ends[1], ends[0]] };
                recorder.copy(from, to, region.bytes)?;
            }
            recorder.release();
            Ok(())
        })?;
        let done = self.fence.submit(&mut [commands]).and_then(|()| self.fence.wait());
        if done.is_err() {
            // The caller may drop the buffers.
            context.idle();
        }
        done
    }

    /// Whether the host reaches device memory, and so reads it wherever it likes once a submission is done.
    pub(super) fn is_mapped(&self) -> bool {
        self.ring.is_none()
    }

    /// Begins a run: waits for one whose wait failed and that may still be under way, and gives up what it had written
    /// and not submitted.
    pub(super) fn begin(&mut self) -> Result<(), RuntimeError> {
        self.fence.wait()?;
        if let Some(ring) = &mut self.ring {
            ring.settle()?;
            ring.begin();
        }
        Ok(())
    }

    /// Writes to regions, all of their bytes. What [`Memory::submit`] submits sees it.
    pub(super) fn write(&mut self, uploads: &[(Region, Source<'_>)]) -> Result<(), RuntimeError> {
        if let Some(ring) = &mut self.ring {
            return ring.write(&self.buffers, uploads);
        }
        for (region, source) in uploads {
            let Some(Some(buffer)) = self.buffers.get_mut(region.allocation as usize) else {
                return Err(nowhere(region));
            };
            source.write(0, buffer.bytes_mut(region.offset, region.bytes)?);
        }
        Ok(())
    }

    /// Submits what was written, then `commands`, then what copies `reads` to the host, as far as there are any of
    /// them.
    pub(super) fn submit(&mut self, commands: Option<&mut Commands>, reads: &[Region]) -> Result<(), RuntimeError> {
        match (&mut self.ring, commands) {
            (Some(ring), commands) => ring.submit(&self.buffers, commands, reads, &self.fence),
            (None, Some(commands)) => self.fence.submit(&mut [commands]),
            (None, None) => Ok(()),
        }
    }

    /// Waits for what was submitted.
    pub(super) fn wait(&self) -> Result<(), RuntimeError> {
        self.fence.wait()
    }

    /// Waits for all that was written.
    pub(super) fn settle(&mut self) -> Result<(), RuntimeError> {
        self.submit(None, &[])?;
        self.begin()
    }

    /// Hands out the bytes of `reads`, which the last submission was given and which was waited for: pieces in the
    /// order of regions and bytes, no two of one region in one call.
    pub(super) fn collect(&mut self, reads: &[Region], take: &mut dyn FnMut(Pieces<'_>)) -> Result<(), RuntimeError> {
        if let Some(ring) = &mut self.ring {
            return ring.collect(&self.buffers, reads, take);
        }
        let mut pieces = Vec::with_capacity(reads.len());
        for (i, region) in reads.iter().enumerate() {
            let Some(Some(buffer)) = self.buffers.get(region.allocation as usize) else { return Err(nowhere(region)) };
            pieces.push((i, buffer.bytes_at(region.offset, region.bytes)?));
        }
        take(pieces);
        Ok(())
    }

    /// Submits what was written, and reads regions behind it, in order.
    pub(super) fn read(&mut self, regions: &[Region]) -> Result<Vec<Vec<u8>>, RuntimeError> {
        let mut all: Vec<Vec<u8>> = regions.iter().map(|region| Vec::with_capacity(region.bytes as usize)).collect();
        self.submit(None, regions)?;
        self.wait()?;
        self.collect(regions, &mut |pieces| {
            pieces.into_iter().for_each(|(i, bytes)| all[i].extend_from_slice(bytes));
        })?;
        Ok(all)
    }
}

/// Refuses a plan that the device has no room for, before anything is allocated: some drivers would page instead.
fn afford(context: &VkContext, plan: &Plan, place: Place) -> Result<(), RuntimeError> {
    let asked = plan
        .allocations
        .iter()
        .filter(|a| a.kind != AllocationKind::Staging)
        .fold(0u64, |n, a| n.saturating_add(a.bytes));
    match heap(context, place).map(|heap| context.free_bytes(heap)) {
        Some(free) if asked > free => Err(RuntimeError::OutOfMemory { asked_bytes: asked, free_bytes: free }),
        _ => Ok(()),
    }
}

/// Where the last region of each allocation ends, in bytes.
fn used_bytes(plan: &Plan) -> Vec<u64> {
    let mut ends = vec![0u64; plan.allocations.len()];
    let mut use_up = |region: &Region| {
        if let Some(end) = ends.get_mut(region.allocation as usize) {
            *end = (*end).max(region.offset.saturating_add(region.bytes));
        }
    };
    plan.uploads.iter().for_each(|upload| use_up(&upload.region));
    plan.states.iter().for_each(|state| use_up(&state.port.region));
    let params = plan.allocations.iter().position(|a| a.kind == AllocationKind::Params).map_or(u32::MAX, |i| i as u32);
    for entry in &plan.entries {
        entry.inputs.iter().chain(&entry.outputs).for_each(|port| use_up(&port.region));
        for step in &entry.steps {
            match step {
                Step::Host(host) => {
                    host.inputs.iter().flatten().chain(&host.outputs).for_each(|port| use_up(&port.region))
                }
                Step::Device(dispatches) => {
                    for dispatch in dispatches {
                        dispatch.bindings.iter().for_each(&mut use_up);
                        let bytes = dispatch.params_bytes();
                        use_up(&Region { allocation: params, offset: dispatch.params_offset, bytes });
                    }
                }
            }
        }
    }
    ends
}
