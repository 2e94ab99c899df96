//! LSTM of constant codes, whose activations go through 8 bits.

use super::expand::expand;
use super::{Kind, infer, too_long};
use crate::ir::expr::build::arg;
use crate::ir::{Attrs, DType, Dim, Expand, Infer, ONNX, Op, OpDef, OpError, Tensor, TensorType, Val, attr};
use crate::ops::compose::sizes;
use crate::ops::core::pointwise;
use crate::ops::core::quantize_linear::DEQUANTIZE;
use crate::ops::onnx::integer::DYNAMIC_QUANTIZE;
use crate::ops::onnx::linear_attention::MAX_STEPS;
use crate::ops::onnx::movement;

/// `dynamic_quantize_lstm(x, w, r, bias?, lengths?, initial_h?, initial_c?, peepholes?, w_scale, w_zero, r_scale,
/// r_zero) {...}`: DynamicQuantizeLSTM of com.microsoft, version 1: an LSTM whose weights `[directions, input, 4 *
/// hidden]` are constant codes, with a scale a direction or a column. Input and hidden state are quantized to 8 bits
/// where they are multiplied.
pub static DYNAMIC_QUANTIZE_LSTM: OpDef = OpDef {
    name: "dynamic_quantize_lstm",
    onnx: "com.microsoft::DynamicQuantizeLSTM",
    levels: ONNX,
    attrs: &[
        attr::int("hidden_size"),
        attr::text("direction"),
        attr::texts("activations"),
        attr::floats("activation_alpha"),
        attr::floats("activation_beta"),
        attr::float("clip"),
        attr::int("input_forget"),
    ],
    arity: (12, 12),
    infer: &infer_quantized,
    eval: None,
    expand: Some(&|e| expand(e, Kind::Lstm, Some(&Codes))),
    weights: None,
    gradient: None,
};

/// The weights of a DynamicQuantizeLSTM.
pub(super) struct Codes;

impl Codes {
    /// Operand `slot` (1 or 2: w or r) of a direction as floats `[4 * hidden, ...]`: views of a DequantizeLinear, which
    /// kernels read packed.
    pub fn of(&self, e: &mut Expand<'_, '_>, slot: usize, direction: usize) -> Result<Val, OpError> {
        let of = |e: &mut Expand<'_, '_>, slot: usize| -> Result<Val, OpError> {
            let tensor =
                e.inputs[slot].and_then(|v| e.edit.constant(v).cloned()).ok_or(OpError::NotConstant { slot })?;
            let own = tensor.dims();
            let each: usize = own[1..].iter().product();
            let first = direction * each;
            let one = if tensor.dtype().is_float() {
                Tensor::from_f32s(tensor.dtype(), &own[1..], &tensor.to_f32s()?[first..first + each])?
            } else {
                Tensor::from_i64s(tensor.dtype(), &own[1..], &tensor.to_i64s()?[first..first + each])?
            };
            Ok(e.constant(one))
        };
        let at = 6 + 2 * slot;
        let operands = [of(e, slot)?, of(e, at)?, of(e, at + 1)?];
        let values = e.add(&DEQUANTIZE, Attrs::new().with_int("axis", 1), &operands)?;
        movement::transpose(e, values, &[1, 0])
    }
}

/// The type of an LSTM's weights for codes in transposed layout.
pub(super) fn transposed(codes: &TensorType) -> Result<TensorType, OpError> {
    let [directions, rows, columns] = sizes(1, codes)?[..] else {
        return Err(OpError::operand(1, codes, "[directions, input, 4 * hidden]"));
    };
    Ok(TensorType::of(DType::F32, &[directions, columns, rows]))
}

fn infer_quantized(given: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    for slot in [1, 2, 8, 9, 10, 11] {
        let ty = given.ty(slot)?;
        if given.constant(slot).is_none() {
            return Err(OpError::NotConstant { slot });
        }
        let directions = given.ty(1)?.shape.0.first();
        let columns = given.ty(if slot == 1 || (8..10).contains(&slot) { 1 } else { 2 })?.shape.0.last();
        let fits = match (slot, &ty.shape.0[..]) {
            (1 | 2, [_, _, _]) => matches!(ty.dtype, DType::U8 | DType::I8),
            (_, [d]) => Some(d) == directions,
            (_, [d, n]) => Some(d) == directions && Some(n) == columns,
            _ => false,
        };
        if !fits
            || slot > 7 && slot % 2 == 0 && !ty.dtype.is_float()
            || slot > 7 && slot % 2 == 1 && ty.dtype != given.ty((slot - 7) / 2)?.dtype
        {
            return Err(OpError::operand(
                slot,
                ty,
                "codes of 8 bits [directions, input, 4 * hidden], or one scale or zero point a direction or column of them",
            ));
        }
    }
    let (w, r) = (transposed(given.ty(1)?)?, transposed(given.ty(2)?)?);
    // In parts, what 8 bits hold of the input would be another.
    if let Some(steps) = given.ty(0)?.shape.0.first().and_then(Dim::known).filter(|steps| *steps > MAX_STEPS as i64) {
        return Err(too_long(steps as usize));
    }
    let mut inputs = given.inputs[..8].to_vec();
    (inputs[1], inputs[2]) = (Some(&w), Some(&r));
    infer(
        &Infer { attrs: given.attrs, inputs: &inputs, consts: &[None; 8], sizes: &[], n_outputs: given.n_outputs },
        Kind::Lstm,
    )
}

/// x as what 8 bits hold of it: DynamicQuantizeLinear and back.
pub(super) fn through_8_bits(e: &mut Expand<'_, '_>, x: Val) -> Result<Val, OpError> {
    let dtype = e.ty(x).dtype;
    let op = Op::new(&DYNAMIC_QUANTIZE, Attrs::new());
    let quantized = e.edit.add_all(op, &[Some(x)], 3).map_err(|e| OpError::Edit(Box::new(e)))?;
    pointwise::add(e, (arg(0) - arg(2)).to_float() * arg(1), dtype, &[quantized[0], quantized[1], quantized[2]])
}
