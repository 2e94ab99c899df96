//! What happens where a call fails: every call that may, one at a time, in every way.

use super::*;

/// Loads and runs on a device of its own; also how many calls that may fail were made.
fn attempt(info: &DeviceInfo, program: &Program, fault: Option<String>) -> (Result<Vec<Tensor>, RuntimeError>, u64) {
    let options = Options { validation: true, cache_dir: None, fault, ..Options::from_env() };
    let context = VkContext::open(info.index, &info.target.features, &options).unwrap();
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
                let is_named = if what == "lost" { error == RuntimeError::DeviceLost } else { error.is_out_of_memory() };
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
    let counted = "vkQueueSubmit:1000000=lost".to_owned();
    let options = Options { validation: false, cache_dir: None, fault: Some(counted), ..Options::from_env() };
    let context = VkContext::open(info.index, &info.target.features, &options).unwrap();
    let _executor = Executor::load(program, 0, &context).unwrap();
    context.n_calls()
}
