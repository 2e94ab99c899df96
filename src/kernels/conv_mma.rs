//! Convolutions with channels last on cooperative matrices: which variant, of those whose operands pass through shared
//! memory and of those whose do not. Where the target or the form of the operands does not suit them, other kernels
//! compute the convolution on any device.

use super::call::Node;
use super::choice::{self, Problem, Way};
use super::mma::{self, Choice, Operands};
use super::model::{Arithmetic, Work};
use super::products::bytes_of;
use super::{storage, thin};
use crate::ir::Dim;
use crate::ir::packed::Granularity;
use crate::kernels::key::Storage;
use crate::kernels::variant::{Mma, Thin, Variant};
use crate::targets::tuning::Case;

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
    /// Elements of the window, and of its step.
    pub(super) window: u64,
    pub(super) steps: u64,
}

impl Sizes<'_> {
    /// Pixels of an image; where that changes between runs, many.
    fn pixels(&self) -> u64 {
        self.plane.known().and_then(|n| u64::try_from(n).ok()).unwrap_or(MANY_PIXELS)
    }

    /// The reduction axis as it is multiplied: what is missing of its last vector of 16 bytes of filters is 0.
    pub(super) fn padded(&self, b: Storage) -> Dim {
        let per_vector = if let Storage::Packed(packing) = b { 128 / u64::from(packing.coding.row_bits()) } else { 8 };
        self.depth.next_multiple_of(per_vector).into()
    }
}

/// A convolution of at most [`FEW_IMAGES`] or of more. How many there are decides nothing else, so that a program for
/// any number of them gives the bits of that for one number.
struct Ways<'a> {
    node: &'a Node<'a>,
    x: Storage,
    b: Storage,
    sizes: &'a Sizes<'a>,
    few: bool,
    operands: Option<Operands>,
    /// Whether matrices can be filled from memory.
    is_thin: bool,
}

/// What a convolution is computed by, where plain kernels are not better.
pub(super) enum Found {
    Mma(Choice),
    Thin(Thin),
}

/// How it is computed where there are at most [`FEW_IMAGES`], or more; `None` where other kernels are better.
pub(super) fn choose(node: &Node<'_>, (x, b): (Storage, Storage), sizes: &Sizes<'_>, few: bool) -> Option<Found> {
    if sizes.depth < LEAST_DEPTH || sizes.filters < LEAST_FILTERS {
        return None;
    }
    let depth = sizes.padded(b).known()?;
    // Codes times filters whose scales change along the reduction axis came out wrong on an H200
    // (`benches/gpu/models-h200.txt`), as no other form did, products of matrices of the same form among them.
    let is_wrong = matches!((x, b), (Storage::Packed(_), Storage::Packed(b)) if b.granularity != Granularity::Row);
    let operands = Operands::of(node, (x, b), true, (depth, None)).filter(|_| !is_wrong);
    let channels = sizes.depth / sizes.window.max(1);
    let is_thin = channels.is_multiple_of(thin::PART.into())
        && i64::try_from(sizes.depth).is_ok_and(|k| thin::is_possible(node, (x, b), k));
    match choice::choose(node, &Ways { node, x, b, sizes, few, operands, is_thin }) {
        Way::Variant(Variant::Mma(variant)) => operands.map(|operands| Found::Mma(operands.by(variant))),
        Way::Variant(Variant::Thin(variant)) => Some(Found::Thin(variant)),
        _ => None,
    }
}

