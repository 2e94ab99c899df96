//! Elements as the oracle has them: floats as f64, integers and truth values as i128 that are wrapped to their type.

use nyxc::ir::{Class, DType, Tensor};

#[derive(Clone, Debug)]
pub enum Data {
    Floats(Vec<f64>),
    Ints(Vec<i128>),
}

#[derive(Clone, Debug)]
pub struct Values {
    pub dtype: DType,
    pub dims: Vec<usize>,
    pub data: Data,
}

/// What the type holds of an integer: its low bits, with their sign or without.
pub fn wrap(v: i128, dtype: DType) -> i128 {
    let (bits, signed) = match dtype {
        DType::Bool => return i128::from(v != 0),
        DType::I2 | DType::I4 | DType::I8 | DType::I16 | DType::I32 | DType::I64 => (dtype.bits(), true),
        _ => (dtype.bits(), false),
    };
    let low = v & ((1i128 << bits) - 1);
    if signed && low >> (bits - 1) != 0 { low - (1i128 << bits) } else { low }
}

/// The least and the largest integer of a type.
pub fn range(dtype: DType) -> (i128, i128) {
    match wrap(-1, dtype) {
        -1 => (-(1i128 << (dtype.bits() - 1)), (1i128 << (dtype.bits() - 1)) - 1),
        most => (0, most),
    }
}

/// To the nearest number of a float type, to the even one of two; what is too large is infinite. Subnormal numbers are
/// among them.
pub fn rounded(v: f64, dtype: DType) -> f64 {
    let (digits, least, most) = match dtype {
        DType::F16 => (11, -14, 65504.0),
        DType::BF16 => (8, -126, 255.0 * 2f64.powi(120)),
        DType::F32 => (24, -126, f64::from(f32::MAX)),
        _ => return v,
    };
    if v == 0.0 || !v.is_finite() {
        return v;
    }
    let exponent = ((v.to_bits() >> 52 & 0x7ff) as i32 - 1023).max(least);
    let unit = 2f64.powi(exponent - digits + 1);
    let near = (v / unit).round_ties_even() * unit;
    if near.abs() > most { f64::INFINITY.copysign(v) } else { near }
}

impl Values {
    /// `None` of packed tensors and text.
    pub fn of(tensor: &Tensor) -> Option<Values> {
        let (dtype, dims) = (tensor.dtype(), tensor.dims());
        if tensor.ty().packing.is_some() {
            return None;
        }
        let data = match dtype.class() {
            Class::Float => Data::Floats(tensor.to_f64s().ok()?),
            Class::Text => return None,
            _ => Data::Ints(tensor.to_i64s().ok()?.into_iter().map(|v| wrap(v.into(), dtype)).collect()),
        };
        Some(Values { dtype, dims, data })
    }

    /// As a tensor of its type. What f16 does not hold is its largest, as results are stored; an infinity stays.
    pub fn tensor(&self) -> Option<Tensor> {
        match &self.data {
            Data::Floats(values) if self.dtype == DType::F64 => Tensor::from_f64s(self.dtype, &self.dims, values).ok(),
            Data::Floats(values) => {
                let values: Vec<f32> = values.iter().map(|&v| v as f32).collect();
                Tensor::from_f32s(self.dtype, &self.dims, &values).ok()
            }
            Data::Ints(values) => {
                let values: Vec<i64> = values.iter().map(|&v| v as i64).collect();
                Tensor::from_i64s(self.dtype, &self.dims, &values).ok()
            }
        }
    }

    pub fn floats(&self) -> Option<&[f64]> {
        if let Data::Floats(values) = &self.data { Some(values) } else { None }
    }

    pub fn ints(&self) -> Option<&[i128]> {
        if let Data::Ints(values) = &self.data { Some(values) } else { None }
    }

    pub fn len(&self) -> usize {
        self.dims.iter().product()
    }

    pub fn of_floats(dtype: DType, dims: &[usize], values: Vec<f64>) -> Values {
        Values { dtype, dims: dims.to_vec(), data: Data::Floats(values) }
    }

    pub fn of_ints(dtype: DType, dims: &[usize], values: impl IntoIterator<Item = i128>) -> Values {
        let values = values.into_iter().map(|v| wrap(v, dtype)).collect();
        Values { dtype, dims: dims.to_vec(), data: Data::Ints(values) }
    }

    /// For every element of the result the one of this that it is.
    pub fn moved(&self, dims: &[usize], places: &[usize]) -> Values {
        let data = match &self.data {
            Data::Floats(v) => Data::Floats(places.iter().map(|&p| v[p]).collect()),
            Data::Ints(v) => Data::Ints(places.iter().map(|&p| v[p]).collect()),
        };
        Values { dtype: self.dtype, dims: dims.to_vec(), data }
    }

    /// The elements broadcast to these sizes.
    pub fn broadcast(&self, dims: &[usize]) -> Option<Values> {
        Some(self.moved(dims, &broadcast_places(&self.dims, dims)?))
    }
}

/// For every element of `out` the one of `own` that is read there, if the sizes broadcast.
pub fn broadcast_places(own: &[usize], out: &[usize]) -> Option<Vec<usize>> {
    let lead = out.len().checked_sub(own.len())?;
    let fits = own.iter().zip(&out[lead..]).all(|(own, out)| own == out || *own == 1);
    let place = |at: usize| {
        let index = index(at, out);
        own.iter().enumerate().fold(0, |place, (i, n)| place * n + if *n == 1 { 0 } else { index[lead + i] })
    };
    fits.then(|| (0..out.iter().product()).map(place).collect())
}

/// The sizes that operands broadcast to.
pub fn common(all: &[&[usize]]) -> Option<Vec<usize>> {
    let rank = all.iter().map(|d| d.len()).max()?;
    let mut out = vec![1; rank];
    for dims in all {
        for (o, &n) in out[rank - dims.len()..].iter_mut().zip(*dims) {
            match (*o, n) {
                (_, 1) => {}
                (1, n) => *o = n,
                (a, b) if a == b => {}
                _ => return None,
            }
        }
    }
    Some(out)
}

/// The place of element `at` along each axis.
pub fn index(mut at: usize, dims: &[usize]) -> Vec<usize> {
    let mut index = vec![0; dims.len()];
    for (i, &n) in dims.iter().enumerate().rev() {
        index[i] = at % n.max(1);
        at /= n.max(1);
    }
    index
}

/// The element at these places.
pub fn place(index: &[usize], dims: &[usize]) -> usize {
    index.iter().zip(dims).fold(0, |place, (i, n)| place * n + i)
}

/// An axis that may be counted from the end.
pub fn axis(axis: i64, rank: usize) -> Option<usize> {
    usize::try_from(if axis < 0 { axis + rank as i64 } else { axis }).ok().filter(|a| *a < rank)
}
