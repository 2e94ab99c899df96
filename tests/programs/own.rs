//! Passes and operators that are not the crate's: what they do is in the report, the certificate, the forecast and the
//! budget, and runs.

use super::{compile, model};
use nyxc::ir::expr::build::arg;
use nyxc::ir::{
    Attrs, CORE, DType, Edit, Format, Graph, KERNEL, Level, ONNX, Op, OpDef, OpError, Patch, Tensor, TensorType,
};
use nyxc::ops;
use nyxc::ops::weights;
use nyxc::passes::{Context, Pass, PassError, Pipeline, Policy, Settings};
use nyxc::program::{Plan, file};
use nyxc::runtime::devices;
use nyxc::session::{Compile, CompileError, Compiled, DeviceChoice, Session, compile_with};
use nyxc::targets::Target;

/// Sets formats of nodes by what they are and have.
struct SetFormats<F>(&'static str, F);

impl<F: Fn(&Graph, nyxc::ir::NodeId) -> Option<Format> + Send + Sync> Pass for SetFormats<F> {
    fn name(&self) -> &str {
        self.0
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            if let Some(format) = self.1(graph, id)
                && graph.node(id).format != Some(format)
            {
                edit.set_format(id, Some(format));
            }
        }
        Ok(edit.finish())
    }
}

/// Writes the result of every matrix product transposed, and that back: two more kernels and two more buffers each.
struct TransposeTwice;

impl Pass for TransposeTwice {
    fn name(&self) -> &str {
        "transpose_twice"
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let transpose = ops::registry().by_name("transpose").unwrap();
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            let node = graph.node(id);
            if !node.op().is_some_and(|op| matches!(op.def.onnx, "MatMul" | "Gemm")) {
                continue;
            }
            edit.on_behalf_of(id);
            let op = || Op::new(transpose, Attrs::new().with_ints("perm", [1, 0]));
            let there = edit.add(op(), &[id.out(0).into()]).unwrap();
            let back = edit.add(op(), &[there]).unwrap();
            edit.insert_after(id.out(0), back);
        }
        Ok(edit.finish())
    }
}

fn mlp() -> Graph {
    model("fmnist-mlp.onnx", &["batch=8"])
}

type Own<'a> = &'a dyn Fn(Settings) -> Pipeline;

fn with(own: Own<'_>, settings: Settings) -> Result<Compiled, CompileError> {
    let options = Compile { settings, target: Target::shipped("lavapipe").unwrap(), n_threads: 0 };
    compile_with(&mlp(), &options, own, &|_, _, _| {}, &mut |_, _, _| {})
}

fn under(own: Own<'_>, budget: u64) -> Result<Compiled, CompileError> {
    with(own, Settings { budget_bytes: Some(budget), ..Settings::default() })
}

fn plan(compiled: &Compiled) -> &Plan {
    &compiled.program.plans[0]
}

fn format<'a>(plan: &'a Plan, name: &str) -> &'a str {
    &plan.nodes.iter().find(|n| n.name == name).unwrap().format
}

/// Compiles under budgets from the least to what f32 takes, and holds what is told to what is planned. `check` sees
/// each plan.
fn keeps_budgets(own: Own<'_>, check: &dyn Fn(&Plan)) {
    let Err(CompileError::OverBudget(over)) = under(own, 1) else { panic!("one byte is enough") };
    let least = over.min_feasible_bytes;
    let f32_bytes = {
        let uniform = with(own, Settings { policy: Policy::Uniform(Format::F32), ..Settings::default() }).unwrap();
        assert_eq!(plan(&uniform).f32_bytes, plan(&uniform).planned_peak_bytes.max(plan(&uniform).f32_bytes));
        plan(&uniform).f32_bytes
    };
    for budget in [least, least + (f32_bytes.max(least) - least) / 2, f32_bytes.max(least) + 4096] {
        let compiled = under(own, budget).unwrap_or_else(|e| panic!("{budget} of least {least}: {e}"));
        let plan = plan(&compiled);
        assert!(plan.planned_peak_bytes <= budget);
        check(plan);
        // What is said to be the smallest compiles, and what is smaller by more than a driver rounds does not.
        let smallest = under(own, plan.min_feasible_bytes).unwrap();
        assert!(smallest.program.plans[0].planned_peak_bytes <= plan.min_feasible_bytes);
        let Err(CompileError::OverBudget(over)) = under(own, plan.min_feasible_bytes - 1) else {
            panic!("{} is not the least: one byte less compiles", plan.min_feasible_bytes)
        };
        assert!(over.min_feasible_bytes >= plan.min_feasible_bytes, "{over}");
    }
}

