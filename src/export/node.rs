//! Nodes, each with one type for its floats.
//!
//! Operators of nyxc read floats as they are stored, f16 beside f32, and compute in f32. Those of ONNX want one type:
//! where operands differ all become the wider one, and a result that is kept narrower is cast. A value beyond f16's
//! range that nyxc keeps as f16 becomes the largest, which a Clip before the Cast says.

use super::{Problem, Work, attribute};
use crate::import::proto::pb;
use crate::ir::{DType, Dim, Infer, NodeId, Op, OpError, Tensor, TensorType, ValueId};
use crate::ops;
use crate::ops::core::quantize_packed::DYNAMIC;

/// The largest magnitude of f16.
const MOST_F16: f32 = 65504.0;
/// A largest magnitude below this, 2^-100, counts as zero when activations are quantized.
const LEAST_MAGNITUDE: f32 = f32::from_bits((127 - 100) << 23);

/// An operand: its name, and its type.
pub(super) type Operand = Option<(String, TensorType)>;

impl Work<'_> {
    /// A use of an operator.
    pub(super) fn operator(&mut self, id: NodeId, op: &Op) -> Result<(), Problem> {
        if op.is(&ops::core::store::DEF) {
            return self.store(id);
        }
        if op.is(&DYNAMIC) {
            return self.dynamic_quantize(id, op);
        }
        match op.def.onnx {
            "" => Err(Problem::Operator { op: op.def.name.to_owned() }),
            "DequantizeLinear" => self.dequantize(id, op),
            "MatMul" | "Gemm" | "Gather" if self.weighted(id, op)? => Ok(()),
            "Swish" => self.swish(id, op),
            "Attention" if op.attrs.int("zero_masked") == Some(0) && self.attention(id, op)? => Ok(()),
            _ => self.plain(id, op),
        }
    }

    /// The operands of a node as the model has them.
    fn operands(&self, id: NodeId) -> Vec<Operand> {
        let one = |value: Option<ValueId>| value.map(|value| (self.name(value), self.graph.ty(value).clone()));
        self.graph.operands(id).into_iter().map(one).collect()
    }

    /// The operands with floats of one type, where the operator wants that.
    fn alike(&mut self, op: &Op, mut operands: Vec<Operand>) -> Vec<Operand> {
        let counts = |slot: usize, ty: &TensorType| ops::is_plain(ty.dtype) && !ops::keeps_type(op, slot);
        let floats: Vec<DType> = operands
            .iter()
            .enumerate()
            .filter_map(|(slot, operand)| operand.as_ref().filter(|(_, ty)| counts(slot, ty)).map(|(_, ty)| ty.dtype))
            .collect();
        if floats.windows(2).all(|pair| pair[0] == pair[1]) {
            return operands;
        }
        for (slot, operand) in operands.iter_mut().enumerate() {
            if let Some((name, ty)) = operand
                && counts(slot, ty)
                && ty.dtype != DType::F32
            {
                *name = self.as_type(name, DType::F32);
                ty.dtype = DType::F32;
            }
        }
        operands
    }

    /// A node that ONNX has as it is.
    fn plain(&mut self, id: NodeId, op: &Op) -> Result<(), Problem> {
        let attrs = attribute::all(op)?;
        let before = self.operands(id);
        let operands = self.alike(op, before);
        let node = self.graph.node(id);
        let own: Vec<Option<ValueId>> = self.graph.operands(id);
        let types: Vec<Option<&TensorType>> = operands.iter().map(|o| o.as_ref().map(|(_, ty)| ty)).collect();
        let consts: Vec<Option<&Tensor>> = own.iter().map(|v| v.and_then(|v| self.graph.constant(v))).collect();
        let sizes: Vec<Option<&[Dim]>> = own.iter().map(|v| v.and_then(|v| self.graph.sizes(v))).collect();
        let n_outputs = node.outputs.len();
        let computed = Infer { attrs: &op.attrs, inputs: &types, consts: &consts, sizes: &sizes, n_outputs };
        let computed = computed.types(op.def)?;
        let mut names: Vec<&str> = operands.iter().map(|o| o.as_ref().map_or("", |(name, _)| name)).collect();
        while names.last().is_some_and(|name| name.is_empty()) {
            names.pop();
        }
        let mut outputs = Vec::with_capacity(n_outputs);
        let mut casts = Vec::new();
        for (out, (value, computed)) in node.outputs.iter().zip(&computed).enumerate() {
            let name = self.name(id.out(out));
            if computed.dtype == value.ty.dtype {
                outputs.push(name);
            } else {
                let wide = self.fresh(&format!("{name}.{}", computed.dtype));
                casts.push((wide.clone(), computed.dtype, name, value.ty.dtype));
                outputs.push(wide);
            }
        }
        self.push(op.def.onnx, &node.name, &names, &outputs, attrs);
        for (wide, from, name, to) in casts {
            self.convert(&wide, from, &name, to)?;
        }
        Ok(())
    }

    /// `from` kept as `to` under the name `result`.
    pub(super) fn convert(&mut self, value: &str, from: DType, result: &str, to: DType) -> Result<(), Problem> {
        let mut value = value.to_owned();
        if to == DType::F16 && from != DType::F16 {
            let bound = |v: f32| Tensor::from_f32s(from, &[], &[v]);
            let least = self.constant("least_f16", bound(-MOST_F16)?);
            let most = self.constant("most_f16", bound(MOST_F16)?);
            value = self.add("Clip", &format!("{result}.held"), &[&value, &least, &most], Vec::new());
        }
        let node = super::free(&mut self.nodes_taken, &format!("{result}.cast"));
        self.push("Cast", &node, &[&value], &[result.to_owned()], vec![attribute::int("to", to.onnx())]);
        Ok(())
    }

    fn store(&mut self, id: NodeId) -> Result<(), Problem> {
        let Some(Some((from, ty))) = self.operands(id).into_iter().next() else {
            return Err(OpError::MissingOperand { slot: 0 }.into());
        };
        let (name, to) = (self.name(id.out(0)), self.graph.ty(id.out(0)).dtype);
        self.convert(&from, ty.dtype, &name, to)
    }

    /// A DequantizeLinear whose result has the type of its scales, as opset 21 has it.
    fn dequantize(&mut self, id: NodeId, op: &Op) -> Result<(), Problem> {
        let operands = self.operands(id);
        let result = self.graph.ty(id.out(0)).dtype;
        let [Some((codes, _)), Some((scale, scale_ty)), rest @ ..] = &operands[..] else {
            return Err(OpError::MissingOperand { slot: 1 }.into());
        };
        let mut attrs = op.attrs.clone();
        attrs.0.remove("output_dtype");
        // It says how nyxc packs the codes.
        attrs.0.remove("coding");
        let attrs = attribute::all(&Op::new(op.def, attrs))?;
        let wide = result.holds(scale_ty.dtype);
        let scale = if wide && result != scale_ty.dtype { self.as_type(scale, result) } else { scale.clone() };
        let name = self.name(id.out(0));
        let zero = rest.first().and_then(|zero| zero.as_ref()).map(|(name, _)| name.as_str());
        let inputs: Vec<&str> = [codes.as_str(), &scale].into_iter().chain(zero).collect();
        let node = self.graph.node(id).name.clone();
        if wide {
            self.push("DequantizeLinear", &node, &inputs, &[name], attrs);
            return Ok(());
        }
        let rounded = self.fresh(&format!("{name}.{}", scale_ty.dtype));
        self.push("DequantizeLinear", &node, &inputs, std::slice::from_ref(&rounded), attrs);
        self.push("Cast", &format!("{name}.cast"), &[&rounded], &[name], vec![attribute::int("to", result.onnx())]);
        Ok(())
    }

    /// Codes and scales of activations (`ir/packed/dynamic.rs`): the scale is the largest magnitude, of a row or of
    /// all, through 127, or one where that is zero.
    fn dynamic_quantize(&mut self, id: NodeId, op: &Op) -> Result<(), Problem> {
        let Some(Some((mut x, ty))) = self.operands(id).into_iter().next() else {
            return Err(OpError::MissingOperand { slot: 0 }.into());
        };
        if ty.dtype != DType::F32 {
            x = self.as_type(&x, DType::F32);
        }
        let (codes, scales) = (self.name(id.out(0)), self.name(id.out(1)));
        let by_row = op.attrs.str("granularity") == Some("row");
        let number = |value: f32| Tensor::from_f32s(DType::F32, &[], &[value]);
        let magnitude = self.add("Abs", &format!("{x}.abs"), &[&x], Vec::new());
        let keeps = attribute::int("keepdims", i64::from(by_row));
        let most = if by_row {
            let axes = self.constant("last_axis", Tensor::from_i64s(DType::I64, &[1], &[-1])?);
            self.add("ReduceMax", &format!("{x}.max"), &[&magnitude, &axes], vec![keeps])
        } else {
            self.add("ReduceMax", &format!("{x}.max"), &[&magnitude], vec![keeps])
        };
        let share = self.constant("share", number(1.0 / 127.0)?);
        let scale = self.add("Mul", &format!("{x}.step"), &[&most, &share], Vec::new());
        let least = self.constant("least", number(LEAST_MAGNITUDE)?);
        let is_zero = self.add("Less", &format!("{x}.is_zero"), &[&most, &least], Vec::new());
        let one = self.constant("one", number(1.0)?);
        let node = super::free(&mut self.nodes_taken, &format!("{scales}.choose"));
        self.push("Where", &node, &[&is_zero, &one, &scale], std::slice::from_ref(&scales), Vec::new());
        // Codes of INT8 are those of a zero point of that type.
        let zero = |dims: &[usize]| Tensor::from_bytes(TensorType::of(DType::I8, dims), vec![0; dims.iter().product()]);
        let node = self.graph.node(id).name.clone();
        let output = std::slice::from_ref(&codes);
        if by_row {
            let n_cols = ty.shape.0.last().and_then(Dim::known).unwrap_or(0);
            let attrs = vec![
                attribute::int("axis", -1),
                attribute::int("block_size", n_cols),
                attribute::int("output_dtype", DType::I8.onnx()),
            ];
            self.push("QuantizeLinear", &node, &[&x, &scales], output, attrs);
        } else {
            let zero = self.constant("zero", zero(&[])?);
            self.push("QuantizeLinear", &node, &[&x, &scales, &zero], output, Vec::new());
        }
        Ok(())
    }

    /// `x * sigmoid(alpha * x)`, which opsets before 24 have no name for.
    fn swish(&mut self, id: NodeId, op: &Op) -> Result<(), Problem> {
        let Some(Some((x, ty))) = self.operands(id).into_iter().next() else {
            return Err(OpError::MissingOperand { slot: 0 }.into());
        };
        let (name, node) = (self.name(id.out(0)), self.graph.node(id).name.clone());
        let alpha = op.attrs.float("alpha").unwrap_or(1.0);
        let mut scaled = x.clone();
        if alpha.to_bits() != 1.0f32.to_bits() {
            let alpha = self.constant(&format!("{name}.alpha"), Tensor::from_f32s(ty.dtype, &[], &[alpha])?);
            scaled = self.add("Mul", &format!("{name}.scaled"), &[&x, &alpha], Vec::new());
        }
        let sigmoid = self.add("Sigmoid", &format!("{name}.sigmoid"), &[&scaled], Vec::new());
        self.push("Mul", &node, &[&x, &sigmoid], &[name], Vec::new());
        Ok(())
    }

    /// An attention that was written out in the model, written out again: products around a softmax. Heads that several
    /// of q share get an axis of their own. Whether it could be.
    fn attention(&mut self, id: NodeId, op: &Op) -> Result<bool, Problem> {
        let operands = self.operands(id);
        let [Some((_, q_ty)), Some((_, k_ty)), Some(_), mask @ ..] = &operands[..] else { return Ok(false) };
        let mask_ty = mask.first().and_then(|mask| mask.as_ref()).map(|(_, ty)| ty);
        let others = ["is_causal", "softcap", "left_window_size", "right_window_size", "qk_matmul_output_mode"];
        let is_plain = others.iter().all(|name| op.attrs.get(name).is_none()) && mask.len() < 2;
        let heads = |ty: &TensorType| (ty.shape.rank() == 4).then(|| ty.shape.0[1].known()).flatten();
        let (Some(n_q), Some(n_kv)) = (heads(q_ty), heads(k_ty)) else { return Ok(false) };
        let Some(head) = q_ty.shape.0[3].known() else { return Ok(false) };
        let is_shared = n_q != n_kv;
        let mask_heads = mask_ty.map_or(Some(1), |ty| match ty.shape.rank() {
            0..=2 => Some(1),
            rank => ty.shape.0[rank - 3].known(),
        });
        let fits = !is_shared || n_kv > 0 && n_q % n_kv == 0 && mask_heads == Some(1);
        if !is_plain || !fits || mask_ty.is_some_and(|ty| !ty.dtype.is_float()) {
            return Ok(false);
        }
        let mask_has_heads = mask_ty.is_some_and(|ty| ty.shape.rank() == 4);
        let result = self.graph.ty(id.out(0)).clone();
        let Some(v_head) = result.shape.0[3].known() else { return Ok(false) };
        let operands = self.alike(op, operands);
        let name_of = |slot: usize| operands.get(slot).and_then(|o| o.as_ref()).map(|(name, _)| name.clone());
        let dtype = operands.first().and_then(|o| o.as_ref()).map_or(DType::F32, |(_, ty)| ty.dtype);
        let (Some(mut q), Some(k), Some(mut v), mut mask) = (name_of(0), name_of(1), name_of(2), name_of(3)) else {
            return Ok(false);
        };
        let name = self.name(id.out(0));
        let part = |what: &str| format!("{name}.{what}");
        let scale = op.attrs.float("scale").unwrap_or(1.0 / (head as f32).sqrt());
        let scale = self.constant(&part("scale"), Tensor::from_f32s(dtype, &[], &[scale])?);
        let perm = vec![attribute::ints("perm", &[0, 1, 3, 2])];
        let mut k = self.add("Transpose", &part("k"), &[&k], perm);
        if is_shared {
            let shape = Tensor::from_i64s(DType::I64, &[5], &[0, n_kv, n_q / n_kv, -1, head])?;
            let shape = self.constant(&part("heads"), shape);
            q = self.add("Reshape", &part("q"), &[&q, &shape], Vec::new());
            let axis = self.constant(&part("axis"), Tensor::from_i64s(DType::I64, &[1], &[2])?);
            k = self.add("Unsqueeze", &part("k.shared"), &[&k, &axis], Vec::new());
            v = self.add("Unsqueeze", &part("v.shared"), &[&v, &axis], Vec::new());
            if let Some(own) = mask.as_ref().filter(|_| mask_has_heads) {
                mask = Some(self.add("Unsqueeze", &part("mask.shared"), &[own, &axis], Vec::new()));
            }
        }
        let products = self.add("MatMul", &part("products"), &[&q, &k], Vec::new());
        let mut scores = self.add("Mul", &part("scores"), &[&products, &scale], Vec::new());
        if let Some(mask) = &mask {
            scores = self.add("Add", &part("masked"), &[&scores, mask], Vec::new());
        }
        let axis = vec![attribute::int("axis", -1)];
        let weights = self.add("Softmax", &part("weights"), &[&scores], axis);
        let node = self.graph.node(id).name.clone();
        let computed = if dtype == result.dtype { name.clone() } else { self.fresh(&part(&dtype.to_string())) };
        if is_shared {
            let sums = self.add("MatMul", &part("sums"), &[&weights, &v], Vec::new());
            let shape = self.constant(&part("shape"), Tensor::from_i64s(DType::I64, &[4], &[0, n_q, -1, v_head])?);
            self.push("Reshape", &node, &[&sums, &shape], std::slice::from_ref(&computed), Vec::new());
        } else {
            self.push("MatMul", &node, &[&weights, &v], std::slice::from_ref(&computed), Vec::new());
        }
        if computed != name {
            self.convert(&computed, dtype, &name, result.dtype)?;
        }
        Ok(true)
    }

    /// Writes a node whose result `computed` is of the type `from`, and keeps the result as the graph has it.
    pub(super) fn result(
        &mut self,
        id: NodeId,
        op: &str,
        inputs: &[&str],
        from: DType,
        attrs: Vec<pb::AttributeProto>,
    ) -> Result<(), Problem> {
        let (name, to) = (self.name(id.out(0)), self.graph.ty(id.out(0)).dtype);
        let node = self.graph.node(id).name.clone();
        if from == to {
            self.push(op, &node, inputs, &[name], attrs);
            return Ok(());
        }
        let computed = self.fresh(&format!("{name}.{from}"));
        self.push(op, &node, inputs, std::slice::from_ref(&computed), attrs);
        self.convert(&computed, from, &name, to)
    }
}
