//! `gather_block_quantized`: look-ups in a table of codes, as ONNX Runtime's quantizer writes them.

use crate::ir::{Attrs, Class, DType, Dim, Expand, Infer, OpError, Shape, Tensor, TensorType, Val, attr, resolve_axis};
use crate::ops::compose::{dims, gather, sizes};
use crate::ops::contrib::n_bits::unpacked;
use crate::ops::core::quantize_linear::DEQUANTIZE;

written_out! {
    /// `gather_block_quantized(data, indices, scales, zeros?) {bits, block_size, gather_axis, quantize_axis}`:
    /// GatherBlockQuantized of com.microsoft, version 1: Gather of a DequantizeLinear by blocks. Bytes hold several
    /// codes along the last axis, the first in the low bits, and their zero point is the middle where none is given;
    /// that of 4-bit types is 0.
    DEF "gather_block_quantized" "com.microsoft::GatherBlockQuantized" (3, 4)
        [attr::int("bits"), attr::int("block_size"), attr::int("gather_axis"), attr::int("quantize_axis")] infer, expand;
}

/// What the attributes say of the table.
struct Table {
    /// Sizes in codes.
    dims: Vec<usize>,
    bits: u32,
    gather_axis: usize,
    quantize_axis: usize,
    block: usize,
}

impl Table {
    fn of(attrs: &Attrs, data: &TensorType) -> Result<Table, OpError> {
        let mut own = sizes(0, data)?;
        let bits = match (data.dtype, attrs.int("bits").unwrap_or(4)) {
            (DType::I4 | DType::U4, _) => 4,
            (DType::U8, bits @ (2 | 4 | 8)) => bits as u32,
            (DType::U8, bits) => return Err(OpError::attribute("bits", format!("is {bits}, expected 2, 4 or 8"))),
            _ => {
                let expected = "codes of type i4, u4 or u8: others are not supported, quantize to 2, 4 or 8 bits";
                return Err(OpError::operand(0, data, expected));
            }
        };
        let axis = |name: &'static str, default: i64| {
            let given = attrs.int(name).unwrap_or(default);
            resolve_axis(given, own.len())
                .ok_or_else(|| OpError::attribute(name, format!("is {given}, the table has {} axes", own.len())))
        };
        let (gather_axis, quantize_axis) = (axis("gather_axis", 0)?, axis("quantize_axis", 1)?);
        if data.dtype == DType::U8
            && let Some(last) = own.last_mut()
        {
            *last = last
                .checked_mul(8 / bits as usize)
                .ok_or_else(|| OpError::operand(0, data, "a table of fewer codes"))?;
        }
        let block = attrs.int("block_size").unwrap_or(128);
        let block = usize::try_from(block)
            .ok()
            .filter(|b| *b >= 16)
            .ok_or_else(|| OpError::attribute("block_size", format!("is {block}, expected 16 or more")))?;
        Ok(Table { dims: own, bits, gather_axis, quantize_axis, block })
    }

    /// The sizes of the scales.
    fn scales(&self) -> Vec<usize> {
        self.dims
            .iter()
            .enumerate()
            .map(|(i, &n)| if i == self.quantize_axis { n.div_ceil(self.block) } else { n })
            .collect()
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (data, indices, scales) = (infer.ty(0)?, infer.ty(1)?, infer.ty(2)?);
    let table = Table::of(infer.attrs, data)?;
    if indices.dtype.class() != Class::Int {
        return Err(OpError::operand(1, indices, "integers"));
    }
    let expected = Shape::of(&table.scales());
    if !scales.dtype.is_float() || scales.shape != expected {
        return Err(OpError::operand(2, scales, format!("floats {expected}")));
    }
    // Bytes are taken apart while compiling.
    for slot in [0, 3] {
        if data.dtype == DType::U8
            && infer.inputs.get(slot).copied().flatten().is_some()
            && infer.constant(slot).is_none()
        {
            return Err(OpError::NotConstant { slot });
        }
    }
    if let Some(zeros) = infer.inputs.get(3).copied().flatten() {
        let mut packed = table.scales();
        if let (DType::U8, Some(last)) = (data.dtype, packed.last_mut()) {
            *last = (*last * table.bits as usize).div_ceil(8);
        }
        if zeros.dtype != data.dtype || zeros.shape != Shape::of(&packed) {
            return Err(OpError::operand(3, zeros, TensorType::of(data.dtype, &packed)));
        }
    }
    let (before, after) = (&table.dims[..table.gather_axis], &table.dims[table.gather_axis + 1..]);
    let shape: Vec<Dim> = [dims(before), indices.shape.0.clone(), dims(after)].concat();
    Ok(vec![TensorType::new(scales.dtype, Shape(shape))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (data, indices, scales) = (e.input(0)?, e.input(1)?, e.input(2)?);
    let table = Table::of(e.attrs, &e.ty(data))?;
    let (mut codes, mut zeros) = (data, e.optional(3));
    if e.ty(data).dtype == DType::U8 {
        codes = apart(e, data, &table.dims, table.bits)?;
        zeros = Some(match zeros {
            Some(zeros) => apart(e, zeros, &table.scales(), table.bits)?,
            None => {
                let n = table.scales().iter().product();
                let middle =
                    Tensor::from_i64s(code_type(table.bits), &table.scales(), &vec![1 << (table.bits - 1); n])?;
                e.constant(middle)
            }
        });
    }
    let operands: Vec<Val> = [codes, scales].into_iter().chain(zeros).collect();
    let attrs = Attrs::new().with_int("axis", table.quantize_axis as i64).with_int("block_size", table.block as i64);
    let values = e.add(&DEQUANTIZE, attrs, &operands)?;
    Ok(vec![gather(e, values, indices, table.gather_axis)?])
}

/// Unsigned codes of so many bits.
fn code_type(bits: u32) -> DType {
    match bits {
        2 => DType::U2,
        4 => DType::U4,
        _ => DType::U8,
    }
}

/// Constant bytes as the codes `[dims]` that they hold, each row of the last axis in bytes of its own.
fn apart(e: &mut Expand<'_, '_>, bytes: Val, dims: &[usize], bits: u32) -> Result<Val, OpError> {
    let tensor = e.edit.constant(bytes).cloned().ok_or(OpError::NotConstant { slot: 0 })?;
    let count = dims.last().copied().unwrap_or(1);
    let rows = dims.iter().product::<usize>() / count.max(1);
    let codes: Vec<i64> = unpacked(tensor.bytes()?, rows, (count * bits as usize).div_ceil(8), count, bits)
        .into_iter()
        .map(i64::from)
        .collect();
    Ok(e.constant(Tensor::from_i64s(code_type(bits), dims, &codes)?))
}
