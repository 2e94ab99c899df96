//! The files of one test: `TEST/model.onnx` with `TEST/test_data_set_I/input_J.pb` and `output_J.pb`, or `light/MODEL.onnx` with `MODEL_output_J.pb`.

use nyxc::import::{ImportOptions, import_proto};
use nyxc::ir::{DType, Tensor};
use nyxc::ops::registry;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
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
    /// The relative tolerance of its outputs.
    pub relative: f64,
}

/// Inputs and expected outputs.
pub struct Set {
    pub inputs: Vec<Data>,
    /// As protobuf.
    pub outputs: Vec<Vec<u8>>,
}

/// One input.
#[derive(Clone)]
pub enum Data {
    /// As protobuf.
    Proto(Vec<u8>),
    /// Made here.
    Made(Tensor),
}

impl Data {
    pub fn tensor(&self) -> Result<Tensor, String> {
        match self {
            Data::Proto(bytes) => tensor(bytes),
            Data::Made(tensor) => Ok(tensor.clone()),
        }
    }
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
        let mut cases: Vec<Case> = files.keys().filter_map(|path| path.strip_suffix("/model.onnx")).map(|name| Case::read(files, name)).collect();
        cases.extend(files.keys().filter_map(|path| path.strip_suffix(".onnx")).filter_map(|name| Case::light(files, name)));
        cases
    }

    /// A model beside which its outputs lie. Inputs and tolerance are those of onnx's own runner (`onnx/backend/test/runner`): floats that count from 0
    /// to 1, and what `real/test_MODEL/data.json` says.
    fn light(files: &Files, name: &str) -> Option<Case> {
        let outputs: Vec<Vec<u8>> = (0..).map_while(|i| files.get(&format!("{name}_output_{i}.pb")).cloned()).collect();
        let model = files[&format!("{name}.onnx")].clone();
        let graph = ModelProto::decode(model.as_slice()).unwrap().graph.unwrap();
        if outputs.is_empty() || outputs.len() != graph.output.len() {
            return None;
        }
        let inputs = free_inputs(&graph);
        let data = inputs.iter().map(|input| Data::Made(counting(input))).collect();
        let settings = files.iter().find(|(path, _)| path.ends_with(&format!("test_{}/data.json", name.rsplit("light_").next().unwrap_or(name))));
        let settings: Option<serde_json::Value> = settings.map(|(_, bytes)| serde_json::from_slice(bytes).unwrap());
        let relative = settings.and_then(|s| s["rtol"].as_f64()).unwrap_or(RELATIVE);
        let inputs = inputs.into_iter().map(|i| i.name.clone()).collect();
        Some(Case { name: name.to_owned(), operator: operator(&graph), inputs, sets: vec![Set { inputs: data, outputs }], model, relative })
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
        let inputs: Vec<String> = free_inputs(&graph).into_iter().map(|i| i.name.clone()).collect();
        let set = |i: usize| {
            let inputs = data(i, "input", inputs.len())?.into_iter().map(Data::Proto).collect();
            Some(Set { inputs, outputs: data(i, "output", graph.output.len())? })
        };
        let sets = (0..).map_while(set).collect();
        Case { name: name.to_owned(), operator, model, sets, inputs, relative: RELATIVE }
    }
}

/// The standard's relative tolerance.
const RELATIVE: f64 = 1e-3;

/// The inputs that no initializer gives.
fn free_inputs(graph: &GraphProto) -> Vec<&ValueInfoProto> {
    let given: BTreeSet<&str> = graph.initializer.iter().map(|i| i.name.as_str()).collect();
    graph.input.iter().filter(|i| !given.contains(i.name.as_str())).collect()
}

/// `arange(n) / n` in the shape of an input, in f64 as numpy has it, then as f32.
fn counting(input: &ValueInfoProto) -> Tensor {
    use tract_onnx::pb::{tensor_shape_proto::dimension::Value, type_proto};
    let Some(type_proto::Value::TensorType(ty)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else { panic!("{} is no tensor", input.name) };
    let dims: Vec<usize> =
        ty.shape.iter().flat_map(|s| &s.dim).map(|d| if let Some(Value::DimValue(n)) = d.value { n as usize } else { 1 }).collect();
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (i as f64 / n as f64) as f32).collect();
    Tensor::from_f32s(DType::F32, &dims, &values).unwrap()
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
