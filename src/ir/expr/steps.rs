//! Functions with steps: where a float changes by its last bit, their results may change by a whole.
//!
//! A kernel keeps in f32 what lies between the operators that it computes, also where the graph has it in f16. That
//! costs no digit of a continuous function. One with steps would be at another step than the graph's: of 2.0003, which
//! is 2 in f16, `ceil` is 3. So what it is computed of is rounded as the graph's types say ([`Expr::rounded_to`]).

use super::{Binary, Expr, Unary};
use crate::ir::DType;
use std::sync::Arc;

impl Unary {
    /// Whether its result may leap where its operand, a float, changes by its last bit: it leaps to another integer or
    /// truth value, or to NaN at an end of its domain other than 0. Rounding to a narrower float keeps the sign.
    pub fn has_steps(self) -> bool {
        match self {
            Unary::Sign | Unary::Floor | Unary::Ceil | Unary::Round | Unary::IsNan | Unary::IsInf => true,
            Unary::ToInt | Unary::ToBool | Unary::ToI64 | Unary::ToU64 => true,
            Unary::Asin | Unary::Acos | Unary::Acosh | Unary::Atanh => true,
            Unary::Neg | Unary::Abs | Unary::Exp | Unary::Log | Unary::Sqrt | Unary::Rsqrt | Unary::Recip => false,
            Unary::Sin | Unary::Cos | Unary::Tan | Unary::Atan | Unary::Sinh | Unary::Cosh | Unary::Tanh => false,
            Unary::Asinh | Unary::Erf | Unary::Sigmoid | Unary::Softplus | Unary::Relu => false,
            // Of truth values and integers.
            Unary::Not | Unary::BitNot | Unary::ToFloat | Unary::UnsignedToFloat => false,
            Unary::I2 | Unary::U2 | Unary::I4 | Unary::U4 | Unary::I8 | Unary::U8 => false,
            Unary::I16 | Unary::U16 | Unary::I32 | Unary::U32 => false,
            // Steps of their own type: what is rounded again has been rounded to it.
            Unary::RoundF16 | Unary::RoundBf16 | Unary::RoundF32 | Unary::StoreF16 => false,
        }
    }
}

impl Binary {
    /// Whether its result may leap where one of its operands, both floats, changes by its last bit.
    pub fn has_steps(self) -> bool {
        match self {
            Binary::Mod | Binary::Fmod | Binary::Eq | Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => true,
            Binary::Add | Binary::Sub | Binary::Mul | Binary::Div | Binary::Min | Binary::Max => false,
            // Of a negative number there is a power where the exponent is a whole number.
            Binary::Pow => true,
            // Of truth values and integers.
            Binary::And | Binary::Or | Binary::Xor | Binary::BitAnd | Binary::BitOr | Binary::BitXor => false,
            Binary::Shl | Binary::Shr | Binary::UDiv | Binary::UMod | Binary::UMin | Binary::UMax => false,
            Binary::ULt | Binary::ULe | Binary::UGt | Binary::UGe | Binary::UShr => false,
        }
    }

    /// Whether `left` and `right` can lie on two sides of a step. Only 0 is compared with 0 as what it was before it
    /// was rounded: operators whose expansions do that (LeakyRelu, Elu, PRelu) are continuous there. The exponents that
    /// are literals are not rounded.
    fn steps_between(self, left: &Expr, right: &Expr) -> bool {
        let is_zero = |e: &Expr| matches!(e, Expr::Float(v) if *v == 0.0);
        match self {
            Binary::Lt | Binary::Le | Binary::Gt | Binary::Ge => !is_zero(left) && !is_zero(right),
            Binary::Pow => !matches!(right, Expr::Float(_)),
            _ => self.has_steps(),
        }
    }
}

impl Expr {
    /// The expression with each operand replaced by `with(number, has_steps)`: whether a function with steps is
    /// computed of it.
    pub fn substitute_by_use(&self, with: &dyn Fn(usize, bool) -> Expr) -> Expr {
        self.substituted(with, false)
    }

    fn substituted(&self, with: &dyn Fn(usize, bool) -> Expr, has_steps: bool) -> Expr {
        let of = |e: &Arc<Expr>, own: bool| Arc::new(e.substituted(with, has_steps || own));
        match self {
            Expr::Arg(i) => with(*i, has_steps),
            Expr::Float(_) | Expr::Int(_) => self.clone(),
            Expr::Unary(function, a) => Expr::Unary(*function, of(a, function.has_steps())),
            Expr::Binary(function, a, b) => {
                let own = function.steps_between(a, b);
                Expr::Binary(*function, of(a, own), of(b, own))
            }
            Expr::Select(c, a, b) => Expr::Select(of(c, false), of(a, false), of(b, false)),
        }
    }

