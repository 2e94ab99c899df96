//! The partial packing that the exact search extends and takes back.
//!
//! Items are stacked from the bottom.  The board keeps the floor of every
//! column, so a *niche* is a run of columns with one floor between higher
//! floors or walls, where a wall is a boundary that no unplaced item crosses.
//! Whatever comes to be at the floor of a niche is within it.  Hence, for
//! an end column of a niche, these cases are complete and exclude each other:
//! some unplaced item that starts (or ends) there is on the floor, or none
//! does and the floor of this column can be raised.  Branching on them visits
//! every canonical packing once, and needs no order on placements to tell
//! permutations of one packing apart.
//!
//! A canonical packing is one with the smallest sum of size times offset, hence
//! one in which every item is on the bottom or on another item and none fits
//! into a gap below it.  These are the canonical solutions and the dominance
//! rule of MiniMalloc (Moffitt, ASPLOS 2023); the slack of a column below is
//! its section inference, kept up to date instead of recomputed.

use super::columns::{ByColumn, Item, twins};

/// The floor beyond a boundary that no unplaced item crosses.
const WALL: u64 = u64::MAX;

/// One step of the search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// Put this item on the floor of its columns, which are level.
    Place(usize),
    /// Decide that no item is in this column below the floor `to`.
    Raise { column: usize, to: u64 },
}

/// Which niche to branch on; one with a single move goes before all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pick {
    FewestMoves,
    LowestFloor,
    LeastSlack,
}

impl Pick {
    /// The niche with the smallest key is the one to branch on.
    fn key(self, n_moves: usize, floor: u64, slack: u64) -> (u64, u64, u64) {
        let n_moves = n_moves as u64;
        let unless_forced = |rank: u64| if n_moves <= 1 { 0 } else { rank + 1 };
        match self {
            Self::FewestMoves => (n_moves, floor, slack),
            Self::LowestFloor => (unless_forced(floor), n_moves, slack),
            Self::LeastSlack => (unless_forced(slack), n_moves, floor),
        }
    }
}

/// A run of columns, from `lo` up to but not including `hi`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub lo: usize,
    pub hi: usize,
}

#[derive(Debug, Clone, Copy)]
struct Column {
    /// The lowest offset that an unplaced item can still have here.
    floor: u64,
    /// The end of the uppermost placed item; below the floor after a raise.
    top: u64,
    /// How much more of this column may be left empty below the capacity.
    slack: u64,
    /// Unplaced items here.
    n_left: usize,
    /// Unplaced items both here and in the next column.
    n_crossing: usize,
    /// The uppermost placed item.
    owner: Option<usize>,
}

#[derive(Debug, Clone, Copy)]
enum Undo {
    Surface { column: usize, floor: u64, top: u64, owner: Option<usize> },
    Slack { column: usize, raised_by: u64 },
    Placed(usize),
}

#[derive(Debug, Clone, Copy)]
struct Niche {
    range: Range,
    floor: u64,
    /// The floors beyond its ends.
    left: u64,
    right: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

#[derive(Debug)]
pub(super) struct Board<'a> {
    items: &'a [Item],
    starting: ByColumn,
    ending: ByColumn,
    /// For each item the one just before it that is equal to it.
    twins: Vec<Option<usize>>,
    columns: Vec<Column>,
    offsets: Vec<Option<u64>>,
    trail: Vec<Undo>,
    /// Kept between surveys for its allocation only.
    scratch: Vec<Move>,
}

impl<'a> Board<'a> {
    /// An empty board of `capacity` units for the items, the preferred first;
    /// `None` where the load of some column is above the capacity.
    pub(super) fn new(items: &'a [Item], loads: &[u64], capacity: u64) -> Option<Self> {
        let empty = |&load: &u64| {
            let slack = capacity.checked_sub(load)?;
            Some(Column { floor: 0, top: 0, slack, n_left: 0, n_crossing: 0, owner: None })
        };
        let mut columns = loads.iter().map(empty).collect::<Option<Vec<_>>>()?;
        let mut n_starting = vec![0_usize; loads.len()];
        let mut n_ending = vec![0_usize; loads.len()];
        for item in items {
            n_starting[item.lo] += 1;
            n_ending[item.hi - 1] += 1;
        }
        let mut n_live = 0;
        for (c, column) in columns.iter_mut().enumerate() {
            n_live += n_starting[c];
            column.n_left = n_live;
            n_live -= n_ending[c];
            column.n_crossing = n_live;
        }
        Some(Self {
            items,
            starting: ByColumn::new(loads.len(), items.iter().map(|item| item.lo)),
            ending: ByColumn::new(loads.len(), items.iter().map(|item| item.hi - 1)),
            twins: twins(items),
            columns,
            offsets: vec![None; items.len()],
            trail: Vec::new(),
            scratch: Vec::new(),
        })
    }

