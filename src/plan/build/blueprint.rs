//! What a laid out module is: a program but for its shaders.

use crate::ir::{Dim, Hash, Tensor};
use crate::kernels::key::KernelKey;
use crate::program::{Allocation, HostStep, IndexCheck, Ledger, Port, Region, ResultSlice, SizeRange, StateTensor};
use indexmap::IndexMap;

/// A dispatch whose shader is not compiled yet.
#[derive(Clone, Debug)]
pub struct Dispatch {
    /// The node it computes, or a part of.
    pub node: String,
    /// Which kernel.
    pub key: KernelKey,
    /// Storage buffers by binding.
    pub bindings: Vec<Region>,
    /// Which of them are written.
    pub writes: Vec<u32>,
    /// Parameters.
    pub params: Vec<Dim>,
    /// Where they go.
    pub params_offset: u64,
    /// Workgroups.
    pub groups: [Dim; 3],
    /// The most loop iterations of an invocation:
    /// [`KernelCall::loop_iterations`](crate::kernels::KernelCall::loop_iterations).
    pub loop_iterations: u64,
    /// Whether earlier dispatches must be done.
    pub barrier: bool,
    /// What it notes of indices out of range.
    pub check: Option<IndexCheck>,
    /// Which elements of its result it writes, where others write the rest.
    pub result_slice: Option<ResultSlice>,
}

/// One step.
#[derive(Clone, Debug)]
pub enum Step {
    /// Dispatches in one command buffer.
    Device(Vec<Dispatch>),
    /// A node on the CPU reference, and why.
    Host(HostStep, String),
}

/// An entry laid out on a device.
#[derive(Clone, Debug)]
pub struct EntryBlueprint {
    /// Its name.
    pub name: String,
    /// The sizes that each run chooses.
    pub sizes: Vec<SizeRange>,
    /// Inputs.
    pub inputs: Vec<Port>,
    /// Outputs.
    pub outputs: Vec<Port>,
    /// Steps.
    pub steps: Vec<Step>,
}

/// A constant with its place.
#[derive(Clone, Debug)]
pub struct Placed {
    /// As the device has it.
    pub tensor: Tensor,
    /// Where it goes.
    pub region: Region,
}

/// An allocation beyond a target's limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge {
    /// Its bytes.
    pub bytes: u64,
    /// What the target allows, in bytes.
    pub limit: u64,
}

/// The entries of a module laid out on a device.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Device memory.
    pub allocations: Vec<Allocation>,
    /// The constants as the device has them, and where they go. Their data need not be made yet.
    pub constants: Vec<Placed>,
    /// The states of all entries.
    pub states: Vec<StateTensor>,
    /// What states are before the first run, as the device has it, by content.
    pub initial: IndexMap<Hash, Tensor>,
    /// The entries.
    pub entries: Vec<EntryBlueprint>,
    /// Bytes by kind.
    pub ledger: Ledger,
    /// Planned peak in bytes.
    pub peak_bytes: u64,
    /// The arena, in bytes.
    pub arena_bytes: u64,
    /// Max-live of the arena, in bytes: no arena can be smaller.
    pub max_live_bytes: u64,
    /// Peak if the arena were its bound, in bytes.
    pub lower_bound_bytes: u64,
    /// The first allocation that is larger than the target allows: such a blueprint has its bytes, and no program can
    /// be made of it.
    pub too_large: Option<TooLarge>,
}

impl Blueprint {
    /// The steps of all entries.
    pub fn steps(&self) -> impl Iterator<Item = &Step> {
        self.entries.iter().flat_map(|entry| &entry.steps)
    }

    /// The first step that runs on the host, and why.
    pub fn host_step(&self) -> Option<(&HostStep, &str)> {
        self.steps().find_map(|step| match step {
            Step::Host(step, reason) => Some((step, reason.as_str())),
            Step::Device(_) => None,
        })
    }
}
