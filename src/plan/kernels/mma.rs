//! Products of many rows on cooperative matrices: which variant, and its call. Where the target or the form of the operands does not suit them, `matmul`
//! computes the product on any device.

use super::call::Node;
use super::matmul::{Columns, Product, sizes};
use super::{KernelCall, KernelError, storage};
use crate::ir::packed::Granularity;
use crate::ir::{Activations, Dim};
use crate::ops::kernel_key::{Storage, Template};
use crate::ops::variant::{Mma, Variant};
use crate::target::{MatrixShape, MatrixTypes, Target};

/// Rows up to which a product is divided for few rows.
pub(super) const FEW_ROWS: i64 = 64;
/// Workgroups that keep a large device busy: fewer leave parts of it idle.
const MANY_GROUPS: u64 = 128;

/// How a product is computed.
#[derive(Clone, Copy)]
pub(super) struct Choice {
    variant: Mma,
    shape: MatrixShape,
}

/// The variant for a product whose rows are at most [`FEW_ROWS`], or more; `None` where `matmul` computes it. Variants for the same case add up in
/// the same order, whatever the number of rows is, so that a program for any number of rows gives the bits of that for one number.
pub(super) fn choose(
    node: &Node<'_>,
    product: &Product,
    columns: &Columns,
    trans_b: bool,
    few: bool,
) -> Result<Option<Choice>, KernelError> {
    let (_, a) = node.operand(0)?;
    let (Some(Storage::F16), Some(b), Some(k)) = (storage(a), storage(node.graph.ty(columns.b)), product.k.known())
    else {
        return Ok(None);
    };
    let Some(shape) = node.target.features.matrix_shape(MatrixTypes::F16) else { return Ok(None) };
    let suits = match b {
        // Vectors of 16 bytes: of b as of a, whose rows they begin.
        Storage::F16 if trans_b => k % 8 == 0,
        Storage::F16 => k % 8 == 0 && columns.n.known().is_some_and(|n| n % 8 == 0),
        // Weights are rounded to f16, so the format asks for it, or there is none.
        Storage::Packed(packing) => {
            !matches!(packing.granularity, Granularity::Block(..32))
                && k % 32 == 0
                && node.activations.is_none_or(|a| a == Activations::F16)
        }
        _ => false,
    };
    let needs = Template::MatmulMma.table().needs;
    if !suits || !needs.iter().all(|name| node.target.features.named(name) == Some(true)) {
        return Ok(None);
    }
    let fits = |variant: &Mma| fits(*variant, shape, trans_b, b, node.target);
    let variant = match node.variant {
        Some(Variant::Mma(variant)) => Some(variant).filter(fits),
        _ => preferred(product, columns, k, few).into_iter().find(fits),
    };
    Ok(variant.map(|variant| Choice { variant, shape }))
}

/// Variants, the best first. All of one case have the same `k` and `ways`, which sums depend on.
fn preferred(product: &Product, columns: &Columns, k: i64, few: bool) -> Vec<Mma> {
    let of = |m, n, k, warp_m, warp_n, ways| Mma { m, n, k, warp_m, warp_n, ways };
    if few {
        return if k < 256 {
            vec![of(32, 32, 32, 16, 16, 1), of(16, 16, 32, 16, 16, 1)]
        } else {
            vec![of(32, 64, 32, 32, 32, 4), of(32, 32, 32, 16, 16, 4), of(16, 16, 32, 16, 16, 4)]
        };
    }
    // The largest tile of which there are enough; of sizes that change, the largest counts.
    let batch = product.batches.iter().fold(1, |n: u64, (size, _)| n.saturating_mul(most(size)));
    let groups = |v: &Mma| {
        let tiles = |size: &Dim, tile: u32| most(size).div_ceil(u64::from(tile));
        batch.saturating_mul(tiles(&product.m, v.m)).saturating_mul(tiles(&columns.n, v.n))
    };
    let all = [
        of(128, 128, 64, 64, 32, 1),
        of(64, 128, 64, 32, 32, 1),
        of(64, 64, 64, 32, 32, 1),
        of(32, 64, 64, 16, 32, 1),
        of(32, 32, 64, 16, 16, 1),
    ];
    let enough = all.iter().position(|v| groups(v) >= MANY_GROUPS).unwrap_or(all.len() - 1);
    all[enough..].to_vec()
}

