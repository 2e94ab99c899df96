//! What a run is given: every array is used or refused, initializers that are inputs too are defaults, every element
//! type travels both ways, and an index out of range ends the run with its node, its place and the range, on the CPU
//! reference and on every Vulkan device alike.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "common/device.rs"]
mod device;
#[path = "common/pb.rs"]
mod pb;

use nyxc::import::{ImportOptions, Initializers, import_bytes};
use nyxc::ir::{DType, Graph, IndexFault, OpError, Tensor, text};
use nyxc::ops::registry;
use nyxc::passes::{PassError, PipelineError, Settings};
use nyxc::program::{AllocationKind, Program, Step, file};
use nyxc::runtime::{RuntimeError, devices};
use nyxc::session::{Compile, CompileError, CpuError, DeviceChoice, InputError, Session, SessionError, compile, npz};
use std::collections::BTreeMap;
use std::io::Cursor;

fn graph(body: &str) -> Graph {
    let graph = text::parse(&format!("graph g onnx\n{body}"), &registry(), &|_, _| None).unwrap();
    graph.verify().unwrap();
    assert_eq!(text::parse(&graph.to_string(), &registry(), &|_, _| None).unwrap(), graph, "{graph}");
    graph
}

fn compiled(graph: &Graph, settings: Settings) -> Result<Program, CompileError> {
    let options = Compile { settings, target: device::target(), n_threads: 1 };
    let program = compile(graph, &options, &|_, _, _| {}, None)?.program;
    Ok(file::read(std::sync::Arc::new(file::to_bytes(&program).unwrap())).unwrap())
}

fn program(graph: &Graph) -> Program {
    compiled(graph, Settings::default()).unwrap()
}

/// A session on the CPU reference, and one on each device.
fn sessions(program: &Program) -> Vec<(String, Session)> {
    let mut all = vec![("cpu".to_owned(), Session::of(program.clone(), DeviceChoice::Cpu).unwrap())];
    for device in devices().unwrap_or_default() {
        let session = Session::of(program.clone(), DeviceChoice::Index(device.index)).unwrap();
        all.push((device.name, session));
    }
    all
}

fn ints(dtype: DType, dims: &[usize], values: &[i64]) -> Tensor {
    Tensor::from_i64s(dtype, dims, values).unwrap()
}

fn floats(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32s(DType::F32, dims, values).unwrap()
}

fn named(arrays: &[(&str, Tensor)]) -> BTreeMap<String, Tensor> {
    arrays.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())).collect()
}

/// The fault that ended a run, and the node that it names.
fn fault(error: SessionError) -> (String, IndexFault) {
    match error {
        SessionError::Runtime(RuntimeError::Index { node, fault }) => (node, fault),
        SessionError::Cpu(CpuError::Op { node, source: OpError::Index(fault) }) => (node, fault),
        other => panic!("{other:?}"),
    }
}

/// `shared/cases/11`: a table of 20 rows, token ids beyond it.
#[test]
fn token_ids_beyond_the_table_end_the_run_and_the_next_one_is_right() {
    let graph = graph(
        "  %table = input : f32[20,3]
  %ids = input : i64[1,4]
  %x = gather(%table, %ids) {axis=0} named \"look up\" : f32[1,4,3]
  %y = neg(%x) : f32[1,4,3]
  output %y
",
    );
    let table: Vec<f32> = (0..60).map(|i| i as f32).collect();
    let table = floats(&[20, 3], &table);
    let program = program(&graph);
    for (name, mut session) in sessions(&program) {
        for round in 0..2 {
            let good = session.run(&[table.clone(), ints(DType::I64, &[1, 4], &[0, 19, -1, -20])]).unwrap().outputs;
            let rows = good[0].to_f32s().unwrap();
            assert_eq!([rows[0], rows[3], rows[6], rows[9]], [0.0, -57.0, -57.0, 0.0], "{name}");
            for (ids, element, index) in [([0, 7, 20, 21], 2, 20), ([-21, 7, 1, i64::from(i32::MAX)], 0, -21)] {
                let error = session.run(&[table.clone(), ints(DType::I64, &[1, 4], &ids)]).unwrap_err();
                let expected = format!(
                    "node \"look up\": index {index} (element {element} of the indices) is out of range: -20 to 19 are allowed"
                );
                assert_eq!(error.to_string(), expected, "{name}, round {round}");
                assert_eq!(fault(error).1, IndexFault { element, index, least: -20, most: 19 }, "{name}");
            }
        }
    }
    // What the check takes is in the ledger.
    let plan = &program.plans[0];
    assert_eq!(plan.ledger.peak_bytes(), plan.planned_peak_bytes);
    assert!(plan.ledger.workspace >= 256, "{:?}", plan.ledger);
}

