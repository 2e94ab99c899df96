//! Fuses: from here on every operator is one kernel, and the graph is of the level `kernel`.
//!
//! Looks, from the outputs back, for an operator all of whose consumers are in one group and whose result has the
//! group's shape. A pointwise operator is written into the group's expression; another becomes the group's anchor,
//! whose epilogue the expression is, where the group has none yet. Equal because each element of the group's result
//! depends on the same element of each member, but that values in between are not rounded to f16: those that a function
//! with steps is computed of are ([`Expr::substitute_by_use`]). Where two operators could be anchors, each keeps what
//! follows it alone. Refuses where a member is an output of the graph, where the kernel would read more buffers than
//! the target binds, or where its expression grows too large. Which operators end up together depends on shapes, uses
//! and target, never on formats, so that precision can be assigned before.

use super::{Context, Pass, PassError, at};
use crate::ir::{
    Attr, Attrs, Class, Edit, Expr, Format, Graph, Level, NodeId, Op, OpError, Operand, Patch, TensorType, Val, ValueId,
};
use crate::kernels::{has_doubles, max_operands};
use crate::ops::core::{check_indices, pointwise};
use crate::targets::Target;
use std::collections::BTreeMap;

/// The pass.
pub struct Fuse;

/// Largest expression of one kernel, in functions and operands.
const MAX_SIZE: usize = 96;

/// An epilogue says by its operands how many of all are the kernel's own: it reads each.
const UNUSED: &str = "its consumer's expression leaves an operand unread";

impl Pass for Fuse {
    fn name(&self) -> &str {
        "fuse"
    }

    fn is_required(&self) -> bool {
        true
    }

    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        if graph.level == Level::Kernel {
            return Ok(edit.finish());
        }
        edit.set_level(Level::Kernel);
        let order = graph.order();
        let mut groups: Vec<Group> = Vec::new();
        let mut group_of: BTreeMap<NodeId, usize> = BTreeMap::new();
        for &id in order.iter().rev() {
            let Some(op) = graph.node(id).op() else { continue };
            if let Some(at) = sole_group(graph, id, &group_of)
                && groups[at].join(graph, id, op, cx)
            {
                group_of.insert(id, at);
                continue;
            }
            if let Some(group) = Group::of(graph, id, op) {
                group_of.insert(id, groups.len());
                groups.push(group);
            }
        }
        let mut moved: BTreeMap<ValueId, Val> = BTreeMap::new();
        // A group stands where its last member stood; all it reads was made before that.
        for id in order {
            let Some(group) = group_of.get(&id).map(|&g| &groups[g]).filter(|g| g.root == id) else { continue };
            if group.members.len() == 1 && !group.args.iter().chain(&group.own).any(|v| moved.contains_key(v)) {
                continue;
            }
            let val = group.emit(graph, &mut edit, &moved).map_err(at(&graph.node(id).name))?;
            moved.insert(id.out(0), val);
            edit.replace(id.out(0), val);
        }
        Ok(edit.finish())
    }
}

/// How many buffers of its own operands one dispatch of an operator reads: of a matrix in parts, one part. A matrix
/// that a binding may not span is read in slices, and if it is packed, the scales of a slice are a buffer of their own.
/// Whether it will be packed is not known yet, nor asked: what is fused does not depend on formats.
fn n_buffers(graph: &Graph, op: &Op, operands: &[ValueId], target: &Target) -> usize {
    if op.is(&check_indices::DEF) {
        // It notes what it finds in a buffer of its own.
        return operands.len() + 1;
    }
    if op.weights().is_none_or(|weights| weights.further_rows.is_none()) {
        return operands.len();
    }
    let may_be_sliced = |v: &ValueId| {
        // INT8 with a scale of two bytes for each block of 16, the most that packed elements take.
        let bytes = graph.ty(*v).shape.n_elems().map_or(u64::MAX, |n| n.saturating_add(n / 8));
        graph.constant(*v).is_some() && bytes > target.limits.max_storage_buffer_range
    };
    operands.len().min(2) + usize::from(operands.iter().any(may_be_sliced))
}

/// What an expression knows of an operand.
fn operand(ty: &TensorType) -> Operand {
    if ty.packing.is_some() { Operand::Float } else { Operand::of(ty.dtype) }
}

/// The one group that all consumers of a node are in.
fn sole_group(graph: &Graph, id: NodeId, group_of: &BTreeMap<NodeId, usize>) -> Option<usize> {
    let value = id.out(0);
    if graph.node(id).outputs.len() != 1 || graph.is_output(value) {
        return None;
    }
    let users = graph.users(value);
    let first = *group_of.get(&users.first()?.0)?;
    users.iter().all(|(user, _)| group_of.get(user) == Some(&first)).then_some(first)
}

