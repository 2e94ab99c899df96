//! The order of elements, as integers.

use crate::ir::{Class, DType, OpError, Tensor};

/// Integers that order as the elements do, NaN above all.
///
/// # Errors
/// The data is absent or no numbers.
pub fn order_keys(x: &Tensor) -> Result<Vec<i64>, OpError> {
    let of_float = |v: f64| match (v + 0.0).to_bits().cast_signed() {
        _ if v.is_nan() => i64::MAX,
        bits => bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed(),
    };
    Ok(match x.dtype().class() {
        // A float orders as its bits do, but for the sign; f32s widened order as they did.
        Class::Float => x.to_f64s()?.iter().map(|&v| of_float(v)).collect(),
        // The sign of a u64 is its highest bit.
        _ if x.dtype() == DType::U64 => x.to_i64s()?.iter().map(|v| v ^ i64::MIN).collect(),
        _ => x.to_i64s()?,
    })
}
