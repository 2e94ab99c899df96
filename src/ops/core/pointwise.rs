//! `pointwise`: any function of single elements, with operands that broadcast. Every elementwise operator of ONNX
//! becomes one, and fusion makes one of many.

use crate::ir::expr::build::{float, int};
use crate::ir::{
    Attrs, Binary, CORE, Class, DType, Differentiate, Expand, Expr, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape,
    Tensor, TensorType, Val, attr,
};
use crate::ops::reference::expression::apply;
use crate::ops::util::{broadcast, class_of};

/// `pointwise(x0, x1, ...) {expr, dtype}`: `expr` over the operands, stored as `dtype`.
pub static DEF: OpDef = OpDef {
    name: "pointwise",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::expr("expr"), attr::dtype("dtype")],
    arity: (1, usize::MAX),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: Some(&gradient),
};

/// Attributes of a pointwise operator.
pub fn attrs(expr: Expr, dtype: DType) -> Attrs {
    Attrs::new().with_expr("expr", expr).with_dtype("dtype", dtype)
}

/// A new pointwise node of the expression.
///
/// # Errors
/// It does not fit the operands.
pub fn add(e: &mut Expand<'_, '_>, expr: Expr, dtype: DType, operands: &[Val]) -> Result<Val, OpError> {
    let types: Vec<_> = operands.iter().map(|v| Some(e.ty(*v))).collect();
    e.add(&DEF, attrs(typed(expr, &types), dtype), operands)
}

/// Zero of a type, in an expression.
pub(crate) fn zero(dtype: DType) -> Expr {
    match dtype.class() {
        Class::Float => float(0.0),
        Class::Bool => int(0).to_bool(),
        _ => int(0),
    }
}

/// The expression with the functions that its operands' types have: those of u64 where an operand is one.
pub(crate) fn typed(expr: Expr, types: &[Option<TensorType>]) -> Expr {
    if !types.iter().flatten().any(|ty| ty.dtype == DType::U64 && ty.packing.is_none()) {
        return expr;
    }
    expr.unsigned(&types.iter().map(|ty| ty.as_ref().map_or(Class::Text, class_of)).collect::<Vec<_>>())
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let expr = infer.attrs.expr("expr").ok_or_else(|| OpError::attribute("expr", "is missing"))?;
    let dtype = infer.attrs.dtype("dtype").ok_or_else(|| OpError::attribute("dtype", "is missing"))?;
    let types: Vec<_> = (0..infer.inputs.len()).map(|slot| infer.ty(slot)).collect::<Result<_, _>>()?;
    if expr.n_args() > types.len() {
        return Err(OpError::attribute("expr", format!("uses {} operands of {}", expr.n_args(), types.len())));
    }
    let classes: Vec<_> = types.iter().map(|t| class_of(t)).collect();
    let class = expr.class(&classes)?;
    if class != dtype.class() {
        return Err(OpError::attribute("dtype", format!("is {dtype}, but the expression gives a {class:?}")));
    }
    let shapes: Vec<_> = types.iter().map(|t| &t.shape).collect();
    Ok(vec![TensorType::new(dtype, broadcast(&shapes)?)])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let expr = attrs.expr("expr").ok_or_else(|| OpError::attribute("expr", "is missing"))?;
    let dtype = attrs.dtype("dtype").ok_or_else(|| OpError::attribute("dtype", "is missing"))?;
    let tensors: Vec<&Tensor> = inputs
        .iter()
        .enumerate()
        .map(|(slot, t)| t.ok_or(OpError::MissingOperand { slot }))
        .collect::<Result<_, _>>()?;
    let dims: Vec<Vec<usize>> = tensors.iter().map(|t| t.dims()).collect();
    let shapes: Vec<Shape> = dims.iter().map(|d| Shape::of(d)).collect();
    let out = broadcast(&shapes.iter().collect::<Vec<_>>())?.known().unwrap_or_default();
    apply(expr, &tensors, &out, dtype).map(|t| vec![t])
}

/// An operand gains what the result gains times the derivative of the expression.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let gain = d.gain()?;
    let expr = d.attrs.expr("expr").ok_or_else(|| OpError::attribute("expr", "is missing"))?.clone();
    let operands = (0..d.inputs.len()).map(|slot| d.input(slot)).collect::<Result<Vec<_>, _>>()?;
    let classes: Vec<Class> = operands.iter().map(|v| class_of(&d.ty(*v))).collect();
    let mut parts = Vec::with_capacity(operands.len());
    for slot in 0..operands.len() {
        let derivative = if d.wants(slot) { expr.derivative(slot, &classes)? } else { None };
        parts.push(derivative.map(|derivative| scaled(d, gain, &derivative, &operands)).transpose()?);
    }
    Ok(Gains::Are(parts))
}

/// `x` times an expression of operands, of which it reads those that the expression mentions.
fn scaled(e: &mut Expand<'_, '_>, x: Val, by: &Expr, operands: &[Val]) -> Result<Val, OpError> {
    if *by == Expr::Float(1.0) {
        return Ok(x);
    }
    let mut read: Vec<usize> = Vec::new();
    by.visit(&mut |part| {
        if let Expr::Arg(i) = part
            && !read.contains(i)
        {
            read.push(*i);
        }
    });
    let by = by.substitute(&|i| Expr::Arg(1 + read.iter().position(|at| *at == i).unwrap_or(0)));
    let dtype = e.ty(x).dtype;
    let all: Vec<Val> = [x].into_iter().chain(read.iter().map(|i| operands[*i])).collect();
    e.add(&DEF, attrs(Expr::binary(Binary::Mul, Expr::Arg(0), by), dtype), &all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Op;

    #[test]
    fn operands_broadcast() {
        let x = Tensor::from_f32s(DType::F32, &[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        let row = Tensor::from_f32s(DType::F32, &[3], &[10.0, 20.0, 30.0]).unwrap();
        let column = Tensor::from_f32s(DType::F16, &[2, 1], &[1.0, 2.0]).unwrap();
        let op = Op::new(&DEF, attrs(Expr::parse("add(mul(x0,x2),x1)").unwrap(), DType::F32));
        let y = crate::ops::reference::evaluate(&op, &[Some(&x), Some(&row), Some(&column)], 1).unwrap();
        assert_eq!(y[0].to_f32s().unwrap().as_ref(), &[11.0, 22.0, 33.0, 18.0, 30.0, 42.0]);
    }
}
