//! Operators, one file each, and the one list of them.
//!
//! An operator is a static [`OpDef`]. A **core** operator's file holds its type rule and its CPU reference; any other holds its type rule and
//! how it is written in core operators. What ONNX and the core level share (MatMul, Conv, Gather, ...) is one operator: its expansion then
//! brings ONNX's freedoms (biases, vectors, one spatial axis) into the core's normal form.

mod evaluate;
pub mod kernel_key;
pub mod util;

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
}

/// The registry of all operators.
pub fn registry() -> Registry {
    Registry::new(ALL)
}
