//! What an operator is: a definition shared by all its uses, and the attributes of one use.

use super::{
    AttrDef, DType, Dim, Edit, EditError, Expr, GradientFn, Graph, IndexFault, Level, Tensor, TensorError, TensorType,
    Val, WeightOperand,
};
use indexmap::IndexMap;
use std::collections::BTreeMap;
use std::fmt;

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "each variant is its own documentation")]
pub enum Attr {
    Int(i64),
    Float(f32),
    Str(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Strs(Vec<String>),
    Dims(Vec<Dim>),
    DType(DType),
    Expr(Expr),
    Tensor(Tensor),
    Graph(Box<Graph>),
}

/// Attributes by name, sorted, so that they print in one order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attrs(pub BTreeMap<String, Attr>);

/// Reading and building attributes. A getter gives `None` where the attribute is absent or of another kind, which no
/// operator meets that declares its kind.
#[allow(missing_docs, reason = "one getter and one builder a kind")]
impl Attrs {
    pub fn new() -> Attrs {
        Attrs::default()
    }
    pub fn with(mut self, name: &str, value: Attr) -> Attrs {
        self.0.insert(name.to_owned(), value);
        self
    }
    pub fn with_int(self, name: &str, value: i64) -> Attrs {
        self.with(name, Attr::Int(value))
    }
    pub fn with_ints(self, name: &str, value: impl IntoIterator<Item = i64>) -> Attrs {
        self.with(name, Attr::Ints(value.into_iter().collect()))
    }
    pub fn with_float(self, name: &str, value: f32) -> Attrs {
        self.with(name, Attr::Float(value))
    }
    pub fn with_str(self, name: &str, value: &str) -> Attrs {
        self.with(name, Attr::Str(value.to_owned()))
    }
    pub fn with_dtype(self, name: &str, value: DType) -> Attrs {
        self.with(name, Attr::DType(value))
    }
    pub fn with_dims(self, name: &str, value: Vec<Dim>) -> Attrs {
        self.with(name, Attr::Dims(value))
    }
    pub fn with_expr(self, name: &str, value: Expr) -> Attrs {
        self.with(name, Attr::Expr(value))
    }
    pub fn get(&self, name: &str) -> Option<&Attr> {
        self.0.get(name)
    }
    pub fn int(&self, name: &str) -> Option<i64> {
        if let Some(Attr::Int(v)) = self.get(name) { Some(*v) } else { None }
    }
    pub fn float(&self, name: &str) -> Option<f32> {
        if let Some(Attr::Float(v)) = self.get(name) { Some(*v) } else { None }
    }
    pub fn str(&self, name: &str) -> Option<&str> {
        if let Some(Attr::Str(v)) = self.get(name) { Some(v) } else { None }
    }
    pub fn ints(&self, name: &str) -> Option<&[i64]> {
        if let Some(Attr::Ints(v)) = self.get(name) { Some(v) } else { None }
    }
    pub fn floats(&self, name: &str) -> Option<&[f32]> {
        if let Some(Attr::Floats(v)) = self.get(name) { Some(v) } else { None }
    }
    pub fn dims(&self, name: &str) -> Option<&[Dim]> {
        if let Some(Attr::Dims(v)) = self.get(name) { Some(v) } else { None }
    }
    pub fn dtype(&self, name: &str) -> Option<DType> {
        if let Some(Attr::DType(v)) = self.get(name) { Some(*v) } else { None }
    }
    pub fn expr(&self, name: &str) -> Option<&Expr> {
        if let Some(Attr::Expr(v)) = self.get(name) { Some(v) } else { None }
    }
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        if let Some(Attr::Tensor(v)) = self.get(name) { Some(v) } else { None }
    }
}

/// Levels as a set of bits, for [`OpDef::levels`].
pub type Levels = u8;
/// Operators of the imported model.
pub const ONNX: Levels = 1;
/// The few operators that kernels exist for.
pub const CORE: Levels = 2;
/// Core operators after fusion and packing, one kernel each.
pub const KERNEL: Levels = 4;

/// Infers the types of all outputs.
pub type InferFn = &'static (dyn Fn(&Infer<'_>) -> Result<Vec<TensorType>, OpError> + Sync);
/// Computes all outputs on the CPU: the reference.
pub type EvalFn = &'static (dyn Fn(&Attrs, &[Option<&Tensor>]) -> Result<Vec<Tensor>, OpError> + Sync);
/// Writes the operator as core operators (or others that expand in turn) and gives its outputs.
pub type ExpandFn = &'static (dyn Fn(&mut Expand<'_, '_>) -> Result<Vec<Val>, OpError> + Sync);
/// Says which operand of a use with these attributes holds weights.
pub type WeightsFn = &'static (dyn Fn(&Attrs) -> Option<WeightOperand> + Sync);

