//! A text, and behind a line `---` its constants: whatever is well formed prints, and prints the same when read again.
//! Small graphs go through passes too.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nyxc::ir::{Level, TensorType, text};
use nyxc::passes::{Pipeline, PipelineError, Settings};
use nyxc::targets::Target;
use std::sync::Arc;

const PASSES: &[&str] = &["remove_dead_code", "fold_constants", "merge_duplicates", "recognize_composites", "decompose", "lower_quantized", "fuse"];

const SEPARATOR: &[u8] = b"\n---\n";

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.windows(SEPARATOR.len()).position(|w| w == SEPARATOR);
    let (source, beside) = at.map_or((bytes, None), |at| (&bytes[..at], Some(&bytes[at + SEPARATOR.len()..])));
    let Ok(source) = std::str::from_utf8(source) else { return };
    let consts = beside.and_then(|bytes| text::Consts::read(Arc::new(bytes.to_vec())).ok());
    let find = |hash: &str, ty: &TensorType| consts.as_ref()?.find(hash, ty);
    let registry = nyxc::ops::registry();
    let Ok(graph) = text::parse(source, &registry, &find) else { return };
    let printed = graph.to_string();
    if graph.verify().is_err() {
        return;
    }
    let summary = nyxc::ir::memory::summary(&graph);
    let small = summary.is_some_and(|m| m.weights_bytes.saturating_add(m.max_live_bytes) <= 1 << 20);
    if small
        && graph.level == Level::Onnx
        && let (Ok(pipeline), Ok(target)) = (Pipeline::of(PASSES, Settings::default()), Target::shipped("vulkan-min"))
    {
        if let Err(PipelineError::Broken { pass, .. }) = pipeline.run(&mut graph.clone(), &target) {
            panic!("{pass} broke the graph\n{printed}");
        }
    }
    match text::parse(&printed, &registry, &find) {
        Ok(again) => assert_eq!(again.to_string(), printed),
        Err(error) => panic!("its own text does not read: {error}\n{printed}"),
    }
});
