//! Operators, one file each, by where they come from: [`core`] has what kernels and the CPU [`reference`] compute,
//! [`onnx`] and [`contrib`] what is written in others.
//!
//! An operator is a static [`OpDef`]. A **core** operator's file holds its type rule and its CPU reference; any other
//! holds its type rule and how it is written in core operators.

/// Operators of ONNX that are written in others: name in the text form, name in ONNX, fewest and most operands,
/// attributes, type rule, expansion.
macro_rules! written_out {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal $arity:tt [$($attr:expr),*]
        $infer:expr, $expand:expr;)*) => {
        $($(#[$doc])* pub static $def: $crate::ir::OpDef = $crate::ir::OpDef {
            name: $name,
            onnx: $onnx,
            levels: $crate::ir::ONNX,
            attrs: &[$($attr),*],
            arity: $arity,
            infer: &$infer,
            eval: None,
            expand: Some(&$expand),
            weights: None,
            gradient: None,
        };)*
    };
}

pub mod compose;
pub mod contrib;
pub mod core;
pub mod data_dependent;
pub mod differentiate;
pub mod onnx;
pub mod reference;
pub mod util;
pub mod weights;
/// f32 between the operands and the results of an expansion.
mod widen;

#[cfg(test)]
mod tests;

pub use reference::{evaluate, expand_node};

use crate::ir::{DType, Op, OpDef, Registry};

/// Every operator that nyxc knows, in order of declaration.
pub fn all() -> impl Iterator<Item = &'static OpDef> {
    [core::ALL, onnx::ALL, contrib::ALL].into_iter().flatten().copied()
}

/// The registry of all operators.
pub fn registry() -> Registry {
    Registry::new(all())
}

/// Whether an operator of the ONNX level reads float operands of different types, each as it is stored, as core
/// operators do. Its result has the type of the operand that its type rule names.
pub fn reads_mixed(def: &'static OpDef) -> bool {
    const OTHERS: &[&OpDef] = &[
        &core::conv::DEF,
        &onnx::gemm::DEF,
        &core::matmul::DEF,
        &onnx::normalization::BATCH,
        &onnx::normalization::GROUP,
        &onnx::normalization::INSTANCE,
        &onnx::normalization::LAYER,
        &onnx::normalization::RMS,
    ];
    OTHERS.iter().chain(onnx::elementwise::TABLE).any(|known| std::ptr::eq(*known, def))
}

/// Whether formats say how floats of this type are stored: those of 16 and 32 bits.
pub fn is_plain(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::BF16)
}

/// Operands whose float type is no activation: scales and thresholds that operators want in f32 whatever else they
/// compute, and what an operator converts itself.
pub fn keeps_type(op: &Op, slot: usize) -> bool {
    match op.def.onnx {
        "Resize" => slot > 0,
        "BitCast" | "Cast" | "DequantizeLinear" | "QuantizeLinear" | "Range" => true,
        _ => false,
    }
}
