//! Turns dequantize-then-compute into operators that read packed weights.
//!
//! Looks for `matmul`, `conv` and `gather` whose weights are a DequantizeLinear of constants, the model's own or one
//! that `insert_qdq` made, with views (`strided`, `reshape`) and casts on the way. Codes, scales and zero points become
//! one packed constant `[rows, columns]` (`packed_rows`), which the operator reads as it is; a DequantizeLinear of
//! `dynamic_quantize` on the other side, perhaps reshaped or transposed, becomes `quantize_packed`, and the products
//! integer ones. Equal because the kernel computes `(code - zero) * scale` where the pattern did. Float weights `[K,
//! N]` of a product that are larger than a binding may be are transposed, since only rows can be bound in slices, as
//! are those that products alone read where kernels are made for rows; the transposition of a constant that others read
//! too is read as its rows. Refuses scales that change along the reduction axis in other than blocks of 16 to 256; a
//! DequantizeLinear of constants that is left is computed.

use super::axis_orders::source_of_transposition;
use super::packed_rows::{Rows, is_transposition};
use super::{Context, Pass, PassError, at};
use crate::ir::{
    Attr, Attrs, Edit, Graph, MatrixLayout, NodeId, Op, OpError, Patch, Shape, Tensor, TensorType, Val, ValueId,
    WeightOperand,
};
use crate::ops;
use crate::ops::core::layout::{TO_NCHW, TO_NHWC};
use crate::targets::Target;
use std::collections::BTreeMap;

/// The pass.
pub struct LowerQuantized;

impl Pass for LowerQuantized {
    fn name(&self) -> &str {
        "lower_quantized"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let (packed, transposed) = (BTreeMap::new(), BTreeMap::new());
        let mut work = Work { graph, target: cx.target, edit: Edit::new(graph), packed, transposed };
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            let Some(operand) = op.weights().filter(|w| w.further_rows.is_some() && w.layout.is_some()) else {
                continue;
            };
            let Some(Some(weights)) = graph.operands(id).get(operand.slot).copied() else { continue };
            let refusal = work.node(id, op, &operand, weights).map_err(at(&node.name))?;
            if let Some(because) = refusal {
                cx.explain.note(&[&node.name], "lower_quantized", "packed weights", || because.to_owned());
            }
        }
        Ok(work.edit.finish())
    }
}

struct Work<'g> {
    graph: &'g Graph,
    target: &'g Target,
    edit: Edit<'g>,
    /// Constants that were made of codes, and whether they have zero points.
    packed: BTreeMap<Rows, (Val, bool)>,
    /// The rows of float weights.
    transposed: BTreeMap<ValueId, Val>,
}

