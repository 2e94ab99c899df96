//! The elementwise operators of ONNX: one table of rules that give each its expression. All become `pointwise`.

use crate::ir::{
    Attrs, Class, DType, Expand, Expr, Infer, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Val, attr, minifloat,
};
use crate::ops::core::pointwise::typed;
use crate::ops::util::{between, broadcast, class_of, dtype_attr};

/// What a rule sees of one use.
pub struct Case<'a> {
    attrs: &'a Attrs,
    types: Vec<Option<TensorType>>,
    consts: Vec<Option<&'a Tensor>>,
}

/// The text of the expression, in which `x0` and so on are operand slots, and the type of the result.
type Recipe = Result<(String, DType), OpError>;

impl Case<'_> {
    fn ty(&self, slot: usize) -> Result<&TensorType, OpError> {
        self.types.get(slot).and_then(Option::as_ref).ok_or(OpError::MissingOperand { slot })
    }

    /// The element type of operand 0, which most results have.
    fn dtype(&self) -> Result<DType, OpError> {
        Ok(self.ty(0)?.dtype)
    }

    fn has(&self, slot: usize) -> bool {
        self.ty(slot).is_ok()
    }

    fn float(&self, name: &str, default: f32) -> f32 {
        self.attrs.float(name).unwrap_or(default)
    }

    /// The value of operand `slot`, where it is a constant with one element that is an f32.
    fn scalar(&self, slot: usize) -> Option<f32> {
        let tensor = self.consts.get(slot).copied().flatten().filter(|t| t.ty().shape.n_elems() == Some(1))?;
        let value = tensor.to_f64s().ok()?.first().copied()?;
        (f64::from(value as f32) == value).then_some(value as f32)
    }

    fn same(&self, text: impl Into<String>) -> Recipe {
        Ok((text.into(), self.dtype()?))
    }
}

/// Operands that one kernel folds. A Sum of thousands is a chain of kernels, from left to right as one would be.
const FOLD: usize = 8;

fn infer_by(infer: &Infer<'_>, rule: fn(&Case<'_>) -> Recipe) -> Result<Vec<TensorType>, OpError> {
    let types: Vec<_> = infer.inputs.iter().map(|t| t.cloned()).collect();
    let present: Vec<&TensorType> = types.iter().flatten().collect();
    let classes: Vec<Class> = types.iter().map(|t| t.as_ref().map_or(Class::Text, class_of)).collect();
    let shape = broadcast(&present.iter().map(|t| &t.shape).collect::<Vec<_>>())?;
    let (text, dtype) = rule(&Case { attrs: infer.attrs, types: types.clone(), consts: infer.consts.to_vec() })?;
    let class = Expr::parse(&text)?.class(&classes)?;
    if class != dtype.class() {
        return Err(OpError::unsupported(format!("a {class:?} as {dtype}")));
    }
    Ok(vec![TensorType::new(dtype, shape)])
}

/// The result of operators of any number of operands, of which all have one type.
fn infer_fold(infer: &Infer<'_>, rule: fn(&Case<'_>) -> Recipe) -> Result<Vec<TensorType>, OpError> {
    if infer.inputs.len() <= FOLD {
        return infer_by(infer, rule);
    }
    let first = infer.ty(0)?;
    let mut shapes = Vec::with_capacity(infer.inputs.len());
    for slot in 0..infer.inputs.len() {
        let ty = infer.ty(slot)?;
        if class_of(ty) != class_of(first) {
            return Err(OpError::operand(slot, ty, "the type of operand 0"));
        }
        shapes.push(&ty.shape);
    }
    let few = infer_by(&Infer { inputs: &infer.inputs[..FOLD], consts: &infer.consts[..FOLD], ..*infer }, rule)?;
    Ok(vec![TensorType::new(few.first().map_or(first.dtype, |ty| ty.dtype), broadcast(&shapes)?)])
}

