//! Removes what only hands a value on.
//!
//! Looks for Identity, Dropout (inference), Cast to the type that the value has, or had before a Cast to a type that
//! holds it, Reshape to its shape and a Transpose that moves no axis; consumers read the operand instead. Equal because
//! the result is the operand. Refuses a Dropout whose mask is used, and Casts once nodes have formats, since types then
//! say how values are stored.

use super::{Context, Pass, PassError};
use crate::ir::{Edit, Graph, NodeId, Patch, ValueId};

/// The pass.
pub struct RemoveIdentities;

impl Pass for RemoveIdentities {
    fn name(&self) -> &str {
        "remove_identities"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            if let Some(source) = cast_back(graph, id) {
                edit.replace(id.out(0), source.into());
                continue;
            }
            if !hands_on(graph, id, cx) {
                continue;
            }
            if let Some(Some(operand)) = graph.operands(id).first() {
                edit.replace(id.out(0), (*operand).into());
            }
        }
        Ok(edit.finish())
    }
}

/// What a Cast reads that goes back to the type before a Cast which lost nothing.
fn cast_back(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let read = |id: NodeId| {
        let node = graph.node(id);
        let is_cast = node.format.is_none() && node.op().is_some_and(|op| op.def.name == "cast");
        graph.operands(id).first().copied().flatten().filter(|_| is_cast)
    };
    let widened = read(id)?;
    let source = read(widened.node)?;
    let (from, between, to) = (graph.ty(source).dtype, graph.ty(widened).dtype, graph.ty(id.out(0)).dtype);
    (to == from && from.is_float() && between.holds(from)).then_some(source)
}

fn hands_on(graph: &Graph, id: NodeId, cx: &mut Context<'_>) -> bool {
    let node = graph.node(id);
    let (Some(op), Some(Some(operand))) = (node.op(), graph.operands(id).first().copied()) else { return false };
    let same_type = *graph.ty(operand) == node.outputs[0].ty;
    match op.def.name {
        "identity" => true,
        "dropout" => {
            // At inference it hands on; an operand that says so is a constant.
            let training = graph.operands(id).get(2).copied().flatten();
            if training.is_some_and(|v| graph.constant(v).and_then(|t| t.to_i64s().ok()).is_none_or(|t| t != [0])) {
                return false;
            }
            let unused =
                (1..node.outputs.len()).all(|out| graph.users(id.out(out)).is_empty() && !graph.is_output(id.out(out)));
            if !unused {
                cx.explain.note(&[&node.name], "remove_identities", "dropout", || "its mask is used".to_owned());
            }
            unused
        }
        "cast" => same_type && node.format.is_none(),
        "reshape" | "squeeze" | "unsqueeze" | "flatten" | "expand" => same_type,
        "transpose" => {
            same_type && op.attrs.ints("perm").is_some_and(|p| p.iter().enumerate().all(|(i, &axis)| i as i64 == axis))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    #[test]
    fn what_only_hands_on_goes() {
        let text = "graph g onnx
  %x = input : f32[2,3]
  %shape = const [2,3] : i64[2]
  %a = identity(%x) : f32[2,3]
  %b = cast(%a) {to=f32} : f32[2,3]
  %c, %mask = dropout(%b) : f32[2,3], bool[2,3]
  %d = reshape(%c, %shape) : f32[2,3]
  %e = transpose(%d) {perm=[0,1]} : f32[2,3]
  %y = neg(%e) : f32[2,3]
  output %y
";
        let after = check("remove_identities", text, "chain");
        assert!(after.to_string().contains("%y = neg(%x)"));
        assert_eq!(after.order().iter().filter(|id| after.node(**id).op().is_some()).count(), 1);
    }

    #[test]
    fn a_cast_back_goes_where_nothing_was_lost_and_types_are_the_models() {
        let text = "graph g onnx
  %x = input : f16[2]
  %w = cast(%x) {to=f32} : f32[2]
  %n = cast(%w) {to=f16} : f16[2]
  %y = neg(%n) : f16[2]
  output %y
";
        assert!(check("remove_identities", text, "cast_back").to_string().contains("%y = neg(%x)"));
        stays("remove_identities", &text.replace("f32", "bf16"));
        stays("remove_identities", &text.replace("} :", "} @f32 :"));
    }

    #[test]
    fn a_mask_that_is_used_and_what_moves_or_converts_stay() {
        let text = "graph g onnx
  %x = input : f32[2,2]
  %a, %mask = dropout(%x) : f32[2,2], bool[2,2]
  %h = cast(%a) {to=f16} : f16[2,2]
  %y = transpose(%h) {perm=[1,0]} : f16[2,2]
  output %y
  output %mask
";
        stays("remove_identities", text);
    }
}
