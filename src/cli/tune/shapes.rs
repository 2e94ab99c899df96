//! What `nyxc tune` measures.

use super::super::harness::subject::Subject;
use super::super::{Failure, compile, harness, load};
use super::Args;
use crate::kernels;
use crate::passes::{Policy, Settings};
use crate::session::Compile;
use crate::targets::Target;
use std::path::Path;

/// The file of a bundle that has its shapes.
pub(super) const FILE: &str = "shapes.txt";

/// Every shape that is asked for, each once, in order.
pub(super) fn all(args: &Args) -> Result<Vec<Subject>, Failure> {
    let mut all = args.shape.clone();
    let bundle = args.bundle.as_ref().map(|folder| folder.join(FILE));
    for path in args.shapes.iter().chain(&bundle) {
        all.extend(read(path)?);
    }
    if !args.models.is_empty() {
        let target = match &args.target {
            Some(name) => compile::target(name)?,
            None => harness::device(args.device.choice)?.target,
        };
        for model in &args.models {
            of_model(args, model, &target, &mut all)?;
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|subject| seen.insert(subject.clone()));
    Ok(all)
}

/// Empty lines and those behind a # say nothing.
fn read(path: &Path) -> Result<Vec<Subject>, Failure> {
    let text = load::utf8(path)?;
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty());
    lines.map(|line| line.parse().map_err(|e| Failure::file(format!("{}: {e}", path.display())))).collect()
}

/// The shapes of the kernels of a model.
fn of_model(args: &Args, model: &Path, target: &Target, all: &mut Vec<Subject>) -> Result<(), Failure> {
    let (graph, _) = load::model(model, &args.source)?;
    for format in &args.format {
        let policy: Policy =
            format!("uniform:{format}").parse().map_err(|e| Failure::usage(format!("--format: {e}")))?;
        let settings = Settings { policy, budget_bytes: Some(u64::MAX), ..Settings::default() };
        let options = Compile { settings, target: target.clone(), n_threads: 0 };
        let lowered = crate::session::kernels_of(&graph, &options)?;
        let nodes = lowered.entries.values().flat_map(|graph| graph.order().into_iter().map(move |node| (graph, node)));
        for (graph, node) in nodes {
            let Some(mut subject) = Subject::of(graph, node) else { continue };
            if subject.kernel == "matmul" {
                // Products of one bucket are one case, measured at one number of rows.
                subject.shape[0] = kernels::typical_rows(subject.shape[0]);
            }
            all.push(subject);
        }
    }
    Ok(())
}
