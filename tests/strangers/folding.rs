//! Folding makes no tensor larger than 64 MiB or twice its operands, whatever a model asks for, and importing such a
//! model does not make it.

use super::child::{Case, baseline_bytes, check, nyxc};
use super::folder::Folder;
use super::pb::*;
use std::process::Command;

const LIMIT_BYTES: u64 = 64 << 20;

/// Models that ask for a constant of `n` million floats, a few hundred bytes each.
fn models(n: i64) -> Vec<(&'static str, Vec<u8>)> {
    let n = n * 1_000_000;
    let one = |name: &str, v: f32| f32s(name, &[1], &[v]);
    let ints = |name: &str, v: &[i64]| i64s(name, &[v.len() as i64], v);
    // The result is added to an input, so that the model is a good one.
    let wrap = |nodes: Vec<u8>| {
        model([nodes, node("Add", &["x", "big"], &["y"], &[]), input("x", &[1]), output("y")].concat())
    };
    let value = attr_tensor("value", tensor("", 1, &[1], &1.5f32.to_le_bytes()));
    vec![
        ("ConstantOfShape", wrap([node("ConstantOfShape", &["n"], &["big"], &[value]), ints("n", &[n])].concat())),
        ("Expand", wrap([node("Expand", &["c", "n"], &["big"], &[]), one("c", 2.5), ints("n", &[n])].concat())),
        ("Tile", wrap([node("Tile", &["c", "n"], &["big"], &[]), one("c", -0.75), ints("n", &[n])].concat())),
        ("Pad", wrap([node("Pad", &["c", "n"], &["big"], &[]), one("c", 3.5), ints("n", &[0, n])].concat())),
        (
            "Range",
            wrap(
                [
                    node("Range", &["a", "b", "d"], &["ints"], &[]),
                    node("Cast", &["ints"], &["big"], &[attr_int("to", 1)]),
                    i64s("a", &[], &[0]),
                    i64s("b", &[], &[n]),
                    i64s("d", &[], &[1]),
                ]
                .concat(),
            ),
        ),
        (
            "Expand, then Concat of it with itself",
            wrap(
                [
                    node("Expand", &["c", "n"], &["e"], &[]),
                    node("Concat", &["e", "e", "e", "e"], &["f"], &[attr_int("axis", 0)]),
                    node("Concat", &["f", "f", "f", "f"], &["big"], &[attr_int("axis", 0)]),
                    one("c", 1.25),
                    ints("n", &[n / 16]),
                ]
                .concat(),
            ),
        ),
        (
            "a product of a column and a row",
            wrap(
                [
                    f32s("a", &[1000, 1], &(0..1000).map(|i| (i as f32).sin()).collect::<Vec<_>>()),
                    node("Expand", &["c", "n"], &["b"], &[]),
                    node("MatMul", &["a", "b"], &["m"], &[]),
                    node("Reshape", &["m", "flat"], &["big"], &[]),
                    one("c", 0.5),
                    ints("n", &[1, n / 1000]),
                    ints("flat", &[-1]),
                ]
                .concat(),
            ),
        ),
    ]
}

/// A range always becomes a constant, so a large one is refused where it stands.
fn is_refused_range(name: &str, err: &str) -> bool {
    name == "Range" && err.contains("(Range, opset 21)") && err.contains("67108864 bytes")
}

/// The bytes of every constant in a text: the number before `B` at the end of its line.
fn constants(text: &str) -> Vec<u64> {
    let lines = text.lines().filter(|l| l.contains(" = const "));
    lines
        .map(|l| {
            l.rsplit(' ')
                .next()
                .and_then(|b| b.strip_suffix('B'))
                .and_then(|b| b.parse().ok())
                .unwrap_or_else(|| panic!("{l}"))
        })
        .collect()
}

