use super::*;
use nyxc::ops::core::{check_indices, concat, gather, strided};

#[test]
fn gathers_from_every_storage() {
    on_devices(|bench| {
        let mut random = Random::new(31);
        let axis = |axis: i64| Attrs::new().with_int("axis", axis);
        for dtype in [DType::F32, DType::F16] {
            let data = random.floats(dtype, &[5, 7, 3]);
            for at in 0..3 {
                // Beyond the axis on both sides: a device clamps.
                let indices = random.ints(DType::I64, &[2, 4], -9, 9);
                Case::new(&gather::DEF, axis(at), &[&data, &indices]).check(bench);
            }
        }
        let indices = random.ints(DType::I32, &[9], 0, 10);
        Case::new(&gather::DEF, axis(0), &[&random.ints(DType::I64, &[11, 2], -99, 99), &indices]).check(bench);
        Case::new(&gather::DEF, axis(0), &[&random.ints(DType::Bool, &[11], 0, 1), &indices])
            .then("not(x0)", &[])
            .check(bench);
        for packing in packings() {
            let table = random.packed(packing, &[11, 70]);
            Case::new(&gather::DEF, axis(0), &[&table, &indices]).then("mul(x0,0.5)", &[]).check(bench);
            Case::new(&gather::DEF, axis(0), &[&table, &indices]).stored(DType::F16).check(bench);
        }
        let scalar = Tensor::from_i64s(DType::I64, &[], &[-1]).unwrap();
        Case::new(&gather::DEF, axis(0), &[&random.floats(DType::F32, &[4]), &scalar]).check(bench);
    });
}

#[test]
fn indices_are_checked_and_counted_from_the_start() {
    on_devices(|bench| {
        let mut random = Random::new(37);
        let attrs = |sizes: &[i64], negative: i64| {
            Attrs::new().with_ints("sizes", sizes.iter().copied()).with_int("negative", negative)
        };
        let indices = random.ints(DType::I64, &[7, 40], -11, 10);
        let at = random.ints(DType::I64, &[1, 40], 0, 1000);
        Case::new(&check_indices::DEF, attrs(&[11], 1), &[&indices]).check(bench);
        Case::new(&check_indices::DEF, attrs(&[11], 1), &[&indices])
            .then("add(mul(x0,40),x1)", &[&at])
            .stored(DType::I64)
            .check(bench);
        let ignored = random.ints(DType::I32, &[300], -1, 4);
        Case::new(&check_indices::DEF, attrs(&[5], 0).with_int("ignore", -1), &[&ignored]).check(bench);
        for numbers in 2..=8 {
            let pairs = random.ints(DType::I64, &[9, numbers], -3, 2);
            let sizes: Vec<i64> = (0..numbers as i64).map(|n| 3 + n).collect();
            Case::new(&check_indices::DEF, attrs(&sizes, 1), &[&pairs]).check(bench);
        }
    });
}

#[test]
fn tables_beyond_a_binding_come_in_slices() {
    on_devices(|bench| {
        let mut random = Random::new(32);
        let indices = random.ints(DType::I32, &[15], -210, 209);
        let packed = random.packed(packings()[0], &[210, 90]);
        let rank_3 = random.floats(DType::F16, &[210, 5, 9]);
        // Where bindings begin at multiples of 256, as many rows of 90 bytes as lead from one to the next do not fit in
        // the lesser.
        for (table, range) in [(packed, 8192), (rank_3, 12288)] {
            let mut small = bench.targets[0].clone();
            small.limits.max_storage_buffer_range = range;
            let bench = bench.with(small);
            let case = Case::new(&gather::DEF, Attrs::new().with_int("axis", 0), &[&table, &indices]);
            assert!(plan(&case, &bench.targets[0]).unwrap().len() > 1);
            case.check(&bench);
        }
    });
}

