#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says aloud what it skips")]
use super::*;
use crate::ir::packed::{dequantize, unpack};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::time::Instant;

/// Standard normal weights, by the method of Box and Muller.
pub(super) fn gaussian(n: usize) -> Vec<f32> {
    let mut rng = StdRng::seed_from_u64(7);
    let mut draw = || {
        let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
        (-2.0 * u.ln()).sqrt() * (v * std::f32::consts::TAU).cos()
    };
    (0..n).map(|_| draw()).collect()
}

fn packing(coding: Coding, granularity: Granularity, scale: ScaleType) -> Packing {
    Packing { coding, granularity, scale }
}

fn nmse(w: &[f32], n_cols: usize, packing: Packing) -> f64 {
    quantize(w, w.len() / n_cols, n_cols, packing).unwrap().error.nmse()
}

/// The error that absmax quantization leaves.
fn absmax_nmse(w: &[f32], unit: usize, low: f32, high: f32) -> f64 {
    let (mut error, mut sum_sq) = (0.0, 0.0);
    for unit in w.chunks(unit) {
        let scale = unit.iter().fold(0.0_f32, |m, w| m.max(w.abs())) / high;
        for w in unit {
            let value = (w / scale).round_ties_even().clamp(low, high) * scale;
            error += f64::from(w - value).powi(2);
            sum_sq += f64::from(*w).powi(2);
        }
    }
    error / sum_sq
}

/// The error that codes under `max / -8` leave, as ONNX Runtime's quantizer chooses them, and that of the search, both
/// weighted as the search weighs them and relative to the sum of the weighted squares.
fn weighted_nmse(w: &[f32], n_cols: usize, packing: Packing) -> (f64, f64) {
    let bytes = quantize(w, w.len() / n_cols, n_cols, packing).unwrap().bytes;
    let searched = dequantize(packing, w.len() / n_cols, n_cols, &bytes).unwrap();
    let unit = packing.layout(w.len() / n_cols, n_cols).unwrap().unit_cols;
    let (mut simple, mut ours, mut all) = (0.0, 0.0, 0.0);
    for (unit, searched) in w.chunks(unit).zip(searched.chunks(unit)) {
        let mean = unit.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>() / unit.len() as f64;
        let largest = unit.iter().fold(0.0f32, |m, w| if w.abs() > m.abs() { *w } else { m });
        let scale = half::f16::from_f32(largest / -8.0).to_f32();
        for (w, searched) in unit.iter().zip(searched) {
            let weight = (mean + f64::from(*w).powi(2)).sqrt();
            let value = (w / scale).round_ties_even().clamp(-8.0, 7.0) * scale;
            simple += weight * f64::from(w - value).powi(2);
            ours += weight * f64::from(w - searched).powi(2);
            all += weight * f64::from(*w).powi(2);
        }
    }
    (simple / all, ours / all)
}

/// Weights with the tails that networks have: Student's t with 4 degrees of freedom.
fn heavy_tailed(n: usize) -> Vec<f32> {
    let normal = gaussian(5 * n);
    let one = |z: &[f32]| z[0] / (z[1..].iter().map(|z| z * z).sum::<f32>() / 4.0).sqrt();
    normal.chunks_exact(5).map(one).collect()
}

#[test]
fn large_weights_are_not_clipped_for_the_sake_of_small_ones() {
    for (w, gains) in
        [(gaussian(1 << 18), [0.84, 0.89, 0.92, 0.93, 0.92]), (heavy_tailed(1 << 18), [0.93, 0.95, 0.965, 0.96, 0.95])]
    {
        for (block, gain) in [16, 32, 64, 128, 256].into_iter().zip(gains) {
            let (simple, ours) =
                weighted_nmse(&w, 4096, packing(Coding::I4, Granularity::Block(block), ScaleType::F16));
            assert!(ours < gain * simple, "block {block}: {ours}, max / -8 {simple}");
        }
    }
}