#[test]
fn an_unchecked_program_reads_the_nearest_row_and_has_no_check() {
    let body = "  %table = input : f32[5,2]
  %ids = input : i64[3]
  %at = input : i64[2,2]
  %x = gather(%table, %ids) {axis=0} : f32[3,2]
  %z = gather_elements(%table, %at) {axis=0} : f32[2,2]
  output %x
  output %z
";
    let unchecked = compiled(&graph(body), Settings { check_indices: false, ..Settings::default() }).unwrap();
    let checks = |program: &Program| {
        let steps = program.plans[0].entries[0].steps.iter();
        let dispatches = steps.flat_map(|s| if let Step::Device(list) = s { list.as_slice() } else { &[] });
        dispatches.filter(|d| d.check.is_some()).count()
    };
    assert_eq!((checks(&unchecked), checks(&program(&graph(body)))), (0, 2));
    let table = floats(&[5, 2], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0]);
    for (name, mut session) in sessions(&unchecked) {
        let inputs = [table.clone(), ints(DType::I64, &[3], &[7, -1, -9]), ints(DType::I64, &[2, 2], &[0, 5, -6, -1])];
        let outputs = session.run(&inputs).unwrap().outputs;
        assert_eq!(outputs[0].to_f32s().unwrap()[..], [8.0, 9.0, 8.0, 9.0, 0.0, 1.0], "{name}");
        assert_eq!(outputs[1].to_f32s().unwrap()[..], [0.0, 9.0, 0.0, 9.0], "{name}");
    }
}

#[test]
fn constant_indices_out_of_range_are_found_while_compiling() {
    for body in [
        "  %x = input : f32[4,3]\n  %i = const [1,4] : i64[2]\n  %y = gather(%x, %i) {axis=0} : f32[2,3]\n  output %y\n",
        "  %x = input : f32[4,3]\n  %i = const [0,1,-4,2] : i64[2,2]\n  %y = gather_elements(%x, %i) {axis=1} : f32[2,2]\n  output %y\n",
        "  %x = input : f32[4,3]\n  %i = const [0,0,1,3] : i64[2,2]\n  %y = gather_nd(%x, %i) : f32[2]\n  output %y\n",
    ] {
        match compiled(&graph(body), Settings::default()).unwrap_err() {
            CompileError::Pipeline(PipelineError::Pass { source: PassError::Op { node, source }, .. }) => {
                assert_eq!(node, "y");
                let text = source.to_string();
                assert!(text.contains("is out of range: "), "{text}");
            }
            other => panic!("{other}"),
        }
    }
}

/// What picks or scatters by indices: the node, its last operand before the indices, their shape, and the range of each
/// number of an index.
type IndexCase<'a> = (&'a str, &'a str, &'a [usize], &'a [(i64, i64)]);

