//! Operators, one file each, and the one list of them.
//!
//! An operator is a static [`OpDef`]. A **core** operator's file holds its type rule and its CPU reference; any other
//! holds its type rule and how it is written in core operators. What ONNX and the core level share (MatMul, Conv,
//! Gather, ...) is one operator: its expansion then brings ONNX's freedoms (biases, vectors, one spatial axis) into the
//! core's normal form.

pub mod compose;
mod conv_nhwc;
mod evaluate;
pub mod kernel_key;
pub mod layout;
pub mod multiply;
pub mod packed_view;
pub mod quant_search;
pub mod resize_axes;
pub mod util;
pub mod variant;
pub mod vectors;
pub mod weights;
/// f32 between the operands and the results of an expansion.
mod widen;
pub mod window;

#[cfg(test)]
mod tests;

pub use attention_products::write_out as write_out_attention;
pub use evaluate::{evaluate, expand_node};

use crate::ir::{OpDef, Registry};

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
            infer: $infer,
            eval: None,
            expand: Some($expand),
        };)*
    };
}

/// Attention, and the rotations of positions before it.
pub mod attention;
/// Attention as products around a softmax.
mod attention_products;
/// Look-ups in tables of codes.
pub mod block_quantized;
/// Indices held against their axes.
pub mod check_indices;
/// Tensors one after the other.
pub mod concat;
/// Convolutions.
pub mod conv;
/// ONNX ConvTranspose.
pub mod conv_transpose;
/// Results with as many elements as data tell: without kernels.
pub mod counted;
/// Operators that wait for their sizes: without kernels.
pub mod deferred;
/// Attention as one operator of the core.
pub mod dot_product_attention;
/// Sums of products by labels.
pub mod einsum;
/// Single elements and slices by indices.
pub mod elements;
/// ONNX's elementwise operators.
pub mod elementwise;
/// Fourier transforms, windows, mel bands.
pub mod fourier;
/// Crops around a centre, grids of points.
pub mod frame;
/// Slices by index.
pub mod gather;
/// ONNX Gemm.
pub mod gemm;
/// Attention with a cache of keys and values, as com.microsoft has it.
pub mod group_query;
/// Positions of extrema, running sums: without kernels.
pub mod host;
/// Exact products of integers.
pub mod integer;
/// Numbers counted from sizes.
pub mod iota;
/// Operators of classical learning, and optional tensors.
pub mod learned;
/// Normalisations and pools by norms.
pub mod local;
/// Losses over classes.
pub mod loss;
/// Triangles, one-hot codes, identity matrices.
pub mod mask;
/// Products of matrices.
pub mod matmul;
/// Operators of com.microsoft.
pub mod microsoft;
/// ONNX's operators that only move elements.
pub mod movement;
/// Products with constant codes of few bits.
pub mod n_bits;
/// Layer and root-mean-square normalisation.
pub mod norm;
/// ONNX's normalisations.
pub mod normalize;
/// Adagrad, Adam, Momentum.
pub mod optimizers;
/// Any function of single elements: what all elementwise operators become.
pub mod pointwise;
/// Maxima and averages of sliding windows.
pub mod pool;
/// ONNX's pools.
pub mod pooling;
/// Gemm on codes.
pub mod q_gemm;
/// Quantization with scales given.
pub mod quantize_linear;
/// Activations quantized while the program runs.
pub mod quantize_packed;
/// Random numbers.
pub mod random;
/// Recurrent layers.
pub mod recurrent;
/// Sums, means, extrema and products along axes.
pub mod reduce;
/// ONNX's reductions.
pub mod reduction;
/// The same elements under another shape.
pub mod reshape;
/// Images enlarged and reduced.
pub mod resize;
/// Images read at computed places: without kernels.
pub mod sample;
/// Rows written into a copy.
pub mod scatter;
/// Operators whose results are known once shapes are.
pub mod shape;
/// ONNX Slice and Pad.
pub mod slice;
/// Softmax and its logarithm.
pub mod softmax;
/// Operators that carry a state from call to call.
pub mod state;
/// In which type a value is kept.
pub mod store;
/// Reading at other places: transposes, slices, pads.
pub mod strided;

