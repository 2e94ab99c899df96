//! Which variant of a shape is the fastest: successive halving.

use super::super::Failure;
use super::super::harness::spread;
use super::Work;
use super::warm::Warm;
use crate::kernels::Way;
use crate::runtime::{DeviceInfo, VkContext};
use crate::targets::tuning::{Case, Measured, Times};
use serde_json::{Value as Json, json};
use std::time::{Duration, Instant};

/// Samples after which variants are left out, and from how many times the best's time on.
const ROUNDS: [(usize, f64); 3] = [(1, 1.5), (3, 1.1), (15, f64::INFINITY)];
/// Load before the first shape.
const FIRST_LOAD: Duration = Duration::from_millis(1500);

/// A variant and what was found.
pub(super) struct Entrant {
    way: Way,
    /// Its price before.
    price_ns: u64,
    error: f64,
    is_right: bool,
    us: Vec<f64>,
    is_out: bool,
}

impl Entrant {
    fn median(&self) -> f64 {
        spread(&self.us).filter(|_| self.is_right).map_or(f64::INFINITY, |s| s.median)
    }

    /// The spread of the middle half of the samples.
    fn spread(&self) -> f64 {
        let mut us = self.us.clone();
        us.sort_by(f64::total_cmp);
        let at = |part: usize| us.get((us.len() - 1) * part / 4).copied().unwrap_or(0.0);
        if us.is_empty() { 0.0 } else { at(3) - at(1) }
    }
}

/// What was found of a shape.
pub(super) struct Outcome {
    pub(super) case: Case,
    /// What the table gets.
    pub(super) times: Times,
    entrants: Vec<Entrant>,
    /// Number of today's choice, and of the best.
    chosen: Option<usize>,
    best: Option<usize>,
    n_operations: u64,
    n_bytes: u64,
}

/// What races run on.
pub(super) struct Runner {
    warm: Option<Warm>,
}

impl Runner {
    /// # Errors
    /// The device fails.
    pub(super) fn new(info: &DeviceInfo, _: &VkContext, is_cpu: bool) -> Result<Runner, Failure> {
        if is_cpu {
            return Ok(Runner { warm: None });
        }
        let warm = Warm::new(info)?;
        let start = Instant::now();
        while start.elapsed() < FIRST_LOAD {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(Runner { warm: Some(warm) })
    }

    /// Runs the variants of a shape against each other.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn race(&self, work: &Work, context: &VkContext) -> Result<Outcome, Failure> {
        let mut executor = work.prepared.load(context)?;
        let bound = work.prepared.bound();
        let mut entrants = Vec::new();
        for (i, candidate) in work.candidates.iter().enumerate() {
            let error = work.prepared.error(&mut executor, i)?;
            let is_right = error <= bound;
            let (way, price_ns) = (candidate.way, candidate.cost.ns);
            entrants.push(Entrant { way, price_ns, error, is_right, us: Vec::new(), is_out: !is_right });
        }
        let chosen = work.candidates.iter().position(|candidate| candidate.is_chosen);
        let alone = self.warm.as_ref().map(Warm::alone);
        // The clock is up; caches of the first variant are not.
        work.prepared.sample(&mut executor, 0)?;
        for (n_samples, far) in ROUNDS {
            for _ in 0..n_samples {
                for (i, entrant) in entrants.iter_mut().enumerate() {
                    if !entrant.is_out && entrant.us.len() < n_samples {
                        let us = work.prepared.sample(&mut executor, i)?;
                        entrant.us.extend(us);
                    }
                }
            }
            let best = entrants.iter().map(Entrant::median).fold(f64::INFINITY, f64::min);
            for (i, entrant) in entrants.iter_mut().enumerate() {
                entrant.is_out |= entrant.median() > best * far && Some(i) != chosen;
            }
        }
        drop(alone);
        Ok(Outcome::of(work, entrants, chosen))
    }
}

impl Outcome {
    fn of(work: &Work, entrants: Vec<Entrant>, chosen: Option<usize>) -> Outcome {
        let finished = |entrant: &Entrant| !entrant.is_out && entrant.median().is_finite();
        let best = entrants.iter().enumerate().filter(|(_, e)| finished(e));
        let best = best.min_by(|a, b| a.1.median().total_cmp(&b.1.median())).map(|(i, _)| i);
        let mut outcome = Outcome {
            case: work.case.clone(),
            times: Times::new(),
            entrants,
            chosen: chosen.filter(|_| best.is_some()),
            best,
            n_operations: work.prepared.built.n_operations,
            n_bytes: work.prepared.n_bytes,
        };
        // Another variant is taken only where it is faster by more than samples differ.
        let incumbent = outcome.chosen.and_then(|i| outcome.entrants.get(i)).filter(|e| finished(e));
        for entrant in &outcome.entrants {
            if !entrant.is_right {
                outcome.times.insert(entrant.way.to_string(), Measured::Wrong);
            } else if finished(entrant) {
                let is_better = incumbent.is_none_or(|incumbent| {
                    let spread = entrant.spread().max(incumbent.spread());
                    entrant.way == incumbent.way
                        || entrant.median() >= incumbent.median()
                        || entrant.median() + spread < incumbent.median()
                });
                if is_better {
                    let ns = (entrant.median() * 1e3).round().max(1.0) as u64;
                    outcome.times.insert(entrant.way.to_string(), Measured::Ns(ns));
                }
            }
        }
        outcome
    }

    /// Today's choice against the best.
    pub(super) fn ratio(&self) -> Option<f64> {
        let at = |i: Option<usize>| i.and_then(|i| self.entrants.get(i)).map(Entrant::median);
        at(self.chosen).zip(at(self.best)).map(|(chosen, best)| chosen / best).filter(|ratio| ratio.is_finite())
    }

    pub(super) fn line(&self) -> String {
        let one = |i: Option<usize>| {
            i.and_then(|i| self.entrants.get(i))
                .map_or("none".to_owned(), |e| format!("{} {:.2} us", e.way, e.median()))
        };
        let wrong: Vec<String> = self.entrants.iter().filter(|e| !e.is_right).map(|e| e.way.to_string()).collect();
        let wrong = if wrong.is_empty() { String::new() } else { format!(", wrong: {}", wrong.join(" ")) };
        let ratio = self.ratio().map_or(String::new(), |r| format!(" ({r:.3})"));
        format!("{}, today {}{ratio}{wrong}", one(self.best), one(self.chosen))
    }

    pub(super) fn json(&self, shape: &str) -> Json {
        let variants: Vec<Json> = self
            .entrants
            .iter()
            .map(|e| {
                json!({
                    "variant": e.way.to_string(), "relative_error": e.error, "right": e.is_right,
                    "price_us": e.price_ns as f64 / 1e3, "samples": e.us.len(),
                    "us": spread(&e.us).map(|s| json!({"median": s.median, "min": s.min, "max": s.max})),
                })
            })
            .collect();
        let name = |i: Option<usize>| i.and_then(|i| self.entrants.get(i)).map(|e| e.way.to_string());
        json!({
            "shape": shape, "case": self.case.to_string(), "bytes": self.n_bytes, "operations": self.n_operations,
            "chosen": name(self.chosen), "best": name(self.best), "ratio": self.ratio(), "variants": variants,
        })
    }
}
