//! The CPU reference: how operators, products and expressions are computed on the host.

pub(crate) mod evaluate;
pub mod expression;
pub mod multiply;
pub mod order;
pub mod packed_view;
pub mod real;
pub mod scalar;

pub use evaluate::{evaluate, expand_node};
