"""Writes tests/data/nonfinite_cases.json: small models whose inputs hold NaN and infinities, with the results of ONNX Runtime.

    python tests/make_nonfinite_cases.py     # needs numpy, onnx, onnxruntime

Each case: {"name", "model", "inputs": [tensor], "outputs": [tensor]}. The model is an ONNX file in base64; a tensor is [dtype, dims, base64 of its bytes],
in the order of the model's inputs and outputs. No finite value is beyond f16's range, so that a program in f16 has the same results.
"""

import base64
import json
import pathlib

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

NAN, INF = np.float32(np.nan), np.float32(np.inf)
NAMES = {"float32": "f32", "float16": "f16", "int64": "i64", "int32": "i32", "bool": "bool"}
cases = []


def tensor(a):
    a = np.asarray(a, order="C")
    return [NAMES[str(a.dtype)], list(a.shape), base64.b64encode(a.tobytes()).decode()]


def a32(*values):
    return np.array(values, np.float32)


def i64(*values):
    return np.array(values, np.int64)


def node(op, inputs, outputs, **attrs):
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


def graph(name, nodes, inputs, constants=None, without_nan=None):
    """Adds a case of these nodes. `inputs` and `constants` are arrays by name.

    An extremum of ONNX Runtime keeps a NaN or drops it, depending on where it stands (ReduceMax: only the first element's, MaxPool: only the last's).
    nyxc keeps it. For these `without_nan` is an input that NaN does not change: results are NaN where a window has one, else those without it.
    """
    constants = constants or {}
    info = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
    outs = [helper.make_empty_tensor_value_info("y")]
    kept = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "case", info, outs, kept), opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results = session.run(None, inputs)
    if without_nan is not None:
        (x,) = inputs.values()
        others = session.run(None, {"x0": np.where(np.isnan(x), without_nan, x)})
        marked = session.run(None, {"x0": np.where(np.isnan(x), -np.sign(without_nan), np.float32(0))})
        results = [np.where(m != 0, NAN, y).astype(np.float32) for m, y in zip(marked, others)]
    for a in [*inputs.values(), *constants.values(), *results]:
        if a.dtype.kind == "f":
            finite = a[np.isfinite(a)]
            assert not finite.size or np.abs(finite).max() <= 65504, (name, finite)
    text = base64.b64encode(model.SerializeToString()).decode()
    cases.append({"name": name, "model": text, "inputs": [tensor(a) for a in inputs.values()], "outputs": [tensor(a) for a in results]})


def case(op, inputs, constants=None, without_nan=None, **attrs):
    """Adds a case of one node, whose operands are the inputs, then the constants."""
    names = {f"x{i}": np.asarray(a) for i, a in enumerate(inputs)}
    fixed = {f"c{i}": np.asarray(a) for i, a in enumerate(constants or [])}
    extra = "".join(f" {k}={v}" for k, v in attrs.items())
    shapes = ",".join("x".join(map(str, a.shape)) for a in [*names.values(), *fixed.values()])
    graph(f"{op}({shapes}){extra}", [node(op, " ".join([*names, *fixed]), "y", **attrs)], names, fixed, without_nan)


# One of each kind of value: an odd number, so that f16 stored in pairs ends in half a word.
X = a32(NAN, INF, -INF, 0.0, -0.0, 1.5, -2.5, 0.25, 3.0, -0.125, 2.0)
for op in (
    "Abs Neg Sign Floor Ceil Round Exp Log Sqrt Reciprocal Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Erf Sigmoid Softplus Relu Softsign "
    "HardSwish Mish Elu Selu Celu HardSigmoid LeakyRelu ThresholdedRelu Identity Gelu IsNaN IsInf"
).split():
    case(op, [X])
case("Gelu", [X], approximate="tanh")
case("Shrink", [X], lambd=0.6, bias=0.25)
case("Clip", [X], [np.float32(-1), np.float32(2)])
# Without an upper bound ONNX Runtime makes infinity the largest f32; nyxc leaves it, so there is no case of that.
case("Clip", [X[np.isfinite(X) | np.isnan(X)]], [np.float32(-1)])
case("Clip", [X], [np.float32(-np.inf), np.float32(np.inf)])
LEFT, RIGHT = (a.reshape(-1).copy() for a in np.meshgrid(X, X, indexing="ij"))
for op in "Add Sub Mul Div Max Min Equal Less LessOrEqual Greater GreaterOrEqual PRelu".split():
    case(op, [LEFT, RIGHT])
case("Mod", [LEFT, RIGHT], fmod=1)
case("Pow", [LEFT, RIGHT])
for exponent in (2.0, 3.0, 0.5, -0.5, -1.0, 0.0, 1.7):
    case("Pow", [X], [np.float32(exponent)])
