//! What happens where a call fails: every call that may, one at a time, in every way.

use super::*;
use crate::ir::text;
use crate::ops::registry;
use crate::passes::Settings;
use crate::session::{Compile, Session, SessionError, compile};

/// Loads and runs on a device of its own; also how many calls that may fail were made.
fn attempt(info: &DeviceInfo, program: &Program, fault: Option<String>) -> (Result<Vec<Tensor>, RuntimeError>, u64) {
    let options = Options { validation: true, cache_dir: None, fault, ..Options::from_env() };
    let context = match VkContext::open(info.index, &info.target.features, &options) {
        Ok(context) => context,
        Err(error) => return (Err(error), 0),
    };
    let loaded = Executor::load(program, 0, &context);
    let result = loaded.and_then(|mut executor| executor.run(&[floats(N).0]).map(|run| run.outputs));
    let n_calls = context.n_calls();
    (result, n_calls)
}

/// A program with a constant and a staging ring, whose uploads take several turns of it.
fn program(target: &Target) -> Program {
    let mut maker = Maker::new(target, 1 << 14);
    let (x, y) = (port("x", FLOATS, N, 0), port("y", FLOATS, N, 8192));
    let w = maker.constant(floats(N).0, 0);
    maker.dispatch(&shader("add_constant", ADD_CONSTANT), vec![x.region, w, y.region], &[], N as u32, false);
    maker.input(x);
    maker.output(y);
    maker.staging(4096).finish()
}

#[test]
fn whatever_call_fails_nothing_is_left_and_the_next_run_works() {
    for info in devices().unwrap_or_default() {
        let program = program(&info.target);
        let (expected, n_calls) = attempt(&info, &program, None);
        let expected = expected.unwrap();
        assert!(n_calls > 20, "{n_calls}");
        for k in 1..=n_calls {
            for what in ["device-memory", "host-memory", "lost"] {
                let (result, _) = attempt(&info, &program, Some(format!("any:{k}={what}")));
                let error = result.unwrap_err();
                let is_named =
                    if what == "lost" { error == RuntimeError::DeviceLost } else { error.is_out_of_memory() };
                assert!(is_named, "call {k}, {what}, on {}: {error}", info.name);
                // The layers count what a destroyed device still had.
                assert_eq!(validation_errors(), 0, "call {k}, {what}, on {}", info.name);
            }
        }
        let (after, again) = attempt(&info, &program, None);
        assert_eq!((after.unwrap(), again), (expected, n_calls), "on {}", info.name);
    }
}

#[test]
fn a_run_that_fails_leaves_an_executor_that_runs() {
    for info in devices().unwrap_or_default() {
        let program = program(&info.target);
        let expected = attempt(&info, &program, None).0.unwrap();
        for what in ["device-memory", "host-memory"] {
            // The first submission of a run: those of the upload come before.
            let fault = format!("vkQueueSubmit:{}={what}", submissions_of_load(&info, &program) + 1);
            let options = Options { validation: true, cache_dir: None, fault: Some(fault), ..Options::from_env() };
            let context = VkContext::open(info.index, &info.target.features, &options).unwrap();
            let mut executor = Executor::load(&program, 0, &context).unwrap();
            assert!(executor.run(&[floats(N).0]).unwrap_err().is_out_of_memory());
            assert_eq!(executor.run(&[floats(N).0]).unwrap().outputs, expected, "after {what} on {}", info.name);
            drop(executor);
            drop(context);
            assert_eq!(validation_errors(), 0, "{what} on {}", info.name);
        }
    }
}

fn submissions_of_load(info: &DeviceInfo, program: &Program) -> u64 {
    let counter = "vkQueueSubmit:1000000=lost".to_owned();
    let options = Options { validation: false, cache_dir: None, fault: Some(counter), ..Options::from_env() };
    let context = VkContext::open(info.index, &info.target.features, &options).unwrap();
    let _executor = Executor::load(program, 0, &context).unwrap();
    context.n_calls()
}

