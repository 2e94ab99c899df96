//! Sizes that change between runs: one program for every size of its ranges, on every Vulkan device here, while the validation layers watch. Its outputs
//! are those of the program for the range N..N to the bit, and near those of the graph of size N alone on the CPU reference.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

use nyxc::import::{DimBinding, ImportOptions, import};
use nyxc::ir::{Class, DType, Dim, Graph, Tensor, TensorType, text};
use nyxc::ops::registry;
use nyxc::passes::{Policy, Settings};
use nyxc::program::{Program, file};
use nyxc::runtime::{Options, VkContext, devices, validation_errors};
use nyxc::session::{Compile, DeviceChoice, Reference, Session, compile};
use nyxc::target::{Target, shipped_names};
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
    compile(graph, &options, &|_, _, _| {}, &mut |_, _, _| {}).unwrap_or_else(|e| panic!("{policy}: {e}")).program
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
            // Sizes that data tell keep their ranges.
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

#[test]
fn products_normalisation_and_softmax_in_every_kind_of_format() {
    let body = "  %x = input : f32[1,seq,64]
  %w = input : f32[64,64]
  %s = input : f32[64]
  %m = mat_mul(%x, %w) : f32[1,seq,64]
  %n = layer_normalization(%m, %s) {axis=-1} : f32[1,seq,64]
  %t = transpose(%n) {perm=[0, 2, 1]} : f32[1,64,seq]
  %a = mat_mul(%n, %t) : f32[1,seq,seq]
  %p = softmax(%a) {axis=-1} : f32[1,seq,seq]
  %y = mat_mul(%p, %n) : f32[1,seq,64]
  output %y
";
    check(
        &[("seq", 1, 70)],
        &body.replace("mat_mul", "matmul"),
        &[&[("seq", 1)], &[("seq", 5)], &[("seq", 70)], &[("seq", 64)], &[("seq", 1)]],
        ALL,
    );
}

#[test]
fn a_table_that_is_looked_up_and_multiplied_with_is_stored_once() {
    // As language models tie their embedding to their logits; the table as it is, and saved as f16.
    let body = |table: &str| {
        format!(
            "{table}  %i = input : i64[1,seq]
  %x = gather(%w, %i) : f32[1,seq,64]
  %t = transpose(%w) {{perm=[1,0]}} : f32[64,1200]
  %y = matmul(%x, %t) : f32[1,seq,1200]
  output %y
"
        )
    };
    let numbers: Vec<String> = (0..1200 * 64).map(|i| format!("{}.0", (i * 37 + i / 64 * 11) % 23 - 11)).collect();
    let plain = format!("  %w = const [{}] : f32[1200,64]\n", numbers.join(","));
    let halves =
        format!("  %h = const [{}] : f16[1200,64]\n  %w = cast(%h) {{to=f32}} : f32[1200,64]\n", numbers.join(","));
    let (ranges, sizes): (_, [At; 3]) = ([("seq", 1, 9)], [&[("seq", 1)], &[("seq", 9)], &[("seq", 4)]]);
    let lavapipe = Target::shipped("lavapipe").unwrap();
    for body in [body(&plain), body(&halves)] {
        check(&ranges, &body, &sizes, ALL);
        let graph = read(&where_(&ranges), &body);
        for (policy, bits) in [
            ("uniform:f32", 32),
            ("uniform:f16", 16),
            ("uniform:w16a32", 16),
            ("uniform:w8a32", 9),
            ("uniform:w4a16", 5),
        ] {
            let planned = compiled(&graph, policy, &lavapipe).plans[0].planned_peak_bytes;
            // Beside the table: 9 rows of results, and parameters.
            assert!(planned < 1200 * 64 * bits / 8 + (64 << 10), "{policy}: {planned}");
        }
    }
}

