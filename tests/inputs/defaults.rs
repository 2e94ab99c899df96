//! Initializers that are inputs too.

use super::*;

/// `shared/cases/09`: `y = x * scale`, where the model has a scale that a run may replace.
pub fn scaled(ir_version: i64) -> Vec<u8> {
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

pub fn imported(model: &[u8], initializers: Initializers) -> (Graph, BTreeMap<String, String>) {
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
