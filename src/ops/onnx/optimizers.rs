//! ONNX's optimizers of the preview domain `ai.onnx.preview.training`, version 1: Adagrad, Adam, Momentum. Learning
//! rate and update count are scalars; tensors come in groups: all x, all gradients, all states.

use crate::ir::expr::build::{arg, float, select};
use crate::ir::{Expand, Infer, ONNX, OpDef, OpError, TensorType, Val, attr};
use crate::ops::core::{pointwise, reshape};

macro_rules! optimizers {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal [$($attr:expr),*] $states:literal, $expand:expr;)*) => {
        $($(#[$doc])* pub static $def: OpDef = OpDef {
            name: $name,
            onnx: $onnx,
            levels: ONNX,
            attrs: &[$($attr),*],
            arity: (2 + 2 + $states, usize::MAX),
            infer: &|i| infer(i, $states),
            eval: None,
            expand: Some(&$expand),
            weights: None,
            gradient: None,
        };)*
    };
}

optimizers! {
    /// `adagrad(rate, count, x..., gradient..., sum of squares...) {decay_factor, epsilon, norm_coefficient}`: Adagrad.
    ADAGRAD "adagrad" "ai.onnx.preview.training::Adagrad" [attr::float("decay_factor"), attr::float("epsilon"), attr::float("norm_coefficient")] 1, |e| each(e, 1, adagrad);
    /// `adam(rate, count, x..., gradient..., mean..., mean of squares...) {alpha, beta, epsilon, norm_coefficient,
    /// norm_coefficient_post}`: Adam.
    ADAM "adam" "ai.onnx.preview.training::Adam" [attr::float("alpha"), attr::float("beta"), attr::float("epsilon"), attr::float("norm_coefficient"), attr::float("norm_coefficient_post")] 2, |e| each(e, 2, adam);
    /// `momentum(rate, count, x..., gradient..., momentum...) {alpha, beta, mode, norm_coefficient}`: Momentum.
    MOMENTUM "momentum" "ai.onnx.preview.training::Momentum" [attr::float("alpha"), attr::float("beta"), attr::text("mode"), attr::float("norm_coefficient")] 1, |e| each(e, 1, momentum);
}

/// How many tensors are optimized.
fn count(n_operands: usize, n_states: usize) -> Result<usize, OpError> {
    let n = n_operands.saturating_sub(2);
    let each = 2 + n_states;
    if n > 0 && n.is_multiple_of(each) {
        Ok(n / each)
    } else {
        Err(OpError::unsupported(format!("{n_operands} operands: {each} for each tensor, and two")))
    }
}

fn infer(infer: &Infer<'_>, n_states: usize) -> Result<Vec<TensorType>, OpError> {
    let n = count(infer.inputs.len(), n_states)?;
    for slot in [0, 1] {
        if infer.ty(slot)?.shape.n_elems() != Some(1) {
            return Err(OpError::operand(slot, infer.ty(slot)?, "a scalar"));
        }
    }
    for slot in 2..infer.inputs.len() {
        let (ty, x) = (infer.ty(slot)?, infer.ty(2 + (slot - 2) % n)?);
        if ty != x || !ty.dtype.is_float() {
            return Err(OpError::operand(slot, ty, format!("floats of the type {x}")));
        }
    }
    // New tensors, then new states, group by group.
    let tensors = (0..n).map(|i| infer.ty(2 + i).cloned()).collect::<Result<Vec<_>, _>>()?;
    Ok((0..=n_states).flat_map(|_| tensors.clone()).collect())
}

type Rule = fn(&mut Expand<'_, '_>, &[Val], [Val; 2]) -> Result<Vec<Val>, OpError>;

/// Applies `rule` to each tensor: its operands x, gradient and states give x and states.
fn each(e: &mut Expand<'_, '_>, n_states: usize, rule: Rule) -> Result<Vec<Val>, OpError> {
    let n = count(e.inputs.len(), n_states)?;
    let mut scalars = [e.input(0)?, e.input(1)?];
    for scalar in &mut scalars {
        *scalar = reshape::to(e, *scalar, Vec::new())?;
    }
    let mut results = vec![Vec::new(); n_states + 1];
    for i in 0..n {
        let operands = (0..2 + n_states).map(|group| e.input(2 + group * n + i)).collect::<Result<Vec<_>, _>>()?;
        for (group, val) in results.iter_mut().zip(rule(e, &operands, scalars)?) {
            group.push(val);
        }
    }
    Ok(results.concat())
}

