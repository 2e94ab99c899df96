//! Products of many rows on cooperative matrices: which variant, and its call. Where the target or the form of the
//! operands does not suit them, other kernels compute the product on any device.

use super::call::Node;
use super::matmul::{Columns, Product, batched};
use super::model::Work;
use super::settings::{Call, Number, Switch, has, of};
use super::{KernelCall, KernelError};
use crate::ir::packed::{Coding, Granularity};
use crate::ir::{Activations, Dim};
use crate::kernels::key::{Storage, Template};
use crate::kernels::variant::{Mma, Variant};
use crate::targets::{MatrixShape, MatrixTypes, Target};

/// Most neighbours of the result that an invocation puts at a time.
pub(super) const MOST_WIDTH: u32 = 4;
/// Workgroups that keep a large device busy: fewer leave parts of it idle.
pub(super) const MANY_GROUPS: u64 = 128;

/// What is multiplied: see `mma_operands.glsl`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Arithmetic {
    /// f16.
    Half,
    /// Pairs of f16, of f32.
    Pairs,
    /// INT8 codes.
    Codes,
}

/// The operands of a product, as far as a kernel of cooperative matrices depends on them.
#[derive(Clone, Copy)]
pub(super) struct Operands {
    arithmetic: Arithmetic,
    b: Storage,
    b_along_k: bool,
    shape: MatrixShape,
}

/// How a product is computed.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    variant: Mma,
    operands: Operands,
}

impl Operands {
    /// Of a product of depth `k` whose second operand has `n` columns; `None` where no kernel of cooperative matrices
    /// has them. `b_along_k`: whether elements of b that are neighbours in memory are so along the reduction axis.
    pub(super) fn of(
        node: &Node<'_>,
        (a, b): (Storage, Storage),
        b_along_k: bool,
        (k, n): (i64, Option<i64>),
    ) -> Option<Operands> {
        let (arithmetic, types) = match a {
            Storage::F16 => (Arithmetic::Half, MatrixTypes::F16),
            Storage::F32 => (Arithmetic::Pairs, MatrixTypes::F16),
            Storage::Packed(packing) if packing.coding == Coding::I8 => (Arithmetic::Codes, MatrixTypes::I8),
            _ => return None,
        };
        let features = &node.target.features;
        let shape = features.matrix_shape(types)?;
        let suits = match (arithmetic, b) {
            (_, Storage::Packed(packing)) => {
                !matches!(packing.granularity, Granularity::Block(..32))
                    // The other codings were not yet seen to be right on a device with such matrices.
                    && matches!(packing.coding, Coding::I4 | Coding::I8)
                    && b_along_k
                    // Rows begin at vectors of 16 bytes, which a part is.
                    && k % (128 / i64::from(packing.coding.row_bits())) == 0
                    && match arithmetic {
                        // Weights are rounded to f16, so the format asks for it, or there is none.
                        Arithmetic::Half => node.activations.is_none_or(|a| a == Activations::F16),
                        Arithmetic::Pairs => true,
                        Arithmetic::Codes => !packing.scale.has_zeros() && features.int8_arithmetic,
                    }
            }
            // Rows begin at vectors of 16 bytes.
            (Arithmetic::Half, Storage::F16) => k % 8 == 0 && (b_along_k || n.is_some_and(|n| n % 8 == 0)),
            (Arithmetic::Pairs, Storage::F32 | Storage::F16) => k % 8 == 0 && b_along_k,
            _ => false,
        };
        let needs = Template::MatmulMma.table().needs;
        let has = needs.iter().all(|name| features.named(name) == Some(true));
        (suits && has && k > 0).then_some(Operands { arithmetic, b, b_along_k, shape })
    }

    /// Elements of a vector of 16 bytes in shared memory.
    fn per_vector(self) -> u32 {
        if self.arithmetic == Arithmetic::Codes { 16 } else { 8 }
    }

    /// Elements of b that one invocation brings at a time.
    fn per_part(self) -> u32 {
        match self.b {
            Storage::Packed(packing) => 128 / u32::from(packing.coding.row_bits()),
            _ => self.per_vector(),
        }
    }

    /// Terms after which sums move to others, 0 where they stay.
    fn flush_k(self, variant: Mma) -> u32 {
        match (self.arithmetic, self.b) {
            (Arithmetic::Half, _) => 0,
            (_, Storage::Packed(packing)) if matches!(packing.granularity, Granularity::Block(_)) => {
                let Granularity::Block(block) = packing.granularity else { return 0 };
                block.min(variant.k)
            }
            (Arithmetic::Pairs, _) => variant.k,
            (Arithmetic::Codes, _) => 0,
        }
    }

