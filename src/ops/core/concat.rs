//! `concat`: tensors one after the other along an axis.

use crate::ir::{
    Attrs, CORE, Differentiate, Dim, Expand, Gains, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, Val, attr,
};
use crate::ops::compose;
use crate::ops::util::{agree, axis_attr, elements, from_elements, n_elems, operand};

/// `concat(x0, x1, ...) {axis, dtype}`: ONNX Concat, opset 13. With `dtype`, which only the lower levels have, operands
/// may be of any float type.
pub static DEF: OpDef = OpDef {
    name: "concat",
    onnx: "Concat",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::int("axis"), attr::dtype("dtype")],
    arity: (1, usize::MAX),
    infer: &infer,
    eval: Some(&eval),
    expand: Some(&expand),
    weights: None,
    gradient: Some(&gradient),
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let first = infer.ty(0)?;
    let axis = axis_attr(infer.attrs, 0, first.shape.rank())?;
    let dtype = infer.attrs.dtype("dtype").unwrap_or(first.dtype);
    let mixes = infer.attrs.dtype("dtype").is_some() && dtype.is_float();
    let mut shape = first.shape.clone();
    shape.0[axis] = Dim::Known(0);
    for slot in 0..infer.inputs.len() {
        let ty = infer.ty(slot)?;
        let same = |(i, (a, b)): (usize, (&Dim, &Dim))| i == axis || agree(a, b);
        if !(ty.dtype == dtype || mixes && ty.dtype.is_float())
            || ty.packing.is_some()
            || ty.shape.rank() != shape.rank()
            || !ty.shape.0.iter().zip(&shape.0).enumerate().all(same)
        {
            return Err(OpError::operand(slot, ty, format!("{first} but for axis {axis}")));
        }
        for (i, dim) in shape.0.iter_mut().enumerate() {
            if i == axis {
                *dim = &*dim + &ty.shape.0[i];
            } else if dim.known().is_none() && ty.shape.0[i].known().is_some() {
                dim.clone_from(&ty.shape.0[i]);
            }
        }
    }
    Ok(vec![TensorType::new(dtype, shape)])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let inputs = (0..e.inputs.len()).map(|slot| e.input(slot)).collect::<Result<Vec<_>, _>>()?;
    if let [only] = inputs[..] {
        return Ok(vec![only]);
    }
    let axis = axis_attr(e.attrs, 0, e.ty(inputs[0]).shape.rank())?;
    Ok(vec![e.add(&DEF, Attrs::new().with_int("axis", axis as i64), &inputs)?])
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let dtype = attrs.dtype("dtype").unwrap_or(operand(inputs, 0)?.dtype());
    let stored = |tensor: &Tensor| -> Result<Tensor, OpError> {
        let converts =
            attrs.dtype("dtype").is_some() && tensor.dtype() != dtype && tensor.dtype().is_float() && dtype.is_float();
        if converts { crate::ops::util::cast(tensor.clone(), dtype) } else { Ok(tensor.clone()) }
    };
    let tensors = (0..inputs.len()).map(|slot| stored(operand(inputs, slot)?)).collect::<Result<Vec<_>, _>>()?;
    let first = tensors.first().ok_or(OpError::MissingOperand { slot: 0 })?;
    let mut dims = first.dims();
    let axis = axis_attr(attrs, 0, dims.len())?;
    let outer = n_elems(&dims[..axis])?;
    let inner = n_elems(&dims[axis + 1..])?;
    let mut parts = Vec::new();
    dims[axis] = 0;
    for (slot, tensor) in tensors.iter().enumerate() {
        let own = tensor.dims();
        if tensor.dtype() != first.dtype()
            || own.len() != dims.len()
            || own.iter().zip(&dims).enumerate().any(|(i, (a, b))| i != axis && a != b)
        {
            return Err(OpError::operand(slot, tensor.ty(), format!("{} but for axis {axis}", first.ty())));
        }
        dims[axis] = dims[axis].saturating_add(own[axis]);
        let (bytes, size) = elements(tensor)?;
        parts.push((bytes, own[axis] * inner * size));
    }
    n_elems(&dims)?;
    let mut out = Vec::with_capacity(parts.iter().map(|(bytes, _)| bytes.len()).sum());
    for i in 0..outer {
        for (bytes, block) in &parts {
            out.extend_from_slice(&bytes[i * block..(i + 1) * block]);
        }
    }
    Ok(vec![from_elements(first.dtype(), &dims, out)?])
}

/// Each operand gains its part.
fn gradient(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let gain = d.gain()?;
    let axis = axis_attr(d.attrs, 0, d.ty(gain).shape.rank())?;
    let (mut first, mut parts) = (0, Vec::new());
    for slot in 0..d.inputs.len() {
        let n = d.sizes(slot)?[axis] as i64;
        parts.push(if d.wants(slot) { Some(compose::part(d, gain, axis, first, n)?) } else { None });
        first += n;
    }
    Ok(Gains::Are(parts))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    #[test]
    fn operands_of_two_float_types_are_stored_as_asked() {
        let wide = Tensor::from_f32s(DType::F32, &[1, 2], &[1.5, -2.25]).unwrap();
        let narrow = Tensor::from_f32s(DType::F16, &[1, 1], &[0.1]).unwrap();
        let attrs = Attrs::new().with_int("axis", 1).with_dtype("dtype", DType::F16);
        let y = eval(&attrs, &[Some(&wide), Some(&narrow)]).unwrap();
        assert_eq!(y[0].ty(), &TensorType::of(DType::F16, &[1, 3]));
        assert_eq!(y[0].to_f32s().unwrap()[..2], [1.5, -2.25]);
        assert!(
            eval(&Attrs::new().with_int("axis", 1), &[Some(&wide), Some(&narrow)]).is_err(),
            "ONNX's own Concat mixes no types"
        );
    }
}
