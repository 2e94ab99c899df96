//! ONNX CenterCropPad: crops and pads around a centre.

use crate::ir::{Attrs, Dim, ONNX, OpDef, OpError, Shape, TensorType, attr, resolve_axis};
use crate::ops::compose::sizes;

/// `center_crop_pad(x, shape) {axes}`: ONNX CenterCropPad, opset 18; the shape is a constant.
pub static DEF: OpDef = OpDef {
    name: "center_crop_pad",
    onnx: "CenterCropPad",
    levels: ONNX,
    attrs: &[attr::ints("axes")],
    arity: (2, 2),
    infer: &|i| {
        let x = i.ty(0)?;
        let pads = crop(i.attrs, x, i.ints(1)?)?;
        let shape = x.shape.0.iter().zip(pads).map(|(n, (before, after))| n + &Dim::Known(before + after)).collect();
        Ok(vec![TensorType::new(x.dtype, Shape(shape))])
    },
    eval: None,
    expand: Some(&|e| {
        let x = e.input(0)?;
        let pads = crop(e.attrs, &e.ty(x), e.ints(1)?)?;
        Ok(vec![crate::ops::onnx::pad::padded(e, x, &pads, crate::ops::core::strided::Fill::default())?])
    }),
    weights: None,
    gradient: None,
};

/// Elements added before and after each axis; less than none where some go.
fn crop(attrs: &Attrs, x: &TensorType, wanted: Option<Vec<i64>>) -> Result<Vec<(i64, i64)>, OpError> {
    let wanted = wanted.ok_or(OpError::MissingOperand { slot: 1 })?;
    let own = sizes(0, x)?;
    let axes = attrs.ints("axes").map_or_else(|| (0..own.len() as i64).collect(), <[i64]>::to_vec);
    if axes.len() != wanted.len() || wanted.iter().any(|n| !(1..1 << 31).contains(n)) || x.packing.is_some() {
        return Err(OpError::operand(1, format!("{wanted:?}"), format!("sizes for {} axes", axes.len())));
    }
    let mut pads = vec![(0, 0); own.len()];
    for (axis, wanted) in axes.iter().zip(wanted) {
        let axis =
            resolve_axis(*axis, own.len()).ok_or_else(|| OpError::attribute("axes", format!("has {axis} for {x}")))?;
        let more = wanted - own[axis] as i64;
        // A crop begins, and a pad ends, with what cannot be halved.
        let before = if more >= 0 { more / 2 } else { -(-more / 2) };
        pads[axis] = (before, more - before);
    }
    Ok(pads)
}
