//! The graph: nodes that produce named values, on petgraph.
//!
//! Names are identity. Indices of petgraph stay inside this module: a `StableGraph` hands a removed node's index to the
//! next one, and orders that depend on indices or on the order of edge insertion are never printed, planned or
//! compared.

mod order;
mod states;
mod symbols;
mod wires;

pub use states::{Late, Ordering, State};

use super::{Attr, Format, Infer, Op, OpError, Tensor, TensorType};
use petgraph::Direction;
use petgraph::stable_graph::{NodeIndex, StableDiGraph};
use petgraph::visit::EdgeRef;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// What operators a graph may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Operators of ONNX and composites of them; what is exported.
    Onnx,
    /// The few operators that carry all others.
    Core,
    /// Core operators, fused and packed, one kernel each.
    Kernel,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Level::Onnx => "onnx",
            Level::Core => "core",
            Level::Kernel => "kernel",
        })
    }
}

/// A node of one graph. Valid until the next edit of that graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(NodeIndex);

/// One output of a node. Valid until the next edit of its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId {
    /// The producer.
    pub node: NodeId,
    /// Which of its outputs, 0-based.
    pub out: usize,
}

impl NodeId {
    /// Output number `out`.
    pub fn out(self, out: usize) -> ValueId {
        ValueId { node: self, out }
    }
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// An input of the graph.
    Input,
    /// A constant.
    Const(Tensor),
    /// What a state is at the start of a run ([`State`]).
    State,
    /// A use of an operator.
    Op(Op),
}

/// One output of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Unique in its graph.
    pub name: String,
    /// Its type.
    pub ty: TensorType,
}

/// A node with all it knows but its operands, which are edges.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique among nodes. An unnamed ONNX node is named after its first output.
    pub name: String,
    /// What it is.
    pub kind: NodeKind,
    /// What it produces.
    pub outputs: Vec<Value>,
    /// The format that `assign_precision` chose.
    pub format: Option<Format>,
    /// The imported nodes that this one computes, in order, where they differ from its own name.
    pub origin: Vec<String>,
    /// Position in the imported file: what breaks ties in [`Graph::file_order`].
    pub order: u32,
}

impl Node {
    /// The operator, where this is a use of one.
    pub fn op(&self) -> Option<&Op> {
        if let NodeKind::Op(op) = &self.kind { Some(op) } else { None }
    }

    /// The data, where this is a constant.
    pub fn constant(&self) -> Option<&Tensor> {
        if let NodeKind::Const(tensor) = &self.kind { Some(tensor) } else { None }
    }

    /// The imported nodes that this one computes: `origin`, or its own name where that is empty.
    pub fn origins(&self) -> &[String] {
        if self.origin.is_empty() { std::slice::from_ref(&self.name) } else { &self.origin }
    }
}

/// Which operand of the consumer an edge is, and which output of the producer it carries.
#[derive(Clone, Copy, Debug)]
struct Operand {
    slot: usize,
    out: usize,
}

/// An output of the graph: a port with a name of its own, since passes may replace the value behind it.
#[derive(Clone, Debug, PartialEq)]
pub struct Output {
    /// The name of the port.
    pub name: String,
    /// The value behind it.
    pub value: ValueId,
}

