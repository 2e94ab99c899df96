//! A graph as the generator made it, with the value of everything in it: so that parts can be cut out and the rest
//! still stands.

use nyxc::ir::{COUNT, Dim, Graph, Infer, Level, Op, Tensor, TensorType, ValueId};
use nyxc::ops::data_dependent;
use nyxc::program::Sizes;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Source {
    Input,
    Const,
    /// A node and which of its outputs.
    Node(usize, usize),
    /// Nothing needs it any more.
    Removed,
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

/// How large floats are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Some units, so that sums and products of a few stay within f16.
    #[default]
    Usual,
    /// Whatever f16 holds: from 1e-5 to 60,000.
    Half,
    /// From 1e-30 to 1e30.
    Far,
}

/// Values in an order in which each comes after what it is made of.
#[derive(Clone, Default)]
pub struct Spec {
    pub reach: Reach,
    /// Whether integers are of any size.
    pub wide: bool,
    pub values: Vec<Value>,
    pub nodes: Vec<Node>,
    pub outputs: Vec<usize>,
}

/// A graph, and which values its inputs and outputs are.
pub struct Built {
    pub graph: Graph,
    pub inputs: Vec<usize>,
    pub outputs: Vec<usize>,
}

impl Spec {
    pub fn graph(&self) -> Graph {
        self.built(&|_| None, &Sizes::new()).graph
    }

    /// The graph in which the values for which `open` gives a type are inputs of that type, whose symbols have `sizes`.
    /// What its operator refuses because of a size that is not known is left out, with what depends on it.
    pub fn built(&self, open: &dyn Fn(usize) -> Option<TensorType>, sizes: &Sizes) -> Built {
        let mut graph = Graph::new("random", Level::Onnx);
        let mut ids: Vec<Option<ValueId>> = vec![None; self.values.len()];
        let mut sizes = sizes.clone();
        let mut inputs = Vec::new();
        for (i, value) in self.values.iter().enumerate() {
            ids[i] = match (open(i), value.source) {
                (_, Source::Node(n, 0)) => {
                    self.add(&mut graph, n, i, &mut ids, &mut sizes);
                    ids[i]
                }
                (_, Source::Node(..)) => ids[i],
                (_, Source::Removed) => None,
                (None, Source::Const) => Some(graph.add_const(&format!("c{i}"), value.tensor.clone())),
                (ty, Source::Input | Source::Const) => {
                    inputs.push(i);
                    Some(graph.add_input(&format!("x{i}"), ty.unwrap_or_else(|| value.tensor.ty().clone())))
                }
            };
        }
        let mut outputs: Vec<usize> = self.outputs.iter().copied().filter(|&o| ids[o].is_some()).collect();
        if outputs.is_empty() {
            outputs.extend(
                (0..self.values.len())
                    .rev()
                    .find(|&i| ids[i].is_some() && matches!(self.values[i].source, Source::Node(..))),
            );
        }
        for (i, &output) in outputs.iter().enumerate() {
            graph.add_output(&format!("y{i}"), ids[output].unwrap());
        }
        Built { graph, inputs, outputs }
    }

    /// Adds a node whose first result is value `i`, where it can be.
    fn add(&self, graph: &mut Graph, n: usize, i: usize, ids: &mut [Option<ValueId>], sizes: &mut Sizes) {
        let node = &self.nodes[n];
        let operands: Vec<_> = node.operands.iter().map(|o| o.and_then(|o| ids[o])).collect();
        if node.operands.iter().zip(&operands).any(|(asked, found)| asked.is_some() && found.is_none()) {
            return;
        }
        let names: Vec<String> = (0..node.n_outputs).map(|out| format!("v{}", i + out)).collect();
        let mut op = node.op.clone();
        let types: Vec<_> = operands.iter().map(|v| v.map(|v| graph.ty(v))).collect();
        let consts: Vec<_> = operands.iter().map(|v| v.and_then(|v| graph.constant(v))).collect();
        let infer = Infer {
            attrs: &op.attrs,
            inputs: &types,
            consts: &consts,
            sizes: &vec![None; types.len()],
            n_outputs: node.n_outputs,
        };
        if let Some(bound) = data_dependent::bound(op.def, &infer).unwrap() {
            op.attrs = op.attrs.with_dims(COUNT, vec![Dim::ranged(&format!("v{i}.count"), 0, bound.most().unwrap())]);
        }
        let is_open = operands.iter().flatten().any(|v| graph.ty(*v).shape.known().is_none());
        let id = match graph.add_op(&format!("n{n}"), op, &operands, &names) {
            Ok(id) => id,
            Err(error) => {
                assert!(is_open, "{error}");
                return;
            }
        };
        for out in 0..node.n_outputs {
            ids[i + out] = Some(id.out(out));
            let (ty, actual) = (graph.ty(id.out(out)), self.values[i + out].tensor.dims());
            let defined = graph.node(id).defined_symbol().map(|symbol| symbol.name().to_owned());
            for (dim, &n) in ty.shape.0.iter().zip(&actual) {
                if let Some((symbol, value)) = dim.solve(n as i64)
                    && defined.as_deref() == Some(symbol.name())
                {
                    sizes.insert(symbol.name().to_owned(), value);
                }
            }
            let shape: Option<Vec<usize>> = ty
                .shape
                .0
                .iter()
                .map(|dim| dim.eval(&|name| sizes.get(name).copied()))
                .map(|n| n.and_then(|n| usize::try_from(n).ok()))
                .collect();
            assert_eq!(shape.as_ref(), Some(&actual), "v{} is {ty} with {sizes:?}", i + out);
        }
    }

    pub fn inputs(&self) -> Vec<Tensor> {
        self.values.iter().filter(|v| v.source == Source::Input).map(|v| v.tensor.clone()).collect()
    }

    /// The tensors of these values.
    pub fn tensors(&self, values: &[usize]) -> Vec<Tensor> {
        values.iter().map(|&i| self.values[i].tensor.clone()).collect()
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
        spec.values.iter_mut().zip(needed).filter(|(_, needed)| !needed).for_each(|(v, _)| v.source = Source::Removed);
        spec
    }
}

/// A smaller graph for which `fails` still holds: outputs are dropped, and nodes become inputs with the values that
/// they had.
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