#[test]
fn a_cache_grows_by_what_is_new_from_nothing_on() {
    let body = "  %past = input : f32[2,past,8]
  %new = input : f32[2,seq,8]
  %q = input : f32[2,seq,8]
  %k = concat(%past, %new) {axis=1} : f32[2,past+seq,8]
  %t = transpose(%k) {perm=[0, 2, 1]} : f32[2,8,past+seq]
  %a = matmul(%q, %t) : f32[2,seq,past+seq]
  %p = softmax(%a) {axis=-1} : f32[2,seq,past+seq]
  %y = matmul(%p, %k) : f32[2,seq,8]
  output %y
  output %k as \"present\"
";
    let sizes: &[At] = &[
        &[("past", 0), ("seq", 3)],
        &[("past", 3), ("seq", 1)],
        &[("past", 40), ("seq", 17)],
        &[("past", 4), ("seq", 1)],
    ];
    check(&[("past", 0, 40), ("seq", 1, 17)], body, sizes, &ALL[..2]);
}

#[test]
fn parts_begin_and_end_where_other_sizes_say() {
    let body = "  %pos = input : f32[2,past+seq]
  %x = input : f32[2,seq]
  %old = input : f32[2,past]
  %p = sizes() {dtype=i64, value=d[past]} : i64[1]
  %s = sizes() {dtype=i64, value=d[seq]} : i64[1]
  %zero = const [0] : i64[1]
  %one = const [1] : i64[1]
  %minus = const [-1] : i64[1]
  %end = const [9223372036854775807] : i64[1]
  %start = const [-9223372036854775808] : i64[1]
  %table = const [1.0,2.0,3.0,4.0,5.0] : f32[5]
  %new = slice(%pos, %p, %end, %one) : f32[2,seq]
  %y = add(%new, %x) : f32[2,seq]
  %before = slice(%pos, %zero, %p, %one) : f32[2,past]
  %z = mul(%before, %old) : f32[2,past]
  %back = slice(%pos, %end, %start, %one, %minus) : f32[2,past+seq]
  %w = add(%back, %pos) : f32[2,past+seq]
  %last = slice(%pos, %minus, %end, %one) : f32[2,1]
  %v = sub(%y, %last) : f32[2,seq]
  %rows = slice(%table, %zero, %s) : f32[min(5,seq)]
  %r = relu(%rows) : f32[min(5,seq)]
  output %v
  output %z
  output %w
  output %r
";
    let sizes: &[At] = &[
        &[("past", 0), ("seq", 3)],
        &[("past", 9), ("seq", 7)],
        &[("past", 4), ("seq", 1)],
        &[("past", 1), ("seq", 6)],
    ];
    check(&[("past", 0, 9), ("seq", 1, 7)], body, sizes, &ALL[..2]);
}

#[test]
fn images_of_any_height_and_width() {
    let body = "  %x = input : f32[n,3,32*h,w]
  %k = input : f32[8,3,3,3]
  %d = input : f32[8,1,3,3]
  %a = conv(%x, %k) {pads=[1, 1, 1, 1], strides=[2, 2]} : f32[n,8,16*h,floordiv(w-1,2)+1]
  %r = relu(%a) : f32[n,8,16*h,floordiv(w-1,2)+1]
  %b = conv(%r, %d) {group=8, pads=[1, 1, 1, 1]} : f32[n,8,16*h,floordiv(w-1,2)+1]
  %m = max_pool(%b) {kernel_shape=[2, 2], strides=[2, 2]} : f32[n,8,8*h,floordiv(w-3,4)+1]
  %g = global_average_pool(%m) : f32[n,8,1,1]
  %y = mul(%m, %g) : f32[n,8,8*h,floordiv(w-3,4)+1]
  output %y
";
    let sizes: &[At] =
        &[&[("n", 1), ("h", 1), ("w", 7)], &[("n", 3), ("h", 2), ("w", 40)], &[("n", 2), ("h", 1), ("w", 33)]];
    check(&[("n", 1, 3), ("h", 1, 2), ("w", 5, 40)], body, sizes, &ALL[..2]);
}

