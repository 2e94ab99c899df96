//! Removes what no output needs.
//!
//! Looks for nodes from which no output can be reached, and removes them. Equal because nothing observes them. Inputs
//! of the graph stay: they are its interface.

use super::{Context, Pass, PassError};
use crate::ir::{Edit, Graph, Patch};

/// The pass.
pub struct RemoveDeadCode;

impl Pass for RemoveDeadCode {
    fn name(&self) -> &str {
        "remove_dead_code"
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        edit.remove_dead();
        Ok(edit.finish())
    }
}

#[cfg(test)]
mod tests {
    use crate::passes::testing::{check, stays};

    const DEAD: &str = "graph g core
  %x = input : f32[2]
  %y = pointwise(%x) {dtype=f32, expr=`neg(x0)`} : f32[2]
  %dead = pointwise(%x) {dtype=f32, expr=`exp(x0)`} : f32[2]
  %deader = pointwise(%dead) {dtype=f32, expr=`exp(x0)`} : f32[2]
  output %y
";

    #[test]
    fn a_chain_that_nothing_needs_goes() {
        let after = check("remove_dead_code", DEAD, "chain");
        assert!(!after.to_string().contains("dead"));
    }

    #[test]
    fn what_is_needed_stays() {
        let text = "graph g core\n  %x = input : f32[2]\n  %y = pointwise(%x) {dtype=f32, expr=`neg(x0)`} : f32[2]\n  output %y\n";
        stays("remove_dead_code", text);
    }
}
