//! How the elements of two constants differ.

use crate::ir::{Class, DType, Tensor};

/// The difference between two constants of as many elements.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DataChange {
    /// Elements of each.
    pub n_elems: u64,
    /// Elements that differ: in their bits where both have one type, else in their values.
    pub n_differ: u64,
    /// The largest magnitude of a difference; `None` where one is not finite.
    pub max_abs: Option<f64>,
    /// The norm of the difference over that of the first; `None` where that is zero or one is not finite.
    pub relative_l2: Option<f64>,
}

impl DataChange {
    /// `None` where the two have no elements to compare one by one: their numbers differ, or data is absent or text.
    pub fn of(before: &Tensor, after: &Tensor) -> Option<DataChange> {
        let n_elems = before.ty().shape.n_elems()?;
        if after.ty().shape.n_elems()? != n_elems {
            return None;
        }
        let mut sums = Sums::default();
        let wide = [before.dtype(), after.dtype()].iter().any(|d| *d == DType::F64 || d.class() != Class::Float);
        if wide {
            let (a, b) = (wide_values(before)?, wide_values(after)?);
            a.iter().zip(&b).for_each(|(a, b)| sums.add(*a, *b));
        } else {
            // The layout of most weights, read in place.
            let (a, b) = (before.to_f32s().ok()?, after.to_f32s().ok()?);
            a.iter().zip(b.iter()).for_each(|(a, b)| sums.add(f64::from(*a), f64::from(*b)));
        }
        Some(DataChange {
            n_elems,
            n_differ: n_in_bits(before, after).unwrap_or(sums.n_differ),
            max_abs: sums.max.is_finite().then_some(sums.max),
            relative_l2: Some((sums.differences / sums.squares).sqrt()).filter(|v| v.is_finite()),
        })
    }
}

#[derive(Default)]
struct Sums {
    n_differ: u64,
    max: f64,
    differences: f64,
    squares: f64,
}

impl Sums {
    fn add(&mut self, a: f64, b: f64) {
        if a.to_bits() != b.to_bits() {
            self.n_differ += 1;
            // Equal infinities never come here; a difference that is no number is not finite either.
            let difference = (a - b).abs();
            self.max = if difference.is_nan() { f64::INFINITY } else { self.max.max(difference) };
            self.differences += difference * difference;
        }
        self.squares += a * a;
    }
}

fn wide_values(tensor: &Tensor) -> Option<Vec<f64>> {
    match tensor.dtype() {
        DType::U64 => Some(tensor.to_i64s().ok()?.into_iter().map(|v| v.cast_unsigned() as f64).collect()),
        dtype if dtype.class() == Class::Float => tensor.to_f64s().ok(),
        _ if tensor.ty().packing.is_some() => tensor.to_f64s().ok(),
        _ => Some(tensor.to_i64s().ok()?.into_iter().map(|v| v as f64).collect()),
    }
}

/// Elements of whole bytes that differ in a bit, where both tensors have one type.
fn n_in_bits(before: &Tensor, after: &Tensor) -> Option<u64> {
    let (a, b) = (before.ty(), after.ty());
    let size = (a.dtype.bits() / 8) as usize;
    if (a.dtype, a.packing) != (b.dtype, b.packing) || a.packing.is_some() || size == 0 {
        return None;
    }
    let (a, b) = (before.bytes().ok()?, after.bytes().ok()?);
    Some(a.chunks(size).zip(b.chunks(size)).filter(|(a, b)| a != b).count() as u64)
}