#[test]
fn int4_is_near_the_floor_on_gaussian_weights() {
    let w = gaussian(1 << 20);
    // Within 5 % of the least plain error, which is not what is searched.
    for (block, floor) in [(16, 4.95e-3), (32, 6.6e-3), (64, 8.1e-3), (128, 9.35e-3), (256, 10.3e-3)] {
        let searched = nmse(&w, 4096, packing(Coding::I4, Granularity::Block(block), ScaleType::F16));
        assert!(searched <= 1.05 * floor, "block {block}: {searched}");
        let simple = absmax_nmse(&w, block as usize, -8.0, 7.0);
        assert!(searched < 0.75 * simple, "block {block}: {searched}, absmax {simple}");
    }
    let row = nmse(&w, 4096, packing(Coding::I4, Granularity::Row, ScaleType::F16));
    let tensor = nmse(&w, 4096, packing(Coding::I4, Granularity::Tensor, ScaleType::F32));
    // The best uniform 16-level quantizer of a Gaussian leaves 11.54e-3 (Max,
    // "Quantizing for minimum distortion", 1960); a level at zero costs a little, and large weights
    // that count more than small ones another 5 %.
    assert!(row < 12.5e-3 && tensor < 12.7e-3);
}

/// The least error of any scale, its codes found one by one among all of the coding.
fn exhaustive_nmse(w: &[f32], unit: usize, coding: Coding) -> f64 {
    let codes: Vec<f32> = (-128..=127i8).filter(|code| coding.has(*code)).map(f32::from).collect();
    let nearest = |y: f32| codes.iter().copied().min_by(|a, b| (a - y).abs().total_cmp(&(b - y).abs())).unwrap();
    let (mut error, mut sum_sq) = (0.0, 0.0);
    for unit in w.chunks(unit) {
        let largest = unit.iter().fold(0.0f32, |m, w| if w.abs() > m.abs() { *w } else { m });
        let with = |i: usize| {
            let scale = largest / (codes[0] * (0.75 + i as f32 * 0.005));
            unit.iter().map(|w| f64::from(w - nearest(w / scale) * scale).powi(2)).sum::<f64>()
        };
        error += (0..120).map(with).fold(f64::INFINITY, f64::min);
        sum_sq += unit.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
    }
    error / sum_sq
}

#[test]
fn every_coding_is_near_the_best_scale() {
    let w = gaussian(1 << 13);
    // Of fine codes many scales are nearly as good, and the search looks at sixteen.
    for (coding, most) in [(Coding::N4, 1.05), (Coding::I5, 1.1), (Coding::I6, 1.12)] {
        for block in [16, 32, 64, 128, 256] {
            let searched = nmse(&w, 1024, packing(coding, Granularity::Block(block), ScaleType::F16));
            let least = exhaustive_nmse(&w, block as usize, coding);
            assert!(searched <= most * least, "{coding} {block}: {searched}, {least}");
        }
    }
}

#[test]
fn each_coding_has_less_error_than_the_narrower_one() {
    for w in [gaussian(1 << 16), heavy_tailed(1 << 16)] {
        for granularity in [Granularity::Block(16), Granularity::Block(32), Granularity::Block(128), Granularity::Row] {
            let errors = Coding::ALL.map(|coding| nmse(&w, 1024, packing(coding, granularity, ScaleType::F16)));
            assert!(errors.is_sorted_by(|a, b| a > b), "{granularity:?}: {errors:?}");
            // Of as many bits, the non-linear codes have a sixth less.
            assert!(errors[1] < 0.9 * errors[0], "{granularity:?}: {errors:?}");
        }
    }
}

#[test]
fn int8_is_better_than_absmax() {
    let w = gaussian(1 << 18);
    let high = 127.0;
    for (granularity, unit, ratio) in
        [(Granularity::Block(32), 32, 0.9), (Granularity::Block(128), 128, 0.95), (Granularity::Row, 1024, 1.0)]
    {
        let searched = nmse(&w, 1024, packing(Coding::I8, granularity, ScaleType::F16));
        let simple = absmax_nmse(&w, unit, -high, high);
        assert!(searched < ratio * simple, "{granularity:?}: {searched}, absmax {simple}");
    }
}

