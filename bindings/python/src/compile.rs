//! Models to programs.

use crate::arrays;
use crate::errors::{raise, raised};
use crate::export::Quantized;
use crate::graph::{OwnPass, pipeline_of};
use crate::program::Program;
use nyxc::failure::Failure;
use nyxc::import::{
    Axis, Described, Description, DimBinding, ImportOptions, ImportReport, Initializers, ValueType, import,
    import_bytes,
};
use nyxc::ir::{Graph, Module, Tensor, TensorType, text};
use nyxc::passes::Settings;
use nyxc::session::compare::Comparison;
use nyxc::session::size::{self, Budget};
use nyxc::session::target::choose;
use nyxc::session::{Compile, Samples, calibrate_for, compile_module, compile_with};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyIterator};
use std::collections::BTreeMap;
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
    calibration: Option<Data>,
    calibration_samples: usize,
}

/// Samples of a model's inputs: files, or an iterable of dictionaries of arrays.
#[derive(FromPyObject)]
pub(crate) enum Data {
    /// A `.npz` file, a folder of these, or a list of them.
    #[pyo3(transparent)]
    Path(PathBuf),
    /// Arrays by name, one dictionary after the other.
    #[pyo3(transparent)]
    Arrays(Py<PyAny>),
}

/// What a caller's function or iterable raised on the way through the library.
pub(crate) type Raised = Arc<Mutex<Option<PyErr>>>;

/// Arrays of a caller's iterable, one dictionary after the other; ends where that raises, which `raised` then holds.
struct Dictionaries {
    iterator: Py<PyIterator>,
    raised: Raised,
}

impl Iterator for Dictionaries {
    type Item = BTreeMap<String, Tensor>;

    fn next(&mut self) -> Option<Self::Item> {
        Python::attach(|py| {
            let arrays = self.iterator.bind(py).clone().next()?;
            let arrays = arrays.and_then(|item| arrays::tensors(py, item.cast::<PyDict>()?));
            match arrays {
                Ok(arrays) => Some(arrays),
                Err(error) => {
                    *self.raised.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    None
                }
            }
        })
    }
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

impl Data {
    /// At most `most` samples for a graph.
    fn samples(&self, py: Python<'_>, graph: &Graph, most: usize, raised: &Raised) -> PyResult<Samples> {
        match self {
            Data::Path(path) => Samples::open(path, graph, most).map_err(raise(py)),
            Data::Arrays(arrays) => {
                let iterator = arrays.bind(py).try_iter()?.unbind();
                Ok(Samples::of_arrays(graph, most, Dictionaries { iterator, raised: raised.clone() }))
            }
        }
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

/// A model, or the text of a module (`.nyxir`): its graphs, what import decided, and what the model says of itself.
fn read(py: Python<'_>, model: &Model, options: &Options) -> PyResult<(Module, ImportReport, Option<Description>)> {
    let file = match model {
        Model::Path(path) if path.extension().is_some_and(|e| e == "nyxir") => path,
        model => {
            let (graph, report) = imported(py, model, &options.import(py)?)?;
            return Ok((Module::of(graph), report, Some(described(py, model)?)));
        }
    };
    let bad = |e: String| raised(py, &Failure::file(format!("{}: {e}", file.display())));
    let source = std::fs::read_to_string(file).map_err(|e| raised(py, &Failure::io(file, e)))?;
    let consts = match std::fs::read(file.with_extension("nyxir.consts.safetensors")) {
        Ok(bytes) => Some(text::Consts::read(Arc::new(bytes)).map_err(bad)?),
        Err(_) => None,
    };
    let find = |hash: &str, ty: &TensorType| consts.as_ref()?.find(hash, ty);
    let module = text::parse_module(&source, &nyxc::ops::registry(), &find).map_err(|e| bad(e.to_string()))?;
    Ok((module, ImportReport::default(), None))
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
    let (module, report, about) = read(py, &model, &options)?;
    let alone = module.alone();
    if alone.is_none() && (options.calibration.is_some() || !passes.is_empty()) {
        return Err(raised(py, &arrays::usage("a module of several entries takes no calibration and no passes")));
    }
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
    let failed: Raised = Arc::default();
    let most = options.calibration_samples;
    let samples = match (&options.calibration, alone) {
        (Some(data), Some(graph)) => Some((graph, data.samples(py, graph, most, &failed)?)),
        _ => None,
    };
    let compiled = py.detach(|| -> Result<_, Failure> {
        if let Some((graph, mut samples)) = samples {
            let told = &mut |done: usize| told("samples", done, most.max(done));
            let found = calibrate_for(graph, &compile, &mut samples, told)?;
            if failed.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
                return Err(arrays::usage("the samples of the calibration end in an exception"));
            }
            compile.settings.calibration = Some(Arc::new(found));
        }
        if let Some(budget) = budget {
            compile.settings.budget_bytes = Some(match (budget, alone) {
                (budget, Some(graph)) => budget.resolve(graph, &compile, &told)?,
                (Budget::Bytes(bytes), None) => bytes,
                (_, None) => return Err(arrays::usage("the budget of a module of several entries is a size")),
            });
        }
        let pipeline = |settings| pipeline_of(settings, &passes, &failed);
        Ok(match alone {
            Some(graph) => compile_with(graph, &compile, &pipeline, &told, None)?,
            None => compile_module(&module, &compile, &told, None)?,
        })
    });
    // An exception of a caller's own pass says more than the failure that came of it.
    if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let compiled = compiled.map_err(|failure| raised(py, &failure))?;
    let document = compiled.report(&compile, start.elapsed().as_secs_f64()).to_string();
    let defaulted = report.defaulted.iter().map(|(name, n)| (name.clone(), *n)).collect();
    let quantized = Quantized { module: compiled.quantized, about };
    Ok((Program::compiled(compiled.program, document, quantized), defaulted))
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

/// What a model says of itself: the name of its graph, its producer, domain, version and documentation, and what its
/// author noted by key.
#[derive(IntoPyObject)]
pub(crate) struct About {
    graph_name: String,
    producer_name: String,
    domain: String,
    version: i64,
    description: String,
    custom_metadata_map: BTreeMap<String, String>,
}

fn described(py: Python<'_>, model: &Model) -> PyResult<Description> {
    let read = || match model {
        Model::Path(path) => nyxc::import::describe(path),
        Model::Bytes(bytes) => nyxc::import::describe_bytes(bytes),
    };
    py.detach(read).map_err(raise(py))
}

/// What a model says of itself, and its inputs and outputs as the file states them, those with a default aside.
#[pyfunction]
pub(crate) fn describe(py: Python<'_>, model: Model) -> PyResult<(About, Vec<Stated>, Vec<Stated>)> {
    let found = described(py, &model)?;
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
    let outputs = found.outputs.iter().map(one).collect();
    let about = About {
        graph_name: found.name,
        producer_name: found.producer,
        domain: found.domain,
        version: found.version,
        description: found.doc,
        custom_metadata_map: found.metadata,
    };
    Ok((about, inputs, outputs))
}
