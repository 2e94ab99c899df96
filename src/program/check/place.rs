//! Where a dispatch stands.

use crate::program::{Dispatch, Entry, Plan, Step};
use std::fmt;

/// Where a dispatch stands; formatted only when something is wrong.
pub(super) struct DispatchPlace<'a> {
    pub plan: usize,
    pub entry: &'a Entry,
    pub step: usize,
    pub dispatch: usize,
    pub node: &'a str,
}

impl fmt::Display for DispatchPlace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DispatchPlace { plan, entry, step, dispatch, node } = self;
        write!(f, "plan {plan}, entry {:?}, step {step}, dispatch {dispatch} ({node})", entry.name)
    }
}

/// The dispatches of a plan, whose index that is.
pub(super) fn dispatches(plan: &Plan, index: usize) -> impl Iterator<Item = (DispatchPlace<'_>, &Dispatch)> {
    plan.entries.iter().flat_map(move |entry| {
        entry.steps.iter().enumerate().flat_map(move |(s, step)| {
            let dispatches = if let Step::Device(dispatches) = step { dispatches.as_slice() } else { &[] };
            dispatches.iter().enumerate().map(move |(d, dispatch)| {
                (DispatchPlace { plan: index, entry, step: s, dispatch: d, node: &dispatch.node }, dispatch)
            })
        })
    })
}
