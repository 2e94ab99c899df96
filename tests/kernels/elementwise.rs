use super::*;
use nyxc::ir::{Attr, Binary, Class, Unary};
use nyxc::kernels::key::Flag;
use nyxc::ops::core::{pointwise, resize};

fn pointwise(text: &str, dtype: DType, operands: &[&Tensor]) -> Case {
    Case::new(&pointwise::DEF, pointwise::attrs(Expr::parse(text).unwrap(), dtype), operands)
}

/// Operands at which functions are interesting: large, small, none at all.
fn edges(n: usize, random: &mut Random) -> Vec<f32> {
    let special = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        0.5,
        -0.5,
        2.0,
        -2.0,
        3.0,
        -3.0,
        1e-6,
        -1e-6,
        20.0,
        -20.0,
        100.0,
        -100.0,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    (0..n)
        .map(|i| special.get(i).copied().unwrap_or_else(|| random.unit() * if i % 3 == 0 { 30.0 } else { 2.0 }))
        .collect()
}

#[test]
fn every_function_of_floats() {
    on_devices(|bench| {
        let mut random = Random::new(41);
        let x = edges(500, &mut random);
        let y: Vec<f32> = (0..500).map(|i| x[(i * 7 + i / 19) % 500]).collect();
        let [x, y] = [x, y].map(|v| Tensor::from_f32s(DType::F32, &[500], &v).unwrap());
        for function in Unary::ALL {
            let text = format!("{}(x0)", function.name());
            // A value beyond i32 has no integer on a device: the reference has one of 64 bits.
            let small = if *function == Unary::ToInt { "mul(x0,1e-3)" } else { "x0" };
            let expr = Expr::parse(&text.replace("x0", small)).unwrap();
            let Ok(class) = expr.class(&[Class::Float]) else { continue };
            let dtype = match class {
                Class::Float => DType::F32,
                Class::Int => DType::I32,
                _ => DType::Bool,
            };
            if *function == Unary::ToInt {
                let x = random.floats(DType::F32, &[500]);
                pointwise("i(mul(x0,1000.0))", dtype, &[&x]).check(bench);
            } else {
                pointwise(&expr.to_string(), dtype, &[&x]).check(bench);
            }
        }
        for function in Binary::ALL {
            let expr = Expr::parse(&format!("{}(x0,x1)", function.name())).unwrap();
            let Ok(class) = expr.class(&[Class::Float; 2]) else { continue };
            // Quotients of large by tiny numbers lose the digits that mod and fmod are made of.
            let (x, y) = if matches!(function, Binary::Mod | Binary::Fmod) {
                (random.floats(DType::F32, &[99]), Tensor::from_f32s(DType::F32, &[1], &[0.3]).unwrap())
            } else {
                (x.clone(), y.clone())
            };
            pointwise(&expr.to_string(), if class == Class::Float { DType::F32 } else { DType::Bool }, &[&x, &y])
                .check(bench);
        }
        for exponent in ["2.0", "3.0", "0.5", "-1.0", "7.0", "0.3333"] {
            let x = Tensor::from_f32s(
                DType::F32,
                &[99],
                &random.floats(DType::F32, &[99]).to_f32s().unwrap().iter().map(|v| v.abs() * 5.0).collect::<Vec<_>>(),
            )
            .unwrap();
            pointwise(&format!("pow(x0,{exponent})"), DType::F32, &[&x]).check(bench);
        }
    });
}

#[test]
fn every_function_of_integers_and_truth_values() {
    on_devices(|bench| {
        let mut random = Random::new(42);
        for (dtype, class) in [(DType::I32, Class::Int), (DType::Bool, Class::Bool)] {
            let (low, high) = if class == Class::Int { (-9, 9) } else { (0, 1) };
            let (x, y) = (random.ints(dtype, &[300], low, high), random.ints(dtype, &[300], low, high));
            let unary = Unary::ALL.iter().map(|f| Expr::unary(*f, Expr::Arg(0)));
            let binary = Binary::ALL.iter().map(|f| Expr::binary(*f, Expr::Arg(0), Expr::Arg(1)));
            for expr in unary.chain(binary) {
                let Ok(result) = expr.class(&[class; 2]) else { continue };
                let dtype = match result {
                    Class::Float => DType::F32,
                    Class::Int => DType::I32,
                    _ => DType::Bool,
                };
                pointwise(&expr.to_string(), dtype, &[&x, &y]).check(bench);
            }
        }
        let x = random.ints(DType::I32, &[50], -1000, 1000);
        for dtype in [DType::I8, DType::U8, DType::I16, DType::U16] {
            pointwise("mul(x0,99)", dtype, &[&x]).check(bench);
        }
    });
}

#[test]
fn operands_broadcast_and_types_mix() {
    on_devices(|bench| {
        let mut random = Random::new(43);
        let x = random.floats(DType::F16, &[2, 3, 4, 5]);
        let channel = random.floats(DType::F32, &[3, 1, 1]);
        let strided = random.floats(DType::F32, &[2, 1, 4, 1]);
        let scalar = random.floats(DType::F16, &[]);
        let mask = random.ints(DType::Bool, &[4, 5], 0, 1);
        let count = random.ints(DType::I64, &[5], -3, 3);
        let all = [&x, &channel, &strided, &scalar, &mask, &count];
        let text = "select(x4,add(mul(x0,x1),x2),mul(x3,f(x5)))";
        pointwise(text, DType::F32, &all).check(bench);
        pointwise(text, DType::F16, &all).check(bench);
        pointwise("lt(x0,x1)", DType::Bool, &[&x, &channel]).check(bench);
        let many: Vec<Tensor> =
            (0..3).map(|i| random.floats(DType::F32, [&[1, 4, 1][..], &[3, 1, 1], &[1, 1, 5]][i])).collect();
        pointwise("add(add(x0,x1),x2)", DType::F32, &[&many[0], &many[1], &many[2]]).check(bench);
        let large = random.floats(DType::F32, &[3, 129, 517]);
        pointwise("mul(x0,x0)", DType::F16, &[&large]).check(bench);
    });
}

