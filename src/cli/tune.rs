//! `nyxc tune`.

mod race;
mod shapes;
mod warm;

use super::harness::subject::{Built, Subject};
use super::harness::{Prepared, Sampling, bug, calls};
use super::say::Status;
use super::source::Source;
use super::{Failure, harness, run, say, tuning, write};
use crate::codegen;
use crate::kernels::variant::Family;
use crate::kernels::{self, Candidate, KernelCall, Way};
use crate::runtime::{DeviceInfo, DeviceKind, Options, VkContext};
use crate::targets::tuning::{Case, Times};
use crate::targets::{Target, Tuning};
use race::{Outcome, Runner};
use rayon::prelude::*;
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// Measure the variants of kernels on the GPU here, for the shapes of models or others, and write which are the fastest
/// as a tuning table.
#[derive(clap::Args)]
#[command(after_help = "\
A shape is a kernel, a format and sizes, as `nyxc bench --kernel` takes them, and ` wide` behind where another \
tensor of the result's size is added. Variants run in turn, behind a second of load: after one sample what takes 1.5 \
times as long as the best is left out, after three what takes 1.1 times as long, and after fifteen another variant \
than today's is taken only where it is faster by more than samples differ. Results are compared with f64; a variant \
that is wrong is noted as that, and never taken.

Examples:
  nyxc tune model.onnx --format f16 -o tuning.json
  nyxc tune --shape 'matmul w4a16 64,4096,4096' --shape 'conv f16 1,56,56,64,64,3,3,1' -o tuning.json
  nyxc tune model.onnx --format f16,w4a16 --target h200 --emit bundle    compile here, and there:
  nyxc tune --bundle bundle --limit 180 -o tuning.json --json
  nyxc compile model.onnx --tuning tuning.json")]
