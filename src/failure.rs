//! What every failure of the library has in common: its kind and exit code, the node and the numbers, for the command
//! line and for bindings.
//!
//! Each error type of the library becomes a [`Failure`] with `from`, so that a caller needs one type, and the same
//! error has the same kind wherever it is met. `docs/errors.md` lists the kinds.
//!
//! ```
//! use nyxc::failure::{Failure, FailureKind};
//! use nyxc::import::DimBinding;
//!
//! let failure = Failure::from(DimBinding::parse("batch").unwrap_err());
//! assert_eq!((failure.kind, failure.kind.exit_code()), (FailureKind::Usage, 2));
//! ```

use crate::assign::AssignError;
#[cfg(feature = "codegen")]
use crate::codegen::CodegenError;
use crate::export::ExportError;
use crate::import::ImportError;
use crate::ir::OpError;
use crate::kernels::KernelError;
use crate::passes::{OverBudget, PassError, PipelineError};
use crate::plan::PlanError;
use crate::plan::arena::ArenaError;
use crate::program::file::FileError;
#[cfg(feature = "runtime")]
use crate::runtime::RuntimeError;
#[cfg(feature = "codegen")]
use crate::session::CompileError;
use crate::session::target::NoTarget;
use crate::session::{CalibrateError, CpuError, InputError, SampleError, SessionError};
use crate::targets::TargetError;
use serde_json::json;
use std::fmt::{self, Display};
use std::path::Path;

/// Exit code of a command that found a difference or an error beyond its bound: no failure.
pub const EXIT_DIFFERENT: u8 = 1;
/// Exit code of an interrupted command: 128 and the number of SIGINT.
pub const EXIT_INTERRUPTED: u8 = 130;

/// What kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum FailureKind {
    /// Arguments or settings contradict each other, the model or the program.
    Usage,
    /// A model is bad, or uses what is not supported.
    Model,
    /// A model cannot be compiled for the target.
    Compile,
    /// A pass refuses the graph.
    Pass,
    /// A bug of nyxc or of a caller's own pass.
    Bug,
    /// A program is damaged or of another version, or cannot compute.
    Program,
    /// Another file is bad: inputs, targets, text.
    File,
    /// An index of a model is out of range in a run.
    Index,
    /// Nothing that is permitted fits the budget.
    OverBudget,
    /// A device failed, is absent or lacks what the program needs.
    Device,
    /// A file cannot be read or written.
    Io,
    /// The host has no memory, or no thread, left.
    Memory,
}

impl FailureKind {
    /// All of them.
    pub const ALL: [FailureKind; 12] = [
        FailureKind::Usage,
        FailureKind::Model,
        FailureKind::Compile,
        FailureKind::Pass,
        FailureKind::Bug,
        FailureKind::Program,
        FailureKind::File,
        FailureKind::Index,
        FailureKind::OverBudget,
        FailureKind::Device,
        FailureKind::Io,
        FailureKind::Memory,
    ];

    /// Its name, as `kind` of the JSON document.
    pub const fn name(self) -> &'static str {
        match self {
            FailureKind::Usage => "usage",
            FailureKind::Model => "model",
            FailureKind::Compile => "compile",
            FailureKind::Pass => "pass",
            FailureKind::Bug => "bug",
            FailureKind::Program => "program",
            FailureKind::File => "file",
            FailureKind::Index => "index",
            FailureKind::OverBudget => "over_budget",
            FailureKind::Device => "device",
            FailureKind::Io => "io",
            FailureKind::Memory => "memory",
        }
    }

    /// The exit code of a command that fails so.
    pub const fn exit_code(self) -> u8 {
        match self {
            FailureKind::Usage => 2,
            FailureKind::Model
            | FailureKind::Compile
            | FailureKind::Pass
            | FailureKind::Bug
            | FailureKind::Program
            | FailureKind::File
            | FailureKind::Index => 3,
            FailureKind::OverBudget => 4,
            FailureKind::Device => 5,
            FailureKind::Io | FailureKind::Memory => 6,
        }
    }
}

impl Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The numbers of a failure, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// What would have been needed: of the budget, or of the device.
    pub needed: Option<u64>,
    /// The budget.
    pub budget: Option<u64>,
    /// The smallest budget that compiles.
    pub min_feasible: Option<u64>,
    /// What the device had free.
    pub free: Option<u64>,
}

/// Why something failed: what every error of the library becomes.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// Its kind, which has the exit code.
    pub kind: FailureKind,
    /// What happened, in a sentence with all its causes.
    pub message: String,
    /// The node of the model, where it is about one.
    pub node: Option<String>,
    /// The numbers, where it is about memory.
    pub bytes: Bytes,
}

