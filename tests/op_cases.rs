//! Every operator against ONNX Runtime: the cases that `tests/make_op_cases.py` wrote.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/cases.rs"]
mod cases;

use cases::tensor;
use nyxc::ir::{Attr, Attrs, Class, DType, Op, Tensor};
use nyxc::ops::reference::evaluate;
use nyxc::ops::registry;
use serde_json::Value;

fn attribute(value: &Value) -> Attr {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    let list = || value.as_array().unwrap().iter();
    match kind.as_str() {
        "i" => Attr::Int(value.as_i64().unwrap()),
        "is" => Attr::Ints(list().map(|v| v.as_i64().unwrap()).collect()),
        "f" => Attr::Float(value.as_f64().unwrap() as f32),
        "fs" => Attr::Floats(list().map(|v| v.as_f64().unwrap() as f32).collect()),
        "s" => Attr::Str(value.as_str().unwrap().to_owned()),
        "t" => Attr::Tensor(tensor(value).unwrap()),
        "d" => Attr::DType(value.as_str().unwrap().parse().unwrap()),
        other => unreachable!("{other}"),
    }
}

/// What is wrong with a result, if anything.
fn difference(given: &Tensor, expected: &Tensor) -> Option<String> {
    if given.ty() != expected.ty() {
        return Some(format!("{} for {}", given.ty(), expected.ty()));
    }
    if expected.dtype().class() != Class::Float {
        let (given, expected) = (given.to_i64s().unwrap(), expected.to_i64s().unwrap());
        return (given != expected).then(|| format!("{given:?} for {expected:?}"));
    }
    let limit = if expected.dtype() == DType::F16 { 1e-3 } else { 1e-5 };
    let (given, expected) = (given.to_f32s().unwrap(), expected.to_f32s().unwrap());
    let (mut error, mut norm) = (0.0f64, 1e-30f64);
    for (g, e) in given.iter().zip(expected.iter()) {
        if g == e || (g.is_nan() && e.is_nan()) {
            norm += if e.is_finite() { f64::from(*e).powi(2) } else { 0.0 };
            continue;
        }
        error += f64::from(g - e).powi(2);
        norm += f64::from(*e).powi(2);
    }
    let error = (error / norm).sqrt();
    (error.is_nan() || error > limit).then(|| {
        format!("relative L2 {error:e}: {:?} for {:?}", &given[..given.len().min(6)], &expected[..given.len().min(6)])
    })
}

fn check(case: &Value) -> Result<(), String> {
    let def = registry().by_onnx(case["op"].as_str().unwrap()).ok_or("is no operator")?;
    let attrs = Attrs(
        case["attrs"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), attribute(value))).collect(),
    );
    let inputs: Vec<Option<Tensor>> = case["inputs"].as_array().unwrap().iter().map(tensor).collect();
    let inputs: Vec<_> = inputs.iter().map(Option::as_ref).collect();
    let expected = case["outputs"].as_array().unwrap();
    def.check_attrs(&attrs).map_err(|fault| format!("attribute {} {}", fault.name, fault.problem))?;
    let given = evaluate(&Op::new(def, attrs), &inputs, expected.len()).map_err(|e| e.to_string())?;
    for (i, expected) in expected.iter().enumerate() {
        // An output that nobody asked for has no value.
        let Some(expected) = tensor(expected) else { continue };
        if let Some(difference) = difference(&given[i], &expected) {
            return Err(format!("output {i}: {difference}"));
        }
    }
    Ok(())
}

#[test]
fn operators_agree_with_onnx_runtime() {
    agree(include_str!("data/op_cases.json"));
}

