//! Files as graphs and programs.

use super::Failure;
use super::source::Source;
use crate::failure::FailureKind;
use crate::import::{DimBinding, ImportError, ImportReport, import};
use crate::ir::{Graph, Module, Shape, Tensor, TensorType, text};
use crate::ops;
use crate::program::{Program, file};
use crate::session::npz;
use std::collections::BTreeMap;
use std::path::Path;

/// A file that holds a graph.
pub enum Loaded {
    /// An ONNX model.
    Model(Entries),
    /// A program, and the kernel-level graphs of its first plan.
    Program(Box<Program>, Entries),
    /// Text.
    Text(Entries),
}

/// The entries of a module: one at least.
pub struct Entries {
    /// The first one, which a plain run calls.
    first: Graph,
    module: Module,
}

impl Entries {
    fn of(module: Module) -> Result<Entries, Failure> {
        let first = module.entries.values().next().cloned();
        let first = first.ok_or_else(|| Failure::file(format!("{}: no entry", module.name)))?;
        Ok(Entries { first, module })
    }
}

impl Loaded {
    fn entries(&self) -> &Entries {
        match self {
            Loaded::Model(entries) | Loaded::Program(_, entries) | Loaded::Text(entries) => entries,
        }
    }

    /// The graph, that of the first entry where there are several.
    pub fn graph(&self) -> &Graph {
        &self.entries().first
    }

    /// All entries.
    pub fn module(&self) -> &Module {
        &self.entries().module
    }

    /// The only graph.
    ///
    /// # Errors
    /// There are several entries.
    pub fn only_graph(&self, path: &Path) -> Result<Graph, Failure> {
        let Entries { first, module } = self.entries();
        if module.entries.len() == 1 {
            return Ok(first.clone());
        }
        let names: Vec<_> = module.entries.keys().map(String::as_str).collect();
        let names = names.join(", ");
        Err(Failure::file(format!("{} has several entries ({names}): one graph is wanted", path.display())))
    }
}

/// Reads a `.onnx`, `.nyx` or `.nyxir` file, distinguished by its name; a model as `source` says.
///
/// # Errors
/// The file cannot be read, or is none of these; `source` says something of a file that is no model.
pub(super) fn graph(path: &Path, source: &Source) -> Result<Loaded, Failure> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("onnx") => {
            let (graph, _) = model(path, source)?;
            Ok(Loaded::Model(Entries::of(Module::of(graph))?))
        }
        Some("nyx") => {
            source.refuse_unused(path)?;
            let program = program(path)?;
            let module = program.module(0, &ops::registry()).map_err(Failure::file)?;
            Ok(Loaded::Program(Box::new(program), Entries::of(module)?))
        }
        Some("nyxir") => {
            source.refuse_unused(path)?;
            Ok(Loaded::Text(Entries::of(text_module(path)?)?))
        }
        _ => Err(Failure::usage(format!("{}: expected a file named .onnx, .nyx or .nyxir", path.display()))),
    }
}

/// Whether a file is a model by its name.
pub fn is_model(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "onnx")
}

/// Whether a file is a text of the IR by its name.
pub fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "nyxir")
}

/// Refuses a program or a text where a model is wanted, by its name.
///
/// # Errors
/// It is one.
pub fn refuse_program(path: &Path) -> Result<(), Failure> {
    let what = match path.extension().and_then(|e| e.to_str()) {
        Some("nyx") => "a program, compiled already",
        Some("nyxir") => "a text of a graph",
        _ => return Ok(()),
    };
    Err(Failure::usage(format!("{} is {what}: give the model, a .onnx file", path.display())))
}

/// Reads an ONNX model.
///
/// # Errors
/// It cannot be read or is not supported.
pub(super) fn model(path: &Path, source: &Source) -> Result<(Graph, ImportReport), Failure> {
    import(path, &source.options()?, &ops::registry()).map_err(|e| refused(path, e))
}

/// Why a model is not imported, with its file where the model is at fault.
pub(super) fn refused(path: &Path, error: ImportError) -> Failure {
    let failure = Failure::from(error);
    if failure.kind == FailureKind::Model { failure.of_file(path) } else { failure }
}

/// Largest array that may become a constant, in bytes: a small file can hold any number of zeros.
const MAX_CONSTANT_BYTES: u64 = 1 << 30;

/// The arrays of a .npz file by name, none larger than a constant may be.
///
/// # Errors
/// It cannot be read, or is none.
pub fn values(path: &Path) -> Result<BTreeMap<String, Tensor>, Failure> {
    let file = std::fs::File::open(path).map_err(|e| Failure::io(path, e))?;
    let mut wants = |_: &str, ty: &TensorType| ty.bytes().is_some_and(|bytes| bytes <= MAX_CONSTANT_BYTES);
    npz::read(std::io::BufReader::new(file), &mut wants).map_err(|e| Failure::file(format!("{}: {e}", path.display())))
}

/// Reads a program.
///
/// # Errors
/// It cannot be read or is damaged.
pub fn program(path: &Path) -> Result<Program, Failure> {
    std::fs::File::open(path).map_err(|e| Failure::io(path, e))?;
    if is_model(path) {
        let path = path.display();
        return Err(Failure::usage(format!(
            "{path} is a model, not a program: compile it first, nyxc compile {path} -o PROGRAM.nyx"
        )));
    }
    file::open(path).map_err(|e| Failure::from(e).of_file(path))
}

/// The text of a file. One that is no text is a bad file, not a failure to read it.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn utf8(path: &Path) -> Result<String, Failure> {
    let bytes = std::fs::read(path).map_err(|e| Failure::io(path, e))?;
    String::from_utf8(bytes).map_err(|e| Failure::file(format!("{}: {}", path.display(), e.utf8_error())))
}

/// Reads the text IR, with the constants of `FILE.consts.safetensors` beside it where that exists.
///
/// # Errors
/// It cannot be read, or is no well-formed module.
pub(super) fn text_module(path: &Path) -> Result<Module, Failure> {
    let source = utf8(path)?;
    let beside = path.with_extension("nyxir.consts.safetensors");
    let consts = match std::fs::read(&beside) {
        Ok(bytes) => Some(
            text::Consts::read(std::sync::Arc::new(bytes))
                .map_err(|e| Failure::file(format!("{}: {e}", beside.display())))?,
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(Failure::io(&beside, error)),
    };
    let find = |hash: &str, ty: &TensorType| consts.as_ref()?.find(hash, ty);
    let module = text::parse_module(&source, &ops::registry(), &find)
        .map_err(|e| Failure::file(format!("{}: {e}", path.display())))?;
    module.verify().map_err(|e| Failure::file(format!("{}: {e}", path.display())))?;
    Ok(module)
}

/// The sizes that an input is bound to by a tensor given for it.
pub fn bindings(name: &str, shape: &Shape) -> Vec<DimBinding> {
    shape
        .0
        .iter()
        .enumerate()
        .filter_map(|(axis, d)| Some(DimBinding::known(&format!("{name}.{axis}"), d.known()?)))
        .collect()
}
