//! `nyxc run`.

use super::say::{self, Status};
use super::{Failure, arrays, load, profile, write};
use crate::import::DimBinding;
use crate::ir::{Tensor, TensorType};
use crate::program::profile::by_kernel;
use crate::program::{Entry, Port, Program};
use crate::session::{DeviceChoice, Outcome, Session};
use serde_json::json;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Run a program on arrays from files, or on random ones.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  nyxc run model.nyx --inputs in.npz --outputs out.npz --json
  nyxc run model.nyx --inputs ids=ids.npy --inputs mask=mask.npy --outputs results/
  nyxc run model.nyx --random --seed 7 --dim batch=4
  nyxc run model.nyx --random --profile trace.json      open it in ui.perfetto.dev")]
pub(super) struct Args {
    /// The program
    program: PathBuf,
    /// Arrays named as the model's inputs: IN.npz, NAME=FILE.npy, or FILE.npy for the only input; may be repeated
    #[arg(long, value_name = "IN.npz|NAME=FILE.npy")]
    inputs: Vec<PathBuf>,
    /// Where the outputs go, named as the model's: OUT.npz, NAME=FILE.npy, FILE.npy for the only output, or a folder
    /// (written with / at its end, or there already) for one NAME.npy each; may be repeated
    #[arg(long, value_name = "OUT.npz|NAME=FILE.npy|DIR/")]
    outputs: Vec<PathBuf>,
    /// Make up the inputs that are not given: floats between -1 and 1, integers and truth values 0 or 1
    #[arg(long)]
    random: bool,
    /// What the random inputs are drawn from: the same seed, the same inputs
    #[arg(long, value_name = "N", default_value_t = 0, requires = "random")]
    seed: u64,
    /// The size of a dimension of random inputs, where the program takes a range [default: the largest]
    #[arg(long, value_name = "NAME=N", value_parser = DimBinding::parse, requires = "random")]
    dim: Vec<DimBinding>,
    #[command(flatten)]
    device: Device,
    /// Write when each node ran, as a trace that ui.perfetto.dev and chrome://tracing open, and print the time of each
    /// kernel. Dispatches run one after the other then
    #[arg(long, value_name = "FILE.json")]
    profile: Option<PathBuf>,
    /// Print what happened as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// `--device`.
#[derive(clap::Args)]
pub(super) struct Device {
    /// auto (the best GPU; the CPU reference where there is none or where it fails), cpu, vulkan (the best Vulkan
    /// device, drivers that compute on the CPU included), vulkan,cpu (the same; the CPU reference where it fails), or
    /// an index of `nyxc devices`
    #[arg(long = "device", default_value = "auto", value_parser = device_choice, value_name = "DEVICE")]
    pub(super) choice: DeviceChoice,
}

/// Reads what `--device` takes.
fn device_choice(text: &str) -> Result<DeviceChoice, String> {
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        "vulkan" => Ok(DeviceChoice::Vulkan),
        "vulkan,cpu" => Ok(DeviceChoice::VulkanOrCpu),
        _ => text
            .parse()
            .map(DeviceChoice::Index)
            .map_err(|_| format!("{text:?} is none of auto, cpu, vulkan, vulkan,cpu and an index of `nyxc devices`")),
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let started = Instant::now();
    let status = Status::new();
    status.doing(format_args!("reading {}", args.program.display()));
    let program = load::program(&args.program)?;
    let (reads, writes) = files(&program, args)?;
    for output in &writes {
        write::spares(output, [args.program.as_path()].into_iter().chain(reads.iter().map(PathBuf::as_path)))?;
    }
    let mut host = profile::Host::new(started);
    host.did("read program");
    let random = args.random.then_some(Random { seed: args.seed, dims: &args.dim });
    let inputs = inputs(&program, &args.inputs, random)?;
    host.did("read inputs");
    status.doing("loading the program onto the device");
    let mut session = Session::of(program, args.device.choice)?;
    host.did("load program");
    let device = session.device();
    let what = format!("running on {device}");
    status.doing(&what);
    let start = Instant::now();
    let outcome =
        session.run_with_progress(&inputs, args.profile.is_some(), &mut |n, all| status.step(&what, n, all))?;
    let wall_ms = start.elapsed().as_secs_f64() * 1e3;
    host.skip();
    let names = entry(session.program())?.outputs.iter().map(|p| p.name.clone());
    let outputs: Vec<(String, Tensor)> = names.zip(outcome.outputs.iter().cloned()).collect();
    arrays::write_outputs(&args.outputs, &outputs)?;
    host.did("write outputs");
    let spans = outcome.profile.as_deref().unwrap_or_default();
    if let Some(path) = &args.profile {
        let trace = profile::trace(&session.program().model, &session.device(), started, host.spans(), spans);
        write::file(path, |out| writeln!(out, "{trace}"))?;
    }
    drop(status);
    session.fallbacks().iter().for_each(say::note);
    let text = if args.json {
        let mut report = report(&session, &outcome, wall_ms);
        report["outputs"] = outputs.iter().map(|(name, tensor)| summary(name, tensor)).collect();
        if args.profile.is_some() {
            report["kernels"] = profile::kernels_json(&by_kernel(spans));
        }
        format!("{report:#}\n")
    } else if say::is_quiet() {
        String::new()
    } else {
        describe_run(args, &session, &outcome, &outputs, wall_ms) + &profile::table(&by_kernel(spans))
    };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// The files that a run reads and those that it writes, all that is known before it does anything.
fn files(program: &Program, args: &Args) -> Result<(Vec<PathBuf>, Vec<PathBuf>), Failure> {
    let entry = entry(program)?;
    let open = || entry.inputs.iter().filter(|port| !entry.defaults.contains_key(&port.name));
    if args.inputs.is_empty() && !args.random && open().next().is_some() {
        let takes: Vec<_> = open().map(|port| format!("{:?} ({})", port.name, entry.expected(port))).collect();
        return Err(Failure::usage(format!(
            "the program takes {}: give --inputs IN.npz, --inputs NAME=FILE.npy or --random",
            takes.join(", ")
        )));
    }
    arrays::check_places(&args.outputs, &entry.outputs)?;
    let names = |ports: &[Port]| ports.iter().map(|port| port.name.clone()).collect::<Vec<_>>();
    let files = |given: &[PathBuf], names: &[String]| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        given.iter().map(|path| arrays::file_of(path, &names)).collect::<Vec<_>>()
    };
    let mut writes = files(&args.outputs, &names(&entry.outputs));
    writes.extend(args.profile.clone());
    Ok((files(&args.inputs, &names(&entry.inputs)), writes))
}

/// What an output is, for people and programs: its values at a glance.
fn summary(name: &str, tensor: &Tensor) -> serde_json::Value {
    let values = tensor.to_f32s().ok();
    let finite = || values.iter().flat_map(|v| v.iter()).copied().filter(|v| v.is_finite());
    let n = finite().count();
    let mean = finite().map(f64::from).sum::<f64>() / n as f64;
    // As short as the f32 is.
    let short = |v: f32| v.to_string().parse::<f64>().ok();
    let (min, max) = (finite().reduce(f32::min).and_then(short), finite().reduce(f32::max).and_then(short));
    let n_not_finite = values.as_ref().map_or(0, |v| v.len() - n);
    json!({
        "name": name,
        "type": tensor.ty().to_string(),
        "min": min,
        "max": max,
        "mean": (n > 0).then_some(mean),
        "not_finite": n_not_finite,
    })
}

fn describe_run(
    args: &Args,
    session: &Session,
    outcome: &Outcome,
    outputs: &[(String, Tensor)],
    wall_ms: f64,
) -> String {
    let device_ms = outcome.device_ms.map_or(String::new(), |ms| format!(", {ms:.3} ms of it on the device"));
    let places: Vec<_> = args.outputs.iter().map(|path| path.display().to_string()).collect();
    let wrote = if places.is_empty() { String::new() } else { format!("; wrote {}", places.join(", ")) };
    let mut text = format!("{}: {wall_ms:.3} ms{device_ms}{wrote}\n", session.device());
    // What goes to no file is shown.
    for (name, tensor) in outputs.iter().filter(|_| places.is_empty()) {
        let s = summary(name, tensor);
        let range = match (&s["min"], &s["max"], &s["mean"]) {
            (serde_json::Value::Null, ..) => String::new(),
            (min, max, mean) => format!(", {min} to {max}, mean {:.6}", mean.as_f64().unwrap_or_default()),
        };
        let odd = s["not_finite"].as_u64().filter(|n| *n > 0);
        let odd = odd.map_or(String::new(), |n| format!(", {n} not finite"));
        text += &format!("  {name} : {}{range}{odd}\n", tensor.ty());
    }
    text
}

/// The report of a run.
pub(super) fn report(session: &Session, outcome: &Outcome, wall_ms: f64) -> serde_json::Value {
    let planned = session.program().plans.first().map_or(0, |p| p.planned_peak_bytes);
    json!({
        "device": session.device(),
        "planned_peak_bytes": planned,
        "measured_peak_bytes": session.measured_peak_bytes(),
        "wall_ms": wall_ms,
        "device_ms": outcome.device_ms,
        "host_nodes": outcome.host_nodes,
        "fallbacks": session.fallbacks(),
    })
}

/// The entry that `run` calls.
pub(super) fn entry(program: &Program) -> Result<&Entry, Failure> {
    program.entry().ok_or_else(|| Failure::file("the program has no entry"))
}

/// Where inputs that are not given, and have no default, come from.
#[derive(Clone, Copy)]
pub(super) struct Random<'a> {
    pub(super) seed: u64,
    pub(super) dims: &'a [DimBinding],
}

