//! Reverse-mode differentiation, from graph to graph: what values gain where others do.
//!
//! [`gains`] walks an edited graph backwards. What an operator's operands gain, its rule writes
//! ([`OpDef::gradient`](crate::ir::OpDef::gradient)), which is next to the operator; an operator without one is
//! written in others by its expansion, and the derivative is that of these. So whatever expands to operators with rules
//! has a derivative. Gains are written in core operators and those of ONNX, at any level of the graph, and can be
//! differentiated again.
//!
//! Codes are the one kind of integers on the way: quantization has the derivative of what it rounds (straight-through),
//! so that what codes gain is a float for each of them.

use crate::ir::expr::build::arg;
use crate::ir::{Attrs, Class, Differentiate, Dim, Edit, Expand, Gains, Op, OpError, TensorType, Val};
use crate::ops::core::{quantize_linear, store};
use crate::ops::{compose, widen};
use std::collections::{BTreeMap, BTreeSet};

/// How deep expansions are nested.
const MAX_DEPTH: usize = 16;

/// Why there is no derivative.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the derivative of node {node:?} ({op}): {source}")]
pub struct GradientError {
    /// The node, or what it is to be called.
    pub node: String,
    /// Its operator, as ONNX calls it where it does.
    pub op: String,
    /// What is wrong.
    pub source: OpError,
}

/// What each of `xs` gains where the first of each pair of `seeds` gains the second, in the type and shape of `xs`;
/// `None` where nothing that gains depends on it. The walk ends at `xs` and at the values `held`. `spend` is given
/// every node that it goes through, and may refuse.
///
/// # Errors
/// An operator on the way has no derivative.
pub fn gains(
    edit: &mut Edit<'_>,
    seeds: &[(Val, Val)],
    xs: &[Val],
    held: &[Val],
    spend: &mut dyn FnMut(usize) -> Result<(), OpError>,
) -> Result<Vec<Option<Val>>, GradientError> {
    walk(edit, seeds, xs, held, spend, 0)
}

/// A node by its first result.
fn node_of(val: Val) -> Val {
    match val {
        Val::Old(value) => Val::Old(value.node.out(0)),
        Val::New { node, .. } => Val::New { node, out: 0 },
    }
}

/// A node's operator; `None` of an input or a constant.
fn op_of<'e>(edit: &'e Edit<'_>, node: Val) -> Option<&'e Op> {
    match node {
        Val::Old(value) => edit.graph().node(value.node).op(),
        Val::New { node, .. } => edit.new_op(node).map(|(op, _)| op),
    }
}

fn operands_of(edit: &Edit<'_>, node: Val) -> Vec<Option<Val>> {
    match node {
        Val::Old(value) => edit.graph().operands(value.node).into_iter().map(|v| v.map(Val::Old)).collect(),
        Val::New { node, .. } => edit.new_op(node).map_or_else(Vec::new, |(_, operands)| operands.to_vec()),
    }
}

fn results_of(edit: &Edit<'_>, node: Val) -> Vec<Val> {
    let n = match node {
        Val::Old(value) => edit.graph().node(value.node).outputs.len(),
        Val::New { node, .. } => edit.n_outputs(node),
    };
    (0..n).map(|out| result(node, out)).collect()
}

fn result(node: Val, out: usize) -> Val {
    match node {
        Val::Old(value) => Val::Old(value.node.out(out)),
        Val::New { node, .. } => Val::New { node, out },
    }
}

/// The nodes that values are computed by from `stops` on, each after those that it reads.
fn between(
    edit: &Edit<'_>,
    stops: &BTreeSet<Val>,
    ends: impl Iterator<Item = Val>,
    spend: &mut dyn FnMut(usize) -> Result<(), OpError>,
) -> Result<Vec<Val>, OpError> {
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for end in ends {
        let mut open: Vec<(Val, std::vec::IntoIter<Option<Val>>)> = Vec::new();
        let mut next = Some(end);
        loop {
            if let Some(value) = next.take()
                && !stops.contains(&value)
                && seen.insert(node_of(value))
                && op_of(edit, node_of(value)).is_some()
            {
                spend(1)?;
                open.push((node_of(value), operands_of(edit, node_of(value)).into_iter()));
            }
            let Some((node, operands)) = open.last_mut() else { break };
            match operands.next() {
                Some(operand) => next = operand,
                None => {
                    order.push(*node);
                    open.pop();
                }
            }
        }
    }
    Ok(order)
}

