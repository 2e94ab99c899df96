//! One dispatch: its shader, bindings, writes and parameters.

use super::place::{DispatchPlace, dispatches};
use super::{Checked, Scope, fault};
use crate::program::{AllocationKind, Dispatch, FAULT_BYTES, IndexCheck, Region};
use std::collections::BTreeMap;

impl Scope<'_> {
    pub(super) fn dispatch(&self, place: &DispatchPlace<'_>, dispatch: &Dispatch) -> Checked {
        let Some(interface) = self.interfaces.get(dispatch.shader.as_str()) else {
            return Err(fault(&place.to_string(), format!("there is no shader {}", dispatch.shader)));
        };
        let n_bindings = dispatch.bindings.len();
        let n_descriptors = n_bindings + usize::from(!dispatch.params.is_empty());
        if let Some(&binding) = interface.bindings.iter().find(|&&b| b as usize >= n_descriptors) {
            return Err(fault(
                &place.to_string(),
                format!("its shader reads binding {binding}, {n_descriptors} are given"),
            ));
        }
        for region in &dispatch.bindings {
            self.region(&place.to_string(), region, 1)?;
            if region.bytes == 0 {
                return Err(fault(&place.to_string(), "a binding has 0 bytes".to_owned()));
            }
        }
        for &written in &dispatch.writes {
            let kind = dispatch
                .bindings
                .get(written as usize)
                .and_then(|r| self.plan.allocations.get(r.allocation as usize))
                .map(|a| a.kind);
            match kind {
                None => return Err(fault(&place.to_string(), format!("it writes binding {written} of {n_bindings}"))),
                Some(AllocationKind::Arena | AllocationKind::State) => {}
                Some(kind) => {
                    return Err(fault(
                        &place.to_string(),
                        format!("it writes binding {written}, which is in memory for {kind:?}"),
                    ));
                }
            }
        }
        dispatch.check.as_ref().map_or(Ok(()), |check| index_check(place, dispatch, check))
    }

    /// Parameters are in their allocation, and where two dispatches share bytes of it they agree on them.
    pub(super) fn params(&self) -> Checked {
        let same = |a: &Dispatch, b: &Dispatch| {
            a.params == b.params && (a.groups == b.groups || !(a.is_indirect() || b.is_indirect()))
        };
        let mut written: BTreeMap<u64, &Dispatch> = BTreeMap::new();
        for (place, dispatch) in dispatches(self.plan, self.index).filter(|(_, d)| d.params_bytes() > 0) {
            let bytes = dispatch.params_bytes();
            let (allocation, held) = self
                .params
                .ok_or_else(|| fault(&place.to_string(), "there is no allocation for its parameters".to_owned()))?;
            self.region(&place.to_string(), &Region { allocation, offset: dispatch.params_offset, bytes }, 4)?;
            let end = dispatch.params_offset + bytes;
            let before = written
                .range(..dispatch.params_offset)
                .next_back()
                .is_some_and(|(at, d)| at + d.params_bytes() > dispatch.params_offset);
            let after = written.range(dispatch.params_offset + 1..end.max(dispatch.params_offset + 1)).next().is_some();
            let differs = written.get(&dispatch.params_offset).is_some_and(|d| !same(d, dispatch));
            if before || after || differs {
                let text = format!("its parameters at offset {} of {held} overlap others", dispatch.params_offset);
                return Err(fault(&place.to_string(), text));
            }
            written.insert(dispatch.params_offset, dispatch);
        }
        Ok(())
    }
}

/// Notes of indices go where the dispatch writes, and sizes that indices are checked against are known.
fn index_check(place: &DispatchPlace<'_>, dispatch: &Dispatch, check: &IndexCheck) -> Checked {
    let noted = dispatch.bindings.get(check.binding as usize);
    let fits = noted.is_some_and(|region| region.bytes == FAULT_BYTES && region.offset.is_multiple_of(4));
    if !fits || !dispatch.writes.contains(&check.binding) || check.sizes.is_empty() {
        let text = format!(
            "it notes indices for {} axes in binding {}: {noted:?}, {FAULT_BYTES} bytes that it writes are wanted",
            check.sizes.len(),
            check.binding
        );
        return Err(fault(&place.to_string(), text));
    }
    if let Some(size) = check.sizes.iter().find(|size| place.entry.bounds(size).is_none()) {
        return Err(fault(&place.to_string(), format!("it checks indices against {size}, which no input determines")));
    }
    Ok(())
}
