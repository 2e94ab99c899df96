//! Models to programs.

use crate::arrays;
use crate::errors::{raise, raised};
use crate::graph::{OwnPass, pipeline_of};
use crate::program::Program;
use nyxc::failure::Failure;
use nyxc::import::{
    Axis, Described, DimBinding, ImportOptions, ImportReport, Initializers, ValueType, import, import_bytes,
};
use nyxc::ir::Graph;
use nyxc::passes::Settings;
use nyxc::session::compare::Comparison;
use nyxc::session::size::{self, Budget};
use nyxc::session::target::choose;
use nyxc::session::{Compile, compile_with};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// A model: a path, or the bytes of the file.
#[derive(FromPyObject)]
pub(crate) enum Model {
    /// The serialized model.
    #[pyo3(transparent)]
    Bytes(Vec<u8>),
    /// Where it is.
    #[pyo3(transparent)]
    Path(PathBuf),
}

/// How a model is imported and compiled, as the package gives it: text as on the command line.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub(crate) struct Options {
    dims: Vec<String>,
    constants: Py<PyDict>,
    initializers: String,
    budget: Option<String>,
    reserve: String,
    target: String,
    policy: String,
    precision: Vec<String>,
    formats: Vec<String>,
    block_size: Option<u32>,
    allow_host: bool,
    check_indices: bool,
    n_threads: usize,
}

impl Options {
    /// How the model is imported.
    pub(crate) fn import(&self, py: Python<'_>) -> PyResult<ImportOptions> {
        let dims = self.dims.iter().map(|dim| DimBinding::parse(dim)).collect::<Result<_, _>>().map_err(raise(py))?;
        let initializers: Initializers = self.initializers.parse().map_err(usage(py))?;
        let constants = arrays::tensors(py, self.constants.bind(py))?;
        Ok(ImportOptions { dims, constants, initializers, ..ImportOptions::default() })
    }

    /// How it is compiled; the budget aside, which may need the graph.
    pub(crate) fn compile(&self, py: Python<'_>) -> PyResult<Compile> {
        let mut settings = Settings {
            policy: self.policy.parse().map_err(usage(py))?,
            reserve_bytes: size::parse(&self.reserve).map_err(usage(py))?,
            pins: self.precision.iter().map(|pin| pin.parse()).collect::<Result<_, _>>().map_err(usage(py))?,
            allow_host: self.allow_host,
            check_indices: self.check_indices,
            ..Settings::default()
        };
        if !self.formats.is_empty() {
            settings.formats =
                self.formats.iter().map(|format| format.parse()).collect::<Result<_, _>>().map_err(usage(py))?;
        }
        if let Some(block) = self.block_size {
            if !nyxc::ir::valid_block(block) {
                return Err(usage(py)(format!("block_size {block} is no power of two from 16 to 256")));
            }
            settings.set_block(block);
        }
        Ok(Compile { settings, target: choose(&self.target).map_err(raise(py))?.target, n_threads: self.n_threads })
    }
}

/// A wrong argument.
pub(crate) fn usage<E: std::fmt::Display>(py: Python<'_>) -> impl Fn(E) -> PyErr {
    move |error| raised(py, &arrays::usage(error))
}

/// The graph of a model.
pub(crate) fn imported(py: Python<'_>, model: &Model, options: &ImportOptions) -> PyResult<(Graph, ImportReport)> {
    let registry = nyxc::ops::registry();
    let read = || match model {
        Model::Path(path) => import(path, options, &registry),
        Model::Bytes(bytes) => import_bytes(bytes, None, options, &registry),
    };
    py.detach(read).map_err(raise(py))
}

/// Compiles a model. `passes` are `(where, name of the pass there, own name, function)`; `progress` is called with a
/// stage, how much of it is done and of how much.
///
/// Returns the program, and the sizes that were taken by default.
#[pyfunction]
pub(crate) fn compile(
    py: Python<'_>,
    model: Model,
    options: Options,
    passes: Vec<OwnPass>,
    progress: Option<Py<PyAny>>,
) -> PyResult<(Program, Vec<(String, i64)>)> {
    let start = Instant::now();
    let (graph, report) = imported(py, &model, &options.import(py)?)?;
    let mut compile = options.compile(py)?;
    compile.settings.fixed_inputs = report.fixed.clone();
    let budget = options.budget.as_deref().map(Budget::parse).transpose().map_err(usage(py))?;
    let told = |stage: &str, done: usize, all: usize| {
        if let Some(progress) = &progress {
            // What a caller's display raises does not stop the compilation; Python reports it as unraisable.
            Python::attach(|py| {
                if let Err(error) = progress.call1(py, (stage, done, all)) {
                    error.write_unraisable(py, Some(progress.bind(py)));
                }
            });
        }
    };
    let failed = Arc::new(Mutex::new(None));
    let compiled = py.detach(|| -> Result<_, Failure> {
        if let Some(budget) = budget {
            compile.settings.budget_bytes = Some(budget.resolve(&graph, &compile, &told)?);
        }
        let pipeline = |settings| pipeline_of(settings, &passes, &failed);
        Ok(compile_with(&graph, &compile, &pipeline, &told, None)?)
    });
    // An exception of a caller's own pass says more than the failure that came of it.
    if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let compiled = compiled.map_err(|failure| raised(py, &failure))?;
    let document = compiled.report(&compile, start.elapsed().as_secs_f64()).to_string();
    let defaulted = report.defaulted.iter().map(|(name, n)| (name.clone(), *n)).collect();
    Ok((Program::new(compiled.program, document), defaulted))
}

