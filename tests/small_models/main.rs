//! Small graphs that once went wrong, found by random ones (`tests/properties`): each compiles, also at the least
//! budget that is said to be enough, and its program computes what the graph does, on the CPU reference and on every
//! Vulkan device.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/device.rs"]
mod device;
mod exact;

use nyxc::ir::{DType, Graph, Tensor, TensorType, text};
use nyxc::ops::registry;
use nyxc::passes::{Policy, Settings};
use nyxc::program::file;
use nyxc::runtime::devices;
use nyxc::session::{Compile, CompileError, DeviceChoice, Reference, Session, compile};
use std::io::Write as _;

/// Values from -1 to 1 or 0 to 2, the same in every run.
fn random(ty: &TensorType, seed: u64) -> Tensor {
    let dims = ty.shape.known().unwrap();
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
    if ty.dtype.is_float() {
        return Tensor::from_f32s(ty.dtype, &dims, &values).unwrap();
    }
    let values: Vec<i64> = values.iter().map(|v| (v * 2.0 + 2.0) as i64 % 3).collect();
    Tensor::from_i64s(ty.dtype, &dims, &values).unwrap()
}

fn close(given: &[Tensor], expected: &[Tensor], bound: f32, what: &str) {
    assert_eq!(given.len(), expected.len(), "{what}");
    for (given, expected) in given.iter().zip(expected) {
        assert_eq!(given.ty(), expected.ty(), "{what}");
        let (given, expected) = (given.to_f32s().unwrap(), expected.to_f32s().unwrap());
        let most = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let far = given
            .iter()
            .zip(expected.iter())
            .map(|(a, b)| (a - b).abs())
            .fold(0.0f32, |m, d| if d.is_nan() { d } else { m.max(d) });
        // Written so that NaN is a fault.
        assert!(far <= bound * most, "{what}: off by {far}, of {most}\n{given:?}\n{expected:?}");
    }
}

/// Compiles, at most at the budget that a refusal names.
fn options(graph: &Graph, settings: Settings) -> Compile {
    let mut options = Compile { settings, target: device::target(), n_threads: 1 };
    if let Err(CompileError::OverBudget(over)) = compile(graph, &options, &|_, _, _| {}, None) {
        assert!(over.advice[0].contains(&over.min_feasible_bytes.to_string()), "{over}");
        options.settings.budget_bytes = Some(over.min_feasible_bytes);
    }
    options
}

/// A graph under a policy: `bound` is how far it may be from f32, relative to the largest element.
fn check(body: &str, policy: &str, bound: f32) {
    let graph = text::parse(&format!("graph g onnx\n{body}"), &registry(), &|_, _| None).unwrap();
    graph.verify().unwrap();
    let inputs: Vec<Tensor> =
        graph.inputs().iter().enumerate().map(|(i, id)| random(graph.ty(id.out(0)), i as u64 + 1)).collect();
    let expected = Reference::new(graph.clone()).run(&inputs).unwrap();
    let policy: Policy = policy.parse().unwrap();
    for budget in [1, 1 << 30] {
        let options = options(&graph, Settings { policy, budget_bytes: Some(budget), ..Settings::default() });
        let compiled =
            compile(&graph, &options, &|_, _, _| {}, None).unwrap_or_else(|e| panic!("{policy}: {e}\n{graph}"));
        assert!(Some(compiled.program.plans[0].planned_peak_bytes) <= options.settings.budget_bytes);
        let program = file::read(std::sync::Arc::new(file::to_bytes(&compiled.program).unwrap())).unwrap();
        let on_cpu = Session::of(program.clone(), DeviceChoice::Cpu).unwrap().run(&inputs).unwrap().outputs;
        // At the smallest budget formats are whatever is smallest.
        if budget > 1 || !matches!(policy, Policy::Budget) {
            close(&on_cpu, &expected, bound, &format!("{policy} on the CPU"));
        }
        let all = devices().unwrap_or_default();
        if all.is_empty() {
            let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
        }
        for device in all {
            let outputs =
                Session::of(program.clone(), DeviceChoice::Index(device.index)).unwrap().run(&inputs).unwrap().outputs;
            close(&outputs, &on_cpu, 1e-5, &format!("{policy} on {}", device.name));
        }
    }
}

#[test]
fn positions_of_extrema_and_running_sums_run_on_the_host() {
    let body = "  %x = input : f32[3,5]
  %axis = const [1] : i64[]
  %s = cum_sum(%x, %axis) {exclusive=0, reverse=1} : f32[3,5]
  %r = relu(%s) : f32[3,5]
  %y = arg_max(%r) {axis=1, keepdims=0} : i64[3]
  %z = arg_min(%x) {axis=0, keepdims=1} : i64[1,5]
  output %y
  output %z
  output %r
";
    check(body, "uniform:f32", 1e-6);
    check(body, "budget", 1e-6);
}

