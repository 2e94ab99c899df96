//! ONNX models by hand: the wire format of protobuf, so that models can say what no library would write.

#![allow(dead_code, reason = "not every test needs all of it")]

pub fn varint(mut n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while n > 127 {
        bytes.push(n as u8 & 127 | 128);
        n >>= 7;
    }
    bytes.push(n as u8);
    bytes
}

pub fn int(field: u64, n: i64) -> Vec<u8> {
    [varint(field << 3), varint(n as u64)].concat()
}

pub fn blob(field: u64, data: impl AsRef<[u8]>) -> Vec<u8> {
    let data = data.as_ref();
    [varint(field << 3 | 2), varint(data.len() as u64), data.to_vec()].concat()
}

/// A model of opset 21 around a graph's fields.
pub fn model(graph: impl AsRef<[u8]>) -> Vec<u8> {
    [int(1, 9), blob(8, int(2, 21)), blob(7, graph)].concat()
}

pub fn attr_int(name: &str, v: i64) -> Vec<u8> {
    blob(5, [blob(1, name), int(3, v), int(20, 2)].concat())
}

pub fn attr_float(name: &str, v: f32) -> Vec<u8> {
    blob(5, [blob(1, name), varint(2 << 3 | 5), v.to_le_bytes().to_vec(), int(20, 1)].concat())
}

pub fn attr_str(name: &str, v: &str) -> Vec<u8> {
    blob(5, [blob(1, name), blob(4, v), int(20, 3)].concat())
}

pub fn attr_ints(name: &str, v: &[i64]) -> Vec<u8> {
    blob(5, [blob(1, name), v.iter().flat_map(|&v| int(8, v)).collect(), int(20, 7)].concat())
}

pub fn attr_floats(name: &str, v: &[f32]) -> Vec<u8> {
    let list = v.iter().flat_map(|v| [varint(7 << 3 | 5), v.to_le_bytes().to_vec()].concat()).collect();
    blob(5, [blob(1, name), list, int(20, 6)].concat())
}

pub fn attr_graph(name: &str, graph: impl AsRef<[u8]>) -> Vec<u8> {
    blob(5, [blob(1, name), blob(6, graph), int(20, 5)].concat())
}

pub fn attr_tensor(name: &str, tensor: impl AsRef<[u8]>) -> Vec<u8> {
    blob(5, [blob(1, name), blob(5, tensor), int(20, 4)].concat())
}

/// A node as a field of a graph; `more` are its attributes.
pub fn node(op: &str, inputs: &[&str], outputs: &[&str], more: &[Vec<u8>]) -> Vec<u8> {
    blob(1, [node_fields(op, inputs, outputs), more.concat()].concat())
}

/// A node's fields.
pub fn node_fields(op: &str, inputs: &[&str], outputs: &[&str]) -> Vec<u8> {
    let names = |field, names: &[&str]| -> Vec<u8> { names.iter().flat_map(|n| blob(field, n)).collect() };
    [names(1, inputs), names(2, outputs), blob(4, op)].concat()
}

/// A tensor's fields: name, element type, sizes, raw data.
pub fn tensor(name: &str, dtype: i64, dims: &[i64], raw: &[u8]) -> Vec<u8> {
    let dims: Vec<u8> = dims.iter().flat_map(|&d| int(1, d)).collect();
    [dims, int(2, dtype), blob(8, name), blob(9, raw)].concat()
}

/// An initializer of floats as a field of a graph.
pub fn f32s(name: &str, dims: &[i64], values: &[f32]) -> Vec<u8> {
    blob(5, tensor(name, 1, dims, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()))
}

/// An initializer of integers as a field of a graph.
pub fn i64s(name: &str, dims: &[i64], values: &[i64]) -> Vec<u8> {
    blob(5, tensor(name, 7, dims, &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>()))
}

/// A float input as a field of a graph; sizes below 0 are symbols.
pub fn input(name: &str, dims: &[i64]) -> Vec<u8> {
    typed_input(name, 1, dims)
}

/// An input of an element type as a field of a graph; sizes below 0 are symbols.
pub fn typed_input(name: &str, dtype: i64, dims: &[i64]) -> Vec<u8> {
    let dim = |&d: &i64| blob(1, if d < 0 { blob(2, format!("n{}", -d)) } else { int(1, d) });
    let shape: Vec<u8> = dims.iter().flat_map(dim).collect();
    blob(11, [blob(1, name), blob(2, blob(1, [int(1, dtype), blob(2, shape)].concat()))].concat())
}

pub fn output(name: &str) -> Vec<u8> {
    blob(12, blob(1, name))
}

/// A small model with shapes, a product, a convolution and constants of several kinds.
pub fn small() -> Vec<u8> {
    let values: Vec<f32> = (0..36).map(|i| (i as f32 * 0.7).sin()).collect();
    let raw: Vec<u8> = values[..9].iter().flat_map(|v| v.to_le_bytes()).collect();
    model(
        [
            node("Conv", &["x", "k"], &["c"], &[attr_ints("pads", &[1, 1, 1, 1]), attr_ints("strides", &[1, 1])]),
            node("Relu", &["c"], &["r"], &[]),
            node("Shape", &["r"], &["s"], &[]),
            node("Constant", &[], &["w"], &[attr_tensor("value", tensor("", 1, &[3, 3], &raw))]),
            node("Gather", &["s", "two"], &["last"], &[attr_int("axis", 0)]),
            node("Concat", &["one", "last", "last"], &["shape"], &[attr_int("axis", 0)]),
            node("Reshape", &["r", "shape"], &["m"], &[]),
            node("MatMul", &["m", "w"], &["y"], &[]),
            input("x", &[1, 1, 3, 3]),
            f32s("k", &[1, 1, 3, 3], &values[9..18]),
            i64s("two", &[1], &[2]),
            i64s("one", &[1], &[1]),
            output("y"),
        ]
        .concat(),
    )
}
