//! The verifier. A graph is well formed when
//!
//! 1. its edges close no circle, and every operand is an output that its producer has;
//! 2. every operator may stand at the graph's level, has as many operands as it takes, and no attribute that it does
//!    not know or that is of another kind;
//! 3. the type of every value is what the operator's rule gives, a constant's is that of its data, and no size is
//!    negative or more than an address space holds;
//! 4. only uses of operators have formats;
//! 5. names of nodes and of values are unique, and ports are too;
//! 6. a data-dependent size is defined by exactly one node and by no input, and nothing that this node is
//!    computed from mentions it;
//! 7. a state has a known size, and an initial value of its type or of one element; every store is over a version of a
//!    state, over each there is at most one, and all of them lead to what the state is after the run.
//!
//! A fault after a pass is a bug of that pass, whatever the model was.

use super::graph::NodeKind;
use super::{Class, Graph, NodeId};
use std::collections::BTreeSet;
use std::fmt;

/// Every fault of a graph.
#[derive(Clone, Debug)]
pub struct Faults {
    faults: Vec<Fault>,
    text: String,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// The node it is in.
    pub node: String,
    /// What is wrong.
    pub message: String,
}

impl Faults {
    pub(super) fn of(faults: Vec<Fault>) -> Faults {
        let line = |fault: &Fault| format!("{:?}: {}\n", fault.node, fault.message);
        Faults { text: faults.iter().map(line).collect(), faults }
    }

    /// The faults, in order of the text.
    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.faults.iter()
    }
}

impl std::error::Error for Faults {}

impl fmt::Display for Faults {
    /// Each fault under the line of its node.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} faults\n{}", self.faults.len(), self.text)
    }
}

impl Graph {
    /// Checks all the rules at the head of this file.
    ///
    /// # Errors
    /// All faults found.
    pub fn verify(&self) -> Result<(), Faults> {
        let mut faults: Vec<Fault> = Vec::new();
        let mut text = String::new();
        if self.is_cyclic() {
            let message = "the graph has a cycle".to_owned();
            return Err(Faults { text: message.clone(), faults: vec![Fault { node: self.name.clone(), message }] });
        }
        let (mut nodes, mut values) = (BTreeSet::new(), BTreeSet::new());
        for id in self.order() {
            let node = self.node(id);
            let mut found = self.node_faults(id);
            if !nodes.insert(node.name.as_str()) {
                found.push(format!("node name {:?} is taken", node.name));
            }
            for value in &node.outputs {
                if !values.insert(value.name.as_str()) {
                    found.push(format!("value name {:?} is taken", value.name));
                }
            }
            if !found.is_empty() {
                text.push_str(&super::text::node_line(self, id));
                text.push('\n');
            }
            for message in found {
                text.push_str(&format!("  ^ {message}\n"));
                faults.push(Fault { node: node.name.clone(), message });
            }
        }
        let mut fault = |node: &str, message: String| {
            text.push_str(&format!("{node:?}: {message}\n"));
            faults.push(Fault { node: node.to_owned(), message });
        };
        let defined_by_inputs: BTreeSet<String> = self.inputs().iter().flat_map(|id| self.symbols_of(*id)).collect();
        let mut defined = BTreeSet::new();
        for (id, symbol) in self.order().into_iter().filter_map(|id| Some((id, self.node(id).defined_symbol()?.name())))
        {
            if defined_by_inputs.contains(symbol) || !defined.insert(symbol) {
                fault(&self.node(id).name, format!("the size {symbol:?} is defined more than once"));
            }
        }
        self.state_faults(&mut fault);
        let mut ports = BTreeSet::new();
        for output in self.outputs() {
            if !ports.insert(&output.name) {
                fault(&output.name, "output name is taken".to_owned());
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults { faults, text }) }
    }

