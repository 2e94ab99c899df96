//! Graphs, and passes written in Python.

use crate::arrays;
use crate::compile::{Model, Options, imported, usage};
use crate::errors::{raise, raised};
use nyxc::failure::Failure;
use nyxc::ir::{Attr, Attrs, Format, NodeId, Op, Patch, Tensor, Val, text};
use nyxc::passes::{Context, Pass, PassError, Pipeline, Settings};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use std::sync::{Arc, Mutex, PoisonError};

/// A graph, which nobody changes: passes give edits.
#[pyclass(frozen, module = "nyxc._nyxc", name = "Graph")]
pub(crate) struct Graph {
    graph: Arc<nyxc::ir::Graph>,
}

/// Name, operator, format, names of operands (`None` where one is left out), of results, attributes as JSON, the line
/// of the text form.
type NodeRow = (String, String, Option<String>, Vec<Option<String>>, Vec<String>, String, String);

/// An attribute as JSON; text where JSON has no such value.
fn json(value: &Attr) -> serde_json::Value {
    match value {
        Attr::Int(value) => (*value).into(),
        Attr::Float(value) => f64::from(*value).into(),
        Attr::Str(value) => value.as_str().into(),
        Attr::Ints(values) => values.as_slice().into(),
        Attr::Floats(values) => values.iter().map(|value| f64::from(*value)).collect(),
        Attr::Strs(values) => values.as_slice().into(),
        Attr::Dims(values) => values.iter().map(ToString::to_string).collect(),
        Attr::DType(value) => value.to_string().into(),
        Attr::Expr(value) => value.to_string().into(),
        Attr::Tensor(value) => value.ty().to_string().into(),
        Attr::Graph(value) => value.name.as_str().into(),
    }
}

#[pymethods]
impl Graph {
    /// Reads a model.
    #[staticmethod]
    fn from_onnx(py: Python<'_>, model: Model, options: Options) -> PyResult<Graph> {
        let (graph, _) = imported(py, &model, &options.import(py)?)?;
        Ok(Graph { graph: Arc::new(graph) })
    }

    /// Reads the text form; `consts` are the bytes of the file with the large constants, where there is one.
    #[staticmethod]
    fn from_text(py: Python<'_>, source: &str, consts: Option<Vec<u8>>) -> PyResult<Graph> {
        let bad = |e: String| raised(py, &Failure::file(e));
        let consts = consts.map(|bytes| text::Consts::read(Arc::new(bytes))).transpose().map_err(bad)?;
        let find = |hash: &str, ty: &nyxc::ir::TensorType| consts.as_ref()?.find(hash, ty);
        let graph = text::parse(source, &nyxc::ops::registry(), &find).map_err(|e| bad(e.to_string()))?;
        graph.verify().map_err(|e| bad(e.to_string()))?;
        Ok(Graph { graph: Arc::new(graph) })
    }

    /// Its name.
    #[getter]
    fn name(&self) -> &str {
        &self.graph.name
    }

    /// `onnx`, `core` or `kernel`.
    #[getter]
    fn level(&self) -> String {
        self.graph.level.to_string()
    }

    /// The text form.
    #[getter]
    fn text(&self) -> String {
        self.graph.to_string()
    }

    /// The nodes with an operator, in order.
    fn node_rows(&self) -> Vec<NodeRow> {
        let graph = &self.graph;
        let name = |value: nyxc::ir::ValueId| graph.value(value).name.clone();
        let row = |id: NodeId| {
            let node = graph.node(id);
            let op = node.op()?;
            let attrs: serde_json::Map<_, _> =
                op.attrs.0.iter().map(|(name, value)| (name.clone(), json(value))).collect();
            let attrs = serde_json::Value::Object(attrs).to_string();
            let operands = graph.operands(id).into_iter().map(|v| v.map(name)).collect();
            let results = node.outputs.iter().map(|value| value.name.clone()).collect();
            let op = if op.def.onnx.is_empty() { op.def.name } else { op.def.onnx };
            Some((
                node.name.clone(),
                op.to_owned(),
                node.format.map(|f| f.to_string()),
                operands,
                results,
                attrs,
                text::node_line(graph, id),
            ))
        };
        graph.order().into_iter().filter_map(row).collect()
    }

    /// The values and their types, in order.
    fn value_rows(&self) -> Vec<(String, String)> {
        let graph = &self.graph;
        let outputs = |id: NodeId| graph.node(id).outputs.iter().map(|v| (v.name.clone(), v.ty.to_string()));
        graph.order().into_iter().flat_map(outputs).collect()
    }

    /// The names of inputs and of outputs.
    fn ports(&self) -> (Vec<String>, Vec<String>) {
        let inputs = self.graph.inputs().iter().map(|id| self.graph.value(id.out(0)).name.clone()).collect();
        (inputs, self.graph.outputs().iter().map(|output| output.name.clone()).collect())
    }