#[test]
fn tables_stored_in_several_ways() {
    on_devices(|bench| {
        let mut random = Random::new(35);
        let indices = random.ints(DType::I64, &[3, 15], -70, 69);
        for packing in packings() {
            let parts = [
                random.packed(packing, &[9, 37]),
                random.floats(DType::F16, &[40, 37]),
                random.packed(packings()[0], &[21, 37]),
            ];
            let case =
                Case::new(&gather::DEF, Attrs::new().with_int("axis", 0), &[&parts[0], &indices, &parts[1], &parts[2]]);
            case.then("mul(x0,2.0)", &[]).check(bench);
        }
    });
}

fn view(shape: &[i64], strides: &[i64], offset: i64) -> Attrs {
    Attrs::new()
        .with_ints("shape", shape.iter().copied())
        .with_ints("strides", strides.iter().copied())
        .with_int("offset", offset)
}

#[test]
fn strided_reads() {
    on_devices(|bench| {
        let mut random = Random::new(33);
        for dtype in [DType::F32, DType::F16, DType::I64, DType::Bool] {
            let x =
                if dtype.is_float() { random.floats(dtype, &[3, 4, 5]) } else { random.ints(dtype, &[3, 4, 5], 0, 1) };
            for attrs in [
                view(&[5, 4, 3], &[1, 5, 20], 0),
                view(&[4, 15], &[5, 1], 3),
                view(&[60], &[-1], 59),
                view(&[2, 3, 1, 7], &[0, 20, 5, 0], 1),
                view(&[3, 2, 2], &[20, 10, 2], 6),
                view(&[5, 6, 7], &[20, 5, 1], -26)
                    .with_ints("lo", [1, 1, 1])
                    .with_ints("hi", [4, 5, 6])
                    .with_float("fill", 1.0),
                view(&[1, 2, 2, 1, 2, 1, 2, 2], &[1, 1, 20, 5, 5, 1, 1, 2], 0)
                    .with_ints("lo", [0; 8])
                    .with_ints("hi", [1, 2, 2, 1, 2, 1, 2, 1]),
            ] {
                Case::new(&strided::DEF, attrs, &[&x]).check(bench);
            }
        }
        let x = random.floats(DType::F16, &[3, 5]);
        Case::new(&strided::DEF, view(&[5, 3], &[1, 5], 0), &[&x]).then("exp(x0)", &[]).stored(DType::F32).check(bench);
    });
}

#[test]
fn concatenation_along_any_axis() {
    on_devices(|bench| {
        let mut random = Random::new(34);
        for dtype in [DType::F32, DType::F16, DType::I64, DType::Bool] {
            for axis in 0..3 {
                let mut one = |size: usize| {
                    let mut dims = [2, 3, 5];
                    dims[axis] = size;
                    if dtype.is_float() { random.floats(dtype, &dims) } else { random.ints(dtype, &dims, 0, 1) }
                };
                let parts = [one(1), one(4), one(3)];
                Case::new(&concat::DEF, Attrs::new().with_int("axis", axis as i64), &[&parts[0], &parts[1], &parts[2]])
                    .check(bench);
            }
        }
    });
}

/// The kernel that a case takes on a device of wide subgroups.
fn kernel(case: &Case, bench: &Bench) -> String {
    plan(case, bench.with_wide().targets.last().unwrap()).unwrap().remove(0).key.name()
}

/// The view of a tensor of `dims` with its axes in another order.
fn permuted(dims: &[i64], order: &[usize]) -> Attrs {
    let stride = |axis: usize| dims[axis + 1..].iter().product::<i64>();
    let (shape, strides): (Vec<i64>, Vec<i64>) = order.iter().map(|&axis| (dims[axis], stride(axis))).unzip();
    view(&shape, &strides, 0)
}

