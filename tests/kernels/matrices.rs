//! Products on cooperative matrices, by variants that divide them in every way: of f16, of f32 as pairs of f16, and of
//! codes.

use super::*;
use nyxc::ir::packed::{Coding, Granularity, ScaleType};
use nyxc::ops::core::matmul::DEF;

fn attrs(trans_b: bool) -> Attrs {
    Attrs::new().with_int("trans_b", i64::from(trans_b))
}

/// Tiles of one and of several subgroups, with one matrix and with several for each, and the reduction axis divided or
/// not.
const VARIANTS: [&str; 5] =
    ["16x16x32_16x16_1", "16x32x32_16x16_2", "32x32x32_16x16_4", "64x32x32_32x32_2", "32x64x64_16x32_1"];

/// Runs `test` for devices that have cooperative matrices, with their own target alone; says where there are none.
fn on_matrices(test: impl Fn(&Bench)) {
    on_devices(|bench| {
        let target = bench.targets[0].clone();
        if !target.features.cooperative_matrix {
            let line = format!("SKIPPED on {}: no cooperative matrices\n", target.name);
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
        test(&bench.with(target));
    });
}

/// Whether the case is computed on matrices: a variant may be too large for a device, but not every one.
fn is_on_matrices(case: &Case, bench: &Bench) -> bool {
    plan(case, &bench.targets[0]).unwrap().iter().all(|call| call.key.name().contains("_mma_"))
}

fn packings() -> Vec<Packing> {
    let all = [
        (Coding::I4, Granularity::Block(32), ScaleType::F16),
        (Coding::I8, Granularity::Block(64), ScaleType::F16),
        (Coding::I4, Granularity::Block(128), ScaleType::F16Zero),
        (Coding::I8, Granularity::Row, ScaleType::F32),
        (Coding::I4, Granularity::Tensor, ScaleType::F32Zero),
    ];
    all.map(|(coding, granularity, scale)| Packing { coding, granularity, scale }).to_vec()
}

/// Checks a case by every variant; most must be there. A CPU takes half a minute to compile a large one: there, two.
fn by_every_variant(case: impl Fn() -> Case, bench: &Bench) {
    let is_cpu = bench.targets[0].limits.subgroup_size <= 8;
    let variants = if is_cpu { &VARIANTS[..2] } else { &VARIANTS };
    let mut n = 0;
    for variant in variants {
        let case = case().by(variant);
        n += usize::from(is_on_matrices(&case, bench));
        case.check(bench);
    }
    assert!(2 * n > variants.len(), "{}: {n} variants are on matrices", case().describe());
}

#[test]
fn floats_of_odd_shapes() {
    on_matrices(|bench| {
        let mut random = Random::new(31);
        for dtype in [DType::F16, DType::F32] {
            for (m, n, k) in [(9, 24, 8), (17, 40, 32), (70, 72, 40), (33, 96, 136), (64, 32, 64), (65, 8, 200)] {
                let a = random.floats(dtype, &[m, k]);
                let b = random.floats(dtype, &[n, k]);
                by_every_variant(|| Case::new(&DEF, attrs(true), &[&a, &b]), bench);
            }
        }
        for (m, n, k) in [(17, 40, 32), (70, 72, 40), (33, 96, 136)] {
            let (a, b) = (random.floats(DType::F16, &[m, k]), random.floats(DType::F16, &[k, n]));
            by_every_variant(|| Case::new(&DEF, attrs(false), &[&a, &b]), bench);
            let (a, b) = (random.floats(DType::F32, &[m, k]), random.floats(DType::F16, &[n, k]));
            by_every_variant(|| Case::new(&DEF, attrs(true), &[&a, &b]), bench);
        }
    });
}

#[test]
fn packed_weights() {
    on_matrices(|bench| {
        let mut random = Random::new(32);
        for packing in packings() {
            for dtype in [DType::F16, DType::F32] {
                for (m, n, k) in [(9, 24, 64), (40, 37, 288)] {
                    let (a, b) = (random.floats(dtype, &[m, k]), random.packed(packing, &[n, k]));
                    by_every_variant(|| Case::new(&DEF, attrs(true), &[&a, &b]), bench);
                }
            }
        }
    });
}

#[test]
fn codes_times_codes() {
    on_matrices(|bench| {
        // Matrices of codes are made of whole vectors of 16: not on every device.
        let shape = bench.targets[0].features.matrix_shape(nyxc::targets::MatrixTypes::I8);
        if shape.is_none_or(|shape| shape.k < 16) {
            let line = format!("SKIPPED on {}: matrices of codes are {shape:?}\n", bench.targets[0].name);
            let _ = std::io::stderr().write_all(line.as_bytes());
            return;
        }
        let mut random = Random::new(33);
        for packing in packings().into_iter().filter(|packing| !packing.scale.has_zeros()) {
            for granularity in [Granularity::Row, Granularity::Tensor] {
                for (m, n, k) in [(3, 24, 64), (40, 37, 288)] {
                    let a = random.packed(Packing::activation(granularity), &[m, k]);
                    let b = random.packed(packing, &[n, k]);
                    by_every_variant(|| Case::new(&DEF, attrs(true), &[&a, &b]), bench);
                }
            }
        }
    });
}

#[test]
fn batches_epilogues_and_slices() {
    on_matrices(|bench| {
        let mut random = Random::new(34);
        for dtype in [DType::F16, DType::F32] {
            let (a, b) = (random.floats(dtype, &[2, 3, 20, 40]), random.floats(dtype, &[2, 1, 24, 40]));
            by_every_variant(|| Case::new(&DEF, attrs(true), &[&a, &b]), bench);
            let (a, b) = (random.floats(dtype, &[40, 64]), random.floats(dtype, &[48, 64]));
            let (bias, rest) = (random.floats(DType::F32, &[48]), random.floats(dtype, &[40, 48]));
            by_every_variant(
                || Case::new(&DEF, attrs(true), &[&a, &b]).then("relu(add(add(x0,x1),x2))", &[&bias, &rest]),
                bench,
            );
        }
        let mut small = bench.targets[0].clone();
        small.limits.max_storage_buffer_range = 8192;
        let bench = &bench.with(small);
        let (a, b) = (random.floats(DType::F16, &[12, 64]), random.packed(packings()[0], &[300, 64]));
        let case = || Case::new(&DEF, attrs(true), &[&a, &b]);
        assert!(plan(&case(), &bench.targets[0]).unwrap().len() > 1);
        by_every_variant(case, bench);
    });
}

/// Lines of any magnitude keep the precision of f32, and what is not finite reaches what it should and nothing else.
#[test]
fn pairs_of_extreme_values() {
    on_matrices(|bench| {
        let mut random = Random::new(35);
        let (m, n, k) = (20, 24, 64);
        let scaled = |t: Tensor, dims: &[usize], by: &dyn Fn(usize) -> f32| {
            let values: Vec<f32> = t.to_f32s().unwrap().iter().enumerate().map(|(i, v)| v * by(i / k)).collect();
            Tensor::from_f32s(DType::F32, dims, &values).unwrap()
        };
        // Each row another magnitude: rows are compared with themselves.
        for (power_a, power_b) in [(0, 0), (30, -30), (-60, 60), (60, 20), (-40, -20)] {
            let a = scaled(random.floats(DType::F32, &[m, k]), &[m, k], &|_| 2f32.powi(power_a));
            let b = scaled(random.floats(DType::F32, &[n, k]), &[n, k], &|_| 2f32.powi(power_b));
            by_every_variant(|| Case::new(&DEF, attrs(true), &[&a, &b]), bench);
        }
        let mut values = random.floats(DType::F32, &[m, k]).to_f32s().unwrap().into_owned();
        (values[3], values[k + 40], values[5 * k + 2]) = (f32::INFINITY, f32::NEG_INFINITY, f32::NAN);
        let a = Tensor::from_f32s(DType::F32, &[m, k], &values).unwrap();
        let b = random.floats(DType::F32, &[n, k]);
        by_every_variant(|| Case::new(&DEF, attrs(true), &[&a, &b]), bench);
        by_every_variant(|| Case::new(&DEF, attrs(true), &[&b, &a]), bench);
    });
}