/// A program's inputs, in its order: from the files of `--inputs`, and made up where `random` says how.
pub(super) fn inputs(program: &Program, given: &[PathBuf], random: Option<Random<'_>>) -> Result<Vec<Tensor>, Failure> {
    let entry = entry(program)?;
    let refuse = |path: &dyn std::fmt::Display, e: &dyn std::fmt::Display| Failure::file(format!("{path}: {e}"));
    let (mut arrays, mut from) = (BTreeMap::new(), BTreeMap::new());
    for path in given {
        let mut refused = None;
        // Only what will be used is unpacked: a small file can hold any number of zeros.
        let mut wants = |name: &str, ty: &TensorType| match entry.takes(name, ty) {
            Ok(()) => refused.is_none(),
            Err(error) => {
                refused.get_or_insert(error);
                false
            }
        };
        let own = arrays::read(path, entry, &mut wants)?;
        if let Some(error) = refused {
            return Err(refuse(&path.display(), &error));
        }
        for (name, tensor) in own {
            if let Some(before) = from.insert(name.clone(), path) {
                let (before, path) = (before.display(), path.display());
                return Err(Failure::usage(format!("input {name:?} is given twice: by {before} and by {path}")));
            }
            arrays.insert(name, tensor);
        }
    }
    if let Some(Random { seed, dims }) = random {
        let sizes = arrays::sizes(entry, dims, &arrays)?;
        let is_open = |port: &Port| !from.contains_key(&port.name) && !entry.defaults.contains_key(&port.name);
        for (port, seed) in entry.inputs.iter().zip(seed..).filter(|(port, _)| is_open(port)) {
            arrays.insert(port.name.clone(), arrays::random(entry, port, &sizes, seed)?);
        }
    }
    let files: Vec<_> = given.iter().map(|path| path.display().to_string()).collect();
    program
        .inputs(entry, arrays)
        .map_err(|e| if files.is_empty() { Failure::usage(e) } else { refuse(&files.join(", "), &e) })
}
