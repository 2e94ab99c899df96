//! The command line as its users meet it: commands, exit codes, documents and files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "../common/folder.rs"]
mod folder;

#[path = "../common/pb.rs"]
mod pb;

mod bench;
mod budget;
mod dump;
mod inspect;
mod run;
mod usage;

use folder::Folder;
use nyxc::ir::Format;
use serde_json::Value;
use std::io::{Cursor, Read, Write};
use std::path::Path;
use std::process::Command;

fn model(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).to_str().unwrap().to_owned()
}

fn mlp() -> String {
    model("fmnist-mlp.onnx")
}

struct Done {
    code: i32,
    out: String,
    err: String,
    args: String,
}

fn nyxc_with_cache(args: &[&str], cache: &Path) -> Done {
    let output = Command::new(env!("CARGO_BIN_EXE_nyxc")).args(args).env("NYXC_CACHE", cache).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Done {
        code: output.status.code().unwrap_or(-1),
        out: text(output.stdout),
        err: text(output.stderr),
        args: args.join(" "),
    }
}

fn nyxc(args: &[&str]) -> Done {
    nyxc_with_cache(args, &Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders"))
}

impl Done {
    #[track_caller]
    fn exits(self, code: i32) -> Done {
        assert_eq!(self.code, code, "nyxc {}\n{}\n{}", self.args, self.out, self.err);
        if code > 1 {
            assert!(!self.err.trim().is_empty() && !self.err.contains("panicked"), "nyxc {}: {}", self.args, self.err);
        }
        self
    }

    /// Standard output, which must be one document.
    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("nyxc {}: {e}\n{}", self.args, self.out))
    }
}

/// The report of a compilation that must succeed, and writes nothing.
#[track_caller]
fn plan(args: &[&str]) -> Value {
    let mut all = vec!["compile", "--dry-run", "--json"];
    all.extend(args);
    nyxc(&all).exits(0).json()
}

fn bytes(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no byte count"))
}

/// Format of every node with weights, by name.
fn formats(report: &Value) -> Vec<(String, String)> {
    let nodes = report["nodes"].as_array().unwrap().iter().filter(|n| bytes(&n["f32_weight_bytes"]) > 0);
    nodes.map(|n| (n["name"].as_str().unwrap().to_owned(), n["format"].as_str().unwrap().to_owned())).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
}

/// Values between -1 and 1, never all alike: SplitMix64 (Steele et al. 2014).
fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Writes a `.npz` as NumPy's `savez` does: stored `.npy` arrays of version 1.0.
fn write_npz(path: &str, arrays: &[(&str, &[usize], Vec<f32>)]) {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, dims, values) in arrays {
        assert_eq!(values.len(), dims.iter().product::<usize>());
        let dims: String = dims.iter().map(|d| format!("{d}, ")).collect();
        let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}), }}", dims.trim_end());
        while (10 + header.len() + 1) % 64 != 0 {
            header.push(' ');
        }
        header.push('\n');
        zip.start_file(format!("{name}.npy"), options).unwrap();
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        values.iter().for_each(|v| zip.write_all(&v.to_le_bytes()).unwrap());
    }
    std::fs::write(path, zip.finish().unwrap().into_inner()).unwrap();
}

