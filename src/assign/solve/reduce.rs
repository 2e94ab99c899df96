//! Shrinks a problem to what can still matter: choices that may be part of a better answer, rows that may bind.

use super::usage::{Usage, for_each_group};
use super::{Goal, Problem};

/// Bytes above its group's least, over consecutive kept rows `start..end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    pub bytes: i64,
}

/// A reduced problem. Groups with one choice left are folded away; the choices of the others are numbered
/// consecutively, group by group, each group's by rising cost. Usage is stored above the least that any of the group's
/// choices has in that row, and that least is part of `low`, so `low` alone is a lower limit of each row's usage.
pub(super) struct Instance {
    /// First choice of each group, and one past the last choice of all.
    pub start: Vec<usize>,
    /// The group of each choice.
    pub group: Vec<usize>,
    /// Cost above the group's cheapest; zero throughout for [`Goal::Peak`].
    pub cost: Vec<f64>,
    /// The sum of the cheapest costs of all groups, folded ones included.
    pub cost_floor: f64,
    /// Bytes occupied in each kept row when each group takes its least.
    pub low: Vec<i64>,
    /// The largest `low` of any row, dropped ones included.
    pub peak_floor: i64,
    /// No row may exceed this.
    pub ceiling: i64,
    spans: Vec<Span>,
    span_start: Vec<usize>,
    /// Group and choice of the original problem.
    pub origin: Vec<(usize, usize)>,
    /// A choice of each original group: the only one left where it was folded.
    settled: Vec<usize>,
}

impl Instance {
    pub fn n_groups(&self) -> usize {
        self.start.len() - 1
    }

    pub fn n_choices(&self) -> usize {
        self.cost.len()
    }

    pub fn n_rows(&self) -> usize {
        self.low.len()
    }

    pub fn choices(&self, group: usize) -> std::ops::Range<usize> {
        self.start[group]..self.start[group + 1]
    }

    pub fn spans(&self, choice: usize) -> &[Span] {
        &self.spans[self.span_start[choice]..self.span_start[choice + 1]]
    }

    /// Bytes of `choice` above its group's least in `row`.
    pub fn bytes_at(&self, choice: usize, row: usize) -> i64 {
        let spans = self.spans(choice);
        spans.get(spans.partition_point(|s| s.end <= row)).map_or(0, |s| if s.start <= row { s.bytes } else { 0 })
    }

    /// The choice of each original group, given one reduced choice per reduced group.
    pub fn lift(&self, pick: &[usize]) -> Vec<usize> {
        let mut full = self.settled.clone();
        for &j in pick {
            let (group, choice) = self.origin[j];
            full[group] = choice;
        }
        full
    }
}

/// Which choices of each group may still be part of a better answer.
pub(super) type Alive = Vec<Vec<bool>>;

/// Reduces `problem` to assignments of `alive` choices that use at most `ceiling` bytes in each row, and clears in
/// `alive` the choices that no such assignment needs. `None` if there is no such assignment.
pub(super) fn reduce(problem: &Problem, alive: &mut Alive, goal: Goal, ceiling: i64) -> Option<Instance> {
    let all: Vec<usize> = (0..problem.row_base.len()).collect();
    let low = drop_oversized(problem, alive, ceiling, &all)?;
    let peak_floor = low.iter().copied().max().unwrap_or(0);
    let rows = binding_rows(problem, alive, if goal == Goal::Peak { peak_floor } else { ceiling });
    drop_dominated(problem, alive, goal, &rows);
    Some(build(problem, alive, goal, ceiling, peak_floor, &rows))
}

/// The same, but keeps choices that fit only in part: a mixture with smaller ones may.
pub(super) fn reduce_mixtures(problem: &Problem, ceiling: i64) -> Option<Instance> {
    let mut alive: Alive = problem.groups.iter().map(|group| vec![true; group.choices.len()]).collect();
    let all: Vec<usize> = (0..problem.row_base.len()).collect();
    let low = lows(problem, &alive, &all);
    let peak_floor = low.iter().copied().max().filter(|&floor| floor <= ceiling)?;
    let rows = binding_rows(problem, &alive, ceiling);
    drop_dominated(problem, &mut alive, Goal::Cost, &rows);
    Some(build(problem, &alive, Goal::Cost, ceiling, peak_floor, &rows))
}

/// The usage of each row where each group takes its least there.
fn lows(problem: &Problem, alive: &Alive, rows: &[usize]) -> Vec<i64> {
    let mut low = Sums::new(rows.len());
    for_each_group(problem, alive, rows, |_, _, usage| low.add(usage, |at| usage.least(at)));
    low.onto(rows.iter().map(|&row| signed(problem.row_base[row])).collect())
}

