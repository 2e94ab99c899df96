//! Branch and bound on the relaxation: best node first, with dives.

use super::local::Assignment;
use super::model::Model;
use super::simplex::{Basis, Simplex, Status};
use super::{Goal, Limits};
use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::rc::Rc;

/// Relative distance below the best answer at which a node counts as no better, in a search for an exact answer.
const EXACT: f64 = 1e-9;
/// Fractions nearer to an integer than this are rounding errors.
const INTEGRAL: f64 = 1e-7;
/// Nodes at each of which a rounding is tried.
const ROUND_ALWAYS: usize = 64;
/// Of the later nodes, a rounding is tried at one in so many.
const ROUND_EVERY: usize = 8;
/// A dive goes on while its bound is in this share of the way from the least open bound to the best answer.
const DIVE: f64 = 0.5;

/// Look-ups that may be spent on pairs of moves in one search, and in one rounding.
const EFFORT: usize = 1 << 24;
const EFFORT_ONCE: usize = 1 << 17;
/// Look-ups that may be spent on making one rounding fit.
pub(super) const REPAIR: usize = 1 << 28;

/// An open subproblem.
struct Node {
    bound: f64,
    /// Order of creation; among equal bounds the later node is the deeper one.
    number: usize,
    /// The allowed choices, as bits.
    allowed: Vec<u64>,
    /// The basis of the parent.
    basis: Rc<Basis>,
    from: Option<Half>,
}

