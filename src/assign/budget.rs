//! The loop of the budget: choose, count exactly, correct the capacity, choose again.
//!
//! The solver works on a linear model, whose figures are near those of a plan and not those themselves: buffers do not
//! lie without gaps, allocations are rounded, passes of a toolchain's own change what there is. So every assignment
//! that matters is counted by the code that builds the program ([`Lower`]): `uniform:f32`, the smallest, and each that
//! the solver proposes. The smallest does not depend on the budget. What it takes is the least budget: everything from
//! there on compiles, if only with it, and everything below is refused.

use super::menu::{Menus, gap};
use super::model::LinearModel;
use super::over::{advice, give};
use super::score::Known;
use super::{AssignError, OverBudget, Policy};
use crate::ir::packed::Coding;
use crate::ir::{Activations, Format, Graph};
use crate::plan::Forecast;
use crate::program::Certificate;
use crate::targets::Target;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How many assignments are proposed for a budget, and for the smallest, at most.
const MAX_ROUNDS: u32 = 6;

/// What an assignment is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The graph, of the ONNX level.
    pub graph: &'a Graph,
    /// Its groups.
    pub model: &'a LinearModel,
    /// What is known of its weights.
    pub known: Known<'a>,
    /// How formats are assigned.
    pub policy: Policy,
    /// What the program must fit in, in bytes.
    pub budget_bytes: u64,
    /// Held back from the budget, in bytes.
    pub reserve_bytes: u64,
    /// The device.
    pub target: &'a Target,
}

impl Request<'_> {
    /// What the plan may take, in bytes.
    pub fn available_bytes(&self) -> u64 {
        self.budget_bytes.saturating_sub(self.reserve_bytes)
    }

    /// The refusal of this budget.
    pub fn over(&self, min_feasible_bytes: u64, f32_bytes: u64) -> OverBudget {
        OverBudget {
            min_feasible_bytes,
            f32_bytes,
            available_bytes: self.available_bytes(),
            budget_bytes: self.budget_bytes,
            advice: vec![give(min_feasible_bytes, self.reserve_bytes)],
        }
    }
}

/// Formats that passes behind the assignment set, by node, each with the pass.
pub type Set = BTreeMap<String, (Format, String)>;

/// What is known of an assignment that was lowered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Counted {
    /// The peak of its plan, in bytes.
    pub peak_bytes: u64,
    /// What passes behind the assignment changed.
    pub set: Set,
}

/// Lowers the graph of a [`Request`] as the program's would be.
pub trait Lower {
    /// Why that cannot be done.
    type Error: From<AssignError>;

    /// The formats that each group may have, where passes to come set some.
    fn permitted(&self, set: &Set) -> Vec<Vec<Format>>;

    /// Counts an assignment, one format a group. One that is `likely` to be the answer may be kept.
    ///
    /// # Errors
    /// The graph cannot be lowered, or not be planned.
    fn count(&mut self, formats: &[Format], likely: bool) -> Result<Counted, Self::Error>;
}

/// An assignment, what proves it, and what it was chosen from.
pub struct Assigned {
    /// Menus with their scores.
    pub menus: Menus,
    /// The format of each group as it was assigned.
    pub noted: Vec<Format>,
    /// The format of each group in the program: passes may have set others.
    pub formats: Vec<Format>,
    /// What proves it.
    pub certificate: Certificate,
    /// Its figures.
    pub forecast: Forecast,
    /// What it had to fit in, in bytes.
    pub available_bytes: u64,
    /// What passes behind the assignment set.
    pub set: Set,
    /// How long the solver took.
    pub solve_time: Duration,
}

