//! A plan on a device, ready to run.

use super::convert::Source;
use super::memory::Memory;
use super::params::Params;
use super::pool::Pool;
use super::run::{Known, Run, at, exact, fetched, sizes_of};
use super::segment::Segment;
use super::states::States;
use super::tensor::{DeviceTensor, Given};
use super::timeline::Timeline;
use super::vk::{Bound, Commands, Pipelines, Tally, VkContext};
use super::{HostError, RuntimeError};
use crate::ir::Tensor;
use crate::program::profile::{Span, Work};
use crate::program::{
    AllocationKind, CLEAR, Dispatch, Entry, FAULT_BYTES, HostStep, IndexCheck, Plan, Port, Program, ProgramError,
    Region, Sizes, Step, parse_hex,
};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Computes a node that no kernel covers: its name in [`Plan::graph`], its operands by slot, absent where the program
/// has none on the device, and the sizes of this run as far as they are known.
pub type HostFn<'a> = &'a dyn Fn(&str, &[Option<Tensor>], &Sizes) -> Result<Vec<Tensor>, HostError>;

/// What a run gives.
#[derive(Clone, Debug)]
pub struct RunOutput {
    /// The entry's outputs, in its order, in the model's types.
    pub outputs: Vec<Tensor>,
    /// Time that the device spent in dispatches, in milliseconds; `None` where its queue has no timestamps.
    pub device_ms: Option<f64>,
    /// What happened when, where profiling is on. Profiled dispatches run one after the other.
    pub profile: Option<Vec<Span>>,
    /// What the host had the queue do.
    pub work: Work,
}

/// A plan on a device. Everything it holds there is made by [`Executor::load`] and goes with it.
pub struct Executor {
    // In the order in which they must go: commands, then what they use.
    entries: Vec<Loaded>,
    /// Copies between regions and tensors outside of the plan.
    copies: Option<Commands>,
    _pipelines: Pipelines,
    memory: Memory,
    params: Params,
    pool: Pool,
    planned_peak_bytes: u64,
    profiling: bool,
    states: States,
    /// What the plan and tensors outside of it may take together, in bytes.
    budget_bytes: u64,
    tally: Arc<Tally>,
    context: VkContext,
}

struct Loaded {
    /// The entry without its steps.
    entry: Entry,
    steps: Vec<LoadedStep>,
    /// Where dispatches note indices out of range, in the order in which they run.
    checks: Vec<(Region, IndexCheck)>,
    /// Whether nothing is noted there: the last run read it back so.
    is_clear: bool,
}

pub(super) enum LoadedStep {
    Device(Segment),
    Host(HostStep),
}

impl Executor {
    /// Loads a plan: makes its memory, uploads its constants, compiles its shaders, records its commands.
    ///
    /// # Errors
    /// The program is not valid, needs what the device lacks, or does not fit; then nothing is left on the device.
    pub fn load(program: &Program, plan: usize, context: &VkContext) -> Result<Executor, RuntimeError> {
        program.check()?;
        let index = plan;
        let plan = program
            .plans
            .get(index)
            .ok_or_else(|| RuntimeError::Unsupported { what: format!("plan {index} of {}", program.plans.len()) })?;
        let mut target = context.info().target.clone();
        target.features = context.enabled().clone();
        let lacking = |e: ProgramError| RuntimeError::Unsupported {
            what: format!("this program, which was compiled for {}: {e}", program.target.name),
        };
        program.check_limits(index, &target).map_err(lacking)?;

        let tally = Arc::new(Tally::default());
        let mut memory = Memory::new(context, &tally, program, plan)?;
        let dispatches: Vec<&Dispatch> =
            plan.entries.iter().flat_map(|entry| entry.steps.iter().flat_map(of_step)).collect();
        let params_at = plan.allocations.iter().position(|a| a.kind == AllocationKind::Params);
        let params = Params::new(dispatches.iter().copied(), params_at.map_or(u32::MAX, |i| i as u32));
        upload(&mut memory, program, plan)?;
        let states = States::of(program, plan)?;
        states.write(&mut memory)?;
        memory.write(&params.uploads())?;
        let (pipelines, bound) = Pipelines::new(context, &program.shaders, &dispatches, memory.buffers(), params_at)?;
        let mut bound = bound.into_iter();
        let mut executor = Executor {
            entries: Vec::new(),
            copies: None,
            _pipelines: pipelines,
            memory,
            params,
            pool: Pool::default(),
            planned_peak_bytes: plan.planned_peak_bytes,
            profiling: false,
            states,
            budget_bytes: plan.budget_bytes.saturating_sub(plan.reserve_bytes),
            tally,
            context: context.clone(),
        };
        for entry in &plan.entries {
            let loaded = executor.load_entry(program, entry, &mut bound)?;
            executor.entries.push(loaded);
        }
        // Uploads end here, so that the first run does not pay for them and a failure shows now.
        executor.memory.settle()?;
        Ok(executor)
    }

