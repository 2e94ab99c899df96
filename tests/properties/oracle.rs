//! What the ONNX standard says that a node computes, written apart from the library: floats in f64 and rounded to the
//! type of the result, integers in 128 bits and wrapped to theirs. Expected results of whole graphs come from here
//! ([`crate::simulate`]), and each node of a graph is compared by itself.

mod elementwise;
mod layers;
mod movement;
mod values;

use crate::random::Random;
use crate::spec::{Source, Spec};
use nyxc::ir::{DType, Op, Tensor};
pub use values::broadcast_places;
use values::{Data, Values};

/// The results of a node; `None` of operators that the oracle does not know, and where the standard leaves open what an
/// element is.
pub fn evaluate(op: &Op, operands: &[Option<&Tensor>], n_outputs: usize) -> Option<Vec<Tensor>> {
    evaluated(op, &read(operands)?, n_outputs)?.iter().map(Values::tensor).collect()
}

fn read(operands: &[Option<&Tensor>]) -> Option<Vec<Option<Values>>> {
    operands.iter().map(|t| t.map_or(Some(None), |t| Values::of(t).map(Some))).collect()
}

fn evaluated(op: &Op, operands: &[Option<Values>], n_outputs: usize) -> Option<Vec<Values>> {
    if let Some(results) = movement::evaluate(op, operands, n_outputs) {
        return (results.len() == n_outputs).then_some(results);
    }
    if n_outputs != 1 {
        return None;
    }
    elementwise::evaluate(op, operands).or_else(|| layers::evaluate(op, operands)).map(|values| vec![values])
}

/// Whether the squares that an operator sums are beyond f32, in which kernels compute them: then its results say
/// nothing. Of ReduceL2 alone: the square, the sum and the root are kernels of their own, as ONNX Runtime's are, which
/// give infinity and 0 there too.
pub fn squares_beyond_f32(op: &Op, operands: &[Option<&Tensor>]) -> bool {
    let name = op.def.onnx;
    let is_double = operands.first().copied().flatten().is_some_and(|x| x.dtype() == DType::F64);
    let sums_squares = matches!(name, "ReduceL2" | "LpNormalization") && !is_double;
    let values = operands.first().copied().flatten().filter(|_| sums_squares).and_then(|x| x.to_f64s().ok());
    let extremes = values.map(|v| {
        v.iter().filter(|v| **v != 0.0).fold((f64::MAX, 0.0f64), |(low, high), v| (low.min(v.abs()), high.max(v.abs())))
    });
    // A root of what is next to nothing is not.
    extremes.is_some_and(|(low, high)| high > 1e17 || name == "ReduceL2" && low < 1e-17)
}

/// How many of the nodes of a graph the oracle knows, each of which the CPU reference computed as it does from the same
/// operands.
pub fn known(spec: &Spec, seed: u64) -> Result<usize, String> {
    let mut random = Random::new(seed ^ 0x0AC1_E000);
    let mut n = 0;
    for (at, value) in spec.values.iter().enumerate() {
        let Source::Node(node, 0) = value.source else { continue };
        let node = &spec.nodes[node];
        let operands: Vec<_> = node.operands.iter().map(|o| o.map(|o| &spec.values[o].tensor)).collect();
        let is_beyond = squares_beyond_f32(&node.op, &operands);
        let Some(operands) = read(&operands).filter(|_| !is_beyond) else { continue };
        let Some(wanted) = evaluated(&node.op, &operands, node.n_outputs) else { continue };
        n += 1;
        let moved: Vec<_> = (0..4)
            .filter_map(|_| {
                let operands: Vec<_> = operands.iter().map(|v| v.as_ref().map(|v| moved(v, &mut random))).collect();
                evaluated(&node.op, &operands, node.n_outputs)
            })
            .collect();
        for (out, wanted) in wanted.iter().enumerate() {
            let moved: Vec<&Values> = moved.iter().map(|all| &all[out]).collect();
            let given = &spec.values[at + out].tensor;
            if let Some(fault) = fault(&node.op, given, wanted, &moved) {
                let types: Vec<String> = operands
                    .iter()
                    .map(|v| v.as_ref().map_or("none".to_owned(), |v| format!("{}{:?}", v.dtype, v.dims)))
                    .collect();
                return Err(format!(
                    "the oracle of {}: {fault} ({}; {:?})",
                    node.op.def.onnx,
                    types.join(", "),
                    node.op.attrs
                ));
            }
        }
    }
    Ok(n)
}

/// Floats moved by a few last bits of f32.
fn moved(values: &Values, random: &mut Random) -> Values {
    let Data::Floats(v) = &values.data else { return values.clone() };
    let v = v.iter().map(|v| v * (1.0 + 3e-7 * f64::from(random.unit()))).collect();
    Values { data: Data::Floats(v), ..values.clone() }
}

/// The first element of a result that is not what the oracle has: integers and truth values exactly, floats as far as
/// rounding may lead.
fn fault(op: &Op, given: &Tensor, wanted: &Values, moved: &[&Values]) -> Option<String> {
    let Some(given) = Values::of(given) else { return Some("the result is packed".to_owned()) };
    if (given.dtype, &given.dims) != (wanted.dtype, &wanted.dims) {
        return Some(format!("{}{:?}, expected {}{:?}", given.dtype, given.dims, wanted.dtype, wanted.dims));
    }
    match (&given.data, &wanted.data) {
        (Data::Ints(g), Data::Ints(w)) => {
            let at = g.iter().zip(w).position(|(g, w)| g != w)?;
            Some(format!("element {at} is {}, expected {}", g[at], w[at]))
        }
        (Data::Floats(g), Data::Floats(w)) => {
            let last = match wanted.dtype {
                DType::F16 => 1.0 / 1024.0,
                DType::BF16 => 1.0 / 128.0,
                _ => 2.5e-7,
            };
            let least = if wanted.dtype == DType::F16 { 6e-8 } else { 2e-38 };
            // Differences of larger numbers near 0.
            let cancelled = match op.def.onnx {
                "Elu" | "Celu" | "Selu" | "Gelu" | "Mish" | "Softplus" => 1e-6,
                _ => 0.0,
            };
            let far = |i: usize| {
                moved
                    .iter()
                    .filter_map(|m| Some((m.floats()?[i] - w[i]).abs()))
                    .fold(0.0f64, |m, d| if d.is_nan() { f64::INFINITY } else { m.max(d) })
            };
            let far: Vec<f64> = (0..w.len()).map(far).collect();
            let finite: Vec<f64> = far.iter().copied().filter(|f| f.is_finite()).collect();
            let rms = (finite.iter().map(|f| f * f).sum::<f64>() / finite.len().max(1) as f64).sqrt();
            let at = (0..w.len()).find(|&i| {
                let tolerance = 8.0 * far[i] + 4.0 * rms + last * w[i].abs() + least + cancelled;
                // A result beyond the type has no value here.
                w[i].is_finite() && (w[i] as f32).is_finite() && (g[i].is_nan() || (g[i] - w[i]).abs() > tolerance)
            })?;
            Some(format!("element {at} is {:e}, expected {:e}", g[at], w[at]))
        }
        _ => Some("another class of results".to_owned()),
    }
}
