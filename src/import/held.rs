//! What inputs hold that are sequences or optionals: a graph has neither, so their elements become inputs of it.

use super::error::{ImportError, Kind};
use super::read::{RawGraph, RawNode};
use super::value_type::ValueType;
use crate::ir::{Dim, TensorType, hint, text};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension};
use tract_onnx::pb::type_proto::{self, Tensor as TensorTypeProto};
use tract_onnx::pb::{TensorShapeProto, TypeProto, ValueInfoProto};

/// What an input of the model holds that is no tensor. The number of elements belongs to the program; a size of one may
/// be a name, which [`ImportOptions::dims`](super::ImportOptions::dims) binds as it binds those of the model.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// A sequence, perhaps an optional one, of tensors of these types: the graph has the inputs `NAME.0`, `NAME.1` and
    /// so on.
    Sequence(Vec<TensorType>),
    /// An optional with a tensor of this type: the graph has the input `NAME`.
    Tensor(TensorType),
    /// An optional without a value: the graph has no such input.
    Nothing,
}

/// As it is read: `[f32[2,3],f32[4,3]]`, `f32[5]`, `none`.
impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Held::Sequence(types) => {
                let types: Vec<String> = types.iter().map(TensorType::to_string).collect();
                write!(f, "[{}]", types.join(","))
            }
            Held::Tensor(ty) => write!(f, "{ty}"),
            Held::Nothing => f.write_str("none"),
        }
    }
}

impl FromStr for Held {
    type Err = String;

    /// Reads `[f32[2,3],f32[4,3]]`, the types of a sequence's elements; `f32[5]`, the type of what an optional holds;
    /// or `none`.
    fn from_str(source: &str) -> Result<Held, String> {
        let source = source.trim();
        let ty = |text: &str| {
            let ty = text::parse_open_type(text.trim())
                .map_err(|e| format!("{:?} is no type as f32[2,3]: {e}", text.trim()))?;
            if ty.packing.is_some() {
                return Err(format!("{:?} is packed, which no input of a model is", text.trim()));
            }
            Ok(ty)
        };
        if source == "none" {
            return Ok(Held::Nothing);
        }
        let Some(list) = source.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else {
            return ty(source).map(Held::Tensor);
        };
        let mut depth = 0i32;
        let is_between = |c: char| {
            depth += i32::from(matches!(c, '[' | '(')) - i32::from(matches!(c, ']' | ')'));
            c == ',' && depth == 0
        };
        let types = list.split(is_between);
        let is_empty = list.trim().is_empty();
        Ok(Held::Sequence(types.filter(|_| !is_empty).map(ty).collect::<Result<_, _>>()?))
    }
}

impl Held {
    /// Why an input of the model that is of type `declared` cannot hold this, if it cannot.
    fn fault(&self, declared: &ValueType) -> Option<String> {
        let all = |element: &ValueType, types: &[TensorType]| types.iter().all(|ty| element.takes(ty));
        let fits = match (declared, self) {
            (ValueType::Tensor { .. }, _) => return Some("is a tensor: it holds nothing else".to_owned()),
            (ValueType::Map | ValueType::Sparse, _) => return Some(format!("is a {declared}, which is not supported")),
            (ValueType::Unknown, _) | (ValueType::Optional(_), Held::Nothing) => true,
            (ValueType::Sequence(element), Held::Sequence(types)) => all(element, types),
            (ValueType::Optional(value), held) => match (&**value, held) {
                (ValueType::Sequence(element), Held::Sequence(types)) => all(element, types),
                (value, Held::Tensor(ty)) => value.takes(ty),
                (ValueType::Unknown, _) => true,
                _ => false,
            },
            (ValueType::Sequence(_), _) => false,
        };
        (!fits).then(|| format!("{self} is given, and it is {declared}"))
    }
}

