//! Export: a graph of the level `onnx` becomes an ONNX model, before formats are real or after.
//!
//! 1. [`model`] walks the graph in its order. `node` writes each node as ONNX has it: one float type an operator, the
//!    conversions that nyxc leaves to its kernels as Casts, `dynamic_quantize` and `store` in ONNX's operators. `sizes`
//!    writes what depends on the sizes of a run as arithmetic on shapes.
//! 2. `weights` gives quantized weights the form that runtimes compute from as they are ([`Style`]).
//! 3. What nothing reads is dropped, and [`Model`] is written in one file, or with its data beside it (`file`).
//!
//! Values and nodes keep their names. A graph with states has no form in ONNX, and is refused.

mod attribute;
mod file;
mod node;
mod operators;
mod sizes;
mod weights;

pub use file::{DATA_FILE_FROM, Model};

use crate::import::Description;
use crate::import::proto::pb;
use crate::ir::{DType, Dim, Graph, Level, NodeId, NodeKind, OpError, Tensor, TensorError, TensorType, ValueId};
use crate::ops;
use indexmap::IndexMap;
use pb::tensor_shape_proto::{Dimension, dimension};
use std::collections::{BTreeMap, BTreeSet};

/// How weights of few bits are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Codes and a DequantizeLinear by blocks (opset 21), along the axis that products sum over: plain ONNX, which
    /// runtimes fuse.
    #[default]
    Qdq,
    /// MatMulNBits and GatherBlockQuantized of com.microsoft where these can say it, computing in f32 (accuracy level
    /// 1), and as [`Style::Qdq`] elsewhere.
    MatMulNBits,
}

impl std::str::FromStr for Style {
    type Err = String;
    fn from_str(text: &str) -> Result<Style, String> {
        match text {
            "qdq" => Ok(Style::Qdq),
            "matmulnbits" => Ok(Style::MatMulNBits),
            _ => Err(format!("{text:?} is neither qdq nor matmulnbits")),
        }
    }
}

/// Why a graph cannot be written as an ONNX model.
#[derive(Clone, Debug, thiserror::Error)]
#[error("node {node:?} cannot be written as ONNX: {problem}")]
pub struct ExportError {
    node: String,
    problem: Problem,
}

