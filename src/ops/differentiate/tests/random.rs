//! Derivatives of random graphs of several operators, in f64, against central differences along a random direction.

use super::{BOTH, PLUS, STEP, int, ints, numbers};
use crate::ir::{Attrs, DType, Edit, Graph, Level, Op, Registry, Tensor, TensorType, Val, ValueId};
use crate::ops::differentiate::gains;
use crate::session::Reference;

/// Shapes that inputs have: odd sizes, that fit each other in products, convolutions and broadcasts.
const SHAPES: &[&[usize]] = &[&[3, 5], &[5], &[5, 3], &[2, 3, 5], &[1, 4, 5, 3], &[2, 2, 3, 1], &[4, 1, 1, 2], &[]];
const N_GRAPHS: usize = 400;

/// Numbers that follow from a seed (splitmix64).
struct Draw(u64);

impl Draw {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }

    fn of<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }
}

/// Adds a node to a graph where its operands fit, and says whether they did. What grows passes through tanh, so that
/// third derivatives stay small.
fn grow(graph: &mut Graph, registry: &Registry, values: &mut Vec<ValueId>, draw: &mut Draw) -> bool {
    let n = graph.n_nodes();
    let list = |graph: &mut Graph, name: &str, list: &[i64]| {
        graph.add_const(&format!("{name}{n}"), Tensor::from_i64s(DType::I64, &[list.len()], list).unwrap())
    };
    let x = draw.of(values);
    let rank = graph.ty(x).shape.rank();
    let some = |draw: &mut Draw| draw.of(values);
    let (name, attrs, operands): (&str, Attrs, Vec<ValueId>) = match draw.below(20) {
        0..=3 => {
            let smooth = ["Tanh", "Sigmoid", "Sin", "Cos", "Erf", "Softsign", "Softplus", "Gelu", "Neg", "Identity"];
            (draw.of(&smooth), Attrs::new(), vec![x])
        }
        4..=7 => (draw.of(&["Add", "Sub", "Mul", "Mean"]), Attrs::new(), vec![x, some(draw)]),
        8 | 9 => ("MatMul", Attrs::new(), vec![x, some(draw)]),
        10 => ("Conv", ints("pads", &[1, 0, 0, 1]).with_int("group", 1 + draw.below(2) as i64), vec![x, some(draw)]),
        11 => ("AveragePool", ints("kernel_shape", &[2, 1]).with_ints("strides", [1, 2]), vec![x]),
        12 => (draw.of(&["Softmax", "LogSoftmax"]), int("axis", draw.below(4) as i64 - 2), vec![x]),
        13 => {
            let axes = list(graph, "axes", &[draw.below(3) as i64 - 1]);
            (
                draw.of(&["ReduceMean", "ReduceSum", "ReduceSumSquare"]),
                int("keepdims", draw.below(2) as i64),
                vec![x, axes],
            )
        }
        14 => {
            let mut perm: Vec<i64> = (0..rank as i64).collect();
            (0..rank).for_each(|i| perm.swap(i, draw.below(rank)));
            ("Transpose", ints("perm", &perm), vec![x])
        }
        15 => ("Concat", int("axis", draw.below(2) as i64 - 1), vec![x, some(draw), x]),
        16 => {
            let given = [[0, 0], [3, 2], [1, -1], [1, 1]];
            let mut operands = vec![x];
            let step = 1 + draw.below(2) as i64;
            operands.push(list(graph, "starts", &given[0]));
            operands.push(list(graph, "ends", &given[1]));
            operands.push(list(graph, "axes", &[0, -1]));
            operands.push(list(graph, "steps", &[1, step]));
            ("Slice", Attrs::new(), operands)
        }
        17 => {
            let axis = draw.below(2);
            if graph.ty(x).shape.known().is_none_or(|dims| dims.get(axis).is_none_or(|n| *n < 2)) {
                return false;
            }
            let indices = list(graph, "indices", &[1, 0, -1, 1]);
            ("Gather", int("axis", axis as i64), vec![x, indices])
        }
        18 => {
            let flat = list(graph, "shape", &[-1, 1]);
            (draw.of(&["Reshape", "Flatten"]), Attrs::new(), vec![x, flat])
        }
        _ => {
            let dims = graph.ty(x).shape.known().unwrap_or_default();
            let Some(&last) = dims.last() else { return false };
            let scale = Tensor::from_f64s(DType::F64, &[last], &numbers(last, n, PLUS)).unwrap();
            let scale = graph.add_const(&format!("scale{n}"), scale);
            (
                draw.of(&["LayerNormalization", "RMSNormalization"]),
                int("axis", -1).with_float("epsilon", 0.1),
                vec![x, scale],
            )
        }
    };
    let operands = if name == "Flatten" { vec![x] } else { operands };
    let op = Op::new(registry.by_onnx(name).unwrap(), attrs);
    let given: Vec<_> = operands.into_iter().map(Some).collect();
    let Ok(node) = graph.add_op(&format!("v{n}"), op, &given, &[format!("v{n}")]) else { return false };
    let mut value = node.out(0);
    if graph.ty(value).shape.n_elems().is_none_or(|n| n == 0 || n > 2000) {
        return false;
    }
    if matches!(name, "Mul" | "MatMul" | "Conv" | "ReduceSum" | "ReduceSumSquare") {
        let tanh = Op::new(registry.by_onnx("Tanh").unwrap(), Attrs::new());
        value = graph.add_op(&format!("t{n}"), tanh, &[Some(value)], &[format!("t{n}")]).unwrap().out(0);
    }
    values.push(value);
    true
}

