//! Turns lifetimes into columns, the form that the packers work on.
//!
//! A column is a maximal set of buffers that are live together.  Two buffers
//! share a step exactly when they share a column, and a trace of `n` buffers
//! has at most `n` columns however many steps it has, so nothing after this
//! file depends on the number of steps.  MiniMalloc (Moffitt, ASPLOS 2023)
//! calls these columns sections.

use super::{ArenaError, Buffer};

/// The largest sum of rounded sizes that is planned, in bytes.
///
/// No packer here comes to end a buffer above twice the sum of all sizes, so
/// that with this bound the sum of two heights always fits in `u64`.
pub(super) const MAX_TOTAL_BYTES: u64 = u64::MAX / 4;

/// One buffer as the packers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    /// The first column in which the buffer is live.
    pub lo: usize,
    /// One past the last column in which the buffer is live; above `lo`.
    pub hi: usize,
    /// The size in units of [`Sweep::unit`]; never zero.
    pub size: u64,
}

/// A run of steps that no buffer enters or leaves alive; it is packed alone.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    pub items: Vec<Item>,
    /// For each item, the index of its buffer in the caller's slice.
    pub buffers: Vec<usize>,
    /// For each column, the sum of the sizes live in it, in units.
    pub loads: Vec<u64>,
}

/// Offsets for the items of one part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Packing {
    /// For each item its offset, in units.
    pub offsets: Vec<u64>,
    /// The largest offset plus size, in units.
    pub height: u64,
}

impl Packing {
    pub(super) fn new(items: &[Item], offsets: Vec<u64>) -> Self {
        let ends = items.iter().zip(&offsets).map(|(item, at)| at + item.size);
        let height = ends.max().unwrap_or(0);
        Self { offsets, height }
    }
}

/// A whole trace, cut into parts.
#[derive(Debug, Clone)]
pub(super) struct Sweep {
    /// Bytes in a unit: the greatest common divisor of the rounded sizes.
    ///
    /// Every useful offset is a sum of sizes and hence a multiple of it.
    pub unit: u64,
    /// The largest load of any column, in units.
    pub bound: u64,
    /// The earliest step at which that much is live.
    pub bound_step: usize,
    pub parts: Vec<Part>,
}

/// Rounds sizes and finds columns and parts, in O(n log n).
///
/// # Errors
///
/// [`ArenaError::Alignment`], [`ArenaError::Interval`] and
/// [`ArenaError::Overflow`], as [`super::plan`] documents them.
pub(super) fn sweep(buffers: &[Buffer], alignment: u64) -> Result<Sweep, ArenaError> {
    let sizes = rounded_sizes(buffers, alignment)?;
    let unit = sizes.iter().copied().fold(0, gcd).max(1);

    let mut by_first: Vec<usize> = (0..buffers.len()).filter(|&b| sizes[b] > 0).collect();
    let mut by_last = by_first.clone();
    by_first.sort_by_key(|&b| (buffers[b].first, b));
    by_last.sort_by_key(|&b| (buffers[b].last, b));

    let mut sweep = Sweep { unit, bound: 0, bound_step: 0, parts: Vec::new() };
    let mut part = Part::default();
    let mut slots = vec![0; buffers.len()];
    let mut starting = by_first.into_iter().peekable();
    let (mut live, mut n_live) = (0, 0_usize);
    for ending in by_last {
        let mut latest_start = None;
        while let Some(b) = starting.next_if(|&b| buffers[b].first <= buffers[ending].last) {
            let size = sizes[b] / unit;
            let lo = part.loads.len();
            slots[b] = part.items.len();
            part.items.push(Item { lo, hi: lo, size });
            part.buffers.push(b);
            live += size;
            n_live += 1;
            latest_start = Some(buffers[b].first);
        }
        // The live set is maximal only where an end follows a start.
        if let Some(step) = latest_start {
            part.loads.push(live);
            if live > sweep.bound {
                (sweep.bound, sweep.bound_step) = (live, step);
            }
        }
        let item = &mut part.items[slots[ending]];
        item.hi = part.loads.len();
        live -= item.size;
        n_live -= 1;
        if n_live == 0 {
            sweep.parts.push(std::mem::take(&mut part));
        }
    }
    Ok(sweep)
}

/// Validates the buffers and rounds each size up to the alignment, in bytes.
fn rounded_sizes(buffers: &[Buffer], alignment: u64) -> Result<Vec<u64>, ArenaError> {
    if !alignment.is_power_of_two() {
        return Err(ArenaError::Alignment { alignment });
    }
    let mut total = 0_u64;
    let mut sizes = Vec::with_capacity(buffers.len());
    for (index, buffer) in buffers.iter().enumerate() {
        if buffer.first > buffer.last {
            let Buffer { first, last, .. } = *buffer;
            return Err(ArenaError::Interval { buffer: index, first, last });
        }
        let size = buffer.bytes.checked_next_multiple_of(alignment);
        let sum = size.and_then(|size| total.checked_add(size));
        match (size, sum) {
            (Some(size), Some(sum)) if sum <= MAX_TOTAL_BYTES => {
                sizes.push(size);
                total = sum;
            }
            _ => return Err(ArenaError::Overflow { buffer: index }),
        }
    }
    Ok(sizes)
}

fn gcd(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// For each item of the part, the largest load over its columns, in units.
///
/// A sparse table answers each range in O(1), because in a long trace the sum
/// of all lifetimes can be quadratic.
pub(super) fn peak_loads(part: &Part) -> Vec<u64> {
    let mut levels = vec![part.loads.clone()];
    let mut span = 1;
    while let Some(level) = levels.last().filter(|level| level.len() > span) {
        let next = level.iter().zip(&level[span..]).map(|(a, b)| *a.max(b)).collect();
        levels.push(next);
        span *= 2;
    }
    let peak = |item: &Item| {
        let level = (item.hi - item.lo).ilog2() as usize;
        levels[level][item.lo].max(levels[level][item.hi - (1 << level)])
    };
    part.items.iter().map(peak).collect()
}

/// Items by the column that they start or end in, the preferred ones first.
#[derive(Debug)]
pub(super) struct ByColumn {
    starts: Vec<usize>,
    items: Vec<usize>,
}

impl ByColumn {
    pub(super) fn new(n_columns: usize, columns: impl Iterator<Item = usize> + Clone) -> Self {
        let mut starts = vec![0; n_columns + 1];
        for column in columns.clone() {
            starts[column + 1] += 1;
        }
        for column in 0..n_columns {
            starts[column + 1] += starts[column];
        }
        let mut fill = starts.clone();
        let mut items = vec![0; starts[n_columns]];
        for (item, column) in columns.enumerate() {
            items[fill[column]] = item;
            fill[column] += 1;
        }
        Self { starts, items }
    }

    pub(super) fn at(&self, column: usize) -> &[usize] {
        &self.items[self.starts[column]..self.starts[column + 1]]
    }

    /// The number of items in the columns before this one.
    pub(super) fn n_before(&self, column: usize) -> usize {
        self.starts[column]
    }
}

/// For each item the one just before it, in its order, that is equal to it.
pub(super) fn twins(items: &[Item]) -> Vec<Option<usize>> {
    let mut sequence: Vec<usize> = (0..items.len()).collect();
    sequence.sort_by_key(|&i| (items[i].lo, items[i].hi, items[i].size, i));
    let mut twins = vec![None; items.len()];
    for pair in sequence.windows(2) {
        if items[pair[0]] == items[pair[1]] {
            twins[pair[1]] = Some(pair[0]);
        }
    }
    twins
}
