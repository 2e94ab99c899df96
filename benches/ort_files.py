"""Models as ONNX Runtime's own tools write them, compiled and compared: optimized offline at every level, by the transformers optimizer, and quantized
dynamically, statically (QDQ and QOperator, by tensor and by channel, of unsigned and signed codes) and to 4 bits.

    python benches/ort_files.py --nyxc target/release/nyxc --device cpu NAME=MODEL.onnx... > benches/ort_files.txt

NAME decides the inputs: minilm, lite0, det, rec, cls as `../shared/scripts/fetch_models.sh` and `../shared/models` have them. Each file is compiled with
`--policy uniform:f32`. Three relative L2 are given, all against ONNX Runtime without optimizations on the same file and inputs: of nyxc, of ONNX Runtime
with all of its optimizations, and of ONNX Runtime on the file with every f32 of its constants moved to a neighbour. Where activations are quantized the
last one says how far the roundings of f32 carry: a value between two codes that falls to the other one moves what follows by a step.

Needs numpy, onnx, onnxruntime and what its quantizer needs (onnx_ir, sympy).
"""

import argparse
import json
import logging
import pathlib
import re
import subprocess
import tempfile
import time

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import HQQWeightOnlyQuantConfig, MatMulNBitsQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

logging.disable(logging.WARNING)
rng = np.random.default_rng(20261130)


def image(*shape):
    return lambda: {"": rng.standard_normal(shape).astype(np.float32)}


def words():
    length = 24
    mask = np.ones((2, length), np.int64)
    mask[1, 15:] = 0
    return {"input_ids": rng.integers(1000, 30000, (2, length)), "attention_mask": mask, "token_type_ids": np.zeros((2, length), np.int64)}


MODELS = {
    "minilm": (words, ["batch=2", "seq=24"]),
    "lite0": (image(1, 3, 224, 224), ["batch=1"]),
    "det": (image(1, 3, 160, 160), None),
    "rec": (image(1, 3, 48, 160), None),
    "cls": (image(1, 3, 48, 192), None),
}


class Reader(CalibrationDataReader):
    def __init__(self, feeds):
        self.rest = iter(feeds)

    def get_next(self):
        return next(self.rest, None)


def session(path, level):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = level
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


NONE, ALL = ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL


def optimized(level):
    def write(source, target, feeds):
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = level
        options.optimized_model_filepath = str(target)
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    return write


def transformers(source, target, feeds):
    from onnxruntime.transformers import optimizer
    result = optimizer.optimize_model(str(source), "bert", num_heads=12, hidden_size=384, opt_level=0)
    assert result.get_fused_operator_statistics(), "nothing was fused"
    result.save_model_to_file(str(target))


def prepared(source, folder):
    path = folder / "prepared.onnx"
    if not path.exists():
        quant_pre_process(str(source), str(path), skip_symbolic_shape=True)
    return path


def dynamic(weights, per_channel):
    def write(source, target, feeds):
        quantize_dynamic(str(prepared(source, target.parent)), str(target), weight_type=weights, per_channel=per_channel)
    return write


def static(form, activations, weights, per_channel):
    def write(source, target, feeds):
        quantize_static(str(prepared(source, target.parent)), str(target), Reader(feeds), quant_format=form, activation_type=activations, weight_type=weights,
                        per_channel=per_channel)
    return write


def n_bits(bits, hqq=False, symmetric=True):
    def write(source, target, feeds):
        config = {"algo_config": HQQWeightOnlyQuantConfig(block_size=64, bits=bits)} if hqq else {"block_size": 32, "is_symmetric": symmetric, "bits": bits}
        quantizer = MatMulNBitsQuantizer(onnx.load(source), **config)
        quantizer.process()
        onnx.save(quantizer.model.model if hasattr(quantizer.model, "model") else quantizer.model, target)
    return write


def then_optimized(write):
    def both(source, target, feeds):
        first = target.parent / "first.onnx"
        write(source, first, feeds)
        optimized(ort.GraphOptimizationLevel.ORT_ENABLE_ALL)(first, target, feeds)
    return both


U8, I8, QDQ, QOP = QuantType.QUInt8, QuantType.QInt8, QuantFormat.QDQ, QuantFormat.QOperator
LEVELS = ort.GraphOptimizationLevel
WAYS = {
    "original": None,
    "basic": optimized(LEVELS.ORT_ENABLE_BASIC),
    "extended": optimized(LEVELS.ORT_ENABLE_EXTENDED),
    "layout": optimized(LEVELS.ORT_ENABLE_LAYOUT) if hasattr(LEVELS, "ORT_ENABLE_LAYOUT") else None,
    "all": optimized(LEVELS.ORT_ENABLE_ALL),
    "transformers": transformers,
    "dynamic u8": dynamic(U8, False),
    "dynamic i8 by channel": dynamic(I8, True),
    "QDQ u8 i8": static(QDQ, U8, I8, False),
    "QDQ u8 i8 by channel": static(QDQ, U8, I8, True),
    "QDQ i8 i8": static(QDQ, I8, I8, False),
    "QOperator u8 u8": static(QOP, U8, U8, False),
    "QOperator u8 i8 by channel": static(QOP, U8, I8, True),
    "dynamic u8, then all": then_optimized(dynamic(U8, False)),
    "QDQ u8 i8, then all": then_optimized(static(QDQ, U8, I8, False)),
    "QOperator u8 u8, then all": then_optimized(static(QOP, U8, U8, False)),
    "4 bits": n_bits(4),
    "4 bits zero points": n_bits(4, symmetric=False),
    "4 bits HQQ": n_bits(4, hqq=True),
    "8 bits": n_bits(8),
}
# What a way can do something with.
ONLY = {"transformers": {"minilm"}, "4 bits": {"minilm", "rec"}, "4 bits zero points": {"minilm"}, "4 bits HQQ": {"minilm"}, "8 bits": {"minilm"}}


