//! Formats: how a node stores its weights and activations, and so how it computes.

use super::DType;
use super::packed::{Coding, Granularity};
use std::fmt;
use std::str::FromStr;

/// How weights are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Weights {
    /// As the model has them.
    F32,
    /// Half precision.
    F16,
    /// Signed integers of 4 to 8 bits with one scale a block or row.
    Int {
        /// Which integers, and how they are stored.
        coding: Coding,
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

impl Activations {
    /// The type that results are stored in.
    pub fn stored(self) -> DType {
        if self == Activations::F16 { DType::F16 } else { DType::F32 }
    }
}

/// The last rows of a weight matrix, stored in another way than those before them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tail {
    /// The first of these rows; rows are outputs, or entries of a table.
    pub from_row: u32,
    /// How they are stored.
    pub weights: Weights,
}

/// A node's format: a value, never one of a closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Format {
    /// How weights are stored.
    pub weights: Weights,
    /// How activations are stored.
    pub activations: Activations,
    /// Where a matrix is split, how the rest of it is stored.
    pub tail: Option<Tail>,
}

/// The block size where none is given: consecutive weights along the reduction axis that share a scale.
pub const DEFAULT_BLOCK: u32 = 32;
/// The blocks that there are.
const BLOCKS: [u32; 5] = [16, 32, 64, 128, 256];

impl Format {
    /// Everything in f32.
    pub const F32: Format = Format { weights: Weights::F32, activations: Activations::F32, tail: None };
    /// Everything stored as f16.
    pub const F16: Format = Format { weights: Weights::F16, activations: Activations::F16, tail: None };

    /// Integer weights of this coding with the default block.
    pub const fn int(coding: Coding, activations: Activations) -> Format {
        Format {
            weights: Weights::Int { coding, granularity: Granularity::Block(DEFAULT_BLOCK) },
            activations,
            tail: None,
        }
    }

    /// The formats that are considered where none are named, widest first.
    pub const MENU: [Format; 9] = [
        Format::F32,
        Format { weights: Weights::F16, ..Format::F32 },
        Format::F16,
        Format::int(Coding::I8, Activations::F32),
        Format::int(Coding::I8, Activations::F16),
        Format::int(Coding::I8, Activations::I8),
        Format::int(Coding::I4, Activations::F32),
        Format::int(Coding::I4, Activations::F16),
        Format::int(Coding::I4, Activations::I8),
    ];

    /// The same format with every block and with one scale a row, where its weights are integers with the default
    /// block; it alone where they are not. Itself comes last.
    pub fn with_each_block(self) -> Vec<Format> {
        let Weights::Int { coding, granularity: own @ Granularity::Block(DEFAULT_BLOCK) } = self.weights else {
            return vec![self];
        };
        let all = BLOCKS.iter().map(|block| Granularity::Block(*block)).chain([Granularity::Row]);
        let others = all.filter(|granularity| *granularity != own);
        let with = |granularity| Format { weights: Weights::Int { coding, granularity }, ..self };
        others.map(with).chain([self]).collect()
    }

    /// The same format with the default block for all weights that are integers.
    pub fn with_default_block(self) -> Format {
        let tail = self.tail.map(|tail| Tail { weights: tail.weights.with_default_block(), ..tail });
        Format { weights: self.weights.with_default_block(), tail, ..self }
    }

    /// The same format with another block where weights are integers by block.
    pub fn with_block(self, block: u32) -> Format {
        let weights = self.weights.with_block(block);
        Format { weights, tail: self.tail.map(|tail| Tail { weights: tail.weights.with_block(block), ..tail }), ..self }
    }

    /// The parts of a matrix of `n_rows`: their number of rows, and how each is stored.
    pub fn parts(self, n_rows: usize) -> impl Iterator<Item = (usize, Weights)> {
        let head = self.tail.map_or(n_rows, |tail| n_rows.min(tail.from_row as usize));
        let tail = self.tail.map(|tail| (n_rows - head, tail.weights));
        [Some((head, self.weights)), tail].into_iter().flatten().filter(|part| part.0 > 0)
    }

