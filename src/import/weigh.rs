//! A look at the wire before a model is decoded: messages of two bytes become structures of a thousand, so a small file
//! could fill the memory.

/// Messages that any file may have.
const FREE: usize = 20_000;
/// Bytes that a file has for each further one; no exporter comes near that few.
const BYTES_PER_MESSAGE: usize = 10;
/// As deep as the decoder goes.
const MAX_DEPTH: usize = 100;

/// Messages of onnx.proto that hold others.
#[derive(Clone, Copy)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Function,
    Sparse,
    Training,
    Other,
}

impl Kind {
    /// What a field holds, where that is messages.
    fn child(self, field: u64) -> Option<Kind> {
        Some(match (self, field) {
            (Kind::Model, 7) | (Kind::Attribute, 6 | 11) => Kind::Graph,
            (Kind::Model, 20) => Kind::Training,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Training, 1 | 2) => Kind::Graph,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) | (Kind::Sparse, 1 | 2) => Kind::Tensor,
            (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => Kind::Sparse,
            (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
            (Kind::Model, 8 | 14)
            | (Kind::Graph, 11..=14 | 16)
            | (Kind::Function, 9 | 12 | 14)
            | (Kind::Training, 3 | 4)
            | (Kind::Attribute, 14 | 15)
            | (Kind::Tensor, 13 | 16) => Kind::Other,
            _ => return None,
        })
    }
}

/// The number of messages in a model, and how many it may have, where it has more. What is no protobuf is left to the
/// decoder.
pub(super) fn excess(bytes: &[u8]) -> Option<(usize, usize)> {
    let (mut n, most) = (0, FREE + bytes.len() / BYTES_PER_MESSAGE);
    count(bytes, Kind::Model, 0, &mut n);
    (n > most).then_some((n, most))
}

fn count(mut bytes: &[u8], kind: Kind, depth: usize, n: &mut usize) -> Option<()> {
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let len = match key & 7 {
            0 => {
                varint(&mut bytes)?;
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut bytes)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (field, rest) = bytes.split_at_checked(len)?;
        bytes = rest;
        if let (2, Some(child)) = (key & 7, kind.child(key >> 3)) {
            *n += 1;
            if depth < MAX_DEPTH {
                // A fault within ends the look there, as it will end the decoding.
                count(field, child, depth + 1, n)?;
            }
        }
    }
    Some(())
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 127) << shift;
        if byte < 128 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_messages_are_counted_and_real_models_pass() {
        let attributes = [0x2a, 0].repeat(30_000);
        let varint = |n: usize| vec![(n & 127) as u8 | 128, (n >> 7 & 127) as u8 | 128, (n >> 14) as u8];
        let node = [vec![0x0a], varint(attributes.len()), attributes].concat();
        let model = [vec![0x3a], varint(node.len()), node].concat();
        assert_eq!(excess(&model), Some((30_002, FREE + model.len() / BYTES_PER_MESSAGE)));
        for name in ["fmnist-mlp", "magika", "ppocr-cls"] {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("models/{name}.onnx"));
            assert_eq!(excess(&std::fs::read(path).unwrap()), None, "{name}");
        }
    }
}