impl Work<'_> {
    /// Lowers a node that reads `weights`; why it stays as it is, where it does.
    fn node(
        &mut self,
        id: NodeId,
        op: &Op,
        operand: &WeightOperand,
        weights: ValueId,
    ) -> Result<Option<&'static str>, OpError> {
        let mut inputs: Vec<Option<Val>> = self.graph.operands(id).into_iter().map(|v| v.map(Val::Old)).collect();
        let mut op = op.clone();
        if let Some(rows) = self.float_rows(weights, operand)? {
            self.edit.on_behalf_of(id);
            inputs[operand.slot] = Some(rows);
        } else {
            let Some(parts) = parts(self.graph, weights, &op, operand) else {
                return Ok(Some("its weights are no DequantizeLinear of constants"));
            };
            let Some((parts, has_zeros)) = self.packed_parts(parts)? else {
                return Ok(Some(
                    "codes, scales or zero points are no constants, or scales change along the reduction axis in other than blocks of 16 to 256",
                ));
            };
            self.edit.on_behalf_of(id);
            inputs[operand.slot] = parts.first().copied();
            inputs.extend(parts.into_iter().skip(1).map(Some));
            op.attrs.0.insert("dtype".to_owned(), Attr::DType(self.graph.node(id).outputs[0].ty.dtype));
            // Integer products know no zero points.
            if operand.is_product
                && !has_zeros
                && let Some(x) = self.graph.operands(id)[0]
                && let Some(codes) = self.packed_activations(x)?
            {
                inputs[0] = Some(codes);
            }
        }
        has_rows(&mut op, operand);
        let new = self.edit.add_all(op, &inputs, 1).map_err(|e| OpError::Edit(Box::new(e)))?;
        self.edit.replace(id.out(0), new[0]);
        Ok(None)
    }

    /// The rows of constant float weights whose columns the operator reads, where they are to be stored as rows.
    fn float_rows(&mut self, weights: ValueId, operand: &WeightOperand) -> Result<Option<Val>, OpError> {
        if let Some(rows) = self.transposed.get(&weights) {
            return Ok(Some(*rows));
        }
        let Some(tensor) = rows_of(self.graph, weights, operand, self.target)? else {
            return Ok(shared_rows(self.graph, weights, operand).map(Val::Old));
        };
        let rows = self.edit.add_named_const(&format!("{}.t", self.graph.value(weights).name), tensor);
        self.transposed.insert(weights, rows);
        Ok(Some(rows))
    }

    /// Packed constants for the parts of a matrix, and whether one has zero points; `None` where one cannot be packed.
    fn packed_parts(&mut self, parts: Vec<Part>) -> Result<Option<(Vec<Val>, bool)>, OpError> {
        let (mut vals, mut has_zeros) = (Vec::new(), false);
        for part in parts {
            let rows = match part {
                Part::Plain(value) => {
                    vals.push(value.into());
                    continue;
                }
                Part::Quantized(rows) => rows,
            };
            let (val, zeros) = match self.packed.get(&rows) {
                Some(known) => *known,
                None => {
                    let Some(tensor) = rows.packed(self.graph)? else { return Ok(None) };
                    let zeros = tensor.ty().packing.is_some_and(|packing| packing.scale.has_zeros());
                    let val = self.edit.add_named_const(&format!("{}.packed", rows.name(self.graph)), tensor);
                    self.packed.insert(rows, (val, zeros));
                    (val, zeros)
                }
            };
            has_zeros |= zeros;
            vals.push(val);
        }
        Ok(Some((vals, has_zeros)))
    }

    /// Codes of activations, where operand `value` is what `dynamic_quantize` made of them.
    fn packed_activations(&mut self, value: ValueId) -> Result<Option<Val>, OpError> {
        let Some((x, granularity)) = dynamic(self.graph, value) else { return Ok(None) };
        let added = |e| OpError::Edit(Box::new(e));
        let mut val = Val::Old(x);
        if let Some((view, _)) = view(self.graph, value) {
            val = self.edit.add(view.clone(), &[val]).map_err(added)?;
        }
        let attrs = Attrs::new().with_str("granularity", &granularity);
        let codes = self.edit.add(Op::new(&ops::core::quantize_packed::DEF, attrs), &[val]).map_err(added)?;
        self.edit.set_name(codes, &format!("{}.q", self.graph.value(x).name));
        Ok(Some(codes))
    }
}

/// Says that the weights are rows now.
fn has_rows(op: &mut Op, operand: &WeightOperand) {
    if let Some(attr) = operand.rows_attr {
        op.attrs.0.insert(attr.to_owned(), Attr::Int(1));
    }
}

/// The rows of constant float weights `[K, N]` of a product, `[N, K]`, where one binding of the target does not span
/// them, or its kernels are made for rows and products alone read them, so that they are stored once.
fn rows_of(
    graph: &Graph,
    weights: ValueId,
    operand: &WeightOperand,
    target: &Target,
) -> Result<Option<Tensor>, OpError> {
    let reads_columns = |operand: &WeightOperand| operand.layout == Some(MatrixLayout::Columns);
    let Some(tensor) = graph.constant(weights).filter(|t| reads_columns(operand) && t.dtype().is_float()) else {
        return Ok(None);
    };
    let is_large = tensor.ty().bytes().is_some_and(|b| b > target.limits.max_storage_buffer_range);
    let of_products = || {
        let users = graph.users(weights);
        let read = |(user, slot): (NodeId, usize)| graph.node(user).op().and_then(|op| op.weights_at(slot));
        users.iter().all(|user| read(*user).is_some_and(|operand| reads_columns(&operand)))
    };
    if !is_large && (target.is_cpu() || !of_products()) {
        return Ok(None);
    }
    let &[k, n] = &tensor.dims()[..] else { return Ok(None) };
    let own = tensor.clone();
    let ty = TensorType { shape: Shape::of(&[n, k]), ..tensor.ty().clone() };
    Ok(Some(Tensor::deferred(ty, "transposed", &[tensor], move || {
        let values = own.to_f32s()?;
        let rows: Vec<f32> = (0..n).flat_map(|row| values.iter().skip(row).step_by(n).take(k).copied()).collect();
        Tensor::from_f32s(own.dtype(), &[n, k], &rows)
    })))
}

