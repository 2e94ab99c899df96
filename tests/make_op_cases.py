"""Writes tests/data/op_cases.json: small random uses of ONNX operators with the results of ONNX Runtime.

    python tests/make_op_cases.py     # needs numpy, onnx, onnxruntime

Each case: {"op", "attrs": {name: value}, "inputs": [tensor | null], "outputs": [tensor]}. A tensor is [dtype, dims, base64 of its bytes].
Attributes are tagged by kind: {"i": 1}, {"is": [1, 2]}, {"f": 0.5}, {"fs": [...]}, {"s": "..."}, {"t": tensor}, {"d": "f32"} (a type).
"""

import base64
import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

rng = np.random.default_rng(20240611)
cases = []
NAMES = {"float32": "f32", "float16": "f16", "float64": "f64", "int64": "i64", "int32": "i32", "int8": "i8", "uint8": "u8", "bool": "bool", "uint32": "u32", "int16": "i16", "uint16": "u16"}
OPSETS = [21, 22, 23, 24, 20, 18, 17, 13]


def tensor(a):
    if a is None:
        return None
    a = np.asarray(a, order="C")  # ascontiguousarray would turn a scalar into a vector
    return [NAMES[str(a.dtype)], list(a.shape), base64.b64encode(a.tobytes()).decode()]


def attribute(v):
    if isinstance(v, bool) or isinstance(v, (int, np.integer)):
        return {"i": int(v)}
    if isinstance(v, float):
        return {"f": v}
    if isinstance(v, str):
        return {"s": v}
    if isinstance(v, np.ndarray):
        return {"t": tensor(v)}
    if v and isinstance(v[0], float):
        return {"fs": v}
    return {"is": list(map(int, v))}


