//! Operators of single elements.

use crate::generate::Gen;
use nyxc::ir::{Attr, Attrs, Class, DType, Tensor};

const PLAIN: &[&str] = &[
    "Abs",
    "Acos",
    "Acosh",
    "Asin",
    "Asinh",
    "Atan",
    "Atanh",
    "Ceil",
    "Cos",
    "Cosh",
    "Erf",
    "Exp",
    "Floor",
    "HardSwish",
    "Identity",
    "Log",
    "Mish",
    "Neg",
    "Reciprocal",
    "Relu",
    "Round",
    "Sigmoid",
    "Sign",
    "Sin",
    "Sinh",
    "Softplus",
    "Softsign",
    "Sqrt",
    "Tan",
    "Tanh",
    "Dropout",
    "Relu",
    "Sigmoid",
    "Neg",
];

pub fn unary(g: &mut Gen) -> Option<usize> {
    let x = g.float();
    if g.random.chance(70) {
        let name = g.random.pick(PLAIN);
        return g.add(name, Attrs::new(), &[Some(x)]);
    }
    let alpha = g.random.pick(&[0.1f32, 0.5, 1.0, 1.75]);
    let one = |name: &str| (name.to_owned(), Attrs::new().with_float("alpha", alpha));
    let (name, attrs) = match g.random.below(11) {
        0 => one("Elu"),
        1 => one("Celu"),
        2 => ("Selu".to_owned(), Attrs::new()),
        3 => one("LeakyRelu"),
        4 => ("HardSigmoid".to_owned(), Attrs::new().with_float("alpha", alpha).with_float("beta", 0.25)),
        5 => one("ThresholdedRelu"),
        6 => ("Shrink".to_owned(), Attrs::new().with_float("lambd", alpha).with_float("bias", 0.25)),
        7 => one("Swish"),
        8 => ("Gelu".to_owned(), Attrs::new().with_str("approximate", g.random.pick(&["none", "tanh"]))),
        9 => {
            let dtype = g.tensor(x).dtype();
            let mut bound = |value: f32| {
                let present = g.random.chance(70);
                present.then(|| g.constant(Tensor::from_f32s(dtype, &[], &[value]).unwrap()))
            };
            // What exporters write for no bound.
            let (low, high) = (bound(-0.75), bound(alpha));
            let (low, high) = match g.random.below(4) {
                0 => (low, Some(g.constant(Tensor::from_f32s(dtype, &[], &[f32::MAX]).unwrap()))),
                1 => (Some(g.constant(Tensor::from_f32s(dtype, &[], &[f32::MIN]).unwrap())), high),
                _ => (low, high),
            };
            return g.add("Clip", Attrs::new(), &[Some(x), low, high]);
        }
        _ => {
            let dims = g.dims(x);
            let slope = g.narrowed(&dims);
            let dtype = g.tensor(x).dtype();
            let slope = g.new_value(dtype, &slope);
            return g.add("PRelu", Attrs::new(), &[Some(x), Some(slope)]);
        }
    };
    g.add(&name, attrs, &[Some(x)])
}

pub fn binary(g: &mut Gen) -> Option<usize> {
    let x = g.float();
    let name = g.random.pick(&["Add", "Add", "Sub", "Mul", "Mul", "Div", "Max", "Min", "Pow", "Mod"]);
    if name == "Pow" && g.random.chance(70) {
        let exponent = g.random.pick(&[2.0f32, 3.0, 0.5, -1.0, -0.5, 1.5, 0.0, 1.0]);
        let dtype = g.tensor(x).dtype();
        let exponent = g.constant(Tensor::from_f32s(dtype, &[], &[exponent]).unwrap());
        return g.add("Pow", Attrs::new(), &[Some(x), Some(exponent)]);
    }
    let y = g.partner(x);
    let (a, b) = if g.random.chance(30) { (y, x) } else { (x, y) };
    let attrs = if name == "Mod" { Attrs::new().with_int("fmod", 1) } else { Attrs::new() };
    g.add(name, attrs, &[Some(a), Some(b)])
}

pub fn variadic(g: &mut Gen) -> Option<usize> {
    let x = g.float();
    let mut operands = vec![Some(x)];
    for _ in 0..g.random.below(4) {
        operands.push(Some(g.partner(x)));
    }
    let name = g.random.pick(&["Sum", "Mean", "Max", "Min"]);
    g.add(name, Attrs::new(), &operands)
}

