//! `quantize_linear` and `dequantize_linear`: floats to codes and back, with scales given.

use crate::ir::expr::build::{arg, select};
use crate::ir::{
    Attrs, CORE, Class, DType, Differentiate, Dim, Expand, Expr, Gains, Infer, KERNEL, ONNX, Op, OpDef, OpError, Shape,
    Tensor, TensorType, Val, attr, minifloat,
};
use crate::ops::core::{pointwise, reshape};
use crate::ops::reference::real::Real;
use crate::ops::util::{
    agree, between, class_of, dtype_attr, finish, finish_floats, is_double, n_elems, operand, result,
};

/// `quantize_linear(x, scale, zero_point?) {axis, block_size, output_dtype}`: ONNX QuantizeLinear, opset 21: `x /
/// scale`, rounded half to even, plus the zero point, saturated.
pub static DEF: OpDef = OpDef {
    name: "quantize_linear",
    onnx: "QuantizeLinear",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::int("axis"),
        attr::int("block_size"),
        attr::dtype("output_dtype"),
        attr::int("saturate"),
        attr::dtype("precision"),
        attr::dtype("dtype"),
    ],
    arity: (2, 3),
    infer: &infer_quantize,
    eval: Some(&eval_quantize),
    expand: None,
    weights: None,
    gradient: Some(&gradient_quantize),
};

/// `dequantize_linear(x, scale, zero_point?) {axis, block_size, coding}`: ONNX DequantizeLinear, opset 21: `(x -
/// zero_point) * scale`. `coding` says how kernels store codes of INT8 that are all of a narrower coding
/// ([`Coding`](crate::ir::packed::Coding)); it changes no value.
pub static DEQUANTIZE: OpDef = OpDef {
    name: "dequantize_linear",
    onnx: "DequantizeLinear",
    levels: ONNX | CORE | KERNEL,
    attrs: &[
        attr::int("axis"),
        attr::int("block_size"),
        attr::dtype("output_dtype"),
        attr::dtype("dtype"),
        attr::text("coding"),
    ],
    arity: (2, 3),
    infer: &infer_dequantize,
    eval: Some(&eval_dequantize),
    expand: None,
    weights: None,
    gradient: Some(&gradient_dequantize),
};

/// The range of codes of an integer type of up to 16 bits.
pub fn range(dtype: DType) -> Option<(i64, i64)> {
    Some(match dtype {
        DType::I2 => (-2, 1),
        DType::U2 => (0, 3),
        DType::I4 => (-8, 7),
        DType::U4 => (0, 15),
        DType::I8 => (-128, 127),
        DType::U8 => (0, 255),
        DType::I16 => (-32768, 32767),
        DType::U16 => (0, 65535),
        _ => return None,
    })
}

/// The type of the codes: what is asked for, that of the zero point, or u8.
fn codes(attrs: &Attrs, zero_point: Option<DType>) -> Result<DType, OpError> {
    let asked = dtype_attr(attrs, "output_dtype");
    let dtype = asked.or(zero_point).unwrap_or(DType::U8);
    if range(dtype).is_none() && !dtype.is_minifloat() || zero_point.is_some_and(|z| z != dtype) {
        return Err(OpError::unsupported(format!("codes of type {dtype} with a zero point of type {zero_point:?}")));
    }
    Ok(dtype)
}

/// Refuses scales whose shape is none of: one, one an index of the axis, one a block of the axis.
fn check(attrs: &Attrs, x: &Shape, scale: &Shape, zero_point: Option<&Shape>) -> Result<(), OpError> {
    let refuse = |given: &Shape| OpError::operand(1, given, format!("a scalar, or scales along attribute axis of {x}"));
    if zero_point.is_some_and(|z| {
        z != scale && (z.volume(), scale.volume()) != (crate::ir::Dim::Known(1), crate::ir::Dim::Known(1))
    }) {
        return Err(refuse(zero_point.unwrap_or(scale)));
    }
    let block = attrs.int("block_size").unwrap_or(0);
    if block == 0 && scale.n_elems() == Some(1) && scale.rank() <= 1 {
        return Ok(());
    }
    let axis = crate::ops::util::axis_attr(attrs, 1, x.rank())?;
    if block == 0 {
        return if scale.rank() == 1 && agree(&scale.0[0], &x.0[axis]) { Ok(()) } else { Err(refuse(scale)) };
    }
    let blocks = |dim: &Dim| dim.div_ceil(block.unsigned_abs());
    let fits = |i: usize| {
        if i == axis {
            agree(&scale.0[i], &blocks(&x.0[i])) && scale.0[i].known() != Some(0)
        } else {
            agree(&scale.0[i], &x.0[i])
        }
    };
    if block > 0 && scale.rank() == x.rank() && (0..x.rank()).all(fits) { Ok(()) } else { Err(refuse(scale)) }
}

