//! What a run reads back: outputs, operands of host steps, and what dispatches noted of indices out of range.

use super::RuntimeError;
use super::convert::{Sink, device_bytes, from_device};
use super::memory::Memory;
use super::pool::Pool;
use super::run::{Known, exact};
use crate::ir::Tensor;
use crate::program::{IndexCheck, Port, Region, Sizes};
use rayon::prelude::*;

/// Bytes of outputs from which on threads share them.
const SHARED_BYTES: usize = 1 << 20;

/// The tensors of `ports`, which the last submission was given to read, unless a dispatch noted an index out of range.
pub(super) fn collect(
    memory: &mut Memory,
    pool: &Pool,
    ports: &[Port],
    reads: &[Region],
    checks: &[(Region, IndexCheck)],
    sizes: &Sizes,
) -> Result<Vec<Tensor>, RuntimeError> {
    // What a caller may hold of two runs.
    pool.limit(ports.iter().map(device_bytes).fold(0, usize::saturating_add).saturating_mul(2));
    let mut sinks: Vec<Sink<'_>> = ports.iter().map(|port| Sink::new(port, pool)).collect();
    let mut noted: Vec<Vec<u8>> = vec![Vec::new(); checks.len()];
    memory.collect(reads, &mut |pieces| {
        let n_bytes: usize = pieces.iter().map(|(_, bytes)| bytes.len()).sum();
        let mut jobs: Vec<(&mut Sink<'_>, &[u8])> = Vec::with_capacity(pieces.len());
        let mut pieces = pieces.into_iter().peekable();
        for (i, sink) in sinks.iter_mut().enumerate() {
            if let Some((_, bytes)) = pieces.next_if(|(region, _)| *region == i) {
                jobs.push((sink, bytes));
            }
        }
        for (region, bytes) in pieces {
            if let Some(words) = region.checked_sub(ports.len()).and_then(|i| noted.get_mut(i)) {
                words.extend_from_slice(bytes);
            }
        }
        if n_bytes >= SHARED_BYTES && jobs.len() > 1 {
            jobs.into_par_iter().for_each(|(sink, bytes)| sink.take(bytes));
        } else {
            jobs.into_iter().for_each(|(sink, bytes)| sink.take(bytes));
        }
    })?;
    faults(checks, &noted, sizes)?;
    sinks.into_iter().map(Sink::finish).collect()
}

/// The tensors of `ports` from what the host knows or else from the device, unless a dispatch noted an index out of
/// range.
pub(super) fn outputs_of(
    memory: &mut Memory,
    known: &Known,
    ports: &[Port],
    checks: &[(Region, IndexCheck)],
    sizes: &Sizes,
) -> Result<Vec<Tensor>, RuntimeError> {
    let bytes_of = |port: &Port| match device_bytes(port) {
        0 => Some(&[] as &[u8]),
        n => known.get(&(port.region.allocation, port.region.offset)).and_then(|bytes| bytes.get(..n)),
    };
    let missing = ports.iter().filter(|port| bytes_of(port).is_none()).map(exact);
    let regions: Vec<Region> = missing.chain(checks.iter().map(|(region, _)| *region)).collect();
    let mut read = if regions.is_empty() { Vec::new() } else { memory.read(&regions)? };
    let noted = read.split_off(read.len() - checks.len());
    faults(checks, &noted, sizes)?;
    let mut read = read.into_iter();
    let tensor = |port: &Port| match bytes_of(port) {
        Some(bytes) => from_device(port, bytes),
        None => from_device(port, &read.next().unwrap_or_default()),
    };
    ports.iter().map(tensor).collect()
}

/// What dispatches noted of indices out of range.
pub(super) fn faults(checks: &[(Region, IndexCheck)], noted: &[Vec<u8>], sizes: &Sizes) -> Result<(), RuntimeError> {
    for ((_, check), words) in checks.iter().zip(noted) {
        if let Some(fault) = check.read(words, sizes) {
            return Err(RuntimeError::Index { node: check.node.clone(), fault });
        }
    }
    Ok(())
}
