//! Properties that hold for every graph, on random ones: after each pass the graph is well formed, reads back from its
//! text and computes what its formats say; the program's memory is sound and within its budget; what is refused does
//! not fit; and devices compute what the CPU reference does. A failure prints its seed and the smallest graph found
//! that still fails.
//!
//! ```text
//! cargo test --test properties                                            2,000 graphs, 200 of them on devices
//! NYXC_SEEDS=1000..51000 cargo test --test properties -- --ignored many      50,000 of them, or as many as named
//! NYXC_SEEDS=123..124 cargo test --test properties -- --ignored many         one of them again
//! NYXC_MUTATIONS=10000 cargo test --test properties -- --ignored mutations   changes that `diff` must see
//! ```

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

mod budget;
mod check;
mod generate;
#[path = "../common/hazards.rs"]
mod hazards;
mod layers;
mod movement;
mod mutate;
mod oracle;
mod plan;
mod pointwise;
mod quantized;
mod random;
mod ranges;
mod simulate;
mod spec;
mod states;

use check::Tally;
use nyxc::ir::{DType, Tensor};
use nyxc::runtime::{Options, VkContext, devices};
use std::io::Write as _;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Straight to the terminal: the test harness swallows `eprintln!`.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// What is wrong with a graph, a panic included.
fn outcome(spec: &spec::Spec, seed: u64, contexts: &[VkContext]) -> Result<Tally, String> {
    catch_unwind(AssertUnwindSafe(|| check::check(spec, seed, contexts))).unwrap_or_else(|cause| Err(panicked(&*cause)))
}

fn panicked(cause: &(dyn std::any::Any + Send)) -> String {
    let text =
        cause.downcast_ref::<String>().cloned().or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()));
    format!("panicked: {}", text.unwrap_or_default())
}

/// The kind of a fault: what stands before its numbers.
fn kind(fault: &str) -> String {
    let head = fault.lines().next().unwrap_or_default();
    let at = head.find("after pass").or_else(|| head.find(": ").map(|at| at + 2)).unwrap_or(0);
    head[at..].chars().filter(|c| !c.is_ascii_digit()).take(24).collect()
}

/// One seed: what it was, or the smallest graph that fails in the same way.
fn one(seed: u64, contexts: &[VkContext]) -> Result<Tally, String> {
    let spec = catch_unwind(|| generate::generate(seed))
        .map_err(|cause| format!("seed {seed}: while it was made: {}", panicked(&*cause)))?;
    outcome(&spec, seed, contexts).map_err(|fault| {
        let first = kind(&fault);
        let small =
            spec::shrink(&spec, &mut |spec| outcome(spec, seed, contexts).is_err_and(|fault| kind(&fault) == first));
        let last = outcome(&small, seed, contexts).err().unwrap_or_default();
        format!(
            "seed {seed}: {fault}\nsmallest of {} nodes: {last}\n{}",
            small.n_nodes(),
            check::built(&small, seed).0.graph
        )
    })
}

/// Every Vulkan device here.
fn every_device() -> Vec<VkContext> {
    let contexts: Vec<VkContext> = devices()
        .unwrap_or_default()
        .iter()
        .map(|d| VkContext::open(d.index, &d.target.features, &Options::from_env()).unwrap())
        .collect();
    if contexts.is_empty() {
        say("SKIPPED: no Vulkan device, so programs ran on the CPU reference alone\n");
    }
    contexts
}

/// Graphs that keep some of their values between runs.
#[test]
fn random_graphs_keep_their_states() {
    let contexts = every_device();
    let mut n = 0;
    for seed in 0..60 {
        let spec = generate::generate(seed);
        let outcome = catch_unwind(AssertUnwindSafe(|| states::check(&spec, seed, &contexts)));
        match outcome.unwrap_or_else(|cause| Err(panicked(&*cause))) {
            Ok(sessions) => n += sessions,
            Err(fault) => panic!("seed {seed}: {fault}"),
        }
    }
    assert!(n > 60, "{n} sessions");
}

