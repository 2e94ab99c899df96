"""Writes tests/data/small_onnx.json: small models with the results of ONNX Runtime: quantized by its own tools, or with control flow and sequences.

    python tests/make_small_onnx.py     # needs numpy, onnx, onnxruntime and its quantizer's own needs (onnx_ir, sympy)

A case is {name, model, runs, bound, f32_weights, bits, scales}: the model in base64, inputs and outputs as make_op_cases.py puts them, the largest
relative L2, and for quantized ones how many bytes the weights had in f32, the bits of a code, and how many bytes scales and zero points have at most:
4 each.
"""

import base64
import json
import logging
import pathlib
import tempfile

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, load, numpy_helper, parser, save
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

logging.disable(logging.WARNING)
rng = np.random.default_rng(20261124)
NAMES = {"float32": "f32", "int64": "i64", "int32": "i32", "bool": "bool"}
cases = []


def tensor(a):
    a = np.asarray(a)
    return [NAMES[str(a.dtype)], list(a.shape), base64.b64encode(np.asarray(a, order="C").tobytes()).decode()]


def f(*shape):
    return rng.standard_normal(shape).astype(np.float32)


def case(name, model, feeds, bound=1e-6, f32_weights=None, bits=8, scales=0):
    """The model's results for each of `feeds`, as its graph has them: none of the optimizer's rounding."""
    data = model.SerializeToString()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    order = [i.name for i in session.get_inputs()]
    runs = []
    for feed in feeds:
        outputs = []
        # A sequence is its elements one after the other.
        for value in session.run(None, feed):
            outputs += value if isinstance(value, list) else [value]
        runs.append({"inputs": [tensor(feed[n]) for n in order], "outputs": [tensor(o) for o in outputs]})
    cases.append({"name": name, "model": base64.b64encode(data).decode(), "runs": runs, "bound": bound,
                  "f32_weights": f32_weights, "bits": bits, "scales": scales})


class Reader(CalibrationDataReader):
    def __init__(self):
        self.rest = iter([{"x": f(1, 8, 10, 10)} for _ in range(4)])

    def get_next(self):
        return next(self.rest, None)


# Convolutions of one group and of as many as channels, Gemm and MatMul.
weights = {"w0": f(16, 8, 3, 3) * 0.1, "b0": f(16), "w1": f(16, 1, 3, 3) * 0.3, "w2": f(256, 40) * 0.1, "b2": f(40), "w3": f(40, 24) * 0.2}
plain = parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
net (float[1,8,10,10] x) => (float[1,24] y) {
  c0 = Conv <kernel_shape = [3,3]> (x, w0, b0)
  r0 = Relu (c0)
  c1 = Conv <kernel_shape = [3,3], group = 16, strides = [2,2], pads = [1,1,1,1]> (r0, w1)
  flat = Flatten (c1)
  g = Gemm (flat, w2, b2)
  r1 = Relu (g)
  y = MatMul (r1, w3)
}""")
plain.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
n_bytes = sum(a.nbytes for n, a in weights.items() if n[0] == "w")

with tempfile.TemporaryDirectory() as folder:
    source, target = f"{folder}/a.onnx", f"{folder}/b.onnx"
    save(plain, source)
    for name, form, kind, symmetric, per_channel in (
        ("qdq, int8 per channel", QuantFormat.QDQ, QuantType.QInt8, True, True),
        ("qdq, uint8 per tensor with zero points", QuantFormat.QDQ, QuantType.QUInt8, False, False),
        ("operators on codes", QuantFormat.QOperator, QuantType.QInt8, True, True),
    ):
        quantize_static(source, target, Reader(), quant_format=form, per_channel=per_channel, weight_type=kind, activation_type=QuantType.QUInt8,
                        extra_options={"WeightSymmetric": symmetric})
        # Results are codes times a scale: one code may round the other way.
        case(name, load(target), [{"x": f(1, 8, 10, 10)}], 1e-2, n_bytes, scales=(16 + 16 + 40 + 24) * (4 if symmetric else 8))

matmuls = {"w0": f(96, 80) * 0.1, "w1": f(80, 64) * 0.1}
net = parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
net (float[3,96] x) => (float[3,64] y) { m = MatMul (x, w0) r = Relu (m) y = MatMul (r, w1) }""")
for i, node in enumerate(net.graph.node):
    node.name = f"n{i}"
