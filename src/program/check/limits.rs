//! What a plan takes against the limits and features of a target.

use super::place::dispatches;
use super::{Checked, ProgramError, fault};
use crate::program::spirv::Interface;
use crate::program::{Dispatch, Entry, Program, Shader};
use crate::targets::Target;
use std::collections::BTreeSet;

impl Program {
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
            shader(interface, target, &place)?;
        }
        for (i, allocation) in plan.allocations.iter().enumerate() {
            let place = || format!("plan {index}, allocation {i}");
            at_most(&place, "bytes of an allocation", allocation.bytes, target.limits.max_memory_allocation_size)?;
        }
        dispatches(plan, index)
            .try_for_each(|(place, dispatch)| limits(place.entry, dispatch, target, &|| place.to_string()))
    }
}

fn shader(interface: &Interface, target: &Target, place: &dyn Fn() -> String) -> Checked {
    interface.granted(&target.features).map_err(|e| fault(&place(), format!("{e} ({})", target.name)))?;
    // Vulkan 1.3, appendix A: 1.1 takes SPIR-V 1.3, 1.2 takes 1.5, 1.3 and later 1.6.
    let newest = [1, [3, 5, 6][(target.vulkan[1].saturating_sub(1) as usize).min(2)]];
    if interface.version > newest {
        let text = format!("SPIR-V {:?}, at most {newest:?} is allowed ({})", interface.version, target.name);
        return Err(fault(&place(), text));
    }
    let limits = &target.limits;
    let shared_bytes = u64::from(limits.max_compute_shared_memory_size);
    at_most(place, "bytes of shared memory", interface.shared_bytes, shared_bytes)?;
    let Some(size) = interface.local_size else { return Ok(()) };
    let invocations = size.iter().fold(1u64, |n, &s| n.saturating_mul(u64::from(s)));
    let most = u64::from(limits.max_compute_work_group_invocations);
    at_most(place, "invocations of a workgroup", invocations, most)?;
    for (axis, (&given, &limit)) in size.iter().zip(&limits.max_compute_work_group_size).enumerate() {
        at_most(place, &format!("invocations along axis {axis}"), u64::from(given), u64::from(limit))?;
    }
    Ok(())
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

fn at_most(place: &dyn Fn() -> String, what: &str, given: u64, limit: u64) -> Checked {
    if given <= limit { Ok(()) } else { Err(fault(&place(), format!("{given} {what}, at most {limit} are allowed"))) }
}

pub(super) fn aligned(place: &dyn Fn() -> String, what: &str, offset: u64, alignment: u64) -> Checked {
    if offset.is_multiple_of(alignment) {
        Ok(())
    } else {
        Err(fault(&place(), format!("{what} is at offset {offset}, which is no multiple of {alignment}")))
    }
}
