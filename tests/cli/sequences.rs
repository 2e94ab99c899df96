//! Models whose inputs and outputs are sequences and optionals.

use super::*;

/// A type as a field of what holds it: `f32[n1,2]`, in as many sequences and optionals as `wraps` has field numbers (4
/// and 9), the outermost last.
fn held(wraps: &[u64]) -> Vec<u8> {
    let dims = [pb::blob(1, pb::blob(2, "n1")), pb::blob(1, pb::int(1, 2))].concat();
    let tensor = pb::blob(1, [pb::int(1, 1), pb::blob(2, dims)].concat());
    wraps.iter().fold(tensor, |inner, wrap| pb::blob(*wrap, pb::blob(1, inner)))
}

fn value(field: u64, name: &str, wraps: &[u64]) -> Vec<u8> {
    pb::blob(field, [pb::blob(1, name), pb::blob(2, held(wraps))].concat())
}

/// `t` is the sequence `s` with `x` before its last element; `y` is `x` where the optional `o` has a value, else `-x`.
fn written(folder: &Folder) -> String {
    let then = [pb::node("Identity", &["x"], &["a"], &[]), pb::output("a")].concat();
    let or = [pb::node("Neg", &["x"], &["b"], &[]), pb::output("b")].concat();
    let branches = [pb::attr_graph("then_branch", &then), pb::attr_graph("else_branch", &or)];
    let path = folder.file("m.onnx");
    let graph = [
        pb::node("SequenceInsert", &["s", "x", "last"], &["t"], &[]),
        pb::node("OptionalHasElement", &["o"], &["c"], &[]),
        pb::node("If", &["c"], &["y"], &branches),
        pb::i64s("last", &[], &[-1]),
        value(11, "s", &[4]),
        value(11, "o", &[9]),
        pb::input("x", &[1, 2]),
        value(12, "t", &[4]),
        pb::output("y"),
    ];
    std::fs::write(&path, pb::model(graph.concat())).unwrap();
    path
}

#[test]
fn what_sequences_and_optionals_hold_is_said_while_compiling_and_given_by_element() {
    let folder = Folder::new("sequences");
    let (model, program, npz, results) =
        (written(&folder), folder.file("m.nyx"), folder.file("in.npz"), folder.file("out.npz"));
    // Refused with all that must be said, and inspect says it too.
    let shown = nyxc(&["compile", &model]).exits(3).err;
    let asks = ["--holds 's=[f32[N,2],...]'", "--holds 'o=f32[N,2]' or --holds o=none"];
    for ask in asks {
        assert!(shown.contains(ask), "{shown}");
    }
    let inspected = nyxc(&["inspect", &model]).exits(0).out;
    for (name, ty, ask) in [("s", "sequence(f32[n1,2])", asks[0]), ("o", "optional(f32[n1,2])", asks[1])] {
        assert!(inspected.contains(&format!("{name} : {ty}, which must be given: {ask}")), "{inspected}");
    }
    let document = nyxc(&["inspect", &model, "--json"]).exits(0).json();
    assert_eq!(document["inputs"][0]["holds"], asks[0]);
    assert_eq!(document["import_error"]["kind"], "model");
    // Said: the program takes elements, some of a size that each run chooses.
    let holds = ["--holds", "s=[f32[3,2],f32[n,2]]", "--holds", "o=none", "--dim", "n=1..4"];
    let with = |first: &[&str], more: &[&str]| nyxc(&[first, &holds[..], more].concat());
    let inspected = with(&["inspect", &model], &[]).exits(0).out;
    for line in [
        "s : sequence(f32[n1,2]), compiled as s.0 : f32[3,2], s.1 : f32[n,2]\n",
        "o : optional(f32[n1,2]), compiled as nothing\n",
        "t : sequence(f32[n1,2]), compiled as t.0 : f32[3,2], t.1 : f32[1,2], t.2 : f32[n,2]\n",
    ] {
        assert!(inspected.contains(line), "{inspected}");
    }
    with(&["compile", &model, "--target", "lavapipe", "-o", &program], &[]).exits(0);
    let inputs = [("s.0", &[3, 2][..], random(6, 1)), ("s.1", &[2, 2], random(4, 2)), ("x", &[1, 2], random(2, 3))];
    write_npz(&npz, &inputs);
    nyxc(&["run", &program, "--inputs", &npz, "--outputs", &results, "--device", "cpu"]).exits(0);
    for (name, expected) in [("t.0", &inputs[0].2), ("t.1", &inputs[2].2), ("t.2", &inputs[1].2)] {
        assert_eq!(read_npz(&results, name), *expected, "{name}");
    }
    assert_eq!(read_npz(&results, "y"), inputs[2].2.iter().map(|v| -v).collect::<Vec<_>>());
    let compared =
        nyxc(&[&["compare", &model, &program, "--inputs", &npz, "--json"], &holds[..4]].concat()).exits(0).json();
    assert!(!compared.to_string().is_empty());
    // An optional that has a value is an input of its own name, and an element may become a constant.
    let constant = folder.file("constant.npz");
    write_npz(&constant, &[("s.0", &[1, 2], vec![5.0, 6.0])]);
    let args = ["--holds", "s=[f32[1,2]]", "--holds", "o=f32[1,2]", "--constants", &constant, "-o", &program];
    nyxc(&[&["compile", &model, "--target", "lavapipe"], &args[..]].concat()).exits(0);
    write_npz(&npz, &[("o", &[1, 2], random(2, 4)), ("x", &[1, 2], random(2, 3))]);
    nyxc(&["run", &program, "--inputs", &npz, "--outputs", &results, "--device", "cpu"]).exits(0);
    assert_eq!((read_npz(&results, "t.1"), read_npz(&results, "y")), (vec![5.0, 6.0], random(2, 3)));
}

#[test]
fn what_an_input_cannot_hold_is_an_error_of_the_command() {
    let folder = Folder::new("sequences-bad");
    let model = written(&folder);
    for (holds, says) in [
        ("s=[f32[3,3]]", "input \"s\" holds: [f32[3,3]] is given, and it is sequence(f32[n1,2])"),
        ("s=f32[3,2]", "f32[3,2] is given, and it is sequence(f32[n1,2])"),
        ("o=[]", "[] is given, and it is optional(f32[n1,2])"),
        ("x=none", "is a tensor"),
        ("S=none", "did you mean \"s\""),
        ("s=[f32[3,2]", "is no type"),
        ("s", "is no NAME=TYPE"),
    ] {
        let json = nyxc(&["compile", &model, "--holds", holds, "--json"]).exits(2).json();
        assert_eq!(json["error"]["kind"], "usage");
        assert!(json["error"]["message"].as_str().unwrap().contains(says), "{holds}: {json}");
    }
    let twice = ["compile", &model, "--holds", "o=none", "--holds", "o=none"];
    assert!(nyxc(&twice).exits(2).err.contains("--holds gives \"o\" twice"));
    // What is said of a model is used, or refused.
    let text = folder.file("m.nyxir");
    std::fs::write(&text, nyxc(&["print", &mlp(), "--dim", "batch=1"]).exits(0).out).unwrap();
    for args in [&["--dim", "batch=2"][..], &["--holds", "o=none"], &["--initializers", "inputs"]] {
        let shown = nyxc(&[&["inspect", &text], args].concat()).exits(2).err;
        assert!(shown.contains(args[0]), "{shown}");
    }
    nyxc(&["diff", &mlp(), &text, "--dim", "batch=1"]).exits(0);
    nyxc(&["diff", &text, &text, "--dim", "batch=1"]).exits(2);
}
