//! Tensors as the scripts that write `tests/data/*.json` put them: `[dtype, dims, base64 of the bytes]`.

use nyxc::ir::{DType, Tensor, TensorType};
use serde_json::Value;

pub fn base64(text: &str) -> Vec<u8> {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut n, mut bytes) = (0u32, 0, Vec::new());
    for c in text.bytes().filter(|c| *c != b'=') {
        bits = bits << 6 | alphabet.iter().position(|a| *a == c).unwrap() as u32;
        n += 6;
        if n >= 8 {
            n -= 8;
            bytes.push((bits >> n) as u8);
        }
    }
    bytes
}

/// The tensor; `None` where the operand is absent.
pub fn tensor(value: &Value) -> Option<Tensor> {
    let dtype: DType = value.get(0)?.as_str()?.parse().unwrap();
    let dims: Vec<usize> = value[1].as_array().unwrap().iter().map(|d| d.as_u64().unwrap() as usize).collect();
    Some(Tensor::from_bytes(TensorType::of(dtype, &dims), base64(value[2].as_str().unwrap())).unwrap())
}
