//! Gradient, against central differences of the CPU reference.

use super::*;
use crate::ops::registry;
use crate::session::Reference;

const STEP: f32 = 1e-2;

fn texts(name: &str, values: &[&str]) -> AttributeProto {
    AttributeProto {
        strings: values.iter().map(|v| v.as_bytes().to_vec()).collect(),
        ..attr(name, AttributeType::Strings)
    }
}

fn gradient(inputs: &[&str], outputs: &[&str], xs: &[&str], zs: &[&str], y: &str) -> NodeProto {
    let mut attrs = vec![texts("xs", xs), text("y", y)];
    attrs.extend((!zs.is_empty()).then(|| texts("zs", zs)));
    NodeProto {
        domain: "ai.onnx.preview.training".to_owned(),
        name: "g".to_owned(),
        ..node("Gradient", inputs, outputs, attrs)
    }
}

fn import(graph: GraphProto) -> Result<Graph, ImportError> {
    let mut proto = model(18, graph);
    proto.opset_import.push(OperatorSetIdProto { domain: "ai.onnx.preview.training".to_owned(), version: 1 });
    import_proto(proto.into(), None, &ImportOptions::default(), &registry()).map(|(graph, _)| graph)
}

/// Numbers between 0.5 and 1.5, none like another.
fn numbers(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| 0.5 + ((i * 37 + seed * 53 + 11) % 101) as f32 / 101.0).collect()
}

/// Sum of `y`, which is the first output of `nodes`, at these inputs.
fn sum(reference: &Reference, inputs: &[Tensor]) -> f64 {
    reference.run(inputs).unwrap()[0].to_f32s().unwrap().iter().map(|v| f64::from(*v)).sum()
}

/// Compares the gradients of the sum of `y` with respect to all inputs with differences.
fn check(inputs: &[(&str, &[usize])], nodes: &[NodeProto], initializers: &[TensorProto]) {
    let names: Vec<&str> = inputs.iter().map(|i| i.0).collect();
    let ports = || -> Vec<_> {
        let dims = |dims: &[usize]| dims.iter().map(usize::to_string).collect::<Vec<_>>();
        inputs
            .iter()
            .map(|(name, d)| info(name, F32, &dims(d).iter().map(String::as_str).collect::<Vec<_>>()))
            .collect()
    };
    let results: Vec<String> = names.iter().map(|name| format!("d{name}")).collect();
    let results: Vec<&str> = results.iter().map(String::as_str).collect();
    let mut all = nodes.to_vec();
    all.push(gradient(&names, &results, &names, &[], "y"));
    let outputs: Vec<&str> = std::iter::once("y").chain(results.iter().copied()).collect();
    let built = import(graph(ports(), initializers.to_vec(), all, &outputs)).unwrap_or_else(|e| panic!("{e}"));
    built.verify().unwrap_or_else(|e| panic!("{e}"));
    let values: Vec<Vec<f32>> =
        inputs.iter().enumerate().map(|(i, (_, dims))| numbers(dims.iter().product(), i)).collect();
    let tensors = |values: &[Vec<f32>]| -> Vec<Tensor> {
        values
            .iter()
            .zip(inputs)
            .map(|(v, (_, dims))| Tensor::from_f32s(crate::ir::DType::F32, dims, v).unwrap())
            .collect()
    };
    let reference = Reference::new(built);
    let given = reference.run(&tensors(&values)).unwrap();
    for (i, (name, dims)) in inputs.iter().enumerate() {
        assert_eq!(given[i + 1].dims(), *dims, "d{name}");
        for (at, &derivative) in given[i + 1].to_f32s().unwrap().iter().enumerate() {
            let moved = |by: f32| {
                let mut values = values.clone();
                values[i][at] += by;
                sum(&reference, &tensors(&values))
            };
            let expected = (moved(STEP) - moved(-STEP)) / f64::from(2.0 * STEP);
            let error = (f64::from(derivative) - expected).abs();
            assert!(
                error <= 2e-3 * expected.abs().max(1.0),
                "{}: d{name}[{at}] is {derivative}, not {expected}",
                nodes[0].op_type
            );
        }
    }
}

