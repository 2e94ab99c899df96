//! Passes and operators that are not the crate's: what they do is in the report, the certificate, the forecast and the
//! budget, and runs.

use super::{compile, model};
use nyxc::ir::expr::build::arg;
use nyxc::ir::{
    Attrs, CORE, DType, Edit, Format, Graph, KERNEL, Level, MatrixLayout, ONNX, Op, OpDef, OpError, Patch, Shape,
    Tensor, TensorType, WeightOperand,
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
    compile_with(&mlp(), &options, own, &|_, _, _| {}, None)
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

/// Compiles under budgets from the least to what f32 takes, and compares the report with the plan. `check` sees
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
    infer: &|infer| Ok(vec![infer.ty(0)?.clone()]),
    eval: None,
    expand: Some(&|e| {
        let x = e.input(0)?;
        let swish = arg(0) * ((arg(0) + 3.0).max(0.0).min(6.0) / 6.0);
        let dtype = e.ty(x).dtype;
        Ok(vec![ops::core::pointwise::add(e, swish, dtype, &[x])?])
    }),
    weights: None,
    gradient: None,
};

/// The elements in the opposite order: no kernel, so the CPU reference runs it on the host.
static BACKWARDS: OpDef = OpDef {
    name: "own_backwards",
    onnx: "com.example::Backwards",
    levels: ONNX | CORE | KERNEL,
    attrs: &[],
    arity: (1, 1),
    infer: &|infer| Ok(vec![infer.ty(0)?.clone()]),
    eval: Some(&|_, operands| {
        let x = operands.first().copied().flatten().ok_or(OpError::MissingOperand { slot: 0 })?;
        let mut values = x.to_f32s()?.into_owned();
        values.reverse();
        Ok(vec![Tensor::from_f32s(x.dtype(), &x.dims(), &values)?])
    }),
    expand: None,
    weights: None,
    gradient: None,
};

#[test]
fn an_operator_of_a_toolchain_may_be_made_while_it_runs() {
    // What a binding knows only then: names, and closures that hold what the user gave.
    let made = |name: &str, scale: f32| {
        let onnx: &'static str = format!("com.example::{name}").leak();
        let calls = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let counter = calls.clone();
        let def = OpDef {
            name: name.to_lowercase().leak(),
            onnx,
            levels: ONNX | CORE | KERNEL,
            infer: &|infer| Ok(vec![infer.ty(0)?.clone()]),
            eval: Some(Box::leak(Box::new(
                move |_: &Attrs, operands: &[Option<&Tensor>]| -> Result<Vec<Tensor>, OpError> {
                    counter.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let x = operands.first().copied().flatten().ok_or(OpError::MissingOperand { slot: 0 })?;
                    let values: Vec<f32> = x.to_f32s()?.iter().map(|v| v * scale).collect();
                    Ok(vec![Tensor::from_f32s(x.dtype(), &x.dims(), &values)?])
                },
            ))),
            expand: None,
            ..BACKWARDS
        };
        (def.leaked(), calls)
    };
    let ((twice, calls), (thrice, _)) = (made("Twice", 2.0), made("Thrice", 3.0));
    let mut operators = ops::registry();
    operators.add(twice);
    operators.add(thrice);
    let mut graph = Graph::new("own", Level::Onnx);
    let x = graph.add_input("x", TensorType::of(DType::F32, &[2]));
    let t = graph.add_op("t", Op::new(twice, Attrs::new()), &[Some(x)], &["t".into()]).unwrap().out(0);
    let y = graph.add_op("y", Op::new(thrice, Attrs::new()), &[Some(t)], &["y".into()]).unwrap().out(0);
    graph.add_output("y", y);
    let settings = Settings { policy: Policy::Uniform(Format::F32), ..Settings::default() };
    let options = Compile { settings, target: Target::shipped("lavapipe").unwrap(), n_threads: 0 };
    let program = compile(&graph, &options, &|_, _, _| {}, None).unwrap().program;
    let reference = nyxc::session::Reference::of(&program, 0, &operators).unwrap();
    let given = reference.run(&[Tensor::from_f32s(DType::F32, &[2], &[1.0, -2.0]).unwrap()]).unwrap();
    assert_eq!(given[0].to_f32s().unwrap()[..], [6.0, -12.0]);
    assert_eq!(calls.load(std::sync::atomic::Ordering::Relaxed), 1);
    // An error names those that are not registered.
    let unknown = nyxc::session::Reference::of(&program, 0, &ops::registry()).unwrap_err().to_string();
    assert!(unknown.contains("twice"), "{unknown}");
}

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
    let program = compile(&graph, &options, &|_, _, _| {}, None).unwrap().program;
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
    // The error names the missing operator.
    let Err(error) = Session::load(bytes, DeviceChoice::Cpu) else { panic!("an unknown operator loads") };
    assert!(error.to_string().contains("own_backwards"), "{error}");
}

