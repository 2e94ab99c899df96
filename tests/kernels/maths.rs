//! Every function of the expression generator against f64 over its whole domain, on the CPU reference and on every
//! Vulkan device, and the table of the errors in docs/maths.md, which is held to: no error may be larger than it says
//! for the driver. `NYXC_MATHS=write` writes the column of the driver here anew.

mod page;

use super::*;
use nyxc::ir::{Binary, Class, Unary};
use nyxc::ops::core::matmul;
use nyxc::ops::core::pointwise;
use nyxc::ops::reference::real::Real;
use page::{Page, TABLE};

/// What a function is in f64, and how near its value in f32 must be.
enum Exact {
    /// The nearest f32, bit for bit; of NaN any.
    Rounded(fn(f64, f64) -> f64),
    /// One of the operands or zero, of zeros either.
    Chosen(fn(f64, f64) -> f64),
    /// 4 units of the last place or 1e-6 relative, whichever is larger, wherever the nearest f32 is finite.
    Near(fn(f64, f64) -> f64),
    /// 0 or 1.
    Truth(fn(f32, f32) -> bool),
}

/// The functions of the generator: text of the expression and what it is. Every one of `Unary` and `Binary` that floats
/// have is here.
fn functions() -> Vec<(String, Exact)> {
    use Exact::{Chosen, Near, Rounded, Truth};
    let unary = |f: Unary| -> Option<Exact> {
        Some(match f {
            Unary::Neg => Rounded(|x, _| -x),
            Unary::Abs => Rounded(|x, _| x.abs()),
            Unary::Sign => Rounded(|x, _| if x == 0.0 || x.is_nan() { x } else { x.signum() }),
            Unary::Floor => Rounded(|x, _| x.floor()),
            Unary::Ceil => Rounded(|x, _| x.ceil()),
            Unary::Round => Rounded(|x, _| x.round_ties_even()),
            Unary::Sqrt => Rounded(|x, _| x.sqrt()),
            Unary::Recip => Rounded(|x, _| 1.0 / x),
            Unary::Relu => Chosen(|x, _| if x < 0.0 { 0.0 } else { x }),
            Unary::Exp => Near(|x, _| x.exp()),
            Unary::Log => Near(|x, _| x.ln()),
            Unary::Rsqrt => Near(|x, _| 1.0 / x.sqrt()),
            Unary::Sin => Near(|x, _| x.sin()),
            Unary::Cos => Near(|x, _| x.cos()),
            Unary::Tan => Near(|x, _| x.tan()),
            Unary::Asin => Near(|x, _| x.asin()),
            Unary::Acos => Near(|x, _| x.acos()),
            Unary::Atan => Near(|x, _| x.atan()),
            Unary::Sinh => Near(|x, _| x.sinh()),
            Unary::Cosh => Near(|x, _| x.cosh()),
            Unary::Tanh => Near(|x, _| x.tanh()),
            Unary::Asinh => Near(|x, _| x.asinh()),
            Unary::Acosh => {
                Near(|x, _| if x < 1.0 { f64::NAN } else { (x - 1.0 + ((x - 1.0) * (x + 1.0)).sqrt()).ln_1p() })
            }
            Unary::Atanh => Near(|x, _| (0.5 * (2.0 * x.abs() / (1.0 - x.abs())).ln_1p()).copysign(x)),
            Unary::Erf => Near(|x, _| Real::erf(x)),
            Unary::Sigmoid => Near(|x, _| if x < 0.0 { x.exp() / (1.0 + x.exp()) } else { 1.0 / (1.0 + (-x).exp()) }),
            Unary::Softplus => Near(|x, _| if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() }),
            Unary::RoundF16 => Rounded(|x, _| half::f16::from_f32(x as f32).to_f64()),
            Unary::RoundBf16 => Rounded(|x, _| half::bf16::from_f32(x as f32).to_f64()),
            Unary::StoreF16 => Rounded(|x, _| nyxc::ir::saturating_f16(x as f32).to_f64()),
            Unary::RoundF32 => Rounded(|x, _| x),
            Unary::ToBool => Truth(|x, _| x != 0.0),
            Unary::IsNan => Truth(|x, _| x.is_nan()),
            Unary::IsInf => Truth(|x, _| x.is_infinite()),
            // Conversions to integers have a test of their own; the others are of integers and truth values.
            _ => return None,
        })
    };
    let binary = |f: Binary| -> Option<Exact> {
        Some(match f {
            Binary::Add => Rounded(|a, b| a + b),
            Binary::Sub => Rounded(|a, b| a - b),
            Binary::Mul => Rounded(|a, b| a * b),
            Binary::Div => Rounded(|a, b| a / b),
            Binary::Fmod => Rounded(|a, b| a % b),
            Binary::Mod => Rounded(|a, b| {
                let r = a % b;
                if r == 0.0 {
                    r.copysign(b)
                } else if (r < 0.0) != (b < 0.0) {
                    r + b
                } else {
                    r
                }
            }),
            Binary::Min => Chosen(|a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.min(b) }),
            Binary::Max => Chosen(|a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) }),
            Binary::Pow => Near(f64::powf),
            Binary::Eq => Truth(|a, b| a == b),
            Binary::Lt => Truth(|a, b| a < b),
            Binary::Le => Truth(|a, b| a <= b),
            Binary::Gt => Truth(|a, b| a > b),
            Binary::Ge => Truth(|a, b| a >= b),
            _ => return None,
        })
    };
    let mut all = Vec::new();
    for &f in Unary::ALL {
        let expr = Expr::unary(f, Expr::Arg(0));
        all.extend(unary(f).map(|exact| (expr.to_string(), exact)));
        let known = all.last().is_some_and(|(text, _)| *text == expr.to_string());
        let is_number = matches!(expr.class(&[Class::Float]), Ok(Class::Float | Class::Bool));
        assert!(known || matches!(f, Unary::ToFloat | Unary::UnsignedToFloat) || !is_number, "{expr}");
    }
    for &f in Binary::ALL {
        let expr = Expr::binary(f, Expr::Arg(0), Expr::Arg(1));
        all.extend(binary(f).map(|exact| (expr.to_string(), exact)));
        let known = all.last().is_some_and(|(text, _)| *text == expr.to_string());
        assert!(known || expr.class(&[Class::Float; 2]).is_err(), "{expr}");
    }
    // Powers that are no call of the function.
    all.push(("pow(x0,2.0)".to_owned(), Near(|x, _| x * x)));
    all.push(("pow(x0,3.0)".to_owned(), Near(|x, _| x * x * x)));
    all.push(("pow(x0,0.5)".to_owned(), Near(|x, _| x.powf(0.5))));
    all
}

