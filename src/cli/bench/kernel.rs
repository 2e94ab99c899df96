//! `nyxc bench --kernel`: the kernels of one product, alone on the device.

use super::super::{Failure, write};
use crate::failure::EXIT_DIFFERENT;
use crate::ir::packed::{Granularity, Packing, ScaleType, dequantize};
use crate::ir::{
    Activations, DType, Format, Graph, Level, Node, NodeId, NodeKind, Op, Shape, Tensor, TensorType, Value, ValueId,
    Weights,
};
use crate::kernels::variant::Variant;
use crate::kernels::{self, KernelCall};
use crate::ops::core::matmul;
use crate::program::{
    Allocation, AllocationKind, Certificate, Dispatch, Entry, Ledger, Plan, Port, Program, Region, Step, Upload, hex,
};
use crate::runtime::{DeviceInfo, DeviceKind, Executor, HostError, Options, VkContext};
use crate::session::{DeviceChoice, best_device};
use serde_json::{Value as Json, json};
use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Rows of weights that are random; those after them repeat these, so that large matrices are made in no time. A prime:
/// tiles of kernels do not meet the same rows at the same place.
const DISTINCT_ROWS: usize = 61;
/// Elements of the result that are compared with f64.
const CHECKED: usize = 2048;
/// A variant that takes so many times as long as the best is sampled once.
const FAR_BEHIND: f64 = 1.3;
/// Most dispatches of one sample.
const MOST_DISPATCHES: u64 = 600;

/// What is timed with `--kernel`.
#[derive(clap::Args)]
#[group(id = "kernel_args")]
pub(super) struct Args {
    /// Time one kernel instead of a program: matmul
    #[arg(long, value_parser = ["matmul"], conflicts_with = "program", requires = "shape")]
    pub(super) kernel: Option<String>,
    /// Format of the product, such as w4a16
    #[arg(long, default_value = "f32", requires = "kernel")]
    format: Format,
    /// Rows, columns and depth of the product
    #[arg(long, value_name = "M,N,K", value_delimiter = ',', num_args = 1, requires = "kernel")]
    shape: Vec<u32>,
    /// Variants of the kernel: all, or some such as 256x16x8x4x128 (threads, lanes, ways, columns, steps); the
    /// planner's where absent
    #[arg(long, value_delimiter = ',', requires = "kernel")]
    variants: Vec<String>,
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

/// Random numbers (SplitMix64, Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From -1 to 1.
    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// A matrix: what is uploaded, and the values of its distinct rows.
struct Matrix {
    tensor: Tensor,
    rows: Vec<f32>,
    n_distinct: usize,
    n_cols: usize,
}

impl Matrix {
    fn row(&self, row: usize) -> &[f32] {
        let row = row % self.n_distinct;
        &self.rows[row * self.n_cols..(row + 1) * self.n_cols]
    }
}

fn bug(e: impl std::fmt::Display) -> Failure {
    Failure::file(e)
}

/// `n_rows` rows, the first [`DISTINCT_ROWS`] of which are random.
fn matrix(ty: &TensorType, n_rows: usize, n_cols: usize, random: &mut Random) -> Result<Matrix, Failure> {
    let n_distinct = n_rows.min(DISTINCT_ROWS);
    let n_bytes = ty.bytes().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| bug("it is too large"))?;
    let mut bytes = Vec::with_capacity(n_bytes);
    let repeat = |bytes: &mut Vec<u8>, rows: &[u8]| {
        let whole = rows.len() / n_distinct;
        for _ in 0..n_rows / n_distinct {
            bytes.extend_from_slice(rows);
        }
        bytes.extend_from_slice(&rows[..n_rows % n_distinct * whole]);
    };
    let few = |n: usize, bytes: Vec<u8>| {
        let ty = TensorType { shape: Shape::of(&[n, n_cols]), ..ty.clone() };
        Tensor::from_bytes(ty, bytes).map_err(bug)
    };
    let rows = match ty.packing {
        None => {
            let values: Vec<f32> = (0..n_distinct * n_cols).map(|_| random.unit()).collect();
            let few = Tensor::from_f32s(ty.dtype, &[n_distinct, n_cols], &values).map_err(bug)?;
            repeat(&mut bytes, few.bytes().map_err(bug)?);
            few.to_f32s().map_err(bug)?.into_owned()
        }
        Some(packing) => {
            let pitch = packing.layout(1, n_cols).map_err(bug)?.pitch_bytes;
            let mut codes: Vec<u8> =
                (0..n_distinct * pitch / 4).flat_map(|_| (random.next() as u32).to_le_bytes()).collect();
            if !(n_cols * usize::from(packing.bits)).is_multiple_of(32) {
                return Err(Failure::usage(format!(
                    "--shape: {n_cols} codes of {} bits are no whole words",
                    packing.bits
                )));
            }
            if packing.bits == 8 {
                // -128 is no code of activations.
                codes.iter_mut().filter(|code| **code == 0x80).for_each(|code| *code = 0x81);
            }
            let unit = packing.scale.n_bytes() as usize;
            let most = if packing.bits == 4 { 8.0 } else { 128.0 };
            let per_row = packing.layout(1, n_cols).map_err(bug)?.n_scales;
            let mut scales: Vec<u8> = Vec::new();
            for _ in 0..n_distinct * per_row {
                let scale = packing.scale.storable((random.unit() * 0.25 + 0.75) / most, packing.bits);
                match unit {
                    2 => scales.extend_from_slice(&half::f16::from_f32(scale).to_le_bytes()),
                    _ => scales.extend_from_slice(&scale.to_le_bytes()),
                }
            }
            repeat(&mut bytes, &codes);
            repeat(&mut bytes, &scales);
            bytes.resize(n_bytes, 0);
            codes.extend_from_slice(&scales);
            codes.resize(codes.len().next_multiple_of(4), 0);
            let few = few(n_distinct, codes)?;
            dequantize(packing, n_distinct, n_cols, few.bytes().map_err(bug)?).map_err(bug)?
        }
    };
    Ok(Matrix { tensor: Tensor::from_bytes(ty.clone(), bytes).map_err(bug)?, rows, n_distinct, n_cols })
}