/// Chooses a format for each group.
///
/// # Errors
/// The graph cannot be lowered, or the solver fails. That nothing fits is no error of this kind.
pub fn assign<L: Lower>(request: &Request<'_>, lower: &mut L) -> Result<Result<Assigned, OverBudget>, L::Error> {
    let plain = vec![Format::F32; request.model.groups.len()];
    let menus = Menus::of(request.graph, request.model, &lower.permitted(&Set::new()), request.known)?;
    let mut search = Search { request, lower, counted: Vec::new(), solve_time: Duration::ZERO };
    let f32_bytes = search.count(&plain, true)?.peak_bytes;
    let (found, least) = match request.policy {
        Policy::Uniform(_) => search.only(menus)?,
        Policy::Tiered => search.tiers(menus)?,
        Policy::Budget => search.least_error(menus, &plain)?,
    };
    let found = match found {
        Ok(found) => found,
        Err(menus) => {
            let mut over = request.over(least, f32_bytes);
            over.advice.extend(advice(request.graph, request.model, &menus));
            return Ok(Err(over));
        }
    };
    let forecast = Forecast { f32_bytes, min_feasible_bytes: least, chosen_bytes: found.counted.peak_bytes };
    let solve_time = search.solve_time;
    Ok(Ok(found.assigned(request, forecast, solve_time)))
}

/// The books of formats that nodes have already, one a group: nothing is chosen.
///
/// # Errors
/// The weights of a group cannot be read.
pub fn given(
    request: &Request<'_>,
    formats: Vec<Format>,
    chosen_bytes: u64,
    f32_bytes: u64,
) -> Result<Result<Assigned, OverBudget>, AssignError> {
    if chosen_bytes > request.available_bytes() {
        return Ok(Err(request.over(chosen_bytes, f32_bytes)));
    }
    let menus: Vec<Vec<Format>> = formats.iter().map(|format| vec![*format]).collect();
    let menus = Menus::of(request.graph, request.model, &menus, request.known)?;
    let counted = Counted { peak_bytes: chosen_bytes, set: Set::new() };
    let bound = menus.cost(&formats);
    let solver = "none: formats are those that passes set".to_owned();
    let certificate = Some(Certificate { bound, solver, rounds: 1, ..Certificate::default() });
    let trial = Trial { menus, formats, counted, certificate, set: Set::new() };
    let forecast = Forecast { f32_bytes, min_feasible_bytes: chosen_bytes, chosen_bytes };
    Ok(Ok(trial.assigned(request, forecast, Duration::ZERO)))
}

/// An assignment that was counted.
struct Trial {
    menus: Menus,
    formats: Vec<Format>,
    counted: Counted,
    certificate: Option<Certificate>,
    /// All that passes behind were seen to set, for this assignment and for those before it.
    set: Set,
}

/// An assignment, or the menus out of which none fits, and the least budget.
type Found = (Result<Trial, Menus>, u64);

impl Trial {
    /// One that nothing was solved for.
    fn plain(menus: Menus, formats: Vec<Format>, counted: Counted) -> Trial {
        let set = counted.set.clone();
        Trial { menus, formats, counted, certificate: None, set }
    }

    fn assigned(mut self, request: &Request<'_>, forecast: Forecast, solve_time: Duration) -> Assigned {
        let formats = self.real(request);
        let objective = self.menus.cost(&formats);
        let mut certificate = self.certificate.unwrap_or(Certificate {
            bound: objective,
            solver: request.policy.to_string(),
            rounds: 1,
            ..Certificate::default()
        });
        certificate.bound = certificate.bound.min(objective);
        certificate.gap = gap(objective, certificate.bound, formats.len());
        certificate.objective = objective;
        Assigned {
            menus: self.menus,
            noted: self.formats,
            formats,
            certificate,
            forecast,
            available_bytes: request.available_bytes(),
            set: self.set,
            solve_time,
        }
    }

    /// This one, or the other where that has less error.
    fn or_better(mut self, other: Option<Trial>, request: &Request<'_>) -> Trial {
        let Some(mut other) = other else { return self };
        let (own, theirs) = (self.real(request), other.real(request));
        if other.menus.cost(&theirs) < self.menus.cost(&own) { other } else { self }
    }

    /// The formats of the program: of a group in which passes set some, that of the node with weights.
    fn real(&mut self, request: &Request<'_>) -> Vec<Format> {
        let (graph, set) = (request.graph, &self.counted.set);
        let mut formats = self.formats.clone();
        for (g, group) in request.model.groups.iter().enumerate().filter(|_| !set.is_empty()) {
            let with_weights = group.nodes.iter().find(|id| crate::ops::weights::of(graph, **id).is_some());
            let Some(id) = with_weights.or(group.nodes.first()) else { continue };
            if let Some((format, _)) = set.get(&graph.node(*id).name) {
                formats[g] = *format;
            }
        }
        // Splits were offered while it was looked for.
        formats.iter().enumerate().for_each(|(g, format)| self.menus.offer(request.model, g, *format));
        formats
    }
}

