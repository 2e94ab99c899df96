//! What inputs of a model's own data say of its weights: second moments of what each matrix is multiplied with.

use super::gptq::Gram;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Second moments of the inputs of a matrix of weights, in the order of its columns: one a group of its rows. Several
/// for a convolution in groups, whose filters see channels of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    groups: Vec<Gram>,
    hash: [u8; 32],
}

impl Moments {
    /// The moments of groups, over which the rows of the matrix are shared out evenly.
    pub fn new(groups: Vec<Gram>) -> Moments {
        let mut hasher = blake3::Hasher::new();
        for group in &groups {
            hasher.update(&group.n_samples().to_le_bytes());
            (0..group.n_cols()).for_each(|i| {
                (0..group.n_cols()).for_each(|j| {
                    hasher.update(&group.at(i, j).to_le_bytes());
                });
            });
        }
        Moments { groups, hash: *hasher.finalize().as_bytes() }
    }

    /// The groups.
    pub fn groups(&self) -> &[Gram] {
        &self.groups
    }

    /// The BLAKE3 hash of all of it: what was quantized by equal moments is equal.
    pub fn hash(&self) -> [u8; 32] {
        self.hash
    }

    /// Inputs seen, of the group with the fewest.
    pub fn n_samples(&self) -> u64 {
        self.groups.iter().map(Gram::n_samples).min().unwrap_or(0)
    }

    /// The moments of row `row` of `n_rows`.
    pub fn of_row(&self, row: usize, n_rows: usize) -> Option<&Gram> {
        self.groups.get(row * self.groups.len() / n_rows.max(1))
    }
}

/// What was learnt of a model from data, by the name of the constant that holds the weights.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Calibration {
    /// Moments of what weights are multiplied with. Weights that read one value share them.
    pub moments: BTreeMap<String, Arc<Moments>>,
    /// How much error of the outputs errors of weights make: the relative squared error for each unit of the normalised
    /// mean squared error of the weights (`session::sensitivities`). Where there are some, they weigh the predicted
    /// errors of formats; weights that are not among them count as their mean.
    pub sensitivities: BTreeMap<String, f64>,
    /// Sets of inputs that the model was run on.
    pub n_runs: usize,
}
