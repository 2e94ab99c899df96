//! Weight quantization: scales and codes found without data.
//!
//! For weights `w` that share a scale `s` (a *unit*: a block, a row or a tensor)
//! the codes are `q = clamp(round(w / s))`, and the scale is that of the least
//! `sum h (w - q s)^2` with `h = sqrt(mean(w^2) + w^2)`, so that large weights are
//! not clipped for the sake of many small ones ([`search`]). As a function of `s`
//! it has many local minima, so the search looks at several
//! scales in two stages:
//!
//! 1. a coarse geometric grid of scales that put the weight of largest magnitude
//!    on code `c`, beyond the end of the code range where clipping may pay;
//! 2. a fine grid around the best of them, refitted.
//!
//! Every candidate is judged by the error left after its least-squares refit,
//! `s' = <h w, q> / <h q, q>`. For INT4 the scale is signed: -8..=7 has one more code
//! on the negative side, so the largest weight takes that side, whatever its
//! sign. (Putting it on 7 instead won in 1 of 100 Gaussian blocks of 32 and gained
//! less than 0.1 % of the error, so that grid is not searched.) INT8 uses
//! -127..=127 and positive scales.
//!
//! Normalised mean squared error on Gaussian weights, times 1e-3, INT4: 6.64 at
//! blocks of 32 and 9.61 at 128, where `absmax / 7` has 9.43 and 13.77, and scales
//! searched for the plain error 6.53 and 9.29.
//!
//! Results do not depend on the number of threads: each unit is searched alone,
//! and sums are taken in order.

use crate::ir::packed::{self, Coding, Granularity, Layout, PackedError, Packing, ScaleType};
use half::f16;
use rayon::prelude::*;

pub mod calibration;
pub mod gptq;
mod sample;
mod search;
#[cfg(test)]
mod tests;

use sample::Sample;
use search::Codes;

/// Elements that make a parallel task worth its start.
const TASK_ELEMS: usize = 1 << 13;

/// What quantization costs, in units of the weights squared.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ErrorStats {
    /// Sum of `(w - code * scale)^2`, the product rounded to f32 as
    /// [`packed::dequantize`] does. Infinite where a weight is NaN or infinite,
    /// so that no such tensor looks worth quantizing.
    pub sum_sq_error: f64,
    /// Sum of `w^2` over the finite weights.
    pub sum_sq: f64,
}

impl ErrorStats {
    /// `sum_sq_error / sum_sq`; 0 where there is no error.
    pub fn nmse(self) -> f64 {
        if self.sum_sq_error == 0.0 { 0.0 } else { self.sum_sq_error / self.sum_sq }
    }

    /// The same weights with an infinite error.
    fn beyond_measure(self) -> Self {
        Self { sum_sq_error: f64::INFINITY, ..self }
    }

    /// The sums over both parts.
    fn plus(self, other: Self) -> Self {
        Self { sum_sq_error: self.sum_sq_error + other.sum_sq_error, sum_sq: self.sum_sq + other.sum_sq }
    }
}

/// A quantized tensor and its error.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantized {
    /// As [`packed`] lays it out.
    pub bytes: Vec<u8>,
    /// Measured against the stored codes and scales.
    pub error: ErrorStats,
}

