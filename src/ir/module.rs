//! Modules: graphs that can be called, the entries, over one set of states.

use super::{Fault, Faults, Graph, TensorType};
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::fmt;

/// The name of the entry of a module that has but one.
pub const MAIN: &str = "main";

/// Entries by name, in order: the one that a plain run calls first. States of one name are one state, which all entries
/// share.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// The model's name.
    pub name: String,
    /// What can be called.
    pub entries: IndexMap<String, Graph>,
}

impl Module {
    /// A module of one entry, `main`.
    pub fn of(graph: Graph) -> Module {
        Module { name: graph.name.clone(), entries: IndexMap::from([(MAIN.to_owned(), graph)]) }
    }

    /// The graph, where it is the one of the entry `main`: then the module is that graph, and prints as it.
    pub fn alone(&self) -> Option<&Graph> {
        self.entries.get(MAIN).filter(|graph| self.entries.len() == 1 && graph.name == self.name)
    }

    /// The types of the states, by name, in the order of entries.
    pub fn states(&self) -> IndexMap<&str, &TensorType> {
        let all = self.entries.values().flat_map(|graph| graph.states().iter().map(move |state| (graph, state)));
        all.map(|(graph, state)| (state.name.as_str(), graph.ty(state.node.out(0)))).collect()
    }

    /// Checks that there is an entry, that each is well formed ([`Graph::verify`]), and that entries agree on the types
    /// and initial values of the states that they share.
    ///
    /// # Errors
    /// All faults of the first entry that has some, or of the module.
    pub fn verify(&self) -> Result<(), Faults> {
        let mut faults = Vec::new();
        let mut fault = |node: &str, message: String| faults.push(Fault { node: node.to_owned(), message });
        if self.entries.is_empty() {
            fault(&self.name, "a module without entries".to_owned());
        }
        let mut known = BTreeMap::new();
        for (entry, graph) in &self.entries {
            graph.verify()?;
            for state in graph.states() {
                let this = (graph.ty(state.node.out(0)), &state.initial);
                let (first, other) = *known.entry(state.name.as_str()).or_insert((entry, this));
                if other != this {
                    fault(
                        &state.name,
                        format!("it has another type or initial value in entry {entry:?} than in {first:?}"),
                    );
                }
            }
        }
        if faults.is_empty() { Ok(()) } else { Err(Faults::of(faults)) }
    }
}

impl fmt::Display for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(graph) = self.alone() {
            return write!(f, "{graph}");
        }
        writeln!(f, "module {}", super::text::name(&self.name))?;
        self.entries.iter().try_for_each(|(entry, graph)| write!(f, "entry {}\n{graph}", super::text::name(entry)))
    }
}
