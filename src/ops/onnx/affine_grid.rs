//! ONNX AffineGrid: grids of points, moved by matrices.

use crate::ir::{Dim, Expand, Infer, ONNX, OpDef, OpError, Shape, TensorType, Val, attr};
use crate::ops::compose::{LARGEST_CONSTANT, dims, floats, matmul};
use crate::ops::core::reshape;

/// `affine_grid(theta, size) {align_corners}`: ONNX AffineGrid, opset 20; the size is a constant.
pub static DEF: OpDef = OpDef {
    name: "affine_grid",
    onnx: "AffineGrid",
    levels: ONNX,
    attrs: &[attr::int("align_corners")],
    arity: (2, 2),
    infer: &infer,
    eval: None,
    expand: Some(&expand),
    weights: None,
    gradient: None,
};

/// The spatial sizes of a grid.
fn grid(theta: &TensorType, size: Option<Vec<i64>>) -> Result<Vec<usize>, OpError> {
    let size = size.ok_or(OpError::MissingOperand { slot: 1 })?;
    let spatial = size
        .get(2..)
        .unwrap_or_default()
        .iter()
        .map(|&n| usize::try_from(n).ok().filter(|&n| n > 0))
        .collect::<Option<Vec<_>>>();
    let n_points = |s: &Vec<usize>| s.iter().fold(1usize, |n, &m| n.saturating_mul(m));
    let spatial = spatial.filter(|s| (2..=3).contains(&s.len()) && n_points(s) <= LARGEST_CONSTANT / 4);
    let spatial = spatial.ok_or_else(|| OpError::operand(1, format!("{size:?}"), "[N,C,H,W] or [N,C,D,H,W]"))?;
    let n = spatial.len() as i64;
    if theta.shape.0 != [Dim::Known(size[0]), Dim::Known(n), Dim::Known(n + 1)]
        || !theta.dtype.is_float()
        || theta.packing.is_some()
    {
        return Err(OpError::operand(0, theta, format!("floats [{},{n},{}]", size[0], n + 1)));
    }
    Ok(spatial)
}

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let theta = infer.ty(0)?;
    let spatial = grid(theta, infer.ints(1)?)?;
    let shape = [&theta.shape.0[..1], &dims(&spatial), &dims(&[spatial.len()])].concat();
    Ok(vec![TensorType::new(theta.dtype, Shape(shape))])
}

fn expand(e: &mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> {
    let theta = e.input(0)?;
    let ty = e.ty(theta);
    let spatial = grid(&ty, e.ints(1)?)?;
    let align = e.attrs.int("align_corners").unwrap_or(0) != 0;
    let n_points: usize = spatial.iter().product();
    let place = |i: usize, n: usize| match align {
        true if n == 1 => 0.0,
        true => 2.0 * i as f64 / (n - 1) as f64 - 1.0,
        false => (2.0 * i as f64 + 1.0) / n as f64 - 1.0,
    };
    // Each point innermost axis first, then 1.
    let mut values = Vec::with_capacity(n_points * (spatial.len() + 1));
    for mut at in 0..n_points {
        for &n in spatial.iter().rev() {
            values.push(place(at % n, n) as f32);
            at /= n;
        }
        values.push(1.0);
    }
    let points = floats(e, &[1, n_points, spatial.len() + 1], &values)?;
    let y = matmul(e, points, theta, true)?;
    let y = crate::ops::compose::cast(e, y, ty.dtype)?;
    let shape = e.outputs[0].shape.0.clone();
    Ok(vec![reshape::to(e, y, shape)?])
}
