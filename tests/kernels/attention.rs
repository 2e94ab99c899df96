//! Attention against a reference in f64 of its own, and the parts of it against the operator's.

use super::*;
use nyxc::ops::core::dot_product_attention::{DEF, PARTS};

/// Sizes of a case: batch, heads, heads of k, queries, keys, head size, that of v.
type Sizes = [usize; 7];

/// Elements of an operand, read by batch, head, place and element, in either order of heads and places.
fn at(dims: &[usize], heads_last: bool, [b, h, s, e]: [usize; 4]) -> usize {
    let (i, j) = if heads_last { (s, h) } else { (h, s) };
    ((b * dims[1] + i) * dims[2] + j) * dims[3] + e
}

/// The definition, every step in f64.
fn reference(attrs: &Attrs, operands: &[Option<&Tensor>], sizes: Sizes) -> Vec<f64> {
    let [batch, heads, kv_heads, queries, keys, head, v_head] = sizes;
    let last: Vec<bool> = attrs.ints("heads_last").map_or(vec![false; 4], |v| v.iter().map(|v| *v == 1).collect());
    let of = |slot: usize| operands[slot].unwrap().to_f32s().unwrap().into_owned();
    let dims = |slot: usize| operands[slot].unwrap().dims();
    let (q, k, v) = (of(0), of(1), of(2));
    let mask = operands.get(3).copied().flatten();
    let lengths = operands.get(4).copied().flatten().map(|t| t.to_i64s().unwrap());
    let mut out = vec![0.0; batch * heads * queries * v_head];
    let y_dims = if last[3] { [batch, queries, heads, v_head] } else { [batch, heads, queries, v_head] };
    for b in 0..batch {
        for h in 0..heads {
            for row in 0..queries {
                let g = h / (heads / kv_heads);
                let place =
                    lengths.as_ref().map_or(attrs.ints("offset").map_or(0, |o| o[0]), |n| n[b] - queries as i64)
                        + row as i64;
                let seen: Vec<usize> = (0..keys)
                    .filter(|&n| {
                        let n = n as i64;
                        lengths.as_ref().is_none_or(|lengths| n < lengths[b])
                            && attrs.int("left").is_none_or(|left| place - n <= left)
                            && attrs.int("right").is_none_or(|right| n - place <= right)
                    })
                    .collect();
                let score = |n: usize| {
                    let product: f64 = (0..head)
                        .map(|e| {
                            f64::from(q[at(&dims(0), last[0], [b, h, row, e])])
                                * f64::from(k[at(&dims(1), last[1], [b, g, n, e])])
                        })
                        .sum();
                    let mut s = product * f64::from(attrs.float("scale").unwrap_or(1.0));
                    if let Some(cap) = attrs.float("softcap") {
                        s = (s / f64::from(cap)).tanh() * f64::from(cap);
                    }
                    let Some(mask) = mask else { return s };
                    let own = mask.dims();
                    let whole = [b, h, row, n];
                    let place = own
                        .iter()
                        .zip(&whole[4 - own.len()..])
                        .fold(0, |place, (&size, &i)| place * size + if size == 1 { 0 } else { i });
                    if mask.dtype() == DType::Bool {
                        s + if mask.to_i64s().unwrap()[place] != 0 { 0.0 } else { f64::NEG_INFINITY }
                    } else {
                        s + f64::from(mask.to_f32s().unwrap()[place])
                    }
                };
                let scores: Vec<f64> = seen.iter().map(|&n| score(n)).collect();
                let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let powers: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
                let sum: f64 = powers.iter().sum();
                for e in 0..v_head {
                    let total: f64 = seen
                        .iter()
                        .zip(&powers)
                        .map(|(&n, w)| w * f64::from(v[at(&dims(2), last[2], [b, g, n, e])]))
                        .sum();
                    let masked = most == f64::NEG_INFINITY;
                    let none = if attrs.int("zero_masked") == Some(1) { 0.0 } else { f64::NAN };
                    out[at(&y_dims, last[3], [b, h, row, e])] = if masked { none } else { total / sum };
                }
            }
        }
    }
    out
}

/// q, k and v of these sizes, in either order of heads and places.
fn operands(random: &mut Random, dtype: DType, sizes: Sizes, heads_last: [bool; 4]) -> Vec<Tensor> {
    let [batch, heads, kv_heads, queries, keys, head, v_head] = sizes;
    [(heads, queries, head), (kv_heads, keys, head), (kv_heads, keys, v_head)]
        .into_iter()
        .zip(heads_last)
        .map(|((h, s, e), last)| random.floats(dtype, &if last { [batch, s, h, e] } else { [batch, h, s, e] }))
        .collect()
}

