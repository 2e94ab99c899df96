//! What each group may have: formats with what they take and the error that they are predicted to add, as the solver
//! sees them.

use super::AssignError;
use super::model::LinearModel;
use super::score::{Known, Scores};
use super::solve::{Choice, Group, Limits, Problem, Solution, min_peak, relax, solve};
use crate::ir::{Format, Graph, Tail, Weights};
use crate::program::Certificate;
use rayon::prelude::*;

/// The share of the objective that must be to gain before matrices are split.
const SPLIT_GAIN: f64 = 0.005;
/// Relaxations solved to see what splitting could gain.
const QUICK_NODES: usize = 32;
/// How often splits are offered: with some offered, the relaxation may divide other matrices.
const MAX_SPLIT_ROUNDS: usize = 8;
/// The places where a matrix may be split are so many.
const SPLIT_PLACES: usize = 64;

/// The menu of each group.
#[derive(Clone)]
pub struct Menus {
    /// The formats that each group may have.
    pub formats: Vec<Vec<Format>>,
    scores: Vec<Scores>,
    problem: Problem,
}

impl Menus {
    /// Scores `formats`, those that each group may have. Blocks other than the default are left out where another
    /// format with the same activations has no more error in no more bytes.
    ///
    /// # Errors
    /// The weights of a group cannot be read.
    pub fn of(
        graph: &Graph,
        model: &LinearModel,
        formats: &[Vec<Format>],
        known: Known<'_>,
    ) -> Result<Menus, AssignError> {
        let one = |(g, menu): (usize, &Vec<Format>)| {
            let node = || model.groups[g].nodes.first().map_or(String::new(), |id| graph.node(*id).name.clone());
            Scores::of(graph, &model.groups[g], menu, known)
                .map_err(|source| AssignError::Score { node: node(), source })
        };
        let scores: Vec<Scores> = formats.par_iter().enumerate().map(one).collect::<Result<_, _>>()?;
        let groups = vec![Group { choices: Vec::new() }; formats.len()];
        let problem = Problem { groups, row_base: model.base_rows(), capacity: u64::MAX };
        let mut menus = Menus { formats: vec![Vec::new(); formats.len()], scores, problem };
        for (g, menu) in formats.iter().enumerate() {
            let cost = |format: &Format| menus.scores[g].score(&model.groups[g], *format);
            let costs: Vec<(u64, f64)> = menu.iter().map(|f| (model.weight_bytes(g, *f), cost(f))).collect();
            let front: Vec<Format> =
                (0..menu.len()).filter(|i| is_on_front(menu, &costs, *i)).map(|i| menu[i]).collect();
            front.into_iter().for_each(|format| menus.offer(model, g, format));
        }
        Ok(menus)
    }

    /// Adds a format to the menu of a group.
    pub(super) fn offer(&mut self, model: &LinearModel, group: usize, format: Format) {
        if !self.formats[group].contains(&format) {
            self.formats[group].push(format);
            let cost = self.scores[group].score(&model.groups[group], format);
            self.problem.groups[group].choices.push(model.choice(group, format, cost));
        }
    }

    /// What a format of a group takes and costs, where it is on its menu.
    pub fn choice(&self, group: usize, format: Format) -> Option<&Choice> {
        let at = self.formats[group].iter().position(|f| *f == format)?;
        self.problem.groups[group].choices.get(at)
    }

    /// The predicted error of an assignment.
    pub fn cost(&self, formats: &[Format]) -> f64 {
        // The sum of no floats is -0.
        formats.iter().enumerate().filter_map(|(g, f)| self.choice(g, *f)).map(|c| c.cost).sum::<f64>() + 0.0
    }

    fn chosen(&self, choice: &[usize]) -> Vec<Format> {
        choice.iter().zip(&self.formats).map(|(&c, menu)| menu[c]).collect()
    }

    /// The assignment that takes the fewest bytes, and how many the linear model has for it.
    ///
    /// # Errors
    /// The solver fails.
    pub(super) fn smallest(&self) -> Result<(Vec<Format>, u64), AssignError> {
        let least = min_peak(&self.problem, &Limits::default())?;
        Ok((self.chosen(&least.choice), least.peak))
    }

    /// The assignment of the least error within `capacity` bytes of the linear model, and what proves it; `None` where
    /// none was found.
    pub(super) fn best(&mut self, model: &LinearModel, capacity: u64) -> Option<(Vec<Format>, Certificate)> {
        let small = small(model.groups.len());
        self.problem.capacity = capacity;
        for _ in 0..MAX_SPLIT_ROUNDS {
            let quick = solve(&self.problem, &Limits { max_nodes: QUICK_NODES, ..Limits::default() });
            let (Ok(quick), Ok(relaxed)) = (quick, relax(&self.problem, &Limits::default())) else { break };
            let gain = quick.objective - relaxed.bound;
            if gain <= SPLIT_GAIN * quick.objective.max(small) || !self.offer_splits(model, &relaxed.divided) {
                break;
            }
        }
        let solution = solve(&self.problem, &Limits::default()).ok()?;
        let Solution { choice, objective, bound, n_nodes, shadow_price, .. } = solution;
        let gap = gap(objective, bound, model.groups.len());
        let solver = "branch and bound over an LP relaxation".to_owned();
        let n_nodes = n_nodes as u64;
        let certificate = Certificate { objective, bound, gap, solver, n_nodes, rounds: 1, shadow_price, tuning: None };
        Some((self.chosen(&choice), certificate))
    }

