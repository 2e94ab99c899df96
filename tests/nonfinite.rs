//! NaN and infinities pass through as in ONNX Runtime: the models that `tests/make_nonfinite_cases.py` wrote, on the
//! CPU reference and on every Vulkan device here, as it is and as the weakest, with results stored as f32 and as f16.
//! Integers hold neither, so with these a result may be NaN where ONNX Runtime has a number, but never the other way
//! round. And numbers beyond a device's 32 bits are computed on the CPU or refused.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "common/cases.rs"]
mod cases;

use cases::{base64, tensor};
use nyxc::import::{ImportOptions, import_bytes};
use nyxc::ir::{Attrs, DType, Graph, Level, Op, Tensor, TensorType};
use nyxc::ops::registry;
use nyxc::passes::{Policy, Settings};
use nyxc::program::Program;
use nyxc::runtime::{Options, VkContext, devices, validation_errors};
use nyxc::session::{Compile, DeviceChoice, Reference, Session, compile};
use nyxc::targets::Target;
use serde_json::Value;
use std::io::Write as _;

const FORMATS: [&str; 5] = ["f32", "f16", "w8a16", "w4a32", "w8a8"];

/// A model, its inputs, and what ONNX Runtime makes of them.
struct Case {
    name: String,
    graph: Graph,
    inputs: Vec<Tensor>,
    outputs: Vec<Tensor>,
}

fn cases() -> Vec<Case> {
    let all: Vec<Value> = serde_json::from_str(include_str!("data/nonfinite_cases.json")).unwrap();
    let read = |case: &Value| {
        let name = case["name"].as_str().unwrap().to_owned();
        let model = base64(case["model"].as_str().unwrap());
        let graph = import_bytes(&model, None, &ImportOptions::default(), &registry())
            .unwrap_or_else(|e| panic!("{name}: {e}"))
            .0;
        let tensors = |of: &str| case[of].as_array().unwrap().iter().map(|t| tensor(t).unwrap()).collect();
        Case { name, graph, inputs: tensors("inputs"), outputs: tensors("outputs") }
    };
    all.iter().map(read).collect()
}

fn program(case: &Case, format: &str, target: &Target) -> Program {
    let settings = Settings { policy: Policy::Uniform(format.parse().unwrap()), ..Settings::default() };
    let options = Compile { settings, target: target.clone(), n_threads: 1 };
    compile(&case.graph, &options, &|_, _, _| {}, None)
        .unwrap_or_else(|e| panic!("{} in {format}: {e}", case.name))
        .program
}

/// What is wrong with results, if anything: NaN and infinities must be where they belong, and finite values as near as
/// `format` is.
fn fault(given: &[Tensor], expected: &[Tensor], format: &str) -> Option<String> {
    assert_eq!(given.len(), expected.len());
    for (given, expected) in given.iter().zip(expected) {
        if given.ty() != expected.ty() {
            return Some(format!("{} for {}", given.ty(), expected.ty()));
        }
        if !expected.dtype().is_float() {
            let (given, expected) = (given.to_i64s().unwrap(), expected.to_i64s().unwrap());
            if given != expected {
                return Some(format!("{given:?} for {expected:?}"));
            }
            continue;
        }
        let bound = if format == "f16" || expected.dtype() == DType::F16 { 5e-3 } else { 2e-5 };
        let (given, expected) = (given.to_f32s().unwrap(), expected.to_f32s().unwrap());
        let agree = |g: f32, e: f32| g == e || (g.is_nan() && e.is_nan()) || (g - e).abs() <= bound * e.abs().max(1.0);
        let agree = |g: f32, e: f32| match format {
            "f32" | "f16" => agree(g, e) && g.is_finite() == e.is_finite(),
            _ => e.is_finite() || !g.is_finite(),
        };
        if let Some(at) = (0..expected.len()).find(|&i| !agree(given[i], expected[i])) {
            return Some(format!(
                "element {at} is {}, not {}\n   given {given:?}\nexpected {expected:?}",
                given[at], expected[at]
            ));
        }
    }
    None
}

fn report(faults: &[String], n: usize, on: &str) {
    assert!(faults.is_empty(), "{} of {n} differ on {on}\n{}", faults.len(), faults.join("\n"));
}

#[test]
fn the_reference_agrees_with_onnx_runtime() {
    let (cases, target) = (cases(), Target::shipped("lavapipe").unwrap());
    let mut faults = Vec::new();
    for case in &cases {
        let given = Reference::new(case.graph.clone()).run(&case.inputs).unwrap();
        faults.extend(fault(&given, &case.outputs, "f32").map(|f| format!("{}, as imported: {f}", case.name)));
        for format in FORMATS {
            let mut session = Session::of(program(case, format, &target), DeviceChoice::Cpu).unwrap();
            let given = session.run(&case.inputs).unwrap().outputs;
            faults.extend(fault(&given, &case.outputs, format).map(|f| format!("{} in {format}: {f}", case.name)));
        }
    }
    report(&faults, cases.len(), "the CPU");
}

