//! Modules of several entries over states, as text and as programs.

use super::*;

const MODULE: &str = "module counts
entry step
graph counts onnx
  %by = input : f32[2]
  %sum = state [0.0,0.0] : f32[2]
  %more = add(%sum, %by) : f32[2]
  %sum.1 = state_store(%sum, %more) : f32[2]
  output %sum.1 as \"sum\"
  state %sum = %sum.1
entry read
graph counts onnx
  %sum = state [0.0,0.0] : f32[2]
  output %sum
";

#[test]
fn a_module_compiles_from_its_text_and_every_command_shows_entries_and_states() {
    let folder = Folder::new("entries");
    let (text, program) = (folder.file("m.nyxir"), folder.file("m.nyx"));
    std::fs::write(&text, MODULE).unwrap();
    nyxc(&["verify", &text]).exits(0);
    let report = nyxc(&["compile", &text, "--target", "lavapipe", "-o", &program, "--json"]).exits(0).json();
    assert!(report["ledger"]["state"].as_u64().unwrap() >= 8, "{report}");
    nyxc(&["verify", &program]).exits(0);
    for (file, ty) in [(&text, "f32[2]"), (&program, "f32[2]")] {
        let shown = nyxc(&["inspect", file, "--json"]).exits(0).json();
        assert_eq!(shown["entries"], serde_json::json!(["step", "read"]), "{file}");
        assert_eq!(shown["states"][0]["name"], "sum", "{file}");
        assert_eq!(shown["states"][0]["type"], ty, "{file}");
        let people = nyxc(&["inspect", file]).exits(0).out;
        assert!(people.contains("entries    step, read") && people.contains("state      sum : f32[2]"), "{people}");
    }
    // What is printed of a program reads back, entries and all.
    let (kernels, other) = (folder.file("kernels.nyxir"), folder.file("other.nyxir"));
    let printed = nyxc(&["print", &program]).exits(0).out;
    assert!(printed.starts_with("module counts\nentry step\ngraph counts kernel\n"), "{printed}");
    std::fs::write(&kernels, &printed).unwrap();
    assert_eq!(nyxc(&["print", &kernels]).exits(0).out, printed);
    nyxc(&["diff", &program, &program]).exits(0);
    // A state that begins otherwise, and an entry behind the first that gives something else.
    std::fs::write(&other, MODULE.replace("[0.0,0.0]", "[0.0,1.0]")).unwrap();
    let shown = nyxc(&["diff", &text, &other]).exits(1).out;
    assert!(shown.contains("state sum") && shown.contains("entry read"), "{shown}");
    std::fs::write(&other, MODULE.replace("  output %sum\n", "  output %sum as \"total\"\n")).unwrap();
    let shown = nyxc(&["diff", &text, &other]).exits(1).out;
    assert!(shown.contains("total"), "{shown}");
    // A run calls the first entry.
    let (inputs, outputs) = (folder.file("in.npz"), folder.file("out.npz"));
    write_npz(&inputs, &[("by", &[2], vec![1.5, -2.0])]);
    nyxc(&["run", &program, "--device", "cpu", "--inputs", &inputs, "--outputs", &outputs]).exits(0);
    assert_eq!(read_npz(&outputs, "sum"), [1.5, -2.0]);
}

#[test]
fn what_takes_one_graph_refuses_several() {
    let folder = Folder::new("several");
    let (text, kernel) = (folder.file("m.nyxir"), folder.file("k.nyxir"));
    std::fs::write(&text, MODULE).unwrap();
    assert!(nyxc(&["pass", "fuse", &text]).exits(3).err.contains("several entries (step, read)"));
    assert!(nyxc(&["compile", &text, "--budget", "min", "--dry-run"]).exits(2).err.contains("several entries"));
    std::fs::write(&kernel, MODULE.replace(" onnx\n", " core\n").replace("add(%sum, %by)", "concat(%by) {axis=0}"))
        .unwrap();
    assert!(nyxc(&["compile", &kernel, "--dry-run"]).exits(2).err.contains("level onnx is compiled"));
    assert!(nyxc(&["compile", &text, "--dim", "n=3", "--dry-run"]).exits(2).err.contains("--dim"));
    std::fs::write(
        &text,
        MODULE.replace(
            "entry read\ngraph counts onnx\n  %sum = state [0.0,0.0]",
            "entry read\ngraph counts onnx\n  %sum = state [0.0,9.0]",
        ),
    )
    .unwrap();
    assert!(nyxc(&["compile", &text, "--dry-run"]).exits(3).err.contains("another type or initial value"));
}
