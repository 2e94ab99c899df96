//! How a code is stored: its bits, where they lie, and which integers they stand for.

use crate::ir::DType;
use std::fmt;
use std::str::FromStr;

/// How codes are stored. Whatever the coding, a code is an integer that INT8 holds, and `value = code * scale`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Coding {
    /// 4 bits, -8..=7.
    I4,
    /// 4 bits that stand for the 16 integers of [`NON_LINEAR`]: dense around zero, as weights are.
    N4,
    /// 5 bits, -16..=15: the high four in the rows, the low one in a plane of bits.
    I5,
    /// 6 bits, -32..=31: the high four in the rows, the low two in a plane each.
    I6,
    /// 8 bits, -128..=127.
    I8,
}

/// The codes of [`Coding::N4`] by their four bits, as two's complement from 0 to 7 and -8 to -1.
///
/// Of magnitude `m` the code is `11 m`, and from 3 up what lies above that grows about as `m^3`. In blocks of 16 to 256
/// the squared error is 0.81 to 0.86 times that of evenly spaced codes on Gaussian weights and 0.66 to 0.69 on
/// Laplacian ones, less than that of llama.cpp's IQ4_NL on both (`benches/quality/non_linear.txt`). Integer arithmetic
/// makes four of them at a time, so that no kernel looks anything up.
pub const NON_LINEAR: [i8; 16] = [0, 11, 22, 34, 47, 63, 81, 103, -127, -103, -81, -63, -47, -34, -22, -11];

impl Coding {
    /// All of them, the narrowest first.
    pub const ALL: [Coding; 5] = [Coding::I4, Coding::N4, Coding::I5, Coding::I6, Coding::I8];

    /// Bits of a code.
    pub const fn bits(self) -> u8 {
        match self {
            Coding::I4 | Coding::N4 => 4,
            Coding::I5 => 5,
            Coding::I6 => 6,
            Coding::I8 => 8,
        }
    }

    /// Bits of a code that lie in the rows: 4 or 8.
    pub const fn row_bits(self) -> u8 {
        if matches!(self, Coding::I8) { 8 } else { 4 }
    }

    /// Bits of a code that lie in planes of their own: 0, 1 or 2.
    pub const fn n_planes(self) -> u8 {
        self.bits() - self.row_bits()
    }

    /// The element type that holds the codes where they are no packed tensor.
    pub const fn dtype(self) -> DType {
        if matches!(self, Coding::I4) { DType::I4 } else { DType::I8 }
    }

    /// A power of two that no code exceeds in magnitude.
    pub const fn largest(self) -> f32 {
        match self {
            Coding::I4 => 8.0,
            Coding::I5 => 16.0,
            Coding::I6 => 32.0,
            Coding::N4 | Coding::I8 => 128.0,
        }
    }

    /// Whether the coding has this code.
    pub fn has(self, code: i8) -> bool {
        match self {
            Coding::N4 => NON_LINEAR.contains(&code),
            Coding::I8 => true,
            Coding::I4 | Coding::I5 | Coding::I6 => {
                let half = 1 << (self.bits() - 1);
                (-half..half).contains(&i16::from(code))
            }
        }
    }

    /// The bits of a code, in the low bits; those of 0 where the coding has none such.
    pub(super) fn encode(self, code: i8) -> u8 {
        match self {
            Coding::N4 => NON_LINEAR.iter().position(|c| *c == code).map_or(0, |at| at as u8),
            Coding::I8 => code.cast_unsigned(),
            Coding::I4 | Coding::I5 | Coding::I6 => code.cast_unsigned() & ((1 << self.bits()) - 1),
        }
    }

    /// The code whose bits these are; those above its own are ignored.
    pub(super) fn decode(self, bits: u8) -> i8 {
        match self {
            Coding::N4 => NON_LINEAR[usize::from(bits & 15)],
            _ => (bits << (8 - self.bits())).cast_signed() >> (8 - self.bits()),
        }
    }
}

impl fmt::Display for Coding {
    /// `4`, `n4`, `5`, `6` or `8`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Coding::I4 => "4",
            Coding::N4 => "n4",
            Coding::I5 => "5",
            Coding::I6 => "6",
            Coding::I8 => "8",
        })
    }
}

impl FromStr for Coding {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Coding, Self::Err> {
        Coding::ALL.into_iter().find(|c| c.to_string() == text).ok_or("a coding is 4, n4, 5, 6 or 8")
    }
}
