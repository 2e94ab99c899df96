//! What an ONNX file says, entry by entry, before import computes shape arithmetic, drops what nothing needs and binds
//! sizes: so that two files can be compared in what no graph has.

use super::dims::described;
use super::error::{ImportError, Kind};
use super::proto::{AttributeExtras, NodeExtras, OnnxModel, ValueExtras, paired};
use super::{data, undocumented};
use prost::Message;
use std::collections::BTreeMap;
use std::path::Path;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value as Size};
use tract_onnx::pb::{AttributeProto, NodeProto, TensorProto, ValueInfoProto};

/// Lists of at most so many elements are written in full, others by their hash.
const MAX_LISTED: usize = 8;

/// The entries of a file by kind and name (`node conv1`, `initializer w`, `input x`, `output y`, `opset ai.onnx`,
/// `function f`, `graph name`). Of each what it is, and, of nodes, which values it reads and writes. Documentation,
/// producer, metadata and the declared types of values between nodes are left out.
pub type Outline = BTreeMap<String, [String; 2]>;

/// Reads the outline of the file at `path`. External data enters by its location.
///
/// # Errors
/// The file cannot be read, or is no ONNX model.
pub fn outline(path: &Path) -> Result<Outline, ImportError> {
    let bytes = data::map(path).map_err(|source| Kind::Io { path: path.to_owned(), source })?;
    Ok(of_model(OnnxModel::decode(&bytes)?))
}

fn of_model(model: OnnxModel) -> Outline {
    let OnnxModel { message: mut model, extras } = model;
    undocumented::model(&mut model);
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
    for (function, extras) in paired(&model.functions, &extras.functions) {
        add("function", function.name(), hash(function, extras), String::new());
    }
    for (i, (info, extras)) in paired(&model.training_info, &extras.training_info).enumerate() {
        add("training", &i.to_string(), hash(info, extras), String::new());
    }
    let Some(graph) = model.graph else { return outline };
    let extras = extras.graph.unwrap_or_default();
    if !graph.name.is_empty() {
        add("graph", "name", graph.name.clone(), String::new());
    }
    for (node, extras) in paired(graph.node, extras.node) {
        let name =
            if node.name.is_empty() { node.output.first().cloned().unwrap_or_default() } else { node.name.clone() };
        let wiring = format!("({}) -> {}", node.input.join(", "), node.output.join(", "));
        add("node", &name, operation(node, extras.unwrap_or_default()), wiring);
    }
    for mut tensor in graph.initializer {
        let name = std::mem::take(&mut tensor.name);
        add("initializer", &name, of_tensor(&tensor), String::new());
    }
    for tensor in &graph.sparse_initializer {
        let name = tensor.values.as_ref().map_or("", |v| v.name.as_str());
        add("sparse initializer", name, hash(tensor, NOTHING), String::new());
    }
    for note in &graph.quantization_annotation {
        add("quantization", note.tensor_name(), hash(note, NOTHING), String::new());
    }
    for (kind, list, extras) in [("input", &graph.input, &extras.input), ("output", &graph.output, &extras.output)] {
        for (info, extras) in paired(list, extras) {
            add(kind, &info.name, of_value(info, extras), String::new());
        }
    }
    outline
}

/// Operator and attributes.
fn operation(node: NodeProto, extras: NodeExtras) -> String {
    let attributes = paired(node.attribute, extras.attribute);
    let mut attributes: Vec<String> = attributes.map(|(attribute, extras)| of_attribute(attribute, extras)).collect();
    attributes.sort();
    let domain = if node.domain.is_empty() { String::new() } else { format!("{}::", node.domain) };
    let overload = if extras.overload.is_empty() { String::new() } else { format!(":{}", extras.overload) };
    format!("{domain}{}{overload} {{{}}}", node.op_type, attributes.join(", "))
}

fn of_attribute(mut attribute: AttributeProto, extras: Option<AttributeExtras>) -> String {
    let name = std::mem::take(&mut attribute.name);
    // Those of one number; whatever else there is by its hash, the kind being part of it.
    let text = match (attribute.r#type, attribute.ints.len()) {
        (1, _) => format!("{:?}", attribute.f),
        (2, _) => attribute.i.to_string(),
        (3, _) if attribute.s.len() <= 64 => format!("{:?}", String::from_utf8_lossy(&attribute.s)),
        (7, n) if n <= MAX_LISTED => format!("{:?}", attribute.ints),
        _ => hash(&attribute, extras.as_ref()),
    };
    let reference = &attribute.ref_attr_name;
    if reference.is_empty() { format!("{name}={text}") } else { format!("{name}=@{reference}") }
}