#[test]
fn a_type_may_be_taken_from_any_tensor() {
    let body = "  %x = input : f32[2,3]
  %w = const [1.0,2.0,3.0] : f32[3,1]
  %n = const [7] : i64[1]
  %m = matmul(%x, %w) : f32[2,1]
  %y = cast_like(%n, %m) : f32[1]
  output %y
  output %m
";
    check(body, "uniform:f32", 1e-6);
    check(body, "budget", 1e-2);
}

/// One kernel computes both, and holds integers in 32 bits.
#[test]
fn narrow_integers_wrap_in_the_middle_of_an_expression() {
    for (dtype, text) in
        [("u8", "[200,3,255]"), ("i8", "[100,-128,3]"), ("u16", "[65535,4,60000]"), ("i16", "[-32768,9,32767]")]
    {
        let body = format!(
            "  %x = input : {dtype}[2,3]
  %c = const {text} : {dtype}[3]
  %s = add(%x, %c) : {dtype}[2,3]
  %d = add(%s, %s) : {dtype}[2,3]
  %n = mul(%d, %c) : {dtype}[2,3]
  %y = cast(%n) {{to=f32}} : f32[2,3]
  %z = greater(%d, %x) : bool[2,3]
  output %y
  output %z
"
        );
        check(&body, "uniform:f32", 0.0);
    }
}

#[test]
fn what_one_node_gives_another_is_planned_whatever_the_formats() {
    let body = format!(
        "  %x = input : f32[7,7,4,4]
  %q = input : f16[1,6,17,6]
  %k = input : f16[1,2,31,6]
  %v = input : f16[1,2,31,4]
  %w = const [{}] : f32[7,7,4,1]
  %y = matmul(%x, %w) : f32[7,7,4,1]
  %z = attention(%q, %k, %v) {{is_causal=1, scale=0.5f, softcap=2.0f}} : f16[1,6,17,4]
  output %y
  output %z
",
        list(196)
    );
    check(&body, "uniform:f32", 1e-2);
    check(&body, "budget", 1e-2);
}

fn list(n: usize) -> String {
    (0..n).map(|i| format!("{:?}", (i * 37 % 101) as f32 / 50.0 - 1.0)).collect::<Vec<_>>().join(",")
}

#[test]
fn a_constant_that_is_compared_too_may_be_stored_twice() {
    let body = format!(
        "  %x = input : f32[2,6,11,9]
  %c = const [{}] : f32[2,6,11,9]
  %e = equal(%x, %c) : bool[2,6,11,9]
  %g = gelu(%x) : f32[2,6,11,9]
  %s = add(%g, %c) : f32[2,6,11,9]
  output %e
  output %s
",
        list(1188)
    );
    check(&body, "budget", 1e-2);
}

/// Only the best of what is stored as f16 equals one of what it was rounded from, where the model keeps that.
#[test]
fn places_of_extrema_are_found_among_what_is_rounded() {
    let body = "  %x = input : f32[3,5]
  %n = neg(%x) : f32[3,5]
  %y = arg_max(%n) {axis=1, keepdims=0} : i64[3]
  %z = arg_min(%n) {axis=0, keepdims=1, select_last_index=1} : i64[1,5]
  %h = hardmax(%n) {axis=1} : f32[3,5]
  output %n
  output %y
  output %z
  output %h
";
    check(body, "uniform:f16", 1e-3);
}

#[test]
fn models_of_f64_take_what_is_said() {
    let body = format!(
        "  %x = input : f64[7,1,32]
  %c = const [{}] : f64[32]
  %w = const [{}] : f64[5,1,2]
  %b = const [{}] : f64[5]
  %s = add(%x, %c) : f64[7,1,32]
  %y = conv(%s, %w, %b) {{dilations=[1], group=1, kernel_shape=[2], pads=[0,2], strides=[1]}} : f64[7,5,33]
  output %y
",
        list(32),
        list(10),
        list(5)
    );
    check(&body, "uniform:f32", 1e-2);
    check(&body, "budget", 1e-2);
}

#[test]
fn an_output_that_the_last_node_reads_is_still_there() {
    check(
        "  %x = input : f32[4]\n  %y = relu(%x) : f32[4]\n  %z = neg(%y) : f32[4]\n  output %x\n  output %y\n  output %z\n",
        "uniform:f32",
        0.0,
    );
}

