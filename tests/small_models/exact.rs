//! Graphs whose results are known to the last bit.

use super::*;

/// A graph whose results are known to the last bit, under every policy, wherever it runs.
fn exactly(body: &str, inputs: &[Tensor], expected: &[Tensor]) {
    let graph = text::parse(&format!("graph g onnx\n{body}"), &registry(), &|_, _| None).unwrap();
    graph.verify().unwrap();
    for policy in ["uniform:f32", "uniform:f16", "budget"] {
        let settings = Settings { policy: policy.parse().unwrap(), budget_bytes: Some(1 << 30), ..Settings::default() };
        let options = Compile { settings, target: device::target(), n_threads: 1 };
        let compiled = compile(&graph, &options, &|_, _, _| {}, None).unwrap();
        let choices = devices().unwrap_or_default().into_iter().map(|device| DeviceChoice::Index(device.index));
        for choice in [DeviceChoice::Cpu].into_iter().chain(choices) {
            let mut session = Session::of(compiled.program.clone(), choice).unwrap();
            let done = session.run(inputs).unwrap();
            for (given, expected) in done.outputs.iter().zip(expected) {
                assert_eq!(given.ty(), expected.ty(), "{policy} on {choice:?}");
                assert_eq!(given.bytes().unwrap(), expected.bytes().unwrap(), "{policy} on {choice:?}: {given:?}");
            }
        }
    }
}

fn ints(dtype: DType, values: &[i64]) -> Tensor {
    Tensor::from_i64s(dtype, &[values.len()], values).unwrap()
}

/// `clamp(min=0)` as exporters write it: without an upper bound, which is then the largest i64.
#[test]
fn a_clip_to_the_largest_integer_keeps_token_ids() {
    let body = "  %ids = input : i64[4]
  %low = const [0] : i64[]
  %high = const [9223372036854775807] : i64[]
  %table = const [0.5,1.5,2.5,3.5] : f32[4,1]
  %c = clip(%ids, %low, %high) : i64[4]
  %y = gather(%table, %c) {axis=0} : f32[4,1]
  output %y
  output %c
";
    let y = Tensor::from_f32s(DType::F32, &[4, 1], &[2.5, 0.5, 3.5, 1.5]).unwrap();
    exactly(body, &[ints(DType::I64, &[2, -1, 3, 1])], &[y, ints(DType::I64, &[2, 0, 3, 1])]);
}

#[test]
fn a_table_of_identifiers_keeps_their_64_bits() {
    let body = "  %i = input : i32[3]
  %ids = const [9007199254740993,-9223372036854775808,4294967296] : i64[3]
  %u = const [18446744073709551615,9223372036854775808,7] : u64[3]
  %a = gather(%ids, %i) {axis=0} : i64[3]
  %b = gather(%u, %i) {axis=0} : u64[3]
  %two = const [2] : u64[]
  %h = div(%b, %two) : u64[3]
  %l = less(%b, %u) : bool[3]
  output %a
  output %b
  output %h
  output %l
";
    let bits = |v: u64| v.cast_signed();
    exactly(
        body,
        &[ints(DType::I32, &[2, 0, 1])],
        &[
            ints(DType::I64, &[4_294_967_296, 9_007_199_254_740_993, i64::MIN]),
            ints(DType::U64, &[7, -1, bits(1 << 63)]),
            ints(DType::U64, &[3, i64::MAX, 1 << 62]),
            ints(DType::Bool, &[1, 0, 0]),
        ],
    );
}

#[test]
fn casts_between_floats_and_wide_integers_keep_what_the_type_holds() {
    let body = "  %x = input : f32[4]
  %a = cast(%x) {to=i64} : i64[4]
  %b = cast(%a) {to=f32} : f32[4]
  %one = const [1] : i64[]
  %c = add(%a, %one) : i64[4]
  %d = cast(%c) {to=i32} : i32[4]
  %e = cast(%d) {to=i64} : i64[4]
  output %a
  output %b
  output %c
  output %e
";
    let x = Tensor::from_f32s(DType::F32, &[4], &[3e9, -5.764_607_5e17, 2_147_483_648.0, -0.75]).unwrap();
    let a: [i64; 4] = [3_000_000_000, -(1 << 59), 2_147_483_648, 0];
    let b = Tensor::from_f32s(DType::F32, &[4], &[3e9, -5.764_607_5e17, 2_147_483_648.0, 0.0]).unwrap();
    let c = a.map(|v| v + 1);
    let e = c.map(|v| i64::from(v as i32));
    exactly(body, &[x], &[ints(DType::I64, &a), b, ints(DType::I64, &c), ints(DType::I64, &e)]);
}

#[test]
fn products_sums_and_pads_of_integers_are_exact() {
    let body = "  %x = input : i64[2,2]
  %w = const [1,4294967296,-3,5] : i64[2,2]
  %axes = const [1] : i64[1]
  %p = matmul(%x, %w) : i64[2,2]
  %s = reduce_sum(%x, %axes) {keepdims=0} : i64[2]
  %pads = const [0,1,0,0] : i64[4]
  %fill = const [1152921504606846977] : i64[]
  %q = pad(%x, %pads, %fill) : i64[2,3]
  output %p
  output %s
  output %q
";
    let grid = |dims: &[usize], values: &[i64]| Tensor::from_i64s(DType::I64, dims, values).unwrap();
    let (big, fill) = (1i64 << 40, (1i64 << 60) + 1);
    exactly(
        body,
        &[grid(&[2, 2], &[big, 7, -big, i64::MAX])],
        &[
            grid(
                &[2, 2],
                &[
                    big - 21,
                    big.wrapping_mul(1 << 32) + 35,
                    (-big).wrapping_sub(i64::MAX.wrapping_mul(3)),
                    (-big).wrapping_mul(1 << 32).wrapping_add(i64::MAX.wrapping_mul(5)),
                ],
            ),
            grid(&[2], &[big + 7, i64::MAX - big]),
            grid(&[2, 3], &[fill, big, 7, fill, -big, i64::MAX]),
        ],
    );
}
