//! Sizes of the model's inputs: named, unnamed, given on the command line, or taken to be one.

use super::data;
use super::error::{ImportError, Kind};
use super::{DimBinding, ImportReport};
use crate::ir::{Dim, Shape, Symbol, TensorType};
use std::collections::{BTreeMap, BTreeSet};
use tract_onnx::pb::ValueInfoProto;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::Value as TypeValue;

/// The symbols of a model and those of them that have a value: a number, a range, or an expression of ranges.
#[derive(Default)]
pub(super) struct Symbols {
    bound: BTreeMap<String, Dim>,
    /// The names that the file's inputs have for sizes.
    names: BTreeSet<String>,
}

/// Names that exporters write where they know none: two axes of such a name need not be equal.
const NAMELESS: &[&str] = &["", "?", "-1", "None"];

/// What is in the names of sizes that are no batches, wherever they stand: 1 would be a wrong guess.
const LENGTHS: &[&str] = &["seq", "len", "time", "frames"];

/// The size of one axis as the file has it: a number, or a name of its own or after its place.
pub(super) fn declared(input: &str, axis: usize, dim: &Dimension) -> Result<i64, String> {
    match &dim.value {
        // Exporters write -1 for sizes they do not know. 0 is a size, which a binding may change.
        Some(dimension::Value::DimValue(n)) if *n >= 0 => Ok(*n),
        Some(dimension::Value::DimParam(name)) if !NAMELESS.contains(&name.as_str()) => Err(name.clone()),
        _ => Err(format!("{input}.{axis}")),
    }
}

/// Element type and axes of a value that the file describes.
pub(super) fn described(info: &ValueInfoProto) -> Result<(crate::ir::DType, Option<&[Dimension]>), String> {
    let Some(TypeValue::TensorType(tensor)) = info.r#type.as_ref().and_then(|t| t.value.as_ref()) else {
        return Err("is no tensor".to_owned());
    };
    Ok((data::dtype(tensor.elem_type)?, tensor.shape.as_ref().map(|s| s.dim.as_slice())))
}

impl Symbols {
    /// Binds the symbols of these inputs: as asked, and a batch that nobody gave to 1.
    ///
    /// # Errors
    /// A binding names nothing, or a size that is fixed.
    pub(super) fn new(
        inputs: &[&ValueInfoProto],
        bindings: &[DimBinding],
    ) -> Result<(Symbols, ImportReport), ImportError> {
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
        // Ranges first: expressions may name them in any order, those of their own included that no input has.
        let ranges: BTreeMap<&str, &Dim> = bindings
            .iter()
            .filter(|b| b.size.solved_symbol().is_some_and(has_range))
            .map(|b| (b.name.as_str(), &b.size))
            .collect();
        let mut used = BTreeSet::new();
        let mut resolved = Vec::new();
        for binding in bindings {
            let mut missing = None;
            binding.size.for_each_symbol(&mut |symbol| match (ranges.get(symbol.name()), has_range(symbol)) {
                (_, true) => {}
                (Some(_), false) => drop(used.insert(symbol.name().to_owned())),
                (None, false) => missing = Some(symbol.name().to_owned()),
            });
            if let Some(symbol) = missing {
                return Err(
                    Kind::FreeSymbol { name: binding.name.clone(), size: binding.size.to_string(), symbol }.into()
                );
            }
            let size = binding.size.substitute(&|symbol| ranges.get(symbol.name()).map(|&dim| dim.clone()));
            let (low, high) = size.bounds();
            if low < 0 || high == i64::MAX {
                return Err(Kind::SizeRange { name: binding.name.clone(), size: size.to_string(), low, high }.into());
            }
            resolved.push(DimBinding { name: binding.name.clone(), size });
        }
        for binding in &resolved {
            symbols.bind(&axes, binding, &used)?;
        }
        let mut report = ImportReport::default();
        if let Some(batch) = symbols.batch(&axes) {
            symbols.bound.insert(batch.clone(), Dim::Known(1));
            report.defaulted.push((batch, 1));
        }
        symbols.names = axes.iter().filter_map(|a| a.size.as_ref().err()).cloned().collect();
        let is_empty = |a: &&Axis<'_>| a.size == Ok(0) && !symbols.bound.contains_key(&a.place());
        report.empty = axes.iter().filter(is_empty).map(Axis::place).collect();
        report.unbound = symbols.names.iter().filter(|name| !symbols.bound.contains_key(*name)).cloned().collect();
        Ok((symbols, report))
    }

