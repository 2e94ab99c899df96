//! `--dump-ir` and `pass`: graphs between passes.

use super::*;

#[test]
fn dumps_begin_with_the_imported_graph_and_mark_passes_that_changed_nothing() {
    let folder = Folder::new("dump");
    let dir = folder.file("ir");
    // A budget that takes several rounds or plans leaves the dumps of one.
    nyxc(&["compile", &mlp(), "--target", "lavapipe", "--dry-run", "--budget", "min", "--dump-ir", &dir]).exits(0);
    let mut names: Vec<_> =
        std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names.len(), nyxc::passes::DEFAULT.len() + 1, "{names:?}");
    let text = |name: &str| std::fs::read_to_string(Path::new(&dir).join(name)).unwrap();
    assert_eq!(text("00_import.nyxir"), nyxc(&["print", &mlp()]).exits(0).out);
    for (i, pass) in nyxc::passes::DEFAULT.iter().enumerate() {
        let (before, after) = (&names[i], &names[i + 1]);
        let is_same = text(before) == text(after);
        let mark = if is_same { ".unchanged" } else { "" };
        assert_eq!(*after, format!("{:02}_{pass}{mark}.nyxir", i + 1));
        nyxc(&["verify", Path::new(&dir).join(after).to_str().unwrap()]).exits(0);
    }
    let is_marked = |pass: &str| names.iter().any(|n| n.ends_with(&format!("_{pass}.unchanged.nyxir")));
    assert!(is_marked("remove_dead_code") && !is_marked("assign_precision"), "{names:?}");
}

#[test]
fn pass_takes_pins_formats_constants_and_budgets() {
    let assign = |more: &[&str]| {
        let mut args = vec!["pass", "assign_precision"];
        args.extend(more);
        nyxc(&args)
    };
    let mlp = mlp();
    let gemms = |text: &str| {
        text.lines()
            .filter(|l| l.contains("gemm("))
            .map(|l| l.split('@').nth(1).unwrap().split(' ').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let pinned =
        assign(&[&mlp, "--policy", "uniform:f16", "--precision", "g*=w8a16", "--precision", "g0=f32"]).exits(0).out;
    assert_eq!(gemms(&pinned), ["f32", "w8a16", "f16"]);
    let permitted = assign(&[&mlp, "--budget", "min", "--formats", "f32,w8a16"]).exits(0).out;
    assert_eq!(gemms(&permitted), ["w8a16", "w8a16", "w8a16"]);
    let over = assign(&[&mlp, "--budget", "30K"]).exits(4);
    assert!(over.err.contains("give --budget"), "{}", over.err);
    assign(&[&mlp, "--precision", "nothing*=f16"]).exits(2);

    let folder = Folder::new("pass-constants");
    let (path, constants) = (folder.file("m.onnx"), folder.file("c.npz"));
    let nodes = [pb::node("Mul", &["s", "s"], &["t"], &[]), pb::node("Add", &["x", "t"], &["y"], &[])].concat();
    let io = [pb::input("x", &[2]), pb::input("s", &[]), pb::output("y")].concat();
    std::fs::write(&path, pb::model([nodes, io].concat())).unwrap();
    write_npz(&constants, &[("s", &[], vec![3.0])]);
    let folded = nyxc(&["pass", "fold_constants", &path, "--constants", &constants]).exits(0).out;
    assert!(!folded.contains("mul(") && folded.contains("9"), "{folded}");
}
