//! The data-free score: how much error a format is predicted to add.
//!
//! Each layer adds noise to what passes through it. Relative to the layer's own output its variance is the normalised
//! mean squared error of its weights, `sum (w - q s)^2 / sum w^2` with the scales that would be stored, plus that of
//! rounding the activations. Layers that follow each other add these up, so the score of an assignment is the sum over
//! all groups. Each layer's share is one, or what was measured: the sensitivity of the outputs to its weights
//! ([`Calibration::sensitivities`]).

use super::model::Group;
use crate::ir::packed::{Packing, ScaleType};
use crate::ir::{Activations, Format, Graph, OpError, Weights};
use crate::ops::weights;
use crate::quant::calibration::Calibration;
use crate::quant::estimate;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

/// Elements of a tensor that are quantized to estimate its error.
const SAMPLE_ELEMS: usize = 1 << 17;
/// Elements of these that are quantized to compare blocks.
const FEW_ELEMS: usize = 1 << 14;
/// Relative variance of rounding to f16: `2^-22 / 12`, at the mean position in a binade.
const F16_ROUNDING: f64 = 3.0e-8;
/// Relative variance of rounding activations to INT8 with one scale a row: that of Gaussian values whose largest is 3.5
/// standard deviations, times four for the outliers that activations have.
const I8_ROW_ROUNDING: f64 = 2.5e-4;

/// The errors of a group's weights, measured once a weight format however many formats share it.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    errors: BTreeMap<Weights, f64>,
    /// What the errors of each of the group's weights count.
    shares: Vec<f64>,
    /// What those of its results do.
    share: f64,
}

impl Scores {
    /// Measures a group under each of `menu`. Where that has the default block, other blocks of as many bits are
    /// compared with it on fewer of the weights.
    ///
    /// # Errors
    /// The weights cannot be read.
    pub fn of(graph: &Graph, group: &Group, menu: &[Format], known: Known<'_>) -> Result<Scores, OpError> {
        let share_of = |w: &weights::Weights| known.share(&graph.value(w.value).name);
        let shares: Vec<f64> = group.weights.iter().map(share_of).collect();
        let share = if shares.is_empty() { known.mean() } else { shares.iter().sum::<f64>() / shares.len() as f64 };
        let errors = known.errors;
        let stored = menu.iter().flat_map(|f| [Some(f.weights), f.tail.map(|tail| tail.weights)]).flatten();
        let mut scores: BTreeMap<Weights, f64> = stored.map(|weights| (weights, 0.0)).collect();
        let has_default: BTreeSet<Weights> =
            scores.keys().filter(|w| scores.contains_key(&w.with_default_block())).copied().collect();
        for (found, share) in group.weights.iter().zip(&shares) {
            let tensor = graph.constant(found.value).ok_or(OpError::NotConstant { slot: found.slot })?;
            let is_needed = scores.keys().any(|w| matches!(w, Weights::Int { .. }));
            let (sample, n_rows) = if is_needed { found.sample(tensor, SAMPLE_ELEMS)? } else { (Vec::new(), 0) };
            let n_cols = found.n_cols;
            let sample = Sample::new(sample, n_rows, n_cols);
            let few = sample.fewer(FEW_ELEMS);
            for (weights, error) in &mut scores {
                let base = weights.with_default_block();
                let own = match &few {
                    Some(few) if *weights != base && has_default.contains(weights) => {
                        let (own, near) = (errors.of(few, *weights)?, errors.of(few, base)?);
                        if near > 0.0 { errors.of(&sample, base)? * own / near } else { own }
                    }
                    _ => errors.of(&sample, *weights)?,
                };
                *error += share * own;
            }
        }
        Ok(Scores { errors: scores, shares, share })
    }