    /// Bytes of shared memory, as `mma.glsl` declares it.
    pub(super) fn shared_bytes(self, v: Mma) -> u32 {
        let per_vector = self.per_vector();
        let line = |n: u32| n / per_vector + 1;
        let b = if self.b_along_k { v.n * line(v.k) } else { v.k * line(v.n) };
        let (planes_a, planes_b) = match (self.arithmetic, self.b) {
            (Arithmetic::Pairs, Storage::F32) => (2, 2),
            (Arithmetic::Pairs, _) => (2, 1),
            _ => (1, 1),
        };
        let slabs = v.ways * (planes_a * v.m * line(v.k) + planes_b * b);
        let sums = v.subgroups() * self.shape.m * (v.warp_n / 4 + 1);
        let flushes = v.k.checked_div(self.flush_k(v)).unwrap_or(0);
        let factors = if flushes == 0 { 0 } else { v.ways * (v.m + flushes * v.n) };
        16 * slabs.max(sums) + 4 * factors + 16
    }

    /// Whether a target has what a variant needs, and the variant is made of whole matrices.
    fn fits(self, v: Mma, target: &Target) -> bool {
        let (limits, shape) = (&target.limits, self.shape);
        let subgroup = limits.subgroup_size;
        let threads = Variant::Mma(v).threads(subgroup);
        let lanes = threads / v.ways;
        // Neighbours find the largest magnitude of a line together.
        let lines = self.arithmetic != Arithmetic::Pairs
            || ((v.k / 8) <= subgroup && [v.m, v.n].iter().all(|side| (side * v.k / 8).is_multiple_of(lanes)));
        let flush = self.flush_k(v);
        v.warp_m.is_multiple_of(shape.m)
            && matches!(v.warp_m / shape.m, 1 | 2 | 4 | 8)
            && v.warp_n.is_multiple_of(shape.n)
            && v.k.is_multiple_of(shape.k.max(self.per_part()))
            && (flush == 0 || flush.is_multiple_of(shape.k))
            // Matrices begin at vectors.
            && shape.k.is_multiple_of(self.per_vector())
            && matches!(subgroup, 4 | 8 | 16 | 32 | 64)
            && lines
            && threads <= limits.max_compute_work_group_invocations.min(limits.max_compute_work_group_size[0])
            && self.shared_bytes(v) <= limits.max_compute_shared_memory_size
    }

    /// Whether a target can run a variant, and its loops, on a reduction axis of length `k`.
    pub(super) fn suits(self, variant: Mma, k: &Dim, target: &Target) -> bool {
        self.fits(variant, target) && self.loops_fit(variant, k, target)
    }

    /// A product of these, computed so.
    pub(super) fn by(self, variant: Mma) -> Choice {
        Choice { variant, operands: self }
    }

    /// Variants for a bucket of up to `most` rows, typically `m`, of `n` columns, `batch` times, the best first, as
    /// measured on an H200 (`benches/gpu`), for cases of which nothing is in a tuning table.
    pub(super) fn preferred(self, [m, n, batch]: [u64; 3], k: u64, most: i64) -> Vec<Mma> {
        use Arithmetic::{Codes, Half, Pairs};
        // Of narrow products there are few tiles, and small ones are faster.
        let is_narrow = n < 2048;
        // The slab and the ways, then tiles and the parts of subgroups, the largest first. The longer part of pairs
        // is along the rows.
        let (slab, ways, tiles): (u32, u32, &[[u32; 4]]) = match (most, self.arithmetic) {
            (..=16, Half | Codes) => (64, 8, &[[16, 16, 16, 16]]),
            (..=16, Pairs) => (32, 8, &[[16, 16, 16, 16]]),
            (..=64, Codes) => (128, 2, &[[32, 32, 16, 16]]),
            (..=256, Half) if is_narrow => (128, 2, &[[32, 32, 16, 16]]),
            (..=256, Pairs) if is_narrow => (64, 2, &[[32, 32, 16, 16]]),
            (..=64, Half) => (64, 4, &[[32, 32, 32, 32]]),
            (..=64, Pairs) => (32, 4, &[[32, 32, 32, 32]]),
            (..=256, Codes) if is_narrow => (128, 2, &[[32, 32, 16, 16]]),
            (..=256, Half) => (64, 2, &[[64, 64, 32, 32], [32, 32, 16, 16]]),
            (..=256, Pairs) => (32, 2, &[[64, 64, 32, 32], [32, 32, 16, 16]]),
            (..=256, Codes) => (128, 2, &[[64, 64, 32, 32], [32, 32, 16, 16]]),
            (_, Pairs) => {
                (32, 1, &[[128, 128, 32, 64], [64, 128, 64, 32], [64, 64, 32, 32], [32, 64, 16, 32], [32, 32, 16, 16]])
            }
            (_, Half | Codes) => {
                let slab = if self.arithmetic == Codes { 128 } else { 64 };
                (
                    slab,
                    1,
                    &[[128, 128, 64, 32], [64, 128, 64, 32], [64, 64, 32, 32], [32, 64, 16, 32], [32, 32, 16, 16]],
                )
            }
        };
        // Ways that would have nothing to do are none.
        let slabs = k.div_ceil(u64::from(slab)).clamp(1, u64::from(ways));
        let ways = 1 << slabs.ilog2();
        let all: Vec<Mma> =
            tiles.iter().map(|&[m, n, warp_m, warp_n]| Mma { m, n, k: slab, warp_m, warp_n, ways }).collect();
        // The largest tile of which there are enough.
        let groups = |v: &Mma| {
            let tiles = |size: u64, tile: u32| size.div_ceil(u64::from(tile));
            batch.saturating_mul(tiles(m, v.m)).saturating_mul(tiles(n, v.n))
        };
        let enough = all.iter().position(|v| groups(v) >= MANY_GROUPS).unwrap_or(all.len() - 1);
        // Smaller ones where those have no room, then larger ones.
        [&all[enough..], &all[..enough]].concat()
    }