struct Bits(u64);

impl Bits {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 20) as u32
    }

    fn any(&mut self) -> f32 {
        f32::from_bits(self.next())
    }

    /// From 0 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 8) as f32 / (1u32 << 24) as f32
    }
}

/// Numbers around which functions change: thresholds of approximations and of overflow, limits of number formats.
const EDGES: [f32; 44] = [
    0.0,
    1e-45,
    f32::MIN_POSITIVE,
    1.0,
    2.0,
    0.5,
    3.0,
    0.25,
    0.1,
    10.0,
    20.0,
    100.0,
    0.625,
    0.927_734_4,
    4.0,
    2.414_213_6,
    0.414_213_57,
    0.29,
    0.41,
    1e-4,
    1e9,
    1e18,
    88.722_84,
    87.336_55,
    103.972_08,
    104.0,
    89.415_99,
    89.0,
    44.361_42,
    16.635_532,
    8.664_34,
    1.570_796_4,
    std::f32::consts::FRAC_PI_4,
    std::f32::consts::PI,
    16_777_216.0,
    8_388_608.0,
    4_194_304.0,
    2_147_483_648.0,
    4_294_967_296.0,
    1.844_674_4e19,
    9.223_372e18,
    1.701_411_8e38,
    f32::MAX,
    f32::INFINITY,
];

