//! What a run is given: every array is used or refused, initializers that are inputs too are defaults, every element
//! type travels both ways, and an index out of range ends the run with its node, its place and the range, on the CPU
//! reference and on every Vulkan device alike.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod defaults;
#[path = "../common/device.rs"]
mod device;
mod indices;
#[path = "../common/pb.rs"]
mod pb;

use defaults::scaled;
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
