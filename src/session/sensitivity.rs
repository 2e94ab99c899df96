//! What errors of weights do to a model's outputs, measured on data of its own: each constant of weights is quantized
//! alone, and what depends on it is computed again on the CPU reference.

use super::{CalibrateError, Reference};
use crate::ir::packed::{self, Coding, Granularity, Packing, ScaleType};
use crate::ir::{DEFAULT_BLOCK, Graph, MatrixLayout, OpError, Tensor, ValueId};
use crate::ops::weights::{self, Weights};
use crate::quant::quantize;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::str::FromStr;

/// Coding in which constants are quantized: one in the middle, whose errors are neither lost in rounding
/// nor beyond what adds up.
const CODING: Coding = Coding::I4;
/// The least sensitivity, as a part of the mean: few samples do not show that weights are of no use.
const LEAST_SHARE: f64 = 0.01;
/// A divergence that is no number counts as this: the outputs are lost.
const LOST: f64 = 1e3;

/// How far outputs are from those of the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Divergence {
    /// `|y - y'|^2 / |y|^2`.
    #[default]
    Error,
    /// Kullback-Leibler divergence along the last axis, of probabilities or of what a softmax makes such: for
    /// classifiers and language models.
    Kl,
}

impl FromStr for Divergence {
    type Err = String;
    fn from_str(text: &str) -> Result<Divergence, String> {
        match text {
            "error" => Ok(Divergence::Error),
            "kl" => Ok(Divergence::Kl),
            _ => Err(format!("{text:?} is no divergence: error or kl")),
        }
    }
}

/// The sensitivity of each constant of weights of `graph`, of the ONNX level as `assign_precision` sees it, by name:
/// the relative squared error of the outputs for each unit of the normalised mean squared error of the weights. With
/// another [`Divergence`], that says how constants compare, and the squared error only what all of them come to
/// together. A sample has the graph's inputs without a default in order; `progress` hears how many runs of how many
/// are done.
///
/// Memory: all values of one run.
///
/// # Errors
/// There is no sample, one cannot be run, or no output that is a float depends on weights.
pub fn sensitivities(
    graph: &Graph,
    samples: &[Vec<Tensor>],
    divergence: Divergence,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<BTreeMap<String, f64>, CalibrateError> {
    if samples.is_empty() {
        return Err(CalibrateError::NoSamples);
    }
    let found: BTreeMap<ValueId, Weights> =
        graph.order().into_iter().filter_map(|id| weights::of(graph, id)).map(|found| (found.value, found)).collect();
    let (reference, n_runs) = (Reference::new(graph.clone()), samples.len() * found.len());
    // Of each constant the divergence and the squared error of outputs, for each unit of its own error.
    let mut sums: BTreeMap<ValueId, [f64; 2]> = BTreeMap::new();
    for (n, sample) in samples.iter().enumerate() {
        let failed = |source| CalibrateError::Run { sample: n, source };
        let replay = reference.replay(&super::calibrate::with_defaults(graph, sample.clone())).map_err(failed)?;
        let own = replay.outputs(BTreeMap::new()).map_err(failed)?;
        for (i, (&value, weights)) in found.iter().enumerate() {
            let constant = graph.constant(value).and_then(|tensor| rounded(weights, tensor).ok().flatten());
            if let Some((tensor, error)) = constant {
                let others = replay.outputs(BTreeMap::from([(value, tensor)])).map_err(failed)?;
                let sums = sums.entry(value).or_default();
                sums[0] += between(divergence, &own, &others) / error;
                sums[1] += between(Divergence::Error, &own, &others) / error;
            }
            progress(n * found.len() + i + 1, n_runs);
        }
    }
    let all = sums.values().fold([0.0; 2], |all, own| [all[0] + own[0], all[1] + own[1]]);
    let level = all[1] / all[0] / samples.len() as f64;
    if !level.is_finite() {
        return Err(CalibrateError::Insensitive);
    }
    let least = LEAST_SHARE * all[0] / sums.len() as f64;
    Ok(sums.into_iter().map(|(value, own)| (graph.value(value).name.clone(), own[0].max(least) * level)).collect())
}

/// The weights as they are stored in the middle format, and their error; `None` where they lose nothing, or hold what
/// integers cannot.
fn rounded(found: &Weights, tensor: &Tensor) -> Result<Option<(Tensor, f64)>, OpError> {
    let (n_rows, n_cols) = (found.n_rows, found.n_cols);
    let matrix = found.matrix(tensor)?;
    let granularity =
        if DEFAULT_BLOCK as usize >= n_cols { Granularity::Row } else { Granularity::Block(DEFAULT_BLOCK) };
    let packing = Packing { coding: CODING, granularity, scale: ScaleType::F32 };
    let wrong = |e: packed::PackedError| OpError::unsupported(e.to_string());
    let quantized = quantize(&matrix, n_rows, n_cols, packing).map_err(wrong)?;
    let error = quantized.error.nmse();
    if !error.is_finite() || error <= 0.0 {
        return Ok(None);
    }
    let mut values = packed::dequantize(packing, n_rows, n_cols, &quantized.bytes).map_err(wrong)?;
    if found.layout == MatrixLayout::Columns {
        values = (0..n_rows * n_cols).map(|i| values[i % n_rows * n_cols + i / n_rows]).collect();
    }
    Ok(Some((Tensor::from_f32s(tensor.dtype(), &tensor.dims(), &values)?, error)))
}

/// The divergence of all outputs that are floats, the mean of them.
fn between(divergence: Divergence, own: &[Tensor], others: &[Tensor]) -> f64 {
    let floats = own.iter().zip(others).filter(|(own, _)| own.dtype().is_float());
    let all: Vec<f64> = floats
        .filter_map(|(own, other)| {
            let n = own.dims().last().copied().unwrap_or(1).max(1);
            let (own, other) = (own.to_f32s().ok()?, other.to_f32s().ok()?);
            let apart = match divergence {
                Divergence::Error => squared_error(&own, &other),
                Divergence::Kl => {
                    let rows = own.par_chunks(n).zip(other.par_chunks(n)).map(|(p, q)| kl(p, q));
                    let rows: Vec<f64> = rows.collect();
                    rows.iter().sum::<f64>() / rows.len().max(1) as f64
                }
            };
            Some(if apart.is_finite() { apart.min(LOST) } else { LOST })
        })
        .collect();
    all.iter().sum::<f64>() / all.len().max(1) as f64
}

fn squared_error(own: &[f32], other: &[f32]) -> f64 {
    let sum: f64 = own.iter().map(|y| f64::from(*y).powi(2)).sum();
    let error: f64 = own.iter().zip(other).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2)).sum();
    if error == 0.0 { 0.0 } else { error / sum }
}

