//! Small programs made by hand, run on whatever Vulkan device is here, with the validation layers watching.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and says aloud what it skips")]

use super::*;
use crate::ir::{DType, Tensor};
use crate::program::profile::Track;
use crate::program::*;
use crate::targets::Target;
use std::io::Write as _;
use std::sync::mpsc;
use std::time::Duration;

mod faults;
mod maker;

use maker::{ADD_CONSTANT, AFFINE, DOUBLE_HALVES, DOUBLE_INTS, FLOATS, Maker, N, NEEDS_F16, floats, port, shader};

/// `y = (((x * 2 + 1) * 2 + 1) ...)`, `n_steps` times, back and forth between two regions.
fn chain(target: &Target, n_steps: usize) -> Program {
    let mut maker = Maker::new(target, 1 << 14);
    let (x, y) = (port("x", FLOATS, N, 0), port("y", FLOATS, N, 8192));
    let affine = shader("affine_f32", AFFINE);
    let regions = [x.region, y.region];
    for i in 0..n_steps {
        let params = [N as u32, 0.5f32.to_bits(), 1.0f32.to_bits()];
        maker.dispatch(&affine, vec![regions[i % 2], regions[(i + 1) % 2]], &params, N as u32, i > 0);
    }
    maker.input(x);
    maker.output(Port { region: regions[n_steps % 2], ..y });
    maker.finish()
}

fn chained(values: &[f32], n_steps: usize) -> Vec<f32> {
    values.iter().map(|&v| (0..n_steps).fold(v, |v, _| 0.5 * v + 1.0)).collect()
}

/// Runs `test` on every device, and then asks the validation layers what they saw, the end of the device included.
fn on_devices(test: impl Fn(&VkContext, &Target)) {
    let found = devices().unwrap_or_default();
    if found.is_empty() {
        // Straight to the terminal: the test harness swallows `eprintln!`.
        let _ = std::io::stderr().write_all(b"SKIPPED: no Vulkan device\n");
        return;
    }
    for info in found {
        let options = Options { validation: true, cache_dir: None, fault: None, ..Options::from_env() };
        let context = VkContext::open(info.index, &info.target.features, &options).unwrap();
        test(&context, &info.target);
        drop(context);
        assert_eq!(validation_errors(), 0, "on {}", info.name);
    }
}

/// Tests that need a device say that they were skipped where there is none. Where one is required, that is a failure.
#[test]
fn a_device_is_here_where_one_is_required() {
    let is_required = std::env::var_os("NYXC_REQUIRE_DEVICE").is_some_and(|value| value == "1");
    let found = devices();
    assert!(
        !is_required || found.as_ref().is_ok_and(|found| !found.is_empty()),
        "NYXC_REQUIRE_DEVICE is 1, and there is no Vulkan device: {found:?}"
    );
}

fn kept(executor: &Executor) {
    assert_eq!(executor.measured_peak_bytes(), executor.planned_peak_bytes());
}

#[test]
fn devices_describe_themselves() {
    on_devices(|context, target| {
        target.check().unwrap();
        let mut opened = context.info().target.clone();
        if Options::from_env().checks.is_some_and(|checks| checks.contains("gpu")) {
            // The layer rounds buffers up to words.
            opened.memory.allocation_granularity = target.memory.allocation_granularity;
        }
        assert_eq!(target, &opened);
        assert!(context.info().name.len() > 2 && !target.name.contains(' '), "{target:?}");
        let json = serde_json::to_string(target).unwrap();
        assert_eq!(&Target::from_json("read", &json).unwrap(), target);
    });
}

#[test]
fn an_affine_map_runs_twice_with_other_inputs() {
    on_devices(|context, target| {
        let mut executor = Executor::load(&chain(target, 1), 0, context).unwrap();
        for scale in [1.0, -3.0] {
            let values: Vec<f32> = floats(N).1.iter().map(|v| v * scale).collect();
            let run = executor.run(&[Tensor::from_f32s(DType::F32, &[N], &values).unwrap()]).unwrap();
            assert_eq!(run.outputs[0].to_f32s().unwrap().as_ref(), chained(&values, 1));
            assert!(run.device_ms.is_none_or(|ms| ms >= 0.0));
        }
        kept(&executor);
    });
}

