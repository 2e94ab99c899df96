//! Files that a compilation writes.

use super::super::{Failure, load, onnx, write};
use super::is_stdout;
use crate::export::{self, Style};
use crate::import::describe;
use crate::ir::{Graph, Module};
use crate::program::{Program, file};
use crate::session::Compiled;
use std::path::Path;

/// The graph after each pass, for `--dump-ir` and `--print-ir-after`.
pub(super) struct Dumps<'a> {
    folder: Option<&'a Path>,
    /// The passes after which the graph is printed.
    printed: &'a [String],
    /// The text as imported, where a folder takes it.
    imported: String,
    files: Vec<(String, String)>,
}

impl<'a> Dumps<'a> {
    pub(super) fn new(folder: Option<&'a Path>, printed: &'a [String], module: &Module) -> Dumps<'a> {
        let imported = folder.map(|_| module.to_string()).unwrap_or_default();
        Dumps { folder, printed, imported, files: Vec::new() }
    }

    pub(super) fn is_watching(&self) -> bool {
        self.folder.is_some() || !self.printed.is_empty()
    }

    /// Takes the graph after pass `i`; pass 0 begins anew.
    pub(super) fn add(&mut self, i: usize, name: &str, graph: &Graph) {
        if self.printed.iter().any(|printed| printed == name) {
            eprintln!("# after {name}\n{graph}");
        }
        if self.folder.is_none() {
            return;
        }
        if i == 0 {
            self.files = vec![("00_import.nyxir".to_owned(), self.imported.clone())];
        }
        let text = graph.to_string();
        let is_same = self.files.last().is_some_and(|(_, before)| *before == text);
        let mark = if is_same { ".unchanged" } else { "" };
        self.files.push((format!("{:02}_{name}{mark}.nyxir", i + 1), text));
    }

    /// Writes what was taken.
    pub(super) fn write(&self) -> Result<(), Failure> {
        match self.folder {
            Some(folder) => all(folder, self.files.iter().map(|(name, text)| (name.clone(), text))),
            None => Ok(()),
        }
    }
}

/// Writes files into a folder, which is made where it is missing.
pub(super) fn all<'a>(folder: &Path, files: impl Iterator<Item = (String, &'a String)>) -> Result<(), Failure> {
    std::fs::create_dir_all(folder).map_err(|e| Failure::io(folder, e))?;
    for (name, text) in files {
        write::file(&folder.join(name), |out| out.write_all(text.as_bytes()))?;
    }
    Ok(())
}

/// Writes the quantized model that was compiled from the file `source`.
pub(super) fn model(path: &Path, style: Style, source: &Path, compiled: &Compiled) -> Result<(), Failure> {
    let about = load::is_model(source).then(|| describe(source)).transpose();
    let about = about.map_err(|e| load::refused(source, e))?;
    let graph = compiled
        .quantized
        .alone()
        .ok_or_else(|| Failure::usage("--emit-onnx: a module of several entries has no form in ONNX"))?;
    onnx::save(&export::model(graph, style, about.as_ref())?, path)
}

/// Writes the program, to standard output where the path is `-`.
pub(super) fn program(path: &Path, program: &Program) -> Result<(), Failure> {
    let mut bad = None;
    let fill = |out: &mut dyn std::io::Write| {
        file::write(program, out).map_err(|e| match e {
            file::FileError::Io(e) => e,
            other => std::io::Error::other(bad.insert(other).to_string()),
        })
    };
    let written = if is_stdout(path) { write::stdout_bytes(fill) } else { write::file(path, fill) };
    // What is no failure of the disk is one of the program, and says so.
    match bad {
        Some(error) => Err(error.into()),
        None => written,
    }
}
