//! How arguments are refused, where results go, and how much is said.

use super::*;

#[test]
fn every_failure_is_json_where_json_is_asked_for() {
    let folder = Folder::new("json");
    let mlp = mlp();
    let out = folder.file("mlp.nyx");
    for (args, code, kind) in [
        (&["compile", "--json"][..], 2, "usage"),
        (&["compile", &mlp, "--json", "--no-such-option"], 2, "usage"),
        (&["compile", "--json", &mlp, "--budget", "7X"], 2, "usage"),
        (&["compile", &mlp, "--policy", "generous", "--json"], 2, "usage"),
        (&["compile", &mlp, "--target", "no-such-target", "--json"], 2, "usage"),
        (&["compile", &mlp, "--dim", "nosuch=2", "--json"], 2, "usage"),
        (&["run", "--json"], 2, "usage"),
        (&["run", &out, "--device", "gpu", "--json"], 2, "usage"),
        (&["bench", &out, "--runs", "0", "--json"], 2, "usage"),
        (&["no-such-command", "--json"], 2, "usage"),
        (&["targets", "--json", "more"], 2, "usage"),
        (&["compile", &mlp, "--budget", "20K", "-o", &out, "--json"], 4, "over_budget"),
        (&["inspect", &out, "--json"], 6, "io"),
        (&["verify", &out, "--json"], 6, "io"),
        (&["bench", &out, "--json"], 6, "io"),
        (&["diff", &out, &out, "--json"], 6, "io"),
    ] {
        let done = nyxc(args).exits(code);
        let error = &done.json()["error"];
        assert_eq!(error["kind"], kind, "{args:?}: {error}");
        for key in ["node", "needed_bytes", "budget_bytes", "min_feasible_bytes", "free_bytes"] {
            assert!(error.get(key).is_some(), "{args:?}: no {key}");
        }
        assert!(!error["message"].as_str().unwrap().is_empty() && !done.err.is_empty(), "{args:?}");
    }
    // Without it there is nothing on standard output, and help is no failure.
    assert_eq!(nyxc(&["compile", "--no-such-option"]).exits(2).out, "");
    assert!(nyxc(&["compile", "--json", "--help"]).exits(0).out.contains("Examples:"));
    assert!(nyxc(&["--version"]).exits(0).out.starts_with("nyxc "));
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn every_command_has_help_with_an_example() {
    let help = nyxc(&["--help"]).exits(0).out;
    let commands = help.split("Commands:").nth(1).unwrap().split("Options:").next().unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter_map(|l| l.strip_prefix("  ")?.split(' ').next())
        .filter(|n| !n.is_empty() && *n != "help")
        .collect();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let help = nyxc(&[name, "--help"]).exits(0).out;
        assert!(help.contains("Example") && help.contains(&format!("nyxc {name}")), "{name}: {help}");
        // Paragraphs fill their lines: those that are broken in the source are broken again by a narrower terminal.
        let prose: Vec<&str> = help.lines().skip_while(|line| !line.starts_with("Options:")).skip(1).collect();
        for pair in prose.windows(2).filter(|pair| pair.iter().all(|line| line.starts_with(|c: char| c != ' '))) {
            let next = pair[1].split(' ').next().unwrap();
            let is_head = pair[0].ends_with(':');
            assert!(is_head || pair[0].len() + 1 + next.len() > 100, "{name}: {pair:?}");
        }
    }
}

#[test]
fn a_program_goes_to_standard_output_alone() {
    let folder = Folder::new("stdout");
    let program = folder.file("mlp.nyx");
    nyxc(&["compile", &mlp(), "--target", "lavapipe", "-o", &program]).exits(0);
    let piped = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_nyxc"));
        command.args(["compile", &mlp(), "--target", "lavapipe", "-o", "-"]).args(more);
        command.env("NYXC_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders")).output().unwrap()
    };
    let done = piped(&[]);
    assert!(done.status.success() && done.stdout == std::fs::read(&program).unwrap());
    assert!(String::from_utf8_lossy(&done.stderr).contains("formats"), "the summary goes to standard error");
    let done = piped(&["-q"]);
    assert!(done.stdout == std::fs::read(&program).unwrap() && done.stderr.is_empty(), "{:?}", done.stderr);
    assert_eq!(piped(&["--json"]).status.code(), Some(2));
    let done = piped(&["--dry-run", "--json"]);
    assert!(done.status.success() && serde_json::from_slice::<Value>(&done.stdout).is_ok());
    for name in ["m.onnx", "m.ONNX", "m.npz", "m.json", "m.nyxir"] {
        let refused = nyxc(&["compile", &mlp(), "-o", &folder.file(name)]).exits(2);
        assert!(refused.err.contains("m.nyx"), "{}", refused.err);
    }
    assert_eq!(folder.names(), ["mlp.nyx"]);
}

#[test]
fn quiet_says_nothing_and_verbose_says_more() {
    let folder = Folder::new("say");
    let (program, inputs, out) = (folder.file("mlp.nyx"), image(&folder, 1), folder.file("o.npz"));
    let compile = |more: &str| nyxc(&["compile", &mlp(), "--target", "lavapipe", "-o", &program, more]).exits(0);
    let done = compile("-q");
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""));
    let done = compile("--verbose");
    assert!(done.err.contains("assign_precision: ") && done.err.contains("changed nothing"), "{}", done.err);
    assert!(nyxc(&["-v", "compile", &mlp(), "--target", "lavapipe", "--dry-run"]).exits(0).err.contains("fuse: "));
    let run =
        |more: &str| nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &out, "--device", "cpu", more]).exits(0);
    let done = run("--quiet");
    assert_eq!((done.out.as_str(), done.err.as_str()), ("", ""));
    assert!(run("-v").err.contains("running on cpu"));
    nyxc(&["-q", "-v", "targets"]).exits(2);
    assert!(nyxc(&["-q", "targets"]).exits(0).out.contains("rx580"), "what was asked for is shown");
}

