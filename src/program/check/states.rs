//! What a plan says of its states.

use super::{Checked, Scope, fault};
use crate::ir::{Shape, TensorType};
use crate::program::{AllocationKind, Entry, Region, StateTensor, parse_hex};
use std::collections::BTreeSet;

impl Scope<'_> {
    /// Every state has a place of its own among states, and an initial value of its type or of one element.
    pub(super) fn states(&self) -> Checked {
        let none = Entry::default();
        let mut names = BTreeSet::new();
        let mut placed: Vec<Region> = Vec::new();
        for StateTensor { port, initial } in &self.plan.states {
            let place = format!("plan {}, state {:?}", self.index, port.name);
            if !names.insert(port.name.as_str()) {
                return Err(fault(&place, "is listed twice".to_owned()));
            }
            self.port(&none, &place, port)?;
            let kind = self.plan.allocations.get(port.region.allocation as usize).map(|a| a.kind);
            if kind != Some(AllocationKind::State) {
                return Err(fault(&place, format!("it is in memory for {kind:?}")));
            }
            placed.push(port.region);
            let Some(tensor) = parse_hex(initial).and_then(|hash| self.program.constants.get(&hash)) else {
                return Err(fault(&place, format!("there is no constant {initial}")));
            };
            let wanted = TensorType::new(port.device_dtype, Shape(port.shape.clone()));
            if *tensor.ty() != wanted && *tensor.ty() != TensorType::of(port.device_dtype, &[]) {
                let text = format!("its initial value is {}, {wanted} or one element is wanted", tensor.ty());
                return Err(fault(&place, text));
            }
        }
        placed.sort_by_key(|region| (region.allocation, region.offset));
        for pair in placed.windows(2) {
            if let [a, b] = pair
                && a.allocation == b.allocation
                && a.offset + a.bytes > b.offset
            {
                return Err(fault(&format!("plan {}", self.index), format!("two states are in {a:?} and {b:?}")));
            }
        }
        Ok(())
    }
}
