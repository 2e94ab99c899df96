"""Writes tests/data/model_cases.json: small models of forms that exporters write and runtimes have got wrong, each with results for several inputs.

    python tests/make_model_cases.py     # needs numpy, ml_dtypes, onnx >= 1.23.2 and onnxruntime

A case is {name, model, dims, runs, bound} in the form of tests/make_small_onnx.py; `dims` are arguments of --dim. Results are ONNX Runtime's where
nothing else is said, else the standard's reference implementation's, in places where that agrees with the standard's text.
"""

import base64
import json
import pathlib

import ml_dtypes
import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper, parser
from onnx.reference import ReferenceEvaluator

rng = np.random.default_rng(20261130)
NAMES = {"float32": "f32", "int64": "i64", "int32": "i32", "bool": "bool", "int8": "i8", "uint8": "u8"}
cases = []


def tensor(a):
    a = np.asarray(a)
    return [NAMES[str(a.dtype)], list(a.shape), base64.b64encode(np.asarray(a, order="C").tobytes()).decode()]


def f(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def by_onnxruntime(model, feed):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)


def by_reference(model, feed):
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, feed)


def case(name, model, feeds, dims=(), run=by_onnxruntime, bound=1e-6):
    order = [i.name for i in model.graph.input]
    runs = [{"inputs": [tensor(feed[n]) for n in order], "outputs": [tensor(o) for o in run(model, feed)]} for feed in feeds]
    cases.append({"name": name, "model": base64.b64encode(model.SerializeToString()).decode(), "dims": list(dims), "runs": runs, "bound": bound})


def text(body, opset=21, **initializers):
    model = parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}, "loc" : 1]>\n{body}')
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in initializers.items())
    return model


# Model-local functions: nested, attributes by reference and by default, opsets of their own, bodies inside.
case("functions within functions, attributes by reference", text("""g (float[2,3] x) => (float[2,3] y) {
  t = loc.outer <a: float = 0.25, k: int = 1> (x)
  y = loc.outer <k: int = 0> (t)
}
<domain: "loc", opset_import: ["" : 21, "loc" : 1]> outer <k, a: float = 0.75> (x) => (y) {
  t = loc.inner <al: float = @a, ax: int = @k> (x)
  y = Add (t, x)
}
<domain: "loc", opset_import: ["" : 13]> inner <al, ax> (x) => (y) {
  t = LeakyRelu <alpha: float = @al> (x)
  s = Softmax <axis: int = @ax> (t)
  c = Constant <value_float: float = @al> ()
  y = Mul (s, c)
}"""), [{"x": f(2, 3)}])
case("a function with a body", text("""g (float[3] x, bool c) => (float[3] y) {
  t = loc.choose <a: float = 0.5> (x, c)
  y = loc.choose <a: float = 2.0> (t, c)
}
<domain: "loc", opset_import: ["" : 21]> choose <a> (v, on) => (w) {
  w = If (on) <
    then_branch = t () => (float[3] r) { k = Constant <value_float: float = @a> () r = Mul (v, k) },
    else_branch = e () => (float[3] s) { s = Neg (v) }
  >
}"""), [{"x": f(3), "c": np.array(c)} for c in (True, False)])

