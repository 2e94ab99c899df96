//! nyxc compiles an ONNX model into a mixed-precision Vulkan program that fits a memory budget given in bytes.

#[cfg(feature = "codegen")]
pub mod codegen;
pub mod ir;
pub mod ops;
<<<<<<< HEAD
// Passes stand at the top level of the repository, where reviewers look for them beside their snapshots.
#[path = "../passes/mod.rs"]
pub mod passes;
=======
>>>>>>> f20ec65631ee4df5c58c4006208c713a6d943365
pub mod plan;
pub mod program;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod target;
