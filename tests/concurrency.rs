//! Several at once: processes that write the same file and share the caches, threads that run one program, and programs
//! that come and go on one device.

#![cfg(all(feature = "cli", feature = "codegen", feature = "runtime"))]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
#![allow(clippy::print_stdout, reason = "the harness shows what a failed or long test says")]

#[path = "common/device.rs"]
mod device;
#[path = "common/folder.rs"]
mod folder;

use folder::Folder;
use nyxc::import::{DimBinding, ImportOptions, import};
use nyxc::ir::{Graph, Tensor};
use nyxc::ops::registry;
use nyxc::passes::{Policy, Settings};
use nyxc::program::{Program, file};
use nyxc::runtime::{DeviceInfo, Options, VkContext, devices, validation_errors};
use nyxc::session::{Compile, DeviceChoice, Session, compile};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: one of them weighs the process, and each is about what it starts itself.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Straight to the terminal: the test harness swallows `eprintln!`.
fn say(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/fmnist-mlp.onnx")
}

/// A compilation in a process of its own.
fn start(format: &str, to: &Path, cache: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nyxc"));
    command
        .arg("compile")
        .arg(model())
        .args(["--dim", "batch=1", "--target", "lavapipe", "--policy", &format!("uniform:{format}"), "-o"])
        .arg(to);
    command.env("NYXC_CACHE", cache).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn finish(child: Child) {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

/// A thread that ends after the last device calls what drivers registered for its end, wherever that was.
#[test]
#[cfg(target_os = "linux")]
fn drivers_stay_loaded_after_the_last_device() {
    let libraries = || -> BTreeSet<String> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        maps.lines()
            .filter_map(|line| line.split_whitespace().nth(5))
            .filter(|path| path.contains(".so"))
            .map(str::to_owned)
            .collect()
    };
    let _alone = alone();
    let Some(device) = devices().unwrap_or_default().into_iter().next() else {
        return say("SKIPPED: no Vulkan device\n");
    };
    // Without layers, which are unloaded.
    let context = VkContext::open(device.index, &device.target.features, &Options::default()).unwrap();
    let during = libraries();
    assert!(during.iter().any(|path| path.contains("libvulkan")), "{during:?}");
    drop(context);
    assert_eq!(during.difference(&libraries()).collect::<Vec<_>>(), Vec::<&String>::new());
}

#[test]
fn processes_that_compile_to_one_file_leave_one_whole_program() {
    let _alone = alone();
    let folder = Folder::new("compile");
    let out = folder.0.join("out.nyx");
    // What each of them writes when nobody else does.
    let formats = ["w8a16", "w4a16"];
    let lone: Vec<Vec<u8>> = formats
        .iter()
        .map(|format| {
            let (to, cache) = (folder.0.join(format!("{format}.nyx")), folder.0.join(format!("cache-{format}")));
            finish(start(format, &to, &cache));
            std::fs::read(to).unwrap()
        })
        .collect();
    assert_ne!(lone[0], lone[1]);
    for round in 0..4 {
        // A cache that is empty at first, filled by all at once.
        let cache = folder.0.join(format!("cache-{}", round / 2));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // A reader sees no file, or a whole one.
            let reader = scope.spawn(|| {
                let mut n_seen = 0;
                while !done.load(Ordering::Relaxed) {
                    if let Ok(bytes) = std::fs::read(&out) {
                        assert!(lone.contains(&bytes), "{} bytes that nobody wrote", bytes.len());
                        n_seen += 1;
                    }
                    std::thread::yield_now();
                }
                n_seen
            });
            let children: Vec<Child> = (0..4).map(|i| start(formats[i % 2], &out, &cache)).collect();
            children.into_iter().for_each(finish);
            done.store(true, Ordering::Relaxed);
            let n_seen = reader.join().unwrap();
            assert!(round == 0 || n_seen > 0, "the reader never saw the file");
        });
        assert!(lone.contains(&std::fs::read(&out).unwrap()));
        let program = file::open(&out).unwrap();
        program.check().unwrap();
        let mut session = Session::of(program, DeviceChoice::Cpu).unwrap();
        session.run(&inputs(session.program(), round)).unwrap();
    }
    assert_eq!(
        folder.names(),
        ["cache-0", "cache-1", "cache-w4a16", "cache-w8a16", "out.nyx", "w4a16.nyx", "w8a16.nyx"],
        "something was left behind"
    );
    let halves = |dir: &Path| {
        std::fs::read_dir(dir)
            .unwrap()
            .filter(|e| e.as_ref().unwrap().path().extension().is_some_and(|x| x == "tmp"))
            .count()
    };
    assert_eq!(halves(&folder.0.join("cache-0")), 0, "the cache keeps half-written files");
}

fn program(format: &str) -> Program {
    let options = ImportOptions { dims: vec![DimBinding::parse("batch=1").unwrap()], ..ImportOptions::default() };
    let graph: Graph = import(&model(), &options, &registry()).unwrap().0;
    let settings = Settings { policy: Policy::Uniform(format.parse().unwrap()), ..Settings::default() };
    let options = Compile { settings, target: device::target(), n_threads: 0 };
    compile(&graph, &options, &|_, _, _| {}, None).unwrap().program
}

