//! Types that NumPy lacks travel in wider ones: bf16 and floats of 8 and 4 bits as f32, 2- and 4-bit integers as bytes
//! of the same sign.

use super::{Class, DType, Tensor, TensorError, minifloat};

/// Why values are not stored in another type.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum NarrowError {
    #[error("element {element} is {value}, which {dtype} does not hold")]
    Value { element: usize, value: String, dtype: DType },
    #[error("{given} is not taken for {dtype}")]
    Class { given: DType, dtype: DType },
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

impl DType {
    /// The type in which values of this one travel: itself, where NumPy has it.
    pub fn widened(self) -> DType {
        match self {
            DType::BF16 => DType::F32,
            DType::I2 | DType::I4 => DType::I8,
            DType::U2 | DType::U4 => DType::U8,
            dtype if dtype.is_minifloat() => DType::F32,
            dtype => dtype,
        }
    }
}

impl Tensor {
    /// The same values in the type in which they travel.
    ///
    /// # Errors
    /// The data is absent.
    pub fn widened(&self) -> Result<Tensor, TensorError> {
        let dtype = self.dtype().widened();
        match dtype.class() {
            _ if dtype == self.dtype() => Ok(self.clone()),
            Class::Float => Tensor::from_f32s(dtype, &self.dims(), &self.to_f32s()?),
            _ => Tensor::from_i64s(dtype, &self.dims(), &self.to_i64s()?),
        }
    }

    /// The values stored as `dtype`. Floats of any width are taken for floats and rounded to nearest even, integers and
    /// truth values of any width for integers and truth values, as they are.
    ///
    /// # Errors
    /// A value is outside the range of `dtype`: its place in row-major order and it are named. Or the types are of
    /// two kinds.
    pub fn narrowed(&self, dtype: DType) -> Result<Tensor, NarrowError> {
        let given = self.dtype();
        let refuse = |element: usize, value: &dyn std::fmt::Display| NarrowError::Value {
            element,
            value: value.to_string(),
            dtype,
        };
        let is_number = |dtype: DType| matches!(dtype.class(), Class::Int | Class::Bool);
        if self.ty().packing.is_some() {
            return Err(NarrowError::Class { given, dtype });
        }
        if given == dtype {
            return Ok(self.clone());
        }
        let dims = self.dims();
        if given.is_float() && dtype.is_float() {
            if dtype == DType::F64 {
                return Ok(Tensor::from_f64s(dtype, &dims, &self.to_f64s()?)?);
            }
            let values = self.to_f32s().map_err(|e| match e {
                TensorError::BeyondF32 { index, value } => refuse(index, &format!("{value:?}")),
                other => other.into(),
            })?;
            if let Some((element, value)) = values.iter().enumerate().find(|(_, v)| !holds(dtype, **v)) {
                return Err(refuse(element, &format!("{value:?}")));
            }
            return Ok(Tensor::from_f32s(dtype, &dims, &values)?);
        }
        if !is_number(given) || !is_number(dtype) {
            return Err(NarrowError::Class { given, dtype });
        }
        let values = self.to_i64s()?;
        let narrow = Tensor::from_i64s(dtype, &dims, &values)?;
        // A u64 comes with its bits.
        let number = |dtype: DType, v: i64| if dtype == DType::U64 { i128::from(v as u64) } else { i128::from(v) };
        for (element, (&from, to)) in values.iter().zip(narrow.to_i64s()?).enumerate() {
            if number(given, from) != number(dtype, to) {
                return Err(refuse(element, &number(given, from)));
            }
        }
        Ok(narrow)
    }
}

