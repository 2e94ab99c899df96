//! Matrix products: tiled, of few rows, and in integer arithmetic.

use super::call::{Call, Node, Rows, dims, slices};
use super::gemv;
use super::mma::{self, Bucket};
use super::shape::{at_least, at_most, broadcast, divides, from, merge};
use super::{KernelCall, KernelError};
use crate::ir::packed::{Granularity, Packing};
use crate::ir::{Dim, ValueId, product as product_of};
use crate::kernels::key::Template;
use crate::ops::util::agree;
use crate::program::Stripe;

/// Most rows of a for which reading b once matters more than reading a often.
const MAX_VECTOR_ROWS: i64 = 8;
/// Terms of a product beyond which loops are unrolled and sums are sums of parts (`DEEP_TERMS` of `tile.glsl`).
const DEEP: i64 = 4096;
/// Terms beyond which the sum of parts keeps what it loses (`DEEPER_TERMS`).
const DEEPER: i64 = 65536;
/// Most axes of batches after merging.
const MAX_BATCH_RANK: usize = 4;
/// Most products of 8-bit codes whose sum surely fits in i32: 2^31 / (127 * 128).
pub(super) const MAX_I32_TERMS: i64 = 132_104;

/// Columns of the result that one dispatch computes.
pub(super) struct Columns {
    /// The operand that has them.
    pub(super) b: ValueId,
    /// The first of them.
    base: Dim,
    pub(super) n: Dim,
    /// The rows of the operand, where not all of them are read.
    pub(super) rows: Option<Rows>,
}

impl Columns {
    /// Whether they begin at a multiple of `width` columns of the whole result, and are as many.
    pub(super) fn are_vectors(&self, product: &Product, width: u32) -> bool {
        [&self.base, &self.n, &product.n].iter().all(|size| divides(width, size))
    }
}

/// Sizes of a product, and its batches: size and strides in elements of a and b.
pub(super) struct Product {
    pub(super) m: Dim,
    n: Dim,
    pub(super) k: Dim,
    pub(super) batches: Vec<(Dim, [Dim; 2])>,
}

pub(super) fn matmul(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let ((_, a_ty), (b, b_ty)) = (node.operand(0)?, node.operand(1)?);
    let refuse = || node.unsupported(format!("a matmul of {a_ty} and {b_ty}"));
    let trans_b = node.attrs.int("trans_b").unwrap_or(0) != 0;
    let (a_dims, b_dims) = (dims(a_ty), dims(b_ty));
    let ([a_lead @ .., m, k], [b_lead @ .., b0, b1]) = (a_dims.as_slice(), b_dims.as_slice()) else {
        return Err(refuse());
    };
    let (n, b_k) = if trans_b { (b0, b1) } else { (b1, b0) };
    let n = if node.own.len() > 2 { node.dims.last().cloned().unwrap_or(Dim::Known(0)) } else { n.clone() };
    let float = |ty: &crate::ir::TensorType| ty.packing.is_some() || ty.dtype.is_float();
    if !agree(b_k, k) || !float(a_ty) || !float(b_ty) || (b_ty.packing.is_some() && (!trans_b || b_dims.len() != 2)) {
        return Err(refuse());
    }
    let product = if b_lead.iter().all(|d| *d == Dim::Known(1)) {
        // One b for all: the leading axes of a are more rows.
        Product { m: &product_of(a_lead) * m, n: n.clone(), k: k.clone(), batches: Vec::new() }
    } else {
        let lead = &node.dims[..node.dims.len() - 2];
        let (Some(a_strides), Some(b_strides)) = (broadcast(a_lead, lead), broadcast(b_lead, lead)) else {
            return Err(refuse());
        };
        let (a_matrix, b_matrix) = (m * k, &n * k);
        let axes = lead
            .iter()
            .zip(a_strides)
            .zip(b_strides)
            .map(|((size, a), b)| (size.clone(), [&a * &a_matrix, &b * &b_matrix]));
        Product { m: m.clone(), n: n.clone(), k: k.clone(), batches: merge(axes) }
    };
    if product.batches.len() > MAX_BATCH_RANK {
        return Err(refuse());
    }
    let one = |columns: Columns| match (a_ty.packing, node.graph.ty(columns.b).packing) {
        (None, _) => float_product(node, &product, trans_b, &columns),
        (Some(packing), Some(weights))
            if packing.bits == 8
                && !weights.scale.has_zeros()
                && !matches!(packing.granularity, Granularity::Block(_)) =>
        {
            integer_product(node, &product, trans_b, weights, &columns)
        }
        _ => Err(refuse()),
    };
    if !trans_b || !product.batches.is_empty() {
        return one(Columns { b, base: Dim::Known(0), n, rows: None });
    }
    // Rows of b are columns of the result: its further operands, and slices of large ones, are dispatches of their own.
    let mut calls = Vec::new();
    let mut base = Dim::Known(0);
    let mut n_parts = 0;
    for slot in 1..node.own.len() {
        let (b, ty) = node.operand(slot)?;
        // Alone, it may have leading axes of one.
        let n = if node.own.len() == 2 { n.clone() } else { dims(ty).first().cloned().unwrap_or(Dim::Known(0)) };
        for rows in slices(node, b, &n, k)? {
            let (first, n) = rows.map_or((Dim::Known(0), n.clone()), |rows| (rows.first.into(), rows.n.into()));
            let first = &base + &first;
            let stripe = Stripe { pitch: product.n.clone(), first: first.clone(), width: n.clone() };
            for call in one(Columns { b, base: first, n, rows })? {
                let alternative = call.alternative.map(|_| n_parts);
                calls.push(KernelCall { stripe: Some(stripe.clone()), alternative, ..call });
            }
            n_parts += 1;
        }
        base = &base + &n;
    }
    Ok(calls.into_iter().map(|call| KernelCall { stripe: call.stripe.filter(|_| n_parts > 1), ..call }).collect())
}

