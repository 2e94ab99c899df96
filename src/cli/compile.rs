//! `nyxc compile`.

mod output;

use super::source::Source;
use super::{Failure, constants, explain, load, onnx, say, tuning, write};
use crate::export::Style;
use crate::import::ImportReport;
use crate::ir::{Format, Graph, Level, Module, valid_block};
use crate::passes::{NAMES, Pin, Policy, Settings};
use crate::quant::calibration::Calibration;
use crate::session::size::{self, Budget};
use crate::session::target::choose;
use crate::session::{
    Compile, Compiled, Divergence, Progress, Samples, calibrate_for, compile_module, sensitivities_for,
};
use crate::targets::Target;
use output::Dumps;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Instant;

/// Compile an ONNX model into a program that fits a budget.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nyxc compile model.onnx --budget 7G
  nyxc compile model.onnx --budget 50% --report report.json -o - | ssh gpu 'cat > model.nyx'
  nyxc compile model.onnx --budget 40M --dim batch=8 --target rx580 -o model.nyx
  nyxc compile decoder.onnx --dim seq=1..32 --dim past=0..512 --dim total=past+seq
  nyxc compile model.onnx --constants axes=[0,2] --holds 'frames=[f32[3,64],f32[3,64]]'
  nyxc compile model.onnx --policy uniform:w4a16 --precision 'head*=f16' --json
  nyxc compile model.onnx --budget 40M --dry-run --explain conv1