    /// The value of a constant; `None` where the value is not one.
    fn constant<'py>(&self, py: Python<'py>, name: &str) -> PyResult<Option<Bound<'py, PyAny>>> {
        let value = self.graph.value_named(name).and_then(|value| self.graph.constant(value));
        value.map(|tensor| arrays::array(py, tensor)).transpose()
    }

    /// What differs from another graph: whether anything does, for people, as JSON.
    fn diff(&self, other: &Graph) -> (bool, String, String) {
        let diff = nyxc::diff::Diff::of_graphs(&self.graph, &other.graph);
        (!diff.is_empty(), diff.to_string(), diff.to_json().to_string())
    }
}

/// One step of an edit.
enum Command {
    Format { node: String, format: Option<Format> },
    Add { op: String, operands: Vec<Option<Name>>, attrs: Attrs, n_outputs: usize },
    Const { tensor: Tensor },
    Replace { old: String, new: Name },
    InsertAfter { old: String, new: Name },
    Operand { node: String, slot: usize, value: Name },
    RemoveDead,
}

/// A value: of the graph by its name, or one that the edit adds, by the number of the step and of the result.
#[derive(Clone, FromPyObject)]
enum Name {
    #[pyo3(transparent)]
    Old(String),
    #[pyo3(transparent)]
    New((usize, usize)),
}

/// What a pass asks to change.
#[pyclass(frozen, module = "nyxc._nyxc", name = "Edit")]
#[derive(Default)]
pub(crate) struct Edit {
    commands: Mutex<Vec<Command>>,
}

impl Edit {
    fn push(&self, command: Command) -> usize {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.push(command);
        commands.len() - 1
    }

    /// The patch of a graph.
    fn patch(&self, graph: &nyxc::ir::Graph) -> Result<Patch, String> {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let registry = nyxc::ops::registry();
        let node = |name: &str| {
            let found = graph.order().into_iter().find(|id| graph.node(*id).name == name);
            found.ok_or_else(|| format!("the graph has no node {name:?}"))
        };
        let value = |name: &str| graph.value_named(name).ok_or_else(|| format!("the graph has no value {name:?}"));
        let mut edit = nyxc::ir::Edit::new(graph);
        let mut made: Vec<Vec<Val>> = Vec::new();
        for command in commands.iter() {
            let of = |made: &[Vec<Val>], name: &Name| match name {
                Name::Old(name) => value(name).map(Val::from),
                Name::New((step, out)) => made
                    .get(*step)
                    .and_then(|results| results.get(*out))
                    .copied()
                    .ok_or_else(|| format!("step {step} of the edit has no result {out}")),
            };
            let mut results = Vec::new();
            match command {
                Command::Format { node: name, format } => edit.set_format(node(name)?, *format),
                Command::Add { op, operands, attrs, n_outputs } => {
                    let def = registry.by_onnx(op).or_else(|| registry.by_name(op));
                    let def = def.ok_or_else(|| format!("there is no operator {op:?}"))?;
                    let one = |operand: &Option<Name>| operand.as_ref().map(|name| of(&made, name)).transpose();
                    let operands = operands.iter().map(one).collect::<Result<Vec<_>, _>>()?;
                    let op = Op::new(def, attrs.clone());
                    results = edit.add_all(op, &operands, *n_outputs).map_err(|e| e.to_string())?;
                }
                Command::Const { tensor } => results = vec![edit.add_const(tensor.clone())],
                Command::Replace { old, new } => edit.replace(value(old)?, of(&made, new)?),
                Command::InsertAfter { old, new } => edit.insert_after(value(old)?, of(&made, new)?),
                Command::Operand { node: name, slot, value } => edit.set_operand(node(name)?, *slot, of(&made, value)?),
                Command::RemoveDead => edit.remove_dead(),
            }
            made.push(results);
        }
        Ok(edit.finish())
    }
}

/// An attribute from Python: an integer, a float, text, or a list of one of these.
fn attr(py: Python<'_>, name: &str, value: &Bound<'_, PyAny>) -> PyResult<Attr> {
    if let Ok(value) = value.extract::<i64>() {
        return Ok(Attr::Int(value));
    }
    if let Ok(value) = value.extract::<f64>() {
        return Ok(Attr::Float(value as f32));
    }
    if let Ok(value) = value.extract::<String>() {
        return Ok(Attr::Str(value));
    }
    if let Ok(values) = value.extract::<Vec<i64>>() {
        return Ok(Attr::Ints(values));
    }
    if let Ok(values) = value.extract::<Vec<f32>>() {
        return Ok(Attr::Floats(values));
    }
    if let Ok(values) = value.extract::<Vec<String>>() {
        return Ok(Attr::Strs(values));
    }
    Err(usage(py)(format!("attribute {name:?} is not a number, text, or a list of one of these")))
}

#[pymethods]
impl Edit {
    #[new]
    fn new() -> Edit {
        Edit::default()
    }

    /// Notes a format on a node.
    fn set_format(&self, py: Python<'_>, node: String, format: Option<&str>) -> PyResult<()> {
        let format = format.map(str::parse::<Format>).transpose().map_err(usage(py))?;
        self.push(Command::Format { node, format });
        Ok(())
    }

