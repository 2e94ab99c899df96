//! Building the graph: nodes in the file's order, each typed as it is added, constants where they are first used.

use super::dims::Symbols;
use super::error::{ImportError, Kind, NodeAt};
use super::function::{Function, Key};
use super::normalize::{self, Draft, Facts, In};
use super::read::{MAX_DEPTH, RawGraph, RawNode};
use super::sequence::Bound;
use super::{body, contrib, fold, missing, relate};
use crate::ir::{
    AttrFault, Attrs, COUNT, Dim, Graph, Infer, Level, Node, NodeKind, Op, OpError, Registry, Tensor, TensorType,
    Value, ValueId, next_number,
};
use crate::ops::data_dependent;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

/// What all graphs of a model share.
pub(super) struct Model<'a> {
    pub(super) registry: &'a Registry,
    /// Opset of the default domain.
    pub(super) opset: i64,
    pub(super) opsets: &'a BTreeMap<String, i64>,
    /// The model's own functions that it calls.
    pub(super) functions: &'a BTreeMap<Key, Function>,
    pub(super) symbols: &'a Symbols,
    /// Symbols without a value.
    pub(super) unbound: &'a [String],
    /// Channels of a block in weights of `com.microsoft.nchwc`, where the model determines them.
    pub(super) channel_block: Option<usize>,
    /// Bodies imported so far, repetitions included.
    pub(super) n_bodies: Cell<u32>,
    /// Elements of sequences made so far.
    pub(super) n_listed: Cell<usize>,
    /// Nodes that gradients went through so far, and elements of their constants.
    pub(super) n_differentiated: Cell<usize>,
}

/// A value during import.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It stands in the graph.
    Value(ValueId),
    /// A constant that nothing has needed in the graph yet.
    Pending(usize),
}

struct Pending {
    node: String,
    value: String,
    tensor: Tensor,
    /// Its place in the file, where it has one.
    order: Option<u32>,
    id: Option<ValueId>,
}

#[derive(Default)]
pub(super) struct Scope {
    pub(super) values: BTreeMap<String, Known>,
    /// Names that stand for no tensor.
    pub(super) lists: BTreeMap<String, Bound>,
}

/// One graph under construction.
pub(super) struct Builder<'a> {
    pub(super) model: &'a Model<'a>,
    pub(super) graph: Graph,
    pending: Vec<Pending>,
    /// The innermost last. A branch that is written in place of its If has one of its own.
    pub(super) scopes: Vec<Scope>,
    /// The functions whose nodes are written out now, the innermost last.
    pub(super) calls: Vec<&'a Function>,
    /// How many subgraphs and functions are around the nodes that are written out now.
    pub(super) depth: usize,
    /// Every name that the file has: names made up here avoid them.
    pub(super) taken: &'a BTreeSet<String>,
    /// Names of data-dependent sizes.
    counts: BTreeSet<String>,
    /// Whether this is the body of an operator, which is run any number of times.
    pub(super) is_body: bool,
    /// What could not be built because a size or the value of an input is missing.
    pub(super) missing: missing::Missing,
    /// Conditions, computed while the program runs, of the bodies in which nodes are written out now, and the values at
    /// which those count.
    pub(super) guards: Vec<(Known, bool)>,
}

impl Model<'_> {
    /// Builds the model's graph.
    pub(super) fn graph(&self, raw: &RawGraph) -> Result<Graph, ImportError> {
        let mut taken = BTreeSet::new();
        body::names(raw, &mut taken);
        let mut builder = Builder::new(self, &raw.name, &taken, false);
        let is_given = |name: &String| !raw.initializers.contains_key(name) && !raw.defaults.contains_key(name);
        for info in raw.inputs.iter().filter(|i| is_given(&i.name)) {
            let problem = || Kind::Input { name: info.name.clone(), problem: "has no shape".to_owned() };
            let ty = self.symbols.ty(&info.name, info)?.ok_or_else(problem)?;
            builder.add_input(&info.name, ty)?;
        }
        for (name, tensor) in raw.inputs.iter().filter_map(|info| raw.defaults.get_key_value(&info.name)) {
            let value = builder.graph.add_input_with(name, tensor.clone());
            builder.define(name, Known::Value(value))?;
        }
        builder.fill(raw)?;
        Ok(builder.graph)
    }
}

