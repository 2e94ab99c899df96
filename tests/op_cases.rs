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