    /// All columns.
    pub(super) fn all(&self) -> Range {
        let hi = self.columns.len();
        Range { lo: 0, hi }
    }

    /// The columns in the range and the items that start in them.
    pub(super) fn breadth(&self, around: Range) -> usize {
        let Range { lo, hi } = around;
        hi - lo + self.starting.n_before(hi) - self.starting.n_before(lo)
    }

    /// The offsets, in units, once every item is placed.
    pub(super) fn into_offsets(self) -> Vec<u64> {
        self.offsets.into_iter().map(|at| at.unwrap_or(0)).collect()
    }

    /// What [`Board::undo`] takes to come back to this state.
    pub(super) fn mark(&self) -> usize {
        self.trail.len()
    }

    pub(super) fn undo(&mut self, mark: usize) {
        while self.trail.len() > mark
            && let Some(undo) = self.trail.pop()
        {
            match undo {
                Undo::Surface { column, floor, top, owner } => {
                    let old = &mut self.columns[column];
                    (old.floor, old.top, old.owner) = (floor, top, owner);
                }
                Undo::Slack { column, raised_by } => {
                    let old = &mut self.columns[column];
                    old.floor -= raised_by;
                    old.slack += raised_by;
                }
                Undo::Placed(item) => {
                    self.offsets[item] = None;
                    let Item { lo, hi, .. } = self.items[item];
                    for column in &mut self.columns[lo..hi] {
                        column.n_left += 1;
                        column.n_crossing += 1;
                    }
                    self.columns[hi - 1].n_crossing -= 1;
                }
            }
        }
    }

    /// Makes a move that [`Board::survey`] gave for this state; false where it
    /// leaves a gap that an unplaced item fits in, which no canonical packing
    /// has.
    pub(super) fn apply(&mut self, step: Move) -> bool {
        match step {
            Move::Place(item) => {
                self.place(item);
                true
            }
            Move::Raise { column, to } => self.raise(column, to),
        }
    }

    fn place(&mut self, item: usize) {
        let Item { lo, hi, size } = self.items[item];
        let at = self.columns[lo].floor;
        self.offsets[item] = Some(at);
        // No item crosses out of its last column: added first, since the count may be 0.
        self.columns[hi - 1].n_crossing += 1;
        for (column, c) in self.columns[lo..hi].iter_mut().zip(lo..) {
            let Column { floor, top, owner, .. } = *column;
            self.trail.push(Undo::Surface { column: c, floor, top, owner });
            column.floor = at + size;
            column.top = at + size;
            column.owner = Some(item);
            column.n_left -= 1;
            column.n_crossing -= 1;
        }
        self.trail.push(Undo::Placed(item));
    }

    fn raise(&mut self, column: usize, to: u64) -> bool {
        let raised = &mut self.columns[column];
        let raised_by = to - raised.floor;
        raised.floor = to;
        raised.slack -= raised_by;
        self.trail.push(Undo::Slack { column, raised_by });
        let around = self.ending.at(column).iter().chain(self.starting.at(column));
        !around.copied().any(|item| self.offsets[item].is_none() && self.has_gap_for(item))
    }

    /// Whether the item fits between the placed items and the floors over
    /// them.
    fn has_gap_for(&self, item: usize) -> bool {
        let Item { lo, hi, size } = self.items[item];
        let mut gap = (0, WALL);
        for column in &self.columns[lo..hi] {
            gap = (column.top.max(gap.0), column.floor.min(gap.1));
        }
        gap.1.saturating_sub(gap.0) >= size
    }

