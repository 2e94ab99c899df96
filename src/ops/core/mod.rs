//! Core operators: each has a CPU reference, and a kernel unless it is a step of the host.
//!
//! What ONNX and the core level share (MatMul, Conv, Gather, ...) is one operator, found here: its expansion brings
//! ONNX's freedoms (biases, vectors, one spatial axis) into the core's normal form.

/// The place of an extremum: kernels compare places where sizes are known.
pub mod arg_max;
/// Attention as products around a softmax.
pub mod attention_products;
/// The same bits as another type: without a kernel.
pub mod bit_cast;
/// Indices held against their axes.
pub mod check_indices;
/// Overlapping windows added up: without a kernel.
pub mod col2im;
/// Tensors one after the other.
pub mod concat;
/// Convolutions.
pub mod conv;
mod conv_nhwc;
/// Running sums and products: without a kernel.
pub mod cumulative;
/// Operators that wait for their sizes: without kernels.
pub mod deferred;
/// Convolutions whose windows are moved tap by tap: without a kernel.
pub mod deform_conv;
/// Determinants: without a kernel.
pub mod det;
/// Attention as one operator of the core.
pub mod dot_product_attention;
/// Slices by index.
pub mod gather;
/// Images read at computed places: without a kernel.
pub mod grid_sample;
/// Values between the elements of an image.
pub mod interpolate;
/// Numbers counted from sizes.
pub mod iota;
pub mod layout;
/// Products of matrices.
pub mod matmul;
/// The best of boxes that overlap: without a kernel.
pub mod non_max_suppression;
/// Where elements are not zero: without a kernel.
pub mod non_zero;
/// Layer and root-mean-square normalisation.
pub mod norm;
/// Any function of single elements: what all elementwise operators become.
pub mod pointwise;
/// Maxima and averages of sliding windows.
pub mod pool;
/// Where the maxima of sliding windows stand: without a kernel.
pub mod pool_indices;
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
/// Regions of images as grids of averages: without a kernel.
pub mod roi_align;
/// Softmax and its logarithm.
pub mod softmax;
/// States.
pub mod state_store;
/// In which type a value is kept.
pub mod store;
/// Reading at other places: transposes, slices, pads.
pub mod strided;
/// The largest or smallest elements in order: without a kernel.
pub mod top_k;
/// The elements or slices that differ: without a kernel.
pub mod unique;
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
    &quantize_packed::MAGNITUDE,
    &quantize_packed::DYNAMIC,
    &quantize_linear::DEF,
    &quantize_linear::DEQUANTIZE,
    &arg_max::MAX,
    &arg_max::MIN,
    &cumulative::SUM,
    &cumulative::PROD,
    &top_k::DEF,
    &bit_cast::DEF,
    &det::DEF,
    &non_zero::DEF,
    &non_max_suppression::DEF,
    &unique::DEF,
    &grid_sample::DEF,
    &roi_align::DEF,
    &deform_conv::DEF,
    &col2im::DEF,
    &pool_indices::DEF,
];
