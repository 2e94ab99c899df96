//! A plan on a device, ready to run.

use super::convert::{device_bytes, from_device, to_device};
use super::memory::Memory;
use super::timeline::Timeline;
use super::vk::{Bound, Commands, Pipelines, Queries, VkContext};
use super::{HostError, RuntimeError};
use crate::ir::{Dim, Tensor};
use crate::program::profile::Span;
use crate::program::{
    AllocationKind, CLEAR, Dispatch, Entry, FAULT_BYTES, HostStep, IndexCheck, Plan, Port, Program, ProgramError,
    Region, SizeError, Sizes, Step, parse_hex,
};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Dispatches in one command buffer at most.
const MAX_RECORDED: usize = 2000;

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
}

/// A plan on a device. Everything it holds there is made by [`Executor::load`] and goes with it.
pub struct Executor {
    // In the order in which they must go: commands, then what they use.
    entries: Vec<Loaded>,
    _pipelines: Pipelines,
    memory: Memory,
    planned_peak_bytes: u64,
    profiling: bool,
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

enum LoadedStep {
    Device(Segment),
    Host(HostStep),
}

/// What a dispatch has in the memory for parameters.
struct Changing {
    region: Region,
    params: Vec<Dim>,
    groups: Vec<Dim>,
}

/// A dispatch as the commands have it.
pub(super) struct Recorded {
    pub(super) node: String,
    pub(super) kernel: String,
    bound: Bound,
    /// Whether a barrier precedes it.
    barrier: bool,
}

/// Dispatches between two host steps.
struct Segment {
    commands: Commands,
    queries: Option<Queries>,
    dispatches: Vec<Recorded>,
    /// Whether the commands are recorded with a timestamp after each dispatch; `None` before they are.
    profiled: Option<bool>,
    /// Parameters and workgroups that depend on sizes.
    changing: Vec<Changing>,
    /// The sizes for which those are written; `None` before the first run.
    at: Option<Sizes>,
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

