//! Packers that never reconsider a placement.
//!
//! The pairwise packer is the one of Pisarchyk and Lee, "Efficient Memory
//! Management for Deep Neural Net Inference" (MLSys 2020 workshop): items are
//! taken in some order, and each goes into a gap between the items already
//! placed that live at the same time.  The sweep packer is a best-fit
//! allocator run over the trace; it costs O(n log n) whatever the overlaps, so
//! it always runs, and bounds the time for traces in which all overlaps all.

use std::collections::{BTreeMap, BTreeSet};

use super::columns::{Item, Packing, Part};
use super::order::{self, Order};

/// The most ordered pairs of items alive together that are listed.
///
/// A list of this length takes 64 MiB, and a pass over it some 0.1 s.
const MAX_PAIRS: usize = 1 << 23;

/// The orders to try, those that most often meet the bound first.
const ORDERS: [Order; 5] = [Order::Size, Order::Area, Order::Contention, Order::Width, Order::Start];

/// Which of the gaps that can hold an item it goes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Gap {
    Lowest,
    /// The smallest gap, or the lowest of several equal ones.
    Tightest,
}

/// Packs one part, and stops early once it is no higher than `goal` units.
pub(super) fn pack(part: &Part, goal: u64) -> Packing {
    // In a heap that has the right size from the start, both ends serve as
    // blocks that are never freed.  A chain, in which each item outlives only
    // the one before it, then alternates between them and meets the bound.
    let mut best = sweep(part, false, goal);
    for (mirrored, room) in [(true, goal), (false, 0), (true, 0)] {
        if best.height <= goal {
            return best;
        }
        keep_lower(&mut best, sweep(part, mirrored, room));
    }
    if best.height <= goal {
        return best;
    }
    let Some(overlaps) = Overlaps::new(part) else {
        return best;
    };
    for order in ORDERS {
        let sequence = order::descending(&order::keys(part, order));
        for gap in [Gap::Lowest, Gap::Tightest] {
            keep_lower(&mut best, place_in_gaps(part, &overlaps, &sequence, gap));
            if best.height <= goal {
                return best;
            }
        }
    }
    best
}

fn keep_lower(best: &mut Packing, other: Packing) {
    if other.height < best.height {
        *best = other;
    }
}

/// For each item, the other items that share a column with it.
struct Overlaps {
    starts: Vec<usize>,
    others: Vec<usize>,
}

impl Overlaps {
    /// Lists the pairs, or gives `None` where they are above [`MAX_PAIRS`].
    fn new(part: &Part) -> Option<Self> {
        let items = &part.items;
        let mut n_started = vec![0_usize; part.loads.len() + 1];
        let mut n_ended = n_started.clone();
        for item in items {
            n_started[item.lo + 1] += 1;
            n_ended[item.hi] += 1;
        }
        for column in 1..n_started.len() {
            n_started[column] += n_started[column - 1];
            n_ended[column] += n_ended[column - 1];
        }
        // All that start before an item ends overlap it, save those that end
        // before it starts and the item itself.
        let mut starts = Vec::with_capacity(items.len() + 1);
        let mut total = 0_usize;
        starts.push(0);
        for item in items {
            total = total.checked_add(n_started[item.hi] - n_ended[item.lo] - 1)?;
            if total > MAX_PAIRS {
                return None;
            }
            starts.push(total);
        }

        let mut fill = starts.clone();
        let mut others = vec![0; total];
        let mut sequence: Vec<usize> = (0..items.len()).collect();
        sequence.sort_by_key(|&i| items[i].lo);
        let mut live: Vec<usize> = Vec::new();
        for i in sequence {
            live.retain(|&j| items[j].hi > items[i].lo);
            for &j in &live {
                others[fill[i]] = j;
                others[fill[j]] = i;
                fill[i] += 1;
                fill[j] += 1;
            }
            live.push(i);
        }
        Some(Self { starts, others })
    }

    fn of(&self, item: usize) -> &[usize] {
        &self.others[self.starts[item]..self.starts[item + 1]]
    }
}

/// Places the items in the given sequence, each into a gap of its columns.
fn place_in_gaps(part: &Part, overlaps: &Overlaps, sequence: &[usize], gap: Gap) -> Packing {
    let mut placed: Vec<Option<u64>> = vec![None; part.items.len()];
    let mut taken: Vec<(u64, u64)> = Vec::new();
    for &i in sequence {
        taken.clear();
        let others = overlaps.of(i).iter();
        taken.extend(others.filter_map(|&j| placed[j].map(|at| (at, at + part.items[j].size))));
        taken.sort_unstable();
        placed[i] = Some(find_gap(&taken, part.items[i].size, gap));
    }
    let offsets = placed.into_iter().map(|at| at.unwrap_or(0)).collect();
    Packing::new(&part.items, offsets)
}