def relative(given, expected):
    given, expected = [np.concatenate([np.ravel(a).astype(np.float64) for a in x]) for x in (given, expected)]
    return np.linalg.norm(given - expected) / max(np.linalg.norm(expected), 1e-30)


def moved(path, feed):
    """The results with each constant of f32 moved by a unit in the last place."""
    model = onnx.load(path)
    for constant in model.graph.initializer:
        # Few numbers may be scales of sizes.
        if constant.data_type == onnx.TensorProto.FLOAT and np.prod(constant.dims) > 4:
            values = onnx.numpy_helper.to_array(constant)
            side = np.where(rng.integers(0, 2, values.shape), np.float32(np.inf), np.float32(-np.inf))
            # Zeros stay, and what is bounded by them.
            values = np.where(values == 0, values, np.nextafter(values, side)).astype(np.float32)
            constant.CopyFrom(onnx.numpy_helper.from_array(values, constant.name))
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = NONE
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)


def compiled(args, path, feed, outputs, dims, folder):
    """The outputs, or why there are none."""
    program, given, results = folder / "a.nyx", folder / "in.npz", folder / "out.npz"
    command = [args.nyxc, "compile", str(path), "-o", str(program), "--policy", "uniform:f32", "--json"]
    run = subprocess.run([*command, *(a for d in dims for a in ("--dim", d))], capture_output=True, text=True)
    if run.returncode:
        return None, json.loads(run.stdout)["error"]["message"] if run.stdout.startswith("{") else run.stderr.strip()
    host = sum(node["where"] == "host" for node in json.loads(run.stdout)["nodes"])
    np.savez(given, **feed)
    run = subprocess.run([args.nyxc, "run", str(program), "--inputs", str(given), "--outputs", str(results), "--device", args.device], capture_output=True, text=True)
    if run.returncode:
        return None, run.stderr.strip()
    with np.load(results) as arrays:
        return [arrays[name] for name in outputs], host


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="+")
    parser.add_argument("--nyxc", default="target/release/nyxc")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="ways whose names this regular expression finds")
    args = parser.parse_args()
    print(f"onnxruntime {ort.__version__}, device {args.device}\n")
    print(f"{'model':8} {'file':28} {'operators of Microsoft':58} {'nyxc':>9} {'ORT all':>9} {'1 ulp':>9} {'host':>5} {'s':>6}")
    n_failed = 0
    for spec in args.models:
        name, source = spec.split("=", 1)
        make, dims = MODELS[name]
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            inputs = session(source, NONE).get_inputs()
            feeds = []
            for _ in range(3):
                feed = make()
                feeds.append({inputs[0].name: feed[""]} if "" in feed else feed)
            feed = feeds[0]
            # Images: the sizes of the input by its own symbols.
            bound = dims or [f"{inputs[0].name}.{axis}={n}" for axis, n in enumerate(feed[inputs[0].name].shape) if not isinstance(inputs[0].shape[axis], int)]
            for way, write in WAYS.items():
                if not re.search(args.only, way) or name not in ONLY.get(way, MODELS) or way != "original" and write is None:
                    continue
                target = folder / "model.onnx"
                started = time.time()
                try:
                    if write is None:
                        target = pathlib.Path(source)
                    else:
                        target.unlink(missing_ok=True)
                        write(source, target, feeds)
                except Exception as error:
                    print(f"{name:8} {way:28} ONNX Runtime writes none: {str(error).splitlines()[0][:120]}", flush=True)
                    continue
                made = {}
                for node in onnx.load(target, load_external_data=False).graph.node:
                    if "microsoft" in node.domain:
                        made[node.op_type] = made.get(node.op_type, 0) + 1
                made = ", ".join(f"{n} {op}" for op, n in sorted(made.items(), key=lambda item: -item[1]))
                try:
                    exact = session(target, NONE)
                except Exception as error:
                    print(f"{name:8} {way:28} ONNX Runtime refuses its own file: {str(error).splitlines()[0][:120]}", flush=True)
                    continue
                outputs = [o.name for o in exact.get_outputs()]
                expected = exact.run(None, feed)
                spread = relative(session(target, ALL).run(None, feed), expected)
                try:
                    noise = relative(moved(target, feed), expected)
                except Exception:
                    # A number from which the graph computes sizes was moved.
                    noise = float("nan")
                given, host = compiled(args, target, feed, outputs, bound, folder)
                if given is None:
                    n_failed += 1
                    print(f"{name:8} {way:28} {made[:58]:58} REFUSED: {host[:300]}", flush=True)
                    continue
                off = relative(given, expected)
                print(f"{name:8} {way:28} {made[:58]:58} {off:9.1e} {spread:9.1e} {noise:9.1e} {host:5} {time.time() - started:6.1f}", flush=True)
    print(f"\n{n_failed} files refused")


if __name__ == "__main__":
    main()