/// The definition of an operator. Graphs hold `&'static` ones. Those of ours are statics of plain functions; one that a
/// toolchain makes while it runs, with closures, is given to [`OpDef::leaked`].
#[derive(Clone, Copy)]
pub struct OpDef {
    /// The name in the text IR: snake case.
    pub name: &'static str,
    /// The name in ONNX, with its domain before `::` where not the default one; empty for an operator of ours alone.
    pub onnx: &'static str,
    /// At which levels of the graph it may stand.
    pub levels: Levels,
    /// Every attribute it has, and of which kind. Others are refused by import and verifier ([`OpDef::check_attrs`]).
    pub attrs: &'static [AttrDef],
    /// Fewest and most operands, those of a fused epilogue not counted.
    pub arity: (usize, usize),
    /// Type rule.
    pub infer: InferFn,
    /// The CPU reference, which every core operator has.
    pub eval: Option<EvalFn>,
    /// How it becomes core operators; core operators have none.
    pub expand: Option<ExpandFn>,
    /// Which operand holds weights; `None` for an operator that has none. Whoever asks where weights are asks this.
    pub weights: Option<WeightsFn>,
    /// How its operands gain where its results do; `None`: by the derivative of its expansion, or there is none.
    pub gradient: Option<GradientFn>,
}

impl OpDef {
    /// A definition that lives as long as the process, made of one that is not known before it runs: names and
    /// attributes leaked likewise (`String::leak`, `Vec::leak`), functions as closures (`Box::leak(Box::new(...))`). An
    /// operator is to be made once and kept, since its memory is never given back: graphs and registries hold it for as
    /// long as they like.
    pub fn leaked(self) -> &'static OpDef {
        Box::leak(Box::new(self))
    }
}

impl fmt::Debug for OpDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpDef").field("name", &self.name).field("onnx", &self.onnx).finish_non_exhaustive()
    }
}

/// One use of an operator.
#[derive(Clone)]
pub struct Op {
    /// Which operator.
    pub def: &'static OpDef,
    /// With which attributes.
    pub attrs: Attrs,
}

impl Op {
    /// A use of `def`.
    pub fn new(def: &'static OpDef, attrs: Attrs) -> Op {
        Op { def, attrs }
    }

    /// Whether an expression of single elements of its result may follow as its epilogue: an operator that allows it
    /// has the attribute, and `fuse`, the reference and the tables of kernels go by that.
    pub fn takes_epilogue(&self) -> bool {
        self.def.has_attr("epilogue") && self.attrs.expr("epilogue").is_none()
    }

    /// Whether this is a use of `def`.
    pub fn is(&self, def: &'static OpDef) -> bool {
        std::ptr::eq(self.def, def)
    }
}

impl PartialEq for Op {
    fn eq(&self, other: &Op) -> bool {
        self.is(other.def) && self.attrs == other.attrs
    }
}

impl fmt::Debug for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.def.name, self.attrs.0)
    }
}

/// All operators that a text or a model may name. A toolchain's author adds their own with [`Registry::add`].
#[derive(Clone, Debug, Default)]
pub struct Registry {
    by_name: IndexMap<&'static str, &'static OpDef>,
    by_onnx: IndexMap<&'static str, &'static OpDef>,
}

impl Registry {
    /// A registry of these operators.
    pub fn new(defs: impl IntoIterator<Item = &'static OpDef>) -> Registry {
        let mut registry = Registry::default();
        defs.into_iter().for_each(|def| registry.add(def));
        registry
    }

    /// Adds an operator; one of the same name is replaced.
    pub fn add(&mut self, def: &'static OpDef) {
        self.by_name.insert(def.name, def);
        if !def.onnx.is_empty() {
            self.by_onnx.insert(def.onnx, def);
        }
    }

    /// The operator of this name in the text IR.
    pub fn by_name(&self, name: &str) -> Option<&'static OpDef> {
        self.by_name.get(name).copied()
    }

    /// The operator of this name in ONNX, with `domain::` before it where not the default domain.
    pub fn by_onnx(&self, name: &str) -> Option<&'static OpDef> {
        self.by_onnx.get(name).copied()
    }

    /// Every operator, in order of declaration.
    pub fn iter(&self) -> impl Iterator<Item = &'static OpDef> + '_ {
        self.by_name.values().copied()
    }
}

