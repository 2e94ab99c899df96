//! Where the maxima of sliding windows stand, as MaxPool's second result, on the host.

use crate::ir::{Attrs, CORE, DType, Dim, Infer, KERNEL, OpDef, OpError, Shape, Tensor, TensorType, attr};
use crate::ops::core::window::Window;
use crate::ops::util::{n_elems, operand, strides};

/// Most elements that all windows over one plane look at: padding makes windows larger than any tensor.
const MAX_LOOKS: usize = 1 << 36;

/// `pool_indices(x) {kernel, strides, pads, dilations, ceil, column_major}`: where the maxima of sliding windows stand,
/// in x as one row.
pub static DEF: OpDef = OpDef {
    name: "pool_indices",
    onnx: "",
    levels: CORE | KERNEL,
    attrs: &[
        attr::ints("kernel"),
        attr::ints("strides"),
        attr::ints("pads"),
        attr::ints("dilations"),
        attr::int("ceil"),
        attr::int("column_major"),
    ],
    arity: (1, 1),
    infer: &infer,
    eval: Some(&eval),
    expand: None,
    weights: None,
    gradient: None,
};

fn infer(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    let x = infer.ty(0)?;
    let (_, counts) = plan(infer.attrs, &x.shape)?;
    Ok(vec![TensorType::new(DType::I64, Shape([&x.shape.0[..2], &counts].concat()))])
}

fn plan(attrs: &Attrs, x: &Shape) -> Result<(Window, Vec<Dim>), OpError> {
    let kernel = attrs.ints("kernel").ok_or_else(|| OpError::attribute("kernel", "is missing"))?;
    let spatial = x.0.get(2..).unwrap_or_default();
    let window = Window::of(attrs, kernel.to_vec(), spatial)?;
    let counts = window.out(spatial)?;
    Ok((window, counts))
}

fn eval(attrs: &Attrs, inputs: &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let (window, counts) = plan(attrs, &x.ty().shape)?;
    let counts = Shape(counts).known().ok_or_else(|| OpError::operand(0, x.ty(), "known sizes"))?;
    let own = x.dims();
    let (image, n_axes) = (&own[2..], own.len() - 2);
    let column_major = attrs.int("column_major").unwrap_or(0) != 0;
    let taps = n_elems(&window.kernel.iter().map(|&k| k as usize).collect::<Vec<_>>())?;
    let (plane, n_windows) = (n_elems(image)?, n_elems(&counts)?);
    if taps.saturating_mul(n_windows) > MAX_LOOKS {
        return Err(OpError::unsupported(format!("{n_windows} windows of {taps} elements")));
    }
    let rows = strides(image);
    let data = x.to_f64s()?;
    let mut places = Vec::with_capacity(own[0] * own[1] * n_windows);
    for (block, values) in data.chunks_exact(plane.max(1)).enumerate() {
        for at in 0..n_windows {
            let mut best: Option<(f64, usize, usize)> = None;
            for tap in 0..taps {
                let (mut tap, mut at, mut row, mut column, mut inside) = (tap, at, 0usize, 0usize, true);
                let mut position = vec![0usize; n_axes];
                for axis in (0..n_axes).rev() {
                    let (k, w) = (tap % window.kernel[axis] as usize, at % counts[axis]);
                    (tap, at) = (tap / window.kernel[axis] as usize, at / counts[axis]);
                    let v = w as i64 * window.strides[axis] + k as i64 * window.dilations[axis] - window.pads[axis];
                    match usize::try_from(v).ok().filter(|&v| v < image[axis]) {
                        Some(v) => position[axis] = v,
                        None => inside = false,
                    }
                }
                if !inside {
                    continue;
                }
                let mut step = 1;
                for axis in 0..n_axes {
                    row += position[axis] * rows[axis];
                    column += position[axis] * step;
                    step *= image[axis];
                }
                if best.is_none_or(|(value, _, _)| values[row] > value) {
                    best = Some((values[row], row, column));
                }
            }
            let (_, row, column) = best.unwrap_or((0.0, 0, 0));
            places.push((block * plane + if column_major { column } else { row }) as i64);
        }
    }
    Ok(vec![Tensor::from_i64s(DType::I64, &[&own[..2], &counts[..]].concat(), &places)?])
}
