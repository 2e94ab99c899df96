//! Attention: kernels for many queries and for few, and what joins the parts of these.

use super::call::Node;
use super::settings::{Call, Float, Int, Switch, Uint, has, of};
use super::shape::{at_most, broadcast, from};
use super::{KernelCall, KernelError, storage};
use crate::ir::{Dim, TensorType, product};
use crate::kernels::key::{Storage, Template, constants};
use crate::ops::core::dot_product_attention::{FEW, LENGTHS, MASK, PARTS_SLOT, Sizes, offset};
use crate::targets::{MatrixTypes, Target};

/// Keys of a part, a thread each (`attention_few.comp`).
pub const CHUNK: i64 = constants::INVOCATIONS as i64;
/// The largest head (`attention_few.comp`, `attention.comp`).
const MAX_HEAD: i64 = 256;
/// Queries and keys of a tile (`attention.comp`).
const TILE: (u64, u64) = (32, 64);
/// Elements of a head that shared memory holds at a time (`attention.comp`).
const SLAB: u64 = 16;
/// Keys of a block on cooperative matrices (`attention_mma.comp`), and the largest head whose sums stay in registers
/// there.
const MATRIX_KEYS: u64 = 32;
const MAX_MATRIX_HEAD: u64 = 128;
/// Shared memory of a workgroup up to which a GPU has two at a time.
const ROOMY_BYTES: u64 = 20 << 10;
/// More keys or queries than an attention has: a window that ends nowhere.
const FAR: i64 = (1 << 30) - 1;

/// How an attention is divided on cooperative matrices.
struct Matrices {
    /// Of what a subgroup multiplies.
    side: u64,
    /// Invocations that have a row of it.
    share: u64,
    /// Blocks of 16 elements of a head.
    head16: u64,
    /// 1 where k and v of a block lie in shared memory at the same time.
    both: u64,
    /// Queries of a workgroup.
    rows: u64,
}

/// An attention and what its kernels need to know.
struct Attention<'n> {
    node: &'n Node<'n>,
    sizes: Sizes,
    head: u64,
    v_head: u64,
    /// Heads that share one of k and v.
    repeats: i64,
}

/// A template of attention that reads q, k and v.
trait OfAttention:
    has::Batch<Given = Uint>
    + has::Heads<Given = Uint>
    + has::Repeats<Given = Uint>
    + has::Queries<Given = Uint>
    + has::Keys<Given = Uint>
    + has::Head<Given = Uint>
    + has::VHead<Given = Uint>
    + has::QB<Given = Uint>
    + has::QH<Given = Uint>
    + has::QR<Given = Uint>
    + has::KB<Given = Uint>
    + has::KH<Given = Uint>
    + has::KR<Given = Uint>
    + has::VB<Given = Uint>
    + has::VH<Given = Uint>
    + has::VR<Given = Uint>
    + has::YB<Given = Uint>
    + has::YH<Given = Uint>
    + has::YR<Given = Uint>
    + has::MaskB<Given = Uint>
    + has::MaskH<Given = Uint>
    + has::MaskR<Given = Uint>
    + has::MaskK<Given = Uint>
    + has::Offset<Given = Int>
    + has::Left<Given = Int>
    + has::Right<Given = Int>
    + has::Scale<Given = Float>
    + has::Softcap<Given = Float>
    + has::ZeroMasked<Given = Uint>
    + has::Vec<Given = Switch>
{
}

impl OfAttention for of::Attention {}
impl OfAttention for of::AttentionFew {}
impl OfAttention for of::AttentionMma {}

