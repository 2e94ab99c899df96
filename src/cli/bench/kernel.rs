//! `nyxc bench --kernel`: one kernel alone on the device, by all its variants.

use super::super::harness::subject::{Built, KERNELS, Subject};
use super::super::harness::{Prepared, Sampling, Spread, bug, calls, spread};
use super::super::{Failure, harness, tuning, write};
use crate::failure::EXIT_DIFFERENT;
use crate::kernels::{self, KernelCall, Way};
use crate::runtime::{DeviceInfo, DeviceKind, Options, VkContext};
use crate::session::DeviceChoice;
use crate::targets::Target;
use serde_json::{Value as Json, json};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A variant that takes so many times as long as the best is sampled once.
const FAR_BEHIND: f64 = 1.3;

/// What is timed with `--kernel`.
#[derive(clap::Args)]
#[group(id = "kernel_args")]
pub(super) struct Args {
    /// Time one kernel instead of a program: matmul, conv, attention, softmax, norm or quantize
    #[arg(long, value_parser = KERNELS.map(|(name, _)| name), conflicts_with = "program", requires = "shape")]
    pub(super) kernel: Option<String>,
    /// Format of the kernel, such as w4a16
    #[arg(long, default_value = "f32", requires = "kernel")]
    format: String,
    /// Sizes: M,N,K of matmul; IMAGES,H,W,C,FILTERS,KH,KW,STRIDE[,GROUPS] of conv;
    /// BATCH,HEADS,KV_HEADS,QUERIES,KEYS,HEAD[,CAUSAL] of attention; ROWS,COLUMNS of the others
    #[arg(long, value_name = "SIZES", value_delimiter = ',', num_args = 1, requires = "kernel")]
    shape: Vec<u32>,
    /// Add another tensor of the result's size
    #[arg(long, requires = "kernel")]
    wide: bool,
    /// Variants of the kernel: all, or names such as plain or 256x16x8x4x128 (threads, lanes, ways, columns, steps);
    /// the planner's where absent
    #[arg(long, value_delimiter = ',', requires = "kernel")]
    variants: Vec<String>,
    /// The tuning table that chooses: a file, or none [default: the one shipped for the device, if any]
    #[arg(long, value_name = "FILE|none", requires = "kernel")]
    tuning: Option<String>,
    /// List the variants with their prices, and time none
    #[arg(long, requires = "kernel")]
    prices: bool,
    /// Samples, each of many dispatches
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..), requires = "kernel")]
    samples: u32,
    /// Copies of the weights are read in turn until so many MB were [default: 400, 8 on a CPU]
    #[arg(long, value_name = "MB", requires = "kernel")]
    rotate: Option<u32>,
    /// Seconds of load before the first sample, so that the clock is up [default: 1, 0 on a CPU]
    #[arg(long, value_name = "SECONDS", requires = "kernel")]
    load: Option<f64>,
    /// GB/s that are 100 % [default: what the device's profile says of a copy]
    #[arg(long, value_name = "GB/S", requires = "kernel")]
    ceiling: Option<f64>,
}

/// One list of calls and what was found.
struct Timed {
    names: Vec<String>,
    way: Option<Way>,
    error: f64,
    us: Vec<f64>,
}

pub(super) fn run(args: &Args, device: DeviceChoice, json: bool) -> Result<ExitCode, Failure> {
    let kernel = args.kernel.as_deref().unwrap_or_default();
    let subject = Subject::new(kernel, &args.format, args.shape.clone(), args.wide)
        .map_err(|e| Failure::usage(format!("--shape: {e}")))?;
    let mut info = harness::device(device)?;
    tuning::choose(args.tuning.as_deref(), &mut info.target)?;
    let is_cpu = info.kind == DeviceKind::Cpu;
    let built = subject.build(&info.target)?;
    if args.prices {
        return prices(&subject, &built, &info.target, json);
    }
    let mut lists: Vec<Vec<KernelCall>> = Vec::new();
    let mut timed: Vec<Timed> = Vec::new();
    for way in ways(args, &built, &info.target)? {
        let list = calls(&built, &info.target, way)?;
        let names: Vec<String> = list.iter().map(|call| call.key.name()).collect();
        // Where a variant does not suit, the planner falls back: once is enough.
        if timed.iter().all(|other| other.names != names) {
            lists.push(list);
            timed.push(Timed { names, way, error: 0.0, us: Vec::new() });
        }
    }
    let rotated_bytes = u64::from(args.rotate.unwrap_or(if is_cpu { 8 } else { 400 })) * 1_000_000;
    let sampling = Sampling { rotated_bytes, ns: 5_000_000, most: if is_cpu { 1 } else { 600 } };
    let prepared = Prepared::new(&subject, built, &lists, &info.target, sampling, None)?;
    let context = VkContext::open(info.index, &info.target.features, &Options::from_env())?;
    let mut executor = prepared.load(&context)?;
    for (i, one) in timed.iter_mut().enumerate() {
        one.error = prepared.error(&mut executor, i)?;
    }
    let load = Duration::try_from_secs_f64(args.load.unwrap_or(if is_cpu { 0.0 } else { 1.0 }))
        .map_err(|e| Failure::usage(format!("--load: {e}")))?;
    let start = Instant::now();
    while start.elapsed() < load {
        prepared.sample(&mut executor, 0)?;
    }
    // Samples of all variants in turn: a clock that moves moves them all. What is far behind after the first is left
    // out.
    for sample in 0..=args.samples {
        let best = timed.iter().filter_map(|one| one.us.first().copied()).fold(f64::INFINITY, f64::min);
        for (i, one) in timed.iter_mut().enumerate() {
            if one.us.first().is_some_and(|us| *us > best * FAR_BEHIND) {
                continue;
            }
            // The first round warms up, all variants alike.
            one.us.extend(prepared.sample(&mut executor, i)?.filter(|_| sample > 0));
        }
    }
    let ceiling = args.ceiling.or(info.target.rates.as_ref().map(|rates| rates.copy_bytes_per_s / 1e9));
    report(&subject, (args.samples, json), &info, &prepared, ceiling, timed)
}

