//! GPTQ: codes chosen one column at a time, the error of each made up for by the columns still to come (Frantar et al.,
//! "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023).
//!
//! For a product `y = x W^T` with inputs whose second moments are `G = sum x x^T`, the error that codes leave in `y` is
//! `tr(D G D^T)` with `D = W - W'`. Columns are taken in falling order of their moments; scales are those of the whole
//! matrix as it was ([`quantize`](super::quantize)), so that nothing is permuted when a program runs.

use super::search::{self, Codes};
use super::{ErrorStats, Quantized, Sample, stored_scale, unit, units_per_task};
use crate::ir::packed::{self, PackedError, Packing};
use rayon::prelude::*;

/// Rows that one task takes through all columns together: what they share is read once for all of them.
const ROWS: usize = 16;

/// Second moments of the inputs of a product: `sum x x^T` over samples.
#[derive(Clone, Debug, PartialEq)]
pub struct Gram {
    n_cols: usize,
    /// Row-major, symmetric.
    sums: Vec<f64>,
    n_samples: u64,
}

impl Gram {
    /// Moments of inputs of `n_cols` elements, none seen yet.
    pub fn new(n_cols: usize) -> Gram {
        Gram { n_cols, sums: vec![0.0; n_cols * n_cols], n_samples: 0 }
    }

    /// Elements of an input.
    pub fn n_cols(&self) -> usize {
        self.n_cols
    }

    /// Inputs seen.
    pub fn n_samples(&self) -> u64 {
        self.n_samples
    }

    /// The moment of column `i` with column `j`.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        self.sums[i * self.n_cols + j]
    }

    /// Adds inputs `[n, n_cols]`; one that holds a number that is not finite is left out.
    pub fn add(&mut self, inputs: &[f32]) {
        let n = self.n_cols;
        if n == 0 {
            return;
        }
        let rows: Vec<&[f32]> = inputs.chunks_exact(n).filter(|row| row.iter().all(|x| x.is_finite())).collect();
        self.n_samples += rows.len() as u64;
        // The upper half; each sum is taken in the order of the rows, whatever the number of threads.
        self.sums.par_chunks_mut(n).enumerate().for_each(|(i, sums)| {
            for row in &rows {
                let x = f64::from(row[i]);
                if x != 0.0 {
                    sums[i..].iter_mut().zip(&row[i..]).for_each(|(sum, y)| *sum += x * f64::from(*y));
                }
            }
        });
        for i in 0..n {
            for j in 0..i {
                self.sums[i * n + j] = self.sums[j * n + i];
            }
        }
    }

    /// `tr(D G D^T)` for the rows `d` `[n, n_cols]`, over the number of samples: the mean squared error of the product.
    pub fn error_of(&self, d: &[f32]) -> f64 {
        let n = self.n_cols;
        if n == 0 || self.n_samples == 0 {
            return 0.0;
        }
        let one = |row: &[f32]| -> f64 {
            let of = |(i, x): (usize, &f32)| {
                let sums = &self.sums[i * n..(i + 1) * n];
                f64::from(*x) * sums.iter().zip(row).map(|(g, y)| g * f64::from(*y)).sum::<f64>()
            };
            row.iter().enumerate().filter(|(_, x)| **x != 0.0).map(of).sum()
        };
        let rows: Vec<f64> = d.par_chunks_exact(n).map(one).collect();
        rows.into_iter().sum::<f64>() / self.n_samples as f64
    }
}

/// What keeps GPTQ from fitting noise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Damping {
    /// Added to the diagonal, as a part of its mean.
    pub diagonal: f64,
    /// Samples a column below which moments between columns are shrunk in proportion: with fewer samples than columns
    /// they say more of the samples than of the model.
    pub samples_per_column: f64,
}

impl Default for Damping {
    fn default() -> Damping {
        Damping { diagonal: 0.1, samples_per_column: 2.0 }
    }
}

