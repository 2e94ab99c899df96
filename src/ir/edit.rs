//! Edits as values: a pass looks at a graph it cannot change and says what should change.

use super::graph::{NodeKind, Value};
use super::{Class, Dim, Format, Graph, Level, Node, NodeId, Op, OpError, STATE_STORE, Tensor, TensorType, ValueId};
use std::collections::BTreeMap;

/// A value of the graph under edit, or one that the edit adds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Val {
    /// A value of the graph.
    Old(ValueId),
    /// Output `out` of the `node`-th node that the edit adds.
    New {
        /// Which new node, in order of addition.
        node: usize,
        /// Which of its outputs.
        out: usize,
    },
}

impl From<ValueId> for Val {
    fn from(value: ValueId) -> Val {
        Val::Old(value)
    }
}

/// A new node was refused.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{op}({operands}): {source}")]
pub struct EditError {
    op: &'static str,
    operands: String,
    source: OpError,
}

/// An edit under construction.
pub struct Edit<'g> {
    graph: &'g Graph,
    patch: Patch,
    context: Option<NodeId>,
    /// Other nodes whose origin nodes added now take over.
    others: Vec<NodeId>,
}

/// What should change in a graph.
#[derive(Default)]
pub struct Patch {
    new: Vec<NewNode>,
    replaced: Vec<(ValueId, Val)>,
    inserted: Vec<(ValueId, Val)>,
    operands: Vec<(NodeId, usize, Val)>,
    formats: Vec<(NodeId, Option<Format>)>,
    level: Option<Level>,
    remove_dead: bool,
    /// New nodes that are states: their names and initial values.
    states: Vec<(usize, String, Tensor)>,
    outputs: Vec<(String, Val)>,
    /// Outputs, by index, that get another value.
    moved_outputs: Vec<(usize, Val)>,
    /// What states become.
    stored: Vec<(String, Val)>,
}

struct NewNode {
    node: Node,
    operands: Vec<Option<Val>>,
}

impl<'g> Edit<'g> {
    /// An edit that changes nothing yet.
    pub fn new(graph: &'g Graph) -> Edit<'g> {
        Edit { graph, patch: Patch::default(), context: None, others: Vec::new() }
    }

    /// The graph as it is before the edit.
    pub fn graph(&self) -> &'g Graph {
        self.graph
    }

    /// Says on whose behalf nodes are added from here on: they take over the node's origin, format and place in the
    /// file, and names derived from its name.
    pub fn on_behalf_of(&mut self, node: NodeId) {
        self.context = Some(node);
        self.others.clear();
    }

    /// The same for several nodes: the first gives format, place and name, all give their origins.
    pub fn on_behalf_of_all(&mut self, node: NodeId, others: Vec<NodeId>) {
        self.context = Some(node);
        self.others = others;
    }

    /// The type of a value.
    pub fn ty(&self, val: Val) -> &TensorType {
        match val {
            Val::Old(value) => self.graph.ty(value),
            Val::New { node, out } => &self.patch.new[node].node.outputs[out].ty,
        }
    }

    /// The data of a value, where it is a constant.
    pub fn constant(&self, val: Val) -> Option<&Tensor> {
        match val {
            Val::Old(value) => self.graph.constant(value),
            Val::New { node, .. } => self.patch.new[node].node.constant(),
        }
    }

    /// The elements of a value that is a list of sizes ([`super::SIZES`]).
    pub fn sizes(&self, val: Val) -> Option<&[Dim]> {
        match val {
            Val::Old(value) => self.graph.sizes(value),
            Val::New { node, .. } => self.patch.new[node].node.sizes(),
        }
    }

    /// The name of a value of the graph; for new ones the name they would like.
    pub fn name(&self, val: Val) -> &str {
        match val {
            Val::Old(value) => &self.graph.value(value).name,
            Val::New { node, out } => &self.patch.new[node].node.outputs[out].name,
        }
    }

    /// Adds a use of an operator with one output.
    ///
    /// # Errors
    /// The operator's type rule refuses the operands.
    pub fn add(&mut self, op: Op, operands: &[Val]) -> Result<Val, EditError> {
        let operands: Vec<_> = operands.iter().copied().map(Some).collect();
        Ok(self.add_all(op, &operands, 1)?[0])
    }

    /// Adds a use of an operator with `n_outputs` outputs, some operands perhaps absent.
    ///
    /// # Errors
    /// The operator's type rule refuses the operands.
    pub fn add_all(&mut self, op: Op, operands: &[Option<Val>], n_outputs: usize) -> Result<Vec<Val>, EditError> {
        let types = self.types(&op, operands, n_outputs)?;
        let name = match self.context {
            Some(node) => format!("{}.{}", self.graph.node(node).name, op.def.name),
            None => op.def.name.to_owned(),
        };
        Ok(self.push(&name, NodeKind::Op(op), types, operands.to_vec()))
    }

