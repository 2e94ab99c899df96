//! Convolutions with channels last on cooperative matrices: which variant. Where the target or the form of the operands
//! does not suit them, other kernels compute the convolution on any device.

use super::call::Node;
use super::mma::{Choice, Operands};
use crate::ir::Dim;
use crate::kernels::key::Storage;
use crate::kernels::variant::Mma;

/// Shortest reduction axis and fewest filters of a group for which matrices are filled well enough.
const LEAST_DEPTH: u64 = 16;
const LEAST_FILTERS: u64 = 8;
/// Subgroups that keep a large device busy, at least and at most.
const BUSY: std::ops::Range<u64> = 800..2000;
/// Pixels of an image from which tiles have 32 of them.
const MANY_PIXELS: u64 = 784;

/// Images up to which tiles are chosen for one of them; and what more of them count for.
pub(super) const FEW_IMAGES: i64 = 4;
const MANY_IMAGES: u64 = 8;

/// A convolution as a product, for each group.
#[derive(Clone, Copy)]
pub(super) struct Sizes<'a> {
    /// Pixels of one image of the result.
    pub(super) plane: &'a Dim,
    /// Filters of a group.
    pub(super) filters: u64,
    pub(super) groups: u64,
    /// Length of the reduction axis.
    pub(super) depth: u64,
}

impl Sizes<'_> {
    /// The reduction axis as it is multiplied: what is missing of its last vector of 16 bytes of filters is 0.
    pub(super) fn padded(&self, b: Storage) -> Dim {
        let per_vector = if let Storage::Packed(packing) = b { 128 / u64::from(packing.bits) } else { 8 };
        self.depth.next_multiple_of(per_vector).into()
    }
}

/// How it is computed where there are at most [`FEW_IMAGES`], or more; `None` where other kernels are better. How many
/// there are decides nothing else, so that a program for any number of them gives the bits of that for one number.
pub(super) fn choose(node: &Node<'_>, (x, b): (Storage, Storage), sizes: &Sizes<'_>, few: bool) -> Option<Choice> {
    if sizes.depth < LEAST_DEPTH || sizes.filters < LEAST_FILTERS {
        return None;
    }
    let k = sizes.padded(b);
    Operands::of(node, (x, b), true, (k.known()?, None))?.choose_among(node, &k, || preferred(sizes, few, x))
}

/// Variants, the best first, by what was measured on an H200 with kernels of this structure: tiles of a workgroup where
/// they are enough to keep the device busy, else small tiles whose reduction axis several subgroups share.
fn preferred(sizes: &Sizes<'_>, few: bool, x: Storage) -> Vec<Mma> {
    let of = |m, n, k, warp_m, warp_n, ways| Mma { m, n, k, warp_m, warp_n, ways };
    let plane = sizes.plane.known().and_then(|n| u64::try_from(n).ok()).unwrap_or(MANY_PIXELS);
    let plane = if few { plane } else { plane.saturating_mul(MANY_IMAGES) };
    let tiles = |m: u32, n: u32| {
        plane.div_ceil(u64::from(m)).saturating_mul(sizes.filters.div_ceil(u64::from(n))).saturating_mul(sizes.groups)
    };
    let mut all = Vec::new();
    let narrow = sizes.filters <= 32;
    // Codes are half as wide as f16.
    let slab = if matches!(x, Storage::Packed(_)) { 64 } else { 32 };
    // Four subgroups a workgroup.
    if !narrow && 4 * tiles(64, 64) >= 2 * BUSY.start {
        all.extend([of(64, 64, 64, 32, 32, 1), of(64, 64, 32, 32, 32, 1)]);
    }
    if !narrow && (sizes.depth <= 128 && 4 * tiles(32, 64) >= BUSY.start / 3 || 4 * tiles(32, 64) >= BUSY.end) {
        all.extend([of(32, 64, 64, 16, 32, 1), of(32, 64, 32, 16, 32, 1)]);
    }
    let m = if plane >= MANY_PIXELS { 32 } else { 16 };
    let n = if sizes.filters <= 16 || tiles(m, 32) < 100 { 16 } else { 32 };
    let most: u64 = match m + n {
        64 => 8,
        48 => 12,
        _ => 16,
    };
    let wanted = BUSY.end.div_ceil(tiles(m, n).max(1)).min(sizes.depth.div_ceil(u64::from(slab))).clamp(1, most);
    // Fewer, until the shared memory of the target holds them.
    for ways in (1..=u32::try_from(wanted).unwrap_or(1)).rev() {
        all.push(of(m, n, slab, m, n, ways));
    }
    all.extend([of(32, 32, 32, 32, 32, 1), of(32, 32, 64, 32, 32, 1)]);
    all
}