/// Whether rounding a value to a float type keeps what it is: finite, infinite, NaN.
fn holds(dtype: DType, value: f32) -> bool {
    match dtype {
        DType::F16 => !value.is_finite() || value.abs() <= 65504.0,
        DType::BF16 => !value.is_finite() || half::bf16::from_f32(value).is_finite(),
        // Powers of two alone.
        DType::F8E8M0 => value.is_nan() || (value > 0.0 && value.is_finite()),
        _ => match (minifloat::max(dtype), minifloat::encode(dtype, value)) {
            (Some(max), Some(code)) if value.is_finite() => {
                value.abs() <= max && minifloat::decode(dtype, code).is_some_and(f32::is_finite)
            }
            (Some(_), Some(code)) => {
                minifloat::decode(dtype, code).is_some_and(|v| (v.is_nan() && value.is_nan()) || v == value)
            }
            _ => true,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: &[DType] = &[
        DType::F32,
        DType::F16,
        DType::BF16,
        DType::F64,
        DType::F8E4M3,
        DType::F8E4M3Fnuz,
        DType::F8E5M2,
        DType::F8E5M2Fnuz,
        DType::F8E8M0,
        DType::F4E2M1,
    ];
    const INTEGERS: &[(DType, i64, i64)] = &[
        (DType::I2, -2, 1),
        (DType::U2, 0, 3),
        (DType::I4, -8, 7),
        (DType::U4, 0, 15),
        (DType::I8, -128, 127),
        (DType::U8, 0, 255),
        (DType::I16, -32768, 32767),
        (DType::U16, 0, 65535),
        (DType::I32, i32::MIN as i64, i32::MAX as i64),
        (DType::U32, 0, u32::MAX as i64),
        (DType::Bool, 0, 1),
    ];

    #[test]
    fn every_type_comes_back_as_it_went() {
        for &dtype in FLOATS {
            let values: &[f32] = if dtype == DType::F8E8M0 { &[0.5, 2.0, 1.0] } else { &[-1.5, 0.0, 4.0] };
            let tensor = Tensor::from_f32s(dtype, &[3], values).unwrap();
            let wide = tensor.widened().unwrap();
            assert_eq!((wide.dtype(), &wide.to_f32s().unwrap()[..]), (dtype.widened(), values), "{dtype}");
            assert_eq!(wide.narrowed(dtype).unwrap(), tensor, "{dtype}");
        }
        for &(dtype, least, most) in INTEGERS {
            let tensor = Tensor::from_i64s(dtype, &[2], &[least, most]).unwrap();
            let wide = tensor.widened().unwrap();
            assert_eq!(wide.to_i64s().unwrap(), [least, most], "{dtype}");
            assert!(wide.dtype().bits() >= 8 && (least < 0) == (wide.to_i64s().unwrap()[0] < 0), "{dtype}");
            assert_eq!(wide.narrowed(dtype).unwrap(), tensor, "{dtype}");
            for beyond in [least - 1, most + 1] {
                let given = Tensor::from_i64s(DType::I64, &[3], &[least, beyond, most]).unwrap();
                let refused = given.narrowed(dtype).unwrap_err().to_string();
                assert_eq!(refused, format!("element 1 is {beyond}, which {dtype} does not hold"));
            }
        }
    }

    #[test]
    fn values_beyond_a_type_are_refused_with_their_place() {
        let floats = |values: &[f32]| Tensor::from_f32s(DType::F32, &[values.len()], values).unwrap();
        for (dtype, value) in [
            (DType::F16, 65520.0f32),
            (DType::BF16, f32::MAX),
            (DType::F8E4M3, 449.0),
            (DType::F8E4M3, f32::INFINITY),
            (DType::F8E5M2Fnuz, f32::NEG_INFINITY),
            (DType::F8E8M0, 0.0),
            (DType::F4E2M1, f32::NAN),
            (DType::F4E2M1, -7.0),
        ] {
            let refused = floats(&[1.0, value]).narrowed(dtype).unwrap_err().to_string();
            assert_eq!(refused, format!("element 1 is {value:?}, which {dtype} does not hold"));
        }
        assert!(floats(&[f32::INFINITY, f32::NAN]).narrowed(DType::F8E5M2).is_ok());
        let wide = Tensor::from_i64s(DType::U64, &[1], &[-1]).unwrap();
        let refused = wide.narrowed(DType::I64).unwrap_err().to_string();
        assert_eq!(refused, "element 0 is 18446744073709551615, which i64 does not hold");
        assert!(Tensor::from_i64s(DType::I64, &[1], &[-1]).unwrap().narrowed(DType::U64).is_err());
        assert!(floats(&[1.0]).narrowed(DType::I32).is_err());
    }
}
