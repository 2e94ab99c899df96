//! What can go wrong between a program and a device.

use crate::ir::IndexFault;
use crate::program::ProgramError;
use crate::targets::MaskError;

/// Why a program cannot be loaded or run. Whatever was made before is destroyed when this is returned.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum RuntimeError {
    /// There is no Vulkan, no device, or none of this index.
    #[error("no Vulkan device: {reason}")]
    NoDevice { reason: String },
    /// There is no GPU, only a driver that computes on the CPU.
    #[error("no GPU here, only {software}, which computes on the CPU (--device vulkan takes it)")]
    NoGpu { software: String },
    /// The device has less memory than the plan needs.
    #[error("the device is out of memory: {asked_bytes} bytes asked, {free_bytes} free")]
    OutOfMemory { asked_bytes: u64, free_bytes: u64 },
    /// A tensor of the caller's does not fit in the budget beside the program.
    #[error("{asked_bytes} bytes asked for a tensor on the device, the budget leaves {left_bytes}")]
    Budget { asked_bytes: u64, left_bytes: u64 },
    /// The device stopped; every object on it is useless (Vulkan 1.3, section 5.2.3 "Lost Device").
    #[error("the device was lost")]
    DeviceLost,
    /// The program needs what the device lacks.
    #[error("the device does not support {what}")]
    Unsupported { what: String },
    /// An input is not what its port takes.
    #[error("input {name:?}: {fault}")]
    Input { name: String, fault: String },
    /// An index of a node is out of range.
    #[error("node {node:?}: {fault}")]
    Index { node: String, fault: IndexFault },
    /// A run failed on the way, and what it stored is not known.
    #[error("a run failed after it may have stored states: reset them before the next")]
    Torn,
    /// A node that runs on the host failed.
    #[error("host node {node:?}: {fault}")]
    Host { node: String, fault: String },
    /// The program breaks its own rules.
    #[error("the program does not keep its own rules")]
    Program(#[from] ProgramError),
    /// `NYXC_MASK` holds no mask.
    #[error("NYXC_MASK: {0}")]
    Mask(#[from] MaskError),
    /// `NYXC_VALIDATION` holds no list of checks.
    #[error("NYXC_VALIDATION: {word:?} is none of 1, core, sync, gpu")]
    Checks { word: String },
    /// `NYXC_FAULT` names no call that shall fail.
    #[error("NYXC_FAULT: {0}")]
    Fault(String),
    /// A Vulkan call failed in another way.
    #[error("{call} failed with VkResult {code}")]
    Vulkan { call: &'static str, code: i32 },
}

/// Why a node cannot be computed on the host.
#[derive(Clone, Debug, PartialEq)]
pub enum HostError {
    /// An index of a node of the model is out of range.
    Index {
        /// The node.
        node: String,
        /// Which index, and the range.
        fault: IndexFault,
    },
    /// Anything else, in words.
    Other(String),
}

impl From<String> for HostError {
    fn from(fault: String) -> HostError {
        HostError::Other(fault)
    }
}

impl RuntimeError {
    /// Whether the caller's settings are at fault, and neither program nor device.
    pub fn is_usage(&self) -> bool {
        matches!(self, RuntimeError::Mask(_) | RuntimeError::Checks { .. } | RuntimeError::Fault(_))
    }

    /// Whether less memory would have helped: then another plan may fit.
    pub fn is_out_of_memory(&self) -> bool {
        // VK_ERROR_OUT_OF_HOST_MEMORY, VK_ERROR_OUT_OF_DEVICE_MEMORY, VK_ERROR_OUT_OF_POOL_MEMORY.
        matches!(self, RuntimeError::OutOfMemory { .. } | RuntimeError::Vulkan { code: -1 | -2 | -1_000_069_000, .. })
    }
}