impl Failure {
    /// A failure of this kind, of no node and without numbers.
    pub fn new(kind: FailureKind, message: impl Display) -> Failure {
        Failure { kind, message: message.to_string(), node: None, bytes: Bytes::default() }
    }

    /// Arguments contradict each other or the files.
    pub fn usage(message: impl Display) -> Failure {
        Failure::new(FailureKind::Usage, message)
    }

    /// A file is bad.
    pub fn file(message: impl Display) -> Failure {
        Failure::new(FailureKind::File, message)
    }

    /// A device failed.
    pub fn device(message: impl Display) -> Failure {
        Failure::new(FailureKind::Device, message)
    }

    /// A file cannot be read or written.
    pub fn io(path: &Path, error: impl Display) -> Failure {
        Failure::new(FailureKind::Io, format!("{}: {error}", path.display()))
    }

    /// The host has no memory, or no thread, left.
    pub fn host(message: impl Display) -> Failure {
        Failure::new(FailureKind::Memory, message)
    }

    /// The same failure, said to be of this file.
    pub fn of_file(self, path: &Path) -> Failure {
        Failure { message: format!("{}: {}", path.display(), self.message), ..self }
    }

    /// The same failure, said to be in this node.
    fn in_node(self, node: &str) -> Failure {
        Failure { node: Some(node.to_owned()), ..self }
    }

    /// As one JSON document, `{"error": {"kind", "node", "message", "needed_bytes", "budget_bytes",
    /// "min_feasible_bytes", "free_bytes"}}`: every key is always there, `null` where there is nothing to say.
    pub fn json(&self) -> serde_json::Value {
        json!({"error": {
            "kind": self.kind.name(),
            "node": self.node,
            "message": self.message,
            "needed_bytes": self.bytes.needed,
            "budget_bytes": self.bytes.budget,
            "min_feasible_bytes": self.bytes.min_feasible,
            "free_bytes": self.bytes.free,
        }})
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}

/// An error with all its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Many errors already end in their cause.
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        cause = error.source();
    }
    text
}

impl From<ImportError> for Failure {
    fn from(error: ImportError) -> Failure {
        let kind = match &error {
            // A dimension that the model does not have is a slip in the command, not a fault of the model.
            error if error.is_usage() => FailureKind::Usage,
            error if error.is_io() => FailureKind::Io,
            _ => FailureKind::Model,
        };
        Failure { node: error.node().map(str::to_owned), ..Failure::new(kind, chain(&error)) }
    }
}

impl From<ExportError> for Failure {
    fn from(error: ExportError) -> Failure {
        Failure::new(FailureKind::Model, chain(&error)).in_node(error.node())
    }
}