# Parts whose sizes follow from those of other inputs.
ONE = {"a0": [0], "a1": [1], "i1": 1, "big": [2**63 - 1], "small": [-(2**63)], "m1": [-1]}
SIZES = "psh = Shape (pk) pn = Gather (psh, i1) p = Unsqueeze (pn, a0) xsh = Shape (x) sn = Gather (xsh, i1) s = Unsqueeze (sn, a0)\n"
AT = [(2, 5), (1, 0), (6, 9), (3, 0)]
for name, body in {
    "pos[:, past:]": "part = Slice (pos, p, big, a1) y = Add (part, x)",
    "pos[:, -s:]": "n = Neg (s) part = Slice (pos, n, big, a1) y = Add (part, x)",
    "pos[:, p:p+s]": "e = Add (p, s) part = Slice (pos, p, e, a1) y = Add (part, x)",
    "pos[:, :s]": "part = Slice (pos, a0, s, a1) y = Add (part, x)",
    "pos[1:, past:] along two axes": "st = Concat <axis = 0> (a1, p) en = Concat <axis = 0> (big, big) ax = Concat <axis = 0> (a0, a1) "
                                     "part = Slice (pos, st, en, ax) y = Add (part, x)",
    "pos[:, ::-1]": "st = Neg (a1) part = Slice (pos, m1, small, a1, st) y = Add (part, pos)",
    "pos[:, :past-1:-1], what is new from its end": "st = Neg (a1) part = Slice (pos, m1, small, a1, st) y = Slice (part, a0, s, a1)",
    "pos[:, past-1:], a start that is negative at one size": "st = Sub (p, a1) y = Slice (pos, st, big, a1)",
    "pos[:, -1:] and pos[:, :-1]": "l = Slice (pos, m1, big, a1) r = Slice (pos, a0, m1, a1) y = Concat <axis = 1> (l, r)",
    "pos[:, past::2]": "two = Add (a1, a1) y = Slice (pos, p, big, a1, two)",
}.items():
    model = text("g (float[2,t] pos, float[2,s] x, float[2,p] pk) => (float[] y) {" + SIZES + body + "}", **ONE)
    case(name, model, [{"pos": f(2, s + p), "x": f(2, s), "pk": f(2, p)} for s, p in AT], ["s=1..6", "p=0..9", "t=p+s"])
TABLE = "xsh = Shape (x) tn = Gather (xsh, i1) t = Unsqueeze (tn, a0)\n"
for name, body in {
    "table[:T]": "r = Slice (table, a0, t, a0) y = Add (x, r)",
    "table[:min(T, 48)]": "k = Constant <value_ints = [48]> () n = Min (t, k) r = Slice (table, a0, n, a0) y = Add (x, r)",
    "table[-T:]": "n = Neg (t) r = Slice (table, n, big, a0) y = Add (x, r)",
    "table[24-T:24+T-1], as relative positions": "k = Constant <value_ints = [24]> () h = Min (t, k) lo = Sub (k, h) hi = Add (k, h) "
                                                 "e = Sub (hi, a1) y = Slice (table, lo, e, a0)",
}.items():
    model = text("g (float[B,T,4] x) => (float[] y) {" + TABLE + body + "}", table=f(48, 4), **ONE)
    case(name, model, [{"x": f(b, t, 4)} for b, t in ((1, 1), (2, 17), (1, 48))], ["B=1..2", "T=1..48"])

