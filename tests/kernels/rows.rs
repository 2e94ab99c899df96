use super::*;
use nyxc::kernels::key::Flag;
use nyxc::ops::core::{norm, quantize_packed, reduce, softmax};

#[test]
fn reductions_along_any_axes() {
    on_devices(|bench| {
        let bench = &bench.with_wide();
        let mut random = Random::new(21);
        let cases: [(&[usize], &[i64]); 9] = [
            (&[7], &[0]),
            (&[3, 200], &[1]),
            (&[200, 3], &[0]),
            (&[2, 70, 5], &[1]),
            (&[2, 3, 4, 5], &[0, 2]),
            (&[2, 3, 4, 5], &[1, 3]),
            (&[2, 3, 4, 5, 6, 3], &[0, 2, 4]),
            (&[2, 3], &[]),
            (&[4, 3, 20, 11], &[2, 3]),
        ];
        for kind in ["sum", "mean", "max", "min", "prod"] {
            for (at, (dims, axes)) in cases.iter().enumerate() {
                let attrs = Attrs::new()
                    .with_str("kind", kind)
                    .with_ints("axes", axes.iter().copied())
                    .with_int("keepdims", at as i64 % 2);
                Case::new(&reduce::DEF, attrs.clone(), &[&random.floats(DType::F32, dims)]).check(bench);
                Case::new(&reduce::DEF, attrs.clone(), &[&random.floats(DType::F16, dims)])
                    .stored(DType::F32)
                    .check(bench);
                // The mean of integers is no more than any other division of them, and a product of many wraps
                // differently in i64.
                if kind != "prod" {
                    Case::new(&reduce::DEF, attrs, &[&random.ints(DType::I32, dims, -50, 50)]).check(bench);
                }
            }
        }
        let mut values = vec![1.0f32; 300];
        values[100] = f32::NAN;
        let x = Tensor::from_f32s(DType::F32, &[2, 150], &values).unwrap();
        for kind in ["sum", "max"] {
            let attrs = Attrs::new().with_str("kind", kind).with_ints("axes", [1]).with_int("keepdims", 0);
            Case::new(&reduce::DEF, attrs, &[&x]).then("sqrt(x0)", &[]).check(bench);
        }
        let attrs = Attrs::new().with_str("kind", "sum").with_ints("axes", [0]).with_int("keepdims", 0);
        Case::new(&reduce::DEF, attrs, &[&random.ints(DType::I8, &[40, 3], 80, 120)]).check(bench);
    });
}

#[test]
fn softmax_along_any_axis() {
    on_devices(|bench| {
        let bench = &bench.with_wide();
        let mut random = Random::new(22);
        for (dims, axis) in
            [(vec![5], 0), (vec![3, 300], 1), (vec![100, 4], 0), (vec![2, 7, 3], 1), (vec![2, 2, 3, 65], 3)]
        {
            for (log, dtype) in [(0, DType::F32), (1, DType::F32), (0, DType::F16)] {
                let x = random.floats(dtype, &dims);
                let attrs = Attrs::new().with_int("axis", axis).with_int("log", log);
                Case::new(&softmax::DEF, attrs.clone(), &[&x]).check(bench);
                Case::new(&softmax::DEF, attrs, &[&x])
                    .then("mul(x0,x1)", &[&random.floats(DType::F32, &dims)])
                    .check(bench);
            }
        }
        let masked =
            Tensor::from_f32s(DType::F32, &[2, 3], &[1e30, f32::NEG_INFINITY, -1e9, 88.0, 87.0, f32::NEG_INFINITY])
                .unwrap();
        Case::new(&softmax::DEF, Attrs::new().with_int("axis", 1).with_int("log", 0), &[&masked]).check(bench);
    });
}

#[test]
fn normalisation_with_and_without_vectors() {
    on_devices(|bench| {
        let bench = &bench.with_wide();
        let mut random = Random::new(23);
        for kind in ["layer", "rms"] {
            for (dims, axis) in [(vec![3, 5], 1), (vec![2, 3, 130], 2), (vec![4, 3, 50], 1)] {
                let x = random.floats(DType::F32, &dims);
                let vectors = [DType::F32, DType::F16].map(|t| random.floats(t, &dims[axis..]));
                let attrs =
                    Attrs::new().with_str("kind", kind).with_int("axis", axis as i64).with_float("epsilon", 1e-5);
                Case::new(&norm::DEF, attrs.clone(), &[&x]).check(bench);
                Case::new(&norm::DEF, attrs.clone(), &[&x, &vectors[0]]).check(bench);
                Case::new(&norm::DEF, attrs.clone(), &[&x, &vectors[0], &vectors[1]]).stored(DType::F16).check(bench);
                Case {
                    operands: vec![Some(x.clone()), None, Some(vectors[1].clone())],
                    ..Case::new(&norm::DEF, attrs, &[])
                }
                .check(bench);
            }
        }
    });
}

