//! Models that nyxc writes, read by its own importer: each computes what the program of the same compilation does.

#![cfg(feature = "codegen")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use nyxc::export::{self, Style};
use nyxc::import::{DimBinding, ImportOptions, describe, import, import_bytes};
use nyxc::ir::{Graph, Level, Tensor, text};
use nyxc::ops::registry;
use nyxc::passes::Settings;
use nyxc::session::{Compile, Reference, compile, npz};
use nyxc::targets::Target;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

const STYLES: [Style; 2] = [Style::Qdq, Style::MatMulNBits];

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(file)
}

fn model(file: &str, dims: &[&str]) -> Graph {
    let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    import(&path(file), &ImportOptions { dims, ..ImportOptions::default() }, &registry()).unwrap().0
}

fn arrays(file: &str) -> BTreeMap<String, Tensor> {
    npz::read(std::fs::File::open(path(file)).unwrap(), &mut |_, _| true).unwrap()
}

/// The graph with formats made real, and the reference of the program.
fn quantized(graph: &Graph, settings: Settings) -> (Graph, Reference) {
    let options = Compile { settings, target: Target::shipped("lavapipe").unwrap(), n_threads: 1 };
    let compiled = compile(graph, &options, &|_, _, _| {}, None).unwrap();
    let reference = Reference::of(&compiled.program, 0, &registry()).unwrap();
    (compiled.quantized.alone().unwrap().clone(), reference)
}

/// The graph as a file, read again.
fn again(graph: &Graph, style: Style) -> Graph {
    again_with(graph, style, &[])
}

/// The same, where sizes of these names were left open.
fn again_with(graph: &Graph, style: Style, dims: &[&str]) -> Graph {
    let mut bytes = Vec::new();
    export::model(graph, style, None).unwrap().write(None, &mut bytes).unwrap();
    let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    import_bytes(&bytes, None, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).unwrap().0
}

fn operators(graph: &Graph, style: Style) -> Vec<String> {
    export::model(graph, style, None).unwrap().nodes().iter().map(|node| node.op_type.clone()).collect()
}

fn distance(given: &[Tensor], expected: &[Tensor]) -> f64 {
    assert_eq!(given.len(), expected.len());
    let one = |(given, expected): (&Tensor, &Tensor)| {
        assert_eq!(given.ty(), expected.ty());
        let (given, expected) = (given.to_f32s().unwrap(), expected.to_f32s().unwrap());
        let error: f64 = given.iter().zip(expected.iter()).map(|(g, e)| f64::from(g - e).powi(2)).sum();
        (error / expected.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>().max(1e-30)).sqrt()
    };
    given.iter().zip(expected).map(one).fold(0.0, |a, b| if b.is_nan() { b } else { a.max(b) })
}

fn check(graph: &Graph, policy: &str, inputs: &[Tensor], bound: f64) {
    let settings = Settings { policy: policy.parse().unwrap(), ..Settings::default() };
    let (real, program) = quantized(graph, settings);
    let expected = program.run(inputs).unwrap();
    for style in STYLES {
        let given = Reference::new(again(&real, style)).run(inputs).unwrap();
        let far = distance(&given, &expected);
        assert!(far <= bound, "{} {policy} {style:?}: {far:e}", graph.name);
    }
}

#[test]
fn the_small_models_are_exported_as_their_programs_compute() {
    let files: [(&str, &[&str]); 3] =
        [("fmnist-mlp", &["batch=8"]), ("magika", &[]), ("ppocr-cls", &["x.0=1", "x.2=48", "x.3=192"])];
    for (name, dims) in files {
        let graph = model(&format!("{name}.onnx"), dims);
        let given = arrays(&format!("{name}.inputs.npz"));
        let inputs: Vec<Tensor> = graph
            .inputs()
            .iter()
            .map(|id| {
                let port = graph.value(id.out(0));
                let given = &given[&port.name];
                let n = port.ty.bytes().unwrap() as usize;
                Tensor::from_bytes(port.ty.clone(), given.bytes().unwrap()[..n].to_vec()).unwrap()
            })
            .collect();
        check(&graph, "uniform:w4a32", &inputs, 1e-5);
        check(&graph, "uniform:w8a16:c", &inputs, 1e-2);
    }
}

#[test]
fn every_format_is_exported_as_its_program_computes() {
    let graph = model("fmnist-mlp.onnx", &["batch=8"]);
    let inputs = vec![arrays("fmnist-mlp.inputs.npz")["image"].clone()];
    for format in ["f32", "w16a32", "w8a32", "w8a32:c", "w4a32:g64", "w8a8", "w4a8:g64", "w8a8:c"] {
        check(&graph, &format!("uniform:{format}"), &inputs, 1e-5);
    }
    // Part of the rows in one format and part in another, as a budget wants it.
    check(&graph, "uniform:f16/w4:r100", &inputs, 1e-2);
    check(&graph, "uniform:w8a32/w4:g64:r9", &inputs, 1e-5);
}