impl<'a> Builder<'a> {
    /// An empty graph.
    pub(super) fn new(model: &'a Model<'a>, name: &str, taken: &'a BTreeSet<String>, is_body: bool) -> Builder<'a> {
        let graph = Graph::new(name, Level::Onnx);
        Builder {
            model,
            graph,
            pending: Vec::new(),
            scopes: vec![Scope::default()],
            calls: Vec::new(),
            depth: 0,
            taken,
            counts: BTreeSet::new(),
            is_body,
            missing: missing::Missing::default(),
            guards: Vec::new(),
        }
    }

    /// Adds an input.
    pub(super) fn add_input(&mut self, name: &str, ty: TensorType) -> Result<(), ImportError> {
        if name.is_empty() {
            return Err(Kind::Input { name: String::new(), problem: "has no name".to_owned() }.into());
        }
        let value = self.graph.add_input(name, ty);
        self.define(name, Known::Value(value))
    }

    /// Adds all nodes of `raw` and its outputs.
    pub(super) fn fill(&mut self, raw: &RawGraph) -> Result<(), ImportError> {
        self.nodes(raw, None)?;
        self.refuse_missing()?;
        let mut ports = BTreeSet::new();
        for name in &raw.outputs {
            let fail = |problem: &str| Kind::Output { name: name.clone(), problem: problem.to_owned() };
            if !ports.insert(name) {
                return Err(fail("is listed twice").into());
            }
            match self.bound(name).map_err(|_| fail("is produced by no node, input or initializer"))? {
                Bound::One(known) => {
                    let value = self.place(known, u32::MAX);
                    self.graph.add_output(name, value);
                }
                Bound::Nothing => return Err(fail("is an optional without a value").into()),
                Bound::Absent | Bound::Unknown => return Err(fail("is an operand that is not given").into()),
                Bound::Many(list) if list.is_empty() => return Err(fail("is an empty sequence").into()),
                // Each element of a sequence is an output of its own.
                Bound::Many(list) => {
                    for (i, &known) in list.iter().enumerate() {
                        let element = format!("{name}.{i}");
                        if raw.outputs.contains(&element) {
                            return Err(fail(&format!(
                                "is a sequence, whose element {element:?} has the name of another output"
                            ))
                            .into());
                        }
                        let value = self.place(known, u32::MAX);
                        self.graph.add_output(&element, value);
                    }
                }
            }
        }
        Ok(())
    }

    /// Adds the nodes of `raw` to the innermost scope, all in the place `order` of the file where that is given.
    pub(super) fn nodes(&mut self, raw: &RawGraph, order: Option<u32>) -> Result<(), ImportError> {
        for (name, tensor) in &raw.initializers {
            // A formal input of a body is given by the node, whatever default the body has.
            if self.scopes.last().is_none_or(|s| !s.values.contains_key(name)) {
                let known = self.add_pending(name, name, tensor.clone(), order);
                self.define(name, known)?;
            }
        }
        for (index, node) in raw.nodes.iter().enumerate() {
            let order = order.unwrap_or_else(|| u32::try_from(index).unwrap_or(u32::MAX));
            if self.passes_over(node)? {
                continue;
            }
            self.node(node, order).or_else(|e| {
                let producer = |value: &str| raw.nodes.iter().find(|n| n.outputs.iter().any(|o| o == value));
                let e = e.in_order(|value| producer(value).map(|n| n.name.clone())).at(|| self.at(node));
                self.go_on_after(node, e)
            })?;
        }
        Ok(())
    }

    /// How errors name a node.
    fn at(&self, node: &RawNode) -> NodeAt {
        let opsets = self.calls.last().map_or(self.model.opsets, |function| &function.opsets);
        NodeAt { name: node.name.clone(), op: node.key(), opset: opsets.get(&node.domain).copied().unwrap_or(1) }
    }

    /// Runs `write` in a new innermost scope.
    pub(super) fn scoped<T>(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<T, ImportError>,
    ) -> Result<T, ImportError> {
        if self.depth >= MAX_DEPTH {
            return Err(Kind::Depth { limit: MAX_DEPTH }.into());
        }
        self.depth += 1;
        self.scopes.push(Scope::default());
        let result = write(self);
        self.scopes.pop();
        self.depth -= 1;
        result
    }

    fn node(&mut self, raw: &RawNode, order: u32) -> Result<(), ImportError> {
        if raw.name.is_empty() {
            return Err(Kind::Form("it has neither a name nor an output".to_owned()).into());
        }
        if let Some((name, _)) = raw.refs.first() {
            let problem = "refers to an attribute of a function, and stands in none".to_owned();
            return Err(Kind::Attribute { name: name.clone(), problem }.into());
        }
        if let Some(function) = self.function(raw) {
            return self.call(raw, function, order);
        }
        if let Some(tensor) = &raw.constant {
            let [output] = raw.outputs.as_slice() else {
                return Err(Kind::Outputs { given: raw.outputs.len(), has: 1 }.into());
            };
            let known = self.add_pending(&raw.name, output, tensor.clone(), Some(order));
            return self.define(output, known);
        }
        if let Some(branch) = self.branch_taken(raw)? {
            return self.write_branch(raw, branch, order);
        }
        if raw.outputs.is_empty() {
            return Err(Kind::Form("it has no output".to_owned()).into());
        }
        if self.sequence(raw, order)? {
            return Ok(());
        }
        // An operator that the registry has is not written out: a toolchain's author may have one that loops.
        if self.model.registry.by_onnx(&raw.key()).is_none() && self.write_out(raw, order)? {
            return Ok(());
        }
        self.refuse_lists(raw)?;
        let mut draft = Draft::new(raw);
        for input in &mut draft.inputs {
            if matches!(input, In::Value(name) if self.is_absent(name)) {
                *input = In::Absent;
            }
        }
        let opset = self.calls.last().map_or(self.model.opset, |function| function.opset);
        let drafts = normalize::normalize(draft, opset, self).map_err(Kind::Form)?;
        let mut results: Vec<Known> = Vec::new();
        let n_drafts = drafts.len();
        for (i, draft) in drafts.into_iter().enumerate() {
            let outputs = self.add(draft, raw, order, &results)?;
            if i + 1 < n_drafts {
                results.extend(outputs.first().map(|o| o.1));
                continue;
            }
            for (name, known) in outputs.into_iter().filter(|o| !o.0.is_empty()) {
                self.define(&name, known)?;
            }
        }
        Ok(())
    }

    /// Adds one node of the newest form, or the constants that it computes. Gives the names the file has for its
    /// outputs, and the outputs.
    pub(super) fn add(
        &mut self,
        draft: Draft,
        raw: &RawNode,
        order: u32,
        earlier: &[Known],
    ) -> Result<Vec<(String, Known)>, ImportError> {
        let Draft { name, op: key, inputs, outputs, mut attrs } = draft;
        let is_helper = name != raw.name;
        let def = self.model.registry.by_onnx(&key).ok_or_else(|| contrib::unknown(&key))?;
        let mut operands = Vec::with_capacity(inputs.len());
        for input in inputs {
            operands.push(match input {
                In::Absent => None,
                In::Value(value) => Some(self.get(&value)?),
                In::Earlier(draft) => earlier.get(draft).copied(),
                In::Const(suffix, tensor) => {
                    let constant = self.fresh(&format!("{name}.{suffix}"));
                    Some(self.add_pending(&constant, &constant, tensor, Some(order)))
                }
            });
        }
        self.guard(&key, raw, order, &mut operands)?;
        if !raw.graphs.is_empty() {
            self.bodies(raw, &mut operands, &mut attrs)?;
        }
        // Only now: captured values stand behind all slots that the node has, absent ones included.
        while operands.last().is_some_and(Option::is_none) {
            operands.pop();
        }
        normalize::drop_neutral(def, &mut attrs);
        def.check_attrs(&attrs).map_err(|AttrFault { name, problem }| Kind::Attribute { name, problem })?;
        let (min, max) = def.arity;
        if !(min..=max).contains(&operands.len()) {
            return Err(Kind::Arity { given: operands.len(), min, max }.into());
        }
        if let Some(bound) = self.typed(&attrs, &operands, outputs.len(), |infer| data_dependent::bound(def, infer))? {
            attrs = attrs.with_dims(COUNT, vec![self.count(outputs.first().map_or(&name, |output| output), &bound)?]);
        }
        let types = self.typed(&attrs, &operands, outputs.len(), |infer| infer.types(def))?;
        if types.len() < outputs.len() {
            return Err(Kind::Outputs { given: outputs.len(), has: types.len() }.into());
        }
        let op = Op::new(def, attrs);
        let borrowed: Vec<_> = operands.iter().map(|o| o.and_then(|known| self.tensor(known))).collect();
        let sizes = self.sizes_of(&op, &operands, &types);
        if let Some(tensors) = fold::constants(&op, &operands, &borrowed, &types, outputs.len(), sizes.as_deref()) {
            let mut folded = Vec::with_capacity(outputs.len());
            for (i, (output, tensor)) in outputs.into_iter().zip(tensors).enumerate() {
                let value = self.output_name(&output, &name, i, is_helper);
                folded.push((output, self.add_pending(&value, &value, tensor, Some(order))));
            }
            return Ok(folded);
        }
        // Arithmetic on sizes has been done: its result stands in its place.
        let (op, operands) = match sizes {
            Some(sizes) => (crate::ops::onnx::shape::sizes(sizes, &types), Vec::new()),
            None => (op, operands.into_iter().map(|o| o.map(|known| self.place(known, order))).collect()),
        };
        let values = outputs
            .iter()
            .zip(types)
            .enumerate()
            .map(|(i, (output, ty))| Value { name: self.output_name(output, &name, i, is_helper), ty });
        let node = Node { order, ..Node::new(&name, NodeKind::Op(op), values.collect()) };
        let id = self.graph.insert(node, &operands);
        Ok(outputs.into_iter().enumerate().map(|(i, output)| (output, Known::Value(id.out(i)))).collect())
    }

    /// A new data-dependent size, `bound` at most.
    fn count(&mut self, value: &str, bound: &Dim) -> Result<Dim, ImportError> {
        if self.is_body {
            return Err(Kind::Form(
                "the size of its result depends on data, which no subgraph of a loop may have".to_owned(),
            )
            .into());
        }
        let mut name = format!("{value}.count");
        let mut n = 2u64;
        // Loops that are written out give the same name any number of times.
        while !self.counts.insert(name.clone()) || self.model.symbols.has(&name) {
            name = format!("{value}.count.{n}");
            n = next_number(n, self.counts.len());
        }
        // Sizes without a range have no bound: such a graph is looked at, but not compiled.
        Ok(bound.most().map_or_else(|| Dim::symbol(&name), |most| Dim::ranged(&name, 0, most)))
    }

    /// What a rule says of a node of these operands.
    fn typed<T>(
        &self,
        attrs: &Attrs,
        operands: &[Option<Known>],
        n_outputs: usize,
        rule: impl Fn(&Infer<'_>) -> Result<T, OpError>,
    ) -> Result<T, ImportError> {
        let inputs: Vec<_> = operands.iter().map(|o| o.map(|known| self.ty(known))).collect();
        let consts: Vec<_> = operands.iter().map(|o| o.and_then(|known| self.tensor(known))).collect();
        let sizes: Vec<_> = operands
            .iter()
            .map(|o| if let Some(Known::Value(value)) = o { self.graph.sizes(*value) } else { None })
            .collect();
        let infer = Infer { attrs, inputs: &inputs, consts: &consts, sizes: &sizes, n_outputs };
        let ask = |infer: &Infer<'_>| infer.check_operands().and_then(|()| rule(infer));
        ask(&infer).map_err(|source| {
            let symbols = match source {
                OpError::NotConstant { slot } => operands.get(slot).copied().flatten(),
                _ => None,
            };
            if let (OpError::NotConstant { slot }, Some(known)) = (&source, symbols)
                && let Some(name) = self.input_behind(known)
            {
                return Kind::FreeInput { slot: *slot, name }.into();
            }
            match symbols.map(|known| self.symbols_behind(known)) {
                Some(symbols) if !symbols.is_empty() => return Kind::UnboundDim { source, symbols }.into(),
                _ => {}
            }
            let related = || relate::proposals(&infer, &self.model.symbols.ranged(), &|infer| ask(infer).is_ok());
            // Other refusals are about more than sizes that do not fit each other.
            let is_of_sizes = matches!(source, OpError::Broadcast { .. } | OpError::Operand { .. });
            let proposals = if is_of_sizes { related() } else { Vec::new() };
            if proposals.is_empty() {
                Kind::Type { source }.into()
            } else {
                Kind::Unrelated { source, proposals }.into()
            }
        })
    }

    /// The name of an output: the file's, or one made up where it has none.
    fn output_name(&self, given: &str, node: &str, out: usize, is_helper: bool) -> String {
        match (given, is_helper) {
            ("", true) => self.fresh(node),
            ("", false) => self.fresh(&format!("{node}.out{out}")),
            _ => given.to_owned(),
        }
    }

    /// A name like `base` that the file does not have.
    pub(super) fn fresh(&self, base: &str) -> String {
        let mut name = base.to_owned();
        let mut n = 2u64;
        while self.taken.contains(&name) {
            name = format!("{base}.{n}");
            n = next_number(n, self.taken.len());
        }
        name
    }

    /// Notes a constant. It enters the graph when something there needs it.
    pub(super) fn add_pending(&mut self, node: &str, value: &str, tensor: Tensor, order: Option<u32>) -> Known {
        self.pending.push(Pending { node: node.to_owned(), value: value.to_owned(), tensor, order, id: None });
        Known::Pending(self.pending.len() - 1)
    }

    /// Gives a name of the innermost scope its value.
    pub(super) fn define(&mut self, name: &str, known: Known) -> Result<(), ImportError> {
        let Some(scope) = self.scopes.last_mut() else { return Ok(()) };
        match scope.values.insert(name.to_owned(), known) {
            Some(_) => Err(Kind::Twice { value: name.to_owned() }.into()),
            None => Ok(()),
        }
    }

    /// What a name stands for.
    pub(super) fn find(&self, name: &str) -> Option<Known> {
        self.scopes.iter().rev().find_map(|scope| scope.values.get(name).copied())
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// Nothing.
    pub(super) fn get(&self, name: &str) -> Result<Known, ImportError> {
        self.find(name).ok_or_else(|| Kind::UnknownValue { value: name.to_owned() }.into())
    }

    /// The value in the graph, put there now if it is a constant that is not.
    pub(super) fn place(&mut self, known: Known, order: u32) -> ValueId {
        let at = match known {
            Known::Value(value) => return value,
            Known::Pending(at) => at,
        };
        let pending = &mut self.pending[at];
        if let Some(id) = pending.id {
            return id;
        }
        let output = Value { name: pending.value.clone(), ty: pending.tensor.ty().clone() };
        let node = Node::new(&pending.node, NodeKind::Const(pending.tensor.clone()), vec![output]);
        let id = self.graph.insert(Node { order: pending.order.unwrap_or(order), ..node }, &[]).out(0);
        pending.id = Some(id);
        id
    }

    /// The type of a value.
    pub(super) fn ty(&self, known: Known) -> &TensorType {
        match known {
            Known::Value(value) => self.graph.ty(value),
            Known::Pending(at) => self.pending[at].tensor.ty(),
        }
    }

    /// The data of a value, where it is a constant.
    pub(super) fn tensor(&self, known: Known) -> Option<&Tensor> {
        match known {
            Known::Value(value) => self.graph.constant(value),
            Known::Pending(at) => Some(&self.pending[at].tensor),
        }
    }

    /// Writes the nodes of a branch in place of its If.
    fn write_branch(&mut self, raw: &RawNode, branch: &RawGraph, order: u32) -> Result<(), ImportError> {
        if branch.outputs.len() < raw.outputs.len() {
            return Err(Kind::Outputs { given: raw.outputs.len(), has: branch.outputs.len() }.into());
        }
        let results = self.scoped(|builder| {
            builder.nodes(branch, Some(order))?;
            branch.outputs.iter().map(|name| builder.bound(name)).collect::<Result<Vec<_>, _>>()
        })?;
        for (output, bound) in raw.outputs.iter().zip(results).filter(|(output, _)| !output.is_empty()) {
            self.bind(output, bound)?;
        }
        Ok(())
    }
}

impl Facts for Builder<'_> {
    fn type_of(&self, name: &str) -> Option<&TensorType> {
        self.find(name).map(|known| self.ty(known))
    }
    fn data_of(&self, name: &str) -> Option<&Tensor> {
        self.find(name).and_then(|known| self.tensor(known))
    }
}
