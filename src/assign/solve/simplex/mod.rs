//! Dual simplex method for the relaxation, with implicit multiple-choice constraints and rows added as they are
//! violated.
//!
//! Each group's constraint "the fractions of its choices sum to one" is kept out of the basis by a key choice per group
//! (generalised upper bounding, Dantzig and Van Slyke 1967): the basis is only as large as the number of rows in play,
//! a few dozen, so a dense inverse is both the simplest and the fastest. Nothing here needs to be exact: bounds are
//! taken from [`Model::lagrangian`].

mod factor;
mod pivot;

use super::model::{Dual, Model, Row};

/// Fractions and slacks, all about one at most, are taken as non-negative down to this.
const PRIMAL_TOLERANCE: f64 = 1e-9;
/// Entries of the basis smaller than this are rounding errors.
const PIVOT_TOLERANCE: f64 = 1e-9;
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
    /// Out of pivots or work, or numerically stuck. The multipliers are still valid ones.
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
    /// Pivots since the last refactorization, and in all.
    fresh: usize,
    pub pivots: usize,
    /// Multiplications up to now, about, and how many there may be.
    pub work: u64,
    max_work: u64,
}

impl<'a> Simplex<'a> {
    pub fn new(model: &'a Model<'a>, max_work: u64) -> Simplex<'a> {
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
            fresh: 0,
            pivots: 0,
            work: 0,
            max_work,
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

    /// Bans the choices that overflow a row in play even if all other groups take their least there, in answers whose
    /// objective is below `cutoff`. False if nothing is left.
    pub fn ban_oversized(&mut self, cutoff: f64) -> bool {
        let inst = self.model.inst;
        let allowed: Vec<Vec<usize>> =
            (0..inst.n_groups()).map(|g| inst.choices(g).filter(|&j| !self.banned[j]).collect()).collect();
        let mut range = vec![(0.0, 0.0); inst.n_groups()];
        for &at in &self.rows {
            let row = &self.pool[at];
            let mut room = row.rhs + row.relief * cutoff.max(0.0);
            for (range, choices) in range.iter_mut().zip(&allowed) {
                *range = choices
                    .iter()
                    .map(|&j| row.coef[j])
                    .fold((f64::INFINITY, 0.0), |(lo, hi), a| (a.min(lo), a.max(hi)));
                room -= range.0;
            }
            // Sums of numbers about one are exact to far less than the tolerance.
            if room < -PRIMAL_TOLERANCE {
                return false;
            }
            for (&(floor, top), choices) in range.iter().zip(&allowed) {
                if top - floor > room + PRIMAL_TOLERANCE {
                    choices.iter().for_each(|&j| self.banned[j] |= row.coef[j] - floor > room + PRIMAL_TOLERANCE);
                }
            }
        }
        true
    }

    /// Goes to the basis without rows in which each group takes its cheapest allowed choice.
    pub fn restart(&mut self) {
        let inst = self.model.inst;
        self.key =
            (0..inst.n_groups()).map(|g| inst.choices(g).find(|&j| !self.banned[j]).unwrap_or(inst.start[g])).collect();
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
        let heads = self
            .head
            .iter()
            .zip(&self.x)
            .filter_map(|(c, &x)| if let Column::Choice(j) = *c { Some((j, x)) } else { None });
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
        self.work += self.model.inst.n_choices() as u64;
        self.pool.push(self.model.row(id));
        self.pooled[id] = Some(at);
        at
    }

    /// Solves the relaxation over all rows of the instance, or stops once its value reaches `cutoff`.
    pub fn solve(&mut self, cutoff: f64) -> Status {
        loop {
            match self.run(cutoff) {
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
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(x, y)| x * y).sum()
}
