//! Products of matrices on the CPU: tiles of fixed size in parallel, so that the result does not depend on the number
//! of threads.

use crate::ir::OpError;
use crate::ops::reference::packed_view::PackedView;
use ndarray::{ArrayView2, ArrayViewMut2, ShapeBuilder, linalg::general_mat_mul};
use rayon::prelude::*;

/// Rows and columns of one parallel task.
const TILE: (usize, usize) = (128, 256);

/// A matrix inside a slice: element `[i, j]` is `data[i * row + j * col]`.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    /// All elements.
    pub data: &'a [f32],
    /// Stride from one row to the next.
    pub row: usize,
    /// Stride from one column to the next.
    pub col: usize,
}

impl<'a> Matrix<'a> {
    /// The part from row `i` and column `j`.
    fn from(self, i: usize, j: usize) -> Matrix<'a> {
        let start = (i * self.row + j * self.col).min(self.data.len());
        Matrix { data: &self.data[start..], ..self }
    }

    fn view(self, rows: usize, cols: usize) -> Result<ArrayView2<'a, f32>, OpError> {
        ArrayView2::from_shape((rows, cols).strides((self.row, self.col)), self.data).map_err(OpError::unsupported)
    }
}

/// `out[m, n] = a[m, k] x b[k, n]` on one thread; `out` has its rows one after the other.
///
/// # Errors
/// A slice is too short.
pub fn multiply(m: usize, k: usize, n: usize, a: Matrix<'_>, b: Matrix<'_>, out: &mut [f32]) -> Result<(), OpError> {
    if m == 0 || n == 0 {
        return Ok(());
    }
    if k == 0 {
        out.fill(0.0);
        return Ok(());
    }
    // A product of few rows reads b once and is bound by memory: packing b into panels would read it twice.
    if m <= 4 && (b.row == 1 || b.col == 1) && a.col == 1 {
        for (i, out) in out.chunks_exact_mut(n).take(m).enumerate() {
            let a = &a.data[i * a.row..][..k];
            if b.row == 1 {
                out.iter_mut().enumerate().for_each(|(j, out)| *out = dot(a, &b.data[j * b.col..][..k]));
            } else {
                out.fill(0.0);
                for (l, &a) in a.iter().enumerate() {
                    out.iter_mut().zip(&b.data[l * b.row..][..n]).for_each(|(out, b)| *out += a * b);
                }
            }
        }
        return Ok(());
    }
    let mut c = ArrayViewMut2::from_shape((m, n), &mut out[..m * n]).map_err(OpError::unsupported)?;
    general_mat_mul(1.0, &a.view(m, k)?, &b.view(k, n)?, 0.0, &mut c);
    Ok(())
}

/// The sum of products, in 16 lanes.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; 16];
    let (a_body, a_tail) = a.as_chunks::<16>();
    let (b_body, b_tail) = b.as_chunks::<16>();
    for (a, b) in a_body.iter().zip(b_body) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    let tail = a_tail.iter().zip(b_tail).map(|(a, b)| f64::from(*a) * f64::from(*b));
    (lanes.iter().map(|&v| f64::from(v)).sum::<f64>() + tail.sum::<f64>()) as f32
}

/// One product of a batch.
#[derive(Clone, Copy)]
pub struct Sizes {
    /// Rows of a.
    pub m: usize,
    /// Columns of a, rows of b.
    pub k: usize,
    /// Columns of b.
    pub n: usize,
}

/// Products of integer matrices, modulo 2^64, from each pair of `starts`; rows of b are `row` elements apart, its
/// columns `col`.
pub fn integers(sizes: Sizes, starts: &[(usize, usize)], a: &[i64], b: &[i64], (row, col): (usize, usize)) -> Vec<i64> {
    let Sizes { m, k, n } = sizes;
    let mut out = Vec::with_capacity(starts.len() * m * n);
    for &(a_start, b_start) in starts {
        for i in 0..m {
            let line = &a[a_start + i * k..][..k];
            for j in 0..n {
                let term = |(p, v): (usize, &i64)| v.wrapping_mul(b[b_start + p * row + j * col]);
                out.push(line.iter().enumerate().map(term).fold(0, i64::wrapping_add));
            }
        }
    }
    out
}