/// The reference of the operator against that of this file, the kernels against it, in one piece and, for few queries,
/// in parts.
fn check(bench: &Bench, attrs: &Attrs, operands: &[Option<&Tensor>], sizes: Sizes) {
    let own = Attrs(attrs.0.clone());
    let case = |def: &'static OpDef, attrs: Attrs, operands: &[Option<&Tensor>]| Case {
        operands: operands.iter().map(|t| t.cloned()).collect(),
        ..Case::new(def, attrs, &[])
    };
    let given = DEF.eval.unwrap()(&own.clone().with_dtype("dtype", DType::F32), operands).unwrap().remove(0);
    let wanted: Vec<f32> = reference(attrs, operands, sizes).into_iter().map(|v| v as f32).collect();
    let wanted = Tensor::from_f32s(DType::F32, &given.dims(), &wanted).unwrap();
    if let Err(fault) = compare(&given, &wanted, 1e-6) {
        bench
            .faults
            .borrow_mut()
            .push(format!("the reference of {}: {fault}", case(&DEF, own.clone(), operands).describe()));
    }
    case(&DEF, own.clone(), operands).check(bench);
    if sizes[3] > 8 {
        return;
    }
    let of_parts = own.clone().with_int("chunk", 128);
    let parts = PARTS.eval.unwrap()(&of_parts, operands).unwrap().remove(0);
    case(&PARTS, of_parts, operands).check(bench);
    let mut joined = operands.to_vec();
    joined.resize(5, None);
    joined.push(Some(&parts));
    case(&DEF, own, &joined).check(bench);
}

#[test]
fn attention_of_many_sizes() {
    on_devices(|bench| {
        let mut random = Random::new(61);
        // What else there is: nothing; places, of a prompt behind others; a window, a cap, and zeros for rows without
        // keys.
        let cases: [(Sizes, DType, u32); 11] = [
            ([1, 1, 1, 1, 1, 1, 1], DType::F32, 0),
            ([2, 3, 3, 1, 40, 8, 8], DType::F16, 0),
            ([1, 4, 2, 1, 300, 64, 64], DType::F16, 1),
            ([1, 6, 2, 3, 129, 16, 24], DType::F32, 1),
            ([2, 2, 1, 8, 257, 20, 7], DType::F32, 2),
            ([1, 9, 3, 7, 130, 64, 130], DType::F16, 1),
            ([1, 2, 2, 9, 5, 3, 5], DType::F32, 0),
            ([2, 4, 2, 33, 65, 24, 40], DType::F32, 1),
            ([1, 2, 1, 40, 200, 64, 64], DType::F16, 2),
            ([1, 1, 1, 70, 70, 127, 129], DType::F32, 1),
            ([1, 2, 2, 35, 140, 256, 256], DType::F32, 2),
        ];
        for (sizes, dtype, kind) in cases {
            let tensors = operands(&mut random, dtype, sizes, [false; 4]);
            let own: Vec<Option<&Tensor>> = tensors.iter().map(Some).collect();
            let attrs = Attrs::new().with_float("scale", 1.7).with_dtype("dtype", DType::F32);
            let offset = sizes[4].saturating_sub(sizes[3]) as i64;
            let attrs = match kind {
                0 => attrs,
                1 => attrs.with_int("right", 0).with_ints("offset", [offset]),
                _ => attrs
                    .with_int("left", 40)
                    .with_int("right", 3)
                    .with_float("softcap", 0.8)
                    .with_int("zero_masked", 1),
            };
            check(bench, &attrs, &own, sizes);
        }
    });
}

#[test]
fn attention_with_heads_in_either_place() {
    on_devices(|bench| {
        let mut random = Random::new(62);
        for sizes in [[2, 4, 2, 3, 131, 16, 16], [2, 4, 2, 37, 70, 8, 24]] {
            for heads_last in [[true; 4], [false, true, false, true]] {
                let tensors = operands(&mut random, DType::F16, sizes, heads_last);
                let own: Vec<Option<&Tensor>> = tensors.iter().map(Some).collect();
                let attrs =
                    Attrs::new().with_ints("heads_last", heads_last.map(i64::from)).with_dtype("dtype", DType::F32);
                check(bench, &attrs, &own, sizes);
            }
        }
    });
}

