//! nyxc compiles an ONNX model into a mixed-precision Vulkan program that fits a memory budget given in bytes.

pub mod import;
pub mod ir;
pub mod ops;
pub mod program;
pub mod target;
