//! States, entries, and tensors that stay on the device: a program on the CPU reference and on every device here.

use super::{check, model};
use nyxc::ir::{DType, Edit, Graph, Module, Patch, Tensor, TensorType, text};
use nyxc::ops::registry;
use nyxc::passes::{Context, Pass, PassError, Settings};
use nyxc::program::{AllocationKind, Program, file};
use nyxc::runtime::{Options, VkContext, devices};
use nyxc::session::{Compile, CompileError, DeviceChoice, Session, SessionError, compile_module};
use nyxc::targets::{Target, shipped_names};

/// Counts its runs.
const COUNTER: &str = "graph counter onnx
  %n = state [0] : i32[1]
  %one = const [1] : i32[1]
  %next = add(%n, %one) : i32[1]
  %stored = state_store(%n, %next) : i32[1]
  output %n as \"before\"
  output %stored as \"after\"
  state %n = %stored
";

/// A cache to which one entry appends a row at a time and another four, at a position that is on the device, and a
/// third that reads it through weights which the first has too.
const CACHE: &str = "module cache
entry decode
graph cache onnx
  %row = input : f32[1,4]
  %w = const #WEIGHTS : f32[4,4]
  %kv = state fill [0.5] : f16[8,4]
  %pos = state [0] : i64[1]
  %one = const [1] : i64[1]
  %mapped = matmul(%row, %w) : f32[1,4]
  %kv.1 = state_store(%kv, %mapped, %pos) {axis=0} : f16[8,4]
  %behind = add(%pos, %one) : i64[1]
  %pos.1 = state_store(%pos, %behind) : i64[1]
  %all = cast(%kv.1) {to=f32} : f32[8,4]
  output %all
  state %kv = %kv.1
  state %pos = %pos.1
entry prefill
graph cache onnx
  %rows = input : f32[4,4]
  %w = const #WEIGHTS : f32[4,4]
  %kv = state fill [0.5] : f16[8,4]
  %pos = state [0] : i64[1]
  %four = const [4] : i64[1]
  %mapped = matmul(%rows, %w) : f32[4,4]
  %kv.1 = state_store(%kv, %mapped, %pos) {axis=0} : f16[8,4]
  %behind = add(%pos, %four) : i64[1]
  %pos.1 = state_store(%pos, %behind) : i64[1]
  output %pos
  state %kv = %kv.1
  state %pos = %pos.1
entry read
graph cache onnx
  %kv = state fill [0.5] : f16[8,4]
  %pos = state [0] : i64[1]
  %all = cast(%kv) {to=f32} : f32[8,4]
  output %all
  output %pos
";

fn floats(dims: &[usize], values: &[f32]) -> Tensor {
    Tensor::from_f32s(DType::F32, dims, values).unwrap()
}

fn read(text: &str) -> Module {
    let weights = floats(&[4, 4], &[1., 0., 0., 0., 0., 2., 0., 0., 0., 0., 1., 0., 0., 0., 0., 1.]);
    let text = text.replace("WEIGHTS", &weights.hash().to_string());
    let find = |hash: &str, _: &TensorType| (weights.hash().to_string() == hash).then(|| weights.clone());
    let module = text::parse_module(&text, &registry(), &find).unwrap_or_else(|e| panic!("{e}"));
    module.verify().unwrap_or_else(|e| panic!("{e}"));
    let printed = module.to_string();
    let again = text::parse_module(&printed, &registry(), &find).unwrap_or_else(|e| panic!("{e}\n{printed}"));
    assert!(again == module && again.to_string() == printed, "it reads back:\n{printed}");
    module
}

fn compiled(module: &Module, policy: &str, target: &Target) -> Program {
    let settings = Settings { policy: policy.parse().unwrap(), ..Settings::default() };
    let options = Compile { settings, target: target.clone(), n_threads: 0 };
    compile_module(module, &options, &|_, _, _| {}, None).unwrap_or_else(|e| panic!("{policy}: {e}")).program
}

/// Runs `f` with sessions of the program: on the CPU, and on every device, each with its own program.
fn each_session(module: &Module, policy: &str, f: &dyn Fn(&str, Session)) {
    let program = compiled(module, policy, &Target::shipped("lavapipe").unwrap());
    let bytes = file::to_bytes(&program).unwrap();
    f("the CPU", Session::load(bytes, DeviceChoice::Cpu).unwrap());
    for device in devices().unwrap_or_default() {
        let program = compiled(module, policy, &device.target);
        let context = VkContext::open(device.index, &program.target.features, &Options::from_env()).unwrap();
        f(&device.name, Session::on(program, &context).unwrap());
    }
}