/// The calls that compute it: one, or where the number of rows changes between runs those for one row, for few and for
/// many, of which one applies.
fn float_product(
    node: &Node<'_>,
    product: &Product,
    trans_b: bool,
    columns: &Columns,
) -> Result<Vec<KernelCall>, KernelError> {
    let Product { m, k, batches, .. } = product;
    let n = &columns.n;
    let batch = batches.iter().fold(Dim::Known(1), |n, (size, _)| &n * size);
    let fill = |call: Call<'_>, rows: Option<u32>, when: &Dim| -> Result<KernelCall, KernelError> {
        let (a, _) = node.operand(0)?;
        let call =
            sizes(call.operand(a).operand_rows(columns.b, columns.rows), product, columns).uint("batch", batch.clone());
        let call = call.flag("trans_b", trans_b).flag("batch_rank", u32::try_from(batches.len()).unwrap_or(u32::MAX));
        let call =
            call.uints("bd", batches.iter().map(|b| b.0.clone())).uints("ba", batches.iter().map(|b| b.1[0].clone()));
        let call = call.uints("bb", batches.iter().map(|b| b.1[1].clone()));
        if let Some(rows) = rows {
            let (per_group, lanes) = if trans_b { (8, 16) } else { (32, 4) };
            let call = call.flag("rows", rows);
            // Words of packed weights are taken whole, code by code.
            let call = match node.graph.ty(columns.b).packing {
                Some(packing) => {
                    let codes = 32 / u64::from(packing.bits);
                    let words = k.div_ceil(lanes * codes);
                    call.each(1u64, words.clone()).each(words, codes)
                }
                None => call.each(1u64, k.div_ceil(lanes)),
            };
            let puts = (u64::from(rows) * per_group).div_ceil(128);
            return call.each(1u64, puts).puts(puts).groups(&(&n.div_ceil(per_group) * &batch) * when);
        }
        let (tile_m, tile_n, tile_k) = tile(m, n);
        let n_groups = &(&m.div_ceil(u64::from(tile_m)) * &n.div_ceil(u64::from(tile_n))) * &batch;
        tiled(call.half(), k, (tile_m, tile_n, tile_k)).groups(&n_groups * when)
    };
    let few_rows = |rows: u32, when: &Dim| match gemv::choose(node, product, columns, trans_b, rows)? {
        Some((template, variant)) => gemv::call(node, product, columns, (template, variant), rows, when),
        None => fill(node.call(Template::Matvec), Some(rows), when),
    };
    let matrices = |bucket: Bucket, when: &Dim| mma::call(node, product, columns, trans_b, bucket, when);
    let always = Dim::Known(1);
    match m.known() {
        Some(m) if m <= MAX_VECTOR_ROWS => {
            let rows = u32::try_from(m).unwrap_or(u32::MAX).next_power_of_two();
            Ok(vec![few_rows(rows, &always)?])
        }
        Some(m) => match matrices(Bucket::of(m), &always)? {
            Some(call) => Ok(vec![call]),
            None => Ok(vec![fill(node.call(Template::Matmul), None, &always)?]),
        },
        None => {
            let few = &from(m, 2) * &at_most(m, MAX_VECTOR_ROWS);
            let most = u32::try_from(MAX_VECTOR_ROWS).unwrap_or(u32::MAX);
            let mut calls = vec![few_rows(1, &at_most(m, 1))?, few_rows(most, &few)?];
            let cases = Bucket::cases(m, MAX_VECTOR_ROWS).into_iter().map(|(bucket, when)| matrices(bucket, &when));
            match cases.collect::<Result<Option<Vec<_>>, _>>()? {
                Some(cases) => calls.extend(cases),
                None => calls.push(fill(node.call(Template::Matmul), None, &from(m, MAX_VECTOR_ROWS + 1))?),
            }
            Ok(calls.into_iter().map(|call| KernelCall { alternative: Some(0), ..call }).collect())
        }
    }
}