/// The smallest budget that compiles, and what `uniform:f32` needs, in bytes.
#[pyfunction]
pub(crate) fn budget_bounds(py: Python<'_>, model: Model, options: Options) -> PyResult<(u64, u64)> {
    let (graph, _) = imported(py, &model, &options.import(py)?)?;
    let compile = options.compile(py)?;
    py.detach(|| nyxc::session::budget_bounds(&graph, &compile, &|_, _, _| {})).map_err(raise(py))
}

/// Compares a program with its model in f32, value by value, on the CPU reference: the document of `nyxc compare`.
#[pyfunction]
pub(crate) fn compare(
    py: Python<'_>,
    model: Model,
    program: &Program,
    feeds: &Bound<'_, PyDict>,
    constants: Py<PyDict>,
) -> PyResult<String> {
    let arrays = arrays::tensors(py, feeds)?;
    let program = program.program.clone();
    let entry = program.entry().ok_or_else(|| raised(py, &arrays::usage("the program has no entry")))?;
    let given = program.inputs(entry, arrays).map_err(raise(py))?;
    let by_name = || entry.inputs.iter().zip(&given);
    // Sizes of the model are those of the arrays; those of the others are those of their defaults.
    let dims = by_name()
        .filter(|(port, _)| !entry.defaults.contains_key(&port.name))
        .flat_map(|(port, tensor)| {
            let dims = tensor.dims().into_iter().enumerate();
            dims.map(|(axis, n)| DimBinding::known(&format!("{}.{axis}", port.name), n as i64)).collect::<Vec<_>>()
        })
        .collect();
    let constants = arrays::tensors(py, constants.bind(py))?;
    let options = ImportOptions { dims, constants, initializers: Initializers::Inputs, ..ImportOptions::default() };
    let (graph, _) = imported(py, &model, &options)?;
    let own = |id: &nyxc::ir::NodeId| {
        let name = &graph.value(id.out(0)).name;
        let found = by_name().find(|(port, _)| port.name == *name).map(|(_, tensor)| tensor);
        found.or(graph.default_of(*id)).cloned().ok_or_else(|| {
            raised(py, &arrays::usage(format!("the program has no input {name:?}, which the model has")))
        })
    };
    let own = graph.inputs().iter().map(own).collect::<PyResult<Vec<_>>>()?;
    let found =
        py.detach(|| Comparison::of(graph, &own, &program, &given, &nyxc::ops::registry())).map_err(raise(py))?;
    Ok(found.to_json().to_string())
}

/// The names of the shipped profiles.
#[pyfunction]
pub(crate) fn targets() -> Vec<String> {
    nyxc::targets::shipped_names().into_iter().map(str::to_owned).collect()
}

/// An input or output as the file states it: name, element type, sizes as numbers or names.
type Stated = (String, String, Vec<Size>);

/// A size as the file states it.
#[derive(IntoPyObject)]
pub(crate) enum Size {
    /// A number.
    Known(i64),
    /// A name, `?` where it has none.
    Open(String),
}

/// The model's name, and its inputs and outputs as the file states them, those with a default aside.
#[pyfunction]
pub(crate) fn describe(py: Python<'_>, model: Model) -> PyResult<(String, Vec<Stated>, Vec<Stated>)> {
    let read = || match &model {
        Model::Path(path) => nyxc::import::describe(path),
        Model::Bytes(bytes) => nyxc::import::describe_bytes(bytes),
    };
    let found = py.detach(read).map_err(raise(py))?;
    let one = |value: &Described| match &value.ty {
        ValueType::Tensor { dtype, shape } => {
            let size = |axis: &Axis| match axis {
                Axis::Size(n) => Size::Known(*n),
                Axis::Name(name) => Size::Open(name.clone()),
                Axis::Unknown => Size::Open("?".to_owned()),
            };
            let sizes = shape.iter().flatten().map(size).collect();
            (value.name.clone(), dtype.clone(), sizes)
        }
        other => (value.name.clone(), other.to_string(), Vec::new()),
    };
    let inputs = found.inputs.iter().filter(|value| !value.has_default).map(one).collect();
    Ok((found.name, inputs, found.outputs.iter().map(one).collect()))
}
