//! Values at places between the elements of an image.

use crate::ops::reference::real::Real;

/// Elements outside an image.
#[derive(Clone, Copy, PartialEq)]
pub enum Outside {
    /// Zeros.
    Zeros,
    /// The last element.
    Border,
    /// The image, reflected at its ends.
    Reflection,
}

/// How places between elements are read.
#[derive(Clone, Copy, PartialEq)]
pub enum Mode {
    /// The nearest element, the even one of two.
    Nearest,
    /// Linearly between two elements.
    Linear,
    /// By cubic polynomials through four elements.
    Cubic,
}

/// A coordinate reflected at the ends until it is between them, exactly; one that is infinite or NaN, which has no
/// place, is the low end.
fn reflect<F: Real>(v: F, low: F, high: F) -> F {
    if v >= low && v <= high {
        return v;
    }
    let (v, low, range) = (v.wide(), low.wide(), (high - low).wide());
    if range <= 0.0 || !v.is_finite() {
        return F::of_f64(low);
    }
    // Two ranges further on everything repeats; the remainder is exact.
    let at = (v % (2.0 * range) - low).rem_euclid(2.0 * range);
    F::of_f64(low + if at > range { 2.0 * range - at } else { at })
}

/// The elements of an axis of `size` that a coordinate reads, with their weights. Those outside that count as zero are
/// left out. Of what the standard leaves open, NaN reads zero with `zeros` and the first element otherwise (as PyTorch
/// on CUDA), infinity with `reflection` the first element. `align` says that -1 and 1 are the centres of the outermost
/// elements, not their outer edges.
pub fn taps<F: Real>(v: F, size: usize, (mode, outside, align): (Mode, Outside, bool), found: &mut Vec<(usize, F)>) {
    found.clear();
    let (zero, one, half) = (F::zero(), F::one(), F::of_f32(0.5));
    let last = F::of_f64(size as f64) - one;
    let (low, high) = if align { (zero, last) } else { (-half, last + half) };
    let inside = |v: F| v >= low && v <= high;
    let v = if mode == Mode::Nearest { Real::round_ties_even(v) } else { v };
    let v = match outside {
        _ if inside(v) => v,
        Outside::Border if v.is_nan() => zero,
        Outside::Border => v.max(zero).min(last),
        Outside::Reflection => reflect(v, low, high),
        Outside::Zeros => v,
    };
    if v.is_nan() || v.abs() > F::of_f32(1e9) {
        return;
    }
    let first = v.floor();
    let t = v - first;
    let index = |i: F| i.to_i64() as usize;
    let place = |i: F| -> Option<usize> {
        match outside {
            Outside::Zeros => (i >= zero && i <= last).then(|| index(i)),
            Outside::Border => Some(index(i.max(zero).min(last))),
            Outside::Reflection => Some(index(reflect(i, low, high).max(zero).min(last))),
        }
    };
    let mut add = |i: F, weight: F| {
        if let Some(at) = place(i) {
            found.push((at, weight));
        }
    };
    match mode {
        Mode::Nearest => add(v.trunc(), one),
        Mode::Linear => {
            add(first, one - t);
            add(first + one, t);
        }
        Mode::Cubic => {
            for (i, weight) in cubic(t, F::of_f32(-0.75)).into_iter().enumerate() {
                add(first + F::of_f64(i as f64) - one, weight);
            }
        }
    }
}

/// Weights of the four elements around a place `t` behind the second (Keys, 1981).
pub fn cubic<F: Real>(t: F, a: F) -> [F; 4] {
    let n = F::of_f32;
    let outer = |x: F| ((a * x - n(5.0) * a) * x + n(8.0) * a) * x - n(4.0) * a;
    let inner = |x: F| ((a + n(2.0)) * x - (a + n(3.0))) * x * x + n(1.0);
    [outer(t + n(1.0)), inner(t), inner(n(1.0) - t), outer(n(2.0) - t)]
}

/// The weighted sum over all combinations of taps.
pub fn gathered<F: Real>(plane: &[F], steps: &[usize], axes: &[Vec<(usize, F)>], offset: usize) -> F {
    match (axes, steps) {
        ([axis, rest @ ..], [step, steps @ ..]) => {
            axis.iter().map(|(at, weight)| *weight * gathered(plane, steps, rest, offset + at * step)).sum()
        }
        _ => plane[offset],
    }
}