fn of_tensor(tensor: &TensorProto) -> String {
    let dtype = data::dtype(tensor.data_type).map_or_else(|e| e, |dtype| dtype.to_string());
    let dims: Vec<String> = tensor.dims.iter().map(i64::to_string).collect();
    format!("{dtype}[{}] {}", dims.join(","), hash(tensor, NOTHING))
}

/// The declared type: sizes by number or name, `?` where neither is given.
fn of_value(info: &ValueInfoProto, extras: Option<&ValueExtras>) -> String {
    let Ok((dtype, dims)) = described(info) else {
        return info.r#type.as_ref().map_or_else(|| "untyped".to_owned(), |ty| hash(ty, extras));
    };
    let size = |dim: &Dimension| match &dim.value {
        Some(Size::DimValue(n)) => n.to_string(),
        Some(Size::DimParam(name)) => name.clone(),
        None => "?".to_owned(),
    };
    match dims {
        Some(dims) => format!("{dtype}[{}]", dims.iter().map(size).collect::<Vec<_>>().join(",")),
        None => format!("{dtype} of any shape"),
    }
}

/// The extras of messages that have none.
const NOTHING: Option<&()> = None;

fn hash(message: &impl Message, extras: Option<&impl Message>) -> String {
    let mut bytes = message.encode_to_vec();
    bytes.extend(extras.map(Message::encode_to_vec).unwrap_or_default());
    let hash = blake3::hash(&bytes);
    format!("#{}", &hash.to_hex()[..16])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::proto::{ElementType, GraphExtras, ModelExtras, TypeExtras, TypeValue};
    use tract_onnx::pb::{GraphProto, ModelProto, TypeProto, type_proto};

    #[test]
    fn entries_are_distinguished_by_what_they_are_and_what_they_read() {
        let node = |op: &str, inputs: [&str; 2]| NodeProto {
            op_type: op.to_owned(),
            input: inputs.map(str::to_owned).to_vec(),
            output: vec!["y".to_owned()],
            ..NodeProto::default()
        };
        let outline = |nodes: Vec<NodeProto>| {
            let graph = GraphProto { node: nodes, ..Default::default() };
            of_model(ModelProto { graph: Some(graph), ..Default::default() }.into())
        };
        let base = outline(vec![node("Sub", ["a", "b"])]);
        assert_eq!(base["node y"], ["Sub {}".to_owned(), "(a, b) -> y".to_owned()]);
        assert_ne!(base, outline(vec![node("Sub", ["b", "a"])]));
        assert_ne!(base, outline(vec![node("Div", ["a", "b"])]));
        // Two of one name are two.
        assert_eq!(outline(vec![node("Sub", ["a", "b"]); 2]).len(), 2);
        let documented = NodeProto { doc_string: "less".to_owned(), ..node("Sub", ["a", "b"]) };
        assert_eq!(base, outline(vec![documented]));
    }

    #[test]
    fn what_tracts_messages_leave_out_is_reported_too() {
        let outline = |ty: TypeExtras, overload: &str| {
            let input =
                ValueInfoProto { name: "s".to_owned(), r#type: Some(TypeProto::default()), ..Default::default() };
            let node = NodeProto { op_type: "f".to_owned(), output: vec!["y".to_owned()], ..Default::default() };
            let graph = GraphProto { input: vec![input], node: vec![node], ..Default::default() };
            let extras = GraphExtras {
                node: vec![NodeExtras { overload: overload.to_owned(), ..Default::default() }],
                input: vec![ValueExtras { r#type: Some(ty) }],
                ..Default::default()
            };
            of_model(OnnxModel {
                message: ModelProto { graph: Some(graph), ..Default::default() },
                extras: ModelExtras { graph: Some(extras), ..Default::default() },
            })
        };
        let of = |elem_type: i32| TypeExtras {
            value: Some(TypeValue::Tensor(type_proto::Tensor { elem_type, ..Default::default() })),
        };
        let held = |elem_type: i32| ElementType { elem_type: Some(Box::new(of(elem_type))) };
        let sequence = |elem_type: i32| TypeExtras { value: Some(TypeValue::Sequence(held(elem_type))) };
        let base = outline(sequence(1), "a");
        assert_eq!(base["node y"][0], "f:a {}");
        assert_eq!(base, outline(sequence(1), "a"));
        assert_ne!(base["input s"], outline(sequence(7), "a")["input s"]);
        assert_ne!(base["input s"], outline(TypeExtras { value: Some(TypeValue::Optional(held(1))) }, "a")["input s"]);
        assert_ne!(base["node y"], outline(sequence(1), "b")["node y"]);
    }
}
