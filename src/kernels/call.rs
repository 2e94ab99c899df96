//! Building a call: operands by slot, parameters by name, the epilogue added, everything checked against key and
//! target.

mod finish;
mod node;

use super::settings::Setting;
use super::{KernelError, Loop, Operand, most_device_bytes, storage};
use crate::ir::packed::Granularity;
use crate::ir::packed::Packing;
use crate::ir::{Activations, Class, Dim, TensorType, ValueId, product};
use crate::kernels::key::{Flag, OperandKey, ParamType, Storage, Template, Tile, Value};
use crate::kernels::variant::Variant;
pub(super) use node::Node;
use std::collections::BTreeMap;

/// Elements of the largest tensor: indices on a device are 32 bits wide, with room for the last workgroup.
pub(super) const MAX_ELEMS: u64 = 1 << 31;

/// The sizes of a type.
pub(super) fn dims(ty: &TensorType) -> Vec<Dim> {
    ty.shape.0.clone()
}

/// What a tensor is in an expression: packed ones are floats.
pub(super) fn class_of(ty: &TensorType) -> Value {
    match (ty.packing, ty.dtype.class()) {
        (None, Class::Int) if storage(ty).is_some_and(Storage::is_wide) => Value::Wide,
        (None, Class::Int) => Value::Int,
        (None, Class::Bool) => Value::Bool,
        _ => Value::Float,
    }
}

/// Rows and columns of a type: the last axis against all others.
pub(super) fn matrix(ty: &TensorType) -> (Dim, Dim) {
    match ty.shape.0.split_last() {
        Some((cols, rows)) => (product(rows), cols.clone()),
        None => (Dim::Known(1), Dim::Known(1)),
    }
}

/// Words of one row of codes: [`Packing::pitch_words`] of sizes that may change.
pub(super) fn pitch(packing: Packing, cols: &Dim) -> Dim {
    (cols * &Dim::Known(i64::from(packing.coding.row_bits()))).div_ceil(32)
}

/// Rows of an operand that are bound, where not all are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rows {
    pub(super) first: u64,
    pub(super) n: u64,
    /// Elements of a row.
    pub(super) n_cols: u64,
}

/// Splits the rows of an operand into slices that a binding may span; one `None` where the operand can be bound whole.
pub(super) fn slices(
    node: &Node<'_>,
    value: ValueId,
    n_rows: &Dim,
    n_cols: &Dim,
) -> Result<Vec<Option<Rows>>, KernelError> {
    let limit = node.target.limits.max_storage_buffer_range;
    let ty = node.graph.ty(value);
    let bytes = most_device_bytes(ty).unwrap_or(u64::MAX);
    if bytes <= limit {
        return Ok(vec![None]);
    }
    let known = |dim: &Dim| dim.known().and_then(|n| u64::try_from(n).ok());
    let (Some(n_rows), Some(n_cols)) = (known(n_rows), known(n_cols)) else { return Err(node.too_large(value, bytes)) };
    let (row_bytes, scale_bytes) = match storage(ty) {
        Some(Storage::Packed(packing)) => {
            // What lies behind the rows is bound whole where there are planes.
            let rest = bytes.saturating_sub(packing.plane_offset(n_rows, n_cols).unwrap_or(0));
            if packing.coding.n_planes() > 0 && rest > limit - node.target.alignment() {
                return Err(node.too_large(value, rest));
            }
            (
                packing.pitch_words(n_cols).unwrap_or(u64::MAX).saturating_mul(4),
                packing.n_blocks(n_cols).unwrap_or(0) * packing.scale.n_bytes(),
            )
        }
        Some(storage) => (n_cols * u64::from(storage.element_bytes().unwrap_or(4)), 0),
        None => return Err(node.unsupported(format!("{ty}"))),
    };
    // So many rows that every slice begins where a binding may (alignments are powers of two), and its scales, halves
    // at least, at a word.
    let alignment = node.target.alignment();
    let step = (alignment >> row_bytes.trailing_zeros().min(alignment.trailing_zeros())).max(2);
    let n = (limit - alignment) / row_bytes.max(scale_bytes).max(1) / step * step;
    if n == 0 {
        return Err(node.too_large(value, bytes));
    }
    Ok((0..n_rows.div_ceil(n)).map(|i| Some(Rows { first: i * n, n: n.min(n_rows - i * n), n_cols })).collect())
}

