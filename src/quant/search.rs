//! The search of one scale, and the choice of codes under it.
//!
//! Errors are weighted: that of a weight `w` counts `sqrt(mean(w^2) + w^2)` times. The plain sum of squares is least
//! where the few large weights of a long unit are clipped, and those carry more than their share of what a model
//! computes: with it, scales of 128 weights and more made language models worse than `absmax / 8` did.
//!
//! Everything is expressed by the *code* `c` that the weight of largest magnitude
//! would get without clamping: the scale is `signed_max / c`. Weights divided by
//! the scale are then of the order of `c` whatever their magnitude, and single
//! precision suffices.

use super::ErrorStats;
use super::sample::sum_sq;
use crate::ir::packed::{Coding, NON_LINEAR, code_of, nearest_within};
use rayon::prelude::*;

/// Scales judged in one pass over the weights. With one candidate per vector
/// lane there is no sum across lanes and no remainder, whatever the length.
const LANES: usize = 8;

/// Elements after which the single-precision sums are moved to double precision.
const RUN_ELEMS: usize = 256;

/// Elements of a long unit that one parallel task judges.
const TASK_ELEMS: usize = 1 << 16;

/// Each fine stage divides the distance between candidates by about three, so
/// that its eight lanes reach over both neighbours of the best one.
const FINER: f32 = 0.3;

/// Below 2^-100 the quotient of a code by a weight could overflow.
const SMALLEST_SEARCHED: f32 = f32::from_bits((127 - 100) << 23);

/// The codes of a coding that weights are given.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Codes {
    coding: Coding,
    low: f32,
    high: f32,
    /// The end of the range that the largest weight takes; its sign, together
    /// with that weight's, makes the scale's.
    end: f32,
}

impl Codes {
    /// Those of `coding`.
    pub(super) const fn of(coding: Coding) -> Self {
        let (low, high, end) = match coding {
            Coding::I4 => (-8.0, 7.0, -8.0),
            Coding::N4 => (-127.0, 103.0, -127.0),
            Coding::I5 => (-16.0, 15.0, -16.0),
            Coding::I6 => (-32.0, 31.0, -32.0),
            Coding::I8 => (-127.0, 127.0, 127.0),
        };
        Self { coding, low, high, end }
    }

    /// The code nearest to `y`; of two as near that which is even, or where codes are no neighbours the smaller in
    /// magnitude.
    fn nearest(self, y: f32) -> f32 {
        if self.coding == Coding::N4 { nearest_non_linear(y) } else { nearest_within(y, self.low, self.high) }
    }

    /// The coarse grid for units of `len` elements.
    ///
    /// The ranges hold the best codes of Gaussian, Laplacian and Student (4
    /// degrees of freedom) weights: the longer the unit, the further out lies
    /// its largest weight, and the more clipping pays.
    fn grid(self, len: usize) -> Grid {
        let (first, ratio, n_passes) = match (self.coding, len) {
            (Coding::I4, 0..=32) => (0.85, 1.043, 1),
            (Coding::I4, 33..=64) => (0.875, 1.045, 1),
            (Coding::I4, 65..=128) => (0.875, 1.06, 1),
            (Coding::I4, 129..=256) => (0.9, 1.075, 1),
            (Coding::I4, _) => (0.9, 1.14, 2),
            (Coding::N4, 0..=64) => (0.8, 1.06, 1),
            (Coding::N4, 65..=256) => (0.85, 1.075, 1),
            (Coding::N4, _) => (0.9, 1.14, 2),
            (Coding::I5, 0..=256) => (0.92, 1.025, 1),
            (Coding::I6, 0..=256) => (0.96, 1.012, 1),
            (Coding::I5 | Coding::I6, _) => (0.95, 1.14, 2),
            (Coding::I8, 0..=256) => (0.99, 1.005, 1),
            (Coding::I8, _) => (0.99, 1.14, 2),
        };
        Grid { first: first * self.end, ratio, n_passes }
    }

    /// Magnitudes of the smallest and the largest scale, as multiples of the
    /// largest weight, that the coarse grid tries for units of `len` elements.
    pub(super) fn scale_range(self, len: usize) -> (f32, f32) {
        let Grid { first, ratio, n_passes } = self.grid(len);
        let n_codes = i32::try_from(n_passes * LANES).unwrap_or(i32::MAX);
        (1.0 / (first * ratio.powi(n_codes - 1)).abs(), 1.0 / first.abs())
    }
}

