//! Axes: merging them, broadcasting, counting groups.

use crate::ops::kernel_key::Load;

/// Axes of an index space with the strides of some operands: `(size, stride of each operand)`, outermost first.
pub(super) type Axes<const N: usize> = Vec<(u64, [i64; N])>;

/// Leaves out axes of size 1 and merges those that every operand walks as one.
pub(super) fn merge<const N: usize>(axes: impl IntoIterator<Item = (u64, [i64; N])>) -> Axes<N> {
    let mut merged: Axes<N> = Vec::new();
    for (size, strides) in axes.into_iter().filter(|(size, _)| *size != 1) {
        match merged.last_mut() {
            Some((outer, outer_strides)) if (0..N).all(|i| Some(outer_strides[i]) == strides[i].checked_mul(size.cast_signed())) => {
                *outer *= size;
                *outer_strides = strides;
            }
            _ => merged.push((size, strides)),
        }
    }
    merged
}

/// Row-major strides in elements.
pub(super) fn strides(dims: &[u64]) -> Vec<i64> {
    let mut strides = vec![1i64; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(dims[i].cast_signed());
    }
    strides
}

/// Strides with which an operand of `dims` is read for a result of `out` that it broadcasts to; `None` where it does not.
pub(super) fn broadcast(dims: &[u64], out: &[u64]) -> Option<Vec<i64>> {
    let missing = out.len().checked_sub(dims.len())?;
    let own = strides(dims);
    (0..out.len())
        .map(|i| match i.checked_sub(missing) {
            None => Some(0),
            Some(axis) if dims[axis] == 1 => Some(0),
            Some(axis) => (dims[axis] == out[i]).then_some(own[axis]),
        })
        .collect()
}

/// How an operand of `dims` is read for a result of `out`, and the numbers that [`Load`] needs, in the order of its parameters; `None` where
/// it does not broadcast or has too many axes.
pub(super) fn load(dims: &[u64], out: &[u64]) -> Option<(Load, Vec<u64>)> {
    let strides = broadcast(dims, out)?;
    if dims.iter().product::<u64>() == 1 {
        return Some((Load::Scalar, Vec::new()));
    }
    let axes = merge(out.iter().zip(&strides).map(|(&size, &stride)| (size, [stride])));
    if let [(_, [1])] = axes[..] {
        return Some((Load::Same, Vec::new()));
    }
    let moving: Vec<usize> = (0..axes.len()).filter(|&i| axes[i].1 != [0]).collect();
    if let [at] = moving[..]
        && axes[at].1 == [1]
    {
        let inner = axes[at + 1..].iter().map(|(size, _)| size).product();
        return Some((Load::Periodic, vec![inner, axes[at].0]));
    }
    let rank = u8::try_from(axes.len()).ok().filter(|&rank| rank <= 8)?;
    let numbers = axes.iter().flat_map(|&(size, [stride])| [size, stride.cast_unsigned()]).collect();
    Some((Load::Strided(rank), numbers))
}

/// Groups along x, y, z for `n` workgroups in all, spread over x and y as `group()` in `common.glsl` numbers them; `None` where they do not fit.
pub(super) fn groups(n: u64) -> Option<[u32; 3]> {
    const MOST: u64 = 65535;
    let x = n.clamp(1, MOST);
    let y = n.div_ceil(x).max(1);
    (y <= MOST).then_some([u32::try_from(x).ok()?, u32::try_from(y).ok()?, 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loads_are_chosen_from_shapes() {
        let load = |dims: &[u64], out: &[u64]| load(dims, out);
        assert_eq!(load(&[2, 3], &[2, 3]), Some((Load::Same, vec![])));
        assert_eq!(load(&[1, 1], &[2, 3]), Some((Load::Scalar, vec![])));
        assert_eq!(load(&[3], &[2, 3]), Some((Load::Periodic, vec![1, 3])));
        assert_eq!(load(&[3, 1, 1], &[2, 3, 4, 5]), Some((Load::Periodic, vec![20, 3])));
        assert_eq!(load(&[2, 1], &[2, 3]), Some((Load::Periodic, vec![3, 2])));
        assert_eq!(load(&[2, 1, 4], &[2, 3, 4]), Some((Load::Strided(3), vec![2, 4, 3, 0, 4, 1])));
        assert_eq!(load(&[4], &[2, 3]), None);
    }

    #[test]
    fn many_groups_spread_over_two_axes() {
        assert_eq!(groups(7), Some([7, 1, 1]));
        assert_eq!(groups(65536), Some([65535, 2, 1]));
        assert_eq!(groups(1 << 33), None);
    }
}