#[test]
fn parts_repetitions_and_numbers_that_are_counted_from_sizes() {
    let body = "  %x = input : f32[seq,6]
  %zero = const [0] : i64[]
  %one = const [1] : i64[]
  %ends = const [-1] : i64[1]
  %starts = const [1] : i64[1]
  %axes = const [0] : i64[1]
  %five = const [5] : i64[1]
  %n = sizes() {dtype=i64, scalar=1, value=d[seq]} : i64[]
  %s = sizes() {dtype=i64, value=d[2*seq,6]} : i64[2]
  %to = sizes() {dtype=i64, value=d[3,seq,6]} : i64[3]
  %i = range(%zero, %n, %one) : i64[seq]
  %f = cast(%i) {to=f32} : f32[seq]
  %u = unsqueeze(%f, %ends) : f32[seq,1]
  %b = add(%x, %u) : f32[seq,6]
  %c = concat(%b, %x) {axis=0} : f32[2*seq,6]
  %e = expand(%b, %to) : f32[3,seq,6]
  %p = slice(%b, %starts, %five, %axes) : f32[max(min(5,seq)-1,0),6]
  %r = reshape(%c, %s) : f32[2*seq,6]
  %q = reduce_sum(%e, %axes) {keepdims=0} : f32[seq,6]
  %z = gather(%x, %i) {axis=0} : f32[seq,6]
  %len = cast(%n) {to=f32} : f32[]
  %scaled = div(%z, %len) : f32[seq,6]
  output %p
  output %r
  output %q
  output %scaled
  output %i
  output %s
";
    check(&[("seq", 1, 300)], body, &[&[("seq", 1)], &[("seq", 4)], &[("seq", 300)], &[("seq", 67)]], F32);
}

