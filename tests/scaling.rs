//! Models of thousands of nodes: the time of compilation grows about as they do, and operators take as many operands as
//! they are given. `benches/scaling.sh` measures whole compilations, up to 50,000 nodes.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/pb.rs"]
mod pb;

use nyxc::import::{ImportOptions, import_bytes};
use nyxc::ir::{DType, Graph, Tensor};
use nyxc::ops::registry;
use nyxc::passes::Settings;
use nyxc::session::{Compile, DeviceChoice, Session, compile};
use nyxc::targets::Target;
use std::time::{Duration, Instant};

const WIDTH: usize = 8;

fn import(model: &[u8]) -> Graph {
    import_bytes(model, None, &ImportOptions::default(), &registry()).unwrap().0
}

fn options(budget_bytes: u64) -> Compile {
    let settings = Settings { budget_bytes: Some(budget_bytes), ..Settings::default() };
    Compile { settings, target: Target::shipped("lavapipe").unwrap(), n_threads: 1 }
}

fn weights(name: &str, seed: usize) -> Vec<u8> {
    let values: Vec<f32> = (0..WIDTH * WIDTH).map(|i| ((i * 7 + seed * 13) % 31) as f32 / 62.0 - 0.25).collect();
    pb::f32s(name, &[WIDTH as i64, WIDTH as i64], &values)
}

/// `n` nodes one after the other: MatMul with a matrix of its own, Softmax, Identity in turn.
fn chain(n: usize) -> Vec<u8> {
    let mut fields = vec![pb::input("x", &[2, WIDTH as i64]), pb::output(&format!("v{}", n - 1))];
    for i in 0..n {
        let (last, next) = (if i == 0 { "x".to_owned() } else { format!("v{}", i - 1) }, format!("v{i}"));
        let own = format!("w{i}");
        fields.push(match i % 3 {
            0 => [weights(&own, i), pb::node("MatMul", &[&last, &own], &[&next], &[])].concat(),
            1 => pb::node("Softmax", &[&last], &[&next], &[]),
            _ => pb::node("Identity", &[&last], &[&next], &[]),
        });
    }
    pb::model(fields.concat())
}

/// `n / 2` branches of Mul and MatMul with one shared matrix, and one Sum of all. Each Mul has a vector of its own, or
/// a number.
fn wide(n: usize) -> Vec<u8> {
    let mut fields = vec![pb::input("x", &[2, WIDTH as i64]), pb::output("y"), weights("w", 1)];
    let parts: Vec<String> = (0..n / 2).map(|i| format!("p{i}")).collect();
    for (i, part) in parts.iter().enumerate() {
        let (scale, scaled) = (format!("s{i}"), format!("m{i}"));
        let values: Vec<f32> = (0..WIDTH).map(|j| (i * WIDTH + j + 1) as f32 / (n * WIDTH) as f32).collect();
        fields.push(if i % 2 == 0 {
            pb::f32s(&scale, &[WIDTH as i64], &values)
        } else {
            pb::f32s(&scale, &[], &values[..1])
        });
        fields.push(pb::node("Mul", &["x", &scale], &[&scaled], &[]));
        fields.push(pb::node("MatMul", &[&scaled, "w"], &[part], &[]));
    }
    fields.push(pb::node("Sum", &parts.iter().map(String::as_str).collect::<Vec<_>>(), &["y"], &[]));
    pb::model(fields.concat())
}

fn time(model: &[u8]) -> Duration {
    let once = || {
        let start = Instant::now();
        let compiled = compile(&import(model), &options(1 << 30), &|_, _, _| {}, None).unwrap();
        assert!(compiled.program.shaders.len() < 20, "kernels are shared: {}", compiled.program.shaders.len());
        start.elapsed()
    };
    once().min(once())
}

/// Eight times the nodes may take 40 times as long, where N log N takes 11 and N x N 64 times; what both take alike is
/// subtracted by nobody.
#[test]
fn eight_times_the_nodes_take_less_than_their_square() {
    // The first compilation starts the shader compiler.
    time(&chain(9));
    for (name, model) in [("chain", chain as fn(usize) -> Vec<u8>), ("wide", wide)] {
        let (small, large) = (time(&model(600)), time(&model(4800)));
        assert!(large < small * 40, "{name}: {small:?} for 600 nodes, {large:?} for 4800");
    }
}

#[test]
fn operators_of_many_operands_give_what_their_definition_says() {
    const N: usize = 45;
    let names: Vec<String> = (0..N).map(|i| format!("c{i}")).collect();
    // The operands beyond the first broadcast, and none is a constant that could be folded away.
    let all: Vec<&str> = std::iter::once("x").chain(names.iter().map(String::as_str)).collect();
    let mut fields = vec![pb::input("x", &[2, 3])];
    fields.extend(names.iter().map(|name| pb::input(name, &[3])));
    for op in ["Sum", "Mean", "Max", "Min"] {
        fields.push([pb::node(op, &all, &[op], &[]), pb::output(op)].concat());
    }
    let program =
        compile(&import(&pb::model(fields.concat())), &options(1 << 30), &|_, _, _| {}, None).unwrap().program;
    let x = [1.0f32, -2.0, 3.0, 40.0, -50.0, 0.5];
    let value = |i: usize, j: usize| ((i * 5 + j * 3) % 17) as f32 - 8.0;
    let mut inputs = vec![Tensor::from_f32s(DType::F32, &[2, 3], &x).unwrap()];
    inputs
        .extend((0..N).map(|i| Tensor::from_f32s(DType::F32, &[3], &[value(i, 0), value(i, 1), value(i, 2)]).unwrap()));
    let column = |j: usize| (0..N).map(move |i| value(i, j));
    let expected =
        |f: &dyn Fn(f32, usize) -> f32| -> Vec<f32> { x.iter().enumerate().map(|(at, &v)| f(v, at % 3)).collect() };
    let wanted = [
        expected(&|v, j| v + column(j).sum::<f32>()),
        expected(&|v, j| (v + column(j).sum::<f32>()) / (N + 1) as f32),
        expected(&|v, j| column(j).fold(v, f32::max)),
        expected(&|v, j| column(j).fold(v, f32::min)),
    ];
    for device in [DeviceChoice::Cpu, DeviceChoice::VulkanOrCpu] {
        let given = Session::of(program.clone(), device).unwrap().run(&inputs).unwrap();
        assert!(given.host_nodes.is_empty(), "{:?}", given.host_nodes);
        for (given, wanted) in given.outputs.iter().zip(&wanted) {
            let given = given.to_f32s().unwrap();
            assert!(
                given.iter().zip(wanted).all(|(g, w)| (g - w).abs() <= 1e-5 * w.abs().max(1.0)),
                "{given:?} for {wanted:?}"
            );
        }
    }
}
