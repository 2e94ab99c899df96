mod bodies;
mod constants;
mod forms;
mod functions;
mod gradient;
mod models;
mod sequences;
mod sizes;

use super::*;
use crate::ir::{Attr, Node, Op, OpDef, Tensor, TensorType};
use prost::Message;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::{self, Tensor as TensorTypeProto};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
    ValueInfoProto,
};

const F32: i32 = 1;
const I64: i32 = 7;
const BOOL: i32 = 9;

/// `name[3,batch,]`, where nothing is a size without a name.
fn info(name: &str, dtype: i32, dims: &[&str]) -> ValueInfoProto {
    let dim = |text: &&str| Dimension {
        value: match (text.parse(), *text) {
            (Ok(n), _) => Some(dimension::Value::DimValue(n)),
            (_, "") => None,
            (_, name) => Some(dimension::Value::DimParam(name.to_owned())),
        },
        ..Default::default()
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let value = Some(type_proto::Value::TensorType(TensorTypeProto { elem_type: dtype, shape }));
    typed(name, TypeProto { value, ..Default::default() })
}

fn typed(name: &str, ty: TypeProto) -> ValueInfoProto {
    ValueInfoProto { name: name.to_owned(), r#type: Some(ty), ..Default::default() }
}

fn floats(name: &str, dims: &[i64], values: &[f32]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: F32,
        float_data: values.to_vec(),
        ..Default::default()
    }
}

fn int64s(name: &str, dims: &[i64], values: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        dims: dims.to_vec(),
        data_type: I64,
        int64_data: values.to_vec(),
        ..Default::default()
    }
}

