//! States: tensors that outlive a run, and in which order nodes read and store them.
//!
//! A graph has no side effects. What a state is at the start of a run is a value, that of its node of the kind
//! [`NodeKind::State`]. A use of `state_store` ([`STATE_STORE`]) takes one version of a state as its first operand and
//! gives the next: all of it, or with the rows stored in their places. [`State::last`] is the version with which the
//! next run starts. A node that reads a version sees that version, wherever a schedule puts the node; so passes treat
//! versions as they treat any value.
//!
//! On a device all versions share the same memory. Whatever reads a version must therefore run before the store over
//! it ([`Graph::ordering`] adds that to what edges say). A node that reads a version and also needs what comes after
//! the store over it cannot: its read is late ([`Ordering::late`]). The pass `copy_states` has it read a copy; what is
//! laid out on a device has no late reads.

use super::{Graph, Node, NodeId, NodeKind, Value, ValueId};
use crate::ir::{STATE_STORE, Tensor, TensorType, VIEW};
use std::collections::{BTreeMap, BTreeSet};

/// A tensor that outlives a run.
#[derive(Clone, Debug, PartialEq)]
pub struct State {
    /// Unique among the states of a graph; entries of a module share the states of one name.
    pub name: String,
    /// What it is before the first run: a tensor of its type, or a scalar of its element type, which every element is.
    pub initial: Tensor,
    /// The node whose value is the state at the start of a run.
    pub node: NodeId,
    /// What it is after a run: its own node's value, or the result of a store.
    pub last: ValueId,
}

/// In which order nodes must run, besides what edges say.
#[derive(Clone, Debug, Default)]
pub struct Ordering {
    /// The nodes that know sizes, by symbol ([`Graph::size_definers`]).
    definers: BTreeMap<String, NodeId>,
    /// The nodes that read a version of a state, by the store over it.
    readers: BTreeMap<NodeId, BTreeSet<NodeId>>,
    late: Vec<Late>,
}

/// Who reads a version of a state when another has been stored over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Late {
    /// Operand `slot` of a node.
    Operand(NodeId, usize),
    /// The output of this index.
    Output(usize),
}

impl Ordering {
    /// The reads that come after a store over what they read, whatever the order: of these, order says nothing.
    pub fn late(&self) -> &[Late] {
        &self.late
    }
}

impl Graph {
    /// Adds a state; `initial` is a tensor of the type or a scalar of the element type.
    pub fn add_state(&mut self, name: &str, ty: TensorType, initial: Tensor) -> ValueId {
        let node = Node::new(name, NodeKind::State, vec![Value { name: name.to_owned(), ty }]);
        let node = self.insert(node, &[]);
        self.push_state(name, node, initial);
        node.out(0)
    }

    /// Says that a node of the kind state, which was inserted, is a state of the graph: the last.
    pub(in crate::ir) fn push_state(&mut self, name: &str, node: NodeId, initial: Tensor) {
        self.states.push(State { name: name.to_owned(), initial, node, last: node.out(0) });
    }

    /// Makes `last` what a state is after a run. Does nothing where there is no state of this name.
    pub fn set_state(&mut self, name: &str, last: ValueId) {
        self.states.iter_mut().filter(|state| state.name == name).for_each(|state| state.last = last);
    }

    /// The states, in the order in which they were added.
    pub fn states(&self) -> &[State] {
        &self.states
    }

    pub(in crate::ir) fn states_mut(&mut self) -> &mut [State] {
        &mut self.states
    }

    /// The state of this name.
    pub fn state_named(&self, name: &str) -> Option<&State> {
        self.states.iter().find(|state| state.name == name)
    }

    /// The state whose node this is.
    pub fn state_of(&self, node: NodeId) -> Option<&State> {
        self.states.iter().find(|state| state.node == node)
    }

    /// Whether a value is what a state is after a run.
    pub fn is_kept(&self, value: ValueId) -> bool {
        self.states.iter().any(|state| state.last == value)
    }

