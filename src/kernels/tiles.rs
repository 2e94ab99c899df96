//! Transposed tensors, tile by tile: where the innermost axis of the operand becomes another of the result, neighbours
//! of one side are far apart on the other.

use super::settings::{Call, of};
use super::shape::{Axes, at_least, divides, strides};
use super::{KernelCall, KernelError};
use crate::ir::Dim;
use crate::kernels::key::Storage;

/// Elements along either axis from which tiles are worth it.
const LEAST: i64 = 8;
/// Elements of a tile along the operand's innermost axis, for one element at a time, and along the result's.
const TILE: u64 = 32;
/// Most other axes.
const MAX_BATCH: usize = 6;

/// How a tensor is transposed.
pub(super) struct Tiles {
    /// Size and stride in the result of the axis along which the operand is contiguous.
    j: (Dim, Dim),
    /// Size and stride in the operand of the axis along which the result is.
    r: (Dim, Dim),
    /// Size, stride in the operand and stride in the result of the others.
    batch: Vec<[Dim; 3]>,
    offset: Dim,
    /// Neighbours that are moved together.
    width: u32,
}

impl Tiles {
    /// For a result of these axes, with their strides in an operand with the layout of `x`; `None` where the result is
    /// contiguous where the operand is, the operand is not contiguous along any, or one of both axes is short.
    pub(super) fn of(axes: &Axes<1>, offset: &Dim, x: Option<Storage>) -> Option<Tiles> {
        let sizes: Vec<Dim> = axes.iter().map(|(size, _)| size.clone()).collect();
        let own = strides(&sizes);
        let ((nr, [sr]), outer) = axes.split_last()?;
        let at = outer.iter().position(|(_, [stride])| *stride == Dim::Known(1))?;
        let (nj, _) = &outer[at];
        if *sr == Dim::Known(1)
            || *sr == Dim::Known(0)
            || !at_least(nj, LEAST)
            || !at_least(nr, LEAST)
            || outer.len() > MAX_BATCH + 1
        {
            return None;
        }
        let others = outer.iter().zip(&own).enumerate().filter(|(i, _)| *i != at);
        let batch: Vec<[Dim; 3]> =
            others.map(|(_, ((size, [stride]), own))| [size.clone(), stride.clone(), own.clone()]).collect();
        // Pairs of f16 are words, in both.
        let even = [nj, nr, sr, &own[at], offset].into_iter().chain(batch.iter().flat_map(|[_, s, o]| [s, o]));
        let is_even = even.into_iter().all(|size| divides(2, size));
        let width = if x == Some(Storage::F16) && is_even { 2 } else { 0 };
        Some(Tiles {
            j: (nj.clone(), own[at].clone()),
            r: (nr.clone(), sr.clone()),
            batch,
            offset: offset.clone(),
            width,
        })
    }

    /// The call, whose operand is given.
    pub(super) fn call(self, call: Call<'_, of::Transposed>) -> Result<KernelCall, KernelError> {
        let per_line = u64::from(self.width.max(1));
        let (tiles_j, tiles_r) = (self.j.0.div_ceil(TILE * per_line), self.r.0.div_ceil(TILE));
        let groups = self.batch.iter().fold(&tiles_j * &tiles_r, |n, [size, ..]| &n * size);
        let call = call.nj(self.j.0).oj(self.j.1).nr(self.r.0).sr(self.r.1);
        let call = call.offset(self.offset).tiles_j(tiles_j).tiles_r(tiles_r);
        let part = |at: usize| self.batch.iter().map(move |axis| axis[at].clone());
        let call = call.bd(part(0)).bs(part(1)).bo(part(2));
        call.vector(self.width).puts(8 * per_line).workgroups(groups)
    }
}