#[test]
fn dispatches_see_what_those_before_wrote() {
    on_devices(|context, target| {
        let mut executor = Executor::load(&chain(target, 3), 0, context).unwrap();
        let (x, values) = floats(N);
        assert_eq!(executor.run(&[x]).unwrap().outputs[0].to_f32s().unwrap().as_ref(), chained(&values, 3));
        kept(&executor);
    });
}

#[test]
fn a_long_entry_is_split_and_can_be_profiled() {
    on_devices(|context, target| {
        let mut executor = Executor::load(&chain(target, 4003), 0, context).unwrap();
        let (x, values) = floats(N);
        let first = executor.run(std::slice::from_ref(&x)).unwrap();
        assert_eq!(first.outputs[0].to_f32s().unwrap().as_ref(), chained(&values, 4003));
        assert!(first.profile.is_none());
        if first.device_ms.is_some() {
            executor.set_profiling(true).unwrap();
            let spans = executor.run(std::slice::from_ref(&x)).unwrap().profile.unwrap();
            let on = |track| spans.iter().filter(move |span| span.track == track).collect::<Vec<_>>();
            let (device, host) = (on(Track::Device), on(Track::Host));
            assert_eq!((device.len(), device[4002].name.as_str()), (4003, "node4002"));
            assert!(device.iter().all(|span| !span.kernel.is_empty()));
            // Dispatches follow each other, after what the host did to start them.
            assert!(device.is_sorted_by_key(|span| span.start) && host[0].start <= device[0].start);
            assert_eq!(host.iter().map(|span| span.name.as_str()).collect::<Vec<_>>()[0], "write inputs");
            executor.set_profiling(false).unwrap();
        }
        assert_eq!(executor.run(&[x]).unwrap().outputs, first.outputs);
        kept(&executor);
    });
}

fn watched(info: &DeviceInfo, checks: &str) -> Result<VkContext, RuntimeError> {
    let options = Options {
        validation: true,
        cache_dir: None,
        fault: None,
        checks: Some(checks.to_owned()),
        ..Options::from_env()
    };
    VkContext::open(info.index, &info.target.features, &options)
}

/// Loads a program in another thread, and says when it has and holds no device any more: the process may end then,
/// which the layers do not survive while a thread destroys a device.
fn load_elsewhere(info: &DeviceInfo, context: &VkContext) -> mpsc::Receiver<Result<(), RuntimeError>> {
    let (program, context, (done, loaded)) = (chain(&info.target, 1), context.clone(), mpsc::channel());
    std::thread::spawn(move || {
        let result = Executor::load(&program, 0, &context).map(drop);
        drop(context);
        done.send(result)
    });
    loaded
}

/// Whoever names an object has the loader look through lists that others change: while this thread keeps them, another
/// cannot load a program.
#[test]
fn objects_are_named_while_no_device_comes_or_goes() {
    for info in devices().unwrap_or_default() {
        let context = watched(&info, "core").unwrap();
        let alone = vk::handles();
        let loaded = load_elsewhere(&info, &context);
        assert!(loaded.recv_timeout(Duration::from_secs(5)).is_err(), "it did not wait");
        drop(alone);
        loaded.recv_timeout(Duration::from_mins(1)).unwrap().unwrap();
    }
}

