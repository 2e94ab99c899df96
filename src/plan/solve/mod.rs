//! Chooses one way to run each group of nodes such that the predicted error is least and every step of the schedule fits its byte budget.
//!
//! This is a multiple-choice knapsack with one constraint per schedule step (Kellerer, Pferschy and Pisinger 2004, chapters 9 and 11). It is
//! reduced to the choices and rows that can matter ([`reduce`]), relaxed to fractions ([`simplex`]), rounded ([`local`]), and searched by
//! branch and bound ([`branch`]). Floating-point errors can cost time and tightness, never truth: assignments are checked in integers, and
//! bounds are Lagrangian ones with their rounding errors deducted ([`model`]).

mod branch;
mod local;
mod model;
mod reduce;
mod simplex;
#[cfg(test)]
mod tests;

use branch::Search;
use local::Assignment;
use model::Model;
use reduce::{Alive, Instance, reduce};

/// Sums of bytes up to this are exact in `f64`: eight pebibytes.
const MAX_BYTES: u64 = 1 << 53;
/// Times the problem may be reduced anew after its relaxation has ruled out choices.
const MAX_REDUCTIONS: usize = 6;

/// One way to run one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Predicted error, in any unit that adds up over groups; finite and not negative.
    pub cost: f64,
    /// Bytes occupied in every row, as weights are.
    pub fixed_bytes: u64,
    /// Further bytes in single rows, as activations and workspace occupy; by ascending row, at most once a row.
    pub rows: Vec<(u32, u64)>,
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
    /// Relaxations solved at most by one search.
    pub max_nodes: usize,
    /// Relaxations solved before the search stops insisting on an exact answer.
    pub exact_nodes: usize,
    /// The share of the objective that may be given away after that.
    pub gap: f64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { max_nodes: 10_000, exact_nodes: 1_000, gap: 0.005 }
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
    /// Error that one byte more of capacity would save, in the relaxation; zero if all groups have their cheapest choice.
    pub shadow_price: f64,
}

/// The assignment with the smallest peak.
#[derive(Clone, Debug, PartialEq)]
pub struct MinPeak {
    /// The choice of each group.
    pub choice: Vec<usize>,
    /// Bytes in the fullest row.
    pub peak: u64,
    /// No assignment has a lower peak: proven. Equal to `peak` unless the search ran out of nodes.
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
        /// A proven lower limit of all peaks, in bytes; equal to `min_peak` unless the search ran out of nodes.
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
/// The answer is exact to a relative 1e-9 if the search ends within `limits.exact_nodes`, and within `limits.gap` if it ends within
/// `limits.max_nodes`; in any case [`Solution::bound`] says how good it is. Where every group's cheapest choice fits, these are the answer.
///
/// # Errors
///
/// [`SolveError::Infeasible`] if nothing fits, [`SolveError::Undecided`] if `limits` are too tight to tell, the others if the problem is
/// malformed.
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
        bound: best.bound.min(objective),
        peak: problem.peak(&best.choice),
        n_nodes: spent + best.nodes,
        shadow_price: best.price,
        choice: best.choice,
    })
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
    found.n_nodes += best.nodes;
    Ok(found)
}

impl Problem {
    /// Checks what the types do not say. Gives the bytes that the largest choices would use if all their rows fell together.
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
                for &(row, _) in &choice.rows {
                    if row < next || row as usize >= self.row_base.len() {
                        return Err(SolveError::Row { group: g, choice: c, row });
                    }
                    next = row + 1;
                }
                let rows = choice.rows.iter().map(|r| u128::from(r.1)).max().unwrap_or(0);
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
        let total = |c: &Choice| u128::from(c.fixed_bytes) * rows + c.rows.iter().map(|r| u128::from(r.1)).sum::<u128>();
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
        self.chosen(choice).map(|c| c.cost).sum()
    }

    fn peak(&self, choice: &[usize]) -> u64 {
        let fixed: u64 = self.chosen(choice).map(|c| c.fixed_bytes).sum();
        let mut usage = self.row_base.clone();
        for &(row, bytes) in self.chosen(choice).flat_map(|c| &c.rows) {
            usage[row as usize] += bytes;
        }
        usage.iter().max().map_or(0, |most| most + fixed)
    }

    fn all_alive(&self) -> Alive {
        self.groups.iter().map(|group| vec![true; group.choices.len()]).collect()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// An assignment that fits, if a price on bytes or a few repairs find one.
fn first_fit(problem: &Problem, capacity: i64) -> Option<Vec<usize>> {
    let inst = reduce(problem, &mut problem.all_alive(), Goal::Cost, capacity)?;
    let size = relative_sizes(&inst);
    // The smallest price at which everything fits, by bisection over its logarithm.
    let at = |price: f64| Assignment::least(&inst, |j| inst.cost[j] + price * size[j]);
    let mut best = Assignment::least(&inst, |j| size[j]);
    if !best.repair(capacity, &inst.cost) {
        return None;
    }
    let (mut low, mut high) = (-60.0f64, 60.0f64);
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        let priced = at(middle.exp2());
        if priced.fits(capacity) {
            high = middle;
            if priced.cost() < best.cost() {
                best = priced;
            }
        } else {
            low = middle;
        }
    }
    Some(inst.lift(&best.pick))
}

