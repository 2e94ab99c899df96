//! What an ONNX file says of itself, read from the protobuf alone: also where the model cannot be imported.

use super::error::{ImportError, Kind};
use super::proto::OnnxModel;
use super::{data, read};
use crate::ir::DType;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::type_proto::Value as TypeValue;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// What a model takes, gives and holds, as its file states it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The graph's name; that of the file where it has none.
    pub name: String,
    /// The tool that wrote it, with its version.
    pub producer: String,
    /// Version of the file format.
    pub ir_version: i64,
    /// Opset by domain; the default domain is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// Inputs in order. Before IR version 4 every initializer had to be one too: those are constants all the same, and not listed.
    pub inputs: Vec<Described>,
    /// Outputs in order.
    pub outputs: Vec<Described>,
    /// How often each operator stands in the file, those of subgraphs and functions included; `domain::name` for other domains.
    pub operators: BTreeMap<String, usize>,
    /// Model-local functions.
    pub functions: Vec<String>,
    /// Tensors that the file holds or refers to.
    pub n_weights: usize,
    /// Their bytes.
    pub weights_bytes: u64,
}

/// A value as the file describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Its element type; `None` where it is no tensor.
    pub dtype: Option<String>,
    /// Its axes; `None` where the file does not say how many it has.
    pub shape: Option<Vec<Axis>>,
    /// Whether an initializer gives it a value.
    pub has_default: bool,
}

/// The size of an axis as the file states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// A number, whatever it is.
    Size(i64),
    /// A name.
    Name(String),
    /// Neither.
    Unknown,
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Axis::Size(n) => write!(f, "{n}"),
            Axis::Name(name) => f.write_str(name),
            Axis::Unknown => f.write_str("?"),
        }
    }
}

impl Described {
    fn of(info: &ValueInfoProto) -> Described {
        let name = info.name.clone();
        let Some(TypeValue::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
            return Described { name, dtype: None, shape: None, has_default: false };
        };
        let dtype = DType::from_onnx(tensor.elem_type);
        let dtype = dtype.map_or_else(|| format!("type {}", tensor.elem_type), |dtype| dtype.to_string());
        let axis = |dim: &Option<DimValue>| match dim {
            Some(DimValue::DimValue(n)) => Axis::Size(*n),
            Some(DimValue::DimParam(name)) if !name.is_empty() => Axis::Name(name.clone()),
            _ => Axis::Unknown,
        };
        let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| axis(&dim.value)).collect());
        Described { name, dtype: Some(dtype), shape, has_default: false }
    }

    /// The type as one text: `f32[batch,3,224,224]`, `?` for an axis that is not told, `f32[...]` where their number is not.
    pub fn ty(&self) -> String {
        let Some(dtype) = &self.dtype else { return "a sequence, an optional or a map".to_owned() };
        let axes = self.shape.as_ref().map(|axes| axes.iter().map(Axis::to_string).collect::<Vec<_>>().join(","));
        format!("{dtype}[{}]", axes.as_deref().unwrap_or("..."))
    }
}

/// Describes the ONNX file at `path`. External data is not looked at, only counted.
///
/// # Errors
/// The file cannot be read, or is no ONNX model.
pub fn describe(path: &Path) -> Result<Description, ImportError> {
    let bytes = data::map(path).map_err(|source| Kind::Io { path: path.to_owned(), source })?;
    let mut description = describe_bytes(&bytes)?;
    if description.name.is_empty() {
        description.name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    }
    Ok(description)
}

/// Describes the ONNX model in `bytes`.
///
/// # Errors
/// They are none.
pub fn describe_bytes(bytes: &[u8]) -> Result<Description, ImportError> {
    let model = OnnxModel::decode(bytes)?.message;
    let graph = model.graph.ok_or(Kind::NoGraph)?;
    let mut description = Description {
        name: graph.name.clone(),
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
        ir_version: model.ir_version,
        ..Description::default()
    };
    for set in &model.opset_import {
        let domain = read::domain(&set.domain);
        let domain = if domain.is_empty() { "ai.onnx" } else { domain };
        let newest = description.opsets.entry(domain.to_owned()).or_insert(set.version);
        *newest = set.version.max(*newest);
    }
    let given: BTreeSet<&str> = graph.initializer.iter().map(|t| t.name.as_str()).collect();
    let input =
        |info: &ValueInfoProto| Described { has_default: given.contains(info.name.as_str()), ..Described::of(info) };
    description.inputs =
        graph.input.iter().map(input).filter(|input| !input.has_default || model.ir_version >= 4).collect();
    description.outputs = graph.output.iter().map(Described::of).collect();
    description.count(&graph);
    for function in &model.functions {
        description.functions.push(function.name().to_owned());
        function.node.iter().for_each(|node| description.node(node));
    }
    Ok(description)
}

impl Description {
    fn count(&mut self, graph: &GraphProto) {
        let sparse = graph.sparse_initializer.iter().flat_map(|s| [&s.values, &s.indices]).flatten();
        graph.initializer.iter().chain(sparse).for_each(|tensor| self.tensor(tensor));
        graph.node.iter().for_each(|node| self.node(node));
    }

    fn node(&mut self, node: &NodeProto) {
        let domain = read::domain(&node.domain);
        let key = if domain.is_empty() { node.op_type.clone() } else { format!("{domain}::{}", node.op_type) };
        *self.operators.entry(key).or_insert(0) += 1;
        for attribute in &node.attribute {
            attribute.t.iter().chain(&attribute.tensors).for_each(|tensor| self.tensor(tensor));
            attribute.g.iter().chain(&attribute.graphs).for_each(|graph| self.count(graph));
        }
    }

    fn tensor(&mut self, tensor: &TensorProto) {
        let n = tensor.dims.iter().try_fold(1u64, |n, &d| n.checked_mul(u64::try_from(d).ok()?));
        let bytes = DType::from_onnx(tensor.data_type).zip(n).and_then(|(dtype, n)| dtype.bytes(n));
        // What has no such type or size has the bytes that are there.
        let bytes = bytes.unwrap_or(tensor.raw_data.len() as u64);
        self.n_weights += 1;
        self.weights_bytes = self.weights_bytes.saturating_add(bytes);
    }
}
