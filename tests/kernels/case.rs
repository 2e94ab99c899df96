//! A node with its operands, compared with the reference.

use super::Bench;
use super::execute::run;
use nyxc::ir::packed::Granularity;
use nyxc::ir::{Attrs, DType, Expr, Graph, Level, NodeId, Op, OpDef, Tensor, ValueId};
use nyxc::kernels::variant::Variant;
use nyxc::kernels::{self, KernelError, Resource, Way};
use nyxc::ops::core::quantize_packed;
use nyxc::targets::Target;
use std::io::Write as _;

/// A node, its operands, and where the test is special what else matters.
pub struct Case {
    pub def: &'static OpDef,
    pub attrs: Attrs,
    pub operands: Vec<Option<Tensor>>,
    /// The variant of the kernel, where it is not the planner's choice.
    pub variant: Option<Variant>,
    /// Whether the first operand becomes INT8 codes with one scale as it is loaded.
    pub on_load: bool,
    /// Whether the magnitude of the result is noted.
    pub notes: bool,
}

impl Case {
    pub fn new(def: &'static OpDef, attrs: Attrs, operands: &[&Tensor]) -> Case {
        Case {
            def,
            attrs,
            operands: operands.iter().map(|t| Some((*t).clone())).collect(),
            variant: None,
            on_load: false,
            notes: false,
        }
    }

    /// The same with an epilogue and its operands.
    pub fn then(mut self, epilogue: &str, extra: &[&Tensor]) -> Case {
        self.attrs = self.attrs.with_expr("epilogue", Expr::parse(epilogue).unwrap());
        self.operands.extend(extra.iter().map(|t| Some((*t).clone())));
        self
    }

    /// The same by this variant of the kernel.
    pub fn by(mut self, variant: &str) -> Case {
        self.variant = Some(variant.parse().unwrap());
        self
    }

    /// The same of codes that are made of the first operand as it is loaded.
    pub fn on_load(self) -> Case {
        Case { on_load: true, ..self }
    }

    /// The same, and the largest magnitude of the result.
    pub fn noting(self) -> Case {
        Case { notes: true, ..self }
    }

    /// The operands of the graph that [`graph_of`] makes: those of the node, and the magnitude that codes are made by.
    pub fn given(&self) -> Vec<Option<Tensor>> {
        let magnitude = self.on_load.then(|| magnitude(self.operands[0].as_ref().unwrap()));
        self.operands.iter().cloned().chain(magnitude.map(Some)).collect()
    }

    /// The same with the result stored as `dtype`.
    pub fn stored(mut self, dtype: DType) -> Case {
        self.attrs = self.attrs.with_dtype("dtype", dtype);
        self
    }

    /// Runs it for every target and compares with the reference; relative L2 of at most 1e-5, 2e-3 where the result is
    /// f16 or packed weights are multiplied as f16.
    pub fn check(&self, bench: &Bench) {
        let mut inputs: Vec<Option<&Tensor>> = self.operands.iter().map(Option::as_ref).collect();
        let codes = inputs.first().copied().flatten().filter(|_| self.on_load).map(|x| {
            let attrs = quantize_packed::attrs(Granularity::Tensor);
            quantize_packed::DEF.eval.unwrap()(&attrs, &[Some(x)]).unwrap().remove(0)
        });
        if codes.is_some() {
            inputs[0] = codes.as_ref();
        }
        let wanted = self.def.eval.unwrap()(&self.attrs, &inputs).unwrap().remove(0);
        for target in &bench.targets {
            let (given, names) = match run(&bench.context, target, self) {
                Ok(done) => done,
                // Passes ask before they fuse so many operands; here, the case is not for this device.
                Err(e @ KernelError::OverLimit { resource: Resource::StorageBuffers, .. }) => {
                    let line = format!("SKIPPED on {}: {}: {e}\n", target.name, self.describe());
                    let _ = std::io::stderr().write_all(line.as_bytes());
                    continue;
                }
                Err(e) => panic!("{}: {e}", self.describe()),
            };
            let is_packed = inputs.iter().flatten().any(|t| t.ty().packing.is_some());
            let named = |part: &str| names.iter().any(|name| name.contains(part));
            // On cooperative matrices an attention's weights are f16.
            let is_half = wanted.dtype() == DType::F16
                || (is_packed && names.iter().any(|name| multiplies_f16(name)))
                || named("attention_mma");
            if let Err(fault) = compare(&given, &wanted, if is_half { 2e-3 } else { 1e-5 }) {
                bench.faults.borrow_mut().push(format!(
                    "{} on {}: {}: {fault}",
                    self.describe(),
                    target.name,
                    names.join(", ")
                ));
            }
        }
    }

    pub fn describe(&self) -> String {
        let operands: Vec<String> =
            self.operands.iter().map(|t| t.as_ref().map_or("none".to_owned(), |t| t.ty().to_string())).collect();
        let attrs: Vec<String> = self.attrs.0.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
        format!("{}({}) {{{}}}", self.def.name, operands.join(", "), attrs.join(", "))
    }
}

