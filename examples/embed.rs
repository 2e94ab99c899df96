//! nyxc inside another toolchain: a graph, our passes and one of your own, the difference it makes, the program and its
//! results.
//!
//! ```text
//! cargo run --example embed                         all of it; the CPU reference computes where there is no Vulkan device
//! cargo run --example embed --no-default-features   up to the text of the graph: no C++, no Vulkan
//! ```

#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use nyxc::diff::Diff;
use nyxc::import::{DimBinding, ImportOptions, import};
use nyxc::ir::{Edit, Format, Graph, Patch};
use nyxc::ops;
use nyxc::passes::{Context, Pass, PassError, Pipeline, Policy, Settings};
use nyxc::targets::Target;
use std::error::Error;
use std::path::Path;

/// A pass of one's own: small layers stay in f32. They cost next to nothing, and the last layer of a classifier is one
/// of them.
///
/// Passes do not change the graph. They look at it and give an edit, which the runner applies and verifies: a pass that
/// leaves a malformed graph is named by the error.
struct KeepSmallLayers {
    /// Weights of fewer bytes than this, in f32, are kept.
    below_bytes: u64,
}

impl Pass for KeepSmallLayers {
    // What dumps and errors call it.
    fn name(&self) -> &str {
        "keep_small_layers"
    }

    fn run(&self, graph: &Graph, _cx: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        // `order` is deterministic: the same graph gives the same edit.
        for id in graph.order() {
            let is_gemm = graph.node(id).op().is_some_and(|op| op.def.onnx == "Gemm");
            // The matrix of constant weights, whatever their layout in the file; `None` where they are computed.
            let Some(weights) = ops::weights::of(graph, id).filter(|_| is_gemm) else { continue };
            let bytes = (weights.n_rows * weights.n_cols * 4) as u64;
            if bytes < self.below_bytes {
                // Only a note on the node; `insert_qdq`, which runs next, makes formats real.
                edit.set_format(id, Some(Format::F32));
            }
        }
        Ok(edit.finish())
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    // 1. A graph. Symbolic dimensions are given a size here, as `--dim batch=1` does.
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fmnist-mlp.onnx");
    let options = ImportOptions { dims: vec![DimBinding::parse("batch=1")?], ..ImportOptions::default() };
    let (graph, _) = import(&model, &options, &ops::registry())?;

    // 2. A target: a shipped profile or your own JSON. Compiling needs no such device.
    let target = Target::shipped("lavapipe")?;

    // 3. Two pipelines: ours, and ours with the pass above.
    let settings =
        Settings { policy: Policy::Uniform("w4a16".parse()?), budget_bytes: Some(1 << 20), ..Settings::default() };
    let mut before = graph.clone();
    Pipeline::new(settings.clone()).run(&mut before, &target)?;
    let mut after = graph.clone();
    let pipeline =
        Pipeline::new(settings.clone()).insert_after("assign_precision", KeepSmallLayers { below_bytes: 64 << 10 });
    println!("passes: {}", pipeline.names().join(", "));
    let report = pipeline.run(&mut after, &target)?;
    let n_changed = report.timings.iter().filter(|t| t.changed).count();
    println!("{n_changed} of {} passes changed the graph\n", report.timings.len());

    // 4. What the pass changes, node by node, and the kernels that come of it as text.
    println!("{}", Diff::of_graphs(&before, &after));
    println!("{after}");

    #[cfg(feature = "codegen")]
    run(&graph, settings, target)?;
    Ok(())
}

/// 5. The program and its results. The pipeline is given as a function: to meet the budget, formats may have to be
///    assigned more than once.
#[cfg(feature = "codegen")]
fn run(graph: &Graph, settings: Settings, target: Target) -> Result<(), Box<dyn Error>> {
    use nyxc::ir::{DType, Tensor};
    use nyxc::program::file;
    use nyxc::session::{Compile, DeviceChoice, Session, compile_with};

    let pipeline =
        |settings| Pipeline::new(settings).insert_after("assign_precision", KeepSmallLayers { below_bytes: 64 << 10 });
    // Progress and the graph after every pass are there for those who want them.
    let compiled = compile_with(graph, &Compile { settings, target, n_threads: 0 }, &pipeline, &|_, _, _| {}, None)?;
    for node in compiled.program.plans[0].nodes.iter().filter(|n| !n.kernel.is_empty()) {
        println!("{:8} {:6} {}", node.name, node.format, node.kernel);
    }

    // The bytes of a `.nyx` file: keep them, ship them, load them elsewhere. The runtime never sees the graph's passes.
    let bytes = file::to_bytes(&compiled.program)?;
    println!("program: {} bytes, planned peak {} bytes", bytes.len(), compiled.program.plans[0].planned_peak_bytes);

    // Auto is the best Vulkan device, or the CPU reference where there is none. Tensors go in and come out in the order
    // of the model.
    let image: Vec<f32> = (0..28 * 28).map(|i| ((i * 37) % 101) as f32 / 101.0).collect();
    let inputs = [Tensor::from_f32s(DType::F32, &[1, 1, 28, 28], &image)?];
    let mut session = Session::load(bytes, DeviceChoice::Auto)?;
    let outcome = session.run(&inputs)?;
    println!("on {}: logits {:?}", session.device(), outcome.outputs[0].to_f32s()?);
    Ok(())
}
