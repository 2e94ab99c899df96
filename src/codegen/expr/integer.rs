//! Integers in expressions: in 32 bits where that gives the same, else as `LONG`.

use super::{Body, Form};
use crate::ir::{Binary, Bounds, Expr, Operand, Unary};

impl Body {
    fn bounds(&self, expr: &Expr) -> Bounds {
        let known: Vec<Operand> = self.operands.iter().map(|(known, _)| *known).collect();
        expr.bounds(&known)
    }

    /// The low 32 bits of an integer, as an `int`.
    pub(super) fn low(&mut self, expr: &Expr) -> String {
        self.integer(expr, true).0
    }

    /// All 64 bits of an integer.
    pub(super) fn wide(&mut self, expr: &Expr) -> String {
        match self.integer(expr, false) {
            (word, Form::Word) => self.statement(format!("w_of({word})"), Form::Wide).0,
            (wide, _) => wide,
        }
    }

    /// An integer: a word where only its low 32 bits matter (`low`) or it is known to have no more, else 64 bits.
    pub(super) fn integer(&mut self, expr: &Expr, low: bool) -> (String, Form) {
        let is_word = low || self.bounds(expr).is_word();
        match expr {
            Expr::Arg(i) => {
                let form = self.operands.get(*i).map_or(Form::Word, |(_, form)| *form);
                self.fitted(format!("x{i}"), form, is_word)
            }
            Expr::Int(v) if is_word => (word_literal(*v), Form::Word),
            Expr::Int(v) => {
                self.is_wide = true;
                (wide_literal(*v), Form::Wide)
            }
            Expr::Unary(function, a) => self.unary_to_int(*function, a, is_word),
            Expr::Binary(function, a, b) => self.binary_of_int(*function, a, b, is_word),
            Expr::Select(c, a, b) => {
                let (c, _) = self.part(c);
                if is_word {
                    let (a, b) = (self.low(a), self.low(b));
                    self.statement(format!("{c} ? {a} : {b}"), Form::Word)
                } else {
                    let (a, b) = (self.wide(a), self.wide(b));
                    self.statement(format!("{c} ? {a} : {b}"), Form::Wide)
                }
            }
            // A float where an integer is meant: `Expr::class` has refused it.
            Expr::Float(_) => ("0".to_owned(), Form::Word),
        }
    }

    /// What holds a computed integer, as a word where that is enough.
    fn fitted(&mut self, text: String, form: Form, is_word: bool) -> (String, Form) {
        if is_word && form == Form::Wide { self.statement(format!("w_low({text})"), Form::Word) } else { (text, form) }
    }

    fn unary_to_int(&mut self, function: Unary, a: &Expr, is_word: bool) -> (String, Form) {
        let of_int = self.is_int(a);
        match function {
            Unary::ToInt if of_int => return self.integer(a, is_word),
            Unary::ToInt => {
                let (a, form) = self.part(a);
                let text = if form == Form::Bool { format!("int({a})") } else { self.helper("nx_int", &a) };
                return self.statement(text, Form::Word);
            }
            Unary::ToI64 | Unary::ToU64 => {
                let (a, _) = self.part(a);
                let name = if function == Unary::ToI64 { "w_int64" } else { "w_uint64" };
                let (text, form) = self.statement(format!("{name}({a})"), Form::Wide);
                return self.fitted(text, form, is_word);
            }
            _ => {}
        }
        if let Some((bits, signed)) = function.wraps_to() {
            return self.wrapped(a, bits, signed, is_word);
        }
        // The low bits of these depend on no others, or on the sign, which a word that holds all of the operand has.
        let of_low = matches!(function, Unary::Neg | Unary::BitNot);
        if is_word && (of_low || self.bounds(a).is_word()) {
            let a = self.low(a);
            let text = match function {
                Unary::BitNot => format!("~{a}"),
                Unary::Abs => format!("abs({a})"),
                Unary::Sign => format!("sign({a})"),
                Unary::Relu => format!("max({a}, 0)"),
                _ => format!("-({a})"),
            };
            return self.statement(text, Form::Word);
        }
        let a = self.wide(a);
        let text = match function {
            Unary::BitNot => format!("w_not({a})"),
            Unary::Abs => format!("w_abs({a})"),
            Unary::Sign => format!("w_sign({a})"),
            Unary::Relu => format!("larger({a}, w_of(0))"),
            _ => format!("w_neg({a})"),
        };
        let (text, form) = self.statement(text, Form::Wide);
        self.fitted(text, form, is_word)
    }