/// The graph of one product.
struct Product {
    graph: Graph,
    node: NodeId,
    x: ValueId,
    w: ValueId,
    sizes: [usize; 3],
}

fn product(format: Format, [m, n, k]: [usize; 3]) -> Result<Product, Failure> {
    let packed = |packing: Packing, dims: &[usize]| TensorType {
        dtype: packing.codes(),
        shape: Shape::of(dims),
        packing: Some(packing),
    };
    let w = match format.weights {
        Weights::F32 => TensorType::of(DType::F32, &[n, k]),
        Weights::F16 => TensorType::of(DType::F16, &[n, k]),
        Weights::Int { bits, granularity } => packed(Packing { bits, granularity, scale: ScaleType::F16 }, &[n, k]),
    };
    let x = match format.activations {
        Activations::F32 => TensorType::of(DType::F32, &[m, k]),
        Activations::F16 => TensorType::of(DType::F16, &[m, k]),
        Activations::I8 => packed(Packing::activation(Granularity::Row), &[m, k]),
    };
    let mut graph = Graph::new("bench", Level::Kernel);
    let (x, w) = (graph.add_input("x", x), graph.add_input("w", w));
    let op = Op::new(&matmul::DEF, matmul::attrs(true));
    let ty = graph.infer(&op, &[Some(x), Some(w)], 1).map_err(bug)?.remove(0);
    let node = Node::new("product", NodeKind::Op(op), vec![Value { name: "y".to_owned(), ty }]);
    let node = graph.insert(Node { format: Some(format), ..node }, &[Some(x), Some(w)]);
    Ok(Product { graph, node, x, w, sizes: [m, n, k] })
}

/// Bytes of one allocation that are in use.
struct Arena(u64);

impl Arena {
    fn place(&mut self, allocation: u32, bytes: u64) -> Region {
        let offset = self.0.next_multiple_of(256);
        self.0 = offset + bytes;
        Region { allocation, offset, bytes }
    }
}

