//! Expressions computed for whole tensors: chunks of elements in parallel, one loop a function. In f32, as kernels do,
//! and in f64 where the result or an operand is f64.

use crate::ir::{Binary, Class, DType, Expr, OpError, Shape, Tensor, Unary};
use crate::ops::reference::real::{Real, sigmoid};
use crate::ops::reference::scalar::{Scalar, binary, unary};
use crate::ops::util::{broadcast_strides, class_of, n_elems};
use rayon::prelude::*;
use std::borrow::Cow;

/// Elements computed together: a few such rows fit into the first-level cache.
const CHUNK: usize = 1024;

/// Computes `expr` for every element of an output of `out`, operands broadcast to it. Also what computes epilogues.
///
/// # Errors
/// An operand cannot be read or does not broadcast to `out`, the expression has no type, or a result is beyond `dtype`
/// that was computed in f64.
pub fn apply(expr: &Expr, operands: &[&Tensor], out: &[usize], dtype: DType) -> Result<Tensor, OpError> {
    if dtype == DType::F64 || operands.iter().any(|t| t.dtype() == DType::F64) {
        apply_in::<f64>(expr, operands, out, dtype)
    } else {
        apply_in::<f32>(expr, operands, out, dtype)
    }
}

/// The same with floats computed in `F`.
fn apply_in<F: Real>(expr: &Expr, operands: &[&Tensor], out: &[usize], dtype: DType) -> Result<Tensor, OpError> {
    let columns: Vec<Column<'_, F>> = operands.iter().map(|t| Column::of(t, out)).collect::<Result<_, _>>()?;
    let classes: Vec<_> = operands.iter().map(|t| class_of(t.ty())).collect();
    let n = n_elems(out)?;
    match expr.class(&classes)? {
        Class::Float => {
            let mut values = vec![F::zero(); n];
            values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, part)| {
                if let Lane::Float(lane) = compute(expr, &columns, i * CHUNK, part.len()) {
                    part.copy_from_slice(&lane);
                }
            });
            F::stored(dtype, out, values)
        }
        _ => {
            let mut values = vec![0i64; n];
            values.par_chunks_mut(CHUNK).enumerate().for_each(|(i, part)| {
                match compute(expr, &columns, i * CHUNK, part.len()) {
                    Lane::Int(lane) => part.copy_from_slice(&lane),
                    Lane::Bool(lane) => part.iter_mut().zip(lane).for_each(|(value, truth)| *value = i64::from(truth)),
                    Lane::Float(_) => {}
                }
            });
            Ok(Tensor::from_i64s(dtype, out, &values)?)
        }
    }
}

/// The data of an operand, and how it is read for the output.
struct Column<'a, F: Real> {
    values: Values<'a, F>,
    dims: Vec<usize>,
    strides: Vec<usize>,
}

enum Values<'a, F: Real> {
    Float(Cow<'a, [F]>),
    Int(Vec<i64>),
    Bool(Vec<bool>),
}

/// A chunk of values.
enum Lane<F> {
    Float(Vec<F>),
    Int(Vec<i64>),
    Bool(Vec<bool>),
}

impl<'a, F: Real> Column<'a, F> {
    fn of(tensor: &'a Tensor, out: &[usize]) -> Result<Self, OpError> {
        let own = tensor.dims();
        let fits = own.len() <= out.len() && own.iter().rev().zip(out.iter().rev()).all(|(a, b)| a == b || *a == 1);
        if !fits {
            return Err(OpError::Broadcast { left: Shape::of(out).to_string(), right: tensor.ty().shape.to_string() });
        }
        let values = match class_of(tensor.ty()) {
            Class::Float => Values::Float(F::elements(tensor)?),
            Class::Int => Values::Int(tensor.to_i64s()?),
            Class::Bool => Values::Bool(tensor.to_i64s()?.into_iter().map(|v| v != 0).collect()),
            Class::Text => return Err(OpError::unsupported("text in an expression")),
        };
        let (mut dims, mut strides) = (Vec::<usize>::new(), Vec::<usize>::new());
        for (dim, stride) in out.iter().copied().zip(broadcast_strides(&own, out)).filter(|(dim, _)| *dim != 1) {
            match (dims.last_mut(), strides.last_mut()) {
                // Axes that are contiguous are read as one.
                (Some(last_dim), Some(last_stride)) if *last_stride == stride * dim => {
                    *last_dim *= dim;
                    *last_stride = stride;
                }
                _ => {
                    dims.push(dim);
                    strides.push(stride);
                }
            }
        }
        if dims.is_empty() {
            (dims, strides) = (vec![1], vec![0]);
        }
        Ok(Column { values, dims, strides })
    }

    /// The values of `len` elements of the output from `start`.
    fn chunk(&self, start: usize, len: usize) -> Lane<F> {
        match &self.values {
            Values::Float(values) => Lane::Float(self.read(values, start, len)),
            Values::Int(values) => Lane::Int(self.read(values, start, len)),
            Values::Bool(values) => Lane::Bool(self.read(values, start, len)),
        }
    }

    fn read<T: Copy>(&self, values: &[T], start: usize, len: usize) -> Vec<T> {
        let mut chunk = Vec::with_capacity(len);
        let (axis, end) = (self.dims.len() - 1, start + len);
        let (width, stride) = (self.dims[axis], self.strides[axis]);
        let mut at = start;
        while at < end {
            let (mut row, column) = (at / width, at % width);
            let mut offset = column * stride;
            for i in (0..axis).rev() {
                offset += row % self.dims[i] * self.strides[i];
                row /= self.dims[i];
            }
            let n = (width - column).min(end - at);
            match stride {
                0 => chunk.resize(chunk.len() + n, values[offset]),
                1 => chunk.extend_from_slice(&values[offset..offset + n]),
                _ => chunk.extend(values[offset..].iter().step_by(stride).take(n)),
            }
            at += n;
        }
        chunk
    }
}