#[test]
fn formats_that_a_pass_sets_are_those_of_report_certificate_and_budget() {
    let wide: Own<'_> = &|settings| {
        let g1 = |graph: &Graph, id| (graph.node(id).name == "g1").then_some(Format::F32);
        Pipeline::new(settings).insert_after("assign_precision", SetFormats("keep_g1", g1))
    };
    let n_set = std::cell::Cell::new(0);
    keeps_budgets(wide, &|plan| {
        assert_eq!(format(plan, "g1"), "f32");
        // Where bytes are plenty it is what was chosen anyway.
        let reason = &plan.nodes.iter().find(|n| n.name == "g1").unwrap().reason;
        let is_set = reason == "set by pass keep_g1";
        assert!(is_set || plan.budget_bytes > plan.min_feasible_bytes, "{reason}");
        n_set.set(n_set.get() + usize::from(is_set));
        assert!(plan.certificate.rounds == 1, "{:?}", plan.certificate);
    });
    assert!(n_set.get() > 0);
    // Without the pass the least is less: it is what was set that decides.
    let Err(CompileError::OverBudget(own)) = under(wide, 1) else { panic!() };
    let Err(CompileError::OverBudget(ours)) = under(&Pipeline::new, 1) else { panic!() };
    assert!(own.min_feasible_bytes > ours.min_feasible_bytes);
    // And it may be what makes a budget fit that the permitted formats do not.
    let int4: Format = "w4a16".parse().unwrap();
    let narrow: Own<'_> = &|settings| {
        let set = move |graph: &Graph, id| weights::of(graph, id).map(|_| int4);
        Pipeline::new(settings).insert_after("assign_precision", SetFormats("all_int4", set))
    };
    let settings = || Settings { formats: vec![Format::F32], ..Settings::default() };
    let full = with(&Pipeline::new, settings()).unwrap();
    let half = plan(&full).f32_bytes / 2;
    let given = Settings { budget_bytes: Some(half), ..settings() };
    assert!(matches!(with(&Pipeline::new, given.clone()), Err(CompileError::OverBudget(_))));
    let compiled = with(narrow, given).unwrap();
    assert_eq!(format(plan(&compiled), "g0"), "w4a16");
    assert!(plan(&compiled).certificate.objective > 1e-4, "{:?}", plan(&compiled).certificate);
}

#[test]
fn a_pass_may_depend_on_what_was_assigned() {
    let own: Own<'_> = &|settings| {
        let set = |graph: &Graph, id| {
            let node = graph.node(id);
            let is_int4 = node.format.is_some_and(|f| f.to_string().contains("w4"));
            (is_int4 && weights::of(graph, id).is_some()).then(|| "w8a16".parse().unwrap())
        };
        Pipeline::new(settings).insert_after("assign_precision", SetFormats("no_int4", set))
    };
    keeps_budgets(own, &|plan| {
        assert!(plan.nodes.iter().all(|n| !n.format.contains("w4")), "{:?}", plan.nodes);
    });
}

#[test]
fn a_pass_in_the_place_of_assign_precision_has_a_certificate_and_a_least() {
    let own: Own<'_> = &|settings| {
        Pipeline::new(settings).replace(
            "assign_precision",
            SetFormats("all_f16", |graph: &Graph, id| graph.node(id).op().map(|_| Format::F16)),
        )
    };
    let compiled = under(own, 1 << 30).unwrap();
    let plan = plan(&compiled);
    assert!(plan.nodes.iter().all(|n| n.format == "f16" && n.reason == "set by pass all_f16"), "{:?}", plan.nodes);
    assert!(plan.certificate.objective > 0.0 && plan.certificate.bound == plan.certificate.objective);
    assert_eq!(plan.min_feasible_bytes, plan.planned_peak_bytes);
    assert!(plan.f32_bytes > plan.planned_peak_bytes);
    under(own, plan.planned_peak_bytes).unwrap();
    let Err(CompileError::OverBudget(over)) = under(own, plan.planned_peak_bytes - 1) else { panic!("it fits") };
    assert_eq!(over.min_feasible_bytes, plan.planned_peak_bytes);
    // Without any, types are those of the model.
    let compiled = under(&|settings| Pipeline::new(settings).remove("assign_precision"), 1 << 30).unwrap();
    let plan = &compiled.program.plans[0];
    assert_eq!((plan.f32_bytes, plan.certificate.objective), (plan.planned_peak_bytes, 0.0));
}

