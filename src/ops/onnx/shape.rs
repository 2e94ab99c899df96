//! Operators whose results are known once shapes are: they become constants, or expressions of the sizes that change
//! between runs.

use crate::ir::{
    Attr, Attrs, Class, DType, Dim, Expand, Infer, ONNX, Op, OpDef, OpError, Shape, Tensor, TensorType, Val, attr,
};
use crate::ops::core::iota;
use crate::ops::reference::real::Real;
use crate::ops::util::{n_elems, operand};

/// Most elements of a constant that an expansion makes, and of what is made of a few numbers on the CPU.
pub const LARGEST: usize = 1 << 26;
/// Largest constant that is made of a few numbers, in bytes.
const LARGEST_BYTES: u64 = 64 << 20;

macro_rules! foldable {
    ($($(#[$doc:meta])* $def:ident $name:literal $onnx:literal $arity:tt [$($attr:expr),*]
        $infer:expr, $eval:expr, $expand:expr;)*) => {
        $($(#[$doc])* pub static $def: OpDef = OpDef {
            name: $name,
            onnx: $onnx,
            levels: ONNX,
            attrs: &[$($attr),*],
            arity: $arity,
            infer: &$infer,
            eval: Some(&$eval),
            expand: Some(&$expand),
            weights: None,
            gradient: None,
        };)*
    };
}

foldable! {
    /// `constant() {value, ...}`: ONNX Constant, opset 21.
    CONSTANT "constant" "Constant" (0, 0) [attr::tensor("value"), attr::float("value_float"), attr::floats("value_floats"), attr::int("value_int"), attr::ints("value_ints")]
        |i| Ok(vec![constant(i.attrs)?.ty().clone()]), |attrs, _| Ok(vec![constant(attrs)?]), expand_folded;
    /// `shape(x) {start, end}`: ONNX Shape, opset 21.
    SHAPE "shape" "Shape" (1, 1) [attr::int("start"), attr::int("end")] infer_shape, eval_shape, expand_shape;
    /// `size(x)`: ONNX Size, opset 21.
    SIZE "size" "Size" (1, 1) [] |i| i.ty(0).map(|_| vec![TensorType::of(DType::I64, &[])]), eval_size, expand_size;
    /// `range(start, limit, delta)`: ONNX Range, opset 11.
    RANGE "range" "Range" (3, 3) [] infer_range, range, expand_range;
    /// `constant_of_shape(shape) {value}`: ONNX ConstantOfShape, opset 21.
    CONSTANT_OF_SHAPE "constant_of_shape" "ConstantOfShape" (1, 1) [attr::tensor("value")] infer_filled, eval_filled, expand_filled;
}

/// `sizes() {value, dtype, scalar}`: integers that are expressions of symbolic sizes, `[n]` or with `scalar` `[]`.
/// Import makes it of the arithmetic on shapes whose sizes change between runs; operators read it as they read a
/// constant.
pub static SIZES: OpDef = OpDef {
    name: crate::ir::SIZES,
    onnx: "",
    levels: ONNX,
    attrs: &[attr::sizes("value"), attr::dtype("dtype"), attr::int("scalar")],
    arity: (0, 0),
    infer: &infer_sizes,
    eval: None,
    expand: Some(&expand_sizes),
    weights: None,
    gradient: None,
};

/// A use of [`SIZES`] with the type of the first of `types`.
pub fn sizes(value: Vec<Dim>, types: &[TensorType]) -> Op {
    let (dtype, rank) = types.first().map_or((DType::I64, 1), |ty| (ty.dtype, ty.shape.rank()));
    let attrs = Attrs::new().with_dims("value", value).with_dtype("dtype", dtype);
    Op::new(&SIZES, if rank == 0 { attrs.with_int("scalar", 1) } else { attrs })
}

fn infer_sizes(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let value = infer.attrs.dims("value").ok_or_else(|| OpError::attribute("value", "is missing"))?;
    let dtype = infer.attrs.dtype("dtype").unwrap_or(DType::I64);
    if !matches!(dtype.class(), Class::Int | Class::Bool) {
        return Err(OpError::attribute("dtype", format!("is {dtype}")));
    }
    match (infer.attrs.int("scalar").unwrap_or(0), value.len()) {
        (0, n) => Ok(vec![TensorType::of(dtype, &[n])]),
        (_, 1) => Ok(vec![TensorType::of(dtype, &[])]),
        (_, n) => Err(OpError::attribute("scalar", format!("is set for {n} sizes"))),
    }
}

/// Sizes as data: what a computation that is no arithmetic on shapes makes of them.
fn expand_sizes(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let value = e.attrs.dims("value").unwrap_or_default().to_vec();
    let ty = e.outputs[0].clone();
    let one = |e: &mut Expand<'_, '_>, start: Dim| iota::add(e, start, Dim::Known(0), Dim::Known(1), ty.dtype);
    let parts = value.into_iter().map(|start| one(e, start)).collect::<Result<Vec<_>, _>>()?;
    let list = match parts[..] {
        [] => e.constant(Tensor::from_i64s(ty.dtype, &[0], &[])?),
        [only] => only,
        _ => e.add(&crate::ops::core::concat::DEF, Attrs::new().with_int("axis", 0), &parts)?,
    };
    Ok(vec![crate::ops::core::reshape::to(e, list, ty.shape.0)?])
}

/// A range of constants is one; of sizes, numbers that the device counts.
fn expand_range(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (start, limit, delta) = (e.dims(0), e.dims(1), e.dims(2));
    let (Ok(Some(start)), Ok(Some(limit)), Ok(Some(delta))) = (start, limit, delta) else { return expand_folded(e) };
    if [&start, &limit, &delta].iter().all(|list| list.iter().all(|dim| dim.known().is_some())) {
        return expand_folded(e);
    }
    let n = steps(&start, &limit, &delta)?;
    let dtype = e.outputs[0].dtype;
    let (Some(start), Some(delta)) = (start.into_iter().next(), delta.into_iter().next()) else {
        return expand_folded(e);
    };
    Ok(vec![iota::add(e, start, delta, n, dtype)?])
}

/// How many numbers a range of sizes has.
fn steps(start: &[Dim], limit: &[Dim], delta: &[Dim]) -> Result<Dim, OpError> {
    let refuse = || {
        OpError::operand(
            2,
            format!("{delta:?}"),
            format!("a step between {start:?} and {limit:?} whose sign depends on the sizes"),
        )
    };
    let ([start], [limit], [delta]) = (start, limit, delta) else { return Err(refuse()) };
    let minus = |dim: &Dim| &Dim::Known(0) - dim;
    let (span, step) = match delta.bounds() {
        (low, _) if low > 0 => (limit - start, delta.clone()),
        (_, high) if high < 0 => (start - limit, minus(delta)),
        _ => return Err(refuse()),
    };
    let n = (&(&span + &step) - &Dim::Known(1)).floor_div(&step).ok_or_else(refuse)?;
    Ok(Dim::larger(&n, &Dim::Known(0)))
}

/// The result as a constant, all operands being constants.
fn expand_folded(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let consts =
        (0..e.inputs.len()).map(|slot| e.edit.constant(e.input(slot)?).cloned().ok_or(OpError::NotConstant { slot }));
    let consts = consts.collect::<Result<Vec<_>, _>>()?;
    let inputs: Vec<_> = consts.iter().map(Some).collect();
    let results = if inputs.is_empty() { vec![constant(e.attrs)?] } else { range(e.attrs, &inputs)? };
    Ok(results.into_iter().map(|t| e.constant(t)).collect())
}

fn constant(attrs: &Attrs) -> Result<Tensor, OpError> {
    Ok(match attrs.0.iter().next() {
        Some((_, Attr::Tensor(value))) => value.clone(),
        Some((_, Attr::Float(value))) => Tensor::from_f32s(DType::F32, &[], &[*value])?,
        Some((_, Attr::Floats(values))) => Tensor::from_f32s(DType::F32, &[values.len()], values)?,
        Some((_, Attr::Int(value))) => Tensor::from_i64s(DType::I64, &[], &[*value])?,
        Some((_, Attr::Ints(values))) => Tensor::from_i64s(DType::I64, &[values.len()], values)?,
        _ => return Err(OpError::attribute("value", "is no tensor and no numbers")),
    })
}

/// The part of the shape that is asked for.
fn part(attrs: &Attrs, dims: &[Dim]) -> Vec<Dim> {
    let rank = dims.len() as i64;
    let place = |v: i64| if v < 0 { v.saturating_add(rank) } else { v }.clamp(0, rank) as usize;
    let (start, end) = (place(attrs.int("start").unwrap_or(0)), place(attrs.int("end").unwrap_or(rank)));
    dims[start..end.max(start)].to_vec()
}

fn infer_shape(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    Ok(vec![TensorType::of(DType::I64, &[part(infer.attrs, &infer.ty(0)?.shape.0).len()])])
}

fn shape_of(attrs: &Attrs, shape: &Shape) -> Result<Tensor, OpError> {
    let sizes: Option<Vec<i64>> = part(attrs, &shape.0).iter().map(Dim::known).collect();
    let sizes = sizes.ok_or_else(|| OpError::operand(0, shape, "known sizes"))?;
    Ok(Tensor::from_i64s(DType::I64, &[sizes.len()], &sizes)?)
}

fn eval_shape(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    Ok(vec![shape_of(attrs, &operand(inputs, 0)?.ty().shape)?])
}

fn expand_shape(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let shape = shape_of(e.attrs, &e.ty(e.input(0)?).shape)?;
    Ok(vec![e.constant(shape)])
}

fn size_of(shape: &Shape) -> Result<Tensor, OpError> {
    let n = shape.volume().known().ok_or_else(|| OpError::operand(0, shape, "known sizes"))?;
    Ok(Tensor::from_i64s(DType::I64, &[], &[n])?)
}

fn eval_size(_: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    Ok(vec![size_of(&operand(inputs, 0)?.ty().shape)?])
}

fn expand_size(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let size = size_of(&e.ty(e.input(0)?).shape)?;
    Ok(vec![e.constant(size)])
}

fn infer_range(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let dtype = infer.ty(0)?.dtype;
    if infer.sizes.iter().any(Option::is_some) {
        let list = |slot: usize| infer.dims(slot)?.ok_or(OpError::MissingOperand { slot });
        return Ok(vec![TensorType::new(dtype, Shape(vec![steps(&list(0)?, &list(1)?, &list(2)?)?]))]);
    }
    let known = |slot: usize| infer.constant(slot).ok_or(OpError::NotConstant { slot });
    let n = count(known(0)?, known(1)?, known(2)?)?;
    Ok(vec![TensorType::of(dtype, &[n])])
}

/// How many numbers a range has.
fn count(start: &Tensor, limit: &Tensor, delta: &Tensor) -> Result<usize, OpError> {
    let refuse = || OpError::operand(2, delta.ty(), "a range of finite length");
    let n = if start.dtype().is_float() {
        let one = |t: &Tensor| -> Result<f64, OpError> { Ok(t.to_f64s()?.first().copied().unwrap_or(f64::NAN)) };
        let n = ((one(limit)? - one(start)?) / one(delta)?).ceil();
        if n.is_nan() { None } else { Some(n.max(0.0) as usize) }
    } else {
        let one = |t: &Tensor| -> Result<i128, OpError> { Ok(t.to_i64s()?.first().copied().map_or(0, i128::from)) };
        let (span, delta) = (one(limit)? - one(start)?, one(delta)?);
        let up = span.checked_div_euclid(delta).map(|q| q + i128::from(span.rem_euclid(delta) != 0 && delta > 0));
        up.map(|n| usize::try_from(n.max(0)).unwrap_or(usize::MAX))
    };
    let n = n.ok_or_else(refuse)?;
    match start.dtype().bytes(n as u64) {
        Some(bytes) if bytes <= LARGEST_BYTES => Ok(n),
        _ => Err(OpError::unsupported(format!(
            "a range of {n} numbers: it becomes a constant, which may have {LARGEST_BYTES} bytes"
        ))),
    }
}

fn range(_: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (start, limit, delta) = (operand(inputs, 0)?, operand(inputs, 1)?, operand(inputs, 2)?);
    let n = count(start, limit, delta)?;
    if start.dtype() == DType::F64 {
        return floats::<f64>(start, delta, n);
    }
    if start.dtype().is_float() {
        return floats::<f32>(start, delta, n);
    }
    let one = |t: &Tensor| -> Result<i64, OpError> { Ok(t.to_i64s()?.first().copied().unwrap_or(0)) };
    let (start_at, step) = (one(start)?, one(delta)?);
    let values: Vec<i64> = (0..n).map(|i| start_at.wrapping_add(step.wrapping_mul(i as i64))).collect();
    Ok(vec![Tensor::from_i64s(start.dtype(), &[n], &values)?])
}

fn floats<F: Real>(start: &Tensor, delta: &Tensor, n: usize) -> Result<Vec<Tensor>, OpError> {
    let one = |t: &Tensor| -> Result<F, OpError> { Ok(F::elements(t)?.first().copied().unwrap_or(F::zero())) };
    let (start_at, step) = (one(start)?, one(delta)?);
    let values = (0..n).map(|i| start_at + F::of_i64(i as i64) * step).collect();
    Ok(vec![F::stored(start.dtype(), &[n], values)?])
}

/// The value that fills, as a tensor of one element; zero of f32 where absent.
fn filling(attrs: &Attrs) -> Result<Tensor, OpError> {
    match attrs.tensor("value") {
        Some(value) if value.ty().shape.n_elems() == Some(1) => Ok(value.reshaped(&[1])?),
        Some(value) => Err(OpError::attribute("value", format!("is {}", value.ty()))),
        None => Ok(Tensor::from_f32s(DType::F32, &[1], &[0.0])?),
    }
}

fn infer_filled(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let sizes = infer.dims(0)?.ok_or(OpError::MissingOperand { slot: 0 })?;
    if sizes.iter().any(|n| n.bounds().0 < 0) {
        return Err(OpError::operand(0, format!("{sizes:?}"), "sizes"));
    }
    Ok(vec![TensorType::new(filling(infer.attrs)?.dtype(), Shape(sizes))])
}

fn eval_filled(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let sizes = operand(inputs, 0)?.to_i64s()?;
    let dims: Option<Vec<usize>> = sizes.iter().map(|&n| usize::try_from(n).ok()).collect();
    let dims = dims.ok_or_else(|| OpError::operand(0, format!("{sizes:?}"), "sizes"))?;
    let value = filling(attrs)?;
    let n = n_elems(&dims)?;
    if n > LARGEST {
        return Err(OpError::operand(0, format!("{dims:?}"), format!("at most {LARGEST} elements")));
    }
    let (bytes, _) = crate::ops::util::elements(&value)?;
    Ok(vec![crate::ops::util::from_elements(value.dtype(), &dims, bytes.repeat(n))?])
}

fn expand_filled(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let value = filling(e.attrs)?;
    let value = e.constant(value);
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![crate::ops::onnx::movement::broadcast_to(e, value, shape)?])
}
