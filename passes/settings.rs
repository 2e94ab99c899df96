//! What the user asks of a compilation.

use crate::assign::Policy;
use crate::assign::score::Errors;
use crate::ir::{DEFAULT_BLOCK, Format, FormatError, Graph, Node};
use crate::quant::calibration::Calibration;
use globset::{GlobBuilder, GlobMatcher};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;

/// Settings of one compilation.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How formats are assigned.
    pub policy: Policy,
    /// What the program must fit in, in bytes; `None` for the target's default.
    pub budget_bytes: Option<u64>,
    /// Held back from the budget, in bytes.
    pub reserve_bytes: u64,
    /// The formats that may be assigned.
    pub formats: Vec<Format>,
    /// The errors of weights that were measured: whoever compiles again with settings cloned of these measures none
    /// twice.
    pub errors: Arc<Errors>,
    /// Nodes whose format the user decided; the last that matches wins.
    pub pins: Vec<Pin>,
    /// The name of a node or value whose formats and near misses are to be explained.
    pub explain: Option<String>,
    /// Whether nodes may run on the host, where no kernel covers them.
    pub allow_host: bool,
    /// Whether indices are held against their axes while the program runs.
    pub check_indices: bool,
    /// What was learnt from data of the model: weights of products are quantized by it (GPTQ).
    pub calibration: Option<Arc<Calibration>>,
    /// Inputs of the model that became constants, and why: an error for whoever gives one of them says so.
    pub fixed_inputs: BTreeMap<String, String>,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            policy: Policy::Budget,
            budget_bytes: None,
            reserve_bytes: 0,
            formats: Format::MENU.to_vec(),
            errors: Arc::default(),
            pins: Vec::new(),
            explain: None,
            allow_host: true,
            check_indices: true,
            calibration: None,
            fixed_inputs: BTreeMap::new(),
        }
    }
}

impl Settings {
    /// Permits every block, and one scale a row, for every permitted format whose weights are integers with the default
    /// block: the solver chooses.
    pub fn permit_each_block(&mut self) {
        self.formats = self.formats.iter().flat_map(|format| format.with_each_block()).collect();
    }

    /// Makes `block` the block of every permitted format that has one and names none of its own.
    pub fn set_block(&mut self, block: u32) {
        let change = |format: &mut Format| {
            if format.with_block(DEFAULT_BLOCK) == *format {
                *format = format.with_block(block);
            }
        };
        self.formats.iter_mut().for_each(change);
        if let Policy::Uniform(format) = &mut self.policy {
            change(format);
        }
    }

    /// The formats that the policy may give a node that no pin matches.
    pub fn permitted(&self) -> &[Format] {
        if let Policy::Uniform(format) = &self.policy { std::slice::from_ref(format) } else { &self.formats }
    }

    /// The format that the last matching pin gives a node.
    pub fn pinned(&self, node: &Node) -> Option<Format> {
        self.pins.iter().rev().find(|pin| pin.matches(node)).map(|pin| pin.format)
    }

    /// Checks that every pin matches a node.
    ///
    /// # Errors
    /// The first that matches none.
    pub fn check_pins(&self, graph: &Graph) -> Result<(), PinError> {
        let nodes: Vec<_> = graph.order().into_iter().map(|id| graph.node(id)).filter(|n| n.op().is_some()).collect();
        match self.pins.iter().find(|pin| !nodes.iter().any(|node| pin.matches(node))) {
            Some(pin) => Err(PinError::NoMatch { pattern: pin.pattern.clone(), n_nodes: nodes.len() }),
            None => Ok(()),
        }
    }
}

/// `PATTERN=FORMAT`: nodes whose format the user decided.
#[derive(Clone, Debug)]
pub struct Pin {
    pattern: String,
    matcher: Matcher,
    /// The format they get.
    pub format: Format,
}

#[derive(Clone, Debug)]
enum Matcher {
    Name(GlobMatcher),
    Op(String),
}

/// Why a pin cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum PinError {
    #[error("{given:?} is not PATTERN=FORMAT")]
    Form { given: String },
    #[error("{pattern:?} is no glob: {reason}")]
    Glob { pattern: String, reason: String },
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("{pattern:?} matches none of the {n_nodes} nodes; `nyxc print MODEL` lists their names")]
    NoMatch { pattern: String, n_nodes: usize },
}

impl FromStr for Pin {
    type Err = PinError;
    fn from_str(text: &str) -> Result<Pin, PinError> {
        // The format has no `=`, a name may: the last one divides.
        let (pattern, format) = text.rsplit_once('=').ok_or_else(|| PinError::Form { given: text.to_owned() })?;
        let matcher = match pattern.strip_prefix("op:") {
            Some(op) => Matcher::Op(op.to_owned()),
            None => Matcher::Name(
                GlobBuilder::new(pattern)
                    .build()
                    .map_err(|e| PinError::Glob { pattern: pattern.to_owned(), reason: e.kind().to_string() })?
                    .compile_matcher(),
            ),
        };
        Ok(Pin { pattern: pattern.to_owned(), matcher, format: format.parse()? })
    }
}

impl Pin {
    /// The text of a pin that matches the node of this name alone, whatever it is made of.
    pub fn text_for(name: &str, format: Format) -> String {
        let pattern = globset::escape(name);
        // An operator's name would follow.
        let pattern = pattern.strip_prefix("op:").map_or_else(|| pattern.clone(), |rest| format!("[o]p:{rest}"));
        format!("{pattern}={format}")
    }

    fn matches(&self, node: &Node) -> bool {
        match (&self.matcher, node.op()) {
            // What stands in for several nodes of the model is known by their names too.
            (Matcher::Name(glob), _) => {
                glob.is_match(&node.name) || node.origins().iter().any(|name| glob.is_match(name))
            }
            (Matcher::Op(name), Some(op)) => op.def.onnx == name || op.def.name == name,
            _ => false,
        }
    }
}
