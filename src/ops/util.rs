//! What several operators share: broadcasting, strides, operands, epilogues, attributes.

use crate::ir::{Attr, Attrs, Class, DType, Dim, Infer, OpError, Shape, Tensor, TensorType, minifloat};
use crate::ops::reference::expression::apply;
use crate::ops::reference::real::Real;
use std::borrow::Cow;

/// Whether two sizes may stand for the same one: they are equal, or one of them has neither a value nor a range yet.
/// Sizes with ranges must be equal by their form, so that they are at run time.
pub fn agree(a: &Dim, b: &Dim) -> bool {
    let free = |dim: &Dim| dim.most().is_none();
    a == b || free(a) || free(b)
}

/// The shape that operands of these shapes broadcast to, by ONNX's multidirectional rule.
///
/// # Errors
/// Two sizes differ and neither is 1.
pub fn broadcast(shapes: &[&Shape]) -> Result<Shape, OpError> {
    let rank = shapes.iter().map(|s| s.rank()).max().unwrap_or(0);
    let mut dims = vec![Dim::Known(1); rank];
    for shape in shapes {
        for (i, dim) in shape.0.iter().enumerate() {
            let slot = &mut dims[rank - shape.rank() + i];
            let free = |dim: &Dim| dim.most().is_none();
            if *slot == Dim::Known(1) || (free(slot) && dim.known().is_some_and(|n| n != 1)) {
                // A size not yet known beside a known one above 1 can only be 1 or the same.
                slot.clone_from(dim);
            } else if *dim != Dim::Known(1) && !(agree(dim, slot) && (dim == slot || !(free(dim) && free(slot)))) {
                let text = |s: &Shape| s.to_string();
                return Err(OpError::Broadcast { left: text(&Shape(dims)), right: text(shape) });
            }
        }
    }
    Ok(Shape(dims))
}

/// Row-major strides in elements.
pub fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(dims[i]);
    }
    strides
}

/// Strides in elements with which an operand of `dims` is read for an output of `out` that it broadcasts to: 0 along
/// axes it lacks or has one of.
pub fn broadcast_strides(dims: &[usize], out: &[usize]) -> Vec<usize> {
    let own = strides(dims);
    let missing = out.len().saturating_sub(dims.len());
    (0..out.len()).map(|i| if i < missing || dims[i - missing] == 1 { 0 } else { own[i - missing] }).collect()
}

/// Calls `f(position in the output, offset of each operand)` for every element of an output of `dims`, in row-major
/// order.
pub fn for_each_index(dims: &[usize], strides: &[Vec<usize>], mut f: impl FnMut(usize, &[usize])) {
    let n: usize = dims.iter().product();
    let mut index = vec![0usize; dims.len()];
    let mut offsets = vec![0usize; strides.len()];
    for at in 0..n {
        f(at, &offsets);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                offsets.iter_mut().zip(strides).for_each(|(o, s)| *o += s[axis]);
                break;
            }
            offsets.iter_mut().zip(strides).for_each(|(o, s)| *o -= s[axis] * (dims[axis] - 1));
            index[axis] = 0;
        }
    }
}

/// The number of elements of a tensor of `dims`.
///
/// # Errors
/// It is larger than the address space.
pub fn n_elems(dims: &[usize]) -> Result<usize, OpError> {
    let n = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    n.filter(|&n| n <= isize::MAX as usize / 16)
        .ok_or_else(|| OpError::unsupported("a tensor larger than the address space"))
}

/// Operand `slot` of a computation.
///
/// # Errors
/// It is absent.
pub fn operand<'a>(inputs: &[Option<&'a Tensor>], slot: usize) -> Result<&'a Tensor, OpError> {
    inputs.get(slot).copied().flatten().ok_or(OpError::MissingOperand { slot })
}

/// The type of operand `slot`, numbers or truth values that are not packed.
///
/// # Errors
/// It is absent, packed or text.
pub fn number_operand<'a>(infer: &Infer<'a>, slot: usize) -> Result<&'a TensorType, OpError> {
    let ty = infer.ty(slot)?;
    if ty.packing.is_some() || ty.dtype.class() == Class::Text {
        return Err(OpError::operand(slot, ty, "numbers"));
    }
    Ok(ty)
}

