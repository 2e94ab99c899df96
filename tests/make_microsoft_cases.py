"""Writes tests/data/microsoft_cases.json: small random uses of operators of com.microsoft with the results of ONNX Runtime, as make_op_cases.py does.
What ONNX Runtime has no kernel for on CPUs is computed here in float64 as its documentation (docs/ContribOperators.md) defines it.

    python tests/make_microsoft_cases.py     # needs numpy, onnx, onnxruntime, ml_dtypes
"""

import base64
import json
import pathlib

import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(20261123)
cases = []
NAMES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int64": "i64", "int32": "i32", "int16": "i16", "uint16": "u16", "int8": "i8", "uint8": "u8",
         "bool": "bool"}


class Nibbles:
    """Codes of 4 bits: numpy has no such type."""

    def __init__(self, values, signed):
        self.values = np.asarray(values, np.int64)
        self.shape, self.name, self.onnx = self.values.shape, "i4" if signed else "u4", TensorProto.INT4 if signed else TensorProto.UINT4

    def tobytes(self):
        flat = self.values.reshape(-1) & 15
        flat = np.append(flat, [0] * (len(flat) % 2)).astype(np.uint8)
        return (flat[0::2] | flat[1::2] << 4).tobytes()


def tensor(a):
    if a is None:
        return None
    if isinstance(a, Nibbles):
        return [a.name, list(a.shape), base64.b64encode(a.tobytes()).decode()]
    return [NAMES[str(a.dtype)], list(a.shape), base64.b64encode(np.asarray(a, order="C").tobytes()).decode()]


def note(op, domain, attrs, inputs, outputs, bound, steps):
    kinds = {int: "i", float: "f", str: "s"}
    listed = {int: "is", float: "fs"}
    said = {k: {listed[type(v[0])]: v} if isinstance(v, list) else {kinds[type(v)]: v} for k, v in attrs.items()}
    cases.append({"op": f"{domain}::{op}" if domain else op, "attrs": said, "inputs": [tensor(a) for a in inputs],
                  "outputs": [tensor(a) for a in outputs], **({"bound": bound} if bound else {}), **({"steps": steps} if steps else {})})


def arrays(values):
    return [a if a is None or isinstance(a, Nibbles) else np.asarray(a) for a in values]