#[test]
fn a_rewrite_behind_the_assignment_is_in_the_forecast() {
    let own: Own<'_> = &|settings| Pipeline::new(settings).insert_before("decompose", TransposeTwice);
    keeps_budgets(own, &|plan| assert_eq!(plan.certificate.rounds, 1, "{:?}\n{}", plan.certificate, plan.graph));
    let (ours, theirs) = (under(&Pipeline::new, 1 << 30).unwrap(), under(own, 1 << 30).unwrap());
    assert!(plan(&theirs).f32_bytes > plan(&ours).f32_bytes);
    // The forecast is what is built: nothing was learnt from a plan.
    assert_eq!(plan(&theirs).f32_bytes, plan(&theirs).planned_peak_bytes);
}

/// `x * clamp(x + 3, 0, 6) / 6` of a domain of its own, in operators that kernels exist for.
static HARD_SWISH: OpDef = OpDef {
    name: "own_hard_swish",
    onnx: "com.example::HardSwish",
    levels: ONNX,
    attrs: &[],
    arity: (1, 1),
    infer: |infer| Ok(vec![infer.ty(0)?.clone()]),
    eval: None,
    expand: Some(|e| {
        let x = e.input(0)?;
        let swish = arg(0) * ((arg(0) + 3.0).max(0.0).min(6.0) / 6.0);
        let dtype = e.ty(x).dtype;
        Ok(vec![ops::core::pointwise::add(e, swish, dtype, &[x])?])
    }),
};

/// The elements in the opposite order: no kernel, so the CPU reference runs it on the host.
static BACKWARDS: OpDef = OpDef {
    name: "own_backwards",
    onnx: "com.example::Backwards",
    levels: ONNX | CORE | KERNEL,
    attrs: &[],
    arity: (1, 1),
    infer: |infer| Ok(vec![infer.ty(0)?.clone()]),
    eval: Some(|_, operands| {
        let x = operands.first().copied().flatten().ok_or(OpError::MissingOperand { slot: 0 })?;
        let mut values = x.to_f32s()?.into_owned();
        values.reverse();
        Ok(vec![Tensor::from_f32s(x.dtype(), &x.dims(), &values)?])
    }),
    expand: None,
};

#[test]
fn operators_of_a_toolchain_compile_load_and_run() {
    let mut operators = ops::registry();
    operators.add(&HARD_SWISH);
    operators.add(&BACKWARDS);
    let mut graph = Graph::new("own", Level::Onnx);
    let x = graph.add_input("x", TensorType::of(DType::F32, &[2, 3]));
    let add = |graph: &mut Graph, name: &str, def, x| {
        graph.add_op(name, Op::new(def, Attrs::new()), &[Some(x)], &[name.to_owned()]).unwrap().out(0)
    };
    let h = add(&mut graph, "h", operators.by_onnx("com.example::HardSwish").unwrap(), x);
    let y = add(&mut graph, "y", operators.by_onnx("com.example::Backwards").unwrap(), h);
    graph.add_output("y", y);
    let settings = Settings { policy: Policy::Uniform(Format::F32), ..Settings::default() };
    let options = Compile { settings, target: Target::shipped("lavapipe").unwrap(), n_threads: 0 };
    let program = compile(&graph, &options, &|_, _, _| {}, &mut |_, _, _| {}).unwrap().program;
    let bytes = file::to_bytes(&program).unwrap();
    let input = [Tensor::from_f32s(DType::F32, &[2, 3], &[-4.0, -1.0, 0.0, 1.0, 2.0, 9.0]).unwrap()];
    let swish = |v: f32| v * (v + 3.0).clamp(0.0, 6.0) / 6.0;
    let expected: Vec<f32> = [9.0, 2.0, 1.0, 0.0, -1.0, -4.0].into_iter().map(swish).collect();
    let device = devices().unwrap_or_default().first().map(|d| DeviceChoice::Index(d.index));
    for choice in [DeviceChoice::Cpu].into_iter().chain(device) {
        let program = file::read(std::sync::Arc::new(bytes.clone())).unwrap();
        let mut session = Session::with_operators(program, choice, operators.clone()).unwrap();
        let outcome = session.run(&input).unwrap();
        let given = outcome.outputs[0].to_f32s().unwrap().into_owned();
        assert!(given.iter().zip(&expected).all(|(a, b)| (a - b).abs() < 1e-6), "{choice:?}: {given:?}");
        assert_eq!(outcome.host_nodes, ["y"]);
    }
    // Whoever does not know the operator is told which it is.
    let Err(error) = Session::load(bytes, DeviceChoice::Cpu) else { panic!("an unknown operator loads") };
    assert!(error.to_string().contains("own_backwards"), "{error}");
}
