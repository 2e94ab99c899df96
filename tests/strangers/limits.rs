//! Small files that would take hours or gigabytes: chains, doublings and repeated names.

use super::child::{Case, check};
use super::pb::*;

const VERIFY: &[&str] = &["verify", "m.onnx"];

fn case(name: &str, graph: Vec<u8>, codes: &'static [i32]) -> Case {
    Case::of(name, "m.onnx", model(graph), VERIFY, codes)
}

/// Parts of nothing, two bytes each, and what protobuf makes of them.
fn bomb(name: &str, field: u64, n: usize) -> Case {
    case(name, blob(field, []).repeat(n), &[3])
}

#[test]
fn small_files_stay_small() {
    let attributes = blob(1, [blob(4, "Relu"), blob(5, []).repeat(200_000)].concat());
    let mut same_names = input("x", &[4]);
    for i in 0..20_000 {
        let (from, to) = (if i == 0 { "x".to_owned() } else { format!("v{}", i - 1) }, format!("v{i}"));
        same_names.extend(blob(1, [blob(1, from), blob(2, to), blob(3, "same"), blob(4, "Relu")].concat()));
    }
    same_names.extend(output("v19999"));
    // Each step halves an open size and adds it to a third of itself: its text doubles with each.
    let mut doubling = input("a0", &[1, 1, -7, 8]);
    for i in 0..60 {
        let (from, half, third, to) = (format!("a{i}"), format!("h{i}"), format!("t{i}"), format!("a{}", i + 1));
        for (out, n) in [(&half, 2), (&third, 3)] {
            let window = [attr_ints("kernel_shape", &[n, 1]), attr_ints("strides", &[n, 1])];
            doubling.extend(node("MaxPool", &[&from], &[out], &window));
        }
        doubling.extend(node("Concat", &[&half, &third], &[&to], &[attr_int("axis", 2)]));
    }
    doubling.extend(output("a60"));
    let mut deep = input("a0", &[1, 1, -7, 8]);
    for i in 0..5000 {
        let window =
            [attr_ints("kernel_shape", &[2, 1]), attr_ints("strides", &[2, 1]), attr_ints("pads", &[1, 0, 1, 0])];
        deep.extend(node("MaxPool", &[&format!("a{i}")], &[&format!("a{}", i + 1)], &window));
    }
    deep.extend(output("a5000"));
    let defaults = blob(25, [blob(1, "f"), blob(10, "loc"), blob(11, []).repeat(200_000)].concat());
    let defaults = [model([input("x", &[1]), output("x")].concat()), defaults].concat();
    let cases = vec![
        bomb("100,000 nodes of nothing", 1, 100_000),
        bomb("100,000 initializers of nothing", 5, 100_000),
        bomb("100,000 inputs of nothing", 11, 100_000),
        case("10,000 descriptions of nothing", blob(13, []).repeat(10_000), &[0]),
        case("200,000 attributes of nothing", attributes, &[3]).says("protobuf messages"),
        Case::of("200,000 defaults of nothing", "m.onnx", defaults, VERIFY, &[3]).says("protobuf messages"),
        case("20,000 nodes of one name", same_names, &[0]),
        case("a size that doubles 60 times", doubling, &[0, 3]),
        case("5,000 divisions of one size", deep, &[0, 3]),
    ];
    check("limits", cases.into_iter());
}
