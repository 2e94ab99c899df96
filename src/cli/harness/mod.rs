//! Kernels alone on a device: their operands, what their results should be, and their times, each dispatch behind the
//! one before in one command buffer. `nyxc bench --kernel` and `nyxc tune` share it.

pub(super) mod data;
mod reference;
pub(super) mod subject;

use super::Failure;
use crate::codegen;
use crate::ir::{DType, Dim, Shape, Tensor, TensorType, ValueId};
use crate::kernels::{self, KernelCall};
use crate::program::{
    Allocation, AllocationKind, Dispatch, Entry, Ledger, Plan, Port, Program, Region, Step, Upload, hex,
};
use crate::runtime::{DeviceInfo, Executor, HostError, RuntimeError, VkContext};
use crate::session::{DeviceChoice, best_device};
use crate::targets::Target;
use data::{Data, Random};
use rayon::prelude::*;
use reference::Wanted;
use std::collections::BTreeMap;
use std::path::Path;
use subject::{Built, Subject};

/// Most copies of what is read in turn: small weights come from caches, as those of a model do.
const MOST_COPIES: u64 = 64;
/// Fewest dispatches of a sample on a GPU.
const FEWEST_DISPATCHES: u64 = 8;

pub(super) fn bug(e: impl std::fmt::Display) -> Failure {
    Failure::file(e)
}

/// The device that `--device` means.
pub(super) fn device(choice: DeviceChoice) -> Result<DeviceInfo, Failure> {
    let found = match choice {
        DeviceChoice::Index(index) => crate::runtime::devices()?.into_iter().find(|d| d.index == index),
        _ => best_device()?,
    };
    found.ok_or_else(|| Failure::device("there is no such Vulkan device"))
}

/// How samples are taken.
#[derive(Clone, Copy)]
pub(super) struct Sampling {
    /// Copies of the weights are read in turn until so many bytes were.
    pub(super) rotated_bytes: u64,
    /// About how long a sample takes, in nanoseconds, at 2 TB/s and 100 Tera-operations a second.
    pub(super) ns: u64,
    /// Most dispatches of a sample: 1 on a CPU.
    pub(super) most: u64,
}

/// A subject with its operands and the programs that compute it, each a list of calls.
pub(super) struct Prepared {
    pub(super) built: Built,
    pub(super) program: Program,
    wanted: Wanted,
    poison: Tensor,
    /// Bytes read and written, each once.
    pub(super) n_bytes: u64,
    pub(super) copies: u64,
    pub(super) dispatches: u64,
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

/// Every way to compute a subject by the calls of its nodes: `by` gives those of the last, or of a node before it.
pub(super) fn calls(built: &Built, target: &Target, way: Option<kernels::Way>) -> Result<Vec<KernelCall>, Failure> {
    let of_nodes = built.nodes.iter().map(|node| kernels::dispatches_by(&built.graph, *node, target, way));
    Ok(of_nodes.collect::<Result<Vec<_>, _>>().map_err(bug)?.concat())
}

impl Prepared {
    /// A program with an entry `v0`, `v1`, ... for each list of calls, and an entry `main` that overwrites the result.
    ///
    /// # Errors
    /// The subject is none, or a shader does not compile.
    pub(super) fn new(
        subject: &Subject,
        built: Built,
        calls: &[Vec<KernelCall>],
        target: &Target,
        sampling: Sampling,
        shaders: Option<&Path>,
    ) -> Result<Prepared, Failure> {
        let mut random = Random(1);
        let mut data: BTreeMap<ValueId, Data> = BTreeMap::new();
        for value in &built.operands {
            let ty = built.graph.ty(*value);
            let n_cols = ty.shape.0.last().and_then(Dim::known).and_then(|n| usize::try_from(n).ok()).unwrap_or(1);
            data.insert(*value, Data::random(ty, n_cols, &mut random)?);
        }
        let wanted = Wanted::of(&built, &data)?;
        let bytes = |value: ValueId| kernels::device_bytes(built.graph.ty(value)).unwrap_or(0);
        let result = built.result()?;
        let n_bytes: u64 = built.operands.iter().chain([&result]).map(|v| bytes(*v)).sum();
        let rotated: u64 = built.rotated.iter().map(|v| bytes(*v)).sum();
        let copies = sampling.rotated_bytes.checked_div(rotated).map_or(1, |copies| copies.clamp(1, MOST_COPIES));
        let ns = (n_bytes / 2000).max(built.n_operations / 100_000).max(2_000);
        let dispatches = (sampling.ns / ns).max(FEWEST_DISPATCHES).min(sampling.most);
        // Each copy as often as the others, where there is time for all.
        let dispatches = if dispatches < copies { dispatches } else { dispatches / copies * copies };
        let program = program(subject, &built, &data, calls, (copies, dispatches), target, shaders)?;
        let ty = built.graph.ty(result);
        let poison = poison(ty, bytes(result))?;
        Ok(Prepared { built, program, wanted, poison, n_bytes, copies, dispatches })
    }

