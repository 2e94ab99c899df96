//! Brings convolutions to channels last (`[N,H,W,C]`), where the target's matrix units make that pay.
//!
//! Looks for `conv` with constant filters, quantized ones among them, and gives it the layout `nhwc`; filters become
//! `[OC, kh, kw, C/group]`. What follows takes its operands as they come: pools, resizes, elementwise nodes, joins,
//! reductions, softmax and quantization of a whole tensor are computed channels last where most of what they read is;
//! everything else reads the model's order. A transposition stands where both orders meet, once for each value; it is a
//! view where only axes of one element move, or the model itself transposes the image so. Equal because each node
//! computes the same elements of the same operands. Refuses filters that are computed, and those whose quantized blocks
//! run along other axes than channels.

use super::axis_orders::{last_axis, leading, moves_nothing, pixels_of, source_of_transposition, with};
use super::pattern::float_cast;
use super::{Context, Pass, PassError, at};
use crate::ir::{Attr, Attrs, CORE, Dim, Edit, Graph, Level, NodeId, Op, OpError, Patch, Val, ValueId};
use crate::kernels;
use crate::ops::core::layout::{self, TO_NCHW, TO_NHWC};
use crate::ops::core::{conv, pool, reshape, resize, strided};
use std::collections::BTreeMap;

/// The pass.
pub struct ChannelsLast;

impl Pass for ChannelsLast {
    fn name(&self) -> &str {
        "channels_last"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut work = Work {
            graph,
            edit: Edit::new(graph),
            last: BTreeMap::new(),
            first: BTreeMap::new(),
            filters: BTreeMap::new(),
        };
        if graph.level != Level::Core || !cx.target.prefers_channels_last() {
            return Ok(work.edit.finish());
        }
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            work.node(id, op, cx).map_err(at(&node.name))?;
        }
        work.outputs().map_err(|source| PassError::Op { node: graph.name.clone(), source })?;
        Ok(work.edit.finish())
    }
}

/// A value with channels last.
#[derive(Clone, Copy)]
struct Last {
    val: Val,
    /// Whether its producer gives it so, and not a transposition.
    is_native: bool,
}

struct Work<'g> {
    graph: &'g Graph,
    edit: Edit<'g>,
    last: BTreeMap<ValueId, Last>,
    /// Values in the model's order whose producer gives them channels last.
    first: BTreeMap<ValueId, Val>,
    /// Filters with channels last.
    filters: BTreeMap<ValueId, Val>,
}

/// What becomes of a node.
enum Form {
    /// Its operands and results are in the model's order.
    First,
    /// As this operator with channels last; its results too where they have four axes.
    Last(Op),
}

