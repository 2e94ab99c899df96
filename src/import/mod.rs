//! Import: an ONNX file becomes a [`Graph`] of the level `onnx`.
//!
//! 1. `read` takes the protobuf apart into plain values: data moves out of it, or stays in mapped files (`data`).
//! 2. `dims` gives the sizes of the inputs values or names.
//! 3. `normalize` brings every node to the form that the newest opset has, so that operators know one form only.
//! 4. `build` adds the nodes in the file's order, typed one by one. Shape arithmetic is computed at once (`fold`), since later types depend
//!    on its values. Bodies are written out where how often they run is known, or bounded (`unroll`), and become graphs of their own for operators that
//!    a registry adds (`body`). Sequences and optionals are resolved (`sequence`).

mod body;
mod build;
mod contrib;
mod data;
mod dims;
mod error;
mod fold;
mod gradient;
mod normalize;
mod outline;
mod read;
mod sequence;
#[cfg(test)]
mod tests;
mod unroll;
mod weigh;

pub use error::ImportError;
pub use outline::{Outline, outline};

use crate::ir::{Dim, Graph, Registry, Tensor, TensorType};
use dims::Symbols;
use error::Kind;
use prost::Message;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use tract_onnx::pb::ModelProto;

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
    /// Values for inputs of the model, by name: these become constants. Where an input decides shapes (the axes of a reduction, the sizes of a
    /// Resize), the model cannot be compiled otherwise.
    pub constants: BTreeMap<String, Tensor>,
    /// What inputs that are sequences or optionals hold, by name; an input of which nothing is said here must be a tensor.
    pub held: BTreeMap<String, Held>,
}

/// What an input of the model that is no tensor holds. A program has sizes and lengths of its own, so they must be known.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// A sequence, perhaps an optional one, of tensors of these types: the graph has the inputs `NAME.0`, `NAME.1` and so on.
    Sequence(Vec<TensorType>),
    /// An optional with a tensor of this type: the graph has the input `NAME`.
    Tensor(TensorType),
    /// An optional without a value: the graph has no such input.
    Nothing,
}

/// A size for a dimension that the model leaves open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DimBinding {
    /// The dimension's name in the model (its `dim_param`), or the name of an input, a dot and a 0-based axis.
    pub name: String,
    /// Its size: a number, a range that each run chooses from ([`Dim::ranged`]), or an expression of names that have a range.
    pub size: Dim,
}

/// What import decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportReport {
    /// Dimensions that nobody bound, taken to be batches, and the sizes they got.
    pub defaulted: Vec<(String, i64)>,
    /// Dimensions that stay symbolic, sorted.
    pub unbound: Vec<String>,
}

/// Reads the ONNX file at `path`, with the external data in its folder.
///
/// # Errors
/// The file cannot be read, is no ONNX model, or uses what nyxc does not support; the error names the node and the numbers.
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
    if let Some((n, most)) = weigh::excess(bytes) {
        return Err(Kind::Messages { n, most, n_bytes: bytes.len() }.into());
    }
    let model = ModelProto::decode(bytes).map_err(|source| Kind::Decode { source })?;
    import_proto(model, dir, options, registry)
}

/// Imports a decoded model. External data is looked for in `dir`, and refused where that is `None`.
///
/// # Errors
/// As [`import`].
pub fn import_proto(
    model: ModelProto,
    dir: Option<&Path>,
    options: &ImportOptions,
    registry: &Registry,
) -> Result<(Graph, ImportReport), ImportError> {
    let mut opsets = BTreeMap::new();
    for set in &model.opset_import {
        let newest = opsets.entry(read::domain(&set.domain).to_owned()).or_insert(set.version);
        *newest = set.version.max(*newest);
    }
    let (min, max) = (MIN_OPSET, MAX_OPSET);
    // A model of other domains alone need not name the default one.
    let other = |n: &tract_onnx::pb::NodeProto| !read::domain(&n.domain).is_empty();
    let needs_none = model.graph.as_ref().is_some_and(|g| !g.node.is_empty() && g.node.iter().all(other));
    let opset = *opsets.get("").or(needs_none.then_some(&max)).ok_or(Kind::NoOpset { min, max })?;
    let same = |n: &tract_onnx::pb::NodeProto| ALWAYS_THE_SAME.contains(&n.op_type.as_str());
    let is_old = (1..min).contains(&opset)
        && model.graph.as_ref().is_some_and(|g| !g.node.is_empty() && g.node.iter().all(same));
    if !(min..=max).contains(&opset) && !is_old {
        return Err(Kind::Opset { found: opset, min, max }.into());
    }
    let functions = model.functions.iter().map(|f| {
        let (domain, name) = (f.domain.as_deref().unwrap_or_default(), f.name.as_deref().unwrap_or_default());
        (read::domain(domain).to_owned(), name.to_owned())
    });
    let functions = functions.collect();
    let mut raw =
        read::Reader { files: data::Files::new(dir)?, opsets: &opsets }.graph(model.graph.ok_or(Kind::NoGraph)?, 0)?;
    for (name, held) in &options.held {
        sequence::spread_input(&mut raw, name, held)?;
    }
    for (name, tensor) in &options.constants {
        fix_input(&mut raw, name, tensor)?;
    }
    // Before IR version 4 every initializer had to be an input too: it is a constant all the same.
    let inputs: Vec<_> = raw.inputs.iter().filter(|i| !raw.initializers.contains_key(&i.name)).collect();
    let (symbols, report) = Symbols::new(&inputs, &options.dims)?;
    let graph = build::Model {
        registry,
        opset,
        opsets: &opsets,
        functions,
        symbols: &symbols,
        unbound: &report.unbound,
        channel_block: contrib::blocked::block(&raw),
        n_bodies: Cell::new(0),
        n_listed: Cell::new(0),
        n_differentiated: Cell::new(0),
    }
    .graph(&raw)?;
    Ok((graph, report))
}

/// Makes an input of the model a constant.
fn fix_input(raw: &mut read::RawGraph, name: &str, tensor: &Tensor) -> Result<(), ImportError> {
    let fail = |problem: String| ImportError::from(Kind::Fixed { name: name.to_owned(), problem });
    let input = raw.inputs.iter().find(|input| input.name == name);
    let input = input.ok_or_else(|| fail("the model has no such input".to_owned()))?;
    let (dtype, dims) = dims::described(input).map_err(&fail)?;
    let sizes = dims
        .iter()
        .flat_map(|dims| dims.iter())
        .enumerate()
        .map(|(axis, dim)| dims::declared(name, axis, dim).ok())
        .collect::<Vec<_>>();
    let own = tensor.dims();
    let differs = dims.is_some()
        && (sizes.len() != own.len()
            || sizes.iter().zip(&own).any(|(size, n)| size.is_some_and(|size| size != *n as i64)));
    if dtype != tensor.dtype() || tensor.ty().packing.is_some() || differs {
        return Err(fail(format!("{} given, the input is {dtype} of another type or shape", tensor.ty())));
    }
    raw.initializers.insert(name.to_owned(), tensor.clone());
    Ok(())
}
