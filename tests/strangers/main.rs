//! Files from strangers: whatever a file holds, the program ends with a documented exit code and a message that names
//! the place, does not panic, leaves no half-written output, and takes memory in proportion to the file.
//!
//! Each reader meets files that are hand-made to hurt it, truncated ones, ones with flipped bits, and random ones: a
//! small fixed part here, and a thousand of each in the ignored tests (`make soak`, or `cargo test --test strangers --
//! --ignored`).

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

mod caches;
mod child;
mod external;
#[path = "../common/folder.rs"]
mod folder;
mod folding;
mod limits;
mod mutate;
mod npz;
mod nyx;
mod nyxir;
mod onnx;
#[path = "../common/pb.rs"]
mod pb;
mod regressions;
mod target;

/// Mutants of each reader in the ordinary suite, the hand-made files not counted.
const FEW: usize = 40;
/// Mutants of each reader in the ignored tests.
const MANY: usize = 1000;
