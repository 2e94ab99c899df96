//! Where an operator has weights that can be quantized, and the matrix they form: one row an output, the reduction axis
//! along the columns.

use crate::ir::{Class, DType, Graph, MatrixLayout, NodeId, Op, OpError, Tensor, ValueId};
use crate::ops::core::layout::TO_NCHW;
use std::borrow::Cow;

/// Weights of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weights {
    /// Which operand they are.
    pub slot: usize,
    /// The constant; between it and the operator there may be Casts and, at a product, Transposes.
    pub value: ValueId,
    /// The float type in which the constant is stored.
    pub dtype: DType,
    /// The layout of the matrix in it.
    pub layout: MatrixLayout,
    /// The layout of the matrix that the operator reads.
    pub wanted: MatrixLayout,
    /// Outputs: columns of a MatMul, filters, rows of a table.
    pub n_rows: usize,
    /// Length of the reduction; for a table that of its rows.
    pub n_cols: usize,
    /// Whether the activations can be quantized too: not those of a table.
    pub has_products: bool,
    /// Whether rows may be stored in different ways: not those of a convolution in several groups.
    pub has_own_rows: bool,
}

/// The weights of a node of the ONNX level that can be quantized: a constant matrix of floats in the operand that its
/// operator says ([`OpDef::weights`](crate::ir::OpDef::weights)).
pub fn of(graph: &Graph, id: NodeId) -> Option<Weights> {
    let operand = graph.node(id).op()?.weights()?;
    let (wanted, has_products) = (operand.layout?, operand.is_product);
    let (mut value, mut layout) = ((*graph.operands(id).get(operand.slot)?)?, wanted);
    for _ in 0..MAX_VIEWS {
        let Some((before, transposition)) =
            view(graph, value).filter(|(_, transposition)| transposition.is_none() || has_products)
        else {
            break;
        };
        layout = match (layout, transposition) {
            (same, None) => same,
            (MatrixLayout::Rows, Some(Transposition::Matrix)) => MatrixLayout::Columns,
            (MatrixLayout::Columns, Some(Transposition::Matrix)) => MatrixLayout::Rows,
            (MatrixLayout::Filters, Some(Transposition::Channels)) => MatrixLayout::FiltersLast,
            _ => return None,
        };
        value = before;
    }
    let tensor = graph.constant(value)?;
    let dims = tensor.dims();
    // f64 is f64 under every format.
    let is_double = tensor.dtype() == DType::F64 || graph.ty(id.out(0)).dtype == DType::F64;
    if !tensor.dtype().is_float() || is_double || tensor.ty().packing.is_some() {
        return None;
    }
    let (n_rows, n_cols, _) = layout.matrix(&dims)?;
    (n_rows > 0 && n_cols > 0).then_some(Weights {
        slot: operand.slot,
        value,
        dtype: tensor.dtype(),
        layout,
        wanted,
        n_rows,
        n_cols,
        has_products,
        has_own_rows: operand.has_own_rows,
    })
}

/// How many Casts and Transposes are looked through.
const MAX_VIEWS: usize = 8;

/// How a Transpose permutes weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transposition {
    /// It exchanges the axes of a matrix.
    Matrix,
    /// It brings the channels of filters, which are last, before the axes of the kernel.
    Channels,
}

/// What a Cast between floats or a Transpose of weights reads, and how it permutes them.
fn view(graph: &Graph, value: ValueId) -> Option<(ValueId, Option<Transposition>)> {
    let op = graph.node(value.node).op()?;
    let before = graph.operands(value.node).first().copied()??;
    match op.def.onnx {
        // One that rounds is a conversion of the model's.
        "Cast" if graph.ty(value).dtype.holds(graph.ty(before).dtype) => Some((before, None)),
        "Transpose" if graph.ty(value).shape.rank() == 2 => {
            let is_transposed = op.attrs.ints("perm").is_none_or(|perm| perm == [1, 0]);
            Some((before, is_transposed.then_some(Transposition::Matrix)))
        }
        "Transpose" if op.attrs.ints("perm") == Some(&TO_NCHW.map(|axis| axis as i64)) => {
            Some((before, Some(Transposition::Channels)))
        }
        _ => None,
    }
}

/// Constants of at least so many bytes in f32 are stored as f16 where their readers' format is f16; smaller ones are no
/// gain.
const LARGE_BYTES: u64 = 64 << 10;
/// The largest magnitude that f16 holds.
const MAX_F16: f32 = 65504.0;
/// Beside a largest magnitude of this, what f16 loses below its smallest normal number is less than its rounding.
const LEAST_SCALE: f32 = 1.0 / 64.0;

/// Whether a constant that is not a node's weights is stored as f16 under formats of f16: it is large, and f16 holds
/// its range.
pub fn narrows(tensor: &Tensor) -> bool {
    let ty = tensor.ty();
    let is_large = ty.packing.is_none() && ty.shape.n_elems().is_some_and(|n| n.saturating_mul(4) >= LARGE_BYTES);
    if !is_large || !matches!(ty.dtype, DType::F32 | DType::BF16) {
        return false;
    }
    let largest =
        tensor.to_f32s().map(|all| all.iter().filter(|v| v.is_finite()).fold(0.0f32, |most, v| most.max(v.abs())));
    largest.is_ok_and(|most| most == 0.0 || (LEAST_SCALE..=MAX_F16).contains(&most))
}

