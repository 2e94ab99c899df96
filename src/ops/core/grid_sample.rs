//! ONNX GridSample: images read at computed places, on the host.

use crate::ir::{Attrs, CORE, Dim, Infer, KERNEL, ONNX, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::core::interpolate::{Mode, Outside, gathered, taps};
use crate::ops::reference::real::Real;
use crate::ops::util::{finish_floats, float_operand, is_double, n_elems, one_of, operand, strides};
use rayon::prelude::*;

/// `grid_sample(x, grid) {mode, padding_mode, align_corners}`: ONNX GridSample, opset 22: x `[N,C,...]`, the grid
/// `[N,...,n]` with n coordinates from -1 to 1, innermost axis first.
pub static DEF: OpDef = OpDef {
    name: "grid_sample",
    onnx: "GridSample",
    levels: ONNX | CORE | KERNEL,
    attrs: &[attr::text("mode"), attr::text("padding_mode"), attr::int("align_corners")],
    arity: (2, 2),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let (x, grid) = (float_operand(infer, 0)?, float_operand(infer, 1)?);
    grid_modes(infer.attrs)?;
    let n = x.shape.rank().saturating_sub(2);
    if n == 0
        || grid.shape.rank() != n + 2
        || grid.shape.0[0] != x.shape.0[0]
        || grid.shape.0[n + 1] != Dim::Known(n as i64)
    {
        return Err(OpError::operand(
            1,
            grid,
            format!("[{},...,{n}] for {x}", x.shape.0.first().cloned().unwrap_or(Dim::Known(0))),
        ));
    }
    Ok(vec![TensorType::new(x.dtype, Shape([&x.shape.0[..2], &grid.shape.0[1..=n]].concat()))])
}

fn grid_modes(attrs: &Attrs) -> Result<(Mode, Outside, bool), OpError> {
    let mode = match one_of(attrs, "mode", &["linear", "nearest", "cubic"])? {
        "nearest" => Mode::Nearest,
        "cubic" => Mode::Cubic,
        _ => Mode::Linear,
    };
    let outside = match one_of(attrs, "padding_mode", &["zeros", "border", "reflection"])? {
        "border" => Outside::Border,
        "reflection" => Outside::Reflection,
        _ => Outside::Zeros,
    };
    Ok((mode, outside, attrs.int("align_corners").unwrap_or(0) != 0))
}

/// The place on an axis of `size` elements that a coordinate from -1 to 1 names.
fn unnormalized<F: Real>(v: F, size: F, align: bool) -> F {
    let (one, two) = (F::one(), F::of_f32(2.0));
    if !align {
        return ((v + one) * size - one) / two;
    }
    // A single element is where every number leads, infinity too.
    if size == one && !v.is_nan() { F::zero() } else { (v + one) / two * (size - one) }
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    if is_double(attrs, inputs) { sampled::<f64>(attrs, inputs) } else { sampled::<f32>(attrs, inputs) }
}

fn sampled<F: Real>(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let (x, grid) = (operand(inputs, 0)?, operand(inputs, 1)?);
    let modes = grid_modes(attrs)?;
    let (own, points) = (x.dims(), grid.dims());
    let (spatial, n) = (&own[2..], own.len() - 2);
    let dims = [&own[..2], &points[1..=n]].concat();
    let (plane, n_points) = (n_elems(spatial)?, n_elems(&points[1..=n])?);
    let steps = strides(spatial);
    let (data, grid) = (F::elements(x)?, F::elements(grid)?);
    let mut out = vec![F::zero(); n_elems(&dims)?];
    if n_points == 0 || plane == 0 {
        return finish_floats(attrs, &dims, out, x.dtype(), &[]);
    }
    let channels = own[1];
    out.par_chunks_mut((channels * n_points).max(1)).enumerate().for_each(|(image, out)| {
        let mut axes = vec![Vec::new(); n];
        for point in 0..n_points {
            let at = &grid[(image * n_points + point) * n..][..n];
            for (axis, found) in axes.iter_mut().enumerate() {
                let (v, size) = (at[n - 1 - axis], F::of_f64(spatial[axis] as f64));
                taps(unnormalized(v, size, modes.2), spatial[axis], modes, found);
            }
            for channel in 0..channels {
                let first = (image * channels + channel) * plane;
                out[channel * n_points + point] = gathered(&data[first..first + plane], &steps, &axes, 0);
            }
        }
    });
    finish_floats(attrs, &dims, out, x.dtype(), &[])
}

#[cfg(test)]
mod tests {
    //! Coordinates that are outside an image.

    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;
    use crate::ir::DType;

    fn row_at(mode: &str, padding: &str, align: i64, width: usize, points: &[f32]) -> Vec<f32> {
        let row: Vec<f32> = (0..width).map(|i| i as f32 + 1.0).collect();
        let x = Tensor::from_f32s(DType::F32, &[1, 1, width], &row).unwrap();
        let grid = Tensor::from_f32s(DType::F32, &[1, points.len(), 1], points).unwrap();
        let attrs =
            Attrs::new().with_str("mode", mode).with_str("padding_mode", padding).with_int("align_corners", align);
        eval(&attrs, &[Some(&x), Some(&grid)]).unwrap()[0].to_f32s().unwrap().into_owned()
    }

    #[test]
    fn far_and_infinite_coordinates_are_the_border_or_nothing() {
        const FAR: [f32; 10] =
            [f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30, 1e10, -1e10, 5.0, -5.0, f32::MAX, f32::MIN];
        for mode in ["nearest", "linear", "cubic"] {
            for align in [0, 1] {
                let expected = [4.0, 1.0, 4.0, 1.0, 4.0, 1.0, 4.0, 1.0, 4.0, 1.0];
                assert_eq!(row_at(mode, "border", align, 4, &FAR), expected, "{mode} {align}");
                assert_eq!(row_at(mode, "border", align, 1, &FAR), [1.0; 10], "{mode} {align}");
                assert_eq!(row_at(mode, "zeros", align, 4, &FAR), [0.0; 10], "{mode} {align}");
                for width in [1, 4] {
                    let thrown_back = row_at(mode, "reflection", align, width, &FAR);
                    assert!(thrown_back.iter().all(|v| (0.5..=width as f32 + 0.5).contains(v)), "{thrown_back:?}");
                    assert_eq!(thrown_back[..2], [thrown_back[0]; 2], "{mode} {align}");
                    let nan = |padding| row_at(mode, padding, align, width, &[f32::NAN]);
                    assert_eq!([nan("zeros"), nan("border")], [[0.0], [1.0]], "{mode} {align}");
                    assert_eq!(nan("reflection"), thrown_back[..1], "{mode} {align}");
                }
            }
        }
    }

    #[test]
    fn reflection_is_exact_however_far_a_coordinate_is() {
        // Places 0 to 3, a period of 6: the coordinate v is the place 1.5 * (v + 1).
        let expected = |v: f32| {
            let at = f64::from((v + 1.0) / 2.0 * 3.0).rem_euclid(6.0);
            (if at > 3.0 { 6.0 - at } else { at }) as f32 + 1.0
        };
        let points = [0.25f32, 1.5, -2.75, 9.0, 1e3, -1e5, 12_345_678.0, 1e9, -3e20, 1e30];
        let given = row_at("linear", "reflection", 1, 4, &points);
        for (v, given) in points.into_iter().zip(given) {
            assert!((given - expected(v)).abs() < 1e-6, "{v}: {given}, not {}", expected(v));
        }
    }
}