/// The f32 array of this name.
fn read_npz(path: &str, name: &str) -> Vec<f32> {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut bytes = Vec::new();
    zip.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    assert_eq!(start % 64, 0, "NumPy aligns the data");
    assert!(String::from_utf8_lossy(&bytes[10..start]).contains("'<f4'"));
    bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

fn relative_l2(given: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(given.len(), expected.len());
    let sum = |values: &mut dyn Iterator<Item = f32>| values.map(|v| f64::from(v).powi(2)).sum::<f64>();
    (sum(&mut given.iter().zip(expected).map(|(g, e)| g - e)) / sum(&mut expected.iter().copied())).sqrt()
}

fn image(folder: &Folder, batch: usize) -> String {
    let path = folder.file("in.npz");
    write_npz(&path, &[("image", &[batch, 1, 28, 28], random(batch * 784, 3))]);
    path
}

#[test]
fn a_device_and_the_cpu_agree() {
    let folder = Folder::new("agree");
    let (program, inputs) = (folder.file("mlp.nyx"), image(&folder, 1));
    let (here, cpu) = (folder.file("here.npz"), folder.file("cpu.npz"));
    nyxc(&["compile", &mlp(), "-o", &program]).exits(0);
    let here_args = ["run", &program, "--inputs", &inputs, "--outputs", &here, "--device", "vulkan,cpu", "--json"];
    let report = nyxc(&here_args).exits(0).json();
    let on_cpu =
        nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &cpu, "--device", "cpu", "--json"]).exits(0).json();
    assert_eq!(on_cpu["device"], "cpu");
    assert_eq!(on_cpu["fallbacks"].as_array().unwrap().len(), 0);
    for key in
        ["device", "planned_peak_bytes", "measured_peak_bytes", "wall_ms", "device_ms", "host_nodes", "fallbacks"]
    {
        assert!(report.get(key).is_some(), "run --json has no {key}: {report:#}");
    }
    assert!(bytes(&report["measured_peak_bytes"]) <= bytes(&report["planned_peak_bytes"]), "{report:#}");
    if report["device"] == "cpu" {
        eprintln!("SKIPPED: no Vulkan device, so the CPU reference was compared with itself");
        assert_ne!(report["fallbacks"].as_array().unwrap().len(), 0, "what ran elsewhere than asked is named");
    } else {
        assert!(bytes(&report["measured_peak_bytes"]) > 0, "{report:#}");
    }
    let (here, cpu) = (read_npz(&here, "logits"), read_npz(&cpu, "logits"));
    assert_eq!(cpu.len(), 10);
    let error = relative_l2(&here, &cpu);
    assert!(error <= 1e-4, "relative L2 {error:e}: {here:?} for {cpu:?}");
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
        &["--policy", "uniform:w5a16"],
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
fn a_pin_that_matches_nothing_is_named() {
    let done = nyxc(&["compile", &mlp(), "--dry-run", "--precision", "head*=f16", "--json"]).exits(2);
    assert_eq!(done.json()["error"]["kind"], "usage");
    assert!(done.err.contains("head*"), "{}", done.err);
}

#[test]
fn a_truncated_model_exits_with_3() {
    let folder = Folder::new("cut-model");
    let whole = std::fs::read(mlp()).unwrap();
    let (cut, out) = (folder.file("cut.onnx"), folder.file("cut.nyx"));
    for len in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..len]).unwrap();
        let done = nyxc(&["compile", &cut, "-o", &out, "--json"]).exits(3);
        assert!(!done.json()["error"]["message"].as_str().unwrap().is_empty(), "{len} bytes");
        assert_eq!(folder.names(), ["cut.onnx"], "{len} bytes");
    }
}

#[test]
fn a_truncated_or_altered_program_exits_with_3() {
    let folder = Folder::new("cut-program");
    let (program, cut, inputs, out) =
        (folder.file("mlp.nyx"), folder.file("cut.nyx"), image(&folder, 1), folder.file("out.npz"));
    nyxc(&["compile", &mlp(), "--budget", "400K", "-o", &program]).exits(0);
    let whole = std::fs::read(&program).unwrap();
    let cuts = [0, 7, 8, 100, whole.len() / 2, whole.len() - 1].map(|len| whole[..len].to_vec());
    let flips = [3, 40, whole.len() / 4, whole.len() / 2, whole.len() - 1].map(|at| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    });
    for (i, bytes) in cuts.iter().chain(&flips).chain([&b"not a program".to_vec()]).enumerate() {
        std::fs::write(&cut, bytes).unwrap();
        for args in [
            &["run", &cut, "--inputs", &inputs, "--outputs", &out, "--device", "cpu"][..],
            &["verify", &cut],
            &["inspect", &cut],
            &["print", &cut],
        ] {
            let done = nyxc(args);
            assert_eq!(done.code, 3, "damage {i}: nyxc {}: {}", done.args, done.err);
        }
    }
    assert_eq!(folder.names(), ["cut.nyx", "in.npz", "mlp.nyx"]);
}