    /// The types of the results of a use of an operator.
    fn types(&self, op: &Op, operands: &[Option<Val>], n_outputs: usize) -> Result<Vec<TensorType>, EditError> {
        let inputs: Vec<_> = operands.iter().map(|v| v.map(|v| self.ty(v))).collect();
        let consts: Vec<_> = operands.iter().map(|v| v.and_then(|v| self.constant(v))).collect();
        let sizes: Vec<_> = operands.iter().map(|v| v.and_then(|v| self.sizes(v))).collect();
        let refuse = |source| EditError {
            op: op.def.name,
            operands: inputs
                .iter()
                .map(|t| t.map_or("absent".to_owned(), |t| t.to_string()))
                .collect::<Vec<_>>()
                .join(", "),
            source,
        };
        let mut types = super::Infer { attrs: &op.attrs, inputs: &inputs, consts: &consts, sizes: &sizes, n_outputs }
            .types(op.def)
            .map_err(&refuse)?;
        if types.len() < n_outputs {
            return Err(refuse(OpError::unsupported(format!("{} outputs of {}", n_outputs, types.len()))));
        }
        // A rule may know of outputs that this use does not have.
        types.truncate(n_outputs);
        Ok(types)
    }

    /// How many nodes were added: the next one is the node of [`Val::New`] of that number.
    pub fn n_new(&self) -> usize {
        self.patch.new.len()
    }

    /// The operator of new node number `node`, unless it is a constant, and its operands.
    pub fn new_op(&self, node: usize) -> Option<(&Op, &[Option<Val>])> {
        let new = self.patch.new.get(node)?;
        Some((new.node.op()?, &new.operands))
    }

    /// How many results new node number `node` has.
    pub fn n_outputs(&self, node: usize) -> usize {
        self.patch.new.get(node).map_or(0, |new| new.node.outputs.len())
    }

    /// Gives new node number `node` other attributes and operands; its results are typed anew.
    ///
    /// # Errors
    /// The operator's type rule refuses them.
    pub fn rewrite_new(&mut self, node: usize, op: Op, operands: &[Option<Val>]) -> Result<(), EditError> {
        let types = self.types(&op, operands, self.patch.new[node].node.outputs.len())?;
        let new = &mut self.patch.new[node];
        new.node.outputs.iter_mut().zip(types).for_each(|(value, ty)| value.ty = ty);
        new.node.kind = NodeKind::Op(op);
        new.operands = operands.to_vec();
        Ok(())
    }

    /// Adds a constant.
    pub fn add_const(&mut self, tensor: Tensor) -> Val {
        let name = self.context.map_or("const".to_owned(), |node| format!("{}.const", self.graph.node(node).name));
        self.add_named_const(&name, tensor)
    }

    /// Adds a constant with a name, `.2` and so on added where it is taken.
    pub fn add_named_const(&mut self, name: &str, tensor: Tensor) -> Val {
        let ty = tensor.ty().clone();
        self.push(name, NodeKind::Const(tensor), vec![ty], Vec::new())[0]
    }

    /// Adds an input, the last: `.2` and so on is added to its name where a value has it.
    pub fn add_input(&mut self, name: &str, ty: TensorType) -> Val {
        self.push(name, NodeKind::Input, vec![ty], Vec::new())[0]
    }

    /// Adds an output, the last. The verifier refuses a name that another output has.
    pub fn add_output(&mut self, name: &str, val: Val) {
        self.patch.outputs.push((name.to_owned(), val));
    }

    /// Makes `val` the value of the output of this index.
    pub fn set_output(&mut self, output: usize, val: Val) {
        self.patch.moved_outputs.push((output, val));
    }

    /// Adds a state, and gives what it is at the start of a run; `initial` is a tensor of its type or a scalar of its
    /// element type. The verifier refuses a name that another state has.
    pub fn add_state(&mut self, name: &str, ty: TensorType, initial: Tensor) -> Val {
        let val = self.push(name, NodeKind::State, vec![ty], Vec::new())[0];
        self.patch.states.push((self.patch.new.len() - 1, name.to_owned(), initial));
        val
    }

    /// Makes `val`, the result of a store, what the state of this name is after a run.
    pub fn set_state(&mut self, name: &str, val: Val) {
        self.patch.stored.push((name.to_owned(), val));
    }

