//! Real models, and damaged ones.

use super::*;
use std::collections::BTreeMap;
use std::path::PathBuf;

fn path(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("NYXC_MODELS").map_or_else(|| PathBuf::from("/work/shared/models"), PathBuf::from);
    let path = folder.join(name);
    if path.is_file() {
        return Some(path);
    }
    println!("SKIPPED: {} is not here", path.display());
    None
}

fn read(name: &str, dims: &[&str]) -> Option<(Graph, ImportReport)> {
    let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    let registry = crate::ops::registry();
    match import(&path(name)?, &ImportOptions { dims }, &registry) {
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
    collect(graph, &mut constants);
    let source = |hash: &str, ty: &TensorType| constants.get(&(hash.to_owned(), ty.to_string())).cloned();
    let text = graph.to_string();
    let parsed = crate::ir::text::parse(&text, registry, &source).unwrap_or_else(|e| panic!("{e}"));
    assert!(parsed == *graph, "{} does not read back", graph.name);
}

fn collect(graph: &Graph, constants: &mut BTreeMap<(String, String), Tensor>) {
    for id in graph.order() {
        let node = graph.node(id);
        let attrs = node.op().into_iter().flat_map(|op| op.attrs.0.values());
        let mut tensors: Vec<&Tensor> = node.constant().into_iter().collect();
        for attr in attrs {
            match attr {
                Attr::Tensor(tensor) => tensors.push(tensor),
                Attr::Graph(body) => collect(body, constants),
                _ => {}
            }
        }
        for tensor in tensors {
            constants.insert((tensor.hash().to_string(), tensor.ty().to_string()), tensor.clone());
        }
    }
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
    println!("{graph}");
    assert_eq!(report.unbound, [""; 0]);
    assert!(count(&graph, "MatMul") + count(&graph, "Gemm") >= 2);
}

#[test]
fn efficientnet() {
    let Some((graph, _)) = read("efficientnet-lite0/lite0.onnx", &[]) else { return };
    println!("{} nodes, {} constants, {} Conv", graph.n_nodes(), n_constants(&graph), count(&graph, "Conv"));
}

#[test]
fn constants_of_paddle_models_are_nodes_of_the_file() {
    for (name, dims) in [
        ("ppocr-v4/ch_PP-OCRv4_rec_infer.onnx", &["x.0=1", "x.3=320"][..]),
        ("ppocr-v4/ch_PP-OCRv4_det_infer.onnx", &["x.0=1", "x.2=640", "x.3=640"][..]),
        ("ppocr-v4/ch_ppocr_mobile_v2.0_cls_infer.onnx", &["x.0=1"][..]),
    ] {
        let Some((graph, report)) = read(name, dims) else { continue };
        println!("{name}: {} nodes, {} constants, {} Conv, {report:?}", graph.n_nodes(), n_constants(&graph), count(&graph, "Conv"));
        assert!(n_constants(&graph) > 50);
    }
}

#[test]
fn the_others() {
    for (name, dims) in [
        ("ddddocr-det/common_det.onnx", &[][..]),
        ("magika/model.onnx", &[][..]),
        ("silero/silero_vad_16k_op15.onnx", &[][..]),
        ("silero/silero_vad_16k_sequence.onnx", &[][..]),
    ] {
        let Some((graph, report)) = read(name, dims) else { continue };
        println!("{name}: {} nodes, {} constants, {report:?}", graph.n_nodes(), n_constants(&graph));
    }
}

#[test]
fn a_damaged_file_is_refused_and_never_panics() {
    let Some(path) = path("fmnist-mlp/mlp.onnx") else { return };
    let bytes = std::fs::read(path).unwrap();
    let registry = crate::ops::registry();
    let read = |bytes: &[u8]| {
        let Ok(model) = ModelProto::decode(bytes) else { return false };
        import_proto(model, None, &ImportOptions::default(), &registry).is_ok()
    };
    // The weights are most of the file: flips go to the rest too, which lies at both ends of it and between them.
    let is_weight = |at: usize| bytes[at.saturating_sub(32)..(at + 32).min(bytes.len())].iter().filter(|b| b.is_ascii_alphanumeric()).count() < 16;
    let structure: Vec<usize> = (0..bytes.len()).filter(|&at| !is_weight(at)).collect();
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
    println!("{n_good} of 500 damaged files were still models");
    assert!((1..500).contains(&n_good));
}