#[test]
fn inputs_that_do_not_fit_the_program_exit_with_3() {
    let folder = Folder::new("inputs");
    let (program, inputs, out) = (folder.file("mlp.nyx"), folder.file("in.npz"), folder.file("out.npz"));
    nyxc(&["compile", &mlp(), "-o", &program]).exits(0);
    let arrays: [(&str, &[usize], Vec<f32>); 2] =
        [("image", &[2, 1, 28, 28], random(1568, 1)), ("picture", &[1, 1, 28, 28], random(784, 1))];
    for array in arrays {
        write_npz(&inputs, &[array]);
        let done = nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &out]).exits(3);
        assert!(done.err.contains("image"), "{}", done.err);
    }
    std::fs::write(&inputs, b"no zip").unwrap();
    nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &out]).exits(3);
    assert_eq!(folder.names(), ["in.npz", "mlp.nyx"]);
}

/// The smallest feasible budget that the error names is feasible, and one byte less is not.
#[track_caller]
fn smallest_budget_is_exact(args: &[&str]) {
    let with = |budget: u64| {
        let budget = budget.to_string();
        let mut all = vec!["compile", "--dry-run", "--json", "--budget", &budget];
        all.extend(args);
        nyxc(&all)
    };
    let done = with(1000).exits(4);
    let error = &done.json()["error"];
    assert_eq!(error["kind"], "over_budget");
    assert_eq!(bytes(&error["budget_bytes"]), 1000);
    let least = bytes(&error["min_feasible_bytes"]);
    assert!(bytes(&error["needed_bytes"]) >= least && done.err.contains(&least.to_string()), "{error:#}");
    let report = with(least).exits(0).json();
    // A plan of fewer bytes would itself be proof of a smaller budget.
    assert_eq!(bytes(&report["planned_peak_bytes"]), least, "{args:?}");
    assert_eq!(bytes(&report["min_feasible_bytes"]), least, "{args:?}");
    let again = with(least - 1).exits(4).json();
    assert_eq!(bytes(&again["error"]["min_feasible_bytes"]), least, "{args:?}");
}

#[test]
fn over_budget_exits_with_4_and_the_smallest_budget_that_compiles() {
    for target in nyxc::target::shipped_names() {
        smallest_budget_is_exact(&[&mlp(), "--target", target]);
    }
    smallest_budget_is_exact(&[&mlp(), "--target", "lavapipe", "--formats", "f32,w8a16"]);
    smallest_budget_is_exact(&[&mlp(), "--target", "lavapipe", "--policy", "uniform:w4a16"]);
    smallest_budget_is_exact(&[&mlp(), "--target", "lavapipe", "--dim", "batch=64"]);
}

#[test]
fn the_smallest_budget_is_exact_where_a_node_is_pinned() {
    for target in nyxc::target::shipped_names() {
        smallest_budget_is_exact(&[&mlp(), "--target", target, "--precision", "g0=f32"]);
    }
}

#[test]
fn the_smallest_budget_is_exact_for_a_convolutional_classifier() {
    smallest_budget_is_exact(&[&model("ppocr-cls.onnx"), "--target", "lavapipe", "--dim", "x.2=48", "--dim", "x.3=48"]);
}

/// What is given is used or refused: a default by its name, an array that nobody knows with the nearest one, and an index beyond its table with its node.
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
fn over_budget_leaves_no_file() {
    let folder = Folder::new("over");
    nyxc(&["compile", &mlp(), "--budget", "30K", "-o", &folder.file("mlp.nyx")]).exits(4);
    assert!(folder.names().is_empty(), "{:?}", folder.names());
}

#[test]
fn missing_files_and_folders_exit_with_6() {
    let folder = Folder::new("missing");
    let (program, inputs) = (folder.file("mlp.nyx"), image(&folder, 1));
    nyxc(&["compile", &mlp(), "-o", &program]).exits(0);
    let before = folder.names();
    let (absent, nowhere) = (|ext: &str| folder.file(&format!("absent.{ext}")), folder.file("no/such/folder/out"));
    for args in [
        &["compile", &absent("onnx")][..],
        &["compile", &mlp(), "-o", &nowhere],
        &["compile", &mlp(), "--dry-run", "--target", &absent("json")],
        &["run", &absent("nyx"), "--inputs", &inputs, "--outputs", &folder.file("out.npz")],
        &["run", &program, "--inputs", &absent("npz"), "--outputs", &folder.file("out.npz")],
        &["run", &program, "--inputs", &inputs, "--outputs", &nowhere],
        &["print", &absent("nyxir")],
        &["verify", &absent("nyx")],
        &["inspect", &absent("onnx")],
        &["diff", &program, &absent("nyx")],
    ] {
        let done = nyxc(args).exits(6);
        assert!(done.err.contains("absent") || done.err.contains("no/such"), "the file is named: {}", done.err);
    }
    assert_eq!(folder.names(), before);
}

