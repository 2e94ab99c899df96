//! Operators of com.microsoft against ONNX Runtime, from the file to the device: the cases that
//! `tests/make_microsoft_cases.py` wrote, each as a model of one node, once with as many operands as may be computed
//! while the program runs and once with constants for all but the first, so that codes are read packed.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "common/cases.rs"]
mod cases;
#[path = "common/device.rs"]
mod device;
#[path = "common/pb.rs"]
mod pb;

use cases::tensor;
use nyxc::import::{ImportOptions, import_bytes};
use nyxc::ir::{Class, Graph, Tensor};
use nyxc::ops::registry;
use nyxc::passes::Settings;
use nyxc::runtime::{DeviceInfo, devices};
use nyxc::session::{Compile, DeviceChoice, Session, compile};
use serde_json::Value;
use std::collections::BTreeSet;

fn attribute(name: &str, value: &Value) -> Vec<u8> {
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    let list = || value.as_array().unwrap().iter();
    match kind.as_str() {
        "i" => pb::attr_int(name, value.as_i64().unwrap()),
        "is" => pb::attr_ints(name, &list().map(|v| v.as_i64().unwrap()).collect::<Vec<_>>()),
        "f" => pb::attr_float(name, value.as_f64().unwrap() as f32),
        "fs" => pb::attr_floats(name, &list().map(|v| v.as_f64().unwrap() as f32).collect::<Vec<_>>()),
        "s" => pb::attr_str(name, value.as_str().unwrap()),
        other => unreachable!("{other}"),
    }
}

/// A model of the node with the operands of these slots as constants.
fn model(case: &Value, operands: &[Option<Tensor>], constants: &BTreeSet<usize>) -> Vec<u8> {
    let name = |slot: usize| format!("x{slot}");
    let inputs: Vec<String> =
        operands.iter().enumerate().map(|(slot, o)| o.as_ref().map_or(String::new(), |_| name(slot))).collect();
    let outputs: Vec<String> = case["outputs"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(out, o)| if o.is_null() { String::new() } else { format!("y{out}") })
        .collect();
    let (domain, op) = case["op"].as_str().unwrap().split_once("::").unwrap_or(("", case["op"].as_str().unwrap()));
    let attrs: Vec<u8> =
        case["attrs"].as_object().unwrap().iter().flat_map(|(name, value)| attribute(name, value)).collect();
    let fields = pb::node_fields(
        op,
        &inputs.iter().map(String::as_str).collect::<Vec<_>>(),
        &outputs.iter().map(String::as_str).collect::<Vec<_>>(),
    );
    let mut graph = pb::blob(1, [fields, pb::blob(3, "node"), pb::blob(7, domain), attrs].concat());
    for (slot, operand) in operands.iter().enumerate() {
        let Some(operand) = operand else { continue };
        let dims: Vec<i64> = operand.dims().iter().map(|&n| n as i64).collect();
        let dtype = i64::from(operand.dtype().onnx());
        graph.extend(if constants.contains(&slot) {
            pb::blob(5, pb::tensor(&name(slot), dtype, &dims, operand.bytes().unwrap()))
        } else {
            pb::typed_input(&name(slot), dtype, &dims)
        });
    }
    graph.extend(outputs.iter().filter(|o| !o.is_empty()).flat_map(|o| pb::output(o)));
    let opsets = [pb::blob(8, pb::int(2, 17)), pb::blob(8, [pb::blob(1, "com.microsoft"), pb::int(2, 1)].concat())];
    [pb::int(1, 10), opsets.concat(), pb::blob(7, graph)].concat()
}

