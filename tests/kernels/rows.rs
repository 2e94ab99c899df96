use super::*;
use nyxc::ops::{norm, quantize_packed, reduce, softmax};

#[test]
fn reductions_along_any_axes() {
    on_devices(|bench| {
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
            }
        }
    });
}
