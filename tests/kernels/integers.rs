//! Integers of every width, against an evaluation in 128 bits that shares nothing with the library's own.

use super::*;
use nyxc::ir::{Binary, Class, Unary};
use nyxc::ops::core::{concat, gather, iota, pointwise, reduce, strided};

const TYPES: [DType; 8] =
    [DType::I8, DType::U8, DType::I16, DType::U16, DType::I32, DType::U32, DType::I64, DType::U64];

/// Values at which arithmetic of some width wraps, saturates or changes sign.
fn special() -> Vec<i64> {
    let mut values = vec![0, 1, -1, 2, 3, 5, 7, -7, 10, 63, 64, 65, -64, 1 << 24, (1 << 24) + 1, 0x1234_5678_9abc_def0];
    for bits in [7, 8, 15, 16, 31, 32, 33, 40, 53, 62, 63] {
        let power = 1i64 << bits;
        values.extend([
            power,
            power.wrapping_sub(1),
            power.wrapping_add(1),
            power.wrapping_neg(),
            power.wrapping_neg().wrapping_sub(1),
        ]);
    }
    values
}

fn tensor(dtype: DType, values: &[i64]) -> Tensor {
    Tensor::from_i64s(dtype, &[values.len()], values).unwrap()
}

/// Any values of the type, special ones among them, each list of them in another order.
fn operand(random: &mut Random, dtype: DType, n: usize) -> Tensor {
    let special = special();
    let mut any = || random.ints(DType::I64, &[1], 0, 1 << 22).to_i64s().unwrap()[0];
    let values: Vec<i64> = (0..n)
        .map(|_| match any() % 3 {
            0 => any().wrapping_mul(any()).wrapping_mul(any()),
            1 => special[any() as usize % special.len()],
            _ => any() % 200 - 100,
        })
        .collect();
    tensor(dtype, &values)
}

/// The low `bits` of `v`, with their sign or without.
fn wrap(v: i128, bits: u32, signed: bool) -> i128 {
    let low = v & ((1i128 << bits) - 1);
    if signed && low >> (bits - 1) != 0 { low - (1i128 << bits) } else { low }
}

fn bits_of(dtype: DType) -> (u32, bool) {
    (dtype.bits(), matches!(dtype, DType::I8 | DType::I16 | DType::I32 | DType::I64))
}

