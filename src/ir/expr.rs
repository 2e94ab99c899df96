//! Scalar expressions: what a pointwise kernel, or the epilogue of any other, computes for one element.
//!
//! Integers are 64-bit words in two's complement, and arithmetic on them wraps modulo 2^64. A value of u64 is the word
//! with its bits, for which the functions with `u` before their name exist ([`Expr::unsigned`]). Narrower integers are
//! values of these words; whatever may leave their range is brought back by a wrapping function ([`Expr::wrapped`]).
//! Code generation computes in 32 bits wherever the results are the same ([`Bounds`]).

mod bounds;
pub mod build;
mod derivative;
mod steps;

pub use bounds::{Bounds, Operand};

use super::{Class, DType};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// An expression over the operands `x0`, `x1`, ... In an epilogue `x0` is the result of the kernel itself.
#[derive(Clone, Debug, PartialEq)]
pub enum Expr {
    /// Operand number.
    Arg(usize),
    /// A float literal.
    Float(f32),
    /// An integer literal.
    Int(i64),
    /// A function of one expression.
    Unary(Unary, Arc<Expr>),
    /// A function of two expressions of one class, but for comparisons, shifts and logic.
    Binary(Binary, Arc<Expr>, Arc<Expr>),
    /// The second where the first is true, the third where it is false.
    Select(Arc<Expr>, Arc<Expr>, Arc<Expr>),
}

macro_rules! functions {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs, reason = "each variant is the function of that name")]
        pub enum $name { $($variant),* }
        impl $name {
            /// Every function.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];
            /// Its name in the text form.
            pub fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }
            fn parse(text: &str) -> Option<$name> {
                match text { $($text => Some($name::$variant),)* _ => None }
            }
        }
    };
}

functions! {
    /// Functions of one operand. `f`, `i` and `b` convert to float, integer (towards zero, clamped to 32 bits, NaN to
    /// 0) and truth value; `i64` and `u64` convert a float to a 64-bit integer in the same way (`u64` wraps a negative
    /// one), `uf` the bits of a u64 to a float. The name of a narrower integer type wraps to it: `u8(x0)` is x0 modulo
    /// 256. `f16`, `bf16` and `f32` round a float to that type, as ONNX's Cast does: to nearest even, what is too large
    /// to infinity. `sf16` rounds a float as storing it as f16 does: what is too large, but finite, to the largest.
    Unary {
        Neg = "neg", Abs = "abs", Sign = "sign", Floor = "floor", Ceil = "ceil", Round = "round", Exp = "exp", Log = "log",
        Sqrt = "sqrt", Rsqrt = "rsqrt", Recip = "recip", Sin = "sin", Cos = "cos", Tan = "tan", Asin = "asin", Acos = "acos",
        Atan = "atan", Sinh = "sinh", Cosh = "cosh", Tanh = "tanh", Asinh = "asinh", Acosh = "acosh", Atanh = "atanh", Erf = "erf",
        Sigmoid = "sigmoid", Softplus = "softplus", Relu = "relu", Not = "not", BitNot = "bitnot", IsNan = "isnan", IsInf = "isinf",
        ToFloat = "f", ToInt = "i", ToBool = "b", ToI64 = "i64", ToU64 = "u64", UnsignedToFloat = "uf",
        I2 = "i2", U2 = "u2", I4 = "i4", U4 = "u4", I8 = "i8", U8 = "u8", I16 = "i16", U16 = "u16", I32 = "i32", U32 = "u32",
        RoundF16 = "f16", RoundBf16 = "bf16", RoundF32 = "f32", StoreF16 = "sf16",
    }
}

