//! What every program must keep to before a device sees it. File and runtime ask the same checks, so a file that loads
//! is one that can run.

mod dispatch;
mod limits;
mod memory;
mod place;
mod sizes;
mod states;

use super::{AllocationKind, Entry, HostStep, Plan, Port, Program, Region, Step, hex, parse_hex};
use crate::ir::{Class, DType, Dim, Shape, TensorType};
use crate::program::spirv::Interface;
use limits::aligned;
use memory::memory;
use place::DispatchPlace;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a program, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct ProgramError {
    place: String,
    fault: String,
}

impl ProgramError {
    /// Where: plan, entry, step, dispatch.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// What, with the numbers.
    pub fn fault(&self) -> &str {
        &self.fault
    }
}

type Checked = Result<(), ProgramError>;

impl Program {
    /// Checks all that can be checked without a device: hashes, sizes, regions, and the limits and features of its own
    /// target.
    ///
    /// # Errors
    /// The first fault, with its place and the numbers.
    pub fn check(&self) -> Result<(), ProgramError> {
        self.target.check().map_err(|e| fault("target", e.to_string()))?;
        if self.plans.is_empty() {
            return Err(fault("program", "there is no plan".to_owned()));
        }
        // Hashing is the long part of loading: gigabytes of weights.
        let constants: Vec<_> = self.constants.iter().collect();
        constants.par_iter().try_for_each(|&(key, tensor)| {
            let place = || format!("constant {}", hex(*key));
            if !tensor.is_present() {
                return Err(fault(&place(), "its data is absent".to_owned()));
            }
            if tensor.hash() == *key || cfg!(fuzzing) {
                Ok(())
            } else {
                Err(fault(&place(), format!("its content has the hash {}", hex(tensor.hash()))))
            }
        })?;
        for (key, shader) in &self.shaders {
            let found = shader.hash();
            if found != *key && !cfg!(fuzzing) {
                return Err(fault(
                    &format!("shader {:?}", shader.name),
                    format!("its key is {key}, its content has the hash {found}"),
                ));
            }
        }
        for (index, plan) in self.plans.iter().enumerate() {
            memory(plan, &self.target, index)?;
            Scope::of(self, plan, index).check()?;
        }
        (0..self.plans.len()).try_for_each(|plan| self.check_limits(plan, &self.target))
    }

    fn interfaces(&self) -> Result<BTreeMap<&str, Interface>, ProgramError> {
        let mut interfaces = BTreeMap::new();
        for (key, shader) in &self.shaders {
            let interface = Interface::read(&shader.spirv)
                .map_err(|e| fault(&format!("shader {:?}", shader.name), e.to_string()))?;
            interfaces.insert(key.as_str(), interface);
        }
        Ok(interfaces)
    }
}

fn fault(place: &str, fault: String) -> ProgramError {
    ProgramError { place: place.to_owned(), fault }
}

/// One plan while it is checked.
struct Scope<'a> {
    program: &'a Program,
    plan: &'a Plan,
    index: usize,
    params: Option<(u32, u64)>,
    interfaces: BTreeMap<&'a str, Interface>,
}

