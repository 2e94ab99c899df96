//! `quantize_packed`, `magnitude` and `dynamic_quantize`: activations quantized to INT8 while the program runs.

use crate::ir::packed::{Granularity, Packing, magnitude_bits, quantize_dynamic, quantize_within, unpack};
use crate::ir::{Attrs, CORE, DType, Dim, Infer, KERNEL, ONNX, OpDef, OpError, Tensor, TensorType, attr};
use crate::ops::util::operand;

/// `quantize_packed(x, m?) {granularity, on_load}`: x as packed INT8, one f32 scale a row or in all, found from the
/// values (`src/ir/packed/dynamic.rs`), or in all from their `magnitude` m. With `on_load` 1 the codes are never
/// stored: the kernels that read them make them as they load x.
pub static DEF: OpDef = OpDef {
    name: "quantize_packed",
    onnx: "",
    levels: CORE | KERNEL,
    attrs: &[attr::text("granularity"), attr::int("on_load")],
    arity: (1, 2),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

/// `magnitude(x)`: the largest magnitude of x as an i32, the bits of an f32: 0 without elements, at least those of
/// infinity where x has an infinity or a NaN.
pub static MAGNITUDE: OpDef = OpDef {
    name: "magnitude",
    onnx: "",
    levels: KERNEL,
    attrs: &[],
    arity: (1, 1),
    infer: &infer_magnitude,
    eval: Some(&eval_magnitude),
    expand: None,
    weights: None,
    gradient: None,
};

/// `dynamic_quantize(x) {granularity}`: codes `i8` of x's shape and their f32 scales, `[..., 1]` by row or a scalar: a
/// composite of ONNX's ReduceMax, Abs, Div and QuantizeLinear.
pub static DYNAMIC: OpDef = OpDef {
    name: "dynamic_quantize",
    onnx: "",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::text("granularity")],
    arity: (1, 1),
    infer: &infer_dynamic,
    eval: Some(&eval_dynamic),
    expand: None,
    weights: None,
    gradient: None,
};

/// Attributes of both.
pub fn attrs(granularity: Granularity) -> Attrs {
    Attrs::new().with_str("granularity", if granularity == Granularity::Tensor { "tensor" } else { "row" })
}

fn granularity(attrs: &Attrs) -> Result<Granularity, OpError> {
    match attrs.str("granularity") {
        Some("row") => Ok(Granularity::Row),
        Some("tensor") => Ok(Granularity::Tensor),
        other => Err(OpError::attribute("granularity", format!("is {other:?}"))),
    }
}

fn floats<'a>(infer: &Infer<'a>) -> Result<&'a TensorType, OpError> {
    let x = infer.ty(0)?;
    if x.dtype.is_float() { Ok(x) } else { Err(OpError::operand(0, x, "floats")) }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let packing = Packing::activation(granularity(infer.attrs)?);
    let has_magnitude = infer.inputs.get(1).is_some_and(Option::is_some);
    if has_magnitude {
        let m = infer.ty(1)?;
        if *m != TensorType::of(DType::I32, &[]) || packing.granularity != Granularity::Tensor {
            return Err(OpError::operand(1, m, "the magnitude of a tensor with one scale, i32[]"));
        }
    }
    if infer.attrs.int("on_load").unwrap_or(0) != 0 && !has_magnitude {
        return Err(OpError::attribute("on_load", "needs the magnitude"));
    }
    Ok(vec![TensorType { dtype: DType::I8, shape: floats(infer)?.shape.clone(), packing: Some(packing) }])
}

fn infer_magnitude(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    floats(infer)?;
    Ok(vec![TensorType::of(DType::I32, &[])])
}

fn eval_magnitude(_: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let bits = magnitude_bits(&operand(inputs, 0)?.to_f32s()?);
    Ok(vec![Tensor::from_i64s(DType::I32, &[], &[i64::from(bits)])?])
}

fn infer_dynamic(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = floats(infer)?;
    let mut scale = TensorType::of(DType::F32, &[]);
    if granularity(infer.attrs)? == Granularity::Row {
        scale.shape = x.shape.clone();
        match scale.shape.0.last_mut() {
            Some(last) => *last = Dim::Known(1),
            None => return Err(OpError::operand(0, x, "rows")),
        }
    }
    Ok(vec![x.with_dtype(DType::I8), scale])
}

fn pack(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<(TensorType, usize, usize, Vec<u8>), OpError> {
    let x = operand(inputs, 0)?;
    let granularity = granularity(attrs)?;
    let dims = x.dims();
    let n_cols = dims.last().copied().unwrap_or(1);
    let n_rows = crate::ops::util::n_elems(&dims[..dims.len().saturating_sub(1)])?;
    let values = x.to_f32s()?;
    let magnitude = match inputs.get(1).copied().flatten() {
        Some(m) => m.to_i64s()?.first().and_then(|bits| u32::try_from(*bits).ok()),
        None => None,
    };
    let bytes = match magnitude {
        Some(bits) => quantize_within(&values, n_rows, n_cols, f32::from_bits(bits)),
        None => quantize_dynamic(&values, n_rows, n_cols, granularity),
    }
    .map_err(OpError::unsupported)?;
    let ty =
        TensorType { dtype: DType::I8, shape: x.ty().shape.clone(), packing: Some(Packing::activation(granularity)) };
    Ok((ty, n_rows, n_cols, bytes))
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (ty, _, _, bytes) = pack(attrs, inputs)?;
    Ok(vec![Tensor::from_bytes(ty, bytes)?])
}

fn eval_dynamic(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (ty, n_rows, n_cols, bytes) = pack(attrs, inputs)?;
    let packing = Packing::activation(granularity(attrs)?);
    let (codes, scales) = unpack(packing, n_rows, n_cols, &bytes).map_err(OpError::unsupported)?;
    let mut dims = ty.shape.known().unwrap_or_default();
    let codes =
        Tensor::from_bytes(TensorType::of(DType::I8, &dims), codes.iter().map(|c| c.cast_unsigned()).collect())?;
    match (packing.granularity, dims.last_mut()) {
        (Granularity::Row, Some(last)) => *last = 1,
        _ => dims.clear(),
    }
    Ok(vec![codes, Tensor::from_f32s(DType::F32, &dims, &scales)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Op;

    #[test]
    fn codes_and_scales_are_those_of_the_packed_form() {
        let x = Tensor::from_f32s(DType::F16, &[2, 3], &[1.0, -2.0, 0.5, 3.0, 0.25, -1.0]).unwrap();
        for (granularity, dims) in [(Granularity::Row, vec![2, 1]), (Granularity::Tensor, vec![])] {
            let packed =
                &crate::ops::reference::evaluate(&Op::new(&DEF, attrs(granularity)), &[Some(&x)], 1).unwrap()[0];
            let pair = crate::ops::reference::evaluate(&Op::new(&DYNAMIC, attrs(granularity)), &[Some(&x)], 2).unwrap();
            assert_eq!(pair[1].dims(), dims);
            let (codes, scales) = (pair[0].to_f32s().unwrap(), pair[1].to_f32s().unwrap());
            let product: Vec<f32> =
                (0..6).map(|i| codes[i] * scales[if dims.is_empty() { 0 } else { i / 3 }]).collect();
            assert_eq!(packed.to_f32s().unwrap().as_ref(), product);
        }
    }
}