functions! {
    /// Functions of two operands. `mod` takes the sign of its divisor, `fmod` that of its dividend. A quotient by the
    /// integer 0 is 0, and so is its rest. The last line is for the bits of u64; `ushr` fills with zeros.
    Binary {
        Add = "add", Sub = "sub", Mul = "mul", Div = "div", Min = "min", Max = "max", Pow = "pow", Mod = "mod", Fmod = "fmod",
        Eq = "eq", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge", And = "and", Or = "or", Xor = "xor",
        BitAnd = "bitand", BitOr = "bitor", BitXor = "bitxor", Shl = "shl", Shr = "shr",
        UDiv = "udiv", UMod = "umod", UMin = "umin", UMax = "umax", ULt = "ult", ULe = "ule", UGt = "ugt", UGe = "uge", UShr = "ushr",
    }
}

impl Unary {
    /// The function that wraps to an integer type; `None` for 64 bits, to which all arithmetic wraps, and for other
    /// types.
    pub fn wrap(dtype: DType) -> Option<Unary> {
        Some(match dtype {
            DType::I2 => Unary::I2,
            DType::U2 => Unary::U2,
            DType::I4 => Unary::I4,
            DType::U4 => Unary::U4,
            DType::I8 => Unary::I8,
            DType::U8 => Unary::U8,
            DType::I16 => Unary::I16,
            DType::U16 => Unary::U16,
            DType::I32 => Unary::I32,
            DType::U32 => Unary::U32,
            _ => return None,
        })
    }

    /// Bits and signedness of the type that this function wraps to.
    pub fn wraps_to(self) -> Option<(u32, bool)> {
        Some(match self {
            Unary::I2 => (2, true),
            Unary::U2 => (2, false),
            Unary::I4 => (4, true),
            Unary::U4 => (4, false),
            Unary::I8 => (8, true),
            Unary::U8 => (8, false),
            Unary::I16 => (16, true),
            Unary::U16 => (16, false),
            Unary::I32 => (32, true),
            Unary::U32 => (32, false),
            _ => return None,
        })
    }
}

impl Binary {
    /// The function of u64 that this function of signed integers is; itself where their bits are the same.
    fn unsigned(self) -> Binary {
        match self {
            Binary::Div => Binary::UDiv,
            Binary::Mod | Binary::Fmod => Binary::UMod,
            Binary::Min => Binary::UMin,
            Binary::Max => Binary::UMax,
            Binary::Lt => Binary::ULt,
            Binary::Le => Binary::ULe,
            Binary::Gt => Binary::UGt,
            Binary::Ge => Binary::UGe,
            Binary::Shr => Binary::UShr,
            other => other,
        }
    }
}

/// Why a text is no expression, or an expression has no type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expression: {0}")]
pub struct ExprError(pub String);

/// Deepest nesting accepted: text from strangers must not overflow the stack.
const MAX_DEPTH: usize = 256;

impl Expr {
    /// `function(operand)`.
    pub fn unary(function: Unary, operand: Expr) -> Expr {
        Expr::Unary(function, Arc::new(operand))
    }

    /// `function(left, right)`.
    pub fn binary(function: Binary, left: Expr, right: Expr) -> Expr {
        Expr::Binary(function, Arc::new(left), Arc::new(right))
    }

    /// One more than the highest operand number used; 0 where none is.
    pub fn n_args(&self) -> usize {
        let mut n = 0;
        self.visit(&mut |e| {
            if let Expr::Arg(i) = e {
                n = n.max(i + 1);
            }
        });
        n
    }

    /// Whether it uses every one of its first `n` operands.
    pub fn uses_all(&self, n: usize) -> bool {
        let mut used = vec![false; n];
        self.visit(&mut |e| {
            if let Expr::Arg(i) = e
                && let Some(used) = used.get_mut(*i)
            {
                *used = true;
            }
        });
        used.into_iter().all(|used| used)
    }

    /// Calls `f` for this expression and every one inside it.
    pub fn visit(&self, f: &mut dyn FnMut(&Expr)) {
        f(self);
        match self {
            Expr::Arg(_) | Expr::Float(_) | Expr::Int(_) => {}
            Expr::Unary(_, a) => a.visit(f),
            Expr::Binary(_, a, b) => {
                a.visit(f);
                b.visit(f);
            }
            Expr::Select(c, a, b) => {
                c.visit(f);
                a.visit(f);
                b.visit(f);
            }
        }
    }

