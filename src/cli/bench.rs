//! `nyxc bench`.

mod kernel;

use super::{Failure, load, run, write};
use crate::ir::{DType, Shape, Tensor, TensorType};
use crate::program::{Port, Sizes};
use crate::session::{DeviceChoice, Session};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// Time a program on random inputs, or one kernel alone.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  nyxc bench model.nyx --runs 50
  nyxc bench --kernel matmul --format w4a16 --shape 1,4096,4096 --variants all")]
pub(super) struct Args {
    /// The program
    #[arg(required_unless_present = "kernel")]
    program: Option<PathBuf>,
    /// Runs that are timed, after one that is not
    #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// auto, cpu, or an index of `nyxc devices`
    #[arg(long, default_value = "auto", value_parser = run::device_choice)]
    device: DeviceChoice,
    /// Print the times as one JSON document
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    kernel: kernel::Args,
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let Some(program) = &args.program else { return kernel::run(&args.kernel, args.device, args.json) };
    let program = load::program(program)?;
    let entry = run::entry(&program)?;
    let sizes = entry.largest();
    let inputs: Vec<Tensor> =
        entry.inputs.iter().enumerate().map(|(i, port)| random(port, &sizes, i as u64)).collect::<Result<_, _>>()?;
    let mut session = Session::of(program, args.device)?;
    session.run(&inputs)?;
    let (mut wall, mut device) = (Vec::new(), Vec::new());
    for _ in 0..args.runs {
        let start = Instant::now();
        let outcome = session.run(&inputs)?;
        wall.push(start.elapsed().as_secs_f64() * 1e3);
        device.extend(outcome.device_ms);
    }
    let (wall, device) = (spread(wall), spread(device));
    let text = if args.json {
        let times = |s: &Option<Spread>| s.as_ref().map(|s| json!({"median": s.median, "min": s.min, "max": s.max}));
        format!(
            "{:#}\n",
            json!({"device": session.device(), "runs": args.runs, "wall_ms": times(&wall), "device_ms": times(&device), "measured_peak_bytes": session.measured_peak_bytes()})
        )
    } else {
        let line = |name: &str, s: &Option<Spread>| {
            s.as_ref().map_or(String::new(), |s| {
                format!("  {name:7} {:.3} ms (min {:.3}, max {:.3})\n", s.median, s.min, s.max)
            })
        };
        format!(
            "{}, median of {} runs\n{}{}",
            session.device(),
            args.runs,
            line("wall", &wall),
            line("device", &device)
        )
    };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

fn spread(mut times: Vec<f64>) -> Option<Spread> {
    times.sort_by(f64::total_cmp);
    Some(Spread { median: *times.get(times.len() / 2)?, min: *times.first()?, max: *times.last()? })
}

/// Random values for a port: floats between -1 and 1, integers and truth values 0 or 1, which every table has rows for.
fn random(port: &Port, sizes: &Sizes, seed: u64) -> Result<Tensor, Failure> {
    let port = port.at(sizes).ok_or_else(|| Failure::file(format!("input {:?}: its size is not known", port.name)))?;
    let ty = TensorType::new(port.dtype, Shape(port.shape.clone()));
    let refuse = |e: &dyn std::fmt::Display| Failure::file(format!("input {:?}: {e}", port.name));
    let dims = ty.shape.known().ok_or_else(|| refuse(&"its size is not known"))?;
    let n = ty.shape.n_elems().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| refuse(&"it is too large"))?;
    // SplitMix64 (Steele et al. 2014).
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    };
    let tensor = match port.dtype {
        DType::F32 | DType::F16 | DType::BF16 | DType::F64 => {
            let values: Vec<f32> = (0..n).map(|_| (next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect();
            Tensor::from_f32s(port.dtype, &dims, &values)
        }
        dtype => Tensor::from_i64s(dtype, &dims, &(0..n).map(|_| (next() & 1) as i64).collect::<Vec<_>>()),
    };
    tensor.map_err(|e| refuse(&e))
}
