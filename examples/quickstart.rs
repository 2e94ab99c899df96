//! A model under a budget, from file to results.

use nyxc::import::{DimBinding, ImportOptions, import};
use nyxc::ir::{DType, Tensor};
use nyxc::passes::Settings;
use nyxc::program::file;
use nyxc::session::{Compile, DeviceChoice, Session, compile};
use nyxc::targets::Target;
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The model, with its symbolic batch bound to one image.
    let options = ImportOptions { dims: vec![DimBinding::parse("batch=1")?], ..ImportOptions::default() };
    let (graph, _) = import(Path::new("models/fmnist-mlp.onnx"), &options, &nyxc::ops::registry())?;

    // 400 KiB for weights, activations and everything else: less than half of what it needs in f32.
    let settings = Settings { budget_bytes: Some(400 << 10), ..Settings::default() };
    let options = Compile { settings, target: Target::shipped("vulkan-min")?, n_threads: 0 };
    let compiled = compile(&graph, &options, &|_, _, _| {}, None)?;
    let plan = &compiled.program.plans[0];
    assert!(plan.planned_peak_bytes <= 400 << 10);
    plan.nodes.iter().for_each(|node| eprintln!("{} {} because {}", node.name, node.format, node.reason));

    // The bytes of a `.nyx` file, loaded on the best GPU, or on the CPU reference where there is none.
    let mut session = Session::load(file::to_bytes(&compiled.program)?, DeviceChoice::Auto)?;
    let image = Tensor::from_f32s(DType::F32, &[1, 1, 28, 28], &[0.5; 28 * 28])?;
    let logits = session.run(&[image])?.outputs[0].to_f32s()?.into_owned();
    assert_eq!(logits.len(), 10);
    Ok(())
}
