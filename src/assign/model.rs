//! What assignment sees: the program to come, with the formats still open.
//!
//! The graph is lowered once without formats. That gives the kernels, their order and their buffers, which do not
//! depend on formats: whatever float type but f64 the model has, a format says how it is stored. Imported nodes that
//! end up in one kernel, that view each other's results or share weights form a group, which has one format.

use super::solve::Run;
use crate::ir::packed::{Granularity, Packing, ScaleType};
use crate::ir::{Activations, DType, Format, Graph, NodeId, NodeKind, Tensor, TensorType, ValueId, Weights};
use crate::ops::weights;
use crate::plan::arena::{ArenaLimits, Buffer, plan};
use crate::plan::build::{PARAMS_SLOT_BYTES, state_bytes};
use crate::plan::memory::{Buffers, is_view};
use crate::plan::{PlanError, allocation_bytes, round_up};
use crate::targets::Target;
use std::collections::{BTreeMap, BTreeSet};

/// Matrices of at least so many bytes in f32 may be split.
const SPLIT_BYTES: u64 = 256 << 10;

/// Nodes that share a format.
#[derive(Clone, Debug, Default)]
pub struct Group {
    /// The imported nodes, in order.
    pub nodes: Vec<NodeId>,
    /// Their weights that can be quantized, each constant once.
    pub weights: Vec<weights::Weights>,
    /// Other float constants of their kernels.
    pub constants: Vec<Constant>,
    /// Elements of float constants that nodes without a format read too, in their own type, and that are stored as f16
    /// as well under formats of f16.
    copies: Vec<u64>,
    /// Buffers whose size follows the format: index in [`Model::buffers`] and elements.
    stored: Vec<(usize, u64)>,
    /// Kernels that read its weights.
    n_readers: usize,
    /// Kernels with weights whose activations could be quantized: step, shape of the activations, whether one scale
    /// serves all.
    products: Vec<(usize, TensorType, bool)>,
}

/// A float constant that is no node's weights.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// Its elements.
    pub n_elems: u64,
    /// Bytes of one under formats of f32.
    pub wide_bytes: u64,
    /// Bytes of one under formats of f16.
    pub narrow_bytes: u64,
}

impl Constant {
    fn of(tensor: &Tensor) -> Constant {
        let wide_bytes = if tensor.dtype() == DType::F16 { 2 } else { 4 };
        let narrow_bytes = if weights::narrows(tensor) { 2 } else { wide_bytes };
        Constant { n_elems: tensor.ty().shape.n_elems().unwrap_or(0).max(1), wide_bytes, narrow_bytes }
    }

    fn bytes(self, is_f16: bool) -> u64 {
        self.n_elems.saturating_mul(if is_f16 { self.narrow_bytes } else { self.wide_bytes })
    }
}

/// The model of a program to come.
#[derive(Clone, Debug)]
pub struct Model {
    /// Groups, in order of their first node.
    pub groups: Vec<Group>,
    /// The group of each imported node that has one.
    pub group_of: BTreeMap<NodeId, usize>,
    /// Buffers with every format f32.
    buffers: Vec<Buffer>,
    /// Steps of the schedule.
    pub n_steps: usize,
    /// Bytes of constants that no format changes.
    fixed_constants: u64,
    /// Bytes of parameters, before they are rounded to an allocation.
    params_bytes: u64,
    /// Bytes of states, their allocations rounded.
    states_bytes: u64,
    alignment: u64,
}

/// Planned bytes of one assignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// All of it.
    pub peak_bytes: u64,
    /// The arena.
    pub arena_bytes: u64,
    /// Max-live of the arena.
    pub max_live_bytes: u64,
}

