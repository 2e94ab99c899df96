//! What exporters write for norms, variances and masked softmaxes, of values whose squares f16 does not hold.

use super::{everywhere, graph, program};
use nyxc::ir::Tensor;

/// Policies that choose f16 where they may.
const NARROW: &[&str] = &["uniform:f16", "uniform:w8a16", "budget"];

/// Numbers between -1 and 1 times `scale`, as f16 holds them.
fn noise(n: usize, scale: f32, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| half::f16::from_f32(next() * scale).to_f32()).collect()
}

fn tensor(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32s(nyxc::ir::DType::F32, dims, values).unwrap()
}

/// The first output under every narrow policy everywhere, each element within `relative` of the expected one and of the
/// largest.
fn near(body: &str, inputs: &[Tensor], expected: &[f32], relative: f32) {
    let graph = graph(body);
    let most = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    for policy in NARROW {
        let program = program(&graph, policy);
        for (name, outputs) in everywhere(&program, inputs) {
            let given = outputs[0].to_f32s().unwrap();
            assert_eq!(given.len(), expected.len());
            for (i, (given, expected)) in given.iter().zip(expected).enumerate() {
                let near = (given - expected).abs() <= relative * expected.abs() + 0.1 * relative * most;
                assert!(
                    near,
                    "{policy} on {name}: element {i} is {given:e}, expected {expected:e}\n{}",
                    program.plans[0].graph
                );
            }
        }
    }
}

fn rows(values: &[f32], n: usize) -> impl Iterator<Item = Vec<f64>> + '_ {
    values.chunks(n).map(|row| row.iter().map(|&v| f64::from(v)).collect())
}

#[test]
fn norms_of_values_whose_squares_are_beyond_f16() {
    // The case of three public reports, rows of 512 at 400, and smaller and larger ones: x / |x|.
    for scale in [1e-3, 0.1, 400.0, 2500.0] {
        let x = noise(4 * 512, scale, 3);
        let norms: Vec<f32> = rows(&x, 512).map(|row| row.iter().map(|v| v * v).sum::<f64>().sqrt() as f32).collect();
        let expected: Vec<f32> = x.iter().enumerate().map(|(i, v)| v / norms[i / 512]).collect();
        for norm in [
            "  %n = reduce_l2(%x, %ax) : f32[4,1]\n",
            "  %q = mul(%x, %x) : f32[4,512]\n  %s = reduce_sum(%q, %ax) : f32[4,1]\n  %n = sqrt(%s) : f32[4,1]\n",
            "  %q = pow(%x, %two) : f32[4,512]\n  %s = reduce_sum(%q, %ax) : f32[4,1]\n  %n = pow(%s, %half) : f32[4,1]\n",
            "  %a = abs(%x) : f32[4,512]\n  %q = mul(%a, %a) : f32[4,512]\n  %t = transpose(%q) {perm=[1,0]} : f32[512,4]\n  \
             %s = reduce_sum(%t, %ax0) : f32[1,4]\n  %u = transpose(%s) {perm=[1,0]} : f32[4,1]\n  %n = sqrt(%u) : f32[4,1]\n",
            "  %s = reduce_sum_square(%x, %ax) : f32[4,1]\n  %n = sqrt(%s) : f32[4,1]\n",
        ] {
            let body = format!(
                "  %x = input : f32[4,512]
  %ax = const [1] : i64[1]
  %ax0 = const [0] : i64[1]
  %two = const [2.0] : f32[]
  %half = const [0.5] : f32[]
{norm}  %d = div(%x, %n) : f32[4,512]
  %y = neg(%d) : f32[4,512]
  output %y
"
            );
            let negative: Vec<f32> = expected.iter().map(|v| -v).collect();
            near(&body, &[tensor(&[4, 512], &x)], &negative, 2e-3);
        }
    }
}

#[test]
fn normalisations_that_are_written_out() {
    // Over axis 1 of three, which is no LayerNormalization: two ways to write the variance, and the root's reciprocal.
    for scale in [0.01, 400.0, 3000.0] {
        let (x, n) = (noise(2 * 64 * 3, scale, 5), 64.0f64);
        let mut expected = vec![0.0f32; x.len()];
        for b in 0..2 {
            for c in 0..3 {
                let at = |i: usize| b * 192 + i * 3 + c;
                let mean = (0..64).map(|i| f64::from(x[at(i)])).sum::<f64>() / n;
                let variance = (0..64).map(|i| (f64::from(x[at(i)]) - mean).powi(2)).sum::<f64>() / n;
                (0..64)
                    .for_each(|i| expected[at(i)] = ((f64::from(x[at(i)]) - mean) / (variance + 1e-6).sqrt()) as f32);
            }
        }
        for written in [
            "  %q = pow(%c, %two) : f32[2,64,3]\n  %v = reduce_mean(%q, %ax) : f32[2,1,3]\n  %e = add(%v, %eps) : f32[2,1,3]\n  \
             %r = sqrt(%e) : f32[2,1,3]\n  %d = div(%c, %r) : f32[2,64,3]\n",
            "  %q = mul(%x, %x) : f32[2,64,3]\n  %s = reduce_mean(%q, %ax) : f32[2,1,3]\n  %k = mul(%m, %m) : f32[2,1,3]\n  \
             %v = sub(%s, %k) : f32[2,1,3]\n  %e = add(%v, %eps) : f32[2,1,3]\n  %r = sqrt(%e) : f32[2,1,3]\n  \
             %i = reciprocal(%r) : f32[2,1,3]\n  %d = mul(%c, %i) : f32[2,64,3]\n",
        ] {
            let body = format!(
                "  %x = input : f32[2,64,3]
  %ax = const [1] : i64[1]
  %two = const [2.0] : f32[]
  %eps = const [1e-6] : f32[]
  %m = reduce_mean(%x, %ax) : f32[2,1,3]
  %c = sub(%x, %m) : f32[2,64,3]
{written}  %y = neg(%d) : f32[2,64,3]
  output %y
"
            );
            let negative: Vec<f32> = expected.iter().map(|v| -v).collect();
            near(&body, &[tensor(&[2, 64, 3], &x)], &negative, 4e-3);
        }
    }
}

