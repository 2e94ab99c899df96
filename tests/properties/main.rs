//! Properties that hold for every graph, on random ones: after each pass the graph is well formed, reads back from its text and computes what its
//! formats say; the program's memory is sound and within its budget; what is refused does not fit; and devices compute what the CPU reference
//! does. A failure prints its seed and the smallest graph found that still fails.
//!
//! ```text
//! cargo test --test properties                                                          200 graphs
//! NYXC_SEEDS=1000..51000 cargo test --test properties -- --ignored many                 50,000 of them, or as many as are named
//! NYXC_SEEDS=123..124 cargo test --test properties -- --ignored many                    one of them again
//! ```

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod check;
mod generate;
mod layers;
mod movement;
mod plan;
mod pointwise;
mod random;
mod simulate;
mod spec;

use check::Tally;
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
    let text = cause.downcast_ref::<String>().cloned().or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()));
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
    let spec = catch_unwind(|| generate::generate(seed)).map_err(|cause| format!("seed {seed}: while it was made: {}", panicked(&*cause)))?;
    outcome(&spec, seed, contexts).map_err(|fault| {
        let first = kind(&fault);
        let small = spec::shrink(&spec, &mut |spec| outcome(spec, seed, contexts).is_err_and(|fault| kind(&fault) == first));
        let last = outcome(&small, seed, contexts).err().unwrap_or_default();
        format!("seed {seed}: {fault}\nsmallest of {} nodes: {last}\n{}", small.n_nodes(), small.graph())
    })
}

/// All seeds, on as many threads as there are cores; panics with every failure.
fn run(seeds: Range<u64>) -> Tally {
    let contexts: Vec<VkContext> =
        devices().unwrap_or_default().iter().map(|d| VkContext::open(d.index, &d.target.features, &Options::default()).unwrap()).collect();
    if contexts.is_empty() {
        say("SKIPPED: no Vulkan device, so programs ran on the CPU reference alone\n");
    }
    // Failures are told with their seeds below, not as they happen.
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
                    match one(seed, &contexts) {
                        Ok(tally) => total.lock().unwrap().add(&tally),
                        Err(fault) => failures.lock().unwrap().push(fault),
                    }
                    if seed % 1000 == 999 {
                        say(&format!("{} graphs, {} failures\n", seed + 1 - seeds.start, failures.lock().unwrap().len()));
                    }
                }
            });
        }
    });
    std::panic::set_hook(hook);
    let (total, failures) = (total.into_inner().unwrap(), failures.into_inner().unwrap());
    println!("{total:?}");
    assert!(failures.is_empty(), "{} of {} graphs failed:\n\n{}", failures.len(), seeds.end - seeds.start, failures.join("\n\n"));
    assert!(contexts.is_empty() || total.device_runs as u64 >= seeds.end - seeds.start, "{total:?}");
    total
}

/// That the checks mean something: enough outputs had a tight bound, and enough budgets were refused.
fn meant_something(total: &Tally) {
    for (i, least) in [(0, 85), (1, 50)] {
        assert!(total.sharp[i] * 100 >= total.outputs[i] * least, "too few outputs had a tight bound: {total:?}");
    }
    assert!(total.nodes >= 8 * total.graphs && total.passes >= 4 * total.graphs && total.over_budget * 50 >= total.graphs, "{total:?}");
}

#[test]
fn two_hundred_graphs_keep_every_property() {
    meant_something(&run(0..200));
}

/// `cargo test --test properties -- --ignored many`; `NYXC_SEEDS=FROM..TO` names others than 1000..51000.
#[test]
#[ignore = "hours: make soak"]
fn many_graphs_keep_every_property() {
    let named = std::env::var("NYXC_SEEDS").ok();
    let seeds = named.as_deref().and_then(|text| text.split_once("..")).map_or(1000..51_000, |(a, b)| a.parse().unwrap()..b.parse().unwrap());
    let total = run(seeds);
    say(&format!("{total:?}\n"));
    if total.graphs >= 200 {
        meant_something(&total);
    }
}
