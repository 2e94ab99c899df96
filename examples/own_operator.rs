//! An operator of a toolchain's own: read from a graph or an ONNX file, compiled, loaded and run.
//!
//! ```text
//! cargo run --example own_operator
//! ```
//!
//! There are two kinds. What can be written in operators that nyxc has, needs no kernel: `expand` writes it, and fusion
//! makes one kernel of it with its neighbours. What cannot is computed on the host by its CPU reference, `eval`; every
//! report says so.

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use nyxc::ir::expr::build::arg;
use nyxc::ir::{Attr, Attrs, CORE, DType, Graph, KERNEL, Level, ONNX, Op, OpDef, OpError, Tensor, TensorType, attr};
use nyxc::ops;
use std::error::Error;

/// `com.example::ScaledTanh(x) {scale}`: `tanh(x) * scale`, of the type and shape of `x`; `scale` is 1 where absent.
static SCALED_TANH: OpDef = OpDef {
    // In the text IR, in reports, and in a `.onnx` file with its domain.
    name: "scaled_tanh",
    onnx: "com.example::ScaledTanh",
    levels: ONNX,
    // Import and verifier refuse other attributes, and those of another kind.
    attrs: &[attr::float("scale")],
    arity: (1, 1),
    infer: &|infer| Ok(vec![infer.ty(0)?.clone()]),
    eval: None,
    expand: Some(&|e| {
        let scale = e.attrs.float("scale").unwrap_or(1.0);
        let x = e.input(0)?;
        let dtype = e.ty(x).dtype;
        // Functions of single elements are expressions; docs/core-operators.md has the others.
        Ok(vec![ops::core::pointwise::add(e, arg(0).tanh() * scale, dtype, &[x])?])
    }),
    weights: None,
    gradient: None,
};

/// `com.example::RunningMax(x)`: the largest element so far, in the order of memory; type and shape are those of `x`.
static RUNNING_MAX: OpDef = OpDef {
    name: "running_max",
    onnx: "com.example::RunningMax",
    // It stays what it is down to the kernels, none of which computes it.
    levels: ONNX | CORE | KERNEL,
    attrs: &[],
    arity: (1, 1),
    infer: &|infer| Ok(vec![infer.ty(0)?.clone()]),
    eval: Some(&|_, operands| {
        let x = operands.first().copied().flatten().ok_or(OpError::MissingOperand { slot: 0 })?;
        let mut most = f32::NEG_INFINITY;
        let one = |v: &f32| {
            most = most.max(*v);
            most
        };
        let values: Vec<f32> = x.to_f32s()?.iter().map(one).collect();
        Ok(vec![Tensor::from_f32s(x.dtype(), &x.dims(), &values)?])
    }),
    expand: None,
    weights: None,
    gradient: None,
};

fn main() -> Result<(), Box<dyn Error>> {
    // 1. All operators of ours, and these. `import` takes this registry, and then reads ONNX files that have them.
    let mut operators = ops::registry();
    operators.add(&SCALED_TANH);
    operators.add(&RUNNING_MAX);

    // 2. A graph with both.
    let mut graph = Graph::new("own", Level::Onnx);
    let x = graph.add_input("x", TensorType::of(DType::F32, &[1, 4]));
    let scaled = Op::new(&SCALED_TANH, Attrs::new().with("scale", Attr::Float(2.0)));
    let t = graph.add_op("t", scaled, &[Some(x)], &["t".into()])?.out(0);
    let y = graph.add_op("y", Op::new(&RUNNING_MAX, Attrs::new()), &[Some(t)], &["y".into()])?.out(0);
    graph.add_output("y", y);
    graph.verify()?;
    println!("{graph}");

    #[cfg(feature = "codegen")]
    run(&graph, operators)?;
    Ok(())
}

/// 3. The program knows operators by name alone: whoever loads it gives the same registry.
#[cfg(feature = "codegen")]
fn run(graph: &Graph, operators: nyxc::ir::Registry) -> Result<(), Box<dyn Error>> {
    use nyxc::passes::Settings;
    use nyxc::program::file;
    use nyxc::session::{Compile, DeviceChoice, Session, compile};
    use nyxc::targets::Target;

    let options = Compile { settings: Settings::default(), target: Target::shipped("lavapipe")?, n_threads: 0 };
    let compiled = compile(graph, &options, &|_, _, _| {}, None)?;
    for node in &compiled.program.plans[0].nodes {
        println!("{:4} {:8} {:6} {}", node.name, node.op, node.place, node.reason);
    }
    let program = file::read(std::sync::Arc::new(file::to_bytes(&compiled.program)?))?;
    let mut session = Session::with_operators(program, DeviceChoice::Auto, operators)?;
    let outcome = session.run(&[Tensor::from_f32s(DType::F32, &[1, 4], &[-1.0, 0.5, 0.25, 2.0])?])?;
    println!(
        "on {}: {:?}; on the host: {}",
        session.device(),
        outcome.outputs[0].to_f32s()?,
        outcome.host_nodes.join(", ")
    );
    Ok(())
}
