//! nyxc compiles an ONNX model into a mixed-precision Vulkan program that fits a memory budget given in bytes.

pub mod assign;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "codegen")]
pub mod codegen;
pub mod diff;
pub mod failure;
pub mod import;
pub mod ir;
pub mod kernels;
pub mod ops;
// Passes stand at the top level of the repository, where reviewers look for them beside their snapshots.
#[path = "../passes/mod.rs"]
pub mod passes;
pub mod plan;
pub mod program;
pub mod quant;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod session;
pub mod targets;
