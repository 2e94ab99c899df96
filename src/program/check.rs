//! What every program must keep to before a device sees it. File and runtime ask the same checks, so a file that loads
//! is one that can run.

mod states;

use super::{
    Allocation, AllocationKind, Dispatch, Entry, FAULT_BYTES, HostStep, Plan, Port, Program, Region, Shader, Step, hex,
    parse_hex,
};
use crate::ir::{Class, DType, Dim, Shape, TensorType};
use crate::program::spirv::Interface;
use crate::targets::Target;
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

    /// Checks a plan against the limits and features of `target`: the program's own, or those of the device it is to
    /// run on.
    ///
    /// # Errors
    /// There is no such plan, or the first limit that it exceeds or feature that it needs.
    pub fn check_limits(&self, plan: usize, target: &Target) -> Result<(), ProgramError> {
        let index = plan;
        let plan = self
            .plans
            .get(index)
            .ok_or_else(|| fault("program", format!("there is no plan {index} of {}", self.plans.len())))?;
        let interfaces = self.interfaces()?;
        let used: BTreeSet<&str> = dispatches(plan, index).map(|(_, d)| d.shader.as_str()).collect();
        for (key, interface) in interfaces.iter().filter(|(key, _)| used.contains(**key)) {
            let place = || format!("shader {:?}", self.shaders.get(*key).map_or("", |s: &Shader| &s.name));
            interface.granted(&target.features).map_err(|e| fault(&place(), format!("{e} ({})", target.name)))?;
            // Vulkan 1.3, appendix A: 1.1 takes SPIR-V 1.3, 1.2 takes 1.5, 1.3 and later 1.6.
            let newest = [1, [3, 5, 6][(target.vulkan[1].saturating_sub(1) as usize).min(2)]];
            if interface.version > newest {
                return Err(fault(
                    &place(),
                    format!("SPIR-V {:?}, at most {newest:?} is allowed ({})", interface.version, target.name),
                ));
            }
            at_most(
                &place,
                "bytes of shared memory",
                interface.shared_bytes,
                u64::from(target.limits.max_compute_shared_memory_size),
            )?;
            if let Some(size) = interface.local_size {
                let invocations = size.iter().fold(1u64, |n, &s| n.saturating_mul(u64::from(s)));
                at_most(
                    &place,
                    "invocations of a workgroup",
                    invocations,
                    u64::from(target.limits.max_compute_work_group_invocations),
                )?;
                for (axis, (&given, &limit)) in size.iter().zip(&target.limits.max_compute_work_group_size).enumerate()
                {
                    at_most(&place, &format!("invocations along axis {axis}"), u64::from(given), u64::from(limit))?;
                }
            }
        }
        for (i, allocation) in plan.allocations.iter().enumerate() {
            let place = || format!("plan {index}, allocation {i}");
            at_most(&place, "bytes of an allocation", allocation.bytes, target.limits.max_memory_allocation_size)?;
        }
        dispatches(plan, index)
            .try_for_each(|(place, dispatch)| limits(place.1, dispatch, target, &|| place.to_string()))
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

fn at_most(place: &dyn Fn() -> String, what: &str, given: u64, limit: u64) -> Checked {
    if given <= limit { Ok(()) } else { Err(fault(&place(), format!("{given} {what}, at most {limit} are allowed"))) }
}

/// Where a dispatch stands; formatted only when something is wrong.
struct DispatchPlace<'a>(usize, &'a Entry, usize, usize, &'a str);

impl std::fmt::Display for DispatchPlace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "plan {}, entry {:?}, step {}, dispatch {} ({})", self.0, self.1.name, self.2, self.3, self.4)
    }
}

fn dispatches(plan: &Plan, index: usize) -> impl Iterator<Item = (DispatchPlace<'_>, &Dispatch)> {
    plan.entries.iter().flat_map(move |entry| {
        entry.steps.iter().enumerate().flat_map(move |(s, step)| {
            let dispatches = if let Step::Device(dispatches) = step { dispatches.as_slice() } else { &[] };
            dispatches
                .iter()
                .enumerate()
                .map(move |(d, dispatch)| (DispatchPlace(index, entry, s, d, &dispatch.node), dispatch))
        })
    })
}

