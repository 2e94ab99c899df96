//! The elementwise operators of ONNX: one table of rules that give each its expression. All become `pointwise`.

use crate::ir::expr::build::{arg, float, int, select};
use crate::ir::{
    Attrs, Binary, Class, DType, Expand, Expr, Infer, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Unary, Val,
    attr, minifloat,
};
use crate::ops::core::pointwise::{typed, zero};
use crate::ops::util::{between, broadcast, class_of, dtype_attr};

/// What a rule sees of one use.
pub struct Case<'a> {
    attrs: &'a Attrs,
    types: Vec<Option<TensorType>>,
    consts: Vec<Option<&'a Tensor>>,
}

/// The expression, whose operands are operand slots, and the type of the result.
type Recipe = Result<(Expr, DType), OpError>;

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

    fn same(&self, expr: Expr) -> Recipe {
        Ok((expr, self.dtype()?))
    }
}

/// Operands that one kernel folds. A Sum of thousands is a chain of kernels, from left to right as one would be.
const FOLD: usize = 8;

fn infer_by(infer: &Infer<'_>, rule: fn(&Case<'_>) -> Recipe) -> Result<Vec<TensorType>, OpError> {
    let types: Vec<_> = infer.inputs.iter().map(|t| t.cloned()).collect();
    let present: Vec<&TensorType> = types.iter().flatten().collect();
    let classes: Vec<Class> = types.iter().map(|t| t.as_ref().map_or(Class::Text, class_of)).collect();
    let shape = broadcast(&present.iter().map(|t| &t.shape).collect::<Vec<_>>())?;
    let (expr, dtype) = rule(&Case { attrs: infer.attrs, types: types.clone(), consts: infer.consts.to_vec() })?;
    let class = expr.class(&classes)?;
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
    function: Binary,
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
        let mut expr = (1..=slots.len()).fold(arg(0), |expr, slot| Expr::binary(function, expr, arg(slot)));
        let is_last = slots.end == n;
        if is_last && is_mean {
            expr = expr / n as f32;
        }
        let operands = slots.map(|slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
        result = crate::ops::core::pointwise::add(
            e,
            expr,
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
    let (ratio, share) = match e.optional(1) {
        Some(ratio) => (crate::ops::core::reshape::to(e, ratio, Vec::new())?, arg(1)),
        None => (x, float(0.5)),
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
    let keeps = crate::ops::core::pointwise::add(e, arg(0).at_least(share.clone()), DType::Bool, &[random, ratio])?;
    let grown = select(arg(0), arg(2) / (1.0 - share), 0.0);
    Ok(vec![crate::ops::core::pointwise::add(e, grown, ty.dtype, &[keeps, ratio, x])?, keeps])
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
    let (expr, dtype) =
        rule(&Case { attrs: e.attrs, types: types.clone(), consts: consts.iter().map(Option::as_ref).collect() })?;
    let expr = typed(expr, &types);
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
        results.push(crate::ops::core::pointwise::add(
            e,
            arg(0).equals(arg(0)).or(int(1).to_bool()),
            DType::Bool,
            &[first],
        )?);
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
    let zero = zero(c.dtype()?);
    c.same(select(arg(0).below(zero), arg(0) * arg(1), arg(0)))
}

fn pow(c: &Case<'_>) -> Recipe {
    // Powers that products and roots give exactly, also of negative numbers, for which a device's pow is undefined.
    let is_float = c.dtype()?.is_float();
    let power = match (c.scalar(1), c.dtype()?.class(), c.ty(1)?.dtype.class()) {
        (Some(1.0), ..) => arg(0),
        (Some(2.0), ..) => arg(0) * arg(0),
        (Some(3.0), ..) => arg(0) * arg(0) * arg(0),
        // No square root of x0: a power of minus infinity is not NaN.
        (Some(0.5), ..) if is_float => arg(0).pow(0.5),
        (Some(-0.5), ..) if is_float => arg(0).pow(0.5).recip(),
        (Some(-1.0), ..) if is_float => arg(0).recip(),
        (_, Class::Float, Class::Int) => arg(0).pow(arg(1).to_float()),
        (_, Class::Int, Class::Float) => Expr::unary(integer(c.dtype()?), arg(0).to_float().pow(arg(1))),
        _ => arg(0).pow(arg(1)),
    };
    c.same(power)
}

fn modulo(c: &Case<'_>) -> Recipe {
    let fmod = c.attrs.int("fmod").unwrap_or(0) != 0;
    if !fmod && c.dtype()?.is_float() {
        // The rest has the sign of the dividend; one of another sign moves up by the divisor, also an infinite one.
        let rest = arg(0).fmod(arg(1));
        let differs = rest.clone().below(0.0).xor(arg(1).below(0.0));
        let moves = (!rest.clone().equals(0.0)).and(differs);
        return c.same(select(moves, rest.clone() + arg(1), rest));
    }
    c.same(if fmod { arg(0).fmod(arg(1)) } else { arg(0).modulo(arg(1)) })
}

fn bit_shift(c: &Case<'_>) -> Recipe {
    match c.attrs.str("direction") {
        Some("LEFT") => c.same(arg(0).shift_left(arg(1))),
        Some("RIGHT") => c.same(arg(0).shift_right(arg(1))),
        other => Err(OpError::attribute("direction", format!("is {other:?}"))),
    }
}

fn clip(c: &Case<'_>) -> Recipe {
    let low = if c.has(1) { arg(0).max(arg(1)) } else { arg(0) };
    c.same(if c.has(2) { low.min(arg(2)) } else { low })
}

/// `function` of operands from left to right, divided by their number for a mean.
fn fold(c: &Case<'_>, function: Binary, is_mean: bool) -> Recipe {
    let all = (1..c.types.len()).fold(arg(0), |expr, slot| Expr::binary(function, expr, arg(slot)));
    c.same(if is_mean && c.types.len() > 1 { all / c.types.len() as f32 } else { all })
}

fn is_inf(c: &Case<'_>) -> Recipe {
    let flag = |name| c.attrs.int(name).unwrap_or(1) != 0;
    let infinite = arg(0).is_inf();
    let found = match (flag("detect_negative"), flag("detect_positive")) {
        (true, true) => infinite,
        (true, false) => infinite.and(arg(0).below(0.0)),
        (false, true) => infinite.and(arg(0).above(0.0)),
        (false, false) => infinite.and(arg(0).is_nan()),
    };
    Ok((found, DType::Bool))
}

fn gelu(c: &Case<'_>) -> Recipe {
    match c.attrs.str("approximate").unwrap_or("none") {
        // Numbers of expressions are f32: in f64 others are computed from exact ones.
        "none" if c.dtype()? == DType::F64 => c.same(arg(0) * 0.5 * ((arg(0) / float(2.0).sqrt()).erf() + 1.0)),
        "tanh" if c.dtype()? == DType::F64 => c.same(
            arg(0)
                * 0.5
                * (((0.5 / float(1.0).atan()).sqrt()
                    * (arg(0) + float(44715.0) / 1000000.0 * (arg(0) * (arg(0) * arg(0)))))
                .tanh()
                    + 1.0),
        ),
        "none" => c.same(arg(0) * 0.5 * ((arg(0) * 0.70710677).erf() + 1.0)),
        "tanh" => {
            c.same(arg(0) * 0.5 * ((0.7978846 * (arg(0) + 0.044715 * (arg(0) * (arg(0) * arg(0))))).tanh() + 1.0))
        }
        other => Err(OpError::attribute("approximate", format!("is {other:?}"))),
    }
}

fn hard_swish(c: &Case<'_>) -> Recipe {
    let sixth = if c.dtype()? == DType::F64 { arg(0) / 6.0 } else { arg(0) * 0.166_666_67 };
    c.same(arg(0) * (sixth + 0.5).min(1.0).max(0.0))
}

fn elu(c: &Case<'_>) -> Recipe {
    let alpha = c.float("alpha", 1.0);
    c.same(select(arg(0).below(0.0), alpha * (arg(0).exp() - 1.0), arg(0)))
}

fn celu(c: &Case<'_>) -> Recipe {
    let alpha = c.float("alpha", 1.0);
    c.same(select(arg(0).below(0.0), alpha * ((arg(0) / alpha).exp() - 1.0), arg(0)))
}

fn selu(c: &Case<'_>) -> Recipe {
    let (alpha, gamma) = (c.float("alpha", 1.673_263_2), c.float("gamma", 1.050_701));
    c.same(gamma * select(arg(0).above(0.0), arg(0), alpha * (arg(0).exp() - 1.0)))
}

fn leaky_relu(c: &Case<'_>) -> Recipe {
    c.same(select(arg(0).below(0.0), arg(0) * (c.float("alpha", 0.01)), arg(0)))
}

fn hard_sigmoid(c: &Case<'_>) -> Recipe {
    let (alpha, beta) = (c.float("alpha", 0.2), c.float("beta", 0.5));
    c.same((arg(0) * alpha + beta).min(1.0).max(0.0))
}

fn swish(c: &Case<'_>) -> Recipe {
    match c.float("alpha", 1.0) {
        1.0 => c.same(arg(0) * arg(0).sigmoid()),
        alpha => c.same(arg(0) * (arg(0) * alpha).sigmoid()),
    }
}

fn swi_glu(c: &Case<'_>) -> Recipe {
    c.same(arg(0) * (arg(0) * (c.float("alpha", 1.0))).sigmoid() * arg(1))
}

fn thresholded_relu(c: &Case<'_>) -> Recipe {
    c.same(select(arg(0).above(c.float("alpha", 1.0)), arg(0), 0.0))
}

fn shrink(c: &Case<'_>) -> Recipe {
    let (lambd, bias) = (c.float("lambd", 0.5), c.float("bias", 0.0));
    c.same(select(arg(0).below(-lambd), arg(0) + bias, select(arg(0).above(lambd), arg(0) - bias, 0.0)))
}

fn convert(c: &Case<'_>, to: DType) -> Recipe {
    if let Some(round) = c.attrs.str("round_mode").filter(|round| to == DType::F8E8M0 && *round != "up") {
        return Err(OpError::attribute("round_mode", format!("is {round:?}, \"up\" is supported")));
    }
    let (expr, to) = converted(c, to)?;
    let Some(max) = minifloat::max(to).filter(|_| to != DType::F8E8M0) else { return Ok((expr, to)) };
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
        let size = expr.clone().abs();
        let is_beyond = if to == DType::F8E4M3 { size.above(limit) } else { size.at_least(limit) };
        return Ok((select(is_beyond, expr.clone() * f32::INFINITY, expr), to));
    }
    // Infinities saturate too.
    Ok((select(expr.clone().is_nan(), expr.clone(), expr.max(-max).min(max)), to))
}

fn converted(c: &Case<'_>, to: DType) -> Recipe {
    let from = c.dtype()?;
    let expr = match to.class() {
        class if class == from.class() => arg(0),
        Class::Float => arg(0).to_float(),
        Class::Int if from.is_float() => Expr::unary(integer(to), arg(0)),
        Class::Int => arg(0).to_int(),
        Class::Bool => arg(0).to_bool(),
        Class::Text => return Err(OpError::unsupported("a cast to text")),
    };
    Ok((rounded(expr, from, to), to))
}

/// `expr`, which computes a `to` from a `from`, rounded to it: a conversion that the model asks for is part of what is
/// computed, whatever the result is stored as. So is one from f16 to f16: the type says how the operand is stored, and
/// a kernel that is fused with the one before reads what was not stored at all. `remove_identities` takes away what the
/// model's own types show to be nothing.
fn rounded(expr: Expr, from: DType, to: DType) -> Expr {
    // Bits of a significand. Integers of as many, and truth values, are exact.
    let (function, precision) = match to {
        DType::F16 => (Unary::RoundF16, 11),
        DType::BF16 => (Unary::RoundBf16, 8),
        DType::F32 => (Unary::RoundF32, 24),
        _ => return expr,
    };
    let is_exact = match from.class() {
        Class::Float => (to == DType::F32 && from != DType::F64) || (from.is_minifloat() && from != DType::F8E8M0),
        // f32 is what integers become.
        _ => from == DType::Bool || from.bits() <= precision || to == DType::F32,
    };
    if is_exact { expr } else { Expr::unary(function, expr) }
}

/// The function that converts a float to an integer of a type: to 64 bits where 32 signed ones do not hold its values.
fn integer(to: DType) -> Unary {
    match to {
        DType::I64 | DType::U32 => Unary::ToI64,
        DType::U64 => Unary::ToU64,
        _ => Unary::ToInt,
    }
}

fn cast(c: &Case<'_>) -> Recipe {
    let to = dtype_attr(c.attrs, "to").ok_or_else(|| OpError::attribute("to", "is missing"))?;
    convert(c, to)
}

fn dropout(c: &Case<'_>) -> Recipe {
    c.same(arg(0))
}

/// A rule whose expression is fixed and whose result has operand 0's type, or the type given.
macro_rules! rule {
    ($expr:expr) => {
        |c: &Case<'_>| c.same($expr)
    };
    ($expr:expr, $dtype:ident) => {
        |_: &Case<'_>| Ok(($expr, DType::$dtype))
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
    ($($def:ident $name:literal $onnx:literal $opset:literal $function:ident $is_mean:literal;)*) => {
        $(
            #[doc = concat!("`", $name, "`: ONNX ", $onnx, ", opset ", $opset, ".")]
            pub static $def: OpDef = OpDef {
                name: $name,
                onnx: $onnx,
                levels: ONNX,
                attrs: &[],
                arity: (1, ANY),
                infer: &|infer| infer_fold(infer, |c| fold(c, Binary::$function, $is_mean)),
                eval: None,
                expand: Some(&|e| {
                    expand_fold(e, |c| fold(c, Binary::$function, $is_mean), Binary::$function, $is_mean)
                }),
                weights: None,
                gradient: None,
            };
        )*
    };
}

folds! {
    MAX "max" "Max" 13 Max false;
    MEAN "mean" "Mean" 13 Add true;
    MIN "min" "Min" 13 Min false;
    SUM "sum" "Sum" 13 Add false;
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
    ABS "abs" "Abs" 13 (1, 1) [] rule!(arg(0).abs());
    ACOS "acos" "Acos" 22 (1, 1) [] rule!(arg(0).acos());
    ACOSH "acosh" "Acosh" 22 (1, 1) [] rule!(arg(0).acosh());
    ADD "add" "Add" 14 (2, 2) [] rule!(arg(0) + arg(1));
    AND "and" "And" 7 (2, 2) [] rule!(arg(0).and(arg(1)), Bool);
    ASIN "asin" "Asin" 22 (1, 1) [] rule!(arg(0).asin());
    ASINH "asinh" "Asinh" 22 (1, 1) [] rule!(arg(0).asinh());
    ATAN "atan" "Atan" 22 (1, 1) [] rule!(arg(0).atan());
    ATANH "atanh" "Atanh" 22 (1, 1) [] rule!(arg(0).atanh());
    BIT_SHIFT "bit_shift" "BitShift" 11 (2, 2) [attr::text("direction")] bit_shift;
    BITWISE_AND "bitwise_and" "BitwiseAnd" 18 (2, 2) [] rule!(arg(0) & arg(1));
    BITWISE_NOT "bitwise_not" "BitwiseNot" 18 (1, 1) [] rule!(arg(0).bit_not());
    BITWISE_OR "bitwise_or" "BitwiseOr" 18 (2, 2) [] rule!(arg(0) | arg(1));
    BITWISE_XOR "bitwise_xor" "BitwiseXor" 18 (2, 2) [] rule!(arg(0) ^ arg(1));
    CAST "cast" "Cast" 21 (1, 1) [attr::dtype("to"), attr::int("saturate"), attr::text("round_mode")] cast;
    CEIL "ceil" "Ceil" 13 (1, 1) [] rule!(arg(0).ceil());
    CELU "celu" "Celu" 12 (1, 1) [attr::float("alpha")] celu;
    CLIP "clip" "Clip" 13 (1, 3) [] clip;
    COS "cos" "Cos" 22 (1, 1) [] rule!(arg(0).cos());
    COSH "cosh" "Cosh" 22 (1, 1) [] rule!(arg(0).cosh());
    DIV "div" "Div" 14 (2, 2) [] rule!(arg(0) / arg(1));
    ELU "elu" "Elu" 22 (1, 1) [attr::float("alpha")] elu;
    EQUAL "equal" "Equal" 19 (2, 2) [] rule!(arg(0).equals(arg(1)), Bool);
    ERF "erf" "Erf" 13 (1, 1) [] rule!(arg(0).erf());
    EXP "exp" "Exp" 13 (1, 1) [] rule!(arg(0).exp());
    FLOOR "floor" "Floor" 13 (1, 1) [] rule!(arg(0).floor());
    GELU "gelu" "Gelu" 20 (1, 1) [attr::text("approximate")] gelu;
    GREATER "greater" "Greater" 13 (2, 2) [] rule!(arg(0).above(arg(1)), Bool);
    GREATER_OR_EQUAL "greater_or_equal" "GreaterOrEqual" 16 (2, 2) [] rule!(arg(0).at_least(arg(1)), Bool);
    HARD_SIGMOID "hard_sigmoid" "HardSigmoid" 22 (1, 1) [attr::float("alpha"), attr::float("beta")] hard_sigmoid;
    HARD_SWISH "hard_swish" "HardSwish" 22 (1, 1) [] hard_swish;
    IDENTITY "identity" "Identity" 21 (1, 1) [] rule!(arg(0));
    IS_INF "is_inf" "IsInf" 20 (1, 1) [attr::int("detect_negative"), attr::int("detect_positive")] is_inf;
    IS_NAN "is_nan" "IsNaN" 20 (1, 1) [] rule!(arg(0).is_nan(), Bool);
    LEAKY_RELU "leaky_relu" "LeakyRelu" 16 (1, 1) [attr::float("alpha")] leaky_relu;
    LESS "less" "Less" 13 (2, 2) [] rule!(arg(0).below(arg(1)), Bool);
    LESS_OR_EQUAL "less_or_equal" "LessOrEqual" 16 (2, 2) [] rule!(arg(0).at_most(arg(1)), Bool);
    LOG "log" "Log" 13 (1, 1) [] rule!(arg(0).log());
    MISH "mish" "Mish" 22 (1, 1) [] rule!(arg(0) * arg(0).softplus().tanh());
    MOD "mod" "Mod" 13 (2, 2) [attr::int("fmod")] modulo;
    MUL "mul" "Mul" 14 (2, 2) [] rule!(arg(0) * arg(1));
    NEG "neg" "Neg" 13 (1, 1) [] rule!(-arg(0));
    NOT "not" "Not" 1 (1, 1) [] rule!(!arg(0), Bool);
    OR "or" "Or" 7 (2, 2) [] rule!(arg(0).or(arg(1)), Bool);
    POW "pow" "Pow" 15 (2, 2) [] pow;
    PRELU "prelu" "PRelu" 16 (2, 2) [] prelu;
    RECIPROCAL "reciprocal" "Reciprocal" 13 (1, 1) [] rule!(arg(0).recip());
    RELU "relu" "Relu" 14 (1, 1) [] rule!(arg(0).relu());
    ROUND "round" "Round" 22 (1, 1) [] rule!(arg(0).round());
    SELU "selu" "Selu" 22 (1, 1) [attr::float("alpha"), attr::float("gamma")] selu;
    SHRINK "shrink" "Shrink" 9 (1, 1) [attr::float("lambd"), attr::float("bias")] shrink;
    SIGMOID "sigmoid" "Sigmoid" 13 (1, 1) [] rule!(arg(0).sigmoid());
    SIGN "sign" "Sign" 13 (1, 1) [] rule!(arg(0).sign());
    SIN "sin" "Sin" 22 (1, 1) [] rule!(arg(0).sin());
    SINH "sinh" "Sinh" 22 (1, 1) [] rule!(arg(0).sinh());
    SOFTPLUS "softplus" "Softplus" 22 (1, 1) [] rule!(arg(0).softplus());
    SOFTSIGN "softsign" "Softsign" 22 (1, 1) [] rule!(arg(0) / (arg(0).abs() + 1.0));
    SQRT "sqrt" "Sqrt" 13 (1, 1) [] rule!(arg(0).sqrt());
    SUB "sub" "Sub" 14 (2, 2) [] rule!(arg(0) - arg(1));
    SWISH "swish" "Swish" 24 (1, 1) [attr::float("alpha")] swish;
    SWI_GLU "swi_glu" "SwiGLU" 28 (2, 2) [attr::float("alpha")] swi_glu;
    TAN "tan" "Tan" 22 (1, 1) [] rule!(arg(0).tan());
    TANH "tanh" "Tanh" 13 (1, 1) [] rule!(arg(0).tanh());
    THRESHOLDED_RELU "thresholded_relu" "ThresholdedRelu" 22 (1, 1) [attr::float("alpha")] thresholded_relu;
    WHERE "where" "Where" 16 (3, 3) [] |c: &Case<'_>| Ok((select(arg(0), arg(1), arg(2)), c.ty(1)?.dtype));
    XOR "xor" "Xor" 7 (2, 2) [] rule!(arg(0).xor(arg(1)), Bool);
}
