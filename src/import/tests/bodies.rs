//! Bodies of If, Loop and Scan. The operators are stand-ins that believe their bodies.

use super::*;
use crate::ir::{DType, Dim, Infer, ONNX, OpError, Shape, attr};

static IF: OpDef = OpDef {
    name: "if",
    onnx: "If",
    levels: ONNX,
    attrs: &[attr::graph("then_branch"), attr::graph("else_branch"), attr::texts("captures")],
    arity: (1, usize::MAX),
    infer: &|infer| outputs(infer, "then_branch", 0),
    eval: None,
    expand: None,
    weights: None,
    gradient: None,
};

static LOOP: OpDef = OpDef {
    name: "loop",
    onnx: "Loop",
    attrs: &[attr::graph("body"), attr::texts("captures")],
    arity: (2, usize::MAX),
    infer: &|infer| outputs(infer, "body", 1),
    ..IF
};

static SCAN: OpDef = OpDef {
    name: "scan",
    onnx: "Scan",
    attrs: &[attr::graph("body"), attr::texts("captures"), attr::int("num_scan_inputs")],
    arity: (1, usize::MAX),
    infer: &|infer| outputs(infer, "body", 0),
    ..IF
};

static LSTM: OpDef = OpDef {
    name: "lstm",
    onnx: "LSTM",
    attrs: &[
        attr::texts("activations"),
        attr::float("clip"),
        attr::text("direction"),
        attr::int("hidden_size"),
        attr::int("input_forget"),
        attr::int("layout"),
    ],
    arity: (3, 8),
    infer: &|infer| {
        let x = infer.ty(0)?;
        let dims = &x.shape.0;
        let (seq, batch, hidden) =
            (dims[0].clone(), dims[1].clone(), infer.attrs.int("hidden_size").unwrap_or(1).into());
        let ty = |dims: &[&Dim]| TensorType::new(x.dtype, Shape(dims.iter().map(|&d| d.clone()).collect()));
        let one = Dim::from(1i64);
        let state = ty(&[&one, &batch, &hidden]);
        Ok(vec![ty(&[&seq, &one, &batch, &hidden]), state.clone(), state])
    },
    ..IF
};

fn outputs(infer: &Infer<'_>, body: &'static str, skip: usize) -> Result<Vec<TensorType>, OpError> {
    let Some(Attr::Graph(graph)) = infer.attrs.get(body) else { return Err(OpError::attribute(body, "is missing")) };
    Ok(graph.outputs().iter().skip(skip).map(|o| graph.ty(o.value).clone()).collect())
}

/// All operators, with stand-ins for those of this file that are not there yet.
pub(super) fn registry() -> Registry {
    let mut registry = crate::ops::registry();
    for def in [&IF, &LOOP, &SCAN, &LSTM] {
        if registry.by_onnx(def.onnx).is_none() {
            registry.add(def);
        }
    }
    registry
}

fn attr_graph<'g>(graph: &'g Graph, node: &str, attr: &str) -> &'g Graph {
    let id = graph.order().into_iter().find(|&id| graph.node(id).name == node).unwrap();
    match graph.node(id).op().and_then(|op: &Op| op.attrs.get(attr)) {
        Some(Attr::Graph(body)) => body,
        other => panic!("{other:?}"),
    }
}

fn names(graph: &Graph) -> Vec<&str> {
    graph.inputs().iter().map(|&i| graph.node(i)).map(|n: &Node| n.name.as_str()).collect()
}

