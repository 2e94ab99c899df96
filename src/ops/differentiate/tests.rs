//! Derivatives of operators, in f64, against central differences of the CPU reference.

use super::*;
use crate::ir::{DType, Graph, Level, Tensor, ValueId};
use crate::session::Reference;

const STEP: f64 = 1e-5;

/// Numbers between `low` and `high`, none like another.
fn numbers(n: usize, seed: usize, (low, high): (f64, f64)) -> Vec<f64> {
    let at = |i: usize| ((i * 7919 + seed * 104_729 + 31) % 9973) as f64 / 9973.0;
    (0..n).map(|i| low + (high - low) * at(i)).collect()
}

/// A constant operand of integers, or one that derivatives are with respect to.
enum In<'a> {
    X(&'a [usize], (f64, f64)),
    I(&'a [usize], &'a [i64]),
}
use In::{I, X};

const PLUS: (f64, f64) = (0.5, 1.5);
const BOTH: (f64, f64) = (-1.7, 1.3);

fn ints(name: &str, list: &[i64]) -> Attrs {
    Attrs::new().with_ints(name, list.iter().copied())
}

fn int(name: &str, value: i64) -> Attrs {
    Attrs::new().with_int(name, value)
}

/// Compares what every X gains where the sum of weighted elements of the first result does with differences.
fn check(op: &str, attrs: Attrs, operands: &[In<'_>]) {
    check_all(op, attrs, operands, 1);
}

fn check_all(op: &str, attrs: Attrs, operands: &[In<'_>], n_results: usize) {
    let registry = crate::ops::registry();
    let def = registry.by_onnx(op).unwrap_or_else(|| panic!("{op}"));
    let mut graph = Graph::new("g", Level::Onnx);
    let (mut given, mut xs, mut values) = (Vec::new(), Vec::new(), Vec::new());
    for (i, operand) in operands.iter().enumerate() {
        given.push(match operand {
            X(dims, range) => {
                let x = graph.add_input(&format!("x{i}"), TensorType::of(DType::F64, dims));
                xs.push(x);
                values.push((dims.to_vec(), numbers(dims.iter().product(), i, *range)));
                Some(x)
            }
            I(dims, list) => {
                Some(graph.add_const(&format!("i{i}"), Tensor::from_i64s(DType::I64, dims, list).unwrap()))
            }
        });
    }
    let names: Vec<String> = (0..n_results).map(|out| format!("y{out}")).collect();
    let node = graph.add_op("y", Op::new(def, attrs), &given, &names).unwrap_or_else(|e| panic!("{op}: {e}"));
    let mut weights = Vec::new();
    for (out, name) in names.iter().enumerate() {
        let dims = graph.ty(node.out(out)).shape.known().unwrap();
        weights.push(numbers(dims.iter().product(), 77 + out, (0.5, 2.0)));
        graph.add_output(name, node.out(out));
    }
    let identity = registry.by_onnx("Identity").unwrap();
    let places: Vec<ValueId> = xs
        .iter()
        .enumerate()
        .map(|(i, x)| {
            let name = format!("d{i}");
            graph
                .add_op(&name, Op::new(identity, Attrs::new()), &[Some(*x)], std::slice::from_ref(&name))
                .unwrap()
                .out(0)
        })
        .collect();
    places.iter().enumerate().for_each(|(i, place)| graph.add_output(&format!("d{i}"), *place));
    let mut edit = Edit::new(&graph);
    let seeds: Vec<(Val, Val)> = (0..n_results)
        .map(|out| {
            let dims = graph.ty(node.out(out)).shape.known().unwrap();
            let weights = Tensor::from_f64s(DType::F64, &dims, &weights[out]).unwrap();
            (Val::Old(node.out(out)), edit.add_const(weights))
        })
        .collect();
    let vals: Vec<Val> = xs.iter().copied().map(Val::Old).collect();
    let gains = gains(&mut edit, &seeds, &vals, &[], &mut |_| Ok(())).unwrap_or_else(|e| panic!("{op}: {e}"));
    for (i, gain) in gains.into_iter().enumerate() {
        let dims = &values[i].0;
        let none = || Tensor::from_f64s(DType::F64, dims, &vec![0.0; dims.iter().product()]).unwrap();
        let gain = gain.unwrap_or_else(|| edit.add_const(none()));
        assert_eq!(edit.ty(gain), graph.ty(xs[i]), "{op}: d{i}");
        edit.replace(places[i], gain);
    }
    let patch = edit.finish();
    let mut graph = graph;
    graph.apply(patch);
    graph.verify().unwrap_or_else(|e| panic!("{op}: {e}\n{graph}"));
    let reference = Reference::new(graph);
    let tensors = |values: &[(Vec<usize>, Vec<f64>)]| -> Vec<Tensor> {
        values.iter().map(|(dims, v)| Tensor::from_f64s(DType::F64, dims, v).unwrap()).collect()
    };
    let run = |values: &[(Vec<usize>, Vec<f64>)]| -> Vec<Vec<f64>> {
        let outputs = reference.run(&tensors(values)).unwrap_or_else(|e| panic!("{op}: {e}"));
        outputs.iter().map(|t| t.to_f64s().unwrap()).collect()
    };
    let loss = |values: &[(Vec<usize>, Vec<f64>)]| -> f64 {
        let outputs = run(values);
        weights.iter().zip(&outputs).flat_map(|(w, y)| w.iter().zip(y)).map(|(w, y)| w * y).sum()
    };
    let given = run(&values);
    for i in 0..values.len() {
        for (at, derivative) in given[n_results + i].iter().enumerate() {
            let moved = |by: f64| {
                let mut values = values.clone();
                values[i].1[at] += by;
                loss(&values)
            };
            let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            let error = (derivative - expected).abs();
            assert!(error <= 2e-6 * expected.abs().max(1.0), "{op}: d{i}[{at}] is {derivative}, not {expected}");
        }
    }
}

#[test]
fn of_elements() {
    for op in ["Neg", "Exp", "Log", "Sqrt", "Reciprocal", "Sin", "Cos", "Tan", "Sinh", "Cosh", "Asinh"] {
        check(op, Attrs::new(), &[X(&[2, 3], PLUS)]);
    }
    for op in
        ["Abs", "Tanh", "Sigmoid", "Erf", "Softplus", "Softsign", "Relu", "Elu", "Selu", "Celu", "LeakyRelu", "Atan"]
    {
        check(op, Attrs::new(), &[X(&[7], BOTH)]);
    }
    for op in ["HardSigmoid", "HardSwish", "Gelu", "Mish", "ThresholdedRelu", "Floor", "Sign", "Identity"] {
        check(op, Attrs::new(), &[X(&[7], BOTH)]);
    }
    for op in ["Asin", "Acos", "Atanh"] {
        check(op, Attrs::new(), &[X(&[5], (-0.8, 0.9))]);
    }
    check("Acosh", Attrs::new(), &[X(&[5], (1.2, 3.0))]);
    // Broadcast either way, and one value that is read twice.
    for op in ["Add", "Sub", "Mul", "Div", "Pow", "Min", "Max", "PRelu"] {
        check(op, Attrs::new(), &[X(&[3, 2, 3], PLUS), X(&[2, 1], PLUS)]);
        check(op, Attrs::new(), &[X(&[3, 2, 3], PLUS), X(&[], PLUS)]);
    }
    check("Mul", Attrs::new(), &[X(&[3], PLUS), X(&[5, 1, 3], PLUS)]);
    check("Mod", int("fmod", 1), &[X(&[5], (2.1, 9.7)), X(&[5], PLUS)]);
    for op in ["Sum", "Mean"] {
        check(op, Attrs::new(), &[X(&[3], PLUS), X(&[2, 3], PLUS), X(&[1], PLUS)]);
    }
}

#[test]
fn of_products() {
    check("MatMul", Attrs::new(), &[X(&[2, 3, 4], BOTH), X(&[4, 5], BOTH)]);
    check("MatMul", Attrs::new(), &[X(&[3, 4], BOTH), X(&[5, 2, 4, 3], BOTH)]);
    check("MatMul", Attrs::new(), &[X(&[4], BOTH), X(&[2, 4, 3], BOTH)]);
    check("MatMul", Attrs::new(), &[X(&[3, 4], BOTH), X(&[4], BOTH)]);
    for (trans_a, trans_b) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let attrs = int("transA", trans_a).with_int("transB", trans_b).with_float("alpha", 0.5);
        let dims = |transposed: i64, a: usize, b: usize| if transposed == 1 { [b, a] } else { [a, b] };
        check("Gemm", attrs, &[X(&dims(trans_a, 3, 5), BOTH), X(&dims(trans_b, 5, 2), BOTH), X(&[2], BOTH)]);
    }
    let einsum = Attrs::new().with_str("equation", "bij,bjk->ik");
    check("Einsum", einsum, &[X(&[2, 3, 4], BOTH), X(&[2, 4, 3], BOTH)]);
}

#[test]
fn of_convolutions() {
    check("Conv", Attrs::new(), &[X(&[1, 2, 5, 4], BOTH), X(&[3, 2, 3, 2], BOTH), X(&[3], BOTH)]);
    let attrs = ints("strides", &[2, 3]).with_ints("pads", [1, 0, 2, 1]).with_ints("dilations", [1, 2]);
    check("Conv", attrs.with_int("group", 2), &[X(&[2, 4, 6, 8], BOTH), X(&[4, 2, 3, 2], BOTH)]);
    // Rows and columns that no step reaches; one channel a group.
    check("Conv", ints("strides", &[3, 2]).with_int("group", 3), &[X(&[1, 3, 9, 6], BOTH), X(&[3, 1, 2, 2], BOTH)]);
    check("Conv", ints("pads", &[1, 1]), &[X(&[1, 2, 7], BOTH), X(&[2, 2, 3], BOTH)]);
    check("Conv", Attrs::new(), &[X(&[1, 1, 3, 4, 3], BOTH), X(&[2, 1, 2, 2, 2], BOTH)]);
    let attrs = ints("strides", &[2, 2]).with_ints("output_padding", [1, 0]);
    check("ConvTranspose", attrs, &[X(&[1, 2, 3, 2], BOTH), X(&[2, 3, 3, 2], BOTH), X(&[3], BOTH)]);
}

#[test]
fn of_pools() {
    let window = || ints("kernel_shape", &[3, 2]).with_ints("strides", [2, 1]).with_ints("pads", [1, 0, 1, 1]);
    for op in ["MaxPool", "AveragePool"] {
        check(op, window(), &[X(&[1, 2, 6, 5], BOTH)]);
        check(op, window().with_int("ceil_mode", 1).with_ints("dilations", [1, 2]), &[X(&[1, 1, 7, 6], BOTH)]);
        check(op, ints("kernel_shape", &[3]), &[X(&[1, 2, 6], BOTH)]);
    }
    check("AveragePool", window().with_int("count_include_pad", 1), &[X(&[1, 2, 6, 5], BOTH)]);
    for op in ["GlobalAveragePool", "GlobalMaxPool"] {
        check(op, Attrs::new(), &[X(&[2, 3, 3, 2], BOTH)]);
    }
}

#[test]
fn of_rows() {
    for op in ["ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2"] {
        check(op, Attrs::new(), &[X(&[2, 3, 4], PLUS), I(&[2], &[-1, 0])]);
        check(op, int("keepdims", 0), &[X(&[3, 2], PLUS), I(&[1], &[1])]);
    }
    for op in ["ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"] {
        check(op, Attrs::new(), &[X(&[2, 3, 2], PLUS), I(&[1], &[1])]);
    }
    for axis in [0, 1, -1] {
        check("Softmax", int("axis", axis), &[X(&[3, 4, 2], BOTH)]);
        check("LogSoftmax", int("axis", axis), &[X(&[3, 4, 2], BOTH)]);
    }
    for (axis, dims) in [(0, &[3, 4, 2][..]), (1, &[4, 2]), (-1, &[2])] {
        check("LayerNormalization", int("axis", axis), &[X(&[3, 4, 2], BOTH), X(dims, PLUS)]);
    }
    check("LayerNormalization", Attrs::new(), &[X(&[3, 5], BOTH), X(&[5], PLUS), X(&[5], BOTH)]);
    check("RMSNormalization", Attrs::new(), &[X(&[3, 5], BOTH), X(&[5], PLUS)]);
    check("InstanceNormalization", Attrs::new(), &[X(&[2, 3, 4], BOTH), X(&[3], PLUS), X(&[3], BOTH)]);
    check("GroupNormalization", int("num_groups", 2), &[X(&[2, 4, 3], BOTH), X(&[4], PLUS), X(&[4], BOTH)]);
    let of_channel = |range| X(&[3], range);
    let operands = [X(&[2, 3, 2], BOTH), of_channel(PLUS), of_channel(BOTH), of_channel(BOTH), of_channel(PLUS)];
    check("BatchNormalization", Attrs::new(), &operands);
    check("LpNormalization", Attrs::new(), &[X(&[3, 4], PLUS)]);
}

#[test]
fn of_what_moves_elements() {
    for perm in [&[0, 1, 2][..], &[2, 0, 1], &[1, 2, 0]] {
        check("Transpose", ints("perm", perm), &[X(&[2, 3, 4], BOTH)]);
    }
    let slice = |starts: &[i64], ends: &[i64], axes: &[i64], steps: &[i64], dims: &[usize]| {
        let n = [starts.len()];
        check("Slice", Attrs::new(), &[X(dims, BOTH), I(&n, starts), I(&n, ends), I(&n, axes), I(&n, steps)]);
    };
    slice(&[1, 0], &[4, 3], &[0, 1], &[1, 1], &[5, 4]);
    slice(&[1, 4], &[9, -9], &[0, 1], &[3, -2], &[7, 5]);
    slice(&[-1], &[-99], &[1], &[-1], &[2, 4, 3]);
    check("Pad", Attrs::new(), &[X(&[3, 2], BOTH), I(&[4], &[1, 0, 2, 1])]);
    check("Pad", Attrs::new(), &[X(&[4, 3], BOTH), I(&[4], &[-1, 2, -1, 0])]);
    check("Pad", Attrs::new().with_str("mode", "reflect"), &[X(&[4, 3], BOTH), I(&[4], &[2, 1, 1, 2])]);
    check("Expand", Attrs::new(), &[X(&[3, 1], BOTH), I(&[3], &[2, 3, 4])]);
    check("Tile", Attrs::new(), &[X(&[2, 3], BOTH), I(&[2], &[2, 3])]);
    check("Concat", int("axis", 1), &[X(&[2, 3], BOTH), X(&[2, 1], BOTH), X(&[2, 4], BOTH)]);
    check_all("Split", int("axis", 1), &[X(&[2, 5], BOTH), I(&[2], &[2, 3])], 2);
    check("Reshape", Attrs::new(), &[X(&[2, 6], BOTH), I(&[3], &[3, -1, 2])]);
    check("Flatten", int("axis", 2), &[X(&[2, 3, 2], BOTH)]);
    check("Unsqueeze", Attrs::new(), &[X(&[2, 3], BOTH), I(&[1], &[1])]);
    check("DepthToSpace", int("blocksize", 2), &[X(&[1, 8, 2, 3], BOTH)]);
    check("Trilu", int("upper", 0), &[X(&[3, 4], BOTH)]);
    check("Gather", Attrs::new(), &[X(&[5, 3], BOTH), I(&[2, 2], &[4, 0, 4, -2])]);
    check("Gather", int("axis", 1), &[X(&[2, 4, 3], BOTH), I(&[3], &[1, 1, -1])]);
    check("GatherElements", int("axis", 1), &[X(&[3, 4], BOTH), I(&[3, 2], &[0, 3, 1, 1, -1, 2])]);
    check("GatherND", Attrs::new(), &[X(&[3, 4, 2], BOTH), I(&[2, 2], &[0, 3, 2, -1])]);
}

#[test]
fn of_attention() {
    let x = |dims| X(dims, BOTH);
    check("Attention", Attrs::new(), &[x(&[1, 2, 3, 4]), x(&[1, 2, 5, 4]), x(&[1, 2, 5, 3])]);
    check("Attention", int("is_causal", 1), &[x(&[1, 4, 3, 2]), x(&[1, 2, 3, 2]), x(&[1, 2, 3, 2])]);
}

#[test]
fn what_has_no_derivative_is_named() {
    let mut graph = Graph::new("g", Level::Onnx);
    let x = graph.add_input("x", TensorType::of(DType::F32, &[4]));
    let axis = graph.add_const("axis", Tensor::from_i64s(DType::I64, &[], &[0]).unwrap());
    let def = crate::ops::registry().by_onnx("CumSum").unwrap();
    let y = graph.add_op("sums", Op::new(def, Attrs::new()), &[Some(x), Some(axis)], &["y".into()]).unwrap().out(0);
    let mut edit = Edit::new(&graph);
    let gain = edit.add_const(Tensor::from_f32s(DType::F32, &[4], &[1.0; 4]).unwrap());
    let refused = gains(&mut edit, &[(y.into(), gain)], &[x.into()], &[], &mut |_| Ok(())).unwrap_err();
    assert_eq!(refused.to_string(), r#"the derivative of node "sums" (CumSum): none is known"#);
    // A value that is held ends the way back.
    let gain = edit.add_const(Tensor::from_f32s(DType::F32, &[4], &[1.0; 4]).unwrap());
    let held = gains(&mut edit, &[(y.into(), gain)], &[x.into()], &[y.into()], &mut |_| Ok(())).unwrap();
    assert_eq!(held, [None]);
}
