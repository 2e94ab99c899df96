//! Model-local functions (ONNX IR, `FunctionProto`): a call is replaced by the nodes of its function.
//!
//! The copy is bound to the call first: attributes that refer to the function's own get the call's values or the
//! defaults, and one that neither has is absent. Every name in it is put behind that of the call, as `CALL/NAME`, so
//! names stay unique and say where a node comes from. Its nodes see nothing of the graph that calls, and are of the
//! function's own opsets. A function is used before an operator of the same name that nyxc has.

use super::body;
use super::build::Builder;
use super::data::Files;
use super::error::{ImportError, Kind};
use super::proto::{AttributeExtras, FunctionExtras, NodeExtras, paired};
use super::read::{self, RawGraph, RawNode, Reader, domain};
use super::sequence::Bound;
use super::unroll::form;
use super::{MAX_OPSET, MIN_OPSET, is_read};
use crate::ir::Attr;
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb::{AttributeProto, FunctionProto, NodeProto, ValueInfoProto};

/// Domain, name and overload.
pub(super) type Key = (String, String, String);

/// Bytes of names and attributes in a copy that count as one node more.
const BYTES_PER_NODE: usize = 256;

/// A function as the file has it.
pub(super) struct Function {
    /// As messages have it: `domain::name:overload`, without what is empty.
    name: String,
    inputs: Vec<String>,
    outputs: Vec<String>,
    /// Its attributes with a default, as those of a node.
    defaults: RawNode,
    nodes: Vec<RawNode>,
    pub(super) opsets: BTreeMap<String, i64>,
    /// Of the default domain.
    pub(super) opset: i64,
    /// Its attributes that its nodes refer to, each as often as they do.
    refs: Vec<String>,
    size: Size,
}

/// The functions of the model that its graph reaches, read. `opset` is that of the model's default domain.
///
/// # Errors
/// One is there twice, or does not read.
pub(super) fn read(
    (protos, extras): (Vec<FunctionProto>, Vec<FunctionExtras>),
    (nodes, nodes_extras): (&[NodeProto], &[NodeExtras]),
    files: &mut Files,
    opset: i64,
    opsets: &BTreeMap<String, i64>,
) -> Result<BTreeMap<Key, Function>, ImportError> {
    let mut unread = BTreeMap::new();
    for (proto, extras) in paired(protos, extras) {
        let extras = extras.unwrap_or_default();
        let key = (domain(proto.domain()).to_owned(), proto.name().to_owned(), extras.overload.clone());
        let name = shown(&key);
        if unread.insert(key, (proto, extras)).is_some() {
            return Err(Kind::Function { name, problem: "is there twice".to_owned() }.into());
        }
    }
    let (mut functions, mut called) = (BTreeMap::new(), BTreeSet::new());
    calls(nodes, nodes_extras, &mut called);
    while let Some(key) = called.pop_first() {
        let Some((proto, extras)) = unread.remove(&key) else { continue };
        let fail =
            |e| Kind::Function { name: shown(&key), problem: format!("has a default that is no attribute: {e}") };
        let defaults = extras.defaults().map_err(fail)?;
        calls(&proto.node, &extras.node, &mut called);
        calls_in(&defaults.0, &defaults.1, &mut called);
        let function = Function::read((proto, extras.node), defaults, shown(&key), files, opset, opsets)?;
        functions.insert(key, function);
    }
    Ok(functions)
}

/// Adds what these nodes, those of their subgraphs included, may call.
fn calls(nodes: &[NodeProto], extras: &[NodeExtras], found: &mut BTreeSet<Key>) {
    for (node, extras) in paired(nodes, extras) {
        let (overload, attributes) = extras.map_or(("", &[][..]), |e| (e.overload.as_str(), e.attribute.as_slice()));
        found.insert((domain(&node.domain).to_owned(), node.op_type.clone(), overload.to_owned()));
        calls_in(&node.attribute, attributes, found);
    }
}

/// Adds what the nodes of these graphs may call.
fn calls_in(attributes: &[AttributeProto], extras: &[AttributeExtras], found: &mut BTreeSet<Key>) {
    for (attribute, extras) in paired(attributes, extras) {
        let nodes = extras.and_then(|e| e.g.as_ref()).map_or(&[][..], |graph| &graph.node);
        attribute.g.iter().for_each(|graph| calls(&graph.node, nodes, found));
    }
}

fn shown((domain, name, overload): &Key) -> String {
    let name = if domain.is_empty() { name.clone() } else { format!("{domain}::{name}") };
    if overload.is_empty() { name } else { format!("{name}:{overload}") }
}

