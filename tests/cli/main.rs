//! The command line as its users meet it: commands, exit codes, documents and files.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "../common/folder.rs"]
mod folder;

#[path = "../common/pb.rs"]
mod pb;

mod bench;
mod budget;
mod compare;
mod diff;
mod dump;
mod entries;
mod files;
mod formats;
mod inspect;
mod models;
mod run;
mod sequences;
mod text;
mod tune;
mod usage;
mod values;

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