fn ints(tensor: &Tensor) -> Vec<i64> {
    tensor.to_i64s().unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_f32s().unwrap().to_vec()
}

#[test]
fn a_counter_counts_its_runs_until_it_is_reset() {
    each_session(&read(COUNTER), "uniform:f32", &|device, mut session| {
        for pass in 0..2 {
            for run in 0..5 {
                let outputs = session.run(&[]).unwrap().outputs;
                assert_eq!(
                    (ints(&outputs[0]), ints(&outputs[1])),
                    (vec![run], vec![run + 1]),
                    "{device}: an output is the version that it names, before the store and after it (pass {pass})"
                );
            }
            session.reset().unwrap();
        }
    });
}

#[test]
fn rows_are_appended_at_a_position_on_the_device_and_entries_share_states() {
    for policy in ["uniform:f32", "uniform:f16", "uniform:w8a16"] {
        each_session(&read(CACHE), policy, &|device, mut session| {
            let at = |device: &str| format!("{device} {policy}");
            let rows: Vec<f32> = (1..=16).map(|i| i as f32).collect();
            let before = session.entry("prefill").unwrap().run(&[floats(&[4, 4], &rows)]).unwrap().outputs;
            assert_eq!(ints(&before[0]), [0], "{}", at(device));
            let mut expected = vec![0.5f32; 32];
            let mapped = |row: &[f32]| [row[0], 2.0 * row[1], row[2], row[3]];
            expected[..16].copy_from_slice(&rows.chunks(4).flat_map(mapped).collect::<Vec<_>>());
            for position in 4..8 {
                let row: Vec<f32> = (0..4).map(|i| (position * 4 + i) as f32).collect();
                let all = session.entry("decode").unwrap().run(&[floats(&[1, 4], &row)]).unwrap().outputs;
                expected[position * 4..][..4].copy_from_slice(&mapped(&row));
                assert_eq!(values(&all[0]), expected, "{}", at(device));
                let seen = session.entry("read").unwrap().run(&[]).unwrap().outputs;
                assert_eq!((values(&seen[0]), ints(&seen[1])), (expected.clone(), vec![position as i64 + 1]));
            }
            // The cache is full: the position is out of range, which the run says.
            let refused = session.entry("decode").unwrap().run(&[floats(&[1, 4], &[0.0; 4])]).unwrap_err().to_string();
            assert!(refused.contains("0 to 7 are allowed"), "{}: {refused}", at(device));
            if device != "the CPU" {
                let refused = session.entry("read").unwrap().run(&[]).unwrap_err().to_string();
                assert!(refused.contains("reset"), "{}: {refused}", at(device));
            }
            session.reset().unwrap();
            let seen = session.entry("read").unwrap().run(&[]).unwrap().outputs;
            assert_eq!((values(&seen[0]), ints(&seen[1])), (vec![0.5; 32], vec![0]), "{}", at(device));
        });
    }
}

#[test]
fn entries_share_weights_arena_and_states_and_order_what_they_touch() {
    for name in shipped_names() {
        let target = Target::shipped(name).unwrap();
        let program = compiled(&read(CACHE), "uniform:f32", &target);
        let plan = &program.plans[0];
        assert_eq!(plan.entries.iter().map(|e| e.name.as_str()).collect::<Vec<_>>(), ["decode", "prefill", "read"]);
        let states: Vec<_> = plan.states.iter().map(|s| (s.port.name.as_str(), s.port.region.bytes)).collect();
        assert_eq!(states, [("kv", 64), ("pos", 8)]);
        for kind in [AllocationKind::State, AllocationKind::Arena, AllocationKind::Params] {
            assert_eq!(plan.allocations.iter().filter(|a| a.kind == kind).count(), 1, "{name}: {kind:?}");
        }
        let state = plan.allocations.iter().find(|a| a.kind == AllocationKind::State).unwrap();
        assert_eq!(plan.ledger.state, state.bytes);
        let weights = plan.uploads.iter().filter(|u| u.region.bytes == 64).count();
        assert_eq!(weights, 1, "{name}: the matrix that two entries read is stored once");
        check(name, &program);
    }
}

