"""Writes tests/data/ort_files.json: a small BERT and a small network of convolutions as ONNX Runtime's own tools write them: optimized offline at every
level, by its optimizer of transformers, and quantized, each with the results of ONNX Runtime without optimizations.

    python tests/make_ort_files.py     # needs numpy, onnx, onnxruntime and its quantizer's own needs (onnx_ir, sympy)

A case is {name, model, runs, bound, operators}: the model in base64, inputs and outputs as make_op_cases.py puts them, the largest relative L2, and which
operators of Microsoft's domains it has, how many of each. What the optimizer makes of images depends on the processor: the files here have blocks of 16 channels (AVX-512).
"""

import base64
import collections
import json
import logging
import pathlib
import tempfile

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper, parser
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
from onnxruntime.transformers import optimizer

logging.disable(logging.WARNING)
rng = np.random.default_rng(20261130)
NAMES = {"float32": "f32", "int64": "i64", "int32": "i32"}
LEVELS = ort.GraphOptimizationLevel
cases = []


def tensor(a):
    a = np.asarray(a)
    return [NAMES[str(a.dtype)], list(a.shape), base64.b64encode(np.asarray(a, order="C").tobytes()).decode()]


def f(*shape, scale=1.0):
    """Sixteenths, whose bytes compress."""
    return (np.round(rng.standard_normal(shape) * scale * 16) / 16).astype(np.float32)


def case(name, path, feeds, bound):
    data = pathlib.Path(path).read_bytes()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = LEVELS.ORT_DISABLE_ALL
    session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    order = [i.name for i in session.get_inputs()]
    runs = [{"inputs": [tensor(feed[n].astype(np.int32) if "int32" in i.type else feed[n]) for n, i in zip(order, session.get_inputs())],
             "outputs": [tensor(o) for o in session.run(None, {n: feed[n].astype(np.int32) if "int32" in i.type else feed[n] for n, i in zip(order, session.get_inputs())})]}
            for feed in feeds]
    made = collections.Counter(f"{n.domain}.{n.op_type}" for n in onnx.load_from_string(data).graph.node if "microsoft" in n.domain)
    cases.append({"name": name, "model": base64.b64encode(data).decode(), "runs": runs, "bound": bound, "operators": dict(sorted(made.items()))})
    print(f"{name}: {len(data)} bytes, {dict(made)}")


class Reader(CalibrationDataReader):
    def __init__(self, feeds):
        self.rest = iter(feeds)

    def get_next(self):
        return next(self.rest, None)


