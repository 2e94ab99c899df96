//! What an ONNX file says of itself, read from the protobuf alone: also where the model cannot be imported.

use super::error::{ImportError, Kind};
use super::proto::{OnnxModel, ValueExtras, paired};
use super::value_type::ValueType;
use super::{data, read};
use crate::ir::DType;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use tract_onnx::pb::{GraphProto, NodeProto, TensorProto, ValueInfoProto};

/// What a model takes, gives and holds, as its file states it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// The graph's name; that of the file where it has none.
    pub name: String,
    /// The tool that wrote it, with its version.
    pub producer: String,
    /// The name space that its author put it in.
    pub domain: String,
    /// The version that its author gave it.
    pub version: i64,
    /// Its documentation.
    pub doc: String,
    /// What else its author noted, by key.
    pub metadata: BTreeMap<String, String>,
    /// Version of the file format.
    pub ir_version: i64,
    /// Opset by domain; the default domain is `ai.onnx`.
    pub opsets: BTreeMap<String, i64>,
    /// Inputs in order. Before IR version 4 every initializer had to be one too: those are constants all the same, and
    /// not listed.
    pub inputs: Vec<Described>,
    /// Outputs in order.
    pub outputs: Vec<Described>,
    /// How often each operator stands in the file, those of subgraphs and functions included; `domain::name` for other
    /// domains.
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
    /// Its type.
    pub ty: ValueType,
    /// Whether an initializer gives it a value.
    pub has_default: bool,
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
    let OnnxModel { message: model, extras } = OnnxModel::decode(bytes)?;
    let graph = model.graph.ok_or(Kind::NoGraph)?;
    let extras = extras.graph.unwrap_or_default();
    let mut description = Description {
        name: graph.name.clone(),
        producer: format!("{} {}", model.producer_name, model.producer_version).trim().to_owned(),
        domain: model.domain,
        version: model.model_version,
        doc: model.doc_string,
        metadata: model.metadata_props.into_iter().map(|entry| (entry.key, entry.value)).collect(),
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
    let value = |(info, extras): (&ValueInfoProto, Option<&ValueExtras>), has_default| Described {
        name: info.name.clone(),
        ty: ValueType::of(info, extras),
        has_default,
    };
    let inputs = paired(&graph.input, &extras.input);
    let inputs = inputs.map(|(info, extras)| value((info, extras), given.contains(info.name.as_str())));
    description.inputs = inputs.filter(|input| !input.has_default || model.ir_version >= 4).collect();
    description.outputs = paired(&graph.output, &extras.output).map(|both| value(both, false)).collect();
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
