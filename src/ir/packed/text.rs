//! How packings print: `g32:f16` (block and type of the scales), `c:f32` (one scale a row), `t:f32` (one scale in all),
//! `g32:f16z` (with zero points); `n4:g32:f16`, `5:g32:f16` and `6:g32:f16` where codes of INT8 are stored in fewer
//! bits.

use super::{Coding, Granularity, Packing, ScaleType};
use crate::ir::{DType, valid_block};
use std::fmt;

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.coding.bits() < 8 && self.coding.dtype() == DType::I8 {
            write!(f, "{}:", self.coding)?;
        }
        match self.granularity {
            Granularity::Block(block) => write!(f, "g{block}")?,
            Granularity::Row => f.write_str("c")?,
            Granularity::Tensor => f.write_str("t")?,
        }
        f.write_str(match self.scale {
            ScaleType::F16 => ":f16",
            ScaleType::F32 => ":f32",
            ScaleType::F16Zero => ":f16z",
            ScaleType::F32Zero => ":f32z",
        })
    }
}

impl Packing {
    /// Reads what is printed between `<` and `>` after the type of the codes; `None` where it is no packing.
    pub fn parse(codes: DType, text: &str) -> Option<Packing> {
        let (coding, text) = match (codes, text.split_once(':')?) {
            (DType::I4, _) => (Coding::I4, text),
            (DType::I8, (coding, rest)) => match coding.parse() {
                Ok(coding @ (Coding::N4 | Coding::I5 | Coding::I6)) => (coding, rest),
                _ => (Coding::I8, text),
            },
            _ => return None,
        };
        let (granularity, scale) = text.split_once(':')?;
        let granularity = match granularity {
            "c" => Granularity::Row,
            "t" => Granularity::Tensor,
            _ => Granularity::Block(granularity.strip_prefix('g')?.parse().ok().filter(|&b| valid_block(b))?),
        };
        let scale = match scale {
            "f16" => ScaleType::F16,
            "f32" => ScaleType::F32,
            "f16z" => ScaleType::F16Zero,
            "f32z" => ScaleType::F32Zero,
            _ => return None,
        };
        Some(Packing { coding, granularity, scale })
    }

    /// The element type of the codes.
    pub fn codes(self) -> DType {
        self.coding.dtype()
    }
}
