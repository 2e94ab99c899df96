//! Sizes and values that a model needs and nobody has given: all of them in one error. A node that cannot be built
//! without one is passed over, with all that depend on it, and the rest is built to see what else is missing.

use super::body;
use super::build::Builder;
use super::error::ImportError;
use super::read::RawNode;
use super::sequence::Bound;
use std::collections::BTreeMap;

/// Operands that must be known, by operator of the default domain: asked of nodes that are passed over, whose type
/// rules cannot be asked.
const KNOWN: &[(&str, &[usize])] = &[
    ("CenterCropPad", &[1]),
    ("ConstantOfShape", &[0]),
    ("Expand", &[1]),
    ("MaxUnpool", &[2]),
    ("OneHot", &[1]),
    ("Pad", &[1, 3]),
    ("Range", &[0, 1, 2]),
    ("ReduceL1", &[1]),
    ("ReduceL2", &[1]),
    ("ReduceLogSum", &[1]),
    ("ReduceLogSumExp", &[1]),
    ("ReduceMax", &[1]),
    ("ReduceMean", &[1]),
    ("ReduceMin", &[1]),
    ("ReduceProd", &[1]),
    ("ReduceSum", &[1]),
    ("ReduceSumSquare", &[1]),
    ("Reshape", &[1]),
    ("Resize", &[2, 3]),
    ("Slice", &[1, 2, 3, 4]),
    ("Split", &[1]),
    ("Squeeze", &[1]),
    ("Tile", &[1]),
    ("TopK", &[1]),
    ("Unsqueeze", &[1]),
];

/// What is missing so far.
#[derive(Default)]
pub(super) struct Missing {
    first: Option<ImportError>,
    /// Inputs of the model, and their types.
    inputs: BTreeMap<String, String>,
}

impl Builder<'_> {
    /// Notes that a node cannot be built, and goes on where only a size or a value is missing. Bodies are not gone on
    /// with: their number may depend on it.
    pub(super) fn go_on_after(&mut self, node: &RawNode, error: ImportError) -> Result<(), ImportError> {
        if !error.is_missing() || self.is_body || self.depth != self.calls.len() {
            return Err(error);
        }
        if let Some(name) = error.free_input() {
            self.note_input(name);
        }
        self.missing.first.get_or_insert(error);
        self.bind_unknown(node)
    }

    /// Whether an operand of a node, or a value that a body of it uses, is unknown: then its outputs are, too.
    pub(super) fn passes_over(&mut self, node: &RawNode) -> Result<bool, ImportError> {
        if self.missing.first.is_none() {
            return Ok(false);
        }
        let mut used: Vec<&str> = node.inputs.iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
        node.graphs.iter().for_each(|(_, graph)| body::free(graph, &mut Vec::new(), &mut used));
        if !used.iter().any(|name| matches!(self.bound(name), Ok(Bound::Unknown))) {
            return Ok(false);
        }
        let slots = KNOWN.iter().find(|(op, _)| node.domain.is_empty() && *op == node.op).map_or(&[][..], |(_, s)| *s);
        for name in slots.iter().filter_map(|slot| node.inputs.get(*slot)).filter(|name| !name.is_empty()) {
            if let Ok(Bound::One(known)) = self.bound(name)
                && self.tensor(known).is_none()
                && let Some(input) = self.input_behind(known)
            {
                self.note_input(&input);
            }
        }
        self.bind_unknown(node)?;
        Ok(true)
    }

    fn note_input(&mut self, name: &str) {
        let input = self.graph.inputs().iter().copied().find(|id| self.graph.node(*id).name == name);
        let ty = input.map(|id| self.graph.ty(id.out(0)).to_string()).unwrap_or_default();
        self.missing.inputs.insert(name.to_owned(), ty);
    }

    fn bind_unknown(&mut self, node: &RawNode) -> Result<(), ImportError> {
        node.outputs.iter().filter(|name| !name.is_empty()).try_for_each(|name| self.bind(name, Bound::Unknown))
    }

    /// An error that says all that is missing, if anything.
    pub(super) fn refuse_missing(&mut self) -> Result<(), ImportError> {
        let missing = std::mem::take(&mut self.missing);
        match missing.first {
            None => Ok(()),
            Some(error) => Err(error.of_all(missing.inputs.into_iter().collect(), self.model.unbound.to_vec())),
        }
    }
}
