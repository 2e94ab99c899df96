//! States of a loaded plan.

use super::RuntimeError;
use super::convert::Source;
use super::memory::Memory;
use crate::ir::Tensor;
use crate::program::{Plan, Program, Region, StateTensor, parse_hex};
use std::borrow::Cow;

/// What states are before the first run.
#[derive(Default)]
pub(super) struct States {
    /// Places, and tensors of the device's types: scalars fill theirs.
    pub(super) initial: Vec<(Region, Tensor)>,
    /// Whether a run failed after it may have stored some.
    pub(super) is_torn: bool,
}

impl States {
    pub(super) fn of(program: &Program, plan: &Plan) -> Result<States, RuntimeError> {
        let initial = |state: &StateTensor| {
            let constant = parse_hex(&state.initial).and_then(|hash| program.constants.get(&hash));
            let missing =
                || RuntimeError::Unsupported { what: format!("state {:?} without an initial value", state.port.name) };
            Ok((state.port.region, constant.cloned().ok_or_else(missing)?))
        };
        Ok(States { initial: plan.states.iter().map(initial).collect::<Result<_, RuntimeError>>()?, is_torn: false })
    }

    pub(super) fn write(&self, memory: &mut Memory) -> Result<(), RuntimeError> {
        for (region, tensor) in &self.initial {
            let bytes =
                tensor.bytes().map_err(|e| RuntimeError::Unsupported { what: format!("an initial value: {e}") })?;
            let source = match tensor.ty().shape.rank() {
                0 if bytes.iter().all(|byte| *byte == 0) => Source::Zeros(region.bytes),
                0 => Source::Fill(bytes, region.bytes),
                _ => Source::Bytes(Cow::Borrowed(bytes)),
            };
            memory.write(&[(*region, source)])?;
        }
        Ok(())
    }
}