impl Model {
    /// The model of `graph`, of the ONNX level, that lowers to `kernels`, of the kernel level, with `params_bytes`
    /// bytes of parameters.
    ///
    /// # Errors
    /// The kernels cannot be planned.
    pub fn of(graph: &Graph, kernels: &Graph, params_bytes: u64, target: &Target) -> Result<Model, PlanError> {
        let planned = Buffers::best(kernels, target)?;
        let by_name: BTreeMap<&str, NodeId> = graph
            .order()
            .into_iter()
            .filter(|id| graph.node(*id).op().is_some())
            .map(|id| (graph.node(id).name.as_str(), id))
            .collect();
        let mut sets = Sets::default();
        let mut kernel_sets: BTreeMap<NodeId, NodeId> = BTreeMap::new();
        for &id in &planned.order {
            let node = kernels.node(id);
            if node.op().is_none() {
                continue;
            }
            let mut members: Vec<NodeId> =
                node.origins().iter().filter_map(|name| by_name.get(name.as_str()).copied()).collect();
            if is_view(kernels, id)
                && let Some(base) = planned.root.get(&id.out(0))
            {
                members.extend(kernel_sets.get(&base.node));
            }
            // What has no float result has no format: it reads constants as the model has them.
            members.retain(|m| has_floats(graph, *m));
            let Some(&first) = members.first() else { continue };
            members.iter().for_each(|m| sets.join(first, *m));
            kernel_sets.insert(id, first);
        }
        // Kernels that read one constant whose type follows their format read it in one type: a copy in another would
        // be bytes that nobody planned.
        let mut readers: BTreeMap<ValueId, NodeId> = BTreeMap::new();
        for (&id, &first) in &kernel_sets {
            for value in kernels.operands(id).into_iter().flatten() {
                let value = planned.root.get(&value).copied().unwrap_or(value);
                if kernels.constant(value).is_some_and(weights::narrows) {
                    let reader = *readers.entry(value).or_insert(first);
                    sets.join(reader, first);
                }
            }
        }
        let mut by_constant: BTreeMap<ValueId, NodeId> = BTreeMap::new();
        for id in graph.order() {
            if let Some(found) = weights::of(graph, id) {
                let first = *by_constant.entry(found.value).or_insert(id);
                sets.join(first, id);
                // What turns them for one reader alone: cast apart from the others', they would be stored again.
                weights::views(graph, id).into_iter().for_each(|view| sets.join(first, view));
            }
        }
        let mut model = Model {
            groups: Vec::new(),
            group_of: BTreeMap::new(),
            buffers: planned.arena(),
            n_steps: planned.order.len(),
            fixed_constants: 0,
            params_bytes,
            states_bytes: state_bytes(kernels, target)?,
            alignment: target.alignment(),
        };
        let mut index: BTreeMap<NodeId, usize> = BTreeMap::new();
        for id in graph.order() {
            if graph.node(id).op().is_none() || !has_floats(graph, id) {
                continue;
            }
            let at = *index.entry(sets.find(id)).or_insert_with(|| {
                model.groups.push(Group::default());
                model.groups.len() - 1
            });
            model.group_of.insert(id, at);
            let group = &mut model.groups[at];
            group.nodes.push(id);
            if let Some(found) = weights::of(graph, id) {
                match group.weights.iter_mut().find(|w| (w.value, w.layout) == (found.value, found.layout)) {
                    Some(same) => {
                        same.has_products |= found.has_products;
                        same.has_own_rows &= found.has_own_rows;
                    }
                    None => group.weights.push(found),
                }
            }
        }
        model.place(graph, kernels, &planned, &kernel_sets, &mut sets, &index);
        Ok(model)
    }

