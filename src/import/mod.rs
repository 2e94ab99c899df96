//! Import: an ONNX file becomes a [`Graph`] of the level `onnx`.
//!
//! 1. `proto` is the protobuf, that of tract-onnx and what it leaves out. `read` takes it apart into plain values: data
//!    moves out of it, or stays in mapped files (`data`).
//! 2. `dims` gives the sizes of the inputs values or names.
//! 3. `normalize` brings every node to the form that the newest opset has, so that operators know one form only.
//! 4. `build` adds the nodes in the file's order, typed one by one. Shape arithmetic is computed at once (`fold`),
//!    since later types depend on its values. Bodies are written out where how often they run is known, or bounded
//!    (`unroll`), and become graphs of their own for operators that a registry adds (`body`). Model-local functions are
//!    written out where they are called (`function`). Sequences and optionals are resolved (`sequence`); those among
//!    the inputs become what they hold (`held`).

mod body;
mod build;
mod contrib;
mod data;
mod defaults;
mod describe;
mod dims;
mod error;
mod fold;
mod function;
mod gradient;
mod held;
mod literal;
mod missing;
mod normalize;
mod outline;
pub mod proto;
mod read;
mod relate;
mod sequence;
#[cfg(test)]
mod tests;
mod undocumented;
mod unroll;
mod value_type;
mod weigh;

pub use describe::{Described, Description, describe, describe_bytes};
pub use error::ImportError;
pub use held::Held;
pub use outline::{Outline, outline};
pub use value_type::{Axis, ValueType};

use crate::ir::{Dim, Graph, Registry, Tensor, hint};
use dims::Symbols;
use error::Kind;
use proto::OnnxModel;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use tract_onnx::pb::NodeProto;

/// The oldest opset of the default domain that is read. Older ones have shapes and types as attributes of other kinds.
pub const MIN_OPSET: i64 = 6;
/// Operators that mean the same in all opsets: a model of nothing else is read whatever its opset.
const ALWAYS_THE_SAME: &[&str] = &[
    "Abs",
    "Ceil",
    "Constant",
    "Exp",
    "Floor",
    "Identity",
    "Log",
    "Neg",
    "Not",
    "Reciprocal",
    "Relu",
    "Sigmoid",
    "Sqrt",
    "Tanh",
];
/// The newest opset of the default domain that is read.
pub const MAX_OPSET: i64 = 28;

/// How to import.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// Sizes for dimensions that the model leaves open.
    pub dims: Vec<DimBinding>,
    /// Values for inputs of the model, by name: these become constants. Where an input decides shapes (the axes of a
    /// reduction, the sizes of a Resize), the model cannot be compiled otherwise.
    pub constants: BTreeMap<String, Tensor>,
    /// What becomes of initializers that are inputs too.
    pub initializers: Initializers,
    /// The same, written out: numbers, truth values, or nested lists of these, which become tensors of the input's
    /// type.
    pub values: BTreeMap<String, serde_json::Value>,
    /// What inputs that are sequences or optionals hold, by name: each of them needs one.
    pub held: BTreeMap<String, Held>,
}

/// What becomes of initializers that the model lists as inputs too. From IR version 4 on these are inputs with a
/// default, before that every initializer had to be listed, and all are constants.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Initializers {
    /// Inputs with a default. But where a model lists all its initializers, and they have 64 KiB or more, its exporter
    /// does so whatever they are for: there they are constants, as weights must be to be quantized and folded.
    #[default]
    Auto,
    /// Inputs with a default, all of which the shapes do not depend on.
    Inputs,
    /// Constants.
    Constants,
}

impl std::str::FromStr for Initializers {
    type Err = String;
    fn from_str(text: &str) -> Result<Initializers, String> {
        match text {
            "auto" => Ok(Initializers::Auto),
            "inputs" => Ok(Initializers::Inputs),
            "constants" => Ok(Initializers::Constants),
            _ => Err(format!("{text:?} is none of auto, inputs, constants")),
        }
    }
}

/// A size for a dimension that the model leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DimBinding {
    /// The dimension's name in the model (its `dim_param`), or the name of an input, a dot and a 0-based axis.
    pub name: String,
    /// Its size: a number, a range that each run chooses from ([`Dim::ranged`]), or an expression of names that have a
    /// range.
    pub size: Dim,
}

/// What import decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Dimensions that nobody bound, taken to be batches, and the sizes they got.
    pub defaulted: Vec<(String, i64)>,
    /// Dimensions that stay symbolic, sorted.
    pub unbound: Vec<String>,
    /// Axes, as `INPUT.AXIS`, that have no elements because the model says so: some exporters write 0 for what they do
    /// not know.
    pub empty: Vec<String>,
    /// Inputs of the model that are constants of the graph, and why.
    pub fixed: BTreeMap<String, String>,
}

/// Reads the ONNX file at `path`, with the external data in its folder.
///
/// # Errors
/// The file cannot be read, is no ONNX model, or uses what nyxc does not support; the error names the node and the
/// numbers.
pub fn import(path: &Path, options: &ImportOptions, registry: &Registry) -> Result<(Graph, ImportReport), ImportError> {
    let bytes = data::map(path).map_err(|source| Kind::Io { path: path.to_owned(), source })?;
    let (mut graph, report) = import_bytes(&bytes, path.parent(), options, registry)?;
    if graph.name.is_empty() {
        graph.name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    }
    Ok((graph, report))
}

/// Imports the ONNX model in `bytes`. External data is looked for in `dir`, and refused where that is `None`.
///
/// # Errors
/// As [`import`].
pub fn import_bytes(
    bytes: &[u8],
    dir: Option<&Path>,
    options: &ImportOptions,
    registry: &Registry,
) -> Result<(Graph, ImportReport), ImportError> {
    import_proto(OnnxModel::decode(bytes)?, dir, options, registry)
}

