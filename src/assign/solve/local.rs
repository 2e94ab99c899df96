//! Assignments, and the cheap ways to make one fit and to make one better.

use super::reduce::{Instance, Span};

/// One choice per group, with the usage of each row.
#[derive(Clone)]
pub(super) struct Assignment<'a> {
    inst: &'a Instance,
    pub pick: Vec<usize>,
    usage: Vec<i64>,
}

impl<'a> Assignment<'a> {
    pub fn new(inst: &'a Instance, pick: Vec<usize>) -> Assignment<'a> {
        let mut usage = inst.low.clone();
        // Where usage rises and falls: spans may be as long as the schedule.
        let mut steps = vec![0; usage.len() + 1];
        for span in pick.iter().flat_map(|&j| inst.spans(j)) {
            steps[span.start] += span.bytes;
            steps[span.end] -= span.bytes;
        }
        let mut used = 0;
        for (u, step) in usage.iter_mut().zip(&steps) {
            used += step;
            *u += used;
        }
        Assignment { inst, pick, usage }
    }

    /// Takes in each group the choice of least `score`, the earlier of equals.
    pub fn least(inst: &'a Instance, score: impl Fn(usize) -> f64) -> Assignment<'a> {
        let least = |g| {
            let choices = inst.choices(g);
            let first = choices.start;
            choices.min_by(|&a, &b| score(a).total_cmp(&score(b))).unwrap_or(first)
        };
        Assignment::new(inst, (0..inst.n_groups()).map(least).collect())
    }

    /// The sum of the costs above the floor.
    pub fn cost(&self) -> f64 {
        self.pick.iter().map(|&j| self.inst.cost[j]).sum()
    }

    /// The largest usage of any row, dropped ones included: those never exceed the floor of the peak where it matters.
    pub fn peak(&self) -> i64 {
        self.usage.iter().copied().fold(self.inst.peak_floor, i64::max)
    }

    /// Whether each kept row is within `ceiling`; the dropped ones are, for the ceiling of the instance.
    pub fn fits(&self, ceiling: i64) -> bool {
        self.usage.iter().all(|&u| u <= ceiling)
    }

    fn set(&mut self, group: usize, choice: usize) {
        self.take_out(group);
        self.pick[group] = choice;
        self.put_back(group);
    }

    fn take_out(&mut self, group: usize) {
        for span in self.inst.spans(self.pick[group]) {
            self.usage[span.start..span.end].iter_mut().for_each(|u| *u -= span.bytes);
        }
    }

    fn put_back(&mut self, group: usize) {
        for span in self.inst.spans(self.pick[group]) {
            self.usage[span.start..span.end].iter_mut().for_each(|u| *u += span.bytes);
        }
    }

    /// Whether `choice` fits in the rows it touches, its group having been taken out.
    fn room_for(&self, choice: usize, ceiling: i64) -> bool {
        let room = |s: &Span| self.usage[s.start..s.end].iter().all(|&u| u + s.bytes <= ceiling);
        self.inst.spans(choice).iter().all(room)
    }

    fn worst_row(&self) -> Option<(usize, i64)> {
        // The first of equals, so that the result does not depend on how an iterator breaks ties.
        let mut worst: Option<(usize, i64)> = None;
        for (row, &used) in self.usage.iter().enumerate() {
            if worst.is_none_or(|(_, u)| used > u) {
                worst = Some((row, used));
            }
        }
        worst
    }

    fn excess(&self, ceiling: i64) -> i128 {
        self.usage.iter().map(|&u| i128::from((u - ceiling).max(0))).sum()
    }

    /// Moves groups to smaller choices until all rows are within `ceiling`: each time the group that frees bytes in the
    /// fullest row at the least rise of `score` a byte, among moves that lower the excess over all rows. False if it
    /// gets stuck, or if `effort`, counted in look-ups, is spent; what is spent is taken from it.
    pub fn repair(&mut self, ceiling: i64, score: &[f64], effort: &mut usize) -> bool {
        let inst = self.inst;
        let mut excess = self.excess(ceiling);
        for _ in 0..2 * inst.n_groups() + 8 {
            let Some((row, used)) = self.worst_row().filter(|&(_, used)| used > ceiling) else {
                return true;
            };
            if *effort == 0 {
                return false;
            }
            *effort = effort.saturating_sub(inst.n_choices() + inst.n_rows());
            let mut moves: Vec<(f64, usize, usize)> = Vec::new();
            for (g, &old) in self.pick.iter().enumerate() {
                let held = inst.bytes_at(old, row);
                for j in inst.choices(g) {
                    let freed = held - inst.bytes_at(j, row);
                    if freed > 0 {
                        let useful = freed.min(used - ceiling) as f64;
                        moves.push(((score[j] - score[old]).max(0.0) / useful, g, j));
                    }
                }
            }
            moves.sort_by(|a, b| a.0.total_cmp(&b.0));
            let before = excess;
            for (_, g, j) in moves {
                let old = self.pick[g];
                *effort = effort.saturating_sub(inst.n_rows());
                self.set(g, j);
                let now = self.excess(ceiling);
                if now < excess {
                    excess = now;
                    break;
                }
                self.set(g, old);
            }
            if excess == before {
                return false;
            }
        }
        self.fits(ceiling)
    }

    /// Lowers the cost of an assignment that fits, as long as one move does, or one move paid for by another. Pairs are
    /// tried while `effort`, counted in look-ups, lasts; what is spent is taken from it.
    pub fn improve(&mut self, ceiling: i64, effort: &mut usize) {
        loop {
            while self.improve_once(ceiling) {}
            if !self.improve_pair(ceiling, effort) {
                return;
            }
        }
    }

    /// Cheaper choices with what they save, most first.
    fn savings(&self) -> Vec<(f64, usize, usize)> {
        let cost = &self.inst.cost;
        let mut moves: Vec<(f64, usize, usize)> = Vec::new();
        for (g, &old) in self.pick.iter().enumerate() {
            // Choices are in order of cost.
            moves.extend((self.inst.start[g]..old).map(|j| (cost[old] - cost[j], g, j)).filter(|m| m.0 > 0.0));
        }
        moves.sort_by(|a, b| b.0.total_cmp(&a.0));
        moves
    }

    fn improve_once(&mut self, ceiling: i64) -> bool {
        let mut any = false;
        let mut moved = vec![false; self.pick.len()];
        for (_, g, j) in self.savings() {
            if moved[g] {
                continue;
            }
            self.take_out(g);
            if self.room_for(j, ceiling) {
                self.pick[g] = j;
                moved[g] = true;
                any = true;
            }
            self.put_back(g);
        }
        any
    }

    fn improve_pair(&mut self, ceiling: i64, effort: &mut usize) -> bool {
        let inst = self.inst;
        for (gain, g, j) in self.savings() {
            let old = self.pick[g];
            self.set(g, j);
            let Some((row, used)) = self.worst_row() else {
                return false;
            };
            *effort = effort.saturating_sub(inst.n_rows() / 64);
            for h in (0..self.pick.len()).filter(|&h| h != g) {
                let held = self.pick[h];
                let spare = inst.bytes_at(held, row);
                if *effort == 0 {
                    self.set(g, old);
                    return false;
                }
                *effort -= 1;
                if used - spare > ceiling {
                    continue;
                }
                let payers = (held + 1..inst.start[h + 1]).take_while(|&k| inst.cost[k] - inst.cost[held] < gain);
                for k in payers {
                    *effort = effort.saturating_sub(1);
                    if used - spare + inst.bytes_at(k, row) > ceiling {
                        continue;
                    }
                    self.set(h, k);
                    // Rows are compared several at a time.
                    *effort = effort.saturating_sub(inst.n_rows() / 8);
                    if self.fits(ceiling) {
                        return true;
                    }
                    self.set(h, held);
                }
            }
            self.set(g, old);
        }
        false
    }
}