#[test]
fn every_operator_finds_the_first_index_out_of_range() {
    let cases: &[IndexCase<'_>] = &[
        ("gather(%x, %i) {axis=1} : f32[4,2,3,6]", "x", &[2, 3], &[(-5, 4)]),
        ("gather_elements(%x, %i) {axis=1} : f32[4,2,6]", "x", &[4, 2, 6], &[(-5, 4)]),
        ("gather_nd(%x, %i) : f32[7,6]", "x", &[7, 2], &[(-4, 3), (-5, 4)]),
        ("gather_nd(%x, %i) {batch_dims=1} : f32[4,3]", "x", &[4, 3, 2], &[(-5, 4), (-6, 5)]),
        ("scatter_elements(%x, %i, %u) {axis=1} : f32[4,5,6]", "u", &[2, 3, 2], &[(-5, 4)]),
        ("scatter_nd(%x, %i, %u) : f32[4,5,6]", "u", &[3, 2], &[(-4, 3), (-5, 4)]),
        ("max_unpool(%p, %i) {kernel_shape=[2,2], strides=[2,2]} : f32[1,1,4,6]", "p", &[1, 1, 2, 3], &[(0, 23)]),
        ("tensor_scatter(%x, %t, %i) {axis=1} : f32[4,5,6]", "t", &[4], &[(0, 3)]),
        ("reverse_sequence(%x, %i) {batch_axis=0, time_axis=1} : f32[4,5,6]", "x", &[4], &[(0, 5)]),
        ("array_feature_extractor(%m, %i) : f32[4,3]", "m", &[3], &[(0, 5)]),
        ("negative_log_likelihood_loss(%m, %i) {reduction=\"none\", ignore_index=-100} : f32[4]", "m", &[4], &[(0, 5)]),
        ("rotary_embedding(%q, %c, %s, %i) : f32[1,2,3,4]", "q", &[1, 3], &[(-9, 8)]),
    ];
    let mut state = 7u64;
    let mut random = |low: i64, high: i64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        low + ((state >> 33) % (high - low + 1) as u64) as i64
    };
    for (op, wanted, dims, ranges) in cases {
        let updates = if op.starts_with("scatter_nd") { "f32[3,6]" } else { "f32[2,3,2]" };
        let inputs: &[(&str, &str)] = match *wanted {
            "x" => &[("x", "f32[4,5,6]")],
            "u" => &[("x", "f32[4,5,6]"), ("u", updates)],
            "p" => &[("p", "f32[1,1,2,3]")],
            "t" => &[("x", "f32[4,5,6]"), ("t", "f32[4,2,6]")],
            "m" => &[("m", "f32[4,6]")],
            _ => &[("q", "f32[1,2,3,4]"), ("c", "f32[9,2]"), ("s", "f32[9,2]")],
        };
        let list = |dims: &[usize]| dims.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let mut body: String = inputs.iter().map(|(name, ty)| format!("  %{name} = input : {ty}\n")).collect();
        body += &format!(
            "  %i = input : i64[{}]\n  %y = {}\n  output %y\n",
            list(dims),
            op.replacen(" :", " named \"by index\" :", 1)
        );
        let graph = graph(&body);
        let mut sessions = sessions(&program(&graph));
        let given: Vec<Tensor> = graph.inputs()[..inputs.len()]
            .iter()
            .enumerate()
            .map(|(k, id)| {
                let dims = graph.ty(id.out(0)).shape.known().unwrap();
                floats(&dims, &(0..dims.iter().product()).map(|v| (v * 7 % 13 + k) as f32).collect::<Vec<_>>())
            })
            .collect();
        let n: usize = dims.iter().product();
        for round in 0..6 {
            let mut indices: Vec<i64> = (0..n).map(|e| ranges[e % ranges.len()]).map(|(l, h)| random(l, h)).collect();
            if op.contains("ignore_index") {
                indices[0] = -100;
            }
            // Up to three places are out of range, on either side, a little or by far.
            let mut first: Option<IndexFault> = None;
            for _ in 0..round.min(3) {
                let element = random(0, n as i64 - 1) as usize;
                let (least, most) = ranges[element % ranges.len()];
                let far = [1, 2, 1000][random(0, 2) as usize];
                indices[element] = if random(0, 1) == 0 { least - far } else { most + far };
                if indices[element] == -100 && op.contains("ignore_index") {
                    indices[element] = -101;
                }
            }
            for (element, &index) in indices.iter().enumerate() {
                let (least, most) = ranges[element % ranges.len()];
                let is_ignored = op.contains("ignore_index") && index == -100;
                if first.is_none() && !(least..=most).contains(&index) && !is_ignored {
                    first = Some(IndexFault { element: element as u64, index, least, most });
                }
            }
            let inputs = [given.clone(), vec![ints(DType::I64, dims, &indices)]].concat();
            let mut expected = None;
            for (name, session) in &mut sessions {
                match (session.run(&inputs), first) {
                    (Ok(outcome), None) => {
                        let values = outcome.outputs[0].to_f32s().unwrap().into_owned();
                        let expected = expected.get_or_insert_with(|| values.clone());
                        let close = expected.iter().zip(&values).all(|(a, b)| (a - b).abs() <= 1e-4 * a.abs().max(1.0));
                        assert!(close, "{op} on {name}: {values:?}, not {expected:?}");
                    }
                    (Err(error), Some(wanted)) => {
                        let (node, given) = fault(error);
                        assert_eq!((node.as_str(), given), ("by index", wanted), "{op} on {name}: {indices:?}");
                    }
                    (outcome, wanted) => {
                        panic!("{op} on {name}: {wanted:?}, {indices:?}: {:?}", outcome.map(|o| o.outputs))
                    }
                }
            }
        }
    }
}