/// A graph that gives a scalar and what each of its inputs gains from it, and how many nodes the scalar has.
fn drawn(seed: usize) -> (Graph, Vec<Vec<usize>>, usize) {
    let registry = crate::ops::registry();
    let mut draw = Draw(seed as u64);
    let mut graph = Graph::new("g", Level::Onnx);
    let mut shapes = Vec::new();
    let mut values = Vec::new();
    for i in 0..2 + draw.below(4) {
        let shape = draw.of(SHAPES);
        values.push(graph.add_input(&format!("x{i}"), TensorType::of(DType::F64, shape)));
        shapes.push(shape.to_vec());
    }
    let xs = values.clone();
    let wanted = 3 + draw.below(12);
    let mut n_made = 0;
    for _ in 0..wanted * 12 {
        n_made += usize::from(n_made < wanted && grow(&mut graph, &registry, &mut values, &mut draw));
    }
    // What nothing reads counts, each element with its own weight.
    let ends: Vec<ValueId> = values.iter().copied().filter(|v| graph.users(*v).is_empty()).collect();
    let mut total: Option<ValueId> = None;
    for (i, end) in ends.into_iter().enumerate() {
        let dims = graph.ty(end).shape.known().unwrap();
        let weights = numbers(dims.iter().product(), seed + i, PLUS);
        let weights = graph.add_const(&format!("w{i}"), Tensor::from_f64s(DType::F64, &dims, &weights).unwrap());
        let mut add = |name: &str, onnx: &str, attrs: Attrs, operands: &[ValueId]| {
            let given: Vec<_> = operands.iter().copied().map(Some).collect();
            let name = format!("{name}{i}");
            let op = Op::new(registry.by_onnx(onnx).unwrap(), attrs);
            graph.add_op(&name, op, &given, std::slice::from_ref(&name)).unwrap().out(0)
        };
        let weighted = add("weighted", "Mul", Attrs::new(), &[end, weights]);
        let sum = add("sum", "ReduceSum", int("keepdims", 0), &[weighted]);
        total = Some(match total {
            Some(total) => add("total", "Add", Attrs::new(), &[total, sum]),
            None => sum,
        });
    }
    let total = total.unwrap();
    graph.add_output("loss", total);
    let mut edit = Edit::new(&graph);
    let one = edit.add_const(Tensor::from_f64s(DType::F64, &[], &[1.0]).unwrap());
    let vals: Vec<Val> = xs.iter().copied().map(Val::Old).collect();
    let gained = gains(&mut edit, &[(total.into(), one)], &vals, &[], &mut |_| Ok(()));
    let gained = gained.unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
    for (i, gain) in gained.into_iter().enumerate() {
        let n = shapes[i].iter().product();
        let zeros = Tensor::from_f64s(DType::F64, &shapes[i], &vec![0.0; n]).unwrap();
        let gain = gain.unwrap_or_else(|| edit.add_const(zeros));
        edit.add_output(&format!("d{i}"), gain);
    }
    let patch = edit.finish();
    graph.apply(patch);
    graph.verify().unwrap_or_else(|e| panic!("seed {seed}: {e}\n{graph}"));
    (graph, shapes, n_made)
}

#[test]
fn random_graphs_have_the_derivatives_that_differences_have() {
    let mut n_nodes = 0;
    for seed in 0..N_GRAPHS {
        let (graph, shapes, n_made) = drawn(seed);
        n_nodes += n_made;
        let text = graph.to_string();
        let reference = Reference::new(graph);
        let of = |seed: usize| -> Vec<Vec<f64>> {
            shapes.iter().enumerate().map(|(i, dims)| numbers(dims.iter().product(), seed + i, BOTH)).collect()
        };
        let (at, direction) = (of(seed), of(seed + 91));
        let run = |by: f64| -> Vec<Vec<f64>> {
            let given: Vec<Tensor> = (0..shapes.len())
                .map(|i| {
                    let moved: Vec<f64> = at[i].iter().zip(&direction[i]).map(|(x, d)| x + by * d).collect();
                    Tensor::from_f64s(DType::F64, &shapes[i], &moved).unwrap()
                })
                .collect();
            let outputs = reference.run(&given).unwrap_or_else(|e| panic!("seed {seed}: {e}\n{text}"));
            outputs.iter().map(|t| t.to_f64s().unwrap()).collect()
        };
        let given = run(0.0);
        let along = |gain: &[f64], direction: &[f64]| gain.iter().zip(direction).map(|(g, d)| g * d).sum::<f64>();
        let derivative: f64 = given[1..].iter().zip(&direction).map(|(g, d)| along(g, d)).sum();
        let expected = (run(STEP)[0][0] - run(-STEP)[0][0]) / (2.0 * STEP);
        let error = (derivative - expected).abs();
        assert!(error <= 1e-6 * expected.abs().max(1.0), "seed {seed}: {derivative}, not {expected}\n{text}");
    }
    assert!(n_nodes > 6 * N_GRAPHS, "{n_nodes} nodes in {N_GRAPHS} graphs");
}
