//! Expressions as GLSL: one statement for each distinct part, and `put`, which applies the whole to an element and stores it.

use super::{CodegenError, access, include};
use crate::ir::{Binary, Class, Expr, Unary};
use crate::ops::kernel_key::{ExprKey, KernelKey, Storage, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// `void put(uint i, T v)`, which stores element `i` of the result after the epilogue; `void put(uint i)` in a pointwise kernel. `V_OWN` is
/// the type of `v`.
pub(super) fn put(key: &KernelKey) -> Result<String, CodegenError> {
    let Some(expr) = &key.expr else {
        return Ok("#define V_OWN T_y\nvoid put(uint i, T_y v) { st_y(i, v); }\n".to_owned());
    };
    let mut body =
        Body { classes: Vec::new(), seen: BTreeMap::new(), statements: String::new(), helpers: BTreeSet::new() };
    let mut text = String::new();
    match expr.own {
        Some(own) => {
            // Truth values lie as integers outside expressions.
            let (outer, x0) = if own == Value::Bool { ("int", "v != 0") } else { (access::value_type(own), "v") };
            let _ = writeln!(
                text,
                "#define V_OWN {outer}\nvoid put(uint i, {outer} v) {{\n    {} x0 = {x0};",
                access::value_type(own)
            );
            body.classes.push(class(own));
        }
        None => text += "void put(uint i) {\n",
    }
    for (i, arg) in expr.args.iter().enumerate() {
        let name = format!("x{}", i + expr.first_arg());
        let test = if arg.value == Value::Bool { " != 0" } else { "" };
        let _ = writeln!(text, "    {} {name} = ld_{name}(at_{name}(i)){test};", access::value_type(arg.value));
        body.classes.push(class(arg.value));
    }
    for i in expr.numbers() {
        let _ = writeln!(text, "    float x{i} = p.x{i};");
        body.classes.push(Class::Float);
    }
    let (value, result) = body.whole(expr).map_err(|source| CodegenError::Expr { kernel: key.name(), source })?;
    let value = match (result, key.result) {
        (Class::Bool, Storage::I32) => format!("{value} ? 1 : 0"),
        (Class::Int, Storage::I32) | (Class::Float, Storage::F32 | Storage::F16) => value,
        _ => {
            let reason = format!("a {result:?} stored as {}", key.result);
            return Err(CodegenError::Key { kernel: key.name(), reason });
        }
    };
    let _ = writeln!(text, "{}    st_y(i, {value});\n}}", body.statements);
    Ok(helpers(&body.helpers) + &text)
}

fn class(value: Value) -> Class {
    match value {
        Value::Float => Class::Float,
        Value::Int => Class::Int,
        Value::Bool => Class::Bool,
    }
}

/// The functions of `include/maths.glsl` and `include/expr.glsl` that are used. Each starts with a line `//: name needs other ...`.
fn helpers(used: &BTreeSet<&'static str>) -> String {
    let parts: Vec<(&str, Vec<&str>, &str)> = ["maths", "expr"]
        .into_iter()
        .filter_map(include)
        .flat_map(|source| source.split("//: ").skip(1))
        .filter_map(|part| {
            let (head, body) = part.split_once('\n')?;
            let mut words = head.split_whitespace();
            let name = words.next()?;
            Some((name, words.collect(), body.trim_end()))
        })
        .collect();
    let mut wanted: BTreeSet<&str> = used.iter().copied().collect();
    // A helper stands after those it needs, so one pass from the end finds them all.
    for (name, needs, _) in parts.iter().rev() {
        if wanted.contains(name) {
            wanted.extend(needs);
        }
    }
    parts.iter().filter(|(name, _, _)| wanted.contains(name)).map(|(_, _, body)| format!("{body}\n")).collect()
}

struct Body {
    classes: Vec<Class>,
    /// Right-hand side of a statement to the variable that holds it: equal parts are computed once.
    seen: BTreeMap<String, String>,
    statements: String,
    helpers: BTreeSet<&'static str>,
}

impl Body {
    fn whole(&mut self, key: &ExprKey) -> Result<(String, Class), crate::ir::ExprError> {
        let expr = Expr::parse(&key.text)?;
        expr.class(&self.classes)?;
        Ok(self.part(&expr))
    }

    /// The variable or literal that holds `expr`, whose classes are known to fit.
    fn part(&mut self, expr: &Expr) -> (String, Class) {
        match expr {
            Expr::Arg(i) => (format!("x{i}"), self.classes.get(*i).copied().unwrap_or(Class::Float)),
            Expr::Float(v) => (float(*v), Class::Float),
            Expr::Int(v) => (int(*v), Class::Int),
            Expr::Unary(function, a) => {
                let (a, class) = self.part(a);
                let (text, class) = self.unary(*function, &a, class);
                self.statement(text, class)
            }
            Expr::Binary(Binary::Pow, a, b) if b.is_short_power() => {
                let (a, class) = self.part(a);
                let text = match **b {
                    Expr::Float(2.0) => format!("{a} * {a}"),
                    Expr::Float(3.0) => format!("{a} * {a} * {a}"),
                    _ => self.helper("nx_root", &a),
                };
                self.statement(text, class)
            }
            Expr::Binary(function, a, b) => {
                let ((a, class), (b, _)) = (self.part(a), self.part(b));
                let (text, class) = self.binary(*function, &a, &b, class);
                self.statement(text, class)
            }
            Expr::Select(c, a, b) => {
                let ((c, _), (a, class), (b, _)) = (self.part(c), self.part(a), self.part(b));
                self.statement(format!("{c} ? {a} : {b}"), class)
            }
        }
    }

    fn statement(&mut self, text: String, class: Class) -> (String, Class) {
        if let Some(name) = self.seen.get(&text) {
            return (name.clone(), class);
        }
        let name = format!("t{}", self.seen.len());
        // Precise, or compilers make 0 of 0 * x and 1 of x / x, whatever x is.
        let ty = match class {
            Class::Float => "precise float",
            Class::Int | Class::Text => "int",
            Class::Bool => "bool",
        };
        let _ = writeln!(self.statements, "    {ty} {name} = {text};");
        self.seen.insert(text, name.clone());
        (name, class)
    }

    fn helper(&mut self, name: &'static str, args: &str) -> String {
        self.helpers.insert(name);
        format!("{name}({args})")
    }

    fn unary(&mut self, function: Unary, a: &str, class: Class) -> (String, Class) {
        use Unary::*;
        let text = match (function, class) {
            (ToFloat, Class::Float) | (ToInt, Class::Int) | (ToBool, Class::Bool) => a.to_owned(),
            (ToFloat, _) => return (format!("float({a})"), Class::Float),
            (ToInt, Class::Float) => return (self.helper("nx_int", a), Class::Int),
            (ToInt, _) => return (format!("int({a})"), Class::Int),
            (ToBool, Class::Float) => return (format!("(floatBitsToUint({a}) << 1) != 0u"), Class::Bool),
            (ToBool, _) => return (format!("{a} != 0"), Class::Bool),
            (Not, _) => return (format!("!{a}"), Class::Bool),
            (IsNan, _) => return (format!("isnan({a})"), Class::Bool),
            (IsInf, _) => return (format!("isinf({a})"), Class::Bool),
            (BitNot, _) => format!("~{a}"),
            (Neg, _) => format!("-({a})"),
            (Abs, _) => format!("abs({a})"),
            (Sign, Class::Int) => format!("sign({a})"),
            (Sign, _) => self.helper("nx_sign", a),
            (Relu, Class::Int) => format!("larger({a}, 0)"),
            (Relu, _) => format!("larger({a}, 0.0)"),
            (Floor, _) => format!("floor({a})"),
            (Ceil, _) => format!("ceil({a})"),
            (Round, _) => format!("roundEven({a})"),
            (Exp, _) => self.helper("nx_exp", a),
            (Log, _) => self.helper("nx_log", a),
            (Sqrt, _) => self.helper("nx_sqrt", a),
            (Rsqrt, _) => self.helper("nx_rsqrt", a),
            (Recip, _) => self.helper("nx_div", &format!("1.0, {a}")),
            (Sin, _) => self.helper("nx_sin", a),
            (Cos, _) => self.helper("nx_cos", a),
            (Tan, _) => self.helper("nx_tan", a),
            (Asin, _) => self.helper("nx_asin", a),
            (Acos, _) => self.helper("nx_acos", a),
            (Atan, _) => self.helper("nx_atan", a),
            (Sinh, _) => self.helper("nx_sinh", a),
            (Cosh, _) => self.helper("nx_cosh", a),
            (Tanh, _) => self.helper("nx_tanh", a),
            (Asinh, _) => self.helper("nx_asinh", a),
            (Acosh, _) => self.helper("nx_acosh", a),
            (Atanh, _) => self.helper("nx_atanh", a),
            (Erf, _) => self.helper("nx_erf", a),
            (Sigmoid, _) => self.helper("nx_sigmoid", a),
            (Softplus, _) => self.helper("nx_softplus", a),
        };
        (text, class)
    }

    fn binary(&mut self, function: Binary, a: &str, b: &str, class: Class) -> (String, Class) {
        use Binary::*;
        let both = format!("{a}, {b}");
        let is_int = class == Class::Int;
        let text = match function {
            Eq | Lt | Le | Gt | Ge => {
                let sign = match function {
                    Eq => "==",
                    Lt => "<",
                    Le => "<=",
                    Gt => ">",
                    _ => ">=",
                };
                let guard = if class == Class::Float { format!("ordered({both}) && ") } else { String::new() };
                return (format!("{guard}{a} {sign} {b}"), Class::Bool);
            }
            And => format!("{a} && {b}"),
            Or => format!("{a} || {b}"),
            Xor => format!("{a} != {b}"),
            Add => format!("{a} + {b}"),
            Sub => format!("{a} - {b}"),
            Mul => format!("{a} * {b}"),
            Div if is_int => self.helper("nx_idiv", &both),
            Div => self.helper("nx_div", &both),
            Min => format!("smaller({both})"),
            Max => format!("larger({both})"),
            Pow if is_int => self.helper("nx_ipow", &both),
            Pow => self.helper("nx_pow", &both),
            Mod if is_int => self.helper("nx_imod", &both),
            Mod => self.helper("nx_mod", &both),
            Fmod if is_int => self.helper("nx_irem", &both),
            Fmod => self.helper("nx_fmod", &both),
            BitAnd => format!("{a} & {b}"),
            BitOr => format!("{a} | {b}"),
            BitXor => format!("{a} ^ {b}"),
            Shl => self.helper("nx_shl", &both),
            Shr => self.helper("nx_shr", &both),
        };
        (text, class)
    }
}

fn float(v: f32) -> String {
    if v.is_finite() {
        let text = format!("{v:?}");
        if v.is_sign_negative() { format!("({text})") } else { text }
    } else {
        format!("uintBitsToFloat(0x{:08x}u)", v.to_bits())
    }
}

/// An integer literal. Integers are i32 on a device: others wrap.
#[expect(clippy::cast_possible_truncation, reason = "wrapping is what is meant")]
fn int(v: i64) -> String {
    match v as i32 {
        i32::MIN => "int(0x80000000u)".to_owned(),
        v if v < 0 => format!("({v})"),
        v => v.to_string(),
    }
}
