//! Cancels casts that undo each other.
//!
//! Looks for a Cast or `store` between float types whose operand is such a node. Where the first one widened, the
//! second reads its operand directly; a `store` to the type one started from goes away altogether. Equal because
//! widening is exact, so that the second rounds the same values. Refuses where the first narrowed, or went from a type
//! to itself: what it rounded away does not come back. Such a Cast stays too, for the type may be how a format stores
//! the value, and not what the model made of it.

use super::{Context, Pass, PassError, at};
use crate::ir::{Edit, Graph, NodeId, OpError, Patch, ValueId};
use std::collections::BTreeMap;

/// The pass.
pub struct CancelQdq;

impl Pass for CancelQdq {
    fn name(&self) -> &str {
        "cancel_qdq"
    }

    fn repeats(&self) -> bool {
        true
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        let mut cancelled: BTreeMap<ValueId, ()> = BTreeMap::new();
        for id in graph.order() {
            let Some(inner_value) = cast_operand(graph, id) else { continue };
            let Some(source) = cast_operand(graph, inner_value.node) else { continue };
            if cancelled.contains_key(&inner_value) {
                continue;
            }
            let (from, middle, to) =
                (graph.ty(source).dtype, graph.ty(inner_value).dtype, graph.node(id).outputs[0].ty.dtype);
            if middle == from || !middle.holds(from) {
                cx.explain.note(&[&graph.node(id).name], "cancel_qdq", "cancel", || {
                    format!("the cast before it rounds {from} to {middle}")
                });
                continue;
            }
            let is_store = graph.node(id).op().is_some_and(|op| op.is(&crate::ops::core::store::DEF));
            if to == from && is_store {
                edit.replace(id.out(0), source.into());
            } else if let Some(op) = graph.node(id).op() {
                edit.on_behalf_of(id);
                let cast = edit
                    .add(op.clone(), &[source.into()])
                    .map_err(|e| at(&graph.node(id).name)(OpError::Edit(Box::new(e))))?;
                edit.replace(id.out(0), cast);
            }
            cancelled.insert(id.out(0), ());
        }
        Ok(edit.finish())
    }
}

/// The operand of a Cast or `store` between float types.
fn cast_operand(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let node = graph.node(id);
    let operand = (*graph.operands(id).first()?)?;
    let is_cast = matches!(node.op()?.def.name, "cast" | "store")
        && node.outputs[0].ty.dtype.is_float()
        && graph.ty(operand).dtype.is_float();
    is_cast.then_some(operand)
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    #[test]
    fn widening_and_back_goes_away() {
        let text = "graph g onnx
  %x = input : f16[2]
  %w = cast(%x) {to=f32} : f32[2]
  %n = store(%w) {dtype=f16} : f16[2]
  %y = neg(%n) : f16[2]
  output %y
";
        let after = check("cancel_qdq", text, "widening");
        assert!(after.to_string().contains("%y = neg(%x)"));
    }

    #[test]
    fn a_cast_of_what_was_widened_to_be_read_rounds_what_was_stored() {
        let text = "graph g onnx
  %x = input : f16[2]
  %w = store(%x) {dtype=f32} : f32[2]
  %b = cast(%w) {to=bf16} : bf16[2]
  %h = cast(%w) {to=f16} : f16[2]
  %s = store(%w) {dtype=f16} : f16[2]
  output %b
  output %h
  output %s
";
        let after = check("cancel_qdq", text, "stores").to_string();
        assert!(after.contains("%b = cast(%x) {to=bf16}") && after.contains("%h = cast(%x) {to=f16}"), "{after}");
        assert!(!after.contains("store"), "{after}");
    }

    #[test]
    fn narrowing_and_back_stays() {
        let text = "graph g onnx
  %x = input : f32[2]
  %n = cast(%x) {to=f16} : f16[2]
  %w = cast(%n) {to=f32} : f32[2]
  output %w
";
        stays("cancel_qdq", text);
    }
}
