//! Planning: which values live when, their places in memory, and the order of dispatches. No graph is changed here.

pub mod arena;
pub mod build;
pub mod memory;
pub mod schedule;

use serde::{Deserialize, Serialize};

/// What assignment found out about the plans that are possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forecast {
    /// Planned peak of `uniform:f32`, in bytes.
    pub f32_bytes: u64,
    /// The smallest peak of any permitted assignment, in bytes.
    pub min_feasible_bytes: u64,
    /// Planned peak of the chosen assignment, in bytes.
    pub chosen_bytes: u64,
}

/// Why a graph cannot be planned.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum PlanError {
    #[error("%{value} is {ty}: its size has no bound")]
    Symbolic { value: String, ty: String },
    #[error("%{value} is {ty}, which no device buffer holds")]
    Type { value: String, ty: String },
    #[error(
        "%{value} is {ty}, of which an axis would have {least} elements at the smallest sizes: begin their ranges higher"
    )]
    Negative { value: String, ty: String, least: i64 },
    #[error(transparent)]
    Arena(#[from] arena::ArenaError),
    #[error("an allocation of {bytes} bytes; the target allows {limit}")]
    Allocation { bytes: u64, limit: u64 },
    #[error("{name:?} reads a version of a state after another was stored over it: run copy_states before")]
    Late { name: String },
    #[error("state {name:?} has another type or initial value in entry {entry:?} than in one before")]
    State { name: String, entry: String },
    #[error("%{value} has no place in the plan")]
    Unplaced { value: String },
    #[error("the plan has more than 2^64 bytes")]
    Overflow,
    #[error(transparent)]
    Kernel(#[from] crate::kernels::KernelError),
    #[error("%{value}: {source}")]
    Constant { value: String, source: crate::ir::TensorError },
}

/// Bytes of an allocation of `bytes`, as the driver rounds them.
pub fn allocation_bytes(bytes: u64, target: &crate::targets::Target) -> u64 {
    round_up(bytes, target.memory.allocation_granularity.max(256))
}

/// `bytes` rounded up to a multiple of `alignment`, saturating.
pub fn round_up(bytes: u64, alignment: u64) -> u64 {
    bytes.checked_next_multiple_of(alignment.max(1)).unwrap_or(u64::MAX)
}