/// `sum p ln(p / q)` of rows of probabilities, or of logits: as the first row is one.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    let sum: f64 = p.iter().map(|v| f64::from(*v)).sum();
    let are_probabilities = (sum - 1.0).abs() < 1e-3 && p.iter().all(|v| *v >= 0.0);
    let logarithms = |row: &[f32]| -> Vec<f64> {
        if are_probabilities {
            return row.iter().map(|v| f64::from(*v).max(1e-30).ln()).collect();
        }
        let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = row.iter().map(|v| f64::from(v - most).exp()).sum();
        row.iter().map(|v| f64::from(v - most) - sum.ln()).collect()
    };
    let terms = logarithms(p).into_iter().zip(logarithms(q));
    terms.map(|(p, q)| if p == f64::NEG_INFINITY { 0.0 } else { p.exp() * (p - q) }).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attrs, DType, Level, Op, TensorType};

    fn random(dims: &[usize], seed: u32, factor: f32) -> Tensor {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            ((state >> 8) as f32 / (1 << 23) as f32 - 1.0) * factor
        };
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
        Tensor::from_f32s(DType::F32, dims, &values).unwrap()
    }

    /// `x u + x v`, the second less than a hundredth of the first, and its weights harder to quantize.
    fn products() -> (Graph, ValueId) {
        let op = |onnx: &str| Op::new(crate::ops::registry().by_onnx(onnx).unwrap(), Attrs::new());
        let mut graph = Graph::new("g", Level::Onnx);
        let x = graph.add_input("x", TensorType::of(DType::F32, &[16, 128]));
        let u = graph.add_const("u", random(&[128, 64], 3, 1.0));
        let v: Vec<f32> = random(&[128, 64], 4, 1.0).to_f32s().unwrap().iter().map(|v| 0.01 * v.powi(5)).collect();
        let v = graph.add_const("v", Tensor::from_f32s(DType::F32, &[128, 64], &v).unwrap());
        let a = graph.add_op("a", op("MatMul"), &[Some(x), Some(u)], &["a".into()]).unwrap();
        let b = graph.add_op("b", op("MatMul"), &[Some(x), Some(v)], &["b".into()]).unwrap();
        let y = graph.add_op("y", op("Add"), &[Some(a.out(0)), Some(b.out(0))], &["y".into()]).unwrap();
        (graph, y.out(0))
    }

    fn unequal() -> Graph {
        let (mut graph, y) = products();
        graph.add_output("y", y);
        graph
    }

    #[test]
    fn outputs_feel_weights_by_their_part_in_them() {
        let samples: Vec<Vec<Tensor>> = (1..4).map(|seed| vec![random(&[16, 128], seed, 1.0)]).collect();
        let mut n_told = 0;
        let found = sensitivities(&unequal(), &samples, Divergence::Error, &mut |n, all| {
            assert_eq!(all, 6);
            n_told = n;
        })
        .unwrap();
        assert_eq!(n_told, 6);
        // All of the output is `u`'s, so its relative error is the weights'; `v`'s is the least that is assumed.
        assert!((0.5..2.0).contains(&found["u"]), "{found:?}");
        assert!(found["v"] < 0.02 * found["u"], "{found:?}");
        // A divergence of another kind keeps the level.
        let kl = sensitivities(&unequal(), &samples, Divergence::Kl, &mut |_, _| {}).unwrap();
        let sum = |all: &BTreeMap<String, f64>| all.values().sum::<f64>();
        assert!((sum(&kl) / sum(&found) - 1.0).abs() < 0.05, "{kl:?} {found:?}");
        let none = sensitivities(&unequal(), &[], Divergence::Kl, &mut |_, _| {});
        assert!(matches!(none, Err(CalibrateError::NoSamples)));
    }

    #[test]
    fn outputs_without_floats_are_refused() {
        let (mut graph, y) = products();
        let op = Op::new(crate::ops::registry().by_onnx("ArgMax").unwrap(), Attrs::new().with_int("axis", 1));
        let index = graph.add_op("index", op, &[Some(y)], &["index".into()]).unwrap();
        graph.add_output("index", index.out(0));
        let found = sensitivities(&graph, &[vec![random(&[16, 128], 1, 1.0)]], Divergence::Error, &mut |_, _| {});
        assert!(matches!(found, Err(CalibrateError::Insensitive)), "{found:?}");
    }

    #[test]
    fn divergences_of_rows_are_those_of_the_textbook() {
        let (p, q) = ([0.5f32, 0.5], [0.25f32, 0.75]);
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl(&p, &q) - expected).abs() < 1e-7);
        // Logits of the same, and shifted.
        let logits = |row: [f32; 2], by: f32| row.map(|v| v.ln() + by);
        assert!((kl(&logits(p, 3.0), &logits(q, -2.0)) - expected).abs() < 1e-5);
        assert_eq!(squared_error(&[3.0, 4.0], &[3.0, 3.0]), 1.0 / 25.0);
    }

    /// The budget goes to the weights that matter, and the program comes nearer to the model.
    #[cfg(feature = "codegen")]
    #[test]
    fn measured_sensitivity_spends_the_budget_better() {
        use crate::passes::Settings;
        use crate::quant::calibration::Calibration;
        use crate::session::compare::Comparison;
        use crate::session::{Compile, budget_bounds, compile, sensitivities_for};
        let graph = unequal();
        let target = crate::targets::Target::shipped("lavapipe").unwrap();
        let mut options = Compile { settings: Settings::default(), target, n_threads: 1 };
        let (least, most) = budget_bounds(&graph, &options, &|_, _, _| {}).unwrap();
        options.settings.budget_bytes = Some(least + (most - least) / 8);
        let unseen = [random(&[16, 128], 99, 1.0)];
        let error = |options: &Compile| {
            let program = compile(&graph, options, &|_, _, _| {}, None).unwrap().program;
            Comparison::of(graph.clone(), &unseen, &program, &unseen, &crate::ops::registry()).unwrap().worst()
        };
        let plain = error(&options);
        let samples = [vec![random(&[16, 128], 1, 1.0)]];
        let sensitivities = sensitivities_for(&graph, &options, &samples, Divergence::Error, &mut |_, _| {}).unwrap();
        let calibration = Calibration { sensitivities, n_runs: 1, ..Calibration::default() };
        options.settings.calibration = Some(std::sync::Arc::new(calibration));
        let measured = error(&options);
        assert!(measured < 0.5 * plain, "{measured} {plain}");
    }
}