/// What an expression of integers and truth values is: 64-bit words, each function computed in 128 bits.
fn evaluate(expr: &Expr, args: &[i128]) -> i128 {
    let word = |v: i128| wrap(v, 64, true);
    let natural = |v: i128| wrap(v, 64, false);
    match expr {
        Expr::Arg(i) => args[*i],
        Expr::Int(v) => i128::from(*v),
        Expr::Float(v) => panic!("{v} among integers"),
        Expr::Unary(function, a) => {
            let a = evaluate(a, args);
            match function {
                Unary::Neg => word(-a),
                Unary::Abs => word(a.abs()),
                Unary::Sign => a.signum(),
                Unary::Relu => a.max(0),
                Unary::BitNot => word(-1 - a),
                Unary::Not => 1 - a,
                Unary::ToInt => a,
                Unary::ToBool => i128::from(a != 0),
                Unary::I2 => wrap(a, 2, true),
                Unary::U2 => wrap(a, 2, false),
                Unary::I4 => wrap(a, 4, true),
                Unary::U4 => wrap(a, 4, false),
                Unary::I8 => wrap(a, 8, true),
                Unary::U8 => wrap(a, 8, false),
                Unary::I16 => wrap(a, 16, true),
                Unary::U16 => wrap(a, 16, false),
                Unary::I32 => wrap(a, 32, true),
                Unary::U32 => wrap(a, 32, false),
                other => panic!("{other:?} of an integer"),
            }
        }
        Expr::Binary(function, a, b) => {
            let (a, b) = (evaluate(a, args), evaluate(b, args));
            let (ua, ub) = (natural(a), natural(b));
            let over = |q: i128| if b == 0 { 0 } else { word(q) };
            let divisor = if b == 0 { 1 } else { b };
            let truth = i128::from;
            match function {
                Binary::Add => word(a + b),
                Binary::Sub => word(a - b),
                Binary::Mul => word(natural(a).wrapping_mul(natural(b))),
                Binary::Div => over(a / divisor),
                Binary::Fmod => over(a % divisor),
                Binary::Mod => over((a % divisor + divisor) % divisor),
                Binary::Min => a.min(b),
                Binary::Max => a.max(b),
                Binary::Pow if b < 0 => match a {
                    1 => 1,
                    -1 => 1 - 2 * (b & 1),
                    _ => 0,
                },
                Binary::Pow => (0..64).rev().fold(1, |power: i128, bit| {
                    let square = word(natural(power).wrapping_mul(natural(power)));
                    if b >> bit & 1 != 0 { word(natural(square).wrapping_mul(ua)) } else { square }
                }),
                Binary::Eq => truth(a == b),
                Binary::Lt => truth(a < b),
                Binary::Le => truth(a <= b),
                Binary::Gt => truth(a > b),
                Binary::Ge => truth(a >= b),
                Binary::And => a & b,
                Binary::Or => a | b,
                Binary::Xor => a ^ b,
                Binary::BitAnd => a & b,
                Binary::BitOr => a | b,
                Binary::BitXor => a ^ b,
                Binary::Shl if (0..64).contains(&b) => word(ua.wrapping_mul(1 << b)),
                Binary::Shl => 0,
                Binary::Shr => a >> if (0..64).contains(&b) { b } else { 63 },
                Binary::UShr if (0..64).contains(&b) => word(ua >> b),
                Binary::UShr => 0,
                Binary::UDiv => over(ua / natural(divisor)),
                Binary::UMod => over(ua % natural(divisor)),
                Binary::UMin => word(ua.min(ub)),
                Binary::UMax => word(ua.max(ub)),
                Binary::ULt => truth(ua < ub),
                Binary::ULe => truth(ua <= ub),
                Binary::UGt => truth(ua > ub),
                Binary::UGe => truth(ua >= ub),
            }
        }
        Expr::Select(c, a, b) => evaluate(if evaluate(c, args) != 0 { a } else { b }, args),
    }
}

/// Compares the device and the CPU reference with the evaluation in 128 bits, element by element.
fn check(bench: &Bench, expr: &Expr, dtype: DType, operands: &[&Tensor]) {
    let case = Case::new(&pointwise::DEF, pointwise::attrs(expr.clone(), dtype), operands);
    case.check(bench);
    let values: Vec<Vec<i64>> = operands.iter().map(|t| t.to_i64s().unwrap().to_vec()).collect();
    let inputs: Vec<Option<&Tensor>> = operands.iter().map(|t| Some(*t)).collect();
    let given = pointwise::DEF.eval.unwrap()(&case.attrs, &inputs).unwrap().remove(0).to_i64s().unwrap();
    for (i, given) in given.iter().enumerate() {
        let args: Vec<i128> = values.iter().map(|v| i128::from(v[i % v.len()])).collect();
        let wanted = evaluate(expr, &args);
        let wanted = match dtype {
            DType::Bool | DType::U64 => wrap(wanted, 64, true),
            _ => wrap(wanted, bits_of(dtype).0, bits_of(dtype).1),
        };
        assert_eq!(i128::from(*given), wanted, "{expr} of {args:?} as {dtype}");
    }
}

#[test]
fn every_function_of_integers_of_every_width() {
    on_devices(|bench| {
        let mut random = Random::new(1807);
        for dtype in TYPES {
            let (x, y) = (operand(&mut random, dtype, 500), operand(&mut random, dtype, 500));
            for function in Unary::ALL {
                let expr = Expr::unary(*function, Expr::Arg(0));
                match expr.class(&[Class::Int]) {
                    Ok(Class::Int) => check(bench, &expr, dtype, &[&x]),
                    Ok(Class::Bool) => check(bench, &expr, DType::Bool, &[&x]),
                    _ => {}
                }
            }
            for function in Binary::ALL {
                let expr = Expr::binary(*function, Expr::Arg(0), Expr::Arg(1));
                match expr.class(&[Class::Int; 2]) {
                    Ok(Class::Int) => check(bench, &expr, dtype, &[&x, &y]),
                    Ok(Class::Bool) => check(bench, &expr, DType::Bool, &[&x, &y]),
                    _ => {}
                }
            }
        }
    });
}

