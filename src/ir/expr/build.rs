//! Expressions written as Rust: `(arg(0) * arg(1) + 0.5).tanh()`. A function that does not exist, or has another number
//! of operands, does not compile; classes are checked where the expression meets its operands ([`Expr::class`]).

use super::{Binary, Expr, Unary};
use std::ops::{Add, BitAnd, BitOr, BitXor, Div, Mul, Neg, Not, Sub};
use std::sync::Arc;

/// Operand number `i`.
pub fn arg(i: usize) -> Expr {
    Expr::Arg(i)
}

/// A float.
pub fn float(value: f32) -> Expr {
    Expr::Float(value)
}

/// An integer.
pub fn int(value: i64) -> Expr {
    Expr::Int(value)
}

/// `then` where `condition` holds, `other` elsewhere.
pub fn select(condition: Expr, then: impl Into<Expr>, other: impl Into<Expr>) -> Expr {
    Expr::Select(Arc::new(condition), Arc::new(then.into()), Arc::new(other.into()))
}

impl From<f32> for Expr {
    fn from(value: f32) -> Expr {
        Expr::Float(value)
    }
}

impl From<i64> for Expr {
    fn from(value: i64) -> Expr {
        Expr::Int(value)
    }
}

macro_rules! operators {
    ($($trait:ident $method:ident $function:ident)*) => {
        $(operators!(@ $trait $method $function Expr f32 i64);)*
    };
    (@ $trait:ident $method:ident $function:ident $($right:ty)*) => {
        $(impl $trait<$right> for Expr {
            type Output = Expr;
            fn $method(self, right: $right) -> Expr {
                Expr::binary(Binary::$function, self, right.into())
            }
        })*
        impl $trait<Expr> for f32 {
            type Output = Expr;
            fn $method(self, right: Expr) -> Expr {
                Expr::binary(Binary::$function, self.into(), right)
            }
        }
        impl $trait<Expr> for i64 {
            type Output = Expr;
            fn $method(self, right: Expr) -> Expr {
                Expr::binary(Binary::$function, self.into(), right)
            }
        }
    };
}

operators! {
    Add add Add
    Sub sub Sub
    Mul mul Mul
    Div div Div
    BitAnd bitand BitAnd
    BitOr bitor BitOr
    BitXor bitxor BitXor
}

impl Neg for Expr {
    type Output = Expr;
    fn neg(self) -> Expr {
        Expr::unary(Unary::Neg, self)
    }
}

impl Not for Expr {
    type Output = Expr;
    fn not(self) -> Expr {
        Expr::unary(Unary::Not, self)
    }
}

macro_rules! methods {
    (
        unary: $($(#[$doc:meta])* $method:ident $function:ident)*;
        binary: $($(#[$also:meta])* $name:ident $two:ident)*
    ) => {
        impl Expr {
            $($(#[$doc])* pub fn $method(self) -> Expr {
                Expr::unary(Unary::$function, self)
            })*
            $($(#[$also])* pub fn $name(self, other: impl Into<Expr>) -> Expr {
                Expr::binary(Binary::$two, self, other.into())
            })*
        }
    };
}

methods! {
    unary:
    /// The magnitude.
    abs Abs
    /// 1, 0 or -1, as it is more than 0, 0 or less.
    sign Sign
    /// Downwards to an integer.
    floor Floor
    /// Upwards to an integer.
    ceil Ceil
    /// To the nearest integer, the even one of two.
    round Round
    /// e to the power of it.
    exp Exp
    /// The natural logarithm.
    log Log
    /// The square root.
    sqrt Sqrt
    /// One by the square root.
    rsqrt Rsqrt
    /// One by it.
    recip Recip
    /// The hyperbolic tangent.
    tanh Tanh
    /// The logistic function.
    sigmoid Sigmoid
    /// `log(1 + exp(x))`.
    softplus Softplus
    /// 0 where it is negative.
    relu Relu
    /// The sine.
    sin Sin
    /// The cosine.
    cos Cos
    /// The tangent.
    tan Tan
    /// The inverse of the sine.
    asin Asin
    /// The inverse of the cosine.
    acos Acos
    /// The inverse of the tangent.
    atan Atan
    /// The hyperbolic sine.
    sinh Sinh
    /// The hyperbolic cosine.
    cosh Cosh
    /// The inverse of the hyperbolic sine.
    asinh Asinh
    /// The inverse of the hyperbolic cosine.
    acosh Acosh
    /// The inverse of the hyperbolic tangent.
    atanh Atanh
    /// The error function.
    erf Erf
    /// The bits of an integer, each inverted.
    bit_not BitNot
    /// Whether it is NaN.
    is_nan IsNan
    /// Whether it is infinite.
    is_inf IsInf
    /// As a float.
    to_float ToFloat
    /// As an integer of 32 bits.
    to_int ToInt
    /// As an integer of 64 bits.
    to_i64 ToI64
    /// As a truth value.
    to_bool ToBool;
    binary:
    /// The smaller one.
    min Min
    /// The larger one.
    max Max
    /// To a power.
    pow Pow
    /// The rest of a quotient, of the sign of the divisor.
    modulo Mod
    /// The rest of a quotient, of the sign of the dividend.
    fmod Fmod
    /// Whether both are the same.
    equals Eq
    /// Whether it is less.
    below Lt
    /// Whether it is less or the same.
    at_most Le
    /// Whether it is more.
    above Gt
    /// Whether it is more or the same.
    at_least Ge
    /// Whether both hold.
    and And
    /// Whether one holds, or both.
    or Or
    /// Whether one holds and the other does not.
    xor Xor
    /// Bits to the left.
    shift_left Shl
    /// Bits to the right.
    shift_right Shr
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_rust_is_the_text() {
        for (expr, text) in [
            ((arg(0) * arg(1) + 0.5).tanh(), "tanh(add(mul(x0,x1),0.5))"),
            (1.0 - arg(0).pow(2.0), "sub(1.0,pow(x0,2.0))"),
            (select(arg(0).below(0), arg(0) + 7, arg(0)), "select(lt(x0,0),add(x0,7),x0)"),
            (!arg(0).equals(arg(1)).or(arg(0).is_nan()), "not(or(eq(x0,x1),isnan(x0)))"),
            (-arg(2).to_float().max(f32::NEG_INFINITY), "neg(max(f(x2),-inf))"),
            ((5 / int(2)) & arg(0), "bitand(div(5,2),x0)"),
        ] {
            assert_eq!(expr.to_string(), text);
            assert_eq!(Expr::parse(text), Ok(expr));
        }
    }
}