impl Problem for Ways<'_> {
    fn case(&self) -> Case {
        let result = storage(self.node.result).map_or(String::new(), |s| s.to_string());
        let (x, b, epilogue) = (self.x, self.b, self.node.epilogue_class());
        let kind = format!("conv {x} {b} {result} {epilogue} {}", if self.few { "few" } else { "many" });
        let Sizes { filters, groups, depth, window, steps, .. } = *self.sizes;
        Case { kind, sizes: [self.sizes.pixels(), filters, depth, groups, window, steps].map(|n| n.max(1)).to_vec() }
    }

    fn ways(&self) -> Vec<Way> {
        let all = mma::variants().into_iter().chain(thin::variants()).map(Way::Variant);
        [Way::Plain].into_iter().chain(all.filter(|way| self.suits(*way))).collect()
    }

    fn suits(&self, way: Way) -> bool {
        match way {
            Way::Plain => true,
            Way::Variant(Variant::Mma(v)) => {
                let k = self.sizes.padded(self.b);
                self.operands.is_some_and(|operands| operands.suits(v, &k, self.node.target))
            }
            Way::Variant(Variant::Thin(v)) => self.is_thin && thin::suits(v, self.sizes.depth, self.node.target),
            Way::Variant(Variant::Gemv(_) | Variant::Attention(_)) => false,
        }
    }

    fn work(&self, way: Way, sizes: &[u64]) -> Work {
        let at = |i: usize| sizes.get(i).copied().unwrap_or(1);
        let images = if self.few { 1 } else { MANY_IMAGES };
        let [pixels, filters, depth, groups] = [at(0) * images, at(1), at(2), at(3)];
        let (tile_m, tile_n) = match way {
            Way::Variant(Variant::Mma(v)) => (u64::from(v.m), u64::from(v.n)),
            Way::Variant(Variant::Thin(v)) => (u64::from(v.m), u64::from(v.n)),
            Way::Plain | Way::Variant(Variant::Gemv(_) | Variant::Attention(_)) => (64, 64),
        };
        let n_groups = groups * pixels.div_ceil(tile_m) * filters.div_ceil(tile_n);
        // Windows share their elements.
        let x = bytes_of(self.x, pixels * depth / at(4) * at(5).min(at(4)));
        let result = storage(self.node.result).unwrap_or(Storage::F32);
        let read = bytes_of(self.x, tile_m * depth) + bytes_of(self.b, tile_n * depth);
        let work = Work {
            bytes: groups * (x + bytes_of(self.b, filters * depth) + bytes_of(result, pixels * filters)),
            read: n_groups.saturating_mul(read),
            operations: n_groups.saturating_mul(2 * tile_m * tile_n).saturating_mul(depth),
            arithmetic: Arithmetic::F32,
            groups: n_groups,
            threads: 128,
            shared: 8 << 10,
            registers: 64,
            steps: depth.div_ceil(16),
            step_ns: 450,
            end_ns: 0,
        };
        if let Way::Variant(Variant::Thin(v)) = way {
            let (threads, shared) = (Variant::Thin(v).threads(32).into(), thin::shared_bytes(v).into());
            return Work {
                arithmetic: Arithmetic::F16,
                threads,
                shared,
                steps: thin::steps(v, depth),
                ..thin::work(v, self.b, work)
            };
        }
        let Way::Variant(Variant::Mma(v)) = way else { return work };
        let arithmetic = if matches!(self.x, Storage::Packed(_)) { Arithmetic::I8 } else { Arithmetic::F16 };
        let products = if self.x == Storage::F32 { 3 } else { 1 };
        let threads = Variant::Mma(v).threads(self.node.target.limits.subgroup_size).into();
        Work {
            operations: work.operations.saturating_mul(products),
            arithmetic,
            threads,
            shared: self.operands.map_or(0, |operands| operands.shared_bytes(v)).into(),
            steps: depth.div_ceil(u64::from(v.k) * u64::from(v.ways)),
            ..mma::work(v, threads, work)
        }
    }

    fn usual(&self) -> Way {
        // A CPU is as fast with the plain kernels.
        if self.node.target.is_cpu() {
            return Way::Plain;
        }
        let preferred = preferred(self.sizes, self.few, self.x).into_iter().map(Variant::Mma).map(Way::Variant);
        preferred.into_iter().find(|way| self.suits(*way)).unwrap_or(Way::Plain)
    }
}

/// Variants, the best first, by what was measured on an H200 with kernels of this structure: tiles of a workgroup where
/// they are enough to keep the device busy, else small tiles whose reduction axis several subgroups share.
fn preferred(sizes: &Sizes<'_>, few: bool, x: Storage) -> Vec<Mma> {
    let of = |m, n, k, warp_m, warp_n, ways| Mma { m, n, k, warp_m, warp_n, ways };
    let plane = if few { sizes.pixels() } else { sizes.pixels().saturating_mul(MANY_IMAGES) };
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