#[test]
fn distances_and_logarithms_of_sums_of_exponentials() {
    let (x, z) = (noise(3 * 16, 900.0, 4), noise(5 * 16, 900.0, 6));
    let row = |data: &[f32], i: usize| -> Vec<f64> { data[i * 16..][..16].iter().map(|&v| f64::from(v)).collect() };
    let mut expected = Vec::new();
    for i in 0..3 {
        for j in 0..5 {
            let square: f64 = row(&x, i).iter().zip(row(&z, j)).map(|(a, b)| (a - b).powi(2)).sum();
            expected.push(-(square.sqrt() as f32));
        }
    }
    let body = "  %x = input : f32[3,16]
  %z = input : f32[5,16]
  %ax = const [1] : i64[1]
  %two = const [-2.0] : f32[]
  %xx = reduce_sum_square(%x, %ax) : f32[3,1]
  %zz = reduce_sum_square(%z, %ax) : f32[5,1]
  %zt = transpose(%zz) {perm=[1,0]} : f32[1,5]
  %t = transpose(%z) {perm=[1,0]} : f32[16,5]
  %p = matmul(%x, %t) : f32[3,5]
  %m = mul(%p, %two) : f32[3,5]
  %a = add(%xx, %m) : f32[3,5]
  %d = add(%a, %zt) : f32[3,5]
  %r = sqrt(%d) : f32[3,5]
  %y = neg(%r) : f32[3,5]
  output %y
";
    near(body, &[tensor(&[3, 16], &x), tensor(&[5, 16], &z)], &expected, 2e-3);
    let x = noise(4 * 32, 40.0, 8);
    let expected: Vec<f32> = rows(&x, 32).map(|row| -(row.iter().map(|v| v.exp()).sum::<f64>().ln() as f32)).collect();
    let body = "  %x = input : f32[4,32]
  %ax = const [1] : i64[1]
  %e = exp(%x) : f32[4,32]
  %s = reduce_sum(%e, %ax) : f32[4,1]
  %l = log(%s) : f32[4,1]
  %y = neg(%l) : f32[4,1]
  output %y
";
    near(body, &[tensor(&[4, 32], &x)], &expected, 2e-3);
}

#[test]
fn a_variance_beyond_f16_is_no_infinity() {
    // A BatchNormalization of variance 160,000 and an epsilon that f16 does not hold either.
    let x = noise(2 * 3 * 4, 800.0, 9);
    let (scale, bias, mean, variance) =
        ([1.5, -2.0, 0.5], [0.1, 0.2, -0.3], [10.0, -200.0, 0.5], [160_000.0, 9.0, 1e-9]);
    let expected: Vec<f32> = x
        .iter()
        .enumerate()
        .map(|(i, v)| {
            let c = i / 4 % 3;
            ((f64::from(*v) - mean[c]) * scale[c] / (f64::from(variance[c] as f32) + f64::from(1e-3f32)).sqrt()
                + bias[c]) as f32
        })
        .collect();
    let body = "  %x = input : f32[2,3,4]
  %s = const [1.5,-2.0,0.5] : f32[3]
  %b = const [0.1,0.2,-0.3] : f32[3]
  %m = const [10.0,-200.0,0.5] : f32[3]
  %v = const [160000.0,9.0,1e-9] : f32[3]
  %n = batch_normalization(%x, %s, %b, %m, %v) {epsilon=0.001f} : f32[2,3,4]
  %y = neg(%n) : f32[2,3,4]
  output %y
";
    let negative: Vec<f32> = expected.iter().map(|v| -v).collect();
    near(body, &[tensor(&[2, 3, 4], &x)], &negative, 2e-3);
}

