//! Programs and models of files under ranges.

use super::*;

#[test]
fn a_program_of_a_file_has_no_rows_where_it_had_none_when_it_was_made() {
    let body = "  %x = input : f32[n,64]
  %w = input : f32[64,8]
  %m = matmul(%x, %w) : f32[n,8]
  %y = softmax(%m) {axis=-1} : f32[n,8]
  output %y
";
    check(&[("n", 0, 20)], body, &[&[("n", 0)], &[("n", 1)], &[("n", 20)], &[("n", 0)], &[("n", 9)]], ALL);
}

#[test]
fn a_real_model_takes_any_batch_and_width_on_every_target() {
    let dims = ["x.0=1..3", "x.2=48", "x.3=32..200"].iter().map(|d| DimBinding::parse(d).unwrap()).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/ppocr-cls.onnx");
    let graph = import(&path, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).unwrap().0;
    let options = Options { validation: true, ..Options::from_env() };
    let devices = devices().unwrap();
    for name in shipped_names() {
        let target = Target::shipped(name).unwrap();
        let program = compiled(&graph, "uniform:f32", &target);
        let Some(device) = devices.first() else { continue };
        let context = VkContext::open(device.index, &target.features, &options).unwrap();
        let Ok(mut session) = Session::on(program, &context) else {
            println!("{name}: {} lacks what it needs", device.name);
            continue;
        };
        for at in [&[("x.0", 1), ("x.3", 33)][..], &[("x.0", 3), ("x.3", 200)], &[("x.0", 2), ("x.3", 192)]] {
            let inputs = inputs(&graph, at);
            let expected = Reference::new(sized(&graph, at)).run(&inputs).unwrap();
            let given = session.run(&inputs).unwrap().outputs;
            assert!(distance(&given, &expected) <= 1e-4, "{name} at {at:?}: {:e}", distance(&given, &expected));
        }
    }
    assert_eq!(validation_errors(), 0);
}