struct Search<'a, L> {
    request: &'a Request<'a>,
    lower: &'a mut L,
    /// What was counted already.
    counted: Vec<(Vec<Format>, Counted)>,
    solve_time: Duration,
}

impl<L: Lower> Search<'_, L> {
    fn count(&mut self, formats: &[Format], likely: bool) -> Result<Counted, L::Error> {
        if let Some((_, known)) = self.counted.iter().find(|(own, _)| own == formats) {
            return Ok(known.clone());
        }
        let counted = self.lower.count(formats, likely)?;
        self.counted.push((formats.to_vec(), counted.clone()));
        Ok(counted)
    }

    fn menus(&self, set: &Set) -> Result<Menus, L::Error> {
        let Request { graph, model, known, .. } = *self.request;
        Ok(Menus::of(graph, model, &self.lower.permitted(set), known)?)
    }

    /// The menus of an assignment that was counted: what passes set is on them.
    fn with_set(&self, menus: Menus, counted: &Counted) -> Result<Menus, L::Error> {
        if counted.set.is_empty() { Ok(menus) } else { self.menus(&counted.set) }
    }

    /// One format for all leaves nothing to decide.
    fn only(&mut self, menus: Menus) -> Result<Found, L::Error> {
        let formats: Vec<Format> = menus.formats.iter().map(|menu| menu[0]).collect();
        let counted = self.count(&formats, true)?;
        let least = counted.peak_bytes;
        let fits = least <= self.request.available_bytes();
        let menus = self.with_set(menus, &counted)?;
        Ok((if fits { Ok(Trial::plain(menus, formats, counted)) } else { Err(menus) }, least))
    }

    /// The first tier of the simple rule by memory that fits.
    fn tiers(&mut self, menus: Menus) -> Result<Found, L::Error> {
        let Request { reserve_bytes, budget_bytes, target, .. } = *self.request;
        let heap = target.memory.heap_bytes;
        let (memory, available) = (budget_bytes.min(heap), self.request.available_bytes());
        let mut least = u64::MAX;
        let mut fitting = None;
        // The smallest first: what a wider one needs to be considered at all is mostly more than that takes.
        for (memory_bytes, format) in TIERS.iter().rev().filter(|(bytes, _)| *bytes <= heap) {
            let from = memory_bytes.saturating_sub(reserve_bytes);
            if from >= least && memory < *memory_bytes {
                continue;
            }
            let formats: Vec<Format> = menus.formats.iter().map(|menu| nearest(menu, *format)).collect();
            let counted = self.count(&formats, memory >= *memory_bytes)?;
            least = least.min(counted.peak_bytes.max(from));
            if memory >= *memory_bytes && counted.peak_bytes <= available {
                fitting = Some((formats, counted));
            }
        }
        let trial = match fitting {
            Some((formats, counted)) => Ok(Trial::plain(self.with_set(menus, &counted)?, formats, counted)),
            None => Err(menus),
        };
        Ok((trial, least))
    }

    /// The assignment of the least error that fits.
    fn least_error(&mut self, menus: Menus, plain: &[Format]) -> Result<Found, L::Error> {
        let (model, available) = (self.request.model, self.request.available_bytes());
        let f32_bytes = self.count(plain, true)?.peak_bytes;
        // Where f32 fits, it is likely the answer; where little does, the smallest is.
        let smallest = self.smallest(&menus, f32_bytes > available)?;
        let least = smallest.counted.peak_bytes;
        if least > available {
            return Ok((Err(menus), least));
        }
        // By how much plans exceed the model.
        let excess = |planned: u64, linear: u64| i128::from(planned) - i128::from(linear);
        let of_f32 = excess(f32_bytes, model.peak_bytes(plain).map_err(AssignError::from)?);
        let start = i128::from(available) - of_f32.min(excess(least, smallest.linear_bytes));
        let capacity = u64::try_from(start.max(0)).unwrap_or(u64::MAX);
        let trial = self.search(menus, capacity)?.unwrap_or_else(|menus| smallest.trial(menus));
        Ok((Ok(trial), least))
    }

    /// The smallest assignment. What passes behind set is as fixed as a pin: with that known it is looked for again.
    fn smallest(&mut self, menus: &Menus, likely: bool) -> Result<Smallest, L::Error> {
        let mut set = Set::new();
        let mut own: Option<Menus> = None;
        let mut n_rounds = 0;
        loop {
            let start = Instant::now();
            let found = own.as_ref().unwrap_or(menus).smallest();
            self.solve_time += start.elapsed();
            let (formats, linear_bytes) = found?;
            let counted = self.count(&formats, likely)?;
            n_rounds += 1;
            let is_settled = adds_nothing(&counted.set, &set);
            set.extend(counted.set.clone());
            if !is_settled {
                own = Some(self.menus(&set)?);
            }
            if is_settled || n_rounds == MAX_ROUNDS {
                return Ok(Smallest { formats, linear_bytes, counted, set, menus: own });
            }
        }
    }

    /// The assignment of the least error that fits, out of those that the solver proposes from `capacity` bytes of the
    /// linear model on; the menus where none of them does.
    fn search(&mut self, mut menus: Menus, mut capacity: u64) -> Result<Result<Trial, Menus>, L::Error> {
        let Request { model, target, .. } = *self.request;
        let available = self.request.available_bytes();
        let mut set = Set::new();
        let mut best: Option<Trial> = None;
        let mut n_capacities = 1;
        for _ in 0..MAX_ROUNDS {
            let start = Instant::now();
            let proposed = menus.best(model, capacity);
            self.solve_time += start.elapsed();
            let Some((formats, certificate)) = proposed else { break };
            let counted = self.count(&formats, true)?;
            let (peak, is_settled) = (counted.peak_bytes, adds_nothing(&counted.set, &set));
            set.extend(counted.set.clone());
            if peak <= available {
                let certificate = Some(Certificate { rounds: n_capacities, ..certificate });
                if is_settled {
                    let last = Trial { menus, formats, counted, certificate, set };
                    return Ok(Ok(last.or_better(best, self.request)));
                }
                // With what passes set known, the others may fill the budget.
                menus = self.menus(&set)?;
                let trial = Trial { menus: menus.clone(), formats, counted, certificate, set: set.clone() };
                best = Some(trial.or_better(best, self.request));
            } else if is_settled {
                capacity = capacity.saturating_sub(peak - available);
                capacity = capacity.saturating_sub(target.memory.allocation_granularity);
                n_capacities += 1;
            } else {
                menus = self.menus(&set)?;
            }
        }
        Ok(best.ok_or(menus))
    }
}