#[test]
fn weights_on_a_grid_are_kept_exactly() {
    let int4: Vec<f32> = (0..4096).map(|i| (i * 5 % 16 - 8) as f32 * 0.25).collect();
    let mirrored: Vec<f32> = int4.iter().map(|w| -w).collect();
    let ternary: Vec<f32> = (0..4096).map(|i| (i * 7 % 3 - 1) as f32 * 0.5).collect();
    for (w, exact) in [(&int4, 0.0), (&mirrored, 0.0), (&ternary, 1e-6)] {
        for granularity in [Granularity::Block(32), Granularity::Row, Granularity::Tensor] {
            assert!(nmse(w, 64, packing(Coding::I4, granularity, ScaleType::F16)) <= exact, "{granularity:?}");
        }
    }
}

#[test]
fn one_column_is_exact_up_to_the_scale() {
    let w = [0.3, -7.0, 0.0, 1e-3];
    for coding in Coding::ALL {
        for granularity in [Granularity::Block(16), Granularity::Row] {
            let quantized = quantize(&w, 4, 1, packing(coding, granularity, ScaleType::F32)).unwrap();
            assert!(quantized.error.nmse() < 1e-12, "{quantized:?}");
        }
    }
}

#[test]
fn zeros_get_scale_one_and_no_error() {
    for coding in Coding::ALL {
        for granularity in [Granularity::Block(16), Granularity::Row, Granularity::Tensor] {
            let packing = packing(coding, granularity, ScaleType::F16);
            let quantized = quantize(&[0.0; 60], 3, 20, packing).unwrap();
            assert_eq!(quantized.error, ErrorStats::default());
            assert_eq!(quantized.error.nmse(), 0.0);
            let (codes, scales) = unpack(packing, 3, 20, &quantized.bytes).unwrap();
            assert!(codes.iter().all(|code| *code == 0) && scales.iter().all(|scale| *scale == 1.0));
        }
    }
    let empty = quantize(&[], 0, 5, packing(Coding::I4, Granularity::Block(16), ScaleType::F16)).unwrap();
    assert_eq!((empty.bytes.len(), empty.error), (0, ErrorStats::default()));
}

#[test]
fn any_magnitude_is_quantized_as_well() {
    let w = gaussian(4096);
    let packing = packing(Coding::I4, Granularity::Block(32), ScaleType::F32);
    let usual = nmse(&w, 64, packing);
    for magnitude in [2.0_f32.powi(-90), 1e-20, 1e20, f32::MAX / 8.0] {
        let scaled: Vec<f32> = w.iter().map(|w| w * magnitude).collect();
        assert!((nmse(&scaled, 64, packing) / usual - 1.0).abs() < 1e-3, "{magnitude}");
    }
    // Too small for the search, but still quantized.
    let tiny: Vec<f32> = w.iter().map(|w| w * 1e-34).collect();
    assert!(nmse(&tiny, 64, packing) < 2.0 * usual);
}

#[test]
fn values_that_are_not_finite_make_the_error_infinite() {
    let mut w = gaussian(64);
    w[3] = f32::NAN;
    w[40] = f32::NEG_INFINITY;
    w[41] = f32::INFINITY;
    for coding in Coding::ALL {
        let packing = packing(coding, Granularity::Block(32), ScaleType::F16);
        let quantized = quantize(&w, 1, 64, packing).unwrap();
        assert_eq!(quantized.error.sum_sq_error, f64::INFINITY);
        assert_eq!(quantized.error.nmse(), f64::INFINITY);
        assert!(quantized.error.sum_sq.is_finite());
        let values = dequantize(packing, 1, 64, &quantized.bytes).unwrap();
        assert_eq!(values[3], 0.0);
        assert!(values[40] < -1.0 && values[41] > 1.0);
        assert!(values[5..32].iter().zip(&w[5..32]).all(|(a, b)| (a - b).abs() < 0.5));
        // The estimate sees the same in its sample.
        let estimated = estimate(&w, 1, 64, packing, 32).unwrap();
        assert_eq!(estimated.sum_sq_error, f64::INFINITY);
    }
}

