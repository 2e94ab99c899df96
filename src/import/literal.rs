//! Values for inputs of the model that are written out, as `sr=16000` or `axes=[0,2]`: tensors of the input's type.

use super::dims;
use super::error::{ImportError, Kind};
use super::read::RawGraph;
use crate::ir::{Class, DType, Tensor, TensorType, hint};
use serde_json::Value;

/// Most elements of a value: files hold larger ones.
const MAX_ELEMS: usize = 1 << 16;

/// The tensor that `value` is for the input `name`. A single number is enough for an input of one element, whatever its
/// rank.
///
/// # Errors
/// There is no such input, or its type does not hold the value; the message has both.
pub(super) fn tensor(raw: &RawGraph, name: &str, value: &Value) -> Result<Tensor, ImportError> {
    let fail = |problem: String| ImportError::from(Kind::Fixed { name: name.to_owned(), problem });
    let names = || raw.inputs.iter().map(|input| input.name.as_str());
    let input = raw.inputs.iter().find(|input| input.name == name);
    let input = input.ok_or_else(|| fail(format!("the model has no such input{}", hint(name, names()))))?;
    let (dtype, axes) = dims::described(input).map_err(&fail)?;
    let (mut sizes, mut elements) = (Vec::new(), Vec::new());
    flatten(value, 0, &mut sizes, &mut elements).map_err(&fail)?;
    if let Some(axes) = axes.filter(|_| sizes.is_empty()) {
        sizes = vec![1; axes.len()];
    }
    let bytes = encode(dtype, &elements).map_err(&fail)?;
    let Some(bytes) = bytes else {
        // Types narrower than a byte, and floats of 16 bits and less.
        let floats: Option<Vec<f32>> = elements.iter().map(|v| v.as_f64().map(|v| v as f32)).collect();
        let integers: Option<Vec<i64>> = elements.iter().map(|v| Value::as_i64(v)).collect();
        let range = crate::ops::core::quantize_linear::range(dtype);
        let tensor = match (dtype.class(), integers, floats) {
            (Class::Int, Some(values), _)
                if range.is_some_and(|(low, high)| values.iter().all(|v| (low..=high).contains(v))) =>
            {
                Tensor::from_i64s(dtype, &sizes, &values)
            }
            (_, _, Some(values)) if dtype.is_float() || dtype.is_minifloat() => {
                Tensor::from_f32s(dtype, &sizes, &values)
            }
            _ => return Err(fail(format!("{value} given, the input is {dtype}"))),
        };
        return tensor.map_err(|e| fail(e.to_string()));
    };
    Tensor::from_bytes(TensorType::of(dtype, &sizes), bytes).map_err(|e| fail(e.to_string()))
}

/// The elements of nested lists in order, and their sizes: every list of one depth has one size.
fn flatten<'v>(
    value: &'v Value,
    depth: usize,
    sizes: &mut Vec<usize>,
    elements: &mut Vec<&'v Value>,
) -> Result<(), String> {
    let Value::Array(list) = value else {
        if depth != sizes.len() {
            return Err("its lists are not nested alike".to_owned());
        }
        if elements.len() >= MAX_ELEMS {
            return Err(format!("more than {MAX_ELEMS} elements in line: give them as an array in a .npz file"));
        }
        elements.push(value);
        return Ok(());
    };
    match sizes.get(depth) {
        None if elements.is_empty() => sizes.push(list.len()),
        Some(n) if *n == list.len() => {}
        _ => return Err("its lists are not nested alike".to_owned()),
    }
    list.iter().try_for_each(|inner| flatten(inner, depth + 1, sizes, elements))
}

/// The bytes of the elements; `None` for types that are not whole numbers of Rust.
fn encode(dtype: DType, elements: &[&Value]) -> Result<Option<Vec<u8>>, String> {
    let refuse = |value: &Value| format!("{value} given, the input is {dtype}");
    let integer = |value: &Value| value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from));
    let mut bytes = Vec::new();
    macro_rules! put {
        ($ty:ty, $read:expr) => {
            for &value in elements {
                let read: Option<$ty> = $read(value);
                bytes.extend(read.ok_or_else(|| refuse(value))?.to_le_bytes());
            }
        };
        ($ty:ty) => {
            put!($ty, |v| integer(v).and_then(|v| <$ty>::try_from(v).ok()))
        };
    }
    match dtype {
        DType::F32 => put!(f32, |v: &Value| v.as_f64().map(|v| v as f32)),
        DType::F64 => put!(f64, Value::as_f64),
        DType::I64 => put!(i64),
        DType::U64 => put!(u64),
        DType::I32 => put!(i32),
        DType::U32 => put!(u32),
        DType::I16 => put!(i16),
        DType::U16 => put!(u16),
        DType::I8 => put!(i8),
        DType::U8 => put!(u8),
        DType::Bool => {
            put!(u8, |v: &Value| v.as_bool().map(u8::from).or(v.as_u64().filter(|v| *v < 2).map(|v| v as u8)))
        }
        _ => return Ok(None),
    }
    Ok(Some(bytes))
}
