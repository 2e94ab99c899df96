//! Operators of single elements, as the ONNX standard defines them.

use super::values::{Data, Values, common, range, rounded, wrap};
use nyxc::ir::{Class, DType, Op};

/// The error function: a series of positive terms (Abramowitz and Stegun, 7.1.6).
pub fn erf(x: f64) -> f64 {
    let a = x.abs();
    if a.is_nan() {
        return x;
    }
    if a > 6.0 {
        return 1f64.copysign(x);
    }
    let (mut term, mut sum) = (a, a);
    for n in 1..200 {
        term *= 2.0 * a * a / f64::from(2 * n + 1);
        sum += term;
    }
    (std::f64::consts::FRAC_2_SQRT_PI * (-a * a).exp() * sum).copysign(x)
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

/// A function of one float.
fn of_float(op: &Op) -> Option<Box<dyn Fn(f64) -> f64>> {
    let number = |name: &str, default: f64| op.attrs.float(name).map_or(default, f64::from);
    let alpha = |default: f64| number("alpha", default);
    Some(match op.def.onnx {
        "Abs" => Box::new(f64::abs),
        "Acos" => Box::new(f64::acos),
        "Acosh" => Box::new(f64::acosh),
        "Asin" => Box::new(f64::asin),
        "Asinh" => Box::new(f64::asinh),
        "Atan" => Box::new(f64::atan),
        "Atanh" => Box::new(f64::atanh),
        "Ceil" => Box::new(f64::ceil),
        "Cos" => Box::new(f64::cos),
        "Cosh" => Box::new(f64::cosh),
        "Erf" => Box::new(erf),
        "Exp" => Box::new(f64::exp),
        "Floor" => Box::new(f64::floor),
        "HardSwish" => Box::new(|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "Log" => Box::new(f64::ln),
        "Mish" => Box::new(|x| x * softplus(x).tanh()),
        "Neg" => Box::new(|x| -x),
        "Reciprocal" => Box::new(|x| 1.0 / x),
        "Relu" => Box::new(|x| if x < 0.0 { 0.0 } else { x }),
        "Round" => Box::new(f64::round_ties_even),
        "Sigmoid" => Box::new(sigmoid),
        "Sign" => Box::new(|x| if x == 0.0 || x.is_nan() { x } else { x.signum() }),
        "Sin" => Box::new(f64::sin),
        "Sinh" => Box::new(f64::sinh),
        "Softplus" => Box::new(softplus),
        "Softsign" => Box::new(|x| x / (1.0 + x.abs())),
        "Sqrt" => Box::new(f64::sqrt),
        "Tan" => Box::new(f64::tan),
        "Tanh" => Box::new(f64::tanh),
        "Elu" => {
            let a = alpha(1.0);
            Box::new(move |x| if x < 0.0 { a * x.exp_m1() } else { x })
        }
        "Celu" => {
            let a = alpha(1.0);
            Box::new(move |x| if x < 0.0 { a * (x / a).exp_m1() } else { x })
        }
        "Selu" => {
            let (a, gamma) = (alpha(1.673_263_192_176_818_8), number("gamma", 1.050_701_022_148_132_3));
            Box::new(move |x| gamma * if x > 0.0 { x } else { a * x.exp_m1() })
        }
        "LeakyRelu" => {
            let a = alpha(f64::from(0.01f32));
            Box::new(move |x| if x < 0.0 { a * x } else { x })
        }
        "HardSigmoid" => {
            let (a, b) = (alpha(f64::from(0.2f32)), number("beta", 0.5));
            Box::new(move |x| (a * x + b).clamp(0.0, 1.0))
        }
        "ThresholdedRelu" => {
            let a = alpha(1.0);
            Box::new(move |x| if x > a { x } else { 0.0 })
        }
        "Shrink" => {
            let (lambd, bias) = (number("lambd", 0.5), number("bias", 0.0));
            Box::new(move |x| match x {
                x if x < -lambd => x + bias,
                x if x > lambd => x - bias,
                _ => 0.0,
            })
        }
        "Swish" => {
            let a = alpha(1.0);
            Box::new(move |x| x * sigmoid(a * x))
        }
        "Gelu" if op.attrs.str("approximate") == Some("tanh") => Box::new(|x: f64| {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
        }),
        "Gelu" => Box::new(|x| 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2))),
        _ => return None,
    })
}

/// A function of two floats; Sum and the like fold it.
fn of_floats(op: &Op) -> Option<fn(f64, f64) -> f64> {
    Some(match op.def.onnx {
        "Add" | "Sum" | "Mean" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Max" => |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) },
        "Min" => |a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) },
        "Pow" => f64::powf,
        "PRelu" => |x, slope| if x < 0.0 { x * slope } else { x },
        "Mod" if op.attrs.int("fmod").unwrap_or(0) != 0 => |a, b| a % b,
        "Mod" => |a, b| match a % b {
            rest if rest != 0.0 && (rest < 0.0) != (b < 0.0) => rest + b,
            rest => rest,
        },
        _ => return None,
    })
}