#[test]
fn a_failed_write_leaves_nothing_half_done() {
    let folder = Folder::new("partial");
    // A folder stands where the file should go, so that the last step, the rename, fails.
    std::fs::create_dir(folder.0.join("mlp.nyx")).unwrap();
    nyxc(&["compile", &mlp(), "-o", &folder.file("mlp.nyx")]).exits(6);
    assert_eq!(folder.names(), ["mlp.nyx"]);
}

#[test]
fn outputs_go_through_links_into_pipes_and_never_over_inputs() {
    let folder = Folder::new("places");
    let (program, link) = (folder.file("mlp.nyx"), folder.file("link.nyx"));
    let compile = |output: &str| nyxc(&["compile", &mlp(), "--target", "lavapipe", "-o", output]);
    compile(&program).exits(0);
    let bytes = std::fs::read(&program).unwrap();
    std::fs::write(&program, "something else").unwrap();
    std::os::unix::fs::symlink("mlp.nyx", &link).unwrap();
    compile(&link).exits(0);
    assert!(Path::new(&link).is_symlink() && std::fs::read(&program).unwrap() == bytes);
    std::fs::remove_file(&link).unwrap();
    std::os::unix::fs::symlink("absent", &link).unwrap();
    assert!(compile(&link).exits(6).err.contains("link.nyx"));
    let pipe = folder.file("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn({
        let pipe = pipe.clone();
        move || std::fs::read(pipe).unwrap()
    });
    compile(&pipe).exits(0);
    assert!(reader.join().unwrap() == bytes);
    use std::os::unix::fs::FileTypeExt;
    assert!(std::fs::metadata(&pipe).unwrap().file_type().is_fifo());
    compile("/dev/null").exits(0);
    compile("/dev/full").exits(6);
    assert!(
        ["/dev/null", "/dev/full"].iter().all(|device| std::fs::metadata(device).unwrap().file_type().is_char_device())
    );
    // A copy of the model, whose name the program is to have.
    let copy = folder.file("copy.onnx");
    std::fs::copy(mlp(), &copy).unwrap();
    let refused = nyxc(&["compile", &copy, "-o", &format!("{}/./copy.onnx", folder.0.display())]).exits(2);
    assert!(refused.err.contains("copy.onnx"), "{}", refused.err);
    assert!(std::fs::read(&copy).unwrap() == std::fs::read(mlp()).unwrap());
    let inputs = image(&folder, 1);
    nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &inputs]).exits(2);
    nyxc(&["run", &program, "--inputs", &inputs, "--outputs", &program]).exits(2);
    assert!(std::fs::read(&program).unwrap() == bytes);
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
fn a_node_for_the_host_exits_with_3_where_none_may_run_there() {
    let folder = Folder::new("no-host");
    // No kernel draws random numbers.
    let model = folder.file("drawn.onnx");
    let nodes = [pb::node("RandomNormalLike", &["x"], &["r"], &[]), pb::node("Add", &["x", "r"], &["y"], &[])].concat();
    std::fs::write(&model, pb::model([nodes, pb::input("x", &[2, 3]), pb::output("y")].concat())).unwrap();
    let program = folder.file("drawn.nyx");
    let report = nyxc(&["compile", &model, "-o", &program, "--json"]).exits(0).json();
    assert!(report["nodes"].as_array().unwrap().iter().any(|node| node["where"] == "host"), "{report}");
    let refused = nyxc(&["compile", &model, "-o", &folder.file("none.nyx"), "--no-host"]).exits(3);
    assert!(refused.err.contains("\"r\"") && refused.err.contains("host"), "{}", refused.err);
    assert!(!folder.names().contains(&"none.nyx".to_owned()));
    nyxc(&["compile", &mlp(), "-o", &folder.file("mlp.nyx"), "--no-host"]).exits(0);
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

#[test]
fn the_last_pin_that_matches_wins() {
    let base = [&mlp()[..], "--target", "lavapipe", "--policy", "uniform:f16"];
    let with = |pins: &[&str]| {
        let mut args = base.to_vec();
        pins.iter().for_each(|pin| args.extend(["--precision", pin]));
        formats(&plan(&args))
    };
    assert_eq!(with(&[]), pairs(&[("g0", "f16"), ("g1", "f16"), ("logits", "f16")]));
    assert_eq!(with(&["g*=w8a16"]), pairs(&[("g0", "w8a16"), ("g1", "w8a16"), ("logits", "f16")]));
    assert_eq!(
        with(&["g*=w8a16", "op:Gemm=w4a16", "g0=f32"]),
        pairs(&[("g0", "f32"), ("g1", "w4a16"), ("logits", "w4a16")])
    );
    assert_eq!(
        with(&["g0=f32", "op:Gemm=w4a16", "g*=w8a16"]),
        pairs(&[("g0", "w8a16"), ("g1", "w8a16"), ("logits", "w4a16")])
    );
}

#[test]
fn only_permitted_formats_are_assigned() {
    let report = plan(&[&mlp(), "--target", "lavapipe", "--formats", "f32,w8a16", "--budget", "500K"]);
    let chosen: Vec<String> = formats(&report).into_iter().map(|(_, format)| format).collect();
    assert!(chosen.iter().all(|f| f == "f32" || f == "w8a16") && chosen.iter().any(|f| f == "w8a16"), "{chosen:?}");
    assert!(bytes(&report["planned_peak_bytes"]) <= 500 << 10);
}

#[test]
fn the_tiered_policy_goes_by_memory_and_steps_down_to_what_fits() {
    let tier = |budget: &str, reserve: u64| {
        let reserve = reserve.to_string();
        let report =
            plan(&[&mlp(), "--target", "h200", "--policy", "tiered", "--budget", budget, "--reserve", &reserve]);
        let chosen = formats(&report);
        assert!(chosen.iter().all(|(_, f)| *f == chosen[0].1), "{chosen:?}");
        assert!(
            bytes(&report["planned_peak_bytes"]) + bytes(&report["ledger"]["reserve"])
                <= bytes(&report["budget_bytes"])
        );
        chosen[0].1.clone()
    };
    for (budget, format) in
        [("24GB", "f32"), ("23999999999", "f16"), ("12GB", "f16"), ("8G", "w8a16"), ("4GB", "w8a16"), ("3GB", "w4a16")]
    {
        assert_eq!(tier(budget, 0), format, "{budget}");
    }
    // What is left of the budget makes the tier step down.
    for (left, format) in [(1 << 20, "f32"), (600 << 10, "f16"), (400 << 10, "w8a16"), (200 << 10, "w4a16")] {
        assert_eq!(tier("30G", (30 << 30) - left), format, "{left} bytes left");
    }
    nyxc(&["compile", &mlp(), "--target", "h200", "--policy", "tiered", "--budget", "60K", "--dry-run"]).exits(4);
}

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

#[test]
fn explain_tells_of_any_name_that_a_report_shows() {
    let folder = Folder::new("explain");
    let program = folder.file("mlp.nyx");
    let args = |name: &'static str| {
        ["compile", "MODEL", "--budget", "400K", "--target", "lavapipe", "-o", "OUT", "--explain", name]
    };
    let run = |name: &'static str, more: &[&str]| {
        let model = mlp();
        let mut args = args(name)
            .map(|a| {
                if a == "MODEL" {
                    &model
                } else if a == "OUT" {
                    &program
                } else {
                    a
                }
            })
            .to_vec();
        args.extend(more);
        nyxc(&args)
    };
    let report = run("g0", &["--json"]).exits(0).json();
    let choice = &report["explanation"]["choices"][0];
    let format = report["nodes"].as_array().unwrap().iter().find(|n| n["name"] == "g0").unwrap()["format"].clone();
    assert_eq!(choice["format"], format);
    let candidates = choice["candidates"].as_array().unwrap();
    assert!(candidates.len() >= 9, "{choice}");
    let chosen = candidates.iter().find(|c| c["chosen"] == true).unwrap();
    assert_eq!((&chosen["format"], chosen["price"].is_null()), (&format, true));
    assert_eq!(chosen["program_error"], report["predicted_error"]);
    for c in candidates.iter().filter(|c| c["chosen"] == false) {
        assert!(!c["why_not"].as_str().unwrap().is_empty(), "{c}");
        // Less error is to be had for bytes that there are not; the price is that of the trade.
        let figure = |c: &Value, key: &str| c[key].as_f64().unwrap();
        if figure(c, "error") < figure(chosen, "error") && bytes(&c["peak_bytes"]) > 400 << 10 {
            assert!(c["why_not"].as_str().unwrap().starts_with("the plan would need"), "{c}");
            let spent = figure(c, "weight_bytes") + figure(c, "activation_bytes")
                - figure(chosen, "weight_bytes")
                - figure(chosen, "activation_bytes");
            let saved = figure(chosen, "program_error") - figure(c, "program_error");
            assert!((figure(c, "price") * spent / saved - 1.0).abs() < 1e-6, "{c}");
        }
    }
    let error = report["certificate"]["objective"].as_f64().unwrap().sqrt();
    assert_eq!(report["predicted_error"].as_f64().unwrap(), error);
    let text = run("g0", &[]).exits(0).out;
    assert!(text.contains("relative, predicted") && text.contains("why not") && text.contains("chosen"), "{text}");
    // Values, constants, inputs, and whatever the text of the program shows.
    let printed = nyxc(&["print", &program]).exits(0).out;
    let names =
        printed.lines().filter_map(|l| l.trim_start().strip_prefix('%')?.split([' ', ',']).next().map(str::to_owned));
    let mut names: Vec<String> = names.collect();
    names.extend(report["nodes"].as_array().unwrap().iter().map(|n| n["name"].as_str().unwrap().to_owned()));
    assert!(names.len() > 10);
    for name in names {
        let name = name.trim_matches('"');
        let model = mlp();
        let args = ["compile", &model, "--budget", "400K", "--target", "lavapipe", "--dry-run", "--explain", name];
        let told = nyxc(&args).exits(0).out;
        assert!(told.contains(&format!("{name:?}: ")), "{name}\n{told}");
    }
    std::fs::remove_file(&program).unwrap();
    let unknown = run("g00", &[]).exits(2).err;
    assert!(unknown.contains("did you mean \"g0\""), "{unknown}");
    assert!(!Path::new(&program).exists());
}

