//! Which kernels compute a node of a kernel-level graph: their keys, operands, parameters and workgroups. No shader is
//! compiled here.

mod attention;
mod buckets;
mod call;
mod channels_last;
mod choice;
mod conv;
mod conv_mma;
mod elementwise;
mod epilogue;
mod gemv;
mod held;
pub mod key;
mod matmul;
mod mma;
mod model;
mod movement;
mod products;
mod quantize;
mod rows;
mod settings;
mod shape;
#[cfg(test)]
mod tests;
mod thin;
mod tiles;
pub mod variant;
mod vectors;

use crate::ir::{DType, Dim, Graph, NodeId, NodeKind, STATE_STORE, TensorType, ValueId};
use crate::kernels::key::{Flag, KernelKey, Storage};
use crate::ops::core::check_indices::Rule;
use crate::program::ResultSlice;
use crate::targets::tuning::Case;
use crate::targets::{Target, Tuning};
pub use attention::CHUNK as ATTENTION_CHUNK;
pub use attention::has_parts as attention_has_parts;
use call::Node;
use choice::Asked;
pub use choice::{Cost, Source, Way};
use std::cell::RefCell;

/// One dispatch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelCall {
    /// Which kernel.
    pub key: KernelKey,
    /// What its bindings 0, 1, ... are.
    pub operands: Vec<Operand>,
    /// The uniform block after the last binding: scalars as std140 lays them out, a multiple of 16 bytes. Words, or
    /// expressions of sizes.
    pub params: Vec<Dim>,
    /// Workgroups along x, y, z.
    pub groups: [Dim; 3],
    /// What it checks indices by: then a binding of [`FAULT_BYTES`](crate::program::FAULT_BYTES), which it writes,
    /// comes after those of `operands`.
    pub check: Option<Rule>,
    /// Which elements of the result it writes, where other calls of the node write the rest.
    pub result_slice: Option<ResultSlice>,
    /// Calls of a node with the same number here are alternatives: whatever the sizes, at most one of them has
    /// workgroups.
    pub alternative: Option<usize>,
    /// The loops of its text, those of the epilogue last; loops of constant length that are unrolled aside.
    pub loops: Vec<Loop>,
}

/// A loop of a kernel, at its longest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Loop {
    /// How often an invocation comes to it.
    pub entries: u64,
    /// How often its body then runs.
    pub times: u64,
    /// Whether it is one of the epilogue: then it may stand in the text once for each element that is put.
    pub in_epilogue: bool,
}

impl KernelCall {
    /// How often an invocation comes to the end of a loop's body, all loops together: what
    /// [`crate::targets::Limits::max_loop_iterations`] limits. The turn that finds a loop done counts too.
    pub fn loop_iterations(&self) -> u64 {
        self.loops.iter().fold(0, |n, l| n.saturating_add(l.entries.saturating_mul(l.times.saturating_add(1))))
    }
}

/// Part of a value that a kernel binds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The value.
    pub value: ValueId,
    /// First byte, a multiple of [`Target::alignment`].
    pub offset_bytes: u64,
    /// Size in bytes, a multiple of 4.
    pub bytes: u64,
    /// Whether the kernel writes it.
    pub write: bool,
}

/// Why a node cannot run on the device.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum KernelError {
    /// The planner puts such a node on the host.
    #[error("node {node:?}: no kernel for {what}")]
    Unsupported { node: String, what: String },
    /// The kernel takes more than the target has. The planner puts such a node on the host.
    #[error("node {node:?}: {kernel} needs {needed} {resource}, the target has {limit}")]
    OverLimit { node: String, kernel: String, resource: Resource, needed: u64, limit: u64 },
    /// A tensor that cannot be split is larger than what one binding may span.
    #[error("node {node:?}: {value:?} has {bytes} bytes, a binding may span {limit_bytes}")]
    TooLarge { node: String, value: String, bytes: u64, limit_bytes: u64 },
    /// A bug of ours: key and template contradict each other.
    #[error("node {node:?}: kernel {kernel}: {what} (this is a bug)")]
    Mismatch { node: String, kernel: String, what: String },
}

/// What a kernel takes and a target has a limit for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Bindings of tensors.
    StorageBuffers,
    /// Bytes of the uniform block.
    ParameterBytes,
    /// Iterations of all loops of an invocation.
    LoopIterations,
}

impl std::fmt::Display for Resource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Resource::StorageBuffers => "storage buffers",
            Resource::ParameterBytes => "bytes of parameters",
            Resource::LoopIterations => "loop iterations",
        })
    }
}

