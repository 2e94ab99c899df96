//! Quantized models as ONNX.

use crate::compile::usage;
use crate::errors::{raise, raised};
use crate::program::Program;
use nyxc::export::Model;
use nyxc::failure::Failure;
use nyxc::import::Description;
use nyxc::ir::Module;
use pyo3::prelude::*;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// A model with formats made real, and what its author noted.
pub(crate) struct Quantized {
    pub(crate) module: Module,
    pub(crate) about: Option<Description>,
}

/// A model as ONNX, to be written.
#[pyclass(frozen, module = "nyxc._nyxc", name = "Exported")]
pub(crate) struct Exported {
    model: Model,
}

/// Writes a file.
fn write(path: &Path, fill: impl FnOnce(&mut dyn Write) -> std::io::Result<()>) -> Result<(), Failure> {
    let write = || {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        fill(&mut out)?;
        out.flush()
    };
    write().map_err(|error| Failure::io(path, error))
}

#[pymethods]
impl Exported {
    /// Whether the constants need a file of their own.
    #[getter]
    fn needs_data_file(&self) -> bool {
        self.model.needs_data_file()
    }

    /// Writes the model, whose large constants are in the file called `data` where that is given.
    fn write(&self, py: Python<'_>, path: PathBuf, data: Option<String>) -> PyResult<()> {
        py.detach(|| write(&path, |out| self.model.write(data.as_deref(), out))).map_err(raise(py))
    }

    /// Writes the file of the large constants.
    fn write_data(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        py.detach(|| write(&path, |out| self.model.write_data(out))).map_err(raise(py))
    }
}

/// The quantized model of a program as ONNX; `style` as on the command line.
#[pyfunction]
pub(crate) fn export(py: Python<'_>, program: &Program, style: &str) -> PyResult<Exported> {
    let style = style.parse().map_err(usage(py))?;
    let refuse = |what: &str| raised(py, &crate::arrays::usage(what));
    let quantized = program
        .quantized
        .as_ref()
        .ok_or_else(|| refuse("a program that was read from a file has no model to export"))?;
    let graph = quantized.module.alone().ok_or_else(|| refuse("a module of several entries has no form in ONNX"))?;
    let model = py.detach(|| nyxc::export::model(graph, style, quantized.about.as_ref())).map_err(raise(py))?;
    Ok(Exported { model })
}
