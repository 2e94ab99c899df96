//! Why a model is not imported.

use super::DimBinding;
use crate::ir::OpError;
use std::fmt;
use std::path::PathBuf;

/// A model was refused: what is wrong, and in which node where it is one.
#[derive(Debug)]
pub struct ImportError {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: Option<NodeAt>,
    kind: Kind,
}

/// The node that an error is about, as the file has it.
#[derive(Clone, Debug)]
pub(super) struct NodeAt {
    pub(super) name: String,
    /// `domain::operator`, without the domain where it is the default one.
    pub(super) op: String,
    pub(super) opset: i64,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Kind {
    #[error("cannot read {}: {source}", path.display())]
    Io { path: PathBuf, source: std::io::Error },
    #[error("not an ONNX model: {source}")]
    Decode { source: prost::DecodeError },
    #[error("{n} protobuf messages in {n_bytes} bytes, at most {most} are read: the file is made to fill the memory")]
    Messages { n: usize, most: usize, n_bytes: usize },
    #[error("the model has no graph")]
    NoGraph,
    #[error("the model imports no opset of the default domain; opsets {min} to {max} are supported")]
    NoOpset { min: i64, max: i64 },
    #[error("opset {found} of the default domain is not supported, {min} to {max} are")]
    Opset { found: i64, min: i64, max: i64 },
    #[error("functions and subgraphs nest deeper than {limit}")]
    Depth { limit: usize },
    #[error(
        "{text:?} is no binding of a dimension: expected NAME=SIZE or INPUT.AXIS=SIZE, the size a number, a range 1..512 or an expression as past+seq"
    )]
    Binding { text: String },
    #[error("dimension {name:?} is {size}, but {symbol} has no range: give --dim {symbol}=1..N")]
    FreeSymbol { name: String, size: String, symbol: String },
    #[error("dimension {name:?} is {size}, which may be {low} to {high}: sizes are 0 and more, and have an end")]
    SizeRange { name: String, size: String, low: i64, high: i64 },
    #[error("no dimension is named {name:?}; the model has {available}")]
    UnknownDim { name: String, available: String },
    #[error("dimension {name:?} is {size} in the model, {given} was given")]
    FixedDim { name: String, size: String, given: String },
    #[error("dimension {name:?} is given twice, as {first} and as {second}")]
    TwiceDim { name: String, first: String, second: String },
    #[error("input {name:?}: {problem}")]
    Input { name: String, problem: String },
    #[error("output {name:?}: {problem}")]
    Output { name: String, problem: String },
    #[error("input {name:?} as a constant: {problem}")]
    Fixed { name: String, problem: String },
    #[error(
        "operand {slot} must be a constant, and is the model's input {name:?}: give it a value with --constants {name}=VALUE"
    )]
    FreeInput { slot: usize, name: String },
    #[error("input {name:?} holds: {problem}")]
    Held { name: String, problem: String },
    #[error("{}", not_held(inputs))]
    NotHeld { inputs: Vec<(String, String, String)> },
    #[error("tensor {name:?}: {problem}")]
    Tensor { name: String, problem: String },
    #[error("tensor {name:?}: {needed} bytes from byte {offset} of {file:?}: {problem}")]
    External { name: String, file: String, offset: u64, needed: u64, problem: String },
    #[error("attribute {name:?} {problem}")]
    Attribute { name: String, problem: String },
    #[error("unknown operator")]
    UnknownOp,
    #[error("model-local function {name} {problem}")]
    Function { name: String, problem: String },
    #[error("operand {value:?} is produced by no earlier node, input or initializer")]
    UnknownValue { value: String },
    #[error("the graph is not in topological order: operand {value:?} is produced only by the later node {producer:?}")]
    Order { value: String, producer: String },
    #[error("value {value:?} is produced twice")]
    Twice { value: String },
    #[error("{given} operands, expected {min} to {max}")]
    Arity { given: usize, min: usize, max: usize },
    #[error("{given} outputs, the operator has {has}")]
    Outputs { given: usize, has: usize },
    #[error("{0}")]
    Form(String),
    #[error("{source}")]
    Type { source: OpError },
    #[error("{source}, but its value depends on sizes that are not known: give {}", hints(symbols))]
    UnboundDim { source: OpError, symbols: Vec<String> },
    #[error("{source}{}", proposed(proposals))]
    Unrelated { source: OpError, proposals: Vec<Vec<DimBinding>> },
    #[error("{first}; in all the model needs{}", needed(inputs, dims))]
    Missing { first: Box<Kind>, inputs: Vec<(String, String)>, dims: Vec<String> },
}

/// Inputs that are no tensors, with their types and what is given for them on the command line.
fn not_held(inputs: &[(String, String, String)]) -> String {
    let each = inputs.iter().map(|(name, ty, argument)| {
        format!("input {name:?} is {ty}: a program takes the tensors that it holds, so say which, as {argument}")
    });
    each.collect::<Vec<_>>().join("; ")
}

/// What would relate the sizes, as it is given on the command line.
fn proposed(proposals: &[Vec<DimBinding>]) -> String {
    let arguments =
        |bindings: &Vec<DimBinding>| bindings.iter().map(DimBinding::argument).collect::<Vec<_>>().join(" ");
    proposals.first().map_or(String::new(), |bindings| format!("; they would fit with {}", arguments(bindings)))
}

/// Dimensions and inputs, as they are given on the command line.
fn needed(inputs: &[(String, String)], dims: &[String]) -> String {
    let dims = dims.iter().map(|name| format!(" --dim {name}=N"));
    dims.chain(inputs.iter().map(|(name, ty)| format!(" --constants {name}=VALUE ({ty})"))).collect()
}