/// All seeds, on as many threads as there are cores; panics with every failure.
fn run(seeds: Range<u64>, contexts: &[VkContext]) -> Tally {
    // Panics are failures with a seed, reported below.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let (next, total, failures) = (AtomicU64::new(seeds.start), Mutex::new(Tally::default()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end || failures.lock().unwrap().len() >= 20 {
                        break;
                    }
                    match one(seed, contexts) {
                        Ok(tally) => total.lock().unwrap().add(&tally),
                        Err(fault) => {
                            // At once as well: a long run may be ended from outside.
                            say(&format!("{}\n", fault.lines().next().unwrap_or_default()));
                            failures.lock().unwrap().push(fault);
                        }
                    }
                    if seed % 1000 == 999 {
                        say(&format!(
                            "{} graphs, {} failures\n",
                            seed + 1 - seeds.start,
                            failures.lock().unwrap().len()
                        ));
                    }
                }
            });
        }
    });
    std::panic::set_hook(hook);
    let (total, failures) = (total.into_inner().unwrap(), failures.into_inner().unwrap());
    println!("{total:?}");
    assert!(
        failures.is_empty(),
        "{} of {} graphs failed:\n\n{}",
        failures.len(),
        seeds.end - seeds.start,
        failures.join("\n\n")
    );
    // Each ran on a device, but for programs that need what the device lacks, such as cooperative matrices.
    let (n, ran) = (seeds.end - seeds.start, total.device_runs as u64);
    assert!(contexts.is_empty() || ran + total.beyond as u64 >= n && ran * 100 >= n * 97, "{total:?}");
    total
}

/// Operators of the core that graphs need not have: `iota` stands for positions at sizes that change, which
/// tests/ranges has; `state_store` stands where states are stored, which `random_graphs_keep_their_states` draws;
/// `random` has no expected result; the bits, the choices of boxes and taps, and the counts of words
/// change by leaps with the last bit of what they read, and run on the host alone, where the standard's node tests hold
/// them.
const NOT_DRAWN: &[&str] = &[
    "iota",
    "bit_cast",
    "non_max_suppression",
    "grid_sample",
    "roi_align",
    "deform_conv",
    "col2im",
    "pool_indices",
    "tf_idf_vectorizer",
    "random",
    "state_store",
];

/// That the checks mean something: enough outputs had a tight bound, and enough budgets were refused.
fn meant_something(total: &Tally) {
    assert!(
        total.wide * 3 >= total.graphs && total.far * 5 >= total.graphs && total.conversions * 2 >= total.graphs,
        "too few wide integers, large or tiny floats, or conversions: {total:?}"
    );
    assert!(total.three_ways * 100 >= total.nodes * 85, "too few nodes were compared three ways: {total:?}");
    for (i, least) in [(0, 85), (1, 50)] {
        assert!(total.sharp[i] * 100 >= total.outputs[i] * least, "too few outputs had a tight bound: {total:?}");
    }
    assert!(
        total.ranged * 6 >= total.graphs
            && total.sizes >= total.ranged
            && (total.device_runs == 0 || total.alone * 8 >= total.ranged),
        "{total:?}"
    );
    assert!(
        total.nodes >= 8 * total.graphs && total.passes >= 4 * total.graphs && total.over_budget * 50 >= total.graphs,
        "{total:?}"
    );
}

/// That every operator of the core was drawn.
fn drew_everything(total: &Tally) {
    let (core, drawn) =
        (nyxc::ops::registry(), |name: &str| total.operators.contains(name) || NOT_DRAWN.contains(&name));
    let missed: Vec<&str> = core
        .iter()
        .filter(|def| def.levels & nyxc::ir::CORE != 0)
        .map(|def| def.name)
        .filter(|name| !drawn(name))
        .collect();
    assert!(missed.is_empty(), "operators of the core that no graph had: {missed:?}");
}

#[test]
fn two_hundred_graphs_keep_every_property_on_devices() {
    let total = run(0..200, &every_device());
    meant_something(&total);
    drew_everything(&total);
}

/// Most of the time of a graph goes into the drivers: these have none.
#[test]
fn eighteen_hundred_graphs_keep_every_property_on_the_cpu() {
    meant_something(&run(200..2000, &[]));
}

/// `cargo test --test properties -- --ignored many`; `NYXC_SEEDS=FROM..TO` names others than 1000..51000.
#[test]
#[ignore = "hours: make soak"]
fn many_graphs_keep_every_property() {
    let named = std::env::var("NYXC_SEEDS").ok();
    let seeds = named
        .as_deref()
        .and_then(|text| text.split_once(".."))
        .map_or(1000..51_000, |(a, b)| a.parse().unwrap()..b.parse().unwrap());
    let total = run(seeds, &every_device());
    say(&format!("{total:?}\n"));
    if total.graphs >= 200 {
        meant_something(&total);
    }
    if total.graphs >= 5000 {
        drew_everything(&total);
    }
}

