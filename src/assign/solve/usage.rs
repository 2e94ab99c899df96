//! What the choices of one group use of the rows. Most have bytes of their own in a few rows only; what is the same in
//! all others is kept once, so that schedules of tens of thousands of steps cost what is in them.

use super::Problem;
use super::reduce::{Alive, signed};
use std::ops::Range;

/// What the live choices of a group use of some rows.
pub(super) struct Usage<'a> {
    /// How many rows there are.
    pub n_rows: usize,
    /// Ranges of rows in each of which every choice uses equally many bytes; ascending, apart. Outside all of them no
    /// choice has bytes of its own.
    pub pieces: &'a [Range<usize>],
    /// For each choice its bytes outside the pieces, and those in each piece.
    choices: &'a [(i64, Vec<i64>)],
}

impl Usage<'_> {
    /// Bytes of a choice in a piece, or outside all where that is `None`.
    pub fn bytes(&self, choice: usize, piece: Option<usize>) -> i64 {
        let (outside, own) = &self.choices[choice];
        piece.map_or(*outside, |p| own[p])
    }

    /// The least that any choice uses in a piece, or outside all.
    pub fn least(&self, piece: Option<usize>) -> i64 {
        (0..self.choices.len()).map(|c| self.bytes(c, piece)).min().unwrap_or(0)
    }

    /// The most that any choice has of something.
    pub fn most(&self, of: impl Fn(usize) -> i64) -> i64 {
        (0..self.choices.len()).map(of).max().unwrap_or(0)
    }

    /// Bytes of a choice in one row.
    pub fn at(&self, choice: usize, row: usize) -> i64 {
        let next = self.pieces.partition_point(|piece| piece.end <= row);
        self.bytes(choice, (next < self.pieces.len() && self.pieces[next].start <= row).then_some(next))
    }

    /// The rows outside all pieces.
    pub fn outside(&self) -> impl Iterator<Item = Range<usize>> {
        let starts = std::iter::once(0).chain(self.pieces.iter().map(|piece| piece.end));
        let ends = self.pieces.iter().map(|piece| piece.start).chain([self.n_rows]);
        starts.zip(ends).map(|(start, end)| start..end).filter(|range| !range.is_empty())
    }

    /// How many rows are outside all pieces.
    pub fn n_outside(&self) -> usize {
        self.n_rows - self.pieces.iter().map(Range::len).sum::<usize>()
    }

    /// The rows whose usage may differ from that of the next, each once.
    pub fn steps(&self) -> impl Iterator<Item = usize> {
        let mut last = None;
        let edges =
            self.pieces.iter().flat_map(|piece| [piece.start.checked_sub(1), piece.end.checked_sub(1)]).flatten();
        edges.filter(move |&row| row + 1 < self.n_rows && last.replace(row) != Some(row))
    }

    /// Whether a choice uses at least as much as another in each row.
    pub fn covers(&self, choice: usize, other: usize) -> bool {
        let (a, b) = (&self.choices[choice], &self.choices[other]);
        (a.0 >= b.0 || self.n_outside() == 0) && a.1.iter().zip(&b.1).all(|(a, b)| a >= b)
    }
}

/// Calls `visit` with each group's number, its live choices and what they use of `rows`, which ascend.
pub(super) fn for_each_group(
    problem: &Problem,
    alive: &Alive,
    rows: &[usize],
    mut visit: impl FnMut(usize, &[usize], &Usage<'_>),
) {
    // How many of the rows come before each row of the problem.
    let mut before = vec![0; problem.row_base.len() + 1];
    rows.iter().for_each(|&row| before[row + 1] = 1);
    for row in 1..before.len() {
        before[row] += before[row - 1];
    }
    let mut live: Vec<usize> = Vec::new();
    let (mut edges, mut pieces): (Vec<usize>, Vec<Range<usize>>) = (Vec::new(), Vec::new());
    let mut own: Vec<Vec<(Range<usize>, i64)>> = Vec::new();
    let mut usage: Vec<(i64, Vec<i64>)> = Vec::new();
    for (g, group) in problem.groups.iter().enumerate() {
        live.clear();
        live.extend((0..group.choices.len()).filter(|&c| alive[g][c]));
        own.clear();
        own.extend(live.iter().map(|&c| {
            let runs = group.choices[c].rows.iter();
            let placed = runs.map(|run| (before[run.first as usize]..before[run.last as usize + 1], signed(run.bytes)));
            placed.filter(|(range, _)| !range.is_empty()).collect()
        }));
        edges.clear();
        edges.extend(own.iter().flatten().flat_map(|(range, _)| [range.start, range.end]));
        edges.sort_unstable();
        edges.dedup();
        pieces.clear();
        pieces.extend(edges.windows(2).map(|pair| pair[0]..pair[1]));
        usage.resize_with(usage.len().max(live.len()), || (0, Vec::new()));
        for ((slot, &c), own) in usage.iter_mut().zip(&live).zip(&own) {
            slot.0 = signed(group.choices[c].fixed_bytes);
            slot.1.clear();
            slot.1.resize(pieces.len(), slot.0);
            let mut first = 0;
            for (range, bytes) in own {
                first += pieces[first..].partition_point(|piece| piece.start < range.start);
                for (piece, used) in
                    pieces[first..].iter().zip(&mut slot.1[first..]).take_while(|(piece, _)| piece.end <= range.end)
                {
                    debug_assert!(piece.start >= range.start);
                    *used += bytes;
                }
            }
        }
        visit(g, &live, &Usage { n_rows: rows.len(), pieces: &pieces, choices: &usage[..live.len()] });
    }
}
