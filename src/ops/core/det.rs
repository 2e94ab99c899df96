//! ONNX Det: determinants, on the host.

use crate::ir::{Attrs, CORE, DType, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType};
use crate::ops::util::{n_elems, operand};

/// `det(x)`: ONNX Det, opset 22: determinants of the matrices in the last two axes.
pub static DEF: OpDef = OpDef {
    name: "det",
    onnx: "Det",
    levels: ONNX | CORE | KERNEL,
    attrs: &[],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let [lead @ .., rows, columns] = &x.shape.0[..] else { return Err(OpError::operand(0, x, "square matrices")) };
    if !x.dtype.is_float() || x.packing.is_some() || rows != columns {
        return Err(OpError::operand(0, x, "square matrices of floats"));
    }
    Ok(vec![TensorType::new(x.dtype, Shape(lead.to_vec()))])
}

fn eval(_: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let dims = x.dims();
    let [lead @ .., n, _] = &dims[..] else { return Err(OpError::operand(0, x.ty(), "square matrices")) };
    let values = x.to_f64s()?;
    let results: Vec<f64> = if *n == 0 {
        vec![1.0; n_elems(lead)?]
    } else {
        values.chunks_exact(n * n).map(|m| determinant(m, *n)).collect()
    };
    Ok(vec![if x.dtype() == DType::F64 {
        Tensor::from_f64s(x.dtype(), lead, &results)?
    } else {
        crate::ops::util::f32s(x.dtype(), lead, results.into_iter().map(|v| v as f32).collect())?
    }])
}

/// By Gaussian elimination, the largest element of a column first.
fn determinant(matrix: &[f64], n: usize) -> f64 {
    let mut m = matrix.to_vec();
    let mut product = 1.0;
    for column in 0..n {
        let pivot =
            (column..n).max_by(|a, b| m[a * n + column].abs().total_cmp(&m[b * n + column].abs())).unwrap_or(column);
        if pivot != column {
            (0..n).for_each(|i| m.swap(pivot * n + i, column * n + i));
            product = -product;
        }
        let head = m[column * n + column];
        product *= head;
        if head == 0.0 {
            return product;
        }
        for row in column + 1..n {
            let factor = m[row * n + column] / head;
            for i in column..n {
                m[row * n + i] -= factor * m[column * n + i];
            }
        }
    }
    product
}
