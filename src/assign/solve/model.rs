//! The reduced problem in the units of the relaxation, and the Lagrangian bound that everything proven rests on.

use super::Goal;
use super::reduce::Instance;

/// One row in units of its own slack: `sum of coef * x - relief * t <= rhs`, with `t >= 0` the excess over the floor of
/// the peak.
pub(super) struct Row {
    /// The row of the instance.
    pub id: usize,
    pub coef: Vec<f64>,
    pub rhs: f64,
    /// Zero for [`Goal::Cost`], where no excess is allowed.
    pub relief: f64,
    /// Bytes a unit of this row.
    scale: f64,
}

/// An instance with its objective scaled, so that the difference between the floor of the objective and the best known
/// answer is one. Coefficients are then between zero and about one, whatever the sizes of errors and tensors.
pub(super) struct Model<'a> {
    pub inst: &'a Instance,
    pub goal: Goal,
    /// Scaled costs.
    pub cost: Vec<f64>,
    /// Objective, in error or bytes, that corresponds to zero.
    pub offset: f64,
    /// Objective, in error or bytes, that corresponds to one.
    pub unit: f64,
}

/// What a vector of multipliers proves.
pub(super) struct Dual {
    /// A lower limit of the scaled objective, rounding errors deducted.
    pub bound: f64,
    /// For each choice, how much the bound rises at least if that choice is taken; negative only for choices that were
    /// not allowed.
    pub reduced: Vec<f64>,
}

impl<'a> Model<'a> {
    /// `best` is the objective of the best known answer, in error or bytes; it must exceed the floor.
    pub fn new(inst: &'a Instance, goal: Goal, best: f64) -> Model<'a> {
        let offset = match goal {
            Goal::Cost => inst.cost_floor,
            Goal::Peak => inst.peak_floor as f64,
        };
        let gap = best - offset;
        let unit = if gap > 0.0 { gap } else { 1.0 };
        // A choice that alone costs more than the best answer is in no better one; what exactly it costs is of no
        // interest then, and would only spoil the scaling.
        let cost = inst.cost.iter().map(|c| (c / unit).min(2.0)).collect();
        Model { inst, goal, cost, offset, unit }
    }

    /// The scaled form of an objective.
    pub fn scaled(&self, value: f64) -> f64 {
        (value - self.offset) / self.unit
    }

    /// Bytes allowed in each row when the scaled peak exceeds its floor by `excess`.
    pub fn row_limit(&self, excess: f64) -> f64 {
        match self.goal {
            Goal::Cost => self.inst.ceiling as f64,
            Goal::Peak => self.offset + self.unit * excess,
        }
    }

    /// Row `id` of the instance over all choices.
    pub fn row(&self, id: usize) -> Row {
        let inst = self.inst;
        // A row without slack has no bytes above its floor either, for such choices were dropped.
        let scale = (inst.ceiling - inst.low[id]).max(1) as f64;
        let coef = (0..inst.n_choices()).map(|j| inst.bytes_at(j, id) as f64 / scale).collect();
        let (rhs, relief) = match self.goal {
            Goal::Cost => (1.0, 0.0),
            Goal::Peak => ((inst.peak_floor - inst.low[id]) as f64 / scale, self.unit / scale),
        };
        Row { id, coef, rhs, relief, scale }
    }

    /// Evaluates the Lagrangian at multipliers `pi`, one for each of `rows`, over the choices that are not `banned`.
    /// The multipliers may come from any source: negative ones count as zero, so the bound holds by weak duality alone
    /// (Geoffrion 1974). With `cost` unset, costs count as zero: a positive bound then proves that no assignment fits.
    pub fn lagrangian<'r>(&self, rows: impl Iterator<Item = &'r Row>, pi: &[f64], banned: &[bool], cost: bool) -> Dual {
        let inst = self.inst;
        let mut value = if cost { self.cost.clone() } else { vec![0.0; inst.n_choices()] };
        let (mut paid, mut relief, mut terms) = (0.0, 0.0, 8 + inst.n_groups());
        for (row, &price) in rows.zip(pi) {
            if price > 0.0 {
                value.iter_mut().zip(&row.coef).for_each(|(v, a)| *v += price * a);
                paid += price * row.rhs;
                relief += price * row.relief;
                terms += 1;
            }
        }
        let mut sum = 0.0;
        let mut reduced = vec![0.0; inst.n_choices()];
        for g in 0..inst.n_groups() {
            let best = inst.choices(g).filter(|&j| !banned[j]).map(|j| value[j]).fold(f64::INFINITY, f64::min);
            inst.choices(g).for_each(|j| reduced[j] = value[j] - best);
            sum += best;
        }
        // All terms of either sum are non-negative, so this exceeds the error of any order of summation (Higham 2002,
        // section 4.2), with room for the rounding of the coefficients.
        let margin = 4.0 * terms as f64 * f64::EPSILON * (1.0 + sum + paid);
        // Paying more than one for the excess would make the Lagrangian unbounded below; scaling all prices down mends
        // that.
        let shrink = if cost && relief > 1.0 { 1.0 / relief } else { 1.0 };
        let bound = if sum.is_finite() { (sum - paid) * shrink - margin } else { f64::INFINITY };
        reduced.iter_mut().for_each(|d| *d = *d * shrink - margin);
        Dual { bound, reduced }
    }

    /// Objective a byte of capacity, in error or bytes, at multipliers `pi` of `rows`.
    pub fn price<'r>(&self, rows: impl Iterator<Item = &'r Row>, pi: &[f64]) -> f64 {
        self.unit * rows.zip(pi).map(|(row, &price)| price.max(0.0) / row.scale).sum::<f64>()
    }
}