    fn load_entry(
        &self,
        program: &Program,
        entry: &Entry,
        bound: &mut impl Iterator<Item = Bound>,
    ) -> Result<Loaded, RuntimeError> {
        let mut steps = Vec::new();
        for (i, step) in entry.steps.iter().enumerate() {
            match step {
                Step::Host(host) => steps.push(LoadedStep::Host(host.clone())),
                Step::Device(dispatches) if dispatches.is_empty() => {}
                Step::Device(dispatches) => {
                    let kernel =
                        |d: &Dispatch| program.shaders.get(&d.shader).map(|s| s.name.clone()).unwrap_or_default();
                    let bound = dispatches.iter().zip(bound.by_ref()).map(|(d, bound)| (bound, kernel(d))).collect();
                    let mut segment = Segment::new(dispatches, bound, wanted(entry, i + 1));
                    // Where it depends on sizes what is recorded, the first run at them does it.
                    if !segment.changes() {
                        segment.recording(&self.context, &self.tally, self.profiling)?;
                    }
                    steps.push(LoadedStep::Device(segment));
                }
            }
        }
        let checks = entry.steps.iter().flat_map(of_step).filter_map(|dispatch| {
            let check = dispatch.check.as_ref()?;
            Some((*dispatch.bindings.get(check.binding as usize)?, check.clone()))
        });
        let (checks, entry) = (checks.collect(), Entry { steps: Vec::new(), ..entry.clone() });
        Ok(Loaded { entry, steps, checks, is_clear: false })
    }

    /// Runs the first entry, which must have no host steps.
    ///
    /// # Errors
    /// As for [`Executor::run_entry`].
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<RunOutput, RuntimeError> {
        let entry = self.entries.first().map(|loaded| loaded.entry.name.clone()).unwrap_or_default();
        self.run_entry(&entry, inputs, &|_, _, _| {
            Err("this run has nobody to compute it on the host".to_owned().into())
        })
    }

    /// Whether something outlives its runs.
    pub fn has_states(&self) -> bool {
        !self.states.initial.is_empty()
    }

    /// Makes all states what they were before the first run.
    ///
    /// # Errors
    /// The device fails.
    pub fn reset(&mut self) -> Result<(), RuntimeError> {
        self.memory.begin()?;
        self.states.is_torn = true;
        self.states.write(&mut self.memory)?;
        self.memory.settle()?;
        self.states.is_torn = false;
        Ok(())
    }

    /// A tensor on the device that holds an output of an entry, however large the run makes it.
    ///
    /// # Errors
    /// There is no such output, the budget does not leave so many bytes beside the plan, or the device fails.
    pub fn tensor(&mut self, entry: &str, output: &str) -> Result<DeviceTensor, RuntimeError> {
        let entry = self.entries.iter().find(|e| e.entry.name == entry).ok_or_else(|| no_entry(entry))?;
        let Some(port) = entry.entry.outputs.iter().find(|port| port.name == output) else {
            let fault = "the entry has no such output".to_owned();
            return Err(RuntimeError::Input { name: output.to_owned(), fault });
        };
        let buffer = self.memory.outside(&self.context, port.region.bytes, self.budget_bytes)?;
        Ok(DeviceTensor::new(buffer, &self.context, port))
    }

