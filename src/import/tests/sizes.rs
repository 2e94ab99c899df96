//! Sizes and values that are missing or do not fit each other: what the messages propose.

use super::*;
use crate::ir::DType;

fn import_with(graph: GraphProto, dims: &[&str], values: &[(&str, serde_json::Value)]) -> Result<Graph, ImportError> {
    let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    let values = values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    let options = ImportOptions { dims, values, ..ImportOptions::default() };
    import_proto(model(21, graph).into(), None, &options, &crate::ops::registry()).map(|(graph, _)| graph)
}

/// Shapes that five inputs decide, behind one another, and a size that nobody gives.
fn hungry() -> GraphProto {
    let inputs = vec![
        info("x", F32, &["rows", "columns"]),
        info("shape", I64, &["2"]),
        info("first", I64, &["1"]),
        info("axes", I64, &["1"]),
        info("reps", I64, &["2"]),
        info("unused", I64, &["1"]),
    ];
    let nodes = vec![
        node("Reshape", &["x", "shape"], &["r"], vec![]),
        node("Relu", &["r"], &["s"], vec![]),
        node("Neg", &["first"], &["n"], vec![]),
        node("Slice", &["s", "n", "big", "axes"], &["t"], vec![]),
        node("Tile", &["x", "reps"], &["y"], vec![]),
        node("Shape", &["x"], &["own"], vec![]),
        node("Expand", &["t", "own"], &["z"], vec![]),
        // What does not depend on any of them is looked at all the same.
        node("Abs", &["unused"], &["u"], vec![]),
    ];
    graph(inputs, vec![int64s("big", &[1], &[i64::MAX])], nodes, &["y", "z", "u"])
}

#[test]
fn all_that_is_missing_is_said_at_once() {
    let error = import_with(hungry(), &[], &[]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node \"r\" (Reshape, opset 21): operand 1 must be a constant, and is the model's input \"shape\": give it a value with \
         --constants shape=VALUE; in all the model needs --dim columns=N --constants axes=VALUE (i64[1]) \
         --constants first=VALUE (i64[1]) --constants reps=VALUE (i64[2]) --constants shape=VALUE (i64[2])"
    );
    assert_eq!((error.free_input(), error.unbound().len()), (Some("axes"), 1));
    let given = [
        ("shape", serde_json::json!([24, 1])),
        ("first", serde_json::json!(2)),
        ("axes", serde_json::json!([0])),
        ("reps", serde_json::json!([1, 2])),
    ];
    let graph = import_with(hungry(), &["rows=2", "columns=12"], &given).unwrap();
    let text = graph.to_string();
    assert!(text.contains("f32[2,24]") && text.contains("%unused = input"), "{text}");
    assert_eq!(graph.inputs().len(), 2);
}

#[test]
fn a_single_thing_that_is_missing_is_said_once() {
    let nodes = vec![node("Reshape", &["x", "shape"], &["y"], vec![])];
    let one = graph(vec![info("x", F32, &["6"]), info("shape", I64, &["2"])], vec![], nodes, &["y"]);
    assert_eq!(
        import_with(one, &[], &[]).unwrap_err().to_string(),
        "node \"y\" (Reshape, opset 21): operand 1 must be a constant, and is the model's input \"shape\": give it a value with \
         --constants shape=VALUE"
    );
}

#[test]
fn values_in_line_have_the_type_of_the_input() {
    let typed = |dtype: i32, dims: &[&str], value: serde_json::Value| {
        let nodes = vec![node("Identity", &["v"], &["y"], vec![])];
        let graph = import_with(graph(vec![info("v", dtype, dims)], vec![], nodes, &["y"]), &[], &[("v", value)]);
        graph.map(|graph| graph.constant(graph.outputs()[0].value).unwrap().clone()).map_err(|e| e.to_string())
    };
    use serde_json::json;
    let i64s = |dims: &[usize], values: &[i64]| Tensor::from_i64s(DType::I64, dims, values).unwrap();
    assert_eq!(typed(I64, &[], json!(16000)).unwrap(), i64s(&[], &[16000]));
    assert_eq!(typed(I64, &["1"], json!(16000)).unwrap(), i64s(&[1], &[16000]));
    assert_eq!(typed(I64, &["n"], json!([i64::MAX, -1])).unwrap(), i64s(&[2], &[i64::MAX, -1]));
    assert_eq!(typed(I64, &["2", "1"], json!([[1], [2]])).unwrap(), i64s(&[2, 1], &[1, 2]));
    assert_eq!(typed(BOOL, &[], json!(true)).unwrap(), Tensor::from_i64s(DType::Bool, &[], &[1]).unwrap());
    assert_eq!(typed(F32, &["2"], json!([1, 0.5])).unwrap(), Tensor::from_f32s(DType::F32, &[2], &[1.0, 0.5]).unwrap());
    assert_eq!(typed(10, &[], json!(0.5)).unwrap(), Tensor::from_f32s(DType::F16, &[], &[0.5]).unwrap());
    assert_eq!(typed(22, &["2"], json!([-8, 7])).unwrap(), Tensor::from_i64s(DType::I4, &[2], &[-8, 7]).unwrap());
    for (dtype, dims, value) in [
        (I64, &[][..], json!(1.5)),
        (I64, &["3"], json!([1, 2])),
        (I64, &["2"], json!([[1], [2]])),
        (I64, &["2", "2"], json!([[1, 2], [3]])),
        (2, &[], json!(256)),
        (2, &[], json!(-1)),
        (22, &[], json!(8)),
        (BOOL, &[], json!(2)),
        (F32, &[], json!(true)),
        (I64, &["1"], json!([null])),
    ] {
        let refused = typed(dtype, dims, value.clone()).unwrap_err();
        assert!(refused.starts_with("input \"v\" as a constant: "), "{value}: {refused}");
    }
    let nodes = || vec![node("Identity", &["sample_rate"], &["y"], vec![])];
    let rate = || graph(vec![info("sample_rate", I64, &[])], vec![], nodes(), &["y"]);
    assert_eq!(
        import_with(rate(), &[], &[("samplerate", json!(16000))]).unwrap_err().to_string(),
        "input \"samplerate\" as a constant: the model has no such input; did you mean \"sample_rate\"?"
    );
}

