//! Sequences, optionals and conditions that are computed while the program runs, with the operators as they are. What
//! they compute is checked against ONNX Runtime in `tests/small_onnx.rs`.

use super::*;
use crate::import::proto::{ElementType, TypeExtras, TypeValue};

fn import(graph: GraphProto, held: &[(&str, Held)]) -> Result<Graph, ImportError> {
    let held = held.iter().map(|(name, held)| ((*name).to_owned(), held.clone())).collect();
    let options = ImportOptions { held, ..ImportOptions::default() };
    import_proto(model(17, graph).into(), None, &options, &crate::ops::registry()).map(|(graph, _)| graph)
}

fn refusal(graph: GraphProto) -> ImportError {
    import(graph, &[]).unwrap_err()
}

/// An input that is a sequence or an optional: tract's protobuf keeps nothing of its type.
fn untyped(name: &str) -> ValueInfoProto {
    typed(name, TypeProto::default())
}

#[test]
fn elements_of_a_sequence_are_the_values_themselves() {
    let nodes = vec![
        relu("x", "a"),
        node("SequenceConstruct", &["x", "a"], &["s"], vec![]),
        node("SequenceAt", &["s", "last"], &["y"], vec![]),
        node("SequenceLength", &["s"], &["n"], vec![]),
    ];
    let graph = graph(vec![info("x", F32, &["2"])], vec![int64s("last", &[], &[-1])], nodes, &["y", "n"]);
    let graph = import(graph, &[]).unwrap();
    assert_eq!(operators(&graph), ["%a = relu(%x) : f32[2] 8B"]);
    assert_eq!(graph.constant(graph.outputs()[1].value).unwrap().to_i64s().unwrap(), [2]);
}

