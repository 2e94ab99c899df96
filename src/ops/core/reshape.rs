//! `reshape`: the same elements under another shape.

use crate::ir::{
    Attrs, CORE, Differentiate, Dim, Expand, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType,
    Val, attr, product,
};
use crate::ops::util::{agree, dims_attr, ints_attr, operand};

/// `reshape(x) {shape}`: ONNX Reshape, opset 21, where the shape is a constant operand, 0 means the operand's own size
/// (unless `allowzero`) and -1 what remains. At the core level the sizes are an attribute, all resolved.
pub static DEF: OpDef = OpDef {
    name: "reshape",
    onnx: "Reshape",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::sizes("shape"), attr::int("allowzero")],
    arity: (1, 2),
    infer: &infer,
    eval: Some(&eval),
    expand: Some(&expand),
    weights: None,
    gradient: Some(&gradient),
};

/// `x` under another shape; `x` itself where it has that shape already.
///
/// # Errors
/// The shapes do not have equally many elements.
pub fn to(e: &mut Expand<'_, '_>, x: Val, shape: Vec<Dim>) -> Result<Val, OpError> {
    if e.ty(x).shape.0 == shape {
        return Ok(x);
    }
    e.add(&DEF, Attrs::new().with_dims("shape", shape), &[x])
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let shape = match dims_attr(infer.attrs, "shape") {
        Some(shape) => shape,
        None => {
            let sizes = infer.dims(1)?.ok_or(OpError::MissingOperand { slot: 1 })?;
            resolve(&x.shape, &sizes, infer.attrs.int("allowzero").unwrap_or(0) != 0)?
        }
    };
    let (given, wanted) = (x.shape.volume(), product(&shape));
    if shape.iter().any(|d| d.known().is_some_and(|n| n < 0)) || !agree(&given, &wanted) {
        return Err(OpError::operand(0, x, format!("as many elements as {}", Shape(shape))));
    }
    Ok(vec![TensorType { shape: Shape(shape), ..x.clone() }])
}

/// The sizes that ONNX's 0 and -1 stand for.
fn resolve(shape: &Shape, sizes: &[Dim], allow_zero: bool) -> Result<Vec<Dim>, OpError> {
    let own = |i: usize| {
        shape
            .0
            .get(i)
            .cloned()
            .ok_or_else(|| OpError::operand(1, format!("{sizes:?}"), format!("at most {} zeros", shape.rank())))
    };
    let is_kept = |size: &Dim| *size == Dim::Known(0) && !allow_zero;
    let is_rest = |size: &Dim| *size == Dim::Known(-1);
    let mut dims = Vec::with_capacity(sizes.len());
    for (i, size) in sizes.iter().enumerate() {
        dims.push(match size {
            size if is_kept(size) => own(i)?,
            size if is_rest(size) => Dim::Known(1),
            size if size.known().is_some_and(|n| n < 0) => {
                return Err(OpError::operand(1, format!("{sizes:?}"), "sizes"));
            }
            size => size.clone(),
        });
    }
    let mut rest = sizes.iter().enumerate().filter(|(_, size)| is_rest(size));
    if let Some((at, _)) = rest.next() {
        if rest.next().is_some() {
            return Err(OpError::operand(1, format!("{sizes:?}"), "one -1 at most"));
        }
        // Sizes kept by position leave the quotient, so that symbols need not be divided.
        let kept = |i: usize| sizes.get(i).is_some_and(is_kept);
        let left: Vec<Dim> = shape.0.iter().enumerate().filter(|(i, _)| !kept(*i)).map(|(_, d)| d.clone()).collect();
        let divisor: Vec<Dim> = dims.iter().enumerate().filter(|(i, _)| !kept(*i)).map(|(_, d)| d.clone()).collect();
        let empty = shape.0.contains(&Dim::Known(0));
        dims[at] = match product(&left).floor_div(&product(&divisor)) {
            Some(size) => size,
            None if empty => Dim::Known(0),
            None => return Err(OpError::operand(1, format!("{sizes:?}"), "sizes that divide the operand's")),
        };
    }
    Ok(dims)
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let x = e.input(0)?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![to(e, x, shape)?])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let sizes = ints_attr(attrs, "shape")?.ok_or_else(|| OpError::attribute("shape", "is missing"))?;
    let dims: Option<Vec<usize>> = sizes.iter().map(|&n| usize::try_from(n).ok()).collect();
    let dims = dims.ok_or_else(|| OpError::attribute("shape", format!("is {sizes:?}")))?;
    if crate::ops::util::n_elems(&dims)? != crate::ops::util::n_elems(&x.dims())? {
        return Err(OpError::operand(0, x.ty(), format!("as many elements as {dims:?}")));
    }
    Ok(vec![x.reshaped(&dims)?])
}

/// The gain under the operand's shape.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let (gain, shape) = (d.gain()?, d.ty(d.input(0)?).shape.0);
    let mut parts = vec![None; d.inputs.len()];
    parts[0] = Some(to(d, gain, shape)?);
    Ok(Gains::Are(parts))
}
