//! Sizes, values and arrays that a command is given are used, or refused with their names.

use super::*;

/// What is given is used or refused: a default by its name, an array that nobody knows with the nearest one, and an
/// index beyond its table with its node.
#[test]
fn arrays_are_used_or_refused_and_indices_are_held_against_their_tables() {
    let folder = Folder::new("given");
    let (onnx, program, inputs, out) =
        (folder.file("m.onnx"), folder.file("m.nyx"), folder.file("in.npz"), folder.file("out.npz"));
    let graph = [
        pb::node("Cast", &["at"], &["indices"], &[pb::attr_int("to", 7)]),
        pb::node("Gather", &["table", "indices"], &["rows"], &[]),
        pb::node("Mul", &["rows", "scale"], &["y"], &[]),
        pb::f32s("table", &[3, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
        pb::f32s("scale", &[1], &[2.0]),
        pb::input("at", &[2]),
        pb::input("scale", &[1]),
        pb::output("y"),
    ];
    std::fs::write(&onnx, pb::model(graph.concat())).unwrap();
    nyxc(&["compile", &onnx, "-o", &program]).exits(0);
    let seen = nyxc(&["inspect", &onnx, "--json"]).exits(0).json();
    assert_eq!((&seen["inputs"][0]["default"], &seen["inputs"][1]["default"]), (&Value::Null, &Value::Bool(true)));
    for device in ["cpu", "0"] {
        let run = |arrays: &[(&str, &[usize], Vec<f32>)]| {
            write_npz(&inputs, arrays);
            nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &out, "--device", device, "--json"])
        };
        run(&[("at", &[2], vec![2.0, -3.0])]).exits(0);
        assert_eq!(read_npz(&out, "y"), [8.0, 10.0, 0.0, 2.0]);
        run(&[("at", &[2], vec![2.0, -3.0]), ("scale", &[1], vec![-1.0])]).exits(0);
        assert_eq!(read_npz(&out, "y"), [-4.0, -5.0, 0.0, -1.0]);
        let done = run(&[("at", &[2], vec![2.0, 0.0]), ("scales", &[1], vec![-1.0])]).exits(3);
        assert!(done.err.contains("no input \"scales\"; did you mean \"scale\"?"), "{}", done.err);
        let done = run(&[("at", &[2], vec![2.0, 3.0])]).exits(3);
        let error = &done.json()["error"];
        assert_eq!((&error["kind"], &error["node"]), (&Value::from("index"), &Value::from("rows")));
        let says = "node \"rows\": index 3 (element 1 of the indices) is out of range: -3 to 2 are allowed";
        assert!(done.err.contains(says), "{}", done.err);
    }
    let nearest = folder.file("unchecked.nyx");
    nyxc(&["compile", &onnx, "--unchecked", "-o", &nearest]).exits(0);
    nyxc(&["run", &nearest, "--inputs", &inputs, "--outputs", &out]).exits(0);
    assert_eq!(read_npz(&out, "y"), [8.0, 10.0, 8.0, 10.0]);
    let constant = folder.file("constant.nyx");
    let done = nyxc(&["compile", &onnx, "--initializers", "constants", "-o", &constant]).exits(0);
    assert!(done.err.contains("constant, though the model has it as an input: \"scale\""), "{}", done.err);
    write_npz(&inputs, &[("at", &[2], vec![2.0, 0.0]), ("scale", &[1], vec![-1.0])]);
    let done = nyxc(&["run", &constant, "--inputs", &inputs, "--outputs", &out]).exits(3);
    assert!(done.err.contains("input \"scale\" is a constant of this program"), "{}", done.err);
    let done = nyxc(&["compile", &onnx, "--constants", &inputs, "-o", &constant]).exits(0);
    assert!(done.err.contains("--constants gave it a value"), "{}", done.err);
}

#[test]
fn dimensions_are_given_by_name_or_by_input_and_axis() {
    let folder = Folder::new("dims");
    let (by_name, by_axis) = (folder.file("name.nyx"), folder.file("axis.nyx"));
    nyxc(&["compile", &mlp(), "--dim", "batch=4", "-o", &by_name]).exits(0);
    nyxc(&["compile", &mlp(), "--dim", "image.0=4", "-o", &by_axis]).exits(0);
    assert!(std::fs::read(&by_name).unwrap() == std::fs::read(&by_axis).unwrap());
    assert!(nyxc(&["print", &by_name]).exits(0).out.contains("f32[4,1,28,28]"));
    let (inputs, out) = (image(&folder, 4), folder.file("out.npz"));
    nyxc(&["run", &by_name, "--inputs", &inputs, "--outputs", &out, "--device", "cpu"]).exits(0);
    assert_eq!(read_npz(&out, "logits").len(), 40);
}