/// Quantizes weights `w` `[n_rows, n_cols]`, the columns being the reduction axis.
///
/// A scale is rounded to what the packing can store before codes are chosen, so
/// codes and error belong to the stored scale. NaN gets code 0, an infinity the
/// end of the code range on its side; neither takes part in the search.
///
/// # Errors
/// A bad `packing` or shape, or `w` of another length than the shape.
///
/// # Example
/// ```
/// # use nyxc::ir::packed::{dequantize, Coding, Granularity, Packing, ScaleType};
/// # use nyxc::quant::quantize;
/// let packing = Packing { coding: Coding::I4, granularity: Granularity::Block(32), scale: ScaleType::F16 };
/// let w: Vec<f32> = (0..64).map(|i| (i as f32).sin()).collect();
/// let quantized = quantize(&w, 2, 32, packing)?;
/// assert!(quantized.error.nmse() < 0.01);
/// assert_eq!(dequantize(packing, 2, 32, &quantized.bytes)?.len(), 64);
/// # Ok::<(), nyxc::ir::packed::PackedError>(())
/// ```
pub fn quantize(w: &[f32], n_rows: usize, n_cols: usize, packing: Packing) -> Result<Quantized, PackedError> {
    let layout = packing.layout(n_rows, n_cols)?;
    layout.check_elems(w.len())?;
    let mut bytes = vec![0; layout.n_bytes];
    let mut scales = vec![1.0; layout.n_scales];
    let mut error = ErrorStats::default();
    if layout.n_elems > 0 {
        scales.par_iter_mut().enumerate().with_min_len(units_per_task(&layout)).for_each_init(
            Sample::default,
            |sample, (idx, scale)| {
                let unit = sample.take(unit(&layout, w, idx), usize::MAX);
                *scale = stored_scale(packing, unit.values, unit.signed_max);
            },
        );
        // Rows are summed in order afterwards: a parallel sum would depend on
        // how the rows were shared out.
        let rows: Vec<ErrorStats> = layout
            .rows_mut(&mut bytes)
            .par_iter_mut()
            .zip(w.par_chunks_exact(n_cols))
            .enumerate()
            .with_min_len((TASK_ELEMS / n_cols).max(1))
            .map_init(
                || vec![0; n_cols],
                |codes, (row_idx, (row, w))| {
                    let scales = layout.row_scales(&scales, row_idx);
                    let error = encode_row(&layout, w, scales, codes);
                    row.write(codes);
                    error
                },
            )
            .collect();
        error = rows.into_iter().fold(error, ErrorStats::plus);
    }
    packed::write_scales(&layout, &scales, &[], &mut bytes);
    Ok(Quantized { bytes, error })
}

/// What [`quantize`] would report, measured on about `max_elems` of the weights
/// and scaled up to all of them; exactly that where there are no more.
///
/// The sample is a fixed function of the shape: whole units, one from each of
/// equal stretches of the tensor, at least one. A unit longer than `max_elems`
/// (a tensor under one scale, a very long row) is itself sampled, and read
/// once in full for its largest weight. A non-finite weight outside the units
/// taken goes unseen. Where a few rows hold most of the error, a sample of a few
/// rows misjudges it: long rows want a larger `max_elems` than blocks do.
///
/// # Errors
/// As [`quantize`].
pub fn estimate(
    w: &[f32],
    n_rows: usize,
    n_cols: usize,
    packing: Packing,
    max_elems: usize,
) -> Result<ErrorStats, PackedError> {
    let layout = packing.layout(n_rows, n_cols)?;
    layout.check_elems(w.len())?;
    if layout.n_elems <= max_elems {
        return Ok(quantize(w, n_rows, n_cols, packing)?.error);
    }
    if layout.n_elems == 0 {
        return Ok(ErrorStats::default());
    }
    let n_units = match packing.granularity {
        Granularity::Tensor => 1,
        Granularity::Block(_) | Granularity::Row => (max_elems / layout.unit_cols).max(1),
    };
    let units: Vec<usize> = sample::spread(layout.n_scales, n_units).collect();
    let measured: Vec<(usize, ErrorStats)> = units
        .into_par_iter()
        .with_min_len(units_per_task(&layout))
        .map_init(
            || (Sample::default(), Vec::new()),
            |(sample, codes), idx| {
                let unit = sample.take(unit(&layout, w, idx), max_elems);
                let scale = stored_scale(packing, unit.values, unit.signed_max);
                codes.resize(unit.values.len(), 0);
                let error = search::encode(unit.values, scale, Codes::of(packing.coding), codes);
                (unit.values.len(), if unit.finite { error } else { error.beyond_measure() })
            },
        )
        .collect();
    let (n_seen, error) =
        measured.into_iter().fold((0, ErrorStats::default()), |(n, sum), (len, error)| (n + len, sum.plus(error)));
    let growth = layout.n_elems as f64 / n_seen as f64;
    Ok(ErrorStats { sum_sq_error: error.sum_sq_error * growth, sum_sq: error.sum_sq * growth })
}