    /// `a` modulo 2^bits.
    fn wrapped(&mut self, a: &Expr, bits: u32, signed: bool, is_word: bool) -> (String, Form) {
        let ty = match signed {
            true => Bounds { low: -(1 << (bits - 1)), high: (1 << (bits - 1)) - 1 },
            false => Bounds { low: 0, high: (1 << bits) - 1 },
        };
        if ty.holds(self.bounds(a)) {
            return self.integer(a, is_word);
        }
        let low = self.low(a);
        match (bits, signed) {
            (32, false) if !is_word => self.statement(format!("w_words(uvec2(uint({low}), 0u))"), Form::Wide),
            (32, _) => (low, Form::Word),
            (_, true) => self.statement(format!("bitfieldExtract({low}, 0, {bits})"), Form::Word),
            (_, false) => self.statement(format!("{low} & {}", (1u32 << bits) - 1), Form::Word),
        }
    }

    fn binary_of_int(&mut self, function: Binary, a: &Expr, b: &Expr, is_word: bool) -> (String, Form) {
        use Binary::*;
        let (left, right) = (self.bounds(a), self.bounds(b));
        let words = left.is_word() && right.is_word();
        let natural = left.low >= 0 && right.low >= 0;
        match function {
            // The low bits depend on no others.
            Add | Sub | Mul | BitAnd | BitOr | BitXor if is_word => {
                let (a, b) = (self.low(a), self.low(b));
                let sign = match function {
                    Add => "+",
                    Sub => "-",
                    Mul => "*",
                    BitAnd => "&",
                    BitOr => "|",
                    _ => "^",
                };
                self.statement(format!("{a} {sign} {b}"), Form::Word)
            }
            Shl | Shr | UShr => self.shift(function, a, b, is_word),
            Div | Mod | Fmod | Min | Max | Pow if is_word && words => self.of_words(function, a, b),
            UDiv | UMod | UMin | UMax if is_word && words && natural => self.of_words(function, a, b),
            _ => {
                let (a, b) = (self.wide(a), self.wide(b));
                let name = match function {
                    Add => "plus",
                    Sub => "minus",
                    Mul => "times",
                    BitAnd => "w_and",
                    BitOr => "w_or",
                    BitXor => "w_xor",
                    Div => "w_div",
                    Mod => "w_mod",
                    Fmod => "w_rem",
                    Min => "smaller",
                    Max => "larger",
                    UDiv => "w_udiv",
                    UMod => "w_umod",
                    UMin => "w_usmaller",
                    UMax => "w_ularger",
                    _ => "w_pow",
                };
                let (text, form) = self.statement(format!("{name}({a}, {b})"), Form::Wide);
                self.fitted(text, form, is_word)
            }
        }
    }

    /// A function whose operands are words, and whose low bits are asked for.
    fn of_words(&mut self, function: Binary, a: &Expr, b: &Expr) -> (String, Form) {
        use Binary::*;
        let both = format!("{}, {}", self.low(a), self.low(b));
        let text = match function {
            Div | UDiv => self.helper("nx_idiv", &both),
            Mod => self.helper("nx_imod", &both),
            Fmod | UMod => self.helper("nx_irem", &both),
            Pow => self.helper("nx_ipow", &both),
            Min | UMin => format!("min({both})"),
            _ => format!("max({both})"),
        };
        self.statement(text, Form::Word)
    }