    /// Whether any weights are integers.
    pub fn has_int_weights(self) -> bool {
        [Some(self.weights), self.tail.map(|tail| tail.weights)]
            .into_iter()
            .flatten()
            .any(|w| matches!(w, Weights::Int { .. }))
    }

    /// What a node without weights does under this format: stores f16 where activations are f16, f32 otherwise.
    pub fn without_weights(self) -> Format {
        if self.activations == Activations::F16 { Format::F16 } else { Format::F32 }
    }
}

impl Weights {
    /// Bits of one weight, without its share of a scale.
    pub fn bits(self) -> u8 {
        match self {
            Weights::F32 => 32,
            Weights::F16 => 16,
            Weights::Int { coding, .. } => coding.bits(),
        }
    }

    /// The same weights with the default block where they are integers.
    pub fn with_default_block(self) -> Weights {
        match self {
            Weights::Int { coding, .. } => Weights::Int { coding, granularity: Granularity::Block(DEFAULT_BLOCK) },
            floats => floats,
        }
    }

    fn with_block(self, block: u32) -> Weights {
        match self {
            Weights::Int { coding, granularity: Granularity::Block(_) } => {
                Weights::Int { coding, granularity: Granularity::Block(block) }
            }
            _ => self,
        }
    }

    /// The suffix that says which weights share a scale, where it is not the default.
    fn suffix(self) -> Option<String> {
        match self {
            Weights::F32 | Weights::F16 | Weights::Int { granularity: Granularity::Block(DEFAULT_BLOCK), .. } => None,
            Weights::Int { granularity: Granularity::Block(block), .. } => Some(format!(":g{block}")),
            Weights::Int { granularity: Granularity::Row | Granularity::Tensor, .. } => Some(":c".to_owned()),
        }
    }

    /// The same weights with the scales that a suffix without its colon asks for.
    fn with_suffix(self, suffix: &str) -> Result<Weights, &'static str> {
        let Weights::Int { coding, .. } = self else { return Err("only integer weights have blocks") };
        let granularity = match suffix {
            "c" => Granularity::Row,
            _ => match suffix.strip_prefix('g').and_then(|n| n.parse::<u32>().ok()) {
                Some(block) if valid_block(block) => Granularity::Block(block),
                Some(_) => return Err("a block is a power of two from 16 to 256"),
                None => return Err("the suffix is neither :gN nor :c"),
            },
        };
        Ok(Weights::Int { coding, granularity })
    }
}

impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Weights::F32 => write!(f, "f32")?,
            Weights::F16 => write!(f, "f16")?,
            Weights::Int { coding, .. } => write!(f, "w{coding}")?,
        }
        f.write_str(&self.suffix().unwrap_or_default())
    }
}

impl FromStr for Weights {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Weights, Self::Err> {
        let (base, suffix) = text.split_once(':').map_or((text, None), |(b, s)| (b, Some(s)));
        let weights = match base {
            "f32" => Weights::F32,
            "f16" => Weights::F16,
            _ => match base.strip_prefix('w').map(str::parse) {
                Some(Ok(coding)) => Format::int(coding, Activations::F32).weights,
                _ => return Err("weights are f32, f16, w8, w6, w5, wn4 or w4"),
            },
        };
        suffix.map_or(Ok(weights), |suffix| weights.with_suffix(suffix))
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
            _ if self.without_weights().weights == self.weights && self.activations != Activations::I8 => {
                write!(f, "{}", self.weights)?
            }
            weights => {
                let suffix = weights.suffix().unwrap_or_default();
                match weights {
                    Weights::Int { coding, .. } => write!(f, "w{coding}a{activations}{suffix}")?,
                    Weights::F32 | Weights::F16 => write!(f, "w{}a{activations}{suffix}", weights.bits())?,
                }
            }
        }
        match self.tail {
            Some(tail) => write!(f, "/{}:r{}", tail.weights, tail.from_row),
            None => Ok(()),
        }
    }
}

/// A format's spelling is none of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown format {given:?}: {reason}; formats are f32, f16, w16a32, and w8a32, w8a16, w8a8 and the same of w6, w5, wn4 and w4, with :g16 to :g256 \
     (block) or :c (per channel), and, for the weights from row N on, /f32:rN, /f16:rN, /w8:rN (w6, w5, wn4, w4)"
)]
pub struct FormatError {
    given: String,
    reason: &'static str,
}