net.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in matmuls.items())
for bits, symmetric, block in ((4, True, 32), (4, False, 16), (8, True, 64), (8, False, 128)):
    copy = type(net).FromString(net.SerializeToString())
    quantizer = MatMulNBitsQuantizer(copy, block_size=block, is_symmetric=symmetric, bits=bits)
    quantizer.process()
    case(f"MatMulNBits, {bits} bits, blocks of {block}, {'symmetric' if symmetric else 'zero points'}", quantizer.model.model, [{"x": f(3, 96)}],
         f32_weights=sum(a.nbytes for a in matmuls.values()), bits=bits,
         scales=sum(a.shape[1] * -(-a.shape[0] // block) for a in matmuls.values()) * (4 if symmetric else 8))

# Blocked DequantizeLinear of opset 21 before Gather and a transposed MatMul that share the table.
codes = rng.integers(0, 16, (50, 64))
table = helper.make_tensor("w", TensorProto.UINT4, (50, 64), codes.flatten().tolist())
zeros = helper.make_tensor("z", TensorProto.UINT4, (50, 2), rng.integers(0, 16, 100).tolist())
tied = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
net (int64[2,3] ids) => (float[2,3,50] y) {
  t = DequantizeLinear <axis = 1, block_size = 32> (w, s, z)
  e = Gather (t, ids)
  u = Transpose <perm = [1,0]> (t)
  y = MatMul (e, u)
}""")
tied.graph.initializer.extend([table, zeros, numpy_helper.from_array(np.abs(f(50, 2)) * 0.1, "s")])
case("a table of uint4 by blocks, read twice", tied, [{"ids": np.array([[0, 49, 7], [3, 3, 21]])}], f32_weights=50 * 64 * 4, bits=4, scales=100 * 8)


def text(name, body, *feeds, **initializers):
    model = parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>\n' + body)
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in initializers.items())
    case(name, model, feeds)


def b(value):
    return np.array(value)


text("If on an input", """net (bool c, float[2,3] x) => (float[2,3] y, int64 n) {
  y, n = If (c) <
    then_branch = t () => (float[2,3] a, int64 k) { a = Relu (x) k = Constant <value = int64 {3}> () },
    else_branch = e () => (float[2,3] a2, int64 k2) { d = Add (x, x) a2 = Neg (d) k2 = Constant <value = int64 {5}> () }
  > }""", {"c": b(True), "x": f(2, 3)}, {"c": b(False), "x": f(2, 3)})
text("If within If, on what is computed", """net (float[4] x) => (float[4] y) {
  sum = ReduceSum <keepdims = 0> (x)
  c = Greater (sum, zero)
  y = If (c) <
    then_branch = t () => (float[4] a) { most = ReduceMax <keepdims = 0> (x) c2 = Greater (most, one)
      a = If (c2) < then_branch = t2 () => (float[4] p) { p = Exp (x) }, else_branch = e2 () => (float[4] q) { q = Sqrt (x) } > },
    else_branch = e () => (float[4] r) { r = Identity (x) }
  > }""", {"x": np.array([0.5, 0.25, 0.125, 0.75], np.float32)}, {"x": np.array([0.5, 2.0, 0.1, 0.1], np.float32)},
     {"x": np.array([-3.0, 2.0, 0.1, 0.1], np.float32)}, zero=np.array(0, np.float32), one=np.array(1, np.float32))
text("Loop that ends when its sum is large", """net (float[3] x, bool go) => (float[3] y, int64 n) {
  none = Constant <value = int64 {0}> ()
  y, n = Loop (most, go, x, none) < body = b (int64 i, bool c, float[3] v, int64 k) => (bool on, float[3] w, int64 k2) {
    w = Add (v, x)
    s = ReduceSum <keepdims = 0> (w)
    on = Less (s, limit)
    k2 = Add (k, one)
  } > }""", *[{"x": np.array(v, np.float32), "go": b(go)} for v, go in (([1, 2, 3], True), ([0.1, 0.2, 0.3], True), ([1, 2, 3], False))],
     most=np.array(7, np.int64), one=np.array(1, np.int64), limit=np.array(20, np.float32))
text("sequences built, changed and joined", """net (float[2,3] x, float[2,3] z) => (float[6,3] y, int64 n, float[2,2,3] p) {
  s = SequenceConstruct (x, z)
  s2 = SequenceInsert (s, x, zero)
  s3 = SequenceErase (s2, minus)
  l = SequenceAt (s3, one)
  s4 = SequenceInsert (s3, z)
  n = SequenceLength (s4)
  y = ConcatFromSequence <axis = 0> (s4)
  e = SequenceEmpty ()
  e2 = SequenceInsert (e, l)
  e3 = SequenceInsert (e2, z)
  p = ConcatFromSequence <axis = 0, new_axis = 1> (e3)
}""", {"x": f(2, 3), "z": f(2, 3)}, zero=np.array(0, np.int64), one=np.array(1, np.int64), minus=np.array(-1, np.int64))
text("a split into a sequence, and a Loop over it", """net (float[5,4] x) => (seq(float[1,4]) parts, float[1,4] y) {
  parts = SplitToSequence <axis = 0> (x)
  n = SequenceLength (parts)
  y = Loop (n, , start) < body = b (int64 i, bool c, float[1,4] v) => (bool c2, float[1,4] w) {
    c2 = Identity (c)
    part = SequenceAt (parts, i)
    sum = Add (v, part)
    w = Relu (sum)
  } > }""", {"x": f(5, 4)}, start=np.zeros((1, 4), np.float32))
text("optionals with a value and without", """net (float[3] x) => (float[3] y, bool has, bool has_not) {
  o = Optional (x)
  y = OptionalGetElement (o)
  has = OptionalHasElement (o)
  e = Optional <type = float[3]> ()
  has_not = OptionalHasElement (e)
}""", {"x": f(3)})
text("If whose other branch would refuse its indices", """net (bool c, float[4] x, int64[2] i, float[2] u) => (float[4] y) {
  y = If (c) <
    then_branch = t () => (float[4] a) { a = ScatterElements (x, i, u) },
    else_branch = e () => (float[4] p) { one = Neg (x) j = Unsqueeze (i, at) k = Sub (j, hundred) p = ScatterND (one, k, u) }
  > }""", *[{"c": b(c), "x": f(4), "i": np.array(i), "u": f(2)} for c, i in ((True, [0, -1]), (False, [100, 103]))],
     at=np.array([1]), hundred=np.array(100))

# Results with as many elements as their data say.
def zeros(*shape):
    return np.where(rng.random(shape) < 0.6, 0, rng.standard_normal(shape)).astype(np.float32)


text("elements that are not zero, and their places", """net (float[3,5] x) => (int64[K,2] at, float[K] y, float sum) {
  nz = NonZero (x)
  at = Transpose (nz)
  v = GatherND (x, at)
  y = Exp (v)
  sum = ReduceSum <keepdims = 0> (y)
}""", {"x": zeros(3, 5)}, {"x": np.zeros((3, 5), np.float32)}, {"x": np.ones((3, 5), np.float32)}, {"x": zeros(3, 5)})
text("rows that a condition keeps, through a product", """net (float[6,4] x, bool[6] keep) => (float[K,3] y, float[J] z) {
  kept = Compress <axis = 0> (x, keep)
  y = MatMul (kept, w)
  positive = Greater (x, zero)
  flat = Reshape (positive, line)
  z = Compress (x, flat)
}""", *[{"x": f(6, 4), "keep": np.array(k, bool)} for k in ([1, 0, 1, 1, 0, 0], [0] * 6, [1] * 6)],
     w=f(4, 3), zero=np.array(0, np.float32), line=np.array([-1], np.int64))
text("how many there are, of which nothing else is used", """net (float[7] x) => (float[K,2] y, int64[K] r, int64 n) {
  nz = NonZero (x)
  shape = Shape (nz)
  k = Gather <axis = 0> (shape, one)
  n = Identity (k)
  rows = Unsqueeze (k, first)
  both = Concat <axis = 0> (rows, two)
  y = ConstantOfShape <value = float[1] {0.5}> (both)
  r = Range (zero, k, one)
}""", {"x": zeros(7)}, {"x": np.zeros(7, np.float32)}, {"x": f(7)},
     one=np.array(1, np.int64), first=np.array([0], np.int64), two=np.array([2], np.int64), zero=np.array(0, np.int64))


def rectangles(n):
    corner, size = rng.random((1, n, 2)) * 4, rng.random((1, n, 2)) * 3 + 0.2
    return np.concatenate([corner, corner + size], 2).astype(np.float32)


text("a detector's tail: boxes that overlap little, and their scores", """net (float[1,12,4] boxes, float[1,2,12] scores) => (int64[K,3] chosen, float[K,4] b, float[K] s) {
  chosen = NonMaxSuppression (boxes, scores, most, iou, least)
  column = Gather <axis = 1> (chosen, two)
  list = Squeeze (boxes, first)
  b = Gather <axis = 0> (list, column)
  s = GatherND (scores, chosen)
}""", *[{"boxes": rectangles(12), "scores": rng.random((1, 2, 12)).astype(np.float32) * scale} for scale in (1, 0.3, 1)],
     most=np.array([4], np.int64), iou=np.array([0.4], np.float32), least=np.array([0.25], np.float32), two=np.array(2, np.int64),
     first=np.array([0], np.int64))
text("numbers that differ, and how often each stands there", """net (int64[9] x) => (int64[K] u, int64[K] first, int64[9] inverse, int64[K] n, float[K] share) {
  u, first, inverse, n = Unique <sorted = 1> (x)
  counts = Cast <to = 1> (n)
  share = Div (counts, nine)
}""", *[{"x": rng.integers(0, m, 9)} for m in (3, 9, 1)], nine=np.array(9, np.float32))
text("those that stay, of those that stayed", """net (float[20] x) => (float[K] y) {
  positive = Greater (x, zero)
  some = Compress <axis = 0> (x, positive)
  small = Less (some, one)
  y0 = Compress <axis = 0> (some, small)
  y = Sqrt (y0)
}""", {"x": f(20)}, {"x": f(20)}, {"x": -np.abs(f(20))}, zero=np.array(0, np.float32), one=np.array(0.7, np.float32))

out = pathlib.Path(__file__).parent / "data" / "small_onnx.json"
out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
print(f"{len(cases)} cases, {out.stat().st_size} bytes in {out}")
