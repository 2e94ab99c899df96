//! `nyxc bench`.

mod feed;
mod kernel;

use super::say::{self, Status};
use super::{Failure, load, profile, run, write};
use crate::import::DimBinding;
use crate::program::profile::{Work, by_kernel};
use crate::session::Session;
use feed::Feed;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Time a program, on random inputs where none are given, and say which kernels take the time; or one kernel alone.
#[derive(clap::Args)]
#[command(after_help = "\
The table of kernels is of one more run, in which dispatches run one after the other.

Examples:
  nyxc bench model.nyx --runs 50
  nyxc bench decoder.nyx --dim seq=1 --dim past=256 --warmup 5 --json
  nyxc bench decoder.nyx --dim seq=1 --dim past=256 --feed 'past_key_values.*=present.*'
  nyxc bench --kernel matmul --format w4a16 --shape 1,4096,4096 --variants all
  nyxc bench --kernel conv --format f16 --shape 1,56,56,64,64,3,3,1 --prices")]
pub(super) struct Args {
    /// The program
    #[arg(required_unless_present = "kernel")]
    program: Option<PathBuf>,
    /// Runs that are timed
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Runs before them, which are not timed
    #[arg(long, default_value_t = 2, value_name = "N")]
    warmup: u32,
    /// Arrays named as the model's inputs: IN.npz, NAME=FILE.npy, or FILE.npy for the only input; may be repeated. What
    /// is not given is random: floats between -1 and 1, integers and truth values 0 or 1
    #[arg(long, value_name = "IN.npz|NAME=FILE.npy")]
    inputs: Vec<PathBuf>,
    /// What the random inputs are drawn from
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// The size of a dimension, where the program takes a range [default: the largest]
    #[arg(long, value_name = "NAME=N", value_parser = DimBinding::parse)]
    dim: Vec<DimBinding>,
    /// Have an output of each run stay on the device and be an input of the next; a * in both stands for the same text.
    /// Sizes grow with it from what --dim says
    #[arg(long, value_name = "INPUT=OUTPUT")]
    feed: Vec<String>,
    #[command(flatten)]
    device: run::Device,
    /// Write when each node ran in that one more run, as a trace that ui.perfetto.dev and chrome://tracing open
    #[arg(long, value_name = "FILE.json")]
    profile: Option<PathBuf>,
    /// Print the times as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    kernel: kernel::Args,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Some(path) = &args.program else { return kernel::run(&args.kernel, args.device.choice, args.json) };
    let status = Status::new();
    status.doing(format_args!("reading {}", path.display()));
    let program = load::program(path)?;
    if let Some(trace) = &args.profile {
        write::spares(trace, std::iter::once(path).chain(&args.inputs).map(PathBuf::as_path))?;
    }
    let random = run::Random { seed: args.seed, dims: &args.dim };
    let mut inputs = run::inputs(&program, &args.inputs, Some(random))?;
    status.doing("loading the program onto the device");
    let mut session = Session::of(program, args.device.choice)?;
    let mut feed = Feed::of(&mut session, &args.feed)?;
    for n in 0..args.warmup {
        status.doing(format_args!("warming up on {}: run {} of {}", session.device(), n + 1, args.warmup));
        // A program with states does the same in every run where each begins with the first ones.
        session.reset()?;
        let given = feed.of_host(session.program(), &inputs)?;
        feed.run(&mut session, &given)?;
        if !args.feed.is_empty() {
            inputs = feed.inputs(session.program(), &args.inputs, random)?;
        }
    }
    let (mut wall, mut device, mut rest) = (Vec::new(), Vec::new(), Vec::new());
    let (mut host_nodes, mut work) = (Vec::new(), None);
    for n in 0..args.runs {
        status.step(&format!("timing on {}: run", session.device()), n as usize + 1, args.runs as usize);
        session.reset()?;
        if n > 0 && !args.feed.is_empty() {
            inputs = feed.inputs(session.program(), &args.inputs, random)?;
        }
        let given = feed.of_host(session.program(), &inputs)?;
        let start = Instant::now();
        let outcome = feed.run(&mut session, &given)?;
        let wall_ms = start.elapsed().as_secs_f64() * 1e3;
        wall.push(wall_ms);
        device.extend(outcome.device_ms);
        rest.extend(outcome.device_ms.map(|ms| wall_ms - ms));
        (host_nodes, work) = (outcome.host_nodes, outcome.work);
    }
    let runs_per_second = wall.len() as f64 * 1e3 / wall.iter().sum::<f64>();
    // The figures are of runs on one device: what a fallback takes, the runs before it did not.
    let fallbacks = session.fallbacks().to_vec();
    // A queue without timestamps gives no times of kernels.
    let mut spans = Vec::new();
    if !device.is_empty() || session.device() == "cpu" {
        status.doing("timing each kernel");
        session.reset()?;
        let start = Instant::now();
        spans = session.run_profiled(&inputs, true)?.profile.unwrap_or_default();
        if let Some(path) = &args.profile {
            let trace = profile::trace(&session.program().model, &session.device(), start, &[], &spans);
            write::file(path, |out| writeln!(out, "{trace}"))?;
        }
    } else if args.profile.is_some() {
        return Err(Failure::device(format!("{}: its compute queue has no timestamps", session.device())));
    }
    let kernels = by_kernel(&spans);
    drop(status);
    fallbacks.iter().for_each(say::note);
    let (wall, device, rest) = (Spread::of(wall), Spread::of(device), Spread::of(rest));
    let entry = run::entry(session.program())?;
    let shapes: Vec<Vec<usize>> = inputs.iter().map(crate::ir::Tensor::dims).collect();
    let sizes = entry.sizes_of(&shapes).unwrap_or_default();
    let text = if args.json {
        let planned = session.program().plans.first().map_or(0, |p| p.planned_peak_bytes);
        let document = json!({
            "device": session.device(),
            "runs": args.runs,
            "warmup": args.warmup,
            "sizes": sizes,
            "wall_ms": wall.as_ref().map(Spread::json),
            "device_ms": device.as_ref().map(Spread::json),
            "besides_ms": rest.as_ref().map(Spread::json),
            "queue": work.map(|w| json!({"submits": w.submits, "waits": w.waits, "recorded": w.recorded})),
            "runs_per_second": runs_per_second,
            "kernels": profile::kernels_json(&kernels),
            "planned_peak_bytes": planned,
            "measured_peak_bytes": session.measured_peak_bytes(),
            "host_nodes": host_nodes,
            "fallbacks": fallbacks,
        });
        format!("{document:#}\n")
    } else {
        let at: Vec<_> = sizes.iter().map(|(name, n)| format!("{name}={n}")).collect();
        let at = if at.is_empty() { String::new() } else { format!(" at {}", at.join(", ")) };
        let mut text =
            format!("{}, median of {} runs{at}, {runs_per_second:.1} runs a second\n", session.device(), args.runs);
        for (name, spread) in [("wall", &wall), ("device", &device), ("besides", &rest)] {
            text += &spread.as_ref().map_or(String::new(), |s| s.line(name));
        }
        if let Some(Work { submits, waits, recorded }) = work {
            text += &format!("  queue   {submits} submissions, {waits} waits, {recorded} recordings in the last run\n");
        }
        text + &profile::table(&kernels)
    };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// How times are spread, in milliseconds.
struct Spread {
    sorted: Vec<f64>,
}

impl Spread {
    fn of(mut times: Vec<f64>) -> Option<Spread> {
        times.sort_by(f64::total_cmp);
        (!times.is_empty()).then_some(Spread { sorted: times })
    }

