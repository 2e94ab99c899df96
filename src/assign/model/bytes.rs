//! What formats cost in bytes, by the linear model: a format of a group has bytes of weights, and bytes in each step.

use super::{Constant, LinearModel};
use crate::assign::solve::{Choice, Group, Limits, Problem, Run, SolveError, solve};
use crate::ir::packed::{Granularity, Packing, ScaleType};
use crate::ir::{Activations, DType, Format, TensorType, Weights};
use crate::ops::weights;
use crate::plan::arena::Buffer;
use crate::plan::build::PARAMS_SLOT_BYTES;
use crate::plan::round_up;
use std::collections::{BTreeMap, BTreeSet};

/// Matrices of at least so many bytes in f32 may be split.
const SPLIT_BYTES: u64 = 256 << 10;

impl LinearModel {
    /// The rows of a group's one large matrix that products or look-ups read row by row, and so may be stored in
    /// different ways.
    pub fn splittable_rows(&self, group: usize) -> Option<usize> {
        match self.groups[group].weights[..] {
            [w] if w.has_own_rows && matrix_bytes(&w, w.n_rows, Weights::F32) >= SPLIT_BYTES => Some(w.n_rows),
            _ => None,
        }
    }

    /// Bytes of the parameters of the dispatches that `format` adds: those of further parts, and those that quantize
    /// activations.
    pub fn params_bytes(&self, group: usize, format: Format) -> u64 {
        let own = &self.groups[group];
        let parts = own.weights.first().map_or(1, |w| format.parts(w.n_rows).count());
        let quantizes = format.activations == Activations::I8 && format.has_int_weights();
        let dispatches = own.n_readers * parts.saturating_sub(1) + if quantizes { own.products.len() } else { 0 };
        dispatches as u64 * PARAMS_SLOT_BYTES
    }

    /// Bytes of a group's weights and constants under `format`.
    pub fn weight_bytes(&self, group: usize, format: Format) -> u64 {
        let group = &self.groups[group];
        let a16 = format.activations == Activations::F16;
        let part =
            |w: &weights::Weights, n_rows: usize, how: Weights| round_up(matrix_bytes(w, n_rows, how), self.alignment);
        let weights: u64 =
            group.weights.iter().map(|w| format.parts(w.n_rows).map(|(n, how)| part(w, n, how)).sum::<u64>()).sum();
        let copies = group.copies.iter().filter(|_| a16).map(|n| round_up(n.saturating_mul(2), self.alignment));
        let constants = group.constants.iter().map(|constant| round_up(constant.bytes(a16), self.alignment));
        weights + copies.sum::<u64>() + constants.sum::<u64>()
    }

    /// Bytes that a group's choice occupies in some steps, above what [`Model::base_rows`] has.
    pub fn row_bytes(&self, group: usize, format: Format) -> Vec<Run> {
        // Where they rise and fall: a buffer may live through the whole schedule.
        let mut steps: BTreeMap<usize, i128> = BTreeMap::new();
        for (_, buffer) in self.changed(group, format) {
            let bytes = i128::from(round_up(buffer.bytes, self.alignment));
            *steps.entry(buffer.first).or_insert(0) += bytes;
            *steps.entry(buffer.last + 1).or_insert(0) -= bytes;
        }
        let row = |step: usize| u32::try_from(step).unwrap_or(u32::MAX);
        let (mut runs, mut bytes, mut first): (Vec<Run>, i128, usize) = (Vec::new(), 0, 0);
        for (step, change) in steps.into_iter().filter(|(_, change)| *change != 0) {
            if bytes > 0 {
                runs.push(Run {
                    first: row(first),
                    last: row(step - 1),
                    bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
                });
            }
            bytes += change;
            first = step;
        }
        runs
    }