    /// Number of functions and operands: what limits fusion.
    pub fn size(&self) -> usize {
        let mut n = 0;
        self.visit(&mut |_| n += 1);
        n
    }

    /// The expression with each operand replaced by `with(number)`.
    pub fn substitute(&self, with: &dyn Fn(usize) -> Expr) -> Expr {
        self.substitute_by_use(&|i, _| with(i))
    }

    /// The expression with each float literal as an operand, and which operand each is, by its bits and numbered from
    /// `first`: expressions that differ only in them become one. Exponents of 2, 3 and 0.5 stay, since what is computed
    /// depends on them.
    pub fn lift_floats(&self, first: usize, numbers: &mut BTreeMap<u32, usize>) -> Expr {
        match self {
            Expr::Float(v) => {
                let next = first + numbers.len();
                Expr::Arg(*numbers.entry(v.to_bits()).or_insert(next))
            }
            Expr::Arg(_) | Expr::Int(_) => self.clone(),
            Expr::Unary(function, a) => Expr::unary(*function, a.lift_floats(first, numbers)),
            Expr::Binary(Binary::Pow, a, b) if b.is_short_power() => {
                Expr::Binary(Binary::Pow, Arc::new(a.lift_floats(first, numbers)), b.clone())
            }
            Expr::Binary(function, a, b) => {
                Expr::binary(*function, a.lift_floats(first, numbers), b.lift_floats(first, numbers))
            }
            Expr::Select(c, a, b) => {
                let mut lift = |e: &Arc<Expr>| Arc::new(e.lift_floats(first, numbers));
                Expr::Select(lift(c), lift(a), lift(b))
            }
        }
    }

    /// The expression with its functions of integers taken as functions of u64.
    pub fn unsigned(&self, args: &[Class]) -> Expr {
        let again = |e: &Arc<Expr>| Arc::new(e.unsigned(args));
        let is_int = |e: &Expr| e.class(args) == Ok(Class::Int);
        match self {
            Expr::Arg(_) | Expr::Float(_) | Expr::Int(_) => self.clone(),
            Expr::Unary(function, a) if is_int(a) => match function {
                Unary::ToFloat => Expr::Unary(Unary::UnsignedToFloat, again(a)),
                Unary::Abs | Unary::Relu => a.unsigned(args),
                Unary::Sign => Expr::binary(Binary::UMin, a.unsigned(args), Expr::Int(1)),
                other => Expr::Unary(*other, again(a)),
            },
            Expr::Unary(function, a) => Expr::Unary(*function, again(a)),
            Expr::Binary(function, a, b) if is_int(a) => Expr::Binary(function.unsigned(), again(a), again(b)),
            Expr::Binary(function, a, b) => Expr::Binary(*function, again(a), again(b)),
            Expr::Select(c, a, b) => Expr::Select(again(c), again(a), again(b)),
        }
    }

    /// The expression brought into the range of the integer type that its result is stored as, where it may leave it;
    /// itself for other types. What storing a value and reading it again does.
    pub fn wrapped(self, dtype: DType, args: &[Operand]) -> Expr {
        match Unary::wrap(dtype) {
            Some(wrap) if !Bounds::of(dtype).holds(self.bounds(args)) => Expr::unary(wrap, self),
            _ => self,
        }
    }

    /// An exponent for which a power is products or a root.
    pub fn is_short_power(&self) -> bool {
        matches!(self, Expr::Float(n) if *n == 2.0 || *n == 3.0 || *n == 0.5)
    }