    /// Adds a node and returns its results.
    #[pyo3(signature = (op, operands, attrs, n_outputs))]
    fn add(
        &self,
        py: Python<'_>,
        op: String,
        operands: Vec<Option<Name>>,
        attrs: &Bound<'_, PyDict>,
        n_outputs: usize,
    ) -> PyResult<Vec<(usize, usize)>> {
        let mut own = Attrs::new();
        for (name, value) in attrs.iter() {
            let name: String = name.extract()?;
            own = own.with(&name, attr(py, &name, &value)?);
        }
        let step = self.push(Command::Add { op, operands, attrs: own, n_outputs });
        Ok((0..n_outputs).map(|out| (step, out)).collect())
    }

    /// Adds a constant and returns it.
    fn add_const(&self, py: Python<'_>, array: &Bound<'_, PyAny>) -> PyResult<(usize, usize)> {
        let tensor = arrays::tensor(py, "constant", array)?;
        Ok((self.push(Command::Const { tensor }), 0))
    }

    /// Has a value stand wherever another is read.
    fn replace(&self, old: String, new: Name) {
        self.push(Command::Replace { old, new });
    }

    /// The same, but for the new node itself, which reads the old value.
    fn insert_after(&self, old: String, new: Name) {
        self.push(Command::InsertAfter { old, new });
    }

    /// Gives a node another operand.
    fn set_operand(&self, node: String, slot: usize, value: Name) {
        self.push(Command::Operand { node, slot, value });
    }

    /// Removes what nothing reads once all else is done.
    fn remove_dead(&self) {
        self.push(Command::RemoveDead);
    }
}

/// A pass of the caller's: `after`, `before` or `replace`; the name of ours there; its own name; the function, which
/// takes a graph and an edit.
#[derive(FromPyObject)]
pub(crate) struct OwnPass(String, String, String, Py<PyAny>);

/// That pass as the pipeline has it. What its function raises is kept for the caller.
struct Called {
    name: String,
    function: Py<PyAny>,
    failed: Arc<Mutex<Option<PyErr>>>,
}

impl Pass for Called {
    fn name(&self) -> &str {
        &self.name
    }

    fn run(&self, graph: &nyxc::ir::Graph, _cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let call = |py: Python<'_>| -> PyResult<Patch> {
            let edit = Bound::new(py, Edit::new())?;
            let own = Bound::new(py, Graph { graph: Arc::new(graph.clone()) })?;
            let passes = py.import("nyxc.passes")?;
            passes.call_method1("call", (self.function.bind(py), own, &edit))?;
            edit.get().patch(graph).map_err(usage(py))
        };
        Python::attach(call).map_err(|error| {
            let message = error.to_string();
            self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            PassError::Own(message)
        })
    }
}

/// The default pipeline with the caller's passes.
pub(crate) fn pipeline_of(settings: Settings, passes: &[OwnPass], failed: &Arc<Mutex<Option<PyErr>>>) -> Pipeline {
    let mut pipeline = Pipeline::new(settings);
    for OwnPass(place, anchor, name, function) in passes {
        let function = Python::attach(|py| function.clone_ref(py));
        let pass = Called { name: name.clone(), function, failed: failed.clone() };
        pipeline = match place.as_str() {
            "before" => pipeline.insert_before(anchor, pass),
            "replace" => pipeline.replace(anchor, pass),
            _ => pipeline.insert_after(anchor, pass),
        };
    }
    pipeline
}

/// Runs passes over a graph: those named, or the default order with the caller's own.
///
/// Returns the graph, and for each pass its name, whether it changed anything, and the graph after it as text where
/// `dump`.
#[pyfunction]
pub(crate) fn run_passes<'py>(
    py: Python<'py>,
    graph: &Graph,
    options: Options,
    names: Option<Vec<String>>,
    passes: Vec<OwnPass>,
    dump: bool,
) -> PyResult<(Graph, Bound<'py, PyList>)> {
    let compile = options.compile(py)?;
    let failed = Arc::new(Mutex::new(None));
    let pipeline = match names {
        Some(names) => {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            Pipeline::of(&names, compile.settings.clone()).map_err(raise(py))?
        }
        None => pipeline_of(compile.settings.clone(), &passes, &failed),
    };
    let mut after = (*graph.graph).clone();
    let mut texts: Vec<String> = Vec::new();
    let report = py.detach(|| {
        let mut hook = |_: usize, _: &str, graph: &nyxc::ir::Graph| {
            if dump {
                texts.push(graph.to_string());
            }
        };
        pipeline.run_with(&mut after, &compile.target, Some(&mut hook)).map(|report| report.timings)
    });
    if let Some(error) = failed.lock().unwrap_or_else(PoisonError::into_inner).take() {
        return Err(error);
    }
    let rows = PyList::empty(py);
    for (i, timing) in report.map_err(raise(py))?.into_iter().enumerate() {
        rows.append((timing.pass, timing.changed, texts.get(i).cloned()))?;
    }
    Ok((Graph { graph: Arc::new(after) }, rows))
}