/// A size that changes between runs: the range is that of the run, and what waits for its sizes on the host says the
/// same as the kernel.
#[test]
fn the_range_is_that_of_the_sizes_of_the_run() {
    for op in ["gather(%x, %i) {axis=0} : f32[3,2]", "gather_elements(%x, %i) {axis=0} : f32[3,2]"] {
        let dims: &[usize] = if op.contains("elements") { &[3, 2] } else { &[3] };
        let list = dims.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        let text = format!(
            "graph g onnx where n in 1..9\n  %x = input : f32[n,2]\n  %i = input : i64[{list}]\n  %y = {op}\n  output %y\n"
        );
        let graph = text::parse(&text, &registry(), &|_, _| None).unwrap();
        let program = program(&graph);
        for (name, mut session) in sessions(&program) {
            for n in [9usize, 4, 9] {
                let x = floats(&[n, 2], &vec![0.5; 2 * n]);
                let mut indices = vec![0; dims.iter().product()];
                indices[2] = 4;
                let run = session.run(&[x, ints(DType::I64, dims, &indices)]);
                if n > 4 {
                    assert!(run.unwrap().outputs[0].to_f32s().unwrap().iter().all(|v| *v == 0.5), "{op} on {name}");
                } else {
                    let wanted = IndexFault { element: 2, index: 4, least: -4, most: 3 };
                    assert_eq!(fault(run.unwrap_err()), ("y".to_owned(), wanted), "{op} on {name}");
                }
            }
        }
    }
}

/// Thousands of indices, over many workgroups, of which many are out of range: the first is named, whichever invocation
/// came first.
#[test]
fn the_first_of_many_is_named_each_time() {
    let n = 40_000;
    let program = program(&graph(&format!(
        "  %x = input : f32[50]\n  %i = input : i32[{n}]\n  %y = gather(%x, %i) {{axis=0}} : f32[{n}]\n  output %y\n"
    )));
    let x = floats(&[50], &[0.5; 50]);
    for (name, mut session) in sessions(&program) {
        for start in [0usize, 127, 128, 31_003, 39_999] {
            let at = |i: usize| if i >= start && (i - start).is_multiple_of(3) { 50 + i as i64 } else { i as i64 % 50 };
            let indices: Vec<i64> = (0..n).map(at).collect();
            let error = session.run(&[x.clone(), ints(DType::I32, &[n], &indices)]).unwrap_err();
            let wanted = IndexFault { element: start as u64, index: 50 + start as i64, least: -50, most: 49 };
            assert_eq!(fault(error), ("y".to_owned(), wanted), "{name}");
        }
    }
}

/// The notes of a check are no other dispatch's memory, and each is in the arena.
#[test]
fn checks_note_in_memory_of_their_own() {
    let program = program(&graph(
        "  %x = input : f32[4,5]
  %i = input : i64[2]
  %j = input : i64[3]
  %a = gather(%x, %i) {axis=0} : f32[2,5]
  %b = gather(%a, %j) {axis=1} : f32[2,3]
  %y = softmax(%b) {axis=1} : f32[2,3]
  output %y
",
    ));
    let plan = &program.plans[0];
    let entry = &plan.entries[0];
    let mut noted = Vec::new();
    let mut others: Vec<_> = entry.inputs.iter().chain(&entry.outputs).map(|port| port.region).collect();
    for step in &entry.steps {
        let Step::Device(list) = step else { continue };
        for dispatch in list {
            let own = dispatch.check.as_ref().map(|c| c.binding as usize);
            noted.extend(own.map(|binding| dispatch.bindings[binding]));
            others.extend(dispatch.bindings.iter().enumerate().filter(|(b, _)| Some(*b) != own).map(|(_, r)| *r));
        }
    }
    assert_eq!(noted.len(), 2);
    for (k, region) in noted.iter().enumerate() {
        assert_eq!(plan.allocations[region.allocation as usize].kind, AllocationKind::Arena);
        let apart = |other: &nyxc::program::Region| {
            other.allocation != region.allocation
                || other.offset + other.bytes <= region.offset
                || region.offset + region.bytes <= other.offset
        };
        assert!(others.iter().chain(&noted[..k]).all(apart), "{region:?}");
    }
}

