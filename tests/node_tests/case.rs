//! The files of one test: `TEST/model.onnx` with `TEST/test_data_set_I/input_J.pb` and `output_J.pb`, or
//! `light/MODEL.onnx` with `MODEL_output_J.pb`.

use nyxc::import::proto::pb::{GraphProto, ModelProto, OperatorSetIdProto, TensorProto, ValueInfoProto};
use nyxc::import::{ImportOptions, import_proto};
use nyxc::ir::{DType, Tensor};
use nyxc::ops::registry;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::path::Path;

/// One node test.
pub struct Case {
    pub name: String,
    /// The operator it is about: that of the test which it is the expansion of.
    pub operator: String,
    pub model: Vec<u8>,
    /// The inputs of the model by name, and what they are.
    pub inputs: Vec<(String, Kind)>,
    /// What its outputs are.
    pub outputs: Vec<Kind>,
    pub sets: Vec<Set>,
    /// The relative tolerance of its outputs.
    pub relative: f64,
}

/// Inputs and expected outputs.
pub struct Set {
    pub inputs: Vec<Input>,
    /// As protobuf.
    pub outputs: Vec<Vec<u8>>,
}

/// One input.
#[derive(Clone)]
pub enum Input {
    /// As protobuf.
    Proto(Vec<u8>),
    /// Made here.
    Made(Tensor),
}

impl Input {
    /// Its data, of an input that is of this kind.
    pub fn read(&self, kind: &Kind) -> Result<Data, String> {
        match self {
            Input::Proto(bytes) => Data::read(bytes, kind),
            Input::Made(tensor) => Ok(Data::Tensor(tensor.clone())),
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
                files.insert(
                    path.strip_prefix(dir).unwrap().to_str().unwrap().to_owned(),
                    std::fs::read(&path).unwrap(),
                );
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
        let mut cases: Vec<Case> = files
            .keys()
            .filter_map(|path| path.strip_suffix("/model.onnx"))
            .map(|name| Case::read(files, name))
            .collect();
        cases.extend(
            files.keys().filter_map(|path| path.strip_suffix(".onnx")).filter_map(|name| Case::light(files, name)),
        );
        cases
    }

    /// A model beside which its outputs are. Inputs and tolerance are those of onnx's own runner
    /// (`onnx/backend/test/runner`): floats that count from 0 to 1, and what `real/test_MODEL/data.json` says.
    fn light(files: &Files, name: &str) -> Option<Case> {
        let outputs: Vec<Vec<u8>> = (0..).map_while(|i| files.get(&format!("{name}_output_{i}.pb")).cloned()).collect();
        let model = files[&format!("{name}.onnx")].clone();
        let graph = ModelProto::decode(model.as_slice()).unwrap().graph.unwrap();
        if outputs.is_empty() || outputs.len() != graph.output.len() {
            return None;
        }
        let inputs = free_inputs(&graph);
        let data = inputs.iter().map(|input| Input::Made(counting(input))).collect();
        let settings = files.iter().find(|(path, _)| {
            path.ends_with(&format!("test_{}/data.json", name.rsplit("light_").next().unwrap_or(name)))
        });
        let settings: Option<serde_json::Value> = settings.map(|(_, bytes)| serde_json::from_slice(bytes).unwrap());
        let relative = settings.and_then(|s| s["rtol"].as_f64()).unwrap_or(RELATIVE);
        let inputs: Vec<String> = inputs.into_iter().map(|i| i.name.clone()).collect();
        let (inputs, kinds) = kinds(&model, &inputs);
        let sets = vec![Set { inputs: data, outputs }];
        Some(Case { name: name.to_owned(), operator: operator(&graph), inputs, outputs: kinds, sets, model, relative })
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
            let inputs = data(i, "input", inputs.len())?.into_iter().map(Input::Proto).collect();
            Some(Set { inputs, outputs: data(i, "output", graph.output.len())? })
        };
        let sets = (0..).map_while(set).collect();
        let (inputs, outputs) = kinds(&model, &inputs);
        Case { name: name.to_owned(), operator, model, sets, inputs, outputs, relative: RELATIVE }
    }
}

/// These inputs of a model with what they are, and what its outputs are.
fn kinds(model: &[u8], inputs: &[String]) -> (Vec<(String, Kind)>, Vec<Kind>) {
    let ports = Ports::decode(model).unwrap().graph.unwrap_or_default();
    let named = |port: Port| (port.name.clone(), port.ty.map_or(Kind::Tensor, |ty| ty.kind()));
    let all: BTreeMap<String, Kind> = ports.inputs.into_iter().map(named).collect();
    let of = |name: &String| (name.clone(), all.get(name).cloned().unwrap_or(Kind::Tensor));
    (inputs.iter().map(of).collect(), ports.outputs.into_iter().map(|port| named(port).1).collect())
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
    use nyxc::import::proto::pb::{tensor_shape_proto::dimension::Value, type_proto};
    let Some(type_proto::Value::TensorType(ty)) = input.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        panic!("{} is no tensor", input.name)
    };
    let dims: Vec<usize> = ty
        .shape
        .iter()
        .flat_map(|s| &s.dim)
        .map(|d| if let Some(Value::DimValue(n)) = d.value { n as usize } else { 1 })
        .collect();
    let n: usize = dims.iter().product();
    let values: Vec<f32> = (0..n).map(|i| (i as f64 / n as f64) as f32).collect();
    Tensor::from_f32s(DType::F32, &dims, &values).unwrap()
}

