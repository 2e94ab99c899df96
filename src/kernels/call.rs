//! Building a call: operands by slot, parameters by name, the epilogue added, everything checked against key and
//! target.

use super::choice::Asked;
use super::epilogue::Epilogue;
use super::settings::{Call, Kernel, Setting};
use super::shape::groups;
use super::{KernelCall, KernelError, Loop, Operand, most_device_bytes, storage};
use crate::ir::packed::Granularity;
use crate::ir::packed::Packing;
use crate::ir::{Activations, Attrs, Binary, Class, Dim, Expr, Graph, NodeId, Op, TensorType, ValueId, product};
use crate::kernels::key::{ExprKey, Flag, KernelKey, Load, OperandKey, ParamType, Storage, Template, Tile, Value};
use crate::kernels::variant::Variant;
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::quantize_packed;
use crate::ops::util::dims_attr;
use crate::targets::Target;
use std::collections::BTreeMap;

/// Elements of the largest tensor: indices on a device are 32 bits wide, with room for the last workgroup.
pub(super) const MAX_ELEMS: u64 = 1 << 31;

/// The node at hand.
pub(super) struct Node<'a> {
    pub(super) graph: &'a Graph,
    pub(super) target: &'a Target,
    pub(super) attrs: &'a Attrs,
    pub(super) name: &'a str,
    /// What the node's format says of activations. Formats were made real before, but for one thing that no type says:
    /// whether packed weights may be rounded to f16 to be multiplied (`Draft::half`, `mma::Operands`). Codes and scales
    /// are the same under a16 and a32; x is f16 where its own producer's format is; and a result may be f32 under a16,
    /// as an output or for its range.
    pub(super) activations: Option<Activations>,
    /// What is asked of choices among kernels.
    pub(super) asked: Asked,
    /// Own operands, `None` where an optional one is absent.
    pub(super) own: Vec<Option<ValueId>>,
    pub(super) value: ValueId,
    pub(super) result: &'a TensorType,
    /// Sizes of the result.
    pub(super) dims: Vec<Dim>,
    /// Where its kernels note the magnitude of the result, if somebody asks for it.
    notes: Option<ValueId>,
    epilogue: Option<Epilogue>,
}

impl<'a> Node<'a> {
    pub(super) fn new(graph: &'a Graph, id: NodeId, op: &'a Op, target: &'a Target) -> Result<Node<'a>, KernelError> {
        let name = &graph.node(id).name;
        let unsupported = |what: String| KernelError::Unsupported { node: name.clone(), what };
        if graph.node(id).outputs.len() != 1 {
            return Err(unsupported("more than one result".to_owned()));
        }
        let value = id.out(0);
        let result = graph.ty(value);
        let mut own = graph.operands(id);
        for operand in own.iter().flatten().chain([&value]) {
            let ty = graph.ty(*operand);
            if storage(ty).is_none() || ty.shape.most_elems().is_none_or(|n| n >= MAX_ELEMS) {
                return Err(unsupported(format!(
                    "{ty}: text, a size without bound, or more elements than {MAX_ELEMS}"
                )));
            }
        }
        let activations = graph.node(id).format.map(|f| f.activations);
        let mut node = Node {
            graph,
            target,
            attrs: &op.attrs,
            name,
            activations,
            asked: Asked::default(),
            own: Vec::new(),
            value,
            result,
            dims: dims(result),
            notes: magnitude_of(graph, value),
            epilogue: None,
        };
        if op.def.name == "pointwise" {
            let expr = op.attrs.expr("expr").ok_or_else(|| unsupported("a pointwise without expression".to_owned()))?;
            node.epilogue = Some(Epilogue::new(&node, expr, &own, None).map_err(unsupported)?);
        } else {
            if let Some(expr) = op.attrs.expr("epilogue") {
                let extra = own.split_off(own.len().saturating_sub(expr.n_args().saturating_sub(1)));
                let first = own.first().copied().flatten().map(|v| graph.ty(v));
                node.epilogue = Some(
                    Epilogue::new(&node, expr, &extra, Some(first.map_or(Value::Float, |ty| made_of(op, ty))))
                        .map_err(unsupported)?,
                );
            }
            let first = own.first().copied().flatten().map_or(class_of(result), |v| made_of(op, graph.ty(v)));
            if node.epilogue.is_none() && op.def.name == "reduce" && first == Value::Int {
                // Sums of narrow integers wrap as their type does.
                node.epilogue = Some(Epilogue::new(&node, &Expr::Arg(0), &[], Some(first)).map_err(unsupported)?);
            }
            if node.epilogue.is_none() && first != class_of(result) {
                return Err(unsupported(format!("{} of a {first:?} stored as {result}", op.def.name)));
            }
            node.own = own;
        }
        Ok(node)
    }

    /// Operand `slot` and its type.
    pub(super) fn operand(&self, slot: usize) -> Result<(ValueId, &'a TensorType), KernelError> {
        let value = self
            .own
            .get(slot)
            .copied()
            .flatten()
            .ok_or_else(|| self.unsupported(format!("an absent operand {slot}")))?;
        Ok((value, self.graph.ty(value)))
    }

    pub(super) fn unsupported(&self, what: impl Into<String>) -> KernelError {
        KernelError::Unsupported { node: self.name.to_owned(), what: what.into() }
    }

    pub(super) fn too_large(&self, value: ValueId, bytes: u64) -> KernelError {
        let limit_bytes = self.target.limits.max_storage_buffer_range;
        KernelError::TooLarge {
            node: self.name.to_owned(),
            value: self.graph.value(value).name.clone(),
            bytes,
            limit_bytes,
        }
    }

    /// Storages of the operands of the expression, and of the result.
    pub(super) fn outer_storages(&self) -> impl Iterator<Item = Storage> + '_ {
        let args = self.epilogue.iter().flat_map(|e| &e.key.args).map(|arg| arg.storage);
        args.chain(storage(self.result))
    }