#[cfg(feature = "codegen")]
impl From<CompileError> for Failure {
    fn from(error: CompileError) -> Failure {
        match error {
            CompileError::OverBudget(over) => (*over).into(),
            CompileError::Host { ref node, .. } => Failure::new(FailureKind::Model, &error).in_node(node),
            CompileError::Unknown { .. } => Failure::usage(error),
            CompileError::Pipeline(error) => error.into(),
            CompileError::Pass(error) => error.into(),
            CompileError::Plan(error) => error.into(),
            CompileError::Threads(_) => Failure::host(chain(&error)),
            CompileError::Codegen { source: CodegenError::Compiler { .. }, .. } => {
                Failure::new(FailureKind::Compile, chain(&error))
            }
            // All others are bugs of the planner.
            CompileError::Codegen { .. } => Failure::new(FailureKind::Bug, chain(&error)),
            other => Failure::new(FailureKind::Compile, chain(&other)),
        }
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Failure {
        match error {
            PlanError::Kernel(error) => error.into(),
            PlanError::Arena(ArenaError::Overflow { .. }) => Failure::new(FailureKind::Compile, error),
            PlanError::Arena(_) | PlanError::Unplaced { .. } => Failure::new(FailureKind::Bug, error),
            other => Failure::new(FailureKind::Compile, chain(&other)),
        }
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Failure {
        let kind = match error {
            KernelError::Mismatch { .. } => FailureKind::Bug,
            _ => FailureKind::Compile,
        };
        let (KernelError::Unsupported { node, .. }
        | KernelError::OverLimit { node, .. }
        | KernelError::TooLarge { node, .. }
        | KernelError::Mismatch { node, .. }) = &error;
        Failure::new(kind, &error).in_node(node)
    }
}

/// The kind of an operator's error: `otherwise`, where the error itself does not tell.
fn kind_of(error: &OpError, otherwise: FailureKind) -> FailureKind {
    match error {
        OpError::Bug(_) => FailureKind::Bug,
        _ => otherwise,
    }
}

impl From<OverBudget> for Failure {
    fn from(over: OverBudget) -> Failure {
        let bytes = Bytes {
            needed: Some(over.min_feasible_bytes),
            budget: Some(over.budget_bytes),
            min_feasible: Some(over.min_feasible_bytes),
            free: None,
        };
        Failure { bytes, ..Failure::new(FailureKind::OverBudget, over) }
    }
}

impl From<PassError> for Failure {
    fn from(error: PassError) -> Failure {
        match error {
            PassError::OverBudget(over) => (*over).into(),
            PassError::Pin(_) => Failure::usage(chain(&error)),
            PassError::Op { ref node, ref source } | PassError::Assign(AssignError::Score { ref node, ref source }) => {
                Failure::new(kind_of(source, FailureKind::Pass), chain(&error)).in_node(node)
            }
            PassError::Plan(error) => error.into(),
            PassError::Lowering(error) => (*error).into(),
            other => Failure::new(FailureKind::Pass, chain(&other)),
        }
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Failure {
        let message = chain(&error);
        match error {
            PipelineError::Unknown { .. } | PipelineError::Absent { .. } | PipelineError::Level { .. } => {
                Failure::usage(message)
            }
            PipelineError::Broken { .. } => Failure::new(FailureKind::Bug, message),
            PipelineError::Pass { source: PassError::OverBudget(over), .. } => (*over).into(),
            // The message has the pass.
            PipelineError::Pass { source, .. } => Failure { message, ..source.into() },
        }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        Failure::new(FailureKind::Program, chain(&error))
    }
}

impl From<InputError> for Failure {
    fn from(error: InputError) -> Failure {
        Failure::file(chain(&error))
    }
}

impl From<CpuError> for Failure {
    fn from(error: CpuError) -> Failure {
        match &error {
            CpuError::Op { node, source: OpError::Index(_) } => Failure::new(FailureKind::Index, &error).in_node(node),
            CpuError::Op { node, source } => {
                Failure::new(kind_of(source, FailureKind::Program), chain(&error)).in_node(node)
            }
            CpuError::Count { node, .. } => Failure::new(FailureKind::Program, chain(&error)).in_node(node),
            _ => Failure::new(FailureKind::Program, chain(&error)),
        }
    }
}

#[cfg(feature = "runtime")]
impl From<RuntimeError> for Failure {
    fn from(error: RuntimeError) -> Failure {
        let message = chain(&error);
        match &error {
            error if error.is_usage() => Failure::usage(message),
            RuntimeError::OutOfMemory { asked_bytes, free_bytes } => {
                let bytes = Bytes { needed: Some(*asked_bytes), free: Some(*free_bytes), ..Bytes::default() };
                Failure { bytes, ..Failure::device(message) }
            }
            RuntimeError::Budget { asked_bytes, left_bytes } => {
                let bytes = Bytes { needed: Some(*asked_bytes), free: Some(*left_bytes), ..Bytes::default() };
                Failure { bytes, ..Failure::device(message) }
            }
            RuntimeError::Index { node, .. } => Failure::new(FailureKind::Index, message).in_node(node),
            RuntimeError::Host { node, .. } => Failure::new(FailureKind::Program, message).in_node(node),
            error if crate::session::is_of_device(error) => Failure::device(message),
            _ => Failure::new(FailureKind::Program, message),
        }
    }
}

impl From<SampleError> for Failure {
    fn from(error: SampleError) -> Failure {
        match error {
            SampleError::Io { path, source } => Failure::io(Path::new(&path), source),
            SampleError::Empty { .. } => Failure::usage(error),
            other => Failure::file(chain(&other)),
        }
    }
}

impl From<CalibrateError> for Failure {
    fn from(error: CalibrateError) -> Failure {
        match error {
            CalibrateError::Sample(error) => error.into(),
            CalibrateError::Pipeline(error) => error.into(),
            CalibrateError::Run { sample, source } => {
                let failure = Failure::from(source);
                Failure { message: format!("sample {sample}: {}", failure.message), ..failure }
            }
            CalibrateError::NoSamples | CalibrateError::Insensitive => Failure::usage(error),
        }
    }
}

impl From<NoTarget> for Failure {
    fn from(error: NoTarget) -> Failure {
        match error {
            NoTarget::Profile(error @ TargetError::Unknown { .. }) => Failure::usage(error),
            NoTarget::Profile(error) => Failure::file(chain(&error)),
            error @ NoTarget::Text { .. } => Failure::file(error),
            NoTarget::Io { path, source } => Failure::io(Path::new(&path), source),
            #[cfg(feature = "runtime")]
            NoTarget::Runtime(error) => error.into(),
        }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        match error {
            SessionError::File(error) => error.into(),
            SessionError::Cpu(error) => error.into(),
            #[cfg(feature = "runtime")]
            SessionError::Runtime(error) => error.into(),
            SessionError::Input(error) => error.into(),
            SessionError::Port { .. } | SessionError::Elsewhere { .. } => Failure::usage(chain(&error)),
            other => Failure::device(chain(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_errors_has_every_kind_with_its_exit_code() {
        let page = include_str!("../docs/errors.md");
        let rows: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        let expected = FailureKind::ALL.map(|kind| format!("| `{kind}` | {} |", kind.exit_code()));
        assert_eq!(rows.len(), expected.len(), "{rows:?}");
        for (row, expected) in rows.iter().zip(&expected) {
            assert!(row.starts_with(expected), "{row}, expected {expected}");
        }
    }

    #[test]
    fn numbers_and_nodes_are_fields() {
        let over = OverBudget {
            min_feasible_bytes: 30,
            f32_bytes: 40,
            available_bytes: 18,
            budget_bytes: 20,
            advice: vec!["more".to_owned()],
        };
        let pass = |source| PipelineError::Pass { pass: "fuse".to_owned(), source };
        let failure = Failure::from(pass(PassError::OverBudget(Box::new(over))));
        let json = failure.json();
        assert_eq!(failure.kind, FailureKind::OverBudget);
        assert_eq!((&json["error"]["min_feasible_bytes"], &json["error"]["budget_bytes"]), (&json!(30), &json!(20)));
        let failure =
            Failure::from(pass(PassError::Op { node: "n".to_owned(), source: OpError::Unsupported("x".to_owned()) }));
        assert_eq!((failure.kind, failure.node.as_deref()), (FailureKind::Pass, Some("n")));
        assert!(failure.message.starts_with("fuse: "), "{failure}");
    }

    #[test]
    fn blame_and_node_survive_what_wraps_them() {
        let mismatch = || KernelError::Mismatch { node: "n".to_owned(), kernel: "k".to_owned(), what: "x".to_owned() };
        let large = KernelError::TooLarge { node: "n".to_owned(), value: "v".to_owned(), bytes: 2, limit_bytes: 1 };
        let pass = |source| Failure::from(PipelineError::Pass { pass: "fuse".to_owned(), source });
        let score = AssignError::Score { node: "n".to_owned(), source: OpError::Unsupported("x".to_owned()) };
        let lowering = PipelineError::Pass {
            pass: "decompose".to_owned(),
            source: PassError::Op { node: "n".to_owned(), source: OpError::Bug("x") },
        };
        let cpu = |source| Failure::from(CpuError::Op { node: "n".to_owned(), source });
        for (failure, kind) in [
            (Failure::from(PlanError::Kernel(mismatch())), FailureKind::Bug),
            (pass(PassError::Plan(PlanError::Kernel(large))), FailureKind::Compile),
            (pass(PassError::Assign(score)), FailureKind::Pass),
            (pass(PassError::Lowering(Box::new(lowering))), FailureKind::Bug),
            (cpu(OpError::Unsupported("x".to_owned())), FailureKind::Program),
            (cpu(OpError::Bug("x")), FailureKind::Bug),
        ] {
            assert_eq!((failure.kind, failure.node.as_deref()), (kind, Some("n")), "{failure}");
        }
        let failure = Failure::from(SessionError::Elsewhere { name: "x".to_owned() });
        assert_eq!(failure.kind, FailureKind::Usage);
    }

    #[cfg(feature = "codegen")]
    #[test]
    fn a_key_without_a_shader_is_a_bug() {
        let source = CodegenError::Key { kernel: "k".to_owned(), reason: "x".to_owned() };
        assert_eq!(Failure::from(CompileError::Codegen { kernel: "k".to_owned(), source }).kind, FailureKind::Bug);
    }

    #[cfg(feature = "runtime")]
    #[test]
    fn a_device_without_memory_says_what_it_was_asked_and_had() {
        let failure = Failure::from(RuntimeError::OutOfMemory { asked_bytes: 7, free_bytes: 5 });
        assert_eq!((failure.kind.exit_code(), failure.bytes.needed, failure.bytes.free), (5, Some(7), Some(5)));
    }
}