/// Whether a value is made by an operator that `reader`, which alone reads it, can follow as an epilogue: what that
/// stores is then the result of its node, and not what is between two of its operators.
fn may_be_anchor(graph: &Graph, value: ValueId, reader: NodeId) -> bool {
    let ty = graph.ty(value);
    graph.node(value.node).op().is_some_and(Op::takes_epilogue)
        && graph.node(value.node).outputs.len() == 1
        && !graph.is_output(value)
        && graph.users(value).iter().all(|(user, _)| *user == reader)
        && ty.shape == graph.ty(reader.out(0)).shape
        && ty.dtype.class() == Class::Float
}

/// Nodes that become one kernel.
struct Group {
    /// The last member, whose result is the group's.
    root: NodeId,
    /// All members, the last first.
    members: Vec<NodeId>,
    /// The operator before the expression; its own operands are `own`, its result is operand `args[0]` of the
    /// expression.
    anchor: Option<NodeId>,
    own: Vec<ValueId>,
    /// What is computed of `args`; `None` where the root is the anchor.
    expr: Option<Expr>,
    args: Vec<ValueId>,
}

impl Group {
    /// A group of one, for operators that others can join.
    fn of(graph: &Graph, id: NodeId, op: &Op) -> Option<Group> {
        let operands: Vec<_> = graph.operands(id).into_iter().flatten().collect();
        if op.is(&pointwise::DEF) {
            // An operand given twice is read once.
            let mut args: Vec<ValueId> = Vec::with_capacity(operands.len());
            operands.iter().for_each(|v| {
                if !args.contains(v) {
                    args.push(*v)
                }
            });
            let position = |i: usize| args.iter().position(|a| Some(a) == operands.get(i)).unwrap_or(0);
            let expr = op.attrs.expr("expr")?.substitute(&|i| Expr::Arg(position(i)));
            return Some(Group { root: id, members: vec![id], anchor: None, own: Vec::new(), expr: Some(expr), args });
        }
        Some(Group { root: id, members: vec![id], anchor: Some(id), own: operands, expr: None, args: Vec::new() })
    }

    /// Takes in a node all of whose consumers are members; whether it could.
    fn join(&mut self, graph: &Graph, id: NodeId, op: &Op, cx: &mut Context<'_>) -> bool {
        let (target, max_operands) = (cx.target, max_operands(cx.target));
        let mut refuse = |because: String| {
            cx.explain.note(&[&graph.node(id).name], "fuse", "join its consumer", || because);
            false
        };
        let value = id.out(0);
        let shape = &graph.ty(self.root.out(0)).shape;
        if has_doubles(graph, id) || has_doubles(graph, self.root) {
            // In a kernel's expression it would be f32.
            return refuse("f64 is computed on the host".to_owned());
        }
        if graph.ty(value).dtype.is_minifloat() {
            return refuse(format!("it rounds to {}", graph.ty(value).dtype));
        }
        if graph.ty(value).shape != *shape {
            return refuse(format!("its result is {}, the kernel's {shape}", graph.ty(value).shape));
        }
        // A consumer that is the anchor reads it as an operand, which is no element of the result.
        let Some(expr) = &self.expr else { return refuse("its consumer is no pointwise operator".to_owned()) };
        if self.own.contains(&value) {
            return refuse("its consumer reads other elements of it too".to_owned());
        }
        let operands: Vec<_> = graph.operands(id).into_iter().flatten().collect();
        if op.is(&pointwise::DEF) {
            let Some(inner) = op.attrs.expr("expr") else { return false };
            if self.anchor.is_some() && operands.iter().any(|v| may_be_anchor(graph, *v, id)) {
                return refuse("it follows an operator whose epilogue it can be".to_owned());
            }
            let n_own = self
                .anchor
                .and_then(|anchor| graph.node(anchor).op())
                .map_or(0, |op| n_buffers(graph, op, &self.own, target));
            let mut args = self.args.clone();
            args.retain(|v| *v != value);
            for operand in &operands {
                if !args.contains(operand) {
                    args.push(*operand);
                }
            }
            let n = args.iter().filter(|v| Some(v.node) != self.anchor).count() + n_own;
            let position = |v: ValueId| args.iter().position(|a| *a == v).unwrap_or(0);
            let inner = inner.substitute(&|i| Expr::Arg(position(operands[i])));
            // A member that stored integers wrapped them to its type.
            let known: Vec<_> = args.iter().map(|v| operand(graph.ty(*v))).collect();
            let inner = inner.wrapped(graph.ty(value).dtype, &known);
            let dtype = graph.ty(value).dtype;
            let merged = expr.substitute_by_use(&|i, has_steps| match self.args[i] == value {
                true if has_steps => inner.clone().rounded_to(dtype),
                true => inner.clone(),
                false => Expr::Arg(position(self.args[i])),
            });
            if self.anchor.is_some() && !merged.uses_all(args.len()) {
                return refuse(UNUSED.to_owned());
            }
            if n > max_operands || merged.size() > MAX_SIZE {
                return refuse(format!(
                    "the kernel would read {n} buffers of at most {max_operands} and compute {} functions of at most {MAX_SIZE}",
                    merged.size()
                ));
            }
            self.expr = Some(merged);
            self.args = args;
        } else {
            if self.anchor.is_some() || !op.takes_epilogue() {
                return refuse("its kernel takes no epilogue, or its consumer has an anchor already".to_owned());
            }
            // An index that is in range is the same in every type that holds it.
            if graph.ty(value).dtype.class() != Class::Float && !op.is(&check_indices::DEF) {
                return refuse("its result is no float".to_owned());
            }
            if !expr.uses_all(self.args.len()) {
                return refuse(UNUSED.to_owned());
            }
            let n = n_buffers(graph, op, &operands, target) + self.args.len() - 1;
            if n > max_operands {
                return refuse(format!("the kernel would read {n} buffers of at most {max_operands}"));
            }
            let dtype = graph.ty(value).dtype;
            let rounds = |i: usize, has_steps: bool| has_steps && self.args[i] == value;
            self.expr = Some(expr.substitute_by_use(&|i, has_steps| match rounds(i, has_steps) {
                true => Expr::Arg(i).rounded_to(dtype),
                false => Expr::Arg(i),
            }));
            self.anchor = Some(id);
            self.own = operands;
        }
        self.members.push(id);
        true
    }