impl Work<'_> {
    fn node(&mut self, id: NodeId, op: &Op, cx: &mut Context<'_>) -> Result<(), OpError> {
        let operands = self.graph.operands(id);
        if let Some((source, shape)) = self.transposed_by_model(id) {
            // The model transposes it itself: the result has this layout already.
            self.edit.on_behalf_of(id);
            let op = Op::new(&reshape::DEF, Attrs::new().with_dims("shape", shape));
            let val = self.edit.add(op, &[source]).map_err(Box::new)?;
            self.edit.replace(id.out(0), val);
            return Ok(());
        }
        let form = match self.form(id, op, &operands) {
            Ok(form) => form,
            Err(because) => {
                cx.explain.note(&[&self.graph.node(id).name], "channels_last", "channels last", || because);
                Form::First
            }
        };
        let Form::Last(op) = form else {
            for (slot, value) in operands.iter().enumerate() {
                if let Some(value) = value.filter(|v| self.last.get(v).is_some_and(|last| last.is_native)) {
                    let val = self.first(value)?;
                    self.edit.set_operand(id, slot, val);
                }
            }
            return Ok(());
        };
        let mut inputs = Vec::with_capacity(operands.len());
        for (slot, value) in operands.iter().enumerate() {
            let Some(value) = *value else {
                inputs.push(None);
                continue;
            };
            inputs.push(Some(match op.def.name {
                "conv" if slot > 0 => self.filters(id, value)?,
                "dequantize_linear" | "quantize_linear" if slot > 0 => Val::Old(value),
                _ => self.last(id, value)?,
            }));
        }
        self.edit.on_behalf_of(id);
        let n = self.graph.node(id).outputs.len();
        let results = self.edit.add_all(op, &inputs, n).map_err(|e| OpError::Edit(Box::new(e)))?;
        for (out, val) in results.into_iter().enumerate() {
            let value = id.out(out);
            if self.graph.ty(value).shape.rank() == 4 {
                self.last.insert(value, Last { val, is_native: true });
            }
            if !self.graph.is_output(value) || self.graph.ty(value).shape.rank() != 4 {
                self.edit.replace(value, val);
            }
        }
        Ok(())
    }

    /// For a Transpose to channels last, of an image or of its pixels `[N,C,H*W]`, the value that it could view, and
    /// its shape.
    fn transposed_by_model(&self, id: NodeId) -> Option<(Val, Vec<Dim>)> {
        let shape = &self.graph.ty(id.out(0)).shape;
        let native = |v: ValueId| self.last.get(&v).filter(|last| last.is_native).map(|last| last.val);
        if let Some(source) = source_of_transposition(self.graph, id.out(0), &TO_NHWC) {
            return Some((native(source)?, shape.0.clone()));
        }
        let pixels = source_of_transposition(self.graph, id.out(0), &[0, 2, 1])?;
        self.graph.node(pixels.node).op().filter(|op| op.is(&reshape::DEF))?;
        let image = self.graph.operands(pixels.node).first().copied().flatten()?;
        (pixels_of(&self.graph.ty(image).shape)? == *shape).then_some((native(image)?, shape.0.clone()))
    }

    /// For an image that the model made of one with channels last, or of its pixels `[N,H*W,C]`, what it is a view of.
    fn before_turn(&self, value: ValueId) -> Option<ValueId> {
        if let Some(source) = source_of_transposition(self.graph, value, &TO_NCHW) {
            return Some(source);
        }
        self.graph.node(value.node).op().filter(|op| op.is(&reshape::DEF))?;
        let planes = self.graph.operands(value.node).first().copied().flatten()?;
        let pixels = source_of_transposition(self.graph, planes, &[0, 2, 1])?;
        (pixels_of(&self.graph.ty(value).shape)? == self.graph.ty(pixels).shape).then_some(pixels)
    }

    /// Outputs of the graph keep the model's order.
    fn outputs(&mut self) -> Result<(), OpError> {
        let outputs: Vec<ValueId> = self.graph.outputs().iter().map(|output| output.value).collect();
        for value in outputs {
            if self.last.get(&value).is_some_and(|last| last.is_native) {
                let val = self.first(value)?;
                self.edit.replace(value, val);
            }
        }
        Ok(())
    }

    /// What a node becomes; the error says why it stays as it is though some operand has channels last.
    fn form(&self, id: NodeId, op: &Op, operands: &[Option<ValueId>]) -> Result<Form, String> {
        let x = operands.first().copied().flatten();
        let rank = |v: ValueId| self.graph.ty(v).shape.rank();
        let native = |v: ValueId| self.last.get(&v).is_some_and(|last| last.is_native);
        if !matches!(layout::is_nhwc(&op.attrs), Ok(false)) {
            return Ok(Form::First);
        }
        if kernels::has_doubles(self.graph, id) {
            return Err("f64 is computed on the CPU reference, in the model's order".to_owned());
        }
        let with_layout = || {
            let mut op = op.clone();
            op.attrs = op.attrs.with_str("layout", "nhwc");
            Form::Last(op)
        };
        if op.is(&conv::DEF) {
            return self.takes_filters(id, op, operands).map(|()| with_layout());
        }
        if !operands.iter().flatten().any(|v| native(*v)) {
            return Ok(Form::First);
        }
        let whole = x.filter(|x| rank(*x) == 4 && native(*x));
        let axes = |axes: &[i64]| -> Option<Vec<i64>> { axes.iter().map(|axis| last_axis(*axis)).collect() };
        let refused = || Err(format!("{} is computed in the model's order", op.def.name));
        match op.def.name {
            "pool" if op.is(&pool::DEF) && whole.is_some() => Ok(with_layout()),
            "resize" if op.is(&resize::DEF) && whole.is_some() => Ok(with_layout()),
            "reduce" if whole.is_some() => {
                let Some(moved) = op.attrs.ints("axes").and_then(axes) else { return refused() };
                let keeps = op.attrs.int("keepdims").unwrap_or(1) != 0;
                // What remains stands in the model's order.
                let rest: Vec<usize> = TO_NHWC
                    .into_iter()
                    .filter(|axis| !op.attrs.ints("axes").is_some_and(|axes| axes.contains(&(*axis as i64))))
                    .collect();
                if !keeps && !rest.is_sorted() {
                    return refused();
                }
                let mut sorted = moved;
                sorted.sort_unstable();
                Ok(Form::Last(with(op, "axes", Attr::Ints(sorted))))
            }
            "softmax" | "concat"
                if self.is_mostly_last(operands) && operands.iter().flatten().all(|v| rank(*v) == 4) =>
            {
                let Some(axis) = op.attrs.int("axis").and_then(last_axis) else { return refused() };
                Ok(Form::Last(with(op, "axis", Attr::Int(axis))))
            }
            "pointwise" if op.def.levels & CORE != 0 && rank(id.out(0)) == 4 && self.is_mostly_last(operands) => {
                if operands.iter().flatten().any(|v| self.graph.ty(*v).packing.is_some()) {
                    return refused();
                }
                Ok(Form::Last(op.clone()))
            }
            "dynamic_quantize" | "quantize_packed"
                if whole.is_some() && op.attrs.str("granularity") == Some("tensor") =>
            {
                Ok(Form::Last(op.clone()))
            }
            "quantize_linear" | "dequantize_linear" if whole.is_some() => {
                // One scale for all.
                let single = |v: &ValueId| self.graph.ty(*v).shape.n_elems() == Some(1);
                if operands.iter().skip(1).flatten().all(single) { Ok(Form::Last(op.clone())) } else { refused() }
            }
            _ => refused(),
        }
    }

    /// Whether what a node reads has channels last already for the most part, constants aside.
    fn is_mostly_last(&self, operands: &[Option<ValueId>]) -> bool {
        let (mut last, mut first) = (0u64, 0u64);
        for value in operands.iter().flatten().filter(|v| self.graph.constant(**v).is_none()) {
            let shape = &self.graph.ty(*value).shape;
            let n = shape.most_elems().unwrap_or(u64::MAX);
            let is_free = shape.rank() < 4 && n == 1 || moves_nothing(&leading(shape), &TO_NHWC);
            let side = if self.last.contains_key(value) {
                &mut last
            } else if is_free {
                continue;
            } else {
                &mut first
            };
            *side = side.saturating_add(n);
        }
        last > 0 && last >= first
    }

    /// Whether the filters of a convolution can be read with channels last.
    fn takes_filters(&self, id: NodeId, op: &Op, operands: &[Option<ValueId>]) -> Result<(), String> {
        let refuse = |what: &str| Err(what.to_owned());
        let [Some(x), Some(w)] = *operands else {
            return refuse("its filters are in several parts, or an operand is absent");
        };
        if self.graph.ty(x).shape.rank() != 4 || self.graph.ty(x).packing.is_some() || op.attrs.ints("kernel").is_none()
        {
            return refuse("it is not over two spatial axes");
        }
        if self.graph.node(id).outputs.len() != 1 {
            return refuse("it has several results");
        }
        let ty = self.graph.ty(w);
        if ty.shape.rank() != 4 || ty.packing.is_some() {
            return refuse("its filters are a matrix already");
        }
        let shape = ty.shape.known().unwrap_or_default();
        if shape.contains(&0) {
            return refuse("its filters are empty");
        }
        if let Some(tensor) = self.graph.constant(w) {
            return if tensor.is_present() { Ok(()) } else { refuse("the data of its filters is not here") };
        }
        // Behind casts and views a DequantizeLinear of constants, whose blocks run along the channels, or are whole
        // filters.
        let mut value = w;
        let mut transposed = false;
        while let Some(op) = self.graph.node(value.node).op() {
            let before = match op.def.name {
                "reshape" => self.graph.operands(value.node).first().copied().flatten(),
                "strided" if source_of_transposition(self.graph, value, &TO_NCHW).is_some() => {
                    transposed = true;
                    self.graph.operands(value.node).first().copied().flatten()
                }
                "concat" => {
                    // Parts of one matrix, as `insert_qdq` joins them: they have the layout of the matrix.
                    let is_plain = moves_nothing(&ty.shape, &TO_NHWC);
                    return if transposed || is_plain {
                        Ok(())
                    } else {
                        refuse("rows of its filters are stored in several ways")
                    };
                }
                "dequantize_linear" => {
                    let scales = self.graph.operands(value.node).get(1).copied().flatten();
                    let n_scales = scales.and_then(|v| self.graph.ty(v).shape.n_elems());
                    let by_filter = n_scales.is_some_and(|n| n <= shape.first().map_or(0, |n| *n as u64));
                    let fits = transposed || by_filter || moves_nothing(&ty.shape, &TO_NHWC);
                    return if fits { Ok(()) } else { refuse("the blocks of its filters run along the kernel") };
                }
                _ => float_cast(self.graph, value.node),
            };
            let Some(before) = before else { break };
            value = before;
        }
        refuse("its filters are computed")
    }

    /// `value` in the model's order.
    fn first(&mut self, value: ValueId) -> Result<Val, OpError> {
        if let Some(&val) = self.first.get(&value) {
            return Ok(val);
        }
        let Some(last) = self.last.get(&value).filter(|last| last.is_native).copied() else {
            return Ok(Val::Old(value));
        };
        self.edit.on_behalf_of(value.node);
        let val = self.transposed(last.val, &TO_NCHW)?;
        let name = format!("{}.nchw", self.graph.value(value).name);
        self.edit.set_name(val, &name);
        self.first.insert(value, val);
        Ok(val)
    }

    /// `value` with channels last, for a node that reads it so; of fewer axes, which it broadcasts along, others come
    /// before.
    fn last(&mut self, reader: NodeId, value: ValueId) -> Result<Val, OpError> {
        if let Some(last) = self.last.get(&value) {
            return Ok(last.val);
        }
        let shape = self.graph.ty(value).shape.clone();
        if shape.rank() == 0 || shape.n_elems() == Some(1) && shape.rank() < 4 {
            return Ok(Val::Old(value));
        }
        self.edit.on_behalf_of(if self.graph.node(value.node).op().is_some() { value.node } else { reader });
        let name = format!("{}.nhwc", self.graph.value(value).name);
        let whole = leading(&shape);
        let is_alone = self.graph.users(value).len() == 1 && !self.graph.is_output(value);
        let constant =
            self.graph.constant(value).filter(|t| t.is_present() && is_alone && !moves_nothing(&whole, &TO_NHWC));
        let val = match constant {
            None if self.before_turn(value).is_some_and(|source| self.is_as_it_was(source)) => {
                let source = self.before_turn(value).unwrap_or(value);
                let wanted = layout::nhwc(&shape).unwrap_or(shape);
                let val = self.reshaped(Val::Old(source), wanted.0)?;
                self.edit.set_name(val, &name);
                val
            }
            Some(tensor) => {
                let dims = whole.known().unwrap_or_default();
                let tensor = layout::transposed(&tensor.reshaped(&dims)?, TO_NHWC)?;
                self.edit.add_named_const(&name, tensor)
            }
            None => {
                let val = self.reshaped(Val::Old(value), whole.0)?;
                let val = self.transposed(val, &TO_NHWC)?;
                self.edit.set_name(val, &name);
                val
            }
        };
        self.last.insert(value, Last { val, is_native: false });
        Ok(val)
    }

    /// Whether a value is in the model's order after the edit too.
    fn is_as_it_was(&self, value: ValueId) -> bool {
        !self.last.get(&value).is_some_and(|last| last.is_native)
    }

    /// Filters with channels last.
    fn filters(&mut self, reader: NodeId, value: ValueId) -> Result<Val, OpError> {
        if let Some(&val) = self.filters.get(&value) {
            return Ok(val);
        }
        self.edit.on_behalf_of(reader);
        let shape = self.graph.ty(value).shape.clone();
        let name = format!("{}.ohwi", self.graph.value(value).name);
        let val = if let Some(tensor) = self.graph.constant(value) {
            let tensor = layout::transposed(tensor, TO_NHWC)?;
            self.edit.add_named_const(&name, tensor)
        } else if let Some(source) = source_of_transposition(self.graph, value, &TO_NCHW) {
            Val::Old(source)
        } else {
            // What only views another reshape views its source.
            let mut source = value;
            while moves_nothing(&shape, &TO_NHWC)
                && self.graph.node(source.node).op().is_some_and(|op| op.is(&reshape::DEF))
            {
                match self.graph.operands(source.node).first().copied().flatten() {
                    Some(before) => source = before,
                    None => break,
                }
            }
            if source == value {
                self.transposed(Val::Old(value), &TO_NHWC)?
            } else {
                let wanted = layout::nhwc(&shape).unwrap_or(shape);
                self.reshaped(Val::Old(source), wanted.0)?
            }
        };
        self.filters.insert(value, val);
        Ok(val)
    }

    fn reshaped(&mut self, val: Val, dims: Vec<Dim>) -> Result<Val, OpError> {
        if self.edit.ty(val).shape.0 == dims {
            return Ok(val);
        }
        let op = Op::new(&reshape::DEF, Attrs::new().with_dims("shape", dims));
        Ok(self.edit.add(op, &[val]).map_err(Box::new)?)
    }

    fn transposed(&mut self, val: Val, perm: &[usize; 4]) -> Result<Val, OpError> {
        let shape = self.edit.ty(val).shape.clone();
        let view =
            strided::permuted(&shape, perm).ok_or_else(|| OpError::operand(0, self.edit.ty(val), "four axes"))?;
        if moves_nothing(&shape, perm) {
            return self.reshaped(val, view.shape);
        }
        Ok(self.edit.add(Op::new(&strided::DEF, view.attrs()), &[val]).map_err(Box::new)?)
    }
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check_on, stays_on};

    fn check(text: &str, case: &str) -> String {
        check_on("h200", "channels_last", text, case).to_string()
    }

    /// Two convolutions with what stands between them, and an output in the model's order.
    const CHAIN: &str = "graph g core
  %x = input : f32[1,2,4,4]
  %w = const [1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0] : f32[2,2,1,2]
  %b = const [0.5,-0.5] : f32[1,2,1,1]
  %c = conv(%x, %w) {dilations=[1,1], dtype=f32, group=1, kernel=[1,2], pads=[0,0,0,1], strides=[1,1]} : f32[1,2,4,4]
  %r = pointwise(%c, %b) {dtype=f32, expr=`relu(add(x0,x1))`} : f32[1,2,4,4]
  %p = pool(%r) {ceil=0, count_pad=0, dilations=[1,1], kernel=[2,2], kind=\"max\", pads=[0,0,0,0], strides=[2,2]} : f32[1,2,2,2]
  %j = concat(%p, %p) {axis=1} : f32[1,4,2,2]
  %v = const [1.0,2.0,3.0,4.0] : f32[1,4,1,1]
  %y = conv(%j, %v) {dilations=[1,1], dtype=f32, group=1, kernel=[1,1], pads=[0,0,0,0], strides=[1,1]} : f32[1,1,2,2]
  %m = reduce(%j) {axes=[2,3], keepdims=0, kind=\"mean\"} : f32[1,4]
  %z = reshape(%j) {shape=d[1,16]} : f32[1,16]
  output %y
  output %m
  output %z
";

    #[test]
    fn transpositions_stand_where_orders_meet() {
        let after = check(CHAIN, "chain");
        // The input, and what is viewed as a vector; the one channel of the output is a reshape.
        assert_eq!(after.matches("strided(").count(), 2, "{after}");
        assert!(after.contains("const [1.0,3.0,2.0,4.0,5.0,7.0,6.0,8.0] : f32[2,1,2,2]"), "{after}");
        assert_eq!(after.matches("layout=\"nhwc\"").count(), 3, "{after}");
    }

    #[test]
    fn what_the_model_turns_itself_is_a_view() {
        let text = "graph g core
  %x = input : f32[1,4,4,2]
  %t = strided(%x) {offset=0, shape=d[1,2,4,4], strides=[32,1,8,2]} : f32[1,2,4,4]
  %w = const [1.0,2.0,3.0,4.0] : f32[2,2,1,1]
  %c = conv(%t, %w) {dilations=[1,1], dtype=f32, group=1, kernel=[1,1], pads=[0,0,0,0], strides=[1,1]} : f32[1,2,4,4]
  %p = reshape(%c) {shape=d[1,2,16]} : f32[1,2,16]
  %q = strided(%p) {offset=0, shape=d[1,16,2], strides=[32,1,16]} : f32[1,16,2]
  %s = softmax(%q) {axis=2, dtype=f32, log=0} : f32[1,16,2]
  %r = strided(%s) {offset=0, shape=d[1,2,16], strides=[32,1,2]} : f32[1,2,16]
  %i = reshape(%r) {shape=d[1,2,4,4]} : f32[1,2,4,4]
  %d = conv(%i, %w) {dilations=[1,1], dtype=f32, group=1, kernel=[1,1], pads=[0,0,0,0], strides=[1,1]} : f32[1,2,4,4]
  %y = strided(%d) {offset=0, shape=d[1,4,4,2], strides=[32,4,1,16]} : f32[1,4,4,2]
  output %y
";
        let after = check(text, "views");
        assert!(!after.contains("strided("), "{after}");
    }

    #[test]
    fn other_targets_keep_the_models_order() {
        stays_on("lavapipe", "channels_last", CHAIN);
    }

    #[test]
    fn filters_that_are_computed_stay() {
        let text = "graph g core
  %x = input : f32[1,2,4,4]
  %w = input : f32[2,2,1,1]
  %y = conv(%x, %w) {dilations=[1,1], dtype=f32, group=1, kernel=[1,1], pads=[0,0,0,0], strides=[1,1]} : f32[1,2,4,4]
  output %y
";
        stays_on("h200", "channels_last", text);
    }

    #[test]
    fn what_is_mostly_in_the_models_order_stays_so() {
        let text = "graph g core
  %x = input : f32[1,2,4,4]
  %i = input : f32[3,2,4,4]
  %w = const [1.0,2.0,3.0,4.0] : f32[2,2,1,1]
  %c = conv(%x, %w) {dilations=[1,1], dtype=f32, group=1, kernel=[1,1], pads=[0,0,0,0], strides=[1,1]} : f32[1,2,4,4]
  %y = pointwise(%c, %i) {dtype=f32, expr=`add(x0,x1)`} : f32[3,2,4,4]
  output %y
";
        assert!(check(text, "mostly_first").contains("%y = pointwise(%c.nchw, %i)"));
    }
}
