//! Lets kernels convert on load and store, so that casts between float types cost neither a kernel nor memory.
//!
//! Every kernel reads f16 and f32 alike and stores what its `dtype` says. Looks for nodes that only store a float in
//! another type (a Cast that rounds is an expression of its own, and stays). Where all consumers read the narrower of
//! two types, or the cast is an output of the graph, the producer stores that; otherwise the consumers read the operand
//! as its producer stores it. So each value is stored in the type of its producer's format, as memory was planned.
//! Equal up to the rounding that is saved. Refuses outputs that are casts of inputs, or of operators that cannot choose
//! what they store, and narrower outputs of what others read too.

use super::pattern::float_cast;
use super::{Context, Pass, PassError, at};
use crate::ir::{Attr, CORE, Class, DType, Edit, Graph, Infer, NodeId, Op, OpDef, Patch, TensorType, Val, ValueId};
use crate::ops::core::{quantize_linear, quantize_packed};
use std::collections::BTreeMap;

/// The pass.
pub struct AbsorbCasts;

impl Pass for AbsorbCasts {
    fn name(&self) -> &str {
        "absorb_casts"
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        // What each producer shall store instead, and which casts go.
        let mut stores: BTreeMap<NodeId, DType> = BTreeMap::new();
        let mut removed = Removed::new();
        for id in graph.order() {
            let Some(operand) = cast_kernel(graph, id) else { continue };
            let result = id.out(0);
            let source = *removed.get(&operand).unwrap_or(&operand);
            let (stored, dtype) = (viewed(graph, source, &removed), graph.ty(result).dtype);
            let now = stores.get(&stored.node).copied().unwrap_or(graph.ty(source).dtype);
            let chooses = graph.node(stored.node).op().is_some_and(|op| op.def.has_attr("dtype"));
            // Others that read what is there must not read it rounded.
            let keeps = dtype.holds(graph.ty(stored).dtype) || only_casts(graph, stored, dtype);
            let may_change = chooses && keeps && !graph.is_output(stored) && !stores.contains_key(&stored.node);
            let narrows = !dtype.holds(graph.ty(stored).dtype);
            let shall_change = graph.is_output(result) || narrows;
            if may_change && shall_change && may_become(graph, stored, dtype, &removed) {
                stores.insert(stored.node, dtype);
                removed.insert(result, source);
            } else if !graph.is_output(result)
                && may_become(graph, result, now, &removed)
                && !(narrows && meets_steps(graph, result))
            {
                removed.insert(result, source);
            } else {
                cx.explain.note(&[&graph.node(id).name], "absorb_casts", "store the cast's type", || {
                    format!("%{} cannot be stored as {}", graph.value(source).name, graph.ty(result).dtype)
                });
            }
        }
        if removed.is_empty() {
            return Ok(Edit::new(graph).finish());
        }
        // Consumers say what they store before their operands change: what they store by default is their first
        // operand's type.
        let mut edit = Edit::new(graph);
        let mut moved: BTreeMap<ValueId, Val> = BTreeMap::new();
        for id in graph.order() {
            let node = graph.node(id);
            let Some(op) = node.op() else { continue };
            if removed.contains_key(&id.out(0)) {
                continue;
            }
            let operands = graph.operands(id);
            let mapped: Vec<Option<Val>> = operands
                .iter()
                .map(|v| {
                    v.map(|v| {
                        let v = *removed.get(&v).unwrap_or(&v);
                        *moved.get(&v).unwrap_or(&Val::Old(v))
                    })
                })
                .collect();
            let unchanged = operands.iter().zip(&mapped).all(|(old, new)| old.map(Val::Old) == *new);
            if unchanged && !stores.contains_key(&id) {
                continue;
            }
            let mut op = Op::clone(op);
            let stored = stores
                .get(&id)
                .copied()
                .or_else(|| node.outputs[0].ty.dtype.is_float().then_some(node.outputs[0].ty.dtype));
            if let (true, Some(dtype)) = (op.def.has_attr("dtype"), stored) {
                op.attrs.0.insert("dtype".to_owned(), Attr::DType(dtype));
            }
            edit.on_behalf_of(id);
            let new = edit
                .add_all(op, &mapped, node.outputs.len())
                .map_err(|e| at(&node.name)(crate::ir::OpError::Edit(Box::new(e))))?;
            for (out, val) in new.into_iter().enumerate() {
                moved.insert(id.out(out), val);
                edit.replace(id.out(out), val);
            }
        }
        // Operators read what the cast read by now; only outputs of the graph still name the cast.
        for (cast, source) in removed.into_iter().filter(|(cast, _)| graph.is_output(*cast)) {
            edit.replace(cast, *moved.get(&source).unwrap_or(&Val::Old(source)));
        }
        Ok(edit.finish())
    }
}

