use super::*;
use nyxc::ir::packed::{Coding, Granularity, ScaleType};
use nyxc::ops::core::matmul::DEF;

fn attrs(trans_b: bool) -> Attrs {
    Attrs::new().with_int("trans_b", i64::from(trans_b))
}

#[test]
fn float_products_of_odd_shapes() {
    on_devices(|bench| {
        let mut random = Random::new(1);
        let types = [DType::F32, DType::F16];
        for (m, n, k) in [(1, 1, 1), (1, 37, 130), (3, 5, 7), (8, 33, 64), (9, 31, 33), (70, 65, 40), (129, 66, 17)] {
            for (trans_b, a_ty, b_ty) in [(false, 0, 0), (true, 0, 1), (false, 1, 0), (true, 1, 1)] {
                let a = random.floats(types[a_ty], &[m, k]);
                let b = random.floats(types[b_ty], if trans_b { [n, k] } else { [k, n] }.as_slice());
                Case::new(&DEF, attrs(trans_b), &[&a, &b]).check(bench);
            }
        }
    });
}

/// The product of two f16 is exact in f32: results are as good as from f32, beyond f16's range too, wherever the
/// operands are stored in f16.
#[test]
fn products_of_f16_are_exact() {
    on_devices(|bench| {
        let mut random = Random::new(12);
        for (m, n, k) in [(9, 31, 33), (70, 65, 40), (129, 66, 17), (64, 64, 1)] {
            for trans_b in [false, true] {
                let large = |t: &Tensor| {
                    Tensor::from_f32s(
                        DType::F16,
                        &t.dims(),
                        &t.to_f32s().unwrap().iter().map(|v| v * 2000.0).collect::<Vec<_>>(),
                    )
                    .unwrap()
                };
                let a = large(&random.floats(DType::F32, &[m, k]));
                let b = large(&random.floats(DType::F32, if trans_b { [n, k] } else { [k, n] }.as_slice()));
                let case = Case::new(&DEF, attrs(trans_b), &[&a, &b]).stored(DType::F32);
                case.check(bench);
                for target in &bench.targets {
                    let (given, names) = run(&bench.context, target, &case).unwrap();
                    assert_eq!(
                        names[0].contains("_half") || names[0].contains("_mma_"),
                        target.features.f16_arithmetic,
                        "{names:?} on {}",
                        target.name
                    );
                    assert!(
                        given.to_f32s().unwrap().iter().any(|v| v.abs() > 70_000.0),
                        "nothing beyond f16's range was summed"
                    );
                }
            }
        }
        let mut a = random.floats(DType::F16, &[70, 20]).to_f32s().unwrap().into_owned();
        (a[0], a[25], a[50]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
        let a = Tensor::from_f32s(DType::F16, &[70, 20], &a).unwrap();
        let b = random.floats(DType::F16, &[20, 66]);
        Case::new(&DEF, attrs(false), &[&a, &b]).check(bench);
    });
}

#[test]
fn batches_broadcast() {
    on_devices(|bench| {
        let mut random = Random::new(2);
        for (a, b) in [
            ([2, 3, 4, 5], [2, 3, 5, 6]),
            ([2, 3, 12, 5], [2, 1, 5, 6]),
            ([1, 3, 12, 5], [2, 1, 5, 33]),
            ([2, 1, 12, 5], [2, 3, 5, 6]),
            ([2, 3, 12, 5], [1, 1, 5, 6]),
        ] {
            let (a, b) = (random.floats(DType::F32, &a), random.floats(DType::F32, &b));
            Case::new(&DEF, attrs(false), &[&a, &b]).check(bench);
        }
        let (a, b) = (random.floats(DType::F16, &[3, 40, 16]), random.floats(DType::F16, &[3, 50, 16]));
        Case::new(&DEF, attrs(true), &[&a, &b]).stored(DType::F32).check(bench);
    });
}

#[test]
fn packed_weights() {
    on_devices(|bench| {
        let mut random = Random::new(3);
        for packing in packings() {
            for (m, n, k) in [(1, 9, 70), (5, 40, 257), (12, 33, 45), (80, 65, 96)] {
                let a = random.floats(if m % 2 == 1 { DType::F32 } else { DType::F16 }, &[m, k]);
                let b = random.packed(packing, &[n, k]);
                Case::new(&DEF, attrs(true), &[&a, &b]).check(bench);
                Case::new(&DEF, attrs(true), &[&a, &b]).stored(DType::F32).check(bench);
            }
        }
    });
}

#[test]
fn packed_weights_under_packed_activations() {
    on_devices(|bench| {
        let mut random = Random::new(4);
        for packing in packings_without_zeros() {
            for (granularity, dims, n) in [
                (Granularity::Row, vec![2, 5, 70], 9),
                (Granularity::Tensor, vec![40, 257], 33),
                (Granularity::Row, vec![70, 64], 65),
            ] {
                let a = random.packed(Packing::activation(granularity), &dims);
                let b = random.packed(packing, &[n, dims[dims.len() - 1]]);
                let bias = random.floats(DType::F32, &[n]);
                Case::new(&DEF, attrs(true), &[&a, &b]).then("relu(add(x0,x1))", &[&bias]).check(bench);
            }
        }
    });
}

#[test]
fn epilogues_load_in_every_mode() {
    on_devices(|bench| {
        let mut random = Random::new(5);
        for m in [3, 40] {
            let (a, b) = (random.floats(DType::F32, &[2, m, 20]), random.floats(DType::F16, &[33, 20]));
            let same = random.floats(DType::F16, &[2, m, 33]);
            let scalar = random.floats(DType::F32, &[1]);
            let (row, column) = (random.floats(DType::F32, &[33]), random.floats(DType::F16, &[m, 1]));
            let strided = random.floats(DType::F32, &[2, 1, 33]);
            for (text, extra) in [
                ("add(x0,x1)", vec![&same]),
                ("mul(x0,x1)", vec![&scalar]),
                ("relu(add(x0,x1))", vec![&row]),
                ("sub(x0,x1)", vec![&column]),
                ("tanh(add(x0,x1))", vec![&strided]),
                ("select(lt(x0,x1),x2,mul(x0,sigmoid(x0)))", vec![&row, &same]),
                ("max(x0,0.25)", vec![]),
            ] {
                Case::new(&DEF, attrs(true), &[&a, &b])
                    .then(text, &extra)
                    .stored(if m == 3 { DType::F16 } else { DType::F32 })
                    .check(bench);
            }
        }
    });
}

#[test]
fn weights_beyond_a_binding_come_in_slices() {
    on_devices(|bench| {
        let mut random = Random::new(6);
        let mut small = bench.targets[0].clone();
        // Far below what a target may have, so that the test is small.
        small.limits.max_storage_buffer_range = 8192;
        let bench = bench.with(small);
        let bias = random.floats(DType::F32, &[200]);
        for m in [2, 10] {
            let a = random.floats(DType::F32, &[m, 50]);
            for packing in [None, Some(packings()[0]), Some(packings()[4]), Some(packings()[5])] {
                let b = match packing {
                    None => random.floats(DType::F32, &[200, 50]),
                    Some(packing) => {
                        random.packed(packing, &[200, if packing.coding == Coding::I8 { 50 } else { 120 }])
                    }
                };
                let a = if b.dims()[1] == 50 { a.clone() } else { random.floats(DType::F32, &[m, 120]) };
                let case = Case::new(&DEF, attrs(true), &[&a, &b]).then("add(x0,x1)", &[&bias]);
                match plan(&case, &bench.targets[0]) {
                    // Rows, their scales, a, bias and result are five; `check` says aloud that this is skipped.
                    Err(KernelError::OverLimit { resource: Resource::StorageBuffers, needed: 5, limit: 4, .. }) => {}
                    calls => assert!(calls.unwrap().len() > 1, "{}", case.describe()),
                }
                case.check(&bench);
            }
        }
        let (a, b) = (random.floats(DType::F32, &[2, 50]), random.floats(DType::F32, &[50, 200]));
        let refused = plan(&Case::new(&DEF, attrs(false), &[&a, &b]), &bench.targets[0]).unwrap_err();
        assert_eq!(refused.to_string(), r#"node "node": "x1" has 40000 bytes, a binding may span 8192"#);
    });
}

#[test]
fn rows_stored_in_several_ways() {
    on_devices(|bench| {
        let mut random = Random::new(7);
        for packing in packings() {
            for (m, k) in [(1, 70), (5, 257), (33, 45)] {
                let parts = [
                    random.packed(packings()[1], &[9, k]),
                    random.floats(DType::F16, &[1, k]),
                    random.packed(packing, &[40, k]),
                ];
                let bias = random.floats(DType::F32, &[50]);
                let a = random.floats(DType::F32, &[m, k]);
                Case::new(&DEF, attrs(true), &[&a, &parts[0], &parts[1], &parts[2]])
                    .then("relu(add(x0,x1))", &[&bias])
                    .check(bench);
                if packing.scale.has_zeros() {
                    continue;
                }
                let a = random.packed(Packing::activation(Granularity::Row), &[m, k]);
                let bias = random.floats(DType::F32, &[49]);
                let case = Case::new(&DEF, attrs(true), &[&a, &parts[0], &parts[2]]).then("add(x0,x1)", &[&bias]);
                assert_eq!(plan(&case, &bench.targets[0]).unwrap().len(), 2);
                case.check(bench);
            }
        }
    });
}

/// The device's own target as if its subgroups were wide and its integer dot products instructions: the kernels that
/// are chosen then are right on any device.
fn with_dot(bench: &Bench) -> Bench {
    let mut target = bench.targets[0].clone();
    target.features.integer_dot_product_accelerated = target.features.integer_dot_product;
    target.limits.subgroup_size = target.limits.subgroup_size.max(32);
    bench.with(target)
}

/// Kernels that read rows 16 bytes at a time: any number of columns, rows of one step to several chunks, every packing
/// whose blocks hold a step.
#[test]
fn few_rows_in_vectors() {
    on_devices(|bench| {
        let (mut random, bench) = (Random::new(21), &with_dot(bench));
        let mut n_dots = 0;
        for (m, n, k) in [(1, 1, 32), (1, 37, 64), (1, 9, 4640), (3, 33, 1056), (8, 18, 320)] {
            for a_ty in [DType::F32, DType::F16] {
                if m > 1 && (a_ty == DType::F16) != (m == 8) {
                    continue;
                }
                let a = random.floats(a_ty, &[m, k]);
                for b_ty in [DType::F32, DType::F16] {
                    let b = random.floats(b_ty, &[n, k]);
                    let case = Case::new(&DEF, attrs(true), &[&a, &b]).stored(DType::F32);
                    for target in &bench.targets {
                        let name = plan(&case, target).unwrap()[0].key.name();
                        let fits =
                            target.limits.max_compute_work_group_invocations >= 256 && target.limits.subgroup_size > 8;
                        assert!(!fits || name.starts_with("gemv_f"), "{name} on {}", target.name);
                    }
                    case.check(bench);
                }
                for packing in packings().into_iter().skip(m / 2).step_by(if k == 64 { 1 } else { 5 }) {
                    let b = random.packed(packing, &[n, k]);
                    let case = Case::new(&DEF, attrs(true), &[&a, &b]).stored(DType::F32);
                    for target in &bench.targets {
                        let name = plan(&case, target).unwrap()[0].key.name();
                        let is_dot = name.starts_with("gemv_dot");
                        assert!(!is_dot || packing.granularity != Granularity::Block(16), "{name}");
                        assert!(!is_dot || target.features.integer_dot_product, "{name} on {}", target.name);
                        n_dots += usize::from(is_dot);
                    }
                    case.check(bench);
                }
            }
        }
        let least = if bench.targets[0].features.integer_dot_product { 20 } else { 0 };
        assert!(n_dots >= least, "{n_dots} cases took integer dot products");
    });
}

/// Every variant that a benchmark tries, and what follows a product: an epilogue, parts stored in several ways, slices
/// of rows.
#[test]
fn variants_of_few_rows() {
    on_devices(|bench| {
        let (mut random, bench) = (Random::new(22), &with_dot(bench));
        let bias = random.floats(DType::F32, &[83]);
        for m in [1, 2, 5] {
            let a = random.floats(DType::F32, &[m, 320]);
            let parts = [
                random.packed(packings()[0], &[40, 320]),
                random.floats(DType::F16, &[3, 320]),
                random.packed(packings()[4], &[40, 320]),
            ];
            let case = Case::new(&DEF, attrs(true), &[&a, &parts[0], &parts[1], &parts[2]]);
            case.then("relu(add(x0,x1))", &[&bias]).check(bench);
        }
        let mut small = bench.targets[0].clone();
        small.limits.max_storage_buffer_range = 8192;
        let bench = &bench.with(small);
        let sliced = [0, 4, 8, 9].map(|i| Some(packings()[i]));
        for packing in sliced.into_iter().chain([None]) {
            let a = random.floats(DType::F32, &[1, 64]);
            let b = match packing {
                None => random.floats(DType::F16, &[200, 64]),
                Some(packing) => random.packed(packing, &[300, 64]),
            };
            let case = Case::new(&DEF, attrs(true), &[&a, &b]);
            assert!(plan(&case, &bench.targets[0]).unwrap().len() > 1, "{}", case.describe());
            case.check(bench);
        }
    });
}

/// Infinities and NaN of the activations reach the columns whose weights are not zero; the largest and the smallest
/// values stay exact.
#[test]
fn few_rows_of_extreme_values() {
    on_devices(|bench| {
        let (mut random, bench) = (Random::new(23), &with_dot(bench));
        for packing in packings() {
            let b = random.packed(packing, &[20, 128]);
            for special in [f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 1e30, 1e-20, 0.0] {
                let mut values = random.floats(DType::F32, &[2, 128]).to_f32s().unwrap().into_owned();
                values[70] = special;
                if special == 0.0 {
                    values.fill(0.0);
                }
                let a = Tensor::from_f32s(DType::F32, &[2, 128], &values).unwrap();
                Case::new(&DEF, attrs(true), &[&a, &b]).check(bench);
            }
        }
    });
}

#[test]
fn every_candidate_is_right() {
    on_devices(|bench| {
        let mut random = Random::new(41);
        let packing = Packing { coding: Coding::I4, granularity: Granularity::Block(32), scale: ScaleType::F16 };
        for (i, (m, n, k)) in [(1, 37, 192), (3, 40, 1088), (19, 72, 192), (70, 40, 320)].into_iter().enumerate() {
            for dtype in [DType::F16, DType::F32] {
                let (a, bias) = (random.floats(dtype, &[m, k]), random.floats(dtype, &[n]));
                let own = random.floats(dtype, &[n, k]);
                let packed = random.packed(packing, &[n, k]);
                for b in [&own, &packed] {
                    let case = || Case::new(&DEF, attrs(true), &[&a, b]).then("relu(add(x0,x1))", &[&bias]);
                    by_candidates(case, bench, 5 * i, 23);
                }
            }
        }
    });
}