/// The layers that instrument shaders do so for one thread at a time: while this one keeps them, another cannot load a
/// program.
#[test]
fn shaders_are_instrumented_one_at_a_time() {
    for info in devices().unwrap_or_default() {
        let alone = vk::instrumenting();
        let plain = load_elsewhere(&info, &watched(&info, "core").unwrap());
        plain.recv_timeout(Duration::from_mins(1)).expect("without instrumentation it does not wait").unwrap();
        let instrumented = match watched(&info, "core,gpu") {
            Err(error) if error.to_string().contains("break loops") => return println!("SKIPPED: {error}"),
            other => load_elsewhere(&info, &other.unwrap()),
        };
        assert!(instrumented.recv_timeout(Duration::from_secs(5)).is_err(), "it did not wait");
        drop(alone);
        instrumented.recv_timeout(Duration::from_mins(1)).unwrap().unwrap();
    }
}

fn with_weights(target: &Target, staging_bytes: Option<u64>) -> (Program, Vec<f32>) {
    let mut maker = Maker::new(target, 1 << 15);
    if let Some(bytes) = staging_bytes {
        maker = maker.staging(bytes);
    }
    let weights: Vec<f32> = (0..N).map(|i| (i * i) as f32).collect();
    maker.constant(Tensor::from_f32s(DType::F32, &[3], &[9.0; 3]).unwrap(), 0);
    let w = maker.constant(Tensor::from_f32s(DType::F32, &[N], &weights).unwrap(), 256);
    let (x, y, z) = (port("x", FLOATS, N, 0), port("y", FLOATS, N, 8192), port("z", FLOATS, N, 16384));
    maker.dispatch(&shader("add_f32", ADD_CONSTANT), vec![x.region, w, y.region], &[], N as u32, false);
    let params = [N as u32, 2.0f32.to_bits(), 1.0f32.to_bits()];
    maker.dispatch(&shader("affine_f32", AFFINE), vec![y.region, z.region], &params, N as u32, true);
    maker.input(x);
    maker.output(z);
    maker.output(y);
    (maker.finish(), weights)
}

fn run_weights(context: &VkContext, program: &Program, weights: &[f32]) {
    let mut executor = Executor::load(program, 0, context).unwrap();
    let (x, values) = floats(N);
    let staging = program.plans[0].allocations.iter().find(|a| a.kind == AllocationKind::Staging).map(|a| a.bytes);
    for again in [false, true, true] {
        let RunOutput { outputs, work, .. } = executor.run(std::slice::from_ref(&x)).unwrap();
        if again && staging.is_none_or(|bytes| bytes >= 1 << 16) {
            assert_eq!(work, Work { submits: 1, waits: 1, recorded: 0 }, "a ring of {staging:?}");
        }
        let sums: Vec<f32> = values.iter().zip(weights).map(|(v, w)| v + w).collect();
        assert_eq!(outputs[1].to_f32s().unwrap().as_ref(), sums);
        assert_eq!(outputs[0].to_f32s().unwrap().as_ref(), sums.iter().map(|v| 2.0 * v + 1.0).collect::<Vec<_>>());
    }
    kept(&executor);
}

#[test]
fn memory_that_the_host_does_not_reach_is_filled_through_the_ring() {
    on_devices(|context, target| {
        // Rings from one that takes everything at once to one that takes a few words. Drivers give no buffer of less
        // than 64 bytes.
        for bytes in [1 << 16, 256, 64] {
            let (program, weights) = with_weights(target, Some(bytes));
            run_weights(context, &program, &weights);
        }
    });
}

#[test]
fn a_plan_for_separate_memory_keeps_its_peak_on_unified_memory() {
    on_devices(|context, target| {
        let mut separate = target.clone();
        separate.memory.unified = false;
        let (program, weights) = with_weights(&separate, Some(4096));
        run_weights(context, &program, &weights);
    });
}

#[test]
fn a_written_and_reread_program_runs() {
    on_devices(|context, target| {
        let staging = (!target.memory.unified).then_some(4096);
        let (program, weights) = with_weights(target, staging);
        let bytes = file::to_bytes(&program).unwrap();
        run_weights(context, &file::read(std::sync::Arc::new(bytes)).unwrap(), &weights);
    });
}

