//! The floats that the reference computes in, and the functions that the standard library lacks or rounds too coarsely.

use crate::ir::{DType, OpError, Tensor};
use crate::ops::util::f32s;
use num_traits::Float;
use std::borrow::Cow;
use std::iter::Sum;
use std::ops::AddAssign;

/// What floats are computed in: f32, as the kernels do, or f64, where an operand or the result is f64.
pub trait Real: Float + AddAssign + Sum + Send + Sync + 'static {
    /// The element type.
    const DTYPE: DType;
    /// The elements of a tensor.
    ///
    /// # Errors
    /// The data is absent or no numbers, or an f64 is beyond this type.
    fn elements(tensor: &Tensor) -> Result<Cow<'_, [Self]>, OpError>;
    /// Elements stored as a float type.
    ///
    /// # Errors
    /// As of [`Tensor::from_f32s`] and [`Tensor::from_f64s`].
    fn stored(dtype: DType, dims: &[usize], values: Vec<Self>) -> Result<Tensor, OpError>;
    /// As f64, exactly.
    fn wide(self) -> f64;
    /// A number of an expression.
    fn of_f32(value: f32) -> Self;
    /// A constant, rounded.
    fn of_f64(value: f64) -> Self;
    /// An integer, rounded.
    fn of_i64(value: i64) -> Self;
    /// An integer, rounded.
    fn of_u64(value: u64) -> Self;
    /// Truncated, and clamped to the range; NaN is 0.
    fn to_i32(self) -> i32;
    /// Truncated, and clamped to the range; NaN is 0.
    fn to_i64(self) -> i64;
    /// Truncated, and clamped to the range; NaN is 0.
    fn to_u64(self) -> u64;
    /// To the nearest integer, to the even one of two.
    fn round_ties_even(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// To the nearest f32.
    fn to_f32(self) -> f32;
}

macro_rules! real {
    ($ty:ty, $dtype:expr, |$tensor:ident: &Tensor| $read:expr, |$to:ident, $dims:ident, $values:ident| $store:expr) => {
        impl Real for $ty {
            const DTYPE: DType = $dtype;
            fn elements($tensor: &Tensor) -> Result<Cow<'_, [Self]>, OpError> {
                Ok($read?)
            }
            fn stored($to: DType, $dims: &[usize], $values: Vec<Self>) -> Result<Tensor, OpError> {
                $store
            }
            fn wide(self) -> f64 {
                f64::from(self)
            }
            fn of_f32(value: f32) -> Self {
                Self::from(value)
            }
            fn of_f64(value: f64) -> Self {
                value as Self
            }
            fn of_i64(value: i64) -> Self {
                value as Self
            }
            fn of_u64(value: u64) -> Self {
                value as Self
            }
            fn to_i32(self) -> i32 {
                self as i32
            }
            fn to_i64(self) -> i64 {
                self as i64
            }
            fn to_u64(self) -> u64 {
                self as u64
            }
            fn round_ties_even(self) -> Self {
                self.round_ties_even()
            }
            fn erf(self) -> Self {
                erf(f64::from(self)) as Self
            }
            fn to_f32(self) -> f32 {
                self as f32
            }
        }
    };
}

real!(f32, DType::F32, |t: &Tensor| t.to_f32s(), |dtype, dims, values| f32s(dtype, dims, values));
real!(f64, DType::F64, |t: &Tensor| t.to_f64s().map(Cow::Owned), |dtype, dims, values| Ok(Tensor::from_f64s(
    dtype, dims, &values
)?));

/// The logistic function; below zero not as `1 / (1 + exp(-v))`, whose divisor overflows where the quotient is a
/// number.
pub(crate) fn sigmoid<F: Real>(v: F) -> F {
    let e = (-v.abs()).exp();
    let above = if v < F::zero() { e } else { F::one() };
    above / (F::one() + e)
}

/// Numbers beyond which 1 is lost beside the square.
fn is_large<F: Real>(v: F) -> bool {
    v > F::one() / F::epsilon()
}

// The standard library's lose digits near 1 (acosh), and are infinite near the largest number (asinh, acosh).
pub(super) fn asinh<F: Real>(v: F) -> F {
    let a = v.abs();
    let size = if is_large(a) {
        a.ln() + F::of_f64(std::f64::consts::LN_2)
    } else {
        (a + a * a / (F::one() + (F::one() + a * a).sqrt())).ln_1p()
    };
    size.copysign(v)
}

