//! Writes every operator as core operators: from here on the graph is of the level `core`.
//!
//! Looks for operators that have an expansion and puts it in their place, again until only core operators are left.
//! Equal because the expansion is the operator's definition. An operator without expansion that may not stand at the
//! core level is an error that names the node. One whose expansion needs sizes that change between runs becomes
//! `deferred`, as do recurrent layers of more steps than are written out. Where the settings say so, `check_indices`
//! goes.

use super::{Context, Pass, PassError, Stage, at};
use crate::ir::{CORE, Edit, Expand, Graph, Level, NodeId, OpError, Patch, Val};
use crate::ops::core::{check_indices, deferred, gather};
use crate::ops::expand_node;
use crate::ops::onnx::recurrent;

/// The pass.
pub struct Decompose;

impl Pass for Decompose {
    fn name(&self) -> &str {
        "decompose"
    }

    fn is_required(&self) -> bool {
        true
    }

    fn stage(&self) -> Stage {
        Stage::Lower
    }

    fn repeats(&self) -> bool {
        true
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        if graph.level == Level::Onnx {
            edit.set_level(Level::Core);
        }
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            if op.is(&check_indices::DEF) && !cx.settings.check_indices {
                let unchecked = uncheck(graph, &mut edit, id).map_err(at(&node.name))?;
                edit.replace(id.out(0), unchecked);
                continue;
            }
            let is_core = op.def.levels & CORE != 0;
            // What both levels share is brought to the core's normal form once, on the way from one to the other.
            if is_core && (graph.level != Level::Onnx || op.def.expand.is_none()) {
                continue;
            }
            if op.def.expand.is_none() {
                return Err(at(&node.name)(OpError::unsupported(format!(
                    "no kernel and no expansion for {}",
                    op.def.onnx
                ))));
            }
            // What cannot be written without its sizes waits for them.
            let waits = (deferred::has_sizes(graph, id) || recurrent::is_long(graph, id))
                && expand_node(&mut Edit::new(graph), id).is_err();
            let outputs = if waits { deferred::defer(&mut edit, id) } else { expand_node(&mut edit, id) }
                .map_err(at(&node.name))?;
            for (out, val) in outputs.into_iter().enumerate().take(node.outputs.len()) {
                edit.replace(id.out(out), val);
            }
        }
        Ok(edit.finish())
    }
}

/// What stands in the place of a check in a program without checks: nothing where only rows are gathered by the
/// indices, since that clamps them.
fn uncheck(graph: &Graph, edit: &mut Edit<'_>, id: NodeId) -> Result<Val, OpError> {
    let operands = graph.operands(id);
    let reads_rows =
        |&(user, slot): &(NodeId, usize)| slot == 1 && graph.node(user).op().is_some_and(|op| op.is(&gather::DEF));
    if let Some(Some(indices)) = operands.first().copied()
        && !graph.is_output(id.out(0))
        && graph.users(id.out(0)).iter().all(reads_rows)
    {
        return Ok(Val::Old(indices));
    }
    let Some(op) = graph.node(id).op() else { return Err(OpError::Bug("only operators check")) };
    let inputs = operands.into_iter().map(|v| v.map(Val::Old)).collect();
    let outputs = graph.node(id).outputs.iter().map(|v| v.ty.clone()).collect();
    edit.on_behalf_of(id);
    check_indices::unchecked(&mut Expand { edit, attrs: &op.attrs, inputs, outputs })
}

#[cfg(test)]
mod tests {
    use crate::ir::{CORE, Level};
    use crate::passes::testing::{check, stays};

    #[test]
    fn a_product_with_bias_becomes_core_operators() {
        let text = "graph g onnx
  %x = input : f32[2,4]
  %w = input : f32[3,4]
  %b = input : f32[3]
  %y = gemm(%x, %w, %b) {alpha=0.5f, transB=1} : f32[2,3]
  output %y
";
        let after = check("decompose", text, "gemm");
        assert_eq!(after.level, Level::Core);
        let ops: Vec<_> = after.order().into_iter().filter_map(|id| after.node(id).op().map(|op| op.def)).collect();
        assert_eq!(ops.iter().map(|def| def.name).collect::<Vec<_>>(), ["matmul", "pointwise"]);
        assert!(ops.iter().all(|def| def.levels & CORE != 0));
    }

    #[test]
    fn what_lies_between_operands_and_results_is_f32() {
        let text = "graph g onnx
  %x = input : f16[2,4]
  %ax = const [1] : i64[1]
  %y = reduce_l2(%x, %ax) : f16[2,1]
  output %y
";
        let after = check("decompose", text, "between").to_string();
        assert!(
            after.contains("{dtype=f32, expr=`mul(x0,x0)`}") && after.contains("{dtype=f16, expr=`sqrt(x0)`}"),
            "{after}"
        );
        // What only moves elements stays as narrow as they are.
        let text = "graph g onnx
  %x = input : f16[1,4,2,2]
  %y = depth_to_space(%x) {blocksize=2} : f16[1,1,4,4]
  output %y
";
        assert!(!check("decompose", text, "moved").to_string().contains("f32"));
    }

    #[test]
    fn casts_of_the_model_are_in_the_expression_and_stores_in_the_type() {
        let text = "graph g onnx
  %x = input : f32[2]
  %h = cast(%x) {to=f16} : f16[2]
  %w = cast(%h) {to=f32} : f32[2]
  %b = cast(%w) {to=bf16} : bf16[2]
  %s = store(%b) {dtype=f16} : f16[2]
  output %s
";
        let after = check("decompose", text, "casts").to_string();
        let exprs: Vec<_> = after.split("expr=`").skip(1).filter_map(|part| part.split('`').next()).collect();
        assert_eq!(exprs, ["f16(x0)", "x0", "bf16(x0)", "x0"]);
    }

    #[test]
    fn core_operators_stay() {
        let text = "graph g core
  %x = input : f32[2,4]
  %w = input : f32[4,3]
  %m = matmul(%x, %w) {dtype=f32} : f32[2,3]
  %y = pointwise(%m) {dtype=f32, expr=`neg(x0)`} : f32[2,3]
  output %y
";
        stays("decompose", text);
    }
}