#[test]
fn the_ledger_adds_up_to_the_planned_peak() {
    for target in nyxc::target::shipped_names() {
        for options in [
            &["--budget", "400K"][..],
            &["--policy", "uniform:w8a8"],
            &["--policy", "uniform:f16", "--dim", "batch=16"],
            &["--budget", "1M", "--reserve", "512K"],
        ] {
            let model = mlp();
            let mut args = vec![&model[..], "--target", target];
            args.extend(options);
            let report = plan(&args);
            for key in ["target", "policy", "lower_bound_bytes", "min_feasible_bytes", "f32_bytes", "certificate"] {
                assert!(report.get(key).is_some(), "compile --json has no {key}");
            }
            for key in ["objective", "bound", "gap", "solver", "seconds"] {
                assert!(report["certificate"].get(key).is_some(), "the certificate has no {key}");
            }
            let ledger = report["ledger"].as_object().unwrap();
            let kinds: Vec<&str> = ledger.keys().map(String::as_str).collect();
            assert_eq!(
                kinds,
                ["activations", "constants", "io", "reserve", "staging", "state", "weights", "workspace"]
            );
            let sum: u64 = ledger.iter().filter(|(kind, _)| *kind != "reserve").map(|(_, v)| bytes(v)).sum();
            let peak = bytes(&report["planned_peak_bytes"]);
            assert_eq!(sum, peak, "{target} {options:?}: {ledger:?}");
            assert!(peak + bytes(&ledger["reserve"]) <= bytes(&report["budget_bytes"]), "{target} {options:?}");
            assert!(bytes(&report["lower_bound_bytes"]) <= peak, "{target} {options:?}");
        }
    }
}