/// The smallest assignment.
struct Smallest {
    formats: Vec<Format>,
    /// What the linear model has for it.
    linear_bytes: u64,
    counted: Counted,
    set: Set,
    /// The menus that it is of, where those are not the first.
    menus: Option<Menus>,
}

impl Smallest {
    fn trial(self, menus: Menus) -> Trial {
        let Smallest { formats, counted, set, .. } = self;
        Trial { menus: self.menus.unwrap_or(menus), formats, counted, certificate: None, set }
    }
}

/// Whether all formats that passes set were known.
fn adds_nothing(found: &Set, known: &Set) -> bool {
    found.iter().all(|(name, format)| known.get(name) == Some(format))
}

const GB: u64 = 1_000_000_000;

/// The simple rule by memory, the widest first: the least memory in bytes for which a tier is considered.
const TIERS: [(u64, Format); 4] = [
    (24 * GB, Format::F32),
    (12 * GB, Format::F16),
    (4 * GB, Format::int(Coding::I8, Activations::F16)),
    (0, Format::int(Coding::I4, Activations::F16)),
];

/// The format of a menu that is nearest a tier's: pins and permitted formats stand.
fn nearest(menu: &[Format], tier: Format) -> Format {
    let has = |format: Format| menu.iter().copied().find(|f| *f == format);
    has(tier).or_else(|| has(tier.without_weights())).or(menu.last().copied()).unwrap_or(tier)
}