impl<'n> Attention<'n> {
    fn of(node: &'n Node<'n>) -> Result<Attention<'n>, KernelError> {
        let types: Vec<Option<&TensorType>> = node.own.iter().map(|v| v.map(|v| node.graph.ty(v))).collect();
        let sizes = Sizes::of(node.attrs, &types).map_err(|e| node.unsupported(e.to_string()))?;
        let of_head = |size: &Dim| size.known().filter(|n| (1..=MAX_HEAD).contains(n)).map(i64::unsigned_abs);
        let (Some(head), Some(v_head)) = (of_head(&sizes.head), of_head(&sizes.v_head)) else {
            let sizes = format!("heads of {} and {} elements, at most {MAX_HEAD}", sizes.head, sizes.v_head);
            return Err(node.unsupported(format!("an attention with {sizes}")));
        };
        let Some(repeats) = sizes.repeats.known() else {
            return Err(node.unsupported(format!("an attention with {} heads for one of k", sizes.repeats)));
        };
        let is_near = |dim: &Dim| dim.most().is_some_and(|n| n < FAR);
        if !is_near(&sizes.keys) || !is_near(&sizes.queries) || !is_near(&offset(node.attrs)) {
            return Err(node.unsupported(format!("an attention of {} with more than {FAR} places", sizes.scores())));
        }
        Ok(Attention { node, sizes, head, v_head, repeats })
    }

    /// A call of one of the kernels that read q, k and v.
    fn call<T: OfAttention>(&self, template: T) -> Result<Call<'n, T>, KernelError> {
        let (node, sizes) = (self.node, &self.sizes);
        let (q, k, v) = (node.operand(0)?.0, node.operand(1)?.0, node.operand(2)?.0);
        let optional = |slot: usize| node.own.get(slot).copied().flatten();
        let call = node.call(template).operand(q).operand(k).operand(v).optional(optional(MASK));
        let call = call.optional(optional(LENGTHS));
        let mut mask = [0, 0, 0, 0].map(Dim::Known);
        if let Some(ty) = optional(MASK).map(|v| node.graph.ty(v)) {
            let strides = broadcast(&ty.shape.0, &sizes.scores().0);
            let strides = strides.and_then(|strides| strides.try_into().ok());
            mask = strides.ok_or_else(|| node.unsupported(format!("a mask {ty} for {}", sizes.scores())))?;
        }
        let [mask_b, mask_h, mask_r, mask_k] = mask;
        let call = call.mask_b(mask_b).mask_h(mask_h).mask_r(mask_r).mask_k(mask_k);
        let [b, h, r] = sizes.strides(0);
        let call = call.q_b(b).q_h(h).q_r(r);
        let [b, h, r] = sizes.strides(1);
        let call = call.k_b(b).k_h(h).k_r(r);
        let [b, h, r] = sizes.strides(2);
        let call = call.v_b(b).v_h(h).v_r(r);
        let [b, h, r] = sizes.strides(3);
        let call = call.y_b(b).y_h(h).y_r(r);
        let window = |name: &str| Dim::Known(node.attrs.int(name).map_or(FAR, |n| n.min(FAR)));
        let call = call
            .batch(sizes.batch.clone())
            .heads(sizes.heads.clone())
            .repeats(sizes.repeats.clone())
            .queries(sizes.queries.clone())
            .keys(sizes.keys.clone())
            .head(self.head)
            .v_head(self.v_head)
            .offset(offset(node.attrs))
            .left(window("left"))
            .right(window("right"))
            .scale(node.attrs.float("scale").unwrap_or(1.0))
            .softcap(node.attrs.float("softcap").unwrap_or(0.0))
            .zero_masked(u64::from(node.attrs.int("zero_masked").unwrap_or(0) != 0));
        Ok(call.vec(self.is_aligned()))
    }

    /// Whether every row begins at a vector, which has 8 elements of f16.
    fn is_aligned(&self) -> bool {
        self.head.is_multiple_of(8) && self.v_head.is_multiple_of(8)
    }

    /// What a subgroup multiplies and how many of its invocations have a row of that, where q, k and v are f16 and the
    /// target has what the kernel on cooperative matrices needs.
    fn matrices(&self) -> Option<Matrices> {
        let Target { limits, features, .. } = self.node.target;
        let is_f16 = |slot: usize| self.node.operand(slot).is_ok_and(|(_, ty)| storage(ty) == Some(Storage::F16));
        let needs = Template::AttentionMma.table().needs;
        let has_all = needs.iter().all(|name| features.named(name) == Some(true));
        let size = self.head.max(self.v_head);
        if !has_all || !(0..3).all(is_f16) || !self.is_aligned() || size > MAX_MATRIX_HEAD {
            return None;
        }
        let shape = features.matrix_shape(MatrixTypes::F16)?;
        let side = u64::from(shape.m);
        let share = u64::from(limits.subgroup_size) / side;
        let fits = shape.m == shape.n && shape.m == shape.k && [8, 16].contains(&side) && [1, 2, 4].contains(&share);
        if !fits || u64::from(limits.subgroup_size) != share * side {
            return None;
        }
        let head16 = [1, 2, 4, 6, 8].into_iter().find(|blocks| 16 * blocks >= size)?;
        // As the text declares them: lines of a vector more than the head has, of queries, and of keys beside scores of
        // a block.
        let (line, rows) = (2 * head16 + 1, u64::from(constants::INVOCATIONS) / share);
        let bytes = |both: u64| {
            let vectors = (rows * line).max((1 + both) * MATRIX_KEYS * line + rows * (MATRIX_KEYS / 4 + 1));
            16 * vectors + 4 * (u64::from(constants::INVOCATIONS) + rows)
        };
        let both = u64::from(bytes(1) <= ROOMY_BYTES);
        let matrices = Matrices { side, share, head16, both, rows };
        (bytes(both) <= u64::from(limits.max_compute_shared_memory_size)).then_some(matrices)
    }

    /// Strips of queries on cooperative matrices.
    fn strips(&self, matrices: &Matrices, when: &Dim) -> Result<KernelCall, KernelError> {
        let Sizes { batch, heads, queries, keys, .. } = &self.sizes;
        let Matrices { side, share, head16, both, rows } = *matrices;
        let flag = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let call = self.call(of::AttentionMma)?.side(flag(side)).share(flag(share));
        let call = call.head16(flag(head16)).both(both == 1);
        let call = call.each(1u64, &keys.div_ceil(MATRIX_KEYS) + &Dim::Known(1)).puts(16 * head16 / share);
        call.workgroups(&product(&[queries.div_ceil(rows), batch.clone(), heads.clone()]) * when)
    }

    /// Tiles of queries, or strips.
    fn many(&self, when: &Dim) -> Result<KernelCall, KernelError> {
        if let Some(matrices) = self.matrices() {
            return self.strips(&matrices, when);
        }
        let Sizes { batch, heads, queries, keys, .. } = &self.sizes;
        let blocks = &keys.div_ceil(TILE.1) + &Dim::Known(1);
        let columns = self.v_head.div_ceil(64);
        let call = self.call(of::Attention)?.columns(u32::try_from(columns).unwrap_or(u32::MAX));
        let call = call.each(1u64, blocks.clone()).each(blocks.clone(), self.head.div_ceil(SLAB));
        let call = call.each(blocks, TILE.1 / 4).puts(16 * columns);
        call.workgroups(&product(&[queries.div_ceil(TILE.0), batch.clone(), heads.clone()]) * when)
    }

    /// Chunks of keys for at most `most` queries: the whole where there is one chunk.
    fn few(&self, most: i64, whole: bool, when: &Dim) -> Result<KernelCall, KernelError> {
        let Sizes { batch, kv_heads, queries, keys, .. } = &self.sizes;
        let rows = match most.saturating_mul(self.repeats) {
            ..=1 => 1u64,
            2..=4 => 4,
            _ => 8,
        };
        let columns = self.v_head.next_power_of_two().max(64);
        let chunks = keys.div_ceil(CHUNK.unsigned_abs());
        let blocks = (queries * &Dim::Known(self.repeats)).div_ceil(rows);
        // Sets of threads that take keys in turn, so many at a time.
        let (ways, ahead) = (if columns == 64 { 8 } else { 4 }, if rows > 2 { 4 } else { 8 });
        let call = self.call(of::AttentionFew)?.chunks(chunks.clone());
        let flag = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let call = call.rows(flag(rows)).columns(flag(columns)).whole(whole);
        let call = call.each(1u64, self.head.div_ceil(32)).each(1u64, CHUNK.unsigned_abs() / (ahead * ways));
        let call = call.puts(2 * rows);
        call.workgroups(&product(&[chunks, blocks, batch.clone(), kv_heads.clone()]) * when)
    }

    /// What joins the parts of chunks.
    fn join(&self, when: &Dim) -> Result<KernelCall, KernelError> {
        let (node, sizes) = (self.node, &self.sizes);
        let (parts, _) = node.operand(PARTS_SLOT)?;
        let chunks = sizes.keys.div_ceil(CHUNK.unsigned_abs());
        let rows = product(&[sizes.batch.clone(), sizes.heads.clone(), sizes.queries.clone()]);
        let [b, h, r] = sizes.strides(3);
        let call = node.call(of::AttentionJoin).operand(parts).y_b(b).y_h(h).y_r(r);
        let turns = chunks.div_ceil(u64::from(constants::INVOCATIONS));
        let call = call
            .heads(sizes.heads.clone())
            .queries(sizes.queries.clone())
            .chunks(chunks)
            .v_head(self.v_head)
            .rows(rows.clone())
            .zero_masked(u64::from(node.attrs.int("zero_masked").unwrap_or(0) != 0));
        let call = call
            .each(1u64, turns.clone())
            .each(1u64, turns.clone())
            .each(turns, u64::from(constants::INVOCATIONS) / 8)
            .puts(2u64);
        call.workgroups(&rows * when)
    }
}

