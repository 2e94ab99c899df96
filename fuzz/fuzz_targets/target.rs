//! A target's JSON: whatever is accepted can be planned for.
#![no_main]

use libfuzzer_sys::fuzz_target;
use nyxc::passes::{Pipeline, Settings};
use nyxc::targets::Target;

const GRAPH: &str = "graph g onnx
  %x = input : f32[1,3]
  %w = const [1.0,2.0,3.0,4.0,5.0,6.0] : f32[3,2]
  %y = matmul(%x, %w) : f32[1,2]
  output %y
";

fuzz_target!(|bytes: &[u8]| {
    let Ok(json) = std::str::from_utf8(bytes) else { return };
    let Ok(target) = Target::from_json("fuzzed", json) else { return };
    let registry = nyxc::ops::registry();
    let mut graph = nyxc::ir::text::parse(GRAPH, &registry, &|_, _| None).expect("the graph is good");
    let settings = Settings { budget_bytes: Some(target.default_budget_bytes()), ..Settings::default() };
    let _ = Pipeline::new(settings).run(&mut graph, &target);
});
