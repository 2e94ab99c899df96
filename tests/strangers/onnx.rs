//! The reader of `.onnx` files.

use super::child::{Case, Item, check};
use super::mutate::mutants;
use super::pb::*;
use super::{FEW, MANY};

const COMPILE: &[&str] = &["compile", "m.onnx", "-o", "out.nyx", "--target", "lavapipe"];
const VERIFY: &[&str] = &["verify", "m.onnx"];
const REFUSED: &[i32] = &[3];
/// A mutant may be a good model, or a good one that does not fit.
const ANY: &[i32] = &[0, 3, 4];

fn damaged(n: usize, seed: u64) -> impl Iterator<Item = Case> {
    let mlp = std::fs::read(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fmnist-mlp.onnx")).unwrap();
    let seeds = vec![small(), small(), small(), mlp];
    mutants(seeds, n, seed).map(|(name, at, bytes)| {
        let args = if at == 3 { VERIFY } else { COMPILE };
        Case::of(name, "m.onnx", bytes, args, ANY)
    })
}

fn hostile(name: &str, graph: &[Vec<u8>], codes: &'static [i32], says: &'static str) -> Case {
    Case::of(name, "m.onnx", model(graph.concat()), COMPILE, codes).says(says)
}

fn refused(name: &str, graph: &[Vec<u8>], says: &'static str) -> Case {
    hostile(name, graph, REFUSED, says)
}

/// A node with constant operands, whose result is the output beside that of a good one.
fn folded(name: &str, op: &str, constants: &[Vec<u8>], attrs: &[Vec<u8>], says: &'static str) -> Case {
    let names: Vec<String> = (0..constants.len()).map(|i| format!("c{i}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let graph = [node(op, &names, &["y"], attrs), constants.concat(), output("y")];
    hostile(name, &graph, &[3, 4], says)
}

/// A model-local function as a field of a model.
fn function(name: &str, nodes: &[Vec<u8>]) -> Vec<u8> {
    blob(25, [blob(1, name), blob(4, "x"), blob(5, "y"), blob(10, "loc"), nodes_of_function(nodes)].concat())
}

/// Nodes are field 1 of a graph and field 7 of a function.
fn nodes_of_function(nodes: &[Vec<u8>]) -> Vec<u8> {
    nodes.iter().flat_map(|fields| blob(7, fields)).collect()
}

/// The fields of a node that calls a function.
fn calls(name: &str, from: &str, to: &str) -> Vec<u8> {
    [node_fields(name, &[from], &[to]), blob(7, "loc")].concat()
}

fn functions() -> Vec<Case> {
    let case = |name: &str, top: &str, functions: Vec<Vec<u8>>, says| {
        let graph = [blob(1, calls(top, "x", "y")), input("x", &[2]), output("y")].concat();
        Case::of(name, "m.onnx", [model(graph), functions.concat()].concat(), COMPILE, REFUSED).says(says)
    };
    let relu = |from: &str, to: &str| node_fields("Relu", &[from], &[to]);
    let with = |fields: Vec<u8>| {
        blob(25, [blob(1, "f"), blob(4, "x"), blob(5, "y"), blob(10, "loc"), blob(7, relu("x", "y")), fields].concat())
    };
    // A default is field 11 of a function.
    let attr_default = |name: &str| blob(11, [blob(1, name), int(3, 1), int(20, 2)].concat());
    let deep = (0..200).fold(Vec::new(), |inner, _| blob(6, blob(1, blob(5, inner))));
    let below = |i: usize| format!("f{}", i - 1);
    let doubling = (0..64).map(|i| {
        let nodes =
            if i == 0 { vec![relu("x", "y")] } else { vec![calls(&below(i), "x", "t"), calls(&below(i), "t", "y")] };
        function(&format!("f{i}"), &nodes)
    });
    let chain = (0..5000).map(|i| {
        let nodes = if i == 0 { relu("x", "y") } else { calls(&below(i), "x", "y") };
        function(&format!("f{i}"), &[nodes])
    });
    let long = "n".repeat(1 << 20);
    let wide: Vec<Vec<u8>> = (0..2000).map(|i| calls("f", "x", &format!("y{i}"))).chain([relu("x", "y")]).collect();
    let grows = "more than 250000 nodes of functions, subgraphs and sequences written out";
    vec![
        case("functions that double 63 times", "f63", doubling.collect(), grows),
        case("functions 5,000 deep", "f4999", chain.collect(), "nest deeper than 64"),
        case("a function that calls itself", "f", vec![function("f", &[calls("f", "x", "y")])], "calls itself"),
        case(
            "functions that call each other",
            "f",
            vec![function("f", &[calls("g", "x", "y")]), function("g", &[calls("f", "x", "y")])],
            "calls itself",
        ),
        case(
            "a name of a megabyte in thousands of copies",
            "g",
            vec![function("f", &[relu("x", &long), relu(&long, "y")]), function("g", &wide)],
            grows,
        ),
        case("two functions of one name", "f", vec![function("f", &[relu("x", "y")]); 2], "is there twice"),
        case("an overload that is no text", "f", vec![with(blob(13, [0xff; 9]))], "not an ONNX model"),
        case("an overload that is a number", "f", vec![with(int(13, 7))], "not an ONNX model"),
        case("an overload that nothing has", "f", vec![with(blob(13, "b"))], "unknown operator"),
        case(
            "a default that is no attribute",
            "f",
            vec![with(blob(11, [0xff; 9]))],
            "loc::f has a default that is no attribute",
        ),
        case(
            "a default within itself, 200 times",
            "f",
            vec![with(blob(11, deep))],
            "loc::f has a default that is no attribute",
        ),
        case("a default that is given twice", "f", vec![with(attr_default("k").repeat(2))], "\"k\" is given twice"),
    ]
}

fn tensors() -> Vec<Case> {
    let relu = || [node("Relu", &["w"], &["y"], &[]), output("y")].concat();
    let weight = |dims: &[i64], raw: &[u8]| vec![relu(), blob(5, tensor("w", 1, dims, raw))];
    vec![
        refused("huge sizes", &weight(&[1 << 62, 4], b"1234"), "tensor \"w\""),
        refused("a product that overflows to nothing", &weight(&[1 << 32, 1 << 32], b"1234"), "tensor \"w\""),
        refused(
            "a product that overflows to four bytes",
            &weight(&[(1 << 62) + 1, 4], b"0123456789abcdef"),
            "tensor \"w\"",
        ),
        refused("zero among huge sizes", &weight(&[1 << 62, 1 << 62, 0], b""), "\"w\""),
        refused("a negative size", &weight(&[-1], b"1234"), "dimension -1 is no size"),
        refused("the smallest integer as a size", &weight(&[i64::MIN], b"1234"), "is no size"),
        refused("too little data", &weight(&[3], b"1234"), "needs 12 bytes, 4 given"),
        refused("a thousand axes", &weight(&[2; 1000], b"1234"), "tensor \"w\""),
        refused("an unknown element type", &[relu(), blob(5, tensor("w", 4711, &[1], b"1234"))], "4711"),
        refused("a tensor of text", &[relu(), blob(5, tensor("w", 8, &[1], b""))], "text"),
        refused(
            "two initializers of one name",
            &[weight(&[1], b"1234").concat(), weight(&[1], b"1234").concat()],
            "\"w\"",
        ),
        refused("a sparse initializer", &[relu(), blob(15, blob(1, tensor("w", 1, &[1], b"1234")))], "sparse"),
    ]
}

fn graphs() -> Vec<Case> {
    let mut nested = node("Relu", &["x"], &["y"], &[]);
    for _ in 0..500 {
        nested =
            [node("If", &["c"], &["y"], &[attr_graph("then_branch", [nested.clone(), output("y")].concat())])].concat();
    }
    let twice = [node("Relu", &["x"], &["y"], &[]), node("Relu", &["x"], &["y"], &[]), input("x", &[1]), output("y")];
    let cycle =
        [node("Add", &["x", "b"], &["a"], &[]), node("Relu", &["a"], &["b"], &[]), input("x", &[1]), output("b")];
    let own = [node("Add", &["x", "y"], &["y"], &[]), input("x", &[1]), output("y")];
    let model_of = |name: &str, bytes: Vec<u8>, says| Case::of(name, "m.onnx", bytes, COMPILE, REFUSED).says(says);
    vec![
        refused("500 nested Ifs", &[nested, input("x", &[1]), output("y")], "m.onnx"),
        refused("a circle", &cycle, "topological order"),
        refused("a node that feeds itself", &own, "\"y\""),
        refused("a value produced twice", &twice, "produced twice"),
        refused(
            "an output listed twice",
            &[node("Relu", &["x"], &["y"], &[]), input("x", &[1]), output("y"), output("y")],
            "listed twice",
        ),
        refused(
            "an input listed twice",
            &[node("Relu", &["x"], &["y"], &[]), input("x", &[1]), input("x", &[1]), output("y")],
            "\"x\"",
        ),
        refused("an output that nothing produces", &[input("x", &[1]), output("y")], "\"y\""),
        refused("a node without names", &[node("Relu", &[], &[], &[]), input("x", &[1]), output("x")], "m.onnx"),
        refused("text that is no UTF-8", &[blob(1, blob(1, [0xff, 0xfe]))], "m.onnx"),
        model_of("nothing", Vec::new(), "opset"),
        model_of("no graph", blob(8, int(2, 21)), "no graph"),
        model_of(
            "an opset of the far future",
            [blob(8, int(2, i64::MAX)), blob(7, input("x", &[1]))].concat(),
            "9223372036854775807",
        ),
        model_of("a field of 2^63 bytes", [varint(7 << 3 | 2), varint(1 << 63), vec![0; 16]].concat(), "m.onnx"),
        model_of("a number without end", [varint(1 << 3), vec![0xff; 64]].concat(), "m.onnx"),
        Case::of("a folder", "other", Vec::new(), COMPILE, &[6]).with("m.onnx", Item::Folder),
        Case::of("no file", "other", Vec::new(), COMPILE, &[6]).says("m.onnx"),
    ]
}

/// Attributes of another kind than their operator's, which reading them by kind would overlook.
fn kinds() -> Vec<Case> {
    let one = |op: &str, attr: Vec<u8>, says| {
        let graph = [
            blob(1, [node_fields(op, &["x"], &["y"]), blob(3, "culprit"), attr].concat()),
            input("x", &[2, 3]),
            output("y"),
        ];
        Case::of(format!("{op}: {says}"), "m.onnx", model(graph.concat()), COMPILE, REFUSED).says(says)
    };
    vec![
        one(
            "Transpose",
            attr_str("perm", "10"),
            r#"node "culprit" (Transpose, opset 21): attribute "perm" is a text, expected a list of integers"#,
        ),
        one("Transpose", attr_int("perm", 1), r#"attribute "perm" is an integer, expected a list of integers"#),
        one("Softmax", attr_float("axis", 0.0), r#"attribute "axis" is a float, expected an integer"#),
        one("LeakyRelu", attr_int("alpha", 1), r#"attribute "alpha" is an integer, expected a float"#),
        one("Gelu", attr_int("approximate", 1), r#"attribute "approximate" is an integer, expected a text"#),
        one(
            "ReduceMax",
            attr_ints("keepdims", &[0]),
            r#"attribute "keepdims" is a list of integers, expected an integer"#,
        ),
        one(
            "Elu",
            attr_tensor("alpha", tensor("", 1, &[], &[0; 4])),
            r#"attribute "alpha" is a tensor, expected a float"#,
        ),
        one("Cast", attr_str("to", "FLOAT"), r#"node "culprit" (Cast, opset 21): attribute to is no integer"#),
        one(
            "Flatten",
            attr_graph("axis", output("x")),
            r#"node "culprit" (Flatten, opset 21): attribute "axis" is a graph, expected an integer"#,
        ),
    ]
}

fn operators() -> Vec<Case> {
    const MAX: i64 = i64::MAX;
    const MIN: i64 = i64::MIN;
    let x = || f32s("c0", &[2, 3], &[1.5, -2.0, 3.25, 0.5, 7.0, -9.5]);
    let image = || f32s("c0", &[1, 1, 3, 3], &[0.5, -1.5, 2.0, 3.5, -4.0, 5.5, 6.0, 7.5, -8.0]);
    let kernel = || f32s("c1", &[1, 1, 1, 1], &[0.75]);
    let ints = |slot: usize, values: &[i64]| i64s(&format!("c{slot}"), &[values.len() as i64], values);
    let scalar = |slot: usize, value: i64| i64s(&format!("c{slot}"), &[], &[value]);
    let mut cases = vec![
        folded("ConstantOfShape of 2^40", "ConstantOfShape", &[ints(0, &[1 << 40])], &[], ""),
        folded("ConstantOfShape that overflows", "ConstantOfShape", &[ints(0, &[MAX, MAX, 2])], &[], "y"),
        folded("ConstantOfShape of a negative size", "ConstantOfShape", &[ints(0, &[-5])], &[], "y"),
        folded("Expand to 2^40", "Expand", &[x(), ints(1, &[1 << 38, 2, 3])], &[], ""),
        folded("Expand that overflows", "Expand", &[x(), ints(1, &[MAX, 2, 3])], &[], ""),
        folded("Tile by 2^40", "Tile", &[x(), ints(1, &[1 << 20, 1 << 20])], &[], ""),
        folded("Tile that overflows", "Tile", &[x(), ints(1, &[MAX, MAX])], &[], ""),
        folded("Tile by a negative count", "Tile", &[x(), ints(1, &[-1, 1])], &[], "y"),
        folded("Range of 2^40", "Range", &[scalar(0, 0), scalar(1, 1 << 40), scalar(2, 1)], &[], ""),
        folded("Range over all integers", "Range", &[scalar(0, MIN), scalar(1, MAX), scalar(2, 1)], &[], ""),
        folded("Range that stands still", "Range", &[scalar(0, 0), scalar(1, 9), scalar(2, 0)], &[], "y"),
        folded("Pad by 2^40", "Pad", &[x(), ints(1, &[0, 0, 0, 1 << 40])], &[], ""),
        folded("Pad that overflows", "Pad", &[x(), ints(1, &[MAX, MAX, MAX, MAX])], &[], ""),
        folded("Pad that takes everything away", "Pad", &[x(), ints(1, &[MIN, MIN, MIN, MIN])], &[], "y"),
        folded("Reshape to sizes that overflow", "Reshape", &[x(), ints(1, &[MAX, MAX])], &[], "y"),
        folded("Reshape to two rests", "Reshape", &[x(), ints(1, &[-1, -1])], &[], "y"),
        folded("Transpose by a permutation that is none", "Transpose", &[x()], &[attr_ints("perm", &[1, 1])], "y"),
        folded(
            "Concat along an axis that is none",
            "Concat",
            &[x(), f32s("c1", &[1], &[2.5])],
            &[attr_int("axis", MIN)],
            "y",
        ),
        folded("Unsqueeze far outside", "Unsqueeze", &[x(), ints(1, &[MAX])], &[], "y"),
        folded("TopK of more than there are", "TopK", &[x(), ints(1, &[MAX])], &[], "y"),
        folded(
            "OneHot of 2^40",
            "OneHot",
            &[ints(0, &[1]), scalar(1, 1 << 40), f32s("c2", &[2], &[0.25, 1.75])],
            &[],
            "",
        ),
        folded("EyeLike of nothing known", "EyeLike", &[scalar(0, 5)], &[attr_int("k", MIN)], "y"),
        folded(
            "Conv with pads that overflow",
            "Conv",
            &[image(), kernel()],
            &[attr_ints("pads", &[MAX, MAX, MAX, MAX])],
            "y",
        ),
        folded(
            "Conv with the largest stride",
            "Conv",
            &[image(), kernel()],
            &[attr_ints("strides", &[MAX, MAX]), attr_int("group", MAX)],
            "y",
        ),
        folded("Conv with a stride of none", "Conv", &[image(), kernel()], &[attr_ints("strides", &[0, 0])], "y"),
        folded(
            "Conv with the smallest dilation",
            "Conv",
            &[image(), kernel()],
            &[attr_ints("dilations", &[MIN, MIN])],
            "y",
        ),
        folded("MaxPool with a huge window", "MaxPool", &[image()], &[attr_ints("kernel_shape", &[MAX, MAX])], "y"),
        folded(
            "ConvTranspose to 2^60",
            "ConvTranspose",
            &[image(), kernel()],
            &[attr_ints("strides", &[1 << 60, 1 << 60])],
            "",
        ),
        folded("DepthToSpace by the largest block", "DepthToSpace", &[image()], &[attr_int("blocksize", MAX)], "y"),
        folded(
            "Resize to 2^40",
            "Resize",
            &[image(), f32s("c1", &[0], &[]), f32s("c2", &[4], &[1.0, 1.0, 1e12, 1e12])],
            &[],
            "",
        ),
        folded(
            "Resize by NaN",
            "Resize",
            &[image(), f32s("c1", &[0], &[]), f32s("c2", &[4], &[1.0, 1.0, f32::NAN, f32::INFINITY])],
            &[],
            "y",
        ),
    ];
    // A Slice outside is legal, and gives nothing or all.
    let slice = |name: &str, start: i64, end: i64, step: i64| {
        let graph = [
            node("Slice", &["c0", "c1", "c2", "c3", "c4"], &["y"], &[]),
            x(),
            ints(1, &[start]),
            ints(2, &[end]),
            ints(3, &[1]),
            ints(4, &[step]),
            output("y"),
        ];
        hostile(name, &graph, ANY, "")
    };
    cases.push(slice("Slice of everything, backwards", MAX, MIN, -1));
    cases.push(slice("Slice in the smallest step", MAX, MIN, MIN));
    cases.push(slice("Slice in the largest step", MIN, MAX, MAX));
    cases.push(slice("Slice that stands still", 0, 2, 0));
    cases
}

#[test]
fn hostile_models_are_refused() {
    check("onnx-hostile", tensors().into_iter().chain(graphs()).chain(kinds()).chain(operators()).chain(functions()));
}

#[test]
fn damaged_models_are_refused_or_good() {
    check("onnx-few", damaged(FEW, 1));
}

/// `cargo test --test strangers -- --ignored onnx`
#[test]
#[ignore = "a thousand files: make soak"]
fn a_thousand_damaged_models_are_refused_or_good() {
    check("onnx-many", damaged(MANY, 2));
}