/// Row lengths at which the number of lanes, of vectors or of elements in one changes, and those around them; odd
/// numbers of rows.
#[test]
fn rows_of_every_length_held_in_registers() {
    on_devices(|bench| {
        let bench = &bench.with_wide();
        let mut random = Random::new(25);
        let mut seen = std::collections::BTreeSet::new();
        for (at, (rows, n)) in [
            (1, 32),
            (7, 33),
            (9, 36),
            (130, 40),
            (5, 64),
            (3, 127),
            (13, 128),
            (3, 130),
            (2, 255),
            (5, 256),
            (3, 260),
            (2, 384),
            (3, 500),
            (3, 576),
            (3, 577),
            (2, 768),
            (2, 1000),
            (1, 1024),
            (2, 1026),
            (2, 1536),
            (1, 2047),
            (1, 3072),
            (2, 4096),
            (1, 5120),
            (1, 8192),
            (1, 12288),
            (1, 30000),
            (1, 32768),
            (1, 32772),
        ]
        .into_iter()
        .enumerate()
        {
            let dims = [rows, n];
            let (x, half) = (random.floats(DType::F32, &dims), random.floats(DType::F16, &dims));
            let column = random.floats(DType::F32, &[rows, 1]);
            let vectors = [DType::F32, DType::F16].map(|t| random.floats(t, &[n]));
            let attrs = Attrs::new().with_int("axis", 1);
            let soft = |log: i64, x: &Tensor| Case::new(&softmax::DEF, attrs.clone().with_int("log", log), &[x]);
            let norms = |kind: &str| attrs.clone().with_str("kind", kind).with_float("epsilon", 1e-5);
            let one = |kind: &str, x: &Tensor| {
                let attrs = Attrs::new().with_str("kind", kind).with_ints("axes", [1]).with_int("keepdims", 1);
                Case::new(&reduce::DEF, attrs, &[x])
            };
            let cases = [
                soft(0, &x).then("mul(x0,x1)", &[&column]),
                soft(1, &half).stored(DType::F32),
                soft(0, &half),
                Case::new(&norm::DEF, norms("layer"), &[&half, &vectors[0], &vectors[1]])
                    .then("add(mul(x0,x1),x2)", &[&x, &vectors[1]])
                    .stored(DType::F16),
                Case::new(&norm::DEF, norms("rms"), &[&x, &vectors[1]]),
                one("mean", &half).then("add(x0,x1)", &[&column]).stored(DType::F32),
                one("sum", &x),
                one("max", &half),
                one("min", &x),
            ];
            // A third of them at each length.
            for case in cases.iter().skip(at % 3).step_by(3) {
                for target in &bench.targets {
                    // What a target has too few buffers for is reported by `check`.
                    let Ok(mut calls) = plan(case, target) else { continue };
                    let key = calls.remove(0).key;
                    let is_held = key.flags.contains_key(&Flag::Lanes);
                    assert!(!is_held || target.features.subgroup_arithmetic, "{key} on {}", target.name);
                    let most = target.limits.max_compute_work_group_invocations;
                    let short = n <= 256 || (n % 4 == 0 && n <= (most as usize * 16).min(1024));
                    let held = target.features.subgroup_arithmetic && short;
                    assert!(is_held || !held, "{key} on {}", target.name);
                    seen.extend(
                        [Flag::Lanes, Flag::Held, Flag::Vector].map(|flag| (flag, key.flags.get(&flag).copied())),
                    );
                }
                case.check(bench);
            }
        }
        // Where the device can hold rows at all, they were held in many ways.
        let ways = seen.iter().filter(|(_, value)| value.is_some()).count();
        assert!(ways >= 15 || !bench.targets[0].features.subgroup_arithmetic, "{seen:?}");
    });
}