    /// The version of a state that a node stores over, where it stores.
    pub fn stored_over(&self, id: NodeId) -> Option<ValueId> {
        let is_store = self.node(id).op().is_some_and(|op| op.def.name == STATE_STORE);
        if is_store { self.operands(id).first().copied().flatten() } else { None }
    }

    /// The versions of a state in the order of its stores; stores that meet or branch end it.
    pub fn versions(&self, state: &State) -> Vec<ValueId> {
        let mut versions = vec![state.node.out(0)];
        let mut at = state.last;
        let mut back = Vec::new();
        while at.node != state.node && back.len() <= self.n_nodes() {
            back.push(at);
            match self.stored_over(at.node) {
                Some(before) => at = before,
                None => return versions,
            }
        }
        versions.extend(back.into_iter().rev());
        versions
    }

    /// In which order nodes must run besides what edges say: after the nodes that know their sizes, and a store after
    /// whatever reads what it stores over.
    pub fn ordering(&self) -> Ordering {
        let mut ordering = Ordering { definers: self.size_definers(), ..Ordering::default() };
        for state in &self.states {
            let versions = self.versions(state);
            for pair in versions.windows(2) {
                if let [over, next] = pair {
                    self.order_readers(*over, next.node, &mut ordering);
                }
            }
        }
        ordering
    }

    /// Orders the readers of a version before the store over it.
    fn order_readers(&self, version: ValueId, store: NodeId, ordering: &mut Ordering) {
        let (mut readers, mut outputs) = (Vec::new(), Vec::new());
        let mut seen = vec![version];
        let mut at = 0;
        while let Some(&value) = seen.get(at) {
            at += 1;
            outputs.extend(self.outputs.iter().enumerate().filter(|(_, o)| o.value == value).map(|(i, _)| i));
            for (user, slot) in self.users(value) {
                let is_view = self.node(user).op().is_some_and(|op| op.def.name == VIEW);
                if is_view {
                    seen.push(user.out(0));
                } else if (user, slot) != (store, 0) {
                    readers.push((user, slot));
                }
            }
        }
        ordering.late.extend(outputs.into_iter().map(Late::Output));
        if readers.is_empty() {
            return;
        }
        let behind = self.behind(store, ordering);
        for (reader, slot) in readers {
            if behind.contains(&reader) {
                ordering.late.push(Late::Operand(reader, slot));
            } else {
                ordering.readers.entry(store).or_default().insert(reader);
            }
        }
    }

    /// The nodes that run after `from` by edges and by what `ordering` has so far, itself included.
    fn behind(&self, from: NodeId, ordering: &Ordering) -> BTreeSet<NodeId> {
        let mut waiting: BTreeMap<NodeId, Vec<NodeId>> = BTreeMap::new();
        for (store, readers) in &ordering.readers {
            readers.iter().for_each(|reader| waiting.entry(*reader).or_default().push(*store));
        }
        if !ordering.definers.is_empty() {
            for id in self.graph.node_indices().map(NodeId) {
                let definers = self.size_definers_of(id, &ordering.definers);
                definers.into_iter().for_each(|definer| waiting.entry(definer).or_default().push(id));
            }
        }
        let mut found = BTreeSet::from([from]);
        let mut stack = vec![from];
        while let Some(id) = stack.pop() {
            let users = (0..self.node(id).outputs.len()).flat_map(|out| self.users(id.out(out)));
            let next = users.map(|(user, _)| user).chain(waiting.remove(&id).unwrap_or_default());
            stack.extend(next.filter(|user| found.insert(*user)));
        }
        found
    }

    /// The nodes that must run before a node besides its operands.
    pub fn waits_for(&self, id: NodeId, ordering: &Ordering) -> BTreeSet<NodeId> {
        let mut found = self.size_definers_of(id, &ordering.definers);
        found.extend(ordering.readers.get(&id).into_iter().flatten());
        found
    }
}

/// States with names in the places of ids.
pub(super) fn named(graph: &Graph) -> Vec<(&str, &Tensor, &str, &str)> {
    let name = |value: ValueId| graph.value(value).name.as_str();
    graph.states.iter().map(|s| (s.name.as_str(), &s.initial, name(s.node.out(0)), name(s.last))).collect()
}
