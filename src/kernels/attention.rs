//! Attention: kernels for many queries and for few, and what joins the parts of these.

use super::call::Node;
use super::mma::MANY_GROUPS;
use super::settings::{Call, Float, Int, Switch, Uint, has, of};
use super::shape::{at_most, broadcast, from};
use super::{KernelCall, KernelError, storage};
use crate::ir::{Dim, Graph, NodeId, NodeKind, TensorType, product};
use crate::kernels::key::{Storage, Template, constants};
use crate::kernels::variant::{Attention as Division, Variant};
use crate::ops::core::dot_product_attention::{FEW, LENGTHS, MASK, PARTS_SLOT, Sizes, offset};
use crate::targets::{MatrixTypes, Target};

/// Keys of a part, a thread each (`attention_few.comp`).
pub const CHUNK: i64 = constants::INVOCATIONS as i64;
/// Keys that subgroups of one workgroup take rather than workgroups, on cooperative matrices: joining costs as much.
const MOST_WAYS_KEYS: i64 = 512;
/// The largest head (`attention_few.comp`, `attention.comp`).
const MAX_HEAD: i64 = 256;
/// Queries and keys of a tile (`attention.comp`).
const TILE: (u64, u64) = (32, 64);
/// Elements of a head that shared memory holds at a time (`attention.comp`).
const SLAB: u64 = 16;
/// The largest head whose sums stay in registers on cooperative matrices (`attention_mma.comp`), and the largest of
/// which a subgroup alone brings 32 keys and values at a time.
const MAX_MATRIX_HEAD: u64 = 128;
const MAX_OWN_HEAD: u64 = 64;
/// Shared memory of a workgroup up to which a GPU has two at a time, and one.
const ROOMY_BYTES: u64 = 20 << 10;
const ROOMY_ALONE_BYTES: u64 = 48 << 10;
/// More keys or queries than an attention has: a window that ends nowhere.
const FAR: i64 = (1 << 30) - 1;

/// An attention on cooperative matrices.
struct Matrices {
    /// Of what a subgroup multiplies.
    side: u64,
    /// Invocations of a subgroup.
    subgroup: u64,
    /// Blocks of 16 elements of a head.
    head16: u64,
    /// Its divisions among the workgroups: of few queries and of many.
    divisions: [Division; 2],
}

impl Matrices {
    /// Bytes of shared memory, as the text declares it, where k and v of a block are there at the same time or not.
    fn shared_bytes(&self, v: Division, both: bool) -> u64 {
        let [strips, ways, keys] = [v.strips, v.ways, v.keys].map(u64::from);
        let subgroups = strips * ways;
        // Lines of a vector more than the head has, of queries, and of keys beside scores of 32 and weights of all.
        let line = 2 * self.head16 + 1;
        let line_s = (keys.min(32) / 4).max(keys / 8) + 1;
        let scores = ways * (1 + u64::from(both)) * keys * line + subgroups * self.side * line_s;
        let sums = if ways > 1 { subgroups * self.side * (4 * self.head16 + 1) } else { 0 };
        let vectors = scores.max(strips * self.side * line).max(sums);
        16 * vectors + 4 * subgroups * (self.subgroup + 2 * self.side)
    }

    /// Whether they do.
    fn both(&self, v: Division) -> bool {
        // A subgroup that waits for no other has them both at once.
        let roomy = if v.ways > 1 { ROOMY_ALONE_BYTES } else { ROOMY_BYTES };
        self.shared_bytes(v, true) <= roomy
    }

    fn fits(&self, v: Division, target: &Target) -> bool {
        let limits = &target.limits;
        let threads = Variant::Attention(v).threads(limits.subgroup_size);
        let keys = u64::from(v.keys);
        // An invocation has whole vectors of its row's weights.
        keys.min(32).is_multiple_of(self.side.max(8 * self.subgroup / self.side))
            && threads <= limits.max_compute_work_group_invocations.min(limits.max_compute_work_group_size[0])
            && self.shared_bytes(v, self.both(v)) <= u64::from(limits.max_compute_shared_memory_size)
    }
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