pub fn logic(g: &mut Gen) -> Option<usize> {
    match g.random.below(5) {
        0 | 1 => {
            let x = if g.random.chance(60) { g.float() } else { g.of_class(Class::Int, DType::I64) };
            let y = g.partner(x);
            let name = g.random.pick(&["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"]);
            g.add(name, Attrs::new(), &[Some(x), Some(y)])
        }
        2 => {
            let x = g.of_class(Class::Bool, DType::Bool);
            let y = g.partner(x);
            let name = g.random.pick(&["And", "Or", "Xor", "Equal"]);
            g.add(name, Attrs::new(), &[Some(x), Some(y)])
        }
        3 => {
            let x = if g.random.chance(50) { g.of_class(Class::Bool, DType::Bool) } else { g.float() };
            let float = g.tensor(x).dtype().is_float();
            let name = if float { g.random.pick(&["IsNaN", "IsInf"]) } else { "Not" };
            g.add(name, Attrs::new(), &[Some(x)])
        }
        _ => {
            let x = if g.random.chance(70) { g.float() } else { g.of_class(Class::Int, DType::I32) };
            let y = g.partner(x);
            let dims = g.dims(x);
            let condition = match g
                .pick(|v| v.tensor.dtype() == DType::Bool && crate::generate::broadcasts(&v.tensor.dims(), &dims))
            {
                Some(found) => found,
                None => {
                    let dims = g.narrowed(&dims);
                    g.new_value(DType::Bool, &dims)
                }
            };
            g.add("Where", Attrs::new(), &[Some(condition), Some(x), Some(y)])
        }
    }
}

const INTEGERS: &[DType] =
    &[DType::I64, DType::I64, DType::U64, DType::U32, DType::I32, DType::U16, DType::I16, DType::U8, DType::I8];

pub fn integers(g: &mut Gen) -> Option<usize> {
    let new = if g.spec.wide {
        g.random.pick(INTEGERS)
    } else {
        g.random.pick(&[DType::I64, DType::I32, DType::I64, DType::U8, DType::I8, DType::U32, DType::I16])
    };
    let x = g.of_class(Class::Int, new);
    let dtype = g.tensor(x).dtype();
    if g.random.chance(25) {
        let name = g.random.pick(&["Abs", "Neg", "Sign", "BitwiseNot", "Relu"]);
        return g.add(name, Attrs::new(), &[Some(x)]);
    }
    let some = |g: &mut Gen, values: &[i64]| {
        let value = g.random.pick(values);
        Some(g.constant(Tensor::from_i64s(dtype, &[], &[value]).unwrap()))
    };
    if g.spec.wide && g.random.chance(30) {
        return match g.random.below(4) {
            0 => {
                // What exporters write for no bound.
                let low = if g.random.chance(70) { some(g, &[0, 1, -5, i64::MIN]) } else { None };
                let high = if g.random.chance(70) { some(g, &[i64::MAX, i64::MAX, 100, 1 << 40]) } else { None };
                g.add("Clip", Attrs::new(), &[Some(x), low, high])
            }
            1 if matches!(dtype, DType::I32 | DType::I64) => {
                let exponent = some(g, &[0, 1, 2, 3, 5, 31, 63]);
                g.add("Pow", Attrs::new(), &[Some(x), exponent])
            }
            2 if matches!(dtype, DType::U8 | DType::U16 | DType::U32 | DType::U64) => {
                let n = i64::from(dtype.bits());
                let by = some(g, &[0, 1, 3, 7, n / 2, n - 1]);
                let direction = g.random.pick(&["LEFT", "RIGHT"]);
                g.add("BitShift", Attrs::new().with_str("direction", direction), &[Some(x), by])
            }
            _ => {
                let operands = [Some(x), Some(g.partner(x)), Some(g.partner(x))];
                let name = g.random.pick(&["Max", "Min"]);
                g.add(name, Attrs::new(), &operands)
            }
        };
    }
    let y = g.partner(x);
    let is_zero = |g: &Gen, v: usize| g.tensor(v).to_i64s().is_ok_and(|v| v.contains(&0));
    let (name, attrs) = match g.random.below(10) {
        0 | 1 => ("Add", Attrs::new()),
        2 => ("Sub", Attrs::new()),
        3 => ("Mul", Attrs::new()),
        4 if !is_zero(g, y) => ("Div", Attrs::new()),
        5 if !is_zero(g, y) => ("Mod", Attrs::new().with_int("fmod", g.random.int(0, 1))),
        6 => (g.random.pick(&["BitwiseAnd", "BitwiseOr", "BitwiseXor"]), Attrs::new()),
        7 => (g.random.pick(&["Max", "Min"]), Attrs::new()),
        8 if g.tensor(y).to_i64s().is_ok_and(|v| v.iter().all(|v| (0..8).contains(v)))
            && g.tensor(x).to_i64s().is_ok_and(|v| v.iter().all(|v| *v >= 0)) =>
        {
            ("BitShift", Attrs::new().with_str("direction", g.random.pick(&["LEFT", "RIGHT"])))
        }
        _ => ("Add", Attrs::new()),
    };
    g.add(name, attrs, &[Some(x), Some(y)])
}

