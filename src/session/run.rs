//! Sessions: a program on a device.

use super::call::{Call, DeviceTensor, Held, output_number};
use super::cpu::{CpuError, Reference, States};
use super::inputs::InputError;
#[cfg(feature = "runtime")]
use crate::ir::OpError;
use crate::ir::{Registry, Tensor};
use crate::ops;
use crate::program::profile::{Span, Track, Work};
use crate::program::{Entry, GraphError, Program, Step, file};
use std::collections::BTreeMap;
use std::time::Instant;

/// Where a program runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The best GPU; the CPU reference where there is none, or where it fails. A Vulkan driver that computes on the CPU
    /// is no GPU: the reference is many times faster than it.
    #[default]
    Auto,
    /// The best Vulkan device, GPUs before drivers that compute on the CPU.
    Vulkan,
    /// The same; the CPU reference where there is none, or where it fails.
    VulkanOrCpu,
    /// The CPU reference.
    Cpu,
    /// The Vulkan device of this index, as `nyxc devices` lists them.
    Index(usize),
}

impl DeviceChoice {
    /// Whether the CPU reference takes over where the device fails.
    fn may_fall_back(self) -> bool {
        matches!(self, DeviceChoice::Auto | DeviceChoice::VulkanOrCpu)
    }
}

/// A loaded program.
pub struct Session {
    program: Program,
    /// The operators that the program's graph may name.
    operators: Registry,
    reference: Option<Reference>,
    #[cfg(feature = "runtime")]
    executor: Option<crate::runtime::Executor>,
    #[cfg(feature = "runtime")]
    choice: DeviceChoice,
    fallbacks: Vec<String>,
    /// The states of the CPU reference, once it has run.
    states: Option<States>,
    /// Whether a run may have stored states on the device since they were reset.
    has_stored: bool,
}

/// What a run gave.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Outputs in the program's order.
    pub outputs: Vec<Tensor>,
    /// Time between the first and the last dispatch, where the device measures it.
    pub device_ms: Option<f64>,
    /// Nodes that ran on the host.
    pub host_nodes: Vec<String>,
    /// What happened when, where asked for.
    pub profile: Option<Vec<Span>>,
    /// What the host had the device's queue do; `None` on the CPU reference.
    pub work: Option<Work>,
}

/// Called with how many nodes the CPU reference has computed, and of how many.
pub type NodeProgress<'a> = &'a mut dyn FnMut(usize, usize);

/// Why a program cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum SessionError {
    #[error(transparent)]
    File(#[from] file::FileError),
    #[error(transparent)]
    Cpu(#[from] CpuError),
    #[cfg(feature = "runtime")]
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeError),
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("this build has no Vulkan runtime; use --device cpu")]
    NoRuntime,
    #[error("entry {entry:?} has no {what} {name:?}")]
    Port { what: &'static str, name: String, entry: String },
    #[error("the tensor for {name:?} lies elsewhere than this session runs, or no run has written it")]
    Elsewhere { name: String },
}

impl Session {
    /// Loads a program from the bytes of a `.nyx` file.
    ///
    /// # Errors
    /// The bytes are no program, or the device fails.
    pub fn load(
        bytes: impl AsRef<[u8]> + Send + Sync + 'static,
        choice: DeviceChoice,
    ) -> Result<Session, SessionError> {
        Session::of(file::read(std::sync::Arc::new(bytes))?, choice)
    }

    /// Loads a program.
    ///
    /// # Errors
    /// The device fails, and was asked for by name.
    pub fn of(program: Program, choice: DeviceChoice) -> Result<Session, SessionError> {
        Session::with_operators(program, choice, ops::registry())
    }

    /// Loads a program that was compiled with operators of a toolchain's own ([`Registry::add`]): its host steps and
    /// the CPU reference find them in `operators`.
    ///
    /// # Errors
    /// As [`Session::of`].
    pub fn with_operators(
        program: Program,
        choice: DeviceChoice,
        operators: Registry,
    ) -> Result<Session, SessionError> {
        let mut session = Session {
            program,
            operators,
            reference: None,
            #[cfg(feature = "runtime")]
            executor: None,
            #[cfg(feature = "runtime")]
            choice,
            fallbacks: Vec::new(),
            states: None,
            has_stored: false,
        };
        let has_host_steps = session.has_host_steps();
        if choice == DeviceChoice::Cpu || has_host_steps {
            session.reference = Some(Reference::of(&session.program, 0, &session.operators)?);
        }
        #[cfg(feature = "runtime")]
        if choice != DeviceChoice::Cpu {
            match load(&session.program, choice) {
                Ok(executor) => session.executor = Some(executor),
                Err(error) => session.fall_back(error)?,
            }
        }
        #[cfg(not(feature = "runtime"))]
        if choice != DeviceChoice::Cpu {
            if !choice.may_fall_back() {
                return Err(SessionError::NoRuntime);
            }
            session.reference = Some(Reference::of(&session.program, 0, &session.operators)?);
            session.fallbacks.push("this build has no Vulkan runtime: ran on the CPU reference".to_owned());
        }
        Ok(session)
    }

