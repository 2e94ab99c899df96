//! Axes: merging them, broadcasting, counting groups.

use crate::ir::{Dim, product};
use crate::kernels::key::Load;
use crate::ops::util::agree;

const ONE: Dim = Dim::Known(1);
const ZERO: Dim = Dim::Known(0);

/// Axes of an index space with the strides of some operands: `(size, stride of each operand)`, outermost first.
pub(super) type Axes<const N: usize> = Vec<(Dim, [Dim; N])>;

/// Leaves out axes of size 1 and merges those that every operand walks as one. Sizes that change merge where their form
/// tells it, so that the kernel is one for all of them.
pub(super) fn merge<const N: usize>(axes: impl IntoIterator<Item = (Dim, [Dim; N])>) -> Axes<N> {
    let mut merged: Axes<N> = Vec::new();
    for (size, strides) in axes.into_iter().filter(|(size, _)| *size != ONE) {
        match merged.last_mut() {
            Some((outer, outer_strides)) if (0..N).all(|i| outer_strides[i] == &strides[i] * &size) => {
                *outer = &*outer * &size;
                *outer_strides = strides;
            }
            _ => merged.push((size, strides)),
        }
    }
    merged
}

/// Row-major strides in elements.
pub(super) use crate::ops::core::strided::row_major as strides;

/// Strides with which an operand of `dims` is read for a result of `out` that it broadcasts to; `None` where it does
/// not.
pub(super) fn broadcast(dims: &[Dim], out: &[Dim]) -> Option<Vec<Dim>> {
    let missing = out.len().checked_sub(dims.len())?;
    let own = strides(dims);
    (0..out.len())
        .map(|i| match i.checked_sub(missing) {
            None => Some(ZERO),
            Some(axis) if dims[axis] == ONE => Some(ZERO),
            Some(axis) => agree(&dims[axis], &out[i]).then(|| own[axis].clone()),
        })
        .collect()
}

/// How an operand of `dims` is read for a result of `out`, and the numbers that [`Load`] needs, in the order of its
/// parameters; `None` where it does not broadcast or has too many axes.
pub(super) fn load(dims: &[Dim], out: &[Dim]) -> Option<(Load, Vec<Dim>)> {
    let strides = broadcast(dims, out)?;
    if product(dims) == ONE {
        return Some((Load::Scalar, Vec::new()));
    }
    let axes = merge(out.iter().zip(strides).map(|(size, stride)| (size.clone(), [stride])));
    if let [(_, [ONE])] = axes[..] {
        return Some((Load::Same, Vec::new()));
    }
    let moving: Vec<usize> = (0..axes.len()).filter(|&i| axes[i].1 != [ZERO]).collect();
    if let [at] = moving[..]
        && axes[at].1 == [ONE]
    {
        let inner = axes[at + 1..].iter().fold(ONE, |n, (size, _)| &n * size);
        return Some((Load::Periodic, vec![inner, axes[at].0.clone()]));
    }
    let rank = u8::try_from(axes.len()).ok().filter(|&rank| rank <= 8)?;
    let numbers = axes.into_iter().flat_map(|(size, [stride])| [size, stride]).collect();
    Some((Load::Strided(rank), numbers))
}

/// Whether a size is `n` or more. Of sizes that change it is taken to be, whatever their range: kernels are not chosen
/// by ranges, so that results do not depend on them.
pub(super) fn at_least(dim: &Dim, n: i64) -> bool {
    dim.known().is_none_or(|own| own >= n)
}

/// Whether a number divides a size, whatever its symbols are: by the form of the size, never by its range.
pub(super) fn divides(n: u32, dim: &Dim) -> bool {
    let n = Dim::Known(i64::from(n));
    dim.floor_div(&n).is_some_and(|quotient| &quotient * &n == *dim)
}

/// 1 where a size is `most` or less, else 0. Kernels that are for few or for many of something are both recorded where
/// how many there are changes between runs; the one that does not apply gets no workgroups.
pub(super) fn at_most(dim: &Dim, most: i64) -> Dim {
    let quotient = Dim::Known(most).floor_div(&Dim::larger(dim, &ONE)).unwrap_or(ZERO);
    Dim::least(&quotient, &ONE)
}

/// 1 where a size is `least` or more, else 0.
pub(super) fn from(dim: &Dim, least: i64) -> Dim {
    Dim::least(&dim.floor_div(&Dim::Known(least)).unwrap_or(ZERO), &ONE)
}