    /// What a subgroup multiplies and how the work is divided, where q, k and v are f16 and the target has what the
    /// kernel on cooperative matrices needs.
    fn matrices(&self) -> Option<Matrices> {
        let target = self.node.target;
        let Target { limits, features, .. } = target;
        let is_f16 = |slot: usize| self.node.operand(slot).is_ok_and(|(_, ty)| storage(ty) == Some(Storage::F16));
        let needs = Template::AttentionMma.table().needs;
        let has_all = needs.iter().all(|name| features.named(name) == Some(true));
        let size = self.head.max(self.v_head);
        if !has_all || !(0..3).all(is_f16) || !self.is_aligned() || size > MAX_MATRIX_HEAD {
            return None;
        }
        let shape = features.matrix_shape(MatrixTypes::F16)?;
        let (side, subgroup) = (u64::from(shape.m), u64::from(limits.subgroup_size));
        let fits = shape.m == shape.n && shape.m == shape.k && [8, 16].contains(&side);
        if !fits || ![1, 2, 4].iter().any(|share| share * side == subgroup) {
            return None;
        }
        let head16 = [1, 2, 4, 6, 8].into_iter().find(|blocks| 16 * blocks >= size)?;
        let all = Matrices { side, subgroup, head16, divisions: [Division { strips: 1, ways: 1, keys: 32 }; 2] };
        let first = |own: &[[u32; 3]]| {
            let mut own = own.iter().map(|&[strips, ways, keys]| Division { strips, ways, keys });
            own.find(|v| all.fits(*v, target))
        };
        let (few, many) = match self.node.asked.variant() {
            Some(Variant::Attention(asked)) => (asked, asked),
            // Few queries have their keys divided, so that there is something to do for all of a large device. What a
            // subgroup brings of keys and values is in registers on the way, so that large heads have fewer at a
            // time. As measured on an H200 (`benches/gpu/attention-h200.txt`).
            _ => {
                let is_small = size <= MAX_OWN_HEAD;
                let many = first(if is_small { &[[4, 1, 32]] } else { &[[4, 1, 64], [4, 1, 32]] })?;
                let few =
                    first(if is_small { &[[1, 4, 32], [1, 4, 16], [1, 2, 32]] } else { &[[1, 4, 16], [1, 2, 32]] });
                (few.unwrap_or(many), many)
            }
        };
        let divisions = [few, many];
        divisions.iter().all(|v| all.fits(*v, target)).then_some(Matrices { divisions, ..all })
    }

    /// Workgroups of so many rows each: queries, and for each the heads that share its keys.
    fn tiles(&self, rows: u64) -> Dim {
        let Sizes { batch, kv_heads, queries, repeats, .. } = &self.sizes;
        product(&[(queries * repeats).div_ceil(rows), batch.clone(), kv_heads.clone()])
    }

    /// Strips of queries on cooperative matrices.
    fn strips(&self, matrices: &Matrices, v: Division, when: &Dim) -> Result<KernelCall, KernelError> {
        let Matrices { side, subgroup, head16, .. } = *matrices;
        let flag = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let call = self.call(of::AttentionMma)?.side(flag(side)).share(flag(subgroup / side));
        let call = call.head16(flag(head16)).both(matrices.both(v)).vector(8);
        let [strips, ways, keys] = [v.strips, v.ways, v.keys].map(u64::from);
        let blocks = (&self.sizes.keys.div_ceil(keys) + &Dim::Known(1)).div_ceil(ways);
        let of_lane = |vectors: u64, lanes: u64| 8 * vectors.div_ceil(lanes);
        let puts = if ways > 1 {
            of_lane(side * 2 * head16, ways * subgroup)
        } else {
            16 * head16 / side * of_lane(side * side / 8, subgroup)
        };
        let call = call.variant(Variant::Attention(v)).each(1u64, blocks).puts(puts);
        call.workgroups(&self.tiles(strips * side) * when)
    }