def optimized(source, target, level):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    options.optimized_model_filepath = target
    ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def bert(batch, length, width=16, heads=2, words=24, layers=2):
    weights, lines = {}, []

    def w(name, *shape, scale=1.0):
        weights[name] = f(*shape, scale=scale)
        return name

    def line(text):
        lines.append(text)

    def norm(x, name):
        line(f"{name} = LayerNormalization <axis = -1, epsilon = 0.00001> ({x}, {w(name + '_g', width)}, {w(name + '_b', width)})")
        return name

    def linear(x, name, n, m):
        line(f"{name}_m = MatMul ({x}, {w(name + '_w', n, m, scale=0.3)})\n{name} = Add ({w(name + '_c', m)}, {name}_m)")
        return name

    line(f"""word = Gather ({w('words', words, width)}, ids)
      segment = Gather ({w('segments', 2, width)}, kinds)
      place = Gather ({w('places', 8, width)}, positions)
      sum0 = Add (word, segment)
      sum1 = Add (sum0, place)""")
    x = norm("sum1", "ln")
    line("""m1 = Unsqueeze (mask, one)
      m2 = Unsqueeze (m1, two)
      m3 = Cast <to = 1> (m2)
      m4 = Sub (unit, m3)
      m5 = Mul (m4, far)""")
    for layer in range(layers):
        p = f"l{layer}_"
        for part in "qkv":
            linear(x, p + part, width, width)
            perm = "[0, 2, 3, 1]" if part == "k" else "[0, 2, 1, 3]"
            line(f"{p}{part}r = Reshape ({p}{part}, apart)\n{p}{part}t = Transpose <perm = {perm}> ({p}{part}r)")
        line(f"""{p}s = MatMul ({p}qt, {p}kt)
          {p}d = Div ({p}s, root)
          {p}a = Add ({p}d, m5)
          {p}p = Softmax <axis = -1> ({p}a)
          {p}o = MatMul ({p}p, {p}vt)
          {p}ot = Transpose <perm = [0, 2, 1, 3]> ({p}o)
          {p}or = Reshape ({p}ot, flat)""")
        linear(p + "or", p + "out", width, width)
        line(f"{p}res = Add ({p}out, {x})")
        x = norm(p + "res", p + "n1")
        y = linear(x, p + "up", width, 2 * width)
        line(f"""{p}g1 = Div ({y}, root2)
          {p}g2 = Erf ({p}g1)
          {p}g3 = Add ({p}g2, unit)
          {p}g4 = Mul ({y}, {p}g3)
          {p}g5 = Mul ({p}g4, half)""")
        linear(p + "g5", p + "down", 2 * width, width)
        line(f"{p}res2 = Add ({p}down, {x})")
        x = norm(p + "res2", p + "n2")
    line(f"y = Identity ({x})")
    body = "\n".join(lines)
    model = parser.parse_model(f'''<ir_version: 8, opset_import: ["" : 17]>
    net (int64[{batch},{length}] ids, int64[{batch},{length}] kinds, int64[{batch},{length}] mask) => (float[{batch},{length},{width}] y) {{
      {body}
    }}''')
    constants = {"positions": np.arange(length)[None], "one": np.array([1]), "two": np.array([2]), "unit": np.float32(1), "far": np.float32(-10000),
                 "apart": np.array([0, 0, heads, width // heads]), "flat": np.array([0, 0, width]), "root": np.float32((width // heads) ** 0.5),
                 "root2": np.float32(2**0.5), "half": np.float32(0.5)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in {**weights, **constants}.items())
    masks = np.ones((batch, length), np.int64)
    masks[-1, length - 2:] = 0
    feeds = [{"ids": rng.integers(0, words, (batch, length)), "kinds": rng.integers(0, 2, (batch, length)), "mask": masks} for _ in range(2)]
    return model, feeds


def images():
    weights = {"w0": f(24, 3, 3, 3, scale=0.3), "b0": f(24), "w1": f(24, 1, 3, 3, scale=0.4), "b1": f(24), "w2": f(40, 24, 1, 1, scale=0.3), "b2": f(40),
               "w3": f(40, 40, 1, 1, scale=0.2), "b3": f(40), "w4": f(40, 8, scale=0.3), "b4": f(8)}
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 13]>
    net (float[1,3,12,12] x) => (float[1,8] y, float[1,40,3,3] z) {
      c0 = Conv <kernel_shape = [3,3], pads = [1,1,1,1], strides = [2,2]> (x, w0, b0)
      r0 = Relu (c0)
      c1 = Conv <kernel_shape = [3,3], pads = [1,1,1,1], group = 24> (r0, w1, b1)
      h1 = HardSigmoid <alpha = 0.2, beta = 0.5> (c1)
      m1 = Mul (c1, h1)
      a1 = Add (m1, r0)
      p1 = MaxPool <kernel_shape = [2,2], strides = [2,2]> (a1)
      c2 = Conv <kernel_shape = [1,1]> (p1, w2, b2)
      r2 = LeakyRelu <alpha = 0.1> (c2)
      c3 = Conv <kernel_shape = [1,1]> (r2, w3, b3)
      z = Add (c3, r2)
      s3 = Sigmoid (z)
      g = GlobalAveragePool (s3)
      flat = Flatten (g)
      gemm = Gemm (flat, w4, b4)
      y = Tanh (gemm)
    }""")
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in weights.items())
    return model, [{"x": f(1, 3, 12, 12)} for _ in range(4)]


U8, I8, QDQ, QOP = QuantType.QUInt8, QuantType.QInt8, QuantFormat.QDQ, QuantFormat.QOperator
with tempfile.TemporaryDirectory() as folder:
    source, target, fused = f"{folder}/a.onnx", f"{folder}/b.onnx", f"{folder}/c.onnx"
    model, feeds = bert(2, 5)
    onnx.save(model, source)
    optimized(source, target, LEVELS.ORT_ENABLE_EXTENDED)
    case("bert, extended", target, feeds, 1e-5)
    result = optimizer.optimize_model(source, "bert", num_heads=2, hidden_size=16, opt_level=0)
    result.save_model_to_file(fused)
    case("bert, by the optimizer of transformers", fused, feeds, 1e-5)
    quantize_dynamic(fused, target, weight_type=I8, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT})
    case("bert, fused and quantized dynamically", target, feeds, 2e-2)
    optimized(source, fused, LEVELS.ORT_ENABLE_BASIC)
    quantize_dynamic(fused, target, weight_type=U8, per_channel=True)
    case("bert, quantized dynamically by channel", target, feeds, 2e-2)
    optimized(target, fused, LEVELS.ORT_ENABLE_ALL)
    case("bert, quantized dynamically by channel, then optimized", fused, feeds, 2e-2)
    quantizer = MatMulNBitsQuantizer(onnx.load(source), block_size=16, is_symmetric=False, bits=4)
    quantizer.process()
    onnx.save(quantizer.model.model, target)
    case("bert, 4 bits", target, feeds, 1e-5)

    model, feeds = images()
    onnx.save(model, source)
    for level in ("BASIC", "EXTENDED", "ALL"):
        optimized(source, target, getattr(LEVELS, f"ORT_ENABLE_{level}"))
        case(f"images, {level.lower()}", target, feeds[:1], 1e-5)
    # A value between two codes that falls to the other one moves what follows by a step.
    for name, form, activations, weights, per_channel in (("QDQ u8 i8", QDQ, U8, I8, False), ("QDQ i8 by channel", QDQ, I8, I8, True), ("QOperator u8", QOP, U8, U8, False),
                                                          ("QOperator u8 i8 by channel", QOP, U8, I8, True)):
        quantize_static(source, target, Reader(feeds), quant_format=form, activation_type=activations, weight_type=weights, per_channel=per_channel)
        case(f"images, {name}", target, feeds[:1], 2e-2)
        if name == "QDQ u8 i8":
            optimized(target, fused, LEVELS.ORT_ENABLE_ALL)
            case(f"images, {name}, then optimized", fused, feeds[:1], 2e-2)
    quantize_dynamic(source, target, weight_type=U8)
    case("images, quantized dynamically", target, feeds[:1], 2e-2)

out = pathlib.Path(__file__).parent / "data" / "ort_files.json"
out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n")
print(f"{len(cases)} cases, {out.stat().st_size} bytes in {out}")