    /// What a tuning table calls the epilogue: `wide` where it reads another tensor of the result's size, else `plain`.
    pub(super) fn epilogue_class(&self) -> &'static str {
        let mut args = self.epilogue.iter().flat_map(|e| &e.key.args);
        if args.any(|arg| matches!(arg.load, Load::Same)) { "wide" } else { "plain" }
    }

    /// Whether the result may have values that no operand has.
    pub(super) fn rounds(&self) -> bool {
        let same = |v: &ValueId| self.graph.ty(*v).dtype == self.result.dtype;
        self.epilogue.as_ref().is_some_and(|e| e.key.text != "x0" || !e.args.iter().all(|(v, _)| same(v)))
            || !self.own.iter().take(1).flatten().all(same)
    }

    /// Whether its images have their channels last.
    pub(super) fn has_channels_last(&self) -> bool {
        self.attrs.str("layout") == Some("nhwc")
    }

    /// The integers of an attribute.
    pub(super) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attrs.ints(name).map(<[i64]>::to_vec).or_else(|| self.attrs.int(name).map(|v| vec![v]))
    }

    /// The sizes of an attribute.
    pub(super) fn sizes(&self, name: &str) -> Option<Vec<Dim>> {
        dims_attr(self.attrs, name)
    }

    /// The elements of the result.
    pub(super) fn n(&self) -> Dim {
        product(&self.dims)
    }

    /// A call of a template.
    pub(super) fn call<T: Kernel>(&self, _: T) -> Call<'_, T> {
        Call::of(self.draft(T::TEMPLATE))
    }

    fn draft(&self, template: Template) -> Draft<'_> {
        Draft {
            node: self,
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
}

/// The value that is the magnitude of another, where a node asks for it.
fn magnitude_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let asks = |id: NodeId| graph.node(id).op().is_some_and(|op| op.is(&quantize_packed::MAGNITUDE));
    graph.users(value).into_iter().map(|(user, _)| user).find(|user| asks(*user)).map(|id| id.out(0))
}

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

