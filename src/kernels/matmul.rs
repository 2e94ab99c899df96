//! Matrix products: tiled, of few rows, and in integer arithmetic.

use super::buckets::{BUCKETS, Bucket};
use super::call::{Node, Rows, dims, slices};
use super::choice::{Way, choose};
use super::products::{MAX_VECTOR_ROWS, Ways};
use super::settings::{Call, Uint, Uints, has, of};
use super::shape::{at_least, broadcast, divides, merge};
use super::{KernelCall, KernelError, gemv, mma, thin};
use crate::ir::packed::{Coding, Granularity, Packing};
use crate::ir::{Dim, ValueId, product as product_of};
use crate::kernels::key::constants;
use crate::kernels::variant::Variant;
use crate::ops::util::agree;
use crate::program::ResultSlice;

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

impl Product {
    /// How many there are.
    pub(super) fn batch(&self) -> Dim {
        self.batches.iter().fold(Dim::Known(1), |n, (size, _)| &n * size)
    }
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
            if packing.coding == Coding::I8
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
            let result_slice = ResultSlice { pitch: product.n.clone(), first: first.clone(), width: n.clone() };
            for call in one(Columns { b, base: first, n, rows })? {
                let alternative = call.alternative.map(|_| n_parts);
                calls.push(KernelCall { result_slice: Some(result_slice.clone()), alternative, ..call });
            }
            n_parts += 1;
        }
        base = &base + &n;
    }
    Ok(calls
        .into_iter()
        .map(|call| KernelCall { result_slice: call.result_slice.filter(|_| n_parts > 1), ..call })
        .collect())
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
            Way::Variant(Variant::Attention(_)) => return Err(lost()),
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

/// For `rows` rows at most, on any device.
fn matvec(
    node: &Node<'_>,
    product: &Product,
    trans_b: bool,
    columns: &Columns,
    rows: u32,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let lanes = u64::from(if trans_b { constants::MATVEC_LANES_OF_ROWS } else { constants::MATVEC_LANES_OF_COLUMNS });
    let (k, per_group) = (&product.k, u64::from(constants::INVOCATIONS) / lanes);
    let call = batched(node, node.call(of::Matvec), product, columns)?.trans_b(trans_b).rows(rows);
    // Words of packed weights are taken whole, code by code.
    let call = match node.graph.ty(columns.b).packing {
        Some(packing) => {
            let codes = 32 / u64::from(packing.coding.row_bits());
            let words = k.div_ceil(lanes * codes);
            call.each(1u64, words.clone()).each(words, codes)
        }
        None => call.each(1u64, k.div_ceil(lanes)),
    };
    let puts = (u64::from(rows) * per_group).div_ceil(u64::from(constants::INVOCATIONS));
    let n_groups = &columns.n.div_ceil(per_group) * &product.batch();
    call.each(1u64, puts).puts(puts).workgroups(&n_groups * when)
}

/// For any number of rows, on any device.
fn float_product(
    node: &Node<'_>,
    product: &Product,
    trans_b: bool,
    columns: &Columns,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let (m, n, k) = (&product.m, &columns.n, &product.k);
    let (tile_m, tile_n, tile_k) = tile(m, n);
    let n_groups = &(&m.div_ceil(u64::from(tile_m)) * &n.div_ceil(u64::from(tile_n))) * &product.batch();
    let call = batched(node, node.call(of::Matmul), product, columns)?.trans_b(trans_b).half();
    tiled(call, k, (tile_m, tile_n, tile_k)).deep(deep(k)).workgroups(&n_groups * when)
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
    let (block, tile_k) = block(weights);
    let call = sized(node, node.call(of::MatmulI8), product, columns)?;
    let (tile_m, tile_n, _) = tile(m, &columns.n);
    let n_groups = &m.div_ceil(u64::from(tile_m)) * &columns.n.div_ceil(u64::from(tile_n));
    let call = tiled(call.block(u64::from(block)), k, (tile_m, tile_n, tile_k)).deep(deep(k) > 0);
    call.workgroups(&n_groups * when)
}

/// How sums of `k` terms are parts: 0 in one, 1 in parts, 2 with what these lose.
pub(super) fn deep(k: &Dim) -> u32 {
    // Of fewer terms the sum is the same either way, so it depends on a size and not on its range.
    let exceeds = |terms: u32| k.most().is_none_or(|k| k > i64::from(terms));
    u32::from(exceeds(constants::DEEP_TERMS)) + u32::from(exceeds(constants::DEEPER_TERMS))
}

/// A call of a kernel that computes tiles of a product of depth `k`, with its loops.
pub(super) fn tiled<'n, T: has::Deep>(
    call: Call<'n, T>,
    k: &Dim,
    (tile_m, tile_n, tile_k): (u32, u32, u32),
) -> Call<'n, T> {
    let slabs = k.div_ceil(u64::from(tile_k));
    let call = call.tile(tile_m, tile_n, tile_k).each(1u64, slabs.clone());
    let call = if deep(k) > 0 {
        call.each(slabs, u64::from(tile_k / constants::DEEP_TURN))
    } else {
        // A word of codes is a step.
        let steps = if T::TEMPLATE.multiplies_codes() { tile_k / 4 } else { tile_k };
        let load = |side: u32| u64::from(side * steps / constants::INVOCATIONS);
        let call = call.each(slabs.clone(), load(tile_m)).each(slabs.clone(), load(tile_n));
        call.each(slabs, u64::from(steps))
    };
    let (rows, columns) = (u64::from(tile_m / constants::TILE_ROWS), u64::from(tile_n / constants::TILE_COLUMNS));
    call.each(1u64, rows).each(rows, columns).puts(rows * columns)
}

/// A template of products.
pub(super) trait OfProduct:
    has::M<Given = Uint>
    + has::N<Given = Uint>
    + has::K<Given = Uint>
    + has::NBase<Given = Uint>
    + has::NTotal<Given = Uint>
{
}

impl<T> OfProduct for T where
    T: has::M<Given = Uint>
        + has::N<Given = Uint>
        + has::K<Given = Uint>
        + has::NBase<Given = Uint>
        + has::NTotal<Given = Uint>
{
}

/// A call with its operands and the sizes of the product.
pub(super) fn sized<'n, T: OfProduct>(
    node: &Node<'_>,
    call: Call<'n, T>,
    product: &Product,
    columns: &Columns,
) -> Result<Call<'n, T>, KernelError> {
    let (a, _) = node.operand(0)?;
    let call = call.operand(a).operand_rows(columns.b, columns.rows);
    let call = call.m(product.m.clone()).n(columns.n.clone()).k(product.k.clone());
    Ok(call.n_base(columns.base.clone()).n_total(product.n.clone()))
}

/// The same of a template with batches.
pub(super) fn batched<'n, T>(
    node: &Node<'_>,
    call: Call<'n, T>,
    product: &Product,
    columns: &Columns,
) -> Result<Call<'n, T>, KernelError>
where
    T: OfProduct + has::Batch<Given = Uint> + has::Bd<Given = Uints> + has::Ba<Given = Uints> + has::Bb<Given = Uints>,
{
    let call = sized(node, call, product, columns)?.batch(product.batch());
    let strides = |operand: usize| product.batches.iter().map(move |(_, strides)| strides[operand].clone());
    Ok(call.bd(product.batches.iter().map(|(size, _)| size.clone())).ba(strides(0)).bb(strides(1)))
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