/// The graph with few constants or many, and the values of its inputs.
fn imported(case: &Value, many: bool) -> Result<(Graph, Vec<Tensor>), String> {
    let operands: Vec<Option<Tensor>> = case["inputs"].as_array().unwrap().iter().map(tensor).collect();
    let is_varied = |o: &Option<Tensor>| o.as_ref().is_some_and(|t| !(many && t.ty().shape.rank() == 0));
    let first = operands.iter().position(is_varied).unwrap_or(0);
    // No input has a size of 0.
    let is_empty = |slot: usize| operands[slot].as_ref().is_some_and(|t| t.ty().shape.n_elems() == Some(0));
    let mut constants: BTreeSet<usize> =
        (0..operands.len()).filter(|&slot| many && slot != first || is_empty(slot)).collect();
    loop {
        match import_bytes(&model(case, &operands, &constants), None, &ImportOptions::default(), &registry()) {
            Ok((graph, _)) => {
                let given = operands.iter().enumerate().filter(|(slot, _)| !constants.contains(slot));
                return Ok((graph, given.filter_map(|(_, operand)| operand.clone()).collect()));
            }
            Err(error) => {
                let slot = error.free_input().and_then(|name| name.strip_prefix('x')).and_then(|n| n.parse().ok());
                match slot.filter(|slot| constants.insert(*slot)) {
                    Some(_) => {}
                    None => return Err(error.to_string()),
                }
            }
        }
    }
}

/// What is wrong with a result, if anything.
fn difference(given: &Tensor, expected: &Tensor, case: &Value) -> Option<String> {
    if given.ty() != expected.ty() {
        return Some(format!("{} for {}", given.ty(), expected.ty()));
    }
    if expected.dtype().class() != Class::Float {
        let steps = case["steps"].as_i64().unwrap_or(0);
        let (given, expected) = (given.to_i64s().unwrap(), expected.to_i64s().unwrap());
        let is_off = given.iter().zip(&expected).any(|(g, e)| (g - e).abs() > steps);
        return is_off.then(|| format!("{given:?} for {expected:?}"));
    }
    let usual = if expected.dtype().bits() == 16 { 1e-3 } else { 1e-5 };
    let limit = case["bound"].as_f64().unwrap_or(usual);
    let (given, expected) = (given.to_f32s().unwrap(), expected.to_f32s().unwrap());
    let (mut error, mut norm) = (0.0f64, 1e-30f64);
    for (g, e) in given.iter().zip(expected.iter()) {
        // What ONNX Runtime has as the lowest float, which hides a key, is minus infinity here.
        let e = if *e == f32::MIN { f32::NEG_INFINITY } else { *e };
        if *g != e && !(g.is_nan() && e.is_nan()) {
            error += f64::from(g - e).powi(2);
        }
        norm += if e.is_finite() { f64::from(e).powi(2) } else { 0.0 };
    }
    let error = (error / norm).sqrt();
    (error.is_nan() || error > limit).then(|| {
        format!("relative L2 {error:e}: {:?} for {:?}", &given[..given.len().min(6)], &expected[..given.len().min(6)])
    })
}

fn check(case: &Value, many: bool, devices: &[DeviceInfo]) -> Result<(), String> {
    let (graph, inputs) = imported(case, many)?;
    let settings = Settings { policy: "uniform:f32".parse()?, ..Settings::default() };
    let options = Compile { settings, target: device::target(), n_threads: 1 };
    let program = compile(&graph, &options, &|_, _, _| {}, None).map_err(|e| e.to_string())?.program;
    let expected: Vec<Tensor> = case["outputs"].as_array().unwrap().iter().filter_map(tensor).collect();
    let places = devices.iter().map(|device| (DeviceChoice::Index(device.index), device.name.as_str()));
    for (choice, place) in [(DeviceChoice::Cpu, "CPU reference")].into_iter().chain(places) {
        let mut session = Session::of(program.clone(), choice).map_err(|e| format!("{place}: {e}"))?;
        let given = session.run(&inputs).map_err(|e| format!("{place}: {e}"))?.outputs;
        if given.len() != expected.len() {
            return Err(format!("{} outputs for {}", given.len(), expected.len()));
        }
        for (out, (given, expected)) in given.iter().zip(&expected).enumerate() {
            if let Some(difference) = difference(given, expected, case) {
                return Err(format!("{place}, output {out}: {difference}"));
            }
        }
    }
    Ok(())
}