fn operator(graph: &GraphProto) -> String {
    let node = graph.node.iter().find(|n| n.op_type != "Constant").or(graph.node.first()).unwrap();
    if node.domain.is_empty() { node.op_type.clone() } else { format!("{}::{}", node.domain, node.op_type) }
}

/// What an input or output is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Tensor,
    Sequence,
    Optional(Box<Kind>),
}

/// The parts of a model that say what its inputs and outputs are; the importer's own protobuf knows tensors only.
#[derive(Clone, PartialEq, prost::Message)]
struct Ports {
    #[prost(message, optional, tag = "7")]
    graph: Option<PortsOfGraph>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PortsOfGraph {
    #[prost(message, repeated, tag = "11")]
    inputs: Vec<Port>,
    #[prost(message, repeated, tag = "12")]
    outputs: Vec<Port>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Port {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "2")]
    ty: Option<PortType>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct PortType {
    #[prost(bytes = "vec", optional, tag = "4")]
    sequence: Option<Vec<u8>>,
    #[prost(message, optional, boxed, tag = "9")]
    optional: Option<Box<OptionalType>>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OptionalType {
    #[prost(message, optional, boxed, tag = "1")]
    element: Option<Box<PortType>>,
}

impl PortType {
    fn kind(self) -> Kind {
        match (self.sequence, self.optional) {
            (Some(_), _) => Kind::Sequence,
            (_, Some(optional)) => Kind::Optional(Box::new(optional.element.map_or(Kind::Tensor, |ty| ty.kind()))),
            _ => Kind::Tensor,
        }
    }
}

#[derive(Clone, PartialEq, prost::Message)]
struct SequenceProto {
    #[prost(message, repeated, tag = "3")]
    tensors: Vec<TensorProto>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct OptionalProto {
    #[prost(message, optional, tag = "3")]
    tensor: Option<TensorProto>,
    #[prost(message, optional, tag = "5")]
    sequence: Option<SequenceProto>,
}

/// A value of the data.
pub enum Data {
    Tensor(Tensor),
    Sequence(Vec<Tensor>),
    Nothing,
}

impl Data {
    pub fn read(bytes: &[u8], kind: &Kind) -> Result<Data, String> {
        let sequence = |proto: SequenceProto| {
            Ok(Data::Sequence(proto.tensors.iter().map(|t| tensor(&t.encode_to_vec())).collect::<Result<_, String>>()?))
        };
        match kind {
            Kind::Tensor => tensor(bytes).map(Data::Tensor),
            Kind::Sequence => sequence(SequenceProto::decode(bytes).map_err(|e| e.to_string())?),
            Kind::Optional(_) => {
                let optional = OptionalProto::decode(bytes).map_err(|e| e.to_string())?;
                match (optional.tensor, optional.sequence) {
                    (Some(t), _) => tensor(&t.encode_to_vec()).map(Data::Tensor),
                    (_, Some(proto)) => sequence(proto),
                    _ => Ok(Data::Nothing),
                }
            }
        }
    }

    /// Its tensors one after the other.
    pub fn tensors(self) -> Vec<Tensor> {
        match self {
            Data::Tensor(tensor) => vec![tensor],
            Data::Sequence(list) => list,
            Data::Nothing => Vec::new(),
        }
    }
}

/// A tensor as the importer reads it.
pub fn tensor(bytes: &[u8]) -> Result<Tensor, String> {
    let proto = TensorProto { name: "t".to_owned(), ..TensorProto::decode(bytes).map_err(|e| e.to_string())? };
    let output = ValueInfoProto { name: "t".to_owned(), ..ValueInfoProto::default() };
    let graph = GraphProto { initializer: vec![proto], output: vec![output], ..GraphProto::default() };
    let opset = OperatorSetIdProto { domain: String::new(), version: 28 };
    let model = ModelProto { graph: Some(graph), opset_import: vec![opset], ..ModelProto::default() };
    let (graph, _) =
        import_proto(model.into(), None, &ImportOptions::default(), &registry()).map_err(|e| e.to_string())?;
    graph.constant(graph.outputs()[0].value).cloned().ok_or_else(|| "no constant".to_owned())
}
