//! Scalar expressions: what a pointwise kernel, or the epilogue of any other, computes for one element.

use super::Class;
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
    /// Functions of one operand. `f`, `i` and `b` convert to float, integer (towards zero) and truth value; `f16`, `bf16` and `f32` round a float
    /// to that type, as ONNX's Cast does: to nearest even, what is too large to infinity.
    Unary {
        Neg = "neg", Abs = "abs", Sign = "sign", Floor = "floor", Ceil = "ceil", Round = "round", Exp = "exp", Log = "log",
        Sqrt = "sqrt", Rsqrt = "rsqrt", Recip = "recip", Sin = "sin", Cos = "cos", Tan = "tan", Asin = "asin", Acos = "acos",
        Atan = "atan", Sinh = "sinh", Cosh = "cosh", Tanh = "tanh", Asinh = "asinh", Acosh = "acosh", Atanh = "atanh", Erf = "erf",
        Sigmoid = "sigmoid", Softplus = "softplus", Relu = "relu", Not = "not", BitNot = "bitnot", IsNan = "isnan", IsInf = "isinf",
        ToFloat = "f", ToInt = "i", ToBool = "b",
        RoundF16 = "f16", RoundBf16 = "bf16", RoundF32 = "f32",
    }
}

functions! {
    /// Functions of two operands. `mod` takes the sign of its divisor, `fmod` that of its dividend.
    Binary {
        Add = "add", Sub = "sub", Mul = "mul", Div = "div", Min = "min", Max = "max", Pow = "pow", Mod = "mod", Fmod = "fmod",
        Eq = "eq", Lt = "lt", Le = "le", Gt = "gt", Ge = "ge", And = "and", Or = "or", Xor = "xor",
        BitAnd = "bitand", BitOr = "bitor", BitXor = "bitxor", Shl = "shl", Shr = "shr",
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
        let sub = |e: &Arc<Expr>| Arc::new(e.substitute(with));
        match self {
            Expr::Arg(i) => with(*i),
            Expr::Float(_) | Expr::Int(_) => self.clone(),
            Expr::Unary(function, a) => Expr::Unary(*function, sub(a)),
            Expr::Binary(function, a, b) => Expr::Binary(*function, sub(a), sub(b)),
            Expr::Select(c, a, b) => Expr::Select(sub(c), sub(a), sub(b)),
        }
    }

    /// The expression with each float literal as an operand, and which operand each is, by its bits and numbered from `first`: expressions that differ
    /// only in them become one. Exponents of 2, 3 and 0.5 stay, since what is computed depends on them.
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
                    (Unary::ToFloat, _) => Ok(Class::Float),
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
                    (Eq, _) | (And | Or | Xor, Class::Bool) | (Lt | Le | Gt | Ge, Class::Float | Class::Int) => {
                        Ok(Class::Bool)
                    }
                    (Add | Sub | Mul | Div | Min | Max | Pow | Mod | Fmod, Class::Float | Class::Int) => Ok(left),
                    (BitAnd | BitOr | BitXor | Shl | Shr, Class::Int) => Ok(left),
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
