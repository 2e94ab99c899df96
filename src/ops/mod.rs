//! Operators, one file each, and the one list of them.
//!
//! An operator is a static [`OpDef`]. A **core** operator's file holds its type rule and its CPU reference; any other holds its type rule and
//! how it is written in core operators. What ONNX and the core level share (MatMul, Conv, Gather, ...) is one operator: its expansion then
//! brings ONNX's freedoms (biases, vectors, one spatial axis) into the core's normal form.

mod evaluate;
pub mod gemm;
pub mod packed_view;
pub mod util;
pub mod window;

pub use evaluate::{evaluate, expand_node};

use crate::ir::{OpDef, Registry};

/// Declares the operators: a module each, and the list that the registry is made of.
macro_rules! declare_ops {
    ($($(#[$doc:meta])* $module:ident: [$($def:ident),* $(,)?],)*) => {
        $($(#[$doc])* pub mod $module;)*
        /// Every operator that nyxc knows, in order of declaration.
        pub static ALL: &[&OpDef] = &[$($(&$module::$def),*),*];
    };
}

declare_ops! {
    /// Any function of single elements: what all elementwise operators become.
    pointwise: [DEF],
    /// Products of matrices.
    matmul: [DEF],
    /// Convolutions.
    conv: [DEF],
    /// Maxima and averages of sliding windows.
    pool: [DEF],
    /// Sums, means, extrema and products along axes.
    reduce: [DEF],
    /// Softmax and its logarithm.
    softmax: [DEF, LOG],
    /// Layer and root-mean-square normalisation.
    norm: [DEF],
    /// Slices by index.
    gather: [DEF],
    /// Reading at other places: transposes, slices, pads.
    strided: [DEF],
    /// Tensors one after the other.
    concat: [DEF],
    /// The same elements under another shape.
    reshape: [DEF],
    /// Images enlarged and reduced.
    resize: [DEF],
    /// Activations quantized while the program runs.
    quantize_packed: [DEF, DYNAMIC],
    /// Quantization with scales given.
    quantize_linear: [DEF, DEQUANTIZE],
}

/// The registry of all operators.
pub fn registry() -> Registry {
    Registry::new(ALL)
}