/// Sums that would cancel, and numbers that are none, wherever they are in a row.
#[test]
fn held_rows_keep_digits_and_what_is_no_number() {
    on_devices(|bench| {
        let bench = &bench.with_wide();
        let mut random = Random::new(26);
        for n in [96, 256, 768] {
            let far: Vec<f32> = (0..3 * n).map(|_| 1000.0 + random.unit()).collect();
            let far = Tensor::from_f32s(DType::F32, &[3, n], &far).unwrap();
            let attrs = Attrs::new().with_str("kind", "layer").with_int("axis", 1).with_float("epsilon", 1e-5);
            let (given, wanted) = (&far, norm::DEF.eval.unwrap()(&attrs, &[Some(&far)]).unwrap().remove(0));
            for target in &bench.targets {
                let case = Case::new(&norm::DEF, attrs.clone(), &[given]);
                let (result, names) = run(&bench.context, target, &case).unwrap();
                let far = |(a, b): (&f32, &f32)| f64::from(a - b).abs();
                let (a, b) = (result.to_f32s().unwrap(), wanted.to_f32s().unwrap());
                // A mean near 1000 has an error of about 1e-4 of the deviation.
                let worst = a.iter().zip(b.iter()).map(far).fold(0.0, f64::max);
                assert!(worst < 1e-3, "{names:?} on {}: {worst:e}", target.name);
            }
            // Values whose squares f32 does not hold, in some rows of a workgroup.
            let values: Vec<f32> = random.floats(DType::F32, &[5, n]).to_f32s().unwrap().iter().copied().collect();
            let values =
                values.iter().enumerate().map(|(i, v)| v * [1.0, 1e25, 3.0, 2e37, 1e-3][i / n]).collect::<Vec<f32>>();
            let x = Tensor::from_f32s(DType::F32, &[5, n], &values).unwrap();
            for kind in ["layer", "rms"] {
                let attrs = Attrs::new().with_str("kind", kind).with_int("axis", 1).with_float("epsilon", 1e-5);
                Case::new(&norm::DEF, attrs, &[&x]).check(bench);
            }
            let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -0.0, f32::MAX, f32::MIN];
            let places = [0, 1, n / 2 + 1, n - 1];
            let n_rows = special.len() * places.len() + 1;
            let mut values = random.floats(DType::F32, &[n_rows, n]).to_f32s().unwrap().into_owned();
            for (row, (value, place)) in special.iter().flat_map(|v| places.map(|place| (*v, place))).enumerate() {
                values[row * n + place] = value;
            }
            values[(n_rows - 1) * n..].fill(f32::NEG_INFINITY);
            let x = Tensor::from_f32s(DType::F32, &[n_rows, n], &values).unwrap();
            let axis = Attrs::new().with_int("axis", 1);
            for log in [0, 1] {
                Case::new(&softmax::DEF, axis.clone().with_int("log", log), &[&x]).check(bench);
            }
            for kind in ["sum", "mean", "max", "min"] {
                let attrs = Attrs::new().with_str("kind", kind).with_ints("axes", [1]).with_int("keepdims", 0);
                Case::new(&reduce::DEF, attrs, &[&x]).check(bench);
            }
        }
    });
}

#[test]
fn activations_are_quantized_bit_for_bit() {
    on_devices(|bench| {
        let mut random = Random::new(24);
        for (dims, dtype) in [
            (vec![7], DType::F32),
            (vec![3, 5], DType::F32),
            (vec![2, 3, 130], DType::F16),
            (vec![200, 301], DType::F32),
            (vec![1, 1], DType::F32),
        ] {
            let mut tensors = vec![random.floats(dtype, &dims)];
            let mut values = random.floats(DType::F32, &dims).to_f32s().unwrap().into_owned();
            values[0] = f32::NAN;
            let n = values.len();
            values[n / 2] = f32::NEG_INFINITY;
            values[n - 1] *= 1e30;
            tensors.push(Tensor::from_f32s(DType::F32, &dims, &values).unwrap());
            tensors.push(Tensor::from_f32s(DType::F32, &dims, &vec![0.0; n]).unwrap());
            for x in &tensors {
                for granularity in ["row", "tensor"] {
                    Case::new(&quantize_packed::DEF, Attrs::new().with_str("granularity", granularity), &[x])
                        .check(bench);
                }
                let most = magnitude(x);
                Case::new(&quantize_packed::MAGNITUDE, Attrs::new(), &[x]).check(bench);
                Case::new(&quantize_packed::DEF, Attrs::new().with_str("granularity", "tensor"), &[x, &most])
                    .check(bench);
            }
        }
    });
}
