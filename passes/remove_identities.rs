//! Removes what only hands a value on.
//!
//! Looks for Identity, Dropout (inference), Cast to the type that the value has, Reshape to its shape and a Transpose that moves no axis; consumers
//! read the operand instead. Equal because the result is the operand. Refuses a Dropout whose mask is used.

use super::{Context, Pass, PassError};
use crate::ir::{Edit, Graph, NodeId, Patch};

/// The pass.
pub struct RemoveIdentities;

impl Pass for RemoveIdentities {
    fn name(&self) -> &str {
        "remove_identities"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        for id in graph.order() {
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

fn hands_on(graph: &Graph, id: NodeId, cx: &mut Context<'_>) -> bool {
    let node = graph.node(id);
    let (Some(op), Some(Some(operand))) = (node.op(), graph.operands(id).first().copied()) else { return false };
    let same_type = *graph.ty(operand) == node.outputs[0].ty;
    match op.def.name {
        "identity" => true,
        "dropout" => {
            let unused = (1..node.outputs.len()).all(|out| graph.users(id.out(out)).is_empty() && !graph.is_output(id.out(out)));
            if !unused {
                cx.explain.note(&[&node.name], "remove_identities", "dropout", || "its mask is used".to_owned());
            }
            unused
        }
        "cast" | "reshape" | "squeeze" | "unsqueeze" | "flatten" | "expand" => same_type,
        "transpose" => same_type && op.attrs.ints("perm").is_some_and(|p| p.iter().enumerate().all(|(i, &axis)| i as i64 == axis)),
        _ => false,
    }
}
