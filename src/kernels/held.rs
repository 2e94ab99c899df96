//! Rows that are read once and held in registers: how many invocations hold one, and in what vectors. Rows of other
//! lengths, and those of devices whose subgroups have no arithmetic, are read again for each of their sums.

use super::call::Node;
use super::settings::{Call, Number, has};
use super::vectors::longest;
use super::{KernelCall, KernelError};
use crate::ir::Dim;
use crate::kernels::key::{Flag, MOST_HELD, Storage, Template, rows_of_lanes};

/// Shortest row that a subgroup holds rather than an invocation reads.
const SHORTEST: u32 = 32;
/// Longest row that one subgroup holds.
const OF_SUBGROUP: u32 = 256;
/// Most elements of a row that the registers of an invocation hold.
const IN_REGISTERS: u32 = 32;

/// How a row is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// Neighbours that an invocation reads at a time; 0 where it is one.
    pub(super) width: u32,
    /// Invocations of a row.
    lanes: u32,
    /// Vectors of an invocation.
    n: u32,
}

impl Held {
    /// For rows of `n` elements of these storages; `None` where they are not held. Only lengths that are known are: a
    /// program for sizes that change is then the same whatever their range.
    pub(super) fn of(node: &Node<'_>, n: &Dim, storages: &[Option<Storage>]) -> Option<Held> {
        let n = n.known().and_then(|n| u32::try_from(n).ok()).filter(|n| *n >= SHORTEST)?;
        let limits = &node.target.limits;
        if !node.target.features.subgroup_arithmetic || !limits.subgroup_size.is_power_of_two() {
            return None;
        }
        if !storages.iter().all(|s| matches!(s, Some(Storage::F32 | Storage::F16))) {
            return None;
        }
        let flag =
            |flag| Template::RowSoftmax.table().flags.iter().find(|(own, _)| *own == flag).map(|(_, values)| *values);
        let most = limits.max_compute_work_group_invocations.min(limits.max_compute_work_group_size[0]);
        let fits = |lanes: &&u32| lanes.is_multiple_of(limits.subgroup_size) && **lanes <= most;
        let all_lanes: Vec<u32> = flag(Flag::Lanes)?.iter().filter(fits).copied().collect();
        let subgroup = *all_lanes.first()?;
        // Vectors are shorter where lanes would hold none.
        let longest = longest(storages.iter().flatten().copied());
        let fits = |width: &u32| *width <= longest && n.is_multiple_of(*width) && n / width >= subgroup;
        let width = [8, 4, 2].into_iter().find(fits).unwrap_or(0);
        let vectors = n / width.max(1);
        let is_cpu = node.target.is_cpu();
        let lanes = if n <= OF_SUBGROUP || is_cpu {
            subgroup
        } else {
            all_lanes.iter().copied().find(|lanes| *lanes >= vectors).or(all_lanes.last().copied())?
        };
        let held = flag(Flag::Held)?.iter().copied().find(|held| held * lanes >= vectors)?;
        // A CPU has no more registers, but is slow to join subgroups.
        let most = if is_cpu { MOST_HELD } else { IN_REGISTERS };
        (held * width.max(1) <= most).then_some(Held { width, lanes, n: held })
    }

    /// A call that puts every element of its rows.
    pub(super) fn puts<'n, T: has::Vector>(&self, call: Call<'n, T>) -> Call<'n, T> {
        call.vector(self.width).puts(u64::from(self.n * self.width.max(1)))
    }

    /// The call for `rows` rows that joins what lanes hold so many times.
    pub(super) fn call<T>(&self, call: Call<'_, T>, joins: u64, rows: &Dim) -> Result<KernelCall, KernelError>
    where
        T: has::Lanes<Given = Number> + has::Held<Given = Number>,
    {
        let call = call.lanes(self.lanes).held(self.n);
        // Subgroups of one invocation, at the worst.
        let call = (0..joins).fold(call, |call, _| call.each(1u64, u64::from(self.lanes)));
        call.workgroups(rows.div_ceil(u64::from(rows_of_lanes(self.lanes))))
    }
}
