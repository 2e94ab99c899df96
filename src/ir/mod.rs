//! The intermediate representation: a graph of named, typed values, with a text form that reads back.
//!
//! ```text
//! graph mlp onnx
//!   %x = input : f32[1,784] 3136B
//!   %w = const #51b07e2240c1a9d3 : f32[784,256] 802816B
//!   %y = matmul(%x, %w) @w8a16 : f32[1,256] 1024B
//!   output %y
//! ```

pub mod attr;
mod dim;
mod dtype;
mod edit;
pub mod expr;
mod format;
mod gradient;
mod graph;
mod index;
pub mod memory;
pub mod minifloat;
mod module;
mod nearest;
mod op;
pub mod packed;
mod tensor;
pub mod text;
mod types;
mod verify;
mod weights;
mod widen;

pub use attr::{AttrDef, AttrFault, AttrKind};
pub use dim::{Dim, Factor, Symbol};
pub use dtype::{Class, DType, UnknownDType};
pub use edit::{Edit, EditError, Patch, Val};
pub use expr::{Binary, Bounds, Expr, ExprError, Operand, Unary};
pub use format::{Activations, DEFAULT_BLOCK, Format, FormatError, Tail, Weights, valid_block};
pub use gradient::{Differentiate, Gains, GradientFn};
pub(crate) use graph::next_number;
pub use graph::{Graph, Late, Level, Node, NodeId, NodeKind, Ordering, Output, State, Value, ValueId};
pub use index::IndexFault;
pub use module::{MAIN, Module};
pub use nearest::{hint, nearest};
pub use op::{
    Attr, Attrs, CORE, COUNT, EvalFn, Expand, ExpandFn, Infer, InferFn, KERNEL, Levels, ONNX, Op, OpDef, OpError,
    Registry, SIZES, STATE_STORE, VIEW, WeightsFn,
};
pub use tensor::{Hash, Source, Tensor, TensorError, saturating_f16};
pub use types::{Shape, TensorType, product, resolve_axis};
pub use verify::{Fault, Faults};
pub use weights::{MatrixLayout, WeightOperand};
pub use widen::NarrowError;
