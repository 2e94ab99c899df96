//! From protobuf messages to plain values: nothing after this file sees the protobuf. Data moves out of it, nothing is
//! copied.

use super::data::Files;
use super::error::{ImportError, Kind, NodeAt};
use super::proto::{AttributeExtras, GraphExtras, NodeExtras, paired};
use crate::ir::{Attr, Attrs, DType, Tensor};
use std::collections::BTreeMap;
use tract_onnx::pb::attribute_proto::AttributeType;
use tract_onnx::pb::{AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto};

/// Deepest nesting of subgraphs accepted.
pub(super) const MAX_DEPTH: usize = 64;

/// A graph as the file has it.
#[derive(Clone)]
pub(super) struct RawGraph {
    pub(super) name: String,
    pub(super) inputs: Vec<ValueInfoProto>,
    pub(super) outputs: Vec<String>,
    pub(super) initializers: BTreeMap<String, Tensor>,
    /// Inputs that need not be given, and what they are then.
    pub(super) defaults: BTreeMap<String, Tensor>,
    pub(super) nodes: Vec<RawNode>,
}

/// A node as the file has it.
#[derive(Clone, Default)]
pub(super) struct RawNode {
    /// That of its first output where the file has none.
    pub(super) name: String,
    /// Empty for the default one.
    pub(super) domain: String,
    pub(super) op: String,
    /// Which of several functions of this name it calls; empty otherwise.
    pub(super) overload: String,
    /// Empty where an optional one is absent.
    pub(super) inputs: Vec<String>,
    pub(super) outputs: Vec<String>,
    pub(super) attrs: Attrs,
    /// Attributes that are graphs.
    pub(super) graphs: Vec<(String, RawGraph)>,
    /// What a `Constant` holds.
    pub(super) constant: Option<Tensor>,
    /// Attributes that have the value of one of the function it stands in, and that one.
    pub(super) refs: Vec<(String, String)>,
}

impl RawNode {
    /// `domain::operator`, as the registry has it.
    pub(super) fn key(&self) -> String {
        if self.domain.is_empty() { self.op.clone() } else { format!("{}::{}", self.domain, self.op) }
    }

    pub(super) fn is_constant(&self) -> bool {
        self.domain.is_empty() && self.op == "Constant"
    }
}

/// What reading needs to know of the model.
pub(super) struct Reader<'a> {
    pub(super) files: &'a mut Files,
    pub(super) opsets: &'a BTreeMap<String, i64>,
}

/// The name of a domain, empty for the default one, which has two spellings.
pub(super) fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