fn checked<'a>(
    infer: &Infer<'a>,
    x_class: Class,
) -> Result<(&'a TensorType, &'a TensorType, Option<&'a TensorType>), OpError> {
    let (x, scale) = (infer.ty(0)?, infer.ty(1)?);
    let zero_point = infer.inputs.get(2).copied().flatten();
    let fits = class_of(x) == x_class || x_class == Class::Int && x.dtype.is_minifloat();
    if !fits || x.packing.is_some() {
        return Err(OpError::operand(0, x, format!("{x_class:?}s")));
    }
    if !scale.dtype.is_float() {
        return Err(OpError::operand(1, scale, "floats"));
    }
    check(infer.attrs, &x.shape, &scale.shape, zero_point.map(|z| &z.shape))?;
    Ok((x, scale, zero_point))
}

fn infer_quantize(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, _, zero_point) = checked(infer, Class::Float)?;
    let dtype = codes(infer.attrs, zero_point.map(|z| z.dtype))?;
    if dtype.is_minifloat() && infer.attrs.int("saturate").unwrap_or(1) == 0 {
        return Err(OpError::attribute("saturate", format!("is 0, which is not supported for {dtype}")));
    }
    result(infer, dtype.class(), dtype, x.shape.clone())
}

fn infer_dequantize(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, scale, zero_point) = checked(infer, Class::Int)?;
    if zero_point.is_some_and(|z| z.dtype != x.dtype) {
        return Err(OpError::operand(2, x, format!("a zero point of type {}", x.dtype)));
    }
    result(infer, Class::Float, dtype_attr(infer.attrs, "output_dtype").unwrap_or(scale.dtype), x.shape.clone())
}

/// A use of either operator as one expression; `None` where blocks do not divide their axis, or codes are floats that
/// must be rounded to.
///
/// # Errors
/// The operands do not fit each other.
pub fn written_out(e: &mut Expand<'_, '_>, op: &Op) -> Result<Option<Val>, OpError> {
    let (x, scale, zero) = (e.input(0)?, e.input(1)?, e.optional(2));
    let (ty, scale_ty, result) = (e.ty(x), e.ty(scale), e.outputs[0].clone());
    let expr = match (op.is(&DEF), range(result.dtype), zero.filter(|_| !ty.dtype.is_minifloat())) {
        (true, None, _) => return Ok(None),
        (true, Some((low, high)), zero) => {
            let code =
                if zero.is_some() { (arg(0) / arg(1)).round() + arg(2).to_float() } else { (arg(0) / arg(1)).round() };
            code.max(low as f32).min(high as f32).to_int()
        }
        (false, _, Some(_)) => (arg(0) - arg(2)).to_float() * arg(1),
        (false, _, None) => arg(0).to_float() * arg(1),
    };
    let Some(Spread { wide, narrow }) = Spread::of(e.attrs, &ty.shape, &scale_ty.shape)? else { return Ok(None) };
    let x = crate::ops::core::reshape::to(e, x, wide)?;
    let mut operands = vec![x, crate::ops::core::reshape::to(e, scale, narrow.clone())?];
    if expr.n_args() > 2 {
        let zero = zero.ok_or(OpError::MissingOperand { slot: 2 })?;
        operands.push(crate::ops::core::reshape::to(e, zero, narrow)?);
    }
    let y = crate::ops::core::pointwise::add(e, expr, result.dtype, &operands)?;
    Ok(Some(crate::ops::core::reshape::to(e, y, result.shape.0)?))
}

