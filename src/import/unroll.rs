//! Bodies written in place of their nodes: iterations whose number is known one after the other, and the bodies of
//! attention that is customized.
//!
//! A condition that is computed while the program runs is no branch: both bodies of an If are computed, and each result
//! selected; a Loop runs as often as it may, and from the iteration at which it would have ended keeps what it carries.
//! Bodies have no effects but their results, so that is equal. Where a body does not count, operators that refuse
//! indices out of range get the index zero, so that a branch that was not taken does not end a run.

use super::body::{MAX_BODIES, count_nodes};
use super::build::{Builder, Known};
use super::error::{ImportError, Kind};
use super::normalize::{Draft, In};
use super::read::{RawGraph, RawNode};
use super::sequence::Bound;
use crate::ir::{Attrs, DType, OpError, Tensor, TensorType, resolve_axis};

/// Most nodes, those in nested bodies included, that one node's iterations are written out as.
const MAX_NODES: usize = 1 << 16;
/// Operators that refuse values of an operand while the program runs, and that operand.
const REFUSING: &[(&str, usize)] = &[
    ("CumProd", 1),
    ("CumSum", 1),
    ("Gather", 1),
    ("GatherElements", 1),
    ("GatherND", 1),
    ("MaxUnpool", 1),
    ("NegativeLogLikelihoodLoss", 1),
    ("ReverseSequence", 1),
    ("RoiAlign", 2),
    ("RotaryEmbedding", 3),
    ("ScatterElements", 1),
    ("ScatterND", 1),
    ("SoftmaxCrossEntropyLoss", 1),
    ("TensorScatter", 2),
    ("ai.onnx.ml::ArrayFeatureExtractor", 1),
    ("com.microsoft::GatherBlockQuantized", 1),
    ("com.microsoft::RotaryEmbedding", 1),
];
/// Why what bodies give cannot be chosen from.
const RUN_TIME: &str = "and the condition is computed while the program runs";

pub(super) fn form(problem: impl std::fmt::Display) -> ImportError {
    Kind::Form(problem.to_string()).into()
}

