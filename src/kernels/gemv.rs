//! Products of few rows by kernels that read 16 bytes at a time: which variant, and its call. Where the target or the
//! form of the weights does not suit them, `matvec` computes the product on any device.

use super::call::Node;
use super::matmul::{Columns, OfProduct, Product, sized};
use super::settings::{Call, Number, has, of};
use super::{KernelCall, KernelError};
use crate::ir::Dim;
use crate::ir::packed::Granularity;
use crate::kernels::key::{Storage, Template};
use crate::kernels::variant::{Gemv, Variant};
use crate::targets::Target;

/// Elements of the step in which packed weights are read.
const STEP: i64 = 32;

/// The kernel for few rows of operands with this layout, where the target has what it needs and b has its rows along
/// the reduction axis of length `k`; `None` where `matvec` computes the product.
pub(super) fn template(node: &Node<'_>, (a, b): (Storage, Storage), k: i64, is_along_k: bool) -> Option<Template> {
    if !is_along_k || !matches!(a, Storage::F32 | Storage::F16) {
        return None;
    }
    // Loops of constant length inside of those over the reduction axis count where loops are limited.
    if node.target.limits.max_loop_iterations.is_some() && k > 16384 {
        return None;
    }
    let template = match b {
        Storage::Packed(packing) if !matches!(packing.granularity, Granularity::Block(..32)) && k % STEP == 0 => {
            Template::GemvDot
        }
        // Rows of f16 begin at a multiple of 16 bytes, in both operands.
        Storage::F32 | Storage::F16 if k % 8 == 0 => Template::Gemv,
        _ => return None,
    };
    let has_all = template.table().needs.iter().all(|name| node.target.features.named(name) == Some(true));
    has_all.then_some(template)
}

/// Variants for a kernel, the best first, as measured on an H200 (`benches/gpu`), for cases of which nothing is in a
/// tuning table: by the storage of the weights, their rows and the length of these.
pub(super) fn preferred(template: Template, b: Storage, (n, k): (u64, u64), rows: u32) -> Vec<Gemv> {
    let new = |threads, lanes, ways, columns, steps| Gemv { threads, lanes, ways, columns, steps };
    match (template, b, rows) {
        (Template::Gemv, Storage::F16, 1) if k > 8192 => vec![new(256, 16, 8, 2, 0)],
        (Template::Gemv, _, 1) => vec![new(256, 32, 8, 1, 0)],
        (Template::Gemv, _, 2) | (Template::Gemv, Storage::F32, 4) => vec![new(128, 32, 4, 4, 0)],
        (Template::Gemv, ..) => vec![new(128, 32, 4, 2, 0)],
        (_, _, 1) if k > 4096 => vec![new(256, 16, 4, 4, 352), new(256, 16, 4, 4, 128)],
        (_, _, 1) if n >= 8192 => vec![new(128, 8, 2, 4, 128)],
        (_, _, 1) => vec![new(256, 16, 4, 4, 128)],
        _ => vec![new(256, 16, 2, 2, 32)],
    }
}

/// Whether a target has what a variant needs for so many rows.
pub(super) fn suits(template: Template, variant: Gemv, rows: u32, target: &Target) -> bool {
    let limits = &target.limits;
    // As `gemv.glsl` and `gemv_dot.comp` declare them; of the latter the larger of both.
    let sums = variant.columns * (variant.threads / variant.lanes) * (variant.lanes + 1) * 4;
    let planes = if template == Template::GemvDot { rows * variant.steps * 7 * 16 } else { 0 };
    (template == Template::GemvDot) == (variant.steps > 0)
        && variant.threads <= limits.max_compute_work_group_invocations.min(limits.max_compute_work_group_size[0])
        && sums + planes <= limits.max_compute_shared_memory_size
}

/// The call of the chosen kernel.
pub(super) fn call(
    node: &Node<'_>,
    product: &Product,
    columns: &Columns,
    (template, variant): (Template, Gemv),
    rows: u32,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    // Loops as the text has them.
    let Gemv { threads, lanes, ways, columns: _, steps } = variant;
    let (k, split) = (&product.k, u64::from(lanes * ways));
    if template == Template::GemvDot {
        let chunks = k.div_ceil(32 * u64::from(steps));
        let call = sized(node, node.call(of::GemvDot), product, columns)?.half().each(1u64, chunks.clone());
        let call = call.each(chunks.clone(), u64::from(steps) * u64::from(rows) / u64::from(threads) + 1);
        finished(call.each(chunks, u64::from(steps).div_ceil(split)), columns, variant, rows, when)
    } else {
        let call = sized(node, node.call(of::Gemv), product, columns)?;
        let call = call.each(1u64, k.div_ceil(4 * split)).each(1u64, k.div_ceil(4 * split));
        finished(call, columns, variant, rows, when)
    }
}

/// The call with its variant, and the loops over sums of lanes.
fn finished<T: OfProduct + has::Rows<Given = Number>>(
    call: Call<'_, T>,
    columns: &Columns,
    variant: Gemv,
    rows: u32,
    when: &Dim,
) -> Result<KernelCall, KernelError> {
    let call = call.rows(rows).variant(Variant::Gemv(variant));
    let (Gemv { threads, lanes, .. }, rows) = (variant, u64::from(rows));
    let sums = u64::from(variant.group_columns() * lanes).div_ceil(u64::from(threads));
    let call = call.each(1u64, rows).each(rows, sums).each(rows, sums);
    let call = call.puts(rows * u64::from(variant.group_columns().div_ceil(threads)));
    call.workgroups(&columns.n.div_ceil(u64::from(variant.group_columns())) * when)
}

/// Threads, then pairs of lanes and ways, columns and steps that go with them.
type Sweep<'a> = (u32, &'a [(u32, u32)], &'a [u32], &'a [u32]);

/// Variants to try for weights with the layout of `b`, in a fixed order.
pub(super) fn variants(b: Storage) -> Vec<Variant> {
    let lists: &[Sweep<'_>] = if matches!(b, Storage::Packed(_)) {
        &[
            (128, &[(8, 2), (8, 4), (16, 2), (16, 4)], &[4, 8], &[128]),
            (256, &[(8, 4), (8, 8), (16, 2), (16, 4), (16, 8)], &[2, 4, 8], &[128]),
            (256, &[(8, 8), (16, 4)], &[2, 4], &[352]),
            (256, &[(16, 2)], &[2, 4], &[32]),
            (512, &[(8, 8), (8, 16), (16, 4), (16, 8), (16, 16)], &[2, 4], &[128, 352]),
            (704, &[(8, 11), (16, 11), (8, 22)], &[2, 4], &[352]),
        ]
    } else {
        &[
            (128, &[(16, 4), (32, 4)], &[1, 2, 4], &[0]),
            (256, &[(16, 8), (32, 4), (32, 8)], &[1, 2, 4], &[0]),
            (512, &[(32, 16)], &[1, 2, 4], &[0]),
        ]
    };
    let mut all = Vec::new();
    for &(threads, splits, columns, steps) in lists {
        for &(lanes, ways) in splits {
            for &columns in columns {
                all.extend(steps.iter().map(|&steps| Variant::Gemv(Gemv { threads, lanes, ways, columns, steps })));
            }
        }
    }
    all
}