    fn shift(&mut self, function: Binary, a: &Expr, by: &Expr, is_word: bool) -> (String, Form) {
        // A distance beyond a word stays one outside 0..=63.
        let distance = match self.integer(by, false) {
            (text, Form::Wide) => self.statement(format!("to_int({text})"), Form::Word).0,
            (text, _) => text,
        };
        let bounds = self.bounds(a);
        let of_word = function == Binary::Shl || (bounds.is_word() && (function == Binary::Shr || bounds.low >= 0));
        if is_word && of_word {
            let both = format!("{}, {distance}", self.low(a));
            let text = match function {
                Binary::Shl => self.helper("nx_shl", &both),
                Binary::Shr => self.helper("nx_shr", &both),
                _ => self.helper("nx_ushr", &both),
            };
            return self.statement(text, Form::Word);
        }
        let name = match function {
            Binary::Shl => "w_shl",
            Binary::Shr => "w_shr",
            _ => "w_ushr",
        };
        let a = self.wide(a);
        let (text, form) = self.statement(format!("{name}({a}, {distance})"), Form::Wide);
        self.fitted(text, form, is_word)
    }

    /// A float or a truth value of an integer.
    pub(super) fn unary_of_int(&mut self, function: Unary, a: &Expr) -> (String, Form) {
        let bounds = self.bounds(a);
        let of_word = bounds.is_word() && (function != Unary::UnsignedToFloat || bounds.low >= 0);
        let operand = if of_word { self.low(a) } else { self.wide(a) };
        match function {
            Unary::ToBool if of_word => self.statement(format!("{operand} != 0"), Form::Bool),
            Unary::ToBool => self.statement(format!("!w_eq({operand}, w_of(0))"), Form::Bool),
            _ if of_word => self.statement(format!("float({operand})"), Form::Float),
            Unary::UnsignedToFloat => self.statement(format!("w_ufloat({operand})"), Form::Float),
            _ => self.statement(format!("w_float({operand})"), Form::Float),
        }
    }

    /// Whether one integer is less than another, and the like.
    pub(super) fn comparison(&mut self, function: Binary, a: &Expr, b: &Expr) -> (String, Form) {
        use Binary::*;
        let (left, right) = (self.bounds(a), self.bounds(b));
        let is_unsigned = matches!(function, ULt | ULe | UGt | UGe);
        let of_words = left.is_word() && right.is_word() && (!is_unsigned || (left.low >= 0 && right.low >= 0));
        let text = if of_words {
            let (a, b) = (self.low(a), self.low(b));
            let sign = match function {
                Lt | ULt => "<",
                Le | ULe => "<=",
                Gt | UGt => ">",
                Ge | UGe => ">=",
                _ => "==",
            };
            format!("{a} {sign} {b}")
        } else {
            let (a, b) = (self.wide(a), self.wide(b));
            match function {
                Lt => format!("w_lt({a}, {b})"),
                Le => format!("!w_lt({b}, {a})"),
                Gt => format!("w_lt({b}, {a})"),
                Ge => format!("!w_lt({a}, {b})"),
                ULt => format!("w_ult({a}, {b})"),
                ULe => format!("!w_ult({b}, {a})"),
                UGt => format!("w_ult({b}, {a})"),
                UGe => format!("!w_ult({a}, {b})"),
                _ => format!("w_eq({a}, {b})"),
            }
        };
        self.statement(text, Form::Bool)
    }
}

/// The low 32 bits as a literal.
fn word_literal(v: i64) -> String {
    match v as i32 {
        i32::MIN => "int(0x80000000u)".to_owned(),
        v if v < 0 => format!("({v})"),
        v => v.to_string(),
    }
}

fn wide_literal(v: i64) -> String {
    let bits = v.cast_unsigned();
    format!("w_words(uvec2(0x{:x}u, 0x{:x}u))", bits & 0xffff_ffff, bits >> 32)
}
