//! Expressions computed for one element.

use super::real::{Real, acosh, asinh, atanh, sigmoid};
use crate::ir::{Binary, Expr, Unary, saturating_f16};

/// One value during evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<F> {
    /// A float.
    Float(F),
    /// An integer, or the bits of a u64.
    Int(i64),
    /// A truth value.
    Bool(bool),
}

/// Computes an expression whose classes are known to fit.
pub fn scalar<F: Real>(expr: &Expr, args: &[Scalar<F>]) -> Scalar<F> {
    use Scalar::{Bool, Float, Int};
    match expr {
        Expr::Arg(i) => args[*i],
        Expr::Float(v) => Float(F::of_f32(*v)),
        Expr::Int(v) => Int(*v),
        Expr::Unary(function, a) => unary(*function, scalar(a, args)),
        Expr::Binary(function, a, b) => binary(*function, scalar(a, args), scalar(b, args)),
        Expr::Select(c, a, b) => {
            if scalar(c, args) == Bool(true) {
                scalar(a, args)
            } else {
                scalar(b, args)
            }
        }
    }
}

pub(crate) fn unary<F: Real>(function: Unary, value: Scalar<F>) -> Scalar<F> {
    use Scalar::{Bool, Float, Int};
    match (function, value) {
        (Unary::ToFloat, Int(v)) => Float(F::of_i64(v)),
        (Unary::ToFloat, Bool(v)) => Float(F::of_i64(i64::from(v))),
        (Unary::ToInt, Float(v)) => Int(i64::from(v.to_i32())),
        (Unary::ToI64, Float(v)) => Int(v.to_i64()),
        // A negative number wraps, as C's conversions do on the common machines.
        (Unary::ToU64, Float(v)) => Int(if v < F::zero() { v.to_i64() } else { v.to_u64().cast_signed() }),
        (Unary::UnsignedToFloat, Int(v)) => Float(F::of_u64(v.cast_unsigned())),
        (Unary::ToInt, Bool(v)) => Int(i64::from(v)),
        (Unary::ToBool, Float(v)) => Bool(v != F::zero()),
        (Unary::ToBool, Int(v)) => Bool(v != 0),
        (Unary::ToFloat | Unary::ToInt | Unary::ToBool, v) => v,
        (Unary::Not, Bool(v)) => Bool(!v),
        (Unary::BitNot, Int(v)) => Int(!v),
        (Unary::Neg, Int(v)) => Int(v.wrapping_neg()),
        (Unary::Abs, Int(v)) => Int(v.wrapping_abs()),
        (Unary::Sign, Int(v)) => Int(v.signum()),
        (Unary::Relu, Int(v)) => Int(v.max(0)),
        (wrap, Int(v)) => Int(match wrap.wraps_to() {
            Some((bits, true)) => v << (64 - bits) >> (64 - bits),
            Some((bits, false)) => v & ((1 << bits) - 1),
            None => v,
        }),
        (Unary::IsNan, Float(v)) => Bool(v.is_nan()),
        (Unary::IsInf, Float(v)) => Bool(v.is_infinite()),
        (_, Float(v)) => Float(of_float(function, v)),
        // `Expr::class` refuses every other pair before anything is computed.
        (_, v) => v,
    }
}