    fn push(&mut self, name: &str, kind: NodeKind, types: Vec<TensorType>, operands: Vec<Option<Val>>) -> Vec<Val> {
        let outputs: Vec<_> = types
            .into_iter()
            .enumerate()
            .map(|(i, ty)| Value { name: if i == 0 { name.to_owned() } else { format!("{name}:{i}") }, ty })
            .collect();
        let mut new = Node::new(name, kind, outputs);
        if let Some(context) = self.context {
            let from = self.graph.node(context);
            new.order = from.order;
            if matches!(new.kind, NodeKind::Op(_)) {
                // A node without floats has no format, whatever it was made for, nor has one that stores a state.
                let has_floats =
                    new.outputs.iter().any(|v| v.ty.dtype.class() == Class::Float || v.ty.packing.is_some());
                let stores = new.op().is_some_and(|op| op.def.name == STATE_STORE);
                new.format = if has_floats && !stores { from.format } else { None };
                new.origin = from.origins().to_vec();
                for origin in self.others.iter().flat_map(|other| self.graph.node(*other).origins()) {
                    if !new.origin.contains(origin) {
                        new.origin.push(origin.clone());
                    }
                }
            }
        }
        let node = self.patch.new.len();
        let n_outputs = new.outputs.len();
        self.patch.new.push(NewNode { node: new, operands });
        (0..n_outputs).map(|out| Val::New { node, out }).collect()
    }

    /// Names a new node and its first output.
    pub fn set_name(&mut self, val: Val, name: &str) {
        if let Val::New { node, .. } = val {
            let new = &mut self.patch.new[node].node;
            name.clone_into(&mut new.name);
            if let Some(first) = new.outputs.first_mut() {
                name.clone_into(&mut first.name);
            }
        }
    }

    /// Sets which imported nodes a new node computes.
    pub fn set_origin(&mut self, val: Val, origin: Vec<String>) {
        if let Val::New { node, .. } = val {
            self.patch.new[node].node.origin = origin;
        }
    }

    /// Puts `new` in the place of `old` everywhere, nodes of this edit included. The old producer goes when nothing
    /// needs it any more, and the new one takes over its names.
    pub fn replace(&mut self, old: ValueId, new: Val) {
        self.patch.replaced.push((old, new));
    }

    /// Puts `new`, which is computed from `old`, between `old` and all consumers it has before the edit.
    pub fn insert_after(&mut self, old: ValueId, new: Val) {
        self.patch.inserted.push((old, new));
    }

    /// Makes `val` operand `slot` of a node of the graph.
    pub fn set_operand(&mut self, node: NodeId, slot: usize, val: Val) {
        self.patch.operands.push((node, slot, val));
    }

    /// Sets the format of a node of the graph.
    pub fn set_format(&mut self, node: NodeId, format: Option<Format>) {
        self.patch.formats.push((node, format));
    }

    /// Sets the format of a node that this edit adds.
    pub fn set_new_format(&mut self, val: Val, format: Option<Format>) {
        if let Val::New { node, .. } = val {
            self.patch.new[node].node.format = format;
        }
    }

    /// Says that after this edit the graph is of another level.
    pub fn set_level(&mut self, level: Level) {
        self.patch.level = Some(level);
    }

    /// Says that whatever no output needs goes.
    pub fn remove_dead(&mut self) {
        self.patch.remove_dead = true;
    }

    /// The finished edit.
    pub fn finish(self) -> Patch {
        self.patch
    }
}

impl Patch {
    /// Whether this changes nothing.
    pub fn is_empty(&self) -> bool {
        self.new.is_empty()
            && self.replaced.is_empty()
            && self.inserted.is_empty()
            && self.operands.is_empty()
            && self.formats.is_empty()
            && self.level.is_none()
            && self.outputs.is_empty()
            && self.moved_outputs.is_empty()
            && self.stored.is_empty()
            && !self.remove_dead
    }
}

/// What stands in for each value in the end: a replacement may itself be replaced by the same edit. Each link of a
/// chain is followed once.
fn resolved(mut replaced: BTreeMap<ValueId, Val>) -> BTreeMap<ValueId, Val> {
    let mut done: BTreeMap<ValueId, Val> = BTreeMap::new();
    for start in replaced.keys().copied().collect::<Vec<_>>() {
        let mut path = Vec::new();
        let mut end = Val::Old(start);
        while let Val::Old(value) = end {
            if let Some(known) = done.get(&value) {
                end = *known;
                break;
            }
            // Links are taken out as they are followed, so that even a circle ends.
            let Some(next) = replaced.remove(&value) else { break };
            path.push(value);
            end = next;
        }
        done.extend(path.into_iter().map(|value| (value, end)));
    }
    done
}