#[test]
fn devices_agree_with_onnx_runtime() {
    let found = devices().unwrap_or_default();
    if found.is_empty() {
        // Straight to the terminal: the test harness swallows `eprintln!`.
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
        return;
    }
    let cases = cases();
    for device in found {
        for mask in [None, Some("vulkan-min".to_owned())] {
            let options = Options { validation: true, cache_dir: None, ..Options::from_env() };
            let options = if mask.is_some() { Options { mask, ..options } } else { options };
            let context = VkContext::open(device.index, &device.target.features, &options).unwrap();
            let mut faults = Vec::new();
            for case in &cases {
                for format in FORMATS {
                    let program = program(case, format, &context.info().target);
                    let run = Session::on(program, &context).and_then(|mut session| session.run(&case.inputs));
                    let given = run
                        .unwrap_or_else(|e| {
                            panic!("{} in {format} on {}, mask {:?}: {e}", case.name, device.name, options.mask)
                        })
                        .outputs;
                    faults.extend(
                        fault(&given, &case.outputs, format).map(|f| format!("{} in {format}: {f}", case.name)),
                    );
                }
            }
            report(&faults, cases.len(), &format!("{}, mask {:?}", device.name, options.mask));
        }
    }
    assert_eq!(validation_errors(), 0);
}

/// `y = softmax(z + mask)` of f64, where the mask is `masked` in the middle; `s = x + x` of f64; `p = n * n` of i64; `l
/// = mask < z`, which has no format.
fn wide(masked: f64) -> Case {
    let mut graph = Graph::new("wide", Level::Onnx);
    let f64s = |values: &[f64]| Tensor::from_f64s(DType::F64, &[values.len()], values).unwrap();
    let [z, x] = ["z", "x"].map(|name| graph.add_input(name, TensorType::of(DType::F64, &[3])));
    let n = graph.add_input("n", TensorType::of(DType::I64, &[2]));
    let mask = graph.add_const("mask", f64s(&[0.0, masked, 0.0]));
    let mut add = |name: &str, onnx: &str, operands: &[_]| {
        let op = Op::new(registry().by_onnx(onnx).unwrap(), Attrs::new());
        let node = graph.add_op(name, op, operands, &[name.to_owned()]).unwrap();
        node.out(0)
    };
    let masked = add("masked", "Add", &[Some(z), Some(mask)]);
    let mut outputs = vec![
        add("y", "Softmax", &[Some(masked)]),
        add("s", "Add", &[Some(x), Some(x)]),
        add("p", "Mul", &[Some(n), Some(n)]),
    ];
    outputs.push(add("l", "Less", &[Some(mask), Some(z)]));
    for (name, value) in ["y", "s", "p", "l"].iter().zip(outputs) {
        graph.add_output(name, value);
    }
    Case { name: "wide".to_owned(), graph, inputs: Vec::new(), outputs: Vec::new() }
}

#[test]
fn floats_beyond_32_bits_are_computed_in_f64_beside_what_devices_compute() {
    let target = Target::shipped("vulkan-min").unwrap();
    let f64s = |values: [f64; 3]| Tensor::from_f64s(DType::F64, &[3], &values).unwrap();
    let mut choices = vec![DeviceChoice::Cpu];
    choices.extend(devices().unwrap_or_default().iter().map(|device| DeviceChoice::Index(device.index)));
    for masked in [f64::MIN, -1e223] {
        let program = program(&wide(masked), "f16", &target);
        for x in [[0.5, 7.0, 0.5], [1e223, 1e-300, 1e223]] {
            let n = [3, -(1 << 31)];
            let inputs = [f64s([0.5, 7.0, 0.5]), f64s(x), Tensor::from_i64s(DType::I64, &[2], &n).unwrap()];
            for &choice in &choices {
                let mut session = Session::of(program.clone(), choice).unwrap();
                let done = session.run(&inputs).unwrap();
                let given = &done.outputs;
                assert_eq!(given[0].to_f64s().unwrap(), [0.5, 0.0, 0.5], "{choice:?}: what is masked counts nothing");
                assert_eq!(given[1].to_f64s().unwrap(), x.map(|v| v + v), "{choice:?}");
                assert_eq!(given[2].to_i64s().unwrap(), n.map(|v| v * v), "{choice:?}");
                assert_eq!(given[3].to_i64s().unwrap(), [1; 3], "{choice:?}");
                // The product of integers is a kernel.
                assert!(session.fallbacks().is_empty() && !done.host_nodes.contains(&"p".to_owned()), "{choice:?}");
            }
        }
    }
}
