//! Operators, one file each, and the one list of them.
//!
//! An operator is a static [`OpDef`]. A **core** operator's file holds its type rule and its CPU reference; any other holds its type rule and
//! how it is written in core operators. What ONNX and the core level share (MatMul, Conv, Gather, ...) is one operator: its expansion then
//! brings ONNX's freedoms (biases, vectors, one spatial axis) into the core's normal form.

pub mod compose;
mod evaluate;
pub mod kernel_key;
pub mod multiply;
pub mod packed_view;
pub mod quant_search;
pub mod resize_axes;
pub mod util;
pub mod vectors;
pub mod weights;
pub mod window;

#[cfg(test)]
mod tests;

pub use evaluate::{evaluate, expand_node};

use crate::ir::{OpDef, Registry};

/// Operators of ONNX that are written in others: name in the text form, name in ONNX, fewest and most operands, attributes, type rule, expansion.
macro_rules! written_out {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal $arity:tt [$($attr:expr),*] $infer:expr, $expand:expr;)*) => {
        $($(#[$doc])* pub static $def: $crate::ir::OpDef = $crate::ir::OpDef {
            name: $name,
            onnx: $onnx,
            levels: $crate::ir::ONNX,
            attrs: &[$($attr),*],
            arity: $arity,
            infer: $infer,
            eval: None,
            expand: Some($expand),
        };)*
    };
}

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
    /// Operators that wait for their sizes: without kernels.
    deferred: [DEF],
    /// Numbers counted from sizes.
    iota: [DEF],
    /// Images enlarged and reduced.
    resize: [DEF],
    /// Activations quantized while the program runs.
    quantize_packed: [DEF, DYNAMIC],
    /// Quantization with scales given.
    quantize_linear: [DEF, DEQUANTIZE],
    /// Positions of extrema, running sums: without kernels.
    host: [ARG_MAX, ARG_MIN, CUM_SUM, CUM_PROD, TOP_K, BIT_CAST, DET],
    /// Results with as many elements as data tell: without kernels.
    counted: [NON_ZERO, COMPRESS, NON_MAX_SUPPRESSION, UNIQUE],
    /// Images read at computed places: without kernels.
    sample: [GRID_SAMPLE, ROI_ALIGN, DEFORM_CONV, COL2IM, POOL_INDICES],
    /// ONNX's elementwise operators.
    elementwise: [ABS, ACOS, ACOSH, ADD, AND, ASIN, ASINH, ATAN, ATANH, BIT_SHIFT, BITWISE_AND, BITWISE_NOT, BITWISE_OR, BITWISE_XOR, CAST, CAST_LIKE, CEIL, CELU, CLIP, COS, COSH, DIV, DROPOUT, ELU, EQUAL, ERF, EXP, FLOOR, GELU, GREATER, GREATER_OR_EQUAL, HARD_SIGMOID, HARD_SWISH, IDENTITY, IS_INF, IS_NAN, LEAKY_RELU, LESS, LESS_OR_EQUAL, LOG, MAX, MEAN, MIN, MISH, MOD, MUL, NEG, NOT, OR, POW, PRELU, RECIPROCAL, RELU, ROUND, SELU, SHRINK, SIGMOID, SIGN, SIN, SINH, SOFTPLUS, SOFTSIGN, SQRT, SUB, SUM, SWISH, SWI_GLU, TAN, TANH, THRESHOLDED_RELU, WHERE, XOR],
    /// ONNX Gemm.
    gemm: [DEF],
    /// ONNX ConvTranspose.
    conv_transpose: [DEF],
    /// ONNX's normalisations.
    normalize: [BATCH, LAYER, RMS, INSTANCE, GROUP],
    /// Attention, and the rotations of positions before it.
    attention: [DEF, ROTARY],
    /// ONNX's pools.
    pooling: [MAX, AVERAGE, GLOBAL_MAX, GLOBAL_AVERAGE],
    /// ONNX's reductions.
    reduction: [SUM, MEAN, MAX, MIN, PROD, L1, L2, SUM_SQUARE, LOG_SUM, LOG_SUM_EXP],
    /// ONNX's operators that only move elements.
    movement: [TRANSPOSE, EXPAND, TILE, SPLIT, SQUEEZE, UNSQUEEZE, FLATTEN, DEPTH_TO_SPACE, SPACE_TO_DEPTH],
    /// ONNX Slice and Pad.
    slice: [SLICE, PAD],
    /// Losses over classes.
    loss: [NEGATIVE_LOG_LIKELIHOOD, SOFTMAX_CROSS_ENTROPY],
    /// Triangles, one-hot codes, identity matrices.
    mask: [TRILU, EYE_LIKE, ONE_HOT, HARDMAX],
    /// Single elements and slices by indices.
    elements: [GATHER_ELEMENTS, GATHER_ND, REVERSE_SEQUENCE, TENSOR_SCATTER],
    /// Rows written into a copy.
    scatter: [DEF, ELEMENTS, ND, MAX_UNPOOL],
    /// Normalisations and pools by norms.
    local: [LRN, LP_NORMALIZATION, MEAN_VARIANCE, LP_POOL, GLOBAL_LP_POOL],
    /// Adagrad, Adam, Momentum.
    optimizers: [ADAGRAD, ADAM, MOMENTUM],
    /// Fourier transforms, windows, mel bands.
    fourier: [DFT, STFT, HANN, HAMMING, BLACKMAN, MEL],
    /// Crops around a centre, grids of points.
    frame: [CENTER_CROP_PAD, AFFINE_GRID],
    /// Sums of products by labels.
    einsum: [DEF],
    /// Operators that carry a state from call to call.
    state: [CAUSAL_CONV, LINEAR_ATTENTION],
    /// Recurrent layers.
    recurrent: [RNN, GRU, LSTM, DYNAMIC_QUANTIZE_LSTM],
    /// Exact products of integers.
    integer: [DYNAMIC_QUANTIZE, MAT_MUL, CONV, Q_MAT_MUL, Q_CONV],
    /// Operators of classical learning, and optional tensors.
    learned: [BINARIZER, ARRAY_FEATURE_EXTRACTOR, OPTIONAL_HAS_ELEMENT, OPTIONAL_GET_ELEMENT, TF_IDF],
    /// Operators of com.microsoft.
    microsoft: [SIMPLIFIED, SKIP_LAYER, SKIP_SIMPLIFIED, FUSED_MAT_MUL, BIAS_GELU, FAST_GELU, GELU, QUICK_GELU, QUANTIZE, DEQUANTIZE, Q_ADD, Q_MUL, Q_SIGMOID, Q_LEAKY_RELU, Q_GLOBAL_POOL, Q_CONCAT, MAT_MUL_TO_FLOAT, DYNAMIC_MAT_MUL, MAT_MUL_N_BITS],
    /// Gemm on codes.
    q_gemm: [DEF],
    /// Look-ups in tables of codes.
    block_quantized: [DEF],
    /// Attention with a cache of keys and values, as com.microsoft has it.
    group_query: [DEF, ROTARY],
    /// Random numbers.
    random: [DEF, UNIFORM, UNIFORM_LIKE, NORMAL, NORMAL_LIKE, BERNOULLI],
    /// Operators whose results are known once shapes are.
    shape: [CONSTANT, SHAPE, SIZE, SIZES, RANGE, CONSTANT_OF_SHAPE],
}

/// The registry of all operators.
pub fn registry() -> Registry {
    Registry::new(ALL)
}
