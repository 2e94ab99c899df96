//! Parsing. Text may come from strangers: every error says where, nothing recurses without limit.

mod data;
mod node;
mod scan;
mod types;

use crate::ir::{Dim, Graph, Level, Module, Registry, Tensor, TensorType, ValueId};
use std::collections::{BTreeMap, BTreeSet};

/// Finds the data of a constant by the hash that is printed of it; `None` where it is not at hand.
pub type ConstSource<'a> = &'a dyn Fn(&str, &TensorType) -> Option<Tensor>;

/// Why a text is no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// 1-based.
    pub line: usize,
    /// 1-based, in bytes.
    pub column: usize,
    message: String,
}

/// Deepest nesting of subgraphs and sizes accepted.
const MAX_DEPTH: usize = 64;

/// Reads the text form of a graph. Constants that `source` does not have are absent: the graph can be looked at, but
/// not computed.
///
/// # Errors
/// The text is none, with the place and what was expected.
pub fn parse(text: &str, registry: &Registry, source: ConstSource<'_>) -> Result<Graph, ParseError> {
    let mut parser = Parser::new(text, registry, source);
    let graph = parser.outer_graph()?;
    if parser.at != text.len() { Err(parser.refuse("expected the end")) } else { Ok(graph) }
}

/// Reads the text form of a module; that of a graph alone is its entry `main`. Constants are as for [`parse`].
///
/// # Errors
/// The text is none, with the place and what was expected.
pub fn parse_module(text: &str, registry: &Registry, source: ConstSource<'_>) -> Result<Module, ParseError> {
    let mut parser = Parser::new(text, registry, source);
    if !parser.take("module ") {
        return parse(text, registry, source).map(Module::of);
    }
    let mut module = Module { name: parser.name()?, ..Module::default() };
    parser.space();
    while parser.peek("entry ") {
        let start = parser.at;
        parser.eat("entry ")?;
        let name = parser.name()?;
        parser.space();
        parser.ranges.clear();
        let graph = parser.outer_graph()?;
        if module.entries.insert(name.clone(), graph).is_some() {
            parser.at = start;
            return Err(parser.refuse(format!("entry {name:?} is defined twice")));
        }
    }
    if parser.at != text.len() || module.entries.is_empty() {
        return Err(parser.refuse("expected an entry"));
    }
    Ok(module)
}

/// Reads one size, as `2*seq+1`, whose symbols have their ranges elsewhere: they may be any number from 0.
///
/// # Errors
/// The text is none.
pub fn parse_dim(text: &str) -> Result<Dim, ParseError> {
    alone(text, |parser| {
        parser.unlisted = Some((0, i64::MAX));
        parser.dim(0)
    })
}

/// Reads one type, as `f32[1,784]`.
///
/// # Errors
/// The text is none.
pub fn parse_type(text: &str) -> Result<TensorType, ParseError> {
    alone(text, |parser| parser.ty())
}

/// Reads one type as [`parse_type`], whose symbols have their ranges elsewhere: they may be any number from 0.
///
/// # Errors
/// The text is none.
pub fn parse_open_type(text: &str) -> Result<TensorType, ParseError> {
    alone(text, |parser| {
        parser.unlisted = Some((0, i64::MAX));
        parser.ty()
    })
}

fn alone<T>(text: &str, read: impl FnOnce(&mut Parser<'_>) -> Result<T, ParseError>) -> Result<T, ParseError> {
    let registry = Registry::default();
    let mut parser = Parser::new(text, &registry, &|_, _| None);
    let value = read(&mut parser)?;
    if parser.at != text.len() { Err(parser.refuse("expected the end")) } else { Ok(value) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    registry: &'a Registry,
    source: ConstSource<'a>,
    /// What the head of the graph says of its symbols.
    ranges: BTreeMap<String, (i64, i64)>,
    /// The range of symbols that `ranges` does not have.
    unlisted: Option<(i64, i64)>,
}

type Parsed<T> = Result<T, ParseError>;

impl<'a> Parser<'a> {
    fn new(text: &'a str, registry: &'a Registry, source: ConstSource<'a>) -> Parser<'a> {
        Parser { text, at: 0, registry, source, ranges: BTreeMap::new(), unlisted: None }
    }

    /// A graph, the line of its memory, and blanks behind.
    fn outer_graph(&mut self) -> Parsed<Graph> {
        let graph = self.graph(0)?;
        self.space();
        if self.peek("memory") {
            self.at += self.text[self.at..].find('\n').unwrap_or(self.text.len() - self.at);
            self.space();
        }
        Ok(graph)
    }

    fn graph(&mut self, depth: usize) -> Parsed<Graph> {
        if depth > MAX_DEPTH {
            return Err(self.refuse("subgraphs nested too deeply"));
        }
        self.eat("graph ")?;
        let name = self.name()?;
        self.eat(" ")?;
        let level = match self.word("") {
            "onnx" => Level::Onnx,
            "core" => Level::Core,
            "kernel" => Level::Kernel,
            other => return Err(self.refuse(format!("{other:?} is none of the levels onnx, core, kernel"))),
        };
        if depth == 0 && self.take(" where") {
            self.ranges()?;
        }
        let mut graph = Graph::new(&name, level);
        let mut values: BTreeMap<String, ValueId> = BTreeMap::new();
        let mut node_names = BTreeSet::new();
        loop {
            let before = self.at;
            self.space();
            if self.take("output ") {
                let value = self.operand(&values)?;
                let port = if self.take(" as ") { self.quoted()? } else { graph.value(value).name.clone() };
                graph.add_output(&port, value);
            } else if self.take("state ") {
                let first = self.operand(&values)?;
                let Some(state) = graph.state_of(first.node).map(|state| state.name.clone()) else {
                    return Err(self.refuse("expected a state"));
                };
                self.eat(" = ")?;
                let last = self.operand(&values)?;
                graph.set_state(&state, last);
            } else if self.peek("%") {
                let node = self.node(&mut graph, &mut values, depth)?;
                if !node_names.insert(node.clone()) {
                    self.at = before;
                    return Err(self.refuse(format!("node name {node:?} is taken")));
                }
            } else {
                self.at = before;
                return Ok(graph);
            }
        }
    }
}
