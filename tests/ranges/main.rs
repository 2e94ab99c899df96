//! Sizes that change between runs: one program for every size of its ranges, on every Vulkan device here, while the
//! validation layers watch. Its outputs are those of the program for the range N..N to the bit, and near those of the
//! graph of size N alone on the CPU reference.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

mod files;
mod operators;
mod sizes;

use nyxc::import::{DimBinding, ImportOptions, import};
use nyxc::ir::{Class, DType, Dim, Graph, Tensor, TensorType, text};
use nyxc::ops::registry;
use nyxc::passes::{Policy, Settings};
use nyxc::program::{Program, file};
use nyxc::runtime::{Options, VkContext, devices, validation_errors};
use nyxc::session::{Compile, DeviceChoice, Reference, Session, compile};
use nyxc::targets::{Target, shipped_names};
use std::path::Path;

type At<'a> = &'a [(&'a str, i64)];

/// The graph of a text behind a line that names its sizes.
fn read(sizes: &str, body: &str) -> Graph {
    let text = format!("graph g onnx{sizes}\n{body}");
    let graph = text::parse(&text, &registry(), &|_, _| None).unwrap_or_else(|e| panic!("{e}\n{text}"));
    graph.verify().unwrap_or_else(|e| panic!("{e}"));
    // Large constants are printed as their hash.
    let constants: Vec<&Tensor> = graph.order().into_iter().filter_map(|id| graph.node(id).constant()).collect();
    let source =
        |hash: &str, _: &TensorType| constants.iter().find(|t| t.hash().to_string() == hash).map(|t| (*t).clone());
    assert_eq!(text::parse(&graph.to_string(), &registry(), &source).unwrap(), graph);
    graph
}

fn where_(ranges: &[(&str, i64, i64)]) -> String {
    let list: Vec<String> = ranges.iter().map(|(name, min, max)| format!("{name} in {min}..{max}")).collect();
    format!(" where {}", list.join(", "))
}

fn compiled(graph: &Graph, policy: &str, target: &Target) -> Program {
    let settings = Settings { policy: policy.parse::<Policy>().unwrap(), ..Settings::default() };
    let options = Compile { settings, target: target.clone(), n_threads: 0 };
    compile(graph, &options, &|_, _, _| {}, None).unwrap_or_else(|e| panic!("{policy}: {e}")).program
}

/// Values that differ by seed: floats of -1 to 1, integers 0 to 3.
fn random(ty: &TensorType, mut state: u64) -> Tensor {
    let dims = ty.shape.known().unwrap();
    let mut next = || {
        // SplitMix64 (Steele et al. 2014).
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let n = dims.iter().product();
    match ty.dtype.class() {
        Class::Float => Tensor::from_f32s(
            ty.dtype,
            &dims,
            &(0..n).map(|_| (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect::<Vec<_>>(),
        ),
        _ => Tensor::from_i64s(ty.dtype, &dims, &(0..n).map(|_| (next() & 3) as i64).collect::<Vec<_>>()),
    }
    .unwrap()
}

fn sized(graph: &Graph, at: At) -> Graph {
    graph.substitute(&|symbol| at.iter().find(|(name, _)| *name == symbol.name()).map(|(_, n)| Dim::Known(*n)))
}

fn inputs(graph: &Graph, at: At) -> Vec<Tensor> {
    let graph = sized(graph, at);
    graph.inputs().iter().zip(1..).map(|(id, seed)| random(graph.ty(id.out(0)), seed)).collect()
}

fn distance(given: &[Tensor], expected: &[Tensor]) -> f64 {
    assert_eq!(given.len(), expected.len());
    let one = |(given, expected): (&Tensor, &Tensor)| {
        assert_eq!(given.ty(), expected.ty());
        let pairs: Vec<(f64, f64)> = match given.dtype().class() {
            Class::Float => given
                .to_f32s()
                .unwrap()
                .iter()
                .zip(expected.to_f32s().unwrap().iter())
                .map(|(a, b)| (f64::from(*a), f64::from(*b)))
                .collect(),
            _ => given
                .to_i64s()
                .unwrap()
                .iter()
                .zip(&expected.to_i64s().unwrap())
                .map(|(a, b)| (*a as f64, *b as f64))
                .collect(),
        };
        let norm: f64 = pairs.iter().map(|(_, b)| b * b).sum();
        (pairs.iter().map(|(a, b)| (a - b).powi(2)).sum::<f64>() / norm.max(1e-30)).sqrt()
    };
    given.iter().zip(expected).map(one).fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
}

/// Every policy and every size, on the CPU reference and every device here.
fn check(ranges: &[(&str, i64, i64)], body: &str, sizes: &[At], policies: &[(&str, f64)]) {
    let graph = read(&where_(ranges), body);
    let options = Options { validation: true, ..Options::from_env() };
    let devices = devices().unwrap();
    if devices.is_empty() {
        eprintln!("SKIPPED: no Vulkan device, so only the CPU reference ran");
    }
    for &(policy, bound) in policies {
        let lavapipe = Target::shipped("lavapipe").unwrap();
        let target = devices.first().map_or(&lavapipe, |d| &d.target);
        let program = compiled(&graph, policy, target);
        let mut bytes = Vec::new();
        file::write(&program, &mut bytes).unwrap();
        let mut on_cpu = Session::load(bytes.clone(), DeviceChoice::Cpu).unwrap();
        let contexts: Vec<VkContext> =
            devices.iter().take(1).map(|d| VkContext::open(d.index, &target.features, &options).unwrap()).collect();
        let mut sessions: Vec<Session> = contexts
            .iter()
            .map(|c| Session::on(file::read(std::sync::Arc::new(bytes.clone())).unwrap(), c).unwrap())
            .collect();
        for at in sizes {
            let inputs = inputs(&graph, at);
            let expected = Reference::new(sized(&graph, at)).run(&inputs).unwrap();
            let what = format!("{policy} at {at:?}");
            let reference = on_cpu.run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}")).outputs;
            assert!(
                distance(&reference, &expected) <= bound,
                "{what} on the CPU: {:e}",
                distance(&reference, &expected)
            );
            let given = |name: &str| at.iter().find(|(own, _)| *own == name).map(|(_, n)| *n);
            // Data-dependent sizes keep their ranges.
            let exact: Vec<(&str, i64, i64)> =
                ranges.iter().map(|&(name, min, max)| given(name).map_or((name, min, max), |n| (name, n, n))).collect();
            let alone = compiled(&read(&where_(&exact), body), policy, target);
            for (session, context) in sessions.iter_mut().zip(&contexts) {
                let given = session.run(&inputs).unwrap_or_else(|e| panic!("{what}: {e}")).outputs;
                assert!(distance(&given, &expected) <= bound, "{what}: {:e} of {bound:e}", distance(&given, &expected));
                assert_eq!(session.measured_peak_bytes(), program.plans[0].planned_peak_bytes, "{what}");
                assert_eq!(session.run(&inputs).unwrap().outputs, given, "{what}: the second run");
                let one = Session::on(alone.clone(), context).unwrap().run(&inputs).unwrap().outputs;
                assert_eq!(one, given, "{what}: the program of N..N has other bits");
            }
        }
    }
    assert_eq!(validation_errors(), 0);
}

const F32: &[(&str, f64)] = &[("uniform:f32", 1e-6)];
const ALL: &[(&str, f64)] = &[
    ("uniform:f32", 1e-6),
    ("uniform:f16", 5e-3),
    ("uniform:w8a16", 5e-2),
    ("uniform:w4a32", 0.5),
    ("uniform:w8a8", 5e-2),
];