/// A node that reads a version, and what becomes of it, once it and what it needs are one kernel: it reads a copy.
const LATE: &str = "graph late onnx
  %x = input : f32[64]
  %s = state fill [1.0] : f32[64]
  %n = neg(%s) : f32[64]
  %sum = add(%s, %x) : f32[64]
  %s.1 = state_store(%s, %sum) : f32[64]
  %y = mul(%s.1, %n) : f32[64]
  %t = mul(%y, %s) : f32[64]
  %s.2 = state_store(%s.1, %t) : f32[64]
  output %t
  output %s.2 as \"last\"
  state %s = %s.2
";

#[test]
fn what_reads_a_version_sees_it_wherever_passes_put_the_reader() {
    let x: Vec<f32> = (0..64).map(|i| i as f32 / 64.0).collect();
    each_session(&read(LATE), "uniform:f32", &|device, mut session| {
        let mut state = vec![1.0f32; 64];
        for run in 0..3 {
            let outputs = session.run(&[floats(&[64], &x)]).unwrap().outputs;
            let expected: Vec<f32> = state.iter().zip(&x).map(|(s, x)| ((s + x) * -s) * s).collect();
            assert_eq!(values(&outputs[0]), expected, "{device}, run {run}");
            assert_eq!(values(&outputs[1]), expected, "{device}, run {run}");
            state = expected;
        }
    });
    for name in shipped_names() {
        check(name, &compiled(&read(LATE), "uniform:f32", &Target::shipped(name).unwrap()));
    }
}

#[test]
fn entries_of_one_model_share_its_weights_under_any_budget() {
    let target = Target::shipped("lavapipe").unwrap();
    let graphs = [1, 8].map(|n| model("fmnist-mlp.onnx", &[&format!("batch={n}")]));
    let mut module = Module { name: graphs[0].name.clone(), ..Module::default() };
    for (entry, graph) in ["one", "eight"].into_iter().zip(graphs) {
        module.entries.insert(entry.to_owned(), graph);
    }
    let under = |budget_bytes| {
        let settings = Settings { budget_bytes: Some(budget_bytes), ..Settings::default() };
        let options = Compile { settings, target: target.clone(), n_threads: 0 };
        compile_module(&module, &options, &|_, _, _| {}, None)
    };
    let roomy = under(1 << 30).unwrap().program.plans.remove(0);
    let alone = compiled(&Module::of(module.entries["eight"].clone()), "uniform:f32", &target).plans.remove(0);
    assert_eq!(roomy.ledger.weights, alone.ledger.weights, "each weight is stored once");
    let budget = roomy.planned_peak_bytes / 2;
    let plan = under(budget).unwrap_or_else(|e| panic!("{budget}: {e}")).program.plans.remove(0);
    assert!(plan.planned_peak_bytes <= budget, "{} of {budget}", plan.planned_peak_bytes);
    assert!(plan.ledger.weights < roomy.ledger.weights / 2 + 4096, "no weight is stored in two formats");
    let Err(CompileError::OverBudget(over)) = under(1) else { panic!("one byte is enough") };
    assert!(under(over.min_feasible_bytes).unwrap().program.plans[0].planned_peak_bytes <= over.min_feasible_bytes);
}

/// Runs so often that whatever a run leaves would show: on the device, and in the process too where `is_alone` says
/// that no other test runs in it.
fn runs_in_flat_memory(n: usize, is_alone: bool) {
    each_session(&read(CACHE), "uniform:f32", &|device, mut session| {
        let resident = || -> u64 {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
            statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0) * 4096
        };
        let row = floats(&[1, 4], &[1.0, 2.0, 3.0, 4.0]);
        let cycle = |session: &mut Session| {
            for _ in 0..8 {
                session.entry("decode").unwrap().run(std::slice::from_ref(&row)).unwrap();
            }
            session.reset().unwrap();
        };
        (0..8).for_each(|_| cycle(&mut session));
        let (before, peak) = (resident(), session.measured_peak_bytes());
        (0..n / 8).for_each(|_| cycle(&mut session));
        assert_eq!(session.measured_peak_bytes(), peak, "{device}");
        let grown = resident().saturating_sub(before);
        assert!(!is_alone || grown < 16 << 20, "{device}: {n} runs left {grown} bytes");
        println!("{device}: {n} runs, {grown} bytes more");
    });
}

#[test]
fn many_runs_take_no_more_memory_than_one() {
    runs_in_flat_memory(400, false);
}

/// `cargo test --test programs -- --ignored ten_thousand`
#[test]
#[ignore = "long"]
fn ten_thousand_runs_take_no_more_memory_than_one() {
    runs_in_flat_memory(10_000, true);
}