impl Function {
    fn read(
        (proto, extras): (FunctionProto, Vec<NodeExtras>),
        (defaults, defaults_extras): (Vec<AttributeProto>, Vec<AttributeExtras>),
        name: String,
        files: &mut Files,
        opset: i64,
        opsets: &BTreeMap<String, i64>,
    ) -> Result<Function, ImportError> {
        let fail = |problem: String| ImportError::from(Kind::Function { name: name.clone(), problem });
        // What it does not import itself is as the model has it.
        let mut own = opsets.clone();
        own.extend(proto.opset_import.iter().map(|set| (domain(&set.domain).to_owned(), set.version)));
        let opset = own.get("").copied().unwrap_or(opset);
        if !is_read(opset, &proto.node) {
            return Err(fail(format!(
                "is of opset {opset} of the default domain, {MIN_OPSET} to {MAX_OPSET} are supported"
            )));
        }
        let mut seen = BTreeSet::new();
        if let Some(input) = proto.input.iter().find(|input| input.is_empty() || !seen.insert(input.as_str())) {
            return Err(fail(format!("has the input {input:?} twice, or without a name")));
        }
        let mut reader = Reader { files, opsets: &own };
        let defaults = reader.defaults(&name, defaults, defaults_extras)?;
        let nodes = paired(proto.node, extras);
        let nodes = nodes.map(|(node, extras)| reader.node(node, extras, 0)).collect::<Result<Vec<_>, _>>()?;
        let (mut refs, mut size) = (Vec::new(), Size::default());
        nodes.iter().for_each(|node| size.add_node(node, &mut refs));
        Ok(Function {
            name,
            inputs: proto.input,
            outputs: proto.output,
            defaults,
            nodes,
            opsets: own,
            opset,
            refs,
            size,
        })
    }

    /// The nodes, bound to a call.
    fn bound(&self, call: &RawNode) -> Result<RawGraph, ImportError> {
        let mut given = Given { name: &call.name, attrs: BTreeMap::new(), graphs: BTreeMap::new() };
        for node in [&self.defaults, call] {
            given.attrs.extend(node.attrs.0.iter().map(|(name, attr)| (name.as_str(), attr)));
            given.graphs.extend(node.graphs.iter().map(|(name, graph)| (name.as_str(), graph)));
        }
        Ok(RawGraph {
            name: self.name.clone(),
            inputs: Vec::new(),
            outputs: self.outputs.iter().map(|name| given.named(name)).collect(),
            initializers: BTreeMap::new(),
            defaults: BTreeMap::new(),
            nodes: self.nodes.iter().map(|node| given.node(node)).collect::<Result<_, _>>()?,
        })
    }

    /// How large a copy is: what a file asks for must not be more than a machine has.
    fn size_of_copy(&self, call: &RawNode) -> Size {
        let mut size = self.size;
        size.add_bytes(call.name.len().saturating_mul(self.size.n_names));
        for name in &self.refs {
            if let Some(attr) = call.attrs.get(name).or_else(|| self.defaults.attrs.get(name)) {
                size.add_bytes(bytes_of(attr));
            }
            for (_, graph) in call.graphs.iter().chain(&self.defaults.graphs).filter(|(n, _)| n == name) {
                size.add_graph(graph, &mut Vec::new());
            }
        }
        size
    }
}

/// Nodes, names in them, and bytes of names and attributes.
#[derive(Clone, Copy, Default)]
struct Size {
    n_nodes: usize,
    n_names: usize,
    n_bytes: usize,
}

impl Size {
    fn add_bytes(&mut self, n: usize) {
        self.n_bytes = self.n_bytes.saturating_add(n);
    }

    fn add_names<'n>(&mut self, names: impl Iterator<Item = &'n String>) {
        for name in names {
            self.n_names += 1;
            self.add_bytes(name.len());
        }
    }

    /// Adds a node, and to `refs` the attributes of its function that it refers to.
    fn add_node(&mut self, node: &RawNode, refs: &mut Vec<String>) {
        self.n_nodes += 1;
        self.add_names([&node.name, &node.op].into_iter().chain(&node.inputs).chain(&node.outputs));
        node.attrs.0.values().for_each(|attr| self.add_bytes(bytes_of(attr)));
        refs.extend(node.refs.iter().map(|(_, of)| of.clone()));
        node.graphs.iter().for_each(|(_, graph)| self.add_graph(graph, refs));
    }

    fn add_graph(&mut self, graph: &RawGraph, refs: &mut Vec<String>) {
        self.add_names(graph.inputs.iter().map(|i| &i.name).chain(&graph.outputs).chain(graph.initializers.keys()));
        graph.nodes.iter().for_each(|node| self.add_node(node, refs));
    }
}

/// Bytes that a copy of an attribute takes; the data of tensors are shared.
fn bytes_of(attr: &Attr) -> usize {
    match attr {
        Attr::Ints(values) => values.len().saturating_mul(8),
        Attr::Floats(values) => values.len().saturating_mul(4),
        Attr::Str(text) => text.len(),
        Attr::Strs(texts) => texts.iter().fold(0, |sum, text| sum.saturating_add(text.len() + 24)),
        _ => 64,
    }
}

/// What the copy of a function is bound to.
struct Given<'c> {
    /// The node that calls.
    name: &'c str,
    attrs: BTreeMap<&'c str, &'c Attr>,
    graphs: BTreeMap<&'c str, &'c RawGraph>,
}