pub(super) struct Args {
    /// Models whose products and convolutions are measured
    models: Vec<PathBuf>,
    /// Formats that the nodes of models are measured in
    #[arg(long, value_delimiter = ',', default_value = "f16")]
    format: Vec<String>,
    /// A shape; may be repeated
    #[arg(long, value_name = "'KERNEL FORMAT SIZES'")]
    shape: Vec<Subject>,
    /// A file of shapes, one a line
    #[arg(long, value_name = "FILE")]
    shapes: Option<PathBuf>,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    device: run::Device,
    /// Where the table goes; - for standard output
    #[arg(short, long, value_name = "FILE.json")]
    output: Option<PathBuf>,
    /// Tables that are merged into the result, in order; what comes later replaces what came before
    #[arg(long, value_name = "FILE.json")]
    merge: Vec<PathBuf>,
    /// The tuning table that makes today's choices: a file, or none [default: the one shipped for the device, if any]
    #[arg(long, value_name = "FILE|none")]
    tuning: Option<String>,
    /// Write shapes and compiled shaders into this folder, and measure nothing
    #[arg(long, value_name = "DIR", conflicts_with_all = ["bundle", "output"], requires = "target")]
    emit: Option<PathBuf>,
    /// The device that --emit compiles for: a shipped profile or a JSON file
    #[arg(long, value_name = "NAME|FILE.json", requires = "emit")]
    target: Option<String>,
    /// Measure the shapes of such a folder, with its shaders
    #[arg(long, value_name = "DIR", conflicts_with_all = ["models", "shape", "shapes"])]
    bundle: Option<PathBuf>,
    /// Variants of a family that are tried for a shape: the best by their price; 0 for all
    #[arg(long, value_name = "N", default_value_t = 24)]
    most: usize,
    /// Copies of the weights are read in turn until so many MB were
    #[arg(long, value_name = "MB", default_value_t = 128)]
    rotate: u32,
    /// Begin no further shape after so many seconds
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,
    /// Print what was measured as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// A shape with the variants that are tried.
struct Work {
    subject: Subject,
    case: Case,
    candidates: Vec<Candidate>,
    prepared: Prepared,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if args.output.is_none() && args.emit.is_none() && !args.json {
        return Err(Failure::usage("say where the table goes with -o, or --json for what was measured"));
    }
    let mut merged = Tuning::default();
    for path in &args.merge {
        merged.merge(tuning::read(path)?);
    }
    let subjects = shapes::all(args)?;
    if let Some(folder) = &args.emit {
        return emit(args, folder, &subjects);
    }
    if subjects.is_empty() && args.merge.is_empty() {
        return Err(Failure::usage("no shapes: give a model, --shape, --shapes or --bundle"));
    }
    let mut results = Vec::new();
    if !subjects.is_empty() {
        let mut info = harness::device(args.device.choice)?;
        tuning::choose(args.tuning.as_deref(), &mut info.target)?;
        results = measure(args, &info, &subjects)?;
        let source = format!("nyxc tune {} on {}, driver {}", env!("CARGO_PKG_VERSION"), info.name, info.driver);
        let cases = results.iter().filter(|(_, r)| !r.times.is_empty()).map(|(_, r)| (r.case.clone(), r.times.clone()));
        let cases: BTreeMap<Case, Times> = cases.collect();
        merged.merge(Tuning { devices: vec![info.target.name.clone()], source, cases });
    }
    let text = merged.text();
    match &args.output {
        Some(path) if path.as_os_str() == "-" => write::stdout(&text)?,
        Some(path) => write::file(path, |out| out.write_all(text.as_bytes()))?,
        None => {}
    }
    report(args, &subjects, &results, &merged)?;
    Ok(ExitCode::SUCCESS)
}

/// The variants of a shape that are tried: the cheapest, and today's choice; none where there is but one.
fn tried(built: &Built, target: &Target, most: usize) -> Result<Vec<Candidate>, Failure> {
    let node = built.nodes.last().ok_or_else(|| bug("a shape without nodes"))?;
    let mut all = kernels::candidates(&built.graph, *node, target).map_err(bug)?;
    if all.len() < 2 {
        return Ok(Vec::new());
    }
    all.sort_by_key(|candidate| (!candidate.is_chosen, candidate.cost.ns, candidate.way));
    // Prices compare variants of one family better than families: none takes all places.
    let mut n_of_family: BTreeMap<Option<Family>, usize> = BTreeMap::new();
    all.retain(|candidate| {
        let family = if let Way::Variant(variant) = candidate.way { Some(variant.family()) } else { None };
        let n = n_of_family.entry(family).or_default();
        *n += 1;
        most == 0 || *n <= most
    });
    Ok(all)
}

fn emit(args: &Args, folder: &Path, subjects: &[Subject]) -> Result<ExitCode, Failure> {
    let mut target = super::compile::target(args.target.as_deref().unwrap_or_default())?;
    tuning::choose(args.tuning.as_deref(), &mut target)?;
    let shaders = folder.join("shaders");
    std::fs::create_dir_all(&shaders).map_err(|e| Failure::host(format!("{}: {e}", shaders.display())))?;
    let status = Status::new();
    let mut n_shaders = 0;
    for (i, subject) in subjects.iter().enumerate() {
        status.step("compiling shapes:", i + 1, subjects.len());
        let built = subject.build(&target)?;
        let candidates = tried(&built, &target, args.most)?;
        let calls: Vec<&KernelCall> = candidates.iter().flat_map(|candidate| &candidate.calls).collect();
        n_shaders += calls.len();
        calls
            .par_iter()
            .map(|call| codegen::compile_in(&call.key, &target, Some(&shaders)).map(|_| ()).map_err(bug))
            .collect::<Result<Vec<()>, Failure>>()?;
    }
    drop(status);
    let lines: String = subjects.iter().map(|subject| format!("{subject}\n")).collect();
    write::file(&folder.join(shapes::FILE), |out| out.write_all(lines.as_bytes()))?;
    let text = if args.json {
        format!("{:#}\n", json!({"shapes": subjects.len(), "shaders": n_shaders, "target": target.name}))
    } else {
        format!("{} shapes with {n_shaders} shaders for {} in {}\n", subjects.len(), target.name, folder.display())
    };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn prepare(args: &Args, target: &Target, subject: &Subject, sampling: Sampling) -> Result<Option<Work>, Failure> {
    let built = subject.build(target)?;
    let candidates = tried(&built, target, args.most)?;
    let Some(first) = candidates.first() else { return Ok(None) };
    let case = first.case.clone();
    let lists = candidates.iter().map(|c| calls(&built, target, Some(c.way))).collect::<Result<Vec<_>, _>>()?;
    let shaders = args.bundle.as_ref().map(|folder| folder.join("shaders"));
    let prepared = Prepared::new(subject, built, &lists, target, sampling, shaders.as_deref())?;
    Ok(Some(Work { subject: subject.clone(), case, candidates, prepared }))
}

fn measure(args: &Args, info: &DeviceInfo, subjects: &[Subject]) -> Result<Vec<(Subject, Outcome)>, Failure> {
    let is_cpu = info.kind == DeviceKind::Cpu;
    let sampling = Sampling {
        rotated_bytes: u64::from(args.rotate) * 1_000_000,
        ns: 1_000_000,
        most: if is_cpu { 1 } else { 256 },
    };
    let context = VkContext::open(info.index, &info.target.features, &Options::from_env())?;
    let start = Instant::now();
    let limit = args.limit.map(Duration::from_secs);
    let is_over = || limit.is_some_and(|limit| start.elapsed() >= limit);
    let mut results = Vec::new();
    std::thread::scope(|scope| -> Result<(), Failure> {
        // What comes next is made ready while the device is busy.
        let (send, receive) = sync_channel::<Result<Option<Work>, (Subject, Failure)>>(2);
        let is_over = &is_over;
        scope.spawn(move || {
            for subject in subjects {
                if is_over() {
                    break;
                }
                let work = prepare(args, &info.target, subject, sampling).map_err(|e| (subject.clone(), e));
                if send.send(work).is_err() {
                    break;
                }
            }
        });
        let runner = Runner::new(info, &context, is_cpu)?;
        let status = Status::new();
        for (i, work) in receive.iter().enumerate() {
            let work = match work {
                Ok(Some(work)) => work,
                Ok(None) => continue,
                // One shape that does not work is no reason to lose the others.
                Err((subject, failure)) => {
                    say::note(format_args!("{subject}: {}", failure.message));
                    continue;
                }
            };
            status.step(&format!("{}: shape", work.subject), i + 1, subjects.len());
            let outcome = match runner.race(&work, &context) {
                Ok(outcome) => outcome,
                Err(failure) => {
                    say::note(format_args!("{}: {}", work.subject, failure.message));
                    continue;
                }
            };
            say::detail(format_args!("{:6.1} s  {}: {}", start.elapsed().as_secs_f64(), work.subject, outcome.line()));
            results.push((work.subject, outcome));
            if is_over() {
                break;
            }
        }
        drop(receive);
        Ok(())
    })?;
    Ok(results)
}

fn report(args: &Args, subjects: &[Subject], results: &[(Subject, Outcome)], merged: &Tuning) -> Result<(), Failure> {
    let mut ratios: Vec<f64> = results.iter().filter_map(|(_, r)| r.ratio()).collect();
    ratios.sort_by(f64::total_cmp);
    let (median, worst) = (ratios.get(ratios.len() / 2), ratios.last());
    if args.json {
        let cases: Vec<Json> = results.iter().map(|(subject, r)| r.json(&subject.to_string())).collect();
        let document = json!({
            "table_hash": merged.hash(), "cases": merged.cases.len(), "asked": subjects.len(), "measured": cases,
            "chosen_against_best": {"median": median, "worst": worst},
        });
        return write::stdout(&format!("{document:#}\n"));
    }
    if args.output.as_ref().is_some_and(|path| path.as_os_str() == "-") {
        return Ok(());
    }
    let mut text: String = results.iter().map(|(subject, r)| format!("{subject}: {}\n", r.line())).collect();
    if let (Some(median), Some(worst)) = (median, worst) {
        text += &format!("today's choice against the best: median {median:.3}, worst {worst:.3}\n");
    }
    text += &format!(
        "{} cases in the table, {} of {} shapes measured\n",
        merged.cases.len(),
        results.len(),
        subjects.len()
    );
    write::stdout(&text)
}
