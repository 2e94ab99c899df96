//! `nyxc run`.

use super::{Failure, load, write};
use crate::ir::{Tensor, TensorType};
use crate::program::{Entry, Program};
use crate::session::{DeviceChoice, Outcome, Session, npz};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

/// Run a program on inputs from a .npz file.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc run model.nyx --inputs in.npz --outputs out.npz --json")]
pub(super) struct Args {
    /// The program
    program: PathBuf,
    /// Arrays named as the model's inputs
    #[arg(long, value_name = "IN.npz")]
    inputs: PathBuf,
    /// Where the outputs go, named as the model's
    #[arg(long, value_name = "OUT.npz")]
    outputs: PathBuf,
    /// auto (the best Vulkan device, the CPU reference where there is none), cpu, or an index of `nyxc devices`
    #[arg(long, default_value = "auto", value_parser = device_choice)]
    device: DeviceChoice,
    /// Write the time of every dispatch
    #[arg(long, value_name = "FILE.json")]
    profile: Option<PathBuf>,
    /// Print what happened as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// Reads `auto`, `cpu` or an index.
pub(super) fn device_choice(text: &str) -> Result<DeviceChoice, String> {
    match text {
        "auto" => Ok(DeviceChoice::Auto),
        "cpu" => Ok(DeviceChoice::Cpu),
        _ => text.parse().map(DeviceChoice::Index).map_err(|_| format!("{text:?} is neither auto, cpu nor an index")),
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    for output in [Some(&args.outputs), args.profile.as_ref()].into_iter().flatten() {
        write::spares(output, [args.program.as_path(), &args.inputs])?;
    }
    let program = load::program(&args.program)?;
    let inputs = inputs(&program, &args.inputs)?;
    let mut session = Session::of(program, args.device)?;
    let start = Instant::now();
    let outcome = session.run_profiled(&inputs, args.profile.is_some())?;
    let wall_ms = start.elapsed().as_secs_f64() * 1e3;
    let names = entry(session.program())?.outputs.iter().map(|p| p.name.clone());
    let mut bytes = std::io::Cursor::new(Vec::new());
    npz::write(&mut bytes, &names.zip(outcome.outputs.iter().cloned()).collect::<Vec<_>>())
        .map_err(|e| Failure::io(&args.outputs, e))?;
    write::file(&args.outputs, |out| out.write_all(bytes.get_ref()))?;
    if let (Some(path), Some(profile)) = (&args.profile, &outcome.profile) {
        let rows: Vec<_> = profile.iter().map(|(node, ms)| json!({"node": node, "ms": ms})).collect();
        write::file(path, |out| writeln!(out, "{:#}", json!({"dispatches": rows})))?;
    }
    for fallback in session.fallbacks() {
        eprintln!("nyxc: {fallback}");
    }
    let text = if args.json {
        format!("{:#}\n", report(&session, &outcome, wall_ms))
    } else {
        let device_ms = outcome.device_ms.map_or(String::new(), |ms| format!(", {ms:.3} ms of it on the device"));
        format!("{}: {wall_ms:.3} ms{device_ms}; wrote {}\n", session.device(), args.outputs.display())
    };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
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

/// A program's inputs from a file, in its order.
pub(super) fn inputs(program: &Program, path: &Path) -> Result<Vec<Tensor>, Failure> {
    let entry = entry(program)?;
    let refuse = |e: &dyn std::fmt::Display| Failure::file(format!("{}: {e}", path.display()));
    let file = std::fs::File::open(path).map_err(|e| Failure::io(path, e))?;
    let mut refused = None;
    // Only what will be used is unpacked: a small file can hold any number of zeros.
    let mut wants = |name: &str, ty: &TensorType| match entry.takes(name, ty) {
        Ok(()) => refused.is_none(),
        Err(error) => {
            refused.get_or_insert(error);
            false
        }
    };
    let arrays = npz::read(std::io::BufReader::new(file), &mut wants).map_err(|e| refuse(&e))?;
    match refused {
        Some(error) => Err(refuse(&error)),
        None => program.inputs(entry, arrays).map_err(|e| refuse(&e)),
    }
}
