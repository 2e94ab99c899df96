//! `nyxc compare`.

use super::source::{Source, Values};
use super::{Failure, load, run, write};
use crate::failure::EXIT_DIFFERENT;
use crate::import::{Initializers, describe};
use crate::ir::{DType, Format, Node, NodeId, Tensor};
use crate::passes::{Pin, wide_range};
use crate::program::Port;
use crate::session::Reference;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;

/// Values from here on become the largest of f16, or would be infinite: what lies below rounds to it.
const BEYOND_F16: f32 = 65520.0;

/// Compare a program with its model in f32, value by value, on the CPU reference.
#[derive(clap::Args)]
#[command(after_help = "\
Exits with 1 where an output misses the bound, or a value that is stored as f16 is beyond its range (65504) in f32. \
Values are taken before they are stored. What is only added before a softmax, or chosen there, to take elements out \
(-1e9, the least float) is a mask and no overflow.

Example:
  nyxc compare model.onnx model.nyx --inputs in.npz --bound 1e-2")]
pub(super) struct Args {
    /// The model
    model: PathBuf,
    /// The program compiled from it
    program: PathBuf,
    /// Arrays named as the model's inputs: IN.npz, NAME=FILE.npy, or FILE.npy for the only input; may be repeated
    #[arg(long, value_name = "IN.npz|NAME=FILE.npy", required = true)]
    inputs: Vec<PathBuf>,
    #[command(flatten)]
    values: Values,
    /// Exit with 1 where an output's relative L2 error is larger
    #[arg(long, value_name = "ERROR")]
    bound: Option<f64>,
    /// Print the table as one JSON document
    #[arg(long)]
    pub(super) json: bool,
}

/// How far a value is from its reference.
struct Distance {
    name: String,
    snr_db: f64,
    cosine: f64,
    max_error: f64,
    relative_l2: f64,
}

/// A value that f16 does not hold, stored as f16 all the same.
struct Overflow {
    /// The node of the model that computes it.
    node: String,
    value: String,
    /// How many elements are beyond f16, of how many.
    n_beyond: usize,
    n_elems: usize,
    /// The largest finite magnitude in f32.
    largest: f32,
}

impl Overflow {
    /// The value of `--precision` that stores it wider.
    fn pin(&self) -> String {
        Pin::text_for(&self.node, Format::F32)
    }
}

/// Refuses a program with an input that the model has not: it comes from another.
fn is_of_model(args: &Args, inputs: &[Port]) -> Result<(), Failure> {
    let told = describe(&args.model).map_err(|e| load::refused(&args.model, e))?;
    let has = |name: &str| {
        let is_element = |of: &str| name.strip_prefix(of).is_some_and(|rest| rest.starts_with('.'));
        told.inputs.iter().any(|input| input.name == name || !input.ty.is_tensor() && is_element(&input.name))
    };
    match inputs.iter().find(|port| !has(&port.name)) {
        Some(port) => Err(Failure::usage(format!(
            "{} has an input {:?}, which {} has not: it is the program of another model",
            args.program.display(),
            port.name,
            args.model.display()
        ))),
        None => Ok(()),
    }
}

