//! Every kernel with a loop at depths at which some drivers end loops early (`Limits::max_loop_iterations`). Operands
//! are small integers, so that sums are exact in whatever order they are taken, and a single term that is left out
//! shows.

use super::*;
use nyxc::ir::packed::{Coding, Granularity, ScaleType};
use nyxc::ops::core::{conv, matmul, norm, pool, quantize_packed, reduce, softmax};

const DEPTH: usize = 200_003;

/// Integers from -1 to 1 as floats.
fn small(random: &mut Random, dtype: DType, dims: &[usize]) -> Tensor {
    let values: Vec<f32> = (0..dims.iter().product()).map(|_| (random.unit() * 1.5).round()).collect();
    Tensor::from_f32s(dtype, dims, &values).unwrap()
}

/// Codes from -1 to 1, scales of a half.
fn codes(random: &mut Random, packing: Packing, dims: [usize; 2]) -> Tensor {
    let codes: Vec<i8> = (0..dims[0] * dims[1]).map(|_| (random.unit() * 1.5).round() as i8).collect();
    let n = packing.n_scales(dims[0] as u64, dims[1] as u64).unwrap() as usize;
    let bytes = pack_with_zeros(packing, dims[0], dims[1], &codes, &vec![0.5; n], &[]).unwrap();
    let ty = TensorType { dtype: packing.codes(), shape: Shape::of(&dims), packing: Some(packing) };
    Tensor::from_bytes(ty, bytes).unwrap()
}

fn packing(coding: Coding, granularity: Granularity) -> Packing {
    Packing { coding, granularity, scale: ScaleType::F32 }
}

/// INT8 activations of small integers: the scale of a row is 1/127 and its codes are multiples of 127, but for their
/// rounding.
fn activations(random: &mut Random, granularity: Granularity, dims: [usize; 2]) -> Tensor {
    let packing = Packing::activation(granularity);
    let codes: Vec<i8> = (0..dims[0] * dims[1]).map(|_| (random.unit() * 1.5).round() as i8).collect();
    let n = packing.n_scales(dims[0] as u64, dims[1] as u64).unwrap() as usize;
    let bytes = pack_with_zeros(packing, dims[0], dims[1], &codes, &vec![2.0; n], &[]).unwrap();
    let ty = TensorType { dtype: packing.codes(), shape: Shape::of(&dims), packing: Some(packing) };
    Tensor::from_bytes(ty, bytes).unwrap()
}

#[test]
fn deep_products() {
    on_devices(|bench| {
        let mut random = Random::new(91);
        let b_dims = |trans_b: bool, n: usize| if trans_b { [n, DEPTH] } else { [DEPTH, n] };
        for (m, n) in [(1, 3), (2, 9), (8, 3), (9, 17)] {
            for trans_b in [false, true] {
                let attrs = Attrs::new().with_int("trans_b", i64::from(trans_b));
                let a = small(&mut random, DType::F32, &[m, DEPTH]);
                let b = small(&mut random, DType::F32, &b_dims(trans_b, n));
                Case::new(&matmul::DEF, attrs.clone(), &[&a, &b]).check(bench);
                let [a, b] = [(&a, [m, DEPTH]), (&b, b_dims(trans_b, n))]
                    .map(|(t, dims)| Tensor::from_f32s(DType::F16, &dims, &t.to_f32s().unwrap()).unwrap());
                Case::new(&matmul::DEF, attrs, &[&a, &b]).stored(DType::F32).check(bench);
            }
            for packing in [packing(Coding::I4, Granularity::Block(32)), packing(Coding::I8, Granularity::Row)] {
                let a = small(&mut random, DType::F32, &[m, DEPTH]);
                let b = codes(&mut random, packing, [n, DEPTH]);
                Case::new(&matmul::DEF, Attrs::new().with_int("trans_b", 1), &[&a, &b]).check(bench);
            }
        }
        // Tiles of 64 x 64; an epilogue with a loop of its own.
        let a = small(&mut random, DType::F32, &[64, DEPTH]);
        let b = small(&mut random, DType::F32, &[DEPTH, 64]);
        let divisor = Tensor::from_f32s(DType::F32, &[1], &[7.0]).unwrap();
        Case::new(&matmul::DEF, Attrs::new(), &[&a, &b]).then("fmod(x0,x1)", &[&divisor]).check(bench);
    });
}

