//! Gradient of ONNX's domain `ai.onnx.preview.training`, version 1: reverse-mode differentiation of the nodes between
//! the values that it names, written out as operators of ONNX. The derivative of a tensor that is no scalar is that of
//! the sum of its elements.

use super::build::{Builder, Known};
use super::error::ImportError;
use super::read::RawNode;
use super::sequence::Bound;
use super::unroll::form;
use crate::ir::{Attr, Attrs, DType, Dim, NodeId, Tensor, ValueId, resolve_axis};
use std::collections::{BTreeMap, BTreeSet};

/// Most elements of all constants that a model's gradients make: 64 MiB of f32.
const MAX_ELEMS: usize = 1 << 24;
/// A node that they go through counts as so many elements: gradients of gradients double them.
const NODE_ELEMS: usize = 1 << 8;

/// What a derivative is with respect to: a node's operand, and what `y` gains with it.
type Partial = (usize, Known);

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
        let y = self.get(y)?;
        let stops: BTreeSet<ValueId> = independent.iter().copied().collect();
        let xs = &independent[..xs.len()];
        let mut gained: BTreeMap<ValueId, Known> = BTreeMap::new();
        if let Known::Value(value) = y {
            let between = self.between(&stops, value)?;
            let ones = self.filled(raw, y, 1.0, order)?;
            gained.insert(value, ones);
            let depends = self.depending(xs, &stops, &between);
            for &id in between.iter().rev() {
                // A node of several results is refused, whichever of them gains.
                let results = (0..self.graph.node(id).outputs.len())
                    .map(|out| id.out(out))
                    .filter(|result| depends.contains(result));
                let Some(gain) = results.into_iter().find_map(|result| gained.remove(&result)) else { continue };
                let operands = self.graph.operands(id);
                for (slot, part) in self.partials(raw, id, gain, &depends, order)? {
                    let Some(operand) = operands.get(slot).copied().flatten() else { continue };
                    let part = self.fitted(raw, part, Known::Value(operand), order)?;
                    let sum = match gained.remove(&operand) {
                        Some(before) => self.made(raw, "Add", &[before, part], Attrs::new(), order)?,
                        None => part,
                    };
                    gained.insert(operand, sum);
                }
            }
        }
        let mut outputs = Vec::with_capacity(xs.len());
        for &x in xs {
            outputs.push(Bound::One(match gained.get(&x) {
                Some(&gain) => gain,
                None => self.filled(raw, Known::Value(x), 0.0, order)?,
            }));
        }
        Ok(outputs)
    }

    /// The nodes that `y` is computed by from `stops` on, each after those that it reads.
    fn between(&self, stops: &BTreeSet<ValueId>, y: ValueId) -> Result<Vec<NodeId>, ImportError> {
        let mut order = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = Vec::new();
        let mut next = Some(y);
        loop {
            if let Some(value) = next.take()
                && !stops.contains(&value)
                && seen.insert(value.node)
            {
                self.spend(NODE_ELEMS)?;
                open.push((value.node, self.graph.operands(value.node).into_iter()));
            }
            let Some((node, operands)) = open.last_mut() else { return Ok(order) };
            match operands.next() {
                Some(operand) => next = operand,
                None => {
                    order.push(*node);
                    open.pop();
                }
            }
        }
    }

    /// Counts elements against what a model's gradients may make.
    fn spend(&self, n_elems: usize) -> Result<(), ImportError> {
        let spent = self.model.n_differentiated.get().saturating_add(n_elems);
        self.model.n_differentiated.set(spent);
        let most = MAX_ELEMS / NODE_ELEMS;
        if spent <= MAX_ELEMS {
            Ok(())
        } else {
            Err(form(format!("the model's gradients go through more than {most} nodes or as much of constants")))
        }
    }

    /// The values among the nodes `between` that depend on `xs`, `xs` included.
    fn depending(&self, xs: &[ValueId], stops: &BTreeSet<ValueId>, between: &[NodeId]) -> BTreeSet<ValueId> {
        let mut depends: BTreeSet<ValueId> = xs.iter().copied().collect();
        for &id in between {
            if self.graph.operands(id).iter().flatten().any(|operand| depends.contains(operand)) {
                depends.extend(
                    (0..self.graph.node(id).outputs.len())
                        .map(|out| id.out(out))
                        .filter(|value| !stops.contains(value)),
                );
            }
        }
        depends
    }

    /// What the operands of a node gain where its result gains `dy`, in the result's shape where they are broadcast.
    fn partials(
        &mut self,
        raw: &RawNode,
        id: NodeId,
        dy: Known,
        depends: &BTreeSet<ValueId>,
        order: u32,
    ) -> Result<Vec<Partial>, ImportError> {
        let node = self.graph.node(id);
        let Some(op) = node.op() else { return Ok(Vec::new()) };
        let (def, attrs, name) = (op.def, op.attrs.clone(), node.name.clone());
        let refuse = |why: &str| form(format!("the derivative of node {name:?} ({}): {why}", def.onnx));
        if node.outputs.len() != 1 || !node.outputs[0].ty.dtype.is_float() {
            return Err(refuse("it has one for a single float result only"));
        }
        let y = Known::Value(id.out(0));
        let operands: Vec<Option<Known>> =
            self.graph.operands(id).into_iter().map(|value| value.map(Known::Value)).collect();
        let wanted =
            |slot: usize| matches!(operands.get(slot), Some(Some(Known::Value(value))) if depends.contains(value));
        let operand = |slot: usize| {
            operands.get(slot).copied().flatten().ok_or_else(|| refuse(&format!("operand {slot} is missing")))
        };
        let mut make = |op: &str, operands: &[Known]| self.made(raw, op, operands, Attrs::new(), order);
        let mut partials = Vec::new();
        match def.onnx {
            "Add" | "Sum" | "Identity" => {
                partials.extend((0..operands.len()).filter(|&slot| wanted(slot)).map(|slot| (slot, dy)))
            }
            "Sub" => {
                partials.extend(wanted(0).then_some((0, dy)));
                if wanted(1) {
                    partials.push((1, make("Neg", &[dy])?));
                }
            }
            "Mul" => {
                for slot in (0..2).filter(|&slot| wanted(slot)) {
                    partials.push((slot, make("Mul", &[dy, operand(1 - slot)?])?));
                }
            }
            "Div" => {
                let quotient = make("Div", &[dy, operand(1)?])?;
                partials.extend(wanted(0).then_some((0, quotient)));
                if wanted(1) {
                    let part = make("Mul", &[quotient, y])?;
                    partials.push((1, make("Neg", &[part])?));
                }
            }
            "Neg" => partials.push((0, make("Neg", &[dy])?)),
            "Exp" => partials.push((0, make("Mul", &[dy, y])?)),
            "Log" => partials.push((0, make("Div", &[dy, operand(0)?])?)),
            "Sqrt" => {
                let twice = make("Add", &[y, y])?;
                partials.push((0, make("Div", &[dy, twice])?));
            }
            // dy * (1 - y^2)
            "Tanh" => {
                let once = make("Mul", &[dy, y])?;
                let twice = make("Mul", &[once, y])?;
                partials.push((0, make("Sub", &[dy, twice])?));
            }
            // dy * y * (1 - y)
            "Sigmoid" => {
                let once = make("Mul", &[dy, y])?;
                let twice = make("Mul", &[once, y])?;
                partials.push((0, make("Sub", &[once, twice])?));
            }
            // Where the result is 0, so is the derivative.
            "Relu" => {
                let sign = make("Sign", &[y])?;
                partials.push((0, make("Mul", &[dy, sign])?));
            }
            "MatMul" => {
                let ranks = [self.ty(operand(0)?).shape.rank(), self.ty(operand(1)?).shape.rank()];
                if ranks.iter().any(|rank| *rank < 2) {
                    return Err(refuse("its operands have two axes at least"));
                }
                for slot in (0..2).filter(|&slot| wanted(slot)) {
                    let mut perm: Vec<i64> = (0..ranks[1 - slot] as i64).collect();
                    perm.swap(ranks[1 - slot] - 2, ranks[1 - slot] - 1);
                    let other = self.made(
                        raw,
                        "Transpose",
                        &[operand(1 - slot)?],
                        Attrs::new().with_ints("perm", perm),
                        order,
                    )?;
                    let factors = if slot == 0 { [dy, other] } else { [other, dy] };
                    partials.push((slot, self.made(raw, "MatMul", &factors, Attrs::new(), order)?));
                }
            }
            "Transpose" => {
                let rank = self.ty(dy).shape.rank();
                let perm: Vec<i64> =
                    attrs.ints("perm").map_or_else(|| (0..rank as i64).rev().collect(), <[i64]>::to_vec);
                let mut inverse = vec![0; rank];
                perm.iter().enumerate().for_each(|(to, from)| inverse[*from as usize] = to as i64);
                partials.push((0, self.made(raw, "Transpose", &[dy], Attrs::new().with_ints("perm", inverse), order)?));
            }
            "ReduceSum" | "ReduceMean" => {
                let x = operand(0)?;
                let dims = self.ty(x).shape.known().ok_or_else(|| refuse("its sizes must be known"))?;
                let given = match operands.get(1).copied().flatten() {
                    Some(axes) => {
                        self.tensor(axes).ok_or_else(|| refuse("its axes must be constant"))?.to_i64s().map_err(form)?
                    }
                    None => Vec::new(),
                };
                let all = given.is_empty() && attrs.int("noop_with_empty_axes").unwrap_or(0) == 0;
                let mut axes = given
                    .iter()
                    .map(|axis| resolve_axis(*axis, dims.len()))
                    .collect::<Option<BTreeSet<_>>>()
                    .ok_or_else(|| refuse("axes"))?;
                if all {
                    axes = (0..dims.len()).collect();
                }
                let mut gain = dy;
                if attrs.int("keepdims").unwrap_or(1) == 0 && !axes.is_empty() {
                    let list: Vec<i64> = axes.iter().map(|axis| *axis as i64).collect();
                    let list = self.integer(raw, DType::I64, &[list.len()], &list, order)?;
                    gain = self.made(raw, "Unsqueeze", &[gain, list], Attrs::new(), order)?;
                }
                let n: usize = axes.iter().map(|axis| dims[*axis]).product();
                let each = if def.onnx == "ReduceMean" { 1.0 / n.max(1) as f32 } else { 1.0 };
                let each = self.filled(raw, x, each, order)?;
                partials.push((0, self.made(raw, "Mul", &[gain, each], Attrs::new(), order)?));
            }
            _ => return Err(refuse("none is known")),
        }
        Ok(partials)
    }

    /// Sums `part` along the axes that `like` was broadcast by.
    fn fitted(&mut self, raw: &RawNode, part: Known, like: Known, order: u32) -> Result<Known, ImportError> {
        let (own, wanted) = (self.ty(part).shape.clone(), self.ty(like).shape.clone());
        let n_new = own.rank().saturating_sub(wanted.rank());
        let is_new = |axis: &usize| *axis < n_new;
        let is_spread = |axis: &usize| {
            *axis >= n_new && wanted.0.get(axis - n_new) == Some(&Dim::Known(1)) && own.0[*axis] != Dim::Known(1)
        };
        let lists: [Vec<i64>; 2] = [
            (0..own.rank()).filter(is_spread).map(|axis| axis as i64).collect(),
            (0..own.rank()).filter(is_new).map(|axis| axis as i64).collect(),
        ];
        let mut sum = part;
        for (list, keepdims) in lists.into_iter().zip([1, 0]).filter(|(list, _)| !list.is_empty()) {
            let axes = self.integer(raw, DType::I64, &[list.len()], &list, order)?;
            sum = self.made(raw, "ReduceSum", &[sum, axes], Attrs::new().with_int("keepdims", keepdims), order)?;
        }
        if self.ty(sum).shape != wanted {
            return Err(form(format!("a derivative of shape {} for a value of shape {wanted}", self.ty(sum).shape)));
        }
        Ok(sum)
    }

    /// A constant of the type and shape of `like`.
    fn filled(&mut self, raw: &RawNode, like: Known, fill: f32, order: u32) -> Result<Known, ImportError> {
        let ty = self.ty(like).clone();
        let (Some(dims), true) = (ty.shape.known(), ty.dtype.is_float()) else {
            return Err(form(format!("the derivative of {ty}: its elements must be floats, and its sizes known")));
        };
        let n = dims.iter().try_fold(1usize, |n, dim| n.checked_mul(*dim)).unwrap_or(usize::MAX);
        self.spend(n)?;
        let tensor = Tensor::from_f32s(ty.dtype, &dims, &vec![fill; n]).map_err(form)?;
        let name = self.fresh(&format!("{}.const", raw.name));
        Ok(self.add_pending(&name, &name, tensor, Some(order)))
    }
}
