//! `mat_mul_n_bits`: a product with constant codes of few bits by blocks, as ONNX Runtime's weight-only quantizer
//! writes it.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, DType, Dim, Expand, Infer, OpError, Shape, Tensor, TensorType, Val, attr};
use crate::ops::compose::{cast, dims, gather, reduce};
use crate::ops::core::{matmul, pointwise, quantize_linear, reshape};

written_out! {
    /// `mat_mul_n_bits(a, b, scales, zeros?, groups?, bias?) {K, N, bits, block_size}`: MatMulNBits of com.microsoft,
    /// version 1: MatMul with constant codes of 2, 4 or 8 bits, `block_size` of the depth sharing a scale and a zero
    /// point. Zero points are packed as the codes are, or floats, one a block, and the middle of the codes where
    /// absent. `groups` says for each index of the depth which block it belongs to. Without codes the product is zero.
    DEF "mat_mul_n_bits" "com.microsoft::MatMulNBits" (3, 6)
        [attr::int("K"), attr::int("N"), attr::int("bits"), attr::int("block_size"), attr::int("accuracy_level"), attr::int("weight_prepacked")]
        infer, expand;
}

/// Sizes of a product with packed codes.
struct Sizes {
    depth: usize,
    columns: usize,
    bits: u32,
    /// Codes that share a scale.
    block: usize,
    n_blocks: usize,
}

impl Sizes {
    fn of(attrs: &Attrs) -> Result<Sizes, OpError> {
        let number = |name: &'static str| {
            let given = attrs.int(name).and_then(|n| usize::try_from(n).ok()).filter(|n| (1..=1 << 24).contains(n));
            given.ok_or_else(|| OpError::attribute(name, "is missing or out of range"))
        };
        let bits = match attrs.int("bits").unwrap_or(4) {
            bits @ (2 | 4 | 8) => bits as u32,
            other => {
                return Err(OpError::attribute(
                    "bits",
                    format!("is {other}, which is not supported: quantize to 2, 4 or 8"),
                ));
            }
        };
        if let Some(layout) = attrs.int("weight_prepacked").filter(|layout| *layout != 0) {
            let problem =
                format!("is {layout}, which is not supported: save the weights as the quantizer packs them, with 0");
            return Err(OpError::attribute("weight_prepacked", problem));
        }
        let (depth, columns, block) = (number("K")?, number("N")?, number("block_size")?);
        if !block.is_power_of_two() || block < 16 {
            return Err(OpError::attribute("block_size", format!("is {block}, expected a power of two from 16 on")));
        }
        Ok(Sizes { depth, columns, bits, block, n_blocks: depth.div_ceil(block) })
    }

    /// Bytes of the codes of one block.
    fn blob(&self) -> usize {
        self.block * self.bits as usize / 8
    }

    /// Bytes of the zero points of one column.
    fn zeros(&self) -> usize {
        (self.n_blocks * self.bits as usize).div_ceil(8)
    }

    fn middle(&self) -> i64 {
        1 << (self.bits - 1)
    }

    /// Signed codes of as many bits.
    fn dtype(&self) -> DType {
        match self.bits {
            2 => DType::I2,
            4 => DType::I4,
            _ => DType::I8,
        }
    }
}

fn has(ty: &TensorType, count: usize) -> bool {
    ty.shape.n_elems() == Some(count as u64)
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (a, b, scales) = (infer.ty(0)?, infer.ty(1)?, infer.ty(2)?);
    let s = Sizes::of(infer.attrs)?;
    let present = |slot: usize| infer.inputs.get(slot).copied().flatten();
    if !a.dtype.is_float() || a.packing.is_some() || a.shape.0.last() != Some(&Dim::Known(s.depth as i64)) {
        return Err(OpError::operand(0, a, format!("floats [...,{}]", s.depth)));
    }
    if let Some(bias) = present(5).filter(|bias| !bias.dtype.is_float() || !has(bias, s.columns)) {
        return Err(OpError::operand(5, bias, format!("{} floats", s.columns)));
    }
    let mut shape = a.shape.clone();
    if let Some(last) = shape.0.last_mut() {
        *last = Dim::Known(s.columns as i64);
    }
    let result = vec![TensorType::new(a.dtype, shape)];
    if has(b, 0) {
        return Ok(result);
    }
    // Zero points that are floats may be computed.
    for slot in [1, 3, 4] {
        if present(slot).is_some_and(|ty| !ty.dtype.is_float()) && infer.constant(slot).is_none() {
            return Err(OpError::NotConstant { slot });
        }
    }
    if b.dtype != DType::U8 || !has(b, s.columns * s.n_blocks * s.blob()) {
        return Err(OpError::operand(1, b, format!("u8[{},{},{}]", s.columns, s.n_blocks, s.blob())));
    }
    if !scales.dtype.is_float() || !has(scales, s.columns * s.n_blocks) {
        return Err(OpError::operand(2, scales, format!("floats [{},{}]", s.columns, s.n_blocks)));
    }
    if let Some(zeros) = present(3) {
        let fits = match zeros.dtype {
            DType::U8 => has(zeros, s.columns * s.zeros()),
            dtype => dtype.is_float() && has(zeros, s.columns * s.n_blocks),
        };
        if !fits {
            let expected = format!("u8[{},{}] or floats [{},{}]", s.columns, s.zeros(), s.columns, s.n_blocks);
            return Err(OpError::operand(3, zeros, expected));
        }
    }
    if let (Some(ty), Some(groups)) = (present(4), infer.constant(4)) {
        let fits = [s.depth, s.n_blocks * s.block].iter().any(|n| has(ty, *n));
        if !fits || groups.to_i64s()?.iter().take(s.depth).any(|g| !(0..s.n_blocks as i64).contains(g)) {
            return Err(OpError::operand(4, ty, format!("{} numbers of {} blocks", s.depth, s.n_blocks)));
        }
    }
    Ok(result)
}