/// The narrowest scale type for quantizing `w` to `coding`; one pass over `w`.
///
/// F32 where the search would try scales outside F16's normal range (2^-14 to
/// 65,504). Small scales are excused where they cannot matter: raising them to
/// 2^-14 adds at most `min(sum w^2, n * 2^-30)` to the error of a unit of `n`
/// weights, and F16 stays if all of that is below 1 % of the usual error (for codes of `b` bits
/// `2^-(2 b + 6)` of the tensor's `sum w^2`). Otherwise one dead channel
/// would double the scales of a whole tensor.
///
/// # Errors
/// As [`quantize`].
pub fn choose_scale_type(
    w: &[f32],
    n_rows: usize,
    n_cols: usize,
    coding: Coding,
    granularity: Granularity,
) -> Result<ScaleType, PackedError> {
    let layout = Packing { coding, granularity, scale: ScaleType::F16 }.layout(n_rows, n_cols)?;
    layout.check_elems(w.len())?;
    if layout.n_elems == 0 {
        return Ok(ScaleType::F16);
    }
    let codes = Codes::of(coding);
    let worst_error = f64::from(f16::MIN_POSITIVE.to_f32()) / 2.0;
    let units: Vec<(f64, f64)> = (0..layout.n_scales)
        .into_par_iter()
        .with_min_len(units_per_task(&layout))
        .map(|idx| {
            let unit = unit(&layout, w, idx);
            let absmax = sample::absmax(unit);
            let sum_sq = sample::sum_sq(unit);
            let (low, high) = codes.scale_range(unit.len());
            let added = if absmax * high > f16::MAX.to_f32() {
                f64::INFINITY
            } else if absmax * low < f16::MIN_POSITIVE.to_f32() {
                sum_sq.min(unit.len() as f64 * worst_error * worst_error)
            } else {
                0.0
            };
            (added, sum_sq)
        })
        .collect();
    let (added, sum_sq) = units.into_iter().fold((0.0, 0.0), |sum, u| (sum.0 + u.0, sum.1 + u.1));
    let tolerated = 2f64.powi(-(2 * i32::from(coding.bits()) + 6));
    Ok(if added <= tolerated * sum_sq { ScaleType::F16 } else { ScaleType::F32 })
}

/// The elements under scale `idx`.
fn unit<'a>(layout: &Layout, w: &'a [f32], idx: usize) -> &'a [f32] {
    let (row, block) = match layout.packing.granularity {
        Granularity::Tensor => return w,
        Granularity::Block(_) | Granularity::Row => (idx / layout.n_blocks, idx % layout.n_blocks),
    };
    let row = &w[row * layout.n_cols..][..layout.n_cols];
    let rest = &row[block * layout.unit_cols..];
    &rest[..layout.unit_cols.min(rest.len())]
}

/// Units that one parallel task should take at least.
fn units_per_task(layout: &Layout) -> usize {
    (TASK_ELEMS / layout.unit_cols.max(1)).max(1)
}

/// Searches a unit's scale and rounds it to what can be stored.
fn stored_scale(packing: Packing, values: &[f32], signed_max: f32) -> f32 {
    let scale = search::best_scale(values, signed_max, Codes::of(packing.coding));
    packing.scale.storable(scale, packing.coding)
}

/// Chooses the codes of a row and sums their error.
fn encode_row(layout: &Layout, w: &[f32], scales: &[f32], codes: &mut [i8]) -> ErrorStats {
    let range = Codes::of(layout.packing.coding);
    let units = w.chunks(layout.unit_cols).zip(codes.chunks_mut(layout.unit_cols)).zip(scales);
    units.fold(ErrorStats::default(), |sum, ((w, codes), scale)| sum.plus(search::encode(w, *scale, range, codes)))
}