impl Reader<'_> {
    /// Takes a graph out of its message, `depth` graphs deep.
    pub(super) fn graph(
        &mut self,
        proto: GraphProto,
        extras: GraphExtras,
        depth: usize,
    ) -> Result<RawGraph, ImportError> {
        if depth > MAX_DEPTH {
            return Err(Kind::Depth { limit: MAX_DEPTH }.into());
        }
        if let Some(sparse) = proto.sparse_initializer.first() {
            return Err(Kind::Tensor {
                name: sparse_name(sparse),
                problem: "is sparse, which is not supported".to_owned(),
            }
            .into());
        }
        let mut initializers = BTreeMap::new();
        for tensor in proto.initializer {
            let name = tensor.name.clone();
            if initializers.insert(name.clone(), self.files.tensor(tensor)?).is_some() {
                return Err(Kind::Twice { value: name }.into());
            }
        }
        let nodes = paired(proto.node, extras.node);
        let nodes = nodes.map(|(node, extras)| self.node(node, extras, depth)).collect::<Result<_, _>>()?;
        let outputs = proto.output.into_iter().map(|o| o.name).collect();
        Ok(RawGraph { name: proto.name, inputs: proto.input, outputs, initializers, defaults: BTreeMap::new(), nodes })
    }

    /// Takes a node out of its message, `depth` graphs deep.
    pub(super) fn node(
        &mut self,
        proto: NodeProto,
        extras: Option<NodeExtras>,
        depth: usize,
    ) -> Result<RawNode, ImportError> {
        let NodeProto { input, output, name, op_type, domain: node_domain, attribute, doc_string: _ } = proto;
        let extras = extras.unwrap_or_default();
        let first = output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_default();
        let mut node = RawNode {
            name: if name.is_empty() { first } else { name },
            domain: domain(&node_domain).to_owned(),
            op: op_type,
            overload: extras.overload,
            inputs: input,
            outputs: output,
            ..RawNode::default()
        };
        let at = NodeAt {
            name: node.name.clone(),
            op: node.key(),
            opset: self.opsets.get(&node.domain).copied().unwrap_or(1),
        };
        self.attributes(&mut node, attribute, extras.attribute, depth).map_err(|e| e.at(|| at))?;
        Ok(node)
    }

    /// Attributes alone: those of a function that have defaults.
    pub(super) fn defaults(
        &mut self,
        function: &str,
        protos: Vec<AttributeProto>,
        extras: Vec<AttributeExtras>,
    ) -> Result<RawNode, ImportError> {
        let mut node = RawNode { name: function.to_owned(), op: function.to_owned(), ..RawNode::default() };
        let at = NodeAt { name: node.name.clone(), op: node.key(), opset: 1 };
        self.attributes(&mut node, protos, extras, 0).map_err(|e| e.at(|| at))?;
        Ok(node)
    }

    fn attributes(
        &mut self,
        node: &mut RawNode,
        protos: Vec<AttributeProto>,
        extras: Vec<AttributeExtras>,
        depth: usize,
    ) -> Result<(), ImportError> {
        let is_constant = node.is_constant();
        for (mut proto, extras) in paired(protos, extras) {
            let name = std::mem::take(&mut proto.name);
            let fail =
                |problem: &str| ImportError::from(Kind::Attribute { name: name.clone(), problem: problem.to_owned() });
            let names =
                node.attrs.0.keys().chain(node.graphs.iter().map(|(n, _)| n)).chain(node.refs.iter().map(|(n, _)| n));
            if names.into_iter().any(|n| *n == name) {
                return Err(fail("is given twice"));
            }
            if !proto.ref_attr_name.is_empty() {
                if is_constant && (node.constant.is_some() || !node.refs.is_empty()) {
                    return Err(fail("is a second value of one constant"));
                }
                node.refs.push((name, proto.ref_attr_name));
                continue;
            }
            if let (AttributeType::Graph, Some(graph)) = (proto.r#type(), proto.g.take()) {
                let extras = extras.and_then(|extras| extras.g).unwrap_or_default();
                node.graphs.push((name, self.graph(graph, extras, depth + 1)?));
                continue;
            }
            // The type of an optional without a value says nothing that its uses need.
            if node.domain.is_empty() && node.op == "Optional" && name == "type" {
                continue;
            }
            let attr = self.attribute(proto).map_err(|e| e.unwrap_or_else(fail))?;
            if is_constant && node.constant.is_none() && node.refs.is_empty() {
                node.constant = Some(constant(attr).map_err(|problem| fail(&problem))?);
            } else if is_constant {
                return Err(fail("is a second value of one constant"));
            } else {
                node.attrs.0.insert(name, attr);
            }
        }
        if is_constant && node.constant.is_none() && node.refs.is_empty() {
            return Err(Kind::Attribute { name: "value".to_owned(), problem: "is missing".to_owned() }.into());
        }
        Ok(())
    }

    /// The value of an attribute that is no graph.
    fn attribute(&mut self, proto: AttributeProto) -> Result<Attr, Refusal> {
        let number = proto.r#type;
        Ok(match AttributeType::try_from(number) {
            Ok(AttributeType::Int) => Attr::Int(proto.i),
            Ok(AttributeType::Float) => Attr::Float(proto.f),
            Ok(AttributeType::String) => Attr::Str(text(proto.s)?),
            Ok(AttributeType::Ints) => Attr::Ints(proto.ints),
            Ok(AttributeType::Floats) => Attr::Floats(proto.floats),
            Ok(AttributeType::Strings) => Attr::Strs(proto.strings.into_iter().map(text).collect::<Result<_, _>>()?),
            Ok(AttributeType::Tensor) => Attr::Tensor(self.tensor(proto.t)?),
            _ => return Err(Refusal::Problem(format!("is of type {number}, which is not supported"))),
        })
    }

    fn tensor(&mut self, proto: Option<TensorProto>) -> Result<Tensor, Refusal> {
        let proto = proto.ok_or_else(|| Refusal::Problem("has no tensor".to_owned()))?;
        self.files.tensor(proto).map_err(Refusal::Error)
    }
}

/// An error of its own, or what is wrong with the attribute at hand.
enum Refusal {
    Error(ImportError),
    Problem(String),
}

impl Refusal {
    fn unwrap_or_else(self, fail: impl FnOnce(&str) -> ImportError) -> ImportError {
        match self {
            Refusal::Error(error) => error,
            Refusal::Problem(problem) => fail(&problem),
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<String, Refusal> {
    String::from_utf8(bytes).map_err(|_| Refusal::Problem("is no UTF-8 text".to_owned()))
}

/// The tensor that an attribute of a `Constant` stands for.
pub(super) fn constant(attr: Attr) -> Result<Tensor, String> {
    let tensor = match attr {
        Attr::Tensor(tensor) => return Ok(tensor),
        Attr::Int(v) => Tensor::from_i64s(DType::I64, &[], &[v]),
        Attr::Ints(v) => Tensor::from_i64s(DType::I64, &[v.len()], &v),
        Attr::Float(v) => Tensor::from_f32s(DType::F32, &[], &[v]),
        Attr::Floats(v) => Tensor::from_f32s(DType::F32, &[v.len()], &v),
        _ => return Err("is a constant of text, which is not supported".to_owned()),
    };
    tensor.map_err(|e| e.to_string())
}

fn sparse_name(sparse: &SparseTensorProto) -> String {
    sparse.values.as_ref().map(|v| v.name.clone()).unwrap_or_default()
}