/// For each choice, the mean share it takes of the bytes that the rows have left.
fn relative_sizes(inst: &Instance) -> Vec<f64> {
    let mut before = vec![0.0];
    let mut sum = 0.0;
    for &low in &inst.low {
        sum += 1.0 / (inst.ceiling - low).max(1) as f64;
        before.push(sum);
    }
    let share = |j: usize| inst.spans(j).iter().map(|s| s.bytes as f64 * (before[s.end] - before[s.start])).sum::<f64>();
    (0..inst.n_choices()).map(|j| share(j) / inst.n_rows().max(1) as f64).collect()
}

/// Searches for the smallest peak; a peak of at most `enough` ends the search.
fn smallest_peak(problem: &Problem, limits: &Limits, most: u64, enough: i64) -> MinPeak {
    let ceiling = signed(most);
    let mut start = problem.cheapest();
    if let Some(inst) = reduce(problem, &mut problem.all_alive(), Goal::Peak, ceiling) {
        let size = relative_sizes(&inst);
        let small = inst.lift(&Assignment::least(&inst, |j| size[j]).pick);
        let flat = inst.lift(&Assignment::least(&inst, |j| inst.spans(j).iter().map(|s| s.bytes).max().unwrap_or(0) as f64).pick);
        for other in [small, flat] {
            if problem.peak(&other) < problem.peak(&start) {
                start = other;
            }
        }
    }
    let best = optimise(problem, limits, Goal::Peak, ceiling, start, enough as f64);
    let peak = problem.peak(&best.choice);
    // Whole bytes: anything above a number is at least the next one. The conversion saturates at zero.
    let bound = (best.bound.ceil() as u64).min(peak);
    MinPeak { peak, bound, n_nodes: best.nodes, choice: best.choice }
}

/// The best assignment that a search found.
struct Best {
    choice: Vec<usize>,
    /// A lower limit of the objective, in error or bytes.
    bound: f64,
    nodes: usize,
    /// Objective a byte of capacity.
    price: f64,
}

/// Improves on `start`, which fits in `ceiling`, until it is proven good enough, `limits` are reached, or the objective is `target` or less.
fn optimise(problem: &Problem, limits: &Limits, goal: Goal, ceiling: i64, start: Vec<usize>, target: f64) -> Best {
    let value = |choice: &[usize]| match goal {
        Goal::Cost => problem.cost(choice),
        Goal::Peak => problem.peak(choice) as f64,
    };
    let mut alive = problem.all_alive();
    let mut best = Best { bound: value(&start), choice: start, nodes: 0, price: 0.0 };
    for round in 1..=MAX_REDUCTIONS {
        let known = value(&best.choice);
        best.bound = known;
        let ceiling = match goal {
            Goal::Cost => ceiling,
            Goal::Peak => problem.peak(&best.choice).saturating_sub(1).min(signed(u64::MAX) as u64) as i64,
        };
        if known <= target {
            best.bound = best.bound.min(0.0);
            return best;
        }
        let Some(inst) = reduce(problem, &mut alive, goal, ceiling) else {
            return best;
        };
        let model = Model::new(&inst, goal, known);
        let mut search = Search::new(&model, limits, model.scaled(known), model.scaled(target), best.nodes);
        let Some(root) = search.root() else {
            best.nodes = search.nodes;
            return best;
        };
        if round == 1 {
            best.price = root.price;
        }
        let mut dropped = 0;
        for (&(group, choice), &bound) in inst.origin.iter().zip(&root.bounds) {
            if bound >= search.best {
                alive[group][choice] = false;
                dropped += 1;
            }
        }
        let again = round < MAX_REDUCTIONS && dropped * 8 >= inst.n_choices();
        if !again {
            best.bound = model.offset + model.unit * search.run(root.bound);
        }
        best.nodes = search.nodes;
        if let Some(pick) = &search.pick {
            let found = inst.lift(pick);
            if value(&found) < known {
                best.choice = found;
            }
        }
        if !again {
            break;
        }
    }
    // The sum and the scaling round a few times.
    best.bound *= 1.0 - 8.0 * f64::EPSILON;
    best
}