fn walk(
    edit: &mut Edit<'_>,
    seeds: &[(Val, Val)],
    xs: &[Val],
    held: &[Val],
    spend: &mut dyn FnMut(usize) -> Result<(), OpError>,
    depth: usize,
) -> Result<Vec<Option<Val>>, GradientError> {
    let stops: BTreeSet<Val> = xs.iter().chain(held).copied().collect();
    let nowhere = |source| GradientError { node: String::new(), op: "Gradient".to_owned(), source };
    let order = between(edit, &stops, seeds.iter().map(|(value, _)| *value), spend).map_err(nowhere)?;
    // What depends on xs. Integers and truth values change in steps, but for codes, which pass gains straight through.
    let mut depends: BTreeSet<Val> = xs.iter().copied().collect();
    for &node in &order {
        let operands = operands_of(edit, node);
        let changing: Vec<Val> = operands.into_iter().flatten().filter(|operand| depends.contains(operand)).collect();
        if changing.is_empty() {
            continue;
        }
        let gives_codes = op_of(edit, node).is_some_and(|op| op.is(&quantize_linear::DEF))
            || changing.iter().any(|operand| edit.ty(*operand).dtype.class() == Class::Int);
        let follows = |class: Class| class == Class::Float || class == Class::Int && gives_codes;
        let results = results_of(edit, node).into_iter();
        depends.extend(results.filter(|value| follows(edit.ty(*value).dtype.class()) && !stops.contains(value)));
    }
    let mut gained: BTreeMap<Val, Val> = BTreeMap::new();
    for &(value, gain) in seeds {
        receive(edit, &mut gained, value, gain).map_err(nowhere)?;
    }
    for &node in order.iter().rev() {
        let results = results_of(edit, node);
        let of_result = |value: &Val| gained.get(value).copied().filter(|_| depends.contains(value));
        let gains: Vec<Option<Val>> = results.iter().map(of_result).collect();
        if gains.iter().all(Option::is_none) {
            continue;
        }
        let Some(op) = op_of(edit, node).cloned() else { continue };
        let operands = operands_of(edit, node);
        if let Val::Old(value) = node {
            edit.on_behalf_of(value.node);
        }
        let wanted = operands.iter().map(|v| v.is_some_and(|v| depends.contains(&v))).collect();
        let step = Step { op: &op, operands: &operands, results, gains, wanted };
        let name = name_of(edit, node);
        let at = |source| GradientError { node: name.clone(), op: spelling(&op), source };
        let parts = step.parts(edit, spend, depth).map_err(at)?;
        for (operand, part) in operands.iter().zip(parts) {
            if let (Some(operand), Some(part)) = (operand.filter(|v| depends.contains(v)), part) {
                receive(edit, &mut gained, operand, part).map_err(at)?;
            }
        }
    }
    Ok(xs.iter().map(|x| gained.get(x).copied()).collect())
}

fn name_of(edit: &Edit<'_>, node: Val) -> String {
    match node {
        Val::Old(value) => edit.graph().node(value.node).name.clone(),
        Val::New { .. } => edit.name(node).to_owned(),
    }
}

/// The operator's name in ONNX where it has one.
fn spelling(op: &Op) -> String {
    if op.def.onnx.is_empty() { op.def.name } else { op.def.onnx }.to_owned()
}

/// A node on the way back.
struct Step<'a> {
    op: &'a Op,
    operands: &'a [Option<Val>],
    results: Vec<Val>,
    gains: Vec<Option<Val>>,
    wanted: Vec<bool>,
}