impl Graph {
    /// Carries out an edit that was made for this very graph. Gives whether that changed anything.
    pub fn apply(&mut self, mut patch: Patch) -> bool {
        let remove_dead = std::mem::take(&mut patch.remove_dead);
        let changed = !patch.is_empty();
        if changed {
            self.rewrite(patch);
        }
        let n_dead = if remove_dead { self.remove_dead() } else { 0 };
        changed || n_dead > 0
    }

    fn rewrite(&mut self, patch: Patch) {
        let replaced = resolved(patch.replaced.iter().copied().collect());
        let resolve = |val: Val| match val {
            Val::Old(value) => replaced.get(&value).copied().unwrap_or(val),
            Val::New { .. } => val,
        };
        let mut lost: Vec<NodeId> = Vec::new();
        // Every consumer, before new nodes are among them.
        let users: Vec<_> =
            patch.replaced.iter().chain(&patch.inserted).map(|(old, new)| (*old, *new, self.users(*old))).collect();

        let ids: Vec<NodeId> = patch.new.iter().map(|new| self.insert(new.node.clone(), &[])).collect();
        for id in ids.iter().filter(|id| self.node(**id).kind == NodeKind::Input).copied().collect::<Vec<_>>() {
            self.push_input(id);
        }
        for (node, name, initial) in patch.states {
            self.push_state(&name, ids[node], initial);
        }
        let place = |val: Val| match val {
            Val::Old(value) => value,
            Val::New { node, out } => ids[node].out(out),
        };
        let mut wires = self.unwire();
        for (new, id) in patch.new.iter().zip(&ids) {
            for (slot, operand) in new.operands.iter().enumerate() {
                if let Some(val) = operand {
                    wires.set(*id, slot, place(resolve(*val)));
                }
            }
        }
        let mut ports: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        self.outputs().iter().enumerate().for_each(|(i, output)| ports.entry(output.value).or_default().push(i));
        for (old, new, consumers) in users {
            let to = place(resolve(new));
            for (consumer, slot) in consumers {
                wires.set(consumer, slot, to);
            }
            for port in ports.remove(&old).unwrap_or_default() {
                self.outputs_mut()[port].value = to;
                ports.entry(to).or_default().push(port);
            }
            self.states_mut()
                .iter_mut()
                .filter(|state| state.last == old && state.node != old.node)
                .for_each(|state| state.last = to);
            lost.push(old.node);
        }
        for (output, val) in patch.moved_outputs {
            lost.push(self.outputs()[output].value.node);
            self.outputs_mut()[output].value = place(resolve(val));
        }
        for (name, val) in patch.outputs {
            self.add_output(&name, place(resolve(val)));
        }
        for (name, val) in patch.stored {
            lost.extend(self.state_named(&name).map(|state| state.last.node));
            self.set_state(&name, place(resolve(val)));
        }
        for (node, slot, val) in patch.operands {
            lost.extend(wires.get(node, slot).map(|v| v.node));
            wires.set(node, slot, place(resolve(val)));
        }
        for (node, format) in patch.formats {
            self.node_mut(node).format = format;
        }
        self.hand_over_names(&patch.replaced, &ids);
        lost.extend(&ids);
        self.rewire(wires, lost);
        if let Some(level) = patch.level {
            self.level = level;
        }
    }

    /// Gives each new node that stands in for an old one the old one's names, so that a rewrite is a small diff.
    fn hand_over_names(&mut self, replaced: &[(ValueId, Val)], ids: &[NodeId]) {
        for &(old, new) in replaced {
            let Val::New { node, out } = new else { continue };
            let heir = ids[node];
            let mut values: Vec<_> = self.node(heir).outputs.iter().map(|v| v.name.clone()).collect();
            if values.len() != 1 && self.node(old.node).outputs.len() != values.len() {
                continue;
            }
            let (node_name, value_name) = (self.node(old.node).name.clone(), self.value(old).name.clone());
            values[out] = value_name.clone();
            // The old node keeps a name until it goes: it may still be needed for another output.
            let mut leftover: Vec<_> = self.node(old.node).outputs.iter().map(|v| v.name.clone()).collect();
            leftover[old.out] = format!("{value_name}.old");
            let is_const = matches!(self.node(heir).kind, NodeKind::Const(_));
            let old_name = if out == 0 { format!("{node_name}.old") } else { node_name.clone() };
            self.rename(old.node, old_name, leftover);
            let heir_name = match (out, is_const) {
                (0, false) => node_name,
                (0, true) => value_name,
                _ => self.node(heir).name.clone(),
            };
            self.rename(heir, heir_name, values);
        }
    }
}