/// Casts that go, and what is read instead.
type Removed = BTreeMap<ValueId, ValueId>;

/// What `value` is a view of once the casts are removed, itself where it is none.
fn viewed(graph: &Graph, value: ValueId, removed: &Removed) -> ValueId {
    let mut value = value;
    loop {
        let is_view = graph.node(value.node).op().is_some_and(|op| op.def.name == "reshape");
        value = match (removed.get(&value), graph.operands(value.node).first()) {
            (Some(source), _) => *source,
            (None, Some(Some(operand))) if is_view => *operand,
            _ => return value,
        };
    }
}

/// Whether everything that reads a value, views of it included, is a cast to `dtype`.
fn only_casts(graph: &Graph, value: ValueId, dtype: DType) -> bool {
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        for (user, _) in graph.users(value) {
            let result = user.out(0);
            if graph.node(user).op().is_some_and(|op| op.def.name == "reshape") && !graph.is_output(result) {
                open.push(result);
            } else if cast_kernel(graph, user).is_none() || graph.ty(result).dtype != dtype {
                return false;
            }
        }
    }
    true
}

/// Whether all that read `value` give what they gave where it has another float type: they say what they store, view it
/// for others of which that is true, or have results whose types do not follow that operand. Others (CumSum) store what
/// they read, and so does an output.
fn may_become(graph: &Graph, value: ValueId, dtype: DType, removed: &Removed) -> bool {
    graph.users(value).iter().all(|(user, _)| stays_typed(graph, *user, value, dtype, removed))
}

fn stays_typed(graph: &Graph, user: NodeId, value: ValueId, dtype: DType, removed: &Removed) -> bool {
    let node = graph.node(user);
    let Some(op) = node.op() else { return false };
    if op.def.name == "reshape" || removed.contains_key(&user.out(0)) {
        return !graph.is_output(user.out(0)) && may_become(graph, user.out(0), dtype, removed);
    }
    if op.def.has_attr("dtype") {
        return true;
    }
    let operands = graph.operands(user);
    let other = TensorType { dtype, ..graph.ty(value).clone() };
    let inputs: Vec<_> = operands.iter().map(|v| v.map(|v| if v == value { &other } else { graph.ty(v) })).collect();
    let consts: Vec<_> = operands.iter().map(|v| v.and_then(|v| graph.constant(v))).collect();
    let infer = Infer { attrs: &op.attrs, inputs: &inputs, consts: &consts, sizes: &[], n_outputs: node.outputs.len() };
    infer.types(op.def).is_ok_and(|types| types.iter().map(|ty| ty.dtype).eq(node.outputs.iter().map(|v| v.ty.dtype)))
}

/// Whether a function with steps is computed of a value, or of a view of it: what was rounded must be read rounded.
fn meets_steps(graph: &Graph, value: ValueId) -> bool {
    graph.users(value).iter().any(|(user, slot)| {
        let Some(op) = graph.node(*user).op() else { return false };
        match op.attrs.expr("expr") {
            Some(expr) => expr.meets_steps(*slot),
            None if op.def.name == "reshape" => meets_steps(graph, user.out(0)),
            None => has_choices(graph, *user),
        }
    })
}

