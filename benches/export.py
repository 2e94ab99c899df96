#!/usr/bin/env python3
"""Exported models in ONNX Runtime against nyxc's programs of the same compilation.

  benches/export.py NYXC MODELS SHARED [--device cpu|auto|INDEX] [--formats LIST] [NAME]...      NYXC the binary, MODELS the folder models/, SHARED that of the shared models

Each model is converted (`nyxc convert`), and compiled with `--emit-onnx` under each format and in both styles. ONNX Runtime runs what is written at all
four optimization levels, with accuracy level 1 where it turns DequantizeLinear into MatMulNBits; the program runs by `nyxc run`. A row holds the largest
relative L2 of an output at each level, and the size of the exported file. Bounds: 1e-5 for weights only, 1e-2 where activations are rounded too. Under INT8
activations one code that falls on the other side moves others in every layer: there the row also says how far nyxc's own outputs move when each element of its
inputs does by 1e-5 of itself (the most of three such inputs), which is told and is no bound.
Needs numpy, onnxruntime and pillow.
"""
import os, subprocess, sys, tempfile
import numpy as np, onnxruntime as ort
from PIL import Image

arguments = sys.argv[1:]
device = "cpu"
if "--device" in arguments:
    at = arguments.index("--device")
    device = arguments[at + 1]
    del arguments[at:at + 2]
only = None
if "--formats" in arguments:
    at = arguments.index("--formats")
    only = arguments[at + 1].split(",")
    del arguments[at:at + 2]
nyxc, models, shared = arguments[:3]
wanted = arguments[3:]
LEVELS = [ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
          ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED, ort.GraphOptimizationLevel.ORT_ENABLE_ALL]
FORMATS = [("w8a32", 1e-5), ("w4a32", 1e-5), ("w8a32:c", 1e-5), ("w4a32:g128", 1e-5), ("w4a16", 1e-2), ("w8a8", 1e-2), ("w4a8", 1e-2)]
STYLES = ["qdq", "matmulnbits"]


def photo(height, width, n=1):
    names = ["astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg"]
    images = [Image.open(f"{shared}/data/photos/{name}").convert("RGB").resize((width, height)) for name in names[:n]]
    return np.stack([np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1 for image in images])


def text(height, width, file, at=None):
    """Text, as a part of a page from `at` on or a whole line."""
    image = Image.open(f"{shared}/data/ocr-dev/{file}").convert("RGB")
    image = image.crop((*at, at[0] + width, at[1] + height)) if at else image.resize((width, height))
    return np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1


def speech(n, length):
    rng = np.random.default_rng(3)
    return (rng.standard_normal((n, length)) * np.hanning(length) * 0.1).astype(np.float32)


def saved(name):
    return lambda: dict(np.load(f"{models}/{name}.inputs.npz"))


#: A corner of a page with a line of text.
BOX = (138, 17)
ZEROS = np.zeros((1, 1, 128), np.float32)
MODELS = {
    "fmnist-mlp": (f"{models}/fmnist-mlp.onnx", ["--dim", "batch=8"], saved("fmnist-mlp")),
    "magika": (f"{models}/magika.onnx", [], saved("magika")),
    "ppocr-cls": (f"{models}/ppocr-cls.onnx", ["--dim", "x.0=1", "--dim", "x.2=48", "--dim", "x.3=192"], lambda: {"x": photo(48, 192)}),
    "lite0": (f"{shared}/models/efficientnet-lite0/lite0.onnx", ["--dim", "batch=2"], lambda: {"input": photo(224, 224, 2)}),
    "ddddocr-det": (f"{shared}/models/ddddocr-det/common_det.onnx", [], lambda: {"images": photo(416, 416) * 127.5 + 127.5}),
    "ppocr-det": (f"{shared}/models/ppocr-v4/ch_PP-OCRv4_det_infer.onnx", ["--dim", "x.0=1", "--dim", "x.2=96", "--dim", "x.3=160"],
                  lambda: {"x": text(96, 160, "page_0.jpg", BOX)}),
    "ppocr-rec": (f"{shared}/models/ppocr-v4/ch_PP-OCRv4_rec_infer.onnx", ["--dim", "x.0=1", "--dim", "x.2=48", "--dim", "x.3=160"],
                  lambda: {"x": text(48, 160, "line_000.png")}),
    "silero-op15": (f"{shared}/models/silero/silero_vad_16k_op15.onnx", ["--dim", "batch=2", "--dim", "sequence=576", "--constants", "sr=16000"],
                    lambda: {"input": speech(2, 576), "state": np.zeros((2, 2, 128), np.float32)}),
    "silero-sequence": (f"{shared}/models/silero/silero_vad_16k_sequence.onnx", ["--dim", "sequence_length=7"],
                        lambda: {"input": speech(7, 576), "h": ZEROS, "c": ZEROS}),
}


