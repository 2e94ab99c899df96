//! Layers of many steps on the CPU: in parts of so many steps as are written out.

use super::{GRU, Kind, LSTM, RNN, layer};
use crate::ir::{Attrs, Graph, NodeId, Op, OpDef, OpError, Tensor, TensorType};
use crate::ops::onnx::linear_attention::MAX_STEPS;
use crate::ops::reference::evaluate::written_out;
use crate::ops::util::operand;

/// Whether a node is a layer of more steps than are written out.
pub fn is_long(graph: &Graph, node: NodeId) -> bool {
    let Some(op) = graph.node(node).op().filter(|op| [&RNN, &GRU, &LSTM].iter().any(|def| op.is(def))) else {
        return false;
    };
    let x = graph.operands(node).first().copied().flatten();
    let steps = x.and_then(|x| graph.ty(x).shape.0.get(usize::from(op.attrs.int("layout").unwrap_or(0) != 0))?.known());
    steps.is_some_and(|steps| steps > MAX_STEPS as i64)
}

/// The layer's results, `most` steps at a time: each part begins with the state that the one before left. Where there
/// are two directions, whose parts come in opposite orders, either is computed on its own, and the other's results of
/// those parts are dropped.
pub(super) fn eval(
    def: &'static OpDef,
    attrs: &Attrs,
    inputs: &[Option<&Tensor>],
    kind: Kind,
    most: usize,
) -> Result<Vec<Tensor>, OpError> {
    let x = operand(inputs, 0)?;
    let layer = layer(attrs, x.ty(), operand(inputs, 1)?.ty(), operand(inputs, 2)?.ty(), kind)?;
    let op = Op::new(def, attrs.clone());
    let n_outputs = if kind == Kind::Lstm { 3 } else { 2 };
    if layer.steps <= most {
        return written_out(&op, inputs, n_outputs);
    }
    let (time, direction_axis, state_axis) = if layer.batch_first { (1, 2, 1) } else { (0, 1, 0) };
    let given = |slot: usize| inputs.get(slot).copied().flatten();
    let mut results = vec![Vec::new(); n_outputs];
    for (direction, backwards) in layer.directions.iter().enumerate() {
        let mut states: Vec<Option<Tensor>> = (5..4 + n_outputs).map(|slot| given(slot).cloned()).collect();
        let mut starts: Vec<usize> = (0..layer.steps).step_by(most).collect();
        if *backwards {
            starts.reverse();
        }
        let mut parts = Vec::new();
        for start in starts {
            let len = most.min(layer.steps - start);
            let own = slice(x, time, start, len)?;
            let lengths = given(4).map(|lengths| lengths_within(lengths, start, len)).transpose()?;
            let mut operands = inputs.to_vec();
            operands.resize(operands.len().max(4 + n_outputs), None);
            (operands[0], operands[4]) = (Some(&own), lengths.as_ref());
            operands[5..].iter_mut().zip(&states).for_each(|(operand, state)| *operand = state.as_ref());
            let mut part = written_out(&op, &operands, n_outputs)?;
            parts.push(slice(&part[0], direction_axis, direction, 1)?);
            states = part.drain(1..).map(Some).collect();
        }
        if *backwards {
            parts.reverse();
        }
        results[0].push(joined(&parts, time)?);
        for (result, state) in results[1..].iter_mut().zip(states.iter().flatten()) {
            result.push(slice(state, state_axis, direction, 1)?);
        }
    }
    let axes = [direction_axis, state_axis, state_axis];
    results.iter().zip(axes).map(|(parts, axis)| joined(parts, axis)).collect()
}

/// Of the lengths of sequences, how many of the `len` steps from `start` on each has.
fn lengths_within(lengths: &Tensor, start: usize, len: usize) -> Result<Tensor, OpError> {
    let rest: Vec<i64> = lengths.to_i64s()?.iter().map(|n| (n - start as i64).clamp(0, len as i64)).collect();
    Ok(Tensor::from_i64s(lengths.dtype(), &lengths.dims(), &rest)?)
}