/// A directed acyclic graph of nodes.
#[derive(Clone)]
pub struct Graph {
    /// The model's name.
    pub name: String,
    /// What operators it may hold.
    pub level: Level,
    graph: StableDiGraph<Node, Operand>,
    inputs: Vec<NodeId>,
    defaults: BTreeMap<String, Tensor>,
    states: Vec<State>,
    outputs: Vec<Output>,
    node_names: BTreeSet<String>,
    value_names: BTreeSet<String>,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: &str, level: Level) -> Graph {
        Graph {
            name: name.to_owned(),
            level,
            graph: StableDiGraph::new(),
            inputs: Vec::new(),
            defaults: BTreeMap::new(),
            states: Vec::new(),
            outputs: Vec::new(),
            node_names: BTreeSet::new(),
            value_names: BTreeSet::new(),
        }
    }

    /// Adds an input.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> ValueId {
        let node = self.insert(Node::new(name, NodeKind::Input, vec![Value { name: name.to_owned(), ty }]), &[]);
        self.inputs.push(node);
        node.out(0)
    }

    /// Says that a node of the kind input, which was inserted, is an input of the graph: the last.
    pub(super) fn push_input(&mut self, node: NodeId) {
        self.inputs.push(node);
    }

    /// Adds an input that need not be given: then it is `default`, whose type it has.
    pub fn add_input_with(&mut self, name: &str, default: Tensor) -> ValueId {
        let value = self.add_input(name, default.ty().clone());
        self.defaults.insert(self.value(value).name.clone(), default);
        value
    }

    /// The values of inputs that need not be given, by name.
    pub fn defaults(&self) -> &BTreeMap<String, Tensor> {
        &self.defaults
    }

    /// The value of an input that need not be given.
    pub fn default_of(&self, input: NodeId) -> Option<&Tensor> {
        self.node(input).outputs.first().and_then(|value| self.defaults.get(&value.name))
    }

    /// Adds a constant.
    pub fn add_const(&mut self, name: &str, tensor: Tensor) -> ValueId {
        let ty = tensor.ty().clone();
        self.insert(Node::new(name, NodeKind::Const(tensor), vec![Value { name: name.to_owned(), ty }]), &[]).out(0)
    }

    /// Adds a use of an operator whose outputs have these names, typed by the operator's rule.
    ///
    /// # Errors
    /// The rule refuses the operands.
    pub fn add_op(
        &mut self,
        name: &str,
        op: Op,
        operands: &[Option<ValueId>],
        outputs: &[String],
    ) -> Result<NodeId, OpError> {
        let types = self.infer(&op, operands, outputs.len())?;
        let outputs = outputs.iter().zip(types).map(|(name, ty)| Value { name: name.clone(), ty }).collect();
        Ok(self.insert(Node::new(name, NodeKind::Op(op), outputs), operands))
    }

    /// Adds a node as it is. Names that are taken gain `.2`, `.3` and so on.
    pub fn insert(&mut self, mut node: Node, operands: &[Option<ValueId>]) -> NodeId {
        node.name = unique(&mut self.node_names, node.name);
        for value in &mut node.outputs {
            value.name = unique(&mut self.value_names, std::mem::take(&mut value.name));
        }
        let id = NodeId(self.graph.add_node(node));
        for (slot, operand) in operands.iter().enumerate() {
            if let Some(value) = operand {
                self.graph.add_edge(value.node.0, id.0, Operand { slot, out: value.out });
            }
        }
        id
    }

    /// Adds an output port.
    pub fn add_output(&mut self, name: &str, value: ValueId) {
        self.outputs.push(Output { name: name.to_owned(), value });
    }

    /// Applies the type rule of `op` to values of this graph.
    ///
    /// # Errors
    /// The rule refuses the operands, or one of them or a result has a shape that no tensor has.
    pub fn infer(&self, op: &Op, operands: &[Option<ValueId>], n_outputs: usize) -> Result<Vec<TensorType>, OpError> {
        let inputs: Vec<_> = operands.iter().map(|v| v.map(|v| self.ty(v))).collect();
        let consts: Vec<_> = operands.iter().map(|v| v.and_then(|v| self.constant(v))).collect();
        let sizes: Vec<_> = operands.iter().map(|v| v.and_then(|v| self.sizes(v))).collect();
        Infer { attrs: &op.attrs, inputs: &inputs, consts: &consts, sizes: &sizes, n_outputs }.types(op.def)
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.graph[id.0]
    }

    pub(super) fn node_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.graph[id.0]
    }

    /// Number of nodes, inputs and constants included.
    pub fn n_nodes(&self) -> usize {
        self.graph.node_count()
    }

    /// The inputs, in the model's order.
    pub fn inputs(&self) -> &[NodeId] {
        &self.inputs
    }

    /// The outputs, in the model's order.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    pub(super) fn outputs_mut(&mut self) -> &mut [Output] {
        &mut self.outputs
    }

    /// The name and type of a value.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.node(id.node).outputs[id.out]
    }

    /// The type of a value.
    pub fn ty(&self, id: ValueId) -> &TensorType {
        &self.value(id).ty
    }

    /// The data of a value, where it is a constant.
    pub fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.node(id.node).constant()
    }

    /// Calls `f` with every constant, those in attributes, in the graphs among these, the defaults of inputs and the
    /// initial values of states included.
    pub fn for_each_constant(&self, f: &mut dyn FnMut(&Tensor)) {
        self.defaults.values().for_each(&mut *f);
        self.states.iter().for_each(|state| f(&state.initial));
        for node in self.graph.node_weights() {
            match &node.kind {
                NodeKind::Input | NodeKind::State => {}
                NodeKind::Const(tensor) => f(tensor),
                NodeKind::Op(op) => op.attrs.0.values().for_each(|attr| match attr {
                    Attr::Tensor(tensor) => f(tensor),
                    Attr::Graph(body) => body.for_each_constant(f),
                    _ => {}
                }),
            }
        }
    }

    /// The operands of a node by slot, `None` where an optional one is absent.
    pub fn operands(&self, id: NodeId) -> Vec<Option<ValueId>> {
        let mut operands = Vec::new();
        for edge in self.graph.edges_directed(id.0, Direction::Incoming) {
            let Operand { slot, out } = *edge.weight();
            if operands.len() <= slot {
                operands.resize(slot + 1, None);
            }
            operands[slot] = Some(NodeId(edge.source()).out(out));
        }
        operands
    }

    /// Every (consumer, slot) of a value, in file order.
    pub fn users(&self, value: ValueId) -> Vec<(NodeId, usize)> {
        let mut users: Vec<_> = self
            .graph
            .edges_directed(value.node.0, Direction::Outgoing)
            .filter(|edge| edge.weight().out == value.out)
            .map(|edge| (NodeId(edge.target()), edge.weight().slot))
            .collect();
        users.sort_by_key(|&(node, slot)| (self.node(node).order, node, slot));
        users
    }

    /// Whether a value is an output of the graph.
    pub fn is_output(&self, value: ValueId) -> bool {
        self.outputs.iter().any(|output| output.value == value)
    }

    /// The value of this name.
    pub fn value_named(&self, name: &str) -> Option<ValueId> {
        self.graph.node_indices().find_map(|index| {
            let out = self.graph[index].outputs.iter().position(|v| v.name == name)?;
            Some(NodeId(index).out(out))
        })
    }

    /// Gives a node and its outputs names that are free, or frees those it has.
    pub(super) fn rename(&mut self, id: NodeId, name: String, values: Vec<String>) {
        self.forget_names(id);
        let name = unique(&mut self.node_names, name);
        let values: Vec<_> = values.into_iter().map(|v| unique(&mut self.value_names, v)).collect();
        let node = &mut self.graph[id.0];
        node.name = name;
        for (value, name) in node.outputs.iter_mut().zip(values) {
            value.name = name;
        }
    }

    pub(super) fn forget_names(&mut self, id: NodeId) {
        let Graph { graph, node_names, value_names, .. } = self;
        let node = &graph[id.0];
        node_names.remove(&node.name);
        for value in &node.outputs {
            value_names.remove(&value.name);
        }
    }
}