#[test]
fn a_program_of_a_range_runs_compares_and_refuses_by_the_sizes_of_its_inputs() {
    let folder = Folder::new("range");
    let program = folder.file("any.nyx");
    nyxc(&[
        "compile",
        &mlp(),
        "--dim",
        "batch=1..6",
        "--policy",
        "uniform:f32",
        "--target",
        "lavapipe",
        "-o",
        &program,
    ])
    .exits(0);
    for batch in [1, 6, 3] {
        let (inputs, outputs) = (image(&folder, batch), folder.file("out.npz"));
        let run = |device: &str| {
            nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &outputs, "--device", device]).exits(0);
            read_npz(&outputs, "logits")
        };
        let (given, expected) = (run("vulkan,cpu"), run("cpu"));
        assert_eq!(given.len(), batch * 10);
        assert!(relative_l2(&given, &expected) <= 1e-5);
        let report = nyxc(&["compare", &mlp(), &program, "--inputs", &inputs, "--json"]).exits(0).json();
        assert!(report["worst_relative_l2"].as_f64().unwrap() <= 1e-6, "{report}");
    }
    let refused =
        nyxc(&["run", &program, "--inputs", &image(&folder, 7), "--outputs", &folder.file("none.npz")]).exits(3);
    assert!(refused.err.contains("f32[7,1,28,28], expected f32[batch,1,28,28] with batch in 1..6"), "{}", refused.err);
    assert!(!folder.names().contains(&"none.npz".to_owned()));
    let open = nyxc(&["compile", &mlp(), "--dim", "batch=n", "-o", &program]).exits(2);
    assert!(open.err.contains("--dim n=1..N"), "{}", open.err);
    assert!(nyxc(&["bench", &program, "--runs", "1"]).exits(0).out.contains("median of 1 runs"));
}

/// An input of integers as a field of a graph.
fn integers(name: &str, n: i64) -> Vec<u8> {
    let shape = pb::blob(1, pb::int(1, n));
    pb::blob(11, [pb::blob(1, name), pb::blob(2, pb::blob(1, [pb::int(1, 7), pb::blob(2, shape)].concat()))].concat())
}

#[test]
fn values_of_inputs_are_given_in_line_and_from_files() {
    let folder = Folder::new("values");
    let (onnx, program, npz) = (folder.file("m.onnx"), folder.file("m.nyx"), folder.file("c.npz"));
    let graph = [
        pb::node("Reshape", &["x", "shape"], &["r"], &[]),
        pb::node("ReduceSum", &["r", "axes"], &["y"], &[pb::attr_int("keepdims", 0)]),
        pb::input("x", &[6]),
        integers("shape", 2),
        integers("axes", 1),
        pb::output("y"),
    ];
    std::fs::write(&onnx, pb::model(graph.concat())).unwrap();
    let compile =
        |more: &[&str]| nyxc(&[&["compile", &onnx, "--target", "lavapipe", "-o", &program][..], more].concat());
    let missing = compile(&[]).exits(3);
    assert!(
        missing.err.contains("--constants axes=VALUE (i64[1]) --constants shape=VALUE (i64[2])"),
        "{}",
        missing.err
    );
    compile(&["--constants", "shape=[2,3]", "--constants", "axes=1"]).exits(0);
    let inputs = folder.file("in.npz");
    write_npz(&inputs, &[("x", &[6], (1..=6).map(|v| v as f32).collect())]);
    nyxc(&["run", &program, "--device", "cpu", "--inputs", &inputs, "--outputs", &folder.file("out.npz")]).exits(0);
    let out = std::fs::File::open(folder.file("out.npz")).unwrap();
    let out = nyxc::session::npz::read(out, &mut |_, _| true).unwrap();
    assert_eq!(out["y"].to_f32s().unwrap().as_ref(), [6.0, 15.0]);
    // Slips in the command.
    let unknown = compile(&["--constants", "shape=[2,3]", "--constants", "axis=1"]).exits(2);
    assert!(unknown.err.contains("did you mean \"axes\"?"), "{}", unknown.err);
    for wrong in ["shape=[2,3,4]", "shape=[2.5,3]", "shape=two", "shape", "shape=[[2,3]]", &npz] {
        let code = if *wrong == npz { 6 } else { 2 };
        compile(&["--constants", wrong, "--constants", "axes=1"]).exits(code);
    }
    compile(&["--constants", "axes=1", "--constants", "axes=0", "--constants", "shape=[2,3]"]).exits(2);
    // A size of a range that nothing relates to another's.
    let graph = [
        pb::node("Concat", &["a", "b"], &["c"], &[pb::attr_int("axis", 0)]),
        pb::node("Add", &["c", "d"], &["y"], &[]),
        pb::input("a", &[-1]),
        pb::input("b", &[-2]),
        pb::input("d", &[-3]),
        pb::output("y"),
    ];
    std::fs::write(&onnx, pb::model(graph.concat())).unwrap();
    let ranges = ["--dim", "n1=0..9", "--dim", "n2=1..6"];
    let unrelated = compile(&[&ranges[..], &["--dim", "n3=1..15"]].concat()).exits(3);
    assert!(unrelated.err.contains("they would fit with --dim n3=n1+n2"), "{}", unrelated.err);
    compile(&[&ranges[..], &["--dim", "n3=n1+n2"]].concat()).exits(0);
}