# Blocks of an axis, the last one short, before operators that read it.
CODES = {"INT8": (-128, 128), "UINT8": (0, 256), "INT4": (-8, 8), "UINT4": (0, 16)}
for codes, shape, axis, block, zero, use in [
    ("INT8", (6, 5, 3, 3), 1, 3, False, ["Conv", dict(pads=[1, 1, 1, 1]), ("x", "W"), (1, 5, 6, 6)]),
    ("UINT4", (6, 5, 3, 3), 0, 4, True, ["Conv", {}, ("x", "W"), (1, 5, 6, 6)]),
    ("INT4", (6, 1, 3, 3), 2, 2, False, ["Conv", dict(group=6), ("x", "W"), (1, 6, 5, 5)]),
    ("UINT8", (5, 6, 3, 3), 1, 4, True, ["ConvTranspose", {}, ("x", "W"), (1, 5, 4, 4)]),
    ("INT4", (37, 10), 0, 16, False, ["MatMul", {}, ("x", "W"), (3, 37)]),
    ("UINT8", (37, 10), 0, 7, True, ["MatMul", {}, ("x", "W"), (3, 37)]),
    ("INT8", (10, 37), 1, 64, False, ["Gemm", dict(transB=1), ("x", "W"), (3, 37)]),
    ("UINT4", (37, 10), 1, 3, True, ["Gemm", {}, ("x", "W"), (3, 37)]),
    ("INT8", (37, 10), 1, 4, True, ["Gather", {}, ("W", "i"), (2, 3)]),
    ("INT4", (37, 10), 0, 5, False, ["Gather", {}, ("W", "i"), (2, 3)]),
    ("UINT8", (37, 10), 0, 5, True, ["Add", {}, ("x", "W"), (37, 10)]),
    ("FLOAT8E4M3FN", (37, 10), 0, 16, False, ["MatMul", {}, ("x", "W"), (3, 37)]),
]:
    op, attrs, inputs, x = use
    blocks = list(shape)
    blocks[axis] = -(-shape[axis] // block)
    scale = (rng.random(blocks) * 0.04 + 0.001).astype(np.float32)
    spread = lambda a: np.take(np.repeat(a, block, axis), range(shape[axis]), axis)  # noqa: E731
    if codes in CODES:
        values = rng.integers(*CODES[codes], shape)
        zeros = rng.integers(*CODES[codes], blocks) if zero else np.zeros(blocks, np.int64)
    else:
        values, zeros = f(*shape).astype(ml_dtypes.float8_e4m3fn).astype(np.float32), np.zeros(blocks)
    weights = ((values - spread(zeros)).astype(np.float32) * spread(scale)).astype(np.float32)
    dtype = getattr(TensorProto, codes)
    made = [helper.make_tensor("w", dtype, shape, values.flatten().tolist()), numpy_helper.from_array(scale, "s")]
    if zero:
        made.append(helper.make_tensor("z", dtype, blocks, zeros.flatten().tolist()))
    given = TensorProto.INT64 if "i" in inputs else TensorProto.FLOAT
    ports = [helper.make_tensor_value_info(i, given, x) for i in inputs if i != "W"], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    node = helper.make_node(op, inputs, ["y"], **attrs)
    read = helper.make_node("DequantizeLinear", ["w", "s"] + ["z"] * zero, ["W"], axis=axis, block_size=block)
    opsets = [helper.make_opsetid("", 21)]
    blocked = helper.make_model(helper.make_graph([read, node], "g", *ports, made), opset_imports=opsets, ir_version=10)
    plain = helper.make_model(helper.make_graph([node], "g", *ports, [numpy_helper.from_array(weights, "W")]), opset_imports=opsets, ir_version=10)
    feed = {"i": rng.integers(0, shape[0], x)} if "i" in inputs else {"x": f(*x)}
    case(f"{codes} of {list(shape)} by blocks of {block} along axis {axis}, {op}", blocked, [feed], run=lambda _, feed, plain=plain: by_onnxruntime(plain, feed))

# Attention: rows without a key are zero, the soft cap comes before the mask.
for name, opset, operands, outputs, attrs in [
    ("rows without a key, with a soft cap", 24, {"m": (3, 5)}, 1, dict(softcap=2.0)),
    ("rows without a key by a mask of each head", 23, {"m": (1, 2, 3, 5)}, 1, {}),
    ("a mask that ends before the keys", 24, {"m": (3, 4)}, 1, dict(is_causal=1)),
    ("valid keys of each batch, causal", 24, {"n": None}, 1, dict(is_causal=1, softcap=0.5)),
    ("a cache, causal, scores with the bias", 23, {"m": (3, 7), "past": 2}, 4, dict(is_causal=1, softcap=2.0, qk_matmul_output_mode=2)),
    ("probabilities of rows without a key", 24, {"m": (3, 5)}, 4, dict(qk_matmul_output_mode=3)),
    ("scores after the soft cap", 24, {"m": (3, 5)}, 4, dict(softcap=0.5, qk_matmul_output_mode=1)),
    ("a scale of 0", 24, {"m": (3, 5)}, 1, dict(scale=0.0)),
    ("a window to both sides", 25, {"m": (3, 5)}, 1, dict(left_window_size=1, right_window_size=0, softmax_precision=1)),
]:
    batch = 2 if "n" in operands or operands.get("m", ())[:1] != (3,) else 1
    feed = {"q": f(batch, 2, 3, 8), "k": f(batch, 2, 5, 8), "v": f(batch, 2, 5, 8)}
    names = ["q", "k", "v", "", "", "", ""]
    if "m" in operands:
        mask = rng.random(operands["m"]) < 0.6
        mask[..., 0, :] = False
        feed["m"], names[3] = mask, "m"
    if "past" in operands:
        feed["pk"], feed["pv"] = f(batch, 2, operands["past"], 8), f(batch, 2, operands["past"], 8)
        names[4:6] = "pk", "pv"
    if "n" in operands:
        feed["n"], names[6] = np.array([0, 4]), "n"
    while not names[-1]:
        names.pop()
    results = ["y", "prk", "prv", "qk"][:outputs]
    ports = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in feed.items()]
    graph = helper.make_graph([helper.make_node("Attention", names, results, **attrs)], "g", ports,
                              [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in results])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=11)
    case("attention: " + name, model, [feed], run=by_reference, bound=2e-6)