    /// Offers to split the matrices that the relaxation divides, between the ways to store weights that it mixes;
    /// whether there were any.
    fn offer_splits(&mut self, model: &LinearModel, divided: &[(usize, Vec<(usize, f64)>)]) -> bool {
        let count = |menus: &Menus| menus.formats.iter().map(Vec::len).sum::<usize>();
        let before = count(self);
        for (group, choices) in divided {
            let Some(n_rows) = model.splittable_rows(*group) else { continue };
            let parts: Vec<(Format, f64)> = choices.iter().map(|(c, part)| (self.formats[*group][*c], *part)).collect();
            let whole: Vec<Format> = self.formats[*group].iter().copied().filter(|f| f.tail.is_none()).collect();
            splits(&whole, &parts, n_rows).into_iter().for_each(|format| self.offer(model, *group, format));
        }
        count(self) > before
    }
}

/// Whether no format with the same activations makes number `i` of a menu needless: in bytes and error.
fn is_on_front(menu: &[Format], costs: &[(u64, f64)], i: usize) -> bool {
    let (bytes, error) = costs[i];
    let is_better = |j: usize| {
        let other = costs[j];
        // Of equals the first stays.
        let is_no_worse = other.0 <= bytes && other.1 <= error && (other != (bytes, error) || j < i);
        menu[j].activations == menu[i].activations && is_no_worse
    };
    menu[i] == menu[i].with_default_block() || !(0..menu.len()).any(is_better)
}

/// Ways to split a matrix of `n_rows` of which the relaxation takes `parts`, out of the formats for `whole` matrices.
fn splits(whole: &[Format], parts: &[(Format, f64)], n_rows: usize) -> Vec<Format> {
    // The rows that the relaxation stores as `weights`.
    let rows_as = |weights: Weights| -> f64 {
        let rows = |format: &Format| format.parts(n_rows).filter(|(_, w)| *w == weights).map(|(n, _)| n).sum::<usize>();
        parts.iter().map(|(format, part)| rows(format) as f64 * part).sum()
    };
    let mixed = |weights: Weights| rows_as(weights) > 0.0;
    let mut splits = Vec::new();
    for head in whole.iter().filter(|f| mixed(f.weights)) {
        // Both ways to store weights are permitted beside the activations.
        let permitted = |weights: Weights| whole.contains(&Format { weights, ..*head });
        let is_tail = |w: Weights| mixed(w) && permitted(w) && w.bits() < head.weights.bits();
        for weights in whole.iter().map(|f| f.weights).filter(|&w| is_tail(w)) {
            let (wide, narrow) = (rows_as(head.weights), rows_as(weights));
            let best = (n_rows as f64 * wide / (wide + narrow)) as usize;
            let places = (1..SPLIT_PLACES).map(|i| n_rows * i / SPLIT_PLACES).chain([best]);
            let rows = places.filter_map(|row| u32::try_from(row).ok()).filter(|&row| row > 0);
            splits.extend(rows.map(|from_row| Format { tail: Some(Tail { from_row, weights }), ..*head }));
        }
    }
    splits
}

/// An objective that counts as none: not 0 even where there is nothing to assign, since the gap is relative to it.
fn small(n_groups: usize) -> f64 {
    n_groups.max(1) as f64 * 6.5e-3 * 1e-6
}

/// The part of the objective that a better assignment might save.
pub(super) fn gap(objective: f64, bound: f64, n_groups: usize) -> f64 {
    (objective - bound).max(0.0) / objective.max(small(n_groups))
}

#[cfg(test)]
mod tests {
    use super::is_on_front;
    use crate::ir::Format;

    #[test]
    fn blocks_that_cost_more_for_no_less_error_are_left_out() {
        let menu: Vec<Format> =
            ["w4a16:g16", "w4a16:g64", "w4a16:c", "w4a16", "w4a8:g16"].iter().map(|f| f.parse().unwrap()).collect();
        let front = |costs: &[(u64, f64)]| -> Vec<String> {
            (0..menu.len()).filter(|i| is_on_front(&menu, costs, *i)).map(|i| menu[i].to_string()).collect()
        };
        // Each has its price, and other activations are no reason.
        assert_eq!(front(&[(50, 1.0), (43, 3.0), (40, 9.0), (45, 2.0), (60, 9.0)]).len(), 5);
        // Rows of 16 columns are one block whatever its name: the first of equals stays, and the default does.
        let costs = [(45, 1.0), (45, 1.0), (45, 1.0), (45, 1.0), (45, 1.0)];
        assert_eq!(front(&costs), ["w4a16:g16", "w4a16", "w4a8:g16"]);
        assert_eq!(
            front(&[(50, 2.0), (43, 2.0), (40, 9.0), (45, 1.0), (60, 9.0)]),
            ["w4a16:g64", "w4a16:c", "w4a16", "w4a8:g16"]
        );
    }
}