    /// The first run of columns from `at` on that items still join together.
    pub(super) fn component(&self, at: usize, end: usize) -> Option<Range> {
        let lo = (at..end).find(|&c| self.columns[c].n_left > 0)?;
        let last = (lo..end).find(|&c| self.columns[c].n_crossing == 0);
        Some(Range { lo, hi: last.map_or(end, |c| c + 1) })
    }

    /// Writes to `best` the moves for the niche of the component to branch on;
    /// none where some niche of it can neither be filled nor left empty.
    pub(super) fn survey(&mut self, component: Range, pick: Pick, best: &mut Vec<Move>) {
        let mut best_key = None;
        let mut moves = std::mem::take(&mut self.scratch);
        best.clear();
        let mut lo = component.lo;
        while lo < component.hi {
            let floor = self.columns[lo].floor;
            let level = self.columns[lo..component.hi].iter().take_while(|c| c.floor == floor);
            let hi = lo + level.count();
            let left = if lo > component.lo { self.columns[lo - 1].floor } else { WALL };
            let right = if hi < component.hi { self.columns[hi].floor } else { WALL };
            let niche = Niche { range: Range { lo, hi }, floor, left, right };
            lo = hi;
            if left < floor || right < floor {
                continue;
            }
            let columns = &self.columns[niche.range.lo..niche.range.hi];
            let slack = columns.iter().map(|column| column.slack).min().unwrap_or(0);
            for side in [Side::Left, Side::Right] {
                self.moves(niche, side, &mut moves);
                let key = pick.key(moves.len(), floor, slack);
                if best_key.is_none_or(|best_key| key < best_key) {
                    best_key = Some(key);
                    std::mem::swap(best, &mut moves);
                }
            }
            if best.is_empty() {
                break;
            }
        }
        self.scratch = moves;
    }

    /// Lists the moves for the column at one end of the niche.
    fn moves(&self, niche: Niche, side: Side, moves: &mut Vec<Move>) {
        let Niche { range: Range { lo, hi }, floor, left, right } = niche;
        let (column, anchored, near, far) = match side {
            Side::Left => (lo, &self.starting, left, right),
            Side::Right => (hi - 1, &self.ending, right, left),
        };
        let sticks_out = |item: &Item| item.hi > hi || item.lo < lo;
        let is_left = |item: &&usize| self.offsets[**item].is_none();

        moves.clear();
        // Items that cover the column and leave the niche over its near end
        // are no lower than the floor there.
        let mut to = near;
        let mut reached = Range { lo: column, hi: column + 1 };
        for &i in anchored.at(column).iter().filter(is_left) {
            let item = &self.items[i];
            if sticks_out(item) {
                to = to.min(far);
                continue;
            }
            reached = Range { lo: reached.lo.min(item.lo), hi: reached.hi.max(item.hi) };
            let has_twin = self.twins[i].is_some_and(|twin| self.offsets[twin].is_none());
            if !has_twin && !self.is_swapped(i, floor) {
                moves.push(Move::Place(i));
            }
        }
        // The lowest of the others is on an item beside the column.
        for beside in (reached.lo..reached.hi).filter(|&c| c != column) {
            for &i in anchored.at(beside).iter().filter(is_left) {
                let item = &self.items[i];
                let from = if sticks_out(item) { far } else { floor };
                to = to.min(from.saturating_add(item.size));
            }
        }
        // A level surface leaves larger niches, so that it is tried first.
        let levels = |step: &Move| match *step {
            Move::Place(i) => [left, right].contains(&(floor + self.items[i].size)),
            Move::Raise { .. } => false,
        };
        moves.sort_by_key(|step| !levels(step));
        if to != WALL && to - floor <= self.columns[column].slack {
            moves.push(Move::Raise { column, to });
        }
    }

    /// Whether the item would be directly on one with the same columns that
    /// is to be above it.
    ///
    /// Two such items can change places, so only one of the two ways is tried.
    fn is_swapped(&self, item: usize, floor: u64) -> bool {
        let Item { lo, hi, .. } = self.items[item];
        let Column { owner, top, .. } = self.columns[lo];
        owner.is_some_and(|below| {
            let other = &self.items[below];
            other.lo == lo && other.hi == hi && top == floor && below > item
        })
    }
}