/// One entry gives what another takes.
const RELAY: &str = "module relay
entry encode
graph relay onnx
  %x = input : f32[2,3]
  %two = const [2.0] : f32[1]
  %h = mul(%x, %two) : f32[2,3]
  %s = neg(%x) : f32[2,3]
  output %s
  output %h
entry decode
graph relay onnx
  %h = input : f32[2,3]
  %y = input : f32[2,3]
  %z = add(%h, %y) : f32[2,3]
  output %z
entry other
graph relay onnx
  %h = input : f32[3,2]
  %z = neg(%h) : f32[3,2]
  output %z
";

#[test]
fn an_output_stays_on_the_device_and_is_the_input_of_another_run() {
    each_session(&read(RELAY), "uniform:f32", &|device, mut session| {
        let x = floats(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
        let mut kept = session.tensor("encode", "h").unwrap();
        assert_eq!(kept.ty(), None);
        let unwritten = session.entry("decode").unwrap().give("h", &kept).unwrap().run(std::slice::from_ref(&x));
        assert!(unwritten.unwrap_err().to_string().contains("no run has written"), "{device}");
        let call = session.entry("encode").unwrap().keep("h", &mut kept).unwrap();
        let outputs = call.run(std::slice::from_ref(&x)).unwrap().outputs;
        assert_eq!(outputs.len(), 1, "{device}: what is kept is not given");
        assert_eq!(values(&outputs[0])[0], -1.0);
        assert_eq!(kept.ty(), Some(TensorType::of(DType::F32, &[2, 3])));
        // As often as somebody likes, whatever ran in between.
        for round in 0..3 {
            session.entry("other").unwrap().run(&[floats(&[3, 2], &[round as f32; 6])]).unwrap();
            let call = session.entry("decode").unwrap().give("h", &kept).unwrap();
            let outputs = call.run(std::slice::from_ref(&x)).unwrap().outputs;
            assert_eq!(values(&outputs[0]), [3., 6., 9., 12., 15., 18.], "{device}");
        }
        let wrong = session.entry("other").unwrap().give("h", &kept).unwrap().run(&[]).unwrap_err();
        assert!(wrong.to_string().contains('h'), "{device}: {wrong}");
        assert!(matches!(session.entry("nothing"), Err(SessionError::Cpu(_))));
        assert!(matches!(session.tensor("encode", "x"), Err(SessionError::Port { .. })));
        assert!(session.entry("encode").unwrap().give("h", &kept).is_err(), "no input of that entry");
    });
}

#[test]
fn tensors_beside_a_program_keep_its_budget() {
    for device in devices().unwrap_or_default() {
        let module = read(RELAY);
        let roomy = compiled(&module, "uniform:f32", &device.target);
        let context = VkContext::open(device.index, &roomy.target.features, &Options::from_env()).unwrap();
        let mut tight = roomy;
        let granularity = device.target.memory.allocation_granularity.max(256);
        tight.plans[0].budget_bytes = tight.plans[0].planned_peak_bytes + granularity;
        let budget = tight.plans[0].budget_bytes;
        let mut session = Session::on(tight, &context).unwrap();
        let first = session.tensor("encode", "h").unwrap();
        let Err(error) = session.tensor("encode", "h") else { panic!("{}: more than the budget", device.name) };
        assert!(error.to_string().contains("the budget leaves"), "{error}");
        assert!(session.measured_peak_bytes() <= budget);
        drop(first);
        session.tensor("encode", "h").unwrap();
    }
}

#[test]
fn sessions_on_one_device_hand_tensors_to_each_other() {
    for device in devices().unwrap_or_default() {
        let program = compiled(&read(RELAY), "uniform:f32", &device.target);
        let open = || VkContext::open(device.index, &program.target.features, &Options::from_env()).unwrap();
        let context = open();
        let [mut first, mut second] = [(); 2].map(|()| Session::on(program.clone(), &context).unwrap());
        let mut kept = first.tensor("encode", "h").unwrap();
        let x = floats(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
        first.entry("encode").unwrap().keep("h", &mut kept).unwrap().run(std::slice::from_ref(&x)).unwrap();
        drop(first);
        let call = second.entry("decode").unwrap().give("h", &kept).unwrap();
        assert_eq!(values(&call.run(std::slice::from_ref(&x)).unwrap().outputs[0]), [3., 6., 9., 12., 15., 18.]);
        let mut other = Session::on(program.clone(), &open()).unwrap();
        let refused = other.entry("decode").unwrap().give("h", &kept).unwrap().run(&[x]).unwrap_err();
        assert!(refused.to_string().contains("another device"), "{refused}");
        let mut cpu = Session::of(program, DeviceChoice::Cpu).unwrap();
        let refused = cpu.entry("other").unwrap().give("h", &kept).unwrap().run(&[]).unwrap_err();
        assert!(matches!(refused, SessionError::Elsewhere { .. }), "{refused}");
    }
}

/// Gives what a value is at most, as another output; counts the runs in a state; and takes an input that is added to
/// the count.
struct Tap(&'static str);

impl Pass for Tap {
    fn name(&self) -> &str {
        "tap"
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let operator = |name: &str| nyxc::ir::Op::new(registry().by_name(name).unwrap(), nyxc::ir::Attrs::new());
        let mut edit = Edit::new(graph);
        let value = graph.value_named(self.0).unwrap();
        let mut most = operator("reduce_max");
        most.attrs = most.attrs.with_int("keepdims", 0);
        let most = edit.add(most, &[value.into()]).unwrap();
        edit.add_output("most", most);
        let by = edit.add_input("by", TensorType::of(DType::I64, &[1]));
        let count = edit.add_state(
            "runs",
            TensorType::of(DType::I64, &[1]),
            Tensor::from_i64s(DType::I64, &[1], &[0]).unwrap(),
        );
        let more = edit.add(operator("add"), &[count, by]).unwrap();
        let stored = edit.add(operator("state_store"), &[count, more]).unwrap();
        edit.set_state("runs", stored);
        edit.add_output("runs", stored);
        Ok(edit.finish())
    }
}

#[test]
fn a_pass_adds_inputs_outputs_and_states() {
    let mut graph = model("fmnist-mlp.onnx", &["batch=1"]);
    let output = graph.outputs()[0].value;
    let name: &'static str = Box::leak(graph.value(output).name.clone().into_boxed_str());
    let (target, settings) = (Target::shipped("lavapipe").unwrap(), Settings::default());
    let patch = Tap(name).run(&graph, &mut Context::new(&target, &settings)).unwrap();
    assert!(graph.apply(patch));
    graph.verify().unwrap();
    let x = Tensor::from_f32s(DType::F32, &graph.ty(graph.inputs()[0].out(0)).shape.known().unwrap(), &[0.25; 784])
        .unwrap();
    each_session(&Module::of(graph), "uniform:f32", &|device, mut session| {
        for run in 1..4 {
            let outputs =
                session.run(&[x.clone(), Tensor::from_i64s(DType::I64, &[1], &[3]).unwrap()]).unwrap().outputs;
            let most = values(&outputs[0]).into_iter().fold(f32::MIN, f32::max);
            assert_eq!((values(&outputs[1])[0], ints(&outputs[2])), (most, vec![3 * run]), "{device}");
        }
    });
}

#[test]
fn the_verifier_refuses_states_whose_versions_branch_or_end_nowhere() {
    let refused = |from: &str, to: &str| {
        let text = COUNTER.replace(from, to);
        assert_ne!(text, COUNTER);
        let module = text::parse_module(&text, &registry(), &|_, _| None).unwrap_or_else(|e| panic!("{e}\n{text}"));
        module.verify().unwrap_err().to_string()
    };
    let twice = "  %stored = state_store(%n, %next) : i32[1]\n  %again = state_store(%n, %one) : i32[1]\n";
    let branch = refused("  %stored = state_store(%n, %next) : i32[1]\n", twice);
    assert!(branch.contains("no state becomes what it stores"), "{branch}");
    let lost = refused("  state %n = %stored\n", "");
    assert!(lost.contains("no state becomes what it stores"), "{lost}");
    let stranger = refused("  state %n = %stored\n", "  state %n = %next\n");
    assert!(stranger.contains("to which no stores lead"), "{stranger}");
    let initial = refused("state [0] : i32[1]", "state [0,0] : i32[2]");
    assert!(initial.contains("its rule gives"), "{initial}");
    let disagree = CACHE.replace(
        "entry read\ngraph cache onnx\n  %kv = state fill [0.5]",
        "entry read\ngraph cache onnx\n  %kv = state fill [1.5]",
    );
    let disagree = disagree.replace("WEIGHTS", &"0".repeat(16));
    let module = text::parse_module(&disagree, &registry(), &|_, _| None).unwrap();
    let disagree = module.verify().unwrap_err().to_string();
    assert!(disagree.contains("another type or initial value in entry \"read\""), "{disagree}");
}