/// `a` to the power of `b` modulo 2^64, which every narrower type wraps further.
fn power(a: i128, b: i128) -> i128 {
    if b < 0 {
        return match a {
            1 => 1,
            -1 => 1 - 2 * (b & 1),
            _ => 0,
        };
    }
    let word = |v: i128| v & i128::from(u64::MAX);
    let (mut base, mut left, mut result) = (word(a), b, 1u128);
    while left > 0 {
        if left & 1 != 0 {
            result = word(result.wrapping_mul(base.cast_unsigned()).cast_signed()).cast_unsigned();
        }
        base = word(base.cast_unsigned().wrapping_mul(base.cast_unsigned()).cast_signed());
        left >>= 1;
    }
    result.cast_signed()
}

/// A function of two integers or truth values. A divisor of 0, which the standard leaves open, gives 0.
fn of_ints(op: &Op) -> Option<fn(i128, i128) -> i128> {
    let left = op.attrs.str("direction") == Some("LEFT");
    Some(match op.def.onnx {
        "Add" | "Sum" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => i128::wrapping_mul,
        "Div" => |a, b| if b == 0 { 0 } else { a / b },
        "Mod" if op.attrs.int("fmod").unwrap_or(0) != 0 => |a, b| if b == 0 { 0 } else { a % b },
        "Mod" => |a, b| if b == 0 { 0 } else { (a % b + b) % b },
        "Max" => i128::max,
        "Min" => i128::min,
        "Pow" => power,
        "PRelu" => |x, slope| if x < 0 { x.wrapping_mul(slope) } else { x },
        "BitwiseAnd" | "And" => |a, b| a & b,
        "BitwiseOr" | "Or" => |a, b| a | b,
        "BitwiseXor" | "Xor" => |a, b| a ^ b,
        "BitShift" if left => |a, b| if (0..64).contains(&b) { a.wrapping_shl(b as u32) } else { 0 },
        "BitShift" => |a, b| a >> b.clamp(0, 127),
        _ => return None,
    })
}

/// How two elements compare.
fn comparison<T: PartialOrd>(name: &str) -> Option<fn(&T, &T) -> bool> {
    Some(match name {
        "Equal" => |a, b| a == b,
        "Less" => |a, b| a < b,
        "LessOrEqual" => |a, b| a <= b,
        "Greater" => |a, b| a > b,
        "GreaterOrEqual" => |a, b| a >= b,
        _ => return None,
    })
}

/// A conversion that a model writes; `None` where it is to a type that the oracle lacks, or a value has no integer of
/// that type.
pub fn cast(x: &Values, to: DType) -> Option<Values> {
    let is_plain = matches!(to, DType::F64 | DType::F32 | DType::F16 | DType::BF16);
    Some(match (&x.data, to.class()) {
        (Data::Floats(v), Class::Float) if is_plain => {
            Values::of_floats(to, &x.dims, v.iter().map(|&v| rounded(v, to)).collect())
        }
        // By way of f32, as converters have it.
        (Data::Ints(v), Class::Float) if is_plain => {
            let float = |v: &i128| if to == DType::F64 { *v as f64 } else { rounded(f64::from(*v as f32), to) };
            Values::of_floats(to, &x.dims, v.iter().map(float).collect())
        }
        (Data::Floats(v), Class::Bool) => Values::of_ints(to, &x.dims, v.iter().map(|v| i128::from(*v != 0.0))),
        (Data::Floats(v), Class::Int) => {
            let (least, most) = range(to);
            let has = |v: &f64| v.is_finite() && (least..=most).contains(&(v.trunc() as i128));
            if !v.iter().all(has) {
                return None;
            }
            Values::of_ints(to, &x.dims, v.iter().map(|v| v.trunc() as i128))
        }
        (Data::Ints(v), Class::Int | Class::Bool) => Values::of_ints(to, &x.dims, v.iter().copied()),
        _ => return None,
    })
}