#[test]
fn derivatives_are_the_limits_of_differences() {
    let n = |op: &str, inputs: &[&str], out: &str| node(op, inputs, &[out], vec![]);
    for op in ["Neg", "Exp", "Log", "Sqrt", "Tanh", "Sigmoid", "Identity"] {
        // Squared, so that what comes from above is no constant.
        check(&[("a", &[2, 3])], &[n(op, &["a"], "b"), n("Mul", &["b", "b"], "y")], &[]);
    }
    // Operands that are broadcast, and one value that is read twice.
    for op in ["Add", "Sub", "Mul", "Div"] {
        for dims in [&[3][..], &[2, 1], &[1, 1, 1], &[]] {
            check(&[("a", &[4, 2, 3]), ("b", dims)], &[n(op, &["a", "b"], "c"), n("Mul", &["c", "a"], "y")], &[]);
            check(&[("a", dims), ("b", &[4, 2, 3])], &[n(op, &["a", "b"], "c"), n("Mul", &["c", "a"], "y")], &[]);
        }
    }
    check(
        &[("a", &[3]), ("b", &[2, 3]), ("c", &[1])],
        &[n("Sum", &["a", "b", "c", "a"], "s"), n("Mul", &["s", "b"], "y")],
        &[],
    );
    // Both sides of 0.
    let shifted = [n("Sub", &["a", "one"], "s"), n("Relu", &["s"], "r"), n("Mul", &["r", "r"], "y")];
    check(&[("a", &[7])], &shifted, &[floats("one", &[], &[1.0])]);
    check(&[("a", &[2, 3, 4]), ("b", &[4, 5])], &[n("MatMul", &["a", "b"], "c"), n("Mul", &["c", "c"], "y")], &[]);
    check(&[("a", &[3, 4]), ("b", &[5, 2, 4, 3])], &[n("MatMul", &["a", "b"], "c"), n("Mul", &["c", "c"], "y")], &[]);
    for perm in [vec![], vec![ints("perm", &[2, 0, 1])]] {
        let dims: &[usize] = if perm.is_empty() { &[4, 3, 2] } else { &[4, 2, 3] };
        check(
            &[("a", &[2, 3, 4]), ("b", dims)],
            &[node("Transpose", &["a"], &["t"], perm), n("Mul", &["t", "b"], "y")],
            &[],
        );
    }
    for op in ["ReduceSum", "ReduceMean"] {
        for keepdims in [0, 1] {
            let reduce =
                |inputs: &[&str]| [node(op, inputs, &["r"], vec![int("keepdims", keepdims)]), n("Exp", &["r"], "y")];
            check(&[("a", &[2, 3, 2])], &reduce(&["a", "axes"]), &[int64s("axes", &[2], &[-1, 0])]);
            check(&[("a", &[2, 3])], &reduce(&["a"]), &[]);
        }
    }
    // Several results, and operators whose expansions have derivatives.
    let split = node("Split", &["a"], &["p", "q"], vec![int("num_outputs", 2)]);
    check(&[("a", &[6])], &[split, n("Mul", &["p", "q"], "y")], &[]);
    check(&[("a", &[2, 3])], &[n("Erf", &["a"], "b"), n("Softmax", &["b"], "c"), n("Mul", &["c", "a"], "y")], &[]);
    // What y does not depend on.
    check(&[("a", &[3]), ("b", &[2])], &[n("Exp", &["a"], "y")], &[]);
}

#[test]
fn gradients_of_gradients_and_of_values_within() {
    // dy/dx = 3 x^2 and d(dy/dx)/dx = 6 x.
    let nodes = vec![
        node("Mul", &["x", "x"], &["x2"], vec![]),
        node("Mul", &["x2", "x"], &["y"], vec![]),
        gradient(&["x"], &["first"], &["x"], &[], "y"),
        gradient(&["x"], &["second"], &["x"], &[], "first"),
        // With x2 held, y is linear in x; with x held, in x2.
        gradient(&["x", "x2"], &["held"], &["x"], &["x2"], "y"),
        gradient(&["x2", "x"], &["within"], &["x2"], &["x"], "y"),
    ];
    let built =
        import(graph(vec![info("x", F32, &["2"])], vec![], nodes, &["first", "second", "held", "within"])).unwrap();
    let x = Tensor::from_f32s(crate::ir::DType::F32, &[2], &[2.0, -3.0]).unwrap();
    let given: Vec<Vec<f32>> =
        Reference::new(built).run(&[x]).unwrap().iter().map(|t| t.to_f32s().unwrap().into_owned()).collect();
    assert_eq!(given, [[12.0, 27.0], [12.0, -18.0], [4.0, 9.0], [2.0, -3.0]]);
}

#[test]
fn gradients_that_cannot_be_written_out_are_refused() {
    let refusal = |nodes: Vec<NodeProto>, initializers: Vec<TensorProto>| {
        import(graph(vec![info("x", F32, &["2"]), info("s", F32, &["2", "n"])], initializers, nodes, &["d"]))
            .unwrap_err()
            .to_string()
    };
    let exp = || node("Exp", &["x"], &["y"], vec![]);
    let of = |y: &str| gradient(&["x"], &["d"], &["x"], &[], y);
    let sums = node("CumSum", &["x", "axis"], &["y"], vec![]);
    assert!(
        refusal(vec![sums, of("y")], vec![int64s("axis", &[], &[0])])
            .contains(r#"the derivative of node "y" (CumSum): none is known"#)
    );
    assert!(
        refusal(vec![exp(), gradient(&["y"], &["d"], &["x"], &[], "y")], vec![]).contains(r#"operand 0 is not "x""#)
    );
    let constant =
        refusal(vec![exp(), gradient(&["w"], &["d"], &["w"], &[], "y")], vec![floats("w", &[2], &[1.0, 2.0])]);
    assert!(constant.contains(r#""w" is a constant: make it an input"#), "{constant}");
    let open = refusal(vec![node("Exp", &["s"], &["y"], vec![]), gradient(&["s"], &["d"], &["s"], &[], "y")], vec![]);
    assert!(open.contains("the derivative of f32[2,n]: its elements must be floats, and its sizes known"), "{open}");
    assert!(
        refusal(vec![exp(), gradient(&["x", "x"], &["d"], &["x"], &[], "y")], vec![])
            .contains("2 operands where xs and zs name 1 and 0 values")
    );
    // Each goes through what the one before it made.
    let mut nodes = vec![node("Mul", &["x", "x"], &["y0"], vec![])];
    for i in 0..40 {
        nodes.push(node("Mul", &[&format!("y{i}"), &format!("y{i}")], &[&format!("m{i}")], vec![]));
        nodes.push(NodeProto {
            name: format!("g{i}"),
            ..gradient(&["x"], &[&format!("y{}", i + 1)], &["x"], &[], &format!("m{i}"))
        });
    }
    nodes.push(node("Exp", &["y40"], &["d"], vec![]));
    let doubled = refusal(nodes, vec![]);
    assert!(doubled.contains("the model's gradients go through more than 65536 nodes"), "{doubled}");
}