    /// Finds out whose formats decide the size of each buffer and constant.
    fn place(
        &mut self,
        graph: &Graph,
        kernels: &Graph,
        planned: &Buffers,
        kernel_sets: &BTreeMap<NodeId, NodeId>,
        sets: &mut Sets,
        index: &BTreeMap<NodeId, usize>,
    ) {
        let mut owner = |id: NodeId| kernel_sets.get(&id).and_then(|first| index.get(&sets.find(*first)).copied());
        let results = results(graph, kernels, planned);
        for (i, live) in planned.live.iter().enumerate().filter(|(_, live)| results.contains(&live.value)) {
            let ty = kernels.ty(live.value);
            // What an output needs is stored as the model has it.
            let is_output = kernels.outputs().iter().any(|o| planned.root.get(&o.value) == Some(&live.value));
            if let (Some(group), true, false) = (owner(live.value.node), is_float(ty), is_output) {
                self.groups[group].stored.push((i, ty.shape.most_elems().unwrap_or(0)));
            }
        }
        let mut read_in_groups = Vec::new();
        // Constants that are counted, by whether a group reads them.
        let mut counted: BTreeSet<(ValueId, bool)> = BTreeSet::new();
        for (step, &id) in planned.order.iter().enumerate() {
            let Some(op) = kernels.node(id).op() else { continue };
            let operands = kernels.operands(id);
            for (slot, operand) in operands.iter().enumerate() {
                let Some(value) = operand.map(|v| planned.root.get(&v).copied().unwrap_or(v)) else { continue };
                let NodeKind::Const(tensor) = &kernels.node(value.node).kind else { continue };
                let group = owner(id);
                // Weights that are packed already keep their own quantization: no format changes them.
                if weights::is_slot(op, slot, operands.len())
                    && tensor.ty().packing.is_none()
                    && let Some(g) = group.filter(|g| !self.groups[*g].weights.is_empty())
                {
                    self.groups[g].n_readers += 1;
                    if let (1, Some(Some(x))) = (slot, operands.first()) {
                        self.groups[g].products.push((step, kernels.ty(*x).clone(), op.def.name == "conv"));
                    }
                    continue;
                }
                let group = group.filter(|_| is_float(tensor.ty()));
                if !counted.insert((value, group.is_some())) {
                    continue;
                }
                match group {
                    Some(g) => read_in_groups.push((value, g, Constant::of(tensor))),
                    None => self.fix(tensor),
                }
            }
        }
        // Outputs that are constants lie with the others, in the model's type.
        for output in kernels.outputs() {
            let value = planned.root.get(&output.value).copied().unwrap_or(output.value);
            if let (Some(tensor), true) = (kernels.constant(value), counted.insert((value, false))) {
                self.fix(tensor);
            }
        }
        for (value, g, constant) in read_in_groups {
            if !counted.contains(&(value, false)) {
                self.groups[g].constants.push(constant);
            } else if constant.narrow_bytes < constant.wide_bytes {
                self.groups[g].copies.push(constant.n_elems);
            }
        }
    }

    /// Counts a constant that no format changes. Even one without elements takes a place.
    fn fix(&mut self, tensor: &Tensor) {
        let bytes = crate::kernels::device_bytes(tensor.ty()).unwrap_or(0).max(4);
        self.fixed_constants = self.fixed_constants.saturating_add(round_up(bytes, self.alignment));
    }

    /// The rows of a group's one large matrix that products or look-ups read row by row, and so may be stored in
    /// different ways.
    pub fn splittable_rows(&self, group: usize) -> Option<usize> {
        match self.groups[group].weights[..] {
            [w] if w.has_own_rows && matrix_bytes(&w, w.n_rows, Weights::F32) >= SPLIT_BYTES => Some(w.n_rows),
            _ => None,
        }
    }

    /// Bytes of the parameters of the dispatches that `format` adds: those of further parts, and those that quantize
    /// activations.
    pub fn params_bytes(&self, group: usize, format: Format) -> u64 {
        let own = &self.groups[group];
        let parts = own.weights.first().map_or(1, |w| format.parts(w.n_rows).count());
        let quantizes = format.activations == Activations::I8 && format.has_int_weights();
        let dispatches = own.n_readers * parts.saturating_sub(1) + if quantizes { own.products.len() } else { 0 };
        dispatches as u64 * PARAMS_SLOT_BYTES
    }

    /// Bytes of a group's weights and constants under `format`.
    pub fn weight_bytes(&self, group: usize, format: Format) -> u64 {
        let group = &self.groups[group];
        let a16 = format.activations == Activations::F16;
        let part =
            |w: &weights::Weights, n_rows: usize, how: Weights| round_up(matrix_bytes(w, n_rows, how), self.alignment);
        let weights: u64 =
            group.weights.iter().map(|w| format.parts(w.n_rows).map(|(n, how)| part(w, n, how)).sum::<u64>()).sum();
        let copies = group.copies.iter().filter(|_| a16).map(|n| round_up(n.saturating_mul(2), self.alignment));
        let constants = group.constants.iter().map(|constant| round_up(constant.bytes(a16), self.alignment));
        weights + copies.sum::<u64>() + constants.sum::<u64>()
    }

