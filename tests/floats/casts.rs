//! A Cast that the model writes is a conversion, whatever its result is stored as.

use super::{POLICIES, everywhere, graph, program};
use half::{bf16, f16};
use nyxc::ir::{DType, Tensor};

/// Numbers around every place where a conversion of floats does something of its own: ties, the ends of f16, what is
/// subnormal in it, both zeros.
fn floats() -> Vec<f32> {
    let mut values = vec![0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1.0 / 3.0, -2049.3, 70000.0, 1e30];
    for edge in [1.0f32, 2048.0, 65504.0, 65520.0, 2f32.powi(-14), 2f32.powi(-24), 2f32.powi(-25), 256.0, 3.389e38] {
        for step in -3i32..=3 {
            values.push(f32::from_bits(edge.to_bits().wrapping_add_signed(step)));
        }
    }
    for exponent in -30..40 {
        let unit = 2f32.powi(exponent);
        // Halfway between neighbours of f16 and of bf16, and beside it.
        for part in [11, 8] {
            let tie = unit * (1.0 + 2f32.powi(-part));
            values.extend([tie, f32::from_bits(tie.to_bits() + 1), -f32::from_bits(tie.to_bits() - 1), tie * 1.75]);
        }
    }
    values
}

/// `y` of these inputs under every policy everywhere, bit for bit, NaN apart.
fn exact(body: &str, inputs: &[Tensor], expected: &[f32]) {
    let graph = graph(body);
    for policy in POLICIES {
        let program = program(&graph, policy);
        for (name, outputs) in everywhere(&program, inputs) {
            let given = outputs[0].to_f32s().unwrap();
            assert_eq!(given.len(), expected.len());
            for (i, (given, expected)) in given.iter().zip(expected).enumerate() {
                let same = given.to_bits() == expected.to_bits() || given.is_nan() && expected.is_nan();
                assert!(
                    same,
                    "{policy} on {name}: element {i} is {given:e}, expected {expected:e}\n{}",
                    program.plans[0].graph
                );
            }
        }
    }
}

/// The inputs as f16 holds them, so that a format of f16 says the same of them.
fn in_f16(values: &[f32]) -> Vec<f32> {
    values.iter().map(|&v| f16::from_f32(v).to_f32()).filter(|v| v.is_finite()).collect()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_f32s(DType::F32, &[values.len()], values).unwrap()
}

#[test]
fn rounding_to_f16_and_back_is_kept() {
    let values = floats();
    let n = values.len();
    let expected: Vec<f32> = values.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
    assert!(expected.contains(&f32::INFINITY) && expected.contains(&2f32.powi(-24)));
    // Through an operator of its own, so that no input or output is what converts.
    let body = format!(
        "  %x = input : f32[{n}]
  %h = cast(%x) {{to=f16}} : f16[{n}]
  %y = cast(%h) {{to=f32}} : f32[{n}]
  output %y
"
    );
    exact(&body, &[tensor(&values)], &expected);
}

#[test]
fn an_output_of_a_narrow_type_is_rounded_as_the_standard_has_it() {
    let values = floats();
    let n = values.len();
    for (to, round) in
        [("f16", (|v| f16::from_f32(v).to_f32()) as fn(f32) -> f32), ("bf16", |v| bf16::from_f32(v).to_f32())]
    {
        let expected: Vec<f32> = values.iter().map(|&v| round(v)).collect();
        let body = format!("  %x = input : f32[{n}]\n  %y = cast(%x) {{to={to}}} : {to}[{n}]\n  output %y\n");
        exact(&body, &[tensor(&values)], &expected);
    }
}

#[test]
fn rounding_to_bf16_and_back_is_kept() {
    let values = floats();
    let n = values.len();
    let expected: Vec<f32> = values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect();
    let body = format!(
        "  %x = input : f32[{n}]
  %h = cast(%x) {{to=bf16}} : bf16[{n}]
  %y = cast(%h) {{to=f32}} : f32[{n}]
  output %y
"
    );
    exact(&body, &[tensor(&values)], &expected);
}

#[test]
fn the_low_part_of_a_split_is_what_rounding_took_away() {
    // The case of a public report: hi is x in f16, lo the rest; 70000 is infinity in f16.
    let values = [0.333_333_34, 2049.3, 70000.0, -0.594_714_5, -0.213_092_6, -0.686_742_4, 0.698_461_06, -1.692_192];
    let hi: Vec<f32> = values.iter().map(|&v| f16::from_f32(v).to_f32()).collect();
    let lo: Vec<f32> = values.iter().zip(&hi).map(|(x, hi)| x - hi).collect();
    let body = |output: &str| {
        format!(
            "  %x = input : f32[8]
  %h = cast(%x) {{to=f16}} : f16[8]
  %hi = cast(%h) {{to=f32}} : f32[8]
  %lo = sub(%x, %hi) : f32[8]
  output {output}
"
        )
    };
    exact(&body("%hi"), &[tensor(&values)], &hi);
    exact(&body("%lo"), &[tensor(&values)], &lo);
}