#[test]
fn halves_and_integers_come_and_go_in_the_models_types() {
    on_devices(|context, target| {
        let mut maker = Maker::new(target, 1 << 14);
        let halves = (DType::F32, DType::F16);
        let (x, y) = (port("x", halves, 5, 0), port("y", halves, 5, 256));
        maker.dispatch(&shader("double_f16", DOUBLE_HALVES), vec![x.region, y.region], &[], 3, false);
        let (i, j) = (port("i", (DType::I16, DType::I32), 3, 512), port("j", (DType::I16, DType::I32), 3, 768));
        maker.dispatch(&shader("double_i32", DOUBLE_INTS), vec![i.region, j.region], &[], 3, false);
        [x, i].into_iter().for_each(|p| maker.input(p));
        let flag = Port { dtype: DType::Bool, name: "b".to_owned(), ..j.clone() };
        [y, j, flag].into_iter().for_each(|p| maker.output(p));
        let mut executor = Executor::load(&maker.finish(), 0, context).unwrap();
        let x = Tensor::from_f32s(DType::F32, &[5], &[1.0, -2.5, 3.0, 0.25, 100.0]).unwrap();
        let i = Tensor::from_i64s(DType::I16, &[3], &[-4, 0, 1 << 13]).unwrap();
        let outputs = executor.run(&[x, i]).unwrap().outputs;
        assert_eq!(outputs[0].to_f32s().unwrap().as_ref(), [2.0, -5.0, 6.0, 0.5, 200.0]);
        assert_eq!(outputs[1], Tensor::from_i64s(DType::I16, &[3], &[-8, 0, 1 << 14]).unwrap());
        assert_eq!(outputs[2], Tensor::from_i64s(DType::Bool, &[3], &[1, 0, 1]).unwrap());
        kept(&executor);
    });
}

#[test]
fn a_host_step_stands_between_dispatches() {
    on_devices(|context, target| {
        for staging in [None, Some(512), Some(1 << 14)] {
            let mut maker = Maker::new(target, 1 << 14);
            if let Some(bytes) = staging {
                maker = maker.staging(bytes);
            }
            let (x, y) = (port("x", FLOATS, N, 0), port("y", FLOATS, N, 8192));
            let (affine, params) = (shader("affine_f32", AFFINE), [N as u32, 2.0f32.to_bits(), 1.0f32.to_bits()]);
            maker.dispatch(&affine, vec![x.region, y.region], &params, N as u32, false);
            let inputs = vec![None, Some(y.clone())];
            maker.main().steps.push(Step::Host(HostStep {
                node: "negate".to_owned(),
                inputs,
                outputs: vec![x.clone()],
            }));
            maker.dispatch(&affine, vec![x.region, y.region], &params, N as u32, false);
            maker.input(x);
            maker.output(y);
            let program = maker.finish();
            let mut executor = Executor::load(&program, 0, context).unwrap();
            let (x, values) = floats(N);
            let negate = |node: &str, operands: &[Option<Tensor>], _: &crate::program::Sizes| match operands {
                [None, Some(y)] if node == "negate" => {
                    let values: Vec<f32> = y.to_f32s().unwrap().iter().map(|v| -v).collect();
                    Ok(vec![Tensor::from_f32s(DType::F32, &[N], &values).unwrap()])
                }
                _ => Err(format!("{node} has {} operands", operands.len()).into()),
            };
            let first = executor.run_entry("main", std::slice::from_ref(&x), &negate).unwrap();
            let run = executor.run_entry("main", std::slice::from_ref(&x), &negate).unwrap();
            assert_eq!(run.outputs, first.outputs);
            if staging.is_none_or(|bytes| bytes > 512) {
                // What the host step reads and writes goes with the dispatches before and behind it.
                assert_eq!(run.work, Work { submits: 2, waits: 2, recorded: 0 });
            }
            let wanted: Vec<f32> = values.iter().map(|v| -(2.0 * v + 1.0) * 2.0 + 1.0).collect();
            assert_eq!(run.outputs[0].to_f32s().unwrap().as_ref(), wanted);
            assert_eq!(executor.host_nodes(), ["negate"]);
            assert!(matches!(executor.run(&[x]), Err(RuntimeError::Host { node, .. }) if node == "negate"));
            kept(&executor);
        }
    });
}

