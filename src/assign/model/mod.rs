//! What assignment sees: the program to come, with the formats still open.
//!
//! The graph is lowered once without formats. That gives the kernels, their order and their buffers, which do not
//! depend on formats: whatever float type but f64 the model has, a format says how it is stored. Imported nodes that
//! end up in one kernel, that view each other's results or share weights form a group, which has one format
//! (`grouping`). What a format of a group takes is taken to add up (`bytes`): that gives the solver its rows and
//! prices. It is no promise. An assignment is counted by laying out the graph that it lowers to ([`super::budget`]).

mod bytes;
mod grouping;

use crate::ir::{DType, Graph, NodeId, NodeKind, Tensor, TensorType, ValueId};
use crate::ops::weights;
use crate::plan::arena::Buffer;
use crate::plan::build::state_bytes;
use crate::plan::memory::Buffers;
use crate::plan::{PlanError, round_up};
use crate::targets::Target;
use grouping::Grouping;
use std::collections::BTreeSet;

pub use grouping::has_floats;

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
    /// Buffers whose size follows the format: index in [`LinearModel::buffers`] and elements.
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
}

/// A program to come as groups whose bytes add up.
#[derive(Clone, Debug)]
pub struct LinearModel {
    /// Groups, in order of their first node.
    pub groups: Vec<Group>,
    /// Buffers with every format f32.
    buffers: Vec<Buffer>,
    /// Steps of the schedule.
    n_steps: usize,
    /// Bytes of constants that no format changes.
    fixed_constants: u64,
    /// Bytes of parameters.
    params_bytes: u64,
    /// Bytes of states, their allocations rounded.
    states_bytes: u64,
    alignment: u64,
}

impl LinearModel {
    /// The model of `graph`, of the ONNX level, that lowers to `kernels`, of the kernel level, with `params_bytes`
    /// bytes of parameters.
    ///
    /// # Errors
    /// The kernels cannot be planned.
    pub fn of(graph: &Graph, kernels: &Graph, params_bytes: u64, target: &Target) -> Result<LinearModel, PlanError> {
        let planned = Buffers::best(kernels, target)?;
        let mut grouping = Grouping::of(graph, kernels, &planned);
        let mut model = LinearModel {
            groups: grouping.groups(graph),
            buffers: planned.arena(),
            n_steps: planned.order.len(),
            fixed_constants: 0,
            params_bytes,
            states_bytes: state_bytes(kernels, target)?,
            alignment: target.alignment(),
        };
        model.place_buffers(graph, kernels, &planned, &mut grouping);
        model.place_constants(kernels, &planned, &mut grouping);
        Ok(model)
    }

    /// Finds out whose formats decide the size of each buffer.
    fn place_buffers(&mut self, graph: &Graph, kernels: &Graph, planned: &Buffers, grouping: &mut Grouping) {
        let results = grouping::results(graph, kernels, planned);
        let outputs: BTreeSet<ValueId> =
            kernels.outputs().iter().filter_map(|o| planned.root.get(&o.value).copied()).collect();
        for (i, live) in planned.live.iter().enumerate().filter(|(_, live)| results.contains(&live.value)) {
            let ty = kernels.ty(live.value);
            // What an output needs is stored as the model has it.
            let follows = grouping::is_float(ty) && !outputs.contains(&live.value);
            if let (Some(group), true) = (grouping.owner(live.value.node), follows) {
                self.groups[group].stored.push((i, ty.shape.most_elems().unwrap_or(0)));
            }
        }
    }

    /// Finds out whose formats decide the size of each constant.
    fn place_constants(&mut self, kernels: &Graph, planned: &Buffers, grouping: &mut Grouping) {
        let root = |value: ValueId| planned.root.get(&value).copied().unwrap_or(value);
        let mut read_in_groups = Vec::new();
        // Constants that are counted, by whether a group reads them.
        let mut counted: BTreeSet<(ValueId, bool)> = BTreeSet::new();
        for (step, &id) in planned.order.iter().enumerate() {
            let operands = kernels.operands(id);
            for (slot, operand) in operands.iter().enumerate() {
                let Some(value) = operand.map(root) else { continue };
                let NodeKind::Const(tensor) = &kernels.node(value.node).kind else { continue };
                let group = grouping.owner(id);
                if let Some(g) = group.filter(|g| self.reads_weights(kernels, id, slot, tensor, *g)) {
                    self.read_weights(kernels, id, (step, slot), g);
                    continue;
                }
                let group = group.filter(|_| grouping::is_float(tensor.ty()));
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
        for value in kernels.outputs().iter().map(|output| root(output.value)) {
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

    /// Whether an operand is weights of the group of its kernel. Those that are packed already keep their own
    /// quantization: no format changes them.
    fn reads_weights(&self, kernels: &Graph, id: NodeId, slot: usize, tensor: &Tensor, group: usize) -> bool {
        let n_operands = kernels.operands(id).len();
        let is_slot = kernels.node(id).op().is_some_and(|op| weights::is_slot(op, slot, n_operands));
        is_slot && tensor.ty().packing.is_none() && !self.groups[group].weights.is_empty()
    }

    /// Notes that a kernel, which runs in `step`, reads weights of a group in `slot`.
    fn read_weights(&mut self, kernels: &Graph, id: NodeId, (step, slot): (usize, usize), group: usize) {
        let group = &mut self.groups[group];
        group.n_readers += 1;
        if let (1, Some(Some(x)), Some(op)) = (slot, kernels.operands(id).first(), kernels.node(id).op()) {
            let is_shared = op.weights().is_some_and(|w| w.shares_scale_of_activations());
            group.products.push((step, kernels.ty(*x).clone(), is_shared));
        }
    }

    /// Counts a constant that no format changes. Even one without elements takes a place.
    fn fix(&mut self, tensor: &Tensor) {
        let bytes = crate::kernels::device_bytes(tensor.ty()).unwrap_or(0).max(4);
        self.fixed_constants = self.fixed_constants.saturating_add(round_up(bytes, self.alignment));
    }
}
