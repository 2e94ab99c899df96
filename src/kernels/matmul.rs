//! Matrix products: tiled, of few rows, and in integer arithmetic.

use super::buckets::{BUCKETS, Bucket};
use super::call::{Call, Node, Rows, dims, slices};
use super::choice::{Way, choose};
use super::products::{MAX_VECTOR_ROWS, Ways};
use super::shape::{at_least, broadcast, merge};
use super::{KernelCall, KernelError, gemv, mma, thin};
use crate::ir::packed::{Granularity, Packing};
use crate::ir::{Dim, ValueId, product as product_of};
use crate::kernels::key::Template;
use crate::kernels::variant::Variant;
use crate::ops::util::agree;
use crate::program::Stripe;

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
        (None, _) => calls_of(node, &product, trans_b, &columns, None),
        (Some(packing), Some(weights))
            if packing.bits == 8
                && !weights.scale.has_zeros()
                && !matches!(packing.granularity, Granularity::Block(_)) =>
        {
            let terms = i64::from(block(weights).0);
            if k.most().is_none_or(|k| k.min(terms) > MAX_I32_TERMS) {
                let b_ty = node.graph.ty(columns.b);
                let what = format!("an integer product of {a_ty} and {b_ty}, whose sums may not fit in i32");
                return Err(node.unsupported(what));
            }
            calls_of(node, &product, trans_b, &columns, Some(weights))
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

/// The calls that compute it: one, or where the number of rows changes between runs one for each run of buckets that
/// are computed alike, of which one applies.
fn calls_of(
    node: &Node<'_>,
    product: &Product,
    trans_b: bool,
    columns: &Columns,
    integer: Option<Packing>,
) -> Result<Vec<KernelCall>, KernelError> {
    let m = &product.m;
    let buckets = m.known().map_or(BUCKETS.to_vec(), |m| vec![Bucket::of(m)]);
    let mut cases: Vec<(Bucket, Way)> = Vec::new();
    for bucket in buckets {
        let ways = Ways::of(node, product, columns, trans_b, bucket);
        let way = ways.map_or(Way::Plain, |ways| choose(node, &ways));
        // Kernels for few rows are one for one row, and another for several.
        let depends_on_rows = integer.is_none() && matches!(way, Way::Plain | Way::Variant(Variant::Gemv(_)));
        let is_other = depends_on_rows && (bucket.least == 2 || bucket.least == MAX_VECTOR_ROWS + 1);
        match cases.last_mut() {
            Some((last, as_well)) if *as_well == way && !is_other => last.most = bucket.most,
            _ => cases.push((bucket, way)),
        }
    }
    let mut calls = Vec::new();
    for (bucket, way) in cases {
        let when = if m.known().is_some() { Dim::Known(1) } else { bucket.has(m) };
        if when.most() == Some(0) {
            continue;
        }
        let rows = u64::try_from(m.known().unwrap_or(bucket.most).clamp(1, MAX_VECTOR_ROWS)).unwrap_or(1);
        let rows = rows.next_power_of_two() as u32;
        let ways = Ways::of(node, product, columns, trans_b, bucket);
        let lost = || node.unsupported(format!("the variant {way}"));
        calls.push(match way {
            Way::Variant(Variant::Gemv(variant)) => {
                let template = ways.and_then(|ways| ways.few()).ok_or_else(lost)?;
                gemv::call(node, product, columns, (template, variant), rows, &when)?
            }
            Way::Variant(Variant::Mma(variant)) => {
                let operands = ways.and_then(|ways| ways.matrices()).ok_or_else(lost)?;
                mma::call(node, product, columns, trans_b, operands.by(variant), &when)?
            }
            Way::Variant(Variant::Thin(variant)) => thin::call(node, product, columns, variant, &when)?,
            Way::Plain => match integer {
                Some(weights) => integer_product(node, product, weights, columns, &when)?,
                None if bucket.most <= MAX_VECTOR_ROWS => matvec(node, product, trans_b, columns, rows, &when)?,
                None => float_product(node, product, trans_b, columns, &when)?,
            },
        });
    }
    let alternative = (calls.len() > 1).then_some(0);
    Ok(calls.into_iter().map(|call| KernelCall { alternative, ..call }).collect())
}

/// A call of a kernel for floats of any kind, its batches given.
fn of_floats<'n>(
    node: &'n Node<'n>,
    template: Template,
    product: &Product,
    trans_b: bool,
    columns: &Columns,
) -> Result<(Call<'n>, Dim), KernelError> {
    let (a, _) = node.operand(0)?;
    let batches = &product.batches;
    let batch = batches.iter().fold(Dim::Known(1), |n, (size, _)| &n * size);
    let call = node.call(template).operand(a).operand_rows(columns.b, columns.rows);
    let call = sizes(call, product, columns).uint("batch", batch.clone());
    let call = call.flag("trans_b", trans_b).flag("batch_rank", u32::try_from(batches.len()).unwrap_or(u32::MAX));
    let call =
        call.uints("bd", batches.iter().map(|b| b.0.clone())).uints("ba", batches.iter().map(|b| b.1[0].clone()));
    Ok((call.uints("bb", batches.iter().map(|b| b.1[1].clone())), batch))
}

/// For `rows` rows at most, on any device.
fn matvec(
    node: &Node<'_>,
    product: &Product,
    trans_b: bool,
    columns: &Columns,
    rows: u32,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let (call, batch) = of_floats(node, Template::Matvec, product, trans_b, columns)?;
    let (per_group, lanes) = if trans_b { (8, 16) } else { (32, 4) };
    let (k, call) = (&product.k, call.flag("rows", rows));
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
    call.each(1u64, puts).puts(puts).groups(&(&columns.n.div_ceil(per_group) * &batch) * when)
}

/// For any number of rows, on any device.
fn float_product(
    node: &Node<'_>,
    product: &Product,
    trans_b: bool,
    columns: &Columns,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let (call, batch) = of_floats(node, Template::Matmul, product, trans_b, columns)?;
    let (m, n) = (&product.m, &columns.n);
    let (tile_m, tile_n, tile_k) = tile(m, n);
    let n_groups = &(&m.div_ceil(u64::from(tile_m)) * &n.div_ceil(u64::from(tile_n))) * &batch;
    tiled(call.half(), &product.k, (tile_m, tile_n, tile_k)).groups(&n_groups * when)
}

/// Of codes, on any device.
fn integer_product(
    node: &Node<'_>,
    product: &Product,
    weights: Packing,
    columns: &Columns,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let Product { m, k, .. } = product;
    let (a, _) = node.operand(0)?;
    let (block, tile_k) = block(weights);
    let call = sizes(node.call(Template::MatmulI8).operand(a).operand_rows(columns.b, columns.rows), product, columns);
    let (tile_m, tile_n, _) = tile(m, &columns.n);
    let n_groups = &m.div_ceil(u64::from(tile_m)) * &columns.n.div_ceil(u64::from(tile_n));
    tiled(call.uint("block", u64::from(block)), k, (tile_m, tile_n, tile_k)).groups(&n_groups * when)
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
