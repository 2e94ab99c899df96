//! `NYXC_MASK`: a strong device that behaves as a weak one, as users of the command line meet it.

#![cfg(all(feature = "cli", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "common/child.rs"]
mod child;
#[path = "common/folder.rs"]
mod folder;

use folder::Folder;
use serde_json::Value;
use std::io::{Read, Write as _};
use std::path::Path;

/// Runs `nyxc` under a mask, with the validation layers; gives exit code, standard output and standard error.
fn nyxc(mask: &str, args: &[&str]) -> (i32, String, String) {
    let mut command = child::command(env!("CARGO_BIN_EXE_nyxc"));
    command.args(args).env("NYXC_MASK", mask).env("NYXC_CACHE", Path::new(env!("CARGO_TARGET_TMPDIR")).join("shaders"));
    if std::env::var_os("NYXC_VALIDATION").is_none() {
        command.env("NYXC_VALIDATION", "core");
    }
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let (out, err) = (text(output.stdout), text(output.stderr));
    assert!(
        !err.contains("panicked") && !err.contains("vulkan validation:"),
        "NYXC_MASK={mask} nyxc {}\n{err}",
        args.join(" ")
    );
    (output.status.code().unwrap_or(-1), out, err)
}

/// The same for a command that must succeed and print one document.
fn json(mask: &str, args: &[&str]) -> Value {
    let (code, out, err) = nyxc(mask, args);
    assert_eq!(code, 0, "NYXC_MASK={mask} nyxc {}\n{out}\n{err}", args.join(" "));
    serde_json::from_str(&out).unwrap()
}

fn devices(mask: &str) -> Vec<Value> {
    let found = json(mask, &["devices", "--json"])["devices"].as_array().unwrap().clone();
    if found.is_empty() {
        // Straight to the terminal: the test harness swallows `eprintln!`.
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
    }
    found
}

fn model(file: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(file).to_str().unwrap().to_owned()
}

