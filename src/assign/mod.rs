//! The budget: what each format of each group costs, and which assignment fits with the least predicted error.

pub mod model;
pub mod score;
pub mod solve;
