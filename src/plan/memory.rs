//! Which values of a kernel-level graph need device memory, how much, and from which step to which.

use super::PlanError;
use super::arena::Buffer;
use crate::ir::{Graph, NodeId, NodeKind, Op, VIEW, ValueId, memory::lifetimes};
use crate::kernels::most_device_bytes;
use crate::ops::core::quantize_packed;
use crate::targets::Target;
use std::collections::BTreeMap;

/// What a buffer is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An input or output of the graph.
    Io,
    /// A value between kernels.
    Activation,
    /// Scratch: quantized activations with their scales.
    Workspace,
}

/// One buffer.
#[derive(Clone, Debug)]
pub struct Live {
    /// The value that is made in it. Views of it share it.
    pub value: ValueId,
    /// What it is for.
    pub kind: Kind,
    /// Size on the device and lifetime in steps.
    pub buffer: Buffer,
}

/// The buffers of a graph in one order.
#[derive(Clone, Debug)]
pub struct Buffers {
    /// Every node, in the order in which they run.
    pub order: Vec<NodeId>,
    /// What needs memory, in order of creation.
    pub live: Vec<Live>,
    /// For each value the one whose memory it has: itself but for views and stored states. What is in constants and
    /// states has no buffer.
    pub root: BTreeMap<ValueId, ValueId>,
}

/// The operand in whose memory the result of a node is: that of a view, and the version of a state that a store makes
/// another of.
pub fn lies_in(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let viewed = if is_view(graph, id) { graph.operands(id).first().copied().flatten() } else { None };
    viewed.or_else(|| graph.stored_over(id))
}

/// Whether a node only gives its operand another shape, or says what is made of it as it is loaded.
pub fn is_view(graph: &Graph, id: NodeId) -> bool {
    let is_on_load = |op: &Op| op.is(&quantize_packed::DEF) && op.attrs.int("on_load") == Some(1);
    graph.node(id).op().is_some_and(|op| op.def.name == VIEW || is_on_load(op))
}

/// The values that dispatches note behind all others, each a word.
pub fn noted(graph: &Graph) -> impl Iterator<Item = ValueId> + '_ {
    graph.order().into_iter().filter(|id| is_noted(graph, *id)).map(|id| id.out(0))
}

fn is_noted(graph: &Graph, id: NodeId) -> bool {
    graph.node(id).op().is_some_and(|op| op.is(&quantize_packed::MAGNITUDE))
}

impl Buffers {
    /// The buffers of `graph` when its nodes run in `order`.
    ///
    /// # Errors
    /// A size is symbolic, or no device stores a type.
    pub fn of(graph: &Graph, order: Vec<NodeId>) -> Result<Buffers, PlanError> {
        let lives = lifetimes(graph, &order);
        let definers = graph.size_definers();
        let mut root: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut index: BTreeMap<ValueId, usize> = BTreeMap::new();
        let mut live: Vec<Live> = Vec::new();
        for &id in &order {
            let node = graph.node(id);
            let source = lies_in(graph, id);
            for out in 0..node.outputs.len() {
                let value = id.out(out);
                let base = source.map_or(value, |source| *root.get(&source).unwrap_or(&source));
                root.insert(value, base);
                let kind = &graph.node(base.node).kind;
                if matches!(kind, NodeKind::Const(_) | NodeKind::State) || is_noted(graph, base.node) {
                    continue;
                }
                let Some(&(first, last)) = lives.get(&value) else { continue };
                let is_io = graph.is_output(value) || matches!(node.kind, NodeKind::Input);
                if let Some(&at) = index.get(&base) {
                    let shared = &mut live[at];
                    shared.buffer.last = shared.buffer.last.max(last);
                    if is_io {
                        shared.kind = Kind::Io;
                    }
                    continue;
                }
                let ty = graph.ty(value);
                // What data may make too small is seen by a run: nobody chooses their range.
                let chosen = ty.shape.0.iter().filter(|dim| {
                    let mut chosen = true;
                    dim.for_each_symbol(&mut |symbol| chosen &= !definers.contains_key(symbol.name()));
                    chosen
                });
                if let Some(least) =
                    chosen.filter_map(|dim| dim.exact_bounds()).map(|(low, _)| low).find(|low| *low < 0)
                {
                    return Err(PlanError::Negative {
                        value: graph.value(value).name.clone(),
                        ty: ty.to_string(),
                        least,
                    });
                }
                if ty.largest().is_none() {
                    return Err(PlanError::Symbolic { value: graph.value(value).name.clone(), ty: ty.to_string() });
                }
                let bytes = most_device_bytes(ty)
                    .ok_or_else(|| PlanError::Type { value: graph.value(value).name.clone(), ty: ty.to_string() })?;
                let kind = match ty.packing {
                    _ if is_io => Kind::Io,
                    Some(_) => Kind::Workspace,
                    None => Kind::Activation,
                };
                index.insert(base, live.len());
                live.push(Live { value, kind, buffer: Buffer { bytes, first, last } });
            }
        }
        Ok(Buffers { order, live, root })
    }

    /// The buffers in whichever of printing order and file order has the smaller max-live.
    ///
    /// # Errors
    /// As [`Buffers::of`].
    pub fn best(graph: &Graph, target: &Target) -> Result<Buffers, PlanError> {
        let orders = [graph.order(), graph.file_order()];
        let mut best: Option<(u64, Buffers)> = None;
        for order in orders {
            let buffers = Buffers::of(graph, order)?;
            let (bytes, _) = super::arena::max_live(&buffers.arena(), target.alignment())?;
            if best.as_ref().is_none_or(|(least, _)| bytes < *least) {
                best = Some((bytes, buffers));
            }
        }
        best.map(|(_, buffers)| buffers).ok_or(PlanError::Overflow)
    }

    /// Sizes and lifetimes alone.
    pub fn arena(&self) -> Vec<Buffer> {
        self.live.iter().map(|l| l.buffer).collect()
    }
}
