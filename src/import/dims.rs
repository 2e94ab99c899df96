//! Sizes of the model's inputs: named, unnamed, given on the command line, or taken to be one.

use super::data;
use super::error::{ImportError, Kind};
use super::{DimBinding, ImportReport};
use crate::ir::{Dim, Shape, TensorType};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb::ValueInfoProto;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::Value as TypeValue;

/// The symbols of a model and those of them that have a value.
#[derive(Default)]
pub(super) struct Symbols {
    bound: BTreeMap<String, i64>,
}

/// Names that exporters write where they know none: two axes of such a name need not be equal.
const NAMELESS: &[&str] = &["", "?", "-1", "None"];

/// What is in the names of sizes that are no batches, wherever they stand: 1 would be a wrong guess.
const LENGTHS: &[&str] = &["seq", "len", "time", "frames"];

/// The size of one axis as the file has it: a number, or a name of its own or after its place.
pub(super) fn declared(input: &str, axis: usize, dim: &Dimension) -> Result<i64, String> {
    match &dim.value {
        // Exporters write 0 and -1 for sizes they do not know.
        Some(dimension::Value::DimValue(n)) if *n > 0 => Ok(*n),
        Some(dimension::Value::DimParam(name)) if !NAMELESS.contains(&name.as_str()) => Err(name.clone()),
        _ => Err(format!("{input}.{axis}")),
    }
}

/// Element type and axes of a value that the file describes.
pub(super) fn described(info: &ValueInfoProto) -> Result<(crate::ir::DType, Option<&[Dimension]>), String> {
    let Some(TypeValue::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Err("is no tensor: what a sequence or an optional holds must be said (ImportOptions::held), maps are not supported".to_owned());
    };
    Ok((data::dtype(tensor.elem_type)?, tensor.shape.as_ref().map(|s| s.dim.as_slice())))
}

impl Symbols {
    /// Binds the symbols of these inputs: as asked, and a batch that nobody gave to 1.
    ///
    /// # Errors
    /// A binding names nothing, or a size that is fixed.
    pub(super) fn new(inputs: &[&ValueInfoProto], bindings: &[DimBinding]) -> Result<(Symbols, ImportReport), ImportError> {
        let mut axes = Vec::new();
        for info in inputs {
            let input = |problem| Kind::Input { name: info.name.clone(), problem };
            let (_, dims) = described(info).map_err(input)?;
            let dims = dims.ok_or_else(|| input("has no shape".to_owned()))?;
            axes.extend(dims.iter().enumerate().map(|(axis, dim)| Axis {
                input: &info.name,
                axis,
                rank: dims.len(),
                size: declared(&info.name, axis, dim),
            }));
        }
        let mut symbols = Symbols::default();
        for binding in bindings {
            symbols.bind(&axes, binding)?;
        }
        let mut report = ImportReport::default();
        if let Some(batch) = symbols.batch(&axes) {
            symbols.bound.insert(batch.clone(), 1);
            report.defaulted.push((batch, 1));
        }
        let all: BTreeSet<&String> = axes.iter().filter_map(|a| a.size.as_ref().err()).collect();
        report.unbound = all.into_iter().filter(|name| !symbols.bound.contains_key(*name)).cloned().collect();
        Ok((symbols, report))
    }

    fn bind(&mut self, axes: &[Axis<'_>], binding: &DimBinding) -> Result<(), ImportError> {
        let DimBinding { name, size } = binding;
        let symbol = if axes.iter().any(|a| a.size.as_ref().err() == Some(name)) {
            name.clone()
        } else {
            match axes.iter().find(|a| a.place() == *name).map(|a| &a.size) {
                Some(Err(symbol)) => symbol.clone(),
                Some(Ok(fixed)) if fixed == size => return Ok(()),
                Some(Ok(fixed)) => return Err(Kind::FixedDim { name: name.clone(), size: *fixed, given: *size }.into()),
                None => return Err(Kind::UnknownDim { name: name.clone(), available: available(axes) }.into()),
            }
        };
        match self.bound.insert(symbol, *size) {
            Some(before) if before != *size => Err(Kind::FixedDim { name: name.clone(), size: before, given: *size }.into()),
            _ => Ok(()),
        }
    }

    /// The symbol that looks like a batch: the only unbound one on the first axis of inputs of two axes and more, on no other axis, and not
    /// called a length.
    fn batch(&self, axes: &[Axis<'_>]) -> Option<String> {
        let unbound = |a: &&Axis<'_>| a.size.as_ref().is_err_and(|name| !self.bound.contains_key(name));
        let first: BTreeSet<&String> = axes.iter().filter(unbound).filter(|a| a.axis == 0).filter_map(|a| a.size.as_ref().err()).collect();
        let name = first.first().filter(|_| first.len() == 1)?;
        if LENGTHS.iter().any(|word| name.to_ascii_lowercase().contains(word)) {
            return None;
        }
        let mut places = axes.iter().filter(|a| a.size.as_ref().err() == Some(name)).peekable();
        places.peek()?;
        places.all(|a| a.axis == 0 && a.rank >= 2).then(|| (*name).clone())
    }

    /// The type of a value as the file describes it; sizes without a name are named after `name`. `None` where it has no shape.
    pub(super) fn ty(&self, name: &str, info: &ValueInfoProto) -> Result<Option<TensorType>, ImportError> {
        let (dtype, dims) = described(info).map_err(|problem| Kind::Input { name: name.to_owned(), problem })?;
        let dim = |(axis, dim)| match declared(name, axis, dim) {
            Ok(n) => Dim::Known(n),
            Err(symbol) => self.bound.get(&symbol).map_or_else(|| Dim::symbol(&symbol), |&n| Dim::Known(n)),
        };
        Ok(dims.map(|dims| TensorType::new(dtype, Shape(dims.iter().enumerate().map(dim).collect()))))
    }
}

/// One axis of one input.
struct Axis<'a> {
    input: &'a str,
    axis: usize,
    rank: usize,
    /// Its size, or the name that stands for it.
    size: Result<i64, String>,
}

impl Axis<'_> {
    fn place(&self) -> String {
        format!("{}.{}", self.input, self.axis)
    }
}

/// What a binding could have named.
fn available(axes: &[Axis<'_>]) -> String {
    let text = |a: &Axis<'_>| match &a.size {
        Ok(n) => format!("{} = {n}", a.place()),
        Err(name) if *name == a.place() => name.clone(),
        Err(name) => format!("{name} ({})", a.place()),
    };
    if axes.is_empty() { "no dimensions".to_owned() } else { axes.iter().map(text).collect::<Vec<_>>().join(", ") }
}

impl DimBinding {
    /// Reads `NAME=N` or `INPUT.AXIS=N`.
    ///
    /// # Errors
    /// The text is neither, or N is not a number from 1.
    pub fn parse(text: &str) -> Result<DimBinding, ImportError> {
        let refuse = || Kind::Binding { text: text.to_owned() };
        let (name, size) = text.rsplit_once('=').ok_or_else(refuse)?;
        let size = size.trim().parse::<i64>().ok().filter(|&n| n > 0).ok_or_else(refuse)?;
        let name = name.trim();
        if name.is_empty() { Err(refuse().into()) } else { Ok(DimBinding { name: name.to_owned(), size }) }
    }
}