#[test]
fn finite_values_stay_finite_in_f16() {
    on_devices(|bench| {
        let x = Tensor::from_f32s(DType::F32, &[5], &[1e9, -1e9, f32::INFINITY, f32::NAN, 65519.0]).unwrap();
        pointwise("x0", DType::F16, &[&x]).check(bench);
    });
}

#[test]
fn too_many_operands_are_refused() {
    let x = Tensor::from_f32s(DType::F32, &[2], &[0.0; 2]).unwrap();
    let target = Target::shipped("vulkan-min").unwrap();
    assert_eq!(kernels::max_operands(&target), 3);
    let refused = plan(&pointwise("add(add(x0,x1),add(x2,x3))", DType::F32, &[&x; 4]), &target).unwrap_err();
    assert!(
        matches!(refused, KernelError::OverLimit { resource: Resource::StorageBuffers, needed: 5, limit: 4, .. }),
        "{refused}"
    );
}

#[test]
fn resizes_in_every_mode() {
    on_devices(|bench| {
        let mut random = Random::new(44);
        let x = random.floats(DType::F32, &[2, 2, 5, 6]);
        for (scales, sizes) in [
            ([1.0, 1.0, 2.0, 2.0], [2i64, 2, 10, 12]),
            ([1.0, 1.0, 0.5, 1.5], [2, 2, 2, 9]),
            ([1.0, 1.0, 0.7, 2.6], [2, 2, 3, 15]),
        ] {
            for coordinates in
                ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]
            {
                let attrs = Attrs::new()
                    .with("scales", Attr::Floats(scales.to_vec()))
                    .with_ints("sizes", sizes)
                    .with_str("coordinates", coordinates);
                Case::new(&resize::DEF, attrs.clone().with_str("mode", "linear").with_str("nearest", "floor"), &[&x])
                    .check(bench);
                for nearest in ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"] {
                    Case::new(
                        &resize::DEF,
                        attrs.clone().with_str("mode", "nearest").with_str("nearest", nearest),
                        &[&x],
                    )
                    .then("neg(x0)", &[])
                    .check(bench);
                }
            }
        }
    });
}

/// Vectors give the bits of single elements: every width, storage and way to broadcast.
#[test]
fn vectors_have_the_bits_of_single_elements() {
    use nyxc::kernels::key::Run;
    on_devices(|bench| {
        let mut random = Random::new(47);
        // Enough elements that all widths are worth it, and inner axes that 8, 4, 2 and 1 divide.
        let mut widths = std::collections::BTreeSet::new();
        for ([outer, mid, inner], own, out) in [
            ([32, 2, 8192], DType::F16, DType::F16),
            ([33, 2, 4100], DType::F16, DType::F16),
            ([37, 3, 1750], DType::F16, DType::F32),
            ([32, 2, 4096], DType::F32, DType::F32),
            ([33, 3, 1358], DType::F32, DType::F16),
            ([33, 3, 1001], DType::F32, DType::F32),
            ([40, 2, 3000], DType::I64, DType::I64),
            ([35, 3, 1746], DType::I32, DType::I32),
            ([35, 2, 3744], DType::U32, DType::U32),
        ] {
            let dims = [outer, mid, inner];
            let shapes: [&[usize]; 6] = [&dims, &[inner], &[mid, inner], &[outer, mid, 1], &[1], &[outer, 1, inner]];
            let mut tensors = Vec::new();
            for (at, shape) in shapes.iter().enumerate() {
                tensors.push(if !own.is_float() {
                    random.ints(own, shape, 0, 1 << 20)
                } else if at == 0 {
                    let values = edges(dims.iter().product(), &mut random);
                    Tensor::from_f32s(own, &dims, &values).unwrap()
                } else {
                    random.floats(if at % 2 == 1 { DType::F32 } else { own }, shape)
                });
            }
            let text = if own.is_float() {
                "add(mul(exp(x0),x1),sub(div(x2,x3),mul(x4,x5)))"
            } else {
                "add(mul(x0,x1),sub(x2,max(x3,mul(x4,x5))))"
            };
            let case = pointwise(text, out, &tensors.iter().collect::<Vec<_>>());
            for target in &bench.targets {
                let calls = plan(&case, target).unwrap();
                let width = calls[0].key.width().unwrap();
                widths.insert(width);
                let mut alone = calls.clone();
                alone[0].key.flags.insert(Flag::Vector, 0);
                alone[0].key.expr.as_mut().unwrap().args.iter_mut().for_each(|arg| arg.run = Run::Each);
                let n_groups = dims.iter().product::<usize>().div_ceil(128) as i64;
                alone[0].groups = [n_groups, 1, 1].map(Dim::Known);
                let ((vectors, names), (singles, others)) = (
                    run_calls(&bench.context, target, &case, &calls),
                    run_calls(&bench.context, target, &case, &alone),
                );
                assert!(width == 1 || names != others, "{names:?}");
                // A GPU's compiler may join products and sums inside of a function in one kernel and not in the other.
                if target.is_cpu() {
                    assert!(vectors.bytes().unwrap() == singles.bytes().unwrap(), "{names:?} on {}", target.name);
                }
            }
            case.check(bench);
        }
        assert_eq!(Vec::from_iter(widths), [1, 2, 4, 8]);
    });
}