/// Groups along x, y, z for `n` workgroups in all, spread over x and y as `group()` in `common.glsl` numbers them;
/// `None` where they do not fit.
pub(super) fn groups(n: &Dim) -> Option<[Dim; 3]> {
    const MOST: i64 = 65535;
    let most = n.most()?;
    if let Some(n) = n.known() {
        let x = n.clamp(1, MOST);
        let y = (n + x - 1).div_euclid(x).max(1);
        return (y <= MOST).then_some([Dim::Known(x), Dim::Known(y), ONE]);
    }
    match most {
        ..=MOST => Some([n.clone(), ONE, ONE]),
        _ if most <= MOST * MOST => Some([Dim::least(n, &Dim::Known(MOST)), n.div_ceil(MOST.unsigned_abs()), ONE]),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_chosen_from_shapes() {
        let dims = |sizes: &[usize]| crate::ir::Shape::of(sizes).0;
        let load = |own: &[usize], out: &[usize]| {
            let (load, numbers) = load(&dims(own), &dims(out))?;
            Some((load, numbers.iter().filter_map(Dim::known).collect::<Vec<_>>()))
        };
        assert_eq!(load(&[2, 3], &[2, 3]), Some((Load::Same, vec![])));
        assert_eq!(load(&[1, 1], &[2, 3]), Some((Load::Scalar, vec![])));
        assert_eq!(load(&[3], &[2, 3]), Some((Load::Periodic, vec![1, 3])));
        assert_eq!(load(&[3, 1, 1], &[2, 3, 4, 5]), Some((Load::Periodic, vec![20, 3])));
        assert_eq!(load(&[2, 1], &[2, 3]), Some((Load::Periodic, vec![3, 2])));
        assert_eq!(load(&[2, 1, 4], &[2, 3, 4]), Some((Load::Strided(3), vec![2, 4, 3, 0, 4, 1])));
        assert_eq!(load(&[4], &[2, 3]), None);
    }

    #[test]
    fn sizes_that_change_merge_where_their_form_tells_it() {
        let (seq, past) = (Dim::ranged("seq", 1, 64), Dim::ranged("past", 0, 512));
        let total = &seq + &past;
        let out = [Dim::Known(3), seq.clone(), total.clone(), Dim::Known(4)];
        assert_eq!(load(&out, &out), Some((Load::Same, vec![])));
        assert_eq!(
            load(&[seq.clone(), total.clone(), ONE], &out),
            Some((Load::Periodic, vec![Dim::Known(4), &seq * &total]))
        );
        assert_eq!(load(&[seq.clone(), ONE, Dim::Known(4)], &out).unwrap().0, Load::Strided(4));
        let (kind, numbers) = load(&[total.clone(), Dim::Known(4)], &out).unwrap();
        assert_eq!((kind, numbers), (Load::Periodic, vec![ONE, &total * &Dim::Known(4)]));
        assert_eq!(load(&[past], &[total]), None);
    }

    #[test]
    fn one_of_two_kernels_applies() {
        let n = Dim::ranged("n", 0, 1000);
        for (at, expected) in [(0, 1), (1, 1), (8, 1), (9, 0), (1000, 0)] {
            assert_eq!(at_most(&n, 8).eval(&|_| Some(at)), Some(expected), "{at}");
            assert_eq!(from(&n, 9).eval(&|_| Some(at)), Some(1 - expected), "{at}");
        }
        assert_eq!((at_most(&Dim::Known(8), 8), at_most(&Dim::Known(9), 8)), (ONE, ZERO));
    }

    #[test]
    fn many_groups_spread_over_two_axes() {
        let groups = |n: i64| groups(&Dim::Known(n)).map(|g| g.map(|d| d.known().unwrap()));
        assert_eq!(groups(7), Some([7, 1, 1]));
        assert_eq!(groups(0), Some([1, 1, 1]));
        assert_eq!(groups(65536), Some([65535, 2, 1]));
        assert_eq!(groups(1 << 33), None);
        let n = Dim::ranged("n", 0, 100_000);
        for (at, expected) in [(0, [0, 0, 1]), (7, [7, 1, 1]), (65536, [65535, 2, 1])] {
            let found = super::groups(&n).unwrap().map(|g| g.eval(&|_| Some(at)).unwrap());
            assert_eq!(found, expected);
        }
    }
}
