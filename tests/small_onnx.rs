//! Small ONNX models against ONNX Runtime, from the file to the device: quantized by its own tools, with control flow,
//! with sequences, and of forms that exporters write and runtimes have got wrong. The cases are those that
//! `tests/make_small_onnx.py` and `tests/make_model_cases.py` wrote.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/cases.rs"]
mod cases;
#[path = "common/device.rs"]
mod device;

use cases::{base64, tensor};
use nyxc::import::{DimBinding, ImportOptions, import_bytes};
use nyxc::ir::{Class, Tensor};
use nyxc::ops::registry;
use nyxc::passes::Settings;
use nyxc::program::{NodeReport, Program};
use nyxc::runtime::devices;
use nyxc::session::{Compile, DeviceChoice, Session, compile};
use serde_json::Value;
use std::io::Write as _;

fn all() -> Vec<Value> {
    let files = [include_str!("data/small_onnx.json"), include_str!("data/model_cases.json")];
    files.iter().flat_map(|file| serde_json::from_str::<Vec<Value>>(file).unwrap()).collect()
}

fn compiled(case: &Value, policy: &str, budget_bytes: Option<u64>) -> Program {
    let dims = case["dims"].as_array().into_iter().flatten();
    let dims = dims.map(|dim| DimBinding::parse(dim.as_str().unwrap()).unwrap()).collect();
    let options = ImportOptions { dims, ..ImportOptions::default() };
    let (graph, _) = import_bytes(&base64(case["model"].as_str().unwrap()), None, &options, &registry())
        .unwrap_or_else(|e| panic!("{}: {e}", case["name"]));
    let settings = Settings { policy: policy.parse().unwrap(), budget_bytes, ..Settings::default() };
    let options = Compile { settings, target: device::target(), n_threads: 1 };
    compile(&graph, &options, &|_, _, _| {}, None).unwrap_or_else(|e| panic!("{}: {e}", case["name"])).program
}

/// Runs every set of inputs; the results' types are ONNX Runtime's, and none is further off than `bound` (relative L2).
fn check(case: &Value, session: &mut Session, bound: f64, place: &str) {
    for (i, run) in case["runs"].as_array().unwrap().iter().enumerate() {
        let read =
            |name: &str| run[name].as_array().unwrap().iter().map(|v| tensor(v).unwrap()).collect::<Vec<Tensor>>();
        let (given, expected) = (session.run(&read("inputs")).unwrap().outputs, read("outputs"));
        assert_eq!(given.len(), expected.len(), "{} {place}", case["name"]);
        for (given, expected) in given.iter().zip(&expected) {
            assert_eq!(given.ty(), expected.ty(), "{} {place}", case["name"]);
            let what = format!("{}, inputs {i}, {place}", case["name"]);
            if expected.dtype().class() != Class::Float {
                assert_eq!(given.to_i64s().unwrap(), expected.to_i64s().unwrap(), "{what}");
                continue;
            }
            let (given, expected) = (given.to_f32s().unwrap(), expected.to_f32s().unwrap());
            // Of what is infinite only equality counts.
            let norm = expected.iter().filter(|v| v.is_finite()).map(|v| f64::from(*v).powi(2)).sum::<f64>();
            let apart = |(g, e): (&f32, &f32)| if g == e { 0.0 } else { f64::from(g - e).powi(2) };
            let off = given.iter().zip(expected.iter()).map(apart).sum::<f64>();
            // Written so that NaN is a fault.
            assert!(
                off.sqrt() <= bound * norm.sqrt(),
                "{what}: relative L2 {}\n{given:?}\n{expected:?}",
                (off / norm).sqrt()
            );
        }
    }
}

#[test]
fn results_are_those_of_onnx_runtime() {
    let devices = devices().unwrap_or_default();
    if devices.is_empty() {
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
    }
    for case in all() {
        let program = compiled(&case, "uniform:f32", None);
        let bound = case["bound"].as_f64().unwrap();
        check(&case, &mut Session::of(program.clone(), DeviceChoice::Cpu).unwrap(), bound, "on the CPU");
        for device in &devices {
            check(
                &case,
                &mut Session::of(program.clone(), DeviceChoice::Index(device.index)).unwrap(),
                bound,
                &device.name,
            );
        }
    }
}

#[test]
fn a_quantized_model_keeps_its_codes_and_fits_a_budget() {
    let mut n = 0;
    for case in all() {
        let Some(f32_bytes) = case["f32_weights"].as_u64() else { continue };
        n += 1;
        let plan = &compiled(&case, "uniform:f32", None).plans[0];
        let [bits, scales] = ["bits", "scales"].map(|name| case[name].as_u64().unwrap());
        let codes = f32_bytes * bits / 32;
        // Rows are padded to words, tensors to the alignment.
        let (least, most) = (codes, codes + scales + codes / 20 + 64 * 8);
        let weights = plan.ledger.weights;
        assert!(
            (least..=most).contains(&weights),
            "{}: {weights} bytes of weights, expected {least} to {most}",
            case["name"]
        );
        // Each node says what it has; a table that two nodes read is said twice.
        let sum = |of: fn(&NodeReport) -> u64| plan.nodes.iter().map(of).sum::<u64>();
        let n_readers = if case["name"].as_str().unwrap().contains("read twice") { 2 } else { 1 };
        assert_eq!(sum(|node| node.f32_weight_bytes), f32_bytes * n_readers, "{}", case["name"]);
        let packed = sum(|node| node.weight_bytes);
        assert!((codes * n_readers..=weights * n_readers).contains(&packed), "{}: {packed} of {weights}", case["name"]);
        // Less than what its weights alone would take in f32 is enough.
        let budget = plan.planned_peak_bytes;
        let within = compiled(&case, "budget", Some(budget));
        assert!(within.plans[0].planned_peak_bytes <= budget);
    }
    assert_eq!(n, 8);
}