/// Quantizes weights `w` `[n_rows, n_cols]` for inputs with these second moments.
///
/// # Errors
/// As [`quantize`](super::quantize), or the moments are of another number of columns.
pub fn quantize(
    w: &[f32],
    n_rows: usize,
    n_cols: usize,
    packing: Packing,
    gram: &Gram,
    damping: Damping,
) -> Result<Quantized, PackedError> {
    let layout = packing.layout(n_rows, n_cols)?;
    layout.check_elems(w.len())?;
    let factor = if gram.n_cols == n_cols { Factor::of(gram, damping) } else { None };
    let Some(factor) = factor.filter(|_| w.iter().all(|w| w.is_finite())) else {
        return super::quantize(w, n_rows, n_cols, packing);
    };
    let mut scales = vec![1.0; layout.n_scales];
    scales.par_iter_mut().enumerate().with_min_len(units_per_task(&layout)).for_each_init(
        Sample::default,
        |sample, (idx, scale)| {
            let unit = sample.take(unit(&layout, w, idx), usize::MAX);
            *scale = stored_scale(packing, unit.values, unit.signed_max);
        },
    );
    let range = Codes::of(packing.coding);
    let mut bytes = vec![0; layout.n_bytes];
    let rows: Vec<ErrorStats> = layout
        .rows_mut(&mut bytes)
        .par_chunks_mut(ROWS)
        .zip(w.par_chunks(n_cols * ROWS))
        .enumerate()
        .flat_map_iter(|(task, (packed, w))| {
            let scale_of =
                |row: usize, col: usize| layout.row_scales(&scales, task * ROWS + row)[col / layout.unit_cols];
            let codes = factor.codes(w, range, &scale_of);
            let rows = packed.iter_mut().zip(codes.chunks_exact(n_cols)).zip(w.chunks_exact(n_cols));
            rows.enumerate()
                .map(|(row, ((packed, codes), w))| {
                    packed.write(codes);
                    let error = |(col, (w, code)): (usize, (&f32, &i8))| {
                        (f64::from(*w) - f64::from(f32::from(*code) * scale_of(row, col))).powi(2)
                    };
                    let sum_sq_error = w.iter().zip(codes).enumerate().map(error).sum();
                    ErrorStats { sum_sq_error, sum_sq: super::sample::sum_sq(w) }
                })
                .collect::<Vec<_>>()
        })
        .collect();
    packed::write_scales(&layout, &scales, &[], &mut bytes);
    Ok(Quantized { bytes, error: rows.into_iter().fold(ErrorStats::default(), ErrorStats::plus) })
}

/// The upper triangular factor of the inverse of the damped moments, columns in the order in which they are taken.
struct Factor {
    /// Which column is taken when.
    order: Vec<usize>,
    /// Row-major; what is below the diagonal is 0.
    upper: Vec<f32>,
}

impl Factor {
    /// `None` where the moments are of no use: nothing seen, or not finite.
    fn of(gram: &Gram, damping: Damping) -> Option<Factor> {
        let n = gram.n_cols;
        let diagonal = |i: usize| gram.at(i, i);
        let mean = (0..n).map(diagonal).sum::<f64>() / n.max(1) as f64;
        if gram.n_samples == 0 || !mean.is_finite() || mean <= 0.0 {
            return None;
        }
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|a, b| diagonal(*b).total_cmp(&diagonal(*a)).then(a.cmp(b)));
        let shrink = (gram.n_samples as f64 / (damping.samples_per_column * n as f64)).min(1.0);
        let mut moments = vec![0.0; n * n];
        for (i, &a) in order.iter().enumerate() {
            for (j, &b) in order.iter().enumerate() {
                moments[i * n + j] =
                    if a == b { diagonal(a) + damping.diagonal * mean } else { shrink * gram.at(a, b) };
            }
        }
        // H = R R^T with R upper triangular; the inverse is R^-T R^-1, whose upper factor is R^-1.
        reverse_cholesky(&mut moments, n)?;
        invert_upper(&mut moments, n);
        Some(Factor { order, upper: moments.into_iter().map(|x| x as f32).collect() })
    }

    /// The codes of some rows `w`, row-major in the order of the matrix.
    fn codes(&self, w: &[f32], range: Codes, scale_of: &dyn Fn(usize, usize) -> f32) -> Vec<i8> {
        let n = self.order.len();
        let n_rows = w.len() / n.max(1);
        let mut codes = vec![0i8; w.len()];
        // Rows as columns are taken, each with what earlier columns left for it to make up.
        let mut rest: Vec<f32> =
            (0..n_rows).flat_map(|row| self.order.iter().map(move |col| w[row * n + col])).collect();
        for (step, &col) in self.order.iter().enumerate() {
            let own = &self.upper[step * n + step..(step + 1) * n];
            for row in 0..n_rows {
                let rest = &mut rest[row * n + step..(row + 1) * n];
                let scale = scale_of(row, col);
                let code = search::code(rest[0], scale, range);
                codes[row * n + col] = code;
                let error = (rest[0] - f32::from(code) * scale) / own[0];
                if error != 0.0 {
                    rest[1..].iter_mut().zip(&own[1..]).for_each(|(rest, u)| *rest -= error * u);
                }
            }
        }
        codes
    }
}

