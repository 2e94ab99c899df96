//! Dual simplex method for the relaxation, with implicit multiple-choice constraints and rows added as they are violated.
//!
//! Each group's constraint "the fractions of its choices sum to one" is kept out of the basis by a key choice per group (generalised upper
//! bounding, Dantzig and Van Slyke 1967): the basis is only as large as the number of rows in play, a few dozen, so a dense inverse is both
//! the simplest and the fastest. Nothing here needs to be exact: bounds are taken from [`Model::lagrangian`].

use super::model::{Dual, Model, Row};

/// Fractions and slacks, all about one at most, are taken as non-negative down to this.
const PRIMAL_TOLERANCE: f64 = 1e-9;
/// Slack given to reduced costs in the ratio test, in units of the objective.
const DUAL_TOLERANCE: f64 = 1e-11;
const PIVOT_TOLERANCE: f64 = 1e-9;
/// Pivots between two refactorizations.
const REFACTOR_EVERY: usize = 64;
/// Rows added at once.
const ROWS_PER_ROUND: usize = 12;

/// A column of the working basis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Column {
    /// A choice, less the key choice of its group.
    Choice(usize),
    /// The slack of the row at this position.
    Slack(usize),
    /// The excess of the peak over its floor.
    Relief,
}

/// Where a run of pivots ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Optimal,
    /// The objective reached the cutoff, as far as rounding errors tell.
    Cutoff,
    /// Nothing fits: this is proven.
    Infeasible,
    /// Out of pivots, or numerically stuck. The multipliers are still valid ones.
    Stalled,
}

/// What is needed to return to a basis. Rows that do not bind are left out.
#[derive(Clone)]
pub(super) struct Basis {
    key: Vec<usize>,
    head: Vec<Column>,
    rows: Vec<usize>,
}

pub(super) struct Simplex<'a> {
    model: &'a Model<'a>,
    /// Rows computed so far, and where each row of the instance is among them.
    pool: Vec<Row>,
    pooled: Vec<Option<usize>>,
    /// Rows in play, as indices of `pool`.
    rows: Vec<usize>,
    banned: Vec<bool>,
    /// The key choice of each group.
    key: Vec<usize>,
    /// The basic column at each position, its value, and the rows of the inverse of the working basis.
    head: Vec<Column>,
    x: Vec<f64>,
    inverse: Vec<Vec<f64>>,
    /// Whether each choice is a key or in `head`.
    basic: Vec<bool>,
    /// Reduced costs of the choices and of the excess; those of the slacks are `pi`.
    reduced: Vec<f64>,
    relief_reduced: f64,
    pi: Vec<f64>,
    objective: f64,
}