impl Step<'_> {
    /// What each operand gains: by the operator's rule, or by that of what it is written in.
    fn parts(
        self,
        edit: &mut Edit<'_>,
        spend: &mut dyn FnMut(usize) -> Result<(), OpError>,
        depth: usize,
    ) -> Result<Vec<Option<Val>>, OpError> {
        let outputs: Vec<TensorType> = self.results.iter().map(|v| edit.ty(*v).clone()).collect();
        let inputs = self.operands.to_vec();
        let first = edit.n_new();
        let ruled = match self.op.def.gradient {
            Some(rule) => {
                let (inputs, outputs) = (inputs.clone(), outputs.clone());
                let node = Expand { edit: &mut *edit, attrs: &self.op.attrs, inputs, outputs };
                let (results, gains, wanted) = (self.results.clone(), self.gains.clone(), self.wanted.clone());
                rule(&mut Differentiate { node, results, gains, wanted })?
            }
            None => Gains::Expanded,
        };
        let dtypes: Vec<_> = outputs.iter().map(|ty| ty.dtype).collect();
        let written = match ruled {
            Gains::Are(parts) => return Ok(parts),
            Gains::Written(written) => written,
            Gains::Expanded => {
                let none = || OpError::unsupported("none is known");
                let expand = self.op.def.expand.filter(|_| depth < MAX_DEPTH).ok_or_else(none)?;
                let node = &mut Expand { edit: &mut *edit, attrs: &self.op.attrs, inputs, outputs };
                expand(node)?
            }
        };
        let made = widen::between(edit, first, written, &dtypes)?;
        let seeds: Vec<(Val, Val)> =
            made.into_iter().zip(self.gains).filter_map(|(value, gain)| Some((value, gain?))).collect();
        let mut xs: Vec<Val> = Vec::new();
        let mut held: Vec<Val> = Vec::new();
        for (operand, wanted) in self.operands.iter().zip(&self.wanted) {
            let list = if *wanted { &mut xs } else { &mut held };
            list.extend(operand.filter(|operand| !list.contains(operand)));
        }
        // The reason is within; the node is this one.
        let gained = walk(edit, &seeds, &xs, &held, spend, depth + 1).map_err(|error| error.source)?;
        let mut gained: BTreeMap<Val, Val> =
            xs.into_iter().zip(gained).filter_map(|(x, gain)| Some((x, gain?))).collect();
        // An operand that stands in two places gains once what both do.
        Ok(self.operands.iter().map(|operand| gained.remove(&(*operand)?)).collect())
    }
}

/// Adds to what a value has gained, in its type and shape.
fn receive(edit: &mut Edit<'_>, gained: &mut BTreeMap<Val, Val>, value: Val, part: Val) -> Result<(), OpError> {
    let ty = edit.ty(value).clone();
    let attrs = Attrs::new();
    let mut e = Expand { edit, attrs: &attrs, inputs: Vec::new(), outputs: Vec::new() };
    let part = fitted(&mut e, part, &ty)?;
    let sum = match gained.remove(&value) {
        Some(before) => crate::ops::core::pointwise::add(&mut e, arg(0) + arg(1), ty.dtype, &[before, part])?,
        None => part,
    };
    gained.insert(value, sum);
    Ok(())
}

/// A gain summed along the axes by which an operand of this type was broadcast, and stored in its type if that is one
/// of plain floats.
///
/// # Errors
/// It is no gain of such an operand.
pub fn fitted(e: &mut Expand<'_, '_>, part: Val, like: &TensorType) -> Result<Val, OpError> {
    let (own, wanted) = (e.ty(part).shape, &like.shape);
    let n_new = own.rank().saturating_sub(wanted.rank());
    let is_spread = |axis: &usize| {
        *axis >= n_new && wanted.0.get(axis - n_new) == Some(&Dim::Known(1)) && own.0[*axis] != Dim::Known(1)
    };
    let spread: Vec<usize> = (0..own.rank()).filter(is_spread).collect();
    let new: Vec<usize> = (0..n_new).collect();
    let mut sum = part;
    if !spread.is_empty() {
        sum = compose::reduce(e, "sum", sum, &spread, true)?;
    }
    if !new.is_empty() {
        sum = compose::reduce(e, "sum", sum, &new, false)?;
    }
    if e.ty(sum).shape != *wanted {
        return Err(OpError::operand(0, e.ty(sum), format!("a gain of {like}")));
    }
    // What codes gain is no code.
    let is_kept = e.ty(sum).dtype == like.dtype || like.dtype.class() != Class::Float || like.dtype.is_minifloat();
    if is_kept { Ok(sum) } else { store::add(e.edit, sum, like.dtype) }
}

#[cfg(test)]
mod tests;
