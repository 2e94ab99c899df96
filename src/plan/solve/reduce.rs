//! Shrinks a problem to what can still matter: choices that may be part of a better answer, rows that may bind.

use super::{Choice, Goal, Problem};

/// Bytes above its group's least, over consecutive kept rows `start..end`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub start: usize,
    pub end: usize,
    pub bytes: i64,
}

/// A reduced problem. Groups with one choice left are folded away; the choices of the others are numbered consecutively, group by group,
/// each group's by rising cost. Usage is stored above the least that any of the group's choices has in that row, and that least is part of
/// `low`, so `low` alone is a lower limit of each row's usage.
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
        self.spans(choice).iter().find(|s| s.end > row).map_or(0, |s| if s.start <= row { s.bytes } else { 0 })
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

/// Reduces `problem` to assignments of `alive` choices that use at most `ceiling` bytes in each row, and clears in `alive` the choices that
/// no such assignment needs. `None` if there is no such assignment.
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
    let mut low: Vec<i64> = rows.iter().map(|&row| signed(problem.row_base[row])).collect();
    let mut floor = Vec::new();
    for_each_group(problem, alive, rows, |_, _, usage| {
        least(usage, &mut floor);
        low.iter_mut().zip(&floor).for_each(|(l, &f)| *l += f);
    });
    low
}

/// Saturates, which checked problems never need.
pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Usage of one choice in each row of the problem.
fn expand(choice: &Choice, usage: &mut [i64]) {
    usage.fill(signed(choice.fixed_bytes));
    for &(row, bytes) in &choice.rows {
        usage[row as usize] += signed(bytes);
    }
}

/// Calls `visit` with each group's number, its live choices and their usage over `rows`.
fn for_each_group(problem: &Problem, alive: &Alive, rows: &[usize], mut visit: impl FnMut(usize, &[usize], &[Vec<i64>])) {
    let mut full = vec![0; problem.row_base.len()];
    let mut usage: Vec<Vec<i64>> = Vec::new();
    let mut choices = Vec::new();
    for (g, group) in problem.groups.iter().enumerate() {
        choices.clear();
        choices.extend((0..group.choices.len()).filter(|&c| alive[g][c]));
        usage.resize_with(usage.len().max(choices.len()), || vec![0; rows.len()]);
        for (slot, &c) in usage.iter_mut().zip(&choices) {
            expand(&group.choices[c], &mut full);
            slot.iter_mut().zip(rows).for_each(|(s, &r)| *s = full[r]);
        }
        visit(g, &choices, &usage[..choices.len()]);
    }
}

/// The least usage of any choice, row by row.
fn least(usage: &[Vec<i64>], out: &mut Vec<i64>) {
    out.clear();
    if let Some((first, rest)) = usage.split_first() {
        out.extend_from_slice(first);
        for row in rest {
            out.iter_mut().zip(row).for_each(|(o, &u)| *o = (*o).min(u));
        }
    }
}