/// `len` elements of a plain tensor along an axis, from `start`.
fn slice(x: &Tensor, axis: usize, start: usize, len: usize) -> Result<Tensor, OpError> {
    let mut dims = x.dims();
    let bytes = x.bytes()?;
    let row = bytes.len() / dims[..=axis].iter().product::<usize>().max(1);
    let taken = bytes
        .chunks((row * dims[axis]).max(1))
        .flat_map(|all| &all[start * row..(start + len) * row])
        .copied()
        .collect();
    dims[axis] = len;
    Ok(Tensor::from_bytes(TensorType::of(x.dtype(), &dims), taken)?)
}

fn joined(parts: &[Tensor], axis: usize) -> Result<Tensor, OpError> {
    let parts: Vec<Option<&Tensor>> = parts.iter().map(Some).collect();
    let op = Op::new(&crate::ops::core::concat::DEF, Attrs::new().with_int("axis", axis as i64));
    Ok(crate::ops::reference::evaluate(&op, &parts, 1)?.swap_remove(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::DType;

    fn noise(dims: &[usize], seed: usize) -> Tensor {
        let n: usize = dims.iter().product();
        let values: Vec<f32> = (0..n).map(|i| (((i + 1) * (seed + 3) * 7919) % 199) as f32 / 99.0 - 1.0).collect();
        Tensor::from_f32s(DType::F32, dims, &values).unwrap()
    }

    #[test]
    fn parts_of_a_layer_are_the_layer() {
        let (steps, batch, input, hidden) = (10, 3, 2, 4);
        for (def, kind) in [(&RNN, Kind::Rnn), (&GRU, Kind::Gru), (&LSTM, Kind::Lstm)] {
            for direction in ["forward", "reverse", "bidirectional"] {
                for layout in [0, 1] {
                    let (n, gates) = (1 + usize::from(direction == "bidirectional"), kind.n_gates() * hidden);
                    let transpose = |mut dims: [usize; 3]| {
                        if layout == 1 {
                            dims.swap(0, 1);
                        }
                        dims
                    };
                    let state = transpose([n, batch, hidden]);
                    let (x, w, r, bias) = (
                        noise(&transpose([steps, batch, input]), 1),
                        noise(&[n, gates, input], 2),
                        noise(&[n, gates, hidden], 3),
                        noise(&[n, 2 * gates], 4),
                    );
                    let lengths = Tensor::from_i64s(DType::I32, &[batch], &[10, 2, 7]).unwrap();
                    let (h, c) = (noise(&state, 5), noise(&state, 6));
                    let attrs = Attrs::new()
                        .with_int("hidden_size", hidden as i64)
                        .with_str("direction", direction)
                        .with_int("layout", layout);
                    let few = [Some(&x), Some(&w), Some(&r)];
                    let all = [Some(&x), Some(&w), Some(&r), Some(&bias), Some(&lengths), Some(&h), Some(&c)];
                    for inputs in [&few[..], &all[..if kind == Kind::Lstm { 7 } else { 6 }]] {
                        let whole = eval(def, &attrs, inputs, kind, steps).unwrap();
                        for most in [1, 3, 4] {
                            let parts = eval(def, &attrs, inputs, kind, most).unwrap();
                            assert_eq!(parts.len(), whole.len());
                            for (part, whole) in parts.iter().zip(&whole) {
                                assert_eq!(part.ty(), whole.ty());
                                // Products of few rows may add in another order.
                                let (part, whole) = (part.to_f32s().unwrap(), whole.to_f32s().unwrap());
                                let far = part.iter().zip(whole.iter()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                                assert!(far < 1e-5, "{kind:?} {direction} {layout} {most}: {far:e}");
                            }
                        }
                    }
                }
            }
        }
    }
}