    /// The time that so many of a hundred runs stay within: between two runs, in proportion.
    fn percentile(&self, percent: f64) -> f64 {
        let at = percent / 100.0 * (self.sorted.len() - 1) as f64;
        let (low, high) = (self.sorted[at.floor() as usize], self.sorted[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    fn mean(&self) -> f64 {
        self.sorted.iter().sum::<f64>() / self.sorted.len() as f64
    }

    fn json(&self) -> Value {
        let p = |percent| self.percentile(percent);
        json!({
            "min": p(0.0),
            "p5": p(5.0),
            "p50": p(50.0),
            "median": p(50.0),
            "p95": p(95.0),
            "p99": p(99.0),
            "max": p(100.0),
            "mean": self.mean(),
        })
    }

    fn line(&self, name: &str) -> String {
        let p = |percent| self.percentile(percent);
        format!(
            "  {name:7} {:.3} ms (min {:.3}, p5 {:.3}, p95 {:.3}, p99 {:.3}, max {:.3})\n",
            p(50.0),
            p(0.0),
            p(5.0),
            p(95.0),
            p(99.0),
            p(100.0)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_lie_between_runs() {
        let spread = Spread::of((0..=100).rev().map(f64::from).collect()).unwrap();
        let p = [0.0, 5.0, 50.0, 95.0, 99.0, 100.0].map(|percent| spread.percentile(percent));
        assert_eq!(p, [0.0, 5.0, 50.0, 95.0, 99.0, 100.0]);
        let two = Spread::of(vec![4.0, 2.0]).unwrap();
        assert_eq!((two.percentile(50.0), two.percentile(75.0), two.mean()), (3.0, 3.5, 3.0));
        assert!(Spread::of(Vec::new()).is_none());
    }
}
