//! Bodies of If, Loop and Scan. What a body uses from outside becomes an input of it and an operand of its node;
//! constants are repeated inside, where type rules can see them.
//!
//! The inputs of a body are its own, then the captured values. A node of several bodies (If) gives all captured values
//! to each.

use super::build::{Builder, Known};
use super::dims::described;
use super::error::{ImportError, Kind};
use super::read::{RawGraph, RawNode};
use crate::ir::{Attr, Attrs, DType, Dim, Graph, Shape, TensorType, resolve_axis};
use std::collections::BTreeSet;
use tract_onnx::pb::ValueInfoProto;

/// Most imports of bodies and of nodes in them, in one model, those repeated for sizes that change included.
pub(super) const MAX_BODIES: u32 = 1_000_000;

/// Adds every name of a graph, subgraphs included.
pub(super) fn names(raw: &RawGraph, taken: &mut BTreeSet<String>) {
    taken.extend(raw.inputs.iter().map(|i| i.name.clone()));
    taken.extend(raw.initializers.keys().cloned());
    for node in &raw.nodes {
        taken.extend(node.outputs.iter().cloned());
        taken.insert(node.name.clone());
        node.graphs.iter().for_each(|(_, body)| names(body, taken));
    }
}

/// How many nodes a graph has, those of its subgraphs included.
pub(super) fn count_nodes(raw: &RawGraph) -> usize {
    raw.nodes.iter().map(|node| 1 + node.graphs.iter().map(|(_, body)| count_nodes(body)).sum::<usize>()).sum()
}

/// Adds the names that `raw` uses and does not define, in order of use. `inner` holds what the graphs around it, within
/// the outermost, define.
pub(super) fn free<'g>(raw: &'g RawGraph, inner: &mut Vec<BTreeSet<&'g str>>, found: &mut Vec<&'g str>) {
    let inputs = raw.inputs.iter().map(|i| i.name.as_str()).chain(raw.initializers.keys().map(String::as_str));
    inner.push(inputs.chain(raw.nodes.iter().flat_map(|n| n.outputs.iter().map(String::as_str))).collect());
    let mut use_name = |name: &'g str, inner: &[BTreeSet<&str>]| {
        if !name.is_empty() && !inner.iter().any(|names| names.contains(name)) {
            found.push(name);
        }
    };
    for node in &raw.nodes {
        node.inputs.iter().for_each(|name| use_name(name, inner));
    }
    raw.outputs.iter().for_each(|name| use_name(name, inner));
    for (_, body) in raw.nodes.iter().flat_map(|n| &n.graphs) {
        free(body, inner, found);
    }
    inner.pop();
}

