//! Model-local functions.

use super::*;
use crate::import::proto::{FunctionExtras, ModelExtras};
use tract_onnx::pb::FunctionProto;

/// A function with what tract's message leaves out.
#[derive(Clone)]
struct Function {
    proto: FunctionProto,
    extras: FunctionExtras,
}

fn function(name: &str, inputs: &[&str], outputs: &[&str], attributes: &[&str], node: Vec<NodeProto>) -> Function {
    let list = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect();
    let proto = FunctionProto {
        domain: Some("loc".to_owned()),
        name: Some(name.to_owned()),
        input: list(inputs),
        output: list(outputs),
        attribute: list(attributes),
        node,
        ..Default::default()
    };
    Function { proto, extras: FunctionExtras::default() }
}

/// The value of an attribute of the function.
fn by_name(name: &str, of: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { ref_attr_name: of.to_owned(), ..attr(name, kind) }
}

fn call(name: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    NodeProto { domain: "loc".to_owned(), ..node(name, inputs, outputs, attribute) }
}

fn imported(graph: GraphProto, functions: Vec<Function>) -> Result<Graph, ImportError> {
    let (functions, extras) = functions.into_iter().map(|f| (f.proto, f.extras)).unzip();
    let message = ModelProto { functions, ..model(21, graph) };
    let extras = ModelExtras { functions: extras, ..Default::default() };
    let options = ImportOptions::default();
    let (mut graph, _) = import_proto(OnnxModel { message, extras }, None, &options, &crate::ops::registry())?;
    graph.verify().unwrap_or_else(|e| panic!("{e}"));
    graph.remove_dead();
    Ok(graph)
}

fn lines(node: Vec<NodeProto>, functions: Vec<Function>) -> Vec<String> {
    let x = vec![info("x", F32, &["2", "3"])];
    operators(&imported(graph(x, vec![], node, &["y"]), functions).unwrap_or_else(|e| panic!("{e}")))
}

fn refused(node: Vec<NodeProto>, functions: Vec<Function>) -> String {
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
    outer.extras.attribute_proto = vec![int("k", 0).encode_to_vec()];
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
    let overload = |name: &str, op: &str| Function {
        extras: FunctionExtras { overload: name.to_owned(), ..Default::default() },
        ..function("f", &["x"], &["y"], &[], vec![node(op, &["x"], &["y"], vec![])])
    };
    assert_eq!(
        lines(vec![call("f", &["x"], &["y"], vec![])], vec![overload("b", "Neg"), overload("", "Abs")]),
        ["%y/y = abs(%x) : f32[2,3] 24B"]
    );
    // The model's own function comes before an operator that nyxc has, but for its domain and overload.
    let mut own = function("Gelu", &["x"], &["y"], &[], vec![relu("x", "y")]);
    own.proto.domain = Some("ai.onnx".to_owned());
    assert_eq!(lines(vec![node("Gelu", &["x"], &["y"], vec![])], vec![own]), ["%y/y = relu(%x) : f32[2,3] 24B"]);
    let twice = refused(vec![relu("x", "y")], vec![overload("b", "Abs"), overload("b", "Neg")]);
    assert_eq!(twice, "model-local function loc::f:b is there twice");
}

/// A field of bytes.
fn field(tag: u32, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut encoded = Vec::new();
    prost::encoding::bytes::encode(tag, &bytes.as_ref().to_vec(), &mut encoded);
    encoded
}

/// As files have it: x goes through a Relu, then through the function f with the overload `b`. `tag` is that of the
/// nodes.
fn relu_and_overloaded_call(tag: u32) -> Vec<u8> {
    let call = [call("f", &["t"], &["y"], vec![]).encode_to_vec(), field(8, "b")].concat();
    [field(tag, relu("x", "t").encode_to_vec()), field(tag, call)].concat()
}