/// Why an operator cannot be typed, expanded or computed.
#[derive(Clone, Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum OpError {
    #[error("operand {slot} is missing")]
    MissingOperand { slot: usize },
    #[error("operand {slot} is {given}, expected {expected}")]
    Operand { slot: usize, given: String, expected: String },
    #[error("attribute {name} {problem}")]
    Attribute { name: &'static str, problem: String },
    #[error("operand {slot} must be a constant")]
    NotConstant { slot: usize },
    #[error("shapes {left} and {right} do not broadcast")]
    Broadcast { left: String, right: String },
    /// More of something than nyxc does, which is legal.
    #[error("{given} {what}, at most {limit} are supported")]
    OverLimit { what: &'static str, given: u64, limit: u64 },
    #[error("{0}")]
    Unsupported(String),
    /// What no model can bring about.
    #[error("{0} (this is a bug)")]
    Bug(&'static str),
    #[error(transparent)]
    Index(#[from] IndexFault),
    #[error(transparent)]
    Tensor(#[from] TensorError),
    #[error(transparent)]
    Expr(#[from] super::ExprError),
    #[error(transparent)]
    Edit(#[from] Box<EditError>),
}

impl OpError {
    /// An operand of a wrong type or shape.
    pub fn operand(slot: usize, given: impl fmt::Display, expected: impl fmt::Display) -> OpError {
        OpError::Operand { slot, given: given.to_string(), expected: expected.to_string() }
    }

    /// A wrong or missing attribute.
    pub fn attribute(name: &'static str, problem: impl fmt::Display) -> OpError {
        OpError::Attribute { name, problem: problem.to_string() }
    }

    /// More of something than nyxc does.
    pub fn over_limit(what: &'static str, given: impl TryInto<u64>, limit: impl TryInto<u64>) -> OpError {
        let number = |n: Option<u64>| n.unwrap_or(u64::MAX);
        OpError::OverLimit { what, given: number(given.try_into().ok()), limit: number(limit.try_into().ok()) }
    }

    /// Something legal that nyxc does not do.
    pub fn unsupported(what: impl fmt::Display) -> OpError {
        OpError::Unsupported(what.to_string())
    }
}

/// The name of the operator whose result is a list of sizes, symbolic ones among them: what shape arithmetic on sizes
/// that change becomes. Operators read it as they read a constant.
pub const SIZES: &str = "sizes";

/// The name of the operator that stores a state: its first operand is a version of the state, its result the next one
/// ([`State`](super::State)).
pub const STATE_STORE: &str = "state_store";

/// The name of the operator whose result is its operand under another shape: on a device both have the same memory.
pub const VIEW: &str = "reshape";

/// The name of the attribute in which an operator has its data-dependent size: a symbol with a range, whose value a
/// run knows once the node has been computed. What mentions that symbol is computed after the node.
pub const COUNT: &str = "count";

/// What a type rule sees.
pub struct Infer<'a> {
    /// Attributes of this use.
    pub attrs: &'a Attrs,
    /// Types of the operands, `None` where an optional one is absent.
    pub inputs: &'a [Option<&'a TensorType>],
    /// The data of those operands that are constants.
    pub consts: &'a [Option<&'a Tensor>],
    /// The elements of those operands that are lists of sizes ([`SIZES`]).
    pub sizes: &'a [Option<&'a [Dim]>],
    /// How many outputs the use has: variadic ones (Split) need it.
    pub n_outputs: usize,
}

fn check_shape(ty: &TensorType) -> Result<(), OpError> {
    ty.shape.fault().map_or(Ok(()), |fault| Err(OpError::unsupported(format!("{ty}, which {fault}"))))
}

impl<'a> Infer<'a> {
    /// What the rule of `def` gives: the one way to ask it of values that a graph has.
    ///
    /// # Errors
    /// The rule refuses, or an operand or a result has a shape that no tensor has
    /// ([`Shape::fault`](super::Shape::fault)).
    pub fn types(&self, def: &OpDef) -> Result<Vec<TensorType>, OpError> {
        self.check_operands()?;
        let results = (def.infer)(self)?;
        results.iter().try_for_each(check_shape)?;
        Ok(results)
    }

    /// Whether rules may multiply sizes of the operands.
    ///
    /// # Errors
    /// An operand has a shape that no tensor has.
    pub fn check_operands(&self) -> Result<(), OpError> {
        self.inputs.iter().flatten().copied().try_for_each(check_shape)
    }

    /// The type of operand `slot`.
    ///
    /// # Errors
    /// It is absent.
    pub fn ty(&self, slot: usize) -> Result<&'a TensorType, OpError> {
        self.inputs.get(slot).copied().flatten().ok_or(OpError::MissingOperand { slot })
    }

    /// The data of operand `slot`, where it is present and constant.
    pub fn constant(&self, slot: usize) -> Option<&'a Tensor> {
        self.consts.get(slot).copied().flatten()
    }

    /// The integers of the constant operand `slot`; `None` where the operand is absent.
    ///
    /// # Errors
    /// It is present but no constant, or not of integers.
    pub fn ints(&self, slot: usize) -> Result<Option<Vec<i64>>, OpError> {
        if self.inputs.get(slot).copied().flatten().is_none() {
            return Ok(None);
        }
        let tensor = self.constant(slot).ok_or(OpError::NotConstant { slot })?;
        Ok(Some(tensor.to_i64s()?))
    }

    /// The sizes that operand `slot` lists, be it a constant or not; `None` where it is absent.
    ///
    /// # Errors
    /// It is computed from data, or not of integers.
    pub fn dims(&self, slot: usize) -> Result<Option<Vec<Dim>>, OpError> {
        if let Some(sizes) = self.sizes.get(slot).copied().flatten() {
            return Ok(Some(sizes.to_vec()));
        }
        Ok(self.ints(slot)?.map(|ints| ints.into_iter().map(Dim::Known).collect()))
    }
}