/// The f32 array of this name.
fn read_npz(path: &str, name: &str) -> Vec<f32> {
    let mut zip = zip::ZipArchive::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut bytes = Vec::new();
    zip.by_name(&format!("{name}.npy")).unwrap().read_to_end(&mut bytes).unwrap();
    let start = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    bytes[start..].chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn devices_shows_what_a_mask_leaves() {
    for (device, plain) in devices("vulkan-min").iter().zip(devices("")) {
        assert_eq!((&device["mask"], &plain["mask"]), (&Value::from("vulkan-min"), &Value::Null));
        let target = &device["target"];
        assert!(target["features"].as_object().unwrap().values().all(|on| on == false), "{target:#}");
        let limits = &target["limits"];
        for (limit, value) in [
            ("max_storage_buffer_range", 1 << 27),
            ("min_storage_buffer_offset_alignment", 256),
            ("max_compute_shared_memory_size", 16384),
            ("max_compute_work_group_invocations", 128),
            ("max_per_stage_descriptor_storage_buffers", 4),
        ] {
            assert_eq!(limits[limit], value, "{limit}");
        }
        assert_eq!(
            limits["subgroup_size"], plain["target"]["limits"]["subgroup_size"],
            "no mask changes the driver's subgroups"
        );
        assert_eq!(target["vulkan"], serde_json::json!([1, 1]));
        let (_, text, _) = nyxc("no-f16,align=64", &["devices"]);
        assert!(text.contains("masked by NYXC_MASK=no-f16,align=64"), "{text}");
    }
}

#[test]
fn a_bad_mask_is_a_usage_error() {
    for mask in ["rx590", "no-f17", "shared=1K", "absent.json", "vulkan-min,", "align=48"] {
        for args in [&["devices"][..], &["compile", &model("fmnist-mlp.onnx"), "--dry-run", "--json"]] {
            let (code, out, err) = nyxc(mask, args);
            assert_eq!(code, 2, "{mask}: {out}{err}");
            assert!(err.contains("NYXC_MASK") && err.contains(mask), "{err}");
        }
    }
    // What touches no device does not care.
    assert_eq!(nyxc("rx590", &["targets"]).0, 0);
}

#[test]
fn a_model_compiled_for_a_masked_device_runs_there_and_one_for_the_device_itself_does_not() {
    let folder = Folder::new("run");
    let (program, outputs, profile) = (folder.file("mlp.nyx"), folder.file("out.npz"), folder.file("weak.json"));
    for device in devices("vulkan-min") {
        // A mask may be a file too: here what `devices --json` printed under another.
        std::fs::write(&profile, device["target"].to_string()).unwrap();
        for mask in ["vulkan-min", "rx580", "iris-xe", &profile] {
            let index = device["index"].to_string();
            let run = [
                "run",
                &program,
                "--inputs",
                &model("fmnist-mlp.inputs.npz"),
                "--outputs",
                &outputs,
                "--device",
                &index,
                "--json",
            ];
            for policy in ["uniform:f32", "uniform:w8a16", "uniform:w4a8"] {
                let compile = [
                    "compile",
                    &model("fmnist-mlp.onnx"),
                    "--dim",
                    "batch=8",
                    "--policy",
                    policy,
                    "-o",
                    &program,
                    "--json",
                ];
                json(mask, &compile);
                let report = json(mask, &run);
                assert!(report["measured_peak_bytes"].as_u64() <= report["planned_peak_bytes"].as_u64(), "{report:#}");
                let (given, wanted) =
                    (read_npz(&outputs, "logits"), read_npz(&model("fmnist-mlp.outputs.npz"), "logits"));
                let norm: f32 = wanted.iter().map(|w| w * w).sum();
                let error = (given.iter().zip(&wanted).map(|(g, w)| (g - w) * (g - w)).sum::<f32>() / norm).sqrt();
                let bound = if policy == "uniform:f32" {
                    1e-5
                } else if policy.contains("w8") {
                    2e-2
                } else {
                    0.3
                };
                assert!(error <= bound, "{mask} {policy}: relative L2 {error:e}");
            }
        }
        if json("", &["devices", "--json"])["devices"][0]["target"]["features"]["storage_16bit"] == true {
            json(
                "",
                &[
                    "compile",
                    &model("fmnist-mlp.onnx"),
                    "--dim",
                    "batch=8",
                    "--policy",
                    "uniform:f16",
                    "-o",
                    &program,
                    "--json",
                ],
            );
            let run =
                ["run", &program, "--inputs", &model("fmnist-mlp.inputs.npz"), "--outputs", &outputs, "--device", "0"];
            let (code, _, err) = nyxc("vulkan-min", &run);
            assert!(code == 5 && err.contains("StorageBuffer16BitAccess"), "exit {code}: {err}");
            let (code, _, err) = nyxc("heap=1K", &run);
            assert!(code == 5 && err.contains("1024 free"), "exit {code}: {err}");
        }
    }
}

#[test]
fn a_program_for_a_stronger_device_is_refused_by_what_this_one_lacks() {
    // Devices that have what the programs need, until a mask takes it away: SwiftShader, say, lacks it by itself.
    let has = |device: &Value, feature: &str| device["target"]["features"][feature] == true;
    let mut found = devices("");
    found.retain(|d| ["f16_arithmetic", "storage_16bit", "integer_dot_product"].iter().all(|feature| has(d, feature)));
    if found.is_empty() {
        let _ = std::io::Write::write_all(&mut std::io::stderr(), b"SKIPPED: no device as strong as lavapipe\n");
        return;
    }
    let folder = Folder::new("lacking");
    let outputs = folder.file("out.npz");
    let mlp = ("fmnist-mlp.onnx", "batch=8", "fmnist-mlp.inputs.npz");
    let magika = ("magika.onnx", "unk__214=1", "magika.inputs.npz");
    for ((onnx, dim, inputs), policy, lacking) in [
        (mlp, "uniform:f16", &[("no-16bit-storage", "StorageBuffer16BitAccess"), ("heap=64K", "65536 free")][..]),
        (mlp, "uniform:w8a8", &[("no-dot", "DotProductInput4x8BitPacked"), ("align=64", "no multiple of 64")]),
        (
            magika,
            "uniform:f32",
            &[("buffers=4", "6 storage buffers, at most 4"), ("vulkan-min", "GroupNonUniformArithmetic")],
        ),
    ] {
        let (program, inputs) = (folder.file("p.nyx"), model(inputs));
        json(
            "",
            &[
                "compile",
                &model(onnx),
                "--dim",
                dim,
                "--policy",
                policy,
                "--target",
                "lavapipe",
                "-o",
                &program,
                "--json",
            ],
        );
        let run = |mask: &str, device: &str| {
            nyxc(mask, &["run", &program, "--inputs", &inputs, "--outputs", &outputs, "--device", device, "--json"])
        };
        for (mask, reason) in lacking {
            for device in &found {
                let (code, out, err) = run(mask, &device["index"].to_string());
                assert!(code == 5 && err.contains(reason), "{mask}: exit {code}: {err}");
                let shown: Value = serde_json::from_str(&out).unwrap();
                assert!(shown["error"]["message"].as_str().unwrap().contains(reason), "{shown:#}");
                assert_eq!(folder.names(), ["p.nyx"], "{mask}");
            }
            // Asked for no device in particular, it runs where it can, and says why there.
            let (code, out, err) = run(mask, "vulkan,cpu");
            let shown: Value = serde_json::from_str(&out).unwrap();
            assert!(code == 0 && shown["device"] == "cpu", "{mask}: exit {code}: {out} {err}");
            assert!(shown["fallbacks"].to_string().contains(reason), "{mask}: {shown:#}");
            std::fs::remove_file(&outputs).unwrap();
        }
    }
}