fn limits(entry: &Entry, dispatch: &Dispatch, target: &Target, place: &dyn Fn() -> String) -> Checked {
    let l = &target.limits;
    let n_bindings = dispatch.bindings.len() as u64;
    at_most(place, "storage buffers", n_bindings, u64::from(l.max_per_stage_descriptor_storage_buffers))?;
    if let Some(limit) = l.max_loop_iterations {
        at_most(place, "loop iterations of an invocation", dispatch.loop_iterations, limit)?;
    }
    for (b, region) in dispatch.bindings.iter().enumerate() {
        at_most(place, &format!("bytes at binding {b}"), region.bytes, l.max_storage_buffer_range)?;
        aligned(place, &format!("binding {b}"), region.offset, target.alignment())?;
    }
    at_most(place, "bytes of parameters", dispatch.params.len() as u64 * 4, l.max_uniform_buffer_range)?;
    if !dispatch.params.is_empty() {
        aligned(place, "the parameters", dispatch.params_offset, l.min_uniform_buffer_offset_alignment)?;
    }
    for (axis, (given, &limit)) in dispatch.groups.iter().zip(&l.max_compute_work_group_count).enumerate() {
        // That no size is negative is seen by a run: bounds of a difference say less than is true.
        let least = i64::from(given.known().is_some());
        match entry.bounds(given) {
            Some((low, high)) if (low >= least || least == 0) && high <= i64::from(limit) => {}
            _ => {
                return Err(fault(
                    &place(),
                    format!("{given} workgroups along axis {axis}, {least} to {limit} are allowed"),
                ));
            }
        }
    }
    for (word, value) in dispatch.params.iter().enumerate() {
        let fits = entry.bounds(value).is_some_and(|(_, high)| high <= i64::from(u32::MAX));
        if !fits || value.known().is_some_and(|v| v < 0) {
            return Err(fault(
                &place(),
                format!(
                    "parameter {word} is {value}, which may not fit in 32 bits or has a size that no input determines"
                ),
            ));
        }
    }
    Ok(())
}

fn aligned(place: &dyn Fn() -> String, what: &str, offset: u64, alignment: u64) -> Checked {
    if offset.is_multiple_of(alignment) {
        Ok(())
    } else {
        Err(fault(&place(), format!("{what} is at offset {offset}, which is no multiple of {alignment}")))
    }
}

/// The promise of the budget: allocations, ledger and peak agree, and keep the budget less the reserve.
fn memory(plan: &Plan, target: &Target, index: usize) -> Checked {
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
                        self.dispatch(&DispatchPlace(self.index, entry, s, d, &dispatch.node), dispatch)?;
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

    fn dispatch(&self, place: &DispatchPlace<'_>, dispatch: &Dispatch) -> Checked {
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
        if let Some(check) = &dispatch.check {
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
            if let Some(size) = check.sizes.iter().find(|size| place.1.bounds(size).is_none()) {
                return Err(fault(
                    &place.to_string(),
                    format!("it checks indices against {size}, which no input determines"),
                ));
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

    /// The sizes of an entry have ranges and names of their own, and each is defined, by the shape of an input or of a
    /// host step's result, before it is used.
    fn sizes(&self, entry: &Entry, at: &str) -> Checked {
        for (i, size) in entry.sizes.iter().enumerate() {
            let place = format!("{at}, size {:?}", size.name);
            if size.min < 0 || size.max < size.min || size.max > 1 << 31 {
                return Err(fault(&place, format!("{}..{} is no range of sizes", size.min, size.max)));
            }
            if entry.sizes.iter().take(i).any(|other| other.name == size.name) {
                return Err(fault(&place, "is listed twice".to_owned()));
            }
        }
        if entry.sizes.is_empty() {
            return Ok(());
        }
        let mut defined: BTreeSet<&str> = BTreeSet::new();
        add_defined(&entry.inputs, &mut defined);
        let known = |place: &str, dims: &mut dyn Iterator<Item = &Dim>, defined: &BTreeSet<&str>| {
            let mut missing = None;
            dims.for_each(|dim| {
                dim.for_each_symbol(&mut |symbol| {
                    missing = (!defined.contains(symbol.name())).then(|| symbol.clone()).or(missing.take())
                })
            });
            missing.map_or(Ok(()), |symbol| {
                Err(fault(place, format!("nothing before it determines the size {:?}", symbol.name())))
            })
        };
        fn shapes(ports: &[Port]) -> impl Iterator<Item = &Dim> {
            ports.iter().flat_map(|port| &port.shape)
        }
        known(at, &mut shapes(&entry.inputs), &defined)?;
        for (s, step) in entry.steps.iter().enumerate() {
            match step {
                Step::Device(dispatches) => {
                    for (d, dispatch) in dispatches
                        .iter()
                        .enumerate()
                        .filter(|(_, d)| d.is_indirect() || d.params.iter().any(|word| word.known().is_none()))
                    {
                        let place = DispatchPlace(self.index, entry, s, d, &dispatch.node).to_string();
                        known(&place, &mut dispatch.params.iter().chain(&dispatch.groups), &defined)?;
                    }
                }
                Step::Host(HostStep { node, inputs, outputs }) => {
                    let place = format!("{at}, step {s}, host node {node:?}");
                    known(&place, &mut inputs.iter().flatten().flat_map(|port| &port.shape), &defined)?;
                    add_defined(outputs, &mut defined);
                    known(&place, &mut shapes(outputs), &defined)?;
                }
            }
        }
        known(at, &mut shapes(&entry.outputs), &defined)
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

    /// Parameters are in their allocation, and where two dispatches share bytes of it they agree on them.
    fn params(&self) -> Checked {
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

/// Adds the sizes that the shapes of `ports` determine.
fn add_defined<'a>(ports: &'a [Port], defined: &mut BTreeSet<&'a str>) {
    defined.extend(
        ports.iter().flat_map(|port| &port.shape).filter_map(|dim| dim.solved_symbol().map(|symbol| symbol.name())),
    );
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
