//! The ONNX standard's own node tests, from the folder that `../shared/scripts/onnx_node_tests.py DIR` wrote, on the
//! Vulkan device and on the CPU reference:
//!
//! ```text
//! NYXC_NODE_TESTS=DIR cargo test --locked --test node_tests
//! NYXC_NODE_TESTS=DIR NYXC_NODE_TESTS_TABLE=docs/node-tests.md cargo test --locked --test node_tests
//! ```
//!
//! The same tests through the command line, `nyxc compile` and `nyxc run` with `.npz` files:
//!
//! ```text
//! NYXC_NODE_TESTS=DIR cargo test --locked --test node_tests -- --ignored command_line
//! ```
//!
//! Whole models come from folders of the same layout, and from `light/MODEL.onnx` with `MODEL_output_0.pb` beside it:
//! `onnx/backend/test/data` of the onnx wheel, and Debian's libonnx-testdata. All but those listed here must pass:
//!
//! ```text
//! NYXC_MODEL_TESTS=DIR[:DIR]... cargo test --locked --test node_tests
//! ```
//!
//! One line a test goes to standard error; `NYXC_NODE_TESTS_ONLY=TEXT` runs those whose names contain the text. A wrong
//! result or a crash fails.

#![cfg(all(feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "../common/child.rs"]
mod child;
#[path = "../common/folder.rs"]
mod folder;

mod case;
mod command_line;
mod compare;
mod table;
mod verdict;

use case::Case;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use verdict::{Runner, Verdict};

/// How many of the 1,884 tests of onnx 1.23.2 pass at least, and how many of them without a node on the host.
const FLOOR: (usize, usize) = (1846, 1576);

/// Straight to the terminal: the test harness swallows `eprintln!`.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Judges every case, each thread by a judge of its own.
fn run_all<J: Fn(&Case) -> Verdict>(cases: &[Case], judge: &(dyn Fn() -> J + Sync)) -> Vec<Verdict> {
    // A panic is a verdict, whose line has its text.
    std::panic::set_hook(Box::new(|_| {}));
    let next = AtomicUsize::new(0);
    let verdicts: Mutex<Vec<Option<Verdict>>> = Mutex::new(vec![None; cases.len()]);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let judge = judge();
                while let Some((at, case)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|at| Some((at, cases.get(at)?)))
                {
                    let verdict = judge(case);
                    say(&format!("{}: {verdict}\n", case.name));
                    verdicts.lock().unwrap()[at] = Some(verdict);
                }
            });
        }
    });
    let _ = std::panic::take_hook();
    verdicts.into_inner().unwrap().into_iter().map(Option::unwrap).collect()
}

/// Judges all cases, and says how many pass: on the device, with host nodes, folded away.
fn judge(cases: &[Case]) -> (Vec<Verdict>, [usize; 3]) {
    let verdicts = run_all(cases, &|| {
        let runner = Runner::new();
        move |case: &Case| runner.judge(case)
    });
    let pass = tally(&verdicts);
    (verdicts, pass)
}

/// Judges all cases through the command line, on a Vulkan device if there is one.
fn judge_commands(cases: &[Case]) -> (Vec<Verdict>, usize) {
    let has_device = nyxc::runtime::devices().is_ok_and(|devices| !devices.is_empty());
    let device = if has_device { "vulkan" } else { "cpu" };
    let verdicts = run_all(cases, &|| move |case: &Case| command_line::judge(case, device));
    let pass = tally(&verdicts).iter().sum();
    (verdicts, pass)
}

/// Says how many pass, and fails where one is wrong or crashed.
fn tally(verdicts: &[Verdict]) -> [usize; 3] {
    let count = |is: fn(&Verdict) -> bool| verdicts.iter().filter(|v| is(v)).count();
    let pass = [
        count(|v| matches!(v, Verdict::Device(_))),
        count(|v| matches!(v, Verdict::Host(_))),
        count(|v| matches!(v, Verdict::Folded)),
    ];
    let refused = count(|v| matches!(v, Verdict::Refused(_)));
    let (wrong, crashed) = (count(|v| matches!(v, Verdict::Wrong(_))), count(|v| matches!(v, Verdict::Crash(_))));
    let [device, host, folded] = pass;
    say(&format!(
        "{} tests: {} pass ({device} on the device, {host} with host nodes, {folded} folded away), {refused} refused, {wrong} wrong, {crashed} crashed\n",
        verdicts.len(),
        device + host + folded
    ));
    assert_eq!((wrong, crashed), (0, 0), "wrong or crashed; the lines above say which");
    pass
}

