//! Programs: what is shipped and run. A program knows no passes and no policies, only plans: memory, shaders,
//! dispatches.

mod check;
mod fault;
pub mod file;
pub mod profile;
mod report;
pub mod sizes;
pub mod spirv;

pub use check::ProgramError;
pub use fault::{CLEAR, FAULT_BYTES, IndexCheck};
pub use report::{Certificate, Ledger, NodeReport};
pub use sizes::{SizeError, SizeRange, Sizes};

use crate::ir::{DType, Dim, Graph, Hash, Module, Registry, Tensor, text};
use crate::targets::Target;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A compiled model.
#[derive(Clone, Debug)]
pub struct Program {
    /// The model's name.
    pub model: String,
    /// The target it was compiled for.
    pub target: Target,
    /// Plans, the preferred one first. They share constants and shaders.
    pub plans: Vec<Plan>,
    /// Packed weights and other constants by content.
    pub constants: IndexMap<Hash, Tensor>,
    /// SPIR-V by content.
    pub shaders: IndexMap<ShaderHash, Shader>,
}

/// Why a plan's graph cannot be had.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum GraphError {
    #[error("the program has no plan {0}")]
    Plan(usize),
    #[error("the graph of plan {plan}: {source}")]
    Parse { plan: usize, source: text::ParseError },
    #[error("the graph of plan {plan} has {source}")]
    Faults { plan: usize, source: crate::ir::Faults },
}

impl Program {
    /// The kernel-level graph of the first entry of plan number `plan`.
    ///
    /// # Errors
    /// As [`Program::module`].
    pub fn graph(&self, plan: usize, operators: &Registry) -> Result<Graph, GraphError> {
        let module = self.module(plan, operators)?;
        module.entries.into_values().next().ok_or(GraphError::Plan(plan))
    }

    /// The kernel-level graphs of plan number `plan`, with their constants: what the CPU reference runs. Operators are
    /// found in `operators`.
    ///
    /// # Errors
    /// There is no such plan; its graphs do not read, or are not well formed.
    pub fn module(&self, plan: usize, operators: &Registry) -> Result<Module, GraphError> {
        let source = &self.plans.get(plan).ok_or(GraphError::Plan(plan))?.graph;
        let by_prefix: BTreeMap<String, &Tensor> =
            self.constants.iter().map(|(hash, tensor)| (hash.to_string(), tensor)).collect();
        let find = |hash: &str, _: &crate::ir::TensorType| by_prefix.get(hash).map(|t| (*t).clone());
        let module =
            text::parse_module(source, operators, &find).map_err(|source| GraphError::Parse { plan, source })?;
        module.verify().map_err(|source| GraphError::Faults { plan, source })?;
        Ok(module)
    }
}

/// BLAKE3 of a shader's SPIR-V words, in hexadecimal.
pub type ShaderHash = String;

/// One compute shader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shader {
    /// Name of the kernel: operation, operands, output, tile.
    pub name: String,
    /// SPIR-V.
    pub spirv: Vec<u32>,
}

impl Shader {
    /// BLAKE3 of the words, little-endian, in hexadecimal: the shader's key in [`Program::shaders`].
    pub fn hash(&self) -> ShaderHash {
        let mut hasher = blake3::Hasher::new();
        self.spirv.iter().for_each(|word| {
            hasher.update(&word.to_le_bytes());
        });
        hasher.finalize().to_string()
    }
}

/// A constant's hash in full, as [`Upload::constant`] and the file name it: 64 hexadecimal digits.
pub fn hex(hash: Hash) -> String {
    hash.0.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The hash that 64 lower-case hexadecimal digits spell.
pub fn parse_hex(text: &str) -> Option<Hash> {
    let mut bytes = [0; 32];
    let lower = |c: &u8| c.is_ascii_digit() || (b'a'..=b'f').contains(c);
    if text.len() != 64 || !text.bytes().all(|c| lower(&c)) {
        return None;
    }
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * i..2 * i + 2)?, 16).ok()?;
    }
    Some(Hash(bytes))
}

