//! Makes one of nodes that compute the same (common subexpressions).
//!
//! Looks for nodes of one operator with equal attributes, format and operands, and for equal constants; the first in
//! order stays. Equal because operators are functions; those that are not (random ones) are refused.

use super::{Context, Pass, PassError};
use crate::ir::{Edit, Graph, NodeKind, Patch, ValueId};
use crate::ops::onnx::random::is_random;
use std::collections::BTreeMap;

/// The pass.
pub struct MergeDuplicates;

impl Pass for MergeDuplicates {
    fn name(&self) -> &str {
        "merge_duplicates"
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut first: BTreeMap<String, crate::ir::NodeId> = BTreeMap::new();
        let mut same: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            let node = graph.node(id);
            let key = match &node.kind {
                NodeKind::Input | NodeKind::State => continue,
                NodeKind::Const(tensor) => format!("const {:?} {}", tensor.identity().0, tensor.ty()),
                NodeKind::Op(op) if is_random(op) => continue,
                NodeKind::Op(op) => {
                    let operands: Vec<_> =
                        graph.operands(id).into_iter().map(|v| v.map(|v| *same.get(&v).unwrap_or(&v))).collect();
                    format!("{op:?} {:?} {operands:?} {}", node.format, node.outputs.len())
                }
            };
            match first.get(&key) {
                None => {
                    first.insert(key, id);
                }
                Some(&kept) => {
                    for out in 0..node.outputs.len() {
                        same.insert(id.out(out), kept.out(out));
                        edit.replace(id.out(out), kept.out(out).into());
                    }
                }
            }
        }
        Ok(edit.finish())
    }
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    #[test]
    fn equal_chains_become_one() {
        let text = "graph g core
  %x = input : f32[2]
  %a = pointwise(%x) {dtype=f32, expr=`exp(x0)`} : f32[2]
  %b = pointwise(%x) {dtype=f32, expr=`exp(x0)`} : f32[2]
  %c = pointwise(%a) {dtype=f32, expr=`neg(x0)`} : f32[2]
  %d = pointwise(%b) {dtype=f32, expr=`neg(x0)`} : f32[2]
  output %c
  output %d
";
        let after = check("merge_duplicates", text, "chains");
        assert_eq!(after.n_nodes(), 3);
        assert_eq!(after.outputs()[1].name, "d", "the port keeps its name");
    }

    #[test]
    fn random_numbers_are_drawn_for_each_node() {
        let text = "graph g core
  %a = random() {dtype=f32, kind=\"normal\", shape=[2]} : f32[2]
  %b = random() {dtype=f32, kind=\"normal\", shape=[2]} : f32[2]
  output %a
  output %b
";
        stays("merge_duplicates", text);
    }

    #[test]
    fn another_operand_order_stays() {
        let text = "graph g core
  %x = input : f32[2]
  %y = input : f32[2]
  %a = pointwise(%x, %y) {dtype=f32, expr=`sub(x0,x1)`} : f32[2]
  %b = pointwise(%y, %x) {dtype=f32, expr=`sub(x0,x1)`} : f32[2]
  output %a
  output %b
";
        stays("merge_duplicates", text);
    }
}