    fn bind(&mut self, axes: &[Axis<'_>], binding: &DimBinding, used: &BTreeSet<String>) -> Result<(), ImportError> {
        let DimBinding { name, size } = binding;
        let symbol = if axes.iter().any(|a| a.size.as_ref().err() == Some(name)) {
            name.clone()
        } else {
            match axes.iter().find(|a| a.place() == *name).map(|a| &a.size) {
                Some(Err(symbol)) => symbol.clone(),
                Some(Ok(0)) => name.clone(),
                Some(Ok(fixed)) if Dim::Known(*fixed) == *size => return Ok(()),
                Some(Ok(fixed)) => {
                    return Err(Kind::FixedDim {
                        name: name.clone(),
                        size: fixed.to_string(),
                        given: size.to_string(),
                    }
                    .into());
                }
                None if used.contains(name) => return Ok(()),
                None => return Err(Kind::UnknownDim { name: name.clone(), available: available(axes) }.into()),
            }
        };
        match self.bound.insert(symbol, size.clone()) {
            Some(before) if before != *size => {
                Err(Kind::TwiceDim { name: name.clone(), first: before.to_string(), second: size.to_string() }.into())
            }
            _ => Ok(()),
        }
    }

    /// The symbol that looks like a batch: the only unbound one on the first axis of inputs of two axes and more, on no
    /// other axis, and not called a length.
    fn batch(&self, axes: &[Axis<'_>]) -> Option<String> {
        let unbound = |a: &&Axis<'_>| a.size.as_ref().is_err_and(|name| !self.bound.contains_key(name));
        let first: BTreeSet<&String> =
            axes.iter().filter(unbound).filter(|a| a.axis == 0).filter_map(|a| a.size.as_ref().err()).collect();
        let name = first.first().filter(|_| first.len() == 1)?;
        if LENGTHS.iter().any(|word| name.to_ascii_lowercase().contains(word)) {
            return None;
        }
        let mut places = axes.iter().filter(|a| a.size.as_ref().err() == Some(name)).peekable();
        places.peek()?;
        places.all(|a| a.axis == 0 && a.rank >= 2).then(|| (*name).clone())
    }

    /// Whether a size of an input has this name, or stands behind one.
    pub(super) fn has(&self, name: &str) -> bool {
        let mut found = self.names.contains(name);
        self.bound.values().for_each(|dim| dim.for_each_symbol(&mut |symbol| found |= symbol.name() == name));
        found
    }

    /// The names that stand for sizes of inputs or stand behind them and have a range, in order.
    pub(super) fn ranged(&self) -> BTreeMap<String, Dim> {
        let mut ranged = BTreeMap::new();
        for dim in self.bound.values() {
            dim.for_each_symbol(&mut |symbol| {
                if has_range(symbol) {
                    ranged.insert(symbol.name().to_owned(), Dim::from(symbol.clone()));
                }
            });
        }
        ranged
    }

    /// The type of a value as the file describes it; sizes without a name are named after `name`. `None` where it has
    /// no shape.
    pub(super) fn ty(&self, name: &str, info: &ValueInfoProto) -> Result<Option<TensorType>, ImportError> {
        let (dtype, dims) = described(info).map_err(|problem| Kind::Input { name: name.to_owned(), problem })?;
        let dim = |(axis, dim)| match declared(name, axis, dim) {
            Ok(0) => self.bound.get(&format!("{name}.{axis}")).cloned().unwrap_or(Dim::Known(0)),
            Ok(n) => Dim::Known(n),
            Err(symbol) => self.bound.get(&symbol).cloned().unwrap_or_else(|| Dim::symbol(&symbol)),
        };
        Ok(dims.map(|dims| TensorType::new(dtype, Shape(dims.iter().enumerate().map(dim).collect()))))
    }
}

/// Whether a symbol of a binding has a range, and does not only name one.
fn has_range(symbol: &Symbol) -> bool {
    symbol.range().is_some_and(|range| *range.end() < i64::MAX)
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
    /// The axis or symbol `name` has `size` elements.
    pub fn known(name: &str, size: i64) -> DimBinding {
        DimBinding { name: name.to_owned(), size: Dim::Known(size) }
    }

    /// As it is given on the command line: `--dim total=past+seq`, `--dim seq=1..512`.
    pub(super) fn argument(&self) -> String {
        let range = |symbol: &Symbol| symbol.range().filter(|_| symbol.name() == self.name);
        let size = match self.size.solved_symbol().and_then(range) {
            Some(range) if self.size == Dim::ranged(&self.name, *range.start(), *range.end()) => {
                format!("{}..{}", range.start(), range.end())
            }
            _ => self.size.to_string(),
        };
        let text = format!("{}={size}", self.name);
        // What a shell would take apart is quoted.
        let is_plain = |c: char| c.is_alphanumeric() || "_.,:/@%+=-*".contains(c);
        if text.chars().all(is_plain) { format!("--dim {text}") } else { format!("--dim '{text}'") }
    }

    /// Reads `NAME=SIZE` or `INPUT.AXIS=SIZE`, where the size is a number, a range `1..512` that the program takes any
    /// size of, or an expression of names that have a range (`past+seq`, `32*h`).
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(text: &str) -> Result<DimBinding, ImportError> {
        let refuse = || Kind::Binding { text: text.to_owned() };
        let (name, size) = text.rsplit_once('=').ok_or_else(refuse)?;
        let (name, size) = (name.trim(), size.trim());
        if name.is_empty() {
            return Err(refuse().into());
        }
        let number = |text: &str| text.trim().parse::<i64>().ok();
        let size = match size.split_once("..") {
            Some((min, max)) => {
                let (min, max) = number(min).zip(number(max)).ok_or_else(refuse)?;
                if min < 0 || max < min || max > 1 << 31 {
                    return Err(refuse().into());
                }
                Dim::ranged(name, min, max)
            }
            None => crate::ir::text::parse_dim(size)
                .ok()
                .filter(|dim| dim.known().is_none_or(|n| n >= 0))
                .ok_or_else(refuse)?,
        };
        Ok(DimBinding { name: name.to_owned(), size })
    }
}