impl Builder<'_> {
    /// The branch of an If whose condition is known: only that one is imported, since the other may not even have a
    /// type for these sizes.
    pub(super) fn branch_taken<'r>(&self, raw: &'r RawNode) -> Result<Option<&'r RawGraph>, ImportError> {
        if raw.key() != "If" {
            return Ok(None);
        }
        let [condition] = raw.inputs.as_slice() else { return Ok(None) };
        let known = self.get(condition)?;
        let Some(tensor) = self.tensor(known) else { return Ok(None) };
        let values = tensor.to_i64s().map_err(|e| Kind::Form(e.to_string()))?;
        let [value] = values.as_slice() else { return Ok(None) };
        let name = if *value != 0 { "then_branch" } else { "else_branch" };
        Ok(raw.graphs.iter().find(|(n, _)| n == name).map(|(_, body)| body))
    }

    /// Imports the bodies of a node as attributes, and adds the values they capture to its operands.
    pub(super) fn bodies(
        &mut self,
        raw: &RawNode,
        operands: &mut Vec<Option<Known>>,
        attrs: &mut Attrs,
    ) -> Result<(), ImportError> {
        let mut found = Vec::new();
        raw.graphs.iter().for_each(|(_, body)| free(body, &mut Vec::new(), &mut found));
        let mut captured: Vec<(&str, Known)> = Vec::new();
        let mut seen = BTreeSet::new();
        for name in found.into_iter().filter(|name| seen.insert(*name)) {
            captured.push((name, self.get(name)?));
        }
        for (attr, body) in &raw.graphs {
            let graph = self.body(raw, body, operands, &captured)?;
            attrs.0.insert(attr.clone(), Attr::Graph(Box::new(graph)));
        }
        captured.retain(|(_, known)| self.tensor(*known).is_none());
        operands.extend(captured.iter().map(|(_, known)| Some(*known)));
        let names: Vec<String> = captured.iter().map(|(name, _)| (*name).to_owned()).collect();
        attrs.0.insert("captures".to_owned(), Attr::Strs(names));
        Ok(())
    }

    /// Imports one body. A size that an iteration changes is not known, whatever it is before the first: found by
    /// importing again.
    fn body(
        &self,
        raw: &RawNode,
        body: &RawGraph,
        operands: &[Option<Known>],
        captured: &[(&str, Known)],
    ) -> Result<Graph, ImportError> {
        let (given, n_first, n_carried) = self.given_types(raw, operands)?;
        let mut types = Vec::with_capacity(body.inputs.len());
        for (at, info) in body.inputs.iter().enumerate() {
            types.push(self.formal(info, given.get(at).and_then(Option::as_ref))?);
        }
        // Loop's condition comes out before what it carries.
        let n_before = n_first.saturating_sub(1);
        loop {
            let graph = self.body_of(body, &types, captured)?;
            let mut is_stable = true;
            for (at, (ty, info)) in types.iter_mut().zip(&body.inputs).enumerate().skip(n_first).take(n_carried) {
                let Some(output) = graph.outputs().get(at - n_first + n_before) else { break };
                let after = graph.ty(output.value);
                for (axis, (dim, next)) in ty.shape.0.iter_mut().zip(&after.shape.0).enumerate() {
                    let symbol = Dim::symbol(&format!("{}.{}.{axis}", raw.name, info.name));
                    if dim != next && *dim != symbol {
                        *dim = symbol;
                        is_stable = false;
                    }
                }
            }
            // Each round turns at least one size into a symbol for good, so there are no more rounds than sizes.
            if is_stable {
                return Ok(graph);
            }
        }
    }

    fn body_of(&self, body: &RawGraph, types: &[TensorType], captured: &[(&str, Known)]) -> Result<Graph, ImportError> {
        // Bodies within bodies multiply the repetitions: a small file could keep us busy for years.
        self.model.n_bodies.set(
            self.model
                .n_bodies
                .get()
                .saturating_add(10)
                .saturating_add(u32::try_from(body.nodes.len()).unwrap_or(u32::MAX)),
        );
        if self.model.n_bodies.get() > MAX_BODIES {
            return Err(Kind::Form(format!(
                "more than {} imports of subgraphs, or {MAX_BODIES} of their nodes",
                MAX_BODIES / 10
            ))
            .into());
        }
        let mut inner = Builder::new(self.model, &body.name, self.taken, true);
        (inner.calls, inner.depth) = (self.calls.clone(), self.depth + 1);
        for (info, ty) in body.inputs.iter().zip(types) {
            inner.add_input(&info.name, ty.clone())?;
        }
        for &(name, known) in captured {
            match self.tensor(known) {
                Some(tensor) => {
                    let constant = inner.add_pending(name, name, tensor.clone(), None);
                    inner.define(name, constant)?;
                }
                None => inner.add_input(name, self.ty(known).clone())?,
            }
        }
        inner.fill(body)?;
        Ok(inner.graph)
    }

    /// What the operands say of a body's own inputs, how many of these come before those that iterations carry, and how
    /// many are carried.
    fn given_types(
        &self,
        raw: &RawNode,
        operands: &[Option<Known>],
    ) -> Result<(Vec<Option<TensorType>>, usize, usize), ImportError> {
        let types = operands.iter().map(|o| o.map(|known| self.ty(known).clone()));
        match raw.key().as_str() {
            "Loop" => {
                let carried: Vec<_> = types.skip(2).collect();
                let n_carried = carried.len();
                let first = [Some(TensorType::of(DType::I64, &[])), Some(TensorType::of(DType::Bool, &[]))];
                Ok((first.into_iter().chain(carried).collect(), 2, n_carried))
            }
            "Scan" => {
                let mut types: Vec<_> = types.collect();
                let n_scanned = raw.attrs.int("num_scan_inputs").and_then(|n| usize::try_from(n).ok());
                let n_states = n_scanned.and_then(|n| types.len().checked_sub(n));
                let n_states = n_states.ok_or_else(|| {
                    Kind::Form(format!("num_scan_inputs is {n_scanned:?} of {} operands", types.len()))
                })?;
                let axes = raw.attrs.ints("scan_input_axes").unwrap_or_default();
                for (i, ty) in types.iter_mut().skip(n_states).enumerate() {
                    let Some(ty) = ty else { continue };
                    let axis = axes.get(i).copied().unwrap_or(0);
                    let axis = resolve_axis(axis, ty.shape.rank())
                        .ok_or_else(|| Kind::Form(format!("scan_input_axes has {axis} for {ty}")))?;
                    ty.shape.0.remove(axis);
                }
                Ok((types, 0, n_states))
            }
            _ => Ok((Vec::new(), 0, 0)),
        }
    }

    /// The type of a body's own input: the operand's, which is sharper, or what the file says of it.
    fn formal(&self, info: &ValueInfoProto, given: Option<&TensorType>) -> Result<TensorType, ImportError> {
        if let Some(given) = given {
            // Iteration number and condition are declared as [1] by some exporters.
            let declared = described(info).ok().and_then(|(_, dims)| dims);
            let is_single = given.shape.rank() == 0 && declared.is_some_and(|dims| dims.len() == 1);
            return Ok(if is_single { TensorType::new(given.dtype, Shape::of(&[1])) } else { given.clone() });
        }
        let problem =
            || Kind::Input { name: info.name.clone(), problem: "has no shape, and its node gives none".to_owned() };
        Ok(self.model.symbols.ty(&info.name, info)?.ok_or_else(problem)?)
    }
}
