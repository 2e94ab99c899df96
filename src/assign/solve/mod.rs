//! Chooses one way to run each group of nodes such that the predicted error is least and every step of the schedule
//! fits its byte budget.
//!
//! This is a multiple-choice knapsack with one constraint per schedule step (Kellerer, Pferschy and Pisinger 2004,
//! chapters 9 and 11). It is reduced to the choices and rows that can matter (`reduce`), relaxed to fractions
//! (`simplex`), rounded (`local`), and searched by branch and bound (`branch`). Floating-point errors can cost time and
//! tightness, never truth: assignments are checked in integers, and bounds are Lagrangian ones with their rounding
//! errors deducted (`model`).

mod branch;
mod local;
mod model;
mod optimise;
mod reduce;
mod simplex;
#[cfg(test)]
mod tests;
mod usage;

use optimise::{divide, first_fit, optimise, smallest_peak};
use reduce::signed;

/// Sums of bytes up to this are exact in `f64`: eight pebibytes.
const MAX_BYTES: u64 = 1 << 53;

/// One way to run one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Predicted error, in any unit that adds up over groups; finite and not negative.
    pub cost: f64,
    /// Bytes occupied in every row, as weights are.
    pub fixed_bytes: u64,
    /// Further bytes in some rows, as activations and workspace occupy; ascending, at most one of them in a row.
    pub rows: Vec<Run>,
}

/// Bytes in each of some consecutive rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first of the rows.
    pub first: u32,
    /// The last of them.
    pub last: u32,
    /// Bytes in each.
    pub bytes: u64,
}

/// Ways to run one group, of which exactly one is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// At least one.
    pub choices: Vec<Choice>,
}

/// What to choose from, and the budget.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The groups, each of which takes one of its choices.
    pub groups: Vec<Group>,
    /// Bytes that no choice changes, per row; a row is a step of the schedule.
    pub row_base: Vec<u64>,
    /// Bytes that may be occupied in each row.
    pub capacity: u64,
}

/// How much work to spend. There is no limit in seconds, so that the answer does not depend on the machine.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// Relaxations solved, at most.
    pub max_nodes: usize,
    /// Simplex pivots, at most. A relaxation takes a few, except where tensors come and go without any order.
    pub max_pivots: usize,
    /// Multiplications, at most: where there are thousands of groups and steps, one pivot takes millions.
    pub max_work: u64,
    /// Relaxations solved before the search stops insisting on an exact answer.
    pub exact_nodes: usize,
    /// The share of the objective that may be given away: nothing up to `exact_nodes`, all of this from half of
    /// `max_nodes`, `max_pivots` or `max_work`, and rising in between.
    pub gap: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_nodes: 10_000, max_pivots: 100_000, max_work: 1 << 32, exact_nodes: 1_000, gap: 0.009 }
    }
}

/// An assignment that fits, and how good it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The choice of each group.
    pub choice: Vec<usize>,
    /// The sum of the costs, added in the order of the groups.
    pub objective: f64,
    /// No assignment that fits has a lower objective: proven, rounding errors included.
    pub bound: f64,
    /// Bytes in the fullest row.
    pub peak: u64,
    /// Relaxations solved.
    pub n_nodes: usize,
    /// Error that one byte more of capacity would save, in the relaxation; zero if all groups have their cheapest
    /// choice.
    pub shadow_price: f64,
}

/// The assignment with the smallest peak.
#[derive(Clone, Debug, PartialEq)]
pub struct MinPeak {
    /// The choice of each group.
    pub choice: Vec<usize>,
    /// Bytes in the fullest row.
    pub peak: u64,
    /// No assignment has a lower peak: proven. Equal to `peak` if the search ended within [`Limits::exact_nodes`].
    pub bound: u64,
    /// Relaxations solved.
    pub n_nodes: usize,
}