/// Forecasts of all seeds held to what is built, on as many threads as there are cores.
fn forecasts(seeds: Range<u64>) {
    let (next, failures, n) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                break;
            }
            match catch_unwind(|| budget::check(seed)).unwrap_or_else(|cause| Err(panicked(&*cause))) {
                Ok(budgets) => _ = n.fetch_add(budgets as u64, Ordering::Relaxed),
                Err(fault) => failures.lock().unwrap().push(format!("seed {seed}: {fault}")),
            }
        }
    };
    std::thread::scope(|scope| {
        (0..std::thread::available_parallelism().map_or(2, usize::from)).for_each(|_| _ = scope.spawn(work));
    });
    let (failures, n) = (failures.into_inner().unwrap(), n.into_inner());
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert!(n > seeds.end - seeds.start, "{n} budgets");
}

#[test]
fn hundreds_of_forecasts_are_what_is_built() {
    forecasts(0..200);
}

#[test]
fn forecasts_of_models_are_what_is_built() {
    assert_eq!(budget::models().unwrap(), 12);
}

/// `cargo test --test properties -- --ignored forecasts`; `NYXC_SEEDS=FROM..TO` names others than 1000..6000.
#[test]
#[ignore = "minutes"]
fn five_thousand_forecasts_are_what_is_built() {
    let named = std::env::var("NYXC_SEEDS").ok();
    let named = named.as_deref().and_then(|text| text.split_once(".."));
    forecasts(named.map_or(1000..6000, |(a, b)| a.parse().unwrap()..b.parse().unwrap()));
}

/// Any one change of a graph or a program is a difference, and no graph differs from itself.
#[test]
fn diff_sees_six_hundred_mutations() {
    let seen = mutate::graphs(500, 0);
    assert!(seen.len() >= 24, "{seen:?}");
    mutate::programs(100, 0);
}