fn integer_product(
    node: &Node<'_>,
    product: &Product,
    trans_b: bool,
    weights: Packing,
    columns: &Columns,
) -> Result<Vec<KernelCall>, KernelError> {
    let Product { m, k, .. } = product;
    let n = &columns.n;
    let (a, a_ty) = node.operand(0)?;
    let b_ty = node.graph.ty(columns.b);
    let (block, tile_k) = block(weights);
    if k.most().is_none_or(|k| k.min(i64::from(block)) > MAX_I32_TERMS) {
        return Err(node.unsupported(format!("an integer product of {a_ty} and {b_ty}, whose sums may not fit in i32")));
    }
    let matrices = |bucket: Bucket, when: &Dim| mma::call(node, product, columns, trans_b, bucket, when);
    let cases = match m.known() {
        Some(m) => vec![(Bucket::of(m), Dim::Known(1))],
        None => Bucket::cases(m, 0),
    };
    let calls = cases.into_iter().map(|(bucket, when)| matrices(bucket, &when));
    if let Some(calls) = calls.collect::<Result<Option<Vec<_>>, _>>()? {
        let alternative = (calls.len() > 1).then_some(0);
        return Ok(calls.into_iter().map(|call| KernelCall { alternative, ..call }).collect());
    }
    let call = sizes(node.call(Template::MatmulI8).operand(a).operand_rows(columns.b, columns.rows), product, columns);
    let (tile_m, tile_n, _) = tile(m, n);
    let n_groups = &m.div_ceil(u64::from(tile_m)) * &n.div_ceil(u64::from(tile_n));
    Ok(vec![tiled(call.uint("block", u64::from(block)), k, (tile_m, tile_n, tile_k)).groups(n_groups)?])
}

/// A call of a kernel that computes tiles of a product of depth `k`, with its loops.
pub(super) fn tiled<'n>(call: Call<'n>, k: &Dim, (tile_m, tile_n, tile_k): (u32, u32, u32)) -> Call<'n> {
    let slabs = k.div_ceil(u64::from(tile_k));
    // Of fewer terms the sum is the same either way, so it depends on a size and not on its range.
    let exceeds = |terms: i64| k.most().is_none_or(|k| k > terms);
    let deep = exceeds(DEEP);
    let level = u32::from(deep) + u32::from(exceeds(DEEPER) && !call.is_integer_product());
    let call = call.tile(tile_m, tile_n, tile_k).flag("deep", level).each(1u64, slabs.clone());
    let call = if deep {
        // Eight terms a turn.
        call.each(slabs, u64::from(tile_k / 8))
    } else {
        let steps = if call.is_integer_product() { tile_k / 4 } else { tile_k };
        let load = |side: u32| u64::from(side * steps / 128);
        let call = call.each(slabs.clone(), load(tile_m)).each(slabs.clone(), load(tile_n));
        call.each(slabs, u64::from(steps))
    };
    let (rows, columns) = (u64::from(tile_m / 8), u64::from(tile_n / 16));
    call.each(1u64, rows).each(rows, columns).puts(rows * columns)
}

pub(super) fn sizes<'n>(call: Call<'n>, product: &Product, columns: &Columns) -> Call<'n> {
    let call = call.uint("m", product.m.clone()).uint("n", columns.n.clone()).uint("k", product.k.clone());
    call.uint("n_base", columns.base.clone()).uint("n_total", product.n.clone())
}

/// The tile of a product of `m` rows and `n` columns.
pub(super) fn tile(m: &Dim, n: &Dim) -> (u32, u32, u32) {
    if at_least(m, 64) && at_least(n, 64) { (64, 64, 16) } else { (32, 32, 32) }
}

/// How many codes share a scale (2^30 where all of a row do), and how many of them a tile holds at a time.
pub(super) fn block(weights: Packing) -> (u32, u32) {
    match weights.granularity {
        Granularity::Block(block) => (block, block.min(32)),
        Granularity::Row | Granularity::Tensor => (1 << 30, 32),
    }
}
