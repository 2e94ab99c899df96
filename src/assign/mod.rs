//! The budget: what each format of each group costs, and which assignment fits with the least predicted error.
//!
//! [`model`] groups nodes and prices formats, [`score`] predicts their error, [`menu`] is the two together as the
//! solver sees them, [`solve`] chooses, and [`budget`] is the loop that counts what was chosen and chooses again.

pub mod budget;
pub mod menu;
pub mod model;
mod over;
mod policy;
pub mod score;
pub mod solve;

pub use over::OverBudget;
pub use policy::Policy;

/// Why no assignment can be looked for.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum AssignError {
    #[error("node {node:?}: {source}")]
    Score { node: String, source: crate::ir::OpError },
    #[error(transparent)]
    Solve(#[from] solve::SolveError),
}
