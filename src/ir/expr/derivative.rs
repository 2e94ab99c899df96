//! Derivatives of expressions, as expressions.
//!
//! Rounding to a narrower float counts as the identity, and what has steps has the derivative 0 between them. At a
//! corner it is one of the two sides: that of the first operand where `min` and `max` have equal ones, 0 for `relu` and
//! `abs`.

use super::{Binary, Expr, ExprError, Unary};
use crate::ir::Class;

/// 2 / sqrt(pi).
const ERF_SLOPE: f32 = std::f32::consts::FRAC_2_SQRT_PI;

fn is(expr: &Expr, number: f32) -> bool {
    matches!(expr, Expr::Float(n) if *n == number)
}

fn add(a: Expr, b: Expr) -> Expr {
    match (is(&a, 0.0), is(&b, 0.0)) {
        (true, _) => b,
        (_, true) => a,
        _ => Expr::binary(Binary::Add, a, b),
    }
}

fn sub(a: Expr, b: Expr) -> Expr {
    match (is(&a, 0.0), is(&b, 0.0)) {
        (_, true) => a,
        (true, _) => neg(b),
        _ => Expr::binary(Binary::Sub, a, b),
    }
}

fn mul(a: Expr, b: Expr) -> Expr {
    if is(&a, 0.0) || is(&b, 0.0) {
        Expr::Float(0.0)
    } else if is(&a, 1.0) {
        b
    } else if is(&b, 1.0) {
        a
    } else {
        Expr::binary(Binary::Mul, a, b)
    }
}

fn div(a: Expr, b: Expr) -> Expr {
    if is(&a, 0.0) { a } else { Expr::binary(Binary::Div, a, b) }
}

fn neg(a: Expr) -> Expr {
    match a {
        Expr::Float(n) => Expr::Float(-n),
        a => Expr::unary(Unary::Neg, a),
    }
}

fn of(function: Unary, a: &Expr) -> Expr {
    Expr::unary(function, a.clone())
}

fn squared(a: &Expr) -> Expr {
    mul(a.clone(), a.clone())
}

fn one() -> Expr {
    Expr::Float(1.0)
}

/// Of a power whose exponent is a number: the power one lower, times the exponent.
fn power_slope(a: &Expr, exponent: f32) -> Expr {
    let lower = match exponent - 1.0 {
        0.0 => one(),
        1.0 => a.clone(),
        lower => Expr::binary(Binary::Pow, a.clone(), Expr::Float(lower)),
    };
    mul(Expr::Float(exponent), lower)
}

/// The derivative of a function of a float at `a`; `None` where it is 0.
fn slope(function: Unary, a: &Expr) -> Option<Expr> {
    Some(match function {
        Unary::Neg => Expr::Float(-1.0),
        Unary::Abs => of(Unary::Sign, a),
        Unary::Exp => of(Unary::Exp, a),
        Unary::Log => of(Unary::Recip, a),
        Unary::Sqrt => div(Expr::Float(0.5), of(Unary::Sqrt, a)),
        Unary::Rsqrt => mul(Expr::Float(-0.5), div(of(Unary::Rsqrt, a), a.clone())),
        Unary::Recip => neg(squared(&of(Unary::Recip, a))),
        Unary::Sin => of(Unary::Cos, a),
        Unary::Cos => neg(of(Unary::Sin, a)),
        Unary::Tan => add(one(), squared(&of(Unary::Tan, a))),
        Unary::Asin => of(Unary::Rsqrt, &sub(one(), squared(a))),
        Unary::Acos => neg(of(Unary::Rsqrt, &sub(one(), squared(a)))),
        Unary::Atan => of(Unary::Recip, &add(one(), squared(a))),
        Unary::Sinh => of(Unary::Cosh, a),
        Unary::Cosh => of(Unary::Sinh, a),
        Unary::Tanh => sub(one(), squared(&of(Unary::Tanh, a))),
        Unary::Asinh => of(Unary::Rsqrt, &add(one(), squared(a))),
        Unary::Acosh => of(Unary::Rsqrt, &sub(squared(a), one())),
        Unary::Atanh => of(Unary::Recip, &sub(one(), squared(a))),
        Unary::Erf => mul(Expr::Float(ERF_SLOPE), of(Unary::Exp, &neg(squared(a)))),
        Unary::Sigmoid => {
            let y = of(Unary::Sigmoid, a);
            mul(y.clone(), sub(one(), y))
        }
        Unary::Softplus => of(Unary::Sigmoid, a),
        Unary::Relu => {
            let is_above = Expr::binary(Binary::Gt, a.clone(), Expr::Float(0.0));
            Expr::Select(is_above.into(), one().into(), Expr::Float(0.0).into())
        }
        Unary::ToFloat | Unary::RoundF16 | Unary::RoundBf16 | Unary::RoundF32 | Unary::StoreF16 => one(),
        _ => return None,
    })
}