The error of the summary is an estimate of the relative L2 error of the outputs, |y - y'| / |y|, that formats add; \
0.01 is one percent. It is made without data: each node adds the normalised mean squared error of its weights as they \
are stored, and that of rounding its activations; the error is the square root of the sum over all nodes. Rounding in \
f32 counts as none. `nyxc compare` measures the real one.")]
pub(super) struct Args {
    /// The model, or the text of one of level onnx (.nyxir)
    model: PathBuf,
    /// What the program must fit in: peak device bytes of load and run. A size (7G, 512M, 7516192768), min (the
    /// smallest that compiles), max (what the model needs in uniform:f32), or N% of the way from min to max [default:
    /// 90 % of the target's heap]
    #[arg(long, value_name = "SIZE|min|max|N%", value_parser = Budget::parse)]
    budget: Option<Budget>,
    /// Where the program goes; - for standard output [default: the model's name with .nyx]
    #[arg(short, long, value_name = "FILE.nyx")]
    output: Option<PathBuf>,
    /// The device: auto (the best one here: GPUs before drivers that compute on the CPU), cpu, a shipped profile (`nyxc
    /// targets`) or a JSON file
    #[arg(long, default_value = "auto", value_name = "auto|cpu|NAME|FILE.json")]
    target: String,
    /// The tuning table that chooses among kernels: a file of `nyxc tune`, or none [default: the one shipped for the
    /// target, if any]
    #[arg(long, value_name = "FILE|none")]
    tuning: Option<String>,
    /// How formats are assigned: budget, tiered or uniform:FORMAT
    #[arg(long, default_value = "budget", value_name = "POLICY")]
    policy: Policy,
    /// Pin nodes to a format; a glob on names or op:NAME, the last match wins
    #[arg(long, value_name = "PATTERN=FORMAT")]
    precision: Vec<Pin>,
    /// Weights that share a scale, along the reduction axis: a power of two from 16 to 256, or auto: the solver chooses
    /// among these and one scale a channel [default: 32]
    #[arg(long, value_name = "N|auto", value_parser = parse_block)]
    block_size: Option<Block>,
    #[command(flatten)]
    source: Source,
    /// Formats that may be assigned; those of w6, w5 and wn4 (README, "Formats") are taken where they are named
    /// [default: f32,f16,w16a32,w8a32,w8a16,w8a8,w4a32,w4a16,w4a8]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    formats: Vec<Format>,
    /// Refuse a model of which a node would run on the host
    #[arg(long)]
    no_host: bool,
    /// Leave out the checks of indices: one that is out of range reads or writes the nearest place that is in range
    #[arg(long)]
    unchecked: bool,
    /// Samples of the model's inputs, by which weights of products are quantized (GPTQ): a .npz file, a folder of
    /// these, or a .txt file that lists them; arrays as the inputs, of one sample or, with a first axis more, of
    /// several
    #[arg(long, value_name = "FILE.npz|DIR|LIST.txt")]
    calibration_data: Option<PathBuf>,
    /// Samples that are read at most
    #[arg(long, value_name = "N", default_value_t = 128, requires = "calibration_data")]
    calibration_samples: usize,
    /// The first samples, of these, on which is measured what the error of each matrix alone does to the outputs; the
    /// budget goes where that is most. They are not used to quantize
    #[arg(long, value_name = "N", default_value_t = 0, requires = "calibration_data")]
    sensitivity_samples: usize,
    /// What sensitivity is measured as: error (relative squared error of the outputs), or kl (divergence of
    /// probabilities or logits along the last axis: classifiers, language models)
    #[arg(long, value_name = "error|kl", default_value = "error", requires = "sensitivity_samples")]
    divergence: Divergence,
    /// Threads [default: one a core]
    #[arg(short = 'j', long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    #[arg(value_parser = clap::value_parser!(u16).range(0..=1024))]
    jobs: u16,
    /// Held back from the budget
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = "0")]
    reserve: u64,
    /// Write the quantized model as ONNX, which computes what the program does: weights as codes and scales, behind a
    /// DequantizeLinear
    #[arg(long, value_name = "FILE.onnx")]
    emit_onnx: Option<PathBuf>,
    /// How products of quantized weights are written there: qdq, plain ONNX (DequantizeLinear by blocks, opset 21), or
    /// matmulnbits, ONNX Runtime's own operators where they can say it
    #[arg(long, default_value = "qdq", value_name = "qdq|matmulnbits", requires = "emit_onnx")]
    emit_style: Style,
    /// Write every kernel's GLSL into this folder
    #[arg(long, value_name = "DIR")]
    emit_shaders: Option<PathBuf>,
    /// Write the graph into this folder, as imported and after every pass; .unchanged marks passes that changed nothing
    #[arg(long, value_name = "DIR")]
    dump_ir: Option<PathBuf>,
    /// Print the graph after this pass to standard error
    #[arg(long, value_name = "PASS", value_parser = clap::builder::PossibleValuesParser::new(NAMES))]
    print_ir_after: Vec<String>,
    /// Say what formats this node could have had, what each costs and why it was not taken, and which patterns nearly
    /// matched it; any name that a report or `nyxc print` shows
    #[arg(long, value_name = "NODE")]
    explain: Option<String>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE.json")]
    report: Option<PathBuf>,
    /// Plan and report, but write no program
    #[arg(long)]
    dry_run: bool,
    /// Print the report as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// `--block-size`.
#[derive(Clone, Copy, Debug)]
enum Block {
    /// Whichever is worth its bytes.
    Auto,
    Of(u32),
}

