//! What the tests of passes share.

use super::{Context, Settings, by_name};
use crate::ir::{Graph, text};
use crate::targets::Target;

/// Reads a graph whose constants are all written out, or absent.
pub(crate) fn read(text: &str) -> Graph {
    let graph = text::parse(text, &crate::ops::registry(), &|_, _| None).unwrap_or_else(|e| panic!("{e}\n{text}"));
    graph.verify().unwrap_or_else(|e| panic!("{e}"));
    graph
}

/// Runs one pass with default settings, verifies, runs it again without change, and holds the difference in
/// `snapshots/<pass>/<case>.snap`. What shall change nothing is for [`stays`].
pub(crate) fn check(pass: &str, text: &str, case: &str) -> Graph {
    check_with(pass, read(text), case, &Settings::default())
}

/// The same for another target.
pub(crate) fn check_on(target: &str, pass: &str, text: &str, case: &str) -> Graph {
    check_graph_on(target, pass, read(text), case)
}

/// The same with a graph of the caller's.
pub(crate) fn check_graph_on(target: &str, pass: &str, graph: Graph, case: &str) -> Graph {
    check_for(&Target::shipped(target).unwrap(), pass, graph, case, &Settings::default())
}

/// Runs one pass with default settings, which must change nothing.
pub(crate) fn stays(pass: &str, text: &str) {
    stays_on("lavapipe", pass, text);
}

/// The same for another target.
pub(crate) fn stays_on(target: &str, pass: &str, text: &str) {
    let mut graph = read(text);
    let settings = Settings::default();
    run(pass, &mut graph, &mut Context::new(&Target::shipped(target).unwrap(), &settings));
    assert_eq!(graph, read(text), "{pass} changed\n{text}to\n{graph}");
}

/// The same as [`check`] with settings and a graph of the caller's.
pub(crate) fn check_with(pass: &str, graph: Graph, case: &str, settings: &Settings) -> Graph {
    check_for(&Target::shipped("lavapipe").unwrap(), pass, graph, case, settings)
}

fn check_for(target: &Target, pass: &str, mut graph: Graph, case: &str, settings: &Settings) -> Graph {
    let before = graph.to_string();
    let mut context = Context::new(target, settings);
    run(pass, &mut graph, &mut context);
    let after = graph.to_string();
    run(pass, &mut graph, &mut context);
    assert_eq!(graph.to_string(), after, "{pass} changed its own result");
    let mut snapshots = insta::Settings::clone_current();
    snapshots.set_snapshot_path(format!("{}/snapshots/{pass}", env!("CARGO_MANIFEST_DIR")));
    snapshots.set_prepend_module_to_snapshot(false);
    snapshots.set_omit_expression(true);
    snapshots.bind(|| insta::assert_snapshot!(case, diff(&before, &after)));
    graph
}

fn run(pass: &str, graph: &mut Graph, context: &mut Context<'_>) {
    let unit = by_name(pass).unwrap_or_else(|| panic!("no pass {pass}"));
    super::pipeline::run_one(unit.as_ref(), graph, context).unwrap_or_else(|e| panic!("{e}"));
    graph.verify().unwrap_or_else(|e| panic!("{e}\n{graph}"));
}

/// Lines of both texts, those only in the first marked `-`, those only in the second `+`.
fn diff(before: &str, after: &str) -> String {
    let diff = similar::TextDiff::from_lines(before, after);
    diff.iter_all_changes()
        .map(|change| {
            let sign = match change.tag() {
                similar::ChangeTag::Delete => '-',
                similar::ChangeTag::Insert => '+',
                similar::ChangeTag::Equal => ' ',
            };
            format!("{sign}{change}")
        })
        .collect()
}
