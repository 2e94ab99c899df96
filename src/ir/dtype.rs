//! Element types.

use std::fmt;
use std::str::FromStr;

/// The type of one element of a tensor, as ONNX `TensorProto.DataType` has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is its own documentation")]
pub enum DType {
    F32,
    F16,
    BF16,
    F64,
    F8E4M3,
    F8E4M3Fnuz,
    F8E5M2,
    F8E5M2Fnuz,
    F8E8M0,
    F4E2M1,
    I2,
    U2,
    I4,
    U4,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    Bool,
    Str,
}

/// What kind of arithmetic a type takes part in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Floating point of any width.
    Float,
    /// Integers of any width and sign.
    Int,
    /// Truth values.
    Bool,
    /// Text: never on a device.
    Text,
}

/// (type, name in the text IR, bits of one element, number in ONNX's `TensorProto.DataType`)
const TABLE: &[(DType, &str, u32, i32)] = &[
    (DType::F32, "f32", 32, 1),
    (DType::U8, "u8", 8, 2),
    (DType::I8, "i8", 8, 3),
    (DType::U16, "u16", 16, 4),
    (DType::I16, "i16", 16, 5),
    (DType::I32, "i32", 32, 6),
    (DType::I64, "i64", 64, 7),
    (DType::Str, "str", 0, 8),
    (DType::Bool, "bool", 8, 9),
    (DType::F16, "f16", 16, 10),
    (DType::F64, "f64", 64, 11),
    (DType::U32, "u32", 32, 12),
    (DType::U64, "u64", 64, 13),
    (DType::BF16, "bf16", 16, 16),
    (DType::F8E4M3, "f8e4m3", 8, 17),
    (DType::F8E4M3Fnuz, "f8e4m3fnuz", 8, 18),
    (DType::F8E5M2, "f8e5m2", 8, 19),
    (DType::F8E5M2Fnuz, "f8e5m2fnuz", 8, 20),
    (DType::U4, "u4", 4, 21),
    (DType::I4, "i4", 4, 22),
    (DType::F4E2M1, "f4e2m1", 4, 23),
    (DType::F8E8M0, "f8e8m0", 8, 24),
    (DType::U2, "u2", 2, 25),
    (DType::I2, "i2", 2, 26),
];

impl DType {
    fn row(self) -> &'static (DType, &'static str, u32, i32) {
        // Every variant has a row: `every_type_has_a_row` holds it.
        TABLE.iter().find(|row| row.0 == self).unwrap_or(&TABLE[0])
    }

    /// Bits of one element; 0 for text, whose elements have no fixed size.
    pub fn bits(self) -> u32 {
        self.row().2
    }

    /// The number of this type in ONNX's `TensorProto.DataType`.
    pub fn onnx(self) -> i32 {
        self.row().3
    }

    /// The type with this number in ONNX's `TensorProto.DataType`.
    pub fn from_onnx(number: i32) -> Option<DType> {
        TABLE.iter().find(|row| row.3 == number).map(|row| row.0)
    }

    /// Bytes of `n_elems` densely packed elements, two 4-bit or four 2-bit ones to a byte; `None` on overflow.
    pub fn bytes(self, n_elems: u64) -> Option<u64> {
        Some(n_elems.checked_mul(u64::from(self.bits()))?.div_ceil(8))
    }

    /// What kind of arithmetic this type takes part in.
    pub fn class(self) -> Class {
        use DType::*;
        match self {
            F32 | F16 | BF16 | F64 | F8E4M3 | F8E4M3Fnuz | F8E5M2 | F8E5M2Fnuz | F8E8M0 | F4E2M1 => Class::Float,
            I2 | U2 | I4 | U4 | I8 | U8 | I16 | U16 | I32 | U32 | I64 | U64 => Class::Int,
            Bool => Class::Bool,
            Str => Class::Text,
        }
    }

    /// The element type that values of this type have on a device, where no format chooses another: f16, u32 and
    /// integers of 64 bits stay, other floats are f32, other integers and truth values i32, f64 stays f64, which no
    /// kernel reads; `None` for text.
    pub fn on_device(self) -> Option<DType> {
        match (self, self.class()) {
            (DType::F64 | DType::F16 | DType::U32 | DType::I64 | DType::U64, _) => Some(self),
            (_, Class::Float) => Some(DType::F32),
            (_, Class::Int | Class::Bool) => Some(DType::I32),
            (_, Class::Text) => None,
        }
    }

    /// Whether this is a floating-point type of at most 8 bits, which only codes and scales are stored in.
    pub fn is_minifloat(self) -> bool {
        self.is_float() && self.bits() <= 8
    }

    /// Whether every value of the float type `other` is one of this float type.
    pub fn holds(self, other: DType) -> bool {
        self == other || matches!(self, DType::F32 | DType::F64) && other.is_float() && other.bits() < self.bits()
    }

    /// Whether this is a floating-point type.
    pub fn is_float(self) -> bool {
        self.class() == Class::Float
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.row().1)
    }
}

impl FromStr for DType {
    type Err = UnknownDType;
    fn from_str(text: &str) -> Result<DType, UnknownDType> {
        TABLE.iter().find(|row| row.1 == text).map(|row| row.0).ok_or_else(|| UnknownDType(text.to_owned()))
    }
}

/// No element type has this name.
#[derive(Clone, Debug, thiserror::Error)]
#[error("unknown element type {0:?}")]
pub struct UnknownDType(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_row() {
        for &(dtype, name, _, number) in TABLE {
            assert_eq!(dtype.to_string(), name);
            assert_eq!(name.parse::<DType>().unwrap(), dtype);
            assert_eq!(DType::from_onnx(number), Some(dtype));
        }
        assert_eq!(TABLE.len(), 24);
        assert_eq!(DType::I4.bytes(3), Some(2));
        assert_eq!(DType::F64.bytes(u64::MAX), None);
    }
}