/// One way to run the model: formats, memory and schedule. The default has none of these.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// The policy that assigned the formats, as spelled on the command line.
    pub policy: String,
    /// What the plan must fit in, in bytes.
    pub budget_bytes: u64,
    /// Held back from the budget, in bytes.
    pub reserve_bytes: u64,
    /// The most device memory that load and run ever hold, in bytes: the sum of [`Plan::allocations`] on the device.
    pub planned_peak_bytes: u64,
    /// The peak by kind.
    pub ledger: Ledger,
    /// Max-live of the chosen formats, in bytes: no arena can be smaller.
    pub lower_bound_bytes: u64,
    /// The smallest budget that compiles, in bytes.
    pub min_feasible_bytes: u64,
    /// Planned peak of `uniform:f32`, in bytes.
    pub f32_bytes: u64,
    /// What proves the assignment.
    pub certificate: Certificate,
    /// Every imported node that computes something, in order.
    pub nodes: Vec<NodeReport>,
    /// The kernel-level graph in text form, or the module of several: what the CPU reference runs.
    pub graph: String,
    /// Device memory, all of it: made at load, freed at unload.
    pub allocations: Vec<Allocation>,
    /// Where constants go.
    pub uploads: Vec<Upload>,
    /// Tensors that outlive a run, the same for all entries.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub states: Vec<StateTensor>,
    /// What can be called, the one that a plain run calls first.
    pub entries: Vec<Entry>,
}

/// Bytes of a slot of the staging ring at most: while the device copies one, the host fills or empties the next.
pub const SLOT_BYTES: u64 = 4 << 20;
/// What is in a slot begins at a multiple of this, so that no slot cuts an element in two.
pub const SLOT_ALIGNMENT: u64 = 16;

/// What an allocation is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllocationKind {
    /// Packed weights and other constants.
    Weights,
    /// Activations, workspace, inputs and outputs.
    Arena,
    /// Parameters of dispatches: a uniform buffer.
    Params,
    /// Tensors that outlive a run.
    State,
    /// The ring through which the host writes and reads where it cannot reach device memory. It is in host memory,
    /// and counts where the heap is shared.
    Staging,
}

/// One `VkDeviceMemory` with one buffer over all of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allocation {
    /// What it is for.
    pub kind: AllocationKind,
    /// Its size: what is asked of the driver.
    pub bytes: u64,
}

/// Part of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// Index in [`Plan::allocations`].
    pub allocation: u32,
    /// First byte.
    pub offset: u64,
    /// Size in bytes.
    pub bytes: u64,
}

/// A constant and where it goes at load.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Upload {
    /// Full hexadecimal hash, a key of [`Program::constants`].
    pub constant: String,
    /// Where it goes.
    pub region: Region,
}

/// A tensor that outlives a run: whatever an entry leaves there, the next run of any entry finds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateTensor {
    /// Its name, type and place.
    pub port: Port,
    /// What it is before the first run: full hexadecimal hash, a key of [`Program::constants`], of a tensor of its type
    /// on the device, or of a scalar, which every element is.
    pub initial: String,
}

/// Something that can be called.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// The sizes that each run chooses, by the shapes of its inputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sizes: Vec<SizeRange>,
    /// What the caller gives, in order: those with defaults come last.
    pub inputs: Vec<Port>,
    /// The constant that an input is where the caller does not give it: its name to the full hexadecimal hash, a key of
    /// [`Program::constants`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub defaults: BTreeMap<String, String>,
    /// Inputs of the model that are constants of the program, and why: nobody can give these.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fixed: BTreeMap<String, String>,
    /// What the caller gets, in order.
    pub outputs: Vec<Port>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// An input or output of an entry, or an operand or result of a host step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// The model's name for it.
    pub name: String,
    /// The model's element type. On the device floats keep theirs (f64 and bf16 are f32), integers and truth values are
    /// i32.
    #[serde(with = "dtype_text")]
    pub dtype: DType,
    /// Element type on the device: f32, f16 or i32.
    #[serde(with = "dtype_text")]
    pub device_dtype: DType,
    /// Sizes of the axes.
    #[serde(with = "dims")]
    pub shape: Vec<Dim>,
    /// Where it is during the run.
    pub region: Region,
}

/// One step of an entry.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Step {
    /// Dispatches in one command buffer.
    Device(Vec<Dispatch>),
    /// A node of the graph on the CPU reference, its operands copied from the device and its results back.
    Host(HostStep),
}

/// A node that no kernel covers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostStep {
    /// Its name in [`Plan::graph`].
    pub node: String,
    /// Operands by slot: their types and where they are; `None` where absent or constant.
    pub inputs: Vec<Option<Port>>,
    /// Results.
    pub outputs: Vec<Port>,
}

