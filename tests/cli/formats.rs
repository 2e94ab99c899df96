//! Which formats nodes get: pins, permitted formats, policies, and what is said of it.

use super::*;

#[test]
fn a_pin_that_matches_nothing_is_named() {
    let done = nyxc(&["compile", &mlp(), "--dry-run", "--precision", "head*=f16", "--json"]).exits(2);
    assert_eq!(done.json()["error"]["kind"], "usage");
    assert!(done.err.contains("head*"), "{}", done.err);
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
        let shown = nyxc(&args).exits(0).out;
        assert!(shown.contains(&format!("{name:?}: ")), "{name}\n{shown}");
    }
    std::fs::remove_file(&program).unwrap();
    let unknown = run("g00", &[]).exits(2).err;
    assert!(unknown.contains("did you mean \"g0\""), "{unknown}");
    assert!(!Path::new(&program).exists());
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
    for target in nyxc::targets::shipped_names() {
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

#[test]
fn weights_are_quantized_by_data_of_the_model_where_there_are_some() {
    let folder = Folder::new("calibrated");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fmnist-mlp.inputs.npz");
    let data = data.to_str().unwrap();
    let compile = |name: &str, more: &[&str]| {
        let program = folder.file(name);
        let args = ["compile", &mlp(), "--target", "lavapipe", "--policy", "uniform:w4a32", "-o", &program];
        nyxc(&[&args[..], more].concat()).exits(0);
        std::fs::read(program).unwrap()
    };
    let plain = compile("plain.nyx", &[]);
    // The file has eight images; the model takes one at a time.
    let calibrated = compile("one.nyx", &["--calibration-data", data]);
    assert!(calibrated != plain && calibrated == compile("again.nyx", &["--calibration-data", data]));
    assert!(compile("few.nyx", &["--calibration-data", data, "--calibration-samples", "2"]) != calibrated);
    let absent = folder.file("absent.npz");
    let refused = nyxc(&["compile", &mlp(), "--dry-run", "--calibration-data", &absent]).exits(6);
    assert!(refused.err.contains("absent.npz"), "{}", refused.err);
    let other = folder.file("other.npz");
    nyxc(&["compile", &mlp(), "--dry-run", "--calibration-samples", "2"]).exits(2);
    std::fs::write(&other, b"no archive").unwrap();
    let refused = nyxc(&["compile", &mlp(), "--dry-run", "--calibration-data", &other]).exits(3);
    assert!(refused.err.contains("other.npz"), "{}", refused.err);
}

#[test]
fn the_solver_chooses_blocks_and_follows_what_was_measured() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fmnist-mlp.inputs.npz");
    let data = ["--calibration-data", data.to_str().unwrap()];
    let report = |more: &[&str]| {
        let args = ["compile", &mlp(), "--target", "lavapipe", "--budget", "190K", "--dry-run", "--json"];
        nyxc(&[&args[..], more].concat()).exits(0).json()
    };
    let bound = |report: &serde_json::Value| report["certificate"]["bound"].as_f64().unwrap();
    let (fixed, free) = (report(&[]), report(&["--block-size", "auto"]));
    // With more to choose from, what is proven possible is better, and it is used.
    assert!(bound(&free) < bound(&fixed), "{} {}", bound(&free), bound(&fixed));
    let formats: Vec<&str> = free["nodes"].as_array().unwrap().iter().filter_map(|n| n["format"].as_str()).collect();
    assert!(formats.iter().any(|format| format.contains(":g") || format.contains(":c")), "{formats:?}");
    // What is measured on two samples of the eight is another objective; all eight leave none to quantize by.
    let measured = |n: &'static str| [&data[..], &["--sensitivity-samples", n, "--divergence", "kl"]].concat();
    let weighed = report(&measured("2"));
    assert_ne!(bound(&weighed), bound(&report(&data)));
    assert_eq!(weighed["certificate"]["bound"], report(&measured("2"))["certificate"]["bound"]);
    let args = ["compile", &mlp(), "--dry-run"];
    let refused = nyxc(&[&args[..], &measured("8")].concat()).exits(2);
    assert!(refused.err.contains("at least one sample"), "{}", refused.err);
    nyxc(&[&args[..], &data[..], &["--sensitivity-samples", "2", "--divergence", "cosine"]].concat()).exits(2);
}