#[test]
fn scale_type_follows_the_range_of_f16() {
    let w = gaussian(4096);
    let choose = |magnitude: f32, coding| {
        let w: Vec<f32> = w.iter().map(|w| w * magnitude).collect();
        choose_scale_type(&w, 64, 64, coding, Granularity::Block(32)).unwrap()
    };
    for coding in Coding::ALL {
        assert_eq!(choose(0.02, coding), ScaleType::F16);
        assert_eq!(choose(1e-5, coding), ScaleType::F32);
        assert_eq!(choose(1e-38, coding), ScaleType::F32);
        assert_eq!(choose(1e8, coding), ScaleType::F32);
        assert_eq!(choose(0.0, coding), ScaleType::F16);
    }
    let mut dead_row = w.clone();
    dead_row[..64].iter_mut().for_each(|w| *w *= 1e-7);
    let chosen = choose_scale_type(&dead_row, 64, 64, Coding::I8, Granularity::Block(32));
    assert_eq!(chosen, Ok(ScaleType::F16));
    let stored = nmse(&dead_row, 64, packing(Coding::I8, Granularity::Block(32), ScaleType::F16));
    assert!(stored < 3e-5, "{stored}");
}

#[test]
fn estimates_are_near_and_exact_for_small_tensors() {
    let w = gaussian(1 << 20);
    for (coding, granularity, tolerance) in [
        (Coding::I4, Granularity::Block(32), 0.02),
        (Coding::I4, Granularity::Row, 0.05),
        (Coding::I4, Granularity::Tensor, 0.05),
        (Coding::I8, Granularity::Block(128), 0.02),
    ] {
        let packing = packing(coding, granularity, ScaleType::F16);
        let exact = quantize(&w, 1024, 1024, packing).unwrap().error;
        let near = estimate(&w, 1024, 1024, packing, 65_536).unwrap();
        assert!((near.sum_sq_error / exact.sum_sq_error - 1.0).abs() < tolerance, "{near:?} {exact:?}");
        assert!((near.sum_sq / exact.sum_sq - 1.0).abs() < 0.05, "{near:?} {exact:?}");
        assert_eq!(estimate(&w, 1024, 1024, packing, 1 << 20), Ok(exact));
        assert!(estimate(&w, 1024, 1024, packing, 0).unwrap().nmse() > 0.0);
    }
}

#[test]
fn the_sample_takes_one_place_of_each_stretch() {
    let spread: Vec<usize> = sample::spread(1_000, 10).collect();
    assert!(spread.iter().enumerate().all(|(i, at)| (100 * i..100 * (i + 1)).contains(at)));
    assert!(sample::spread(5, 9).eq(0..5));
    assert_eq!(sample::spread(0, 9).count(), 0);
}

#[test]
fn bad_arguments_are_refused() {
    let good = packing(Coding::I4, Granularity::Row, ScaleType::F16);
    assert!(quantize(&[0.0; 3], 2, 2, good).is_err());
    assert!(estimate(&[0.0; 3], usize::MAX, 2, good, 1).is_err());
    assert!(quantize(&[0.0; 4], 2, 2, Packing { granularity: Granularity::Block(20), ..good }).is_err());
    assert!(choose_scale_type(&[0.0; 4], 2, 2, Coding::I4, Granularity::Block(20)).is_err());
}

#[test]
fn results_do_not_depend_on_threads() {
    let w = gaussian(331 * 1_001);
    let on = |n_threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
        pool.install(|| {
            [Granularity::Block(64), Granularity::Row, Granularity::Tensor].map(|granularity| {
                let packing = packing(Coding::I4, granularity, ScaleType::F16);
                let estimated = estimate(&w, 331, 1_001, packing, 10_000).unwrap();
                (quantize(&w, 331, 1_001, packing).unwrap(), estimated)
            })
        })
    };
    assert!(on(1) == on(2));
}

