//! Operators over ranges, each checked at several sizes, policies and devices.

use super::*;

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

/// As quantizers of ONNX Runtime save models: integer products, their sums in parts where f32 would not hold them, and
/// scales around them.
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
fn more_workgroups_than_one_axis_has() {
    // 65535 groups of 128 invocations are 8,388,480 elements.
    let body = "  %x = input : f32[n,3]
  %y = relu(%x) : f32[n,3]
  output %y
";
    check(&[("n", 0, 3_000_000)], body, &[&[("n", 2_900_001)], &[("n", 5)], &[("n", 0)]], F32);
}

/// ONNX Attention, opset 23 to 25: a mask may end before the keys do, and those beyond it are masked out. One of a
/// single key does not broadcast.
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