/// How a kernel reads a tensor: packed, or as the element type that it has on a device ([`DType::on_device`]); `None`
/// for f64 and for text, which none reads.
pub fn storage(ty: &TensorType) -> Option<Storage> {
    match ty.packing {
        Some(packing) => Some(Storage::Packed(packing)),
        None => Storage::of(ty.dtype.on_device()?),
    }
}

/// Bytes of a tensor on a device, a multiple of 4; `None` while a size is symbolic, for text, or on overflow.
pub fn device_bytes(ty: &TensorType) -> Option<u64> {
    if ty.dtype == DType::F64 && ty.packing.is_none() {
        return ty.shape.n_elems()?.checked_mul(8);
    }
    match storage(ty)?.element_bytes() {
        None => ty.bytes(),
        Some(bytes) => ty.shape.n_elems()?.checked_mul(u64::from(bytes))?.checked_next_multiple_of(4),
    }
}

/// Whether a node reads or gives f64: the CPU reference computes it, in f64. No kernel does: a result of f32 would be
/// another one.
pub fn has_doubles(graph: &Graph, node: NodeId) -> bool {
    let operands = graph.operands(node).into_iter().flatten().map(|v| graph.ty(v).dtype);
    operands.chain(graph.node(node).outputs.iter().map(|v| v.ty.dtype)).any(|dtype| dtype == DType::F64)
}

/// The most bytes that a tensor may take on a device: [`device_bytes`] where every size is known.
pub fn most_device_bytes(ty: &TensorType) -> Option<u64> {
    device_bytes(&ty.largest()?)
}

/// How many storage buffers a kernel may read, own operands and those of its epilogue together: fusion keeps to it.
pub fn max_operands(target: &Target) -> usize {
    let buffers = usize::try_from(target.limits.max_per_stage_descriptor_storage_buffers).unwrap_or(usize::MAX);
    // One is the result; beyond sixteen nothing is won.
    buffers.saturating_sub(1).min(16)
}

/// The dispatches that compute a node, in order; each may read what those before it wrote. None for a result without
/// elements.
///
/// # Errors
/// No kernel covers the node, or a tensor is larger than a binding may be.
pub fn dispatches(graph: &Graph, node: NodeId, target: &Target) -> Result<Vec<KernelCall>, KernelError> {
    dispatches_by(graph, node, target, None)
}

/// Whether kernels that make a value note its magnitude, all of them: its `magnitude` then needs none.
pub fn notes_magnitude(graph: &Graph, value: ValueId, target: &Target) -> bool {
    dispatches(graph, value.node, target).is_ok_and(|calls| calls.iter().all(|call| call.key.flag(Flag::Notes) == 1))
}

/// Whether the kernels of a node can make INT8 codes of their first operand, which are packed with one scale, as they
/// load floats.
pub fn quantizes_on_load(graph: &Graph, node: NodeId, target: &Target) -> bool {
    let most = target.limits.max_per_stage_descriptor_storage_buffers as usize;
    // Channels of a pixel make vectors of 16 bytes.
    let x = graph.operands(node).first().copied().flatten();
    let source = x.and_then(|codes| graph.operands(codes.node).first().copied().flatten());
    let per_vector = source.map_or(1, |x| if graph.ty(x).dtype == DType::F16 { 8 } else { 4 });
    let whole = |key: &KernelKey| match key.template {
        key::Template::ConvMma => key.literals.get("c_g").is_some_and(|channels| channels.is_multiple_of(per_vector)),
        key::Template::ConvDepthwiseNhwc => true,
        _ => false,
    };
    let fits = |call: &KernelCall| whole(&call.key) && call.key.n_buffers() < most;
    dispatches(graph, node, target).is_ok_and(|calls| !calls.is_empty() && calls.iter().all(fits))
}

/// Where dispatches of a plan note magnitudes: a word each, at these multiples of bytes.
pub fn note_bytes(target: &Target) -> u64 {
    target.alignment().max(4)
}

/// The kernel that makes so many words 0.
pub fn clear(words: u64) -> KernelCall {
    let key = KernelKey {
        template: key::Template::Iota,
        operands: Vec::new(),
        expr: None,
        result: Storage::I32,
        flags: Default::default(),
        tile: None,
        variant: None,
        literals: Default::default(),
    };
    KernelCall {
        key,
        operands: Vec::new(),
        params: [words, 0, 0, 0].map(Dim::from).to_vec(),
        groups: [Dim::from(words.div_ceil(128)), Dim::Known(1), Dim::Known(1)],
        check: None,
        result_slice: None,
        alternative: None,
        loops: Vec::new(),
    }
}

