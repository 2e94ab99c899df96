//! The CPU reference as a device: runs the kernel-level graphs of a plan, node by node, with the operators' own
//! definitions.

use crate::ir::{Dim, Graph, Level, Module, NodeId, NodeKind, Op, OpError, Registry, Tensor, TensorType, ValueId};
use crate::ops;
use crate::ops::util::{elements, from_elements, n_elems};
use crate::program::{Entry, GraphError, HostStep, Port, Program, Region, SizeError, SizeRange, Sizes};
use indexmap::IndexMap;
use std::borrow::Cow;
use std::collections::BTreeMap;

mod replay;

/// A module that can be computed on the CPU.
#[derive(Debug)]
pub struct Reference {
    entries: IndexMap<String, Callable>,
}

/// A graph that can be computed on the CPU.
#[derive(Debug)]
struct Callable {
    graph: Graph,
    order: Vec<NodeId>,
    /// After which step each value is needed no more; outputs and what states become are not in it.
    last_use: BTreeMap<ValueId, usize>,
    /// Its inputs, and the sizes that change between runs.
    entry: Entry,
}

/// States between runs, by name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct States(BTreeMap<String, Tensor>);

impl States {
    /// What a state is by now.
    pub fn get(&self, name: &str) -> Option<&Tensor> {
        self.0.get(name)
    }
}

/// Why the reference cannot compute.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum CpuError {
    #[error(transparent)]
    Graph(#[from] GraphError),
    #[error("node {node:?}: {source}")]
    Op { node: String, source: OpError },
    #[error("input {name:?} is {given}, expected {expected}")]
    Input { name: String, given: String, expected: String },
    #[error("{given} inputs, expected {expected}")]
    Inputs { given: usize, expected: usize },
    #[error("input {0}")]
    Size(#[from] SizeError),
    #[error("node {node:?}: result {source}")]
    Count { node: String, source: SizeError },
    #[error("the program's graph has no node {0:?}")]
    Node(String),
    #[error("the program has no entry {0:?}")]
    Entry(String),
}

impl Reference {
    /// The reference of plan number `plan`, whose graph names operators of `registry`: those of a toolchain's own among
    /// them.
    ///
    /// # Errors
    /// The plan's graph does not read, or is not well formed.
    pub fn of(program: &Program, plan: usize, registry: &Registry) -> Result<Reference, CpuError> {
        Ok(Reference::of_module(program.module(plan, registry)?))
    }

    /// The reference of any graph whose constants are at hand.
    pub fn new(graph: Graph) -> Reference {
        Reference::of_module(Module::of(graph))
    }

    /// The reference of any module whose constants are at hand.
    pub fn of_module(module: Module) -> Reference {
        let entries = module.entries.into_iter().map(|(name, graph)| (name, Callable::new(graph)));
        Reference { entries: entries.collect() }
    }

    /// Computes all outputs of the first entry from all its inputs, both in the graph's order. Its states are what they
    /// are before the first run.
    ///
    /// # Errors
    /// An input has a wrong type or shape, or a node cannot be computed.
    pub fn run(&self, inputs: &[Tensor]) -> Result<Vec<Tensor>, CpuError> {
        self.run_with(inputs, &mut |_, _| {})
    }

    /// The same, and calls `tap` with each node and its results.
    ///
    /// # Errors
    /// As [`Reference::run`].
    pub fn run_with(&self, inputs: &[Tensor], tap: Tap<'_>) -> Result<Vec<Tensor>, CpuError> {
        let (name, _) = self.entries.first().ok_or_else(|| CpuError::Entry(String::new()))?;
        self.run_entry(name, inputs, &mut self.initial_states()?, tap)
    }

    /// The states before the first run.
    ///
    /// # Errors
    /// The data of an initial value is not here.
    pub fn initial_states(&self) -> Result<States, CpuError> {
        let mut states = States::default();
        for graph in self.entries.values().map(|callable| &callable.graph) {
            for state in graph.states() {
                let ty = graph.ty(state.node.out(0));
                let fault = |source| CpuError::Op { node: state.name.clone(), source };
                let initial = if *state.initial.ty() == *ty {
                    state.initial.clone()
                } else {
                    filled(&state.initial, ty).map_err(fault)?
                };
                states.0.insert(state.name.clone(), initial);
            }
        }
        Ok(states)
    }

    /// Computes all outputs of an entry from all its inputs and from states, which become what the entry stores; after
    /// an error they are as before.
    ///
    /// # Errors
    /// There is no such entry, an input has a wrong type or shape, or a node cannot be computed.
    pub fn run_entry(
        &self,
        entry: &str,
        inputs: &[Tensor],
        states: &mut States,
        tap: Tap<'_>,
    ) -> Result<Vec<Tensor>, CpuError> {
        self.entry(entry)?.run(inputs, states, tap)
    }

    fn entry(&self, name: &str) -> Result<&Callable, CpuError> {
        self.entries.get(name).ok_or_else(|| CpuError::Entry(name.to_owned()))
    }

    /// How many nodes of an entry compute something.
    pub fn n_nodes(&self, entry: &str) -> usize {
        self.entries.get(entry).map_or(0, Callable::n_nodes)
    }

    /// The operator of the node of this name in an entry.
    pub fn operator(&self, entry: &str, node: &str) -> Option<&'static str> {
        self.entries.get(entry)?.operator(node)
    }

    /// Computes one node of an entry, for host steps: operands by slot, constants taken from the graph, and the sizes
    /// that are known.
    ///
    /// # Errors
    /// There is no such node, or it cannot be computed.
    pub fn node(
        &self,
        entry: &str,
        node: &str,
        operands: &[Option<Tensor>],
        sizes: &Sizes,
    ) -> Result<Vec<Tensor>, CpuError> {
        self.entry(entry)?.node(node, operands, sizes)
    }
}