#[test]
fn deep_integer_products() {
    on_devices(|bench| {
        let mut random = Random::new(92);
        for (coding, block) in [(Coding::I8, 16), (Coding::I4, 64)] {
            let a = activations(&mut random, Granularity::Row, [9, DEPTH]);
            let b = codes(&mut random, packing(coding, Granularity::Block(block)), [17, DEPTH]);
            Case::new(&matmul::DEF, Attrs::new().with_int("trans_b", 1), &[&a, &b]).stored(DType::F32).check(bench);
        }
        let attrs = Attrs::new().with_ints("kernel", [1, 1]).with_int("group", 1);
        let x = activations(&mut random, Granularity::Tensor, [DEPTH, 1]);
        let x = Tensor::from_bytes(
            TensorType { shape: Shape::of(&[1, DEPTH, 1, 1]), ..x.ty().clone() },
            x.bytes().unwrap().to_vec(),
        )
        .unwrap();
        let w = codes(&mut random, packing(Coding::I8, Granularity::Block(64)), [3, DEPTH]);
        Case::new(&conv::DEF, attrs, &[&x, &w]).stored(DType::F32).check(bench);
    });
}

#[test]
fn windows_over_everything() {
    on_devices(|bench| {
        let mut random = Random::new(93);
        let attrs = |kernel: [i64; 2]| Attrs::new().with_ints("kernel", kernel).with_int("group", 1);
        // Many channels: an implicit product.
        let x = small(&mut random, DType::F32, &[1, DEPTH, 2, 2]);
        let w = small(&mut random, DType::F32, &[3, DEPTH, 1, 1]);
        Case::new(&conv::DEF, attrs([1, 1]), &[&x, &w]).check(bench);
        let w = codes(&mut random, packing(Coding::I4, Granularity::Block(32)), [3, DEPTH]);
        Case::new(&conv::DEF, attrs([1, 1]), &[&x, &w]).check(bench);
        for kernel in [[1, DEPTH as i64], [DEPTH as i64, 1], [450, 451]] {
            let dims = [1, 1, kernel[0] as usize, kernel[1] as usize];
            let x = small(&mut random, DType::F32, &dims);
            let w = small(&mut random, DType::F32, &dims);
            // One channel: a window read directly.
            Case::new(&conv::DEF, attrs(kernel), &[&x, &w]).check(bench);
            for kind in ["average", "max"] {
                let attrs = Attrs::new().with_ints("kernel", kernel).with_str("kind", kind);
                Case::new(&pool::DEF, attrs.clone(), &[&x]).check(bench);
                // Where only the last element is not the least.
                let mut values = vec![-5.0; x.to_f32s().unwrap().len()];
                *values.last_mut().unwrap() = 3.0;
                Case::new(&pool::DEF, attrs, &[&Tensor::from_f32s(DType::F32, &dims, &values).unwrap()]).check(bench);
            }
        }
    });
}