/// Tiles that are whole and tiles that are not, in pairs and one by one, with other axes around and between.
#[test]
fn transposes_in_tiles() {
    on_devices(|bench| {
        let bench = &bench.with_wide();
        let mut random = Random::new(36);
        for (dims, order) in [
            (vec![8, 8], vec![1, 0]),
            (vec![33, 65], vec![1, 0]),
            (vec![64, 128], vec![1, 0]),
            (vec![70, 34], vec![1, 0]),
            (vec![2, 40, 3, 34], vec![2, 3, 0, 1]),
            (vec![3, 5, 20, 36], vec![0, 3, 1, 2]),
            (vec![2, 66, 3, 10], vec![2, 0, 3, 1]),
            (vec![10, 2, 3, 2, 9, 2, 2, 12], vec![2, 6, 0, 7, 4, 1, 3, 5]),
        ] {
            let sizes: Vec<usize> = dims.iter().map(|n| *n as usize).collect();
            for dtype in [DType::F32, DType::F16, DType::I64, DType::Bool, DType::U32] {
                let x = if dtype.is_float() { random.floats(dtype, &sizes) } else { random.ints(dtype, &sizes, 0, 1) };
                let attrs = permuted(&dims, &order);
                let case = Case::new(&strided::DEF, attrs.clone(), &[&x]);
                if dims.len() < 8 {
                    assert!(kernel(&case, bench).starts_with("transposed_"), "{}", kernel(&case, bench));
                }
                case.check(bench);
                if dtype.is_float() {
                    let out: Vec<usize> = order.iter().map(|&axis| sizes[axis]).collect();
                    let (all, last) =
                        (random.floats(DType::F16, &out), random.floats(DType::F32, &out[out.len() - 1..]));
                    let case = Case::new(&strided::DEF, attrs, &[&x]).then("add(mul(x0,x1),x2)", &[&all, &last]);
                    case.stored(DType::F16).check(bench);
                }
            }
        }
        // Part of a tensor, from an odd and from an even element on.
        let x = random.floats(DType::F16, &[40, 50]);
        for offset in [51, 102] {
            Case::new(&strided::DEF, view(&[40, 30], &[1, 50], offset), &[&x]).check(bench);
        }
    });
}

/// Runs of neighbours that vectors of every width divide, or none does.
#[test]
fn neighbours_move_together() {
    on_devices(|bench| {
        let mut random = Random::new(38);
        let mut seen = std::collections::BTreeSet::new();
        let mut check = |case: Case| {
            seen.insert(plan(&case, &bench.targets[0]).unwrap().iter().filter_map(|call| call.key.width()).max());
            case.check(bench);
        };
        for (dtype, heads, size) in [
            (DType::F16, 16, 128),
            (DType::F32, 16, 128),
            (DType::F16, 6, 180),
            (DType::F16, 7, 151),
            (DType::I64, 7, 158),
            (DType::Bool, 8, 132),
        ] {
            let dims = [2, 256, heads, size];
            let sizes = dims.map(|n| n as usize);
            let x = if dtype.is_float() { random.floats(dtype, &sizes) } else { random.ints(dtype, &sizes, 0, 1) };
            check(Case::new(&strided::DEF, permuted(&dims, &[0, 2, 1, 3]), &[&x]));
            let other = [2, 256, 1, size].map(|n| n as usize);
            let y = if dtype.is_float() { random.floats(dtype, &other) } else { random.ints(dtype, &other, 0, 1) };
            check(Case::new(&concat::DEF, Attrs::new().with_int("axis", 2), &[&y, &x]));
            let table = [50, heads as usize * size as usize];
            let table = if dtype.is_float() { random.floats(dtype, &table) } else { random.ints(dtype, &table, 0, 1) };
            let indices = random.ints(DType::I64, &[500], -50, 49);
            check(Case::new(&gather::DEF, Attrs::new().with_int("axis", 0), &[&table, &indices]));
        }
        let table = random.packed(packings()[0], &[50, 1056]);
        let indices = random.ints(DType::I32, &[500], 0, 49);
        let gather = Case::new(&gather::DEF, Attrs::new().with_int("axis", 0), &[&table, &indices]);
        check(gather.then("mul(x0,2.0)", &[]).stored(DType::F16));
        assert_eq!(Vec::from_iter(seen), [1, 2, 4, 8].map(Some));
    });
}
