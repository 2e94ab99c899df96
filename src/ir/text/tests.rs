use super::*;
use crate::ir::{
    Attrs, DType, Dim, Expr, Format, Graph, Infer, Level, Module, Node, NodeKind, ONNX, Op, OpDef, OpError, Registry,
    Shape, Tensor, TensorType, attr,
};

fn same(infer: &Infer<'_>) -> Result<Vec<TensorType>, OpError> {
    Ok(vec![infer.ty(0)?.clone(); infer.n_outputs])
}

static PROBE: OpDef = OpDef {
    name: "probe",
    onnx: "Probe",
    levels: ONNX,
    attrs: &[
        attr::int("a"),
        attr::float("b"),
        attr::text("c"),
        attr::ints("d"),
        attr::dtype("e"),
        attr::expr("f"),
        attr::graph("g"),
        attr::tensor("t"),
        attr::sizes("y"),
    ],
    arity: (1, 3),
    infer: &same,
    eval: None,
    expand: None,
    weights: None,
    gradient: None,
};

fn graph() -> Graph {
    let mut graph = Graph::new("a graph", Level::Onnx);
    let shape = Shape(vec![&(&Dim::symbol("seq") * &Dim::Known(2)) + &Dim::Known(1), Dim::symbol("odd name")]);
    let x = graph.add_input("x", TensorType::new(DType::F32, shape));
    let small = Tensor::from_f32s(DType::F32, &[3], &[1.5, f32::NEG_INFINITY, 1e-9]).unwrap();
    let large = Tensor::from_i64s(DType::I64, &[9], &(0..9).collect::<Vec<_>>()).unwrap();
    let k = graph.add_const("k", small.clone());
    let l = graph.add_const("/model/l.weight", large);
    let mut inner = Graph::new("body", Level::Onnx);
    let y = inner.add_input("y", TensorType::of(DType::Bool, &[]));
    inner.add_output("out", y);
    let attrs = Attrs::new()
        .with_int("a", -3)
        .with_float("b", 0.5)
        .with_str("c", "it's \"quoted\"")
        .with_ints("d", [1, -2])
        .with_dtype("e", DType::F16)
        .with_expr("f", Expr::parse("add(x0,x1)").unwrap())
        .with("g", crate::ir::Attr::Graph(Box::new(inner)))
        .with("t", crate::ir::Attr::Tensor(small))
        .with_dims("y", vec![Dim::symbol("seq"), Dim::Known(4)]);
    let kind = NodeKind::Op(Op::new(&PROBE, attrs));
    let outputs = ["p", "q"].map(|name| crate::ir::Value { name: name.into(), ty: graph.ty(x).clone() }).to_vec();
    let node = Node {
        format: Some(Format::MENU[3]),
        origin: vec!["m".into(), "n".into()],
        ..Node::new("the node", kind, outputs)
    };
    let node = graph.insert(node, &[Some(x), None, Some(k)]);
    let last = graph.add_op("last", Op::new(&PROBE, Attrs::new()), &[Some(l)], &["last".into()]).unwrap();
    graph.add_output("p", node.out(0));
    graph.add_output("other", node.out(1));
    graph.add_output("last", last.out(0));
    graph
}

#[test]
fn what_is_printed_reads_back() {
    let graph = graph();
    let large = graph.constant(graph.value_named("/model/l.weight").unwrap()).unwrap().clone();
    let text = graph.to_string();
    let read =
        parse(&text, &Registry::new([&PROBE]), &|hash, _| (large.hash().to_string() == hash).then(|| large.clone()))
            .unwrap();
    assert_eq!(read, graph);
    assert_eq!(read.to_string(), text);
    let blind = parse(&text, &Registry::new([&PROBE]), &|_, _| None).unwrap();
    assert_eq!(blind.to_string(), text, "a constant that is absent prints as it did");
}

#[test]
fn a_size_alone_reads_as_it_was_printed_whatever_the_range_of_its_symbols() {
    for (n, printed) in [(Dim::ranged("n", 0, 9), "floordiv(8,max(1,n))"), (Dim::ranged("n", 1, 9), "floordiv(8,n)")] {
        let dim = Dim::Known(8).floor_div(&Dim::larger(&n, &Dim::Known(1))).unwrap();
        assert_eq!(dim.to_string(), printed);
        assert_eq!(super::parse_dim(printed).unwrap().to_string(), printed);
    }
}

#[test]
fn errors_name_the_place() {
    let registry = Registry::new([&PROBE]);
    let refused = |text: &str| parse(text, &registry, &|_, _| None).unwrap_err().to_string();
    assert_eq!(
        refused("graph g onnx\n  %x = input : f32[2]\n  %y = probe(%z) : f32[2]\n"),
        "line 3, column 15: %z is not defined above"
    );
    assert_eq!(refused("graph g onnx\n  %x = input : f33[2]\n"), "line 2, column 16: unknown element type \"f33\"");
    assert!(refused("graph g onnx\n  %x = input : f32[2]\n  %x = probe(%x) : f32[2]\n").contains("defined twice"));
    assert!(
        refused(&format!("graph g onnx\n  %x = input : f32[{}2", "floordiv(".repeat(500)))
            .contains("nested too deeply")
    );
}

#[test]
fn states_and_entries_read_back() {
    let mut graph = graph();
    let whole = Tensor::from_f32s(DType::F32, &[2], &[1.0, 2.0]).unwrap();
    let first = graph.add_state("whole", whole.ty().clone(), whole.clone());
    let element = Tensor::from_i64s(DType::I32, &[], &[-1]).unwrap();
    graph.add_state("a filled one", TensorType::of(DType::I32, &[3, 1]), element);
    // Another value has the name of the state by now.
    graph.rename(first.node, "node".to_owned(), vec!["value".to_owned()]);
    let large = graph.constant(graph.value_named("/model/l.weight").unwrap()).unwrap().clone();
    let find = |hash: &str, _: &TensorType| (large.hash().to_string() == hash).then(|| large.clone());
    let registry = Registry::new([&PROBE]);
    let text = graph.to_string();
    assert!(text.contains("%value = state [1.0,2.0] as \"whole\" named \"node\" : f32[2] 8B"), "{text}");
    assert!(text.contains("state fill [-1] : i32[3,1] 12B"), "{text}");
    assert_eq!(parse(&text, &registry, &find).unwrap(), graph);
    let mut module = Module::of(graph.clone());
    assert_eq!(module.to_string(), text, "a module of one entry is its graph");
    assert_eq!(parse_module(&text, &registry, &find).unwrap(), module);
    module.entries.insert("another one".to_owned(), graph);
    let text = module.to_string();
    assert_eq!(parse_module(&text, &registry, &find).unwrap(), module);
    let refused = |text: &str| parse_module(text, &registry, &find).unwrap_err().to_string();
    assert!(refused(&text.replace("another one", "main")).contains("entry \"main\" is defined twice"));
    assert!(refused("module m\n").contains("expected an entry"));
    assert!(refused("module m\nentry e\ngraph g onnx\nfoo").contains("expected an entry"));
    assert!(parse(&text, &registry, &find).unwrap_err().to_string().contains("expected \"graph \""));
    assert!(refused("graph g onnx\n  %x = input : f32[2]\n  state %x = %x\n").contains("expected a state"));
}
