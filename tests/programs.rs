//! Whole programs, looked at and not run: every model in `models/`, in formats and for targets enough to reach every
//! kind of kernel.
//!
//! Two things that validation layers do not check, or only on a device that lacks something: that no shader asks for
//! more than its target has or depends on the size of a subgroup, and that every two dispatches which touch the same
//! bytes, one writing, have a barrier between them. Both are judged from the program alone, by readers of their own.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "common/hazards.rs"]
mod hazards;
#[path = "common/module.rs"]
mod module;
/// Programs of pipelines with passes and operators of a toolchain's own.
#[path = "programs/own.rs"]
mod own;
/// Programs with states and several entries.
#[path = "programs/states.rs"]
mod states;

use hazards::{Access, hazards};
use module::Module;
use nyxc::import::{DimBinding, ImportOptions, import};
use nyxc::ir::{Format, Graph};
use nyxc::ops::registry;
use nyxc::passes::{Policy, Settings};
use nyxc::program::spirv::Interface;
use nyxc::program::{Program, Step};
use nyxc::session::{Compile, compile};
use nyxc::targets::{Target, shipped_names};
use std::collections::BTreeMap;
use std::path::Path;

const MODELS: [(&str, &[&str]); 3] = [
    ("fmnist-mlp.onnx", &["batch=8"]),
    ("ppocr-cls.onnx", &["x.0=2", "x.2=48", "x.3=192"]),
    ("magika.onnx", &["unk__214=1"]),
];

fn model(file: &str, dims: &[&str]) -> Graph {
    let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(file);
    import(&path, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).unwrap().0
}

fn program(graph: &Graph, policy: Policy, target: &Target) -> Program {
    let options =
        Compile { settings: Settings { policy, ..Settings::default() }, target: target.clone(), n_threads: 0 };
    compile(graph, &options, &|_, _, _| {}, None).unwrap().program
}

/// Calls `check` with a name for each program of `formats` and all shipped targets.
fn each_program(formats: &[Format], mut check: impl FnMut(&str, &Program)) {
    for (file, dims) in MODELS {
        let graph = model(file, dims);
        for name in shipped_names() {
            let target = Target::shipped(name).unwrap();
            for &format in formats {
                check(&format!("{file} {format} for {name}"), &program(&graph, Policy::Uniform(format), &target));
            }
        }
    }
}

/// What the shader of every dispatch reads and writes, step by step, and whether a barrier precedes it.
fn accesses(program: &Program) -> Vec<Vec<Access>> {
    let written: BTreeMap<&str, Module> =
        program.shaders.iter().map(|(key, s)| (key.as_str(), Module::read(&s.spirv))).collect();
    let mut all = Vec::new();
    for step in program.plans[0].entries.iter().flat_map(|entry| &entry.steps) {
        let Step::Device(dispatches) = step else { continue };
        let access = |d: &nyxc::program::Dispatch| {
            let module = &written[d.shader.as_str()];
            assert!(
                module.written.iter().all(|b| d.writes.contains(b)),
                "{}: the shader writes {:?}, the plan says {:?}",
                d.node,
                module.written,
                d.writes
            );
            let (writes, reads) =
                d.bindings.iter().zip(0u32..).partition::<Vec<_>, _>(|(_, b)| module.written.contains(b));
            let regions = |list: Vec<(&nyxc::program::Region, u32)>| list.into_iter().map(|(r, _)| *r).collect();
            let (what, result_slice) = (d.node.clone(), d.result_slice.clone());
            Access { what, reads: regions(reads), writes: regions(writes), result_slice, barrier: d.barrier }
        };
        all.push(dispatches.iter().map(access).collect());
    }
    all
}

fn check(what: &str, program: &Program) -> (usize, usize) {
    for shader in program.shaders.values() {
        let module = Module::read(&shader.spirv);
        let faults = module.faults(&program.target);
        assert!(faults.is_empty(), "{what}, {}: {}", shader.name, faults.join("; "));
        assert_eq!(module.shared_bytes, Interface::read(&shader.spirv).unwrap().shared_bytes, "{}", shader.name);
    }
    let (mut n_dispatches, mut n_barriers) = (0, 0);
    for mut step in accesses(program) {
        assert_eq!(hazards(&step), Vec::<String>::new(), "{what}");
        // Each barrier is there for something: without it a hazard is found.
        for at in 0..step.len() {
            if step[at].barrier {
                step[at].barrier = false;
                assert!(
                    !hazards(&step).is_empty(),
                    "{what}: nothing needs the barrier before dispatch {at}, {}",
                    step[at].what
                );
                step[at].barrier = true;
                n_barriers += 1;
            }
        }
        n_dispatches += step.len();
    }
    (n_dispatches, n_barriers)
}

fn check_all(formats: &[&str]) {
    let formats: Vec<Format> = formats.iter().map(|f| f.parse().unwrap()).collect();
    let (mut n_programs, mut n_dispatches, mut n_barriers) = (0, 0, 0);
    each_program(&formats, |what, program| {
        let (dispatches, barriers) = check(what, program);
        n_programs += 1;
        n_dispatches += dispatches;
        n_barriers += barriers;
    });
    println!("{n_programs} programs, {n_dispatches} dispatches, {n_barriers} barriers, each of them needed");
    assert!(n_barriers > 10 * n_programs);
}

#[test]
fn programs_keep_to_their_targets_and_order_what_they_touch() {
    check_all(&["f32", "w4a16", "w8a8"]);
}

/// `cargo test --test programs -- --ignored --nocapture`
#[test]
#[ignore = "long: every format"]
fn programs_of_every_format_keep_to_their_targets_and_order_what_they_touch() {
    let mut formats: Vec<String> = Format::MENU.iter().map(ToString::to_string).collect();
    formats.extend(["f32/f16:r7", "f16/w4:r3", "w8a8/w4:r5", "w8a16:c", "w4a32:g128"].map(str::to_owned));
    check_all(&formats.iter().map(String::as_str).collect::<Vec<_>>());
}
