//! An ONNX model: whatever is imported is well formed, prints, and reads back as the same graph.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nyxc::import::{ImportOptions, import_bytes};
use nyxc::ir::text;

fuzz_target!(|bytes: &[u8]| {
    let registry = nyxc::ops::registry();
    let Ok((graph, _)) = import_bytes(bytes, None, &ImportOptions::default(), &registry) else { return };
    if let Err(faults) = graph.verify() {
        panic!("imported, but not well formed: {faults}");
    }
    let printed = graph.to_string();
    if let Err(error) = text::parse(&printed, &registry, &|_, _| None) {
        panic!("imported, but its text does not read: {error}\n{printed}");
    }
});