/// Half way between the magnitudes of neighbouring codes of [`Coding::N4`], and how far these are apart.
const STEPS: [(f32, f32); 7] = {
    let mut steps = [(0.0, 0.0); 7];
    let mut at = 0;
    while at < 7 {
        let (low, high) = (NON_LINEAR[at] as f32, NON_LINEAR[at + 1] as f32);
        steps[at] = ((low + high) / 2.0, high - low);
        at += 1;
    }
    steps
};

/// The code of [`Coding::N4`] nearest to `y`; 0 for NaN. Sums of comparisons are what compilers turn into vector
/// instructions.
fn nearest_non_linear(y: f32) -> f32 {
    let magnitude = y.abs();
    let mut code = 0.0;
    for (half_way, step) in STEPS {
        code += if magnitude > half_way { step } else { 0.0 };
    }
    // One more on the negative side.
    code += if y < -115.0 { 24.0 } else { 0.0 };
    code.copysign(y)
}

/// The coarse stage: codes from `first` on, each `ratio` times the one before.
#[derive(Clone, Copy, Debug)]
struct Grid {
    first: f32,
    ratio: f32,
    /// Passes over the weights, of [`LANES`] codes each.
    n_passes: usize,
}

/// A code, and the weighted squared error that its scale leaves, in units of the
/// cube of the largest weight.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    code: f32,
    error: f32,
}

/// How much the error of a weight counts.
#[derive(Clone, Copy, Debug)]
struct Importance {
    /// 1 over the largest weight.
    inverse: f32,
    /// The mean of squares, in units of the square of the largest weight.
    mean_sq: f32,
}

impl Importance {
    fn of(values: &[f32], signed_max: f32) -> Self {
        let inverse = 1.0 / signed_max;
        let sums = values.par_chunks(TASK_ELEMS).map(|part| {
            let runs = part.chunks(RUN_ELEMS).map(|run| run.iter().map(|w| (w * inverse) * (w * inverse)).sum::<f32>());
            runs.map(f64::from).sum::<f64>()
        });
        // The parts are the same and are added in the same order on any number of threads.
        let sum: f64 = sums.collect::<Vec<_>>().into_iter().sum();
        Self { inverse, mean_sq: (sum / values.len().max(1) as f64) as f32 }
    }

    /// In units of the largest weight.
    fn of_weight(self, w: f32) -> f32 {
        let u = w * self.inverse;
        (self.mean_sq + u * u).sqrt()
    }
}

/// The scale of least weighted squared error among those tried; 1.0 for zeros.
///
/// `values` are finite, and none is larger in magnitude than `signed_max`.
pub(super) fn best_scale(values: &[f32], signed_max: f32, codes: Codes) -> f32 {
    if signed_max == 0.0 {
        return 1.0;
    }
    if signed_max.abs() < SMALLEST_SEARCHED {
        return signed_max / codes.end;
    }
    let Grid { first, ratio, n_passes } = codes.grid(values.len());
    let importance = Importance::of(values, signed_max);
    let mut best = Candidate { code: codes.end, error: f32::INFINITY };
    let mut code = first;
    for _ in 0..n_passes {
        let tried = std::array::from_fn(|_| {
            let this = code;
            code *= ratio;
            this
        });
        best = best_of(values, importance, codes, tried, best);
    }
    let mut step = (ratio - 1.0) * FINER;
    for _ in 0..n_passes {
        // One lane repeats the best so far, which by now is refitted.
        let tried = OFFSETS.map(|offset| best.code * (1.0 + step * offset));
        best = best_of(values, importance, codes, tried, best);
        step *= FINER;
    }
    // The scale of a poor fit may overflow; storing it takes care of that.
    signed_max / best.code
}

/// Where the lanes of a fine stage lie around the best code.
const OFFSETS: [f32; LANES] = [-4.0, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0];

