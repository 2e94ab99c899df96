//! Allocations, ledger and budget.

use super::{Checked, fault};
use crate::program::{Allocation, AllocationKind, Plan};
use crate::targets::Target;

/// The promise of the budget: allocations, ledger and peak agree, and keep the budget less the reserve.
pub(super) fn memory(plan: &Plan, target: &Target, index: usize) -> Checked {
    let place = format!("plan {index}");
    let refuse = |text: String| Err(fault(&place, text));
    for kind in [AllocationKind::Params, AllocationKind::Staging] {
        let n = plan.allocations.iter().filter(|a| a.kind == kind).count();
        if n > 1 {
            return refuse(format!("{n} allocations of kind {kind:?}, at most 1 is allowed"));
        }
    }
    if let Some(i) = plan.allocations.iter().position(|a| a.bytes == 0) {
        return refuse(format!("allocation {i} has 0 bytes"));
    }
    let counts = |a: &&Allocation| target.memory.unified || a.kind != AllocationKind::Staging;
    let Some(sum) = plan.allocations.iter().filter(counts).try_fold(0u64, |n, a| n.checked_add(a.bytes)) else {
        return refuse("the sizes of its allocations overflow".to_owned());
    };
    if sum != plan.planned_peak_bytes {
        return refuse(format!("its allocations hold {sum} bytes, its planned peak is {}", plan.planned_peak_bytes));
    }
    let ledger = plan.ledger.peak_bytes();
    if ledger != sum {
        return refuse(format!("its ledger adds up to {ledger} bytes, its planned peak is {sum}"));
    }
    match sum.checked_add(plan.reserve_bytes) {
        Some(needed) if needed <= plan.budget_bytes => Ok(()),
        _ => refuse(format!(
            "{sum} bytes planned and {} reserved exceed the budget of {}",
            plan.reserve_bytes, plan.budget_bytes
        )),
    }
}
