//! Types of values: element type, shape and, for packed tensors, the memory layout of codes and scales.

use super::{DType, Dim, packed::Packing};
use std::fmt;

/// The sizes of a tensor's axes, outermost first.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Shape(pub Vec<Dim>);

impl Shape {
    /// A shape of known sizes.
    pub fn of(dims: &[usize]) -> Shape {
        Shape(dims.iter().map(|&d| Dim::from(d)).collect())
    }

    /// Whether it is the other at every size of the ranges of their symbols, as far as that can be proven, whatever the
    /// forms of its sizes.
    pub fn is_always(&self, other: &Shape) -> bool {
        self.rank() == other.rank() && self.0.iter().zip(&other.0).all(|(a, b)| a.is_always(b))
    }

    /// Number of axes.
    pub fn rank(&self) -> usize {
        self.0.len()
    }

    /// All sizes, if every one is known and none is negative.
    pub fn known(&self) -> Option<Vec<usize>> {
        self.0.iter().map(|d| d.known().and_then(|n| usize::try_from(n).ok())).collect()
    }

    /// The product of all sizes; `None` if one is not known or the product overflows.
    pub fn n_elems(&self) -> Option<u64> {
        self.0.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(d.known()?).ok()?))
    }

    /// Why no tensor has this shape, if none has: a known size is negative, or the product of those that are not 0 is
    /// more than an address space holds. One size of 0 makes the others no less of a danger to whoever multiplies some
    /// of them.
    pub fn fault(&self) -> Option<&'static str> {
        let mut sizes = self.0.iter().filter_map(Dim::known);
        if sizes.clone().any(|n| n < 0) {
            return Some("has a negative size");
        }
        let n = sizes.try_fold(1u64, |n, d| n.checked_mul(d.unsigned_abs().max(1)));
        n.is_none_or(|n| n > isize::MAX as u64 / 16).then_some("is larger than the address space")
    }

    /// The most elements that it can have: the number where all sizes are known, else what the ranges of its symbols
    /// allow. `None` where nothing bounds a size, or on overflow.
    pub fn most_elems(&self) -> Option<u64> {
        self.0.iter().try_fold(1u64, |n, d| n.checked_mul(u64::try_from(d.most()?.max(0)).ok()?))
    }

    /// The product of all sizes, symbolic ones included.
    pub fn volume(&self) -> Dim {
        product(&self.0)
    }

    /// The 0-based axis that `axis` means, which counts from the end where negative (ONNX's rule); `None` outside
    /// `-rank..rank`.
    pub fn axis(&self, axis: i64) -> Option<usize> {
        resolve_axis(axis, self.rank())
    }
}

/// The product of sizes; 1 of none.
pub fn product(dims: &[Dim]) -> Dim {
    dims.iter().fold(Dim::Known(1), |n, d| &n * d)
}

/// The 0-based axis that `axis` means for a tensor of `rank` axes; `None` outside `-rank..rank`.
pub fn resolve_axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    let at = if axis < 0 { axis.checked_add(rank)? } else { axis };
    (0..rank).contains(&at).then(|| usize::try_from(at).ok()).flatten()
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (i, dim) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{dim}")?;
        }
        f.write_str("]")
    }
}

impl fmt::Debug for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The type of a value.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TensorType {
    /// Element type; for packed tensors that of the codes.
    pub dtype: DType,
    /// Sizes of the axes. The last axis of a packed tensor is its reduction axis.
    pub shape: Shape,
    /// Set where codes and scales share one buffer, as kernels read them.
    pub packing: Option<Packing>,
}

impl TensorType {
    /// Whether it is the other at every size of the ranges of their symbols.
    pub fn is_always(&self, other: &TensorType) -> bool {
        (self.dtype, &self.packing) == (other.dtype, &other.packing) && self.shape.is_always(&other.shape)
    }

    /// A plain tensor.
    pub fn new(dtype: DType, shape: Shape) -> TensorType {
        TensorType { dtype, shape, packing: None }
    }

    /// A plain tensor of known sizes.
    pub fn of(dtype: DType, dims: &[usize]) -> TensorType {
        TensorType::new(dtype, Shape::of(dims))
    }

    /// The same shape with another element type, not packed.
    pub fn with_dtype(&self, dtype: DType) -> TensorType {
        TensorType::new(dtype, self.shape.clone())
    }

    /// The shape as rows and columns: the last axis against all others. A scalar is 1 x 1.
    pub fn matrix(&self) -> Option<(u64, u64)> {
        let dims = self.shape.known()?;
        let cols = u64::try_from(dims.last().copied().unwrap_or(1)).ok()?;
        let rows = dims.iter().rev().skip(1).try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?))?;
        Some((rows, cols))
    }

    /// The same type with every size at its maximum; `None` where nothing bounds one.
    pub fn largest(&self) -> Option<TensorType> {
        let dims: Option<Vec<Dim>> = self.shape.0.iter().map(|d| d.most().map(|n| Dim::Known(n.max(0)))).collect();
        Some(TensorType { shape: Shape(dims?), ..self.clone() })
    }

    /// Exact bytes of the data, scales included; `None` while a size is symbolic, or on overflow.
    pub fn bytes(&self) -> Option<u64> {
        match self.packing {
            None => self.dtype.bytes(self.shape.n_elems()?),
            Some(packing) => {
                let (rows, cols) = self.matrix()?;
                packing.packed_bytes(rows, cols)
            }
        }
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dtype)?;
        if let Some(packing) = &self.packing {
            write!(f, "<{packing}>")?;
        }
        write!(f, "{}", self.shape)
    }
}

impl fmt::Debug for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