/// Tensors larger than slots of the ring, larger than all of it, and many small ones, each copied back as it came and
/// as another type.
#[test]
fn inputs_and_outputs_of_any_size_go_through_rings_of_any_size() {
    on_devices(|context, target| {
        for staging in [None, Some(32), Some(4096), Some(10 << 20), Some(13 << 20)] {
            let sizes: &[usize] =
                if staging == Some(32) { &[1, 3, 100] } else { &[1, 3, 300_000, 7, 1_200_000, 2, 800_000] };
            let mut maker = Maker::new(target, 64 << 20);
            if let Some(bytes) = staging {
                maker = maker.staging(bytes);
            }
            let (mut offset, mut inputs) = (0, Vec::new());
            for (i, &n) in sizes.iter().enumerate() {
                let types = [(DType::F32, DType::F32), (DType::F32, DType::F16), (DType::I16, DType::I32)][i % 3];
                let x = port(&format!("x{i}"), types, n, offset);
                offset += x.region.bytes.next_multiple_of(256);
                maker.output(Port { name: format!("y{i}"), ..x.clone() });
                maker.input(x);
                let values: Vec<i64> = (0..n as i64).map(|v| (v * 37 + i as i64) % 2003 - 1001).collect();
                let floats: Vec<f32> = values.iter().map(|v| *v as f32).collect();
                inputs.push(match types.0 {
                    DType::F32 => Tensor::from_f32s(DType::F32, &[n], &floats).unwrap(),
                    dtype => Tensor::from_i64s(dtype, &[n], &values).unwrap(),
                });
            }
            let (x, y) = (port("", FLOATS, N, offset), port("", FLOATS, N, offset + 8192));
            let params = [N as u32, 2.0f32.to_bits(), 1.0f32.to_bits()];
            maker.dispatch(&shader("affine_f32", AFFINE), vec![x.region, y.region], &params, N as u32, false);
            let mut executor = Executor::load(&maker.finish(), 0, context).unwrap();
            for _ in 0..3 {
                let run = executor.run(&inputs).unwrap();
                assert!(run.outputs == inputs, "a ring of {staging:?}");
                assert!(run.work.submits <= 1 || staging.is_some());
            }
            kept(&executor);
        }
    });
}

#[test]
fn wrong_inputs_are_refused_and_the_next_run_is_right() {
    on_devices(|context, target| {
        let mut executor = Executor::load(&chain(target, 1), 0, context).unwrap();
        let (x, values) = floats(N);
        let refused = executor.run(&[floats(3).0]).unwrap_err();
        assert_eq!(refused.to_string(), "input \"x\": f32[3] given, f32[1000] wanted");
        assert!(matches!(executor.run(&[]), Err(RuntimeError::Input { name, .. }) if name == "x"));
        assert!(executor.run(&[x.clone(), x.clone()]).is_err());
        assert_eq!(executor.run(&[x]).unwrap().outputs[0].to_f32s().unwrap().as_ref(), chained(&values, 1));
    });
}

#[test]
fn a_plan_larger_than_the_heap_is_out_of_memory_with_the_numbers() {
    on_devices(|context, target| {
        let mut maker = Maker::new(target, 1 << 14);
        let most = target.limits.max_memory_allocation_size.min(1 << 40) / 4096 * 4096;
        for _ in 0..=target.memory.heap_bytes / most {
            maker.plan().allocations.push(Allocation { kind: AllocationKind::Arena, bytes: most });
        }
        let program = maker.finish();
        let refused = Executor::load(&program, 0, context).err().unwrap();
        assert!(refused.is_out_of_memory());
        let RuntimeError::OutOfMemory { asked_bytes, free_bytes } = refused else { panic!("{refused}") };
        assert!(asked_bytes > free_bytes && free_bytes <= target.memory.heap_bytes);
    });
}