#[test]
fn long_rows() {
    on_devices(|bench| {
        let mut random = Random::new(94);
        let cases: [(&[usize], &[i64]); 5] = [
            (&[2, DEPTH], &[1]),
            (&[DEPTH, 3], &[0]),
            (&[100, 3, 2100], &[0, 2]),
            (&[60, 2, 60, 2, 60], &[0, 2, 4]),
            (&[DEPTH], &[0]),
        ];
        for (dims, axes) in cases {
            for kind in ["sum", "mean", "max", "min"] {
                let attrs =
                    Attrs::new().with_str("kind", kind).with_ints("axes", axes.iter().copied()).with_int("keepdims", 0);
                Case::new(&reduce::DEF, attrs, &[&small(&mut random, DType::F32, dims)]).check(bench);
            }
            // Products of 1 and -1, in which the last factors count.
            let signs: Vec<f32> =
                (0..dims.iter().product()).map(|_| if random.unit() < 0.0 { -1.0 } else { 1.0 }).collect();
            let attrs =
                Attrs::new().with_str("kind", "prod").with_ints("axes", axes.iter().copied()).with_int("keepdims", 0);
            Case::new(&reduce::DEF, attrs, &[&Tensor::from_f32s(DType::F32, dims, &signs).unwrap()]).check(bench);
        }
        for (dims, axis) in [(vec![2, DEPTH], 1), (vec![DEPTH, 3], 0)] {
            for log in [0, 1] {
                let attrs = Attrs::new().with_int("axis", axis).with_int("log", log);
                Case::new(&softmax::DEF, attrs, &[&small(&mut random, DType::F32, &dims)]).check(bench);
            }
        }
        for kind in ["layer", "rms"] {
            let attrs = Attrs::new().with_str("kind", kind).with_int("axis", 1).with_float("epsilon", 1e-5);
            Case::new(&norm::DEF, attrs, &[&small(&mut random, DType::F32, &[2, DEPTH])]).check(bench);
        }
        for granularity in ["row", "tensor"] {
            let x = random.floats(DType::F32, &[2, DEPTH]);
            Case::new(&quantize_packed::DEF, Attrs::new().with_str("granularity", granularity), &[&x]).check(bench);
        }
    });
}

/// A product as deep as the count of iterations allows is right, so the count is no lower than the driver's; a deeper
/// one has no kernel.
#[test]
fn the_limit_is_counted_as_the_driver_counts_it() {
    on_devices(|bench| {
        for target in bench.targets.iter().filter(|target| target.limits.max_loop_iterations.is_some()) {
            let limit = target.limits.max_loop_iterations.unwrap();
            let deep = |depth: usize| {
                let values = vec![1.0; depth];
                let [a, b] =
                    [[1, depth], [depth, 1]].map(|dims| Tensor::from_f32s(DType::F32, &dims, &values).unwrap());
                Case::new(&matmul::DEF, Attrs::new(), &[&a, &b])
            };
            let iterations = |depth: usize| plan(&deep(depth), target).map(|calls| calls[0].loop_iterations());
            // The deepest that has a kernel.
            let (mut fits, mut too_deep) = (DEPTH, 1 << 24);
            while too_deep - fits > 1 {
                let middle = (fits + too_deep) / 2;
                if iterations(middle).is_ok() { fits = middle } else { too_deep = middle }
            }
            assert!(
                iterations(fits).unwrap() <= limit && iterations(fits).unwrap() + 2 > limit,
                "{:?}",
                iterations(fits)
            );
            let refused = iterations(too_deep).unwrap_err().to_string();
            assert!(refused.contains("loop iterations") && refused.contains("65535"), "{refused}");
            deep(fits).check(&bench.with(target.clone()));
        }
    });
}