def call(*command):
    done = subprocess.run([nyxc, *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])


def relative_l2(given, expected):
    given, expected = np.asarray(given, np.float64), np.asarray(expected, np.float64)
    return float(np.linalg.norm(given - expected) / max(np.linalg.norm(expected), 1e-30))


def in_onnxruntime(path, feeds, expected):
    """The largest relative L2 at each level."""
    found = []
    for level in LEVELS:
        options = ort.SessionOptions()
        options.graph_optimization_level, options.log_severity_level, options.intra_op_num_threads = level, 3, 2
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        own = {port.name for port in session.get_inputs()}
        given = session.run(names, {name: array for name, array in feeds.items() if name in own})
        found.append(max(relative_l2(a, expected[name]) for name, a in zip(names, given)))
    return found


def moved(feeds, seed):
    """Floats moved by 1e-5 of themselves."""
    rng = np.random.default_rng(seed)
    return {name: (array * (1 + rng.choice([-1, 1], array.shape) * 1e-5)).astype(np.float32) if array.dtype == np.float32 else array
            for name, array in feeds.items()}


failed = 0
with tempfile.TemporaryDirectory() as folder:
    program, exported, inputs, outputs = (os.path.join(folder, name) for name in ("p.nyx", "p.onnx", "in.npz", "out.npz"))

    def ran(feeds):
        np.savez(inputs, **feeds)
        call("run", program, "--inputs", inputs, "--outputs", outputs, "--device", device)
        return dict(np.load(outputs))

    def row(name, form, bound, expected, feeds):
        global failed
        found = in_onnxruntime(exported, feeds, expected)
        own = 0.0
        if max(found) > 1e-3 and "a8" in form:
            others = [ran(moved(feeds, seed)) for seed in range(3)]
            own = max(relative_l2(other[port], expected[port]) for other in others for port in expected)
        good = max(found) <= bound
        failed += not good
        print(f"{'ok    ' if good else 'FAILED'} {name:16s} {form:24s} " + " ".join(f"{l2:.1e}" for l2 in found) +
              f"  {os.path.getsize(exported)} bytes" + (f", own {own:.1e}" if own else ""), flush=True)

    for name, (path, dims, feeds) in MODELS.items():
        if wanted and name not in wanted:
            continue
        feeds = feeds()
        for form, bound, style in [("convert", 1e-5, None)] + [(form, bound, style) for form, bound in FORMATS for style in STYLES]:
            if only and form not in only:
                continue
            label = form if style is None else f"{form} {style}"
            try:
                policy = "f32" if style is None else form
                emit = ["--emit-onnx", exported, "--emit-style", style] if style else []
                call("compile", path, *dims, "--policy", f"uniform:{policy}", "--target", "lavapipe", "-o", program, *emit)
                if style is None:
                    call("convert", path, *dims, "-o", exported)
                row(name, label, bound, ran(feeds), feeds)
            except Exception as error:
                failed += 1
                print(f"FAILED {name:16s} {label:24s} {str(error).splitlines()[0][:300]}", flush=True)
sys.exit(failed > 0)