/// The type of operand `slot`, integers.
///
/// # Errors
/// It is absent or another.
pub fn index_operand<'a>(infer: &Infer<'a>, slot: usize) -> Result<&'a TensorType, OpError> {
    let ty = infer.ty(slot)?;
    if ty.dtype.class() == Class::Int { Ok(ty) } else { Err(OpError::operand(slot, ty, "integers")) }
}

/// The type of a result like operand 0, floats of so many axes at least.
///
/// # Errors
/// It is absent or another.
pub fn like_floats(infer: &Infer<'_>, least_rank: usize) -> Result<Vec<TensorType>, OpError> {
    let ty = float_operand(infer, 0)?;
    if ty.shape.rank() < least_rank {
        return Err(OpError::operand(0, ty, format!("floats of {least_rank} axes at least")));
    }
    Ok(vec![ty.clone()])
}

/// The type of operand `slot`, floats that are not packed.
///
/// # Errors
/// It is absent or another.
pub fn float_operand<'a>(infer: &Infer<'a>, slot: usize) -> Result<&'a TensorType, OpError> {
    let ty = infer.ty(slot)?;
    if ty.dtype.is_float() && ty.packing.is_none() { Ok(ty) } else { Err(OpError::operand(slot, ty, "floats")) }
}

/// Attribute `name`, one of those allowed; the first where it is absent.
///
/// # Errors
/// It is another.
pub fn one_of<'a>(attrs: &'a Attrs, name: &'static str, allowed: &[&'a str]) -> Result<&'a str, OpError> {
    let given = attrs.str(name).unwrap_or(allowed[0]);
    if allowed.contains(&given) { Ok(given) } else { Err(OpError::attribute(name, format!("is {given:?}"))) }
}

/// What kind of value an operand is in an expression: packed ones are floats.
pub fn class_of(ty: &TensorType) -> Class {
    if ty.packing.is_some() { Class::Float } else { ty.dtype.class() }
}

/// The type in which results are stored that follow an operand of this type.
pub fn stored(ty: &TensorType) -> DType {
    if ty.packing.is_some() { DType::F32 } else { ty.dtype }
}

/// The operator's own operands, and those of its epilogue.
pub fn split_own<'a, T>(attrs: &Attrs, operands: &'a [T]) -> (&'a [T], &'a [T]) {
    let extra = attrs.expr("epilogue").map_or(0, |e| e.n_args().saturating_sub(1));
    operands.split_at(operands.len().saturating_sub(extra))
}

/// Applies the epilogue to the result of an operator before it is stored, and stores it as attribute `dtype`, or
/// `default` where absent.
///
/// # Errors
/// The epilogue does not fit its operands or the type.
pub fn finish(
    attrs: &Attrs,
    result: Tensor,
    default: DType,
    extra: &[Option<&Tensor>],
) -> Result<Vec<Tensor>, OpError> {
    let dtype = attrs.dtype("dtype").unwrap_or(default);
    let Some(expr) = attrs.expr("epilogue") else { return cast(result, dtype).map(|t| vec![t]) };
    let mut operands = vec![&result];
    for (slot, tensor) in extra.iter().enumerate() {
        operands.push(tensor.ok_or(OpError::MissingOperand { slot })?);
    }
    apply(expr, &operands, &result.dims(), dtype).map(|t| vec![t])
}

/// [`finish`] for floats.
///
/// # Errors
/// As there.
pub fn finish_floats<F: Real>(
    attrs: &Attrs,
    dims: &[usize],
    values: Vec<F>,
    default: DType,
    extra: &[Option<&Tensor>],
) -> Result<Vec<Tensor>, OpError> {
    let dtype = attrs.dtype("dtype").unwrap_or(default);
    if attrs.expr("epilogue").is_none() && dtype.is_float() {
        return Ok(vec![F::stored(dtype, dims, values)?]);
    }
    finish(attrs, F::stored(F::DTYPE, dims, values)?, default, extra)
}