/// Called with each node and its results.
pub type Tap<'a> = &'a mut dyn FnMut(&crate::ir::Node, &[Tensor]);

/// A tensor of a type whose elements all are that of a scalar.
fn filled(scalar: &Tensor, ty: &TensorType) -> Result<Tensor, OpError> {
    let dims = ty.shape.known().unwrap_or_default();
    let n = n_elems(&dims)?;
    let (element, _) = elements(scalar)?;
    let mut bytes = Vec::new();
    // A small file can name a large state.
    let room = n.checked_mul(element.len()).filter(|n| bytes.try_reserve_exact(*n).is_ok());
    room.ok_or_else(|| OpError::unsupported(format!("{ty}: the host has no memory for it")))?;
    (0..n).for_each(|_| bytes.extend_from_slice(&element));
    from_elements(ty.dtype, &dims, bytes)
}

impl Callable {
    fn new(graph: Graph) -> Callable {
        let order = graph.order();
        let lives = crate::ir::memory::lifetimes(&graph, &order).into_iter();
        // Outputs are needed after the last step, which may read them too.
        let is_last = |value: &ValueId| graph.is_output(*value) || graph.is_kept(*value);
        let last_use = lives.filter(|(value, _)| !is_last(value)).map(|(value, (_, last))| (value, last)).collect();
        let sizes = graph
            .ranges()
            .into_iter()
            .map(|(name, range)| SizeRange { name, min: *range.start(), max: *range.end() })
            .collect();
        let inputs = graph.inputs().iter().map(|id| port(&graph, id.out(0))).collect();
        let entry = Entry { sizes, inputs, ..Entry::default() };
        Callable { graph, order, last_use, entry }
    }

    fn run(&self, inputs: &[Tensor], states: &mut States, tap: Tap<'_>) -> Result<Vec<Tensor>, CpuError> {
        let graph = &self.graph;
        if inputs.len() != graph.inputs().len() {
            return Err(CpuError::Inputs { given: inputs.len(), expected: graph.inputs().len() });
        }
        let mut values: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        let shapes: Vec<Vec<usize>> = inputs.iter().map(Tensor::dims).collect();
        let mut sizes = if self.entry.sizes.is_empty() { Sizes::new() } else { self.entry.sizes_of(&shapes)? };
        for (id, tensor) in graph.inputs().iter().zip(inputs) {
            let value = graph.value(id.out(0));
            let (ty, given) = (&value.ty, tensor.ty());
            if (ty.dtype, &ty.packing) != (given.dtype, &given.packing)
                || (self.entry.sizes.is_empty() && ty.shape != given.shape)
            {
                return Err(CpuError::Input {
                    name: value.name.clone(),
                    given: given.to_string(),
                    expected: ty.to_string(),
                });
            }
            values.insert(id.out(0), tensor.clone());
        }
        for (step, &id) in self.order.iter().enumerate() {
            let node = graph.node(id);
            match &node.kind {
                NodeKind::Input => {}
                NodeKind::State => {
                    let state = graph.state_of(id).and_then(|state| states.0.get(&state.name));
                    values.insert(id.out(0), state.cloned().ok_or_else(|| CpuError::Node(node.name.clone()))?);
                }
                NodeKind::Const(tensor) => {
                    values.insert(id.out(0), tensor.clone());
                }
                NodeKind::Op(op) => {
                    let operands = graph.operands(id);
                    let tensors: Vec<Option<&Tensor>> =
                        operands.iter().map(|v| v.and_then(|v| values.get(&v))).collect();
                    let results = self.compute(id, op, &tensors, &sizes)?;
                    if node.defined_symbol().is_some() {
                        self.record_sizes(id, &results, &mut sizes)?;
                    }
                    tap(node, &results);
                    for (out, tensor) in results.into_iter().enumerate() {
                        values.insert(id.out(out), tensor);
                    }
                    for value in operands.into_iter().flatten() {
                        if self.last_use.get(&value).is_some_and(|last| *last <= step) {
                            values.remove(&value);
                        }
                    }
                }
            }
        }
        let output = |o: &crate::ir::Output| {
            let missing = || CpuError::Node(o.name.clone());
            values.get(&o.value).cloned().ok_or_else(missing)
        };
        let outputs = graph.outputs().iter().map(output).collect::<Result<_, _>>()?;
        for state in graph.states() {
            if let Some(last) = values.get(&state.last) {
                states.0.insert(state.name.clone(), last.clone());
            }
        }
        Ok(outputs)
    }