/// The upper triangular `R` with `R R^T` the symmetric positive definite `a` `[n, n]`, in place; `None` where it is
/// not.
fn reverse_cholesky(a: &mut [f64], n: usize) -> Option<()> {
    for j in (0..n).rev() {
        let (above, from) = a.split_at_mut(j * n);
        let row = &mut from[..n];
        let pivot = row[j].sqrt();
        if !(pivot.is_finite() && pivot > 0.0) {
            return None;
        }
        row[j] = pivot;
        row[..j].fill(0.0);
        // Column j of R is what is left of column j of A over the pivot; the rest of A loses its outer product.
        let column: Vec<f64> = (0..j).map(|i| above[i * n + j] / pivot).collect();
        above.par_chunks_mut(n).zip(&column).for_each(|(row, own)| {
            row[j] = *own;
            row[..j].iter_mut().zip(&column).for_each(|(x, other)| *x -= own * other);
        });
    }
    Some(())
}

/// The inverse of an upper triangular matrix `[n, n]` with a positive diagonal, in place.
fn invert_upper(a: &mut [f64], n: usize) {
    // Row i of the inverse needs the rows below it only: X R = I, solved from the last row up.
    for i in (0..n).rev() {
        let (before, below) = a.split_at_mut((i + 1) * n);
        let row = &mut before[i * n..];
        let inverse = 1.0 / row[i];
        let given: Vec<f64> = row[i + 1..].to_vec();
        let mut sums = vec![0.0; n - i - 1];
        for (k, r) in given.iter().enumerate() {
            if *r != 0.0 {
                let other = &below[k * n + i + 1..(k + 1) * n];
                sums[k..].iter_mut().zip(&other[k..]).for_each(|(sum, x)| *sum += r * x);
            }
        }
        row[i] = inverse;
        row[i + 1..].iter_mut().zip(sums).for_each(|(x, sum)| *x = -inverse * sum);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::packed::{Coding, Granularity, ScaleType, dequantize};
    use crate::quant::tests::gaussian;

    /// Inputs whose columns depend on each other: each follows the one before it by nine tenths.
    fn inputs(n: usize, n_cols: usize) -> Vec<f32> {
        let mut x = gaussian(n * n_cols);
        for row in x.chunks_exact_mut(n_cols) {
            for i in 1..n_cols {
                row[i] = 0.9 * row[i - 1] + 0.44 * row[i];
            }
        }
        x
    }

    fn gram(x: &[f32], n_cols: usize) -> Gram {
        let mut gram = Gram::new(n_cols);
        gram.add(x);
        gram
    }

    /// Mean squared error of `x W^T` in f64, written out.
    fn product_error(x: &[f32], w: &[f32], coded: &[f32], n_cols: usize) -> f64 {
        let mut sum = 0.0;
        for x in x.chunks_exact(n_cols) {
            for (w, coded) in w.chunks_exact(n_cols).zip(coded.chunks_exact(n_cols)) {
                let y: f64 = x.iter().zip(w).zip(coded).map(|((x, w), c)| f64::from(*x) * f64::from(w - c)).sum();
                sum += y * y;
            }
        }
        sum / (x.len() / n_cols) as f64
    }

    #[test]
    fn the_factor_is_that_of_the_inverse() {
        let n = 17;
        let gram = gram(&inputs(200, n), n);
        let factor = Factor::of(&gram, Damping::default()).unwrap();
        let mean = (0..n).map(|i| gram.at(i, i)).sum::<f64>() / n as f64;
        let moment = |i: usize, j: usize| {
            let (a, b) = (factor.order[i], factor.order[j]);
            gram.at(a, b) + if a == b { 0.1 * mean } else { 0.0 }
        };
        // U^T U H = I.
        let u = |i: usize, j: usize| f64::from(factor.upper[i * n + j]);
        for i in 0..n {
            for j in 0..n {
                let inverse = |i: usize, k: usize| (0..n).map(|l| u(l, i) * u(l, k)).sum::<f64>();
                let product: f64 = (0..n).map(|k| inverse(i, k) * moment(k, j)).sum();
                assert!((product - f64::from(u8::from(i == j))).abs() < 1e-3, "{i} {j}: {product}");
            }
        }
        let moments: Vec<f64> = factor.order.iter().map(|&col| gram.at(col, col)).collect();
        assert!(moments.is_sorted_by(|a, b| a >= b));
    }

    #[test]
    fn moments_are_sums_and_say_the_error_of_a_product() {
        let (n_rows, n_cols) = (5, 33);
        let x = inputs(70, n_cols);
        let mut parts = Gram::new(n_cols);
        x.chunks(n_cols * 13).for_each(|part| parts.add(part));
        let whole = gram(&x, n_cols);
        assert_eq!(parts.n_samples(), 70);
        assert!(
            (0..n_cols).all(|i| (parts.at(i, 3) - whole.at(i, 3)).abs() < 1e-9 && whole.at(i, 3) == whole.at(3, i))
        );
        let w = gaussian(n_rows * n_cols);
        let zeros = vec![0.0; w.len()];
        let (by_moments, written_out) = (whole.error_of(&w), product_error(&x, &w, &zeros, n_cols));
        assert!((by_moments / written_out - 1.0).abs() < 1e-9, "{by_moments} {written_out}");
        let mut bad = whole.clone();
        bad.add(&vec![f32::NAN; n_cols]);
        assert_eq!(bad, whole);
    }

    #[test]
    fn errors_are_made_up_for_on_inputs_that_were_not_seen() {
        let (n_rows, n_cols) = (48, 160);
        let w = gaussian(n_rows * n_cols);
        let x = inputs(1200, n_cols);
        let (seen, unseen) = x.split_at(800 * n_cols);
        let gram = gram(seen, n_cols);
        for (coding, granularity, most) in [
            (Coding::I4, Granularity::Block(32), 0.55),
            (Coding::I4, Granularity::Row, 0.55),
            (Coding::I4, Granularity::Tensor, 0.55),
            (Coding::N4, Granularity::Block(32), 0.55),
            (Coding::I5, Granularity::Block(32), 0.55),
            (Coding::I6, Granularity::Row, 0.55),
        ] {
            let packing = Packing { coding, granularity, scale: ScaleType::F16 };
            let plain = super::super::quantize(&w, n_rows, n_cols, packing).unwrap();
            let fitted = quantize(&w, n_rows, n_cols, packing, &gram, Damping::default()).unwrap();
            let error =
                |bytes: &[u8]| product_error(unseen, &w, &dequantize(packing, n_rows, n_cols, bytes).unwrap(), n_cols);
            let (plain_error, fitted_error) = (error(&plain.bytes), error(&fitted.bytes));
            assert!(fitted_error < most * plain_error, "{coding} {granularity:?}: {fitted_error} {plain_error}");
            // The weights themselves are further off, and the error says so.
            let values = dequantize(packing, n_rows, n_cols, &fitted.bytes).unwrap();
            let own: f64 = w.iter().zip(&values).map(|(w, v)| (f64::from(*w) - f64::from(*v)).powi(2)).sum();
            assert!((fitted.error.sum_sq_error / own - 1.0).abs() < 1e-9 && fitted.error.nmse() > plain.error.nmse());
        }
    }

    #[test]
    fn without_use_of_moments_the_search_alone_decides() {
        let (n_rows, n_cols) = (4, 48);
        let w = gaussian(n_rows * n_cols);
        let packing = Packing { coding: Coding::I4, granularity: Granularity::Block(16), scale: ScaleType::F16 };
        let plain = super::super::quantize(&w, n_rows, n_cols, packing).unwrap();
        let with = |w: &[f32], gram: &Gram| quantize(w, n_rows, n_cols, packing, gram, Damping::default()).unwrap();
        assert_eq!(with(&w, &Gram::new(n_cols)), plain);
        assert_eq!(with(&w, &gram(&inputs(9, n_cols - 1), n_cols - 1)), plain);
        assert_eq!(with(&w, &gram(&vec![0.0; 3 * n_cols], n_cols)), plain);
        let mut wrong = w.clone();
        wrong[5] = f32::INFINITY;
        let nothing = super::super::quantize(&wrong, n_rows, n_cols, packing).unwrap();
        assert_eq!(with(&wrong, &gram(&inputs(99, n_cols), n_cols)).bytes, nothing.bytes);
        // Columns that are always 0 have no say, and keep the codes that they would have.
        let mut x = inputs(99, n_cols);
        x.iter_mut().skip(7).step_by(n_cols).for_each(|x| *x = 0.0);
        let fitted = with(&w, &gram(&x, n_cols));
        assert!(fitted.error.nmse() < 0.05, "{:?}", fitted.error);
    }

    #[test]
    fn results_do_not_depend_on_threads() {
        let (n_rows, n_cols) = (37, 96);
        let (w, x) = (gaussian(n_rows * n_cols), inputs(300, n_cols));
        let packing = Packing { coding: Coding::I4, granularity: Granularity::Block(32), scale: ScaleType::F16 };
        let on = |n_threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(n_threads).build().unwrap();
            pool.install(|| quantize(&w, n_rows, n_cols, packing, &gram(&x, n_cols), Damping::default()).unwrap())
        };
        assert!(on(1) == on(2));
    }
}