def run(op, inputs, attrs, n_outputs, opset):
    given = {}
    names = []
    for i, a in enumerate(inputs):
        if a is None:
            names.append("")
        else:
            names.append(f"x{i}")
            given[f"x{i}"] = np.asarray(a)
    proto = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in attrs.items()}
    node = helper.make_node(op, names, [f"y{i}" for i in range(n_outputs)], **proto)
    # Shapes, axes and the like must be initializers for some operators; ranks of inputs must be known for others.
    fixed = {n: a for n, a in given.items() if a.dtype == np.int64 and n != "x0"}
    ins = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in given.items() if n not in fixed]
    outs = [helper.make_empty_tensor_value_info(f"y{i}") for i in range(n_outputs)]
    graph = helper.make_graph([node], "case", ins, outs, [numpy_helper.from_array(a, n) for n, a in fixed.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {n: a for n, a in given.items() if n not in fixed})


def case(op, inputs, attrs=None, n_outputs=1, rust_attrs=None):
    attrs = attrs or {}
    inputs = [None if a is None else np.asarray(a) for a in inputs]
    error = None
    for opset in OPSETS:
        try:
            outputs = run(op, inputs, attrs, n_outputs, opset)
            break
        except Exception as e:  # noqa: BLE001 - another opset may have the type
            error = e
    else:
        print(f"skipped {op} {attrs} {[a is not None and (str(a.dtype), a.shape) for a in inputs]}: {str(error)[:160]}")
        return
    tagged = {k: attribute(v) for k, v in attrs.items()}
    tagged.update(rust_attrs or {})
    cases.append({"op": op, "attrs": tagged, "inputs": [tensor(a) for a in inputs], "outputs": [tensor(o) for o in outputs]})


def f(*dims, low=-2.0, high=2.0, dtype=np.float32):
    return rng.uniform(low, high, dims).astype(dtype)


def ints(*dims, low=-9, high=9, dtype=np.int64):
    return rng.integers(low, high, dims, dtype=dtype)


def i64(*values):
    return np.array(values, np.int64)


D = (2, 3, 5)
for op in "Abs Neg Sign Floor Ceil Round Exp Sin Cos Tan Atan Sinh Cosh Tanh Asinh Erf Sigmoid Softplus Relu Softsign HardSwish Mish Elu Selu Celu HardSigmoid LeakyRelu ThresholdedRelu Identity Gelu".split():
    case(op, [f(*D)])
for op in "Asin Acos Atanh".split():
    case(op, [f(*D, low=-0.95, high=0.95)])
for op in "Log Sqrt Reciprocal".split():
    case(op, [f(*D, low=0.1, high=9)])
case("Acosh", [f(*D, low=1.1, high=9)])
case("Abs", [ints(*D)])
case("Neg", [ints(*D, dtype=np.int32)])
case("Sign", [ints(*D)])
case("Relu", [f(*D, dtype=np.float16)])
case("Sigmoid", [f(*D, dtype=np.float16)])
case("Elu", [f(*D)], {"alpha": 0.7})
case("Celu", [f(*D)], {"alpha": 0.7})
case("Selu", [f(*D)], {"alpha": 1.5, "gamma": 1.2})
case("LeakyRelu", [f(*D)], {"alpha": 0.2})
case("HardSigmoid", [f(*D)], {"alpha": 0.1666667, "beta": 0.4})
case("ThresholdedRelu", [f(*D)], {"alpha": 0.5})
case("Shrink", [f(*D)], {"lambd": 0.6, "bias": 0.25})
case("Gelu", [f(*D)], {"approximate": "tanh"})
case("Swish", [f(*D)], {"alpha": 1.5})
case("Dropout", [f(*D)])
case("Dropout", [f(*D)], n_outputs=2)
special = np.array([1.0, np.inf, -np.inf, np.nan, -3.0], np.float32)
case("IsNaN", [special])
case("IsInf", [special])
case("IsInf", [special], {"detect_negative": 0})
case("IsInf", [special], {"detect_positive": 0})
for op in "Add Sub Mul Div Max Min Sum Mean PRelu".split():
    case(op, [f(*D), f(3, 1) if op == "PRelu" else f(4, 1, 3, 1)])
for op in "Add Sub Mul Max Min".split():
    case(op, [ints(*D), ints(5)])
    case(op, [f(*D, dtype=np.float16), f(1, dtype=np.float16)])
case("Div", [ints(*D, low=-50, high=50), ints(5, low=1, high=7) * np.array([1, -1, 1, -1, 1])])
case("Div", [ints(*D, low=-50, high=50, dtype=np.int32), ints(5, low=1, high=7, dtype=np.int32)])
for op in "Max Min Sum Mean".split():
    case(op, [f(*D)])
    case(op, [f(*D), f(5), f(3, 1)])
for op in "Equal Less LessOrEqual Greater GreaterOrEqual".split():
    case(op, [ints(*D, low=-2, high=2), ints(3, 1, low=-2, high=2)])
    case(op, [f(*D), f(2, 1, 1)])
case("Equal", [ints(*D) > 0, ints(5) > 0])
for op in "And Or Xor".split():
    case(op, [ints(*D) > 0, ints(3, 1) > 0])
case("Not", [ints(*D) > 0])
for op in "BitwiseAnd BitwiseOr BitwiseXor".split():
    case(op, [ints(*D, dtype=np.int32), ints(5, dtype=np.int32)])
case("BitwiseNot", [ints(*D, dtype=np.int32)])
for direction in ("LEFT", "RIGHT"):
    case("BitShift", [ints(*D, low=1, high=99, dtype=np.uint32), ints(5, low=0, high=8, dtype=np.uint32)], {"direction": direction})
case("Mod", [ints(*D), ints(5, low=1, high=5) * np.array([1, -1, 1, -1, 1])])
case("Mod", [ints(*D), ints(5, low=1, high=5) * np.array([1, -1, 1, -1, 1])], {"fmod": 1})
case("Mod", [f(*D), f(5, low=0.3, high=1)], {"fmod": 1})
for exponent in (np.float32(2), np.float32(0.5), np.float32(-1), np.float32(3), np.float32(-0.5), np.array([1.7], np.float32), np.int64(2), f(5), f(1, 1, 1, 1)):
    case("Pow", [f(*D, low=0.2, high=3), exponent])
case("Pow", [ints(*D), np.int64(3)])
case("Pow", [ints(*D, low=1, high=5), np.float32(2)])
case("Pow", [f(*D), np.float32(2)])
case("Clip", [f(*D), np.float32(-0.5), np.float32(0.7)])
case("Clip", [f(*D), None, np.float32(0.7)])
case("Clip", [f(*D), np.float32(0.1)])
case("Clip", [f(*D)])
case("Clip", [ints(*D), np.int64(-3), np.int64(4)])
case("Where", [ints(3, 1) > 0, f(*D), f(5)])
case("Where", [ints(2, 3, 1) > 0, ints(5), ints(2, 1, 1)])
for to, number in (("f32", 1), ("f16", 10), ("i64", 7), ("i32", 6), ("bool", 9), ("u8", 2), ("f64", 11)):
    x = ints(*D, low=0, high=3) if to == "u8" else ints(*D, low=-3, high=3)
    for source in (x, x.astype(np.float32) * np.float32(1.25), x > 0, x.astype(np.int32)):
        case("Cast", [np.abs(source) if to == "u8" and source.dtype != bool else source], {"to": number}, rust_attrs={"to": {"d": to}})
case("CastLike", [f(*D), ints(1)])
case("HardSwish", [f(7, low=-5, high=5)])

case("MatMul", [f(3, 7), f(7, 5)])
case("MatMul", [f(2, 1, 3, 7), f(4, 7, 5)])
case("MatMul", [f(2, 3, 7), f(7, 5)])
case("MatMul", [f(7), f(7, 5)])
case("MatMul", [f(3, 7), f(7)])
case("MatMul", [f(7), f(7)])
case("MatMul", [f(2, 3, 7), f(7)])
case("MatMul", [f(7), f(2, 7, 3)])
case("MatMul", [f(1, 33), f(33, 300)])
case("MatMul", [f(130, 9), f(9, 40)])
case("MatMul", [f(3, 7, dtype=np.float16), f(7, 5, dtype=np.float16)])
for a in (0, 1):
    for b in (0, 1):
        case("Gemm", [f(*((7, 3) if a else (3, 7))), f(*((5, 7) if b else (7, 5))), f(5)], {"transA": a, "transB": b, "alpha": 0.5, "beta": 2.0})
case("Gemm", [f(3, 7), f(7, 5)])
case("Gemm", [f(3, 7), f(7, 5), f(3, 1)])
case("Gemm", [f(3, 7), f(7, 5), f(3, 5)], {"beta": 0.0})

case("Conv", [f(2, 3, 9, 7), f(5, 3, 3, 3)])
case("Conv", [f(2, 3, 9, 7), f(5, 3, 3, 3), f(5)], {"pads": [1, 1, 1, 1], "strides": [2, 2]})
case("Conv", [f(1, 3, 9, 7), f(4, 3, 3, 2), f(4)], {"pads": [1, 0, 2, 1], "dilations": [2, 1], "kernel_shape": [3, 2]})
case("Conv", [f(2, 6, 8, 7), f(6, 1, 3, 3), f(6)], {"pads": [1, 1, 1, 1], "group": 6})
case("Conv", [f(1, 6, 8, 7), f(12, 3, 3, 3)], {"group": 2, "strides": [1, 2]})
case("Conv", [f(1, 4, 5, 6), f(8, 4, 1, 1), f(8)])
case("Conv", [f(1, 4, 5, 6), f(8, 4, 1, 1)], {"strides": [2, 2]})
for pad in ("SAME_UPPER", "SAME_LOWER", "VALID"):
    case("Conv", [f(1, 2, 9, 8), f(4, 2, 3, 4)], {"auto_pad": pad, "strides": [2, 3]})
case("Conv", [f(2, 3, 17), f(5, 3, 4), f(5)], {"pads": [2, 1], "strides": [3], "dilations": [2]})
case("Conv", [f(2, 4, 11), f(4, 1, 3)], {"group": 4})
case("Conv", [f(1, 2, 40, 33), f(5, 2, 3, 3)], {"pads": [1, 1, 1, 1]})
case("Conv", [f(1, 2, 3, 3), f(4, 2, 3, 3)], {"pads": [4, 4, 4, 4]})
case("ConvTranspose", [f(2, 3, 5, 4), f(3, 2, 2, 2), f(2)], {"strides": [2, 2]})
case("ConvTranspose", [f(1, 3, 5, 4), f(3, 2, 3, 3), f(2)])
case("ConvTranspose", [f(1, 3, 5, 4), f(3, 2, 3, 3)], {"strides": [2, 3], "pads": [1, 0, 1, 2], "output_padding": [1, 1]})
case("ConvTranspose", [f(1, 3, 5, 4), f(3, 2, 3, 2)], {"strides": [2, 2], "dilations": [2, 1]})
case("ConvTranspose", [f(1, 3, 7), f(3, 2, 4), f(2)], {"strides": [3], "pads": [1, 1]})
case("ConvTranspose", [f(1, 2, 5, 4), f(2, 2, 1, 2)], {"strides": [2, 2], "pads": [0, 1, 0, 1]})

case("BatchNormalization", [f(2, 3, 4, 5), f(3), f(3), f(3), f(3, low=0.2, high=2)], {"epsilon": 1e-3})
case("BatchNormalization", [f(2, 3), f(3), f(3), f(3), f(3, low=0.2, high=2)])
case("LayerNormalization", [f(2, 3, 7), f(7), f(7)])
case("LayerNormalization", [f(2, 3, 7), f(3, 7)], {"axis": 1, "epsilon": 1e-3})
case("LayerNormalization", [f(2, 3, 7), f(7), f(7)], {"axis": -2})
case("RMSNormalization", [f(2, 3, 7), f(7)], {"epsilon": 1e-4})
case("InstanceNormalization", [f(2, 3, 4, 5), f(3), f(3)])
case("InstanceNormalization", [f(2, 3, 9), f(3), f(3)], {"epsilon": 1e-2})
case("GroupNormalization", [f(2, 6, 4, 5), f(6), f(6)], {"num_groups": 3})

case("GlobalAveragePool", [f(2, 3, 4, 5)])
case("GlobalMaxPool", [f(2, 3, 4, 5)])
case("GlobalAveragePool", [f(2, 3, 7)])
for op in ("MaxPool", "AveragePool"):
    case(op, [f(2, 3, 9, 8)], {"kernel_shape": [3, 2]})
    case(op, [f(1, 3, 9, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]})
    case(op, [f(1, 3, 9, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 0, 0, 1], "ceil_mode": 1})
    case(op, [f(1, 3, 10, 8)], {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1})
    case(op, [f(1, 3, 9, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"})
    case(op, [f(1, 3, 9, 8)], {"kernel_shape": [2, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"})
    case(op, [f(1, 3, 11)], {"kernel_shape": [3], "strides": [2], "pads": [1, 0]})
    case(op, [f(1, 2, 11, 9)], {"kernel_shape": [3, 2], "dilations": [2, 3]})
case("AveragePool", [f(1, 3, 9, 8)], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1], "count_include_pad": 1})

for op in "ReduceSum ReduceMean ReduceMax ReduceMin ReduceProd ReduceL1 ReduceL2 ReduceSumSquare ReduceLogSumExp ReduceLogSum".split():
    x = f(2, 3, 4, 5, low=0.3, high=2) if op in ("ReduceLogSum", "ReduceProd") else f(2, 3, 4, 5)
    case(op, [x, i64(1)])
    case(op, [x, i64(-1, 1)], {"keepdims": 0})
    case(op, [x])
    case(op, [x, i64(2, 3)], {"keepdims": 0})
for op in "ReduceSum ReduceMax ReduceMin ReduceProd".split():
    case(op, [ints(2, 3, 4), i64(1)])
case("ReduceMean", [ints(2, 3, 4, dtype=np.int32), i64(1)])
case("ReduceSum", [f(2, 3)], {"noop_with_empty_axes": 1})
for op in ("ArgMax", "ArgMin"):
    case(op, [f(2, 3, 5)], {"axis": 1})
    case(op, [ints(2, 3, 5, low=0, high=3)], {"axis": -1, "keepdims": 0, "select_last_index": 1})
    case(op, [ints(2, 3, 5, low=0, high=3)], {"axis": -1})
for axis in (0, 1, -1):
    case("Softmax", [f(3, 4, 5)], {"axis": axis})
    case("LogSoftmax", [f(3, 4, 5)], {"axis": axis})
case("Softmax", [f(3, 5, low=90, high=200)])
case("CumSum", [f(2, 3, 4), np.int64(1)])
case("CumSum", [f(2, 3, 4), np.int64(-1)], {"exclusive": 1, "reverse": 1})
case("CumSum", [ints(2, 3, 4), np.int64(0)], {"exclusive": 1})
case("CumSum", [ints(2, 3, 4, dtype=np.int32), np.int64(2)], {"reverse": 1})

for x in (f(4, 3, 5), ints(4, 3, 5), ints(4, 3, 5, dtype=np.int8), ints(4, 3, 5) > 0):
    case("Gather", [x, i64(0, -1, 2)], {"axis": 0})
    case("Gather", [x, i64(1, -3).reshape(2, 1)], {"axis": 1})
    case("Gather", [x, np.int64(3)], {"axis": -1})
    case("Transpose", [x])
    case("Transpose", [x], {"perm": [1, 0, 2]})
    case("Slice", [x, i64(1), i64(9)])
    case("Slice", [x, i64(-1, 0), i64(-9, 3), i64(0, 2), i64(-1, 2)])
    case("Slice", [x, i64(-3, 1), i64(2**62, -1), i64(2, 0)])
    case("Slice", [x, i64(4), i64(-(2**62)), i64(2), i64(-2)])
    case("Expand", [x[:, :, :1], i64(2, 1, 1, 6)])
    case("Tile", [x, i64(2, 1, 3)])
    case("Concat", [x, x[:, :2], x[:, :1]], {"axis": 1})
    case("Concat", [x, x[:2]], {"axis": -3})
    case("Concat", [x], {"axis": 0})
    case("Flatten", [x])
    case("Squeeze", [x[:, :1], i64(1)])
    case("Squeeze", [x[:, :1, :1]])
    case("Unsqueeze", [x, i64(-1, 1)])
    case("Reshape", [x, i64(0, -1)])
    case("Reshape", [x, i64(5, 12)])
    case("Identity", [x])
case("Transpose", [f(3, 1, 5)], {"perm": [1, 0, 2]})
case("Transpose", [f(2, 3, 4, 5)], {"perm": [0, 2, 1, 3]})
case("Transpose", [f(2, 3, 4, 5)], {"perm": [0, 2, 3, 1]})
case("Flatten", [f(2, 3, 4)], {"axis": 0})
case("Flatten", [f(2, 3, 4)], {"axis": -1})
case("Flatten", [f(2, 3, 4)], {"axis": 3})
case("Expand", [f(3, 1), i64(3, 4)])
case("Expand", [f(3, 4), i64(1, 1)])
case("Expand", [np.float32(1.5), i64(2, 3)])
case("Expand", [f(3, 4), i64(1, 3, 4)])
case("Split", [f(2, 7, 3), i64(2, 4, 1)], {"axis": 1}, n_outputs=3)
case("Split", [f(2, 7, 3)], {"axis": 1, "num_outputs": 3}, n_outputs=3)
case("Split", [ints(6, 3)], {"axis": 0, "num_outputs": 2}, n_outputs=2)
case("Pad", [f(2, 3, 4), i64(0, 1, 2, 1, 0, 3), np.float32(1.5)])
case("Pad", [f(2, 3, 4), i64(0, 1, 2, 1, 0, 3)])
case("Pad", [ints(2, 3), i64(1, 2, 0, 1), np.int64(7)])
case("Pad", [f(4, 5), i64(-1, 2, 0, -2)])
case("Pad", [f(2, 3, 4), i64(1, 2), np.float32(-1), i64(-1)])
for mode in ("reflect", "edge", "wrap"):
    case("Pad", [f(1, 4, 5), i64(0, 2, 1, 0, 1, 3)], {"mode": mode})
case("Resize", [f(1, 2, 3, 4), None, np.array([1, 1, 2, 2], np.float32)], {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"})
for coordinates in ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"):
    for mode in ("nearest", "linear"):
        attrs = {"mode": mode, "coordinate_transformation_mode": coordinates}
        case("Resize", [f(1, 2, 3, 4), None, np.array([1, 1, 2.0, 1.5], np.float32)], attrs)
        case("Resize", [f(1, 2, 5, 7), None, None, i64(1, 2, 3, 4)], attrs)
        case("Resize", [f(1, 2, 5, 7), None, None, i64(1, 2, 1, 11)], attrs)
for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
    case("Resize", [f(1, 1, 5, 6), None, np.array([1, 1, 1.7, 0.6], np.float32)], {"nearest_mode": nearest})
case("Resize", [f(2, 3, 4), None, np.array([1, 1, 2], np.float32)], {"mode": "linear"})
case("Resize", [f(1, 2, 5, 7), None, None, i64(3, 9)], {"mode": "linear", "axes": [2, 3]})
for op, dims in (("DepthToSpace", (2, 8, 2, 3)), ("SpaceToDepth", (2, 2, 4, 6))):
    case(op, [f(*dims)], {"blocksize": 2})
case("DepthToSpace", [f(2, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"})
case("Shape", [f(2, 3, 4)])
case("Shape", [f(2, 3, 4)], {"start": 1})
case("Shape", [f(2, 3, 4)], {"start": -2, "end": -1})
case("Size", [f(2, 3, 4)])
case("Range", [np.int64(2), np.int64(11), np.int64(3)])
case("Range", [np.int64(9), np.int64(-4), np.int64(-3)])
case("Range", [np.float32(0.5), np.float32(3), np.float32(0.5)])
case("ConstantOfShape", [i64(2, 3)])
case("ConstantOfShape", [i64(2, 3)], {"value": np.array([7], np.int64)})
case("Constant", [], {"value": f(2, 3)})
case("NonZero", [ints(3, 4, low=0, high=2)])
case("QuantizeLinear", [f(3, 4, 5), np.float32(0.02), np.uint8(99)])
case("QuantizeLinear", [f(3, 4, 5), f(4, low=0.005, high=0.03), np.array([1, -2, 3, 0], np.int8)], {"axis": 1})
case("QuantizeLinear", [f(3, 4, 5), np.float32(0.02)])
case("DequantizeLinear", [ints(3, 4, 5, low=-99, high=99, dtype=np.int8), f(4, low=0.005, high=0.03), np.array([1, -2, 3, 0], np.int8)], {"axis": -2})
case("DequantizeLinear", [ints(3, 4, 5, low=0, high=255, dtype=np.uint8), np.float32(0.02), np.uint8(7)])
case("DequantizeLinear", [ints(3, 7, low=-99, high=99, dtype=np.int8), f(3, 4, low=0.005, high=0.03)], {"axis": 1, "block_size": 2})
case("QuantizeLinear", [f(7, 3), f(2, 3, low=0.005, high=0.03), ints(2, 3, dtype=np.int8)], {"axis": 0, "block_size": 4})

q, k, v = f(2, 4, 3, 6), f(2, 4, 5, 6), f(2, 4, 5, 7)
mask, allowed = f(3, 5, low=-3, high=3), rng.integers(0, 2, (2, 1, 3, 5)).astype(bool)
allowed[1, 0, 1] = False  # no key at all
case("Attention", [q, k, v])
case("Attention", [q, k, v, mask], {"scale": 0.3, "softcap": 1.5})
case("Attention", [q, k, v, allowed])
case("Attention", [q, k, v, f(2, 4, 3, 5)], {"is_causal": 1})
case("Attention", [q, k, v], {"is_causal": 1})
case("Attention", [q, f(2, 2, 5, 6), f(2, 2, 5, 7), mask])
case("Attention", [f(2, 3, 24), f(2, 5, 12), f(2, 5, 14), mask], {"q_num_heads": 4, "kv_num_heads": 2})
case("Attention", [q, k, v, f(3, 9), f(2, 4, 4, 6), f(2, 4, 4, 7)], {"is_causal": 1}, n_outputs=3)
for mode in range(4):
    case("Attention", [q, k, v, mask, f(2, 4, 0, 6), f(2, 4, 0, 7)], {"softcap": 2.0, "qk_matmul_output_mode": mode}, n_outputs=4)
case("Attention", [a.astype(np.float16) for a in (q, k, v, mask)])
cos, sin = f(2, 3, 4), f(2, 3, 4)
case("RotaryEmbedding", [f(2, 5, 3, 8), cos, sin])
case("RotaryEmbedding", [f(2, 5, 3, 8), cos, sin], {"interleaved": 1})
case("RotaryEmbedding", [f(2, 3, 40), cos, sin], {"num_heads": 5})
case("RotaryEmbedding", [f(2, 3, 40), cos, sin], {"num_heads": 5, "interleaved": 1})
case("RotaryEmbedding", [f(2, 5, 3, 8), f(9, 3), f(9, 3), rng.integers(0, 9, (2, 3))], {"rotary_embedding_dim": 6, "num_heads": 5})
case("RotaryEmbedding", [f(2, 3, 40), f(9, 3), f(9, 3), rng.integers(0, 9, (2, 3))], {"rotary_embedding_dim": 6, "num_heads": 5, "interleaved": 1})

path = pathlib.Path(__file__).parent / "data" / "op_cases.json"
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
print(len(cases), "cases,", path.stat().st_size, "bytes, onnx", onnx.__version__, "onnxruntime", ort.__version__)
