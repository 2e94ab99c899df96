//! The way between host and device where the host does not reach device memory: host memory in slots. Each has its
//! copies recorded, and keeps them as long as they are the same; those of the last slot on the way in and of the first
//! on the way out go with the dispatches between them, in one submission.

use super::RuntimeError;
use super::convert::Source;
use super::vk::{Buffer, Commands, Fence, Tally, VkContext};
use crate::program::{Region, SLOT_ALIGNMENT, SLOT_BYTES};
use rayon::prelude::*;
use std::sync::Arc;

/// Bytes from which on threads share what is to be copied.
const SHARED_BYTES: u64 = 1 << 20;

pub(super) struct Ring {
    // First, so that what is under way has ended before the buffer goes.
    slots: Vec<Slot>,
    staging: Buffer,
    slot_bytes: u64,
    /// The slot that is being filled, and how far.
    current: usize,
    filled: u64,
    /// What was asked to be read, in batches of a slot each, the first of them in this slot.
    batches: Vec<Vec<Part>>,
    first: usize,
}

struct Slot {
    inward: Copies,
    outward: Copies,
    /// The end of what is submitted of this slot alone.
    fence: Arc<Fence>,
}

/// Copies between the staging buffer and regions: (offset in the staging buffer, which region).
struct Copies {
    wanted: Vec<(u64, Region)>,
    /// Those that the commands make, once they are recorded.
    recorded: Option<Vec<(u64, Region)>>,
    commands: Commands,
}

/// A part of a region in a slot.
#[derive(Clone, Copy)]
struct Part {
    /// Which region.
    region: usize,
    /// First byte in the region.
    offset: u64,
    /// First byte in the slot.
    at: u64,
    bytes: u64,
}

/// Bytes of regions, by their number, in order.
pub(super) type Pieces<'a> = Vec<(usize, &'a [u8])>;

impl Copies {
    fn new(context: &VkContext, tally: &Arc<Tally>) -> Result<Copies, RuntimeError> {
        Ok(Copies { wanted: Vec::new(), recorded: None, commands: Commands::new(context, tally)? })
    }

    /// Records what is wanted, unless that is recorded already.
    fn record(&mut self, staging: &Buffer, buffers: &[Option<Buffer>], inward: bool) -> Result<(), RuntimeError> {
        if self.recorded.as_ref() == Some(&self.wanted) {
            return Ok(());
        }
        let mut recorded = self.recorded.take().unwrap_or_default();
        let wanted = &self.wanted;
        self.commands.record(|recorder| {
            recorder.acquire();
            for (at, region) in wanted {
                let Some(Some(buffer)) = buffers.get(region.allocation as usize) else { return Err(nowhere(region)) };
                let ends = [(staging, *at), (buffer, region.offset)];
                let [from, to] = if inward { ends } else { [ends[1], ends[0]] };
                recorder.copy(from, to, region.bytes)?;
            }
            recorder.release();
            Ok(())
        })?;
        recorded.clone_from(wanted);
        self.recorded = Some(recorded);
        Ok(())
    }
}

impl Slot {
    /// Waits until the device is done with the slot.
    fn wait(&self) -> Result<(), RuntimeError> {
        self.inward.commands.wait()?;
        self.outward.commands.wait()
    }
}

impl Ring {
    pub(super) fn new(context: &VkContext, tally: &Arc<Tally>, staging: Buffer) -> Result<Ring, RuntimeError> {
        let n_slots = (staging.bytes() / SLOT_BYTES).max(2);
        let slot_bytes = staging.bytes() / n_slots / SLOT_ALIGNMENT * SLOT_ALIGNMENT;
        if slot_bytes == 0 {
            let least = 2 * SLOT_ALIGNMENT;
            let what = format!("a staging ring of {} bytes, {least} is the least", staging.bytes());
            return Err(RuntimeError::Unsupported { what });
        }
        let slot = |_| {
            let (inward, outward) = (Copies::new(context, tally)?, Copies::new(context, tally)?);
            Ok(Slot { inward, outward, fence: Fence::new(context, tally)? })
        };
        let slots = (0..n_slots).map(slot).collect::<Result<_, RuntimeError>>()?;
        Ok(Ring { slots, staging, slot_bytes, current: 0, filled: 0, batches: Vec::new(), first: 0 })
    }