/// What an operator makes of its first operand, before the epilogue: as a rule what that is.
fn made_of(op: &Op, first: &TensorType) -> Value {
    if op.is(&quantize_packed::MAGNITUDE) {
        return Value::Int;
    }
    // Indices that were checked may need fewer bits.
    match Rule::of(&op.attrs) {
        Ok(rule) if op.is(&check_indices::DEF) => {
            class_of(&TensorType::new(rule.dtype(first.dtype), first.shape.clone()))
        }
        _ => class_of(first),
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

impl Draft<'_> {
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
        self.params.insert(name.to_owned(), (ParamType::Uint, value.into()));
        self
    }

    fn float(mut self, name: &str, value: f32) -> Self {
        self.params.insert(name.to_owned(), (ParamType::Float, u64::from(value.to_bits()).into()));
        self
    }

    /// The call of `n_groups` workgroups.
    pub(super) fn workgroups(mut self, n_groups: impl Into<Dim>) -> Result<KernelCall, KernelError> {
        let node = self.node;
        let mut expr = None;
        if self.with_epilogue
            && let Some(epilogue) = &node.epilogue
        {
            let mut key: ExprKey = epilogue.key.clone();
            if self.vector > 1 {
                let runs = epilogue.runs(self.vector);
                key.args.iter_mut().zip(runs).for_each(|(arg, run)| arg.run = run);
            }
            for (i, (value, numbers)) in epilogue.args.iter().enumerate() {
                let number = i + key.first_arg();
                for (name, value) in epilogue.param_names(i, number).iter().zip(numbers) {
                    self = self.uint(name, value.clone());
                }
                let bytes = most_device_bytes(node.graph.ty(*value)).unwrap_or(u64::MAX);
                self.bindings.push(Operand { value: *value, offset_bytes: 0, bytes, write: false });
            }
            for (i, number) in &epilogue.numbers {
                self = self.float(&format!("x{i}"), *number);
            }
            let numbers = std::iter::repeat_n(Value::Float, key.n_numbers);
            let operands: Vec<Class> = key
                .own
                .into_iter()
                .chain(key.args.iter().map(|arg| arg.value))
                .chain(numbers)
                .map(|value| match value {
                    Value::Float => Class::Float,
                    Value::Int | Value::Wide => Class::Int,
                    Value::Bool => Class::Bool,
                })
                .collect();
            let times = Expr::parse(&key.text).map(|expr| loops_of(&expr, &operands)).unwrap_or_default();
            expr = Some(key);
            self.loops.extend(times.into_iter().map(|times| Loop { entries: self.puts, times, in_epilogue: true }));
        }
        let result = storage(node.result).unwrap_or(Storage::F32);
        let result_bytes = most_device_bytes(node.result).unwrap_or(u64::MAX);
        self.bindings.push(Operand { value: node.value, offset_bytes: 0, bytes: result_bytes, write: true });
        if self.template.table().flags.iter().any(|(flag, _)| *flag == Flag::Notes) {
            // Of the values as they are stored: rounding to f16 on the way differs between devices.
            let noted = node.notes.filter(|_| result == Storage::F32);
            self.flags.insert(Flag::Notes, u32::from(noted.is_some()));
            if let Some(value) = noted {
                self.bindings.push(Operand { value, offset_bytes: 0, bytes: 4, write: true });
            }
        }
        let mut literals = BTreeMap::new();
        if self.template.table().literals {
            let known = |(name, (ty, value)): (&String, &(ParamType, Dim))| {
                let word = value.known().filter(|_| *ty != ParamType::Float)?;
                // What does not fit is refused with the others.
                let fits =
                    if *ty == ParamType::Int { i32::try_from(word).is_ok() } else { u32::try_from(word).is_ok() };
                fits.then(|| (name.clone(), word as u32))
            };
            literals = self.params.iter().filter_map(known).collect();
            self.params.retain(|name, _| !literals.contains_key(name));
        }
        let key = KernelKey {
            literals,
            template: self.template,
            operands: self.operands,
            expr,
            result,
            flags: self.flags,
            tile: self.tile,
            variant: self.variant,
        };
        let mismatch = |what: String| KernelError::Mismatch { node: node.name.to_owned(), kernel: key.name(), what };
        if let Some(fault) = key.fault() {
            return Err(mismatch(fault));
        }
        let limits = &node.target.limits;
        for binding in &self.bindings {
            if binding.bytes > limits.max_storage_buffer_range {
                return Err(node.too_large(binding.value, binding.bytes));
            }
            if binding.bytes == 0 {
                return Err(node.unsupported(format!("the empty operand {}", node.graph.value(binding.value).name)));
            }
        }
        let (n_buffers, most) = (key.n_buffers(), limits.max_per_stage_descriptor_storage_buffers);
        if n_buffers > most as usize {
            return Err(node.unsupported(format!("{n_buffers} storage buffers where the target has {most}")));
        }
        let params = block(&key, &mut self.params).map_err(mismatch)?;
        let Some(params) = params else { return Err(node.unsupported("a size beyond 32 bits")) };
        let (params_bytes, most) = (4 * params.len() as u64, limits.max_uniform_buffer_range);
        if params_bytes > most {
            return Err(node.unsupported(format!("parameters of {params_bytes} bytes where the target has {most}")));
        }
        let n_groups = n_groups.into();
        let groups = groups(&n_groups).ok_or_else(|| node.unsupported(format!("{n_groups} workgroups")))?;
        let call = KernelCall {
            key,
            operands: self.bindings,
            params,
            groups,
            check: None,
            stripe: None,
            alternative: None,
            loops: self.loops,
        };
        match limits.max_loop_iterations {
            Some(limit) if call.loop_iterations() > limit => Err(node.unsupported(format!(
                "{} loop iterations of {} where the target runs {limit}",
                call.loop_iterations(),
                call.key.name()
            ))),
            _ => Ok(call),
        }
    }
}

