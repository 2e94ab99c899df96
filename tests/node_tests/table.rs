//! The tables: node tests by operator, models by folder.

use crate::case::Case;
use crate::verdict::Verdict;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::sync::Mutex;

/// Where the parts of docs/node-tests.md begin.
pub const NODES: &str = "# The standard's node tests";
pub const MODELS: &str = "## Models";

/// Puts `text` in the place of the part of the file that begins with `part`, and leaves the other part as it is.
pub fn write(path: &OsStr, part: &str, text: &str) {
    // Tests run side by side.
    static FILE: Mutex<()> = Mutex::new(());
    let _guard = FILE.lock().unwrap();
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let (nodes, models) = old.split_at(old.find(MODELS).unwrap_or(old.len()));
    let new = if part == NODES {
        format!("{text}{}{models}", if models.is_empty() { "" } else { "\n" })
    } else {
        format!("{}\n\n{text}", nodes.trim_end())
    };
    std::fs::write(path, new).unwrap();
}

/// The part of docs/node-tests.md about models: a line a folder, and one for each that is refused.
pub fn models(cases: &[Case], verdicts: &[Verdict]) -> String {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut refused: BTreeSet<String> = BTreeSet::new();
    for (case, verdict) in cases.iter().zip(verdicts) {
        let (folder, name) = case.name.rsplit_once('/').unwrap_or(("", &case.name));
        rows.entry(folder).or_default().count(verdict);
        if let Verdict::Refused(reason) = verdict {
            refused.insert(format!("- `{name}`: {}\n", short(reason)));
        }
    }
    let mut text = format!(
        "{MODELS}

`NYXC_MODEL_TESTS`: `onnx/backend/test/data` of the onnx wheel (light models with their inputs and tolerances as onnx's
runner makes them) and Debian's libonnx-testdata, on lavapipe and on the CPU reference.

| folder | models | device | host | folded | refused |
|---|---|---|---|---|---|
"
    );
    for (folder, row) in rows {
        let cell = |i: usize| if row.counts[i] == 0 { String::new() } else { row.counts[i].to_string() };
        let _ =
            writeln!(text, "| {folder} | {} | {} | {} | {} | {} |", row.counts[0], cell(1), cell(2), cell(3), cell(4));
    }
    if !refused.is_empty() {
        let _ = write!(text, "\nRefused:\n\n{}", refused.into_iter().collect::<String>());
    }
    text
}

#[derive(Default)]
struct Row {
    /// Tests, on the device, with host nodes, folded away, refused, wrong or crashed.
    counts: [usize; 6],
    reasons: BTreeMap<String, usize>,
}

impl Row {
    /// Counts a verdict; its column.
    fn count(&mut self, verdict: &Verdict) -> usize {
        let column = match verdict {
            Verdict::Device(_) => 1,
            Verdict::Host(_) => 2,
            Verdict::Folded => 3,
            Verdict::Refused(reason) => {
                *self.reasons.entry(short(reason)).or_default() += 1;
                4
            }
            Verdict::Wrong(_) | Verdict::Crash(_) => 5,
        };
        self.counts[0] += 1;
        self.counts[column] += 1;
        column
    }
}

/// The part of docs/node-tests.md about nodes.
pub fn table(cases: &[Case], verdicts: &[Verdict]) -> String {
    let mut rows: BTreeMap<&str, Row> = BTreeMap::new();
    let mut sum = [0; 6];
    for (case, verdict) in cases.iter().zip(verdicts) {
        let row = rows.entry(&case.operator).or_default();
        for column in [0, row.count(verdict)] {
            sum[column] += 1;
        }
    }
    let mut text = format!(
        "{NODES}

Written by `tests/node_tests`; [its head](../tests/node_tests/main.rs) says how to run it. {} tests of the ONNX
standard, each compiled and run on lavapipe and on the CPU reference, at the standard's tolerances. *Device*: all of it
in kernels, or in no kernel at all. *Host*: some node on the CPU reference between dispatches, as everything of f64 and
of numbers beyond the device's is. *Folded*: all inputs decide shapes, so that they had to be constants, and nothing
was left to run. Expanded tests count with the operator that they expand.

Through the command line the same tests are run as a user would: `nyxc compile` with `--dim` for the sizes that a file
leaves open, `--constants` for the inputs and `--holds` for the sequences and optionals that a refusal asks for, then
`nyxc run` on a `.npz` file of the other inputs, and the `.npz` file that it wrote compared. 1,846 pass, 0 are wrong, 38
refused: the same as below. The suite takes a sample; all of them:

```console
$ NYXC_NODE_TESTS=DIR cargo test --locked --test node_tests -- --ignored command_line
```

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
        let reasons: Vec<_> = row
            .reasons
            .iter()
            .map(|(reason, n)| if *n == row.counts[4] { reason.clone() } else { format!("{n} {reason}") })
            .collect();
        let cell = |i: usize| if row.counts[i] == 0 { String::new() } else { row.counts[i].to_string() };
        let _ = writeln!(
            text,
            "| {operator} | {} | {} | {} | {} | {} | {} |",
            row.counts[0],
            cell(1),
            cell(2),
            cell(3),
            cell(4),
            reasons.join("; ")
        );
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