    /// Begins anew at the first slot, and gives up what was written and not submitted.
    pub(super) fn begin(&mut self) {
        (self.current, self.filled) = (0, 0);
        self.batches.clear();
    }

    /// Waits until nothing is under way.
    pub(super) fn settle(&self) -> Result<(), RuntimeError> {
        self.slots.iter().try_for_each(Slot::wait)
    }

    /// Takes what regions are to hold. Full slots are submitted, the last one waits for [`Ring::submit`].
    pub(super) fn write(
        &mut self,
        buffers: &[Option<Buffer>],
        uploads: &[(Region, Source<'_>)],
    ) -> Result<(), RuntimeError> {
        let (mut next, mut offset) = (0, 0);
        while next < uploads.len() {
            if self.filled >= self.slot_bytes {
                self.send(buffers)?;
            }
            let slot = &mut self.slots[self.current];
            if self.filled == 0 {
                slot.wait()?;
                slot.inward.wanted.clear();
            }
            let base = self.current as u64 * self.slot_bytes;
            let begin = self.filled;
            let mut parts = Vec::new();
            while let Some((region, _)) = uploads.get(next)
                && self.filled < self.slot_bytes
            {
                let bytes = (self.slot_bytes - self.filled).min(region.bytes - offset);
                if bytes > 0 {
                    parts.push(Part { region: next, offset, at: self.filled, bytes });
                    let to = Region { offset: region.offset + offset, bytes, ..*region };
                    slot.inward.wanted.push((base + self.filled, to));
                }
                self.filled = (self.filled + bytes).next_multiple_of(SLOT_ALIGNMENT);
                offset += bytes;
                if offset == region.bytes {
                    (next, offset) = (next + 1, 0);
                }
            }
            let end = self.filled.min(self.slot_bytes);
            let mut rest = self.staging.bytes_mut(base + begin, end - begin)?;
            let mut jobs = Vec::with_capacity(parts.len());
            for (i, part) in parts.iter().enumerate() {
                let span = parts.get(i + 1).map_or(end, |next| next.at) - part.at;
                let (now, later) = rest.split_at_mut(span as usize);
                jobs.push((part, &mut now[..part.bytes as usize]));
                rest = later;
            }
            let fill = |(part, out): (&Part, &mut [u8])| uploads[part.region].1.write(part.offset, out);
            if end - begin >= SHARED_BYTES && jobs.len() > 1 {
                jobs.into_par_iter().for_each(fill);
            } else {
                jobs.into_iter().for_each(fill);
            }
        }
        Ok(())
    }

    /// Submits the copies of the current slot by themselves.
    fn send(&mut self, buffers: &[Option<Buffer>]) -> Result<(), RuntimeError> {
        let slot = &mut self.slots[self.current];
        // What could not be sent is given up: the load fails, or the next run writes its inputs again.
        self.filled = 0;
        slot.inward.record(&self.staging, buffers, true)?;
        slot.fence.submit(&mut [&mut slot.inward.commands])?;
        self.current = (self.current + 1) % self.slots.len();
        Ok(())
    }

    /// Submits what was written and is not on its way yet, `between`, and the first copies of `reads`, all in one.
    /// [`Ring::collect`] has the others.
    pub(super) fn submit(
        &mut self,
        buffers: &[Option<Buffer>],
        between: Option<&mut Commands>,
        reads: &[Region],
        fence: &Arc<Fence>,
    ) -> Result<(), RuntimeError> {
        let (inward, n_slots) = (self.current, self.slots.len());
        let has_inward = std::mem::take(&mut self.filled) > 0;
        if has_inward {
            self.slots[inward].inward.record(&self.staging, buffers, true)?;
            self.current = (inward + 1) % n_slots;
        }
        self.first = self.current;
        self.cut(reads);
        let has_outward = !self.batches.is_empty();
        if has_outward {
            self.record_outward(buffers, reads, 0)?;
        }
        let mut all: Vec<&mut Commands> = Vec::with_capacity(3);
        // The slots are two different ones where both have copies.
        let (mut way_in, mut way_out) = (None, None);
        for (i, slot) in self.slots.iter_mut().enumerate() {
            if has_inward && i == inward {
                way_in = Some(&mut slot.inward.commands);
            } else if has_outward && i == self.first {
                way_out = Some(&mut slot.outward.commands);
            }
        }
        all.extend(way_in);
        all.extend(between);
        all.extend(way_out);
        if !all.is_empty() {
            fence.submit(&mut all)?;
        }
        if self.batches.len() > 1 {
            self.request(buffers, reads, 1)?;
        }
        Ok(())
    }

    fn slot_of(&self, batch: usize) -> usize {
        (self.first + batch) % self.slots.len()
    }

    fn record_outward(
        &mut self,
        buffers: &[Option<Buffer>],
        reads: &[Region],
        batch: usize,
    ) -> Result<(), RuntimeError> {
        let which = self.slot_of(batch);
        let base = which as u64 * self.slot_bytes;
        let copies = &mut self.slots[which].outward;
        copies.wanted.clear();
        for part in self.batches.get(batch).into_iter().flatten() {
            let Some(region) = reads.get(part.region) else { continue };
            let from = Region { offset: region.offset + part.offset, bytes: part.bytes, ..*region };
            copies.wanted.push((base + part.at, from));
        }
        copies.record(&self.staging, buffers, false)
    }

    /// Submits the copies of a batch by themselves. Whatever its slot had before was collected.
    fn request(&mut self, buffers: &[Option<Buffer>], reads: &[Region], batch: usize) -> Result<(), RuntimeError> {
        self.record_outward(buffers, reads, batch)?;
        let which = self.slot_of(batch);
        let slot = &mut self.slots[which];
        slot.fence.submit(&mut [&mut slot.outward.commands])
    }

    /// Hands out what was asked for by [`Ring::submit`], a slot at a time; no two pieces of one call are of the same
    /// region.
    pub(super) fn collect(
        &mut self,
        buffers: &[Option<Buffer>],
        reads: &[Region],
        take: &mut dyn FnMut(Pieces<'_>),
    ) -> Result<(), RuntimeError> {
        for batch in 0..self.batches.len() {
            let which = self.slot_of(batch);
            self.slots[which].outward.commands.wait()?;
            let base = which as u64 * self.slot_bytes;
            let mut pieces = Vec::new();
            for part in self.batches.get(batch).into_iter().flatten() {
                pieces.push((part.region, self.staging.bytes_at(base + part.at, part.bytes)?));
            }
            take(pieces);
            if batch + 2 < self.batches.len() {
                self.request(buffers, reads, batch + 2)?;
            }
        }
        self.batches.clear();
        Ok(())
    }

    /// Cuts regions and packs them into slots.
    fn cut(&mut self, regions: &[Region]) {
        self.batches.clear();
        let mut filled = self.slot_bytes;
        for (region, all) in regions.iter().enumerate() {
            let mut offset = 0;
            while offset < all.bytes {
                if filled >= self.slot_bytes {
                    self.batches.push(Vec::new());
                    filled = 0;
                }
                let bytes = (self.slot_bytes - filled).min(all.bytes - offset);
                if let Some(batch) = self.batches.last_mut() {
                    batch.push(Part { region, offset, at: filled, bytes });
                }
                filled = (filled + bytes).next_multiple_of(SLOT_ALIGNMENT);
                offset += bytes;
            }
        }
    }
}

pub(super) fn nowhere(region: &Region) -> RuntimeError {
    RuntimeError::Unsupported { what: format!("host access to allocation {}", region.allocation) }
}
