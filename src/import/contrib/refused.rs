//! Operators of Microsoft's domains that are not supported, and what to do about them.

use crate::import::read::RawNode;

/// Operators of `com.microsoft` by why they are refused. None of them is written by the optimizer or the quantizer for
/// CPUs but where it says so.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["MatMulFpQ4"],
        "its weights are packed for one processor: quantize with MatMulNBitsQuantizer, which writes MatMulNBits",
    ),
    (
        &["BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch", "Tokenizer", "SpeculativePrefixCommit"],
        "it is a loop of generation or works on text: export the model without it and run that loop outside",
    ),
    (
        &[
            "PackedAttention",
            "PackedMultiHeadAttention",
            "PagedAttention",
            "SparsePagedAttention",
            "RemovePadding",
            "RestorePadding",
            "QOrderedAttention",
            "QOrderedGelu",
            "QOrderedLayerNormalization",
            "QOrderedLongformerAttention",
            "QOrderedMatMul",
            "QuantizeWithOrder",
            "DequantizeWithOrder",
            "DecoderMaskedSelfAttention",
            "DecoderAttention",
        ],
        "it is for CUDA alone: run the transformers optimizer without use_gpu",
    ),
    (
        &["EPContext", "Snpe"],
        "it holds a program of another compiler: export the model without an execution provider's context",
    ),
];

/// Why a node is refused by its name alone; `None` where it is not.
pub(super) fn refusal(raw: &RawNode) -> Option<String> {
    let (domain, op) = (raw.domain.as_str(), raw.op.as_str());
    let because = match domain {
        "com.ms.internal.nhwc" => {
            "it is in a form that one execution provider made for itself: optimize again with ORT_ENABLE_EXTENDED"
        }
        "com.microsoft" => REFUSED.iter().find(|(names, _)| names.contains(&op)).map(|(_, because)| *because)?,
        _ => return None,
    };
    Some(format!("operator {domain}.{op} is not supported: {because}"))
}