    /// Bytes that a group's choice occupies in some steps, above what [`Model::base_rows`] has.
    pub fn row_bytes(&self, group: usize, format: Format) -> Vec<Run> {
        // Where they rise and fall: a buffer may live through the whole schedule.
        let mut steps: BTreeMap<usize, i128> = BTreeMap::new();
        for (_, buffer) in self.changed(group, format) {
            let bytes = i128::from(round_up(buffer.bytes, self.alignment));
            *steps.entry(buffer.first).or_insert(0) += bytes;
            *steps.entry(buffer.last + 1).or_insert(0) -= bytes;
        }
        let row = |step: usize| u32::try_from(step).unwrap_or(u32::MAX);
        let (mut runs, mut bytes, mut first): (Vec<Run>, i128, usize) = (Vec::new(), 0, 0);
        for (step, change) in steps.into_iter().filter(|(_, change)| *change != 0) {
            if bytes > 0 {
                runs.push(Run {
                    first: row(first),
                    last: row(step - 1),
                    bytes: u64::try_from(bytes).unwrap_or(u64::MAX),
                });
            }
            bytes += change;
            first = step;
        }
        runs
    }

    /// The buffers that a group's choice decides: index in the base buffers where it replaces one, and the buffer.
    fn changed(&self, group: usize, format: Format) -> Vec<(Option<usize>, Buffer)> {
        let group = &self.groups[group];
        let size = if format.activations == Activations::F16 { 2 } else { 4 };
        let mut buffers: Vec<_> = group
            .stored
            .iter()
            .map(|&(i, n)| (Some(i), Buffer { bytes: n.saturating_mul(size), ..self.buffers[i] }))
            .collect();
        if format.activations == Activations::I8 && format.has_int_weights() {
            for (step, ty, is_tensor) in &group.products {
                let packing = Packing::activation(if *is_tensor { Granularity::Tensor } else { Granularity::Row });
                let ty = TensorType { packing: Some(packing), ..ty.with_dtype(DType::I8) };
                let bytes = ty.largest().and_then(|ty| ty.bytes()).unwrap_or(0);
                buffers.push((None, Buffer { bytes, first: *step, last: *step }));
            }
        }
        buffers
    }

    /// Bytes in each step that no format changes: inputs, outputs, integers, constants, parameters, staging.
    pub fn base_rows(&self) -> Vec<u64> {
        let decided: std::collections::BTreeSet<usize> =
            self.groups.iter().flat_map(|g| g.stored.iter().map(|s| s.0)).collect();
        let mut steps = vec![0i128; self.n_steps.max(1) + 1];
        for (_, buffer) in self.buffers.iter().enumerate().filter(|(i, _)| !decided.contains(i)) {
            let bytes = i128::from(round_up(buffer.bytes, self.alignment));
            steps[buffer.first] += bytes;
            steps[buffer.last + 1] -= bytes;
        }
        let mut bytes =
            i128::from(self.fixed_constants.saturating_add(self.params_bytes).saturating_add(self.states_bytes));
        steps.pop();
        let row = |step| {
            bytes += step;
            u64::try_from(bytes).unwrap_or(u64::MAX)
        };
        steps.into_iter().map(row).collect()
    }

    /// What the assignment of `formats`, one a group, is planned to take.
    ///
    /// # Errors
    /// The arena cannot be planned.
    pub fn planned(&self, formats: &[Format], target: &Target, max_nodes: u64) -> Result<Planned, PlanError> {
        let mut buffers = self.buffers.clone();
        let mut weights = self.fixed_constants;
        for (group, &format) in formats.iter().enumerate() {
            weights = weights.checked_add(self.weight_bytes(group, format)).ok_or(PlanError::Overflow)?;
            for (index, buffer) in self.changed(group, format) {
                match index {
                    Some(i) => buffers[i] = buffer,
                    None => buffers.push(buffer),
                }
            }
        }
        let arena = plan(&buffers, &ArenaLimits { alignment: self.alignment, max_nodes })?;
        let params = formats
            .iter()
            .enumerate()
            .fold(self.params_bytes, |sum, (group, format)| sum.saturating_add(self.params_bytes(group, *format)));
        let arena_bytes = if buffers.is_empty() { 0 } else { arena.bytes.max(self.alignment) };
        let parts = [weights, arena_bytes, params].map(|bytes| allocation_bytes(bytes, target));
        let peak_bytes =
            parts.iter().try_fold(self.states_bytes, |sum, b| sum.checked_add(*b)).ok_or(PlanError::Overflow)?;
        Ok(Planned { peak_bytes, arena_bytes, max_live_bytes: arena.max_live })
    }
}

