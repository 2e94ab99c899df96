//! `nyxc inspect` answers whatever the file.

use super::*;

/// A float input whose axes are as the file states them: a name, a number, or nothing.
fn axes(field: u64, name: &str, dims: &[Result<i64, &str>]) -> Vec<u8> {
    let dim = |dim: &Result<i64, &str>| {
        pb::blob(
            1,
            match dim {
                Ok(n) => pb::int(1, *n),
                Err("") => Vec::new(),
                Err(name) => pb::blob(2, name),
            },
        )
    };
    let shape: Vec<u8> = dims.iter().flat_map(dim).collect();
    let tensor = pb::blob(1, [pb::int(1, 1), pb::blob(2, shape)].concat());
    pb::blob(field, [pb::blob(1, name), pb::blob(2, tensor)].concat())
}

fn written(folder: &Folder, graph: &[Vec<u8>]) -> String {
    let path = folder.file("m.onnx");
    std::fs::write(&path, pb::model(graph.concat())).unwrap();
    path
}

fn names(values: &Value) -> Vec<(&str, &str)> {
    values.as_array().unwrap().iter().map(|v| (v["name"].as_str().unwrap(), v["type"].as_str().unwrap())).collect()
}

#[test]
fn a_model_that_cannot_be_imported_is_described_and_the_reason_told() {
    let folder = Folder::new("inspect-bad");
    let io = [
        axes(11, "in put", &[Err("batch"), Err(""), Ok(3), Ok(-1), Ok(0)]),
        axes(12, "out", &[Err("batch"), Ok(7)]),
        pb::f32s("w", &[3, 5], &[0.5; 15]),
    ]
    .concat();
    let branch = [pb::node("Cos", &["w"], &["c"], &[]), pb::f32s("b", &[2], &[1.0; 2]), pb::output("c")].concat();
    let bodies: [(&str, Vec<u8>, &str); 4] = [
        ("an unknown operator", pb::node("NoSuchOp", &["in put"], &["out"], &[]), "NoSuchOp"),
        ("an operand that nothing makes", pb::node("Relu", &["nowhere"], &["out"], &[]), "nowhere"),
        ("operands that do not fit", pb::node("MatMul", &["w", "w"], &["out"], &[]), "MatMul"),
        ("a broken body", pb::node("If", &["in put"], &["out"], &[pb::attr_graph("then_branch", &branch)]), "If"),
    ];
    for (what, body, reason) in bodies {
        let path = written(&folder, &[body, io.clone()]);
        let shown = nyxc(&["inspect", &path, "--json"]).exits(0).json();
        assert_eq!(names(&shown["inputs"]), [("in put", "f32[batch,?,3,-1,0]")], "{what}");
        assert_eq!(shown["inputs"][0]["shape"], serde_json::json!(["batch", null, 3, -1, 0]), "{what}");
        assert_eq!(names(&shown["outputs"]), [("out", "f32[batch,7]")], "{what}");
        let n_inner = if what == "a broken body" { 1 } else { 0 };
        assert_eq!(bytes(&shown["weights_bytes"]), 60 + n_inner * 8, "{what}: subgraphs have weights too");
        assert_eq!(shown["operators"].get("Cos"), (n_inner == 1).then_some(&Value::from(1)), "{what}");
        let error = &shown["import_error"];
        assert!(error["message"].as_str().unwrap().contains(reason), "{what}: {error}");
        assert_eq!(error["kind"], "model", "{what}");
        let text = nyxc(&["inspect", &path]).exits(0).out;
        assert!(text.contains("in put : f32[batch,?,3,-1,0]") && text.contains(reason), "{what}: {text}");
    }
}

#[test]
fn missing_sizes_and_missing_external_data_leave_weights_and_types_told() {
    let folder = Folder::new("inspect-open");
    let external = [
        [pb::int(1, 1000), pb::int(1, 50), pb::int(2, 1), pb::blob(8, "w")].concat(),
        pb::blob(13, [pb::blob(1, "location"), pb::blob(2, "absent.bin")].concat()),
        pb::int(14, 1),
    ]
    .concat();
    let graph = [
        pb::node("MatMul", &["x", "w"], &["y"], &[]),
        axes(11, "x", &[Err("rows"), Err("seq"), Ok(1000)]),
        pb::output("y"),
    ];
    let path = written(&folder, &[graph.concat(), pb::blob(5, external)]);
    let shown = nyxc(&["inspect", &path, "--json"]).exits(0).json();
    assert_eq!((bytes(&shown["weights_bytes"]), bytes(&shown["n_weights"])), (200_000, 1));
    assert!(shown["import_error"]["message"].as_str().unwrap().contains("absent.bin"), "{shown:#}");

    let path = written(&folder, &[graph.concat(), pb::f32s("w", &[1000, 2], &[0.0; 2000])]);
    let shown = nyxc(&["inspect", &path, "--json"]).exits(0).json();
    assert_eq!(shown["import_error"], Value::Null, "{shown:#}");
    assert_eq!((bytes(&shown["weights_bytes"]), &shown["max_live_bytes"]), (8000, &Value::Null));
    assert_eq!(shown["unbound"], serde_json::json!(["seq"]), "{shown:#}");
    assert_eq!(shown["defaulted"], serde_json::json!([{"dim": "rows", "size": 1}]));
    let shown = nyxc(&["inspect", &path, "--dim", "seq=3", "--dim", "rows=2", "--json"]).exits(0).json();
    assert_eq!(shown["inputs"][0]["compiled"], "f32[2,3,1000]");
    assert_eq!(shown["outputs"][0]["compiled"], "f32[2,3,2]");
    assert_eq!((&shown["unbound"], &shown["defaulted"]), (&serde_json::json!([]), &serde_json::json!([])));
    assert!(bytes(&shown["max_live_bytes"]) > 0);
    nyxc(&["inspect", &path, "--dim", "nosuch=3"]).exits(2);
}