fn coefficient(e: &Expand<'_, '_>, name: &str, default: f32) -> f32 {
    e.attrs.float(name).unwrap_or(default)
}

fn adagrad(e: &mut Expand<'_, '_>, operands: &[Val], [rate, count]: [Val; 2]) -> Result<Vec<Val>, OpError> {
    let &[x, gradient, sum] = operands else { return Err(OpError::MissingOperand { slot: 2 }) };
    let (decay, epsilon, norm) =
        (coefficient(e, "decay_factor", 0.0), coefficient(e, "epsilon", 0.0), coefficient(e, "norm_coefficient", 0.0));
    let dtype = e.ty(x).dtype;
    let g = pointwise::add(e, norm * arg(0) + arg(1), dtype, &[x, gradient])?;
    let sum = pointwise::add(e, arg(0) + arg(1) * arg(1), dtype, &[sum, g])?;
    let expr = arg(0) - arg(3) / (1.0 + arg(4).to_float() * decay) * arg(1) / (arg(2).sqrt() + epsilon);
    Ok(vec![pointwise::add(e, expr, dtype, &[x, g, sum, rate, count])?, sum])
}

fn adam(e: &mut Expand<'_, '_>, operands: &[Val], [rate, count]: [Val; 2]) -> Result<Vec<Val>, OpError> {
    let &[x, gradient, mean, square] = operands else { return Err(OpError::MissingOperand { slot: 2 }) };
    let (alpha, beta, epsilon) =
        (coefficient(e, "alpha", 0.9), coefficient(e, "beta", 0.999), coefficient(e, "epsilon", 0.0));
    let (norm, post) = (coefficient(e, "norm_coefficient", 0.0), coefficient(e, "norm_coefficient_post", 0.0));
    let dtype = e.ty(x).dtype;
    let g = pointwise::add(e, norm * arg(0) + arg(1), dtype, &[x, gradient])?;
    let mean = pointwise::add(e, alpha * arg(0) + (1.0 - alpha) * arg(1), dtype, &[mean, g])?;
    let square = pointwise::add(e, beta * arg(0) + (1.0 - beta) * (arg(1) * arg(1)), dtype, &[square, g])?;
    // The bias of the first steps is corrected, but not before the first.
    let corrected =
        arg(0) * (1.0 - float(beta).pow(arg(1).to_float())).sqrt() / (1.0 - float(alpha).pow(arg(1).to_float()));
    let rate = pointwise::add(e, select(arg(1).above(0), corrected, arg(0)), dtype, &[rate, count])?;
    let expr = (1.0 - post) * (arg(0) - arg(3) * arg(1) / (arg(2).sqrt() + epsilon));
    Ok(vec![pointwise::add(e, expr, dtype, &[x, mean, square, rate])?, mean, square])
}

fn momentum(e: &mut Expand<'_, '_>, operands: &[Val], [rate, count]: [Val; 2]) -> Result<Vec<Val>, OpError> {
    let &[x, gradient, state] = operands else { return Err(OpError::MissingOperand { slot: 2 }) };
    let (alpha, beta, norm) =
        (coefficient(e, "alpha", 0.0), coefficient(e, "beta", 0.0), coefficient(e, "norm_coefficient", 0.0));
    let dtype = e.ty(x).dtype;
    let g = pointwise::add(e, norm * arg(0) + arg(1), dtype, &[x, gradient])?;
    let expr = alpha * arg(0) + select(arg(2).above(0), beta, 1.0) * arg(1);
    let state = pointwise::add(e, expr, dtype, &[state, g, count])?;
    let expr = match e.attrs.str("mode") {
        Some("nesterov") => arg(0) - arg(3) * (arg(1) + alpha * arg(2)),
        Some("standard") => arg(0) - arg(3) * arg(2),
        other => return Err(OpError::attribute("mode", format!("is {other:?}"))),
    };
    Ok(vec![pointwise::add(e, expr, dtype, &[x, g, state, rate])?, state])
}