    /// Adds the kernel.
    fn emit(&self, graph: &Graph, edit: &mut Edit<'_>, moved: &BTreeMap<ValueId, Val>) -> Result<Val, OpError> {
        let now = |v: ValueId| moved.get(&v).copied().unwrap_or(Val::Old(v));
        let dtype = graph.ty(self.root.out(0)).dtype;
        edit.on_behalf_of(self.root);
        let edit_error = |e| OpError::Edit(Box::new(e));
        let anchor = self.anchor.and_then(|a| Some((a, graph.node(a).op()?)));
        let val = match (anchor, &self.expr) {
            (None, Some(expr)) => {
                let args: Vec<_> = self.args.iter().map(|v| now(*v)).collect();
                edit.add(Op::new(&pointwise::DEF, pointwise::attrs(expr.clone(), dtype)), &args).map_err(edit_error)?
            }
            (Some((node, op)), expr) => {
                let mut operands: Vec<Option<Val>> = graph.operands(node).into_iter().map(|v| v.map(now)).collect();
                let mut attrs: Attrs = op.attrs.clone();
                if let Some(expr) = expr {
                    // The result of the anchor is x0; the others follow in the order in which they are read.
                    let mut rest: Vec<ValueId> = self.args.clone();
                    rest.retain(|v| v.node != node);
                    let number = |i: usize| rest.iter().position(|v| *v == self.args[i]).map_or(0, |p| p + 1);
                    attrs = attrs.with_expr("epilogue", expr.substitute(&|i| Expr::Arg(number(i))));
                    attrs.0.insert("dtype".to_owned(), Attr::DType(dtype));
                    operands.extend(rest.into_iter().map(|v| Some(now(v))));
                }
                edit.add_all(Op::new(op.def, attrs), &operands, graph.node(self.root).outputs.len())
                    .map_err(edit_error)?[0]
            }
            (None, None) => return Err(OpError::Bug("an empty group")),
        };
        let mut origin: Vec<String> = Vec::new();
        for member in self.members.iter().rev() {
            for name in graph.node(*member).origins() {
                if !origin.contains(name) {
                    origin.push(name.clone());
                }
            }
        }
        let format = self.anchor.and_then(|a| graph.node(a).format).or(graph.node(self.root).format);
        edit.set_origin(val, origin);
        edit.set_new_format(val, if dtype.is_float() { format.or(None) } else { None::<Format> });
        Ok(val)
    }
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::check;