/// A graph whose sizes change between runs, one of them data-dependent, with a step on the host in between: a run takes
/// several submissions, and one at new sizes writes its parameters again.
const RANGED: &str = "graph g onnx where kept in 0..9, seq in 1..9
  %ones = const [1] : i64[1]
  %x = input : f32[seq,6]
  %m = input : i64[seq]
  %w = const [1.0,-2.0,0.5,3.0,-1.0,2.0] : f32[6,1]
  %rows = compress(%x, %m) {axis=0, count=d[kept]} : f32[kept,6]
  %p = matmul(%rows, %w) : f32[kept,1]
  %y = reduce_sum(%p, %ones) {keepdims=0} : f32[kept]
  output %y
";

/// Loads and runs at three sizes, a run that fails once more; the results, the failures, and how many calls that may
/// fail were made.
fn attempt_sizes(
    info: &DeviceInfo,
    program: &Program,
    fault: Option<String>,
) -> (Vec<Vec<Tensor>>, Vec<RuntimeError>, u64) {
    let options = Options { validation: true, cache_dir: None, fault, ..Options::from_env() };
    let context = match VkContext::open(info.index, &info.target.features, &options) {
        Ok(context) => context,
        Err(error) => return (Vec::new(), vec![error], 0),
    };
    let (mut results, mut failures) = (Vec::new(), Vec::new());
    let of_runtime = |error| if let SessionError::Runtime(error) = error { error } else { panic!("{error}") };
    match Session::on(program.clone(), &context).map_err(of_runtime) {
        Ok(mut session) => {
            for n in [4, 9, 1] {
                let mask: Vec<i64> = (0..n as i64).map(|i| i64::from(i % 3 != 1)).collect();
                let x: Vec<f32> = (0..6 * n).map(|i| i as f32 * 0.25 - 3.0).collect();
                let inputs = [
                    Tensor::from_f32s(DType::F32, &[n, 6], &x).unwrap(),
                    Tensor::from_i64s(DType::I64, &[n], &mask).unwrap(),
                ];
                for _ in 0..2 {
                    match session.run(&inputs).map_err(of_runtime) {
                        Ok(run) => {
                            results.push(run.outputs);
                            break;
                        }
                        Err(error) => failures.push(error),
                    }
                }
            }
        }
        Err(error) => failures.push(error),
    }
    let n_calls = context.n_calls();
    (results, failures, n_calls)
}

#[test]
fn whatever_call_fails_while_sizes_change_the_next_run_works() {
    let graph = text::parse(RANGED, &registry(), &|_, _| None).unwrap();
    for info in devices().unwrap_or_default() {
        let settings = Settings { policy: "uniform:f32".parse().unwrap(), ..Settings::default() };
        let options = Compile { settings, target: info.target.clone(), n_threads: 1 };
        let program = compile(&graph, &options, &|_, _, _| {}, None).unwrap().program;
        let (expected, failures, n_calls) = attempt_sizes(&info, &program, None);
        assert_eq!((expected.len(), failures.len()), (3, 0), "on {}", info.name);
        assert_eq!(expected.iter().map(|outputs| outputs[0].dims()).collect::<Vec<_>>(), [[3], [6], [1]]);
        let mut n_runs_failed = 0;
        for k in 1..=n_calls {
            for what in ["device-memory", "host-memory", "lost"] {
                let (results, failures, _) = attempt_sizes(&info, &program, Some(format!("any:{k}={what}")));
                let place = format!("call {k} of {n_calls}, {what}, on {}: {failures:?}", info.name);
                if what == "lost" {
                    // Nothing runs on a device that is lost, and what ran before was right.
                    assert!(!failures.is_empty() && failures.iter().all(|e| *e == RuntimeError::DeviceLost), "{place}");
                    assert_eq!(results, expected[..results.len()], "{place}");
                } else {
                    assert!(failures.len() == 1 && failures[0].is_out_of_memory(), "{place}");
                    assert!(results.is_empty() || results == expected, "{place}");
                    n_runs_failed += usize::from(!results.is_empty());
                }
                assert_eq!(validation_errors(), 0, "{place}");
            }
        }
        assert!(n_runs_failed > 10, "{n_runs_failed} of {n_calls} calls are made by runs");
    }
}