/// `w x + x`, of square weights that are its first operand: a product whose rows are quantized as those of ours are.
static RESIDUAL: OpDef = OpDef {
    name: "own_residual",
    onnx: "com.example::Residual",
    levels: ONNX,
    attrs: &[],
    arity: (2, 2),
    infer: &|infer| {
        let (w, x) = (infer.ty(0)?, infer.ty(1)?);
        let fits = w.shape.rank() == 2 && w.shape.0[0] == w.shape.0[1] && x.shape.0.last() == w.shape.0.first();
        if fits { Ok(vec![x.clone()]) } else { Err(OpError::operand(0, w, "a square matrix of the size of x")) }
    },
    eval: None,
    expand: Some(&|e| {
        let (w, x) = (e.input(0)?, e.input(1)?);
        let dtype = e.ty(x).dtype;
        let y = ops::compose::matmul(e, x, w, true)?;
        Ok(vec![ops::core::pointwise::add(e, arg(0) + arg(1), dtype, &[y, x])?])
    }),
    weights: Some(&|_| {
        Some(WeightOperand {
            slot: 0,
            layout: Some(MatrixLayout::Rows),
            // Operand 0 is no x whose activations could be quantized.
            is_product: false,
            has_own_rows: true,
            rows_attr: None,
            x_columns_attr: None,
            further_rows: None,
        })
    }),
    gradient: None,
};

#[test]
fn an_operator_of_a_toolchain_says_where_its_weights_are() {
    const N: usize = 96;
    let values: Vec<f32> = (0..N * N).map(|i| ((i * 37 + 11) % 101) as f32 / 101.0 - 0.5).collect();
    let compiled = |def: &'static OpDef| {
        let mut graph = Graph::new("own", Level::Onnx);
        let w = graph.add_const("w", Tensor::from_f32s(DType::F32, &[N, N], &values).unwrap());
        let x = graph.add_input("x", TensorType::new(DType::F32, Shape::of(&[2, N])));
        let y = graph.add_op("y", Op::new(def, Attrs::new()), &[Some(w), Some(x)], &["y".into()]).unwrap().out(0);
        graph.add_output("y", y);
        let settings = Settings { policy: Policy::Uniform("w8a32".parse().unwrap()), ..Settings::default() };
        let options = Compile { settings, target: Target::shipped("lavapipe").unwrap(), n_threads: 0 };
        let found = weights::of(&graph, y.node);
        (compile(&graph, &options, &|_, _, _| {}, None).unwrap().program, found)
    };
    let (program, found) = compiled(&RESIDUAL);
    let found = found.unwrap();
    assert_eq!((found.slot, found.n_rows, found.n_cols, found.has_products), (0, N, N, false));
    // One kernel reads codes, a scale for each 32 of them.
    let plan = &program.plans[0];
    assert_eq!((plan.nodes.len(), plan.nodes[0].format.as_str()), (1, "w8a32"), "{:?}", plan.nodes);
    let bytes: usize = program.constants.values().map(|tensor| tensor.bytes().unwrap().len()).sum();
    assert_eq!(bytes, N * N + N * N / 32 * 2, "{}", plan.graph);
    let input: Vec<f32> = (0..2 * N).map(|i| (i % 7) as f32 - 3.0).collect();
    let product = |row: usize, at: usize| -> f32 { (0..N).map(|k| values[at * N + k] * input[row * N + k]).sum() };
    let expected = (0..2 * N).map(|i| product(i / N, i % N) + input[i]);
    let mut session = Session::load(file::to_bytes(&program).unwrap(), DeviceChoice::Cpu).unwrap();
    let outcome = session.run(&[Tensor::from_f32s(DType::F32, &[2, N], &input).unwrap()]).unwrap();
    let given = outcome.outputs[0].to_f32s().unwrap().into_owned();
    assert!(given.iter().zip(expected).all(|(a, b)| (a - b).abs() < 0.1), "{given:?}");
    // One that says nothing of weights has none: they stay floats.
    static SILENT: OpDef = OpDef { name: "own_silent", onnx: "com.example::Silent", weights: None, ..RESIDUAL };
    let (program, found) = compiled(&SILENT);
    assert!(found.is_none());
    let bytes: usize = program.constants.values().map(|tensor| tensor.bytes().unwrap().len()).sum();
    assert_eq!(bytes, 4 * N * N);
}
