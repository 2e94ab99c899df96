//! Which version of ONNX has what.

use crate::import::proto::pb;
use crate::ir::DType;

/// What is exported has this opset at least: DequantizeLinear knows blocks since.
pub(super) const LEAST_OPSET: i64 = 21;

/// Operators that are newer, and since when they mean what they mean here.
const OPERATORS: &[(&str, i64)] = &[
    ("Attention", 25),
    ("BitCast", 26),
    ("CausalConvWithState", 27),
    ("CumProd", 26),
    ("LinearAttention", 27),
    ("RMSNormalization", 23),
    ("RotaryEmbedding", 23),
    ("SwiGLU", 28),
    ("Swish", 24),
    ("TensorScatter", 24),
];

/// Attributes that are newer than their operators.
const ATTRIBUTES: &[(&str, &str, i64)] = &[
    ("Cast", "round_mode", 24),
    ("DequantizeLinear", "output_dtype", 23),
    ("QuantizeLinear", "precision", 23),
    ("Range", "stash_type", 27),
    ("SpaceToDepth", "mode", 28),
];

/// Types that are newer.
const TYPES: &[(DType, i64)] =
    &[(DType::BF16, 22), (DType::F4E2M1, 23), (DType::F8E8M0, 24), (DType::I2, 25), (DType::U2, 25)];

/// The first version of the default domain that has this operator with these attributes.
pub(super) fn since(op: &str, attributes: &[pb::AttributeProto]) -> i64 {
    let operator = OPERATORS.iter().filter(|(name, _)| *name == op).map(|(_, version)| *version);
    let is_given = |name: &str| attributes.iter().any(|attribute| attribute.name == name);
    let attribute = ATTRIBUTES.iter().filter(|(of, name, _)| *of == op && is_given(name)).map(|(.., version)| *version);
    operator.chain(attribute).max().unwrap_or(LEAST_OPSET)
}

/// The first version of the default domain whose operators take this type.
pub(super) fn since_type(dtype: DType) -> i64 {
    TYPES.iter().find(|(own, _)| *own == dtype).map_or(LEAST_OPSET, |(_, version)| *version)
}

/// The version of the file format that came with an opset.
pub(super) fn ir_version(opset: i64) -> i64 {
    match opset {
        ..=22 => 10,
        23 => 11,
        24 => 12,
        _ => 13,
    }
}