/// A call under construction, of whatever template: what [`Call`](super::settings::Call) says in the template's terms.
pub(super) struct Draft<'n> {
    node: &'n Node<'n>,
    template: Template,
    operands: Vec<Option<OperandKey>>,
    bindings: Vec<Operand>,
    flags: BTreeMap<Flag, u32>,
    tile: Option<Tile>,
    variant: Option<Variant>,
    /// Name to type and value.
    params: BTreeMap<String, (ParamType, Dim)>,
    with_epilogue: bool,
    loops: Vec<Loop>,
    /// How many elements an invocation puts.
    puts: u64,
    /// Neighbours of the result that go through its epilogue together.
    vector: u32,
}

impl<'n> Draft<'n> {
    fn new(node: &'n Node<'n>, template: Template) -> Draft<'n> {
        Draft {
            node,
            template,
            operands: Vec::new(),
            bindings: Vec::new(),
            flags: BTreeMap::new(),
            tile: None,
            variant: None,
            params: BTreeMap::new(),
            with_epilogue: template.table().epilogue,
            loops: Vec::new(),
            puts: 1,
            vector: 0,
        }
    }

    /// The next operand of the table, whole.
    pub(super) fn operand(self, value: ValueId) -> Self {
        let ty = self.node.graph.ty(value);
        let bytes = most_device_bytes(ty).unwrap_or(u64::MAX);
        self.packed_params(ty).bind(
            value,
            OperandKey { storage: storage(ty).unwrap_or(Storage::F32), scales_apart: false },
            &[(0, bytes)],
        )
    }

    /// The next operand of the table, of which only some rows are read.
    pub(super) fn operand_rows(self, value: ValueId, rows: Option<Rows>) -> Self {
        let Some(rows) = rows else { return self.operand(value) };
        let ty = self.node.graph.ty(value);
        let n_cols = rows.n_cols;
        match storage(ty) {
            Some(Storage::Packed(packing)) => {
                let pitch = packing.pitch_words(n_cols).unwrap_or(0) * 4;
                let of_matrix = |offset: fn(Packing, u64, u64) -> Option<u64>| {
                    ty.matrix().and_then(|(rows, cols)| offset(packing, rows, cols)).unwrap_or(0)
                };
                let scales = of_matrix(Packing::scale_offset);
                // One scale in all is read by every slice.
                let one = packing.granularity == Granularity::Tensor;
                let unit = if one { 0 } else { packing.n_blocks(n_cols).unwrap_or(0) * packing.scale.n_bytes() };
                let n_bytes = if one { 4 } else { (rows.n * unit).next_multiple_of(4) };
                // Scales begin at any word: the binding begins before them, and the parameter says how far.
                let start = scales + rows.first * unit;
                // Rows of the planes lie before all scales: where there are planes, the binding begins with them.
                let planes = of_matrix(Packing::plane_offset);
                let first = if packing.coding.n_planes() > 0 { planes } else { start };
                let bound = first - first % self.node.target.alignment();
                let key = OperandKey { storage: Storage::Packed(packing), scales_apart: true };
                let parts = [(rows.first * pitch, rows.n * pitch), (bound, start - bound + n_bytes)];
                let mut call = self.packed_params(ty);
                if let Some(&(name, _)) = call.template.table().operands.get(call.operands.len()) {
                    call = call.uint(&format!("{name}_scales"), (start - bound) / 4);
                    if packing.coding.n_planes() > 0 {
                        let row = packing.plane_words(n_cols).unwrap_or(0);
                        call = call.uint(&format!("{name}_planes"), (planes - bound) / 4 + rows.first * row);
                    }
                }
                call.bind(value, key, &parts)
            }
            Some(storage) => {
                let row = n_cols * u64::from(storage.element_bytes().unwrap_or(4));
                let part = (rows.first * row, (rows.n * row).next_multiple_of(4));
                self.bind(value, OperandKey { storage, scales_apart: false }, &[part])
            }
            None => self,
        }
    }

    /// An optional operand of the table.
    pub(super) fn optional(mut self, value: Option<ValueId>) -> Self {
        match value {
            Some(value) => self.operand(value),
            None => {
                self.operands.push(None);
                self
            }
        }
    }

    fn bind(mut self, value: ValueId, key: OperandKey, parts: &[(u64, u64)]) -> Self {
        self.operands.push(Some(key));
        self.bindings.extend(parts.iter().map(|&(offset_bytes, bytes)| Operand {
            value,
            offset_bytes,
            bytes,
            write: false,
        }));
        self
    }

    /// What the accessors of a packed operand need.
    fn packed_params(self, ty: &TensorType) -> Self {
        let Some(packing) = ty.packing else { return self };
        let Some(&(name, _)) = self.template.table().operands.get(self.operands.len()) else { return self };
        let (rows, cols) = matrix(ty);
        let blocks = match packing.granularity {
            Granularity::Block(block) => cols.div_ceil(u64::from(block)),
            Granularity::Row => Dim::least(&cols, &Dim::Known(1)),
            Granularity::Tensor => Dim::Known(1),
        };
        let pitch = pitch(packing, &cols);
        let planes = &rows * &pitch;
        let call = self.uint(&format!("{name}_pitch"), pitch).uint(&format!("{name}_blocks"), blocks);
        let n_planes = packing.coding.n_planes();
        if n_planes == 0 {
            return call.uint(&format!("{name}_scales"), planes);
        }
        let row = cols.div_ceil(32);
        let plane = &rows * &row;
        let scales = &planes + &(&plane * &Dim::Known(n_planes.into()));
        let call = call.uint(&format!("{name}_scales"), scales).uint(&format!("{name}_planes"), planes);
        call.uint(&format!("{name}_plane"), plane).uint(&format!("{name}_plane_pitch"), row)
    }

    /// A parameter, a list of parameters, or a flag of the template.
    pub(super) fn set(mut self, name: &'static str, flag: Option<Flag>, setting: Setting) -> Self {
        match setting {
            Setting::Param(ty, value) => {
                self.params.insert(name.to_owned(), (ty, value));
            }
            Setting::Params(ty, values) => {
                let count = self.template.table().params.iter().find(|param| param.name == name);
                if let Some(count) = count.and_then(|param| param.count) {
                    self.flags.insert(count, u32::try_from(values.len()).unwrap_or(u32::MAX));
                }
                self.params.extend(values.into_iter().enumerate().map(|(i, v)| (format!("{name}{i}"), (ty, v))));
            }
            Setting::Flag(value) => self.flags.extend(flag.map(|flag| (flag, value))),
        }
        self
    }

    /// Neighbours of the result that an invocation computes at a time; 0 where each is computed by itself. They begin
    /// at multiples of that number.
    pub(super) fn vector(mut self, width: u32) -> Self {
        self.vector = width;
        self.flags.insert(Flag::Vector, width);
        self
    }

    pub(super) fn tile(mut self, m: u32, n: u32, k: u32) -> Self {
        self.tile = Some(Tile { m, n, k });
        self
    }

    pub(super) fn variant(mut self, variant: Variant) -> Self {
        self.variant = Some(variant);
        self
    }

    /// Whether its own operands, all given by now, are multiplied as f16: the target does it, and none holds more.
    /// Packed weights are rounded for that, so the node's format says a16, or there is none.
    pub(super) fn half(mut self) -> Self {
        let may_round = self.node.activations.is_none_or(|a| a == Activations::F16);
        let fits = |storage: Storage| storage == Storage::F16 || (may_round && matches!(storage, Storage::Packed(_)));
        let half =
            self.node.target.features.f16_arithmetic && self.operands.iter().flatten().all(|key| fits(key.storage));
        self.flags.insert(Flag::Half, u32::from(half));
        self
    }

    /// A loop of the template's text that an invocation comes to `entries` times, and whose body then runs `times`
    /// times.
    pub(super) fn each(mut self, entries: impl Into<Dim>, times: impl Into<Dim>) -> Self {
        self.loops.push(Loop { entries: most(&entries.into()), times: most(&times.into()), in_epilogue: false });
        self
    }

    /// How many elements an invocation puts, where it is not one: the loops of an epilogue run for each.
    pub(super) fn puts(mut self, n: impl Into<Dim>) -> Self {
        self.puts = most(&n.into());
        self
    }

    fn uint(mut self, name: &str, value: impl Into<Dim>) -> Self {
        self.set_uint(name, value.into());
        self
    }

    fn set_uint(&mut self, name: &str, value: Dim) {
        self.params.insert(name.to_owned(), (ParamType::Uint, value));
    }

    fn set_float(&mut self, name: &str, value: f32) {
        self.params.insert(name.to_owned(), (ParamType::Float, u64::from(value.to_bits()).into()));
    }
}

/// Bits of the widest integers: a quotient is found bit by bit where a device has no such integers.
pub(super) const WIDE_BITS: u64 = 64;
/// The largest size.
pub(super) fn most(dim: &Dim) -> u64 {
    dim.most().map_or(u64::MAX, |n| u64::try_from(n).unwrap_or(0))
}
