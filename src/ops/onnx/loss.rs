//! ONNX's losses over classes.

use crate::ir::expr::build::{arg, float, select};
use crate::ir::{Attrs, Class, Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::{along, positions, reduce, sizes};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::{pointwise, reshape, softmax};

/// `negative_log_likelihood_loss(x, target, weight?) {reduction, ignore_index}`: ONNX NegativeLogLikelihoodLoss, opset
/// 22: x is `[N,C,...]`, the target `[N,...]`.
pub static NEGATIVE_LOG_LIKELIHOOD: OpDef = OpDef {
    name: "negative_log_likelihood_loss",
    onnx: "NegativeLogLikelihoodLoss",
    levels: ONNX,
    attrs: &[attr::text("reduction"), attr::int("ignore_index")],
    arity: (2, 3),
    infer: &|i| Ok(vec![loss_type(i)?]),
    eval: None,
    expand: Some(&|e| {
        let x = e.input(0)?;
        Ok(vec![loss(e, x)?])
    }),
    weights: None,
    gradient: None,
};

/// `softmax_cross_entropy_loss(scores, labels, weight?) {reduction, ignore_index}`: ONNX SoftmaxCrossEntropyLoss, opset
/// 13: the loss, and on demand the logarithm of the probabilities.
pub static SOFTMAX_CROSS_ENTROPY: OpDef = OpDef {
    name: "softmax_cross_entropy_loss",
    onnx: "SoftmaxCrossEntropyLoss",
    levels: ONNX,
    attrs: &[attr::text("reduction"), attr::int("ignore_index")],
    arity: (2, 3),
    infer: &|i| Ok(vec![loss_type(i)?, i.ty(0)?.clone()]),
    eval: None,
    expand: Some(&|e| {
        let scores = e.input(0)?;
        let log = e.add(&softmax::DEF, Attrs::new().with_int("axis", 1).with_int("log", 1), &[scores])?;
        Ok(vec![loss(e, log)?, log])
    }),
    weights: None,
    gradient: None,
};

fn reduction(attrs: &Attrs) -> Result<&str, OpError> {
    match attrs.str("reduction").unwrap_or("mean") {
        known @ ("mean" | "sum" | "none") => Ok(known),
        other => Err(OpError::attribute("reduction", format!("is {other:?}"))),
    }
}

fn loss_type(infer: &Infer<'_>) -> Result<TensorType, OpError> {
    let (x, target) = (infer.ty(0)?, infer.ty(1)?);
    if !x.dtype.is_float() || x.packing.is_some() || x.shape.rank() < 2 {
        return Err(OpError::operand(0, x, "floats [N,C,...]"));
    }
    let expected = [&x.shape.0[..1], &x.shape.0[2..]].concat();
    if target.dtype.class() != Class::Int || target.shape.0 != expected {
        return Err(OpError::operand(1, target, format!("integers {}", Shape(expected))));
    }
    if let Some(Some(weight)) = infer.inputs.get(2)
        && weight.shape.0 != x.shape.0[1..2]
    {
        return Err(OpError::operand(2, weight, format!("[{}]", x.shape.0[1])));
    }
    let shape = if reduction(infer.attrs)? == "none" { expected } else { Vec::new() };
    Ok(TensorType::new(x.dtype, Shape(shape)))
}

/// The loss of logarithms of probabilities: those of the classes that are no target count as 0.
fn loss(e: &mut Expand<'_, '_>, x: Val) -> Result<Val, OpError> {
    let (target, weight) = (e.input(1)?, e.optional(2));
    let ty = e.ty(x);
    let (rank, classes) = (ty.shape.rank(), sizes(0, &ty)?[1]);
    let mut column = ty.shape.0.clone();
    column[1] = Dim::Known(1);
    let ignored = e.attrs.int("ignore_index");
    let rule = Rule { sizes: vec![Dim::from(classes)], negative: false, ignore: ignored };
    let target = check_indices::add(e, target, &rule)?;
    let target = reshape::to(e, target, column)?;
    let class = positions(e, rank, 1, classes, 1)?;
    let hit = match ignored {
        Some(ignored) => arg(0).equals(arg(1)).and(!arg(0).equals(ignored)),
        None => arg(0).equals(arg(1)),
    };
    let weight = weight.map(|weight| along(e, weight, rank, 1)).transpose()?;
    let (factor, operands) = match weight {
        Some(weight) => (arg(2) * arg(3), vec![target, class, x, weight]),
        None => (arg(2), vec![target, class, x]),
    };
    let picked = pointwise::add(e, select(hit.clone(), -factor, 0.0), ty.dtype, &operands)?;
    let all: Vec<usize> = (0..rank).collect();
    match reduction(e.attrs)? {
        "none" => reduce(e, "sum", picked, &[1], false),
        "sum" => reduce(e, "sum", picked, &all, false),
        _ => {
            let sum = reduce(e, "sum", picked, &all, false)?;
            let (one, operands) = match weight {
                Some(weight) => (arg(2), vec![target, class, weight]),
                None => (float(1.0), vec![target, class]),
            };
            let weights = pointwise::add(e, select(hit, one, 0.0), ty.dtype, &operands)?;
            let total = reduce(e, "sum", weights, &all, false)?;
            pointwise::add(e, arg(0) / arg(1), ty.dtype, &[sum, total])
        }
    }
}