/// Clears the choices that overflow some row even if all other groups take their least there. Each removal can raise the least of its
/// group, hence the repetition. Gives the least usage of each row; `None` if a group or a row has nothing that fits.
fn drop_oversized(problem: &Problem, alive: &mut Alive, ceiling: i64, rows: &[usize]) -> Option<Vec<i64>> {
    let mut floor = Vec::new();
    loop {
        if alive.iter().any(|group| !group.contains(&true)) {
            return None;
        }
        let low = lows(problem, alive, rows);
        if low.iter().any(|&l| l > ceiling) {
            return None;
        }
        let mut dead = Vec::new();
        for_each_group(problem, alive, rows, |g, choices, usage| {
            least(usage, &mut floor);
            for (&c, used) in choices.iter().zip(usage) {
                if used.iter().zip(&floor).zip(&low).any(|((&u, &f), &l)| u - f > ceiling - l) {
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

/// The rows that may exceed `quiet` and whose usage is not, for each assignment, at most that of a kept row. Only neighbours are compared:
/// a tensor is live over an interval of rows, so a row is mostly covered by one beside it, and removals make new neighbours.
fn binding_rows(problem: &Problem, alive: &Alive, quiet: i64) -> Vec<usize> {
    let mut rows: Vec<usize> = (0..problem.row_base.len()).collect();
    let mut most = Vec::new();
    loop {
        let base = |i: usize| signed(problem.row_base[rows[i]]);
        let mut high: Vec<i64> = (0..rows.len()).map(base).collect();
        // The most by which a row can exceed the next one (`fall`), and the next one it (`rise`).
        let mut fall: Vec<i64> = (1..rows.len()).map(|i| base(i - 1) - base(i)).collect();
        let mut rise: Vec<i64> = fall.iter().map(|d| -d).collect();
        for_each_group(problem, alive, &rows, |_, _, usage| {
            add_most(&mut high, &mut most, usage.iter().map(|u| u.iter().copied()));
            add_most(&mut fall, &mut most, usage.iter().map(|u| u.windows(2).map(|w| w[0] - w[1])));
            add_most(&mut rise, &mut most, usage.iter().map(|u| u.windows(2).map(|w| w[1] - w[0])));
        });
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

/// Adds to `total`, element by element, the largest value of any of `series`.
fn add_most(total: &mut [i64], most: &mut Vec<i64>, series: impl Iterator<Item = impl Iterator<Item = i64>>) {
    most.clear();
    most.resize(total.len(), i64::MIN);
    for values in series {
        most.iter_mut().zip(values).for_each(|(m, v)| *m = (*m).max(v));
    }
    total.iter_mut().zip(most.iter()).for_each(|(t, &m)| *t += m);
}

/// Clears each choice that costs at least as much as another of its group and uses at least as much in each of `rows`. The cost of a peak
/// is nil, so there it only decides between equals.
fn drop_dominated(problem: &Problem, alive: &mut Alive, goal: Goal, rows: &[usize]) {
    let mut dead = Vec::new();
    for_each_group(problem, alive, rows, |g, choices, usage| {
        let cost = |i: usize| problem.groups[g].choices[choices[i]].cost;
        let mut gone = vec![false; choices.len()];
        for i in 0..choices.len() {
            gone[i] = (0..choices.len()).any(|k| {
                let cheaper = goal == Goal::Peak || cost(k) <= cost(i);
                let over = || usage[i].iter().zip(&usage[k]).all(|(a, b)| a >= b);
                if k == i || gone[k] || !cheaper || !over() {
                    return false;
                }
                let equal = usage[i] == usage[k];
                !equal || (cost(k), k) < (cost(i), i)
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
    let mut floor = Vec::new();
    for_each_group(problem, alive, rows, |g, choices, usage| {
        let cost = |i: usize| {
            if goal == Goal::Peak { 0.0 } else { problem.groups[g].choices[choices[i]].cost }
        };
        let total = |i: usize| usage[i].iter().map(|&u| i128::from(u)).sum::<i128>();
        let mut order: Vec<usize> = (0..choices.len()).collect();
        order.sort_by(|&a, &b| cost(a).total_cmp(&cost(b)).then_with(|| total(a).cmp(&total(b))));
        let cheapest = order.first().map_or(0.0, |&i| cost(i));
        inst.cost_floor += cheapest;
        inst.settled.push(order.first().map_or(0, |&i| choices[i]));
        least(usage, &mut floor);
        inst.low.iter_mut().zip(&floor).for_each(|(l, &f)| *l += f);
        if choices.len() < 2 {
            return;
        }
        for &i in &order {
            inst.group.push(inst.start.len() - 1);
            inst.cost.push(cost(i) - cheapest);
            inst.origin.push((g, choices[i]));
            encode(&usage[i], &floor, &mut inst.spans);
            inst.span_start.push(inst.spans.len());
        }
        inst.start.push(inst.cost.len());
    });
    inst
}

/// Appends the runs of equal, non-zero `usage - floor`.
fn encode(usage: &[i64], floor: &[i64], spans: &mut Vec<Span>) {
    let mut open: Option<Span> = None;
    for (row, bytes) in usage.iter().zip(floor).map(|(u, f)| u - f).enumerate() {
        match &mut open {
            Some(span) if span.bytes == bytes => span.end = row + 1,
            _ => {
                spans.extend(open.take());
                open = (bytes != 0).then_some(Span { start: row, end: row + 1, bytes });
            }
        }
    }
    spans.extend(open);
}