        let mut memory = Memory::new(context, program, plan)?;
        upload(&mut memory, program, plan)?;
        let dispatches: Vec<&Dispatch> =
            plan.entries.iter().flat_map(|entry| entry.steps.iter().flat_map(of_step)).collect();
        let params = plan.allocations.iter().position(|a| a.kind == AllocationKind::Params);
        let (pipelines, bound) = Pipelines::new(context, &program.shaders, &dispatches, memory.buffers(), params)?;
        let mut bound = bound.into_iter();
        let mut executor = Executor {
            entries: Vec::new(),
            _pipelines: pipelines,
            memory,
            planned_peak_bytes: plan.planned_peak_bytes,
            profiling: false,
            context: context.clone(),
        };
        for entry in &plan.entries {
            let loaded = executor.load_entry(program, entry, params, &mut bound)?;
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
        params: Option<usize>,
        bound: &mut impl Iterator<Item = Bound>,
    ) -> Result<Loaded, RuntimeError> {
        let mut steps = Vec::new();
        for step in &entry.steps {
            match step {
                Step::Host(host) => steps.push(LoadedStep::Host(host.clone())),
                Step::Device(dispatches) if dispatches.is_empty() => {}
                Step::Device(dispatches) => {
                    let with_sizes =
                        dispatches.iter().filter_map(|d| Some((d.params_offset, Changing::of(d, params?)?)));
                    let changing: BTreeMap<u64, Changing> = with_sizes.collect();
                    let named = dispatches.iter().zip(bound.by_ref());
                    let kernel =
                        |d: &Dispatch| program.shaders.get(&d.shader).map(|s| s.name.clone()).unwrap_or_default();
                    let dispatches = named
                        .map(|(d, bound)| Recorded {
                            node: d.node.clone(),
                            kernel: kernel(d),
                            bound,
                            barrier: d.barrier,
                        })
                        .collect();
                    let commands = Commands::new(&self.context)?;
                    let mut segment = Segment {
                        commands,
                        queries: None,
                        dispatches,
                        profiled: None,
                        changing: changing.into_values().collect(),
                        at: None,
                    };
                    segment.record(&self.context, self.profiling)?;
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

    /// Runs `main`, which must have no host steps.
    ///
    /// # Errors
    /// As for [`Executor::run_entry`].
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<RunOutput, RuntimeError> {
        self.run_entry("main", inputs, &|_, _, _| {
            Err("this run has nobody to compute it on the host".to_owned().into())
        })
    }

    /// Runs an entry. Inputs come in the entry's order, in the model's types and shapes.
    ///
    /// # Errors
    /// An input is not what its port takes, an index is out of range, a host step fails, or the device does. After all
    /// but the last the executor runs on.
    pub fn run_entry(&mut self, entry: &str, inputs: &[Tensor], host: HostFn<'_>) -> Result<RunOutput, RuntimeError> {
        let Executor { entries, memory, profiling, .. } = self;
        let Some(Loaded { entry, steps, checks, is_clear }) = entries.iter_mut().find(|e| e.entry.name == entry) else {
            return Err(RuntimeError::Unsupported {
                what: format!("entry {entry:?}, which the program does not have"),
            });
        };
        if inputs.len() != entry.inputs.len() {
            let missing = entry.inputs.get(inputs.len()).map_or("none", |p| &p.name);
            let fault = format!("{} inputs given, {} wanted", inputs.len(), entry.inputs.len());
            return Err(RuntimeError::Input { name: missing.to_owned(), fault });
        }
        let mut sizes = Sizes::new();
        if !entry.sizes.is_empty() {
            let shapes: Vec<Vec<usize>> = inputs.iter().map(Tensor::dims).collect();
            sizes = entry
                .sizes_of(&shapes)
                .map_err(|SizeError { port, fault }| RuntimeError::Input { name: port, fault })?;
        }
        let mut timeline = profiling.then(Timeline::new);
        // All are looked at before the first is written, so a refused run leaves the device's tensors alone.
        let ports = at(&entry.inputs, &sizes)?;
        let converted =
            ports.iter().zip(inputs).map(|(port, tensor)| to_device(port, tensor)).collect::<Result<Vec<_>, _>>()?;
        // A run whose wait failed may still be under way: nothing is written under it.
        for step in steps.iter_mut() {
            if let LoadedStep::Device(segment) = step {
                segment.commands.wait()?;
            }
        }
        for (port, bytes) in ports.iter().zip(&converted) {
            memory.write(&port.region, bytes)?;
        }
        drop(converted);
        if !std::mem::replace(is_clear, checks.is_empty()) {
            checks.iter().try_for_each(|(region, _)| memory.write(region, &[CLEAR; FAULT_BYTES as usize]))?;
        }
        if let Some(timeline) = &mut timeline {
            timeline.host("write inputs");
        }
        let mut device_ms = Some(0.0);
        for step in steps {
            match step {
                LoadedStep::Device(segment) => {
                    segment.resize(memory, &sizes)?;
                    memory.flush()?;
                    // Only now: what was on its way when a flush failed is written again.
                    if segment.at.is_none() {
                        segment.at = Some(sizes.clone());
                    }
                    segment.commands.start()?;
                    segment.commands.wait()?;
                    let Some(queries) = &segment.queries else {
                        device_ms = None;
                        continue;
                    };
                    let ticks = queries.ticks()?;
                    let ends = ticks.first().zip(ticks.last());
                    let ms = ends.map(|(first, last)| queries.ms(*first, *last));
                    device_ms = device_ms.zip(ms).map(|(sum, ms)| sum + ms);
                    if let Some(timeline) = &mut timeline {
                        timeline.segment(&segment.dispatches, queries, &ticks);
                    }
                }
                LoadedStep::Host(step) => {
                    if let Err(error) = run_host(memory, entry, step, &mut sizes, host) {
                        // What a kernel noted before is why.
                        return Err(read_back(memory, &[], checks, &sizes).err().unwrap_or(error));
                    }
                    if let Some(timeline) = &mut timeline {
                        timeline.node(&step.node);
                    }
                }
            }
        }
        let outputs = read_back(memory, &at(&entry.outputs, &sizes)?, checks, &sizes)?;
        *is_clear = true;
        if let Some(timeline) = &mut timeline {
            timeline.host("read outputs");
        }
        Ok(RunOutput { outputs, device_ms, profile: timeline.map(Timeline::finish) })
    }

    /// Turns times for each dispatch on or off. While on, each dispatch waits for the one before.
    ///
    /// # Errors
    /// The device fails, or its queue has no timestamps.
    pub fn set_profiling(&mut self, on: bool) -> Result<(), RuntimeError> {
        for step in self.entries.iter_mut().flat_map(|entry| &mut entry.steps) {
            if let LoadedStep::Device(segment) = step {
                segment.record(&self.context, on)?;
                if on && segment.queries.is_none() {
                    return Err(RuntimeError::Unsupported { what: "timestamps on its compute queue".to_owned() });
                }
            }
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

impl Changing {
    /// What of a dispatch depends on sizes; `None` where nothing does.
    fn of(dispatch: &Dispatch, params: usize) -> Option<Changing> {
        let is_indirect = dispatch.is_indirect();
        if !is_indirect && dispatch.params.iter().all(|word| word.known().is_some()) {
            return None;
        }
        let groups = if is_indirect { dispatch.groups.as_slice() } else { &[] };
        let region = Region {
            allocation: u32::try_from(params).ok()?,
            offset: dispatch.params_offset,
            bytes: dispatch.params_bytes(),
        };
        Some(Changing { region, params: dispatch.params.clone(), groups: groups.to_vec() })
    }
}

impl Segment {
    /// Makes parameters and workgroups those of these sizes, if they are not yet. Nothing is allocated or recorded
    /// anew.
    fn resize(&mut self, memory: &mut Memory, sizes: &Sizes) -> Result<(), RuntimeError> {
        if self.changing.is_empty() || self.at.as_ref() == Some(sizes) {
            return Ok(());
        }
        self.at = None;
        for changing in &self.changing {
            let word = |dim: &Dim, least: i64| {
                dim.eval(&|name| sizes.get(name).copied()).filter(|v| (least..1 << 32).contains(v)).map(|v| v as u32)
            };
            let params = changing.params.iter().map(|dim| word(dim, -(1 << 31)));
            let words = params
                .chain(changing.groups.iter().map(|dim| word(dim, 0)))
                .collect::<Option<Vec<u32>>>()
                .ok_or_else(|| lost(sizes))?;
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            memory.write(&changing.region, &bytes)?;
        }
        Ok(())
    }

    /// Records the commands, unless they are so already.
    fn record(&mut self, context: &VkContext, profiling: bool) -> Result<(), RuntimeError> {
        if self.profiled == Some(profiling) {
            return Ok(());
        }
        self.profiled = None;
        // Commands that use the old queries must have ended, and be recorded anew, before those go: hence the order
        // here.
        self.commands.wait()?;
        let n = if profiling { self.dispatches.len() + 1 } else { 2 };
        let queries = Queries::new(context, u32::try_from(n).unwrap_or(0))?;
        let dispatches = &self.dispatches;
        self.commands.record(|recorder| {
            if let Some(queries) = &queries {
                recorder.reset(queries);
            }
            recorder.acquire();
            if let Some(queries) = &queries {
                recorder.timestamp(queries, 0);
            }
            for (i, dispatch) in dispatches.iter().enumerate() {
                if i > 0 && i.is_multiple_of(MAX_RECORDED) {
                    recorder.split()?;
                }
                if dispatch.barrier || profiling {
                    recorder.barrier();
                }
                recorder.dispatch(&dispatch.bound);
                if let Some(queries) = queries.as_ref().filter(|_| profiling || i + 1 == dispatches.len()) {
                    recorder.timestamp(queries, if profiling { i as u32 + 1 } else { 1 });
                }
            }
            recorder.release();
            Ok(())
        })?;
        self.queries = queries;
        self.profiled = Some(profiling);
        Ok(())
    }
}

fn of_step(step: &Step) -> &[Dispatch] {
    if let Step::Device(dispatches) = step { dispatches } else { &[] }
}

/// Sends constants and parameters on their way.
fn upload(memory: &mut Memory, program: &Program, plan: &Plan) -> Result<(), RuntimeError> {
    for upload in &plan.uploads {
        let constant = parse_hex(&upload.constant).and_then(|hash| program.constants.get(&hash));
        let bytes = constant.and_then(|tensor| tensor.bytes().ok());
        let bytes = bytes
            .ok_or_else(|| RuntimeError::Unsupported { what: format!("constant {} without data", upload.constant) })?;
        memory.write(&upload.region, bytes)?;
    }
    let Some(params) = plan.allocations.iter().position(|a| a.kind == AllocationKind::Params) else { return Ok(()) };
    let mut written = std::collections::BTreeSet::new();
    for dispatch in plan.entries.iter().flat_map(|entry| entry.steps.iter().flat_map(of_step)) {
        // What depends on sizes is written once a run tells them.
        let words: Option<Vec<u32>> = dispatch.params.iter().map(|word| word.known().map(|word| word as u32)).collect();
        if let Some(words) = words.filter(|words| !words.is_empty() && !dispatch.is_indirect())
            && written.insert(dispatch.params_offset)
        {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let region =
                Region { allocation: params as u32, offset: dispatch.params_offset, bytes: bytes.len() as u64 };
            memory.write(&region, &bytes)?;
        }
    }
    Ok(())
}

/// Ports for these sizes.
fn at<'a>(ports: &'a [Port], sizes: &Sizes) -> Result<Cow<'a, [Port]>, RuntimeError> {
    if ports.iter().flat_map(|port| &port.shape).all(|dim| dim.known().is_some()) {
        return Ok(Cow::Borrowed(ports));
    }
    ports.iter().map(|port| port.at(sizes)).collect::<Option<_>>().map(Cow::Owned).ok_or_else(|| lost(sizes))
}

fn lost(sizes: &Sizes) -> RuntimeError {
    let list: Vec<String> = sizes.iter().map(|(name, n)| format!("{name} = {n}")).collect();
    RuntimeError::Unsupported { what: format!("the sizes {}: some tensor would have a negative one", list.join(", ")) }
}

/// Computes a host step, and notes the sizes that its results tell.
fn run_host(
    memory: &mut Memory,
    entry: &Entry,
    step: &HostStep,
    sizes: &mut Sizes,
    host: HostFn<'_>,
) -> Result<(), RuntimeError> {
    let fail = |fault: String| RuntimeError::Host { node: step.node.clone(), fault };
    let present: Vec<Port> = step.inputs.iter().flatten().cloned().collect();
    let mut tensors = fetch(memory, &at(&present, sizes)?)?.into_iter();
    let operands: Vec<Option<Tensor>> =
        step.inputs.iter().map(|port| port.as_ref().and_then(|_| tensors.next())).collect();
    let results = host(&step.node, &operands, sizes).map_err(|error| match error {
        HostError::Index { node, fault } => RuntimeError::Index { node, fault },
        HostError::Other(fault) => fail(fault),
    })?;
    if results.len() != step.outputs.len() {
        return Err(fail(format!("{} results given, {} wanted", results.len(), step.outputs.len())));
    }
    let shapes: Vec<Vec<usize>> = results.iter().map(Tensor::dims).collect();
    entry.sizes_after(step, &shapes, sizes).map_err(|e| fail(format!("result {e}")))?;
    for (port, tensor) in at(&step.outputs, sizes)?.iter().zip(&results) {
        let bytes = to_device(port, tensor).map_err(|e| match e {
            RuntimeError::Input { name, fault } => fail(format!("result {name:?}: {fault}")),
            RuntimeError::TooWide { index, value, .. } => {
                let port = format!("host node {:?}: result {:?}", step.node, port.name);
                RuntimeError::TooWide { port, index, value }
            }
            other => other,
        })?;
        memory.write(&port.region, &bytes)?;
    }
    memory.flush()
}

fn fetch(memory: &mut Memory, ports: &[Port]) -> Result<Vec<Tensor>, RuntimeError> {
    read_back(memory, ports, &[], &Sizes::new())
}

/// The tensors of `ports`, unless a dispatch noted an index out of range: both are read together.
fn read_back(
    memory: &mut Memory,
    ports: &[Port],
    checks: &[(Region, IndexCheck)],
    sizes: &Sizes,
) -> Result<Vec<Tensor>, RuntimeError> {
    let own = ports.iter().map(|port| Region { bytes: device_bytes(port) as u64, ..port.region });
    let regions: Vec<Region> = own.chain(checks.iter().map(|(region, _)| *region)).collect();
    let mut all = memory.read(&regions)?;
    let noted = all.split_off(ports.len().min(all.len()));
    for ((_, check), words) in checks.iter().zip(&noted) {
        if let Some(fault) = check.read(words, sizes) {
            return Err(RuntimeError::Index { node: check.node.clone(), fault });
        }
    }
    ports.iter().zip(all).map(|(port, bytes)| from_device(port, bytes)).collect()
}