fn attr(name: &str, kind: AttributeType) -> AttributeProto {
    AttributeProto { name: name.to_owned(), r#type: kind as i32, ..Default::default() }
}

fn int(name: &str, i: i64) -> AttributeProto {
    AttributeProto { i, ..attr(name, AttributeType::Int) }
}

fn ints(name: &str, ints: &[i64]) -> AttributeProto {
    AttributeProto { ints: ints.to_vec(), ..attr(name, AttributeType::Ints) }
}

fn float(name: &str, f: f32) -> AttributeProto {
    AttributeProto { f, ..attr(name, AttributeType::Float) }
}

fn text(name: &str, s: &str) -> AttributeProto {
    AttributeProto { s: s.as_bytes().to_vec(), ..attr(name, AttributeType::String) }
}

fn body(name: &str, graph: GraphProto) -> AttributeProto {
    AttributeProto { g: Some(graph), ..attr(name, AttributeType::Graph) }
}

fn node(op: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let names = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
    NodeProto { op_type: op.to_owned(), input: names(inputs), output: names(outputs), attribute, ..Default::default() }
}

fn graph(
    inputs: Vec<ValueInfoProto>,
    initializer: Vec<TensorProto>,
    node: Vec<NodeProto>,
    outputs: &[&str],
) -> GraphProto {
    let output = outputs.iter().map(|o| ValueInfoProto { name: (*o).to_owned(), ..Default::default() }).collect();
    GraphProto { name: "test".to_owned(), input: inputs, output, initializer, node, ..Default::default() }
}

fn model(opset: i64, graph: GraphProto) -> ModelProto {
    let set = OperatorSetIdProto { domain: String::new(), version: opset };
    ModelProto { ir_version: 8, opset_import: vec![set], graph: Some(graph), ..Default::default() }
}

fn run(opset: i64, graph: GraphProto, dims: &[&str]) -> Result<(Graph, ImportReport), ImportError> {
    let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    import_proto(
        model(opset, graph).into(),
        None,
        &ImportOptions { dims, ..ImportOptions::default() },
        &bodies::registry(),
    )
}

/// Imports a graph that is fine.
fn good(opset: i64, graph: GraphProto) -> Graph {
    let (graph, _) = run(opset, graph, &[]).unwrap_or_else(|e| panic!("{e}"));
    graph.verify().unwrap_or_else(|e| panic!("{e}"));
    graph
}

/// The message with which a graph is refused.
fn refusal(opset: i64, graph: GraphProto) -> String {
    run(opset, graph, &[]).unwrap_err().to_string()
}

/// The lines of the text form that are uses of operators.
fn operators(graph: &Graph) -> Vec<String> {
    let text = graph.to_string();
    let is_op = |l: &&str| l.contains(" = ") && !l.contains(" = const ") && !l.contains(" = input");
    text.lines().filter(is_op).map(|l| l.trim().to_owned()).collect()
}

fn relu(input: &str, output: &str) -> NodeProto {
    node("Relu", &[input], &[output], vec![])
}

#[test]
fn nodes_keep_their_names_order_and_operands() {
    let named = NodeProto { name: "first".to_owned(), ..node("Add", &["x", "w"], &["a"], vec![]) };
    let twice = NodeProto { name: "first".to_owned(), ..node("Mul", &["a", "w"], &["b"], vec![]) };
    let graph = good(
        13,
        graph(
            vec![info("x", F32, &["1", "2"])],
            vec![floats("w", &[2], &[1.0, 2.0])],
            vec![named, twice, relu("b", "y")],
            &["y"],
        ),
    );
    assert_eq!(graph.to_string().lines().next(), Some("graph test onnx"));
    assert_eq!(
        operators(&graph),
        [
            r#"%a = add(%x, %w) named "first" : f32[1,2] 8B"#,
            r#"%b = mul(%a, %w) named "first.2" : f32[1,2] 8B"#,
            "%y = relu(%b) : f32[1,2] 8B",
        ]
    );
    let orders: Vec<_> = graph
        .file_order()
        .into_iter()
        .filter(|&id| graph.node(id).op().is_some())
        .map(|id| graph.node(id).order)
        .collect();
    assert_eq!(orders, [0, 1, 2]);
    // One initializer used twice is one constant.
    assert_eq!(graph.n_nodes(), 5);
}

#[test]
fn an_initializer_that_is_also_an_input_is_a_default_from_ir_version_4_on() {
    let inputs = || vec![info("x", F32, &["2"]), info("w", F32, &["2"])];
    let add = || vec![node("Add", &["x", "w"], &["y"], vec![])];
    let w = || vec![floats("w", &[2], &[1.0, 2.0])];
    for (ir_version, n_inputs) in [(3, 1), (4, 2), (8, 2)] {
        let model = ModelProto { ir_version, ..model(13, graph(inputs(), w(), add(), &["y"])) };
        let (graph, report) =
            import_proto(model.into(), None, &ImportOptions::default(), &crate::ops::registry()).unwrap();
        assert_eq!(graph.inputs().len(), n_inputs, "IR version {ir_version}");
        assert_eq!(report.fixed.contains_key("w"), n_inputs == 1, "IR version {ir_version}");
    }
}

#[test]
fn a_batch_that_nobody_gives_is_one_and_other_sizes_stay_open() {
    let build = || graph(vec![info("x", F32, &["batch", "seq", "", "0"])], vec![], vec![relu("x", "y")], &["y"]);
    let (graph, report) = run(13, build(), &[]).unwrap();
    assert_eq!(graph.ty(graph.inputs()[0].out(0)).to_string(), "f32[1,seq,\"x.2\",0]");
    assert_eq!(report.defaulted, [("batch".to_owned(), 1)]);
    assert_eq!(report.unbound, ["seq", "x.2"]);
    // 0 is a size, and the only one that a binding may change.
    assert_eq!(report.empty, ["x.3"]);
    let (graph, report) = run(13, build(), &["batch=4", "x.1=7", "x.2=5", "x.3=6"]).unwrap();
    assert_eq!(graph.ty(graph.inputs()[0].out(0)).to_string(), "f32[4,7,5,6]");
    assert_eq!(report, ImportReport::default());
}

#[test]
fn a_symbol_on_two_axes_or_of_a_length_is_no_batch() {
    for inputs in
        [vec![info("x", F32, &["n", "n"])], vec![info("x", F32, &["n"])], vec![info("x", F32, &["seq_n", "2"])]]
    {
        let (_, report) = run(13, graph(inputs, vec![], vec![relu("x", "y")], &["y"]), &[]).unwrap();
        assert!(report.defaulted.is_empty());
        assert_eq!(report.unbound.len(), 1);
    }
}

#[test]
fn a_binding_that_names_nothing_says_what_there_is() {
    let build = || graph(vec![info("x", F32, &["batch", "3", ""])], vec![], vec![relu("x", "y")], &["y"]);
    let refused = |dims: &[&str]| run(13, build(), dims).unwrap_err().to_string();
    assert_eq!(refused(&["seq=2"]), r#"no dimension is named "seq"; the model has batch (x.0), x.1 = 3, x.2"#);
    assert_eq!(refused(&["x.1=4"]), r#"dimension "x.1" is 3 in the model, 4 was given"#);
    assert_eq!(refused(&["batch=2", "x.0=3"]), r#"dimension "x.0" is given twice, as 2 and as 3"#);
    assert!(run(13, build(), &["x.1=3"]).is_ok());
    assert_eq!(refused(&["batch=x"]), r#"dimension "batch" is x, but x has no range: give --dim x=1..N"#);
    assert_eq!(DimBinding::parse("batch=0").unwrap(), DimBinding::known("batch", 0));
    for text in ["batch", "=3", "batch=", "batch=-1", "batch=x!"] {
        assert!(DimBinding::parse(text).is_err(), "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_graph_is_named() {
    let x = || vec![info("x", F32, &["2"])];
    let unknown = NodeProto { domain: "com.acme".to_owned(), ..node("Frob", &["x"], &["y"], vec![]) };
    assert_eq!(
        refusal(13, graph(x(), vec![], vec![unknown], &["y"])),
        r#"node "y" (com.acme::Frob, opset 1): unknown operator"#
    );
    assert_eq!(
        refusal(13, graph(x(), vec![], vec![relu("a", "y"), relu("x", "a")], &["y"])),
        r#"node "y" (Relu, opset 13): the graph is not in topological order: operand "a" is produced only by the later node "a""#
    );
    assert_eq!(
        refusal(13, graph(x(), vec![], vec![relu("z", "y")], &["y"])),
        r#"node "y" (Relu, opset 13): operand "z" is produced by no earlier node, input or initializer"#
    );
    assert_eq!(
        refusal(13, graph(x(), vec![], vec![relu("x", "x")], &["x"])),
        r#"node "x" (Relu, opset 13): value "x" is produced twice"#
    );
    assert_eq!(
        refusal(13, graph(x(), vec![], vec![], &["y"])),
        r#"output "y": is produced by no node, input or initializer"#
    );
    assert_eq!(
        refusal(5, graph(x(), vec![], vec![], &["x"])),
        "opset 5 of the default domain is not supported, 6 to 28 are"
    );
    let odd = node("Relu", &["x"], &["y"], vec![int("slope", 1)]);
    assert_eq!(
        refusal(13, graph(x(), vec![], vec![odd], &["y"])),
        r#"node "y" (Relu, opset 13): attribute "slope" is unknown to the operator"#
    );
    let many = node("Relu", &["x", "x"], &["y"], vec![]);
    assert_eq!(
        refusal(13, graph(x(), vec![], vec![many], &["y"])),
        r#"node "y" (Relu, opset 13): 2 operands, expected 1 to 1"#
    );
    let error = run(13, graph(x(), vec![], vec![relu("z", "y")], &["y"]), &[]).unwrap_err();
    assert_eq!((error.node(), error.operator()), (Some("y"), Some("Relu")));
}

#[test]
fn shapes_are_computed_at_once_and_symbols_followed() {
    // The usual way to merge all axes but the first, whose size stays open.
    let initializers = vec![int64s("zero", &[], &[0]), int64s("axes", &[1], &[0]), int64s("rest", &[1], &[6])];
    let nodes = vec![
        node("Shape", &["x"], &["shape"], vec![]),
        node("Gather", &["shape", "zero"], &["first"], vec![int("axis", 0)]),
        node("Unsqueeze", &["first", "axes"], &["n"], vec![]),
        node("Concat", &["n", "rest"], &["target"], vec![int("axis", 0)]),
        node("Reshape", &["x", "target"], &["y"], vec![]),
    ];
    let build = || {
        graph(
            vec![info("x", F32, &["n", "2", "3"]), info("z", F32, &["m", "2"])],
            initializers.clone(),
            nodes.clone(),
            &["y"],
        )
    };
    let (mut open, _) = run(13, build(), &[]).unwrap();
    open.remove_dead();
    assert_eq!(
        operators(&open),
        ["%target = sizes() {dtype=i64, value=d[n,6]} : i64[2] 16B", "%y = reshape(%x, %target) : f32[n,6]"],
        "what the device has no part in is one list of sizes"
    );
    let (bound, _) = run(13, build(), &["n=4"]).unwrap();
    assert_eq!(operators(&bound), ["%y = reshape(%x, %target) : f32[4,6] 96B"]);
}

#[test]
fn sizes_that_are_cast_are_what_the_type_holds() {
    // Truth values of sizes are 0 and 1, and what a narrow type does not hold wraps.
    let nodes = vec![
        node("Shape", &["x"], &["shape"], vec![]),
        node("Cast", &["shape"], &["is"], vec![int("to", 9)]),
        node("Cast", &["is"], &["one"], vec![int("to", 7)]),
        node("Not", &["is"], &["not"], vec![]),
        node("Cast", &["not"], &["none"], vec![int("to", 7)]),
        node("Cast", &["shape"], &["narrow"], vec![int("to", 3)]),
        node("Cast", &["narrow"], &["wrapped"], vec![int("to", 7)]),
    ];
    for bindings in [["n=5"], ["n=1..9"]] {
        let build = graph(vec![info("x", F32, &["n", "300"])], vec![], nodes.clone(), &["one", "none", "wrapped"]);
        let (graph, _) = run(13, build, &bindings).unwrap();
        let constant = |i: usize| graph.constant(graph.outputs()[i].value).map(|t: &Tensor| t.to_i64s().unwrap());
        assert_eq!((constant(0), constant(1)), (Some(vec![1, 1]), Some(vec![0, 0])), "{bindings:?}");
        assert_eq!(constant(2), (bindings == ["n=5"]).then(|| vec![5, 44]), "{bindings:?}");
    }
}

#[test]
fn a_shape_that_depends_on_open_sizes_says_which() {
    let nodes = |op: &str| vec![node("Shape", &["x"], &["shape"], vec![]), node(op, &["z", "shape"], &["y"], vec![])];
    let inputs = || vec![info("x", F32, &["n", "m"]), info("z", F32, &["k", "6"])];
    let (open, _) = run(13, graph(inputs(), vec![], nodes("Reshape"), &["y"]), &[]).unwrap();
    assert_eq!(
        open.ty(open.outputs()[0].value).to_string(),
        "f32[n,m]",
        "sizes may stay open as long as only shapes depend on them"
    );
    let error = run(13, graph(inputs(), vec![], nodes("ReduceSum"), &["y"]), &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node \"y\" (ReduceSum, opset 13): operand 1 must be a constant, but its value depends on sizes that are not known: \
         give --dim m=N --dim n=N; in all the model needs --dim k=N --dim m=N --dim n=N"
    );
    assert_eq!(error.unbound(), ["k", "m", "n"]);
}

#[test]
fn a_model_without_a_graph_or_an_opset_is_refused() {
    let run = |model: ModelProto| {
        import_proto(model.into(), None, &ImportOptions::default(), &Registry::default()).unwrap_err().to_string()
    };
    assert_eq!(
        run(ModelProto::default()),
        "the model imports no opset of the default domain; opsets 6 to 28 are supported"
    );
    assert_eq!(run(ModelProto { graph: None, ..model(13, GraphProto::default()) }), "the model has no graph");
}

#[test]
fn products_of_sizes_do_not_grow_without_end() {
    let mut nodes = vec![node("Size", &["x"], &["s0"], vec![])];
    for i in 0..60 {
        let (from, to) = (format!("s{i}"), format!("s{}", i + 1));
        nodes.push(node("Mul", &[&from, &from], &[&to], vec![]));
    }
    let (graph, _) = run(13, graph(vec![info("x", F32, &["n", "m"])], vec![], nodes, &["s60"]), &["n=3"]).unwrap();
    assert_eq!(graph.ty(graph.outputs()[0].value).to_string(), "i64[]");
}
