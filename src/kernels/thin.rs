//! Products and convolutions of f16 on cooperative matrices that are filled from memory, without shared memory between:
//! which variants, and what their calls have. Each invocation loads the elements that a device is expected to give it
//! of a matrix. A device that places them otherwise computes the same result slowly, so only a tuning table chooses
//! these.

use super::call::Node;
use super::matmul::{Columns, Product, sized};
use super::model::Work;
use super::settings::{Call, Number, Switch, has, of};
use super::{KernelCall, KernelError};
use crate::ir::packed::{Coding, Granularity};
use crate::ir::{Activations, Dim};
use crate::kernels::key::{Storage, Template};
use crate::kernels::variant::{Thin, Variant};
use crate::targets::{MatrixTypes, Target};

/// What a lane reads side by side, and a subgroup of a row at a time.
pub(super) const PART: u32 = 16;
const CHUNK: u64 = 64;
/// The subgroup, and the side of a matrix, that the text is for.
const SUBGROUP: u32 = 32;
const SIDE: u32 = 16;

/// Whether the target multiplies operands with this layout, along a reduction axis of length `k`.
pub(super) fn is_possible(node: &Node<'_>, (a, b): (Storage, Storage), k: i64) -> bool {
    let features = &node.target.features;
    let suits = match b {
        Storage::F16 => true,
        Storage::Packed(packing) => {
            !matches!(packing.granularity, Granularity::Block(..PART))
                && matches!(packing.coding, Coding::I4 | Coding::I8)
                && node.activations.is_none_or(|a| a == Activations::F16)
        }
        _ => false,
    };
    let shape = features.matrix_shape(MatrixTypes::F16);
    let has_shape = shape.is_some_and(|s| [s.m, s.n, s.k] == [SIDE; 3]);
    let has_all = Template::MatmulThin.table().needs.iter().all(|name| features.named(name) == Some(true));
    let is_unlimited = node.target.limits.max_loop_iterations.is_none();
    a == Storage::F16
        && suits
        && k % i64::from(PART) == 0
        && has_shape
        && has_all
        && is_unlimited
        && node.target.limits.subgroup_size == SUBGROUP
}

/// Bytes of shared memory, as the text declares it.
pub(super) fn shared_bytes(v: Thin) -> u32 {
    16 * (v.sums() * v.slots()).max(v.ways * SUBGROUP) + 16
}

/// Whether a target has what a variant needs for a reduction axis of length `k`.
pub(super) fn suits(v: Thin, k: u64, target: &Target) -> bool {
    let limits = &target.limits;
    u64::from(v.ways) <= k.div_ceil(CHUNK)
        && v.ways * SUBGROUP <= limits.max_compute_work_group_invocations.min(limits.max_compute_work_group_size[0])
        && shared_bytes(v) <= limits.max_compute_shared_memory_size
}

/// What the model knows of the text, whose chunks of b have so many words.
pub(super) fn work(v: Thin, b: Storage, work: Work) -> Work {
    let words = if matches!(b, Storage::Packed(_)) { 4 } else { 8 };
    let registers = 40 + u64::from(v.m * v.n / 32) + u64::from(v.m / 16) * 36 + u64::from(v.n / 16) * 4 * words;
    Work { registers: registers.min(255), step_ns: 90, end_ns: 500, ..work }
}

/// Steps of a workgroup along a reduction axis of length `k`.
pub(super) fn steps(v: Thin, k: u64) -> u64 {
    k.div_ceil(CHUNK * u64::from(v.ways))
}

/// A template whose matrices are filled from memory.
pub(super) trait OfThin: has::Subgroup<Given = Number> + has::Masked<Given = Switch> {}

impl<T: has::Subgroup<Given = Number> + has::Masked<Given = Switch>> OfThin for T {}

/// Adds to a call what its template needs of the variant, for a reduction axis of length `k`, where some of what is
/// read may be padding.
pub(super) fn apply<'n, T: OfThin>(v: Thin, call: Call<'n, T>, k: &Dim, is_padded: bool) -> Call<'n, T> {
    let is_whole = k.known().is_some_and(|k| k.unsigned_abs().is_multiple_of(CHUNK));
    let puts = u64::from((v.m * v.n).div_ceil(v.ways * SUBGROUP));
    let call = call.subgroup(SUBGROUP).masked(is_padded || !is_whole).variant(Variant::Thin(v));
    let turns = k.div_ceil(2 * CHUNK * u64::from(v.ways));
    call.each(1u64, turns).each(1u64, puts).each(puts, k.clone()).puts(puts)
}

/// Workgroups for `m` rows and `n` columns.
pub(super) fn tiles(v: Thin, m: &Dim, n: &Dim) -> Dim {
    &m.div_ceil(u64::from(v.m)) * &n.div_ceil(u64::from(v.n))
}

/// The call for a product.
pub(super) fn call(
    node: &Node<'_>,
    product: &Product,
    columns: &Columns,
    v: Thin,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let call = sized(node, node.call(of::MatmulThin), product, columns)?;
    let call = apply(v, call, &product.k, false);
    call.workgroups(&tiles(v, &product.m, &columns.n) * when)
}

/// Variants to try, in a fixed order: those whose sums leave room for what is read.
pub(super) fn variants() -> Vec<Variant> {
    let mut all = Vec::new();
    for (m, n) in [(16, 16), (16, 32), (16, 64), (32, 16), (32, 32), (32, 64), (64, 16), (64, 32)] {
        let ways = [1, 2, 3, 4, 5, 6, 8, 9, 12, 16].map(|ways| Variant::Thin(Thin { m, n, ways }));
        all.extend(ways.into_iter().filter(|variant| variant.is_sound()));
    }
    all
}