impl<'a> Scope<'a> {
    fn of(program: &'a Program, plan: &'a Plan, index: usize) -> Scope<'a> {
        let params = plan
            .allocations
            .iter()
            .zip(0u32..)
            .find(|(a, _)| a.kind == AllocationKind::Params)
            .map(|(a, i)| (i, a.bytes));
        Scope { program, plan, index, params, interfaces: BTreeMap::new() }
    }

    fn check(mut self) -> Checked {
        self.interfaces = self.program.interfaces()?;
        for (u, upload) in self.plan.uploads.iter().enumerate() {
            let place = format!("plan {}, upload {u}", self.index);
            let constant = parse_hex(&upload.constant).and_then(|hash| self.program.constants.get(&hash));
            let Some(needed) = constant.and_then(|tensor| tensor.ty().bytes()) else {
                return Err(fault(&place, format!("there is no constant {}", upload.constant)));
            };
            self.region(&place, &upload.region, 4)?;
            sized(&place, "the constant", upload.region.bytes, needed)?;
        }
        self.states()?;
        let mut names = BTreeSet::new();
        for entry in &self.plan.entries {
            if !names.insert(entry.name.as_str()) {
                return Err(fault(&format!("plan {}", self.index), format!("two entries are named {:?}", entry.name)));
            }
            self.entry(entry)?;
        }
        if names.is_empty() {
            return Err(fault(&format!("plan {}", self.index), "there is no entry".to_owned()));
        }
        self.params()
    }

    fn entry(&self, entry: &Entry) -> Checked {
        let at = format!("plan {}, entry {:?}", self.index, entry.name);
        self.sizes(entry, &at)?;
        self.defaults(entry, &at)?;
        for (what, ports) in [("input", &entry.inputs), ("output", &entry.outputs)] {
            ports.iter().try_for_each(|port| self.port(entry, &format!("{at}, {what} {:?}", port.name), port))?;
        }
        for (s, step) in entry.steps.iter().enumerate() {
            match step {
                Step::Device(dispatches) => {
                    for (d, dispatch) in dispatches.iter().enumerate() {
                        let (plan, node) = (self.index, &dispatch.node);
                        self.dispatch(&DispatchPlace { plan, entry, step: s, dispatch: d, node }, dispatch)?;
                    }
                }
                Step::Host(HostStep { node, inputs, outputs }) => {
                    let place = format!("{at}, step {s}, host node {node:?}");
                    inputs.iter().flatten().chain(outputs).try_for_each(|port| self.port(entry, &place, port))?;
                }
            }
        }
        Ok(())
    }

    /// Every default is a constant of its input's type.
    fn defaults(&self, entry: &Entry, at: &str) -> Checked {
        for (name, constant) in &entry.defaults {
            let place = format!("{at}, default of input {name:?}");
            let tensor = parse_hex(constant).and_then(|hash| self.program.constants.get(&hash));
            let port = entry.inputs.iter().find(|port| port.name == *name);
            let (Some(tensor), Some(port)) = (tensor, port) else {
                return Err(fault(&place, format!("there is no constant {constant}, or no such input")));
            };
            let wanted = TensorType::new(port.dtype, Shape(port.shape.clone()));
            if *tensor.ty() != wanted {
                return Err(fault(&place, format!("it is {}, the input is {wanted}", tensor.ty())));
            }
        }
        Ok(())
    }

    fn region(&self, place: &str, region: &Region, alignment: u64) -> Checked {
        let Some(allocation) = self.plan.allocations.get(region.allocation as usize) else {
            return Err(fault(
                place,
                format!("there is no allocation {} of {}", region.allocation, self.plan.allocations.len()),
            ));
        };
        if allocation.kind == AllocationKind::Staging {
            return Err(fault(
                place,
                format!("allocation {} is the staging ring, which holds no tensors", region.allocation),
            ));
        }
        if region.offset.checked_add(region.bytes).is_none_or(|end| end > allocation.bytes) {
            let Region { allocation: index, offset, bytes } = region;
            return Err(fault(
                place,
                format!("{bytes} bytes at offset {offset} leave allocation {index} of {} bytes", allocation.bytes),
            ));
        }
        aligned(&|| place.to_owned(), "the region", region.offset, alignment)
    }

    fn port(&self, entry: &Entry, place: &str, port: &Port) -> Checked {
        let fits = match port.dtype.class() {
            Class::Float if port.dtype == DType::F64 => port.device_dtype == DType::F64,
            Class::Float => matches!(port.device_dtype, DType::F32 | DType::F16),
            Class::Int | Class::Bool => port.dtype.on_device() == Some(port.device_dtype),
            Class::Text => false,
        };
        if !fits {
            return Err(fault(place, format!("{} cannot be on the device as {}", port.dtype, port.device_dtype)));
        }
        let shape = Shape(port.shape.clone());
        let most = |dim: &Dim| {
            entry
                .bounds(dim)
                .filter(|(low, _)| dim.known().is_none() || *low >= 0)
                .map(|(_, high)| Dim::Known(high.max(0)))
        };
        let largest = shape.0.iter().map(most).collect::<Option<_>>().map(Shape);
        let Some(needed) = largest.and_then(|shape| shape.n_elems()).and_then(|n| port.device_dtype.bytes(n)) else {
            return Err(fault(place, format!("its shape {shape} has no known size")));
        };
        self.region(place, &port.region, 4)?;
        sized(place, &format!("{}{shape}", port.device_dtype), port.region.bytes, needed)
    }
}

/// A region holds what is stored in it, with padding below 256 bytes, the largest alignment in use.
fn sized(place: &str, what: &str, given: u64, needed: u64) -> Checked {
    let most = needed.checked_next_multiple_of(256).unwrap_or(needed);
    if (needed..=most).contains(&given) {
        Ok(())
    } else {
        Err(fault(place, format!("{what} needs {needed} bytes, its region has {given}")))
    }
}
