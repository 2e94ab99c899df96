//! Copies what is read of a state after another version was stored over it.
//!
//! Looks for reads of a version of a state by nodes that also need what comes after the store over it, and for outputs
//! that are such versions: on a device all versions lie in the same memory. They read a copy instead, which is made
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