#[test]
fn activations_are_quantized_wherever_products_read_them() {
    let bound = 3e-2;
    let line = "  %x = input : f32[1,4,9]
  %w = const [0.5,-1.0,0.25,0.75] : f32[4,1,1]
  %y = conv(%x, %w) {group=4, kernel_shape=[1], pads=[1,1]} : f32[1,4,11]
  output %y
";
    check(line, "uniform:w8a8", bound);
    let vector = "  %x = input : f32[4]
  %w = const [0.5,-1.0,0.25,0.75,-0.5,1.0,0.125,-0.25] : f32[4,2]
  %y = matmul(%x, %w) : f32[2]
  output %y
";
    check(vector, "uniform:w8a8", bound);
    let transposed = "  %x = input : f32[4,3]
  %w = const [0.5,-1.0,0.25,0.75,-0.5,1.0,0.125,-0.25] : f32[4,2]
  %y = gemm(%x, %w) {transA=1} : f32[3,2]
  output %y
";
    check(transposed, "uniform:w8a8", bound);
}

#[test]
fn outputs_that_are_constants_take_their_bytes_of_the_budget() {
    let body = "  %x = input : i64[7,9]
  %c = const [12,5,-3] : i64[3]
  %d = mul(%c, %c) : i64[3]
  %y = abs(%x) : i64[7,9]
  output %d
  output %y
  output %c
";
    check(body, "budget", 0.0);
    check(body, "tiered", 0.0);
    // A cast that no kernel absorbs.
    check(
        "  %x = input : bf16[33]\n  %a = const [0] : i64[1]\n  %y = unsqueeze(%x, %a) : bf16[1,33]\n  output %y\n",
        "budget",
        0.0,
    );
}

#[test]
fn tensors_without_elements_need_no_bytes() {
    let body = "  %x = input : f32[0,3]
  %b = const [1.0,2.0,3.0] : f32[3]
  %y = add(%x, %b) : f32[0,3]
  output %y
";
    check(body, "uniform:f32", 0.0);
    check(body, "budget", 0.0);
    check("  %c = const [] : i64[0]\n  %y = neg(%c) : i64[0]\n  output %y\n", "uniform:f16", 0.0);
}

#[test]
fn a_model_without_floats_has_a_certificate_that_reads_back() {
    check(
        "  %x = input : bool[3,5]\n  %y = input : bool[]\n  %z = equal(%x, %y) : bool[3,5]\n  output %z\n",
        "budget",
        0.0,
    );
}

#[test]
fn one_constant_may_be_both_scale_and_bias() {
    let body = "  %x = input : f32[1,3,4]
  %c = const [0.5,1.5,-0.75] : f32[3]
  %y = instance_normalization(%x, %c, %c) {epsilon=0.01f} : f32[1,3,4]
  output %y
";
    check(body, "uniform:f32", 1e-5);
}

#[test]
fn a_refusal_of_the_simple_rule_names_what_that_rule_needs() {
    // Another mixture of formats than that of a tier takes less.
    let list =
        |scale: f32| (0..33).map(|i| format!("{:?}", scale * (i * 7 % 11 - 5) as f32)).collect::<Vec<_>>().join(",");
    let body = format!(
        "  %x = input : f32[17,1]
  %w = const [{}] : f32[1,33]
  %b = const [{}] : f32[33]
  %m = matmul(%x, %w) : f32[17,33]
  %y = add(%m, %b) : f32[17,33]
  output %y
",
        list(0.25),
        list(-0.125)
    );
    check(&body, "tiered", 0.3);
}

#[test]
fn a_matrix_in_slices_runs_on_a_device_that_binds_four_buffers() {
    // Two of the matrix (codes, scales), the other operand and the result: the bias is left to a kernel of its own.
    let mut target = device::target();
    target.limits.max_per_stage_descriptor_storage_buffers = 4;
    target.limits.max_storage_buffer_range = 16 << 10;
    let registry = registry();
    let mut graph = Graph::new("g", nyxc::ir::Level::Onnx);
    let add = |graph: &mut Graph, name: &str, op: &str, operands: [nyxc::ir::ValueId; 2]| {
        let op = nyxc::ir::Op::new(registry.by_onnx(op).unwrap(), nyxc::ir::Attrs::new());
        graph.add_op(name, op, &operands.map(Some), &[name.into()]).unwrap().out(0)
    };
    let f32s = |dims: &[usize]| TensorType::of(nyxc::ir::DType::F32, dims);
    let x = graph.add_input("x", f32s(&[3, 64]));
    let (w, b) = (graph.add_const("w", random(&f32s(&[64, 512]), 5)), graph.add_const("b", random(&f32s(&[512]), 6)));
    let product = add(&mut graph, "product", "MatMul", [x, w]);
    let y = add(&mut graph, "y", "Add", [product, b]);
    graph.add_output("y", y);
    let inputs = [random(&f32s(&[3, 64]), 7)];
    let expected = Reference::new(graph.clone()).run(&inputs).unwrap();
    for (policy, bound) in [("uniform:w8a32", 2e-2), ("uniform:w8a8", 4e-2)] {
        let settings = Settings { policy: policy.parse().unwrap(), ..Settings::default() };
        let options = Compile { settings, target: target.clone(), n_threads: 1 };
        let program = compile(&graph, &options, &|_, _, _| {}, None).unwrap().program;
        let plan = &program.plans[0];
        assert!(plan.nodes.iter().all(|node| node.place == "device"), "{policy}: {:?}", plan.nodes);
        let n_most = |step: &nyxc::program::Step| match step {
            nyxc::program::Step::Device(list) => list.iter().map(|d| d.bindings.len()).max(),
            nyxc::program::Step::Host(_) => None,
        };
        assert_eq!(plan.entries[0].steps.iter().filter_map(n_most).max(), Some(4), "{policy}: the matrix is in slices");
        // No device has so small a range, and none is asked to.
        let program = nyxc::program::Program { target: device::target(), ..program };
        for device in devices().unwrap_or_default() {
            let mut session = Session::of(program.clone(), DeviceChoice::Index(device.index)).unwrap();
            close(&session.run(&inputs).unwrap().outputs, &expected, bound, policy);
        }
    }
}