/// `NYXC_MUTATIONS` names how many; four in five are of graphs.
#[test]
#[ignore = "minutes"]
fn diff_sees_ten_thousand_mutations() {
    let n = std::env::var("NYXC_MUTATIONS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000usize);
    let seen = mutate::graphs(n * 4 / 5, 100_000);
    say(&format!("{seen:?}\n"));
    mutate::programs(n - n * 4 / 5, 100_000);
    say(&format!("{n} of {n} changes seen\n"));
}

/// A program that has several values at once, with the kernels that it was made of.
fn sample() -> nyxc::session::Compiled {
    let text = "graph g onnx
  %x = input : f32[3,40]
  %w = const [0.5,-1.0,0.25,0.75] : f32[4,1]
  %a = exp(%x) : f32[3,40]
  %p = transpose(%a) {perm=[1,0]} : f32[40,3]
  %q = softmax(%p) {axis=0} : f32[40,3]
  %t = transpose(%q) {perm=[1,0]} : f32[3,40]
  %s = reduce_sum(%a) {keepdims=0} : f32[]
  %y = add(%t, %s) : f32[3,40]
  output %y
";
    let graph = nyxc::ir::text::parse(text, &nyxc::ops::registry(), &|_, _| None).unwrap();
    let target = nyxc::targets::Target::shipped("lavapipe").unwrap();
    let settings = nyxc::passes::Settings { policy: "uniform:f32".parse().unwrap(), ..Default::default() };
    let options = nyxc::session::Compile { settings, target, n_threads: 1 };
    nyxc::session::compile(&graph, &options, &|_, _, _| {}, None).unwrap()
}

/// Every change of a plan that would spoil a value is noticed: a buffer moved onto another that is alive, and a barrier
/// that is missing.
#[test]
fn the_check_of_plans_notices_what_is_wrong() {
    use nyxc::program::Step;
    let compiled = sample();
    let (plan, kernels) = (&compiled.program.plans[0], &compiled.kernels);
    plan::check(plan, kernels, true).unwrap();
    let n =
        plan.entries[0].steps.iter().map(|s| if let Step::Device(list) = s { list.len() } else { 0 }).sum::<usize>();
    let n_barriers = plan.entries[0]
        .steps
        .iter()
        .flat_map(|s| if let Step::Device(list) = s { list.as_slice() } else { &[] })
        .filter(|d| d.barrier)
        .count();
    assert!(n >= 4 && n_barriers >= 3, "{n} dispatches, {n_barriers} barriers");
    for at in 0..n {
        let changed = |change: &dyn Fn(&mut nyxc::program::Dispatch)| {
            let mut plan = plan.clone();
            let steps = plan.entries[0]
                .steps
                .iter_mut()
                .flat_map(|s| if let Step::Device(list) = s { list.as_mut_slice() } else { &mut [] });
            steps.skip(at).take(1).for_each(change);
            plan::check(&plan, kernels, true)
        };
        let dispatches: Vec<_> = plan.entries[0]
            .steps
            .iter()
            .flat_map(|s| if let Step::Device(list) = s { list.as_slice() } else { &[] })
            .collect();
        if dispatches[at].barrier {
            changed(&|d| d.barrier = false).unwrap_err();
        }
        // The result over an operand, and somewhere that nobody reads.
        let operand = dispatches[at].bindings[0];
        changed(&|d| d.writes.iter().for_each(|&w| d.bindings[w as usize] = operand)).unwrap_err();
        changed(&|d| d.writes.iter().for_each(|&w| d.bindings[w as usize].offset += 1 << 20)).unwrap_err();
        changed(&|d| d.writes.iter().for_each(|&w| d.bindings[w as usize].bytes /= 2)).unwrap_err();
    }
    let mut over = plan.clone();
    over.budget_bytes = over.planned_peak_bytes - 1;
    plan::check(&over, kernels, true).unwrap_err();
}

/// The element of a tensor that the check is most likely to know, made wrong: the largest float off by a thousandth in
/// f32 or by a twentieth in f16, a truth value inverted, another integer one more. None where no element is wrong
/// then.
fn made_wrong(tensor: &Tensor, at: usize) -> Option<Tensor> {
    let dims = tensor.dims();
    if tensor.dtype().is_float() {
        let factor = if tensor.dtype() == DType::F32 { 1.001 } else { 1.05 };
        let mut values = tensor.to_f32s().unwrap().to_vec();
        let largest = (0..values.len())
            .max_by(|&a, &b| values[a].abs().total_cmp(&values[b].abs()))
            .filter(|&i| values[i].abs() > 1e-3)?;
        values[largest] *= factor;
        return Some(Tensor::from_f32s(tensor.dtype(), &dims, &values).unwrap());
    }
    let mut values = tensor.to_i64s().unwrap();
    let n = values.len();
    let element = values.get_mut(at % n.max(1))?;
    *element = if tensor.dtype() == DType::Bool { 1 - *element } else { element.checked_add(1)? };
    Tensor::from_i64s(tensor.dtype(), &dims, &values).ok()
}

/// One wrong element is noticed in nearly every output: a float that is off, a truth value inverted, an integer
/// that is one more.
#[test]
fn the_check_of_results_notices_what_is_wrong() {
    // By class: outputs made wrong, and those noticed.
    // Outputs with floats that f16 does not hold are a class of their own, so that they too are many.
    let mut tallies = [
        ("floats", 100, 93, 0, 0),
        ("truth values", 25, 85, 0, 0),
        ("integers", 25, 95, 0, 0),
        ("floats of a wide range", 25, 92, 0, 0),
    ];
    for seed in 0..400 {
        let spec = generate::generate(seed);
        let (graph, inputs) = (spec.graph(), spec.inputs());
        let mut expected = simulate::Expected::of(&graph, &inputs, seed).unwrap();
        let right = expected.outputs.clone();
        expected.check(&graph, &inputs, &right, seed).unwrap();
        for at in 0..right.len() {
            let class = match right[at].dtype() {
                DType::Bool => 1,
                dtype if dtype.is_float() => {
                    let is_usual = |v: &f32| *v == 0.0 || (1e-8..=65504.0).contains(&v.abs());
                    if right[at].to_f32s().is_ok_and(|values| values.iter().all(is_usual)) { 0 } else { 3 }
                }
                _ => 2,
            };
            let Some(element) = made_wrong(&right[at], seed as usize) else { continue };
            let mut wrong = right.clone();
            wrong[at] = element;
            tallies[class].3 += 1;
            tallies[class].4 += usize::from(expected.check(&graph, &inputs, &wrong, seed).is_err());
        }
    }
    println!("{tallies:?}");
    for (class, least, percent, n, n_noticed) in tallies {
        assert!(n >= least && n_noticed * 100 >= n * percent, "{class}: {n_noticed} of {n} noticed");
    }
}
