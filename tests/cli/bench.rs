//! `nyxc bench`.

use super::*;

#[test]
fn times_come_with_percentiles_throughput_and_the_kernels_that_take_them() {
    let folder = Folder::new("bench");
    let (program, trace) = (folder.file("any.nyx"), folder.file("t.json"));
    nyxc(&["compile", &mlp(), "--dim", "batch=1..6", "--target", "lavapipe", "-o", &program]).exits(0);
    let bench = |more: &[&str]| nyxc(&[&["bench", &program, "--runs", "5"], more].concat());
    for device in ["cpu", "vulkan,cpu"] {
        let shown = bench(&["--device", device, "--dim", "batch=3", "--warmup", "1", "--json", "--profile", &trace])
            .exits(0)
            .json();
        assert_eq!(
            (&shown["sizes"], bytes(&shown["runs"]), bytes(&shown["warmup"])),
            (&serde_json::json!({"batch": 3}), 5, 1)
        );
        let wall = |key: &str| shown["wall_ms"][key].as_f64().unwrap_or_else(|| panic!("no {key}: {shown:#}"));
        let all = ["min", "p5", "p50", "p95", "p99", "max"].map(wall);
        assert!(all.is_sorted() && wall("median") == wall("p50") && wall("mean") >= wall("min"), "{all:?}");
        let per_second = shown["runs_per_second"].as_f64().unwrap();
        assert!((per_second * wall("mean") / 1e3 - 1.0).abs() < 1e-6, "{shown:#}");
        if shown["device"] != "cpu" {
            let once = serde_json::json!({"submits": 1, "waits": 1, "recorded": 0});
            assert_eq!(shown["queue"], once, "copies and dispatches go together, and nothing is recorded again");
        }
        let kernels = shown["kernels"].as_array().unwrap();
        assert!(!kernels.is_empty() && kernels.iter().all(|k| bytes(&k["calls"]) > 0), "{shown:#}");
        let ms: Vec<f64> = kernels.iter().map(|k| k["total_ms"].as_f64().unwrap()).collect();
        assert!(ms.iter().rev().is_sorted(), "the longest first: {ms:?}");
        assert!(serde_json::from_slice::<Value>(&std::fs::read(&trace).unwrap()).unwrap()["traceEvents"].is_array());
    }
    let text = bench(&["--device", "cpu"]).exits(0).out;
    assert!(text.contains("at batch=6") && text.contains("p95") && text.contains("share"), "{text}");
    let (inputs, shown) = (image(&folder, 2), |more: &[&str]| bench(more).exits(0).json());
    assert_eq!(shown(&["--device", "cpu", "--inputs", &inputs, "--json"])["sizes"]["batch"], 2);
    bench(&["--dim", "batch=7"]).exits(2);
}

#[test]
fn an_output_that_stays_on_the_device_is_the_next_input() {
    let folder = Folder::new("bench_feed");
    let (text, program) = (folder.file("grow.nyxir"), folder.file("grow.nyx"));
    let graph = "graph grow onnx where n in 1..8
  %past.key = input : f32[n,2]
  %new = input : f32[1,2]
  %present.key = concat(%past.key, %new) {axis=0} : f32[n+1,2]
  output %present.key
";
    std::fs::write(&text, graph).unwrap();
    nyxc(&["compile", &text, "--target", "lavapipe", "-o", &program]).exits(0);
    let bench = |feed: &str, runs: &str, device: &str| {
        let of = ["bench", &program, "--runs", runs, "--warmup", "2", "--dim", "n=2", "--feed", feed];
        nyxc(&[&of[..], &["--device", device, "--json"]].concat())
    };
    for device in ["cpu", "vulkan,cpu"] {
        let shown = bench("past.*=present.*", "3", device).exits(0).json();
        assert_eq!(shown["sizes"]["n"], 6, "the fifth run's: {shown:#}");
        assert_eq!(bench("past.key=present.key", "1", device).exits(0).json()["sizes"]["n"], 4);
        // Beyond the range.
        bench("past.*=present.*", "9", device).exits(2);
    }
    bench("past.*=future.*", "1", "cpu").exits(2);
    bench("before=present.key", "1", "cpu").exits(2);
    bench("past.key", "1", "cpu").exits(2);
}
