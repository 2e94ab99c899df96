//! The inverse of the working basis, and what follows from it.

use super::{Column, PIVOT_TOLERANCE, Simplex, dot};

impl Simplex<'_> {
    /// Computes everything anew from the keys, the basic columns and the rows in play. False if the basis is singular.
    pub(super) fn refactor(&mut self) -> bool {
        let Some(inverse) = self.invert() else {
            return false;
        };
        self.inverse = inverse;
        self.fresh = 0;
        let m = self.rows.len() as u64;
        self.work += m * m * m + (m + 2) * self.model.inst.n_choices() as u64;
        self.basic.fill(false);
        let mut rest: Vec<f64> =
            self.active_rows().map(|row| row.rhs - self.key.iter().map(|&k| row.coef[k]).sum::<f64>()).collect();
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
            self.model
                .inst
                .choices(g)
                .for_each(|j| self.reduced[j] = if self.basic[j] { 0.0 } else { value[j] - base });
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