#[test]
fn targets_are_told_whole() {
    let shown = nyxc(&["targets", "--json"]).exits(0).json();
    let targets = shown["targets"].as_array().unwrap();
    assert_eq!(targets.len(), nyxc::targets::shipped_names().len());
    // Each is a profile that --target takes.
    let folder = Folder::new("targets");
    for target in targets {
        let file = folder.file("t.json");
        std::fs::write(&file, target.to_string()).unwrap();
        let name = target["name"].as_str().unwrap();
        let (own, shipped) = (plan(&[&mlp(), "--target", &file]), plan(&[&mlp(), "--target", name]));
        assert_eq!(own["planned_peak_bytes"], shipped["planned_peak_bytes"], "{name}");
    }
}

#[test]
fn a_size_that_the_model_declares_as_0_is_0_and_may_be_changed() {
    let folder = Folder::new("zero");
    let (model, program) = (folder.file("m.onnx"), folder.file("m.nyx"));
    let nodes =
        [pb::node("Relu", &["x"], &["r"], &[]), pb::node("ReduceSum", &["r"], &["y"], &[pb::attr_int("keepdims", 0)])]
            .concat();
    std::fs::write(&model, pb::model([nodes, pb::input("x", &[0, 3]), pb::output("r"), pb::output("y")].concat()))
        .unwrap();
    let compiled = nyxc(&["compile", &model, "--target", "lavapipe", "-o", &program]).exits(0);
    assert!(compiled.err.contains("x.0 is 0 in the model"), "{}", compiled.err);
    let (inputs, outputs) = (folder.file("in.npz"), folder.file("out.npz"));
    let run = |rows: usize, device: &str| {
        write_npz(&inputs, &[("x", &[rows, 3], vec![1.5; rows * 3])]);
        nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &outputs, "--device", device])
    };
    for device in ["cpu", "vulkan,cpu"] {
        run(0, device).exits(0);
        assert_eq!((read_npz(&outputs, "r"), read_npz(&outputs, "y")), (vec![], vec![0.0]), "{device}");
        run(1, device).exits(3);
    }
    let compiled = nyxc(&["compile", &model, "--target", "lavapipe", "--dim", "x.0=2", "-o", &program]).exits(0);
    assert_eq!(compiled.err, "");
    run(2, "cpu").exits(0);
    assert_eq!(read_npz(&outputs, "y"), [9.0]);
    nyxc(&["compile", &model, "--target", "lavapipe", "--dim", "x.0=0..2", "-o", &program]).exits(0);
    for rows in [0, 2] {
        run(rows, "vulkan,cpu").exits(0);
        assert_eq!(read_npz(&outputs, "y"), [4.5 * rows as f32]);
    }
    nyxc(&["compile", &model, "--dim", "x.1=4", "-o", &program]).exits(2);
}

#[test]
fn usage_errors_exit_with_2() {
    let folder = Folder::new("usage");
    let out = folder.file("mlp.nyx");
    for args in [
        &["--no-such-option"][..],
        &["--budget", "7X"],
        &["--budget", "-1"],
        &["--block-size", "33"],
        &["--policy", "uniform:w7a16"],
        &["--policy", "generous"],
        &["--formats", "f32,f99"],
        &["--target", "no-such-target"],
        &["--dim", "nosuch=2"],
        &["--dim", "image.1=3"],
        &["--dim", "batch"],
        &["--dim", "batch=-1"],
        &["--precision", "g0"],
        &["--precision", "g0=f99"],
        &["--precision", "no_such_node*=f16"],
        &["--precision", "op:NoSuchOp=f16"],
        &["--print-ir-after", "no_such_pass"],
    ] {
        let model = mlp();
        let mut all = vec!["compile", &model, "-o", &out];
        all.extend(args);
        nyxc(&all).exits(2);
    }
    nyxc(&[]).exits(2);
    nyxc(&["no-such-command"]).exits(2);
    nyxc(&["pass", "no_such_pass", &mlp()]).exits(2);
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn a_slip_is_named_for_what_it_is() {
    let folder = Folder::new("slips");
    let (mlp, magika) = (mlp(), model("magika.onnx"));
    let (program, npz) = (folder.file("m.nyx"), folder.file("in.npz"));
    nyxc(&["compile", &mlp, "--dim", "batch=1", "--target", "lavapipe", "-o", &program, "-q"]).exits(0);
    write_npz(&npz, &[("image", &[1, 1, 28, 28], random(784, 1))]);
    let (text, other) = (folder.file("out.txt"), folder.file("picture=x.npy"));
    for (args, code, says) in [
        (&["compile", &program][..], 2, "is a program, compiled already: give the model"),
        (&["compile", &mlp, "--dim", "batch=2", "--dim", "batch=3"], 2, "\"batch\" is given twice, as 2 and as 3"),
        (&["compile", env!("CARGO_MANIFEST_DIR"), "-o", &text], 6, "is a directory"),
        (&["run", &program, "--inputs", &npz, "--outputs", &text], 2, "out.txt: outputs go to a .npz or .npy file"),
        (&["run", &program, "--inputs", &other], 2, "NAME an input of the program: image"),
        (&["compare", &magika, &program, "--inputs", &npz], 2, "it is the program of another model"),
        (&["pass", "fuse", &mlp], 2, "fuse takes a graph of level core, and this one is of level onnx"),
        (&["compile", &mlp, "-j", "100000"], 2, "100000 is not in 0..=1024"),
    ] {
        let shown = nyxc(args).exits(code).err;
        assert!(shown.contains(says), "{args:?}: {shown}");
    }
}
