//! Expressions as GLSL: one statement for each distinct part, and `put`, which applies the whole to an element and
//! stores it.
//!
//! Integers are 64-bit words. A part is computed in 32 bits where its bounds say that they hold it, or where only its
//! low bits matter; else as `LONG` (`include/wide.glsl`).

mod integer;

use super::{CodegenError, access, include};
use crate::ir::{Binary, Bounds, Class, DType, Expr, Operand, Unary};
use crate::kernels::key::{ArgKey, KernelKey, Run, Storage, Value};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The text that stores a result after its epilogue.
pub(super) struct Put {
    pub(super) text: String,
    /// Whether it has 64-bit integers.
    pub(super) is_wide: bool,
}

/// What holds a part of an expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Float,
    /// An integer of 32 bits: all of it, or the low bits where no others matter.
    Word,
    /// An integer of 64 bits.
    Wide,
    Bool,
}

impl Form {
    fn of(value: Value) -> Form {
        match value {
            Value::Float => Form::Float,
            Value::Int => Form::Word,
            Value::Wide => Form::Wide,
            Value::Bool => Form::Bool,
        }
    }
}

/// `void put(uint i, T v)`, which stores element `i` of the result after the epilogue; `void put(uint i)` in a
/// pointwise kernel. `V_OWN` is the type of `v`. Where the key has a width, also `puts` for that many elements from `i`
/// on, with an array `v`.
pub(super) fn put(key: &KernelKey) -> Result<Put, CodegenError> {
    let Some(expr) = &key.expr else {
        let mut text = "#define V_OWN T_y\nvoid put(uint i, T_y v) { st_y(i, v); }\n".to_owned();
        if key.width().is_some() {
            text += "void puts(uint i, T_y v[WIDTH]) { sts_y(i, v); }\n";
        }
        return Ok(Put { text, is_wide: false });
    };
    let mut body = Body::default();
    let mut text = String::new();
    // Types and names of the function's parameters.
    let mut parameters: Vec<String> = Vec::new();
    // Truth values are integers outside expressions.
    let outer = expr.own.map(|own| if own == Value::Bool { "int" } else { access::value_type(own) });
    if let (Some(own), Some(outer)) = (expr.own, outer) {
        let _ = writeln!(text, "#define V_OWN {outer}");
        parameters.push(format!("{} x0", access::value_type(own)));
        body.take(own, None);
    }
    let args: Vec<Arg<'_>> =
        expr.args.iter().enumerate().map(|(i, key)| Arg { name: format!("x{}", i + expr.first_arg()), key }).collect();
    for arg in &args {
        parameters.push(format!("{} {}", access::value_type(arg.key.value), arg.name));
        body.take(arg.key.value, Some(arg.key.storage));
    }
    for i in expr.numbers() {
        let _ = writeln!(body.statements, "    float x{i} = p.x{i};");
        body.take(Value::Float, None);
    }
    let fail = |source| CodegenError::Expr { kernel: key.name(), source };
    let parsed = Expr::parse(&expr.text).map_err(fail)?;
    let class = parsed.class(&body.classes()).map_err(fail)?;
    let value = match (class, key.result) {
        (Class::Bool, Storage::I32) => format!("{} ? 1 : 0", body.part(&parsed).0),
        (Class::Int, Storage::I32) => body.low(&parsed),
        // Of a u32 no more than the low bits are stored.
        (Class::Int, Storage::U32) => format!("w_of({})", body.low(&parsed)),
        (Class::Int, Storage::I64 | Storage::U64) => body.wide(&parsed),
        (Class::Float, Storage::F32 | Storage::F16) => body.part(&parsed).0,
        (class, result) => {
            let reason = format!("a {class:?} stored as {result}");
            return Err(CodegenError::Key { kernel: key.name(), reason });
        }
    };
    let own = outer.map_or("", |_| ", V_OWN v");
    let x0 = expr.own.map(|own| if own == Value::Bool { "v != 0" } else { "v" });
    let values = |one: &dyn Fn(&Arg<'_>) -> String| -> String {
        x0.map(str::to_owned).into_iter().chain(args.iter().map(one)).collect::<Vec<_>>().join(", ")
    };
    let _ = writeln!(text, "T_y value_y({}) {{\n{}    return {value};\n}}", parameters.join(", "), body.statements);
    let one = values(&|arg| arg.one(&format!("at_{}(i)", arg.name)));
    let _ = writeln!(text, "void put(uint i{own}) {{ st_y(i, value_y({one})); }}");
    if let Some(width) = key.width() {
        let loads: String = args.iter().map(Arg::loads).collect();
        // Written out, not a loop: optimizers leave a loop be that is in a branch of another one, and arrays then in
        // memory.
        let each = |e: u32| -> String {
            let x0 = x0.map(|x0| x0.replace('v', &format!("v[{e}]")));
            let values: Vec<String> = x0.into_iter().chain(args.iter().map(|arg| arg.of_vector(e))).collect();
            format!("    r[{e}] = value_y({});\n", values.join(", "))
        };
        let own = if own.is_empty() { String::new() } else { format!("{own}[WIDTH]") };
        let _ = writeln!(
            text,
            "void puts(uint i{own}) {{\n{loads}    T_y r[WIDTH];\n{}    sts_y(i, r);\n}}",
            (0..width).map(each).collect::<String>()
        );
    }
    Ok(Put { text: helpers(&body.helpers) + &text, is_wide: body.is_wide })
}

