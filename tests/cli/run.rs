//! `nyxc run`: where inputs come from, where outputs go, and what a profile says.

use super::*;

/// A model of two inputs, with a range, and two outputs of which one has a name that is no name of a file.
fn pair(folder: &Folder) -> String {
    let (model, program) = (folder.file("pair.onnx"), folder.file("pair.nyx"));
    let nodes = [pb::node("Mul", &["x", "y"], &["a/b"], &[]), pb::node("Sub", &["x", "y"], &["c"], &[])].concat();
    let io = [pb::input("x", &[-1, 3]), pb::input("y", &[-1, 3]), pb::output("a/b"), pb::output("c")].concat();
    std::fs::write(&model, pb::model([nodes, io].concat())).unwrap();
    nyxc(&["compile", &model, "--dim", "n1=1..4", "--target", "lavapipe", "-o", &program]).exits(0);
    program
}

/// Takes the `.npy` arrays of a `.npz` out of it.
fn unpack(npz: &str, name: &str, to: &str) {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(npz).unwrap()).unwrap();
    let mut bytes = Vec::new();
    zip.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
    std::fs::write(to, bytes).unwrap();
}

/// The floats of a `.npy` file.
fn read_npy(path: &str) -> Vec<f32> {
    let bytes = std::fs::read(path).unwrap();
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn inputs_come_from_several_files_and_outputs_go_to_several() {
    let folder = Folder::new("npy");
    let program = pair(&folder);
    let (all, x, y) = (folder.file("all.npz"), folder.file("x.npy"), folder.file("y=2.npy"));
    write_npz(&all, &[("x", &[2, 3], random(6, 1)), ("y", &[2, 3], random(6, 2))]);
    unpack(&all, "x", &x);
    unpack(&all, "y", &y);
    let (npz, dir, c) = (folder.file("o.npz"), folder.file("results/"), folder.file("c.npy"));
    let (x_is, y_is, c_is) = (format!("x={x}"), format!("y={y}"), format!("c={c}"));
    let run = |more: &[&str]| nyxc(&[&["run", &program, "--device", "cpu"], more].concat());
    run(&["--inputs", &all, "--outputs", &npz]).exits(0);
    let expected = (read_npz(&npz, "a/b"), read_npz(&npz, "c"));
    std::fs::remove_file(&npz).unwrap();
    let names = |done: &Done| done.out.clone();
    let done =
        run(&["--inputs", &x_is, "--inputs", &y_is, "--outputs", &npz, "--outputs", &dir, "--outputs", &c_is]).exits(0);
    assert!(names(&done).contains("c.npy"), "{}", done.out);
    assert_eq!((read_npz(&npz, "a/b"), read_npz(&npz, "c")), expected);
    assert_eq!((read_npy(&c), read_npy(&format!("{dir}c.npy"))), (expected.1.clone(), expected.1.clone()));
    assert_eq!(read_npy(&format!("{dir}a_b.npy")), expected.0);
    // Refused before anything runs or is written.
    let before = folder.names();
    let other = folder.file("other.npy");
    for (args, code, says) in [
        (&["--inputs", &x[..], "--outputs", &npz][..], 2, "NAME=FILE.npy"),
        (&["--inputs", &all, "--outputs", &other], 2, "a/b, c"),
        (&["--inputs", &all, "--inputs", &x_is, "--outputs", &npz], 2, "given twice"),
        (&["--inputs", &x_is, "--outputs", &npz], 3, "\"y\""),
        (&["--outputs", &npz], 2, "f32[n1,3] with n1 in 1..4"),
        (&["--inputs", &x_is, "--inputs", &y_is, "--outputs", &x], 2, "NAME=FILE.npy"),
        (&["--inputs", &x_is, "--inputs", &y_is, "--outputs", &format!("c={x}")], 2, "which is read"),
        (&["--inputs", &format!("x={npz}"), "--outputs", &npz], 6, "x="),
    ] {
        let done = run(args).exits(code);
        assert!(done.err.contains(says), "{args:?}: {}", done.err);
    }
    assert_eq!(folder.names(), before);
}

#[test]
fn random_inputs_are_seeded_and_fill_what_is_not_given() {
    let folder = Folder::new("random");
    let program = pair(&folder);
    let out = folder.file("o.npz");
    let run = |more: &[&str]| nyxc(&[&["run", &program, "--device", "cpu", "--outputs", &out], more].concat());
    let values = |more: &[&str]| {
        run(more).exits(0);
        (read_npz(&out, "a/b"), read_npz(&out, "c"))
    };
    let first = values(&["--random", "--seed", "7"]);
    assert_eq!(first.0.len(), 12, "the largest size of the range");
    assert_eq!(values(&["--random", "--seed", "7"]), first);
    assert_ne!(values(&["--random", "--seed", "8"]), first);
    assert_eq!(values(&["--random", "--dim", "n1=2"]).0.len(), 6);
    assert_eq!(values(&["--random", "--dim", "y.0=3"]).0.len(), 9);
    // One input given: the other has its size.
    let x = folder.file("x.npz");
    write_npz(&x, &[("x", &[1, 3], vec![0.0; 3])]);
    assert_eq!(values(&["--random", "--inputs", &x]).0, [0.0; 3]);
    for args in
        [&["--random", "--dim", "n1=5"][..], &["--random", "--dim", "nosuch=1"], &["--random", "--dim", "x.1=4"]]
    {
        let done = run(args).exits(2);
        assert!(done.err.contains("n1 in 1..4"), "{args:?}: {}", done.err);
    }
    run(&["--dim", "n1=2", "--inputs", &x]).exits(2);
    // Without a place for outputs they are shown.
    let shown = nyxc(&["run", &program, "--device", "cpu", "--random"]).exits(0).out;
    assert!(shown.contains("a/b : f32[4,3]") && shown.contains("mean"), "{shown}");
}

#[test]
fn a_profile_is_a_trace_of_named_spans_on_tracks_of_host_and_device() {
    let folder = Folder::new("profile");
    let (program, inputs, trace) = (folder.file("mlp.nyx"), image(&folder, 1), folder.file("t.json"));
    nyxc(&["compile", &mlp(), "--target", "lavapipe", "-o", &program]).exits(0);
    for device in ["cpu", "vulkan,cpu"] {
        let report = nyxc(&["run", &program, "--inputs", &inputs, "--device", device, "--profile", &trace, "--json"])
            .exits(0)
            .json();
        let is_device = report["device"] != "cpu";
        if device != "cpu" && !is_device {
            eprintln!("SKIPPED: no Vulkan device");
        }
        let shown: Value = serde_json::from_slice(&std::fs::read(&trace).unwrap()).unwrap();
        let events = shown["traceEvents"].as_array().unwrap();
        let spans: Vec<&Value> = events.iter().filter(|e| e["ph"] == "X").collect();
        let number = |e: &Value, key: &str| e[key].as_f64().unwrap_or_else(|| panic!("{e} has no {key}"));
        assert!(spans.iter().all(|e| number(e, "ts") >= 0.0 && number(e, "dur") >= 0.0 && e["name"] != ""));
        let (category, label) = if is_device { ("dispatch", "kernel") } else { ("node", "operator") };
        let work: Vec<&&Value> = spans.iter().filter(|e| e["cat"] == category).collect();
        assert!(
            work.iter().any(|e| e["name"] == "logits")
                && work.iter().all(|e| e["args"][label].as_str().is_some_and(|k| !k.is_empty()))
        );
        // Each track has a name, and its own line; spans on it do not overlap.
        for e in &spans {
            let named =
                events.iter().any(|m| m["name"] == "thread_name" && m["tid"] == e["tid"] && m["pid"] == e["pid"]);
            assert!(named, "{e}");
        }
        for pair in work.windows(2) {
            assert!(number(pair[0], "ts") + number(pair[0], "dur") <= number(pair[1], "ts") + 1e-3, "{pair:?}");
        }
        // The summary is of the same spans.
        let kernels = report["kernels"].as_array().unwrap();
        let calls: u64 = kernels.iter().map(|k| bytes(&k["calls"])).sum();
        assert_eq!(calls, work.len() as u64);
        let total: f64 = kernels.iter().map(|k| k["total_ms"].as_f64().unwrap()).sum();
        let sum: f64 = work.iter().map(|e| number(e, "dur")).sum::<f64>() / 1e3;
        assert!((total - sum).abs() <= 1e-3, "{total} ms for {sum} ms");
        let share: f64 = kernels.iter().map(|k| k["share"].as_f64().unwrap()).sum();
        assert!((share - 1.0).abs() < 1e-9, "{share}");
    }
    let text = nyxc(&["run", &program, "--inputs", &inputs, "--device", "cpu", "--profile", &trace]).exits(0).out;
    assert!(text.contains("total ms") && text.contains("matmul (host)"), "{text}");
}

#[test]
fn auto_takes_no_driver_that_computes_on_the_cpu() {
    let folder = Folder::new("auto");
    let program = folder.file("mlp.nyx");
    nyxc(&["compile", &mlp(), "-o", &program]).exits(0);
    let run = |device: &str| nyxc(&["run", &program, "--random", "--device", device, "--json"]);
    let devices = nyxc(&["devices", "--json"]).exits(0).json();
    let devices = devices["devices"].as_array().unwrap();
    let auto = run("auto").exits(0).json();
    match devices.iter().find(|d| d["kind"] != "cpu") {
        Some(_) => assert!(devices.iter().any(|d| d["kind"] != "cpu" && d["name"] == auto["device"]), "{auto:#}"),
        None => {
            assert_eq!(auto["device"], "cpu");
            assert!(auto["fallbacks"][0].as_str().unwrap().contains("ran on the CPU reference"), "{auto:#}");
        }
    }
    // What was compiled for this machine runs on its best device, named.
    if devices.is_empty() {
        eprintln!("SKIPPED: no Vulkan device");
        run("vulkan").exits(5);
    } else {
        let named = run("vulkan").exits(0).json();
        assert_ne!(named["device"], "cpu");
        assert_eq!(
            (&named["fallbacks"], &run("vulkan,cpu").exits(0).json()["device"]),
            (&serde_json::json!([]), &named["device"])
        );
    }
}