/// A program that holds copies of the weights, an entry for each list of calls that runs it on one copy after the
/// other, each dispatch behind a barrier, and an entry `main` that overwrites the result.
fn program(
    product: &Product,
    (x, w): (&Matrix, &Matrix),
    calls: &[Vec<KernelCall>],
    (copies, dispatches): (u64, u64),
    info: &DeviceInfo,
) -> Result<Program, Failure> {
    let bytes = |value: ValueId| kernels::device_bytes(product.graph.ty(value)).unwrap_or(0);
    let y = product.node.out(0);
    let (mut weights, mut arena, mut params) = (Arena(256), Arena(0), Arena(256));
    let mut uploads = Vec::new();
    let mut upload = |tensor: &Tensor, region: Region| uploads.push(Upload { constant: hex(tensor.hash()), region });
    let w_regions: Vec<Region> = (0..copies).map(|_| weights.place(0, bytes(product.w))).collect();
    w_regions.iter().for_each(|region| upload(&w.tensor, *region));
    let x_region = weights.place(0, bytes(product.x));
    upload(&x.tensor, x_region);
    let y_region = arena.place(1, bytes(y));
    let y_ty = product.graph.ty(y);
    let port = Port {
        name: "y".to_owned(),
        dtype: y_ty.dtype,
        device_dtype: y_ty.dtype,
        shape: y_ty.shape.0.clone(),
        region: y_region,
    };
    let entry = |name: String, inputs, outputs, steps| Entry {
        name,
        sizes: vec![],
        inputs,
        outputs,
        steps,
        defaults: BTreeMap::new(),
        fixed: BTreeMap::new(),
    };
    let mut entries = vec![entry("main".to_owned(), vec![port.clone()], vec![], vec![])];
    let mut shaders = indexmap::IndexMap::new();
    for (i, calls) in calls.iter().enumerate() {
        let mut ready = Vec::new();
        for call in calls {
            let shader = crate::codegen::compile(&call.key, &info.target).map_err(bug)?;
            let hash = shader.hash();
            shaders.insert(hash.clone(), shader);
            ready.push((call, hash, params.place(2, call.params.len() as u64 * 4).offset));
        }
        let mut steps = Vec::new();
        for at in 0..dispatches {
            let w_region = w_regions[(at % copies) as usize];
            for (call, shader, params_offset) in &ready {
                let place = |value: ValueId| match value {
                    v if v == product.w => w_region,
                    v if v == product.x => x_region,
                    _ => y_region,
                };
                let region = |o: &kernels::Operand| {
                    let place = place(o.value);
                    Region { offset: place.offset + o.offset_bytes, bytes: o.bytes, ..place }
                };
                steps.push(Dispatch {
                    node: "product".to_owned(),
                    shader: shader.clone(),
                    bindings: call.operands.iter().map(region).collect(),
                    writes: (0u32..).zip(&call.operands).filter(|(_, o)| o.write).map(|(i, _)| i).collect(),
                    params: call.params.clone(),
                    params_offset: *params_offset,
                    groups: call.groups.clone(),
                    barrier: !steps.is_empty(),
                    loop_iterations: call.loop_iterations(),
                    check: None,
                    stripe: None,
                });
            }
        }
        entries.push(entry(format!("v{i}"), vec![], vec![port.clone()], vec![Step::Device(steps)]));
    }
    let mut allocations: Vec<Allocation> =
        [(AllocationKind::Weights, weights), (AllocationKind::Arena, arena), (AllocationKind::Params, params)]
            .map(|(kind, arena)| Allocation { kind, bytes: arena.0.next_multiple_of(4096) })
            .to_vec();
    let peak = allocations.iter().map(|a| a.bytes).sum();
    if !info.target.memory.unified {
        allocations.push(Allocation { kind: AllocationKind::Staging, bytes: 16 << 20 });
    }
    let plan = Plan {
        policy: "bench".to_owned(),
        budget_bytes: peak,
        reserve_bytes: 0,
        planned_peak_bytes: peak,
        ledger: Ledger { weights: peak, ..Ledger::default() },
        lower_bound_bytes: 0,
        min_feasible_bytes: 0,
        f32_bytes: 0,
        certificate: Certificate::default(),
        nodes: vec![],
        graph: String::new(),
        allocations,
        uploads,
        states: vec![],
        entries,
    };
    let constants = [&x.tensor, &w.tensor].into_iter().map(|t| (t.hash(), t.clone())).collect();
    Ok(Program { model: "bench".to_owned(), target: info.target.clone(), plans: vec![plan], constants, shaders })
}

/// Some elements of the result, those at its edges among them, as f64 has them.
fn wanted(x: &Matrix, w: &Matrix, [m, n, _]: [usize; 3]) -> Vec<(usize, f64)> {
    let step = (m * n / CHECKED).max(1);
    // Coprime to few sizes only: consecutive ones fall into different columns.
    let inside = (0..m * n).step_by(step | 1);
    let rows = (0..m).step_by((m / 32).max(1)).chain([m - 1]);
    let edges = rows.flat_map(|row| (0..n.min(16)).flat_map(move |i| [row * n + i, row * n + n - 1 - i]));
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    inside.chain(edges).map(|at| (at, dot(x.row(at / n), w.row(at % n)))).collect()
}

/// Relative L2 of a result against what is wanted; infinite where an element is not finite.
fn error(y: &Tensor, wanted: &[(usize, f64)]) -> Result<f64, Failure> {
    let y = y.to_f32s().map_err(bug)?;
    let (mut sum, mut norm) = (0.0, 0.0);
    for &(at, wanted) in wanted {
        let given = f64::from(y[at]);
        if !given.is_finite() {
            return Ok(f64::INFINITY);
        }
        sum += (given - wanted).powi(2);
        norm += wanted * wanted;
    }
    Ok((sum / f64::max(norm, 1e-30)).sqrt())
}

