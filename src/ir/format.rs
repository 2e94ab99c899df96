//! Formats: how a node stores its weights and activations, and so how it computes.

use super::packed::{Granularity, Packing, ScaleType};
use std::fmt;
use std::str::FromStr;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Weights {
    /// As the model has them.
    F32,
    /// Half precision.
    F16,
    /// Signed integers of 4 or 8 bits with one scale a block or row.
    Int {
        /// 4 or 8.
        bits: u8,
        /// Which weights share a scale: [`Granularity::Block`] or [`Granularity::Row`].
        granularity: Granularity,
    },
}

/// How activations are stored, and with that the arithmetic. Accumulation is always f32 or i32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Activations {
    /// Stored and computed in f32.
    F32,
    /// Stored as f16.
    F16,
    /// Quantized to INT8 on the way in; the result is stored as f32.
    I8,
}

/// A node's format: a value, never one of a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Format {
    /// How weights are stored.
    pub weights: Weights,
    /// How activations are stored.
    pub activations: Activations,
}

/// The block size where none is given: consecutive weights along the reduction axis that share a scale.
pub const DEFAULT_BLOCK: u32 = 32;

impl Format {
    /// Everything in f32.
    pub const F32: Format = Format { weights: Weights::F32, activations: Activations::F32 };
    /// Everything stored as f16.
    pub const F16: Format = Format { weights: Weights::F16, activations: Activations::F16 };

    /// Integer weights of `bits` with the default block.
    pub const fn int(bits: u8, activations: Activations) -> Format {
        Format { weights: Weights::Int { bits, granularity: Granularity::Block(DEFAULT_BLOCK) }, activations }
    }

    /// The formats that are considered where none are named, widest first.
    pub const MENU: [Format; 8] = [
        Format::F32,
        Format::F16,
        Format::int(8, Activations::F32),
        Format::int(8, Activations::F16),
        Format::int(8, Activations::I8),
        Format::int(4, Activations::F32),
        Format::int(4, Activations::F16),
        Format::int(4, Activations::I8),
    ];

    /// The same format with another block where weights are integers by block.
    pub fn with_block(self, block: u32) -> Format {
        match self.weights {
            Weights::Int { bits, granularity: Granularity::Block(_) } => {
                Format { weights: Weights::Int { bits, granularity: Granularity::Block(block) }, ..self }
            }
            _ => self,
        }
    }

    /// What a node without weights does under this format: stores f16 where activations are f16, f32 otherwise.
    pub fn without_weights(self) -> Format {
        if self.activations == Activations::F16 { Format::F16 } else { Format::F32 }
    }

    /// How integer weights are packed, with scales of type `scale`; `None` for float weights.
    pub fn packing(self, scale: ScaleType) -> Option<Packing> {
        match self.weights {
            Weights::Int { bits, granularity } => Some(Packing { bits, granularity, scale }),
            _ => None,
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let activations = match self.activations {
            Activations::F32 => "32",
            Activations::F16 => "16",
            Activations::I8 => "8",
        };
        match self.weights {
            Weights::F32 => write!(f, "f32"),
            Weights::F16 => write!(f, "f16"),
            Weights::Int { bits, granularity } => {
                write!(f, "w{bits}a{activations}")?;
                match granularity {
                    Granularity::Block(DEFAULT_BLOCK) => Ok(()),
                    Granularity::Block(block) => write!(f, ":g{block}"),
                    Granularity::Row | Granularity::Tensor => write!(f, ":c"),
                }
            }
        }
    }
}

/// A format's spelling is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown format {given:?}: {reason}; formats are f32, f16, w8a32, w8a16, w8a8, w4a32, w4a16, w4a8, with :g16 to :g256 (block) or :c (per channel)"
)]
pub struct FormatError {
    given: String,
    reason: &'static str,
}

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Format, FormatError> {
        let refuse = |reason| FormatError { given: text.to_owned(), reason };
        let (base, suffix) = text.split_once(':').map_or((text, None), |(b, s)| (b, Some(s)));
        let format = match base {
            "f32" | "fp32" => Format::F32,
            "f16" | "fp16" => Format::F16,
            "int8" | "w8a16" => Format::int(8, Activations::F16),
            "int4" | "w4a16" => Format::int(4, Activations::F16),
            "w8a32" => Format::int(8, Activations::F32),
            "w4a32" => Format::int(4, Activations::F32),
            "w8a8" => Format::int(8, Activations::I8),
            "w4a8" => Format::int(4, Activations::I8),
            _ => return Err(refuse("no such name")),
        };
        let Some(suffix) = suffix else { return Ok(format) };
        let Weights::Int { bits, .. } = format.weights else { return Err(refuse("only integer weights have blocks")) };
        let granularity = match suffix {
            "c" => Granularity::Row,
            _ => match suffix.strip_prefix('g').and_then(|n| n.parse::<u32>().ok()) {
                Some(block) if valid_block(block) => Granularity::Block(block),
                Some(_) => return Err(refuse("a block is a power of two from 16 to 256")),
                None => return Err(refuse("the suffix is neither :gN nor :c")),
            },
        };
        Ok(Format { weights: Weights::Int { bits, granularity }, ..format })
    }
}

/// Whether `block` consecutive weights may share a scale: a power of two from 16 to 256.
pub fn valid_block(block: u32) -> bool {
    block.is_power_of_two() && (16..=256).contains(&block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelling_reads_back() {
        for text in ["f32", "f16", "w8a32", "w8a16:g128", "w8a8:c", "w4a32:g16", "w4a16", "w4a8:g256"] {
            assert_eq!(text.parse::<Format>().unwrap().to_string(), text);
        }
        assert_eq!("int4".parse::<Format>().unwrap().to_string(), "w4a16");
        for text in ["f8", "f32:g32", "w4a16:g48", "w4a16:x", "w4a16:g8"] {
            assert!(text.parse::<Format>().is_err(), "{text}");
        }
    }
}
