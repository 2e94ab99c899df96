//! Operators of ONNX that are written in core operators.

/// Attention, and the rotations of positions before it.
pub mod attention;
/// ONNX ConvTranspose.
pub mod conv_transpose;
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
/// ONNX Gemm.
pub mod gemm;
/// Exact products of integers.
pub mod integer;
/// Operators of classical learning, and optional tensors.
pub mod learned;
/// Normalisations and pools by norms.
pub mod local;
/// Losses over classes.
pub mod loss;
/// Triangles, one-hot codes, identity matrices.
pub mod mask;
/// ONNX's operators that only move elements.
pub mod movement;
/// ONNX's normalisations.
pub mod normalization;
/// Adagrad, Adam, Momentum.
pub mod optimizers;
/// ONNX's pools.
pub mod pooling;
/// Random numbers.
pub mod random;
/// Recurrent layers.
pub mod recurrent;
/// ONNX's reductions.
pub mod reduction;
/// Rows written into a copy.
pub mod scatter;
/// Operators whose results are known once shapes are.
pub mod shape;
/// ONNX Slice and Pad.
pub mod slice;
/// Operators that carry a state from call to call.
pub mod state;

use crate::ir::OpDef;

/// All of them, in order of declaration.
pub static ALL: &[&OpDef] = &[
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
    &normalization::BATCH,
    &normalization::LAYER,
    &normalization::RMS,
    &normalization::INSTANCE,
    &normalization::GROUP,
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