/// The offset for an item of `size` between the sorted intervals `taken`.
fn find_gap(taken: &[(u64, u64)], size: u64, gap: Gap) -> u64 {
    let mut top = 0;
    let mut tightest: Option<(u64, u64)> = None;
    for &(from, to) in taken {
        let room = from.saturating_sub(top);
        if room >= size {
            if gap == Gap::Lowest {
                return top;
            }
            if tightest.is_none_or(|(least, _)| room < least) {
                tightest = Some((room, top));
            }
        }
        top = top.max(to);
    }
    tightest.map_or(top, |(_, at)| at)
}

/// Runs a best-fit allocator over the columns, backwards if `mirrored`.
///
/// The allocator starts with `room` units free, and grows when it must.
fn sweep(part: &Part, mirrored: bool, room: u64) -> Packing {
    let n_columns = part.loads.len();
    let span = |item: &Item| {
        if mirrored { (n_columns - item.hi, n_columns - item.lo) } else { (item.lo, item.hi) }
    };
    let mut arriving: Vec<usize> = (0..part.items.len()).collect();
    let mut leaving = arriving.clone();
    // Of the items that arrive together the large ones have the first choice.
    arriving.sort_by_key(|&i| (span(&part.items[i]).0, std::cmp::Reverse(part.items[i].size), i));
    leaving.sort_by_key(|&i| (span(&part.items[i]).1, i));

    let mut offsets = vec![0; part.items.len()];
    let mut heap = Heap::new(room);
    let mut leaving = leaving.into_iter().peekable();
    for i in arriving {
        let (now, end) = span(&part.items[i]);
        while let Some(j) = leaving.next_if(|&j| span(&part.items[j]).1 <= now) {
            heap.free(offsets[j], part.items[j].size);
        }
        offsets[i] = heap.take(part.items[i].size, end);
    }
    Packing::new(&part.items, offsets)
}

/// What is free and what is taken below `top`; no two holes touch.
struct Heap {
    top: u64,
    holes: BTreeMap<u64, u64>,
    holes_by_size: BTreeSet<(u64, u64)>,
    /// The column at which each block is freed, by its offset.
    ends: BTreeMap<u64, usize>,
}

impl Heap {
    fn new(room: u64) -> Self {
        let (holes, holes_by_size, ends) = Default::default();
        let mut heap = Self { top: room, holes, holes_by_size, ends };
        if room > 0 {
            heap.insert(0, room);
        }
        heap
    }

    fn insert(&mut self, at: u64, size: u64) {
        self.holes.insert(at, size);
        self.holes_by_size.insert((size, at));
    }

    fn remove(&mut self, at: u64, size: u64) {
        self.holes.remove(&at);
        self.holes_by_size.remove(&(size, at));
    }

    /// Takes `size` units until column `end`, from the smallest hole that
    /// holds them, else from the top and the hole directly under it.
    fn take(&mut self, size: u64, end: usize) -> u64 {
        let at = if let Some(&(room, hole)) = self.holes_by_size.range((size, 0)..).next() {
            self.remove(hole, room);
            self.take_from(hole, room, size)
        } else {
            let last = self.holes.last_key_value().map(|(&hole, &room)| (hole, room));
            let at = match last.filter(|(hole, room)| hole + room == self.top) {
                Some((hole, room)) => {
                    self.remove(hole, room);
                    hole
                }
                None => self.top,
            };
            self.top = at + size;
            at
        };
        self.ends.insert(at, end);
        at
    }

    /// Takes one end of a hole: that at the block which is freed later, so
    /// that the remainder can grow when the other one is.
    fn take_from(&mut self, hole: u64, room: u64, size: u64) -> u64 {
        if room == size {
            return hole;
        }
        let below = self.ends.range(..hole).next_back().map_or(usize::MAX, |(_, &end)| end);
        let above = self.ends.range(hole..).next().map_or(usize::MAX, |(_, &end)| end);
        if below >= above {
            self.insert(hole + size, room - size);
            hole
        } else {
            self.insert(hole, room - size);
            hole + room - size
        }
    }

    /// Gives a block back, and merges it with the holes on either side.
    fn free(&mut self, at: u64, size: u64) {
        self.ends.remove(&at);
        let (mut from, mut to) = (at, at + size);
        if let Some((&hole, &room)) = self.holes.range(..at).next_back()
            && hole + room == at
        {
            self.remove(hole, room);
            from = hole;
        }
        if let Some(&room) = self.holes.get(&to) {
            self.remove(to, room);
            to += room;
        }
        self.insert(from, to - from);
    }
}
