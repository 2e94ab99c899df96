//! Model-local functions.

use super::*;
use crate::import::proto::FunctionProto;

fn function(name: &str, inputs: &[&str], outputs: &[&str], attributes: &[&str], node: Vec<NodeProto>) -> FunctionProto {
    let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    FunctionProto {
        domain: "loc".to_owned(),
        name: name.to_owned(),
        input: list(inputs),
        output: list(outputs),
        attribute: list(attributes),
        node,
        ..Default::default()
    }
}

/// The value of an attribute of the function.
fn by_name(name: &str, of: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { ref_attr_name: of.to_owned(), ..attr(name, kind) }
}

fn call(name: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto { domain: "loc".to_owned(), ..node(name, inputs, outputs, attribute) }
}

fn imported(graph: GraphProto, functions: Vec<FunctionProto>) -> Result<Graph, ImportError> {
    let model = ModelProto { functions, ..model(21, graph) };
    let (mut graph, _) = import_proto(model, None, &ImportOptions::default(), &crate::ops::registry())?;
    graph.verify().unwrap_or_else(|e| panic!("{e}"));
    graph.remove_dead();
    Ok(graph)
}

fn lines(node: Vec<NodeProto>, functions: Vec<FunctionProto>) -> Vec<String> {
    let x = vec![info("x", F32, &["2", "3"])];
    operators(&imported(graph(x, vec![], node, &["y"]), functions).unwrap_or_else(|e| panic!("{e}")))
}

fn refused(node: Vec<NodeProto>, functions: Vec<FunctionProto>) -> String {
    imported(graph(vec![info("x", F32, &["2", "3"])], vec![], node, &["y"]), functions).unwrap_err().to_string()
}

#[test]
fn nested_functions_are_written_out_under_the_names_of_their_calls() {
    let inner = function(
        "inner",
        &["x"],
        &["y"],
        &["al"],
        vec![
            node("LeakyRelu", &["x"], &["t"], vec![by_name("alpha", "al", AttributeType::Float)]),
            node("Constant", &[], &["c"], vec![by_name("value_float", "al", AttributeType::Float)]),
            node("Mul", &["t", "c"], &["y"], vec![]),
        ],
    );
    let mut outer = function(
        "outer",
        &["x"],
        &["y"],
        &["a"],
        vec![
            call("inner", &["x"], &["t"], vec![by_name("al", "a", AttributeType::Float)]),
            node("Softmax", &["t"], &["y"], vec![by_name("axis", "k", AttributeType::Int)]),
        ],
    );
    // One default, and one that the second call overrides.
    outer.attribute_proto = vec![int("k", 0)];
    let calls = vec![
        call("outer", &["x"], &["t"], vec![float("a", 0.25)]),
        call("outer", &["t"], &["y"], vec![float("a", 0.5), int("k", 1)]),
    ];
    assert_eq!(
        lines(calls, vec![outer, inner]),
        [
            "%t/t/t = leaky_relu(%x) {alpha=0.25f} : f32[2,3] 24B",
            "%t/t/y = mul(%t/t/t, %t/t/c) : f32[2,3] 24B",
            "%t/y = softmax(%t/t/y) {axis=0} : f32[2,3] 24B",
            "%y/t/t = leaky_relu(%t/y) {alpha=0.5f} : f32[2,3] 24B",
            "%y/t/y = mul(%y/t/t, %y/t/c) : f32[2,3] 24B",
            "%y/y = softmax(%y/t/y) {axis=1} : f32[2,3] 24B",
        ]
    );
}

#[test]
fn operands_outputs_and_attributes_may_be_left_out() {
    let clip = function(
        "clip",
        &["x", "low", "high"],
        &["y", "n"],
        &[],
        vec![
            node("Clip", &["x", "low", "high"], &["c"], vec![]),
            // Without a value of its own the attribute is that of the operator.
            node("Softmax", &["c"], &["y"], vec![by_name("axis", "axis", AttributeType::Int)]),
            node("Neg", &["y"], &["n"], vec![]),
            node("OptionalHasElement", &["high"], &["has"], vec![]),
        ],
    );
    let half = node("Constant", &[], &["half"], vec![float("value_float", 0.5)]);
    let bare = |call: NodeProto| lines(vec![half.clone(), call], vec![clip.clone()]).join("; ");
    let softmax = "%y/y = softmax(%y/c) : f32[2,3] 24B";
    assert_eq!(bare(call("clip", &["x"], &["y"], vec![])), format!("%y/c = clip(%x) : f32[2,3] 24B; {softmax}"));
    assert_eq!(
        bare(call("clip", &["x", "", "half"], &["y", ""], vec![])),
        format!("%y/c = clip(%x, _, %half) : f32[2,3] 24B; {softmax}")
    );
    let second = NodeProto { name: "second".to_owned(), ..call("clip", &["x", "half"], &["", "y"], vec![]) };
    assert!(bare(second).ends_with("%second/n = neg(%second/y) : f32[2,3] 24B"));
}