/// What an expansion sees: the node to write anew, and the edit to write into.
pub struct Expand<'e, 'g> {
    /// Where new nodes go.
    pub edit: &'e mut Edit<'g>,
    /// Attributes of the node.
    pub attrs: &'e Attrs,
    /// Operands of the node, `None` where an optional one is absent.
    pub inputs: Vec<Option<Val>>,
    /// The inferred types of its outputs.
    pub outputs: Vec<TensorType>,
}

impl Expand<'_, '_> {
    /// Operand `slot`.
    ///
    /// # Errors
    /// It is absent.
    pub fn input(&self, slot: usize) -> Result<Val, OpError> {
        self.inputs.get(slot).copied().flatten().ok_or(OpError::MissingOperand { slot })
    }

    /// Operand `slot`, `None` where absent.
    pub fn optional(&self, slot: usize) -> Option<Val> {
        self.inputs.get(slot).copied().flatten()
    }

    /// The type of a value.
    pub fn ty(&self, val: Val) -> TensorType {
        self.edit.ty(val).clone()
    }

    /// The integers of the constant operand `slot`; `None` where the operand is absent.
    ///
    /// # Errors
    /// It is present but no constant, or not of integers.
    pub fn ints(&self, slot: usize) -> Result<Option<Vec<i64>>, OpError> {
        let Some(val) = self.optional(slot) else { return Ok(None) };
        let tensor = self.edit.constant(val).ok_or(OpError::NotConstant { slot })?;
        Ok(Some(tensor.to_i64s()?))
    }

    /// The sizes that operand `slot` lists, be it a constant or not; `None` where it is absent.
    ///
    /// # Errors
    /// It is computed from data, or not of integers.
    pub fn dims(&self, slot: usize) -> Result<Option<Vec<Dim>>, OpError> {
        if let Some(sizes) = self.optional(slot).and_then(|val| self.edit.sizes(val)) {
            return Ok(Some(sizes.to_vec()));
        }
        Ok(self.ints(slot)?.map(|ints| ints.into_iter().map(Dim::Known).collect()))
    }

    /// A new node with one output.
    ///
    /// # Errors
    /// Its operands or attributes are wrong.
    pub fn add(&mut self, def: &'static OpDef, attrs: Attrs, inputs: &[Val]) -> Result<Val, OpError> {
        self.edit.add(Op::new(def, attrs), inputs).map_err(|e| OpError::Edit(Box::new(e)))
    }

    /// A new constant.
    pub fn constant(&mut self, tensor: Tensor) -> Val {
        self.edit.add_const(tensor)
    }
}

impl Level {
    /// This level as a set.
    pub fn bit(self) -> Levels {
        match self {
            Level::Onnx => ONNX,
            Level::Core => CORE,
            Level::Kernel => KERNEL,
        }
    }
}