    /// Runs an entry. Inputs come in the entry's order, in the model's types and shapes.
    ///
    /// # Errors
    /// An input is not what its port takes, an index is out of range, a host step fails, or the device does. After all
    /// but the last the executor runs on; where it has states and the run had begun, after [`Executor::reset`].
    pub fn run_entry(&mut self, entry: &str, inputs: &[Tensor], host: HostFn<'_>) -> Result<RunOutput, RuntimeError> {
        let inputs: Vec<Given<'_>> = inputs.iter().map(Given::Host).collect();
        self.run_bound(entry, &inputs, &mut [], host)
    }

    /// Runs an entry with inputs that may be on the device, and keeps the outputs of these indices there: the others
    /// are what the run gives.
    ///
    /// # Errors
    /// As for [`Executor::run_entry`], and where a tensor on the device is not what its port takes.
    pub fn run_bound(
        &mut self,
        entry: &str,
        inputs: &[Given<'_>],
        kept: &mut [(usize, &mut DeviceTensor)],
        host: HostFn<'_>,
    ) -> Result<RunOutput, RuntimeError> {
        let Executor { entries, copies, memory, params, pool, profiling, states, tally, context, .. } = self;
        let before = tally.so_far();
        let Some(Loaded { entry, steps, checks, is_clear }) = entries.iter_mut().find(|e| e.entry.name == entry) else {
            return Err(no_entry(entry));
        };
        let sizes = sizes_of(entry, inputs)?;
        if states.is_torn {
            return Err(RuntimeError::Torn);
        }
        let timeline = profiling.then(Timeline::new);
        let (known, device_ms) = (Known::new(), Some(0.0));
        let mut run = Run { entry, checks, memory, params, pool, tally, context, sizes, known, timeline, device_ms };
        // All are looked at before the first is written, so a refused run leaves the device's tensors alone.
        let (mut uploads, inward) = run.inputs(inputs)?;
        let fetched = fetched(entry, kept);
        for (output, tensor) in kept.iter_mut() {
            let port = entry.outputs.get(*output).ok_or_else(|| no_output(*output))?;
            tensor.check_output(&port.at(&entry.largest()).unwrap_or_else(|| port.clone()), context)?;
            tensor.forget();
        }
        if !std::mem::replace(is_clear, checks.is_empty()) {
            let clear = || Source::Bytes(Cow::Borrowed(&[CLEAR; FAULT_BYTES as usize]));
            uploads.extend(checks.iter().map(|(region, _)| (*region, clear())));
        }
        run.memory.begin()?;
        states.is_torn = !states.initial.is_empty();
        run.memory.write(&uploads)?;
        drop(uploads);
        if copies.is_none() && !(inward.is_empty() && kept.is_empty()) {
            *copies = Some(Commands::new(context, tally)?);
        }
        if let Some(copies) = copies {
            run.memory.copy(context, copies, &inward, true)?;
        }
        if let Some(timeline) = &mut run.timeline {
            timeline.host("write inputs");
        }
        let outputs = run.steps(steps, &fetched, host)?;
        if let Some(copies) = copies.as_mut().filter(|_| !kept.is_empty()) {
            let ports: Vec<Port> = kept.iter().filter_map(|(output, _)| entry.outputs.get(*output).cloned()).collect();
            let ports = at(&ports, &run.sizes)?;
            let outward: Vec<_> =
                ports.iter().zip(kept.iter()).map(|(port, (_, t))| (exact(port), &t.buffer)).collect();
            run.memory.copy(context, copies, &outward, false)?;
            ports.iter().zip(kept.iter_mut()).for_each(|(port, (_, tensor))| tensor.set_shape(port));
        }
        *is_clear = true;
        states.is_torn = false;
        let Run { mut timeline, device_ms, .. } = run;
        if let Some(timeline) = &mut timeline {
            timeline.host("read outputs");
        }
        let after = tally.so_far();
        let [submits, waits, recorded] = std::array::from_fn(|i| after[i] - before[i]);
        let (work, profile) = (Work { submits, waits, recorded }, timeline.map(Timeline::finish));
        Ok(RunOutput { outputs, device_ms, profile, work })
    }

    /// Turns times for each dispatch on or off. While on, each dispatch waits for the one before.
    ///
    /// # Errors
    /// The device fails, or its queue has no timestamps.
    pub fn set_profiling(&mut self, on: bool) -> Result<(), RuntimeError> {
        if on && !self.context.has_timestamps() {
            return Err(RuntimeError::Unsupported { what: "timestamps on its compute queue".to_owned() });
        }
        self.profiling = on;
        Ok(())
    }

    /// The most bytes that load and runs held so far, in the heaps that the budget is about: the high-water mark of the
    /// sum of `VkMemoryAllocateInfo::allocationSize`.
    pub fn measured_peak_bytes(&self) -> u64 {
        self.memory.peak_bytes()
    }

    /// What the plan says that is at most.
    pub fn planned_peak_bytes(&self) -> u64 {
        self.planned_peak_bytes
    }

    /// The device.
    pub fn context(&self) -> &VkContext {
        &self.context
    }

    /// Names of the nodes that run on the host, in order.
    pub fn host_nodes(&self) -> Vec<&str> {
        let steps = self.entries.iter().flat_map(|entry| &entry.steps);
        steps
            .filter_map(|step| if let LoadedStep::Host(host) = step { Some(host.node.as_str()) } else { None })
            .collect()
    }
}

fn no_entry(entry: &str) -> RuntimeError {
    RuntimeError::Unsupported { what: format!("entry {entry:?}, which the program does not have") }
}

fn no_output(output: usize) -> RuntimeError {
    RuntimeError::Unsupported { what: format!("output {output}, which the entry does not have") }
}

fn of_step(step: &Step) -> &[Dispatch] {
    if let Step::Device(dispatches) = step { dispatches } else { &[] }
}

/// What the host needs once the dispatches before step `next` are done: operands of the host steps up to the next
/// dispatches, and where there are no more, outputs; as far as those host steps do not make them.
fn wanted(entry: &Entry, next: usize) -> Vec<Port> {
    let place = |port: &Port| (port.region.allocation, port.region.offset);
    let (mut made, mut wanted) = (BTreeSet::new(), Vec::new());
    let mut is_over = true;
    for step in entry.steps.iter().skip(next) {
        match step {
            Step::Host(host) => {
                for port in host.inputs.iter().flatten() {
                    if made.insert(place(port)) {
                        wanted.push(port.clone());
                    }
                }
                made.extend(host.outputs.iter().map(place));
            }
            Step::Device(list) if list.is_empty() => {}
            Step::Device(_) => {
                is_over = false;
                break;
            }
        }
    }
    if is_over {
        wanted.extend(entry.outputs.iter().filter(|port| made.insert(place(port))).cloned());
    }
    wanted
}

/// Sends constants on their way.
fn upload(memory: &mut Memory, program: &Program, plan: &Plan) -> Result<(), RuntimeError> {
    for upload in &plan.uploads {
        let constant = parse_hex(&upload.constant).and_then(|hash| program.constants.get(&hash));
        let bytes = constant.and_then(|tensor| tensor.bytes().ok());
        let bytes = bytes
            .ok_or_else(|| RuntimeError::Unsupported { what: format!("constant {} without data", upload.constant) })?;
        memory.write(&[(upload.region, Source::Bytes(Cow::Borrowed(bytes)))])?;
    }
    Ok(())
}
