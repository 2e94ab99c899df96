//! Between the model's element types and those on the device ([`DType::on_device`]).

use super::RuntimeError;
use crate::ir::{Class, DType, Shape, Tensor, TensorError, TensorType, saturating_f16};
use crate::program::Port;
use std::borrow::Cow;

/// The bytes that `tensor` has on the device.
///
/// # Errors
/// Its type or shape is not the port's, or a value does not fit in the device's type.
pub(super) fn to_device<'a>(port: &Port, tensor: &'a Tensor) -> Result<Cow<'a, [u8]>, RuntimeError> {
    let refuse = |fault: String| RuntimeError::Input { name: port.name.clone(), fault };
    let wanted = TensorType::new(port.dtype, Shape(port.shape.clone()));
    if *tensor.ty() != wanted {
        return Err(refuse(format!("{} given, {wanted} wanted", tensor.ty())));
    }
    let bytes = tensor.bytes().map_err(|e| refuse(e.to_string()))?;
    if port.dtype == port.device_dtype {
        return Ok(Cow::Borrowed(bytes));
    }
    if port.dtype.class() == Class::Float {
        let values = tensor.to_f32s().map_err(|e| refuse(e.to_string()))?;
        return Ok(Cow::Owned(match port.device_dtype {
            DType::F16 => values.iter().flat_map(|&v| saturating_f16(v).to_le_bytes()).collect(),
            _ => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
        }));
    }
    let values = tensor.to_i64s().map_err(|e| refuse(e.to_string()))?;
    let device = Tensor::from_i64s(port.device_dtype, &tensor.dims(), &values);
    let bytes = device.and_then(|device| device.bytes().map(<[u8]>::to_vec));
    bytes.map(Cow::Owned).map_err(|e| refuse(e.to_string()))
}

/// The tensor whose bytes on the device are these.
///
/// # Errors
/// The port's type cannot be made from the device's.
pub(super) fn from_device(port: &Port, mut bytes: Vec<u8>) -> Result<Tensor, RuntimeError> {
    let refuse =
        |e: TensorError| RuntimeError::Unsupported { what: format!("{:?} of type {}: {e}", port.name, port.dtype) };
    let shape = Shape(port.shape.clone());
    let n_bytes = shape.n_elems().and_then(|n| port.device_dtype.bytes(n)).and_then(|n| usize::try_from(n).ok());
    bytes.truncate(n_bytes.unwrap_or(0));
    let device = Tensor::from_bytes(TensorType::new(port.device_dtype, shape), bytes).map_err(refuse)?;
    if port.dtype == port.device_dtype {
        return Ok(device);
    }
    let dims = device.dims();
    if port.dtype.class() == Class::Float {
        Tensor::from_f32s(port.dtype, &dims, &device.to_f32s().map_err(refuse)?).map_err(refuse)
    } else {
        Tensor::from_i64s(port.dtype, &dims, &device.to_i64s().map_err(refuse)?).map_err(refuse)
    }
}

/// Bytes that a port's tensor takes on the device, without padding.
pub(super) fn device_bytes(port: &Port) -> usize {
    let bytes = Shape(port.shape.clone()).n_elems().and_then(|n| port.device_dtype.bytes(n));
    bytes.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::Dim;
    use crate::program::Region;

    fn port(dtype: DType, device_dtype: DType) -> Port {
        Port {
            name: "x".to_owned(),
            dtype,
            device_dtype,
            shape: vec![Dim::Known(2)],
            region: Region { allocation: 0, offset: 0, bytes: 8 },
        }
    }

    #[test]
    fn values_survive_the_way_to_the_device_and_back() {
        for (dtype, device) in
            [(DType::F64, DType::F64), (DType::BF16, DType::F32), (DType::F32, DType::F16), (DType::F16, DType::F16)]
        {
            let tensor = Tensor::from_f32s(dtype, &[2], &[-1.5, 384.0]).unwrap();
            let bytes = to_device(&port(dtype, device), &tensor).unwrap().into_owned();
            assert_eq!(from_device(&port(dtype, device), bytes).unwrap(), tensor);
        }
        for dtype in [
            DType::I64,
            DType::U64,
            DType::I32,
            DType::U32,
            DType::I16,
            DType::U16,
            DType::I8,
            DType::U8,
            DType::Bool,
            DType::I4,
        ] {
            for value in [1, -1, i64::MIN, i64::MAX, 0x1234_5678_9abc_def0] {
                let tensor = Tensor::from_i64s(dtype, &[2], &[value, 0]).unwrap();
                let port = port(dtype, dtype.on_device().unwrap());
                let bytes = to_device(&port, &tensor).unwrap().into_owned();
                assert_eq!(bytes.len() as u32, port.device_dtype.bits() / 4);
                assert_eq!(from_device(&port, bytes).unwrap(), tensor);
            }
        }
    }

    #[test]
    fn another_shape_or_type_is_refused_with_both() {
        let tensor = Tensor::from_f32s(DType::F32, &[3], &[0.0; 3]).unwrap();
        let refused = to_device(&port(DType::F32, DType::F32), &tensor).unwrap_err();
        assert_eq!(refused.to_string(), "input \"x\": f32[3] given, f32[2] wanted");
        let refused = to_device(&port(DType::I64, DType::I64), &tensor).unwrap_err();
        assert_eq!(refused.to_string(), "input \"x\": f32[3] given, i64[2] wanted");
    }
}
