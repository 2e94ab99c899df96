//! What a stage of the pipeline finds out and those after it may know.

use super::candidates::Known;
use super::explain::Choice;
use super::lowering::Lowered;
use super::stored_rows::ScaleTypes;
use super::{PassError, Policy};
use crate::plan::Forecast;
use crate::program::Certificate;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// What was found out so far: a field for each stage that leaves something, empty until it ran.
#[derive(Default)]
pub struct Facts<'a> {
    /// The assignment of formats.
    pub assignment: Option<Assignment<'a>>,
    /// What plans take: that of the assignment, of the smallest, and of `uniform:f32`.
    pub forecast: Option<Forecast>,
    /// Why each node has its format, by name.
    pub reasons: BTreeMap<String, String>,
    /// The types of scales that were looked for.
    pub(super) scale_types: Arc<ScaleTypes>,
    /// What the passes to come make of the assignment, where they ran to count it.
    pub(super) lowered: Option<Box<Lowered>>,
}

/// The assignment of formats.
pub struct Assignment<'a> {
    /// What proves it.
    pub certificate: Certificate,
    /// How long the solver took. Kept out of the certificate, which is part of the program and so must not depend on
    /// the clock.
    pub solve_time: Duration,
    /// What it was chosen from.
    pub(super) known: Known<'a>,
}

impl Assignment<'_> {
    /// Why the nodes of these names have their formats and what others would cost, group by group. `reasons` are
    /// [`Facts::reasons`]. What a format would take is planned where [`Settings::explain`](super::Settings::explain)
    /// asked for an explanation; elsewhere every choice has the bytes of the assignment.
    ///
    /// # Errors
    /// An assignment that was not chosen cannot be planned.
    pub fn explain(
        &self,
        nodes: &BTreeSet<String>,
        reasons: &BTreeMap<String, String>,
        policy: Policy,
    ) -> Result<Vec<Choice>, PassError> {
        self.known.explain(nodes, reasons, policy)
    }

    /// Relative error of the program that one more byte of budget would save at the margin.
    pub fn shadow_price(&self) -> f64 {
        self.known.shadow_price()
    }
}
