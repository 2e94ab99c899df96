//! Products with quantized weights, in the form that runtimes compute from as it is.
//!
//! `insert_qdq` keeps the rows of a matrix as its kernels read them: codes `[N, K]` with blocks along K, then a
//! Transpose to the `[K, N]` of MatMul. ONNX Runtime fuses DequantizeLinear and MatMul where the codes are `[K, N]`
//! with blocks along axis 0, so codes and scales are turned here and the Transpose goes. A Gemm becomes a MatMul and an
//! Add, the parts of a split matrix products of their own that are concatenated. Scales of f16 stay f16 in the file,
//! behind a Cast. What is looked for: the constants of one DequantizeLinear without zero points, or a Concat of such
//! and of floats; everything else is written as it stands.

use super::node::Operand;
use super::{Problem, Style, Work, attribute};
use crate::ir::{DType, Graph, NodeId, Op, Tensor, TensorError, TensorType, ValueId};

/// Codes `[n_rows, n_cols]` with a scale for `block` of them along a row.
struct Codes<'g> {
    node: NodeId,
    name: &'g str,
    codes: &'g Tensor,
    scales: &'g Tensor,
    n_rows: usize,
    n_cols: usize,
    block: usize,
}

/// Rows of a matrix.
enum Part<'g> {
    Codes(Codes<'g>),
    /// As floats `[n, n_cols]`.
    Floats(ValueId),
}

impl<'g> Codes<'g> {
    /// The codes that a value is made of.
    fn of(graph: &'g Graph, value: ValueId) -> Option<Codes<'g>> {
        let op = graph.node(value.node).op().filter(|op| op.def.onnx == "DequantizeLinear")?;
        let operands = graph.operands(value.node);
        let [Some(codes), Some(scales)] = operands[..] else { return None };
        let (name, codes, scales) = (graph.value(codes).name.as_str(), graph.constant(codes)?, graph.constant(scales)?);
        let block = usize::try_from(op.attrs.int("block_size")?).ok().filter(|block| *block > 0)?;
        let [n_rows, n_cols] = codes.dims()[..] else { return None };
        let is_ours = op.attrs.int("axis") == Some(1)
            && matches!(codes.dtype(), DType::I4 | DType::I8)
            && matches!(scales.dtype(), DType::F32 | DType::F16)
            && scales.dims() == [n_rows, n_cols.div_ceil(block)];
        is_ours.then_some(Codes { node: value.node, name, codes, scales, n_rows, n_cols, block })
    }

    /// Codes per scale where MatMulNBits counts them: a power of two from 16 to 256. Scales of whole rows stand for
    /// several of these.
    fn even_block(&self) -> usize {
        if self.block == self.n_cols { self.n_cols.next_power_of_two().clamp(16, 128) } else { self.block }
    }
}

/// The parts of a matrix whose rows are those of `value`.
fn rows(graph: &Graph, value: ValueId) -> Option<Vec<Part<'_>>> {
    if let Some(codes) = Codes::of(graph, value) {
        return Some(vec![Part::Codes(codes)]);
    }
    let op = graph.node(value.node).op().filter(|op| op.def.onnx == "Concat")?;
    if op.attrs.int("axis") != Some(0) || graph.ty(value).shape.rank() != 2 {
        return None;
    }
    let part = |value: ValueId| Codes::of(graph, value).map_or(Part::Floats(value), Part::Codes);
    let parts: Vec<Part<'_>> = graph.operands(value.node).into_iter().map(|v| v.map(part)).collect::<Option<_>>()?;
    parts.iter().any(|part| matches!(part, Part::Codes(_))).then_some(parts)
}

/// The parts of a matrix `[K, N]` whose columns are those rows.
fn columns(graph: &Graph, value: ValueId) -> Option<Vec<Part<'_>>> {
    let op = graph.node(value.node).op().filter(|op| op.def.onnx == "Transpose")?;
    let turns = op.attrs.ints("perm").is_none_or(|perm| perm == [1, 0]);
    let before = graph.operands(value.node).first().copied().flatten().filter(|_| turns)?;
    rows(graph, before)
}

