//! The elementwise operators of ONNX: one table of rules that give each its expression. All become `pointwise`.

mod activations;
mod cast;
mod dropout;
mod fold;

pub use cast::CAST_LIKE;
pub use dropout::DROPOUT;

use crate::ir::expr::build::{arg, int, select};
use crate::ir::{
    Attrs, Binary, Class, DType, Expand, Expr, Infer, ONNX, OpDef, OpError, Shape, Tensor, TensorType, Val, attr,
};
use crate::ops::core::pointwise::{self, typed};
use crate::ops::util::{broadcast, class_of};
use activations::{
    celu, elu, gelu, hard_sigmoid, hard_swish, leaky_relu, prelu, selu, shrink, swi_glu, swish, thresholded_relu,
};
use cast::{cast, integer};
use fold::{expand_fold, fold, infer_fold};

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
        results.push(e.add(&pointwise::DEF, pointwise::attrs(expr, dtype), &operands)?);
    }
    if e.outputs.len() > 1 {
        results.push(pointwise::add(e, arg(0).equals(arg(0)).or(int(1).to_bool()), DType::Bool, &[first])?);
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
