//! Bounds of integer expressions: where 32 bits are enough, and where a stored integer would have wrapped.

use super::{Binary, Expr, Unary};
use crate::ir::{Class, DType};

/// The smallest and the largest value that an integer word may have, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The minimum.
    pub low: i64,
    /// The largest.
    pub high: i64,
}

/// What is known of an operand of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operand {
    /// A float.
    Float,
    /// A truth value.
    Bool,
    /// An integer within bounds.
    Int(Bounds),
}

impl Operand {
    /// An operand of which only the type is known.
    pub fn of(dtype: DType) -> Operand {
        match dtype.class() {
            Class::Int => Operand::Int(Bounds::of(dtype)),
            Class::Bool => Operand::Bool,
            Class::Float | Class::Text => Operand::Float,
        }
    }
}

impl Bounds {
    /// Every 64-bit word.
    pub const FULL: Bounds = Bounds { low: i64::MIN, high: i64::MAX };
    /// The signed 32-bit words.
    pub const WORD: Bounds = Bounds { low: i32::MIN as i64, high: i32::MAX as i64 };
    const BIT: Bounds = Bounds { low: 0, high: 1 };

    /// The values of an integer type as 64-bit words: every one for i64 and u64.
    pub fn of(dtype: DType) -> Bounds {
        Unary::wrap(dtype).and_then(Unary::wraps_to).map_or(Bounds::FULL, |(bits, signed)| Bounds::bits(bits, signed))
    }

    fn bits(bits: u32, signed: bool) -> Bounds {
        match signed {
            true => Bounds { low: -(1 << (bits - 1)), high: (1 << (bits - 1)) - 1 },
            false => Bounds { low: 0, high: (1 << bits) - 1 },
        }
    }

    /// Exactly one value.
    pub fn exactly(value: i64) -> Bounds {
        Bounds { low: value, high: value }
    }

    /// Whether every value within `other` is one of these.
    pub fn holds(self, other: Bounds) -> bool {
        self.low <= other.low && other.high <= self.high
    }

    /// Whether every value is a signed 32-bit one.
    pub fn is_word(self) -> bool {
        Bounds::WORD.holds(self)
    }

    /// The lower bounds of both.
    pub fn hull(self, other: Bounds) -> Bounds {
        Bounds { low: self.low.min(other.low), high: self.high.max(other.high) }
    }

    /// Those of exact results, any of which may wrap where not all are 64-bit words.
    fn exact(values: impl IntoIterator<Item = i128>) -> Bounds {
        let (low, high) = values.into_iter().fold((i128::MAX, i128::MIN), |(low, high), v| (low.min(v), high.max(v)));
        match (i64::try_from(low), i64::try_from(high)) {
            (Ok(low), Ok(high)) if low <= high => Bounds { low, high },
            _ => Bounds::FULL,
        }
    }

    fn corners(self, other: Bounds, f: impl Fn(i128, i128) -> i128) -> Bounds {
        let ends = |b: Bounds| [i128::from(b.low), i128::from(b.high)];
        Bounds::exact(ends(self).into_iter().flat_map(|a| ends(other).map(|b| f(a, b))))
    }

    fn is_natural(self) -> bool {
        self.low >= 0
    }

    /// The largest absolute value.
    fn magnitude(self) -> i128 {
        i128::from(self.low).abs().max(i128::from(self.high).abs())
    }

    fn pow(self, exponent: Bounds) -> Bounds {
        let most = self.magnitude();
        // A negative exponent gives 0, 1 or -1.
        let power = match u32::try_from(exponent.high.max(0)) {
            _ if most <= 1 => Some(1),
            Ok(n) if n <= 64 => most.checked_pow(n),
            _ => None,
        };
        let Some(power) = power.map(|p| p.max(1)) else { return Bounds::FULL };
        Bounds::exact([if self.is_natural() { 0 } else { -power }, power])
    }

    /// The bounds that a bitwise function keeps: of the fewest bits that both operands fit in.
    fn bitwise(self, other: Bounds) -> Bounds {
        let both = self.hull(other);
        let bits = (1..64).find(|&bits| Bounds::bits(bits, true).holds(both));
        let Some(bits) = bits else {
            return if both.is_natural() { Bounds { low: 0, high: i64::MAX } } else { Bounds::FULL };
        };
        let bounds = Bounds::bits(bits, true);
        if both.is_natural() { Bounds { low: 0, ..bounds } } else { bounds }
    }

    fn shifted_left(self, by: Bounds) -> Bounds {
        let distance = |d: i64| 1i128 << d.clamp(0, 63);
        let inside = self.corners(by, |a, d| a * distance(d.clamp(0, 63) as i64));
        if by.low < 0 || by.high > 63 { inside.hull(Bounds::exactly(0)) } else { inside }
    }