/// Arguments of one operand: every binade, random bits, neighbours of what is special, dense common ranges.
fn arguments() -> Vec<f32> {
    let mut random = Bits(0x2545_f491_4f6c_dd1d);
    let mut all = vec![f32::NAN];
    let near = |all: &mut Vec<f32>, v: f32| {
        for step in -3i32..=3 {
            let v = f32::from_bits(v.abs().to_bits().saturating_add_signed(step));
            all.extend([v, -v]);
        }
    };
    EDGES.iter().for_each(|&v| near(&mut all, v));
    for exponent in 0..255u32 {
        for mantissa in [0, 1, 2, 0x3f_ffff, 0x40_0000, 0x40_0001, 0x7f_fffe, 0x7f_ffff] {
            let v = f32::from_bits(exponent << 23 | mantissa);
            all.extend([v, -v]);
        }
        all.extend((0..40).map(|_| f32::from_bits((random.next() & 0x807f_ffff) | exponent << 23)));
    }
    for k in 1..3000 {
        near(&mut all, (f64::from(k) * std::f64::consts::FRAC_PI_2) as f32);
        near(&mut all, k as f32 - 0.5);
        // Multiples of pi/2 far out, as exactly as f64 has them.
        let far = f64::from(random.next()) * 2f64.powi(k % 60 - 10);
        near(&mut all, ((far / std::f64::consts::FRAC_PI_2).round() * std::f64::consts::FRAC_PI_2) as f32);
        near(&mut all, (random.next() >> (k % 24)) as f32 + 0.5);
    }
    // f32 numbers that are nearest to multiples of pi/2 (Muller, Elementary Functions, table of worst cases).
    for v in
        [16_367_173.0 * 2f32.powi(72), 12_320_142.0, 1.570_796_4 * 2f32.powi(60), 2.0f32.powi(127), 71_476.0, 344.0]
    {
        near(&mut all, v);
    }
    for _ in 0..60_000 {
        let v = random.unit();
        all.extend([random.any(), random.any(), 4.0 * v - 2.0, 220.0 * v - 110.0, 1.0 + 0.2 * v - 0.1]);
    }
    all
}

/// Pairs of arguments: special ones with each other, random bits, near numbers, far ones, powers near 1 and integral
/// ones.
fn pairs() -> (Vec<f32>, Vec<f32>) {
    let mut random = Bits(0x9e37_79b9_7f4a_7c15);
    let mut all: Vec<(f32, f32)> = Vec::new();
    let special: Vec<f32> =
        EDGES.iter().flat_map(|&v| [v, -v]).chain([f32::NAN, 2.5, -7.5, 1e-40, 16_777_215.0]).collect();
    all.extend(special.iter().flat_map(|&a| special.iter().map(move |&b| (a, b))));
    for _ in 0..60_000 {
        let (a, b) = (random.any(), random.any());
        let near = f32::from_bits((a.to_bits() & 0x7f80_0000).wrapping_add(random.next() & 0x3ff_ffff));
        let integral = (random.next() % 400) as f32 - 200.0;
        all.extend([
            (a, b),
            (a, near),
            (near, a),
            (random.unit() * 100.0, random.unit()),
            (random.unit() + 0.5, integral / 2.0),
        ]);
        all.push((random.unit() * 200.0 - 100.0, integral / 4.0));
        all.push((1.0 + (random.unit() - 0.5) * 1e-4, (random.unit() - 0.5) * 3e6));
        all.push((f32::from_bits(a.to_bits() & 0x807f_ffff), f32::from_bits(b.to_bits() & 0x3fff_ffff)));
        all.push(((random.next() >> 8) as f32, (random.next() >> 20) as f32 * 0.1));
    }
    all.into_iter().unzip()
}