pub(super) fn run(args: &Args) -> Result<ExitCode, Failure> {
    let program = load::program(&args.program)?;
    let inputs = run::inputs(&program, &args.inputs, None)?;
    let entry = run::entry(&program)?;
    // The sizes of the others are those of their defaults.
    let given = || entry.inputs.iter().zip(&inputs);
    let dim = given()
        .filter(|(port, _)| !entry.defaults.contains_key(&port.name))
        .flat_map(|(port, tensor)| load::bindings(&port.name, &tensor.ty().shape))
        .collect();
    is_of_model(args, &entry.inputs)?;
    let source = Source { dim, values: args.values.clone(), initializers: Initializers::Inputs };
    let (graph, _) = load::model(&args.model, &source)?;
    let own = |id: &NodeId| {
        let name = &graph.value(id.out(0)).name;
        let found = given().find(|(port, _)| port.name == *name).map(|(_, tensor)| tensor);
        found.or(graph.default_of(*id)).cloned().ok_or_else(|| {
            Failure::file(format!("{}: the program has no input {name:?}, which the model has", args.program.display()))
        })
    };
    let own = graph.inputs().iter().map(own).collect::<Result<Vec<_>, _>>()?;
    let mut values: BTreeMap<String, (String, Tensor)> = BTreeMap::new();
    let mut keep = |node: &Node, results: &[Tensor]| {
        for (value, tensor) in node.outputs.iter().zip(results) {
            values.insert(value.name.clone(), (node.name.clone(), tensor.clone()));
        }
    };
    let masks: BTreeSet<String> = graph
        .order()
        .into_iter()
        .flat_map(|id| (0..graph.node(id).outputs.len()).map(move |out| id.out(out)))
        .filter(|value| wide_range::only_masks(&graph, *value))
        .map(|value| graph.value(value).name.clone())
        .collect();
    let expected = Reference::new(graph).run_with(&own, &mut keep)?;
    let (mut rows, mut overflows) = (Vec::new(), Vec::new());
    let mut measure = |node: &Node, results: &[Tensor]| {
        for (value, tensor) in node.outputs.iter().zip(results) {
            let reference = values.get(&value.name);
            rows.extend(reference.and_then(|(_, reference)| distance(&value.name, reference, tensor)));
            overflows.extend(
                reference.and_then(|reference| overflow(&value.name, reference, tensor, masks.contains(&value.name))),
            );
        }
    };
    let given = Reference::of(&program, 0)?.run_with(&inputs, &mut measure)?;
    let outputs: Vec<Distance> = entry
        .outputs
        .iter()
        .zip(expected.iter().zip(&given))
        .filter_map(|(port, (a, b))| distance(&port.name, a, b))
        .collect();
    // A NaN must not hide behind `f64::max`.
    let worst = outputs.iter().map(|d| d.relative_l2).fold(0.0, |a: f64, b| if b.is_nan() { b } else { a.max(b) });
    let row = |d: &Distance| json!({"name": d.name, "snr_db": d.snr_db, "cosine": d.cosine, "max_error": d.max_error, "relative_l2": d.relative_l2});
    let told = |o: &Overflow| json!({"node": o.node, "value": o.value, "beyond": o.n_beyond, "of": o.n_elems, "largest": o.largest, "limit": f32::from(half::f16::MAX), "precision": o.pin()});
    let text = if args.json {
        format!(
            "{:#}\n",
            json!({
                "nodes": rows.iter().map(row).collect::<Vec<_>>(),
                "outputs": outputs.iter().map(row).collect::<Vec<_>>(),
                "overflows": overflows.iter().map(told).collect::<Vec<_>>(),
                "worst_relative_l2": worst,
            })
        )
    } else {
        let line = |d: &Distance| {
            format!("{:9.2} {:10.6} {:11.3e} {:11.3e}  {}\n", d.snr_db, d.cosine, d.max_error, d.relative_l2, d.name)
        };
        let mut text = String::from("   SNR dB     cosine   max error relative L2  value\n");
        rows.iter().for_each(|d| text += &line(d));
        text += "outputs\n";
        outputs.iter().for_each(|d| text += &line(d));
        for o in &overflows {
            text += &format!(
                "node {:?} overflows f16, which holds 65504: {} of {} elements of {:?} are beyond it, up to {:e} in f32; compile with --precision {}\n",
                o.node,
                o.n_beyond,
                o.n_elems,
                o.value,
                o.largest,
                quoted(&o.pin())
            );
        }
        text
    };
    write::stdout(&text)?;
    let is_missed = args.bound.is_some_and(|bound| worst > bound || worst.is_nan());
    Ok(if is_missed || !overflows.is_empty() { ExitCode::from(EXIT_DIFFERENT) } else { ExitCode::SUCCESS })
}

/// Whether a value of the model, which is `reference` in f32, is beyond the range of the f16 that it is stored as. What
/// the model does not have, the program computes in f32 (`ops::widen`), or moves as it is.
fn overflow(value: &str, reference: &(String, Tensor), given: &Tensor, is_mask: bool) -> Option<Overflow> {
    let (node, reference) = reference;
    // A model of f16 has no other values.
    if given.dtype() != DType::F16 || given.ty().packing.is_some() || reference.dtype() == DType::F16 {
        return None;
    }
    let values = reference.to_f32s().ok()?;
    let is_beyond = |v: &&f32| v.is_finite() && if is_mask { **v >= BEYOND_F16 } else { v.abs() >= BEYOND_F16 };
    let largest = values.iter().filter(is_beyond).fold(0.0f32, |most, v| most.max(v.abs()));
    let n_beyond = values.iter().filter(is_beyond).count();
    let (node, value) = (node.clone(), value.to_owned());
    (n_beyond > 0).then_some(Overflow { node, value, n_beyond, n_elems: values.len(), largest })
}

/// A word of a shell's command line.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// `None` for values that are no floats, or of another shape.
fn distance(name: &str, reference: &Tensor, given: &Tensor) -> Option<Distance> {
    if !reference.dtype().is_float() || given.ty().packing.is_some() || reference.ty().shape != given.ty().shape {
        return None;
    }
    let (a, b) = (reference.to_f32s().ok()?, given.to_f32s().ok()?);
    let (mut aa, mut bb, mut ab, mut ee, mut max_error) = (0f64, 0f64, 0f64, 0f64, 0f64);
    for (&x, &y) in a.iter().zip(b.iter()) {
        let (x, y) = (f64::from(x), f64::from(y));
        // Infinities that agree are no error.
        let e = if x == y { 0.0 } else { x - y };
        aa += x * x;
        bb += y * y;
        ab += x * y;
        ee += e * e;
        max_error = if e.is_nan() { f64::NAN } else { max_error.max(e.abs()) };
    }
    let relative_l2 = if ee == 0.0 { 0.0 } else { (ee / aa).sqrt() };
    Some(Distance {
        name: name.to_owned(),
        snr_db: if ee == 0.0 { f64::INFINITY } else { 10.0 * (aa / ee).log10() },
        cosine: if ee == 0.0 { 1.0 } else { ab / (aa * bb).sqrt() },
        max_error,
        relative_l2,
    })
}