/// What is asked for: `None` for the planner's choice.
fn ways(args: &Args, built: &Built, target: &Target) -> Result<Vec<Option<Way>>, Failure> {
    let mut asked = Vec::new();
    for text in &args.variants {
        match text.as_str() {
            "all" => {
                for node in &built.nodes {
                    let all = kernels::candidates(&built.graph, *node, target).map_err(bug)?;
                    asked.extend(all.into_iter().map(|candidate| Some(candidate.way)));
                }
            }
            text => asked.push(Some(text.parse().map_err(|e| Failure::usage(format!("--variants: {text:?}: {e}")))?)),
        }
    }
    if asked.is_empty() {
        asked.push(None);
    }
    Ok(asked)
}

/// The variants with their prices.
fn prices(subject: &Subject, built: &Built, target: &Target, json: bool) -> Result<ExitCode, Failure> {
    let mut rows = Vec::new();
    for node in &built.nodes {
        rows.extend(kernels::candidates(&built.graph, *node, target).map_err(bug)?);
    }
    rows.sort_by_key(|row| (row.cost.ns, row.way));
    let source = |row: &kernels::Candidate| format!("{:?}", row.cost.source).to_lowercase();
    let text = if json {
        let rows: Vec<Json> = rows
            .iter()
            .map(|row| {
                json!({
                    "case": row.case.to_string(), "variant": row.way.to_string(), "ns": row.cost.ns,
                    "source": source(row), "chosen": row.is_chosen,
                })
            })
            .collect();
        format!("{:#}\n", json!({"shape": subject.to_string(), "target": target.name, "candidates": rows}))
    } else {
        let line = |row: &kernels::Candidate| {
            let (us, chosen) = (row.cost.ns as f64 / 1e3, if row.is_chosen { "  chosen" } else { "" });
            format!("{us:12.2} us  {:8}  {}{chosen}\n", source(row), row.way)
        };
        format!("{subject} on {}\n", target.name) + &rows.iter().map(line).collect::<String>()
    };
    write::stdout(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn report(
    subject: &Subject,
    (samples, json): (u32, bool),
    info: &DeviceInfo,
    prepared: &Prepared,
    ceiling: Option<f64>,
    timed: Vec<Timed>,
) -> Result<ExitCode, Failure> {
    let mut rows: Vec<(Timed, Option<Spread>)> = Vec::new();
    for one in timed {
        let times = spread(&one.us);
        rows.push((one, times));
    }
    let median = |s: &Option<Spread>| s.as_ref().map_or(f64::INFINITY, |s| s.median);
    rows.sort_by(|a, b| median(&a.1).total_cmp(&median(&b.1)));
    let (n_bytes, n_operations) = (prepared.n_bytes, prepared.built.n_operations);
    let rate = |s: &Spread| n_bytes as f64 / s.median / 1e3;
    let operations = |s: &Spread| n_operations as f64 / s.median / 1e6;
    let bound = prepared.bound();
    let is_right = rows.iter().all(|(one, _)| one.error <= bound);
    let text = if json {
        let variants: Vec<Json> = rows
            .iter()
            .map(|(one, s)| {
                json!({
                    "kernels": one.names, "variant": one.way.map(|way| way.to_string()),
                    "relative_error": one.error, "right": one.error <= bound,
                    "us": s.as_ref().map(|s| json!({"median": s.median, "min": s.min, "max": s.max})),
                    "gb_per_s": s.as_ref().map(rate), "tera_operations_per_s": s.as_ref().map(operations),
                    "percent": s.as_ref().and_then(|s| Some(100.0 * rate(s) / ceiling?)),
                })
            })
            .collect();
        format!(
            "{:#}\n",
            json!({
                "kernel": subject.kernel, "format": subject.format, "shape": subject.shape, "wide": subject.wide,
                "device": info.name, "driver": info.driver, "bytes": n_bytes, "operations": n_operations,
                "copies": prepared.copies, "dispatches": prepared.dispatches, "samples": samples,
                "ceiling_gb_per_s": ceiling, "variants": variants,
            })
        )
    } else {
        let mut text = format!(
            "{subject} on {} ({}): {n_bytes} bytes, {} copies, {} dispatches, {samples} samples\n",
            info.name, info.driver, prepared.copies, prepared.dispatches,
        );
        for (one, s) in &rows {
            let time = s.as_ref().map_or("  no timestamps".to_owned(), |s| {
                let percent = ceiling.map_or(String::new(), |c| format!(" {:3.0} %", 100.0 * rate(s) / c));
                let rates = format!("{:7.0} GB/s{percent} {:6.1} T/s", rate(s), operations(s));
                format!("{:9.2} us (min {:.2}, max {:.2}) {rates}", s.median, s.min, s.max)
            });
            let wrong = if one.error <= bound { "" } else { " WRONG" };
            text += &format!("{time}  error {:.1e}{wrong}  {}\n", one.error, one.names.join(" + "));
        }
        text
    };
    write::stdout(&text)?;
    if is_right { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::from(EXIT_DIFFERENT)) }
}