    /// Loads a program on a device that the caller opened or owns.
    ///
    /// # Errors
    /// The device fails.
    #[cfg(feature = "runtime")]
    pub fn on(program: Program, context: &crate::runtime::VkContext) -> Result<Session, SessionError> {
        Session::on_with_operators(program, context, ops::registry())
    }

    /// Loads a program with operators of a toolchain's own on a device that the caller opened or owns.
    ///
    /// # Errors
    /// The device fails.
    #[cfg(feature = "runtime")]
    pub fn on_with_operators(
        program: Program,
        context: &crate::runtime::VkContext,
        operators: Registry,
    ) -> Result<Session, SessionError> {
        let executor = crate::runtime::Executor::load(&program, 0, context)?;
        let choice = DeviceChoice::Index(context.info().index);
        let mut session = Session {
            program,
            operators,
            reference: None,
            executor: Some(executor),
            choice,
            fallbacks: Vec::new(),
            states: None,
            has_stored: false,
        };
        if session.has_host_steps() {
            session.reference = Some(Reference::of(&session.program, 0, &session.operators)?);
        }
        Ok(session)
    }

    /// Goes on with the CPU reference after `error`, where the device was not asked for by name.
    #[cfg(feature = "runtime")]
    fn fall_back(&mut self, error: crate::runtime::RuntimeError) -> Result<(), SessionError> {
        if !self.choice.may_fall_back() || !is_of_device(&error) {
            return Err(error.into());
        }
        if self.reference.is_none() {
            self.reference = Some(Reference::of(&self.program, 0, &self.operators)?);
        }
        self.fallbacks.push(format!("{error}: ran on the CPU reference"));
        self.executor = None;
        Ok(())
    }

    fn has_host_steps(&self) -> bool {
        let steps = self.program.plans.iter().flat_map(|p| &p.entries).flat_map(|e| &e.steps);
        steps.into_iter().any(|s| matches!(s, crate::program::Step::Host(_)))
    }

    /// The program.
    pub fn program(&self) -> &Program {
        &self.program
    }

    /// What went another way than asked, and why.
    pub fn fallbacks(&self) -> &[String] {
        &self.fallbacks
    }

    /// The name of the device that the last run was on; before the first, of the one to come.
    pub fn device(&self) -> String {
        #[cfg(feature = "runtime")]
        if let Some(executor) = &self.executor {
            return executor.context().info().name.clone();
        }
        "cpu".to_owned()
    }

    /// The most device memory held so far, in bytes; 0 on the CPU.
    pub fn measured_peak_bytes(&self) -> u64 {
        #[cfg(feature = "runtime")]
        if let Some(executor) = &self.executor {
            return executor.measured_peak_bytes();
        }
        0
    }