    /// Tiles of queries; or strips, with their keys divided where there are few.
    fn many(&self, when: &Dim) -> Result<Vec<KernelCall>, KernelError> {
        if let Some(matrices) = self.matrices() {
            let [few, many] = matrices.divisions;
            if few == many {
                return Ok(vec![self.strips(&matrices, many, when)?]);
            }
            let tiles = self.tiles(u64::from(many.strips) * matrices.side);
            let busy = i64::try_from(MANY_GROUPS).unwrap_or(i64::MAX);
            let cases = [(few, at_most(&tiles, busy - 1)), (many, from(&tiles, busy))];
            let apply = cases.into_iter().filter(|(_, when)| *when != Dim::Known(0));
            return apply.map(|(division, also)| self.strips(&matrices, division, &(when * &also))).collect();
        }
        let Sizes { batch, heads, queries, keys, .. } = &self.sizes;
        let blocks = &keys.div_ceil(TILE.1) + &Dim::Known(1);
        let columns = self.v_head.div_ceil(64);
        let call = self.call(of::Attention)?.columns(u32::try_from(columns).unwrap_or(u32::MAX));
        let call = call.each(1u64, blocks.clone()).each(blocks.clone(), self.head.div_ceil(SLAB));
        let call = call.each(blocks, TILE.1 / 4).puts(16 * columns);
        let groups = product(&[queries.div_ceil(TILE.0), batch.clone(), heads.clone()]);
        Ok(vec![call.workgroups(&groups * when)?])
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

/// Whether an attention reads parts of chunks of keys: there may be few queries of more keys than one workgroup takes.
/// Of sizes that change there may be, unless their range says that there never are: then the kernel for many is the
/// only one of theirs that runs.
///
/// # Errors
/// No kernel covers it.
pub fn has_parts(graph: &Graph, id: NodeId, target: &Target) -> Result<bool, KernelError> {
    let NodeKind::Op(op) = &graph.node(id).kind else { return Ok(false) };
    let node = Node::new(graph, id, op, target)?;
    let attention = Attention::of(&node)?;
    let Sizes { queries, keys, .. } = &attention.sizes;
    let most = if attention.matrices().is_some() { MOST_WAYS_KEYS } else { CHUNK };
    Ok(queries.bounds().0 <= FEW && keys.known().is_none_or(|n| n > most))
}

/// The calls: for few queries a kernel that divides the keys, for many one of tiles; both where their number changes
/// between runs.
pub(super) fn attention(node: &Node<'_>) -> Result<Vec<KernelCall>, KernelError> {
    let attention = Attention::of(node)?;
    let Sizes { queries, keys, .. } = &attention.sizes;
    let has_parts = node.own.get(PARTS_SLOT).is_some_and(Option::is_some);
    let always = Dim::Known(1);
    let is_one_chunk = keys.known().is_some_and(|n| n <= CHUNK) && attention.matrices().is_none();
    let calls = match queries.known() {
        Some(n) if n <= FEW && has_parts => vec![attention.join(&always)?],
        Some(n) if n <= FEW && is_one_chunk => vec![attention.few(n, true, &always)?],
        None if has_parts => {
            let mut calls = vec![attention.join(&at_most(queries, FEW))?];
            calls.extend(attention.many(&from(queries, FEW + 1))?);
            calls
        }
        None if is_one_chunk => {
            let several = &from(queries, 2) * &at_most(queries, FEW);
            let mut calls = vec![attention.few(1, true, &at_most(queries, 1))?, attention.few(FEW, true, &several)?];
            calls.extend(attention.many(&from(queries, FEW + 1))?);
            calls
        }
        _ => attention.many(&always)?,
    };
    let alternative = (calls.len() > 1).then_some(0);
    Ok(calls.into_iter().map(|call| KernelCall { alternative, ..call }).collect())
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
            let calls = [attention.few(1, false, &at_most(queries, 1))?, attention.few(FEW, false, &several)?];
            Ok(calls.into_iter().map(|call| KernelCall { alternative: Some(0), ..call }).collect())
        }
    }
}