#[test]
fn what_is_empty_is_not_quantized() {
    let body = "  %x = input : f32[4,5,5,7]
  %none = const [] : f32[7,0]
  %e = matmul(%x, %none) : f32[4,5,5,0]
  %w = const [0.13302302,0.60138834,0.56371486,-0.14719772,-0.9684968] : f32[1,5,1,1]
  %b = const [1.6322203] : f32[1]
  %y = conv(%e, %w, %b) {kernel_shape=[1,1], pads=[2,2,0,2], strides=[2,1]} : f32[4,1,4,4]
  output %y
";
    check(body, "uniform:w8a8", 1e-2);
}

/// What a graph gives for these inputs on the CPU reference and on every device; each result is within `bound` of the
/// largest.
fn check_values(body: &str, inputs: &[Tensor], expected: &[f32], bound: f32) {
    let graph = text::parse(&format!("graph g onnx\n{body}"), &registry(), &|_, _| None).unwrap();
    graph.verify().unwrap();
    let settings = Settings { policy: "uniform:f32".parse().unwrap(), ..Settings::default() };
    let options = Compile { settings, target: device::target(), n_threads: 1 };
    let program = compile(&graph, &options, &|_, _, _| {}, None).unwrap().program;
    let places = devices().unwrap_or_default().into_iter().map(|d| (d.name, DeviceChoice::Index(d.index)));
    for (name, device) in [("the CPU".to_owned(), DeviceChoice::Cpu)].into_iter().chain(places) {
        let outputs = Session::of(program.clone(), device).unwrap().run(inputs).unwrap().outputs;
        let dims = outputs[0].dims();
        let expected = Tensor::from_f32s(nyxc::ir::DType::F32, &dims, expected).unwrap();
        close(&outputs, &[expected], bound, &name);
    }
}

/// tt-metal 51661, 56384: quotients that f32 does not hold.
#[test]
fn the_rest_of_a_division_is_exact_however_small_the_divisor() {
    let a = [1.0f32, 2.0, 5.0, 100.0, 360.0, 1000.0, 7.5, -100.0, 1e6, 1e9, 3e38, -1e-3];
    let x = Tensor::from_f32s(nyxc::ir::DType::F32, &[a.len()], &a).unwrap();
    for (divisor, fmod) in [(0.1f32, 1), (1e-30, 1), (-0.1, 1)] {
        let body = format!(
            "  %x = input : f32[12]
  %c = const [{divisor:?}] : f32[1]
  %y = mod(%x, %c) {{fmod={fmod}}} : f32[12]
  output %y
"
        );
        check_values(&body, std::slice::from_ref(&x), &a.map(|a| a % divisor), 0.0);
    }
}

/// llama.cpp 13813: lavapipe ends a loop after so many turns, and the last terms of a deep product were left out.
#[test]
fn a_product_as_deep_as_a_vocabulary_has_all_its_terms() {
    let body = "  %a = input : f32[64,1]
  %b = input : f32[1,64]
  %sa = const [64,32000] : i64[2]
  %sb = const [32000,64] : i64[2]
  %ea = expand(%a, %sa) : f32[64,32000]
  %eb = expand(%b, %sb) : f32[32000,64]
  %y = matmul(%ea, %eb) : f32[64,64]
  output %y
";
    let f32s = |dims: &[usize]| TensorType::of(nyxc::ir::DType::F32, dims);
    let (a, b) = (random(&f32s(&[64, 1]), 1), random(&f32s(&[1, 64]), 2));
    let (x, y) = (a.to_f32s().unwrap(), b.to_f32s().unwrap());
    let product = |i: usize| (32000.0 * f64::from(x[i / 64]) * f64::from(y[i % 64])) as f32;
    let expected: Vec<f32> = (0..64 * 64).map(product).collect();
    check_values(body, &[a.clone(), b.clone()], &expected, 1e-4);
}