    /// Whether a function with steps is computed of operand `i`.
    pub fn meets_steps(&self, i: usize) -> bool {
        let meets = std::cell::Cell::new(false);
        self.substitute_by_use(&|arg, has_steps| {
            meets.set(meets.get() || (arg == i && has_steps));
            Expr::Arg(arg)
        });
        meets.get()
    }

    /// The expression rounded as storing its result in a type, and reading it again, would.
    pub fn rounded_to(self, dtype: DType) -> Expr {
        let round = match dtype {
            DType::F16 => Unary::StoreF16,
            DType::BF16 => Unary::RoundBf16,
            _ => return self,
        };
        let is_rounded = |function: Unary| function == round || (dtype, function) == (DType::F16, Unary::RoundF16);
        if matches!(&self, Expr::Unary(function, _) if is_rounded(*function)) { self } else { Expr::unary(round, self) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(text: &str) -> String {
        let round = |i: usize, has_steps: bool| {
            if has_steps { Expr::Arg(i).rounded_to(DType::F16) } else { Expr::Arg(i) }
        };
        Expr::parse(text).unwrap().substitute_by_use(&round).to_string()
    }

    #[test]
    fn what_a_step_is_computed_of_is_told_apart() {
        for (text, rounded) in [
            ("add(x0,ceil(mul(x0,x1)))", "add(x0,ceil(mul(sf16(x0),sf16(x1))))"),
            ("select(lt(x0,x1),x0,x1)", "select(lt(sf16(x0),sf16(x1)),x0,x1)"),
            // Continuous at 0.
            ("select(lt(x0,0.0),mul(x0,x1),x0)", "select(lt(x0,0.0),mul(x0,x1),x0)"),
            ("pow(x0,2.0)", "pow(x0,2.0)"),
            ("pow(x0,x1)", "pow(sf16(x0),sf16(x1))"),
            ("i(select(b(x0),x1,x2))", "i(select(b(sf16(x0)),sf16(x1),sf16(x2)))"),
            ("tanh(x0)", "tanh(x0)"),
        ] {
            assert_eq!(uses(text), rounded);
        }
    }

    #[test]
    fn what_is_rounded_is_not_rounded_again() {
        let once = Expr::Arg(0).rounded_to(DType::F16);
        assert_eq!(once.clone().rounded_to(DType::F16), once);
        assert_eq!(Expr::Arg(0).rounded_to(DType::F32), Expr::Arg(0));
    }

    /// The tables against the functions themselves: what leaps beside a number has steps.
    #[test]
    fn functions_that_leap_have_steps() {
        use crate::ir::Class;
        use crate::ops::reference::scalar::{Scalar, scalar};
        let at = |expr: &Expr, x: f64, y: f64| match scalar(expr, &[Scalar::Float(x), Scalar::Float(y)]) {
            Scalar::Float(v) => v,
            Scalar::Int(v) => v as f64,
            Scalar::Bool(v) => f64::from(u8::from(v)),
        };
        let places = || (-16..=16).map(|i| f64::from(i) / 4.0).filter(|v| *v != 0.0);
        let leap = |a: f64, b: f64| a.is_nan() != b.is_nan() || (a - b).abs() > 0.1;
        let leaps = |expr: &Expr| {
            let beside = |x: f64, y: f64| {
                [(1e-9, 0.0), (0.0, 1e-9)].map(|(dx, dy)| leap(at(expr, x - dx, y - dy), at(expr, x + dx, y + dy)))
            };
            places().any(|x| places().any(|y| beside(x, y).contains(&true)))
        };
        let floats = [Class::Float; 2];
        let mut n_leaping = 0;
        for function in Unary::ALL {
            let expr = Expr::unary(*function, Expr::Arg(0));
            if expr.class(&floats).is_ok() && leaps(&expr) {
                assert!(function.has_steps() || expr.clone().rounded_to(DType::F16) == expr, "{}", function.name());
                n_leaping += 1;
            }
        }
        for function in Binary::ALL {
            let expr = Expr::binary(*function, Expr::Arg(0), Expr::Arg(1));
            if expr.class(&floats).is_ok() && leaps(&expr) {
                assert!(function.has_steps(), "{}", function.name());
                n_leaping += 1;
            }
        }
        assert!(n_leaping >= 16, "{n_leaping}");
    }
}
