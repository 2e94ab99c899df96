//! A graph as the generator made it, with the value of everything in it: so that parts can be cut out and the rest still stands.

use nyxc::ir::{Graph, Level, Op, Tensor, ValueId};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Input,
    Const,
    /// A node and which of its outputs.
    Node(usize, usize),
    /// Nothing needs it any more.
    Gone,
}

#[derive(Clone)]
pub struct Value {
    pub source: Source,
    /// What it is on the CPU reference.
    pub tensor: Tensor,
}

#[derive(Clone)]
pub struct Node {
    pub op: Op,
    pub operands: Vec<Option<usize>>,
    pub n_outputs: usize,
}

/// Values in an order in which each comes after what it is made of.
#[derive(Clone, Default)]
pub struct Spec {
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    pub outputs: Vec<usize>,
}

impl Spec {
    pub fn graph(&self) -> Graph {
        let mut graph = Graph::new("random", Level::Onnx);
        let mut ids: Vec<Option<ValueId>> = vec![None; self.values.len()];
        for (i, value) in self.values.iter().enumerate() {
            ids[i] = match value.source {
                Source::Input => Some(graph.add_input(&format!("x{i}"), value.tensor.ty().clone())),
                Source::Const => Some(graph.add_const(&format!("c{i}"), value.tensor.clone())),
                Source::Node(n, 0) => {
                    let node = &self.nodes[n];
                    let operands: Vec<_> = node.operands.iter().map(|o| o.and_then(|o| ids[o])).collect();
                    let names: Vec<String> = (0..node.n_outputs).map(|out| format!("v{}", i + out)).collect();
                    let id = graph.add_op(&format!("n{n}"), node.op.clone(), &operands, &names).unwrap();
                    (0..node.n_outputs).for_each(|out| ids[i + out] = Some(id.out(out)));
                    ids[i]
                }
                Source::Node(..) => ids[i],
                Source::Gone => None,
            };
        }
        for (i, &output) in self.outputs.iter().enumerate() {
            graph.add_output(&format!("y{i}"), ids[output].unwrap());
        }
        graph
    }

    pub fn inputs(&self) -> Vec<Tensor> {
        self.values.iter().filter(|v| v.source == Source::Input).map(|v| v.tensor.clone()).collect()
    }

    pub fn n_nodes(&self) -> usize {
        self.values.iter().filter(|v| matches!(v.source, Source::Node(_, 0))).count()
    }

    /// The same with the results of a node given as inputs, or as constants.
    pub fn without(&self, node: usize, source: Source) -> Spec {
        let mut spec = self.clone();
        for value in &mut spec.values {
            if matches!(value.source, Source::Node(n, _) if n == node) {
                value.source = source;
            }
        }
        spec
    }

    /// The same without what no output needs.
    pub fn without_dead(&self) -> Spec {
        let mut spec = self.clone();
        let mut needed = vec![false; spec.values.len()];
        spec.outputs.iter().for_each(|&o| needed[o] = true);
        for i in (0..spec.values.len()).rev() {
            if let Source::Node(n, out) = spec.values[i].source
                && needed[i]
            {
                // A node is there with all its outputs.
                let first = i - out;
                (0..spec.nodes[n].n_outputs).for_each(|out| needed[first + out] = true);
                spec.nodes[n].operands.iter().flatten().for_each(|&o| needed[o] = true);
            }
        }
        spec.values.iter_mut().zip(needed).filter(|(_, needed)| !needed).for_each(|(v, _)| v.source = Source::Gone);
        spec
    }
}

/// A smaller graph for which `fails` still holds: outputs are dropped, and nodes become inputs with the values that they had.
pub fn shrink(spec: &Spec, fails: &mut dyn FnMut(&Spec) -> bool) -> Spec {
    let mut best = spec.clone();
    let mut tries = 300usize;
    let mut attempt = |best: &mut Spec, candidate: Spec| {
        let small = candidate.without_dead();
        tries = tries.saturating_sub(1);
        let better = tries > 0 && fails(&small);
        if better {
            *best = small;
        }
        better
    };
    let same = best.clone();
    attempt(&mut best, same);
    loop {
        let mut changed = false;
        for at in (0..best.outputs.len()).rev() {
            if best.outputs.len() > 1 {
                let mut candidate = best.clone();
                candidate.outputs.remove(at);
                changed |= attempt(&mut best, candidate);
            }
        }
        for node in 0..best.nodes.len() {
            let Some(at) = best.values.iter().position(|v| v.source == Source::Node(node, 0)) else { continue };
            for source in [Source::Input, Source::Const] {
                let candidate = best.without(node, source);
                if candidate.n_nodes() > 0 && attempt(&mut best, candidate) {
                    changed = true;
                    break;
                }
            }
            if best.values[at].source != Source::Node(node, 0) {
                continue;
            }
            // The graph may as well end here.
            if !best.outputs.contains(&at) || best.outputs.len() > 1 {
                let mut candidate = best.clone();
                candidate.outputs = vec![at];
                if candidate.without_dead().n_nodes() < best.n_nodes() {
                    changed |= attempt(&mut best, candidate);
                }
            }
        }
        if !changed {
            return best;
        }
    }
}