#[test]
fn no_constant_is_folded_to_more_than_the_limit() {
    let folder = Folder::new("folding");
    // 17.2 million floats are just over 64 MiB; 40 million are 160 MB.
    for (name, bytes) in models(40).into_iter().chain(models(18)) {
        let path = folder.0.join("m.onnx");
        std::fs::write(&path, &bytes).unwrap();
        let args = ["pass", "fold_constants,decompose,fold_constants,merge_duplicates,fuse,fold_constants"];
        let done = Command::new(env!("CARGO_BIN_EXE_nyxc")).args(args).arg(&path).output().unwrap();
        let (text, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        if is_refused_range(name, &err) {
            continue;
        }
        assert!(done.status.success(), "{name}: {err}");
        let found = constants(&text);
        assert!(found.iter().all(|&n| n <= LIMIT_BYTES), "{name}: constants of {found:?} bytes\n{text}");
        // The model is still the one that was asked for.
        assert!(text.contains("output %y"), "{name}: {text}");
    }
}

#[test]
fn many_constants_below_the_limit_do_not_add_up() {
    // A thousand constants of 40 MB each, from a file of 70 kB.
    let mut graph = f32s("c", &[1], &[2.5]);
    for i in 0..1000 {
        graph.extend(i64s(&format!("n{i}"), &[1], &[10_000_000 + i]));
        graph.extend(node("Expand", &["c", &format!("n{i}")], &[&format!("e{i}")], &[]));
        graph.extend(output(&format!("e{i}")));
    }
    let folder = Folder::new("adding-up");
    std::fs::write(folder.0.join("m.onnx"), model(graph)).unwrap();
    let done = nyxc(&["pass", "fold_constants", "m.onnx"].map(str::to_owned), &folder.0, &folder.0);
    assert!(done.status.success(), "{}", done.err);
    assert!(done.rss_bytes < 2 << 30, "{} bytes", done.rss_bytes);
}

#[test]
fn doubling_does_not_add_up() {
    // Each result is twice its operand, which the limit for one result allows: 1 MB becomes 1 TB in twenty steps.
    let mut graph =
        [node("Expand", &["c", "n"], &["e0"], &[]), f32s("c", &[1], &[2.5]), i64s("n", &[1], &[250_000])].concat();
    for i in 0..20 {
        let (from, to) = (format!("e{i}"), format!("e{}", i + 1));
        graph.extend(node("Concat", &[&from, &from], &[&to], &[attr_int("axis", 0)]));
    }
    graph.extend(output("e20"));
    let folder = Folder::new("doubling");
    std::fs::write(folder.0.join("m.onnx"), model(graph)).unwrap();
    let done = nyxc(&["pass", "fold_constants", "m.onnx"].map(str::to_owned), &folder.0, &folder.0);
    assert!(done.status.success(), "{}", done.err);
    // 1 GiB of growth at most, and one result being made.
    assert!(done.rss_bytes < 3 << 30, "{} bytes", done.rss_bytes);
}

#[test]
fn importing_a_model_of_huge_constants_does_not_make_them() {
    let folder = Folder::new("import");
    let baseline = baseline_bytes(&folder);
    for (name, bytes) in models(40).into_iter().chain(models(4000)) {
        std::fs::write(folder.0.join("m.onnx"), &bytes).unwrap();
        for command in ["print", "verify", "inspect"] {
            let done = nyxc(&[command, "m.onnx"].map(str::to_owned), &folder.0, &folder.0);
            // Some are refused for their size, by name.
            let is_refused = done.status.code() == Some(3) && done.err.contains("node \"");
            assert!(done.status.success() || is_refused, "{name}: {}", done.err);
            let limit = baseline + 10 * bytes.len() as u64 + 100_000_000;
            assert!(done.rss_bytes < limit, "{command} of {name} took {} bytes, baseline {baseline}", done.rss_bytes);
        }
    }
}

#[test]
fn compiling_a_model_of_huge_constants_refuses_them() {
    let args = ["compile", "m.onnx", "-o", "out.nyx", "--target", "lavapipe", "--budget", "64M"];
    // 64 GB of constants from a few hundred bytes.
    check("folding", models(16_000).into_iter().map(|(name, bytes)| Case::of(name, "m.onnx", bytes, &args, &[3, 4])));
}
