//! Casts: between classes, to types of fewer bits, saturating where the model asks for it.

use super::{CAST, Case, Recipe, infer_by};
use crate::ir::expr::build::{arg, select};
use crate::ir::{Class, DType, Expr, Infer, ONNX, OpDef, OpError, Unary, attr, minifloat};
use crate::ops::util::dtype_attr;

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

pub(super) fn cast(c: &Case<'_>) -> Recipe {
    let to = dtype_attr(c.attrs, "to").ok_or_else(|| OpError::attribute("to", "is missing"))?;
    convert(c, to)
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
pub(super) fn integer(to: DType) -> Unary {
    match to {
        DType::I64 | DType::U32 => Unary::ToI64,
        DType::U64 => Unary::ToU64,
        _ => Unary::ToInt,
    }
}
