//! The constants beside a text: a safetensors file whose tensors are named by the hashes that the text prints.

use crate::ir::{Source, Tensor, TensorType};
use std::collections::BTreeMap;

/// The data of a text's constants, found by hash.
pub struct Consts {
    bytes: Source,
    /// First byte and length by name.
    places: BTreeMap<String, (usize, usize)>,
}

impl Consts {
    /// Finds where each tensor is; nothing is copied.
    ///
    /// # Errors
    /// The bytes are no safetensors file, or cut short.
    pub fn read(bytes: Source) -> Result<Consts, String> {
        let (header_len, metadata) =
            safetensors::SafeTensors::read_metadata((*bytes).as_ref()).map_err(|e| e.to_string())?;
        let base = header_len + 8;
        let place = |info: &safetensors::tensor::TensorInfo| {
            (base + info.data_offsets.0, info.data_offsets.1 - info.data_offsets.0)
        };
        let places = metadata.tensors().into_iter().map(|(name, info)| (name, place(info))).collect();
        Ok(Consts { bytes, places })
    }

    /// The constant of this hash, as a text prints it, where it is here and its content has that hash.
    pub fn find(&self, hash: &str, ty: &TensorType) -> Option<Tensor> {
        let (start, len) = *self.places.get(hash)?;
        Tensor::from_source(ty.clone(), self.bytes.clone(), start, len).ok().filter(|t| t.hash().to_string() == hash)
    }
}