/// Why there is no solution.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SolveError {
    /// No assignment fits: this is proven.
    #[error("nothing fits in {capacity} bytes: the smallest peak found is {min_peak} bytes, and none is below {bound}")]
    Infeasible {
        /// The smallest peak of any assignment found, in bytes.
        min_peak: u64,
        /// A proven lower limit of all peaks, in bytes; equal to `min_peak` if the search ended within
        /// [`Limits::exact_nodes`].
        bound: u64,
        /// The capacity asked for, in bytes.
        capacity: u64,
    },
    /// No assignment that fits was found, nor was it proven that there is none.
    #[error("out of nodes: the smallest peak lies between {bound} and {min_peak} bytes, and {capacity} are allowed")]
    Undecided {
        /// The smallest peak of any assignment found, in bytes.
        min_peak: u64,
        /// A proven lower limit of all peaks, in bytes.
        bound: u64,
        /// The capacity asked for, in bytes.
        capacity: u64,
    },
    /// A group has no choices.
    #[error("group {group} has no choices")]
    EmptyGroup {
        /// The group.
        group: usize,
    },
    /// A cost is negative or not finite.
    #[error("choice {choice} of group {group} costs {cost}, which is negative or not finite")]
    Cost {
        /// The group.
        group: usize,
        /// The choice.
        choice: usize,
        /// Its cost.
        cost: f64,
    },
    /// The rows of a choice do not ascend, or go beyond the last row.
    #[error("choice {choice} of group {group} lists row {row}, which is out of order or out of range")]
    Row {
        /// The group.
        group: usize,
        /// The choice.
        choice: usize,
        /// The row.
        row: u32,
    },
    /// An assignment could use more than 2^53 bytes, or cost more than `f64` can hold.
    #[error("the sizes or costs of all groups add up to more than can be computed with")]
    Overflow,
}

/// What is minimised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goal {
    /// The sum of costs, with each row within the capacity.
    Cost,
    /// The fullest row.
    Peak,
}

/// Finds an assignment of nearly least cost among those that fit.
///
/// The answer is exact to a relative 1e-9 if the search ends within `limits.exact_nodes`, and within `limits.gap` if it
/// ends before the other limits; in any case [`Solution::bound`] says how good it is. Where the cheapest choices of all
/// groups fit, they are the answer.
///
/// # Errors
///
/// [`SolveError::Infeasible`] if nothing fits, [`SolveError::Undecided`] if `limits` are too tight to tell, the others
/// if the problem is malformed.
pub fn solve(problem: &Problem, limits: &Limits) -> Result<Solution, SolveError> {
    let most = problem.check()?;
    let cheapest = problem.cheapest();
    let peak = problem.peak(&cheapest);
    if peak <= problem.capacity {
        let objective = problem.cost(&cheapest);
        return Ok(Solution { choice: cheapest, objective, bound: objective, peak, n_nodes: 0, shadow_price: 0.0 });
    }
    let capacity = signed(problem.capacity.min(most));
    let (start, spent) = match first_fit(problem, capacity) {
        Some(start) => (start, 0),
        None => {
            let found = smallest_peak(problem, limits, most, capacity);
            let (min_peak, bound, capacity) = (found.peak, found.bound, problem.capacity);
            if bound > capacity {
                return Err(SolveError::Infeasible { min_peak, bound, capacity });
            }
            if min_peak > capacity {
                return Err(SolveError::Undecided { min_peak, bound, capacity });
            }
            (found.choice, found.n_nodes)
        }
    };
    let best = optimise(problem, limits, Goal::Cost, capacity, start, f64::NEG_INFINITY);
    let objective = problem.cost(&best.choice);
    Ok(Solution {
        objective,
        bound: best.bound.max(0.0).min(objective),
        peak: problem.peak(&best.choice),
        n_nodes: spent + best.spent.nodes,
        // A negative zero is none.
        shadow_price: best.price + 0.0,
        choice: best.choice,
    })
}

/// What the relaxation makes of a problem: choices taken in part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Relaxed {
    /// No assignment that fits costs less, nor any mixture of choices: proven, rounding errors included.
    pub bound: f64,
    /// The groups that it divides, each with the choices among which it does and the part that each has.
    pub divided: Vec<(usize, Vec<(usize, f64)>)>,
}

/// Solves the relaxation, in which a group may take its choices in parts that add up to one.
///
/// # Errors
/// [`SolveError::Infeasible`] without numbers of a search if not even that fits or no first assignment was found, the
/// others if the problem is malformed.
pub fn relax(problem: &Problem, limits: &Limits) -> Result<Relaxed, SolveError> {
    let most = problem.check()?;
    let capacity = problem.capacity;
    let known = first_fit(problem, signed(capacity.min(most)));
    let relaxed = known.and_then(|known| divide(problem, limits, signed(capacity.min(most)), &known));
    relaxed.ok_or(SolveError::Infeasible { min_peak: most, bound: 0, capacity })
}