    /// The predicted relative error variance of the group under `format`. The rows of a split matrix are taken as
    /// alike.
    pub fn score(&self, group: &Group, format: Format) -> f64 {
        let n_rows = group.weights.first().map_or(1, |w| w.n_rows);
        let part = |(n, weights): (usize, Weights)| {
            n as f64 / n_rows as f64 * self.errors.get(&weights).copied().unwrap_or(0.0)
        };
        let mut score: f64 = format.parts(n_rows).map(part).sum();
        if format.activations == Activations::I8 {
            let shares = group.weights.iter().zip(&self.shares).filter(|(w, _)| w.has_products).map(|(_, share)| share);
            score += I8_ROW_ROUNDING * shares.sum::<f64>();
        }
        if format.activations == Activations::F16 {
            score += F16_ROUNDING * self.share;
        }
        score
    }
}

/// Rows of a matrix of weights.
struct Sample {
    values: Vec<f32>,
    n_rows: usize,
    n_cols: usize,
    hash: [u8; 32],
}

impl Sample {
    fn new(values: Vec<f32>, n_rows: usize, n_cols: usize) -> Sample {
        let mut hasher = blake3::Hasher::new();
        values.iter().for_each(|w| {
            hasher.update(&w.to_le_bytes());
        });
        Sample { values, n_rows, n_cols, hash: *hasher.finalize().as_bytes() }
    }

    /// Evenly spaced rows of at most `max_elems` elements, but one row at least; `None` where that is all of them.
    fn fewer(&self, max_elems: usize) -> Option<Sample> {
        let n = (max_elems / self.n_cols.max(1)).max(1);
        let row = |i: usize| &self.values[i * self.n_rows / n * self.n_cols..][..self.n_cols];
        (n < self.n_rows).then(|| Sample::new((0..n).flat_map(row).copied().collect(), n, self.n_cols))
    }
}

/// What is known of a model before its formats are assigned.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Errors of weights that were measured before.
    pub errors: &'a Errors,
    /// What was learnt from data.
    pub calibration: Option<&'a Calibration>,
}

impl Known<'_> {
    fn measured(&self) -> Option<&BTreeMap<String, f64>> {
        self.calibration.map(|found| &found.sensitivities).filter(|all| !all.is_empty())
    }

    /// What the errors of a constant count.
    fn share(&self, constant: &str) -> f64 {
        self.measured().and_then(|all| all.get(constant)).copied().unwrap_or_else(|| self.mean())
    }

    fn mean(&self) -> f64 {
        self.measured().map_or(1.0, |all| all.values().sum::<f64>() / all.len() as f64)
    }
}

/// What was measured: the hash of weights, their columns and how they are stored.
type Key = ([u8; 32], usize, Weights);

/// Errors of weights that were measured, by what was measured.
#[derive(Debug, Default)]
pub struct Errors(Mutex<BTreeMap<Key, f64>>);

impl Errors {
    /// The error of `sample` stored as `weights`.
    fn of(&self, sample: &Sample, weights: Weights) -> Result<f64, OpError> {
        let known = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (sample.hash, sample.n_cols, weights);
        if let Some(error) = known().get(&key) {
            return Ok(*error);
        }
        let error = weight_error(&sample.values, sample.n_rows, sample.n_cols, weights)?;
        known().insert(key, error);
        Ok(error)
    }

    /// How many were measured.
    pub fn n_measured(&self) -> usize {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

fn weight_error(sample: &[f32], n_rows: usize, n_cols: usize, format: Weights) -> Result<f64, OpError> {
    let (coding, granularity) = match format {
        Weights::F32 => return Ok(0.0),
        Weights::F16 => return Ok(F16_ROUNDING),
        Weights::Int { coding, granularity } => (coding, granularity),
    };
    let packing = Packing { coding, granularity, scale: ScaleType::F16 };
    let stats =
        estimate(sample, n_rows, n_cols, packing, sample.len()).map_err(|e| OpError::unsupported(e.to_string()))?;
    // Weights that are not finite must never look worth quantizing; the solver wants finite costs.
    Ok(if stats.nmse().is_finite() { stats.nmse() } else { 1e6 })
}