impl FromStr for Format {
    type Err = FormatError;
    fn from_str(text: &str) -> Result<Format, FormatError> {
        let refuse = |reason| FormatError { given: text.to_owned(), reason };
        let (text, tail) = text.split_once('/').map_or((text, None), |(b, t)| (b, Some(t)));
        let (base, suffix) = text.split_once(':').map_or((text, None), |(b, s)| (b, Some(s)));
        let format = match base {
            "f32" | "fp32" => Format::F32,
            "f16" | "fp16" => Format::F16,
            "int8" => Format::int(Coding::I8, Activations::F16),
            "int4" => Format::int(Coding::I4, Activations::F16),
            "w16a32" => Format { weights: Weights::F16, ..Format::F32 },
            _ => int(base).ok_or_else(|| refuse("no such name"))?,
        };
        let weights = suffix.map_or(Ok(format.weights), |suffix| format.weights.with_suffix(suffix)).map_err(refuse)?;
        let Some(tail) = tail else { return Ok(Format { weights, ..format }) };
        let (tail, row) = tail.rsplit_once(":r").ok_or_else(|| refuse("a tail ends in :rN, its first row"))?;
        let from_row =
            row.parse().ok().filter(|&row| row > 0).ok_or_else(|| refuse("a tail begins at a row from 1 on"))?;
        let tail = Tail { from_row, weights: tail.parse().map_err(refuse)? };
        if format.activations == Activations::I8 && !matches!(tail.weights, Weights::Int { .. }) {
            return Err(refuse("INT8 activations need integer weights in the tail too"));
        }
        Ok(Format { weights, tail: Some(tail), ..format })
    }
}

/// The format of integer weights that is spelled so: `w8a32`.
fn int(text: &str) -> Option<Format> {
    let (coding, activations) = text.strip_prefix('w')?.split_once('a')?;
    let activations = match activations {
        "32" => Activations::F32,
        "16" => Activations::F16,
        "8" => Activations::I8,
        _ => return None,
    };
    Some(Format::int(coding.parse().ok()?, activations))
}

/// Whether `block` consecutive weights may share a scale: a power of two from 16 to 256.
pub fn valid_block(block: u32) -> bool {
    BLOCKS.contains(&block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_is_there_once() {
        let menu: Vec<Format> = Format::MENU.into_iter().flat_map(Format::with_each_block).collect();
        assert_eq!(menu.len(), 3 + 6 * 6);
        assert!(Format::MENU.iter().all(|format| menu.contains(format)));
        for (i, format) in menu.iter().enumerate() {
            assert_eq!(format.to_string().parse(), Ok(*format));
            assert!(!menu[..i].contains(format) && Format::MENU.contains(&format.with_default_block()), "{format}");
        }
    }

    #[test]
    fn spelling_reads_back() {
        for text in [
            "f32",
            "f16",
            "w16a32",
            "w8a32",
            "w8a16:g128",
            "w8a8:c",
            "w4a32:g16",
            "w4a16",
            "w4a8:g256",
            "wn4a32",
            "wn4a8:g64",
            "w5a16",
            "w6a8:c",
            "w6a32/wn4:g64:r7",
            "w5a16/w5:c:r640",
            "f32/w4:r3",
            "f32/f16:r3",
            "w8a16:g128/w4:c:r640",
        ] {
            assert_eq!(text.parse::<Format>().unwrap().to_string(), text);
        }
        assert_eq!("int4".parse::<Format>().unwrap().to_string(), "w4a16");
        for text in [
            "f8",
            "w32a16",
            "w16a8",
            "w7a16",
            "n4a16",
            "w05a16",
            "w8a16/wn8:r3",
            "w16a32:c",
            "f32:g32",
            "w4a16:g48",
            "w4a16:x",
            "w4a16:g8",
            "w8a16/w4",
            "w8a16/w4:r0",
            "w8a8/f16:r2",
        ] {
            assert!(text.parse::<Format>().is_err(), "{text}");
        }
    }
}
