//! `cdist`: distances between the rows of two matrices, as converters of k-nearest-neighbours models write them.

use crate::ir::expr::build::arg;
use crate::ir::{Dim, Expand, Infer, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::reduce;
use crate::ops::core::{pointwise, reshape};
use crate::ops::util::{agree, between};

written_out! {
    /// `cdist(a, b) {metric}`: CDist of com.microsoft, version 1: of a `[m, n]` and b `[k, n]` the distances `[m, k]`,
    /// `euclidean`, or `sqeuclidean` without the root, which is the default. Differences are squared and summed, so
    /// that rows which are near each other keep their digits.
    DEF "cdist" "com.microsoft::CDist" (2, 2) [attr::text("metric")] infer, expand;
}

fn has_root(metric: Option<&str>) -> Result<bool, OpError> {
    match metric.unwrap_or("sqeuclidean") {
        "euclidean" => Ok(true),
        "sqeuclidean" => Ok(false),
        other => Err(OpError::attribute("metric", format!("is {other:?}"))),
    }
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    has_root(infer.attrs.str("metric"))?;
    let (a, b) = (infer.ty(0)?, infer.ty(1)?);
    let is_matrix = |ty: &TensorType| ty.dtype.is_float() && ty.packing.is_none() && ty.shape.rank() == 2;
    if !is_matrix(a) {
        return Err(OpError::operand(0, a, "a matrix of floats"));
    }
    if !is_matrix(b) || b.dtype != a.dtype || !agree(&a.shape.0[1], &b.shape.0[1]) {
        return Err(OpError::operand(1, b, format!("rows like those of {a}")));
    }
    Ok(vec![TensorType::new(a.dtype, Shape(vec![a.shape.0[0].clone(), b.shape.0[0].clone()]))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let (a, b) = (e.input(0)?, e.input(1)?);
    let (rows, others) = (e.ty(a).shape.0, e.ty(b).shape.0);
    let a = reshape::to(e, a, vec![rows[0].clone(), Dim::Known(1), rows[1].clone()])?;
    let b = reshape::to(e, b, vec![Dim::Known(1), others[0].clone(), others[1].clone()])?;
    let dtype = e.outputs[0].dtype;
    let difference = arg(0) - arg(1);
    let squares = pointwise::add(e, difference.clone() * difference, between(dtype), &[a, b])?;
    let sums = reduce(e, "sum", squares, &[2], false)?;
    let expr = if has_root(e.attrs.str("metric"))? { arg(0).sqrt() } else { arg(0) };
    Ok(vec![pointwise::add(e, expr, dtype, &[sums])?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{Attrs, DType, Op, Tensor};
    use crate::ops::reference::evaluate;

    #[test]
    fn distances_are_those_of_onnx_runtime() {
        let a = Tensor::from_f32s(DType::F32, &[2, 3], &[1.0, 2.0, 3.0, 100.0, 0.5, -1.0]).unwrap();
        let b = Tensor::from_f32s(DType::F32, &[3, 3], &[1.0, 2.0, 3.0, 0.0, -2.0, 5.0, 100.0, 0.5, -1.25]).unwrap();
        let of = |metric: &str| {
            let op = Op::new(&DEF, Attrs::new().with_str("metric", metric));
            evaluate(&op, &[Some(&a), Some(&b)], 1).map(|y| y[0].to_f32s().unwrap().to_vec())
        };
        let squares = [0.0, 21.0, 9821.3125, 9819.25, 10042.25, 0.0625];
        assert_eq!(of("sqeuclidean").unwrap(), squares);
        let euclidean = of("euclidean").unwrap();
        let expected = squares.map(f32::sqrt);
        assert!(euclidean.iter().zip(expected).all(|(y, wanted)| (y - wanted).abs() <= 1e-5 * wanted), "{euclidean:?}");
        assert!(matches!(of("cosine"), Err(OpError::Attribute { name: "metric", .. })));
    }
}
