//! Makes formats explicit: the graph after this pass is plain ONNX again and computes what the formats say.
//!
//! For every node with a format: its float results are stored in the type that the format says, by a `store` where the
//! operator gives another; operands are read as they are stored, widened where the operator wants one type. Quantized
//! weights become a constant of codes, one of scales and a DequantizeLinear by blocks (opset 21), transposed or
//! reshaped where the operator wants another layout; activations to be quantized go through `dynamic_quantize` and
//! DequantizeLinear. The parts of a split matrix are constants of their own, joined by a Concat. Other constants are
//! narrowed where they are large and f16 holds them. An output of the graph is stored as the model has it. A Cast
//! stays: it is a conversion that the model asks for. Refuses nothing: a node without format keeps its types, and f64
//! is f64 under every format.

use super::stored_rows::{Rows, ScaleTypes};
use super::{Context, Pass, PassError, Stage, at};
use crate::ir::packed::{Granularity, Packing};
use crate::ir::{
    Activations, Attr, Attrs, DType, Edit, Format, Graph, MatrixLayout, Op, OpError, Patch, Tensor, Val, ValueId,
    Weights,
};
use crate::ops;
use crate::ops::{is_plain, keeps_type, weights};
use crate::quant::calibration::Calibration;
use std::collections::BTreeMap;

/// The pass.
pub struct InsertQdq;

impl Pass for InsertQdq {
    fn name(&self) -> &str {
        "insert_qdq"
    }

    fn is_required(&self) -> bool {
        true
    }

    fn stage(&self) -> Stage {
        Stage::Realize
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let (moved, quantized, narrowed, stores) = Default::default();
        let (scale_types, calibration) = (&*cx.facts.scale_types, cx.settings.calibration.as_deref());
        let mut work =
            Work { graph, edit: Edit::new(graph), scale_types, calibration, moved, quantized, narrowed, stores };
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            work.node(id, op).map_err(at(&node.name))?;
        }
        for output in graph.outputs() {
            let now = work.now(output.value);
            let wanted = graph.ty(output.value).dtype;
            if now != Val::Old(output.value) {
                work.edit.on_behalf_of(output.value.node);
                let stored = work.stored(now, wanted).map_err(at(&output.name))?;
                work.edit.replace(output.value, stored);
            }
        }
        Ok(work.edit.finish())
    }
}

struct Work<'g> {
    graph: &'g Graph,
    edit: Edit<'g>,
    scale_types: &'g ScaleTypes,
    calibration: Option<&'g Calibration>,
    /// What stands for values whose producer was rebuilt.
    moved: BTreeMap<ValueId, Val>,
    /// Quantized constants by value, layout and format, so that shared weights stay shared.
    quantized: BTreeMap<(ValueId, MatrixLayout, Format), Val>,
    /// Constants narrowed to f16, likewise.
    narrowed: BTreeMap<ValueId, Val>,
    /// Stores by value and type: whoever reads a value in another type reads one store of it.
    stores: BTreeMap<(Val, DType), Val>,
}