/// Sums over groups, by row, kept as the differences between one row and the next.
struct Sums(Vec<i64>);

impl Sums {
    fn new(n_rows: usize) -> Sums {
        Sums(vec![0; n_rows + 1])
    }

    /// Adds `value` of each piece of a group's rows, `None` for all rows outside them.
    fn add(&mut self, usage: &Usage<'_>, value: impl Fn(Option<usize>) -> i64) {
        let all = value(None);
        self.0[0] += all;
        for (i, piece) in usage.pieces.iter().enumerate() {
            let own = value(Some(i)) - all;
            self.0[piece.start] += own;
            self.0[piece.end] -= own;
        }
    }

    /// The sums, each added to its row of `rows`.
    fn onto(self, mut rows: Vec<i64>) -> Vec<i64> {
        let mut sum = 0;
        for (row, step) in rows.iter_mut().zip(&self.0) {
            sum += step;
            *row += sum;
        }
        rows
    }
}

/// The largest of any range of values: of each, and of 2, 4, 8 and so on from each.
struct Largest(Vec<Vec<i64>>);

impl Largest {
    fn of(values: &[i64]) -> Largest {
        let mut levels = vec![values.to_vec()];
        while let Some(last) = levels.last()
            && (1 << levels.len()) <= values.len()
        {
            let half = 1 << (levels.len() - 1);
            let next = (0..=values.len() - 2 * half).map(|i| last[i].max(last[i + half])).collect();
            levels.push(next);
        }
        Largest(levels)
    }

    fn within(&self, range: std::ops::Range<usize>) -> Option<i64> {
        let level = range.len().checked_ilog2()? as usize;
        let values = &self.0[level];
        Some(values[range.start].max(values[range.end - (1 << level)]))
    }
}

/// Saturates, which checked problems never need.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Clears the choices that overflow some row even if all other groups take their least there. Each removal can raise
/// the least of its group, hence the repetition. Gives the least usage of each row; `None` if a group or a row has
/// nothing that fits.
fn drop_oversized(problem: &Problem, alive: &mut Alive, ceiling: i64, rows: &[usize]) -> Option<Vec<i64>> {
    loop {
        if alive.iter().any(|group| !group.contains(&true)) {
            return None;
        }
        let low = lows(problem, alive, rows);
        if low.iter().any(|&l| l > ceiling) {
            return None;
        }
        let fullest = Largest::of(&low);
        let mut dead = Vec::new();
        for_each_group(problem, alive, rows, |g, choices, usage| {
            // Above the least of the group, a choice has room for what the fullest row leaves, in its own pieces and in
            // all rows outside them.
            let outside = usage.outside().filter_map(|range| fullest.within(range)).max();
            let within = usage.pieces.iter().map(|piece| fullest.within(piece.clone())).collect::<Vec<_>>();
            for (i, &c) in choices.iter().enumerate() {
                let over = |full: Option<i64>, at| {
                    full.is_some_and(|full| usage.bytes(i, at) - usage.least(at) > ceiling - full)
                };
                if over(outside, None) || (0..within.len()).any(|p| over(within[p], Some(p))) {
                    dead.push((g, c));
                }
            }
        });
        if dead.is_empty() {
            return Some(low);
        }
        dead.iter().for_each(|&(g, c)| alive[g][c] = false);
    }
}

/// The rows that may exceed `quiet` and whose usage is not, for each assignment, at most that of a kept row. Only
/// neighbours are compared: a tensor is live over an interval of rows, so a row is mostly covered by one beside it, and
/// removals make new neighbours.
fn binding_rows(problem: &Problem, alive: &Alive, quiet: i64) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..problem.row_base.len()).collect();
    loop {
        let base = |i: usize| signed(problem.row_base[rows[i]]);
        let mut high = Sums::new(rows.len());
        // The most by which a row can exceed the next one (`fall`), and the next one it (`rise`).
        let mut fall: Vec<i64> = (1..rows.len()).map(|i| base(i - 1) - base(i)).collect();
        let mut rise: Vec<i64> = fall.iter().map(|d| -d).collect();
        for_each_group(problem, alive, &rows, |_, _, usage| {
            high.add(usage, |at| usage.most(|c| usage.bytes(c, at)));
            // Only where a piece begins or ends does a row differ from the next.
            for pair in usage.steps() {
                let change = |c: usize| usage.at(c, pair + 1) - usage.at(c, pair);
                fall[pair] += usage.most(|c| -change(c));
                rise[pair] += usage.most(change);
            }
        });
        let high = high.onto((0..rows.len()).map(base).collect());
        let keep: Vec<usize> = (0..rows.len())
            .filter(|&i| {
                let under_previous = i > 0 && rise[i - 1] <= 0;
                // Of two equal rows the first stays, or both would go.
                let under_next = i + 1 < rows.len() && fall[i] <= 0 && rise[i] > 0;
                high[i] > quiet && !under_previous && !under_next
            })
            .map(|i| rows[i])
            .collect();
        // A pass costs as much as reading the problem: a late pass that removes little is not worth it.
        let done = keep.len() + rows.len() / 16 >= rows.len();
        rows = keep;
        if done {
            return rows;
        }
    }
}