impl<'a> Simplex<'a> {
    pub fn new(model: &'a Model<'a>) -> Simplex<'a> {
        let n = model.inst.n_choices();
        let mut simplex = Simplex {
            model,
            pool: Vec::new(),
            pooled: vec![None; model.inst.n_rows()],
            rows: Vec::new(),
            banned: vec![false; n],
            key: Vec::new(),
            head: Vec::new(),
            x: Vec::new(),
            inverse: Vec::new(),
            basic: vec![false; n],
            reduced: vec![0.0; n],
            relief_reduced: 1.0,
            pi: Vec::new(),
            objective: 0.0,
        };
        simplex.restart();
        simplex
    }

    /// Allows exactly the choices whose bit is set.
    pub fn allow(&mut self, bits: &[u64]) {
        self.banned.iter_mut().enumerate().for_each(|(j, banned)| *banned = bits[j / 64] >> (j % 64) & 1 == 0);
    }

    pub fn allows(&self, choice: usize) -> bool {
        !self.banned[choice]
    }

    pub fn ban(&mut self, choice: usize) {
        self.banned[choice] = true;
    }

    /// Bans the choices that overflow a row in play even if all other groups take their least there, in answers whose objective is below
    /// `cutoff`. False if nothing is left.
    pub fn ban_oversized(&mut self, cutoff: f64) -> bool {
        let inst = self.model.inst;
        let allowed: Vec<usize> = (0..inst.n_choices()).filter(|&j| !self.banned[j]).collect();
        let mut floor = vec![0.0; inst.n_groups()];
        for &at in &self.rows {
            let row = &self.pool[at];
            floor.fill(f64::INFINITY);
            for &j in &allowed {
                let floor = &mut floor[inst.group[j]];
                *floor = floor.min(row.coef[j]);
            }
            let room = row.rhs + row.relief * cutoff.max(0.0) - floor.iter().sum::<f64>();
            // Sums of numbers about one are exact to far less than the tolerance.
            if room < -PRIMAL_TOLERANCE {
                return false;
            }
            for &j in &allowed {
                self.banned[j] |= row.coef[j] - floor[inst.group[j]] > room + PRIMAL_TOLERANCE;
            }
        }
        true
    }

    /// Goes to the basis without rows in which each group takes its cheapest allowed choice.
    pub fn restart(&mut self) {
        let inst = self.model.inst;
        self.key = (0..inst.n_groups()).map(|g| inst.choices(g).find(|&j| !self.banned[j]).unwrap_or(inst.start[g])).collect();
        self.rows.clear();
        self.head.clear();
        self.refactor();
    }

    pub fn basis(&self) -> Basis {
        let tight: Vec<usize> = (0..self.rows.len()).filter(|&i| !self.head.contains(&Column::Slack(i))).collect();
        Basis {
            key: self.key.clone(),
            head: self.head.iter().copied().filter(|c| !matches!(c, Column::Slack(_))).collect(),
            rows: tight.iter().map(|&i| self.pool[self.rows[i]].id).collect(),
        }
    }

    /// Returns to `basis`; the caller sets the allowed choices to what they were then, or fewer.
    pub fn restore(&mut self, basis: &Basis) {
        self.rows.clear();
        for &id in &basis.rows {
            let at = self.pool_row(id);
            self.rows.push(at);
        }
        self.key.clone_from(&basis.key);
        self.head.clone_from(&basis.head);
        if !self.refactor() {
            self.restart();
        }
    }

    /// The fractions of the choices that have one, in no particular order.
    pub fn fractions(&self) -> Vec<(usize, f64)> {
        let left = self.key_values();
        let heads = self.head.iter().zip(&self.x).filter_map(|(c, &x)| if let Column::Choice(j) = *c { Some((j, x)) } else { None });
        self.key.iter().copied().zip(left).chain(heads).filter(|&(_, x)| x > PRIMAL_TOLERANCE).collect()
    }

    /// What the current multipliers prove.
    pub fn dual(&self) -> Dual {
        self.model.lagrangian(self.active_rows(), &self.pi, &self.banned, true)
    }

    /// Objective a byte of capacity.
    pub fn price(&self) -> f64 {
        self.model.price(self.active_rows(), &self.pi)
    }

    fn active_rows(&self) -> impl Iterator<Item = &Row> {
        self.rows.iter().map(|&at| &self.pool[at])
    }

    fn pool_row(&mut self, id: usize) -> usize {
        if let Some(at) = self.pooled[id] {
            return at;
        }
        let at = self.pool.len();
        self.pool.push(self.model.row(id));
        self.pooled[id] = Some(at);
        at
    }

    /// Solves the relaxation over all rows of the instance, or stops once its value reaches `cutoff`.
    pub fn solve(&mut self, cutoff: f64) -> Status {
        loop {
            match self.pivots(cutoff) {
                Status::Optimal if self.add_violated_rows() => {}
                status => return status,
            }
        }
    }

    /// Adds the rows that the current fractions violate most, at most one of each run of violated rows.
    fn add_violated_rows(&mut self) -> bool {
        let inst = self.model.inst;
        // A difference array over rows: each span adds at its start and takes away at its end.
        let mut steps = vec![0.0; inst.n_rows() + 1];
        for (j, x) in self.fractions() {
            for span in inst.spans(j) {
                steps[span.start] += x * span.bytes as f64;
                steps[span.end] -= x * span.bytes as f64;
            }
        }
        let excess = self.head.iter().position(|c| *c == Column::Relief).map_or(0.0, |p| self.x[p]);
        let limit = self.model.row_limit(excess);
        let mut used = 0.0;
        let mut worst: Vec<(f64, usize)> = Vec::new();
        let mut open = false;
        for (row, (&low, step)) in inst.low.iter().zip(&steps).enumerate() {
            used += step;
            let over = (low as f64 + used - limit) / ((inst.ceiling - low).max(1) as f64);
            if over <= 4.0 * PRIMAL_TOLERANCE {
                open = false;
                continue;
            }
            match worst.last_mut() {
                Some(last) if open && over > last.0 => *last = (over, row),
                Some(_) if open => {}
                _ => worst.push((over, row)),
            }
            open = true;
        }
        worst.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
        let before = self.rows.len();
        for &(_, id) in worst.iter() {
            let at = self.pool_row(id);
            if self.rows.len() < before + ROWS_PER_ROUND && !self.rows.contains(&at) {
                self.append_row(at);
            }
        }
        self.rows.len() > before
    }

    /// Adds a row with its slack basic, which leaves the multipliers as they are.
    fn append_row(&mut self, at: usize) {
        let row = &self.pool[at];
        let m = self.rows.len();
        let weights: Vec<f64> = self.head.iter().map(|&c| self.coefficient(row, usize::MAX, c)).collect();
        let mut inverse = vec![0.0; m + 1];
        let mut slack = row.rhs - self.key.iter().map(|&k| row.coef[k]).sum::<f64>();
        for ((w, line), x) in weights.iter().zip(&self.inverse).zip(&self.x) {
            if *w != 0.0 {
                inverse.iter_mut().zip(line).for_each(|(o, v)| *o -= w * v);
                slack -= w * x;
            }
        }
        inverse[m] = 1.0;
        self.inverse.iter_mut().for_each(|line| line.push(0.0));
        self.inverse.push(inverse);
        self.rows.push(at);
        self.head.push(Column::Slack(m));
        self.x.push(slack);
        self.pi.push(0.0);
    }

    /// The entry of a column in `row`, which is at position `i`.
    fn coefficient(&self, row: &Row, i: usize, column: Column) -> f64 {
        match column {
            Column::Choice(j) => row.coef[j] - row.coef[self.key[self.model.inst.group[j]]],
            Column::Slack(s) => f64::from(u8::from(s == i)),
            Column::Relief => -row.relief,
        }
    }

    /// The value of each group's key choice.
    fn key_values(&self) -> Vec<f64> {
        let mut left = vec![1.0; self.key.len()];
        for (column, x) in self.head.iter().zip(&self.x) {
            if let Column::Choice(j) = *column {
                left[self.model.inst.group[j]] -= x;
            }
        }
        left
    }

    fn pivots(&mut self, cutoff: f64) -> Status {
        let mut budget = 200 + 20 * (self.rows.len() + self.key.len());
        let mut fresh = 0;
        loop {
            if self.objective >= cutoff {
                return Status::Cutoff;
            }
            if fresh == REFACTOR_EVERY && !self.refactor() {
                return Status::Stalled;
            }
            fresh %= REFACTOR_EVERY;
            let Some((position, goes_up)) = self.leaving() else {
                return Status::Optimal;
            };
            if budget == 0 {
                return Status::Stalled;
            }
            budget -= 1;
            fresh += 1;
            match position {
                Leaving::Key(group) => {
                    if !self.exchange_key(group) {
                        return Status::Infeasible;
                    }
                }
                Leaving::Head(p) => match self.pivot(p, goes_up) {
                    Pivot::Done => {}
                    Pivot::Blocked => return self.blocked(p, goes_up),
                    Pivot::Inexact if fresh > 1 => fresh = REFACTOR_EVERY,
                    Pivot::Inexact => return Status::Stalled,
                },
            }
        }
    }

    /// Picks the basic variable that is furthest out of its bounds, in the norm of its row of the inverse (dual steepest edge), and says
    /// whether it must rise. A key variable that other basic choices of its group can replace is exchanged for one of those first.
    fn leaving(&mut self) -> Option<(Leaving, bool)> {
        let mut best: Option<(f64, Leaving, bool)> = None;
        let mut offer = |score: f64, leaving, up| {
            if best.is_none_or(|(s, _, _)| score > s) {
                best = Some((score, leaving, up));
            }
        };
        let excess = |x: f64, banned: bool| if banned { x.abs() } else { -x };
        for (p, (&column, &x)) in self.head.iter().zip(&self.x).enumerate() {
            let banned = matches!(column, Column::Choice(j) if self.banned[j]);
            if excess(x, banned) > PRIMAL_TOLERANCE {
                let norm: f64 = self.inverse[p].iter().map(|v| v * v).sum();
                offer(x * x / norm.max(f64::MIN_POSITIVE), Leaving::Head(p), x < 0.0);
            }
        }
        for (g, &x) in self.key_values().iter().enumerate() {
            if excess(x, self.banned[self.key[g]]) > PRIMAL_TOLERANCE {
                offer(x * x, Leaving::Key(g), x < 0.0);
            }
        }
        let (_, leaving, up) = best?;
        let Leaving::Key(g) = leaving else {
            return Some((leaving, up));
        };
        Some(self.swap_key(g).map_or((leaving, up), |p| (Leaving::Head(p), up)))
    }

    /// Makes the largest basic choice of `group` its key, and gives the position that the old key takes in its stead.
    fn swap_key(&mut self, group: usize) -> Option<usize> {
        let members: Vec<(usize, usize)> = (0..self.head.len())
            .filter_map(|p| match self.head[p] {
                Column::Choice(j) if self.model.inst.group[j] == group => Some((p, j)),
                _ => None,
            })
            .collect();
        let &(at, choice) = members.iter().max_by(|a, b| self.x[a.0].total_cmp(&self.x[b.0]))?;
        let mut line = vec![0.0; self.rows.len()];
        let mut value = 1.0;
        for &(p, _) in &members {
            line.iter_mut().zip(&self.inverse[p]).for_each(|(o, v)| *o -= v);
            value -= self.x[p];
        }
        self.inverse[at] = line;
        self.x[at] = value;
        self.head[at] = Column::Choice(self.key[group]);
        self.key[group] = choice;
        Some(at)
    }

    /// Replaces a banned key that is alone in its group by the cheapest allowed choice. False if there is none.
    fn exchange_key(&mut self, group: usize) -> bool {
        let (old, choices) = (self.key[group], self.model.inst.choices(group));
        let allowed = choices.clone().filter(|&j| !self.banned[j]);
        let Some(new) = allowed.min_by(|&a, &b| self.reduced[a].total_cmp(&self.reduced[b])) else {
            return false;
        };
        let rise = self.reduced[new];
        choices.for_each(|j| self.reduced[j] -= rise);
        self.objective += rise;
        for i in 0..self.rows.len() {
            let coef = &self.pool[self.rows[i]].coef;
            let change = coef[new] - coef[old];
            if change != 0.0 {
                self.x.iter_mut().zip(&self.inverse).for_each(|(x, line)| *x -= change * line[i]);
            }
        }
        self.key[group] = new;
        self.basic[old] = false;
        self.basic[new] = true;
        true
    }

    /// Takes the column at position `p` out of the basis, for the one that keeps all reduced costs non-negative.
    fn pivot(&mut self, p: usize, goes_up: bool) -> Pivot {
        let rho = self.inverse[p].clone();
        let mut alpha = vec![0.0; self.model.inst.n_choices()];
        let mut relief_alpha = 0.0;
        for (row, &r) in self.active_rows().zip(&rho) {
            if r != 0.0 {
                alpha.iter_mut().zip(&row.coef).for_each(|(a, c)| *a += r * c);
                relief_alpha -= r * row.relief;
            }
        }
        for (g, &key) in self.key.iter().enumerate() {
            let base = alpha[key];
            self.model.inst.choices(g).for_each(|j| alpha[j] -= base);
        }
        let Some((enter, along, price)) = self.entering(&rho, &alpha, relief_alpha, goes_up) else {
            return Pivot::Blocked;
        };
        let column: Vec<f64> = self.active_rows().enumerate().map(|(i, row)| self.coefficient(row, i, enter)).collect();
        let weights: Vec<f64> = self.inverse.iter().map(|line| dot(line, &column)).collect();
        if (weights[p] - along).abs() > 1e-7 * (1.0 + along.abs()) {
            return Pivot::Inexact;
        }

        let theta = price.max(0.0) / along;
        self.objective += theta * self.x[p];
        for j in 0..alpha.len() {
            if !self.basic[j] {
                self.reduced[j] -= theta * alpha[j];
            }
        }
        self.pi.iter_mut().zip(&rho).for_each(|(y, r)| *y -= theta * r);
        self.relief_reduced -= theta * relief_alpha;
        self.set_basic(self.head[p], false, -theta);
        self.set_basic(enter, true, 0.0);

        let step = self.x[p] / weights[p];
        let line: Vec<f64> = self.inverse[p].iter().map(|v| v / weights[p]).collect();
        for (q, &w) in weights.iter().enumerate() {
            if q != p && w != 0.0 {
                self.x[q] -= w * step;
                self.inverse[q].iter_mut().zip(&line).for_each(|(v, l)| *v -= w * l);
            }
        }
        self.x[p] = step;
        self.inverse[p] = line;
        self.head[p] = enter;
        Pivot::Done
    }

    fn set_basic(&mut self, column: Column, basic: bool, reduced: f64) {
        match column {
            Column::Choice(j) => {
                self.basic[j] = basic;
                self.reduced[j] = reduced;
            }
            Column::Slack(i) => self.pi[i] = reduced,
            Column::Relief => self.relief_reduced = reduced,
        }
    }

    /// The column whose reduced cost reaches zero first, among near-ties the one with the largest pivot (Harris 1973), with its entry in
    /// the pivot row and its reduced cost.
    fn entering(&self, rho: &[f64], alpha: &[f64], relief_alpha: f64, goes_up: bool) -> Option<(Column, f64, f64)> {
        let sign = if goes_up { -1.0 } else { 1.0 };
        let slack_basic = |i: usize| self.head.contains(&Column::Slack(i));
        let mut candidates: Vec<(Column, f64, f64)> = Vec::new();
        let mut offer = |column, along: f64, price: f64| {
            if sign * along > PIVOT_TOLERANCE {
                candidates.push((column, along, price));
            }
        };
        for (j, (&along, &price)) in alpha.iter().zip(&self.reduced).enumerate() {
            if !self.basic[j] && !self.banned[j] {
                offer(Column::Choice(j), along, price);
            }
        }
        for (i, (&along, &price)) in rho.iter().zip(&self.pi).enumerate() {
            if along != 0.0 && !slack_basic(i) {
                offer(Column::Slack(i), along, price);
            }
        }
        if !self.head.contains(&Column::Relief) {
            offer(Column::Relief, relief_alpha, self.relief_reduced);
        }
        let reach = candidates.iter().map(|(_, a, d)| (d.max(0.0) + DUAL_TOLERANCE) / a.abs()).fold(f64::INFINITY, f64::min);
        let near = candidates.into_iter().filter(|(_, a, d)| d.max(0.0) / a.abs() <= reach);
        near.reduce(|best, c| if c.1.abs() > best.1.abs() { c } else { best })
    }

    /// Nothing can enter: the row of the inverse is a proof that nothing fits, unless rounding errors made it up.
    fn blocked(&mut self, p: usize, goes_up: bool) -> Status {
        let sign = if goes_up { 1.0 } else { -1.0 };
        let ray: Vec<f64> = self.inverse[p].iter().map(|v| sign * v).collect();
        let proof = self.model.lagrangian(self.active_rows(), &ray, &self.banned, false);
        if proof.bound > 0.0 { Status::Infeasible } else { Status::Stalled }
    }

    /// Computes everything anew from the keys, the basic columns and the rows in play. False if the basis is singular.
    fn refactor(&mut self) -> bool {
        let Some(inverse) = self.invert() else {
            return false;
        };
        self.inverse = inverse;
        self.basic.fill(false);
        let mut rest: Vec<f64> = self.active_rows().map(|row| row.rhs - self.key.iter().map(|&k| row.coef[k]).sum::<f64>()).collect();
        self.x = self.inverse.iter().map(|line| dot(line, &rest)).collect();
        self.objective = self.key.iter().map(|&k| self.model.cost[k]).sum();
        self.key.iter().for_each(|&k| self.basic[k] = true);
        rest.fill(0.0);
        for (p, &column) in self.head.iter().enumerate() {
            let cost = match column {
                Column::Choice(j) => {
                    self.basic[j] = true;
                    self.model.cost[j] - self.model.cost[self.key[self.model.inst.group[j]]]
                }
                Column::Slack(_) => 0.0,
                Column::Relief => 1.0,
            };
            self.objective += cost * self.x[p];
            rest.iter_mut().zip(&self.inverse[p]).for_each(|(y, v)| *y -= cost * v);
        }
        self.pi = rest;
        let mut value = self.model.cost.clone();
        self.relief_reduced = 1.0;
        for (row, &price) in self.rows.iter().map(|&at| &self.pool[at]).zip(&self.pi) {
            value.iter_mut().zip(&row.coef).for_each(|(v, a)| *v += price * a);
            self.relief_reduced -= price * row.relief;
        }
        for (g, &key) in self.key.iter().enumerate() {
            let base = value[key];
            self.model.inst.choices(g).for_each(|j| self.reduced[j] = if self.basic[j] { 0.0 } else { value[j] - base });
        }
        true
    }

    /// The inverse of the working basis, by Gauss-Jordan elimination with partial pivoting; `None` if it is singular.
    fn invert(&self) -> Option<Vec<Vec<f64>>> {
        let m = self.rows.len();
        let mut lines: Vec<Vec<f64>> = Vec::with_capacity(m);
        for (i, row) in self.active_rows().enumerate() {
            let mut line: Vec<f64> = self.head.iter().map(|&c| self.coefficient(row, i, c)).collect();
            line.resize(2 * m, 0.0);
            line[m + i] = 1.0;
            lines.push(line);
        }
        for p in 0..m {
            let best = (p..m).max_by(|&a, &b| lines[a][p].abs().total_cmp(&lines[b][p].abs()))?;
            lines.swap(p, best);
            let pivot = lines[p][p];
            if pivot.abs() < PIVOT_TOLERANCE {
                return None;
            }
            let mut line = std::mem::take(&mut lines[p]);
            line[p..].iter_mut().for_each(|v| *v /= pivot);
            for other in lines.iter_mut().filter(|l| !l.is_empty()) {
                let factor = other[p];
                if factor != 0.0 {
                    other[p..].iter_mut().zip(&line[p..]).for_each(|(o, v)| *o -= factor * v);
                }
            }
            lines[p] = line;
        }
        Some(lines.into_iter().map(|mut line| line.split_off(m)).collect())
    }
}

/// A variable that must leave the basis.
#[derive(Clone, Copy)]
enum Leaving {
    /// The key of this group, which has no other basic choice.
    Key(usize),
    /// The column at this position.
    Head(usize),
}

enum Pivot {
    Done,
    Blocked,
    /// The pivot computed by row and by column differ.
    Inexact,
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