impl Work<'_> {
    fn now(&self, value: ValueId) -> Val {
        self.moved.get(&value).copied().unwrap_or(Val::Old(value))
    }

    fn node(&mut self, id: crate::ir::NodeId, op: &Op) -> Result<(), OpError> {
        let node = self.graph.node(id);
        let old: Vec<_> = self.graph.operands(id);
        let mut operands: Vec<Option<Val>> = old.iter().map(|v| v.map(|v| self.now(v))).collect();
        let mut op = op.clone();
        self.edit.on_behalf_of(id);
        if let Some(format) = node.format {
            let stored = format.activations.stored();
            let found = weights::of(self.graph, id);
            let narrowed = |found: &weights::Weights| {
                format.tail.is_none() && format.weights == Weights::F16 && found.dtype != DType::F16
            };
            if let Some(found) = found.filter(narrowed) {
                operands[found.slot] = Some(self.narrowed_weights(&found, stored)?);
            }
            let rebuilt = found.filter(|_| format.has_int_weights() || format.tail.is_some());
            if let Some(found) = &rebuilt {
                operands[found.slot] = Some(self.quantized_weights(found, format, stored, &node.name)?);
                if format.activations == Activations::I8 && found.has_products {
                    let operand = op.weights();
                    let is_shared = operand.is_some_and(|w| w.shares_scale_of_activations());
                    let granularity = if is_shared { "tensor" } else { "row" };
                    if let Some(Some(mut x)) = operands.first().copied() {
                        let columns = operand.and_then(|w| w.x_columns_attr);
                        if let Some(attr) = columns.filter(|attr| op.attrs.int(attr).unwrap_or(0) != 0) {
                            // A scale belongs to a row of the reduction: the matrix is transposed before it is
                            // quantized.
                            let name = format!("{}.t", self.edit.name(x));
                            x = self.transposed(x, &name)?;
                            op.attrs.0.insert(attr.to_owned(), Attr::Int(0));
                        }
                        operands[0] = Some(self.quantized_activations(x, granularity)?);
                    }
                }
            }
            // An output is computed in the type in which the model has it, bf16 in f32.
            let is_wide = |out: usize| {
                self.graph.is_output(id.out(out)) && matches!(node.outputs[out].ty.dtype, DType::F32 | DType::BF16)
            };
            let computed = if (0..node.outputs.len()).any(is_wide) { DType::F32 } else { stored };
            self.read(&op, &mut operands, stored, computed)?;
        }
        let unchanged = old.iter().zip(&operands).all(|(old, new)| old.map(Val::Old) == *new);
        let wanted = node.format.map(|f| f.activations.stored());
        let right = |dtype: DType| !is_plain(dtype) || wanted.is_none_or(|w| w == dtype);
        if unchanged && node.outputs.iter().all(|v| right(v.ty.dtype)) {
            return Ok(());
        }
        let results = self.edit.add_all(op, &operands, node.outputs.len()).map_err(|e| OpError::Edit(Box::new(e)))?;
        for (out, mut val) in results.into_iter().enumerate() {
            let value = id.out(out);
            // What is an output is stored as the model has it, for all that read it.
            if !self.graph.is_output(value) {
                // The node keeps its name; what stores its result is named after it.
                self.edit.replace(value, val);
                if let Some(wanted) = wanted {
                    val = self.stored_as(val, wanted, &self.graph.value(value).name.clone())?;
                }
            }
            self.moved.insert(value, val);
        }
        Ok(())
    }

    /// Brings operands to types that the operator reads: large constants to f16 where that is `stored`, bf16 to f32,
    /// and all to f32 where that is `computed`, or they differ and the operator wants one type.
    fn read(&mut self, op: &Op, operands: &mut [Option<Val>], stored: DType, computed: DType) -> Result<(), OpError> {
        let mut slots = Vec::new();
        for (slot, operand) in operands.iter_mut().enumerate() {
            let Some(val) = operand.filter(|val| self.is_plain(*val) && !keeps_type(op, slot)) else { continue };
            if let Val::Old(value) = val
                && stored == DType::F16
                && self.graph.constant(value).is_some_and(weights::narrows)
            {
                *operand = Some(self.narrow(value)?);
            } else if self.edit.ty(val).dtype == DType::BF16 {
                *operand = Some(self.stored(val, DType::F32)?);
            }
            slots.push(slot);
        }
        let types: Vec<DType> = slots.iter().filter_map(|s| Some(self.edit.ty(operands[*s]?).dtype)).collect();
        let agree = ops::reads_mixed(op.def) || types.iter().all(|dtype| Some(dtype) == types.first());
        if agree && (computed == DType::F16 || !types.contains(&DType::F16)) {
            return Ok(());
        }
        for slot in slots {
            if let Some(val) = operands[slot] {
                operands[slot] = Some(self.stored(val, DType::F32)?);
            }
        }
        Ok(())
    }

    fn is_plain(&self, val: Val) -> bool {
        is_plain(self.edit.ty(val).dtype)
    }

    /// The value kept as another type.
    fn stored(&mut self, val: Val, to: DType) -> Result<Val, OpError> {
        let name = self.edit.name(val).to_owned();
        self.stored_as(val, to, &name)
    }

    /// The same, named after `name`.
    fn stored_as(&mut self, val: Val, to: DType, name: &str) -> Result<Val, OpError> {
        if self.edit.ty(val).dtype == to || !self.is_plain(val) {
            return Ok(val);
        }
        if let Some(&stored) = self.stores.get(&(val, to)) {
            return Ok(stored);
        }
        let stored = ops::core::store::add(&mut self.edit, val, to)?;
        self.edit.set_name(stored, &format!("{name}.{to}"));
        // It is between two formats and has none of its own.
        self.edit.set_new_format(stored, None);
        self.stores.insert((val, to), stored);
        Ok(stored)
    }

    /// `x` through `dynamic_quantize` and DequantizeLinear.
    fn quantized_activations(&mut self, x: Val, granularity: &str) -> Result<Val, OpError> {
        let name = self.edit.name(x).to_owned();
        let n_cols = self.edit.ty(x).shape.0.last().and_then(|d| d.known()).unwrap_or(0);
        let is_empty = self.edit.ty(x).shape.n_elems() == Some(0);
        let x = self.stored(x, DType::F32)?;
        if is_empty {
            // It has no values to take a scale from.
            return Ok(x);
        }
        let attrs = Attrs::new().with_str("granularity", granularity);
        let codes = self
            .edit
            .add_all(Op::new(&ops::core::quantize_packed::DYNAMIC, attrs), &[Some(x)], 2)
            .map_err(|e| OpError::Edit(Box::new(e)))?;
        self.edit.set_name(codes[0], &format!("{name}.q"));
        let attrs = if granularity == "row" {
            Attrs::new().with_int("axis", -1).with_int("block_size", n_cols)
        } else {
            Attrs::new()
        };
        self.add_named(&ops::core::quantize_linear::DEQUANTIZE, attrs, &codes, &format!("{name}.dq"))
    }

    /// The weights as f16, which readers in f32 take as they are stored.
    fn narrowed_weights(&mut self, found: &weights::Weights, stored: DType) -> Result<Val, OpError> {
        let narrow = self.narrow(found.value)?;
        let name = self.edit.name(narrow).to_owned();
        let widened = self.stored(narrow, stored)?;
        self.as_operand(widened, found, &format!("{name}.t"))
    }

    /// A constant as f16.
    fn narrow(&mut self, value: ValueId) -> Result<Val, OpError> {
        if let Some(&narrow) = self.narrowed.get(&value) {
            return Ok(narrow);
        }
        let tensor = self.graph.constant(value).ok_or(OpError::Bug("what is no constant as f16"))?;
        let (own, ty) = (tensor.clone(), tensor.ty().with_dtype(DType::F16));
        let narrow =
            Tensor::deferred(ty, "f16", &[tensor], move || Tensor::from_f32s(DType::F16, &own.dims(), &own.to_f32s()?));
        let narrow = self.edit.add_named_const(&format!("{}.f16", self.graph.value(value).name), narrow);
        self.narrowed.insert(value, narrow);
        Ok(narrow)
    }

    /// The weights as codes, scales and DequantizeLinear, in the layout of the operator.
    fn quantized_weights(
        &mut self,
        found: &weights::Weights,
        format: Format,
        stored: DType,
        node: &str,
    ) -> Result<Val, OpError> {
        let key = (found.value, found.layout, format);
        if let Some(val) = self.quantized.get(&key) {
            return self.in_layout(*val, found);
        }
        let constant = &self.graph.value(found.value).name;
        let name = constant.clone();
        let tensor = self.graph.constant(found.value).ok_or(OpError::NotConstant { slot: found.slot })?;
        let mut parts = Vec::new();
        let mut first = 0;
        for (n_rows, weights) in format.parts(found.n_rows) {
            let moments = self.calibration.and_then(|all| all.moments.get(constant)).cloned();
            let rows = Rows { tensor: tensor.clone(), found: *found, first, n_rows, moments };
            let name = if first == 0 { name.clone() } else { format!("{name}.tail") };
            parts.push(match weights {
                Weights::Int { coding, granularity } => {
                    let scale = self.scale_types.of(&rows, coding, granularity).map_err(|error| match error {
                        OpError::Unsupported(why) => OpError::unsupported(format!("weights of {node}: {why}")),
                        other => other,
                    })?;
                    self.quantized_rows(rows, Packing { coding, granularity, scale }, stored, &name)?
                }
                Weights::F32 | Weights::F16 => {
                    let dtype = if weights == Weights::F16 { DType::F16 } else { DType::F32 };
                    let rows = self.edit.add_named_const(&format!("{name}.rows"), rows.floats(dtype));
                    self.stored(rows, stored)?
                }
            });
            first += n_rows;
        }
        let plain = match parts[..] {
            [part] => part,
            _ => {
                let def = ops::registry().by_onnx("Concat").ok_or(OpError::Bug("the registry lacks Concat"))?;
                self.add_named(def, Attrs::new().with_int("axis", 0), &parts, &format!("{name}.joined"))?
            }
        };
        self.quantized.insert(key, plain);
        self.in_layout(plain, found)
    }

    /// `[n_rows, n_cols]` as codes, scales and DequantizeLinear.
    fn quantized_rows(&mut self, rows: Rows, packing: Packing, stored: DType, name: &str) -> Result<Val, OpError> {
        let n_cols = rows.found.n_cols;
        let block = match packing.granularity {
            Granularity::Block(block) => (block as usize).min(n_cols),
            Granularity::Row | Granularity::Tensor => n_cols,
        };
        let (codes, scales) = rows.quantized(packing)?;
        let codes = self.edit.add_named_const(&format!("{name}.q"), codes);
        let scales = self.edit.add_named_const(&format!("{name}.scale"), scales);
        let mut attrs =
            Attrs::new().with_int("axis", 1).with_int("block_size", block as i64).with_dtype("output_dtype", stored);
        if packing.coding.bits() < 8 && packing.codes() == DType::I8 {
            attrs = attrs.with_str("coding", &packing.coding.to_string());
        }
        self.add_named(&ops::core::quantize_linear::DEQUANTIZE, attrs, &[codes, scales], &format!("{name}.dq"))
    }

    fn in_layout(&mut self, plain: Val, found: &weights::Weights) -> Result<Val, OpError> {
        let name = format!("{}.dq", self.graph.value(found.value).name);
        match found.wanted {
            MatrixLayout::Rows => Ok(plain),
            MatrixLayout::Columns => self.transposed(plain, &format!("{name}.t")),
            MatrixLayout::Filters | MatrixLayout::FiltersLast => {
                let dims: Vec<i64> = self.graph.ty(found.value).shape.0.iter().filter_map(|d| d.known()).collect();
                let shape = self
                    .edit
                    .add_named_const(&format!("{name}.shape"), Tensor::from_i64s(DType::I64, &[dims.len()], &dims)?);
                let def = ops::registry().by_onnx("Reshape").ok_or(OpError::Bug("the registry lacks Reshape"))?;
                let filters = self.add_named(def, Attrs::new(), &[plain, shape], &format!("{name}.r"))?;
                self.as_operand(filters, found, &format!("{name}.t"))
            }
        }
    }

    /// Weights in the layout of their constant, brought to the layout that the operator reads.
    fn as_operand(&mut self, val: Val, found: &weights::Weights, name: &str) -> Result<Val, OpError> {
        match (found.layout, found.wanted) {
            (own, wanted) if own == wanted => Ok(val),
            (MatrixLayout::FiltersLast, _) => {
                self.permuted(val, &ops::core::layout::TO_NCHW.map(|axis| axis as i64), name)
            }
            _ => self.transposed(val, name),
        }
    }

    fn transposed(&mut self, matrix: Val, name: &str) -> Result<Val, OpError> {
        self.permuted(matrix, &[1, 0], name)
    }

    fn permuted(&mut self, val: Val, perm: &[i64], name: &str) -> Result<Val, OpError> {
        let attrs = Attrs::new().with_ints("perm", perm.iter().copied());
        self.add_named(&ops::onnx::movement::TRANSPOSE, attrs, &[val], name)
    }

    fn add_named(
        &mut self,
        def: &'static crate::ir::OpDef,
        attrs: Attrs,
        operands: &[Val],
        name: &str,
    ) -> Result<Val, OpError> {
        let val = self.edit.add(Op::new(def, attrs), operands).map_err(|e| OpError::Edit(Box::new(e)))?;
        self.edit.set_name(val, name);
        Ok(val)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::Settings;
    use crate::passes::testing::{check, read, stays};

    /// A product whose node has this format, written ` @w8a8`, or none.
    fn product(format: &str) -> String {
        format!(
            "graph g onnx
  %x = input : f32[1,4]
  %w = const [1.0,2.0,3.0,4.0,-5.0,6.0,7.0,-8.0] : f32[4,2]
  %y = matmul(%x, %w){format} : f32[1,2]
  output %y
"
        )
    }

    fn has_float_weights(graph: &Graph) -> bool {
        graph.order().into_iter().any(|id| graph.node(id).constant().is_some_and(|t| t.dims() == [4, 2]))
    }

    fn count(graph: &Graph, op: &str) -> usize {
        graph.order().into_iter().filter(|id| graph.node(*id).op().is_some_and(|o| o.def.name == op)).count()
    }

    #[test]
    fn weights_become_codes_and_scales() {
        let after = check("insert_qdq", &product(" @w8a32"), "weights");
        assert!(!has_float_weights(&after));
        assert_eq!(
            (count(&after, "dequantize_linear"), count(&after, "dynamic_quantize"), count(&after, "cast")),
            (1, 0, 0)
        );
    }

    #[test]
    fn a_split_matrix_is_joined_of_its_parts() {
        let after = check("insert_qdq", &product(" @f16/w4:r1"), "split");
        assert_eq!(
            (count(&after, "dequantize_linear"), count(&after, "concat"), has_float_weights(&after)),
            (1, 1, false)
        );
    }

    #[test]
    fn narrow_weights_are_widened_where_they_are_read() {
        let after = check("insert_qdq", &product(" @w16a32"), "narrow");
        let stored = |dtype| {
            after
                .order()
                .into_iter()
                .any(|id| after.node(id).constant().is_some_and(|t| t.dims() == [4, 2] && t.dtype() == dtype))
        };
        assert!(stored(DType::F16) && !stored(DType::F32));
    }

    #[test]
    fn doubles_stay_doubles() {
        let double = product(" @w16a32").replace(" : f32[4,2]", " : f64[4,2]").replace("f32[1,", "f64[1,");
        stays("insert_qdq", &double);
    }

    #[test]
    fn activations_are_quantized_too() {
        let after = check("insert_qdq", &product(" @w8a8"), "activations");
        assert!(!has_float_weights(&after));
        assert_eq!(
            (count(&after, "dequantize_linear"), count(&after, "dynamic_quantize"), count(&after, "cast")),
            (2, 1, 0)
        );
    }

    /// Not through `check`: run again, it stores what its own stores read.
    fn once(text: &str) -> Graph {
        let (mut graph, settings) = (read(text), Settings::default());
        let target = crate::targets::Target::shipped("lavapipe").unwrap();
        let patch = InsertQdq.run(&graph, &mut Context::new(&target, &settings)).unwrap();
        graph.apply(patch);
        graph.verify().unwrap_or_else(|e| panic!("{e}\n{graph}"));
        graph
    }

    #[test]
    fn a_result_is_stored_as_the_format_says_and_an_output_as_the_model_has_it() {
        let text = product(" @f16").replace("output %y", "%z = neg(%y) @f16 : f32[1,2]\n  output %z");
        let after = once(&text);
        let dtype = |name: &str| after.ty(after.value_named(name).unwrap()).dtype;
        // The product reads an input of f32, so it is computed in f32 and stored as f16; what reads it reads f16.
        assert_eq!((dtype("y.f16"), dtype("z"), count(&after, "store")), (DType::F16, DType::F32, 2), "{after}");
        assert_eq!(count(&after, "cast"), 0);
    }

    #[test]
    fn operands_are_never_narrowed_and_small_constants_stay() {
        let text = "graph g onnx
  %x = input : f32[2]
  %c = const [70000.0,1e-9] : f32[2]
  %s = mul(%x, %x) @f32 : f32[2]
  %m = mul(%s, %c) @f16 : f32[2]
  %y = neg(%m) @f16 : f32[2]
  output %y
";
        let after = once(text);
        assert!(after.to_string().contains("const [70000.0,1e-9] : f32[2]"), "{after}");
        assert_eq!(after.ty(after.value_named("s").unwrap()).dtype, DType::F32, "{after}");
    }

    #[test]
    fn a_cast_of_the_model_is_no_store() {
        let text = "graph g onnx
  %x = input : f32[2]
  %h = cast(%x) {to=f16} @f32 : f16[2]
  %b = cast(%h) {to=bf16} @f16 : bf16[2]
  %w = cast(%b) {to=f32} @f32 : f32[2]
  %y = neg(%w) @f32 : f32[2]
  output %y
";
        let after = once(text);
        assert_eq!((count(&after, "cast"), count(&after, "store")), (3, 2), "{after}");
    }

    #[test]
    fn a_node_without_format_keeps_its_types() {
        stays("insert_qdq", &product(""));
    }
}
