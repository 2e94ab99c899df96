//! `nyxc compare`.

use super::source::{Source, Values};
use super::{Failure, load, run, write};
use crate::failure::EXIT_DIFFERENT;
use crate::import::{Initializers, describe};
use crate::ir::NodeId;
use crate::program::Port;
use crate::session::compare::{Comparison, Distance};
use std::path::PathBuf;
use std::process::ExitCode;

/// Compare a program with its model in f32, value by value, on the CPU reference.
#[derive(clap::Args)]
#[command(after_help = "\
Exits with 1 where an output misses the bound, or a value that is stored as f16 is beyond its range (65504) in f32. \
Values are taken before they are stored. What is only added before a softmax, or chosen there, to take elements out \
(-1e9, the lowest float) is a mask and no overflow.

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

/// Refuses a program with an input that the model has not: it comes from another.
fn is_of_model(args: &Args, inputs: &[Port]) -> Result<(), Failure> {
    let description = describe(&args.model).map_err(|e| load::refused(&args.model, e))?;
    let has = |name: &str| {
        let is_element = |of: &str| name.strip_prefix(of).is_some_and(|rest| rest.starts_with('.'));
        description.inputs.iter().any(|input| input.name == name || !input.ty.is_tensor() && is_element(&input.name))
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
    let found = Comparison::of(graph, &own, &program, &inputs, &crate::ops::registry())?;
    let text = if args.json {
        format!("{:#}\n", found.to_json())
    } else {
        let line = |d: &Distance| {
            format!("{:9.2} {:10.6} {:11.3e} {:11.3e}  {}\n", d.snr_db, d.cosine, d.max_error, d.relative_l2, d.name)
        };
        let mut text = String::from("   SNR dB     cosine   max error relative L2  value\n");
        found.nodes.iter().for_each(|d| text += &line(d));
        text += "outputs\n";
        found.outputs.iter().for_each(|d| text += &line(d));
        for o in &found.overflows {
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
    let worst = found.worst();
    let is_missed = args.bound.is_some_and(|bound| worst > bound || worst.is_nan());
    Ok(if is_missed || !found.overflows.is_empty() { ExitCode::from(EXIT_DIFFERENT) } else { ExitCode::SUCCESS })
}

/// A word of a shell's command line.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