#[test]
fn captured_values_are_operands_and_inputs_of_every_branch() {
    let then_branch = graph(vec![], vec![], vec![node("Add", &["x", "w"], &["t"], vec![])], &["t"]);
    let nested = graph(vec![], vec![], vec![relu("a", "n")], &["n"]);
    let nested = node("If", &["c"], &["e"], vec![body("then_branch", nested.clone()), body("else_branch", nested)]);
    let else_branch = graph(vec![], vec![], vec![nested], &["e"]);
    let nodes = vec![
        relu("x", "a"),
        node("If", &["c"], &["y"], vec![body("then_branch", then_branch), body("else_branch", else_branch)]),
    ];
    let inputs = vec![info("c", BOOL, &[]), info("x", F32, &["2"])];
    let result = good(16, graph(inputs, vec![floats("w", &[2], &[1.0, 2.0])], nodes, &["y"]));
    let line = operators(&result).into_iter().find(|l| l.starts_with("%y = if(%c, %x, %c, %a)")).unwrap();
    assert!(line.contains(r#"captures=s["x","c","a"]"#), "{line}");
    let (then_branch, else_branch) = (attr_graph(&result, "y", "then_branch"), attr_graph(&result, "y", "else_branch"));
    assert_eq!(names(then_branch), ["x", "c", "a"]);
    assert_eq!(names(else_branch), ["x", "c", "a"]);
    // Constants are not captured but repeated.
    assert_eq!(then_branch.constant(then_branch.value_named("w").unwrap()).unwrap().dims(), [2]);
    assert_eq!(names(attr_graph(else_branch, "e", "then_branch")), ["a"]);
    then_branch.verify().unwrap();
}

#[test]
fn a_condition_that_is_known_leaves_its_branch_only() {
    let then_branch = graph(vec![], vec![], vec![node("Add", &["x", "w"], &["t"], vec![])], &["t"]);
    let else_branch = graph(vec![], vec![], vec![node("Frob", &["x"], &["t"], vec![])], &["t"]);
    let branches = vec![body("then_branch", then_branch), body("else_branch", else_branch)];
    let condition = TensorProto { data_type: BOOL, int32_data: vec![1], ..floats("c", &[], &[]) };
    let nodes = vec![node("If", &["c"], &["y"], branches), relu("y", "z")];
    let result =
        good(16, graph(vec![info("x", F32, &["2"])], vec![floats("w", &[2], &[1.0, 2.0]), condition], nodes, &["z"]));
    assert_eq!(operators(&result), ["%t = add(%x, %w) : f32[2] 8B", "%z = relu(%t) : f32[2] 8B"]);
}

fn growing_loop() -> GraphProto {
    let inner = graph(
        vec![info("i", I64, &[]), info("go", BOOL, &[]), info("v", F32, &[""]), info("u", F32, &[""])],
        vec![],
        vec![
            node("Identity", &["go"], &["go_on"], vec![]),
            node("Concat", &["v", "x"], &["v_next"], vec![int("axis", 0)]),
            relu("u", "u_next"),
        ],
        &["go_on", "v_next", "u_next"],
    );
    let nodes = vec![node("Loop", &["n", "", "x", "x"], &["y", "z"], vec![body("body", inner)])];
    graph(vec![info("x", F32, &["2"])], vec![int64s("n", &[], &[3])], nodes, &["y", "z"])
}

#[test]
fn a_size_that_iterations_change_is_open() {
    let result = good(16, growing_loop());
    let inner = attr_graph(&result, "y", "body");
    assert_eq!(names(inner), ["i", "go", "v", "u", "x"]);
    let types: Vec<_> = inner.inputs().iter().map(|i| inner.ty(i.out(0)).to_string()).collect();
    assert_eq!(types, ["i64[]", "bool[]", "f32[\"y.v.0\"]", "f32[2]", "f32[2]"]);
    assert!(operators(&result)[0].starts_with("%y, %z = loop(%n, _, %x, %x, %x) {"));
}

#[test]
fn what_is_scanned_loses_its_axis() {
    let inner = graph(
        vec![info("s", F32, &[""]), info("row", F32, &[""])],
        vec![],
        vec![node("Add", &["s", "row"], &["sum"], vec![])],
        &["sum"],
    );
    let nodes = vec![node("Scan", &["s0", "x"], &["y"], vec![body("body", inner), int("num_scan_inputs", 1)])];
    let result = good(16, graph(vec![info("s0", F32, &["3"]), info("x", F32, &["5", "3"])], vec![], nodes, &["y"]));
    let inner = attr_graph(&result, "y", "body");
    assert_eq!(inner.ty(inner.inputs()[1].out(0)), &TensorType::of(DType::F32, &[3]));
}

#[test]
fn nesting_has_a_limit_and_errors_name_the_inner_node() {
    let mut inner = graph(vec![], vec![], vec![relu("nothing", "r0")], &["r0"]);
    for i in 1..=read::MAX_DEPTH + 1 {
        let name = format!("r{i}");
        let branches =
            vec![body("then_branch", inner.clone()), body("else_branch", graph(vec![], vec![], vec![], &["x"]))];
        inner = graph(vec![], vec![], vec![node("If", &["c"], &[&name], branches)], &[&name]);
        if i == 3 {
            let outer = GraphProto { input: vec![info("c", BOOL, &[]), info("x", F32, &["2"])], ..inner.clone() };
            assert_eq!(run(16, outer, &[]).unwrap_err().node(), Some("r3"));
        }
    }
    let outer = GraphProto { input: vec![info("c", BOOL, &[]), info("x", F32, &["2"])], ..inner };
    assert!(refusal(16, outer).ends_with("subgraphs nest deeper than 64"));
}

#[test]
fn no_flipped_bit_panics() {
    let bytes = model(16, growing_loop()).encode_to_vec();
    let registry = registry();
    let mut damaged = bytes.clone();
    for bit in 0..bytes.len() * 8 {
        damaged[bit / 8] ^= 1 << (bit % 8);
        if let Ok(model) = OnnxModel::decode(&damaged) {
            let _ = import_proto(model, None, &ImportOptions::default(), &registry);
        }
        damaged[bit / 8] = bytes[bit / 8];
    }
}