pub(super) fn acosh<F: Real>(v: F) -> F {
    let t = v - F::one();
    if t < F::zero() {
        F::nan()
    } else if is_large(v) {
        v.ln() + F::of_f64(std::f64::consts::LN_2)
    } else {
        (t + (t * (t + F::one() + F::one())).sqrt()).ln_1p()
    }
}

pub(super) fn atanh<F: Real>(v: F) -> F {
    let a = v.abs();
    (((a + a) / (F::one() - a)).ln_1p() / (F::one() + F::one())).copysign(v)
}

/// The value of a polynomial, its constant coefficient first.
fn polynomial(x: f64, coefficients: &[f64]) -> f64 {
    coefficients.iter().rev().fold(0.0, |sum, c| sum * x + c)
}

/// The error function by the rational approximations of FreeBSD's `s_erf.c` (Sun Microsystems, 1993) up to 1/0.35, and
/// its continued fraction beyond (Abramowitz and Stegun 7.1.14), to about 1e-15.
fn erf(x: f64) -> f64 {
    let a = x.abs();
    let value = if a < 0.84375 {
        let p = [
            1.283_791_670_955_125_6e-1,
            -3.250_421_072_470_015e-1,
            -2.848_174_957_559_851e-2,
            -5.770_270_296_489_442e-3,
            -2.376_301_665_665_016_3e-5,
        ];
        let q = [
            1.0,
            3.979_172_239_591_553_5e-1,
            6.502_224_998_876_73e-2,
            5.081_306_281_875_766e-3,
            1.324_947_380_043_216_4e-4,
            -3.960_228_278_775_368e-6,
        ];
        a + a * polynomial(a * a, &p) / polynomial(a * a, &q)
    } else if a < 1.25 {
        let p = [
            -2.362_118_560_752_659_4e-3,
            4.148_561_186_837_483_3e-1,
            -3.722_078_760_357_013e-1,
            3.183_466_199_011_617_5e-1,
            -1.108_946_942_823_966_8e-1,
            3.547_830_432_561_823_6e-2,
            -2.166_375_594_868_791e-3,
        ];
        let q = [
            1.0,
            1.064_208_804_008_442_3e-1,
            5.403_979_177_021_71e-1,
            7.182_865_441_419_627e-2,
            1.261_712_198_087_616_4e-1,
            1.363_708_391_202_905e-2,
            1.198_449_984_679_910_7e-2,
        ];
        8.450_629_115_104_675e-1 + polynomial(a - 1.0, &p) / polynomial(a - 1.0, &q)
    } else if a < 1.0 / 0.35 {
        let p = [
            -9.864_944_034_847_148e-3,
            -6.938_585_727_071_818e-1,
            -1.055_862_622_532_329_1e1,
            -6.237_533_245_032_601e1,
            -1.623_966_694_625_734_7e2,
            -1.846_050_929_067_110_4e2,
            -8.128_743_550_630_66e1,
            -9.814_329_344_169_145,
        ];
        let q = [
            1.0,
            1.965_127_166_743_925_7e1,
            1.376_577_541_435_190_4e2,
            4.345_658_774_752_292_3e2,
            6.453_872_717_332_679e2,
            4.290_081_400_275_678_3e2,
            1.086_350_055_417_794_4e2,
            6.570_249_770_319_282,
            -6.042_441_521_485_81e-2,
        ];
        let s = 1.0 / (a * a);
        1.0 - (-a * a - 0.5625 + polynomial(s, &p) / polynomial(s, &q)).exp() / a
    } else if a < 6.0 {
        let fraction = (1..40).rev().fold(0.0, |fraction, k| f64::from(k) / 2.0 / (a + fraction));
        1.0 - (-a * a).exp() / ((a + fraction) * std::f64::consts::PI.sqrt())
    } else if a.is_nan() {
        a
    } else {
        1.0
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_function_is_exact_to_single_precision() {
        for (x, y) in [
            (0.1, 0.112_462_916_018_284_9),
            (0.5, 0.520_499_877_813_046_5),
            (1.0, 0.842_700_792_949_714_9),
            (2.4, 0.999_311_486_103_354_9),
            (2.6, 0.999_763_965_583_470_7),
            (-3.0, -0.999_977_909_503_001_4),
        ] {
            assert!((erf(x) - y).abs() < 1e-12, "erf({x}) = {}", erf(x));
        }
    }
}