fn of_float<F: Real>(function: Unary, v: F) -> F {
    match function {
        Unary::Neg => -v,
        Unary::Abs => v.abs(),
        Unary::Sign if v == F::zero() || v.is_nan() => v,
        Unary::Sign => v.signum(),
        Unary::Floor => v.floor(),
        Unary::Ceil => v.ceil(),
        Unary::Round => Real::round_ties_even(v),
        Unary::Exp => v.exp(),
        Unary::Log => v.ln(),
        Unary::Sqrt => v.sqrt(),
        Unary::Rsqrt => F::one() / v.sqrt(),
        Unary::Recip => F::one() / v,
        Unary::Sin => v.sin(),
        Unary::Cos => v.cos(),
        Unary::Tan => v.tan(),
        Unary::Asin => v.asin(),
        Unary::Acos => v.acos(),
        Unary::Atan => v.atan(),
        Unary::Sinh => v.sinh(),
        Unary::Cosh => v.cosh(),
        Unary::Tanh => v.tanh(),
        Unary::Asinh => asinh(v),
        Unary::Acosh => acosh(v),
        Unary::Atanh => atanh(v),
        Unary::Erf => v.erf(),
        Unary::Sigmoid => sigmoid(v),
        Unary::Softplus => v.max(F::zero()) + (-v.abs()).exp().ln_1p(),
        Unary::Relu if v.is_nan() => v,
        Unary::Relu => v.max(F::zero()),
        // By way of f32, as ONNX Runtime does.
        Unary::RoundF16 => F::of_f32(half::f16::from_f32(Real::to_f32(v)).to_f32()),
        Unary::RoundBf16 => F::of_f32(half::bf16::from_f32(Real::to_f32(v)).to_f32()),
        Unary::StoreF16 => F::of_f32(saturating_f16(Real::to_f32(v)).to_f32()),
        Unary::RoundF32 => F::of_f32(Real::to_f32(v)),
        // Functions of other classes.
        _ => v,
    }
}

pub(crate) fn binary<F: Real>(function: Binary, left: Scalar<F>, right: Scalar<F>) -> Scalar<F> {
    use Scalar::{Bool, Float, Int};
    match (left, right) {
        (Float(a), Float(b)) => match function {
            Binary::Add => Float(a + b),
            Binary::Sub => Float(a - b),
            Binary::Mul => Float(a * b),
            Binary::Div => Float(a / b),
            Binary::Min => Float(if a.is_nan() || b.is_nan() { F::nan() } else { a.min(b) }),
            Binary::Max => Float(if a.is_nan() || b.is_nan() { F::nan() } else { a.max(b) }),
            Binary::Pow => Float(a.powf(b)),
            Binary::Mod => Float(modulo(a, b)),
            Binary::Fmod => Float(a % b),
            Binary::Eq => Bool(a == b),
            Binary::Lt => Bool(a < b),
            Binary::Le => Bool(a <= b),
            Binary::Gt => Bool(a > b),
            Binary::Ge => Bool(a >= b),
            _ => Float(F::nan()),
        },
        (Int(a), Int(b)) => match function {
            Binary::Add => Int(a.wrapping_add(b)),
            Binary::Sub => Int(a.wrapping_sub(b)),
            Binary::Mul => Int(a.wrapping_mul(b)),
            // Division by zero has no value in ONNX; 0 is one that every device agrees on.
            Binary::Div => Int(if b == 0 { 0 } else { a.wrapping_div(b) }),
            Binary::Min => Int(a.min(b)),
            Binary::Max => Int(a.max(b)),
            Binary::Pow => Int(power(a, b)),
            Binary::Mod if b == 0 => Int(0),
            Binary::Mod => Int(match a.wrapping_rem(b) {
                rest if rest != 0 && (rest < 0) != (b < 0) => rest + b,
                rest => rest,
            }),
            Binary::Fmod => Int(if b == 0 { 0 } else { a.wrapping_rem(b) }),
            Binary::Eq => Bool(a == b),
            Binary::Lt => Bool(a < b),
            Binary::Le => Bool(a <= b),
            Binary::Gt => Bool(a > b),
            Binary::Ge => Bool(a >= b),
            Binary::BitAnd => Int(a & b),
            Binary::BitOr => Int(a | b),
            Binary::BitXor => Int(a ^ b),
            Binary::Shl => Int(u32::try_from(b).ok().and_then(|b| a.checked_shl(b)).unwrap_or(0)),
            // A distance beyond the width, and a negative one, leaves nothing but the sign.
            Binary::Shr => Int(a >> u32::try_from(b).unwrap_or(63).min(63)),
            _ => unsigned(function, a.cast_unsigned(), b.cast_unsigned()),
        },
        (Bool(a), Bool(b)) => Bool(match function {
            Binary::And => a && b,
            Binary::Or => a || b,
            Binary::Xor => a != b,
            _ => a == b,
        }),
        // `Expr::class` refuses operands of different classes before anything is computed.
        _ => left,
    }
}

