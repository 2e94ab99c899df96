//! Indices out of range, as kernels note them in memory.

use super::{Dispatch, Entry, Port, Sizes, Step};
use crate::ir::{Dim, IndexFault};
use serde::{Deserialize, Serialize};

/// Bytes in which a dispatch notes the first index that is out of range: 64 words, one a bit of the index. Word `b` is
/// the least of `2 * place + bit b` over all of them, so that whichever invocation comes first, all words speak of the
/// first place ([`CLEAR`] where there is none).
pub const FAULT_BYTES: u64 = 256;
/// What each of these bytes is before a run.
pub const CLEAR: u8 = 0xff;

/// Indices that a dispatch holds against the axes that they go into.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexCheck {
    /// The binding of [`FAULT_BYTES`] in which it notes what it finds.
    pub binding: u32,
    /// The node of the model that is given the indices.
    pub node: String,
    /// Sizes of the axes that the numbers of an index go into.
    #[serde(with = "super::dims")]
    pub sizes: Vec<Dim>,
    /// Whether negative numbers count from the end.
    pub negative: bool,
}

impl IndexCheck {
    /// What is noted in `words` after a run with these sizes; `None` where all indices were in range.
    pub fn read(&self, words: &[u8], sizes: &Sizes) -> Option<IndexFault> {
        let words: Vec<u32> =
            words.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).take(64).collect();
        let place = words.first().filter(|word| **word != u32::MAX)? >> 1;
        let index = words.iter().enumerate().fold(0u64, |bits, (b, word)| bits | u64::from(word & 1) << b);
        let axis = self.sizes.get(place as usize % self.sizes.len().max(1));
        let size = axis.and_then(|dim| dim.eval(&|name| sizes.get(name).copied())).unwrap_or(0);
        let least = if self.negative { size.saturating_neg() } else { 0 };
        Some(IndexFault { element: u64::from(place), index: index.cast_signed(), least, most: size.saturating_sub(1) })
    }
}

impl Entry {
    /// How many indices from 0 on an input may hold, where dispatches check it as it is; `None` where none does. For
    /// values that somebody makes up.
    pub fn index_limit(&self, port: &Port, sizes: &Sizes) -> Option<i64> {
        let dispatches = self.steps.iter().flat_map(|step| match step {
            Step::Device(list) => list.as_slice(),
            Step::Host(_) => &[],
        });
        let reads = |dispatch: &&Dispatch| dispatch.bindings.first().is_some_and(|region| *region == port.region);
        let checks = dispatches.filter(reads).filter_map(|dispatch| dispatch.check.as_ref());
        let limits = checks.flat_map(|check| &check.sizes).filter_map(|dim| dim.eval(&|name| sizes.get(name).copied()));
        limits.min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_say_the_first_index_out_of_range_whatever_their_order() {
        let check =
            IndexCheck { binding: 2, node: "g".to_owned(), sizes: vec![Dim::Known(4), Dim::Known(9)], negative: true };
        let mut words = [u32::MAX; 64];
        let bytes = |words: &[u32; 64]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
        assert_eq!(check.read(&bytes(&words), &Sizes::new()), None);
        // Each of these indices is noted bit by bit, in any order.
        for (place, index) in [(7u32, i64::MAX), (3, -12), (5, 9)] {
            for (b, word) in words.iter_mut().enumerate() {
                *word = (*word).min(place << 1 | (index >> b & 1) as u32);
            }
        }
        let fault = IndexFault { element: 3, index: -12, least: -9, most: 8 };
        assert_eq!(check.read(&bytes(&words), &Sizes::new()), Some(fault));
    }
}