/// The magnitude of a tensor.
pub fn magnitude(x: &Tensor) -> Tensor {
    quantize_packed::MAGNITUDE.eval.unwrap()(&Attrs::new(), &[Some(x)]).unwrap().remove(0)
}

/// Whether a kernel rounds packed weights to f16.
fn multiplies_f16(name: &str) -> bool {
    name.contains("_half") || name.starts_with("matmul_mma_f16_q") || name.starts_with("conv_mma_f16_q")
}

/// Relative L2 over what is finite, at most `bound`; infinities and NaN must agree.
///
/// # Errors
/// An element, a type or a shape is another.
pub fn compare(given: &Tensor, wanted: &Tensor, bound: f64) -> Result<(), String> {
    if given.ty() != wanted.ty() {
        return Err(format!("{} instead of {}", given.ty(), wanted.ty()));
    }
    if wanted.ty().packing.is_some() || !wanted.dtype().is_float() {
        let (given, wanted) = (given.bytes().unwrap(), wanted.bytes().unwrap());
        let wrong: Vec<usize> = (0..wanted.len()).filter(|&i| given[i] != wanted[i]).collect();
        let Some(&first) = wrong.first() else { return Ok(()) };
        return Err(format!(
            "{} of {} bytes differ, byte {first} is {}, not {}",
            wrong.len(),
            wanted.len(),
            given[first],
            wanted[first]
        ));
    }
    let (given, values) = (given.to_f32s().unwrap(), wanted.to_f32s().unwrap());
    let (mut error, mut norm) = (0.0f64, 0.0f64);
    for (i, (&g, &w)) in given.iter().zip(values.iter()).enumerate() {
        if !w.is_finite() || !g.is_finite() {
            if g == w || (g.is_nan() && w.is_nan()) {
                continue;
            }
            return Err(format!("element {i} is {g}, not {w}"));
        }
        error += f64::from(g - w).powi(2);
        norm += f64::from(w).powi(2);
    }
    let relative = (error / norm.max(1e-30)).sqrt();
    if relative > bound {
        let most = (0..values.len())
            .max_by(|&a, &b| (given[a] - values[a]).abs().total_cmp(&(given[b] - values[b]).abs()))
            .unwrap_or(0);
        return Err(format!(
            "relative error {relative:e}, most in element {most}: {} for {}",
            given[most], values[most]
        ));
    }
    Ok(())
}

pub fn graph_of(case: &Case) -> (Graph, NodeId, Vec<Option<ValueId>>) {
    let mut graph = Graph::new("case", Level::Kernel);
    let mut values: Vec<Option<ValueId>> = case
        .given()
        .iter()
        .enumerate()
        .map(|(i, t)| {
            t.as_ref().map(|t| {
                if t.ty().packing.is_some() {
                    graph.add_const(&format!("c{i}"), t.clone())
                } else {
                    graph.add_input(&format!("x{i}"), t.ty().clone())
                }
            })
        })
        .collect();
    let given = values.clone();
    if case.on_load {
        let attrs = quantize_packed::attrs(Granularity::Tensor).with_int("on_load", 1);
        let op = Op::new(&quantize_packed::DEF, attrs);
        let magnitude = values.pop().unwrap();
        let codes = graph.add_op("codes", op, &[values[0], magnitude], &["q".to_owned()]).unwrap();
        values[0] = Some(codes.out(0));
    }
    let node = graph.add_op("node", Op::new(case.def, case.attrs.clone()), &values, &["y".to_owned()]).unwrap();
    if case.notes {
        let op = Op::new(&quantize_packed::MAGNITUDE, Attrs::new());
        graph.add_op("magnitude", op, &[Some(node.out(0))], &["most".to_owned()]).unwrap();
    }
    let values = given;
    (graph, node, values)
}

/// What a target's kernels for a case are.
///
/// # Errors
/// No kernel computes the case on the target.
pub fn plan(case: &Case, target: &Target) -> Result<Vec<kernels::KernelCall>, KernelError> {
    let (graph, node, _) = graph_of(case);
    kernels::dispatches_by(&graph, node, target, case.variant.map(Way::Variant))
}

/// Every variant that a target has for a case.
pub fn variants(case: &Case, target: &Target) -> Vec<Variant> {
    let (graph, node, _) = graph_of(case);
    let all = kernels::candidates(&graph, node, target).unwrap().into_iter();
    let mut found = Vec::new();
    for way in all.map(|candidate| candidate.way) {
        if let Way::Variant(variant) = way
            && !found.contains(&variant)
        {
            found.push(variant);
        }
    }
    found
}

/// Checks a case by every variant that the device has for it; on a CPU, which takes long to compile some, by one in
/// `step`.
pub fn by_candidates(case: impl Fn() -> Case, bench: &Bench, first: usize, step: usize) {
    let target = bench.targets[0].clone();
    let step = if target.limits.subgroup_size <= 8 { step } else { 1 };
    for variant in variants(&case(), &target).into_iter().skip(first % step).step_by(step) {
        Case { variant: Some(variant), ..case() }.check(&bench.with(target.clone()));
    }
}
