//! Makes an attention one kernel, or products around a softmax where no kernel covers it.
//!
//! Looks for `dot_product_attention`. Where the target has kernels for it, it reads q, k and v through the
//! transposition of heads and sequence that made them, and gives its result in the order in which the only reader, such
//! a transposition, has it: kernels read and write either order alike. For few queries of more keys than a workgroup
//! takes, or where their numbers change between runs, `attention_parts` come before it. Elsewhere the operator's
//! definition is written out.
//! Refuses transpositions that the graph gives out or that others read, as far as the result goes.

use super::{Context, Pass, PassError, at};
use crate::ir::{Dim, Edit, Expand, Graph, NodeId, Op, OpError, Patch, Val, ValueId, product};
use crate::kernels::{ATTENTION_CHUNK, attention_has_parts, dispatches};
use crate::ops::core::dot_product_attention::{DEF, LENGTHS, PARTS, PARTS_SLOT, of_scores};
use crate::ops::core::strided::row_major;
use crate::ops::core::write_out_attention;
use crate::ops::core::{reshape, strided};
use crate::ops::util::dims_attr;
use crate::targets::Target;

/// The pass.
pub struct LowerAttention;

impl Pass for LowerAttention {
    fn name(&self) -> &str {
        "lower_attention"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op().filter(|op| op.is(&DEF) && op.attrs.expr("epilogue").is_none()) else { continue };
            if let Some(because) = refused(graph, id, cx.target) {
                cx.explain.note(&[&node.name], "lower_attention", "one kernel", || because);
                let y = write_out_attention(&mut edit, id).map_err(at(&node.name))?;
                edit.replace(id.out(0), y);
                continue;
            }
            let has_parts = attention_has_parts(graph, id, cx.target).is_ok_and(|has| has);
            lower(graph, &mut edit, id, op, has_parts).map_err(at(&node.name))?;
        }
        Ok(edit.finish())
    }
}

/// Why an attention is written out; `None` where it is not.
fn refused(graph: &Graph, id: NodeId, target: &Target) -> Option<String> {
    dispatches(graph, id, target).err().map(|e| e.to_string())
}

/// Takes in the transpositions around an attention, and divides its keys.
fn lower(graph: &Graph, edit: &mut Edit<'_>, id: NodeId, op: &Op, has_parts: bool) -> Result<(), OpError> {
    let mut operands: Vec<Option<Val>> = graph.operands(id).into_iter().map(|v| v.map(Val::Old)).collect();
    let mut heads_last = [0i64; 4];
    if let Some(given) = op.attrs.ints("heads_last") {
        heads_last.iter_mut().zip(given).for_each(|(slot, v)| *slot = *v);
    }
    edit.on_behalf_of(id);
    let mut attrs = op.attrs.clone();
    let mut changed = false;
    for (operand, last) in operands.iter_mut().zip(&mut heads_last).take(3).filter(|(_, last)| **last == 0) {
        let Some(Val::Old(value)) = *operand else { continue };
        let Some((source, dims)) = swapped(graph, value) else { continue };
        let inputs = vec![Some(Val::Old(source))];
        let mut expand = Expand { edit: &mut *edit, attrs: &attrs, inputs, outputs: Vec::new() };
        *operand = Some(reshape::to(&mut expand, Val::Old(source), dims)?);
        (*last, changed) = (1, true);
    }
    // What stands for the result: itself, or its transposition.
    let mut replaced = id.out(0);
    if heads_last[3] == 0
        && !graph.is_output(replaced)
        && let [(user, 0)] = graph.users(replaced)[..]
        && swapped(graph, user.out(0)).is_some_and(|(source, _)| source == replaced)
    {
        replaced = user.out(0);
        (heads_last[3], changed) = (1, true);
        attrs = attrs.with_dtype("dtype", graph.ty(replaced).dtype);
        edit.on_behalf_of_all(user, vec![user, id]);
    }
    if changed {
        attrs = attrs.with_ints("heads_last", heads_last);
    }
    if operands.len() <= PARTS_SLOT && has_parts {
        let own: Vec<_> = operands.iter().copied().take(LENGTHS + 1).collect();
        let of_parts = of_scores(&attrs).with_int("chunk", ATTENTION_CHUNK);
        let parts = edit.add_all(Op::new(&PARTS, of_parts), &own, 1).map_err(|e| OpError::Edit(Box::new(e)))?;
        operands.resize(PARTS_SLOT, None);
        operands.extend(parts.into_iter().map(Some));
        changed = true;
    }
    if changed {
        let new = edit.add_all(Op::new(&DEF, attrs), &operands, 1).map_err(|e| OpError::Edit(Box::new(e)))?;
        new.into_iter().for_each(|val| edit.replace(replaced, val));
    }
    Ok(())
}