/// The largest errors, and the first value that is wrong.
#[derive(Default)]
struct Errors {
    ulp: f64,
    relative: f64,
    fault: Option<String>,
}

fn ulp(v: f64) -> f64 {
    let exponent = (v.abs().to_bits() >> 52) as i32 - 1023;
    2f64.powi(exponent.max(-126) - 23)
}

impl Errors {
    fn note(&mut self, given: f32, wanted: f64, exact: &Exact, describe: impl Fn() -> String) {
        let nearest = wanted as f32;
        let zeros = given == 0.0 && wanted == 0.0 && !matches!(exact, Exact::Rounded(_));
        let is_nearest = given.to_bits() == nearest.to_bits() || (given.is_nan() && nearest.is_nan()) || zeros;
        // Beside the end of the range infinity is as near as the largest number.
        let at_the_end = |v: f32| v.abs() > 3.4028e38 && v.is_sign_negative() == (wanted < 0.0);
        let fault = if !matches!(exact, Exact::Near(_)) || nearest.is_nan() || wanted == 0.0 {
            !is_nearest
        } else if nearest.is_infinite() || given.is_infinite() {
            !(at_the_end(given) && at_the_end(nearest))
        } else if given.is_nan() {
            true
        } else {
            !self.measure(f64::from(given), wanted)
        };
        if fault {
            self.fault.get_or_insert_with(|| format!("{}: {given:e}, not {nearest:e}", describe()));
        }
    }

    /// Notes how far a number is off; whether it is as near as it must be.
    fn measure(&mut self, given: f64, wanted: f64) -> bool {
        let (off, unit) = ((given - wanted).abs(), ulp(wanted));
        let (ulps, relative) = (off / unit, off / wanted.abs());
        self.ulp = self.ulp.max(ulps);
        if wanted.abs() >= f64::from(f32::MIN_POSITIVE) {
            self.relative = self.relative.max(relative);
        }
        ulps <= 4.0 || relative <= 1e-6
    }
}

/// The column of a driver in the table.
fn column(driver: &str) -> Option<&'static str> {
    ["llvmpipe", "SwiftShader", "NVIDIA", "CPU reference"].into_iter().find(|name| driver.contains(name))
}

/// Rounded up, so that a measurement is within what is written.
fn cell(exact: &Exact, errors: &Errors) -> String {
    if matches!(exact, Exact::Near(_)) {
        let exponent = errors.relative.max(1e-12).log10().floor() - 1.0;
        format!(
            "{:.2} / {:.1e}",
            (errors.ulp * 100.0).ceil() / 100.0,
            (errors.relative / 10f64.powf(exponent)).ceil() * 10f64.powf(exponent)
        )
    } else {
        "exact".to_owned()
    }
}