#[test]
fn attention_with_masks_and_lengths() {
    on_devices(|bench| {
        let mut random = Random::new(63);
        for sizes in [[2, 4, 2, 3, 200, 16, 16], [2, 2, 2, 34, 90, 16, 24]] {
            let [batch, heads, _, queries, keys, ..] = sizes;
            let tensors = operands(&mut random, DType::F32, sizes, [false; 4]);
            let attrs = Attrs::new().with_float("scale", 0.5);
            let own = |mask| [Some(&tensors[0]), Some(&tensors[1]), Some(&tensors[2]), Some(mask)];
            let added = random.floats(DType::F16, &[batch, heads, queries, keys]);
            check(bench, &attrs, &own(&added), sizes);
            let seen = random.ints(DType::Bool, &[batch, 1, 1, keys], 0, 1);
            check(bench, &attrs, &own(&seen), sizes);
            // Whole heads that see nothing.
            let seen = Tensor::from_i64s(DType::Bool, &[heads, 1, 1], &[[1, 0], [0, 1]].concat()[..heads]).unwrap();
            check(bench, &attrs.clone().with_int("zero_masked", 1).with_int("right", 1), &own(&seen), sizes);
            // Minus infinity, the lowest float, a number that swallows the scores, in whole rows and among others.
            // What is swallowed depends on the bits of a float, so the reference in f64 has another answer.
            let values: Vec<f32> = (0..queries * keys)
                .map(|i| match (i / keys % 5, i % 3) {
                    (0, _) | (4, 0) => f32::NEG_INFINITY,
                    (1, _) => -1e9,
                    (2, _) => f32::MIN,
                    (_, at) => at as f32,
                })
                .collect();
            let hard = Tensor::from_f32s(DType::F32, &[queries, keys], &values).unwrap();
            Case { operands: own(&hard).map(|t| t.cloned()).to_vec(), ..Case::new(&DEF, attrs.clone(), &[]) }
                .check(bench);
            for (lengths, right) in [([0, 33], 1 << 20), ([keys as i64 + 9, 33], 0)] {
                let lengths = Tensor::from_i64s(DType::I32, &[batch], &lengths).unwrap();
                let own = [Some(&tensors[0]), Some(&tensors[1]), Some(&tensors[2]), None, Some(&lengths)];
                check(bench, &attrs.clone().with_int("right", right).with_int("zero_masked", 1), &own, sizes);
            }
        }
    });
}

#[test]
fn attention_of_what_is_not_finite() {
    on_devices(|bench| {
        let mut random = Random::new(64);
        for sizes in [[1, 2, 1, 4, 140, 8, 8], [1, 2, 1, 40, 70, 8, 8]] {
            let tensors = operands(&mut random, DType::F32, sizes, [false; 4]);
            let attrs = Attrs::new();
            for slot in 0..3 {
                for value in [f32::NAN, f32::INFINITY, 1e30] {
                    let mut values = tensors[slot].to_f32s().unwrap().into_owned();
                    let n = values.len();
                    values[n - 3] = value;
                    let special = Tensor::from_f32s(DType::F32, &tensors[slot].dims(), &values).unwrap();
                    let mut own: Vec<&Tensor> = tensors.iter().collect();
                    own[slot] = &special;
                    Case::new(&DEF, attrs.clone(), &own).check(bench);
                }
            }
        }
    });
}

#[test]
fn attention_with_an_epilogue() {
    on_devices(|bench| {
        let mut random = Random::new(65);
        for (sizes, keys) in [([2, 2, 1, 3, 100, 16, 8], 100), ([2, 2, 2, 40, 40, 16, 8], 40)] {
            let tensors = operands(&mut random, DType::F16, sizes, [false; 4]);
            let mask = random.floats(DType::F32, &[1, keys]);
            let own = [&tensors[0], &tensors[1], &tensors[2], &mask];
            let other = random.floats(DType::F32, &[sizes[3], 8]);
            for dtype in [DType::F32, DType::F16] {
                Case::new(&DEF, Attrs::new(), &own).then("add(x0,mul(x1,2.0))", &[&other]).stored(dtype).check(bench);
            }
        }
    });
}

/// Divisions of an attention on cooperative matrices, on devices that have them: several strips of queries, several
/// ways through the keys.
#[test]
fn attention_divided_in_every_way() {
    on_devices(|bench| {
        let mut random = Random::new(66);
        let divisions = ["4x1x32", "1x4x32", "1x4x16", "1x8x16", "1x2x64", "8x1x32", "4x1x64", "1x1x32"];
        for (at, division) in divisions.into_iter().enumerate() {
            // Lengths that leave ways without keys, heads that share keys, places, windows. The longest heads are slow
            // to compile where loops are unrolled: two divisions have them.
            let cases: &[(Sizes, u32)] = match at {
                0 | 2 => &[([2, 2, 1, 19, 70, 24, 16], 0), ([1, 2, 2, 20, 133, 128, 128], 1)],
                _ => &[([2, 2, 1, 19, 70, 24, 16], at as u32 % 3)],
            };
            for &(sizes, kind) in cases {
                let heads_last = [at % 2 == 0; 4];
                let tensors = operands(&mut random, DType::F16, sizes, heads_last);
                let attrs = Attrs::new().with_float("scale", 0.4).with_dtype("dtype", DType::F16);
                let attrs = attrs.with_ints("heads_last", heads_last.map(i64::from));
                let attrs = match kind {
                    0 => attrs,
                    1 => attrs.with_int("right", 0).with_ints("offset", [sizes[4].saturating_sub(sizes[3]) as i64]),
                    _ => attrs.with_int("left", 40).with_int("right", 3).with_int("zero_masked", 1),
                };
                Case::new(&DEF, attrs, &tensors.iter().collect::<Vec<_>>()).by(division).check(bench);
            }
        }
    });
}
