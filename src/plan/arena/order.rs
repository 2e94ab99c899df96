//! The orders in which items are preferred.

use super::columns::{Part, peak_loads};

/// What makes an item be considered early; ties go to the earlier item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// The largest first.
    Size,
    /// The largest product of size and lifetime first.
    Area,
    /// The longest lived first.
    Width,
    /// The items of the fullest column first, then as [`Order::Area`].
    Contention,
    /// The earliest first, as an allocator at run time would see them.
    Start,
}

/// Half the width of the factor in [`Noise`], in 256ths.
const NOISE: u64 = 128;

/// A SplitMix64 stream (Steele, Lea and Flood, OOPSLA 2014).
///
/// Restarted searches draw from it, so that a plan is a function of its input.
#[derive(Debug, Clone)]
pub(super) struct Noise(pub u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A factor between 1/2 and 3/2, in 256ths.
    pub(super) fn factor(&mut self) -> u64 {
        256 - NOISE + self.next() % (2 * NOISE + 1)
    }
}

/// For each item of the part its sort keys, the larger the more preferred.
pub(super) fn keys(part: &Part, order: Order) -> Vec<(u128, u128)> {
    let width = |i: usize| (part.items[i].hi - part.items[i].lo) as u128;
    let size = |i: usize| u128::from(part.items[i].size);
    let indices = 0..part.items.len();
    match order {
        Order::Size => indices.map(|i| (size(i), width(i))).collect(),
        Order::Area => indices.map(|i| (size(i) * width(i), size(i))).collect(),
        Order::Width => indices.map(|i| (width(i), size(i))).collect(),
        Order::Contention => {
            let peaks = peak_loads(part);
            indices.map(|i| (u128::from(peaks[i]), size(i) * width(i))).collect()
        }
        Order::Start => {
            let age = |i: usize| (part.loads.len() - part.items[i].lo) as u128;
            indices.map(|i| (age(i), size(i))).collect()
        }
    }
}

/// The indices of the keys, the largest key first.
pub(super) fn descending(keys: &[(u128, u128)]) -> Vec<usize> {
    let mut sequence: Vec<usize> = (0..keys.len()).collect();
    sequence.sort_by_key(|&i| (std::cmp::Reverse(keys[i]), i));
    sequence
}
