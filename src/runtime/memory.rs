//! The memory of a loaded plan, and the ways into it and out of it: through a map where the host reaches it, through a
//! bounded ring where not.

use super::RuntimeError;
use super::vk::{Buffer, Commands, Meter, Place, VkContext, heap};
use crate::program::{AllocationKind, Plan, Program, Region, Step};
use std::sync::Arc;

/// All allocations of a plan.
pub(super) struct Memory {
    // First, so that what it submitted has ended before the buffers go.
    ring: Option<Ring>,
    /// By index in the plan; the staging allocation is the ring's.
    buffers: Vec<Option<Buffer>>,
    meter: Arc<Meter>,
}

impl Memory {
    /// Makes every allocation of a checked plan, and fills those of kind `State` with zeros.
    pub(super) fn new(context: &VkContext, program: &Program, plan: &Plan) -> Result<Memory, RuntimeError> {
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
        let mut memory = Memory { ring: None, buffers: Vec::new(), meter: meter.clone() };
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
            memory.ring = Some(Ring::new(
                context,
                Buffer::new(context, &meter, (bytes, bytes), Place::Staging, false, "staging ring")?,
            )?);
        }
        for (i, allocation) in plan.allocations.iter().enumerate().filter(|(_, a)| a.kind == AllocationKind::State) {
            let bytes = used.get(i).copied().unwrap_or(0).min(allocation.bytes);
            memory.write(&Region { allocation: i as u32, offset: 0, bytes }, &[])?;
        }
        Ok(memory)
    }

    pub(super) fn buffers(&self) -> &[Option<Buffer>] {
        &self.buffers
    }

    pub(super) fn peak_bytes(&self) -> u64 {
        self.meter.peak_bytes()
    }

    /// Writes `bytes` to the region and zeros to the rest of it. What is submitted after [`Memory::flush`] sees it.
    pub(super) fn write(&mut self, region: &Region, bytes: &[u8]) -> Result<(), RuntimeError> {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = Region { bytes: region.bytes.min(bytes.len() as u64), ..*region };
        self.put(&at, &bytes[..at.bytes as usize])?;
        let end = region.offset.saturating_add(region.bytes);
        while at.offset + at.bytes < end {
            at.offset += at.bytes;
            at.bytes = (end - at.offset).min(ZEROS.len() as u64);
            self.put(&at, &ZEROS[..at.bytes as usize])?;
        }
        Ok(())
    }

    fn put(&mut self, region: &Region, bytes: &[u8]) -> Result<(), RuntimeError> {
        match &mut self.ring {
            Some(ring) => ring.write(&self.buffers, region, bytes),
            None => match self.buffers.get_mut(region.allocation as usize) {
                Some(Some(buffer)) => buffer.write(region.offset, bytes),
                _ => Err(nowhere(region)),
            },
        }
    }

    /// Submits what was written and not yet submitted.
    pub(super) fn flush(&mut self) -> Result<(), RuntimeError> {
        self.ring.as_mut().map_or(Ok(()), |ring| ring.flush(&self.buffers))
    }

    /// Waits for all that was written.
    pub(super) fn settle(&mut self) -> Result<(), RuntimeError> {
        self.flush()?;
        self.ring.as_mut().map_or(Ok(()), |ring| ring.halves.iter_mut().try_for_each(Commands::wait))
    }

    /// Reads regions, in order. Everything that writes them was submitted before and waited for.
    pub(super) fn read(&mut self, regions: &[Region]) -> Result<Vec<Vec<u8>>, RuntimeError> {
        let mut all = Vec::new();
        for region in regions {
            all.push(vec![0; region.bytes as usize]);
        }
        if let Some(ring) = &mut self.ring {
            ring.read(&self.buffers, regions, &mut all)?;
            return Ok(all);
        }
        for (region, bytes) in regions.iter().zip(&mut all) {
            match self.buffers.get(region.allocation as usize) {
                Some(Some(buffer)) => buffer.read(region.offset, bytes)?,
                _ => return Err(nowhere(region)),
            }
        }
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

fn nowhere(region: &Region) -> RuntimeError {
    RuntimeError::Unsupported { what: format!("host access to allocation {}", region.allocation) }
}

/// Host memory in two halves: while the device copies one, the host fills or empties the other.
struct Ring {
    halves: [Commands; 2],
    staging: Buffer,
    half_bytes: u64,
    /// Which half is being filled, and how far.
    current: usize,
    filled: u64,
    /// Copies out of the current half: (offset in the staging buffer, where to).
    copies: Vec<(u64, Region)>,
}

/// A part of a region on its way to the host: (which region, offset in it, offset in the staging buffer, bytes).
type Part = (usize, u64, u64, u64);

impl Ring {
    fn new(context: &VkContext, staging: Buffer) -> Result<Ring, RuntimeError> {
        let half_bytes = staging.bytes() / 2 / 4 * 4;
        if half_bytes == 0 {
            return Err(RuntimeError::Unsupported {
                what: format!("a staging ring of {} bytes, 8 is the least", staging.bytes()),
            });
        }
        let halves = [Commands::new(context)?, Commands::new(context)?];
        Ok(Ring { halves, staging, half_bytes, current: 0, filled: 0, copies: Vec::new() })
    }

    fn write(&mut self, buffers: &[Option<Buffer>], region: &Region, mut bytes: &[u8]) -> Result<(), RuntimeError> {
        let mut offset = region.offset;
        while !bytes.is_empty() {
            if self.filled >= self.half_bytes {
                self.flush(buffers)?;
            }
            if self.filled == 0 {
                self.halves[self.current].wait()?;
            }
            let n = (self.half_bytes - self.filled).min(bytes.len() as u64);
            let (now, later) = bytes.split_at(n as usize);
            let from = self.current as u64 * self.half_bytes + self.filled;
            self.staging.write(from, now)?;
            self.copies.push((from, Region { offset, bytes: n, ..*region }));
            self.filled = (self.filled + n).next_multiple_of(4);
            (offset, bytes) = (offset + n, later);
        }
        Ok(())
    }

    fn flush(&mut self, buffers: &[Option<Buffer>]) -> Result<(), RuntimeError> {
        if self.copies.is_empty() {
            return Ok(());
        }
        let copies = std::mem::take(&mut self.copies);
        let staging = &self.staging;
        let half = &mut self.halves[self.current];
        let recorded = half.record(|recorder| {
            recorder.acquire();
            for (from, to) in &copies {
                let Some(Some(buffer)) = buffers.get(to.allocation as usize) else { return Err(nowhere(to)) };
                recorder.copy((staging, *from), (buffer, to.offset), to.bytes)?;
            }
            recorder.release();
            Ok(())
        });
        let sent = recorded.and_then(|()| half.start());
        // What could not be sent is given up: the load fails, or the next run writes its inputs again, into an empty
        // half.
        self.filled = 0;
        sent?;
        self.current = 1 - self.current;
        Ok(())
    }

    fn read(
        &mut self,
        buffers: &[Option<Buffer>],
        regions: &[Region],
        out: &mut [Vec<u8>],
    ) -> Result<(), RuntimeError> {
        self.flush(buffers)?;
        let mut before: Option<(usize, Vec<Part>)> = None;
        for (i, parts) in self.batches(regions).into_iter().enumerate() {
            let which = i % 2;
            let base = which as u64 * self.half_bytes;
            let staging = &self.staging;
            let half = &mut self.halves[which];
            half.record(|recorder| {
                recorder.acquire();
                for &(region, offset, at, bytes) in &parts {
                    let Some((region, Some(buffer))) =
                        regions.get(region).and_then(|r| Some((r, buffers.get(r.allocation as usize)?.as_ref())))
                    else {
                        return Err(RuntimeError::Unsupported { what: "a region that is not there".to_owned() });
                    };
                    recorder.copy((buffer, region.offset + offset), (staging, base + at), bytes)?;
                }
                recorder.release();
                Ok(())
            })?;
            half.start()?;
            if let Some((which, parts)) = before.replace((which, parts)) {
                self.collect(which, &parts, out)?;
            }
        }
        before.map_or(Ok(()), |(which, parts)| self.collect(which, &parts, out))
    }

    fn collect(&mut self, which: usize, parts: &[Part], out: &mut [Vec<u8>]) -> Result<(), RuntimeError> {
        self.halves[which].wait()?;
        for &(region, offset, at, bytes) in parts {
            let to = out
                .get_mut(region)
                .and_then(|all| all.get_mut(offset as usize..(offset + bytes) as usize))
                .unwrap_or_default();
            self.staging.read(which as u64 * self.half_bytes + at, to)?;
        }
        Ok(())
    }

    /// Regions cut and packed into halves.
    fn batches(&self, regions: &[Region]) -> Vec<Vec<Part>> {
        let mut batches: Vec<Vec<Part>> = Vec::new();
        let mut filled = self.half_bytes;
        for (i, region) in regions.iter().enumerate() {
            let mut offset = 0;
            while offset < region.bytes {
                if filled >= self.half_bytes {
                    batches.push(Vec::new());
                    filled = 0;
                }
                let bytes = (self.half_bytes - filled).min(region.bytes - offset);
                if let Some(batch) = batches.last_mut() {
                    batch.push((i, offset, filled, bytes));
                }
                filled = (filled + bytes).next_multiple_of(4);
                offset += bytes;
            }
        }
        batches
    }
}