/// Holds what `evaluate` computes to f64 and to the table.
fn check(driver: &str, flushes: bool, evaluate: impl Fn(&Case) -> Tensor) -> Vec<String> {
    let mut page = Page::read();
    let (functions, mut faults) = (functions(), Vec::new());
    let write = std::env::var("NYXC_MATHS").is_ok_and(|v| v == "write");
    let (x, (a, b)) = (arguments(), pairs());
    let tensor = |values: &[f32]| Tensor::from_f32s(DType::F32, &[values.len()], values).unwrap();
    let (tx, ta, tb) = (tensor(&x), tensor(&a), tensor(&b));
    for (text, exact) in &functions {
        let expr = Expr::parse(text).unwrap();
        let two = expr.n_args() == 2;
        let dtype = if matches!(exact, Exact::Truth(_)) { DType::Bool } else { DType::F32 };
        let operands: Vec<&Tensor> = if two { vec![&ta, &tb] } else { vec![&tx] };
        let given = evaluate(&Case::new(&pointwise::DEF, pointwise::attrs(expr, dtype), &operands));
        let (left, right) = if two { (&a, &b) } else { (&x, &x) };
        let is_tiny = |v: f32| v != 0.0 && v.abs() < f32::MIN_POSITIVE;
        // A device that flushes may take any denormal for 0, and give 0 for one: docs/maths.md says so.
        let excused = |i: usize, wanted: f64| {
            let of_operands = is_tiny(left[i]) || (two && is_tiny(right[i]));
            // The remainder that mod adds to the divisor.
            let between = text.starts_with("mod") && is_tiny(left[i] % right[i]);
            flushes && (of_operands || between || wanted.abs() <= f64::from(f32::MIN_POSITIVE))
        };
        let mut errors = Errors::default();
        match exact {
            Exact::Truth(f) => {
                for (i, given) in given.to_i64s().unwrap().into_iter().enumerate() {
                    if (given != 0) != f(left[i], right[i]) && !excused(i, 1.0) {
                        errors.fault.get_or_insert_with(|| format!("at {:e}, {:e}: {given}", left[i], right[i]));
                    }
                }
            }
            Exact::Rounded(f) | Exact::Chosen(f) | Exact::Near(f) => {
                for (i, &given) in given.to_f32s().unwrap().iter().enumerate() {
                    let wanted = f(f64::from(left[i]), f64::from(right[i]));
                    if !excused(i, wanted) {
                        let at = || {
                            if two { format!("at {:e}, {:e}", left[i], right[i]) } else { format!("at {:e}", left[i]) }
                        };
                        errors.note(given, wanted, exact, at);
                    }
                }
            }
        }
        if let Some(fault) = &errors.fault {
            faults.push(format!("{text} on {driver} {fault}"));
        }
        let Some(column) = column(driver) else { continue };
        if write {
            let at = page.header.iter().position(|name| name == column).unwrap();
            let n = page.header.len();
            let row = page.rows.entry(text.clone()).or_insert_with(|| vec!["not measured".to_owned(); n]);
            row[at] = cell(exact, &errors);
        } else if let Some((ulp, relative)) = page.bounds(text, column) {
            if errors.ulp > ulp || errors.relative > relative * 1.000_001 {
                faults.push(format!(
                    "{text} on {driver}: {} ULP, {} relative; {TABLE} says {ulp}, {relative}",
                    errors.ulp, errors.relative
                ));
            }
        } else if !page.rows.contains_key(text) {
            faults.push(format!("{TABLE} lacks {text}"));
        }
    }
    if write {
        let order: Vec<String> = functions.iter().map(|(text, _)| text.clone()).collect();
        page.rows.retain(|text, _| order.contains(text));
        page.write(&order);
    }
    faults
}