/// Makes of each input that is a sequence or an optional the inputs that it holds, and the node that puts them
/// together.
///
/// # Errors
/// One that is given is no such input or of another type, or nothing is given of one: the error lists all of these.
pub(super) fn spread_inputs(
    raw: &mut RawGraph,
    declared: &BTreeMap<String, ValueType>,
    held: &BTreeMap<String, Held>,
) -> Result<(), ImportError> {
    for (name, held) in held {
        spread_input(raw, name, declared.get(name), held)?;
    }
    let mut inputs = Vec::new();
    let is_open = |name: &String| !held.contains_key(name) && !raw.initializers.contains_key(name);
    for (name, ty) in declared.iter().filter(|(name, ty)| !ty.is_tensor() && is_open(name)) {
        match ty.holds(name) {
            Some(argument) => inputs.push((name.clone(), ty.to_string(), argument)),
            None => {
                let problem =
                    format!("{ty} is not supported: an input is a tensor, or a sequence or an optional of tensors");
                return Err(Kind::Input { name: name.clone(), problem }.into());
            }
        }
    }
    if inputs.is_empty() { Ok(()) } else { Err(Kind::NotHeld { inputs }.into()) }
}

fn spread_input(raw: &mut RawGraph, name: &str, declared: Option<&ValueType>, held: &Held) -> Result<(), ImportError> {
    let fail = |problem: String| ImportError::from(Kind::Held { name: name.to_owned(), problem });
    let names = || raw.inputs.iter().map(|input| input.name.as_str());
    let at = names().position(|input| input == name);
    let (Some(at), Some(declared)) = (at, declared) else {
        return Err(fail(format!("the model has no such input{}", hint(name, names()))));
    };
    if let Some(problem) = held.fault(declared) {
        return Err(fail(problem));
    }
    let (elements, op) = match held {
        Held::Tensor(ty) => {
            raw.inputs[at] = described(name, ty).map_err(fail)?;
            return Ok(());
        }
        Held::Nothing => (Vec::new(), "Optional"),
        Held::Sequence(types) if types.is_empty() => (Vec::new(), "SequenceEmpty"),
        Held::Sequence(types) => {
            let element = |(i, ty)| described(&format!("{name}.{i}"), ty);
            (types.iter().enumerate().map(element).collect::<Result<Vec<_>, _>>().map_err(fail)?, "SequenceConstruct")
        }
    };
    if let Some(taken) = elements.iter().find(|element| names().any(|input| input == element.name)) {
        return Err(fail(format!("an element has the name of the input {:?}", taken.name)));
    }
    let node = RawNode {
        name: name.to_owned(),
        op: op.to_owned(),
        inputs: elements.iter().map(|element| element.name.clone()).collect(),
        outputs: vec![name.to_owned()],
        ..RawNode::default()
    };
    raw.inputs.splice(at..=at, elements);
    raw.nodes.insert(0, node);
    Ok(())
}

/// An input of this type, as a file describes it.
fn described(name: &str, ty: &TensorType) -> Result<ValueInfoProto, String> {
    let size = |dim: &Dim| match (dim.known(), dim.solved_symbol()) {
        (Some(n), _) if n >= 0 => Ok(dimension::Value::DimValue(n)),
        (None, Some(symbol)) if *dim == Dim::from(symbol.clone()) => {
            Ok(dimension::Value::DimParam(symbol.name().to_owned()))
        }
        _ => Err(format!("{ty}: a size is a number or a name, which --dim binds; {dim} is neither")),
    };
    let dim = |dim: &Dim| Ok(Dimension { value: Some(size(dim)?), ..Default::default() });
    let shape = Some(TensorShapeProto { dim: ty.shape.0.iter().map(dim).collect::<Result<_, String>>()? });
    let value = Some(type_proto::Value::TensorType(TensorTypeProto { elem_type: ty.dtype.onnx(), shape }));
    let ty = TypeProto { value, ..Default::default() };
    Ok(ValueInfoProto { name: name.to_owned(), r#type: Some(ty), ..Default::default() })
}