/// Clears each choice that costs at least as much as another of its group and uses at least as much in each of `rows`.
/// The cost of a peak is nil, so there it only decides between equals.
fn drop_dominated(problem: &Problem, alive: &mut Alive, goal: Goal, rows: &[usize]) {
    let mut dead = Vec::new();
    for_each_group(problem, alive, rows, |g, choices, usage| {
        let cost = |i: usize| problem.groups[g].choices[choices[i]].cost;
        let mut gone = vec![false; choices.len()];
        for i in 0..choices.len() {
            gone[i] = (0..choices.len()).any(|k| {
                let cheaper = goal == Goal::Peak || cost(k) <= cost(i);
                if k == i || gone[k] || !cheaper || !usage.covers(i, k) {
                    return false;
                }
                !usage.covers(k, i) || (cost(k), k) < (cost(i), i)
            });
            if gone[i] {
                dead.push((g, choices[i]));
            }
        }
    });
    dead.iter().for_each(|&(g, c)| alive[g][c] = false);
}

fn build(problem: &Problem, alive: &Alive, goal: Goal, ceiling: i64, peak_floor: i64, rows: &[usize]) -> Instance {
    let mut inst = Instance {
        start: vec![0],
        group: Vec::new(),
        cost: Vec::new(),
        cost_floor: 0.0,
        low: rows.iter().map(|&r| signed(problem.row_base[r])).collect(),
        peak_floor,
        ceiling,
        spans: Vec::new(),
        span_start: vec![0],
        origin: Vec::new(),
        settled: Vec::new(),
    };
    let mut low = Sums::new(rows.len());
    for_each_group(problem, alive, rows, |g, choices, usage| {
        let cost = |i: usize| {
            if goal == Goal::Peak { 0.0 } else { problem.groups[g].choices[choices[i]].cost }
        };
        let total = |i: usize| {
            let inside = |(p, piece): (usize, &std::ops::Range<usize>)| {
                i128::from(usage.bytes(i, Some(p))) * piece.len() as i128
            };
            i128::from(usage.bytes(i, None)) * usage.n_outside() as i128
                + usage.pieces.iter().enumerate().map(inside).sum::<i128>()
        };
        let mut order: Vec<usize> = (0..choices.len()).collect();
        order.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)).then_with(|| total(a).cmp(&total(b))));
        let cheapest = order.first().map_or(0.0, |&i| cost(i));
        inst.cost_floor += cheapest;
        inst.settled.push(order.first().map_or(0, |&i| choices[i]));
        low.add(usage, |at| usage.least(at));
        if choices.len() < 2 {
            return;
        }
        for &i in &order {
            inst.group.push(inst.start.len() - 1);
            inst.cost.push(cost(i) - cheapest);
            inst.origin.push((g, choices[i]));
            encode(usage, i, &mut inst.spans);
            inst.span_start.push(inst.spans.len());
        }
        inst.start.push(inst.cost.len());
    });
    inst.low = low.onto(std::mem::take(&mut inst.low));
    inst
}

/// Appends the runs of rows in which a choice uses equally many bytes, and some, above the least of its group.
fn encode(usage: &Usage<'_>, choice: usize, spans: &mut Vec<Span>) {
    let above = |at| usage.bytes(choice, at) - usage.least(at);
    let before = spans.len();
    let mut add = |start: usize, end: usize, bytes: i64| match spans[before..].last_mut() {
        Some(span) if span.end == start && span.bytes == bytes => span.end = end,
        _ if start < end && bytes != 0 => spans.push(Span { start, end, bytes }),
        _ => {}
    };
    let mut next = 0;
    for (i, piece) in usage.pieces.iter().enumerate() {
        add(next, piece.start, above(None));
        add(piece.start, piece.end, above(Some(i)));
        next = piece.end;
    }
    add(next, usage.n_rows, above(None));
}