/// The constant float weights `[N, K]` of a product that reads their transposition, which others read as they are.
fn shared_rows(graph: &Graph, weights: ValueId, operand: &WeightOperand) -> Option<ValueId> {
    let reads_columns = operand.layout == Some(MatrixLayout::Columns);
    let rows = graph
        .operands(weights.node)
        .first()
        .copied()
        .flatten()
        .filter(|_| reads_columns && is_transposition(graph, weights))?;
    graph.constant(rows).filter(|t| t.dtype().is_float() && t.ty().packing.is_none()).map(|_| rows)
}

/// Rows of weights.
enum Part {
    /// A constant of floats.
    Plain(ValueId),
    Quantized(Rows),
}

/// The DequantizeLinear behind the weights; several, perhaps with plain constants between them, where a matrix is put
/// together of rows that are stored in different ways.
fn parts(graph: &Graph, weights: ValueId, op: &Op, operand: &WeightOperand) -> Option<Vec<Part>> {
    if let Some(rows) = Rows::of(graph, weights, operand) {
        return Some(vec![Part::Quantized(rows)]);
    }
    let inner = |id: NodeId| graph.operands(id).first().copied().flatten();
    let producer = graph.node(weights.node).op()?;
    let max_operands = op.def.arity.1;
    let joined = |v: ValueId| {
        let op = graph.node(v.node).op().filter(|op| op.def.name == "concat" && op.attrs.int("axis") == Some(0))?;
        let parts: Vec<ValueId> = graph.operands(v.node).into_iter().collect::<Option<_>>()?;
        let fits = op.attrs.expr("epilogue").is_none() && parts.len() > 1 && parts.len() < max_operands;
        let part = |v: ValueId| {
            graph.constant(v).map(|_| Part::Plain(v)).or_else(|| Rows::as_they_are(graph, v).map(Part::Quantized))
        };
        fits.then(|| parts.into_iter().map(part).collect::<Option<Vec<_>>>()).flatten()
    };
    let rank_2 = graph.ty(weights).shape.rank() == 2;
    let source = match operand.layout? {
        MatrixLayout::Columns if is_transposition(graph, weights) => inner(weights.node)?,
        MatrixLayout::Rows if rank_2 => weights,
        MatrixLayout::Filters | MatrixLayout::FiltersLast
            if operand.has_own_rows && producer.is(&ops::core::reshape::DEF) =>
        {
            inner(weights.node)?
        }
        _ => return None,
    };
    joined(source)
}

/// The operator behind a value that only gives the elements of its operand another order, and that operand: a reshape,
/// or a transposition of images.
fn view(graph: &Graph, value: ValueId) -> Option<(&Op, ValueId)> {
    let op = graph.node(value.node).op()?;
    if op.is(&ops::core::reshape::DEF) {
        return Some((op, graph.operands(value.node).first().copied().flatten()?));
    }
    [TO_NHWC, TO_NCHW].iter().find_map(|perm| Some((op, source_of_transposition(graph, value, perm)?)))
}