/// The bindings that the refusal proposes, with which the model can be imported.
fn proposed(build: &dyn Fn() -> GraphProto, dims: &[&str]) -> String {
    let refused = import_with(build(), dims, &[]).unwrap_err().to_string();
    let (_, proposal) = refused.split_once("; they would fit with ").unwrap_or_else(|| panic!("{refused}"));
    let new: Vec<&str> =
        proposal.split("--dim ").map(|d| d.trim().trim_matches('\'')).filter(|d| !d.is_empty()).collect();
    let names: Vec<&str> = new.iter().map(|d| d.split_once('=').unwrap().0).collect();
    let kept = dims.iter().filter(|d| !names.contains(&d.split_once('=').unwrap().0)).chain(&new).copied();
    import_with(build(), &kept.collect::<Vec<_>>(), &[]).unwrap_or_else(|e| panic!("{proposal}: {e}"));
    proposal.to_owned()
}

#[test]
fn sizes_that_do_not_fit_come_with_what_would_relate_them() {
    let added = |left: &'static [&'static str], right: &'static [&'static str], more: &'static [&'static str]| {
        move || {
            let inputs = vec![info("a", F32, left), info("b", F32, right), info("c", F32, more)];
            graph(inputs, vec![], vec![node("Add", &["a", "b"], &["y"], vec![])], &["y"])
        }
    };
    let ranges = ["s=1..6", "p=1..9", "t=2..15"];
    // The mask is as long as the cache and what is new.
    let cache = || {
        let inputs = vec![info("past", F32, &["2", "p"]), info("x", F32, &["2", "s"]), info("mask", F32, &["2", "t"])];
        let nodes = vec![
            node("Concat", &["past", "x"], &["all"], vec![int("axis", 1)]),
            node("Add", &["all", "mask"], &["y"], vec![]),
        ];
        graph(inputs, vec![], nodes, &["y"])
    };
    assert_eq!(proposed(&cache, &ranges), "--dim t=p+s");
    assert_eq!(proposed(&added(&["s"], &["t"], &["p"]), &ranges), "--dim s=t");
    let both = || {
        let inputs = vec![info("a", F32, &["s", "p"]), info("b", F32, &["t", "q"])];
        graph(inputs, vec![], vec![node("Add", &["a", "b"], &["y"], vec![])], &["y"])
    };
    assert_eq!(proposed(&both, &["s=1..6", "p=1..9", "t=2..15", "q=1..3"]), "--dim p=q --dim s=t");
    // Halved five times and doubled again.
    let pyramid = || {
        let mut nodes = Vec::new();
        let mut last = "x".to_owned();
        for i in 0..5 {
            let next = format!("h{i}");
            nodes.push(node(
                "MaxPool",
                &[&last],
                &[&next],
                vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])],
            ));
            last = next;
        }
        nodes.push(node("Resize", &[&last, "", "scales"], &["wide"], vec![]));
        nodes.push(node("Add", &["wide", "x"], &["y"], vec![]));
        let scales = floats("scales", &[4], &[1.0, 1.0, 32.0, 32.0]);
        graph(vec![info("x", F32, &["1", "3", "H", "w"])], vec![scales], nodes, &["y"])
    };
    assert_eq!(
        proposed(&pyramid, &["H=32..640", "w=32..640"]),
        "--dim h=1..20 --dim H=32*h --dim w_32=1..20 --dim w=32*w_32"
    );
    // A table has no more rows.
    let table = || {
        let nodes = vec![
            node("Shape", &["x"], &["n"], vec![]),
            node("Slice", &["table", "zero", "n"], &["rows"], vec![]),
            node("Add", &["x", "rows"], &["y"], vec![]),
        ];
        let initializers = vec![floats("table", &[8], &[0.5; 8]), int64s("zero", &[1], &[0])];
        graph(vec![info("x", F32, &["n"])], initializers, nodes, &["y"])
    };
    assert_eq!(proposed(&table, &["n=1..20"]), "--dim n=1..8");
    // Nothing relates a size to a number that its range does not have.
    let refused = import_with(added(&["s"], &["40"], &["p"])(), &["s=2..6", "p=1..9"], &[]).unwrap_err().to_string();
    assert_eq!(refused, "node \"y\" (Add, opset 21): shapes [s] and [40] do not broadcast");
}