#[test]
fn what_needs_its_sizes_to_be_written_out_runs_on_the_host() {
    let body = "  %x = input : f32[seq,2,5]
  %w = input : f32[1,12,5]
  %r = input : f32[1,12,3]
  %h = lstm(%x, %w, %r) {hidden_size=3} : f32[seq,1,2,3]
  %y = relu(%h) : f32[seq,1,2,3]
  output %y
";
    check(&[("seq", 1, 9)], body, &[&[("seq", 1)], &[("seq", 9)], &[("seq", 4)]], F32);
    let graph = read(&where_(&[("seq", 1, 9)]), body);
    let program = compiled(&graph, "uniform:f32", &Target::shipped("lavapipe").unwrap());
    let hosts =
        program.plans[0].entries[0].steps.iter().filter(|step| matches!(step, nyxc::program::Step::Host(_))).count();
    assert_eq!(hosts, 1);
    // More steps than are written out, known or not.
    check(&[("seq", 1, 1100)], body, &[&[("seq", 1)], &[("seq", 1100)]], F32);
    let graph = read("", &body.replace("seq", "1100"));
    let mut session =
        Session::of(compiled(&graph, "uniform:f32", &Target::shipped("lavapipe").unwrap()), DeviceChoice::Cpu).unwrap();
    let inputs = inputs(&graph, &[]);
    assert_eq!(session.run(&inputs).unwrap().outputs, Reference::new(graph).run(&inputs).unwrap());
    // Its type rule reads a constant of ten elements.
    let body = "  %x = input : f32[2,1,n,1,n]
  %p = const [0,0,0,0,1,1,0,2,0,-3] : i64[10]
  %y = pad(%x, %p) {mode=\"wrap\"} : f32[3,1,n+2,1,n-2]
  %z = relu(%y) : f32[3,1,n+2,1,n-2]
  output %z
";
    check(&[("n", 3, 9)], body, &[&[("n", 3)], &[("n", 9)], &[("n", 4)]], F32);
}

/// As quantizers of ONNX Runtime save models: integer products, their sums in parts where f32 would not hold them, and scales around them.
#[test]
fn products_of_codes_take_any_size_on_the_device() {
    let on_device = |ranges: &[(&str, i64, i64)], body: &str, sizes: &[At]| {
        check(ranges, body, sizes, F32);
        let program = compiled(&read(&where_(ranges), body), "uniform:f32", &Target::shipped("lavapipe").unwrap());
        assert!(
            !program.plans[0].entries[0].steps.iter().any(|step| matches!(step, nyxc::program::Step::Host(_))),
            "{body}"
        );
    };
    let codes = |n: usize| (0..n).map(|i| (i * 89 % 251).to_string()).collect::<Vec<_>>().join(",");
    let dynamic = format!(
        "  %x = input : f32[b,s,300]
  %w = const [{}] : u8[300,3]
  %z = const [7,0,255] : u8[3]
  %o = input : u8[b,300,2]
  %q, %d, %p = dynamic_quantize_linear(%x) : u8[b,s,300], f32[], u8[]
  %i = mat_mul_integer(%q, %w, %p, %z) : i32[b,s,3]
  %j = mat_mul_integer(%q, %o, %p) : i32[b,s,2]
  %f = cast(%i) {{to=f32}} : f32[b,s,3]
  %y = mul(%f, %d) : f32[b,s,3]
  output %y
  output %j
",
        codes(900)
    );
    on_device(
        &[("b", 1, 3), ("s", 1, 9)],
        &dynamic,
        &[&[("b", 1), ("s", 1)], &[("b", 3), ("s", 9)], &[("b", 2), ("s", 4)]],
    );
    let convolved = format!(
        "  %x = input : u8[n,40,h,w]
  %k = const [{}] : u8[2,40,3,3]
  %z = const [3] : u8[]
  %zk = const [100] : u8[]
  %c = conv_integer(%x, %k, %z, %zk) {{pads=[1,1,1,1], strides=[2,2]}} : i32[n,2,floordiv(h-1,2)+1,floordiv(w-1,2)+1]
  output %c
",
        codes(720)
    );
    on_device(
        &[("n", 1, 2), ("h", 1, 9), ("w", 2, 8)],
        &convolved,
        &[&[("n", 1), ("h", 1), ("w", 2)], &[("n", 2), ("h", 9), ("w", 8)], &[("n", 2), ("h", 4), ("w", 5)]],
    );
    let linear = "  %x = input : f32[n,3]
  %w = const [1,2,250,7,9,130] : u8[3,2]
  %s = const [0.02] : f32[]
  %z = const [128] : u8[]
  %q = quantize_linear(%x, %s, %z) : u8[n,3]
  %p = q_linear_mat_mul(%q, %s, %z, %w, %s, %z, %s, %z) : u8[n,2]
  %v = const [0.5,0.25] : f32[2]
  %y = dequantize_linear(%p, %s, %z) : f32[n,2]
  %c = quantize_linear(%y, %v) {axis=1} : u8[n,2]
  output %y
  output %c
";
    on_device(&[("n", 1, 7)], linear, &[&[("n", 1)], &[("n", 7)], &[("n", 4)]]);
    let blocks = format!(
        "  %x = input : f32[b,s,32]
  %w = const [{}] : u8[3,2,8]
  %d = const [0.5,0.25,2.0,1.0,0.125,0.75] : f32[6]
  %y = mat_mul_n_bits(%x, %w, %d) {{K=32, N=3, bits=4, block_size=16}} : f32[b,s,3]
  output %y
",
        codes(48)
    );
    on_device(
        &[("b", 1, 3), ("s", 1, 9)],
        &blocks,
        &[&[("b", 1), ("s", 1)], &[("b", 3), ("s", 9)], &[("b", 2), ("s", 4)]],
    );
}

#[test]
fn extremes_of_nothing_are_those_of_the_type() {
    let body = "  %x = input : i64[3,n]
  %f = input : f32[n,3]
  %i = cast(%x) {to=i32} : i32[3,n]
  %b = cast(%x) {to=u8} : u8[3,n]
  %a = const [-1] : i64[1]
  %o = const [0] : i64[1]
  %y = reduce_max(%i, %a) {keepdims=0} : i32[3]
  %z = reduce_min(%b, %a) {keepdims=0} : u8[3]
  %w = reduce_max(%f, %o) {keepdims=0} : f32[3]
  %v = reduce_sum(%f, %o) {keepdims=0} : f32[3]
  output %y
  output %z
  output %v
";
    check(&[("n", 0, 200)], body, &[&[("n", 0)], &[("n", 200)], &[("n", 1)], &[("n", 0)]], F32);
    let graph = read(&where_(&[("n", 0, 200)]), &body.replace("  output %v\n", "  output %w\n"));
    let none = inputs(&graph, &[("n", 0)]);
    let cpu = (Target::shipped("lavapipe").unwrap(), DeviceChoice::Cpu);
    let device = devices().unwrap().first().map(|d| (d.target.clone(), DeviceChoice::Index(d.index)));
    for (target, choice) in [Some(cpu), device].into_iter().flatten() {
        let outputs =
            Session::of(compiled(&graph, "uniform:f32", &target), choice).unwrap().run(&none).unwrap().outputs;
        assert_eq!(outputs[0].to_i64s().unwrap(), [i64::from(i32::MIN); 3]);
        assert_eq!(outputs[1].to_i64s().unwrap(), [255; 3]);
        assert_eq!(outputs[2].to_f32s().unwrap().as_ref(), [f32::NEG_INFINITY; 3]);
    }
}

#[test]
fn corners_of_a_size_that_is_rounded_are_those_of_the_standard() {
    let body = "  %x = input : f32[n,1,n,5]
  %s = const [1.0,1.0,1.0,0.5] : f32[4]
  %y = resize(%x, _, %s) {coordinate_transformation_mode=\"align_corners\", mode=\"nearest\", nearest_mode=\"floor\"} : f32[n,1,n,2]
  output %y
";
    check(&[("n", 1, 4)], body, &[&[("n", 3)], &[("n", 1)], &[("n", 4)]], F32);
}

#[test]
fn what_holds_at_some_sizes_alone_is_refused() {
    let refused = |body: &str| {
        let text = format!("graph g onnx where n in 1..4\n{body}  output %y\n");
        text::parse(&text, &registry(), &|_, _| None).unwrap().verify().unwrap_err().to_string()
    };
    for (body, because) in [
        ("  %x = input : f32[n,3]\n  %y = squeeze(%x) : f32[3]\n", "axes to be told: n may be 1, or not"),
        ("  %a = const [0] : i64[1]\n  %x = input : f32[n,3]\n  %y = squeeze(%x, %a) : f32[3]\n", "axes of size 1"),
        ("  %x = input : f32[2,n]\n  %w = input : f32[3,2]\n  %y = matmul(%x, %w) : f32[2,2]\n", "n rows to multiply"),
        (
            "  %x = input : f32[2,1,3]\n  %s = input : f32[1]\n  %b = input : f32[n]\n  %y = instance_normalization(%x, %s, %b) : f32[2,1,3]\n",
            "operand 2 is f32[n], expected [1]",
        ),
        (
            "  %x = input : i8[2,n]\n  %s = const [1.0,2.0,3.0] : f32[3]\n  %y = dequantize_linear(%x, %s) {axis=1} : f32[2,n]\n",
            "scales along attribute axis of [2,n]",
        ),
        (
            "  %x = input : i8[n]\n  %s = const [1.0,2.0] : f32[2]\n  %y = dequantize_linear(%x, %s) {axis=0, block_size=2} : f32[n]\n",
            "scales along attribute axis of [n]",
        ),
        (
            "  %q = input : f32[1,2,3,4]\n  %k = input : f32[1,2,n,4]\n  %v = input : f32[1,2,n,4]\n  %m = input : f32[3,2]\n  %y = attention(%q, %k, %v, %m) : f32[1,2,3,4]\n",
            "operand 3 is f32[3,2], expected at most as many keys as there are, n, at all sizes",
        ),
        (
            "  %x = input : f32[2,3]\n  %i = input : i64[n,1]\n  %y = gather_elements(%x, %i) {axis=1} : f32[n,1]\n",
            "none longer but axis 1",
        ),
    ] {
        let error = refused(body);
        assert!(error.contains(because), "{error}");
    }
    let negative = read(
        " where n in 1..4",
        "  %x = input : f32[n,3]\n  %a = const [2] : i64[1]\n  %b = const [0] : i64[1]\n  %p = const [-2,0] : i64[2]\n  %y = pad(%x, %p, _, %b) : f32[n-2,3]\n  output %y\n",
    );
    let options = Compile { settings: Settings::default(), target: Target::shipped("lavapipe").unwrap(), n_threads: 0 };
    let refused = compile(&negative, &options, &|_, _, _| {}, &mut |_, _, _| {}).unwrap_err().to_string();
    assert!(refused.contains("f32[n-2,3], of which an axis would have -1 elements"), "{refused}");
}

#[test]
fn more_workgroups_than_one_axis_has() {
    // 65535 groups of 128 invocations are 8,388,480 elements.
    let body = "  %x = input : f32[n,3]
  %y = relu(%x) : f32[n,3]
  output %y
";
    check(&[("n", 0, 3_000_000)], body, &[&[("n", 2_900_001)], &[("n", 5)], &[("n", 0)]], F32);
}

#[test]
fn shapes_out_of_range_or_that_contradict_each_other_are_refused_with_the_numbers() {
    let graph = read(
        &where_(&[("past", 0, 8), ("seq", 2, 4)]),
        "  %a = input : f32[past+seq,2]
  %b = input : f32[seq,2]
  %c = input : f32[past,2]
  %y = concat(%b, %c) {axis=0} : f32[past+seq,2]
  %z = add(%a, %y) : f32[past+seq,2]
  output %z
",
    );
    let mut session =
        Session::of(compiled(&graph, "uniform:f32", &Target::shipped("lavapipe").unwrap()), DeviceChoice::Cpu).unwrap();
    let tensor = |n: usize| Tensor::from_f32s(DType::F32, &[n, 2], &vec![1.0; n * 2]).unwrap();
    assert!(session.run(&[tensor(5), tensor(3), tensor(2)]).is_ok());
    for (shapes, expected) in [
        ([6, 5, 1], "input \"b\": axis 0 has 5, which makes seq 5; this program takes 2 to 4"),
        ([6, 3, 2], "input \"a\": [6, 2] given, [past+seq, 2] wanted with past = 2, seq = 3"),
    ] {
        let refused = session.run(&shapes.map(tensor)).unwrap_err().to_string();
        assert_eq!(refused, expected);
    }
}

#[test]
fn sizes_that_data_tell_reach_kernels_and_lists_that_are_counted() {
    // The list of positions depends on how many rows are kept, and on nothing that is computed.
    let body = "  %zero = const [0] : i64[]
  %one = const [1] : i64[]
  %ones = const [1] : i64[1]
  %x = input : f32[seq,6]
  %m = input : i64[seq]
  %w = input : f32[6,5]
  %rows = compress(%x, %m) {axis=0, count=d[kept]} : f32[kept,6]
  %p = matmul(%rows, %w) : f32[kept,5]
  %n = sizes() {dtype=i64, scalar=1, value=d[kept]} : i64[]
  %i = range(%zero, %n, %one) : i64[kept]
  %f = cast(%i) {to=f32} : f32[kept]
  %y = reduce_sum(%p, %ones) {keepdims=0} : f32[kept]
  %z = add(%y, %f) : f32[kept]
  output %z
  output %i
";
    let sizes: [At; 5] = [&[("seq", 5)], &[("seq", 70)], &[("seq", 1)], &[("seq", 33)], &[("seq", 70)]];
    check(&[("kept", 0, 70), ("seq", 1, 70)], body, &sizes, ALL);
    let graph = read(&where_(&[("kept", 0, 70), ("seq", 1, 70)]), body);
    let place =
        |order: &[nyxc::ir::NodeId], name: &str| order.iter().position(|id| graph.node(*id).name == name).unwrap();
    for order in [graph.order(), graph.file_order()] {
        assert!(place(&order, "rows") < place(&order, "n") && place(&order, "rows") < place(&order, "i"), "{graph}");
    }
}

#[test]
fn a_program_of_a_file_has_no_rows_where_it_had_none_when_it_was_made() {
    let body = "  %x = input : f32[n,64]
  %w = input : f32[64,8]
  %m = matmul(%x, %w) : f32[n,8]
  %y = softmax(%m) {axis=-1} : f32[n,8]
  output %y
";
    check(&[("n", 0, 20)], body, &[&[("n", 0)], &[("n", 1)], &[("n", 20)], &[("n", 0)], &[("n", 9)]], ALL);
}

/// ONNX Attention, opset 23 to 25: a mask may end before the keys do, and those beyond it are masked out. One of a single key does not broadcast.
#[test]
fn keys_beyond_a_mask_are_masked_out_at_every_size() {
    for (least, mask, rows) in [(1, "f32[5,1]", 1), (2, "f32[1,5,2]", 2), (3, "bool[1,1,1,3]", 3)] {
        let body = format!(
            "  %q = input : f32[2,4,5,8]
  %k = input : f32[2,2,n,8]
  %v = input : f32[2,2,n,6]
  %m = input : {mask}
  %y = attention(%q, %k, %v, %m) : f32[2,4,5,6]
  output %y
"
        );
        check(&[("n", least, 9)], &body, &[&[("n", least)], &[("n", 9)], &[("n", 4)]], F32);
        // Beyond the mask nothing counts: more keys change nothing.
        let graph = read(&where_(&[("n", least, 9)]), &body);
        let mut all = inputs(&graph, &[("n", 9)]);
        let of = |inputs: &[Tensor], n: i64| Reference::new(sized(&graph, &[("n", n)])).run(inputs).unwrap();
        let long = of(&all, 9);
        for keys in &mut all[1..3] {
            let (dims, values) = (keys.dims(), keys.to_f32s().unwrap().into_owned());
            let first: Vec<f32> =
                values.chunks(9 * dims[3]).flat_map(|head| &head[..rows * dims[3]]).copied().collect();
            *keys = Tensor::from_f32s(DType::F32, &[dims[0], dims[1], rows, dims[3]], &first).unwrap();
        }
        assert!(distance(&of(&all, rows as i64), &long) <= 1e-6, "{mask}");
    }
}

#[test]
fn what_tells_a_size_stays_while_the_size_is_used() {
    let body = "  %x = input : f32[4,3]
  %places = non_zero(%x) {count=d[k]} : i64[2,k]
  %n = sizes() {dtype=i64, value=d[k]} : i64[1]
  %y = identity(%n) : i64[1]
  output %y
";
    let mut graph = read(&where_(&[("k", 0, 12)]), body);
    assert_eq!(graph.remove_dead(), 0);
    let mut session =
        Session::of(compiled(&graph, "uniform:f32", &Target::shipped("lavapipe").unwrap()), DeviceChoice::Cpu).unwrap();
    let x = Tensor::from_f32s(DType::F32, &[4, 3], &[0., 1., 0., 0., -2., 0., f32::NAN, 0., 0., 0., 0., -0.]).unwrap();
    assert_eq!(session.run(&[x]).unwrap().outputs[0].to_i64s().unwrap(), [3]);
    let mut unused =
        read(&where_(&[("k", 0, 12)]), &body.replace("  output %y\n", "  %z = relu(%x) : f32[4,3]\n  output %z\n"));
    assert_eq!(unused.remove_dead(), 3, "{unused}");
    for (text, expected) in [
        (body.replace("f32[4,3]", "f32[4,k]"), "the size \"k\" is told by something else too"),
        (
            body.replace("  %n =", "  %more = non_zero(%x) {count=d[k]} : i64[2,k]\n  %n ="),
            "the size \"k\" is told by something else too",
        ),
        (body.replace("count=d[k]", "count=d[2*k]"), "attribute count is [2*k], not one symbol"),
        (
            body.replace("  %places", "  %more = constant_of_shape(%n) : f32[k]\n  %places")
                .replace("non_zero(%x)", "non_zero(%more)")
                .replace("[2,k]", "[1,k]"),
            "%n is not defined above",
        ),
    ] {
        let read = text::parse(&format!("graph g onnx where k in 0..12\n{text}"), &registry(), &|_, _| None);
        let refused = match read {
            Ok(graph) => graph.verify().unwrap_err().to_string(),
            Err(error) => error.to_string(),
        };
        assert!(refused.contains(expected), "{refused}\n{text}");
    }
}

#[test]
fn ranges_are_given_by_name_by_axis_and_in_expressions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ppocr-cls.onnx");
    let load = |dims: &[&str]| {
        let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap_or_else(|e| panic!("{e}"))).collect();
        import(&path, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).map(|(graph, _)| graph)
    };
    let graph = load(&["x.0=1..4", "x.2=48", "x.3=64*w", "w=1..3"]).unwrap();
    assert_eq!(
        graph.ranges().into_iter().map(|(name, range)| (name, *range.end())).collect::<Vec<_>>(),
        [("w".to_owned(), 3), ("x.0".to_owned(), 4)]
    );
    assert_eq!(graph.ty(graph.inputs()[0].out(0)).to_string(), "f32[\"x.0\",3,48,64*w]");
    let at_least = load(&["x.0=1", "x.2=48", "x.3=max(64,32*w)", "w=0..3"]).unwrap();
    assert_eq!(at_least.ty(at_least.inputs()[0].out(0)).to_string(), "f32[1,3,48,max(64,32*w)]");
    let open = load(&["x.2=48"]).unwrap();
    let options = Compile { settings: Settings::default(), target: Target::shipped("lavapipe").unwrap(), n_threads: 0 };
    let refused = compile(&open, &options, &|_, _, _| {}, &mut |_, _, _| {}).unwrap_err().to_string();
    assert_eq!(refused, "nothing says how large x.3 may be: give --dim x.3=N or --dim x.3=1..N");
    assert!(load(&["x.0=1", "x.2=48", "x.3=64*w"]).unwrap_err().to_string().contains("--dim w=1..N"));
    assert!(load(&["x.0=1", "x.2=48", "x.3=w-2", "w=1..3"]).unwrap_err().to_string().contains("-1 to 1"));
    assert!(load(&["x.0=1", "x.2=48", "nothing=1..3"]).unwrap_err().to_string().contains("nothing"));
    for text in ["x=5..2", "x=..", "x=-1..4", "x=1..", "x=1..99999999999"] {
        assert!(DimBinding::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_real_model_takes_any_batch_and_width_on_every_target() {
    let dims = ["x.0=1..3", "x.2=48", "x.3=32..200"].iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ppocr-cls.onnx");
    let graph = import(&path, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).unwrap().0;
    let options = Options { validation: true, ..Options::from_env() };
    let devices = devices().unwrap();
    for name in shipped_names() {
        let target = Target::shipped(name).unwrap();
        let program = compiled(&graph, "uniform:f32", &target);
        let Some(device) = devices.first() else { continue };
        let context = VkContext::open(device.index, &target.features, &options).unwrap();
        let Ok(mut session) = Session::on(program, &context) else {
            println!("{name}: {} lacks what it needs", device.name);
            continue;
        };
        for at in [&[("x.0", 1), ("x.3", 33)][..], &[("x.0", 3), ("x.3", 200)], &[("x.0", 2), ("x.3", 192)]] {
            let inputs = inputs(&graph, at);
            let expected = Reference::new(sized(&graph, at)).run(&inputs).unwrap();
            let given = session.run(&inputs).unwrap().outputs;
            assert!(distance(&given, &expected) <= 1e-4, "{name} at {at:?}: {:e}", distance(&given, &expected));
        }
    }
    assert_eq!(validation_errors(), 0);
}

/// Kernels for one query, for few and for many, with the keys in one chunk or in several.
#[test]
fn attention_takes_any_number_of_queries_and_keys() {
    let body = "  %q = input : f32[2,n,4*16]
  %k = input : f32[2,n,2*16]
  %v = input : f32[2,n,2*16]
  %key = input : f32[2,2,past,16]
  %value = input : f32[2,2,past,16]
  %y, %present, %values = attention(%q, %k, %v, _, %key, %value) {is_causal=1, kv_num_heads=2, q_num_heads=4} : f32[2,n,64], f32[2,2,n+past,16], f32[2,2,n+past,16]
  output %y
  output %present
"
    .replace("4*16", "64")
    .replace("2*16", "32");
    let sizes: &[At] = &[
        &[("n", 40), ("past", 0)],
        &[("n", 1), ("past", 0)],
        &[("n", 1), ("past", 300)],
        &[("n", 5), ("past", 126)],
        &[("n", 9), ("past", 3)],
    ];
    check(&[("n", 1, 40), ("past", 0, 300)], &body, sizes, &ALL[..2]);
}

#[test]
fn scores_of_attention_take_no_memory() {
    let body = "  %q = input : f32[1,4,512,16]
  %k = input : f32[1,4,512,16]
  %v = input : f32[1,4,512,16]
  %y = attention(%q, %k, %v) {is_causal=1} : f32[1,4,512,16]
  output %y
";
    let lavapipe = Target::shipped("lavapipe").unwrap();
    let program = compiled(&read("", body), "uniform:f32", &lavapipe);
    assert!(program.plans[0].planned_peak_bytes < 4 * 512 * 512 * 4, "{:?}", program.plans[0].ledger);
}
