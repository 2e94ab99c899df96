//! Real models, and damaged ones.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says aloud what it skips")]

use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn path(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("NYXC_MODELS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/models")), PathBuf::from);
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    println!("SKIPPED: {} is not here", path.display());
    None
}

fn read(name: &str, dims: &[&str]) -> Option<(Graph, ImportReport)> {
    let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    let registry = bodies::registry();
    match import(&path(name)?, &ImportOptions { dims, ..ImportOptions::default() }, &registry) {
        Ok((graph, report)) => {
            graph.verify().unwrap_or_else(|e| panic!("{name}: {e}"));
            reads_back(&graph, &registry);
            Some((graph, report))
        }
        Err(error) if error.is_unknown_operator() => {
            println!("SKIPPED: {name}: {error}");
            None
        }
        Err(error) => panic!("{name}: {error}"),
    }
}

/// What is printed is what was imported, the constants found by their hash.
fn reads_back(graph: &Graph, registry: &Registry) {
    let mut constants: BTreeMap<(String, String), Tensor> = BTreeMap::new();
    graph.for_each_constant(&mut |tensor| {
        constants.insert((tensor.hash().to_string(), tensor.ty().to_string()), tensor.clone());
    });
    let source = |hash: &str, ty: &TensorType| constants.get(&(hash.to_owned(), ty.to_string())).cloned();
    let text = graph.to_string();
    let parsed = crate::ir::text::parse(&text, registry, &source).unwrap_or_else(|e| panic!("{e}"));
    assert!(parsed == *graph, "{} does not read back", graph.name);
}

/// The models of this repository, which are always here.
#[test]
fn every_model_of_the_repository_reads_back_with_its_constants() {
    let registry = crate::ops::registry();
    let mut n_models = 0;
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/models")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "onnx") {
            let (graph, _) = import(&path, &ImportOptions::default(), &registry).unwrap();
            reads_back(&graph, &registry);
            n_models += 1;
        }
    }
    assert!(n_models >= 3, "{n_models} models");
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.order().into_iter().filter(|&id| graph.node(id).op().is_some_and(|o| o.def.onnx == op)).count()
}

fn n_constants(graph: &Graph) -> usize {
    graph.order().into_iter().filter(|&id| graph.node(id).constant().is_some()).count()
}

#[test]
fn the_perceptron() {
    let Some((graph, report)) = read("fmnist-mlp/mlp.onnx", &[]) else { return };
    assert_eq!(report, ImportReport { defaulted: vec![("batch".to_owned(), 1)], ..ImportReport::default() });
    assert_eq!(
        (graph.name.as_str(), graph.n_nodes(), n_constants(&graph), count(&graph, "Gemm")),
        ("fmnist_mlp", 13, 6, 3)
    );
}

#[test]
fn convolutional_models_have_all_their_nodes() {
    // Nodes, constants, convolutions.
    for (name, dims, expected) in [
        ("efficientnet-lite0/lite0.onnx", &[][..], (393, 249, 49)),
        ("ddddocr-det/common_det.onnx", &[], (455, 175, 83)),
        ("ppocr-v4/ch_PP-OCRv4_rec_infer.onnx", &["x.0=1", "x.2=48", "x.3=320"], (816, 412, 38)),
        ("ppocr-v4/ch_PP-OCRv4_det_infer.onnx", &["x.0=1", "x.2=640", "x.3=640"], (667, 336, 62)),
        ("ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.onnx", &["x.0=1", "x.2=48", "x.3=192"], (521, 286, 53)),
    ] {
        let Some((graph, report)) = read(name, dims) else { continue };
        assert!(report.unbound.is_empty(), "{name}: {report:?}");
        assert_eq!((graph.n_nodes(), n_constants(&graph), count(&graph, "Conv")), expected, "{name}");
    }
}

#[test]
fn sizes_that_a_model_needs_are_asked_for_by_name() {
    let Some(path) = path("ppocr-v4/ch_PP-OCRv4_rec_infer.onnx") else { return };
    let (graph, report) = import(&path, &ImportOptions::default(), &bodies::registry()).unwrap();
    assert!(report.unbound.contains(&"x.2".to_owned()), "{report:?}");
    assert_eq!(graph.open_symbols(), report.unbound.iter().cloned().collect());
}

#[test]
fn a_classifier_of_bytes_gets_a_batch_of_one() {
    let Some((graph, report)) = read("magika/model.onnx", &[]) else { return };
    assert_eq!(report, ImportReport { defaulted: vec![("unk__214".to_owned(), 1)], ..ImportReport::default() });
    assert_eq!((graph.n_nodes(), n_constants(&graph)), (121, 36));
}

#[test]
fn recurrent_models_with_branches() {
    for (name, dims) in [
        ("silero/silero_vad_16k_op15.onnx", &["input.0=1", "input.1=576"][..]),
        ("silero/silero_vad_16k_sequence.onnx", &["sequence_length=4"]),
    ] {
        let Some((graph, report)) = read(name, dims) else { continue };
        println!(
            "{name}: {} nodes, {} constants, {} If, {report:?}",
            graph.n_nodes(),
            n_constants(&graph),
            count(&graph, "If")
        );
        assert!(graph.inputs().len() >= 2);
    }
}

#[test]
fn a_damaged_file_is_refused_and_never_panics() {
    let Some(path) = path("fmnist-mlp/mlp.onnx") else { return };
    let bytes = std::fs::read(path).unwrap();
    let registry = crate::ops::registry();
    let read = |bytes: &[u8]| {
        let Ok(model) = OnnxModel::decode(bytes) else { return false };
        import_proto(model, None, &ImportOptions::default(), &registry).is_ok()
    };
    // The weights are most of the file: three flips of four go to all else.
    let model = ModelProto::decode(&bytes[..]).unwrap();
    let mut is_weight = vec![false; bytes.len()];
    for tensor in model.graph.iter().flat_map(|g| &g.initializer).filter(|t| t.raw_data.len() > 8) {
        let at = bytes.windows(tensor.raw_data.len()).position(|w| w == tensor.raw_data).unwrap();
        is_weight[at..at + tensor.raw_data.len()].fill(true);
    }
    let structure: Vec<usize> = (0..bytes.len()).filter(|&at| !is_weight[at]).collect();
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    let (mut n_good, mut damaged) = (0, bytes.clone());
    for i in 0..500 {
        let at = if i % 4 == 0 { random(bytes.len()) } else { structure[random(structure.len())] };
        damaged[at] ^= 1 << random(8);
        n_good += usize::from(read(&damaged));
        damaged[at] = bytes[at];
    }
    for i in 0..100 {
        read(&bytes[..if i < 50 { random(bytes.len()) } else { random(4096) }]);
    }
    println!("{n_good} of 500 damaged files were still models; {} bytes are no weights", structure.len());
    assert!((1..500).contains(&n_good));
}