/// Rows of `count` codes of 2, 4 or 8 bits each, `pitch` bytes apart, the first codes of a byte in its low bits.
pub(crate) fn unpacked(bytes: &[u8], rows: usize, pitch: usize, count: usize, bits: u32) -> Vec<u8> {
    let (each, mask) = (bits as usize, (u16::MAX >> (16 - bits)) as u8);
    let code = |row: usize, i: usize| bytes[row * pitch + i * each / 8] >> (i * each % 8) & mask;
    (0..rows).flat_map(|row| (0..count).map(move |i| code(row, i))).collect()
}

/// Zero points, one for each column and block.
enum Zeros {
    /// Integers less the middle.
    Codes(Vec<i64>),
    /// Floats `[columns, blocks]`.
    Floats(Val),
}

impl Zeros {
    fn of(e: &mut Expand<'_, '_>, s: &Sizes) -> Result<Zeros, OpError> {
        let Some(zeros) = e.optional(3) else { return Ok(Zeros::Codes(vec![0; s.columns * s.n_blocks])) };
        let (middle, is_float) = (s.middle(), e.ty(zeros).dtype.is_float());
        match e.edit.constant(zeros) {
            Some(codes) if !is_float => {
                let codes = unpacked(codes.bytes()?, s.columns, s.zeros(), s.n_blocks, s.bits);
                return Ok(Zeros::Codes(codes.into_iter().map(|code| i64::from(code) - middle).collect()));
            }
            Some(values) => {
                let values = values.to_f32s()?;
                if values.iter().all(|v| v.fract() == 0.0 && (0.0..2.0 * middle as f32).contains(v)) {
                    return Ok(Zeros::Codes(values.iter().map(|&v| v as i64 - middle).collect()));
                }
            }
            None => {}
        }
        Ok(Zeros::Floats(reshape::to(e, zeros, dims(&[s.columns, s.n_blocks]))?))
    }
}

/// In which order the depth has its blocks one after the other; `None` where it has. The second is none where blocks
/// are not full.
fn order(s: &Sizes, groups: &[i64]) -> Option<Option<Vec<usize>>> {
    let in_place = |(at, group): (usize, &i64)| *group == (at / s.block) as i64;
    if groups.iter().enumerate().all(in_place) {
        return None;
    }
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&at| groups[at]);
    let is_full = order.iter().enumerate().all(|(place, &at)| in_place((place, &groups[at])));
    Some(is_full.then_some(order))
}

/// Codes become signed ones around zero, so that kernels read them packed; with zero points of their own they keep
/// these.
fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let s = Sizes::of(e.attrs)?;
    let (a, b) = (e.input(0)?, e.input(1)?);
    let result = e.outputs[0].clone();
    let own = e.ty(a).shape.0;
    let n_rows = Shape(own[..own.len() - 1].to_vec()).volume();
    let product = if has(&e.ty(b), 0) {
        let zero = Tensor::from_f32s(result.dtype, &[1, 1], &[0.0])?;
        let zero = e.constant(zero);
        crate::ops::onnx::movement::broadcast_to(e, zero, vec![n_rows, Dim::from(s.columns)])?
    } else {
        let rows = reshape::to(e, a, vec![n_rows, Dim::from(s.depth)])?;
        multiplied(e, &s, rows, result.dtype)?
    };
    let y = reshape::to(e, product, result.shape.0)?;
    let Some(bias) = e.optional(5) else { return Ok(vec![y]) };
    let bias = cast(e, bias, result.dtype)?;
    let bias = reshape::to(e, bias, dims(&[s.columns]))?;
    Ok(vec![pointwise::add(e, arg(0) + arg(1), result.dtype, &[y, bias])?])
}