/// `function` of all operands from left to right, divided by their number for a mean.
fn expand_fold(
    e: &mut Expand<'_, '_>,
    rule: fn(&Case<'_>) -> Recipe,
    function: &str,
    is_mean: bool,
) -> Result<Vec<Val>, OpError> {
    let n = e.inputs.len();
    if n <= FOLD {
        return expand_by(e, rule);
    }
    let dtype = e.outputs[0].dtype;
    // One kernel would round once, at its end.
    let between = if dtype.is_float() { between(dtype) } else { dtype };
    let mut result = e.input(0)?;
    for first in (1..n).step_by(FOLD - 1) {
        let slots = first..n.min(first + FOLD - 1);
        let mut text = (1..=slots.len()).fold("x0".to_owned(), |text, slot| format!("{function}({text},x{slot})"));
        let is_last = slots.end == n;
        if is_last && is_mean {
            text = format!("div({text},{:?})", n as f32);
        }
        let operands = slots.map(|slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
        result = crate::ops::core::pointwise::add(
            e,
            &text,
            if is_last { dtype } else { between },
            &[&[result], operands.as_slice()].concat(),
        )?;
    }
    Ok(vec![result])
}

/// Dropout while training: each element goes with the probability `ratio`, the others grow by as much.
fn expand_dropout(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let training = e.ints(2)?.is_some_and(|t| t.first().is_some_and(|&t| t != 0));
    if !training {
        return expand_by(e, dropout);
    }
    let x = e.input(0)?;
    let ty = e.ty(x);
    let (ratio, ratio_text) = match e.optional(1) {
        Some(ratio) => (crate::ops::core::reshape::to(e, ratio, Vec::new())?, "x1"),
        None => (x, "0.5"),
    };
    let random = crate::ops::onnx::random::numbers(
        e,
        "uniform",
        [0.0, 1.0],
        DType::F32,
        &ty.shape.0,
        e.attrs.int("seed").map(|s| s as f32),
    )?;
    let random = crate::ops::core::reshape::to(e, random, ty.shape.0)?;
    let keeps = crate::ops::core::pointwise::add(e, &format!("ge(x0,{ratio_text})"), DType::Bool, &[random, ratio])?;
    let text = format!("select(x0,div(x2,sub(1.0,{ratio_text})),0.0)");
    Ok(vec![crate::ops::core::pointwise::add(e, &text, ty.dtype, &[keeps, ratio, x])?, keeps])
}

fn infer_dropout(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    if infer.inputs.get(2).copied().flatten().is_some() && infer.constant(2).is_none() {
        return Err(OpError::NotConstant { slot: 2 });
    }
    let x = infer.ty(0)?;
    if !x.dtype.is_float() || x.packing.is_some() {
        return Err(OpError::operand(0, x, "floats"));
    }
    Ok(vec![x.clone(), x.with_dtype(DType::Bool)])
}

fn expand_by(e: &mut Expand<'_, '_>, rule: fn(&Case<'_>) -> Recipe) -> Result<Vec<Val>, OpError> {
    let types: Vec<_> = e.inputs.iter().map(|v| v.map(|v| e.ty(v))).collect();
    let consts: Vec<_> = e.inputs.iter().map(|v| v.and_then(|v| e.edit.constant(v)).cloned()).collect();
    let (text, dtype) =
        rule(&Case { attrs: e.attrs, types: types.clone(), consts: consts.iter().map(Option::as_ref).collect() })?;
    let expr = typed(Expr::parse(&text)?, &types);
    let wanted = e.outputs[0].shape.clone();
    let first = e.input(0)?;
    let mut results = Vec::new();
    if expr == Expr::Arg(0) && types[0].as_ref().is_some_and(|t| t.dtype == dtype && t.shape == wanted) {
        results.push(first);
    } else {
        let (expr, slots) = inline(&expr, &types, &consts, &wanted)?;
        let operands = slots.iter().map(|&slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
        results.push(e.add(
            &crate::ops::core::pointwise::DEF,
            crate::ops::core::pointwise::attrs(expr, dtype),
            &operands,
        )?);
    }
    if e.outputs.len() > 1 {
        results.push(crate::ops::core::pointwise::add(e, "or(eq(x0,x0),b(1))", DType::Bool, &[first])?);
    }
    Ok(results)
}

/// Writes constants of one element into the expression, drops operands that it does not use, and numbers the others
/// anew. An operand that alone gives the result its shape stays.
fn inline(
    expr: &Expr,
    types: &[Option<TensorType>],
    consts: &[Option<Tensor>],
    wanted: &Shape,
) -> Result<(Expr, Vec<usize>), OpError> {
    let literal = |slot: usize| -> Option<Expr> {
        let tensor = consts.get(slot)?.as_ref()?;
        if tensor.ty().shape.n_elems() != Some(1) || tensor.ty().packing.is_some() {
            return None;
        }
        match tensor.dtype().class() {
            // A number is f32; an f64 that is none stays an operand.
            Class::Float => {
                let value = tensor.to_f32s().ok()?.first().copied().filter(|v| v.is_finite())?;
                (tensor.to_f64s().ok()?.first() == Some(&f64::from(value))).then_some(Expr::Float(value))
            }
            Class::Int => tensor.to_i64s().ok()?.first().copied().map(Expr::Int),
            Class::Bool | Class::Text => None,
        }
    };
    let mut used = vec![false; types.len()];
    expr.visit(&mut |e| {
        if let Expr::Arg(slot) = e
            && let Some(used) = used.get_mut(*slot)
        {
            *used = true;
        }
    });
    let fits = |slots: &[usize]| {
        let shapes: Vec<&Shape> = slots.iter().filter_map(|&s| types[s].as_ref()).map(|t| &t.shape).collect();
        !slots.is_empty() && broadcast(&shapes).is_ok_and(|s| s == *wanted)
    };
    let present: Vec<usize> = (0..types.len()).filter(|&s| types[s].is_some()).collect();
    let read: Vec<usize> = present.iter().copied().filter(|&s| used[s]).collect();
    let variable: Vec<usize> = read.iter().copied().filter(|&s| literal(s).is_none()).collect();
    let slots =
        [variable, read, present].into_iter().find(|slots| fits(slots)).ok_or(OpError::MissingOperand { slot: 0 })?;
    let renumbered = expr.substitute(&|slot| match slots.iter().position(|&s| s == slot) {
        Some(at) => Expr::Arg(at),
        None => literal(slot).unwrap_or(Expr::Arg(slot)),
    });
    Ok((renumbered, slots))
}

fn prelu(c: &Case<'_>) -> Recipe {
    let zero = if c.dtype()?.is_float() { "0.0" } else { "0" };
    c.same(format!("select(lt(x0,{zero}),mul(x0,x1),x0)"))
}

fn pow(c: &Case<'_>) -> Recipe {
    // Powers that products and roots give exactly, also of negative numbers, for which a device's pow is undefined.
    let known = match c.scalar(1) {
        Some(1.0) => Some("x0"),
        Some(2.0) => Some("mul(x0,x0)"),
        Some(3.0) => Some("mul(mul(x0,x0),x0)"),
        // No square root of x0: a power of minus infinity is not NaN.
        Some(0.5) if c.dtype()?.is_float() => Some("pow(x0,0.5)"),
        Some(-0.5) if c.dtype()?.is_float() => Some("recip(pow(x0,0.5))"),
        Some(-1.0) if c.dtype()?.is_float() => Some("recip(x0)"),
        _ => None,
    };
    let text = known.unwrap_or(match (c.dtype()?.class(), c.ty(1)?.dtype.class()) {
        (Class::Float, Class::Int) => "pow(x0,f(x1))",
        (Class::Int, Class::Float) => return c.same(format!("{}(pow(f(x0),x1))", integer(c.dtype()?))),
        _ => "pow(x0,x1)",
    });
    c.same(text)
}

fn modulo(c: &Case<'_>) -> Recipe {
    let fmod = c.attrs.int("fmod").unwrap_or(0) != 0;
    if !fmod && c.dtype()?.is_float() {
        // The rest has the sign of the dividend; one of another sign moves up by the divisor, also an infinite one.
        let rest = "fmod(x0,x1)";
        return c
            .same(format!("select(and(not(eq({rest},0.0)),xor(lt({rest},0.0),lt(x1,0.0))),add({rest},x1),{rest})"));
    }
    c.same(if fmod { "fmod(x0,x1)" } else { "mod(x0,x1)" })
}

fn bit_shift(c: &Case<'_>) -> Recipe {
    match c.attrs.str("direction") {
        Some("LEFT") => c.same("shl(x0,x1)"),
        Some("RIGHT") => c.same("shr(x0,x1)"),
        other => Err(OpError::attribute("direction", format!("is {other:?}"))),
    }
}

fn clip(c: &Case<'_>) -> Recipe {
    let low = if c.has(1) { "max(x0,x1)" } else { "x0" };
    c.same(if c.has(2) { format!("min({low},x2)") } else { low.to_owned() })
}

/// `function` of operands from left to right, divided by their number for a mean.
fn fold(c: &Case<'_>, function: &str, is_mean: bool) -> Recipe {
    let mut text = (1..c.types.len()).fold("x0".to_owned(), |text, slot| format!("{function}({text},x{slot})"));
    if is_mean && c.types.len() > 1 {
        text = format!("div({text},{:?})", c.types.len() as f32);
    }
    c.same(text)
}

fn is_inf(c: &Case<'_>) -> Recipe {
    let flag = |name| c.attrs.int(name).unwrap_or(1) != 0;
    let text = match (flag("detect_negative"), flag("detect_positive")) {
        (true, true) => "isinf(x0)",
        (true, false) => "and(isinf(x0),lt(x0,0.0))",
        (false, true) => "and(isinf(x0),gt(x0,0.0))",
        (false, false) => "and(isinf(x0),isnan(x0))",
    };
    Ok((text.to_owned(), DType::Bool))
}

fn gelu(c: &Case<'_>) -> Recipe {
    match c.attrs.str("approximate").unwrap_or("none") {
        // Numbers of expressions are f32: in f64 others are computed from exact ones.
        "none" if c.dtype()? == DType::F64 => c.same("mul(mul(x0,0.5),add(erf(div(x0,sqrt(2.0))),1.0))"),
        "tanh" if c.dtype()? == DType::F64 => c.same(
            "mul(mul(x0,0.5),add(tanh(mul(sqrt(div(0.5,atan(1.0))),add(x0,mul(div(44715.0,1000000.0),mul(x0,mul(x0,x0)))))),1.0))",
        ),
        "none" => c.same("mul(mul(x0,0.5),add(erf(mul(x0,0.70710677)),1.0))"),
        "tanh" => c.same("mul(mul(x0,0.5),add(tanh(mul(0.7978846,add(x0,mul(0.044715,mul(x0,mul(x0,x0)))))),1.0))"),
        other => Err(OpError::attribute("approximate", format!("is {other:?}"))),
    }
}

fn hard_swish(c: &Case<'_>) -> Recipe {
    let sixth = if c.dtype()? == DType::F64 { "div(x0,6.0)" } else { "mul(x0,0.16666667)" };
    c.same(format!("mul(x0,max(min(add({sixth},0.5),1.0),0.0))"))
}

fn elu(c: &Case<'_>) -> Recipe {
    let alpha = c.float("alpha", 1.0);
    c.same(format!("select(lt(x0,0.0),mul({alpha:?},sub(exp(x0),1.0)),x0)"))
}

fn celu(c: &Case<'_>) -> Recipe {
    let alpha = c.float("alpha", 1.0);
    c.same(format!("select(lt(x0,0.0),mul({alpha:?},sub(exp(div(x0,{alpha:?})),1.0)),x0)"))
}

fn selu(c: &Case<'_>) -> Recipe {
    let (alpha, gamma) = (c.float("alpha", 1.673_263_2), c.float("gamma", 1.050_701));
    c.same(format!("mul({gamma:?},select(gt(x0,0.0),x0,mul({alpha:?},sub(exp(x0),1.0))))"))
}

fn leaky_relu(c: &Case<'_>) -> Recipe {
    c.same(format!("select(lt(x0,0.0),mul(x0,{:?}),x0)", c.float("alpha", 0.01)))
}

fn hard_sigmoid(c: &Case<'_>) -> Recipe {
    let (alpha, beta) = (c.float("alpha", 0.2), c.float("beta", 0.5));
    c.same(format!("max(min(add(mul(x0,{alpha:?}),{beta:?}),1.0),0.0)"))
}

fn swish(c: &Case<'_>) -> Recipe {
    match c.float("alpha", 1.0) {
        1.0 => c.same("mul(x0,sigmoid(x0))"),
        alpha => c.same(format!("mul(x0,sigmoid(mul(x0,{alpha:?})))")),
    }
}

fn swi_glu(c: &Case<'_>) -> Recipe {
    c.same(format!("mul(mul(x0,sigmoid(mul(x0,{:?}))),x1)", c.float("alpha", 1.0)))
}

fn thresholded_relu(c: &Case<'_>) -> Recipe {
    c.same(format!("select(gt(x0,{:?}),x0,0.0)", c.float("alpha", 1.0)))
}

fn shrink(c: &Case<'_>) -> Recipe {
    let (lambd, bias) = (c.float("lambd", 0.5), c.float("bias", 0.0));
    c.same(format!("select(lt(x0,{:?}),add(x0,{bias:?}),select(gt(x0,{lambd:?}),sub(x0,{bias:?}),0.0))", -lambd))
}

fn convert(c: &Case<'_>, to: DType) -> Recipe {
    if let Some(round) = c.attrs.str("round_mode").filter(|round| to == DType::F8E8M0 && *round != "up") {
        return Err(OpError::attribute("round_mode", format!("is {round:?}, \"up\" is supported")));
    }
    let (text, to) = converted(c, to)?;
    let Some(max) = minifloat::max(to).filter(|_| to != DType::F8E8M0) else { return Ok((text, to)) };
    if c.attrs.int("saturate").unwrap_or(1) == 0 && to != DType::F4E2M1 {
        // What rounds beyond the largest value: half a unit above it, ties to even.
        let limit = max
            * if matches!(to, DType::F8E5M2 | DType::F8E5M2Fnuz) {
                1.0 + 1.0 / 14.0
            } else if to == DType::F8E4M3 {
                1.0 + 1.0 / 28.0
            } else {
                1.0 + 1.0 / 30.0
            };
        let compare = if to == DType::F8E4M3 { "gt" } else { "ge" };
        return Ok((format!("select({compare}(abs({text}),{limit:?}),mul({text},inf),{text})"), to));
    }
    // Infinities saturate too.
    Ok((format!("select(isnan({text}),{text},min(max({text},{:?}),{max:?}))", -max), to))
}

fn converted(c: &Case<'_>, to: DType) -> Recipe {
    let from = c.dtype()?;
    let text = match to.class() {
        class if class == from.class() => "x0".to_owned(),
        Class::Float => "f(x0)".to_owned(),
        Class::Int if from.is_float() => format!("{}(x0)", integer(to)),
        Class::Int => "i(x0)".to_owned(),
        Class::Bool => "b(x0)".to_owned(),
        Class::Text => return Err(OpError::unsupported("a cast to text")),
    };
    Ok((rounded(&text, from, to), to))
}

/// `text`, which computes a `to` from a `from`, rounded to it: a conversion that the model asks for is part of what is
/// computed, whatever the result is stored as. So is one from f16 to f16: the type says how the operand is stored, and
/// a kernel that is fused with the one before reads what was not stored at all. `remove_identities` takes away what the
/// model's own types show to be nothing.
fn rounded(text: &str, from: DType, to: DType) -> String {
    // Bits of a significand. Integers of as many, and truth values, are exact.
    let (function, precision) = match to {
        DType::F16 => ("f16", 11),
        DType::BF16 => ("bf16", 8),
        DType::F32 => ("f32", 24),
        _ => return text.to_owned(),
    };
    let is_exact = match from.class() {
        Class::Float => (to == DType::F32 && from != DType::F64) || (from.is_minifloat() && from != DType::F8E8M0),
        // f32 is what integers become.
        _ => from == DType::Bool || from.bits() <= precision || to == DType::F32,
    };
    if is_exact { text.to_owned() } else { format!("{function}({text})") }
}

/// The function that converts a float to an integer of a type: to 64 bits where 32 signed ones do not hold its values.
fn integer(to: DType) -> &'static str {
    match to {
        DType::I64 | DType::U32 => "i64",
        DType::U64 => "u64",
        _ => "i",
    }
}

fn cast(c: &Case<'_>) -> Recipe {
    let to = dtype_attr(c.attrs, "to").ok_or_else(|| OpError::attribute("to", "is missing"))?;
    convert(c, to)
}

fn dropout(c: &Case<'_>) -> Recipe {
    c.same("x0")
}

/// A rule whose text is fixed and whose result has operand 0's type, or the type given.
macro_rules! rule {
    ($text:literal) => {
        |c: &Case<'_>| c.same($text)
    };
    ($text:literal, $dtype:ident) => {
        |_: &Case<'_>| Ok(($text.to_owned(), DType::$dtype))
    };
}

macro_rules! operators {
    ($($def:ident $name:literal $onnx:literal $opset:literal $arity:tt [$($attr:expr),*] $rule:expr;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ONNX ", $onnx, ", opset ", $opset, ".")]
            pub static $def: OpDef = OpDef {
                name: $name,
                onnx: $onnx,
                levels: ONNX,
                attrs: &[$($attr),*],
                arity: $arity,
                infer: &|infer| infer_by(infer, $rule),
                eval: None,
                expand: Some(&|e| expand_by(e, $rule)),
                weights: None,
                gradient: None,
            };
        )*
        /// Every operator of single elements whose rule is an expression.
        pub(crate) const TABLE: &[&OpDef] = &[$(&$def,)* &MAX, &MEAN, &MIN, &SUM];
    };
}

macro_rules! folds {
    ($($def:ident $name:literal $onnx:literal $opset:literal $function:literal $is_mean:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ONNX ", $onnx, ", opset ", $opset, ".")]
            pub static $def: OpDef = OpDef {
                name: $name,
                onnx: $onnx,
                levels: ONNX,
                attrs: &[],
                arity: (1, ANY),
                infer: &|infer| infer_fold(infer, |c| fold(c, $function, $is_mean)),
                eval: None,
                expand: Some(&|e| expand_fold(e, |c| fold(c, $function, $is_mean), $function, $is_mean)),
                weights: None,
                gradient: None,
            };
        )*
    };
}

folds! {
    MAX "max" "Max" 13 "max" false;
    MEAN "mean" "Mean" 13 "add" true;
    MIN "min" "Min" 13 "min" false;
    SUM "sum" "Sum" 13 "add" false;
}

/// `cast_like(x, like)`: ONNX CastLike, opset 21. Of `like` only the type is read.
pub static CAST_LIKE: OpDef = OpDef {
    name: "cast_like",
    onnx: "CastLike",
    levels: ONNX,
    attrs: &[attr::int("saturate"), attr::text("round_mode")],
    arity: (2, 2),
    infer: &|infer| {
        let attrs = infer.attrs.clone().with_dtype("to", infer.ty(1)?.dtype);
        infer_by(
            &Infer {
                attrs: &attrs,
                inputs: infer.inputs.get(..1).unwrap_or_default(),
                consts: infer.consts.get(..1).unwrap_or_default(),
                ..*infer
            },
            cast,
        )
    },
    eval: None,
    expand: Some(&|e| {
        let (x, attrs) = (e.input(0)?, e.attrs.clone().with_dtype("to", e.outputs[0].dtype));
        Ok(vec![e.add(&CAST, attrs, &[x])?])
    }),
    weights: None,
    gradient: None,
};

/// `dropout(x, ratio?, training?) {seed}`: ONNX Dropout, opset 22: the result, and which elements stayed.
pub static DROPOUT: OpDef = OpDef {
    name: "dropout",
    onnx: "Dropout",
    levels: ONNX,
    attrs: &[attr::int("seed")],
    arity: (1, 3),
    infer: &infer_dropout,
    eval: None,
    expand: Some(&expand_dropout),
    weights: None,
    gradient: None,
};

const ANY: usize = usize::MAX;

operators! {
    ABS "abs" "Abs" 13 (1, 1) [] rule!("abs(x0)");
    ACOS "acos" "Acos" 22 (1, 1) [] rule!("acos(x0)");
    ACOSH "acosh" "Acosh" 22 (1, 1) [] rule!("acosh(x0)");
    ADD "add" "Add" 14 (2, 2) [] rule!("add(x0,x1)");
    AND "and" "And" 7 (2, 2) [] rule!("and(x0,x1)", Bool);
    ASIN "asin" "Asin" 22 (1, 1) [] rule!("asin(x0)");
    ASINH "asinh" "Asinh" 22 (1, 1) [] rule!("asinh(x0)");
    ATAN "atan" "Atan" 22 (1, 1) [] rule!("atan(x0)");
    ATANH "atanh" "Atanh" 22 (1, 1) [] rule!("atanh(x0)");
    BIT_SHIFT "bit_shift" "BitShift" 11 (2, 2) [attr::text("direction")] bit_shift;
    BITWISE_AND "bitwise_and" "BitwiseAnd" 18 (2, 2) [] rule!("bitand(x0,x1)");
    BITWISE_NOT "bitwise_not" "BitwiseNot" 18 (1, 1) [] rule!("bitnot(x0)");
    BITWISE_OR "bitwise_or" "BitwiseOr" 18 (2, 2) [] rule!("bitor(x0,x1)");
    BITWISE_XOR "bitwise_xor" "BitwiseXor" 18 (2, 2) [] rule!("bitxor(x0,x1)");
    CAST "cast" "Cast" 21 (1, 1) [attr::dtype("to"), attr::int("saturate"), attr::text("round_mode")] cast;
    CEIL "ceil" "Ceil" 13 (1, 1) [] rule!("ceil(x0)");
    CELU "celu" "Celu" 12 (1, 1) [attr::float("alpha")] celu;
    CLIP "clip" "Clip" 13 (1, 3) [] clip;
    COS "cos" "Cos" 22 (1, 1) [] rule!("cos(x0)");
    COSH "cosh" "Cosh" 22 (1, 1) [] rule!("cosh(x0)");
    DIV "div" "Div" 14 (2, 2) [] rule!("div(x0,x1)");
    ELU "elu" "Elu" 22 (1, 1) [attr::float("alpha")] elu;
    EQUAL "equal" "Equal" 19 (2, 2) [] rule!("eq(x0,x1)", Bool);
    ERF "erf" "Erf" 13 (1, 1) [] rule!("erf(x0)");
    EXP "exp" "Exp" 13 (1, 1) [] rule!("exp(x0)");
    FLOOR "floor" "Floor" 13 (1, 1) [] rule!("floor(x0)");
    GELU "gelu" "Gelu" 20 (1, 1) [attr::text("approximate")] gelu;
    GREATER "greater" "Greater" 13 (2, 2) [] rule!("gt(x0,x1)", Bool);
    GREATER_OR_EQUAL "greater_or_equal" "GreaterOrEqual" 16 (2, 2) [] rule!("ge(x0,x1)", Bool);
    HARD_SIGMOID "hard_sigmoid" "HardSigmoid" 22 (1, 1) [attr::float("alpha"), attr::float("beta")] hard_sigmoid;
    HARD_SWISH "hard_swish" "HardSwish" 22 (1, 1) [] hard_swish;
    IDENTITY "identity" "Identity" 21 (1, 1) [] rule!("x0");
    IS_INF "is_inf" "IsInf" 20 (1, 1) [attr::int("detect_negative"), attr::int("detect_positive")] is_inf;
    IS_NAN "is_nan" "IsNaN" 20 (1, 1) [] rule!("isnan(x0)", Bool);
    LEAKY_RELU "leaky_relu" "LeakyRelu" 16 (1, 1) [attr::float("alpha")] leaky_relu;
    LESS "less" "Less" 13 (2, 2) [] rule!("lt(x0,x1)", Bool);
    LESS_OR_EQUAL "less_or_equal" "LessOrEqual" 16 (2, 2) [] rule!("le(x0,x1)", Bool);
    LOG "log" "Log" 13 (1, 1) [] rule!("log(x0)");
    MISH "mish" "Mish" 22 (1, 1) [] rule!("mul(x0,tanh(softplus(x0)))");
    MOD "mod" "Mod" 13 (2, 2) [attr::int("fmod")] modulo;
    MUL "mul" "Mul" 14 (2, 2) [] rule!("mul(x0,x1)");
    NEG "neg" "Neg" 13 (1, 1) [] rule!("neg(x0)");
    NOT "not" "Not" 1 (1, 1) [] rule!("not(x0)", Bool);
    OR "or" "Or" 7 (2, 2) [] rule!("or(x0,x1)", Bool);
    POW "pow" "Pow" 15 (2, 2) [] pow;
    PRELU "prelu" "PRelu" 16 (2, 2) [] prelu;
    RECIPROCAL "reciprocal" "Reciprocal" 13 (1, 1) [] rule!("recip(x0)");
    RELU "relu" "Relu" 14 (1, 1) [] rule!("relu(x0)");
    ROUND "round" "Round" 22 (1, 1) [] rule!("round(x0)");
    SELU "selu" "Selu" 22 (1, 1) [attr::float("alpha"), attr::float("gamma")] selu;
    SHRINK "shrink" "Shrink" 9 (1, 1) [attr::float("lambd"), attr::float("bias")] shrink;
    SIGMOID "sigmoid" "Sigmoid" 13 (1, 1) [] rule!("sigmoid(x0)");
    SIGN "sign" "Sign" 13 (1, 1) [] rule!("sign(x0)");
    SIN "sin" "Sin" 22 (1, 1) [] rule!("sin(x0)");
    SINH "sinh" "Sinh" 22 (1, 1) [] rule!("sinh(x0)");
    SOFTPLUS "softplus" "Softplus" 22 (1, 1) [] rule!("softplus(x0)");
    SOFTSIGN "softsign" "Softsign" 22 (1, 1) [] rule!("div(x0,add(abs(x0),1.0))");
    SQRT "sqrt" "Sqrt" 13 (1, 1) [] rule!("sqrt(x0)");
    SUB "sub" "Sub" 14 (2, 2) [] rule!("sub(x0,x1)");
    SWISH "swish" "Swish" 24 (1, 1) [attr::float("alpha")] swish;
    SWI_GLU "swi_glu" "SwiGLU" 28 (2, 2) [attr::float("alpha")] swi_glu;
    TAN "tan" "Tan" 22 (1, 1) [] rule!("tan(x0)");
    TANH "tanh" "Tanh" 13 (1, 1) [] rule!("tanh(x0)");
    THRESHOLDED_RELU "thresholded_relu" "ThresholdedRelu" 22 (1, 1) [attr::float("alpha")] thresholded_relu;
    WHERE "where" "Where" 16 (3, 3) [] |c: &Case<'_>| Ok(("select(x0,x1,x2)".to_owned(), c.ty(1)?.dtype));
    XOR "xor" "Xor" 7 (2, 2) [] rule!("xor(x0,x1)", Bool);
}