/// A random expression of integers over two operands.
fn random_expr(random: &mut Random, depth: u32) -> Expr {
    let mut below = |n: i64| random.ints(DType::I64, &[1], 0, n - 1).to_i64s().unwrap()[0] as usize;
    if depth == 0 || below(6) == 0 {
        let special = special();
        return match below(3) {
            0 => Expr::Int(special[below(special.len() as i64)]),
            i => Expr::Arg(i - 1),
        };
    }
    let unary = [
        Unary::Neg,
        Unary::Abs,
        Unary::Sign,
        Unary::Relu,
        Unary::BitNot,
        Unary::I8,
        Unary::U8,
        Unary::I16,
        Unary::U16,
        Unary::I32,
        Unary::U32,
    ];
    let binary = [
        Binary::Add,
        Binary::Sub,
        Binary::Mul,
        Binary::Div,
        Binary::Fmod,
        Binary::Min,
        Binary::Max,
        Binary::Pow,
        Binary::BitAnd,
        Binary::BitOr,
        Binary::BitXor,
        Binary::Shl,
        Binary::Shr,
        Binary::UDiv,
        Binary::UMod,
        Binary::UMin,
        Binary::UMax,
        Binary::UShr,
    ];
    let compare = [Binary::Eq, Binary::Lt, Binary::Ge, Binary::ULt, Binary::UGe];
    match below(10) {
        0..3 => {
            let function = unary[below(unary.len() as i64)];
            Expr::unary(function, random_expr(random, depth - 1))
        }
        3..9 => {
            let function = binary[below(binary.len() as i64)];
            let left = random_expr(random, depth - 1);
            Expr::binary(function, left, random_expr(random, depth - 1))
        }
        _ => {
            let function = compare[below(compare.len() as i64)];
            let condition = Expr::binary(function, random_expr(random, depth - 1), random_expr(random, depth - 1));
            let (a, b) = (random_expr(random, depth - 1), random_expr(random, depth - 1));
            Expr::Select(condition.into(), a.into(), b.into())
        }
    }
}

#[test]
fn random_expressions_are_what_128_bits_make_of_them() {
    on_devices(|bench| {
        let mut random = Random::new(77);
        let mut done = 0;
        while done < 150 {
            let expr = random_expr(&mut random, 4);
            if !expr.uses_all(1) || expr.size() > 40 {
                continue;
            }
            let mut any = || TYPES[random.ints(DType::I64, &[1], 0, 7).to_i64s().unwrap()[0] as usize];
            let (left, right, stored) = (any(), any(), any());
            let (x, y) = (operand(&mut random, left, 130), operand(&mut random, right, 130));
            check(bench, &expr, stored, &[&x, &y]);
            done += 1;
        }
    });
}

#[test]
fn conversions_between_floats_and_integers_of_64_bits_are_exact() {
    on_devices(|bench| {
        let mut random = Random::new(3);
        let mut floats: Vec<f32> =
            special().iter().flat_map(|&v| [v as f32, v as f32 * 1.5, v as u64 as f32]).collect();
        floats.extend([f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.5, -0.5, 0.99999994, -1.5, 1e-30, 1e30, -1e30]);
        floats.extend((0..500).map(|i| random.unit() * 2.0f32.powi(i % 70)));
        let x = Tensor::from_f32s(DType::F32, &[floats.len()], &floats).unwrap();
        for (text, dtype) in
            [("i64(x0)", DType::I64), ("u64(x0)", DType::U64), ("i64(x0)", DType::U32), ("i(x0)", DType::I32)]
        {
            let case = Case::new(&pointwise::DEF, pointwise::attrs(Expr::parse(text).unwrap(), dtype), &[&x]);
            case.check(bench);
            let given = pointwise::DEF.eval.unwrap()(&case.attrs, &[Some(&x)]).unwrap().remove(0).to_i64s().unwrap();
            for (v, given) in floats.iter().zip(given) {
                let wanted = match (text, dtype) {
                    ("i(x0)", _) => i64::from(*v as i32),
                    (_, DType::I64) => *v as i64,
                    (_, DType::U32) => *v as i64 & 0xffff_ffff,
                    _ if *v < 0.0 => *v as i64,
                    _ => (*v as u64).cast_signed(),
                };
                assert_eq!(given, wanted, "{text} of {v} as {dtype}");
            }
        }
        for (text, dtype) in
            [("f(x0)", DType::I64), ("uf(x0)", DType::U64), ("f(x0)", DType::U32), ("f(x0)", DType::I32)]
        {
            let x = operand(&mut random, dtype, 1000);
            let case = Case::new(&pointwise::DEF, pointwise::attrs(Expr::parse(text).unwrap(), DType::F32), &[&x]);
            let wanted: Vec<f32> = x
                .to_i64s()
                .unwrap()
                .iter()
                .map(|&v| if dtype == DType::U64 { v.cast_unsigned() as f32 } else { v as f32 })
                .collect();
            let inputs = [Some(&x)];
            let reference = pointwise::DEF.eval.unwrap()(&case.attrs, &inputs).unwrap().remove(0);
            assert_eq!(reference.to_f32s().unwrap().as_ref(), wanted, "{text} of {dtype}");
            for target in &bench.targets {
                let (given, _) = run(&bench.context, target, &case).unwrap();
                assert_eq!(given.to_f32s().unwrap().as_ref(), wanted, "{text} of {dtype} on {}", target.name);
            }
        }
    });
}