/// `shared/cases/09`: `y = x * scale`, where the model has a scale that a run may replace.
fn scaled(ir_version: i64) -> Vec<u8> {
    let graph = [
        pb::node("Mul", &["x", "scale"], &["y"], &[]),
        pb::f32s("scale", &[2], &[2.0, 3.0]),
        pb::input("x", &[2]),
        pb::input("scale", &[2]),
        pb::output("y"),
    ]
    .concat();
    [pb::int(1, ir_version), pb::blob(8, pb::int(2, 21)), pb::blob(7, graph)].concat()
}

fn imported(model: &[u8], initializers: Initializers) -> (Graph, BTreeMap<String, String>) {
    let options = ImportOptions { initializers, ..ImportOptions::default() };
    let (graph, report) = import_bytes(model, None, &options, &registry()).unwrap();
    let source = |hash: &str, _: &_| {
        let mut found = None;
        graph.for_each_constant(&mut |tensor| {
            found = Some(tensor.clone()).filter(|t| t.hash().to_string() == hash).or(found.take())
        });
        found
    };
    assert_eq!(text::parse(&graph.to_string(), &registry(), &source).unwrap(), graph, "{graph}");
    (graph, report.fixed)
}

#[test]
fn an_initializer_that_is_an_input_is_a_default() {
    let (graph, fixed) = imported(&scaled(8), Initializers::Auto);
    assert!(fixed.is_empty(), "{fixed:?}");
    let program = program(&graph);
    let x = floats(&[2], &[1.0, 10.0]);
    for (name, mut session) in sessions(&program) {
        let mut y = |arrays: &[(&str, Tensor)]| {
            session.run_named(named(arrays)).unwrap().outputs[0].to_f32s().unwrap().into_owned()
        };
        assert_eq!(y(&[("x", x.clone())]), [2.0, 30.0], "{name}");
        assert_eq!(y(&[("x", x.clone()), ("scale", floats(&[2], &[-1.0, 0.5]))]), [-1.0, 5.0], "{name}");
        assert_eq!(y(&[("x", x.clone())]), [2.0, 30.0], "{name}");
        assert_eq!(session.run(std::slice::from_ref(&x)).unwrap().outputs[0].to_f32s().unwrap()[..], [2.0, 30.0]);
        let refused = session.run(&[]).unwrap_err().to_string();
        assert_eq!(refused, "0 inputs, the program has 1 without a default and 1 with one");
    }
}

#[test]
fn an_initializer_that_must_be_known_is_a_constant_and_says_so() {
    let refused = |program: &Program| {
        let mut session = Session::of(program.clone(), DeviceChoice::Cpu).unwrap();
        let arrays = named(&[("x", floats(&[2], &[1.0, 10.0])), ("scale", floats(&[2], &[1.0, 1.0]))]);
        session.run_named(arrays).unwrap_err().to_string()
    };
    for (model, initializers, reason) in [
        (scaled(3), Initializers::Auto, "in IR version 3 every initializer is listed as an input"),
        (scaled(8), Initializers::Constants, "--initializers constants"),
    ] {
        let (graph, fixed) = imported(&model, initializers);
        assert_eq!(fixed.get("scale").map(String::as_str), Some(reason));
        let program = compiled(&graph, Settings { fixed_inputs: fixed, ..Settings::default() }).unwrap();
        let text = refused(&program);
        assert!(text.starts_with(&format!("input \"scale\" is a constant of this program: {reason};")), "{text}");
    }
    // A shape cannot wait for a run; what else is listed can.
    let graph = [
        pb::node("Reshape", &["x", "shape"], &["z"], &[]),
        pb::node("Add", &["z", "bias"], &["y"], &[]),
        pb::i64s("shape", &[2], &[2, 3]),
        pb::f32s("bias", &[1], &[0.25]),
        pb::input("x", &[6]),
        pb::input("bias", &[1]),
        pb::typed_input("shape", 7, &[2]),
        pb::output("y"),
    ]
    .concat();
    let (graph, fixed) = imported(&pb::model(graph), Initializers::Auto);
    assert_eq!(fixed.keys().collect::<Vec<_>>(), ["shape"]);
    assert!(fixed["shape"].contains("depend on its value"), "{fixed:?}");
    assert_eq!(graph.defaults().keys().collect::<Vec<_>>(), ["bias"]);
}