/// The functions of u64.
fn unsigned<F: Real>(function: Binary, a: u64, b: u64) -> Scalar<F> {
    use Scalar::{Bool, Int};
    match function {
        Binary::UDiv => Int(a.checked_div(b).unwrap_or(0).cast_signed()),
        Binary::UMod => Int(a.checked_rem(b).unwrap_or(0).cast_signed()),
        Binary::UMin => Int(a.min(b).cast_signed()),
        Binary::UMax => Int(a.max(b).cast_signed()),
        Binary::ULt => Bool(a < b),
        Binary::ULe => Bool(a <= b),
        Binary::UGt => Bool(a > b),
        Binary::UGe => Bool(a >= b),
        Binary::UShr => Int(u32::try_from(b).ok().and_then(|b| a.checked_shr(b)).unwrap_or(0).cast_signed()),
        // `Expr::class` refuses the functions of other classes before anything is computed.
        _ => Int(0),
    }
}

/// A power modulo 2^64. One with a negative exponent is truncated to an integer; that of 0 is 0.
fn power(mut base: i64, exponent: i64) -> i64 {
    if exponent < 0 {
        let is_odd = exponent & 1 != 0;
        return if base == 1 || (base == -1 && !is_odd) { 1 } else { -i64::from(base == -1) };
    }
    let (mut power, mut rest) = (1i64, exponent);
    while rest != 0 {
        if rest & 1 != 0 {
            power = power.wrapping_mul(base);
        }
        base = base.wrapping_mul(base);
        rest >>= 1;
    }
    power
}

/// The rest of a division with the sign of the divisor, exact but for one addition; of a zero rest that sign is all
/// (Python's `%`).
fn modulo<F: Real>(a: F, b: F) -> F {
    let rest = a % b;
    if rest == F::zero() {
        rest.copysign(b)
    } else if (rest < F::zero()) != (b < F::zero()) {
        rest + b
    } else {
        rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_have_all_64_bits_and_wrap() {
        let of = |expr: &str, a: i64, b: i64| match scalar::<f32>(
            &Expr::parse(expr).unwrap(),
            &[Scalar::Int(a), Scalar::Int(b)],
        ) {
            Scalar::Int(v) => v,
            Scalar::Bool(v) => i64::from(v),
            Scalar::Float(v) => v as i64,
        };
        assert_eq!(of("add(x0,x1)", i64::MAX, 1), i64::MIN);
        assert_eq!(of("div(x0,x1)", i64::MIN, -1), i64::MIN);
        assert_eq!(of("mod(x0,x1)", i64::MIN, -1), 0);
        assert_eq!(of("mod(x0,x1)", -7, 4), 1);
        assert_eq!(of("pow(x0,x1)", 3, 40), 3i64.wrapping_pow(40));
        assert_eq!(of("pow(x0,x1)", -1, -3), -1);
        assert_eq!(of("i32(x0)", 1 << 31, 0), i64::from(i32::MIN));
        assert_eq!(of("u32(x0)", -1, 0), 0xffff_ffff);
        assert_eq!(of("udiv(x0,x1)", -1, 2), i64::MAX);
        assert_eq!(of("ult(x0,x1)", 1, -1), 1);
        assert_eq!(of("ushr(x0,x1)", -1, 63), 1);
        let convert = |expr: &str, v: f32| scalar(&Expr::parse(expr).unwrap(), &[Scalar::Float(v)]);
        assert_eq!(convert("i64(x0)", 1e18), Scalar::Int(999_999_984_306_749_440));
        assert_eq!(convert("u64(x0)", 1.8e19), Scalar::Int(18_000_000_404_716_257_280u64.cast_signed()));
        assert_eq!(convert("i(x0)", 1e18), Scalar::Int(i64::from(i32::MAX)));
        assert_eq!(convert("uf(i64(x0))", -1.0), Scalar::Float(18_446_744_073_709_551_616.0));
    }
}
