//! How packings print: `g32:f16` (block and type of the scales), `c:f32` (one scale a row), `t:f32` (one scale in all),
//! `g32:f16z` (with zero points).

use super::{Granularity, Packing, ScaleType};
use crate::ir::{DType, valid_block};
use std::fmt;

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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
        let bits = match codes {
            DType::I4 => 4,
            DType::I8 => 8,
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
        Some(Packing { bits, granularity, scale })
    }

    /// The element type of the codes.
    pub fn codes(self) -> DType {
        if self.bits == 4 { DType::I4 } else { DType::I8 }
    }
}
