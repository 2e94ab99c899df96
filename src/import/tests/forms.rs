//! Old opsets in the newest form.

use super::*;

/// The operators that one node of this opset becomes, given x: f32[2,3,4,4].
fn form(opset: i64, node: NodeProto) -> Vec<String> {
    let outputs = node.output.clone();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).filter(|o| !o.is_empty()).collect();
    operators(&good(opset, graph(vec![info("x", F32, &["2", "3", "4", "4"])], vec![], vec![node], &outputs)))
}

/// The inline data of the constants of a graph of one such node.
fn constants(opset: i64, node: NodeProto) -> Vec<String> {
    let outputs = node.output.clone();
    let outputs: Vec<&str> = outputs.iter().map(String::as_str).filter(|o| !o.is_empty()).collect();
    let graph = good(opset, graph(vec![info("x", F32, &["2", "3", "4", "4"])], vec![], vec![node], &outputs));
    graph.to_string().lines().filter(|l| l.contains(" = const ")).map(|l| l.trim().to_owned()).collect()
}

#[test]
fn bounds_of_clip_are_inputs() {
    let clip = || node("Clip", &["x"], &["y"], vec![float("min", 0.0), float("max", 6.0)]);
    assert_eq!(form(7, clip()), ["%y = clip(%x, %y.min, %y.max) : f32[2,3,4,4] 384B"]);
    assert_eq!(constants(10, clip()), ["%y.min = const [0.0] : f32[] 4B", "%y.max = const [6.0] : f32[] 4B"]);
    let upper = node("Clip", &["x"], &["y"], vec![float("max", 6.0)]);
    assert_eq!(form(7, upper), ["%y = clip(%x, _, %y.max) : f32[2,3,4,4] 384B"]);
}

#[test]
fn axes_are_inputs() {
    let slice = node("Slice", &["x"], &["y"], vec![ints("starts", &[1]), ints("ends", &[3]), ints("axes", &[2])]);
    assert_eq!(form(9, slice), ["%y = slice(%x, %y.starts, %y.ends, %y.axes) : f32[2,3,2,4] 192B"]);
    let mean = || node("ReduceMean", &["x"], &["y"], vec![ints("axes", &[2, 3]), int("keepdims", 0)]);
    assert_eq!(form(13, mean()), ["%y = reduce_mean(%x, %y.axes) {keepdims=0} : f32[2,3] 24B"]);
    assert_eq!(constants(17, mean()), ["%y.axes = const [2,3] : i64[2] 16B"]);
    assert_eq!(form(12, node("ReduceSum", &["x"], &["y"], vec![])), ["%y = reduce_sum(%x) : f32[1,1,1,1] 4B"]);
    let unsqueeze = node("Unsqueeze", &["x"], &["y"], vec![ints("axes", &[0])]);
    assert_eq!(form(11, unsqueeze), ["%y = unsqueeze(%x, %y.axes) : f32[1,2,3,4,4] 384B"]);
    let pad = node("Pad", &["x"], &["y"], vec![ints("pads", &[0, 0, 1, 1, 0, 0, 1, 1]), float("value", 2.0)]);
    assert_eq!(form(10, pad), ["%y = pad(%x, %y.pads, %y.value) : f32[2,3,6,6] 864B"]);
}

