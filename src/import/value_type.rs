//! The type of an input or output as the file states it: a tensor, or what no graph has, a sequence, an optional or a
//! map.

use super::proto::{TypeExtras, TypeValue, ValueExtras};
use crate::ir::{DType, TensorType};
use std::fmt;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as DimValue;
use tract_onnx::pb::type_proto::{Tensor as TensorTypeProto, Value as Typed};
use tract_onnx::pb::{TypeProto, ValueInfoProto};

/// The type of a value of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueType {
    /// A tensor.
    Tensor {
        /// Its element type, as text: also one that nyxc has not.
        dtype: String,
        /// Its axes; `None` where the file does not say how many it has.
        shape: Option<Vec<Axis>>,
    },
    /// A sequence of values of one type.
    Sequence(Box<ValueType>),
    /// A value of this type, or none.
    Optional(Box<ValueType>),
    /// A map.
    Map,
    /// A sparse tensor.
    Sparse,
    /// The file does not say.
    Unknown,
}

/// The size of an axis as the file states it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// A number, whatever it is.
    Size(i64),
    /// A name.
    Name(String),
    /// Neither.
    Unknown,
}

impl fmt::Display for Axis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Axis::Size(n) => write!(f, "{n}"),
            Axis::Name(name) => f.write_str(name),
            Axis::Unknown => f.write_str("?"),
        }
    }
}

/// As text: `f32[batch,3]`, `?` for an axis of unknown size, `f32[...]` where their number is unknown,
/// `sequence(f32[?])`, `optional(f32[5])`.
impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ValueType::Tensor { dtype, shape: Some(axes) } => {
                let axes: Vec<String> = axes.iter().map(Axis::to_string).collect();
                write!(f, "{dtype}[{}]", axes.join(","))
            }
            ValueType::Tensor { dtype, shape: None } => write!(f, "{dtype}[...]"),
            ValueType::Sequence(element) => write!(f, "sequence({element})"),
            ValueType::Optional(value) => write!(f, "optional({value})"),
            ValueType::Map => f.write_str("map"),
            ValueType::Sparse => f.write_str("sparse tensor"),
            ValueType::Unknown => f.write_str("of unknown type"),
        }
    }
}

impl ValueType {
    /// Of a value of the file; tract's messages know tensors only, what else there is stands in the extras.
    pub(super) fn of(info: &ValueInfoProto, extras: Option<&ValueExtras>) -> ValueType {
        if let Some(TypeProto { value: Some(Typed::TensorType(tensor)), .. }) = &info.r#type {
            return ValueType::of_tensor(tensor);
        }
        extras.and_then(|extras| extras.r#type.as_ref()).map_or(ValueType::Unknown, ValueType::of_extras)
    }

    fn of_extras(ty: &TypeExtras) -> ValueType {
        let inner =
            |ty: &Option<Box<TypeExtras>>| Box::new(ty.as_deref().map_or(ValueType::Unknown, ValueType::of_extras));
        match &ty.value {
            Some(TypeValue::Tensor(tensor)) => ValueType::of_tensor(tensor),
            Some(TypeValue::Sequence(of)) => ValueType::Sequence(inner(&of.elem_type)),
            Some(TypeValue::Optional(of)) => ValueType::Optional(inner(&of.elem_type)),
            Some(TypeValue::Map(_)) => ValueType::Map,
            Some(TypeValue::SparseTensor(_)) => ValueType::Sparse,
            None => ValueType::Unknown,
        }
    }

    fn of_tensor(tensor: &TensorTypeProto) -> ValueType {
        let dtype = DType::from_onnx(tensor.elem_type);
        let dtype = dtype.map_or_else(|| format!("type {}", tensor.elem_type), |dtype| dtype.to_string());
        let axis = |dim: &Option<DimValue>| match dim {
            Some(DimValue::DimValue(n)) => Axis::Size(*n),
            Some(DimValue::DimParam(name)) if !name.is_empty() => Axis::Name(name.clone()),
            _ => Axis::Unknown,
        };
        let shape = tensor.shape.as_ref().map(|shape| shape.dim.iter().map(|dim| axis(&dim.value)).collect());
        ValueType::Tensor { dtype, shape }
    }

    /// Whether it is a tensor.
    pub fn is_tensor(&self) -> bool {
        matches!(self, ValueType::Tensor { .. })
    }

    /// Whether a tensor of this type may be such a value.
    pub(super) fn takes(&self, ty: &TensorType) -> bool {
        let fits = |(axis, dim): (&Axis, &crate::ir::Dim)| match (axis, dim.known()) {
            (Axis::Size(n), Some(given)) => *n < 0 || *n == given,
            _ => true,
        };
        match self {
            ValueType::Tensor { dtype, shape } => {
                *dtype == ty.dtype.to_string()
                    && shape
                        .as_ref()
                        .is_none_or(|axes| axes.len() == ty.shape.rank() && axes.iter().zip(&ty.shape.0).all(fits))
            }
            ValueType::Unknown => true,
            _ => false,
        }
    }

    /// What `--holds` is given for an input `name` of this type, sizes that are open as N; `None` where nothing can be
    /// given.
    pub fn holds(&self, name: &str) -> Option<String> {
        let tensor = |ty: &ValueType| match ty {
            ValueType::Tensor { dtype, shape: Some(axes) } => {
                let size = |axis: &Axis| match axis {
                    Axis::Size(n) if *n >= 0 => n.to_string(),
                    _ => "N".to_owned(),
                };
                Some(format!("{dtype}[{}]", axes.iter().map(size).collect::<Vec<_>>().join(",")))
            }
            ValueType::Tensor { dtype, shape: None } => Some(format!("{dtype}[N,...]")),
            ValueType::Unknown => Some("TYPE[N,...]".to_owned()),
            _ => None,
        };
        let listed = |element: &ValueType| tensor(element).map(|ty| format!("--holds '{name}=[{ty},...]'"));
        match self {
            ValueType::Sequence(element) => listed(element),
            ValueType::Optional(value) => {
                let given = match &**value {
                    ValueType::Sequence(element) => listed(element),
                    value => tensor(value).map(|ty| format!("--holds '{name}={ty}'")),
                };
                given.map(|given| format!("{given} or --holds {name}=none"))
            }
            ValueType::Unknown => {
                Some(format!("--holds '{name}=[TYPE[N,...],...]', --holds '{name}=TYPE[N,...]' or --holds {name}=none"))
            }
            ValueType::Tensor { .. } | ValueType::Map | ValueType::Sparse => None,
        }
    }
}