impl Ord for Node {
    /// The node to solve next is the greatest.
    fn cmp(&self, other: &Node) -> Ordering {
        other.bound.total_cmp(&self.bound).then_with(|| self.number.cmp(&other.number))
    }
}
impl PartialOrd for Node {
    fn partial_cmp(&self, other: &Node) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Node {
    fn eq(&self, other: &Node) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Node {}

/// Cuts the choices of a group in two: those before `middle`, and the others.
#[derive(Clone, Copy)]
struct Split {
    group: usize,
    middle: usize,
    /// The sums of the fractions of both parts.
    weight: [f64; 2],
}

/// One part of a split as a node.
#[derive(Clone, Copy)]
struct Half {
    group: usize,
    /// Zero for the choices before the middle, one for the others.
    side: usize,
    /// The sum of the fractions that are no longer allowed.
    lost: f64,
}

/// How much the bound has risen for each unit of lost fractions, by group and side (pseudo-costs, Benichou et al.
/// 1971).
struct Experience(Vec<[(f64, f64); 2]>);

impl Experience {
    fn learn(&mut self, half: Half, rise: f64) {
        if half.lost > INTEGRAL {
            let (sum, n) = &mut self.0[half.group][half.side];
            *sum += rise / half.lost;
            *n += 1.0;
        }
    }

    /// The expected rise of the bound; `guess` is the rise a unit to start from.
    fn rise(&self, half: Half, guess: f64) -> f64 {
        let (sum, n) = self.0[half.group][half.side];
        half.lost * (sum + guess) / (n + 1.0)
    }
}

/// Work done.
#[derive(Clone, Copy, Default)]
pub(super) struct Spent {
    pub nodes: usize,
    pub pivots: usize,
    pub work: u64,
}

/// What the relaxation of the whole instance says.
pub(super) struct Root {
    /// A lower limit of the scaled objective.
    pub bound: f64,
    /// Objective, in error or bytes, a byte of capacity.
    pub price: f64,
    /// The lower limit of the scaled objective if a choice is taken, for each choice.
    pub bounds: Vec<f64>,
}

/// The state of a search. Objectives are scaled ones.
pub(super) struct Search<'a> {
    model: &'a Model<'a>,
    limits: &'a Limits,
    simplex: Simplex<'a>,
    /// The best objective known, and the assignment that has it if it was found here.
    pub best: f64,
    pub pick: Option<Vec<usize>>,
    /// The least bound of what was given up for not being better than the best answer by enough.
    closed: f64,
    /// Work of earlier searches, and the nodes of this one.
    spent: Spent,
    /// An objective that ends the search.
    target: f64,
    experience: Experience,
    /// Effort left for pairs of moves.
    effort: usize,
}

impl<'a> Search<'a> {
    pub fn new(model: &'a Model<'a>, limits: &'a Limits, best: f64, target: f64, spent: Spent) -> Search<'a> {
        Search {
            model,
            limits,
            simplex: Simplex::new(model, limits.max_work.saturating_sub(spent.work)),
            best,
            pick: None,
            closed: f64::INFINITY,
            spent,
            target,
            experience: Experience(vec![[(0.0, 0.0); 2]; model.inst.n_groups()]),
            effort: EFFORT,
        }
    }

    /// Solves the relaxation and rounds it; `None` if nothing fits.
    pub fn root(&mut self) -> Option<Root> {
        self.spent.nodes += 1;
        if self.simplex.solve(f64::INFINITY) == Status::Infeasible {
            return None;
        }
        let dual = self.simplex.dual();
        self.round(&dual.reduced);
        let bounds = dual.reduced.iter().map(|d| dual.bound + d.max(0.0)).collect();
        Some(Root { bound: dual.bound, price: self.simplex.price(), bounds })
    }

    /// The choices of which the relaxation takes a part that is no rounding error, with that part.
    pub fn fractions(&self) -> Vec<(usize, f64)> {
        self.simplex.fractions().into_iter().filter(|f| f.1 > INTEGRAL).collect()
    }

    /// Searches on from the root, which has been solved and has `bound`. Gives a lower limit of the objective.
    pub fn run(&mut self, bound: f64) -> f64 {
        let mut open: BinaryHeap<Node> = BinaryHeap::new();
        let mut number = 0;
        let mut dive = Some((bound, None));
        loop {
            let (bound, from) = if let Some(child) = dive.take() {
                child
            } else if let Some(node) = open.pop() {
                self.simplex.allow(&node.allowed);
                self.simplex.restore(&node.basis);
                (node.bound, node.from)
            } else {
                break;
            };
            if self.out_of_work() || self.best <= self.target {
                self.closed = self.closed.min(bound);
                break;
            }
            let Some((bound, split)) = self.expand(bound, from) else {
                continue;
            };
            let basis = Rc::new(self.simplex.basis());
            let mut node = |side: usize| {
                number += 1;
                let from = Some(Half { group: split.group, side, lost: split.weight[1 - side] });
                Node { bound, number, allowed: self.part(split, side), basis: Rc::clone(&basis), from }
            };
            // The part with the larger fractions is closer to the relaxation, hence the better one to dive into.
            let near = usize::from(split.weight[1] > split.weight[0]);
            let (far, near) = (node(1 - near), node(near));
            open.push(far);
            let front = open.peek().map_or(bound, |node| node.bound);
            if bound <= front + DIVE * (self.cutoff() - front) {
                self.simplex.allow(&near.allowed);
                dive = Some((bound, near.from));
            } else {
                open.push(near);
            }
        }
        let open = open.iter().map(|node| node.bound).fold(f64::INFINITY, f64::min);
        self.closed.min(open).min(self.best)
    }

    /// Objectives from here on are not worth finding. What counts as better grows with the nodes spent, from nearly
    /// nothing to the gap that is allowed, which lets easy searches end exactly and hard ones end.
    fn cutoff(&self) -> f64 {
        let model = self.model;
        let value = model.offset + model.unit * self.best;
        let limits = self.limits;
        let part = |n: usize, of: usize| n as f64 / of.max(1) as f64;
        let exact = part(limits.exact_nodes, limits.max_nodes);
        let work = self.work() as f64 / limits.max_work.max(1) as f64;
        let spent = part(self.spent.nodes, limits.max_nodes).max(part(self.pivots(), limits.max_pivots)).max(work);
        let share = ((spent - exact) / (0.5 - exact).max(EXACT)).clamp(0.0, 1.0);
        let short = value * (limits.gap * share).max(EXACT);
        match model.goal {
            Goal::Cost => model.scaled(value - short),
            // Peaks are whole bytes: half a byte better is no better.
            Goal::Peak if share == 0.0 => model.scaled(value - 0.5),
            Goal::Peak => model.scaled(value - short.max(0.5)),
        }
    }

    fn pivots(&self) -> usize {
        self.spent.pivots + self.simplex.pivots
    }

    fn work(&self) -> u64 {
        self.spent.work + self.simplex.work
    }

    /// Work up to now, earlier searches included.
    pub fn spent(&self) -> Spent {
        Spent { nodes: self.spent.nodes, pivots: self.pivots(), work: self.work() }
    }

    /// Whether a limit is reached.
    pub fn out_of_work(&self) -> bool {
        self.spent.nodes >= self.limits.max_nodes
            || self.pivots() >= self.limits.max_pivots
            || self.work() >= self.limits.max_work
    }

    /// Gives up what lies at or above `bound` if nothing there is worth finding.
    fn close(&mut self, bound: f64) -> bool {
        let close = bound >= self.cutoff();
        if close {
            self.closed = self.closed.min(bound);
        }
        close
    }

    /// Solves the node that the simplex method is at. Gives its bound and where to split it; `None` if it is closed.
    fn expand(&mut self, parent: f64, from: Option<Half>) -> Option<(f64, Split)> {
        if self.close(parent) {
            return None;
        }
        self.spent.nodes += 1;
        let cutoff = self.cutoff();
        if self.model.goal == Goal::Peak {
            // Rows are only as wide as the cutoff allows, so what is ruled out by size lies at or above the cutoff.
            self.closed = self.closed.min(cutoff);
        }
        if !self.simplex.ban_oversized(cutoff) {
            return None;
        }
        let status = self.simplex.solve(cutoff);
        if status == Status::Infeasible {
            return None;
        }
        let dual = self.simplex.dual();
        let bound = dual.bound.max(parent);
        if let Some(half) = from.filter(|_| status != Status::Stalled) {
            self.experience.learn(half, bound - parent);
        }
        if self.close(bound) {
            return None;
        }
        let split = self.fractional_split();
        if split.is_none() || self.spent.nodes < ROUND_ALWAYS || self.spent.nodes.is_multiple_of(ROUND_EVERY) {
            self.round(&dual.reduced);
            if self.close(bound) {
                return None;
            }
        }
        for (j, rise) in dual.reduced.iter().enumerate() {
            if self.simplex.allows(j) && self.close(dual.bound + rise) {
                self.simplex.ban(j);
            }
        }
        let Some(split) = split.or_else(|| self.any_split()) else {
            // One choice is left in each group.
            let last = Assignment::least(self.model.inst, |j| if self.simplex.allows(j) { 0.0 } else { 1.0 });
            self.offer(&last);
            return None;
        };
        Some((bound, split))
    }

    /// The split that promises the largest rise of the bound, among those that allow the current fractions in neither
    /// part. In the order of cost, the parts are "precise" and "small" (Beale and Tomlin 1970).
    fn fractional_split(&self) -> Option<Split> {
        let inst = self.model.inst;
        let mut parts: Vec<Vec<(usize, f64)>> = vec![Vec::new(); inst.n_groups()];
        for (j, x) in self.simplex.fractions().into_iter().filter(|f| self.simplex.allows(f.0)) {
            parts[inst.group[j]].push((j, x));
        }
        let mut best: Option<(f64, Split)> = None;
        for (group, parts) in parts.iter().enumerate().filter(|p| p.1.len() > 1) {
            let first = inst.start[group];
            let mean: f64 = parts.iter().map(|&(j, x)| x * (j - first) as f64).sum();
            let middle = (first + mean as usize + 1).min(inst.start[group + 1]);
            let weigh = |part: &dyn Fn(usize) -> bool| parts.iter().filter(|p| part(p.0)).map(|p| p.1).sum::<f64>();
            let weight = [weigh(&|j| j < middle), weigh(&|j| j >= middle)];
            if weight[0].min(weight[1]) <= INTEGRAL {
                continue;
            }
            // Without experience, the further apart the costs of a group's fractions, the more is to be gained.
            let costs = parts.iter().map(|p| self.model.cost[p.0]);
            let spread = costs.clone().fold(0.0, f64::max) - costs.fold(f64::INFINITY, f64::min);
            let half = |side: usize| Half { group, side, lost: weight[1 - side] };
            let rise = |side: usize| self.experience.rise(half(side), spread).max(INTEGRAL);
            let score = rise(0) * rise(1);
            if best.is_none_or(|b| score > b.0) {
                best = Some((score, Split { group, middle, weight }));
            }
        }
        best.map(|b| b.1)
    }

    /// Splits some group that still has a choice, for when the relaxation is integral and yet does not fit, by rounding
    /// errors.
    fn any_split(&self) -> Option<Split> {
        let inst = self.model.inst;
        (0..inst.n_groups()).find_map(|group| {
            let middle = inst.choices(group).filter(|&j| self.simplex.allows(j)).nth(1)?;
            Some(Split { group, middle, weight: [0.0, 0.0] })
        })
    }

    /// The allowed choices, less the other part of `split`.
    fn part(&self, split: Split, side: usize) -> Vec<u64> {
        let choices = self.model.inst.choices(split.group);
        let mut bits = vec![0; self.model.inst.n_choices().div_ceil(64)];
        for j in (0..self.model.inst.n_choices()).filter(|&j| self.simplex.allows(j)) {
            if !choices.contains(&j) || usize::from(j >= split.middle) == side {
                bits[j / 64] |= 1 << (j % 64);
            }
        }
        bits
    }

    /// Takes `found` as the best answer if it is one.
    fn offer(&mut self, found: &Assignment) {
        let model = self.model;
        let value = match model.goal {
            Goal::Cost if !found.fits(model.inst.ceiling) => return,
            Goal::Cost => found.cost() / model.unit,
            Goal::Peak => model.scaled(found.peak() as f64),
        };
        if value < self.best {
            self.best = value;
            self.pick = Some(found.pick.clone());
        }
    }

    /// Rounds the fractions to an assignment that fits, and improves it.
    fn round(&mut self, reduced: &[f64]) {
        let inst = self.model.inst;
        let mut pick: Vec<(usize, f64)> = (0..inst.n_groups()).map(|g| (inst.start[g], 0.0)).collect();
        for (j, x) in self.simplex.fractions() {
            let best = &mut pick[inst.group[j]];
            if x > best.1 {
                *best = (j, x);
            }
        }
        let mut found = Assignment::new(inst, pick.iter().map(|p| p.0).collect());
        let mut repair = REPAIR;
        match self.model.goal {
            Goal::Cost => {
                let fits = found.repair(inst.ceiling, reduced, &mut repair);
                if fits {
                    let share = self.effort.min(EFFORT_ONCE);
                    let mut left = share;
                    found.improve(inst.ceiling, &mut left);
                    self.effort -= share - left;
                    self.offer(&found);
                }
            }
            Goal::Peak => {
                let best = self.model.offset + self.model.unit * self.best;
                let mut ceiling = (best.round() as i64).min(inst.ceiling + 1) - 1;
                // Each round can gain as little as a byte.
                for _ in 0..=inst.n_groups() {
                    if ceiling < inst.peak_floor || !found.repair(ceiling, reduced, &mut repair) {
                        break;
                    }
                    self.offer(&found);
                    ceiling = found.peak() - 1;
                }
            }
        }
        self.simplex.work += (REPAIR - repair) as u64;
    }
}