#[test]
fn a_program_that_needs_what_the_device_lacks_is_refused() {
    on_devices(|context, target| {
        let mut maker = Maker::new(target, 1 << 14);
        maker.program.target.features.f16_arithmetic = true;
        let (x, y) = (port("x", FLOATS, N, 0), port("y", FLOATS, N, 8192));
        maker.dispatch(&shader("double_f16", NEEDS_F16), vec![x.region, y.region], &[], N as u32, false);
        [x].into_iter().for_each(|p| maker.input(p));
        maker.output(y);
        let program = maker.finish();
        let mut without = target.features.clone();
        without.f16_arithmetic = false;
        let lesser = VkContext::open(
            context.info().index,
            &without,
            &Options { validation: true, cache_dir: None, fault: None, ..Options::from_env() },
        )
        .unwrap();
        let refused = Executor::load(&program, 0, &lesser).err().unwrap().to_string();
        assert!(refused.contains("shaderFloat16") && refused.contains("double_f16"), "{refused}");
        if target.features.f16_arithmetic {
            let (x, values) = floats(N);
            let run = Executor::load(&program, 0, context).unwrap().run(&[x]).unwrap();
            assert_eq!(run.outputs[0].to_f32s().unwrap().as_ref(), values.iter().map(|v| 2.0 * v).collect::<Vec<_>>());
        }
    });
}

#[test]
fn a_device_that_the_caller_owns_runs_programs_and_stays() {
    on_devices(|context, target| {
        for _ in 0..2 {
            // SAFETY: the handles are those of a context that outlives the borrowed one, and nobody else uses its
            // queue.
            let borrowed = unsafe { VkContext::from_raw(&context.raw(), &Options::from_env()) }.unwrap();
            let mut executor = Executor::load(&chain(target, 2), 0, &borrowed).unwrap();
            let (x, values) = floats(N);
            assert_eq!(executor.run(&[x]).unwrap().outputs[0].to_f32s().unwrap().as_ref(), chained(&values, 2));
        }
    });
}

#[test]
fn a_spoilt_pipeline_cache_is_ignored_and_replaced() {
    on_devices(|context, target| {
        let dir = std::env::temp_dir().join(format!("nyxc-cache-{}", std::process::id()));
        let options = Options { validation: true, cache_dir: Some(dir.clone()), fault: None, ..Options::from_env() };
        let load = || {
            let context = VkContext::open(context.info().index, &target.features, &options).unwrap();
            Executor::load(&chain(target, 1), 0, &context).unwrap();
            std::fs::read_dir(&dir).unwrap().map(|f| f.unwrap().path()).collect::<Vec<_>>()
        };
        let files = load();
        assert_eq!(files.len(), 1, "{files:?}");
        let good = std::fs::read(&files[0]).unwrap();
        for spoilt in [good[..good.len() - 1].to_vec(), vec![], vec![0xff; 4096]] {
            std::fs::write(&files[0], spoilt).unwrap();
            assert_eq!(load(), files);
            assert!(std::fs::read(&files[0]).unwrap().len() >= 64);
        }
        std::fs::remove_dir_all(&dir).unwrap();
    });
}

#[test]
fn executors_on_one_device_run_in_threads() {
    on_devices(|context, target| {
        std::thread::scope(|scope| {
            for n_steps in 1..4 {
                scope.spawn(move || {
                    let mut executor = Executor::load(&chain(target, n_steps), 0, context).unwrap();
                    let (x, values) = floats(N);
                    assert_eq!(
                        executor.run(&[x]).unwrap().outputs[0].to_f32s().unwrap().as_ref(),
                        chained(&values, n_steps)
                    );
                });
            }
        });
    });
}