#[test]
fn a_conversion_between_operators_that_are_fused_is_kept() {
    // Everything here is exact in f16, so that no format rounds anything but the cast.
    let values = in_f16(&floats().into_iter().map(|v| v.clamp(-200.0, 200.0)).collect::<Vec<_>>());
    let n = values.len();
    for (to, round) in
        [("f16", (|v| f16::from_f32(v).to_f32()) as fn(f32) -> f32), ("bf16", |v| bf16::from_f32(v).to_f32())]
    {
        let expected: Vec<f32> = values.iter().map(|&v| round(v * 300.0) * 0.5).collect();
        let body = format!(
            "  %x = input : f32[{n}]
  %a = const [300.0] : f32[]
  %b = const [0.5] : f32[]
  %s = mul(%x, %a) : f32[{n}]
  %h = cast(%s) {{to={to}}} : {to}[{n}]
  %w = cast(%h) {{to=f32}} : f32[{n}]
  %y = mul(%w, %b) : f32[{n}]
  output %y
"
        );
        exact(&body, &[tensor(&values)], &expected);
    }
}

#[test]
fn integers_through_narrower_floats_are_rounded() {
    let values: Vec<i64> = (0..22).flat_map(|e| [-1, 0, 1, 3].map(|d| (1i64 << e) + d)).chain([65519, 65520]).collect();
    let n = values.len();
    let x = Tensor::from_i64s(DType::I64, &[n], &values).unwrap();
    for (to, round) in
        [("f16", (|v| f16::from_f32(v).to_f32()) as fn(f32) -> f32), ("bf16", |v| bf16::from_f32(v).to_f32())]
    {
        let expected: Vec<f32> = values.iter().map(|&v| round(v as f32)).collect();
        let body = format!(
            "  %x = input : i64[{n}]
  %h = cast(%x) {{to={to}}} : {to}[{n}]
  %y = cast(%h) {{to=f32}} : f32[{n}]
  output %y
"
        );
        exact(&body, std::slice::from_ref(&x), &expected);
    }
}

#[test]
fn floats_through_integers_lose_their_fraction() {
    let values = in_f16(&[0.5, -0.5, 1.999, -7.25, 2047.5, 60000.0]);
    let expected: Vec<f32> = values.iter().map(|v| v.trunc() + 0.0).collect();
    let body = "  %x = input : f32[6]
  %i = cast(%x) {to=i32} : i32[6]
  %y = cast(%i) {to=f32} : f32[6]
  output %y
";
    exact(body, &[tensor(&values)], &expected);
}

#[test]
fn floats_through_eight_and_four_bits_are_rounded() {
    let values = in_f16(&[0.0, 0.1, -0.3, 1.06, 2.5, -5.1, 300.0, 1000.0, 1e-3]);
    let n = values.len();
    for to in ["f8e4m3", "f8e5m2", "f4e2m1"] {
        let dtype: DType = to.parse().unwrap();
        let max: f32 = match to {
            "f8e4m3" => 448.0,
            "f8e5m2" => 57344.0,
            _ => 6.0,
        };
        let clamped: Vec<f32> = values.iter().map(|v| v.clamp(-max, max)).collect();
        let expected = Tensor::from_f32s(dtype, &[n], &clamped).unwrap().to_f32s().unwrap().into_owned();
        let body = format!(
            "  %x = input : f32[{n}]
  %h = cast(%x) {{to={to}}} : {to}[{n}]
  %y = cast(%h) {{to=f32}} : f32[{n}]
  output %y
"
        );
        exact(&body, &[tensor(&values)], &expected);
    }
}

#[test]
fn a_constant_that_the_model_rounds_is_rounded() {
    let body = "  %x = input : f32[3]
  %c = const [70000.0,0.33333334,2049.3] : f32[3]
  %h = cast(%c) {to=f16} : f16[3]
  %w = cast(%h) {to=f32} : f32[3]
  %y = max(%x, %w) : f32[3]
  output %y
";
    exact(body, &[tensor(&[0.0; 3])], &[f32::INFINITY, 0.333_251_95, 2050.0]);
}

#[test]
fn what_has_no_more_bits_is_not_converted() {
    let graph = graph(
        "  %x = input : f16[4]
  %w = cast(%x) {to=f32} : f32[4]
  %h = cast(%w) {to=f16} : f16[4]
  %y = neg(%h) : f16[4]
  output %y
",
    );
    for policy in POLICIES {
        let text = program(&graph, policy).plans[0].graph.clone();
        assert!(!text.contains("f16(") && text.matches("pointwise").count() == 1, "{policy}: {text}");
    }
}