/// One of two derivatives, as `condition` has it.
fn either(condition: Expr, a: Expr, b: Expr) -> Expr {
    if a == b { a } else { Expr::Select(condition.into(), a.into(), b.into()) }
}

impl Expr {
    /// The derivative with respect to operand `arg`, of operands of these classes; `None` where it is 0 everywhere.
    ///
    /// # Errors
    /// The expression has no type, or is no float.
    pub fn derivative(&self, arg: usize, args: &[Class]) -> Result<Option<Expr>, ExprError> {
        if self.class(args)? != Class::Float {
            return Err(ExprError(format!("the derivative of {self}, which is no float")));
        }
        let derivative = self.differential(arg, args);
        Ok((!is(&derivative, 0.0)).then_some(derivative))
    }

    fn differential(&self, arg: usize, args: &[Class]) -> Expr {
        // What is no float has steps.
        if self.class(args) != Ok(Class::Float) {
            return Expr::Float(0.0);
        }
        let zero = || Expr::Float(0.0);
        match self {
            Expr::Arg(i) => Expr::Float(if *i == arg { 1.0 } else { 0.0 }),
            Expr::Float(_) | Expr::Int(_) => zero(),
            Expr::Unary(function, a) => {
                let inner = a.differential(arg, args);
                if is(&inner, 0.0) {
                    return inner;
                }
                slope(*function, a).map_or_else(zero, |slope| mul(inner, slope))
            }
            Expr::Select(condition, a, b) => {
                either((**condition).clone(), a.differential(arg, args), b.differential(arg, args))
            }
            Expr::Binary(function, a, b) => {
                let (da, db) = (a.differential(arg, args), b.differential(arg, args));
                if is(&da, 0.0) && is(&db, 0.0) {
                    return zero();
                }
                let (a, b) = ((**a).clone(), (**b).clone());
                match function {
                    Binary::Add => add(da, db),
                    Binary::Sub => sub(da, db),
                    Binary::Mul => add(mul(da, b), mul(a, db)),
                    // (da - y db) / b
                    Binary::Div => div(sub(da, mul(self.clone(), db)), b),
                    Binary::Min => either(Expr::binary(Binary::Le, a, b), da, db),
                    Binary::Max => either(Expr::binary(Binary::Ge, a, b), da, db),
                    Binary::Pow => {
                        let by_base = match &b {
                            Expr::Float(exponent) => power_slope(&a, *exponent),
                            b => mul(
                                b.clone(),
                                Expr::binary(Binary::Pow, a.clone(), Expr::binary(Binary::Sub, b.clone(), one())),
                            ),
                        };
                        add(mul(da, by_base), mul(db, mul(self.clone(), of(Unary::Log, &a))))
                    }
                    // a - b * q, where q has steps.
                    Binary::Mod => sub(da, mul(db, of(Unary::Floor, &div(a, b)))),
                    Binary::Fmod => {
                        let quotient = div(a, b);
                        let steps = of(Unary::Floor, &of(Unary::Abs, &quotient));
                        sub(da, mul(db, mul(of(Unary::Sign, &quotient), steps)))
                    }
                    _ => zero(),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derivatives_are_short_and_those_of_steps_are_none() {
        let of = |text: &str, arg: usize| {
            Expr::parse(text).unwrap().derivative(arg, &[Class::Float; 2]).unwrap().map(|e| e.to_string())
        };
        for (text, expected) in [
            ("x0", Some("1.0")),
            ("x1", None),
            ("mul(x0,x1)", Some("x1")),
            ("mul(2.0,x0)", Some("2.0")),
            ("pow(x0,2.0)", Some("mul(2.0,x0)")),
            ("sub(x1,x0)", Some("-1.0")),
            ("exp(mul(x0,x1))", Some("mul(x1,exp(mul(x0,x1)))")),
            ("floor(x0)", None),
            ("f(i(x0))", None),
            ("select(lt(x0,x1),x0,x1)", Some("select(lt(x0,x1),1.0,0.0)")),
            ("f16(x0)", Some("1.0")),
        ] {
            assert_eq!(of(text, 0).as_deref(), expected, "{text}");
        }
        assert!(Expr::parse("lt(x0,x1)").unwrap().derivative(0, &[Class::Float; 2]).is_err());
    }
}
