//! Shapes of cooperative matrices (`VK_KHR_cooperative_matrix`).

use serde::{Deserialize, Serialize};
use std::fmt;

/// Types of the operands and of the sum of a multiplication.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatrixTypes {
    /// f16 operands, an f32 sum.
    F16,
    /// Signed 8-bit operands, a signed 32-bit sum, which wraps.
    I8,
}

impl MatrixTypes {
    const ALL: [(MatrixTypes, &str); 2] = [(MatrixTypes::F16, "f16"), (MatrixTypes::I8, "i8")];
}

/// A multiplication that a subgroup does: `m` x `k` by `k` x `n` (`VkCooperativeMatrixPropertiesKHR`, scope subgroup).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MatrixShape {
    /// Of what types.
    pub types: MatrixTypes,
    /// Rows of the first operand and of the sum.
    pub m: u32,
    /// Columns of the second operand and of the sum.
    pub n: u32,
    /// Length of the reduction axis.
    pub k: u32,
}

impl MatrixShape {
    /// Every shape that this crate can name: sides of 8 to 64, powers of two.
    pub fn every() -> Vec<MatrixShape> {
        let sides = [8, 16, 32, 64];
        let mut all = Vec::new();
        for (types, _) in MatrixTypes::ALL {
            for m in sides {
                for n in sides {
                    all.extend(sides.map(|k| MatrixShape { types, m, n, k }));
                }
            }
        }
        all
    }
}

impl fmt::Display for MatrixShape {
    /// `f16:16x16x16`: types, then m, n and k.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = MatrixTypes::ALL.iter().find(|(types, _)| *types == self.types).map_or("", |(_, name)| name);
        write!(f, "{name}:{}x{}x{}", self.m, self.n, self.k)
    }
}

impl From<MatrixShape> for String {
    fn from(shape: MatrixShape) -> String {
        shape.to_string()
    }
}

impl TryFrom<String> for MatrixShape {
    type Error = String;
    fn try_from(text: String) -> Result<MatrixShape, String> {
        MatrixShape::every().into_iter().find(|shape| shape.to_string() == text).ok_or_else(|| {
            format!("{text:?} is no shape of a cooperative matrix such as f16:16x16x16, with sides of 8, 16, 32 or 64")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_reads_back_and_others_are_refused() {
        for shape in MatrixShape::every() {
            assert_eq!(MatrixShape::try_from(shape.to_string()), Ok(shape));
        }
        for text in ["", "f16", "f16:16x16", "f16:16x16x17", "f64:16x16x16", "f16:016x16x16"] {
            assert!(MatrixShape::try_from(text.to_owned()).unwrap_err().contains(text));
        }
    }
}