#[test]
fn the_standards_node_tests() {
    let Some(dir) = std::env::var_os("NYXC_NODE_TESTS").map(PathBuf::from) else {
        return say("SKIPPED: NYXC_NODE_TESTS names no folder of ONNX's node tests\n");
    };
    let only = std::env::var("NYXC_NODE_TESTS_ONLY").unwrap_or_default();
    let cases: Vec<Case> =
        Case::all(&case::folder(&dir)).into_iter().filter(|case| case.name.contains(&only)).collect();
    let (verdicts, [device, host, folded]) = judge(&cases);
    if let Some(path) = std::env::var_os("NYXC_NODE_TESTS_TABLE") {
        table::write(&path, table::NODES, &table::table(&cases, &verdicts));
    }
    if only.is_empty() {
        assert!(device + host + folded >= FLOOR.0 && device >= FLOOR.1, "fewer pass than {FLOOR:?}");
    }
}

/// Models that are refused: the beginning of the name after the last folder, and a part of the reason.
const REFUSED: &[(&str, &str)] = &[("test_strnorm_model", "tensors of text are not supported")];

#[test]
fn the_standards_models() {
    let Some(dirs) = std::env::var_os("NYXC_MODEL_TESTS") else {
        return say("SKIPPED: NYXC_MODEL_TESTS names no folder of models with inputs and outputs\n");
    };
    let only = std::env::var("NYXC_NODE_TESTS_ONLY").unwrap_or_default();
    let of = |dir: PathBuf| {
        // The folders of two distributions have equal names within.
        let outer =
            dir.components().rev().take(2).map(|c| c.as_os_str().to_string_lossy().into_owned()).collect::<Vec<_>>();
        let outer = outer.into_iter().rev().collect::<Vec<_>>().join("/");
        // The node tests have a runner of their own.
        let models = Case::all(&case::folder(&dir)).into_iter().filter(|case| !case.name.starts_with("node/"));
        models.map(move |case| Case { name: format!("{outer}/{}", case.name), ..case })
    };
    let cases: Vec<Case> = std::env::split_paths(&dirs).flat_map(of).filter(|case| case.name.contains(&only)).collect();
    assert!(!cases.is_empty(), "no models in {dirs:?}");
    let (verdicts, _) = judge(&cases);
    let listed = |case: &Case| {
        REFUSED.iter().find(|(name, _)| case.name.rsplit('/').next().is_some_and(|last| last.starts_with(name)))
    };
    for (case, verdict) in cases.iter().zip(&verdicts) {
        match (verdict, listed(case)) {
            (Verdict::Refused(why), Some((_, part))) => assert!(why.contains(part), "{}: {why}", case.name),
            (Verdict::Refused(why), None) => panic!("{}: {why}", case.name),
            (_, Some(_)) => panic!("{} passes: it is refused no more", case.name),
            _ => {}
        }
    }
    if let Some(path) = std::env::var_os("NYXC_NODE_TESTS_TABLE") {
        table::write(&path, table::MODELS, &table::models(&cases, &verdicts));
    }
}

/// Two small ones of each operator (`tests/make_node_sample.py`), which all pass.
#[test]
fn a_sample_of_the_standards_node_tests() {
    let cases = Case::all(&case::archive(include_bytes!("../data/node_tests.zip")));
    let (verdicts, pass) = judge(&cases);
    let refused: Vec<_> = cases
        .iter()
        .zip(&verdicts)
        .filter(|(_, v)| matches!(v, Verdict::Refused(_)))
        .map(|(c, v)| format!("{}: {v}", c.name))
        .collect();
    assert_eq!(pass.iter().sum::<usize>(), cases.len(), "refused:\n{}", refused.join("\n"));
}

/// How many of the 1,884 tests pass at least through the command line.
const COMMAND_FLOOR: usize = 1846;

#[test]
#[ignore = "a quarter of an hour: two or three processes a test"]
fn the_standards_node_tests_through_the_command_line() {
    let Some(dir) = std::env::var_os("NYXC_NODE_TESTS").map(PathBuf::from) else {
        panic!("NYXC_NODE_TESTS names no folder of ONNX's node tests")
    };
    let only = std::env::var("NYXC_NODE_TESTS_ONLY").unwrap_or_default();
    let cases: Vec<Case> =
        Case::all(&case::folder(&dir)).into_iter().filter(|case| case.name.contains(&only)).collect();
    let (_, pass) = judge_commands(&cases);
    if only.is_empty() {
        assert!(pass >= COMMAND_FLOOR, "{pass} pass, fewer than {COMMAND_FLOOR}");
    }
}

/// Every eighth test of the sample, so that the suite stays fast.
#[test]
fn a_sample_through_the_command_line() {
    let cases = Case::all(&case::archive(include_bytes!("../data/node_tests.zip")));
    let cases: Vec<Case> = cases.into_iter().step_by(8).collect();
    assert!(cases.len() >= 30, "{} tests", cases.len());
    let (verdicts, pass) = judge_commands(&cases);
    let refused: Vec<String> = cases
        .iter()
        .zip(&verdicts)
        .filter(|(_, v)| matches!(v, Verdict::Refused(_)))
        .map(|(c, v)| format!("{}: {v}", c.name))
        .collect();
    assert_eq!(pass, cases.len(), "refused:\n{}", refused.join("\n"));
}
