"""Writes tests/data/microsoft_cases.json: small random uses of operators of com.microsoft with the results of ONNX Runtime, as make_op_cases.py does.

    python tests/make_microsoft_cases.py     # needs numpy, onnx, onnxruntime
"""

import base64
import json
import pathlib

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

rng = np.random.default_rng(20261123)
cases = []
NAMES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "u8"}


def tensor(a):
    return None if a is None else [NAMES[str(a.dtype)], list(a.shape), base64.b64encode(np.asarray(a, order="C").tobytes()).decode()]


def case(op, inputs, attrs=None, outputs=(0,), domain="com.microsoft", constants=()):
    """`constants` are the slots of operands that ONNX Runtime wants to be initializers."""
    attrs = attrs or {}
    inputs = [None if a is None else np.asarray(a) for a in inputs]
    given = {f"x{i}": a for i, a in enumerate(inputs) if a is not None}
    names = [f"y{i}" if i in outputs else "" for i in range(max(outputs) + 1)]
    node = helper.make_node(op, [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)], names, domain=domain, **attrs)
    ins = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items() if int(n[1:]) not in constants]
    weights = [numpy_helper.from_array(inputs[i], f"x{i}") for i in constants]
    outs = [helper.make_empty_tensor_value_info(n) for n in names if n]
    graph = helper.make_graph([node], "case", ins, outs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    results = iter(ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, {n: a for n, a in given.items() if int(n[1:]) not in constants}))
    kinds = {int: "i", float: "f", str: "s"}
    cases.append({
        "op": f"{domain}::{op}" if domain else op,
        "attrs": {k: {kinds[type(v)]: v} for k, v in attrs.items()},
        "inputs": [tensor(a) for a in inputs],
        "outputs": [tensor(next(results)) if n else None for n in names],
    })


