//! The data-free score: how much error a format is predicted to add.
//!
//! Each layer adds noise to what passes through it. Relative to the layer's own output its variance is the normalised mean squared error of its
//! weights, `sum (w - q s)^2 / sum w^2` with the scales that would be stored, plus that of rounding the activations. Layers that follow each other add
//! these up, so the score of an assignment is the sum over all groups; each layer's share is one.

use super::model::Group;
use crate::ir::packed::{Packing, ScaleType};
use crate::ir::{Activations, Format, Graph, OpError, Weights};
use crate::ops::quant_search::estimate;
use crate::ops::weights;

/// Elements of a tensor that are quantized to estimate its error.
const SAMPLE_ELEMS: usize = 1 << 17;
/// Relative variance of rounding to f16: `2^-22 / 12`, at the mean position in a binade.
const F16_ROUNDING: f64 = 3.0e-8;
/// Relative variance of rounding activations to INT8 with one scale a row: that of Gaussian values whose largest is 3.5 standard deviations, times
/// four for the outliers that activations have.
const I8_ROW_ROUNDING: f64 = 2.5e-4;

/// The predicted relative error variance of a group under `format`.
///
/// # Errors
/// The weights cannot be read.
pub fn score(graph: &Graph, group: &Group, format: Format) -> Result<f64, OpError> {
    let mut score = 0.0;
    for found in &group.weights {
        score += weight_error(graph, found, format.weights)?;
        if format.activations == Activations::I8 && found.has_products {
            score += I8_ROW_ROUNDING;
        }
    }
    if format.activations == Activations::F16 {
        score += F16_ROUNDING;
    }
    Ok(score)
}

fn weight_error(graph: &Graph, found: &weights::Weights, format: Weights) -> Result<f64, OpError> {
    let (bits, granularity) = match format {
        Weights::F32 => return Ok(0.0),
        Weights::F16 => return Ok(F16_ROUNDING),
        Weights::Int { bits, granularity } => (bits, granularity),
    };
    let tensor = graph.constant(found.value).ok_or(OpError::NotConstant { slot: found.slot })?;
    let matrix = found.matrix(tensor)?;
    let packing = Packing { bits, granularity, scale: ScaleType::F16 };
    let stats = estimate(&matrix, found.n_rows, found.n_cols, packing, SAMPLE_ELEMS).map_err(|e| OpError::unsupported(e.to_string()))?;
    // Weights that are not finite must never look worth quantizing; the solver wants finite costs.
    Ok(if stats.nmse().is_finite() { stats.nmse() } else { 1e6 })
}
