//! Copies what is read of a state after another version was stored over it.
//!
//! Looks for reads of a version of a state by nodes that also need what comes after the store over it, and for outputs
//! that are such versions: on a device all versions share the same memory. They read a copy instead, which is made
//! before the store. Equal because a copy is the value. Refuses nothing; every other read runs before the store.

use super::{Context, Pass, PassError, at};
use crate::ir::{Edit, Expr, Graph, Late, Op, OpError, Patch, Val, ValueId};
use crate::ops::core::pointwise;
use std::collections::BTreeMap;

/// The pass.
pub struct CopyStates;

impl Pass for CopyStates {
    fn name(&self) -> &str {
        "copy_states"
    }

    fn is_required(&self) -> bool {
        true
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        let mut copies: BTreeMap<ValueId, Val> = BTreeMap::new();
        let mut copy = |edit: &mut Edit<'_>, value: ValueId| -> Result<Val, PassError> {
            if let Some(made) = copies.get(&value) {
                return Ok(*made);
            }
            let attrs = pointwise::attrs(Expr::Arg(0), graph.ty(value).dtype);
            let made = edit.add(Op::new(&pointwise::DEF, attrs), &[value.into()]);
            let name = &graph.value(value).name;
            let made = made.map_err(|e| at(name)(OpError::Edit(Box::new(e))))?;
            edit.set_name(made, &format!("{name}.copy"));
            copies.insert(value, made);
            Ok(made)
        };
        for late in graph.ordering().late() {
            match *late {
                Late::Operand(reader, slot) => {
                    let Some(Some(value)) = graph.operands(reader).get(slot).copied() else { continue };
                    edit.on_behalf_of(reader);
                    let made = copy(&mut edit, value)?;
                    edit.set_operand(reader, slot, made);
                }
                Late::Output(output) => {
                    let made = copy(&mut edit, graph.outputs()[output].value)?;
                    edit.set_output(output, made);
                }
            }
        }
        Ok(edit.finish())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::passes::Settings;
    use crate::passes::testing::{check, read};
    use crate::targets::Target;

    #[test]
    fn what_is_read_late_is_copied_before_the_store() {
        let text = "graph g core
  %x = input : f32[2]
  %s = state [0.0,0.0] : f32[2]
  %s.1 = state_store(%s, %x) : f32[2]
  %y = pointwise(%s.1, %s) {dtype=f32, expr=`sub(x0,x1)`} : f32[2]
  output %y
  output %s as \"before\"
  state %s = %s.1
";
        let after = check("copy_states", text, "late");
        assert_eq!(after.ordering().late(), []);
        assert_eq!(after.to_string().matches("expr=`x0`").count(), 1, "one copy serves both");
    }

    #[test]
    fn what_can_be_read_in_time_is_not_copied() {
        let text = "graph g core
  %x = input : f32[2]
  %s = state [0.0,0.0] : f32[2]
  %y = pointwise(%x, %s) {dtype=f32, expr=`sub(x0,x1)`} : f32[2]
  %s.1 = state_store(%s, %x) : f32[2]
  output %s.1
  output %y
  state %s = %s.1
";
        let after = read(text);
        let (target, settings) = (Target::shipped("lavapipe").unwrap(), Settings::default());
        assert!(CopyStates.run(&after, &mut Context::new(&target, &settings)).unwrap().is_empty());
        let order: Vec<_> = after.order().into_iter().map(|id| after.node(id).name.clone()).collect();
        let at = |name: &str| order.iter().position(|n| n == name).unwrap();
        assert!(at("y") < at("s.1"), "the read comes before the store, though its output comes behind: {order:?}");
    }
}