def f(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def u8(*shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def i8(*shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def s(v):
    return np.array(v, np.float32)


z = np.array(120, np.uint8)
case("SimplifiedLayerNormalization", [f(2, 3, 8), f(8)], {"epsilon": 1e-5}, domain="")
case("SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)], {"epsilon": 1e-5}, outputs=(0, 3))
case("SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8)])
case("SkipSimplifiedLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8)], {"epsilon": 1e-5}, outputs=(0, 3))
for ta in (0, 1):
    for tb in (0, 1):
        a, b = f(2, *((4, 3) if ta else (3, 4))), f(2, *((5, 4) if tb else (4, 5)))
        case("FusedMatMul", [a, b], {"alpha": 0.25, "transA": ta, "transB": tb})
case("BiasGelu", [f(2, 3, 8), f(8)])
case("FastGelu", [f(2, 3, 8), f(8)])
case("FastGelu", [f(2, 3, 8)])
case("Gelu", [f(2, 3, 8)])
case("QuickGelu", [f(2, 3, 8)], {"alpha": 1.5})
case("QuantizeLinear", [f(3, 4), s(0.02), z])
case("DequantizeLinear", [u8(3, 4), s(0.02), z])
case("QLinearAdd", [u8(2, 3), s(0.02), z, u8(1, 3), s(0.03), np.array(7, np.uint8), s(0.045), z])
case("QLinearMul", [i8(2, 3), s(0.02), np.array(3, np.int8), i8(2, 3), s(0.03), np.array(-7, np.int8), s(0.0613), np.array(1, np.int8)])
case("QLinearSigmoid", [u8(4, 5), s(0.05), z, s(1 / 256), np.array(0, np.uint8)])
case("QLinearLeakyRelu", [u8(4, 5), s(0.05), z, s(0.04), np.array(30, np.uint8)], {"alpha": 0.1})
case("QLinearGlobalAveragePool", [u8(2, 3, 4, 4), s(0.05), z, s(0.03), np.array(30, np.uint8)])
case("QLinearGlobalAveragePool", [u8(2, 4, 4, 3), s(0.05), z, s(0.03), np.array(30, np.uint8)], {"channels_last": 1})
case("QLinearConcat", [s(0.05), z, u8(2, 3), s(0.04), z, u8(2, 2), s(0.06), np.array(9, np.uint8)], {"axis": 1})
case("MatMulIntegerToFloat", [u8(3, 6), i8(6, 4), s(0.02), s(0.03), z, np.array(2, np.int8), f(4)])
case("MatMulIntegerToFloat", [u8(3, 6), i8(6, 4), s(0.02), np.abs(f(4)), z, np.array([1, 2, -3, 4], np.int8)])
case("DynamicQuantizeMatMul", [f(3, 6), i8(6, 4), s(0.03), np.array(2, np.int8), f(4)])
for k, block in ((64, 32), (48, 32), (128, 16)):
    n, blocks = 6, -(-k // block)
    attrs = {"K": k, "N": n, "bits": 4, "block_size": block}
    packed, scales = u8(n, blocks, block // 2), np.abs(f(n * blocks)) * 0.1
    case("MatMulNBits", [f(2, 3, k), packed, scales], attrs)
    case("MatMulNBits", [f(2, 3, k), packed, scales, u8(n * -(-blocks // 2))], attrs)
    case("MatMulNBits", [f(2, 3, k), u8(n, blocks, block), scales, u8(n * blocks)], {**attrs, "bits": 8})

case("QGemm", [u8(3, 6), s(0.02), z, i8(6, 4), np.abs(f(4)) * 0.02, np.zeros(4, np.int8), rng.integers(-500, 500, 4).astype(np.int32), s(0.05), z])
case("QGemm", [u8(6, 3), s(0.02), z, u8(4, 6), s(0.03), np.array(7, np.uint8), None, None, None], {"alpha": 1.5, "transA": 1, "transB": 1})
case("QGemm", [u8(3, 300), s(0.02), z, i8(4, 300), np.abs(f(4)) * 0.02, i8(4), rng.integers(-500, 500, (3, 4)).astype(np.int32)], {"transB": 1})

indices = np.array([[0, 5, 2], [3, -1, 1]], np.int64)
for bits in (2, 4, 8):
    per = 8 // bits
    table, scales = u8(6, 64 // per), f(6, 4)
    attrs = {"bits": bits, "block_size": 16, "gather_axis": 0, "quantize_axis": 1}
    case("GatherBlockQuantized", [table, indices, scales], attrs)
    case("GatherBlockQuantized", [table, indices, scales, u8(6, -(-4 // per))], attrs)

p, pairs = 16, 4
angles = np.outer(np.arange(p), 1 / 10 ** np.arange(0, 2, 2 / pairs)).astype(np.float32)
cos, sin = np.cos(angles), np.sin(angles)
for interleaved in (0, 1):
    case("RotaryEmbedding", [f(2, 3, 24), np.array([[3, 4, 5], [0, 1, 2]]), cos, sin], {"interleaved": interleaved})
    case("RotaryEmbedding", [f(2, 3, 5, 8), np.array([4]), cos, sin], {"interleaved": interleaved})
case("RotaryEmbedding", [f(2, 3, 24), np.array([2]), cos, sin], {"num_heads": 2, "rotary_embedding_dim": 8})


def i32(*v):
    return np.array(v, np.int32)


angles = np.outer(np.arange(p), 1 / 10 ** np.arange(0, 2, 2 / 8)).astype(np.float32)
cos, sin = np.cos(angles), np.sin(angles)


def gqa(batch, length, past, total, lengths, heads=4, kv=2, head=16, rotary=0, joined=False, ids=None, bias=None, **attrs):
    """`total` keys in all, of which sequence b has `lengths[b]`."""
    q = f(batch, length, (heads + 2 * kv) * head) if joined else f(batch, length, heads * head)
    k = [None, None] if joined else [f(batch, length, kv * head), f(batch, length, kv * head)]
    cache = [f(batch, kv, past, head), f(batch, kv, past, head)] if past is not None else [None, None]
    tables = [cos, sin] if rotary else [None, None]
    attrs = {"num_heads": heads, "kv_num_heads": kv, "do_rotary": rotary, **attrs}
    case("GroupQueryAttention", [q, *k, *cache, i32(*[n - 1 for n in lengths]), i32(total), *tables, ids, bias], attrs, outputs=(0, 1, 2))


gqa(1, 5, None, 5, [5])
gqa(1, 5, 0, 5, [5], rotary=1)
gqa(2, 5, 0, 5, [5, 5], rotary=1, rotary_interleaved=1)
gqa(1, 1, 6, 7, [7], rotary=1)
gqa(2, 1, 6, 7, [7, 7], rotary=1, joined=True)
gqa(2, 1, 9, 7, [7, 7], rotary=1)
gqa(1, 3, 6, 9, [9], rotary=1, scale=0.25, softcap=2.0)
gqa(1, 6, 0, 6, [6], local_window_size=3)
gqa(1, 1, 6, 7, [7], local_window_size=3)
gqa(1, 1, 6, 7, [7], bias=f(1, 4, 1, 7))
gqa(1, 3, 4, 7, [7], rotary=1, ids=np.array([[4, 5, 6]]))

for direction, n in (("forward", 1), ("reverse", 1), ("bidirectional", 2)):
    for columns in (False, True):
        for codes in (u8, i8):
            scale = (lambda: np.abs(f(n, 20)) * 0.02) if columns else (lambda: np.abs(f(n)) * 0.02)
            # ONNX Runtime takes zero points of columns only where all are 0.
            zero = np.zeros((n, 20), codes(1).dtype) if columns else np.full(n, codes(1)[0] // 8)
            inputs = [f(4, 1, 6), codes(n, 6, 20), codes(n, 5, 20), f(n, 40), None, f(n, 1, 5), f(n, 1, 5), None, scale(), zero, scale(), zero]
            case("DynamicQuantizeLSTM", inputs, {"hidden_size": 5, "direction": direction}, outputs=(0, 1, 2), constants=(1, 2, 8, 9, 10, 11))

# A cache with more room than there are keys, and a bias for each key.
gqa(1, 1, 9, 7, [7], bias=f(1, 4, 1, 7))
gqa(2, 3, 9, 3, [3, 3], rotary=1, bias=f(2, 1, 3, 3))

out = pathlib.Path(__file__).parent / "data" / "microsoft_cases.json"
out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
print(f"{len(cases)} cases in {out}")