#[test]
fn what_print_writes_reads_back_without_its_constants() {
    let folder = Folder::new("print");
    let (program, text) = (folder.file("mlp.nyx"), folder.file("a.nyxir"));
    nyxc(&["compile", &mlp(), "--policy", "uniform:w8a8", "-o", &program]).exits(0);
    for file in [mlp(), model("ppocr-cls.onnx"), model("magika.onnx"), program] {
        let printed = nyxc(&["print", &file]).exits(0).out;
        std::fs::write(&text, &printed).unwrap();
        nyxc(&["verify", &text]).exits(0);
        assert!(nyxc(&["print", &text]).exits(0).out == printed, "{file} prints otherwise the second time");
        nyxc(&["verify", &file]).exits(0);
    }
}

#[test]
fn passes_run_alone() {
    let folder = Folder::new("pass");
    let text = folder.file("a.nyxir");
    let printed = nyxc(&["print", &mlp()]).exits(0).out;
    std::fs::write(&text, &printed).unwrap();
    // Nothing is dead, nothing has to be looked up: the same text comes out.
    assert_eq!(nyxc(&["pass", "remove-dead-code", &text]).exits(0).out, printed);
    let lowered = nyxc(&["pass", "decompose,fuse", &text]).exits(0).out;
    assert!(!lowered.contains("gemm(") && lowered.contains("matmul("), "{lowered}");
    assert_eq!(nyxc(&["pass", "decompose,fuse", &mlp()]).exits(0).out, lowered);
    std::fs::write(&text, &lowered).unwrap();
    nyxc(&["verify", &text]).exits(0);
    // Formats are scored on the weights themselves, which the text alone does not have.
    std::fs::write(&text, &printed).unwrap();
    nyxc(&["pass", "assign_precision", &text, "--budget", "400K"]).exits(3);
    let assigned = nyxc(&["pass", "assign_precision", &mlp(), "--budget", "400K"]).exits(0).out;
    assert!(assigned.lines().filter(|l| l.contains("gemm(")).all(|l| l.contains('@')), "{assigned}");
}

