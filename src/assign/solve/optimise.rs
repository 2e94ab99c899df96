//! The phases of a search: a first answer, then rounds of reducing and relaxing, then branch and bound.

use super::branch::{REPAIR, Search, Spent};
use super::local::Assignment;
use super::model::Model;
use super::reduce::{Alive, Instance, reduce, reduce_mixtures, signed};
use super::{Goal, Limits, MinPeak, Problem, Relaxed};

/// Times the problem may be reduced anew after its relaxation has ruled out choices.
const MAX_REDUCTIONS: usize = 6;
/// Reducing anew pays if one in so many choices has been ruled out.
const WORTHWHILE: usize = 8;

fn all_alive(problem: &Problem) -> Alive {
    problem.groups.iter().map(|group| vec![true; group.choices.len()]).collect()
}

/// An assignment that fits, if a price on bytes or a few repairs find one.
pub(super) fn first_fit(problem: &Problem, capacity: i64) -> Option<Vec<usize>> {
    let inst = reduce(problem, &mut all_alive(problem), Goal::Cost, capacity)?;
    let size = relative_sizes(&inst);
    let (mut best, mut effort) = (Assignment::least(&inst, |j| size[j]), REPAIR);
    if !best.repair(capacity, &inst.cost, &mut effort) {
        return None;
    }
    // The smallest price of a byte at which everything fits, by bisection over its logarithm.
    let dearest = inst.cost.iter().copied().fold(0.0, f64::max);
    let (mut low, mut high) = (-60.0f64, 20.0f64);
    for _ in 0..40 {
        let middle = 0.5 * (low + high);
        let price = dearest * middle.exp2();
        let priced = Assignment::least(&inst, |j| inst.cost[j] + price * size[j]);
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

/// Solves the relaxation of what fits in `capacity`, as `known` does; `None` if nothing does.
pub(super) fn divide(problem: &Problem, limits: &Limits, capacity: i64, known: &[usize]) -> Option<Relaxed> {
    let inst = reduce_mixtures(problem, capacity)?;
    let known = problem.cost(known);
    let model = Model::new(&inst, Goal::Cost, known);
    let mut search = Search::new(&model, limits, model.scaled(known), f64::NEG_INFINITY, Spent::default());
    let root = search.root()?;
    let mut divided: Vec<(usize, Vec<(usize, f64)>)> = Vec::new();
    let mut place = vec![None; problem.groups.len()];
    for (j, part) in search.fractions() {
        let (group, choice) = inst.origin[j];
        let at = *place[group].get_or_insert(divided.len());
        if at == divided.len() {
            divided.push((group, Vec::new()));
        }
        divided[at].1.push((choice, part));
    }
    divided.retain(|(_, choices)| choices.len() > 1);
    let roundings = 8.0 + problem.groups.len() as f64;
    let bound = (model.offset + model.unit * root.bound) * (1.0 - roundings * f64::EPSILON);
    Some(Relaxed { bound, divided })
}

/// For each choice, the mean share it takes of the bytes that the rows have left.
fn relative_sizes(inst: &Instance) -> Vec<f64> {
    let mut before = vec![0.0];
    let mut sum = 0.0;
    for &low in &inst.low {
        sum += 1.0 / (inst.ceiling - low).max(1) as f64;
        before.push(sum);
    }
    let share =
        |j: usize| inst.spans(j).iter().map(|s| s.bytes as f64 * (before[s.end] - before[s.start])).sum::<f64>();
    (0..inst.n_choices()).map(|j| share(j) / inst.n_rows().max(1) as f64).collect()
}

/// Searches for the smallest peak; a peak of at most `enough` ends the search.
pub(super) fn smallest_peak(problem: &Problem, limits: &Limits, most: u64, enough: i64) -> MinPeak {
    let ceiling = signed(most);
    let mut start = problem.cheapest();
    if let Some(inst) = reduce(problem, &mut all_alive(problem), Goal::Peak, ceiling) {
        let size = relative_sizes(&inst);
        let small = inst.lift(&Assignment::least(&inst, |j| size[j]).pick);
        let flat = inst
            .lift(&Assignment::least(&inst, |j| inst.spans(j).iter().map(|s| s.bytes).max().unwrap_or(0) as f64).pick);
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
    MinPeak { peak, bound, n_nodes: best.spent.nodes, choice: best.choice }
}

/// The best assignment that a search found.
pub(super) struct Best {
    pub choice: Vec<usize>,
    /// A lower limit of the objective, in error or bytes.
    pub bound: f64,
    pub spent: Spent,
    /// Objective a byte of capacity.
    pub price: f64,
}

/// Improves on `start`, which fits in `ceiling`, until it is proven good enough, `limits` are reached, or the objective
/// is `target` or less.
pub(super) fn optimise(
    problem: &Problem,
    limits: &Limits,
    goal: Goal,
    ceiling: i64,
    start: Vec<usize>,
    target: f64,
) -> Best {
    let value = |choice: &[usize]| match goal {
        Goal::Cost => problem.cost(choice),
        Goal::Peak => problem.peak(choice) as f64,
    };
    let mut alive = all_alive(problem);
    let mut best = Best { bound: 0.0, choice: start, spent: Spent::default(), price: 0.0 };
    let mut round = 0;
    let bound = loop {
        let known = value(&best.choice);
        if known <= target {
            break 0.0;
        }
        let ceiling = match goal {
            Goal::Cost => ceiling,
            Goal::Peak => signed(problem.peak(&best.choice).saturating_sub(1)),
        };
        // What has been ruled out is no better than the best answer, so with nothing left, that answer is proven.
        let Some(inst) = reduce(problem, &mut alive, goal, ceiling) else {
            break known;
        };
        let model = Model::new(&inst, goal, known);
        let mut search = Search::new(&model, limits, model.scaled(known), model.scaled(target), best.spent);
        let Some(root) = search.root() else {
            best.spent = search.spent();
            break known;
        };
        if round == 0 {
            best.price = root.price;
        }
        let mut dropped = 0;
        for (&(group, choice), &bound) in inst.origin.iter().zip(&root.bounds) {
            if bound >= search.best {
                alive[group][choice] = false;
                dropped += 1;
            }
        }
        round += 1;
        let last = round == MAX_REDUCTIONS || search.out_of_work() || dropped * WORTHWHILE < inst.n_choices();
        let bound = last.then(|| model.offset + model.unit * search.run(root.bound));
        best.spent = search.spent();
        if let Some(found) = search.pick.map(|pick| inst.lift(&pick)).filter(|found| value(found) < known) {
            best.choice = found;
        }
        if let Some(bound) = bound {
            break bound;
        }
    };
    // Scaling rounds a few times, and a sum of costs once a group.
    let roundings = 8 + if goal == Goal::Cost { problem.groups.len() } else { 0 };
    best.bound = bound * (1.0 - roundings as f64 * f64::EPSILON);
    best
}