/// [`dispatches`] by this way, wherever what is computed can be computed so: for benchmarks and tests.
///
/// # Errors
/// As for [`dispatches`].
pub fn dispatches_by(
    graph: &Graph,
    node: NodeId,
    target: &Target,
    way: Option<Way>,
) -> Result<Vec<KernelCall>, KernelError> {
    Ok(calls(graph, node, target, Asked { way, made: None })?.0)
}

/// One of the ways to compute a node.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// What is computed, as a tuning table calls it. A node may be several cases: buckets of rows, parts of its
    /// weights.
    pub case: Case,
    /// The way.
    pub way: Way,
    /// Its price.
    pub cost: Cost,
    /// Whether it is what [`dispatches`] takes for the case.
    pub is_chosen: bool,
    /// The dispatches of the node with every case computed so that can be.
    pub calls: Vec<KernelCall>,
}

/// Every way to compute a node, case by case, in a fixed order; none where there is but one way.
///
/// # Errors
/// As for [`dispatches`].
pub fn candidates(graph: &Graph, node: NodeId, target: &Target) -> Result<Vec<Candidate>, KernelError> {
    let asked = Asked { way: None, made: Some(RefCell::default()) };
    let (_, made) = calls(graph, node, target, asked)?;
    let mut all: Vec<Candidate> = Vec::new();
    for choice in made {
        if all.iter().any(|other| other.case == choice.case) {
            continue;
        }
        for (way, cost) in choice.ways {
            let calls = dispatches_by(graph, node, target, Some(way))?;
            let case = choice.case.clone();
            all.push(Candidate { case, way, cost, is_chosen: way == choice.chosen, calls });
        }
    }
    Ok(all)
}

/// The first way of a tuning table that is none of this version's.
pub fn unknown_way(tuning: &Tuning) -> Option<(Case, String)> {
    let mut all = tuning.cases.iter().flat_map(|(case, times)| times.keys().map(move |way| (case, way)));
    all.find(|(_, way)| way.parse::<Way>().is_err()).map(|(case, way)| (case.clone(), way.clone()))
}

/// The number of rows that stands for `m` of them in a tuning table.
pub fn typical_rows(m: u32) -> u32 {
    u32::try_from(buckets::Bucket::of(m.into()).typical).unwrap_or(u32::MAX)
}

/// The dispatches, and the choices that were made among them, where these are noted.
fn calls(
    graph: &Graph,
    node: NodeId,
    target: &Target,
    asked: Asked,
) -> Result<(Vec<KernelCall>, Vec<choice::Made>), KernelError> {
    let NodeKind::Op(op) = &graph.node(node).kind else {
        return Err(KernelError::Unsupported {
            node: graph.node(node).name.clone(),
            what: "an input or a constant".to_owned(),
        });
    };
    if has_doubles(graph, node) {
        return Err(KernelError::Unsupported {
            node: graph.node(node).name.clone(),
            what: "f64, which the CPU reference computes".to_owned(),
        });
    }
    let mut node = Node::new(graph, node, op, target)?;
    node.asked = asked;
    if node.result.shape.most_elems() == Some(0) {
        return Ok((Vec::new(), Vec::new()));
    }
    // On a device these are f32: what moves values may stand there, what makes new ones would have to round them.
    if node.result.dtype.is_minifloat()
        && (node.rounds() || !matches!(op.def.name, "pointwise" | "strided" | "gather" | "concat" | "reduce"))
    {
        return Err(node.unsupported(format!("rounding to {}", node.result.dtype)));
    }
    let calls = match op.def.name {
        "pointwise" => elementwise::pointwise(&node),
        "matmul" => matmul::matmul(&node),
        "conv" => conv::conv(&node),
        "pool" => conv::pool(&node),
        "reduce" => rows::reduce(&node),
        "softmax" => rows::softmax(&node),
        "norm" => rows::norm(&node),
        "dot_product_attention" => attention::attention(&node),
        "attention_parts" => attention::parts(&node),
        "check_indices" => movement::check_indices(&node),
        "gather" => movement::gather(&node),
        "strided" => movement::strided(&node),
        "concat" => movement::concat(&node),
        STATE_STORE => movement::state_store(&node),
        "resize" => elementwise::resize(&node),
        "iota" => elementwise::iota(&node),
        "quantize_packed" => quantize::quantize_packed(&node),
        "magnitude" => quantize::magnitude(&node),
        other => Err(node.unsupported(format!("the operator {other}"))),
    }?;
    Ok((calls, node.asked.made.take().map(RefCell::into_inner).unwrap_or_default()))
}