    fn shifted_right(self, by: Bounds) -> Bounds {
        let shifted = self.corners(by, |a, d| a >> d.clamp(0, 63));
        // A distance outside 0..=63 leaves nothing but the sign.
        if by.low < 0 { shifted.hull(self.corners(Bounds::exactly(63), |a, d| a >> d)) } else { shifted }
    }

    fn unary(function: Unary, a: Bounds) -> Bounds {
        if let Some((bits, signed)) = function.wraps_to() {
            let ty = Bounds::bits(bits, signed);
            return if ty.holds(a) { a } else { ty };
        }
        let ends = [i128::from(a.low), i128::from(a.high)];
        match function {
            Unary::ToInt => a,
            Unary::Neg => Bounds::exact(ends.map(|v| -v)),
            Unary::BitNot => Bounds::exact(ends.map(|v| -1 - v)),
            Unary::Abs if a.is_natural() => a,
            Unary::Abs => Bounds::exact([0, a.magnitude()]),
            Unary::Sign => Bounds { low: a.low.signum(), high: a.high.signum() },
            Unary::Relu => Bounds { low: a.low.max(0), high: a.high.max(0) },
            _ => Bounds::FULL,
        }
    }

    fn binary(function: Binary, a: Bounds, b: Bounds) -> Bounds {
        use Binary::*;
        let natural = a.is_natural() && b.is_natural();
        match function {
            Add => a.corners(b, |a, b| a + b),
            Sub => a.corners(b, |a, b| a - b),
            Mul => a.corners(b, |a, b| a * b),
            Div if b.low > 0 || b.high < 0 => a.corners(b, |a, b| a / b),
            Div => Bounds::exact([-a.magnitude(), a.magnitude()]),
            UDiv if natural => Bounds { low: 0, high: a.high },
            // The rest has the sign of the divisor and is smaller.
            Mod => Bounds { low: b.low.saturating_add(1).min(0), high: b.high.saturating_sub(1).max(0) },
            Fmod => {
                let most = a.magnitude().min((b.magnitude() - 1).max(0));
                Bounds::exact([if a.is_natural() { 0 } else { -most }, if a.high <= 0 { 0 } else { most }])
            }
            UMod if b.is_natural() => Bounds { low: 0, high: (b.high - 1).max(0) },
            Min => Bounds { low: a.low.min(b.low), high: a.high.min(b.high) },
            Max => Bounds { low: a.low.max(b.low), high: a.high.max(b.high) },
            UMin if natural => Bounds { low: a.low.min(b.low), high: a.high.min(b.high) },
            UMin if a.is_natural() => Bounds { low: 0, high: a.high },
            UMin if b.is_natural() => Bounds { low: 0, high: b.high },
            UMax if natural => Bounds { low: a.low.max(b.low), high: a.high.max(b.high) },
            Pow => a.pow(b),
            BitAnd if a.is_natural() || b.is_natural() => {
                let high = [a, b].into_iter().filter(|x| x.is_natural()).map(|x| x.high).min().unwrap_or(i64::MAX);
                Bounds { low: 0, high }
            }
            BitAnd | BitOr | BitXor => a.bitwise(b),
            Shl => a.shifted_left(b),
            Shr => a.shifted_right(b),
            UShr if a.is_natural() => a.shifted_right(b).hull(Bounds::exactly(0)),
            UShr if (1..=63).contains(&b.low) => Bounds { low: 0, high: (u64::MAX >> b.low) as i64 },
            _ => Bounds::FULL,
        }
    }
}

impl Expr {
    /// Bounds of the result, where that is an integer or a truth value; of no meaning for a float.
    pub fn bounds(&self, args: &[Operand]) -> Bounds {
        self.analyse(args).1
    }