const FLOATS: &[DType] = &[DType::F32, DType::F32, DType::F16, DType::BF16, DType::F64];

/// One conversion, or a chain of them: what one took away stays away.
pub fn cast(g: &mut Gen) -> Option<usize> {
    let class = g.random.pick(&[Class::Float, Class::Int, Class::Bool]);
    let x = match class {
        Class::Float => g.float(),
        Class::Int => g.of_class(Class::Int, DType::I64),
        _ => g.of_class(Class::Bool, DType::Bool),
    };
    let from = g.tensor(x).dtype();
    let mut y = converted(g, x)?;
    for _ in 0..g.random.pick(&[0, 0, 1, 1, 2]) {
        y = converted(g, y).unwrap_or(y);
    }
    if g.tensor(y).dtype() != from && g.random.chance(40) {
        y = to(g, y, from).unwrap_or(y);
    }
    Some(y)
}

fn converted(g: &mut Gen, x: usize) -> Option<usize> {
    let dtype = match g.random.below(10) {
        0..5 => g.random.pick(FLOATS),
        5..9 => g.random.pick(INTEGERS),
        _ => DType::Bool,
    };
    to(g, x, dtype)
}

fn to(g: &mut Gen, x: usize, to: DType) -> Option<usize> {
    // A float outside the type has no value that all devices agree on.
    let (low, high) = match to {
        DType::U8 => (0.0, 100.0),
        DType::I8 => (-100.0, 100.0),
        DType::U16 => (0.0, 6e4),
        DType::I16 => (-3e4, 3e4),
        DType::U32 => (0.0, 4e9),
        DType::I32 => (-2e9, 2e9),
        DType::U64 => (0.0, 1.8e19),
        _ => (-9e18, 9e18),
    };
    let from = g.tensor(x).dtype();
    if to.class() == Class::Int
        && from.is_float()
        && !g.tensor(x).to_f64s().ok()?.iter().all(|v| (low..=high).contains(v))
    {
        return None;
    }
    if g.random.chance(20)
        && let Some(like) = g.pick(|v| v.tensor.dtype() == to)
    {
        return g.add("CastLike", Attrs::new(), &[Some(x), Some(like)]);
    }
    g.add("Cast", Attrs::new().with("to", Attr::DType(to)), &[Some(x)])
}

/// What exporters write out: patterns that passes look for.
pub fn composite(g: &mut Gen) -> Option<usize> {
    let x = g.float_of(1, 4);
    let dtype = g.tensor(x).dtype();
    let scalar = |g: &mut Gen, v: f32| Some(g.constant(Tensor::from_f32s(dtype, &[], &[v]).unwrap()));
    let n = *g.dims(x).last()?;
    match g.random.below(4) {
        0 => {
            let root = scalar(g, std::f32::consts::SQRT_2);
            let a = g.add("Div", Attrs::new(), &[Some(x), root])?;
            let b = g.add("Erf", Attrs::new(), &[Some(a)])?;
            let one = scalar(g, 1.0);
            let c = g.add("Add", Attrs::new(), &[Some(b), one])?;
            let d = g.add("Mul", Attrs::new(), &[Some(x), Some(c)])?;
            let half = scalar(g, 0.5);
            g.add("Mul", Attrs::new(), &[Some(d), half])
        }
        1 => {
            let s = g.add("Sigmoid", Attrs::new(), &[Some(x)])?;
            g.add("Mul", Attrs::new(), &[Some(x), Some(s)])
        }
        kind => {
            let (centred, mut axes) = (kind == 2, || g.ints(&[-1]));
            let (first, second) = (axes(), axes());
            let mut y = x;
            if centred {
                let mean = g.add("ReduceMean", Attrs::new(), &[Some(x), first])?;
                y = g.add("Sub", Attrs::new(), &[Some(x), Some(mean)])?;
            }
            let two = scalar(g, 2.0);
            let square = g.add("Pow", Attrs::new(), &[Some(y), two])?;
            let mean = g.add("ReduceMean", Attrs::new(), &[Some(square), second])?;
            let epsilon = scalar(g, 1e-2);
            let shifted = g.add("Add", Attrs::new(), &[Some(mean), epsilon])?;
            let root = g.add("Sqrt", Attrs::new(), &[Some(shifted)])?;
            let y = g.add("Div", Attrs::new(), &[Some(y), Some(root)])?;
            let scale = g.weights(dtype, &[n]);
            let y = g.add("Mul", Attrs::new(), &[Some(y), Some(scale)])?;
            if !centred {
                return Some(y);
            }
            let bias = g.weights(dtype, &[n]);
            g.add("Add", Attrs::new(), &[Some(y), Some(bias)])
        }
    }
}
