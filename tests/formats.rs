//! Every format on every shipped target, compiled through the library; on every Vulkan device here the programs run and
//! are held against nyxc's own CPU reference, and that against f32, while the validation layers watch.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

use nyxc::import::{DimBinding, ImportOptions, import};
use nyxc::ir::{Activations, Format, Graph, Tensor, TensorType, Weights};
use nyxc::ops::registry;
use nyxc::passes::{Policy, Settings};
use nyxc::program::Program;
use nyxc::runtime::{Options, RuntimeError, VkContext, devices, validation_errors};
use nyxc::session::{Compile, DeviceChoice, Reference, Session, SessionError, compile};
use nyxc::targets::{Target, shipped_names};
use std::path::Path;

fn model(file: &str, dims: &[&str]) -> Graph {
    let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(file);
    import(&path, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).unwrap().0
}

fn program(graph: &Graph, format: Format, target: &Target) -> Result<Program, String> {
    let settings = Settings { policy: Policy::Uniform(format), ..Settings::default() };
    let options = Compile { settings, target: target.clone(), n_threads: 0 };
    compile(graph, &options, &|_, _, _| {}, None).map(|c| c.program).map_err(|e| e.to_string())
}

/// Values of mean 0 and deviation 1, near enough to normal, as pictures are after normalization: SplitMix64 (Steele et
/// al. 2014), twelve numbers a value.
fn random(ty: &TensorType) -> Tensor {
    let dims = ty.shape.known().unwrap();
    let mut state = 7u64;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| (0..12).map(|_| next()).sum::<f32>() / 2.0).collect();
    Tensor::from_f32s(ty.dtype, &dims, &values).unwrap()
}

/// The largest relative L2 error of any output.
fn distance(given: &[Tensor], expected: &[Tensor]) -> f64 {
    assert_eq!(given.len(), expected.len());
    let one = |(given, expected): (&Tensor, &Tensor)| {
        assert_eq!(given.ty(), expected.ty());
        let (mut error, mut norm) = (0.0f64, 1e-30f64);
        for (g, e) in given.to_f32s().unwrap().iter().zip(expected.to_f32s().unwrap().iter()) {
            error += f64::from(g - e).powi(2);
            norm += f64::from(*e).powi(2);
        }
        (error / norm).sqrt()
    };
    given.iter().zip(expected).map(one).fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
}

/// How far a device may be from the CPU reference of the same program: sums differ in order, and halves round at every
/// store. Where activations are quantized, one last bit of a sum can move a code by one, and each layer turns few moved
/// codes into many: `a8` says how far that may lead.
fn device_bound(format: Format, a8: f64) -> f64 {
    match format.activations {
        Activations::F32 => 1e-4,
        Activations::F16 => 5e-3,
        Activations::I8 => a8,
    }
}

/// How far a program may be from its model in f32.
fn format_bound(format: Format) -> f64 {
    match format.tail.map_or(format.weights, |tail| tail.weights) {
        Weights::F32 => 1e-5,
        Weights::F16 => 1e-2,
        Weights::Int { coding: nyxc::ir::packed::Coding::I8, .. } => 5e-2,
        Weights::Int { .. } => 0.5,
    }
}

/// Runs a program on a device; `None` where the device lacks what the program's target has.
fn on_device(program: &Program, device: &VkContext, inputs: &[Tensor]) -> Result<Option<Vec<Tensor>>, SessionError> {
    let mut session = match Session::on(program.clone(), device) {
        Err(SessionError::Runtime(RuntimeError::Unsupported { .. })) => return Ok(None),
        other => other?,
    };
    let outputs = session.run(inputs)?.outputs;
    let planned = program.plans[0].planned_peak_bytes;
    assert!(
        session.measured_peak_bytes() <= planned,
        "{} bytes were allocated, {planned} planned",
        session.measured_peak_bytes()
    );
    Ok(Some(outputs))
}

/// A model with inputs, its outputs in f32, and the bound for quantized activations.
struct Case {
    graph: Graph,
    inputs: Vec<Tensor>,
    expected: Vec<Tensor>,
    a8: f64,
}

