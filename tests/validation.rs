//! That the validation layers see what they are switched on for: programs spoilt in one way each, in child processes,
//! because the count of errors belongs to the process.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "common/child.rs"]
mod child;

use nyxc::import::{DimBinding, ImportOptions, import};
use nyxc::ir::{DType, Format, Tensor};
use nyxc::ops::registry;
use nyxc::passes::{Policy, Settings};
use nyxc::program::{Program, Step};
use nyxc::runtime::{Executor, Options, VkContext, devices, validation_errors};
use nyxc::session::{Compile, compile};
use nyxc::targets::Target;
use std::io::Write as _;
use std::path::Path;

/// Runs the spoilt program under `checks`; gives the number of errors and what the layers said, `None` where there is
/// no device.
fn errors(checks: &str, spoilt: &str) -> Option<(u64, String)> {
    if devices().unwrap().is_empty() {
        // Straight to the terminal: the test harness swallows `eprintln!`.
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
        return None;
    }
    let mut child = child::itself();
    child
        .args(["--exact", "run_a_spoilt_program", "--ignored", "--nocapture"])
        .env("NYXC_VALIDATION", checks)
        .env("NYXC_TEST_SPOILT", spoilt);
    let output = child.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if let Some(line) = text.lines().find(|line| line.starts_with("SKIPPED")) {
        let _ = std::io::stderr().write_all(format!("{line}\n").as_bytes());
        return None;
    }
    let n = text.lines().find_map(|line| line.split_once("errors=")?.1.parse().ok());
    Some((n.unwrap_or_else(|| panic!("{checks} {spoilt}: {text}")), text))
}

#[test]
fn a_good_program_is_good_in_every_check() {
    for checks in ["core", "core,sync", "core,gpu"] {
        let Some((n, text)) = errors(checks, "nothing") else { continue };
        assert_eq!(n, 0, "{checks}: {text}");
    }
}

#[test]
fn core_validation_sees_a_feature_that_is_not_enabled() {
    let Some((n, text)) = errors("core", "features") else { return };
    assert!(n > 0 && text.contains("StorageBuffer16BitAccess"), "{text}");
}

#[test]
fn synchronization_validation_sees_missing_barriers() {
    let Some((n, text)) = errors("core,sync", "barriers") else { return };
    assert!(n > 0 && text.to_lowercase().contains("hazard"), "{text}");
    assert_eq!(errors("core", "barriers").unwrap().0, 0, "what sees it is the switch");
}

#[test]
fn gpu_assisted_validation_sees_reads_beyond_a_binding() {
    let Some((n, text)) = errors("core,gpu", "range") else { return };
    assert!(n > 0 && text.contains("out of bounds"), "{text}");
    assert_eq!(errors("core", "range").unwrap().0, 0, "what sees it is the switch");
}

#[test]
fn unknown_checks_are_refused() {
    let options = Options { validation: true, checks: Some("core,synch".to_owned()), ..Options::default() };
    let all = Target::shipped("vulkan-min").unwrap().features;
    let refused = VkContext::open(0, &all, &options).err().unwrap();
    assert!(refused.is_usage() && refused.to_string().contains("\"synch\""), "{refused}");
}

fn program(format: Format, target: &Target) -> Program {
    let dims = vec![DimBinding::parse("batch=1").unwrap()];
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fmnist-mlp.onnx");
    let graph = import(&path, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).unwrap().0;
    let settings = Settings { policy: Policy::Uniform(format), ..Settings::default() };
    let options = Compile { settings, target: target.clone(), n_threads: 0 };
    compile(&graph, &options, &|_, _, _| {}, None).unwrap().program
}

#[test]
#[ignore = "what the other tests start"]
fn run_a_spoilt_program() {
    let spoilt = std::env::var("NYXC_TEST_SPOILT").unwrap_or_default();
    let device = devices().unwrap().remove(0);
    let options = Options { validation: true, cache_dir: None, ..Options::from_env() };
    let mut program = program(if spoilt == "features" { Format::F16 } else { Format::F32 }, &device.target);
    let Step::Device(dispatches) = &mut program.plans[0].entries[0].steps[0] else {
        panic!("the model begins on the device")
    };
    match spoilt.as_str() {
        "barriers" => dispatches.iter_mut().for_each(|d| d.barrier = false),
        // The weights of the first product, of which the shader reads all.
        "range" => dispatches[0].bindings[1].bytes /= 2,
        _ => {}
    }
    let context = if spoilt == "features" {
        if !device.target.features.storage_16bit {
            println!("\nSKIPPED: the device has no 16-bit storage that could be left out");
            return;
        }
        let nothing = Target::shipped("vulkan-min").unwrap().features;
        let plain = VkContext::open(0, &nothing, &options).unwrap();
        let mut raw = plain.raw();
        raw.enabled = device.target.features.clone();
        std::mem::forget(plain);
        // SAFETY: the handles are those of a context that is leaked, so that it outlives this one. That more is said to
        // be enabled than was is what the layers are to find.
        unsafe { VkContext::from_raw(&raw, &options) }.unwrap()
    } else {
        match VkContext::open(0, &device.target.features, &options) {
            Err(error) if error.to_string().contains("break loops") => return println!("\nSKIPPED: {error}"),
            other => other.unwrap(),
        }
    };
    let image: Vec<f32> = (0..784).map(|i| ((i * 37) % 101) as f32 / 101.0).collect();
    let image = Tensor::from_f32s(DType::F32, &[1, 1, 28, 28], &image).unwrap();
    let mut executor = Executor::load(&program, 0, &context).unwrap();
    executor.run(&[image]).unwrap();
    // Layers may say what they found as late as at the end of the device.
    drop(executor);
    drop(context);
    println!("errors={}", validation_errors());
}