fn parse_block(text: &str) -> Result<Block, String> {
    let block = text.parse().ok().filter(|&b| valid_block(b)).map(Block::Of);
    let auto = (text == "auto").then_some(Block::Auto);
    block.or(auto).ok_or_else(|| format!("{text:?} is no block: a power of two from 16 to 256, or auto"))
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    if !load::is_text(&args.model) {
        load::refuse_program(&args.model)?;
    }
    let output = place(args)?;
    if let Some(path) = &args.emit_onnx {
        onnx::is_named_model("--emit-onnx", path)?;
    }
    for written in output.iter().chain(&args.report).chain(&args.emit_onnx) {
        write::spares(
            written,
            [args.model.as_path()].into_iter().chain(constants::files(&args.source.values.constants)),
        )?;
    }
    if let Some(path) = args.report.as_ref().filter(|path| path.extension().is_none_or(|e| e != "json")) {
        return Err(Failure::usage(format!("--report {}: the report is written as .json", path.display())));
    }
    let mut target = target(&args.target)?;
    tuning::choose(args.tuning.as_deref(), &mut target)?;
    let (module, imported) = read(args)?;
    say_imported(&imported);
    let mut options = Compile { settings: settings(args, &imported), target, n_threads: usize::from(args.jobs) };
    say::detail(format_args!("compiling for {}: {}", options.target.name, options.target.description));
    let bar = progress_bar();
    let progress = |stage: &str, done: usize, all: usize| {
        bar.set_length(all as u64);
        bar.set_position(done as u64);
        bar.set_message(stage.to_owned());
    };
    let start = Instant::now();
    if let Some(path) = &args.calibration_data {
        let graph = module
            .alone()
            .ok_or_else(|| Failure::usage("--calibration-data: a module of several entries is not calibrated"))?;
        options.settings.calibration = Some(calibration(path, args, graph, &options, &progress)?);
    }
    if let Some(budget) = args.budget {
        options.settings.budget_bytes = Some(match (budget, module.alone()) {
            (budget, Some(graph)) => budget.resolve(graph, &options, &progress)?,
            (Budget::Bytes(bytes), None) => bytes,
            (_, None) => return Err(Failure::usage("--budget of a module of several entries is a size")),
        });
    }
    let mut dumps = Dumps::new(args.dump_ir.as_deref(), &args.print_ir_after, &module);
    let is_watched = dumps.is_watching();
    let mut dump = |i: usize, name: &str, graph: &Graph| dumps.add(i, name, graph);
    let compiled = compile_module(&module, &options, &progress, is_watched.then_some(&mut dump));
    bar.finish_and_clear();
    // What was dumped up to a failure is what one needs to see why.
    dumps.write()?;
    let compiled = compiled?;
    let seconds = start.elapsed().as_secs_f64();
    say_compiled(&compiled);
    if let Some(dir) = &args.emit_shaders {
        output::all(dir, compiled.shaders.iter().map(|(name, glsl)| (format!("{name}.comp"), glsl)))?;
    }
    if let Some(path) = &args.emit_onnx {
        output::model(path, args.emit_style, &args.model, &compiled)?;
    }
    let report = report(&compiled, &options, args.budget, seconds);
    if let Some(path) = &args.report {
        write::file(path, |out| writeln!(out, "{report:#}"))?;
    }
    if let Some(path) = &output {
        output::program(path, &compiled.program)?;
    }
    if args.json {
        write::stdout(&format!("{report:#}\n"))?;
    } else {
        let text = if say::is_quiet() { String::new() } else { summary(&compiled, output.as_deref(), seconds) };
        let text = text + &compiled.explanation.as_ref().map(explain::text).unwrap_or_default();
        // Standard output is the program's, where it goes there.
        if output.as_deref().is_some_and(is_stdout) { eprint!("{text}") } else { write::stdout(&text)? }
    }
    Ok(ExitCode::SUCCESS)
}

/// The model or the text, of level `onnx`.
fn read(args: &Args) -> Result<(Module, ImportReport), Failure> {
    let (module, imported) = if load::is_text(&args.model) {
        args.source.refuse_unused(&args.model)?;
        (load::text_module(&args.model)?, ImportReport::default())
    } else {
        let (graph, imported) = load::model(&args.model, &args.source)?;
        (Module::of(graph), imported)
    };
    if let Some((entry, graph)) = module.entries.iter().find(|(_, graph)| graph.level != Level::Onnx) {
        let (file, level) = (args.model.display(), graph.level);
        return Err(Failure::usage(format!("{file}: entry {entry} is of level {level}, level onnx is compiled")));
    }
    Ok((module, imported))
}