    /// The class of the result, given those of the operands.
    ///
    /// # Errors
    /// An operand is missing, or a function is applied to a class it has no meaning for.
    pub fn class(&self, args: &[Class]) -> Result<Class, ExprError> {
        let refuse = |name: &str, got: Class| ExprError(format!("{name} of a {got:?} in {self}"));
        match self {
            Expr::Arg(i) => args.get(*i).copied().ok_or_else(|| ExprError(format!("x{i} of {} operands", args.len()))),
            Expr::Float(_) => Ok(Class::Float),
            Expr::Int(_) => Ok(Class::Int),
            Expr::Unary(function, a) => {
                let class = a.class(args)?;
                match (function, class) {
                    (_, Class::Text) => Err(refuse(function.name(), class)),
                    (Unary::ToFloat, _) | (Unary::UnsignedToFloat, Class::Int) => Ok(Class::Float),
                    (Unary::ToI64 | Unary::ToU64, Class::Float) => Ok(Class::Int),
                    (wrap, _) if wrap.wraps_to().is_some() => {
                        if class == Class::Int {
                            Ok(Class::Int)
                        } else {
                            Err(refuse(function.name(), class))
                        }
                    }
                    (Unary::ToInt, _) => Ok(Class::Int),
                    (Unary::ToBool, _) => Ok(Class::Bool),
                    (Unary::Not, Class::Bool) | (Unary::IsNan | Unary::IsInf, Class::Float) => Ok(Class::Bool),
                    (Unary::Neg | Unary::Abs | Unary::Sign | Unary::BitNot | Unary::Relu, Class::Int) => Ok(Class::Int),
                    (Unary::Not | Unary::IsNan | Unary::IsInf | Unary::BitNot, _) => {
                        Err(refuse(function.name(), class))
                    }
                    (_, Class::Float) => Ok(Class::Float),
                    _ => Err(refuse(function.name(), class)),
                }
            }
            Expr::Binary(function, a, b) => {
                let (left, right) = (a.class(args)?, b.class(args)?);
                if left != right || left == Class::Text {
                    return Err(ExprError(format!("{} of a {left:?} and a {right:?} in {self}", function.name())));
                }
                use Binary::*;
                match (function, left) {
                    (Eq, _)
                    | (And | Or | Xor, Class::Bool)
                    | (Lt | Le | Gt | Ge, Class::Float | Class::Int)
                    | (ULt | ULe | UGt | UGe, Class::Int) => Ok(Class::Bool),
                    (Add | Sub | Mul | Div | Min | Max | Pow | Mod | Fmod, Class::Float | Class::Int) => Ok(left),
                    (BitAnd | BitOr | BitXor | Shl | Shr | UDiv | UMod | UMin | UMax | UShr, Class::Int) => Ok(left),
                    _ => Err(refuse(function.name(), left)),
                }
            }
            Expr::Select(c, a, b) => {
                let (condition, left, right) = (c.class(args)?, a.class(args)?, b.class(args)?);
                if condition != Class::Bool || left != right {
                    return Err(ExprError(format!("select of a {condition:?}, a {left:?} and a {right:?} in {self}")));
                }
                Ok(left)
            }
        }
    }

    /// Reads the text form, which [`fmt::Display`] writes: `add(mul(x0,x1),0.5)`.
    ///
    /// # Errors
    /// The text is none, with what was expected where.
    pub fn parse(text: &str) -> Result<Expr, ExprError> {
        let mut parser = Parser { text, at: 0 };
        let expr = parser.expr(0)?;
        parser.blank();
        if parser.at != text.len() { Err(parser.refuse("the end")) } else { Ok(expr) }
    }
}

