//! The node whose kernels are chosen.

use super::{Draft, MAX_ELEMS, class_of, dims};
use crate::ir::{Activations, Attrs, Dim, Expr, Graph, NodeId, Op, TensorType, ValueId, product};
use crate::kernels::choice::Asked;
use crate::kernels::epilogue::Epilogue;
use crate::kernels::key::{Load, Storage, Value};
use crate::kernels::settings::{Call, Kernel};
use crate::kernels::{KernelError, storage};
use crate::ops::core::check_indices::{self, Rule};
use crate::ops::core::quantize_packed;
use crate::ops::util::dims_attr;
use crate::targets::Target;

/// The node at hand.
pub(in crate::kernels) struct Node<'a> {
    pub(in crate::kernels) graph: &'a Graph,
    pub(in crate::kernels) target: &'a Target,
    pub(in crate::kernels) attrs: &'a Attrs,
    pub(in crate::kernels) name: &'a str,
    /// What the node's format says of activations. Formats were made real before, but for one thing that no type says:
    /// whether packed weights may be rounded to f16 to be multiplied (`Draft::half`, `mma::Operands`). Codes and scales
    /// are the same under a16 and a32; x is f16 where its own producer's format is; and a result may be f32 under a16,
    /// as an output or for its range.
    pub(in crate::kernels) activations: Option<Activations>,
    /// What is asked of choices among kernels.
    pub(in crate::kernels) asked: Asked,
    /// Own operands, `None` where an optional one is absent.
    pub(in crate::kernels) own: Vec<Option<ValueId>>,
    pub(in crate::kernels) value: ValueId,
    pub(in crate::kernels) result: &'a TensorType,
    /// Sizes of the result.
    pub(in crate::kernels) dims: Vec<Dim>,
    /// Where its kernels note the magnitude of the result, if somebody asks for it.
    pub(super) notes: Option<ValueId>,
    pub(super) epilogue: Option<Epilogue>,
}

impl<'a> Node<'a> {
    pub(in crate::kernels) fn new(
        graph: &'a Graph,
        id: NodeId,
        op: &'a Op,
        target: &'a Target,
    ) -> Result<Node<'a>, KernelError> {
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
    pub(in crate::kernels) fn operand(&self, slot: usize) -> Result<(ValueId, &'a TensorType), KernelError> {
        let value = self
            .own
            .get(slot)
            .copied()
            .flatten()
            .ok_or_else(|| self.unsupported(format!("an absent operand {slot}")))?;
        Ok((value, self.graph.ty(value)))
    }

    pub(in crate::kernels) fn unsupported(&self, what: impl Into<String>) -> KernelError {
        KernelError::Unsupported { node: self.name.to_owned(), what: what.into() }
    }

    pub(in crate::kernels) fn too_large(&self, value: ValueId, bytes: u64) -> KernelError {
        let limit_bytes = self.target.limits.max_storage_buffer_range;
        KernelError::TooLarge {
            node: self.name.to_owned(),
            value: self.graph.value(value).name.clone(),
            bytes,
            limit_bytes,
        }
    }

    /// Storages of the operands of the expression, and of the result.
    pub(in crate::kernels) fn outer_storages(&self) -> impl Iterator<Item = Storage> + '_ {
        let args = self.epilogue.iter().flat_map(|e| &e.key.args).map(|arg| arg.storage);
        args.chain(storage(self.result))
    }

    /// What a tuning table calls the epilogue: `wide` where it reads another tensor of the result's size, else `plain`.
    pub(in crate::kernels) fn epilogue_class(&self) -> &'static str {
        let mut args = self.epilogue.iter().flat_map(|e| &e.key.args);
        if args.any(|arg| matches!(arg.load, Load::Same)) { "wide" } else { "plain" }
    }

    /// Whether the result may have values that no operand has.
    pub(in crate::kernels) fn rounds(&self) -> bool {
        let same = |v: &ValueId| self.graph.ty(*v).dtype == self.result.dtype;
        self.epilogue.as_ref().is_some_and(|e| e.key.text != "x0" || !e.args.iter().all(|(v, _)| same(v)))
            || !self.own.iter().take(1).flatten().all(same)
    }

    /// Whether its images have their channels last.
    pub(in crate::kernels) fn has_channels_last(&self) -> bool {
        self.attrs.str("layout") == Some("nhwc")
    }

    /// The integers of an attribute.
    pub(in crate::kernels) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attrs.ints(name).map(<[i64]>::to_vec).or_else(|| self.attrs.int(name).map(|v| vec![v]))
    }

    /// The sizes of an attribute.
    pub(in crate::kernels) fn sizes(&self, name: &str) -> Option<Vec<Dim>> {
        dims_attr(self.attrs, name)
    }

    /// The elements of the result.
    pub(in crate::kernels) fn n(&self) -> Dim {
        product(&self.dims)
    }

    /// A call of a template.
    pub(in crate::kernels) fn call<T: Kernel>(&self, _: T) -> Call<'_, T> {
        Call::of(Draft::new(self, T::TEMPLATE))
    }
}

/// The value that is the magnitude of another, where a node asks for it.
fn magnitude_of(graph: &Graph, value: ValueId) -> Option<ValueId> {
    let asks = |id: NodeId| graph.node(id).op().is_some_and(|op| op.is(&quantize_packed::MAGNITUDE));
    graph.users(value).into_iter().map(|(user, _)| user).find(|user| asks(*user)).map(|id| id.out(0))
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