#[test]
fn what_was_taken_by_default_is_marked_and_constants_are_given() {
    let text = nyxc(&["inspect", &mlp()]).exits(0).out;
    assert!(text.contains("batch = 1, because nobody said"), "{text}");
    assert!(text.contains("image : f32[batch,1,28,28], compiled as f32[1,1,28,28]"), "{text}");
    let text = nyxc(&["inspect", &mlp(), "--dim", "batch=4"]).exits(0).out;
    assert!(!text.contains("because nobody said") && text.contains("f32[4,1,28,28]"), "{text}");
    let folder = Folder::new("inspect-constants");
    let path = written(
        &folder,
        &[pb::node("Add", &["x", "s"], &["y"], &[]), pb::input("x", &[2]), pb::input("s", &[]), pb::output("y")],
    );
    let (constants, absent) = (folder.file("c.npz"), folder.file("absent.npz"));
    write_npz(&constants, &[("s", &[], vec![2.0])]);
    let shown = nyxc(&["inspect", &path, "--constants", &constants, "--json"]).exits(0).json();
    assert_eq!(names(&shown["inputs"]), [("x", "f32[2]")]);
    assert_eq!(shown["constant_inputs"], serde_json::json!({"s": "--constants gave it a value"}), "{shown:#}");
    nyxc(&["inspect", &path, "--constants", &absent]).exits(6);
    std::fs::write(&path, b"\xff\xff\xff no protobuf").unwrap();
    nyxc(&["inspect", &path, "--json"]).exits(3).json();
}

#[test]
fn a_program_tells_ports_ranges_ledger_formats_and_totals_and_nodes_where_asked() {
    let folder = Folder::new("inspect-program");
    let program = folder.file("any.nyx");
    let report = nyxc(&[
        "compile",
        &mlp(),
        "--dim",
        "batch=1..6",
        "--target",
        "lavapipe",
        "--budget",
        "400K",
        "-o",
        &program,
        "--json",
    ])
    .exits(0)
    .json();
    let shown = nyxc(&["inspect", &program, "--json"]).exits(0).json();
    assert_eq!(names(&shown["inputs"]), [("image", "f32[batch,1,28,28]")]);
    assert_eq!(bytes(&shown["inputs"][0]["bytes"]), 6 * 784 * 4, "bytes at the largest size");
    assert_eq!(shown["sizes"], serde_json::json!([{"name": "batch", "min": 1, "max": 6}]));
    let plan = &shown["plans"][0];
    assert_eq!((&plan["ledger"], &plan["planned_peak_bytes"]), (&report["ledger"], &report["planned_peak_bytes"]));
    let sum = |key: &str| report["nodes"].as_array().unwrap().iter().map(|n| bytes(&n[key])).sum::<u64>();
    let totals = &plan["totals"];
    assert_eq!(
        (bytes(&totals["weight_bytes"]), bytes(&totals["f32_weight_bytes"])),
        (sum("weight_bytes"), sum("f32_weight_bytes"))
    );
    assert_eq!(bytes(&totals["nodes"]), report["nodes"].as_array().unwrap().len() as u64);
    assert!((1..bytes(&totals["dispatches"])).contains(&bytes(&totals["barriers"])), "the first waits for nothing");
    let n_formats: u64 = plan["formats"].as_array().unwrap().iter().map(|f| bytes(&f["nodes"])).sum();
    assert_eq!(n_formats, report["nodes"].as_array().unwrap().iter().filter(|n| n["format"] != "").count() as u64);
    let (plain, with_nodes) =
        (nyxc(&["inspect", &program]).exits(0).out, nyxc(&["inspect", &program, "--nodes"]).exits(0).out);
    for part in ["batch in 1..6", "ledger", "format", "totals"] {
        assert!(plain.contains(part), "{part}: {plain}");
    }
    assert!(!plain.contains(" g0 ") && with_nodes.contains(" g0 "), "{with_nodes}");
    nyxc(&["inspect", &mlp(), "--nodes"]).exits(2);
}