#[test]
fn split_counts_its_outputs() {
    let split = || node("Split", &["x"], &["a", "b"], vec![int("axis", 2)]);
    assert_eq!(form(11, split()), [r#"%a, %b = split(%x) {axis=2, num_outputs=2} : f32[2,3,2,4], f32[2,3,2,4] 384B"#]);
    let sizes = node("Split", &["x"], &["a", "b"], vec![int("axis", 2), ints("split", &[1, 3])]);
    assert_eq!(form(11, sizes), [r#"%a, %b = split(%x, %a.split) {axis=2} : f32[2,3,1,4], f32[2,3,3,4] 384B"#]);
}

#[test]
fn softmax_of_a_matrix_is_written_out() {
    let softmax = |axis| node("Softmax", &["x"], &["y"], vec![int("axis", axis)]);
    assert_eq!(form(11, softmax(3)), ["%y = softmax(%x) {axis=-1} : f32[2,3,4,4] 384B"]);
    assert_eq!(form(13, softmax(1)), ["%y = softmax(%x) {axis=1} : f32[2,3,4,4] 384B"]);
    assert_eq!(
        form(11, node("LogSoftmax", &["x"], &["y"], vec![])),
        [
            "%y.flatten = flatten(%x) {axis=1} : f32[2,48] 384B",
            "%y.matrix = log_softmax(%y.flatten) {axis=-1} : f32[2,48] 384B",
            "%y = reshape(%y.matrix, %y.shape) : f32[2,3,4,4] 384B",
        ]
    );
    let wrong = graph(vec![info("x", F32, &["2"])], vec![], vec![softmax(1)], &["y"]);
    assert_eq!(refusal(11, wrong), r#"node "y" (Softmax, opset 11): axis 1 of f32[2]"#);
}

#[test]
fn upsample_and_the_first_resize_are_todays() {
    let scales = AttributeProto { floats: vec![1.0, 1.0, 2.0, 2.0], ..attr("scales", AttributeType::Floats) };
    let form = form(7, node("Upsample", &["x"], &["y"], vec![text("mode", "nearest"), scales]));
    let attrs = r#"{coordinate_transformation_mode="asymmetric", mode="nearest", nearest_mode="floor"}"#;
    assert_eq!(form, [format!("%y = resize(%x, _, %y.scales) {attrs} : f32[2,3,8,8] 1536B")]);
    let scales = floats("s", &[4], &[1.0, 1.0, 2.0, 2.0]);
    let resize = node("Resize", &["x", "s"], &["y"], vec![]);
    let old = good(10, graph(vec![info("x", F32, &["1", "1", "2", "2"])], vec![scales.clone()], vec![resize], &["y"]));
    let attrs = r#"{coordinate_transformation_mode="asymmetric", nearest_mode="floor"}"#;
    assert_eq!(operators(&old), [format!("%y = resize(%x, _, %s) {attrs} : f32[1,1,4,4] 64B")]);
    // Exporters of opset 11 leave an empty tensor where nothing is meant.
    let resize = node("Resize", &["x", "roi", "none", "sizes"], &["y"], vec![]);
    let inits = vec![floats("roi", &[0], &[]), floats("none", &[0], &[]), int64s("sizes", &[4], &[1, 1, 4, 4])];
    let new = good(11, graph(vec![info("x", F32, &["1", "1", "2", "2"])], inits, vec![resize], &["y"]));
    assert_eq!(operators(&new), ["%y = resize(%x, _, _, %sizes) : f32[1,1,4,4] 64B"]);
}

#[test]
fn broadcasts_of_opset_6_get_their_axes() {
    let add = |attrs| {
        let inits = vec![floats("b", &[3], &[1.0, 2.0, 3.0])];
        graph(vec![info("x", F32, &["2", "3", "4", "4"])], inits, vec![node("Add", &["x", "b"], &["y"], attrs)], &["y"])
    };
    let text = good(6, add(vec![int("broadcast", 1), int("axis", 1)])).to_string();
    assert!(text.contains(": f32[3,1,1]") && text.contains("= add(%x, %"), "{text}");
    assert!(refusal(6, add(vec![int("broadcast", 1), int("axis", 4)])).contains("axis 4 of f32[2,3,4,4]"));
    let deep = graph(
        vec![info("x", F32, &["3"]), info("b", F32, &["1", "3"])],
        vec![],
        vec![node("Add", &["x", "b"], &["y"], vec![int("broadcast", 1), int("axis", 0)])],
        &["y"],
    );
    assert!(refusal(6, deep).contains("leaves no room"));
    let slope = vec![floats("s", &[3], &[0.1, 0.2, 0.3])];
    let prelu = good(
        6,
        graph(
            vec![info("x", F32, &["2", "3", "4", "4"])],
            slope,
            vec![node("PRelu", &["x", "s"], &["y"], vec![])],
            &["y"],
        ),
    );
    assert!(prelu.to_string().contains(": f32[3,1,1]"), "{prelu}");
    let dropout = graph(vec![info("x", F32, &["2"])], vec![], vec![node("Dropout", &["x"], &["y"], vec![])], &["y"]);
    assert!(refusal(6, dropout).ends_with("Dropout without is_test=1 trains in this opset, which is not supported"));
}

#[test]
fn numbers_of_element_types_are_types() {
    assert_eq!(
        form(13, node("Cast", &["x"], &["y"], vec![int("to", 10)])),
        ["%y = cast(%x) {to=f16} : f16[2,3,4,4] 192B"]
    );
    let refused = refusal(
        13,
        graph(vec![info("x", F32, &["2"])], vec![], vec![node("Cast", &["x"], &["y"], vec![int("to", 99)])], &["y"]),
    );
    assert_eq!(refused, r#"node "y" (Cast, opset 13): element type 99 is not supported"#);
}

#[test]
fn absent_operands_and_outputs_are_left_out() {
    assert_eq!(form(13, node("Clip", &["x", "", ""], &["y", ""], vec![])), ["%y = clip(%x) : f32[2,3,4,4] 384B"]);
    let dropout = node("Dropout", &["x"], &["y", ""], vec![float("ratio", 0.5)]);
    assert_eq!(form(11, dropout), ["%y = dropout(%x, %y.ratio) : f32[2,3,4,4] 384B"]);
}

#[test]
fn old_batch_normalization_loses_what_went() {
    let one = |name| floats(name, &[3], &[1.0, 1.0, 1.0]);
    let norm = |spatial| {
        let attrs = vec![int("spatial", spatial), float("momentum", 0.9), float("epsilon", 0.5)];
        let nodes = vec![node("BatchNormalization", &["x", "s", "b", "m", "v"], &["y", "", ""], attrs)];
        graph(vec![info("x", F32, &["1", "3", "2", "2"])], vec![one("s"), one("b"), one("m"), one("v")], nodes, &["y"])
    };
    let line = &operators(&good(8, norm(1)))[0];
    assert!(line.starts_with("%y = batch_normalization(%x, %s, %b, %m, %v) {epsilon=0.5f"), "{line}");
    assert!(refusal(8, norm(0)).ends_with("BatchNormalization with spatial=0 is not supported"));
}