impl Given<'_> {
    fn named(&self, name: &str) -> String {
        if name.is_empty() { String::new() } else { format!("{}/{name}", self.name) }
    }

    fn node(&self, node: &RawNode) -> Result<RawNode, ImportError> {
        let names = |list: &[String]| list.iter().map(|name| self.named(name)).collect();
        let mut copy = RawNode {
            name: self.named(&node.name),
            domain: node.domain.clone(),
            op: node.op.clone(),
            overload: node.overload.clone(),
            inputs: names(&node.inputs),
            outputs: names(&node.outputs),
            attrs: node.attrs.clone(),
            graphs: Vec::with_capacity(node.graphs.len()),
            constant: node.constant.clone(),
            refs: Vec::new(),
        };
        for (attr, graph) in &node.graphs {
            copy.graphs.push((attr.clone(), self.graph(graph)?));
        }
        for (attr, of) in &node.refs {
            if let Some(value) = self.attrs.get(of.as_str()) {
                if node.is_constant() {
                    copy.constant = Some(read::constant((*value).clone()).map_err(form)?);
                } else {
                    copy.attrs.0.insert(attr.clone(), (*value).clone());
                }
            } else if let Some(graph) = self.graphs.get(of.as_str()) {
                let mut captured = Vec::new();
                body::free(graph, &mut Vec::new(), &mut captured);
                if let Some(name) = captured.first() {
                    return Err(form(format!(
                        "attribute {of:?} of the function {:?} calls is a graph that uses {name:?} from outside, which is not \
                         supported: make it an input of the function",
                        self.name
                    )));
                }
                copy.graphs.push((attr.clone(), (*graph).clone()));
            }
        }
        if node.is_constant() && copy.constant.is_none() {
            return Err(form(format!("the constant {:?} has no value: the call gives none", copy.name)));
        }
        Ok(copy)
    }

    fn graph(&self, graph: &RawGraph) -> Result<RawGraph, ImportError> {
        let input = |info: &ValueInfoProto| ValueInfoProto { name: self.named(&info.name), ..info.clone() };
        Ok(RawGraph {
            name: graph.name.clone(),
            inputs: graph.inputs.iter().map(input).collect(),
            outputs: graph.outputs.iter().map(|name| self.named(name)).collect(),
            initializers: graph.initializers.iter().map(|(n, tensor)| (self.named(n), tensor.clone())).collect(),
            defaults: graph.defaults.iter().map(|(n, tensor)| (self.named(n), tensor.clone())).collect(),
            nodes: graph.nodes.iter().map(|node| self.node(node)).collect::<Result<_, _>>()?,
        })
    }
}

impl<'a> Builder<'a> {
    /// The function that a node calls, where it calls one.
    pub(super) fn function(&self, raw: &RawNode) -> Option<&'a Function> {
        if self.model.functions.is_empty() {
            return None;
        }
        self.model.functions.get(&(raw.domain.clone(), raw.op.clone(), raw.overload.clone()))
    }

    /// Writes the nodes of a function in place of the node that calls it.
    pub(super) fn call(&mut self, raw: &RawNode, function: &'a Function, order: u32) -> Result<(), ImportError> {
        if self.calls.iter().any(|outer| std::ptr::eq(*outer, function)) {
            return Err(form(format!("the function {} calls itself, perhaps through others", function.name)));
        }
        if raw.inputs.len() > function.inputs.len() {
            return Err(Kind::Arity { given: raw.inputs.len(), min: 0, max: function.inputs.len() }.into());
        }
        if raw.outputs.len() > function.outputs.len() {
            return Err(Kind::Outputs { given: raw.outputs.len(), has: function.outputs.len() }.into());
        }
        let size = function.size_of_copy(raw);
        self.count_written(size.n_nodes.saturating_add(size.n_bytes / BYTES_PER_NODE).saturating_add(10))?;
        let mut formals = Vec::with_capacity(function.inputs.len());
        for (slot, formal) in function.inputs.iter().enumerate() {
            let given = raw.inputs.get(slot).filter(|name| !name.is_empty());
            formals.push((format!("{}/{formal}", raw.name), given.map_or(Ok(Bound::Absent), |name| self.bound(name))?));
        }
        let graph = function.bound(raw)?;
        // Its nodes see no names but their own.
        let scopes = std::mem::take(&mut self.scopes);
        self.calls.push(function);
        let results = self.scoped(|builder| {
            for (name, bound) in formals {
                builder.bind(&name, bound)?;
            }
            builder.nodes(&graph, Some(order))?;
            graph.outputs.iter().take(raw.outputs.len()).map(|name| builder.bound(name)).collect::<Result<Vec<_>, _>>()
        });
        self.calls.pop();
        self.scopes = scopes;
        self.bind_outputs(raw, results.map_err(ImportError::in_function)?).map(drop)
    }
}