/// Whether results of an operator are places or counts, which its floats decide; codes are as near as what they stand
/// for.
fn has_choices(graph: &Graph, id: NodeId) -> bool {
    const QUANTIZERS: [&OpDef; 3] = [&quantize_linear::DEF, &quantize_packed::DEF, &quantize_packed::DYNAMIC];
    graph.node(id).op().is_some_and(|op| !QUANTIZERS.iter().any(|def| op.is(def)))
        && graph.node(id).outputs.iter().any(|value| value.ty.dtype.class() == Class::Int)
}

/// The operand of a kernel that only converts between float types.
fn cast_kernel(graph: &Graph, id: NodeId) -> Option<ValueId> {
    let is_kernel =
        graph.node(id).op().is_some_and(|op| op.def.levels & CORE != 0 && op.is(&crate::ops::core::pointwise::DEF));
    float_cast(graph, id).filter(|operand| is_kernel && graph.ty(*operand).packing.is_none())
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    #[test]
    fn a_cast_that_is_an_output_becomes_what_is_stored() {
        let text = "graph g core
  %x = input : f32[2]
  %a = pointwise(%x) {dtype=f16, expr=`exp(x0)`} : f16[2]
  %y = pointwise(%a) {dtype=f32, expr=`x0`} : f32[2]
  %z = pointwise(%a) {dtype=f16, expr=`neg(x0)`} : f16[2]
  output %y
  output %z
";
        let after = check("absorb_casts", text, "output");
        assert_eq!(after.n_nodes(), 3);
        assert!(after.to_string().contains("%y = pointwise(%x) {dtype=f32, expr=`exp(x0)`}"));
    }

    #[test]
    fn a_producer_stores_what_all_read() {
        let text = "graph g core
  %x = input : f32[2]
  %a = pointwise(%x) {dtype=f32, expr=`exp(x0)`} : f32[2]
  %h = pointwise(%a) {dtype=f16, expr=`x0`} : f16[2]
  %y = pointwise(%h, %x) {dtype=f32, expr=`add(x0,x1)`} : f32[2]
  output %y
";
        let after = check("absorb_casts", text, "narrower");
        assert!(after.to_string().contains("%a = pointwise(%x) {dtype=f16, expr=`exp(x0)`}"), "{after}");
        assert_eq!(after.n_nodes(), 3);
    }

    #[test]
    fn what_is_stored_narrower_is_widened_for_an_operator_that_stores_what_it_reads() {
        let text = "graph g core
  %x = input : f32[2]
  %a = pointwise(%x) {dtype=f32, expr=`exp(x0)`} : f32[2]
  %h = pointwise(%a) {dtype=f16, expr=`x0`} : f16[2]
  %w = pointwise(%h) {dtype=f32, expr=`x0`} : f32[2]
  %axis = const [0] : i64[]
  %c = cum_sum(%w, %axis) {exclusive=0, reverse=0} : f32[2]
  %y = pointwise(%c, %h) {dtype=f32, expr=`add(x0,x1)`} : f32[2]
  output %y
";
        let after = check("absorb_casts", text, "narrower_and_back").to_string();
        assert!(after.contains("%w = pointwise(%a) {dtype=f32, expr=`x0`}"), "{after}");
    }

    #[test]
    fn a_cast_that_rounds_is_no_store() {
        let text = "graph g core
  %x = input : f32[2]
  %h = pointwise(%x) {dtype=f16, expr=`f16(x0)`} : f16[2]
  %y = pointwise(%h) {dtype=f32, expr=`neg(x0)`} : f32[2]
  output %y
";
        stays("absorb_casts", text);
    }

    #[test]
    fn what_a_step_is_computed_of_stays_rounded() {
        let text = "graph g core
  %x = input : f32[2]
  %h = pointwise(%x) {dtype=f16, expr=`x0`} : f16[2]
  %v = reshape(%h) {shape=d[1,2]} : f16[1,2]
  %y = pointwise(%h) {dtype=f32, expr=`ceil(x0)`} : f32[2]
  %z = pointwise(%v) {dtype=bool, expr=`lt(x0,1.5)`} : bool[1,2]
  output %y
  output %z
";
        stays("absorb_casts", text);
    }

    #[test]
    fn a_cast_of_an_input_is_read_as_stored() {
        let text = "graph g core
  %x = input : f32[2]
  %h = pointwise(%x) {dtype=f16, expr=`x0`} : f16[2]
  %y = pointwise(%h) {dtype=f32, expr=`neg(x0)`} : f32[2]
  output %y
";
        let after = check("absorb_casts", text, "consumer");
        assert_eq!(after.n_nodes(), 2);
    }

    #[test]
    fn a_cast_stays_before_an_operator_that_stores_what_it_reads() {
        let text = "graph g core
  %x = input : f32[2]
  %h = pointwise(%x) {dtype=f16, expr=`exp(x0)`} : f16[2]
  %f = pointwise(%h) {dtype=f32, expr=`x0`} : f32[2]
  %axis = const [0] : i64[]
  %y = cum_sum(%f, %axis) {exclusive=0, reverse=0} : f32[2]
  output %y
";
        stays("absorb_casts", text);
    }

    #[test]
    fn activations_are_quantized_as_they_are_stored() {
        let text = "graph g core
  %x = input : f16[1,4]
  %f = pointwise(%x) {dtype=f32, expr=`x0`} : f32[1,4]
  %q, %s = dynamic_quantize(%f) {granularity=\"row\"} : i8[1,4], f32[1,1]
  output %q
  output %s
";
        assert!(!check("absorb_casts", text, "quantized").to_string().contains("pointwise"));
    }

    #[test]
    fn an_input_that_is_an_output_in_another_type_is_cast() {
        let text =
            "graph g core\n  %x = input : f32[2]\n  %y = pointwise(%x) {dtype=f16, expr=`x0`} : f16[2]\n  output %y\n";
        stays("absorb_casts", text);
    }

    #[test]
    fn an_output_that_views_the_operand_of_a_cast_keeps_its_type() {
        let text = "graph g core
  %x = input : f32[3,2]
  %n = pointwise(%x) {dtype=f32, expr=`neg(x0)`} : f32[3,2]
  %y = reshape(%n) {shape=d[6]} : f32[6]
  %h = pointwise(%n) {dtype=f16, expr=`x0`} : f16[3,2]
  %v = reshape(%h) {shape=d[2,3]} : f16[2,3]
  output %y
  output %h
  output %v
";
        stays("absorb_casts", text);
    }

    #[test]
    fn the_producer_behind_a_view_stores_what_an_output_needs() {
        let text = "graph g core
  %x = input : f32[6]
  %n = pointwise(%x) {dtype=f32, expr=`neg(x0)`} : f32[6]
  %v = reshape(%n) {shape=d[2,3]} : f32[2,3]
  %y = pointwise(%v) {dtype=f16, expr=`x0`} : f16[2,3]
  output %y
";
        let after = check("absorb_casts", text, "output_behind_view");
        assert!(after.to_string().contains("%n = pointwise(%x) {dtype=f16"), "{after}");
    }

    #[test]
    fn a_view_of_a_cast_that_goes_is_cast_for_an_output() {
        let text = "graph g core
  %x = input : bf16[3,2]
  %w = pointwise(%x) {dtype=f32, expr=`x0`} : f32[3,2]
  %v = reshape(%w) {shape=d[6]} : f32[6]
  %y = pointwise(%v) {dtype=f16, expr=`x0`} : f16[6]
  output %y
";
        let after = check("absorb_casts", text, "cast_behind_view_of_input");
        assert!(after.to_string().contains("%y = pointwise(%v) {dtype=f16, expr=`x0`}"), "{after}");
    }
}