    fn analyse(&self, args: &[Operand]) -> (Class, Bounds) {
        match self {
            Expr::Arg(i) => match args.get(*i) {
                Some(Operand::Int(bounds)) => (Class::Int, *bounds),
                Some(Operand::Bool) => (Class::Bool, Bounds::BIT),
                Some(Operand::Float) | None => (Class::Float, Bounds::FULL),
            },
            Expr::Float(_) => (Class::Float, Bounds::FULL),
            Expr::Int(v) => (Class::Int, Bounds::exactly(*v)),
            Expr::Unary(function, a) => {
                let (class, bounds) = a.analyse(args);
                match (function, class) {
                    (Unary::ToFloat | Unary::UnsignedToFloat, _) => (Class::Float, Bounds::FULL),
                    (Unary::ToBool | Unary::Not | Unary::IsNan | Unary::IsInf, _) => (Class::Bool, Bounds::BIT),
                    (Unary::ToInt, Class::Bool) => (Class::Int, Bounds::BIT),
                    (Unary::ToInt, Class::Float) => (Class::Int, Bounds::WORD),
                    (Unary::ToI64 | Unary::ToU64, _) => (Class::Int, Bounds::FULL),
                    (_, Class::Int) => (Class::Int, Bounds::unary(*function, bounds)),
                    _ => (class, Bounds::FULL),
                }
            }
            Expr::Binary(function, a, b) => {
                use Binary::*;
                let ((class, left), (_, right)) = (a.analyse(args), b.analyse(args));
                match (function, class) {
                    (Eq | Lt | Le | Gt | Ge | And | Or | Xor | ULt | ULe | UGt | UGe, _) => (Class::Bool, Bounds::BIT),
                    (_, Class::Int) => (Class::Int, Bounds::binary(*function, left, right)),
                    _ => (class, Bounds::FULL),
                }
            }
            Expr::Select(_, a, b) => {
                let ((class, left), (_, right)) = (a.analyse(args), b.analyse(args));
                (class, left.hull(right))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::reference::scalar::{Scalar, scalar};
    use proptest::prelude::*;

    fn int(low: i64, high: i64) -> Operand {
        Operand::Int(Bounds { low, high })
    }

    #[test]
    fn results_of_narrow_integers_are_known_to_fit() {
        let bytes = [Operand::of(DType::I8), Operand::of(DType::U8)];
        let bounds = |text: &str| {
            let Bounds { low, high } = Expr::parse(text).unwrap().bounds(&bytes);
            (low, high)
        };
        assert_eq!(bounds("add(x0,x1)"), (-128, 382));
        assert_eq!(bounds("mul(x0,x1)"), (-32640, 32385));
        assert_eq!(bounds("bitand(x0,x1)"), (0, 255));
        assert_eq!(bounds("u8(sub(x1,1))"), (0, 255));
        assert_eq!(bounds("shl(x0,4)"), (-2048, 2032));
        assert_eq!(bounds("mod(x0,7)"), (0, 6));
        assert!(!Expr::parse("add(x0,x0)").unwrap().bounds(&[Operand::of(DType::I32)]).is_word());
        assert_eq!(Expr::parse("mul(x0,x0)").unwrap().bounds(&[Operand::of(DType::I64)]), Bounds::FULL);
    }

    #[test]
    fn an_expression_is_wrapped_where_it_may_leave_its_type() {
        let wrapped =
            |text: &str, dtype: DType| Expr::parse(text).unwrap().wrapped(dtype, &[Operand::of(dtype)]).to_string();
        assert_eq!(wrapped("add(x0,1)", DType::I32), "i32(add(x0,1))");
        assert_eq!(wrapped("max(x0,0)", DType::I32), "max(x0,0)");
        assert_eq!(wrapped("bitnot(x0)", DType::U8), "u8(bitnot(x0))");
        assert_eq!(wrapped("add(x0,1)", DType::U64), "add(x0,1)");
        assert_eq!(wrapped("add(x0,1.0)", DType::F32), "add(x0,1.0)");
    }

    proptest! {
        /// Whatever two operands are, the value is within the bounds found from bounds around them.
        #[test]
        fn values_lie_within_their_bounds(
            a in special(),
            b in special(),
            around in prop::array::uniform4(special()),
            function in 0..Binary::ALL.len(),
        ) {
            let function = Binary::ALL[function];
            let bound = |v: i64, p: i64, q: i64| int(v.min(p).min(q), v.max(p).max(q));
            let args = [bound(a, around[0], around[1]), bound(b, around[2], around[3])];
            let expr = Expr::binary(function, Expr::Arg(0), Expr::Arg(1));
            if expr.class(&[Class::Int; 2]) == Ok(Class::Int) {
                for expr in [expr.clone(), Expr::unary(Unary::Abs, expr.clone()), Expr::unary(Unary::I16, expr)] {
                    let bounds = expr.bounds(&args);
                    let Scalar::Int(value) = scalar::<f32>(&expr, &[Scalar::Int(a), Scalar::Int(b)]) else { panic!("{expr}") };
                    prop_assert!(bounds.low <= value && value <= bounds.high, "{expr} of {a} and {b} is {value}, not {bounds:?}");
                }
            }
        }
    }

    fn special() -> impl Strategy<Value = i64> {
        let near = |v: i64| (-2i64..3).prop_map(move |d| v.wrapping_add(d)).boxed();
        prop_oneof![
            near(0),
            near(63),
            near(i64::from(i32::MAX)),
            near(i64::from(i32::MIN)),
            near(i64::MAX),
            near(i64::MIN),
            -300i64..300,
            any::<i64>(),
            any::<i32>().prop_map(i64::from),
        ]
    }
}