# Pools that say where their maxima stand, and the way back, also to sizes that the windows do not fill.
for name, shape, attrs, back in [
    ("rows and columns that are odd", (1, 2, 5, 7), dict(kernel_shape=[2, 2], strides=[2, 2]), "shape"),
    ("pads", (2, 1, 6, 5), dict(kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]), "shape"),
    ("one axis", (2, 3, 7), dict(kernel_shape=[3], strides=[3]), "shape"),
    ("three axes", (1, 2, 5, 4, 7), dict(kernel_shape=[2, 2, 2], strides=[2, 2, 2]), "shape"),
    ("the smallest shape", (1, 2, 6, 4), dict(kernel_shape=[2, 2], strides=[2, 2]), None),
    ("windows that overlap", (1, 1, 7, 7), dict(kernel_shape=[3, 3], strides=[2, 2]), "shape"),
    ("a last window that is not full", (1, 2, 7, 6), dict(kernel_shape=[3, 2], strides=[2, 2], ceil_mode=1), ""),
    ("dilations, column by column", (1, 2, 8, 7), dict(kernel_shape=[2, 3], dilations=[2, 2], storage_order=1), ""),
    ("SAME_LOWER", (1, 2, 5, 7), dict(kernel_shape=[2, 3], strides=[2, 2], auto_pad="SAME_LOWER"), ""),
    ("SAME_UPPER", (1, 2, 5, 7), dict(kernel_shape=[2, 2], strides=[2, 3], auto_pad="SAME_UPPER"), ""),
]:
    nodes = [helper.make_node("MaxPool", ["x"], ["y", "i"], **attrs)]
    outputs = [("y", TensorProto.FLOAT), ("i", TensorProto.INT64)]
    if back != "":
        window = {k: v for k, v in attrs.items() if k in ("kernel_shape", "strides", "pads")}
        nodes.append(helper.make_node("MaxUnpool", ["y", "i"] + ["shape"] * (back == "shape"), ["z"], **window))
        outputs.append(("z", TensorProto.FLOAT))
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
                              [helper.make_tensor_value_info(n, t, None) for n, t in outputs],
                              [helper.make_tensor("shape", TensorProto.INT64, [len(shape)], shape)])
    case("pool and back: " + name, helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), [{"x": f(*shape)}])

lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
path = pathlib.Path(__file__).parent / "data/model_cases.json"
path.write_text(f"[\n{lines}\n]\n")
print(f"{len(cases)} cases, {path.stat().st_size} bytes")
