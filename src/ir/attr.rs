//! What an operator declares of its attributes: `attr::int("axis")`. Import and verifier hold every use against it, so
//! that operators read attributes without asking whether they are of another kind.

use super::{Attr, Attrs, OpDef};
use std::fmt;

/// What an attribute holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is that of Attr")]
pub enum AttrKind {
    Int,
    Float,
    /// A number of the tensor's own type: a float or an integer.
    Number,
    Text,
    Ints,
    Floats,
    Texts,
    /// Sizes, some of which may be symbolic: integers, one integer, or dims.
    Sizes,
    DType,
    Expr,
    Tensor,
    Graph,
}

/// An attribute that an operator has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttrDef {
    /// Its name in the text IR, which is ONNX's where it has one.
    pub name: &'static str,
    /// What it holds.
    pub kind: AttrKind,
}

macro_rules! declare {
    ($($name:ident = $kind:ident),* $(,)?) => {
        $(
            #[doc = concat!("An attribute of the kind [`AttrKind::", stringify!($kind), "`].")]
            pub const fn $name(name: &'static str) -> AttrDef {
                AttrDef { name, kind: AttrKind::$kind }
            }
        )*
    };
}

declare! {
    int = Int, float = Float, number = Number, text = Text, ints = Ints, floats = Floats, texts = Texts, sizes = Sizes,
    dtype = DType, expr = Expr, tensor = Tensor, graph = Graph,
}

impl AttrKind {
    /// Whether `value` is of this kind.
    pub fn takes(self, value: &Attr) -> bool {
        match self {
            AttrKind::Number => matches!(value, Attr::Int(_) | Attr::Float(_)),
            AttrKind::Sizes => matches!(value, Attr::Int(_) | Attr::Ints(_) | Attr::Dims(_)),
            own => own == AttrKind::of(value),
        }
    }

    /// The kind of a value.
    pub fn of(value: &Attr) -> AttrKind {
        match value {
            Attr::Int(_) => AttrKind::Int,
            Attr::Float(_) => AttrKind::Float,
            Attr::Str(_) => AttrKind::Text,
            Attr::Ints(_) => AttrKind::Ints,
            Attr::Floats(_) => AttrKind::Floats,
            Attr::Strs(_) => AttrKind::Texts,
            Attr::Dims(_) => AttrKind::Sizes,
            Attr::DType(_) => AttrKind::DType,
            Attr::Expr(_) => AttrKind::Expr,
            Attr::Tensor(_) => AttrKind::Tensor,
            Attr::Graph(_) => AttrKind::Graph,
        }
    }
}

impl fmt::Display for AttrKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            AttrKind::Int => "an integer",
            AttrKind::Float => "a float",
            AttrKind::Number => "a number",
            AttrKind::Text => "a text",
            AttrKind::Ints => "a list of integers",
            AttrKind::Floats => "a list of floats",
            AttrKind::Texts => "a list of texts",
            AttrKind::Sizes => "a list of sizes",
            AttrKind::DType => "an element type",
            AttrKind::Expr => "an expression",
            AttrKind::Tensor => "a tensor",
            AttrKind::Graph => "a graph",
        })
    }
}

/// An attribute that its operator does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttrFault {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub problem: String,
}

impl OpDef {
    /// Whether the operator has an attribute of this name.
    pub fn has_attr(&self, name: &str) -> bool {
        self.attrs.iter().any(|def| def.name == name)
    }

    /// The first attribute that the operator does not have, or that is of another kind than it declares.
    ///
    /// # Errors
    /// There is one.
    pub fn check_attrs(&self, attrs: &Attrs) -> Result<(), AttrFault> {
        for (name, value) in &attrs.0 {
            let problem = match self.attrs.iter().find(|def| def.name == name) {
                None => "is unknown to the operator".to_owned(),
                Some(def) if !def.kind.takes(value) => format!("is {}, expected {}", AttrKind::of(value), def.kind),
                Some(_) => continue,
            };
            return Err(AttrFault { name: name.clone(), problem });
        }
        Ok(())
    }
}
