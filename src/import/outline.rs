//! What an ONNX file says, entry by entry, before import computes shape arithmetic, drops what nothing needs and binds
//! sizes: so that two files can be compared in what no graph has.

use super::dims::described;
use super::error::{ImportError, Kind};
use super::{data, weigh};
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;
use tract_onnx::pb::tensor_shape_proto::dimension::Value as Size;
use tract_onnx::pb::{AttributeProto, ModelProto, NodeProto, TensorProto, ValueInfoProto};

/// Lists of at most so many elements are told in full, others by their hash.
const MAX_LISTED: usize = 8;

/// The entries of a file by kind and name (`node conv1`, `initializer w`, `input x`, `output y`, `opset ai.onnx`,
/// `function f`, `graph name`). Of each what it is, and, of nodes, which values it reads and writes. Documentation, producer, metadata
/// and the declared types of values between nodes are left out.
pub type Outline = BTreeMap<String, [String; 2]>;

/// Reads the outline of the file at `path`. External data counts by where it lies.
///
/// # Errors
/// The file cannot be read, or is no ONNX model.
pub fn outline(path: &Path) -> Result<Outline, ImportError> {
    let bytes = data::map(path).map_err(|source| Kind::Io { path: path.to_owned(), source })?;
    if let Some((n, most)) = weigh::excess(&bytes) {
        return Err(Kind::Messages { n, most, n_bytes: bytes.len() }.into());
    }
    let model = ModelProto::decode(&bytes[..]).map_err(|source| Kind::Decode { source })?;
    Ok(of_model(model))
}

fn of_model(mut model: ModelProto) -> Outline {
    let mut outline = Outline::new();
    let mut add = |kind: &str, name: &str, own: String, wiring: String| {
        let mut key = format!("{kind} {name}");
        let mut n = 2;
        while outline.contains_key(&key) {
            key = format!("{kind} {name} ({n})");
            n += 1;
        }
        outline.insert(key, [own, wiring]);
    };
    for set in &model.opset_import {
        let domain = if set.domain.is_empty() { "ai.onnx" } else { &set.domain };
        add("opset", domain, set.version.to_string(), String::new());
    }
    for function in &model.functions {
        add("function", function.name.as_deref().unwrap_or_default(), hash(function), String::new());
    }
    for (i, info) in model.training_info.iter().enumerate() {
        add("training", &i.to_string(), hash(info), String::new());
    }
    let Some(mut graph) = model.graph.take() else { return outline };
    if !graph.name.is_empty() {
        add("graph", "name", graph.name.clone(), String::new());
    }
    for mut node in graph.node.drain(..) {
        let name =
            if node.name.is_empty() { node.output.first().cloned().unwrap_or_default() } else { node.name.clone() };
        let wiring = format!("({}) -> {}", node.input.join(", "), node.output.join(", "));
        add("node", &name, operation(&mut node), wiring);
    }
    for mut tensor in graph.initializer.drain(..) {
        let name = std::mem::take(&mut tensor.name);
        add("initializer", &name, of_tensor(tensor), String::new());
    }
    for tensor in &graph.sparse_initializer {
        let name = tensor.values.as_ref().map_or("", |v| v.name.as_str());
        add("sparse initializer", name, hash(tensor), String::new());
    }
    for note in &graph.quantization_annotation {
        add("quantization", note.tensor_name.as_deref().unwrap_or_default(), hash(note), String::new());
    }
    for (kind, list) in [("input", &graph.input), ("output", &graph.output)] {
        list.iter().for_each(|info| add(kind, &info.name, of_value(info), String::new()));
    }
    outline
}

/// Operator and attributes.
fn operation(node: &mut NodeProto) -> String {
    let mut attributes: Vec<String> = node.attribute.drain(..).map(of_attribute).collect();
    attributes.sort();
    let domain = if node.domain.is_empty() { String::new() } else { format!("{}::", node.domain) };
    format!("{domain}{} {{{}}}", node.op_type, attributes.join(", "))
}

fn of_attribute(mut attribute: AttributeProto) -> String {
    attribute.doc_string.clear();
    let name = std::mem::take(&mut attribute.name);
    // Those of one number; whatever else there is by its hash, the kind being part of it.
    let text = match (attribute.r#type, attribute.ints.len()) {
        (1, _) => format!("{:?}", attribute.f),
        (2, _) => attribute.i.to_string(),
        (3, _) if attribute.s.len() <= 64 => format!("{:?}", String::from_utf8_lossy(&attribute.s)),
        (7, n) if n <= MAX_LISTED => format!("{:?}", attribute.ints),
        _ => hash(&attribute),
    };
    let reference = &attribute.ref_attr_name;
    if reference.is_empty() { format!("{name}={text}") } else { format!("{name}=@{reference}") }
}

fn of_tensor(mut tensor: TensorProto) -> String {
    tensor.doc_string.clear();
    let dtype = data::dtype(tensor.data_type).map_or_else(|e| e, |dtype| dtype.to_string());
    let dims: Vec<String> = tensor.dims.iter().map(i64::to_string).collect();
    format!("{dtype}[{}] {}", dims.join(","), hash(&tensor))
}

/// The declared type: sizes by number or name, `?` where neither is given.
fn of_value(info: &ValueInfoProto) -> String {
    let Ok((dtype, dims)) = described(info) else {
        return info.r#type.as_ref().map_or_else(|| "untyped".to_owned(), hash);
    };
    let size = |dim: &tract_onnx::pb::tensor_shape_proto::Dimension| match &dim.value {
        Some(Size::DimValue(n)) => n.to_string(),
        Some(Size::DimParam(name)) => name.clone(),
        None => "?".to_owned(),
    };
    match dims {
        Some(dims) => format!("{dtype}[{}]", dims.iter().map(size).collect::<Vec<_>>().join(",")),
        None => format!("{dtype} of any shape"),
    }
}

fn hash(message: &impl Message) -> String {
    let hash = blake3::hash(&message.encode_to_vec());
    format!("#{}", &hash.to_hex()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tract_onnx::pb::GraphProto;

    #[test]
    fn entries_are_told_apart_by_what_they_are_and_what_they_read() {
        let node = |op: &str, inputs: [&str; 2]| NodeProto {
            op_type: op.to_owned(),
            input: inputs.map(str::to_owned).to_vec(),
            output: vec!["y".to_owned()],
            ..NodeProto::default()
        };
        let outline = |nodes: Vec<NodeProto>| {
            of_model(ModelProto { graph: Some(GraphProto { node: nodes, ..Default::default() }), ..Default::default() })
        };
        let base = outline(vec![node("Sub", ["a", "b"])]);
        assert_eq!(base["node y"], ["Sub {}".to_owned(), "(a, b) -> y".to_owned()]);
        assert_ne!(base, outline(vec![node("Sub", ["b", "a"])]));
        assert_ne!(base, outline(vec![node("Div", ["a", "b"])]));
        // Two of one name are two.
        assert_eq!(outline(vec![node("Sub", ["a", "b"]); 2]).len(), 2);
    }
}