#[derive(Clone, Debug, thiserror::Error)]
enum Problem {
    #[error("{op} is no operator of ONNX")]
    Operator { op: String },
    #[error("attribute {name} is {what}, which ONNX has not")]
    Attribute { name: String, what: String },
    #[error("no value has an axis of the size {size}")]
    Size { size: String },
    #[error("ONNX has no states")]
    State,
    #[error("the graph is of level {level}, level onnx is exported")]
    Level { level: Level },
    #[error(transparent)]
    Data(#[from] TensorError),
    #[error(transparent)]
    Op(#[from] OpError),
}

impl ExportError {
    fn at(node: &str) -> impl Fn(Problem) -> ExportError + '_ {
        move |problem| ExportError { node: node.to_owned(), problem }
    }

    /// The node that has no form in ONNX.
    pub fn node(&self) -> &str {
        &self.node
    }
}

/// Writes a graph of the level `onnx` as an ONNX model. `about` is the model that it was imported from: its version,
/// its documentation, its metadata and the versions of its other domains stay.
///
/// # Errors
/// A node has no form in ONNX, or the data of a constant is absent.
pub fn model(graph: &Graph, style: Style, about: Option<&Description>) -> Result<Model, ExportError> {
    let fail = |problem| ExportError { node: graph.name.clone(), problem };
    if graph.level != Level::Onnx {
        return Err(fail(Problem::Level { level: graph.level }));
    }
    if let Some(state) = graph.states().first() {
        return Err(ExportError { node: graph.node(state.node).name.clone(), problem: Problem::State });
    }
    let mut work = Work::new(graph, style);
    for id in graph.order() {
        work.node(id).map_err(ExportError::at(&graph.node(id).name))?;
    }
    let outputs = work.outputs();
    let inputs: Vec<(String, TensorType)> =
        graph.inputs().iter().map(|id| (graph.value(id.out(0)).name.clone(), graph.ty(id.out(0)).clone())).collect();
    work.drop_unread(&outputs);
    let Work { nodes, mut initializers, opset, mut domains, .. } = work;
    for (name, tensor) in graph.defaults() {
        initializers.insert(name.clone(), tensor.clone());
    }
    for (name, tensor) in &initializers {
        tensor.bytes().map_err(|e| ExportError::at(name)(e.into()))?;
    }
    let used: BTreeSet<&str> = nodes.iter().map(|node| node.domain.as_str()).collect();
    let mut opsets = BTreeMap::from([(String::new(), opset)]);
    for (domain, version) in about.iter().flat_map(|about| &about.opsets).filter(|(domain, _)| *domain != "ai.onnx") {
        domains.entry(domain.clone()).or_insert(*version);
    }
    let is_known = |domain: &String| about.is_some_and(|about| about.opsets.contains_key(domain));
    opsets.extend(domains.into_iter().filter(|(domain, _)| used.contains(domain.as_str()) || is_known(domain)));
    let port = |(name, ty): &(String, TensorType)| pb::ValueInfoProto {
        name: name.clone(),
        r#type: Some(value_type(ty)),
        ..Default::default()
    };
    let proto = pb::ModelProto {
        ir_version: operators::ir_version(opset),
        opset_import: opsets.into_iter().map(|(domain, version)| pb::OperatorSetIdProto { domain, version }).collect(),
        producer_name: "nyxc".to_owned(),
        producer_version: env!("CARGO_PKG_VERSION").to_owned(),
        domain: about.map(|about| about.domain.clone()).unwrap_or_default(),
        model_version: about.map_or(0, |about| about.version),
        doc_string: about.map(|about| about.doc.clone()).unwrap_or_default(),
        graph: Some(pb::GraphProto {
            node: nodes,
            name: graph.name.clone(),
            input: inputs.iter().map(port).collect(),
            output: outputs.iter().map(port).collect(),
            ..Default::default()
        }),
        metadata_props: about
            .iter()
            .flat_map(|about| &about.metadata)
            .map(|(key, value)| pb::StringStringEntryProto { key: key.clone(), value: value.clone() })
            .collect(),
        ..Default::default()
    };
    Ok(Model { proto, initializers })
}

/// A type as ONNX writes it: symbols are `dim_param`s, what is computed from them is left open.
fn value_type(ty: &TensorType) -> pb::TypeProto {
    let dim = |dim: &Dim| {
        let named = |dim: &Dim| dim.solved_symbol().filter(|symbol| Dim::from((*symbol).clone()) == *dim).cloned();
        let value = match dim {
            Dim::Known(n) => Some(dimension::Value::DimValue(*n)),
            other => named(other).map(|symbol| dimension::Value::DimParam(symbol.name().to_owned())),
        };
        Dimension { value, ..Default::default() }
    };
    let shape = pb::TensorShapeProto { dim: ty.shape.0.iter().map(dim).collect() };
    let tensor = pb::type_proto::Tensor { elem_type: ty.dtype.onnx(), shape: Some(shape) };
    pb::TypeProto { value: Some(pb::type_proto::Value::TensorType(tensor)), ..Default::default() }
}

/// An export under way.
struct Work<'g> {
    graph: &'g Graph,
    style: Style,
    nodes: Vec<pb::NodeProto>,
    /// Constants by name, whether anything reads them or not.
    initializers: IndexMap<String, Tensor>,
    /// Names of values that are not their own: those of the ports that they are behind.
    names: BTreeMap<ValueId, String>,
    /// Names of values that are taken, and of nodes.
    taken: BTreeSet<String>,
    nodes_taken: BTreeSet<String>,
    /// The version of the default domain that the nodes need.
    opset: i64,
    /// Other domains that nodes are of.
    domains: BTreeMap<String, i64>,
    /// Values as other types, sizes, and forms of weights that are written already.
    cast: BTreeMap<(String, DType), String>,
    measured: BTreeMap<Dim, String>,
    turned: BTreeMap<(NodeId, DType), String>,
}

