//! The table by operator.

use crate::case::Case;
use crate::verdict::Verdict;
use std::collections::BTreeMap;
use std::fmt::Write as _;

#[derive(Default)]
struct Row {
    /// Tests, on the device, with host nodes, folded away, refused, wrong or crashed.
    counts: [usize; 6],
    reasons: BTreeMap<String, usize>,
}

/// The text of docs/node-tests.md.
pub fn table(cases: &[Case], verdicts: &[Verdict]) -> String {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut sum = [0; 6];
    for (case, verdict) in cases.iter().zip(verdicts) {
        let row = rows.entry(&case.operator).or_default();
        let column = match verdict {
            Verdict::Device(_) => 1,
            Verdict::Host(_) => 2,
            Verdict::Folded => 3,
            Verdict::Refused(reason) => {
                *row.reasons.entry(short(reason)).or_default() += 1;
                4
            }
            Verdict::Wrong(_) | Verdict::Crash(_) => 5,
        };
        for column in [0, column] {
            row.counts[column] += 1;
            sum[column] += 1;
        }
    }
    let mut text = format!(
        "# The standard's node tests

Written by `tests/node_tests`; [its head](../tests/node_tests/main.rs) says how to run it. {} tests of the ONNX standard, each compiled and run on
lavapipe and on the CPU reference, at the standard's tolerances. *Device*: all of it in kernels, or in no kernel at all. *Host*: some node on the
CPU reference between dispatches. *Folded*: all inputs decide shapes, so that they had to be constants, and nothing was left to run. Expanded tests
count with the operator that they expand.

**{} pass: {} on the device, {} with host nodes, {} folded; {} refused, {} wrong.**

| operator | tests | device | host | folded | refused | why |
|---|---|---|---|---|---|---|
",
        sum[0],
        sum[1] + sum[2] + sum[3],
        sum[1],
        sum[2],
        sum[3],
        sum[4],
        sum[5]
    );
    for (operator, row) in rows {
        let reasons: Vec<_> =
            row.reasons.iter().map(|(reason, n)| if *n == row.counts[4] { reason.clone() } else { format!("{n} {reason}") }).collect();
        let cell = |i: usize| if row.counts[i] == 0 { String::new() } else { row.counts[i].to_string() };
        let _ = writeln!(text, "| {operator} | {} | {} | {} | {} | {} | {} |", row.counts[0], cell(1), cell(2), cell(3), cell(4), reasons.join("; "));
    }
    text
}

/// A reason without names of nodes and numbers of one test.
fn short(reason: &str) -> String {
    let text = match reason.split_once("): ") {
        Some((head, rest)) if head.starts_with("node ") => rest,
        _ => reason,
    };
    text.chars().take(90).collect::<String>().replace('|', "/").replace('\n', " ")
}
