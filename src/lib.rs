//! nyxc compiles an ONNX model into a mixed-precision Vulkan program that fits a memory budget given in bytes.

#[cfg(feature = "codegen")]
pub mod codegen;
pub mod ir;
pub mod ops;
pub mod plan;
pub mod program;
#[cfg(feature = "runtime")]
pub mod runtime;
pub mod target;