/// The best of `best` and the `tried` codes, these refitted.
fn best_of(
    values: &[f32],
    importance: Importance,
    codes: Codes,
    tried: [f32; LANES],
    mut best: Candidate,
) -> Candidate {
    let inverses = tried.map(|code| code * importance.inverse);
    let [rr, rq, qq] = sums(values, &inverses, importance, codes);
    // With w = (q + r) s, the least-squares scale for the same codes is
    // s' = <w, q> / <q, q> = s (1 + shift), where shift = <r, q> / <q, q>. If
    // all codes are zero there is nothing to fit, and the quotient is zero.
    let qq = qq.map(|qq| if qq > 0.0 { qq } else { 1.0 });
    let mut errors = [0.0; LANES];
    for l in 0..LANES {
        errors[l] = (rr[l] - rq[l] * rq[l] / qq[l]) / (tried[l] * tried[l]);
    }
    for l in 0..LANES {
        if errors[l] < best.error {
            best = Candidate { code: tried[l] / (1.0 + rq[l] / qq[l]), error: errors[l] };
        }
    }
    best
}

/// For each lane the weighted sums of `r r`, `r q` and `q q` over the weights, where `q` is
/// the code nearest to `y = w * inverse`, and `r = y - q`.
///
/// Sums of residuals keep their precision however small the error is, which
/// sums of products of the weights do not.
fn sums(values: &[f32], inverses: &[f32; LANES], importance: Importance, codes: Codes) -> [[f32; LANES]; 3] {
    if values.len() <= RUN_ELEMS {
        return sums_of_run(values, inverses, importance, codes);
    }
    // The parts are the same and are added in the same order on any number of threads.
    let parts: Vec<_> = values
        .par_chunks(TASK_ELEMS)
        .map(|part| {
            let mut sums = [[0.0_f64; LANES]; 3];
            for run in part.chunks(RUN_ELEMS) {
                let more = sums_of_run(run, inverses, importance, codes);
                for (sum, more) in sums.as_flattened_mut().iter_mut().zip(more.as_flattened()) {
                    *sum += f64::from(*more);
                }
            }
            sums
        })
        .collect();
    let mut total = [[0.0_f64; LANES]; 3];
    for part in parts {
        for (sum, more) in total.as_flattened_mut().iter_mut().zip(part.as_flattened()) {
            *sum += more;
        }
    }
    total.map(|sums| sums.map(|sum| sum as f32))
}

/// [`sums`] of at most [`RUN_ELEMS`] weights.
///
/// Not inlined, because the compiler then keeps the sums in vector registers,
/// and otherwise does not: it is four times as fast.
#[inline(never)]
fn sums_of_run(run: &[f32], inverses: &[f32; LANES], importance: Importance, codes: Codes) -> [[f32; LANES]; 3] {
    let (mut rr, mut rq, mut qq) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
    for w in run {
        let h = importance.of_weight(*w);
        for l in 0..LANES {
            let y = w * inverses[l];
            let q = codes.nearest(y);
            let r = y - q;
            rr[l] += h * r * r;
            rq[l] += h * r * q;
            qq[l] += h * q * q;
        }
    }
    [rr, rq, qq]
}

/// The code nearest to `w` under `scale`; 0 for NaN.
pub(super) fn code(w: f32, scale: f32, range: Codes) -> i8 {
    let y = w / scale;
    code_of(range.nearest(if y.is_nan() { 0.0 } else { y }))
}

/// Writes the codes of `w` under `scale`, and sums their error.
pub(super) fn encode(w: &[f32], scale: f32, range: Codes, codes: &mut [i8]) -> ErrorStats {
    const N: usize = 4;
    let inverse = 1.0 / scale;
    for (code, w) in codes.iter_mut().zip(w) {
        let y = w * inverse;
        let y = if y.is_nan() { 0.0 } else { y };
        *code = code_of(range.nearest(y));
    }
    let square = |w: f32, code: i8| {
        let error = f64::from(w) - f64::from(f32::from(code) * scale);
        error * error
    };
    let ((w_body, w_tail), (body, tail)) = (w.as_chunks::<N>(), codes.as_chunks::<N>());
    let mut lanes = [0.0; N];
    for (w, code) in w_body.iter().zip(body) {
        for l in 0..N {
            lanes[l] += square(w[l], code[l]);
        }
    }
    let rest: f64 = w_tail.iter().zip(tail).map(|(w, code)| square(*w, *code)).sum();
    let error = ErrorStats { sum_sq_error: lanes.iter().sum::<f64>() + rest, sum_sq: sum_sq(w) };
    if error.sum_sq_error.is_finite() { error } else { error.beyond_measure() }
}