/// The values, each the root of its views, that are stored as formats say: what others read of a node. What lies
/// between the kernels of one node is f32 (`ops::widen`), be they of its expansion, or of a pass that put something
/// behind it.
fn results(graph: &Graph, kernels: &Graph, planned: &Buffers) -> BTreeSet<ValueId> {
    let nodes = graph.order().into_iter().map(|id| graph.node(id)).filter(|node| node.op().is_some());
    let named: BTreeMap<&str, &str> =
        nodes.flat_map(|node| node.outputs.iter().map(|v| (v.name.as_str(), node.name.as_str()))).collect();
    // The nodes whose value one is: that of its name, else those that its kernel is of.
    let mut of: BTreeMap<ValueId, Vec<&str>> = BTreeMap::new();
    let mut results = BTreeSet::new();
    for &id in &planned.order {
        let node = kernels.node(id);
        let own: Vec<&str> = node.origins().iter().map(String::as_str).collect();
        let operands = kernels.operands(id);
        let viewed = operands.first().copied().flatten().filter(|_| is_view(kernels, id));
        if node.op().is_some() && viewed.is_none() {
            let is_inner = |value: &ValueId| of.get(value).is_none_or(|of| of.iter().any(|name| own.contains(name)));
            let read = operands.iter().flatten().filter(|value| !is_inner(value));
            results.extend(read.map(|value| planned.root.get(value).copied().unwrap_or(*value)));
        }
        for (out, value) in node.outputs.iter().enumerate() {
            let origins = match (named.get(value.name.as_str()), viewed) {
                (Some(name), _) => vec![*name],
                (None, Some(viewed)) => of.get(&viewed).cloned().unwrap_or_default(),
                (None, None) => own.clone(),
            };
            of.insert(id.out(out), origins);
        }
    }
    results
}

/// Whether a node has a format: it has a result that formats say how to store. States are stored in their own types.
fn has_floats(graph: &Graph, id: NodeId) -> bool {
    graph.stored_over(id).is_none()
        && graph.node(id).outputs.iter().any(|v| is_float(&v.ty) && !v.ty.dtype.is_minifloat())
}

/// Whether formats say how such a tensor is stored. f64 is f64 under each.
fn is_float(ty: &TensorType) -> bool {
    ty.dtype.is_float() && ty.dtype != DType::F64 && ty.packing.is_none()
}

/// Bytes of some rows of a weight matrix as stored: in f32 as the model has them, at most; scales are counted as f16,
/// as nearly all are.
fn matrix_bytes(found: &weights::Weights, n_rows: usize, format: Weights) -> u64 {
    let (rows, cols) = (n_rows as u64, found.n_cols as u64);
    match format {
        Weights::F32 if found.dtype == DType::F32 => rows.saturating_mul(cols).saturating_mul(4),
        Weights::F32 => rows.saturating_mul(cols).saturating_mul(2),
        Weights::F16 => rows.saturating_mul(cols).saturating_mul(2),
        Weights::Int { bits, granularity } => {
            let granularity = match granularity {
                Granularity::Block(block) if u64::from(block) >= cols => Granularity::Row,
                other => other,
            };
            Packing { bits, granularity, scale: ScaleType::F16 }.packed_bytes(rows, cols).unwrap_or(u64::MAX)
        }
    }
}

/// Union-find over nodes; the smaller id stands for its set.
#[derive(Default)]
struct Sets(BTreeMap<NodeId, NodeId>);

impl Sets {
    fn find(&mut self, node: NodeId) -> NodeId {
        let mut root = node;
        while let Some(&parent) = self.0.get(&root)
            && parent != root
        {
            root = parent;
        }
        self.0.insert(node, root);
        root
    }

    fn join(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.find(a), self.find(b));
        self.0.insert(a.max(b), a.min(b));
    }
}
