//! What goes wrong, as the command line tells it: exit code, kind, node and numbers.

use crate::import::ImportError;
use crate::ir::OpError;
use crate::passes::{OverBudget, PassError, PipelineError};
use crate::program::file::FileError;
use crate::runtime::RuntimeError;
use crate::session::{CompileError, CpuError, SessionError};
use serde_json::json;
use std::fmt::Display;
use std::path::Path;

/// A failed command.
#[derive(Debug)]
pub struct Failure {
    /// Exit code.
    pub code: u8,
    /// What kind of failure, for programs.
    pub kind: &'static str,
    /// What happened, for people.
    pub message: String,
    node: Option<String>,
    over: Option<Box<OverBudget>>,
}

impl Failure {
    fn new(code: u8, kind: &'static str, message: impl Display) -> Failure {
        Failure { code, kind, message: message.to_string(), node: None, over: None }
    }

    /// The arguments contradict each other or the files.
    pub fn usage(message: impl Display) -> Failure {
        Failure::new(2, "usage", message)
    }

    /// A model or file is bad or unsupported.
    pub fn file(message: impl Display) -> Failure {
        Failure::new(3, "file", message)
    }

    /// A device failed.
    pub fn device(message: impl Display) -> Failure {
        Failure::new(5, "device", message)
    }

    /// A file cannot be read or written.
    pub fn io(path: &Path, error: impl Display) -> Failure {
        Failure::new(6, "io", format!("{}: {error}", path.display()))
    }

    /// The host has no memory, or no thread, left.
    pub fn host(message: impl Display) -> Failure {
        Failure::new(6, "memory", message)
    }

    /// The document that `--json` prints.
    pub fn json(&self) -> serde_json::Value {
        let over = self.over.as_ref();
        json!({"error": {
            "kind": self.kind,
            "node": self.node,
            "message": self.message,
            "needed_bytes": over.map(|o| o.min_feasible_bytes),
            "budget_bytes": over.map(|o| o.budget_bytes),
            "min_feasible_bytes": over.map(|o| o.min_feasible_bytes),
        }})
    }
}

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
        // A dimension that the model does not have is a slip in the command, not a fault of the model.
        if error.is_usage() {
            return Failure::usage(&error);
        }
        let code = if error.is_io() { 6 } else { 3 };
        let kind = if error.is_io() { "io" } else { "model" };
        Failure { node: error.node().map(str::to_owned), ..Failure::new(code, kind, chain(&error)) }
    }
}

impl From<CompileError> for Failure {
    fn from(error: CompileError) -> Failure {
        match error {
            CompileError::OverBudget(over) => (*over).into(),
            CompileError::Host { ref node, .. } => {
                Failure { node: Some(node.clone()), ..Failure::new(3, "model", error) }
            }
            CompileError::Unknown { .. } => Failure::usage(error),
            CompileError::Pipeline(error) => error.into(),
            CompileError::Threads(_) => Failure::host(chain(&error)),
            other => Failure::new(3, "compile", chain(&other)),
        }
    }
}

impl From<OverBudget> for Failure {
    fn from(over: OverBudget) -> Failure {
        Failure { message: over.to_string(), over: Some(Box::new(over)), ..Failure::new(4, "over_budget", "") }
    }
}

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Failure {
        if let PipelineError::Pass { source: PassError::OverBudget(over), .. } = error {
            return (*over).into();
        }
        let kind = match &error {
            PipelineError::Unknown { .. } | PipelineError::Absent { .. } => return Failure::usage(&error),
            PipelineError::Pass { source: PassError::Pin(_), .. } => {
                return Failure::usage(chain(&error));
            }
            PipelineError::Pass { .. } => "pass",
            PipelineError::Broken { .. } => "bug",
        };
        let node = match &error {
            PipelineError::Pass { source: PassError::Op { node, .. }, .. } => Some(node.clone()),
            _ => None,
        };
        Failure { node, ..Failure::new(3, kind, chain(&error)) }
    }
}

impl From<FileError> for Failure {
    fn from(error: FileError) -> Failure {
        Failure::new(3, "program", chain(&error))
    }
}

impl From<CpuError> for Failure {
    fn from(error: CpuError) -> Failure {
        match &error {
            CpuError::Op { node, source: OpError::Index(_) } => {
                Failure { node: Some(node.clone()), ..Failure::new(3, "index", &error) }
            }
            _ => Failure::new(3, "program", chain(&error)),
        }
    }
}

impl From<RuntimeError> for Failure {
    /// What goes wrong before there is a program: the settings, or the device.
    fn from(error: RuntimeError) -> Failure {
        if error.is_usage() { Failure::usage(chain(&error)) } else { Failure::device(chain(&error)) }
    }
}

impl From<SessionError> for Failure {
    fn from(error: SessionError) -> Failure {
        match error {
            SessionError::File(error) => error.into(),
            SessionError::Cpu(error) => error.into(),
            SessionError::Runtime(error) if error.is_usage() => error.into(),
            SessionError::Runtime(error) if crate::session::is_of_device(&error) => Failure::device(chain(&error)),
            SessionError::Runtime(RuntimeError::Index { ref node, .. }) => {
                Failure { node: Some(node.clone()), ..Failure::new(3, "index", &error) }
            }
            SessionError::Runtime(error) => Failure::new(3, "program", chain(&error)),
            SessionError::Input(error) => Failure::file(chain(&error)),
            other => Failure::device(chain(&other)),
        }
    }
}