/// An operand of the expression.
struct Arg<'a> {
    name: String,
    key: &'a ArgKey,
}

impl Arg<'_> {
    fn test(&self) -> &'static str {
        if self.key.value == Value::Bool { " != 0" } else { "" }
    }

    /// Element `at`, as the expression takes it.
    fn one(&self, at: &str) -> String {
        format!("ld_{}({at}){}", self.name, self.test())
    }

    /// The statements of `puts` that read what goes with elements `i` on.
    fn loads(&self) -> String {
        let name = &self.name;
        match self.key.run {
            Run::Each => String::new(),
            Run::One => {
                format!("    {} {name} = {};\n", access::value_type(self.key.value), self.one(&format!("at_{name}(i)")))
            }
            Run::Vector => format!("    T_{name} {name}[WIDTH];\n    lds_{name}(at_{name}(i), {name});\n"),
        }
    }

    /// What goes with element `i + e`, after those statements.
    fn of_vector(&self, e: u32) -> String {
        match self.key.run {
            Run::Each => self.one(&format!("at_{}(i + {e}u)", self.name)),
            Run::One => self.name.clone(),
            Run::Vector => format!("{}[{e}]{}", self.name, self.test()),
        }
    }
}

/// The functions of `include/maths.glsl` and `include/expr.glsl` that are used. Each starts with a line `//: name needs
/// other ...`.
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

/// A function under construction.
#[derive(Default)]
struct Body {
    /// What is known of each operand, and what holds it.
    operands: Vec<(Operand, Form)>,
    /// Right-hand side of a statement to the variable that holds it: equal parts are computed once.
    seen: BTreeMap<String, String>,
    statements: String,
    helpers: BTreeSet<&'static str>,
    is_wide: bool,
}

impl Body {
    /// The next operand.
    fn take(&mut self, value: Value, storage: Option<Storage>) {
        let known = match value {
            Value::Float => Operand::Float,
            Value::Bool => Operand::Bool,
            Value::Int => Operand::Int(Bounds::WORD),
            Value::Wide if storage == Some(Storage::U32) => Operand::of(DType::U32),
            Value::Wide => Operand::Int(Bounds::FULL),
        };
        self.is_wide |= value == Value::Wide;
        self.operands.push((known, Form::of(value)));
    }

    fn classes(&self) -> Vec<Class> {
        let class = |(known, _): &(Operand, Form)| match known {
            Operand::Float => Class::Float,
            Operand::Bool => Class::Bool,
            Operand::Int(_) => Class::Int,
        };
        self.operands.iter().map(class).collect()
    }

    fn is_int(&self, expr: &Expr) -> bool {
        expr.class(&self.classes()) == Ok(Class::Int)
    }

    /// The variable or literal that holds `expr`, whose classes are known to fit.
    fn part(&mut self, expr: &Expr) -> (String, Form) {
        if self.is_int(expr) {
            return self.integer(expr, false);
        }
        match expr {
            Expr::Arg(i) => (format!("x{i}"), self.operands.get(*i).map_or(Form::Float, |(_, form)| *form)),
            Expr::Float(v) => (float(*v), Form::Float),
            Expr::Int(_) => self.integer(expr, false),
            Expr::Unary(function, a) if self.is_int(a) => self.unary_of_int(*function, a),
            Expr::Unary(function, a) => {
                let (a, form) = self.part(a);
                let (text, form) = self.unary(*function, &a, form);
                self.statement(text, form)
            }
            Expr::Binary(Binary::Pow, a, b) if b.is_short_power() => {
                let (a, form) = self.part(a);
                let text = match **b {
                    Expr::Float(2.0) => format!("{a} * {a}"),
                    Expr::Float(3.0) => format!("{a} * {a} * {a}"),
                    _ => self.helper("nx_root", &a),
                };
                self.statement(text, form)
            }
            Expr::Binary(function, a, b) if self.is_int(a) => self.comparison(*function, a, b),
            Expr::Binary(function, a, b) => {
                let ((a, form), (b, _)) = (self.part(a), self.part(b));
                let (text, form) = self.binary(*function, &a, &b, form);
                self.statement(text, form)
            }
            Expr::Select(c, a, b) => {
                let ((c, _), (a, form), (b, _)) = (self.part(c), self.part(a), self.part(b));
                self.statement(format!("{c} ? {a} : {b}"), form)
            }
        }
    }