/// The shapes in which scales broadcast over elements: one each, one an index of the axis, or one a block.
struct Spread {
    /// The elements', their axis split into blocks.
    wide: Vec<Dim>,
    /// The scales', of the same rank.
    narrow: Vec<Dim>,
}

impl Spread {
    /// `None` where blocks do not divide their axis.
    fn of(attrs: &Attrs, x: &Shape, scale: &Shape) -> Result<Option<Spread>, OpError> {
        let block = usize::try_from(attrs.int("block_size").unwrap_or(0)).unwrap_or(0);
        let (mut wide, mut narrow) = (x.0.clone(), vec![Dim::Known(1); x.rank()]);
        if block == 0 && scale.n_elems() == Some(1) {
            return Ok(Some(Spread { wide, narrow }));
        }
        let axis = crate::ops::util::axis_attr(attrs, 1, x.rank())?;
        if block == 0 {
            if scale.0[..] != x.0[axis..=axis] {
                return Ok(None);
            }
            narrow[axis] = x.0[axis].clone();
        } else {
            // Blocks that may be cut short at some sizes stay with the host.
            let n_blocks = &scale.0[axis];
            if n_blocks * &Dim::from(block) != x.0[axis] {
                return Ok(None);
            }
            wide.splice(axis..=axis, [n_blocks.clone(), Dim::from(block)]);
            narrow.clone_from(&scale.0);
            narrow.insert(axis + 1, Dim::Known(1));
        }
        Ok(Some(Spread { wide, narrow }))
    }
}

/// Calls `f(element, index of its scale)` for every element of x.
fn each(attrs: &Attrs, x: &Tensor, scale: &Tensor, mut f: impl FnMut(usize, usize)) -> Result<(), OpError> {
    check(attrs, &x.ty().shape, &scale.ty().shape, None)?;
    let dims = x.dims();
    let n = n_elems(&dims)?;
    let block = usize::try_from(attrs.int("block_size").unwrap_or(0)).unwrap_or(0);
    if block == 0 && scale.ty().shape.n_elems() == Some(1) {
        (0..n).for_each(|i| f(i, 0));
        return Ok(());
    }
    let axis = crate::ops::util::axis_attr(attrs, 1, dims.len())?;
    let inner: usize = dims[axis + 1..].iter().product();
    for i in 0..n {
        let (outer, at) = (i / inner / dims[axis], i / inner % dims[axis]);
        f(i, if block == 0 { at } else { (outer * dims[axis].div_ceil(block) + at / block) * inner + i % inner });
    }
    Ok(())
}

fn zero_points(inputs: &[Option<&Tensor>]) -> Result<Vec<i64>, OpError> {
    inputs.get(2).copied().flatten().map_or(Ok(Vec::new()), |z| Ok(z.to_i64s()?))
}

fn eval_quantize(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    if is_double(attrs, inputs) { quantized::<f64>(attrs, inputs) } else { quantized::<f32>(attrs, inputs) }
}

fn quantized<F: Real>(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (x, scale) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let dtype = codes(attrs, inputs.get(2).copied().flatten().map(Tensor::dtype))?;
    let (low, high) = range(dtype).unwrap_or((0, 0));
    let (data, scales, zeros) = (F::elements(x)?, F::elements(scale)?, zero_points(inputs)?);
    if let Some(max) = minifloat::max(dtype) {
        // Such codes have no zero point but zero.
        let max = F::of_f32(max);
        let mut out = vec![F::zero(); data.len()];
        // NaN stays NaN.
        let clamped = |v: F| {
            if v > max {
                max
            } else if v < -max {
                -max
            } else {
                v
            }
        };
        each(attrs, x, scale, |i, at| out[i] = clamped(data[i] / scales[at]))?;
        return finish(attrs, F::stored(dtype, &x.dims(), out)?, dtype, &[]);
    }
    let mut out = vec![0i64; data.len()];
    each(attrs, x, scale, |i, at| {
        // The sum saturates in i64, so that infinities give the extreme codes.
        let code = Real::round_ties_even(data[i] / scales[at]).to_i64();
        out[i] = code.saturating_add(zeros.get(at).copied().unwrap_or(0)).clamp(low, high);
    })?;
    finish(attrs, Tensor::from_i64s(dtype, &x.dims(), &out)?, dtype, &[])
}