fn any_weights() -> impl Strategy<Value = (usize, usize, Vec<f32>)> {
    let weight = prop_oneof![
        8 => -1.0_f32..1.0,
        1 => Just(0.0),
        1 => any::<u32>().prop_map(f32::from_bits),
    ];
    (1_usize..5, 1_usize..300).prop_flat_map(move |(n_rows, n_cols)| {
        let w = prop::collection::vec(weight.clone(), n_rows * n_cols);
        (Just(n_rows), Just(n_cols), w)
    })
}

proptest! {
    #[test]
    fn errors_are_those_of_the_stored_values(
        (n_rows, n_cols, w) in any_weights(),
        log_block in 4_u32..=9,
        coding in prop::sample::select(&Coding::ALL[..]),
        half in any::<bool>(),
    ) {
        let granularity =
            if log_block == 9 { Granularity::Row } else { Granularity::Block(1 << log_block) };
        let scale = if half { ScaleType::F16 } else { ScaleType::F32 };
        let packing = packing(coding, granularity, scale);
        let quantized = quantize(&w, n_rows, n_cols, packing).unwrap();
        let values = dequantize(packing, n_rows, n_cols, &quantized.bytes).unwrap();
        prop_assert!(values.iter().all(|value| value.is_finite()));
        let square = |x: f64| x * x;
        let finite = w.iter().filter(|w| w.is_finite());
        let sum_sq: f64 = finite.map(|w| square(f64::from(*w))).sum();
        let errors = w.iter().zip(&values).map(|(w, value)| f64::from(*w) - f64::from(*value));
        let error: f64 = errors.map(square).sum();
        let near = |a: f64, b: f64| (a - b).abs() <= 1e-12 * b.abs();
        prop_assert!(near(quantized.error.sum_sq, sum_sq));
        if w.iter().all(|w| w.is_finite()) {
            prop_assert!(near(quantized.error.sum_sq_error, error));
            // Under F32 scales no block may come out worse than all zeros, except where
            // its scale had to be raised to the smallest one.
            prop_assert!(half || error <= sum_sq.max(1e-60));
        } else {
            prop_assert_eq!(quantized.error.sum_sq_error, f64::INFINITY);
        }
        let estimated = estimate(&w, n_rows, n_cols, packing, w.len() / 2).unwrap();
        prop_assert!(!estimated.nmse().is_nan());
    }
}

#[test]
#[ignore = "measures time, which other work on the machine disturbs: cargo test --lib quantized_quickly -- --ignored --nocapture"]
fn a_language_model_is_quantized_quickly() {
    let w = gaussian(22_600_000 / 4096 * 4096);
    let n_rows = w.len() / 4096;
    for (coding, granularity) in [
        (Coding::I4, Granularity::Block(16)),
        (Coding::I4, Granularity::Block(32)),
        (Coding::I4, Granularity::Block(128)),
        (Coding::I4, Granularity::Row),
        (Coding::I4, Granularity::Tensor),
        (Coding::I8, Granularity::Block(32)),
        (Coding::I8, Granularity::Row),
    ] {
        let packing = packing(coding, granularity, ScaleType::F16);
        let start = Instant::now();
        let error = quantize(&w, n_rows, 4096, packing).unwrap().error;
        let whole = start.elapsed();
        let start = Instant::now();
        let near = estimate(&w, n_rows, 4096, packing, 65_536).unwrap();
        let sampled = start.elapsed();
        let start = Instant::now();
        choose_scale_type(&w, n_rows, 4096, coding, granularity).unwrap();
        let choice = start.elapsed();
        println!(
            "w{coding} {granularity:?}: quantize {whole:.1?} (nmse {:.4}e-3), \
             estimate {sampled:.2?} ({:.4}e-3), scale type {choice:.1?}",
            error.nmse() * 1e3,
            near.nmse() * 1e3,
        );
        // One scale for all needs the largest weight, and so one read of the tensor.
        let limit = if granularity == Granularity::Tensor { 0.1 } else { 0.02 };
        assert!(whole.as_secs_f64() <= 2.5 && sampled.as_secs_f64() <= limit);
    }
}