    /// The loops of the text: how often an invocation comes to each, and how often its body then runs. The others are
    /// unrolled.
    fn loops(self, v: Mma, k: &Dim, subgroup: u32, width: u32) -> Vec<(u64, u64)> {
        let (puts, width) = (self.puts(v, subgroup), u64::from(width.max(1)));
        let has_plain = self.arithmetic == Arithmetic::Pairs && self.b == Storage::F32;
        let plain = [(puts.div_ceil(width), width), (puts, most(k).div_ceil(8))];
        let turns = most(k).div_ceil(u64::from(v.k * v.ways));
        let mut loops = if turns > 2 { vec![(1, turns - 1)] } else { Vec::new() };
        for _ in 0..v.warp_m / self.shape.m {
            loops.push((1, puts.div_ceil(width)));
            loops.extend(plain.iter().filter(|_| has_plain));
        }
        loops
    }

    /// How many elements of one row of matrices an invocation stores, at most: whole vectors of them.
    fn puts(self, v: Mma, subgroup: u32) -> u64 {
        u64::from((self.shape.m * v.warp_n).div_ceil(subgroup * v.ways).next_multiple_of(MOST_WIDTH))
    }

    fn loops_fit(self, v: Mma, k: &Dim, target: &Target) -> bool {
        let loops = self.loops(v, k, target.limits.subgroup_size, 0);
        let all = loops.iter().fold(0, |n: u64, (entries, times)| n.saturating_add(entries.saturating_mul(times + 1)));
        // Half of what there is: an epilogue has loops too.
        target.limits.max_loop_iterations.is_none_or(|limit| all <= limit / 2)
    }
}

fn most(size: &Dim) -> u64 {
    size.most().map_or(u64::MAX, |n| u64::try_from(n).unwrap_or(0))
}

/// A template of products on cooperative matrices.
pub(super) trait OnMatrices:
    has::Whole<Given = Switch>
    + has::Turns<Given = Number>
    + has::Subgroup<Given = Number>
    + has::FragM<Given = Number>
    + has::FragN<Given = Number>
    + has::FragK<Given = Number>
    + has::FlushK<Given = Number>
{
}

impl OnMatrices for of::MatmulMma {}
impl OnMatrices for of::ConvMma {}

impl Choice {
    /// Adds to a call what its template needs of the choice. An invocation puts `width` neighbours at a time, or one
    /// where that is 0.
    pub(super) fn apply<'n, T: OnMatrices>(self, call: Call<'n, T>, k: &Dim, subgroup: u32, width: u32) -> Call<'n, T> {
        let Choice { variant, operands } = self;
        let shape = operands.shape;
        let whole = k.known().is_some_and(|k| k % i64::from(variant.k * variant.ways) == 0);
        let turns = most(k).div_ceil(u64::from(variant.k * variant.ways));
        let call = call.turns(u32::try_from(turns).ok().filter(|turns| matches!(turns, 1 | 2)).unwrap_or(0));
        let call = call.whole(whole).subgroup(subgroup).variant(Variant::Mma(variant));
        let call = call.frag_m(shape.m).frag_n(shape.n).frag_k(shape.k);
        let puts = operands.puts(variant, subgroup) * u64::from(variant.warp_m / shape.m);
        let call = operands
            .loops(variant, k, subgroup, width)
            .into_iter()
            .fold(call, |call, (entries, times)| call.each(entries, times));
        call.flush_k(operands.flush_k(variant)).puts(puts)
    }

    /// Workgroups for `m` rows and `n` columns.
    pub(super) fn tiles(self, m: &Dim, n: &Dim) -> Dim {
        &m.div_ceil(u64::from(self.variant.m)) * &n.div_ceil(u64::from(self.variant.n))
    }
}