#[test]
fn functions_are_as_near_as_the_table_says() {
    let on_cpu = |case: &Case| {
        let inputs: Vec<Option<&Tensor>> = case.operands.iter().map(Option::as_ref).collect();
        case.def.eval.unwrap()(&case.attrs, &inputs).unwrap().remove(0)
    };
    let mut faults = check("CPU reference", false, on_cpu);
    let found = devices().unwrap_or_default();
    if found.is_empty() {
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
    }
    for info in found {
        let options = Options { cache_dir: None, fault: None, ..Options::from_env() };
        let context = VkContext::open(info.index, &info.target.features, &options).unwrap();
        let on_device = |case: &Case| run(&context, &info.target, case).unwrap().0;
        let tiny = Tensor::from_f32s(DType::F32, &[1], &[1e-40]).unwrap();
        let product = pointwise::attrs(Expr::parse("mul(x0,x0)").unwrap(), DType::F32);
        // By an operand: a compiler leaves out the product with a constant of one.
        let kept = pointwise::attrs(Expr::parse("mul(x0,x1)").unwrap(), DType::F32);
        let one = Tensor::from_f32s(DType::F32, &[1], &[1.0]).unwrap();
        assert_eq!(on_device(&Case::new(&pointwise::DEF, product, &[&tiny])).to_f32s().unwrap()[0], 0.0);
        let flushes = on_device(&Case::new(&pointwise::DEF, kept, &[&tiny, &one])).to_f32s().unwrap()[0] == 0.0;
        let note = format!("{} {} denormals\n", info.driver, if flushes { "flushes" } else { "keeps" });
        let _ = std::io::stderr().write_all(note.as_bytes());
        faults.extend(check(&format!("{} {}", info.name, info.driver), flushes, on_device));
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}

/// Integers of 24 bits and more to floats, to the nearest; floats towards zero to integers that 32 bits hold.
#[test]
fn conversions_are_exact() {
    on_devices(|bench| {
        let mut random = Bits(77);
        let mut ints: Vec<i64> = (0..20_000).map(|i| i64::from((random.next() as i32) >> (i % 31))).collect();
        ints.extend((0..31).flat_map(|e| (-3..=3).flat_map(move |d| [(1i64 << e) + d, -(1i64 << e) + d])));
        ints.extend([i64::from(i32::MAX), i64::from(i32::MIN), 16_777_217, 33_554_431, -16_777_219]);
        let x = Tensor::from_i64s(DType::I32, &[ints.len()], &ints).unwrap();
        let case = Case::new(&pointwise::DEF, pointwise::attrs(Expr::parse("f(x0)").unwrap(), DType::F32), &[&x]);
        let floats: Vec<f32> = arguments().into_iter().filter(|v| v.abs() < 2_147_483_648.0).collect();
        let y = Tensor::from_f32s(DType::F32, &[floats.len()], &floats).unwrap();
        let back = Case::new(&pointwise::DEF, pointwise::attrs(Expr::parse("i(x0)").unwrap(), DType::I32), &[&y]);
        for target in &bench.targets {
            let (given, _) = run(&bench.context, target, &case).unwrap();
            for (x, y) in ints.iter().zip(given.to_f32s().unwrap().iter()) {
                assert_eq!(*x as f32, *y, "{x} on {}", target.name);
            }
            let (given, _) = run(&bench.context, target, &back).unwrap();
            for (x, y) in floats.iter().zip(given.to_i64s().unwrap()) {
                assert_eq!(*x as i64, y, "{x:e} on {}", target.name);
            }
        }
    });
}

/// The same functions in epilogues: lavapipe 22.3 has computed one of them wrongly behind a product, and rightly alone.
#[test]
fn functions_are_right_behind_a_product() {
    on_devices(|bench| {
        let mut random = Random::new(17);
        let mut positive = |dims: &[usize], most: f32| {
            let values: Vec<f32> = (0..dims.iter().product()).map(|_| most * (0.55 + 0.45 * random.unit())).collect();
            Tensor::from_f32s(DType::F32, dims, &values).unwrap()
        };
        // Sums from 0.03 to 0.9, and from 1 to 30, so that each function is defined in one of them.
        let operands = [0.05, 1.8].map(|most| (positive(&[3, 16], most), positive(&[31, 16], 1.0)));
        let of_one =
            functions().into_iter().filter(|(text, exact)| !text.contains("x1") && !matches!(exact, Exact::Truth(_)));
        for (text, _) in of_one {
            let mut n_checked = 0;
            for (a, b) in &operands {
                let case = Case::new(&matmul::DEF, Attrs::new().with_int("trans_b", 1), &[a, b]).then(&text, &[]);
                let inputs: Vec<Option<&Tensor>> = case.operands.iter().map(Option::as_ref).collect();
                let wanted = case.def.eval.unwrap()(&case.attrs, &inputs).unwrap().remove(0);
                // Near a pole a last bit of the sum is many of the function.
                if wanted
                    .to_f32s()
                    .unwrap()
                    .iter()
                    .all(|v| v.abs() < 50.0 || v.is_finite() && !text.starts_with("tan("))
                {
                    case.check(bench);
                    n_checked += 1;
                }
            }
            assert!(n_checked > 0, "{text} is defined in neither range");
        }
    });
}
