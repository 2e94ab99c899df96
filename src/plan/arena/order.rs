//! The orders in which items are preferred.

use super::columns::{Packing, Part, peak_loads};

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

/// The sort keys of one item; the larger, the earlier it is considered.
pub(super) type Key = (u128, u128);

/// A SplitMix64 stream (Steele, Lea and Flood, OOPSLA 2014).
///
/// It starts the same for every plan, so that a plan is a function of its
/// input.
#[derive(Debug, Clone, Default)]
pub(super) struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Multiplies each first key by some factor between 1/2 and 3/2, times 256.
    pub(super) fn blur(&mut self, keys: &mut [Key]) {
        for key in keys {
            let factor = 128 + self.next() % 257;
            key.0 = key.0.saturating_mul(u128::from(factor));
        }
    }
}

/// For each item of the part its keys in this order.
pub(super) fn keys(part: &Part, order: Order) -> Vec<Key> {
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

/// For each item its keys in the order of a packing, the lowest first.
pub(super) fn lowest_first(packing: &Packing) -> Vec<Key> {
    packing.offsets.iter().map(|at| (u128::from(packing.height - at), 0)).collect()
}

/// The indices of the keys, the largest key first.
pub(super) fn descending(keys: &[Key]) -> Vec<usize> {
    let mut sequence: Vec<usize> = (0..keys.len()).collect();
    sequence.sort_by_key(|&i| (std::cmp::Reverse(keys[i]), i));
    sequence
}
