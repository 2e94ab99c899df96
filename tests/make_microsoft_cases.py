"""Writes tests/data/microsoft_cases.json: small random uses of operators of com.microsoft with the results of ONNX Runtime, as make_op_cases.py does.

    python tests/make_microsoft_cases.py     # needs numpy, onnx, onnxruntime
"""

import base64
import json
import pathlib

import numpy as np
import onnxruntime as ort
from onnx import helper

rng = np.random.default_rng(20261123)
cases = []
NAMES = {"float32": "f32", "float16": "f16", "int32": "i32", "int8": "i8", "uint8": "u8"}


def tensor(a):
    return None if a is None else [NAMES[str(a.dtype)], list(a.shape), base64.b64encode(np.asarray(a, order="C").tobytes()).decode()]


def case(op, inputs, attrs=None, outputs=(0,), domain="com.microsoft"):
    attrs = attrs or {}
    inputs = [None if a is None else np.asarray(a) for a in inputs]
    given = {f"x{i}": a for i, a in enumerate(inputs) if a is not None}
    names = [f"y{i}" if i in outputs else "" for i in range(max(outputs) + 1)]
    node = helper.make_node(op, [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)], names, domain=domain, **attrs)
    ins = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items()]
    outs = [helper.make_empty_tensor_value_info(n) for n in names if n]
    graph = helper.make_graph([node], "case", ins, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    results = iter(ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, given))
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

out = pathlib.Path(__file__).parent / "data" / "microsoft_cases.json"
out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
print(f"{len(cases)} cases in {out}")