#[test]
fn operators_of_microsoft_agree_with_onnx_runtime() {
    let devices = devices().unwrap_or_default();
    if devices.is_empty() {
        eprintln!("SKIPPED: no Vulkan device, so only the CPU reference ran");
    }
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/microsoft_cases.json")).unwrap();
    let mut failures = Vec::new();
    for (i, case) in cases.iter().enumerate() {
        for many in [false, true] {
            // Devices take turns between the two.
            let devices = if many == (i % 2 == 0) { &devices[..] } else { &[] };
            if let Err(error) = check(case, many, devices) {
                let (op, attrs) = (case["op"].as_str().unwrap(), &case["attrs"]);
                failures.push(format!("case {i}: {op} {attrs} many constants {many}: {error}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {} cases fail\n{}", failures.len(), cases.len(), failures.join("\n"));
}

/// The integers nearest to `x / scale`, plus the zero point, ties to even: QuantizeLinear, u8.
fn quantized(x: f32, scale: f32, zero: i64) -> i64 {
    ((x / scale).round_ties_even() as i64 + zero).clamp(0, 255)
}

fn dequantized(code: i64, scale: f32, zero: i64) -> f32 {
    (code - zero) as f32 * scale
}

/// A model of opset 21 whose inputs `a` and `b` are codes, with the scales and zero points `sa`, `za`, `sb` and so on.
fn codes_model(nodes: &[Vec<u8>], a: &[i64], b: &[i64], scales: [(f32, i64); 3]) -> Vec<u8> {
    let mut graph = nodes.concat();
    for (name, (scale, zero)) in ["a", "b", "c"].iter().zip(scales) {
        graph.extend(pb::f32s(&format!("s{name}"), &[], &[scale]));
        graph.extend(pb::blob(5, pb::tensor(&format!("z{name}"), 2, &[], &[zero as u8])));
    }
    graph.extend(pb::typed_input("a", 2, a));
    graph.extend(pb::typed_input("b", 2, b));
    graph.extend(pb::output("y"));
    pb::model(graph)
}

/// The outputs of a model on the CPU and on every device.
fn outputs(model: &[u8], inputs: &[Tensor]) -> Vec<(String, Vec<Tensor>)> {
    let (graph, _) = import_bytes(model, None, &ImportOptions::default(), &registry()).unwrap();
    let settings = Settings { policy: "uniform:f32".parse().unwrap(), ..Settings::default() };
    let options = Compile { settings, target: device::target(), n_threads: 1 };
    let program = compile(&graph, &options, &|_, _, _| {}, None).unwrap().program;
    let devices = devices().unwrap_or_default();
    let places = devices.iter().map(|device| (DeviceChoice::Index(device.index), device.name.clone()));
    [(DeviceChoice::Cpu, "CPU reference".to_owned())]
        .into_iter()
        .chain(places)
        .map(|(choice, place)| {
            let mut session = Session::of(program.clone(), choice).unwrap();
            (place, session.run(inputs).unwrap().outputs)
        })
        .collect()
}

/// An operator of two operands, and what it computes.
type Operator = (&'static str, fn(f32, f32) -> f32);

/// What is between two codes goes to the even one as the graph's own f32 arithmetic has it: no reciprocal, no product
/// and sum in one rounding (ONNX Runtime issue 32132). All pairs of codes, for the scales of that report and others.
#[test]
fn ties_round_as_the_graph_is_written() {
    let all: Vec<i64> = (0..256).collect();
    let column = Tensor::from_i64s(nyxc::ir::DType::U8, &[256, 1], &all).unwrap();
    let row = Tensor::from_i64s(nyxc::ir::DType::U8, &[1, 256], &all).unwrap();
    let operators: [Operator; 3] = [("Add", |a, b| a + b), ("Sub", |a, b| a - b), ("Mul", |a, b| a * b)];
    for (op, function) in operators {
        for scales in [
            [(0.08, 128), (0.04, 100), (0.16, 120)],
            [(0.1, 128), (0.3, 7), (0.2, 30)],
            [(0.02, 0), (0.03, 0), (0.025, 0)],
        ] {
            let [a, b, c] = scales;
            let nodes = [
                pb::node("DequantizeLinear", &["a", "sa", "za"], &["af"], &[]),
                pb::node("DequantizeLinear", &["b", "sb", "zb"], &["bf"], &[]),
                pb::node(op, &["af", "bf"], &["cf"], &[]),
                pb::node("QuantizeLinear", &["cf", "sc", "zc"], &["y"], &[]),
            ];
            let model = codes_model(&nodes, &[256, 1], &[1, 256], scales);
            let expected: Vec<i64> = all
                .iter()
                .flat_map(|&x| all.iter().map(move |&y| (x, y)))
                .map(|(x, y)| quantized(function(dequantized(x, a.0, a.1), dequantized(y, b.0, b.1)), c.0, c.1))
                .collect();
            for (place, given) in outputs(&model, &[column.clone(), row.clone()]) {
                let given = given[0].to_i64s().unwrap();
                let n_off = given.iter().zip(&expected).filter(|(g, e)| g != e).count();
                assert_eq!(n_off, 0, "{op} {scales:?} on {place}: {n_off} of {} codes differ", expected.len());
            }
        }
    }
}

/// The same of averages over windows and over whole planes.
#[test]
fn averages_round_as_the_graph_is_written() {
    let codes: Vec<i64> = (0..4096i64).map(|i| (i * i * 31 + i * 17) % 256).collect();
    let input = Tensor::from_i64s(nyxc::ir::DType::U8, &[1, 256, 4, 4], &codes).unwrap();
    let one = Tensor::from_i64s(nyxc::ir::DType::U8, &[1], &[0]).unwrap();
    for (op, window) in [("AveragePool", 2usize), ("AveragePool", 3), ("GlobalAveragePool", 4)] {
        for scales in [[(0.16, 120), (1.0, 0), (0.16, 120)], [(0.1, 0), (1.0, 0), (0.03, 5)]] {
            let [a, _, c] = scales;
            let attrs =
                if op == "AveragePool" { vec![pb::attr_ints("kernel_shape", &[window as i64; 2])] } else { vec![] };
            let nodes = [
                pb::node("DequantizeLinear", &["a", "sa", "za"], &["af"], &[]),
                pb::node(op, &["af"], &["cf"], &attrs),
                pb::node("QuantizeLinear", &["cf", "sc", "zc"], &["y"], &[]),
            ];
            let model = codes_model(&nodes, &[1, 256, 4, 4], &[1], scales);
            let side = 5 - window;
            let mut expected = Vec::new();
            for plane in codes.chunks(16) {
                for at in 0..side * side {
                    let inside =
                        (0..window * window).map(|k| plane[(at / side + k / window) * 4 + at % side + k % window]);
                    let sum = inside.map(|code| dequantized(code, a.0, a.1)).fold(0.0f32, |sum, v| sum + v);
                    expected.push(quantized(sum / (window * window) as f32, c.0, c.1));
                }
            }
            for (place, given) in outputs(&model, &[input.clone(), one.clone()]) {
                let given = given[0].to_i64s().unwrap();
                let most = given.iter().zip(&expected).map(|(g, e)| (g - e).abs()).max();
                // A mean of whole planes is summed in lanes, which the standard leaves open.
                let allowed = i64::from(op == "GlobalAveragePool");
                let n_off = given.iter().zip(&expected).filter(|(g, e)| g != e).count();
                assert!(
                    most <= Some(allowed),
                    "{op} {window} {scales:?} on {place}: {n_off} of {} differ",
                    expected.len()
                );
                assert!(
                    n_off * 50 <= expected.len(),
                    "{op} {window} {scales:?} on {place}: {n_off} of {}",
                    expected.len()
                );
            }
        }
    }
}

/// What is not supported says so, with the operator, the attribute or operand, and what to do.
#[test]
fn refusals_say_what_to_do() {
    let refusal = |op: &str, domain: &str, inputs: &[(&str, i64, &[i64])], attrs: &[Vec<u8>]| {
        let names: Vec<&str> = inputs.iter().map(|(name, _, _)| *name).collect();
        let fields = pb::node_fields(op, &names, &["y"]);
        let mut graph = pb::blob(1, [fields, pb::blob(3, "node"), pb::blob(7, domain), attrs.concat()].concat());
        for (name, dtype, dims) in inputs.iter().filter(|(name, _, _)| !name.is_empty()) {
            graph.extend(pb::typed_input(name, *dtype, dims));
        }
        graph.extend(pb::output("y"));
        let opsets = [pb::blob(8, pb::int(2, 17)), pb::blob(8, [pb::blob(1, domain), pb::int(2, 1)].concat())];
        let model = [pb::int(1, 10), opsets.concat(), pb::blob(7, graph)].concat();
        import_bytes(&model, None, &ImportOptions::default(), &registry()).unwrap_err().to_string()
    };
    let x = ("x", 1, &[1i64, 4, 8][..]);
    let heads = || vec![pb::attr_int("num_heads", 2)];
    let with = |more: Vec<u8>| [heads(), vec![more]].concat();
    let k = ("k", 1, &[1i64, 4, 8][..]);
    let none = ("", 0, &[][..]);
    let cases: Vec<(String, &[&str])> = vec![
        (refusal("Frob", "com.microsoft", &[x], &[]), &["com.microsoft.Frob", "docs/microsoft.md"]),
        (refusal("PagedAttention", "com.microsoft", &[x], &[]), &["com.microsoft.PagedAttention", "without use_gpu"]),
        (refusal("Conv", "com.ms.internal.nhwc", &[x], &[]), &["com.ms.internal.nhwc.Conv", "ORT_ENABLE_EXTENDED"]),
        (refusal("Frob", "com.microsoft.nchwc", &[x], &[]), &["com.microsoft.nchwc.Frob", "ORT_ENABLE_EXTENDED"]),
        (
            refusal(
                "MultiHeadAttention",
                "com.microsoft",
                &[x, k, ("v", 1, &[1, 4, 8]), none, none, none, none, none, ("n", 6, &[1])],
                &heads(),
            ),
            &["past_sequence_length", "cache that grows"],
        ),
        (
            refusal(
                "MultiHeadAttention",
                "com.microsoft",
                &[x, k, ("v", 1, &[1, 4, 8]), none, ("m", 6, &[5])],
                &heads(),
            ),
            &["mask i32[5]", "[2 * batch]"],
        ),
        (
            refusal(
                "MultiHeadAttention",
                "com.microsoft",
                &[x, ("k", 1, &[1, 5, 8]), ("v", 1, &[1, 5, 8])],
                &with(pb::attr_int("unidirectional", 1)),
            ),
            &["unidirectional is 1", "4 queries and 5 keys"],
        ),
        (
            refusal("Attention", "com.microsoft", &[x, ("w", 1, &[8, 24])], &with(pb::attr_int("do_rotary", 1))),
            &["do_rotary is 1", "RotaryEmbedding"],
        ),
        (
            refusal(
                "FusedConv",
                "com.microsoft",
                &[("x", 1, &[1, 2, 4]), ("w", 1, &[2, 2, 1])],
                &[pb::attr_str("activation", "Frob")],
            ),
            &["activation", "\"Frob\"", "node of its own"],
        ),
        (
            refusal(
                "MatMulNBits",
                "com.microsoft",
                &[x, ("b", 2, &[4, 1, 8]), ("s", 1, &[4])],
                &[pb::attr_int("K", 8), pb::attr_int("N", 4), pb::attr_int("block_size", 16), pb::attr_int("bits", 3)],
            ),
            &["attribute bits is 3", "2, 4 or 8"],
        ),
    ];
    for (message, parts) in cases {
        assert!(message.contains("not supported"), "{message}");
        for part in parts {
            assert!(message.contains(part), "{message:?} has no {part:?}");
        }
    }
}

/// Files as ONNX Runtime's own tools write them, from the file to the device: the cases that `tests/make_ort_files.py`
/// wrote.
#[test]
fn files_of_onnx_runtimes_tools_agree_with_it() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/ort_files.json")).unwrap();
    let mut failures = Vec::new();
    for case in &cases {
        let name = case["name"].as_str().unwrap();
        let model = cases::base64(case["model"].as_str().unwrap());
        for run in case["runs"].as_array().unwrap() {
            let read = |name: &str| run[name].as_array().unwrap().iter().filter_map(tensor).collect::<Vec<_>>();
            let (inputs, expected) = (read("inputs"), read("outputs"));
            for (place, given) in outputs(&model, &inputs) {
                assert_eq!(given.len(), expected.len(), "{name}");
                for (out, (given, expected)) in given.iter().zip(&expected).enumerate() {
                    if let Some(difference) = difference(given, expected, case) {
                        failures.push(format!("{name}, {place}, output {out}: {difference}"));
                    }
                }
            }
        }
    }
    assert_eq!(cases.len(), 15);
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Weights in blocks of channels whose size nothing determines are refused.
#[test]
fn blocks_of_unknown_size_are_refused() {
    let filters: Vec<f32> = (0..32 * 16).map(|i| i as f32 + 1.0).collect();
    let fields = pb::node_fields("Conv", &["x", "w"], &["y"]);
    let graph = [
        pb::blob(1, [fields, pb::blob(3, "node"), pb::blob(7, "com.microsoft.nchwc")].concat()),
        pb::f32s("w", &[32, 16, 1, 1], &filters),
        pb::input("x", &[1, 16, 2, 2]),
        pb::output("y"),
    ];
    let opsets =
        [pb::blob(8, pb::int(2, 17)), pb::blob(8, [pb::blob(1, "com.microsoft.nchwc"), pb::int(2, 1)].concat())];
    let model = [pb::int(1, 10), opsets.concat(), pb::blob(7, graph.concat())].concat();
    let refusal = import_bytes(&model, None, &ImportOptions::default(), &registry()).unwrap_err().to_string();
    assert!(refusal.contains("blocks of 8 or 16 channels") && refusal.contains("ORT_ENABLE_EXTENDED"), "{refusal}");
}

/// What the optimizer fused gets formats as what it was made of does.
#[test]
fn weights_of_fused_operators_get_formats() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/ort_files.json")).unwrap();
    let weights = |case: &Value, policy: &str| {
        let model = cases::base64(case["model"].as_str().unwrap());
        let (graph, _) = import_bytes(&model, None, &ImportOptions::default(), &registry()).unwrap();
        let settings = Settings { policy: policy.parse().unwrap(), ..Settings::default() };
        let options = Compile { settings, target: device::target(), n_threads: 1 };
        compile(&graph, &options, &|_, _, _| {}, None).unwrap().program.plans[0].ledger.weights
    };
    for name in ["bert, extended", "bert, by the optimizer of transformers", "images, extended", "images, all"] {
        let case = cases.iter().find(|case| case["name"] == name).unwrap();
        assert!(!case["operators"].as_object().unwrap().is_empty());
        let (wide, narrow) = (weights(case, "uniform:f32"), weights(case, "uniform:w8a32"));
        // Codes of a quarter, scales, and what rows are padded by.
        assert!(narrow * 2 < wide, "{name}: {narrow} bytes of weights for {wide}");
    }
}