    /// The names of what can be called.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        self.program.plans.first().into_iter().flat_map(|plan| &plan.entries).map(|entry| entry.name.as_str())
    }

    /// A call of the entry of this name, to be run.
    ///
    /// # Errors
    /// There is no such entry.
    pub fn entry(&mut self, name: &str) -> Result<Call<'_>, SessionError> {
        let number = self.entries().position(|entry| entry == name);
        let number = number.ok_or_else(|| CpuError::Entry(name.to_owned()))?;
        Ok(Call { session: self, entry: number, given: BTreeMap::new(), kept: BTreeMap::new() })
    }

    /// Makes all states what they were before the first run.
    ///
    /// # Errors
    /// The device fails.
    pub fn reset(&mut self) -> Result<(), SessionError> {
        self.states = None;
        #[cfg(feature = "runtime")]
        if let Some(executor) = self.executor.as_mut().filter(|executor| executor.has_states()) {
            executor.reset()?;
        }
        self.has_stored = false;
        Ok(())
    }

    /// A tensor that stays on the device, which holds an output of an entry: [`Call::keep`] has a run write it,
    /// [`Call::give`] another read it.
    ///
    /// # Errors
    /// There is no such entry or output, or the device has no room for it within the program's budget.
    pub fn tensor(&mut self, entry: &str, output: &str) -> Result<DeviceTensor, SessionError> {
        let known = self.program.plans.first().and_then(|plan| plan.entries.iter().find(|e| e.name == entry));
        let known = known.ok_or_else(|| CpuError::Entry(entry.to_owned()))?;
        output_number(known, output)?;
        #[cfg(feature = "runtime")]
        if let Some(executor) = &mut self.executor {
            return Ok(DeviceTensor(Held::Device(executor.tensor(entry, output)?)));
        }
        Ok(DeviceTensor(Held::Host(None)))
    }

    /// Runs the first entry once on arrays named as its inputs; those with a default may be left out, and types that
    /// NumPy lacks may be given widened.
    ///
    /// # Errors
    /// An array is no input, one is missing, or as [`Session::run`].
    pub fn run_named(&mut self, arrays: BTreeMap<String, Tensor>) -> Result<Outcome, SessionError> {
        let entry = self.program.entry().ok_or(CpuError::Graph(GraphError::Plan(0)))?;
        let inputs = self.program.inputs(entry, arrays)?;
        self.run(&inputs)
    }

    /// Runs the first entry once. Inputs and outputs are in the order of the entry's ports; inputs with defaults, which
    /// are the last, may be left out.
    ///
    /// # Errors
    /// An input has a wrong type or shape, an index is out of range, or the device fails and was asked for by name.
    /// After an index out of range the session runs on, where it has states after [`Session::reset`].
    pub fn run(&mut self, inputs: &[Tensor]) -> Result<Outcome, SessionError> {
        self.run_profiled(inputs, false)
    }

    /// The same, with what happened when if `profile`.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_profiled(&mut self, inputs: &[Tensor], profile: bool) -> Result<Outcome, SessionError> {
        self.run_with_progress(inputs, profile, &mut |_, _| {})
    }

    /// The same, and reports how far the CPU reference is.
    ///
    /// # Errors
    /// As [`Session::run`].
    pub fn run_with_progress(
        &mut self,
        inputs: &[Tensor],
        profile: bool,
        progress: NodeProgress<'_>,
    ) -> Result<Outcome, SessionError> {
        self.call(0, inputs, BTreeMap::new(), BTreeMap::new(), profile, progress)
    }

    /// Runs the entry of this number: `inputs` are those that are not among the ones `given`, by index.
    pub(super) fn call(
        &mut self,
        number: usize,
        inputs: &[Tensor],
        given: BTreeMap<usize, &DeviceTensor>,
        mut kept: BTreeMap<usize, &mut DeviceTensor>,
        profile: bool,
        progress: NodeProgress<'_>,
    ) -> Result<Outcome, SessionError> {
        let entry = self.program.plans.first().and_then(|plan| plan.entries.get(number));
        let entry = entry.ok_or(CpuError::Graph(GraphError::Plan(0)))?;
        let (name, host_nodes) = (entry.name.clone(), host_nodes(entry));
        let all: Vec<Tensor>;
        let inputs = if inputs.len() + given.len() == entry.inputs.len() || !given.is_empty() {
            inputs
        } else {
            all = self.program.with_defaults(entry, inputs)?;
            &all
        };
        #[cfg(feature = "runtime")]
        if let Some(executor) = &mut self.executor {
            use crate::runtime::{Given, HostError};
            let reference = self.reference.as_ref();
            let evaluate = |node: &str, operands: &[Option<Tensor>], sizes: &crate::program::Sizes| match reference {
                Some(reference) => reference.node(&name, node, operands, sizes).map_err(|error| match error {
                    CpuError::Op { node, source: OpError::Index(fault) } => HostError::Index { node, fault },
                    other => other.to_string().into(),
                }),
                None => Err("the program has no host steps".to_owned().into()),
            };
            let mut rest = inputs.iter();
            let mut all = Vec::with_capacity(entry.inputs.len());
            for (i, port) in entry.inputs.iter().enumerate() {
                match given.get(&i) {
                    Some(DeviceTensor(Held::Device(tensor))) => all.push(Given::Device(tensor)),
                    Some(_) => return Err(SessionError::Elsewhere { name: port.name.clone() }),
                    None => all.extend(rest.next().map(Given::Host)),
                }
            }
            all.extend(rest.map(Given::Host));
            let mut outputs = Vec::with_capacity(kept.len());
            for (i, tensor) in &mut kept {
                match &mut tensor.0 {
                    Held::Device(tensor) => outputs.push((*i, tensor)),
                    Held::Host(_) => {
                        let name = entry.outputs.get(*i).map(|port| port.name.clone()).unwrap_or_default();
                        return Err(SessionError::Elsewhere { name });
                    }
                }
            }
            let result =
                executor.set_profiling(profile).and_then(|()| executor.run_bound(&name, &all, &mut outputs, &evaluate));
            match result {
                Ok(output) => {
                    self.has_stored = true;
                    let mut profile = output.profile;
                    for span in profile.iter_mut().flatten().filter(|span| span.track == Track::Node) {
                        span.kernel =
                            reference.and_then(|r| r.operator(&name, &span.name)).unwrap_or_default().to_owned();
                    }
                    let crate::runtime::RunOutput { outputs, device_ms, work, .. } = output;
                    return Ok(Outcome { outputs, device_ms, host_nodes, profile, work: Some(work) });
                }
                // What was there is lost with the device.
                Err(error) if self.has_stored && self.has_states() || !given.is_empty() || !kept.is_empty() => {
                    return Err(error.into());
                }
                Err(error) => self.fall_back(error)?,
            }
        }
        let reference = match &self.reference {
            Some(reference) => reference,
            None => self.reference.insert(Reference::of(&self.program, 0, &self.operators)?),
        };
        let entry = self.program.plans.first().and_then(|plan| plan.entries.get(number));
        let entry = entry.ok_or(CpuError::Graph(GraphError::Plan(0)))?;
        let mut rest = inputs.iter().cloned();
        let mut all = Vec::with_capacity(entry.inputs.len());
        for (i, port) in entry.inputs.iter().enumerate() {
            match given.get(&i) {
                Some(DeviceTensor(Held::Host(Some(tensor)))) => all.push(tensor.clone()),
                Some(_) => return Err(SessionError::Elsewhere { name: port.name.clone() }),
                None => all.extend(rest.next()),
            }
        }
        all.extend(rest);
        let states = match &mut self.states {
            Some(states) => states,
            None => self.states.insert(reference.initial_states()?),
        };
        let (mut spans, mut n_done, mut since) = (Vec::new(), 0, Instant::now());
        let n_nodes = reference.n_nodes(&name);
        let outputs = reference.run_entry(&name, &all, states, &mut |node, _| {
            n_done += 1;
            progress(n_done, n_nodes);
            if profile {
                let now = Instant::now();
                let kernel = node.op().map(|op| op.def.name.to_owned()).unwrap_or_default();
                spans.push(Span {
                    track: Track::Node,
                    name: node.name.clone(),
                    kernel,
                    start: since,
                    time: now - since,
                });
                since = now;
            }
        })?;
        let mut fetched = Vec::with_capacity(outputs.len());
        for (i, output) in outputs.into_iter().enumerate() {
            match kept.get_mut(&i) {
                Some(tensor) => tensor.0 = Held::Host(Some(output)),
                None => fetched.push(output),
            }
        }
        Ok(Outcome { outputs: fetched, device_ms: None, host_nodes, profile: profile.then_some(spans), work: None })
    }

    #[cfg(feature = "runtime")]
    fn has_states(&self) -> bool {
        self.program.plans.first().is_some_and(|plan| !plan.states.is_empty())
    }
}