#[test]
fn reductions_of_integers_of_every_width() {
    on_devices(|bench| {
        let mut random = Random::new(9);
        for dtype in TYPES {
            for kind in ["sum", "mean", "max", "min", "prod"] {
                for (dims, axes) in [(vec![3, 5], vec![1]), (vec![2, 150], vec![1]), (vec![7, 4, 3], vec![0, 2])] {
                    let x = operand(&mut random, dtype, dims.iter().product()).reshaped(&dims).unwrap();
                    Case::new(&reduce::DEF, reduce::attrs(kind, &axes, false), &[&x]).check(bench);
                }
            }
            for kind in ["max", "min", "sum", "prod"] {
                let x = Tensor::from_i64s(dtype, &[3, 0], &[]).unwrap();
                let case = Case::new(&reduce::DEF, reduce::attrs(kind, &[1], false), &[&x]);
                let y = reduce::DEF.eval.unwrap()(&case.attrs, &[Some(&x)]).unwrap().remove(0).to_i64s().unwrap();
                let (bits, signed) = bits_of(dtype);
                let (least, most) = match signed {
                    true => (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1),
                    false => (0, (1i128 << bits) - 1),
                };
                let wanted = match kind {
                    "max" => least,
                    "min" => most,
                    "sum" => 0,
                    _ => 1,
                };
                assert_eq!(y, [wrap(wanted, 64, true) as i64; 3], "{kind} of no {dtype}");
            }
        }
    });
}

#[test]
fn wide_integers_move_with_all_their_bits() {
    on_devices(|bench| {
        let mut random = Random::new(21);
        for dtype in [DType::U32, DType::I64, DType::U64] {
            let x = operand(&mut random, dtype, 60).reshaped(&[5, 12]).unwrap();
            for indices in [DType::I32, DType::I64] {
                let index = random.ints(indices, &[7], -5, 4);
                Case::new(&gather::DEF, Attrs::new().with_int("axis", 0), &[&x, &index]).check(bench);
                Case::new(&gather::DEF, Attrs::new().with_int("axis", 1), &[&x, &index]).check(bench);
            }
            let view = strided::View {
                shape: vec![Dim::Known(4), Dim::Known(5)],
                strides: vec![Dim::Known(1), Dim::Known(12)],
                offset: Some(Dim::Known(-1)),
                inside: Some((vec![Dim::Known(1), Dim::Known(0)], vec![Dim::Known(4), Dim::Known(4)])),
                fill: strided::Fill::Int(-(1 << 40) - 3),
            };
            Case::new(&strided::DEF, view.attrs(), &[&x]).check(bench);
            Case::new(&concat::DEF, Attrs::new().with_int("axis", 1), &[&x, &x]).check(bench);
        }
        for dtype in [DType::I32, DType::I64] {
            let attrs =
                Attrs::new().with_int("start", 7).with_int("step", -3).with_int("n", 300).with_dtype("dtype", dtype);
            Case::new(&iota::DEF, attrs, &[]).check(bench);
        }
    });
}