/// The same of f64.
pub fn doubles(sizes: Sizes, starts: &[(usize, usize)], a: &[f64], b: &[f64], (row, col): (usize, usize)) -> Vec<f64> {
    let Sizes { m, k, n } = sizes;
    let lines: Vec<(usize, usize)> = starts.iter().flat_map(|&(a, b)| (0..m).map(move |i| (a + i * k, b))).collect();
    let line = |&(a_start, b_start): &(usize, usize)| {
        let mut sums = vec![0.0; n];
        for (p, v) in a[a_start..][..k].iter().enumerate() {
            sums.iter_mut().enumerate().for_each(|(j, sum)| *sum += v * b[b_start + p * row + j * col]);
        }
        sums
    };
    lines.par_iter().flat_map_iter(line).collect()
}

/// Products of a batch: `operands(i)` gives the matrices of the i-th, whose result is `out[i * m * n..]`.
///
/// # Errors
/// A slice is too short.
pub fn batched<'a>(
    sizes: Sizes,
    out: &mut [f32],
    operands: impl Fn(usize) -> (Matrix<'a>, Matrix<'a>) + Sync,
) -> Result<(), OpError> {
    let Sizes { m, k, n } = sizes;
    if m == 0 || n == 0 {
        return Ok(());
    }
    let small = m * n <= TILE.0 * TILE.1 && (m > 4 || n <= TILE.1);
    if small {
        return out.par_chunks_exact_mut(m * n).enumerate().try_for_each(|(i, out)| {
            let (a, b) = operands(i);
            multiply(m, k, n, a, b, out)
        });
    }
    for (i, out) in out.chunks_exact_mut(m * n).enumerate() {
        let (a, b) = operands(i);
        if m <= 4 {
            let parts: Vec<Vec<f32>> = (0..n.div_ceil(TILE.1))
                .into_par_iter()
                .map(|j| tile(sizes, a, b, (0, m), (j * TILE.1, TILE.1)))
                .collect::<Result<_, _>>()?;
            scatter(out, n, 0, &parts);
            continue;
        }
        // Whole strips of rows, so that each task writes where no other does.
        out.par_chunks_mut(TILE.0 * n).enumerate().try_for_each(|(strip, out)| {
            let rows = out.len() / n;
            if m > TILE.0 * 2 || n <= TILE.1 {
                return multiply(rows, k, n, a.from(strip * TILE.0, 0), b, out);
            }
            let tiles = n.div_ceil(TILE.1 * 2);
            let parts: Vec<Vec<f32>> = (0..tiles)
                .into_par_iter()
                .map(|j| tile(sizes, a, b, (strip * TILE.0, rows), (j * TILE.1 * 2, TILE.1 * 2)))
                .collect::<Result<_, _>>()?;
            scatter(out, n, 0, &parts);
            Ok(())
        })?;
    }
    Ok(())
}

/// A part of the product: `rows` and `cols` are (first, how many).
fn tile(
    sizes: Sizes,
    a: Matrix<'_>,
    b: Matrix<'_>,
    rows: (usize, usize),
    cols: (usize, usize),
) -> Result<Vec<f32>, OpError> {
    let width = cols.1.min(sizes.n - cols.0);
    let mut part = vec![0.0; rows.1 * width];
    multiply(rows.1, sizes.k, width, a.from(rows.0, 0), b.from(0, cols.0), &mut part)?;
    Ok(part)
}

/// Writes parts of columns side by side into rows of `n`.
pub fn scatter(out: &mut [f32], n: usize, start: usize, parts: &[Vec<f32>]) {
    let rows = out.len() / n.max(1);
    let mut at = start;
    for part in parts {
        let width = part.len() / rows.max(1);
        if width == 0 {
            continue;
        }
        for (row, values) in out.chunks_exact_mut(n).zip(part.chunks_exact(width)) {
            row[at..at + width].copy_from_slice(values);
        }
        at += width;
    }
}

/// `out[i, j] = (sum over blocks of (i32 sum of codes) * scale of b) * scale of row i of a`, as the kernels compute it;
/// rows of `a` from `first`.
pub fn packed(a: &PackedView, b: &PackedView, first: usize, out: &mut [f32]) {
    let n = b.layout.n_rows;
    out.par_chunks_mut(n.max(1)).enumerate().for_each(|(i, out)| {
        let row = first + i;
        let (codes, scale) = (a.row(row), a.scales(row).first().copied().unwrap_or(1.0));
        for (j, out) in out.iter_mut().enumerate() {
            *out = crate::ops::reference::packed_view::dot_blocks(codes, b.row(j), b.layout.unit_cols, b.scales(j))
                * scale;
        }
    });
}