#[test]
fn bodies_within_functions_see_the_functions_names_and_attributes() {
    let branch = |scale: f32, name: &str| {
        let nodes = vec![
            node("Constant", &[], &["s"], vec![float("value_float", scale)]),
            node("Mul", &["x", "s"], &["m"], vec![]),
            node("LeakyRelu", &["m"], &[name], vec![by_name("alpha", "a", AttributeType::Float)]),
        ];
        graph(vec![], vec![], nodes, &[name])
    };
    let step = graph(
        vec![info("i", I64, &[]), info("on", BOOL, &[]), info("v", F32, &["2", "3"])],
        vec![],
        vec![
            node("Identity", &["on"], &["on2"], vec![]),
            call("choose", &["v", "on"], &["w"], vec![by_name("a", "a", AttributeType::Float)]),
        ],
        &["on2", "w"],
    );
    let choose = function(
        "choose",
        &["x", "c"],
        &["y"],
        &["a"],
        vec![node(
            "If",
            &["c"],
            &["y"],
            vec![body("then_branch", branch(2.0, "p")), body("else_branch", branch(3.0, "q"))],
        )],
    );
    let repeat = function(
        "repeat",
        &["x", "n"],
        &["y"],
        &["a"],
        vec![node("Loop", &["n", "", "x"], &["y"], vec![body("body", step)])],
    );
    let calls = vec![
        NodeProto { attribute: vec![ints("value_ints", &[2])], ..node("Constant", &[], &["n"], vec![]) },
        call("repeat", &["x", "n"], &["y"], vec![float("a", 0.125)]),
    ];
    let written = lines(calls, vec![choose, repeat]);
    assert_eq!(written.len(), 4, "{written:#?}");
    assert_eq!(written[1], "%y/w/p = leaky_relu(%y/w/m) {alpha=0.125f} : f32[2,3] 24B");
    assert_eq!(written[2], "%y/w/m.2 = mul(%y/w/p, %y/w/s.2) : f32[2,3] 24B");
}

#[test]
fn a_graph_may_be_an_attribute_of_a_function() {
    let halved = |outside: &str| {
        let nodes = vec![node("Add", &["e", outside], &["d"], vec![])];
        body("each", graph(vec![info("e", F32, &["1", "3"])], vec![], nodes, &["d"]))
    };
    let map = function(
        "map",
        &["x"],
        &["y"],
        &["each"],
        vec![
            node("SplitToSequence", &["x"], &["s"], vec![]),
            node("SequenceMap", &["s"], &["m"], vec![by_name("body", "each", AttributeType::Graph)]),
            node("ConcatFromSequence", &["m"], &["y"], vec![int("axis", 0)]),
        ],
    );
    let written = lines(vec![call("map", &["x"], &["y"], vec![halved("e")])], vec![map.clone()]);
    assert_eq!(written.iter().filter(|line| line.contains("= add(")).count(), 2, "{written:#?}");
    let other = refused(vec![relu("x", "z"), call("map", &["x"], &["y"], vec![halved("z")])], vec![map]);
    assert!(other.contains("is a graph that uses \"z\" from outside, which is not supported"), "{other}");
}

#[test]
fn overloads_and_operators_of_the_same_name() {
    let overload = |name: &str, op: &str| FunctionProto {
        overload: name.to_owned(),
        ..function("f", &["x"], &["y"], &[], vec![node(op, &["x"], &["y"], vec![])])
    };
    let chosen = |name: &str| {
        let call = NodeProto { overload: name.to_owned(), ..call("f", &["x"], &["y"], vec![]) };
        lines(vec![call], vec![overload("", "Abs"), overload("b", "Neg")])[0].clone()
    };
    assert_eq!(chosen(""), "%y/y = abs(%x) : f32[2,3] 24B");
    assert_eq!(chosen("b"), "%y/y = neg(%x) : f32[2,3] 24B");
    // The model's own function comes before an operator that nyxc has, but for its domain and overload.
    let own =
        FunctionProto { domain: "ai.onnx".to_owned(), ..function("Gelu", &["x"], &["y"], &[], vec![relu("x", "y")]) };
    assert_eq!(lines(vec![node("Gelu", &["x"], &["y"], vec![])], vec![own]), ["%y/y = relu(%x) : f32[2,3] 24B"]);
    let twice = refused(vec![relu("x", "y")], vec![overload("b", "Abs"), overload("b", "Neg")]);
    assert_eq!(twice, "model-local function loc::f:b is there twice");
}