for op in "Max Min Sum Mean".split():
    case(op, [X, X[::-1].copy(), np.full(11, 0.5, np.float32)])
case("Where", [X > 0, X, X[::-1].copy()])
case("Where", [np.isnan(X), np.zeros(11, np.float32), X])

# Comparisons that choose between what they compare: compilers make max and min of some, in which NaN is lost, and take it that x equals x.
for op in "Less LessOrEqual Greater GreaterOrEqual".split():
    graph(f"{op}, Where", [node(op, "x0 x1", "c"), node("Where", "c x0 x1", "y")], {"x0": LEFT, "x1": RIGHT})
    graph(f"{op} than 0, Where", [node(op, "x0 k", "c"), node("Where", "c x0 k", "y")], {"x0": X}, {"k": np.float32(0)})
graph("Equal to itself, Where", [node("Equal", "x0 x0", "c"), node("Where", "c x0 k", "y")], {"x0": X}, {"k": np.float32(7)})

# Rows: all finite, one NaN, infinities of one sign, of both, nothing but minus infinity, NaN last, NaN first.
ROWS = np.stack(
    [
        a32(1, -2, 3, 0.5, -0.25),
        a32(1, NAN, 3, 0.5, 2),
        a32(1, INF, 3, INF, 2),
        a32(1, -INF, 3, 0.5, 2),
        a32(INF, -INF, 3, 0.5, 2),
        a32(-INF, -INF, -INF, -INF, -INF),
        a32(1, 2, 3, 0.5, NAN),
        a32(NAN, INF, -INF, 0.5, 2),
    ]
)
# The same values far apart: a kernel that gives a row to many lanes joins them in another order.
WIDE = np.zeros((8, 141), np.float32)
WIDE[:, [0, 7, 128, 135, 140]] = ROWS
WIDE[5] = -INF
for rows in (ROWS, WIDE):
    for op in "ReduceMax ReduceMin ReduceSum ReduceMean ReduceProd ReduceL1 ReduceL2 ReduceSumSquare".split()[: 8 if rows is ROWS else 4]:
        neutral = {"ReduceMax": -INF, "ReduceMin": INF}.get(op)
        case(op, [rows], [i64(1)], neutral)
        case(op, [np.ascontiguousarray(rows.T)], [i64(0)], neutral, keepdims=0)
    for op in ("Softmax", "LogSoftmax"):
        case(op, [rows], axis=1)
        case(op, [np.ascontiguousarray(rows.T)], axis=0)
    weights = np.linspace(-1, 1, rows.shape[1], dtype=np.float32)
    case("LayerNormalization", [rows], [weights, weights[::-1].copy()], axis=-1)
    for op in ("ArgMax", "ArgMin"):
        # What ONNX Runtime says of a NaN depends on its build, so these rows have none.
        case(op, [rows[[0, 2, 3, 4]]], axis=1)
case("CumSum", [ROWS], [np.int64(1)])

