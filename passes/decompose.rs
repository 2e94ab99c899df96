//! Writes every operator as core operators: from here on the graph is of the level `core`.
//!
//! Looks for operators that have an expansion and puts it in their place, again until only core operators are left. Equal because the expansion
//! is the operator's definition. An operator without expansion that may not stand at the core level is an error that names the node.

use super::{Context, Pass, PassError, at};
use crate::ir::{CORE, Edit, Graph, Level, OpError, Patch};
use crate::ops::expand_node;

/// The pass.
pub struct Decompose;

impl Pass for Decompose {
    fn name(&self) -> &str {
        "decompose"
    }

    fn is_required(&self) -> bool {
        true
    }

    fn repeats(&self) -> bool {
        true
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        if graph.level == Level::Onnx {
            edit.set_level(Level::Core);
        }
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            let is_core = op.def.levels & CORE != 0;
            // What both levels share is brought to the core's normal form once, on the way from one to the other.
            if is_core && (graph.level != Level::Onnx || op.def.expand.is_none()) {
                continue;
            }
            if op.def.expand.is_none() {
                return Err(at(&node.name)(OpError::unsupported(format!("no kernel and no expansion for {}", op.def.onnx))));
            }
            let outputs = expand_node(&mut edit, id).map_err(at(&node.name))?;
            for (out, val) in outputs.into_iter().enumerate().take(node.outputs.len()) {
                edit.replace(id.out(out), val);
            }
        }
        Ok(edit.finish())
    }
}