/// Says what import decided by itself.
fn say_imported(imported: &ImportReport) {
    let mut by_reason: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (name, reason) in &imported.fixed {
        by_reason.entry(reason).or_default().push(format!("{name:?}"));
    }
    for (reason, names) in by_reason {
        let (first, n) = (names.iter().take(8).cloned().collect::<Vec<_>>().join(", "), names.len());
        let more = if n > 8 { format!(" and {} more", n - 8) } else { String::new() };
        say::note(format_args!("constant, though the model has it as an input: {first}{more} ({reason})"));
    }
    for (name, n) in &imported.defaulted {
        say::note(format_args!("{name} is taken to be {n}; --dim {name}=N sets it"));
    }
    for place in &imported.empty {
        say::note(format_args!("{place} is 0 in the model; --dim {place}=N gives another size"));
    }
}

fn settings(args: &Args, imported: &ImportReport) -> Settings {
    let mut settings = Settings {
        policy: args.policy,
        reserve_bytes: args.reserve,
        pins: args.precision.clone(),
        explain: args.explain.clone(),
        allow_host: !args.no_host,
        check_indices: !args.unchecked,
        fixed_inputs: imported.fixed.clone(),
        ..Settings::default()
    };
    if !args.formats.is_empty() {
        settings.formats.clone_from(&args.formats);
    }
    match args.block_size {
        Some(Block::Of(block)) => settings.set_block(block),
        Some(Block::Auto) => settings.permit_each_block(),
        None => {}
    }
    settings
}

/// Says how long each pass took, and what runs on the host.
fn say_compiled(compiled: &Compiled) {
    for t in &compiled.timings {
        let changed = if t.changed { "" } else { ", changed nothing" };
        say::detail(format_args!("{}: {:.1} ms{changed}", t.pass, t.time.as_secs_f64() * 1e3));
    }
    for node in compiled.program.plans.iter().flat_map(|p| &p.nodes).filter(|n| n.place == "host") {
        say::detail(format_args!("node {:?} ({}) runs on the host: {}", node.name, node.op, node.reason));
    }
}

/// What the model's data say of its weights.
fn calibration(
    path: &Path,
    args: &Args,
    graph: &Graph,
    options: &Compile,
    progress: Progress<'_>,
) -> Result<Arc<Calibration>, Failure> {
    let most = args.calibration_samples;
    let mut samples = Samples::open(path, graph, most)?;
    let scoring: Vec<_> = samples.by_ref().take(args.sensitivity_samples).collect::<Result<_, _>>()?;
    let mut found = calibrate_for(graph, options, &mut samples, &mut |done| progress("samples", done, most.max(done)))?;
    let fewest = found.moments.values().map(|moments| moments.n_samples()).min().unwrap_or(0);
    if !scoring.is_empty() {
        let mut told = |done: usize, all: usize| progress("sensitivity", done, all);
        found.sensitivities = sensitivities_for(graph, options, &scoring, args.divergence, &mut told)?;
        let mut order: Vec<(&String, &f64)> = found.sensitivities.iter().collect();
        order.sort_by(|a, b| b.1.total_cmp(a.1));
        for (name, sensitivity) in order {
            say::detail(format_args!("sensitivity of {name}: {sensitivity:.3e}"));
        }
    }
    say::detail(format_args!(
        "calibrated on {} samples: moments of {} matrices, of {fewest} inputs at least",
        found.n_runs,
        found.moments.len()
    ));
    Ok(Arc::new(found))
}

/// Where the program goes; `None` where none is written.
fn place(args: &Args) -> Result<Option<PathBuf>, Failure> {
    let output = args.output.clone().unwrap_or_else(|| args.model.with_extension("nyx"));
    let ends = output.extension().and_then(|e| e.to_str()).unwrap_or_default().to_lowercase();
    let name = || output.display().to_string();
    if args.output.is_some() && ["onnx", "nyxir", "npz", "npy", "json"].contains(&ends.as_str()) {
        let also = if ends == "onnx" { "; --emit-onnx FILE.onnx writes the quantized model" } else { "" };
        let program = output.with_extension("nyx");
        return Err(Failure::usage(format!(
            "--output {}: what is written is a program, no .{ends} file: name it {}{also}",
            name(),
            program.display()
        )));
    }
    if args.dry_run {
        return Ok(None);
    }
    if is_stdout(&output) && args.json {
        return Err(Failure::usage(
            "--output - and --json would both write to standard output: give --report FILE.json instead of --json",
        ));
    }
    if is_stdout(&output) && std::io::stdout().is_terminal() {
        return Err(Failure::usage("--output -: standard output is a terminal, and a program is no text"));
    }
    Ok(Some(output))
}