    #[test]
    fn a_diamond_becomes_an_epilogue() {
        let text = "graph g core
  %x = input : f32[2,4]
  %w = input : f32[4,3]
  %b = input : f32[3]
  %m = matmul(%x, %w) {dtype=f32} : f32[2,3]
  %a = pointwise(%m, %b) {dtype=f32, expr=`add(x0,x1)`} : f32[2,3]
  %s = pointwise(%a) {dtype=f32, expr=`sigmoid(x0)`} : f32[2,3]
  %y = pointwise(%a, %s) {dtype=f32, expr=`mul(x0,x1)`} : f32[2,3]
  output %y
";
        let after = check("fuse", text, "diamond");
        assert_eq!(after.order().iter().filter(|id| after.node(**id).op().is_some()).count(), 1);
    }

    #[test]
    fn two_anchors_each_keep_what_follows_them() {
        let text = "graph g core
  %x = input : f32[2,4]
  %w = input : f32[4,3]
  %b = input : f32[3]
  %m = matmul(%x, %w) {dtype=f32} : f32[2,3]
  %a = pointwise(%m, %b) {dtype=f16, expr=`add(x0,x1)`} : f16[2,3]
  %n = matmul(%x, %w) {dtype=f32} : f32[2,3]
  %c = pointwise(%n, %b) {dtype=f16, expr=`add(x0,x1)`} : f16[2,3]
  %y = pointwise(%a, %c) {dtype=f16, expr=`add(x0,x1)`} : f16[2,3]
  output %y
";
        let after = check("fuse", text, "two_anchors");
        let types: Vec<_> = after.order().iter().filter(|id| after.node(**id).op().is_some()).copied().collect();
        assert_eq!(types.len(), 2, "{after}");
        assert!(types.iter().all(|id| after.ty(id.out(0)).dtype == crate::ir::DType::F16), "{after}");
    }

    #[test]
    fn what_a_step_is_computed_of_is_rounded_as_the_graph_has_it() {
        let text = "graph g core
  %x = input : f32[2,4]
  %w = input : f32[4,3]
  %b = input : f32[3]
  %m = matmul(%x, %w) {dtype=f16} : f16[2,3]
  %a = pointwise(%m, %b) {dtype=f16, expr=`add(x0,x1)`} : f16[2,3]
  %c = pointwise(%a) {dtype=f16, expr=`ceil(x0)`} : f16[2,3]
  %y = pointwise(%c, %a) {dtype=f16, expr=`add(x0,tanh(x1))`} : f16[2,3]
  output %y
";
        let after = check("fuse", text, "steps").to_string();
        assert!(after.contains("epilogue=`add(ceil(sf16(add(sf16(x0),x1))),tanh(add(x0,x1)))`"), "{after}");
    }

    #[test]
    fn an_operand_given_twice_is_read_once() {
        let text = "graph g core
  %x = input : f32[2,4]
  %b = input : f32[1,4]
  %n = norm(%x) {axis=1, dtype=f32, epsilon=0.01f, kind=\"layer\"} : f32[2,4]
  %y = pointwise(%n, %b, %b) {dtype=f32, expr=`add(mul(x0,x1),x2)`} : f32[2,4]
  output %y
";
        let after = check("fuse", text, "operand_twice");
        assert!(
            after.to_string().contains("%y = norm(%x, %b) {axis=1, dtype=f32, epilogue=`add(mul(x0,x1),x1)`"),
            "{after}"
        );
    }

    #[test]
    fn an_output_stays_by_itself() {
        let text = "graph g core
  %x = input : f32[2]
  %a = pointwise(%x) {dtype=f32, expr=`exp(x0)`} : f32[2]
  %y = pointwise(%a) {dtype=f32, expr=`neg(x0)`} : f32[2]
  output %a
  output %y
";
        let after = check("fuse", text, "refuses_output");
        assert_eq!(after.n_nodes(), 3);
    }

    #[test]
    fn a_broadcast_is_not_joined() {
        let text = "graph g core
  %x = input : f32[2,3]
  %v = input : f32[3]
  %e = pointwise(%v) {dtype=f32, expr=`exp(x0)`} : f32[3]
  %y = pointwise(%x, %e) {dtype=f32, expr=`add(x0,x1)`} : f32[2,3]
  output %y
";
        let after = check("fuse", text, "refuses_broadcast");
        assert_eq!(after.n_nodes(), 4);
    }

    #[test]
    fn an_expression_that_leaves_an_operand_unread_is_no_epilogue() {
        let text = "graph g core
  %x = input : f32[2,4]
  %w = input : f32[4,3]
  %v = input : f32[3]
  %m = matmul(%x, %w) {dtype=f32} : f32[2,3]
  %y = pointwise(%v, %m) {dtype=f32, expr=`neg(x0)`} : f32[2,3]
  output %y
";
        let after = check("fuse", text, "refuses_unread");
        assert_eq!(after.n_nodes(), 5);
    }
}