/// The source of a value `[a, c, b, d]` that is a source of `[a, b, c, d]` with two axes swapped, and these sizes.
fn swapped(graph: &Graph, value: ValueId) -> Option<(ValueId, Vec<Dim>)> {
    let op = graph.node(value.node).op().filter(|op| op.is(&strided::DEF))?;
    let source = graph.operands(value.node).first().copied().flatten()?;
    let [a, c, b, d] = &graph.ty(value).shape.0[..] else { return None };
    let dims = vec![a.clone(), b.clone(), c.clone(), d.clone()];
    let strides = row_major(&dims);
    let wanted = [0, 2, 1, 3].map(|axis| strides[axis].clone());
    let is_plain = ["lo", "hi", "epilogue"].iter().all(|name| op.attrs.get(name).is_none())
        && dims_attr(&op.attrs, "offset").is_none_or(|offset| offset == [Dim::Known(0)])
        && dims_attr(&op.attrs, "strides").is_some_and(|own| own == wanted);
    let ty = graph.ty(source);
    (is_plain && ty.dtype.is_float() && ty.packing.is_none() && ty.shape.volume() == product(&dims))
        .then_some((source, dims))
}

#[cfg(test)]
mod tests {
    use crate::ir::Graph;
    use crate::passes::testing::check_on;

    fn count(graph: &Graph, name: &str) -> usize {
        graph.order().iter().filter(|id| graph.node(**id).op().is_some_and(|op| op.def.name == name)).count()
    }

    /// Attention of `queries` and `keys`, heads behind the sequence before and after it.
    fn attention(queries: &str, keys: &str, size: u32, ranges: &str, outputs: &str) -> String {
        let of = |len: &str| format!("d[2,4,{len},{size}]");
        let strides = |len: &str| format!("d[{0}*{len},{size},{0},1]", 4 * size);
        format!(
            "graph g core{ranges}
  %q0 = input : f32[2,{queries},4,{size}]
  %k = input : f32[2,2,{keys},{size}]
  %v = input : f32[2,2,{keys},{size}]
  %q = strided(%q0) {{offset=0, shape={}, strides={}}} : f32[2,4,{queries},{size}]
  %a = dot_product_attention(%q, %k, %v) {{dtype=f32, right=0, scale=0.5f}} : f32[2,4,{queries},{size}]
  %y = strided(%a) {{offset=0, shape=d[2,{queries},4,{size}], strides=d[{}*{queries},{size},{size}*{queries},1]}} : f32[2,{queries},4,{size}]
{outputs}",
            of(queries),
            strides(queries),
            4 * size,
        )
    }

    #[test]
    fn transpositions_are_read_and_written_by_the_kernel() {
        let after =
            check_on("h200", "lower_attention", &attention("40", "40", 8, "", "  output %y\n"), "transpositions");
        assert_eq!((count(&after, "strided"), count(&after, "attention_parts")), (0, 0));
        assert!(after.to_string().contains("heads_last=[1,0,0,1]"), "{after}");
    }

    #[test]
    fn a_result_that_others_read_keeps_its_order() {
        let text = attention("40", "40", 8, "", "  output %y\n  output %a\n");
        let after = check_on("h200", "lower_attention", &text, "refuses_output");
        assert!(after.to_string().contains("heads_last=[1,0,0,0]"), "{after}");
    }

    #[test]
    fn keys_of_few_queries_are_divided() {
        let after = check_on("h200", "lower_attention", &attention("1", "300", 8, "", "  output %y\n"), "parts");
        assert_eq!(count(&after, "attention_parts"), 1);
        let range = attention("n", "300", 8, " where n in 1..512", "  output %y\n");
        let after = check_on("h200", "lower_attention", &range, "parts_of_a_range");
        assert_eq!(count(&after, "attention_parts"), 1);
    }

    #[test]
    fn one_workgroup_takes_few_keys_in_f16_by_itself() {
        let of = |keys: &str| attention("1", keys, 8, "", "  output %y\n").replace("f32", "f16");
        let after = check_on("h200", "lower_attention", &of("300"), "refuses_few_keys");
        assert_eq!(count(&after, "attention_parts"), 0);
        let after = check_on("h200", "lower_attention", &of("600"), "parts_of_f16");
        assert_eq!(count(&after, "attention_parts"), 1);
    }

    #[test]
    fn heads_that_no_kernel_covers_are_products() {
        let after =
            check_on("h200", "lower_attention", &attention("3", "5", 260, "", "  output %y\n"), "refuses_large_heads");
        assert_eq!((count(&after, "matmul"), count(&after, "softmax")), (2, 1));
    }
}
