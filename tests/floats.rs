//! Casts that a model writes, and the range of f16: what a program computes under formats of f16 is what the model's
//! nodes compute in f32, each result rounded once, also where an operator or what an exporter wrote for one has values
//! between that f16 does not hold.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "floats/casts.rs"]
mod casts;
#[path = "floats/composites.rs"]
mod composites;
#[path = "common/device.rs"]
mod device;
#[path = "floats/operators.rs"]
mod operators;

use nyxc::ir::{Graph, Tensor, text};
use nyxc::ops::registry;
use nyxc::passes::Settings;
use nyxc::program::Program;
use nyxc::runtime::devices;
use nyxc::session::{Compile, DeviceChoice, Session, compile};
use std::io::Write as _;

/// Policies under which a value may be stored in another type than the model's.
const POLICIES: &[&str] = &["uniform:f32", "uniform:f16", "uniform:w8a16", "budget"];

fn graph(body: &str) -> Graph {
    let graph = text::parse(&format!("graph g onnx\n{body}"), &registry(), &|_, _| None).unwrap();
    graph.verify().unwrap();
    graph
}

/// The program of a graph under a policy; of `budget` at the smallest budget that there is.
fn program(graph: &Graph, policy: &str) -> Program {
    let settings = Settings { policy: policy.parse().unwrap(), ..Settings::default() };
    let mut options = Compile { settings, target: device::target(), n_threads: 1 };
    let compiled = |options: &Compile| compile(graph, options, &|_, _, _| {}, None);
    if policy == "budget" {
        let roomy = compiled(&options).unwrap_or_else(|e| panic!("{policy}: {e}\n{graph}"));
        options.settings.budget_bytes = Some(roomy.program.plans[0].min_feasible_bytes);
    }
    compiled(&options).unwrap_or_else(|e| panic!("{policy}: {e}\n{graph}")).program
}

/// A program on the CPU reference and on every Vulkan device here, with the device's name.
fn sessions(program: &Program) -> Vec<(String, Session)> {
    let open = |choice| Session::of(program.clone(), choice).unwrap();
    let all = devices().unwrap_or_default();
    if all.is_empty() {
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
    }
    let mut sessions = vec![("the CPU".to_owned(), open(DeviceChoice::Cpu))];
    sessions.extend(all.into_iter().map(|device| (device.name.clone(), open(DeviceChoice::Index(device.index)))));
    sessions
}

/// The outputs of a program there.
fn everywhere(program: &Program, inputs: &[Tensor]) -> Vec<(String, Vec<Tensor>)> {
    let run = |(name, mut session): (String, Session)| (name, session.run(inputs).unwrap().outputs);
    sessions(program).into_iter().map(run).collect()
}
