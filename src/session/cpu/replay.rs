//! A run again with other constants: only what depends on them is computed.

use super::{Callable, CpuError, Reference};
use crate::ir::{NodeId, NodeKind, Tensor, ValueId};
use crate::program::Sizes;
use std::collections::BTreeMap;

/// A run of which all values are kept.
pub(crate) struct Replay<'r> {
    callable: &'r Callable,
    values: BTreeMap<ValueId, Tensor>,
    sizes: Sizes,
}

impl Reference {
    /// Runs the first entry, from the states before the first run, and keeps all its values.
    ///
    /// # Errors
    /// As [`Reference::run`].
    pub(crate) fn replay(&self, inputs: &[Tensor]) -> Result<Replay<'_>, CpuError> {
        let (_, callable) = self.entries.first().ok_or_else(|| CpuError::Entry(String::new()))?;
        let (graph, mut states) = (&callable.graph, self.initial_states()?);
        let mut values: BTreeMap<ValueId, Tensor> = BTreeMap::new();
        let mut ids: BTreeMap<&str, NodeId> = BTreeMap::new();
        for &id in &callable.order {
            let node = graph.node(id);
            match &node.kind {
                NodeKind::Const(tensor) => drop(values.insert(id.out(0), tensor.clone())),
                NodeKind::State => {
                    let state = graph.state_of(id).and_then(|state| states.get(&state.name));
                    values.extend(state.map(|state| (id.out(0), state.clone())));
                }
                NodeKind::Input => {}
                NodeKind::Op(_) => drop(ids.insert(&node.name, id)),
            }
        }
        let given = graph.inputs().iter().map(|id| id.out(0));
        values.extend(given.zip(inputs.iter().cloned()));
        let mut keep = |node: &crate::ir::Node, results: &[Tensor]| {
            let own = ids.get(node.name.as_str()).into_iter();
            values.extend(own.flat_map(|id| results.iter().enumerate().map(|(out, t)| (id.out(out), t.clone()))));
        };
        callable.run(inputs, &mut states, &mut keep)?;
        let shapes: Vec<Vec<usize>> = inputs.iter().map(Tensor::dims).collect();
        let sizes = if callable.entry.sizes.is_empty() { Sizes::new() } else { callable.entry.sizes_of(&shapes)? };
        let mut replay = Replay { callable, values, sizes };
        for &id in callable.order.iter().filter(|id| graph.node(**id).defined_symbol().is_some()) {
            let n = graph.node(id).outputs.len();
            let results: Vec<Tensor> = (0..n).filter_map(|out| replay.values.get(&id.out(out)).cloned()).collect();
            callable.record_sizes(id, &results, &mut replay.sizes)?;
        }
        Ok(replay)
    }
}

impl Replay<'_> {
    /// All outputs with other data for some constants, of their types.
    ///
    /// # Errors
    /// A node cannot be computed.
    pub(crate) fn outputs(&self, mut changed: BTreeMap<ValueId, Tensor>) -> Result<Vec<Tensor>, CpuError> {
        let Replay { callable, values, sizes } = self;
        let (graph, mut sizes) = (&callable.graph, sizes.clone());
        for (step, &id) in callable.order.iter().enumerate() {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            let operands = graph.operands(id);
            if !operands.iter().flatten().any(|value| changed.contains_key(value)) {
                continue;
            }
            let tensor = |value: ValueId| changed.get(&value).or_else(|| values.get(&value));
            let tensors: Vec<Option<&Tensor>> = operands.iter().map(|v| v.and_then(tensor)).collect();
            let results = callable.compute(id, op, &tensors, &sizes)?;
            if node.defined_symbol().is_some() {
                callable.record_sizes(id, &results, &mut sizes)?;
            }
            changed.extend(results.into_iter().enumerate().map(|(out, tensor)| (id.out(out), tensor)));
            for value in operands.into_iter().flatten() {
                if callable.last_use.get(&value).is_some_and(|last| *last <= step) {
                    changed.remove(&value);
                }
            }
        }
        let missing = |name: &str| CpuError::Node(name.to_owned());
        let output = |o: &crate::ir::Output| {
            changed.get(&o.value).or_else(|| values.get(&o.value)).cloned().ok_or_else(|| missing(&o.name))
        };
        graph.outputs().iter().map(output).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ir::{DType, text};

    #[test]
    fn what_is_computed_again_is_what_another_graph_computes() {
        let source = |v: &str| {
            let text = format!(
                "graph g onnx
  %x = input : f32[2,2]
  %w = const [1.0,2.0,-3.0,4.0] : f32[2,2]
  %v = const [{v}] : f32[2,2]
  %a = matmul(%x, %w) : f32[2,2]
  %r = relu(%a) : f32[2,2]
  %b = matmul(%r, %v) : f32[2,2]
  %y = add(%b, %a) : f32[2,2]
  output %y
  output %a
"
            );
            text::parse(&text, &crate::ops::registry(), &|_, _| None).unwrap()
        };
        let x = Tensor::from_f32s(DType::F32, &[2, 2], &[1.0, -2.0, 0.5, 4.0]).unwrap();
        let (own, other) = (source("1.0,0.0,0.0,1.0"), source("0.5,-1.0,2.0,3.0"));
        let v = own.value_named("v").unwrap();
        let changed = other.constant(other.value_named("v").unwrap()).unwrap().clone();
        let reference = Reference::new(own);
        let replay = reference.replay(std::slice::from_ref(&x)).unwrap();
        assert_eq!(replay.outputs(BTreeMap::new()).unwrap(), reference.run(std::slice::from_ref(&x)).unwrap());
        let again = replay.outputs(BTreeMap::from([(v, changed)])).unwrap();
        assert_eq!(again, Reference::new(other).run(std::slice::from_ref(&x)).unwrap());
        assert_ne!(again[0], replay.outputs(BTreeMap::new()).unwrap()[0]);
    }
}
