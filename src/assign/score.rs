//! The data-free score: how much error a format is predicted to add.
//!
//! Each layer adds noise to what passes through it. Relative to the layer's own output its variance is the normalised
//! mean squared error of its weights, `sum (w - q s)^2 / sum w^2` with the scales that would be stored, plus that of
//! rounding the activations. Layers that follow each other add these up, so the score of an assignment is the sum over
//! all groups; each layer's share is one.

use super::model::Group;
use crate::ir::packed::{Packing, ScaleType};
use crate::ir::{Activations, Format, Graph, OpError, Weights};
use crate::quant::estimate;
use std::collections::BTreeMap;

/// Elements of a tensor that are quantized to estimate its error.
const SAMPLE_ELEMS: usize = 1 << 17;
/// Relative variance of rounding to f16: `2^-22 / 12`, at the mean position in a binade.
const F16_ROUNDING: f64 = 3.0e-8;
/// Relative variance of rounding activations to INT8 with one scale a row: that of Gaussian values whose largest is 3.5
/// standard deviations, times four for the outliers that activations have.
const I8_ROW_ROUNDING: f64 = 2.5e-4;

/// The errors of a group's weights, measured once a weight format however many formats share it.
#[derive(Clone, Debug, Default)]
pub struct Scores(BTreeMap<Weights, f64>);

impl Scores {
    /// Measures a group under each of `menu`.
    ///
    /// # Errors
    /// The weights cannot be read.
    pub fn of(graph: &Graph, group: &Group, menu: &[Format]) -> Result<Scores, OpError> {
        let stored = menu.iter().flat_map(|f| [Some(f.weights), f.tail.map(|tail| tail.weights)]).flatten();
        let mut scores: BTreeMap<Weights, f64> = stored.map(|weights| (weights, 0.0)).collect();
        for found in &group.weights {
            let tensor = graph.constant(found.value).ok_or(OpError::NotConstant { slot: found.slot })?;
            let is_needed = scores.keys().any(|w| matches!(w, Weights::Int { .. }));
            let (sample, n_rows) = if is_needed { found.sample(tensor, SAMPLE_ELEMS)? } else { (Vec::new(), 0) };
            for (weights, error) in &mut scores {
                *error += weight_error(&sample, n_rows, found.n_cols, *weights)?;
            }
        }
        Ok(Scores(scores))
    }

    /// The predicted relative error variance of the group under `format`. The rows of a split matrix are taken as
    /// alike.
    pub fn score(&self, group: &Group, format: Format) -> f64 {
        let n_rows = group.weights.first().map_or(1, |w| w.n_rows);
        let part =
            |(n, weights): (usize, Weights)| n as f64 / n_rows as f64 * self.0.get(&weights).copied().unwrap_or(0.0);
        let mut score: f64 = format.parts(n_rows).map(part).sum();
        if format.activations == Activations::I8 {
            score += I8_ROW_ROUNDING * group.weights.iter().filter(|w| w.has_products).count() as f64;
        }
        if format.activations == Activations::F16 {
            score += F16_ROUNDING;
        }
        score
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
