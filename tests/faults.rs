//! Faults from outside, through the built program: the documented exit code or fallback, the reason named, no partial
//! file, and the next run works.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/pb.rs"]
mod pb;

use folder::Folder;
use serde_json::Value;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

fn model(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(name).to_string_lossy().into_owned()
}

fn command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nyxc"));
    command.env("NYXC_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders"));
    command
}

fn compile(folder: &Folder) -> String {
    let program = folder.file("mlp.nyx");
    let out = command()
        .args(["compile", &model("fmnist-mlp.onnx"), "--dim", "batch=8", "--budget", "400K", "-o", &program])
        .output()
        .unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    program
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has_device() -> bool {
    let found = command().args(["devices", "--json"]).output().unwrap();
    let any =
        serde_json::from_slice::<Value>(&found.stdout).unwrap()["devices"].as_array().is_some_and(|d| !d.is_empty());
    if !any {
        eprintln!("SKIPPED: no Vulkan device");
    }
    any
}

fn run(program: &str, outputs: &str, device: &str, fault: &str) -> Output {
    let inputs = model("fmnist-mlp.inputs.npz");
    let args = ["run", program, "--inputs", &inputs, "--outputs", outputs, "--device", device, "--json"];
    command().args(args).env("NYXC_FAULT", fault).output().unwrap()
}

#[test]
fn a_failing_device_is_named_and_the_run_goes_on_or_exits_with_5() {
    if !has_device() {
        return;
    }
    let folder = Folder::new("device");
    let program = compile(&folder);
    let outputs = folder.file("out.npz");
    for (fault, reason) in [
        ("vkAllocateMemory:1=device-memory", "out of memory"),
        ("vkAllocateMemory:2=device-memory", "out of memory"),
        ("vkCreateComputePipelines:1=host-memory", "vkCreateComputePipelines"),
        ("vkQueueSubmit:1=lost", "lost"),
        ("vkWaitForFences:1=lost", "lost"),
    ] {
        let auto = run(&program, &outputs, "vulkan,cpu", fault);
        assert!(auto.status.success(), "{fault}: {}", text(&auto.stderr));
        let report: Value = serde_json::from_slice(&auto.stdout).unwrap();
        let shown = report["fallbacks"].to_string();
        assert!(shown.contains(reason) && shown.contains("CPU reference"), "{fault}: {shown}");
        std::fs::remove_file(&outputs).unwrap();

        let named = run(&program, &outputs, "0", fault);
        assert_eq!(named.status.code(), Some(5), "{fault}: {}", text(&named.stderr));
        let report: Value = serde_json::from_slice(&named.stdout).unwrap();
        assert!(report["error"]["message"].as_str().unwrap().contains(reason), "{fault}: {report}");
        assert_eq!(folder.names(), ["mlp.nyx"], "{fault}");
    }
    let well = run(&program, &outputs, "0", "");
    assert!(well.status.success(), "{}", text(&well.stderr));
}

#[test]
fn a_call_that_fails_before_a_device_is_open_is_named_and_the_run_goes_on_or_exits_with_5() {
    if !has_device() {
        return;
    }
    let folder = Folder::new("open");
    let program = compile(&folder);
    let outputs = folder.file("out.npz");
    let anything = ["host-memory", "device-memory", "initialization"];
    for (call, ks, codes) in [
        // The first is the bare instance that keeps the drivers loaded.
        ("vkCreateInstance", 1..=2, &anything[..]),
        ("vkEnumeratePhysicalDevices", 1..=1, &anything),
        ("vkEnumerateInstanceVersion", 1..=1, &["host-memory"]),
        ("vkEnumerateInstanceExtensionProperties", 1..=2, &["host-memory", "device-memory"]),
        ("vkEnumerateInstanceLayerProperties", 1..=1, &["host-memory", "device-memory"]),
        ("vkEnumerateDeviceExtensionProperties", 1..=1, &["host-memory", "device-memory"]),
        ("vkCreateDevice", 1..=1, &["host-memory", "device-memory", "initialization", "lost"]),
    ] {
        for (k, code) in ks.flat_map(|k| codes.iter().map(move |code| (k, *code))) {
            let fault = format!("{call}:{k}={code}");
            let reason = if code == "lost" { "lost" } else { call };
            let auto = run(&program, &outputs, "vulkan,cpu", &fault);
            assert!(auto.status.success(), "{fault}: {}", text(&auto.stderr));
            let report: Value = serde_json::from_slice(&auto.stdout).unwrap();
            let shown = report["fallbacks"].to_string();
            // Another device may be there when one cannot be made.
            let is_other =
                report["device"] != "cpu" && ["vkCreateDevice", "vkEnumerateDeviceExtensionProperties"].contains(&call);
            assert!(is_other || shown.contains(reason) && shown.contains("CPU reference"), "{fault}: {report}");
            std::fs::remove_file(&outputs).unwrap();

            let named = run(&program, &outputs, "0", &fault);
            assert_eq!(named.status.code(), Some(5), "{fault}: {}", text(&named.stderr));
            let report: Value = serde_json::from_slice(&named.stdout).unwrap();
            assert!(report["error"]["message"].as_str().unwrap().contains(reason), "{fault}: {report}");
            assert_eq!(folder.names(), ["mlp.nyx"], "{fault}");
        }
    }
    let well = run(&program, &outputs, "0", "");
    assert!(well.status.success(), "{}", text(&well.stderr));
}

/// Runs `nyxc` with so many KiB of address space, without its cache.
fn with_little_memory(kib: u64, args: &[&str]) -> Output {
    let mut command = Command::new("bash");
    command
        .args(["-c", &format!("ulimit -v {kib}; exec \"$@\""), "bash", env!("CARGO_BIN_EXE_nyxc")])
        .args(args)
        .env("NYXC_CACHE", "");
    command.output().unwrap()
}

#[test]
fn too_little_memory_of_the_host_exits_with_6_and_leaves_no_file() {
    let folder = Folder::new("memory");
    let program = compile(&folder);
    let (onnx, inputs) = (model("fmnist-mlp.onnx"), model("fmnist-mlp.inputs.npz"));
    let (other, outputs) = (folder.file("other.nyx"), folder.file("out.npz"));
    let compile = [
        "compile",
        &onnx,
        "--dim",
        "batch=8",
        "--policy",
        "uniform:w8a16",
        "--target",
        "rx580",
        "-o",
        &other,
        "--json",
    ];
    let on_cpu = ["run", &program, "--inputs", &inputs, "--outputs", &outputs, "--device", "cpu", "--json"];
    let on_device = ["run", &program, "--inputs", &inputs, "--outputs", &outputs, "--device", "0", "--json"];
    let (mut n_refused, mut kib) = (0, 32 << 10);
    while kib < 2 << 20 {
        kib += kib / 4;
        // Below this the system cannot even start the program; or just so, but no thread.
        if !with_little_memory(kib - kib / 10, &["targets"]).status.success() {
            continue;
        }
        for args in [&compile[..], &on_cpu, &on_device] {
            let out = with_little_memory(kib, args);
            let what = format!("{} of {kib} KiB: {}, {}", args[0], out.status, text(&out.stderr));
            let codes: &[i32] = if args == on_device { &[0, 5, 6] } else { &[0, 6] };
            if args == on_device && matches!(out.status.signal(), Some(6 | 11)) {
                // A driver in software compiles with malloc and LLVM: what it does not look at we cannot catch
                // (ARCHITECTURE.md). lavapipe dies in vkCreateDevice, by SIGSEGV or, where it frees twice what it could
                // not make, by SIGABRT.
                eprintln!("the driver died with {kib} KiB");
                assert_eq!(folder.names(), ["mlp.nyx"], "{what}");
                continue;
            }
            assert!(out.status.code().is_some_and(|code| codes.contains(&code)), "{what}");
            if out.status.code() == Some(6) {
                n_refused += 1;
                let report: Value = serde_json::from_slice(&out.stdout).unwrap_or_else(|e| panic!("{what}: {e}"));
                assert!(report["error"]["kind"] == "memory" && text(&out.stderr).contains("nyxc: "), "{what}");
                assert_eq!(folder.names(), ["mlp.nyx"], "{what}");
            }
            [&other, &outputs].iter().for_each(|file| drop(std::fs::remove_file(file)));
        }
    }
    assert!(n_refused > 0, "whatever the limit, it was enough");
}

#[test]
fn device_memory_that_others_took_meanwhile_is_told_with_bytes() {
    let found = command().args(["devices", "--json"]).output().unwrap();
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    // The memory of a device in software is the host's, which a test can take away.
    if found["devices"][0]["kind"] != "cpu" {
        eprintln!("SKIPPED: no Vulkan device in software");
        return;
    }
    let folder = Folder::new("taken");
    let (onnx, program) = (folder.file("m.onnx"), folder.file("m.nyx"));
    // Eight results of 100 MB each.
    const SIDE: usize = 5000;
    let one = |i: usize| {
        let (w, y) = (format!("w{i}"), format!("y{i}"));
        let weights = pb::f32s(&w, &[1, SIDE as i64], &[i as f32; SIDE]);
        [pb::node("MatMul", &["x", &w], &[&y], &[]), weights, pb::output(&y)].concat()
    };
    let graph: Vec<u8> = (0..8).flat_map(one).chain(pb::input("x", &[SIDE as i64, 1])).collect();
    std::fs::write(&onnx, pb::model(graph)).unwrap();
    let args = ["compile", &onnx, "-o", &program, "--policy", "uniform:f32", "--budget", "1G", "--target", "lavapipe"];
    let compiled = command().args(args).output().unwrap();
    assert!(compiled.status.success(), "{}", text(&compiled.stderr));
    let args = ["bench", &program, "--runs", "1", "--device", "0", "--json"];
    // Enough to open the device, which says that far more is free.
    let out = with_little_memory(1 << 20, &args);
    assert_eq!(out.status.code(), Some(5), "{}", text(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let message = report["error"]["message"].as_str().unwrap();
    let asked = message.split_whitespace().find_map(|word| word.parse::<u64>().ok()).unwrap();
    assert!(
        message.contains("out of memory")
            && message.contains("bytes asked")
            && message.contains("free")
            && asked >= 8 * 4 * (SIDE * SIDE) as u64,
        "{message}"
    );
}

#[test]
fn a_program_cut_short_while_it_is_mapped_exits_with_6() {
    let folder = Folder::new("cut");
    let program = folder.file("mlp.nyx");
    let args = [
        "compile",
        &model("fmnist-mlp.onnx"),
        "--dim",
        "batch=1",
        "--policy",
        "uniform:f32",
        "--target",
        "lavapipe",
        "-o",
        &program,
    ];
    assert!(command().args(args).output().unwrap().status.success());
    let mut bench = command();
    bench.args(["bench", &program, "--device", "cpu", "--runs", "100000000", "--json"]);
    let child = bench.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let maps = format!("/proc/{}/maps", child.id());
    while !std::fs::read_to_string(&maps).unwrap_or_else(|e| panic!("SKIPPED: {maps}: {e}")).contains("mlp.nyx") {
        std::thread::sleep(Duration::from_millis(1));
    }
    // The hashes are compared by then, and the weights read again and again.
    std::thread::sleep(Duration::from_millis(500));
    std::fs::OpenOptions::new().write(true).open(&program).unwrap().set_len(4096).unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(6), "{}: {}", out.status, text(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    assert!(report["error"]["message"].as_str().unwrap().contains("cut short"), "{report}");
}

/// Runs `nyxc` under a limit of the size of each file it writes, in blocks of 512 bytes, which a full disk is like.
fn with_little_disk(blocks: u32, args: &[&str]) -> Output {
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"");
    let mut command = Command::new("bash");
    command.args(["-c", &script, "bash", env!("CARGO_BIN_EXE_nyxc")]).args(args).env("NYXC_CACHE", "");
    command.output().unwrap()
}

#[test]
fn a_full_disk_exits_with_6_and_leaves_no_file() {
    let folder = Folder::new("disk");
    let program = compile(&folder);
    let before = std::fs::read(&program).unwrap();
    let onnx = model("fmnist-mlp.onnx");
    let compile = ["compile", &onnx, "--dim", "batch=8", "--policy", "uniform:f32", "-o", &program];
    let outputs = folder.file("out.npz");
    let inputs = model("fmnist-mlp.inputs.npz");
    let run = ["run", &program, "--inputs", &inputs, "--outputs", &outputs, "--device", "cpu"];
    for (blocks, args) in [(1, &compile[..]), (64, &compile), (0, &run)] {
        let out = with_little_disk(blocks, args);
        assert_eq!(out.status.code(), Some(6), "{args:?}: {}", text(&out.stderr));
        let named = if args[0] == "run" { "out.npz" } else { "mlp.nyx" };
        assert!(text(&out.stderr).contains(named), "{}", text(&out.stderr));
        assert_eq!(folder.names(), ["mlp.nyx"], "{args:?}");
        assert!(std::fs::read(&program).unwrap() == before, "the old program is as it was");
    }
}

/// Starts `nyxc`, sends it the signal after so long, and waits for its end.
fn interrupted(args: &[&str], signal: &str, after: Duration) -> std::process::ExitStatus {
    let null = std::process::Stdio::null;
    let mut child = command().args(args).env("NYXC_CACHE", "").stdout(null()).stderr(null()).spawn().unwrap();
    std::thread::sleep(after);
    assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().is_ok());
    child.wait().unwrap()
}

const SIGNALS: [(&str, i32); 3] = [("INT", 2), ("TERM", 15), ("HUP", 1)];

#[test]
fn an_interrupt_exits_with_130_and_leaves_no_partial_file() {
    let folder = Folder::new("interrupt");
    let (program, other, outputs) = (folder.file("net.nyx"), folder.file("other.nyx"), folder.file("out.npz"));
    let (onnx, inputs) = (model("ppocr-cls.onnx"), model("ppocr-cls.inputs.npz"));
    let compile = |to| {
        [
            "compile",
            &onnx,
            "--dim",
            "x.0=1",
            "--dim",
            "x.2=48",
            "--dim",
            "x.3=192",
            "--policy",
            "uniform:w8a16",
            "-o",
            to,
        ]
    };
    assert!(command().args(compile(&program)).output().unwrap().status.success());
    let other_compile = compile(&other);
    let run = |device| ["run", &program, "--inputs", &inputs, "--outputs", &outputs, "--device", device];
    for (args, written) in [(&other_compile[..], &other), (&run("cpu"), &outputs), (&run("vulkan,cpu"), &outputs)] {
        let start = std::time::Instant::now();
        let whole = command().args(args).env("NYXC_CACHE", "").output().unwrap();
        assert!(whole.status.success(), "{args:?}: {}", text(&whole.stderr));
        let takes = start.elapsed();
        let expected = std::fs::read(written).unwrap();
        std::fs::remove_file(written).unwrap();
        for (signal, number) in SIGNALS {
            let mut n_interrupted = 0;
            // From before the first file is read to after the last is written.
            for part in [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0] {
                let what = format!("{} at {part} of {takes:?}, {signal}", args[0]);
                let status = interrupted(args, signal, takes.mul_f64(part));
                // Before the handler is there, the signal itself ends the process; after the end of the work nothing is
                // left to interrupt.
                assert!(
                    status.code() == Some(130) || status.signal() == Some(number) || status.success(),
                    "{what}: {status}"
                );
                n_interrupted += usize::from(status.code() == Some(130));
                if Path::new(written).exists() {
                    assert!(std::fs::read(written).unwrap() == expected, "{what}: a file that is not whole");
                    std::fs::remove_file(written).unwrap();
                }
                assert_eq!(folder.names(), ["net.nyx"], "{what}");
            }
            assert!(n_interrupted > 0, "{args:?} was never interrupted by {signal}");
        }
    }
    for (signal, _) in SIGNALS {
        let status = interrupted(&["bench", &program, "--runs", "100000000"], signal, Duration::from_secs(1));
        assert_eq!(status.code(), Some(130), "bench, {signal}: {status}");
    }
    assert_eq!(folder.names(), ["net.nyx"]);
}

#[test]
fn a_fault_that_is_none_is_a_usage_error() {
    let folder = Folder::new("usage");
    let program = compile(&folder);
    let outputs = folder.file("out.npz");
    for fault in ["lost", "vkQueueSubmit:1", "vkQueueSubmit:0=lost", "vkQueueSubmit:1=gone", "QueueSubmit:1=lost"] {
        for device in ["auto", "vulkan,cpu", "0"] {
            let out = run(&program, &outputs, device, fault);
            assert_eq!(out.status.code(), Some(2), "{fault}: {}", text(&out.stderr));
            assert!(text(&out.stderr).contains(&format!("NYXC_FAULT: {fault:?}")), "{}", text(&out.stderr));
        }
        // What touches no device does not care.
        assert!(run(&program, &outputs, "cpu", fault).status.success());
        std::fs::remove_file(&outputs).unwrap();
    }
}