    /// # Errors
    /// The device fails.
    pub(super) fn load(&self, context: &VkContext) -> Result<Executor, RuntimeError> {
        Executor::load(&self.program, 0, context)
    }

    /// The largest relative L2 that is right.
    pub(super) fn bound(&self) -> f64 {
        self.wanted.bound
    }

    /// Relative L2 of what entry number `i` makes of a result that is not a number.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn error(&self, executor: &mut Executor, i: usize) -> Result<f64, Failure> {
        executor.run_entry("main", std::slice::from_ref(&self.poison), &no_host)?;
        let y = executor.run_entry(&format!("v{i}"), &[], &no_host)?.outputs.remove(0);
        self.wanted.error(&y, self.built.graph.ty(self.built.result()?))
    }

    /// Microseconds of one dispatch of entry number `i`; `None` where the queue has no timestamps.
    ///
    /// # Errors
    /// The device fails.
    pub(super) fn sample(&self, executor: &mut Executor, i: usize) -> Result<Option<f64>, Failure> {
        let ran = executor.run_entry(&format!("t{i}"), &[], &no_host)?;
        Ok(ran.device_ms.map(|ms| ms * 1e3 / self.dispatches as f64))
    }
}

fn no_host(_: &str, _: &[Option<Tensor>], _: &crate::program::Sizes) -> Result<Vec<Tensor>, HostError> {
    Err(HostError::Other("no host".to_owned()))
}

/// How a result of this type is given: packed ones as the words that they are.
fn port_type(ty: &TensorType, bytes: u64) -> TensorType {
    let words = i64::try_from(bytes / 4).unwrap_or(i64::MAX);
    if ty.packing.is_some() { TensorType::new(DType::I32, Shape(vec![Dim::Known(words)])) } else { ty.clone() }
}

/// A result that no kernel makes.
fn poison(ty: &TensorType, bytes: u64) -> Result<Tensor, Failure> {
    let port = port_type(ty, bytes);
    let n = port.shape.n_elems().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
    let dims: Vec<usize> = port.shape.0.iter().filter_map(|d| usize::try_from(d.known()?).ok()).collect();
    let made = if port.dtype.is_float() {
        Tensor::from_f32s(port.dtype, &dims, &vec![f32::NAN; n])
    } else {
        Tensor::from_i64s(port.dtype, &dims, &vec![-1; n])
    };
    made.map_err(bug)
}