fn agree(cases: &str) {
    let cases: Vec<Value> = serde_json::from_str(cases).unwrap();
    let mut failures = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        if let Err(error) = check(case) {
            let shapes: Vec<String> = case["inputs"]
                .as_array()
                .unwrap()
                .iter()
                .map(|v| tensor(v).map_or("absent".to_owned(), |t| t.ty().to_string()))
                .collect();
            failures.push(format!(
                "case {i}: {}({}) {}: {error}",
                case["op"].as_str().unwrap(),
                shapes.join(", "),
                case["attrs"]
            ));
        }
    }
    assert!(failures.is_empty(), "{} of {} cases fail\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// Operands that the standard has as f32 alone.
const NARROW: &[(&str, usize)] = &[("Resize", 2)];

/// The case's operator on these operands.
fn computed(case: &Value, inputs: &[Option<Tensor>]) -> Result<Vec<Tensor>, String> {
    let def = registry().by_onnx(case["op"].as_str().unwrap()).ok_or("is no operator")?;
    let attrs = Attrs(
        case["attrs"].as_object().unwrap().iter().map(|(name, value)| (name.clone(), attribute(value))).collect(),
    );
    let inputs: Vec<_> = inputs.iter().map(Option::as_ref).collect();
    let n_outputs = case["outputs"].as_array().unwrap().len();
    evaluate(&Op::new(def, attrs), &inputs, n_outputs).map_err(|e| e.to_string())
}

/// How much each element of the results of f64 changes for each unit that operand `slot` is moved, in steps of `size`.
fn rates(
    case: &Value,
    inputs: &[Option<Tensor>],
    slot: usize,
    size: f64,
    base: &[Tensor],
) -> Result<Vec<Vec<f64>>, String> {
    let moved = inputs[slot].as_ref().unwrap();
    let values = moved.to_f64s().unwrap();
    let way = |i: usize| f64::from((i as u32).wrapping_mul(2_654_435_761) >> 8 & 1023) / 1024.0 + 0.5;
    let sign = |v: f64| if v < 0.0 { -1.0 } else { 1.0 };
    let values: Vec<f64> = values.iter().enumerate().map(|(i, v)| v + sign(*v) * way(i) * size).collect();
    let mut inputs = inputs.to_vec();
    inputs[slot] = Some(Tensor::from_f64s(DType::F64, &moved.dims(), &values).unwrap());
    let given = computed(case, &inputs)?;
    let rate = |(given, base): (&Tensor, &Tensor)| {
        let (given, base) = (given.to_f64s().unwrap(), base.to_f64s().unwrap());
        given.iter().zip(&base).map(|(g, b)| (g - b) / size).map(|r| if r.is_finite() { r } else { 0.0 }).collect()
    };
    Ok(given.iter().zip(base).filter(|(_, base)| base.dtype() == DType::F64).map(rate).collect())
}

/// Whether operand `slot` moved by 2^-32 moves the results as one moved by 2^-14 does: what is rounded to f32 on the
/// way moves in no steps or in large ones.
fn is_narrowed(case: &Value, inputs: &[Option<Tensor>], slot: usize, base: &[Tensor]) -> Result<Option<f64>, String> {
    let fine = rates(case, inputs, slot, 2f64.powi(-32), base)?;
    let coarse = rates(case, inputs, slot, 2f64.powi(-14), base)?;
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    for ((fine, coarse), base) in fine.iter().zip(&coarse).zip(base.iter().filter(|t| t.dtype() == DType::F64)) {
        let apart = norm(&mut fine.iter().zip(coarse).map(|(a, b)| a - b));
        let size = norm(&mut base.to_f64s().unwrap().into_iter().filter(|v| v.is_finite()));
        if apart > 0.01 * norm(&mut coarse.iter().copied()) + 1e-4 * size {
            return Ok(Some(apart / norm(&mut coarse.iter().copied()).max(1e-30)));
        }
    }
    Ok(None)
}

#[test]
fn operators_of_f64_are_computed_in_f64() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/op_cases.json")).unwrap();
    let (mut failures, mut n_checked, mut checked) = (Vec::new(), 0, std::collections::BTreeSet::new());
    for (i, case) in cases.iter().enumerate() {
        let op = case["op"].as_str().unwrap();
        let is_narrow = |slot: usize| NARROW.contains(&(op, slot));
        let mut inputs: Vec<Option<Tensor>> = case["inputs"].as_array().unwrap().iter().map(tensor).collect();
        let is_float = |t: &Option<Tensor>| t.as_ref().is_some_and(|t| t.dtype() == DType::F32);
        let slots: Vec<usize> = (0..inputs.len()).filter(|&s| is_float(&inputs[s]) && !is_narrow(s)).collect();
        for &slot in &slots {
            let wide = |t: &Tensor| Tensor::from_f64s(DType::F64, &t.dims(), &t.to_f64s().unwrap()).unwrap();
            inputs[slot] = inputs[slot].as_ref().map(wide);
        }
        let mut fail = |slot: usize, what: String| {
            failures.push(format!("case {i}: {op} {} operand {slot}: {what}", case["attrs"]));
        };
        if slots.is_empty() {
            continue;
        }
        let base = match computed(case, &inputs) {
            Ok(base) => base,
            Err(error) => {
                fail(slots[0], error);
                continue;
            }
        };
        for (given, expected) in base.iter().zip(case["outputs"].as_array().unwrap()) {
            let Some(expected) = tensor(expected) else { continue };
            let given = if given.dtype() == DType::F64 && expected.dtype() == DType::F32 {
                Tensor::from_f32s(DType::F32, &given.dims(), &given.to_f32s().unwrap()).unwrap()
            } else {
                given.clone()
            };
            if let Some(difference) = difference(&given, &expected) {
                fail(slots[0], difference);
            }
        }
        for &slot in &slots {
            match is_narrowed(case, &inputs, slot, &base) {
                Ok(None) => {
                    n_checked += 1;
                    checked.insert(op);
                }
                Ok(Some(apart)) => fail(slot, format!("is narrowed: {apart:.3}")),
                Err(error) => fail(slot, error),
            }
        }
    }
    assert!(failures.is_empty(), "{} operands fail\n{}", failures.len(), failures.join("\n"));
    assert!(n_checked > 500 && checked.len() > 100, "{n_checked} operands of {} operators", checked.len());
}
