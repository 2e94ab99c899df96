//! Gives every buffer of a program its offset in one arena of memory.
//!
//! The steps at which each buffer is live are given; what is sought are
//! offsets at which no two buffers that are live together overlap, in an arena
//! as small as possible.  This is dynamic storage allocation, which is NP-hard
//! (Garey and Johnson, SR2).  A trace is cut where nothing is live across, and
//! each part is first packed greedily, then by a search that proves its
//! packing to be the smallest or runs out of nodes.  Both stop once the arena
//! is as small as the memory live at one step, which on the traces of neural
//! nets it nearly always is.

mod board;
mod columns;
mod exact;
mod greedy;
mod order;
mod refine;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

/// One buffer to be placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// The size in bytes; a buffer of none takes no space.
    pub bytes: u64,
    /// The first step at which the buffer is live.
    pub first: usize,
    /// The last step at which the buffer is live; it is still live then.
    pub last: usize,
}

/// How to place buffers, and how long to search for a better way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArenaLimits {
    /// Offsets and sizes are rounded up to this many bytes, a power of two.
    pub alignment: u64,
    /// The nodes that the exact search may visit; 0 leaves it out.
    ///
    /// A node takes about a microsecond.  In a part of the trace with very
    /// many buffers each node takes longer and counts as several.
    pub max_nodes: u64,
}

/// An offset for every buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArenaPlan {
    /// For each buffer its offset in bytes; 0 where the buffer has no bytes.
    pub offsets: Vec<u64>,
    /// The size of the arena in bytes: the largest offset plus rounded size.
    pub bytes: u64,
    /// The alignment in bytes that offsets and sizes are rounded to.
    pub alignment: u64,
    /// The largest sum of rounded sizes live at one step, in bytes; no arena
    /// can be smaller.
    pub max_live: u64,
    /// The earliest step at which that much is live; 0 where nothing ever is.
    pub max_live_step: usize,
    /// The nodes that the exact search has visited.
    pub n_nodes: u64,
}

/// Why buffers cannot be placed, or a plan does not place them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum ArenaError {
    #[error("an alignment of {alignment} bytes is not a power of two")]
    Alignment { alignment: u64 },
    #[error("buffer {buffer} is live from step {first} to the earlier step {last}")]
    Interval { buffer: usize, first: usize, last: usize },
    #[error("the sizes of the buffers up to buffer {buffer} add up to too many bytes")]
    Overflow { buffer: usize },
    #[error("the plan has {n_offsets} offsets for {n_buffers} buffers")]
    Count { n_offsets: usize, n_buffers: usize },
    #[error("the offset {offset} of buffer {buffer} is not aligned")]
    Misaligned { buffer: usize, offset: u64 },
    #[error("buffer {buffer} at offset {offset} ends outside the arena")]
    Outside { buffer: usize, offset: u64 },
    #[error("buffers {a} and {b} overlap at step {step}")]
    Overlap { a: usize, b: usize, step: usize },
}

/// The largest sum of rounded sizes live at one step, in bytes, and the
/// earliest such step; step 0 where nothing is ever live.
///
/// # Errors
///
/// As for [`plan`].
pub fn max_live(buffers: &[Buffer], alignment: u64) -> Result<(u64, usize), ArenaError> {
    let sweep = columns::sweep(buffers, alignment)?;
    Ok((sweep.bound * sweep.unit, sweep.bound_step))
}

/// Places the buffers in an arena as small as the limits allow to find.
///
/// The plan depends on nothing but the arguments.
///
/// # Errors
///
/// - [`ArenaError::Alignment`] unless the alignment is a power of two.
/// - [`ArenaError::Interval`] for a buffer that ends before it starts.
/// - [`ArenaError::Overflow`] where the rounded sizes of all buffers add up
///   to more than a quarter of the range of `u64`.
pub fn plan(buffers: &[Buffer], limits: &ArenaLimits) -> Result<ArenaPlan, ArenaError> {
    let sweep = columns::sweep(buffers, limits.alignment)?;
    let pack = |part| greedy::pack(part, sweep.bound);
    let mut packings: Vec<_> = sweep.parts.iter().map(pack).collect();
    let n_nodes = refine::refine(&sweep, &mut packings, limits.max_nodes);

    let mut offsets = vec![0; buffers.len()];
    for (part, packing) in sweep.parts.iter().zip(&packings) {
        for (&buffer, at) in part.buffers.iter().zip(&packing.offsets) {
            offsets[buffer] = at * sweep.unit;
        }
    }
    let height = packings.iter().map(|packing| packing.height).max().unwrap_or(0);
    Ok(ArenaPlan {
        offsets,
        bytes: height * sweep.unit,
        alignment: limits.alignment,
        max_live: sweep.bound * sweep.unit,
        max_live_step: sweep.bound_step,
        n_nodes,
    })
}

/// Checks a plan against the buffers, in O(n log n).
///
/// This shares no code with [`plan`], so that each guards the other.
///
/// # Errors
///
/// - [`ArenaError::Count`] unless there is one offset for each buffer.
/// - [`ArenaError::Alignment`] unless the alignment is a power of two.
/// - [`ArenaError::Interval`], [`ArenaError::Misaligned`] or
///   [`ArenaError::Outside`] for the first buffer of which that is true.
/// - [`ArenaError::Overlap`] for two buffers live at one step that overlap.
pub fn check(buffers: &[Buffer], plan: &ArenaPlan) -> Result<(), ArenaError> {
    let (n_offsets, n_buffers) = (plan.offsets.len(), buffers.len());
    if n_offsets != n_buffers {
        return Err(ArenaError::Count { n_offsets, n_buffers });
    }
    let alignment = plan.alignment;
    if !alignment.is_power_of_two() {
        return Err(ArenaError::Alignment { alignment });
    }
    let mut ends = Vec::with_capacity(n_buffers);
    for (buffer, (&Buffer { bytes, first, last }, &offset)) in buffers.iter().zip(&plan.offsets).enumerate() {
        if first > last {
            return Err(ArenaError::Interval { buffer, first, last });
        }
        if offset % alignment != 0 {
            return Err(ArenaError::Misaligned { buffer, offset });
        }
        let size = bytes.checked_next_multiple_of(alignment);
        match size.and_then(|size| offset.checked_add(size)) {
            Some(end) if end <= plan.bytes => ends.push(end),
            _ => return Err(ArenaError::Outside { buffer, offset }),
        }
    }

    let mut by_first: Vec<usize> = (0..n_buffers).filter(|&b| buffers[b].bytes > 0).collect();
    let mut by_last = by_first.clone();
    by_first.sort_by_key(|&b| buffers[b].first);
    by_last.sort_by_key(|&b| buffers[b].last);
    let mut ending = by_last.into_iter().peekable();
    // As long as the live buffers are disjoint, a further one overlaps one of
    // them only if it overlaps one of its two neighbours.
    let mut live: BTreeMap<u64, usize> = BTreeMap::new();
    for b in by_first {
        let (offset, step) = (plan.offsets[b], buffers[b].first);
        while let Some(done) = ending.next_if(|&done| buffers[done].last < step) {
            live.remove(&plan.offsets[done]);
        }
        let below = live.range(..offset).next_back().filter(|&(_, &a)| ends[a] > offset);
        let above = live.range(offset..).next().filter(|&(&at, _)| at < ends[b]);
        if let Some((_, &a)) = below.or(above) {
            return Err(ArenaError::Overlap { a: a.min(b), b: a.max(b), step });
        }
        live.insert(offset, b);
    }
    Ok(())
}
