//! Operators of ONNX that are written in core operators.

/// Grids of points.
pub mod affine_grid;
/// ONNX ArrayFeatureExtractor.
pub mod array_feature_extractor;
/// Attention, and the rotations of positions before it.
pub mod attention;
/// ONNX Binarizer.
pub mod binarizer;
/// Convolution with a state.
pub mod causal_conv;
/// Crops and pads around a centre.
pub mod center_crop_pad;
/// ONNX Compress.
pub mod compress;
/// ONNX ConvTranspose.
pub mod conv_transpose;
/// Sums of products by labels.
pub mod einsum;
/// ONNX's elementwise operators.
pub mod elementwise;
/// Identity matrices.
pub mod eye_like;
/// Fourier transforms, windows, mel bands.
pub mod fourier;
/// Single elements by indices.
pub mod gather_elements;
/// Elements and slices by indices of several axes.
pub mod gather_nd;
/// ONNX Gemm.
pub mod gemm;
/// One at the first maximum.
pub mod hardmax;
/// Exact products of integers.
pub mod integer;
/// Attention by a state.
pub mod linear_attention;
/// Losses over classes.
pub mod loss;
/// Normalization by a norm.
pub mod lp_normalization;
/// Pools by norms.
pub mod lp_pool;
/// Local response normalization.
pub mod lrn;
/// MeanVarianceNormalization.
pub mod mean_variance;
/// ONNX's operators that only move elements.
pub mod movement;
/// ONNX's normalisations.
pub mod normalization;
/// One-hot codes.
pub mod one_hot;
/// Adagrad, Adam, Momentum.
pub mod optimizers;
/// Optional tensors.
pub mod optional;
/// ONNX Pad.
pub mod pad;
/// ONNX's pools.
pub mod pooling;
/// Random numbers.
pub mod random;
/// Recurrent layers.
pub mod recurrent;
/// ONNX's reductions.
pub mod reduction;
/// Rows in reverse.
pub mod reverse_sequence;
/// Rows written into a copy.
pub mod scatter;
/// Operators whose results are known once shapes are.
pub mod shape;
/// ONNX Slice.
pub mod slice;
/// Rows written into a cache.
pub mod tensor_scatter;
/// ONNX TfIdfVectorizer.
pub mod tf_idf;
/// Triangles of matrices.
pub mod trilu;

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
    &slice::DEF,
    &pad::DEF,
    &compress::DEF,
    &loss::NEGATIVE_LOG_LIKELIHOOD,
    &loss::SOFTMAX_CROSS_ENTROPY,
    &trilu::DEF,
    &eye_like::DEF,
    &one_hot::DEF,
    &hardmax::DEF,
    &gather_elements::DEF,
    &gather_nd::DEF,
    &reverse_sequence::DEF,
    &tensor_scatter::DEF,
    &scatter::DEF,
    &scatter::ELEMENTS,
    &scatter::ND,
    &scatter::MAX_UNPOOL,
    &lrn::DEF,
    &lp_normalization::DEF,
    &mean_variance::DEF,
    &lp_pool::DEF,
    &lp_pool::GLOBAL,
    &optimizers::ADAGRAD,
    &optimizers::ADAM,
    &optimizers::MOMENTUM,
    &fourier::DFT,
    &fourier::STFT,
    &fourier::HANN,
    &fourier::HAMMING,
    &fourier::BLACKMAN,
    &fourier::MEL,
    &center_crop_pad::DEF,
    &affine_grid::DEF,
    &einsum::DEF,
    &causal_conv::DEF,
    &linear_attention::DEF,
    &recurrent::RNN,
    &recurrent::GRU,
    &recurrent::LSTM,
    &recurrent::DYNAMIC_QUANTIZE_LSTM,
    &integer::DYNAMIC_QUANTIZE,
    &integer::MAT_MUL,
    &integer::CONV,
    &integer::Q_MAT_MUL,
    &integer::Q_CONV,
    &binarizer::DEF,
    &array_feature_extractor::DEF,
    &optional::HAS_ELEMENT,
    &optional::GET_ELEMENT,
    &tf_idf::DEF,
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