/// The product of `[rows, depth]` with the codes.
fn multiplied(e: &mut Expand<'_, '_>, s: &Sizes, mut rows: Val, dtype: DType) -> Result<Val, OpError> {
    let constant = |e: &Expand<'_, '_>, slot: usize| {
        e.optional(slot).map(|v| e.edit.constant(v).cloned().ok_or(OpError::NotConstant { slot })).transpose()
    };
    let bytes = constant(e, 1)?.ok_or(OpError::MissingOperand { slot: 1 })?;
    let pitch = s.n_blocks * s.blob();
    let mut codes: Vec<i64> = unpacked(bytes.bytes()?, s.columns, pitch, s.depth, s.bits)
        .into_iter()
        .map(|code| i64::from(code) - s.middle())
        .collect();
    let zeros = Zeros::of(e, s)?;
    let groups = constant(e, 4)?.map(|groups| groups.to_i64s()).transpose()?;
    match groups.and_then(|groups| order(s, groups.get(..s.depth).unwrap_or(&groups)).map(|order| (order, groups))) {
        None => {}
        // Columns of both operands in the order of their blocks: the codes stay packed.
        Some((Some(order), _)) => {
            codes = codes.chunks(s.depth).flat_map(|row| order.iter().map(|&at| row[at])).collect();
            let order: Vec<i64> = order.into_iter().map(|at| at as i64).collect();
            let order = e.constant(Tensor::from_i64s(DType::I64, &[s.depth], &order)?);
            rows = gather(e, rows, order, 1)?;
        }
        Some((None, groups)) => return spread(e, s, rows, &codes, &zeros, &groups, dtype),
    }
    let scales = e.input(2)?;
    let scales = reshape::to(e, scales, dims(&[s.columns, s.n_blocks]))?;
    let codes = e.constant(Tensor::from_i64s(s.dtype(), &[s.columns, s.depth], &codes)?);
    let mut operands = vec![codes, scales];
    if let Zeros::Codes(zeros) = &zeros
        && zeros.iter().any(|zero| *zero != 0)
    {
        operands.push(e.constant(Tensor::from_i64s(s.dtype(), &[s.columns, s.n_blocks], zeros)?));
    }
    let attrs = Attrs::new().with_int("axis", 1).with_int("block_size", s.block as i64);
    let weights = e.add(&quantize_linear::DEQUANTIZE, attrs, &operands)?;
    let y = e.add(&matmul::DEF, matmul::attrs(true).with_dtype("dtype", dtype), &[rows, weights])?;
    let Zeros::Floats(zeros) = zeros else { return Ok(y) };
    // Less the zero points, each times its scale and the sum of the block.
    let missing = s.n_blocks * s.block - s.depth;
    let whole = if missing == 0 {
        rows
    } else {
        crate::ops::onnx::pad::padded(
            e,
            rows,
            &[(0, 0), (0, missing as i64)],
            crate::ops::core::strided::Fill::default(),
        )?
    };
    let n_rows = e.ty(rows).shape.0[0].clone();
    let blocks = reshape::to(e, whole, vec![n_rows, Dim::from(s.n_blocks), Dim::from(s.block)])?;
    let sums = reduce(e, "sum", blocks, &[2], false)?;
    let expr = (arg(0) - (s.middle() as f32)) * arg(1);
    let offsets = pointwise::add(e, expr, DType::F32, &[zeros, scales])?;
    let less = e.add(&matmul::DEF, matmul::attrs(true).with_dtype("dtype", dtype), &[sums, offsets])?;
    pointwise::add(e, arg(0) - arg(1), dtype, &[y, less])
}

/// The product where blocks are not of one size: each code has a scale of its own, so the weights are floats.
fn spread(
    e: &mut Expand<'_, '_>,
    s: &Sizes,
    rows: Val,
    codes: &[i64],
    zeros: &Zeros,
    groups: &[i64],
    dtype: DType,
) -> Result<Val, OpError> {
    let centred: Vec<f32> = codes
        .iter()
        .enumerate()
        .map(|(i, &code)| match zeros {
            Zeros::Codes(zeros) => (code - zeros[i / s.depth * s.n_blocks + groups[i % s.depth] as usize]) as f32,
            Zeros::Floats(_) => (code + s.middle()) as f32,
        })
        .collect();
    let centred = e.constant(Tensor::from_f32s(DType::F32, &[s.columns, s.depth], &centred)?);
    let groups = e.constant(Tensor::from_i64s(DType::I64, &[s.depth], &groups[..s.depth])?);
    let scales = e.input(2)?;
    let scales = reshape::to(e, scales, dims(&[s.columns, s.n_blocks]))?;
    let mut operands = vec![centred, gather(e, scales, groups, 1)?];
    let expr = if let Zeros::Floats(zeros) = zeros {
        operands.push(gather(e, *zeros, groups, 1)?);
        (arg(0) - arg(2)) * arg(1)
    } else {
        arg(0) * arg(1)
    };
    let weights = pointwise::add(e, expr, DType::F32, &operands)?;
    e.add(&matmul::DEF, matmul::attrs(true).with_dtype("dtype", dtype), &[rows, weights])
}