/// The x and the granularity behind a DequantizeLinear of `dynamic_quantize`, between which and the operator there may
/// be a reshape that leaves every row a row; a transposition too where all share one scale.
fn dynamic(graph: &Graph, value: ValueId) -> Option<(ValueId, String)> {
    if let Some((op, source)) = view(graph, value) {
        let found = dynamic(graph, source).filter(|_| view(graph, source).is_none());
        let is_reshape = op.is(&ops::core::reshape::DEF);
        let same_rows = is_reshape && graph.ty(source).shape.0.last() == graph.ty(value).shape.0.last();
        return found.filter(|(_, granularity)| granularity == "tensor" || same_rows);
    }
    graph.node(value.node).op().filter(|op| op.is(&ops::core::quantize_linear::DEQUANTIZE))?;
    let codes = graph.operands(value.node).first().copied().flatten()?;
    let op = graph.node(codes.node).op().filter(|op| op.is(&ops::core::quantize_packed::DYNAMIC))?;
    let x = graph.operands(codes.node).first().copied().flatten()?;
    Some((x, op.attrs.str("granularity")?.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::{Context, LowerQuantized, Pass, Target};
    use crate::ir::{Attr, Graph};
    use crate::passes::Settings;
    use crate::passes::testing::{check, read, stays};

    fn has_packed(graph: &Graph) -> bool {
        graph.order().into_iter().any(|id| graph.node(id).constant().is_some_and(|t| t.ty().packing.is_some()))
    }

    #[test]
    fn transposed_codes_are_read_packed() {
        let text = "graph g core
  %x = input : f32[1,4]
  %w.q = const [1,-2,3,-4,5,-6,7,-8] : i8[2,4]
  %w.scale = const [0.5,0.25] : f32[2,1]
  %w.dq = dequantize_linear(%w.q, %w.scale) {axis=1, block_size=4} : f32[2,4]
  %t = strided(%w.dq) {offset=0, shape=d[4,2], strides=[1,4]} : f32[4,2]
  %y = matmul(%x, %t) {dtype=f32} : f32[1,2]
  output %y
";
        let after = check("lower_quantized", text, "transposed");
        assert!(has_packed(&after) && !after.to_string().contains("dequantize_linear"));
        let op = after.node(after.outputs()[0].value.node).op().unwrap();
        assert_eq!(op.attrs.0.get("trans_b"), Some(&Attr::Int(1)));
    }

    #[test]
    fn quantized_activations_are_packed_in_the_shape_that_is_read() {
        let text = "graph g core
  %x = input : f32[1,2,4]
  %q, %s = dynamic_quantize(%x) {granularity=\"tensor\"} : i8[1,2,4], f32[]
  %dq = dequantize_linear(%q, %s) : f32[1,2,4]
  %p = reshape(%dq) {shape=d[1,2,1,4]} : f32[1,2,1,4]
  %w.q = const [1,-2,3,-4] : i8[2,2]
  %w.scale = const [0.5,0.25] : f32[2,1]
  %w.dq = dequantize_linear(%w.q, %w.scale) {axis=1, block_size=2} : f32[2,2]
  %w = reshape(%w.dq) {shape=d[2,2,1,1]} : f32[2,2,1,1]
  %y = conv(%p, %w) {dilations=[1,1], dtype=f32, group=1, kernel=[1,1], pads=[0,0,0,0], strides=[1,1]} : f32[1,2,1,4]
  output %y
";
        let after = check("lower_quantized", text, "reshaped_activations");
        assert!(
            after.to_string().contains("quantize_packed(") && !after.to_string().contains("dynamic_quantize"),
            "{after}"
        );
    }

    #[test]
    fn quantized_activations_become_packed() {
        let text = "graph g core
  %x = input : f32[1,4]
  %q, %s = dynamic_quantize(%x) {granularity=\"row\"} : i8[1,4], f32[1,1]
  %dq = dequantize_linear(%q, %s) {axis=-1, block_size=4} : f32[1,4]
  %w.q = const [1,-2,3,-4,5,-6,7,-8] : i8[2,4]
  %w.scale = const [0.5,0.25] : f32[2,1]
  %w.dq = dequantize_linear(%w.q, %w.scale) {axis=1, block_size=4} : f32[2,4]
  %y = matmul(%dq, %w.dq) {dtype=f32, trans_b=1} : f32[1,2]
  output %y
";
        let after = check("lower_quantized", text, "activations");
        assert!(after.to_string().contains("quantize_packed(%x)") && !after.to_string().contains("dequantize_linear"));
    }

    #[test]
    fn rows_stored_in_two_ways_are_two_operands() {
        let text = "graph g core
  %x = input : f32[1,4]
  %w.q = const [1,-2,3,-4,5,-6,7,-8] : i8[2,4]
  %w.scale = const [0.5,0.25] : f32[2,1]
  %w.dq = dequantize_linear(%w.q, %w.scale) {axis=1, block_size=4} : f32[2,4]
  %w.tail = const [1.0,2.0,3.0,4.0] : f16[1,4]
  %w = concat(%w.dq, %w.tail) {axis=0, dtype=f32} : f32[3,4]
  %t = strided(%w) {offset=0, shape=d[4,3], strides=[1,4]} : f32[4,3]
  %y = matmul(%x, %t) {dtype=f32} : f32[1,3]
  output %y
";
        let after = check("lower_quantized", text, "two_ways");
        assert_eq!(after.operands(after.outputs()[0].value.node).len(), 3);
        assert!(has_packed(&after) && !after.to_string().contains("concat"));
    }

    #[test]
    fn float_weights_become_rows_beyond_a_binding_and_where_kernels_are_made_for_rows() {
        // One product, two, and a product beside another reader of the same weights.
        let one = "graph g core
  %x = input : f32[1,2]
  %w = const [1.0,2.0,3.0,4.0,5.0,6.0] : f32[2,3]
  %y = matmul(%x, %w) {dtype=f32} : f32[1,3]
  output %y
";
        let two = "graph g core
  %x = input : f32[1,2]
  %w = const [1.0,2.0,3.0,4.0] : f32[2,2]
  %y = matmul(%x, %w) {dtype=f32} : f32[1,2]
  %z = matmul(%y, %w) {dtype=f32} : f32[1,2]
  output %z
";
        let sum = "  %z = pointwise(%y, %w) {dtype=f32, expr=`add(x0,x1)`} : f32[2,3]\n  output %y\n  output %z";
        let shared = one.replace("  output %y", sum);
        let rows_of = |text: &str, target: &str, range: u64| {
            let mut target = crate::targets::Target::shipped(target).unwrap();
            target.limits.max_storage_buffer_range = range;
            let settings = crate::passes::Settings::default();
            let mut graph = read(text);
            let patch =
                super::Pass::run(&super::LowerQuantized, &graph, &mut super::Context::new(&target, &settings)).unwrap();
            graph.apply(patch);
            graph.verify().unwrap();
            let printed = graph.to_string();
            (printed.matches("trans_b=1").count(), printed.matches("= const ").count())
        };
        let (all, few) = (1 << 27, 16);
        assert_eq!([rows_of(one, "lavapipe", all), rows_of(one, "lavapipe", few)], [(0, 1), (1, 1)]);
        assert_eq!([rows_of(one, "h200", all), rows_of(two, "h200", all)], [(1, 1), (2, 1)]);
        assert_eq!(rows_of(&shared, "h200", all), (0, 1));
    }

    #[test]
    fn a_table_that_is_looked_up_and_multiplied_with_is_one_constant() {
        let text = "graph g core
  %i = input : i64[1]
  %w = const [1.0,2.0,3.0,4.0,5.0,6.0] : f32[3,2]
  %x = gather(%w, %i) {axis=0} : f32[1,2]
  %t = strided(%w) {offset=0, shape=d[2,3], strides=[1,2]} : f32[2,3]
  %y = matmul(%x, %t) {dtype=f32} : f32[1,3]
  output %y
";
        let after = check("lower_quantized", text, "tied_table");
        let product = after.outputs()[0].value.node;
        assert_eq!(after.operands(product)[1], after.operands(after.operands(product)[0].unwrap().node)[0]);
        assert!(!after.to_string().contains("strided"));
    }

    #[test]
    fn columns_that_the_model_quantized_become_rows() {
        let text = "graph g core
  %x = input : f32[1,2]
  %w.q = const [1,2,3,4,5,255] : u8[2,3]
  %s = const [0.5,0.25,1.0] : f32[3]
  %z = const [128,3,128] : u8[3]
  %w = dequantize_linear(%w.q, %s, %z) {axis=1} : f32[2,3]
  %y = matmul(%x, %w) {dtype=f32} : f32[1,3]
  output %y
";
        let after = check("lower_quantized", text, "columns");
        assert!(has_packed(&after) && !after.to_string().contains("dequantize_linear"));
        // The second column's zero point is taken off its codes, which then fit.
        assert_eq!(values(&after), [-63.5, -62.0, -0.25, 0.5, -125.0, 127.0]);
    }

    #[test]
    fn zero_points_that_codes_cannot_take_stay_beside_the_scales() {
        let text = "graph g core
  %x = input : f32[1,2]
  %w.q = const [0,15,1,14] : u4[2,2]
  %s = const [0.5,0.1] : f32[2]
  %z = const [5,8] : u4[2]
  %w = dequantize_linear(%w.q, %s, %z) {axis=0} : f32[2,2]
  %y = matmul(%x, %w) {dtype=f32, trans_b=1} : f32[1,2]
  output %y
";
        let after = check("lower_quantized", text, "zero_points");
        assert!(after.to_string().contains("i4<c:f32z>"));
        assert_eq!(values(&after), [-2.5, 5.0, -0.7, 0.6]);
    }

    /// What the packed constant holds.
    fn values(graph: &Graph) -> Vec<f32> {
        let packed =
            graph.order().into_iter().find_map(|id| graph.node(id).constant().filter(|t| t.ty().packing.is_some()));
        packed.unwrap().to_f32s().unwrap().iter().map(|v| (v * 1e4).round() / 1e4).collect()
    }

    #[test]
    fn filters_with_a_scale_each_become_rows() {
        let text = "graph g core
  %x = input : f32[1,2,2,2]
  %w.q = const [1,-2,3,-4] : i8[2,2,1,1]
  %s = const [0.5,0.25] : f32[2]
  %w = dequantize_linear(%w.q, %s) {axis=0} : f32[2,2,1,1]
  %y = conv(%x, %w) {dilations=[1,1], dtype=f32, group=1, kernel=[1,1], pads=[0,0,0,0], strides=[1,1]} : f32[1,2,2,2]
  output %y
";
        let after = check("lower_quantized", text, "filters");
        assert!(has_packed(&after) && values(&after) == [0.5, -1.0, 0.75, -1.0]);
    }

    #[test]
    fn codes_of_a_narrower_coding_are_packed_so() {
        let text = |coding: &str, code: i32| {
            format!(
                "graph g core
  %x = input : f32[1,4]
  %w.q = const [11,-127,103,{code}] : i8[1,4]
  %w.scale = const [0.5] : f32[1,1]
  %w.dq = dequantize_linear(%w.q, %w.scale) {{axis=1, block_size=4, coding=\"{coding}\"}} : f32[1,4]
  %y = matmul(%x, %w.dq) {{dtype=f32, trans_b=1}} : f32[1,1]
  output %y
"
            )
        };
        let after = check("lower_quantized", &text("n4", 0), "coding");
        assert!(after.to_string().contains("i8<n4:c:f16>[1,4]"), "{after}");
        assert_eq!(values(&after), [5.5, -63.5, 51.5, 0.0]);
        let run = |text: &str| {
            let settings = Settings::default();
            let target = Target::shipped("lavapipe").unwrap();
            let mut graph = read(text);
            LowerQuantized.run(&graph, &mut Context::new(&target, &settings)).map(|patch| {
                graph.apply(patch);
                graph
            })
        };
        // What the coding has no code for is an error of whoever reads the data.
        let packed = |graph: &Graph| {
            graph
                .order()
                .into_iter()
                .find_map(|id| graph.node(id).constant().filter(|t| t.ty().packing.is_some()))
                .cloned()
        };
        for (coding, code) in [("n4", 1), ("5", 0), ("6", 0)] {
            let after = run(&text(coding, code)).unwrap();
            let error = packed(&after).unwrap().to_f32s().unwrap_err().to_string();
            assert!(error.contains("is no code of the coding"), "{error}");
        }
        assert!(run(&text("7", 0)).is_err());
    }

    #[test]
    fn blocks_of_another_axis_stay() {
        let text = "graph g core
  %x = input : f32[1,4]
  %w.q = const [1,-2,3,-4,5,-6,7,-8] : i8[2,4]
  %w.scale = const [0.5,0.25,1.0,2.0] : f32[1,4]
  %w.dq = dequantize_linear(%w.q, %w.scale) {axis=0, block_size=2} : f32[2,4]
  %t = strided(%w.dq) {offset=0, shape=d[4,2], strides=[1,4]} : f32[4,2]
  %y = matmul(%x, %t) {dtype=f32} : f32[1,2]
  output %y
";
        stays("lower_quantized", text);
    }
}