/// Random inputs of a program: SplitMix64 (Steele et al. 2014).
fn inputs(program: &Program, seed: u64) -> Vec<Tensor> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let one = |port: &nyxc::program::Port| {
        let dims: Vec<usize> = port.shape.iter().map(|d| d.known().unwrap() as usize).collect();
        let values: Vec<f32> = (0..dims.iter().product()).map(|_| next()).collect();
        Tensor::from_f32s(port.dtype, &dims, &values).unwrap()
    };
    program.plans[0].entries[0].inputs.iter().map(one).collect()
}

#[test]
fn sessions_of_one_program_in_several_threads_agree() {
    let _alone = alone();
    let program = program("w8a16");
    let all = devices().unwrap_or_default();
    if all.is_empty() {
        say("SKIPPED: no Vulkan device, so threads ran one program on the CPU reference alone\n");
    }
    let choices = [DeviceChoice::Cpu].into_iter().chain(all.iter().map(|d| DeviceChoice::Index(d.index)));
    for choice in choices {
        let sets: Vec<Vec<Tensor>> = (0..5).map(|seed| inputs(&program, seed)).collect();
        let mut session = Session::of(program.clone(), choice).unwrap();
        let expected: Vec<Vec<Tensor>> = sets.iter().map(|set| session.run(set).unwrap().outputs).collect();
        assert_ne!(expected[0], expected[1], "the inputs make no difference");
        drop(session);
        let context = match choice {
            DeviceChoice::Index(index) => {
                Some(VkContext::open(index, &program.target.features, &Options::from_env()).unwrap())
            }
            _ => None,
        };
        std::thread::scope(|scope| {
            for thread in 0..6usize {
                let (program, sets, expected, context) = (&program, &sets, &expected, &context);
                scope.spawn(move || {
                    // Half of them share a device and its queue, the others open their own.
                    let mut session = match context {
                        Some(context) if thread.is_multiple_of(2) => Session::on(program.clone(), context).unwrap(),
                        _ => Session::of(program.clone(), choice).unwrap(),
                    };
                    for turn in 0..10 {
                        let at = (turn + thread) % sets.len();
                        assert_eq!(
                            session.run(&sets[at]).unwrap().outputs,
                            expected[at],
                            "thread {thread}, turn {turn}, {choice:?}"
                        );
                    }
                });
            }
        });
    }
}

/// Resident bytes of this process.
fn resident() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").ok()?;
    text.split(' ').nth(1)?.parse::<u64>().ok().map(|pages| pages * 4096)
}

/// Open files of this process: devices and their memory may be among them.
fn open_files() -> Option<usize> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count())
}

/// Loads, runs and drops programs in turn, `n` times.
fn come_and_go(programs: &[Program], context: &VkContext, n: usize) {
    for turn in 0..n {
        let program = &programs[turn % programs.len()];
        let mut session = Session::on(program.clone(), context).unwrap();
        session.run(&inputs(program, turn as u64)).unwrap();
        assert!(session.measured_peak_bytes() <= program.plans[0].planned_peak_bytes);
    }
}

const FORMATS: [&str; 5] = ["f32", "f16", "w8a16", "w4a16", "w8a8"];

#[test]
fn a_hundred_programs_on_one_device_leave_memory_as_it_was() {
    let _alone = alone();
    let all: Vec<DeviceInfo> = devices().unwrap_or_default();
    if all.is_empty() {
        say("SKIPPED: no Vulkan device, so no programs came and went\n");
    }
    let programs: Vec<Program> = FORMATS.iter().map(|format| program(format)).collect();
    for device in all {
        let context = VkContext::open(device.index, &programs[0].target.features, &Options::from_env()).unwrap();
        // The driver's own pools fill first.
        come_and_go(&programs, &context, 40);
        let before = (resident(), open_files());
        come_and_go(&programs, &context, 100);
        let after = (resident(), open_files());
        let ((Some(resident), Some(files)), (Some(now), Some(files_now))) = (before, after) else {
            say("SKIPPED: no /proc, so memory was not weighed\n");
            continue;
        };
        println!(
            "{}: {resident} bytes resident after 40 programs, {now} after 140; open files {files}, then {files_now}",
            device.name
        );
        // A program leaked would be 5 to 450 KB of weights; a hundred of them, 20 MB.
        assert!(
            now <= resident + (4 << 20),
            "{}: {resident} bytes resident after 40 programs, {now} after 140",
            device.name
        );
        assert_eq!(files, files_now, "{}", device.name);
    }
}

#[test]
fn programs_that_went_leave_no_object_on_the_device() {
    let _alone = alone();
    let programs: Vec<Program> = FORMATS.iter().map(|format| program(format)).collect();
    for device in devices().unwrap_or_default() {
        let before = validation_errors();
        let options = Options { validation: true, cache_dir: None, ..Options::from_env() };
        let context = match VkContext::open(device.index, &programs[0].target.features, &options) {
            Ok(context) => context,
            Err(error) => {
                say(&format!("SKIPPED: {}: {error}, so nobody counts what is left on it\n", device.name));
                continue;
            }
        };
        come_and_go(&programs, &context, 10);
        // The layers name every object that is still there when the device goes (VUID-vkDestroyDevice-device-05137).
        drop(context);
        assert_eq!(validation_errors(), before, "{}", device.name);
    }
}