/// A model of 128 KiB that lists all it has comes from an exporter that always does.
#[test]
fn a_model_that_lists_all_its_weights_keeps_them_as_constants() {
    let weights = vec![0.5f32; 128 * 256];
    let graph = |listed: bool| {
        let mut parts = vec![
            pb::node("MatMul", &["x", "w"], &["z"], &[]),
            pb::node("Add", &["z", "b"], &["y"], &[]),
            pb::f32s("w", &[128, 256], &weights),
            pb::f32s("b", &[256], &[0.0; 256]),
            pb::input("x", &[1, 128]),
            pb::input("w", &[128, 256]),
            pb::output("y"),
        ];
        if listed {
            parts.push(pb::input("b", &[256]));
        }
        pb::model(parts.concat())
    };
    let (all, fixed) = imported(&graph(true), Initializers::Auto);
    assert!(all.defaults().is_empty() && fixed.len() == 2, "{fixed:?}");
    // One that is listed though another is not is meant to be given.
    let (one, fixed) = imported(&graph(false), Initializers::Auto);
    assert!(fixed.is_empty() && one.defaults().contains_key("w"), "{fixed:?}");
    assert_eq!(imported(&graph(true), Initializers::Inputs).0.defaults().len(), 2);
}

#[test]
fn an_array_that_nobody_knows_is_named_with_the_nearest_name() {
    let program = program(&graph("  %input_ids = input : f32[2]\n  %y = neg(%input_ids) : f32[2]\n  output %y\n"));
    let mut session = Session::of(program, DeviceChoice::Cpu).unwrap();
    let x = floats(&[2], &[1.0, 2.0]);
    let error = session.run_named(named(&[("inputs_ids", x.clone())])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the program has no input \"inputs_ids\"; did you mean \"input_ids\"? (it has \"input_ids\")"
    );
    let error = session.run_named(named(&[("input_ids", x.clone()), ("mask", x.clone())])).unwrap_err();
    assert!(matches!(&error, SessionError::Input(InputError::Unknown { name, .. }) if name == "mask"), "{error}");
    let error = session.run_named(BTreeMap::new()).unwrap_err();
    assert!(matches!(&error, SessionError::Input(InputError::Missing { name, .. }) if name == "input_ids"), "{error}");
    let options = ImportOptions { constants: named(&[("scales", x)]), ..ImportOptions::default() };
    let error = import_bytes(&scaled(8), None, &options, &registry()).unwrap_err();
    let expected = "input \"scales\" as a constant: the model has no such input; did you mean \"scale\"?";
    assert_eq!(error.to_string(), expected);
}

