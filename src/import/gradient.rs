//! Gradient of ONNX's domain `ai.onnx.preview.training`, version 1: reverse-mode differentiation of the nodes between
//! the values that it names ([`crate::ops::differentiate`]). The derivative of a tensor that is no scalar is that of
//! the sum of its elements.

use super::build::{Builder, Known};
use super::error::ImportError;
use super::read::RawNode;
use super::sequence::Bound;
use super::unroll::form;
use crate::ir::{Attr, Edit, Node, NodeKind, Op, OpError, Tensor, TensorType, Val, Value, ValueId};
use crate::ops::differentiate;
use std::collections::BTreeMap;

/// Most elements of all constants that a model's gradients make: 64 MiB of f32.
const MAX_ELEMS: usize = 1 << 24;
/// A node that they go through counts as so many elements: gradients of gradients double them.
const NODE_ELEMS: usize = 1 << 8;

/// A node of a derivative, to be put into the graph.
struct Written {
    number: usize,
    kind: Result<Op, Tensor>,
    operands: Vec<Option<Val>>,
    types: Vec<TensorType>,
}

impl Builder<'_> {
    /// The outputs of a Gradient.
    pub(super) fn gradient(&mut self, raw: &RawNode, order: u32) -> Result<Vec<Bound>, ImportError> {
        let names =
            |attr: &str| if let Some(Attr::Strs(names)) = raw.attrs.get(attr) { names.clone() } else { Vec::new() };
        let (xs, zs) = (names("xs"), names("zs"));
        let y = raw.attrs.str("y").ok_or_else(|| form("attribute y is missing"))?;
        if xs.is_empty() || raw.inputs.len() != xs.len() + zs.len() {
            return Err(form(format!(
                "{} operands where xs and zs name {} and {} values",
                raw.inputs.len(),
                xs.len(),
                zs.len()
            )));
        }
        let mut independent = Vec::with_capacity(raw.inputs.len());
        for (slot, name) in xs.iter().chain(&zs).enumerate() {
            let named = self.get(name)?;
            if self.required(raw, slot)? != named {
                return Err(form(format!(
                    "operand {slot} is not {name:?}: derivatives elsewhere than at the values of xs and zs are not written out"
                )));
            }
            match named {
                Known::Value(value) => independent.push(value),
                // What was computed of constants is a constant, and no longer says of which.
                Known::Pending(_) if slot < xs.len() => {
                    return Err(form(format!("{name:?} is a constant: make it an input of the model")));
                }
                Known::Pending(_) => {}
            }
        }
        let (xs, held) = independent.split_at(xs.len());
        let gains = match self.get(y)? {
            Known::Value(y) => self.gains(raw, y, xs, held, order)?,
            Known::Pending(_) => vec![None; xs.len()],
        };
        let mut outputs = Vec::with_capacity(xs.len());
        for (&x, gain) in xs.iter().zip(gains) {
            outputs.push(Bound::One(match gain {
                Some(gain) => Known::Value(gain),
                None => {
                    let zeros = self.filled(self.graph.ty(x), 0.0)?;
                    let name = self.fresh(&format!("{}.const", raw.name));
                    self.add_pending(&name, &name, zeros, Some(order))
                }
            }));
        }
        Ok(outputs)
    }

    /// What each of `xs` gains where every element of `y` gains 1, as values of the graph.
    fn gains(
        &mut self,
        raw: &RawNode,
        y: ValueId,
        xs: &[ValueId],
        held: &[ValueId],
        order: u32,
    ) -> Result<Vec<Option<ValueId>>, ImportError> {
        let ones = self.filled(self.graph.ty(y), 1.0)?;
        let old = |values: &[ValueId]| values.iter().copied().map(Val::Old).collect::<Vec<_>>();
        let mut edit = Edit::new(&self.graph);
        let seed = (Val::Old(y), edit.add_const(ones));
        let mut spend = |n: usize| self.spend(n.saturating_mul(NODE_ELEMS)).map_err(OpError::unsupported);
        let gains =
            differentiate::gains(&mut edit, &[seed], &old(xs), &old(held), &mut spend).map_err(|error| match error
                .source
            {
                // What the model asks for in all is no fault of a node.
                source if error.node.is_empty() => form(source),
                _ => form(error),
            })?;
        let written = needed(&edit, gains.iter().flatten().copied());
        let mut placed: BTreeMap<usize, ValueId> = BTreeMap::new();
        let now = |placed: &BTreeMap<usize, ValueId>, val: Val| match val {
            Val::Old(value) => Some(value),
            Val::New { node, out } => placed.get(&node).map(|first| first.node.out(out)),
        };
        for Written { number, kind, operands, types } in written {
            let (what, kind) = match kind {
                Ok(op) => (op.def.name, NodeKind::Op(op)),
                Err(tensor) => {
                    let n_elems = tensor.ty().shape.n_elems().unwrap_or(u64::MAX);
                    self.spend(usize::try_from(n_elems).unwrap_or(usize::MAX)).map_err(form)?;
                    ("const", NodeKind::Const(tensor))
                }
            };
            let name = self.fresh(&format!("{}.{what}", raw.name));
            let value = |(out, ty): (usize, TensorType)| Value {
                name: if out == 0 { name.clone() } else { format!("{name}:{out}") },
                ty,
            };
            let outputs = types.into_iter().enumerate().map(value).collect();
            let operands: Vec<Option<ValueId>> =
                operands.into_iter().map(|operand| operand.and_then(|val| now(&placed, val))).collect();
            let id = self.graph.insert(Node { order, ..Node::new(&name, kind, outputs) }, &operands);
            placed.insert(number, id.out(0));
        }
        Ok(gains.into_iter().map(|gain| gain.and_then(|val| now(&placed, val))).collect())
    }

    /// Counts elements against what a model's gradients may make.
    fn spend(&self, n_elems: usize) -> Result<(), String> {
        let spent = self.model.n_differentiated.get().saturating_add(n_elems);
        self.model.n_differentiated.set(spent);
        let most = MAX_ELEMS / NODE_ELEMS;
        if spent <= MAX_ELEMS {
            Ok(())
        } else {
            Err(format!("the model's gradients go through more than {most} nodes or as much of constants"))
        }
    }

    /// A constant of this type and shape.
    fn filled(&self, ty: &TensorType, fill: f32) -> Result<Tensor, ImportError> {
        let (Some(dims), true) = (ty.shape.known(), ty.dtype.is_float()) else {
            return Err(form(format!("the derivative of {ty}: its elements must be floats, and its sizes known")));
        };
        let n = dims.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim)).unwrap_or(usize::MAX);
        self.spend(n).map_err(form)?;
        Tensor::from_f32s(ty.dtype, &dims, &vec![fill; n]).map_err(form)
    }
}

/// The nodes of an edit that some values need, each after those that it reads.
fn needed(edit: &Edit<'_>, ends: impl Iterator<Item = Val>) -> Vec<Written> {
    let mut is_needed = vec![false; edit.n_new()];
    let mut open: Vec<Val> = ends.collect();
    while let Some(val) = open.pop() {
        if let Val::New { node, .. } = val
            && !std::mem::replace(&mut is_needed[node], true)
            && let Some((_, operands)) = edit.new_op(node)
        {
            open.extend(operands.iter().copied().flatten());
        }
    }
    let all = (0..edit.n_new()).filter(|node| is_needed[*node]);
    all.filter_map(|node| {
        let types = (0..edit.n_outputs(node)).map(|out| edit.ty(Val::New { node, out }).clone()).collect();
        let (kind, operands) = match edit.new_op(node) {
            Some((op, operands)) => (Ok(op.clone()), operands.to_vec()),
            None => (Err(edit.constant(Val::New { node, out: 0 })?.clone()), Vec::new()),
        };
        Some(Written { number: node, kind, operands, types })
    })
    .collect()
}
