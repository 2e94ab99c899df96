//! The standard's comparison: `|given - expected| <= 1e-7 + 1e-3 * |expected|` where a test names no other tolerance,
//! bf16 within two of its units, NaN equal to NaN.

use nyxc::ir::{Class, DType, Tensor};

/// Tests whose expected values err by more than the standard's tolerance, and by how much at most: the inverse
/// transforms were computed in f32 and have 2e-7 where the result is zero.
const NOISE: &[(&str, f64)] = &[("test_dft_inverse", 1e-6)];

/// What is wrong with a result of the test `name`, if anything.
pub fn difference(name: &str, given: &Tensor, expected: &Tensor, relative: f64) -> Option<String> {
    let absolute = NOISE.iter().find(|(test, _)| name.starts_with(test)).map_or(1e-7, |n| n.1);
    if given.ty() != expected.ty() {
        return Some(format!("{} for {}", given.ty(), expected.ty()));
    }
    let relative = if expected.dtype() == DType::BF16 { 1.0 / 64.0 } else { relative };
    let (given, expected) = (values(given), values(expected));
    let differ = |(g, e): &(&f64, &f64)| {
        !(g == e || g.is_nan() && e.is_nan() || e.is_finite() && (*g - *e).abs() <= absolute + relative * e.abs())
    };
    let at = given.iter().zip(&expected).position(|pair| differ(&pair))?;
    let n = given.iter().zip(&expected).filter(differ).count();
    Some(format!("{n} of {} elements differ, first [{at}]: {} for {}", given.len(), given[at], expected[at]))
}

fn values(tensor: &Tensor) -> Vec<f64> {
    match (tensor.dtype().class(), tensor.dtype()) {
        (_, DType::U64) => tensor.to_i64s().unwrap().iter().map(|v| v.cast_unsigned() as f64).collect(),
        (_, DType::F64) => {
            tensor.bytes().unwrap().chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
        }
        (Class::Float, _) => tensor.to_f32s().unwrap().iter().map(|&v| f64::from(v)).collect(),
        _ => tensor.to_i64s().unwrap().iter().map(|&v| v as f64).collect(),
    }
}
