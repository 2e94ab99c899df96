//! `nyxc diff` of programs and models.

use super::*;

#[test]
fn diff_exits_with_1_where_programs_differ() {
    let folder = Folder::new("diff");
    let (wide, narrow) = (folder.file("wide.nyx"), folder.file("narrow.nyx"));
    let wide_report = nyxc(&["compile", &mlp(), "--policy", "uniform:f32", "-o", &wide, "--json"]).exits(0).json();
    let narrow_report =
        nyxc(&["compile", &mlp(), "--policy", "uniform:w4a16", "-o", &narrow, "--json"]).exits(0).json();
    let same = nyxc(&["diff", &wide, &wide, "--json"]).exits(0).json();
    assert_eq!((same["nodes"].as_array().unwrap().len(), &same["bytes_delta"]), (0, &Value::from(0)));
    let diff = nyxc(&["diff", &wide, &narrow, "--json"]).exits(1).json();
    let g0 = diff["nodes"].as_array().unwrap().iter().find(|n| n["name"] == "g0").unwrap();
    assert_eq!(
        (&g0["change"], &g0["before"]["format"], &g0["after"]["format"]),
        (&"changed".into(), &"f32".into(), &"w4a16".into())
    );
    let weights = |report: &Value| {
        report["nodes"].as_array().unwrap().iter().map(|n| bytes(&n["weight_bytes"])).sum::<u64>() as i64
    };
    assert_eq!(diff["bytes_delta"].as_i64().unwrap(), weights(&narrow_report) - weights(&wide_report));
    let text = nyxc(&["diff", &wide, &narrow]).exits(1).out;
    assert!(text.contains("g0") && text.contains("f32 -> w4a16"), "{text}");
    nyxc(&["diff", &mlp(), &mlp()]).exits(0);
}

/// A model in which one thing may be another.
fn chain(first: &str, second: &str, axis: i64, weight: f32, output: &str) -> Vec<u8> {
    let nodes = [
        pb::node("MatMul", &["x", "w"], &["m"], &[]),
        pb::node("Softmax", &["m"], &["s"], &[pb::attr_int("axis", axis)]),
        pb::node("Sub", &[first, second], &[output], &[]),
    ];
    let rest = [pb::input("x", &[2, 2]), pb::f32s("w", &[2, 2], &[1.0, 2.0, 3.0, weight]), pb::output(output)];
    pb::model([nodes.concat(), rest.concat()].concat())
}