/// Every operator that nyxc knows, in order of declaration.
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
    &counted::NON_ZERO,
    &counted::COMPRESS,
    &counted::NON_MAX_SUPPRESSION,
    &counted::UNIQUE,
    &sample::GRID_SAMPLE,
    &sample::ROI_ALIGN,
    &sample::DEFORM_CONV,
    &sample::COL2IM,
    &sample::POOL_INDICES,
    &elementwise::ABS,
    &elementwise::ACOS,
    &elementwise::ACOSH,
    &elementwise::ADD,
    &elementwise::AND,
    &elementwise::ASIN,
    &elementwise::ASINH,
    &elementwise::ATAN,
    &elementwise::ATANH,
    &elementwise::BIT_SHIFT,
    &elementwise::BITWISE_AND,
    &elementwise::BITWISE_NOT,
    &elementwise::BITWISE_OR,
    &elementwise::BITWISE_XOR,
    &elementwise::CAST,
    &elementwise::CAST_LIKE,
    &elementwise::CEIL,
    &elementwise::CELU,
    &elementwise::CLIP,
    &elementwise::COS,
    &elementwise::COSH,
    &elementwise::DIV,
    &elementwise::DROPOUT,
    &elementwise::ELU,
    &elementwise::EQUAL,
    &elementwise::ERF,
    &elementwise::EXP,
    &elementwise::FLOOR,
    &elementwise::GELU,
    &elementwise::GREATER,
    &elementwise::GREATER_OR_EQUAL,
    &elementwise::HARD_SIGMOID,
    &elementwise::HARD_SWISH,
    &elementwise::IDENTITY,
    &elementwise::IS_INF,
    &elementwise::IS_NAN,
    &elementwise::LEAKY_RELU,
    &elementwise::LESS,
    &elementwise::LESS_OR_EQUAL,
    &elementwise::LOG,
    &elementwise::MAX,
    &elementwise::MEAN,
    &elementwise::MIN,
    &elementwise::MISH,
    &elementwise::MOD,
    &elementwise::MUL,
    &elementwise::NEG,
    &elementwise::NOT,
    &elementwise::OR,
    &elementwise::POW,
    &elementwise::PRELU,
    &elementwise::RECIPROCAL,
    &elementwise::RELU,
    &elementwise::ROUND,
    &elementwise::SELU,
    &elementwise::SHRINK,
    &elementwise::SIGMOID,
    &elementwise::SIGN,
    &elementwise::SIN,
    &elementwise::SINH,
    &elementwise::SOFTPLUS,
    &elementwise::SOFTSIGN,
    &elementwise::SQRT,
    &elementwise::SUB,
    &elementwise::SUM,
    &elementwise::SWISH,
    &elementwise::SWI_GLU,
    &elementwise::TAN,
    &elementwise::TANH,
    &elementwise::THRESHOLDED_RELU,
    &elementwise::WHERE,
    &elementwise::XOR,
    &gemm::DEF,
    &conv_transpose::DEF,
    &normalize::BATCH,
    &normalize::LAYER,
    &normalize::RMS,
    &normalize::INSTANCE,
    &normalize::GROUP,
    &attention::DEF,
    &attention::ROTARY,
    &pooling::MAX,
    &pooling::AVERAGE,
    &pooling::GLOBAL_MAX,
    &pooling::GLOBAL_AVERAGE,
    &reduction::SUM,
    &reduction::MEAN,
    &reduction::MAX,
    &reduction::MIN,
    &reduction::PROD,
    &reduction::L1,
    &reduction::L2,
    &reduction::SUM_SQUARE,
    &reduction::LOG_SUM,
    &reduction::LOG_SUM_EXP,
    &movement::TRANSPOSE,
    &movement::EXPAND,
    &movement::TILE,
    &movement::SPLIT,
    &movement::SQUEEZE,
    &movement::UNSQUEEZE,
    &movement::FLATTEN,
    &movement::DEPTH_TO_SPACE,
    &movement::SPACE_TO_DEPTH,
    &slice::SLICE,
    &slice::PAD,
    &loss::NEGATIVE_LOG_LIKELIHOOD,
    &loss::SOFTMAX_CROSS_ENTROPY,
    &mask::TRILU,
    &mask::EYE_LIKE,
    &mask::ONE_HOT,
    &mask::HARDMAX,
    &elements::GATHER_ELEMENTS,
    &elements::GATHER_ND,
    &elements::REVERSE_SEQUENCE,
    &elements::TENSOR_SCATTER,
    &scatter::DEF,
    &scatter::ELEMENTS,
    &scatter::ND,
    &scatter::MAX_UNPOOL,
    &local::LRN,
    &local::LP_NORMALIZATION,
    &local::MEAN_VARIANCE,
    &local::LP_POOL,
    &local::GLOBAL_LP_POOL,
    &optimizers::ADAGRAD,
    &optimizers::ADAM,
    &optimizers::MOMENTUM,
    &fourier::DFT,
    &fourier::STFT,
    &fourier::HANN,
    &fourier::HAMMING,
    &fourier::BLACKMAN,
    &fourier::MEL,
    &frame::CENTER_CROP_PAD,
    &frame::AFFINE_GRID,
    &einsum::DEF,
    &state::CAUSAL_CONV,
    &state::LINEAR_ATTENTION,
    &recurrent::RNN,
    &recurrent::GRU,
    &recurrent::LSTM,
    &recurrent::DYNAMIC_QUANTIZE_LSTM,
    &integer::DYNAMIC_QUANTIZE,
    &integer::MAT_MUL,
    &integer::CONV,
    &integer::Q_MAT_MUL,
    &integer::Q_CONV,
    &learned::BINARIZER,
    &learned::ARRAY_FEATURE_EXTRACTOR,
    &learned::OPTIONAL_HAS_ELEMENT,
    &learned::OPTIONAL_GET_ELEMENT,
    &learned::TF_IDF,
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
    &group_query::DEF,
    &group_query::ROTARY,
    &random::DEF,
    &random::UNIFORM,
    &random::UNIFORM_LIKE,
    &random::NORMAL,
    &random::NORMAL_LIKE,
    &random::BERNOULLI,
    &shape::CONSTANT,
    &shape::SHAPE,
    &shape::SIZE,
    &shape::SIZES,
    &shape::RANGE,
    &shape::CONSTANT_OF_SHAPE,
];

/// The registry of all operators.
pub fn registry() -> Registry {
    Registry::new(ALL)
}

/// Whether an operator of the ONNX level reads float operands of different types, each as it is stored, as core
/// operators do. Its result has the type of the operand that its type rule names.
pub fn reads_mixed(def: &'static OpDef) -> bool {
    const OTHERS: &[&OpDef] = &[
        &conv::DEF,
        &gemm::DEF,
        &matmul::DEF,
        &normalize::BATCH,
        &normalize::GROUP,
        &normalize::INSTANCE,
        &normalize::LAYER,
        &normalize::RMS,
    ];
    OTHERS.iter().chain(elementwise::TABLE).any(|known| std::ptr::eq(*known, def))
}