/// Times of one list of calls.
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

fn spread(mut times: Vec<f64>) -> Option<Spread> {
    times.sort_by(f64::total_cmp);
    Some(Spread { median: *times.get(times.len() / 2)?, min: *times.first()?, max: *times.last()? })
}

/// One list of calls and what was found.
struct Timed {
    names: Vec<String>,
    error: f64,
    us: Vec<f64>,
}

pub(super) fn run(args: &Args, device: DeviceChoice, json: bool) -> Result<ExitCode, Failure> {
    let [m, n, k] = args.shape[..] else { return Err(Failure::usage("--shape takes three sizes: M,N,K")) };
    if [m, n, k].contains(&0) {
        return Err(Failure::usage("--shape: a size is 0"));
    }
    let info = match device {
        DeviceChoice::Index(index) => crate::runtime::devices()?.into_iter().find(|d| d.index == index),
        _ => best_device()?,
    };
    let info = info.ok_or_else(|| Failure::device("there is no such Vulkan device"))?;
    let is_cpu = info.kind == DeviceKind::Cpu;
    let product = product(args.format, [m, n, k].map(|size| size as usize))?;
    let mut random = Random(1);
    let [rows, columns, depth] = product.sizes;
    let x = matrix(product.graph.ty(product.x), rows, depth, &mut random)?;
    let w = matrix(product.graph.ty(product.w), columns, depth, &mut random)?;
    let w_bytes = kernels::device_bytes(product.graph.ty(product.w)).unwrap_or(0).max(1);
    let io_bytes = [product.x, product.node.out(0)].map(|v| kernels::device_bytes(product.graph.ty(v)).unwrap_or(0));
    let n_bytes = w_bytes + io_bytes.iter().sum::<u64>();
    let rotated = u64::from(args.rotate.unwrap_or(if is_cpu { 8 } else { 400 })) * 1_000_000;
    let copies = rotated.div_ceil(w_bytes).clamp(1, MOST_DISPATCHES);
    // About 5 ms at 2 TB/s and 100 Tera-operations a second.
    let n_operations = 2 * m as u64 * n as u64 * k as u64;
    let ns = (n_bytes / 2000).max(n_operations / 100_000).max(1);
    let most_dispatches = if is_cpu { 1 } else { (5_000_000 / ns).clamp(8, MOST_DISPATCHES) };
    let dispatches = most_dispatches.next_multiple_of(copies);

    let mut asked: Vec<Option<Variant>> = Vec::new();
    for text in &args.variants {
        match text.as_str() {
            "all" => {
                let storage = kernels::storage(product.graph.ty(product.w));
                asked.extend(storage.into_iter().flat_map(kernels::variants).map(Some));
            }
            text => asked.push(Some(text.parse().map_err(|e| Failure::usage(format!("--variants: {text:?}: {e}")))?)),
        }
    }
    if asked.is_empty() {
        asked.push(None);
    }
    let (mut calls, mut timed): (Vec<Vec<KernelCall>>, Vec<Timed>) = (Vec::new(), Vec::new());
    for variant in asked {
        let list = kernels::dispatches_as(&product.graph, product.node, &info.target, variant).map_err(bug)?;
        let names: Vec<String> = list.iter().map(|call| call.key.name()).collect();
        // Where a variant does not suit, the planner falls back: once is enough.
        if timed.iter().all(|other| other.names != names) {
            calls.push(list);
            timed.push(Timed { names, error: 0.0, us: Vec::new() });
        }
    }
    let program = program(&product, (&x, &w), &calls, (copies, dispatches), &info)?;
    let context = VkContext::open(info.index, &info.target.features, &Options::from_env())?;
    let mut executor = Executor::load(&program, 0, &context)?;
    let none = |_: &str, _: &[Option<Tensor>], _: &crate::program::Sizes| Err(HostError::Other("no host".to_owned()));
    let y_ty = product.graph.ty(product.node.out(0));
    let poison = Tensor::from_f32s(y_ty.dtype, &[rows, columns], &vec![f32::NAN; rows * columns]).map_err(bug)?;
    let wanted = wanted(&x, &w, product.sizes);
    for (i, one) in timed.iter_mut().enumerate() {
        executor.run_entry("main", std::slice::from_ref(&poison), &none)?;
        let y = executor.run_entry(&format!("v{i}"), &[], &none)?.outputs.remove(0);
        one.error = error(&y, &wanted)?;
    }
    let load = Duration::try_from_secs_f64(args.load.unwrap_or(if is_cpu { 0.0 } else { 1.0 }))
        .map_err(|e| Failure::usage(format!("--load: {e}")))?;
    let start = Instant::now();
    while start.elapsed() < load {
        executor.run_entry("v0", &[], &none)?;
    }
    // Samples of all variants in turn: a clock that moves moves them all. What is far behind after the first is left
    // out.
    for sample in 0..=args.samples {
        let best = timed.iter().filter_map(|one| one.us.first().copied()).fold(f64::INFINITY, f64::min);
        for (i, one) in timed.iter_mut().enumerate() {
            if one.us.first().is_some_and(|us| *us > best * FAR_BEHIND) {
                continue;
            }
            let ran = executor.run_entry(&format!("v{i}"), &[], &none)?;
            // The first round warms up, all variants alike.
            if let Some(ms) = ran.device_ms.filter(|_| sample > 0) {
                one.us.push(ms * 1e3 / dispatches as f64);
            }
        }
    }
    let ceiling = args.ceiling.or(info.target.rates.as_ref().map(|rates| rates.copy_bytes_per_s / 1e9));
    let most = match (args.format.activations, args.format.has_int_weights()) {
        (Activations::F16, true) => 2e-3,
        _ if y_ty.dtype == DType::F16 => 2e-3,
        _ => 1e-5,
    };
    report(args, json, &info, (n_bytes, n_operations, copies, dispatches), ceiling, most, timed)
}