impl Builder<'_> {
    /// Writes a node whose bodies can stand in its place; whether it was one.
    pub(super) fn write_out(&mut self, raw: &RawNode, order: u32) -> Result<bool, ImportError> {
        let results = match raw.key().as_str() {
            "If" => self.both_branches(raw, order)?,
            "Loop" => self.iterations(raw, order)?,
            "Scan" => self.scan(raw, order)?.into_iter().map(Bound::One).collect(),
            "ai.onnx.preview::FlexAttention" => self.flex_attention(raw, order)?.into_iter().map(Bound::One).collect(),
            "ai.onnx.preview.training::Gradient" => self.gradient(raw, order)?,
            _ => match self.contrib(raw, order)? {
                Some(results) => results,
                None => return Ok(false),
            },
        };
        self.bind_outputs(raw, results)
    }

    /// Gives the outputs of a node that is written out their values, and says that it was.
    pub(super) fn bind_outputs(&mut self, raw: &RawNode, results: Vec<Bound>) -> Result<bool, ImportError> {
        if results.len() < raw.outputs.len() {
            return Err(Kind::Outputs { given: raw.outputs.len(), has: results.len() }.into());
        }
        for (output, bound) in raw.outputs.iter().zip(results).filter(|(output, _)| !output.is_empty()) {
            self.bind(output, bound)?;
        }
        Ok(true)
    }

    /// Operand `slot`, `None` where absent.
    pub(super) fn operand(&self, raw: &RawNode, slot: usize) -> Result<Option<Known>, ImportError> {
        let given = raw.inputs.get(slot).filter(|name| !name.is_empty() && !self.is_absent(name));
        given.map(|name| self.get(name)).transpose()
    }

    /// Operand `slot`, which has to be there.
    pub(super) fn required(&self, raw: &RawNode, slot: usize) -> Result<Known, ImportError> {
        self.operand(raw, slot)?.ok_or_else(|| form(format!("operand {slot} is missing")))
    }

    /// The integer in operand `slot`, which has to be known; `None` where absent.
    fn number(&self, raw: &RawNode, slot: usize) -> Result<Option<i64>, ImportError> {
        let Some(known) = self.operand(raw, slot)? else { return Ok(None) };
        let Some(tensor) = self.tensor(known) else {
            return Err(self.input_behind(known).map_or_else(
                || {
                    form(format!(
                        "operand {slot} is computed while the program runs: how often a body runs must be known"
                    ))
                },
                |name| Kind::FreeInput { slot, name }.into(),
            ));
        };
        Ok(tensor.to_i64s().map_err(form)?.first().copied())
    }

    pub(super) fn body_of_node<'r>(raw: &'r RawNode, name: &str) -> Result<&'r RawGraph, ImportError> {
        raw.graphs
            .iter()
            .find(|(n, _)| n == name)
            .map(|(_, body)| body)
            .ok_or_else(|| form(format!("attribute {name} is missing")))
    }

    /// A constant made here.
    pub(super) fn integer(
        &mut self,
        raw: &RawNode,
        dtype: DType,
        dims: &[usize],
        values: &[i64],
        order: u32,
    ) -> Result<Known, ImportError> {
        let name = self.fresh(&format!("{}.const", raw.name));
        Ok(self.add_pending(&name, &name, Tensor::from_i64s(dtype, dims, values).map_err(form)?, Some(order)))
    }

    /// A node of the default domain made here.
    pub(super) fn made(
        &mut self,
        raw: &RawNode,
        op: &str,
        operands: &[Known],
        attrs: Attrs,
        order: u32,
    ) -> Result<Known, ImportError> {
        let name = self.fresh(&format!("{}.{}", raw.name, op.to_ascii_lowercase()));
        let inputs = (0..operands.len()).map(In::Earlier).collect();
        let draft = Draft { name, op: op.to_owned(), inputs, outputs: vec![String::new()], attrs };
        let bare = RawNode { name: raw.name.clone(), op: op.to_owned(), ..RawNode::default() };
        let outputs = self.add(draft, &bare, order, operands)?;
        outputs.first().map(|o| o.1).ok_or_else(|| form("a node without output"))
    }

    /// Counts nodes that stand in no file.
    pub(super) fn count_written(&self, n: usize) -> Result<(), ImportError> {
        let n_bodies = self.model.n_bodies.get().saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        self.model.n_bodies.set(n_bodies);
        if n_bodies > MAX_BODIES / 4 {
            return Err(form(format!(
                "more than {} nodes of functions, subgraphs and sequences written out",
                MAX_BODIES / 4
            )));
        }
        Ok(())
    }

    /// Writes the nodes of a body for these values of its inputs, and gives those of its outputs.
    pub(super) fn inline(&mut self, body: &RawGraph, inputs: &[Bound], order: u32) -> Result<Vec<Bound>, ImportError> {
        self.count_written(body.nodes.len().saturating_add(10))?;
        if inputs.len() != body.inputs.len() {
            return Err(form(format!("{} values for the {} inputs of a body", inputs.len(), body.inputs.len())));
        }
        self.scoped(|builder| {
            for (info, bound) in body.inputs.iter().zip(inputs) {
                builder.bind(&info.name, bound.clone())?;
            }
            builder.nodes(body, Some(order))?;
            body.outputs.iter().map(|name| builder.bound(name)).collect()
        })
    }

    /// [`Builder::inline`] of a body that counts only where `condition` is `wanted`.
    fn guarded(
        &mut self,
        body: &RawGraph,
        inputs: &[Bound],
        condition: Known,
        wanted: bool,
        order: u32,
    ) -> Result<Vec<Bound>, ImportError> {
        self.guards.push((condition, wanted));
        let written = self.inline(body, inputs, order);
        self.guards.pop();
        written
    }

    /// Puts zeros in the place of the operand that operator `op` may refuse, where one of the bodies it is in does not
    /// count.
    pub(super) fn guard(
        &mut self,
        op: &str,
        raw: &RawNode,
        order: u32,
        operands: &mut [Option<Known>],
    ) -> Result<(), ImportError> {
        let Some((_, slot)) = REFUSING.iter().find(|(name, _)| *name == op) else { return Ok(()) };
        let Some(Some(operand)) =
            operands.get_mut(*slot).filter(|operand| operand.is_some_and(|known| self.tensor(known).is_none()))
        else {
            return Ok(());
        };
        for (condition, wanted) in self.guards.clone() {
            let dtype = self.ty(*operand).dtype;
            let zero = self.integer(raw, dtype, &[], &[0], order)?;
            let [yes, no] = if wanted { [*operand, zero] } else { [zero, *operand] };
            *operand = self.made(raw, "Where", &[condition, yes, no], Attrs::new(), order)?;
        }
        Ok(())
    }

    pub(super) fn check_count(raw: &RawNode, body: &RawGraph, n: usize) -> Result<(), ImportError> {
        match n.saturating_mul(count_nodes(body).max(1)) {
            0..=MAX_NODES => Ok(()),
            total => Err(form(format!(
                "{n} iterations of {} would be {total} nodes, at most {MAX_NODES} are written out",
                raw.op
            ))),
        }
    }

    /// Values of one iteration each, as one tensor with a new axis.
    pub(super) fn stacked(
        &mut self,
        raw: &RawNode,
        parts: &[Known],
        axis: i64,
        order: u32,
    ) -> Result<Known, ImportError> {
        let axes = self.integer(raw, DType::I64, &[1], &[axis], order)?;
        let rows = parts
            .iter()
            .map(|part| self.made(raw, "Unsqueeze", &[*part, axes], Attrs::new(), order))
            .collect::<Result<Vec<_>, _>>()?;
        self.made(raw, "Concat", &rows, Attrs::new().with_int("axis", axis), order)
    }

    /// [`Builder::inline`] where all inputs and outputs are tensors.
    fn tensors(&mut self, body: &RawGraph, inputs: &[Known], order: u32) -> Result<Vec<Known>, ImportError> {
        let inputs: Vec<Bound> = inputs.iter().copied().map(Bound::One).collect();
        let one = |bound| match bound {
            Bound::One(known) => Ok(known),
            _ => Err(form("a body gives a sequence, expected a tensor")),
        };
        self.inline(body, &inputs, order)?.into_iter().map(one).collect()
    }

    /// A truth value of one element as a scalar.
    fn scalar(&mut self, raw: &RawNode, condition: Known, order: u32) -> Result<Known, ImportError> {
        let ty = self.ty(condition).clone();
        if ty.dtype != DType::Bool || ty.shape.n_elems().is_some_and(|n| n != 1) {
            return Err(form(format!("the condition is {ty}, expected one truth value")));
        }
        if ty.shape.rank() == 0 {
            return Ok(condition);
        }
        let shape = self.integer(raw, DType::I64, &[0], &[], order)?;
        self.made(raw, "Reshape", &[condition, shape], Attrs::new(), order)
    }

    /// The input behind a condition that a user can give a value: integers or truth values, no data. Where bodies
    /// cannot be chosen from while the program runs, that is what helps.
    fn choosing_input(&self, condition: Known) -> Option<String> {
        let name = self.input_behind(condition)?;
        let input = self.graph.inputs().iter().find(|id| self.graph.node(**id).name == name)?;
        (!self.graph.ty(input.out(0)).dtype.is_float()).then_some(name)
    }

    /// If, ONNX opset 25, whose condition is computed while the program runs: both branches, and of each result the one
    /// that it chooses.
    fn both_branches(&mut self, raw: &RawNode, order: u32) -> Result<Vec<Bound>, ImportError> {
        let given = self.required(raw, 0)?;
        let free = self.choosing_input(given);
        let or_free = |error: ImportError| free.clone().map_or(error, |name| Kind::FreeInput { slot: 0, name }.into());
        let condition = self.scalar(raw, given, order)?;
        let mut branches = Vec::with_capacity(2);
        for (name, wanted) in [("then_branch", true), ("else_branch", false)] {
            branches
                .push(self.guarded(Self::body_of_node(raw, name)?, &[], condition, wanted, order).map_err(&or_free)?);
        }
        let mut results = Vec::with_capacity(raw.outputs.len());
        for (i, (yes, no)) in branches[0].iter().zip(&branches[1]).take(raw.outputs.len()).enumerate() {
            let selected = self.select(raw, condition, yes, no, order)?;
            let refused = |types| {
                let what = format!("output {i} is {types} in the two branches, {RUN_TIME}");
                // Sizes that are known may decide the condition.
                let symbols = self.symbols_behind(given);
                if symbols.is_empty() || symbols.iter().any(|symbol| !self.model.unbound.contains(symbol)) {
                    return form(what);
                }
                Kind::UnboundDim { source: OpError::Unsupported(what), symbols }.into()
            };
            results.push(selected.map_err(|types| or_free(refused(types)))?);
        }
        Ok(results)
    }

    /// Loop, ONNX opset 25: the values carried, then those collected.
    fn iterations(&mut self, raw: &RawNode, order: u32) -> Result<Vec<Bound>, ImportError> {
        let body = Self::body_of_node(raw, "body")?;
        let most = self.number(raw, 0)?;
        let first = self.operand(raw, 1)?;
        let mut goes_on = true;
        // Whether iterations still count, where that is computed while the program runs.
        let mut active = None;
        if let Some(known) = first {
            match self.tensor(known).map(Tensor::to_i64s) {
                Some(values) => goes_on = values.map_err(form)?.first().is_some_and(|c| *c != 0),
                None => active = Some(self.scalar(raw, known, order)?),
            }
        }
        let free = first.filter(|_| active.is_some()).and_then(|known| self.choosing_input(known));
        let mut carried =
            (2..raw.inputs.len()).map(|slot| self.bound(&raw.inputs[slot])).collect::<Result<Vec<_>, _>>()?;
        let n_collected = (body.outputs.len())
            .checked_sub(1 + carried.len())
            .ok_or_else(|| form("the body gives fewer values than the loop carries"))?;
        let mut collected = vec![Vec::new(); n_collected];
        let mut i = 0;
        while goes_on && most.is_none_or(|most| i < most) {
            if active.is_some() && (most.is_none() || n_collected > 0) {
                let what = if most.is_none() {
                    "the loop has no largest number of iterations"
                } else {
                    "the loop collects a value of each iteration"
                };
                let refusal = || form(format!("{what}, {RUN_TIME}"));
                return Err(free.clone().map_or_else(refusal, |name| Kind::FreeInput { slot: 1, name }.into()));
            }
            // From the second iteration on that may not count, all are written out but for a condition that turns out
            // to be constant.
            let n = most.filter(|_| active.is_some() && i > 0).unwrap_or(i + 1);
            Self::check_count(raw, body, usize::try_from(n).unwrap_or(usize::MAX))?;
            let yes = self.integer(raw, DType::Bool, &[], &[1], order)?;
            let mut inputs =
                vec![Bound::One(self.integer(raw, DType::I64, &[], &[i], order)?), Bound::One(active.unwrap_or(yes))];
            inputs.extend(carried.iter().cloned());
            let outputs = match active {
                Some(active) => self.guarded(body, &inputs, active, true, order)?,
                None => self.inline(body, &inputs, order)?,
            };
            let mut outputs = outputs.into_iter();
            let Some(Bound::One(condition)) = outputs.next() else { return Err(form("the body gives no condition")) };
            for (at, (slot, new)) in carried.iter_mut().zip(outputs.by_ref()).enumerate() {
                *slot = match active {
                    None => new,
                    Some(active) => self.select(raw, active, &new, slot, order)?.map_err(|types| {
                        let refusal =
                            || form(format!("carried value {at} is {types} after and before an iteration, {RUN_TIME}"));
                        free.clone().map_or_else(refusal, |name| Kind::FreeInput { slot: 1, name }.into())
                    })?,
                };
            }
            for (list, bound) in collected.iter_mut().zip(outputs) {
                let Bound::One(known) = bound else { return Err(form("a sequence is collected, expected a tensor")) };
                list.push(known);
            }
            match self.tensor(condition).map(Tensor::to_i64s) {
                Some(values) => goes_on = values.map_err(form)?.first().is_some_and(|c| *c != 0),
                None => {
                    let condition = self.scalar(raw, condition, order)?;
                    active = Some(match active {
                        Some(active) => self.made(raw, "And", &[active, condition], Attrs::new(), order)?,
                        None => condition,
                    });
                }
            }
            i += 1;
        }
        for list in &collected {
            if list.is_empty() {
                return Err(form("a loop without iterations collects values of unknown shape"));
            }
            carried.push(Bound::One(self.stacked(raw, list, 0, order)?));
        }
        Ok(carried)
    }

    /// Scan, ONNX opset 25: the states, then the values collected.
    fn scan(&mut self, raw: &RawNode, order: u32) -> Result<Vec<Known>, ImportError> {
        let body = Self::body_of_node(raw, "body")?;
        let operands = (0..raw.inputs.len()).map(|slot| self.required(raw, slot)).collect::<Result<Vec<_>, _>>()?;
        let n_scanned = raw
            .attrs
            .int("num_scan_inputs")
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (1..=operands.len()).contains(n));
        let n_states =
            operands.len() - n_scanned.ok_or_else(|| form("attribute num_scan_inputs is missing or out of range"))?;
        let (mut states, scanned) = (operands[..n_states].to_vec(), &operands[n_states..]);
        let at = |name: &str, i: usize| raw.attrs.ints(name).and_then(|list| list.get(i)).copied().unwrap_or(0);
        let mut axes = Vec::new();
        let mut n_steps = None;
        for (i, known) in scanned.iter().enumerate() {
            let ty: &TensorType = self.ty(*known);
            let axis = resolve_axis(at("scan_input_axes", i), ty.shape.rank())
                .ok_or_else(|| form(format!("scan_input_axes do not fit {ty}")))?;
            let n =
                ty.shape.0[axis].known().ok_or_else(|| form(format!("{ty}: how often the body runs must be known")))?;
            if n_steps.is_some_and(|before| before != n) {
                return Err(form(format!("inputs of {n_steps:?} and {n} steps")));
            }
            n_steps = Some(n);
            axes.push(axis);
        }
        let n_steps = n_steps.unwrap_or(0);
        Self::check_count(raw, body, usize::try_from(n_steps).unwrap_or(usize::MAX))?;
        let n_collected = body
            .outputs
            .len()
            .checked_sub(n_states)
            .ok_or_else(|| form("the body gives fewer values than there are states"))?;
        let mut collected = vec![Vec::new(); n_collected];
        for step in 0..n_steps {
            let mut inputs = states.clone();
            for (i, known) in scanned.iter().enumerate() {
                let place = if at("scan_input_directions", i) == 1 { n_steps - 1 - step } else { step };
                let place = self.integer(raw, DType::I64, &[], &[place], order)?;
                inputs.push(self.made(
                    raw,
                    "Gather",
                    &[*known, place],
                    Attrs::new().with_int("axis", axes[i] as i64),
                    order,
                )?);
            }
            let mut outputs = self.tensors(body, &inputs, order)?.into_iter();
            states.iter_mut().zip(outputs.by_ref()).for_each(|(slot, known)| *slot = known);
            collected.iter_mut().zip(outputs).for_each(|(list, known)| list.push(known));
        }
        for (i, list) in collected.iter_mut().enumerate() {
            if list.is_empty() {
                return Err(form("a scan without steps collects values of unknown shape"));
            }
            if at("scan_output_directions", i) == 1 {
                list.reverse();
            }
            states.push(self.stacked(raw, list, at("scan_output_axes", i), order)?);
        }
        Ok(states)
    }

    /// FlexAttention of the preview domain, version 1: attention with bodies that change scores and probabilities.
    fn flex_attention(&mut self, raw: &RawNode, order: u32) -> Result<Vec<Known>, ImportError> {
        let (q, mut k, mut v) = (self.required(raw, 0)?, self.required(raw, 1)?, self.required(raw, 2)?);
        let sizes = |known: Known| -> Result<[i64; 4], ImportError> {
            let ty = self.ty(known);
            let sizes = ty.shape.0.iter().map(|d| d.known()).collect::<Option<Vec<_>>>();
            sizes
                .and_then(|s| s.try_into().ok())
                .ok_or_else(|| form(format!("{ty}: four axes of known size are expected")))
        };
        let ([_, q_heads, _, head], [batch, heads, length, _], [.., v_size]) = (sizes(q)?, sizes(k)?, sizes(v)?);
        if heads < 1 || q_heads % heads != 0 {
            return Err(form(format!("{q_heads} heads of queries for {heads} of keys")));
        }
        if q_heads != heads {
            for (known, size) in [(&mut k, head), (&mut v, v_size)] {
                let axis = self.integer(raw, DType::I64, &[1], &[2], order)?;
                let column = self.made(raw, "Unsqueeze", &[*known, axis], Attrs::new(), order)?;
                let wide =
                    self.integer(raw, DType::I64, &[5], &[batch, heads, q_heads / heads, length, size], order)?;
                let repeated = self.made(raw, "Expand", &[column, wide], Attrs::new(), order)?;
                let flat = self.integer(raw, DType::I64, &[4], &[batch, q_heads, length, size], order)?;
                *known = self.made(raw, "Reshape", &[repeated, flat], Attrs::new(), order)?;
            }
        }
        let own = self.ty(q).dtype;
        let default = if own == DType::F64 { DType::F64 } else { DType::F32 };
        let precision = raw
            .attrs
            .int("softmax_precision")
            .map_or(Some(default), |n| i32::try_from(n).ok().and_then(DType::from_onnx));
        let precision = precision.filter(|d| d.is_float()).ok_or_else(|| form("softmax_precision is no float type"))?;
        let cast = |builder: &mut Self, known: Known, to: DType| {
            if builder.ty(known).dtype == to {
                Ok(known)
            } else {
                builder.made(raw, "Cast", &[known], Attrs::new().with_dtype("to", to), order)
            }
        };
        let transposed = self.made(raw, "Transpose", &[k], Attrs::new().with_ints("perm", [0, 1, 3, 2]), order)?;
        let scores = self.made(raw, "MatMul", &[q, transposed], Attrs::new(), order)?;
        let scores = cast(self, scores, precision)?;
        let factor = raw.attrs.float("scale").unwrap_or(1.0 / (head.max(1) as f32).sqrt());
        let name = self.fresh(&format!("{}.scale", raw.name));
        let factor =
            self.add_pending(&name, &name, Tensor::from_f32s(precision, &[], &[factor]).map_err(form)?, Some(order));
        let mut scores = self.made(raw, "Mul", &[scores, factor], Attrs::new(), order)?;
        for (name, softmax) in [("score_mod", true), ("prob_mod", false)] {
            if let Ok(body) = Self::body_of_node(raw, name) {
                let changed = self.tensors(body, &[scores], order)?;
                scores = changed.first().copied().ok_or_else(|| form(format!("{name} gives nothing")))?;
            }
            if softmax {
                scores = self.made(raw, "Softmax", &[scores], Attrs::new().with_int("axis", -1), order)?;
            }
        }
        let weights = cast(self, scores, own)?;
        Ok(vec![self.made(raw, "MatMul", &[weights, v], Attrs::new(), order)?])
    }
}
