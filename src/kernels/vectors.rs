//! How many neighbours of its result an invocation computes where each of them depends on single elements.

use super::call::Node;
use super::shape::{at_least, divides};
use crate::ir::Dim;
use crate::kernels::key::Storage;

/// Invocations up to which a device has nothing to do for more of them: vectors are no longer than leaves so many.
const ENOUGH: i64 = 1 << 16;
/// Bytes of the longest word that one instruction reads.
const WORD_BYTES: u32 = 16;

/// The width for a result of `n` elements where vectors begin at multiples of what divides all of `multiples`: so many
/// that the shortest elements of `storages` fill a word, but no more than leave every invocation something to do; 0
/// where single elements it is. It depends on the form of sizes that change, never on their range, and every width
/// gives the same bits.
pub(super) fn width(node: &Node<'_>, storages: impl Iterator<Item = Storage>, n: &Dim, multiples: &[&Dim]) -> u32 {
    let longest = longest(storages);
    // Where f16 is emulated, a single element is written by two atomic operations.
    let least_elements = |width: u32| {
        if width == 2 && longest == 8 && !node.target.features.storage_16bit { 0 } else { ENOUGH * i64::from(width) }
    };
    let fits = |width: &u32| {
        *width <= longest && at_least(n, least_elements(*width)) && multiples.iter().all(|size| divides(*width, size))
    };
    [8, 4, 2].into_iter().find(fits).unwrap_or(0)
}

/// How many of the shortest elements of these storages fill a word.
pub(super) fn longest(storages: impl Iterator<Item = Storage>) -> u32 {
    WORD_BYTES / storages.filter_map(Storage::element_bytes).min().unwrap_or(4)
}