/// Imports a decoded model; a [`ModelProto`](proto::pb::ModelProto) becomes one with `into`. External data is looked
/// for in `dir`, and refused where that is `None`.
///
/// # Errors
/// As [`import`].
pub fn import_proto(
    model: OnnxModel,
    dir: Option<&Path>,
    options: &ImportOptions,
    registry: &Registry,
) -> Result<(Graph, ImportReport), ImportError> {
    let OnnxModel { message: model, extras } = model;
    let mut opsets = BTreeMap::new();
    for set in &model.opset_import {
        let newest = opsets.entry(read::domain(&set.domain).to_owned()).or_insert(set.version);
        *newest = set.version.max(*newest);
    }
    let (min, max) = (MIN_OPSET, MAX_OPSET);
    // A model of other domains alone need not name the default one.
    let other = |n: &NodeProto| !read::domain(&n.domain).is_empty();
    let needs_none = model.graph.as_ref().is_some_and(|g| !g.node.is_empty() && g.node.iter().all(other));
    let opset = *opsets.get("").or(needs_none.then_some(&max)).ok_or(Kind::NoOpset { min, max })?;
    let graph = model.graph.ok_or(Kind::NoGraph)?;
    if !is_read(opset, &graph.node) {
        return Err(Kind::Opset { found: opset, min, max }.into());
    }
    let ir_version = model.ir_version;
    let more = extras.graph.unwrap_or_default();
    let mut files = data::Files::new(dir)?;
    let functions =
        function::read((model.functions, extras.functions), (&graph.node, &more.node), &mut files, opset, &opsets)?;
    let declared = proto::paired(&graph.input, &more.input);
    let declared = declared.map(|(info, extras)| (info.name.clone(), ValueType::of(info, extras))).collect();
    let mut raw = read::Reader { files: &mut files, opsets: &opsets }.graph(graph, more, 0)?;
    held::spread_inputs(&mut raw, &declared, &options.held)?;
    for (name, tensor) in &options.constants {
        fix_input(&mut raw, name, tensor)?;
    }
    for (name, value) in &options.values {
        if options.constants.contains_key(name) {
            return Err(Kind::Fixed { name: name.clone(), problem: "is given twice".to_owned() }.into());
        }
        let tensor = literal::tensor(&raw, name, value)?;
        fix_input(&mut raw, name, &tensor)?;
    }
    let mut fixed = defaults::choose(&mut raw, ir_version, options);
    let build = |raw: &read::RawGraph, dims: &[DimBinding]| {
        let is_given = |name: &String| !raw.initializers.contains_key(name) && !raw.defaults.contains_key(name);
        let inputs: Vec<_> = raw.inputs.iter().filter(|i| is_given(&i.name)).collect();
        let (symbols, report) = Symbols::new(&inputs, dims)?;
        let model = build::Model {
            registry,
            opset,
            opsets: &opsets,
            functions: &functions,
            symbols: &symbols,
            unbound: &report.unbound,
            channel_block: contrib::blocked::block(raw),
            n_bodies: Cell::new(0),
            n_listed: Cell::new(0),
            n_differentiated: Cell::new(0),
        };
        Ok::<_, ImportError>((model.graph(raw)?, report))
    };
    loop {
        let error = match build(&raw, &options.dims) {
            Ok((graph, mut report)) => {
                report.fixed = fixed;
                return Ok((graph, report));
            }
            Err(error) => error,
        };
        // Shapes may need the value of an input that has one.
        match defaults::fix_for(&mut raw, error) {
            Ok(more) => fixed.extend(more),
            Err(error) => return Err(relate::settled(error, &options.dims, &|dims| build(&raw, dims))),
        }
    }
}

/// Whether nodes of this opset of the default domain are read.
fn is_read(opset: i64, nodes: &[NodeProto]) -> bool {
    let same = |n: &NodeProto| ALWAYS_THE_SAME.contains(&n.op_type.as_str());
    (MIN_OPSET..=MAX_OPSET).contains(&opset)
        || (1..MIN_OPSET).contains(&opset) && !nodes.is_empty() && nodes.iter().all(same)
}

/// Makes an input of the model a constant.
fn fix_input(raw: &mut read::RawGraph, name: &str, tensor: &Tensor) -> Result<(), ImportError> {
    let fail = |problem: String| ImportError::from(Kind::Fixed { name: name.to_owned(), problem });
    let input = raw.inputs.iter().find(|input| input.name == name);
    let names = || raw.inputs.iter().map(|input| input.name.as_str());
    let input = input.ok_or_else(|| fail(format!("the model has no such input{}", hint(name, names()))))?;
    let (dtype, dims) = dims::described(input).map_err(&fail)?;
    let sizes = dims
        .iter()
        .flat_map(|dims| dims.iter())
        .enumerate()
        .map(|(axis, dim)| dims::declared(name, axis, dim).ok().filter(|size| *size != 0))
        .collect::<Vec<_>>();
    let own = tensor.dims();
    let differs = dims.is_some()
        && (sizes.len() != own.len()
            || sizes.iter().zip(&own).any(|(size, n)| size.is_some_and(|size| size != *n as i64)));
    if differs {
        return Err(fail(format!("{} given, the input is {dtype} of another shape", tensor.ty())));
    }
    let tensor = tensor.narrowed(dtype).map_err(|e| fail(e.to_string()))?;
    raw.initializers.insert(name.to_owned(), tensor);
    Ok(())
}
