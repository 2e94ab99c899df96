//! Which elements the search looks at, and what it must know of all of them.

use rayon::prelude::*;

/// Consecutive elements that a long unit's sample takes at a time: two cache lines.
const SEGMENT_ELEMS: usize = 32;

/// Elements of a long unit that one parallel task reads.
const TASK_ELEMS: usize = 1 << 16;

/// A unit as the search sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unit<'a> {
    /// All its elements or a sample of them, the non-finite replaced by zero.
    pub(super) values: &'a [f32],
    /// Of all its finite elements, the one of largest magnitude, with its sign.
    pub(super) signed_max: f32,
    /// Whether all its elements are finite.
    pub(super) finite: bool,
}

/// Memory for units that cannot be searched where they lie.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    copy: Vec<f32>,
}

impl Sample {
    /// The unit `w`, on at most about `max_elems` of its elements, at least one.
    pub(super) fn take<'a>(&'a mut self, w: &'a [f32], max_elems: usize) -> Unit<'a> {
        let Extremes { low, high, finite } = Extremes::of(w);
        let signed_max = if high >= -low { high } else { low };
        if finite && w.len() <= max_elems {
            return Unit { values: w, signed_max, finite };
        }
        self.copy.clear();
        if w.len() <= max_elems {
            self.copy.extend(w);
        } else {
            let n_segments = w.len().div_ceil(SEGMENT_ELEMS);
            for segment in spread(n_segments, (max_elems / SEGMENT_ELEMS).max(1)) {
                let rest = &w[segment * SEGMENT_ELEMS..];
                self.copy.extend(&rest[..SEGMENT_ELEMS.min(rest.len())]);
            }
        }
        self.copy.iter_mut().filter(|x| !x.is_finite()).for_each(|x| *x = 0.0);
        Unit { values: &self.copy, signed_max, finite }
    }
}

/// The range of a slice's finite elements, zero included.
#[derive(Clone, Copy, Debug)]
struct Extremes {
    low: f32,
    high: f32,
    finite: bool,
}

impl Extremes {
    const ZERO: Self = Self { low: 0.0, high: 0.0, finite: true };

    fn of(w: &[f32]) -> Self {
        if w.len() <= TASK_ELEMS {
            return Self::of_run(w);
        }
        // A range does not depend on the order of its parts.
        w.par_chunks(TASK_ELEMS).map(Self::of_run).reduce(
            || Self::ZERO,
            |a, b| Self { low: a.low.min(b.low), high: a.high.max(b.high), finite: a.finite && b.finite },
        )
    }

    fn of_run(w: &[f32]) -> Self {
        const N: usize = 8;
        let (mut low, mut high, mut poison) = ([0.0_f32; N], [0.0_f32; N], [0.0_f32; N]);
        let (body, tail) = w.as_chunks::<N>();
        for x in body {
            for l in 0..N {
                low[l] = if x[l] < low[l] { x[l] } else { low[l] };
                high[l] = if x[l] > high[l] { x[l] } else { high[l] };
                // A finite number times zero is zero; NaN and infinity give NaN.
                poison[l] += x[l] * 0.0;
            }
        }
        let finite = poison.iter().chain(tail).all(|x| x.is_finite());
        let zero = Self { finite, ..Self::ZERO };
        if finite {
            let body = low.into_iter().zip(high).fold(zero, |all, (low, high)| all.extend(low).extend(high));
            tail.iter().fold(body, |all, x| all.extend(*x))
        } else {
            w.iter().filter(|x| x.is_finite()).fold(zero, |all, x| all.extend(*x))
        }
    }

    fn extend(self, x: f32) -> Self {
        Self { low: self.low.min(x), high: self.high.max(x), ..self }
    }
}

/// The largest finite magnitude.
pub(super) fn absmax(w: &[f32]) -> f32 {
    let Extremes { low, high, .. } = Extremes::of(w);
    high.max(-low)
}

/// The sum of squares of the finite elements.
pub(super) fn sum_sq(w: &[f32]) -> f64 {
    const N: usize = 4;
    let square = |x: f32| f64::from(x) * f64::from(x);
    let (body, tail) = w.as_chunks::<N>();
    let mut lanes = [0.0; N];
    for x in body {
        for l in 0..N {
            lanes[l] += square(x[l]);
        }
    }
    let sum = lanes.iter().sum::<f64>() + tail.iter().map(|x| square(*x)).sum::<f64>();
    if sum.is_finite() {
        return sum;
    }
    // Squares of finite f32 cannot overflow an f64, so something is not finite.
    w.iter().filter(|x| x.is_finite()).map(|x| square(*x)).sum()
}

/// `n` of the indices `0..total` (all of them if `n` is larger) in rising order:
/// one at a pseudo-random place in each of `n` equal stretches, because a fixed
/// step could keep time with the columns.
pub(super) fn spread(total: usize, n: usize) -> impl Iterator<Item = usize> {
    let n = n.min(total);
    (0..n).map(move |i| {
        let start = share(total, i, n);
        let len = share(total, i + 1, n) - start;
        start + hash(i) % len.max(1)
    })
}

/// `total * i / n` without overflow, for `i <= n` and `n > 0`.
fn share(total: usize, i: usize, n: usize) -> usize {
    // The quotient is at most `total`, so the conversion does not fail.
    usize::try_from(total as u128 * i as u128 / n as u128).unwrap_or(total)
}

/// A well-mixed function of the index: the finalizer of SplitMix64 (Steele, Lea
/// and Flood, "Fast splittable pseudorandom number generators", 2014).
fn hash(i: usize) -> usize {
    let mut x = (i as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    // 31 bits are plenty for a stretch, and the same on every target.
    ((x ^ (x >> 31)) >> 33) as usize
}