/// The calls: for few queries a kernel that divides the keys, for many one of tiles; both where their number changes
/// between runs.
pub(super) fn attention(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let attention = Attention::of(node)?;
    let Sizes { queries, keys, .. } = &attention.sizes;
    let has_parts = node.own.get(PARTS_SLOT).is_some_and(Option::is_some);
    let always = Dim::Known(1);
    let is_one_chunk = keys.known().is_some_and(|n| n <= CHUNK);
    match queries.known() {
        Some(n) if n <= FEW && has_parts => Ok(vec![attention.join(&always)?]),
        Some(n) if n <= FEW && is_one_chunk => Ok(vec![attention.few(n, true, &always)?]),
        None if has_parts => {
            Ok(vec![attention.join(&at_most(queries, FEW))?, attention.many(&from(queries, FEW + 1))?])
        }
        None if is_one_chunk => {
            let several = &from(queries, 2) * &at_most(queries, FEW);
            Ok(vec![
                attention.few(1, true, &at_most(queries, 1))?,
                attention.few(FEW, true, &several)?,
                attention.many(&from(queries, FEW + 1))?,
            ])
        }
        _ => Ok(vec![attention.many(&always)?]),
    }
}

/// The calls that compute the parts of chunks: for one query and for several, of which one applies.
pub(super) fn parts(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let attention = Attention::of(node)?;
    if node.attrs.int("chunk") != Some(CHUNK) {
        return Err(node.unsupported(format!("parts of {:?} keys, not {CHUNK}", node.attrs.int("chunk"))));
    }
    let queries = &attention.sizes.queries;
    match queries.known() {
        Some(n) => Ok(vec![attention.few(n, false, &Dim::Known(1))?]),
        None => {
            let several = &from(queries, 2) * &at_most(queries, FEW);
            Ok(vec![attention.few(1, false, &at_most(queries, 1))?, attention.few(FEW, false, &several)?])
        }
    }
}