/// Compiles one program and runs it everywhere: on how many devices, and what is wrong.
fn check_one(case: &Case, format: Format, target: &Target, devices: &[VkContext]) -> (usize, Vec<String>) {
    let Case { graph, inputs, expected, .. } = case;
    let program = match program(graph, format, target) {
        Ok(program) => program,
        Err(error) => return (0, vec![error]),
    };
    let on_cpu = match Session::of(program.clone(), DeviceChoice::Cpu).and_then(|mut s| s.run(inputs)) {
        Ok(outcome) => outcome.outputs,
        Err(error) => return (0, vec![format!("the CPU reference: {error}")]),
    };
    let hold = |who: &str, error: f64, bound: f64| {
        println!("{} {format} for {}, {who}: relative L2 {error:.2e} of {bound:.0e}", program.model, target.name);
        // Written so that NaN is a fault.
        if error <= bound { None } else { Some(format!("{who}: relative L2 {error:.3e}, the bound is {bound:.0e}")) }
    };
    let mut faults = Vec::new();
    faults.extend(hold("CPU reference against f32", distance(&on_cpu, expected), format_bound(format)));
    let mut n_ran = 0;
    for device in devices {
        let name = &device.info().name;
        match on_device(&program, device, inputs) {
            Ok(Some(outputs)) => {
                n_ran += 1;
                faults.extend(hold(
                    &format!("{name} against the CPU reference"),
                    distance(&outputs, &on_cpu),
                    device_bound(format, case.a8),
                ));
            }
            Ok(None) => println!("{} {format} for {}: {name} lacks what it needs", program.model, target.name),
            Err(error) => faults.push(format!("{name}: {error}")),
        }
    }
    (n_ran, faults)
}

/// Matrices split in ways that the budget's solver may choose.
const SPLIT: [&str; 3] = ["f32/f16:r7", "f16/w4:r3", "w8a8/w4:r5"];

/// Besides the formats that are considered where none are named, those of `more`.
fn check(file: &str, dims: &[&str], a8: f64, more: &[&str]) {
    let graph = model(file, dims);
    let devices = devices().unwrap();
    if devices.is_empty() {
        eprintln!("SKIPPED: no Vulkan device, so {file} was only compiled and computed on the CPU reference");
    }
    let inputs: Vec<Tensor> = graph.inputs().iter().map(|id| random(graph.ty(id.out(0)))).collect();
    let expected = Reference::new(graph.clone()).run(&inputs).unwrap();
    let case = Case { graph, inputs, expected, a8 };
    let mut faults: Vec<String> = Vec::new();
    let mut n_ran = 0;
    for name in shipped_names() {
        let target = Target::shipped(name).unwrap();
        let options = Options { validation: true, ..Options::from_env() };
        let open: Vec<VkContext> =
            devices.iter().map(|d| VkContext::open(d.index, &target.features, &options).unwrap()).collect();
        for format in Format::MENU.into_iter().chain(more.iter().map(|format| format.parse().unwrap())) {
            let what = format!("{file} {format} for {name}");
            let (ran, found) = check_one(&case, format, &target, &open);
            n_ran += ran;
            faults.extend(found.into_iter().map(|fault| format!("{what}: {fault}")));
        }
    }
    assert_eq!(validation_errors(), 0);
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    // Every device meets the floor of the specification.
    assert!(n_ran >= devices.len() * Format::MENU.len(), "only {n_ran} programs ran on {} devices", devices.len());
}

#[test]
fn a_perceptron_in_every_format_on_every_target() {
    let codings = ["wn4a16", "w5a8:c", "w6a32/wn4:r3", "w6a8", "w5a16"];
    check("fmnist-mlp.onnx", &["batch=1"], 2e-3, &[&SPLIT[..], &codings].concat());
}

#[test]
fn a_convolutional_classifier_in_every_format_on_every_target() {
    // Measured on the CPU reference alone: with w8a8 an input changed by 1e-7 moves the output by 2.8e-2.
    check("ppocr-cls.onnx", &["x.0=1", "x.2=48", "x.3=192"], 5e-2, &[&SPLIT[..], &["w5a8:c"]].concat());
}
