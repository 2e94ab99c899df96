//! Operators of com.microsoft that are written in ONNX's and core operators.

/// Look-ups in tables of codes.
pub mod block_quantized;
/// Distances between rows.
pub mod cdist;
/// Attention with a cache of keys and values, as com.microsoft has it.
pub mod group_query;
/// Operators of com.microsoft.
pub mod microsoft;
/// Products with constant codes of few bits.
pub mod n_bits;
/// Gemm on codes.
pub mod q_gemm;

use crate::ir::OpDef;

/// All of them, in order of declaration.
pub static ALL: &[&OpDef] = &[
    &microsoft::SIMPLIFIED,
    &microsoft::SKIP_LAYER,
    &microsoft::SKIP_SIMPLIFIED,
    &microsoft::BIAS_GELU,
    &microsoft::FAST_GELU,
    &microsoft::GELU,
    &microsoft::QUICK_GELU,
    &microsoft::QUANTIZE,
    &microsoft::DEQUANTIZE,
    &microsoft::Q_ADD,
    &microsoft::Q_MUL,
    &microsoft::Q_SIGMOID,
    &microsoft::Q_LEAKY_RELU,
    &microsoft::Q_GLOBAL_POOL,
    &microsoft::Q_AVERAGE_POOL,
    &microsoft::Q_REDUCE_MEAN,
    &microsoft::Q_SOFTMAX,
    &microsoft::Q_WHERE,
    &microsoft::Q_CONCAT,
    &microsoft::MAT_MUL_TO_FLOAT,
    &microsoft::DYNAMIC_MAT_MUL,
    &n_bits::DEF,
    &q_gemm::DEF,
    &block_quantized::DEF,
    &cdist::DEF,
    &group_query::DEF,
    &group_query::ROTARY,
];