/// The operators of a model with the functions f, f:b and f:c, and these.
fn of_bytes(nodes: Vec<u8>, functions: &[Vec<u8>]) -> Result<Vec<String>, ImportError> {
    let one = |name: &str, op: &str| {
        let f = function("f", &["x"], &["y"], &[], vec![node(op, &["x"], &["y"], vec![])]);
        field(25, [f.proto.encode_to_vec(), field(13, name)].concat())
    };
    let yes = TensorProto { dims: vec![], data_type: BOOL, int32_data: vec![1], ..int64s("yes", &[], &[]) };
    let graph = graph(vec![info("x", F32, &["2", "3"])], vec![yes], vec![], &["y"]);
    let graph = field(7, [graph.encode_to_vec(), nodes].concat());
    let set = ModelProto { graph: None, ..model(21, GraphProto::default()) };
    let all = [one("", "Abs"), one("b", "Neg"), one("c", "Exp")].concat();
    let bytes = [set.encode_to_vec(), graph, all, functions.concat()].concat();
    let (graph, _) = import_bytes(&bytes, None, &ImportOptions::default(), &crate::ops::registry())?;
    let name = |line: &String| line.split_once(" = ").and_then(|(_, op)| op.split_once('(')).unwrap().0.to_owned();
    Ok(operators(&graph).iter().map(name).collect())
}

#[test]
fn overloads_are_read_wherever_a_call_stands() {
    let function = |attributes: &[&str], parts: &[Vec<u8>]| {
        field(25, [function("g", &["x"], &["y"], attributes, vec![]).proto.encode_to_vec(), parts.concat()].concat())
    };
    let call_g = || field(1, call("g", &["x"], &["y"], vec![]).encode_to_vec());
    // A graph without inputs or, for SequenceMap, of one.
    let of_graph = |name: &str, inputs: Vec<ValueInfoProto>| {
        let graph = [graph(inputs, vec![], vec![], &["y"]).encode_to_vec(), relu_and_overloaded_call(1)].concat();
        [attr(name, AttributeType::Graph).encode_to_vec(), field(6, graph)].concat()
    };
    let branches = |tag: u32, nodes: &[NodeProto]| {
        let branches = [field(5, of_graph("then_branch", vec![])), field(5, of_graph("else_branch", vec![]))];
        let choice = [node("If", &["yes"], &["y"], vec![]).encode_to_vec(), branches.concat()].concat();
        let before: Vec<u8> = nodes.iter().flat_map(|node| field(tag, node.encode_to_vec())).collect();
        [before, field(tag, choice)].concat()
    };
    let yes = node("Constant", &[], &["yes"], vec![int("value_int", 1)]);
    let yes = [
        NodeProto { output: vec!["one".to_owned()], ..yes },
        node("Cast", &["one"], &["yes"], vec![int("to", i64::from(BOOL))]),
    ];
    let map = [
        node("SplitToSequence", &["x"], &["s"], vec![]),
        node("SequenceMap", &["s"], &["m"], vec![by_name("body", "each", AttributeType::Graph)]),
        node("ConcatFromSequence", &["m"], &["y"], vec![int("axis", 0)]),
    ];
    let map: Vec<u8> = map.iter().flat_map(|node| field(7, node.encode_to_vec())).collect();
    let each = field(11, of_graph("each", vec![info("x", F32, &["1", "3"])]));
    for (place, nodes, functions) in [
        ("graph", relu_and_overloaded_call(1), vec![]),
        ("subgraph", branches(1, &[]), vec![]),
        ("function", call_g(), vec![function(&[], &[relu_and_overloaded_call(7)])]),
        ("subgraph of a function", call_g(), vec![function(&[], &[branches(7, &yes)])]),
        ("default of a function", call_g(), vec![function(&[], &[map, each])]),
    ] {
        let found = of_bytes(nodes, &functions).unwrap_or_else(|e| panic!("{place}: {e}"));
        let count = |op: &str| found.iter().filter(|o| *o == op).count();
        assert!(count("relu") > 0 && count("neg") == count("relu"), "{place}: {found:?}");
        assert_eq!((count("abs"), count("exp")), (0, 0), "{place}: {found:?}");
    }
    let damaged = of_bytes(call_g(), &[function(&[], &[relu_and_overloaded_call(7), field(11, [0xff])])]);
    let damaged = damaged.unwrap_err().to_string();
    assert!(damaged.starts_with("model-local function loc::g has a default that is no attribute: "), "{damaged}");
}

#[test]
fn a_function_is_of_its_own_opset() {
    // Before opset 13 all axes from `axis` on are one.
    let old = |opset| {
        let nodes = vec![node("Softmax", &["x"], &["y"], vec![int("axis", 0)])];
        let mut softmax = function("f", &["x"], &["y"], &[], nodes);
        softmax.proto.opset_import = vec![OperatorSetIdProto { domain: String::new(), version: opset }];
        softmax
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
