//! Passes: each a rewrite of the graph, one file each, and the one list of them.
//!
//! A pass looks at a graph and gives an edit. The runner applies it, verifies, times and dumps around it, so that a
//! pass holds only its idea.

pub mod absorb_casts;
pub mod assign_precision;
mod axis_orders;
pub mod cancel_qdq;
mod candidates;
pub mod channels_last;
pub mod copy_states;
pub mod decompose;
mod explain;
mod facts;
pub mod fold_batch_norm;
pub mod fold_constants;
pub mod fuse;
pub mod insert_qdq;
pub mod lower_attention;
pub mod lower_qdq;
pub mod lower_quantized;
mod lowering;
pub mod merge_duplicates;
pub mod note_magnitudes;
pub mod order_filters;
mod packed_rows;
mod pattern;
mod permitted;
mod pipeline;
mod recognize_attention;
pub mod recognize_composites;
pub mod remove_dead_code;
pub mod remove_identities;
mod settings;
mod stored_rows;
pub mod sum_filled;
pub mod wide_range;

pub use crate::assign::{OverBudget, Policy};
pub use explain::{Candidate, Choice, Explain, Explanation, WhyNot};
pub use facts::{Assignment, Facts};
pub use pipeline::{Dump, Pipeline, PipelineError, Report, Timing};
pub use settings::{Pin, PinError, Settings};

use crate::ir::{Graph, OpError, Patch};
use crate::targets::Target;

/// What a pass is to the formats of a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It rewrites the graph, or sets formats of nodes.
    Rewrite,
    /// It assigns all formats under the budget.
    Assign,
    /// It makes formats real: behind it they change nothing that is stored.
    Realize,
    /// It writes the graph in operators of the core: before it the graph is plain ONNX, which is what is exported.
    Lower,
}

/// A rewrite of the graph.
pub trait Pass: Send + Sync {
    /// Its name on the command line, in dumps and in snapshots.
    fn name(&self) -> &str;

    /// Whether a graph is not right for the passes after it unless this one ran.
    fn is_required(&self) -> bool {
        false
    }

    /// What it is to the formats of a program. Passes of a toolchain's own are rewrites, or what those are that they
    /// replace.
    fn stage(&self) -> Stage {
        Stage::Rewrite
    }

    /// Whether it is run again until it changes nothing, a bounded number of times.
    fn repeats(&self) -> bool {
        false
    }

    /// What should change in `graph`.
    ///
    /// # Errors
    /// The model cannot be compiled as asked; never for a pattern that merely does not match.
    fn run(&self, graph: &Graph, cx: &mut Context<'_>) -> Result<Patch, PassError>;
}

/// What a pass may know besides the graph, and where it leaves what is no graph.
pub struct Context<'a> {
    /// The device that is compiled for.
    pub target: &'a Target,
    /// What the user asked for.
    pub settings: &'a Settings,
    /// Why patterns did not match, where the user asked about a node.
    pub explain: Explain,
    /// What the stages before this pass found out.
    pub facts: Facts<'a>,
    /// The passes after this one.
    to_come: &'a [pipeline::Slot],
}

impl<'a> Context<'a> {
    /// A context for one run.
    pub fn new(target: &'a Target, settings: &'a Settings) -> Context<'a> {
        Context {
            target,
            settings,
            explain: Explain::new(settings.explain.is_some()),
            facts: Facts::default(),
            to_come: &[],
        }
    }
}

/// Why a pass cannot go on.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages document the fields")]
pub enum PassError {
    #[error("node {node:?}: {source}")]
    Op { node: String, source: OpError },
    #[error(transparent)]
    Pin(#[from] PinError),
    #[error("{0}")]
    OverBudget(Box<OverBudget>),
    /// A pass of a caller's own gave up, and why.
    #[error("{0}")]
    Own(String),
    #[error(transparent)]
    Plan(#[from] crate::plan::PlanError),
    #[error(transparent)]
    Assign(#[from] crate::assign::AssignError),
    #[error(transparent)]
    Lowering(Box<PipelineError>),
}

/// Says of which node an operator's error speaks.
pub(crate) fn at(node: &str) -> impl Fn(OpError) -> PassError + '_ {
    move |source| PassError::Op { node: node.to_owned(), source }
}

/// Lists the passes: the module of each, named as on the command line, and the type in it.
macro_rules! list_passes {
    ($($module:ident: $pass:ident,)*) => {
        /// The names of all passes.
        pub const NAMES: &[&str] = &[$(stringify!($module)),*];
        /// The pass of this name.
        pub fn by_name(name: &str) -> Option<Box<dyn Pass>> {
            match name {
                $(stringify!($module) => Some(Box::new($module::$pass)),)*
                _ => None,
            }
        }
    };
}

list_passes! {
    fold_constants: FoldConstants,
    remove_dead_code: RemoveDeadCode,
    merge_duplicates: MergeDuplicates,
    remove_identities: RemoveIdentities,
    recognize_composites: RecognizeComposites,
    sum_filled: SumFilled,
    fold_batch_norm: FoldBatchNorm,
    order_filters: OrderFilters,
    assign_precision: AssignPrecision,
    insert_qdq: InsertQdq,
    cancel_qdq: CancelQdq,
    decompose: Decompose,
    absorb_casts: AbsorbCasts,
    channels_last: ChannelsLast,
    lower_attention: LowerAttention,
    lower_quantized: LowerQuantized,
    lower_qdq: LowerQdq,
    fuse: Fuse,
    note_magnitudes: NoteMagnitudes,
    copy_states: CopyStates,
}

/// The default order. A name may repeat.
pub const DEFAULT: &[&str] = &[
    "remove_dead_code",
    "remove_identities",
    "fold_constants",
    "merge_duplicates",
    "sum_filled",
    "recognize_composites",
    "fold_batch_norm",
    "order_filters",
    "assign_precision",
    "insert_qdq",
    "fold_constants",
    "cancel_qdq",
    "merge_duplicates",
    "decompose",
    "lower_attention",
    "fold_constants",
    "absorb_casts",
    "lower_attention",
    "channels_last",
    "lower_quantized",
    "lower_qdq",
    "merge_duplicates",
    "fuse",
    "note_magnitudes",
    "copy_states",
];

#[cfg(test)]
pub(crate) mod testing;