fn hints(symbols: &[String]) -> String {
    symbols.iter().map(|s| format!("--dim {s}=N")).collect::<Vec<_>>().join(" ")
}

impl ImportError {
    /// The name of the node in which the error is, where it is in one.
    pub fn node(&self) -> Option<&str> {
        self.inner.node.as_ref().map(|at| at.name.as_str())
    }

    /// The operator of that node, as `domain::name` where the domain is not the default one.
    pub fn operator(&self) -> Option<&str> {
        self.inner.node.as_ref().map(|at| at.op.as_str())
    }

    /// Whether a file could not be read, rather than what it says being wrong.
    pub fn is_io(&self) -> bool {
        matches!(self.inner.kind, Kind::Io { .. })
    }

    /// Whether the options were wrong, rather than the model: a dimension, or a value or a type of an input.
    pub fn is_usage(&self) -> bool {
        matches!(
            self.inner.kind,
            Kind::UnknownDim { .. }
                | Kind::Fixed { .. }
                | Kind::Held { .. }
                | Kind::FixedDim { .. }
                | Kind::TwiceDim { .. }
                | Kind::FreeSymbol { .. }
                | Kind::SizeRange { .. }
                | Kind::Binding { .. }
        )
    }

    /// Whether the operator is one that nyxc does not know.
    pub fn is_unknown_operator(&self) -> bool {
        matches!(self.inner.kind, Kind::UnknownOp)
    }

    /// The names of the dimensions that must be given for the model to import, where that is what is missing.
    pub fn unbound(&self) -> &[String] {
        match &self.inner.kind {
            Kind::UnboundDim { symbols, .. } => symbols,
            Kind::Missing { dims, .. } => dims,
            _ => &[],
        }
    }

    /// The input of the model whose value must be known for the model to import, the first of several, where that is
    /// what is missing.
    pub fn free_input(&self) -> Option<&str> {
        match &self.inner.kind {
            Kind::FreeInput { name, .. } => Some(name),
            Kind::Missing { inputs, .. } => inputs.first().map(|(name, _)| name.as_str()),
            _ => None,
        }
    }

    /// The inputs of the model of which must be said what they hold for the model to import
    /// ([`ImportOptions::held`](super::ImportOptions::held)), where that is what is missing.
    pub fn not_held(&self) -> impl Iterator<Item = &str> {
        let inputs = if let Kind::NotHeld { inputs } = &self.inner.kind { inputs.as_slice() } else { &[] };
        inputs.iter().map(|(name, ..)| name.as_str())
    }

    /// Whether sizes or values are missing that a user can give.
    pub(super) fn is_missing(&self) -> bool {
        matches!(self.inner.kind, Kind::FreeInput { .. } | Kind::UnboundDim { .. })
    }

    /// The error about the first of several sizes and values that are missing, saying all: inputs with their types, and
    /// dimensions.
    pub(super) fn of_all(mut self, inputs: Vec<(String, String)>, dims: Vec<String>) -> ImportError {
        let is_said = match &self.inner.kind {
            Kind::FreeInput { .. } => inputs.len() == 1 && dims.is_empty(),
            Kind::UnboundDim { symbols, .. } => inputs.is_empty() && *symbols == dims,
            _ => true,
        };
        if !is_said {
            let first = Box::new(std::mem::replace(&mut self.inner.kind, Kind::NoGraph));
            self.inner.kind = Kind::Missing { first, inputs, dims };
        }
        self
    }

    /// Bindings of dimensions with which a node would not have been refused, each a list of what is to be given
    /// together.
    pub(super) fn proposals(&self) -> &[Vec<DimBinding>] {
        if let Kind::Unrelated { proposals, .. } = &self.inner.kind { proposals } else { &[] }
    }

    /// The same error with other proposals.
    pub(super) fn with_proposals(mut self, new: Vec<Vec<DimBinding>>) -> ImportError {
        if let Kind::Unrelated { proposals, .. } = &mut self.inner.kind {
            *proposals = new;
        }
        self
    }

    /// An error about a value that nothing before has produced, where a later node, which `producer` finds, does: the
    /// graph is out of order.
    pub(super) fn in_order(mut self, producer: impl FnOnce(&str) -> Option<String>) -> ImportError {
        if let Kind::UnknownValue { value } = &self.inner.kind
            && let Some(producer) = producer(value)
        {
            self.inner.kind = Kind::Order { value: value.clone(), producer };
        }
        self
    }

    /// An error in a function: a value that nothing there produces is none of the graph's that calls.
    pub(super) fn in_function(mut self) -> ImportError {
        if let Kind::UnknownValue { .. } = &self.inner.kind {
            self.inner.kind = Kind::Form(self.inner.kind.to_string());
        }
        self
    }

    /// The error said to be in this node. One that is in a node already, perhaps of a subgraph, stays there.
    pub(super) fn at(mut self, at: impl FnOnce() -> NodeAt) -> ImportError {
        self.inner.node.get_or_insert_with(at);
        self
    }
}

impl From<Kind> for ImportError {
    fn from(kind: Kind) -> ImportError {
        ImportError { inner: Box::new(Inner { node: None, kind }) }
    }
}

impl fmt::Display for ImportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = &self.inner.node {
            write!(f, "node {:?} ({}, opset {}): ", at.name, at.op, at.opset)?;
        }
        write!(f, "{}", self.inner.kind)
    }
}

impl std::error::Error for ImportError {}
