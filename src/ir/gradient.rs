//! What the rule of an operator's derivative sees.

use super::{Expand, OpError, Val};
use std::ops::{Deref, DerefMut};

/// What a rule gives.
pub enum Gains {
    /// What each operand gains, in its shape, or in the result's where it was broadcast; `None` for one that gains
    /// nothing, or whose gain is not [wanted](Differentiate::wants).
    Are(Vec<Option<Val>>),
    /// The results, written in operators that have rules.
    Written(Vec<Val>),
    /// The rule leaves this form of the operator to its expansion.
    Expanded,
}

/// Writes what the operands of a node gain where its results gain [`Differentiate::gains`].
pub type GradientFn = &'static (dyn Fn(&mut Differentiate<'_, '_>) -> Result<Gains, OpError> + Sync);

/// What the rule of a derivative sees: the node as an expansion sees it, what it computed, and what that gains.
pub struct Differentiate<'e, 'g> {
    /// The node: attributes, operands, types of the results, and the edit to write into.
    pub node: Expand<'e, 'g>,
    /// Its results.
    pub results: Vec<Val>,
    /// What each result gains, in its shape; `None` where nothing depends on it.
    pub gains: Vec<Option<Val>>,
    /// Whether what an operand gains is asked for.
    pub wanted: Vec<bool>,
}

impl Differentiate<'_, '_> {
    /// Whether what operand `slot` gains is asked for: it depends on what derivatives are with respect to.
    pub fn wants(&self, slot: usize) -> bool {
        self.wanted.get(slot).copied().unwrap_or(false)
    }

    /// What the first result gains.
    ///
    /// # Errors
    /// Nothing depends on it, but on another result.
    pub fn gain(&self) -> Result<Val, OpError> {
        let gain = self.gains.first().copied().flatten();
        gain.ok_or_else(|| OpError::unsupported("a derivative by way of another than the first result"))
    }

    /// The first result.
    ///
    /// # Errors
    /// It has none.
    pub fn result(&self) -> Result<Val, OpError> {
        self.results.first().copied().ok_or_else(|| OpError::unsupported("a derivative of no result"))
    }
}

impl Differentiate<'_, '_> {
    /// The known sizes of an operand.
    ///
    /// # Errors
    /// It is absent, or a size is not known.
    pub fn sizes(&self, slot: usize) -> Result<Vec<usize>, OpError> {
        let ty = self.ty(self.input(slot)?);
        ty.shape.known().ok_or_else(|| OpError::operand(slot, &ty, "known sizes, for its derivative"))
    }
}

impl<'e, 'g> Deref for Differentiate<'e, 'g> {
    type Target = Expand<'e, 'g>;
    fn deref(&self) -> &Expand<'e, 'g> {
        &self.node
    }
}

impl<'e, 'g> DerefMut for Differentiate<'e, 'g> {
    fn deref_mut(&mut self) -> &mut Expand<'e, 'g> {
        &mut self.node
    }
}
