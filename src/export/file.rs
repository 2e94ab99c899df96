//! The model as a file: encoded tensor by tensor, so that no second copy of the weights is made.

use super::attribute::header;
use crate::import::proto::pb;
use crate::ir::Tensor;
use indexmap::IndexMap;
use pb::tensor_proto::DataLocation;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};
use std::io::{self, Write};

/// A protobuf message holds less than 2^31 bytes. From this many bytes of constants on, data lie in a file of their
/// own.
pub const DATA_FILE_FROM: u64 = (1 << 31) - (64 << 20);
/// Constants of fewer bytes stay in the model: runtimes read shapes and axes while they load.
const SMALL_BYTES: u64 = 1 << 10;
/// Data begin at multiples of this, as those who map the file want it.
const ALIGNMENT: u64 = 4096;

/// Fields of `ModelProto`, `GraphProto` and `TensorProto`.
const GRAPH: u32 = 7;
const INITIALIZER: u32 = 5;
const RAW_DATA: u32 = 9;

/// An ONNX model, with its constants as they are in the graph.
#[derive(Clone, Debug)]
pub struct Model {
    /// All but the initializers.
    pub(super) proto: pb::ModelProto,
    /// Constants by name; their data are made.
    pub(super) initializers: IndexMap<String, Tensor>,
}

/// A tensor in the making: its message without data, and its data.
type Field<'t> = (pb::TensorProto, &'t [u8]);

impl Model {
    /// Bytes of the constants.
    pub fn constant_bytes(&self) -> u64 {
        self.initializers.values().filter_map(|tensor| tensor.ty().bytes()).fold(0, u64::saturating_add)
    }

    /// How many nodes it has.
    pub fn n_nodes(&self) -> usize {
        self.nodes().len()
    }

    /// The version of the default domain that it needs.
    pub fn opset(&self) -> i64 {
        let known = self.proto.opset_import.iter().find(|set| set.domain.is_empty());
        known.map_or(super::operators::LEAST_OPSET, |set| set.version)
    }

    /// Its nodes, in the order of their computation.
    pub fn nodes(&self) -> &[pb::NodeProto] {
        self.proto.graph.as_ref().map_or(&[], |graph| &graph.node)
    }

    /// Names and data of the constants.
    pub fn constants(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.initializers.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Whether the constants need a file of their own: a message cannot hold [`DATA_FILE_FROM`] bytes of them.
    pub fn needs_data_file(&self) -> bool {
        self.constant_bytes() >= DATA_FILE_FROM
    }

    /// Writes the model. The large constants are those of the file called `data`, which lies beside it
    /// ([`Model::write_data`]); without one all are in the model.
    ///
    /// # Errors
    /// It cannot be written, or needs a file for its data and has none.
    pub fn write(&self, data: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
        if data.is_none() && self.needs_data_file() {
            return Err(io::Error::other("a model of 2 GiB needs a file for its data"));
        }
        let mut fields: Vec<Field<'_>> = Vec::with_capacity(self.initializers.len());
        for (name, tensor, place) in self.placed(data.is_some()) {
            let (mut field, bytes) = (header(name, tensor), bytes(tensor)?);
            let (Some(start), Some(location)) = (place, data) else {
                fields.push((field, bytes));
                continue;
            };
            field.data_location = Some(DataLocation::External as i32);
            let entries =
                [("location", location.to_owned()), ("offset", start.to_string()), ("length", bytes.len().to_string())];
            field.external_data =
                entries.map(|(key, value)| pb::StringStringEntryProto { key: key.to_owned(), value }).to_vec();
            fields.push((field, &[]));
        }
        self.encode(&fields, out)
    }

    /// Writes the file of the large constants.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write_data(&self, out: &mut dyn Write) -> io::Result<()> {
        let mut at = 0;
        for (_, tensor, place) in self.placed(true) {
            let Some(start) = place else { continue };
            let bytes = bytes(tensor)?;
            out.write_all(&vec![0; usize::try_from(start - at).unwrap_or(0)])?;
            out.write_all(bytes)?;
            at = start + bytes.len() as u64;
        }
        Ok(())
    }

    /// The constants, and where in a file of data they begin that are there, where there is one.
    fn placed(&self, has_file: bool) -> impl Iterator<Item = (&str, &Tensor, Option<u64>)> {
        let mut end = 0u64;
        self.initializers.iter().map(move |(name, tensor)| {
            let len = tensor.ty().bytes().unwrap_or(0);
            let place = (has_file && len >= SMALL_BYTES).then(|| end.next_multiple_of(ALIGNMENT));
            end = place.map_or(end, |start| start + len);
            (name.as_str(), tensor, place)
        })
    }

    fn encode(&self, fields: &[Field<'_>], out: &mut dyn Write) -> io::Result<()> {
        let mut model = self.proto.clone();
        let graph = model.graph.take().unwrap_or_default().encode_to_vec();
        out.write_all(&model.encode_to_vec())?;
        let own: Vec<(Vec<u8>, usize)> = fields
            .iter()
            .map(|(field, data)| {
                let head = field.encode_to_vec();
                let len = head.len() + if data.is_empty() { 0 } else { delimited(data.len()) };
                (head, len)
            })
            .collect();
        let len = graph.len() + own.iter().map(|(_, len)| delimited(*len)).sum::<usize>();
        begin(GRAPH, len, out)?;
        out.write_all(&graph)?;
        for ((_, data), (head, len)) in fields.iter().zip(&own) {
            begin(INITIALIZER, *len, out)?;
            out.write_all(head)?;
            if !data.is_empty() {
                begin(RAW_DATA, data.len(), out)?;
                out.write_all(data)?;
            }
        }
        Ok(())
    }
}

/// The bytes of a tensor, which exist: `model` asked for them.
fn bytes(tensor: &Tensor) -> io::Result<&[u8]> {
    tensor.bytes().map_err(io::Error::other)
}

/// Bytes of a field of `len` bytes with its key, which is one byte for fields up to 15, and its length.
fn delimited(len: usize) -> usize {
    1 + encoded_len_varint(len as u64) + len
}

fn begin(field: u32, len: usize, out: &mut dyn Write) -> io::Result<()> {
    let mut head = Vec::with_capacity(12);
    encode_key(field, WireType::LengthDelimited, &mut head);
    encode_varint(len as u64, &mut head);
    out.write_all(&head)
}