impl<'g> Work<'g> {
    fn new(graph: &'g Graph, style: Style) -> Work<'g> {
        let all = || graph.order().into_iter().map(|id| graph.node(id));
        let taken = all().flat_map(|node| node.outputs.iter().map(|value| value.name.clone())).collect();
        let mut work = Work {
            graph,
            style,
            nodes: Vec::new(),
            initializers: IndexMap::new(),
            names: BTreeMap::new(),
            taken,
            nodes_taken: all().map(|node| node.name.clone()).collect(),
            opset: operators::LEAST_OPSET,
            domains: BTreeMap::new(),
            cast: BTreeMap::new(),
            measured: BTreeMap::new(),
            turned: BTreeMap::new(),
        };
        // What computes an output has the name of the port; a value whose name a port has gets another.
        for output in graph.outputs() {
            let value = graph.value(output.value);
            let is_computed = graph.node(output.value.node).op().is_some();
            if value.name == output.name || !is_computed || work.names.contains_key(&output.value) {
                continue;
            }
            if let Some(other) = graph.value_named(&output.name) {
                let name = work.fresh(&output.name);
                work.names.insert(other, name);
            }
            work.taken.insert(output.name.clone());
            work.names.insert(output.value, output.name.clone());
        }
        work
    }

    /// The name of a value in the model.
    fn name(&self, value: ValueId) -> String {
        self.names.get(&value).cloned().unwrap_or_else(|| self.graph.value(value).name.clone())
    }

    /// A name for a new value.
    fn fresh(&mut self, wanted: &str) -> String {
        free(&mut self.taken, wanted)
    }

    /// Adds a constant and gives its name.
    fn constant(&mut self, wanted: &str, tensor: Tensor) -> String {
        let name = self.fresh(wanted);
        self.initializers.insert(name.clone(), tensor);
        name
    }

    /// The ports, each behind a value of its name.
    fn outputs(&mut self) -> Vec<(String, TensorType)> {
        let graph = self.graph;
        let mut ports = Vec::with_capacity(graph.outputs().len());
        for output in graph.outputs() {
            let own = self.name(output.value);
            if own != output.name || graph.node(output.value.node).op().is_none() {
                // The name is free: a constant or an input that is an output under its own name keeps that alone.
                let is_same = own == output.name;
                if !is_same {
                    self.push("Identity", &output.name, &[&own], std::slice::from_ref(&output.name), Vec::new());
                }
            }
            ports.push((output.name.clone(), graph.ty(output.value).clone()));
        }
        ports
    }

    /// Adds a node. Its name is `wanted` where that is free.
    fn push(
        &mut self,
        op: &str,
        wanted: &str,
        inputs: &[&str],
        outputs: &[String],
        attribute: Vec<pb::AttributeProto>,
    ) {
        let (domain, op_type) = op.rsplit_once("::").unwrap_or(("", op));
        if domain.is_empty() {
            self.opset = self.opset.max(operators::since(op_type, &attribute));
        } else {
            self.domains.entry(domain.to_owned()).or_insert(1);
        }
        self.nodes.push(pb::NodeProto {
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: outputs.to_vec(),
            name: wanted.to_owned(),
            op_type: op_type.to_owned(),
            domain: domain.to_owned(),
            attribute,
            ..Default::default()
        });
    }

    /// Adds a node with one result and gives its name.
    fn add(&mut self, op: &str, wanted: &str, inputs: &[&str], attribute: Vec<pb::AttributeProto>) -> String {
        let name = self.fresh(wanted);
        let node = free(&mut self.nodes_taken, wanted);
        self.push(op, &node, inputs, std::slice::from_ref(&name), attribute);
        name
    }

    /// The value called `name` as another type; once for all that read it so.
    fn as_type(&mut self, name: &str, to: DType) -> String {
        if let Some(known) = self.cast.get(&(name.to_owned(), to)) {
            return known.clone();
        }
        let cast = self.add("Cast", &format!("{name}.{to}"), &[name], vec![attribute::int("to", to.onnx())]);
        self.cast.insert((name.to_owned(), to), cast.clone());
        cast
    }

    /// Drops nodes and constants that no output needs.
    fn drop_unread(&mut self, outputs: &[(String, TensorType)]) {
        let mut read: BTreeSet<String> = outputs.iter().map(|(name, _)| name.clone()).collect();
        let mut kept = Vec::with_capacity(self.nodes.len());
        for node in std::mem::take(&mut self.nodes).into_iter().rev() {
            if node.output.iter().any(|name| read.contains(name)) {
                read.extend(node.input.iter().cloned());
                kept.push(node);
            }
        }
        kept.reverse();
        self.nodes = kept;
        self.initializers.retain(|name, _| read.contains(name));
    }

    /// The node `id` as ONNX has it.
    fn node(&mut self, id: NodeId) -> Result<(), Problem> {
        let node = self.graph.node(id);
        for value in &node.outputs {
            self.opset = self.opset.max(operators::since_type(value.ty.dtype));
        }
        match &node.kind {
            NodeKind::Input => Ok(()),
            NodeKind::State => Err(Problem::State),
            NodeKind::Const(tensor) => {
                self.initializers.insert(self.name(id.out(0)), tensor.clone());
                Ok(())
            }
            NodeKind::Op(op) if op.is(&ops::onnx::shape::SIZES) => self.sizes(id, op),
            NodeKind::Op(op) => self.operator(id, op),
        }
    }
}

/// `wanted`, or the first of `wanted.2`, `wanted.3` that is free; taken from then on.
fn free(taken: &mut BTreeSet<String>, wanted: &str) -> String {
    let mut name = wanted.to_owned();
    let mut n = 1;
    while !taken.insert(name.clone()) {
        n = crate::ir::next_number(n, taken.len());
        name = format!("{wanted}.{n}");
    }
    name
}
