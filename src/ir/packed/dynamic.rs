//! INT8 quantization of activations while the program runs: the reference that
//! the GPU kernel has to match.
//!
//! For each scale, over the elements that share it, all in f32 and in this order:
//!
//! 1. `m` = the largest `|x|`, 0 if there is no `x`; NaN where any `x` is NaN or
//!    infinite.
//! 2. `s` = `m * (1.0 / 127.0)`, the constant being 0x3C010204, where `m` is at
//!    least 2^-100, and 1.0 below. The bound keeps `s` and `r` normal and gives
//!    subnormal `x` code 0, so that flushing subnormals changes nothing. Where `m`
//!    is NaN, `s` is 0x7FC00000: INT8 has no code for what is not finite, so all
//!    that is computed from such a row is NaN, not a number that looks right.
//! 3. `r` = `1.0 / s`, correctly rounded.
//! 4. `q` = `x * r`, clamped to -127..=127, then rounded half to even; 0 where `s`
//!    is NaN.
//!
//! Vulkan rounds products correctly, so only step 3 may differ: a division there
//! may err by 2.5 ULP, which moves `q` by one for some ten of a million elements.
//! Where every bit matters, three corrections in wrapping integer arithmetic make the
//! quotient exact, because the product of both significands is so near a
//! power of two that its low 32 bits are the remainder:
//!
//! ```glsl
//! float r = 1.0 / s;
//! int ms = (floatBitsToInt(s) & 0x7fffff) | 0x800000;
//! for (int i = 0; i < 3; i++) {
//!     int mr = (floatBitsToInt(r) & 0x7fffff) | 0x800000;
//!     int d = -(mr * ms);
//!     r = intBitsToFloat(floatBitsToInt(r) + int(2 * d > ms) - int(2 * d < -ms));
//! }
//! float v = x * r;
//! int q = isnan(v) ? 0 : int(roundEven(clamp(v, -127.0, 127.0)));
//! ```

use super::{Coding, Granularity, Layout, PackedError, Packing, ScaleType, code_of, nearest_within, write_scales};
use rayon::prelude::*;

/// 1/127, rounded to f32 (0x3C010204).
const RECIPROCAL_OF_127: f32 = 1.0 / 127.0;

/// 2^-100: below it an absolute maximum counts as zero.
const SMALLEST_ABSMAX: f32 = f32::from_bits((127 - 100) << 23);

impl Packing {
    /// How activations are packed: INT8 with F32 scales.
    pub const fn activation(granularity: Granularity) -> Self {
        Self { coding: Coding::I8, granularity, scale: ScaleType::F32 }
    }
}

/// Quantizes activations `x` `[n_rows, n_cols]` to INT8 by row or by tensor, as
/// [`Packing::activation`] lays them out and the module describes.
///
/// # Errors
/// [`PackedError::BlockedActivation`], a shape that is too large, or `x` of
/// another length than the shape.
///
/// # Example
/// ```
/// # use nyxc::ir::packed::{dequantize, quantize_dynamic, Granularity, Packing};
/// let bytes = quantize_dynamic(&[0.0, -2.54, 1.0], 1, 3, Granularity::Row)?;
/// assert_eq!(bytes[..4], [0, 0x81, 50, 0]);
/// let x = dequantize(Packing::activation(Granularity::Row), 1, 3, &bytes)?;
/// assert!((x[2] - 1.0).abs() < 0.01);
/// # Ok::<(), nyxc::ir::packed::PackedError>(())
/// ```
pub fn quantize_dynamic(
    x: &[f32],
    n_rows: usize,
    n_cols: usize,
    granularity: Granularity,
) -> Result<Vec<u8>, PackedError> {
    if matches!(granularity, Granularity::Block(_)) {
        return Err(PackedError::BlockedActivation);
    }
    let layout = Packing::activation(granularity).layout(n_rows, n_cols)?;
    layout.check_elems(x.len())?;
    let scales = scales(&layout, x);
    Ok(encoded(&layout, x, n_cols, &scales))
}

/// The same by tensor, of `x` whose largest magnitude is known already: infinite or NaN where one of `x` is.
///
/// # Errors
/// As [`quantize_dynamic`].
pub fn quantize_within(x: &[f32], n_rows: usize, n_cols: usize, magnitude: f32) -> Result<Vec<u8>, PackedError> {
    let layout = Packing::activation(Granularity::Tensor).layout(n_rows, n_cols)?;
    layout.check_elems(x.len())?;
    Ok(encoded(&layout, x, n_cols, &[scale_of(larger(0.0, magnitude))]))
}

/// The bits of the largest magnitude among `x`, 0 if there is none: as integers, magnitudes and what is not finite are
/// in the order of their size.
pub fn magnitude_bits(x: &[f32]) -> u32 {
    x.iter().map(|x| x.to_bits() & 0x7fff_ffff).max().unwrap_or(0)
}

fn encoded(layout: &Layout, x: &[f32], n_cols: usize, scales: &[f32]) -> Vec<u8> {
    let mut bytes = vec![0; layout.n_bytes];
    if layout.n_elems > 0 {
        bytes[..layout.scale_offset]
            .par_chunks_exact_mut(layout.pitch_bytes)
            .zip(x.par_chunks_exact(n_cols))
            .enumerate()
            .with_min_len(layout.rows_per_task())
            .for_each(|(row_idx, (codes, x))| {
                if let [scale] = layout.row_scales(scales, row_idx) {
                    encode_row(x, 1.0 / scale, codes);
                }
            });
    }
    write_scales(layout, scales, &[], &mut bytes);
    bytes
}

/// Steps 1 and 2. A maximum does not depend on the order of its operands, so
/// neither does the result on the number of threads.
fn scales(layout: &Layout, x: &[f32]) -> Vec<f32> {
    if layout.n_elems == 0 {
        return vec![1.0; layout.n_scales];
    }
    let rows = x.par_chunks_exact(layout.n_cols).with_min_len(layout.rows_per_task()).map(absmax);
    match layout.packing.granularity {
        Granularity::Tensor => vec![scale_of(rows.reduce(|| 0.0, larger))],
        Granularity::Block(_) | Granularity::Row => rows.map(scale_of).collect(),
    }
}

/// Step 2.
fn scale_of(absmax: f32) -> f32 {
    match absmax {
        m if m.is_nan() => f32::NAN,
        m if m < SMALLEST_ABSMAX => 1.0,
        m => m * RECIPROCAL_OF_127,
    }
}

/// The larger of `m` and the magnitude of `x`; NaN where one of them is not finite.
fn larger(m: f32, x: f32) -> f32 {
    match x.abs() {
        a if a <= f32::MAX => {
            if a > m {
                a
            } else {
                m
            }
        }
        _ => f32::NAN,
    }
}

/// The largest magnitude, 0 if there is none; NaN where one is not finite.
fn absmax(x: &[f32]) -> f32 {
    // Independent lanes let the compiler use vector registers.
    let (body, tail) = x.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for x in body {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = larger(*lane, *x);
        }
    }
    tail.iter().chain(&lanes).fold(0.0, |m, x| larger(m, *x))
}

/// Step 4.
fn encode_row(x: &[f32], reciprocal: f32, codes: &mut [u8]) {
    for (code, x) in codes.iter_mut().zip(x) {
        let y = x * reciprocal;
        let y = if y.is_nan() { 0.0 } else { y };
        *code = code_of(nearest_within(y, -127.0, 127.0)).cast_unsigned();
    }
}