    /// The buffers that a group's choice decides: index in the base buffers where it replaces one, and the buffer.
    fn changed(&self, group: usize, format: Format) -> Vec<(Option<usize>, Buffer)> {
        let group = &self.groups[group];
        let size = if format.activations == Activations::F16 { 2 } else { 4 };
        let mut buffers: Vec<_> = group
            .stored
            .iter()
            .map(|&(i, n)| (Some(i), Buffer { bytes: n.saturating_mul(size), ..self.buffers[i] }))
            .collect();
        if format.activations == Activations::I8 && format.has_int_weights() {
            for (step, ty, is_tensor) in &group.products {
                let packing = Packing::activation(if *is_tensor { Granularity::Tensor } else { Granularity::Row });
                let ty = TensorType { packing: Some(packing), ..ty.with_dtype(DType::I8) };
                let bytes = ty.largest().and_then(|ty| ty.bytes()).unwrap_or(0);
                buffers.push((None, Buffer { bytes, first: *step, last: *step }));
            }
        }
        buffers
    }

    /// Bytes in each step that no format changes: inputs, outputs, integers, constants, parameters, staging.
    pub fn base_rows(&self) -> Vec<u64> {
        let decided: BTreeSet<usize> = self.groups.iter().flat_map(|g| g.stored.iter().map(|s| s.0)).collect();
        let mut steps = vec![0i128; self.n_steps.max(1) + 1];
        for (_, buffer) in self.buffers.iter().enumerate().filter(|(i, _)| !decided.contains(i)) {
            let bytes = i128::from(round_up(buffer.bytes, self.alignment));
            steps[buffer.first] += bytes;
            steps[buffer.last + 1] -= bytes;
        }
        let mut bytes =
            i128::from(self.fixed_constants.saturating_add(self.params_bytes).saturating_add(self.states_bytes));
        steps.pop();
        let row = |step| {
            bytes += step;
            u64::try_from(bytes).unwrap_or(u64::MAX)
        };
        steps.into_iter().map(row).collect()
    }

    /// What a format of a group takes at which cost.
    pub fn choice(&self, group: usize, format: Format, cost: f64) -> Choice {
        Choice {
            cost,
            fixed_bytes: self.weight_bytes(group, format).saturating_add(self.params_bytes(group, format)),
            rows: self.row_bytes(group, format),
        }
    }

    /// The bytes in the fullest step under `formats`, one a group.
    ///
    /// # Errors
    /// There are more bytes than can be computed with.
    pub fn peak_bytes(&self, formats: &[Format]) -> Result<u64, SolveError> {
        let one = |(group, format): (usize, &Format)| Group { choices: vec![self.choice(group, *format, 0.0)] };
        let groups = formats.iter().enumerate().map(one).collect();
        let problem = Problem { groups, row_base: self.base_rows(), capacity: u64::MAX };
        Ok(solve(&problem, &Limits::default())?.peak)
    }
}

impl Constant {
    fn bytes(self, is_f16: bool) -> u64 {
        self.n_elems.saturating_mul(if is_f16 { self.narrow_bytes } else { self.wide_bytes })
    }
}

/// Bytes of some rows of a weight matrix as stored: in f32 as the model has them, at most; scales are counted as f16,
/// as nearly all are.
fn matrix_bytes(found: &weights::Weights, n_rows: usize, format: Weights) -> u64 {
    let (rows, cols) = (n_rows as u64, found.n_cols as u64);
    match format {
        Weights::F32 if found.dtype == DType::F32 => rows.saturating_mul(cols).saturating_mul(4),
        Weights::F32 => rows.saturating_mul(cols).saturating_mul(2),
        Weights::F16 => rows.saturating_mul(cols).saturating_mul(2),
        Weights::Int { coding, granularity } => {
            let granularity = match granularity {
                Granularity::Block(block) if u64::from(block) >= cols => Granularity::Row,
                other => other,
            };
            Packing { coding, granularity, scale: ScaleType::F16 }.packed_bytes(rows, cols).unwrap_or(u64::MAX)
        }
    }
}