fn program(
    subject: &Subject,
    built: &Built,
    data: &BTreeMap<ValueId, Data>,
    calls: &[Vec<KernelCall>],
    (copies, dispatches): (u64, u64),
    target: &Target,
    folder: Option<&Path>,
) -> Result<Program, Failure> {
    let bytes = |value: ValueId| kernels::device_bytes(built.graph.ty(value)).unwrap_or(0);
    let (mut weights, mut arena, mut params) = (Arena(256), Arena(0), Arena(256));
    let mut uploads = Vec::new();
    let mut places: BTreeMap<ValueId, Vec<Region>> = BTreeMap::new();
    for (value, data) in data {
        let n = if built.rotated.contains(value) { copies } else { 1 };
        for _ in 0..n {
            let region = weights.place(0, bytes(*value));
            uploads.push(Upload { constant: hex(data.tensor.hash()), region });
            places.entry(*value).or_default().push(region);
        }
    }
    for node in &built.nodes {
        places.insert(node.out(0), vec![arena.place(1, bytes(node.out(0)))]);
    }
    let y = built.result()?;
    let y_ty = port_type(built.graph.ty(y), bytes(y));
    let y_region = places.get(&y).and_then(|r| r.first()).copied().ok_or_else(|| bug("a result without place"))?;
    let port = Port {
        name: "y".to_owned(),
        dtype: y_ty.dtype,
        device_dtype: y_ty.dtype,
        shape: y_ty.shape.0.clone(),
        region: y_region,
    };
    let entry = |name: String, inputs, outputs, steps| Entry { name, inputs, outputs, steps, ..Entry::default() };
    let mut entries = vec![entry("main".to_owned(), vec![port.clone()], vec![], vec![])];
    let keys: Vec<_> = calls.iter().flatten().map(|call| &call.key).collect();
    let compiled: Vec<_> = keys
        .par_iter()
        .map(|key| codegen::compile_in(key, target, folder).map_err(|e| Failure::file(e.to_string())))
        .collect::<Result<_, _>>()?;
    let mut compiled = compiled.into_iter();
    let mut shaders = indexmap::IndexMap::new();
    for (i, calls) in calls.iter().enumerate() {
        let mut ready = Vec::new();
        for call in calls {
            let shader = compiled.next().ok_or_else(|| bug("a call without shader"))?;
            let hash = shader.hash();
            shaders.insert(hash.clone(), shader);
            ready.push((call, hash, params.place(2, call.params.len() as u64 * 4).offset));
        }
        let steps = |n: u64| -> Result<Vec<Dispatch>, Failure> {
            let mut steps = Vec::new();
            for at in 0..n {
                for (call, shader, params_offset) in &ready {
                    let region = |o: &kernels::Operand| {
                        let regions = places.get(&o.value).filter(|r| !r.is_empty());
                        let regions = regions.ok_or_else(|| bug("an operand without place"))?;
                        let place = regions[(at % regions.len() as u64) as usize];
                        Ok(Region { offset: place.offset + o.offset_bytes, bytes: o.bytes, ..place })
                    };
                    steps.push(Dispatch {
                        node: subject.kernel.clone(),
                        shader: shader.clone(),
                        bindings: call.operands.iter().map(region).collect::<Result<_, Failure>>()?,
                        writes: (0u32..).zip(&call.operands).filter(|(_, o)| o.write).map(|(i, _)| i).collect(),
                        params: call.params.clone(),
                        params_offset: *params_offset,
                        groups: call.groups.clone(),
                        barrier: !steps.is_empty(),
                        loop_iterations: call.loop_iterations(),
                        check: None,
                        result_slice: None,
                    });
                }
            }
            Ok(steps)
        };
        // Once, with the result; and many times, without.
        entries.push(entry(format!("v{i}"), vec![], vec![port.clone()], vec![Step::Device(steps(1)?)]));
        entries.push(entry(format!("t{i}"), vec![], vec![], vec![Step::Device(steps(dispatches)?)]));
    }
    let mut allocations: Vec<Allocation> =
        [(AllocationKind::Weights, weights), (AllocationKind::Arena, arena), (AllocationKind::Params, params)]
            .map(|(kind, arena)| Allocation { kind, bytes: arena.0.next_multiple_of(4096) })
            .to_vec();
    let peak = allocations.iter().map(|a| a.bytes).sum();
    if !target.memory.unified {
        allocations.push(Allocation { kind: AllocationKind::Staging, bytes: 16 << 20 });
    }
    let plan = Plan {
        policy: "bench".to_owned(),
        budget_bytes: peak,
        planned_peak_bytes: peak,
        ledger: Ledger { weights: peak, ..Ledger::default() },
        allocations,
        uploads,
        entries,
        ..Plan::default()
    };
    let constants = data.values().map(|d| (d.tensor.hash(), d.tensor.clone())).collect();
    Ok(Program { model: "bench".to_owned(), target: target.clone(), plans: vec![plan], constants, shaders })
}

/// Times of one list of calls.
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

/// `None` of no times.
pub(super) fn spread(times: &[f64]) -> Option<Spread> {
    let mut times = times.to_vec();
    times.sort_by(f64::total_cmp);
    Some(Spread { median: *times.get(times.len() / 2)?, min: *times.first()?, max: *times.last()? })
}
