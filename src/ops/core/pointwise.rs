//! `pointwise`: any function of single elements, with operands that broadcast. Every elementwise operator of ONNX
//! becomes one, and fusion makes one of many.

use crate::ir::expr::build::{float, int};
use crate::ir::{
    Attrs, Binary, CORE, Class, DType, Differentiate, Expand, Expr, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape,
    Tensor, TensorType, Unary, Val, attr, saturating_f16,
};
pub use crate::ops::reference::expression::apply;
use crate::ops::util::{broadcast, class_of, f32s};
use num_traits::Float;
use std::borrow::Cow;
use std::iter::Sum;
use std::ops::AddAssign;

/// `pointwise(x0, x1, ...) {expr, dtype}`: `expr` over the operands, stored as `dtype`.
pub static DEF: OpDef = OpDef {
    name: "pointwise",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::expr("expr"), attr::dtype("dtype")],
    arity: (1, usize::MAX),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: Some(&gradient),
};

/// Attributes of a pointwise operator.
pub fn attrs(expr: Expr, dtype: DType) -> Attrs {
    Attrs::new().with_expr("expr", expr).with_dtype("dtype", dtype)
}

/// A new pointwise node of the expression.
///
/// # Errors
/// It does not fit the operands.
pub fn add(e: &mut Expand<'_, '_>, expr: Expr, dtype: DType, operands: &[Val]) -> Result<Val, OpError> {
    let types: Vec<_> = operands.iter().map(|v| Some(e.ty(*v))).collect();
    e.add(&DEF, attrs(typed(expr, &types), dtype), operands)
}

/// Zero of a type, in an expression.
pub(crate) fn zero(dtype: DType) -> Expr {
    match dtype.class() {
        Class::Float => float(0.0),
        Class::Bool => int(0).to_bool(),
        _ => int(0),
    }
}

/// The expression with the functions that its operands' types have: those of u64 where an operand is one.
pub(crate) fn typed(expr: Expr, types: &[Option<TensorType>]) -> Expr {
    if !types.iter().flatten().any(|ty| ty.dtype == DType::U64 && ty.packing.is_none()) {
        return expr;
    }
    expr.unsigned(&types.iter().map(|ty| ty.as_ref().map_or(Class::Text, class_of)).collect::<Vec<_>>())
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let expr = infer.attrs.expr("expr").ok_or_else(|| OpError::attribute("expr", "is missing"))?;
    let dtype = infer.attrs.dtype("dtype").ok_or_else(|| OpError::attribute("dtype", "is missing"))?;
    let types: Vec<_> = (0..infer.inputs.len()).map(|slot| infer.ty(slot)).collect::<Result<_, _>>()?;
    if expr.n_args() > types.len() {
        return Err(OpError::attribute("expr", format!("uses {} operands of {}", expr.n_args(), types.len())));
    }
    let classes: Vec<_> = types.iter().map(|t| class_of(t)).collect();
    let class = expr.class(&classes)?;
    if class != dtype.class() {
        return Err(OpError::attribute("dtype", format!("is {dtype}, but the expression gives a {class:?}")));
    }
    let shapes: Vec<_> = types.iter().map(|t| &t.shape).collect();
    Ok(vec![TensorType::new(dtype, broadcast(&shapes)?)])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let expr = attrs.expr("expr").ok_or_else(|| OpError::attribute("expr", "is missing"))?;
    let dtype = attrs.dtype("dtype").ok_or_else(|| OpError::attribute("dtype", "is missing"))?;
    let tensors: Vec<&Tensor> = inputs
        .iter()
        .enumerate()
        .map(|(slot, t)| t.ok_or(OpError::MissingOperand { slot }))
        .collect::<Result<_, _>>()?;
    let dims: Vec<Vec<usize>> = tensors.iter().map(|t| t.dims()).collect();
    let shapes: Vec<Shape> = dims.iter().map(|d| Shape::of(d)).collect();
    let out = broadcast(&shapes.iter().collect::<Vec<_>>())?.known().unwrap_or_default();
    apply(expr, &tensors, &out, dtype).map(|t| vec![t])
}

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
fn asinh<F: Real>(v: F) -> F {
    let a = v.abs();
    let size = if is_large(a) {
        a.ln() + F::of_f64(std::f64::consts::LN_2)
    } else {
        (a + a * a / (F::one() + (F::one() + a * a).sqrt())).ln_1p()
    };
    size.copysign(v)
}

fn acosh<F: Real>(v: F) -> F {
    let t = v - F::one();
    if t < F::zero() {
        F::nan()
    } else if is_large(v) {
        v.ln() + F::of_f64(std::f64::consts::LN_2)
    } else {
        (t + (t * (t + F::one() + F::one())).sqrt()).ln_1p()
    }
}

fn atanh<F: Real>(v: F) -> F {
    let a = v.abs();
    (((a + a) / (F::one() - a)).ln_1p() / (F::one() + F::one())).copysign(v)
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

/// An operand gains what the result gains times the derivative of the expression.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let gain = d.gain()?;
    let expr = d.attrs.expr("expr").ok_or_else(|| OpError::attribute("expr", "is missing"))?.clone();
    let operands = (0..d.inputs.len()).map(|slot| d.input(slot)).collect::<Result<Vec<_>, _>>()?;
    let classes: Vec<Class> = operands.iter().map(|v| class_of(&d.ty(*v))).collect();
    let mut parts = Vec::with_capacity(operands.len());
    for slot in 0..operands.len() {
        let derivative = if d.wants(slot) { expr.derivative(slot, &classes)? } else { None };
        parts.push(derivative.map(|derivative| scaled(d, gain, &derivative, &operands)).transpose()?);
    }
    Ok(Gains::Are(parts))
}

/// `x` times an expression of operands, of which it reads those that the expression mentions.
fn scaled(e: &mut Expand<'_, '_>, x: Val, by: &Expr, operands: &[Val]) -> Result<Val, OpError> {
    if *by == Expr::Float(1.0) {
        return Ok(x);
    }
    let mut read: Vec<usize> = Vec::new();
    by.visit(&mut |part| {
        if let Expr::Arg(i) = part
            && !read.contains(i)
        {
            read.push(*i);
        }
    });
    let by = by.substitute(&|i| Expr::Arg(1 + read.iter().position(|at| *at == i).unwrap_or(0)));
    let dtype = e.ty(x).dtype;
    let all: Vec<Val> = [x].into_iter().chain(read.iter().map(|i| operands[*i])).collect();
    e.add(&DEF, attrs(Expr::binary(Binary::Mul, Expr::Arg(0), by), dtype), &all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Op;

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

    #[test]
    fn operands_broadcast() {
        let x = Tensor::from_f32s(DType::F32, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let row = Tensor::from_f32s(DType::F32, &[3], &[10.0, 20.0, 30.0]).unwrap();
        let column = Tensor::from_f32s(DType::F16, &[2, 1], &[1.0, 2.0]).unwrap();
        let op = Op::new(&DEF, attrs(Expr::parse("add(mul(x0,x2),x1)").unwrap(), DType::F32));
        let y = crate::ops::reference::evaluate(&op, &[Some(&x), Some(&row), Some(&column)], 1).unwrap();
        assert_eq!(y[0].to_f32s().unwrap().as_ref(), &[11.0, 22.0, 33.0, 18.0, 30.0, 42.0]);
    }

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
