//! A forecast is what is built, to the byte: of what is chosen, of the smallest and of `uniform:f32`, with passes of a
//! toolchain's own among the pipeline's. From the smallest budget on everything compiles, below it nothing does.

use super::random::Random;
use super::{check, generate};
use nyxc::ir::{Attrs, Edit, Format, Graph, Op, Patch};
use nyxc::ops::{registry, weights};
use nyxc::passes::{Context, OverBudget, Pass, PassError, Pipeline, PipelineError, Policy, Settings};
use nyxc::plan::{Forecast, build};
use nyxc::targets::{Target, shipped_names};

/// Negates twice what has one of these formats: two more kernels, and how many depends on the assignment.
struct NegateTwice;

impl Pass for NegateTwice {
    fn name(&self) -> &str {
        "negate_twice"
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let neg = registry().by_onnx("Neg").unwrap();
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            let node = graph.node(id);
            let is_product = node.op().is_some_and(|op| matches!(op.def.onnx, "MatMul" | "Gemm" | "Conv" | "Softmax"));
            if !is_product || node.format.is_some_and(|format| format.to_string().contains("w4")) {
                continue;
            }
            edit.on_behalf_of(id);
            let there = edit.add(Op::new(neg, Attrs::new()), &[id.out(0).into()]).unwrap();
            let back = edit.add(Op::new(neg, Attrs::new()), &[there]).unwrap();
            edit.insert_after(id.out(0), back);
        }
        Ok(edit.finish())
    }
}

/// Takes other formats than those assigned: 8 bits where 4 were, f32 for what is wide.
struct Widen;

impl Pass for Widen {
    fn name(&self) -> &str {
        "widen"
    }

    fn run(&self, graph: &Graph, _: &mut Context<'_>) -> Result<Patch, PassError> {
        let mut edit = Edit::new(graph);
        for id in graph.order() {
            let is_int4 = graph.node(id).format.is_some_and(|format| format.to_string().contains("w4"));
            if is_int4 && weights::of(graph, id).is_some() {
                edit.set_format(id, Some("w8a16".parse().unwrap()));
            }
        }
        Ok(edit.finish())
    }
}

/// The pipeline that a seed makes.
fn pipeline(seed: u64, settings: Settings) -> Pipeline {
    let ours = Pipeline::new(settings);
    match seed % 5 {
        1 => ours.insert_before("decompose", NegateTwice),
        2 => ours.insert_after("assign_precision", Widen),
        3 => ours.insert_after("assign_precision", Widen).insert_before("decompose", NegateTwice),
        _ => ours,
    }
}

/// The forecast that a pipeline leaves, or its refusal.
fn forecast(graph: &Graph, pipeline: &Pipeline, target: &Target) -> Result<Result<Forecast, OverBudget>, String> {
    match pipeline.run(&mut graph.clone(), target) {
        Ok(report) => report.context.facts.forecast.map(Ok).ok_or_else(|| "there is no forecast".to_owned()),
        Err(PipelineError::Pass { source: PassError::OverBudget(over), .. }) => Ok(Err(*over)),
        Err(error) => Err(error.to_string()),
    }
}

/// The peak of the plan of what each pass in turn makes of the graph.
fn built(graph: &Graph, pipeline: &Pipeline, target: &Target) -> Result<u64, String> {
    let mut kernels = graph.clone();
    pipeline.run_with(&mut kernels, target, Some(&mut |_, _, _| {})).map_err(|error| error.to_string())?;
    Ok(build::build(&kernels, target).map_err(|error| error.to_string())?.peak_bytes)
}

/// Holds the forecasts of one seed to what is built; how many budgets were looked at.
pub fn check(seed: u64) -> Result<usize, String> {
    let mut random = Random::new(seed ^ 0xB0D6_E700);
    let spec = generate::generate(seed);
    let (built_spec, _) = check::built(&spec, seed);
    let target = Target::shipped(random.pick(&shipped_names())).unwrap();
    let settings = check::settings(&spec, &built_spec.graph, &target, &mut random);
    of_graph(&built_spec.graph, &target, &settings, &|settings| pipeline(seed, settings), &mut |n| random.below(n))
        .map_err(|e| format!("seed {seed}, {} for {}: {e}", settings.policy, target.name))
}

/// Holds the forecasts of a graph to what is built, at the smallest budget, one byte below it, and one above.
fn of_graph(
    graph: &Graph,
    target: &Target,
    settings: &Settings,
    pipeline: &dyn Fn(Settings) -> Pipeline,
    below: &mut dyn FnMut(usize) -> usize,
) -> Result<usize, String> {
    let reserve = settings.reserve_bytes;
    let at = |bytes: u64| pipeline(Settings { budget_bytes: Some(bytes.saturating_add(reserve)), ..settings.clone() });
    let plain = Settings { policy: Policy::Uniform(Format::F32), pins: Vec::new(), ..settings.clone() };
    let f32_bytes = built(graph, &pipeline(Settings { budget_bytes: Some(u64::MAX), ..plain }), target)?;
    let over = match forecast(graph, &at(0), target)? {
        Err(over) => over,
        Ok(known) if known.chosen_bytes == 0 => return Ok(0),
        Ok(known) => return Err(format!("no byte is enough for {known:?}")),
    };
    let least = over.min_feasible_bytes;
    if over.f32_bytes != f32_bytes {
        return Err(format!("uniform:f32 takes {f32_bytes} bytes, {} are forecast", over.f32_bytes));
    }
    match forecast(graph, &at(least - 1), target)? {
        Err(over) if over.min_feasible_bytes == least => {}
        other => return Err(format!("{least} bytes are said to be the least, and one below gives {other:?}")),
    }
    let more = least + below((f32_bytes.max(least) - least) as usize + 4096) as u64;
    for budget in [least, more] {
        let pipeline = at(budget);
        let known = forecast(graph, &pipeline, target)?.map_err(|over| format!("{budget} bytes refused: {over}"))?;
        let peak = built(graph, &pipeline, target)?;
        if peak != known.chosen_bytes || peak > budget {
            return Err(format!("{peak} bytes are built within {budget}, {} were forecast", known.chosen_bytes));
        }
        if (known.min_feasible_bytes, known.f32_bytes) != (least, f32_bytes) {
            return Err(format!("{known:?} at {budget} bytes, where the least is {least} and f32 takes {f32_bytes}"));
        }
    }
    Ok(2)
}

/// The models that are next to the code.
pub fn models() -> Result<usize, String> {
    use nyxc::import::{DimBinding, ImportOptions, import};
    let mut n = 0;
    for (file, dims) in [
        ("fmnist-mlp.onnx", &["batch=8"][..]),
        ("ppocr-cls.onnx", &["x.0=1", "x.2=48", "x.3=96"]),
        ("magika.onnx", &["unk__214=1"]),
    ] {
        let dims = dims.iter().map(|d| DimBinding::parse(d).unwrap()).collect();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(file);
        let graph = import(&path, &ImportOptions { dims, ..ImportOptions::default() }, &registry()).unwrap().0;
        let own = |settings: Settings| Pipeline::new(settings).insert_before("decompose", NegateTwice);
        for (target, pipeline) in [("lavapipe", &Pipeline::new as &dyn Fn(Settings) -> Pipeline), ("h200", &own)] {
            let target = Target::shipped(target).unwrap();
            n += of_graph(&graph, &target, &Settings::default(), pipeline, &mut |n| n / 3)
                .map_err(|e| format!("{file} for {}: {e}", target.name))?;
        }
    }
    Ok(n)
}
