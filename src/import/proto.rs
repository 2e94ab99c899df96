//! The protobuf of a model.
//!
//! Import reads the messages of tract-onnx ([`pb`]). Version 0.23.9 has `onnx.proto` of IR version 8 but for some
//! fields; what it leaves out of IR version 13 and nyxc needs is decoded from the same bytes into the messages here,
//! which skip everything else, tensors above all:
//!
//! | field | since IR version | serves |
//! |---|---|---|
//! | `NodeProto.overload` (8), `FunctionProto.overload` (13) | 10 | calls of model-local functions |
//! | `FunctionProto.attribute_proto` (11) | 9 | attributes of functions that have a default |
//! | `TypeProto.sequence_type` (4), `map_type` (5), `sparse_tensor_type` (8), `optional_type` (9) | 8 | [`outline`](super::outline()) |
//! | `AttributeProto.tp` (14) | 8 | `outline` |
//!
//! The two trees go together by position: the extras of a graph's second node are its second [`NodeExtras`]. Where
//! there are fewer extras than messages, the rest have none of these fields.

use super::error::{ImportError, Kind};
use super::weigh;
use prost::{DecodeError, Message, Oneof};
pub use tract_onnx::pb;

/// A decoded model: what tract-onnx reads of it, and the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OnnxModel {
    /// The model.
    pub message: pb::ModelProto,
    /// What its messages leave out.
    pub extras: ModelExtras,
}

impl OnnxModel {
    /// The model in `bytes`, whose messages are counted before: a small file could fill the memory.
    ///
    /// # Errors
    /// They are no `ModelProto`, or have more messages than bytes allow for.
    pub fn decode(bytes: &[u8]) -> Result<OnnxModel, ImportError> {
        if let Some((n, most)) = weigh::excess(bytes) {
            return Err(Kind::Messages { n, most, n_bytes: bytes.len() }.into());
        }
        let fail = |source| Kind::Decode { source };
        let message = pb::ModelProto::decode(bytes).map_err(fail)?;
        let extras = ModelExtras::decode(bytes).map_err(fail)?;
        Ok(OnnxModel { message, extras })
    }
}

/// A model without overloads and without defaults of functions.
impl From<pb::ModelProto> for OnnxModel {
    fn from(message: pb::ModelProto) -> OnnxModel {
        OnnxModel { message, extras: ModelExtras::default() }
    }
}

/// Messages, each with its extras where there are any.
pub(super) fn paired<M, E>(
    messages: impl IntoIterator<Item = M>,
    extras: impl IntoIterator<Item = E>,
) -> impl Iterator<Item = (M, Option<E>)> {
    messages.into_iter().zip(extras.into_iter().map(Some).chain(std::iter::repeat_with(|| None)))
}

/// Of `ModelProto`.
#[derive(Clone, PartialEq, Message)]
pub struct ModelExtras {
    /// Of its graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphExtras>,
    /// Of what trains it.
    #[prost(message, repeated, tag = "20")]
    pub training_info: Vec<TrainingExtras>,
    /// Of its functions.
    #[prost(message, repeated, tag = "25")]
    pub functions: Vec<FunctionExtras>,
}

/// Of `TrainingInfoProto`.
#[derive(Clone, PartialEq, Message)]
pub struct TrainingExtras {
    /// Of the graph that is run first.
    #[prost(message, optional, tag = "1")]
    pub initialization: Option<GraphExtras>,
    /// Of the graph of one step.
    #[prost(message, optional, tag = "2")]
    pub algorithm: Option<GraphExtras>,
}

/// Of `FunctionProto`.
#[derive(Clone, PartialEq, Message)]
pub struct FunctionExtras {
    /// Of its nodes.
    #[prost(message, repeated, tag = "7")]
    pub node: Vec<NodeExtras>,
    /// Its attributes that have a default, each an encoded `AttributeProto`: [`FunctionExtras::defaults`] decodes them.
    #[prost(bytes = "vec", repeated, tag = "11")]
    pub attribute_proto: Vec<Vec<u8>>,
    /// Which of the functions of its domain and name it is.
    #[prost(string, tag = "13")]
    pub overload: String,
}

impl FunctionExtras {
    /// The attributes that have a default.
    ///
    /// # Errors
    /// One is no `AttributeProto`.
    pub fn defaults(&self) -> Result<(Vec<pb::AttributeProto>, Vec<AttributeExtras>), DecodeError> {
        let both = |bytes: &Vec<u8>| Ok((Message::decode(bytes.as_slice())?, Message::decode(bytes.as_slice())?));
        self.attribute_proto.iter().map(both).collect()
    }
}

/// Of `GraphProto`.
#[derive(Clone, PartialEq, Message)]
pub struct GraphExtras {
    /// Of its nodes.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeExtras>,
    /// Of its inputs.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueExtras>,
    /// Of its outputs.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueExtras>,
}

/// Of `NodeProto`.
#[derive(Clone, PartialEq, Message)]
pub struct NodeExtras {
    /// Of its attributes.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeExtras>,
    /// Which of several functions of its domain and operator it calls.
    #[prost(string, tag = "8")]
    pub overload: String,
}

/// Of `AttributeProto`.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeExtras {
    /// Of the graph that it is.
    #[prost(message, optional, tag = "6")]
    pub g: Option<GraphExtras>,
    /// Of the graphs that it is.
    #[prost(message, repeated, tag = "11")]
    pub graphs: Vec<GraphExtras>,
    /// The type that it is.
    #[prost(message, optional, tag = "14")]
    pub tp: Option<TypeExtras>,
    /// The types that it is.
    #[prost(message, repeated, tag = "15")]
    pub type_protos: Vec<TypeExtras>,
}

/// Of `ValueInfoProto`.
#[derive(Clone, PartialEq, Message)]
pub struct ValueExtras {
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeExtras>,
}

/// Of `TypeProto`, of which tract-onnx reads tensors only.
#[derive(Clone, PartialEq, Message)]
pub struct TypeExtras {
    /// The type.
    #[prost(oneof = "TypeValue", tags = "1, 4, 5, 8, 9")]
    pub value: Option<TypeValue>,
}

/// Every kind of type.
#[derive(Clone, PartialEq, Oneof)]
pub enum TypeValue {
    /// A tensor.
    #[prost(message, tag = "1")]
    Tensor(pb::type_proto::Tensor),
    /// A sequence.
    #[prost(message, tag = "4")]
    Sequence(ElementType),
    /// A map.
    #[prost(message, tag = "5")]
    Map(MapType),
    /// A sparse tensor.
    #[prost(message, tag = "8")]
    SparseTensor(pb::type_proto::Tensor),
    /// An optional.
    #[prost(message, tag = "9")]
    Optional(ElementType),
}

/// What a sequence or an optional holds.
#[derive(Clone, PartialEq, Message)]
pub struct ElementType {
    /// The type of an element.
    #[prost(message, optional, boxed, tag = "1")]
    pub elem_type: Option<Box<TypeExtras>>,
}

/// What a map holds.
#[derive(Clone, PartialEq, Message)]
pub struct MapType {
    /// The element type of its keys.
    #[prost(int32, tag = "1")]
    pub key_type: i32,
    /// The type of its values.
    #[prost(message, optional, boxed, tag = "2")]
    pub value_type: Option<Box<TypeExtras>>,
}