/// The call for a product; `when` is 1 or 0 and says whether it applies.
pub(super) fn call(
    node: &Node<'_>,
    product: &Product,
    columns: &Columns,
    trans_b: bool,
    choice: Choice,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let (k, batch) = (&product.k, product.batch());
    let call = batched(node, node.call(of::MatmulMma), product, columns)?.trans_b(trans_b);
    let width = if columns.are_vectors(product, MOST_WIDTH) { MOST_WIDTH } else { 0 };
    let call = choice.apply(call.vector(width), k, node.target.limits.subgroup_size, width);
    call.workgroups(&(&choice.tiles(&product.m, &columns.n) * &batch) * when)
}

/// What the model knows of the text.
pub(super) fn work(v: Mma, threads: u64, work: Work) -> Work {
    let lanes = (threads / u64::from(v.ways.max(1))).max(1);
    let vectors = (u64::from(v.m * v.k) / 8).div_ceil(lanes) + (u64::from(v.n * v.k) / 8).div_ceil(lanes);
    let registers = (60 + u64::from(v.warp_m * v.warp_n) / 32 + 4 * vectors).min(255);
    Work { registers, step_ns: 517, end_ns: 100, ..work }
}

/// Slabs of a sweep over tiles whose reduction axis several sets of subgroups share.
const SLABS: [u32; 3] = [32, 64, 128];

/// Variants to try, in a fixed order.
pub(super) fn variants() -> Vec<Variant> {
    let new = |m, n, k, warp_m, warp_n, ways| Variant::Mma(Mma { m, n, k, warp_m, warp_n, ways });
    let mut all = vec![
        new(128, 128, 128, 64, 32, 1),
        new(128, 128, 64, 64, 32, 1),
        new(128, 128, 32, 64, 64, 1),
        new(128, 128, 32, 64, 32, 1),
        new(128, 128, 32, 32, 64, 1),
        new(128, 256, 32, 64, 64, 1),
        new(256, 128, 32, 64, 64, 1),
        new(64, 256, 32, 64, 64, 1),
        new(128, 64, 64, 64, 32, 1),
        new(128, 64, 64, 32, 32, 1),
        new(64, 128, 64, 64, 32, 1),
        new(64, 128, 64, 32, 32, 1),
        new(64, 128, 32, 32, 32, 1),
        new(64, 64, 64, 32, 32, 1),
        new(64, 64, 128, 32, 32, 1),
        new(64, 64, 32, 32, 32, 1),
        new(64, 64, 32, 32, 32, 2),
        new(64, 64, 64, 32, 32, 2),
        new(64, 64, 128, 32, 32, 2),
        new(64, 64, 64, 64, 16, 1),
        new(32, 128, 64, 32, 32, 1),
        new(32, 64, 32, 16, 32, 1),
        new(32, 64, 64, 16, 32, 1),
        new(32, 32, 64, 16, 16, 2),
        new(32, 32, 128, 16, 16, 2),
        new(32, 32, 64, 16, 16, 1),
        new(32, 32, 128, 16, 16, 1),
        new(32, 32, 32, 16, 16, 1),
    ];
    for ways in [1, 2, 4, 8] {
        for (m, n, warp_m, warp_n) in [
            (64, 64, 64, 32),
            (64, 64, 32, 64),
            (64, 32, 64, 32),
            (64, 32, 32, 32),
            (32, 64, 32, 64),
            (32, 64, 32, 32),
            (32, 32, 32, 32),
            (32, 32, 16, 32),
            (16, 64, 16, 64),
            (16, 32, 16, 32),
            (16, 16, 16, 16),
        ] {
            all.extend(SLABS.map(|k| new(m, n, k, warp_m, warp_n, ways)));
        }
    }
    // One subgroup a tile, for convolutions of few pixels and products of few rows.
    for (m, n) in [(32, 32), (16, 32), (32, 16), (16, 16)] {
        for ways in [3, 5, 6, 7, 9, 10, 11, 12, 14, 16] {
            all.extend(SLABS[..2].iter().map(|&k| new(m, n, k, m, n, ways)));
        }
    }
    all
}
