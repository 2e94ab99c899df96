//! Convolutions with channels last on cooperative matrices: which variant, and the part of the call that is its own. Where the target or the form of the
//! operands does not suit them, `conv_nhwc` computes the convolution on any device.

use super::call::{Call, Node};
use super::mma;
use crate::ir::packed::Granularity;
use crate::ir::{Activations, Dim};
use crate::ops::kernel_key::{Storage, Template};
use crate::ops::variant::{Mma, Variant};
use crate::target::{MatrixShape, MatrixTypes};

/// Shortest reduction axis and fewest filters of a group for which matrices are filled well enough.
const LEAST_DEPTH: u64 = 16;
const LEAST_FILTERS: u64 = 8;
/// Subgroups that keep a large device busy, at least and at most.
const BUSY: std::ops::Range<u64> = 800..2000;
/// Pixels of an image from which tiles have 32 of them.
const MANY_PIXELS: u64 = 784;

/// A convolution as a product, for each group.
pub(super) struct Sizes<'a> {
    /// Pixels of one image of the result.
    pub(super) plane: &'a Dim,
    /// Filters of a group.
    pub(super) filters: u64,
    pub(super) groups: u64,
    /// Length of the reduction axis.
    pub(super) depth: u64,
}

/// How a convolution is computed.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    variant: Mma,
    shape: MatrixShape,
}

/// The variant; `None` where `conv_nhwc` computes it. It depends on one image alone, so that a program for any number of them gives the bits of that
/// for one number.
pub(super) fn choose(node: &Node<'_>, x: Storage, b: Storage, sizes: &Sizes<'_>) -> Option<Choice> {
    let shape = node.target.features.matrix_shape(MatrixTypes::F16)?;
    let is_rounded = node.activations == Some(Activations::F16);
    let suits = match b {
        Storage::F16 => true,
        // Weights are rounded to f16, so the format asks for it, or there is none. Rows begin at vectors.
        Storage::Packed(packing) => {
            !matches!(packing.granularity, Granularity::Block(..32))
                && sizes.depth.is_multiple_of(32)
                && (is_rounded || node.activations.is_none())
        }
        _ => false,
    };
    let suits = suits && (x == Storage::F16 || x == Storage::F32 && is_rounded);
    let needs = Template::ConvMma.table().needs;
    if !suits
        || sizes.depth < LEAST_DEPTH
        || sizes.filters < LEAST_FILTERS
        || !needs.iter().all(|name| node.target.features.named(name) == Some(true))
    {
        return None;
    }
    let fits = |variant: &Mma| mma::fits(*variant, shape, true, b, node.target);
    let variant = match node.variant {
        Some(Variant::Mma(variant)) => Some(variant).filter(fits),
        _ => preferred(sizes).into_iter().find(fits),
    };
    variant.map(|variant| Choice { variant, shape })
}

/// Variants, the best first, by what was measured on an H200 with kernels of this structure: tiles of a workgroup where they are enough to
/// keep the device busy, else small tiles whose reduction axis several subgroups share.
fn preferred(sizes: &Sizes<'_>) -> Vec<Mma> {
    let of = |m, n, k, warp_m, warp_n, ways| Mma { m, n, k, warp_m, warp_n, ways };
    let plane = sizes.plane.known().and_then(|n| u64::try_from(n).ok()).unwrap_or(MANY_PIXELS);
    let tiles = |m: u32, n: u32| {
        plane.div_ceil(u64::from(m)).saturating_mul(sizes.filters.div_ceil(u64::from(n))).saturating_mul(sizes.groups)
    };
    let mut all = Vec::new();
    let narrow = sizes.filters <= 32;
    // Four subgroups a workgroup, or two.
    if !narrow && 4 * tiles(64, 64) >= 2 * BUSY.start {
        all.push(of(64, 64, 64, 32, 32, 1));
    }
    if !narrow && (sizes.depth <= 128 && 4 * tiles(32, 64) >= BUSY.start / 2 || 4 * tiles(32, 64) >= BUSY.end) {
        all.push(of(32, 64, 64, 16, 32, 1));
    }
    let m = if plane >= MANY_PIXELS { 32 } else { 16 };
    let n = if sizes.filters <= 16 || tiles(m, 32) < 100 { 16 } else { 32 };
    let most = u64::from(if m == 32 && n == 32 {
        8u32
    } else if m + n == 32 {
        16
    } else {
        12
    });
    let wanted = BUSY.end.div_ceil(tiles(m, n).max(1)).min(sizes.depth.div_ceil(32)).clamp(1, most);
    // Fewer, until the shared memory of the target holds them; then as whole matrices of other sizes.
    for ways in (1..=u32::try_from(wanted).unwrap_or(1)).rev() {
        all.push(of(m, n, 32, m, n, ways));
    }
    all.push(of(32, 32, 32, 32, 32, 1));
    all
}

/// The call with what belongs to the variant, and how many workgroups there are for `pixels` of all images.
pub(super) fn with<'n>(
    call: Call<'n>,
    Choice { variant, shape }: Choice,
    sizes: &Sizes<'_>,
    pixels: &Dim,
    subgroup: u32,
) -> (Call<'n>, Dim) {
    let depth = sizes.depth.next_multiple_of(8);
    let slab = u64::from(variant.k * variant.ways);
    let call = call.flag("whole", depth.is_multiple_of(slab)).flag("subgroup", subgroup).variant(Variant::Mma(variant));
    let call = call.flag("frag_m", shape.m).flag("frag_n", shape.n).flag("frag_k", shape.k);
    // Loops as `mma.glsl` has them; the others are unrolled.
    let rows = u64::from(variant.warp_m / shape.m);
    let puts = u64::from((shape.m * variant.warp_n).div_ceil(subgroup * variant.ways));
    let call = call.each(1u64, depth.div_ceil(slab)).each(rows, puts).puts(rows * puts);
    let bands = sizes.groups * sizes.filters.div_ceil(u64::from(variant.n));
    (call, &pixels.div_ceil(u64::from(variant.m)) * &Dim::from(bands))
}