/// The nodes between a node's weights and itself.
pub fn views(graph: &Graph, id: NodeId) -> Vec<NodeId> {
    let mut nodes = Vec::new();
    let slot = of(graph, id).map(|found| found.slot);
    let mut at = slot.and_then(|slot| graph.operands(id).get(slot).copied().flatten());
    while let Some(value) = at {
        let before = view(graph, value).map(|(before, _)| before);
        nodes.extend(before.map(|_| value.node));
        at = before;
    }
    nodes
}

/// Operators through which weights are read as they are.
const VIEWS: &[&str] = &["Cast", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"];

/// How many weights a node of the ONNX level has, those that the model has as codes included: constant integers of 8
/// bits at most that are operands of its own, or of a DequantizeLinear before it, perhaps with views between.
pub fn n_elems(graph: &Graph, id: NodeId) -> Option<u64> {
    if let Some(found) = of(graph, id) {
        return Some((found.n_rows * found.n_cols) as u64);
    }
    let op = graph.node(id).op()?;
    if matches!(op.def.onnx, "DequantizeLinear" | "QuantizeLinear") || VIEWS.contains(&op.def.onnx) {
        return None;
    }
    // ONNX Runtime's operators on blocks have 4 bits where they do not say.
    let bits = op.def.has_attr("bits").then(|| op.attrs.int("bits").unwrap_or(4));
    let codes = |value: ValueId| {
        let ty = graph.constant(value)?.ty();
        let is_matrix = ty.dtype.class() == Class::Int && ty.dtype.bits() <= 8 && ty.shape.rank() >= 2;
        // Bytes may hold several codes.
        let per_byte = bits
            .filter(|bits| matches!(bits, 2 | 4) && ty.dtype == DType::U8)
            .map_or(1, |bits| 8 / bits.unsigned_abs());
        is_matrix.then(|| ty.shape.n_elems().unwrap_or(0).saturating_mul(per_byte))
    };
    let behind = |mut value: ValueId| {
        while graph.node(value.node).op().is_some_and(|op| VIEWS.contains(&op.def.onnx)) {
            value = graph.operands(value.node).first().copied()??;
        }
        graph.node(value.node).op().filter(|op| op.def.onnx == "DequantizeLinear")?;
        codes(graph.operands(value.node).first().copied()??)
    };
    // Behind these slots are scales and zero points.
    let operands = graph.operands(id).into_iter().take(if bits.is_some() { 2 } else { 4 });
    let n: u64 = operands.flatten().filter_map(|value| codes(value).or_else(|| behind(value))).sum();
    // MatMulNBits pads its last block.
    let matrix =
        op.attrs.int("K").zip(op.attrs.int("N")).map(|(k, n)| k.unsigned_abs().saturating_mul(n.unsigned_abs()));
    (n > 0).then(|| matrix.unwrap_or(n))
}

/// Whether operand `slot` of a use of `op` with `n_operands` is a matrix of weights, or further rows of one; epilogues
/// have none.
pub fn is_slot(op: &Op, slot: usize, n_operands: usize) -> bool {
    let n_own = n_operands.saturating_sub(op.attrs.expr("epilogue").map_or(0, |e| e.n_args().saturating_sub(1)));
    op.weights().is_some_and(|weights| slot < n_own && weights.is_slot(slot, n_own))
}

impl Weights {
    /// At most `max_elems` elements of the matrix, but one row at least: whole rows, evenly spaced, and how many they
    /// are. Nothing else is read.
    ///
    /// # Errors
    /// The data is absent.
    pub fn sample(&self, tensor: &Tensor, max_elems: usize) -> Result<(Vec<f32>, usize), OpError> {
        let data = tensor.to_f32s()?;
        let (rows, cols) = (self.n_rows, self.n_cols);
        let n = (max_elems / cols).clamp(1, rows);
        let mut sample = Vec::with_capacity(n * cols);
        for i in 0..n {
            let row = i * rows / n;
            match self.layout {
                MatrixLayout::Columns => sample.extend((0..cols).map(|col| data[col * rows + row])),
                MatrixLayout::Rows | MatrixLayout::Filters | MatrixLayout::FiltersLast => {
                    sample.extend_from_slice(&data[row * cols..(row + 1) * cols])
                }
            }
        }
        Ok((sample, n))
    }

    /// The matrix, row-major `[n_rows, n_cols]`.
    ///
    /// # Errors
    /// The data is absent.
    pub fn matrix<'t>(&self, tensor: &'t Tensor) -> Result<Cow<'t, [f32]>, OpError> {
        let data = tensor.to_f32s()?;
        if self.layout != MatrixLayout::Columns {
            return Ok(data);
        }
        let (rows, cols) = (self.n_rows, self.n_cols);
        let mut matrix = vec![0.0f32; rows * cols];
        // Tiles keep both sides in cache.
        const TILE: usize = 32;
        for r0 in (0..rows).step_by(TILE) {
            for c0 in (0..cols).step_by(TILE) {
                for r in r0..(r0 + TILE).min(rows) {
                    for c in c0..(c0 + TILE).min(cols) {
                        matrix[r * cols + c] = data[c * rows + r];
                    }
                }
            }
        }
        Ok(Cow::Owned(matrix))
    }
}
