use super::*;
use crate::ir::text;

fn read(source: &str) -> Graph {
    let graph = text::parse(source, &crate::ops::registry(), &|_, _| None).unwrap_or_else(|e| panic!("{e}\n{source}"));
    graph.verify().unwrap_or_else(|e| panic!("{e}"));
    graph
}

const CHAIN: &str = "\
graph g onnx
  %x = input : f32[2,4]
  %w = const [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0] : f32[4,2]
  %m = matmul(%x, %w) : f32[2,2]
  %a = softmax(%m) {axis=1} : f32[2,2]
  %y = sub(%a, %m) : f32[2,2]
  output %y
";

fn changed(from: &str, to: &str) -> Diff {
    assert!(CHAIN.contains(from), "{from}");
    Diff::of_graphs(&read(CHAIN), &read(&CHAIN.replace(from, to)))
}

fn lines(diff: &Diff) -> Vec<String> {
    let text = diff.to_string();
    text.lines().filter(|l| ["~ ", "+ ", "- ", "    ..."].iter().any(|s| l.starts_with(s))).map(str::to_owned).collect()
}

#[test]
fn what_differs_is_reported_in_one_line() {
    let line = |from: &str, to: &str| lines(&changed(from, to)).join("\n");
    assert_eq!(line("sub(%a, %m)", "sub(%m, %a)"), "~ y  operands (a, m) -> (m, a)");
    assert_eq!(line("axis=1", "axis=0"), "~ a  attribute axis 1 -> 0");
    assert_eq!(line("8.0]", "8.5]"), "~ w  1 of 8 elements differ, by at most 5.000e-1, relative L2 3.501e-2");
    assert_eq!(line("sub(", "div("), "~ y  operator sub -> div");
    assert_eq!(line("output %y", "output %y as \"z\""), "~ outputs  y -> z");
    assert_eq!(line("output %y", "output %y\n  output %a"), "~ outputs  y -> y, a");
    assert_eq!(line("graph g", "graph h"), "~ name  g -> h");
    assert_eq!(Diff::of_graphs(&read(CHAIN), &read(CHAIN)).overview().lines().last(), Some("no difference"));
}

#[test]
fn a_renamed_node_is_one_that_was_renamed() {
    let renamed = CHAIN.replace("%m", "%product").replace("%x", "%input0");
    let diff = Diff::of_graphs(&read(CHAIN), &read(&renamed));
    assert_eq!(lines(&diff), ["~ input0  renamed from x", "~ product  renamed from m"]);
    // One that was changed as well is known by its place.
    let both = renamed.replace("%a", "%b").replace("axis=1", "axis=0");
    let diff = Diff::of_graphs(&read(CHAIN), &read(&both));
    assert_eq!(lines(&diff)[2], "~ b  renamed from a; attribute axis 1 -> 0");
}

#[test]
fn what_follows_is_folded_under_its_cause() {
    let narrow = CHAIN.replace("f32", "f16").replace("8.0] : f16", "8.0] : f32");
    // The input's type is the one cause, but for the constant that keeps its own.
    let narrow = narrow.replace("8.0] : f32", "8.0] : f16");
    let diff = Diff::of_graphs(&read(CHAIN), &read(&narrow));
    let shown = lines(&diff);
    assert_eq!(shown.len(), 3, "{shown:?}");
    assert!(shown[0].starts_with("~ x  type f32[2,4] -> f16[2,4]"), "{shown:?}");
    assert_eq!(shown[1], "    ... and 3 nodes that follow: m, a, y");
    assert!(shown[2].starts_with("~ w  type"), "{shown:?}");
    let inserted = CHAIN.replace("  %y = sub(%a, %m)", "  %r = relu(%a) : f32[2,2]\n  %y = sub(%r, %m)");
    let diff = Diff::of_graphs(&read(CHAIN), &read(&inserted));
    assert_eq!(lines(&diff), ["+ r  relu f32[2,2]", "    ... and 1 node that follows: y"]);
    let diff = Diff::of_graphs(&read(&inserted), &read(CHAIN));
    assert_eq!(lines(&diff), ["- r  relu f32[2,2]", "    ... and 1 node that follows: y"]);
}

#[test]
fn constants_are_compared_by_their_bits() {
    let zero = CHAIN.replace("8.0]", "0.0]");
    let diff = Diff::of_graphs(&read(&zero), &read(&CHAIN.replace("8.0]", "-0.0]")));
    let data = diff.nodes[0].data.unwrap();
    assert_eq!((data.n_differ, data.max_abs), (1, Some(0.0)));
    let diff = Diff::of_graphs(&read(CHAIN), &read(&CHAIN.replace("8.0]", "inf]")));
    assert_eq!(diff.nodes[0].data.unwrap().max_abs, None);
}

#[test]
fn the_document_has_everything() {
    let document = changed("8.0]", "8.5]").to_json();
    assert_eq!(document["equal"], false);
    let node = &document["nodes"][0];
    assert_eq!(
        (&node["name"], &node["change"], &node["data"]["n_differ"]),
        (&"w".into(), &"changed".into(), &1.into())
    );
    assert_eq!(node["before"]["type"], "f32[4,2]");
    assert_eq!(document["summary"]["nodes"]["before"], 3);
    assert_eq!(changed("graph g", "graph g").to_json()["equal"], true);
}
