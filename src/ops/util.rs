//! What several operators share: broadcasting, strides, types of operands.

use crate::ir::{Dim, OpError, Shape};

/// The shape that operands of these shapes broadcast to, by ONNX's multidirectional rule.
///
/// # Errors
/// Two sizes differ and neither is 1.
pub fn broadcast(shapes: &[&Shape]) -> Result<Shape, OpError> {
    let rank = shapes.iter().map(|s| s.rank()).max().unwrap_or(0);
    let mut dims = vec![Dim::Known(1); rank];
    for shape in shapes {
        for (i, dim) in shape.0.iter().enumerate() {
            let slot = &mut dims[rank - shape.rank() + i];
            if *slot == Dim::Known(1) {
                slot.clone_from(dim);
            } else if *dim != Dim::Known(1) && dim != slot {
                let text = |s: &Shape| s.to_string();
                return Err(OpError::Broadcast { left: text(&Shape(dims)), right: text(shape) });
            }
        }
    }
    Ok(Shape(dims))
}

/// Row-major strides in elements.
pub fn strides(dims: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; dims.len()];
    for i in (1..dims.len()).rev() {
        strides[i - 1] = strides[i].saturating_mul(dims[i]);
    }
    strides
}

/// Strides in elements with which an operand of `dims` is read for an output of `out` that it broadcasts to: 0 along axes it lacks or has one of.
pub fn broadcast_strides(dims: &[usize], out: &[usize]) -> Vec<usize> {
    let own = strides(dims);
    let missing = out.len().saturating_sub(dims.len());
    (0..out.len()).map(|i| if i < missing || dims[i - missing] == 1 { 0 } else { own[i - missing] }).collect()
}

/// Calls `f(position in the output, offset of each operand)` for every element of an output of `dims`, in row-major order.
pub fn for_each_index(dims: &[usize], strides: &[Vec<usize>], mut f: impl FnMut(usize, &[usize])) {
    let n: usize = dims.iter().product();
    let mut index = vec![0usize; dims.len()];
    let mut offsets = vec![0usize; strides.len()];
    for at in 0..n {
        f(at, &offsets);
        for axis in (0..dims.len()).rev() {
            index[axis] += 1;
            if index[axis] < dims[axis] {
                offsets.iter_mut().zip(strides).for_each(|(o, s)| *o += s[axis]);
                break;
            }
            offsets.iter_mut().zip(strides).for_each(|(o, s)| *o -= s[axis] * (dims[axis] - 1));
            index[axis] = 0;
        }
    }
}