impl fmt::Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expr::Arg(i) => write!(f, "x{i}"),
            Expr::Float(v) => write!(f, "{v:?}"),
            Expr::Int(v) => write!(f, "{v}"),
            Expr::Unary(function, a) => write!(f, "{}({a})", function.name()),
            Expr::Binary(function, a, b) => write!(f, "{}({a},{b})", function.name()),
            Expr::Select(c, a, b) => write!(f, "select({c},{a},{b})"),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn refuse(&self, expected: &str) -> ExprError {
        ExprError(format!("expected {expected} at byte {} of {:?}", self.at, self.text))
    }

    fn blank(&mut self) {
        self.at += self.text[self.at..].len() - self.text[self.at..].trim_start().len();
    }

    fn eat(&mut self, token: char) -> Result<(), ExprError> {
        self.blank();
        if !self.text[self.at..].starts_with(token) {
            return Err(self.refuse(&format!("{token:?}")));
        }
        self.at += token.len_utf8();
        Ok(())
    }

    fn word(&mut self) -> &str {
        self.blank();
        let rest = &self.text[self.at..];
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn expr(&mut self, depth: usize) -> Result<Expr, ExprError> {
        if depth > MAX_DEPTH {
            return Err(self.refuse(&format!("at most {MAX_DEPTH} nested functions")));
        }
        let start = self.at;
        let word = self.word().to_owned();
        if let Some(n) = word.strip_prefix('x').and_then(|n| n.parse::<u16>().ok()) {
            return Ok(Expr::Arg(usize::from(n)));
        }
        if let Ok(n) = word.parse::<i64>() {
            return Ok(Expr::Int(n));
        }
        if let Ok(v) = word.parse::<f32>() {
            return Ok(Expr::Float(v));
        }
        if let Some(function) = Unary::parse(&word) {
            self.eat('(')?;
            let a = self.expr(depth + 1)?;
            self.eat(')')?;
            return Ok(Expr::unary(function, a));
        }
        let function = Binary::parse(&word);
        if function.is_none() && word != "select" {
            self.at = start;
            return Err(self.refuse("a function, an operand or a number"));
        }
        self.eat('(')?;
        let a = self.expr(depth + 1)?;
        self.eat(',')?;
        let b = self.expr(depth + 1)?;
        let expr = match function {
            Some(function) => Expr::binary(function, a, b),
            None => {
                self.eat(',')?;
                Expr::Select(Arc::new(a), Arc::new(b), Arc::new(self.expr(depth + 1)?))
            }
        };
        self.eat(')')?;
        Ok(expr)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_reads_back() {
        for text in [
            "add(mul(x0,x1),0.5)",
            "select(lt(x0,0.0),mul(x0,0.01),x0)",
            "i(floor(x3))",
            "max(x0,-inf)",
            "1e-9",
            "sub(x0,-2)",
        ] {
            assert_eq!(Expr::parse(text).unwrap().to_string(), text);
        }
        for text in ["", "add(x0)", "foo(x0)", "add(x0,x1) x", "x0,"] {
            assert!(Expr::parse(text).is_err(), "{text}");
        }
        assert!(Expr::parse(&("neg(".repeat(1000) + "x0" + &")".repeat(1000))).is_err());
    }

    #[test]
    fn floats_are_lifted_once_each_and_short_powers_stay() {
        let mut numbers = BTreeMap::new();
        let expr = Expr::parse("add(mul(x0,0.5),pow(add(x1,0.5),2.0))").unwrap();
        assert_eq!(expr.lift_floats(2, &mut numbers).to_string(), "add(mul(x0,x2),pow(add(x1,x2),2.0))");
        let expr = Expr::parse("select(lt(x0,-0.0),pow(x0,2.5),add(0.0,f(3)))").unwrap();
        assert_eq!(expr.lift_floats(2, &mut numbers).to_string(), "select(lt(x0,x3),pow(x0,x4),add(x5,f(3)))");
        assert_eq!(numbers, [(0.5_f32, 2), (-0.0, 3), (2.5, 4), (0.0, 5)].map(|(v, at)| (v.to_bits(), at)).into());
    }

    #[test]
    fn classes_do_not_mix() {
        let add = Expr::parse("add(x0,x1)").unwrap();
        assert_eq!(add.class(&[Class::Int, Class::Int]), Ok(Class::Int));
        assert!(add.class(&[Class::Int, Class::Float]).is_err());
        assert!(add.class(&[Class::Int]).is_err());
    }
}