/// Whether `-` stands for standard output here.
fn is_stdout(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// A bar on a terminal, nothing in a pipe.
fn progress_bar() -> indicatif::ProgressBar {
    if !std::io::stderr().is_terminal() || say::is_quiet() {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{msg:8} {wide_bar} {pos}/{len} {elapsed}");
    let bar = indicatif::ProgressBar::new(1);
    style.map_or(bar.clone(), |style| bar.with_style(style))
}

/// The profile that `--target` means.
pub(super) fn target(text: &str) -> Result<Target, Failure> {
    let chosen = choose(text)?;
    if chosen.is_fallback {
        say::note(format_args!(
            "no Vulkan device here; compiling for {}, which `nyxc run --device cpu` runs too",
            chosen.target.name
        ));
    }
    Ok(chosen.target)
}

/// The report, with what the command line was asked.
fn report(compiled: &Compiled, options: &Compile, asked: Option<Budget>, seconds: f64) -> serde_json::Value {
    let mut report = compiled.report(options, seconds);
    report["budget_percent"] = json!(asked.and_then(Budget::percent));
    if let Some(explanation) = &compiled.explanation {
        report["explanation"] = explain::json(explanation);
    }
    report
}

fn summary(compiled: &Compiled, output: Option<&Path>, seconds: f64) -> String {
    let Some(plan) = compiled.program.plans.first() else { return String::new() };
    let mut counts: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
    for node in plan.nodes.iter().filter(|n| !n.format.is_empty()) {
        *counts.entry(&node.format).or_insert(0) += 1;
    }
    let formats: Vec<_> = counts.iter().map(|(format, n)| format!("{format} {n}")).collect();
    let n_host = plan.nodes.iter().filter(|n| n.place == "host").count();
    let dispatches: usize = plan.entries.iter().map(|entry| entry.n_dispatches().0).sum();
    let ledger = &plan.ledger;
    let count_of = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let mut text = format!(
        "{} for {}: {}, {}, {}, {} on the host\n",
        compiled.program.model,
        compiled.program.target.name,
        count_of(plan.nodes.len(), "node"),
        if dispatches == 1 { "1 dispatch".to_owned() } else { format!("{dispatches} dispatches") },
        count_of(compiled.program.shaders.len(), "kernel"),
        count_of(n_host, "node"),
    );
    let formats = if formats.is_empty() { "none".to_owned() } else { formats.join(", ") };
    text += &format!("  formats   {formats}\n");
    text += &format!(
        "  peak      {} of {} (f32 {}, smallest {})\n",
        size::show(plan.planned_peak_bytes),
        size::show(plan.budget_bytes),
        size::show(plan.f32_bytes),
        size::show(plan.min_feasible_bytes)
    );
    text += &format!(
        "  ledger    weights {}, constants {}, activations {}, workspace {}, io {}\n",
        size::show(ledger.weights),
        size::show(ledger.constants),
        size::show(ledger.activations),
        size::show(ledger.workspace),
        size::show(ledger.io)
    );
    let c = &plan.certificate;
    text += &format!(
        "  error     {:.3e} relative, predicted (no assignment that fits is below {:.3e}; gap {:.2} %)\n",
        c.relative_error(),
        c.bound.max(0.0).sqrt(),
        c.gap * 100.0
    );
    match output {
        Some(path) => {
            let place = if is_stdout(path) { "to standard output".to_owned() } else { path.display().to_string() };
            text + &format!("  wrote     {place} in {seconds:.2} s\n")
        }
        None => text + &format!("  dry run   {seconds:.2} s\n"),
    }
}
