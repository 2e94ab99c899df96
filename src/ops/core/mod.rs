//! Core operators: each has a CPU reference, and a kernel unless it is a step of the host.
//!
//! What ONNX and the core level share (MatMul, Conv, Gather, ...) is one operator, found here: its expansion brings
//! ONNX's freedoms (biases, vectors, one spatial axis) into the core's normal form.

/// Attention as products around a softmax.
pub mod attention_products;
/// Indices held against their axes.
pub mod check_indices;
/// Tensors one after the other.
pub mod concat;
/// Convolutions.
pub mod conv;
mod conv_nhwc;
/// Results with as many elements as data tell: without kernels.
pub mod data_dependent;
/// Operators that wait for their sizes: without kernels.
pub mod deferred;
/// Attention as one operator of the core.
pub mod dot_product_attention;
/// Slices by index.
pub mod gather;
/// Positions of extrema, running sums: without kernels.
pub mod host;
/// Numbers counted from sizes.
pub mod iota;
pub mod layout;
/// Products of matrices.
pub mod matmul;
/// Layer and root-mean-square normalisation.
pub mod norm;
/// Any function of single elements: what all elementwise operators become.
pub mod pointwise;
/// Maxima and averages of sliding windows.
pub mod pool;
/// Quantization with scales given.
pub mod quantize_linear;
/// Activations quantized while the program runs.
pub mod quantize_packed;
/// Sums, means, extrema and products along axes.
pub mod reduce;
/// The same elements under another shape.
pub mod reshape;
/// Images enlarged and reduced.
pub mod resize;
pub mod resize_axes;
/// Images read at computed places: without kernels.
pub mod sample;
/// Softmax and its logarithm.
pub mod softmax;
/// States.
pub mod state_store;
/// In which type a value is kept.
pub mod store;
/// Reading at other places: transposes, slices, pads.
pub mod strided;
pub mod window;

pub use attention_products::write_out as write_out_attention;

use crate::ir::OpDef;

/// All of them, in order of declaration.
pub static ALL: &[&OpDef] = &[
    &pointwise::DEF,
    &matmul::DEF,
    &conv::DEF,
    &pool::DEF,
    &reduce::DEF,
    &softmax::DEF,
    &softmax::LOG,
    &dot_product_attention::DEF,
    &dot_product_attention::PARTS,
    &norm::DEF,
    &check_indices::DEF,
    &gather::DEF,
    &strided::DEF,
    &concat::DEF,
    &reshape::DEF,
    &store::DEF,
    &state_store::DEF,
    &deferred::DEF,
    &iota::DEF,
    &resize::DEF,
    &quantize_packed::DEF,
    &quantize_packed::DYNAMIC,
    &quantize_linear::DEF,
    &quantize_linear::DEQUANTIZE,
    &host::ARG_MAX,
    &host::ARG_MIN,
    &host::CUM_SUM,
    &host::CUM_PROD,
    &host::TOP_K,
    &host::BIT_CAST,
    &host::DET,
    &data_dependent::NON_ZERO,
    &data_dependent::COMPRESS,
    &data_dependent::NON_MAX_SUPPRESSION,
    &data_dependent::UNIQUE,
    &sample::GRID_SAMPLE,
    &sample::ROI_ALIGN,
    &sample::DEFORM_CONV,
    &sample::COL2IM,
    &sample::POOL_INDICES,
];