fn eval_dequantize(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    if is_double(attrs, inputs) { dequantized::<f64>(attrs, inputs) } else { dequantized::<f32>(attrs, inputs) }
}

fn dequantized<F: Real>(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (x, scale) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let mut out = vec![F::zero(); n_elems(&x.dims())?];
    let stored = dtype_attr(attrs, "output_dtype").unwrap_or(scale.dtype());
    let scales = F::elements(scale)?;
    if x.dtype().is_minifloat() {
        let data = F::elements(x)?;
        each(attrs, x, scale, |i, at| out[i] = data[i] * scales[at])?;
        return finish_floats(attrs, &x.dims(), out, stored, &[]);
    }
    let (data, zeros) = (x.to_i64s()?, zero_points(inputs)?);
    each(attrs, x, scale, |i, at| {
        out[i] = F::of_i64(data[i].wrapping_sub(zeros.get(at).copied().unwrap_or(0))) * scales[at]
    })?;
    finish_floats(attrs, &x.dims(), out, stored, &[])
}

/// What elements and scales gain, each where the expressions say, of the gain `x0`, the elements `x1`, their scale `x2`
/// and their zero point `x3`.
fn spread_gains(d: &mut Differentiate<'_, '_>, of_x: Expr, of_scale: Expr) -> Result<Gains, OpError> {
    let (x, scale, gain) = (d.input(0)?, d.input(1)?, d.gain()?);
    let (ty, scale_ty, dtype) = (d.ty(x), d.ty(scale), d.ty(gain).dtype);
    let spread = Spread::of(d.attrs, &ty.shape, &scale_ty.shape)?;
    let Spread { wide, narrow } =
        spread.ok_or_else(|| OpError::unsupported("the derivative of blocks that do not divide their axis"))?;
    let mut operands = vec![reshape::to(d, gain, wide.clone())?, reshape::to(d, x, wide)?];
    operands.push(reshape::to(d, scale, narrow.clone())?);
    let zero = d.optional(2).filter(|_| !d.outputs[0].dtype.is_minifloat() && !ty.dtype.is_minifloat());
    operands.extend(zero.map(|zero| reshape::to(d, zero, narrow.clone())).transpose()?);
    let mut parts = vec![None; d.inputs.len()];
    if d.wants(0) {
        let part = pointwise::add(d, of_x, dtype, &operands)?;
        parts[0] = Some(reshape::to(d, part, ty.shape.0)?);
    }
    if d.wants(1) {
        let part = pointwise::add(d, of_scale, between(dtype), &operands)?;
        let like = TensorType::new(between(dtype), Shape(narrow));
        let part = crate::ops::differentiate::fitted(d, part, &like)?;
        parts[1] = Some(reshape::to(d, part, scale_ty.shape.0)?);
    }
    Ok(Gains::Are(parts))
}

/// Straight through the rounding: a code within the range gains what `x / scale` does, and one that was saturated
/// nothing.
fn gradient_quantize(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let dtype = d.outputs[0].dtype;
    let ratio = arg(1) / arg(2);
    let inside = match (range(dtype), minifloat::max(dtype)) {
        (Some((low, high)), _) => {
            let zero = if d.optional(2).is_some() { arg(3).to_float() } else { 0.0.into() };
            let code = ratio.round() + zero;
            code.clone().at_least(low as f32).and(code.at_most(high as f32))
        }
        (None, Some(max)) => ratio.abs().at_most(max),
        (None, None) => return Err(OpError::unsupported(format!("the derivative of codes of type {dtype}"))),
    };
    let of_x = select(inside.clone(), arg(0) / arg(2), 0.0);
    let of_scale = select(inside, -(arg(0) * arg(1) / (arg(2) * arg(2))), 0.0);
    spread_gains(d, of_x, of_scale)
}

fn gradient_dequantize(d: &mut Differentiate<'_, '_>) -> Result<Gains, OpError> {
    let has_zero = d.optional(2).is_some() && !d.ty(d.input(0)?).dtype.is_minifloat();
    let value = if has_zero { (arg(1) - arg(3)).to_float() } else { arg(1).to_float() };
    spread_gains(d, arg(0) * arg(2), arg(0) * value)
}