fn most(size: &Dim) -> u64 {
    size.most().map_or(u64::MAX, |n| u64::try_from(n).unwrap_or(0))
}

/// Whether a target has what a variant needs, and the variant is made of whole matrices.
pub(super) fn fits(v: Mma, shape: MatrixShape, trans_b: bool, b: Storage, target: &Target) -> bool {
    let limits = &target.limits;
    let threads = Variant::Mma(v).threads(limits.subgroup_size);
    let vectors = if matches!(b, Storage::Packed(packing) if packing.bits == 4) { 32 } else { 16 };
    v.warp_m.is_multiple_of(shape.m)
        && matches!(v.warp_m / shape.m, 1 | 2 | 4 | 8)
        && v.warp_n.is_multiple_of(shape.n)
        && v.k.is_multiple_of(shape.k.max(vectors))
        && matches!(limits.subgroup_size, 4 | 8 | 16 | 32 | 64)
        && threads <= limits.max_compute_work_group_invocations.min(limits.max_compute_work_group_size[0])
        && v.shared_bytes(trans_b, shape.m) <= limits.max_compute_shared_memory_size
}

/// The call of the chosen variant.
pub(super) fn call(
    node: &Node<'_>,
    product: &Product,
    columns: &Columns,
    trans_b: bool,
    Choice { variant, shape }: Choice,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let (a, _) = node.operand(0)?;
    let Product { m, k, batches, .. } = product;
    let batch = batches.iter().fold(Dim::Known(1), |n, (size, _)| &n * size);
    let call = node.call(Template::MatmulMma).operand(a).operand_rows(columns.b, columns.rows);
    let call = sizes(call, product, columns).uint("batch", batch.clone()).flag("trans_b", trans_b);
    let call = call.flag("batch_rank", u32::try_from(batches.len()).unwrap_or(u32::MAX));
    let call =
        call.uints("bd", batches.iter().map(|b| b.0.clone())).uints("ba", batches.iter().map(|b| b.1[0].clone()));
    let call = call.uints("bb", batches.iter().map(|b| b.1[1].clone()));
    let subgroup = node.target.limits.subgroup_size;
    let whole = k.known().is_some_and(|k| k % i64::from(variant.k * variant.ways) == 0);
    let call = call.flag("whole", whole).flag("subgroup", subgroup).variant(Variant::Mma(variant));
    let call = call.flag("frag_m", shape.m).flag("frag_n", shape.n).flag("frag_k", shape.k);
    // Loops as the text has them; the others are unrolled.
    let slabs = k.div_ceil(u64::from(variant.k * variant.ways));
    let rows = u64::from(variant.warp_m / shape.m);
    let puts = u64::from((shape.m * variant.warp_n).div_ceil(subgroup * variant.ways));
    let call = call.each(1u64, slabs).each(rows, puts).puts(rows * puts);
    let tiles = &m.div_ceil(u64::from(variant.m)) * &columns.n.div_ceil(u64::from(variant.n));
    call.groups(&(&tiles * &batch) * when)
}

/// Variants to try, in a fixed order.
pub(super) fn variants() -> Vec<Variant> {
    let of = |m, n, k, warp_m, warp_n, ways| Variant::Mma(Mma { m, n, k, warp_m, warp_n, ways });
    let mut all = vec![
        of(128, 128, 64, 64, 32, 1),
        of(128, 128, 32, 64, 64, 1),
        of(128, 128, 32, 64, 32, 1),
        of(128, 256, 32, 64, 64, 1),
        of(256, 128, 32, 64, 64, 1),
        of(64, 256, 32, 64, 64, 1),
        of(128, 64, 64, 64, 32, 1),
        of(128, 64, 64, 32, 32, 1),
        of(64, 128, 64, 64, 32, 1),
        of(64, 128, 64, 32, 32, 1),
        of(64, 64, 64, 32, 32, 1),
        of(64, 64, 128, 32, 32, 1),
        of(64, 64, 64, 64, 16, 1),
        of(32, 128, 64, 32, 32, 1),
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
            all.extend([32, 64, 128].map(|k| of(m, n, k, warp_m, warp_n, ways)));
        }
    }
    all
}