/// Whether an operator is computed in f64: its result or one of these operands is.
pub fn is_double(attrs: &Attrs, operands: &[Option<&Tensor>]) -> bool {
    attrs.dtype("dtype") == Some(DType::F64) || operands.iter().flatten().any(|t| t.dtype() == DType::F64)
}

/// The type of what is between the kernels of an operator whose operand is `dtype`: f64 for f64, else f32.
pub fn between(dtype: DType) -> DType {
    if dtype == DType::F64 { DType::F64 } else { DType::F32 }
}

/// Floats stored as `dtype`, without a copy where they already are.
///
/// # Errors
/// As of [`Tensor::from_f32s`].
pub fn f32s(dtype: DType, dims: &[usize], values: Vec<f32>) -> Result<Tensor, OpError> {
    if dtype != DType::F32 || cfg!(target_endian = "big") {
        return Ok(Tensor::from_f32s(dtype, dims, &values)?);
    }
    let len = values.len() * 4;
    Ok(Tensor::from_source(TensorType::of(dtype, dims), std::sync::Arc::new(Floats(values)), 0, len)?)
}

struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// The values of a tensor stored as another type, by ONNX's Cast.
///
/// # Errors
/// One of the types cannot be read or written.
pub fn cast(tensor: Tensor, dtype: DType) -> Result<Tensor, OpError> {
    if tensor.dtype() == dtype && tensor.ty().packing.is_none() {
        return Ok(tensor);
    }
    let dims = tensor.dims();
    match (class_of(tensor.ty()), dtype.class()) {
        (_, Class::Float) if dtype == DType::F64 || tensor.dtype() == DType::F64 => {
            Ok(Tensor::from_f64s(dtype, &dims, &tensor.to_f64s()?)?)
        }
        (Class::Float, Class::Bool) => {
            let values: Vec<i64> = tensor.to_f64s()?.iter().map(|&v| i64::from(v != 0.0)).collect();
            Ok(Tensor::from_i64s(dtype, &dims, &values)?)
        }
        (_, Class::Float) => f32s(dtype, &dims, tensor.to_f32s()?.into_owned()),
        (_, Class::Int) => Ok(Tensor::from_i64s(dtype, &dims, &tensor.to_i64s()?)?),
        (_, Class::Bool) => Ok(Tensor::from_i64s(dtype, &dims, &tensor.to_i64s()?)?),
        (_, Class::Text) => Err(OpError::unsupported("text as a result")),
    }
}

/// The types of an operator's one result of class `class` and shape `shape`, its epilogue and `dtype` considered.
///
/// # Errors
/// The epilogue's operands do not broadcast to the result, or its class is not that of `dtype`.
pub fn result(infer: &Infer<'_>, class: Class, default: DType, shape: Shape) -> Result<Vec<TensorType>, OpError> {
    let dtype = infer.attrs.dtype("dtype").unwrap_or(default);
    let mut given = class;
    if let Some(expr) = infer.attrs.expr("epilogue") {
        let (own, extra) = split_own(infer.attrs, infer.inputs);
        let mut classes = vec![class];
        for (i, ty) in extra.iter().enumerate() {
            let ty = ty.ok_or(OpError::MissingOperand { slot: own.len() + i })?;
            classes.push(class_of(ty));
            if broadcast(&[&shape, &ty.shape])? != shape {
                return Err(OpError::Broadcast { left: shape.to_string(), right: ty.shape.to_string() });
            }
        }
        given = expr.class(&classes)?;
    }
    if given != dtype.class() {
        return Err(OpError::attribute("dtype", format!("is {dtype}, but the result is a {given:?}")));
    }
    Ok(vec![TensorType::new(dtype, shape)])
}

/// The sizes in attribute `name`, whether it holds integers or dims; `None` where it is absent.
pub fn dims_attr(attrs: &Attrs, name: &str) -> Option<Vec<Dim>> {
    match attrs.get(name)? {
        Attr::Dims(dims) => Some(dims.clone()),
        Attr::Ints(ints) => Some(ints.iter().map(|&n| Dim::Known(n)).collect()),
        Attr::Int(n) => Some(vec![Dim::Known(*n)]),
        _ => None,
    }
}

