//! Faults from outside, through the built program: the documented exit code or fallback, the reason named, no partial file, and the next run works.

#[path = "common/folder.rs"]
mod folder;

use folder::Folder;
use serde_json::Value;
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
    let out = command().args(["compile", &model("fmnist-mlp.onnx"), "--dim", "batch=8", "--budget", "400K", "-o", &program]).output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
    program
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn has_device() -> bool {
    let found = command().args(["devices", "--json"]).output().unwrap();
    let any = serde_json::from_slice::<Value>(&found.stdout).unwrap()["devices"].as_array().is_some_and(|d| !d.is_empty());
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
        let auto = run(&program, &outputs, "auto", fault);
        assert!(auto.status.success(), "{fault}: {}", text(&auto.stderr));
        let report: Value = serde_json::from_slice(&auto.stdout).unwrap();
        let told = report["fallbacks"].to_string();
        assert!(told.contains(reason) && told.contains("CPU reference"), "{fault}: {told}");
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

#[test]
fn an_interrupt_exits_with_130_and_leaves_no_partial_file() {
    let folder = Folder::new("interrupt");
    let out = folder.file("net.nyx");
    let mut n_interrupted = 0;
    // From before the model is read to after the file is written.
    for ms in [1, 5, 20, 60, 120, 200, 400] {
        let args =
            ["compile", &model("ppocr-cls.onnx"), "--dim", "x.0=1", "--dim", "x.2=48", "--dim", "x.3=192", "--policy", "uniform:w8a16", "-o", &out];
        let mut child =
            command().args(args).env("NYXC_CACHE", "").stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(ms));
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().is_ok());
        let status = child.wait().unwrap();
        // Before the handler is there, the signal itself ends the process; after the end of the work nothing is left to interrupt.
        use std::os::unix::process::ExitStatusExt;
        let interrupted = status.code() == Some(130) || status.signal() == Some(2);
        assert!(interrupted || status.success(), "after {ms} ms: {status}");
        n_interrupted += usize::from(status.code() == Some(130));
        let names = folder.names();
        assert!(names.is_empty() || names == ["net.nyx"], "after {ms} ms: {names:?}");
        if names == ["net.nyx"] {
            let verified = command().args(["verify", &out]).output().unwrap();
            assert!(verified.status.success(), "after {ms} ms: {}", text(&verified.stderr));
            std::fs::remove_file(&out).unwrap();
        }
    }
    assert!(n_interrupted > 0, "no compilation took long enough to be interrupted");
}

#[test]
fn a_fault_that_is_none_is_a_usage_error() {
    let folder = Folder::new("usage");
    let program = compile(&folder);
    let outputs = folder.file("out.npz");
    for fault in ["lost", "vkQueueSubmit:1", "vkQueueSubmit:0=lost", "vkQueueSubmit:1=gone", "QueueSubmit:1=lost"] {
        for device in ["auto", "0"] {
            let out = run(&program, &outputs, device, fault);
            assert_eq!(out.status.code(), Some(2), "{fault}: {}", text(&out.stderr));
            assert!(text(&out.stderr).contains(&format!("NYXC_FAULT: {fault:?}")), "{}", text(&out.stderr));
        }
        // What touches no device does not care.
        assert!(run(&program, &outputs, "cpu", fault).status.success());
        std::fs::remove_file(&outputs).unwrap();
    }
}
