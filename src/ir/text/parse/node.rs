//! A line that defines values, and the node that gives them.

use super::data::Data;
use super::{Parsed, Parser};
use crate::ir::graph::Value;
use crate::ir::{Attrs, Format, Graph, Node, NodeId, NodeKind, Op, TensorType, ValueId};
use std::collections::BTreeMap;

/// What a line says a node is.
enum Definition<'a> {
    Source(Source<'a>),
    Use { op: String, operands: Vec<Option<ValueId>>, attrs: Attrs },
}

/// A node without operands, which has one value.
enum Source<'a> {
    Input(Option<Data<'a>>),
    /// `fills` where the initial value is one element, which all begin with.
    State {
        name: String,
        fills: bool,
        initial: Data<'a>,
    },
    Const(Data<'a>),
}

/// The rest of a line.
struct Line {
    /// Where it begins.
    start: usize,
    node_name: String,
    format: Option<Format>,
    origin: Vec<String>,
    outputs: Vec<Value>,
}

impl<'a> Parser<'a> {
    pub(super) fn operand(&mut self, values: &BTreeMap<String, ValueId>) -> Parsed<ValueId> {
        self.eat("%")?;
        let start = self.at;
        let name = self.name()?;
        values.get(&name).copied().ok_or_else(|| {
            self.at = start;
            self.refuse(format!("%{name} is not defined above"))
        })
    }

    /// A line that defines values, which are added to `graph` and `values`. The name of its node.
    pub(super) fn node(
        &mut self,
        graph: &mut Graph,
        values: &mut BTreeMap<String, ValueId>,
        depth: usize,
    ) -> Parsed<String> {
        let start = self.at;
        let mut names = Vec::new();
        loop {
            self.eat("%")?;
            names.push(self.name()?);
            if !self.take(", ") {
                break;
            }
        }
        self.eat(" = ")?;
        let definition = self.definition(&names[0], values, depth)?;
        let line = self.line(start, &names, values)?;
        let node_name = line.node_name.clone();
        let id = match definition {
            Definition::Use { op, operands, attrs } => {
                let def = self.registry.by_name(&op).ok_or_else(|| self.refuse(format!("unknown operator {op:?}")))?;
                insert(graph, line, NodeKind::Op(Op::new(def, attrs)), &operands, values.len())
            }
            Definition::Source(source) => self.source(graph, source, line, values.len())?,
        };
        for (out, name) in names.into_iter().enumerate() {
            values.insert(name, id.out(out));
        }
        Ok(node_name)
    }

    /// What follows ` = `, up to the format.
    fn definition(&mut self, first: &str, values: &BTreeMap<String, ValueId>, depth: usize) -> Parsed<Definition<'a>> {
        Ok(match self.word("") {
            "input" if self.take(" default ") => Definition::Source(Source::Input(Some(self.data()?))),
            "input" => Definition::Source(Source::Input(None)),
            "state" => {
                let fills = self.take(" fill");
                self.eat(" ")?;
                let initial = self.data()?;
                let name = if self.take(" as ") { self.quoted()? } else { first.to_owned() };
                Definition::Source(Source::State { name, fills, initial })
            }
            "const" => {
                self.eat(" ")?;
                Definition::Source(Source::Const(self.data()?))
            }
            op => {
                self.eat("(")?;
                let mut operands = Vec::new();
                while !self.take(")") {
                    operands.push(if self.take("_") { None } else { Some(self.operand(values)?) });
                    if !self.peek(")") {
                        self.eat(", ")?;
                    }
                }
                Definition::Use { op: op.to_owned(), operands, attrs: self.attrs(depth)? }
            }
        })
    }

    /// What follows a definition: format, name of the node, origin, types and bytes.
    fn line(&mut self, start: usize, names: &[String], values: &BTreeMap<String, ValueId>) -> Parsed<Line> {
        let format = if self.take(" @") {
            Some(self.word(":/").parse().map_err(|e| self.refuse(format!("{e}")))?)
        } else {
            None
        };
        let node_name = if self.take(" named ") { self.quoted()? } else { names[0].clone() };
        let mut origin = Vec::new();
        if self.take(" from ") {
            origin.push(self.quoted()?);
            while self.take(",") {
                origin.push(self.quoted()?);
            }
        }
        self.eat(" : ")?;
        let mut types = vec![self.ty()?];
        while self.take(", ") {
            types.push(self.ty()?);
        }
        if self.take(" ") {
            self.bytes()?;
        }
        if types.len() != names.len() {
            return Err(self.refuse(format!("{} values and {} types", names.len(), types.len())));
        }
        for (i, name) in names.iter().enumerate() {
            if values.contains_key(name) || names[..i].contains(name) {
                self.at = start;
                return Err(self.refuse(format!("%{name} is defined twice")));
            }
        }
        let outputs = names.iter().zip(types).map(|(name, ty)| Value { name: name.clone(), ty }).collect();
        Ok(Line { start, node_name, format, origin, outputs })
    }

    /// Adds a node without operands.
    fn source(&mut self, graph: &mut Graph, source: Source<'_>, line: Line, n_values: usize) -> Parsed<NodeId> {
        let [Value { name, ty }] = &line.outputs[..] else {
            self.at = line.start;
            return Err(self.refuse(format!("{} values of an input, a state or a constant", line.outputs.len())));
        };
        match source {
            Source::Input(None) => Ok(graph.add_input(name, ty.clone()).node),
            Source::Input(Some(data)) => {
                let default = self.tensor(data, ty.clone())?;
                Ok(graph.add_input_with(name, default).node)
            }
            Source::State { name: state, fills, initial } => {
                let of = if fills { TensorType::of(ty.dtype, &[]) } else { ty.clone() };
                let initial = self.tensor(initial, of)?;
                if graph.state_named(&state).is_some() {
                    self.at = line.start;
                    return Err(self.refuse(format!("state {state:?} is defined twice")));
                }
                let id = graph.insert(Node::new(&line.node_name, NodeKind::State, line.outputs), &[]);
                graph.push_state(&state, id, initial);
                Ok(id)
            }
            Source::Const(data) => {
                let tensor = self.tensor(data, ty.clone())?;
                Ok(insert(graph, line, NodeKind::Const(tensor), &[], n_values))
            }
        }
    }

    fn bytes(&mut self) -> Parsed<()> {
        let start = self.at;
        let word = self.word("");
        if word.strip_suffix('B').is_some_and(|n| n.parse::<u64>().is_ok()) {
            return Ok(());
        }
        self.at = start;
        Err(self.refuse("expected a byte count"))
    }
}

fn insert(graph: &mut Graph, line: Line, kind: NodeKind, operands: &[Option<ValueId>], n_values: usize) -> NodeId {
    let Line { node_name, format, origin, outputs, .. } = line;
    let order = u32::try_from(n_values).unwrap_or(u32::MAX);
    graph.insert(Node { name: node_name, kind, outputs, format, origin, order }, operands)
}