fn compute<F: Real>(expr: &Expr, columns: &[Column<'_, F>], start: usize, len: usize) -> Lane<F> {
    match expr {
        Expr::Arg(i) => columns[*i].chunk(start, len),
        Expr::Float(v) => Lane::Float(vec![F::of_f32(*v); len]),
        Expr::Int(v) => Lane::Int(vec![*v; len]),
        Expr::Unary(function, a) => unary_lane(*function, compute(a, columns, start, len)),
        Expr::Binary(function, a, b) => {
            binary_lane(*function, compute(a, columns, start, len), compute(b, columns, start, len))
        }
        Expr::Select(c, a, b) => {
            let Lane::Bool(condition) = compute(c, columns, start, len) else { return Lane::Bool(Vec::new()) };
            match (compute(a, columns, start, len), compute(b, columns, start, len)) {
                (Lane::Float(a), Lane::Float(b)) => Lane::Float(select(&condition, a, &b)),
                (Lane::Int(a), Lane::Int(b)) => Lane::Int(select(&condition, a, &b)),
                (Lane::Bool(a), Lane::Bool(b)) => Lane::Bool(select(&condition, a, &b)),
                // `Expr::class` refuses branches of different classes before anything is computed.
                (a, _) => a,
            }
        }
    }
}

fn select<T: Copy>(condition: &[bool], mut a: Vec<T>, b: &[T]) -> Vec<T> {
    a.iter_mut().zip(b).zip(condition).for_each(|((a, b), c)| *a = if *c { *a } else { *b });
    a
}

fn unary_lane<F: Real>(function: Unary, a: Lane<F>) -> Lane<F> {
    // The common functions get loops of their own, which the compiler turns into vector instructions.
    let each = |mut a: Vec<F>, f: fn(F) -> F| {
        a.iter_mut().for_each(|v| *v = f(*v));
        Lane::Float(a)
    };
    let a = match (function, a) {
        (Unary::Neg, Lane::Float(mut a)) => {
            a.iter_mut().for_each(|v| *v = -*v);
            return Lane::Float(a);
        }
        (Unary::Abs, Lane::Float(mut a)) => {
            a.iter_mut().for_each(|v| *v = v.abs());
            return Lane::Float(a);
        }
        (Unary::Sqrt, Lane::Float(mut a)) => {
            a.iter_mut().for_each(|v| *v = v.sqrt());
            return Lane::Float(a);
        }
        (Unary::Relu, Lane::Float(mut a)) => {
            a.iter_mut().for_each(|v| *v = if *v < F::zero() { F::zero() } else { *v });
            return Lane::Float(a);
        }
        (Unary::Exp, Lane::Float(a)) => return each(a, F::exp),
        (Unary::Sigmoid, Lane::Float(a)) => return each(a, sigmoid),
        (Unary::Tanh, Lane::Float(a)) => return each(a, F::tanh),
        (_, a) => a,
    };
    collect(a.len(), |i| unary(function, a.get(i)))
}

fn binary_lane<F: Real>(function: Binary, a: Lane<F>, b: Lane<F>) -> Lane<F> {
    if let (Lane::Float(x), Lane::Float(y)) = (&a, &b) {
        let pairs = x.iter().zip(y);
        // As above; functions that must look at NaN take the general way.
        let values: Option<Vec<F>> = match function {
            Binary::Add => Some(pairs.map(|(x, y)| *x + *y).collect()),
            Binary::Sub => Some(pairs.map(|(x, y)| *x - *y).collect()),
            Binary::Mul => Some(pairs.map(|(x, y)| *x * *y).collect()),
            Binary::Div => Some(pairs.map(|(x, y)| *x / *y).collect()),
            Binary::Max => Some(pairs.map(|(x, y)| if x > y || x.is_nan() { *x } else { *y }).collect()),
            Binary::Min => Some(pairs.map(|(x, y)| if x < y || x.is_nan() { *x } else { *y }).collect()),
            _ => None,
        };
        if let Some(values) = values {
            return Lane::Float(values);
        }
    }
    collect(a.len().min(b.len()), |i| binary(function, a.get(i), b.get(i)))
}

/// A lane of single results, all of one class.
fn collect<F: Real>(len: usize, f: impl Fn(usize) -> Scalar<F>) -> Lane<F> {
    if len == 0 {
        return Lane::Float(Vec::new());
    }
    match f(0) {
        Scalar::Float(_) => {
            Lane::Float((0..len).map(|i| if let Scalar::Float(v) = f(i) { v } else { F::nan() }).collect())
        }
        Scalar::Int(_) => Lane::Int((0..len).map(|i| if let Scalar::Int(v) = f(i) { v } else { 0 }).collect()),
        Scalar::Bool(_) => Lane::Bool((0..len).map(|i| f(i) == Scalar::Bool(true)).collect()),
    }
}

impl<F: Real> Lane<F> {
    fn len(&self) -> usize {
        match self {
            Lane::Float(v) => v.len(),
            Lane::Int(v) => v.len(),
            Lane::Bool(v) => v.len(),
        }
    }

    fn get(&self, at: usize) -> Scalar<F> {
        match self {
            Lane::Float(v) => Scalar::Float(v[at]),
            Lane::Int(v) => Scalar::Int(v[at]),
            Lane::Bool(v) => Scalar::Bool(v[at]),
        }
    }
}
