//! Which nodes a name means that somebody saw in a report, and the explanation of them.

use super::compile::CompileError;
use crate::ir::{Graph, NodeId, NodeKind, nearest};
use crate::passes::{Choice, Context, Explanation};
use std::collections::BTreeSet;

/// The graphs whose names a report may show.
pub(super) struct Names<'a> {
    /// As imported.
    pub imported: &'a Graph,
    /// With formats, before they were made real: the nodes of the report.
    pub assigned: &'a Graph,
    /// Of kernels.
    pub kernels: &'a Graph,
}

/// What a name means.
struct Meaning {
    /// In words.
    text: String,
    /// Nodes with formats.
    nodes: BTreeSet<String>,
}

impl Names<'_> {
    /// The explanation of `asked`.
    ///
    /// # Errors
    /// No report shows the name.
    pub fn explain(&self, asked: &str, cx: &Context<'_>) -> Result<Explanation, CompileError> {
        let Some(Meaning { text, nodes }) = self.meaning(asked) else {
            let all = [self.assigned, self.imported, self.kernels].into_iter().flat_map(names);
            return Err(CompileError::Unknown {
                name: asked.to_owned(),
                nearest: nearest(asked, all).map(str::to_owned),
            });
        };
        let mut choices = Vec::new();
        let mut shadow_price = 0.0;
        if let Some(assignment) = &cx.facts.assignment {
            choices = assignment.explain(&nodes, &cx.facts.reasons, cx.settings.policy)?;
            shadow_price = assignment.shadow_price();
        }
        for name in &nodes {
            if choices.iter().all(|choice| !choice.nodes.contains(name)) {
                let reason = "it has no float result, and so no format".to_owned();
                choices.push(Choice { nodes: vec![name.clone()], reason, ..Choice::default() });
            }
        }
        let near_misses = cx.explain.found(&self.related(asked, &nodes));
        Ok(Explanation { asked: asked.to_owned(), meaning: text, choices, shadow_price, near_misses })
    }

    fn meaning(&self, asked: &str) -> Option<Meaning> {
        let node = |graph: &Graph| graph.order().into_iter().find(|id| graph.node(*id).name == asked);
        let value = |graph: &Graph| graph.value_named(asked).map(|v| v.node);
        let meaning = |text: String, nodes: BTreeSet<String>| Some(Meaning { text, nodes });
        let graph = self.assigned;
        if let Some(id) = node(graph).filter(|id| graph.node(*id).op().is_some()) {
            return meaning(format!("a node of the model, {}", op(graph, id)), self.at(graph, id));
        }
        if let Some(id) = value(graph).or_else(|| node(graph)) {
            return meaning(described(graph, id), self.at(graph, id));
        }
        let composites = || graph.order().into_iter().filter(|id| graph.node(*id).origin.iter().any(|o| o == asked));
        if let Some(first) = composites().next() {
            let nodes = composites().map(|id| graph.node(id).name.clone()).collect();
            return meaning(format!("a part of what became {}", op(graph, first)), nodes);
        }
        let graph = self.kernels;
        if let Some(id) = node(graph).or_else(|| value(graph)) {
            return meaning(format!("in the program, {}", described(graph, id)), self.at(graph, id));
        }
        let graph = self.imported;
        let id = node(graph).or_else(|| value(graph))?;
        let text = format!("{}, which was computed while compiling, or which nothing needs", described(graph, id));
        meaning(text, self.at(graph, id))
    }

    /// The nodes with formats that a node of one of the graphs is, is part of, or is read by.
    fn at(&self, graph: &Graph, id: NodeId) -> BTreeSet<String> {
        let origins: Vec<String> = match graph.node(id).kind {
            NodeKind::Op(_) => graph.node(id).origins().to_vec(),
            _ => {
                let users = (0..graph.node(id).outputs.len()).flat_map(|out| graph.users(id.out(out)));
                users.flat_map(|(user, _)| graph.node(user).origins().to_vec()).collect()
            }
        };
        let own = &graph.node(id).name;
        let is_meant = |name: &String, origin: &[String]| {
            name == own || origins.contains(name) || origin.iter().any(|o| origins.contains(o))
        };
        let nodes = self.assigned.order().into_iter().map(|id| self.assigned.node(id)).filter(|n| n.op().is_some());
        nodes.filter(|n| is_meant(&n.name, &n.origin)).map(|n| n.name.clone()).collect()
    }

    /// All names that the nodes have had from the model to the kernels.
    fn related(&self, asked: &str, nodes: &BTreeSet<String>) -> BTreeSet<String> {
        let mut related: BTreeSet<String> = nodes.clone();
        related.insert(asked.to_owned());
        for id in self.assigned.order() {
            let node = self.assigned.node(id);
            if nodes.contains(&node.name) {
                related.extend(node.origin.iter().cloned());
            }
        }
        for id in self.kernels.order() {
            let node = self.kernels.node(id);
            if node.op().is_some() && node.origins().iter().any(|origin| related.contains(origin)) {
                related.insert(node.name.clone());
            }
        }
        related
    }
}

fn op(graph: &Graph, id: NodeId) -> String {
    let node = graph.node(id);
    let op = node.op().map_or("", |op| if op.def.onnx.is_empty() { op.def.name } else { op.def.onnx });
    format!("{op} {:?}", node.name)
}

fn described(graph: &Graph, id: NodeId) -> String {
    match graph.node(id).kind {
        NodeKind::Input => "an input, by what reads it".to_owned(),
        NodeKind::State => "a state, by what reads it".to_owned(),
        NodeKind::Const(_) => "a constant, by what reads it".to_owned(),
        NodeKind::Op(_) => format!("a result of {}", op(graph, id)),
    }
}

/// The names of the nodes and values of a graph.
fn names(graph: &Graph) -> impl Iterator<Item = &str> {
    let nodes = graph.order().into_iter().map(|id| graph.node(id));
    nodes.flat_map(|node| std::iter::once(node.name.as_str()).chain(node.outputs.iter().map(|v| v.name.as_str())))
}