#[test]
fn products_take_the_forms_that_runtimes_fuse() {
    let graph = model("fmnist-mlp.onnx", &["batch=8"]);
    let settings = Settings { policy: "uniform:w4a32".parse().unwrap(), ..Settings::default() };
    let (real, _) = quantized(&graph, settings);
    let qdq = operators(&real, Style::Qdq);
    let count = |ops: &[String], name: &str| ops.iter().filter(|op| *op == name).count();
    assert_eq!((count(&qdq, "DequantizeLinear"), count(&qdq, "MatMul"), count(&qdq, "Transpose")), (3, 3, 0));
    let packed = operators(&real, Style::MatMulNBits);
    assert_eq!((count(&packed, "MatMulNBits"), count(&packed, "DequantizeLinear")), (3, 0));
}

#[test]
fn a_model_keeps_what_its_author_noted() {
    let about = describe(&path("magika.onnx")).unwrap();
    let exported = export::model(&model("magika.onnx", &[]), Style::Qdq, Some(&about)).unwrap();
    let mut bytes = Vec::new();
    exported.write(None, &mut bytes).unwrap();
    let again = nyxc::import::describe_bytes(&bytes).unwrap();
    assert_eq!((&again.metadata, &again.doc, &again.domain), (&about.metadata, &about.doc, &about.domain));
    assert_eq!(again.name, about.name);
    let names = |found: &nyxc::import::Description| -> Vec<String> {
        found.inputs.iter().chain(&found.outputs).map(|port| port.name.clone()).collect()
    };
    assert_eq!(names(&again), names(&about));
}

#[test]
fn data_beside_the_model_are_those_within_it() {
    let graph = model("fmnist-mlp.onnx", &["batch=8"]);
    let exported = export::model(&graph, Style::Qdq, None).unwrap();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("export-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut data = Vec::new();
    exported.write_data(&mut data).unwrap();
    std::fs::write(folder.join("mlp.onnx.data"), &data).unwrap();
    let mut bytes = Vec::new();
    exported.write(Some("mlp.onnx.data"), &mut bytes).unwrap();
    assert!(bytes.len() < 8192 && data.len() > 900_000, "{} {}", bytes.len(), data.len());
    let (beside, _) = import_bytes(&bytes, Some(&folder), &ImportOptions::default(), &registry()).unwrap();
    let within = again(&graph, Style::Qdq);
    let _ = std::fs::remove_dir_all(&folder);
    assert_eq!(beside.to_string(), within.to_string());
}

fn graph(body: &str) -> Graph {
    graph_where("", body)
}

/// A graph with ranges of its sizes.
fn graph_where(ranges: &str, body: &str) -> Graph {
    let graph = text::parse(&format!("graph g onnx{ranges}\n{body}"), &registry(), &|_, _| None).unwrap();
    graph.verify().unwrap();
    graph
}

#[test]
fn sizes_that_change_are_computed_from_shapes() {
    let graph = graph_where(
        " where n in 1..16",
        "  %x = input : f32[n,6]
  %to = sizes() {value=d[2*n,3]} : i64[2]
  %y = reshape(%x, %to) : f32[2*n,3]
  output %y
",
    );
    let x = Tensor::from_f32s(nyxc::ir::DType::F32, &[5, 6], &(0..30).map(|v| v as f32).collect::<Vec<_>>()).unwrap();
    let given = Reference::new(again_with(&graph, Style::Qdq, &["n=1..16"])).run(std::slice::from_ref(&x)).unwrap();
    assert_eq!(given[0].dims(), [10, 3]);
    assert_eq!(given, Reference::new(graph).run(&[x]).unwrap());
}

#[test]
fn floats_of_two_types_become_the_wider_one_where_they_meet() {
    let mixed = graph(
        "  %x = input : f32[4]
  %h = input : f16[4]
  %s = add(%x, %h) : f32[4]
  %y = store(%s) {dtype=f16} : f16[4]
  output %y
",
    );
    assert_eq!(operators(&mixed, Style::Qdq), ["Cast", "Add", "Clip", "Cast"]);
    let inputs = [
        Tensor::from_f32s(nyxc::ir::DType::F32, &[4], &[1.0, -2.5, 70000.0, 0.1]).unwrap(),
        Tensor::from_f32s(nyxc::ir::DType::F16, &[4], &[0.5, 1.0, 2.0, 3.0]).unwrap(),
    ];
    let given = Reference::new(again(&mixed, Style::Qdq)).run(&inputs).unwrap();
    assert_eq!(given, Reference::new(mixed).run(&inputs).unwrap());
}

#[test]
fn what_onnx_cannot_say_is_refused_by_name() {
    let mut kernels = graph("  %x = input : f32[4]\n  %y = relu(%x) : f32[4]\n  output %y\n");
    kernels.level = Level::Core;
    let error = export::model(&kernels, Style::Qdq, None).unwrap_err();
    assert!(error.to_string().contains("level core"), "{error}");
    let states = graph(
        "  %x = input : f32[4]
  %s = state fill [0.0] : f32[4]
  %y = add(%x, %s) : f32[4]
  %s.1 = state_store(%s, %y) : f32[4]
  output %y
  state %s = %s.1
",
    );
    let error = export::model(&states, Style::Qdq, None).unwrap_err();
    assert!(error.node() == "s" && error.to_string().contains("states"), "{error}");
}