#[test]
fn a_sequence_as_output_or_input_is_its_elements() {
    let build = || {
        graph(
            vec![untyped("s"), info("x", F32, &["2"])],
            vec![],
            vec![node("SequenceInsert", &["s", "x"], &["t"], vec![])],
            &["t"],
        )
    };
    let ty = TensorType::of(crate::ir::DType::F32, &[3]);
    let graph = import(build(), &[("s", Held::Sequence(vec![ty.clone(), ty.clone()]))]).unwrap();
    let inputs: Vec<_> = graph.inputs().iter().map(|id| graph.node(*id).name.as_str()).collect();
    let outputs: Vec<_> = graph.outputs().iter().map(|o| o.name.as_str()).collect();
    assert_eq!((inputs, outputs), (vec!["s.0", "s.1", "x"], vec!["t.0", "t.1", "t.2"]));
    let error = refusal(build());
    assert_eq!(error.not_held().collect::<Vec<_>>(), ["s"]);
    let error = import(build(), &[("x", Held::Nothing)]).unwrap_err();
    assert_eq!(error.to_string(), r#"input "x" holds: is a tensor: it holds nothing else"#);
}

#[test]
fn a_place_that_is_computed_is_refused_by_its_input() {
    let nodes =
        vec![node("SequenceConstruct", &["x"], &["s"], vec![]), node("SequenceAt", &["s", "i"], &["y"], vec![])];
    let error = refusal(graph(vec![info("x", F32, &["2"]), info("i", I64, &[])], vec![], nodes, &["y"]));
    assert_eq!((error.node(), error.free_input()), (Some("y"), Some("i")));
}

#[test]
fn a_sequence_where_a_tensor_belongs_is_refused() {
    let nodes = vec![node("SequenceConstruct", &["x", "x"], &["s"], vec![]), relu("s", "y")];
    let error = refusal(graph(vec![info("x", F32, &["2"])], vec![], nodes, &["y"]));
    assert_eq!(error.to_string(), r#"node "y" (Relu, opset 17): operand "s" is a sequence of 2, expected a tensor"#);
    let nodes = vec![node("Optional", &[], &["o"], vec![]), node("OptionalGetElement", &["o"], &["y"], vec![])];
    let error = refusal(graph(vec![], vec![], nodes, &["y"]));
    assert!(error.to_string().ends_with(r#"operand "o" is an optional without a value"#), "{error}");
}

fn branches(then_branch: Vec<NodeProto>, else_branch: Vec<NodeProto>) -> NodeProto {
    let of = |name: &str, nodes| body(name, graph(vec![], vec![], nodes, &["r"]));
    node("If", &["c"], &["y"], vec![of("then_branch", then_branch), of("else_branch", else_branch)])
}

/// A condition that depends on the elements of the input x.
fn on_sum(branches: NodeProto) -> GraphProto {
    let nodes = vec![
        node("ReduceSum", &["x"], &["s"], vec![int("keepdims", 0)]),
        node("Greater", &["s", "zero"], &["c"], vec![]),
        branches,
    ];
    graph(vec![info("x", F32, &["4"])], vec![floats("zero", &[], &[0.0])], nodes, &["y"])
}

#[test]
fn a_condition_that_is_computed_selects() {
    let graph = import(on_sum(branches(vec![relu("x", "r")], vec![node("Neg", &["x"], &["r"], vec![])])), &[]).unwrap();
    let text = operators(&graph).join("\n");
    assert!(text.contains("relu(%x)") && text.contains("neg(%x)") && text.contains("where(%c, "), "{text}");
}

#[test]
fn branches_of_two_types_need_a_condition_that_is_known() {
    let short = node("Slice", &["x", "from", "to"], &["r"], vec![]);
    let mut graph = on_sum(branches(vec![relu("x", "r")], vec![short]));
    graph.initializer.extend([int64s("from", &[1], &[0]), int64s("to", &[1], &[2])]);
    let what =
        "output 0 is f32[4] and f32[2] in the two branches, and the condition is computed while the program runs";
    assert_eq!(refusal(graph).to_string(), format!("node \"y\" (If, opset 17): {what}"));
}

#[test]
fn a_loop_that_ends_when_it_is_computed_to_needs_a_largest_number_and_collects_nothing() {
    let inner = || {
        let nodes = vec![
            relu("v", "w"),
            node("ReduceSum", &["w"], &["s"], vec![int("keepdims", 0)]),
            node("Less", &["s", "limit"], &["on"], vec![]),
        ];
        (vec![info("i", I64, &[]), info("go", BOOL, &[]), info("v", F32, &["4"])], nodes)
    };
    let build = |most: &str, collects: bool| {
        let (inputs, nodes) = inner();
        let outputs: &[&str] = if collects { &["on", "w", "w"] } else { &["on", "w"] };
        let repeat = node(
            "Loop",
            &[most, "", "x"],
            if collects { &["y", "all"] } else { &["y"] },
            vec![body("body", graph(inputs, vec![], nodes, outputs))],
        );
        let constants = vec![floats("limit", &[], &[9.0]), int64s("three", &[], &[3])];
        graph(vec![info("x", F32, &["4"])], constants, vec![repeat], &["y"])
    };
    let text = operators(&import(build("three", false), &[]).unwrap()).join("\n");
    assert_eq!((text.matches("relu(").count(), text.matches("where(").count()), (3, 2), "{text}");
    for (most, collects, what) in
        [("", false, "has no largest number"), ("three", true, "collects a value of each iteration")]
    {
        let error = refusal(build(most, collects)).to_string();
        assert!(error.contains(what) && error.contains("node \"y\" (Loop"), "{error}");
    }
}

#[test]
fn sequences_have_a_bound_together() {
    let grown = |n: usize| {
        let mut nodes = vec![node("SequenceConstruct", &["x"], &["s0"], vec![])];
        nodes.extend(
            (0..n).map(|i| node("SequenceInsert", &[&format!("s{i}"), "x"], &[&format!("s{}", i + 1)], vec![])),
        );
        nodes.push(node("SequenceLength", &[&format!("s{n}")], &["y"], vec![]));
        graph(vec![info("x", F32, &["2"])], vec![], nodes, &["y"])
    };
    let fits = import(grown(4000), &[]).unwrap();
    assert_eq!(fits.constant(fits.outputs()[0].value).unwrap().to_i64s().unwrap(), [4001]);
    assert!(refusal(grown(4200)).to_string().contains("more than 8388608 elements of sequences in all"));
}

#[test]
fn a_condition_on_sizes_that_are_open_asks_for_them() {
    let identity = |of: &str| vec![node("Identity", &[of], &["r"], vec![])];
    let build = || {
        let constants =
            vec![int64s("three", &[1], &[3]), floats("four", &[4], &[4.0; 4]), floats("two", &[2], &[2.0; 2])];
        let nodes = vec![
            node("Shape", &["x"], &["s"], vec![]),
            node("Equal", &["s", "three"], &["c"], vec![]),
            branches(identity("four"), identity("two")),
        ];
        graph(vec![info("x", F32, &["n"])], constants, nodes, &["y"])
    };
    let error = refusal(build());
    assert_eq!(error.unbound(), ["n"], "{error}");
    assert!(error.to_string().contains("f32[4] and f32[2] in the two branches"), "{error}");
    assert!(error.to_string().ends_with("give --dim n=N"), "{error}");
    for (n, ty) in [(3, "f32[4]"), (5, "f32[2]")] {
        let options = ImportOptions { dims: vec![DimBinding::known("n", n)], ..ImportOptions::default() };
        let (graph, _) = import_proto(model(17, build()).into(), None, &options, &crate::ops::registry()).unwrap();
        assert_eq!(graph.ty(graph.outputs()[0].value).to_string(), ty);
    }
}

/// A model of one input of a type that tract's protobuf leaves out.
fn of_input(name: &str, ty: TypeExtras, held: &[(&str, &str)], dims: &[&str]) -> Result<Graph, ImportError> {
    let nodes = vec![node("OptionalHasElement", &[name], &["t"], vec![])];
    let mut model: proto::OnnxModel = model(17, graph(vec![untyped(name)], vec![], nodes, &["t"])).into();
    let input = vec![proto::ValueExtras { r#type: Some(ty) }];
    model.extras.graph = Some(proto::GraphExtras { input, ..Default::default() });
    let held = held.iter().map(|(name, held)| ((*name).to_owned(), held.parse().unwrap())).collect();
    let dims = dims.iter().map(|dim| DimBinding::parse(dim).unwrap()).collect();
    let options = ImportOptions { held, dims, ..ImportOptions::default() };
    import_proto(model, None, &options, &crate::ops::registry()).map(|(graph, _)| graph)
}

fn of(value: TypeValue) -> TypeExtras {
    TypeExtras { value: Some(value) }
}

fn element(ty: TypeExtras) -> ElementType {
    ElementType { elem_type: Some(Box::new(ty)) }
}

/// `f32[rows,3]`, or a sequence of these.
fn rows(is_sequence: bool) -> TypeExtras {
    let Some(type_proto::Value::TensorType(tensor)) = info("", F32, &["rows", "3"]).r#type.unwrap().value else {
        unreachable!()
    };
    let tensor = of(TypeValue::Tensor(tensor));
    if is_sequence { of(TypeValue::Sequence(element(tensor))) } else { tensor }
}

#[test]
fn what_an_input_holds_is_asked_for_by_its_type_and_held_against_it() {
    let optional = |ty| of(TypeValue::Optional(element(ty)));
    let ports = |graph: Graph| graph.inputs().iter().map(|id| graph.ty(id.out(0)).to_string()).collect::<Vec<_>>();
    for (ty, stated, asks, good, bad) in [
        (
            rows(true),
            "sequence(f32[rows,3])",
            "--holds 's=[f32[N,3],...]'",
            vec![("[f32[2,3],f32[4,3]]", vec!["f32[2,3]", "f32[4,3]"]), ("[]", vec![])],
            vec!["f32[2,3]", "none", "[f32[2,4]]", "[f16[2,3]]", "[f32[2,3],f32[3]]"],
        ),
        (
            optional(rows(true)),
            "optional(sequence(f32[rows,3]))",
            "--holds 's=[f32[N,3],...]' or --holds s=none",
            vec![("[f32[1,3]]", vec!["f32[1,3]"]), ("none", vec![])],
            vec!["f32[2,3]", "[f32[3]]"],
        ),
        (
            optional(rows(false)),
            "optional(f32[rows,3])",
            "--holds 's=f32[N,3]' or --holds s=none",
            vec![("f32[2,3]", vec!["f32[2,3]"]), ("none", vec![])],
            vec!["[f32[2,3]]", "i64[2,3]", "f32[2,3,1]"],
        ),
    ] {
        let error = of_input("s", ty.clone(), &[], &[]).unwrap_err();
        let expected =
            format!("input \"s\" is {stated}: a program takes the tensors that it holds, so say which, as {asks}");
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.not_held().collect::<Vec<_>>(), ["s"]);
        for (held, types) in good {
            assert_eq!(ports(of_input("s", ty.clone(), &[("s", held)], &[]).unwrap()), types, "{stated} holds {held}");
        }
        for held in bad {
            let error = of_input("s", ty.clone(), &[("s", held)], &[]).unwrap_err();
            assert!(error.is_usage(), "{stated} holds {held}: {error}");
            assert!(error.to_string().contains(held) && error.to_string().contains(stated), "{error}");
        }
        let error = of_input("s", ty, &[("t", "none")], &[]).unwrap_err();
        assert!(error.is_usage() && error.to_string().contains("no such input"), "{error}");
    }
    // Sizes by name have the values that dimensions have.
    let graph = of_input("s", rows(true), &[("s", "[f32[n,3],f32[n,3]]")], &["n=1..8"]).unwrap();
    assert_eq!(ports(graph), ["f32[n,3]", "f32[n,3]"]);
    let error = of_input("s", rows(true), &[("s", "[f32[2*n,3]]")], &["n=1..8"]).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("2*n is neither"), "{error}");
    let error = of_input("s", rows(true), &[("s", "[f32[2-5,3]]")], &[]).unwrap_err();
    assert!(error.is_usage() && error.to_string().contains("-3 is neither"), "{error}");
    // What no graph can have.
    let error = of_input("s", of(TypeValue::Map(proto::MapType::default())), &[], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "input \"s\": map is not supported: an input is a tensor, or a sequence or an optional of tensors"
    );
}
