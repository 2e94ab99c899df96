//! `nyxc compare`: bounds, overflows and masks.

use super::*;

#[test]
fn compare_exits_with_1_where_the_bound_is_missed() {
    let folder = Folder::new("compare");
    let (program, inputs) = (folder.file("mlp.nyx"), image(&folder, 1));
    nyxc(&["compile", &mlp(), "--policy", "uniform:w4a16", "-o", &program]).exits(0);
    let compare = |bound| nyxc(&["compare", &mlp(), &program, "--inputs", &inputs, "--bound", bound, "--json"]);
    let table = compare("0.2").exits(0).json();
    compare("1e-9").exits(1);
    let worst = table["worst_relative_l2"].as_f64().unwrap();
    assert!(worst > 1e-9 && worst <= 0.2, "{worst}");
    let outputs = table["outputs"].as_array().unwrap();
    assert_eq!(outputs[0]["name"], "logits");
    for key in ["snr_db", "cosine", "max_error", "relative_l2"] {
        assert!(outputs[0][key].is_f64(), "{key}: {}", outputs[0]);
    }
    assert!(!table["nodes"].as_array().unwrap().is_empty(), "some values of the model keep their names");
}

#[test]
fn compare_tells_what_overflows_f16_and_the_pin_that_it_names_mends_it() {
    let folder = Folder::new("overflow");
    let (onnx, program, inputs) = (folder.file("m.onnx"), folder.file("m.nyx"), folder.file("in.npz"));
    // 400 * 400 is beyond f16's range, its square root within it. Names are what they like.
    let square = [
        pb::node("Mul", &["x", "x"], &["y"], &[pb::blob(3, "op:it's [a] square=*")]),
        pb::node("MatMul", &["y", "w"], &["p"], &[]),
    ]
    .concat();
    let identity: Vec<f32> = (0..16).map(|i| if i % 5 == 0 { 0.001 } else { 0.0 }).collect();
    let rest = [pb::input("x", &[1, 4]), pb::f32s("w", &[4, 4], &identity), pb::output("p")].concat();
    std::fs::write(&onnx, pb::model([square, rest].concat())).unwrap();
    write_npz(&inputs, &[("x", &[1, 4], vec![1.0, -400.0, 255.9, 2.0])]);
    let compare = |more: &[&str]| nyxc(&[&["compare", &onnx, &program, "--inputs", &inputs], more].concat());

    nyxc(&["compile", &onnx, "--target", "lavapipe", "--policy", "uniform:f16", "-o", &program]).exits(0);
    let report = compare(&["--json"]).exits(1).json();
    let [shown] = report["overflows"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert_eq!((&shown["value"], &shown["node"]), (&Value::from("y"), &Value::from("op:it's [a] square=*")));
    assert_eq!((shown["largest"].as_f64(), shown["limit"].as_f64()), (Some(160_000.0), Some(65504.0)));
    assert_eq!((shown["beyond"].as_u64(), shown["of"].as_u64()), (Some(1), Some(4)));
    let text = compare(&[]).exits(1).out;
    assert!(text.contains("overflows f16") && text.contains("1.6e5") && text.contains("it'\\''s"), "{text}");

    let pin = shown["precision"].as_str().unwrap();
    nyxc(&["compile", &onnx, "--target", "lavapipe", "--policy", "uniform:f16", "--precision", pin, "-o", &program])
        .exits(0);
    let report = compare(&["--json", "--bound", "1e-2"]).exits(0).json();
    assert_eq!(report["overflows"], serde_json::json!([]), "{report:#}");
    // Within the range nothing is reported.
    write_npz(&inputs, &[("x", &[1, 4], vec![1.0, -255.9, 255.9, 2.0])]);
    nyxc(&["compile", &onnx, "--target", "lavapipe", "--policy", "uniform:f16", "-o", &program]).exits(0);
    compare(&["--bound", "1e-2"]).exits(0);
}

#[test]
fn a_mask_that_only_feeds_a_softmax_is_no_overflow() {
    let folder = Folder::new("masks");
    let (onnx, program, inputs) = (folder.file("m.onnx"), folder.file("m.nyx"), folder.file("in.npz"));
    write_npz(&inputs, &[("x", &[2, 4], vec![0.5, 3.0, -1.0, 2.0, 1.0, 0.0, 4.0, -2.0])]);
    let compare = |mask: &[u8], end: &str| {
        let rest =
            [pb::input("x", &[2, 4]), pb::f32s("one", &[], &[1.0]), pb::f32s("big", &[], &[-1e9]), pb::output("y")];
        let nodes =
            [pb::node("Softmax", &["s"], &["p"], &[pb::attr_int("axis", 1)]), pb::node(end, &["p"], &["y"], &[])];
        std::fs::write(&onnx, pb::model([mask, &nodes.concat(), &rest.concat()].concat())).unwrap();
        // The pins outweigh the rule that keeps masks wider.
        nyxc(&[
            "compile",
            &onnx,
            "--target",
            "lavapipe",
            "--policy",
            "uniform:f16",
            "--precision",
            "*=f16",
            "-o",
            &program,
        ])
        .exits(0);
        nyxc(&["compare", &onnx, &program, "--inputs", &inputs, "--json", "--bound", "1e-2"])
    };
    let mask = |last: [&str; 2]| {
        [
            pb::node("Sub", &["one", "x"], &["im"], &[]),
            pb::node("Mul", &["im", "big"], &["mm"], &[]),
            pb::node("Add", &last, &["s"], &[]),
        ]
        .concat()
    };
    // Where the mask is positive too, it is one number among others.
    let report = compare(&mask(["x", "mm"]), "Neg").exits(1).json();
    let values: Vec<_> = report["overflows"].as_array().unwrap().iter().map(|shown| shown["value"].clone()).collect();
    assert_eq!(values, ["s"], "{report:#}");
    let relu = [pb::node("Relu", &["x"], &["r"], &[]), pb::node("Mul", &["r", "big"], &["mm"], &[])].concat();
    let sum = pb::node("Add", &["x", "mm"], &["s"], &[]);
    let report = compare(&[relu, sum].concat(), "Neg").json();
    assert_eq!(report["overflows"], serde_json::json!([]), "{report:#}");
}