/// Every element type through a file, a program on the CPU and on every device, and a file.
#[test]
fn every_element_type_travels_both_ways() {
    let integers: &[(DType, [i64; 6], &str)] = &[
        (DType::I2, [-2, -1, 0, 1, -2, 1], "|i1"),
        (DType::U2, [3, 2, 1, 0, 3, 1], "|u1"),
        (DType::I4, [-8, 7, 0, 1, -1, 5], "|i1"),
        (DType::U4, [15, 8, 7, 0, 1, 9], "|u1"),
        (DType::I8, [-128, 127, 0, 1, -1, 5], "|i1"),
        (DType::U8, [255, 128, 7, 0, 1, 9], "|u1"),
        (DType::I16, [-32768, 32767, 0, 1, -1, 5], "<i2"),
        (DType::U16, [65535, 32768, 7, 0, 1, 9], "<u2"),
        (DType::I32, [i32::MIN as i64, i32::MAX as i64, 0, 1, -1, 5], "<i4"),
        (DType::U32, [5, 1 << 30, 7, 0, 1, 9], "<u4"),
        (DType::I64, [-5, 1 << 30, 7, 0, 1, 9], "<i8"),
        (DType::U64, [5, 1 << 30, 7, 0, 1, 9], "<u8"),
        (DType::Bool, [0, 1, 1, 0, 0, 1], "|b1"),
    ];
    let small = [-1.5, 0.0, 4.0, 0.5, -6.0, 1.0];
    let floats: &[(DType, [f32; 6], &str)] = &[
        (DType::F32, [-1.5, 1e-30, 4.25, 0.1, f32::MAX, f32::INFINITY], "<f4"),
        (DType::F16, [-1.5, 6e-8, 4.25, 0.099_975_586, 65504.0, f32::INFINITY], "<f2"),
        (DType::F64, [-1.5, 1e-30, 4.25, 0.1, f32::MAX, f32::INFINITY], "<f8"),
        (DType::BF16, [-1.5, 1.0, 4.25, 0.5, 2f32.powi(127), f32::INFINITY], "<f4"),
        (DType::F8E4M3, [-1.5, 0.0, 4.0, 0.5, 448.0, -448.0], "<f4"),
        (DType::F8E4M3Fnuz, [-1.5, 0.0, 4.0, 0.5, 240.0, -240.0], "<f4"),
        (DType::F8E5M2, [-1.5, 0.0, 4.0, 0.5, 57344.0, f32::INFINITY], "<f4"),
        (DType::F8E5M2Fnuz, [-1.5, 0.0, 4.0, 0.5, 57344.0, -57344.0], "<f4"),
        (DType::F8E8M0, [2.0, 1.0, 4.0, 0.5, 2f32.powi(127), 2f32.powi(-126)], "<f4"),
        (DType::F4E2M1, small, "<f4"),
    ];
    let integers = integers.iter().map(|(dtype, values, descr)| (ints(*dtype, &[2, 3], values), *descr));
    let floats =
        floats.iter().map(|(dtype, values, descr)| (Tensor::from_f32s(*dtype, &[2, 3], values).unwrap(), *descr));
    for (tensor, descr) in integers.chain(floats) {
        let dtype = tensor.dtype();
        let graph = graph(&format!(
            "  %x = input : {dtype}[2,3]\n  %y = transpose(%x) {{perm=[1,0]}} : {dtype}[3,2]\n  output %y\n  output %x\n"
        ));
        let program = program(&graph);
        let mut bytes = Cursor::new(Vec::new());
        npz::write(&mut bytes, &[("x".to_owned(), tensor.clone())]).unwrap();
        assert!(bytes.get_ref().windows(descr.len()).any(|w| w == descr.as_bytes()), "{dtype} is no {descr}");
        let arrays = npz::read(bytes, &mut |_, _| true).unwrap();
        for (name, mut session) in sessions(&program) {
            let outputs =
                session.run_named(arrays.clone()).unwrap_or_else(|e| panic!("{dtype} on {name}: {e}")).outputs;
            assert_eq!(outputs[1], tensor, "{dtype} on {name}");
            let mut back = Cursor::new(Vec::new());
            npz::write(&mut back, &[("y".to_owned(), outputs[0].clone())]).unwrap();
            let back = npz::read(back, &mut |_, _| true).unwrap()["y"].narrowed(dtype).unwrap();
            let (given, transposed) = (tensor.to_f64s().unwrap(), back.to_f64s().unwrap());
            let expected: Vec<f64> = [0, 3, 1, 4, 2, 5].iter().map(|&i| given[i]).collect();
            assert_eq!(transposed, expected, "{dtype} on {name}");
        }
    }
}

#[test]
fn a_value_that_its_type_does_not_hold_is_refused_with_its_place() {
    for (dtype, given, refused) in [
        (DType::I4, ints(DType::I8, &[2], &[7, 8]), "element 1 is 8, which i4 does not hold"),
        (DType::U4, ints(DType::I8, &[2], &[-1, 3]), "element 0 is -1, which u4 does not hold"),
        (DType::U2, ints(DType::U8, &[2], &[3, 4]), "element 1 is 4, which u2 does not hold"),
        (DType::I32, ints(DType::I64, &[2], &[0, 1 << 40]), "element 1 is 1099511627776, which i32 does not hold"),
        (DType::F8E4M3, floats(&[2], &[1.0, 500.0]), "element 1 is 500.0, which f8e4m3 does not hold"),
    ] {
        let graph = graph(&format!("  %x = input : {dtype}[2]\n  output %x\n"));
        let mut session = Session::of(program(&graph), DeviceChoice::Cpu).unwrap();
        let error = session.run_named(named(&[("x", given)])).unwrap_err();
        assert_eq!(error.to_string(), format!("input \"x\": {refused}"));
    }
}