#[test]
fn a_function_is_of_its_own_opset() {
    // Before opset 13 all axes from `axis` on are one.
    let old = |opset| FunctionProto {
        opset_import: vec![OperatorSetIdProto { domain: String::new(), version: opset }],
        ..function("f", &["x"], &["y"], &[], vec![node("Softmax", &["x"], &["y"], vec![int("axis", 0)])])
    };
    let call = || vec![call("f", &["x"], &["y"], vec![])];
    assert_eq!(lines(call(), vec![old(21)]), ["%y/y = softmax(%x) {axis=0} : f32[2,3] 24B"]);
    assert!(lines(call(), vec![old(12)]).iter().any(|line| line.contains("flatten")));
    assert_eq!(
        refused(call(), vec![old(99)]),
        "model-local function loc::f is of opset 99 of the default domain, 6 to 28 are supported"
    );
    // What nothing calls need not be one that is supported.
    assert!(lines(vec![relu("x", "y")], vec![old(99)]).len() == 1);
}

#[test]
fn functions_that_are_wrong_are_refused_by_name() {
    let f = |nodes| function("f", &["x"], &["y"], &["a"], nodes);
    let call_f = |outputs: &[&str]| vec![call("f", &["x"], outputs, vec![])];
    assert_eq!(
        refused(call_f(&["y"]), vec![f(vec![call("f", &["x"], &["y"], vec![])])]),
        r#"node "y/y" (loc::f, opset 1): the function loc::f calls itself, perhaps through others"#
    );
    // Names of the graph around are none of the function's.
    assert_eq!(
        refused([vec![relu("x", "y/z")], call_f(&["y"])].concat(), vec![f(vec![relu("z", "y")])]),
        r#"node "y/y" (Relu, opset 21): operand "y/z" is produced by no earlier node, input or initializer"#
    );
    assert_eq!(
        refused(call_f(&["y", "z"]), vec![f(vec![relu("x", "y")])]),
        r#"node "y" (loc::f, opset 1): 2 outputs, the operator has 1"#
    );
    assert_eq!(
        refused(vec![call("f", &["x", "x"], &["y"], vec![])], vec![f(vec![relu("x", "y")])]),
        r#"node "y" (loc::f, opset 1): 2 operands, expected 0 to 1"#
    );
    let constant = node("Constant", &[], &["y"], vec![by_name("value_float", "a", AttributeType::Float)]);
    assert!(refused(call_f(&["y"]), vec![f(vec![constant])]).ends_with("has no value: the call gives none"));
    let outside = node("Softmax", &["x"], &["y"], vec![by_name("axis", "a", AttributeType::Int)]);
    assert!(
        refused(vec![outside], vec![])
            .ends_with(r#"attribute "axis" refers to an attribute of a function, and stands in none"#)
    );
}

#[test]
fn functions_that_grow_without_end_are_refused_with_the_numbers() {
    // Each calls the one below twice: 2^40 nodes.
    let doubling = |i: usize| {
        let nodes = if i == 0 {
            vec![relu("x", "y")]
        } else {
            let below = format!("f{}", i - 1);
            vec![call(&below, &["x"], &["t"], vec![]), call(&below, &["t"], &["y"], vec![])]
        };
        function(&format!("f{i}"), &["x"], &["y"], &[], nodes)
    };
    let doubled = refused(vec![call("f40", &["x"], &["y"], vec![])], (0..=40).map(doubling).collect());
    assert!(doubled.ends_with("more than 250000 nodes of functions, subgraphs and sequences written out"), "{doubled}");
    let chain = |i: usize| {
        let nodes =
            if i == 0 { vec![relu("x", "y")] } else { vec![call(&format!("f{}", i - 1), &["x"], &["y"], vec![])] };
        function(&format!("f{i}"), &["x"], &["y"], &[], nodes)
    };
    let deep = refused(vec![call("f500", &["x"], &["y"], vec![])], (0..=500).map(chain).collect());
    assert!(deep.ends_with("functions and subgraphs nest deeper than 64"), "{deep}");
    assert_eq!(lines(vec![call("f60", &["x"], &["y"], vec![])], (0..=60).map(chain).collect()).len(), 1);
    // A long name in each of many copies counts as what it takes.
    let long = "n".repeat(1 << 20);
    let f = function("f", &["x"], &["y"], &[], vec![relu("x", &long), relu(&long, "y")]);
    let many: Vec<_> = (0..400).map(|i| call("f", &["x"], &[&format!("y{i}")], vec![])).collect();
    let large = refused([many, vec![relu("x", "y")]].concat(), vec![f]);
    assert!(large.ends_with("more than 250000 nodes of functions, subgraphs and sequences written out"), "{large}");
}
