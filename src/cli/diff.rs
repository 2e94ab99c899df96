//! `nyxc diff`.

use super::load::{self, Loaded};
use super::source::Source;
use super::{Failure, write};
use crate::diff::{Diff, Side};
use crate::failure::EXIT_DIFFERENT;
use crate::import::{Outline, outline};
use crate::ir::{Graph, Level, Module};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Say how two models, texts or programs differ: figures, nodes, weights. Exits with 1 where anything differs.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nyxc diff before.nyx after.nyx
  nyxc diff model.onnx dump/00_import.nyxir --dim batch=1
  nyxc diff dump/07_assign_precision.nyxir dump/08_insert_qdq.nyxir --summary

Everything is compared: operators, attributes, operands in order, types, formats, kernels, constants by content, \
inputs, outputs, sizes, and every field of a program. A program is compared with a program, or with a text of its \
kernels (nyxc print). Nodes are matched by name, those without a namesake by what they compute.")]
pub(super) struct Args {
    /// A .onnx, .nyx or .nyxir file
    before: PathBuf,
    /// Another
    after: PathBuf,
    /// Print the figures and how many nodes differ, and no node
    #[arg(long)]
    summary: bool,
    #[command(flatten)]
    source: Source,
    /// Print the differences as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// A file, and what it says that no graph has.
struct Read {
    loaded: Loaded,
    file: Option<Outline>,
}

impl Read {
    fn of(path: &Path, args: &Args) -> Result<Read, Failure> {
        // Sizes and values are those of the models: of one that is compared with a text, of it alone.
        let is_for_another =
            !load::is_model(path) && [&args.before, &args.after].into_iter().any(|p| load::is_model(p));
        let source = if is_for_another { Source::default() } else { args.source.clone() };
        let loaded = load::graph(path, &source)?;
        let file = if let Loaded::Model(_) = loaded { Some(outline(path)?) } else { None };
        Ok(Read { loaded, file })
    }

    fn side(&self) -> Side<'_> {
        let program = if let Loaded::Program(program, _) = &self.loaded { Some(&**program) } else { None };
        Side { graph: self.loaded.graph(), program, file: self.file.as_ref() }
    }
}

/// A program's graph is of kernels: another level would differ in everything, and say nothing.
fn comparable(sides: [(&Path, &Side<'_>); 2]) -> Result<(), Failure> {
    let [(a, from), (b, to)] = sides;
    if from.program.is_some() != to.program.is_some() {
        let (program, graph, level) =
            if from.program.is_some() { (a, b, to.graph.level) } else { (b, a, from.graph.level) };
        if level != Level::Kernel {
            return Err(Failure::usage(format!(
                "{} is a program and {} a graph of level {level}: compare it with another program, or with the text \
                 of one (nyxc print PROGRAM.nyx > PROGRAM.nyxir)",
                program.display(),
                graph.display()
            )));
        }
    }
    Ok(())
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let (from, to) = (Read::of(&args.before, args)?, Read::of(&args.after, args)?);
    let (before, after) = (from.side(), to.side());
    comparable([(&args.before, &before), (&args.after, &after)])?;
    let diff = Diff::of(&before, &after);
    let entries = entries(from.loaded.module(), to.loaded.module());
    let is_empty = diff.is_empty() && entries.iter().all(|(_, diff)| diff.is_empty());
    let text = if args.json {
        let json = |diff: &Diff| if args.summary { diff.overview_json() } else { diff.to_json() };
        let mut document = json(&diff);
        if !entries.is_empty() {
            document["entries"] = entries.iter().map(|(name, diff)| (name.clone(), json(diff))).collect();
        }
        format!("{document:#}\n")
    } else {
        let text = |diff: &Diff| if args.summary { diff.overview() } else { diff.to_string() };
        let mut all = text(&diff);
        entries.iter().for_each(|(name, diff)| all += &format!("entry {name}\n{}", text(diff)));
        all
    };
    write::stdout(&text)?;
    Ok(if is_empty { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DIFFERENT) })
}

/// How the entries behind the first differ. One that is in one module alone differs from a graph of nothing.
fn entries(before: &Module, after: &Module) -> Vec<(String, Diff)> {
    let names: BTreeSet<&String> = before.entries.keys().skip(1).chain(after.entries.keys().skip(1)).collect();
    let one = |name: &String| {
        let (from, to) = (before.entries.get(name), after.entries.get(name));
        let empty = from.or(to).map(|graph| Graph::new(&graph.name, graph.level))?;
        Some((name.clone(), Diff::of_graphs(from.unwrap_or(&empty), to.unwrap_or(&empty))))
    };
    names.into_iter().filter_map(one).collect()
}