/// One dispatch of one shader.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatch {
    /// The node of [`Plan::graph`] that it computes, or a part of.
    pub node: String,
    /// Which shader.
    pub shader: ShaderHash,
    /// Storage buffers, bindings 0, 1, ... of set 0. The parameters' uniform buffer comes after the last.
    pub bindings: Vec<Region>,
    /// Which of the bindings are written.
    pub writes: Vec<u32>,
    /// The shader's parameters, as std140 lays out a block of scalars: words, or expressions of the entry's sizes.
    #[serde(with = "dims")]
    pub params: Vec<Dim>,
    /// Where in the allocation for parameters they go, in bytes; behind them the workgroups, where those depend on
    /// sizes.
    pub params_offset: u64,
    /// Workgroups along x, y, z.
    #[serde(with = "groups")]
    pub groups: [Dim; 3],
    /// The most loop iterations of an invocation: devices may end loops silently beyond
    /// [`crate::targets::Limits::max_loop_iterations`].
    pub loop_iterations: u64,
    /// Whether earlier writes must be visible before this dispatch, or earlier reads done.
    pub barrier: bool,
    /// What it notes of indices out of range, where it looks for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub check: Option<IndexCheck>,
    /// Which elements of its result it writes, where other dispatches write the rest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_slice: Option<ResultSlice>,
}

/// The elements of a result that one of several dispatches writes: of every `pitch` elements `width`, from number
/// `first` on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResultSlice {
    /// Elements from one part to the next.
    #[serde(with = "dim")]
    pub pitch: Dim,
    /// The first of them.
    #[serde(with = "dim")]
    pub first: Dim,
    /// How many there are.
    #[serde(with = "dim")]
    pub width: Dim,
}

impl ResultSlice {
    /// Whether two slices of one result have no element in common, whatever the sizes.
    pub fn is_disjoint(&self, other: &ResultSlice) -> bool {
        let before = |a: &ResultSlice, b: &ResultSlice| (&b.first - &(&a.first + &a.width)).bounds().0 >= 0;
        self.pitch == other.pitch && (before(self, other) || before(other, self))
    }
}

impl Entry {
    /// How many dispatches it has, and how many barriers between them.
    pub fn n_dispatches(&self) -> (usize, usize) {
        let lists = self.steps.iter().map(|step| if let Step::Device(list) = step { list.as_slice() } else { &[] });
        lists.flatten().fold((0, 0), |(n, barriers), d| (n + 1, barriers + usize::from(d.barrier)))
    }
}

impl Dispatch {
    /// Whether the number of its workgroups depends on sizes, and so is in memory when it is dispatched
    /// (`vkCmdDispatchIndirect`).
    pub fn is_indirect(&self) -> bool {
        self.groups.iter().any(|n| n.known().is_none())
    }

    /// Bytes that it has in the allocation for parameters: its parameters, and its workgroups where they depend on
    /// sizes.
    pub fn params_bytes(&self) -> u64 {
        params_bytes(&self.params, &self.groups)
    }
}

/// What [`Dispatch::params_bytes`] is of a dispatch with these.
pub(crate) fn params_bytes(params: &[Dim], groups: &[Dim; 3]) -> u64 {
    params.len() as u64 * 4 + if groups.iter().any(|n| n.known().is_none()) { 12 } else { 0 }
}

mod groups {
    use super::Dim;
    use serde::{Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(groups: &[Dim; 3], serializer: S) -> Result<S::Ok, S::Error> {
        super::dims::serialize(groups, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[Dim; 3], D::Error> {
        super::dims::deserialize(deserializer)?
            .try_into()
            .map_err(|list: Vec<Dim>| D::Error::custom(format!("{} workgroup counts, not 3", list.len())))
    }
}

mod dtype_text {
    use super::DType;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(dtype: &DType, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(dtype)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DType, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

mod dim {
    use super::Dim;
    use super::dims::Size;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(dim: &Dim, serializer: S) -> Result<S::Ok, S::Error> {
        Size::of(dim).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Dim, D::Error> {
        Size::deserialize(deserializer)?.dim()
    }
}

mod dims {
    use super::Dim;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    pub(super) enum Size {
        Known(i64),
        Symbolic(String),
    }

    impl Size {
        pub(super) fn of(dim: &Dim) -> Size {
            dim.known().map_or_else(|| Size::Symbolic(dim.to_string()), Size::Known)
        }

        pub(super) fn dim<E: Error>(self) -> Result<Dim, E> {
            match self {
                Size::Known(n) => Ok(Dim::Known(n)),
                Size::Symbolic(text) => crate::ir::text::parse_dim(&text).map_err(E::custom),
            }
        }
    }

    pub(super) fn serialize<S: Serializer>(dims: &[Dim], serializer: S) -> Result<S::Ok, S::Error> {
        dims.iter().map(Size::of).collect::<Vec<Size>>().serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Dim>, D::Error> {
        Vec::<Size>::deserialize(deserializer)?.into_iter().map(Size::dim).collect()
    }
}