def case(op, inputs, attrs=None, outputs=(0,), domain="com.microsoft", constants=(), bound=None, steps=0):
    """`constants` are the slots of operands that ONNX Runtime wants to be initializers. `bound` is the largest relative L2 where it is not the usual one, `steps`
    by how much a code may differ."""
    attrs = attrs or {}
    inputs = arrays(inputs)
    constants = {*constants, *(i for i, a in enumerate(inputs) if isinstance(a, Nibbles))}
    given = {f"x{i}": a for i, a in enumerate(inputs) if a is not None and i not in constants}
    names = [f"y{i}" if i in outputs else "" for i in range(max(outputs) + 1)]
    node = helper.make_node(op, [f"x{i}" if a is not None else "" for i, a in enumerate(inputs)], names, domain=domain, **attrs)
    ins = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items()]
    weights = [helper.make_tensor(f"x{i}", inputs[i].onnx, inputs[i].shape, inputs[i].tobytes(), raw=True) if isinstance(inputs[i], Nibbles)
               else numpy_helper.from_array(inputs[i], f"x{i}") for i in sorted(constants)]
    # The type of scores is not inferred.
    outs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) if n == "y3" and op != "SkipLayerNormalization" else helper.make_empty_tensor_value_info(n)
            for n in names if n]
    graph = helper.make_graph([node], "case", ins, outs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = iter(session.run(None, given))
    note(op, domain, attrs, inputs, [next(results) if n else None for n in names], bound, steps)


def expect(op, inputs, attrs, outputs, domain="com.microsoft", bound=None, steps=0):
    """A case whose results are given: ONNX Runtime has no kernel for it on CPUs."""
    note(op, domain, attrs, arrays(inputs), arrays(outputs), bound, steps)


def f(*shape):
    """Sixteenths, whose bytes compress."""
    return (np.round(rng.standard_normal(shape) * 16) / 16).astype(np.float32)


def u8(*shape):
    return rng.integers(0, 256, shape).astype(np.uint8)


def i8(*shape):
    return rng.integers(-128, 128, shape).astype(np.int8)


def s(v):
    return np.array(v, np.float32)


def i32(*v):
    return np.array(v, np.int32)


z = np.array(120, np.uint8)
case("SimplifiedLayerNormalization", [f(2, 3, 8), f(8)], {"epsilon": 1e-5}, domain="")
case("SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8), f(8)], {"epsilon": 1e-5}, outputs=(0, 3))
case("SkipLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8), f(8)])
case("SkipSimplifiedLayerNormalization", [f(2, 3, 8), f(2, 3, 8), f(8)], {"epsilon": 1e-5}, outputs=(0, 3))
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


# Products and convolutions with what follows them.
for batch_a in (0, 1):
    for batch_b in (0, 1):
        for ta in (0, 1):
            for tb in (0, 1):
                a, b = f(*((4, 3) if ta else (3, 4))), f(*((5, 4) if tb else (4, 5)))
                a, b = [np.stack([np.stack([m, m * 2 + 1, 1 - m]), np.stack([m * 3, m - 2, m])]) for m in (a, b)]
                # The first axis is one of rows, the rows one of the batch.
                a, b = [m.transpose(2, 0, 1, 3) if transposed else m for m, transposed in ((a, batch_a), (b, batch_b))]
                attrs = {"transA": ta, "transB": tb, "transBatchA": batch_a, "transBatchB": batch_b, **({"alpha": 0.25} if ta else {})}
                case("FusedMatMul", [a, b], attrs)
case("FusedMatMul", [f(4), f(4, 3)], {"transA": 1})
case("FusedMatMul", [f(2, 4), f(4)], {"alpha": -2.0, "transB": 1})
case("TransposeMatMul", [f(2, 4, 3), f(2, 5, 4)], {"transA": 1, "transB": 1, "alpha": 0.5})
a, b = f(3, 4), f(4, 5)
for name, function in (("Relu", lambda v: np.maximum(v, 0)), ("Tanh", np.tanh), ("LeakyRelu", lambda v: np.where(v < 0, 0.3 * v, v)), ("Affine", lambda v: 0.3 * v + 0.7)):
    attrs = {"activation": name, "alpha": 0.5, **({"activation_alpha": 0.3} if name != "Tanh" else {}), **({"activation_beta": 0.7} if name == "Affine" else {})}
    expect("FusedMatMulActivation", [a, b], attrs, [function(0.5 * a @ b).astype(np.float32)])
for name in ("Celu", "Elu", "HardSigmoid", "LeakyRelu", "ParametricSoftplus", "Relu", "ScaledTanh", "Selu", "Sigmoid", "Softplus", "Softsign", "Tanh", "ThresholdedRelu"):
    case("FusedGemm", [f(3, 4), f(4, 5), f(5)], {"activation": name, "activation_alpha": 0.3, "activation_beta": 0.7, "activation_gamma": 1.1})
case("FusedGemm", [f(4, 3), f(5, 4), f(3, 1)], {"activation": "Relu", "alpha": 0.5, "beta": 2.0, "transA": 1, "transB": 1})
case("FusedGemm", [f(3, 4), f(4, 5)], {"activation": "Tanh"})
for name, params in (("Relu", None), ("Tanh", None), ("Sigmoid", None), ("HardSwish", None), ("LeakyRelu", [0.3]), ("Clip", [-0.5, 0.75]), ("HardSigmoid", [0.3, 0.4])):
    case("FusedConv", [f(1, 3, 5, 4), f(4, 3, 3, 2), f(4)], {"activation": name, **({"activation_params": params} if params else {})})
    case("FusedConv", [f(2, 4, 4, 5), f(4, 1, 3, 3), f(4), f(2, 4, 2, 3)], {"activation": name, "group": 4, "strides": [2, 2], "pads": [1, 1, 1, 1],
                                                                          **({"activation_params": params} if params else {})})
case("FusedConv", [f(1, 3, 5), f(4, 3, 3)], {"activation": "Relu", "auto_pad": "SAME_UPPER"})
case("FusedConv", [f(1, 3, 5, 5), f(4, 3, 3, 3), None, f(1, 4, 5, 5)], {"auto_pad": "SAME_LOWER", "kernel_shape": [3, 3]})
case("FusedConv", [f(1, 3, 6, 6), f(2, 3, 2, 2)], {"dilations": [2, 3]})


def nhwc(x, w, b):
    return np.einsum("nhwc,oc->nhwo", x, w[:, :, 0, 0].astype(np.float64)) + b


x, w, b, z = f(1, 3, 4, 3), f(5, 3, 1, 1), f(5), f(1, 3, 4, 5)
expect("NhwcConv", [x, w, b], {}, [nhwc(x, w, b).astype(np.float32)])
expect("NhwcFusedConv", [x, w, b, z], {"activation": "Relu"}, [np.maximum(nhwc(x, w, b) + z, 0).astype(np.float32)])
x, w, b = f(2, 3, 4), f(4, 5), f(5)
gelu_tanh = lambda v: 0.5 * v * (1 + np.tanh(np.sqrt(2 / np.pi) * (v + 0.044715 * v**3)))
expect("GemmFastGelu", [x, w, b], {}, [gelu_tanh(x.astype(np.float64) @ w + b).astype(np.float32)])
expect("GemmFastGelu", [x, w], {}, [gelu_tanh(x.astype(np.float64) @ w).astype(np.float32)])

# Pools and convolutions of codes.
case("NhwcMaxPool", [u8(1, 5, 6, 3)], {"kernel_shape": [2, 3], "strides": [2, 2], "pads": [0, 1, 1, 1]})
case("NhwcMaxPool", [i8(1, 5, 6, 3)], {"kernel_shape": [2, 2], "dilations": [2, 2], "ceil_mode": 1, "strides": [2, 2]})
case("NhwcMaxPool", [u8(1, 7, 2)], {"kernel_shape": [3], "auto_pad": "SAME_UPPER"})
# ONNX Runtime rounds averages, sums and products after the zero point was added.
for shape, last in (((1, 3, 6, 5), 0), ((1, 6, 5, 3), 1)):
    for more in ({"strides": [2, 2]}, {"pads": [1, 0, 1, 1], "count_include_pad": 1}, {"pads": [1, 0, 1, 1]}, {"strides": [2, 2], "ceil_mode": 1}):
        case("QLinearAveragePool", [u8(*shape), s(0.05), z0 := np.array(120, np.uint8), s(0.03), np.array(30, np.uint8)], {"kernel_shape": [2, 3], "channels_last": last, **more})
case("QLinearAveragePool", [i8(1, 2, 6), s(0.05), np.array(5, np.int8), s(0.03), np.array(-7, np.int8)], {"kernel_shape": [2]})
w = i8(4, 3, 3, 3)
case("QLinearConv", [u8(1, 5, 5, 3), s(0.02), z0, w, s(0.01), np.array(0, np.int8), s(0.06), np.array(110, np.uint8), rng.integers(-500, 500, 4).astype(np.int32)],
     {"channels_last": 1, "pads": [1, 1, 1, 1]}, constants=(3,))
case("QLinearConv", [u8(1, 3, 5, 5), s(0.02), z0, w, np.abs(f(4)) * 0.01 + s(0.001), np.zeros(4, np.int8), s(0.06), np.array(110, np.uint8)], {"strides": [2, 2]}, constants=(3,))
x = i8(2, 3, 4)
mean = (x.astype(np.float64) - 3).mean((0, 2)) * 0.5
expect("QLinearReduceMean", [x, s(0.5), np.array(3, np.int8), s(0.25), np.array(-4, np.int8)], {"axes": [0, 2], "keepdims": 0},
       [np.clip(np.round(mean / 0.25) - 4, -128, 127).astype(np.int8)])
expect("QLinearReduceMean", [x, s(0.5), None, s(0.5)], {"axes": [-1], "keepdims": 1}, [np.round(x.astype(np.float64).mean(2, keepdims=True)).astype(np.int8)])
# ONNX Runtime has floor(1 / scale) steps in 1.
for codes, zero in ((u8, np.array(0, np.uint8)), (i8, np.array(-128, np.int8))):
    for attrs in ({"axis": -1, "opset": 13}, {"axis": 1, "opset": 13}, {"axis": 1, "opset": 11}, {"opset": 13}):
        case("QLinearSoftmax", [codes(2, 3, 4), s(0.03), np.array(7, codes(1).dtype), s(1 / 256), zero], attrs)
condition = rng.integers(0, 2, (2, 3)).astype(bool)
for codes in (u8, i8):
    zero = lambda v: np.array(v, codes(1).dtype)
    case("QLinearWhere", [condition, codes(2, 3), s(0.02), zero(7), codes(1, 3), s(0.03), zero(3), s(0.025), zero(9)])

# The quantizer lets Resize choose among codes.
case("Resize", [u8(1, 2, 3, 4), None, s([1, 1, 2, 2])], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, domain="", constants=(2,))
case("Resize", [i8(1, 2, 3, 4), None, None, np.array([1, 2, 5, 7])], {"mode": "nearest"}, domain="", constants=(3,))

# Quantization to and from 16 and 4 bits.
x = f(3, 4)
for dtype, zero in ((np.int8, -3), (np.uint8, 120), (np.int16, -300), (np.uint16, 30000)):
    case("QuantizeLinear", [x, s(0.013), np.array(zero, dtype)])
    case("QuantizeLinear", [x, s([0.013, 0.02, 0.5, 1e-4]), np.full(4, zero, dtype)], {"axis": 1})
    codes = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, (3, 4)).astype(dtype)
    case("DequantizeLinear", [codes, s(0.013), np.array(zero, dtype)])
    case("DequantizeLinear", [codes, s([0.013, 0.02, 0.5]), np.full(3, zero, dtype)], {"axis": 0})
case("DequantizeLinear", [rng.integers(-70000, 70000, (3, 4)).astype(np.int32), s(0.013)])
for signed in (False, True):
    low = -8 if signed else 0
    codes = Nibbles(rng.integers(low, low + 16, (3, 5)), signed)
    case("DequantizeLinear", [codes, s(0.25), Nibbles(low + 3, signed)])
    case("DequantizeLinear", [codes, s([0.25, 0.5, 2.0]), Nibbles([low, low + 3, low + 9], signed)], {"axis": 0})

# Products with codes of few bits.
for bits in (2, 4, 8):
    for k, block in ((40, 16), (64, 32), (1030, 256), (600, 512)):
        # ONNX Runtime has no blocks of more than 256 codes of 2 bits.
        if bits == 2 and block > 256:
            continue
        n, blocks = 3, -(-k // block)
        attrs = {"K": k, "N": n, "bits": bits, "block_size": block}
        a, packed, scales = f(2, k), u8(n, blocks, block * bits // 8), np.abs(f(n, blocks)) * s(0.125) + s(0.125)
        case("MatMulNBits", [a, packed, scales], attrs)
        case("MatMulNBits", [a, packed, scales, u8(n, -(-blocks * bits // 8)), None, f(n)], attrs)
        # Zero points as floats: such as are codes, and others.
        if bits < 8:
            case("MatMulNBits", [a, packed, scales, rng.integers(0, 2**bits, (n, blocks)).astype(np.float32)], attrs)
            case("MatMulNBits", [a, packed, scales, (np.abs(f(n, blocks)) + s(2**(bits - 1))).astype(np.float32)], attrs)
a, packed, scales = f(2, 64), u8(3, 4, 8), np.abs(f(3, 4)) * s(0.125) + s(0.125)
attrs = {"K": 64, "N": 3, "bits": 4, "block_size": 16}
case("MatMulNBits", [a.astype(np.float16), packed, scales.astype(np.float16), None, None, f(3).astype(np.float16)], attrs)
case("MatMulNBits", [f(2, 2, 64), packed, scales.reshape(12), u8(6)], {**attrs, "accuracy_level": 1})
weights = lambda groups, zeros: ((np.stack([packed & 15, packed >> 4], -1).reshape(3, 64).astype(np.float64) - zeros[:, groups]) * scales[:, groups])
for groups in (np.arange(64) // 16, rng.permutation(np.arange(64) // 16), rng.integers(0, 4, 64)):
    zeros = rng.integers(0, 16, (3, 4))
    bytes_of = (zeros[:, 0::2] | zeros[:, 1::2] << 4).astype(np.uint8)
    for given, values in ((None, np.full((3, 4), 8)), (bytes_of, zeros), ((zeros + 0.25).astype(np.float32), zeros + 0.25)):
        expect("MatMulNBits", [a, packed, scales, given, groups.astype(np.int32)], attrs, [(a.astype(np.float64) @ weights(groups, values).T).astype(np.float32)])
low = ml_dtypes.bfloat16
short = [a.astype(low), packed, scales.astype(low), (np.full((3, 4), 7.5)).astype(low)]
values = (np.stack([packed & 15, packed >> 4], -1).reshape(3, 64).astype(np.float64) - 7.5) * np.repeat(scales.astype(low).astype(np.float64), 16, 1)
expect("MatMulNBits", short, attrs, [(a.astype(low).astype(np.float64) @ values.T).astype(low)], bound=4e-3)
expect("MatMulNBits", [a, np.zeros((3, 0, 8), np.uint8), np.zeros((3, 0), np.float32), None, None, b := f(3)], attrs, [np.broadcast_to(b, (2, 3)).copy()])

for kind in (0, 1):
    for k, n, block in ((32, 3, 16), (5, 3, 16), (20, 4, 32)):
        case("MatMulBnb4", [f(2, k), u8((k * n + 1) // 2), np.abs(f(-(-k * n // block))) + s(0.5)], {"K": k, "N": n, "block_size": block, "quant_type": kind}, constants=(1, 2))

# Look-ups in tables of codes.
indices = np.array([[0, 3], [-1, 2]])
for signed in (False, True):
    low = -8 if signed else 0
    for gather, quantize, shape in ((0, 1, (4, 40)), (0, -1, (4, 2, 33)), (1, 0, (32, 4)), (1, 2, (2, 4, 16)), (-1, 0, (17, 4)), (0, 2, (4, 2, 32))):
        blocks = list(shape)
        blocks[quantize] = -(-blocks[quantize] // 16)
        codes, zeros = [Nibbles(rng.integers(low, low + 16, sizes), signed) for sizes in (shape, blocks)]
        attrs = {"block_size": 16, "gather_axis": gather, "quantize_axis": quantize}
        case("GatherBlockQuantized", [codes, indices, f(*blocks)], attrs, constants=(2,))
        case("GatherBlockQuantized", [codes, indices.astype(np.int32), f(*blocks), zeros], attrs, constants=(2,))
    codes = Nibbles(rng.integers(low, low + 16, (4, 128)), signed)
    case("GatherBlockQuantized", [codes, np.array(2), f(4, 1).astype(np.float16)], constants=(2,))
for bits in (2, 4, 8):
    table = u8(4, 3, 32 * bits // 8)
    attrs = {"bits": bits, "block_size": 32, "quantize_axis": 2}
    case("GatherBlockQuantized", [table, indices, f(4, 3, 1)], attrs, constants=(0, 2))
    case("GatherBlockQuantized", [table, indices, f(4, 3, 1), u8(4, 3, 1)], attrs, constants=(0, 2, 3))

# DynamicQuantizeLinear where the standard leaves it open: zeros alone, infinities, ranges beyond f32, ties.
for values in ([0, 0, 0], [-0.0, 0], [3e38, -3e38], [np.inf, 1], [-np.inf, 1], [np.inf, -np.inf, 0], [1, 1], [-1, -1], [127.5, -127.5, 0.5, 1.5, 2.5, -0.5, -1.5], [254.5, -0.5, 0.5, 1.5]):
    case("DynamicQuantizeLinear", [s(values)], {}, (0, 1, 2), domain="")
case("DynamicQuantizeLinear", [f(3, 50)], {}, (0, 1, 2), domain="")

# Attention.
batch, length, heads, size = 2, 3, 2, 4
q, k, v = f(batch, length, heads * size), f(batch, 5, heads * size), f(batch, 5, heads * size)
attrs = {"num_heads": heads}
past = [f(batch, heads, 2, size), f(batch, heads, 2, size)]
own = [f(batch, length, heads * size), f(batch, length, heads * size)]
case("MultiHeadAttention", [q, k, v], attrs, (0, 1, 2, 3))
case("MultiHeadAttention", [q, k, v, f(24)], {**attrs, "scale": 0.3}, (0, 1, 2))
case("MultiHeadAttention", [q, k, f(batch, 5, 6)], attrs)
case("MultiHeadAttention", [q, *own], {**attrs, "unidirectional": 1})
case("MultiHeadAttention", [q, *own, None, None, None, *past], {**attrs, "unidirectional": 1}, (0, 1, 2))
case("MultiHeadAttention", [q, *own, f(24), i32([1, 1, 0, 1, 1], [0, 1, 1, 1, 0]), f(1, heads, length, 5), *past], attrs, (0, 1, 2, 3))
ragged = i32([1, -1, 2, 0, 1], [0, 1, 0, 0, 0])
for mask in (ragged, i32(5, 2), np.where(rng.integers(0, 2, (batch, length, 5)), 1, 0).astype(np.int32)):
    for fill in (None, -3.0):
        if fill is None and mask.ndim == 3:
            mask[:, :, 0] = 1
        case("MultiHeadAttention", [q, k, v, None, mask], {**attrs, **({"mask_filter_value": fill} if fill else {})})
for shape in ((1, 1), (batch, 1), (1, heads), (batch, heads)):
    case("MultiHeadAttention", [q, k, v, None, ragged, f(*shape, length, 5)], attrs, (0, 1, 2, 3))
crossed = [f(batch, heads, 5, size), f(batch, heads, 5, size)]
case("MultiHeadAttention", [q, *crossed], attrs)
case("MultiHeadAttention", [q, *crossed, f(24), ragged], attrs)


def attended(q, k, v, bias=0.0):
    """Operands [batch, length, heads, size]."""
    q, k, v = [x.astype(np.float64).transpose(0, 2, 1, 3) for x in (q, k, v)]
    scores = q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    y = weights / weights.sum(-1, keepdims=True) @ v
    return y.transpose(0, 2, 1, 3).reshape(*y.shape[::2], -1).astype(np.float32)


joined = f(batch, length, heads, 3, size)
expect("MultiHeadAttention", [joined], attrs, [attended(*[joined[:, :, :, i] for i in range(3)])])
pair = f(batch, 5, heads, 2, size)
apart = q.reshape(batch, length, heads, size)
expect("MultiHeadAttention", [q, pair], attrs, [attended(apart, pair[:, :, :, 0], pair[:, :, :, 1])])
bias = f(3, heads, size)
expect("MultiHeadAttention", [q, pair, None, bias.reshape(-1)], attrs, [attended(apart + bias[0], pair[:, :, :, 0] + bias[1], pair[:, :, :, 1] + bias[2])])
one = q[:, :1]
case("DecoderMaskedMultiHeadAttention", [one, *crossed], attrs)
case("DecoderMaskedMultiHeadAttention", [one, *crossed, i32([1, 1, 0, 1, 1], [0, 1, 1, 1, 0])], {**attrs, "scale": 0.7})
grown = [np.concatenate([p.transpose(0, 2, 1, 3), x[:, :1].reshape(batch, 1, heads, size)], 1) for p, x in zip(past, own)]
expect("DecoderMaskedMultiHeadAttention", [one, own[0][:, :1], own[1][:, :1], None, None, *past], attrs,
       [attended(one.reshape(batch, 1, heads, size), *grown), *[g.transpose(0, 2, 1, 3).copy() for g in grown]])
flat = f(batch, 1, 24)
expect("DecoderMaskedMultiHeadAttention", [flat], attrs, [attended(*[flat[:, :, 8 * i:8 * i + 8].reshape(batch, 1, heads, size) for i in range(3)])])

x, w, b = f(batch, length, 6), f(6, 24), f(24)
kept = f(2, batch, heads, 2, size)
case("Attention", [x, w, b], attrs, (0, 1))
case("Attention", [x, w], {**attrs, "scale": 0.7})
case("Attention", [x, w, b], {**attrs, "unidirectional": 1})
case("Attention", [x, f(6, 28), f(28)], {**attrs, "qkv_hidden_sizes": [8, 8, 12]})
case("Attention", [x, w, b, None, kept], {**attrs, "unidirectional": 1}, (0, 1))
case("Attention", [x, w, b, i32([1, 1, 0, 1, 1], [0, 1, 1, 1, 0]), kept], attrs, (0, 1))
case("Attention", [x, w, b, None, None, f(1, heads, length, length)], attrs)
whole = np.where(rng.integers(0, 2, (batch, length, length)), 1, 0).astype(np.int32)
whole[:, :, 0] = 1
for mask in (i32(3, 1), i32(3, 2, 1, 0), i32([1, 0, 1], [0, 1, 1]), whole, i32([2], [3])):
    for more in ({}, {"mask_filter_value": -3.0}, {"unidirectional": 1}):
        # Where a query sees nothing but masked keys ONNX Runtime's scores near -10000 keep three digits.
        case("Attention", [x, w, b, mask], {**attrs, **more}, bound=1e-3)
square = np.where(rng.integers(0, 2, (batch, 1, 7, 7)), 1, 0).astype(np.int32)
square[:, :, :, 0] = 1
projected = (x.astype(np.float64) @ w + b).reshape(batch, length, 3, heads, size)
expect("Attention", [x, w, b, square], attrs, [attended(*[projected[:, :, i] for i in range(3)], np.where(square[:, :, :length, :length] > 0, 0, -10000.0))])

codes = u8(batch, length, 6), i8(6, 24)
for scale, zero in ((s(0.02), np.array(3, np.int8)), (np.abs(f(24)) * s(0.02) + s(0.01), i8(24))):
    case("QAttention", [codes[0], codes[1], b, s(0.02), scale, None, np.array(120, np.uint8), zero], attrs, constants=(1,))
case("QAttention", [codes[0], u8(6, 24), b, s(0.02), s(0.01), i32(3, 1)], attrs, constants=(1,))
case("QAttention", [*codes, b, s(0.02), s(0.01), None, np.array(120, np.uint8), np.array(3, np.int8), kept], {**attrs, "unidirectional": 1}, (0, 1), constants=(1,))

# Embeddings.
ids, segments = i32([1, 2, 0, 3], [0, 1, 2, 2]), i32([0, 1, 1, 0], [1, 1, 0, 0])
tables, gamma, beta = [f(5, 8), f(6, 8), f(2, 8)], f(8), f(8)
mask = i32([1, 1, 1, 0], [2, 1, 0, 1])
case("EmbedLayerNormalization", [ids, segments, *tables, gamma, beta, mask], {"epsilon": 1e-5}, (0, 1, 2))
case("EmbedLayerNormalization", [ids, None, *tables[:2], None, gamma, beta], {}, (0, 1))
case("EmbedLayerNormalization", [ids, None, *tables[:2], None, gamma, beta, mask, i32([0, 1, 2, 5])], {"mask_index_type": 1}, (0, 1))
case("EmbedLayerNormalization", [ids, None, *tables[:2], None, gamma, beta, None, i32([0, 1, 2, 5], [5, 4, 3, 2])], {}, (0, 1))
for codes in (u8, i8):
    zeros = [np.array(v, codes(1).dtype) for v in (7, 3, 5, 9, 11)]
    scales = [s(v) for v in (0.02, 0.03, 0.01, 0.04, 0.05)]
    quantized = [codes(5, 8), codes(6, 8), codes(2, 8), codes(8), codes(8)]
    case("QEmbedLayerNormalization", [ids, segments, *quantized, mask, *scales, *zeros], {"epsilon": 1e-5}, (0, 1))
    quantized[2] = scales[2] = zeros[2] = None
    case("QEmbedLayerNormalization", [ids, None, *quantized, None, *scales, *zeros], {}, (0, 1))

# Normalisations and biases of diffusion models.
for last in (0, 1):
    for activation in (0, 1):
        x, skip, bias, gamma, beta = f(2, 3, 4, 6) if last else f(2, 6, 3, 4), f(2, 6), f(6), f(6), f(6)
        for of_sum in (False, True):
            total = x.astype(np.float64)
            if of_sum:
                total = total + (skip[:, None, None] + bias if last else (skip + bias)[:, :, None, None])
            first = total.transpose(0, 3, 1, 2) if last else total
            groups = first.reshape(2, 2, 3, 3, 4)
            y = (groups - groups.mean((2, 3, 4), keepdims=True)) / np.sqrt(groups.var((2, 3, 4), keepdims=True) + 1e-3)
            y = y.reshape(2, 6, 3, 4) * gamma[:, None, None] + beta[:, None, None]
            y = y / (1 + np.exp(-y)) if activation else y
            y = y.transpose(0, 2, 3, 1) if last else y
            attrs = {"groups": 2, "activation": activation, "epsilon": 1e-3, **({} if last else {"channels_last": 0})}
            inputs, results = [x, gamma, beta], [y.astype(np.float32)]
            if of_sum:
                inputs, results = [*inputs, skip, bias], [*results, total.astype(np.float32)]
            expect("SkipGroupNorm" if of_sum else "GroupNorm", inputs, attrs, results)
x, bias, skip = f(2, 3, 8), f(8), f(2, 3, 8)
expect("BiasAdd", [x, bias, skip], {}, [x + bias + skip])
from math import erf
total = (x + bias).astype(np.float64)
expect("BiasSplitGelu", [x, bias], {}, [(total[..., :4] * total[..., 4:] * 0.5 * (1 + np.vectorize(erf)(total[..., 4:] / np.sqrt(2)))).astype(np.float32)])
weights = np.exp(total - total.max(-1, keepdims=True))
expect("BiasSoftmax", [x, bias], {"axis": 2, "is_inner_broadcast": 0}, [(weights / weights.sum(-1, keepdims=True)).astype(np.float32)])

# Operators that ONNX has since.
case("Trilu", [f(2, 3, 4), np.array(1)], {"upper": 0})
case("ExpandDims", [f(2, 3), np.array(-1, np.int32)], constants=(1,))
case("Range", [np.array([2], np.int64), np.array([9], np.int64), np.array([3], np.int64)], constants=(0, 1, 2))
case("Range", [np.array(2, np.int32), np.array(5, np.int32)], constants=(0, 1))
case("Pad", [f(2, 3), np.array([0, 1, 1, 2]), s([0.5])], {"mode": "constant"}, constants=(1,))
case("GatherND", [f(2, 3, 4), np.array([[0, 1], [1, 2]])])
for mode in ("bilinear", "nearest", "bicubic"):
    case("GridSample", [f(1, 2, 4, 4), f(1, 3, 3, 2) * s(0.25)], {"mode": mode, "padding_mode": "border"})
for layer in ("SkipLayerNormalization", "SkipSimplifiedLayerNormalization"):
    for skip in (f(1, 3, 8), f(3, 8)):
        case(layer, [f(2, 3, 8), skip, f(8)], {"epsilon": 1e-5})
case("SkipSimplifiedLayerNormalization", [f(4, 8), f(4, 8), f(8), f(8)], {"epsilon": 1e-5}, outputs=(0, 3))

# Attention of groups: sinks, scores, lengths of queries.
heads, kv, size = 4, 2, 16
q, k, v = f(2, 3, heads * size), f(2, 3, kv * size), f(2, 3, kv * size)
sink = f(heads)


def grouped(inputs, further, attrs, outputs=(0, 1, 2), total=3, lengths=(3, 3), cache=(None, None)):
    operands = [*inputs, *cache, i32(*[n - 1 for n in lengths]), i32(total), *[further.get(slot) for slot in range(7, 17)]]
    while operands[-1] is None:
        operands.pop()
    case("GroupQueryAttention", operands, {"num_heads": heads, "kv_num_heads": kv, **attrs}, outputs)


grouped([q, k, v], {11: sink}, {})
grouped([q, k, v], {}, {"smooth_softmax": 1})
grouped([q, k, v], {11: sink}, {"softcap": 1.5, "local_window_size": 2, "scale": 0.4})
grouped([q, k, v], {11: sink, 10: f(1, 1, 3, 3)}, {})
grouped([q, k, v], {11: sink}, {"causal": 0})
for kind in (1, 2):
    for cap in (0.0, 1.5):
        grouped([q, k, v], {10: f(1, heads, 3, 3)}, {"qk_output": kind, "softcap": cap}, (0, 1, 2, 3))
grouped([q, k, v], {11: sink}, {"qk_output": 2}, (0, 1, 2, 3))
cache = [f(1, kv, 6, size), f(1, kv, 6, size)]
one = [x[:1, :1] for x in (q, k, v)]
grouped(one, {11: sink, 10: f(1, 1, 1, 7)}, {"qk_output": 1}, (0, 1, 2, 3), 7, (7,), cache)
grouped([np.concatenate(one, 2), None, None], {11: sink, 7: cos, 8: sin}, {"do_rotary": 1, "rotary_interleaved": 1}, (0, 1, 2), 7, (7,), cache)
grouped([q, k, v], {16: i32(3, 3), 11: sink}, {}, (0, 1, 2), 6, (5, 4), [f(2, kv, 6, size), f(2, kv, 6, size)])

# Half steps: which code they fall to depends on what is rounded, and scales that 1 is no multiple of.
for codes in (u8, i8):
    zero = lambda v: np.array(v, codes(1).dtype)
    for a, b, y in ((1 / 64, 1 / 128, 1 / 64), (2 / 255, 1 / 255, 2 / 255)):
        for left, right in (((4, 64), (4, 64)), ((4, 64), (1,)), ((1,), (4, 64)), ((4, 64), (4, 1))):
            case("QLinearAdd", [codes(*left), s(a), zero(3), codes(*right), s(b), zero(5), s(y), zero(9)])
    case("QLinearMul", [codes(4, 64), s(1 / 16), zero(3), codes(4, 64), s(1 / 8), zero(5), s(1 / 4), zero(9)])
    case("QLinearAveragePool", [codes(1, 2, 8, 8), s(1 / 16), zero(3), s(1 / 16), zero(5)], {"kernel_shape": [2, 2], "strides": [2, 2]})
    for y in (1 / 255, 1 / 300, 0.0123):
        case("QLinearSoftmax", [codes(4, 40), s(0.02), zero(3), s(y), zero(0)], {"axis": -1, "opset": 13})

out = pathlib.Path(__file__).parent / "data" / "microsoft_cases.json"
out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
print(f"{len(cases)} cases in {out}")
