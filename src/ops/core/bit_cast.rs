//! ONNX BitCast: the same bits as another type, on the host.

use crate::ir::{Attrs, CORE, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, attr};
use crate::ops::util::operand;

/// `bit_cast(x) {to}`: ONNX BitCast, opset 26: the same bits as another type.
pub static DEF: OpDef = OpDef {
    name: "bit_cast",
    onnx: "BitCast",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::dtype("to")],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let to = crate::ops::util::dtype_attr(infer.attrs, "to").ok_or_else(|| OpError::attribute("to", "is missing"))?;
    if x.packing.is_some() || to.bits() != x.dtype.bits() || to.bits() == 0 {
        return Err(OpError::attribute("to", format!("is {to} for {x}: types of as many bits are expected")));
    }
    Ok(vec![x.with_dtype(to)])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let to = crate::ops::util::dtype_attr(attrs, "to").ok_or_else(|| OpError::attribute("to", "is missing"))?;
    Ok(vec![Tensor::from_bytes(TensorType::of(to, &x.dims()), x.bytes()?.to_vec())?])
}