fn report(
    args: &Args,
    json: bool,
    info: &DeviceInfo,
    (n_bytes, n_operations, copies, dispatches): (u64, u64, u64, u64),
    ceiling: Option<f64>,
    most_error: f64,
    timed: Vec<Timed>,
) -> Result<ExitCode, Failure> {
    let mut rows: Vec<(Timed, Option<Spread>)> = Vec::new();
    for mut one in timed {
        let times = spread(std::mem::take(&mut one.us));
        rows.push((one, times));
    }
    let median = |s: &Option<Spread>| s.as_ref().map_or(f64::INFINITY, |s| s.median);
    rows.sort_by(|a, b| median(&a.1).total_cmp(&median(&b.1)));
    let rate = |s: &Spread| n_bytes as f64 / s.median / 1e3;
    let operations = |s: &Spread| n_operations as f64 / s.median / 1e6;
    let is_right = rows.iter().all(|(one, _)| one.error <= most_error);
    let text = if json {
        let variants: Vec<Json> = rows
            .iter()
            .map(|(one, s)| {
                json!({
                    "kernels": one.names, "relative_error": one.error, "right": one.error <= most_error,
                    "us": s.as_ref().map(|s| json!({"median": s.median, "min": s.min, "max": s.max})),
                    "gb_per_s": s.as_ref().map(rate), "tera_operations_per_s": s.as_ref().map(operations),
                    "percent": s.as_ref().and_then(|s| Some(100.0 * rate(s) / ceiling?)),
                })
            })
            .collect();
        format!(
            "{:#}\n",
            json!({
                "kernel": "matmul", "format": args.format.to_string(), "shape": args.shape, "device": info.name,
                "driver": info.driver, "bytes": n_bytes, "copies": copies, "dispatches": dispatches,
                "samples": args.samples, "ceiling_gb_per_s": ceiling, "variants": variants,
            })
        )
    } else {
        let shape: Vec<String> = args.shape.iter().map(u32::to_string).collect();
        let mut text = format!(
            "matmul {} {} on {} ({}): {n_bytes} bytes, {copies} copies, {dispatches} dispatches, {} samples\n",
            args.format,
            shape.join("x"),
            info.name,
            info.driver,
            args.samples
        );
        for (one, s) in &rows {
            let time = s.as_ref().map_or("  no timestamps".to_owned(), |s| {
                let percent = ceiling.map_or(String::new(), |c| format!(" {:3.0} %", 100.0 * rate(s) / c));
                let rates = format!("{:7.0} GB/s{percent} {:6.1} T/s", rate(s), operations(s));
                format!("{:9.2} us (min {:.2}, max {:.2}) {rates}", s.median, s.min, s.max)
            });
            let wrong = if one.error <= most_error { "" } else { " WRONG" };
            text += &format!("{time}  error {:.1e}{wrong}  {}\n", one.error, one.names.join(" + "));
        }
        text
    };
    write::stdout(&text)?;
    if is_right { Ok(ExitCode::SUCCESS) } else { Ok(ExitCode::from(EXIT_DIFFERENT)) }
}