    fn n_nodes(&self) -> usize {
        self.order.iter().filter(|id| self.graph.node(**id).op().is_some()).count()
    }

    fn operator(&self, name: &str) -> Option<&'static str> {
        let node = self.order.iter().map(|id| self.graph.node(*id)).find(|node| node.name == name)?;
        node.op().map(|op| op.def.name)
    }

    /// Records the sizes that the results of a node determine.
    fn record_sizes(&self, id: NodeId, results: &[Tensor], sizes: &mut Sizes) -> Result<(), CpuError> {
        let node = self.graph.node(id);
        let outputs = (0..node.outputs.len()).map(|out| port(&self.graph, id.out(out))).collect();
        let shapes: Vec<Vec<usize>> = results.iter().map(Tensor::dims).collect();
        let step = HostStep { node: node.name.clone(), inputs: Vec::new(), outputs };
        self.entry.sizes_after(&step, &shapes, sizes).map_err(|source| CpuError::Count { node: step.node, source })
    }

    /// The results of a node, as many as it has outputs, for these sizes.
    fn compute(
        &self,
        id: NodeId,
        op: &Op,
        operands: &[Option<&Tensor>],
        sizes: &Sizes,
    ) -> Result<Vec<Tensor>, CpuError> {
        let node = self.graph.node(id);
        let mut op = Cow::Borrowed(op);
        let mut changes = false;
        op.for_each_symbol(&mut |symbol| changes |= sizes.contains_key(symbol.name()));
        if changes {
            op.to_mut().substitute(&|symbol| sizes.get(symbol.name()).map(|&n| Dim::Known(n)));
        }
        let mut results = compute(self.graph.level, &op, operands, node.outputs.len()).map_err(|source| {
            // The indices are those of a node of the model.
            let own = if matches!(source, OpError::Index(_)) { node.origins().first() } else { None };
            CpuError::Op { node: own.unwrap_or(&node.name).clone(), source }
        })?;
        results.truncate(node.outputs.len());
        Ok(results)
    }

    fn node(&self, name: &str, operands: &[Option<Tensor>], sizes: &Sizes) -> Result<Vec<Tensor>, CpuError> {
        let id = self
            .order
            .iter()
            .copied()
            .find(|id| self.graph.node(*id).name == name)
            .ok_or_else(|| CpuError::Node(name.to_owned()))?;
        let node = self.graph.node(id);
        let op = node.op().ok_or_else(|| CpuError::Node(name.to_owned()))?;
        let own = self.graph.operands(id);
        let tensors: Vec<Option<&Tensor>> = own
            .iter()
            .enumerate()
            .map(|(slot, v)| {
                operands.get(slot).and_then(Option::as_ref).or_else(|| v.and_then(|v| self.graph.constant(v)))
            })
            .collect();
        self.compute(id, op, &tensors, sizes)
    }
}

/// A value as a port without memory.
fn port(graph: &Graph, value: ValueId) -> Port {
    let crate::ir::Value { name, ty } = graph.value(value);
    let region = Region { allocation: 0, offset: 0, bytes: 0 };
    Port { name: name.clone(), dtype: ty.dtype, device_dtype: ty.dtype, shape: ty.shape.0.clone(), region }
}

/// Operators of the lower levels stand in normal form, which their own reference computes; those of the ONNX level
/// expand first.
fn compute(
    level: Level,
    op: &crate::ir::Op,
    operands: &[Option<&Tensor>],
    n_outputs: usize,
) -> Result<Vec<Tensor>, OpError> {
    match op.def.eval {
        Some(eval) if level != Level::Onnx => eval(&op.attrs, operands),
        _ => ops::reference::evaluate(op, operands, n_outputs),
    }
}
