//! The pivots of the dual simplex method.

use super::{Column, PIVOT_TOLERANCE, PRIMAL_TOLERANCE, Simplex, Status, dot};

/// Slack given to reduced costs in the ratio test, in units of the objective.
const DUAL_TOLERANCE: f64 = 1e-11;
/// Relative difference at which a pivot computed by row and by column shows that the inverse has drifted.
const DRIFT: f64 = 1e-7;
/// Pivots between two refactorizations.
const REFACTOR_EVERY: usize = 64;

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

impl Simplex<'_> {
    /// Pivots until the fractions satisfy the rows in play.
    pub(super) fn run(&mut self, cutoff: f64) -> Status {
        // Far more than a run takes, so this only ends cycles.
        let last = self.pivots + 200 + 20 * (self.rows.len() + self.key.len());
        loop {
            if self.objective >= cutoff {
                return Status::Cutoff;
            }
            if self.fresh >= REFACTOR_EVERY && !self.refactor() {
                return Status::Stalled;
            }
            let Some((leaving, goes_up)) = self.leaving() else {
                return Status::Optimal;
            };
            if self.pivots == last || self.work >= self.max_work {
                return Status::Stalled;
            }
            self.pivots += 1;
            let (m, n) = (self.rows.len() as u64, self.model.inst.n_choices() as u64);
            self.work += 2 * m * m + (m + 4) * n;
            self.fresh += 1;
            match leaving {
                Leaving::Key(group) => {
                    if !self.exchange_key(group) {
                        return Status::Infeasible;
                    }
                }
                Leaving::Head(p) => match self.pivot(p, goes_up) {
                    Pivot::Done => {}
                    Pivot::Blocked => return self.blocked(p, goes_up),
                    Pivot::Inexact if self.fresh > 1 => self.fresh = REFACTOR_EVERY,
                    Pivot::Inexact => return Status::Stalled,
                },
            }
        }
    }

    /// Picks the basic variable that is furthest out of its bounds, in the norm of its row of the inverse (dual
    /// steepest edge), and says whether it must rise. A key variable that other basic choices of its group can replace
    /// is exchanged for one of those first.
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
        if (weights[p] - along).abs() > DRIFT * (1.0 + along.abs()) {
            return Pivot::Inexact;
        }

        let theta = price.max(0.0) / along;
        self.objective += theta * self.x[p];
        let nonbasic = self.reduced.iter_mut().zip(&alpha).zip(&self.basic).filter(|(_, basic)| !**basic);
        nonbasic.for_each(|((reduced, along), _)| *reduced -= theta * along);
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

    /// The column whose reduced cost reaches zero first, among near-ties the one with the largest pivot (Harris 1973),
    /// with its entry in the pivot row and its reduced cost.
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
        let reach =
            candidates.iter().map(|(_, a, d)| (d.max(0.0) + DUAL_TOLERANCE) / a.abs()).fold(f64::INFINITY, f64::min);
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
}