/// The integers in attribute `name`, whether it holds integers or dims that are all known; `None` where it is absent.
///
/// # Errors
/// A size is not known.
pub fn ints_attr(attrs: &Attrs, name: &'static str) -> Result<Option<Vec<i64>>, OpError> {
    let Some(dims) = dims_attr(attrs, name) else { return Ok(None) };
    let known =
        dims.iter().map(|d| d.known().ok_or_else(|| OpError::attribute(name, format!("has the unknown size {d}"))));
    Ok(Some(known.collect::<Result<_, _>>()?))
}

/// `dims` as an attribute: integers where all are known.
pub fn dims_value(dims: &[Dim]) -> Attr {
    let known: Option<Vec<i64>> = dims.iter().map(Dim::known).collect();
    known.map_or_else(|| Attr::Dims(dims.to_vec()), Attr::Ints)
}

/// The element type in attribute `name`, also where it is ONNX's number of it.
pub fn dtype_attr(attrs: &Attrs, name: &str) -> Option<DType> {
    attrs.dtype(name).or_else(|| DType::from_onnx(i32::try_from(attrs.int(name)?).ok()?))
}

/// Attribute `axis` (`default` where absent) of a tensor of `rank` axes, 0-based.
///
/// # Errors
/// It is outside the tensor.
pub fn axis_attr(attrs: &Attrs, default: i64, rank: usize) -> Result<usize, OpError> {
    let axis = attrs.int("axis").unwrap_or(default);
    crate::ir::resolve_axis(axis, rank)
        .ok_or_else(|| OpError::attribute("axis", format!("is {axis}, the operand has {rank} axes")))
}

/// Axes 0-based, sorted and without repetition.
///
/// # Errors
/// One is outside the tensor.
pub fn axes(given: &[i64], rank: usize) -> Result<Vec<usize>, OpError> {
    let resolve = |&axis: &i64| {
        crate::ir::resolve_axis(axis, rank)
            .ok_or_else(|| OpError::attribute("axes", format!("has {axis}, the operand has {rank} axes")))
    };
    let mut axes: Vec<usize> = given.iter().map(resolve).collect::<Result<_, _>>()?;
    axes.sort_unstable();
    axes.dedup();
    Ok(axes)
}

/// The elements of a tensor as bytes, and how many each has. Types of less than a byte are widened to one: floats as
/// their codes.
///
/// # Errors
/// The data is absent, packed, or of a type without a size.
pub fn elements(tensor: &Tensor) -> Result<(Cow<'_, [u8]>, usize), OpError> {
    match tensor.dtype().bits() {
        _ if tensor.ty().packing.is_some() => Err(OpError::operand(0, tensor.ty(), "a tensor that is not packed")),
        0 => Err(OpError::operand(0, tensor.ty(), "numbers")),
        bits if bits >= 8 => Ok((Cow::Borrowed(tensor.bytes()?), bits as usize / 8)),
        _ if tensor.dtype().is_float() => {
            let code = |&v: &f32| minifloat::encode(tensor.dtype(), v).unwrap_or(0);
            Ok((Cow::Owned(tensor.to_f32s()?.iter().map(code).collect()), 1))
        }
        _ => Ok((Cow::Owned(tensor.to_i64s()?.iter().map(|&v| v as u8).collect()), 1)),
    }
}

/// The inverse of [`elements`].
///
/// # Errors
/// The bytes do not fit the shape.
pub fn from_elements(dtype: DType, dims: &[usize], bytes: Vec<u8>) -> Result<Tensor, OpError> {
    if dtype.bits() >= 8 {
        return Ok(Tensor::from_bytes(TensorType::of(dtype, dims), bytes)?);
    }
    if dtype.is_float() {
        let values: Vec<f32> = bytes.iter().map(|&b| minifloat::decode(dtype, b).unwrap_or(0.0)).collect();
        return Ok(Tensor::from_f32s(dtype, dims, &values)?);
    }
    let values: Vec<i64> = bytes.iter().map(|&b| i64::from(b as i8)).collect();
    Ok(Tensor::from_i64s(dtype, dims, &values)?)
}
