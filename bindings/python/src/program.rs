//! Compiled programs.

use crate::errors::raise;
use nyxc::diff::{Diff, Side};
use nyxc::failure::Failure;
use nyxc::program::file;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;

/// A program: the bytes of a `.nyx` file, read and checked.
#[pyclass(frozen, module = "nyxc._nyxc", name = "Program")]
pub(crate) struct Program {
    pub(crate) program: Arc<nyxc::program::Program>,
    /// The report of its compilation, as JSON; empty where it was read from a file.
    report: String,
    /// The model with formats made real; `None` where the program was read from a file.
    #[cfg(feature = "codegen")]
    pub(crate) quantized: Option<crate::export::Quantized>,
}

impl Program {
    /// A program that was read from a file.
    fn read(program: nyxc::program::Program) -> Program {
        Program {
            program: Arc::new(program),
            report: String::new(),
            #[cfg(feature = "codegen")]
            quantized: None,
        }
    }

    /// A program with the report of its compilation.
    #[cfg(feature = "codegen")]
    pub(crate) fn compiled(
        program: nyxc::program::Program,
        report: String,
        quantized: crate::export::Quantized,
    ) -> Program {
        Program { report, quantized: Some(quantized), ..Program::read(program) }
    }
}

#[pymethods]
impl Program {
    /// Reads the bytes of a `.nyx` file.
    #[staticmethod]
    fn from_bytes(py: Python<'_>, bytes: Vec<u8>) -> PyResult<Program> {
        let program = py.detach(|| file::read(Arc::new(bytes))).map_err(raise(py))?;
        Ok(Program::read(program))
    }

    /// The bytes of a `.nyx` file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| file::to_bytes(&self.program)).map_err(raise(py))?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// The report of the compilation as JSON; empty where the program was read from a file.
    #[getter]
    fn report_json(&self) -> &str {
        &self.report
    }

    /// The plan as JSON: what a program that was read from a file still knows.
    fn plan_json(&self) -> String {
        self.program.report().to_string()
    }

    /// The names of what can be called.
    fn entries(&self) -> Vec<String> {
        let entries = self.program.plans.first().map(|plan| plan.entries.as_slice()).unwrap_or_default();
        entries.iter().map(|entry| entry.name.clone()).collect()
    }

    /// Inputs and outputs, each `(name, type, shape)` with sizes as numbers or text, and the names of inputs that have
    /// a default.
    fn ports(&self, entry: Option<&str>) -> PyResult<(Vec<PortRow>, Vec<PortRow>, Vec<String>)> {
        let entries = self.program.plans.first().map(|plan| plan.entries.as_slice()).unwrap_or_default();
        let found = match entry {
            Some(name) => entries.iter().find(|entry| entry.name == name),
            None => entries.first(),
        };
        let Some(entry) = found else {
            let names: Vec<&str> = entries.iter().map(|entry| entry.name.as_str()).collect();
            return Err(pyo3::exceptions::PyKeyError::new_err(format!("no entry {entry:?}; there are {names:?}")));
        };
        let row = |port: &nyxc::program::Port| {
            let shape = port.shape.iter().map(|dim| (dim.known(), dim.to_string())).collect();
            (port.name.clone(), port.dtype.to_string(), shape)
        };
        let rows = |ports: &[nyxc::program::Port]| ports.iter().map(row).collect();
        Ok((rows(&entry.inputs), rows(&entry.outputs), entry.defaults.keys().cloned().collect()))
    }

    /// What differs from another program: whether anything does, for people, as JSON.
    fn diff(&self, py: Python<'_>, other: &Program) -> PyResult<(bool, String, String)> {
        let graph = |program: &nyxc::program::Program| {
            program.graph(0, &nyxc::ops::registry()).map_err(|e| raise(py)(Failure::file(e)))
        };
        let (a, b) = (graph(&self.program)?, graph(&other.program)?);
        let before = Side { graph: &a, program: Some(&self.program), file: None };
        let after = Side { graph: &b, program: Some(&other.program), file: None };
        let diff = Diff::of(&before, &after);
        Ok((!diff.is_empty(), diff.to_string(), diff.to_json().to_string()))
    }

    /// The kernel-level graph as text.
    #[getter]
    fn text(&self, py: Python<'_>) -> PyResult<String> {
        let graph = self.program.graph(0, &nyxc::ops::registry());
        graph.map(|graph| graph.to_string()).map_err(|e| raise(py)(Failure::file(e)))
    }
}

/// Name, element type, sizes: the number where it is known, and its text.
type PortRow = (String, String, Vec<(Option<i64>, String)>);