pub fn evaluate(op: &Op, x: &[Option<Values>]) -> Option<Values> {
    let first = x.first()?.as_ref()?;
    let name = op.def.onnx;
    match (name, x) {
        ("Cast", _) => return cast(first, op.attrs.dtype("to")?),
        ("CastLike", [_, Some(like)]) => return cast(first, like.dtype),
        ("Identity", _) | ("Dropout", [_] | [_, _]) => return Some(first.clone()),
        ("IsNaN" | "IsInf", _) => return special(op, first),
        ("Clip", _) => return clip(x),
        ("Where", [Some(condition), Some(a), Some(b)]) => return choice(condition, a, b),
        ("Pow", [Some(a), Some(b)]) if a.dtype.class() != b.dtype.class() => {
            // An integer to the power of a float is an integer again, where rounding decides.
            let b = a.floats().and_then(|_| cast(b, DType::F64))?;
            return evaluate(op, &[Some(a.clone()), Some(b)]);
        }
        _ => {}
    }
    let operands: Vec<&Values> = x.iter().map(Option::as_ref).collect::<Option<_>>()?;
    let dims = common(&operands.iter().map(|v| v.dims.as_slice()).collect::<Vec<_>>())?;
    let wide: Vec<Values> = operands.iter().map(|v| v.broadcast(&dims)).collect::<Option<_>>()?;
    if let [one] = &wide[..] {
        return match (&one.data, of_float(op)) {
            (Data::Floats(v), Some(f)) => Some(Values::of_floats(one.dtype, &dims, v.iter().map(|&v| f(v)).collect())),
            (Data::Ints(v), _) => of_int(name, one.dtype, v),
            _ if matches!(name, "Sum" | "Mean" | "Max" | "Min") => Some(one.clone()),
            _ => None,
        }
        .map(|values| Values { dims, ..values });
    }
    let mut all = wide.into_iter();
    let mut result = all.next()?;
    for other in all {
        result = match (&result.data, &other.data) {
            (Data::Floats(a), Data::Floats(b)) => match (of_floats(op), comparison::<f64>(name)) {
                (Some(f), _) => {
                    Values::of_floats(first.dtype, &dims, a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect())
                }
                (_, Some(f)) => Values::of_ints(DType::Bool, &dims, a.iter().zip(b).map(|(a, b)| i128::from(f(a, b)))),
                _ => return None,
            },
            (Data::Ints(a), Data::Ints(b)) => match (of_ints(op), comparison::<i128>(name)) {
                (Some(f), _) => Values::of_ints(first.dtype, &dims, a.iter().zip(b).map(|(a, b)| f(*a, *b))),
                (_, Some(f)) => Values::of_ints(DType::Bool, &dims, a.iter().zip(b).map(|(a, b)| i128::from(f(a, b)))),
                _ => return None,
            },
            _ => return None,
        };
    }
    if name == "Mean" {
        let n = operands.len() as f64;
        return Some(Values::of_floats(first.dtype, &dims, result.floats()?.iter().map(|v| v / n).collect()));
    }
    Some(result)
}

fn of_int(name: &str, dtype: DType, x: &[i128]) -> Option<Values> {
    let f: fn(i128) -> i128 = match name {
        "Abs" => i128::abs,
        "Neg" => |v| -v,
        "Sign" => i128::signum,
        "Relu" => |v| v.max(0),
        "BitwiseNot" => |v| -1 - v,
        "Not" => |v| 1 - v,
        "Sum" | "Max" | "Min" => |v| v,
        _ => return None,
    };
    Some(Values::of_ints(dtype, &[x.len()], x.iter().map(|&v| wrap(f(v), dtype))))
}

fn special(op: &Op, x: &Values) -> Option<Values> {
    let flag = |name| op.attrs.int(name).unwrap_or(1) != 0;
    let (low, high) = (flag("detect_negative"), flag("detect_positive"));
    let is = |v: &f64| match op.def.onnx {
        "IsNaN" => v.is_nan(),
        _ => v.is_infinite() && if *v < 0.0 { low } else { high },
    };
    Some(Values::of_ints(DType::Bool, &x.dims, x.floats()?.iter().map(|v| i128::from(is(v)))))
}

fn clip(x: &[Option<Values>]) -> Option<Values> {
    let value = x[0].as_ref()?;
    let bound = |slot: usize| x.get(slot).and_then(Option::as_ref);
    Some(match &value.data {
        Data::Floats(v) => {
            let number = |slot| bound(slot).and_then(|b| b.floats()?.first().copied());
            let (low, high) = (number(1).unwrap_or(f64::NEG_INFINITY), number(2).unwrap_or(f64::INFINITY));
            let one = |v: &f64| if v.is_nan() { *v } else { v.max(low).min(high) };
            Values::of_floats(value.dtype, &value.dims, v.iter().map(one).collect())
        }
        Data::Ints(v) => {
            let number = |slot| bound(slot).and_then(|b| b.ints()?.first().copied());
            let (low, high) = (number(1).unwrap_or(i128::MIN), number(2).unwrap_or(i128::MAX));
            Values::of_ints(value.dtype, &value.dims, v.iter().map(|v| (*v).max(low).min(high)))
        }
    })
}

fn choice(condition: &Values, a: &Values, b: &Values) -> Option<Values> {
    let dims = common(&[&condition.dims, &a.dims, &b.dims])?;
    let (condition, a, b) = (condition.broadcast(&dims)?, a.broadcast(&dims)?, b.broadcast(&dims)?);
    let choose = condition.ints()?.iter().enumerate();
    Some(match (&a.data, &b.data) {
        (Data::Floats(x), Data::Floats(y)) => {
            Values::of_floats(a.dtype, &dims, choose.map(|(i, c)| if *c != 0 { x[i] } else { y[i] }).collect())
        }
        (Data::Ints(x), Data::Ints(y)) => {
            Values::of_ints(a.dtype, &dims, choose.map(|(i, c)| if *c != 0 { x[i] } else { y[i] }))
        }
        _ => return None,
    })
}