#[test]
fn the_same_model_gives_the_same_bytes() {
    let folder = Folder::new("same");
    std::fs::create_dir_all(folder.0.join("elsewhere")).unwrap();
    let copy = folder.file("elsewhere/fmnist-mlp.onnx");
    std::fs::copy(mlp(), &copy).unwrap();
    let cache = folder.0.join("cache");
    let compile = |model: &str, jobs: &str, out: &str, cache: &Path| {
        let out = folder.file(out);
        nyxc_with_cache(&["compile", model, "--budget", "400K", "-j", jobs, "-o", &out], cache).exits(0);
        std::fs::read(out).unwrap()
    };
    let first = compile(&mlp(), "1", "first.nyx", &cache);
    assert!(std::fs::read_dir(&cache).unwrap().count() > 0, "shaders are kept in NYXC_CACHE");
    for (what, bytes) in [
        ("a warm cache", compile(&mlp(), "1", "warm.nyx", &cache)),
        ("two threads", compile(&mlp(), "2", "threads.nyx", &folder.0.join("cold"))),
        ("no cache", compile(&mlp(), "2", "none.nyx", Path::new(""))),
        ("another folder", compile(&copy, "1", "elsewhere/out.nyx", &cache)),
    ] {
        assert!(bytes == first, "{what}: {} bytes for {}", bytes.len(), first.len());
    }
}

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
    let [told] = report["overflows"].as_array().unwrap().as_slice() else { panic!("{report:#}") };
    assert_eq!((&told["value"], &told["node"]), (&Value::from("y"), &Value::from("op:it's [a] square=*")));
    assert_eq!((told["largest"].as_f64(), told["limit"].as_f64()), (Some(160_000.0), Some(65504.0)));
    assert_eq!((told["beyond"].as_u64(), told["of"].as_u64()), (Some(1), Some(4)));
    let text = compare(&[]).exits(1).out;
    assert!(text.contains("overflows f16") && text.contains("1.6e5") && text.contains("it'\\''s"), "{text}");

    let pin = told["precision"].as_str().unwrap();
    nyxc(&["compile", &onnx, "--target", "lavapipe", "--policy", "uniform:f16", "--precision", pin, "-o", &program])
        .exits(0);
    let report = compare(&["--json", "--bound", "1e-2"]).exits(0).json();
    assert_eq!(report["overflows"], serde_json::json!([]), "{report:#}");
    // Within the range nothing is told.
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
    let values: Vec<_> = report["overflows"].as_array().unwrap().iter().map(|told| told["value"].clone()).collect();
    assert_eq!(values, ["s"], "{report:#}");
    let relu = [pb::node("Relu", &["x"], &["r"], &[]), pb::node("Mul", &["r", "big"], &["mm"], &[])].concat();
    let sum = pb::node("Add", &["x", "mm"], &["s"], &[]);
    let report = compare(&[relu, sum].concat(), "Neg").json();
    assert_eq!(report["overflows"], serde_json::json!([]), "{report:#}");
}

