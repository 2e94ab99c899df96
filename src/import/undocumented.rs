//! Takes out of a model's messages what says nothing of what it computes: documentation and denotations.

use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, TypeProto, ValueInfoProto,
    type_proto,
};

/// Removes it from everything in an outline.
pub(super) fn model(model: &mut ModelProto) {
    model.graph.iter_mut().for_each(graph);
    for info in &mut model.training_info {
        info.initialization.iter_mut().chain(&mut info.algorithm).for_each(graph);
    }
    for function in &mut model.functions {
        function.doc_string = None;
        function.node.iter_mut().for_each(node);
    }
}

fn graph(graph: &mut GraphProto) {
    graph.doc_string.clear();
    graph.node.iter_mut().for_each(node);
    graph.initializer.iter_mut().for_each(tensor);
    graph.sparse_initializer.iter_mut().for_each(sparse);
    graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info).for_each(value);
}

fn node(node: &mut NodeProto) {
    node.doc_string.clear();
    node.attribute.iter_mut().for_each(attribute);
}

fn attribute(attribute: &mut AttributeProto) {
    attribute.doc_string.clear();
    attribute.t.iter_mut().chain(&mut attribute.tensors).for_each(tensor);
    attribute.sparse_tensor.iter_mut().chain(&mut attribute.sparse_tensors).for_each(sparse);
    attribute.g.iter_mut().chain(&mut attribute.graphs).for_each(graph);
    attribute.type_protos.iter_mut().for_each(ty);
}

fn sparse(sparse: &mut SparseTensorProto) {
    sparse.values.iter_mut().chain(&mut sparse.indices).for_each(tensor);
}

fn tensor(tensor: &mut TensorProto) {
    tensor.doc_string.clear();
}

fn value(info: &mut ValueInfoProto) {
    info.doc_string.clear();
    info.r#type.iter_mut().for_each(ty);
}

fn ty(ty: &mut TypeProto) {
    ty.denotation.clear();
    if let Some(type_proto::Value::TensorType(tensor)) = &mut ty.value {
        tensor.shape.iter_mut().flat_map(|shape| &mut shape.dim).for_each(|dim| dim.denotation.clear());
    }
}