/// Bits of the widest integers: a quotient is found bit by bit where a device has no such integers.
pub(super) const WIDE_BITS: u64 = 64;
/// The most that a size can be.
pub(super) fn most(dim: &Dim) -> u64 {
    dim.most().map_or(u64::MAX, |n| u64::try_from(n).unwrap_or(0))
}

/// How often the bodies of loops run that the device's code of an expression has (`shaders/include/maths.glsl`,
/// `expr.glsl`, `wide.glsl`), whatever the operands.
fn loops_of(expr: &Expr, operands: &[Class]) -> Vec<u64> {
    use Binary::{Div, Fmod, Mod, Pow, UDiv, UMod};
    let mut times = Vec::new();
    expr.visit(&mut |part| {
        let Expr::Binary(function, a, _) = part else { return };
        match (function, a.class(operands)) {
            // 8 bits of a quotient of at most 2^254 at a time.
            (Fmod | Mod, Ok(Class::Float)) => times.push(32),
            // A bit of a quotient or an exponent at a time.
            (Div | Mod | Fmod | UDiv | UMod | Pow, Ok(Class::Int)) => times.push(WIDE_BITS),
            _ => {}
        }
    });
    times
}

/// The uniform block: every parameter of the key exactly once, words or expressions of sizes that are words. `None`
/// where a value does not fit in 32 bits.
fn block(key: &KernelKey, given: &mut BTreeMap<String, (ParamType, Dim)>) -> Result<Option<Vec<Dim>>, String> {
    let mut words = Vec::new();
    let mut fits = true;
    for param in key.params() {
        let (ty, value) = given.remove(&param.name).ok_or_else(|| format!("parameter {} is missing", param.name))?;
        if ty != param.ty {
            return Err(format!("parameter {} is {}, not {}", param.name, param.ty.glsl(), ty.glsl()));
        }
        let (low, high) = value.bounds();
        let (least, most) =
            if ty == ParamType::Int { (i64::from(i32::MIN), i64::from(i32::MAX)) } else { (0, i64::from(u32::MAX)) };
        // What a size can be at least is known loosely; the largest is what makes numbers overflow.
        fits &= high <= most && (low >= least || value.known().is_none());
        words.push(value.known().map_or(value, |word| Dim::Known(i64::from(word as u32))));
    }
    if let Some(name) = given.keys().next() {
        return Err(format!("no parameter is named {name}"));
    }
    // The size of a uniform block is rounded up to 16 bytes.
    words.resize(words.len().next_multiple_of(4), Dim::Known(0));
    Ok(fits.then_some(words))
}