/// Sums of equal terms, which rounding takes off in one direction: the longer a row of additions, the further.
#[test]
fn long_sums_keep_their_digits() {
    on_devices(|bench| {
        // How far f32 adds up 1.0 to the significands of ten numbers depends on them: some are among the worst.
        let terms: Vec<f32> = (0..12).map(|i| 1.0 + 0.083 * i as f32 + 1e-3).collect();
        let check = |case: &Case, wanted: &dyn Fn(usize) -> f64| {
            let (y, kernels) = run(&bench.context, &bench.targets[0], case).unwrap();
            for (i, v) in y.to_f32s().unwrap().iter().enumerate() {
                let wanted = wanted(i);
                let off = (f64::from(*v) / wanted - 1.0).abs();
                assert!(
                    off <= 1e-5,
                    "{kernels:?} on {}: element {i} is {v}, {wanted} wanted",
                    bench.context.info().name
                );
            }
        };
        for depth in [32_000, 200_003] {
            let n = depth as f64;
            for m in [1, 2, 12] {
                let rows: Vec<f32> = (0..m * depth).map(|i| terms[i / depth]).collect();
                let a = Tensor::from_f32s(DType::F32, &[m, depth], &rows).unwrap();
                for trans_b in [false, true] {
                    let dims = if trans_b { [3, depth] } else { [depth, 3] };
                    let b = Tensor::from_f32s(DType::F32, &dims, &vec![1.0; 3 * depth]).unwrap();
                    let attrs = Attrs::new().with_int("trans_b", i64::from(trans_b));
                    check(&Case::new(&matmul::DEF, attrs, &[&a, &b]), &|i| f64::from(terms[i / 3]) * n);
                }
                for (kind, share) in [("sum", n), ("mean", 1.0)] {
                    let attrs = Attrs::new().with_str("kind", kind).with_ints("axes", [1]).with_int("keepdims", 0);
                    check(&Case::new(&reduce::DEF, attrs, &[&a]), &|i| f64::from(terms[i]) * share);
                }
                let attrs = Attrs::new().with_int("axis", 1).with_int("log", 0);
                check(&Case::new(&softmax::DEF, attrs, &[&a]), &|_| 1.0 / n);
                let attrs = Attrs::new().with_str("kind", "rms").with_int("axis", 1).with_float("epsilon", 0.0);
                check(&Case::new(&norm::DEF, attrs, &[&a]), &|_| 1.0);
            }
            // Along the first axis, where one invocation may read a whole column.
            let columns: Vec<f32> = (0..12 * depth).map(|i| terms[i % 12]).collect();
            let x = Tensor::from_f32s(DType::F32, &[depth, 12], &columns).unwrap();
            let attrs = Attrs::new().with_str("kind", "sum").with_ints("axes", [0]).with_int("keepdims", 0);
            check(&Case::new(&reduce::DEF, attrs, &[&x]), &|i| f64::from(terms[i]) * n);
            let x = Tensor::from_f32s(DType::F32, &[1, depth, 1, 1], &vec![1.333; depth]).unwrap();
            let w = Tensor::from_f32s(DType::F32, &[5, depth, 1, 1], &vec![1.0; 5 * depth]).unwrap();
            let attrs = Attrs::new().with_ints("kernel", [1, 1]).with_int("group", 1);
            check(&Case::new(&conv::DEF, attrs, &[&x, &w]), &|_| f64::from(1.333f32) * n);
            let x = Tensor::from_f32s(DType::F32, &[1, 1, 1, depth], &vec![1.333; depth]).unwrap();
            let attrs = Attrs::new().with_ints("kernel", [1, depth as i64]).with_str("kind", "average");
            check(&Case::new(&pool::DEF, attrs.clone(), &[&x]), &|_| f64::from(1.333f32));
            let w = Tensor::from_f32s(DType::F32, &[1, 1, 1, depth], &vec![1.0; depth]).unwrap();
            let attrs = Attrs::new().with_ints("kernel", [1, depth as i64]).with_int("group", 1);
            check(&Case::new(&conv::DEF, attrs, &[&x, &w]), &|_| f64::from(1.333f32) * n);
        }
        // Infinities stay what they are.
        let mut values = vec![1.0f32; 2 * 40_000];
        values[7] = f32::INFINITY;
        let x = Tensor::from_f32s(DType::F32, &[2, 40_000], &values).unwrap();
        let attrs = Attrs::new().with_str("kind", "sum").with_ints("axes", [1]).with_int("keepdims", 0);
        let (y, _) = run(&bench.context, &bench.targets[0], &Case::new(&reduce::DEF, attrs, &[&x])).unwrap();
        assert_eq!(y.to_f32s().unwrap().as_ref(), &[f32::INFINITY, 40_000.0]);
    });
}
