//! Attributes as ONNX writes them.

use super::Problem;
use crate::import::proto::pb;
use crate::ir::{Attr, Dim, Op, Tensor};
use pb::attribute_proto::AttributeType;

/// Attributes that are nyxc's own: what a size is that data tell, and the type of an expansion's arithmetic.
const OWN: &[&str] = &[crate::ir::COUNT, "dtype"];

fn named(name: &str, kind: AttributeType) -> pb::AttributeProto {
    pb::AttributeProto { name: name.to_owned(), r#type: kind as i32, ..Default::default() }
}

/// An integer.
pub(super) fn int(name: &str, value: impl Into<i64>) -> pb::AttributeProto {
    pb::AttributeProto { i: value.into(), ..named(name, AttributeType::Int) }
}

/// A list of integers.
pub(super) fn ints(name: &str, values: &[i64]) -> pb::AttributeProto {
    pb::AttributeProto { ints: values.to_vec(), ..named(name, AttributeType::Ints) }
}

/// The attributes of a use of an operator.
///
/// # Errors
/// One is of a kind that ONNX lacks, or the data of a tensor is absent.
pub(super) fn all(op: &Op) -> Result<Vec<pb::AttributeProto>, Problem> {
    let is_own = |name: &str| OWN.contains(&name) && !op.def.onnx.starts_with("Random") && !is_asked(op, name);
    op.attrs.0.iter().filter(|(name, _)| !is_own(name)).map(|(name, value)| one(name, value)).collect()
}

/// Whether an attribute that nyxc uses too is one of the operator in ONNX.
fn is_asked(op: &Op, name: &str) -> bool {
    name == "dtype" && matches!(op.def.onnx, "Bernoulli" | "EyeLike" | "Multinomial")
}

fn one(name: &str, value: &Attr) -> Result<pb::AttributeProto, Problem> {
    let refuse = |what: &str| Problem::Attribute { name: name.to_owned(), what: what.to_owned() };
    let bytes = |text: &String| text.as_bytes().to_vec();
    Ok(match value {
        Attr::Int(value) => int(name, *value),
        Attr::Float(value) => pb::AttributeProto { f: *value, ..named(name, AttributeType::Float) },
        Attr::Str(value) => pb::AttributeProto { s: bytes(value), ..named(name, AttributeType::String) },
        Attr::Ints(values) => ints(name, values),
        Attr::Floats(values) => pb::AttributeProto { floats: values.clone(), ..named(name, AttributeType::Floats) },
        Attr::Strs(values) => {
            pb::AttributeProto { strings: values.iter().map(bytes).collect(), ..named(name, AttributeType::Strings) }
        }
        Attr::Dims(sizes) => {
            let known: Option<Vec<i64>> = sizes.iter().map(Dim::known).collect();
            ints(name, &known.ok_or_else(|| refuse("a size that changes between runs"))?)
        }
        Attr::DType(dtype) => int(name, dtype.onnx()),
        Attr::Tensor(value) => pb::AttributeProto { t: Some(tensor("", value)?), ..named(name, AttributeType::Tensor) },
        Attr::Expr(_) => return Err(refuse("an expression")),
        Attr::Graph(_) => return Err(refuse("a graph")),
    })
}

/// A tensor with its data.
fn tensor(name: &str, tensor: &Tensor) -> Result<pb::TensorProto, Problem> {
    let raw_data = tensor.bytes()?.to_vec();
    Ok(pb::TensorProto { raw_data, ..header(name, tensor) })
}

/// A tensor without its data.
pub(super) fn header(name: &str, tensor: &Tensor) -> pb::TensorProto {
    pb::TensorProto {
        name: name.to_owned(),
        dims: tensor.dims().iter().map(|&n| n as i64).collect(),
        data_type: tensor.dtype().onnx(),
        ..Default::default()
    }
}