impl Work<'_> {
    /// Writes a MatMul, a Gemm or a Gather of quantized weights. Whether it was one.
    pub(super) fn weighted(&mut self, id: NodeId, op: &Op) -> Result<bool, Problem> {
        let graph = self.graph;
        let operands = graph.operands(id);
        let value = |slot: usize| operands.get(slot).copied().flatten();
        if op.def.onnx == "Gather" {
            let (Some(table), Some(at)) = (value(0), value(1)) else { return Ok(false) };
            return self.looked_up(id, op, table, at);
        }
        let (Some(a), Some(b)) = (value(0), value(1)) else { return Ok(false) };
        let is_gemm = op.def.onnx == "Gemm";
        let is_turned = op.attrs.int("transB").unwrap_or(0) != 0;
        let Some(parts) = (if is_turned { rows(graph, b) } else { columns(graph, b) }) else { return Ok(false) };
        let one = |name: &str| op.attrs.float(name).is_none_or(|factor| factor.to_bits() == 1.0f32.to_bits());
        if is_gemm && (op.attrs.int("transA").unwrap_or(0) != 0 || !one("alpha") || !one("beta")) {
            return Ok(false);
        }
        let bias = value(2);
        let all = [Some(a), bias];
        let mut given: Vec<Operand> = all.map(|v| v.map(|v| (self.name(v), graph.ty(v).clone()))).into_iter().collect();
        // The type of the products: that of the activations, f32 beside a bias of f32.
        let is_wide = given.iter().flatten().any(|(_, ty)| ty.dtype != DType::F16) || graph.ty(b).dtype != DType::F16;
        let dtype = if is_wide { DType::F32 } else { DType::F16 };
        for (name, ty) in given.iter_mut().flatten().filter(|(_, ty)| ty.dtype != dtype) {
            *name = self.as_type(name, dtype);
            ty.dtype = dtype;
        }
        let (Some(Some((a, _))), bias) = (given.first().cloned(), given.get(1).cloned().flatten()) else {
            return Ok(false);
        };
        let name = self.name(id.out(0));
        let is_last = bias.is_none() && parts.len() == 1;
        if let (true, [part]) = (is_last, &parts[..]) {
            let (op, inputs, attrs) = self.product(&a, part, dtype)?;
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            self.result(id, op, &inputs, dtype, attrs)?;
            return Ok(true);
        }
        let mut products = Vec::with_capacity(parts.len());
        for part in &parts {
            let (op, inputs, attrs) = self.product(&a, part, dtype)?;
            let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
            products.push(self.add(op, &format!("{name}.product"), &inputs, attrs));
        }
        let joined: Vec<&str> = products.iter().map(String::as_str).collect();
        let axis = vec![attribute::int("axis", -1)];
        match (&joined[..], bias) {
            (joined, None) => self.result(id, "Concat", joined, dtype, axis)?,
            ([only], Some((bias, _))) => self.result(id, "Add", &[only, &bias], dtype, Vec::new())?,
            (joined, Some((bias, _))) => {
                let all = self.add("Concat", &format!("{name}.joined"), joined, axis);
                self.result(id, "Add", &[&all, &bias], dtype, Vec::new())?;
            }
        }
        Ok(true)
    }

    /// Operator, operands and attributes of a product of `a` with the columns of a part.
    fn product(
        &mut self,
        a: &str,
        part: &Part<'_>,
        dtype: DType,
    ) -> Result<(&'static str, Vec<String>, Vec<super::pb::AttributeProto>), Problem> {
        match part {
            Part::Codes(codes) if self.style == Style::MatMulNBits && dtype.holds(codes.scales.dtype()) => {
                let [packed, scales] = self.packed(codes, dtype)?;
                let number = |n: usize| n as i64;
                let attrs = vec![
                    attribute::int("K", number(codes.n_cols)),
                    attribute::int("N", number(codes.n_rows)),
                    attribute::int("bits", codes.codes.dtype().bits()),
                    attribute::int("block_size", number(codes.even_block())),
                    attribute::int("accuracy_level", 1),
                ];
                Ok(("com.microsoft::MatMulNBits", vec![a.to_owned(), packed, scales], attrs))
            }
            Part::Codes(codes) => {
                let b = self.turned(codes, dtype)?;
                Ok(("MatMul", vec![a.to_owned(), b], Vec::new()))
            }
            Part::Floats(value) => {
                let (mut name, ty) = (self.name(*value), self.graph.ty(*value).clone());
                if ty.dtype != dtype {
                    name = self.as_type(&name, dtype);
                }
                let turn = vec![attribute::ints("perm", &[1, 0])];
                let b = self.add("Transpose", &format!("{name}.t"), &[&name], turn);
                Ok(("MatMul", vec![a.to_owned(), b], Vec::new()))
            }
        }
    }

    /// `[K, N]` as floats of this type: a DequantizeLinear of turned codes, with blocks along axis 0, or a scale a
    /// column.
    fn turned(&mut self, found: &Codes<'_>, dtype: DType) -> Result<String, Problem> {
        if let Some(known) = self.turned.get(&(found.node, dtype)) {
            return Ok(known.clone());
        }
        let (codes, n_rows, n_cols) = (found.codes.clone(), found.n_rows, found.n_cols);
        let code_ty = codes.dtype();
        let source = codes.clone();
        let turned = Tensor::deferred(TensorType::of(code_ty, &[n_cols, n_rows]), "turned", &[&source], move || {
            Tensor::from_i64s(code_ty, &[n_cols, n_rows], &transposed(&codes.to_i64s()?, n_rows, n_cols))
        });
        let n_blocks = n_cols.div_ceil(found.block);
        let scales = found.scales.to_f32s()?;
        let (scale_dims, attrs) = if n_blocks == 1 {
            (vec![n_rows], vec![attribute::int("axis", 1)])
        } else {
            let attrs = vec![attribute::int("axis", 0), attribute::int("block_size", found.block as i64)];
            (vec![n_blocks, n_rows], attrs)
        };
        let scales = Tensor::from_f32s(found.scales.dtype(), &scale_dims, &transposed(&scales, n_rows, n_blocks))?;
        let base = found.name;
        let codes = self.constant(&format!("{base}.t"), turned);
        let mut scales_name = self.constant(&format!("{base}.scale"), scales);
        if found.scales.dtype() != dtype && dtype.holds(found.scales.dtype()) {
            scales_name = self.as_type(&scales_name, dtype);
        }
        let mut name = self.add("DequantizeLinear", &format!("{base}.dq.t"), &[&codes, &scales_name], attrs);
        if !dtype.holds(found.scales.dtype()) {
            name = self.as_type(&name, dtype);
        }
        self.turned.insert((found.node, dtype), name.clone());
        Ok(name)
    }

    /// Codes and scales as MatMulNBits packs them: `[N, blocks, bytes of a block]`, codes without a sign, and `[N *
    /// blocks]`.
    fn packed(&mut self, found: &Codes<'_>, dtype: DType) -> Result<[String; 2], Problem> {
        let (block, n_rows, n_cols) = (found.even_block(), found.n_rows, found.n_cols);
        let n_blocks = n_cols.div_ceil(block);
        let bits = found.codes.dtype().bits() as usize;
        let dims = [n_rows, n_blocks, block * bits / 8];
        let base = found.name;
        let scales = {
            let own = found.scales.to_f32s()?;
            let n_own = n_cols.div_ceil(found.block);
            // A scale of a whole row stands for each block of it.
            let of = |i: usize| own[i / n_blocks * n_own + if n_own == 1 { 0 } else { i % n_blocks }];
            Tensor::from_f32s(dtype, &[n_rows * n_blocks], &(0..n_rows * n_blocks).map(of).collect::<Vec<_>>())?
        };
        let codes = found.codes.clone();
        let recipe = format!("blocks of {block}");
        let source = codes.clone();
        let packed = Tensor::deferred(TensorType::of(DType::U8, &dims), &recipe, &[&source], move || {
            Tensor::from_bytes(TensorType::of(DType::U8, &dims), blocks(&codes, n_rows, n_cols, n_blocks * block)?)
        });
        Ok([self.constant(&format!("{base}.blocks"), packed), self.constant(&format!("{base}.blocks.scale"), scales)])
    }

    /// A look-up in a quantized table, as GatherBlockQuantized where that is asked for: only the rows that are read are
    /// made floats.
    fn looked_up(&mut self, id: NodeId, op: &Op, table: ValueId, at: ValueId) -> Result<bool, Problem> {
        let graph = self.graph;
        let Some(found) = Codes::of(graph, table).filter(|_| self.style == Style::MatMulNBits) else {
            return Ok(false);
        };
        let (block, dtype) = (found.even_block(), graph.ty(id.out(0)).dtype);
        let is_first = matches!(op.attrs.int("axis").unwrap_or(0), 0 | -2);
        if !is_first || !found.n_cols.is_multiple_of(block) || !dtype.holds(found.scales.dtype()) {
            return Ok(false);
        }
        let (n_rows, n_cols) = (found.n_rows, found.n_cols);
        let own = found.scales.to_f32s()?;
        let (n_blocks, n_own) = (n_cols / block, n_cols.div_ceil(found.block));
        let of = |i: usize| own[i / n_blocks * n_own + if n_own == 1 { 0 } else { i % n_blocks }];
        let scales: Vec<f32> = (0..n_rows * n_blocks).map(of).collect();
        let scales = Tensor::from_f32s(dtype, &[n_rows, n_blocks], &scales)?;
        let scales = self.constant(&format!("{}.table.scale", found.name), scales);
        let bits = found.codes.dtype().bits();
        let codes = if bits == 4 {
            // Signed codes have the zero point zero.
            self.constant(&format!("{}.table", found.name), found.codes.clone())
        } else {
            let codes = found.codes.clone();
            let ty = TensorType::of(DType::U8, &[n_rows, n_cols]);
            let source = codes.clone();
            let unsigned = Tensor::deferred(ty.clone(), "unsigned", &[&source], move || {
                Tensor::from_bytes(ty, codes.bytes()?.iter().map(|code| code ^ 0x80).collect())
            });
            self.constant(&format!("{}.table", found.name), unsigned)
        };
        let mut attrs = vec![
            attribute::int("gather_axis", 0),
            attribute::int("quantize_axis", 1),
            attribute::int("block_size", block as i64),
        ];
        if bits == 8 {
            attrs.push(attribute::int("bits", 8));
        }
        let at = self.name(at);
        self.result(id, "com.microsoft::GatherBlockQuantized", &[&codes, &at, &scales], dtype, attrs)?;
        Ok(true)
    }
}

/// The transpose of a row-major matrix.
fn transposed<T: Copy>(matrix: &[T], n_rows: usize, n_cols: usize) -> Vec<T> {
    (0..n_cols).flat_map(|col| (0..n_rows).map(move |row| matrix[row * n_cols + col])).collect()
}

/// Rows of codes as bytes without a sign, each padded with zeros to `pitch` codes, the first of a byte lowest.
fn blocks(codes: &Tensor, n_rows: usize, n_cols: usize, pitch: usize) -> Result<Vec<u8>, TensorError> {
    let bits = codes.dtype().bits();
    let zero = 1i64 << (bits - 1);
    let values = codes.to_i64s()?;
    let mut bytes = Vec::with_capacity(n_rows * pitch * bits as usize / 8);
    for row in values.chunks(n_cols.max(1)).take(n_rows) {
        let code = |col: usize| (row.get(col).copied().unwrap_or(0) + zero) as u8;
        match bits {
            4 => bytes.extend((0..pitch).step_by(2).map(|col| code(col) | code(col + 1) << 4)),
            _ => bytes.extend((0..pitch).map(code)),
        }
    }
    Ok(bytes)
}