/// Attention with a mask of `big` where `am` is 0: of a row that is masked throughout, all keys alike.
fn masked(big: f32) {
    let (q, k, v) = (noise(2 * 4 * 8, 2.0, 1), noise(2 * 4 * 8, 2.0, 2), noise(2 * 4 * 8, 2.0, 3));
    for am in [[0.0f32, 1.0, 1.0, 0.0], [0.0; 4]] {
        let mut expected = Vec::new();
        for head in 0..2 {
            for row in 0..4 {
                let at = |data: &[f32], row: usize, i: usize| f64::from(data[head * 32 + row * 8 + i]);
                let scores: Vec<f64> = (0..4)
                    .map(|key| {
                        let score = (0..8).map(|i| at(&q, row, i) * at(&k, key, i)).sum::<f64>();
                        // As f32 has it: the mask swallows the score.
                        f64::from(score as f32 + (1.0 - am[key]) * big)
                    })
                    .collect();
                let most = scores.iter().fold(f64::MIN, |m, s| m.max(*s));
                let p: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let sum: f64 = p.iter().sum();
                expected.extend((0..8).map(|i| ((0..4).map(|key| p[key] / sum * at(&v, key, i)).sum::<f64>()) as f32));
            }
        }
        let body = format!(
            "  %q = input : f32[1,2,4,8]
  %k = input : f32[1,2,4,8]
  %v = input : f32[1,2,4,8]
  %am = input : f32[1,4]
  %one = const [1.0] : f32[]
  %big = const [{big:?}] : f32[]
  %ax = const [1,2] : i64[2]
  %im = sub(%one, %am) : f32[1,4]
  %mm = mul(%im, %big) : f32[1,4]
  %m4 = unsqueeze(%mm, %ax) : f32[1,1,1,4]
  %kt = transpose(%k) {{perm=[0,1,3,2]}} : f32[1,2,8,4]
  %s = matmul(%q, %kt) : f32[1,2,4,4]
  %s3 = add(%s, %m4) : f32[1,2,4,4]
  %p = softmax(%s3) {{axis=-1}} : f32[1,2,4,4]
  %y = matmul(%p, %v) : f32[1,2,4,8]
  output %y
"
        );
        let heads = |data: &[f32]| tensor(&[1, 2, 4, 8], data);
        near(&body, &[heads(&q), heads(&k), heads(&v), tensor(&[1, 4], &am)], &expected, 4e-3);
    }
}

#[test]
fn masks_of_the_least_float_and_of_other_numbers_mask() {
    [f32::MIN, -1e9, -1e6, -10000.0].into_iter().for_each(masked);
}

/// Nothing is reduced, but the other steps are computed (ONNX, opset 18: `axes` of a scalar, and
/// `noop_with_empty_axes`).
#[test]
fn reductions_over_no_axis_compute_their_other_steps() {
    let cases = [
        ("reduce_sum", -3.0, -3.0f32),
        ("reduce_mean", -3.0, -3.0),
        ("reduce_max", -3.0, -3.0),
        ("reduce_prod", -3.0, -3.0),
        ("reduce_l1", -3.0, 3.0),
        ("reduce_l2", -3.0, 3.0),
        ("reduce_sum_square", -3.0, 9.0),
        ("reduce_log_sum", 8.0, 8f32.ln()),
        ("reduce_log_sum_exp", -3.0, -3.0),
    ];
    for (name, x, expected) in cases {
        for (ty, attrs, n) in [("f32[]", "keepdims=1", 1), ("f32[2,3]", "noop_with_empty_axes=1", 6)] {
            let graph = graph(&format!("  %x = input : {ty}\n  %y = {name}(%x) {{{attrs}}} : {ty}\n  output %y\n"));
            let input = tensor(if n == 1 { &[] } else { &[2, 3] }, &vec![x; n]);
            for (place, outputs) in everywhere(&program(&graph, "uniform:f32"), &[input]) {
                for given in outputs[0].to_f32s().unwrap().iter() {
                    assert!((given - expected).abs() < 1e-5, "{name} of {x} on {place}: {given}, expected {expected}");
                }
            }
        }
    }
}

/// Between the product and the sum of a Gemm is no bf16, which has 8 bits: 1 + 2^-9 - 1.
#[test]
fn operators_of_bf16_round_their_results_alone() {
    let graph = graph(
        "  %a = input : bf16[1,2]\n  %b = input : bf16[2,1]\n  %c = input : bf16[1]\n  %y = gemm(%a, %b, %c) : bf16[1,1]\n  output %y\n",
    );
    let bf16 = |dims: &[usize], values: &[f32]| Tensor::from_f32s(nyxc::ir::DType::BF16, dims, values).unwrap();
    let inputs = [bf16(&[1, 2], &[1.0, 1.0 / 512.0]), bf16(&[2, 1], &[1.0, 1.0]), bf16(&[1], &[-1.0])];
    let plain = nyxc::session::Reference::new(graph.clone()).run(&inputs).unwrap();
    assert_eq!(plain[0].to_f32s().unwrap().as_ref(), [1.0 / 512.0]);
    for (place, outputs) in everywhere(&program(&graph, "uniform:f32"), &inputs) {
        assert_eq!(outputs[0].to_f32s().unwrap().as_ref(), [1.0 / 512.0], "on {place}");
    }
}
