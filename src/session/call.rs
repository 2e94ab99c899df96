//! Calls of entries, and tensors that stay where a session runs.

use super::cpu::CpuError;
use super::run::{Outcome, Session, SessionError};
use crate::ir::{Tensor, TensorType};
use crate::program::{Entry, GraphError};
use std::collections::BTreeMap;

pub(super) fn output_number(entry: &Entry, name: &str) -> Result<usize, SessionError> {
    let number = entry.outputs.iter().position(|port| port.name == name);
    number.ok_or_else(|| SessionError::Port { what: "output", name: name.to_owned(), entry: entry.name.clone() })
}

/// A tensor that stays where a session runs: on its device, or in the host's memory for the CPU reference. It lives as
/// long as its owner keeps it, and counts against the budget of the program that made it.
pub struct DeviceTensor(pub(super) Held);

pub(super) enum Held {
    #[cfg(feature = "runtime")]
    Device(crate::runtime::DeviceTensor),
    Host(Option<Tensor>),
}

impl DeviceTensor {
    /// Its type; `None` before a run wrote it.
    pub fn ty(&self) -> Option<TensorType> {
        match &self.0 {
            #[cfg(feature = "runtime")]
            Held::Device(tensor) => tensor.ty(),
            Held::Host(tensor) => tensor.as_ref().map(|tensor| tensor.ty().clone()),
        }
    }
}

/// A call of one entry: what it is to find and to leave on the device is said first, then it runs.
pub struct Call<'a> {
    pub(super) session: &'a mut Session,
    pub(super) entry: usize,
    pub(super) given: BTreeMap<usize, &'a DeviceTensor>,
    pub(super) kept: BTreeMap<usize, &'a mut DeviceTensor>,
}

impl<'a> Call<'a> {
    fn of(&self) -> Result<&Entry, SessionError> {
        let entry = self.session.program().plans.first().and_then(|plan| plan.entries.get(self.entry));
        Ok(entry.ok_or(CpuError::Graph(GraphError::Plan(0)))?)
    }

    /// Gives a tensor that lies on the device for the input of this name.
    ///
    /// # Errors
    /// The entry has no such input.
    pub fn give(mut self, input: &str, tensor: &'a DeviceTensor) -> Result<Call<'a>, SessionError> {
        let entry = self.of()?;
        let number = entry.inputs.iter().position(|port| port.name == input);
        let missing = || SessionError::Port { what: "input", name: input.to_owned(), entry: entry.name.clone() };
        let number = number.ok_or_else(missing)?;
        self.given.insert(number, tensor);
        Ok(self)
    }

    /// Keeps the output of this name on the device, in `tensor`: the host does not get it.
    ///
    /// # Errors
    /// The entry has no such output.
    pub fn keep(mut self, output: &str, tensor: &'a mut DeviceTensor) -> Result<Call<'a>, SessionError> {
        let number = output_number(self.of()?, output)?;
        self.kept.insert(number, tensor);
        Ok(self)
    }

    /// Runs the entry once. Inputs are those that were not given on the device, outputs those that are not kept there,
    /// both in the order of the entry's ports.
    ///
    /// # Errors
    /// As [`Session::run`], and where a tensor on the device is not what its port takes.
    pub fn run(self, inputs: &[Tensor]) -> Result<Outcome, SessionError> {
        self.session.call(self.entry, inputs, self.given, self.kept, false, &mut |_, _| {})
    }

    /// The same on arrays named as the inputs.
    ///
    /// # Errors
    /// An array is no input, one is missing, or as [`Call::run`].
    pub fn run_named(self, arrays: BTreeMap<String, Tensor>) -> Result<Outcome, SessionError> {
        let entry = self.of()?;
        let rest = entry.inputs.iter().enumerate().filter(|(i, _)| !self.given.contains_key(i));
        let entry = Entry { inputs: rest.map(|(_, port)| port.clone()).collect(), ..entry.clone() };
        let inputs = self.session.program().inputs(&entry, arrays)?;
        self.run(&inputs)
    }
}