/// The nodes of an entry that run on the host.
fn host_nodes(entry: &Entry) -> Vec<String> {
    let name = |step: &Step| if let Step::Host(step) = step { Some(step.node.clone()) } else { None };
    entry.steps.iter().filter_map(name).collect()
}

/// Loads on the device that is meant.
#[cfg(feature = "runtime")]
fn load(program: &Program, choice: DeviceChoice) -> Result<crate::runtime::Executor, crate::runtime::RuntimeError> {
    use crate::runtime::{Executor, Options, RuntimeError, VkContext};
    let index = match choice {
        DeviceChoice::Index(index) => index,
        _ => {
            let best = best_device()?;
            let best =
                best.ok_or_else(|| RuntimeError::NoDevice { reason: "none of Vulkan 1.1 was found".to_owned() })?;
            if choice == DeviceChoice::Auto && best.kind == crate::runtime::DeviceKind::Cpu {
                return Err(RuntimeError::NoGpu { software: best.name });
            }
            best.index
        }
    };
    let context = VkContext::open(index, &program.target.features, &Options::from_env())?;
    Executor::load(program, 0, &context)
}

/// The best Vulkan device here: discrete GPUs before integrated and virtual ones, drivers that compute on the CPU last;
/// `None` where there is none.
///
/// # Errors
/// Vulkan fails.
#[cfg(feature = "runtime")]
pub fn best_device() -> Result<Option<crate::runtime::DeviceInfo>, crate::runtime::RuntimeError> {
    use crate::runtime::DeviceKind;
    let rank = |kind: DeviceKind| match kind {
        DeviceKind::Discrete => 0,
        DeviceKind::Integrated => 1,
        DeviceKind::Virtual => 2,
        DeviceKind::Other => 3,
        DeviceKind::Cpu => 4,
    };
    Ok(crate::runtime::devices()?.into_iter().min_by_key(|d| (rank(d.kind), d.index)))
}

/// Whether another device, or the CPU, might do better: the program itself is not at fault.
#[cfg(feature = "runtime")]
pub fn is_of_device(error: &crate::runtime::RuntimeError) -> bool {
    use crate::runtime::RuntimeError::*;
    matches!(
        error,
        NoDevice { .. } | NoGpu { .. } | OutOfMemory { .. } | DeviceLost | Unsupported { .. } | Vulkan { .. }
    )
}