#[test]
fn diff_sees_what_changed_in_a_model_and_says_it_in_one_line() {
    let folder = Folder::new("diff-models");
    let write = |name: &str, model: Vec<u8>| {
        let path = folder.file(name);
        std::fs::write(&path, model).unwrap();
        path
    };
    let base = write("base.onnx", chain("s", "m", 1, 4.0, "y"));
    let cases = [
        ("swapped", chain("m", "s", 1, 4.0, "y"), "~ y  operands (s, m) -> (m, s)"),
        ("axis", chain("s", "m", 0, 4.0, "y"), "~ s  attribute axis 1 -> 0"),
        (
            "weight",
            chain("s", "m", 1, 4.5, "y"),
            "~ w  1 of 4 elements differ, by at most 5.000e-1, relative L2 9.129e-2",
        ),
        ("output", chain("s", "m", 1, 4.0, "z"), "~ outputs  y -> z"),
    ];
    for (name, model, line) in cases {
        let other = write(&format!("{name}.onnx"), model);
        let text = nyxc(&["diff", &base, &other]).exits(1).out;
        assert!(text.lines().any(|l| l == line), "{name}:\n{text}");
        nyxc(&["diff", &other, &base, "--summary"]).exits(1);
        // The text of a model is the model, as far as it goes without its data.
        let print = folder.file(&format!("{name}.nyxir"));
        std::fs::write(&print, nyxc(&["print", &other]).exits(0).out).unwrap();
        nyxc(&["diff", &other, &print]).exits(0);
        nyxc(&["diff", &base, &print]).exits(1);
    }
    // What no graph has: sizes that import binds, what nothing reads, and arithmetic on shapes.
    let open = |symbol: &str, extra: &[u8], operands: [&str; 2]| {
        let nodes = [
            pb::node("Shape", &["w"], &["s"], &[]),
            pb::node("Mul", &operands, &["t"], &[]),
            pb::node("Reshape", &["x", "t"], &["y"], &[]),
        ];
        let dims = [pb::blob(1, pb::blob(2, symbol)), pb::blob(1, pb::int(1, 4))].concat();
        let x = pb::blob(
            11,
            [pb::blob(1, "x"), pb::blob(2, pb::blob(1, [pb::int(1, 1), pb::blob(2, dims)].concat()))].concat(),
        );
        let rest = [x, pb::f32s("w", &[1, 4], &[0.0; 4]), pb::i64s("one", &[1], &[1]), pb::output("y")];
        pb::model([nodes.concat(), rest.concat(), extra.to_vec()].concat())
    };
    let sized = write("sized.onnx", open("batch", &[], ["s", "one"]));
    for (name, model, line) in [
        ("symbol", open("n", &[], ["s", "one"]), "~ file: input x  f32[batch,4] -> f32[n,4]"),
        ("unread", open("batch", &pb::f32s("u", &[1], &[7.0]), ["s", "one"]), "~ file: initializer u  - -> f32[1]"),
        ("folded", open("batch", &[], ["one", "s"]), "~ file: node t  Mul {} (s, one) -> t -> Mul {} (one, s) -> t"),
    ] {
        let other = write(&format!("{name}.onnx"), model);
        let text = nyxc(&["diff", &sized, &other]).exits(1).out;
        assert!(text.lines().any(|l| l.starts_with(line)), "{name}:\n{text}");
    }
    let same = nyxc(&["diff", &base, &base, "--json", "--summary"]).exits(0).json();
    assert_eq!((&same["equal"], same.get("nodes")), (&Value::from(true), None));
    // A program against the text of its kernels, and against what it cannot be held to.
    let (program, kernels) = (folder.file("base.nyx"), folder.file("kernels.nyxir"));
    nyxc(&["compile", &base, "-o", &program]).exits(0);
    std::fs::write(&kernels, nyxc(&["print", &program]).exits(0).out).unwrap();
    nyxc(&["diff", &program, &kernels]).exits(0);
    let refused = nyxc(&["diff", &base, &program]).exits(2).err;
    assert!(refused.contains("level onnx") && refused.contains("nyxc print"), "{refused}");
}

#[test]
fn programs_of_two_budgets_differ_in_figures_and_causes() {
    let folder = Folder::new("diff-budgets");
    let [wide, narrow] = ["700K", "400K"].map(|budget| {
        let path = folder.file(&format!("{budget}.nyx"));
        nyxc(&["compile", &mlp(), "--budget", budget, "--target", "lavapipe", "-o", &path]).exits(0);
        path
    });
    let text = nyxc(&["diff", &wide, &narrow]).exits(1).out;
    for figure in ["peak", "ledger.weights", "predicted_error", "formats."] {
        assert!(text.lines().any(|l| l.trim_start().starts_with(figure)), "{figure}\n{text}");
    }
    let document = nyxc(&["diff", &wide, &narrow, "--json"]).exits(1).json();
    let peak = &document["summary"]["peak"];
    assert!(bytes(&peak["after"]) < bytes(&peak["before"]));
    let nodes = document["nodes"].as_array().unwrap();
    let causes: Vec<&str> =
        nodes.iter().filter(|n| n.get("follows").is_none()).map(|n| n["name"].as_str().unwrap()).collect();
    // Whatever follows has a cause, and kernels and constants follow from nodes.
    let kernels = document["kernels"].as_array().unwrap();
    assert!(!kernels.is_empty());
    for change in nodes.iter().chain(kernels).filter(|n| n.get("follows").is_some()) {
        assert!(causes.contains(&change["follows"].as_str().unwrap()), "{change}\n{text}");
    }
}