    fn statement(&mut self, text: String, form: Form) -> (String, Form) {
        if let Some(name) = self.seen.get(&text) {
            return (name.clone(), form);
        }
        let name = format!("t{}", self.seen.len());
        // Precise, or compilers make 0 of 0 * x and 1 of x / x, whatever x is.
        let ty = match form {
            Form::Float => "precise float",
            Form::Word => "int",
            Form::Wide => "LONG",
            Form::Bool => "bool",
        };
        self.is_wide |= form == Form::Wide;
        let _ = writeln!(self.statements, "    {ty} {name} = {text};");
        self.seen.insert(text, name.clone());
        (name, form)
    }

    fn helper(&mut self, name: &'static str, args: &str) -> String {
        self.helpers.insert(name);
        format!("{name}({args})")
    }

    fn unary(&mut self, function: Unary, a: &str, form: Form) -> (String, Form) {
        use Unary::*;
        let text = match function {
            ToFloat if form == Form::Bool => return (format!("float({a})"), Form::Float),
            ToBool if form == Form::Float => return (format!("(floatBitsToUint({a}) << 1) != 0u"), Form::Bool),
            ToFloat | ToBool => a.to_owned(),
            Not => return (format!("!{a}"), Form::Bool),
            IsNan => return (format!("isnan({a})"), Form::Bool),
            IsInf => return (format!("isinf({a})"), Form::Bool),
            Neg => format!("-({a})"),
            Abs => format!("abs({a})"),
            Sign => self.helper("nx_sign", a),
            Relu => format!("larger({a}, 0.0)"),
            Floor => format!("floor({a})"),
            Ceil => format!("ceil({a})"),
            Round => format!("roundEven({a})"),
            Exp => self.helper("nx_exp", a),
            Log => self.helper("nx_log", a),
            Sqrt => self.helper("nx_sqrt", a),
            Rsqrt => self.helper("nx_rsqrt", a),
            Recip => self.helper("nx_div", &format!("1.0, {a}")),
            Sin => self.helper("nx_sin", a),
            Cos => self.helper("nx_cos", a),
            Tan => self.helper("nx_tan", a),
            Asin => self.helper("nx_asin", a),
            Acos => self.helper("nx_acos", a),
            Atan => self.helper("nx_atan", a),
            Sinh => self.helper("nx_sinh", a),
            Cosh => self.helper("nx_cosh", a),
            Tanh => self.helper("nx_tanh", a),
            Asinh => self.helper("nx_asinh", a),
            Acosh => self.helper("nx_acosh", a),
            Atanh => self.helper("nx_atanh", a),
            Erf => self.helper("nx_erf", a),
            Sigmoid => self.helper("nx_sigmoid", a),
            Softplus => self.helper("nx_softplus", a),
            RoundF16 => self.helper("nx_f16", a),
            StoreF16 => self.helper("nx_sf16", a),
            RoundBf16 => self.helper("nx_bf16", a),
            // Floats are f32 here.
            RoundF32 => a.to_owned(),
            // Functions whose operand or result is an integer: `integer.rs` has them.
            ToInt | ToI64 | ToU64 | UnsignedToFloat | BitNot | I2 | U2 | I4 | U4 | I8 | U8 | I16 | U16 | I32 | U32 => {
                a.to_owned()
            }
        };
        (text, form)
    }

    fn binary(&mut self, function: Binary, a: &str, b: &str, form: Form) -> (String, Form) {
        use Binary::*;
        let both = format!("{a}, {b}");
        let text = match function {
            Eq | Lt | Le | Gt | Ge => {
                let sign = match function {
                    Eq => "==",
                    Lt => "<",
                    Le => "<=",
                    Gt => ">",
                    _ => ">=",
                };
                let guard = if form == Form::Float { format!("ordered({both}) && ") } else { String::new() };
                return (format!("{guard}{a} {sign} {b}"), Form::Bool);
            }
            And => format!("{a} && {b}"),
            Or => format!("{a} || {b}"),
            Xor => format!("{a} != {b}"),
            Add => format!("{a} + {b}"),
            Sub => format!("{a} - {b}"),
            Mul => format!("{a} * {b}"),
            Div => self.helper("nx_div", &both),
            Min => format!("smaller({both})"),
            Max => format!("larger({both})"),
            Pow => self.helper("nx_pow", &both),
            Mod => self.helper("nx_mod", &both),
            Fmod => self.helper("nx_fmod", &both),
            // Functions of integers: `integer.rs` has them.
            BitAnd | BitOr | BitXor | Shl | Shr | UDiv | UMod | UMin | UMax | ULt | ULe | UGt | UGe | UShr => {
                a.to_owned()
            }
        };
        (text, form)
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
