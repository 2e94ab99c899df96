//! Parsing. Text may come from strangers: every error says where, nothing recurses without limit.

use crate::ir::graph::Value;
use crate::ir::packed::Packing;
use crate::ir::{
    Attr, Attrs, Class, DType, Dim, Expr, Graph, Level, Module, Node, NodeKind, Op, Registry, Shape, Tensor,
    TensorType, ValueId,
};
use std::collections::BTreeMap;

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

/// The functions of sizes. A quotient by what is not positive is none.
type Function = fn(&Dim, &Dim) -> Option<Dim>;
const FUNCTIONS: [(&str, Function); 3] =
    [("floordiv(", Dim::floor_div), ("min(", |a, b| Some(Dim::least(a, b))), ("max(", |a, b| Some(Dim::larger(a, b)))];

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

    fn refuse(&self, message: impl Into<String>) -> ParseError {
        let before = &self.text[..self.at];
        let line = before.matches('\n').count() + 1;
        let column = self.at - before.rfind('\n').map_or(0, |n| n + 1) + 1;
        ParseError { line, column, message: message.into() }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn peek(&self, token: &str) -> bool {
        self.rest().starts_with(token)
    }

    /// Skips blanks, line ends included.
    fn space(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn blank(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start_matches(' ').len();
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.peek(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn eat(&mut self, token: &str) -> Parsed<()> {
        if self.take(token) { Ok(()) } else { Err(self.refuse(format!("expected {token:?}"))) }
    }

    fn word(&mut self, extra: &str) -> &'a str {
        let rest = self.rest();
        let len =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || extra.contains(c))).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    fn quoted(&mut self) -> Parsed<String> {
        let mut stream = serde_json::Deserializer::from_str(self.rest()).into_iter::<String>();
        match stream.next() {
            Some(Ok(text)) => {
                self.at += stream.byte_offset();
                Ok(text)
            }
            _ => Err(self.refuse("expected a quoted string")),
        }
    }

    fn name(&mut self) -> Parsed<String> {
        if self.peek("\"") {
            return self.quoted();
        }
        let word = self.word("./:-");
        if word.is_empty() { Err(self.refuse("expected a name")) } else { Ok(word.to_owned()) }
    }

    fn int(&mut self) -> Parsed<i64> {
        let start = self.at;
        self.take("-");
        self.word("");
        self.text[start..self.at].parse().map_err(|_| {
            self.at = start;
            self.refuse("expected an integer")
        })
    }

    fn float(&mut self) -> Parsed<f32> {
        let start = self.at;
        let word = self.word("+-.");
        // `inf` ends in f, which is no suffix there.
        let number = if word.ends_with("inf") && !word.ends_with("inff") {
            word
        } else {
            word.strip_suffix('f').unwrap_or(word)
        };
        number.parse().map_err(|_| {
            self.at = start;
            self.refuse("expected a number")
        })
    }

    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.eat("[")?;
        let mut items = Vec::new();
        if self.take("]") {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            self.blank();
            if self.take("]") {
                return Ok(items);
            }
            self.eat(",")?;
            self.blank();
        }
    }

    fn dim(&mut self, depth: usize) -> Parsed<Dim> {
        let mut sum = Dim::Known(0);
        loop {
            let negative = self.take("-");
            self.take("+");
            let mut product = self.factor(depth)?;
            while self.take("*") {
                product = &product * &self.factor(depth)?;
            }
            sum = if negative { &sum - &product } else { &sum + &product };
            if !self.peek("+") && !self.peek("-") {
                return Ok(sum);
            }
        }
    }

    fn factor(&mut self, depth: usize) -> Parsed<Dim> {
        if depth > MAX_DEPTH {
            return Err(self.refuse("nested too deeply"));
        }
        if self.rest().starts_with(|c: char| c.is_ascii_digit()) {
            return self.int().map(Dim::Known);
        }
        for (function, compute) in FUNCTIONS {
            if self.take(function) {
                let left = self.dim(depth + 1)?;
                self.eat(",")?;
                let right = self.dim(depth + 1)?;
                self.eat(")")?;
                return compute(&left, &right).ok_or_else(|| self.refuse("division by a size that is not positive"));
            }
        }
        let symbol = self.symbol()?;
        let range = self.ranges.get(&symbol).copied().or(self.unlisted);
        Ok(range.map_or_else(|| Dim::symbol(&symbol), |(min, max)| Dim::ranged(&symbol, min, max)))
    }

    fn symbol(&mut self) -> Parsed<String> {
        let symbol = if self.peek("\"") { self.quoted()? } else { self.word("").to_owned() };
        if symbol.is_empty() { Err(self.refuse("expected a size")) } else { Ok(symbol) }
    }

    /// The ranges of symbols, behind ` where`.
    fn ranges(&mut self) -> Parsed<()> {
        loop {
            self.eat(" ")?;
            let symbol = self.symbol()?;
            self.eat(" in ")?;
            let min = self.int()?;
            self.eat("..")?;
            let max = self.int()?;
            if min < 0 || max < min || max == i64::MAX {
                return Err(self.refuse(format!("{min}..{max} is no range of sizes")));
            }
            if self.ranges.insert(symbol.clone(), (min, max)).is_some() {
                return Err(self.refuse(format!("the range of {symbol} is given twice")));
            }
            if !self.take(",") {
                return Ok(());
            }
        }
    }

    fn dtype(&mut self) -> Parsed<DType> {
        let start = self.at;
        self.word("").parse().map_err(|e| {
            self.at = start;
            self.refuse(format!("{e}"))
        })
    }

    fn ty(&mut self) -> Parsed<TensorType> {
        let dtype = self.dtype()?;
        let mut packing = None;
        if self.take("<") {
            let text =
                &self.rest()[..self.rest().find('>').ok_or_else(|| self.refuse("expected a packing and \">\""))?];
            packing =
                Some(Packing::parse(dtype, text).ok_or_else(|| self.refuse(format!("{dtype}<{text}> is no packing")))?);
            self.at += text.len() + 1;
        }
        let dims = self.list(|p| p.dim(0))?;
        Ok(TensorType { dtype, shape: Shape(dims), packing })
    }

    /// What follows `const`, up to its type.
    fn data(&mut self) -> Parsed<Data<'a>> {
        if self.take("#") {
            return Ok(Data::Hash(self.word("")));
        }
        let start = self.at;
        self.list(|p| Ok(p.word("+-."))).map(Data::Values).map_err(|_| {
            self.at = start;
            self.refuse("expected a #hash or a list of values")
        })
    }

    fn tensor(&mut self, data: Data<'_>, ty: TensorType) -> Parsed<Tensor> {
        let bad = |p: &Self, e: &dyn std::fmt::Display| p.refuse(e.to_string());
        match data {
            Data::Hash(hash) => match (self.source)(hash, &ty) {
                Some(tensor) if *tensor.ty() == ty => Ok(tensor),
                Some(tensor) => Err(self.refuse(format!("constant #{hash} is {}, not {ty}", tensor.ty()))),
                None => {
                    let mut bytes = [0u8; 32];
                    if hash.len() < 16 || hash.len() > 64 || !hash.is_ascii() {
                        return Err(self.refuse(format!("#{hash} is no hash")));
                    }
                    for (i, pair) in hash.as_bytes().chunks(2).enumerate() {
                        let digits = std::str::from_utf8(pair).unwrap_or_default();
                        bytes[i] =
                            u8::from_str_radix(digits, 16).map_err(|_| self.refuse(format!("#{hash} is no hash")))?;
                    }
                    Ok(Tensor::absent(ty, crate::ir::Hash(bytes)))
                }
            },
            Data::Values(values) => {
                let dims = ty.shape.known().ok_or_else(|| self.refuse("a constant's sizes must be known"))?;
                let given = values.len() as u64;
                if ty.packing.is_some() || ty.shape.n_elems() != Some(given) {
                    return Err(self.refuse(format!("{given} values for {ty}")));
                }
                match ty.dtype.class() {
                    Class::Float => {
                        let values: Result<Vec<f32>, _> = values.iter().map(|v| v.parse()).collect();
                        let values = values.map_err(|e| bad(self, &e))?;
                        Tensor::from_f32s(ty.dtype, &dims, &values).map_err(|e| bad(self, &e))
                    }
                    _ => {
                        let one = |v: &&str| match ty.dtype {
                            DType::U64 => v.parse().map(u64::cast_signed),
                            _ => v.parse(),
                        };
                        let values: Result<Vec<i64>, _> = values.iter().map(one).collect();
                        let values = values.map_err(|e| bad(self, &e))?;
                        Tensor::from_i64s(ty.dtype, &dims, &values).map_err(|e| bad(self, &e))
                    }
                }
            }
        }
    }

    fn attr(&mut self, depth: usize) -> Parsed<Attr> {
        if self.peek("\"") {
            return self.quoted().map(Attr::Str);
        }
        if self.take("`") {
            let len = self.rest().find('`').ok_or_else(|| self.refuse("expected a closing backquote"))?;
            let expr = Expr::parse(&self.rest()[..len]).map_err(|e| self.refuse(e.to_string()))?;
            self.at += len + 1;
            return Ok(Attr::Expr(expr));
        }
        if self.take("(") {
            self.space();
            let graph = self.graph(depth + 1)?;
            self.space();
            self.eat(")")?;
            return Ok(Attr::Graph(Box::new(graph)));
        }
        if self.take("const ") {
            let data = self.data()?;
            self.eat(" : ")?;
            let ty = self.ty()?;
            return self.tensor(data, ty).map(Attr::Tensor);
        }
        if self.peek("[") {
            return self.list(Self::int).map(Attr::Ints);
        }
        if self.take("f[") {
            self.at -= 1;
            return self.list(Self::float).map(Attr::Floats);
        }
        if self.take("s[") {
            self.at -= 1;
            return self.list(Self::quoted).map(Attr::Strs);
        }
        if self.take("d[") {
            self.at -= 1;
            return self.list(|p| p.dim(0)).map(Attr::Dims);
        }
        let start = self.at;
        let word = self.word("+-.");
        if let Ok(dtype) = word.parse() {
            return Ok(Attr::DType(dtype));
        }
        if let Ok(v) = word.parse() {
            return Ok(Attr::Int(v));
        }
        if let Some(Ok(v)) = word.strip_suffix('f').map(str::parse) {
            return Ok(Attr::Float(v));
        }
        self.at = start;
        Err(self.refuse("expected the value of an attribute"))
    }

    fn attrs(&mut self, depth: usize) -> Parsed<Attrs> {
        let mut attrs = Attrs::new();
        if !self.take(" {") {
            return Ok(attrs);
        }
        loop {
            let key = self.word("").to_owned();
            self.eat("=")?;
            let value = self.attr(depth)?;
            if attrs.0.insert(key.clone(), value).is_some() {
                return Err(self.refuse(format!("attribute {key} is given twice")));
            }
            if self.take("}") {
                return Ok(attrs);
            }
            self.eat(", ")?;
        }
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
        let mut node_names = std::collections::BTreeSet::new();
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

    fn operand(&mut self, values: &BTreeMap<String, ValueId>) -> Parsed<ValueId> {
        self.eat("%")?;
        let start = self.at;
        let name = self.name()?;
        values.get(&name).copied().ok_or_else(|| {
            self.at = start;
            self.refuse(format!("%{name} is not defined above"))
        })
    }

    fn node(&mut self, graph: &mut Graph, values: &mut BTreeMap<String, ValueId>, depth: usize) -> Parsed<String> {
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
        let op = self.word("").to_owned();
        let mut operands = Vec::new();
        let mut constant = None;
        let mut attrs = Attrs::new();
        let mut state = None;
        match op.as_str() {
            "input" if self.take(" default ") => constant = Some(self.data()?),
            "input" => {}
            "state" => {
                let fills = self.take(" fill");
                self.eat(" ")?;
                constant = Some(self.data()?);
                let name = if self.take(" as ") { self.quoted()? } else { names[0].clone() };
                state = Some((name, fills));
            }
            "const" => {
                self.eat(" ")?;
                constant = Some(self.data()?);
            }
            _ => {
                self.eat("(")?;
                while !self.take(")") {
                    operands.push(if self.take("_") { None } else { Some(self.operand(values)?) });
                    if !self.peek(")") {
                        self.eat(", ")?;
                    }
                }
                attrs = self.attrs(depth)?;
            }
        }
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
            self.int_bytes()?;
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
        if let (Some((name, fills)), Some(data)) = (state, constant.take_if(|_| op == "state")) {
            let ty = types.swap_remove(0);
            let of = if fills { TensorType::of(ty.dtype, &[]) } else { ty.clone() };
            let initial = self.tensor(data, of)?;
            if graph.state_named(&name).is_some() {
                self.at = start;
                return Err(self.refuse(format!("state {name:?} is defined twice")));
            }
            let outputs = vec![Value { name: names[0].clone(), ty }];
            let id = graph.insert(Node::new(&node_name, NodeKind::State, outputs), &[]);
            graph.push_state(&name, id, initial);
            values.insert(names[0].clone(), id.out(0));
            return Ok(node_name);
        }
        let kind = match (op.as_str(), constant) {
            ("input", default) => {
                let ty = types.swap_remove(0);
                let default = default.map(|data| self.tensor(data, ty.clone())).transpose()?;
                let value = match default {
                    Some(tensor) => graph.add_input_with(&names[0], tensor),
                    None => graph.add_input(&names[0], ty),
                };
                values.insert(names[0].clone(), value);
                return Ok(node_name);
            }
            (_, Some(data)) => NodeKind::Const(self.tensor(data, types[0].clone())?),
            _ => {
                let def = self.registry.by_name(&op).ok_or_else(|| self.refuse(format!("unknown operator {op:?}")))?;
                NodeKind::Op(Op::new(def, attrs))
            }
        };
        let outputs = names.iter().zip(types).map(|(name, ty)| Value { name: name.clone(), ty }).collect();
        let order = u32::try_from(values.len()).unwrap_or(u32::MAX);
        let node = Node { name: node_name.clone(), kind, outputs, format, origin, order };
        let id = graph.insert(node, &operands);
        for (out, name) in names.into_iter().enumerate() {
            values.insert(name, id.out(out));
        }
        Ok(node_name)
    }

    fn int_bytes(&mut self) -> Parsed<()> {
        let start = self.at;
        let word = self.word("");
        if word.strip_suffix('B').is_some_and(|n| n.parse::<u64>().is_ok()) {
            return Ok(());
        }
        self.at = start;
        Err(self.refuse("expected a byte count"))
    }
}

enum Data<'a> {
    Hash(&'a str),
    Values(Vec<&'a str>),
}