    /// Rule 7.
    fn state_faults(&self, fault: &mut dyn FnMut(&str, String)) {
        let mut names = BTreeSet::new();
        let mut led_to = BTreeSet::new();
        for state in self.states() {
            let ty = self.ty(state.node.out(0));
            if !names.insert(&state.name) {
                fault(&state.name, "the name of a state is taken".to_owned());
            }
            if ty.shape.n_elems().is_none() || ty.packing.is_some() {
                fault(&state.name, format!("a state is {ty}: its size must be known, and it is not packed"));
            }
            let initial = state.initial.ty();
            if initial != ty && *initial != super::TensorType::of(ty.dtype, &[]) {
                fault(&state.name, format!("its initial value is {initial}, {ty} or one element is expected"));
            }
            let versions = self.versions(state);
            if versions.last() != Some(&state.last) {
                let last = &self.value(state.last).name;
                fault(&state.name, format!("it becomes %{last}, to which no stores lead from it"));
            }
            led_to.extend(versions.iter().skip(1).map(|version| version.node));
        }
        for id in self.order() {
            let node = self.node(id);
            if node.kind == NodeKind::State && self.state_of(id).is_none() {
                fault(&node.name, "no state has this node".to_owned());
            }
            if node.op().is_some_and(|op| op.def.name == super::STATE_STORE) && !led_to.contains(&id) {
                fault(
                    &node.name,
                    "no state becomes what it stores: its first operand must be the last version".to_owned(),
                );
            }
        }
    }

    fn node_faults(&self, id: NodeId) -> Vec<String> {
        let node = self.node(id);
        let mut faults = Vec::new();
        let operands = self.operands(id);
        for (slot, value) in operands.iter().enumerate() {
            if let Some(value) = value
                && value.out >= self.node(value.node).outputs.len()
            {
                faults.push(format!(
                    "operand {slot} is output {} of {:?}, which has {}",
                    value.out,
                    self.node(value.node).name,
                    self.node(value.node).outputs.len()
                ));
            }
        }
        if !faults.is_empty() {
            return faults;
        }
        match &node.kind {
            NodeKind::Input | NodeKind::Const(_) | NodeKind::State => {
                if let NodeKind::Const(tensor) = &node.kind
                    && *tensor.ty() != node.outputs[0].ty
                {
                    faults.push(format!("its data is {}", tensor.ty()));
                }
                if let Some(fault) = node.outputs.first().and_then(|value| value.ty.shape.fault()) {
                    faults.push(format!("its shape {fault}"));
                }
                if node.format.is_some() || !operands.is_empty() || node.outputs.len() != 1 {
                    faults.push("inputs, constants and states have one output, no operands and no format".to_owned());
                }
            }
            NodeKind::Op(op) => {
                if op.def.levels & self.level.bit() == 0 {
                    faults.push(format!("{} may not stand at level {}", op.def.name, self.level));
                }
                if let Err(super::AttrFault { name, problem }) = op.def.check_attrs(&op.attrs) {
                    faults.push(format!("attribute {name:?} {problem}"));
                }
                let extra = op.attrs.expr("epilogue").map_or(0, |e| e.n_args().saturating_sub(1));
                let n = operands.len();
                if n < op.def.arity.0 || n > op.def.arity.1.saturating_add(extra) {
                    faults.push(format!(
                        "{} takes {} to {} operands, given {n}",
                        op.def.name, op.def.arity.0, op.def.arity.1
                    ));
                    return faults;
                }
                match self.infer(op, &operands, node.outputs.len()) {
                    Err(error) => faults.push(error.to_string()),
                    Ok(types) => {
                        for (value, ty) in node.outputs.iter().zip(&types) {
                            if !value.ty.is_always(ty) {
                                faults.push(format!("%{} is {}, its rule gives {ty}", value.name, value.ty));
                            }
                        }
                        if types.len() < node.outputs.len() {
                            faults.push(format!("{} outputs, its rule gives {}", node.outputs.len(), types.len()));
                        }
                    }
                }
                if node.format.is_some() && op.def.name == super::STATE_STORE {
                    faults.push("a state is stored in its own type: the store has no format".to_owned());
                }
                if node.format.is_some()
                    && !node.outputs.iter().any(|v| v.ty.dtype.class() == Class::Float || v.ty.packing.is_some())
                {
                    faults.push("a node without floats has no format".to_owned());
                }
            }
        }
        faults
    }
}