/// Finds the assignment whose fullest row is smallest, and among those one of low cost; the capacity plays no part.
///
/// # Errors
///
/// Only for malformed problems.
pub fn min_peak(problem: &Problem, limits: &Limits) -> Result<MinPeak, SolveError> {
    let most = problem.check()?;
    let mut found = smallest_peak(problem, limits, most, -1);
    let limits = Limits { max_nodes: limits.exact_nodes, ..*limits };
    let best = optimise(problem, &limits, Goal::Cost, signed(found.peak), found.choice, f64::NEG_INFINITY);
    found.choice = best.choice;
    found.peak = problem.peak(&found.choice);
    found.n_nodes += best.spent.nodes;
    Ok(found)
}

impl Problem {
    /// Checks what the types do not say. Gives the bytes that the largest choices would use if all their rows fell
    /// together.
    fn check(&self) -> Result<u64, SolveError> {
        let mut most = u128::from(self.row_base.iter().copied().max().unwrap_or(0));
        let mut dearest = 0.0;
        for (g, group) in self.groups.iter().enumerate() {
            let mut largest = 0;
            let mut cost = 0.0f64;
            for (c, choice) in group.choices.iter().enumerate() {
                if !(choice.cost >= 0.0 && choice.cost.is_finite()) {
                    return Err(SolveError::Cost { group: g, choice: c, cost: choice.cost });
                }
                let mut next = 0;
                for run in &choice.rows {
                    if run.first < next || run.last < run.first || run.last as usize >= self.row_base.len() {
                        return Err(SolveError::Row { group: g, choice: c, row: run.first });
                    }
                    next = run.last + 1;
                }
                let rows = choice.rows.iter().map(|r| u128::from(r.bytes)).max().unwrap_or(0);
                largest = largest.max(u128::from(choice.fixed_bytes) + rows);
                cost = cost.max(choice.cost);
            }
            if group.choices.is_empty() {
                return Err(SolveError::EmptyGroup { group: g });
            }
            most += largest;
            dearest += cost;
        }
        match u64::try_from(most) {
            Ok(most) if most <= MAX_BYTES && f64::is_finite(dearest) => Ok(most),
            _ => Err(SolveError::Overflow),
        }
    }

    /// The cheapest choice of each group; of equal ones the one with the fewest bytes over all rows, then the first.
    fn cheapest(&self) -> Vec<usize> {
        let rows = self.row_base.len() as u128;
        let total = |c: &Choice| {
            u128::from(c.fixed_bytes) * rows
                + c.rows.iter().map(|r| u128::from(r.bytes) * u128::from(r.last - r.first + 1)).sum::<u128>()
        };
        let cheapest = |group: &Group| {
            let better = |a: &usize, b: &usize| {
                let (a, b) = (&group.choices[*a], &group.choices[*b]);
                a.cost.total_cmp(&b.cost).then_with(|| total(a).cmp(&total(b)))
            };
            (0..group.choices.len()).min_by(better).unwrap_or(0)
        };
        self.groups.iter().map(cheapest).collect()
    }

    fn chosen<'a>(&'a self, choice: &'a [usize]) -> impl Iterator<Item = &'a Choice> {
        self.groups.iter().zip(choice).map(|(group, &c)| &group.choices[c])
    }

    fn cost(&self, choice: &[usize]) -> f64 {
        self.chosen(choice).map(|c| c.cost).sum::<f64>() + 0.0
    }

    fn peak(&self, choice: &[usize]) -> u64 {
        let fixed: u64 = self.chosen(choice).map(|c| c.fixed_bytes).sum();
        let mut steps = vec![0i128; self.row_base.len() + 1];
        for run in self.chosen(choice).flat_map(|c| &c.rows) {
            steps[run.first as usize] += i128::from(run.bytes);
            steps[run.last as usize + 1] -= i128::from(run.bytes);
        }
        let mut used = 0;
        let usage = self.row_base.iter().zip(&steps).map(|(&base, step)| {
            used += step;
            i128::from(base) + used
        });
        usage.max().map_or(0, |most| u64::try_from(most).unwrap_or(u64::MAX) + fixed)
    }
}
