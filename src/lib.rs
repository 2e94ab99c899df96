//! nyxc compiles an ONNX model into a mixed-precision Vulkan program that fits a memory budget given in bytes.
//!
//! A model that is too large for a device in f32 is stored narrower, layer by layer (f16, INT8, INT4), so that the
//! predicted error is the smallest that the budget allows. The result is one file for any device with Vulkan 1.1, with
//! a certificate that says how far the choice may be from the best.
//!
//! The way of a model through the crate: [`import`] makes a [`Graph`](ir::Graph) of the file, [`passes`] rewrite it
//! (each one shows as text before and after), [`plan`] lays it out in memory, [`codegen`] writes its kernels,
//! [`program`] is what is shipped and [`session`] what runs it. `ARCHITECTURE.md` says how they fit together.
//!
//! ```no_run
#![doc = include_str!("../examples/quickstart.rs")]
//! ```
//!
//! A pass of one's own stands beside these: `examples/embed.rs`; an operator of one's own: `examples/own_operator.rs`.
//!
//! # Features
//! Without any, the crate is import, passes, printing and diffs: no C++ and no Vulkan. `codegen` compiles kernels with
//! shaderc, `runtime` runs programs with ash, `vulkan` is both, `cli` (the default) is the command line.

pub mod assign;
#[cfg(feature = "cli")]
pub mod cli;
#[cfg(feature = "codegen")]
pub mod codegen;
pub mod diff;
pub mod export;
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
