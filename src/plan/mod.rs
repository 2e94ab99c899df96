//! From a kernel-level graph to dispatches and memory.

pub mod kernels;