IMAGE = (np.arange(2 * 7 * 7, dtype=np.float32).reshape(1, 2, 7, 7) % 9 - 4) / 4
IMAGE[0, 0, 1, 1], IMAGE[0, 0, 5, 4], IMAGE[0, 1, 3, 3], IMAGE[0, 1, 6, 6] = NAN, INF, -INF, NAN
for op in ("MaxPool", "AveragePool"):
    neutral = -INF if op == "MaxPool" else None
    case(op, [IMAGE], [], neutral, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    case(op, [IMAGE], [], neutral, kernel_shape=[2, 3])
for op in ("GlobalMaxPool", "GlobalAveragePool"):
    case(op, [IMAGE], [], -INF if op == "GlobalMaxPool" else None)
KERNEL = (np.arange(3 * 2 * 3 * 3, dtype=np.float32).reshape(3, 2, 3, 3) % 5 - 2) / 3
case("Conv", [IMAGE], [KERNEL, a32(0.5, -0.5, 1)], pads=[1, 1, 1, 1])
case("Conv", [IMAGE], [KERNEL[:2, :1].copy()], group=2)
case("ConvTranspose", [IMAGE], [KERNEL.transpose(1, 0, 2, 3).copy()], strides=[2, 2])
case("BatchNormalization", [IMAGE], [a32(1, 2), a32(0, 1), a32(0.5, -0.5), a32(1, 4)])
case("InstanceNormalization", [IMAGE], [a32(1, 2), a32(0, 1)])
for mode in ("nearest", "linear"):
    graph(f"Resize {mode}", [helper.make_node("Resize", ["x", "", "s"], ["y"], mode=mode)], {"x": IMAGE}, {"s": a32(1, 1, 2, 2)})
case("Pad", [IMAGE], [i64(0, 0, 1, 1, 0, 0, 1, 1), NAN])

A = np.array(np.resize(a32(1, -0.5, 0.25, 2, -1, 0.75, 1.5), (5, 37)))
B = np.array(np.resize(a32(0.5, 1, -2, 0.125, 0, -0.25), (37, 9)))
A[1, 4], A[2, 30], A[3, 0], A[3, 9], B[35, 7] = NAN, INF, -INF, INF, NAN
FINITE = np.where(np.isfinite(B), B, np.float32(0.5)).astype(np.float32)
FINITE[FINITE == 0] = 0.75
for n in (1, 5):
    case("MatMul", [A[:n], B])
    case("MatMul", [A[:n]], [FINITE])
    case("MatMul", [A[-n:]], [FINITE])
case("MatMul", [np.nan_to_num(A, nan=0.5, posinf=1, neginf=-1)], [B])
case("Gemm", [A, FINITE], [np.resize(a32(0.5, INF, NAN), 9)], alpha=0.5)

for op, constants, attrs in (
    ("Gather", [i64(0, 3, -1)], {"axis": 1}),
    ("Transpose", [], {"perm": [1, 0]}),
    ("Slice", [i64(1), i64(5), i64(1)], {}),
    ("Expand", [i64(2, 8, 5)], {}),
    ("Tile", [i64(1, 2)], {}),
    ("Reshape", [i64(5, -1)], {}),
    ("Flatten", [], {}),
    ("Unsqueeze", [i64(1)], {}),
):
    case(op, [ROWS], constants, **attrs)
case("Concat", [ROWS, ROWS[:, :2].copy()], axis=1)

HALF = X.astype(np.float16)
case("Cast", [X], to=TensorProto.FLOAT16)
case("Cast", [HALF], to=TensorProto.FLOAT)
case("Cast", [X], to=TensorProto.BOOL)
graph("Cast there and back", [node("Cast", "x", "h", to=TensorProto.FLOAT16), node("Cast", "h", "y", to=TensorProto.FLOAT)], {"x": X})
graph("Relu and Add in f16", [node("Relu", "x", "r"), node("Add", "r x", "y")], {"x": HALF})

# What fusion makes one kernel of.
graph("MatMul, Add, Relu", [node("MatMul", "a b", "m"), node("Add", "m c", "s"), node("Relu", "s", "y")], {"a": A}, {"b": FINITE, "c": np.resize(a32(0.5, -1), 9)})
graph("MatMul, Add, Clip", [node("MatMul", "a b", "m"), node("Add", "m c", "s"), node("Clip", "s low high", "y")], {"a": A}, {"b": FINITE, "c": np.resize(a32(0.5, -1), 9), "low": np.float32(0), "high": np.float32(6)})
graph("Conv, Sigmoid, Mul", [node("Conv", "x w", "c", pads=[1, 1, 1, 1]), node("Sigmoid", "c", "s"), node("Mul", "c s", "y")], {"x": IMAGE}, {"w": KERNEL})
graph("Exp, Div by its sum", [node("Exp", "x", "e"), node("ReduceSum", "e axes", "s"), node("Div", "e s", "y")], {"x": ROWS}, {"axes": i64(1)})
graph("masked Softmax", [node("Where", "m x low", "w"), node("Softmax", "w", "y", axis=1)], {"m": np.isfinite(ROWS) & (ROWS > 0), "x": ROWS}, {"low": np.float32(-np.inf)})
graph("Sub from itself", [node("Sub", "x x", "y")], {"x": X})
graph("Mul by zero", [node("Mul", "x z", "y")], {"x": X}, {"z": np.float32(0)})
graph("Div by zero", [node("Div", "x z", "y")], {"x": X}, {"z": np.float32(0)})
graph("Div by minus zero", [node("Div", "x z", "y")], {"x": X}, {"z": np.float32(-0.0)})
graph("zero by", [node("Div", "z x", "y")], {"x": X}, {"z": np.float32(0)})
graph("Add of zero", [node("Add", "x z", "y")], {"x": X}, {"z": np.float32(0)})
graph("Add of infinity", [node("Add", "x z", "y")], {"x": X}, {"z": -INF})
graph("Max of NaN", [node("Max", "x z", "y")], {"x": X}, {"z": NAN})
graph("Div of itself", [node("Div", "x x", "y")], {"x": X})
graph("constants alone", [node("Div", "c z", "d"), node("Add", "d x", "y")], {"x": X}, {"c": X[::-1].copy(), "z": np.float32(0)})

path = pathlib.Path(__file__).parent / "data" / "nonfinite_cases.json"
path.write_text("[\n" + ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases) + "\n]\n")
print(len(cases), "cases,", path.stat().st_size, "bytes, onnx", onnx.__version__, "onnxruntime", ort.__version__)
