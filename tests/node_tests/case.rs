//! The files of one test.

use nyxc::import::{ImportOptions, import_proto};
use nyxc::ir::Tensor;
use nyxc::ops::registry;
use prost::Message;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::Path;
use tract_onnx::pb::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto, ValueInfoProto};

/// One node test.
pub struct Case {
    pub name: String,
    /// The operator it is about: that of the test which it is the expansion of.
    pub operator: String,
    pub model: Vec<u8>,
    /// The inputs of the model by name.
    pub inputs: Vec<String>,
    pub sets: Vec<Set>,
}

/// Inputs and expected outputs, as protobuf.
pub struct Set {
    pub inputs: Vec<Vec<u8>>,
    pub outputs: Vec<Vec<u8>>,
}

/// The files of many tests by path, `TEST/model.onnx` and so on.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Every file below `dir`.
pub fn folder(dir: &Path) -> Files {
    let mut files = Files::new();
    let mut open = vec![dir.to_owned()];
    while let Some(path) = open.pop() {
        for entry in std::fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                files.insert(path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

/// Every file of an archive.
pub fn archive(bytes: &[u8]) -> Files {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).unwrap();
    let mut files = Files::new();
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(entry.name().to_owned(), bytes);
    }
    files
}

impl Case {
    /// Every test, sorted by name.
    pub fn all(files: &Files) -> Vec<Case> {
        files.keys().filter_map(|path| path.strip_suffix("/model.onnx")).map(|name| Case::read(files, name)).collect()
    }

    fn read(files: &Files, name: &str) -> Case {
        let model = files[&format!("{name}/model.onnx")].clone();
        let graph = |bytes: &[u8]| ModelProto::decode(bytes).unwrap().graph.unwrap();
        let base = name.split("_expanded").next().unwrap_or(name);
        let operator = operator(&graph(files.get(&format!("{base}/model.onnx")).unwrap_or(&model)));
        let graph = graph(&model);
        let data = |i: usize, kind: &str, n: usize| -> Option<Vec<Vec<u8>>> {
            (0..n).map(|j| files.get(&format!("{name}/test_data_set_{i}/{kind}_{j}.pb")).cloned()).collect()
        };
        let set = |i: usize| Some(Set { inputs: data(i, "input", graph.input.len())?, outputs: data(i, "output", graph.output.len())? });
        let sets = (0..).map_while(set).collect();
        Case { name: name.to_owned(), operator, model, sets, inputs: graph.input.into_iter().map(|i| i.name).collect() }
    }
}

fn operator(graph: &GraphProto) -> String {
    let node = graph.node.iter().find(|n| n.op_type != "Constant").or(graph.node.first()).unwrap();
    if node.domain.is_empty() { node.op_type.clone() } else { format!("{}::{}", node.domain, node.op_type) }
}

/// A tensor as the importer reads it.
pub fn tensor(bytes: &[u8]) -> Result<Tensor, String> {
    let proto = TensorProto { name: "t".to_owned(), ..TensorProto::decode(bytes).map_err(|e| e.to_string())? };
    let output = ValueInfoProto { name: "t".to_owned(), ..ValueInfoProto::default() };
    let graph = GraphProto { initializer: vec![proto], output: vec![output], ..GraphProto::default() };
    let opset = OperatorSetIdProto { domain: String::new(), version: 28 };
    let model = ModelProto { graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    let (graph, _) = import_proto(model, None, &ImportOptions::default(), &registry()).map_err(|e| e.to_string())?;
    graph.constant(graph.outputs()[0].value).cloned().ok_or_else(|| "no constant".to_owned())
}