impl Node {
    /// A node without format or origin.
    pub fn new(name: &str, kind: NodeKind, outputs: Vec<Value>) -> Node {
        Node { name: name.to_owned(), kind, outputs, format: None, origin: Vec::new(), order: 0 }
    }
}

/// The number to try after `n`, where `name.n` is one of `n_taken` names that are taken: the next one for a while, then
/// in leaps, so that a file of thousands of equal names does not make us count them all for each.
pub(crate) fn next_number(n: u64, n_taken: usize) -> u64 {
    let behind = n.saturating_sub(n_taken as u64);
    match n {
        0..64 => n + 1,
        _ if n < n_taken as u64 => n_taken as u64,
        _ if behind < 1 << 20 => n + behind + 1,
        _ => n.wrapping_add(1),
    }
}

fn unique(taken: &mut BTreeSet<String>, name: String) -> String {
    if taken.insert(name.clone()) {
        return name;
    }
    let mut n = 2u64;
    loop {
        let candidate = format!("{name}.{n}");
        if taken.insert(candidate.clone()) {
            return candidate;
        }
        n = next_number(n, taken.len());
    }
}

/// Graphs are equal when the same names stand for the same things, whatever their indices.
impl PartialEq for Graph {
    fn eq(&self, other: &Graph) -> bool {
        let view = |g: &Graph| -> Vec<_> {
            g.order()
                .into_iter()
                .map(|id| {
                    let operands: Vec<_> =
                        g.operands(id).into_iter().map(|v| v.map(|v| g.value(v).name.clone())).collect();
                    (Node { order: 0, ..g.node(id).clone() }, operands)
                })
                .collect()
        };
        let ports = |g: &Graph| -> Vec<_> {
            g.outputs.iter().map(|o| (o.name.clone(), g.value(o.value).name.clone())).collect()
        };
        self.name == other.name
            && self.level == other.level
            && self.defaults == other.defaults
            && states::named(self) == states::named(other)
            && ports(self) == ports(other)
            && view(self) == view(other)
    }
}

impl fmt::Debug for Graph {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