#[test]
fn f64_is_computed_in_f64_on_the_host_and_the_rest_on_the_device() {
    let folder = Folder::new("doubles");
    let (onnx, program) = (folder.file("m.onnx"), folder.file("m.nyx"));
    let to = |dtype: i64| [pb::attr_int("to", dtype)];
    let nodes = [
        pb::node("Neg", &["x"], &["n"], &[]),
        pb::node("Cast", &["n"], &["wide"], &to(11)),
        pb::node("Mul", &["wide", "wide"], &["square"], &[]),
        pb::node("Cast", &["square"], &["whole"], &to(7)),
        pb::node("Add", &["whole", "whole"], &["y"], &[]),
    ]
    .concat();
    std::fs::write(&onnx, pb::model([nodes, pb::input("x", &[4]), pb::output("y")].concat())).unwrap();
    for policy in ["uniform:f32", "uniform:f16", "budget"] {
        let args = ["compile", &onnx, "-o", &program, "--target", "lavapipe", "--policy", policy, "--json"];
        let report = nyxc(&args).exits(0).json();
        let place = |op: &str| {
            let nodes = report["nodes"].as_array().unwrap();
            nodes.iter().find(|n| n["op"] == op).map(|n| (n["where"].clone(), n["reason"].clone())).unwrap()
        };
        assert_eq!(place("Mul"), ("host".into(), "f64 is computed on the CPU reference".into()), "{report:#}");
        assert_eq!((place("Neg").0, place("Add").0), ("device".into(), "device".into()), "{report:#}");
        let loaded = nyxc::program::file::read(std::sync::Arc::new(std::fs::read(&program).unwrap())).unwrap();
        let x = nyxc::ir::Tensor::from_f32s(nyxc::ir::DType::F32, &[4], &[3.0, -20000.0, 40961.0, 0.5]).unwrap();
        let device = nyxc::runtime::devices().unwrap().first().map(|d| nyxc::session::DeviceChoice::Index(d.index));
        for choice in [nyxc::session::DeviceChoice::Cpu].into_iter().chain(device) {
            let mut session = nyxc::session::Session::of(loaded.clone(), choice).unwrap();
            let y = session.run(std::slice::from_ref(&x)).unwrap().outputs.remove(0);
            // 40961 squared has 31 bits; as f16 it is 40960 where a policy stores it so.
            let square = if policy == "uniform:f16" { 40_960i64 } else { 40_961 }.pow(2);
            assert_eq!(y.to_i64s().unwrap(), [18, 800_000_000, 2 * square, 0], "{policy} {choice:?}");
        }
    }
}

#[test]
fn quantized_activations_meet_quantized_kernels() {
    for target in nyxc::target::shipped_names() {
        let report = plan(&[&mlp(), "--target", target, "--policy", "uniform:w8a8"]);
        let format: Format = "w8a8".parse().unwrap();
        for node in report["nodes"].as_array().unwrap() {
            assert_eq!(node["where"], "device", "{target}: {node:#}");
            if node["op"] != "Gemm" {
                continue;
            }
            assert_eq!(node["format"], format.to_string(), "{target}");
            // Codes against codes: both operands are named q8.
            let kernel = node["kernel"].as_str().unwrap();
            assert!(kernel.matches("q8").count() >= 2, "{target}: {} has kernel {kernel:?}", node["name"]);
            assert!(bytes(&node["weight_bytes"]) * 3 < bytes(&node["f32_weight_bytes"]), "{target}: {node:#}");
        }
    }
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
